import { graphql, type ResultOf, type VariablesOf } from "./graphql.ts";
import { itemsOf } from "./pages.ts";
import type { CallOptions, Transport } from "./transport.ts";

const ComputeNodeFragment = graphql(`
  fragment ComputeNodeParts on ComputeNode @_unmask {
    id
    name
    publicKey
    software
    protocol
    hardware
    liveness
    lastSeenAt
    createdAt
  }
`);
const CreateNodeChallengeDocument = graphql(`
  mutation CreateNodeChallenge($input: CreateNodeChallengeInput!) {
    createNodeChallenge(input: $input) { challenge expiresAt }
  }
`);
const RegisterNodeDocument = graphql(
  `
  mutation RegisterNode($input: RegisterNodeInput!) {
    registerNode(input: $input) {
      node { ...ComputeNodeParts }
      token
      expiresAt
    }
  }
`,
  [ComputeNodeFragment],
);
const RenewSessionDocument = graphql(`
  mutation RenewSession {
    renewSession { token expiresAt }
  }
`);
const HeartbeatDocument = graphql(`
  mutation Heartbeat($input: HeartbeatInput!) {
    heartbeat(input: $input) {
      serverTime
      leases { task attempt leaseUntil }
    }
  }
`);
const NodesDocument = graphql(
  `
  query Nodes($first: Int, $after: String, $run: ID) {
    nodes(first: $first, after: $after, run: $run) {
      edges { node { ...ComputeNodeParts } }
      pageInfo { hasNextPage endCursor }
    }
  }
`,
  [ComputeNodeFragment],
);

/** A machine that nobody has to trust. */
export type ComputeNode = ResultOf<typeof ComputeNodeFragment>;
export type NodeRegistration = ResultOf<typeof RegisterNodeDocument>["registerNode"];
export type RegisterNodeInput = VariablesOf<typeof RegisterNodeDocument>["input"];
export type HeartbeatReply = ResultOf<typeof HeartbeatDocument>["heartbeat"];

export type Nodes = {
  /** A random text to sign with the node's key, good for a minute or so. */
  challenge(
    input: { publicKey: string },
    options?: CallOptions,
  ): Promise<{ challenge: string; expiresAt: string }>;
  /**
   * Proves that this node holds its key and opens a session.
   * @throws ApiError `UPGRADE_REQUIRED` when this software is too old: its message holds the command to run.
   */
  register(input: RegisterNodeInput, options?: CallOptions): Promise<NodeRegistration>;
  /** A new token for the next hour. */
  renewSession(options?: CallOptions): Promise<{ token: string; expiresAt: string }>;
  /** Says that the node lives; answers the attempts that are still this node's. What is not listed must be stopped. */
  heartbeat(
    input: { progress?: unknown; draining?: boolean },
    options?: CallOptions,
  ): Promise<HeartbeatReply>;
  /** All nodes the caller may see, or those of one run. */
  list(input?: { run?: string }, options?: CallOptions): AsyncGenerator<ComputeNode, void, undefined>;
};

export function createNodes({ execute }: Transport): Nodes {
  return {
    challenge: async (input, options) =>
      (await execute(CreateNodeChallengeDocument, { input }, { ...options, repeatable: true }))
        .createNodeChallenge,
    register: async (input, options) =>
      (await execute(RegisterNodeDocument, { input }, options)).registerNode,
    renewSession: async (options) => (await execute(RenewSessionDocument, {}, options)).renewSession,
    heartbeat: async (input, options) => (await execute(HeartbeatDocument, { input }, options)).heartbeat,
    list: (input = {}, options) =>
      itemsOf(async (at) => (await execute(NodesDocument, { ...at, ...input }, options)).nodes),
  };
}
