import type { Group, NodeTrust, Prisma } from "@muster/db";
import { groupAdvantages, type RunSpec, toTypeId } from "@muster/protocol";
import { finalAfter } from "@muster/verification";
import type { Tx } from "../context.ts";
import { forfeitGroups, holdForGroups } from "../ledger/stakes.ts";
import { decidedEvents } from "./decided.ts";
import { recordEntries } from "./record.ts";
import { lockStandings, recordOutcome } from "./trust.ts";

/** What accepting a group rests on: the row, the spec its task names and its rollouts' rewards in order. */
export type AcceptableGroup = {
  readonly group: Group;
  readonly spec: RunSpec;
  readonly rollouts: readonly { readonly id: string; readonly reward: number }[];
};

/**
 * A group that was trusted at first, is audited because its node failed since, and was in a sealed batch or past all batches by then: it
 * keeps its state until there is a verdict.
 */
const auditedInPlace = {
  retroactive: true,
  acceptance: "TRUSTED",
  state: { in: ["ACCEPTED", "SET_ASIDE", "STALE"] },
} satisfies Prisma.GroupWhereInput;

/** Groups that somebody has to measure before they are what they are for good. */
export const awaitsVerdict = {
  OR: [{ state: "VERIFYING" }, auditedInPlace],
} satisfies Prisma.GroupWhereInput;

/**
 * Accepts groups: AUDITED ones that await a verdict, or TRUSTED ones that were just submitted. Advantages, standing, held credits and
 * events change together. A group that was decided meanwhile is passed over.
 */
export async function acceptGroups(
  tx: Tx,
  groups: readonly AcceptableGroup[],
  acceptance: "AUDITED" | "TRUSTED",
): Promise<void> {
  if (groups.length === 0) return;
  const ids = groups.map(({ group }) => group.id);
  const fresh = await tx.group.updateManyAndReturn({
    where: { id: { in: ids }, state: acceptance === "AUDITED" ? "VERIFYING" : "SUBMITTED" },
    data: { state: "ACCEPTED", acceptance, advantagesReady: true, decidedAt: new Date() },
  });
  const kept =
    acceptance === "AUDITED"
      ? await tx.group.updateManyAndReturn({
          where: { id: { in: ids }, ...auditedInPlace },
          data: { acceptance },
        })
      : [];
  const isIn = (rows: readonly Group[]) => {
    const found = new Set(rows.map((row) => row.id));
    return groups.filter(({ group }) => found.has(group.id));
  };
  const accepted = isIn(fresh);
  await storeAdvantages(tx, accepted);
  await countForNodes(tx, accepted, isIn(kept), acceptance);
  await holdForGroups(
    tx,
    accepted.map(({ group, spec }) => ({
      organizationId: group.organizationId,
      runId: group.runId,
      nodeId: group.nodeId,
      groupId: group.id,
      amount: BigInt(group.tokens) * BigInt(spec.prices.generatedToken),
    })),
  );
  await decidedEvents(tx, [...fresh, ...kept], null);
  if (acceptance === "TRUSTED") await recordTrusted(tx, fresh);
}

/**
 * Decides against a group that awaits a verdict; what is held for it goes back into the budget. Its place in a sealed batch stays: what
 * was trained on was trained on, and is seen to have been.
 * @returns false when it was decided before.
 */
export async function decideAgainst(
  tx: Tx,
  group: Group,
  state: "REJECTED" | "INVALID",
  reason: string,
): Promise<boolean> {
  const [decided] = await tx.group.updateManyAndReturn({
    where: { id: group.id, ...awaitsVerdict },
    data: {
      state,
      reason: group.retroactive ? `Audited afterwards: ${reason}` : reason,
      acceptance: null,
      advantagesReady: false,
      decidedAt: new Date(),
    },
  });
  if (decided === undefined) return false;
  const { organizationId, runId, nodeId, id: groupId } = decided;
  await forfeitGroups(tx, [{ organizationId, runId, nodeId, groupId }], `Group ${state}: ${decided.reason}`);
  await decidedEvents(tx, [decided], decided.reason);
  return true;
}

async function storeAdvantages(tx: Tx, accepted: readonly AcceptableGroup[]): Promise<void> {
  const rows = accepted.flatMap(({ rollouts, spec }) => {
    const advantages = groupAdvantages(
      rollouts.map((rollout) => rollout.reward),
      spec.training.advantageEpsilon,
    );
    return rollouts.map(({ id }, i) => ({ id, advantage: advantages[i] ?? 0 }));
  });
  if (rows.length === 0) return;
  await tx.$executeRaw`
    UPDATE "Rollout" r SET advantage = v.advantage
    FROM unnest(${rows.map((row) => row.id)}::uuid[], ${rows.map((row) => row.advantage)}::float8[]) AS v(id, advantage) WHERE r.id = v.id`;
}

/** Counts audited groups for their nodes, and says for each accepted one after how many of its node's it will be final. */
async function countForNodes(
  tx: Tx,
  accepted: readonly AcceptableGroup[],
  kept: readonly AcceptableGroup[],
  acceptance: "AUDITED" | "TRUSTED",
): Promise<void> {
  const finality: { id: string; after: number }[] = [];
  // In the order of run and node: two sets lock the same standings in the same order.
  for (const own of byNode([...accepted, ...kept])) {
    const [first] = own;
    if (first === undefined) continue;
    const { runId, nodeId, organizationId } = first.group;
    let trust: NodeTrust | undefined;
    if (acceptance === "AUDITED") {
      const groupIds = own.map(({ group }) => group.id);
      const { spec } = first;
      trust = await recordOutcome(tx, { runId, nodeId, organizationId, outcome: "ACCEPTED", groupIds, spec });
    } else {
      trust = (await lockStandings(tx, runId, [nodeId])).get(nodeId);
    }
    for (const { group, spec } of own)
      finality.push({ id: group.id, after: finalAfter(trust?.accepted ?? 0, spec.verification.audit) });
  }
  if (finality.length === 0) return;
  await tx.$executeRaw`
    UPDATE "Group" g SET "finalAfter" = v.after
    FROM unnest(${finality.map((row) => row.id)}::uuid[], ${finality.map((row) => row.after)}::int[]) AS v(id, after) WHERE g.id = v.id`;
}

function byNode(groups: readonly AcceptableGroup[]): AcceptableGroup[][] {
  const nodes = new Map<string, AcceptableGroup[]>();
  for (const each of groups) {
    const key = `${each.group.runId} ${each.group.nodeId}`;
    nodes.set(key, [...(nodes.get(key) ?? []), each]);
  }
  return [...nodes].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, own]) => own);
}

async function recordTrusted(tx: Tx, groups: readonly Group[]): Promise<void> {
  await recordEntries(
    tx,
    groups.map((group) => ({
      runId: group.runId,
      organizationId: group.organizationId,
      kind: "verdict.accepted" as const,
      subject: toTypeId("group", group.id),
      data: { acceptance: "TRUSTED", node: toTypeId("node", group.nodeId), auditRate: group.auditRate },
    })),
  );
}
