import type { AttackKind } from "../attack.ts";
import { acceptedBound, type Score } from "./score.ts";
import type { Honest } from "./scoreboard.ts";

const kinds: readonly { kind: AttackKind; title: string; about: string }[] = [
  {
    kind: "generation",
    title: "Generation",
    about: "Rollouts that the policy did not produce as the task asks.",
  },
  {
    kind: "pack",
    title: "Packs",
    about:
      "Bytes that are no sound answer to a task. None of them reaches a validator unless it is well-formed.",
  },
  {
    kind: "protocol",
    title: "Calls",
    about: "Nothing is handed in that could be measured; what counts is how far it gets.",
  },
  {
    kind: "validator",
    title: "Validators",
    about:
      "Nodes to which the organizer granted VALIDATOR. *Noticed at* counts false measurements until it was convicted, *quarantined at* all of its measurements from the first of them on.",
  },
  { kind: "economy", title: "Trust and money", about: "Honest for a while, or many identities." },
];

const notCovered = [
  "The organizer, and whoever holds the coordinator's keys: they decide by definition. The audit log shows a third party what they decided.",
  "The trainer. It is granted by the organizer and its steps are not recomputed; batches and states are content-addressed, so anyone with the checkpoints can.",
  "The organizer's own validators in collusion with a worker. Others' validators are watched by them.",
  "Networks: floods of connections or bytes, a coordinator behind no firewall. Rates, sizes, quotas and query costs are limited and tested with the API.",
  "Relays and man-in-the-middle: bytes are named by their hash, and sessions need TLS beyond loopback.",
  "A policy that learns something unwanted from honest rollouts. Verification says who computed what, not whether it is wise.",
  "Differences smaller than those between honest machines (see the thresholds of a run, and what each check cannot catch).",
];

/** docs/attacks.md, whole. */
export function report(scores: readonly Score[], honest: Honest, measured: { minutes: number }): string {
  const sections = kinds.flatMap(({ kind, title, about }) => {
    const own = scores.filter(({ attack }) => attack.kind === kind);
    return own.length === 0 ? [] : [`### ${title}\n\n${about}\n\n${table(own)}\n\n${descriptions(own)}`];
  });
  const missed = scores.filter(({ outcome }) => outcome === "missed").length;
  return `# The attack range

What becomes of ${scores.length} dishonest nodes on a real installation: the coordinator with its database, the trainer, the validator and honest workers
are processes started by the commands a user has, and every adversary is the real worker with one small file of something else
(\`packages/attacks/src\`). Everything below is read through the public API with the organizer's key; what the adversary lied about is known from a
ledger that it keeps for itself and the coordinator never sees.

\`\`\`sh
npm run attacks                                  # all of it; writes this page
npm run attacks -- --only older-policy,sybils    # some of it
npm run attacks -- --short                       # each at its cheapest, as \`npm test\` runs it
npm run attacks -- --json                        # the last line is one JSON object
\`\`\`

The command ends with status 1 when an attack is missed or an honest group is rejected. This page was written by a run of
${measured.minutes.toFixed(0)} minutes: ${missed === 0 ? "none missed" : `**${missed} missed**`}.

The runs have tasks of four groups of eight rollouts, a probation of 12 groups and a floor of 25 %, so that trust is won within seconds; the
thresholds are the defaults of every run. Validators are attacked in a run that measures everything. What is drawn at random (audits, canaries,
re-executions) makes the numbers differ from run to run: a validator whose lies only a re-execution can show goes on for some twenty of them.

## Honest work

${honest.windows.toLocaleString("en")} windows of honest work were measured beside the attacks; ${honest.falseRejections} groups of it were rejected in the end. The
share of honest windows that are rejected is at most ${honest.upper95.toExponential(1)} with 95 % confidence (exact, one-sided).

## Scoreboard

How to read it:

- **outcome**: *detected*, a cheated group was rejected, its pack refused or the validator convicted within its budget; *contained*, what it can
  achieve is bounded, and the bound held; *missed*.
- **noticed at**: groups from its first lie to the first that was noticed, both included. **quarantined at**: groups it had handed in when it was
  quarantined; a worker is faster than the validator that judges it, so some are on their way.
- **caught by**: the checks that failed; *intake* needs no model.
- **poison**: cheated groups that are accepted in the end, or were for long enough to be trained on.
- **kept**: micro-credits its nodes have in the end, held ones included; honest groups are paid like anyone's.
- **value**: what cheating was worth to it in micro-credits: credits kept for cheated groups, minus what was forfeited (credits taken back and the
  pay of cheated groups that were not accepted), plus the compute it did not spend on them at the price of a group, each attack with its own
  share. At or below 0 honesty pays better.

${sections.join("\n\n")}

## Not covered

${notCovered.map((line) => `- ${line}`).join("\n")}
`;
}

function table(scores: readonly Score[]): string {
  const head = ["attack", "outcome", "noticed at", "quarantined at", "caught by", "poison", "kept", "value"];
  const rows = scores.map(
    ({ attack, outcome, untilDetection, untilQuarantine, caughtBy, poison, kept, expectedValue }) => [
      `\`${attack.id}\``,
      outcome === "missed" ? "**missed**" : outcome,
      numberOr(untilDetection),
      numberOr(untilQuarantine),
      caughtBy.join(", ") || "–",
      String(poison),
      kept.toLocaleString("en"),
      expectedValue.toLocaleString("en"),
    ],
  );
  return [head, head.map(() => "---"), ...rows].map((cells) => `| ${cells.join(" | ")} |`).join("\n");
}

function descriptions(scores: readonly Score[]): string {
  return scores
    .map(({ attack }) => `- **${attack.title}** (\`${attack.id}\`). ${attack.plain} ${acceptedBound(attack)}`)
    .join("\n");
}

function numberOr(value: number | null): string {
  return value === null ? "–" : String(value);
}
