// Everything that reads a stranger's bytes, fed with wrong ones. Each input must give a value or the reader's own error, in bounded time and
// memory, and none may turn into accepted work that is not the honest work. Input n of a seed is always the same, so a finding is
// its number.

import {
  canonicalJson,
  type Draws,
  decodeBlindPack,
  decodeMeasurementPack,
  decodeRolloutPack,
  drawsFrom,
  encodeMeasurementPack,
  encodeRolloutPack,
  groupOf,
  hashHex,
  type MeasurementPack,
  PackError,
  type RolloutPack,
  type RunSpec,
} from "@muster/protocol";
import {
  compareBf16,
  compareF32,
  countDecoys,
  decodeProof,
  PRIME,
  type Proof,
  ProofError,
} from "@muster/toploc";
import {
  checkForm,
  compareMeasurements,
  EvidenceError,
  type EvidencePart,
  judgeEvidence,
  openEvidence,
  verifyGroup,
  windowFingerprints,
} from "../src/index.ts";
import { type MadeEvidence, makeEvidence, resigned, sealed, smallSpec } from "./evidence-fixture.ts";
import { mutateBytes, mutateHeader, mutateJson, mutateParquet, randomBytes } from "./mutation.ts";
import { measure, prefilled, spec, type Work } from "./tiny-policy.ts";

export type FuzzFigures = {
  inputs: number;
  /** Inputs that made a reader throw anything but its own error. */
  crashes: number;
  /** Inputs that took longer, or more memory, than any input of their size may. */
  stalls: number;
  /** Inputs that were accepted and are not the honest work. */
  accepted: number;
  /** The slowest input, in milliseconds; the best of three where the first try was slow, since the machine has pauses of its own. */
  slowestMs: number;
};

/** Longest that one input (at most 100 kB here) may take. */
export const stallMs = 250;
/** Most that the process may grow during one input. */
const stallBytes = 64 * 2 ** 20;

/** Feeds `inputs` inputs. `found` names what went wrong, the first twenty. */
export function fuzz(options: { inputs: number; seed: number; say?: (line: string) => void }): {
  figures: FuzzFigures;
  found: string[];
  /** How often each target was fed, and how far inputs came. */
  reached: Record<string, number>;
} {
  const { inputs, say } = options;
  const seed = new Uint8Array(16);
  new DataView(seed.buffer).setUint32(0, options.seed, true);
  const cases = makeCases();
  const figures: FuzzFigures = { inputs, crashes: 0, stalls: 0, accepted: 0, slowestMs: 0 };
  const reached: Record<string, number> = {};
  const found: string[] = [];
  const report = (kind: "crashes" | "stalls" | "accepted", what: string) => {
    figures[kind]++;
    if (found.length < 20) found.push(`${kind}: ${what}`);
  };
  let memory = process.resourceUsage().maxRSS;

  for (let n = 0; n < inputs; n++) {
    const draws = drawsFrom(seed, n);
    const target = draws.pick(targets);
    const made = draws.pick(cases);
    const input = target.make(made, draws, draws.pick(cases));
    const name = `input ${n} of seed ${options.seed} (${target.name}, ${input.length} bytes)`;
    let ms = Infinity;
    // The same bytes give the same result, so a second look tells a slow input from a slow moment, and so does the processor's time.
    for (let tries = 0; tries < 3 && ms > stallMs / 5; tries++) {
      const start = performance.now();
      const cpu = process.cpuUsage();
      try {
        const result = target.feed(input, made, cases);
        if (tries === 0) {
          reached[`${target.name}: ${result}`] = (reached[`${target.name}: ${result}`] ?? 0) + 1;
          if (result === "forged") report("accepted", name);
        }
      } catch (error) {
        if (tries === 0)
          report("crashes", `${name}: ${error instanceof Error ? error.stack : String(error)}`);
      }
      const { user, system } = process.cpuUsage(cpu);
      ms = Math.min(ms, performance.now() - start, (user + system) / 1000);
    }
    if (ms > stallMs) report("stalls", `${name}: ${ms.toFixed(0)} ms`);
    const grown = process.resourceUsage().maxRSS;
    if ((grown - memory) * 1024 > stallBytes)
      report("stalls", `${name}: ${((grown - memory) / 1024).toFixed(0)} MiB`);
    memory = grown;
    figures.slowestMs = Math.max(figures.slowestMs, ms);
    if (say !== undefined && (n + 1) % 100_000 === 0) say(`  ${n + 1} inputs, ${JSON.stringify(figures)}`);
  }
  return { figures, found, reached };
}

