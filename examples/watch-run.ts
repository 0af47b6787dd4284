// Watches a run: one line for each of its events, from the beginning or from where you stopped reading.
//
//   node examples/watch-run.ts <run id or slug> [cursor]
//
// MUSTER_URL names the coordinator (http://127.0.0.1:4000), MUSTER_API_KEY an API key with the scope run:read.

import { createClient } from "@muster/sdk";

const [name, after = "0"] = process.argv.slice(2);
if (name === undefined) {
  console.error("Usage: node examples/watch-run.ts <run id or slug> [cursor]");
  process.exit(2);
}
const apiKey = process.env.MUSTER_API_KEY;
await using client = createClient({
  url: process.env.MUSTER_URL ?? "http://127.0.0.1:4000",
  ...(apiKey ? { apiKey } : {}),
});
const stop = new AbortController();
process.once("SIGINT", () => stop.abort());

const run = await client.runs.get(name.startsWith("run_") ? { id: name } : { slug: name });
console.error(
  `${run.name}: ${run.state}, step ${run.step} of ${run.stepLimit}; reading from ${after} (now at ${run.asOf})`,
);

// The stream outlives broken connections and restarts of the coordinator; keep `seq` to go on from there another day.
for await (const { events, resync } of client.events.stream({ stream: run.id, after, signal: stop.signal })) {
  if (resync) console.error("Older events are no longer kept; this is not the whole story.");
  for (const { seq, at, type, subject, data } of events) {
    console.log(`${seq}\t${at}\t${type}\t${subject}\t${JSON.stringify(data)}`);
  }
}
