import type { CheckResult } from "@muster/verification";
import type { Random } from "./random.ts";
import type { Cheat } from "./world.ts";

// Checks of verdicts that lie in the past: what packages/verification would have said of an honest group, or of one made by a cheat.

const failedBy: Record<Cheat, CheckResult["id"]> = {
  "lucky-draws": "sampling",
  "older-policy": "activations",
  "invented-logprobs": "log-probabilities",
  "forged-proofs": "decoys",
};

/** The checks of a group of `rollouts` windows and `tokens` tokens; `cheat` fails its own check. */
export function pastChecks(
  random: Random,
  input: { rollouts: number; tokens: number; version: number; cheat: Cheat | null },
): CheckResult[] {
  const { rollouts, tokens, version, cheat } = input;
  const failed = cheat === null ? null : failedBy[cheat];
  const worst = { rollout: random.between(0, rollouts - 1), window: 0 };
  const check = (
    id: CheckResult["id"],
    figures: Pick<CheckResult, "observed" | "expected" | "threshold">,
    pass: string,
    fail: string,
  ): CheckResult => ({
    id,
    verdict: failed === id ? "FAIL" : "PASS",
    ...figures,
    note: failed === id ? `Rollout ${worst.rollout} is the furthest.` : "",
    plain: failed === id ? fail : pass,
  });
  const bad = (id: CheckResult["id"], wrong: number, right: number) => (failed === id ? wrong : right);
  const meanUlp = bad(
    "activations",
    Math.round(4e6 * (0.5 + random.next())),
    Math.round(400 * random.next()) / 100,
  );
  const outliers = bad("activations", random.between(6, 16), 0);
  const margin = bad("sampling", Math.round(2e4 * random.next()) / 1e4 + 0.01, 0);
  const difference = bad(
    "log-probabilities",
    Math.round(1e4 * random.next()) / 1e4 + 0.02,
    Math.round(1e3 * random.next()) / 1e9,
  );
  const hits = bad("decoys", random.between(90, 128), random.between(0, 2));
  const failedCount = (id: CheckResult["id"], of: number) => bad(id, random.between(1, of), 0);
  return [
    check(
      "form",
      { observed: { rollouts, faults: 0 }, expected: { faults: 0 }, threshold: { faults: 0 } },
      "The pack is what the task asked for.",
      "The pack is not what the task asked for.",
    ),
    check(
      "activations",
      {
        observed: {
          outliers,
          meanUlp,
          ...worst,
          windows: rollouts,
          failedWindows: failedCount("activations", rollouts),
        },
        expected: { outliers: 0, meanUlp: 0 },
        threshold: { outliers: 4, meanUlp: 256 },
      },
      `The activations are those of policy version ${version}: at most ${meanUlp} ulp away on average, where 256 are allowed.`,
      `The activations are not those of policy version ${version} after this prompt: ${meanUlp} ulp away on average with ${outliers} points far off, where 256 and 4 are allowed.`,
    ),
    check(
      "decoys",
      {
        observed: {
          hits,
          drawn: 128,
          ...worst,
          windows: rollouts,
          failedWindows: failedCount("decoys", rollouts),
        },
        expected: { hits: 0, drawn: 128 },
        threshold: { hits: 48, drawn: 128 },
      },
      `The proofs are noise where they should be: at most ${hits} of 128 secret places fit by chance, where 48 may.`,
      `A proof fits where it should be noise (${hits} of 128 secret places, 48 may): it was made without the model.`,
    ),
    check(
      "sampling",
      {
        observed: {
          margin,
          rollout: worst.rollout,
          position: 0,
          tokens,
          differentTokens: failedCount("sampling", tokens),
          failedTokens: failedCount("sampling", tokens),
        },
        expected: { margin: 0 },
        threshold: { margin: 0.001 },
      },
      `All ${tokens} tokens are what the seed draws.`,
      `Some of ${tokens} tokens are not what the seed draws: the worst falls short by ${margin}, where 0.001 is allowed.`,
    ),
    check(
      "log-probabilities",
      {
        observed: {
          difference,
          rollout: worst.rollout,
          position: 0,
          tokens,
          failedTokens: failedCount("log-probabilities", tokens),
        },
        expected: { difference: 0 },
        threshold: { difference: 0.001 },
      },
      `The claimed log-probabilities are right: at most ${difference} off, where 0.001 is allowed.`,
      `Some of ${tokens} claimed log-probabilities are wrong: the worst by ${difference}, where 0.001 is allowed.`,
    ),
    check(
      "reward",
      { observed: { rollouts, different: 0 }, expected: { different: 0 }, threshold: { different: 0 } },
      "The rewards are right.",
      "The rewards are wrong.",
    ),
  ];
}

/** What a verdict's reason says: the failed check, as the domain words it. */
export function reasonOf(checks: readonly CheckResult[]): string {
  const failed = checks.find(({ verdict }) => verdict === "FAIL");
  return failed === undefined ? "" : `${failed.plain} ${failed.note}`;
}
