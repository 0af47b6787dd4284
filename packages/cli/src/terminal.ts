// Where output goes. Data is on stdout, everything said about it on stderr; with --json stdout holds JSON only.
import { stripVTControlCharacters } from "node:util";

export type Terminal = {
  readonly json: boolean;
  /** Something for people, on stdout; nothing with --json. */
  say(text: string): void;
  /** A JSON document on one line of stdout; only with --json. */
  value(value: unknown): void;
  /** Something said about the work, on stderr. */
  note(text: string): void;
  /**
   * The line that shows how far the work is: rewritten in place where people watch, else a new line when it has changed, at most
   * every five seconds. Nothing with --json.
   */
  status(text: string): void;
  /** From here on a reader that leaves ends nothing: whoever serves stops in order, also when nobody hears of it. */
  outlive(): void;
};

/** Milliseconds between two status lines where a line cannot be rewritten. */
const PLAIN_STATUS_EVERY = 5_000;
const CLEAR_LINE = "\r\x1b[2K";

export function openTerminal({ json }: { json: boolean }): Terminal {
  const { stdout, stderr } = process;
  let needed = true;
  // `muster … | head` closes the pipe early; that is no failure.
  stdout.on("error", (error: NodeJS.ErrnoException) => {
    if (error.code === "EPIPE" && needed) process.exit(0);
  });
  // a terminal that was closed
  stderr.on("error", () => {});
  const rewrites = stdout.isTTY === true && process.env.TERM !== "dumb";
  let shown = "";
  let last = "";
  let lastAt = Number.NEGATIVE_INFINITY;

  const above = (write: () => void) => {
    if (shown !== "") stdout.write(CLEAR_LINE);
    write();
    if (shown !== "") stdout.write(shown);
  };
  return {
    json,
    say: (text) => {
      if (!json) above(() => stdout.write(`${text}\n`));
    },
    value: (value) => {
      if (json) stdout.write(`${JSON.stringify(value)}\n`);
    },
    outlive: () => {
      needed = false;
    },
    note: (text) => above(() => stderr.write(`${text}\n`)),
    status: (text) => {
      if (json) return;
      if (rewrites) {
        // A line longer than the window would wrap, and only its last part would be rewritten.
        shown = text.slice(0, Math.max(20, (stdout.columns ?? 80) - 1));
        stdout.write(CLEAR_LINE + shown);
        return;
      }
      const now = performance.now();
      if (text === "" || text === last || now - lastAt < PLAIN_STATUS_EVERY) return;
      last = text;
      lastAt = now;
      stdout.write(`${text}\n`);
    },
  };
}

/** Text that came from elsewhere, without what would move the cursor or forge a line. */
export function printable(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
  return stripVTControlCharacters(text).replace(/[\u0000-\u001f\u007f-\u009f]/g, " ");
}

/** Rows as columns, aligned; numbers to the right. */
export function table(head: readonly string[], rows: readonly (readonly (string | number)[])[]): string {
  const cells = [head, ...rows.map((row) => row.map((cell) => printable(String(cell))))];
  const widths = head.map((_, i) => Math.max(...cells.map((row) => row[i]?.length ?? 0)));
  const right = head.map((_, i) => rows.length > 0 && rows.every((row) => typeof row[i] === "number"));
  return cells
    .map((row) =>
      row
        .map((cell, i) => (right[i] ? cell.padStart(widths[i] ?? 0) : cell.padEnd(widths[i] ?? 0)))
        .join("  ")
        .trimEnd(),
    )
    .join("\n");
}
