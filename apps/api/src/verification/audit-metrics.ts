import { toTypeId } from "@muster/protocol";
import { Gauge } from "prom-client";
import type { Services } from "../context.ts";
import { type AuditSummary, auditSummary } from "./audit-summary.ts";

/** Seconds for which a summary is good enough: it reads every group of a run, and several scrapers may ask. */
const rememberedMs = 10_000;

/** Values that are unknown are left out, as Prometheus has it. */
const gauges: readonly [name: string, help: string, value: (audit: AuditSummary) => number | null][] = [
  ["muster_audit_backlog", "VERIFY tasks of a run that are open or leased.", (audit) => audit.backlog],
  ["muster_audit_oldest_seconds", "Age of the oldest of them.", (audit) => audit.oldestBacklogSeconds ?? 0],
  ["muster_audit_share", "Share of a run's groups that are audited.", (audit) => audit.auditedShare],
  [
    "muster_audit_poison_upper95",
    "Upper 95 % bound of the share of accepted groups that are bad and unaudited.",
    (audit) => audit.poisonUpper95,
  ],
  [
    "muster_audit_cost_share",
    "CPU-seconds of measuring over those of generating.",
    (audit) => audit.costShare,
  ],
  [
    "muster_audit_forfeited_microcredits",
    "Credits taken back from nodes, net of refunds.",
    (audit) => Number(audit.forfeited),
  ],
];

/** Adds what audits find and cost to the metrics, for every run that is under way. */
export function registerAuditMetrics(services: Services): void {
  let known: Promise<[string, AuditSummary][]> | undefined;
  let until = 0;
  const summaries = () => {
    if (known === undefined || Date.now() >= until) {
      until = Date.now() + rememberedMs;
      known = summariesOf(services).catch((error: unknown) => {
        services.log.warn({ err: error }, "the audit metrics could not be read");
        return [];
      });
    }
    return known;
  };
  for (const [name, help, value] of gauges) {
    new Gauge({
      name,
      help,
      labelNames: ["run"] as const,
      registers: [services.metrics.registry],
      async collect() {
        const runs = await summaries();
        this.reset();
        for (const [run, audit] of runs) {
          const at = value(audit);
          if (at !== null) this.set({ run }, at);
        }
      },
    });
  }
}

async function summariesOf(services: Services): Promise<[string, AuditSummary][]> {
  const runs = await services.prisma.run.findMany({
    where: { state: { in: ["RUNNING", "PAUSED"] } },
    select: { id: true, revision: true },
    orderBy: { id: "asc" },
  });
  const found: [string, AuditSummary][] = [];
  for (const run of runs) found.push([toTypeId("run", run.id), await auditSummary(services, run)]);
  return found;
}
