// Evidence of a group that a tiny policy made: real packs, real signatures, and a checkpoint whose bytes are noise.

import { createHash, createPrivateKey, createPublicKey, sign } from "node:crypto";
import {
  type BlindPack,
  canonicalJson,
  encodeBlindPack,
  encodeManifest,
  encodeMeasurementPack,
  encodeRolloutPack,
  environment,
  environmentHash,
  hashHex,
  type MeasurementPack,
  manifestBytes,
  parseRunSpec,
  type RunSpec,
  shardsRoot,
  specHash,
  submissionBytes,
  toTypeId,
} from "@muster/protocol";
import { type EvidenceHeader, type EvidencePart, encodeEvidence, verifyGroup } from "../src/index.ts";
import { generate, measure, run, testTask, type Work } from "./tiny-policy.ts";

/** The smallest run that has everything: two rollouts of at most eight tokens, sixteen points a proof. */
export function smallSpec(): RunSpec {
  const parsed = parseRunSpec({
    name: "Small",
    environment: "muster/sort-digits@1",
    seed: "23".repeat(32),
    model: { hiddenSize: 16, heads: 2, maxPositions: 32 },
    generation: { groupSize: 2, groupsPerTask: 1, maxOutputTokens: 8 },
    verification: { topK: 16 },
  });
  if (!parsed.ok) throw new Error(JSON.stringify(parsed.issues));
  return parsed.spec;
}

