// Which coordinator a command speaks to, and as whom: what the command line says, else the environment, else the installation that
// runs in the state folder.
import type { MusterClient } from "@muster/sdk";
import { Failure } from "./failure.ts";
import { findStateFolder, readConnection } from "./state-folder.ts";

export type GlobalOptions = {
  json: boolean;
  debug: boolean;
  url?: string;
  apiKey?: string;
  stateDir: string;
};

const defaultUrl = "http://127.0.0.1:4000";

/** Where the coordinator is, and who said so. @throws Failure `USAGE` when what they said is no URL. */
export function coordinatorUrl(options: GlobalOptions): { url: string; source: string } {
  const found = choose(options);
  const protocol = URL.parse(found.url)?.protocol;
  if (protocol === "http:" || protocol === "https:") return found;
  throw new Failure({
    exit: "usage",
    code: "USAGE",
    what: `"${found.url}" (${found.source}) is not a coordinator's URL; write it like ${defaultUrl}.`,
  });
}

function choose(options: GlobalOptions): { url: string; source: string } {
  if (options.url !== undefined) return { url: options.url, source: "--url" };
  if (process.env.MUSTER_URL) return { url: process.env.MUSTER_URL, source: "MUSTER_URL" };
  const running = runningHere(options);
  if (running !== undefined) return { url: running.url, source: options.stateDir };
  return { url: defaultUrl, source: "default" };
}

/** A client with the caller's API key; without a key it is anonymous and the coordinator says what that is not enough for. */
export async function openClient(options: GlobalOptions): Promise<MusterClient> {
  const { createClient } = await import("@muster/sdk");
  const { url } = coordinatorUrl(options);
  const apiKey = options.apiKey ?? (process.env.MUSTER_API_KEY || keyFor(options, url));
  return createClient({ url, ...(apiKey === undefined ? {} : { apiKey }) });
}

/** The local installation's key goes to that installation and nowhere else. */
function keyFor(options: GlobalOptions, url: string): string | undefined {
  const running = runningHere(options);
  return running?.url === url.replace(/\/+$/, "") ? running.apiKey : undefined;
}

/**
 * The API key of the installation that runs in the state folder.
 * @throws Failure `NOT_RUNNING` when none does.
 */
export function localApiKey(options: GlobalOptions): string {
  const key = runningHere(options)?.apiKey;
  if (key !== undefined) return key;
  throw new Failure({
    exit: "failed",
    code: "NOT_RUNNING",
    what: `Nothing runs in ${options.stateDir}, and a local key is made anew at every start.`,
    fix: ["npm start"],
  });
}

function runningHere({ stateDir }: GlobalOptions): { url: string; apiKey: string } | undefined {
  try {
    const folder = findStateFolder(stateDir);
    return folder === undefined ? undefined : readConnection(folder);
  } catch {
    // Another user's folder, or somebody else's: nothing runs here for us.
    return undefined;
  }
}
