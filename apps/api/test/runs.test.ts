import { toTypeId } from "@muster/protocol";
import { afterAll, describe, expect, test } from "vitest";
import { budgetAvailable } from "../src/ledger/ledger.ts";
import { createRun, fundRun, reviseRun } from "../src/runs/create-run.ts";
import { cancelRun, pauseRun, resumeRun, runTransitions } from "../src/runs/lifecycle.ts";
import { claimTasks } from "../src/tasks/claim.ts";
import { claim, countTasks, eventsOf, plan, publishBase, runRow, smallSpec, startRun } from "./runkit.ts";
import { startTestServer, type TestOrganization } from "./testkit.ts";

const server = await startTestServer();
afterAll(() => server.stop());

describe("creating a run", () => {
  const create = `mutation($input: CreateRunInput!) { createRun(input: $input) {
    ... on RunCreated { run { id slug state step currentVersion asOf revision { number hash } environment { slug } stats { tasks { open } } } }
    ... on SpecInvalid { message issues { path message } } } }`;
  type Created = {
    createRun: {
      run?: { id: string; slug: string; state: string };
      message?: string;
      issues?: { path: string }[];
    };
  };
  const input = (organization: TestOrganization, more: Record<string, unknown> = {}) => ({
    input: { organization: organization.typeId, spec: smallSpec(), credits: "1000", start: true, ...more },
  });

  test("freezes revision 1, funds the budget and opens BASE", async () => {
    const organization = await server.organization();
    const { createRun: answer } = await server.ask<Created>(create, input(organization), organization.owner);
    expect(answer).toEqual({
      run: {
        id: expect.stringMatching(/^run_/),
        slug: "small-run",
        state: "RUNNING",
        step: 0,
        currentVersion: null,
        asOf: expect.any(String),
        revision: { number: 1, hash: expect.stringMatching(/^[0-9a-f]{64}$/) },
        environment: { slug: "muster/sort-digits@1" },
        stats: { tasks: { open: 1 } },
      },
    });
    const run = await server.prisma.run.findFirstOrThrow({ where: { organizationId: organization.id } });
    expect(await budgetAvailable(server.prisma, run.id)).toBe(1000n);
    expect(await countTasks(server, run, "BASE")).toEqual({ OPEN: 1 });
    expect(run.deadlineAt?.getTime()).toBeGreaterThan(Date.now() + 29 * 86_400_000);
    expect((await eventsOf(server, run)).map((event) => event.type)).toEqual([
      "run.created",
      "run.state",
      "task.opened",
    ]);
    expect(await server.prisma.auditEpoch.count({ where: { runId: run.id } })).toBe(1);
  });

  test("a wrong spec is a typed answer that names every field, and stores nothing", async () => {
    const organization = await server.organization();
    const spec = {
      ...smallSpec(),
      batch: { signalGroups: 9, settledGroups: 4 },
      verification: { audit: { floor: 0 } },
      colour: "red",
    };
    const { createRun: answer } = await server.ask<Created>(
      create,
      input(organization, { spec }),
      organization.owner,
    );
    expect(answer.message).toEqual(expect.any(String));
    expect(answer.issues?.length).toBeGreaterThan(0);
    const unsupported = {
      ...smallSpec(),
      limits: { deadline: "2020-01-01T00:00:00Z" },
    };
    const refused = await server.ask<Created>(
      create,
      input(organization, { spec: unsupported }),
      organization.owner,
    );
    expect(refused.createRun.issues?.map((issue) => issue.path)).toEqual(["limits.deadline"]);
    expect(await server.prisma.run.count({ where: { organizationId: organization.id } })).toBe(0);
  });

  test("the same key answers the first run, also when both come at once; another input under it is refused", async () => {
    const organization = await server.organization();
    const keyed = input(organization, { idempotencyKey: "once" });
    const answers = await Promise.all(
      [1, 2, 3].map(() => server.ask<Created>(create, keyed, organization.owner)),
    );
    expect(new Set(answers.map((answer) => answer.createRun.run?.id)).size).toBe(1);
    expect(await server.prisma.run.count({ where: { organizationId: organization.id } })).toBe(1);
    const other = await server.graphql(
      create,
      input(organization, { idempotencyKey: "once", credits: "1001" }),
      organization.owner,
    );
    expect(other.errors?.[0]?.extensions.code).toBe("IDEMPOTENCY_MISMATCH");
  });

  test("runs of one name get slugs of their own, also at once", async () => {
    const organization = await server.organization();
    await Promise.all(
      [1, 2, 3].map(() => server.ask<Created>(create, input(organization), organization.owner)),
    );
    const runs = await server.prisma.run.findMany({
      where: { organizationId: organization.id },
      orderBy: { slug: "asc" },
    });
    expect(runs.map((run) => run.slug)).toEqual(["small-run", "small-run-2", "small-run-3"]);
  });

  test("needs the right to, and a member may not spend", async () => {
    const organization = await server.organization();
    const member = await server.person(organization.id, "member");
    const stranger = (await server.organization()).owner;
    const code = async (caller: typeof member, more = {}) =>
      (await server.graphql(create, input(organization, more), caller)).errors?.[0]?.extensions.code;
    expect(await code(stranger)).toBe("FORBIDDEN");
    expect(await code(member)).toBe("FORBIDDEN");
    expect(await code(member, { credits: "0" })).toBeUndefined();
  });

  test("a base from another run must be there", async () => {
    const organization = await server.organization();
    const base = { kind: "checkpoint", run: toTypeId("run", organization.id), version: 3 };
    const { createRun: answer } = await server.ask<Created>(
      create,
      input(organization, { spec: { ...smallSpec(), base } }),
      organization.owner,
    );
    expect(answer.issues).toEqual([{ path: "base", message: expect.stringContaining("not available") }]);
  });
});

