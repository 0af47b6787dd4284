import { PolicyError } from "@muster/policy";
import { taskPayloadSchema } from "@muster/protocol";
import type { Lease, TaskKind } from "@muster/sdk";
import { deliver } from "./deliver.ts";
import type { Assignment, Executor, ExecutorContext, Executors, Outcome } from "./executor.ts";
import { type HeldLease, type LeaseKeeper, meansLost } from "./lease.ts";
import { gather, type Ticket } from "./together.ts";

/** How tasks ended on this node. */
export type Tally = { submitted: number; refused: number; lost: number; failed: number };

/** What is being done right now, for the heartbeat. */
export type Activity = Map<string, { kind: TaskKind; done: number; total: number }>;

export type PerformContext = ExecutorContext & {
  executors: Executors;
  leases: LeaseKeeper;
  tally: Tally;
  activity: Activity;
  /** Aborts when a draining worker's patience is over. */
  enough: AbortSignal;
};

const RELEASE_WITHIN = 5_000;

/** Works on claimed tasks (of one role) to their end: submitted, lost, or handed back with a reason. Leases are renewed all the while. */
export async function perform(ctx: PerformContext, leases: readonly Lease[]): Promise<void> {
  const started = { at: performance.now(), cpu: process.cpuUsage() };
  const held = leases.map((lease) => ctx.leases.hold(lease));
  try {
    for (const kind of new Set(leases.map((lease) => lease.kind))) {
      const own = held.filter(({ lease }) => lease.kind === kind);
      const outcomes = await outcomesOf(ctx, kind, own);
      const cpu = process.cpuUsage(started.cpu);
      const cpuSeconds = (cpu.user + cpu.system) / 1e6 / own.length;
      const tickets =
        kind === "VERIFY"
          ? gather(own.length, (submissions) =>
              ctx.client.tasks.submitMeasurements({ submissions }, { signal: ctx.enough }),
            )
          : [];
      await Promise.all(
        own.map(async (each, i) => {
          const ticket = tickets[i];
          try {
            await finish(ctx, each, outcomes[i] ?? failure("nothing came of it"), { cpuSeconds, ticket });
          } finally {
            ticket?.leave();
          }
        }),
      );
      const seconds = (performance.now() - started.at) / 1000;
      ctx.log.debug({ kind, tasks: own.length, seconds, cpuSeconds: cpuSeconds * own.length }, "tasks ended");
    }
  } finally {
    for (const each of held) {
      ctx.leases.letGo(each);
      ctx.activity.delete(each.lease.task);
    }
  }
}

/** One outcome a lease, in their order. */
async function outcomesOf<Kind extends TaskKind>(
  ctx: PerformContext,
  kind: Kind,
  held: readonly HeldLease[],
): Promise<Outcome[]> {
  const assigned = held.map((each) => assignmentOf(ctx, kind, each));
  const assignments = assigned.flatMap((each) => ("kind" in each ? [] : [each]));
  // the registry's entry for a kind takes that kind's payloads, which the compiler cannot follow through an index
  const executor = ctx.executors[kind] as Executor<Kind>;
  try {
    const outcomes = assignments.length > 0 ? await executor.execute(ctx, assignments) : [];
    const byAssignment = new Map(assignments.map((assignment, i) => [assignment, outcomes[i]] as const));
    return assigned.map((each) =>
      "kind" in each ? each : (byAssignment.get(each) ?? failure("nothing came of it")),
    );
  } catch (error) {
    if (error instanceof PolicyError && error.code === "CLOSED") await ctx.engines.reset();
    ctx.log.debug({ kind, error }, "the work failed");
    return assigned.map((each) => ("kind" in each ? each : failure(reasonOf(error))));
  }
}

function assignmentOf<Kind extends TaskKind>(
  ctx: PerformContext,
  kind: Kind,
  { lease, lost }: HeldLease,
): Assignment<Kind> | Extract<Outcome, { kind: "failed" }> {
  const parsed = taskPayloadSchema.safeParse(lease.payload);
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    return failure(`The payload cannot be read: ${issue?.path.join(".") ?? ""} ${issue?.message ?? ""}`);
  }
  if (parsed.data.kind !== kind) return failure(`A ${kind} task came with a ${parsed.data.kind} payload.`);
  ctx.activity.set(lease.task, { kind, done: 0, total: 0 });
  return {
    lease,
    // its kind was compared above
    payload: parsed.data as Assignment<Kind>["payload"],
    signal: AbortSignal.any([lost, ctx.enough]),
    progress: (done, total) => void ctx.activity.set(lease.task, { kind, done, total }),
  };
}

async function finish(
  ctx: PerformContext,
  held: HeldLease,
  outcome: Outcome,
  { cpuSeconds, ticket }: { cpuSeconds: number; ticket: Ticket | undefined },
): Promise<void> {
  const { task, kind, attempt } = held.lease;
  const log = ctx.log.child({ task, kind, attempt });
  if (held.lost.aborted) {
    ctx.tally.lost++;
    return;
  }
  if (outcome.kind === "failed") return giveBack(outcome.reason);
  try {
    const result = await deliver(ctx, held, outcome, { cpuSeconds, signal: ctx.enough, ticket });
    switch (result.__typename) {
      case "Submitted":
        ctx.tally.submitted++;
        if (outcome.kind === "step") outcome.accepted?.();
        log.info({ duplicate: result.duplicate }, "submitted");
        return;
      case "LeaseLost":
        ctx.tally.lost++;
        log.warn({ reason: result.message }, "the task went to another node before the submission arrived");
        return;
      case "SubmissionRefused":
        ctx.tally.refused++;
        log.error({ code: result.code, reason: result.message }, "the submission was refused");
        return;
    }
  } catch (error) {
    if (held.lost.aborted || meansLost(error)) {
      ctx.tally.lost++;
      log.warn({ error: String(error) }, "the task was lost before the submission arrived");
      return;
    }
    return giveBack(reasonOf(error));
  }

  async function giveBack(reason: string): Promise<void> {
    ctx.tally.failed++;
    const draining = ctx.enough.aborted;
    const said = draining ? "the node stops" : reason.slice(0, 300);
    if (draining) log.info("handed back: the node stops");
    else log.error({ reason }, "the task failed here; it is handed back");
    await ctx.client.tasks
      .release(
        { task, attempt, reason: said, failed: !draining },
        { signal: AbortSignal.timeout(RELEASE_WITHIN) },
      )
      .catch((error: unknown) =>
        log.warn({ error: String(error) }, "it could not be handed back; its lease expires"),
      );
  }
}

function failure(reason: string): Extract<Outcome, { kind: "failed" }> {
  return { kind: "failed", reason };
}

function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
