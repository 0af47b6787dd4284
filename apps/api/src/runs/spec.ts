import { parseRunSpec, type RunSpec } from "@muster/protocol";
import { LRUCache } from "lru-cache";
import type { Tx } from "../context.ts";

// A revision never changes, so it is parsed once a process.
const parsed = new LRUCache<string, RunSpec>({ max: 256 });

/** The spec of one revision of a run. */
export async function specOf(tx: Tx, runId: string, revision: number): Promise<RunSpec> {
  const key = `${runId}:${revision}`;
  const known = parsed.get(key);
  if (known !== undefined) return known;
  const row = await tx.runRevision.findUniqueOrThrow({
    where: { runId_number: { runId, number: revision } },
    select: { spec: true },
  });
  const result = parseRunSpec(row.spec);
  if (!result.ok) {
    const problems = result.issues.map((issue) => `${issue.path}: ${issue.message}`).join("; ");
    throw new Error(`revision ${revision} of run ${runId} no longer parses: ${problems}`);
  }
  parsed.set(key, result.spec);
  return result.spec;
}
