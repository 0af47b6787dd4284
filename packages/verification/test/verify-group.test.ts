import type { MeasurementPack, PackedRollout, RunSpec } from "@muster/protocol";
import { proofLength } from "@muster/toploc";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { type CheckId, type GroupDecision, verifyGroup } from "../src/index.ts";
import { generate, measure, prefilled, spec, type Work } from "./tiny-policy.ts";

const worker = { weights: 1, kernel: 1 };
const validator = { weights: 1, kernel: 2 };
const decoyKey = [11, 22] as const;

const forms = ["f32", "bf16"] as const;
const fixtures = Object.fromEntries(
  forms.map((form) => {
    const runSpec = spec(form);
    const work = generate(runSpec, worker);
    return [form, { runSpec, work, measurement: measure(runSpec, validator, work) }];
  }),
) as Record<(typeof forms)[number], { runSpec: RunSpec; work: Work; measurement: MeasurementPack }>; // fromEntries forgets its keys

function judge(runSpec: RunSpec, work: Work, measurement: MeasurementPack | null): GroupDecision {
  return verifyGroup({ spec: runSpec, task: work.task, rollouts: work.pack.rollouts, measurement, decoyKey });
}

/** The work with one rollout replaced. */
function tampered(work: Work, change: (rollout: PackedRollout) => PackedRollout, at = 0): Work {
  const rollouts = work.pack.rollouts.map((rollout, i) => (i === at ? change(rollout) : rollout));
  return { ...work, pack: { ...work.pack, rollouts } };
}

function failed({ checks }: GroupDecision): CheckId[] {
  return checks.filter(({ verdict }) => verdict === "FAIL").map(({ id }) => id);
}

function result(decision: GroupDecision, id: CheckId) {
  const found = decision.checks.find((check) => check.id === id);
  if (found === undefined) throw new Error(`no ${id} check was made`);
  return found;
}

/** The longest rollout: two windows when its output is longer than 32 tokens. */
function longest(work: Work): number {
  const lengths = work.pack.rollouts.map(({ tokens }) => tokens.length);
  return lengths.indexOf(Math.max(...lengths));
}

