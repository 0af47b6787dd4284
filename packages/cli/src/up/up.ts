// `muster up`: the whole product on one machine, until it is told to stop. What is started is stopped in the opposite order, also when
// a later part did not start.
import { rmSync } from "node:fs";
import { removePostgres } from "@muster/db";
import { createClient } from "@muster/sdk";
import { type Exit, exitCodes } from "../exit-codes.ts";
import { Failure, interrupted } from "../failure.ts";
import { showProgress } from "../run-progress.ts";
import {
  clearStateFolder,
  lockStateFolder,
  openStateFolder,
  requireFreeDisk,
  type StateFolder,
  writeConnection,
} from "../state-folder.ts";
import type { Terminal } from "../terminal.ts";
import { bootstrap, startCoordinator, untilReady } from "./coordinator.ts";
import { buildDashboard, startDashboard, untilServing } from "./dashboard.ts";
import { startDatabase } from "./database.ts";
import { demoRun } from "./demo-run.ts";
import { followRuns, grantIn } from "./grants.ts";
import { type LocalNode, registerNodes, startNode } from "./nodes.ts";
import { freePort, requireFreePort } from "./ports.ts";
import { type Reach, type ReachOptions, reachOf } from "./reach.ts";
import { type Child, createSupervisor, endLeftovers } from "./supervisor.ts";

export type UpOptions = ReachOptions & {
  workers: number;
  cheaters: number;
  steps: number;
  dashboard: boolean;
  fresh: boolean;
  seed: number;
  stateDir: string;
  apiProcesses: number;
  /** Whether the demo's run is created, or gone on with. */
  demo: boolean;
};

const MIN_FREE_BYTES = 500_000_000;

/** Runs until a signal. @returns the exit: `ok` after SIGTERM, `interrupted` after Ctrl-C. @throws Failure when something does not start. */
export async function up(options: UpOptions, terminal: Terminal): Promise<Exit> {
  requireNode();
  const external = process.env.DATABASE_URL || undefined;
  if (options.fresh && external !== undefined) throw notOurs();
  const reach = reachOf(options);
  const folder = openStateFolder(options.stateDir);
  requireFreeDisk(folder.path, MIN_FREE_BYTES);
  const release = lockStateFolder(folder, {
    url: reach.localUrl,
    dashboardUrl: options.dashboard ? reach.dashboardUrl : undefined,
  });

  const supervisor = createSupervisor(folder, (text) => terminal.note(text));
  terminal.outlive();
  const kills = [() => supervisor.kill()];
  const stop = listenForStop(terminal, () => {
    for (const kill of kills) kill();
    release();
    process.exit(exitCodes.interrupted.code);
  });
  try {
    await using parts = new AsyncDisposableStack();
    parts.defer(() => rmSync(folder.at("connection.json"), { force: true }));
    const { signal } = stop;
    await serve(options, { folder, supervisor, terminal, reach, external, parts, kills, signal });
    terminal.status("");
  } catch (error) {
    if (!stop.signal.aborted) throw error;
  } finally {
    release();
    stop.dispose();
  }
  terminal.note("Stopped. Starting again goes on where it was.");
  return stop.exit();
}

type Scene = {
  folder: StateFolder;
  supervisor: ReturnType<typeof createSupervisor>;
  terminal: Terminal;
  reach: Reach;
  /** The database that DATABASE_URL names. */
  external: string | undefined;
  parts: AsyncDisposableStack;
  /** What a second Ctrl-C does to each part. */
  kills: (() => void)[];
  signal: AbortSignal;
};

