import {
  encodeRolloutPack,
  environment,
  exampleSeed,
  fromTypeId,
  type PackedRollout,
  type RolloutPack,
  toTypeId,
} from "@muster/protocol";
import { buildProofF32 } from "@muster/toploc";
import { describe, expect, test } from "vitest";
import type { Lease } from "../src/tasks/claim.ts";
import { settleFinal } from "../src/verification/finality.ts";
import { rightAnswer } from "./packkit.ts";
import { countTasks, eventsOf, plan, type TestRun } from "./runkit.ts";
import type { Caller } from "./testkit.ts";
import {
  attemptsOf,
  claim,
  claimGenerate,
  type Measured,
  startWatching,
  submitMeasurements,
  submitPack,
  watchedRun,
} from "./watchkit.ts";

// The way of a group through the public door: claimed, stored, submitted, measured and looked at as nodes and people do it.

const { server, packs } = await startWatching();

/** A run that trusts after two audited-valid groups and audits all but one in a million all the same, with nothing to wait for once it has ended. */
const judgedRun = () =>
  watchedRun(
    server,
    {
      disputeWindowSeconds: 0,
      batch: {},
      verification: { audit: { adversaryShare: 0.2, floor: 0.999_999, epsilon: 1.01e-7 } },
    },
    { own: false },
  );

/** Claims every VERIFY task of the run and measures it. */
async function measureAll(run: TestRun): Promise<Measured[]> {
  const measured: Measured[] = [];
  for (const lease of await claim(server, run, run.validator, "VERIFY", 16))
    measured.push({ lease, bytes: await packs.measurement(server, run.validator, lease) });
  return measured;
}

type GroupView = {
  id: string;
  state: string;
  reason: string | null;
  tokens: number;
  meanReward: number;
  rollouts: { index: number; reward: number; advantage: number | null; finishReason: string }[];
  verifications: {
    verdict: string;
    validator?: { id: string };
    checks: Record<"id" | "verdict" | "observed" | "expected" | "threshold" | "note" | "plain", string>[];
  }[];
};

/** The groups of a task as an organizer sees them, in their order. */
async function groupsOf(
  run: TestRun,
  lease: Lease,
  as: Caller = run.organization.owner,
): Promise<GroupView[]> {
  const rows = await server.prisma.group.findMany({
    where: { taskId: lease.taskId },
    orderBy: { index: "asc" },
  });
  const query = `query($id: ID!) { node(id: $id) { ... on Group { id state reason tokens meanReward
    rollouts { index reward advantage finishReason }
    verifications { verdict ${"userId" in as ? "validator { id }" : ""} checks { id verdict observed expected threshold note plain } } } } }`;
  // Who measured it is not for its producer to know.
  const groups: GroupView[] = [];
  for (const { id } of rows)
    groups.push((await server.ask<{ node: GroupView }>(query, { id: toTypeId("group", id) }, as)).node);
  return groups;
}

async function moneyOf(run: TestRun) {
  const query = `query($id: ID!) { run(id: $id) { budget { funded available held paid }
    ledger(first: 100) { edges { node { kind memo entries { account amount } } } } } }`;
  type Money = Record<"funded" | "available" | "held" | "paid", string>;
  type Transaction = { kind: string; memo: string; entries: { account: string; amount: string }[] };
  const answer = await server.ask<{
    run: { budget: Money; ledger: { edges: { node: Transaction }[] } };
  }>(query, { id: run.typeId }, run.organization.owner);
  const { available, held, paid } = answer.run.budget;
  return {
    available: Number(available),
    held: Number(held),
    paid: Number(paid),
    transactions: answer.run.ledger.edges.map(({ node }) => node),
  };
}

async function standingOf(run: TestRun, node = run.worker) {
  const query = `query($run: ID!) { run(id: $run) { workers(first: 50) { edges { node {
    node { id } trust auditedValid accepted rejected held } } } } }`;
  type Standing = Record<"auditedValid" | "accepted" | "rejected", number> & {
    trust: string;
    held: string;
    node: { id: string };
  };
  const answer = await server.ask<{ run: { workers: { edges: { node: Standing }[] } } }>(
    query,
    { run: run.typeId },
    run.organization.owner,
  );
  return answer.run.workers.edges.find((edge) => edge.node.node.id === node.typeId)?.node;
}