describe.each(forms)("in the %s form", (form) => {
  const { runSpec, work, measurement } = fixtures[form];

  test("an honest group on another machine is accepted, and every check says what it saw", () => {
    const decision = judge(runSpec, work, measurement);
    expect(decision.verdict).toBe("ACCEPTED");
    expect(decision.measurementFault).toBe(false);
    expect(decision.checks.map(({ id, verdict }) => [id, verdict])).toEqual(
      ["form", "activations", "decoys", "sampling", "log-probabilities", "reward"].map((id) => [id, "PASS"]),
    );
    const windows = work.pack.rollouts.reduce((sum, { proofs }) => sum + proofs.length, 0);
    expect(windows).toBeGreaterThan(4);
    expect(result(decision, "activations").observed).toMatchObject({ windows, failedWindows: 0 });
    expect(result(decision, "decoys").observed).toMatchObject({ windows, drawn: 128 });
    const tokens = work.pack.rollouts.reduce((sum, rollout) => sum + rollout.tokens.length, 0);
    expect(result(decision, "sampling").observed).toMatchObject({ tokens, failedTokens: 0 });
    // It is stored and shown as JSON.
    expect(JSON.parse(JSON.stringify(decision))).toEqual(decision);
  });

  test("work of another policy version fails the activations", () => {
    const old = generate(runSpec, { ...worker, weights: 2 }, { taskId: work.taskId });
    const decision = judge(runSpec, old, measure(runSpec, validator, old));
    expect(decision.verdict).toBe("REJECTED");
    expect(failed(decision)).toEqual(["activations", "sampling", "log-probabilities"]);
    expect(JSON.parse(JSON.stringify(decision))).toEqual(decision);
  });

  test("one edited token, proven by an honest prefill, fails the sampling alone", () => {
    const at = longest(work);
    const edited = tampered(
      work,
      (rollout) => {
        const tokens = rollout.tokens.slice();
        tokens[2] = (tokens[2]! + 1) % 10;
        return prefilled(runSpec, worker, rollout, tokens);
      },
      at,
    );
    const decision = judge(runSpec, edited, measure(runSpec, validator, edited));
    expect(failed(decision)).toEqual(["sampling"]);
    expect(result(decision, "sampling").note).toContain(`Rollout ${at}`);
  });

  test("one token edited after the fact fails the activations from there on", () => {
    const edited = tampered(
      work,
      (rollout) => {
        const tokens = rollout.tokens.slice();
        tokens[0] = (tokens[0]! + 1) % 10;
        return { ...rollout, tokens };
      },
      longest(work),
    );
    expect(failed(judge(runSpec, edited, measure(runSpec, validator, edited)))).toContain("activations");
  });

  test("an output cut short and closed with EOS fails the sampling", () => {
    const at = longest(work);
    const cut = tampered(
      work,
      (rollout) => {
        const tokens = rollout.tokens.slice(0, 5);
        tokens[4] = eosOf(work);
        return prefilled(runSpec, worker, rollout, tokens);
      },
      at,
    );
    expect(failed(judge(runSpec, cut, measure(runSpec, validator, cut)))).toEqual(["sampling"]);
  });

  test("a wrong claim fails the log-probabilities alone", () => {
    const wrong = tampered(work, (rollout) => ({
      ...rollout,
      logprobs: rollout.logprobs.map((p) => p - 0.01),
    }));
    const decision = judge(runSpec, wrong, measurement);
    expect(failed(decision)).toEqual(["log-probabilities"]);
    expect(result(decision, "log-probabilities").observed.difference).toBeCloseTo(0.01, 4);
  });

  test("a constant polynomial is caught by the decoys, whatever the activations say of it", () => {
    const forged = tampered(work, (rollout) => ({
      ...rollout,
      proofs: rollout.proofs.map(() => {
        // Every window of it has two rows of 64 values or more, so a proof has 128 points.
        const proof = new Uint8Array(proofLength(128, form));
        proof.set([0xff, 0xd9, 0x40, 0x10]);
        return proof;
      }),
    }));
    const decision = judge(runSpec, forged, measurement);
    expect(failed(decision)).toContain("decoys");
    expect(result(decision, "decoys").observed).toMatchObject({ hits: 128, drawn: 128 });
  });

  test("without a measurement the group is undecided and nobody is at fault", () => {
    const decision = judge(runSpec, work, null);
    expect(decision).toMatchObject({ verdict: "INCONCLUSIVE", measurementFault: false });
    expect(decision.checks.map(({ verdict }) => verdict)).toEqual([
      "PASS",
      ...Array(4).fill("INCONCLUSIVE"),
      "PASS",
    ]);
  });
});

test("in a window of one row only the larger half of the values is judged: values near zero are noise between machines", () => {
  const { runSpec, work } = fixtures.f32;
  const short = tampered(work, (rollout) => prefilled(runSpec, worker, rollout, Int32Array.of(eosOf(work))));
  const honest = measure(runSpec, validator, short);
  expect(honest.rollouts[0]!.windows[0]!.indices).toHaveLength(64);
  const activations = (change: (values: Float32Array) => void) => {
    const measurement = structuredClone(honest);
    change(measurement.rollouts[0]!.windows[0]!.values);
    return result(judge(runSpec, short, measurement), "activations").verdict;
  };
  const scale = (at: number) => (values: Float32Array) => {
    values[at]! *= 1.01;
  };
  // In order of magnitude: 0 is the largest, 31 the last of the larger half.
  expect([0, 31, 32, 63].map((at) => activations(scale(at)))).toEqual(["FAIL", "FAIL", "PASS", "PASS"]);
});

test("in the bf16 form negated activations fail by their signs", () => {
  const { runSpec, work, measurement } = fixtures.bf16;
  const negated = {
    ...measurement,
    rollouts: measurement.rollouts.map((rollout) => ({
      ...rollout,
      windows: rollout.windows.map(({ indices, values }) => ({ indices, values: values.map((x) => -x) })),
    })),
  };
  const decision = judge(runSpec, work, negated);
  expect(failed(decision)).toEqual(["activations"]);
  expect(result(decision, "activations").observed).toMatchObject({
    exponentMismatches: 0,
    signMismatches: 128,
  });
});