/** What became of an input. `forged`: accepted, and not the honest work. */
type Result = "refused" | "read" | "formed" | "judged" | "accepted" | "forged";

type Target = {
  name: string;
  make(made: Case, draws: Draws, other: Case): Uint8Array;
  feed(input: Uint8Array, made: Case, cases: readonly Case[]): Result;
};

/** One group: what was submitted and measured, and the honest work for the same task. */
type Case = {
  /** What is wrong with the work: nothing, everything, or one token. */
  flaw: "none" | "other policy" | "one token";
  evidence: MadeEvidence;
  /** Honest rollouts; what is accepted has to be these. */
  honest: RolloutPack;
  rollouts: Uint8Array;
  measurement: Uint8Array;
  blind: Uint8Array;
};

function makeCases(): Case[] {
  const worker = { weights: 1, kernel: 1 };
  const edit = (runSpec: RunSpec) => (work: Work) => {
    const rollouts = work.pack.rollouts.map((rollout, i) => {
      if (i > 0) return rollout;
      const tokens = rollout.tokens.slice();
      tokens[2] = (tokens[2]! + 1) % 10;
      return prefilled(runSpec, worker, rollout, tokens);
    });
    return { ...work, pack: { ...work.pack, rollouts } };
  };
  return [smallSpec(), smallSpec(), spec("f32"), spec("bf16")].flatMap((runSpec) => {
    const honest = makeEvidence({ spec: runSpec });
    const all = [
      { flaw: "none" as const, evidence: honest },
      {
        flaw: "other policy" as const,
        evidence: makeEvidence({ spec: runSpec, machine: { weights: 2, kernel: 1 } }),
      },
      { flaw: "one token" as const, evidence: makeEvidence({ spec: runSpec, tamper: edit(runSpec) }) },
    ];
    return all.map(({ flaw, evidence }) => {
      const part = (name: string) => evidence.parts.find((each) => each.name === name)!.bytes;
      return {
        flaw,
        evidence,
        honest: honest.work.pack,
        rollouts: part("rollouts.parquet"),
        measurement: part("measurement.parquet"),
        blind: part("blind.parquet"),
      };
    });
  });
}

const targets: readonly Target[] = [
  ...(["bytes", "parquet", "header"] as const).flatMap((how): Target[] => {
    const mutate = { bytes: mutateBytes, parquet: mutateParquet, header: mutateHeader }[how];
    return [
      {
        name: `rollout pack, ${how}`,
        make: (made, draws, other) => mutate(made.rollouts, draws, other.rollouts),
        feed: feedRollouts,
      },
      {
        name: `measurement pack, ${how}`,
        make: (made, draws, other) => mutate(made.measurement, draws, other.measurement),
        feed: feedMeasurement,
      },
      {
        name: `blind pack, ${how}`,
        make: (made, draws, other) => mutate(made.blind, draws, other.measurement),
        feed: (input) => reads(() => decodeBlindPack(input, limitsOf(input))),
      },
    ];
  }),
  {
    name: "rollout pack, values",
    make: (made, draws) => editedRollouts(made, draws),
    feed: feedRollouts,
  },
  {
    name: "measurement pack, values",
    make: (made, draws) => editedMeasurement(made, draws),
    feed: feedMeasurement,
  },
  {
    name: "rollout pack, random",
    make: (_, draws) => framed(randomBytes(draws, 400), draws),
    feed: feedRollouts,
  },
  {
    name: "measurement pack, random",
    make: (_, draws) => framed(randomBytes(draws, 400), draws),
    feed: feedMeasurement,
  },
  {
    name: "proof",
    make: (made, draws, other) => {
      const proof = draws.pick(draws.pick(made.evidence.work.pack.rollouts).proofs);
      const another = draws.pick(draws.pick(other.evidence.work.pack.rollouts).proofs);
      return draws.below(4) === 0 ? randomBytes(draws, 600) : mutateBytes(proof, draws, another);
    },
    feed: feedProof,
  },
  {
    name: "evidence, bytes",
    make: (made, draws, other) => mutateBytes(made.evidence.bytes, draws, other.evidence.bytes),
    feed: feedEvidence,
  },
  {
    name: "evidence, header",
    make: (made, draws) => editedEvidenceHeader(made.evidence.bytes, draws),
    feed: feedEvidence,
  },
  {
    name: "evidence, sealed again",
    // Costs a hundred times as much as the others, most of it signatures.
    make: (made, draws, other) =>
      draws.below(8) === 0
        ? resealed(made, draws, other)
        : mutateBytes(made.evidence.bytes, draws, other.rollouts),
    feed: feedEvidence,
  },
];

