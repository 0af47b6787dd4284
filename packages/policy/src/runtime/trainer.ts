import { hashHex, type PhiloxKey } from "@muster/protocol";
import type { ModelConfig } from "../graph/config.ts";
import type { TokenPair } from "../graph/rollouts.ts";
import { learningRateAt, type Schedule } from "../graph/schedule.ts";
import type { OpenOptions } from "./policy.ts";
import { type ExecutionProvider, executionProviders } from "./providers.ts";
import { EngineThread } from "./thread.ts";
import type { GrpoMetrics, ImitateMetrics, LossSettings, StepSettings, TrainRollout } from "./train.ts";
import type { TrainerEngine } from "./trainer-thread.ts";

/** A run spec's `training`, as far as a trainer reads it. */
export type TrainingSettings = Schedule & LossSettings & Omit<StepSettings, "learningRate">;

export type TrainerOptions = OpenOptions & {
  training: TrainingSettings;
  /** Of the run's sampling: log-probabilities are of logits / temperature. Default 1. */
  temperature?: number;
};

export type WarmupInput = {
  steps: number;
  batchSize: number;
  learningRate: number;
  /** Steps over which the rate rises linearly from 0. */
  warmupSteps: number;
  weightDecay: number;
  /** The pairs of step i (from 0); `tokens` are imitated, EOS included. */
  corpus: (step: number) => readonly TokenPair[];
  signal?: AbortSignal | undefined;
  onProgress?: ((progress: { step: number; loss: number }) => void) | undefined;
};

export type StepInput = {
  /** In listed order; see `BatchPack`. */
  rollouts: readonly TrainRollout[];
  /** From 1; decides the learning rate. */
  step: number;
  totalSteps: number;
  signal?: AbortSignal | undefined;
};

/** Metrics of one step; `seconds` of wall time. */
export type StepMetrics = GrpoMetrics & { seconds: number };

/**
 * Trains a policy, on a thread of its own: warm-up by imitation, then GRPO, one AdamW update a batch. The same weights, state, batch
 * and provider give the same bytes. Everything it throws on purpose is a `PolicyError`.
 */
export class Trainer implements AsyncDisposable {
  readonly model: ModelConfig;
  readonly provider: ExecutionProvider;
  private readonly training: TrainingSettings;
  private readonly temperature: number;
  private readonly thread: EngineThread<TrainerEngine>;

  private constructor(
    options: TrainerOptions,
    provider: ExecutionProvider,
    thread: EngineThread<TrainerEngine>,
  ) {
    this.model = options.model;
    this.training = options.training;
    this.temperature = options.temperature ?? 1;
    this.provider = provider;
    this.thread = thread;
  }

  /** Starts the thread; sessions are created when first needed. @throws PolicyError `BAD_CONFIG`, `NO_PROVIDER` */
  static async open(options: TrainerOptions): Promise<Trainer> {
    const { model, providers = executionProviders, threads = 1, optimization = "all" } = options;
    const script = new URL("./trainer-thread.ts", import.meta.url);
    const thread = new EngineThread<TrainerEngine>(script, { model, providers, threads, optimization });
    try {
      const { provider } = await thread.call("open", null);
      return new Trainer(options, provider, thread);
    } catch (error) {
      await thread.close();
      throw error;
    }
  }

  /** Random weights, and no optimizer state. The same seed gives the same weights everywhere. */
  async init(seed: string | number): Promise<void> {
    await this.thread.call("init", initKey(seed));
  }

  /** Given weights, and no optimizer state: another run's checkpoint, an upload. @throws PolicyError `WRONG_SIZE` */
  async load(flat: Float32Array): Promise<void> {
    await this.thread.call("load", flat);
  }

  /** The policy the KL term is measured against; needed when `klCoefficient` is not 0. @throws PolicyError `WRONG_SIZE` */
  async setReference(flat: Float32Array): Promise<void> {
    await this.thread.call("setReference", flat);
  }

