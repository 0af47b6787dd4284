/**
 * Evidence bundles: everything that decided a group in one file, so that anyone judges it again with nothing but this package. Layout:
 * `MUSTER-EVIDENCE/1\n`, the header's length as u32 BE, the header as canonical JSON, the parts' bytes in the header's order, and the
 * coordinator's Ed25519 signature. Nothing in a bundle is outside its signature, so one changed bit is noticed.
 */

import {
  type BlindPack,
  canonicalJson,
  hashHex,
  type Manifest,
  type MeasurementPack,
  manifestBytes,
  type PackedRollout,
  prefixOf,
  type RolloutPack,
  type RunSpec,
  signed,
  submissionBytes,
} from "@muster/protocol";
import { ed25519 } from "@noble/curves/ed25519.js";
import { z } from "zod";
import { compareMeasurements } from "./agreement.ts";
import { readParts } from "./bundle-parts.ts";
import type { CheckResult } from "./check.ts";
import type { GroupTask } from "./evidence.ts";
import { EvidenceError } from "./evidence-error.ts";
import { type GroupDecision, verifyGroup } from "./verify-group.ts";

const hex64 = z.string().regex(/^[0-9a-f]{64}$/);
const signature = z.string().regex(/^[0-9a-f]{128}$/);
const u32 = z.int().min(0).max(0xffffffff);
const typeId = (prefix: string) => z.string().refine((id) => prefixOf(id) === prefix, `an id ${prefix}_…`);
const figures = z.record(z.string(), z.union([z.number(), z.string()]));
const checkSchema = z.strictObject({
  id: z.enum(["form", "duplicates", "activations", "decoys", "sampling", "log-probabilities", "reward"]),
  verdict: z.enum(["PASS", "FAIL", "INCONCLUSIVE"]),
  observed: figures,
  expected: figures,
  threshold: figures,
  note: z.string(),
  plain: z.string(),
});

const headerSchema = z.strictObject({
  kind: z.literal("evidence"),
  version: z.literal(1),
  /** The coordinator's Ed25519 public key, raw 32 bytes. Compare it with the one the coordinator publishes. */
  coordinator: hex64,
  parts: z
    .array(
      z.strictObject({
        name: z
          .string()
          .regex(
            /^(?:spec\.json|manifest\.json|(?:rollouts|blind|measurement)\.parquet|checkpoint\/(?:0|[1-9]\d{0,5}))$/,
          ),
        size: z.int().min(0),
        sha256: hex64,
      }),
    )
    .max(100_000)
    .refine((parts) => new Set(parts.map(({ name }) => name)).size === parts.length, "one part a name"),
  run: typeId("run"),
  group: typeId("group"),
  /** The GENERATE task, the attempt that answered it, and the group's place in it. */
  task: typeId("task"),
  attempt: z.int().min(1),
  index: z.int().min(0),
  policyVersion: z.int().min(0),
  revision: z.int().min(1),
  specHash: hex64,
  environment: z.strictObject({ slug: z.string(), hash: hex64 }),
  worker: z.strictObject({ node: typeId("node"), publicKey: hex64, signature }),
  /** Who measured, under which VERIFY task; null when nobody did. */
  validator: z
    .strictObject({
      node: typeId("node"),
      publicKey: hex64,
      task: typeId("task"),
      attempt: z.int().min(1),
      signature,
    })
    .nullable(),
  verdict: z
    .strictObject({ verdict: z.enum(["ACCEPTED", "REJECTED", "INCONCLUSIVE"]), checks: z.array(checkSchema) })
    .nullable(),
  /** How it was accepted; null when it was not. */
  acceptance: z.enum(["AUDITED", "TRUSTED"]).nullable(),
  decoyKey: z.tuple([u32, u32]),
  audit: z.strictObject({ rate: z.number().min(0).max(1), epoch: z.int().min(0), keyHash: hex64 }),
  /** Its place in the run's audit log, once it has one. */
  auditEntry: z.strictObject({ seq: z.int().min(1), hash: hex64 }).optional(),
  createdAt: z.iso.datetime(),
});

