// Writes a run's accepted rollouts as JSON lines, one rollout a line, for training elsewhere or for reading.
//
//   npx node examples/export-rollouts.ts <run id or slug> [least reward] > rollouts.jsonl
//
// MUSTER_API_KEY is an API key with the rights run:read and rollout:read, MUSTER_URL the coordinator (http://127.0.0.1:4000). `npx node`
// is the Node that `npm start` installed; any from 22.18 on runs this.

import { attempt, fail, findRun, openCoordinator } from "./coordinator.ts";

const [name, least = "0"] = process.argv.slice(2);
if (name === undefined || Number.isNaN(Number(least)))
  fail(2, "Usage: npx node examples/export-rollouts.ts <run id or slug> [least reward]");

await using client = openCoordinator();

await attempt(async () => {
  const run = name.startsWith("run_") ? name : (await findRun(client, name)).id;
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
});
