import { type Prisma, RunState } from "@muster/db";
import {
  canonicalJson,
  environment,
  environmentHash,
  newId,
  parseRunSpec,
  type RunSpec,
  type RunSpecIssue,
  specHash,
  toTypeId,
} from "@muster/protocol";
import { assertAllowed } from "../auth/permissions.ts";
import type { Ctx, Tx } from "../context.ts";
import { CodedError, notFound } from "../errors.ts";
import { appendEvents, runStream } from "../events/append.ts";
import { fundBudget, openBudget } from "../ledger/ledger.ts";
import { openFirstEpoch } from "../verification/audit.ts";
import { type BaseSource, findBase } from "./base.ts";
import { once } from "./idempotency.ts";
import { lockRun, nudgeRun, runFor, runTransitions, startRun } from "./lifecycle.ts";
import { specOf } from "./spec.ts";

export type CreateRunOutcome =
  | { readonly kind: "created"; readonly runId: string }
  | { readonly kind: "invalid"; readonly message: string; readonly issues: readonly RunSpecIssue[] };

// What one run may ask of the coordinator that all of them share.
const mostTaskTokens = 2 ** 22;
const mostExamples = 10_000;
/** Micro-credits of one funding: sums of many stay far below what 64 bits hold. */
const mostCredits = 10n ** 15n;

/** Days after which a run ends when its spec names no deadline: nothing waits for ever. */
const longestRunDays = 30;

export type SpecCheck =
  | { readonly valid: true; readonly spec: RunSpec; readonly hash: string }
  | { readonly valid: false; readonly issues: readonly RunSpecIssue[] };

/** Checks a spec without storing anything. */
export function checkRunSpec(input: unknown): SpecCheck {
  const parsed = parseRunSpec(input);
  if (!parsed.ok) return { valid: false, issues: parsed.issues };
  const { spec } = parsed;
  const issues: RunSpecIssue[] = [];
  const { groupSize, groupsPerTask, maxOutputTokens } = spec.generation;
  if (groupSize * groupsPerTask * maxOutputTokens > mostTaskTokens)
    issues.push({
      path: "generation",
      message: `groupSize · groupsPerTask · maxOutputTokens may be ${mostTaskTokens} at most: a task's pack is judged in one go, while the others wait.`,
    });
  if (spec.evaluation.examples > mostExamples)
    issues.push({ path: "evaluation.examples", message: `At most ${mostExamples} here.` });
  if (spec.limits.deadline !== undefined && new Date(spec.limits.deadline) <= new Date())
    issues.push({ path: "limits.deadline", message: "It has passed." });
  return issues.length > 0 ? { valid: false, issues } : { valid: true, spec, hash: specHash(spec) };
}

/** Creates a run: freezes revision 1 of its spec, opens its budget, and starts it when asked. */
export async function createRun(
  ctx: Ctx,
  input: { organizationId: string; spec: unknown; credits: bigint; start: boolean; idempotencyKey?: string },
): Promise<CreateRunOutcome> {
  const { organizationId, credits, start } = input;
  assertAllowed(ctx.actor, "run:create", organizationId);
  // Credits are money: whoever may create a run but not fund one creates it with an empty budget.
  if (credits > 0n) assertAllowed(ctx.actor, "run:fund", organizationId);
  assertFundable(credits);
  const checked = checkRunSpec(input.spec);
  if (!checked.valid) return invalid(checked.issues);
  const base = await findBase(ctx, organizationId, checked.spec);
  if ("path" in base) return invalid([base]);

  const runId = await ctx.prisma.$transaction(async (tx) =>
    once(
      tx,
      {
        actor: ctx.actor,
        operation: "createRun",
        key: input.idempotencyKey,
        input: { organizationId, spec: plain(input.spec), credits: credits.toString(), start },
      },
      () =>
        insertRun(ctx, tx, { organizationId, spec: checked.spec, hash: checked.hash, credits, start, base }),
    ),
  );
  nudgeRun(ctx, runId);
  ctx.bus.publish("offers:BASE");
  return { kind: "created", runId };
}

