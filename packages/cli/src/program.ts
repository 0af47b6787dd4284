// The command line: what may be said, and what each command is given. The work itself is loaded when its command is called, so that
// `--help` does not wait for it.
import { hostname } from "node:os";
import { join, resolve } from "node:path";
import { Command, CommanderError, InvalidArgumentError, Option } from "commander";
import { type Ended, usage, wholeNumber, withClient } from "./arguments.ts";
import { coordinatorUrl, type GlobalOptions, localApiKey } from "./connection.ts";
import { type Exit, exitCodeHelp, exitCodes } from "./exit-codes.ts";
import { describe, type Failure, failureJson, failureOf } from "./failure.ts";
import { openTerminal, type Terminal } from "./terminal.ts";
import { addVerificationCommands } from "./verification-commands.ts";

/**
 * Runs one command line to its end.
 * @param args without the program's own name.
 * @returns the process' exit code: see `exitCodes`.
 */
export async function runCli(args: readonly string[]): Promise<number> {
  // Known before anything is parsed: a mistake in the rest is told in the form that was asked for.
  const json = args.includes("--json");
  const terminal = openTerminal({ json });
  let exit: Exit = "ok";
  const program = buildProgram(terminal, (code) => {
    exit = code;
  });
  try {
    await program.parseAsync([...args], { from: "user" });
    return exitCodes[exit].code;
  } catch (error) {
    // `--help` and `--version` end by an error that is none.
    if (error instanceof CommanderError && error.exitCode === 0) return exitCodes.ok.code;
    if (error instanceof CommanderError && error.code === "commander.help") {
      terminal.note("error: Say which command; --help describes each.");
      return exitCodes.usage.code;
    }
    const failure = await failureOf(error);
    terminal.status("");
    if (json) terminal.note(JSON.stringify(failureJson(failure)));
    else terminal.note(describe(failure));
    if (args.includes("--debug")) terminal.note(stackOf(failure));
    return exitCodes[failure.exit].code;
  }
}

function buildProgram(terminal: Terminal, ended: (exit: Exit) => void): Command {
  const program = new Command("muster")
    .description("Reinforcement learning on machines that nobody has to trust.")
    .version("0.1.0")
    .option("--json", "JSON on standard output, nothing else there", false)
    .option(
      "--url <url>",
      "the coordinator (MUSTER_URL; else the one that runs here, else http://127.0.0.1:4000)",
    )
    .option(
      "--api-key <key>",
      "who you are (MUSTER_API_KEY; else the key of the installation that runs here)",
    )
    .addOption(stateDirOption())
    .option("--debug", "show where an error came from", false)
    .configureOutput({ writeErr: () => {} })
    .exitOverride()
    .showSuggestionAfterError()
    .addHelpText("after", exitCodeHelp());
  addUp(program, terminal, ended);
  addWorker(program, terminal, ended);
  addRelay(program, terminal, ended);
  addDoctor(program, terminal, ended);
  addRuns(program, terminal, ended);
  addNodes(program, terminal);
  addVerificationCommands(program, terminal, ended);
  addApiKey(program, terminal);
  addDemoSpec(program, terminal);
  addInvariants(program, terminal, ended);
  return program;
}

