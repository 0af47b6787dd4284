import {
  createSourceEventStream,
  type DocumentNode,
  type ExecutionArgs,
  type ExecutionResult,
  execute,
  type GraphQLError,
  getOperationAST,
  Kind,
  print,
  visit,
} from "graphql";
import type { Metrics } from "../metrics.ts";

// A subscription is one source stream and one execution a value. For values that look the same to everyone who may follow the stream,
// the execution is made once for (value, document, variables) and its result handed to all: with a thousand subscribers of one stream
// that is a thousandth of the work, over the standard protocol and with each subscriber's authorization made when it subscribes.

/** Source streams whose values look the same to everyone who was let in, with the argument that only steers the stream. */
const shared = new WeakMap<object, { steering: string | undefined }>();

/**
 * Marks a source stream: the fields below its values must not depend on who asks. The values themselves have to be the same objects for
 * every subscriber to be shared; others are executed as usual.
 * @param steering an argument of the field that decides which values come, not what they look like: a cursor
 */
export function shareAmongSubscribers<T extends object>(
  source: T,
  { steering }: { steering?: string } = {},
): T {
  shared.set(source, { steering });
  return source;
}

export type ResultStream = AsyncGenerator<ExecutionResult, void, void>;
export type Subscribe = (args: ExecutionArgs) => Promise<ResultStream | ExecutionResult>;

/** A `subscribe` like graphql-js's that shares executions. Equal results are the same object, so a transport may write each of them once. */
export function createSharedSubscribe(
  metrics: Metrics,
  failure: (error: unknown, args: ExecutionArgs) => GraphQLError,
): Subscribe {
  const made = new WeakMap<object, Map<string, Promise<ExecutionResult> | ExecutionResult>>();
  const documents = new WeakMap<DocumentNode, { text: string; steering: string | undefined }>();
  const read = (
    document: DocumentNode,
    operationName: string | null | undefined,
    argument: string | undefined,
  ) => {
    let known = documents.get(document);
    if (known === undefined) {
      known = {
        text: print(document),
        steering: argument && steeringVariable(document, operationName, argument),
      };
      documents.set(document, known);
    }
    return known;
  };

  return async (args) => {
    const source = await createSourceEventStream(args);
    if (!(Symbol.asyncIterator in source)) return source;
    const sharing = shared.get(source);
    let key: string | undefined;
    if (sharing !== undefined) {
      const { text, steering } = read(args.document, args.operationName, sharing.steering);
      key = `${args.operationName ?? ""}\n${variablesKey(args.variableValues, steering)}\n${text}`;
    }
    const run = (value: unknown): Promise<ExecutionResult> | ExecutionResult => {
      metrics.executions.inc();
      return execute({ ...args, rootValue: value });
    };
    const map = (value: unknown): Promise<ExecutionResult> | ExecutionResult => {
      if (key === undefined || typeof value !== "object" || value === null) return run(value);
      let ofValue = made.get(value);
      if (ofValue === undefined) {
        ofValue = new Map();
        made.set(value, ofValue);
      }
      let result = ofValue.get(key);
      if (result === undefined) {
        result = run(value);
        ofValue.set(key, result);
      }
      return result;
    };
    metrics.subscriptions.inc();
    let counted = true;
    let failed = false;
    const over = () => {
      if (counted) metrics.subscriptions.dec();
      counted = false;
    };
    const iterator = source[Symbol.asyncIterator]();
    const results: ResultStream = {
      [Symbol.asyncIterator]() {
        return this;
      },
      async next() {
        if (failed) return { value: undefined, done: true };
        try {
          const { value, done } = await iterator.next();
          if (!done) return { value: await map(value), done: false };
        } catch (error) {
          // Told as a last result: thrown on, it would take the whole socket with it.
          failed = true;
          over();
          return { value: { errors: [failure(error, args)] }, done: false };
        }
        over();
        return { value: undefined, done: true };
      },
      async return() {
        over();
        await iterator.return?.();
        return { value: undefined, done: true };
      },
      async throw(error) {
        over();
        await iterator.return?.();
        throw error;
      },
      async [Symbol.asyncDispose]() {
        await results.return();
      },
    };
    return results;
  };
}

/** The variable given to that argument of the subscribed field, if it is used nowhere else. */
function steeringVariable(
  document: DocumentNode,
  operationName: string | null | undefined,
  argument: string,
): string | undefined {
  const field = getOperationAST(document, operationName)?.selectionSet.selections[0];
  if (field?.kind !== Kind.FIELD) return undefined;
  const given = field.arguments?.find((one) => one.name.value === argument)?.value;
  if (given?.kind !== Kind.VARIABLE) return undefined;
  const name = given.name.value;
  let mentions = 0;
  visit(document, {
    Variable(node) {
      if (node.name.value === name) mentions++;
    },
  });
  // Its definition and this use.
  return mentions === 2 ? name : undefined;
}

function variablesKey(variables: ExecutionArgs["variableValues"], without: string | undefined): string {
  const entries = Object.entries(variables ?? {}).filter(([name]) => name !== without);
  return JSON.stringify(entries.sort(([a], [b]) => (a < b ? -1 : 1)));
}
