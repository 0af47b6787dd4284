import {
  decodeMeasurementPack,
  encodeMeasurementPack,
  encodeRolloutPack,
  fromTypeId,
  type GeneratePayload,
  type MeasurementPack,
  toTypeId,
} from "@muster/protocol";
import { afterAll } from "vitest";
import type { Lease } from "../src/tasks/claim.ts";
import { openPacks, type Packs } from "./packkit.ts";
import { publishBase, put, type SpecOverrides, signed, smallSpec, startRun, type TestRun } from "./runkit.ts";
import { type Caller, startTestServer, type TestNode, type TestServer } from "./testkit.ts";

// Workers and validators, honest and not, through the public door: they claim, fetch, measure, lie and submit as nodes do.

/** A coordinator for a test file and what draws and measures its packs; both end with the file. */
export async function startWatching(): Promise<{ server: TestServer; packs: Packs }> {
  const server = await startTestServer();
  const packs = await openPacks({ spec: smallSpec() });
  afterAll(async () => {
    await packs[Symbol.asyncDispose]();
    await server.stop();
  });
  return { server, packs };
}

/** A run whose every group is audited, that wants more groups than a test makes. */
export async function watchedRun(
  server: TestServer,
  over: SpecOverrides = {},
  { own = true }: { own?: boolean } = {},
): Promise<TestRun> {
  const run = await startRun(server, {
    disputeWindowSeconds: 3_600,
    batch: { signalGroups: 200, settledGroups: 200 },
    ...over,
    verification: {
      topK: 16,
      // Weights nobody trained scatter more in their last bits than a run's.
      thresholds: { meanUlp: 4_096 },
      audit: { adversaryShare: 0.2, floor: 0.5, epsilon: 1e-3 },
      ...over.verification,
    },
  });
  await publishBase(server, run);
  if (own) await grantValidator(server, run, run.validator, true);
  return run;
}

/** Grants VALIDATOR as the organizer does. */
export async function grantValidator(
  server: TestServer,
  run: TestRun,
  node: TestNode,
  own = false,
): Promise<TestNode> {
  await server.ask(
    "mutation($input: GrantRoleInput!) { grantRole(input: $input) { own } }",
    { input: { run: run.typeId, node: node.typeId, role: "VALIDATOR", own } },
    run.organization.owner,
  );
  return node;
}

type Wire = Omit<Lease, "taskId" | "runId" | "manifestHash"> & { task: string; manifest: string | null };

/** Claims up to `max` tasks of a kind. */
export async function claim(
  server: TestServer,
  run: TestRun,
  node: TestNode,
  kind: "GENERATE" | "VERIFY",
  max = 1,
): Promise<Lease[]> {
  const { claimTasks } = await server.ask<{ claimTasks: Wire[] }>(
    `mutation($input: ClaimTasksInput!) { claimTasks(input: $input) {
      task kind attempt leaseUntil renewAfterSeconds manifest policyVersion payload } }`,
    { input: { kinds: [kind], max, run: run.typeId } },
    node,
  );
  return claimTasks.map(({ task, manifest, ...lease }) => ({
    ...lease,
    taskId: fromTypeId(task, "task"),
    runId: run.id,
    manifestHash: manifest,
  }));
}

/** The same for one GENERATE task; fails the test when there is none. */
export async function claimGenerate(server: TestServer, run: TestRun, node = run.worker): Promise<Lease> {
  const [lease] = await claim(server, run, node, "GENERATE");
  if (lease === undefined) throw new Error("no GENERATE task to claim");
  return lease;
}

export type Answer = { __typename: string; code?: string; message?: string };

const outcome =
  "__typename ... on Submitted { task state duplicate } ... on LeaseLost { message } ... on SubmissionRefused { code message }";

export const submission = (run: TestRun, node: TestNode, lease: Lease, pack: string) => ({
  task: toTypeId("task", lease.taskId),
  attempt: lease.attempt,
  pack,
  signature: signed(run, node, lease, pack),
});

/** PUTs a pack and submits it. */
export async function submitPack(
  server: TestServer,
  run: TestRun,
  lease: Lease,
  bytes: Uint8Array,
  node = run.worker,
): Promise<Answer & { pack: string }> {
  const pack = await put(server, node, lease, "ROLLOUTS", bytes);
  const { submitRollouts } = await server.ask<{ submitRollouts: Answer }>(
    `mutation($input: SubmitPackInput!) { submitRollouts(input: $input) { ${outcome} } }`,
    { input: submission(run, node, lease, pack) },
    node,
  );
  return { ...submitRollouts, pack };
}

/** Another seed than a run's: tokens the policy could have drawn and the seed did not. Only `sampling` shows it. */
export const luck = "7".repeat(64);

/**
 * Claims a GENERATE task, draws its rollouts and submits them.
 * @param luck draws with this seed instead of the run's
 * @returns ids of the groups, in order
 */
export async function generate(
  server: TestServer,
  run: TestRun,
  packs: Packs,
  { node = run.worker, luck: seed }: { node?: TestNode; luck?: string } = {},
): Promise<string[]> {
  const lease = await claimGenerate(server, run, node);
  const payload = lease.payload as GeneratePayload;
  const drawn = await packs.rollouts(
    run,
    seed === undefined ? lease : { ...lease, payload: { ...payload, seed } },
  );
  const answer = await submitPack(server, run, lease, encodeRolloutPack(drawn), node);
  if (answer.__typename !== "Submitted") throw new Error(JSON.stringify(answer));
  const groups = await server.prisma.group.findMany({
    where: { taskId: lease.taskId },
    orderBy: { index: "asc" },
  });
  return groups.map(({ id }) => id);
}

