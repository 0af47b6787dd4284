import type { MeasuredRollout, PhiloxKey, Sampling } from "@muster/protocol";
import type { ModelConfig } from "../graph/config.ts";
import { flattenKeys, flattenPairs, measurementsOf } from "../graph/flat.ts";
import type { TokenPair } from "../graph/rollouts.ts";
import type { ProofSettings } from "../graph/windows.ts";
import type { GeneratedRollout, GenerateInput, GenerateProgress } from "./generate.ts";
import type { PolicyEngine } from "./policy-thread.ts";
import { type ExecutionProvider, executionProviders } from "./providers.ts";
import { EngineThread } from "./thread.ts";

export type MeasureInput = ProofSettings & {
  rollouts: readonly (TokenPair & { key: PhiloxKey })[];
  sampling: Sampling;
};

export type LogprobsInput = { rollouts: readonly TokenPair[]; temperature: number };

export type OpenOptions = {
  model: ModelConfig;
  /** Execution providers, tried in this order. Default: cuda, webgpu, dml, coreml, cpu. */
  providers?: readonly ExecutionProvider[];
  /** Threads inside one operator. Default 1: with more, several processes on one machine slow each other down. */
  threads?: number;
  /** `disabled`: the model runs as written, no operators fused. For calibration; default `all`. */
  optimization?: "all" | "disabled";
};

/**
 * A policy that generates and measures, on a thread of its own. Calls run one after another. Everything it throws on purpose is a
 * `PolicyError`.
 */
export class Policy implements AsyncDisposable {
  readonly model: ModelConfig;
  /** The execution provider that was found. */
  readonly provider: ExecutionProvider;
  private readonly thread: EngineThread<PolicyEngine>;

  private constructor(model: ModelConfig, provider: ExecutionProvider, thread: EngineThread<PolicyEngine>) {
    this.model = model;
    this.provider = provider;
    this.thread = thread;
  }

  /** Starts the thread; sessions are created when first needed. @throws PolicyError `BAD_CONFIG`, `NO_PROVIDER` */
  static async open(options: OpenOptions): Promise<Policy> {
    const { model, providers = executionProviders, threads = 1, optimization = "all" } = options;
    const script = new URL("./policy-thread.ts", import.meta.url);
    const thread = new EngineThread<PolicyEngine>(script, { model, providers, threads, optimization });
    try {
      const { provider } = await thread.call("open", null);
      return new Policy(model, provider, thread);
    } catch (error) {
      await thread.close();
      throw error;
    }
  }

  /** Replaces the weights (see `decodeCheckpoint`), which are copied. @throws PolicyError `WRONG_SIZE` */
  async load(flat: Float32Array): Promise<void> {
    await this.thread.call("load", flat);
  }

  /**
   * Draws one rollout for each prompt and key. The same weights, prompts and keys give the same tokens, up to the model's numeric
   * noise where two scores nearly tie.
   * @throws PolicyError `NO_WEIGHTS`, `INVALID_TOKEN`, `TOO_LONG`, `CANCELLED`, `CLOSED`
   */
  async generate(
    input: GenerateInput & {
      signal?: AbortSignal | undefined;
      onProgress?: ((progress: GenerateProgress) => void) | undefined;
    },
  ): Promise<GeneratedRollout[]> {
    const { signal, onProgress, ...rest } = input;
    return this.thread.call("generate", rest, {
      signal,
      // The engine's generate() reports nothing else.
      onProgress: onProgress && ((progress) => onProgress(progress as GenerateProgress)),
    });
  }

  /**
   * Reads finished rollouts and reports, for each, what a MEASUREMENT pack holds.
   * @throws PolicyError `NO_WEIGHTS`, `INVALID_TOKEN`, `TOO_LONG`, `TOO_LARGE`, `CANCELLED`, `CLOSED`
   */
  async measure(input: MeasureInput & { signal?: AbortSignal | undefined }): Promise<MeasuredRollout[]> {
    const { rollouts, sampling, form, topK, signal } = input;
    const keys = flattenKeys(rollouts.map(({ key }) => key));
    const flat = { ...flattenPairs(rollouts), keys, sampling, form, topK };
    const measured = await this.thread.call("measure", flat, { signal });
    const outputs = rollouts.map(({ tokens }) => tokens.length);
    return measurementsOf(measured, outputs, this.model.hiddenSize, topK);
  }

  /**
   * The log-probability (float32) of each token of each rollout.
   * @throws PolicyError as `measure`
   */
  async logprobs(input: LogprobsInput & { signal?: AbortSignal | undefined }): Promise<Float32Array[]> {
    const { rollouts, temperature, signal } = input;
    const flat = await this.thread.call("logprobs", { ...flattenPairs(rollouts), temperature }, { signal });
    let at = 0;
    return rollouts.map(({ tokens }) => {
      at += tokens.length;
      return flat.subarray(at - tokens.length, at);
    });
  }

  /** Ends the thread and frees its memory. Calls under way are rejected with `CLOSED`. */
  async close(): Promise<void> {
    await this.thread.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}
