import type { MeasuredRollout, MeasuredWindow, MeasurementPack, RunSpec } from "@muster/protocol";
import { toBf16, windowsOf } from "@muster/toploc";
import { type Figures, figure, spoken } from "./check.ts";

/** Whether two validators saw the same. */
export type Agreement = {
  agrees: boolean;
  /** The furthest window and token, and how much was compared (`windows`, `tokens`); figures of 0 when it was nothing. */
  worst: Figures;
  /** What differs, in a sentence; empty when nothing does. */
  note: string;
};

/**
 * Compares two measurements of the same rollouts as `activations`, `sampling` and `log-probabilities` compare a worker with one: values
 * in ulp (f32) or by exponent and mantissa (bf16), log-probabilities and margins by their difference, all within the run's
 * thresholds. Each window is compared at both validators' top-k. Where a point is in one top-k only, the other validator has said
 * that its value there is no larger than its smallest: whatever exceeds that counts as the distance, so a list of well-chosen
 * indices hides nothing. Names of BLIND packs are not compared: the same tokens may travel in two.
 *
 * @param upTo for each rollout, how many of its first tokens are the same in both: what follows from a later token is left out. A
 *   window is compared when all its rows are decided by tokens before that. All of them when left out.
 */
export function compareMeasurements(
  a: MeasurementPack,
  b: MeasurementPack,
  { spec, upTo }: { spec: RunSpec; upTo?: readonly number[] },
): Agreement {
  const shape = shapeFault(a, b);
  if (shape !== undefined) return { agrees: false, worst: {}, note: shape };
  const { thresholds, form } = spec.verification;
  const window: Worst = { excess: -1, figures: {} };
  const logprob: Worst = { excess: -1, figures: {} };
  const margin: Worst = { excess: -1, figures: {} };
  let windows = 0;
  let tokens = 0;
  let fault = "";
  const found = (worst: Worst, excess: number, figures: Figures, sentence: () => string) => {
    if (!(excess <= 1) && fault === "") fault = sentence();
    if (excess > worst.excess) Object.assign(worst, { excess, figures });
  };

  for (const [i, mine] of a.rollouts.entries()) {
    const theirs = b.rollouts[i]!;
    const same = Math.min(upTo?.[i] ?? mine.argmax.length, mine.argmax.length);
    for (const [w, { start, end }] of windowsOf(mine.argmax.length).entries()) {
      // Row j is decided by the prompt and tokens 0 … j − 1, so the first different token leaves its own row intact.
      if (end > same + 1) break;
      const size = (end - start) * spec.model.hiddenSize;
      const distance = windowDistance(mine.windows[w]!, theirs.windows[w]!, size, spec);
      windows++;
      found(window, distance.excess, { ...distance.figures, rollout: i, window: w }, () =>
        form === "f32"
          ? `Rollout ${i}, window ${w}: ${distance.figures.outliers} points are far apart and the others ${distance.figures.meanUlp} ulp on average; ${thresholds.outliers} and ${thresholds.meanUlp} are allowed.`
          : `Rollout ${i}, window ${w}: ${distance.figures.exponentMismatches} exponents and ${distance.figures.signMismatches} signs differ, mantissas by ${distance.figures.mantissaMean} on average.`,
      );
    }
    for (let j = 0; j < same; j++) {
      tokens++;
      const inLogprob = Math.abs(mine.logprobs[j]! - theirs.logprobs[j]!);
      found(
        logprob,
        ratio(inLogprob, thresholds.logProbability),
        { logProbability: figure(inLogprob) },
        () =>
          `Rollout ${i}, position ${j}: the log-probabilities are ${spoken(inLogprob)} apart; ${thresholds.logProbability} is allowed.`,
      );
      const inMargin = marginDistance(mine, theirs, j);
      found(
        margin,
        ratio(inMargin, thresholds.margin),
        { margin: figure(inMargin) },
        () =>
          `Rollout ${i}, position ${j}: the margins are ${spoken(inMargin)} apart; ${thresholds.margin} is allowed.`,
      );
    }
  }
  const none: Figures = form === "f32" ? { outliers: 0, meanUlp: 0 } : { ...noBf16Distance };
  const worst = {
    ...none,
    logProbability: 0,
    margin: 0,
    ...logprob.figures,
    ...margin.figures,
    ...window.figures,
    windows,
    tokens,
  };
  return { agrees: fault === "", worst, note: fault };
}

type Worst = { excess: number; figures: Figures };
/** `excess`: the share of what is allowed that was used; above 1 is beyond it. */
type WindowDistance = { excess: number; figures: Figures };

