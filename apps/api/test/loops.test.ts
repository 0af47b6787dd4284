import { afterAll, beforeAll, expect, test } from "vitest";
import { createBus, nudges } from "../src/events/bus.ts";
import { type Loop, startLoops } from "../src/loops.ts";
import { startTestServer, type TestServer, until } from "./testkit.ts";

let server: TestServer;
let other: TestServer;
beforeAll(async () => {
  server = await startTestServer({ loops: [] });
  other = await startTestServer({ sharing: server, loops: [] });
});
afterAll(async () => {
  await other.stop();
  await server.stop();
});

test("only one process leads a loop, and when it stops another takes over", async () => {
  const turns: string[] = [];
  const loop = (who: string): Loop => ({
    name: "led",
    everyMs: 5,
    leader: true,
    run: async () => turns.push(who),
  });
  const first = startLoops(server.services, [loop("first")]);
  await until(() => turns.length > 3);
  const second = startLoops(other.services, [loop("second")]);
  const before = turns.length;
  await until(() => turns.length > before + 20);
  expect(new Set(turns)).toEqual(new Set(["first"]));
  await first.stop();
  const stopped = turns.filter((who) => who === "first").length;
  await until(() => turns.includes("second"));
  expect(turns.filter((who) => who === "first")).toHaveLength(stopped);
  await second.stop();
});

test("a leader whose connection is cut loses the lead, and the loop goes on", async () => {
  let turns = 0;
  const running = startLoops(server.services, [
    { name: "cut", everyMs: 5, leader: true, run: async () => turns++ },
  ]);
  await until(() => turns > 0);
  const { rowCount } = await server.services.db.pool.query(
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'muster loops' AND datname = current_database()",
  );
  expect(rowCount).toBe(1);
  const before = turns;
  await until(() => turns > before + 3);
  await running.stop();
});

test("a loop without leadership runs in every process", async () => {
  const turns = new Set<string>();
  const loop = (who: string): Loop => ({
    name: "everywhere",
    everyMs: 5,
    leader: false,
    run: async () => turns.add(who),
  });
  const running = [
    startLoops(server.services, [loop("first")]),
    startLoops(other.services, [loop("second")]),
  ];
  await until(() => turns.size === 2);
  for (const one of running) await one.stop();
});

test("a nudge starts a turn at once and says what was nudged, also from another process", async () => {
  const heard: string[] = [];
  const running = startLoops(server.services, [
    {
      name: "nudged",
      everyMs: 60_000,
      topics: ["run:*"],
      leader: false,
      run: async (_ctx, { topics }) => heard.push(...topics),
    },
  ]);
  server.services.bus.publish("run:a");
  await until(() => heard.includes("run:a"));
  other.services.bus.publish("run:b");
  await until(() => heard.includes("run:b"));
  other.services.bus.publish("offers:GENERATE");
  await running.stop();
  expect(heard).toEqual(["run:a", "run:b"]);
});

test("a turn that fails is tried again", async () => {
  let turns = 0;
  const running = startLoops(server.services, [
    {
      name: "failing",
      everyMs: 1,
      leader: false,
      run: async () => {
        turns++;
        if (turns === 1) throw new Error("once");
      },
    },
  ]);
  await until(() => turns > 1);
  await running.stop();
});

test("stopping waits for the turn under way and starts no other", async () => {
  let begun = 0;
  let ended = 0;
  let finish = () => {};
  const work = new Promise<void>((resolve) => {
    finish = resolve;
  });
  const running = startLoops(server.services, [
    {
      name: "slow",
      everyMs: 1,
      leader: false,
      run: async () => {
        begun++;
        await work;
        ended++;
      },
    },
  ]);
  await until(() => begun === 1);
  let stopped = false;
  const stopping = running.stop().then(() => {
    stopped = true;
  });
  // A turn of the event loop and an answer of the database: time enough for a stop that does not wait.
  await server.prisma.$queryRaw`SELECT 1`;
  expect([stopped, ended]).toEqual([false, 0]);
  finish();
  await stopping;
  expect([begun, ended]).toEqual([1, 1]);
});

test("the bus hears again after its connection broke, and wakes everyone who may have missed something", async () => {
  const { db, log } = server.services;
  const bus = await createBus({ databaseUrl: server.config.databaseUrl, pool: db.pool, log });
  const heard: string[] = [];
  bus.listen("run:x", (topic) => heard.push(topic));
  bus.listen("stream:*", (topic) => heard.push(topic));
  await db.pool.query(
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'muster bus' AND datname = current_database()",
  );
  // Whoever listens is called when the connection is back: what came in between may be lost.
  await until(() => heard.length === 2);
  expect(heard.sort()).toEqual(["run:x", "stream:*"]);
  await until(() => {
    other.services.bus.publish("run:x");
    return heard.filter((topic) => topic === "run:x").length > 1;
  });
  await bus.close();
});

test("many topics in one tick arrive, each once", async () => {
  // The test before this one cut every connection of the database.
  let back = false;
  const offBack = other.services.bus.listen("run:back", () => {
    back = true;
  });
  await until(() => {
    server.services.bus.publish("run:back");
    return back;
  });
  offBack();
  const heard: string[] = [];
  const off = other.services.bus.listen("run:*", (topic) => {
    if (topic !== "run:back") heard.push(topic);
  });
  const topics = Array.from({ length: 500 }, (_, i) => `run:${"0".repeat(30)}${i}` as const);
  for (const topic of [...topics, ...topics]) server.services.bus.publish(topic);
  await until(() => heard.length >= 500);
  expect(heard.sort()).toEqual([...topics].sort());
  off();
});

test("nudges that come before the first look are not lost", async () => {
  const { bus } = server.services;
  const waiting = nudges(bus, ["offers:TRAIN", "offers:BASE"], { everyMs: 60_000 });
  bus.publish("offers:TRAIN");
  await new Promise((resolve) => setImmediate(() => setImmediate(resolve)));
  expect(await waiting.next()).toEqual({ value: new Set(["offers:TRAIN"]), done: false });
  const next = waiting.next();
  await waiting.return?.();
  expect(await next).toEqual({ value: undefined, done: true });
  const silent = nudges(bus, ["offers:TRAIN"], { everyMs: 5 });
  expect(await silent.next()).toEqual({ value: new Set(), done: false });
  await silent.return?.();
});
