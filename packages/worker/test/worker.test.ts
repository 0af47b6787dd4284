import { createPublicKey, verify } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { challengeBytes, submissionBytes } from "@muster/protocol";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { createLog, type Executor, type Log, runWorker, type WorkerOptions } from "../src/index.ts";
import { type MiniCoordinator, Refusal, run, startCoordinator } from "./coordinator.ts";

let coordinator: MiniCoordinator;
let stateDir: string;
beforeEach(async () => {
  coordinator = await startCoordinator();
  stateDir = await mkdtemp(join(tmpdir(), "muster-worker-"));
});
afterEach(async () => {
  await coordinator[Symbol.asyncDispose]();
  await rm(stateDir, { recursive: true, force: true });
});

const payload = { manifest: "0".repeat(64), blind: "1".repeat(64) };
const bytes = new TextEncoder().encode("a pack");
/** Measures nothing: these tests are about the loop. */
const instant: Executor<"VERIFY"> = {
  batch: 16,
  execute: async (_ctx, assignments) => assignments.map(() => ({ kind: "pack", pack: "MEASUREMENT", bytes })),
};
/** Works until it is told to stop. */
const endless: Executor<"VERIFY"> = {
  batch: 16,
  execute: (_ctx, [first]) =>
    new Promise((_, reject) => first?.signal.addEventListener("abort", () => reject(new Error("stopped")))),
};

const work = (options: Partial<WorkerOptions> = {}) =>
  runWorker({
    url: coordinator.url,
    stateDir,
    roles: ["VALIDATOR"],
    providers: ["cpu"],
    name: "test",
    log: createLog({ level: "silent" }),
    executors: { VERIFY: instant },
    ...options,
  });

const edKey = (hex: unknown) =>
  createPublicKey({
    key: { kty: "OKP", crv: "Ed25519", x: Buffer.from(String(hex), "hex").toString("base64url") },
    format: "jwk",
  });

test("a node registers with its key, takes a batch of tasks and submits each, signed", async () => {
  const tasks = Array.from({ length: 5 }, () => coordinator.add("VERIFY", payload));
  const summary = await work({ maxTasks: 5 });
  expect(summary).toMatchObject({ submitted: 5, refused: 0, lost: 0, failed: 0 });
  expect(summary.node).toMatch(/^node_/);
  const [registration] = coordinator.registrations;
  const publicKey = String(registration?.publicKey);
  const proof = challengeBytes({ publicKey, challenge: "abc", audience: coordinator.url });
  expect(verify(null, proof, edKey(publicKey), Buffer.from(String(registration?.signature), "hex"))).toBe(
    true,
  );
  expect(registration).toMatchObject({ protocol: 1, name: "test", hardware: { providers: ["cpu"] } });
  for (const task of tasks) {
    const { pack, signature, attempt } = coordinator.result(task);
    const signed = submissionBytes({ run, task, attempt: Number(attempt), pack: String(pack) });
    expect(verify(null, signed, edKey(publicKey), Buffer.from(String(signature), "hex"))).toBe(true);
    expect(coordinator.blobs.get(String(pack))).toEqual(bytes);
    expect(coordinator.stored).toContainEqual({ sha256: pack, kind: "MEASUREMENT", task });
  }
});

test("a role that was not granted does not stop the others, and is asked for again", async () => {
  const tasks = [coordinator.add("TRAIN", {}), coordinator.add("VERIFY", payload)];
  let asked = 0;
  coordinator.before = (name, { kinds }) => {
    if (name !== "ClaimTasks" || !(kinds as string[]).includes("TRAIN")) return;
    if (++asked < 3) throw new Refusal("ROLE_NOT_GRANTED");
  };
  const train: Executor<"TRAIN"> = {
    batch: 1,
    execute: async () => [{ kind: "pack", pack: "SAMPLES", bytes }],
  };
  coordinator.open[0] = {
    ...coordinator.open[0]!,
    payload: {
      kind: "TRAIN",
      step: 1,
      totalSteps: 1,
      version: 1,
      manifest: payload.manifest,
      state: payload.blind,
      batch: payload.blind,
      reference: null,
      training: {},
      temperature: 1,
    },
  };
  const summary = await work({
    roles: ["VALIDATOR", "TRAINER"],
    executors: { VERIFY: instant, TRAIN: train },
    maxTasks: 2,
  });
  expect(summary).toMatchObject({ submitted: 2, failed: 0 });
  expect(coordinator.submissions.map(({ input }) => input.task)).toEqual([tasks[1], tasks[0]]);
});

