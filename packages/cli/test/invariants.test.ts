import { mkdirSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createTestDatabase, type TestDatabase } from "@muster/db/testing";
import { afterAll, beforeAll, expect, test } from "vitest";
import { checkDatabase, checkInvariants, invariants, openStateFolder } from "../src/index.ts";
import { createHealthyRun, type HealthyRun } from "./healthy-run.ts";
import { muster, testFolder } from "./muster.ts";

let database: TestDatabase;
let healthy: HealthyRun;
beforeAll(async () => {
  database = await createTestDatabase();
  healthy = await createHealthyRun(database.prisma);
});
afterAll(() => database?.drop());

/** What is broken, by the invariant that must say so. Constraints and triggers that would prevent it are off. */
const violations: Record<string, string> = {
  "attempt-states": `UPDATE "Attempt" SET number = 3 WHERE state = 'LIVE'`,
  "one-live-attempt": `
    DROP INDEX "Attempt_live_key";
    INSERT INTO "Attempt" (id, "organizationId", "runId", "taskId", number, "nodeId", state, "leaseUntil")
    SELECT gen_random_uuid(), "organizationId", "runId", "taskId", 2, "nodeId", 'LIVE', now() FROM "Attempt" WHERE state = 'LIVE'`,
  "lease-is-attempt": `UPDATE "Attempt" SET state = 'EXPIRED' WHERE state = 'LIVE'`,
  "done-was-submitted": `UPDATE "Attempt" SET state = 'EXPIRED' WHERE state = 'SUBMITTED'`,
  "leases-end": `UPDATE "Task" SET "leaseUntil" = now() - interval '5 minutes' WHERE state = 'LEASED'`,
  "submissions-are-judged": `UPDATE "Task" SET state = 'SUBMITTED' WHERE kind = 'TRAIN'`,
  "runs-end": `UPDATE "Run" SET "deadlineAt" = NULL`,
  "ended-runs-rest": `UPDATE "Run" SET state = 'COMPLETED'`,
  "groups-get-decided": `
    UPDATE "Task" SET state = 'FAILED', "updatedAt" = now() - interval '5 minutes' WHERE kind = 'VERIFY'`,
  "groups-of-done-tasks": `DELETE FROM "Rollout" WHERE index = 1`,
  "one-batch-a-group": `
    DROP INDEX "BatchGroup_groupId_key";
    INSERT INTO "BatchGroup" ("batchId", position, "groupId", "organizationId", signal, "policyLag")
    SELECT b.id, 0, g."groupId", g."organizationId", g.signal, 0 FROM "Batch" b, "BatchGroup" g WHERE b.step = 2 AND g.signal`,
  "batch-groups": `UPDATE "Batch" SET "settledGroups" = 3 WHERE step = 1`,
  "trained-on-is-accepted": `UPDATE "Group" SET state = 'REJECTED' WHERE state = 'SET_ASIDE'`,
  "accepted-have-advantages": `UPDATE "Rollout" SET advantage = NULL`,
  "policy-lag": `UPDATE "BatchGroup" SET "policyLag" = 3`,
  "batches-in-order": `UPDATE "Batch" SET state = 'FILLING' WHERE step = 1`,
  "sealed-gets-trained": `
    UPDATE "Batch" SET state = 'SEALED', "sealedAt" = now() - interval '5 minutes', "packHash" = (SELECT sha256 FROM "Pack" LIMIT 1) WHERE step = 2`,
  "steps-dense": `UPDATE "TrainStep" SET step = 2`,
  "versions-forward": `UPDATE "Checkpoint" SET "availableAt" = now() - interval '1 day' WHERE version = 1`,
  "current-version": `UPDATE "Run" SET "currentVersion" = 0`,
  "trusted-are-unmeasured": `UPDATE "Group" SET acceptance = 'TRUSTED' WHERE state = 'ACCEPTED'`,
  "lost-trust-is-audited": `UPDATE "NodeTrust" SET state = 'PROBATION', "updatedAt" = now() - interval '5 minutes'`,
  "standing-is-the-fold": `UPDATE "NodeTrust" SET accepted = accepted + 1 WHERE state = 'TRUSTED'`,
  "open-case-freezes": `
    UPDATE "Case" SET "openedAt" = now() - interval '5 minutes'; UPDATE "Group" SET "finalAt" = now() WHERE index = 0`,
  "probes-have-tasks": `DELETE FROM "Task" WHERE id = (SELECT "taskId" FROM "Probe")`,
  "audit-entries-chained": `UPDATE "AuditEntry" SET seq = NULL, hash = NULL, at = now() - interval '5 minutes' WHERE seq = 2`,
  "audit-chain": `UPDATE "AuditEntry" SET data = '{"reason":"another"}' WHERE seq = 1`,
  "ledger-zero": `
    UPDATE "LedgerEntry" SET amount = amount + 1 WHERE amount = 10000; UPDATE "Account" SET balance = balance + 1 WHERE key = 'budget'`,
  balances: `UPDATE "Account" SET balance = balance - 1 WHERE key = 'budget'`,
  "no-overdraft": `
    ALTER TABLE "Account" DROP CONSTRAINT "Account_balance_check"; UPDATE "Account" SET kind = 'BUDGET' WHERE kind = 'ISSUED'`,
  "held-once": `
    UPDATE "LedgerTransaction" SET "groupId" = (SELECT "groupId" FROM "LedgerTransaction" WHERE key = 'hold:0') WHERE key = 'hold:1'`,
  "stakes-add-up": `UPDATE "Account" SET balance = balance - 1 WHERE key = 'held'`,
  "paid-once": `
    INSERT INTO "LedgerTransaction" (id, "organizationId", "runId", kind, key, "taskId", memo)
    SELECT gen_random_uuid(), t."organizationId", t."runId", 'PAY', 'pay:' || n, t.id, '' FROM "Task" t, generate_series(1, 2) n WHERE t.kind = 'TRAIN'`,
  "accepted-are-paid": `UPDATE "Group" SET "finalAt" = now() WHERE state = 'ACCEPTED'`,
  "rejected-earn-nothing": `UPDATE "Group" SET state = 'REJECTED' WHERE state = 'ACCEPTED'`,
  "relay-tree": `UPDATE "Relay" SET state = 'OFFLINE', reason = 'gone' WHERE "parentId" IS NULL`,
  "relays-speak": `UPDATE "Relay" SET "lastSeenAt" = now() - interval '5 minutes' WHERE "parentId" IS NULL`,
  "receipts-bounded": `UPDATE "ReceiptSource" SET "creditedBytes" = 1`,
  "relays-paid": `UPDATE "ReceiptSource" SET paid = 9`,
  "relays-paid-for-work": `UPDATE "Group" SET "policyVersion" = 1 WHERE index = 5`,
  "streams-dense": `DELETE FROM "Event" WHERE seq = 2`,
  "stream-heads": `UPDATE "EventStream" SET head = 5`,
  "events-numbered": `
    INSERT INTO "Event" (stream, type, subject, data, at) VALUES ('run:x', 'run.progress', 'run:x', '{}', now() - interval '5 minutes')`,
  "references-have-packs": `DELETE FROM "Pack" WHERE sha256 = (SELECT "stateHash" FROM "Checkpoint" WHERE version = 1)`,
};

