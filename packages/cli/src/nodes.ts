import type { ComputeNode, MusterClient } from "@muster/sdk";
import { type Terminal, table } from "./terminal.ts";

export async function listNodes(
  client: MusterClient,
  terminal: Terminal,
  options: { run: string | undefined; signal: AbortSignal },
): Promise<void> {
  const nodes: ComputeNode[] = [];
  const input = options.run === undefined ? {} : { run: options.run };
  for await (const node of client.nodes.list(input, { signal: options.signal })) nodes.push(node);
  terminal.value({ items: nodes });
  if (nodes.length === 0)
    return terminal.say("No nodes yet. Start one: npm run muster -- worker --url <coordinator>");
  terminal.say(
    table(
      ["ID", "NAME", "LIVENESS", "LAST SEEN", "SOFTWARE"],
      nodes.map(({ id, name, liveness, lastSeenAt, software }) => [id, name, liveness, lastSeenAt, software]),
    ),
  );
}
