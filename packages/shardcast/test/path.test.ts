import { createHash, generateKeyPairSync, sign } from "node:crypto";
import { type Manifest, newId, parseManifest, toTypeId } from "@muster/protocol";
import { beforeAll, describe, expect, test } from "vitest";
import {
  buildManifest,
  type Checkpoint,
  choosePath,
  mostDeltaBytes,
  patched,
  signManifest,
} from "../src/index.ts";

// A run of 201 versions of a small bf16 model, 1 % of which every step changes, as a trainer publishes them.

const run = toTypeId("run", newId());
const keys = generateKeyPairSync("ed25519");
const trainer = keys.publicKey.export({ format: "der", type: "spki" }).subarray(-32).toString("hex");
const elements = 2 ** 16;
const newest = 200;
/** This step changed everything. */
const upheaval = 150;

type Version = Checkpoint & { weights: Uint8Array<ArrayBuffer> };
const versions: Version[] = [];
const blobs = new Map<string, Uint8Array>();
const sha = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");

let seed = 1;
/** Whole numbers below 2³², the same in every run of the test. */
function draw(): number {
  seed = (Math.imul(seed, 1_664_525) + 1_013_904_223) >>> 0;
  return seed;
}

async function publish(weights: Uint8Array<ArrayBuffer>, parent: Version | undefined, version: number) {
  const { manifest, shards } = buildManifest({
    run,
    version,
    parent: parent?.manifest.version ?? null,
    created: "2026-01-01T00:00:00.000Z",
    tensors: [{ name: "w", dtype: "BF16", shape: [elements], offset: 0, size: 2 * elements }],
    trainer,
    files: [
      { name: "model.safetensors", bytes: weights },
      { name: "config.json", bytes: new TextEncoder().encode('{"of":"every version"}') },
    ],
    ...(parent
      ? { from: { manifest: parent.manifest, manifestHash: parent.hash, weights: parent.weights } }
      : {}),
  });
  const checkpoint = await signManifest(manifest, (bytes) => sign(null, bytes, keys.privateKey));
  for (const { sha256, bytes } of shards) blobs.set(sha256, bytes);
  blobs.set(checkpoint.hash, checkpoint.bytes);
  return { ...checkpoint, weights };
}

beforeAll(async () => {
  const first = new Uint16Array(elements).map(() => draw() >>> 16);
  versions.push(await publish(new Uint8Array(first.buffer), undefined, 0));
  for (let version = 1; version <= newest; version++) {
    const parent = at(version - 1);
    const weights = new Uint16Array(parent.weights.slice().buffer);
    const share = version === upheaval ? 1 : 0.01;
    for (let i = 0; i < weights.length; i++) if (draw() < share * 2 ** 32) weights[i] = draw() >>> 16;
    versions.push(await publish(new Uint8Array(weights.buffer), parent, version));
  }
});

function at(version: number): Version {
  const found = versions[version];
  if (!found) throw new Error(`there is no version ${version}`);
  return found;
}

/** A client that has these versions whole. */
function client(have: readonly number[]) {
  const cached = new Set(have.map((version) => at(version).hash));
  const disk = new Set<string>();
  for (const version of have)
    for (const { shards } of at(version).manifest.files) for (const { sha256 } of shards) disk.add(sha256);
  return {
    disk,
    cached: (hash: string) => cached.has(hash),
    bytesToFetch: (shards: readonly { sha256: string; size: number }[]) =>
      [...new Map(shards.map((shard) => [shard.sha256, shard.size]))]
        .filter(([sha256]) => !disk.has(sha256))
        .reduce((sum, [, size]) => sum + size, 0),
  };
}

/** Goes the way for real. Returns the weights and the bytes fetched, beside the manifest that was asked for. */
async function follow(
  target: Version,
  have: ReturnType<typeof client>,
  path: { layout: "FULL" } | { layout: "DELTA"; from: string; steps: string[] },
) {
  let bytes = 0;
  const fetched = new Set(have.disk);
  const get = (sha256: string): Uint8Array => {
    const found = blobs.get(sha256);
    if (!found) throw new Error(`${sha256} was never published`);
    if (!fetched.has(sha256)) bytes += found.length;
    fetched.add(sha256);
    return found;
  };
  const joined = ({ shards }: { shards: { sha256: string }[] }) =>
    new Uint8Array(Buffer.concat(shards.map(({ sha256 }) => get(sha256))));
  const [weights, config] = target.manifest.files as [Manifest["files"][number], Manifest["files"][number]];
  joined(config);
  if (path.layout === "FULL") return { weights: joined(weights), bytes };
  let current = versions.find(({ hash }) => hash === path.from)?.weights as Uint8Array;
  for (const step of path.steps) {
    const manifest = step === target.hash ? target.manifest : parseManifest(get(step));
    if (!manifest.delta) throw new Error(`version ${manifest.version} has no delta`);
    const delta = joined(manifest.delta.file);
    const blocks: Uint8Array[] = [];
    for await (const block of patched({
      old: current,
      delta: (async function* () {
        yield delta;
      })(),
    }))
      blocks.push(block.slice());
    current = new Uint8Array(Buffer.concat(blocks));
    expect(sha(current)).toBe(manifest.whole);
  }
  return { weights: current, bytes };
}

