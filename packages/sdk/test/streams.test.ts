import { afterEach, expect, test } from "vitest";
import { ApiError, createClient } from "../src/index.ts";
import { type Coordinator, eventLog, refusal, startCoordinator } from "./coordinator.ts";

const open: AsyncDisposable[] = [];
afterEach(async () => {
  for (const thing of open.splice(0).reverse()) await thing[Symbol.asyncDispose]();
});

async function start(options: Parameters<typeof startCoordinator>[0]): Promise<Coordinator> {
  const coordinator = await startCoordinator(options);
  open.push(coordinator);
  return coordinator;
}

function clientOf(options: Parameters<typeof createClient>[0]) {
  const client = createClient(options);
  open.push(client);
  return client;
}

test("an event stream resumes after killed sockets without loss or duplicates", async () => {
  const log = eventLog();
  log.append(10);
  const cursors: string[] = [];
  const coordinator = await start({
    root: {
      events: (input: { stream: string; after: string }) => {
        cursors.push(input.after);
        return log.read(input);
      },
    },
  });
  const client = clientOf({ url: coordinator.url });
  const seen: number[] = [];
  let kills = 0;
  for await (const batch of client.events.stream({ stream: "run_x" })) {
    seen.push(...batch.events.map((event) => Number(event.seq)));
    if (seen.length === 10 || seen.length === 20) {
      kills++;
      for (const socket of coordinator.connections) socket.terminate();
      log.append(10);
    }
    if (seen.length >= 30) break;
  }
  expect(seen).toEqual(Array.from({ length: 30 }, (_, i) => i + 1));
  expect(kills).toBe(2);
  expect(cursors).toEqual(["0", "10", "20"]);
});

test("a graceful close with 1000 resumes from the cursor, too", async () => {
  const log = eventLog();
  log.append(3);
  const cursors: string[] = [];
  const coordinator = await start({
    root: {
      events: (input: { stream: string; after: string }) => {
        cursors.push(input.after);
        return log.read(input);
      },
    },
  });
  const client = clientOf({ url: coordinator.url });
  const seen: number[] = [];
  for await (const batch of client.events.stream({ stream: "run_x" })) {
    seen.push(...batch.events.map((event) => Number(event.seq)));
    if (seen.length === 3) {
      for (const socket of coordinator.connections) socket.close(1000, "restarting");
      log.append(3);
    }
    if (seen.length >= 6) break;
  }
  expect(seen).toEqual([1, 2, 3, 4, 5, 6]);
  expect(cursors).toEqual(["0", "3"]);
});

test("events the coordinator repeats are told once", async () => {
  const coordinator = await start({
    root: {
      events: async function* () {
        const event = (n: number) => ({
          seq: String(n),
          type: "t",
          subject: "s",
          data: {},
          at: "1970-01-01T00:00:00Z",
        });
        const batch = (...n: number[]) => ({
          events: {
            stream: "run_x",
            events: n.map(event),
            head: "4",
            resync: false,
            backfill: false,
            serverTime: "1970-01-01T00:00:00Z",
          },
        });
        yield batch(1, 2);
        yield batch(1, 2);
        yield batch(2, 3);
        yield batch();
        yield batch(4);
        await new Promise(() => {});
      },
    },
  });
  const batches: string[][] = [];
  for await (const batch of clientOf({ url: coordinator.url }).events.stream({ stream: "run_x" })) {
    batches.push(batch.events.map(({ seq }) => seq));
    if (batches.at(-1)?.[0] === "4") break;
  }
  expect(batches).toEqual([["1", "2"], ["3"], [], ["4"]]);
});

test("aborting ends a waiting stream and its subscription at the coordinator", async () => {
  const log = eventLog();
  log.append(1);
  const coordinator = await start({ root: { events: (input: never) => log.read(input) } });
  const client = clientOf({ url: coordinator.url });
  const stop = new AbortController();
  const seen: string[] = [];
  for await (const batch of client.events.stream({ stream: "run_x", signal: stop.signal })) {
    seen.push(...batch.events.map(({ seq }) => seq));
    setTimeout(() => stop.abort(), 10);
  }
  expect(seen).toEqual(["1"]);
  await expect.poll(() => coordinator.connections.size, { timeout: 5_000 }).toBe(0);
});

