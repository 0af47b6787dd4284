import SchemaBuilder from "@pothos/core";
import ErrorsPlugin from "@pothos/plugin-errors";
import PrismaPlugin from "@pothos/plugin-prisma";
import RelayPlugin from "@pothos/plugin-relay";
import ScopeAuthPlugin from "@pothos/plugin-scope-auth";
import type PrismaTypes from "../generated/pothos-types.ts";
import { getDatamodel } from "../generated/pothos-types.ts";
import type { Action } from "./auth/permissions.ts";
import { allows } from "./auth/permissions.ts";
import type { Ctx } from "./context.ts";
import { CodedError } from "./errors.ts";
import { decodeId, encodeId } from "./graphql/ids.ts";

/** GraphQL's context is the domain's. */
export const builder = new SchemaBuilder<{
  PrismaTypes: PrismaTypes;
  Context: Ctx;
  DefaultFieldNullability: false;
  DefaultInputFieldRequiredness: true;
  DefaultEdgesNullability: false;
  DefaultNodeNullability: false;
  AuthScopes: { public: boolean; can: Action; node: boolean; signedIn: boolean };
  Scalars: {
    ID: { Input: string; Output: string };
    DateTime: { Input: Date; Output: Date };
    JSON: { Input: unknown; Output: unknown };
    BigInt: { Input: bigint; Output: bigint };
  };
}>({
  plugins: [ErrorsPlugin, ScopeAuthPlugin, PrismaPlugin, RelayPlugin],
  defaultFieldNullability: false,
  defaultInputFieldRequiredness: true,
  errors: { defaultTypes: [] },
  relay: {
    encodeGlobalID: (typename, id) => encodeId(typename, String(id)),
    decodeGlobalID: (id) => decodeId(id),
    edgesFieldOptions: { nullable: false },
    nodeFieldOptions: { nullable: false },
    nodesFieldOptions: { nullable: false },
    nodeQueryOptions: {
      authScopes: { public: true },
      description: "Anything by its id; null when there is no such thing.",
    },
    nodesQueryOptions: false,
  },
  prisma: {
    client: (ctx) => ctx.prisma,
    dmmf: getDatamodel(),
    exposeDescriptions: true,
    filterConnectionTotalCount: true,
    defaultConnectionSize: 25,
    maxConnectionSize: 200,
    onUnusedQuery: process.env.NODE_ENV === "test" ? "error" : null,
  },
  scopeAuth: {
    authorizeOnSubscribe: true,
    runScopesOnType: true,
    unauthorizedError: (_parent, ctx, info) =>
      ctx.actor.kind === "anonymous"
        ? new CodedError(
            "UNAUTHENTICATED",
            `Sign in, or send a token, to use ${info.parentType.name}.${info.fieldName}.`,
          )
        : new CodedError(
            "FORBIDDEN",
            `You may not use ${info.parentType.name}.${info.fieldName}. Ask an owner of the organization.`,
          ),
    authScopes: (ctx) => ({
      public: true,
      signedIn: ctx.actor.kind !== "anonymous",
      node: ctx.actor.kind === "node",
      can: (action) => allows(ctx.actor, action),
    }),
  },
});

builder.queryType({ description: "What can be read." });
builder.mutationType({ description: "What can be changed." });
builder.subscriptionType({ description: "What can be followed." });
