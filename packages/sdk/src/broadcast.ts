import { graphql, type ResultOf } from "./graphql.ts";
import type { Live } from "./live.ts";
import type { CallOptions, Transport } from "./transport.ts";

const CheckpointSourcesDocument = graphql(`
  query CheckpointSources($manifest: String!) {
    checkpointSources(manifest: $manifest) { relay url ticket expiresAt }
  }
`);
const ReportRelayDocument = graphql(`
  mutation ReportRelay($input: ReportRelayInput!) {
    reportRelay(input: $input) { probing }
  }
`);
const ReceiptCheckpointDocument = graphql(`
  mutation ReceiptCheckpoint($input: ReceiptCheckpointInput!) {
    receiptCheckpoint(input: $input) { received }
  }
`);
const RelayAssignmentFragment = graphql(`
  fragment RelayAssignmentParts on RelayAssignment @_unmask {
    relay
    run
    parent
    parentUrl
    ticket
    ticketExpiresAt
    ticketKey
    fanOut
    versions { version manifest }
  }
`);
const AnnounceRelayDocument = graphql(
  `
  mutation AnnounceRelay($input: AnnounceRelayInput!) {
    announceRelay(input: $input) {
      assignments { ...RelayAssignmentParts }
    }
  }
`,
  [RelayAssignmentFragment],
);
const WithdrawRelayDocument = graphql(`
  mutation WithdrawRelay {
    withdrawRelay { withdrawn }
  }
`);
const RelayAssignmentsDocument = graphql(
  `
  subscription RelayAssignments {
    relayAssignments { ...RelayAssignmentParts }
  }
`,
  [RelayAssignmentFragment],
);

/** A relay that has a checkpoint, and the ticket it asks for. */
export type CheckpointSource = ResultOf<typeof CheckpointSourcesDocument>["checkpointSources"][number];
/** What a relay is to hold for a run, and whom it pulls it from. `parent: null` is the coordinator, which takes the node's session. */
export type RelayAssignment = ResultOf<typeof RelayAssignmentFragment>;
export type RelayFault = ReturnType<typeof graphql.scalar<"RelayFault">>;
export type CheckpointLayout = ReturnType<typeof graphql.scalar<"CheckpointLayout">>;

/** What a node saw a relay do wrong. */
export type RelayReport = { relay: string; manifest: string; sha256: string; fault: RelayFault };
/** What it took a node to get a checkpoint, in seconds and bytes; `relay: null` is the coordinator itself. */
export type CheckpointReceipt = {
  manifest: string;
  layout: CheckpointLayout;
  seconds: number;
  bytes: number;
  wastedBytes: number;
  sources: readonly { relay: string | null; bytes: number }[];
};
/** How a relay is. Bytes are those on its disk, and sent since it began. */
export type RelayHealth = {
  newestVersion: number | null;
  heldBytes: number;
  sentBytes: number;
  clients: number;
};

/** Checkpoints over relays: what a node that wants one asks and tells, and what a relay does. */
export type Broadcast = {
  /** At most six relays that have the checkpoint with this manifest's hash, best first. */
  sources(input: { manifest: string }, options?: CallOptions): Promise<CheckpointSource[]>;
  /** Says what a relay did wrong. Nothing but the coordinator's own look at it, which this may cause, changes what others are told. */
  report(input: RelayReport, options?: CallOptions): Promise<{ probing: boolean }>;
  /** Says that the node has a checkpoint and from whom: relays are paid by it. Once a checkpoint; again is harmless. */
  receipt(input: CheckpointReceipt, options?: CallOptions): Promise<{ received: boolean }>;
  /** Says that this node relays and how it is, every ten seconds; answers what it is to hold, a list item for each run. */
  announce(
    input: { url: string; uplinkMbps: number; region?: string; health: RelayHealth },
    options?: CallOptions,
  ): Promise<RelayAssignment[]>;
  /** Says that this node relays no longer; answers for how many runs it did. */
  withdraw(options?: CallOptions): Promise<{ withdrawn: number }>;
  /** What this relay is to hold, for each of its runs at once, then whenever it changes, for as long as the signal lets it. */
  assignments(input?: { signal?: AbortSignal }): AsyncGenerator<RelayAssignment, void, undefined>;
};

export function createBroadcast({ execute }: Transport, live: Live): Broadcast {
  return {
    sources: async (input, options) =>
      (await execute(CheckpointSourcesDocument, input, options)).checkpointSources,
    report: async (input, options) => (await execute(ReportRelayDocument, { input }, options)).reportRelay,
    async receipt({ bytes, wastedBytes, sources, ...rest }, options) {
      const input = {
        ...rest,
        bytes: String(bytes),
        wastedBytes: String(wastedBytes),
        sources: sources.map((source) => ({ relay: source.relay, bytes: String(source.bytes) })),
      };
      return (await execute(ReceiptCheckpointDocument, { input }, { ...options, repeatable: true }))
        .receiptCheckpoint;
    },
    async announce({ health, ...rest }, options) {
      const { heldBytes, sentBytes } = health;
      const input = {
        ...rest,
        health: { ...health, heldBytes: String(heldBytes), sentBytes: String(sentBytes) },
      };
      return (await execute(AnnounceRelayDocument, { input }, { ...options, repeatable: true })).announceRelay
        .assignments;
    },
    withdraw: async (options) =>
      (await execute(WithdrawRelayDocument, {}, { ...options, repeatable: true })).withdrawRelay,
    async *assignments({ signal } = {}) {
      for await (const { relayAssignments } of live.stream(RelayAssignmentsDocument, () => ({}), {
        signal,
      })) {
        yield relayAssignments;
      }
    },
  };
}
