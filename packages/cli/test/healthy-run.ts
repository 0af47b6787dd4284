// A run in the middle of its second step, as the coordinator leaves it: the least that every invariant speaks about.
import { randomUUID } from "node:crypto";
import type { PrismaClient } from "@muster/db";
import { demoRunSpec, hashHex, type JsonValue, toTypeId } from "@muster/protocol";
import { auditEntryHash } from "@muster/verification";

export type HealthyRun = { runId: string; blob: { sha256: string; bytes: Uint8Array } };

const sha = (text: string) => hashHex(text);

/** Fills an empty database. Nothing in it violates anything. */
export async function createHealthyRun(prisma: PrismaClient): Promise<HealthyRun> {
  const demo = demoRunSpec();
  const spec = JSON.parse(
    JSON.stringify({
      ...demo,
      generation: { ...demo.generation, groupSize: 2 },
      // One audited-valid group earns trust.
      verification: { ...demo.verification, audit: { adversaryShare: 0.2, epsilon: 1, floor: 0.5 } },
    }),
  );
  const organization = await prisma.organization.create({
    data: { id: randomUUID(), name: "Demo", slug: "demo" },
  });
  const organizationId = organization.id;
  const later = new Date(Date.now() + 60_000);
  const run = await prisma.run.create({
    data: {
      organizationId,
      slug: "sort-digits",
      name: "Sort digits",
      environment: "muster/sort-digits@1",
      state: "RUNNING",
      baseKind: "warmup",
      currentVersion: 1,
      step: 1,
      stepLimit: 100,
      deadlineAt: new Date(Date.now() + 86_400_000),
      startedAt: new Date(),
    },
  });
  const runId = run.id;
  const owner = { organizationId, runId };
  await prisma.runRevision.create({ data: { ...owner, number: 1, spec, hash: sha("spec") } });
  const node = (name: string) =>
    prisma.node.create({ data: { publicKey: sha(name), name, software: "test", protocol: 1, hardware: {} } });
  const [trainer, validator, worker] = [await node("trainer"), await node("validator"), await node("worker")];
  const veteran = await node("veteran");
  const pioneer = await node("pioneer");

  const task = (
    kind: "BASE" | "GENERATE" | "VERIFY" | "TRAIN",
    state: "OPEN" | "LEASED" | "DONE",
    nodeId: string,
  ) =>
    prisma.task.create({
      data: {
        ...owner,
        kind,
        state,
        revision: 1,
        payload: {},
        ...(kind === "BASE" ? {} : { policyVersion: 1, manifestHash: sha("manifest 1") }),
        attempt: state === "OPEN" ? 0 : 1,
        ...(state === "LEASED" ? { leaseNodeId: nodeId, leaseUntil: later } : {}),
        attempts: {
          create:
            state === "OPEN"
              ? []
              : [
                  {
                    ...owner,
                    number: 1,
                    nodeId,
                    state: state === "DONE" ? "SUBMITTED" : "LIVE",
                    leaseUntil: later,
                  },
                ],
        },
      },
      include: { attempts: true },
    });
  const base = await task("BASE", "DONE", trainer.id);
  const generated = await task("GENERATE", "DONE", worker.id);
  const train = await task("TRAIN", "DONE", trainer.id);
  await task("GENERATE", "LEASED", worker.id);
  await task("GENERATE", "OPEN", worker.id);
  const verify = await task("VERIFY", "OPEN", validator.id);

  const bytes = new TextEncoder().encode("manifest 1");
  const packs = ["manifest 0", "manifest 1", "state 1", "rollouts", "batch", "measurement"];
  for (const text of packs) {
    await prisma.pack.create({ data: { sha256: sha(text), kind: "MANIFEST", size: text.length } });
  }
  await prisma.packReference.create({
    data: { ...owner, sha256: sha("manifest 1"), subject: runId, kind: "MANIFEST" },
  });

  const group = async (
    index: number,
    state: "ACCEPTED" | "SET_ASIDE" | "REJECTED" | "VERIFYING",
    trusted?: { nodeId: string },
    final?: { nodeId: string },
  ) => {
    const decided = state !== "VERIFYING";
    const acceptance = trusted ? "TRUSTED" : "AUDITED";
    const made = await prisma.group.create({
      data: {
        ...owner,
        taskId: generated.id,
        attemptId: generated.attempts[0]?.id ?? "",
        nodeId: (trusted ?? final)?.nodeId ?? worker.id,
        index,
        exampleSeed: sha("seed"),
        prompt: "21=",
        policyVersion: 0,
        packHash: sha("rollouts"),
        state,
        advantagesReady: decided && state !== "REJECTED",
        meanReward: 0.5,
        tokens: 10,
        epoch: 1,
        ...(trusted ? {} : { verifyTaskId: verify.id }),
        ...(decided ? { decidedAt: new Date() } : {}),
        ...(final ? { finalAt: new Date() } : {}),
        ...(state === "ACCEPTED" || state === "SET_ASIDE" ? { acceptance } : {}),
        rollouts: {
          create: [0, 1].map((i) => ({
            ...owner,
            index: i,
            preview: "12",
            tokens: 5,
            finishReason: "eos",
            reward: i,
            rewardParts: {},
            advantage: decided ? i - 0.5 : null,
          })),
        },
      },
    });
    return made.id;
  };
  const accepted = await group(0, "ACCEPTED");
  const aside = await group(1, "SET_ASIDE");
  const rejected = await group(2, "REJECTED");
  await group(3, "VERIFYING");
  const trusted = await group(4, "ACCEPTED", { nodeId: veteran.id });
  const final = await group(5, "ACCEPTED", undefined, { nodeId: pioneer.id });
  const verification = (groupId: string, taskId: string, verdict: "ACCEPTED" | "REJECTED") =>
    prisma.verification.create({
      data: {
        ...owner,
        groupId,
        taskId,
        validatorNodeId: validator.id,
        measurementHash: sha("measurement"),
        verdict,
        checks: [],
        tokens: 10,
        startedAt: new Date(),
      },
    });
  await verification(accepted, verify.id, "ACCEPTED");
  await verification(final, generated.id, "ACCEPTED");
  const against = await verification(rejected, train.id, "REJECTED");
  await createTrust(prisma, {
    owner,
    worker: worker.id,
    veteran: veteran.id,
    pioneer: pioneer.id,
    groups: [accepted, aside, rejected],
  });
  const probe = await task("VERIFY", "OPEN", validator.id);
  await prisma.probe.create({
    data: {
      ...owner,
      taskId: probe.id,
      groupId: rejected,
      policyVersion: 0,
      purpose: "REEXECUTION",
      verificationId: against.id,
      blindHash: sha("blind"),
    },
  });
  await prisma.case.create({
    data: {
      ...owner,
      id: randomUUID(),
      groupId: rejected,
      nodeId: worker.id,
      verificationId: against.id,
      reason: "It is not what the seed draws.",
      openUntil: later,
    },
  });
  await createAuditLog(prisma, owner, [rejected, trusted]);
  const trained = {
    state: "TRAINED" as const,
    sealedAt: new Date(),
    trainedAt: new Date(),
    packHash: sha("batch"),
  };
  const batch = await prisma.batch.create({
    data: {
      ...owner,
      step: 1,
      ...trained,
      signalGroups: 1,
      settledGroups: 2,
      groups: {
        create: [
          { organizationId, position: 0, groupId: accepted, signal: true, policyLag: 0 },
          { organizationId, position: 1, groupId: aside, signal: false, policyLag: 0 },
        ],
      },
    },
  });
  await prisma.batch.create({ data: { ...owner, step: 2 } });
  await prisma.trainStep.create({ data: { ...owner, step: 1, version: 1, batchId: batch.id, metrics: {} } });
  const version = (number: number, taskId: string) =>
    prisma.checkpoint.create({
      data: {
        ...owner,
        version: number,
        parentVersion: number === 0 ? null : number - 1,
        manifestHash: sha(`manifest ${number}`),
        stateHash: number === 1 ? sha("state 1") : null,
        size: 2 ** 20,
        state: "AVAILABLE",
        trainerNodeId: trainer.id,
        taskId,
        availableAt: new Date(Date.now() - 10_000 + number * 1_000),
      },
    });
  const start = await version(0, base.id);
  await version(1, train.id);

  const account = (key: string, kind: "ISSUED" | "BUDGET" | "NODE_HELD", balance: bigint) =>
    prisma.account.create({ data: { organizationId, key, kind, runId, balance } });
  const earnings = (nodeId: string, balance: bigint) =>
    prisma.account.create({
      data: { organizationId, key: `available:${nodeId}`, kind: "NODE_AVAILABLE", nodeId, balance },
    });
  const issued = await account("issued", "ISSUED", -10_000n);
  const budget = await account("budget", "BUDGET", 5_990n);
  const held = await account("held", "NODE_HELD", 3_000n);
  const post = (
    kind: "FUND" | "HOLD" | "RELEASE" | "FORFEIT" | "REFUND" | "PAY",
    key: string,
    groupId: string | null,
    from: string,
    to: string,
    amount: bigint,
  ) =>
    prisma.ledgerTransaction.create({
      data: {
        ...owner,
        kind,
        key,
        groupId,
        memo: "",
        entries: {
          create: [
            { organizationId, accountId: from, amount: -amount },
            { organizationId, accountId: to, amount },
          ],
        },
      },
    });
  await post("FUND", "fund", null, issued.id, budget.id, 10_000n);
  await post("HOLD", "hold:0", accepted, budget.id, held.id, 1_000n);
  await post("HOLD", "hold:1", aside, budget.id, held.id, 1_000n);
  await post("HOLD", "hold:4", trusted, budget.id, held.id, 1_000n);
  // What a case took and gave back.
  await post("FORFEIT", "forfeit:1", aside, held.id, budget.id, 1_000n);
  await post("REFUND", "refund:1", aside, budget.id, held.id, 1_000n);

  // What is final, and the relay that brought its node the version: another one pulls from it.
  await post("HOLD", "hold:5", final, budget.id, held.id, 1_000n);
  await post("RELEASE", "release:5", final, held.id, (await earnings(pioneer.id, 1_000n)).id, 1_000n);
  const relay = await createBroadcast(prisma, {
    owner,
    relays: [await node("relay"), await node("child")],
    receiver: pioneer.id,
    checkpointId: start.id,
  });
  const paid = `relay:${start.id}:${pioneer.id}:${relay.id}`;
  await post("PAY", paid, null, budget.id, (await earnings(relay.nodeId, 10n)).id, 10n);

  const stream = `run:${runId}`;
  for (const seq of [1n, 2n, 3n, 4n]) {
    await prisma.event.create({
      data: { organizationId, stream, seq, type: "run.progress", subject: stream, data: {} },
    });
  }
  await prisma.eventStream.create({ data: { stream, head: 4n } });
  return { runId, blob: { sha256: sha("manifest 1"), bytes } };
}

