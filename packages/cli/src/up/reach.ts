// Where an installation listens, and under which addresses this machine, other machines and browsers reach it.
import { networkInterfaces } from "node:os";
import { Failure } from "../failure.ts";

export type ReachOptions = {
  /** What coordinator and dashboard listen on: a loopback address, or all addresses of the machine. */
  host: string;
  port: number;
  dashboardPort: number;
  /** Where other machines reach the coordinator; followed from the rest when left out. */
  publicUrl: string | undefined;
  /** Where people open the dashboard; followed from the rest when left out. */
  dashboardUrl: string | undefined;
  /** Clients beyond this machine are served without TLS. */
  plainHttp: boolean;
  /** A proxy in front says who the client is and that it came by TLS. Believed of a proxy on this machine without being told. */
  trustProxy: boolean | undefined;
};

export type Reach = {
  host: string;
  /** The coordinator, as this machine's own processes dial it. */
  localUrl: string;
  localDashboardUrl: string;
  /** The coordinator, as everybody else dials it. */
  publicUrl: string;
  dashboardUrl: string;
  /** What the dashboard's pages call: an absolute URL, or `/` when a proxy serves both under one origin. */
  dashboardApi: string;
  plainHttp: boolean;
  trustProxy: boolean;
  /** Whether other machines are meant to come. */
  open: boolean;
};

/**
 * @param address how other machines of the network may reach this one; asked for only when nothing else says it.
 * @throws Failure `USAGE` when nobody could come in, or would send tokens in the clear without anyone having said so.
 */
export function reachOf(options: ReachOptions, address: () => string = ownAddress): Reach {
  const { host, port, dashboardPort, plainHttp } = options;
  const wildcard = host === "0.0.0.0" || host === "::";
  const loopback = host === "127.0.0.1" || host === "localhost";
  if (!wildcard && !loopback) {
    throw usage(
      `The nodes of this machine reach the coordinator at 127.0.0.1, so --host is that or all addresses (0.0.0.0), not ${host}. A firewall or a proxy narrows who may come.`,
    );
  }
  const localUrl = `http://127.0.0.1:${port}`;
  const localDashboardUrl = `http://127.0.0.1:${dashboardPort}`;
  const named = options.publicUrl === undefined ? undefined : originOf(options.publicUrl, "--public-url");
  const secure = named?.startsWith("https:") === true;
  if (wildcard && !secure && !plainHttp) {
    throw usage(
      `Beyond this machine the coordinator is reached over TLS only. Put a TLS proxy before it and name its address, or, in a network where everyone may read everything, say so.`,
      ["npm start -- --public-url https://muster.example", `npm start -- --host ${host} --plain-http`],
    );
  }
  if (named !== undefined && !secure && !plainHttp && !isLoopback(new URL(named).hostname)) {
    throw usage(
      `--public-url ${named} has no TLS. Give the https URL of a proxy before the coordinator, or add --plain-http in a network where everyone may read everything.`,
    );
  }
  if (wildcard && secure && options.trustProxy === undefined) {
    throw usage(
      `A proxy on this machine needs no --host. One on another machine must be believed when it says who the client is: add --trust-proxy, and let nobody but the proxy reach port ${port}.`,
    );
  }
  const publicUrl = named ?? (wildcard ? `http://${bracketed(address())}:${port}` : localUrl);
  const dashboardUrl =
    options.dashboardUrl !== undefined
      ? originOf(options.dashboardUrl, "--dashboard-url")
      : secure
        ? publicUrl
        : `http://${new URL(publicUrl).hostname}:${dashboardPort}`;
  return {
    host,
    localUrl,
    localDashboardUrl,
    publicUrl,
    dashboardUrl,
    dashboardApi: dashboardUrl === publicUrl ? "/" : publicUrl,
    plainHttp,
    trustProxy: options.trustProxy ?? (secure && loopback),
    open: wildcard || (named !== undefined && !isLoopback(new URL(named).hostname)),
  };
}

/** The first address of this machine that others of its network may reach. */
function ownAddress(): string {
  const all = Object.values(networkInterfaces()).flatMap((addresses) => addresses ?? []);
  const usable = all.filter(({ internal, address }) => !internal && !address.startsWith("fe80:"));
  const found = usable.find(({ family }) => family === "IPv4") ?? usable[0];
  if (found !== undefined) return found.address;
  throw usage("This machine has no address that others could reach. Name it with --public-url <url>.");
}

function originOf(text: string, option: string): string {
  const url = URL.parse(text);
  if (
    url === null ||
    !/^https?:$/.test(url.protocol) ||
    !/^\/?$/.test(url.pathname + url.search + url.hash)
  ) {
    throw usage(
      `${option} is "${text}"; give an http(s) address without a path, such as https://muster.example.`,
    );
  }
  return url.origin;
}

function isLoopback(host: string): boolean {
  return host === "localhost" || host === "::1" || host === "[::1]" || /^127(\.\d{1,3}){3}$/.test(host);
}

function bracketed(address: string): string {
  return address.includes(":") ? `[${address}]` : address;
}

function usage(what: string, fix: readonly string[] = []): Failure {
  return new Failure({ exit: "usage", code: "USAGE", what, fix });
}
