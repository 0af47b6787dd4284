import { toTypeId } from "@muster/protocol";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { appendEvents, type NewEvent } from "../src/events/append.ts";
import { createEventHub, type EventBatch } from "../src/events/hub.ts";
import { deleteOldEvents, numberEvents, sequencerLoop } from "../src/events/sequencer.ts";
import {
  anonymous,
  type Caller,
  startTestServer,
  type TestOrganization,
  type TestServer,
  until,
} from "./testkit.ts";

let server: TestServer;
let organization: TestOrganization;
beforeAll(async () => {
  server = await startTestServer();
  organization = await server.organization();
});
afterAll(() => server.stop());

const subscription = `subscription($stream: ID!, $after: BigInt) {
  events(stream: $stream, after: $after) { stream head resync backfill events { seq type subject data } }
}`;
type Message = {
  events: {
    stream: string;
    head: string;
    resync: boolean;
    backfill: boolean;
    events: { seq: string; type: string; data: { n: number } }[];
  };
};

let streams = 0;
/** A run of the organization with a stream of its own. */
async function newRun(
  on: TestServer = server,
  owner: TestOrganization = organization,
): Promise<{ stream: string; typeId: string }> {
  const { id } = await on.prisma.run.create({
    data: {
      organizationId: owner.id,
      slug: `run-${streams++}`,
      name: "run",
      environment: "muster/sort-digits@1",
      baseKind: "warmup",
      stepLimit: 1,
    },
  });
  return { stream: `run:${id}`, typeId: toTypeId("run", id) };
}

async function append(stream: string, from: number, count: number, on: TestServer = server): Promise<void> {
  const events: NewEvent[] = Array.from({ length: count }, (_, i) => ({
    stream,
    type: "run.progress",
    subject: "run",
    data: { n: from + i },
  }));
  await on.prisma.$transaction((tx) => appendEvents(tx, events));
  on.services.bus.publish("events");
}

/** The numbers of the first `count` events that arrive. */
async function collect(
  next: () => Promise<Message>,
  count: number,
): Promise<{ seqs: number[]; ns: number[] }> {
  const seqs: number[] = [];
  const ns: number[] = [];
  while (seqs.length < count) {
    const { events } = await next();
    for (const event of events.events) {
      seqs.push(Number(event.seq));
      ns.push(event.data.n);
    }
  }
  return { seqs, ns };
}

const upTo = (n: number, from = 1) => Array.from({ length: n }, (_, i) => i + from);

describe("the sequencer", () => {
  test("numbers each stream densely from 1, in the order of insertion", async () => {
    const [a, b] = [await newRun(), await newRun()];
    await server.prisma.$transaction((tx) =>
      appendEvents(
        tx,
        upTo(30).map((n) => ({
          stream: n % 3 === 0 ? b.stream : a.stream,
          type: "run.progress",
          subject: "run",
          data: { n },
        })),
      ),
    );
    server.services.bus.publish("events");
    const rows = await until(async () => {
      const found = await server.prisma.event.findMany({
        where: { stream: { in: [a.stream, b.stream] }, seq: { not: null } },
        orderBy: { id: "asc" },
      });
      return found.length === 30 && found;
    });
    expect(rows.filter(({ stream }) => stream === a.stream).map(({ seq }) => Number(seq))).toEqual(upTo(20));
    expect(rows.filter(({ stream }) => stream === b.stream).map(({ seq }) => Number(seq))).toEqual(upTo(10));
    expect(await server.prisma.eventStream.findUnique({ where: { stream: a.stream } })).toEqual({
      stream: a.stream,
      head: 20n,
    });
  });

  test("a transaction that commits late is numbered late: no number below the head appears afterwards", async () => {
    const { stream } = await newRun();
    const client = await server.services.db.pool.connect();
    try {
      await client.query("BEGIN");
      await client.query(
        `INSERT INTO "Event" ("stream", "type", "subject", "data") VALUES ($1, 'run.progress', 'early', '{"n": 0}')`,
        [stream],
      );
      await append(stream, 1, 2);
      await until(
        async () => (await server.prisma.eventStream.findUnique({ where: { stream } }))?.head === 2n,
      );
      await client.query("COMMIT");
    } finally {
      client.release();
    }
    server.services.bus.publish("events");
    await until(async () => (await server.prisma.eventStream.findUnique({ where: { stream } }))?.head === 3n);
    const rows = await server.prisma.event.findMany({ where: { stream }, orderBy: { seq: "asc" } });
    expect(rows.map(({ seq, subject }) => [Number(seq), subject])).toEqual([
      [1, "run"],
      [2, "run"],
      [3, "early"],
    ]);
  });

  test("a rollback leaves no event", async () => {
    const { stream } = await newRun();
    await expect(
      server.prisma.$transaction(async (tx) => {
        await appendEvents(tx, [{ stream, type: "run.progress", subject: "run", data: { n: 1 } }]);
        throw new Error("rolled back");
      }),
    ).rejects.toThrow("rolled back");
    expect(await server.prisma.event.count({ where: { stream } })).toBe(0);
  });

  test("events are numbered even when nobody says that there are some", async () => {
    const { stream } = await newRun();
    await server.services.db.pool.query(
      `INSERT INTO "Event" ("stream", "type", "subject", "data") VALUES ($1, 'run.progress', 'x', '{}')`,
      [stream],
    );
    await until(async () => (await server.prisma.eventStream.findUnique({ where: { stream } }))?.head === 1n);
  });

  test("ten callers at once on 5,000 events number each once", async () => {
    const other = await startTestServer({ sharing: server, loops: [] });
    try {
      const { stream } = await newRun();
      await server.services.db.pool.query(
        `INSERT INTO "Event" ("stream", "type", "subject", "data") SELECT $1, 'run.progress', 'x', '{}' FROM generate_series(1, 5000)`,
        [stream],
      );
      await Promise.all(upTo(10).map((i) => numberEvents(i % 2 === 0 ? server.services : other.services)));
      await until(
        async () => (await server.prisma.eventStream.findUnique({ where: { stream } }))?.head === 5000n,
      );
      const { rows } = await server.services.db.pool.query(
        'SELECT count(DISTINCT "seq")::int AS n, max("seq")::int AS top FROM "Event" WHERE "stream" = $1',
        [stream],
      );
      expect(rows).toEqual([{ n: 5000, top: 5000 }]);
    } finally {
      await other.stop();
    }
  });
});