/** The pack with one group's rollouts replaced by right answers that no model drew, under proofs of noise. */
function withForgedGroup(run: TestRun, lease: Lease, pack: RolloutPack, group: number): RolloutPack {
  const { groupSize } = run.spec.generation;
  const tokens = rightAnswer(run, exampleSeed(run.spec.seed, toTypeId("task", lease.taskId), group));
  const noise = (seed: number) =>
    Float32Array.from({ length: tokens.length * run.spec.model.hiddenSize }, (_, i) =>
      Math.sin(seed + 7 * i),
    );
  const forged = (rollout: PackedRollout): PackedRollout => ({
    ...rollout,
    tokens,
    logprobs: Float32Array.from(tokens, () => -0.1),
    finish: "eos",
    proofs: [buildProofF32(noise(rollout.index), { topK: run.spec.verification.topK })],
  });
  return {
    ...pack,
    rollouts: pack.rollouts.map((rollout) =>
      Math.floor(rollout.index / groupSize) === group ? forged(rollout) : rollout,
    ),
  };
}

describe("an honest pack", () => {
  test("is rewarded by the coordinator, measured blind, accepted and paid once, however often it is sent", async () => {
    const run = await judgedRun();
    const before = await moneyOf(run);
    const lease = await claimGenerate(server, run);
    const pack = await packs.rollouts(run, lease);
    const bytes = encodeRolloutPack(pack);
    const taken = { __typename: "Submitted", task: toTypeId("task", lease.taskId), state: "DONE" };
    expect(await submitPack(server, run, lease, bytes)).toMatchObject({ ...taken, duplicate: false });
    expect(await submitPack(server, run, lease, bytes)).toMatchObject({ ...taken, duplicate: true });

    const env = environment(run.spec.environment);
    const rewards = pack.rollouts.map(({ index, tokens, finish }) => {
      const group = Math.floor(index / run.spec.generation.groupSize);
      const seed = exampleSeed(run.spec.seed, toTypeId("task", lease.taskId), group);
      const text = env.tokenizer.decode([...(finish === "eos" ? tokens.slice(0, -1) : tokens)]);
      return env.score(env.example(seed, "train"), text, { finishReason: finish }).reward;
    });
    const submitted = await groupsOf(run, lease);
    expect(submitted.map(({ state }) => state)).toEqual(["VERIFYING", "VERIFYING"]);
    expect(submitted.flatMap(({ rollouts }) => rollouts.map(({ reward }) => reward))).toEqual(rewards);

    const measured = await measureAll(run);
    expect(measured).toHaveLength(2);
    // What the validator measures is not for the worker to read.
    for (const { lease: verify } of measured) {
      const { blind } = verify.payload as { blind: string };
      const peek = await fetch(`${server.url}/blobs/${blind}`, { headers: run.worker.headers });
      expect(peek.status).toBe(404);
    }
    expect((await submitMeasurements(server, run, measured)).map(({ __typename }) => __typename)).toEqual([
      "Submitted",
      "Submitted",
    ]);
    const accepted = await groupsOf(run, lease);
    for (const group of accepted) {
      expect(group).toMatchObject({ state: "ACCEPTED", reason: null });
      expect(group.verifications).toMatchObject([
        { verdict: "ACCEPTED", validator: { id: run.validator.typeId } },
      ]);
      const checks = group.verifications[0]?.checks ?? [];
      expect(checks.map(({ id }) => id)).toEqual(
        expect.arrayContaining(["activations", "sampling", "reward"]),
      );
      expect(checks.filter(({ verdict }) => verdict !== "PASS")).toEqual([]);
      expect(group.rollouts.every(({ advantage }) => advantage !== null)).toBe(true);
    }
    const tokens = accepted.reduce((sum, group) => sum + group.tokens, 0);
    expect(tokens).toBe(pack.rollouts.reduce((sum, rollout) => sum + rollout.tokens.length, 0));
    const paid = await moneyOf(run);
    expect(paid).toMatchObject({
      held: tokens * run.spec.prices.generatedToken,
      paid: before.paid + tokens * run.spec.prices.measuredToken,
    });
    expect(before.available - paid.available).toBe(
      tokens * (run.spec.prices.generatedToken + run.spec.prices.measuredToken),
    );
    expect(await submitMeasurements(server, run, measured)).toMatchObject([
      { duplicate: true },
      { duplicate: true },
    ]);
    expect(await moneyOf(run)).toEqual(paid);
    expect(await standingOf(run)).toMatchObject({
      trust: "TRUSTED",
      auditedValid: 2,
      accepted: 2,
      rejected: 0,
    });
  });

  test("earns what was held for it when the run has ended, and nothing twice", async () => {
    const run = await judgedRun();
    const lease = await claimGenerate(server, run);
    await submitPack(server, run, lease, encodeRolloutPack(await packs.rollouts(run, lease)));
    await submitMeasurements(server, run, await measureAll(run));
    const { held } = await moneyOf(run);
    expect(held).toBeGreaterThan(0);
    await server.ask(
      "mutation($input: RunInput!) { cancelRun(input: $input) { state } }",
      { input: { run: run.typeId } },
      run.organization.owner,
    );
    await Promise.all([settleFinal(server.ctx()), settleFinal(server.ctx())]);
    await settleFinal(server.ctx());
    const after = await moneyOf(run);
    expect(after.held).toBe(0);
    const released = after.transactions.filter(({ kind }) => kind === "RELEASE");
    expect(released).toHaveLength(2);
    for (const { entries } of after.transactions)
      expect(entries.reduce((sum, { amount }) => sum + Number(amount), 0)).toBe(0);
    const account = await server.prisma.account.findUniqueOrThrow({
      where: { key: `available:${run.organization.id}:${run.worker.id}` },
    });
    expect(Number(account.balance)).toBe(held);
  });
});

