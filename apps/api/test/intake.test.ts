import { encodeRolloutPack, type PackedRollout, type RolloutPack, toTypeId } from "@muster/protocol";
import { beforeAll, describe, expect, test } from "vitest";
import { put, type TestRun } from "./runkit.ts";
import { startTestServer } from "./testkit.ts";
import {
  attemptsOf,
  claimGenerate,
  standing,
  startWatching,
  submission,
  submitPack,
  watchedRun,
} from "./watchkit.ts";

const { server, packs } = await startWatching();

describe("intake refuses", () => {
  let run: TestRun;
  beforeAll(async () => {
    run = await watchedRun(server);
  });

  const first = (
    pack: RolloutPack,
    change: (rollout: PackedRollout) => Partial<PackedRollout>,
  ): RolloutPack => ({
    ...pack,
    rollouts: pack.rollouts.map((rollout, i) => (i === 0 ? { ...rollout, ...change(rollout) } : rollout)),
  });
  const faults: [string, (pack: RolloutPack) => Uint8Array, string][] = [
    [
      "another prompt",
      (pack) =>
        encodeRolloutPack(first(pack, ({ prompt }) => ({ prompt: prompt.map((token) => (token + 1) % 10) }))),
      "Rollout 0: its prompt is not the example's.",
    ],
    [
      "a proof that is cut short",
      (pack) =>
        encodeRolloutPack(
          first(pack, ({ proofs }) => ({ proofs: proofs.map((proof) => proof.slice(0, -4)) })),
        ),
      "Rollout 0: proof 0 is malformed.",
    ],
    [
      "a rollout without its proof",
      (pack) => encodeRolloutPack(first(pack, () => ({ proofs: [] }))),
      "Rollout 0: it has 0 proofs",
    ],
    [
      "a missing rollout",
      (pack) => encodeRolloutPack({ ...pack, rollouts: pack.rollouts.slice(0, -1) }),
      "There are 3 rollouts; 4 were asked for.",
    ],
    [
      "a rollout too many",
      (pack) =>
        encodeRolloutPack({
          ...pack,
          rollouts: [
            ...pack.rollouts,
            ...pack.rollouts.slice(-1).map((rollout) => ({ ...rollout, index: 4 })),
          ],
        }),
      "The pack does not read:",
    ],
    [
      "an output longer than the model",
      (pack) =>
        encodeRolloutPack(
          first(pack, () => ({ tokens: new Int32Array(5_000).fill(1), logprobs: new Float32Array(5_000) })),
        ),
      "The pack does not read:",
    ],
    [
      "the pack of another task",
      (pack) => encodeRolloutPack({ ...pack, header: { ...pack.header, task: toTypeId("task", run.id) } }),
      "The pack's task is",
    ],
    [
      "bytes that are no pack",
      () => new TextEncoder().encode("PAR1 nothing PAR1"),
      "The pack does not read:",
    ],
    [
      "an end that it did not come to",
      (pack) =>
        encodeRolloutPack(first(pack, ({ finish }) => ({ finish: finish === "eos" ? "length" : "eos" }))),
      "Rollout 0: it says that it ended at",
    ],
  ];
  test.each(faults)("%s, with the reason stored, and the task opens again", async (_name, spoil, reason) => {
    // A node of its own each time: three refusals quarantine.
    const node = await server.node();
    const lease = await claimGenerate(server, run, node);
    const bytes = spoil(await packs.rollouts(run, lease));
    const answer = await submitPack(server, run, lease, bytes, node);
    expect(answer).toMatchObject({
      __typename: "SubmissionRefused",
      code: "PACK_INVALID",
      message: expect.stringContaining(reason),
    });
    // The same again: the same answer, and no second mark against the node.
    expect(await submitPack(server, run, lease, bytes, node)).toEqual(answer);
    expect(await standing(server, run, node)).toMatchObject({ rejected: 1, accepted: 0 });
    expect(await attemptsOf(server, run, lease)).toMatchObject({ state: "OPEN" });
    const attempt = await server.prisma.attempt.findUniqueOrThrow({
      where: { taskId_number: { taskId: lease.taskId, number: lease.attempt } },
    });
    expect(attempt).toMatchObject({ state: "SUBMITTED", reason: answer.message, packHash: answer.pack });
    expect(await server.prisma.group.count({ where: { taskId: lease.taskId } })).toBe(0);
    // The next test finds a task with all its attempts.
    await server.prisma.task.update({
      where: { id: lease.taskId },
      data: { maxAttempts: lease.attempt + 5 },
    });
  });

  test("a pack larger than a pack may be before it is stored", async () => {
    const narrow = await startTestServer({ sharing: server, loops: [], config: { maxPackBytes: 100 } });
    const node = await server.node();
    const lease = await claimGenerate(server, run, node);
    await expect(put(narrow, node, lease, "ROLLOUTS", new Uint8Array(101))).rejects.toThrow("BLOB_TOO_LARGE");
    await narrow.stop();
    expect(await attemptsOf(server, run, lease)).toMatchObject({ state: "LEASED" });
  });

  test("a pack that was never stored, without costing the attempt", async () => {
    const node = await server.node();
    const lease = await claimGenerate(server, run, node);
    const answer = await server.graphql(
      "mutation($input: SubmitPackInput!) { submitRollouts(input: $input) { __typename } }",
      { input: submission(run, node, lease, "0".repeat(64)) },
      node,
    );
    expect(answer.errors?.[0]?.extensions.code).toBe("BLOB_NOT_FOUND");
    expect(await attemptsOf(server, run, lease)).toMatchObject({ state: "LEASED" });
  });
});
