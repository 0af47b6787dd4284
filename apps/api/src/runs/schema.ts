import { RunState } from "@muster/db";
import {
  demoRunSpec,
  environmentHash,
  environments,
  fromTypeId,
  type RunSpecIssue,
  runSpecSchema,
} from "@muster/protocol";
import { z } from "zod";
import { builder } from "../builder.ts";
import type { Ctx } from "../context.ts";
import { CodedError } from "../errors.ts";
import { RoleGrantType, RunNode } from "../nodes/schema.ts";
import { Organization } from "../organizations/schema.ts";
import { asOf } from "./as-of.ts";
import { type CreateRunOutcome, checkRunSpec, createRun, fundRun, reviseRun } from "./create-run.ts";
import { cancelRun, pauseRun, resumeRun } from "./lifecycle.ts";
import { type RunStats, runStats } from "./stats.ts";
import { maySeeRun, visibleRuns } from "./visibility.ts";

const RunStateEnum = builder.enumType(RunState, { name: "RunState" });

export const Environment = builder.prismaObject("Environment", {
  authScopes: { public: true },
  fields: (t) => ({
    slug: t.exposeID("slug", { description: "`owner/name@version`" }),
    hash: t.exposeString("hash"),
    title: t.exposeString("title"),
    description: t.exposeString("description"),
  }),
});

const countsOf = <Key extends string>(name: string, keys: readonly Key[]) =>
  builder.objectRef<Record<Key, number>>(name).implement({
    authScopes: { public: true },
    // Every key is exposed as itself; the record's type says that each is there.
    fields: (t) => Object.fromEntries(keys.map((key) => [key, t.int({ resolve: (counts) => counts[key] })])),
  });
const TaskCounts = countsOf("TaskCounts", ["open", "leased", "submitted", "done", "failed", "cancelled"]);
const GroupCounts = countsOf("GroupCounts", [
  "submitted",
  "verifying",
  "accepted",
  "setAside",
  "rejected",
  "invalid",
  "stale",
]);
const AttemptCounts = countsOf("AttemptCounts", ["live", "submitted", "released", "expired", "cancelled"]);

const RunStatsType = builder.objectRef<RunStats>("RunStats").implement({
  authScopes: { public: true },
  fields: (t) => ({
    tasks: t.field({ type: TaskCounts, resolve: (stats) => stats.tasks }),
    groups: t.field({ type: GroupCounts, resolve: (stats) => stats.groups }),
    attempts: t.field({ type: AttemptCounts, resolve: (stats) => stats.attempts }),
    workersActive: t.exposeInt("workersActive", {
      description: "Nodes that may generate and were seen within 30 seconds; none once the run has ended.",
    }),
    tokensGenerated: t.expose("tokensGenerated", { type: "BigInt" }),
    tokensMeasured: t.expose("tokensMeasured", { type: "BigInt" }),
    verificationShare: t.exposeFloat("verificationShare", {
      nullable: true,
      description:
        "CPU-seconds of measuring over those of generating, as the nodes report them; null before there are both.",
    }),
    reward: t.exposeFloat("reward", {
      nullable: true,
      description: "Mean reward of the newest trained batch.",
    }),
    etaSeconds: t.exposeFloat("etaSeconds", {
      nullable: true,
      description: "Estimated seconds to the last step.",
    }),
  }),
});

export const RunRevision = builder.prismaNode("RunRevision", {
  id: { field: "id" },
  include: { run: { select: { id: true, organizationId: true, open: true } } },
  authScopes: (revision, ctx) => maySeeRun(ctx, revision.run),
  fields: (t) => ({
    number: t.exposeInt("number"),
    spec: t.expose("spec", { type: "JSON" }),
    hash: t.exposeString("hash", { description: "SHA-256 of the spec's canonical JSON." }),
    createdAt: t.expose("createdAt", { type: "DateTime" }),
  }),
});

