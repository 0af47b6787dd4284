import { RelayState } from "@muster/db";
import { Gauge } from "prom-client";
import type { Services } from "../context.ts";

/** Adds the relays of all runs that are under way to the metrics, by state. */
export function registerRelayMetrics({ metrics, prisma, log }: Services): void {
  new Gauge({
    name: "muster_relays",
    help: "Relays and mirrors of runs under way, by state.",
    labelNames: ["state"] as const,
    registers: [metrics.registry],
    async collect() {
      this.reset();
      for (const state of Object.values(RelayState)) this.set({ state }, 0);
      try {
        const counts = await prisma.relay.groupBy({
          by: ["state"],
          where: { run: { state: { in: ["RUNNING", "PAUSED"] } } },
          _count: true,
        });
        for (const { state, _count } of counts) this.set({ state }, _count);
      } catch (error) {
        log.warn({ err: error }, "the relays could not be counted for the metrics");
      }
    },
  });
}
