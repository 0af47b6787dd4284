// Ways to make a small Parquet file claim to be a large one. Parquet's footer and page headers are Thrift's compact protocol: a byte
// of field and type, then a variable-length integer.

/** 2^31 − 1 and 2^40, each zigzag-encoded as a variable-length integer. */
const [billions, trillions] = [
  [0xfe, 0xff, 0xff, 0xff, 0x0f],
  [0x80, 0x80, 0x80, 0x80, 0x80, 0x40],
];

/** Each turns a sound file into one that declares far more than it holds. */
export const bombs: readonly ((file: Uint8Array) => Uint8Array)[] = [
  // more rows than fit into any memory
  (file) => withFooter(file, (footer) => grown(footer, rowsField(footer), trillions)),
  // a list of two billion columns, of which none follows
  (file) => withFooter(file, () => [0x15, 0x04, 0x19, 0xfc, 0xff, 0xff, 0xff, 0xff, 0x07]),
  // the first page holds two billion values
  (file) => {
    const bytes = [...file];
    // magic, then the page header: type, size twice (i32), then the struct whose first field is the number of values
    const at = 4 + [0, 1, 2].reduce((end) => end + 1 + lengthOfVarint(bytes, 4 + end + 1), 0);
    return Uint8Array.from(grown(bytes, at + 2, billions));
  },
];

function withFooter(file: Uint8Array, change: (footer: number[]) => number[]): Uint8Array {
  const size = new DataView(file.buffer, file.byteOffset).getUint32(file.length - 8, true);
  const start = file.length - 8 - size;
  const footer = change([...file.subarray(start, start + size)]);
  const end = new Uint8Array(8);
  new DataView(end.buffer).setUint32(0, footer.length, true);
  end.set(file.subarray(file.length - 4), 4);
  return Uint8Array.from([...file.subarray(0, start), ...footer, ...end]);
}

/** Where the number of rows stands: an i64 in the field after the schema, before the list of row groups. */
function rowsField(footer: readonly number[]): number {
  for (let at = 0; at < footer.length; at++) {
    if (footer[at] === 0x16 && footer[at + 1 + lengthOfVarint(footer, at + 1)] === 0x19) return at + 1;
  }
  throw new Error("The footer names no rows.");
}

/** The variable-length integer at `at` replaced by another. */
function grown(bytes: readonly number[], at: number, varint: readonly number[]): number[] {
  return [...bytes.slice(0, at), ...varint, ...bytes.slice(at + lengthOfVarint(bytes, at))];
}

function lengthOfVarint(bytes: readonly number[], at: number): number {
  let length = 1;
  while (((bytes[at + length - 1] ?? 0) & 0x80) !== 0) length++;
  return length;
}