  /**
   * Imitates a corpus, then forgets the optimizer state: the first GRPO step starts from zero moments.
   * @returns the last step's loss and the wall time.
   */
  async warmup(input: WarmupInput): Promise<{ steps: number; loss: number; seconds: number }> {
    const started = performance.now();
    const { beta1, beta2, epsilon, maxGradientNorm } = this.training;
    const { weightDecay, signal } = input;
    const schedule = { ...input, schedule: "constant", finalFraction: 1 } as const;
    let last: ImitateMetrics | undefined;
    let pairs = input.corpus(0);
    for (let i = 0; i < input.steps; i++) {
      const learningRate = learningRateAt(schedule, i + 1, input.steps);
      const step = { learningRate, beta1, beta2, epsilon, weightDecay, maxGradientNorm };
      const trained = this.thread.call("imitate", { pairs, step }, { signal });
      // The next batch is made while this one is learned.
      if (i + 1 < input.steps) pairs = input.corpus(i + 1);
      last = await trained;
      input.onProgress?.({ step: i + 1, loss: last.loss });
    }
    await this.thread.call("endImitation", null);
    return {
      steps: input.steps,
      loss: last?.loss ?? Number.NaN,
      seconds: (performance.now() - started) / 1000,
    };
  }

  /**
   * One GRPO update over a whole batch (see `trainGraph` for the loss). All or nothing: a step that fails or is cancelled changes
   * nothing.
   * @throws PolicyError `NO_WEIGHTS`, `EMPTY_BATCH`, `WRONG_SIZE`, `INVALID_TOKEN`, `TOO_LONG`, `TOO_LARGE`, `NO_REFERENCE`,
   * `NOT_FINITE`, `CANCELLED`, `CLOSED`
   */
  async step(input: StepInput): Promise<StepMetrics> {
    const started = performance.now();
    const { clipLow, clipHigh, delta, klCoefficient, entropyCoefficient } = this.training;
    const { beta1, beta2, epsilon, weightDecay, maxGradientNorm } = this.training;
    const learningRate = learningRateAt(this.training, input.step, input.totalSteps);
    const metrics = await this.thread.call(
      "grpo",
      {
        rollouts: input.rollouts,
        temperature: this.temperature,
        loss: { clipLow, clipHigh, delta, klCoefficient, entropyCoefficient },
        step: { learningRate, beta1, beta2, epsilon, weightDecay, maxGradientNorm },
      },
      { signal: input.signal },
    );
    return { ...metrics, seconds: (performance.now() - started) / 1000 };
  }

  /**
   * Log-probabilities (float32) of each rollout's tokens, under the trainer's weights or under `flat` (say, those of the generating
   * version): old log-probabilities for rollouts that come without.
   */
  async logprobs(input: {
    rollouts: readonly TokenPair[];
    flat?: Float32Array | undefined;
    signal?: AbortSignal | undefined;
  }): Promise<Float32Array[]> {
    const { rollouts, flat, signal } = input;
    return this.thread.call("logprobs", { rollouts, flat, temperature: this.temperature }, { signal });
  }

  /** The weights and the optimizer state (a safetensors file): everything a later step depends on. */
  async export(): Promise<{ flat: Float32Array; state: Uint8Array }> {
    return this.thread.call("export", null);
  }

  /** Continues where `export` left off. @throws PolicyError `WRONG_SIZE`, `BAD_STATE` */
  async restore(flat: Float32Array, state: Uint8Array): Promise<void> {
    await this.thread.call("restore", { flat, state });
  }

  /** Ends the thread and frees its memory. Calls under way are rejected with `CLOSED`. */
  async close(): Promise<void> {
    await this.thread.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

/** First two u32 LE words of SHA-256(`"muster/init/v1\0"` ‖ seed as text). */
function initKey(seed: string | number): PhiloxKey {
  const digest = hashHex(`muster/init/v1\0${seed}`);
  const word = (at: number) =>
    Number.parseInt(
      digest
        .slice(at, at + 8)
        .match(/../g)!
        .reverse()
        .join(""),
      16,
    );
  return [word(0), word(8)];
}
