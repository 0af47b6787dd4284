import { type ComputeNode, graphql, type MusterClient, type RunNode } from "@muster/sdk";
import { findRun } from "./runs.ts";
import { printable, type Terminal, table } from "./terminal.ts";

/** Lists the nodes the caller may see; of one run, what each may do there, what it did and how far it is believed. */
export async function listNodes(
  client: MusterClient,
  terminal: Terminal,
  options: { run: string | undefined; signal: AbortSignal },
): Promise<void> {
  const { signal } = options;
  if (options.run !== undefined) return listWorkers(client, terminal, { run: options.run, signal });
  const nodes: ComputeNode[] = [];
  for await (const node of client.nodes.list({}, { signal })) nodes.push(node);
  terminal.value({ items: nodes });
  if (nodes.length === 0) return terminal.say(nobody);
  terminal.say(
    table(
      ["ID", "NAME", "LIVENESS", "LAST SEEN", "SOFTWARE"],
      nodes.map(({ id, name, liveness, lastSeenAt, software }) => [id, name, liveness, lastSeenAt, software]),
    ),
  );
  terminal.say("Roles and trust belong to a run: npm run muster -- nodes list --run <run>");
}

const nobody = "No nodes yet. Start one: npm run muster -- worker --url <coordinator>";

async function listWorkers(
  client: MusterClient,
  terminal: Terminal,
  { run, signal }: { run: string; signal: AbortSignal },
): Promise<void> {
  const { id } = await findRun(client, run, signal);
  const workers: RunNode[] = [];
  for await (const worker of client.runs.workers({ run: id }, { signal })) workers.push(worker);
  terminal.value({ items: workers });
  if (workers.length === 0) return terminal.say(nobody);
  terminal.say(
    table(
      ["ID", "NAME", "LIVENESS", "ROLES", "TRUST", "ACCEPTED", "REJECTED", "INVALID"],
      workers.map(({ node, roles, trust, accepted, rejected, invalid }) => [
        node.id,
        node.name,
        node.liveness,
        roles.join(", ").toLowerCase(),
        // trust is earned by generating; whoever was granted a role and does not generate has none to lose
        trust === "PROBATION" && !roles.includes("WORKER") ? "granted" : trust,
        accepted,
        rejected,
        invalid,
      ]),
    ),
  );
}

const ReinstateNodeDocument = graphql(`
  mutation ReinstateNode($input: ReinstateNodeInput!) {
    reinstateNode(input: $input) { id trust auditRate rejected node { id name } }
  }
`);

/** Lifts a quarantine: the node may claim again, and everything it makes is audited at first. */
export async function reinstateNode(
  client: MusterClient,
  terminal: Terminal,
  options: { run: string; node: string; reason: string; signal: AbortSignal },
): Promise<void> {
  const { node, reason, signal } = options;
  const { id: run } = await findRun(client, options.run, signal);
  const input = { run, node, reason };
  const { reinstateNode: reinstated } = await client.execute(ReinstateNodeDocument, { input }, { signal });
  terminal.value(reinstated);
  terminal.say(
    `${printable(reinstated.node.name)} is ${reinstated.trust} in ${options.run}; all of its groups are audited.`,
  );
}