/** What only the organization sees. */
const members = { can: "run:read" } as const;

export const Run = builder.prismaNode("Run", {
  id: { field: "id" },
  authScopes: (run, ctx) => maySeeRun(ctx, run),
  fields: (t) => ({
    slug: t.exposeString("slug"),
    name: t.exposeString("name"),
    environment: t.field({
      type: Environment,
      select: { environment: true },
      resolve: (run, _args, ctx) =>
        ctx.prisma.environment.findUniqueOrThrow({ where: { slug: run.environment } }),
    }),
    state: t.expose("state", { type: RunStateEnum }),
    stateReason: t.exposeString("stateReason", { nullable: true }),
    open: t.exposeBoolean("open"),
    organization: t.relation("organization", { authScopes: members }),
    currentVersion: t.exposeInt("currentVersion", {
      nullable: true,
      description: "The newest AVAILABLE policy version.",
    }),
    step: t.exposeInt("step", { description: "Training steps done." }),
    stepLimit: t.exposeInt("stepLimit"),
    revision: t.prismaField({
      type: RunRevision,
      description: "The revision in force.",
      select: { id: true, revision: true },
      resolve: (query, run, _args, ctx) =>
        ctx.prisma.runRevision.findUniqueOrThrow({
          ...query,
          where: { runId_number: { runId: run.id, number: run.revision } },
        }),
    }),
    revisions: t.relation("revisions", { authScopes: members, query: { orderBy: { number: "asc" } } }),
    createdAt: t.expose("createdAt", { type: "DateTime" }),
    startedAt: t.expose("startedAt", { type: "DateTime", nullable: true }),
    endedAt: t.expose("endedAt", { type: "DateTime", nullable: true }),
    asOf: t.field({
      type: "BigInt",
      description:
        "Cursor of the run's event stream at which this answer was read: go on with `events(stream, after: asOf)`.",
      select: { id: true },
      resolve: (run, _args, ctx) => asOf(ctx, run.id),
    }),
    stats: t.field({
      type: RunStatsType,
      authScopes: members,
      select: { id: true, step: true, stepLimit: true, endedAt: true },
      resolve: (run, _args, ctx) => runStats(ctx, run),
    }),
    workers: t.relatedConnection("trust", {
      type: RunNode,
      cursor: "runId_nodeId",
      authScopes: members,
      description: "Nodes that joined the run.",
    }),
    grants: t.relation("grants", {
      type: RoleGrantType,
      authScopes: members,
      query: { orderBy: { id: "asc" } },
    }),
  }),
});

builder.prismaObjectFields(Organization, (t) => ({
  runs: t.relatedConnection("runs", {
    cursor: "id",
    authScopes: { can: "run:read" },
    query: { orderBy: { id: "desc" } },
  }),
}));

const SpecIssue = builder.objectRef<RunSpecIssue>("SpecIssue").implement({
  authScopes: { public: true },
  fields: (t) => ({
    path: t.exposeString("path", { description: "`model.heads`; empty for the whole." }),
    message: t.exposeString("message"),
  }),
});
const RunSpecCheck = builder.objectRef<ReturnType<typeof checkRunSpec>>("RunSpecCheck").implement({
  authScopes: { public: true },
  fields: (t) => ({
    valid: t.exposeBoolean("valid"),
    hash: t.string({ nullable: true, resolve: (check) => (check.valid ? check.hash : null) }),
    spec: t.field({
      type: "JSON",
      nullable: true,
      description: "The spec with every default.",
      resolve: (check) => (check.valid ? check.spec : null),
    }),
    issues: t.field({ type: [SpecIssue], resolve: (check) => (check.valid ? [] : [...check.issues]) }),
  }),
});

/** Anybody may ask for it, and making it takes ten milliseconds. */
let specSchema: unknown;

