import type { Services } from "../context.ts";
import { CodedError } from "../errors.ts";
import { type Outbound, outbound, refusedHost } from "../http/outbound.ts";

type Here = Pick<Services, "config" | "publicUrl">;

/** What the coordinator connects to for a relay. */
export const relaysReach = (here: Here): Outbound => outbound(here, here.config.privateRelays);

/** Longest URL of a relay. */
const maxLength = 512;

/**
 * A relay's URL as it is stored: normalised, without a slash at the end.
 * @param template whether it may hold `{sha256}` and `{ab}` (a mirror's)
 * @throws CodedError `INPUT_INVALID` or `TLS_REQUIRED`
 */
export function readRelayUrl(here: Here, text: string, { template }: { template: boolean }): string {
  const plain = text.trim();
  // A place-holder stands for what a hash would put there.
  const filled = template
    ? plain.replaceAll("{sha256}", sample).replaceAll("{ab}", sample.slice(0, 2))
    : plain;
  const url =
    filled.length <= maxLength + sample.length && URL.canParse(filled) ? new URL(filled) : undefined;
  if (
    url === undefined ||
    plain.length > maxLength ||
    (url.protocol !== "http:" && url.protocol !== "https:") ||
    url.username !== "" ||
    url.password !== "" ||
    /[?#\\{}\s]/.test(filled) ||
    url.hostname === ""
  ) {
    const what = template ? " It may hold {sha256} and {ab} in its path." : "";
    throw new CodedError(
      "INPUT_INVALID",
      `A relay's URL is http(s)://host[:port][/path], at most ${maxLength} characters, without credentials, query or fragment.${what}`,
    );
  }
  if (template && /\{/.test(plain.replace(/^[a-z]+:\/\/[^/]*/i, "")) && !plain.includes("{sha256}"))
    throw new CodedError("INPUT_INVALID", "A URL with {ab} needs {sha256} as well.");
  if (template && /\{/.test(plain.slice(0, plain.length - plain.replace(/^[a-z]+:\/\/[^/]*/i, "").length)))
    throw new CodedError("INPUT_INVALID", "Place-holders stand in the path, not in the host.");
  assertReachable(here, url);
  return plain.includes("{") ? plain : url.href.replace(/\/+$/, "");
}

const sample = "ab".repeat(32);

/** What can be said of an address without asking for its name. */
function assertReachable(here: Here, url: URL): void {
  switch (refusedHost(relaysReach(here), url)) {
    case undefined:
      return;
    case "own network":
      throw new CodedError(
        "INPUT_INVALID",
        `${url.host} is an address of this machine's own network, where nobody else reaches a relay. Announce a public one; an operator may allow private ones with MUSTER_PRIVATE_RELAYS=1.`,
      );
    case "plain http":
      throw new CodedError(
        "TLS_REQUIRED",
        "Beyond this machine relays are reached over https only: their tickets must not be read on the way. Put a TLS proxy before the relay and announce its https URL.",
      );
  }
}
