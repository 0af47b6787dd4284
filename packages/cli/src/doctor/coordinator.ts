import { protocolVersion } from "@muster/protocol";
import { ApiError, createClient, type Health } from "@muster/sdk";
import type { Finding } from "./finding.ts";

/** Seconds a clock may be off before it is worth a word; leases are 60 s, sessions an hour. */
const SKEW_WARN = 5;
const SKEW_FAIL = 300;

/**
 * Whether the coordinator answers, how it counts time and which protocol it speaks.
 * @param at.required whether somebody named it; nothing need run at the default address.
 */
export async function checkCoordinator(at: { url: string; required: boolean }): Promise<Finding[]> {
  const sent = Date.now();
  let health: Health;
  try {
    await using client = createClient({ url: at.url, timeout: 10_000 });
    health = await client.health({ signal: AbortSignal.timeout(15_000) });
  } catch (error) {
    return [unreachable(at, error)];
  }
  const received = Date.now();
  return [
    {
      id: "coordinator",
      level: "ok",
      what: `${at.url} answers in ${received - sent} ms (version ${health.version})`,
    },
    protocolFinding(health.protocol),
    clockFinding((Date.parse(health.serverTime) - (sent + received) / 2) / 1000, (received - sent) / 2000),
  ];
}

/** @param off seconds the coordinator's clock is ahead of ours, known to ± `uncertain`. */
export function clockFinding(off: number, uncertain: number): Finding {
  const skew = Math.max(0, Math.abs(off) - uncertain);
  const what =
    skew < 0.5
      ? "this clock agrees with the coordinator's"
      : `this clock is ${skew.toFixed(0)} s ${off > 0 ? "behind" : "ahead of"} the coordinator's`;
  if (skew < SKEW_WARN) return { id: "clock", level: "ok", what };
  return {
    id: "clock",
    level: skew < SKEW_FAIL ? "warn" : "fail",
    what,
    why: "Leases and sessions end at the coordinator's time.",
    fix:
      process.platform === "linux"
        ? "sudo timedatectl set-ntp true"
        : "Turn on setting the time automatically.",
  };
}

/** @param theirs the protocol version the coordinator speaks. */
export function protocolFinding(theirs: number): Finding {
  const what = `the coordinator speaks protocol ${theirs}, this program ${protocolVersion}`;
  if (theirs === protocolVersion) return { id: "protocol", level: "ok", what };
  return {
    id: "protocol",
    level: "fail",
    what,
    why: "Nodes of another protocol are refused.",
    fix: theirs > protocolVersion ? "git pull && npm ci" : "Ask the coordinator's operator to update it.",
  };
}

function unreachable({ url, required }: { url: string; required: boolean }, error: unknown): Finding {
  const reason = error instanceof Error ? error.message : String(error);
  if (error instanceof ApiError && error.code === "UPGRADE_REQUIRED") {
    return {
      id: "protocol",
      level: "fail",
      what: reason,
      why: "This program is older than the coordinator allows.",
      fix: "git pull && npm ci",
    };
  }
  if (error instanceof ApiError && error.code === "TLS_REQUIRED") {
    return {
      id: "coordinator",
      level: "fail",
      what: `${url} takes no plain HTTP from other machines`,
      why: "Keys and prompts would cross the network in the clear.",
      fix: "Dial it by its https address, which its operator knows (docs/deploy.md).",
    };
  }
  return {
    id: "coordinator",
    level: required ? "fail" : "warn",
    what: `${url} does not answer: ${reason}`,
    why: required
      ? "A node works for a coordinator it can reach."
      : "No coordinator runs here. That is fine before it is started.",
    fix: required ? `curl -i ${url}/healthz` : "npm start",
  };
}
