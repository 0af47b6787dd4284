import { createHash } from "node:crypto";
import { encodeSafetensors } from "@muster/policy/graph";
import { describe, expect, test } from "vitest";
import { scanSafetensors } from "../src/training/safetensors.ts";

describe("reading weights as they stream by", () => {
  const values = Float32Array.from({ length: 50 }, (_, i) => i / 7);
  const bytes = (array: Float32Array | Uint16Array | BigInt64Array) => new Uint8Array(array.buffer);
  const file = () =>
    encodeSafetensors([
      { name: "a", dtype: "F32", shape: [5, 10], data: bytes(values.slice()) },
      { name: "empty", dtype: "F32", shape: [0], data: new Uint8Array() },
      { name: "b", dtype: "BF16", shape: [3], data: bytes(Uint16Array.of(1, 2, 3)) },
      { name: "t", dtype: "I64", shape: [1], data: bytes(BigInt64Array.of(-1n)) },
    ]);
  async function* cut(data: Uint8Array, size: number) {
    for (let at = 0; at < data.length; at += size) yield data.subarray(at, at + size);
  }

  test("the same whatever the chunks", async () => {
    const { bytes: whole, places } = file();
    for (const size of [1, 3, 7, 64, 1e6]) {
      const scanned = await scanSafetensors(cut(whole, size));
      expect(scanned.tensors).toEqual(places);
      expect(scanned.sha256).toBe(createHash("sha256").update(whole).digest("hex"));
    }
  });

  test("finds a value that is not finite wherever a chunk is cut", async () => {
    const { bytes: whole, places } = file();
    const [a, , b] = places;
    const broken = whole.slice();
    new DataView(broken.buffer).setFloat32((a?.offset ?? 0) + 4 * 31, Number.NEGATIVE_INFINITY, true);
    const half = whole.slice();
    new DataView(half.buffer).setUint16((b?.offset ?? 0) + 2, 0x7fc0, true);
    for (const size of [1, 2, 3, 5, 1000]) {
      await expect(scanSafetensors(cut(broken, size))).rejects.toThrow("a holds a value that is not finite");
      await expect(scanSafetensors(cut(half, size))).rejects.toThrow("b holds a value that is not finite");
    }
  });

  test("refuses what is cut off, too long, or has holes", async () => {
    const { bytes: whole } = file();
    await expect(scanSafetensors(cut(whole.subarray(0, -1), 9))).rejects.toThrow("ends inside t");
    await expect(scanSafetensors(cut(whole.subarray(0, 20), 9))).rejects.toThrow("inside its header");
    await expect(scanSafetensors(cut(Uint8Array.of(...whole, 0), 9))).rejects.toThrow("1 bytes follow");
    await expect(scanSafetensors(cut(new Uint8Array(64).fill(255), 9))).rejects.toThrow("header claims");
    const text = JSON.stringify({ a: { dtype: "F32", shape: [1], data_offsets: [4, 8] } });
    const holed = new Uint8Array(8 + text.length + 8);
    new DataView(holed.buffer).setBigUint64(0, BigInt(text.length), true);
    holed.set(new TextEncoder().encode(text), 8);
    await expect(scanSafetensors(cut(holed, 9))).rejects.toThrow("what comes before ends at");
  });
});
