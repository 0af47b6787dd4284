import { createHash } from "node:crypto";
import { type Manifest, parseManifest } from "@muster/protocol";
import { encodeDelta } from "@muster/shardcast";
import { afterAll, describe, expect, test } from "vitest";
import {
  acceptTask,
  claim,
  countTasks,
  modelOf,
  plan,
  publishStep,
  runRow,
  type StepFault,
  sealedRun,
  signal,
  type TestRun,
  weightsOf,
} from "./runkit.ts";
import { startTestServer } from "./testkit.ts";

const server = await startTestServer();
afterAll(() => server.stop());

const sha = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");
type Delta = NonNullable<Manifest["delta"]>;

/** Version v is version 0 with v weights of another sign. */
const sparse = (run: TestRun, version: number) => (flat: Float32Array) => {
  flat.set(weightsOf(modelOf(run.spec), 0));
  for (let i = 0; i < version; i++) flat[10 * i] = -(flat[10 * i] ?? 0) - 1;
};

/** Trains the sealed batch; what changed is described and then edited. */
async function step(run: TestRun, edit: StepFault["delta"] = (delta) => ({ delta })) {
  const lease = await claim(server, run, run.trainer, "TRAIN");
  const version = (await runRow(server, run)).step + 1;
  const outcome = await publishStep(server, run, lease, { weights: sparse(run, version), delta: edit });
  await plan(server, run);
  return outcome;
}

async function sealNext(run: TestRun) {
  while ((await countTasks(server, run, "TRAIN")).OPEN === undefined) {
    await acceptTask(server, run, [signal, signal]);
    await plan(server, run);
  }
}

async function manifestOf(run: TestRun, version: number) {
  const checkpoint = await server.prisma.checkpoint.findFirstOrThrow({ where: { runId: run.id, version } });
  const manifest = parseManifest(await server.ctx().blobs.read(checkpoint.manifestHash));
  return { id: checkpoint.id, hash: checkpoint.manifestHash, manifest };
}

/** The delta with this file in its place. */
const replaced = (delta: Delta, bytes: Uint8Array): Delta => ({
  ...delta,
  chain: [{ ...delta.chain[0]!, bytes: bytes.length }, ...delta.chain.slice(1)],
  file: {
    ...delta.file,
    size: bytes.length,
    sha256: sha(bytes),
    shards: [{ index: 0, size: bytes.length, sha256: sha(bytes) }],
  },
});

describe("a delta", () => {
  test("is published with its version, read by every node of the run, and kept as long as a chain needs it", async () => {
    const run = await sealedRun(server, { limits: { steps: 8 } });
    for (let version = 1; version <= 6; version++) {
      await sealNext(run);
      expect(await step(run)).toMatchObject({ kind: "submitted" });
    }
    const newest = await manifestOf(run, 6);
    const chain = newest.manifest.delta?.chain ?? [];
    expect(chain.map(({ version }) => version)).toEqual([5, 4, 3, 2, 1, 0]);
    // asyncLevel 1: versions 1 to 3 are retired, and a node that has version 1 still needs only what changed since
    expect(await server.prisma.checkpoint.count({ where: { runId: run.id, state: "RETIRED" } })).toBe(3);
    const one = await manifestOf(run, 1);
    expect(await server.prisma.packReference.count({ where: { subject: one.id } })).toBe(0);
    for (const { version, manifest: hash } of chain.slice(0, -1)) {
      const { manifest } = await manifestOf(run, version);
      for (const sha256 of [hash, ...(manifest.delta?.file.shards ?? []).map((shard) => shard.sha256)]) {
        const response = await fetch(`${server.url}/blobs/${sha256}`, { headers: run.worker.headers });
        expect(sha(new Uint8Array(await response.arrayBuffer()))).toBe(sha256);
      }
    }
  });

  const other = () => encodeDelta(new Uint8Array(64), new Uint8Array(64).fill(7), 4);
  const faults: [string, (delta: Delta) => ReturnType<NonNullable<StepFault["delta"]>>, string][] = [
    [
      "from another checkpoint of the same version",
      (delta) => ({ delta: { ...delta, chain: [{ ...delta.chain[0]!, manifest: sha(new Uint8Array()) }] } }),
      "does not start from",
    ],
    [
      "for another file",
      (delta) => ({ delta: replaced(delta, other()), blobs: [other()] }),
      "Not a delta for this file",
    ],
    [
      "that is none",
      (delta) => {
        const noise = new TextEncoder().encode("no delta at all");
        return { delta: replaced(delta, noise), blobs: [noise] };
      },
      "Not a delta for this file",
    ],
    [
      "whose shards are those of another file",
      (delta) => ({ delta: { ...delta, file: { ...delta.file, sha256: sha(new Uint8Array()) } } }),
      "The shards of model.safetensors.delta",
    ],
    [
      "that saves nothing",
      (delta) => {
        const large = new Uint8Array(1_000_000);
        return { delta: replaced(delta, large), blobs: [large] };
      },
      "not worth publishing",
    ],
  ];
  test.each(faults)("%s is refused with the reason", async (_name, edit, reason) => {
    const run = await sealedRun(server);
    expect(await step(run, edit)).toMatchObject({
      kind: "refused",
      code: "PACK_INVALID",
      message: expect.stringContaining(reason),
    });
    expect((await runRow(server, run)).currentVersion).toBe(0);
    expect(await step(run)).toMatchObject({ kind: "submitted" });
  });

  test("whose chain is not its parent's is refused", async () => {
    const run = await sealedRun(server);
    expect(await step(run)).toMatchObject({ kind: "submitted" });
    await sealNext(run);
    const longer = (delta: Delta) => ({
      ...delta,
      chain: [delta.chain[0]!, { version: 0, manifest: sha(new Uint8Array()), bytes: 9 }],
    });
    expect(await step(run, (delta) => ({ delta: longer(delta) }))).toMatchObject({
      kind: "refused",
      message: "The delta's chain does not continue as that of version 1 does.",
    });
    // a shorter one only offers less
    const shorter = (delta: Delta) => ({ ...delta, chain: delta.chain.slice(0, 1) });
    expect(await step(run, (delta) => ({ delta: shorter(delta) }))).toMatchObject({ kind: "submitted" });
  });

  test("that makes other weights than the manifest's is refused", async () => {
    const run = await sealedRun(server);
    const { manifest } = await manifestOf(run, 0);
    const size = manifest.files[0]?.size ?? 0;
    const wrong = encodeDelta(new Uint8Array(size), new Uint8Array(size).fill(1, 100, 104), 4);
    const outcome = await step(run, (delta) => ({ delta: replaced(delta, wrong), blobs: [wrong] }));
    expect(outcome).toMatchObject({
      kind: "refused",
      message: "The delta does not make the weights that the manifest names.",
    });
  });

  test("whose shards were never sent is asked for, without costing the attempt", async () => {
    const run = await sealedRun(server);
    const missing = encodeDelta(new Uint8Array(999), new Uint8Array(999).fill(3), 4);
    await expect(step(run, (delta) => ({ delta: replaced(delta, missing) }))).rejects.toMatchObject({
      code: "BLOB_NOT_FOUND",
    });
    expect(await countTasks(server, run, "TRAIN")).toMatchObject({ LEASED: 1 });
  });
});
