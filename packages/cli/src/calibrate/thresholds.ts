// From what honest machines reach and what the weakest attack shows to one threshold between the two. Pure.
import { type ThresholdName, thresholdNames } from "@muster/verification";
import { Failure } from "../failure.ts";

/** The number of each threshold's kind: the furthest an honest machine went, or the nearest an attack came. */
export type Figures = Partial<Record<ThresholdName, number>>;

/** How far a threshold lies above every honest number at least. */
const headroom = 4;

/** What was measured of one threshold. */
export type Reach = {
  name: ThresholdName;
  /** The honest extreme on each provider. */
  honest: readonly { provider: string; value: number }[];
  /** What the weakest attack shows that the check is there to catch. */
  attack: { name: string; value: number };
};

/**
 * One threshold for all providers: the geometric middle of the honest extreme and the weakest attack, rounded to something people
 * remember, at least four times the honest extreme and below the attack.
 * @throws Failure `CALIBRATION_OVERLAP` when there is no such number, naming the provider.
 */
export function thresholdBetween({ name, honest, attack }: Reach): number {
  const whole = wholeNumbers.has(name);
  const furthest = honest.reduce((a, b) => (b.value > a.value ? b : a));
  const extreme = Math.max(furthest.value, whole ? 1 : smallest);
  const least = headroom * extreme;
  if (!(least < attack.value)) {
    throw new Failure({
      exit: "failed",
      code: "CALIBRATION_OVERLAP",
      what: `On ${furthest.provider} honest work reaches ${name} ${short(furthest.value)}, and "${attack.name}" shows only ${short(attack.value)}: no threshold is ${headroom} times the one and below the other.`,
      why: "A threshold that lets the provider pass would let the attack pass.",
      fix: (thresholdNames.f32 as readonly string[]).includes(name)
        ? ["npm run muster -- calibrate … --providers <without it>"]
        : ["Give the run's spec the form f32: it sees every bit, bf16 only the upper half."],
    });
  }
  const wanted = Math.max(least, Math.sqrt(extreme * attack.value));
  return rounded(wanted, { from: least, below: attack.value, whole });
}

/** Compared as counts. */
const wholeNumbers: ReadonlySet<ThresholdName> = new Set(["outliers", "decoys", "exponentMismatches"]);

/** Below this an honest number is taken for this: zero has no multiple. A twentieth of the last digit of a float32 near 1. */
const smallest = 1e-8;

/** The number nearest to `value`, by ratio, of those that are 1, 1.5, 2, 3, 4, 5, 6 or 8 times a power of ten and within the limits; else the value itself. */
function rounded(value: number, limits: { from: number; below: number; whole: boolean }): number {
  const { from, below, whole } = limits;
  const power = Math.floor(Math.log10(value));
  const candidates = [power - 1, power, power + 1]
    // Powers of ten below one are written as divisions, so that 3e-4 is the number that people write so.
    .flatMap((p) => [1, 1.5, 2, 3, 4, 5, 6, 8].map((digit) => Number(`${digit}e${p}`)))
    .filter((n) => n >= from && n < below && (!whole || Number.isInteger(n)));
  const distance = (n: number) => Math.abs(Math.log(n / value));
  const [first, ...rest] = candidates;
  if (first === undefined) return whole ? Math.ceil(value) : value;
  return rest.reduce((best, n) => (distance(n) < distance(best) ? n : best), first);
}

/** The larger of two sets, number by number. */
export function furthest(a: Figures, b: Figures): Figures {
  const all = { ...a };
  for (const name of [...thresholdNames.f32, ...thresholdNames.bf16]) {
    const value = b[name];
    if (value !== undefined && !(value <= (a[name] ?? -1))) all[name] = value;
  }
  return all;
}

/** Whether any number is above its threshold. */
export function exceeds(figures: Figures, thresholds: Readonly<Record<ThresholdName, number>>): boolean {
  return Object.entries(figures).some(([name, value]) => !(value <= thresholds[name as ThresholdName]));
}

export function short(value: number): string {
  return Number.isFinite(value) ? String(Number(value.toPrecision(3))) : "without bound";
}
