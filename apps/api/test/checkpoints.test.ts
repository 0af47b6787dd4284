import { createHash } from "node:crypto";
import { toTypeId } from "@muster/protocol";
import { afterAll, describe, expect, test } from "vitest";
import { cancelRun } from "../src/runs/lifecycle.ts";
import { submitStep } from "../src/training/submit-step.ts";
import {
  claim,
  countTasks,
  eventsOf,
  prepareStep,
  publishBase,
  publishStep,
  runRow,
  type StepFault,
  sealedRun,
  signed,
  startRun,
} from "./runkit.ts";
import { startTestServer } from "./testkit.ts";

const server = await startTestServer();
afterAll(() => server.stop());

describe("publishing a version", () => {
  test("a base becomes version 0 through GraphQL, and every node of the run may read it", async () => {
    const run = await startRun(server);
    const input = await prepareStep(server, run, await claim(server, run, run.trainer, "BASE"));
    const { taskId, ...rest } = input;
    const mutation =
      "mutation($input: SubmitStepInput!) { submitStep(input: $input) { __typename ... on Submitted { task state duplicate } } }";
    const submitted = { __typename: "Submitted", task: toTypeId("task", taskId), state: "DONE" };
    const variables = { input: { ...rest, task: toTypeId("task", taskId) } };
    expect(await server.ask(mutation, variables, run.trainer)).toEqual({
      submitStep: { ...submitted, duplicate: false },
    });
    expect(await server.ask(mutation, variables, run.trainer)).toEqual({
      submitStep: { ...submitted, duplicate: true },
    });
    expect(await runRow(server, run)).toMatchObject({ currentVersion: 0, step: 0 });
    const checkpoint = await server.prisma.checkpoint.findFirstOrThrow({ where: { runId: run.id } });
    expect(checkpoint).toMatchObject({
      version: 0,
      parentVersion: null,
      manifestHash: input.manifest,
      stateHash: input.state,
      state: "AVAILABLE",
      trainerNodeId: run.trainer.id,
    });
    const shard = await server.prisma.packReference.findFirstOrThrow({
      where: { runId: run.id, kind: "SHARD" },
    });
    for (const sha256 of [input.manifest, shard.sha256]) {
      const response = await fetch(`${server.url}/blobs/${sha256}`, { headers: run.worker.headers });
      expect(
        createHash("sha256")
          .update(new Uint8Array(await response.arrayBuffer()))
          .digest("hex"),
      ).toBe(sha256);
    }
    expect((await eventsOf(server, run, "checkpoint.available")).map((event) => event.data)).toEqual([
      {
        version: 0,
        parent: null,
        manifest: input.manifest,
        size: Number(checkpoint.size),
        trainer: run.trainer.typeId,
      },
    ]);
    const query =
      "query($id: ID!) { run(id: $id) { checkpoints { edges { node { version manifestHash state } } } } }";
    expect(await server.ask(query, { id: run.typeId }, run.worker)).toEqual({
      run: {
        checkpoints: { edges: [{ node: { version: 0, manifestHash: input.manifest, state: "AVAILABLE" } }] },
      },
    });
  });

  const faults: [string, StepFault, string][] = [
    ["a weight that is not finite", { weights: (flat) => flat.fill(Number.NaN, 7, 8) }, "not finite"],
    [
      "an infinite weight at the very end",
      { weights: (flat) => flat.fill(Number.POSITIVE_INFINITY, flat.length - 1) },
      "not finite",
    ],
    ["another parent", { parent: 0, version: 1 }, "version 1"],
    [
      "another model",
      { config: (config) => Object.assign(config, { num_hidden_layers: 9 }) },
      "num_hidden_layers",
    ],
    ["a state that is not finite", { state: "nan" }, "not finite"],
    ["a state of another size", { state: "short" }, "The state must hold"],
  ];
  test.each(faults)(
    "%s is refused with the reason, and the task opens again",
    async (_name, fault, reason) => {
      const run = await startRun(server);
      const lease = await claim(server, run, run.trainer, "BASE");
      const input = await prepareStep(server, run, lease, fault);
      const refused = {
        kind: "refused",
        taskId: lease.taskId,
        code: "PACK_INVALID",
        message: expect.stringContaining(reason),
      };
      expect(await submitStep(server.ctx(run.trainer), input)).toEqual(refused);
      expect(await submitStep(server.ctx(run.trainer), input)).toEqual(refused);
      expect(await countTasks(server, run, "BASE")).toEqual({ OPEN: 1 });
      expect((await runRow(server, run)).currentVersion).toBeNull();
      expect((await publishStep(server, run, await claim(server, run, run.trainer, "BASE"))).kind).toBe(
        "submitted",
      );
    },
  );

  test("a manifest signed by somebody else is refused", async () => {
    const run = await startRun(server);
    const outcome = await publishStep(server, run, await claim(server, run, run.trainer, "BASE"), {
      signer: run.worker,
    });
    expect(outcome).toMatchObject({ kind: "refused", message: expect.stringContaining("signature") });
  });

  test("a submission signed with another key is refused, without costing the attempt", async () => {
    const run = await startRun(server);
    const lease = await claim(server, run, run.trainer, "BASE");
    const input = await prepareStep(server, run, lease);
    const forged = { ...input, signature: signed(run, run.worker, lease, input.manifest) };
    await expect(submitStep(server.ctx(run.trainer), forged)).rejects.toMatchObject({
      code: "SIGNATURE_INVALID",
    });
    expect((await submitStep(server.ctx(run.trainer), input)).kind).toBe("submitted");
  });

  test("a shard that was never uploaded is asked for, without costing the attempt", async () => {
    const run = await startRun(server);
    const lease = await claim(server, run, run.trainer, "BASE");
    const input = await prepareStep(server, run, lease, {
      withoutShards: true,
      weights: (flat) => flat.fill(123.456),
    });
    await expect(submitStep(server.ctx(run.trainer), input)).rejects.toMatchObject({
      code: "BLOB_NOT_FOUND",
    });
    expect(await countTasks(server, run, "BASE")).toEqual({ LEASED: 1 });
  });

  test("what another run was given cannot be published by its hash", async () => {
    const [theirs, ours] = [await startRun(server), await startRun(server)];
    const foreign = await prepareStep(server, theirs, await claim(server, theirs, theirs.trainer, "BASE"));
    expect((await submitStep(server.ctx(theirs.trainer), foreign)).kind).toBe("submitted");
    // The same weights make the same shards; our trainer names them and never had them.
    const lease = await claim(server, ours, ours.trainer, "BASE");
    const input = await prepareStep(server, ours, lease, { withoutShards: true });
    const mutation = "mutation($input: SubmitStepInput!) { submitStep(input: $input) { __typename } }";
    const submit = async (more: Partial<typeof input> = {}) => {
      const { taskId, ...rest } = { ...input, ...more };
      const signature = signed(ours, ours.trainer, lease, rest.manifest);
      const variables = { input: { ...rest, signature, task: toTypeId("task", taskId) } };
      const { data, errors } = await server.graphql(mutation, variables, ours.trainer);
      return errors?.[0] === undefined ? data : [errors[0].extensions.code, errors[0].message.split(" ")[0]];
    };
    expect(await submit()).toEqual(["BLOB_NOT_FOUND", "Shard"]);
    expect(await submit({ manifest: foreign.manifest })).toEqual(["BLOB_NOT_FOUND", "Manifest"]);
    const unknown = "0".repeat(64);
    expect(await submit({ state: unknown })).toEqual(["BLOB_NOT_FOUND", "State"]);
    expect(await submit({ manifest: unknown })).toEqual(["BLOB_NOT_FOUND", "Manifest"]);
    const shard = await server.prisma.packReference.findFirstOrThrow({
      where: { runId: theirs.id, kind: "SHARD" },
    });
    expect(await server.prisma.packReference.count({ where: { runId: ours.id, sha256: shard.sha256 } })).toBe(
      0,
    );
    // Who has the bytes may send them, and then the attempt goes on.
    await prepareStep(server, ours, lease);
    expect(await submit()).toEqual({ submitStep: { __typename: "Submitted" } });
  });

  test("the version a run starts from, of its own organization, may be published again as it is", async () => {
    const parent = await startRun(server);
    await publishBase(server, parent);
    const base = { kind: "checkpoint" as const, run: parent.typeId, version: 0 };
    const child = await startRun(server, { base }, { organization: parent.organization });
    const lease = await claim(server, child, child.trainer, "BASE");
    expect((await publishStep(server, child, lease, { withoutShards: true })).kind).toBe("submitted");
  });

  test("uploads that no version took are let go at the next version and at the run's end", async () => {
    const run = await sealedRun(server);
    const notes = () =>
      server.prisma.packReference.count({
        where: { runId: run.id, taskId: { not: null }, kind: { in: ["SHARD", "MANIFEST"] } },
      });
    expect(await notes()).toBe(0);
    const lease = await claim(server, run, run.trainer, "TRAIN");
    await prepareStep(server, run, lease, { weights: (flat) => flat.fill(7) });
    expect(await notes()).toBeGreaterThan(1);
    // A node of the run does not see what is only on its way.
    const { sha256 } = await server.prisma.packReference.findFirstOrThrow({
      where: { runId: run.id, taskId: lease.taskId, kind: "MANIFEST" },
    });
    const read = () => fetch(`${server.url}/blobs/${sha256}`, { headers: run.worker.headers });
    expect((await read()).status).toBe(404);
    expect((await publishStep(server, run, lease)).kind).toBe("submitted");
    expect(await notes()).toBe(0);
    const last = await sealedRun(server);
    await prepareStep(server, last, await claim(server, last, last.trainer, "TRAIN"));
    await cancelRun(server.ctx(last.organization.owner), { runId: last.id });
    expect(
      await server.prisma.packReference.count({
        where: { runId: last.id, taskId: { not: null }, kind: "SHARD" },
      }),
    ).toBe(0);
  });

  test("a trainer that lost its lease publishes nothing", async () => {
    const run = await startRun(server);
    const lease = await claim(server, run, run.trainer, "BASE");
    const input = await prepareStep(server, run, lease);
    await server.prisma.attempt.updateMany({ where: { taskId: lease.taskId }, data: { state: "CANCELLED" } });
    expect((await submitStep(server.ctx(run.trainer), input)).kind).toBe("lost");
    expect(await server.prisma.checkpoint.count({ where: { runId: run.id } })).toBe(0);
  });
});
