import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { encodeCheckpoint, initialParameters, type ModelConfig } from "@muster/policy/graph";
import {
  decodeRolloutPack,
  demoRunSpec,
  encodeBlindPack,
  environment,
  exampleSeed,
  groupOf,
  hashHex,
  type Manifest,
  rolloutKey,
  toTypeId,
} from "@muster/protocol";
import { createClient } from "@muster/sdk";
import { verifyGroup } from "@muster/verification";
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
import { attacks, olderPolicyExecutor } from "../src/index.ts";

const spec = demoRunSpec({ seed: 1 });
const env = environment(spec.environment);
const { initSeed: _, ...shape } = spec.model;
const model: ModelConfig = { ...shape, vocabularySize: env.tokenizer.vocabularySize, eos: env.tokenizer.eos };
// fixed, so that the same rollouts are drawn every time
const run = toTypeId("run", "01890a5d-ac96-774b-bcce-b302099a8057");
const task = toTypeId("task", "01890a5d-ac96-774b-bcce-b302099a8058");
const groupSize = 4;

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
    weights: async () => flat,
  };
};

let ctx: ExecutorContext & AsyncDisposable;
beforeAll(() => {
  const engines = openEngines({ threads: 1, providers: ["cpu"] });
  const client = createClient({ url: "http://127.0.0.1:1" });
  ctx = {
    client,
    identity: { publicKey: "", sign: () => new Uint8Array(64), signHex: () => "" },
    checkpoints: { open: async ({ manifest }) => checkpointOf(manifests.indexOf(manifest)) },
    engines,
    log: createLog({ level: "silent" }),
    [Symbol.asyncDispose]: () => engines[Symbol.asyncDispose](),
  };
});
afterAll(() => ctx[Symbol.asyncDispose]());

const prompts = [0, 1].map((g) =>
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
  const leaseUntil = new Date(0).toISOString();
  return {
    lease: {
      run,
      task,
      kind: "GENERATE",
      attempt: 1,
      leaseUntil,
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

// Weights nobody trained scatter more in their last bits than a run's; another version is still a hundred times further off.
const judged = {
  ...spec.verification,
  thresholds: { ...spec.verification.thresholds, meanUlp: 4_096 },
};

/** The verdicts on a pack's groups, measured under the version that was claimed. */
async function judge(version: number, outcome: Outcome | undefined) {
  if (outcome?.kind !== "pack") throw new Error("no pack");
  const pack = decodeRolloutPack(outcome.bytes);
  const { form, topK } = spec.verification;
  const policy = await ctx.engines.policy(checkpointOf(version));
  const verdicts = [];
  for (let g = 0; g < prompts.length; g++) {
    const rollouts = groupOf(pack, g, groupSize);
    const keys = rollouts.map(({ index }) => rolloutKey(spec.seed, task, index));
    const { sampling, maxOutputTokens } = spec.generation;
    const blind = encodeBlindPack({
      header: {
        kind: "blind",
        version: 1,
        manifest: pack.header.manifest,
        form,
        topK,
        sampling,
        eos: model.eos,
        maxOutputTokens,
      },
      rollouts: rollouts.map(({ prompt, tokens }, i) => ({ prompt, tokens, key: keys[i] ?? [0, 0] })),
    });
    const measured = await policy.measure({
      rollouts: rollouts.map(({ prompt, tokens }, i) => ({ prompt, tokens, key: keys[i] ?? [0, 0] })),
      sampling,
      form,
      topK,
    });
    verdicts.push(
      verifyGroup({
        spec: { ...spec, generation: { ...spec.generation, groupSize }, verification: judged },
        task: {
          policyVersion: version,
          manifest: pack.header.manifest,
          promptTokens: rollouts.map(({ prompt }) => prompt),
          keys,
        },
        rollouts,
        measurement: {
          header: {
            kind: "measurement",
            version: 1,
            manifest: pack.header.manifest,
            form,
            topK,
            blind: hashHex(blind),
          },
          rollouts: measured,
        },
        decoyKey: [3, 4],
      }),
    );
  }
  return verdicts;
}

test("an honest node is accepted at every version", async () => {
  for (const version of [0, 1, 2]) {
    const [outcome] = await executors.GENERATE.execute(ctx, [assignmentOf(version)]);
    expect((await judge(version, outcome)).map(({ verdict }) => verdict)).toEqual(["ACCEPTED", "ACCEPTED"]);
  }
});

test("a node that generates with the older policy is honest at version 0 and rejected from version 1 on", async () => {
  const node = olderPolicyExecutor();
  for (const version of [0, 1, 2]) {
    const [outcome] = await node.execute(ctx, [assignmentOf(version)]);
    if (outcome?.kind !== "pack") throw new Error("no pack");
    // what it says of itself is what an honest node would say
    expect(decodeRolloutPack(outcome.bytes).header).toMatchObject({
      run,
      task,
      manifest: manifests[version],
    });
    const verdicts = await judge(version, outcome);
    const expected = version === 0 ? "ACCEPTED" : "REJECTED";
    expect(verdicts.map(({ verdict }) => verdict)).toEqual([expected, expected]);
    if (version === 0) continue;
    const failed = verdicts.flatMap(({ checks }) =>
      checks.filter(({ verdict }) => verdict === "FAIL").map(({ id }) => id),
    );
    expect(failed).toContain("activations");
  }
});

test("the command names the attacks when it is called wrongly", () => {
  const main = fileURLToPath(new URL("../src/main.ts", import.meta.url));
  for (const args of [[], ["no-such-attack", "--url", "http://x", "--state", "s"], ["older-policy"]]) {
    const { status, stderr } = spawnSync(process.execPath, [main, ...args], { encoding: "utf8" });
    expect(status).toBe(2);
    for (const id of Object.keys(attacks)) expect(stderr).toContain(id);
  }
});
