import type { PackedRollout, RolloutPack } from "@muster/protocol";
import { environment } from "@muster/protocol";
import { proofLength } from "@muster/toploc";
import { expect, test } from "vitest";
import {
  type CheckResult,
  checkForm,
  checks,
  decide,
  verifyGroup,
  windowFingerprints,
} from "../src/index.ts";
import { generate, manifest, run, spec, testTask } from "./tiny-policy.ts";

const runSpec = spec("f32");
const work = generate(runSpec, { weights: 1, kernel: 1 });
const { eos, vocabularySize } = environment(runSpec.environment).tokenizer;
const expected = { run, task: work.taskId, manifest, promptTokens: work.task.promptTokens };

function check(change: (pack: RolloutPack) => void): CheckResult {
  const pack = structuredClone(work.pack);
  change(pack);
  return checkForm({ spec: runSpec, task: expected, pack });
}

test("an honest pack has sound form", () => {
  expect(check(() => {})).toMatchObject({ id: "form", verdict: "PASS", note: "" });
});

const full = work.pack.rollouts.findIndex(({ finish }) => finish === "length");
const ended = work.pack.rollouts.findIndex(({ finish }) => finish === "eos");
const at =
  (index: number, change: (rollout: PackedRollout) => void) =>
  (pack: RolloutPack): void =>
    change(pack.rollouts[index]!);

test("the pack under test has both an output at the limit and one that ended at EOS", () => {
  expect(full).toBeGreaterThanOrEqual(0);
  expect(ended).toBeGreaterThanOrEqual(0);
});

const modulus = (value: number) => (rollout: PackedRollout) =>
  void rollout.proofs[0]!.set([value >> 8, value & 255]);

test.each<[string, (pack: RolloutPack) => void, string]>([
  [
    "another run",
    (pack) => {
      pack.header.run = "run_other";
    },
    "run",
  ],
  [
    "another task",
    (pack) => {
      pack.header.task = "task_other";
    },
    "task",
  ],
  [
    "another manifest",
    (pack) => {
      pack.header.manifest = "0".repeat(64);
    },
    "manifest",
  ],
  [
    "another proof form",
    (pack) => {
      pack.header.form = "bf16";
    },
    "proof form",
  ],
  [
    "another top-k",
    (pack) => {
      pack.header.topK = 64;
    },
    "top-k",
  ],
  ["a missing rollout", (pack) => void pack.rollouts.pop(), "3 rollouts"],
  [
    "a wrong index",
    at(1, (rollout) => {
      rollout.index = 7;
    }),
    "index is 7",
  ],
  [
    "another prompt",
    at(0, (rollout) => {
      rollout.prompt[0] = 3 + (rollout.prompt[0]! % 2);
    }),
    "prompt",
  ],
  [
    "a longer prompt",
    at(0, (rollout) => {
      rollout.prompt = Int32Array.of(...rollout.prompt, 1);
    }),
    "prompt",
  ],
  [
    "no output",
    at(0, (rollout) => {
      rollout.tokens = new Int32Array(0);
    }),
    "0 output tokens",
  ],
  [
    "too long an output",
    at(full, (r) => {
      r.tokens = Int32Array.of(...r.tokens, 1);
    }),
    "41 output tokens",
  ],
  [
    "a token beyond the vocabulary",
    at(full, (r) => {
      r.tokens[0] = vocabularySize;
    }),
    "vocabulary",
  ],
  [
    "a negative token",
    at(full, (r) => {
      r.tokens[0] = -1;
    }),
    "vocabulary",
  ],
  [
    "EOS in the middle",
    at(ended, (r) => {
      r.tokens[0] = eos;
    }),
    "EOS",
  ],
  [
    "EOS said but not there",
    at(full, (r) => {
      r.finish = "eos";
    }),
    "EOS",
  ],
  [
    "the limit said but not reached",
    at(ended, (r) => {
      r.finish = "length";
    }),
    "length limit",
  ],
  [
    "the limit said and EOS inside",
    at(full, (r) => {
      r.tokens[3] = eos;
    }),
    "EOS",
  ],
  [
    "a NaN log-probability",
    at(0, (r) => {
      r.logprobs[0] = Number.NaN;
    }),
    "log-probability",
  ],
  [
    "an infinite log-probability",
    at(0, (r) => {
      r.logprobs[0] = -Infinity;
    }),
    "log-probability",
  ],
  [
    "a log-probability too few",
    at(0, (r) => {
      r.logprobs = r.logprobs.slice(1);
    }),
    "log-probabilities",
  ],
  ["a proof too few", at(full, (r) => void r.proofs.pop()), "1 proofs"],
  ["a proof too many", at(full, (r) => void r.proofs.push(r.proofs[0]!)), "3 proofs"],
  [
    "a proof too short",
    at(0, (r) => {
      r.proofs[0] = r.proofs[0]!.slice(1);
    }),
    "malformed",
  ],
  [
    "a proof of the other form",
    at(0, (r) => {
      r.proofs[0] = new Uint8Array(proofLength(128, "bf16"));
    }),
    "malformed",
  ],
  ["a coefficient that is no field element", at(0, (r) => void r.proofs[0]!.fill(0xff, 2)), "malformed"],
  ["modulus 0", at(0, modulus(0)), "malformed"],
  ["modulus 1, which leaves no decoys", at(0, modulus(1)), "modulus 1"],
  ["a modulus that is not the largest", at(0, modulus(65496)), "modulus 65496"],
])("%s is refused, and the note says so", (_, change, words) => {
  const result = check(change);
  expect(result.verdict).toBe("FAIL");
  expect(result.note).toContain(words);
});

