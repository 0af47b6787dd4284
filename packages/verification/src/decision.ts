import type { CheckResult } from "./check.ts";

/** What the checks together say about a group. */
export type GroupVerdict = "ACCEPTED" | "REJECTED" | "INCONCLUSIVE";

/**
 * The decision rule. One failed check rejects: a lie that is proven needs no second proof. Without a failure, one check that could
 * not run leaves the group undecided: nothing is accepted that was not checked. Otherwise the group is accepted.
 */
export function decide(checks: readonly CheckResult[]): GroupVerdict {
  if (checks.some(({ verdict }) => verdict === "FAIL")) return "REJECTED";
  if (checks.length === 0 || checks.some(({ verdict }) => verdict === "INCONCLUSIVE")) return "INCONCLUSIVE";
  return "ACCEPTED";
}