describe("a group whose proofs do not match", () => {
  test("is rejected with its numbers, earns nothing, is replaced and costs its node its trust; the other group of the pack stands", async () => {
    const run = await judgedRun();
    const first = await claimGenerate(server, run);
    await submitPack(server, run, first, encodeRolloutPack(await packs.rollouts(run, first)));
    await submitMeasurements(server, run, await measureAll(run));
    await plan(server, run);
    expect(await standingOf(run)).toMatchObject({ trust: "TRUSTED", rejected: 0 });
    const before = await moneyOf(run);

    const lease = await claimGenerate(server, run);
    const forged = withForgedGroup(run, lease, await packs.rollouts(run, lease), 1);
    expect(await submitPack(server, run, lease, encodeRolloutPack(forged))).toMatchObject({
      __typename: "Submitted",
    });
    // Intake has no model: it gives right answers their reward.
    expect((await groupsOf(run, lease))[1]).toMatchObject({ state: "VERIFYING", meanReward: 1 });
    expect(await submitMeasurements(server, run, await measureAll(run))).toMatchObject([
      { __typename: "Submitted" },
      { __typename: "Submitted" },
    ]);

    const [honest, rejected] = await groupsOf(run, lease);
    if (honest === undefined || rejected === undefined) throw new Error("two groups were submitted");
    expect([honest.state, rejected.state]).toEqual(["ACCEPTED", "REJECTED"]);
    const failed = rejected.verifications[0]?.checks.filter(({ verdict }) => verdict === "FAIL") ?? [];
    expect(failed.map(({ id }) => id)).toContain("activations");
    for (const check of failed) {
      expect(check.observed).toMatch(/\d/);
      expect(check.threshold).toMatch(/\d/);
      expect(check.plain).toMatch(/[a-z]/);
    }
    expect(rejected.reason).toContain(failed[0]?.plain ?? "none");
    expect(rejected.rollouts.every(({ advantage }) => advantage === null)).toBe(true);
    // Its producer may read why, others may not.
    expect((await groupsOf(run, lease, run.worker))[1]?.verifications[0]?.checks.length).toBeGreaterThan(0);
    const stranger = await server.node();
    await expect(groupsOf(run, lease, stranger)).rejects.toThrow();

    const after = await moneyOf(run);
    expect(after.held - before.held).toBe(honest.tokens * run.spec.prices.generatedToken);
    // Measuring it was work all the same.
    expect(after.paid - before.paid).toBe((honest.tokens + rejected.tokens) * run.spec.prices.measuredToken);
    expect(
      await server.prisma.ledgerTransaction.count({ where: { groupId: fromTypeId(rejected.id, "group") } }),
    ).toBe(0);
    expect(await standingOf(run)).toMatchObject({
      trust: "PROBATION",
      auditedValid: 0,
      accepted: 3,
      rejected: 1,
    });
    expect(
      (await eventsOf(server, run, "node.trust")).map(({ data }) => (data as { trust: string }).trust),
    ).toEqual(["TRUSTED", "PROBATION"]);

    // Both tasks of the first batch are done; one of its four groups is missing now.
    expect((await countTasks(server, run, "GENERATE")).OPEN).toBeUndefined();
    await plan(server, run);
    expect(await countTasks(server, run, "GENERATE")).toEqual({ DONE: 2, OPEN: 1 });
    expect((await groupsOf(run, lease))[1]?.state).toBe("REJECTED");
  });

  test("quarantines its node with the third: it claims no more, and its other lease is somebody else's", async () => {
    const run = await judgedRun();
    for (let i = 0; i < 2; i++) {
      const lease = await claimGenerate(server, run);
      const half = withForgedGroup(run, lease, await packs.rollouts(run, lease), 0);
      await submitPack(server, run, lease, encodeRolloutPack(withForgedGroup(run, lease, half, 1)));
      if (i === 0) await submitMeasurements(server, run, await measureAll(run));
      await plan(server, run);
    }
    const spare = await claimGenerate(server, run);
    expect(await standingOf(run)).toMatchObject({ trust: "PROBATION", rejected: 2 });
    await submitMeasurements(server, run, await measureAll(run));
    expect(await standingOf(run)).toMatchObject({ trust: "QUARANTINED", rejected: 4 });
    expect(
      await submitPack(server, run, spare, new Uint8Array([1])).catch((error: Error) => error.message),
    ).toContain("LEASE_LOST");
    const answer = await server.graphql(
      `mutation($input: ClaimTasksInput!) { claimTasks(input: $input) { task } }`,
      { input: { kinds: ["GENERATE"], max: 1, run: run.typeId } },
      run.worker,
    );
    expect(answer.errors?.[0]?.extensions.code).toBe("NODE_QUARANTINED");
    const other = await server.node();
    await plan(server, run);
    expect((await claim(server, run, other, "GENERATE", 2)).map(({ taskId }) => taskId)).toContain(
      spare.taskId,
    );
  });
});