test("a lost lease stops the work and nothing is submitted or handed back", async () => {
  const lost = coordinator.add("VERIFY", payload, { renewAfterSeconds: 1 });
  coordinator.before = (name) => {
    if (name === "RenewLease") throw new Refusal("LEASE_LOST");
  };
  let executed = 0;
  const stop = new AbortController();
  const summary = await work({
    signal: stop.signal,
    executors: {
      VERIFY: {
        batch: 16,
        async execute(ctx, assignments) {
          executed++;
          try {
            return await endless.execute(ctx, assignments);
          } finally {
            stop.abort();
          }
        },
      },
    },
  });
  expect(executed).toBe(1);
  expect(summary).toMatchObject({ submitted: 0, lost: 1, failed: 0 });
  expect(coordinator.released).toEqual([]);
  expect(() => coordinator.result(lost)).toThrow();
});

test("leases are renewed while the work goes on", async () => {
  coordinator.add("VERIFY", payload, { renewAfterSeconds: 1 });
  let renewals = 0;
  let done = () => {};
  coordinator.before = (name) => {
    if (name === "RenewLease" && ++renewals === 2) done();
  };
  const slow: Executor<"VERIFY"> = {
    batch: 1,
    execute: () =>
      new Promise((resolve) => {
        done = () => resolve([{ kind: "pack", pack: "MEASUREMENT", bytes }]);
      }),
  };
  expect(await work({ executors: { VERIFY: slow }, maxTasks: 1 })).toMatchObject({ submitted: 1 });
  expect(renewals).toBe(2);
});

test("a draining node finishes its task and says that it drains", async () => {
  const task = coordinator.add("VERIFY", payload);
  const stop = new AbortController();
  const summary = await work({
    signal: stop.signal,
    executors: {
      VERIFY: {
        batch: 1,
        async execute(ctx, assignments) {
          stop.abort();
          coordinator.add("VERIFY", payload);
          return instant.execute(ctx, assignments);
        },
      },
    },
  });
  expect(summary).toMatchObject({ submitted: 1, failed: 0 });
  expect(coordinator.submissions.map(({ input }) => input.task)).toEqual([task]);
  expect(coordinator.open).toHaveLength(1);
  expect(coordinator.heartbeats.at(-1)).toMatchObject({ draining: true });
});

test("a draining node hands back what it cannot finish, and is gone soon after", async () => {
  const task = coordinator.add("VERIFY", payload);
  const stop = new AbortController();
  const began = performance.now();
  const summary = await work({
    signal: stop.signal,
    drainSeconds: 0.3,
    executors: {
      VERIFY: {
        batch: 1,
        execute: (ctx, assignments) => {
          stop.abort();
          return endless.execute(ctx, assignments);
        },
      },
    },
  });
  expect(performance.now() - began).toBeLessThan(4_000);
  expect(summary).toMatchObject({ submitted: 0, failed: 1 });
  expect(coordinator.released).toEqual([{ task, reason: "the node stops" }]);
});

test("an idle node drains at once", async () => {
  const stop = new AbortController();
  coordinator.before = (name) => {
    if (name === "ClaimTasks") setTimeout(() => stop.abort(), 50);
  };
  const began = performance.now();
  expect(await work({ signal: stop.signal })).toMatchObject({ submitted: 0 });
  expect(performance.now() - began).toBeLessThan(4_000);
  expect(coordinator.heartbeats.at(-1)).toMatchObject({ draining: true });
});

test("a node stopped before the coordinator answered returns without an error", async () => {
  const stop = new AbortController();
  setTimeout(() => stop.abort(), 100);
  expect(await work({ url: "http://127.0.0.1:1", signal: stop.signal })).toEqual({
    node: undefined,
    submitted: 0,
    refused: 0,
    lost: 0,
    failed: 0,
  });
});

test("a session the coordinator forgot is opened anew and the work goes on", async () => {
  const first = coordinator.add("VERIFY", payload);
  let forgot = false;
  coordinator.before = (name) => {
    if (name !== "SubmitMeasurements" || forgot) return;
    forgot = true;
    coordinator.tokens.clear();
    throw new Refusal("UNAUTHENTICATED");
  };
  expect(await work({ maxTasks: 1 })).toMatchObject({ submitted: 1 });
  expect(coordinator.registrations).toHaveLength(2);
  expect(coordinator.registrations[0]?.publicKey).toBe(coordinator.registrations[1]?.publicKey);
  expect(coordinator.result(first)).toBeDefined();
});

test("software that is too old stops with the coordinator's message", async () => {
  coordinator.before = (name) => {
    if (name === "RegisterNode") throw new Refusal("UPGRADE_REQUIRED");
  };
  await expect(work()).rejects.toMatchObject({ code: "UPGRADE_REQUIRED" });
  coordinator.before = (name) => {
    if (name === "ClaimTasks") throw new Refusal("UPGRADE_REQUIRED");
  };
  await expect(work()).rejects.toMatchObject({ code: "UPGRADE_REQUIRED" });
});

