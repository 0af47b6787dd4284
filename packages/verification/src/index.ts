export type {
  Check,
  CheckDescription,
  CheckId,
  CheckResult,
  CheckVerdict,
  Figures,
} from "./check.ts";
export { checks } from "./checks.ts";
export { decide, type GroupVerdict } from "./decision.ts";
export { type WindowFingerprint, windowFingerprints } from "./duplicates.ts";
export type { GroupTask } from "./evidence.ts";
export { checkForm, type PackTask } from "./form.ts";
export { measurementFault } from "./measurement.ts";
export { scoreRollouts } from "./reward.ts";
export { type GroupDecision, type GroupInput, verifyGroup } from "./verify-group.ts";