describe("controlling a run", () => {
  test("a draft starts when it is resumed, once", async () => {
    const run = await startRun(server, {}, { start: false });
    const owner = server.ctx(run.organization.owner);
    expect(await countTasks(server, run, "BASE")).toEqual({});
    await resumeRun(owner, { runId: run.id });
    await pauseRun(owner, { runId: run.id, reason: "lunch" });
    expect(await runRow(server, run)).toMatchObject({ state: "PAUSED", stateReason: "lunch" });
    await resumeRun(owner, { runId: run.id });
    expect(await runRow(server, run)).toMatchObject({ state: "RUNNING", stateReason: null });
    expect(await countTasks(server, run, "BASE")).toEqual({ OPEN: 1 });
    await expect(resumeRun(owner, { runId: run.id })).rejects.toMatchObject({ code: "STATE_CONFLICT" });
  });

  test("cancelling ends what is unfinished; nothing can be done with the run after", async () => {
    const run = await startRun(server);
    const owner = server.ctx(run.organization.owner);
    await publishBase(server, run);
    const lease = await claim(server, run, run.worker, "GENERATE");
    await server.ask(
      "mutation($input: RunInput!) { cancelRun(input: $input) { id state stateReason } }",
      { input: { run: run.typeId, reason: "enough" } },
      run.organization.owner,
    );
    expect(await runRow(server, run)).toMatchObject({
      state: "CANCELLED",
      stateReason: "enough",
      endedAt: expect.any(Date),
    });
    expect(await countTasks(server, run, "GENERATE")).toEqual({ CANCELLED: 2 });
    expect(await server.prisma.attempt.findFirst({ where: { taskId: lease.taskId } })).toMatchObject({
      state: "CANCELLED",
    });
    for (const change of [resumeRun, pauseRun, cancelRun])
      await expect(change(owner, { runId: run.id })).rejects.toMatchObject({ code: "STATE_CONFLICT" });
    await plan(server, run);
    expect((await runRow(server, run)).state).toBe("CANCELLED");
  });

  test("funding adds to the budget, once a key", async () => {
    const run = await startRun(server, {}, { credits: 10n });
    const owner = server.ctx(run.organization.owner);
    await fundRun(owner, { runId: run.id, credits: 5n, idempotencyKey: "gift" });
    await fundRun(owner, { runId: run.id, credits: 5n, idempotencyKey: "gift" });
    expect(await budgetAvailable(server.prisma, run.id)).toBe(15n);
    await expect(
      fundRun(owner, { runId: run.id, credits: 6n, idempotencyKey: "gift" }),
    ).rejects.toMatchObject({ code: "IDEMPOTENCY_MISMATCH" });
    await expect(fundRun(owner, { runId: run.id, credits: 0n })).rejects.toMatchObject({
      code: "INPUT_INVALID",
    });
  });

  test("a revision changes what may change, and nothing else", async () => {
    const run = await startRun(server);
    const owner = server.ctx(run.organization.owner);
    const { seed: _, ...unseeded } = smallSpec({ limits: { steps: 7 }, open: false });
    expect(await reviseRun(owner, { runId: run.id, spec: unseeded })).toEqual({
      kind: "created",
      runId: run.id,
    });
    expect(await runRow(server, run)).toMatchObject({ revision: 2, stepLimit: 7, open: false });
    const revisions = await server.prisma.runRevision.findMany({
      where: { runId: run.id },
      orderBy: { number: "asc" },
    });
    expect(
      revisions.map((revision) => (revision.spec as { limits: { steps: number } }).limits.steps),
    ).toEqual([2, 7]);
    const other = await reviseRun(owner, {
      runId: run.id,
      spec: { ...unseeded, environment: "muster/addition@1", model: { ...unseeded.model, layers: 2 } },
    });
    expect(other).toMatchObject({
      kind: "invalid",
      issues: expect.arrayContaining([expect.objectContaining({ path: "model" })]),
    });
    // Groups of one batch are of one size and drawn in one way.
    const { generation } = unseeded;
    const drawn = { ...generation, groupSize: 4, sampling: { ...generation.sampling, temperature: 0.5 } };
    expect(await reviseRun(owner, { runId: run.id, spec: { ...unseeded, generation: drawn } })).toMatchObject(
      {
        kind: "invalid",
        issues: [{ path: "generation.groupSize" }, { path: "generation.sampling" }],
      },
    );
    expect((await runRow(server, run)).revision).toBe(2);
  });

  test("a run past its deadline ends", async () => {
    const run = await startRun(server);
    await server.prisma.run.update({ where: { id: run.id }, data: { deadlineAt: new Date(Date.now() - 1) } });
    await plan(server, run);
    expect(await runRow(server, run)).toMatchObject({ state: "COMPLETED", stateReason: "DEADLINE" });
    expect(await countTasks(server, run, "BASE")).toEqual({ CANCELLED: 1 });
  });

  test("only the ends have no way out", () => {
    expect(
      Object.entries(runTransitions)
        .filter(([, to]) => to.length === 0)
        .map(([state]) => state),
    ).toEqual(["COMPLETED", "CANCELLED", "FAILED"]);
  });
});

