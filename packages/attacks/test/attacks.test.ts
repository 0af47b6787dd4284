import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { encodeCheckpoint, initialParameters, type ModelConfig } from "@muster/policy/graph";
import {
  decodeRolloutPack,
  demoSeed,
  encodeBlindPack,
  environment,
  exampleSeed,
  groupOf,
  hashHex,
  type Manifest,
  PackError,
  parseRunSpec,
  type RolloutPack,
  rolloutKey,
  toTypeId,
} from "@muster/protocol";
import { createClient } from "@muster/sdk";
import { checkForm, verifyGroup } from "@muster/verification";
import {
  type Assignment,
  createLog,
  type ExecutorContext,
  executors,
  type LocalCheckpoint,
  type Outcome,
  openEngines,
} from "@muster/worker";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type Attack, attacks, openLedger } from "../src/index.ts";

// Each attack that is one worker is let loose on one task, and its pack judged by the checks alone: what `npm run attacks` does with a
// whole installation, without one.

const parsed = parseRunSpec({
  name: "Range",
  environment: "muster/reverse-text@1",
  seed: demoSeed(1),
  generation: { groupSize: 8 },
});
if (!parsed.ok) throw new Error("the spec is wrong");
const { spec } = parsed;
const env = environment(spec.environment);
const { initSeed: _, ...shape } = spec.model;
const model: ModelConfig = { ...shape, vocabularySize: env.tokenizer.vocabularySize, eos: env.tokenizer.eos };
// fixed, so that the same rollouts are drawn every time
const run = toTypeId("run", "01890a5d-ac96-774b-bcce-b302099a8057");
const task = toTypeId("task", "01890a5d-ac96-774b-bcce-b302099a8058");
const { groupSize } = spec.generation;

const base = initialParameters(model, [1, 2]);
/** Each version is one small training step away from the one before. */
const weightsOf = (version: number) => base.map((value, i) => value + version * 1e-4 * ((i % 7) - 3));
const manifests = [0, 1, 2].map((version) => hashHex(`manifest of version ${version}`));

const checkpointOf = (version: number): LocalCheckpoint => {
  const flat = weightsOf(version);
  const files = encodeCheckpoint(model, flat, env.tokenizer);
  return {
    manifestHash: manifests[version] ?? "",
    // executors read only these two fields of it
    manifest: { run, version } as Manifest,
    model,
    config: new Uint8Array(files.config),
    tokenizer: new Uint8Array(files.tokenizer),
    weightsFile: async () => new Uint8Array(files.model),
    weights: async () => flat,
  };
};

/** What a node may ask of a run: its environment and its versions. */
const answers: Record<string, object> = {
  AttackEnvironment: { id: run, environment: { slug: spec.environment } },
  RunCheckpoints: {
    id: run,
    checkpoints: {
      edges: [2, 1, 0].map((version) => ({
        node: {
          id: `${version}`,
          version,
          parentVersion: null,
          manifestHash: manifests[version],
          size: "1",
          state: "AVAILABLE",
          createdAt: "",
          availableAt: "",
        },
      })),
      pageInfo: { hasNextPage: false, endCursor: null },
    },
  },
};

let ctx: ExecutorContext & AsyncDisposable;
beforeAll(() => {
  const engines = openEngines({ threads: 1, providers: ["cpu"] });
  const client = createClient({
    url: "http://127.0.0.1:1",
    fetch: async (_url, init) => {
      const { operationName }: { operationName: string } = JSON.parse(String(init?.body));
      return Response.json({ data: { run: answers[operationName] ?? null } });
    },
  });
  ctx = {
    client,
    identity: { publicKey: "", sign: () => new Uint8Array(64), signHex: () => "" },
    checkpoints: {
      open: async ({ manifest }) => checkpointOf(manifests.indexOf(manifest)),
      progress: () => undefined,
    },
    engines,
    log: createLog({ level: "silent" }),
    [Symbol.asyncDispose]: () => engines[Symbol.asyncDispose](),
  };
});
afterAll(() => ctx[Symbol.asyncDispose]());

const prompts = [0, 1, 2].map((g) =>
  env.tokenizer.encode(env.example(exampleSeed(spec.seed, task, g), "train").prompt),
);

function assignmentOf(version: number): Assignment<"GENERATE"> {
  const manifest = manifests[version] ?? "";
  const { form, topK } = spec.verification;
  const payload = {
    kind: "GENERATE" as const,
    seed: spec.seed,
    manifest,
    prompts,
    groupSize,
    maxOutputTokens: spec.generation.maxOutputTokens,
    sampling: spec.generation.sampling,
    form,
    topK,
  };
  return {
    lease: {
      run,
      task,
      kind: "GENERATE",
      attempt: 1,
      leaseUntil: new Date(0).toISOString(),
      renewAfterSeconds: 20,
      manifest,
      policyVersion: version,
      payload,
    },
    payload,
    signal: new AbortController().signal,
    progress: () => {},
  };
}

