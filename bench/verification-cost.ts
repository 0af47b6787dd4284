import { createHash } from "node:crypto";
import { initialParameters, Policy } from "@muster/policy";
import {
  decodeBlindPack,
  decodeMeasurementPack,
  decodeRolloutPack,
  demoRunSpec,
  encodeBlindPack,
  encodeMeasurementPack,
  encodeRolloutPack,
  environment,
  exampleSeed,
  groupOf,
  type PhiloxKey,
  type RolloutPack,
  rolloutKey,
  toTypeId,
} from "@muster/protocol";
import { probationGroups, verifyGroup } from "@muster/verification";
import { cpuSeconds } from "./bench.ts";

const GROUPS = 16;
/** The compiler optimises some functions in nearly every round of the first hundred; workers and coordinators run for days. */
const WARM_UP = 160;
const ROUNDS = 40;
const MANIFEST = "0".repeat(64);

/**
 * CPU time of one GENERATE task of the demo, and of measuring and judging all of its groups, packs written, hashed and read as the
 * worker, the validator and the coordinator do. Not counted: HTTP, signatures, the database; intake, which is the same for a group that
 * is not audited and keeps the worker's pack read for whoever judges it.
 */
export async function measureVerificationCost(say: (line: string) => void) {
  const spec = demoRunSpec();
  const { form, topK, audit } = spec.verification;
  const { groupSize, maxOutputTokens, sampling } = spec.generation;
  const env = environment(spec.environment);
  const { tokenizer } = env;
  const model = { ...spec.model, vocabularySize: tokenizer.vocabularySize, eos: tokenizer.eos };
  const uuid = "01920000-0000-7000-8000-000000000001";
  const [run, task] = [toTypeId("run", uuid), toTypeId("task", uuid)];
  const exampleOf = (group: number) => env.example(exampleSeed(spec.seed, task, group), "train");
  const prompts = Array.from({ length: GROUPS }, (_, group) =>
    Int32Array.from(tokenizer.encode(exampleOf(group).prompt)),
  ).flatMap((prompt) => Array.from({ length: groupSize }, () => prompt));

  await using policy = await Policy.open({ model, providers: ["cpu"] });
  // Untrained weights: the work for a token is the same whatever its value.
  await policy.load(initialParameters(model, [1, 2]));

  const rolloutsHeader = { kind: "rollouts", version: 1, run, task, manifest: MANIFEST, form, topK } as const;
  const packs = { rollouts: empty, blind: [empty], measurements: [empty] };
  let taken: RolloutPack = { header: rolloutsHeader, rollouts: [] };
  let tokens = 0;
  let rejected = 0;

  const worker = async () => {
    const keys = prompts.map((_, index): PhiloxKey => rolloutKey(spec.seed, task, index));
    const settings = { sampling, maxOutputTokens, eos: tokenizer.eos, proof: { form, topK } };
    const generated = await policy.generate({ prompts, keys, ...settings });
    tokens = generated.reduce((sum, rollout) => sum + rollout.tokens.length, 0);
    packs.rollouts = written(
      encodeRolloutPack({
        header: rolloutsHeader,
        rollouts: generated.map((rollout, index) => ({ ...rollout, index, prompt: prompts[index]! })),
      }),
    );
  };
  const blinding = async () => {
    packs.blind = Array.from({ length: GROUPS }, (_, group) =>
      written(
        encodeBlindPack({
          header: {
            kind: "blind",
            version: 1,
            manifest: MANIFEST,
            form,
            topK,
            sampling,
            eos: tokenizer.eos,
            maxOutputTokens,
          },
          rollouts: groupOf(taken, group, groupSize).map((rollout) => ({
            prompt: rollout.prompt,
            tokens: rollout.tokens,
            key: rolloutKey(spec.seed, task, rollout.index),
          })),
        }),
      ),
    );
  };
  const validator = async () => {
    const blind = packs.blind.map((pack) => decodeBlindPack(read(pack)));
    const rollouts = blind.flatMap((pack) => pack.rollouts);
    const measured = await policy.measure({ rollouts, sampling, form, topK });
    packs.measurements = packs.blind.map(({ sha256 }, group) =>
      written(
        encodeMeasurementPack({
          header: { kind: "measurement", version: 1, manifest: MANIFEST, form, topK, blind: sha256 },
          rollouts: measured.slice(group * groupSize, (group + 1) * groupSize),
        }),
      ),
    );
  };
  const opening = async () => {
    taken = decodeRolloutPack(read(packs.rollouts));
  };
  const judging = async () => {
    for (const [group, measurement] of packs.measurements.entries()) {
      const rollouts = groupOf(taken, group, groupSize);
      const example = exampleOf(group);
      const prompt = tokenizer.encode(example.prompt);
      const { verdict } = verifyGroup({
        spec,
        task: {
          policyVersion: 0,
          manifest: MANIFEST,
          promptTokens: rollouts.map(() => prompt),
          keys: rollouts.map(({ index }) => rolloutKey(spec.seed, task, index)),
          blind: packs.blind[group]!.sha256,
          example,
        },
        rollouts,
        measurement: decodeMeasurementPack(read(measurement)),
        decoyKey: [group, 7],
      });
      if (verdict !== "ACCEPTED") rejected++;
    }
  };

  const stages = { worker, blinding, validator, opening, judging };
  const ms = { worker: 0, blinding: 0, validator: 0, opening: 0, judging: 0 };
  for (let round = 0; round < WARM_UP + ROUNDS; round++) {
    for (const name of ["worker", "blinding", "validator", "opening", "judging"] as const) {
      // Intake has the pack in hand when it draws which groups are audited.
      if (name === "blinding") taken = decodeRolloutPack(packs.rollouts.bytes);
      const seconds = await cpuSeconds(stages[name]);
      if (round >= WARM_UP) ms[name] += (1000 * seconds) / ROUNDS;
    }
  }
  if (rejected > 0)
    throw new Error(`${rejected} honest groups were not accepted, so these times mean nothing.`);

  const { floor } = audit;
  const ratio = (ms.blinding + ms.validator + ms.judging) / ms.worker;
  const atTrust = floor * ratio;
  const probation = probationGroups(audit);
  const percent = (share: number) => `${(100 * share).toFixed(1)} %`;
  say(
    `The demo's model, one task of ${GROUPS} groups, ${prompts.length} rollouts and ${tokens} tokens; CPU time, mean of ${ROUNDS}.`,
  );
  say(`  worker       generate, prove, pack       ${ms.worker.toFixed(1)} ms`);
  say(`  coordinator  write blind packs           ${ms.blinding.toFixed(1)} ms`);
  say(`  validator    read, measure, pack         ${ms.validator.toFixed(1)} ms`);
  say(`  (at intake)  read the worker's pack      ${ms.opening.toFixed(1)} ms`);
  say(`  coordinator  read measurements, judge    ${ms.judging.toFixed(1)} ms`);
  say(`  verification / generation, every group audited: ${ratio.toFixed(3)}`);
  say(`  of generation at the audit rate of a trusted node (${floor}): ${percent(atTrust)}`);
  say(`  of generation in the first ${probation} groups of a node (all audited): ${percent(ratio)}`);
  return {
    verificationOverGeneration: ratio,
    costShareAtTrust: atTrust,
    costShareInProbation: ratio,
    probationGroups: probation,
  };
}

type Written = { bytes: Uint8Array; sha256: string };

const empty: Written = { bytes: new Uint8Array(0), sha256: "" };

function written(bytes: Uint8Array): Written {
  return { bytes, sha256: digest(bytes) };
}

function read({ bytes, sha256 }: Written): Uint8Array {
  if (digest(bytes) !== sha256) throw new Error("A pack changed after it was written.");
  return bytes;
}

function digest(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}
