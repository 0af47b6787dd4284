// How a verified bundle is told: a table of its checks, and a sentence.
import type { CheckResult } from "@muster/verification";
import { type Terminal, table } from "../terminal.ts";
import { type CheckRow, checkRows, type Verified } from "./bundle.ts";

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
  const here = verified.measured === undefined ? [] : [provider ?? "HERE"];
  terminal.say(
    table(
      ["CHECK", "RECORDED", "AGAIN", ...here, "FIGURE", "OBSERVED", ...here, "EXPECTED", "THRESHOLD"].map(
        (word) => word.toUpperCase(),
      ),
      checkRows(verified).flatMap((row) => rowsOf(row, evidence.measurement !== null, here.length > 0)),
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

/** A line for each number that is compared with something; the verdicts on the first. */
function rowsOf({ id, recorded, stored, measured }: CheckRow, judged: boolean, here: boolean): string[][] {
  const rule = stored ?? recorded ?? measured;
  const names = Object.keys({ ...rule?.threshold, ...rule?.expected });
  const verdicts = [id, word(recorded), judged ? word(stored) : "–", ...(here ? [word(measured)] : [])];
  if (names.length === 0) return [[...verdicts, ...verdicts.slice(here ? 1 : 0).map(() => "–")]];
  return names.map((name, i) => [
    ...(i === 0 ? verdicts : verdicts.map(() => "")),
    name,
    figure((recorded ?? stored)?.observed[name]),
    ...(here ? [figure(measured?.observed[name])] : []),
    figure(rule?.expected[name]),
    figure(rule?.threshold[name]),
  ]);
}

function word(check: CheckResult | undefined): string {
  return check?.verdict ?? "–";
}

function figure(value: number | string | undefined): string {
  if (value === undefined) return "–";
  return String(typeof value === "number" ? Number(value.toPrecision(4)) : value);
}
