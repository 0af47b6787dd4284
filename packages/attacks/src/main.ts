import { parseArgs } from "node:util";
import { runWorker } from "@muster/worker";
import { attacks } from "./attacks.ts";

// main.ts <attack> --url http://127.0.0.1:4000 --state <folder> [--name <shown>] [--tasks <n>]: works until it is told to stop.

const usage = `Usage: main.ts <attack> --url <coordinator> --state <folder> [--name <name>] [--tasks <n>]

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
    await runWorker({
      url: asked.url,
      stateDir: asked.state,
      roles: ["WORKER"],
      name: asked.name ?? attack.id,
      executors: attack.executors(),
      signal: stop.signal,
      ...(asked.tasks === undefined ? {} : { maxTasks: asked.tasks }),
    });
    return 0;
  } catch (error) {
    console.error(error instanceof Error ? error.message : error);
    return 1;
  }
}

function read(): { id: string; url: string; state: string; name?: string; tasks?: number } | undefined {
  try {
    const { values, positionals } = parseArgs({
      allowPositionals: true,
      options: {
        url: { type: "string" },
        state: { type: "string" },
        name: { type: "string" },
        tasks: { type: "string" },
      },
    });
    const [id] = positionals;
    if (id === undefined || values.url === undefined || values.state === undefined) return undefined;
    const tasks = values.tasks === undefined ? undefined : Number(values.tasks);
    if (tasks !== undefined && !(Number.isInteger(tasks) && tasks > 0)) return undefined;
    return {
      id,
      url: values.url,
      state: values.state,
      ...(values.name === undefined ? {} : { name: values.name }),
      ...(tasks === undefined ? {} : { tasks }),
    };
  } catch {
    return undefined;
  }
}
