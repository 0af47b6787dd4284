// The nodes of a local installation: one trainer, one validator that also evaluates, any number of workers and of cheaters.
import { join } from "node:path";
import { createClient } from "@muster/sdk";
import { openIdentity } from "@muster/worker";
import { registerNode } from "../register-node.ts";
import type { StateFolder } from "../state-folder.ts";
import { repository } from "./repository.ts";
import type { Child, Supervisor } from "./supervisor.ts";

export type GrantedRole = "TRAINER" | "VALIDATOR" | "EVALUATOR";

export type LocalNode = {
  name: string;
  /** Its own folder. */
  state: string;
  /** TypeID. */
  id: string;
  /** What the organizer grants it in every run. */
  grants: readonly GrantedRole[];
  kind: "trainer" | "validator" | "worker" | "cheater";
};

/** Milliseconds from SIGTERM to SIGKILL; a node uses less of it to finish what it has begun. */
const GRACE = 10_000;
const DRAIN_SECONDS = 7;

/** Makes or finds the keys of all nodes and registers them, so that their ids are known before any of them works. */
export async function registerNodes(
  folder: StateFolder,
  options: { url: string; organization: string; workers: number; cheaters: number; signal: AbortSignal },
): Promise<LocalNode[]> {
  const many = (kind: "worker" | "cheater", n: number) =>
    Array.from({ length: n }, (_, i) => ({ kind, name: `${kind}-${i + 1}`, grants: [] }));
  const wanted: Pick<LocalNode, "kind" | "name" | "grants">[] = [
    { kind: "trainer", name: "trainer", grants: ["TRAINER"] },
    { kind: "validator", name: "validator", grants: ["VALIDATOR", "EVALUATOR"] },
    ...many("worker", options.workers),
    ...many("cheater", options.cheaters),
  ];
  await using client = createClient({ url: options.url });
  const nodes: LocalNode[] = [];
  for (const node of wanted) {
    const state = join(folder.at("nodes"), node.name);
    const identity = await openIdentity(state);
    const id = await registerNode(client, {
      url: options.url,
      identity,
      name: node.name,
      worksFor: [options.organization],
      signal: options.signal,
    });
    nodes.push({ ...node, state, id });
  }
  return nodes;
}

/** Starts a node's process. */
export function startNode(
  supervisor: Supervisor,
  node: LocalNode,
  { url, organization, dashboardUrl }: { url: string; organization: string; dashboardUrl: string },
): Child {
  const env = () => ({ NODE_ENV: "production", MUSTER_DASHBOARD_URL: dashboardUrl });
  const shared = { name: node.name, cwd: repository, grace: GRACE, env };
  if (node.kind === "cheater") {
    const script = join(repository, "packages", "attacks", "src", "main.ts");
    const args = [script, "older-policy", "--url", url, "--state", node.state, "--name", node.name];
    return supervisor.start({ ...shared, args });
  }
  const script = join(repository, "packages", "cli", "src", "main.ts");
  const args = [script, "worker", "--url", url, "--state", node.state, "--name", node.name];
  return supervisor.start({
    ...shared,
    args: [
      ...args,
      ...["--roles", rolesOf(node), "--organization", organization],
      ...["--drain-seconds", String(DRAIN_SECONDS)],
    ],
  });
}

function rolesOf({ kind }: LocalNode): string {
  switch (kind) {
    case "trainer":
      return "trainer";
    case "validator":
      return "validator,evaluator";
    case "worker":
    case "cheater":
      return "worker";
  }
}
