import type { LedgerKind } from "@muster/db";
import { type AccountRef, available, budget, held, issued } from "../src/ledger/postings.ts";
import type { Loader } from "./copy.ts";
import type { Random } from "./random.ts";

// The past's money, by the same accounts and keys as ledger/ posts to. Balances are summed up once, when everything is posted.

export type Book = {
  fund(amount: number, at: number): void;
  hold(groupId: string, nodeId: string, amount: number, at: number): void;
  release(groupId: string, nodeId: string, amount: number, at: number): void;
  forfeit(groupId: string, nodeId: string, amount: number, at: number, memo: string): void;
  pay(taskId: string, nodeId: string, amount: number, at: number, memo: string): void;
};

export function createBook(
  loader: Loader,
  owner: { readonly organizationId: string; readonly runId: string },
  { random, accounts }: { random: Random; accounts: Map<string, string> },
): Book {
  const { organizationId, runId } = owner;
  const accountOf = (ref: AccountRef, at: number): string => {
    const known = accounts.get(ref.key);
    if (known !== undefined) return known;
    const id = random.uuid(at);
    accounts.set(ref.key, id);
    loader.add("Account", {
      id,
      key: ref.key,
      organizationId,
      kind: ref.kind,
      runId: ref.runId ?? null,
      nodeId: ref.nodeId ?? null,
      balance: 0,
      createdAt: new Date(at),
    });
    return id;
  };
  const post = (
    kind: LedgerKind,
    key: string,
    at: number,
    memo: string,
    about: { groupId?: string; taskId?: string },
    from: AccountRef,
    to: AccountRef,
    amount: number,
  ): void => {
    const id = random.uuid(at);
    const createdAt = new Date(at);
    const accountIds = [accountOf(from, at), accountOf(to, at)];
    loader.add("LedgerTransaction", {
      id,
      organizationId,
      runId,
      kind,
      key,
      groupId: about.groupId ?? null,
      taskId: about.taskId ?? null,
      memo,
      createdAt,
    });
    accountIds.forEach((accountId, i) => {
      loader.add("LedgerEntry", {
        id: random.uuid(at),
        organizationId,
        transactionId: id,
        accountId,
        amount: i === 0 ? -amount : amount,
        createdAt,
      });
    });
  };
  return {
    fund: (amount, at) =>
      post(
        "FUND",
        `fund:${runId}:0`,
        at,
        "Opening budget",
        {},
        issued(organizationId),
        budget(runId),
        amount,
      ),
    hold: (groupId, nodeId, amount, at) =>
      post(
        "HOLD",
        `hold:${groupId}`,
        at,
        "Accepted group",
        { groupId },
        budget(runId),
        held(runId, nodeId),
        amount,
      ),
    release: (groupId, nodeId, amount, at) =>
      post(
        "RELEASE",
        `release:${groupId}`,
        at,
        "Final group",
        { groupId },
        held(runId, nodeId),
        available(organizationId, nodeId),
        amount,
      ),
    forfeit: (groupId, nodeId, amount, at, memo) =>
      post(
        "FORFEIT",
        `forfeit:${groupId}`,
        at,
        memo,
        { groupId },
        held(runId, nodeId),
        budget(runId),
        amount,
      ),
    pay: (taskId, nodeId, amount, at, memo) =>
      post(
        "PAY",
        `pay:${taskId}`,
        at,
        memo,
        { taskId },
        budget(runId),
        available(organizationId, nodeId),
        amount,
      ),
  };
}
