import { createPublicKey, type KeyObject, verify } from "node:crypto";
import { parseRelayTicket, type RelayTicket, relayTicketBytes } from "@muster/protocol";

/** Who may be served and how much of it at once. */
export type RelayLimits = {
  /** Connections at once; more are answered 503, and far more are dropped. 512. */
  connections: number;
  /** Requests under way for one subject; more are answered 429. 16. */
  requestsPerSubject: number;
  /** Bytes of the answers under way for one subject; more are answered 429. 1 GiB. */
  bytesPerSubject: number;
  /** Milliseconds after which a client that takes nothing of what is offered is cut off. 30,000. */
  slowReaderMs: number;
  /** Milliseconds a request waits for a shard whose bytes are not here yet, before it is answered 503. 5,000. */
  waitMs: number;
};

export const defaultLimits: RelayLimits = {
  connections: 512,
  requestsPerSubject: 16,
  bytesPerSubject: 2 ** 30,
  slowReaderMs: 30_000,
  waitMs: 5_000,
};

/** What the clocks of the coordinator and of a relay may differ, in seconds. */
const CLOCK_LEEWAY = 60;
const MOST_REMEMBERED = 4_096;

/** Checks tickets. One that was good is remembered by its text: verifying costs more than many an answer. */
export function createGate(assignmentOf: (run: string) => { relay: string; ticketKey: string } | undefined) {
  const good = new Map<string, { ticket: RelayTicket; key: string }>();
  const keys = new Map<string, KeyObject>();

  /** The ticket in an `Authorization` header, if the coordinator signed it for this relay and it has not expired. */
  return function admit(authorization: string | undefined): RelayTicket | undefined {
    const text = /^Bearer ([\w.-]+)$/i.exec(authorization ?? "")?.[1];
    if (text === undefined) return undefined;
    const known = good.get(text);
    const ticket = known?.ticket ?? parsed(text)?.ticket;
    const own = ticket && assignmentOf(ticket.run);
    if (!own || ticket.relay !== own.relay || ticket.expires + CLOCK_LEEWAY <= Date.now() / 1000)
      return undefined;
    const key = own.ticketKey;
    if (known?.key === key) return ticket;
    const signature = parsed(text)?.signature;
    if (!signature || !verify(null, relayTicketBytes(ticket), publicKey(key), signature)) return undefined;
    if (good.size >= MOST_REMEMBERED) good.clear();
    good.set(text, { ticket, key });
    return ticket;
  };

  function publicKey(hex: string): KeyObject {
    const known = keys.get(hex) ?? ed25519(hex);
    keys.set(hex, known);
    return known;
  }
}

/** Counts what is under way by subject. */
export function createMeter(limits: RelayLimits) {
  const subjects = new Map<string, { requests: number; bytes: number; lastAt: number }>();

  return {
    /** Takes a place; undefined when the subject has as many as it may. Give it back with `leave`. */
    enter(subject: string): { add(bytes: number): boolean; leave(): void } | undefined {
      const now = Date.now();
      const use = subjects.get(subject) ?? { requests: 0, bytes: 0, lastAt: now };
      if (use.requests >= limits.requestsPerSubject) return undefined;
      subjects.set(subject, use);
      use.requests++;
      use.lastAt = now;
      let own = 0;
      return {
        /** Takes room for the answer; false when there is none. One answer always has room. */
        add(bytes) {
          if (use.bytes > 0 && use.bytes + bytes > limits.bytesPerSubject) return false;
          own += bytes;
          use.bytes += bytes;
          return true;
        },
        leave() {
          use.requests--;
          use.bytes -= own;
          use.lastAt = Date.now();
        },
      };
    },
    /** Subjects that asked for something within a minute. */
    clients(): number {
      const minuteAgo = Date.now() - 60_000;
      for (const [subject, { requests, lastAt }] of subjects)
        if (requests === 0 && lastAt < minuteAgo) subjects.delete(subject);
      return subjects.size;
    },
  };
}

function parsed(text: string): ReturnType<typeof parseRelayTicket> | undefined {
  try {
    return parseRelayTicket(text);
  } catch {
    return undefined;
  }
}

/** @param hex the raw 32 bytes. */
function ed25519(hex: string): KeyObject {
  const key = { kty: "OKP", crv: "Ed25519", x: Buffer.from(hex, "hex").toString("base64url") };
  return createPublicKey({ key, format: "jwk" });
}
