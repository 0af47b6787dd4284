import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { goLive } from "../simulate/live.ts";
import { readOptions } from "../simulate/options.ts";
import { smallScale } from "../simulate/plan.ts";
import { simulate } from "../simulate/simulate.ts";
import { startTestServer, type TestServer } from "./testkit.ts";

test("what is simulated holds every invariant, and goes on holding them live", {
  timeout: 120_000,
}, async () => {
  await using server = await startTestServer({ loops: [] });
  const made = await simulate(server.services, { seed: "1", scale: smallScale });
  expect(made.points).toBeGreaterThanOrEqual(0.95 * smallScale.points);
  expect(made.present.groups).toBeGreaterThanOrEqual(smallScale.groups);
  const runs = await server.prisma.run.groupBy({ by: ["state"] });
  expect(runs.map(({ state }) => state).sort()).toEqual([
    "CANCELLED",
    "COMPLETED",
    "DRAFT",
    "FAILED",
    "PAUSED",
    "RUNNING",
  ]);
  // Judged, not written: each by a validator that measured the group, with the numbers of packages/verification.
  const flagship = made.pasts.find(({ plan }) => plan.flagship)?.plan.id ?? "";
  const measured = await server.prisma.verification.count({
    where: { runId: flagship, signature: { not: null } },
  });
  expect(measured).toBeGreaterThan(0);
  expect(await violations(server)).toBe(0);

  const stream = `run:${flagship}`;
  const before = await server.prisma.eventStream.findUniqueOrThrow({ where: { stream } });
  const report = await goLive(server.ctx(), {
    runId: flagship,
    seed: "1",
    rate: 200,
    seconds: 2,
    signal: new AbortController().signal,
    say: () => {},
  });
  const after = await server.prisma.eventStream.findUniqueOrThrow({ where: { stream } });
  expect(report.events).toBeGreaterThan(0);
  expect(Number(after.head - before.head)).toBeGreaterThanOrEqual(report.events);
  expect(await violations(server)).toBe(0);
});

test("the same seed and moment give the same past, another seed another", { timeout: 120_000 }, async () => {
  const now = Date.now();
  const pastOf = async (seed: string) => {
    await using server = await startTestServer({ loops: [] });
    await simulate(server.services, { seed, now, scale: { ...smallScale, groups: 0 } });
    return await digest(server);
  };
  const first = await pastOf("7");
  expect(await pastOf("7")).toEqual(first);
  expect((await pastOf("8")).Rollout).not.toBe(first.Rollout);
});

test("numbers are written as people write them", () => {
  const options = readOptions([
    "--events",
    "3000/s",
    "--workers",
    "10k",
    "--points",
    "10M",
    "--duration",
    "60s",
  ]);
  expect(options).toMatchObject({ rate: 3000, seconds: 60, scale: { workers: 10_000, points: 10_000_000 } });
  expect(() => readOptions(["--workers", "many"])).toThrow(/--workers/);
});

/** Hash of the rows of each table; times of the last look and secrets are not of the past. */
async function digest({ database }: TestServer): Promise<Record<string, string>> {
  const tables = [
    "Node",
    "Run",
    "RunRevision",
    "Task",
    "Attempt",
    "Group",
    "Rollout",
    "Verification",
    "Case",
    "NodeOutcome",
    "NodeTrust",
    "Batch",
    "BatchGroup",
    "TrainStep",
    "Checkpoint",
    "Evaluation",
    "LedgerTransaction",
    "LedgerEntry",
    "Account",
    "CheckpointReceipt",
    "Event",
    "AuditEntry",
  ];
  const digests: Record<string, string> = {};
  for (const table of tables) {
    const { rows } = await database.pool.query<{ line: string }>(
      `SELECT (to_jsonb(t) - 'lastSeenAt' - 'updatedAt')::text AS line FROM "${table}" t ORDER BY 1`,
    );
    digests[table] = createHash("sha256")
      .update(rows.map(({ line }) => line).join("\n"))
      .digest("hex");
  }
  return digests;
}

/** Asks by the command that people use. */
function violations({ database, config }: TestServer): Promise<number> {
  const muster = fileURLToPath(new URL("../../../packages/cli/src/main.ts", import.meta.url));
  return new Promise((resolve, reject) => {
    const args = [
      muster,
      "invariants",
      "--database-url",
      database.url,
      "--state-dir",
      config.stateDir,
      "--json",
    ];
    const child = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "inherit"] });
    let output = "";
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      output += text;
    });
    child.once("error", reject);
    child.once("close", () => {
      const report: { violations: number; details: { violations: number }[] } = JSON.parse(
        output.trim().split("\n").at(-1) ?? "{}",
      );
      if (report.violations > 0) console.error(report.details.filter((detail) => detail.violations > 0));
      resolve(report.violations);
    });
  });
}
