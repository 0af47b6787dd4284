import type { JsonValue } from "@muster/protocol";

/** One measurement. */
export type Bench = {
  /** Names of the whole numbers it takes, each with what it is when left out. */
  options?: Readonly<Record<string, number>>;
  /** Names of what it is told by being there or not. */
  flags?: readonly string[];
  /** Measures, tells people with `say`, and answers the figures of `--json`. */
  run(
    say: (line: string) => void,
    options: Readonly<Record<string, number>>,
    flags: ReadonlySet<string>,
  ): Promise<Record<string, JsonValue>>;
};

/**
 * Milliseconds of one call: the median of `rounds` calls after as many to warm up.
 * @param act answers its result, so that no call can be optimised away.
 */
export function medianMs(rounds: number, act: (round: number) => unknown): number {
  const times: number[] = [];
  for (let round = 0; round < 2 * rounds; round++) {
    const start = performance.now();
    const result = act(round);
    const ms = performance.now() - start;
    if (result === undefined) throw new Error("A measured call answered nothing; return its result.");
    if (round >= rounds) times.push(ms);
  }
  return times.sort((a, b) => a - b)[rounds >> 1]!;
}

/** CPU-seconds of this process, all its threads together, while `act` ran. */
export async function cpuSeconds(act: () => Promise<unknown>): Promise<number> {
  const before = process.cpuUsage();
  await act();
  const { user, system } = process.cpuUsage(before);
  return (user + system) / 1e6;
}
