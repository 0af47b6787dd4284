import { type Logger, pino } from "pino";

/** Where a worker tells what it does: pino's logger fits, and so does anything else with these methods. */
export type Log = {
  debug: LogLine;
  info: LogLine;
  warn: LogLine;
  error: LogLine;
  /** The same log, which adds these fields to every line. */
  child(fields: Record<string, unknown>): Log;
};

type LogLine = {
  (fields: object, message?: string): void;
  (message: string): void;
};

/** A log of one JSON object a line on standard output. @param options.level `info` when left out; `silent` for none. */
export function createLog(options: { level?: string; name?: string } = {}): Logger {
  return pino({ name: options.name ?? "worker", level: options.level ?? "info" });
}
