import type { MeasurementPack, PackedRollout, PhiloxKey, RunSpec } from "@muster/protocol";
import { type Check, type CheckResult, inconclusive } from "./check.ts";
import { measuredChecks } from "./checks.ts";
import { decide, type GroupVerdict } from "./decision.ts";
import { type Evidence, type GroupTask, pairWindows } from "./evidence.ts";
import { checkGroupForm } from "./form.ts";
import { measurementFault } from "./measurement.ts";
import { reward } from "./reward.ts";

/** What `verifyGroup` judges. */
export type GroupInput = {
  spec: RunSpec;
  task: GroupTask;
  /** The group's rollouts, cut out of the worker's pack in order. */
  rollouts: readonly PackedRollout[];
  /** A validator's pack for this group; null when there is none. */
  measurement: MeasurementPack | null;
  /** The first two words of the secret that was drawn after the pack was committed. */
  decoyKey: PhiloxKey;
};

/** A verdict that explains itself. */
export type GroupDecision = {
  verdict: GroupVerdict;
  checks: CheckResult[];
  /** The measurement itself is malformed: the validator's fault, never the worker's. */
  measurementFault: boolean;
};

/**
 * Judges one group: its form, then every check against the measurement, then (when the example is given) its rewards.
 *
 * Pure: the same input gives the same decision anywhere. Never throws for what a worker or a validator sent; a check that cannot
 * run is INCONCLUSIVE.
 *
 * @throws RangeError when the task itself does not fit together (keys and prompts differ in count): that is the caller's mistake.
 */
export function verifyGroup(input: GroupInput): GroupDecision {
  const { spec, task, rollouts, measurement, decoyKey } = input;
  if (task.keys.length !== task.promptTokens.length) {
    throw new RangeError(
      `The task has ${task.keys.length} keys and ${task.promptTokens.length} prompts; give one of each for a rollout.`,
    );
  }
  const { result: form, proofs } = checkGroupForm(spec, task.promptTokens, rollouts);
  const planned: readonly Check[] = task.example === undefined ? measuredChecks : [...measuredChecks, reward];
  if (form.verdict !== "PASS") {
    return decision(
      [form, ...planned.map(({ id }) => inconclusive(id, "the pack is not of sound form."))],
      false,
    );
  }
  const fault = measurement === null ? undefined : measurementFault(spec, task, rollouts, measurement);
  const usable = fault === undefined ? measurement : null;
  const measured = usable?.rollouts ?? [];
  const windows = pairWindows(spec, rollouts, measured, proofs);
  const evidence: Evidence = { spec, task, rollouts, measurement: measured, windows, decoyKey };
  const unmeasured =
    fault === undefined ? "there is no measurement." : `the measurement is malformed. ${fault}`;
  const results = planned.map((check) =>
    usable === null && check !== reward ? inconclusive(check.id, unmeasured) : check.run(evidence),
  );
  return decision([form, ...results], fault !== undefined);
}

function decision(checks: CheckResult[], measurementFault: boolean): GroupDecision {
  return { verdict: decide(checks), checks, measurementFault };
}