/** Every way there is, gone for real. */
async function everyWay(target: Version, have: ReturnType<typeof client>) {
  const ways = [{ from: "nothing", ...(await follow(target, have, { layout: "FULL" })) }];
  const chain = target.manifest.delta?.chain ?? [];
  const hashes = [target.hash, ...chain.map(({ manifest }) => manifest)];
  for (const [i, { manifest, version }] of chain.entries()) {
    if (!have.cached(manifest)) continue;
    const steps = hashes.slice(0, i + 1).toReversed();
    ways.push({
      from: `version ${version}`,
      ...(await follow(target, have, { layout: "DELTA", from: manifest, steps })),
    });
  }
  return ways.toSorted((a, b) => a.bytes - b.bytes);
}

describe("who comes at version 200", () => {
  test.each<[string, number[], string, number]>([
    ["with nothing fetches the whole checkpoint", [], "nothing", 0],
    ["with version 199 one delta", [199], "version 199", 1],
    ["with version 190 ten deltas, one after the other", [190], "version 190", 10],
    ["with version 184 the sixteen that there may be", [184], "version 184", 16],
    ["with version 183 the whole checkpoint", [183], "nothing", 0],
    ["with version 100 the whole checkpoint", [100], "nothing", 0],
    ["with several versions the delta from the newest", [100, 190, 199, 196], "version 199", 1],
  ])("%s", async (_name, have, from, steps) => {
    const target = at(newest);
    const joiner = client(have);
    const path = choosePath({ manifest: target.manifest, ...joiner });
    const gone = await follow(target, joiner, path);
    expect(gone.weights).toEqual(target.weights);
    const ways = await everyWay(target, joiner);
    expect(ways[0]).toMatchObject({ from, bytes: gone.bytes });
    expect(path.layout === "FULL" ? [] : path.steps).toHaveLength(steps);
    // manifests on the way are of nearly the same size
    expect(Math.abs(path.bytes - gone.bytes) / gone.bytes).toBeLessThan(0.01);
    console.log(
      `version 200 with ${have.join(", ") || "nothing"}: ${ways.map((way) => `${way.bytes} B from ${way.from}`).join(" · ")}`,
    );
  });
});

test("an upheaval cannot be gone around by deltas, and whoever missed it fetches the whole", () => {
  expect(at(upheaval).manifest.delta).toBeNull();
  expect(at(upheaval + 1).manifest.delta?.chain).toHaveLength(1);
  const target = at(upheaval + 3);
  expect(target.manifest.delta?.chain.map(({ version }) => version)).toEqual([152, 151, 150]);
  const path = (have: number[]) => choosePath({ manifest: target.manifest, ...client(have) });
  expect(path([149]).layout).toBe("FULL");
  expect(path([150])).toMatchObject({
    layout: "DELTA",
    steps: [151, 152, 153].map((version) => at(version).hash),
  });
});

test("a download that was nearly finished is finished, though there is a delta", () => {
  const target = at(newest);
  const joiner = client([190]);
  expect(choosePath({ manifest: target.manifest, ...joiner }).layout).toBe("DELTA");
  for (const { sha256 } of target.manifest.files[0]?.shards ?? []) joiner.disk.add(sha256);
  expect(choosePath({ manifest: target.manifest, ...joiner })).toEqual({ layout: "FULL", bytes: 0 });
});

test("every version's manifest holds what is published, with chains of at most sixteen", () => {
  for (const { bytes, manifest, weights } of versions) {
    expect(parseManifest(bytes)).toEqual(manifest);
    const { delta, version } = manifest;
    if (delta === null) {
      expect([0, upheaval]).toContain(version);
      continue;
    }
    expect(delta.file.size).toBeLessThanOrEqual(mostDeltaBytes(weights.length));
    const since = version > upheaval ? upheaval : 0;
    expect(delta.chain.map((ancestor) => ancestor.version)).toEqual(
      Array.from({ length: Math.min(16, version - since) }, (_, i) => version - 1 - i),
    );
    for (const [i, ancestor] of delta.chain.entries()) {
      expect(ancestor.manifest).toBe(at(ancestor.version).hash);
      expect(ancestor.bytes).toBe(at(version - i).manifest.delta?.file.size);
    }
  }
});
