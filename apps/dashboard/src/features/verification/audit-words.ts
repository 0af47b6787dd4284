import { formatExact, formatShare, shortId } from "../../ui/format.ts";

/** The audit policy in force and what it has found, as far as sentences need it. */
export type AuditFacts = {
  readonly probationGroups: number;
  readonly floor: number;
  readonly adversaryShare: number;
  readonly epsilon: number;
  readonly trusted: number;
  readonly auditedAtTrust: number;
  readonly badAtTrust: number;
  readonly poisonUpper95: number;
};

/** How the run protects itself, in sentences that need no other. */
export function policyInWords(audit: AuditFacts): string[] {
  const { probationGroups, floor, adversaryShare, epsilon } = audit;
  const everything = floor >= 1;
  return [
    "A validator that does not know whose work it sees runs the same tokens through the same policy and compares.",
    everything
      ? "Every group is checked so before it is used."
      : `Every group of a new node is checked so; after ${formatExact(probationGroups)} good ones in a row the node is trusted, and a secret ${formatShare(floor)} of its groups is.`,
    "One failure starts a node over at full audits, the third ends its work in this run. Credits are held until later audits have passed; a rejection that is upheld takes what is held.",
    ...(everything
      ? []
      : [
          `If no more than ${formatShare(adversaryShare)} of the work were dishonest, at most ${formatShare(epsilon)} of what is trained on could be poison.`,
        ]),
  ];
}

/** What may be said of poison so far, and what it rests on. */
export function boundInWords({ trusted, auditedAtTrust, badAtTrust, poisonUpper95 }: AuditFacts): string {
  if (trusted === 0) return "Nothing was accepted unaudited, so nothing was accepted that no check has seen.";
  return `At most ${formatShare(poisonUpper95)} of what was accepted is poison: an upper 95 % bound that is valid at any moment, however often one looks. It follows from ${formatExact(badAtTrust)} rejections in ${formatExact(auditedAtTrust)} secret audits of trusted nodes, and narrows with each.`;
}

/** How the run's groups fared: shares of all, in the order of a bar. */
export type Outcomes = readonly {
  readonly name: string;
  readonly tone: "ok" | "running" | "rejected" | "idle";
  readonly faint: boolean;
  readonly count: number;
}[];

/** @param groups counts by state; @param trusted accepted unaudited, which is part of them. */
export function outcomesOf(
  groups: {
    readonly submitted: number;
    readonly verifying: number;
    readonly accepted: number;
    readonly setAside: number;
    readonly stale: number;
    readonly rejected: number;
    readonly invalid: number;
  },
  trusted: number,
): Outcomes {
  const accepted = groups.accepted + groups.setAside + groups.stale;
  return [
    // the two answers may be a moment apart
    { name: "Accepted after an audit", tone: "ok", faint: false, count: Math.max(0, accepted - trusted) },
    { name: "Accepted on trust", tone: "ok", faint: true, count: trusted },
    { name: "Being judged", tone: "running", faint: false, count: groups.submitted + groups.verifying },
    { name: "Rejected", tone: "rejected", faint: false, count: groups.rejected },
    { name: "Invalid, nobody’s fault", tone: "idle", faint: false, count: groups.invalid },
  ];
}

/** An audit log entry's plain values on one line, ids and hashes short: `outcome AGREED, group group_rwpgk`. */
export function entryInWords(data: unknown): string {
  if (typeof data !== "object" || data === null) return "";
  return Object.entries(data)
    .filter(([, value]) => value !== null && typeof value !== "object" && value !== "")
    .map(([name, value]) => `${name} ${typeof value === "string" ? short(value) : String(value)}`)
    .join(", ");
}

function short(value: string): string {
  if (/^[0-9a-f]{64}$/.test(value)) return value.slice(0, 12);
  return /^[a-z]+_[0-9a-z]{26}$/.test(value) ? shortId(value) : value;
}
