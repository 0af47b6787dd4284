import { builder } from "../builder.ts";
import type { Actor } from "../context.ts";
import { leastProtocol } from "../nodes/register.ts";
import { ComputeNode } from "../nodes/schema.ts";
import { Membership, placesOf, User } from "../organizations/schema.ts";
import { apiKeyScopes } from "./permissions.ts";

const ViewerKind = builder.enumType("ViewerKind", {
  values: ["ANONYMOUS", "PERSON", "API_KEY", "NODE"] as const,
});

const kinds = {
  anonymous: "ANONYMOUS",
  person: "PERSON",
  apiKey: "API_KEY",
  node: "NODE",
  // A loop asks for nothing over GraphQL.
  system: "ANONYMOUS",
} as const satisfies Record<Actor["kind"], string>;

const Viewer = builder.objectRef<Actor>("Viewer").implement({
  description: "Who is asking.",
  authScopes: { public: true },
  fields: (t) => ({
    kind: t.field({ type: ViewerKind, resolve: ({ kind }) => kinds[kind] }),
    user: t.prismaField({
      type: User,
      nullable: true,
      resolve: (query, actor, _args, { prisma }) =>
        actor.kind === "person" ? prisma.user.findUnique({ ...query, where: { id: actor.userId } }) : null,
    }),
    nodeIdentity: t.prismaField({
      type: ComputeNode,
      nullable: true,
      resolve: (query, actor, _args, { prisma }) =>
        actor.kind === "node" ? prisma.node.findUnique({ ...query, where: { id: actor.nodeId } }) : null,
    }),
    organizations: t.field({
      type: [Membership],
      description: "Where the caller belongs: a person's organizations, and the one that an API key is of.",
      resolve: placesOf,
    }),
    scopes: t.stringList({
      description:
        "What an API key may do; for a person every right there is, each bounded by the role in the organization.",
      resolve: (actor) =>
        actor.kind === "apiKey" ? [...actor.scopes] : actor.kind === "person" ? apiKeyScopes : [],
    }),
  }),
});

const Health = builder.objectRef<{ startedAt: Date }>("Health").implement({
  authScopes: { public: true },
  fields: (t) => ({
    protocol: t.int({ resolve: () => leastProtocol }),
    version: t.string({ resolve: () => "0.1.0" }),
    serverTime: t.field({ type: "DateTime", resolve: () => new Date() }),
    startedAt: t.expose("startedAt", { type: "DateTime" }),
    dashboardUrl: t.string({
      description: "Where people look at what happens here.",
      resolve: (_health, _args, { config }) => config.dashboardUrl,
    }),
  }),
});

builder.queryFields((t) => ({
  me: t.field({ type: Viewer, authScopes: { public: true }, resolve: (_root, _args, { actor }) => actor }),
  health: t.field({
    type: Health,
    authScopes: { public: true },
    resolve: (_root, _args, { startedAt }) => ({ startedAt }),
  }),
}));