/** What a bundle says of itself. */
export type EvidenceHeader = z.output<typeof headerSchema>;
export type EvidencePart = { name: string; bytes: Uint8Array };

/** An opened bundle: every hash and signature in it is right, and its parts belong together. */
export type Evidence = {
  header: EvidenceHeader;
  /** SHA-256 of the whole bundle. */
  sha256: string;
  spec: RunSpec;
  /** What the group had to answer, derived from the spec's seed and the task. */
  task: GroupTask;
  /** The whole pack of the task … */
  pack: RolloutPack;
  /** … and this group's rollouts. */
  rollouts: readonly PackedRollout[];
  blind: BlindPack | null;
  measurement: MeasurementPack | null;
  manifest: Manifest;
  /** The checkpoint's shards in the manifest's order; null when they are not in the bundle. */
  checkpoint: readonly Uint8Array[] | null;
  /** Every part by its name. */
  parts: ReadonlyMap<string, Uint8Array>;
};

/** What judging a bundle again gave. */
export type EvidenceJudgement = {
  decision: GroupDecision;
  /** Whether that is what the bundle says. */
  agrees: boolean;
  /** What is not, one sentence each. */
  differences: string[];
};

/**
 * Writes a bundle.
 * @param header everything but what follows from the parts.
 * @param parts in this order: `spec.json` (canonical JSON), `rollouts.parquet`, `blind.parquet` and `measurement.parquet` when there are
 *   any, `manifest.json`, and either every shard of the checkpoint (`checkpoint/<n>`, n counting through the manifest's files) or none.
 * @param sign Ed25519 (RFC 8032) over exactly the bytes it is given, which carry their domain; 64 bytes.
 * @throws EvidenceError `WRONG_HEADER` for a header that would not open.
 */
export function encodeEvidence(
  header: Omit<EvidenceHeader, "kind" | "version" | "parts">,
  parts: readonly EvidencePart[],
  sign: (digest: Uint8Array) => Uint8Array,
): Uint8Array {
  const listed = parts.map(({ name, bytes }) => ({ name, size: bytes.length, sha256: hashHex(bytes) }));
  const parsed = headerSchema.safeParse({ ...header, kind: "evidence", version: 1, parts: listed });
  if (!parsed.success) throw wrongHeader(parsed.error);
  const json = new TextEncoder().encode(canonicalJson(parsed.data));
  if (json.length > maxHeaderBytes) throw new EvidenceError("WRONG_HEADER", "The header is too long.");
  const length = new Uint8Array(4);
  new DataView(length.buffer).setUint32(0, json.length);
  const body = joined([magic, length, json, ...parts.map(({ bytes }) => bytes)]);
  const seal = sign(evidenceBytes(body));
  if (seal.length !== signatureBytes)
    throw new RangeError(`An Ed25519 signature has 64 bytes, not ${seal.length}.`);
  return joined([body, seal]);
}

/**
 * Opens a bundle and checks all that can be checked without a model: layout and every hash; the coordinator's signature over
 * everything, the worker's and the validator's over their submissions, the trainer's over the manifest; that the spec has its hash and
 * the packs answer this run, task and manifest; that the prompts follow from the seed and the task; that the BLIND pack is this group's.
 * Work and memory are linear in the bytes.
 *
 * The key in the header is the bundle's own word: whoever relies on the coordinator compares it with the published one.
 *
 * @throws EvidenceError for everything else.
 */
export function openEvidence(bytes: Uint8Array): Evidence {
  const { header, parts } = readContainer(bytes);
  const body = bytes.subarray(0, bytes.length - signatureBytes);
  if (!verifies(header.coordinator, evidenceBytes(body), bytes.subarray(-signatureBytes)))
    throw new EvidenceError("WRONG_SIGNATURE", "The coordinator's signature does not fit these bytes.");
  checkNodeSignatures(header);
  const contents = readParts(header, parts);
  const { manifest } = contents;
  if (!verifies(manifest.trainer, manifestBytes(manifest), fromHex(manifest.signature)))
    throw new EvidenceError("WRONG_SIGNATURE", "The manifest's signature is not its trainer's.");
  return { header, sha256: hashHex(bytes), parts, ...contents };
}

