/**
 * Where the browser reaches the coordinator, read at every request so that one build serves any port: `MUSTER_API_URL`, an absolute URL,
 * or a path when a reverse proxy serves both on one origin (`/` for its root). Without it, the default of `npm start`.
 * @throws Error that says what is wrong with the variable.
 */
export function readApiUrl(env: Record<string, string | undefined>): string {
  const given = env.MUSTER_API_URL?.trim();
  if (given === undefined || given === "") return "http://127.0.0.1:4000";
  if (given.startsWith("/") && !given.startsWith("//")) return given.replace(/\/+$/, "") || "/";
  const url = URL.parse(given);
  if (url === null || (url.protocol !== "http:" && url.protocol !== "https:")) {
    throw new Error(
      `MUSTER_API_URL is "${given}"; set it to the coordinator's http(s) URL, or to a path on this origin.`,
    );
  }
  return url.href.replace(/\/+$/, "");
}

/** Addresses of the coordinator as the browser uses them. */
export type ApiAddress = {
  readonly graphql: string;
  readonly socket: string;
  readonly auth: string;
  /** Bundles are under it by the ids of their groups. */
  readonly evidence: string;
};

/** @param pageOrigin origin of the page, for a coordinator that is a path on it. */
export function apiAddress(apiUrl: string, pageOrigin: string): ApiAddress {
  const base = apiUrl.startsWith("/") ? pageOrigin + (apiUrl === "/" ? "" : apiUrl) : apiUrl;
  return {
    graphql: `${base}/graphql`,
    socket: `${base.replace(/^http/, "ws")}/graphql`,
    auth: `${base}/auth`,
    evidence: `${base}/evidence`,
  };
}

const loopback: ReadonlySet<string> = new Set(["localhost", "127.0.0.1", "[::1]"]);

/**
 * The host this page must be opened under, when it was opened under another name of the same machine: a cookie of `127.0.0.1` is not sent
 * from a page of `localhost`. Undefined when all is well.
 */
export function loopbackHost(apiUrl: string, pageHost: string): string | undefined {
  if (apiUrl.startsWith("/")) return undefined;
  const api = new URL(apiUrl).hostname;
  const page = URL.parse(`http://${pageHost}`);
  if (page === null || page.hostname === api || !loopback.has(api) || !loopback.has(page.hostname))
    return undefined;
  page.hostname = api;
  return page.host;
}