/** What a validator does with what it honestly measured before it hands it in. */
export type Habit = (pack: MeasurementPack) => MeasurementPack;
export const honest: Habit = (pack) => pack;

/** Lets everything pass: each token is the seed's, whatever it measured. */
export const blindEye: Habit = (pack) => ({
  ...pack,
  rollouts: pack.rollouts.map((rollout) => ({ ...rollout, margins: rollout.margins.map(() => 0) })),
});

/** Says of everything that it was not drawn by the seed. */
export const hostile: Habit = (pack) => ({
  ...pack,
  rollouts: pack.rollouts.map((rollout) => ({
    ...rollout,
    argmax: rollout.argmax.map((token) => (token === 0 ? 1 : 0)),
    margins: rollout.margins.map(() => 5),
  })),
});

/** Log-probabilities that no distribution has. */
export const malformed: Habit = (pack) => ({
  ...pack,
  rollouts: pack.rollouts.map((rollout) => ({ ...rollout, logprobs: rollout.logprobs.map(() => 0.5) })),
});

/** Measures leased tasks and submits them in one call. */
export async function submitMeasured(
  server: TestServer,
  run: TestRun,
  packs: Packs,
  node: TestNode,
  leases: readonly Lease[],
  habit: Habit = honest,
): Promise<Answer[]> {
  if (leases.length === 0) return [];
  const measured = [];
  for (const lease of leases) {
    const pack = habit(decodeMeasurementPack(await packs.measurement(server, node, lease)));
    measured.push({ lease, bytes: encodeMeasurementPack(pack) });
  }
  return submitMeasurements(server, run, measured, node);
}

export type Measured = { lease: Lease; bytes: Uint8Array };

/** PUTs measurement packs and submits them in one call. */
export async function submitMeasurements(
  server: TestServer,
  run: TestRun,
  measured: readonly Measured[],
  node = run.validator,
): Promise<Answer[]> {
  const submissions = [];
  for (const { lease, bytes } of measured) {
    const pack = await put(server, node, lease, "MEASUREMENT", bytes);
    submissions.push(submission(run, node, lease, pack));
  }
  const { submitMeasurements } = await server.ask<{ submitMeasurements: Answer[] }>(
    `mutation($input: SubmitMeasurementsInput!) { submitMeasurements(input: $input) { ${outcome} } }`,
    { input: { submissions } },
    node,
  );
  return submitMeasurements;
}

/** Claims up to `max` VERIFY tasks, measures and submits them. @returns the leases */
export async function measure(
  server: TestServer,
  run: TestRun,
  packs: Packs,
  node: TestNode,
  { max = 16, habit = honest }: { max?: number; habit?: Habit } = {},
): Promise<Lease[]> {
  const leases = await claim(server, run, node, "VERIFY", max);
  await submitMeasured(server, run, packs, node, leases, habit);
  return leases;
}

/** Has two groups of a lucky draw rejected. @returns their ids and the cases that it opened */
export async function accused(server: TestServer, run: TestRun, packs: Packs) {
  const groups = await generate(server, run, packs, { luck });
  await measure(server, run, packs, run.validator);
  return { groups, cases: await casesOf(server, run) };
}

export type CaseView = {
  id: string;
  state: string;
  reason: string;
  statement: string | null;
  confirmed: boolean | null;
  decision: string | null;
  evidence: string | null;
  disputedAt: string | null;
  group: { id: string; state: string };
};

/** Cases of a run as an organizer sees them, newest first. */
export async function casesOf(
  server: TestServer,
  run: TestRun,
  as: Caller = run.organization.owner,
): Promise<CaseView[]> {
  const answer = await server.ask<{ run: { cases: { edges: { node: CaseView }[] } } }>(
    `query($id: ID!) { run(id: $id) { cases(first: 50) { edges { node {
      id state reason statement confirmed decision evidence disputedAt group { id state } } } } } }`,
    { id: run.typeId },
    as,
  );
  return answer.run.cases.edges.map(({ node }) => node);
}

/** A task and its attempts as an organizer reads them. */
export async function attemptsOf(server: TestServer, run: TestRun, lease: Lease) {
  const { node } = await server.ask<{ node: unknown }>(
    "query($id: ID!) { node(id: $id) { ... on Task { state attempts { state reason } } } }",
    { id: toTypeId("task", lease.taskId) },
    run.organization.owner,
  );
  return node;
}

/** A node's row in a run. */
export const standing = (server: TestServer, run: TestRun, node: TestNode) =>
  server.prisma.nodeTrust.findUniqueOrThrow({
    where: { runId_nodeId: { runId: run.id, nodeId: node.id } },
  });

/** Balances by account key, zeros left out. */
export async function balances(server: TestServer, run: TestRun): Promise<Record<string, number>> {
  const rows = await server.prisma.account.findMany({
    where: { organizationId: run.organization.id, kind: { not: "ISSUED" } },
    select: { key: true, balance: true },
  });
  return Object.fromEntries(
    rows.filter(({ balance }) => balance !== 0n).map(({ key, balance }) => [key, Number(balance)]),
  );
}

export const groupOfId = (server: TestServer, id: string) =>
  server.prisma.group.findUniqueOrThrow({ where: { id } });
