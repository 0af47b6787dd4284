import { join } from "node:path";
import type { MusterClient } from "@muster/sdk";
import { exactUpper } from "@muster/verification";
import type { Attack, Scene } from "../attack.ts";
import { startHonestWorkers } from "./honest-workers.ts";
import { plan } from "./plan.ts";
import type { Score } from "./score.ts";
import type { Honest } from "./scoreboard.ts";
import { openStage } from "./stage.ts";
import { tryAttack } from "./trial.ts";

export type RangeOptions = {
  client: MusterClient;
  url: string;
  organization: string;
  folder: string;
  attacks: readonly Attack[];
  short: boolean;
  operatorToken: string | undefined;
  signal: AbortSignal;
  say: (line: string) => void;
};

/** Goes through the stages; on each, the attacks meant for it, a few at a time. */
export async function runRange(options: RangeOptions): Promise<{ scores: Score[]; honest: Honest }> {
  const { client, url, signal, say, short } = options;
  const started = performance.now();
  const at = () => `${((performance.now() - started) / 1000).toFixed(0).padStart(4)} s`;
  await using honestWorkers = startHonestWorkers({ url, folder: join(options.folder, "honest") });
  const scores: Score[] = [];
  const tally = { measured: 0, windows: 0, rejected: 0 };
  const { startedAt } = await client.health();
  for (const step of plan(options.attacks, { short })) {
    say(`${at()}  ${step.title}: ${step.attacks.length} attacks`);
    await honestWorkers.set(step.honestWorkers);
    const stage = await openStage(client, { organization: options.organization, spec: step.spec, signal });
    say(`${at()}  the base is out`);
    const adversaries = new Set<string>();
    const waiting = [...step.attacks];
    const lane = async () => {
      for (let attack = waiting.shift(); attack !== undefined && !signal.aborted; attack = waiting.shift()) {
        const result = await tryAttack(attack, stage, {
          client,
          url,
          folder: join(options.folder, attack.id),
          seconds: step.seconds,
          hasty: short,
          organizer: organizerOf(options),
          watch: step.watch,
          calm: step.calm,
          adversaries,
          signal,
        });
        scores.push(result);
        const { outcome, untilDetection, caughtBy, why, seconds } = result;
        say(
          `${at()}  ${attack.id}: ${outcome}${untilDetection === null ? "" : ` at group ${untilDetection}`} ${caughtBy.join(", ")} ${why} (${seconds.toFixed(1)} s)`,
        );
      }
    };
    await Promise.all(Array.from({ length: step.lanes }, lane));
    await honestWorkers.set(0);
    await stage.settled();
    const honest = await stage.honest(adversaries);
    tally.windows += honest.measured * stage.windowsOfGroup;
    tally.rejected += honest.rejected;
    for (const { honest: own } of scores.filter(({ attack }) => step.attacks.includes(attack))) {
      tally.windows += own.measured * stage.windowsOfGroup;
      tally.rejected += own.rejected;
    }
    await stage.close();
  }
  if ((await client.health()).startedAt !== startedAt)
    throw new Error("The coordinator ended during the attacks.");
  const order = options.attacks.map(({ id }) => id);
  scores.sort((a, b) => order.indexOf(a.attack.id) - order.indexOf(b.attack.id));
  const upper95 = exactUpper(tally.rejected, tally.windows);
  return { scores, honest: { windows: tally.windows, falseRejections: tally.rejected, upper95 } };
}

/** Somebody else's organization: what the operator of an installation makes for whoever asks. */
function organizerOf({ url, operatorToken }: RangeOptions): Scene["organizer"] {
  if (operatorToken === undefined) return undefined;
  return async (name) => {
    const response = await fetch(`${url}/operator/bootstrap`, {
      method: "POST",
      headers: { authorization: `Bearer ${operatorToken}`, "content-type": "application/json" },
      body: JSON.stringify({ organizationName: name, email: `${name.toLowerCase()}@muster.localhost` }),
    });
    if (!response.ok)
      throw new Error(`No organization was made: ${response.status} ${await response.text()}`);
    // the API's own answer
    return (await response.json()) as { organization: string; apiKey: string };
  };
}