builder.queryFields((t) => ({
  environments: t.field({
    type: [Environment],
    description: "Problems with a verifiable reward that this coordinator can score.",
    authScopes: { public: true },
    // From the code, not the table: that one only knows environments that a run has used.
    resolve: () =>
      Object.values(environments).map((known) => ({
        slug: known.slug,
        hash: environmentHash(known),
        title: known.title,
        description: known.description,
      })),
  }),
  runs: t.prismaConnection({
    type: Run,
    cursor: "id",
    description: "Runs the caller may see, newest first.",
    authScopes: { signedIn: true },
    args: { state: t.arg({ type: RunStateEnum, required: false }) },
    resolve: (query, _root, { state }, ctx) =>
      ctx.prisma.run.findMany({
        ...query,
        where: { ...visibleRuns(ctx), ...(state == null ? {} : { state }) },
        orderBy: { id: "desc" },
      }),
  }),
  run: t.prismaField({
    type: Run,
    nullable: true,
    description:
      "A run by its id, or by its slug within the caller's organizations. Null when there is none to see.",
    authScopes: { signedIn: true },
    args: { id: t.arg.id({ required: false }), slug: t.arg.string({ required: false }) },
    resolve: async (query, _root, { id, slug }, ctx) => {
      if (id == null && slug == null) return null;
      const where = {
        ...visibleRuns(ctx),
        ...(id == null ? {} : { id: fromTypeId(id, "run") }),
        ...(slug == null ? {} : { slug }),
      };
      const found = await ctx.prisma.run.findFirst({ where, select: { id: true } });
      if (found === null) return null;
      // Before the rows: an event numbered in between would be in neither.
      await asOf(ctx, found.id);
      return ctx.prisma.run.findUnique({ ...query, where: { id: found.id } });
    },
  }),
  checkRunSpec: t.field({
    type: RunSpecCheck,
    description: "Checks a spec without storing it.",
    authScopes: { signedIn: true },
    args: { spec: t.arg({ type: "JSON" }) },
    resolve: (_root, { spec }) => checkRunSpec(spec),
  }),
  runSpecSchema: t.field({
    type: "JSON",
    description: "The JSON Schema of a run spec's input, with defaults and descriptions.",
    authScopes: { public: true },
    resolve: () => (specSchema ??= z.toJSONSchema(runSpecSchema, { io: "input", unrepresentable: "any" })),
  }),
  demoRunSpec: t.field({
    type: "JSON",
    description: "The demo's spec.",
    authScopes: { public: true },
    args: { steps: t.arg.int({ required: false }) },
    resolve: (_root, { steps }) => {
      try {
        return demoRunSpec(steps == null ? {} : { steps });
      } catch (error) {
        if (error instanceof RangeError) throw new CodedError("INPUT_INVALID", error.message);
        throw error;
      }
    },
  }),
}));

type Created = { kind: "created"; runId: string };
type Invalid = Extract<CreateRunOutcome, { kind: "invalid" }>;

const RunCreated = builder.objectRef<Created>("RunCreated").implement({
  authScopes: { signedIn: true },
  fields: (t) => ({
    run: t.prismaField({
      type: Run,
      resolve: (query, { runId }, _args, ctx) => readBack(ctx, runId, query),
    }),
  }),
});
const SpecInvalid = builder.objectRef<Invalid>("SpecInvalid").implement({
  authScopes: { signedIn: true },
  fields: (t) => ({
    message: t.exposeString("message"),
    issues: t.field({ type: [SpecIssue], resolve: ({ issues }) => [...issues] }),
  }),
});
export const CreateRunResult = builder.unionType("CreateRunResult", {
  types: [RunCreated, SpecInvalid],
  resolveType: ({ kind }) => ({ created: RunCreated, invalid: SpecInvalid })[kind],
});

