import { lookup as resolve } from "node:dns";
import { Agent as HttpAgent } from "node:http";
import { Agent as HttpsAgent } from "node:https";
import { BlockList, isIP, type LookupFunction } from "node:net";
import { isLoopback } from "../auth/auth.ts";
import type { Services } from "../context.ts";

// Some URLs are strangers', and the coordinator connects to them: by its own hands, from inside its own network. So every address is looked
// at twice, when the URL is given and, since names may lead anywhere by then, when it is connected to.

/** Where an address leads. `never` is what nothing of ours is reached by: link-local (clouds keep their secrets there), multicast, unspecified. */
export type Reach = "public" | "private" | "loopback" | "never";

/** Where an IP address leads, mapped and translated IPv4 included. */
export function reachOf(address: string): Reach {
  const family = isIP(address) === 6 ? "ipv6" : "ipv4";
  for (const [reach, list] of reaches) if (list.check(address, family)) return reach;
  return isIP(address) === 0 ? "never" : "public";
}

/** The host without the brackets of an IPv6 address. */
export const hostOf = (url: URL): string => url.hostname.replace(/^\[|\]$/g, "");

/** What requests of one kind may connect to. */
export type Outbound = {
  /** Whether this machine and its network. */
  readonly ownNetwork: boolean;
  /** Whether beyond this machine without TLS. */
  readonly plainHttp: boolean;
};

/** @param allowed what the operator says of its own network; by default it may be reached exactly when the coordinator itself is reached there */
export function outbound(
  { config, publicUrl }: Pick<Services, "config" | "publicUrl">,
  allowed: boolean | undefined,
): Outbound {
  const host = hostOf(new URL(publicUrl));
  const here = isLoopback(publicUrl) || (isIP(host) !== 0 && reachOf(host) !== "public");
  return { ownNetwork: allowed ?? here, plainHttp: config.plainHttp };
}

export type Refusal = "own network" | "plain http";

/** Why nothing connects to an address for a URL, or undefined when it does. */
export function refusedAddress(may: Outbound, url: URL, address: string): Refusal | undefined {
  const reach = isLoopback(address) ? "loopback" : reachOf(address);
  if (reach === "never" || (reach !== "public" && !may.ownNetwork)) return "own network";
  return url.protocol === "http:" && reach !== "loopback" && !may.plainHttp ? "plain http" : undefined;
}

/** The same of a URL's host as far as it can be said without asking for its name. */
export function refusedHost(may: Outbound, url: URL): Refusal | undefined {
  const host = hostOf(url);
  if (isIP(host) !== 0 || isLoopback(host)) return refusedAddress(may, url, host);
  return url.protocol === "http:" && !may.plainHttp ? "plain http" : undefined;
}

/** A refusal as a sentence's end. It does not say which address: what names of our network stand for is not everyone's to know. */
export const refusalText = (refusal: Refusal, url: URL): string =>
  refusal === "own network"
    ? `${url.hostname} leads into the coordinator's own network`
    : `${url.host} is not this machine, and beyond it only https is used`;

/**
 * Agents that connect to the address that was looked at, and to no other: a name may lead elsewhere the next time it is asked. A host that
 * is an address asks for no name: see `refusedHost` first. The caller destroys them.
 */
export function guardedAgents(may: Outbound, url: URL): { http: HttpAgent; https: HttpsAgent } {
  const lookup: LookupFunction = (host, options, done) => {
    resolve(host, { ...options, all: true }, (error, addresses) => {
      if (error !== null) return done(error, "", 0);
      for (const { address } of addresses) {
        const refusal = refusedAddress(may, url, address);
        if (refusal !== undefined) return done(new Error(refusalText(refusal, url)), "", 0);
      }
      const [first] = addresses;
      if (first === undefined) return done(new Error(`${host} has no address`), "", 0);
      if (options.all) return done(null, addresses);
      done(null, first.address, first.family);
    });
  };
  return {
    http: new HttpAgent({ keepAlive: true, lookup }),
    https: new HttpsAgent({ keepAlive: true, lookup }),
  };
}

const ranges: Record<Exclude<Reach, "public">, readonly string[]> = {
  never: [
    "0.0.0.0/8",
    "169.254.0.0/16",
    "224.0.0.0/3",
    "::/128",
    "fe80::/10",
    "ff00::/8",
    // They lead to an IPv4 address that is not looked at here.
    "64:ff9b::/96",
    "64:ff9b:1::/48",
    "2002::/16",
    "2001::/32",
  ],
  loopback: ["127.0.0.0/8", "::1/128"],
  private: [
    "10.0.0.0/8",
    "100.64.0.0/10",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "fc00::/7",
    "fec0::/10",
  ],
};

const reaches = (["never", "loopback", "private"] as const).map((reach): [Reach, BlockList] => {
  const list = new BlockList();
  for (const range of ranges[reach]) {
    const [net = "", bits] = range.split("/");
    list.addSubnet(net, Number(bits), isIP(net) === 6 ? "ipv6" : "ipv4");
  }
  return [reach, list];
});
