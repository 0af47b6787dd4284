// Everything that must hold, in the order that fails soonest: `npm test`, or some of it: `npm test -- lint
// unit e2e`. Ends with one line: `N passed, N failed`. A step that is not a test suite counts as one.
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";

type Step = {
  name: string;
  group: "lint" | "unit" | "build" | "attacks" | "e2e";
  command: string;
  args: string[];
  cwd?: string;
  report?: "vitest" | "playwright";
};
type Counts = { passed: number; failed: number };

const root = join(import.meta.dirname, "..");
const results = join(root, ".muster", "test-results");
const bin = (name: string) => join(root, "node_modules", ".bin", name);
const node = (script: string, ...args: string[]) => ({ command: process.execPath, args: [script, ...args] });

const steps: Step[] = [
  {
    name: "generated code and schema.graphql are what the sources say",
    group: "lint",
    ...node("scripts/generate.ts", "--check", "--quiet"),
  },
  { name: "lint and format", group: "lint", command: bin("biome"), args: ["ci", "--max-diagnostics=50"] },
  { name: "package boundaries", group: "lint", command: bin("turbo"), args: ["boundaries"] },
  { name: "lock file is complete", group: "lint", ...node("scripts/lockcheck.mjs") },
  {
    name: "types",
    group: "lint",
    command: bin("turbo"),
    args: ["run", "typecheck", "--concurrency=2", "--output-logs=errors-only"],
  },
  { name: "GraphQL documents", group: "lint", ...node("scripts/gql-check.ts") },
  { name: "migrations match the schema", group: "lint", ...node("scripts/drift.ts") },
  {
    name: "unit and API tests",
    group: "unit",
    command: bin("vitest"),
    args: ["run", "--reporter=default", "--reporter=json"],
    report: "vitest",
  },
  {
    name: "dashboard build",
    group: "build",
    command: bin("turbo"),
    args: ["run", "build", "--output-logs=errors-only"],
  },
  { name: "attack range, short form", group: "attacks", ...node("e2e/attacks.ts", "--short") },
  {
    name: "end to end",
    group: "e2e",
    command: bin("playwright"),
    args: ["test"],
    cwd: join(root, "e2e"),
    report: "playwright",
  },
];

const wanted = process.argv.slice(2);
const unknown = wanted.filter((word) => !steps.some((step) => step.group === word));
if (unknown.length > 0) {
  process.stderr.write(`There is no group "${unknown[0]}"; there are lint, unit, build, attacks and e2e.\n`);
  process.exit(2);
}

mkdirSync(results, { recursive: true });
const total: Counts = { passed: 0, failed: 0 };
for (const step of steps) {
  if (wanted.length > 0 && !wanted.includes(step.group)) continue;
  const started = performance.now();
  const counts = run(step);
  total.passed += counts.passed;
  total.failed += counts.failed;
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  process.stdout.write(
    `${counts.failed === 0 ? "✓" : "✗"} ${step.name} (${counts.passed} passed, ${counts.failed} failed, ${seconds} s)\n`,
  );
}
const { stopTestPostgres } = await import("@muster/db/testing");
await stopTestPostgres();
process.stdout.write(`${total.passed} passed, ${total.failed} failed\n`);
process.exit(total.failed === 0 ? 0 : 1);

function run(step: Step): Counts {
  const file = join(results, `${step.report}.json`);
  rmSync(file, { force: true });
  const env = {
    ...process.env,
    TURBO_TELEMETRY_DISABLED: "1",
    NEXT_TELEMETRY_DISABLED: "1",
    ORT_DISABLE_TELEMETRY: "1",
    PLAYWRIGHT_JSON_OUTPUT_FILE: file,
  };
  const args = step.report === "vitest" ? [...step.args, `--outputFile.json=${file}`] : step.args;
  const result = spawnSync(step.command, args, {
    cwd: step.cwd ?? root,
    stdio: ["ignore", "inherit", "inherit"],
    env,
  });
  if (step.report === undefined)
    return result.status === 0 ? { passed: 1, failed: 0 } : { passed: 0, failed: 1 };
  const counts = existsSync(file)
    ? read(step.report, JSON.parse(readFileSync(file, "utf8")))
    : { passed: 0, failed: 0 };
  // A runner that failed without a failed test, or ran none, did not pass.
  if (counts.failed === 0 && (result.status !== 0 || counts.passed === 0)) return { ...counts, failed: 1 };
  return counts;
}

function read(
  report: "vitest" | "playwright",
  json: {
    numPassedTests?: number;
    numFailedTests?: number;
    stats?: { expected: number; unexpected: number; flaky: number };
  },
): Counts {
  if (report === "vitest") return { passed: json.numPassedTests ?? 0, failed: json.numFailedTests ?? 0 };
  const { expected = 0, unexpected = 0, flaky = 0 } = json.stats ?? {};
  return { passed: expected, failed: unexpected + flaky };
}
