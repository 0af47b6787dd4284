import { createHash } from "node:crypto";
import { newId, shardsRoot } from "@muster/protocol";
import { signManifest } from "@muster/shardcast";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { manifestOf } from "../src/broadcast/manifests.ts";
import { payRelays } from "../src/broadcast/pay.ts";
import { type Receipt, receiptCheckpoint } from "../src/broadcast/receipts.ts";
import { withdrawRelay } from "../src/broadcast/relays.ts";
import { deleteOldReceipts } from "../src/broadcast/retention.ts";
import { fundBudget } from "../src/ledger/ledger.ts";
import { closeRelays, liveRelay, liveRelays, probeNow, type TestRelay } from "./relaykit.ts";
import { acceptTask, eventsOf, publishBase, signal, startRun, type TestRun } from "./runkit.ts";
import { startTestServer, type TestNode, type TestServer } from "./testkit.ts";

let server: TestServer;
let run: TestRun;
let checkpoint: { id: string; manifestHash: string; size: bigint };

// A price at which a checkpoint of a few kilobytes is worth something.
const price = 1_000_000n;

beforeAll(async () => {
  server = await startTestServer();
});
afterAll(async () => {
  await closeRelays();
  await server.stop();
});
beforeEach(async () => {
  await closeRelays();
  run = await startRun(server, { prices: { relayedMiB: Number(price) } });
  await publishBase(server, run);
  checkpoint = await server.prisma.checkpoint.findFirstOrThrow({ where: { runId: run.id } });
});

const code = (expected: string) => expect.objectContaining({ code: expected });
const worth = (bytes: bigint) => (bytes * price) / (1024n * 1024n);

function receipt(
  node: TestNode,
  sources: [TestRelay, bigint][],
  over: Partial<Receipt> = {},
): Promise<boolean> {
  return receiptCheckpoint(server.ctx(node), {
    manifest: checkpoint.manifestHash,
    layout: "FULL",
    seconds: 2.5,
    bytes: sources.reduce((sum, [, bytes]) => sum + bytes, 0n),
    wastedBytes: 0n,
    sources: sources.map(([{ id }, bytes]) => ({ relayId: id, bytes })),
    ...over,
  });
}

/** The worker's groups on the version, accepted; it takes part from here on. */
const work = () => acceptTask(server, run, [signal, signal]);
const makeFinal = (groups: readonly string[]) =>
  server.prisma.group.updateMany({ where: { id: { in: [...groups] } }, data: { finalAt: new Date() } });
const pay = () => payRelays(server.ctx());

async function earned(relay: TestRelay): Promise<bigint> {
  const key = `available:${run.organization.id}:${relay.node.id}`;
  return (await server.prisma.account.findUnique({ where: { key } }))?.balance ?? 0n;
}

const budget = async () =>
  (await server.prisma.account.findUniqueOrThrow({ where: { key: `budget:${run.id}` } })).balance;

test("a relay is paid for what a node receipted once the node has an accepted group on that version that is final", async () => {
  const relay = await liveRelay(server, run);
  const groups = await work();
  expect(await receipt(run.worker, [[relay, checkpoint.size]])).toBe(true);
  expect(await pay()).toBe(0);
  expect(await earned(relay)).toBe(0n);
  const before = await budget();
  await makeFinal(groups);
  expect(await pay()).toBe(1);
  expect(await earned(relay)).toBe(worth(checkpoint.size));
  expect(await budget()).toBe(before - worth(checkpoint.size));
  // Once, whoever asks how often.
  expect(await pay()).toBe(0);
  expect(await earned(relay)).toBe(worth(checkpoint.size));
});

test.each(["REJECTED", "INVALID", "STALE", "VERIFYING"] as const)(
  "work that is %s pays nobody",
  async (state) => {
    const relay = await liveRelay(server, run);
    const groups = await work();
    await receipt(run.worker, [[relay, checkpoint.size]]);
    await server.prisma.group.updateMany({
      where: { id: { in: groups } },
      data: { state, finalAt: new Date() },
    });
    expect(await pay()).toBe(0);
    expect(await earned(relay)).toBe(0n);
  },
);

