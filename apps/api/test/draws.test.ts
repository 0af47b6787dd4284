import { encodeRolloutPack, type RolloutPack } from "@muster/protocol";
import { afterAll, beforeAll, expect, test } from "vitest";
import { submitRollouts } from "../src/rollouts/intake.ts";
import { groupIdOf } from "../src/verification/audit.ts";
import { openPacks, type Packs } from "./packkit.ts";
import { put, signed } from "./runkit.ts";
import { startTestServer, type TestServer } from "./testkit.ts";
import { claim, generate, watchedRun } from "./watchkit.ts";

// One draw for each group, whatever its worker tries.

let server: TestServer;
let packs: Packs;
beforeAll(async () => {
  server = await startTestServer();
  packs = await openPacks(await watchedRun(server));
});
afterAll(async () => {
  await packs[Symbol.asyncDispose]();
  await server.stop();
});

test("the draw follows from the attempt and the pack that was committed to", async () => {
  const run = await watchedRun(server);
  const ids = await generate(server, run, packs);
  const group = await server.prisma.group.findUniqueOrThrow({ where: { id: ids[0] ?? "" } });
  const attempt = await server.prisma.attempt.findUniqueOrThrow({ where: { id: group.attemptId } });
  expect(ids).toEqual(ids.map((_, index) => groupIdOf(attempt, group.packHash, index)));
  expect(new Set(ids.map((id) => id.slice(14, 18)))).toEqual(new Set(["7000", "7001"]));
  expect(groupIdOf(attempt, "0".repeat(64), 0)).not.toBe(ids[0]);
});

test("a worker that sends another pack to another process, while the first is being stored, is told that only the first one counts", async () => {
  await using other = await startTestServer({ sharing: server, loops: [] });
  const run = await watchedRun(server);
  const [lease] = await claim(server, run, run.worker, "GENERATE");
  if (lease === undefined) throw new Error("no GENERATE task to claim");
  const drawn = await packs.rollouts(run, lease);
  // Nothing that any check sees: there are as many such packs as there are draws to choose from.
  const nudged: RolloutPack = {
    ...drawn,
    rollouts: drawn.rollouts.map((rollout) => ({
      ...rollout,
      logprobs: rollout.logprobs.map((value) => value - 1e-6),
    })),
  };
  const send = async (to: TestServer, pack: RolloutPack) => {
    const sha256 = await put(server, run.worker, lease, "ROLLOUTS", encodeRolloutPack(pack));
    const { taskId, attempt } = lease;
    const input = { taskId, attempt, pack: sha256, signature: signed(run, run.worker, lease, sha256) };
    return { sha256, answer: await submitRollouts(to.ctx(run.worker), input) };
  };
  const sha256 = await put(server, run.worker, lease, "ROLLOUTS", encodeRolloutPack(drawn));
  // As another process leaves it that has read the pack and is writing what validators get.
  await server.prisma.attempt.updateMany({ where: { taskId: lease.taskId }, data: { packHash: sha256 } });
  expect((await send(other, nudged)).answer).toMatchObject({
    kind: "lost",
    message: expect.stringContaining("only the first one counts"),
  });
  const answers = await Promise.all([send(server, drawn), send(other, drawn)]);
  expect(answers.map(({ answer }) => answer.kind)).toEqual(["submitted", "submitted"]);
  const groups = await server.prisma.group.findMany({ where: { taskId: lease.taskId } });
  expect(groups.map(({ packHash }) => packHash)).toEqual([sha256, sha256]);
});
