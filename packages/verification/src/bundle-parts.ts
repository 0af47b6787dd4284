import {
  type BlindPack,
  canonicalJson,
  decodeBlindPack,
  decodeMeasurementPack,
  decodeRolloutPack,
  type Environment,
  type Example,
  environment,
  environmentHash,
  exampleSeed,
  groupOf,
  hashHex,
  type Manifest,
  type MeasurementPack,
  PackError,
  type PackedRollout,
  ProtocolError,
  parseManifest,
  parseRunSpec,
  type RolloutPack,
  type RunSpec,
  rolloutKey,
  specHash,
} from "@muster/protocol";
import type { EvidenceHeader } from "./bundle.ts";
import type { GroupTask } from "./evidence.ts";
import { EvidenceError } from "./evidence-error.ts";

// Hashes and signatures say who said what; this file finds out whether it is about one and the same group.

export type EvidenceContents = {
  spec: RunSpec;
  task: GroupTask;
  pack: RolloutPack;
  rollouts: PackedRollout[];
  blind: BlindPack | null;
  measurement: MeasurementPack | null;
  manifest: Manifest;
  checkpoint: Uint8Array[] | null;
};

/**
 * Decodes the parts of a bundle whose hashes were right and checks that they belong together.
 * @throws EvidenceError `WRONG_PART`, or `WRONG_HEADER` where the header contradicts them.
 */
export function readParts(header: EvidenceHeader, parts: ReadonlyMap<string, Uint8Array>): EvidenceContents {
  const spec = readSpec(header, part(parts, "spec.json"));
  const env = readEnvironment(header, spec);
  const { groupSize, groupsPerTask } = spec.generation;
  const limits = { rollouts: groupSize * groupsPerTask, tokens: spec.model.maxPositions };

  const pack = readPack("rollouts.parquet", parts, (bytes) =>
    decodeRolloutPack(bytes, { ...limits, bytes: bytes.length }),
  );
  if (pack.header.run !== header.run || pack.header.task !== header.task)
    throw wrongPart("rollouts.parquet", "it answers another run or task");
  const rollouts = groupOf(pack, header.index, groupSize);
  if (rollouts.length === 0) throw wrongPart("rollouts.parquet", `it has no group ${header.index}`);
  const example = checkPrompts(header, spec, env, pack);

  const manifest = readManifest(header, pack, part(parts, "manifest.json"));
  const checkpoint = readShards(manifest, parts);
  const keys = rollouts.map(({ index }) => rolloutKey(spec.seed, header.task, index));
  const blindBytes = parts.get("blind.parquet");
  const blind =
    blindBytes === undefined
      ? null
      : readPack("blind.parquet", parts, (bytes) =>
          decodeBlindPack(bytes, { ...limits, bytes: bytes.length }),
        );
  if (blind !== null) checkBlind(blind, { spec, env, pack, rollouts, keys });
  const measurement = parts.has("measurement.parquet")
    ? readPack("measurement.parquet", parts, (bytes) =>
        decodeMeasurementPack(bytes, { ...limits, bytes: bytes.length }),
      )
    : null;
  if (measurement !== null && blind === null)
    throw wrongPart("measurement.parquet", "the BLIND pack it answers is missing");
  if ((measurement === null) !== (header.verdict === null))
    throw new EvidenceError("WRONG_HEADER", "A verdict and a measurement come together or not at all.");

  const prompt = env.tokenizer.encode(example.prompt);
  const task: GroupTask = {
    policyVersion: header.policyVersion,
    manifest: pack.header.manifest,
    promptTokens: rollouts.map(() => prompt),
    keys,
    ...(blindBytes === undefined ? {} : { blind: hashHex(blindBytes) }),
    example,
  };
  return { spec, task, pack, rollouts, blind, measurement, manifest, checkpoint };
}

function part(parts: ReadonlyMap<string, Uint8Array>, name: string): Uint8Array {
  const bytes = parts.get(name);
  if (bytes === undefined) throw new EvidenceError("WRONG_PART", `The bundle has no ${name}.`);
  return bytes;
}

function readSpec(header: EvidenceHeader, bytes: Uint8Array): RunSpec {
  let json: unknown;
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    json = JSON.parse(text);
  } catch (cause) {
    throw wrongPart("spec.json", "it is not JSON", cause);
  }
  const parsed = parseRunSpec(json);
  if (!parsed.ok) {
    const [issue] = parsed.issues;
    throw wrongPart("spec.json", `${issue?.path ?? ""}: ${issue?.message ?? "wrong"}`);
  }
  if (specHash(parsed.spec) !== header.specHash || canonicalJson(parsed.spec) !== text)
    throw wrongPart("spec.json", "it is not the spec whose hash the header names");
  return parsed.spec;
}

