import { generateKeyPairSync, sign, verify } from "node:crypto";
import { expect, test } from "vitest";
import {
  canonicalJson,
  encodeRelayTicket,
  newId,
  parseRelayTicket,
  type RelayTicket,
  relayTicketBytes,
  toTypeId,
} from "../src/index.ts";

const ticket: RelayTicket = {
  schema: "muster/relay-ticket/v1",
  run: toTypeId("run", newId()),
  relay: toTypeId("relay", newId()),
  subject: "0f".repeat(16),
  expires: 1_800_000_000,
};
const { privateKey, publicKey } = generateKeyPairSync("ed25519");
const signature = new Uint8Array(sign(null, relayTicketBytes(ticket), privateKey));
const text = encodeRelayTicket(ticket, signature);
const invalid = expect.objectContaining({ code: "INVALID_TICKET" });

test("a ticket is read as it was written, and its signature covers every field", () => {
  const parsed = parseRelayTicket(text);
  expect(parsed).toEqual({ ticket, signature });
  expect(verify(null, relayTicketBytes(parsed.ticket), publicKey, parsed.signature)).toBe(true);
  for (const change of [
    { run: toTypeId("run", newId()) },
    { relay: toTypeId("relay", newId()) },
    { subject: "1f".repeat(16) },
    { expires: ticket.expires + 1 },
  ])
    expect(verify(null, relayTicketBytes({ ...ticket, ...change }), publicKey, signature)).toBe(false);
});

test("what is signed and sent is the same to the byte everywhere", () => {
  const fixed = {
    ...ticket,
    run: "run_01h455vb4pex5vsknk084sn02q",
    relay: "relay_01h455vb4pex5vsknk084sn02q",
  };
  expect(Buffer.from(relayTicketBytes(fixed)).toString()).toBe(
    `muster/relay-ticket/v1\0{"expires":1800000000,"relay":"relay_01h455vb4pex5vsknk084sn02q","run":"run_01h455vb4pex5vsknk084sn02q","schema":"muster/relay-ticket/v1","subject":"${fixed.subject}"}`,
  );
  expect(encodeRelayTicket(fixed, new Uint8Array(64).fill(255))).toBe(
    `${Buffer.from(canonicalJson(fixed)).toString("base64url")}.${Buffer.alloc(64, 255).toString("base64url")}`,
  );
});

const [body = "", mark = ""] = text.split(".");
const json = (value: unknown) => `${Buffer.from(JSON.stringify(value)).toString("base64url")}.${mark}`;

test.each([
  ["nothing", ""],
  ["no signature", body],
  ["a short signature", `${body}.${mark.slice(1)}`],
  ["a third part", `${text}.${mark}`],
  ["padding", `${body}=.${mark}`],
  ["white space", ` ${text}`],
  ["no JSON", `${Buffer.from("{").toString("base64url")}.${mark}`],
  ["an unknown field", json({ ...ticket, more: 1 })],
  ["a missing field", json({ ...ticket, subject: undefined })],
  ["another schema", json({ ...ticket, schema: "muster/relay-ticket/v2" })],
  ["no run", json({ ...ticket, run: "task_01h455vb4pex5vsknk084sn02q" })],
  ["no relay", json({ ...ticket, relay: ticket.run })],
  ["a moment that is no integer", json({ ...ticket, expires: 1.5 })],
  // JSON.stringify keeps the order of the keys: not the canonical one.
  ["another spelling", json(ticket)],
  ["a signature with stray bits", `${body}.${mark.slice(0, -1)}${mark.endsWith("B") ? "C" : "B"}`],
  ["far too much", `${"A".repeat(2000)}.${mark}`],
])("%s is no ticket", (_what, given) => {
  expect(() => parseRelayTicket(given)).toThrow(invalid);
});
