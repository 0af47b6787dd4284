// `npm run bench -- <name> [--json]`: one measurement, its figures beside what they are judged against in the same run.
// With --json the last line is the figures alone.

import type { Bench } from "./bench.ts";

const benches: Record<string, () => Promise<Bench>> = {
  verification: async () => (await import("./verification.ts")).verification,
};

const [name, ...flags] = process.argv.slice(2).filter((argument) => argument !== "--json");
const json = process.argv.includes("--json");
const load = name !== undefined && Object.hasOwn(benches, name) ? benches[name] : undefined;

if (load === undefined || flags.length > 0) {
  console.error(`Usage: npm run bench -- <name> [--json]\nNames: ${Object.keys(benches).join(", ")}`);
  process.exitCode = 2;
} else {
  const bench = await load();
  const figures = await bench.run((line) => console.log(line));
  if (json) console.log(JSON.stringify(figures));
}
