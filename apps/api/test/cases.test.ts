import { fromTypeId, toTypeId } from "@muster/protocol";
import { describe, expect, test } from "vitest";
import { settleCases } from "../src/verification/cases.ts";
import { settleFinal } from "../src/verification/finality.ts";
import { eventsOf, plan } from "./runkit.ts";
import { anonymous, type Caller } from "./testkit.ts";
import {
  accused,
  balances,
  casesOf,
  claim,
  generate,
  grantValidator,
  groupOfId,
  hostile,
  luck,
  measure,
  standing,
  startWatching,
  submitMeasured,
  watchedRun,
} from "./watchkit.ts";

// An accusation, and what becomes of it.

const { server, packs } = await startWatching();

/** Moves a case's dispute window into the past. */
const endWindow = (caseId: string) =>
  server.prisma.case.update({
    where: { id: fromTypeId(caseId, "case") },
    data: { openUntil: new Date(Date.now() - 1_000) },
  });

const dispute = (as: Caller, caseId: string, statement = "My clock was right and the seed was drawn.") =>
  server.graphql<{ disputeCase: { statement: string } }>(
    "mutation($input: DisputeCaseInput!) { disputeCase(input: $input) { statement } }",
    { input: { case: caseId, statement } },
    as,
  );

const decide = (as: Caller, caseId: string, decision: string) =>
  server.graphql<{ decideCase: { state: string } }>(
    "mutation($input: DecideCaseInput!) { decideCase(input: $input) { state } }",
    { input: { case: caseId, decision, reason: "We looked at it together." } },
    as,
  );

describe("a rejected group", () => {
  test("opens a case, is measured again, and its rejection is upheld when the window is over and nobody objected", async () => {
    const run = await watchedRun(server);
    const { groups, cases } = await accused(server, run, packs);
    expect(cases.length).toBe(groups.length);
    const [first] = cases;
    if (first === undefined) throw new Error("no case");
    expect(first).toMatchObject({ state: "OPEN", confirmed: null, decision: null });
    expect(first.reason).toContain("not what the seed draws");
    expect((await eventsOf(server, run, "case.opened")).length).toBe(groups.length);

    // The rejected groups are measured once more; the validator cannot tell by the task.
    const again = await measure(server, run, packs, run.validator);
    expect(again.length).toBe(groups.length);
    expect((await casesOf(server, run)).map(({ state, confirmed }) => [state, confirmed])).toEqual(
      groups.map(() => ["OPEN", true]),
    );
    expect(await settleCases(server.ctx())).toBe(0);
    await endWindow(first.id);
    expect(await settleCases(server.ctx())).toBe(1);
    expect((await casesOf(server, run))[0]).toMatchObject({ state: "UPHELD", confirmed: true });
    expect((await dispute(run.worker, first.id)).errors?.[0]?.extensions.code).toBe("STATE_CONFLICT");
    const decided = await eventsOf(server, run, "case.decided");
    expect(decided.map(({ data }) => data)).toMatchObject([{ state: "UPHELD" }]);
  });

  test("earns nothing while its case is open, and neither does anything else its node holds", async () => {
    const run = await watchedRun(server, { disputeWindowSeconds: 0, verification: { audit: { floor: 1 } } });
    const honest = await generate(server, run, packs);
    await measure(server, run, packs, run.validator);
    await generate(server, run, packs, { luck });
    await measure(server, run, packs, run.validator, { max: 1 });
    await server.prisma.group.updateMany({ where: { id: { in: honest } }, data: { finalAfter: 0 } });
    await settleFinal(server.ctx());
    for (const id of honest) expect((await groupOfId(server, id)).finalAt).toBeNull();
  });

  test("is accepted and paid when nobody finds again what a validator claimed, and the validator measures no more", async () => {
    const clean = await watchedRun(server);
    const run = await watchedRun(server);
    for (const one of [clean, run]) await grantValidator(server, one, await server.node());
    const liar = await grantValidator(server, run, await server.node());

    const untouched = await generate(server, clean, packs);
    await measure(server, clean, packs, clean.validator);
    const groups = await generate(server, run, packs);
    const [lease] = await claim(server, run, liar, "VERIFY");
    if (lease === undefined) throw new Error("no VERIFY task");
    await submitMeasured(server, run, packs, liar, [lease], hostile);
    expect(await standing(server, run, run.worker)).toMatchObject({ rejected: 1, auditedValid: 0 });
    expect((await claim(server, run, liar, "VERIFY")).length).toBe(1);

    await measure(server, run, packs, run.validator);
    const [only] = await casesOf(server, run);
    expect(only).toMatchObject({ state: "OVERTURNED", confirmed: false, group: { state: "ACCEPTED" } });
    expect(await standing(server, run, liar)).toMatchObject({ state: "QUARANTINED", disagreements: 1 });
    const refused = await server.graphql(
      "mutation($input: ClaimTasksInput!) { claimTasks(input: $input) { task } }",
      { input: { kinds: ["VERIFY"], max: 1, run: run.typeId } },
      liar,
    );
    expect(refused.errors?.[0]?.extensions.code).toBe("NODE_QUARANTINED");
    // What the liar still held comes back to the others.
    await measure(server, run, packs, run.validator);

    const counts = ({
      state,
      auditedValid,
      accepted,
      rejected,
      invalid,
      auditRate,
    }: Awaited<ReturnType<typeof standing>>) => ({
      state,
      auditedValid,
      accepted,
      rejected,
      invalid,
      auditRate,
    });
    expect(counts(await standing(server, run, run.worker))).toEqual(
      counts(await standing(server, clean, clean.worker)),
    );
    const perToken = run.spec.prices.generatedToken;
    const tokens = async (ids: readonly string[]) =>
      (await server.prisma.group.findMany({ where: { id: { in: [...ids] } } })).reduce(
        (sum, g) => sum + g.tokens,
        0,
      );
    expect((await balances(server, run))[`held:${run.id}:${run.worker.id}`]).toBe(
      (await tokens(groups)) * perToken,
    );
    expect((await balances(server, clean))[`held:${clean.id}:${clean.worker.id}`]).toBe(
      (await tokens(untouched)) * perToken,
    );
    // It takes part in training like any other.
    await plan(server, run);
    expect(await server.prisma.batchGroup.count({ where: { groupId: { in: groups } } })).toBe(groups.length);
  });
});