const limitsOf = (input: Uint8Array) => ({ bytes: input.length, rollouts: 64, tokens: 256 });

function reads(read: () => unknown): "read" | "refused" {
  try {
    read();
    return "read";
  } catch (error) {
    if (error instanceof PackError) return "refused";
    throw error;
  }
}

function feedRollouts(input: Uint8Array, made: Case): Result {
  let pack: RolloutPack;
  try {
    pack = decodeRolloutPack(input, limitsOf(input));
  } catch (error) {
    if (error instanceof PackError) return "refused";
    throw error;
  }
  windowFingerprints(pack);
  const { spec: runSpec, work, measurement } = made.evidence;
  const { header } = made.honest;
  const task = { ...work.task, run: header.run, task: header.task };
  if (checkForm({ spec: runSpec, task, pack }).verdict !== "PASS") return "read";
  const rollouts = groupOf(pack, 0, runSpec.generation.groupSize);
  const decision = verifyGroup({
    spec: runSpec,
    task: { ...work.task, blind: measurement.header.blind },
    rollouts,
    measurement: sameTokens(pack, work.pack) ? measurement : honestMeasurement(made, pack),
    decoyKey: [1, 2],
  });
  if (decision.verdict !== "ACCEPTED") return "judged";
  return sameWork(pack, made) ? "accepted" : "forged";
}

/** What an honest validator finds for these rollouts: it measures what was submitted, whatever that is. */
function honestMeasurement({ evidence }: Case, pack: RolloutPack): MeasurementPack {
  const measured = measure(evidence.spec, { weights: 1, kernel: 2 }, { ...evidence.work, pack });
  return { ...measured, header: evidence.measurement.header };
}

function sameTokens(a: RolloutPack, b: RolloutPack): boolean {
  return a.rollouts.every(({ tokens }, i) => String(tokens) === String(b.rollouts[i]?.tokens));
}

/** Whether it is the honest pack: nothing may differ but claimed log-probabilities and proven values, by what two honest machines may. */
function sameWork(pack: RolloutPack, { honest, evidence }: Case): boolean {
  const { form, thresholds } = evidence.spec.verification;
  const limit = 2 * thresholds.logProbability;
  return (
    canonicalJson(pack.header) === canonicalJson(honest.header) &&
    pack.rollouts.length === honest.rollouts.length &&
    pack.rollouts.every((rollout, i) => {
      const other = honest.rollouts[i]!;
      return (
        rollout.index === other.index &&
        rollout.finish === other.finish &&
        String(rollout.prompt) === String(other.prompt) &&
        String(rollout.tokens) === String(other.tokens) &&
        rollout.proofs.length === other.proofs.length &&
        rollout.proofs.every((proof, at) => sameProof(proof, other.proofs[at]!, form)) &&
        rollout.logprobs.every((p, at) => Math.abs(p - other.logprobs[at]!) <= limit)
      );
    })
  );
}

function feedMeasurement(input: Uint8Array, made: Case): Result {
  let measurement: MeasurementPack;
  try {
    measurement = decodeMeasurementPack(input, limitsOf(input));
  } catch (error) {
    if (error instanceof PackError) return "refused";
    throw error;
  }
  const { spec: runSpec, work } = made.evidence;
  compareMeasurements(made.evidence.measurement, measurement, { spec: runSpec });
  const decision = verifyGroup({
    spec: runSpec,
    task: { ...work.task, blind: made.evidence.measurement.header.blind },
    rollouts: work.pack.rollouts,
    measurement,
    decoyKey: [1, 2],
  });
  if (decision.measurementFault) return "read";
  if (decision.verdict !== "ACCEPTED") return "judged";
  // A validator that means to can accept anything; noise must not do it for it. (One bit may well decide over one token's margin.)
  if (made.flaw === "one token") return "judged";
  return sameWork(work.pack, made) ? "accepted" : "forged";
}

