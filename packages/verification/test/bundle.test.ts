import { decodeMeasurementPack, encodeBlindPack, encodeRolloutPack } from "@muster/protocol";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  EvidenceError,
  type EvidenceErrorCode,
  type EvidencePart,
  judgeEvidence,
  openEvidence,
  verifyGroup,
} from "../src/index.ts";
import { keyOf, type MadeEvidence, makeEvidence, resigned, sealed } from "./evidence-fixture.ts";
import { measure, spec } from "./tiny-policy.ts";

const small = makeEvidence();
const large = makeEvidence({ spec: spec("f32") });

function codeOf(act: () => unknown): EvidenceErrorCode | "opened" {
  try {
    act();
  } catch (error) {
    if (error instanceof EvidenceError) return error.code;
    throw error;
  }
  return "opened";
}

/** What a coordinator that signs anything would send: `change` comes before every signature but the workers' own. */
function forged(
  made: MadeEvidence,
  change: (made: { header: MadeEvidence["header"]; parts: EvidencePart[] }) => void,
  { nodesSign = true } = {},
): Uint8Array {
  const copy = structuredClone({ header: made.header, parts: made.parts });
  change(copy);
  return sealed(nodesSign ? resigned(copy.header, copy.parts) : copy.header, copy.parts);
}

function replace(parts: EvidencePart[], name: string, bytes: Uint8Array): void {
  const found = parts.find((part) => part.name === name);
  if (found === undefined) throw new Error(`no part ${name}`);
  found.bytes = bytes;
}

test("a bundle opens to what was put into it", () => {
  const evidence = openEvidence(small.bytes);
  expect(evidence.header).toMatchObject(small.header);
  expect(evidence.spec).toEqual(small.spec);
  expect(evidence.pack).toEqual(small.work.pack);
  expect(evidence.rollouts).toEqual(small.work.pack.rollouts);
  expect(evidence.measurement).toEqual(small.measurement);
  expect(evidence.task).toMatchObject({
    ...small.work.task,
    promptTokens: expect.anything(),
    blind: small.measurement.header.blind,
  });
  expect(evidence.checkpoint?.map((shard) => shard.length)).toEqual([32, 32, 2]);
  expect([...evidence.parts.keys()]).toEqual(small.parts.map(({ name }) => name));
  expect(sealed(small.header, small.parts)).toEqual(small.bytes);
});

test("a bundle without its checkpoint, measurement and verdict opens too", () => {
  const light = makeEvidence({ checkpoint: false });
  expect(openEvidence(light.bytes).checkpoint).toBeNull();
  const trusted = forged(light, ({ header, parts }) => {
    parts.splice(2, 2);
    Object.assign(header, { validator: null, verdict: null, acceptance: "TRUSTED" });
  });
  const evidence = openEvidence(trusted);
  expect(evidence).toMatchObject({ blind: null, measurement: null });
  expect(judgeEvidence(evidence)).toMatchObject({ agrees: true, decision: { verdict: "INCONCLUSIVE" } });
  expect(judgeEvidence(evidence, light.measurement)).toMatchObject({
    agrees: true,
    decision: { verdict: "ACCEPTED" },
  });
});

test("every flipped bit of a bundle is noticed", { timeout: 120_000 }, () => {
  // Without its sentences: most of what is left is numbers, hashes and signatures, and each byte costs a verification.
  const whole = forged(small, ({ header }) => {
    for (const check of header.verdict?.checks ?? []) Object.assign(check, { plain: "", note: "" });
  });
  expect(openEvidence(whole).header.verdict?.verdict).toBe("ACCEPTED");
  for (let at = 0; at < whole.length; at++) {
    const bytes = whole.slice();
    // Every bit of a byte has its turn as the position advances.
    bytes[at]! ^= 1 << (at % 8);
    if (codeOf(() => openEvidence(bytes)) === "opened") expect.fail(`byte ${at} may be changed`);
  }
});

test("any flipped bit of a larger bundle is noticed", () => {
  fc.assert(
    fc.property(fc.nat(large.bytes.length * 8 - 1), (bit) => {
      const bytes = large.bytes.slice();
      bytes[bit >> 3]! ^= 1 << (bit & 7);
      expect(codeOf(() => openEvidence(bytes))).not.toBe("opened");
    }),
    { numRuns: 400 },
  );
});

