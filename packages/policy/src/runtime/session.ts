/** onnxruntime behind a small face: typed feeds in, Float32Arrays out, execution providers tried in order. */

import { existsSync } from "node:fs";
import { env, InferenceSession, listSupportedBackends, Tensor } from "onnxruntime-node";
import { Graph } from "../graph/builder.ts";
import * as plain from "../graph/feeds.ts";
import { negate } from "../graph/operators.ts";
import { PolicyError } from "../graph/policy-error.ts";
import type { ExecutionProvider } from "./providers.ts";

export type RuntimeOptions = {
  /** Tried in this order. */
  providers: readonly ExecutionProvider[];
  /** Threads inside one operator; wasm has one. */
  threads: number;
  /** Whether the library may fuse and reorder operators. Without it the same sums are made in another way, as on other hardware. */
  optimization: "all" | "disabled";
};

export type Feeds = Record<string, Tensor>;

export type Session = {
  /** Runs the model; answers the named outputs, each in memory of its own. */
  run(feeds: Feeds, outputs: readonly string[]): Promise<Record<string, Float32Array>>;
  release(): Promise<void>;
};

export type Runtime = {
  /** The provider in use. It can only move down the list, when a model does not load on it. */
  readonly provider: ExecutionProvider;
  open(model: Uint8Array): Promise<Session>;
};

/**
 * Finds the first provider that works on this machine.
 * @throws PolicyError `NO_PROVIDER`
 */
export async function openRuntime({ providers, threads, optimization }: RuntimeOptions): Promise<Runtime> {
  const left = providers.filter(isPresent);
  const refusals = providers
    .filter((name) => !left.includes(name))
    .map((name) => `${name}: not on this machine`);

  const create = async (model: Uint8Array): Promise<InferenceSession> => {
    for (let name = left[0]; name !== undefined; name = left[0]) {
      try {
        return await (await backendOf(name)).create(model, {
          executionProviders: [name],
          graphOptimizationLevel: optimization,
          intraOpNumThreads: threads,
          interOpNumThreads: 1,
          executionMode: "sequential",
          // Passes differ in shape, and a pattern is kept for each shape seen.
          enableMemPattern: false,
          logSeverityLevel: 4,
        });
      } catch (cause) {
        refusals.push(`${name}: ${cause instanceof Error ? cause.message : String(cause)}`);
        left.shift();
      }
    }
    throw new PolicyError(
      "NO_PROVIDER",
      `No execution provider can run the model (${refusals.join("; ")}). Add "cpu".`,
    );
  };

  const probe = await create(probeModel());
  await probe.release();
  return {
    get provider() {
      return left[0]!;
    },
    async open(model) {
      const session = await create(model);
      return {
        async run(feeds, outputs) {
          const results = await session.run(feeds, outputs);
          return Object.fromEntries(outputs.map((name) => [name, floatsOf(name, results[name])]));
        },
        release: () => session.release(),
      };
    },
  };
}

/** float32 data; the memory is read when the session runs. */
export function floats(data: Float32Array, dimensions: readonly number[]): Tensor {
  return tensorOf(plain.floats(data, dimensions));
}

export function scalar(value: number): Tensor {
  return floats(Float32Array.of(value), []);
}

/** int64 data. */
export function integers(values: ArrayLike<number>, dimensions: readonly number[]): Tensor {
  return tensorOf(plain.integers(values, dimensions));
}

export function tensors(feeds: plain.Feeds): Feeds {
  return Object.fromEntries(Object.entries(feeds).map(([name, feed]) => [name, tensorOf(feed)]));
}

function tensorOf(feed: plain.Feed): Tensor {
  return feed.type === "float32"
    ? new Tensor(feed.type, feed.data, feed.dims)
    : new Tensor(feed.type, feed.data, feed.dims);
}

function floatsOf(name: string, tensor: Tensor | undefined): Float32Array {
  const data = tensor?.data;
  if (data instanceof Float32Array) return data;
  throw new Error(`The output ${name} is ${tensor?.type ?? "missing"}, not float32.`);
}

/** onnxruntime-web is loaded when it is asked for; it takes onnxruntime-node's tensors, which it reads field by field. */
async function backendOf(name: ExecutionProvider): Promise<typeof InferenceSession> {
  if (name !== "wasm") return InferenceSession;
  const web = await import("onnxruntime-web");
  web.env.logLevel = "fatal";
  web.env.wasm.numThreads = 1;
  return web.InferenceSession;
}

// Asking for a provider that cannot be there makes the native library complain on stderr, so the obvious cases are not asked.
function isPresent(name: ExecutionProvider): boolean {
  if (name === "wasm") return true;
  if (!listSupportedBackends().some((backend) => backend.name === name)) return false;
  if (process.platform !== "linux") return true;
  switch (name) {
    case "cuda":
      return existsSync("/dev/nvidiactl") || existsSync("/dev/dxg");
    case "webgpu":
      return existsSync("/dev/dri") || existsSync("/dev/nvidiactl") || existsSync("/dev/dxg");
    case "dml":
    case "coreml":
    case "cpu":
      return true;
  }
}

function probeModel(): Uint8Array {
  const g = new Graph();
  g.output("y", negate(g, g.input("x", "float32", ["N"])));
  return g.encode("probe");
}

// One level for the process: without it the library writes its own warnings between the program's lines.
env.logLevel = "fatal";