test("a submission is repeated until there is an answer", async () => {
  coordinator.add("VERIFY", payload);
  let tries = 0;
  coordinator.before = (name) => {
    if (name === "SubmitMeasurements" && ++tries < 3) throw new Refusal("INTERNAL", { retryable: true });
  };
  expect(await work({ maxTasks: 1 })).toMatchObject({ submitted: 1, failed: 0 });
  expect(tries).toBe(3);
});

/** A log that keeps what it is told. */
function keptLog() {
  const lines: { level: string; message: string; fields: object }[] = [];
  const at =
    (level: string): Log["info"] =>
    (fields: object | string, message?: string) =>
      void lines.push(
        typeof fields === "string"
          ? { level, message: fields, fields: {} }
          : { level, message: message ?? "", fields },
      );
  const log: Log = {
    debug: at("debug"),
    info: at("info"),
    warn: at("warn"),
    error: at("error"),
    child: () => log,
  };
  return { log, said: (part: RegExp) => lines.filter(({ message }) => part.test(message)), lines };
}

test("an outage is told once when it begins and once when it is over, and costs no task", async () => {
  coordinator.add("VERIFY", payload, { renewAfterSeconds: 1 });
  const { log, said, lines } = keptLog();
  const summary = await work({
    log,
    maxTasks: 1,
    executors: {
      VERIFY: {
        batch: 1,
        execute(ctx, assignments) {
          coordinator.away = true;
          void vi
            .waitUntil(() => said(/coordinator is away/).length > 0, { timeout: 30_000 })
            .finally(() => {
              coordinator.away = false;
            });
          return instant.execute(ctx, assignments);
        },
      },
    },
  });
  expect(summary).toMatchObject({ submitted: 1, failed: 0, lost: 0 });
  expect(said(/coordinator is away/)).toEqual([
    expect.objectContaining({ level: "warn", fields: expect.objectContaining({ url: coordinator.url }) }),
  ]);
  expect(said(/coordinator is back/)).toEqual([expect.objectContaining({ level: "info" })]);
  expect(lines.filter(({ level }) => level === "warn" || level === "error")).toHaveLength(1);
});

test("a limited node waits as long as it is told, and tells so once", async () => {
  coordinator.add("VERIFY", payload);
  const asked: number[] = [];
  coordinator.before = (name) => {
    if (name !== "SubmitMeasurements") return;
    asked.push(performance.now());
    if (asked.length === 1) throw new Refusal("RATE_LIMITED", { retryable: true, retryAfterSeconds: 1 });
  };
  const { log, said } = keptLog();
  expect(await work({ log, maxTasks: 1 })).toMatchObject({ submitted: 1 });
  expect((asked[1] ?? 0) - (asked[0] ?? 0)).toBeGreaterThanOrEqual(990);
  expect(said(/limits this node/)).toEqual([
    { level: "warn", message: expect.any(String), fields: { url: coordinator.url, retryAfterSeconds: 1 } },
  ]);
  expect(said(/takes requests again/)).toHaveLength(1);
});

test("whoever started it hears the node's id before its first task", async () => {
  coordinator.add("VERIFY", payload);
  const heard: string[] = [];
  const { node } = await work({
    maxTasks: 1,
    onRegistered: (id) => {
      expect(coordinator.open).toHaveLength(1);
      heard.push(id);
    },
  });
  expect(heard).toEqual([node]);
});

test("a payload that does not parse is handed back with the reason", async () => {
  const task = coordinator.add("VERIFY", { manifest: "short", blind: payload.blind });
  const good = coordinator.add("VERIFY", payload);
  expect(await work({ maxTasks: 1 })).toMatchObject({ submitted: 1, failed: 1 });
  expect(coordinator.released).toEqual([{ task, reason: expect.stringContaining("manifest") }]);
  expect(coordinator.result(good)).toBeDefined();
});

test("a checkpoint that is not the one named is not used", async () => {
  const named = "0".repeat(64);
  coordinator.blobs.set(named, new TextEncoder().encode("{}"));
  const task = coordinator.add("GENERATE", {
    seed: "0".repeat(64),
    manifest: named,
    prompts: [[1]],
    groupSize: 2,
    maxOutputTokens: 4,
    sampling: {},
    form: "f32",
    topK: 128,
  });
  const stop = new AbortController();
  const working = work({ roles: ["WORKER"], executors: {}, signal: stop.signal });
  await expect.poll(() => coordinator.released, { timeout: 5_000 }).toHaveLength(1);
  stop.abort();
  expect(await working).toMatchObject({ submitted: 0, failed: 1 });
  expect(coordinator.released[0]).toEqual({ task, reason: expect.stringMatching(/blob .* arrived as/i) });
});