test("a group of unsound form is rejected before anything is measured", () => {
  const rollouts = structuredClone(work.pack.rollouts);
  rollouts[2]!.proofs = [];
  const decision = verifyGroup({
    spec: runSpec,
    task: work.task,
    rollouts,
    measurement: null,
    decoyKey: [1, 2],
  });
  expect(decision.verdict).toBe("REJECTED");
  expect(decision.checks.map(({ verdict }) => verdict)).toEqual(["FAIL", ...Array(5).fill("INCONCLUSIVE")]);
});

test("a group is judged as well when it is not the first of its pack, and refused when it is cut wrongly", () => {
  const shifted = (by: number) =>
    work.pack.rollouts.map((rollout) => ({ ...rollout, index: rollout.index + by }));
  const judge = (rollouts: PackedRollout[]) =>
    verifyGroup({ spec: runSpec, task: work.task, rollouts, measurement: null, decoyKey: [1, 2] });
  expect(judge(shifted(4)).verdict).toBe("INCONCLUSIVE");
  expect(judge(shifted(3)).verdict).toBe("REJECTED");
  expect(judge(work.pack.rollouts.slice(1)).verdict).toBe("REJECTED");
  expect(judge([]).verdict).toBe("REJECTED");
});

test("one failure rejects, a check that could not run leaves open, only passes accept", () => {
  const result = (verdict: CheckResult["verdict"]): CheckResult => ({
    ...check(() => {}),
    verdict,
  });
  expect(decide([])).toBe("INCONCLUSIVE");
  expect(decide([result("PASS"), result("PASS")])).toBe("ACCEPTED");
  expect(decide([result("PASS"), result("INCONCLUSIVE")])).toBe("INCONCLUSIVE");
  expect(decide([result("INCONCLUSIVE"), result("FAIL"), result("PASS")])).toBe("REJECTED");
});

test("the same window under two tasks has the same fingerprint, another window another", () => {
  const mine = windowFingerprints(work.pack);
  expect(mine).toHaveLength(work.pack.rollouts.reduce((sum, { proofs }) => sum + proofs.length, 0));
  const copied = structuredClone(work.pack);
  copied.header.task = "task_other";
  expect(windowFingerprints(copied)).toEqual(mine);
  const other = windowFingerprints(
    generate(runSpec, { weights: 1, kernel: 1 }, { taskId: testTask(2) }).pack,
  );
  const known = new Set(mine.map(({ sha256 }) => sha256));
  expect(other.some(({ sha256 }) => known.has(sha256))).toBe(false);
  expect(windowFingerprints(generate(spec("bf16"), { weights: 1, kernel: 1 }).pack)).toEqual([]);
});

test("every check explains itself and what gets past it", () => {
  for (const [id, description] of Object.entries(checks)) {
    expect(description.id).toBe(id);
    expect(
      Math.min(
        description.title.length - 3,
        description.plain.length - 40,
        description.cannotCatch.length - 20,
      ),
    ).toBeGreaterThan(0);
  }
});
