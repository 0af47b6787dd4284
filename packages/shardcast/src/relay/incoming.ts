import { createHash } from "node:crypto";
import { type FileHandle, mkdir, open, rename, rm } from "node:fs/promises";
import { dirname } from "node:path";
import { type BlobReader, type ByteRange, givePieces, PIECE_BYTES, takePiece } from "../serve.ts";

/**
 * Bytes at the end of an answer that nobody is given before the shard's hash was checked. What this relay completes, be it a part of a
 * shard, is therefore right, and whoever completes something wrong lied.
 */
export const WITHHELD_BYTES = 64 * 1024;

// What arrives is written, and can be read by others, when it is this much; or this much less, but some time later; or long later in any
// case. Small pieces cost much processor time, and every relay on the way adds the wait.
const FLUSH_BYTES = PIECE_BYTES;
const LESS_BYTES = 32 * 1024;
const LESS_MS = 25;
const FLUSH_MS = 200;
const MOST_UNWRITTEN_BYTES = 1024 * 1024;

/** A shard on its way: a file that grows, its hash so far, and those who read after it. */
export class Incoming {
  readonly sha256: string;
  readonly size: number;
  /** Bytes that arrived. */
  received = 0;
  /** Answers its bytes came from; of several, none alone is to blame when the hash is wrong. */
  answers = 0;

  readonly #draft: string;
  readonly #path: string;
  readonly #file: FileHandle;
  readonly #hash = createHash("sha256");
  /** Where the next bytes go, and how much of it is full. */
  #filling: Buffer | undefined;
  #filled = 0;
  #unwritten: Part[] = [];
  #unwrittenBytes = 0;
  #written = 0;
  #writing: Promise<void> | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #state: "receiving" | "verified" | "failed" = "receiving";
  #failure: unknown;
  #waiting: (() => void)[] = [];

  /** @param files.draft where it is written, @param files.path where it belongs; both on one file system. */
  static async begin(shard: { sha256: string; size: number }, files: { draft: string; path: string }) {
    return new Incoming(shard, files, await open(files.draft, "wx"));
  }

  private constructor(
    shard: { sha256: string; size: number },
    files: { draft: string; path: string },
    file: FileHandle,
  ) {
    this.sha256 = shard.sha256;
    this.size = shard.size;
    this.#draft = files.draft;
    this.#path = files.path;
    this.#file = file;
  }

