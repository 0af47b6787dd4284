import { createHash } from "node:crypto";

/** Seeded randomness: the same seed gives the same draws on every machine. */
export type Random = {
  /** Uniform in [0, 1). */
  next(): number;
  /** Whether something of this probability happens. */
  chance(probability: number): boolean;
  /** A whole number from `low` to `high`, both included. */
  between(low: number, high: number): number;
  pick<T>(list: readonly T[]): T;
  /** Standard normal. */
  normal(): number;
  /** `bytes` random bytes in hexadecimal. */
  hex(bytes: number): string;
  /** A UUIDv7 of this moment (milliseconds since 1970): ids made later sort later, those of one millisecond as they come. */
  uuid(at: number): string;
  /** A stream of its own that follows from this seed and the name alone, whatever was drawn before. */
  fork(name: string): Random;
};

/** Draws by Chris Doty-Humphrey's sfc32, seeded with a hash of the name. */
export function randomOf(seed: string): Random {
  const key = createHash("sha256").update(`muster/simulate/v1\0${seed}`).digest();
  let [a, b, c] = [key.readInt32LE(0), key.readInt32LE(4), key.readInt32LE(8)];
  let counter = 1;
  let lastMs = 0;
  let sequence = 0;

  const word = (): number => {
    const sum = (((a + b) | 0) + counter) | 0;
    counter = (counter + 1) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = (((c << 21) | (c >>> 11)) + sum) | 0;
    return sum >>> 0;
  };
  for (let i = 0; i < 12; i++) word();
  const next = (): number => word() / 2 ** 32;
  const hexWord = (): string => word().toString(16).padStart(8, "0");

  return {
    next,
    chance: (probability) => next() < probability,
    between: (low, high) => low + Math.floor(next() * (high - low + 1)),
    pick<T>(list: readonly T[]): T {
      const found = list[Math.floor(next() * list.length)];
      if (found === undefined) throw new RangeError("nothing to pick from");
      return found;
    },
    normal: () => Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next()),
    hex(bytes) {
      let text = "";
      while (text.length < 2 * bytes) text += hexWord();
      return text.slice(0, 2 * bytes);
    },
    uuid(at) {
      // Twelve bits that count within a millisecond, so that rows made together keep their order.
      const ms = Math.floor(at);
      sequence = ms === lastMs ? (sequence + 1) & 0xfff : 0;
      lastMs = ms;
      const time = ms.toString(16).padStart(12, "0");
      const variant = ((word() & 0x3fff) | 0x8000).toString(16);
      return `${time.slice(0, 8)}-${time.slice(8)}-7${sequence.toString(16).padStart(3, "0")}-${variant}-${hexWord()}${hexWord().slice(4)}`;
    },
    fork: (name) => randomOf(`${seed}/${name}`),
  };
}

/** SHA-256 of a text in hexadecimal: names for packs that retention has deleted. */
export function sha256Of(text: string): string {
  return createHash("sha256").update(text).digest("hex");
}
