// `npm run attacks`: lets every attack loose on an installation and says what came of it. It is told where the installation is by
// the command that started it; nothing is read but through the public API, with the organizer's key.
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { createClient } from "@muster/sdk";
import { attacks } from "./attacks.ts";
import { shortForm } from "./range/plan.ts";
import { report } from "./range/report.ts";
import { runRange } from "./range/run.ts";
import { board, summary } from "./range/scoreboard.ts";

const usage = `Usage: npm run attacks [-- --only <id,id> --short --json --keep]

  --only <ids>  only these attacks, separated by commas
  --short       each attack at its cheapest, as the tests run it
  --json        the last line is one JSON object
  --keep        leave the installation's folder

Attacks: ${Object.keys(attacks).join(", ")}`;

const page = join(import.meta.dirname, "..", "..", "..", "docs", "attacks.md");

const stop = new AbortController();
for (const name of ["SIGINT", "SIGTERM"] as const) process.once(name, () => stop.abort());

try {
  process.exitCode = await main();
} catch (error) {
  if (!stop.signal.aborted) throw error;
  process.exitCode = 130;
}

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      only: { type: "string" },
      short: { type: "boolean", default: false },
      json: { type: "boolean", default: false },
      url: { type: "string" },
      organization: { type: "string" },
      folder: { type: "string" },
    },
  });
  const { url, organization, folder } = values;
  const apiKey = process.env.MUSTER_API_KEY;
  const only = values.only?.split(",").map((id) => id.trim());
  const unknown = only?.find((id) => !Object.hasOwn(attacks, id));
  if (
    url === undefined ||
    organization === undefined ||
    folder === undefined ||
    apiKey === undefined ||
    unknown
  ) {
    console.error(unknown === undefined ? usage : `There is no attack "${unknown}".\n${usage}`);
    return 2;
  }
  const all = Object.values(attacks);
  const chosen =
    only !== undefined ? all.filter(({ id }) => only.includes(id)) : values.short ? shortForm(all) : all;
  mkdirSync(folder, { recursive: true });
  const started = performance.now();
  const say = (line: string) => void process.stderr.write(`${line}\n`);
  await using client = createClient({ url, apiKey });
  const { scores, honest } = await runRange({
    client,
    url,
    organization,
    folder,
    attacks: chosen,
    short: values.short,
    operatorToken: process.env.MUSTER_OPERATOR_TOKEN,
    signal: stop.signal,
    say,
  });
  for (const line of board(scores)) console.log(line);
  const missed = scores.filter(({ outcome }) => outcome === "missed");
  for (const { attack, why } of missed) console.log(`Missed: ${attack.id}: ${why}.`);
  const { windows, falseRejections, upper95 } = honest;
  console.log(
    `Honest windows: ${windows}, rejected groups: ${falseRejections}, at most ${upper95.toExponential(1)} of windows (95 %).`,
  );
  if (only === undefined && !values.short && !stop.signal.aborted) {
    const minutes = (performance.now() - started) / 60_000;
    writeFileSync(page, report(scores, honest, { minutes }));
  }
  if (values.json) console.log(JSON.stringify(summary(scores, honest)));
  return missed.length === 0 && falseRejections === 0 ? 0 : 1;
}
