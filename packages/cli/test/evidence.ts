// Evidence of a real group: a small policy generates and measures, and everybody signs what a coordinator would put into a bundle.
import { createHash, createPrivateKey, createPublicKey, sign } from "node:crypto";
import { encodeCheckpoint, initialParameters, type ModelConfig, Policy } from "@muster/policy";
import {
  canonicalJson,
  encodeBlindPack,
  encodeMeasurementPack,
  encodeRolloutPack,
  environment,
  environmentHash,
  exampleSeed,
  hashHex,
  type MeasurementPack,
  type PackedRollout,
  parseRunSpec,
  rolloutKey,
  specHash,
  submissionBytes,
  toTypeId,
} from "@muster/protocol";
import { buildManifest, signManifest } from "@muster/shardcast";
import { encodeEvidence, verifyGroup } from "@muster/verification";

const uuid = (n: number) => `01920000-0000-7000-8000-00000000000${n}`;
const run = toTypeId("run", uuid(1));
const task = toTypeId("task", uuid(2));
const verifyTask = toTypeId("task", uuid(3));
export const groupId = toTypeId("group", uuid(4));

export type Bundle = {
  bytes: Uint8Array;
  coordinator: string;
  /** `model.safetensors` and `config.json`. */
  files: { model: Uint8Array; config: Uint8Array };
};

/**
 * @param options.tamper changes the rollouts before they are packed: what follows is honest.
 * @param options.lie changes what the coordinator records of the checks.
 * @param options.checkpoint whether the bundle holds the checkpoint.
 */