/** The pack as intake reads it, or undefined when it is refused. */
function taken(version: number, outcome: Outcome | undefined): RolloutPack | undefined {
  if (outcome?.kind !== "pack") throw new Error("no pack");
  try {
    const pack = decodeRolloutPack(outcome.bytes, {
      bytes: outcome.bytes.length,
      rollouts: groupSize * prompts.length,
      tokens: 32,
    });
    const manifest = manifests[version] ?? "";
    const promptTokens = prompts.flatMap((prompt) => Array<number[]>(groupSize).fill(prompt));
    const form = checkForm({ spec, pack, task: { run, task, manifest, promptTokens } });
    return form.verdict === "PASS" ? pack : undefined;
  } catch (error) {
    if (error instanceof PackError) return undefined;
    throw error;
  }
}

/** The verdicts on a pack's groups, measured under the version that was claimed. */
async function judge(version: number, pack: RolloutPack): Promise<string[]> {
  const { form, topK } = spec.verification;
  const policy = await ctx.engines.policy(checkpointOf(version));
  const verdicts: string[] = [];
  for (let g = 0; g < prompts.length; g++) {
    const rollouts = groupOf(pack, g, groupSize);
    const keys = rollouts.map(({ index }) => rolloutKey(spec.seed, task, index));
    const { sampling, maxOutputTokens } = spec.generation;
    const { manifest } = pack.header;
    const header = { version: 1, manifest, form, topK } as const;
    const blind = encodeBlindPack({
      header: { kind: "blind", ...header, sampling, eos: model.eos, maxOutputTokens },
      rollouts: rollouts.map(({ prompt, tokens }, i) => ({ prompt, tokens, key: keys[i] ?? [0, 0] })),
    });
    const measured = await policy.measure({
      rollouts: rollouts.map(({ prompt, tokens }, i) => ({ prompt, tokens, key: keys[i] ?? [0, 0] })),
      sampling,
      form,
      topK,
    });
    const { verdict } = verifyGroup({
      spec,
      task: { policyVersion: version, manifest, promptTokens: rollouts.map(({ prompt }) => prompt), keys },
      rollouts,
      measurement: { header: { kind: "measurement", ...header, blind: hashHex(blind) }, rollouts: measured },
      decoyKey: [3, 4],
    });
    verdicts.push(verdict);
  }
  return verdicts;
}

test("an honest node is accepted at every version", async () => {
  for (const version of [0, 1, 2]) {
    const [outcome] = await executors.GENERATE.execute(ctx, [assignmentOf(version)]);
    const pack = taken(version, outcome);
    expect(pack && (await judge(version, pack))).toEqual(prompts.map(() => "ACCEPTED"));
  }
});

type Worker = Extract<Attack, { executors: unknown }>;
const isWorker = (attack: Attack): attack is Worker => "executors" in attack;
const workers = Object.values(attacks)
  .filter(isWorker)
  .filter(({ kind }) => kind === "generation" || kind === "pack");

test.each(workers)("$id: what is a lie is not accepted, and what is none is", async (attack) => {
  const ledger = openLedger();
  const executor = attack.executors(ledger).GENERATE;
  // the second time it has seen honest windows, proofs and versions
  for (let turn = 0; turn < 2; turn++) {
    const [outcome] = (await executor?.execute(ctx, [assignmentOf(1)])) ?? [];
    const pack = taken(1, outcome);
    const lies = ledger.groups.slice(-prompts.length).map(({ cheated }) => cheated);
    if (attack.kind === "pack") expect(lies).not.toContain(false);
    // the first proofs are its own, and of an untrained policy no try earns more than another
    const idle = (attack.id === "replayed-proof" && turn === 0) || attack.id === "best-of-n";
    if (!idle) expect(lies).toContain(true);
    const verdicts = pack === undefined ? undefined : await judge(1, pack);
    if (verdicts === undefined) expect(lies).not.toContain(false);
    else expect(verdicts).toEqual(lies.map((lie) => (lie ? "REJECTED" : "ACCEPTED")));
  }
});

test("an older policy is honest at version 0, which has none before it", async () => {
  const attack = attacks["older-policy"];
  if (attack === undefined || !isWorker(attack)) throw new Error("there is no such worker");
  const ledger = openLedger();
  const [outcome] = (await attack.executors(ledger).GENERATE?.execute(ctx, [assignmentOf(0)])) ?? [];
  const pack = taken(0, outcome);
  expect(pack && (await judge(0, pack))).toEqual(prompts.map(() => "ACCEPTED"));
  expect(ledger.groups.map(({ cheated }) => cheated)).not.toContain(true);
});

test("the command names the attacks when it is called wrongly", { timeout: 60_000 }, () => {
  const main = fileURLToPath(new URL("../src/main.ts", import.meta.url));
  for (const args of [[], ["no-such-attack", "--url", "http://x", "--state", "s"], ["older-policy"]]) {
    const { status, stderr } = spawnSync(process.execPath, [main, ...args], { encoding: "utf8" });
    expect(status).toBe(2);
    for (const id of Object.keys(attacks)) expect(stderr).toContain(id);
  }
});