/** Puts a new revision of the spec in force. What was opened before keeps the revision it was opened under. */
export async function reviseRun(
  ctx: Ctx,
  input: { runId: string; spec: unknown },
): Promise<CreateRunOutcome> {
  await runFor(ctx, input.runId, "run:control");
  const outcome = await ctx.prisma.$transaction((tx) => putRevision(ctx, tx, input.runId, () => input.spec));
  if (outcome.kind === "created") nudgeRun(ctx, input.runId);
  return outcome;
}

/**
 * The revision itself, in a transaction of the caller's, who has checked the rights and nudges the run afterwards.
 * @param change from the spec in force to the new one.
 */
export async function putRevision(
  ctx: Ctx,
  tx: Tx,
  runId: string,
  change: (before: RunSpec) => unknown,
): Promise<CreateRunOutcome> {
  const run = await lockRun(tx, runId);
  if (run === null) throw notFound("The run");
  if (runTransitions[run.state].length === 0)
    throw new CodedError("STATE_CONFLICT", `The run is ${run.state}; its spec is history. Create a new run.`);
  const { organizationId } = run;
  const before = await specOf(tx, run.id, run.revision);
  const checked = checkRunSpec(withSeed(change(before), before.seed));
  if (!checked.valid) return invalid(checked.issues);
  const { spec, hash } = checked;
  const issues: RunSpecIssue[] = Object.entries(frozen).flatMap(([path, part]) =>
    canonicalJson(part(spec)) === canonicalJson(part(before))
      ? []
      : [{ path, message: "It cannot change after the run was created." }],
  );
  if (spec.limits.steps < run.step)
    issues.push({ path: "limits.steps", message: `The run has done ${run.step} steps already.` });
  if (issues.length > 0) return invalid(issues);

  const number = run.revision + 1;
  await tx.runRevision.create({
    data: {
      id: newId("rev"),
      organizationId,
      runId: run.id,
      number,
      spec: asJson(spec),
      hash,
      createdById: personOf(ctx),
    },
  });
  await tx.run.update({
    where: { id: run.id },
    data: { ...fromSpec(spec, run.createdAt), revision: number },
  });
  await appendEvents(tx, [
    {
      stream: runStream(run.id),
      organizationId,
      type: "run.revised",
      subject: toTypeId("run", run.id),
      data: { revision: number, hash, stepLimit: spec.limits.steps },
    },
  ]);
  return { kind: "created", runId: run.id };
}

/** Adds credits to a run's budget. A run that paused for want of them goes on with `resumeRun`. */
export async function fundRun(
  ctx: Ctx,
  input: { runId: string; credits: bigint; idempotencyKey?: string },
): Promise<void> {
  const run = await runFor(ctx, input.runId, "run:fund");
  if (input.credits <= 0n) throw new CodedError("INPUT_INVALID", "`credits` must be above 0.");
  assertFundable(input.credits);
  await ctx.prisma.$transaction((tx) =>
    once(
      tx,
      {
        actor: ctx.actor,
        operation: "fundRun",
        key: input.idempotencyKey,
        input: { runId: run.id, credits: input.credits.toString() },
      },
      async () => {
        await fundBudget(tx, {
          organizationId: run.organizationId,
          runId: run.id,
          credits: input.credits,
          key: `fund:${run.id}:${newId("ledger")}`,
        });
        await appendEvents(tx, [
          {
            stream: runStream(run.id),
            organizationId: run.organizationId,
            type: "budget.changed",
            subject: toTypeId("run", run.id),
            data: { added: input.credits.toString() },
          },
        ]);
        return true;
      },
    ),
  );
  nudgeRun(ctx, run.id);
}

function assertFundable(credits: bigint): void {
  if (credits > mostCredits)
    throw new CodedError(
      "INPUT_INVALID",
      `\`credits\` may be ${mostCredits} at most; fund several times for more.`,
    );
}

/** What training, proofs and past rewards rest on; groups of one batch have to be of one size, drawn in one way. */
const frozen = {
  protocol: (spec) => spec.protocol,
  environment: (spec) => spec.environment,
  seed: (spec) => spec.seed,
  model: (spec) => spec.model,
  base: (spec) => spec.base,
  "generation.groupSize": (spec) => spec.generation.groupSize,
  "generation.sampling": (spec) => spec.generation.sampling,
} satisfies Record<string, (spec: RunSpec) => unknown>;