describe("who sees a run", () => {
  const query = "query($id: ID!) { run(id: $id) { id state } }";

  test("members; a node when it is open or it holds a grant; nobody else", async () => {
    const run = await startRun(server, { open: false });
    const seen = { run: { id: run.typeId, state: "RUNNING" } };
    expect(await server.ask(query, { id: run.typeId }, run.organization.owner)).toEqual(seen);
    expect(await server.ask(query, { id: run.typeId }, run.trainer)).toEqual(seen);
    expect(await server.ask(query, { id: run.typeId }, run.worker)).toEqual({ run: null });
    expect(await server.ask(query, { id: run.typeId }, (await server.organization()).owner)).toEqual({
      run: null,
    });
    expect((await server.graphql(query, { id: run.typeId })).errors?.[0]?.extensions.code).toBe(
      "UNAUTHENTICATED",
    );
    const open = await startRun(server);
    expect(await server.ask(query, { id: open.typeId }, run.worker)).toEqual({
      run: { id: open.typeId, state: "RUNNING" },
    });
    const stats = await server.graphql(
      "query($id: ID!) { run(id: $id) { id stats { reward } } }",
      { id: open.typeId },
      run.worker,
    );
    expect(stats.errors?.[0]?.extensions.code).toBe("FORBIDDEN");
  });

  test("lists show the caller's own runs, newest first, and statistics that add up", async () => {
    const organization = await server.organization();
    const owner = server.ctx(organization.owner);
    for (let i = 0; i < 3; i++)
      await createRun(owner, {
        organizationId: organization.id,
        spec: { ...smallSpec(), name: `Run ${i}` },
        credits: 0n,
        start: i > 0,
      });
    const { runs } = await server.ask<{ runs: unknown }>(
      "{ runs(first: 2) { edges { node { name stats { tasks { open done } groups { accepted } attempts { live } workersActive tokensGenerated reward etaSeconds } } } pageInfo { hasNextPage } } }",
      {},
      organization.owner,
    );
    const stats = {
      tasks: { open: 1, done: 0 },
      groups: { accepted: 0 },
      attempts: { live: 0 },
      workersActive: 0,
      tokensGenerated: "0",
      reward: null,
      etaSeconds: null,
    };
    expect(runs).toEqual({
      edges: [{ node: { name: "Run 2", stats } }, { node: { name: "Run 1", stats } }],
      pageInfo: { hasNextPage: true },
    });
  });

  test("the environments and the demo's spec are there before any run", async () => {
    const answer = await server.ask<{
      environments: { slug: string }[];
      demoRunSpec: unknown;
      runSpecSchema: { properties: object };
    }>("{ environments { slug hash title description } demoRunSpec(steps: 3) runSpecSchema }");
    expect(answer.environments.map((env) => env.slug)).toContain("muster/sort-digits@1");
    expect(answer.demoRunSpec).toMatchObject({ limits: { steps: 3 } });
    expect(Object.keys(answer.runSpecSchema.properties)).toContain("training");
    const { owner } = await server.organization();
    const { checkRunSpec } = await server.ask<{ checkRunSpec: unknown }>(
      "query($spec: JSON!) { checkRunSpec(spec: $spec) { valid hash issues { path message } } }",
      { spec: answer.demoRunSpec },
      owner,
    );
    expect(checkRunSpec).toEqual({ valid: true, hash: expect.stringMatching(/^[0-9a-f]{64}$/), issues: [] });
  });

  test("a node that may take nothing else in a running run is told nothing", async () => {
    const run = await startRun(server);
    expect(await claimTasks(server.ctx(run.validator), { kinds: ["VERIFY"], max: 1, runId: run.id })).toEqual(
      [],
    );
  });
});
