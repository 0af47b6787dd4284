import type { MeasurementPack } from "@muster/protocol";
import { describe, expect, test } from "vitest";
import { compareMeasurements } from "../src/index.ts";
import { generate, measure, spec } from "./tiny-policy.ts";

const worker = { weights: 1, kernel: 1 };
const forms = (["f32", "bf16"] as const).map((form) => {
  const runSpec = spec(form);
  const work = generate(runSpec, worker);
  const a = measure(runSpec, { weights: 1, kernel: 0 }, work);
  const b = measure(runSpec, { weights: 1, kernel: 2 }, work);
  return { form, runSpec, work, a, b };
});

function changed(pack: MeasurementPack, change: (copy: MeasurementPack) => void): MeasurementPack {
  const copy = structuredClone(pack);
  change(copy);
  return copy;
}

describe.each(forms)("in the $form form", ({ runSpec, work, a, b }) => {
  const compare = (x: MeasurementPack, y: MeasurementPack, upTo?: number[]) =>
    compareMeasurements(x, y, { spec: runSpec, ...(upTo === undefined ? {} : { upTo }) });
  const both = (x: MeasurementPack, y: MeasurementPack) => {
    const forth = compare(x, y);
    expect(compare(y, x).agrees).toBe(forth.agrees);
    return forth;
  };

  test("two honest machines agree, and everything was compared", () => {
    const { agrees, note, worst } = both(a, b);
    expect({ agrees, note }).toEqual({ agrees: true, note: "" });
    const tokens = work.pack.rollouts.reduce((sum, rollout) => sum + rollout.tokens.length, 0);
    const windows = work.pack.rollouts.reduce((sum, { proofs }) => sum + proofs.length, 0);
    expect(worst).toMatchObject({ tokens, windows });
  });

  test("a BLIND pack under another name is the same tokens", () => {
    expect(
      both(
        a,
        changed(b, (copy) => {
          copy.header.blind = "c".repeat(64);
        }),
      ).agrees,
    ).toBe(true);
  });

  test("another version does not agree", () => {
    const other = measure(runSpec, { weights: 2, kernel: 1 }, work);
    expect(both(a, other)).toMatchObject({ agrees: false, note: expect.stringContaining("Rollout 0") });
  });

  const lies: [string, (copy: MeasurementPack) => void][] = [
    [
      "one log-probability",
      (copy) => {
        copy.rollouts[1]!.logprobs[0]! -= 0.01;
      },
    ],
    [
      "one margin",
      (copy) => {
        copy.rollouts[1]!.margins[0] = 0.5;
      },
    ],
    [
      "one margin without bound",
      (copy) => {
        copy.rollouts[1]!.margins[0] = Infinity;
      },
    ],
    ["one window, all zeros", (copy) => void copy.rollouts[2]!.windows[0]!.values.fill(0)],
    [
      "one window, negated",
      (copy) => {
        copy.rollouts[2]!.windows[0]!.values = copy.rollouts[2]!.windows[0]!.values.map((x) => -x);
      },
    ],
    [
      "one window at places of its own, with small values",
      (copy) => {
        const { indices, values } = copy.rollouts[2]!.windows[0]!;
        const taken = new Set([...a.rollouts[2]!.windows[0]!.indices]);
        let next = 0;
        for (const i of indices.keys()) {
          while (taken.has(next)) next++;
          indices[i] = next++;
          values[i] = 1e-6;
        }
      },
    ],
    [
      "one window at places of its own, with large values",
      (copy) => {
        const { indices, values } = copy.rollouts[2]!.windows[0]!;
        const taken = new Set([...a.rollouts[2]!.windows[0]!.indices]);
        let next = 0;
        for (const i of indices.keys()) {
          while (taken.has(next)) next++;
          indices[i] = next++;
          values[i] = 1e6;
        }
      },
    ],
  ];
  test.each(lies)("a lie about %s is noticed", (_, lie) => {
    expect(both(a, changed(b, lie)).agrees).toBe(false);
  });

  test("measurements of different shape do not agree", () => {
    for (const change of [
      (copy: MeasurementPack) => void copy.rollouts.pop(),
      (copy: MeasurementPack) => void copy.rollouts[0]!.windows.pop(),
      (copy: MeasurementPack) => {
        copy.header.manifest = "c".repeat(64);
      },
      (copy: MeasurementPack) => {
        copy.rollouts[0]!.margins = new Float32Array(1);
      },
    ])
      expect(both(a, changed(b, change)).agrees).toBe(false);
  });

  test("with one token changed in each rollout, everything before it still agrees, and the change itself does not", () => {
    const at = work.pack.rollouts.map(({ tokens }) => tokens.length - 2);
    const rollouts = work.pack.rollouts.map((rollout, i) => {
      const tokens = rollout.tokens.slice();
      tokens[at[i]!] = (tokens[at[i]!]! + 1) % 10;
      return { ...rollout, tokens };
    });
    const canary = measure(runSpec, { weights: 1, kernel: 2 }, { ...work, pack: { ...work.pack, rollouts } });
    const { agrees, worst } = compare(a, canary, at);
    expect({ agrees, tokens: worst.tokens }).toEqual({
      agrees: true,
      tokens: at.reduce((sum, x) => sum + x, 0),
    });
    expect(Number(worst.windows)).toBeGreaterThan(0);
    expect(
      compare(
        a,
        canary,
        at.map((x) => x + 1),
      ).agrees,
    ).toBe(false);
    expect(compare(a, canary).agrees).toBe(false);
  });
});

test("a point in one top-k only is no disagreement when the other's smallest is about as large", () => {
  const { runSpec, a } = forms[0]!;
  const tied = changed(a, (copy) => {
    const { indices, values } = copy.rollouts[0]!.windows[0]!;
    const last = indices.length - 1;
    const free = Array.from({ length: 2048 }, (_, i) => i).find((i) => !indices.includes(i))!;
    indices[last] = free;
    values[last] = -values[last]!;
  });
  expect(compareMeasurements(a, tied, { spec: runSpec }).agrees).toBe(true);
});