function addUp(program: Command, terminal: Terminal, ended: Ended): void {
  program
    .command("up")
    .description(
      "run everything on this machine: database, coordinator, dashboard, nodes and a demo run (npm start)",
    )
    .option("--workers <n>", "nodes that generate", wholeNumber(0, 64), 3)
    .option(
      "--cheaters <n>",
      "nodes that generate with an older policy than they claim",
      wholeNumber(0, 64),
      0,
    )
    .option("--steps <n>", "training steps of a new demo run", wholeNumber(1, 1_000_000), 100)
    .option("--seed <n>", "seed of a new demo run", wholeNumber(0, 2 ** 31), 1)
    .option("--port <port>", "the coordinator's port", wholeNumber(1, 65_535), 4000)
    .option("--dashboard-port <port>", "the dashboard's port (default: the next one)", wholeNumber(1, 65_535))
    .addOption(
      new Option("--host <address>", "where both listen: 127.0.0.1, or 0.0.0.0 for other machines, too")
        .env("MUSTER_HOST")
        .default("127.0.0.1"),
    )
    .addOption(
      new Option("--public-url <url>", "the https address of a proxy before the coordinator").env(
        "MUSTER_PUBLIC_URL",
      ),
    )
    .addOption(
      new Option("--dashboard-url <url>", "where people open the dashboard (default: follows)").env(
        "MUSTER_DASHBOARD_URL",
      ),
    )
    .option("--trust-proxy", "believe a proxy on another machine who the client is (MUSTER_TRUST_PROXY=1)")
    .option(
      "--plain-http",
      "serve other machines without TLS: only where everyone may read everything (MUSTER_PLAIN_HTTP=1)",
    )
    .option("--no-dashboard", "without the dashboard")
    .option("--no-demo", "without a demo run")
    .addOption(new Option("--no-run", "the same as --no-demo").hideHelp())
    .option("--api-processes <n>", "coordinator processes on the one database", wholeNumber(1, 16), 1)
    .option("--fresh", "remove what an earlier start left in the state folder first", false)
    .addHelpText(
      "after",
      "\nStarting again goes on where it was; when the demo run has ended, a new one begins. Ctrl-C stops everything in order; a second one kills.\n\nExamples:\n  npm start\n  npm start -- --workers 2 --cheaters 1 --steps 50\n  npm start -- --port 5000 --state-dir /data/muster\n  npm start -- --public-url https://muster.example      behind a TLS proxy: docs/deploy.md\n  npm start -- --host 0.0.0.0 --plain-http              in a network you trust",
    )
    .action(async (_options, command: Command) => {
      const { port, dashboardPort, run, demo, ...options } = command.optsWithGlobals<
        GlobalOptions & {
          workers: number;
          cheaters: number;
          steps: number;
          seed: number;
          port: number;
          dashboardPort?: number;
          dashboard: boolean;
          demo: boolean;
          run: boolean;
          apiProcesses: number;
          fresh: boolean;
          host: string;
          publicUrl?: string;
          dashboardUrl?: string;
          trustProxy?: boolean;
          plainHttp?: boolean;
        }
      >();
      if (dashboardPort === undefined && port === 65_535)
        throw usage("Port 65535 has no next one; say --dashboard-port <port>, too.");
      if (dashboardPort === port)
        throw usage("The coordinator and the dashboard cannot share a port; give them two.");
      const { up } = await import("./up/up.ts");
      ended(
        await up(
          {
            ...options,
            port,
            dashboardPort: dashboardPort ?? port + 1,
            demo: demo && run,
            publicUrl: options.publicUrl || undefined,
            dashboardUrl: options.dashboardUrl || undefined,
            trustProxy: options.trustProxy ?? switched("MUSTER_TRUST_PROXY"),
            plainHttp: options.plainHttp ?? switched("MUSTER_PLAIN_HTTP") ?? false,
          },
          terminal,
        ),
      );
    });
}

function addWorker(program: Command, terminal: Terminal, ended: Ended): void {
  program
    .command("worker")
    .description("let this machine work for a coordinator")
    .option(
      "--state <folder>",
      "the node's own folder: its key and its checkpoints (default: .muster/node here, else ~/.muster/node)",
    )
    .option("--run <id>", "work for this run only, also with granted roles; may be given again", ids("run"))
    .option(
      "--organization <id>",
      "work for this organization's runs only, also with granted roles; may be given again",
      ids("org"),
    )
    .option(
      "--roles <list>",
      "what it does: worker, validator, trainer, evaluator; all but worker must be granted",
      "worker",
    )
    .option(
      "--providers <list>",
      "execution providers in the order they are tried: cuda, webgpu, dml, coreml, cpu",
    )
    .option("--threads <n>", "threads inside one operator", wholeNumber(1, 256), 1)
    .option("--name <name>", "shown to people (default: this host's name)")
    .option(
      "--drain-seconds <n>",
      "how long the task in hand may go on after Ctrl-C or SIGTERM",
      wholeNumber(0, 3_600),
      25,
    )
    .option(
      "--relay",
      "relay checkpoints besides, where that is granted; takes the options of `relay`, too",
      false,
    )
    .addOption(portOption())
    .addOption(hostOption())
    .addOption(publicUrlOption())
    .addOption(uplinkOption())
    .addOption(regionOption())
    .addOption(budgetOption())
    .addHelpText(
      "after",
      "\nWithout --run and --organization it generates for every open run, and does nothing else.\n\nExamples:\n  npm run muster -- worker --url https://muster.example\n  npm run muster -- worker --url https://muster.example --roles validator,evaluator --organization org_…",
    )
    .action(async (_options, command: Command) => {
      const options = command.optsWithGlobals<
        GlobalOptions & {
          state?: string;
          run?: string[];
          organization?: string[];
          roles: string;
          providers?: string;
          threads: number;
          name?: string;
          drainSeconds: number;
          relay: boolean;
        } & RelayFlags
      >();
      const { nodeFolder, parseProviders, parseRoles, work } = await import("./worker.ts");
      const { executionProviders } = await import("@muster/policy");
      const state = options.state === undefined ? nodeFolder(options.stateDir) : resolve(options.state);
      const { relayOptions } = await import("./relay.ts");
      const exit = await work(
        {
          url: coordinatorUrl(options).url,
          state,
          relay: options.relay ? relayOptions(options, join(state, "relay")) : undefined,
          worksFor: [...(options.run ?? []), ...(options.organization ?? [])],
          roles: parseRoles(options.roles),
          providers: options.providers === undefined ? executionProviders : parseProviders(options.providers),
          threads: options.threads,
          name: options.name ?? hostname(),
          drainSeconds: options.drainSeconds,
          dashboardUrl: process.env.MUSTER_DASHBOARD_URL || undefined,
        },
        terminal,
      );
      ended(exit);
    });
}

