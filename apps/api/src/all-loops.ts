import { alertLoop, alertRetentionLoop } from "./alerts/evaluate.ts";
import { garbageLoop, strayFilesLoop } from "./blobs/gc.ts";
import { egressLoop } from "./broadcast/egress.ts";
import { relayPayLoop } from "./broadcast/pay.ts";
import { relayProbeLoop } from "./broadcast/probe.ts";
import { relaySweepLoop } from "./broadcast/relays.ts";
import { receiptRetentionLoop } from "./broadcast/retention.ts";
import { eventRetentionLoop, sequencerLoop } from "./events/sequencer.ts";
import type { Loop } from "./loops.ts";
import { presenceLoop } from "./nodes/presence.ts";
import { sessionCleanupLoop } from "./nodes/register.ts";
import { idempotencyLoop } from "./runs/idempotency.ts";
import { plannerLoop } from "./runs/planner.ts";
import { expiryLoop } from "./tasks/expiry.ts";
import { epochLoop } from "./verification/audit.ts";
import { canaryLoop } from "./verification/canaries.ts";
import { casesLoop } from "./verification/cases.ts";
import { finalityLoop } from "./verification/finality.ts";
import { auditChainLoop } from "./verification/record.ts";
import { remeasureLoop } from "./verification/remeasure.ts";
import { evidenceRetentionLoop } from "./verification/retention.ts";
import { retroactiveLoop } from "./verification/retroactive.ts";
import { trustedLoop } from "./verification/trusted.ts";
import { unmeasuredLoop } from "./verification/unmeasured.ts";
import { webhookDeliveryLoop, webhookRetentionLoop } from "./webhooks/deliver.ts";
import { webhookFanOutLoop } from "./webhooks/fan-out.ts";

/** Every loop of the coordinator. */
export const allLoops: readonly Loop[] = [
  sequencerLoop,
  eventRetentionLoop,
  presenceLoop,
  sessionCleanupLoop,
  garbageLoop,
  strayFilesLoop,
  plannerLoop,
  expiryLoop,
  idempotencyLoop,
  epochLoop,
  finalityLoop,
  retroactiveLoop,
  trustedLoop,
  unmeasuredLoop,
  remeasureLoop,
  casesLoop,
  canaryLoop,
  evidenceRetentionLoop,
  auditChainLoop,
  egressLoop,
  relaySweepLoop,
  relayProbeLoop,
  relayPayLoop,
  receiptRetentionLoop,
  alertLoop,
  alertRetentionLoop,
  webhookFanOutLoop,
  webhookDeliveryLoop,
  webhookRetentionLoop,
];
