import { type Logger, pino } from "pino";

/** Structured logs on standard output, one JSON object a line. What could open a door is never written. */
export function createLogger(level: string): Logger {
  return pino({
    level,
    base: { pid: process.pid },
    timestamp: pino.stdTimeFunctions.isoTime,
    redact: {
      paths: secretPaths.flatMap((path) => [path, `*.${path}`, `*.headers.${path}`, `headers.${path}`]),
      censor: "[hidden]",
    },
  });
}

const secretPaths = ["authorization", "cookie", '["set-cookie"]', '["x-api-key"]', "token", "secret", "password"];
