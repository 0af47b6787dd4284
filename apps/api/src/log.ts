import { type DestinationStream, type Logger, pino } from "pino";

/** Structured logs, one JSON object a line, on standard output unless told otherwise. What could open a door is never written. */
export function createLogger(level: string, destination: DestinationStream = pino.destination(1)): Logger {
  const options = {
    level,
    base: { pid: process.pid },
    timestamp: pino.stdTimeFunctions.isoTime,
    redact: {
      paths: secretPaths.flatMap((path) => [path, `*.${path}`, `*.headers.${path}`, `headers.${path}`]),
      censor: "[hidden]",
    },
  };
  return pino(options, destination);
}

const secretPaths = [
  "authorization",
  "cookie",
  '["set-cookie"]',
  '["x-api-key"]',
  "token",
  "secret",
  "password",
];
