"use client";

import { AuditLog } from "./audit-log.tsx";
import { AuditSummary } from "./audit-summary.tsx";
import { Cases } from "./cases.tsx";
import { Probes } from "./probes.tsx";
import { Validators } from "./validators.tsx";

/**
 * Whether the run can be trusted: what is checked, what it found, who checks, and who stands accused.
 * @param props.touched grows with every verdict, case and word about a validator.
 */
export function RunVerification({ runId, touched }: { runId: string; touched: number }) {
  return (
    <div className="grid gap-8">
      <AuditSummary runId={runId} touched={touched} />
      <Cases runId={runId} touched={touched} />
      <Validators runId={runId} touched={touched} />
      <Probes runId={runId} touched={touched} />
      <AuditLog runId={runId} touched={touched} />
    </div>
  );
}
