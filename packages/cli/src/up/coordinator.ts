import { readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Failure } from "../failure.ts";
import { type StateFolder, secretOf } from "../state-folder.ts";
import type { Reach } from "./reach.ts";
import { repository } from "./repository.ts";
import type { Child, Supervisor } from "./supervisor.ts";

export type Coordinator = { readonly url: string; readonly child: Child };

/** Starts one API process. All of them are equal; any may lead. */
export function startCoordinator(
  supervisor: Supervisor,
  folder: StateFolder,
  options: {
    name: string;
    host: string;
    port: number;
    databaseUrl: () => string;
    reach: Pick<Reach, "publicUrl" | "dashboardUrl" | "plainHttp" | "trustProxy">;
  },
): Coordinator {
  const { reach } = options;
  const url = `http://127.0.0.1:${options.port}`;
  const secret = secretOf(folder, "secret");
  const operatorToken = secretOf(folder, "operator-token");
  const child = supervisor.start({
    name: options.name,
    args: [join(repository, "apps", "api", "src", "main.ts")],
    cwd: repository,
    grace: 10_000,
    credentials: true,
    env: () => ({
      NODE_ENV: "production",
      DATABASE_URL: options.databaseUrl(),
      MUSTER_HOST: options.host,
      MUSTER_PORT: String(options.port),
      MUSTER_PUBLIC_URL: reach.publicUrl,
      MUSTER_DASHBOARD_URL: reach.dashboardUrl,
      MUSTER_PLAIN_HTTP: reach.plainHttp ? "1" : "0",
      MUSTER_TRUST_PROXY: reach.trustProxy ? "1" : "0",
      MUSTER_STATE_DIR: folder.path,
      MUSTER_SECRET: secret,
      MUSTER_OPERATOR_TOKEN: operatorToken,
      MUSTER_LOOPS: "1",
    }),
  });
  return { url, child };
}

/** Resolves when it can serve. @throws Failure `API_FAILED` when it keeps ending, or is not ready in a minute. */
export async function untilReady({ url, child }: Coordinator, signal: AbortSignal): Promise<void> {
  const deadline = performance.now() + 60_000;
  let last = "it does not answer";
  while (performance.now() < deadline && child.ends < 3) {
    signal.throwIfAborted();
    try {
      const response = await fetch(`${url}/readyz`, {
        signal: AbortSignal.any([signal, AbortSignal.timeout(5_000)]),
      });
      if (response.ok) return void (await response.body?.cancel());
      last = (await response.text()).slice(0, 300);
    } catch (error) {
      signal.throwIfAborted();
      last = error instanceof Error ? error.message : String(error);
    }
    await sleep(150, undefined, { signal });
  }
  throw new Failure({
    exit: "failed",
    code: "API_FAILED",
    what: "The coordinator did not start.",
    why: child.ends > 0 ? endOfLog(child.logFile) : `After a minute: ${last}`,
    fix: [`cat ${child.logFile}`],
  });
}

export type Bootstrapped = { organization: string; signInUrl: string; apiKey: string };

/** Creates the local organization and its owner when they are not there, and answers a sign-in link that works once. */
export async function bootstrap(
  url: string,
  folder: StateFolder,
  signal: AbortSignal,
): Promise<Bootstrapped> {
  const response = await fetch(`${url}/operator/bootstrap`, {
    method: "POST",
    headers: {
      authorization: `Bearer ${secretOf(folder, "operator-token")}`,
      "content-type": "application/json",
    },
    body: JSON.stringify({ organizationName: "Demo", email: "you@muster.localhost" }),
    signal,
  });
  const text = await response.text();
  if (!response.ok) {
    throw new Failure({
      exit: "failed",
      code: "BOOTSTRAP_FAILED",
      what: `The coordinator did not make the local organization: ${response.status} ${text.slice(0, 300)}`,
    });
  }
  const answer: unknown = JSON.parse(text);
  if (isBootstrapped(answer)) return answer;
  throw new Failure({
    exit: "failed",
    code: "BOOTSTRAP_FAILED",
    what: "The coordinator's answer about the local organization does not read.",
    why: "The API and this program may be of different versions.",
  });
}

function isBootstrapped(value: unknown): value is Bootstrapped {
  if (typeof value !== "object" || value === null) return false;
  const { organization, signInUrl, apiKey } = value as Partial<Record<keyof Bootstrapped, unknown>>;
  return typeof organization === "string" && typeof signInUrl === "string" && typeof apiKey === "string";
}

function endOfLog(file: string): string {
  try {
    const lines = readFileSync(file, "utf8").split("\n");
    // What happened stands above the stack, which says nothing to whoever starts this.
    const telling = lines.filter((line) => line.trim() !== "" && !/^\s+at |^Node\.js v/.test(line)).slice(-5);
    return `its log ends with:\n${telling.map((line) => `    ${line.slice(0, 400)}`).join("\n")}`;
  } catch {
    return "it left no log.";
  }
}
