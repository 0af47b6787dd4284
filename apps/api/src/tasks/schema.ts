import { AttemptState, TaskKind, TaskState } from "@muster/db";
import { fromTypeId, toTypeId } from "@muster/protocol";
import { allows } from "../auth/permissions.ts";
import { builder } from "../builder.ts";
import type { Ctx } from "../context.ts";
import { ComputeNode } from "../nodes/schema.ts";
import { Run } from "../runs/schema.ts";
import { claimTasks, type Lease, maxClaim } from "./claim.ts";
import { releaseTask, renewLease } from "./lease.ts";
import { type TaskOffer, taskOffers } from "./offers.ts";
import type { SubmissionInput, SubmissionOutcome } from "./submission.ts";

const TaskKindEnum = builder.enumType(TaskKind, { name: "TaskKind" });
const TaskStateEnum = builder.enumType(TaskState, { name: "TaskState" });
const AttemptStateEnum = builder.enumType(AttemptState, { name: "AttemptState" });

export const Task = builder.prismaNode("Task", {
  id: { field: "id" },
  // Never the payload: a validator's is as long as a group.
  select: { id: true, organizationId: true, leaseNodeId: true },
  authScopes: (task, { actor }) =>
    allows(actor, "run:read", task.organizationId) ||
    (actor.kind === "node" && actor.nodeId === task.leaseNodeId),
  fields: (t) => ({
    kind: t.expose("kind", { type: TaskKindEnum }),
    state: t.expose("state", { type: TaskStateEnum }),
    policyVersion: t.exposeInt("policyVersion", { nullable: true }),
    attempt: t.exposeInt("attempt", { description: "Number of the newest attempt; 0 before the first." }),
    maxAttempts: t.exposeInt("maxAttempts"),
    createdAt: t.expose("createdAt", { type: "DateTime" }),
    doneAt: t.expose("doneAt", { type: "DateTime", nullable: true }),
    failure: t.exposeString("failure", { nullable: true, description: "Why it failed or was cancelled." }),
    attempts: t.relation("attempts", {
      authScopes: { can: "run:read" },
      query: { orderBy: { number: "asc" } },
    }),
  }),
});

builder.prismaNode("Attempt", {
  id: { field: "id" },
  authScopes: (attempt, { actor }) =>
    allows(actor, "run:read", attempt.organizationId) ||
    (actor.kind === "node" && actor.nodeId === attempt.nodeId),
  fields: (t) => ({
    number: t.exposeInt("number"),
    state: t.expose("state", { type: AttemptStateEnum }),
    node: t.relation("node", { type: ComputeNode }),
    claimedAt: t.expose("claimedAt", { type: "DateTime" }),
    leaseUntil: t.expose("leaseUntil", { type: "DateTime" }),
    endedAt: t.expose("endedAt", { type: "DateTime", nullable: true }),
    reason: t.exposeString("reason", {
      nullable: true,
      description: "Why it was released, cancelled, or its submission refused.",
    }),
  }),
});

builder.prismaObjectFields(Run, (t) => ({
  tasks: t.relatedConnection("tasks", {
    cursor: "id",
    description: "Tasks, newest first.",
    authScopes: { can: "run:read" },
    args: {
      kind: t.arg({ type: TaskKindEnum, required: false }),
      state: t.arg({ type: TaskStateEnum, required: false }),
    },
    query: ({ kind, state }) => ({
      where: { ...(kind == null ? {} : { kind }), ...(state == null ? {} : { state }) },
      orderBy: { id: "desc" },
    }),
  }),
}));

const LeaseRef = builder.objectRef<Lease>("Lease").implement({
  description: "What a claim hands out. `payload` is described per kind in docs/protocol.md.",
  authScopes: { node: true },
  fields: (t) => ({
    task: t.id({ resolve: (lease) => toTypeId("task", lease.taskId) }),
    run: t.id({ resolve: (lease) => toTypeId("run", lease.runId) }),
    kind: t.expose("kind", { type: TaskKindEnum }),
    attempt: t.exposeInt("attempt", { description: "Names this lease in everything sent for it." }),
    leaseUntil: t.expose("leaseUntil", { type: "DateTime" }),
    renewAfterSeconds: t.exposeInt("renewAfterSeconds"),
    manifest: t.exposeString("manifestHash", {
      nullable: true,
      description: "SHA-256 of the checkpoint's manifest.",
    }),
    policyVersion: t.exposeInt("policyVersion", { nullable: true }),
    payload: t.field({ type: "JSON", resolve: (lease) => lease.payload }),
  }),
});

const LeaseRenewal = builder.objectRef<{ leaseUntil: Date }>("LeaseRenewal").implement({
  authScopes: { node: true },
  fields: (t) => ({ leaseUntil: t.expose("leaseUntil", { type: "DateTime" }) }),
});

type OutcomeOf<Kind extends SubmissionOutcome["kind"]> = Extract<SubmissionOutcome, { kind: Kind }>;

const Submitted = builder.objectRef<OutcomeOf<"submitted"> & { state: TaskState }>("Submitted").implement({
  description: "The submission was taken.",
  authScopes: { node: true },
  fields: (t) => ({
    task: t.id({ resolve: (outcome) => toTypeId("task", outcome.taskId) }),
    state: t.expose("state", { type: TaskStateEnum }),
    duplicate: t.exposeBoolean("duplicate", {
      description: "It was taken before; results are the same however often it is sent.",
    }),
  }),
});