describe("a malformed measurement is the validator's fault", () => {
  const { runSpec, work, measurement } = fixtures.f32;
  const size = longest(work);
  type Change = (pack: MeasurementPack) => void;
  const window = (pack: MeasurementPack, w = 0) => pack.rollouts[size]!.windows[w]!;
  const faults: [string, Change][] = [
    [
      "another manifest",
      (pack) => {
        pack.header.manifest = "c".repeat(64);
      },
    ],
    [
      "another blind pack",
      (pack) => {
        pack.header.blind = "c".repeat(64);
      },
    ],
    [
      "another form",
      (pack) => {
        pack.header.form = "bf16";
      },
    ],
    [
      "another top-k",
      (pack) => {
        pack.header.topK = 64;
      },
    ],
    ["a rollout too few", (pack) => void pack.rollouts.pop()],
    ["a window too few", (pack) => void pack.rollouts[size]!.windows.pop()],
    ["a window too many", (pack) => void pack.rollouts[size]!.windows.push(window(pack))],
    [
      "a point too few",
      (pack) => {
        window(pack).indices = window(pack).indices.slice(1);
      },
    ],
    [
      "a value too few",
      (pack) => {
        window(pack).values = window(pack).values.slice(1);
      },
    ],
    [
      "an index outside the window",
      (pack) => {
        window(pack).indices[3] = 32 * 64;
      },
    ],
    [
      "an index twice",
      (pack) => {
        window(pack).indices[3] = window(pack).indices[4]!;
      },
    ],
    [
      "a value that is NaN",
      (pack) => {
        window(pack).values[3] = Number.NaN;
      },
    ],
    [
      "a value that is infinite",
      (pack) => {
        window(pack).values[3] = Infinity;
      },
    ],
    [
      "a margin that is NaN",
      (pack) => {
        pack.rollouts[0]!.margins[0] = Number.NaN;
      },
    ],
    [
      "a negative margin",
      (pack) => {
        pack.rollouts[0]!.margins[0] = -1;
      },
    ],
    [
      "a margin where the token is the choice",
      (pack) => {
        pack.rollouts[0]!.margins[0] = 1;
      },
    ],
    [
      "a choice outside the vocabulary",
      (pack) => {
        pack.rollouts[0]!.argmax[0] = 1000;
      },
    ],
    [
      "a log-probability that is NaN",
      (pack) => {
        pack.rollouts[0]!.logprobs[0] = Number.NaN;
      },
    ],
    [
      "a log-probability too few",
      (pack) => {
        pack.rollouts[0]!.logprobs = pack.rollouts[0]!.logprobs.slice(1);
      },
    ],
  ];

  test.each(faults)("%s", (_, change) => {
    const broken = structuredClone(measurement);
    change(broken);
    const decision = judge(runSpec, work, broken);
    expect(decision).toMatchObject({ verdict: "INCONCLUSIVE", measurementFault: true });
    expect(result(decision, "activations").note).toContain("malformed");
  });

  test("a value that bf16 cannot hold", () => {
    const bf16 = fixtures.bf16;
    const broken = structuredClone(bf16.measurement);
    broken.rollouts[0]!.windows[0]!.values[0] = 1.001;
    expect(judge(bf16.runSpec, bf16.work, broken)).toMatchObject({
      verdict: "INCONCLUSIVE",
      measurementFault: true,
    });
  });

  test("the last index of a short window is inside it, the next one is not", () => {
    const rows = work.pack.rollouts[size]!.tokens.length - 32;
    expect(rows).toBeGreaterThan(0);
    for (const [index, fault] of [
      [rows * 64 - 1, false],
      [rows * 64, true],
    ] as const) {
      const moved = structuredClone(measurement);
      const { indices } = window(moved, 1);
      const held = indices.indexOf(index);
      indices[held === -1 ? 0 : held] = index;
      expect(judge(runSpec, work, moved).measurementFault).toBe(fault);
    }
  });
});

