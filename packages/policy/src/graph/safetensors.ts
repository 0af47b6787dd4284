/** The safetensors container (https://github.com/huggingface/safetensors): u64 LE length, JSON header padded to 8 bytes, data. */

export type SafetensorsErrorCode = "TRUNCATED" | "BAD_HEADER" | "BAD_LAYOUT" | "UNSUPPORTED_DTYPE";

/** The bytes are not a well-formed safetensors file. */
export class SafetensorsError extends Error {
  override readonly name = "SafetensorsError";
  readonly code: SafetensorsErrorCode;

  constructor(code: SafetensorsErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}

/** Element types read here, with their size in bytes. */
const sizes = { F32: 4, BF16: 2, F16: 2, I64: 8 } as const;
export type SafetensorsType = keyof typeof sizes;

/** A tensor of a file; `data` is its bytes, little-endian, row-major. */
export type StoredTensor = {
  name: string;
  dtype: SafetensorsType;
  shape: readonly number[];
  data: Uint8Array;
};

/** Where a tensor lies in a file, in bytes from the file's first. */
export type TensorPlace = {
  name: string;
  dtype: SafetensorsType;
  shape: readonly number[];
  offset: number;
  size: number;
};

/** Tensors back to back in the order given. Same tensors, same bytes. */
export function encodeSafetensors(
  tensors: readonly StoredTensor[],
  metadata: Readonly<Record<string, string>> = {},
): { bytes: Uint8Array; places: TensorPlace[] } {
  const header: Record<string, unknown> = Object.keys(metadata).length > 0 ? { __metadata__: metadata } : {};
  let end = 0;
  for (const { name, dtype, shape, data } of tensors) {
    header[name] = { dtype, shape, data_offsets: [end, end + data.length] };
    end += data.length;
  }
  const json = JSON.stringify(header);
  const text = new TextEncoder().encode(
    json + " ".repeat((8 - (new TextEncoder().encode(json).length % 8)) % 8),
  );
  const start = 8 + text.length;
  const bytes = new Uint8Array(start + end);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(text.length), true);
  bytes.set(text, 8);
  let offset = start;
  const places = tensors.map(({ name, dtype, shape, data }) => {
    bytes.set(data, offset);
    const place = { name, dtype, shape, offset, size: data.length };
    offset += data.length;
    return place;
  });
  return { bytes, places };
}

/** Larger headers are refused before they are parsed; the reference implementation has the same limit. */
const MAX_HEADER_BYTES = 100_000_000;

/**
 * The tensors of a file, in order of their data; `data` are views of `bytes`. Strict: no holes, no overlaps, nothing left over.
 * @throws SafetensorsError
 */
export function decodeSafetensors(bytes: Uint8Array): {
  tensors: StoredTensor[];
  metadata: Record<string, string>;
} {
  if (bytes.length < 8)
    throw new SafetensorsError("TRUNCATED", `The file has ${bytes.length} bytes; a header starts with 8.`);
  const length = Number(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true));
  if (length > MAX_HEADER_BYTES || 8 + length > bytes.length) {
    throw new SafetensorsError(
      "TRUNCATED",
      `The header claims ${length} bytes; the file has ${bytes.length}.`,
    );
  }
  const header = parseHeader(bytes.subarray(8, 8 + length));
  const data = bytes.subarray(8 + length);
  const metadata: Record<string, string> = {};
  const found: (StoredTensor & { start: number })[] = [];
  for (const [name, entry] of Object.entries(header)) {
    if (!isObject(entry)) throw new SafetensorsError("BAD_HEADER", `The header's ${name} is not an object.`);
    if (name !== "__metadata__") {
      found.push(tensorOf(name, entry, data));
      continue;
    }
    for (const [key, value] of Object.entries(entry)) metadata[key] = String(value);
  }
  found.sort((a, b) => a.start - b.start || a.data.length - b.data.length);
  let end = 0;
  for (const { name, start, data: part } of found) {
    if (start !== end)
      throw new SafetensorsError(
        "BAD_LAYOUT",
        `${name} starts at ${start}; the data before it ends at ${end}.`,
      );
    end += part.length;
  }
  if (end !== data.length) {
    throw new SafetensorsError(
      "BAD_LAYOUT",
      `The tensors end at ${end}; the file's data has ${data.length} bytes.`,
    );
  }
  return { tensors: found.map(({ start: _, ...tensor }) => tensor), metadata };
}

function parseHeader(bytes: Uint8Array): Record<string, unknown> {
  let header: unknown;
  try {
    header = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (cause) {
    throw new SafetensorsError("BAD_HEADER", "The header is not JSON in UTF-8.", { cause });
  }
  if (!isObject(header)) throw new SafetensorsError("BAD_HEADER", "The header is not a JSON object.");
  return header;
}

function tensorOf(
  name: string,
  entry: Record<string, unknown>,
  data: Uint8Array,
): StoredTensor & { start: number } {
  const { dtype, shape, data_offsets: offsets } = entry;
  if (!isType(dtype)) {
    throw new SafetensorsError(
      "UNSUPPORTED_DTYPE",
      `${name} has dtype ${String(dtype)}; give ${Object.keys(sizes).join(", ")}.`,
    );
  }
  if (!isCounts(shape) || !isCounts(offsets) || offsets.length !== 2) {
    throw new SafetensorsError(
      "BAD_HEADER",
      `The header's shape or data_offsets of ${name} are not lists of whole numbers.`,
    );
  }
  const [start, end] = [offsets[0]!, offsets[1]!];
  const wanted = shape.reduce((product, dimension) => product * dimension, 1) * sizes[dtype];
  if (end - start !== wanted || end > data.length) {
    throw new SafetensorsError(
      "BAD_LAYOUT",
      `${name} ([${shape}], ${dtype}) needs ${wanted} bytes; it is given ${start}…${end} of ${data.length}.`,
    );
  }
  return { name, dtype, shape, start, data: data.subarray(start, end) };
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isType(value: unknown): value is SafetensorsType {
  return typeof value === "string" && Object.hasOwn(sizes, value);
}

function isCounts(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((item) => Number.isSafeInteger(item) && item >= 0);
}
