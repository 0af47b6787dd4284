/** The inside of a thread: methods that take one cloneable input and answer a cloneable output. */

import { parentPort, type Transferable } from "node:worker_threads";
import { PolicyError, type PolicyErrorCode } from "../graph/policy-error.ts";

/** What a method gets beside its input. */
export type EngineContext = {
  /** Throws `CANCELLED` once the caller gave up. To be asked between passes; messages arrive while a pass is awaited. */
  checkpoint: () => void;
  progress: (value: unknown) => void;
};

/** `never`: parameters are contravariant, so every method of one input is one of these. */
export type EngineMethod = (input: never, context: EngineContext) => Promise<unknown>;
export type Engine = Record<string, EngineMethod>;
export type EngineInput<E extends Engine, K extends keyof E> = Parameters<E[K]>[0];
export type EngineOutput<E extends Engine, K extends keyof E> = Awaited<ReturnType<E[K]>>;

export type Call =
  | { kind: "call"; id: number; method: string; input: unknown }
  | { kind: "cancel"; id: number };
export type Answer =
  | { kind: "progress"; id: number; progress: unknown }
  | { kind: "result"; id: number; value: unknown }
  | { kind: "failure"; id: number; code: PolicyErrorCode | undefined; error: Error };

/** Answers calls on this thread's port, one after another. Large results are moved, not copied: methods give away what they return. */
export function serve(engine: Engine): void {
  const port = parentPort;
  if (port === null) throw new Error("serve() belongs in a worker thread.");
  const cancelled = new Set<number>();
  let last = Promise.resolve();

  const answer = async (id: number, method: string, input: unknown): Promise<void> => {
    const context: EngineContext = {
      checkpoint: () => {
        if (cancelled.has(id)) throw new PolicyError("CANCELLED", "It was cancelled.");
      },
      progress: (progress) => port.postMessage({ kind: "progress", id, progress } satisfies Answer),
    };
    try {
      context.checkpoint();
      // `EngineThread.call` let only this method's own input through.
      const value = await engine[method]!(input as never, context);
      port.postMessage({ kind: "result", id, value } satisfies Answer, buffersOf(value));
    } catch (cause) {
      const error = cause instanceof Error ? cause : new Error(String(cause));
      const code = error instanceof PolicyError ? error.code : undefined;
      port.postMessage({
        kind: "failure",
        id,
        code,
        error: new Error(error.message, { cause: error.stack }),
      } satisfies Answer);
    } finally {
      cancelled.delete(id);
    }
  };

  port.on("message", (call: Call) => {
    switch (call.kind) {
      case "cancel":
        cancelled.add(call.id);
        return;
      case "call":
        last = last.then(() => answer(call.id, call.method, call.input));
    }
  });
}

/** Every buffer inside a result, once. */
function buffersOf(value: unknown, found = new Set<ArrayBuffer>()): Transferable[] {
  if (ArrayBuffer.isView(value)) {
    if (value.buffer instanceof ArrayBuffer) found.add(value.buffer);
  } else if (typeof value === "object" && value !== null) {
    for (const part of Object.values(value)) buffersOf(part, found);
  }
  return [...found];
}
