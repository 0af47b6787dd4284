import type { Assignment, ExecutorContext } from "@muster/worker";

/** The manifest of a version that is out; undefined when it is not, or not any more. */
export async function publishedManifest(
  ctx: ExecutorContext,
  { lease, signal }: Assignment<"GENERATE">,
  version: number,
): Promise<string | undefined> {
  for await (const checkpoint of ctx.client.runs.checkpoints({ run: lease.run }, { signal })) {
    if (checkpoint.version === version && checkpoint.state === "AVAILABLE") return checkpoint.manifestHash;
    // newest first
    if (checkpoint.version < version) return undefined;
  }
  return undefined;
}