type Owner = { organizationId: string; runId: string };

/** One node that failed once, so that it is in probation again, and two that are trusted. */
async function createTrust(
  prisma: PrismaClient,
  input: { owner: Owner; worker: string; veteran: string; pioneer: string; groups: readonly string[] },
): Promise<void> {
  const { owner, worker, veteran, pioneer, groups } = input;
  const kinds = ["ACCEPTED", "ACCEPTED", "REJECTED"] as const;
  for (const [i, groupId] of groups.entries())
    await prisma.nodeOutcome.create({
      data: { ...owner, nodeId: worker, groupId, kind: kinds[i] ?? "ACCEPTED" },
    });
  await prisma.nodeTrust.create({
    data: { ...owner, nodeId: worker, state: "PROBATION", accepted: 2, rejected: 1 },
  });
  for (const nodeId of [veteran, pioneer]) {
    await prisma.nodeOutcome.create({ data: { ...owner, nodeId, kind: "ACCEPTED" } });
    await prisma.nodeTrust.create({
      data: { ...owner, nodeId, state: "TRUSTED", auditRate: 0.5, accepted: 1, auditedValid: 1 },
    });
  }
}

/** An entry for each group, in a chain. */
async function createAuditLog(prisma: PrismaClient, owner: Owner, groups: readonly string[]): Promise<void> {
  let previous: string | null = null;
  for (const [i, group] of groups.entries()) {
    const seq = i + 1;
    const at = new Date();
    const data: JsonValue = {
      reason: "It is not what the seed draws.",
      checks: { form: "PASS", sampling: "FAIL" },
    };
    const entry = { seq, kind: "verdict.rejected", subject: toTypeId("group", group), data };
    const hash = auditEntryHash(previous, toTypeId("run", owner.runId), { ...entry, at: at.toISOString() });
    await prisma.auditEntry.create({ data: { ...owner, ...entry, at, hash } });
    previous = hash;
  }
}

