/** The inference graphs with the current weights: the only part that runs a model. */

import { type ModelConfig, modelProblems } from "../graph/config.ts";
import {
  type Continuations,
  continuationFeeds,
  parameterFeeds,
  type ReadOut,
} from "../graph/continuations.ts";
import { padded } from "../graph/feeds.ts";
import { cacheNames, continuationGraph, decodeGraph, prefillGraph } from "../graph/inference.ts";
import { parameterLayout } from "../graph/parameters.ts";
import { PolicyError } from "../graph/policy-error.ts";
import type { KeyValueCache } from "./cache.ts";
import type { ExecutionProvider } from "./providers.ts";
import { type Feeds, integers, openRuntime, type RuntimeOptions, type Session, tensors } from "./session.ts";

export type ForwardOptions = RuntimeOptions & { model: ModelConfig };

export type Forward = {
  readonly model: ModelConfig;
  readonly provider: ExecutionProvider;
  /** Replaces the weights; sessions stay. @throws PolicyError `WRONG_SIZE` */
  load(flat: Float32Array): void;
  /**
   * Whole sequences, padded on the right to a common length, with every layer's keys and values under the names of the graph's
   * outputs.
   * @param rows positions to read out, as sequence × length + position.
   */
  prefill(input: {
    sequences: readonly Int32Array[];
    rows: readonly number[];
  }): Promise<ReadOut & { length: number; present: Record<string, Float32Array> }>;
  /** Finished outputs after their prompts, each prompt read once; see `continuationFeeds` for the rows. */
  readOutputs(input: Continuations): Promise<ReadOut>;
  /** One further token a row; appends to the cache. */
  decode(input: {
    tokens: ArrayLike<number>;
    positions: ArrayLike<number>;
    cache: KeyValueCache;
  }): Promise<ReadOut>;
};

/** @throws PolicyError `BAD_CONFIG`, `NO_PROVIDER` */
export async function openForward({ model, ...options }: ForwardOptions): Promise<Forward> {
  const problems = modelProblems(model);
  if (problems.length > 0) throw new PolicyError("BAD_CONFIG", problems.join(" "));
  const layout = parameterLayout(model);
  const runtime = await openRuntime(options);
  const present = Array.from({ length: model.layers }, (_, layer) =>
    Object.values(cacheNames.present(layer)),
  ).flat();
  const read = ["hidden", "logits"];
  // Opened when first needed: a validator never decodes, and a session costs memory even when idle.
  const sessions: { prefill?: Promise<Session>; decode?: Promise<Session>; outputs?: Promise<Session> } = {};
  let weights: Feeds | undefined;

  function feeds(others: Feeds): Feeds {
    if (weights === undefined)
      throw new PolicyError("NO_WEIGHTS", "The policy has no weights yet; load a checkpoint first.");
    return { ...weights, ...others };
  }

  return {
    model,
    get provider() {
      return runtime.provider;
    },
    load(flat) {
      if (flat.length !== layout.total) {
        throw new PolicyError(
          "WRONG_SIZE",
          `The model has ${layout.total} parameters; ${flat.length} were given.`,
        );
      }
      weights = tensors(parameterFeeds(model, flat));
    },
    async prefill({ sequences, rows }) {
      const { tokens, length } = padded(sequences);
      const input = feeds({
        tokens: integers(tokens, [sequences.length, length]),
        positions: integers(upTo(length), [length]),
        rows: integers(rows, [rows.length]),
      });
      sessions.prefill ??= runtime.open(prefillGraph(model));
      const results = await (await sessions.prefill).run(input, [...read, ...present]);
      return { hidden: results.hidden!, logits: results.logits!, present: results, length };
    },
    async readOutputs(continuations) {
      const input = feeds(tensors(continuationFeeds(continuations)));
      sessions.outputs ??= runtime.open(continuationGraph(model));
      const results = await (await sessions.outputs).run(input, read);
      return { hidden: results.hidden!, logits: results.logits! };
    },
    async decode({ tokens, positions, cache }) {
      const input = feeds({
        tokens: integers(tokens, [tokens.length]),
        positions: integers(positions, [tokens.length]),
        slots: integers(upTo(cache.capacity), [cache.capacity]),
        ...cache.feeds(),
      });
      sessions.decode ??= runtime.open(decodeGraph(model));
      const results = await (await sessions.decode).run(input, [...read, ...present]);
      cache.append(results, positions);
      return { hidden: results.hidden!, logits: results.logits! };
    },
  };
}

/** 0 … n − 1. */
export function upTo(n: number): Int32Array {
  return Int32Array.from({ length: n }, (_, i) => i);
}