describe("the subscription", () => {
  test("replays after the cursor in chunks, says when it is live, then goes on", async () => {
    const run = await newRun();
    await append(run.stream, 1, 1_203);
    await until(
      async () =>
        (await server.prisma.eventStream.findUnique({ where: { stream: run.stream } }))?.head === 1_203n,
    );
    const following = server.subscribe<Message>(
      subscription,
      { stream: run.typeId, after: "3" },
      organization.owner,
    );
    const chunks = [await following.next(), await following.next(), await following.next()].map(
      ({ events }) => events,
    );
    expect(chunks.map((chunk) => [chunk.backfill, chunk.resync, chunk.events.length])).toEqual([
      [true, false, 500],
      [true, false, 500],
      [true, false, 200],
    ]);
    expect(chunks.flatMap((chunk) => chunk.events.map(({ seq }) => Number(seq)))).toEqual(upTo(1_200, 4));
    expect((await following.next()).events).toEqual({
      stream: run.typeId,
      head: "1203",
      resync: false,
      backfill: false,
      events: [],
    });
    await append(run.stream, 1_204, 2);
    const live = (await following.next()).events;
    expect(live).toMatchObject({ backfill: false, head: "1205" });
    expect(live.events.map(({ seq }) => seq)).toEqual(["1204", "1205"]);
    await following.close();
  });

  test("without a cursor only what happens from now on", async () => {
    const run = await newRun();
    await append(run.stream, 1, 3);
    await until(
      async () =>
        (await server.prisma.eventStream.findUnique({ where: { stream: run.stream } }))?.head === 3n,
    );
    const following = server.subscribe<Message>(subscription, { stream: run.typeId }, organization.owner);
    expect((await following.next()).events).toMatchObject({ head: "3", events: [] });
    await append(run.stream, 4, 1);
    expect((await following.next()).events.events.map(({ seq }) => seq)).toEqual(["4"]);
    await following.close();
  });

  test("subscribers that come while events pour in see each exactly once", async () => {
    const run = await newRun();
    const total = 1_500;
    let poured = 0;
    const pouring = (async () => {
      for (; poured < total; poured += 25) await append(run.stream, poured + 1, 25);
    })();
    const followers = [];
    for (let i = 0; i < 8; i++) {
      followers.push(
        server.subscribe<Message>(subscription, { stream: run.typeId, after: "0" }, organization.owner),
      );
      await until(() => poured >= 150 * (i + 1));
    }
    const seen = await Promise.all(followers.map((follower) => collect(() => follower.next(), total)));
    await pouring;
    for (const { seqs, ns } of seen) {
      expect(seqs).toEqual(upTo(total));
      expect(ns).toEqual(upTo(total));
    }
    await Promise.all(followers.map((follower) => follower.close()));
    await until(
      async () =>
        !(await server.services.metrics.registry.getSingleMetricAsString("muster_subscriptions")).match(
          / [1-9]/,
        ),
    );
  });

  test("a cursor older than what is kept, or ahead of the head, is answered with RESYNC and goes on from the head", async () => {
    const run = await newRun();
    await append(run.stream, 1, 10);
    await until(
      async () =>
        (await server.prisma.eventStream.findUnique({ where: { stream: run.stream } }))?.head === 10n,
    );
    // Retention looks at the date, which the append-only trigger does not let anyone change: the rows go as it would take them.
    await server.services.db.pool.query('DELETE FROM "Event" WHERE "stream" = $1 AND "seq" <= 6', [
      run.stream,
    ]);
    for (const after of ["5", "11"]) {
      const following = server.subscribe<Message>(
        subscription,
        { stream: run.typeId, after },
        organization.owner,
      );
      expect((await following.next()).events, `after ${after}`).toMatchObject({
        resync: true,
        head: "10",
        events: [],
      });
      await following.close();
    }
    const following = server.subscribe<Message>(
      subscription,
      { stream: run.typeId, after: "6" },
      organization.owner,
    );
    expect((await following.next()).events).toMatchObject({ resync: false, backfill: true });
    expect((await following.next()).events).toMatchObject({ resync: false, backfill: false, events: [] });
    await append(run.stream, 11, 1);
    expect((await following.next()).events.events.map(({ seq }) => seq)).toEqual(["11"]);
    await following.close();
  });

  test("a gap beyond the replay limit is answered with RESYNC", async () => {
    const run = await newRun();
    await append(run.stream, 1, 20);
    await until(
      async () =>
        (await server.prisma.eventStream.findUnique({ where: { stream: run.stream } }))?.head === 20n,
    );
    const { db, bus, log } = server.services;
    const hub = createEventHub({ pool: db.pool, bus, log, replayLimit: 10 });
    const near = hub.follow(run.stream, 10n);
    expect((await near.next()).value).toMatchObject({ resync: false, backfill: true });
    const far = hub.follow(run.stream, 9n);
    expect((await far.next()).value).toMatchObject({ resync: true, head: 20n });
    hub.close();
    expect(await far.next()).toEqual({ value: undefined, done: true });
  });

  test("a heartbeat comes when nothing happens", async () => {
    const run = await newRun();
    const { db, bus, log } = server.services;
    const hub = createEventHub({ pool: db.pool, bus, log, heartbeatMs: 30 });
    const following = hub.follow(run.stream, 0n);
    const first: EventBatch = (await following.next()).value;
    const second: EventBatch = (await following.next()).value;
    expect([first, second]).toMatchObject([
      { events: [], head: 0n },
      { events: [], head: 0n },
    ]);
    expect(second.serverTime.getTime()).toBeGreaterThan(first.serverTime.getTime());
    hub.close();
  });

  test("a subscriber that takes nothing is not buffered for without bound, and misses nothing", async () => {
    const run = await newRun();
    const { db, bus, log } = server.services;
    const hub = createEventHub({ pool: db.pool, bus, log, batchMs: 0 });
    const slow = hub.follow(run.stream, 0n);
    expect((await slow.next()).value).toMatchObject({ backfill: false, events: [] });
    const quick = hub.follow(run.stream, 0n);
    let handed = 0;
    let last = 0;
    for (let n = 1; n <= 120; n++) {
      await append(run.stream, n, 1);
      // One batch each, so that far more are handed out than the slow one may owe.
      while (last < n) {
        const batch: EventBatch = (await quick.next()).value;
        if (!batch.backfill) handed++;
        last = Number(batch.events.at(-1)?.seq ?? last);
      }
    }
    expect(handed).toBeGreaterThan(64);
    const batches: EventBatch[] = [];
    while (Number(batches.at(-1)?.events.at(-1)?.seq ?? 0) < 120) batches.push((await slow.next()).value);
    expect(batches.flatMap(({ events }) => events.map(({ seq }) => Number(seq)))).toEqual(upTo(120));
    expect(batches[0]?.backfill).toBe(true);
    hub.close();
  });

  test("only members follow a run or an organization, only the node itself its stream", async () => {
    const run = await newRun();
    const other = await server.organization();
    const node = await server.node();
    const stranger = await server.node();
    const reader = await server.apiKey(organization, ["run:read"]);
    const funder = await server.apiKey(organization, ["run:fund"]);
    const codeOf = async (stream: string, as: Caller) => {
      const following = server.subscribe<Message>(subscription, { stream, after: "0" }, as);
      try {
        await following.next();
        return "ok";
      } catch (error) {
        return (error as { code?: string }).code;
      } finally {
        await following.close();
      }
    };
    expect(await codeOf(run.typeId, organization.owner)).toBe("ok");
    expect(await codeOf(run.typeId, reader)).toBe("ok");
    expect(await codeOf(run.typeId, funder)).toBe("NOT_FOUND");
    expect(await codeOf(run.typeId, other.owner)).toBe("NOT_FOUND");
    expect(await codeOf(run.typeId, node)).toBe("NOT_FOUND");
    expect(await codeOf(run.typeId, anonymous)).toBe("UNAUTHENTICATED");
    expect(await codeOf(organization.typeId, organization.owner)).toBe("ok");
    expect(await codeOf(organization.typeId, other.owner)).toBe("FORBIDDEN");
    expect(await codeOf(node.typeId, node)).toBe("ok");
    expect(await codeOf(node.typeId, stranger)).toBe("NOT_FOUND");
    expect(await codeOf(node.typeId, organization.owner)).toBe("NOT_FOUND");
    expect(await codeOf("task_01h455vb4pex5vsknk084sn02q", organization.owner)).toBe("INPUT_INVALID");
  });

  test("a batch is executed once for a hundred equal subscriptions, wherever each of them began", async () => {
    const run = await newRun();
    const one = server.client(organization.owner);
    const iterators = upTo(100).map((i) =>
      one.iterate<Message>({
        query: subscription,
        variables: { stream: run.typeId, after: i % 2 === 0 ? "0" : undefined },
      }),
    );
    // Each one's first message says that it is live, and is its own.
    await Promise.all(iterators.map((iterator) => iterator.next()));
    const before = await executions();
    const counts = iterators.map(async (iterator) => {
      let n = 0;
      while (n < 200) n += (await iterator.next()).value?.data?.events.events.length ?? 0;
      return n;
    });
    for (let n = 1; n <= 200; n += 20) {
      await append(run.stream, n, 20);
      await until(
        async () =>
          (await server.prisma.eventStream.findUnique({ where: { stream: run.stream } }))?.head ===
          BigInt(n + 19),
      );
    }
    expect(await Promise.all(counts)).toEqual(upTo(100).map(() => 200));
    // Ten batches at most, and a heartbeat or two, each in the two forms of the variables: not a hundred for each.
    expect((await executions()) - before).toBeLessThan(60);
    for (const iterator of iterators) await iterator.return?.();
  });
});

