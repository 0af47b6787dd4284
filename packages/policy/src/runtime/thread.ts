/**
 * A worker thread that answers typed calls. onnxruntime-node computes on the thread that calls it, so every session lives in one
 * of these and the caller's event loop stays free. Calls run one after another, in the order they were made.
 */

import { type Transferable, Worker } from "node:worker_threads";
import { PolicyError } from "../graph/policy-error.ts";
import type { Answer, Call, Engine, EngineInput, EngineOutput } from "./engine.ts";

export type CallOptions = {
  /** Moved instead of copied; the caller loses them. */
  transfer?: readonly Transferable[];
  signal?: AbortSignal | undefined;
  onProgress?: ((progress: unknown) => void) | undefined;
};

type Pending = {
  resolve: (value: unknown) => void;
  reject: (error: Error) => void;
  onProgress: ((progress: unknown) => void) | undefined;
};

export class EngineThread<E extends Engine> {
  private readonly worker: Worker;
  private readonly pending = new Map<number, Pending>();
  private calls = 0;
  private ended: Error | undefined;

  /** @param script a module that calls `serve`; `options` is what it gets as `workerData`. */
  constructor(script: URL, options: unknown) {
    // onnxruntime would report to its maker and log about it in the temporary folder; it reads this when it is loaded, from the
    // process, which a thread's own copy of the environment does not reach.
    process.env.ORT_DISABLE_TELEMETRY = "1";
    this.worker = new Worker(script, {
      workerData: options,
      // The parent's flags (a debugger port, a test runner's loader) are not the thread's business.
      execArgv: [],
      // Nearly all of a thread's garbage is short-lived rows: a small nursery measured 50 MB less at the same speed.
      resourceLimits: { maxYoungGenerationSizeMb: 8 },
    });
    this.worker.on("message", (answer: Answer) => this.settle(answer));
    this.worker.on("error", (cause: Error) =>
      this.end(new PolicyError("CLOSED", `The thread failed: ${cause.message}`, { cause })),
    );
    this.worker.on("exit", () => this.end(new PolicyError("CLOSED", "The thread has ended; open it again.")));
  }

  async call<K extends keyof E & string>(
    method: K,
    input: EngineInput<E, K>,
    options: CallOptions = {},
  ): Promise<EngineOutput<E, K>> {
    if (this.ended !== undefined) throw this.ended;
    const { signal } = options;
    if (signal?.aborted) throw cancelled(signal);
    const id = this.calls++;
    const stop = () => this.worker.postMessage({ kind: "cancel", id } satisfies Call);
    signal?.addEventListener("abort", stop, { once: true });
    try {
      const answered = new Promise<unknown>((resolve, reject) => {
        this.pending.set(id, { resolve, reject, onProgress: options.onProgress });
      });
      this.worker.postMessage({ kind: "call", id, method, input } satisfies Call, options.transfer ?? []);
      // The other side is `serve` with an engine of this very type; structured cloning keeps the values.
      return (await answered) as EngineOutput<E, K>;
    } finally {
      signal?.removeEventListener("abort", stop);
      this.pending.delete(id);
    }
  }

  /** Ends the thread; what is still running is rejected with `CLOSED`. Safe to call twice. */
  async close(): Promise<void> {
    this.end(new PolicyError("CLOSED", "It was closed; open it again."));
    await this.worker.terminate();
  }

  private settle(answer: Answer): void {
    const pending = this.pending.get(answer.id);
    switch (answer.kind) {
      case "progress":
        pending?.onProgress?.(answer.progress);
        return;
      case "result":
        pending?.resolve(answer.value);
        return;
      case "failure":
        pending?.reject(
          answer.code === undefined ? answer.error : new PolicyError(answer.code, answer.error.message),
        );
    }
  }

  private end(reason: Error): void {
    this.ended ??= reason;
    for (const { reject } of this.pending.values()) reject(this.ended);
  }
}

function cancelled(signal: AbortSignal): PolicyError {
  return new PolicyError("CANCELLED", "It was cancelled before it began.", { cause: signal.reason });
}
