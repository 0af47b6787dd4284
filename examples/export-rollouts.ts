// Writes a run's accepted rollouts as JSON lines, one rollout a line, for training elsewhere or for reading.
//
//   node examples/export-rollouts.ts <run id> [least reward] > rollouts.jsonl
//
// MUSTER_URL names the coordinator (http://127.0.0.1:4000),
// MUSTER_API_KEY an API key with the scopes run:read and rollout:read.

import { createClient } from "@muster/sdk";

const [run, least = "0"] = process.argv.slice(2);
if (run === undefined) {
  console.error("Usage: node examples/export-rollouts.ts <run id> [least reward]");
  process.exit(2);
}
const apiKey = process.env.MUSTER_API_KEY;
await using client = createClient({
  url: process.env.MUSTER_URL ?? "http://127.0.0.1:4000",
  ...(apiKey ? { apiKey } : {}),
});

let written = 0;
// Pages are fetched as the loop gets to them, so a run of any length fits in memory.
for await (const group of client.runs.groups({ run, state: "ACCEPTED" })) {
  for (const rollout of group.rollouts) {
    if (rollout.reward < Number(least)) continue;
    const line = {
      id: rollout.id,
      group: group.id,
      policyVersion: group.policyVersion,
      step: group.step,
      prompt: group.prompt,
      completion: rollout.preview,
      finishReason: rollout.finishReason,
      reward: rollout.reward,
      advantage: rollout.advantage,
    };
    console.log(JSON.stringify(line));
    written++;
  }
}
console.error(`${written} rollouts`);