test("a second receipt of a node for a checkpoint is not taken, whoever it names, at once or later", async () => {
  const [first, second] = await liveRelays(server, run, 2);
  if (first === undefined || second === undefined) throw new Error("no relays");
  const groups = await work();
  const taken = await Promise.all(
    [first, second, first, second].map((relay) => receipt(run.worker, [[relay, checkpoint.size]])),
  );
  expect(taken.filter(Boolean).length).toBe(1);
  await makeFinal(groups);
  await Promise.all([pay(), pay(), pay()]);
  expect(await receipt(run.worker, [[second, checkpoint.size]])).toBe(false);
  await pay();
  expect((await earned(first)) + (await earned(second))).toBe(worth(checkpoint.size));
  expect((await eventsOf(server, run, "checkpoint.received")).length).toBe(1);
});

test("two replicas that pay at once pay once", async () => {
  await using other = await startTestServer({ sharing: server });
  const relay = await liveRelay(server, run);
  const groups = await work();
  await receipt(run.worker, [[relay, checkpoint.size]]);
  await makeFinal(groups);
  const settled = await Promise.all([pay(), payRelays(other.ctx()), pay(), payRelays(other.ctx())]);
  expect(settled.reduce((sum, n) => sum + n, 0)).toBe(1);
  expect(await earned(relay)).toBe(worth(checkpoint.size));
});

test("all relays together earn no more than the checkpoint, each its share", async () => {
  const [most, least] = await liveRelays(server, run, 2);
  if (most === undefined || least === undefined) throw new Error("no relays");
  const groups = await work();
  const { size } = checkpoint;
  await receipt(run.worker, [
    [most, (size * 3n) / 2n],
    [least, size / 2n],
  ]);
  await makeFinal(groups);
  await pay();
  const together = (await earned(most)) + (await earned(least));
  expect(together).toBeLessThanOrEqual(worth(size));
  expect(together).toBeGreaterThanOrEqual(worth(size) - 2n);
  expect(Number(await earned(most)) / Number(await earned(least))).toBeCloseTo(3, 1);
});

test("what is out of proportion is refused", async () => {
  const relay = await liveRelay(server, run);
  await work();
  const { size } = checkpoint;
  const all: [TestRelay, bigint][] = [[relay, size]];
  for (const wrong of [
    () => receipt(run.worker, [[relay, 2n * size + 1n]]),
    () => receipt(run.worker, all, { bytes: size - 1n }),
    () => receipt(run.worker, all, { seconds: -1 }),
    () => receipt(run.worker, all, { seconds: Number.NaN }),
    () => receipt(run.worker, all, { wastedBytes: -1n }),
    () => receipt(run.worker, all, { wastedBytes: size * 1000n }),
    () => receipt(run.worker, [[relay, -1n]]),
    () => receipt(run.worker, [...all, ...all], { bytes: 2n * size }),
    () =>
      receipt(
        run.worker,
        Array.from({ length: 65 }, () => [{ ...relay, id: newId() }, 0n]),
      ),
  ])
    await expect(wrong()).rejects.toThrow(code("INPUT_INVALID"));
  await expect(receipt(run.worker, all, { manifest: "0".repeat(64) })).rejects.toThrow(
    code("BLOB_NOT_FOUND"),
  );
  expect(await server.prisma.checkpointReceipt.count({ where: { runId: run.id } })).toBe(0);
});

test("a passer-by's receipt is not taken, and a stranger's to a closed run is refused", async () => {
  const relay = await liveRelay(server, run);
  const stranger = await server.node();
  expect(await receipt(stranger, [[relay, checkpoint.size]])).toBe(false);
  await server.prisma.run.update({ where: { id: run.id }, data: { open: false } });
  await expect(receipt(stranger, [[relay, checkpoint.size]])).rejects.toThrow(code("BLOB_NOT_FOUND"));
  const { owner } = run.organization;
  await expect(
    receiptCheckpoint(server.ctx(owner), {
      manifest: checkpoint.manifestHash,
      layout: "FULL",
      seconds: 1,
      bytes: 0n,
      wastedBytes: 0n,
      sources: [],
    }),
  ).rejects.toThrow(code("UNAUTHENTICATED"));
});