test("every beginning of a bundle is refused, and so is a bundle that goes on", () => {
  for (let length = 0; length < small.bytes.length; length += 13)
    expect(codeOf(() => openEvidence(small.bytes.subarray(0, length)))).toBe("TRUNCATED");
  expect(codeOf(() => openEvidence(Uint8Array.of(...small.bytes, 0)))).toBe("WRONG_PART");
  expect(codeOf(() => openEvidence(new TextEncoder().encode("PAR1 is something else")))).toBe("WRONG_MAGIC");
});

describe("a bundle that the coordinator signs is refused when", () => {
  const cases: [string, EvidenceErrorCode, Parameters<typeof forged>[1], { nodesSign: boolean }?][] = [
    [
      "the worker signed another pack",
      "WRONG_SIGNATURE",
      ({ parts }) => {
        const { pack } = small.work;
        const rollouts = pack.rollouts.map((rollout) => ({
          ...rollout,
          logprobs: rollout.logprobs.map(() => -1),
        }));
        replace(parts, "rollouts.parquet", encodeRolloutPack({ ...pack, rollouts }));
      },
      { nodesSign: false },
    ],
    [
      "the worker signed for another attempt",
      "WRONG_SIGNATURE",
      ({ header }) => {
        header.attempt = 2;
      },
      { nodesSign: false },
    ],
    [
      "the worker's key is another",
      "WRONG_SIGNATURE",
      ({ header }) => {
        header.worker.publicKey = keyOf("somebody").publicKey;
      },
      { nodesSign: false },
    ],
    [
      "the worker's key is a point of small order, under which anything verifies",
      "WRONG_SIGNATURE",
      ({ header }) => {
        header.worker.publicKey = `01${"0".repeat(62)}`;
        header.worker.signature = `01${"0".repeat(126)}`;
      },
      { nodesSign: false },
    ],
    [
      "the validator's signature is for another task",
      "WRONG_SIGNATURE",
      ({ header }) => {
        if (header.validator !== null) header.validator.task = header.task;
      },
      { nodesSign: false },
    ],
    [
      "the pack is of another task",
      "WRONG_PART",
      ({ parts }) => {
        const { pack } = small.work;
        const task = "task_01h455vb4pex5vsknk084sn02q";
        replace(parts, "rollouts.parquet", encodeRolloutPack({ ...pack, header: { ...pack.header, task } }));
      },
    ],
    [
      "the pack is of another manifest",
      "WRONG_PART",
      ({ parts }) => {
        const { pack } = small.work;
        const manifest = "a".repeat(64);
        replace(
          parts,
          "rollouts.parquet",
          encodeRolloutPack({ ...pack, header: { ...pack.header, manifest } }),
        );
      },
    ],
    [
      "a prompt does not follow from the seed",
      "WRONG_PART",
      ({ parts }) => {
        const { pack } = small.work;
        const rollouts = pack.rollouts.map((rollout) => ({
          ...rollout,
          prompt: rollout.prompt.toReversed(),
        }));
        replace(parts, "rollouts.parquet", encodeRolloutPack({ ...pack, rollouts }));
      },
    ],
    [
      "the BLIND pack is another group's",
      "WRONG_PART",
      ({ parts }) => {
        const blind = openEvidence(small.bytes).blind;
        if (blind === null) throw new Error("no BLIND pack");
        const rollouts = blind.rollouts.map((rollout) => ({ ...rollout, key: [1, 2] as [number, number] }));
        replace(parts, "blind.parquet", encodeBlindPack({ ...blind, rollouts }));
      },
    ],
    [
      "the spec is another",
      "WRONG_PART",
      ({ header }) => {
        header.specHash = "0".repeat(64);
      },
    ],
    [
      "the version is another",
      "WRONG_PART",
      ({ header }) => {
        header.policyVersion = 4;
      },
    ],
    [
      "the group is not in the pack",
      "WRONG_PART",
      ({ header }) => {
        header.index = 5;
      },
    ],
    [
      "the environment is another",
      "WRONG_HEADER",
      ({ header }) => {
        header.environment.hash = "0".repeat(64);
      },
    ],
    ["there is a verdict and no measurement", "WRONG_PART", ({ parts }) => void parts.splice(3, 1)],
    [
      "there is a measurement and no verdict",
      "WRONG_HEADER",
      ({ header }) => {
        header.verdict = null;
      },
    ],
    ["a shard is missing", "WRONG_PART", ({ parts }) => void parts.pop()],
    [
      "two shards are exchanged",
      "WRONG_PART",
      ({ parts }) => {
        const [a, b] = parts.slice(-3);
        if (a !== undefined && b !== undefined) [a.bytes, b.bytes] = [b.bytes, a.bytes];
      },
    ],
    ["the spec is missing", "WRONG_PART", ({ parts }) => void parts.shift()],
  ];
  test.each(cases)("%s", (_, code, change, options) => {
    expect(codeOf(() => openEvidence(forged(small, change, options)))).toBe(code);
  });
});

