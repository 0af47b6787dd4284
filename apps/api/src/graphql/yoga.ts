import { EnvelopArmorPlugin } from "@escape.tech/graphql-armor";
import { type ExecutionResult, GraphQLError, type GraphQLSchema, getOperationAST } from "graphql";
import { createYoga, isAsyncIterable, type Plugin } from "graphql-yoga";
import type { Ctx, Services } from "../context.ts";
import { CodedError } from "../errors.ts";
import { maxCost, rootFields } from "./cost.ts";
import { publicError } from "./errors.ts";
import { persistedDocuments } from "./persisted.ts";
import { createSharedSubscribe } from "./shared-execution.ts";

/** What a transport hands to an operation. */
export type Operation = {
  readonly ctx: Ctx;
  /** Whether a browser may have sent this without its user's will: recognised by a cookie, from no known origin. */
  readonly forgeable: boolean;
};

export type Graph = ReturnType<typeof createGraph>;

/** The GraphQL engine behind every transport: limits, errors, shared subscriptions. */
export function createGraph({ schema, services }: { schema: GraphQLSchema; services: Services }) {
  return createYoga<Operation, Ctx>({
    schema,
    context: ({ ctx }) => ctx,
    graphqlEndpoint: "/graphql",
    graphiql: false,
    landingPage: false,
    // The server answers CORS for all of its routes.
    cors: false,
    batching: false,
    multipart: false,
    logging: {
      debug() {},
      info: (...args) => services.log.debug({ args }, "graphql"),
      warn: (...args) => services.log.warn({ args }, "graphql"),
      error: (...args) => services.log.error({ args }, "graphql"),
    },
    maskedErrors: {
      maskError: (error) => publicError(error, { requestId: "none", log: services.log }),
    },
    plugins: [persistedDocuments(), limits(), outcomes(services), sharedSubscriptions(services)],
  });
}

const armor = EnvelopArmorPlugin({
  maxDepth: { n: 12, propagateOnRejection: true },
  maxAliases: { n: 30, propagateOnRejection: true },
  maxDirectives: { n: 50, propagateOnRejection: true },
  maxTokens: { n: 2_000, propagateOnRejection: true },
  // Counts lists within lists badly; `maxCost` knows page sizes.
  costLimit: { enabled: false },
  // The schema is public: a hint at a misspelt field helps, and hides nothing.
  blockFieldSuggestion: { enabled: false },
});

function limits(): Plugin {
  const rule = maxCost({ limit: 20_000, pageSize: 25, maxPageSize: 200 });
  return {
    onPluginInit({ addPlugin }) {
      // Typed for a bare envelop without this one's context, of which it uses nothing.
      addPlugin(armor as unknown as Plugin);
    },
    onValidate({ addValidationRule }) {
      addValidationRule(rule);
    },
  };
}

/** Refuses what a browser may have been tricked into, counts what ran, and gives every error its code and the request's id. */
function outcomes({ metrics }: Services): Plugin<Operation & Ctx> {
  const finish = (ctx: Ctx, kind: string, result: ExecutionResult): ExecutionResult => {
    metrics.operations.inc({ kind, outcome: result.errors === undefined ? "ok" : "errors" });
    if (result.errors === undefined) return result;
    const errors = result.errors.map((error) => publicError(error, ctx));
    for (const { extensions } of errors) metrics.refused.inc({ code: String(extensions.code) });
    return { ...result, errors };
  };
  return {
    onParse({ context }) {
      return ({ result, replaceParseResult }) => {
        if (result instanceof Error) replaceParseResult(publicError(result, context));
      };
    },
    onValidate({ context }) {
      return ({ valid, result, setResult }) => {
        // graphql-js' errors, and those of our own rules.
        if (!valid) setResult(result.map((error) => publicError(error, context)));
      };
    },
    async onExecute({ args, setResultAndStopExecution }) {
      // What this engine was given as its context.
      const ctx: Operation & Ctx = args.contextValue;
      const kind = getOperationAST(args.document, args.operationName)?.operation ?? "query";
      if (ctx.forgeable && kind === "mutation") {
        setResultAndStopExecution(finish(ctx, kind, { errors: [forged()] }));
        return;
      }
      try {
        // The transport counted one; the others are as much work.
        const more = rootFields(args.document, args.operationName) - 1;
        if (ctx.origin !== undefined) await ctx.rateLimit.take(ctx.actor, ctx.origin.address, more);
      } catch (error) {
        setResultAndStopExecution(finish(ctx, kind, { errors: [publicError(error, ctx)] }));
        return;
      }
      return {
        onExecuteDone({ result, setResult }) {
          if (!isAsyncIterable(result)) setResult(finish(ctx, kind, result));
        },
      };
    },
    onSubscribe({ args }) {
      const ctx: Operation & Ctx = args.contextValue;
      return {
        onSubscribeResult({ result, setResult }) {
          if (!isAsyncIterable(result)) setResult(finish(ctx, "subscription", result));
        },
      };
    },
  };
}

function sharedSubscriptions({ metrics }: Services): Plugin {
  const subscribe = createSharedSubscribe(metrics, (error, args) => {
    // What this engine was given as its context.
    const ctx: Ctx = args.contextValue as Ctx;
    return publicError(error, ctx);
  });
  return {
    onSubscribe({ setSubscribeFn }) {
      setSubscribeFn(subscribe);
    },
  };
}

function forged(): GraphQLError {
  const error = new CodedError(
    "ORIGIN_REFUSED",
    "A mutation with a session cookie must come from the dashboard's origin. Programs send an API key.",
  );
  return new GraphQLError(error.message, { originalError: error });
}
