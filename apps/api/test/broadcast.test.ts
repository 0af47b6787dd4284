import { mkdtempDisposable } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseRelayTicket, toTypeId } from "@muster/protocol";
import { fetchShard, type Relay, startRelay as startRelayServer } from "@muster/shardcast";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { relayAssignments } from "../src/broadcast/assignments.ts";
import { manifestOf } from "../src/broadcast/manifests.ts";
import { addMirror, removeMirror } from "../src/broadcast/mirrors.ts";
import { probeRelays } from "../src/broadcast/probe.ts";
import { receiptCheckpoint } from "../src/broadcast/receipts.ts";
import { announceRelay, reinstateRelay, sweepRelays, withdrawRelay } from "../src/broadcast/relays.ts";
import { reportRelay } from "../src/broadcast/reports.ts";
import { checkpointSources } from "../src/broadcast/sources.ts";
import { issueTicket, pseudonym } from "../src/broadcast/tickets.ts";
import {
  admits,
  closeRelays,
  fallSilent,
  liveRelay,
  liveRelays,
  probeNow,
  relayRow,
  startMirror,
  startRelay,
  type TestRelay,
} from "./relaykit.ts";
import { eventsOf, grant, publishBase, startRun, type TestRun } from "./runkit.ts";
import { codes, startTestServer, type TestNode, type TestServer, until } from "./testkit.ts";

let server: TestServer;
let run: TestRun;
let manifest: string;

beforeAll(async () => {
  server = await startTestServer();
});
afterAll(async () => {
  await closeRelays();
  await server.stop();
});
beforeEach(async () => {
  await closeRelays();
  run = await startRun(server);
  await publishBase(server, run);
  ({ manifestHash: manifest } = await server.prisma.checkpoint.findFirstOrThrow({
    where: { runId: run.id },
  }));
});

const code = (expected: string) => expect.objectContaining({ code: expected });
const stateOf = async (relay: { id: string }) => (await relayRow(server, relay)).state;
const shardOf = async (): Promise<string> => {
  const [first] = (await manifestOf(server.ctx(), manifest)).shards.keys();
  if (first === undefined) throw new Error("no shard");
  return first;
};

/** As if the base had come out an hour ago. */
const longAgo = () =>
  server.prisma.checkpoint.updateMany({
    where: { runId: run.id },
    data: { availableAt: new Date(Date.now() - 3_600_000) },
  });

/** Shards it sent; now and then the coordinator shows another relay's ticket as well, and gets none. */
const servedBy = ({ requests }: TestRelay) => requests.filter(({ status }) => status === 200).length;

/** A node that works in the run. */
async function worker(of: TestRun = run): Promise<TestNode> {
  const node = await server.node();
  await server.prisma.nodeTrust.create({
    data: { runId: of.id, nodeId: node.id, organizationId: of.organization.id },
  });
  return node;
}

const report = async (node: TestNode, relay: { id: string }, fault: "CORRUPT" | "STALLED" = "CORRUPT") =>
  await reportRelay(server.ctx(node), { relayId: relay.id, manifest, sha256: await shardOf(), fault });

describe("who may relay", () => {
  const announcement = {
    url: "https://relay.example",
    uplinkMbps: 100,
    health: { heldBytes: 0n, sentBytes: 0n, clients: 0 },
  };
  const announce = (node: TestNode, over: object = {}) =>
    announceRelay(server.ctx(node), { ...announcement, ...over });

  test("a node without the grant may not, nor one that was granted it without saying that it works there", async () => {
    const stranger = await server.node({ worksFor: [run.typeId] });
    await expect(announce(stranger)).rejects.toThrow(code("ROLE_NOT_GRANTED"));
    await grant(server, run.id, stranger, "VALIDATOR");
    await expect(announce(stranger)).rejects.toThrow(code("ROLE_NOT_GRANTED"));
    const conscript = await server.node();
    await grant(server, run.id, conscript, "RELAY");
    await expect(announce(conscript)).rejects.toThrow(code("ROLE_NOT_GRANTED"));
    expect(await server.prisma.relay.count({ where: { runId: run.id } })).toBe(0);
  });

  test("a person or a program may not, nor anybody for a run that is over", async () => {
    const { owner } = run.organization;
    await expect(announceRelay(server.ctx(owner), announcement)).rejects.toThrow(code("UNAUTHENTICATED"));
    const relay = await startRelay(server, run);
    await server.prisma.run.update({ where: { id: run.id }, data: { state: "COMPLETED" } });
    await expect(relay.announce()).rejects.toThrow(code("ROLE_NOT_GRANTED"));
  });

  test.each([
    ["a quarantined node", "QUARANTINED"],
    ["an ejected node", "EJECTED"],
  ] as const)("%s may not", async (_who, state) => {
    const relay = await liveRelay(server, run);
    await server.prisma.nodeTrust.create({
      data: { runId: run.id, nodeId: relay.node.id, organizationId: run.organization.id, state },
    });
    await expect(relay.announce()).rejects.toThrow(code("ROLE_NOT_GRANTED"));
    await sweepRelays(server.ctx());
    expect(await stateOf(relay)).toBe("OFFLINE");
  });

  test.each([
    ["no uplink", { uplinkMbps: 0 }],
    ["an uplink that is no number", { uplinkMbps: Number.NaN }],
    ["an uplink without end", { uplinkMbps: Number.POSITIVE_INFINITY }],
    ["a region with a space", { region: "a b" }],
    ["a region without end", { region: "x".repeat(41) }],
    ["a version below 0", { health: { ...announcement.health, newestVersion: -1 } }],
    ["bytes below 0", { health: { ...announcement.health, heldBytes: -1n } }],
    ["clients below 0", { health: { ...announcement.health, clients: -1 } }],
  ])("%s is refused", async (_what, over) => {
    const node = await server.node({ worksFor: [run.typeId] });
    await grant(server, run.id, node, "RELAY");
    await expect(announce(node, over)).rejects.toThrow(code("INPUT_INVALID"));
  });
});