/** Other ways to break some of them. */
const moreViolations: [id: string, plant: string][] = [
  ["attempt-states", `DELETE FROM "Attempt" WHERE state = 'LIVE'`],
  ["lease-is-attempt", `UPDATE "Task" SET state = 'OPEN' WHERE state = 'LEASED'`],
  ["lease-is-attempt", `UPDATE "Task" SET "leaseNodeId" = gen_random_uuid() WHERE state = 'LEASED'`],
  ["ended-runs-rest", `UPDATE "Task" SET state = 'DONE'; UPDATE "Run" SET state = 'CANCELLED'`],
  [
    "groups-get-decided",
    `UPDATE "Group" SET "verifyTaskId" = NULL, "submittedAt" = now() - interval '5 minutes'`,
  ],
  [
    "groups-of-done-tasks",
    `UPDATE "Task" SET state = 'SUBMITTED' WHERE kind = 'GENERATE' AND state = 'DONE'`,
  ],
  ["trained-on-is-accepted", `UPDATE "Group" SET state = 'REJECTED' WHERE state = 'ACCEPTED'`],
  [
    "trained-on-is-accepted",
    `UPDATE "Group" SET state = 'REJECTED', retroactive = true WHERE index = 0; UPDATE "Batch" SET state = 'FILLING'`,
  ],
  [
    "groups-get-decided",
    `UPDATE "Group" SET retroactive = true, "submittedAt" = now() - interval '5 minutes' WHERE index = 4`,
  ],
  [
    "ended-runs-rest",
    `UPDATE "Task" SET state = 'DONE'; UPDATE "Group" SET state = 'INVALID' WHERE state = 'VERIFYING';
    UPDATE "Group" SET retroactive = true WHERE index = 4; UPDATE "Run" SET state = 'COMPLETED'`,
  ],
  ["standing-is-the-fold", `UPDATE "NodeOutcome" SET annulled = true WHERE kind = 'REJECTED'`],
  ["standing-is-the-fold", `UPDATE "NodeTrust" SET state = 'QUARANTINED' WHERE state = 'TRUSTED'`],
  ["standing-is-the-fold", `DELETE FROM "NodeTrust" WHERE state = 'TRUSTED'`],
  ["probes-have-tasks", `UPDATE "Task" SET kind = 'GENERATE' WHERE id = (SELECT "taskId" FROM "Probe")`],
  ["audit-chain", `DELETE FROM "AuditEntry" WHERE seq = 1`],
  ["audit-chain", `UPDATE "AuditEntry" SET at = at + interval '1 millisecond' WHERE seq = 2`],
  ["audit-chain", `UPDATE "AuditEntry" SET "runId" = gen_random_uuid()`],
  ["batch-groups", `DELETE FROM "BatchGroup" WHERE NOT signal`],
  ["batch-groups", `UPDATE "BatchGroup" SET position = 5 WHERE position = 1`],
  ["batches-in-order", `UPDATE "Batch" SET step = 3, state = 'SEALED' WHERE step = 2`],
  ["versions-forward", `DELETE FROM "Checkpoint" WHERE version = 0`],
  ["versions-forward", `UPDATE "Checkpoint" SET "parentVersion" = 1 WHERE version = 1`],
  ["steps-dense", `DELETE FROM "TrainStep"`],
  ["held-once", `UPDATE "LedgerTransaction" SET kind = 'RELEASE' WHERE key = 'hold:1'`],
  ["held-once", `UPDATE "LedgerTransaction" SET kind = 'FORFEIT' WHERE key = 'refund:1'`],
  ["stakes-add-up", `UPDATE "LedgerTransaction" SET kind = 'PAY' WHERE key = 'forfeit:1'`],
  ["rejected-earn-nothing", `UPDATE "Group" SET state = 'INVALID' WHERE index = 4`],
  ["accepted-are-paid", `DELETE FROM "LedgerTransaction" WHERE key = 'hold:1'`],
  [
    "relay-tree",
    `UPDATE "Relay" SET "parentId" = (SELECT id FROM "Relay" WHERE "parentId" IS NOT NULL) WHERE "parentId" IS NULL`,
  ],
  ["relay-tree", `UPDATE "Relay" SET placed = false WHERE "parentId" IS NULL`],
  ["relay-tree", `UPDATE "Relay" SET "runId" = gen_random_uuid() WHERE "parentId" IS NULL`],
  ["relays-speak", `UPDATE "Relay" SET "lastSeenAt" = NULL`],
  ["receipts-bounded", `UPDATE "Checkpoint" SET size = 1`],
  ["relays-paid", `DELETE FROM "LedgerTransaction" WHERE key LIKE 'relay:%'`],
  ["relays-paid", `UPDATE "CheckpointReceipt" SET "settledAt" = NULL`],
  [
    "relays-paid",
    `UPDATE "Relay" SET "nodeId" = (SELECT "nodeId" FROM "CheckpointReceipt") WHERE "parentId" IS NULL`,
  ],
  ["relays-paid", `UPDATE "RunRevision" SET spec = jsonb_set(spec, '{prices,relayedMiB}', '9')`],
  ["relays-paid-for-work", `UPDATE "Group" SET "finalAt" = NULL WHERE index = 5`],
  ["streams-dense", `DELETE FROM "Event" WHERE seq = 1`],
  ["references-have-packs", `DELETE FROM "Pack" USING "PackReference" r WHERE r.sha256 = "Pack".sha256`],
];

