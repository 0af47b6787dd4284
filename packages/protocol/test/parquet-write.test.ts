import fc from "fast-check";
import type { SchemaElement } from "hyparquet";
import { ByteWriter, ParquetWriter } from "hyparquet-writer";
import { expect, test } from "vitest";
import {
  type BatchPack,
  canonicalJson,
  decodeBatchPack,
  encodeBatchPack,
  newId,
  PackError,
  toTypeId,
} from "../src/index.ts";

const header: BatchPack["header"] = {
  kind: "batch",
  version: 1,
  run: toTypeId("run", newId()),
  step: 1,
  batch: toTypeId("batch", newId()),
};
const ids = (most: number) =>
  fc
    .array(fc.integer({ min: 0, max: 2 ** 31 - 1 }), { minLength: 1, maxLength: most })
    .map((list) => Int32Array.from(list));
const rollout = (most: number) =>
  fc.record({
    group: fc.string({ unit: "grapheme", maxLength: 30 }),
    prompt: ids(most),
    tokens: ids(most),
    claimed: fc.boolean(),
    advantage: fc.float({ noNaN: true, noDefaultInfinity: true }),
    reward: fc.float({ min: 0, max: 1, noNaN: true }),
    policyVersion: fc.nat(),
  });
const pack = (rows: number, most: number): fc.Arbitrary<BatchPack> =>
  fc.array(rollout(most), { minLength: 1, maxLength: rows }).map((rollouts) => ({
    header,
    rollouts: rollouts.map(({ claimed, ...rest }) => ({
      ...rest,
      logprobs: claimed ? Float32Array.from(rest.tokens, (_, i) => -i / 7) : new Float32Array(0),
    })),
  }));

test("a pack has the bytes that an independent Parquet writer gives it", () => {
  fc.assert(
    fc.property(pack(12, 60), (batch) => {
      expect(Buffer.compare(encodeBatchPack(batch), independently(batch))).toBe(0);
    }),
  );
});

test("a pack of several pages too", () => {
  const [batch] = fc.sample(pack(40, 40), 1);
  const rollouts = Array.from({ length: 30 }, (_, i) => ({
    ...batch!.rollouts[0]!,
    tokens: new Int32Array(20_000 + i).fill(i),
    logprobs: new Float32Array(i % 3 === 0 ? 0 : 20_000 + i).fill(-i),
  }));
  const large = { header, rollouts: [...batch!.rollouts, ...rollouts] };
  expect(Buffer.compare(encodeBatchPack(large), independently(large))).toBe(0);
});

test("a pack is the same whatever was written before it", () => {
  const batches = fc.sample(pack(6, 40), 20);
  const alone = batches.map(independently);
  for (const order of [batches.keys(), [...batches.keys()].reverse()]) {
    for (const i of order) expect(Buffer.compare(encodeBatchPack(batches[i]!), alone[i]!)).toBe(0);
  }
});

test("a schema in other bytes than ours is read like ours", () => {
  const [batch] = fc.sample(pack(6, 40), 1);
  const ours = encodeBatchPack(batch!);
  const theirs = ours.slice();
  const version = footerStart(ours) + 1;
  expect(theirs[version]).toBe(4);
  theirs[version] = 2;
  expect(decodeBatchPack(theirs)).toEqual(decodeBatchPack(ours));
});

test("a second schema after ours is looked at", () => {
  const [batch] = fc.sample(pack(6, 40), 1);
  const ours = encodeBatchPack(batch!);
  // Field 2 once more: a list of one empty struct, before the end of the footer's struct.
  const second = [0x09, 0x04, 0x1c, 0x00];
  const length = ours.length - 8 - footerStart(ours) + second.length;
  const twice = new Uint8Array(ours.length + second.length);
  twice.set(ours.subarray(0, -9));
  twice.set(second, ours.length - 9);
  twice.set(ours.subarray(-9), ours.length - 9 + second.length);
  new DataView(twice.buffer).setUint32(twice.length - 8, length, true);
  expect(() => decodeBatchPack(twice)).toThrow(PackError);
  expect(() => decodeBatchPack(twice)).toThrow("exactly the columns");
});

function footerStart(bytes: Uint8Array): number {
  return bytes.length - 8 - new DataView(bytes.buffer, bytes.byteOffset).getUint32(bytes.length - 8, true);
}

function independently({ rollouts }: BatchPack): Uint8Array {
  const leaf = (name: string, type: "INT32" | "FLOAT" | "BYTE_ARRAY", text = false): SchemaElement => ({
    name,
    type,
    repetition_type: "REQUIRED",
    ...(text ? { converted_type: "UTF8" as const } : {}),
  });
  const list = (name: string, type: "INT32" | "FLOAT"): SchemaElement[] => [
    { name, repetition_type: "REQUIRED", num_children: 1, converted_type: "LIST" },
    { name: "list", repetition_type: "REPEATED", num_children: 1 },
    leaf("element", type),
  ];
  const writer = new ByteWriter();
  const parquet = new ParquetWriter({
    writer,
    schema: [
      { name: "root", repetition_type: "REQUIRED", num_children: 7 },
      leaf("group", "BYTE_ARRAY", true),
      ...list("prompt", "INT32"),
      ...list("tokens", "INT32"),
      ...list("logprobs", "FLOAT"),
      leaf("advantage", "FLOAT"),
      leaf("reward", "FLOAT"),
      leaf("policyVersion", "INT32"),
    ],
    codec: "UNCOMPRESSED",
    statistics: false,
    createdBy: "muster",
    kvMetadata: [{ key: "muster", value: canonicalJson(header) }],
  });
  const names = ["group", "prompt", "tokens", "logprobs", "advantage", "reward", "policyVersion"] as const;
  void parquet.write({
    columnData: names.map((name) => ({
      name,
      data: rollouts.map((row) => {
        const cell = row[name];
        return typeof cell === "object" ? Array.from(cell) : cell;
      }),
      encoding: "PLAIN" as const,
      offsetIndex: false,
    })),
    rowGroupSize: rollouts.length,
    pageSize: 2 ** 20,
  });
  void parquet.finish();
  return writer.getBytes();
}
