/**
 * How far a node is trusted: a pure function of what became of its groups. The coordinator, the simulation and the documentation all
 * use this one, so what is promised is what runs.
 */

/** The audit section of a run spec. */
export type AuditPolicy = {
  /** Assumed share of dishonest nodes, a. */
  readonly adversaryShare: number;
  /** Accepted share of poisoned groups, ε. */
  readonly epsilon: number;
  /** Audit rate of a trusted node, f. */
  readonly floor: number;
};

/**
 * What became of a node's work: an audited group that was accepted, rejected, or could not be judged through no fault of the
 * coordinator; a pack that failed at intake; the organizer, who gives it another chance; or a day of silence, which released its stake.
 * Groups that were accepted unaudited say nothing and do not count.
 */
export type OutcomeKind = "ACCEPTED" | "REJECTED" | "INVALID" | "REFUSED" | "REINSTATED" | "RELEASED";

export type TrustState = "PROBATION" | "TRUSTED" | "QUARANTINED" | "EJECTED";

/** A node's standing in a run. */
export type Standing = {
  readonly state: TrustState;
  /** Audited-valid groups since the last failure: what trust is earned with. */
  readonly auditedValid: number;
  /** Audited-valid groups ever: what finality is counted in. */
  readonly accepted: number;
  /** Groups rejected and packs refused. */
  readonly rejected: number;
  readonly invalid: number;
  /** INVALID groups since the last audited-valid one. */
  readonly invalidStreak: number;
};

/** Failures in a run, or INVALID groups in a row, at which a node is quarantined. */
export const strikes = 3;

/** Where everybody starts, whoever they say they are: a new key is worth nothing. */
export const newStanding: Standing = {
  state: "PROBATION",
  auditedValid: 0,
  accepted: 0,
  rejected: 0,
  invalid: 0,
  invalidStreak: 0,
};

/**
 * Audited-valid groups before a node is trusted: N ≥ a(1 − f) / (ε f).
 *
 * Why so much: a node that turns dishonest once it is trusted gets (1 − f) / f groups past the audits before one is drawn, and has to
 * show N audited-valid groups before it may try again. Over that cycle its share of poison is at most (1 − f) / (f N), and a share a of
 * such nodes poisons at most a(1 − f) / (f N) ≤ ε of what is accepted.
 */
export function probationGroups({ adversaryShare, epsilon, floor }: AuditPolicy): number {
  const needed = (adversaryShare * (1 - floor)) / (epsilon * floor);
  // .2 × .9 / (.01 × .1) is 180.00000000000003 in binary: without the tolerance it would be 181.
  return Math.ceil(needed * (1 - 1e-12));
}

/** The share of a node's groups that are audited: all of them until it is trusted, then the floor. */
export function auditRate({ state }: Pick<Standing, "state">, { floor }: AuditPolicy): number {
  return state === "TRUSTED" ? floor : 1;
}

/**
 * Audited-valid groups the node must have shown before a group is final that it made when it had `accepted` of them: ⌈3 / f⌉ more.
 * What is not final is a stake: it is audited afterwards when the node fails, and forfeited when the node is found to cheat. The floor
 * counts, not the node's own rate: with ⌈3 / 1⌉ a node fresh out of probation would have three groups to lose, and cheating once
 * would pay.
 */
export function finalAfter(accepted: number, { floor }: AuditPolicy): number {
  return accepted + Math.ceil(3 / floor);
}

/**
 * The standing after one more outcome. One failure takes all trust away and audits everything again; the third quarantines, as do
 * three INVALID groups in a row. What a quarantined or ejected node submitted before is still judged and still counted. A reinstated
 * one begins anew, but its failures stay: the next is one too many. One whose stake was released has nothing to lose, so it is audited
 * whole until it holds a stake again: ⌈3 / f⌉ groups.
 */
export function nextStanding(before: Standing, outcome: OutcomeKind, policy: AuditPolicy): Standing {
  const counted = count(before, outcome, policy);
  if (outcome === "REINSTATED") return { ...counted, state: "PROBATION" };
  if (before.state === "QUARANTINED" || before.state === "EJECTED") return counted;
  // Only a failure quarantines: a reinstated node has its strikes already, and its next valid group must not be held against it.
  const failed = counted.rejected > before.rejected;
  if ((failed && counted.rejected >= strikes) || counted.invalidStreak >= strikes)
    return { ...counted, state: "QUARANTINED" };
  return { ...counted, state: counted.auditedValid >= probationGroups(policy) ? "TRUSTED" : "PROBATION" };
}

function count(before: Standing, outcome: OutcomeKind, policy: AuditPolicy): Standing {
  switch (outcome) {
    case "ACCEPTED":
      return {
        ...before,
        auditedValid: before.auditedValid + 1,
        accepted: before.accepted + 1,
        invalidStreak: 0,
      };
    case "REJECTED":
    case "REFUSED":
      return { ...before, auditedValid: 0, rejected: before.rejected + 1 };
    case "INVALID":
      return {
        ...before,
        auditedValid: 0,
        invalid: before.invalid + 1,
        invalidStreak: before.invalidStreak + 1,
      };
    case "REINSTATED":
      return { ...before, auditedValid: 0, invalidStreak: 0 };
    case "RELEASED": {
      const shown = Math.max(0, probationGroups(policy) - finalAfter(0, policy));
      return { ...before, auditedValid: Math.min(before.auditedValid, shown) };
    }
  }
}
