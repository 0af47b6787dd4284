// Watches a run: one line for each of its events, from the beginning or from where you stopped reading.
//
//   npx node examples/watch-run.ts <run id or slug> [cursor]
//
// MUSTER_API_KEY is an API key with the right run:read, MUSTER_URL the coordinator (http://127.0.0.1:4000). `npx node` is the Node that
// `npm start` installed; any from 22.18 on runs this.

import { attempt, fail, findRun, openCoordinator } from "./coordinator.ts";

const [name, after = "0"] = process.argv.slice(2);
if (name === undefined) fail(2, "Usage: npx node examples/watch-run.ts <run id or slug> [cursor]");

await using client = openCoordinator();
const stop = new AbortController();
process.once("SIGINT", () => stop.abort());

await attempt(async () => {
  const run = await findRun(client, name);
  console.error(
    `${run.name}: ${run.state}, step ${run.step} of ${run.stepLimit}; reading from ${after} (now at ${run.asOf})`,
  );
  // The stream outlives broken connections and restarts of the coordinator; keep `seq` to go on from there another day.
  for await (const { events, resync } of client.events.stream({
    stream: run.id,
    after,
    signal: stop.signal,
  })) {
    if (resync) console.error("Older events are no longer kept; this is not the whole story.");
    for (const { seq, at, type, subject, data } of events) {
      console.log(`${seq}\t${at}\t${type}\t${subject}\t${JSON.stringify(data)}`);
    }
  }
});