test("verdicts, penalties, plans and payments at once never wait for each other in a circle", async () => {
  const run = await watchedRun(server, { disputeWindowSeconds: 0 });
  const validators = [run.validator, await server.node(), await server.node()];
  for (const node of validators.slice(1)) await grantValidator(server, run, node, true);
  const workers = [run.worker, await server.node(), await server.node()];
  for (const [i, node] of workers.entries())
    for (const seed of [undefined, luck, undefined])
      await generate(server, run, packs, { node, ...(seed === undefined || i === 2 ? {} : { luck: seed }) });
  const leases = [];
  for (const node of validators) leases.push({ node, had: await claim(server, run, node, "VERIFY", 6) });
  const answers = await Promise.all([
    ...leases.flatMap(({ node, had }) =>
      [had.slice(0, 2), had.slice(2, 4), had.slice(4)].map((some) =>
        submitMeasured(server, run, packs, node, some),
      ),
    ),
    plan(server, run).then(() => []),
    settleCases(server.ctx()).then(() => []),
    settleFinal(server.ctx()).then(() => []),
  ]);
  expect(answers.flat().map(({ __typename }) => __typename)).toEqual(
    Array.from({ length: 18 }, () => "Submitted"),
  );
  const again = await Promise.all([
    ...validators.map((node) => measure(server, run, packs, node)),
    settleCases(server.ctx()).then(() => []),
    plan(server, run).then(() => []),
  ]);
  expect(again.flat().length).toBe(4);
  await settleCases(server.ctx());
  expect((await casesOf(server, run)).map(({ state }) => state)).toEqual([
    "UPHELD",
    "UPHELD",
    "UPHELD",
    "UPHELD",
  ]);
});

