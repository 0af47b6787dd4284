import type pg from "pg";

// Rows by COPY: an INSERT of a million rows takes minutes, COPY seconds. Text format, because it says timestamps and JSON as they are.

/** A value of a row. Arrays become Postgres arrays, other objects JSON; undefined is not a value. */
type Field = string | number | bigint | boolean | null | Date | Uint8Array | object;

export type Loader = {
  /** Adds a row; `columns` of the first row of a table are those of all its rows. */
  add(table: string, row: Readonly<Record<string, Field | undefined>>): void;
  /** Sends what was added, when there is enough of it. The transfer of one load goes on while the next one is made. */
  relieve(): Promise<void>;
  /** Sends everything and waits for it. */
  flush(): Promise<void>;
  /** Rows added, by table. */
  readonly counts: ReadonlyMap<string, number>;
};

/** Characters that are collected before they are sent. */
const loadSize = 24 * 2 ** 20;

type Buffered = { columns: readonly string[]; lines: string[] };

/**
 * Collects rows for many tables and copies them, tables in the order in which they first appeared: whoever adds a row after those it
 * refers to never breaks a foreign key.
 * @param client in a transaction of the caller's, used by nobody else.
 */
export function createLoader(client: pg.ClientBase): Loader {
  const columnsOf = new Map<string, readonly string[]>();
  const counts = new Map<string, number>();
  let buffered = new Map<string, Buffered>();
  let size = 0;
  let sending: Promise<void> = Promise.resolve();

  const send = async (loads: Map<string, Buffered>): Promise<void> => {
    for (const table of columnsOf.keys()) {
      const load = loads.get(table);
      if (load === undefined) continue;
      const columns = load.columns.map((column) => `"${column}"`).join(", ");
      await copyIn(client, `COPY "${table}" (${columns}) FROM STDIN`, load.lines);
    }
  };
  const start = (): void => {
    const loads = buffered;
    buffered = new Map();
    size = 0;
    const before = sending;
    sending = before.then(() => send(loads));
    // Heard by whoever waits for it next.
    sending.catch(() => {});
  };

  return {
    counts,
    add(table, row) {
      let load = buffered.get(table);
      if (load === undefined) {
        const columns = columnsOf.get(table) ?? Object.keys(row);
        columnsOf.set(table, columns);
        load = { columns, lines: [] };
        buffered.set(table, load);
      }
      let line = "";
      for (const column of load.columns) {
        const value = row[column];
        if (value === undefined) throw new TypeError(`A row of "${table}" has no ${column}.`);
        line += line === "" ? fieldText(value) : `\t${fieldText(value)}`;
      }
      load.lines.push(`${line}\n`);
      size += line.length;
      counts.set(table, (counts.get(table) ?? 0) + 1);
    },
    async relieve() {
      if (size < loadSize) return;
      // One load under way and one being made are enough memory.
      await sending;
      start();
    },
    async flush() {
      start();
      await sending;
    },
  };
}

function fieldText(value: Field): string {
  switch (typeof value) {
    case "string":
      return escaped(value);
    case "number":
    case "bigint":
      return String(value);
    case "boolean":
      return value ? "t" : "f";
    default:
      if (value === null) return "\\N";
      if (value instanceof Date) return value.toISOString();
      if (value instanceof Uint8Array) return `\\\\x${Buffer.from(value).toString("hex")}`;
      // Ids, names and numbers without commas or quotes: all that arrays of ours hold.
      if (Array.isArray(value) && value.every((one) => typeof one !== "object"))
        return `{${value.join(",")}}`;
      return escaped(JSON.stringify(value));
  }
}

function escaped(text: string): string {
  if (!/[\\\t\n\r]/.test(text)) return text;
  return text
    .replaceAll("\\", "\\\\")
    .replaceAll("\t", "\\t")
    .replaceAll("\n", "\\n")
    .replaceAll("\r", "\\r");
}

// What pg does for whoever brings a query of his own; its types leave COPY out.
type CopyConnection = pg.Connection & {
  sendCopyFromChunk(chunk: Buffer): void;
  endCopyFrom(): void;
};

/** Lines in one message: some hundred kilobytes. */
const linesPerChunk = 1_000;

function copyIn(client: pg.ClientBase, text: string, lines: readonly string[]): Promise<void> {
  return new Promise((resolve, reject) => {
    let failure: Error | undefined;
    client.query({
      submit(connection: pg.Connection) {
        connection.query(text);
      },
      handleCopyInResponse(connection: CopyConnection) {
        for (let at = 0; at < lines.length; at += linesPerChunk)
          connection.sendCopyFromChunk(Buffer.from(lines.slice(at, at + linesPerChunk).join("")));
        connection.endCopyFrom();
      },
      handleCommandComplete() {},
      handleReadyForQuery() {
        if (failure === undefined) resolve();
        else reject(failure);
      },
      handleError(error: Error) {
        failure = new Error(`${text.slice(0, 200)}: ${error.message}`, { cause: error });
        // The server answers an error in a COPY with one more message, unless the connection is gone.
        reject(failure);
      },
    } as pg.Submittable);
  });
}