test("a reader that leaves the loop closes the socket", async () => {
  const log = eventLog();
  log.append(1);
  const coordinator = await start({ root: { events: (input: never) => log.read(input) } });
  for await (const batch of clientOf({ url: coordinator.url }).events.stream({ stream: "run_x" })) {
    expect(batch.events).toHaveLength(1);
    break;
  }
  await expect.poll(() => coordinator.connections.size, { timeout: 5_000 }).toBe(0);
});

test("a stream outlives a coordinator that is down for a while", async () => {
  const log = eventLog();
  log.append(2);
  const first = await startCoordinator({ root: { events: (input: never) => log.read(input) } });
  let target = first.url;
  // the same client is pointed at the next incarnation by its port, as a supervisor's restart would
  const { port } = new URL(first.url);
  const client = clientOf({ url: target });
  const seen: string[] = [];
  for await (const batch of client.events.stream({ stream: "run_x" })) {
    seen.push(...batch.events.map(({ seq }) => seq));
    if (seen.length === 2) {
      await first[Symbol.asyncDispose]();
      log.append(2);
      const second = await start({ root: { events: (input: never) => log.read(input) }, port: Number(port) });
      target = second.url;
    }
    if (seen.length >= 4) break;
  }
  expect(seen).toEqual(["1", "2", "3", "4"]);
});

test("a refused subscription is an ApiError with the coordinator's code", async () => {
  const coordinator = await start({
    root: {
      events: () => {
        throw refusal("FORBIDDEN", { requestId: "req-7" });
      },
    },
  });
  const stream = clientOf({ url: coordinator.url }).events.stream({ stream: "run_x" });
  const error = await stream.next().catch((thrown: unknown) => thrown);
  expect(error).toBeInstanceOf(ApiError);
  expect(error).toMatchObject({ code: "FORBIDDEN", requestId: "req-7", retryable: false });
  expect(coordinator.seen).toEqual(["ws"]);
});

test("a socket refused with 4401 gets a fresh token and goes on", async () => {
  const log = eventLog();
  log.append(1);
  const coordinator = await start({
    root: { events: (input: never) => log.read(input) },
    refuse: (token) => token !== "new",
  });
  let token = "old";
  const asked: (string | undefined)[] = [];
  const client = clientOf({
    url: coordinator.url,
    getToken: ({ refused }) => {
      asked.push(refused);
      if (refused === token) token = "new";
      return token;
    },
  });
  for await (const batch of client.events.stream({ stream: "run_x" })) {
    expect(batch.events).toHaveLength(1);
    break;
  }
  expect(asked).toEqual([undefined, "old", undefined]);
});

test("a socket refused with 4401 and nothing to refresh ends the stream", async () => {
  const coordinator = await start({ root: {}, refuse: () => true });
  const client = clientOf({ url: coordinator.url, token: "old" });
  const error = await client.tasks
    .offers({ kinds: ["GENERATE"] })
    .next()
    .catch((thrown: unknown) => thrown);
  expect(error).toMatchObject({ code: "UNAUTHENTICATED" });
});

test("offers arrive again on every connection", async () => {
  const coordinator = await start({
    root: {
      taskOffers: async function* ({ kinds }: { kinds: string[] }) {
        yield { taskOffers: { kinds, at: "1970-01-01T00:00:00Z" } };
        await new Promise(() => {});
      },
    },
  });
  let offers = 0;
  for await (const offer of clientOf({ url: coordinator.url }).tasks.offers({
    kinds: ["GENERATE", "VERIFY"],
  })) {
    expect(offer.kinds).toEqual(["GENERATE", "VERIFY"]);
    if (++offers === 3) break;
    for (const socket of coordinator.connections) socket.terminate();
  }
  expect(coordinator.seen).toEqual(["ws", "ws", "ws"]);
});