test("a header that would not open is not written", () => {
  expect(codeOf(() => sealed({ ...small.header, revision: 0 }, small.parts))).toBe("WRONG_HEADER");
  expect(codeOf(() => sealed(small.header, [...small.parts, ...small.parts]))).toBe("WRONG_HEADER");
  expect(codeOf(() => sealed(small.header, [{ name: "notes.txt", bytes: new Uint8Array(1) }]))).toBe(
    "WRONG_HEADER",
  );
});

describe.each(["f32", "bf16"] as const)("judged again, in the %s form,", (form) => {
  const runSpec = spec(form);

  test("a rejected group is rejected with the same numbers", () => {
    const old = makeEvidence({ spec: runSpec, machine: { weights: 2, kernel: 1 } });
    const evidence = openEvidence(old.bytes);
    expect(evidence.header.verdict?.verdict).toBe("REJECTED");
    const judgement = judgeEvidence(evidence);
    expect(judgement).toMatchObject({ agrees: true, differences: [] });
    expect(JSON.parse(JSON.stringify(judgement.decision.checks))).toEqual(evidence.header.verdict?.checks);
  });

  test("a fresh measurement on a third machine gives the same verdict", () => {
    const made = makeEvidence({ spec: runSpec });
    const fresh = measure(runSpec, { weights: 1, kernel: 0 }, made.work);
    const named = { ...fresh, header: made.measurement.header };
    expect(judgeEvidence(openEvidence(made.bytes), named)).toMatchObject({ agrees: true, differences: [] });
  });
});

test("a verdict that the parts do not bear out is a difference", () => {
  const rejected = forged(small, ({ header }) => {
    if (header.verdict === null) throw new Error("no verdict");
    header.verdict.verdict = "REJECTED";
    const activations = header.verdict.checks.find(({ id }) => id === "activations");
    if (activations === undefined) throw new Error("no activations check");
    activations.verdict = "FAIL";
  });
  const judgement = judgeEvidence(openEvidence(rejected));
  expect(judgement.agrees).toBe(false);
  expect(judgement.differences).toEqual([
    "Recorded as REJECTED; it is ACCEPTED.",
    "activations: recorded as FAIL; it is PASS.",
  ]);
});

test("a number on record that is not the measured one is a difference", () => {
  const bent = forged(small, ({ header }) => {
    const decoys = header.verdict?.checks.find(({ id }) => id === "decoys");
    if (decoys !== undefined) decoys.observed.hits = 3.5;
  });
  expect(judgeEvidence(openEvidence(bent)).differences).toEqual([
    expect.stringContaining("decoys: observed"),
  ]);
});

test("a fresh measurement that contradicts the stored one is a difference", () => {
  const lying = measure(small.spec, { weights: 9, kernel: 2 }, small.work);
  const fresh = { ...lying, header: small.measurement.header };
  const judgement = judgeEvidence(openEvidence(small.bytes), fresh);
  expect(judgement.agrees).toBe(false);
  expect(judgement.differences.at(-1)).toContain("The measurements disagree.");
});

test("what a bundle is judged by is what the coordinator judged by", () => {
  const { task, rollouts, measurement, header, spec: runSpec } = openEvidence(large.bytes);
  const decision = verifyGroup({ spec: runSpec, task, rollouts, measurement, decoyKey: header.decoyKey });
  expect(JSON.parse(JSON.stringify(decision.checks))).toEqual(large.header.verdict?.checks);
  expect(decision.verdict).toBe("ACCEPTED");
  expect(decodeMeasurementPack(large.parts[3]!.bytes)).toEqual(measurement);
});