function feedProof(input: Uint8Array, made: Case): Result {
  const { form, topK, thresholds } = made.evidence.spec.verification;
  const { indices, values } = made.evidence.measurement.rollouts[0]!.windows[0]!;
  if (indices.length !== topK) throw new Error("the first window of every case has room for all points");
  let proof: Proof;
  try {
    proof = decodeProof(input, { k: topK, form });
  } catch (error) {
    if (error instanceof ProofError) return "refused";
    throw error;
  }
  const { hits } = countDecoys(proof, indices, values, (i) => Math.imul(i + 1, 0x9e3779b1) >>> 0);
  // As the form check has it for windows of this size.
  if (proof.modulus !== PRIME) return "read";
  const distance: Record<string, number> =
    proof.form === "f32"
      ? compareF32(proof, indices, values)
      : { ...compareBf16(proof, indices, values), decoys: hits };
  const limits: Record<string, number> = { ...thresholds, signMismatches: thresholds.exponentMismatches };
  if (hits > thresholds.decoys || Object.entries(distance).some(([name, found]) => found > limits[name]!))
    return "judged";
  const rollouts = made.evidence.work.pack.rollouts;
  return rollouts.some(({ proofs }) => sameProof(input, proofs[0]!, form)) ? "accepted" : "forged";
}

/**
 * Equal, or apart by what is within the noise of honest machines: a polynomial whose lowest two coefficients are a little different
 * gives values that are a little different. (In f32 that is the one of the low halves.)
 */
function sameProof(a: Uint8Array, b: Uint8Array, form: "f32" | "bf16"): boolean {
  if (a.length !== b.length) return false;
  const word = (bytes: Uint8Array, at: number) => bytes[2 * at]! * 256 + bytes[2 * at + 1]!;
  const lowest = form === "f32" ? 1 + (a.length - 2) / 4 : 1;
  for (let at = 0; 2 * at < a.length; at++) {
    const apart = Math.abs(word(a, at) - word(b, at));
    const noise = at === lowest ? 128 : at === lowest + 1 ? 2 : 0;
    if (Math.min(apart, PRIME - apart) > noise) return false;
  }
  return true;
}

function feedEvidence(input: Uint8Array, made: Case, cases: readonly Case[]): Result {
  try {
    const evidence = openEvidence(input);
    const { decision } = judgeEvidence(evidence);
    // A splice may be one of the bundles again, whole.
    if (cases.some(({ evidence: { bytes } }) => hashHex(bytes) === evidence.sha256)) return "accepted";
    // Only bytes that everybody signed anew get this far.
    if (decision.verdict !== "ACCEPTED") return "judged";
    return sameWork(evidence.pack, made) ? "accepted" : "forged";
  } catch (error) {
    if (error instanceof EvidenceError) return "refused";
    throw error;
  }
}

/** Random bytes, half of the time between Parquet's magic numbers with a footer length. */
function framed(body: Uint8Array, draws: Draws): Uint8Array {
  if (draws.below(2) === 0 || body.length < 16) return body;
  const bytes = body.slice();
  bytes.set([0x50, 0x41, 0x52, 0x31]);
  bytes.set([0x50, 0x41, 0x52, 0x31], bytes.length - 4);
  new DataView(bytes.buffer).setUint32(bytes.length - 8, draws.below(bytes.length), true);
  return bytes;
}

