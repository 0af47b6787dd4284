// `npm run bench -- <name> [--<option> <number>] [--<flag>] [--json]`: one measurement, its figures beside what they are judged
// against in the same run. With --json the last line is the figures alone.

import { parseArgs } from "node:util";
import type { Bench } from "./bench.ts";

const benches: Record<string, () => Promise<Bench>> = {
  audit: async () => (await import("./audit.ts")).audit,
  broadcast: async () => (await import("./broadcast.ts")).broadcast,
  delta: async () => (await import("./delta.ts")).delta,
  fuzz: async () => (await import("./fuzz.ts")).fuzzing,
  verification: async () => (await import("./verification.ts")).verification,
};

const [name, ...rest] = process.argv.slice(2);
const load = name !== undefined && Object.hasOwn(benches, name) ? benches[name] : undefined;
const bench = await load?.();
const asked = bench === undefined ? undefined : read(bench, rest);

if (bench === undefined || asked === undefined) {
  const options = [
    ...Object.keys(bench?.options ?? {}).map((option) => ` [--${option} <number>]`),
    ...(bench?.flags ?? []).map((flag) => ` [--${flag}]`),
  ];
  console.error(
    `Usage: npm run bench -- ${bench === undefined ? "<name>" : name}${options.join("")} [--json]`,
  );
  console.error(`Names: ${Object.keys(benches).join(", ")}`);
  process.exitCode = 2;
} else {
  const figures = await bench.run((line) => console.log(line), asked.options, asked.flags);
  if (asked.json) console.log(JSON.stringify(figures));
}

/** What was asked for, or undefined when it is nothing that the bench knows. */
function read(
  { options = {}, flags = [] }: Bench,
  args: string[],
): { json: boolean; options: Record<string, number>; flags: Set<string> } | undefined {
  const known: Record<string, { type: "string" | "boolean" }> = { json: { type: "boolean" } };
  for (const option of Object.keys(options)) known[option] = { type: "string" };
  for (const flag of flags) known[flag] = { type: "boolean" };
  try {
    const { values } = parseArgs({ args, options: known });
    const numbers = Object.entries(options).map(([option, standard]) => {
      const given = values[option];
      return [option, given === undefined ? standard : Number(given)] as const;
    });
    if (numbers.some(([, value]) => !Number.isInteger(value) || value < 1)) return undefined;
    const given = new Set(flags.filter((flag) => values[flag] === true));
    return { json: values.json === true, options: Object.fromEntries(numbers), flags: given };
  } catch {
    return undefined;
  }
}