async function executions(): Promise<number> {
  return (await server.services.metrics.executions.get()).values[0]?.value ?? 0;
}

describe("two processes on one database", () => {
  test("events written through either reach subscribers of both, dense and once, also when the sequencer's process stops", async () => {
    const first = await startTestServer();
    const second = await startTestServer({ sharing: first, loops: [sequencerLoop] });
    const owner = await first.organization();
    const run = await newRun(first, owner);
    const followers = [first, first, second, second].map((on) =>
      on.subscribe<Message>(subscription, { stream: run.typeId, after: "0" }, owner.owner),
    );
    for (const follower of followers) await follower.next();
    await Promise.all([append(run.stream, 1, 100, first), append(run.stream, 101, 100, second)]);
    const halves = await Promise.all(followers.map((follower) => collect(() => follower.next(), 200)));
    for (const { seqs, ns } of halves) {
      expect(seqs).toEqual(upTo(200));
      expect([...ns].sort((a, b) => a - b)).toEqual(upTo(200));
    }
    const third = await startTestServer({ sharing: first, loops: [] });
    // Whichever of the two leads: one goes, and numbering goes on.
    await second.stop();
    await append(run.stream, 201, 5, third);
    const rest = await collect(() => followers[0]!.next(), 5);
    expect(rest.seqs).toEqual(upTo(5, 201));
    await third.stop();
    await first.stop();
  });
});

test("retention deletes old numbered events and keeps the head", async () => {
  const own = await startTestServer({ config: { eventRetentionDays: 1 }, loops: [] });
  const { pool } = own.services.db;
  await pool.query(
    `INSERT INTO "Event" ("stream", "type", "subject", "data", "at") SELECT 'run:x', 'run.progress', 'x', '{}', now() - make_interval(hours => 25 * (i % 2)) FROM generate_series(1, 10) i`,
  );
  expect(await deleteOldEvents(own.services)).toBe(0);
  await numberEvents(own.services);
  expect(await deleteOldEvents(own.services)).toBe(5);
  expect(await own.prisma.eventStream.findUnique({ where: { stream: "run:x" } })).toEqual({
    stream: "run:x",
    head: 10n,
  });
  await own.stop();
});