type RelayFlags = {
  port: number;
  host: string;
  publicUrl?: string;
  uplink: number;
  region?: string;
  budget: number;
};

function addRelay(program: Command, terminal: Terminal, ended: Ended): void {
  program
    .command("relay")
    .description("keep the newest checkpoints of a run and pass them on to its nodes")
    .option("--run <id>", "relay for this run; may be given again", ids("run"))
    .option("--organization <id>", "relay for this organization's runs; may be given again", ids("org"))
    .option("--parent <url>", "pull from here, whatever the coordinator assigns: a mirror or another relay")
    .addOption(portOption())
    .addOption(hostOption())
    .addOption(publicUrlOption())
    .addOption(uplinkOption())
    .addOption(regionOption())
    .addOption(budgetOption())
    .option(
      "--dir <folder>",
      "its own folder: its key and the checkpoints (default: .muster/relay here, else ~/.muster/relay)",
    )
    .option("--name <name>", "shown to people (default: this host's name)")
    .addOption(new Option("--api <url>", "the same as --url").hideHelp())
    .addHelpText(
      "after",
      "\nThe organizer grants it once: npm run muster -- runs grant <run> <node> relay. What it takes is in docs/relay.md.\n\nExamples:\n  npm run muster -- relay --url https://muster.example --run run_… --public-url https://relay.example --uplink 1000\n  npm run muster -- relay --run run_… --parent https://cdn.example/store/{ab}/{sha256}",
    )
    .action(async (_options, command: Command) => {
      const options = command.optsWithGlobals<
        GlobalOptions &
          RelayFlags & {
            run?: string[];
            organization?: string[];
            parent?: string;
            dir?: string;
            name?: string;
            api?: string;
          }
      >();
      const worksFor = [...(options.run ?? []), ...(options.organization ?? [])];
      if (worksFor.length === 0)
        throw usage("Say for whom it relays: --run <id> or --organization <id>. `runs list` shows the ids.");
      const { relay, relayFolder, relayOptions } = await import("./relay.ts");
      const dir = options.dir === undefined ? relayFolder(options.stateDir) : resolve(options.dir);
      const { url } = coordinatorUrl(options.api === undefined ? options : { ...options, url: options.api });
      ended(
        await relay(
          {
            url,
            dir,
            worksFor,
            name: options.name ?? hostname(),
            relay: relayOptions(options, dir, options.parent),
          },
          terminal,
        ),
      );
    });
}

const portOption = () =>
  new Option("--port <port>", "the relay's port").argParser(wholeNumber(1, 65_535)).default(4010);
const hostOption = () =>
  new Option("--host <address>", "where the relay listens: 127.0.0.1 behind a TLS proxy, or 0.0.0.0").default(
    "127.0.0.1",
  );
const publicUrlOption = () =>
  new Option("--public-url <url>", "where others reach the relay (default: where it listens)");
const uplinkOption = () =>
  new Option("--uplink <Mbit/s>", "what the relay's uplink carries; the tree is built from it")
    .argParser(wholeNumber(1, 1_000_000))
    .default(100);
