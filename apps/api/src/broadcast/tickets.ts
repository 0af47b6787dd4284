import { createHmac, hkdfSync } from "node:crypto";
import { encodeRelayTicket, type RelayTicket, relayTicketBytes, toTypeId } from "@muster/protocol";
import type { Services } from "../context.ts";
import { signAsCoordinator } from "../verification/coordinator-key.ts";

/** A ticket with its end; tickets of the same five minutes are the same to the byte, whichever process signs them. */
type IssuedTicket = { readonly ticket: string; readonly expiresAt: Date };

/** Seconds a ticket opens a relay: ten to fifteen minutes. */
const stepSeconds = 300;
const steps = 3;

/** A ticket for one relay, in the name of a node that is not told. */
export function issueTicket(
  services: Pick<Services, "config">,
  { runId, relayId, nodeId }: { runId: string; relayId: string; nodeId: string },
  now = Date.now(),
): IssuedTicket {
  const expires = (Math.floor(now / 1000 / stepSeconds) + steps) * stepSeconds;
  const ticket: RelayTicket = {
    schema: "muster/relay-ticket/v1",
    run: toTypeId("run", runId),
    relay: toTypeId("relay", relayId),
    subject: pseudonym(services, { relayId, nodeId }, now),
    expires,
  };
  return {
    ticket: encodeRelayTicket(ticket, signAsCoordinator(services, relayTicketBytes(ticket))),
    expiresAt: new Date(expires * 1000),
  };
}

/** What one relay knows one node by for a day: 128 bits of HMAC-SHA-256. */
export function pseudonym(
  { config }: Pick<Services, "config">,
  { relayId, nodeId }: { relayId: string; nodeId: string },
  now = Date.now(),
): string {
  const day = Math.floor(now / 86_400_000);
  return createHmac("sha256", keyOf(config.secret))
    .update(`muster/relay-pseudonym/v1\0${day}\0${relayId}\0${nodeId}`)
    .digest("hex")
    .slice(0, 32);
}

const keys = new Map<string, Buffer>();

function keyOf(secret: string): Buffer {
  const known = keys.get(secret);
  if (known !== undefined) return known;
  const key = Buffer.from(hkdfSync("sha256", secret, "", "muster/relay-pseudonym/v1", 32));
  keys.set(secret, key);
  return key;
}
