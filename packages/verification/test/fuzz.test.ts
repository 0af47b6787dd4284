import { expect, test } from "vitest";
import { fuzz } from "./fuzz.ts";

test("thousands of wrong inputs crash nothing, stall nothing and are not accepted", {
  timeout: 120_000,
}, () => {
  const { figures, found, reached } = fuzz({ inputs: 6_000, seed: 1 });
  expect(found).toEqual([]);
  expect(figures).toMatchObject({ crashes: 0, stalls: 0, accepted: 0 });
  // A mutation that is refused at the door tests nothing behind it: some of every kind must come through.
  for (const stage of [
    "rollout pack, values: judged",
    "rollout pack, values: accepted",
    "rollout pack, bytes: judged",
    "measurement pack, values: judged",
    "measurement pack, values: read",
    "proof: judged",
    "evidence, sealed again: accepted",
  ])
    expect(Object.keys(reached)).toContain(stage);
});