/** What cannot be broken: the column's type has no other value. */
const unbreakable = ["task-states"];

test("a healthy run violates nothing", async () => {
  const report = await checkInvariants({ databaseUrl: database.url });
  expect(report.details.filter((detail) => detail.violations > 0)).toEqual([]);
  expect(report).toMatchObject({ checked: invariants.length, violations: 0 });
});

test("every invariant is broken by one of these tests", () => {
  expect([...Object.keys(violations), ...unbreakable].toSorted()).toEqual(
    invariants.map(({ id }) => id).toSorted(),
  );
});

test.for([...Object.entries(violations), ...moreViolations])(
  "%s is noticed when it does not hold",
  async ([id, plant]) => {
    const client = await database.pool.connect();
    try {
      await client.query("BEGIN");
      await client.query("SET LOCAL session_replication_role = replica");
      await client.query(plant);
      const found = (await checkDatabase(client)).find((detail) => detail.id === id);
      expect(found?.violations).toBeGreaterThan(0);
      expect(found?.examples[0]).toMatch(/\S/);
    } finally {
      await client.query("ROLLBACK");
      client.release();
    }
  },
);

test("what is due is given its grace", async () => {
  const client = await database.pool.connect();
  try {
    await client.query("BEGIN");
    await client.query(
      `UPDATE "Task" SET "leaseUntil" = now() - interval '60 seconds' WHERE state = 'LEASED'`,
    );
    const overdue = async (graceSeconds: number) =>
      (await checkDatabase(client, { graceSeconds })).find(({ id }) => id === "leases-end")?.violations;
    expect([await overdue(90), await overdue(30)]).toEqual([0, 1]);
  } finally {
    await client.query("ROLLBACK");
    client.release();
  }
});