describe("rewards", () => {
  const { runSpec, work, measurement } = fixtures.f32;

  test("on record that differ from the environment's fail", () => {
    const honest = { ...work, task: { ...work.task, rewards: work.pack.rollouts.map(() => 0) } };
    expect(judge(runSpec, honest, measurement).verdict).toBe("ACCEPTED");
    const raised = { ...work, task: { ...work.task, rewards: [0, 0, 1, 0] } };
    const decision = judge(runSpec, raised, measurement);
    expect(failed(decision)).toEqual(["reward"]);
    expect(result(decision, "reward").observed).toMatchObject({ difference: 1, rollout: 2 });
    const short = { ...work, task: { ...work.task, rewards: [0] } };
    expect(failed(judge(runSpec, short, measurement))).toEqual(["reward"]);
  });

  test("are not checked without the example", () => {
    const { example: _, ...task } = work.task;
    const decision = judge(runSpec, { ...work, task }, measurement);
    expect(decision.verdict).toBe("ACCEPTED");
    expect(decision.checks.some(({ id }) => id === "reward")).toBe(false);
  });

  test("that the environment cannot compute leave the group undecided", () => {
    const broken = { ...work, task: { ...work.task, example: { prompt: "", canonical: "", data: null } } };
    const decision = judge(runSpec, broken, measurement);
    expect(decision.verdict).toBe("INCONCLUSIVE");
    expect(result(decision, "reward").verdict).toBe("INCONCLUSIVE");
  });
});

test("whatever a worker and a validator send, there is a decision, and only honest work is accepted", () => {
  const { runSpec, work, measurement } = fixtures.f32;
  const byte = fc.integer({ min: 0, max: 255 });
  const where = fc.record({ rollout: fc.nat(3), at: fc.nat(2000), byte, value: fc.float(), kind: fc.nat(6) });
  fc.assert(
    fc.property(fc.array(where, { minLength: 1, maxLength: 4 }), (changes) => {
      const rollouts = structuredClone(work.pack.rollouts);
      const measured = structuredClone(measurement);
      for (const { rollout, at, byte: bits, value, kind } of changes) {
        const mine = rollouts[rollout]!;
        const theirs = measured.rollouts[rollout]!;
        if (kind === 0) mine.proofs[0]![at % mine.proofs[0]!.length]! ^= bits;
        if (kind === 1) mine.tokens[at % mine.tokens.length] = bits - 20;
        if (kind === 2) mine.logprobs[at % mine.logprobs.length] = value;
        if (kind === 3) mine.proofs[0] = mine.proofs[0]!.slice(0, at);
        if (kind === 4) theirs.windows[0]!.values[at % 64] = value;
        if (kind === 5) theirs.windows[0]!.indices[at % 64] = at;
        if (kind === 6) theirs.margins[at % theirs.margins.length] = value;
      }
      const decision = verifyGroup({
        spec: runSpec,
        task: work.task,
        rollouts,
        measurement: measured,
        decoyKey,
      });
      if (decision.measurementFault) expect(decision.verdict).toBe("INCONCLUSIVE");
      const untouched =
        JSON.stringify([rollouts, measured]) === JSON.stringify([work.pack.rollouts, measurement]);
      if (untouched) expect(decision.verdict).toBe("ACCEPTED");
      expect(JSON.parse(JSON.stringify(decision))).toEqual(decision);
    }),
    { numRuns: 300 },
  );
});

test("keys and prompts that differ in number are the caller's mistake", () => {
  const { runSpec, work, measurement } = fixtures.f32;
  const task = { ...work.task, keys: work.task.keys.slice(1) };
  expect(() => judge(runSpec, { ...work, task }, measurement)).toThrow(RangeError);
});

function eosOf(work: Work): number {
  return work.pack.rollouts.find(({ finish }) => finish === "eos")?.tokens.at(-1) ?? 0;
}
