import { createHash } from "node:crypto";

/** A tensor of a safetensors file; `offset` and `size` in bytes from the file's first. */
export type ScannedTensor = {
  readonly name: string;
  readonly dtype: "F32" | "F16" | "BF16" | "I64";
  readonly shape: readonly number[];
  readonly offset: number;
  readonly size: number;
};

/** Why a file is not what it should be, in a sentence for whoever sent it. */
export class UnsoundFile extends Error {
  override readonly name = "UnsoundFile";
}

const widths = { F32: 4, F16: 2, BF16: 2, I64: 8 } as const;
/** A float whose exponent bits are all ones is infinite or NaN. */
const exponents = { F32: 0x7f80_0000, F16: 0x7c00, BF16: 0x7f80 } as const;
const mostHeaderBytes = 16 * 2 ** 20;

/**
 * Reads a safetensors file as it streams by: its tensors and its SHA-256. Strict: tensors without holes or overlaps, nothing left over,
 * every float finite. Holds no more than the header and one chunk, whatever the size of the model.
 * @throws UnsoundFile
 */
export async function scanSafetensors(
  chunks: AsyncIterable<Uint8Array>,
): Promise<{ tensors: ScannedTensor[]; sha256: string; size: number }> {
  const hash = createHash("sha256");
  let size = 0;
  let head: Uint8Array = new Uint8Array();
  let body: Body | undefined;
  for await (const chunk of chunks) {
    hash.update(chunk);
    size += chunk.length;
    if (body !== undefined) {
      body.push(chunk);
      continue;
    }
    head = joined(head, chunk);
    const end = headerEnd(head);
    if (end === undefined || head.length < end) continue;
    body = new Body(readHeader(head.subarray(8, end), end));
    body.push(head.subarray(end));
  }
  if (body === undefined) throw new UnsoundFile(`The file ends after ${size} bytes, inside its header.`);
  return { tensors: body.finish(), sha256: hash.digest("hex"), size };
}

class Body {
  readonly #tensors: ScannedTensor[];
  #at = 0;
  #done = 0;
  #carry: Uint8Array = new Uint8Array();

  constructor(tensors: ScannedTensor[]) {
    this.#tensors = tensors;
    this.#skipEmpty();
  }

  push(data: Uint8Array): void {
    let rest = data;
    while (rest.length > 0) {
      const tensor = this.#tensors[this.#at];
      if (tensor === undefined) throw new UnsoundFile(`${rest.length} bytes follow the last tensor.`);
      const part = rest.subarray(0, tensor.size - this.#done);
      this.#scan(tensor, part);
      this.#done += part.length;
      rest = rest.subarray(part.length);
      if (this.#done < tensor.size) continue;
      this.#at++;
      this.#done = 0;
      this.#skipEmpty();
    }
  }

  finish(): ScannedTensor[] {
    const cut = this.#tensors[this.#at];
    if (cut !== undefined) throw new UnsoundFile(`The file ends inside ${cut.name}.`);
    return this.#tensors;
  }

  #skipEmpty(): void {
    while (this.#tensors[this.#at]?.size === 0) this.#at++;
  }

  #scan(tensor: ScannedTensor, part: Uint8Array): void {
    if (tensor.dtype === "I64") return;
    const bytes = joined(this.#carry, part);
    const width = widths[tensor.dtype];
    const whole = bytes.length - (bytes.length % width);
    this.#carry = bytes.slice(whole);
    // A chunk may begin at any address; typed arrays need theirs aligned.
    const aligned = new Uint8Array(whole);
    aligned.set(bytes.subarray(0, whole));
    const values = width === 4 ? new Uint32Array(aligned.buffer) : new Uint16Array(aligned.buffer);
    const mask = exponents[tensor.dtype];
    for (let i = 0; i < values.length; i++) {
      if (((values[i] ?? 0) & mask) === mask)
        throw new UnsoundFile(`${tensor.name} holds a value that is not finite.`);
    }
  }
}

function headerEnd(head: Uint8Array): number | undefined {
  if (head.length < 8) return undefined;
  const length = new DataView(head.buffer, head.byteOffset).getBigUint64(0, true);
  if (length > mostHeaderBytes)
    throw new UnsoundFile(`Its header claims ${length} bytes; at most ${mostHeaderBytes} are read.`);
  return 8 + Number(length);
}

function readHeader(bytes: Uint8Array, start: number): ScannedTensor[] {
  let header: unknown;
  try {
    header = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch {
    throw new UnsoundFile("Its header is not JSON.");
  }
  if (typeof header !== "object" || header === null || Array.isArray(header))
    throw new UnsoundFile("Its header is not a JSON object.");
  const tensors = Object.entries(header)
    .filter(([name]) => name !== "__metadata__")
    .map(([name, entry]) => tensorOf(name, entry, start))
    .sort((a, b) => a.offset - b.offset || a.size - b.size);
  let end = start;
  for (const tensor of tensors) {
    if (tensor.offset !== end)
      throw new UnsoundFile(
        `${tensor.name} starts at byte ${tensor.offset}; what comes before ends at ${end}.`,
      );
    end += tensor.size;
  }
  return tensors;
}

function tensorOf(name: string, entry: unknown, start: number): ScannedTensor {
  if (typeof entry !== "object" || entry === null) throw new UnsoundFile(`${name} is not described.`);
  const {
    dtype,
    shape,
    data_offsets: offsets,
  } = entry as { dtype?: unknown; shape?: unknown; data_offsets?: unknown };
  if (typeof dtype !== "string" || !isDtype(dtype))
    throw new UnsoundFile(`${name} has a type that is not read here; use F32, F16 or BF16.`);
  if (!isCounts(shape) || !isCounts(offsets)) throw new UnsoundFile(`${name} has no proper shape and place.`);
  const [from = 0, to = 0] = offsets;
  const size = shape.reduce((product, n) => product * n, widths[dtype]);
  if (offsets.length !== 2 || to - from !== size)
    throw new UnsoundFile(`${name} needs ${size} bytes and is given ${to - from}.`);
  return { name, dtype, shape, offset: start + from, size };
}

function isDtype(dtype: string): dtype is ScannedTensor["dtype"] {
  return Object.hasOwn(widths, dtype);
}

function isCounts(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((n) => Number.isSafeInteger(n) && n >= 0);
}

function joined(a: Uint8Array, b: Uint8Array): Uint8Array {
  if (a.length === 0) return b;
  const both = new Uint8Array(a.length + b.length);
  both.set(a);
  both.set(b, a.length);
  return both;
}
