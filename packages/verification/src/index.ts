export { type Agreement, compareMeasurements } from "./agreement.ts";
export { type AuditChainEntry, auditChainFault, auditEntryHash } from "./audit-chain.ts";
export {
  type Evidence,
  type EvidenceHeader,
  type EvidenceJudgement,
  type EvidencePart,
  encodeEvidence,
  judgeEvidence,
  openEvidence,
} from "./bundle.ts";
export type {
  Check,
  CheckDescription,
  CheckId,
  CheckResult,
  CheckVerdict,
  Figures,
} from "./check.ts";
export { checks } from "./checks.ts";
export { exactUpper, upperBound } from "./confidence.ts";
export { decide, type GroupVerdict } from "./decision.ts";
export { type WindowFingerprint, windowFingerprints } from "./duplicates.ts";
export type { GroupTask } from "./evidence.ts";
export { EvidenceError, type EvidenceErrorCode } from "./evidence-error.ts";
export { type ThresholdName, thresholdNames, type WindowFigures, windowFigures } from "./figures.ts";
export { checkForm, type PackTask } from "./form.ts";
export { measurementFault } from "./measurement.ts";
export { scoreRollouts } from "./reward.ts";
export {
  type AuditPolicy,
  auditRate,
  finalAfter,
  newStanding,
  nextStanding,
  type OutcomeKind,
  probationGroups,
  type Standing,
  strikes,
  type TrustState,
} from "./standing.ts";
export { type GroupDecision, type GroupInput, verifyGroup } from "./verify-group.ts";
