import { type ExecutionProvider, Policy, Trainer, type TrainingSettings } from "@muster/policy";
import type { ModelConfig } from "@muster/policy/graph";
import { canonicalJson } from "@muster/protocol";
import type { LocalCheckpoint } from "./checkpoints.ts";

export type EngineOptions = { providers?: readonly ExecutionProvider[]; threads: number };

/** What a trainer has in memory, by the hashes of what was published of it. */
export type TrainerAt = { manifest: string; state: string };

/**
 * The model in memory: at most one policy and one trainer, opened when first needed and kept, because a session costs more to
 * open than most tasks take. Only one task may use it at a time.
 */
export type Engines = AsyncDisposable & {
  /** The execution provider in use, once there is one. */
  provider(): string | undefined;
  /** A policy that has this checkpoint's weights. */
  policy(checkpoint: LocalCheckpoint): Promise<Policy>;
  /** A trainer for this model and these settings; `at` says what it holds, and must be moved along (`standAt`). */
  trainer(input: {
    model: ModelConfig;
    training: TrainingSettings;
    temperature: number;
  }): Promise<{ trainer: Trainer; at: TrainerAt | undefined }>;
  standAt(at: TrainerAt | undefined): void;
  /** Closes what is open; it is opened anew when needed. For an engine whose thread died. */
  reset(): Promise<void>;
};

export function openEngines({ providers, threads }: EngineOptions): Engines {
  let policy: { policy: Policy; model: string; loaded: string } | undefined;
  let trainer: { trainer: Trainer; settings: string; at: TrainerAt | undefined } | undefined;
  const common = { threads, ...(providers ? { providers } : {}) };

  async function reset(): Promise<void> {
    const open = [policy?.policy, trainer?.trainer];
    policy = undefined;
    trainer = undefined;
    await Promise.all(open.map((engine) => engine?.close()));
  }

  return {
    reset,
    [Symbol.asyncDispose]: reset,
    provider: () => trainer?.trainer.provider ?? policy?.policy.provider,
    async policy(checkpoint) {
      const model = canonicalJson(checkpoint.model);
      if (policy?.model !== model) {
        await policy?.policy.close();
        policy = undefined;
        policy = { policy: await Policy.open({ model: checkpoint.model, ...common }), model, loaded: "" };
      }
      if (policy.loaded !== checkpoint.manifestHash) {
        policy.loaded = "";
        await policy.policy.load(await checkpoint.weights());
        policy.loaded = checkpoint.manifestHash;
      }
      return policy.policy;
    },
    async trainer({ model, training, temperature }) {
      const settings = canonicalJson({ model, training, temperature });
      if (trainer?.settings !== settings) {
        await trainer?.trainer.close();
        trainer = undefined;
        const opened = await Trainer.open({ model, training, temperature, ...common });
        trainer = { trainer: opened, settings, at: undefined };
      }
      return { trainer: trainer.trainer, at: trainer.at };
    },
    standAt(at) {
      if (trainer) trainer.at = at;
    },
  };
}