const LeaseLost = builder.objectRef<OutcomeOf<"lost">>("LeaseLost").implement({
  description: "Somebody else holds the task, or it is over: nothing was taken. Claim again.",
  authScopes: { node: true },
  fields: (t) => ({
    task: t.id({ resolve: (outcome) => toTypeId("task", outcome.taskId) }),
    message: t.exposeString("message"),
  }),
});

const SubmissionRefused = builder.objectRef<OutcomeOf<"refused">>("SubmissionRefused").implement({
  description:
    "What was submitted cannot be what the task asked for. The task opens again; sending the same again is pointless.",
  authScopes: { node: true },
  fields: (t) => ({
    task: t.id({ resolve: (outcome) => toTypeId("task", outcome.taskId) }),
    code: t.exposeString("code"),
    message: t.exposeString("message"),
  }),
});

/** The expected outcomes of every submission. */
export const SubmissionResult = builder.unionType("SubmissionResult", {
  description: "Expected outcomes of a submission.",
  types: [Submitted, LeaseLost, SubmissionRefused],
  resolveType: (outcome) => {
    switch (outcome.kind) {
      case "submitted":
        return Submitted;
      case "lost":
        return LeaseLost;
      case "refused":
        return SubmissionRefused;
    }
  },
});

/** What a submission's outcome looks like in the graph. */
export async function submissionResult(ctx: Ctx, outcome: SubmissionOutcome) {
  if (outcome.kind !== "submitted") return outcome;
  const task = await ctx.prisma.task.findUniqueOrThrow({
    where: { id: outcome.taskId },
    select: { state: true },
  });
  return { ...outcome, state: task.state };
}

/** The submission of one pack. */
export const SubmitPackInput = builder.inputType("SubmitPackInput", {
  fields: (t) => ({
    task: t.id(),
    attempt: t.int(),
    pack: t.string({ description: "SHA-256 of the pack, PUT before." }),
    signature: t.string({ description: "Ed25519 over `submissionBytes`, hexadecimal." }),
    cpuSeconds: t.float({ required: false, description: "CPU-seconds spent, for the cost figures only." }),
  }),
});

/** The domain's view of a `SubmitPackInput`. */
export function submissionInput(input: typeof SubmitPackInput.$inferInput): SubmissionInput {
  const { task, cpuSeconds, ...rest } = input;
  return { ...rest, taskId: fromTypeId(task, "task"), ...cost(cpuSeconds) };
}

/** CPU-seconds as a node may report them: anything implausible is left out. */
export function cost(cpuSeconds: number | null | undefined): { cpuSeconds?: number } {
  return cpuSeconds != null && cpuSeconds >= 0 && cpuSeconds < 1e9 ? { cpuSeconds } : {};
}

const ClaimTasksInput = builder.inputType("ClaimTasksInput", {
  fields: (t) => ({
    kinds: t.field({ type: [TaskKindEnum] }),
    max: t.int({ description: `1 to ${maxClaim}.` }),
    run: t.id({ required: false, description: "Only tasks of this run." }),
  }),
});

const LeaseInput = builder.inputType("LeaseInput", { fields: (t) => ({ task: t.id(), attempt: t.int() }) });

const ReleaseTaskInput = builder.inputType("ReleaseTaskInput", {
  fields: (t) => ({
    task: t.id(),
    attempt: t.int(),
    reason: t.string(),
    failed: t.boolean({
      defaultValue: false,
      description:
        "The node tried and could not do it: that counts against the task's attempts. Handing back when stopping does not.",
    }),
  }),
});

builder.mutationFields((t) => ({
  claimTasks: t.field({
    type: [LeaseRef],
    description: "Leases up to `max` tasks. An empty list means: nothing to do now, wait for an offer.",
    authScopes: { node: true },
    args: { input: t.arg({ type: ClaimTasksInput }) },
    resolve: (_root, { input }, ctx) =>
      claimTasks(ctx, {
        kinds: input.kinds,
        max: input.max,
        ...(input.run == null ? {} : { runId: fromTypeId(input.run, "run") }),
      }),
  }),
  renewLease: t.field({
    type: LeaseRenewal,
    description: "Extends a lease. Do it after a third of its time.",
    authScopes: { node: true },
    args: { input: t.arg({ type: LeaseInput }) },
    resolve: (_root, { input }, ctx) =>
      renewLease(ctx, { taskId: fromTypeId(input.task, "task"), attempt: input.attempt }),
  }),
  releaseTask: t.field({
    type: "Boolean",
    description: "Hands a task back undone. Doing it twice is harmless.",
    authScopes: { node: true },
    args: { input: t.arg({ type: ReleaseTaskInput }) },
    resolve: async (_root, { input }, ctx) => {
      await releaseTask(ctx, {
        taskId: fromTypeId(input.task, "task"),
        attempt: input.attempt,
        reason: input.reason,
        failed: input.failed,
      });
      return true;
    },
  }),
}));

const TaskOfferRef = builder.objectRef<TaskOffer>("TaskOffer").implement({
  description: 'Says "look": tasks of these kinds may be claimable.',
  authScopes: { node: true },
  fields: (t) => ({
    kinds: t.field({ type: [TaskKindEnum], resolve: (offer) => [...offer.kinds] }),
    at: t.expose("at", { type: "DateTime" }),
  }),
});

builder.subscriptionField("taskOffers", (t) =>
  t.field({
    type: TaskOfferRef,
    description:
      "Offers of these kinds: one at once, then when tasks open, at least every 15 seconds. A nudge, not a promise: claim.",
    authScopes: { node: true },
    args: { kinds: t.arg({ type: [TaskKindEnum] }) },
    subscribe: (_root, { kinds }, ctx) => taskOffers(ctx, kinds),
    resolve: (offer) => offer,
  }),
);
