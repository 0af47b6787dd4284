// How a verified bundle is told: a table of its checks, and a sentence.
import type { CheckResult, Figures } from "@muster/verification";
import { type Terminal, table } from "../terminal.ts";
import { checkRows, type Verified } from "./bundle.ts";

/** The whole outcome for programs. */
export function verifiedJson(verified: Verified): Record<string, unknown> {
  const { evidence, stored, measured, agrees, differences } = verified;
  const { run, group, policyVersion, coordinator, verdict, acceptance } = evidence.header;
  return {
    run,
    group,
    policyVersion,
    coordinator,
    sha256: evidence.sha256,
    acceptance,
    recorded: verdict?.verdict ?? null,
    stored: evidence.measurement === null ? null : stored.decision.verdict,
    measured: measured?.decision.verdict ?? null,
    agrees,
    differences,
    checks: checkRows(verified),
  };
}

/** Every check with its numbers, then whether all agree. */
export function report(verified: Verified, provider: string | undefined, terminal: Terminal): void {
  const { evidence, differences } = verified;
  const { group, run, policyVersion, worker, validator } = evidence.header;
  terminal.say(`${group} of ${run}, made with policy version ${policyVersion} by ${worker.node}`);
  terminal.say(
    validator === null ? "measured by nobody: accepted on trust" : `measured by ${validator.node}`,
  );
  terminal.say("");
  const here = verified.measured === undefined ? [] : [`MEASURED HERE${provider ? ` (${provider})` : ""}`];
  terminal.say(
    table(
      [
        "CHECK",
        "RECORDED",
        "JUDGED AGAIN",
        ...here.map(() => "HERE"),
        "OBSERVED",
        ...here,
        "EXPECTED",
        "THRESHOLD",
      ],
      checkRows(verified).map(({ id, recorded, stored, measured }) => {
        const one = recorded ?? stored ?? measured;
        return [
          id,
          recorded?.verdict ?? "–",
          evidence.measurement === null ? "–" : (stored?.verdict ?? "–"),
          ...here.map(() => measured?.verdict ?? "–"),
          text(recorded ?? stored),
          ...here.map(() => text(measured)),
          figures(one?.expected, one),
          figures(one?.threshold, one),
        ];
      }),
    ),
  );
  terminal.say("");
  for (const difference of differences) terminal.say(`✗ ${difference}`);
  terminal.say(sentence(verified, provider));
}

/** The outcome in one sentence. */
export function sentence(
  { evidence, stored, measured, agrees, differences }: Verified,
  provider: string | undefined,
): string {
  const { group, verdict } = evidence.header;
  const recorded = verdict === null ? "accepted without a measurement" : `recorded as ${verdict.verdict}`;
  if (!agrees) {
    const count = differences.length === 1 ? "One thing differs" : `${differences.length} things differ`;
    return `Does not agree: ${group} is ${recorded}. ${count}.`;
  }
  const tokens = evidence.rollouts.reduce((sum, rollout) => sum + rollout.tokens.length, 0);
  const again = evidence.measurement === null ? "" : `; judged again it is ${stored.decision.verdict}`;
  const here =
    measured === undefined
      ? "; its tokens were not measured here"
      : `; its ${tokens} tokens, measured here${provider === undefined ? "" : ` on ${provider}`}, make it ${measured.decision.verdict}`;
  return `Agrees: ${group} is ${recorded}${again}${here}.`;
}

function text(check: CheckResult | undefined): string {
  return figures(check?.observed, check);
}

/** The figures that something is compared with, and no others. */
function figures(of: Figures | undefined, check: CheckResult | undefined): string {
  if (of === undefined || check === undefined) return "–";
  const names = Object.keys({ ...check.threshold, ...check.expected });
  const shown = names.flatMap((name) => {
    const value = of[name];
    if (value === undefined) return [];
    return [`${name} ${typeof value === "number" ? Number(value.toPrecision(4)) : value}`];
  });
  return shown.join(", ") || "–";
}
