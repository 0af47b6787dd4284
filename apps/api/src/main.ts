import { migrate } from "@muster/db";
import { collectDefaultMetrics } from "prom-client";
import { allLoops } from "./all-loops.ts";
import { readConfig } from "./config.ts";
import { createLogger } from "./log.ts";
import { startServer } from "./server.ts";

// The coordinator as a process. Its first line carries the time the process began, loading its own code included: the time to the first
// training step is measured from there.
const startedAt = new Date(performance.timeOrigin);

try {
  const config = readConfig(process.env);
  const log = createLogger(config.logLevel);
  log.info({ startedAt: startedAt.toISOString() }, "the coordinator starts");
  if (config.migrate) log.info({ applied: await migrate(config.databaseUrl) }, "the database is migrated");
  const server = await startServer(config, { startedAt, log, loops: config.loops ? allLoops : [] });
  collectDefaultMetrics({ register: server.services.metrics.registry });
  const stop = (signal: string) => {
    log.info({ signal }, "stopping");
    // Whatever hangs, the supervisor must not wait for ever.
    setTimeout(() => process.exit(1), 15_000).unref();
    server.stop().then(
      () => process.exit(0),
      (error: unknown) => {
        log.error({ err: error }, "stopping failed");
        process.exit(1);
      },
    );
  };
  process.once("SIGTERM", stop);
  process.once("SIGINT", stop);
  process.on("unhandledRejection", (reason) =>
    log.error({ err: reason }, "a promise was rejected and nobody looked"),
  );
} catch (error) {
  const message = error instanceof Error ? error.message : String(error);
  const hint = message.includes("EADDRINUSE")
    ? " Stop what listens there, or set MUSTER_PORT to another port."
    : "";
  process.stderr.write(`The coordinator did not start: ${message}${hint}\n`);
  process.exitCode = 1;
}
