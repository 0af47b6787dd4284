// While `muster up` runs, its own trainer and validator serve every run of the organization: also one that somebody creates in the
// dashboard, which nobody else would ever train.
import { setTimeout as sleep } from "node:timers/promises";
import { graphql, type MusterClient } from "@muster/sdk";
import type { LocalNode } from "./nodes.ts";

const EVERY = 2_000;

const LocalRunsDocument = graphql(`
  query LocalRuns {
    runs(first: 50) {
      edges {
        node {
          id
          state
          grants { role node { id } }
        }
      }
    }
  }
`);

/** Grants what is missing in one run. */
export async function grantIn(client: MusterClient, run: string, nodes: readonly LocalNode[]): Promise<void> {
  for (const node of nodes) {
    // They run on the organizer's machine: its validator is the one that measures again what others measured.
    for (const role of node.grants)
      await client.runs.grantRole({ run, node: node.id, role, own: role === "VALIDATOR" });
  }
}

/**
 * Grants the nodes' roles in every unfinished run that has no grants of theirs yet, for as long as the signal lets it. A role that a
 * person revoked stays revoked.
 */
export async function followRuns(
  client: MusterClient,
  nodes: readonly LocalNode[],
  options: { signal: AbortSignal; note: (text: string) => void },
): Promise<void> {
  const { signal, note } = options;
  const done = new Set<string>();
  let told = "";
  while (!signal.aborted) {
    try {
      const { runs } = await client.execute(LocalRunsDocument, {}, { signal });
      for (const { node: run } of runs.edges) {
        if (done.has(run.id) || !unfinished.has(run.state)) continue;
        const known = new Set(run.grants.map((grant) => `${grant.node.id} ${grant.role}`));
        const missing = nodes.map((node) => ({
          ...node,
          grants: node.grants.filter((role) => !known.has(`${node.id} ${role}`)),
        }));
        await grantIn(client, run.id, missing);
        done.add(run.id);
      }
      told = "";
    } catch (error) {
      const text = error instanceof Error ? error.message : String(error);
      // The coordinator may be away for a moment; said once, not every two seconds.
      if (!signal.aborted && text !== told) note(`Looking for new runs failed: ${text}`);
      told = text;
    }
    await sleep(EVERY, undefined, { signal }).catch(() => {});
  }
}

const unfinished: ReadonlySet<string> = new Set(["DRAFT", "RUNNING", "PAUSED"]);
