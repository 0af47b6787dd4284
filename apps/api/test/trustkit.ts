import { newId } from "@muster/protocol";
import { expect } from "vitest";
import { auditLostTrust } from "../src/verification/retroactive.ts";
import type { Packs } from "./packkit.ts";
import type { SpecOverrides, TestRun } from "./runkit.ts";
import type { TestNode, TestServer } from "./testkit.ts";
import {
  balances,
  claimGenerate,
  generate,
  groupOfId,
  measure,
  standing,
  submitPack,
  watchedRun,
} from "./watchkit.ts";

// Trust as its tests ask about it: runs in which it is soon earned, and what they read of standings, stakes and audits.

/** The moves and questions of a file's own coordinator. */
export function trustOf(server: TestServer, packs: Packs) {
  /** A run that trusts after two audited-valid groups and then audits one in a million: what happens by chance does not happen here. */
  function trustingRun(over: SpecOverrides = {}): Promise<TestRun> {
    return watchedRun(server, {
      disputeWindowSeconds: 0,
      ...over,
      verification: {
        ...over.verification,
        topK: 16,
        audit: { adversaryShare: 2e-6, floor: 1e-6, epsilon: 1 },
      },
    });
  }

  /** The worker's first two groups, audited and valid. */
  async function earnTrust(run: TestRun): Promise<string[]> {
    const groups = await generate(server, run, packs);
    await measure(server, run, packs, run.validator);
    expect(await standing(server, run, run.worker)).toMatchObject({ state: "TRUSTED", auditRate: 1e-6 });
    return groups;
  }

  /** The worker hands in what is no pack. */
  async function failOnce(run: TestRun): Promise<void> {
    const lease = await claimGenerate(server, run);
    const answer = await submitPack(server, run, lease, new TextEncoder().encode(`no pack ${newId()}`));
    expect(answer.__typename).toBe("SubmissionRefused");
  }

  const groupsOf = (ids: readonly string[]) => Promise.all(ids.map((id) => groupOfId(server, id)));
  const statesOf = async (ids: readonly string[]) =>
    (await groupsOf(ids)).map(({ state, acceptance }) => `${state} ${acceptance}`);
  const auditLost = (run: TestRun) => auditLostTrust(server.ctx(), run.id);
  const price = async (run: TestRun, ids: readonly string[]) =>
    (await groupsOf(ids)).reduce((sum, { tokens }) => sum + tokens, 0) * run.spec.prices.generatedToken;
  const heldBy = async (run: TestRun, node: TestNode = run.worker) =>
    (await balances(server, run))[`held:${run.id}:${node.id}`] ?? 0;
  const availableTo = async (run: TestRun, node: TestNode = run.worker) =>
    (await balances(server, run))[`available:${run.organization.id}:${node.id}`] ?? 0;
  const budgetOf = async (run: TestRun) => (await balances(server, run))[`budget:${run.id}`] ?? 0;

  /**
   * Gives the groups' first rollouts the full reward and the others none, so that there is something to learn.
   * @returns what gives them their own rewards back, which a validator's measurement is compared with.
   */
  async function giveSignal(ids: readonly string[]): Promise<() => Promise<void>> {
    const before = await server.prisma.rollout.findMany({ where: { groupId: { in: [...ids] } } });
    await server.prisma.rollout.updateMany({ where: { groupId: { in: [...ids] } }, data: { reward: 0 } });
    for (const groupId of ids) {
      const first = await server.prisma.rollout.findFirstOrThrow({
        where: { groupId },
        orderBy: { index: "asc" },
      });
      await server.prisma.rollout.update({ where: { id: first.id }, data: { reward: 1 } });
    }
    return async () => {
      for (const { id, reward } of before)
        await server.prisma.rollout.update({ where: { id }, data: { reward } });
    };
  }

  async function auditOf(run: TestRun) {
    type Audit = Record<
      | "probationGroups"
      | "audited"
      | "trusted"
      | "auditedAtTrust"
      | "badAtTrust"
      | "badUpper95"
      | "poisonUpper95"
      | "retroactive"
      | "retroactivePending"
      | "poisonTrained"
      | "backlog"
      | "backlogLimit",
      number
    > & {
      auditedShare: number | null;
      forfeited: string;
      oldestBacklogSeconds: number | null;
      costShare: number | null;
    };
    const answer = await server.ask<{ run: { audit: Audit } }>(
      `query($id: ID!) { run(id: $id) { audit { probationGroups floor epsilon adversaryShare audited trusted auditedShare auditedAtTrust
      badAtTrust badUpper95 poisonUpper95 retroactive retroactivePending poisonTrained forfeited backlog backlogLimit
      oldestBacklogSeconds costShare costShareAtTrust } } }`,
      { id: run.typeId },
      run.organization.owner,
    );
    return answer.run.audit;
  }

  return {
    trustingRun,
    earnTrust,
    failOnce,
    groupsOf,
    statesOf,
    auditLost,
    price,
    heldBy,
    availableTo,
    budgetOf,
    giveSignal,
    auditOf,
  };
}
