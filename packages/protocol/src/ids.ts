import { TypeID } from "typeid-js";
import { uuidv7 } from "uuidv7";
import { ProtocolError } from "./protocol-error.ts";

/** Every prefix an id may carry. `rev` is a run revision, `verif` a verification, `ledger` a ledger transaction, `entry` one of its entries. */
export const idPrefixes = [
  "run",
  "rev",
  "task",
  "attempt",
  "node",
  "group",
  "rollout",
  "batch",
  "ckpt",
  "verif",
  "eval",
  "step",
  "env",
  "org",
  "user",
  "key",
  "ledger",
  "entry",
  "acct",
  "event",
  "case",
  "grant",
  "relay",
  "receipt",
  "rule",
  "alert",
  "hook",
  "delivery",
] as const;

/** The prefix of a TypeID: what kind of thing it names. */
export type IdPrefix = (typeof idPrefixes)[number];

/**
 * A new id as Postgres stores it: a UUIDv7, so ids made later sort later.
 * The prefix is not part of the UUID; it says at the call site what the id names.
 */
export function newId(_prefix?: IdPrefix): string {
  return uuidv7();
}

/**
 * The id as every surface shows it, for example `run_01h455vb4pex5vsknk084sn02q`.
 * @throws ProtocolError `INVALID_ID` when `uuid` is not a UUID.
 */
export function toTypeId(prefix: IdPrefix, uuid: string): string {
  if (!uuidPattern.test(uuid)) throw new ProtocolError("INVALID_ID", `"${clip(uuid)}" is not a UUID.`);
  return TypeID.fromUUID(prefix, uuid.toLowerCase()).toString();
}

/**
 * The UUID inside a TypeID.
 * @param prefix when given, the only prefix accepted.
 * @throws ProtocolError `INVALID_ID` for anything but a well-formed TypeID of a known (and the expected) prefix.
 */
export function fromTypeId(typeId: string, prefix?: IdPrefix): string {
  const found = prefixOf(typeId);
  if (found === undefined || (prefix !== undefined && found !== prefix)) {
    const expected = prefix === undefined ? "an id" : `an id that starts with "${prefix}_"`;
    throw new ProtocolError(
      "INVALID_ID",
      `"${clip(typeId)}" is not ${expected}; copy it whole from where it was shown.`,
    );
  }
  return TypeID.fromString(typeId).toUUID();
}

/** The prefix of a well-formed TypeID, or undefined when it is none. */
export function prefixOf(typeId: string): IdPrefix | undefined {
  const cut = typeId.lastIndexOf("_");
  const prefix = idPrefixes.find((known) => known === typeId.slice(0, cut));
  return prefix !== undefined && suffixPattern.test(typeId.slice(cut + 1)) ? prefix : undefined;
}

const uuidPattern = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;
// 26 characters of Crockford's base 32 hold 130 bits, so the first one may not exceed 7.
const suffixPattern = /^[0-7][0-9a-hjkmnp-tv-z]{25}$/;

function clip(text: string): string {
  return text.length > 60 ? `${text.slice(0, 60)}…` : text;
}
