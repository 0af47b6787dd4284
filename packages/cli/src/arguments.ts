// What the commands have in common: how arguments are read, and how a command gets its client.
import { type Command, InvalidArgumentError } from "commander";
import { type GlobalOptions, openClient } from "./connection.ts";
import { type Exit, exitCodes } from "./exit-codes.ts";
import { Failure } from "./failure.ts";

/** How a command says what it ended with. */
export type Ended = (exit: Exit) => void;

type Client = Awaited<ReturnType<typeof openClient>>;

/** Gives a command its client, and Ctrl-C a way to end its calls. */
export async function withClient(
  command: Command,
  work: (client: Client, signal: AbortSignal) => Promise<void>,
): Promise<void> {
  await using client = await openClient(command.optsWithGlobals<GlobalOptions>());
  const stop = new AbortController();
  const interrupt = () => {
    if (stop.signal.aborted) process.exit(exitCodes.interrupted.code);
    stop.abort();
  };
  process.on("SIGINT", interrupt);
  try {
    await work(client, stop.signal);
  } finally {
    process.off("SIGINT", interrupt);
  }
}

export function wholeNumber(least: number, most: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (/^\d+$/.test(text) && value >= least && value <= most) return value;
    throw new InvalidArgumentError(`It must be a whole number from ${least} to ${most}.`);
  };
}

/** Credits as micro-credits, which the API counts in. */
/** A list of whole numbers, separated by commas. */
export function wholeNumbers(least: number, most: number): (text: string) => number[] {
  const one = wholeNumber(least, most);
  return (text) => text.split(",").map((word) => one(word.trim()));
}

export function usage(what: string): Failure {
  return new Failure({ exit: "usage", code: "USAGE", what });
}