describe("the accused", () => {
  test("may object until the window ends; somebody else of the organizer's looks, then the organizer decides", async () => {
    const run = await watchedRun(server);
    const second = await grantValidator(server, run, await server.node(), true);
    const { groups } = await accused(server, run, packs);
    await measure(server, run, packs, second);
    const [open, other] = await casesOf(server, run);
    if (open === undefined || other === undefined) throw new Error("two cases were opened");
    expect(open).toMatchObject({ confirmed: true });

    const stranger = await server.node();
    expect((await dispute(stranger, open.id)).errors?.[0]?.extensions.code).toBe("NOT_FOUND");
    expect((await dispute(anonymous, open.id)).errors?.[0]?.extensions.code).toBe("UNAUTHENTICATED");
    expect((await dispute(run.organization.owner, open.id)).errors?.[0]?.extensions.code).toBe("FORBIDDEN");
    expect((await dispute(run.worker, open.id, "x".repeat(2_001))).errors?.[0]?.extensions.code).toBe(
      "INPUT_INVALID",
    );
    await endWindow(other.id);
    expect((await dispute(run.worker, other.id)).errors?.[0]?.extensions.code).toBe("STATE_CONFLICT");

    // Both of the organizer's have measured it; a third has not.
    const third = await grantValidator(server, run, await server.node(), true);
    expect((await dispute(run.worker, open.id)).errors).toBeUndefined();
    expect((await dispute(run.worker, open.id)).errors?.[0]?.extensions.code).toBe("STATE_CONFLICT");
    expect((await measure(server, run, packs, run.validator)).length).toBe(0);
    expect((await measure(server, run, packs, third)).length).toBe(1);

    await endWindow(open.id);
    await settleCases(server.ctx());
    expect((await casesOf(server, run)).find(({ id }) => id === open.id)?.state).toBe("OPEN");
    const member = await server.person(run.organization.id, "member");
    expect((await decide(member, open.id, "OVERTURNED")).errors?.[0]?.extensions.code).toBe("FORBIDDEN");
    expect((await decide(run.worker, open.id, "OVERTURNED")).errors?.[0]?.extensions.code).toBe("FORBIDDEN");
    expect((await decide(run.organization.owner, open.id, "OPEN")).errors?.[0]?.extensions.code).toBe(
      "INPUT_INVALID",
    );
    expect((await decide(run.organization.owner, open.id, "OVERTURNED")).data?.decideCase.state).toBe(
      "OVERTURNED",
    );
    expect((await decide(run.organization.owner, open.id, "UPHELD")).errors?.[0]?.extensions.code).toBe(
      "STATE_CONFLICT",
    );
    expect(await standing(server, run, run.worker)).toMatchObject({ rejected: 1, accepted: 1 });
    const overturned = groups.find((id) => toTypeId("group", id) === open.group.id) ?? "";
    expect(await groupOfId(server, overturned)).toMatchObject({ state: "ACCEPTED", acceptance: "AUDITED" });
  });

  test("hears of it in its own stream and reads its case; others do not", async () => {
    const run = await watchedRun(server);
    const { cases } = await accused(server, run, packs);
    const [one] = cases;
    if (one === undefined) throw new Error("no case");
    const own = await server.prisma.event.findMany({ where: { stream: `node:${run.worker.id}` } });
    expect(own.map(({ type }) => type)).toContain("case.opened");
    const read = (as: Caller) =>
      server.graphql<{ node: { state: string } | null }>(
        "query($id: ID!) { node(id: $id) { ... on Case { state } } }",
        { id: one.id },
        as,
      );
    expect((await read(run.worker)).data?.node?.state).toBe("OPEN");
    expect((await read(run.organization.owner)).data?.node?.state).toBe("OPEN");
    for (const other of [await server.node(), (await server.organization()).owner, run.validator])
      expect((await read(other)).data?.node?.state).toBeUndefined();
  });

  test("is read beside what measuring again found, check by check, by the organization alone", async () => {
    const run = await watchedRun(server);
    const { cases } = await accused(server, run, packs);
    const [one] = cases;
    if (one === undefined) throw new Error("no case");
    type Reexecutions = { outcome: string; finding: { verdict: string; checks: { id: string }[] } | null }[];
    const read = async (as: Caller) => {
      const answer = await server.graphql<{ node: { reexecutions: Reexecutions | null } }>(
        `query($id: ID!) { node(id: $id) { ... on Case {
          reexecutions { outcome finding { verdict checks { id } } }
        } } }`,
        { id: one.id },
        as,
      );
      return answer.data?.node.reexecutions;
    };
    expect(await read(run.organization.owner)).toEqual([]);
    await measure(server, run, packs, run.validator);
    const [again] = (await read(run.organization.owner)) ?? [];
    expect(again).toMatchObject({ outcome: "AGREED", finding: { verdict: "REJECTED" } });
    expect(again?.finding?.checks.map(({ id }) => id)).toContain("sampling");
    expect(await read(run.worker)).toBeNull();
  });

  test("is heard after a week even when the organizer never answers", async () => {
    const run = await watchedRun(server);
    await accused(server, run, packs);
    await measure(server, run, packs, run.validator);
    const [one] = await casesOf(server, run);
    if (one === undefined) throw new Error("no case");
    await dispute(run.worker, one.id);
    await server.prisma.case.update({
      where: { id: fromTypeId(one.id, "case") },
      data: { disputedAt: new Date(Date.now() - 8 * 86_400_000) },
    });
    await settleCases(server.ctx());
    const settled = (await casesOf(server, run)).find(({ id }) => id === one.id);
    expect(settled).toMatchObject({ state: "UPHELD", decision: expect.stringContaining("7 days") });
  });
});

describe("a quarantine", () => {
  test("is lifted by the organizer, who says why; its audits begin anew", async () => {
    const run = await watchedRun(server);
    for (let i = 0; i < 2; i++) await accused(server, run, packs);
    expect(await standing(server, run, run.worker)).toMatchObject({ state: "QUARANTINED" });
    const reinstate = (as: Caller) =>
      server.graphql<{ reinstateNode: { trust: string } }>(
        "mutation($input: ReinstateNodeInput!) { reinstateNode(input: $input) { trust rejected auditedValid } }",
        { input: { run: run.typeId, node: run.worker.typeId, reason: "Its disk was broken." } },
        as,
      );
    const member = await server.person(run.organization.id, "member");
    expect((await reinstate(member)).errors?.[0]?.extensions.code).toBe("FORBIDDEN");
    expect((await reinstate((await server.organization()).owner)).errors?.[0]?.extensions.code).toBe(
      "NOT_FOUND",
    );
    expect((await reinstate(run.organization.owner)).data?.reinstateNode).toEqual({
      trust: "PROBATION",
      rejected: 4,
      auditedValid: 0,
    });
    expect((await reinstate(run.organization.owner)).errors?.[0]?.extensions.code).toBe("STATE_CONFLICT");
    const entry = await server.prisma.auditEntry.findFirstOrThrow({
      where: { runId: run.id, kind: "node.reinstated" },
    });
    expect(entry.data).toMatchObject({ reason: "Its disk was broken." });
    expect((await generate(server, run, packs)).length).toBe(2);
  });
});
