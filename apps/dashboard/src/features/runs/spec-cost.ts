import { valueAt } from "./spec-schema.ts";

/**
 * Micro-credits that the work of a spec costs at most, if every step needs every settled group and every output is as long as it may be:
 * generated, measured and trained tokens, and the evaluations. Stale groups come on top; relays are not in it. Undefined while a number is missing.
 * @param spec complete, as the coordinator's check answers it.
 */
export function costBound(spec: unknown): bigint | undefined {
  const number = (path: string) => {
    const value = valueAt(spec, path);
    return typeof value === "number" && Number.isFinite(value) && value >= 0 ? value : undefined;
  };
  const steps = number("limits.steps");
  const groups = number("batch.settledGroups");
  const groupSize = number("generation.groupSize");
  const length = number("generation.maxOutputTokens");
  const generated = number("prices.generatedToken");
  const measured = number("prices.measuredToken");
  const trained = number("prices.trainedToken");
  const evaluated = number("prices.evaluatedToken");
  const examples = number("evaluation.examples");
  const all = [steps, groups, groupSize, length, generated, measured, trained, evaluated, examples];
  if (all.some((value) => value === undefined)) return undefined;
  const [s = 0, g = 0, n = 0, l = 0, generate = 0, measure = 0, train = 0, evaluate = 0, e = 0] = all;
  const tokens = s * g * n * l;
  const micro = tokens * (generate + measure + train) + evaluations(spec, s) * e * l * evaluate;
  return Number.isFinite(micro) ? BigInt(Math.ceil(micro)) : undefined;
}

function evaluations(spec: unknown, steps: number): number {
  const named = valueAt(spec, "evaluation.versions");
  const every = valueAt(spec, "evaluation.every");
  const count = Array.isArray(named) ? named.length : 0;
  return typeof every === "number" && every > 0 ? Math.max(count, Math.floor(steps / every) + 1) : count;
}
