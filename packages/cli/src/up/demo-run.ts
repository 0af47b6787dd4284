import { randomUUID } from "node:crypto";
import { demoRunSpec } from "@muster/protocol";
import type { MusterClient, Run } from "@muster/sdk";
import { Failure } from "../failure.ts";

/** Micro-credits: some ten times what a step of the demo costs, and what its evaluations do. */
const CREDITS_PER_STEP = 10_000_000n;
const CREDITS_AT_LEAST = 1_000_000_000n;

/** Finds the demo's unfinished run, or creates one. A run that somebody paused stays paused. */
export async function demoRun(
  client: MusterClient,
  options: { organization: string; seed: number; steps: number; signal: AbortSignal },
): Promise<{ run: Run; resumed: boolean }> {
  const { organization, seed, steps, signal } = options;
  const demos: Run[] = [];
  for await (const run of client.runs.list({}, { signal })) if (isDemo(run.name)) demos.push(run);
  for (const state of ["RUNNING", "PAUSED", "DRAFT"] as const) {
    for (const run of demos) {
      if (run.state !== state) continue;
      const started = state === "DRAFT" ? await client.runs.resume({ run: run.id }, { signal }) : run;
      return { run: started, resumed: true };
    }
  }
  // one that ended keeps its name; two of one name could not be told apart in a list
  const spec = demoRunSpec({ seed, steps, ...(demos.length > 0 ? { name: nameOf(demos.length + 1) } : {}) });
  const credits = BigInt(steps) * CREDITS_PER_STEP + CREDITS_AT_LEAST;
  const outcome = await client.runs.create(
    { organization, spec, credits: String(credits), start: true, idempotencyKey: randomUUID() },
    { signal },
  );
  if (outcome.__typename === "RunCreated") return { run: outcome.run, resumed: false };
  throw new Failure({
    exit: "failed",
    code: "SPEC_INVALID",
    what: `The coordinator refused the demo's spec: ${outcome.message}`,
    why: outcome.issues.map(({ path, message }) => `${path}: ${message}`).join("; "),
  });
}

const first = demoRunSpec().name;

function nameOf(number: number): string {
  return `${first} (${number})`;
}

function isDemo(name: string): boolean {
  return name.startsWith(first) && /^( \(\d+\))?$/.test(name.slice(first.length));
}
