import { type MusterClient, pause } from "@muster/sdk";
import { isOutage } from "./connection.ts";
import type { LeaseKeeper } from "./lease.ts";
import type { Log } from "./log.ts";

const EVERY = 10_000;
const LAST_WITHIN = 3_000;

/** Says every ten seconds that the node lives and how far it is, and drops the tasks the coordinator no longer counts as its own. */
export function startHeartbeat(input: {
  client: MusterClient;
  leases: LeaseKeeper;
  progress: () => unknown;
  /** Aborted when the node takes no more work; told at once. */
  draining: AbortSignal;
  log: Log;
}): AsyncDisposable {
  const stop = new AbortController();
  let told = false;

  async function beat(signal: AbortSignal): Promise<void> {
    const askedAt = performance.now();
    const progress = input.progress();
    const draining = input.draining.aborted;
    try {
      const reply = await input.client.nodes.heartbeat({ progress, draining }, { signal });
      told ||= draining;
      input.leases.reconcile(reply.leases, askedAt);
    } catch (error) {
      if (!signal.aborted && !isOutage(error))
        input.log.warn({ error: String(error) }, "the heartbeat was not heard");
    }
  }

  async function run(): Promise<void> {
    while (!stop.signal.aborted) {
      await beat(stop.signal);
      // an aborted signal would end every further wait at once
      const wake = input.draining.aborted ? stop.signal : AbortSignal.any([stop.signal, input.draining]);
      await pause(EVERY, wake);
    }
  }
  const running = run();
  return {
    async [Symbol.asyncDispose]() {
      stop.abort();
      await running;
      // an idle worker may be gone before its next beat
      if (input.draining.aborted && !told) await beat(AbortSignal.timeout(LAST_WITHIN));
    },
  };
}
