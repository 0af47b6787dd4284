import { randomBytes } from "node:crypto";
import { encodeRolloutPack, generatePayloadSchema, toTypeId } from "@muster/protocol";
import { afterAll, describe, expect, test } from "vitest";
import { claimTasks, type Lease } from "../src/tasks/claim.ts";
import { expireLeases } from "../src/tasks/expiry.ts";
import { completeTask, releaseTask } from "../src/tasks/lease.ts";
import { mostPackBytes } from "../src/tasks/pack-size.ts";
import { claim, publishBase, put, signed, startRun, type TestRun } from "./runkit.ts";
import { tasksOf } from "./taskkit.ts";
import { codes, startTestServer, type TestNode } from "./testkit.ts";

const server = await startTestServer();
afterAll(() => server.stop());
const { runWithTasks, openGenerate, submit, lapse, taskState, attemptStates } = tasksOf(server);

describe("the fence", () => {
  test("a submission in time is taken, the same one again is a duplicate, another one has lost", async () => {
    const run = await runWithTasks(1);
    const lease = await claim(server, run, run.worker, "GENERATE");
    expect((await submit(lease, run.worker)).kind).toBe("fresh");
    await server.prisma.$transaction((tx) => completeTask(tx, { id: lease.taskId }));
    expect((await submit(lease, run.worker)).kind).toBe("duplicate");
    expect((await submit(lease, run.worker, "b".repeat(64))).kind).toBe("lost");
    expect(await taskState(lease.taskId)).toBe("DONE");
    expect(await attemptStates(lease.taskId)).toEqual(["SUBMITTED"]);
  });

  test("of two different submissions at once exactly one is taken", async () => {
    const run = await runWithTasks(1);
    const lease = await claim(server, run, run.worker, "GENERATE");
    const fences = await Promise.all([submit(lease, run.worker), submit(lease, run.worker, "b".repeat(64))]);
    expect(fences.map((fence) => fence.kind).sort()).toEqual(["fresh", "lost"]);
  });

  test("a late submit wins while nobody newer holds the task, before and after the sweep", async () => {
    for (const swept of [false, true]) {
      const run = await runWithTasks(1);
      const lease = await claim(server, run, run.worker, "GENERATE");
      await lapse(lease);
      if (swept) {
        await expireLeases(server.ctx());
        expect(await taskState(lease.taskId)).toBe("OPEN");
      }
      expect((await submit(lease, run.worker)).kind).toBe("fresh");
      expect(await attemptStates(lease.taskId)).toEqual(["SUBMITTED"]);
      expect(
        await claimTasks(server.ctx(await server.node()), { kinds: ["GENERATE"], max: 1, runId: run.id }),
      ).toEqual([]);
    }
  });

  test("a late submit loses once somebody else has claimed, and the other one's counts", async () => {
    const run = await runWithTasks(1);
    const late = await claim(server, run, run.worker, "GENERATE");
    await lapse(late);
    await expireLeases(server.ctx());
    const other = await server.node();
    const lease = await claim(server, run, other, "GENERATE");
    expect(lease).toMatchObject({ taskId: late.taskId, attempt: 2 });
    expect(await submit(late, run.worker)).toEqual({
      kind: "lost",
      message: expect.stringContaining("Attempt 2 has begun since"),
    });
    expect((await submit(lease, other)).kind).toBe("fresh");
    expect(await attemptStates(late.taskId)).toEqual(["EXPIRED", "SUBMITTED"]);
  });

  test("a sweep and a late submit at once: whichever comes first, the submission counts once", async () => {
    for (let round = 0; round < 10; round++) {
      const run = await runWithTasks(1);
      const lease = await claim(server, run, run.worker, "GENERATE");
      await lapse(lease);
      const [fence] = await Promise.all(
        round % 2 === 0
          ? [submit(lease, run.worker), expireLeases(server.ctx())]
          : [submit(lease, run.worker), Promise.resolve().then(() => expireLeases(server.ctx()))],
      );
      expect(fence.kind).toBe("fresh");
      expect(await taskState(lease.taskId)).toBe("SUBMITTED");
      expect(await attemptStates(lease.taskId)).toEqual(["SUBMITTED"]);
    }
  });

  test("nobody submits for another node", async () => {
    const run = await runWithTasks(1);
    const lease = await claim(server, run, run.worker, "GENERATE");
    expect((await submit(lease, await server.node())).kind).toBe("lost");
    expect(await taskState(lease.taskId)).toBe("LEASED");
  });
});

describe("a submission", () => {
  const mutation =
    "mutation($input: SubmitPackInput!) { submitRollouts(input: $input) { __typename ... on LeaseLost { message } ... on SubmissionRefused { message } } }";
  const submitRollouts = (run: TestRun, node: TestNode, lease: Lease, pack: string) =>
    server.graphql<{ submitRollouts: { __typename: string; message?: string } }>(
      mutation,
      {
        input: {
          task: toTypeId("task", lease.taskId),
          attempt: lease.attempt,
          pack,
          signature: signed(run, node, lease, pack),
        },
      },
      node,
    );

  test("that cannot win is answered before a byte is read", async () => {
    const run = await startRun(server);
    await openGenerate(run, 1);
    const lease = await claim(server, run, run.worker, "GENERATE");
    await releaseTask(server.ctx(run.worker), { ...lease, reason: "no" });
    // Reading it would fail: there is no such blob.
    const { data } = await submitRollouts(run, run.worker, lease, "ab".repeat(32));
    expect(data?.submitRollouts.__typename).toBe("LeaseLost");
  });

  test("is no larger than its task can need, stored or named", async () => {
    const run = await startRun(server);
    await openGenerate(run, 1);
    const lease = await claim(server, run, run.worker, "GENERATE");
    const most = mostPackBytes(run.spec, "GENERATE");
    expect(most).toBeLessThan(200_000);
    await expect(put(server, run.worker, lease, "ROLLOUTS", randomBytes(most + 1))).rejects.toThrow("413");
    const foreign = await server.services.blobs.putBytes(randomBytes(most + 1));
    expect(codes(await submitRollouts(run, run.worker, lease, foreign))).toEqual(["BLOB_TOO_LARGE"]);
  });

  test("of garbage is refused with a reason that can be stored", async () => {
    const run = await startRun(server);
    await publishBase(server, run);
    const lease = await claim(server, run, run.worker, "GENERATE");
    const payload = generatePayloadSchema.parse(lease.payload);
    const bytes = Buffer.from(
      encodeRolloutPack({
        header: {
          kind: "rollouts",
          version: 1,
          manifest: payload.manifest,
          form: "f32",
          topK: payload.topK,
          run: run.typeId,
          task: toTypeId("task", lease.taskId),
        },
        rollouts: [
          {
            index: 0,
            prompt: Int32Array.of(1),
            tokens: Int32Array.of(1),
            logprobs: Float32Array.of(-1),
            finish: "length",
            proofs: [],
          },
        ],
      }),
    );
    // Of the same length: a field whose name no database can hold.
    const [known, odd] = ['"form":"f32"', '"\\u0000":"x"'];
    bytes.write(odd, bytes.indexOf(known));
    const pack = await put(server, run.worker, lease, "ROLLOUTS", bytes);
    const { data } = await submitRollouts(run, run.worker, lease, pack);
    expect(data?.submitRollouts.__typename).toBe("SubmissionRefused");
    const { reason } = await server.prisma.attempt.findFirstOrThrow({
      where: { taskId: lease.taskId, number: lease.attempt },
    });
    expect(reason).toBe(data?.submitRollouts.message);
    expect(reason).toContain("header");
  });
});
