import { utf8ToBytes } from "@noble/hashes/utils.js";
import { z } from "zod";
import { canonicalJson } from "./canonical.ts";
import { ProtocolError } from "./protocol-error.ts";
import { signed } from "./signing.ts";

const relayTicketSchema = z.strictObject({
  schema: z.literal("muster/relay-ticket/v1"),
  /** TypeID of the run whose checkpoints it opens. */
  run: z.string().regex(/^run_[0-7][0-9a-z]{25}$/),
  /**
   * TypeID of the one relay it is for. That relay refuses any other's: so a relay cannot spend at another one what workers showed it, nor
   * announce another one's address as its own.
   */
  relay: z.string().regex(/^relay_[0-7][0-9a-z]{25}$/),
  /**
   * A pseudonym of whoever holds the ticket, another one every day and at every relay: a relay limits by it, and cannot tell a worker from the coordinator
   * that looks whether the relay is honest.
   */
  subject: z.string().regex(/^[0-9a-f]{32}$/),
  /** Unix seconds from which it is of no use. */
  expires: z.int().min(0),
});

/** What a relay asks for before it serves: `Authorization: Bearer <ticket>`, signed by the coordinator. */
export type RelayTicket = z.infer<typeof relayTicketSchema>;

/** Longest ticket, in characters. */
const maxLength = 1024;

/** The bytes the coordinator signs with Ed25519: `"muster/relay-ticket/v1\0"` and the ticket's canonical JSON. */
export function relayTicketBytes(ticket: RelayTicket): Uint8Array {
  return signed("muster/relay-ticket/v1", ticket);
}

/** A ticket as it is sent: its canonical JSON and the signature, each in base64url without padding, with a dot between. */
export function encodeRelayTicket(ticket: RelayTicket, signature: Uint8Array): string {
  return `${toBase64Url(utf8ToBytes(canonicalJson(ticket)))}.${toBase64Url(signature)}`;
}

/**
 * Reads a ticket. Whether the signature (64 bytes) is the coordinator's over {@link relayTicketBytes}, whether it is for this relay and run,
 * and whether it has expired is the caller's to check.
 * @throws ProtocolError `INVALID_TICKET` for anything but what {@link encodeRelayTicket} writes.
 */
export function parseRelayTicket(text: string): { ticket: RelayTicket; signature: Uint8Array } {
  const match = text.length <= maxLength ? /^([\w-]+)\.([\w-]{86})$/.exec(text) : null;
  if (match === null) throw invalid();
  const [, body = "", mark = ""] = match;
  let json: unknown;
  let signature: Uint8Array;
  try {
    json = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(fromBase64Url(body)));
    signature = fromBase64Url(mark);
  } catch (error) {
    throw invalid(error);
  }
  const parsed = relayTicketSchema.safeParse(json);
  if (!parsed.success) throw invalid(parsed.error);
  // One spelling only: a relay may remember tickets by their text.
  if (encodeRelayTicket(parsed.data, signature) !== text) throw invalid();
  return { ticket: parsed.data, signature };
}

function toBase64Url(bytes: Uint8Array): string {
  return btoa(String.fromCharCode(...bytes))
    .replaceAll("+", "-")
    .replaceAll("/", "_")
    .replace(/=+$/, "");
}

function fromBase64Url(text: string): Uint8Array {
  const binary = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
  return Uint8Array.from(binary, (character) => character.charCodeAt(0));
}

function invalid(cause?: unknown): ProtocolError {
  return new ProtocolError(
    "INVALID_TICKET",
    "This is no relay ticket. Ask the coordinator for the checkpoint's sources again: each comes with its ticket.",
    cause === undefined ? undefined : { cause },
  );
}
