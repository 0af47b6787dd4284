import { parseArgs } from "node:util";
import { fullScale, type Scale, smallScale } from "./plan.ts";

export const usage = `npm run simulate -- [options]      a database full of runs, for screenshots, tests and performance
  --small               a second or two of it, unless other numbers are given
  --runs <n>            runs, at least 3 (${fullScale.runs})
  --workers <n>         machines (10k)
  --rollouts <n>        rollouts of the past (1M)
  --points <n>          values of metrics (10M)
  --groups <n>          groups that are claimed, submitted, measured and trained by the coordinator's own functions (10k)
  --longest <n>         tokens of the longest rollout (32k)
  --seed <n>            the same seed makes the same past (1)
  --events <n>/s        afterwards, or in a simulation that is there: go on live at this rate until Ctrl-C
  --duration <n>s       … or for so long
  --into                also in a database that holds other runs
  --database-url <url>  the database (DATABASE_URL; else the one in the state folder)
  --state-dir <folder>  of the installation (.muster)
  --json                the last line is one JSON object
`;

export type Options = {
  readonly scale: Scale;
  readonly seed: string;
  /** Events a second of live mode; null: none. */
  readonly rate: number | null;
  /** Null: until it is stopped. */
  readonly seconds: number | null;
  readonly into: boolean;
  readonly databaseUrl: string | undefined;
  readonly stateDir: string;
  readonly json: boolean;
};

/** @returns null when help was asked for. @throws Error that says what is wrong with them */
export function readOptions(args: readonly string[]): Options | null {
  const text = { type: "string" } as const;
  const flag = { type: "boolean", default: false } as const;
  const { values } = parseArgs({
    args: [...args],
    options: {
      small: flag,
      into: flag,
      json: flag,
      help: flag,
      runs: text,
      workers: text,
      rollouts: text,
      points: text,
      groups: text,
      longest: text,
      events: text,
      duration: text,
      seed: { ...text, default: "1" },
      "database-url": text,
      "state-dir": { ...text, default: ".muster" },
    },
  });
  if (values.help) return null;
  const preset = values.small ? smallScale : fullScale;
  const number = (
    name: "runs" | "workers" | "rollouts" | "points" | "groups" | "longest",
    usual: number,
    least: number,
  ) => {
    const given = values[name];
    return given === undefined ? usual : quantity(given, { name: `--${name}`, least });
  };
  return {
    scale: {
      runs: number("runs", preset.runs, 3),
      workers: number("workers", preset.workers, 20),
      rollouts: number("rollouts", preset.rollouts, 1_000),
      points: number("points", preset.points, 0),
      groups: number("groups", preset.groups, 0),
      longestTokens: number("longest", preset.longestTokens, 0),
    },
    seed: values.seed,
    rate:
      values.events === undefined
        ? null
        : quantity(values.events, { name: "--events", unit: "/s", least: 1 }),
    seconds:
      values.duration === undefined
        ? null
        : quantity(values.duration, { name: "--duration", unit: "s", least: 1 }),
    into: values.into,
    databaseUrl: values["database-url"],
    stateDir: values["state-dir"],
    json: values.json,
  };
}

/** `10M`, `32k`, `3000/s`, `60s`. */
function quantity(
  text: string,
  { name, unit = "", least }: { name: string; unit?: string; least: number },
): number {
  const plain = unit !== "" && text.endsWith(unit) ? text.slice(0, -unit.length) : text;
  const [, digits, factor] = /^(\d+(?:\.\d+)?)([kM]?)$/.exec(plain) ?? [];
  const value = Math.round(Number(digits) * (factor === "M" ? 1e6 : factor === "k" ? 1e3 : 1));
  if (digits === undefined || !(value >= least))
    throw new Error(
      `${name}: "${text}" is not a number of ${least} or more, such as 500, 10k or 2M${unit === "" ? "" : `, with ${unit} behind it or not`}.`,
    );
  return value;
}
