import { parseArgs } from "node:util";
import { createLog } from "@muster/worker";
import { attacks } from "./attacks.ts";
import { openLedger } from "./cheating/ledger.ts";
import { attackOn } from "./scene.ts";

// main.ts <attack> --url http://127.0.0.1:4000 --state <folder> [--name <shown>] [--run <id>] [--ledger <file>]: attacks until it is told to stop.

const usage = `Usage: main.ts <attack> --url <coordinator> --state <folder> [--name <name>] [--run <id>] [--ledger <file>]

Attacks:
${Object.values(attacks)
  .map(({ id, plain }) => `  ${id}: ${plain}`)
  .join("\n")}`;

process.exitCode = await main();

async function main(): Promise<number> {
  const asked = read();
  const attack = asked && Object.hasOwn(attacks, asked.id) ? attacks[asked.id] : undefined;
  if (!asked || !attack) {
    console.error(usage);
    return 2;
  }
  const stop = new AbortController();
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => stop.abort());
  try {
    await attackOn(attack, {
      url: asked.url,
      run: asked.run ?? "",
      stateDir: asked.state,
      name: asked.name ?? attack.id,
      ledger: openLedger(asked.ledger),
      log: createLog({ name: attack.id }),
      signal: stop.signal,
    });
    return 0;
  } catch (error) {
    console.error(error instanceof Error ? error.message : error);
    return 1;
  }
}

type Asked = { id: string; url: string; state: string; name?: string; run?: string; ledger?: string };

function read(): Asked | undefined {
  try {
    const { values, positionals } = parseArgs({
      allowPositionals: true,
      options: {
        url: { type: "string" },
        state: { type: "string" },
        name: { type: "string" },
        run: { type: "string" },
        ledger: { type: "string" },
      },
    });
    const [id] = positionals;
    const { url, state, ...rest } = values;
    if (id === undefined || url === undefined || state === undefined) return undefined;
    return { id, url, state, ...rest };
  } catch {
    return undefined;
  }
}
