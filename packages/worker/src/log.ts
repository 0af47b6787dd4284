import { type Logger, pino } from "pino";

export type { Logger };

/** The worker's log: one JSON object a line on standard output. @param options.level `info` when left out; `silent` for none. */
export function createLog(options: { level?: string; name?: string } = {}): Logger {
  return pino({ name: options.name ?? "worker", level: options.level ?? "info" });
}