test("leases that ran out while the coordinator was stopped are nobody's fault", async () => {
  const client = await database.pool.connect();
  try {
    await client.query("BEGIN");
    await client.query("SET LOCAL session_replication_role = replica");
    for (const [table, column] of [
      ["Event", "at"],
      ["Task", "updatedAt"],
      ["Node", "lastSeenAt"],
    ]) {
      await client.query(`UPDATE "${table}" SET "${column}" = now() - interval '1 day'`);
    }
    await client.query(
      `UPDATE "Task" SET "leaseUntil" = now() - interval '23 hours 59 minutes' WHERE state = 'LEASED'`,
    );
    expect((await checkDatabase(client)).filter((detail) => detail.violations > 0)).toEqual([]);
  } finally {
    await client.query("ROLLBACK");
    client.release();
  }
});

test("the command reports each violation, checks the blobs of the state folder and exits with 1", async () => {
  await using folder = await testFolder();
  openStateFolder(folder.path);
  const { sha256, bytes } = healthy.blob;
  const place = join(folder.path, "blobs", sha256.slice(0, 2));
  mkdirSync(place, { recursive: true });
  const ask = () =>
    muster(["invariants", "--json", "--database-url", database.url, "--state-dir", folder.path]);
  const broken = (stdout: string) => {
    const report = JSON.parse(stdout.trimEnd().split("\n").at(-1) ?? "");
    return report.details.filter((detail: { violations: number }) => detail.violations > 0);
  };

  const missing = await ask();
  expect(missing.status).toBe(1);
  expect(broken(missing.stdout)).toEqual([
    {
      id: "packs-are-stored",
      sentence: expect.any(String),
      violations: 1,
      examples: [`pack ${sha256} (MANIFEST, 10 bytes) is not stored`],
    },
  ]);

  writeFileSync(join(place, sha256), "short");
  const wrong = broken((await ask()).stdout);
  expect(wrong[0].examples).toEqual([`pack ${sha256} (MANIFEST, 10 bytes) is stored with 5 bytes`]);

  writeFileSync(join(place, sha256), bytes);
  const stray = join(place, `${sha256.slice(0, 2)}${"0".repeat(62)}`);
  writeFileSync(stray, "");
  expect(await ask()).toMatchObject({ status: 0, stderr: "" });

  const old = new Date(Date.now() - 3 * 3_600_000);
  utimesSync(stray, old, old);
  const strays = broken((await ask()).stdout);
  expect(strays.map(({ id }: { id: string }) => id)).toEqual(["blobs-are-known"]);
});

test("without a database the command says how to name one", async () => {
  await using folder = await testFolder();
  const { status, stdout, stderr } = await muster(["invariants", "--state-dir", folder.path]);
  expect({ status, stdout }).toEqual({ status: 1, stdout: "" });
  expect(stderr).toContain("There is no Muster database in");
});
