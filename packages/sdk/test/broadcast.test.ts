import { expect, test } from "vitest";
import { createClient } from "../src/index.ts";
import { startCoordinator } from "./coordinator.ts";

const manifest = "ab".repeat(32);
/** A resolver that remembers its input. */
const hearing =
  <Answer>(heard: unknown[], answer: Answer) =>
  ({ input }: { input: unknown }): Answer => {
    heard.push(input);
    return answer;
  };
const assignment = {
  relay: "relay_1",
  run: "run_1",
  parent: null,
  parentUrl: "http://127.0.0.1:4000",
  ticket: null,
  ticketExpiresAt: null,
  ticketKey: "cd".repeat(32),
  fanOut: 4,
  versions: [{ version: 3, manifest }],
};

test("a node asks who has a checkpoint, complains of a relay and says who brought it", async () => {
  const heard: unknown[] = [];
  const source = {
    relay: "relay_1",
    url: "https://relay.example",
    ticket: "t",
    expiresAt: "2026-01-01T00:00:00Z",
  };
  await using coordinator = await startCoordinator({
    root: {
      checkpointSources: (args: { manifest: string }) => (args.manifest === manifest ? [source] : []),
      reportRelay: hearing(heard, { probing: true }),
      receiptCheckpoint: hearing(heard, { received: true }),
    },
  });
  await using client = createClient({ url: coordinator.url, token: "node" });
  expect(await client.broadcast.sources({ manifest })).toEqual([source]);
  const report = { relay: "relay_1", manifest, sha256: "ef".repeat(32), fault: "CORRUPT" as const };
  expect(await client.broadcast.report(report)).toEqual({ probing: true });
  const receipt = {
    manifest,
    layout: "DELTA" as const,
    seconds: 1.5,
    bytes: 3 * 2 ** 40,
    wastedBytes: 7,
    sources: [
      { relay: "relay_1", bytes: 2 * 2 ** 40 },
      { relay: null, bytes: 2 ** 40 },
    ],
  };
  expect(await client.broadcast.receipt(receipt)).toEqual({ received: true });
  // 64-bit integers travel as text
  expect(heard).toEqual([
    report,
    {
      ...receipt,
      bytes: "3298534883328",
      wastedBytes: "7",
      sources: [
        { relay: "relay_1", bytes: "2199023255552" },
        { relay: null, bytes: "1099511627776" },
      ],
    },
  ]);
});

test("a relay announces itself, hears what to hold, and goes", async () => {
  const announced: unknown[] = [];
  await using coordinator = await startCoordinator({
    root: {
      announceRelay: hearing(announced, { assignments: [assignment] }),
      withdrawRelay: () => ({ withdrawn: 1 }),
      async *relayAssignments() {
        yield { relayAssignments: assignment };
        yield { relayAssignments: { ...assignment, parent: "relay_2", ticket: "t" } };
      },
    },
  });
  await using client = createClient({ url: coordinator.url, token: "node" });
  const health = { newestVersion: null, heldBytes: 5, sentBytes: 2 ** 33, clients: 2 };
  const found = await client.broadcast.announce({ url: "https://me.example", uplinkMbps: 100, health });
  expect(found).toEqual([assignment]);
  expect(announced).toEqual([
    {
      url: "https://me.example",
      uplinkMbps: 100,
      health: { newestVersion: null, heldBytes: "5", sentBytes: "8589934592", clients: 2 },
    },
  ]);
  const heard = [];
  for await (const next of client.broadcast.assignments()) {
    heard.push(next.parent);
    if (heard.length === 2) break;
  }
  expect(heard).toEqual([null, "relay_2"]);
  expect(await client.broadcast.withdraw()).toEqual({ withdrawn: 1 });
});
