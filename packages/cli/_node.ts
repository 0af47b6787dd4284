import { createLog, runWorker } from "@muster/worker";

const [url, stateDir, roles, name] = process.argv.slice(2);
const stop = new AbortController();
process.on("SIGTERM", () => stop.abort());
await runWorker({
  url: url!,
  stateDir: stateDir!,
  roles: roles!.split(",").map((r) => r.toUpperCase()) as never,
  name: name!,
  threads: 1,
  signal: stop.signal,
  drainSeconds: 2,
  log: createLog("debug"),
} as never);
