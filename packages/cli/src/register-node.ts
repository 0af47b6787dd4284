import { challengeBytes, protocolVersion } from "@muster/protocol";
import type { MusterClient } from "@muster/sdk";
import { describeHardware, type Identity } from "@muster/worker";

/**
 * Makes a node known to the coordinator and answers its TypeID. The worker registers again when it starts; a node is its key, so it
 * is the same node.
 */
export async function registerNode(
  client: MusterClient,
  node: {
    url: string;
    identity: Identity;
    name: string;
    /** TypeIDs of runs and organizations. */
    worksFor: readonly string[];
    signal: AbortSignal;
  },
): Promise<string> {
  const { identity, name, signal } = node;
  const { publicKey } = identity;
  const audience = new URL(node.url).origin;
  const { challenge } = await client.nodes.challenge({ publicKey }, { signal });
  const answer = await client.nodes.register(
    {
      publicKey,
      challenge,
      signature: identity.signHex(challengeBytes({ publicKey, challenge, audience })),
      protocol: protocolVersion,
      software: "muster-cli/0.1.0",
      name,
      hardware: describeHardware({ providers: [], threads: 1 }),
      worksFor: [...node.worksFor],
    },
    { signal },
  );
  return answer.node.id;
}