/** Starts everything, in order, and serves until the signal. */
async function serve(options: UpOptions, scene: Scene): Promise<void> {
  const { folder, supervisor, terminal, reach, parts, kills, signal } = scene;
  const url = reach.localUrl;
  const note = (text: string) => terminal.note(text);
  await endLeftovers(folder);
  rmSync(folder.at("connection.json"), { force: true });
  const { host } = reach;
  await requireFreePort(options.port, { host, what: "the coordinator", option: "--port" });
  if (options.dashboard) {
    const option = "--dashboard-port";
    await requireFreePort(options.dashboardPort, { host, what: "the dashboard", option });
  }
  if (options.fresh) {
    await removePostgres(folder.at("postgres"));
    clearStateFolder(folder);
    supervisor.prepare();
  }
  if (options.dashboard) await buildDashboard(folder, { note, signal });

  signal.throwIfAborted();
  const apis: Child[] = [];
  const database = await startDatabase(folder, {
    external: scene.external,
    note,
    // The coordinators know only the old address.
    moved: () => void Promise.all(apis.map((api) => api.restart())),
  });
  parts.defer(() => database.stop());
  kills.push(() => database.kill());

  signal.throwIfAborted();
  const urls: string[] = [];
  parts.defer(() => stopAll(apis));
  for (let i = 0; i < options.apiProcesses; i++) {
    const coordinator = startCoordinator(supervisor, folder, {
      ...(i === 0
        ? { name: "api", host, port: options.port }
        : { name: `api-${i + 1}`, host: "127.0.0.1", port: await freePort() }),
      databaseUrl: () => database.url,
      reach,
    });
    apis.push(coordinator.child);
    urls.push(coordinator.url);
    await untilReady(coordinator, signal);
  }

  const { organization, signInUrl, apiKey } = await bootstrap(url, folder, signal);
  const client = createClient({ url, apiKey });
  parts.defer(() => client.close());
  const nodes = await registerNodes(folder, {
    url,
    organization,
    workers: options.workers,
    cheaters: options.cheaters,
    signal,
  });
  const demo = options.demo
    ? await demoRun(client, { organization, seed: options.seed, steps: options.steps, signal })
    : undefined;
  // At once, not at the next look for new runs: the trainer can begin with the base.
  if (demo !== undefined && !demo.resumed) await grantIn(client, demo.run.id, nodes);
  const dashboard = options.dashboard
    ? startDashboard(supervisor, { host, port: options.dashboardPort, apiUrl: reach.dashboardApi })
    : undefined;
  parts.defer(() => dashboard?.stop());
  const children = nodes.map((node, i) =>
    startNode(supervisor, node, {
      url: urls[i % urls.length] ?? url,
      organization,
      dashboardUrl: reach.dashboardUrl,
    }),
  );
  parts.defer(() => stopAll(children));
  if (dashboard !== undefined) await untilServing(`${reach.localDashboardUrl}/sign-in`, dashboard, signal);

  const dashboardUrl = options.dashboard ? reach.dashboardUrl : undefined;
  writeConnection(folder, { url, urls, dashboardUrl, organization, apiKey });
  const link = dashboardUrl === undefined ? undefined : signInLink(signInUrl, dashboardUrl);
  announce(terminal, { reach, dashboardUrl, link, nodes, run: demo?.run.id });
  if (demo?.resumed)
    terminal.say(`Going on with ${demo.run.name} at step ${demo.run.step} of ${demo.run.stepLimit}.`);

  const following = followRuns(client, nodes, { signal, note });
  if (demo !== undefined) {
    try {
      const ended = await showProgress(client, terminal, { run: demo.run.id, signal });
      if (ended !== undefined) terminal.say("Everything goes on serving. Ctrl-C stops it.");
    } catch (error) {
      // Showing the run is the least of what is done here.
      note(`The run cannot be watched: ${error instanceof Error ? error.message : String(error)}`);
    }
  }
  await following;
  terminal.status("");
  note("Stopping; nodes finish or hand back what they have begun …");
}

function announce(
  terminal: Terminal,
  at: {
    reach: Reach;
    dashboardUrl: string | undefined;
    /** None without a dashboard: nothing else answers it. */
    link: string | undefined;
    nodes: readonly LocalNode[];
    run: string | undefined;
  },
): void {
  const { reach, dashboardUrl, link, nodes, run } = at;
  terminal.value({
    type: "ready",
    url: reach.localUrl,
    publicUrl: reach.publicUrl,
    dashboardUrl,
    signInUrl: link,
    run,
    nodes: nodes.map(({ name, id }) => ({ name, id })),
  });
  if (dashboardUrl !== undefined) terminal.say(`Dashboard     ${dashboardUrl}`);
  if (link !== undefined) terminal.say(`Sign in once  ${link}`);
  terminal.say(`API           ${reach.publicUrl}/graphql`);
  if (!reach.open) return;
  terminal.say(`Join          npm run muster -- worker --url ${reach.publicUrl}`);
  if (reach.plainHttp)
    terminal.note(
      "warning: plain HTTP beyond this machine: whoever is on the network can read sign-in links, keys, prompts and weights, and change them.",
    );
}

/** The dashboard's own page with the link's token: opening it spends the token only when the page's script runs. */
function signInLink(signInUrl: string, dashboardUrl: string): string {
  const token = URL.parse(signInUrl)?.searchParams.get("token");
  return token == null ? signInUrl : `${dashboardUrl}/sign-in?token=${encodeURIComponent(token)}`;
}

async function stopAll(children: readonly Child[]): Promise<void> {
  await Promise.all(children.map((child) => child.stop()));
}

type Stop = { signal: AbortSignal; exit(): Exit; dispose(): void };

/** The first signal stops in order; another one, a second later or more, kills. */
function listenForStop(terminal: Terminal, kill: () => void): Stop {
  const stop = new AbortController();
  let exit: Exit = "ok";
  let first = 0;
  const heard = (name: NodeJS.Signals) => {
    if (!stop.signal.aborted) {
      first = performance.now();
      exit = name === "SIGINT" ? "interrupted" : "ok";
      stop.abort(interrupted());
      return;
    }
    // npm passes a Ctrl-C on that the terminal has sent already: the same one twice.
    if (performance.now() - first < 1_000) return;
    terminal.note("Killing what still runs.");
    kill();
  };
  const names = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
  for (const name of names) process.on(name, heard);
  return {
    signal: stop.signal,
    exit: () => exit,
    dispose: () => {
      for (const name of names) process.off(name, heard);
    },
  };
}

/** The rows of a kept database would name keys and blobs that are gone. */
function notOurs(): Failure {
  return new Failure({
    exit: "failed",
    code: "DATABASE_NOT_OURS",
    what: "--fresh begins anew, but the database that DATABASE_URL names is not ours to empty. Name an empty one and a new folder with --state-dir <folder>, or use the bundled database.",
    fix: ["unset DATABASE_URL"],
  });
}

function requireNode(): void {
  const [major = 0, minor = 0] = process.versions.node.split(".").map(Number);
  if (major > 22 || (major === 22 && minor >= 18)) return;
  throw new Failure({
    exit: "failed",
    code: "NODE_TOO_OLD",
    what: `This is Node ${process.versions.node}; Muster needs 22.18 or newer, and brings its own.`,
    fix: ["npm start"],
  });
}