const CreateRunInput = builder.inputType("CreateRunInput", {
  fields: (t) => ({
    organization: t.id(),
    spec: t.field({ type: "JSON" }),
    credits: t.field({ type: "BigInt", description: "Micro-credits moved into the run's budget." }),
    start: t.boolean(),
    idempotencyKey: t.string({ required: false }),
  }),
});
const ReviseRunInput = builder.inputType("ReviseRunInput", {
  fields: (t) => ({ run: t.id(), spec: t.field({ type: "JSON" }) }),
});
const RunInput = builder.inputType("RunInput", {
  fields: (t) => ({ run: t.id(), reason: t.string({ required: false }) }),
});
const FundRunInput = builder.inputType("FundRunInput", {
  fields: (t) => ({
    run: t.id(),
    credits: t.field({ type: "BigInt" }),
    idempotencyKey: t.string({ required: false }),
  }),
});

const optionalKey = (idempotencyKey: string | null | undefined) =>
  idempotencyKey == null ? {} : { idempotencyKey };
const controlled = (input: { run: string; reason?: string | null | undefined }) => ({
  runId: fromTypeId(input.run, "run"),
  ...(input.reason == null ? {} : { reason: input.reason }),
});

builder.mutationFields((t) => ({
  createRun: t.field({
    type: CreateRunResult,
    description: "Freezes revision 1 of the spec and opens the budget; `start` opens the BASE task too.",
    authScopes: { can: "run:create" },
    args: { input: t.arg({ type: CreateRunInput }) },
    resolve: (_root, { input }, ctx) =>
      createRun(ctx, {
        organizationId: fromTypeId(input.organization, "org"),
        spec: input.spec,
        credits: input.credits,
        start: input.start,
        ...optionalKey(input.idempotencyKey),
      }),
  }),
  reviseRun: t.field({
    type: CreateRunResult,
    description: "Puts a new revision of the spec in force.",
    authScopes: { can: "run:control" },
    args: { input: t.arg({ type: ReviseRunInput }) },
    resolve: (_root, { input }, ctx) =>
      reviseRun(ctx, { runId: fromTypeId(input.run, "run"), spec: input.spec }),
  }),
  pauseRun: t.prismaField({
    type: Run,
    description: "Opens and leases no further work; what is leased may still be submitted.",
    authScopes: { can: "run:control" },
    args: { input: t.arg({ type: RunInput }) },
    resolve: async (query, _root, { input }, ctx) => {
      const control = controlled(input);
      await pauseRun(ctx, control);
      return readBack(ctx, control.runId, query);
    },
  }),
  resumeRun: t.prismaField({
    type: Run,
    description: "Goes on after a pause, or starts a draft.",
    authScopes: { can: "run:control" },
    args: { input: t.arg({ type: RunInput }) },
    resolve: async (query, _root, { input }, ctx) => {
      const control = controlled(input);
      await resumeRun(ctx, control);
      return readBack(ctx, control.runId, query);
    },
  }),
  cancelRun: t.prismaField({
    type: Run,
    description: "Ends the run for good.",
    authScopes: { can: "run:control" },
    args: { input: t.arg({ type: RunInput }) },
    resolve: async (query, _root, { input }, ctx) => {
      const control = controlled(input);
      await cancelRun(ctx, control);
      return readBack(ctx, control.runId, query);
    },
  }),
  fundRun: t.prismaField({
    type: Run,
    description: "Moves micro-credits into a run's budget.",
    authScopes: { can: "run:fund" },
    args: { input: t.arg({ type: FundRunInput }) },
    resolve: async (query, _root, { input }, ctx) => {
      const runId = fromTypeId(input.run, "run");
      await fundRun(ctx, { runId, credits: input.credits, ...optionalKey(input.idempotencyKey) });
      return readBack(ctx, runId, query);
    },
  }),
}));

/** The committed truth, with the selection of the answer. */
async function readBack<Query extends object>(ctx: Ctx, runId: string, query: Query) {
  await asOf(ctx, runId);
  return ctx.prisma.run.findUniqueOrThrow({ ...query, where: { id: runId } });
}