test("nobody is paid for serving itself, nor the node of the same owner", async () => {
  const [mine, other] = await liveRelays(server, run, 2);
  if (mine === undefined || other === undefined) throw new Error("no relays");
  const groups = await work();
  const { size } = checkpoint;
  // The worker runs the first relay; the second one's owner is the worker's too.
  await server.prisma.relay.update({ where: { id: mine.id }, data: { nodeId: run.worker.id } });
  await server.prisma.node.updateMany({
    where: { id: { in: [run.worker.id, other.node.id] } },
    data: { ownerId: run.organization.owner.userId },
  });
  await receipt(run.worker, [
    [mine, size / 2n],
    [other, size / 2n],
  ]);
  await makeFinal(groups);
  await pay();
  const sources = await server.prisma.receiptSource.findMany({ where: { runId: run.id } });
  expect(sources.map(({ creditedBytes }) => creditedBytes)).toEqual([0n, 0n]);
  expect(
    await server.prisma.ledgerTransaction.count({ where: { runId: run.id, key: { startsWith: "relay:" } } }),
  ).toBe(0);
});

test("only relays of the run that are LIVE, or were until just now, are credited", async () => {
  const elsewhere = await startRun(server, {}, { organization: run.organization });
  await publishBase(server, elsewhere);
  const foreign = await liveRelay(server, elsewhere);
  const [dropped, left] = await liveRelays(server, run, 2);
  if (dropped === undefined || left === undefined) throw new Error("no relays");
  dropped.behaviour = "corrupt";
  await probeNow(server, dropped);
  await withdrawRelay(server.ctx(left.node));
  const groups = await work();
  const third = checkpoint.size / 3n;
  await receipt(run.worker, [
    [foreign, third],
    [dropped, third],
    [left, third],
  ]);
  await makeFinal(groups);
  await pay();
  expect(await earned(foreign)).toBe(0n);
  expect(await earned(dropped)).toBe(0n);
  expect(await earned(left)).toBe(worth(third));
});

test("what the budget does not cover waits, in order, until it does", async () => {
  const relay = await liveRelay(server, run);
  const groups = await work();
  await receipt(run.worker, [[relay, checkpoint.size]]);
  await makeFinal(groups);
  const owed = worth(checkpoint.size);
  const credits = (amount: bigint) =>
    server.prisma.$transaction((tx) =>
      fundBudget(tx, {
        organizationId: run.organization.id,
        runId: run.id,
        credits: amount,
        key: `fund:${newId()}`,
      }),
    );
  await server.prisma.account.update({ where: { key: `budget:${run.id}` }, data: { balance: 0n } });
  await credits(owed - 1n);
  expect(await pay()).toBe(0);
  expect(await earned(relay)).toBe(0n);
  expect(await budget()).toBe(owed - 1n);
  await credits(1n);
  expect(await pay()).toBe(1);
  expect(await earned(relay)).toBe(owed);
  expect(await budget()).toBe(0n);
});

test("the end of a run takes nothing from whoever's work was final, and pays nobody else", async () => {
  const relay = await liveRelay(server, run);
  const groups = await work();
  await receipt(run.worker, [[relay, checkpoint.size]]);
  await server.prisma.run.update({
    where: { id: run.id },
    data: { state: "CANCELLED", endedAt: new Date() },
  });
  expect(await pay()).toBe(0);
  await makeFinal(groups.slice(0, 1));
  expect(await pay()).toBe(1);
  expect(await earned(relay)).toBe(worth(checkpoint.size));
});

test("a delta earns what the cheapest way from what the node had needed, not what it says it fetched", async () => {
  const relay = await liveRelay(server, run);
  const groups = await work();
  expect(await receipt(run.worker, [], { layout: "LOCAL" })).toBe(true);
  const next = await publishDelta(900);
  const { size } = next;
  checkpoint = next;
  await server.prisma.relay.update({ where: { id: relay.id }, data: { newestVersion: 1 } });
  await receipt(run.worker, [[relay, size]], { layout: "FULL" });
  await server.prisma.group.updateMany({
    where: { id: { in: groups } },
    data: { policyVersion: 1, finalAt: new Date() },
  });
  await pay();
  const { manifest } = await manifestOf(server.ctx(), next.manifestHash);
  const weights = manifest.files.find(({ name }) => name === "model.safetensors")?.size ?? 0;
  expect(await earned(relay)).toBe(worth(size - BigInt(weights) + 900n));
});

