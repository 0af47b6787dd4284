import type { Policy } from "@muster/policy";
import { type BlindPack, canonicalJson, decodeBlindPack, encodeMeasurementPack } from "@muster/protocol";
import type { Checkpoints, LocalCheckpoint } from "../checkpoints.ts";
import type { Assignment, Executor, ExecutorContext, Outcome } from "../executor.ts";

type Blind = { assignment: Assignment<"VERIFY">; blind: BlindPack };

/** VERIFY: reads finished rollouts without knowing whose they are and reports what it sees, one measurement pack a task. */
export function verifyExecutor(): Executor<"VERIFY"> {
  return {
    batch: 16,
    async execute(ctx, assignments) {
      const outcomes = new Map<Assignment<"VERIFY">, Outcome>();
      const together = new Map<string, Blind[]>();
      const fetched = await Promise.allSettled(assignments.map((assignment) => fetchBlind(ctx, assignment)));
      for (const [i, assignment] of assignments.entries()) {
        try {
          const found = fetched[i];
          if (found?.status !== "fulfilled") throw found?.reason;
          const blind = found.value;
          const { manifest, sampling, form, topK } = blind.header;
          const same = canonicalJson({ manifest, sampling, form, topK });
          together.set(same, [...(together.get(same) ?? []), { assignment, blind }]);
        } catch (error) {
          outcomes.set(assignment, failed(error));
        }
      }
      for (const group of together.values()) {
        try {
          const packs = await measure(ctx, group);
          group.forEach(({ assignment }, i) => {
            outcomes.set(assignment, packs[i] ?? failed("no measurement"));
          });
        } catch (error) {
          for (const { assignment } of group) outcomes.set(assignment, failed(error));
        }
      }
      return assignments.map((assignment) => outcomes.get(assignment) ?? failed("no measurement"));
    },
  };
}

async function fetchBlind(
  ctx: ExecutorContext,
  { payload, signal }: Assignment<"VERIFY">,
): Promise<BlindPack> {
  const blind = decodeBlindPack(await ctx.client.blobs.get({ sha256: payload.blind, signal }));
  if (blind.header.manifest !== payload.manifest) {
    throw new Error(
      `The blind pack names manifest ${blind.header.manifest}; the task names ${payload.manifest}.`,
    );
  }
  return blind;
}

/** One prefill over all rollouts of tasks that share model, sampling and proof settings. */
async function measure(ctx: ExecutorContext, group: readonly Blind[]): Promise<Outcome[]> {
  const [first] = group;
  if (!first) return [];
  const { sampling, form, topK, manifest } = first.blind.header;
  // one lost task must not stop the others
  const signal = whenAll(group.map(({ assignment }) => assignment.signal));
  const policy = await policyOf(ctx, manifest, signal);
  const rollouts = group.flatMap(({ blind }) => blind.rollouts);
  const measured = await policy.measure({ rollouts, sampling, form, topK, signal });
  let from = 0;
  return group.map(({ assignment, blind }) => {
    const own = measured.slice(from, from + blind.rollouts.length);
    from += blind.rollouts.length;
    assignment.progress(own.length, own.length);
    const bytes = encodeMeasurementPack({
      header: { kind: "measurement", version: 1, manifest, form, topK, blind: assignment.payload.blind },
      rollouts: own,
    });
    return { kind: "pack", pack: "MEASUREMENT", bytes: new Uint8Array(bytes) };
  });
}

// Audits come by ones and twos, mostly of one version, and opening a checkpoint that is here takes longer than measuring two groups.
const lastOf = new WeakMap<Checkpoints, LocalCheckpoint>();

async function policyOf(ctx: ExecutorContext, manifest: string, signal: AbortSignal): Promise<Policy> {
  const last = lastOf.get(ctx.checkpoints);
  if (last?.manifestHash === manifest) {
    const policy = await ctx.engines.policy(last).catch(() => undefined);
    if (policy !== undefined) return policy;
    // another task's weights took its place in memory, and it had to leave the disk
  }
  const checkpoint = await ctx.checkpoints.open({ manifest, signal });
  const policy = await ctx.engines.policy(checkpoint);
  lastOf.set(ctx.checkpoints, checkpoint);
  return policy;
}

/** Aborts once all of them have. */
function whenAll(signals: readonly AbortSignal[]): AbortSignal {
  const all = new AbortController();
  const check = () => {
    if (signals.every((signal) => signal.aborted)) all.abort();
  };
  for (const signal of signals) signal.addEventListener("abort", check, { once: true });
  check();
  return all.signal;
}

function failed(error: unknown): Outcome {
  return { kind: "failed", reason: error instanceof Error ? error.message : String(error) };
}
