import { type MusterClient, pause, type TaskKind } from "@muster/sdk";
import type { Log } from "./log.ts";

// The row is the truth, a notification is a nudge: an offer only ends a wait, and the wait ends by itself after a while, too.

/** Tells the loop when looking for work is worth it. */
export type Bell = AsyncDisposable & {
  /** Resolves with true at the next nudge (at once when one came since the last wait), with false after `ms` or when aborted. */
  wait(ms: number, signal: AbortSignal): Promise<boolean>;
};

export function hangBell(input: { client: MusterClient; kinds: TaskKind[]; log: Log }): Bell {
  const stop = new AbortController();
  let rung = false;
  let wake = () => {};
  const ring = () => {
    rung = true;
    wake();
  };

  async function listen(): Promise<void> {
    while (!stop.signal.aborted) {
      try {
        for await (const _ of input.client.tasks.offers({ kinds: input.kinds, signal: stop.signal })) ring();
      } catch (error) {
        // polling goes on meanwhile
        input.log.warn({ error: String(error) }, "no offers are heard; asking now and then instead");
      }
      await pause(60_000, stop.signal);
    }
  }
  const listening = listen();

  return {
    async wait(ms, signal) {
      if (!rung) {
        const woken = new AbortController();
        wake = () => woken.abort();
        await pause(ms, AbortSignal.any([signal, woken.signal]));
        wake = () => {};
      }
      const was = rung;
      rung = false;
      return was;
    },
    async [Symbol.asyncDispose]() {
      stop.abort();
      // it may be registering anew with a coordinator that does not answer; the session ends that next
      await Promise.race([listening, pause(1_000)]);
    },
  };
}
