/**
 * Lets several callers wait for one piece of work. It is aborted when the last of them has gone, and one that goes first does not disturb
 * the others.
 */
export function share<T>(): (
  key: string,
  start: (signal: AbortSignal) => Promise<T>,
  signal?: AbortSignal,
) => Promise<T> {
  type Work = { promise: Promise<T>; abort: AbortController; waiting: number };
  const running = new Map<string, Work>();

  function begin(key: string, start: (signal: AbortSignal) => Promise<T>): Work {
    const abort = new AbortController();
    const work: Work = { abort, waiting: 0, promise: start(abort.signal) };
    running.set(key, work);
    return work;
  }

  return async (key, start, signal) => {
    signal?.throwIfAborted();
    const work = running.get(key) ?? begin(key, start);
    work.waiting++;
    try {
      return await unlessAborted(work.promise, signal);
    } finally {
      if (--work.waiting === 0) {
        if (running.get(key) === work) running.delete(key);
        work.abort.abort(signal?.reason);
        // what it was about to write is written, or not, before its caller goes on
        await work.promise.catch(() => {});
      }
    }
  };
}

function unlessAborted<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (!signal) return promise;
  return new Promise((resolve, reject) => {
    const aborted = () => reject(signal.reason);
    signal.addEventListener("abort", aborted, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener("abort", aborted));
  });
}