async function insertRun(
  ctx: Ctx,
  tx: Tx,
  input: {
    organizationId: string;
    spec: RunSpec;
    hash: string;
    credits: bigint;
    start: boolean;
    base: BaseSource;
  },
): Promise<string> {
  const { organizationId, spec, hash } = input;
  const env = environment(spec.environment);
  const described = { hash: environmentHash(env), title: env.title, description: env.description };
  await tx.environment.upsert({
    where: { slug: env.slug },
    create: { slug: env.slug, ...described },
    update: described,
  });
  const run = await tx.run.create({
    data: {
      id: newId("run"),
      organizationId,
      slug: await freeSlug(tx, organizationId, spec.name),
      environment: spec.environment,
      state: RunState.DRAFT,
      baseKind: spec.base.kind,
      createdById: personOf(ctx),
      ...fromSpec(spec, new Date()),
    },
  });
  await tx.runRevision.create({
    data: {
      id: newId("rev"),
      organizationId,
      runId: run.id,
      number: 1,
      spec: asJson(spec),
      hash,
      createdById: run.createdById,
    },
  });
  await tx.packReference.createMany({
    data: input.base.packs.map((pack) => ({ ...pack, organizationId, runId: run.id, subject: run.id })),
  });
  await openBudget(tx, { organizationId, runId: run.id, credits: input.credits });
  await openFirstEpoch(ctx, tx, run);
  await appendEvents(tx, [
    {
      stream: runStream(run.id),
      organizationId,
      type: "run.created",
      subject: toTypeId("run", run.id),
      data: { name: run.name, slug: run.slug, environment: run.environment, stepLimit: run.stepLimit, hash },
    },
  ]);
  if (input.start) await startRun(tx, run);
  return run.id;
}

/** The columns of a run that repeat its spec. */
function fromSpec(spec: RunSpec, createdAt: Date) {
  const latest = new Date(createdAt.getTime() + longestRunDays * 86_400_000);
  return {
    name: spec.name,
    open: spec.open,
    stepLimit: spec.limits.steps,
    deadlineAt: spec.limits.deadline === undefined ? latest : new Date(spec.limits.deadline),
  };
}

/** `sort-digits`, then `sort-digits-2`, … */
async function freeSlug(tx: Tx, organizationId: string, name: string): Promise<string> {
  const slug =
    name
      .normalize("NFKD")
      .toLowerCase()
      .replace(/[^a-z0-9]+/g, "-")
      .replace(/^-+|-+$/g, "")
      .slice(0, 60) || "run";
  // Two runs created at once would find the same free slug.
  await tx.$executeRaw`SELECT pg_advisory_xact_lock(hashtextextended('slug:' || ${organizationId}, 0))`;
  const taken = await tx.run.findMany({
    where: { organizationId, slug: { startsWith: slug } },
    select: { slug: true },
  });
  const slugs = new Set(taken.map((run) => run.slug));
  let n = 1;
  while (slugs.has(n === 1 ? slug : `${slug}-${n}`)) n++;
  return n === 1 ? slug : `${slug}-${n}`;
}

function invalid(issues: readonly RunSpecIssue[]): CreateRunOutcome {
  const [first] = issues;
  const more = issues.length > 1 ? ` (and ${issues.length - 1} more)` : "";
  return {
    kind: "invalid",
    message: `${first?.path === "" ? "" : `${first?.path}: `}${first?.message ?? "The spec is wrong."}${more}`,
    issues,
  };
}

/** A revision that leaves the seed out means the run's own, not a fresh one. */
function withSeed(input: unknown, seed: string): unknown {
  return typeof input === "object" && input !== null && !Array.isArray(input) ? { seed, ...input } : input;
}

/** Who of flesh and blood asks. */
export function personOf(ctx: Ctx): string | null {
  return ctx.actor.kind === "person" ? ctx.actor.userId : null;
}

// A parsed spec is plain JSON; optional members that are undefined fall away.
function asJson(spec: RunSpec): Prisma.InputJsonValue {
  return JSON.parse(JSON.stringify(spec)) as Prisma.InputJsonValue;
}

// GraphQL's JSON objects have no prototype of their own kind; canonical JSON takes plain ones.
function plain(value: unknown): unknown {
  return JSON.parse(JSON.stringify(value ?? null));
}
