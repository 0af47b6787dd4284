import { randomUUID } from "node:crypto";
import { afterAll, beforeAll, expect, test } from "vitest";
import { createTestDatabase, type TestDatabase } from "../src/testing.ts";

let db: TestDatabase;
const organizationId = randomUUID();
const issued = randomUUID();
const budget = randomUUID();
const runId = randomUUID();
const nodeId = randomUUID();

beforeAll(async () => {
  db = await createTestDatabase();
  await db.prisma.organization.create({ data: { id: organizationId, name: "Test", slug: "test" } });
  await db.prisma.account.createMany({
    data: [
      { id: issued, key: `issued:${organizationId}`, organizationId, kind: "ISSUED" },
      { id: budget, key: `budget:${runId}`, organizationId, kind: "BUDGET" },
    ],
  });
  await db.prisma.run.create({
    data: {
      id: runId,
      organizationId,
      slug: "run",
      name: "Run",
      environment: "muster/sort-digits@1",
      baseKind: "warmup",
      stepLimit: 10,
    },
  });
  await db.prisma.node.create({
    data: {
      id: nodeId,
      publicKey: "00".repeat(32),
      name: "node",
      software: "test",
      protocol: 1,
      hardware: {},
    },
  });
});

afterAll(() => db.drop());

test("a ledger transaction whose entries do not sum to zero is refused at commit", async () => {
  await expect(fund(100n, -99n)).rejects.toThrow(/sum to 1, not to zero/);
  expect(await db.prisma.ledgerTransaction.count()).toBe(0);
  expect(await db.prisma.ledgerEntry.count()).toBe(0);
});

test("a balanced one is kept, and its rows can be neither changed nor deleted", async () => {
  const transaction = await fund(100n, -100n);
  const where = { id: transaction.id };
  await expect(db.prisma.ledgerTransaction.update({ where, data: { memo: "x" } })).rejects.toThrow(
    /appended/,
  );
  await expect(db.prisma.ledgerTransaction.delete({ where })).rejects.toThrow();
  await expect(db.prisma.ledgerEntry.updateMany({ data: { amount: 1n } })).rejects.toThrow(/appended/);
  await expect(db.prisma.ledgerEntry.deleteMany()).rejects.toThrow(/appended/);
  await expect(db.pool.query('TRUNCATE "LedgerEntry"')).rejects.toMatchObject({
    code: "23514",
    constraint: "LedgerEntry_no_truncate",
  });
  const entries = await db.prisma.ledgerEntry.findMany({ orderBy: { amount: "asc" } });
  expect(entries.map((entry) => entry.amount)).toEqual([-100n, 100n]);
});

test("an entry added later to a balanced transaction is refused too", async () => {
  const { id: transactionId } = await fund(5n, -5n);
  await expect(
    db.prisma.ledgerEntry.create({ data: { organizationId, transactionId, accountId: budget, amount: 1n } }),
  ).rejects.toThrow(/sum to 1/);
});

test("only an ISSUED account goes below zero", async () => {
  await db.prisma.account.update({ where: { id: issued }, data: { balance: -100n } });
  await expect(
    db.pool.query('UPDATE "Account" SET balance = -1 WHERE id = $1', [budget]),
  ).rejects.toMatchObject({ code: "23514", constraint: "Account_balance_check" });
});

test("a task has at most one live attempt, and may have another after it ended", async () => {
  const taskId = await createTask();
  const attempt = (number: number) =>
    db.prisma.attempt.create({
      data: { organizationId, runId, taskId, nodeId, number, leaseUntil: new Date("2030-01-01") },
    });
  const first = await attempt(1);
  await expect(attempt(2)).rejects.toMatchObject({ code: "P2002" });
  await db.prisma.attempt.update({ where: { id: first.id }, data: { state: "EXPIRED" } });
  await attempt(2);
  expect(await db.prisma.attempt.groupBy({ by: ["state"], where: { taskId }, _count: true })).toEqual(
    expect.arrayContaining([
      { state: "LIVE", _count: 1 },
      { state: "EXPIRED", _count: 1 },
    ]),
  );
});

test("a leased task has a holder and a deadline", async () => {
  const id = await createTask();
  const lease = (leaseUntil: Date | null) =>
    db.prisma.task.update({ where: { id }, data: { state: "LEASED", leaseNodeId: nodeId, leaseUntil } });
  await expect(lease(null)).rejects.toThrow(/Task_leased_check/);
  expect((await lease(new Date("2030-01-01"))).state).toBe("LEASED");
});

test("an event is numbered once, never changed, and may be deleted", async () => {
  const { id } = await db.prisma.event.create({
    data: { organizationId, stream: `run:${runId}`, type: "run.started", subject: runId, data: { step: 0 } },
  });
  const update = (data: { seq?: bigint | null; type?: string; data?: { step: number } }) =>
    db.prisma.event.update({ where: { id }, data });
  await expect(update({ seq: 1n, data: { step: 1 } })).rejects.toThrow(/appended/);
  await expect(update({ type: "run.ended" })).rejects.toThrow(/appended/);
  expect((await update({ seq: 1n })).seq).toBe(1n);
  await expect(update({ seq: 2n })).rejects.toThrow(/appended/);
  await expect(update({ seq: null })).rejects.toThrow(/appended/);
  await db.prisma.event.delete({ where: { id } });
  expect(await db.prisma.event.count()).toBe(0);
});

test("claims of open tasks and the sequencer read their partial indexes", async () => {
  const client = await db.pool.connect();
  try {
    await client.query("SET enable_seqscan = off");
    const plan = async (sql: string) =>
      (await client.query<{ "QUERY PLAN": string }>(`EXPLAIN ${sql}`)).rows
        .map((row) => row["QUERY PLAN"])
        .join("\n");
    const claim = await plan(
      `SELECT id FROM "Task" WHERE state = 'OPEN' ORDER BY priority DESC, id LIMIT 10`,
    );
    expect(claim).toContain('"Task_open_idx"');
    expect(claim).not.toContain("Sort");
    const unnumbered = await plan('SELECT id FROM "Event" WHERE seq IS NULL ORDER BY id LIMIT 500');
    expect(unnumbered).toContain('"Event_unnumbered_idx"');
  } finally {
    client.release(true);
  }
});

async function createTask(): Promise<string> {
  const task = await db.prisma.task.create({
    data: { organizationId, runId, kind: "GENERATE", revision: 1, payload: {} },
  });
  return task.id;
}

async function fund(toBudget: bigint, fromIssued: bigint): Promise<{ id: string }> {
  return await db.prisma.ledgerTransaction.create({
    data: {
      organizationId,
      runId,
      kind: "FUND",
      key: `fund:${randomUUID()}`,
      memo: "Funded for the test",
      entries: {
        create: [
          { organizationId, accountId: budget, amount: toBudget },
          { organizationId, accountId: issued, amount: fromIssued },
        ],
      },
    },
  });
}