function readEnvironment(header: EvidenceHeader, spec: RunSpec): Environment {
  const { slug, hash } = header.environment;
  if (slug !== spec.environment)
    throw new EvidenceError("WRONG_HEADER", `The header names ${slug}; the spec has ${spec.environment}.`);
  const env = environment(slug); // known, or the spec would not have parsed
  if (environmentHash(env) !== hash)
    throw new EvidenceError(
      "WRONG_HEADER",
      `This version's ${slug} is not the one of the bundle. Judge it with the version of Muster that made it.`,
    );
  return env;
}

function readPack<T>(
  name: string,
  parts: ReadonlyMap<string, Uint8Array>,
  decode: (bytes: Uint8Array) => T,
): T {
  try {
    return decode(part(parts, name));
  } catch (cause) {
    if (cause instanceof PackError) throw wrongPart(name, cause.message, cause);
    throw cause;
  }
}

/** Every prompt of the pack is the one that the seed gives its place in the task. @returns the judged group's example. */
function checkPrompts(header: EvidenceHeader, spec: RunSpec, env: Environment, pack: RolloutPack): Example {
  const exampleOf = (group: number) => env.example(exampleSeed(spec.seed, header.task, group), "train");
  let group = -1;
  let prompt: number[] = [];
  for (const rollout of pack.rollouts) {
    const own = Math.floor(rollout.index / spec.generation.groupSize);
    if (own !== group) {
      group = own;
      prompt = env.tokenizer.encode(exampleOf(own).prompt);
    }
    if (!sameNumbers(rollout.prompt, prompt))
      throw wrongPart(
        "rollouts.parquet",
        `the prompt of rollout ${rollout.index} does not follow from the seed`,
      );
  }
  return exampleOf(header.index);
}

function readManifest(header: EvidenceHeader, pack: RolloutPack, bytes: Uint8Array): Manifest {
  if (hashHex(bytes) !== pack.header.manifest)
    throw wrongPart("manifest.json", "it is not the manifest that the rollouts name");
  let manifest: Manifest;
  try {
    manifest = parseManifest(bytes);
  } catch (cause) {
    if (cause instanceof ProtocolError) throw wrongPart("manifest.json", cause.message, cause);
    throw cause;
  }
  if (manifest.run !== header.run || manifest.version !== header.policyVersion)
    throw wrongPart(
      "manifest.json",
      `it is version ${manifest.version} of ${manifest.run}, not version ${header.policyVersion} of ${header.run}`,
    );
  return manifest;
}

function readShards(manifest: Manifest, parts: ReadonlyMap<string, Uint8Array>): Uint8Array[] | null {
  const found = [...parts.keys()].filter((name) => name.startsWith("checkpoint/")).length;
  if (found === 0) return null;
  const shards = manifest.files.flatMap((file) => file.shards);
  if (found !== shards.length)
    throw wrongPart("checkpoint", `it has ${found} shards; the manifest names ${shards.length}`);
  return shards.map(({ sha256, size }, n) => {
    const bytes = part(parts, `checkpoint/${n}`);
    if (bytes.length !== size || hashHex(bytes) !== sha256)
      throw wrongPart(`checkpoint/${n}`, "it is not the shard that the manifest names");
    return bytes;
  });
}

/** The BLIND pack has to say of this group what a coordinator says to a validator, no more and no less. */
function checkBlind(
  blind: BlindPack,
  group: {
    spec: RunSpec;
    env: Environment;
    pack: RolloutPack;
    rollouts: readonly PackedRollout[];
    keys: readonly (readonly [number, number])[];
  },
): void {
  const { spec, env, pack, rollouts, keys } = group;
  const expected = {
    kind: "blind",
    version: 1,
    manifest: pack.header.manifest,
    form: spec.verification.form,
    topK: spec.verification.topK,
    sampling: spec.generation.sampling,
    eos: env.tokenizer.eos,
    maxOutputTokens: spec.generation.maxOutputTokens,
  };
  const same =
    canonicalJson(blind.header) === canonicalJson(expected) &&
    blind.rollouts.length === rollouts.length &&
    blind.rollouts.every(
      ({ prompt, tokens, key }, i) =>
        sameNumbers(prompt, rollouts[i]!.prompt) &&
        sameNumbers(tokens, rollouts[i]!.tokens) &&
        sameNumbers(key, keys[i]!),
    );
  if (!same) throw wrongPart("blind.parquet", "it is not this group's");
}

function sameNumbers(a: ArrayLike<number>, b: ArrayLike<number>): boolean {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}

function wrongPart(name: string, why: string, cause?: unknown): EvidenceError {
  return new EvidenceError("WRONG_PART", `${name} does not belong here: ${why}.`, { cause });
}