function shapeFault(a: MeasurementPack, b: MeasurementPack): string | undefined {
  for (const field of ["manifest", "form", "topK"] as const) {
    if (a.header[field] !== b.header[field])
      return `One was made with ${field} ${a.header[field]}, the other with ${b.header[field]}.`;
  }
  if (a.rollouts.length !== b.rollouts.length)
    return `One has ${a.rollouts.length} rollouts, the other ${b.rollouts.length}.`;
  for (const [i, mine] of a.rollouts.entries()) {
    const theirs = b.rollouts[i]!;
    const sizes = ({ argmax, logprobs, margins, windows }: MeasuredRollout) =>
      [argmax, logprobs, margins, windows].map(({ length }) => length).join("/");
    if (sizes(mine) !== sizes(theirs)) return `Rollout ${i} has other lengths in one than in the other.`;
    if (mine.windows.length !== windowsOf(mine.argmax.length).length)
      return `Rollout ${i} has ${mine.windows.length} windows.`;
    const points = mine.windows.findIndex((w, at) => w.indices.length !== theirs.windows[at]!.indices.length);
    if (points >= 0) return `Rollout ${i}, window ${points} has other points in one than in the other.`;
  }
  return undefined;
}

function marginDistance(a: MeasuredRollout, b: MeasuredRollout, at: number): number {
  const [mine, theirs] = [a.margins[at]!, b.margins[at]!];
  // Two times Infinity: both say that the token could not have been drawn.
  return mine === theirs ? 0 : Math.abs(mine - theirs);
}

function windowDistance(a: MeasuredWindow, b: MeasuredWindow, size: number, spec: RunSpec): WindowDistance {
  const distance = spec.verification.form === "f32" ? f32Distance : bf16Distance;
  const forth = distance(pairs(a, b, size), spec);
  const back = distance(pairs(b, a, size), spec);
  return back.excess > forth.excess ? back : forth;
}

/**
 * `from`'s values beside what `to` says of the same places. Only the larger half of the window counts, as in `activations`: machines differ
 * by thousands of ulp in a value near zero.
 */
function pairs(from: MeasuredWindow, to: MeasuredWindow, size: number): [number, number][] {
  const theirs = new Map<number, number>();
  let smallest = Infinity;
  for (const [i, index] of to.indices.entries()) {
    theirs.set(index, to.values[i]!);
    smallest = Math.min(smallest, Math.abs(to.values[i]!));
  }
  const mine = Array.from(from.indices, (index, i) => [index, from.values[i]!] as const);
  const half = Math.ceil(size / 2);
  if (mine.length > half) mine.sort(([i, x], [j, y]) => Math.abs(y) - Math.abs(x) || i - j).splice(half);
  return mine.map(([index, value]) => {
    const other = theirs.get(index);
    if (other !== undefined) return [value, other];
    return [value, Math.sign(value) * Math.min(Math.abs(value), smallest)];
  });
}

const farUlp = 2 ** 23;

function f32Distance(points: readonly [number, number][], { verification }: RunSpec): WindowDistance {
  const { thresholds } = verification;
  const a = orderedBits(Float32Array.from(points, ([value]) => value));
  const b = orderedBits(Float32Array.from(points, ([, value]) => value));
  let outliers = 0;
  let sum = 0;
  for (const [i, mine] of a.entries()) {
    const ulp = Math.abs(mine - b[i]!);
    if (ulp >= farUlp) outliers++;
    else sum += ulp;
  }
  const meanUlp = outliers === points.length ? Infinity : sum / (points.length - outliers);
  const excess = Math.max(ratio(outliers, thresholds.outliers), ratio(meanUlp, thresholds.meanUlp));
  return { excess, figures: { outliers, meanUlp: figure(meanUlp) } };
}

/** Integers in the order of the floats they stand for, so that a difference is in ulp; both zeros are 0. */
function orderedBits(values: Float32Array): number[] {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  return Array.from(bits, (word) => (word >>> 31 === 0 ? word : -(word & 0x7fffffff)));
}

const noBf16Distance = { exponentMismatches: 0, mantissaMean: 0, mantissaMedian: 0, signMismatches: 0 };

function bf16Distance(points: readonly [number, number][], { verification }: RunSpec): WindowDistance {
  const { thresholds } = verification;
  const a = toBf16(Float32Array.from(points, ([value]) => value));
  const b = toBf16(Float32Array.from(points, ([, value]) => value));
  const mantissas: number[] = [];
  let signMismatches = 0;
  for (const [i, mine] of a.entries()) {
    const theirs = b[i]!;
    if (((mine ^ theirs) & 0x8000) !== 0) signMismatches++;
    if (((mine ^ theirs) & 0x7f80) === 0) mantissas.push(Math.abs((mine & 0x7f) - (theirs & 0x7f)));
  }
  mantissas.sort((x, y) => x - y);
  const figures = {
    exponentMismatches: points.length - mantissas.length,
    mantissaMean: figure(
      mantissas.length === 0 ? Infinity : mantissas.reduce((sum, x) => sum + x, 0) / mantissas.length,
    ),
    mantissaMedian: figure(mantissas[mantissas.length >> 1] ?? Infinity),
    signMismatches,
  };
  const excess = Math.max(
    ratio(figures.exponentMismatches, thresholds.exponentMismatches),
    ratio(Number(figures.mantissaMean), thresholds.mantissaMean),
    ratio(Number(figures.mantissaMedian), thresholds.mantissaMedian),
    ratio(signMismatches, thresholds.exponentMismatches),
  );
  return { excess, figures };
}

function ratio(found: number, allowed: number): number {
  return found === 0 ? 0 : found / allowed;
}