/** A well-formed pack with other values; what does not encode is left as it was and loses a byte. */
function editedRollouts({ evidence, rollouts: original }: Case, draws: Draws): Uint8Array {
  const pack = structuredClone(evidence.work.pack);
  for (let n = 1 + draws.below(3); n > 0; n--) {
    const at = draws.below(pack.rollouts.length);
    const rollout = pack.rollouts[at]!;
    switch (draws.below(8)) {
      case 0:
        rollout.tokens[draws.below(rollout.tokens.length)] = draws.below(16);
        break;
      case 1: {
        const end = draws.below(rollout.tokens.length) + 1;
        rollout.tokens = rollout.tokens.slice(0, end);
        rollout.logprobs = rollout.logprobs.slice(0, end);
        rollout.finish = draws.pick(["eos", "length"] as const);
        rollout.proofs = rollout.proofs.slice(0, Math.ceil(end / 32));
        break;
      }
      case 2:
        rollout.logprobs[draws.below(rollout.logprobs.length)]! += draws.pick([
          -1, -0.01, -1e-6, 1e-6, 0.01, 1,
        ]);
        break;
      case 3:
      case 4: {
        const which = draws.below(rollout.proofs.length);
        rollout.proofs[which] = mutateBytes(rollout.proofs[which]!, draws, draws.pick(rollout.proofs));
        break;
      }
      case 5: {
        const other = draws.pick(pack.rollouts);
        rollout.proofs = structuredClone(other.proofs);
        break;
      }
      case 6:
        rollout.prompt[draws.below(rollout.prompt.length)] = draws.below(16);
        break;
      default: {
        // The right length, another coefficient or modulus.
        const proof = rollout.proofs[0]!;
        const word = draws.below(Math.max(1, proof.length >> 1));
        if (proof.length > 1)
          new DataView(proof.buffer, proof.byteOffset).setUint16(2 * word, draws.below(65_497));
      }
    }
  }
  return encoded(() => encodeRolloutPack(pack), original);
}

function editedMeasurement({ evidence, measurement: original }: Case, draws: Draws): Uint8Array {
  const pack = structuredClone(evidence.measurement);
  const rollout = draws.pick(pack.rollouts);
  const window = draws.pick(rollout.windows);
  const at = draws.below(rollout.argmax.length);
  const point = draws.below(window.values.length);
  switch (draws.below(6)) {
    case 0:
      rollout.logprobs[at] = draws.pick([0, -1e30, 3.4e38, -0]);
      break;
    case 1:
      // Never downwards: a validator that calls a wrong token right is believed, until it is measured itself.
      rollout.margins[at]! += draws.pick([1e-4, 1, 1e30, Infinity]);
      break;
    case 2:
      rollout.argmax[at] = draws.below(64);
      break;
    case 3:
      window.values[point] = draws.pick([0, -0, 1e-45, 3.4e38, -1]);
      break;
    case 4:
      window.indices[point] = draws.below(4096);
      break;
    default:
      rollout.windows.push(window);
  }
  return encoded(() => encodeMeasurementPack(pack), original);
}

function encoded(encode: () => Uint8Array, original: Uint8Array): Uint8Array {
  try {
    return encode();
  } catch (error) {
    if (error instanceof PackError) return original.slice(0, -1);
    throw error;
  }
}

/** The header's JSON changed and its length put right, under the old signature. */
function editedEvidenceHeader(bytes: Uint8Array, draws: Draws): Uint8Array {
  const start = 22;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const end = start + view.getUint32(18);
  const header = new TextDecoder().decode(bytes.subarray(start, end));
  const changed = new TextEncoder().encode(mutateJson(header, draws));
  const whole = new Uint8Array(start + changed.length + bytes.length - end);
  whole.set(bytes.subarray(0, start));
  whole.set(changed, start);
  whole.set(bytes.subarray(end), start + changed.length);
  new DataView(whole.buffer).setUint32(18, changed.length);
  return whole;
}

/** One part changed, and everything signed again by everybody: what a coordinator and nodes that conspire could write. */
function resealed(made: Case, draws: Draws, other: Case): Uint8Array {
  const { header, parts } = made.evidence;
  const which = draws.below(parts.length);
  const changed: EvidencePart[] = parts.map((part, i) =>
    i === which ? { name: part.name, bytes: editedPart(part, made, draws, other) } : part,
  );
  const specHash = hashHex(changed.find(({ name }) => name === "spec.json")?.bytes ?? "");
  try {
    return sealed(resigned({ ...header, specHash }, changed), changed);
  } catch (error) {
    if (error instanceof EvidenceError) return made.evidence.bytes.slice(1);
    throw error;
  }
}

function editedPart({ name, bytes }: EvidencePart, made: Case, draws: Draws, other: Case): Uint8Array {
  if (name === "rollouts.parquet" && draws.below(2) === 0) return editedRollouts(made, draws);
  if (name === "measurement.parquet" && draws.below(2) === 0) return editedMeasurement(made, draws);
  if (name.endsWith(".json"))
    return new TextEncoder().encode(mutateJson(new TextDecoder().decode(bytes), draws));
  return draws.pick([mutateBytes, mutateParquet, mutateHeader])(bytes, draws, other.rollouts);
}