export async function makeBundle(
  options: {
    tamper?: (rollouts: PackedRollout[]) => PackedRollout[];
    lie?: (verdict: ReturnType<typeof verifyGroup>) => ReturnType<typeof verifyGroup>;
    /** What the validator hands in, in place of what it measured. */
    forge?: (measurement: MeasurementPack) => MeasurementPack;
    checkpoint?: boolean;
  } = {},
): Promise<Bundle> {
  const parsed = parseRunSpec({
    name: "Small",
    environment: "muster/sort-digits@1",
    seed: "23".repeat(32),
    model: { hiddenSize: 16, layers: 1, heads: 2, maxPositions: 32 },
    generation: { groupSize: 2, groupsPerTask: 1, maxOutputTokens: 8 },
    verification: { topK: 16 },
  });
  if (!parsed.ok) throw new Error(JSON.stringify(parsed.issues));
  const { spec } = parsed;
  const env = environment(spec.environment);
  const { tokenizer } = env;
  const model: ModelConfig = {
    ...spec.model,
    vocabularySize: tokenizer.vocabularySize,
    eos: tokenizer.eos,
  };
  const parameters = initialParameters(model, [1, 2]);
  const files = encodeCheckpoint(model, parameters, tokenizer);
  const plain = (bytes: Uint8Array) => new Uint8Array(bytes);
  const unsigned = buildManifest({
    run,
    version: 3,
    parent: 2,
    created: "2026-01-02T03:04:05.678Z",
    tensors: files.tensors.map((tensor) => ({ ...tensor, dtype: "F32", shape: [...tensor.shape] })),
    trainer: keyOf("trainer").publicKey,
    shardBytes: 4096,
    files: [
      { name: "model.safetensors", bytes: plain(files.model) },
      { name: "config.json", bytes: plain(files.config) },
    ],
  });
  const manifest = await signManifest(unsigned.manifest, keyOf("trainer").sign);

  const example = env.example(exampleSeed(spec.seed, task, 0), "train");
  const prompt = Int32Array.from(tokenizer.encode(example.prompt));
  const keys = [0, 1].map((i): [number, number] => {
    const [a, b] = rolloutKey(spec.seed, task, i);
    return [a, b];
  });
  const { form, topK } = spec.verification;
  const { sampling, maxOutputTokens } = spec.generation;
  await using policy = await Policy.open({ model, providers: ["cpu"] });
  await policy.load(parameters);
  const generated = await policy.generate({
    prompts: [prompt, prompt],
    keys,
    sampling,
    maxOutputTokens,
    eos: tokenizer.eos,
    proof: { form, topK },
  });
  const honest = generated.map((rollout, index) => ({ index, prompt, ...rollout }));
  const rollouts = options.tamper?.(honest) ?? honest;
  const proofs = { version: 1 as const, manifest: manifest.hash, form, topK };
  const packBytes = encodeRolloutPack({ header: { kind: "rollouts", ...proofs, run, task }, rollouts });
  const blindBytes = encodeBlindPack({
    header: { kind: "blind", ...proofs, sampling, eos: tokenizer.eos, maxOutputTokens },
    rollouts: rollouts.map(({ tokens }, i) => ({ prompt, tokens, key: keys[i] ?? [0, 0] })),
  });
  const pairs = rollouts.map(({ tokens }, i) => ({ prompt, tokens, key: keys[i] ?? ([0, 0] as const) }));
  const seen: MeasurementPack = {
    header: { kind: "measurement", ...proofs, blind: hashHex(blindBytes) },
    rollouts: await policy.measure({ rollouts: pairs, sampling, form, topK }),
  };
  const measurement = options.forge?.(seen) ?? seen;
  const decoyKey: [number, number] = [11, 22];
  const judged = verifyGroup({
    spec,
    task: {
      policyVersion: 3,
      manifest: manifest.hash,
      promptTokens: [prompt, prompt],
      keys,
      blind: hashHex(blindBytes),
      example,
    },
    rollouts,
    measurement,
    decoyKey,
  });
  const { verdict, checks } = options.lie?.(judged) ?? judged;
  const measurementBytes = encodeMeasurementPack(measurement);
  const shardOf = new Map(unsigned.shards.map(({ sha256, bytes }) => [sha256, bytes]));
  const shards = manifest.manifest.files.flatMap((file) => file.shards);
  const parts = [
    { name: "spec.json", bytes: new TextEncoder().encode(canonicalJson(spec)) },
    { name: "rollouts.parquet", bytes: packBytes },
    { name: "blind.parquet", bytes: blindBytes },
    { name: "measurement.parquet", bytes: measurementBytes },
    { name: "manifest.json", bytes: manifest.bytes },
    ...(options.checkpoint === false
      ? []
      : shards.map(({ sha256 }, n) => ({
          name: `checkpoint/${n}`,
          bytes: shardOf.get(sha256) ?? new Uint8Array(),
        }))),
  ];
  const node = (name: string, of: string, pack: Uint8Array) => ({
    node: toTypeId("node", uuid(name === "worker" ? 5 : 6)),
    publicKey: keyOf(name).publicKey,
    signature: hex(keyOf(name).sign(submissionBytes({ run, task: of, attempt: 1, pack: hashHex(pack) }))),
  });
  const bytes = encodeEvidence(
    {
      coordinator: keyOf("coordinator").publicKey,
      run,
      group: groupId,
      task,
      attempt: 1,
      index: 0,
      policyVersion: 3,
      revision: 1,
      specHash: specHash(spec),
      environment: { slug: spec.environment, hash: environmentHash(env) },
      worker: node("worker", task, packBytes),
      validator: { ...node("validator", verifyTask, measurementBytes), task: verifyTask, attempt: 1 },
      verdict: { verdict, checks: JSON.parse(JSON.stringify(checks)) },
      acceptance: verdict === "ACCEPTED" ? "AUDITED" : null,
      decoyKey,
      audit: { rate: 1, epoch: 1, keyHash: hashHex("epoch") },
      createdAt: "2026-01-02T03:04:05.678Z",
    },
    parts,
    keyOf("coordinator").sign,
  );
  return { bytes, coordinator: keyOf("coordinator").publicKey, files };
}

/** One token of the first rollout is another; its proofs and log-probabilities stay those of the honest one. */
export function editToken(rollouts: PackedRollout[]): PackedRollout[] {
  return rollouts.map((rollout, i) => {
    if (i > 0) return rollout;
    const tokens = rollout.tokens.slice();
    tokens[0] = tokens[0] === 3 ? 4 : 3;
    return { ...rollout, tokens };
  });
}

function keyOf(name: string): { publicKey: string; sign(bytes: Uint8Array): Uint8Array } {
  const seed = createHash("sha256").update(name).digest();
  // PKCS #8 of Ed25519 is a fixed prefix and the seed.
  const der = Buffer.concat([Buffer.from("302e020100300506032b657004220420", "hex"), seed]);
  const key = createPrivateKey({ key: der, format: "der", type: "pkcs8" });
  const spki = createPublicKey(key).export({ format: "der", type: "spki" });
  return {
    publicKey: spki.subarray(-32).toString("hex"),
    sign: (bytes) => new Uint8Array(sign(null, bytes, key)),
  };
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("hex");
}