  /**
   * Takes the next bytes, which may change after the call.
   * @returns what to wait for before giving more, if the disk is behind.
   * @throws what the disk throws, for example ENOSPC
   */
  append(bytes: Uint8Array): Promise<void> | undefined {
    if (this.#failure !== undefined) throw this.#failure;
    if (this.#state !== "receiving") throw new Error(`Shard ${this.sha256} is complete.`);
    if (this.received + bytes.length > this.size)
      throw new RangeError(`Shard ${this.sha256} has more bytes.`);
    this.received += bytes.length;
    this.#unwrittenBytes += bytes.length;
    this.#hash.update(bytes);
    for (let at = 0; at < bytes.length; ) at += this.#keep(bytes.subarray(at));
    this.#schedule();
    return this.#unwrittenBytes > MOST_UNWRITTEN_BYTES ? this.#caughtUp() : undefined;
  }

  /** Copies as many as there is room for into the buffer that is being filled. */
  #keep(bytes: Uint8Array): number {
    if (this.#filling === undefined || this.#filled === PIECE_BYTES) {
      this.#filling = takePiece();
      this.#filled = 0;
    }
    const piece = this.#filling;
    const count = Math.min(bytes.length, PIECE_BYTES - this.#filled);
    piece.set(count === bytes.length ? bytes : bytes.subarray(0, count), this.#filled);
    const last = this.#unwritten.at(-1);
    if (last?.piece === piece) last.to += count;
    else this.#unwritten.push({ piece, from: this.#filled, to: this.#filled + count });
    this.#filled += count;
    return count;
  }

  async #caughtUp(): Promise<void> {
    while (this.#unwrittenBytes > MOST_UNWRITTEN_BYTES) await this.#flush();
  }

  /**
   * Ends it: when the hash is right the shard is in its place and the readers get the rest, else nothing of it stays and they are cut off.
   * @throws what the disk throws.
   */
  async finish(): Promise<boolean> {
    while (this.#unwrittenBytes > 0 || this.#writing !== undefined) await this.#flush();
    if (this.#state !== "receiving") throw this.#failure;
    if (this.received !== this.size || this.#hash.digest("hex") !== this.sha256) {
      await this.fail(new Error(`What arrived as shard ${this.sha256} has another hash.`));
      return false;
    }
    if (this.#filling && this.#filled < PIECE_BYTES) givePieces([this.#filling]);
    this.#filling = undefined;
    await this.#file.close();
    await mkdir(dirname(this.#path), { recursive: true });
    await rename(this.#draft, this.#path);
    this.#state = "verified";
    this.#changed();
    return true;
  }

  /** Gives it up: what is there of it goes, and so do its readers. */
  async fail(cause: unknown): Promise<void> {
    if (this.#state !== "receiving") return;
    this.#state = "failed";
    this.#failure ??= cause;
    clearTimeout(this.#timer);
    this.#unwritten = [];
    this.#unwrittenBytes = 0;
    this.#changed();
    await this.#writing?.catch(() => {});
    await this.#file.close().catch(() => {});
    await rm(this.#draft, { force: true }).catch(() => {});
  }

  /** Reads a range as it arrives. */
  async follow({ start, end }: ByteRange): Promise<BlobReader> {
    if (this.#state === "failed") throw this.#failure;
    const path = this.#state === "verified" ? this.#path : this.#draft;
    // its own handle: it stays valid when the file is moved into its place
    const file = await open(path).catch(() => open(this.#path));
    let position = start;
    let closed = false;
    let closing: Promise<void> | undefined;
    return {
      read: async (into) => {
        for (;;) {
          if (closed) throw new Error("The reader was closed.");
          if (this.#state === "failed") throw this.#failure;
          const there = this.#openUpTo(end + 1) - position;
          if (there > 0) {
            const { bytesRead } = await file.read(into, 0, Math.min(there, into.length), position);
            if (bytesRead === 0) throw new Error(`Shard ${this.sha256} is shorter on the disk than it was.`);
            position += bytesRead;
            return bytesRead;
          }
          await new Promise<void>((resolve) => {
            this.#waiting.push(resolve);
          });
        }
      },
      close: async () => {
        closed = true;
        this.#changed();
        closing ??= file.close();
        await closing;
      },
    };
  }

  /** Where the bytes end that may be given away of an answer that ends there. */
  #openUpTo(end: number): number {
    return this.#state === "verified" ? end : Math.min(this.#written, end - WITHHELD_BYTES);
  }

  #flush(): Promise<void> {
    this.#writing ??= this.#write().finally(() => {
      this.#writing = undefined;
      this.#schedule();
    });
    return this.#writing;
  }

  /** Sees to it that what has gathered is written: at once when it is enough, else soon. */
  #schedule(): void {
    if (this.#unwrittenBytes === 0 || this.#writing || this.#failure !== undefined) return;
    if (this.#unwrittenBytes >= FLUSH_BYTES) this.#flushSoon();
    else this.#timer ??= setTimeout(() => this.#later(LESS_MS), LESS_MS);
  }

  #later(waited: number): void {
    this.#timer = undefined;
    if (this.#unwrittenBytes >= LESS_BYTES || waited >= FLUSH_MS) this.#flushSoon();
    else this.#timer = setTimeout(() => this.#later(waited + LESS_MS), LESS_MS);
  }

  /** Its failure is kept for whoever appends or finishes. */
  #flushSoon(): void {
    void this.#flush().catch(() => {});
  }

  async #write(): Promise<void> {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    if (this.#failure !== undefined) throw this.#failure;
    const parts = this.#unwritten;
    const bytes = this.#unwrittenBytes;
    this.#unwritten = [];
    try {
      await writeAll(
        this.#file,
        parts.map(({ piece, from, to }) => piece.subarray(from, to)),
        this.#written,
      );
    } catch (cause) {
      this.#failure = cause;
      throw cause;
    }
    givePieces(parts.flatMap(({ piece, to }) => (to === PIECE_BYTES ? [piece] : [])));
    this.#written += bytes;
    this.#unwrittenBytes -= bytes;
    this.#changed();
  }

  #changed(): void {
    for (const resolve of this.#waiting.splice(0)) resolve();
  }
}

/** Bytes of a buffer that are to be written; the buffer may be filled further behind them. */
type Part = { piece: Buffer; from: number; to: number };

async function writeAll(file: FileHandle, pieces: readonly Uint8Array[], position: number): Promise<void> {
  let left = pieces;
  let at = position;
  while (left.length > 0) {
    const { bytesWritten } = await file.writev(left, at);
    at += bytesWritten;
    left = after(left, bytesWritten);
  }
}

/** What remains of the pieces without their first `count` bytes. */
function after(pieces: readonly Uint8Array[], count: number): Uint8Array[] {
  let skip = count;
  return pieces.flatMap((piece) => {
    const rest = piece.subarray(Math.min(skip, piece.length));
    skip -= piece.length - rest.length;
    return rest.length > 0 ? [rest] : [];
  });
}