describe("a measurement", () => {
  test("of another group is refused with the reason, and the task opens again", async () => {
    const run = await judgedRun();
    const lease = await claimGenerate(server, run);
    await submitPack(server, run, lease, encodeRolloutPack(await packs.rollouts(run, lease)));
    const [one, two] = await measureAll(run);
    if (one === undefined || two === undefined) throw new Error("two groups were submitted");
    const swapped = [
      { lease: one.lease, bytes: two.bytes },
      { lease: two.lease, bytes: new Uint8Array([1, 2, 3]) },
    ];
    const refused = await submitMeasurements(server, run, swapped);
    expect(refused).toMatchObject([
      { __typename: "SubmissionRefused", code: "PACK_INVALID" },
      { __typename: "SubmissionRefused", code: "PACK_INVALID" },
    ]);
    expect(refused[1]?.message).toContain("does not read");
    const reasons = await Promise.all(swapped.map(({ lease: verify }) => attemptsOf(server, run, verify)));
    expect(reasons).toEqual(
      refused.map(({ message }) => ({ state: "OPEN", attempts: [{ state: "SUBMITTED", reason: message }] })),
    );
    // The same again is answered the same; the right ones are taken under new leases.
    expect((await moneyOf(run)).paid).toBe(0);
    expect(
      (await submitMeasurements(server, run, await measureAll(run))).map(({ __typename }) => __typename),
    ).toEqual(["Submitted", "Submitted"]);
    expect((await groupsOf(run, lease)).map(({ state }) => state)).toEqual(["ACCEPTED", "ACCEPTED"]);
  });
});