/**
 * Judges a bundle again. With the stored measurement every verdict and number must come out as recorded, to the last digit. With a
 * fresh one (made on another machine, so not to the last digit) the verdicts must, and the two measurements must agree.
 *
 * @param measurement a fresh measurement of the group, in place of the stored one.
 */
export function judgeEvidence(evidence: Evidence, measurement?: MeasurementPack): EvidenceJudgement {
  const { header, spec, task, rollouts } = evidence;
  const decision = verifyGroup({
    spec,
    task,
    rollouts,
    measurement: measurement ?? evidence.measurement,
    decoyKey: header.decoyKey,
  });
  const differences: string[] = [];
  const recorded = header.verdict;
  if (recorded === null) {
    // Nobody measured: only a fresh measurement can confirm it, and only a failed check contradicts it.
    const confirmed =
      decision.verdict === "ACCEPTED" || (measurement === undefined && decision.verdict !== "REJECTED");
    if (!confirmed) differences.push(`Nobody had measured it; it is ${decision.verdict}.`);
  } else {
    if (recorded.verdict !== decision.verdict)
      differences.push(`Recorded as ${recorded.verdict}; it is ${decision.verdict}.`);
    differences.push(...checkDifferences(recorded.checks, decision.checks, measurement === undefined));
  }
  if (measurement !== undefined && evidence.measurement !== null) {
    const { agrees, note } = compareMeasurements(evidence.measurement, measurement, { spec });
    if (!agrees) differences.push(`The measurements disagree. ${note}`);
  }
  return { decision, agrees: differences.length === 0, differences };
}

/** What the coordinator signs for everything before its signature: `"muster/evidence/v1\0"` and canonical JSON of `{sha256}`. */
function evidenceBytes(body: Uint8Array): Uint8Array {
  return signed("muster/evidence/v1", { sha256: hashHex(body) });
}

const magic = new TextEncoder().encode("MUSTER-EVIDENCE/1\n");
const signatureBytes = 64;
const maxHeaderBytes = 16 * 2 ** 20;
const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

function readContainer(bytes: Uint8Array): { header: EvidenceHeader; parts: Map<string, Uint8Array> } {
  if (magic.some((byte, i) => i < bytes.length && bytes[i] !== byte))
    throw new EvidenceError("WRONG_MAGIC", "This is not an evidence bundle.");
  const headerStart = magic.length + 4;
  if (bytes.length < headerStart + signatureBytes) throw truncated();
  const length = new DataView(bytes.buffer, bytes.byteOffset).getUint32(magic.length);
  if (length > maxHeaderBytes)
    throw new EvidenceError(
      "WRONG_HEADER",
      `The header has ${length} bytes; at most ${maxHeaderBytes} are read.`,
    );
  const partsStart = headerStart + length;
  if (bytes.length < partsStart + signatureBytes) throw truncated();
  const header = readHeader(bytes.subarray(headerStart, partsStart));
  const end = header.parts.reduce((at, { size }) => at + size, partsStart);
  if (bytes.length < end + signatureBytes) throw truncated();
  if (bytes.length > end + signatureBytes)
    throw new EvidenceError("WRONG_PART", "The bundle goes on after its signature.");
  const parts = new Map<string, Uint8Array>();
  let at = partsStart;
  for (const { name, size, sha256 } of header.parts) {
    const part = bytes.subarray(at, at + size);
    if (hashHex(part) !== sha256)
      throw new EvidenceError("WRONG_PART", `${name} does not have the hash that the header names.`);
    parts.set(name, part);
    at += size;
  }
  return { header, parts };
}