/** A relay that pulls from another one, which was paid for bringing version 0 to a node. */
async function createBroadcast(
  prisma: PrismaClient,
  input: { owner: Owner; relays: readonly { id: string }[]; receiver: string; checkpointId: string },
): Promise<{ id: string; nodeId: string }> {
  const { owner, receiver, checkpointId } = input;
  const [first, second] = input.relays.map(({ id }) => id);
  const relay = (nodeId = "", parentId: string | null = null) =>
    prisma.relay.create({
      data: {
        ...owner,
        nodeId,
        parentId,
        url: "https://relay.example",
        uplinkMbps: 100,
        state: "LIVE",
        placed: true,
        lastSeenAt: new Date(),
      },
    });
  const top = await relay(first);
  await relay(second, top.id);
  const now = new Date();
  await prisma.checkpointReceipt.create({
    data: {
      ...owner,
      checkpointId,
      version: 0,
      nodeId: receiver,
      layout: "FULL",
      seconds: 1,
      bytes: 2 ** 20,
      wastedBytes: 0,
      creditedBytes: 2 ** 20,
      settledAt: now,
      sources: {
        create: [
          { ...owner, relayId: top.id, bytes: 2 ** 20, creditedBytes: 2 ** 20, paid: 10, paidAt: now },
        ],
      },
    },
  });
  return { id: top.id, nodeId: first ?? "" };
}
