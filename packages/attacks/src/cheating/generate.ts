import type { ModelConfig } from "@muster/policy/graph";
import {
  decodeRolloutPack,
  type Environment,
  type Example,
  encodeRolloutPack,
  environment,
  exampleSeed,
  groupOf,
  type MeasuredRollout,
  type PackedRollout,
  type RolloutPack,
  rolloutKey,
} from "@muster/protocol";
import { graphql } from "@muster/sdk";
import { encodeProof, encodeProofF32, toBf16 } from "@muster/toploc";
import {
  type Assignment,
  type ChooseCheckpoint,
  type Executor,
  type ExecutorContext,
  generateExecutor,
  namedCheckpoint,
  type Outcome,
} from "@muster/worker";
import type { Ledger } from "./ledger.ts";

/** What is done otherwise than a task asks; everything that is left out is done honestly. */
export type Cheat = {
  /** Generates with this checkpoint in place of the one that the task names. */
  checkpoint?: ChooseCheckpoint;
  /** Changes the rollouts of one group. A rollout returned as it was given is honest work. */
  rollouts?(honest: readonly PackedRollout[], bench: Bench): Promise<readonly PackedRollout[]>;
  /** Writes the pack. */
  pack?(pack: RolloutPack, bench: Bench): Uint8Array;
  /** Whether to cheat on the n-th group of this node (from 0); always when left out. Only for `rollouts`. */
  when?(n: number): boolean;
};

/** What an adversary has at hand at one group (for `pack`, at the first). */
export type Bench = {
  ctx: ExecutorContext;
  assignment: Assignment<"GENERATE">;
  /** Position of the group in its task. */
  group: number;
  model(): Promise<ModelConfig>;
  /** The environment's own problem: tasks are public enough to solve them without the policy. */
  problem(): Promise<{ env: Environment; example: Example }>;
  /** What an honest validator would see of these rollouts. */
  measure(rollouts: readonly PackedRollout[]): Promise<MeasuredRollout[]>;
  /** The rollouts with the proofs and log-probabilities of a genuine prefill over their tokens: only the choice of tokens is a lie. */
  prefilled(rollouts: readonly PackedRollout[]): Promise<PackedRollout[]>;
};

/** GENERATE with something else done. Every group goes into the ledger with whether it is a lie. */
export function cheating(ledger: Ledger, cheat: Cheat): Executor<"GENERATE"> {
  const honest = generateExecutor();
  let made = 0;
  return {
    batch: 1,
    async execute(ctx, assignments) {
      const outcomes: Outcome[] = [];
      for (const assignment of assignments) outcomes.push(await one(ctx, assignment));
      return outcomes;
    },
  };

  async function one(ctx: ExecutorContext, assignment: Assignment<"GENERATE">): Promise<Outcome> {
    const { payload } = assignment;
    const checkpoint = await (cheat.checkpoint ?? namedCheckpoint)(ctx, assignment);
    const other = checkpoint.manifestHash !== payload.manifest;
    const [outcome] = await (other
      ? generateExecutor({ checkpoint: async () => checkpoint })
      : honest
    ).execute(ctx, [assignment]);
    if (outcome?.kind !== "pack") return outcome ?? { kind: "failed", reason: "nothing was generated" };
    const pack = decodeRolloutPack(outcome.bytes);
    const rollouts: PackedRollout[] = [];
    const { tokenizer } = (await problemOf(ctx, assignment, 0)).env;
    for (const [group, prompt] of payload.prompts.entries()) {
      const before = groupOf(pack, group, payload.groupSize);
      const wanted = cheat.when?.(made++) ?? true;
      const after =
        cheat.rollouts && wanted ? await cheat.rollouts(before, benchOf(ctx, assignment, group)) : before;
      rollouts.push(...after);
      ledger.group({
        task: assignment.lease.task,
        index: group,
        version: assignment.lease.policyVersion ?? 0,
        prompt: tokenizer.decode(prompt),
        tokens: after.reduce((sum, { tokens }) => sum + tokens.length, 0),
        cheated: other || cheat.pack !== undefined || after.some((rollout, i) => rollout !== before[i]),
      });
    }
    const changed = { header: pack.header, rollouts };
    const bytes = cheat.pack ? cheat.pack(changed, benchOf(ctx, assignment, 0)) : encodeRolloutPack(changed);
    return { kind: "pack", pack: "ROLLOUTS", bytes: new Uint8Array(bytes) };
  }
}

function benchOf(ctx: ExecutorContext, assignment: Assignment<"GENERATE">, group: number): Bench {
  const { payload, lease } = assignment;
  const { form, topK, sampling } = payload;
  const measure = async (rollouts: readonly PackedRollout[]) => {
    const policy = await ctx.engines.policy(await namedCheckpoint(ctx, assignment));
    return policy.measure({
      rollouts: rollouts.map(({ prompt, tokens, index }) => ({
        prompt,
        tokens,
        key: rolloutKey(payload.seed, lease.task, index),
      })),
      sampling,
      form,
      topK,
    });
  };
  return {
    ctx,
    assignment,
    group,
    model: async () => (await namedCheckpoint(ctx, assignment)).model,
    problem: () => problemOf(ctx, assignment, group),
    measure,
    async prefilled(rollouts) {
      const measured = await measure(rollouts);
      return rollouts.map((rollout, i) => {
        const { logprobs, windows } = measured[i] ?? { logprobs: rollout.logprobs, windows: [] };
        const proofs = windows.map(({ indices, values }) =>
          form === "f32"
            ? encodeProofF32(indices, new Uint32Array(values.buffer, values.byteOffset, values.length))
            : encodeProof(indices, toBf16(values)),
        );
        return { ...rollout, logprobs, proofs };
      });
    },
  };
}

const EnvironmentDocument = graphql(`
  query AttackEnvironment($run: ID!) {
    run(id: $run) { id environment { slug } }
  }
`);

/** Environments by run: what a run is about never changes. */
const environmentOf = new Map<string, Promise<Environment>>();

async function problemOf(
  ctx: ExecutorContext,
  { lease, payload }: Assignment<"GENERATE">,
  group: number,
): Promise<{ env: Environment; example: Example }> {
  const asked =
    environmentOf.get(lease.run) ??
    ctx.client.execute(EnvironmentDocument, { run: lease.run }).then(({ run }) => {
      if (run === null) throw new Error(`${lease.run} is not to be seen by this node.`);
      return environment(run.environment.slug);
    });
  environmentOf.set(lease.run, asked);
  const env = await asked;
  return { env, example: env.example(exampleSeed(payload.seed, lease.task, group), "train") };
}