const regionOption = () =>
  new Option("--region <name>", "where the relay is, such as eu-west; relays of a region are put together");
const budgetOption = () =>
  new Option("--budget <GiB>", "what the relay may keep on the disk")
    .argParser(wholeNumber(1, 65_536))
    .default(20);

function addDoctor(program: Command, terminal: Terminal, ended: Ended): void {
  program
    .command("doctor")
    .description("look whether this machine has what Muster needs, and how to mend what is missing")
    .action(async (_options, command: Command) => {
      const options = command.optsWithGlobals<GlobalOptions>();
      const { doctor } = await import("./doctor/doctor.ts");
      const { url, source } = coordinatorUrl(options);
      ended(
        await doctor({ url, urlGiven: source !== "default", stateDir: resolve(options.stateDir) }, terminal),
      );
    });
}

function addRuns(program: Command, terminal: Terminal, ended: Ended): void {
  const runs = program.command("runs").description("look at runs, create and steer them");
  runs
    .command("list")
    .description("the runs you may see")
    .addOption(
      new Option("--state <state>", `only those in this state: ${runStates.join(", ")}`).argParser(runState),
    )
    .action((_options, command: Command) =>
      withClient(command, async (client, signal) => {
        const { listRuns } = await import("./runs.ts");
        await listRuns(client, terminal, { state: command.opts().state, signal });
      }),
    );
  runs
    .command("show <run>")
    .description("one run, by its id or slug")
    .action((run: string, _options, command: Command) =>
      withClient(command, async (client, signal) => {
        const { showRun } = await import("./runs.ts");
        await showRun(client, terminal, { run, signal });
      }),
    );
  runs
    .command("create <spec>")
    .description("create a run from a file in TOML or JSON, and start it")
    .addOption(
      new Option("--credits <n>", "its budget in credits, such as 120 or 0.5")
        .argParser(credits)
        .default("1000000000", "1000"),
    )
    .option("--organization <id>", "whose run it is (default: your only organization)")
    .option("--no-start", "leave it a DRAFT; `runs resume` starts it")
    .addHelpText(
      "after",
      "\nExamples:\n  npm run --silent muster -- demo-spec > spec.json\n  npm run muster -- runs create spec.json",
    )
    .action((file: string, _options, command: Command) =>
      withClient(command, async (client, signal) => {
        const { createRun } = await import("./runs.ts");
        const {
          credits: budget,
          organization,
          start,
        } = command.opts<{ credits: string; organization?: string; start: boolean }>();
        await createRun(client, terminal, { file, credits: budget, organization, start, signal });
      }),
    );
  runs
    .command("watch <run>")
    .description("follow a run to its end; exit code 1 when it ends other than COMPLETED")
    .action((run: string, _options, command: Command) =>
      withClient(command, async (client, signal) => {
        const { watchRun } = await import("./runs.ts");
        ended(await watchRun(client, terminal, { run, signal }));
      }),
    );
  const actions = {
    pause: "stop handing out work; what is under way is finished",
    resume: "start a draft, or go on after a pause",
    cancel: "end a run for good",
  };
  for (const [action, description] of Object.entries(actions) as ["pause" | "resume" | "cancel", string][]) {
    runs
      .command(`${action} <run>`)
      .description(description)
      .option("--reason <text>", "why, for the others")
      .action((run: string, _options, command: Command) =>
        withClient(command, async (client, signal) => {
          const { controlRun } = await import("./runs.ts");
          await controlRun(client, terminal, { run, action, reason: command.opts().reason, signal });
        }),
      );
  }
  runs
    .command("grant <run> <node> <role>")
    .description("let a node be validator, trainer, evaluator or relay in a run")
    .option("--revoke", "take the role away again", false)
    .action((run: string, node: string, role: string, _options, command: Command) =>
      withClient(command, async (client, signal) => {
        const { grantRole } = await import("./runs.ts");
        await grantRole(client, terminal, { run, node, role, revoke: command.opts().revoke, signal });
      }),
    );
}

