// The commands by which anyone checks a verdict, and by which an organizer sets and applies the rules of verification.
import { type Command, InvalidArgumentError, Option } from "commander";
import { type Ended, usage, wholeNumber, wholeNumbers, withClient } from "./arguments.ts";
import type { GlobalOptions } from "./connection.ts";
import type { Terminal } from "./terminal.ts";

export function addVerificationCommands(program: Command, terminal: Terminal, ended: Ended): void {
  addVerify(program, terminal, ended);
  addCalibrate(program, terminal, ended);
  addCases(program, terminal);
}

function addVerify(program: Command, terminal: Terminal, ended: Ended): void {
  program
    .command("verify [what]")
    .description(
      "judge a verdict again: from a bundle in a file, or from that of a rollout or group; exit code 1 when anything differs",
    )
    .option("--run <id>", "every judged group of a run")
    .option("--checkpoint <path>", "folder or model.safetensors of the policy, when the bundle has none")
    .option(
      "--coordinator-key <hex>",
      "Ed25519 key that must have signed the bundle (default with an id: the one the coordinator publishes)",
      publicKey,
    )
    .option("--save <path>", "keep the bundle; with --run, a folder for all of them")
    .option("--measure", "run the tokens through the policy here, too (the default)")
    .option("--no-measure", "believe the stored measurement and only judge it again")
    .addOption(providersOption("execution provider to measure with").default("cpu"))
    .addHelpText(
      "after",
      "\nExamples:\n  muster verify group_01h455vb4pex5vsknk084sn02q --save case.evidence\n  muster verify case.evidence --coordinator-key <hex>",
    )
    .action(async (what: string | undefined, _options, command: Command) => {
      const options = command.optsWithGlobals<
        GlobalOptions & {
          run?: string;
          checkpoint?: string;
          coordinatorKey?: string;
          save?: string;
          measure?: boolean;
          providers: string;
        }
      >();
      if ((what === undefined) === (options.run === undefined))
        throw usage("Say what to verify: a file, the id of a rollout or group, or --run <id>.");
      const { isId, verifyFile, verifyIds, verifyRun } = await import("./verify/command.ts");
      const { parseProviders } = await import("./worker.ts");
      const { checkpoint, coordinatorKey, save, measure = true } = options;
      const settings = {
        checkpoint,
        coordinatorKey,
        save,
        measure,
        providers: parseProviders(options.providers),
      };
      if (what !== undefined && !isId(what)) return ended(await verifyFile(what, settings, terminal));
      await withClient(command, async (client, signal) => {
        ended(
          what === undefined
            ? await verifyRun(client, { run: options.run ?? "", ...settings, signal }, terminal)
            : await verifyIds(client, { id: what, ...settings, signal }, terminal),
        );
      });
    });
}

