import type { Node } from "@muster/db";

/** How a node seems to be: for display, never a reason to take work away. */
export type Liveness = "ACTIVE" | "STALE" | "OFFLINE" | "DRAINING";

/** ACTIVE when seen within 30 s (three heartbeats), STALE within two minutes unless it said that it stops. Last seen is written every ten seconds. */
export function livenessOf(
  { lastSeenAt, draining }: Pick<Node, "lastSeenAt" | "draining">,
  now: Date,
): Liveness {
  const silence = now.getTime() - lastSeenAt.getTime();
  // who said goodbye and fell silent is not missed
  if (silence >= 120_000 || (draining && silence >= 30_000)) return "OFFLINE";
  if (silence >= 30_000) return "STALE";
  return draining ? "DRAINING" : "ACTIVE";
}