function addNodes(program: Command, terminal: Terminal): void {
  const nodes = program.command("nodes").description("look at nodes");
  nodes
    .command("list")
    .description("the nodes you may see")
    .option("--run <id>", "only those of this run")
    .action((_options, command: Command) =>
      withClient(command, async (client, signal) => {
        const { listNodes } = await import("./nodes.ts");
        await listNodes(client, terminal, { run: command.opts().run, signal });
      }),
    );
  nodes
    .command("reinstate <run> <node>")
    .description("lift a node's quarantine in a run; all of its work is audited again at first")
    .requiredOption("--reason <text>", "why, for the audit log")
    .action((run: string, node: string, _options, command: Command) =>
      withClient(command, async (client, signal) => {
        const { reinstateNode } = await import("./nodes.ts");
        await reinstateNode(client, terminal, { run, node, reason: command.opts().reason, signal });
      }),
    );
}

function addApiKey(program: Command, terminal: Terminal): void {
  program
    .command("api-key")
    .description("print the key of the installation that runs here, for programs of this machine")
    .addHelpText(
      "after",
      "\nIt may do everything and is replaced at every start. Lasting keys with fewer rights are made in the dashboard, under Settings.\n\nExample:\n  export MUSTER_API_KEY=$(npm run --silent muster -- api-key)",
    )
    .action((_options, command: Command) => {
      const apiKey = localApiKey(command.optsWithGlobals<GlobalOptions>());
      terminal.value({ apiKey });
      terminal.say(apiKey);
    });
}

function addDemoSpec(program: Command, terminal: Terminal): void {
  program
    .command("demo-spec")
    .description("print the demo's run spec, complete, as JSON to begin from")
    .option("--seed <n>", "number of the seed", wholeNumber(0, 2 ** 31), 1)
    .option("--steps <n>", "training steps", wholeNumber(1, 1_000_000), 100)
    .option("--name <name>", "the run's name")
    .action(async (options: { seed: number; steps: number; name?: string }) => {
      const { demoRunSpec } = await import("@muster/protocol");
      const spec = demoRunSpec(options);
      terminal.value(spec);
      terminal.say(JSON.stringify(spec, null, 2));
    });
}

function addInvariants(program: Command, terminal: Terminal, ended: Ended): void {
  program
    .command("invariants")
    .description("check in the database what must hold at every moment; exit code 1 when something does not")
    .option("--database-url <url>", "the database (DATABASE_URL; else the one in the state folder)")
    .option("--grace-seconds <n>", "how long sweepers may take for what is due", wholeNumber(0, 86_400), 90)
    .action(async (_options, command: Command) => {
      const { databaseUrl, graceSeconds, stateDir } = command.optsWithGlobals<
        GlobalOptions & { databaseUrl?: string; graceSeconds: number }
      >();
      const { invariantsCommand } = await import("./invariants/command.ts");
      const url = databaseUrl ?? (process.env.DATABASE_URL || undefined);
      ended(await invariantsCommand({ databaseUrl: url, graceSeconds, stateDir }, terminal));
    });
}

function stateDirOption(): Option {
  return new Option("--state-dir <folder>", "where a local installation keeps everything")
    .env("MUSTER_STATE_DIR")
    .default(".muster");
}

/** TypeIDs of one kind, gathered over every time the option is given. */
function ids(prefix: "run" | "org"): (text: string, before: string[] | undefined) => string[] {
  return (text, before = []) => {
    if (text.startsWith(`${prefix}_`)) return [...before, text];
    throw new InvalidArgumentError(`It must be an id that begins with ${prefix}_; \`runs list\` shows them.`);
  };
}

/** A switch of the environment; undefined when it is not set. */
function switched(variable: string): boolean | undefined {
  const value = process.env[variable];
  return value === undefined || value === "" ? undefined : value === "1" || value === "true";
}

function credits(text: string): string {
  const match = /^(\d{1,12})(?:\.(\d{1,6}))?$/.exec(text);
  if (match === null)
    throw new InvalidArgumentError("It must be an amount of credits, with at most six decimals.");
  return String(BigInt(match[1] ?? "0") * 1_000_000n + BigInt((match[2] ?? "").padEnd(6, "0")));
}

const runStates = ["DRAFT", "RUNNING", "PAUSED", "COMPLETED", "CANCELLED", "FAILED"] as const;

function runState(text: string): (typeof runStates)[number] {
  const found = runStates.find((state) => state === text.toUpperCase());
  if (found !== undefined) return found;
  throw new InvalidArgumentError(`It must be one of ${runStates.join(", ")}.`);
}

function stackOf(failure: Failure): string {
  const root = failure.cause ?? failure;
  return root instanceof Error ? (root.stack ?? String(root)) : String(root);
}
