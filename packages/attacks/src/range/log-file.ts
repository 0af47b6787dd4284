import { appendFileSync } from "node:fs";
import type { Log } from "@muster/worker";

/** What an attack's nodes say, in a file: on the scoreboard it would be in the way. */
export function logFile(path: string): Log {
  const make = (bound: object): Log => {
    const at =
      (level: string): Log["info"] =>
      (first: object | string, second?: string) => {
        const [fields, message] = typeof first === "string" ? [{}, first] : [first, second];
        appendFileSync(
          path,
          `${JSON.stringify({ time: new Date(), level, message, ...bound, ...fields })}\n`,
        );
      };
    return {
      debug: at("debug"),
      info: at("info"),
      warn: at("warn"),
      error: at("error"),
      child: (fields) => make({ ...bound, ...fields }),
    };
  };
  return make({});
}