test("a receipt is never changed, and deleted only when nothing can come of it any more", async () => {
  const relay = await liveRelay(server, run);
  const groups = await work();
  await receipt(run.worker, [[relay, checkpoint.size]]);
  const [row] = await server.prisma.checkpointReceipt.findMany({ where: { runId: run.id } });
  await expect(
    server.prisma.checkpointReceipt.update({ where: { id: row?.id ?? "" }, data: { bytes: 1n } }),
  ).rejects.toThrow(/append/);
  await expect(
    server.prisma.receiptSource.updateMany({ where: { relayId: relay.id }, data: { creditedBytes: 0n } }),
  ).rejects.toThrow(/append/);
  const age = () =>
    server.prisma.$executeRaw`
      WITH aged AS (SELECT id FROM "CheckpointReceipt" WHERE "runId" = ${run.id}::uuid)
      UPDATE "CheckpointReceipt" SET "receivedAt" = now() - interval '60 days', "settledAt" = now() WHERE id IN (SELECT id FROM aged)`;
  await expect(age()).rejects.toThrow(/append/);
  // Moved into the past without the trigger.
  await server.prisma.$transaction([
    server.prisma.$executeRaw`ALTER TABLE "CheckpointReceipt" DISABLE TRIGGER USER`,
    server.prisma
      .$executeRaw`UPDATE "CheckpointReceipt" SET "receivedAt" = now() - interval '60 days' WHERE "runId" = ${run.id}::uuid`,
    server.prisma.$executeRaw`ALTER TABLE "CheckpointReceipt" ENABLE TRIGGER USER`,
  ]);
  const kept = () => server.prisma.checkpointReceipt.count({ where: { runId: run.id } });
  await deleteOldReceipts(server.ctx());
  expect(await kept()).toBe(1);
  await server.prisma.checkpoint.updateMany({ where: { runId: run.id }, data: { state: "RETIRED" } });
  await deleteOldReceipts(server.ctx());
  expect(await kept()).toBe(1);
  await makeFinal(groups);
  await pay();
  await deleteOldReceipts(server.ctx());
  expect(await kept()).toBe(0);
  expect(await earned(relay)).toBe(worth(checkpoint.size));
});

/** Version 1 as rows and a manifest only: the base's files, said to be `bytes` of delta away from it. */
async function publishDelta(bytes: number): Promise<typeof checkpoint> {
  const { manifest } = await manifestOf(server.ctx(), checkpoint.manifestHash);
  const sha256 = createHash("sha256").update("a delta").digest("hex");
  const { signature: _, ...unsigned } = {
    ...manifest,
    version: 1,
    parent: 0,
    delta: {
      codec: "muster/delta/v1" as const,
      chain: [{ version: 0, manifest: checkpoint.manifestHash, bytes }],
      file: {
        name: "model.safetensors.delta" as const,
        size: bytes,
        sha256,
        shards: [{ index: 0, size: bytes, sha256 }],
      },
    },
  };
  const made = await signManifest({ ...unsigned, root: shardsRoot(unsigned) }, (signed) =>
    Buffer.from(run.trainer.sign(signed), "hex"),
  );
  const manifestHash = await server.services.blobs.putBytes(made.bytes);
  const owner = { organizationId: run.organization.id, runId: run.id };
  const id = newId("ckpt");
  await server.prisma.pack.create({
    data: { sha256: manifestHash, kind: "MANIFEST", size: BigInt(made.bytes.length) },
  });
  await server.prisma.packReference.create({
    data: { ...owner, sha256: manifestHash, subject: id, kind: "MANIFEST" },
  });
  return await server.prisma.checkpoint.create({
    data: {
      id,
      ...owner,
      version: 1,
      parentVersion: 0,
      manifestHash,
      size: checkpoint.size,
      state: "AVAILABLE",
      trainerNodeId: run.trainer.id,
      taskId: newId("task"),
      availableAt: new Date(),
    },
  });
}
