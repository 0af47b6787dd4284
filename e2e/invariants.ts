// Does everything that must hold in the database hold? `npm run invariants [-- --state-dir <folder>]` asks the installation that runs
// there. `npm run invariants -- --kill` starts one of its own, kills each of its parts in the middle of a run, waits until the run has
// gone on by itself each time, and asks then. The last line of standard output is one JSON object.
import { spawn } from "node:child_process";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { openDatabase } from "@muster/db";
import { demoRunSpec, fromTypeId, type RunSpec } from "@muster/protocol";
import { createRun, type Installation, repository, startInstallation, until } from "./installation.ts";
import { family, killHard } from "./processes.ts";

const usage = `npm run invariants [-- options]      asks the installation that runs in .muster, as \`muster invariants\` does
  --state-dir <folder>  another installation
  --kill                start one of its own, kill each of its parts in the middle of a run, and ask then
  --keep                leave that one's folder
  --json                nothing but JSON
`;
const values = read();

function read() {
  try {
    const { values } = parseArgs({
      options: {
        kill: { type: "boolean", default: false },
        json: { type: "boolean", default: false },
        keep: { type: "boolean", default: false },
        help: { type: "boolean", default: false },
        "state-dir": { type: "string" },
      },
    });
    if (!values.help) return values;
    process.stdout.write(usage);
    process.exit(0);
  } catch (error) {
    process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n\n${usage}`);
    process.exit(2);
  }
}

const say = (text: string) => {
  if (!values.json) process.stderr.write(`${text}\n`);
};

/** What is killed, one after the other, twice. */
const parts = ["worker-1", "trainer", "validator", "api", "postgres"];

type Kill = { what: string; atStep: number; recoveredSeconds: number };

process.exit(values.kill ? await afterKills() : await ofRunning());

/** Checks the installation in `--state-dir`, by the command that people use. */
async function ofRunning(): Promise<number> {
  const args = ["invariants"];
  if (values["state-dir"] !== undefined) args.push("--state-dir", values["state-dir"]);
  if (values.json) args.push("--json");
  const { status, output } = await muster(args);
  process.stdout.write(output);
  return status;
}

async function afterKills(): Promise<number> {
  const started = performance.now();
  const installation = await startInstallation({
    name: "invariants",
    keep: values.keep,
    // What is lost with a node must come back within the run, not after it.
    env: { MUSTER_SWEEP_DELAY_SECONDS: "5" },
  });
  const stop = () => void installation.stop().finally(() => process.exit(130));
  process.once("SIGINT", stop);
  process.once("SIGTERM", stop);
  try {
    const spec = killSpec();
    const { id: run } = await createRun(installation, spec);
    await reach(installation, run, 1, 90);
    const kills: Kill[] = [];
    for (const what of [...parts, ...parts]) {
      // Anywhere in a step, not always at its beginning.
      await sleep(Math.random() * 1_000);
      const atStep = await stepOf(installation, run);
      const killed = performance.now();
      await kill(installation, what);
      await reach(installation, run, atStep + 1, 60);
      const recoveredSeconds = Number(((performance.now() - killed) / 1000).toFixed(1));
      kills.push({ what, atStep, recoveredSeconds });
      say(`Killed ${what} at step ${atStep}: the next step came after ${recoveredSeconds} s.`);
    }
    await until("end of the run", 90, async () => {
      const { state, stateReason } = await installation.client.runs.get({ id: run });
      if (state === "FAILED" || state === "PAUSED") say(`The run is ${state}: ${stateReason}`);
      return state === "COMPLETED" ? true : undefined;
    });
    const lost = await lostOrDouble(installation, run, spec);
    const { status, output } = await muster(["invariants", "--state-dir", installation.stateDir, "--json"]);
    const report: { checked: number; violations: number } = JSON.parse(
      output.trim().split("\n").at(-1) ?? "{}",
    );
    for (const problem of lost) process.stderr.write(`${problem}\n`);
    if (status !== 0) process.stderr.write(output);
    const { checked, violations } = report;
    const seconds = Math.round((performance.now() - started) / 1000);
    const summary = {
      checked,
      violations,
      steps: spec.limits.steps,
      lostOrDouble: lost.length,
      kills,
      seconds,
    };
    process.stdout.write(`${JSON.stringify(summary)}\n`);
    return status === 0 && lost.length === 0 ? 0 : 1;
  } finally {
    if (values.keep) say(`Kept in ${installation.stateDir}`);
    await installation.stop();
  }
}

/** Small steps and short leases: much happens in little time, and what a dead node held is free again soon. */
function killSpec(): RunSpec {
  const demo = demoRunSpec({ seed: 1, steps: 32, name: "Killed again and again" });
  return {
    ...demo,
    generation: { ...demo.generation, groupsPerTask: 4 },
    batch: { ...demo.batch, signalGroups: 16, settledGroups: 16, minSignalGroups: 1 },
    // Slow learning, so that no batch lacks signal: all of the steps are wanted.
    training: { ...demo.training, learningRate: 1e-4 },
    evaluation: { ...demo.evaluation, examples: 32, versions: [0, 32] },
    leaseSeconds: 5,
  };
}

async function kill(installation: Installation, what: string): Promise<void> {
  if (what === "postgres") {
    const pids = await family(await installation.postgres());
    for (const pid of pids) killHard(pid);
    return;
  }
  const child = (await installation.children()).find(({ name }) => name === what);
  if (child === undefined) throw new Error(`There is no process "${what}" to kill.`);
  killHard(child.pid);
}

async function stepOf(installation: Installation, run: string): Promise<number> {
  return until(
    "answer of the coordinator",
    60,
    async () => (await installation.client.runs.get({ id: run })).step,
  );
}

async function reach(installation: Installation, run: string, step: number, seconds: number): Promise<void> {
  const reached = await until(`step ${step}`, seconds, async () => {
    const found = await installation.client.runs.get({ id: run });
    return found.step >= step || found.state !== "RUNNING" ? found : undefined;
  });
  if (reached.step < step)
    throw new Error(
      `The run is ${reached.state} (${reached.stateReason}) at step ${reached.step}, before ${step}.`,
    );
}

/** What a run that went through all this must show: every step once, each from a batch of its own, none skipped. */
async function lostOrDouble(installation: Installation, run: string, spec: RunSpec): Promise<string[]> {
  await using database = openDatabase(installation.databaseUrl, { max: 1 });
  const runId = fromTypeId(run, "run");
  const found: string[] = [];
  const steps = await database.prisma.trainStep.findMany({
    where: { runId, step: { gt: 0 } },
    orderBy: { step: "asc" },
  });
  const numbers = steps.map(({ step }) => step).join(" ");
  const wanted = Array.from({ length: spec.limits.steps }, (_, i) => i + 1).join(" ");
  if (numbers !== wanted)
    found.push(`Steps are ${numbers}; every one of 1 to ${spec.limits.steps} was to happen once.`);
  if (new Set(steps.map(({ batchId }) => batchId)).size !== steps.length)
    found.push("Two steps learned from one batch.");
  const versions = await database.prisma.checkpoint.count({ where: { runId } });
  if (versions !== spec.limits.steps + 1)
    found.push(`${versions} policy versions of ${spec.limits.steps} steps and a base.`);
  const paidTwice = await database.pool.query<{ groupId: string }>(
    `SELECT "groupId" FROM "LedgerTransaction" WHERE "runId" = $1 AND kind = 'HOLD' GROUP BY 1 HAVING count(*) > 1`,
    [runId],
  );
  for (const { groupId } of paidTwice.rows) found.push(`Group ${groupId} was paid twice.`);
  return found;
}

function muster(args: string[]): Promise<{ status: number; output: string }> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [join(repository, "packages/cli/src/main.ts"), ...args], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    let output = "";
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      output += text;
    });
    child.once("error", reject);
    child.once("close", (status) => resolve({ status: status ?? 1, output }));
  });
}