describe("a relay's life", () => {
  test("its address is looked at again when the coordinator connects: a name may lead inside by then", async () => {
    const relay = await liveRelay(server, run);
    const before = relay.requests.length;
    await using outside = await startTestServer({
      sharing: server,
      config: { privateRelays: false, plainHttp: true },
    });
    for (const url of [relay.url, relay.url.replace("127.0.0.1", "localhost")]) {
      await server.prisma.relay.update({ where: { id: relay.id }, data: { url } });
      await probeNow(outside, relay);
      const { reason, probeFailures } = await relayRow(server, relay);
      expect(reason).toMatch(/own network/);
      expect(probeFailures).toBeGreaterThan(0);
    }
    expect(relay.requests.length).toBe(before);
  });

  test("it is LIVE once the coordinator fetched a shard from it, and not before", async () => {
    const relay = await startRelay(server, run);
    const [place] = await relay.announce({ newestVersion: null });
    expect(place).toMatchObject({
      runId: run.id,
      parentId: null,
      parentUrl: server.url,
      ticket: null,
      fanOut: 4,
      versions: [{ version: 0, manifest }],
    });
    // Nothing to show yet: nobody looks.
    expect(await probeRelays(server.ctx())).toBe(0);
    expect(await stateOf(relay)).toBe("PROBING");
    expect(await checkpointSources(server.ctx(run.worker), manifest)).toEqual([]);

    await relay.announce();
    expect(await probeRelays(server.ctx())).toBe(1);
    expect(await stateOf(relay)).toBe("LIVE");
    expect((await eventsOf(server, run, "relay.live")).map(({ subject }) => subject)).toEqual([
      toTypeId("relay", relay.id),
    ]);
    expect((await checkpointSources(server.ctx(run.worker), manifest)).map(({ url }) => url)).toEqual([
      relay.url,
    ]);
    // Well, it is not looked at again for a while.
    expect(await probeRelays(server.ctx())).toBe(0);
  });

  test("a probe is a worker's request: one shard, the same headers, a ticket in the name of a node of the run", async () => {
    const relay = await startRelay(server, run);
    await relay.announce();
    await probeNow(server, relay);
    const [first] = relay.requests;
    const { shards } = await manifestOf(server.ctx(), manifest);
    expect(shards.has(first?.path.split("/").at(-1) ?? "")).toBe(true);
    // What a worker sends for the same shard.
    const { authorization } = first?.headers ?? {};
    const [source] = await checkpointSources(server.ctx(run.worker), manifest);
    const asked = await fetchShard({
      source: { id: "a relay", url: source?.url ?? "", token: source?.ticket ?? "" },
      sha256: first?.path.split("/").at(-1) ?? "",
      maxBytes: 1e6,
      stallMs: 5_000,
      signal: new AbortController().signal,
    });
    expect(asked.kind).toBe("whole");
    const same = (raw: readonly string[] = []) =>
      raw.map((value, i) => (raw[i - 1] === "authorization" ? value.length : value));
    expect(same(first?.raw)).toEqual(same(relay.requests.at(-1)?.raw));
    const { ticket } = parseRelayTicket(authorization?.replace("Bearer ", "") ?? "");
    const nodes = await server.prisma.nodeTrust.findMany({ where: { runId: run.id } });
    const names = nodes.map(({ nodeId }) => pseudonym(server.services, { relayId: relay.id, nodeId }));
    if (names.length > 0) expect(names).toContain(ticket.subject);
  });

  test("a corrupt shard that the coordinator itself received drops it for good, until the organizer reinstates it", async () => {
    const relay = await liveRelay(server, run);
    relay.behaviour = "corrupt";
    await probeNow(server, relay);
    expect(await relayRow(server, relay)).toMatchObject({
      state: "DROPPED",
      placed: false,
      nextProbeAt: null,
    });
    expect(await checkpointSources(server.ctx(run.worker), manifest)).toEqual([]);
    expect((await eventsOf(server, run, "relay.dropped")).length).toBe(1);

    relay.behaviour = "honest";
    expect(await relay.announce()).toEqual([]);
    expect(await relay.announce({ url: `${relay.url}/other` })).toEqual([]);
    await probeNow(server, relay);
    expect(await stateOf(relay)).toBe("DROPPED");

    const member = await server.person(run.organization.id, "member");
    const foreigner = (await server.organization()).owner;
    await expect(reinstateRelay(server.ctx(relay.node), relay.id)).rejects.toThrow(code("NOT_FOUND"));
    await expect(reinstateRelay(server.ctx(member), relay.id)).rejects.toThrow(code("FORBIDDEN"));
    await expect(reinstateRelay(server.ctx(foreigner), relay.id)).rejects.toThrow(code("NOT_FOUND"));
    await reinstateRelay(server.ctx(run.organization.owner), relay.id);
    expect(await stateOf(relay)).toBe("PROBING");
    await relay.announce();
    await probeNow(server, relay);
    expect(await stateOf(relay)).toBe("LIVE");
    await expect(reinstateRelay(server.ctx(run.organization.owner), relay.id)).rejects.toThrow(
      code("STATE_CONFLICT"),
    );
  });

  test("one that breaks off or has nothing is OFFLINE after three probes, and back after a good one", async () => {
    const relay = await liveRelay(server, run);
    await longAgo();
    relay.behaviour = "dying";
    await probeNow(server, relay);
    relay.behaviour = "empty";
    await probeNow(server, relay);
    expect(await stateOf(relay)).toBe("LIVE");
    await relay.close();
    await probeNow(server, relay);
    const gone = await relayRow(server, relay);
    expect(gone).toMatchObject({ state: "OFFLINE", probeFailures: 3 });
    expect(gone.reason).toMatch(/UNREACHABLE/);
    // Speaking does not bring it back.
    await relay.announce();
    expect(await stateOf(relay)).toBe("OFFLINE");
    const again = await startRelay(server, await startRunLike(), {});
    await server.prisma.relay.update({ where: { id: relay.id }, data: { url: again.url } });
    again.id = relay.id;
    await probeNow(server, relay);
    expect(await relayRow(server, relay)).toMatchObject({ state: "LIVE", probeFailures: 0, reason: null });
  });

  /** Another run of the same organization, for a server that is nobody's yet. */
  const startRunLike = () => startRun(server, {}, { organization: run.organization });

  test("one that keeps failing is looked at less and less often", async () => {
    const relay = await liveRelay(server, run);
    await longAgo();
    relay.behaviour = "empty";
    const waits: number[] = [];
    for (let i = 0; i < 6; i++) {
      await probeNow(server, relay);
      const { nextProbeAt } = await relayRow(server, relay);
      waits.push(Math.round(((nextProbeAt?.getTime() ?? 0) - Date.now()) / 1000));
    }
    expect(waits).toEqual([10, 10, 30, 60, 120, 240]);
  });

  test("a version that has just come out may not be everywhere yet", async () => {
    const relay = await liveRelay(server, run);
    relay.behaviour = "empty";
    for (let i = 0; i < 4; i++) await probeNow(server, relay);
    expect(await relayRow(server, relay)).toMatchObject({ state: "LIVE", probeFailures: 0 });
    await longAgo();
    await probeNow(server, relay);
    expect(await relayRow(server, relay)).toMatchObject({
      probeFailures: 1,
      reason: "It does not have version 0.",
    });
  });

  test("to be busy is no fault", async () => {
    const relay = await liveRelay(server, run);
    relay.behaviour = "busy";
    for (let i = 0; i < 4; i++) await probeNow(server, relay);
    expect(await relayRow(server, relay)).toMatchObject({ state: "LIVE", probeFailures: 0 });
  });

  test("one that serves with another relay's ticket is not LIVE: it may be anybody's server", async () => {
    const relay = await startRelay(server, run, { behaviour: "open" });
    await relay.announce();
    await probeNow(server, relay);
    expect(await relayRow(server, relay)).toMatchObject({ state: "PROBING", probeFailures: 1 });
    expect((await relayRow(server, relay)).reason).toMatch(/another relay's ticket/);
    // Nor does one stay LIVE that turns into one.
    const turns = await liveRelay(server, run);
    turns.behaviour = "open";
    for (let probes = 0; (await stateOf(turns)) === "LIVE"; probes++) {
      expect(probes).toBeLessThan(300);
      await probeNow(server, turns);
    }
    // Nor is one that announces an honest relay's address as its own.
    const honest = await liveRelay(server, run);
    const thief = await startRelay(server, run);
    await thief.announce({ url: honest.url });
    await probeNow(server, thief);
    expect(await stateOf(thief)).toBe("PROBING");
  });

  test("thirty seconds of silence make it OFFLINE; when it speaks again it is probed and LIVE", async () => {
    const relay = await liveRelay(server, run);
    expect(await sweepRelays(server.ctx())).toBe(0);
    await fallSilent(server, relay);
    expect(await sweepRelays(server.ctx())).toBe(1);
    expect(await relayRow(server, relay)).toMatchObject({
      state: "OFFLINE",
      placed: false,
      reason: "It was silent for 30 seconds.",
    });
    await relay.announce();
    expect(await stateOf(relay)).toBe("PROBING");
    await probeNow(server, relay);
    expect(await stateOf(relay)).toBe("LIVE");
  });

  test("whoever withdraws, loses its grant or whose run ends is OFFLINE and gets no place", async () => {
    const [goes, loses, stays] = [
      await liveRelay(server, run),
      await liveRelay(server, run),
      await liveRelay(server, run),
    ];
    expect(await withdrawRelay(server.ctx(goes.node))).toBe(1);
    expect(await withdrawRelay(server.ctx(goes.node))).toBe(0);
    await server.prisma.roleGrant.updateMany({
      where: { nodeId: loses.node.id },
      data: { revokedAt: new Date() },
    });
    await sweepRelays(server.ctx());
    expect([await stateOf(goes), await stateOf(loses), await stateOf(stays)]).toEqual([
      "OFFLINE",
      "OFFLINE",
      "LIVE",
    ]);
    await server.prisma.run.update({ where: { id: run.id }, data: { state: "CANCELLED" } });
    await sweepRelays(server.ctx());
    expect(await relayRow(server, stays)).toMatchObject({
      state: "OFFLINE",
      placed: false,
      reason: "The run is over.",
    });
    expect((await eventsOf(server, run, "relay.offline")).length).toBe(3);
  });
});

describe("reports", () => {
  test("a slandered honest relay stays LIVE, and is looked at only so often", async () => {
    const relay = await liveRelay(server, run);
    await server.prisma.relay.update({
      where: { id: relay.id },
      data: { probedAt: new Date(Date.now() - 60_000) },
    });
    const before = servedBy(relay);
    const slanderers = await Promise.all(Array.from({ length: 12 }, () => worker()));
    const answers: boolean[] = [];
    for (const node of slanderers) {
      answers.push(await report(node, relay));
      await probeRelays(server.ctx());
      expect(await report(node, relay)).toBe(false);
    }
    // The first one makes the coordinator go; the next ones a while later, once.
    expect(answers.filter(Boolean).length).toBeLessThanOrEqual(2);
    expect(servedBy(relay) - before).toBe(1);
    await probeNow(server, relay);
    expect(await relayRow(server, relay)).toMatchObject({ state: "LIVE", probeFailures: 0, placed: true });
    expect((await checkpointSources(server.ctx(run.worker), manifest)).length).toBe(1);
  });

  test("one true report is enough: the shard complained of is looked at", async () => {
    const relay = await liveRelay(server, run);
    await server.prisma.relay.update({
      where: { id: relay.id },
      data: { probedAt: new Date(Date.now() - 60_000) },
    });
    const asked = new Set<string>();
    expect(await report(await worker(), relay)).toBe(true);
    for (let i = 0; i < 12; i++) {
      await probeNow(server, relay);
      asked.add(relay.requests.at(-1)?.path.split("/").at(-1) ?? "");
    }
    expect(asked.has(await shardOf())).toBe(true);
    relay.behaviour = "corrupt";
    await probeNow(server, relay);
    expect(await stateOf(relay)).toBe("DROPPED");
  });

  test("who complains of what the checkpoint does not have, of its own relay, or as a stranger, is not heard", async () => {
    const relay = await liveRelay(server, run);
    const node = await worker();
    const ctx = server.ctx(node);
    const base = { relayId: relay.id, manifest, sha256: await shardOf(), fault: "CORRUPT" as const };
    await expect(reportRelay(ctx, { ...base, sha256: "0".repeat(64) })).rejects.toThrow(
      code("INPUT_INVALID"),
    );
    await expect(reportRelay(ctx, { ...base, manifest: "0".repeat(64) })).rejects.toThrow(
      code("BLOB_NOT_FOUND"),
    );
    await expect(reportRelay(server.ctx(relay.node), base)).rejects.toThrow(code("INPUT_INVALID"));
    await expect(reportRelay(server.ctx(), base)).rejects.toThrow(code("UNAUTHENTICATED"));
    const other = await startRun(server, {}, { organization: run.organization });
    const elsewhere = await startRelay(server, other);
    await elsewhere.announce();
    await expect(reportRelay(ctx, { ...base, relayId: elsewhere.id })).rejects.toThrow(code("NOT_FOUND"));
    // An open run's manifest is anybody's to read; what a passer-by says is not written down.
    expect(await reportRelay(server.ctx(await server.node()), base)).toBe(false);
    expect(await server.prisma.relayReport.count({ where: { runId: run.id } })).toBe(0);
  });

  test("one node makes the coordinator look at six relays at most within half a minute", async () => {
    const node = await worker();
    const relays = await liveRelays(server, run, 8);
    await server.prisma.relay.updateMany({
      where: { runId: run.id },
      data: { probedAt: new Date(Date.now() - 60_000) },
    });
    const answers: boolean[] = [];
    for (const relay of relays) answers.push(await report(node, relay));
    expect(answers).toEqual([true, true, true, true, true, true, false, false]);
  });
});

describe("the tree", () => {
  const parentsOf = async () =>
    new Map(
      (await server.prisma.relay.findMany({ where: { runId: run.id, placed: true } })).map(
        ({ id, parentId }) => [id, parentId],
      ),
    );

  test("nobody has more children than the fan-out; when one dies, its children get parents that live", async () => {
    await using narrow = await startTestServer({ sharing: server, config: { relayFanOut: 2 } });
    const relays: TestRelay[] = [];
    relays.push(...(await liveRelays(narrow, run, 7)));
    const before = await parentsOf();
    expect(before.size).toBe(7);
    for (const parent of [null, ...before.keys()])
      expect([...before.values()].filter((one) => one === parent).length).toBeLessThanOrEqual(2);
    const dead = relays.find(({ id }) => [...before.values()].includes(id));
    if (dead === undefined) throw new Error("nobody has children");
    const orphans = [...before].filter(([, parent]) => parent === dead.id).map(([id]) => id);
    await fallSilent(server, dead);
    await sweepRelays(narrow.ctx());
    const after = await parentsOf();
    expect(after.has(dead.id)).toBe(false);
    expect(after.size).toBe(6);
    for (const id of orphans) {
      const parent = after.get(id) ?? null;
      expect(parent).not.toBe(dead.id);
      if (parent !== null) expect(await stateOf({ id: parent })).toBe("LIVE");
    }
  });

  test("a relay that is not proven feeds nobody, and makes room for one that is", async () => {
    await using narrow = await startTestServer({ sharing: server, config: { relayFanOut: 1 } });
    const [first, second] = [await startRelay(narrow, run), await startRelay(narrow, run)];
    await first.announce();
    expect(await second.announce()).toEqual([]);
    await probeNow(narrow, second);
    expect(await stateOf(second)).toBe("LIVE");
    expect(await parentsOf()).toEqual(
      new Map([
        [second.id, null],
        [first.id, second.id],
      ]),
    );
  });

  test("a relay is told its parent, a ticket that the parent takes, and what to hold", async () => {
    await using narrow = await startTestServer({ sharing: server, config: { relayFanOut: 1 } });
    const top = await liveRelay(narrow, run);
    const below = await startRelay(narrow, run);
    const [place] = await below.announce();
    expect(place).toMatchObject({ relayId: below.id, parentId: top.id, parentUrl: top.url, fanOut: 1 });
    expect(admits(server, top, `Bearer ${place?.ticket}`)).toBe(true);
    expect(admits(server, below, `Bearer ${place?.ticket}`)).toBe(false);
    const late = place?.ticketExpiresAt?.getTime() ?? 0;
    expect(late - Date.now()).toBeGreaterThan(9 * 60_000);
    expect(late - Date.now()).toBeLessThanOrEqual(15 * 60_000);
    expect(admits(server, top, `Bearer ${place?.ticket}`, late)).toBe(false);
  });

  test("a new parent reaches a subscriber at another replica", async () => {
    const config = { relayFanOut: 1 };
    await using a = await startTestServer({ sharing: server, config });
    await using b = await startTestServer({ sharing: server, config });
    const top = await liveRelay(a, run);
    const below = await liveRelay(a, run);
    const document =
      "subscription { relayAssignments { relay parent parentUrl ticket versions { version } } }";
    const heard = b.subscribe<{
      relayAssignments: { relay: string; parent: string | null; parentUrl: string; ticket: string | null };
    }>(document, {}, below.node);
    expect((await heard.next()).relayAssignments).toMatchObject({
      relay: toTypeId("relay", below.id),
      parent: toTypeId("relay", top.id),
      versions: [{ version: 0 }],
    });
    await withdrawRelay(a.ctx(top.node));
    expect((await heard.next()).relayAssignments).toMatchObject({
      parent: null,
      parentUrl: b.url,
      ticket: null,
    });
    await heard.close();
  });

  test("a subscriber hears only what changed, and of its own runs", async () => {
    const relay = await liveRelay(server, run);
    const places = relayAssignments(server.ctx(relay.node));
    expect((await places.next()).value).toMatchObject({ relayId: relay.id });
    const next = places.next();
    server.services.bus.publish(`relays:${run.id}`);
    await liveRelay(server, run);
    // nothing shows that nothing was said: this long what is wrong would have had to be heard
    await new Promise((resolve) => setTimeout(resolve, 200));
    await server.prisma.checkpoint.updateMany({ where: { runId: run.id }, data: { state: "RETIRED" } });
    server.services.bus.publish(`relays:${run.id}`);
    expect((await next).value).toMatchObject({ relayId: relay.id, versions: [] });
    await places.return?.();
  });

  test("two replicas that sweep, mend and probe at once do each thing once", async () => {
    await using other = await startTestServer({ sharing: server });
    const relays = await liveRelays(server, run, 5);
    await Promise.all(relays.slice(0, 2).map((relay) => fallSilent(server, relay)));
    await server.prisma.relay.updateMany({ where: { runId: run.id }, data: { nextProbeAt: new Date(0) } });
    const before = relays.reduce((sum, relay) => sum + servedBy(relay), 0);
    await Promise.all(
      [server, other, server, other].flatMap((one) => [sweepRelays(one.ctx()), probeRelays(one.ctx())]),
    );
    expect((await eventsOf(server, run, "relay.offline")).length).toBe(2);
    expect(relays.reduce((sum, relay) => sum + servedBy(relay), 0) - before).toBe(3);
    expect((await parentsOf()).size).toBe(3);
  });
});

describe("sources", () => {
  test("are at most six, all LIVE, each with a ticket for itself, in another order each time", async () => {
    const relays = await liveRelays(server, run, 8);
    const dead = await liveRelay(server, run);
    await withdrawRelay(server.ctx(dead.node));
    const orders = new Set<string>();
    const seen = new Set<string>();
    for (let i = 0; i < 30; i++) {
      const sources = await checkpointSources(server.ctx(run.worker), manifest);
      expect(sources.length).toBe(6);
      for (const { relayId, ticket } of sources) {
        expect(admits(server, { id: relayId }, `Bearer ${ticket}`)).toBe(true);
        seen.add(relayId);
      }
      orders.add(sources.map(({ relayId }) => relayId).join());
    }
    expect(seen).toEqual(new Set(relays.map(({ id }) => id)));
    expect(orders.size).toBeGreaterThan(10);
  });

  test("who carries more and has less to do comes first more often", async () => {
    const weak = await liveRelay(server, run, { uplinkMbps: 10 });
    const strong = await liveRelay(server, run, { uplinkMbps: 1000 });
    const busy = await liveRelay(server, run, { uplinkMbps: 1000 });
    await server.prisma.relay.update({ where: { id: busy.id }, data: { clients: 99 } });
    const first = new Map<string, number>();
    for (let i = 0; i < 100; i++) {
      const [best] = await checkpointSources(server.ctx(run.worker), manifest);
      first.set(best?.relayId ?? "", (first.get(best?.relayId ?? "") ?? 0) + 1);
    }
    expect(first.get(strong.id) ?? 0).toBeGreaterThan(85);
    expect((first.get(weak.id) ?? 0) + (first.get(busy.id) ?? 0)).toBeLessThan(15);
  });

  test("are never the asking node's own relay, nor one that pulls from it", async () => {
    await using chain = await startTestServer({ sharing: server, config: { relayFanOut: 1 } });
    const relays: TestRelay[] = [];
    for (let i = 0; i < 4; i++) relays.push(await liveRelay(chain, run));
    for (const [index, relay] of relays.entries()) {
      const sources = await checkpointSources(server.ctx(relay.node), manifest);
      expect(sources.map(({ relayId }) => relayId).toSorted()).toEqual(
        relays
          .slice(0, index)
          .map(({ id }) => id)
          .toSorted(),
      );
    }
  });

  test("are told to nodes that may read the manifest, and to nobody else", async () => {
    await liveRelay(server, run);
    await server.prisma.run.update({ where: { id: run.id }, data: { open: false } });
    const stranger = await server.node();
    await expect(checkpointSources(server.ctx(stranger), manifest)).rejects.toThrow(code("BLOB_NOT_FOUND"));
    expect((await checkpointSources(server.ctx(run.validator), manifest)).length).toBe(1);
    const document =
      "query($manifest: String!) { checkpointSources(manifest: $manifest) { relay url ticket } }";
    expect(codes(await server.graphql(document, { manifest }))).toEqual(["UNAUTHENTICATED"]);
    expect(codes(await server.graphql(document, { manifest }, run.organization.owner))).toEqual([
      "FORBIDDEN",
    ]);
    expect(codes(await server.graphql(document, { manifest: "x" }, run.validator))).toEqual([
      "INPUT_INVALID",
    ]);
  });

  test("name a node to a relay by a pseudonym of the day, another one at each relay", () => {
    const day = 86_400_000;
    const at = (relayId: string, nodeId: string, now: number) =>
      pseudonym(server.services, { relayId, nodeId }, now);
    const [relay, other] = [toTypeId("relay", run.id), run.trainer.id];
    expect(at(relay, other, day)).toBe(at(relay, other, 2 * day - 1));
    expect(
      new Set([
        at(relay, other, day),
        at(relay, other, 2 * day),
        at(other, other, day),
        at(relay, relay, day),
      ]).size,
    ).toBe(4);
    const ticket = issueTicket(server.services, { runId: run.id, relayId: run.id, nodeId: run.worker.id });
    expect(ticket).toEqual(
      issueTicket(server.services, { runId: run.id, relayId: run.id, nodeId: run.worker.id }),
    );
    expect(JSON.stringify(parseRelayTicket(ticket.ticket))).not.toContain(run.worker.id);
  });
});

describe("mirrors", () => {
  test("a static server is probed without a ticket, feeds relays and workers, and no node may announce it", async () => {
    const { owner } = run.organization;
    const mirror = await startMirror(server);
    const id = await addMirror(server.ctx(owner), {
      runId: run.id,
      url: `${mirror.url}/store/{ab}/{sha256}`,
    });
    expect(
      await addMirror(server.ctx(owner), { runId: run.id, url: `${mirror.url}/store/{ab}/{sha256}` }),
    ).toBe(id);
    await probeNow(server, { id });
    expect(await relayRow(server, { id })).toMatchObject({
      state: "LIVE",
      placed: true,
      parentId: null,
      nodeId: null,
    });
    expect(await checkpointSources(server.ctx(run.worker), manifest)).toEqual([
      { relayId: id, url: `${mirror.url}/store/{ab}/{sha256}`, ticket: null, expiresAt: null },
    ]);
    const relay = await startRelay(server, run);
    expect(await relay.announce()).toMatchObject([{ parentId: id, ticket: null }]);
    await expect(relay.announce({ url: `${mirror.url}/mine` })).rejects.toThrow(code("INPUT_INVALID"));
    await mirror.close();
    for (let i = 0; i < 3; i++) await probeNow(server, { id });
    expect(await stateOf({ id })).toBe("OFFLINE");
    await removeMirror(server.ctx(owner), id);
    await removeMirror(server.ctx(owner), id);
    expect(await relay.announce()).toMatchObject([{ parentId: null }]);
  });

  test("are the organizer's to name", async () => {
    const url = "https://cdn.example/{sha256}";
    const member = await server.person(run.organization.id, "member");
    const { owner } = await server.organization();
    await expect(addMirror(server.ctx(member), { runId: run.id, url })).rejects.toThrow(code("FORBIDDEN"));
    await expect(addMirror(server.ctx(owner), { runId: run.id, url })).rejects.toThrow(code("NOT_FOUND"));
    await expect(addMirror(server.ctx(run.worker), { runId: run.id, url })).rejects.toThrow(
      code("NOT_FOUND"),
    );
    const relay = await liveRelay(server, run);
    await expect(removeMirror(server.ctx(run.organization.owner), relay.id)).rejects.toThrow(
      code("STATE_CONFLICT"),
    );
  });
});

test("real relays in a chain: the coordinator sends a version once, and the second one has it from the first", async () => {
  await using chain = await startTestServer({ sharing: server, config: { relayFanOut: 1 } });
  const wanted = await startRun(chain);
  await publishBase(chain, wanted);
  const checkpoint = await server.prisma.checkpoint.findFirstOrThrow({ where: { runId: wanted.id } });
  await using folders = await mkdtempDisposable(join(tmpdir(), "muster-relays-"));
  const relays: Relay[] = [];
  try {
    for (const name of ["first", "second"]) {
      const node = await chain.node({ worksFor: [wanted.typeId] });
      await grant(chain, wanted.id, node, "RELAY");
      const relay = await startRelayServer({
        dir: join(folders.path, name),
        port: 0,
        origin: { url: chain.url, token: () => node.token },
      });
      relays.push(relay);
      const announce = async () => {
        const { newestVersion, heldBytes, sentBytes, clients } = relay.health();
        const places = await announceRelay(chain.ctx(node), {
          url: relay.url,
          uplinkMbps: 100,
          health: { newestVersion, heldBytes: BigInt(heldBytes), sentBytes: BigInt(sentBytes), clients },
        });
        for (const { relayId, runId, parentId, ...place } of places)
          relay.assign({
            ...place,
            relay: toTypeId("relay", relayId),
            run: toTypeId("run", runId),
            parent: parentId === null ? null : toTypeId("relay", parentId),
          });
      };
      await announce();
      await until(() => relay.health().newestVersion === 0);
      await announce();
      await probeRelays(chain.ctx());
      const { state, reason } = await server.prisma.relay.findFirstOrThrow({ where: { nodeId: node.id } });
      expect([state, reason]).toEqual(["LIVE", null]);
    }
    await chain.services.egress.flush(chain.services.db);
    const { originBytes } = await server.prisma.checkpoint.findFirstOrThrow({ where: { id: checkpoint.id } });
    const manifestBytes = (await chain.services.blobs.size(checkpoint.manifestHash)) ?? 0;
    expect(Number(originBytes)).toBe(Number(checkpoint.size) + manifestBytes);
    const sources = await checkpointSources(chain.ctx(wanted.worker), checkpoint.manifestHash);
    expect(sources.length).toBe(2);
    for (const { relayId, url, ticket } of sources) {
      const asked = {
        sha256: checkpoint.manifestHash,
        maxBytes: 1e6,
        stallMs: 5_000,
        signal: new AbortController().signal,
      };
      const source = { id: relayId, url };
      expect((await fetchShard({ ...asked, source: { ...source, token: ticket ?? "" } })).kind).toBe("whole");
      expect((await fetchShard({ ...asked, source })).kind).toBe("fault");
    }
  } finally {
    await Promise.all(relays.map((relay) => relay.close()));
  }
});

describe("what is shown", () => {
  const document = `query($run: ID!) { run(id: $run) {
    relays { edges { node { id url state depth children parent paid node { id } placed } } }
    checkpoints { edges { node { broadcast { nodes received secondsTo50 secondsTo95 secondsTo100 originBytes relayedBytes wastedBytes slowest { node seconds }
      receipts { edges { node { layout bytes node { id } sources { relay bytes paid } } } } } } } } } }`;
  type Shown = {
    run: {
      relays: { edges: { node: Record<string, unknown> }[] };
      checkpoints: { edges: { node: { broadcast: Record<string, unknown> } }[] };
    };
  };

  test("a version's broadcast: who has it, how long it took, and what the coordinator itself sent", async () => {
    const relay = await liveRelay(server, run);
    const [a, b] = [await worker(), await worker()];
    const standings = [run.trainer, run.validator].map(({ id: nodeId }) => ({ runId: run.id, nodeId }));
    await server.prisma.nodeTrust.createMany({
      data: standings.map((one) => ({ ...one, organizationId: run.organization.id })),
    });
    const shard = await shardOf();
    for (const node of [a, b])
      await fetch(`${server.url}/blobs/${shard}`, { headers: node.headers }).then((r) => r.bytes());
    await fetch(`${server.url}/blobs/${manifest}`, { headers: run.organization.owner.headers }).then((r) =>
      r.bytes(),
    );
    await server.services.egress.flush(server.services.db);
    const { size } = await server.prisma.checkpoint.findFirstOrThrow({ where: { runId: run.id } });
    const base = { manifest, layout: "FULL" as const, seconds: 1.5, wastedBytes: 7n };
    await receiptCheckpoint(server.ctx(a), {
      ...base,
      bytes: size,
      sources: [{ relayId: relay.id, bytes: size }],
    });
    const here = (await server.ask<Shown>(document, { run: run.typeId }, run.organization.owner)).run
      .checkpoints.edges[0]?.node.broadcast;
    // The trainer, the validator and the one that has it; the other one has done nothing yet.
    expect(here).toMatchObject({ nodes: 3, received: 1, secondsTo50: null, secondsTo100: null });
    await receiptCheckpoint(server.ctx(b), { ...base, layout: "LOCAL", bytes: 0n, sources: [] });
    await server.prisma.roleGrant.deleteMany({ where: { runId: run.id } });
    const shown = await server.ask<Shown>(document, { run: run.typeId }, run.organization.owner);
    const bytes = (await manifestOf(server.ctx(), manifest)).shards.get(shard) ?? 0;
    expect(shown.run.checkpoints.edges[0]?.node.broadcast).toMatchObject({
      nodes: 2,
      received: 2,
      secondsTo50: expect.any(Number),
      secondsTo100: expect.any(Number),
      originBytes: String(2 * bytes),
      relayedBytes: String(size),
      wastedBytes: "14",
      slowest: { node: b.typeId, seconds: expect.any(Number) },
      receipts: {
        edges: [
          { node: { layout: "FULL", sources: [{ bytes: String(size), paid: null }] } },
          { node: { layout: "LOCAL" } },
        ],
      },
    });
    expect((await eventsOf(server, run, "checkpoint.received")).map(({ data }) => data)).toMatchObject([
      { node: a.typeId, version: 0, layout: "FULL" },
      { node: b.typeId, version: 0, layout: "LOCAL" },
    ]);
  });

  test("relays with their place, to members of the organization only", async () => {
    const relay = await liveRelay(server, run);
    const { run: shown } = await server.ask<Shown>(document, { run: run.typeId }, run.organization.owner);
    expect(shown.relays.edges.map(({ node }) => node)).toEqual([
      {
        id: toTypeId("relay", relay.id),
        url: relay.url,
        state: "LIVE",
        depth: 1,
        children: 0,
        parent: null,
        paid: "0",
        placed: true,
        node: { id: relay.node.typeId },
      },
    ]);
    const foreigner = (await server.organization()).owner;
    expect((await server.graphql<Shown>(document, { run: run.typeId }, foreigner)).data?.run ?? null).toBe(
      null,
    );
    expect(codes(await server.graphql(document, { run: run.typeId }, run.worker))).toContain("FORBIDDEN");
    const node = `query($id: ID!) { node(id: $id) { ... on Relay { url } } }`;
    const id = toTypeId("relay", relay.id);
    expect(codes(await server.graphql(node, { id }, run.worker))).toEqual(["FORBIDDEN"]);
    expect(await server.ask(node, { id }, relay.node)).toEqual({ node: { url: relay.url } });
  });

  test("the relays by state, probes and bytes sent, to who watches the coordinator", async () => {
    await liveRelay(server, run);
    const text = await (await fetch(`${server.url}/metrics`)).text();
    expect(text).toMatch(/^muster_relays\{state="LIVE"\} [1-9]/m);
    expect(text).toMatch(/^muster_relay_probes_total\{result="well"\} [1-9]/m);
    expect(text).toMatch(/^muster_origin_bytes_total /m);
  });

  test("a new version nudges every relay of the run", async () => {
    const heard: unknown[] = [];
    const off = server.services.bus.listen("relays:*", (topic) => heard.push(topic));
    const other = await startRun(server);
    await publishBase(server, other);
    await until(() => heard.includes(`relays:${other.id}`));
    off();
  });
});
