import { ApiError } from "./api-error.ts";

/** Waits between attempts: full jitter, so that a thousand workers do not come back in one wave. */
export type BackOff = {
  /** Milliseconds of the first wait's upper bound; it doubles from there. */
  first: number;
  /** Milliseconds no wait exceeds. */
  most: number;
};

/** Milliseconds to wait before attempt `n` (0-based) is repeated: uniform in (0, first · 2^n], at most `most`. */
export function fullJitter(n: number, { first, most }: BackOff): number {
  return Math.ceil(Math.random() * Math.min(most, first * 2 ** Math.min(n, 30)));
}

/**
 * Milliseconds to wait before attempt `n` (0-based), which ended with `error`, is repeated: {@link fullJitter}, on top of the time the
 * coordinator asked for, if it did; of that an hour at most.
 */
export function retryDelay(error: unknown, n: number, backOff: BackOff): number {
  const told = error instanceof ApiError ? (error.retryAfterSeconds ?? 0) : 0;
  return Math.min(told, 3_600) * 1_000 + fullJitter(n, backOff);
}

/** Resolves after `ms`, or at once when the signal aborts; it never rejects. */
export function pause(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal?.aborted === true) return resolve();
    const done = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal?.addEventListener("abort", done, { once: true });
  });
}