function readHeader(bytes: Uint8Array): EvidenceHeader {
  let text: string;
  let json: unknown;
  try {
    text = utf8.decode(bytes);
    json = JSON.parse(text);
  } catch (cause) {
    throw new EvidenceError("WRONG_HEADER", "The header is not JSON.", { cause });
  }
  const parsed = headerSchema.safeParse(json);
  if (!parsed.success) throw wrongHeader(parsed.error);
  if (canonicalText(parsed.data) !== text)
    throw new EvidenceError("WRONG_HEADER", "The header is not canonical JSON.");
  return parsed.data;
}

function canonicalText(header: EvidenceHeader): string | undefined {
  try {
    return canonicalJson(header);
  } catch {
    return undefined; // half a surrogate pair, which JSON.parse lets through
  }
}

function checkNodeSignatures({ run, task, attempt, parts, worker, validator }: EvidenceHeader): void {
  const hashOf = (name: string) => parts.find((part) => part.name === name)?.sha256;
  const pack = hashOf("rollouts.parquet");
  if (pack === undefined) throw new EvidenceError("WRONG_PART", "The bundle has no rollouts.parquet.");
  const submitted = submissionBytes({ run, task, attempt, pack });
  if (!verifies(worker.publicKey, submitted, fromHex(worker.signature)))
    throw new EvidenceError("WRONG_SIGNATURE", "The worker has not signed these rollouts for this task.");
  const measurement = hashOf("measurement.parquet");
  if ((measurement === undefined) !== (validator === null))
    throw new EvidenceError("WRONG_PART", "A measurement and a validator come together or not at all.");
  if (measurement === undefined || validator === null) return;
  const measured = submissionBytes({
    run,
    task: validator.task,
    attempt: validator.attempt,
    pack: measurement,
  });
  if (!verifies(validator.publicKey, measured, fromHex(validator.signature)))
    throw new EvidenceError("WRONG_SIGNATURE", "The validator has not signed this measurement.");
}

/** RFC 8032, strictly: one signature has one encoding. False for a key that is no point of the curve. */
function verifies(publicKey: string, message: Uint8Array, seal: Uint8Array): boolean {
  try {
    return ed25519.verify(seal, message, fromHex(publicKey), { zip215: false });
  } catch {
    return false;
  }
}

function checkDifferences(
  recorded: readonly CheckResult[],
  found: readonly CheckResult[],
  numbers: boolean,
): string[] {
  const ids = [...new Set([...recorded, ...found].map(({ id }) => id))];
  return ids.flatMap((id) => {
    const before = recorded.find((check) => check.id === id);
    const now = found.find((check) => check.id === id);
    if (before === undefined || now === undefined)
      return [`${id}: ${before === undefined ? "not on record" : "on record and no longer made"}.`];
    if (before.verdict !== now.verdict)
      return [`${id}: recorded as ${before.verdict}; it is ${now.verdict}.`];
    if (!numbers) return [];
    return (["observed", "expected", "threshold"] as const).flatMap((part) => {
      const [was, is] = [canonicalJson(before[part]), canonicalJson(now[part])];
      return was === is ? [] : [`${id}: ${part} on record ${was}; it is ${is}.`];
    });
  });
}

function wrongHeader(error: z.ZodError): EvidenceError {
  const [issue] = error.issues;
  const where = issue?.path.map(String).join(".") || "header";
  return new EvidenceError("WRONG_HEADER", `The header is wrong: ${where}: ${issue?.message ?? "wrong"}.`);
}

function truncated(): EvidenceError {
  return new EvidenceError("TRUNCATED", "The bundle ends early. Fetch it again.");
}

function joined(pieces: readonly Uint8Array[]): Uint8Array {
  const all = new Uint8Array(pieces.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const piece of pieces) {
    all.set(piece, at);
    at += piece.length;
  }
  return all;
}

function fromHex(hex: string): Uint8Array {
  return Uint8Array.from({ length: hex.length / 2 }, (_, i) =>
    Number.parseInt(hex.slice(2 * i, 2 * i + 2), 16),
  );
}
