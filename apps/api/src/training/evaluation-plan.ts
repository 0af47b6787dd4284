import { environment, heldOutExample, type RunSpec } from "@muster/protocol";
import { LRUCache } from "lru-cache";
import type { Tx } from "../context.ts";
import type { StartedRun } from "../runs/lifecycle.ts";
import { openTasks } from "../tasks/lease.ts";

/** An EVALUATE task that failed is replaced this often; then its version goes without. */
const replacements = 1;

/**
 * Opens EVALUATE tasks for the versions that the spec names and that are out, and for the newest one when it is the run's last.
 * @returns how many were opened.
 */
export async function openEvaluations(
  tx: Tx,
  run: StartedRun,
  spec: RunSpec,
  { final }: { final: boolean },
): Promise<number> {
  const wanted = wantedVersions(spec, run.currentVersion, { final });
  if (wanted.length === 0) return 0;
  const { suite } = spec.evaluation;
  const done = await tx.evaluation.findMany({
    where: { runId: run.id, suite, version: { in: wanted } },
    select: { version: true },
  });
  const missing = wanted.filter((version) => !done.some((evaluation) => evaluation.version === version));
  if (missing.length === 0) return 0;
  const tasks = await tx.task.findMany({
    where: { runId: run.id, kind: "EVALUATE", policyVersion: { in: missing } },
    select: { policyVersion: true, state: true },
  });
  const due = missing.filter((version) => {
    const tries = tasks.filter((task) => task.policyVersion === version);
    return tries.every((task) => task.state === "FAILED") && tries.length <= replacements;
  });
  if (due.length === 0) return 0;
  const checkpoints = await tx.checkpoint.findMany({
    where: { runId: run.id, version: { in: due }, state: "AVAILABLE" },
    select: { version: true, manifestHash: true },
  });
  await openTasks(
    tx,
    checkpoints.map(({ version, manifestHash }) => ({
      organizationId: run.organizationId,
      runId: run.id,
      kind: "EVALUATE",
      revision: run.revision,
      policyVersion: version,
      manifestHash,
      payload: {
        kind: "EVALUATE",
        seed: spec.seed,
        suite,
        manifest: manifestHash,
        prompts: suitePrompts(spec),
        maxOutputTokens: spec.generation.maxOutputTokens,
        sampling: { ...spec.generation.sampling, temperature: spec.evaluation.temperature },
      },
    })),
  );
  return checkpoints.length;
}

/** Versions up to the newest that are to be evaluated: those named, every so many, and the run's last. */
export function wantedVersions(spec: RunSpec, newest: number, { final }: { final: boolean }): number[] {
  const { versions, every } = spec.evaluation;
  const wanted = new Set(versions.filter((version) => version <= newest));
  if (every > 0) for (let version = every; version <= newest; version += every) wanted.add(version);
  if (final) wanted.add(newest);
  return [...wanted].sort((a, b) => a - b);
}

/** The suite's prompts as token ids, in order. */
function suitePrompts(spec: RunSpec): number[][] {
  const { suite, examples } = spec.evaluation;
  const key = `${spec.environment} ${suite} ${examples}`;
  const known = prompts.get(key);
  if (known !== undefined) return known;
  const env = environment(spec.environment);
  const made = Array.from({ length: examples }, (_, i) =>
    env.tokenizer.encode(heldOutExample(env, suite, i).prompt),
  );
  prompts.set(key, made);
  return made;
}

// Versions of a run are evaluated on the same examples; drawing a thousand takes tens of milliseconds.
const prompts = new LRUCache<string, number[][]>({ max: 16 });