function addCalibrate(program: Command, terminal: Terminal, ended: Ended): void {
  program
    .command("calibrate")
    .description(
      "derive a run's thresholds from honest machines and the attacks that come closest, and prove that they hold",
    )
    .option("--run <id>", "the run, by its id or slug")
    .option("--spec <file>", "a run spec in TOML or JSON, without a run")
    .option("--checkpoint <path>", "folder or model.safetensors (default: the run's newest version)")
    .option("--windows <n>", "fresh honest windows to prove the thresholds on", wholeNumber(1, 1e9), 2_000)
    .addOption(
      providersOption("execution providers; the others are compared with the first").default("cpu,wasm"),
    )
    .option(
      "--batch-sizes <list>",
      "rollouts at once",
      wholeNumbers(1, 4_096),
      [1, 2, 4, 8, 16, 32, 64, 128, 256],
    )
    .option("--threads <list>", "threads inside one operator", wholeNumbers(1, 64), [1, 2])
    .option("--apply", "give the run these thresholds, as a new revision of its spec", false)
    .option("--out <file>", "write everything that was measured to this file, as JSON")
    .addHelpText(
      "after",
      "\nExamples:\n  muster calibrate --run sort-digits --windows 100000 --out calibration.json\n  muster calibrate --spec spec.json --checkpoint ./checkpoint",
    )
    .action(async (_options, command: Command) => {
      const { run, spec, apply, providers, checkpoint, out, ...rest } = command.optsWithGlobals<
        GlobalOptions & {
          run?: string;
          spec?: string;
          checkpoint?: string;
          windows: number;
          providers: string;
          batchSizes: number[];
          threads: number[];
          apply: boolean;
          out?: string;
        }
      >();
      if (apply && run === undefined) throw usage("--apply gives thresholds to a run; say which with --run.");
      const { calibrate } = await import("./calibrate/command.ts");
      const { parseProviders } = await import("./worker.ts");
      const { windows, batchSizes, threads } = rest;
      const grid = {
        windows,
        batchSizes,
        threads,
        providers: parseProviders(providers),
        apply,
        out,
        checkpoint,
      };
      if (run !== undefined && spec === undefined) {
        return withClient(command, async (client, signal) =>
          ended(await calibrate({ of: { run, client }, ...grid, signal }, terminal)),
        );
      }
      if (spec === undefined || run !== undefined)
        throw usage("Say what to calibrate: --run <id> or --spec <file>.");
      const signal = new AbortController().signal;
      ended(await calibrate({ of: { spec }, ...grid, signal }, terminal));
    });
}

function addCases(program: Command, terminal: Terminal): void {
  const cases = program
    .command("cases")
    .description("rejected groups: look at them, dispute them, decide them");
  cases
    .command("list <run>")
    .description("the cases of a run, newest first")
    .option("--state <state>", `only those in this state: ${caseStates.join(", ")}`, caseState)
    .action((run: string, _options, command: Command) =>
      withClient(command, async (client, signal) => {
        const { listCases } = await import("./cases.ts");
        await listCases(client, terminal, { run, state: command.opts().state, signal });
      }),
    );
  cases
    .command("show <case>")
    .description("one case, and how to check it yourself")
    .action((id: string, _options, command: Command) =>
      withClient(command, async (client, signal) => {
        const { showCase } = await import("./cases.ts");
        await showCase(client, terminal, { case: id, signal });
      }),
    );
  cases
    .command("dispute <case>")
    .description("say, as the owner of the accused node, why the rejection is wrong")
    .requiredOption("--statement <text>", "at most 2000 characters")
    .action((id: string, _options, command: Command) =>
      withClient(command, async (client, signal) => {
        const { disputeCase } = await import("./cases.ts");
        await disputeCase(client, terminal, { case: id, statement: command.opts().statement, signal });
      }),
    );
  cases
    .command("decide <case> <decision>")
    .description("end a dispute: UPHELD, the rejection stands, or OVERTURNED, as if it had not happened")
    .requiredOption("--reason <text>", "why, for the node and the audit log")
    .action((id: string, decision: string, _options, command: Command) =>
      withClient(command, async (client, signal) => {
        const { decideCase } = await import("./cases.ts");
        await decideCase(client, terminal, { case: id, decision, reason: command.opts().reason, signal });
      }),
    );
}

function providersOption(description: string): Option {
  return new Option("--providers <list>", `${description}: cpu, wasm, cuda, webgpu, dml, coreml`);
}

function publicKey(text: string): string {
  if (/^[0-9a-f]{64}$/i.test(text)) return text.toLowerCase();
  throw new InvalidArgumentError("It must be 64 hexadecimal digits.");
}

export const caseStates = ["OPEN", "UPHELD", "OVERTURNED"] as const;

function caseState(text: string): (typeof caseStates)[number] {
  const found = caseStates.find((state) => state === text.toUpperCase());
  if (found !== undefined) return found;
  throw new InvalidArgumentError(`It must be one of ${caseStates.join(", ")}.`);
}