/** Ed25519 keys by name, of another implementation than the one that verifies. */
export function keyOf(name: string): { publicKey: string; sign(bytes: Uint8Array): Uint8Array } {
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

export const validatorTask = testTask(99);
const uuid = (n: number) => `01920000-0000-7000-8000-00000000020${n}`;
const decoyKey: [number, number] = [11, 22];

export type MadeEvidence = {
  spec: RunSpec;
  header: Omit<EvidenceHeader, "kind" | "version" | "parts">;
  parts: EvidencePart[];
  work: Work;
  measurement: MeasurementPack;
  bytes: Uint8Array;
};

/**
 * Everything a coordinator would put into a bundle, and the bundle.
 * @param machine of the worker: `weights` 1 is the run's policy.
 * @param tamper changes the rollouts before they are packed.
 */
export function makeEvidence(
  options: {
    spec?: RunSpec;
    machine?: { weights: number; kernel: number };
    tamper?: (work: Work) => Work;
    checkpoint?: boolean;
  } = {},
): MadeEvidence {
  const spec = options.spec ?? smallSpec();
  const manifest = makeManifest();
  const made = generate(spec, options.machine ?? { weights: 1, kernel: 1 });
  const named: Work = {
    ...made,
    task: { ...made.task, manifest: manifest.sha256 },
    pack: { ...made.pack, header: { ...made.pack.header, manifest: manifest.sha256 } },
  };
  const work = options.tamper?.(named) ?? named;
  const blind = encodeBlindPack(blindPack(spec, work));
  const measured = measure(spec, { weights: 1, kernel: 2 }, work);
  const measurement: MeasurementPack = {
    ...measured,
    header: { ...measured.header, manifest: manifest.sha256, blind: hashHex(blind) },
  };
  const parts: EvidencePart[] = [
    { name: "spec.json", bytes: new TextEncoder().encode(canonicalJson(spec)) },
    { name: "rollouts.parquet", bytes: encodeRolloutPack(work.pack) },
    { name: "blind.parquet", bytes: blind },
    { name: "measurement.parquet", bytes: encodeMeasurementPack(measurement) },
    { name: "manifest.json", bytes: manifest.bytes },
    ...(options.checkpoint === false
      ? []
      : manifest.shards.map((bytes, n) => ({ name: `checkpoint/${n}`, bytes }))),
  ];
  const decision = verifyGroup({
    spec,
    task: { ...work.task, blind: hashHex(blind) },
    rollouts: work.pack.rollouts,
    measurement,
    decoyKey,
  });
  const header = headerOf(spec, work.taskId, parts, decision);
  return { spec, header, parts, work, measurement, bytes: sealed(header, parts) };
}

/** The bundle of these parts, signed by the coordinator. */
export function sealed(header: MadeEvidence["header"], parts: readonly EvidencePart[]): Uint8Array {
  return encodeEvidence(header, parts, keyOf("coordinator").sign);
}

/** The header with both nodes' signatures over the parts as they are now. */
export function resigned(
  header: MadeEvidence["header"],
  parts: readonly EvidencePart[],
): MadeEvidence["header"] {
  const hash = (name: string) => hashHex(parts.find((part) => part.name === name)?.bytes ?? "");
  const signature = (name: string, task: string, pack: string) =>
    Buffer.from(
      keyOf(name).sign(submissionBytes({ run: header.run, task, attempt: header.attempt, pack })),
    ).toString("hex");
  return {
    ...header,
    worker: { ...header.worker, signature: signature("worker", header.task, hash("rollouts.parquet")) },
    validator:
      header.validator === null
        ? null
        : {
            ...header.validator,
            signature: signature("validator", validatorTask, hash("measurement.parquet")),
          },
  };
}

function headerOf(
  spec: RunSpec,
  task: string,
  parts: readonly EvidencePart[],
  { verdict, checks }: ReturnType<typeof verifyGroup>,
): MadeEvidence["header"] {
  const node = (name: string, n: number) => ({
    node: toTypeId("node", uuid(n)),
    publicKey: keyOf(name).publicKey,
    signature: "0".repeat(128),
  });
  return resigned(
    {
      coordinator: keyOf("coordinator").publicKey,
      run,
      group: toTypeId("group", uuid(1)),
      task,
      attempt: 1,
      index: 0,
      policyVersion: 3,
      revision: 1,
      specHash: specHash(spec),
      environment: { slug: spec.environment, hash: environmentHash(environment(spec.environment)) },
      worker: node("worker", 2),
      validator: { ...node("validator", 3), task: validatorTask, attempt: 1 },
      // As the database gives it back.
      verdict: { verdict, checks: JSON.parse(JSON.stringify(checks)) },
      acceptance: verdict === "ACCEPTED" ? "AUDITED" : null,
      decoyKey,
      audit: { rate: 1, epoch: 1, keyHash: hashHex("epoch") },
      auditEntry: { seq: 7, hash: hashHex("entry") },
      createdAt: "2026-01-02T03:04:05.678Z",
    },
    parts,
  );
}

function blindPack(spec: RunSpec, { task, pack }: Work): BlindPack {
  return {
    header: {
      kind: "blind",
      version: 1,
      manifest: pack.header.manifest,
      form: spec.verification.form,
      topK: spec.verification.topK,
      sampling: spec.generation.sampling,
      eos: environment(spec.environment).tokenizer.eos,
      maxOutputTokens: spec.generation.maxOutputTokens,
    },
    rollouts: pack.rollouts.map(({ prompt, tokens }, i) => {
      const [a, b] = task.keys[i]!;
      return { prompt, tokens, key: [a, b] };
    }),
  };
}

function makeManifest() {
  const trainer = keyOf("trainer");
  const weights = new TextEncoder().encode(
    "sixty-four bytes that stand for the weights of a small policy...",
  );
  const config = new TextEncoder().encode("{}");
  const file = (name: string, bytes: Uint8Array, cut: number) => {
    const pieces = [bytes.subarray(0, cut), bytes.subarray(cut)].filter(({ length }) => length > 0);
    return {
      pieces,
      entry: {
        name,
        size: bytes.length,
        sha256: hashHex(bytes),
        shards: pieces.map((piece, index) => ({ index, size: piece.length, sha256: hashHex(piece) })),
      },
    };
  };
  const files = [file("model.safetensors", weights, 32), file("config.json", config, config.length)];
  const unsigned = {
    schema: "muster/checkpoint/v1" as const,
    run,
    version: 3,
    parent: 2,
    created: "2026-01-02T03:04:05.678Z",
    tensors: [
      { name: "model.embed_tokens.weight", dtype: "F32" as const, shape: [4, 4], offset: 0, size: 64 },
    ],
    files: files.map(({ entry }) => entry),
    delta: null,
    root: shardsRoot({ files: files.map(({ entry }) => entry), delta: null }),
    whole: hashHex(weights),
    trainer: trainer.publicKey,
  };
  const signature = Buffer.from(trainer.sign(manifestBytes(unsigned))).toString("hex");
  const bytes = encodeManifest({ ...unsigned, signature });
  return { bytes, sha256: hashHex(bytes), shards: files.flatMap(({ pieces }) => pieces) };
}
