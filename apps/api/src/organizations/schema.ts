import { fromTypeId } from "@muster/protocol";
import { createApiKey, revokeApiKey, scopesOf } from "../auth/api-keys.ts";
import { allows } from "../auth/permissions.ts";
import { builder } from "../builder.ts";
import type { Actor } from "../context.ts";
import { encodeId } from "../graphql/ids.ts";

export const ApiKey = builder.prismaObject("ApiKey", {
  description: "A key for programs. The key itself is shown once, when it is made.",
  authScopes: (key, { actor }) => allows(actor, "key:manage", key.referenceId),
  fields: (t) => ({
    id: t.id({ select: { id: true }, resolve: ({ id }) => encodeId("ApiKey", id) }),
    name: t.string({ select: { name: true }, resolve: ({ name }) => name ?? "" }),
    start: t.exposeString("start", {
      nullable: true,
      description: "How the key begins, to tell keys apart.",
    }),
    scopes: t.stringList({
      select: { permissions: true },
      resolve: ({ permissions }) => scopesOf(permissions),
    }),
    createdAt: t.expose("createdAt", { type: "DateTime" }),
    expiresAt: t.expose("expiresAt", { type: "DateTime", nullable: true }),
  }),
});

/** Members see their organizations. A key knows which one it is of, whatever else it may do. */
const maySeeOrganization = (actor: Actor, id: string): boolean =>
  allows(actor, "run:read", id) || (actor.kind === "apiKey" && actor.organizationId === id);

export const Organization = builder.prismaNode("Organization", {
  description: "Who owns runs, budgets and trust.",
  id: { field: "id" },
  authScopes: (organization, { actor }) => maySeeOrganization(actor, organization.id),
  fields: (t) => ({
    name: t.exposeString("name"),
    slug: t.exposeString("slug"),
    apiKeys: t.prismaField({
      type: [ApiKey],
      description:
        "For owners; to everyone else there are none, so that one question lists organizations for all.",
      select: { id: true },
      authScopes: (organization, _args, { actor }) => allows(actor, "key:manage", organization.id),
      unauthorizedResolver: () => [],
      resolve: (query, organization, _args, ctx) =>
        ctx.prisma.apiKey.findMany({
          ...query,
          where: { referenceId: organization.id },
          orderBy: { createdAt: "desc" },
        }),
    }),
  }),
});

export const User = builder.prismaNode("User", {
  description: "A person who can sign in.",
  id: { field: "id" },
  authScopes: (user, { actor }) => actor.kind === "person" && actor.userId === user.id,
  fields: (t) => ({
    name: t.exposeString("name"),
    email: t.exposeString("email"),
  }),
});

type Place = { readonly organizationId: string; readonly role: "owner" | "admin" | "member" | "key" };

export const Membership = builder.objectRef<Place>("Membership").implement({
  description: "The place of a person or of an API key in an organization.",
  authScopes: ({ organizationId }, { actor }) => maySeeOrganization(actor, organizationId),
  fields: (t) => ({
    organization: t.prismaField({
      type: Organization,
      resolve: (query, { organizationId }, _args, { prisma }) =>
        prisma.organization.findUniqueOrThrow({ ...query, where: { id: organizationId } }),
    }),
    role: t.exposeString("role", {
      description: "owner, admin or member; key for an API key, whose rights are its scopes.",
    }),
  }),
});

/** Where the caller belongs. */
export function placesOf(actor: Actor): Place[] {
  switch (actor.kind) {
    case "person":
      return [...actor.memberships];
    case "apiKey":
      return [{ organizationId: actor.organizationId, role: "key" }];
    case "anonymous":
    case "node":
    case "system":
      return [];
  }
}

builder.queryField("organizations", (t) =>
  t.prismaField({
    type: [Organization],
    description: "Organizations the caller belongs to: a person's, and the one that an API key is of.",
    authScopes: { signedIn: true },
    resolve: (query, _root, _args, { actor, prisma }) => {
      const ids = placesOf(actor).map((place) => place.organizationId);
      return prisma.organization.findMany({ ...query, where: { id: { in: ids } }, orderBy: { name: "asc" } });
    },
  }),
);

const CreatedApiKey = builder.objectRef<{ key: string; id: string }>("CreatedApiKey").implement({
  authScopes: { signedIn: true },
  fields: (t) => ({
    key: t.exposeString("key", { description: "The key, shown this once." }),
    apiKey: t.prismaField({
      type: ApiKey,
      resolve: (query, { id }, _args, ctx) =>
        ctx.prisma.apiKey.findUniqueOrThrow({ ...query, where: { id } }),
    }),
  }),
});

const CreateApiKey = builder.inputType("CreateApiKeyInput", {
  fields: (t) => ({
    organization: t.id(),
    name: t.string(),
    scopes: t.stringList({ description: "What the key may do, such as run:read." }),
    expiresInDays: t.int({ required: false, description: "1 to 365; without it the key does not expire." }),
  }),
});

const RevokeApiKey = builder.inputType("RevokeApiKeyInput", {
  fields: (t) => ({ organization: t.id(), id: t.id() }),
});

builder.mutationFields((t) => ({
  createApiKey: t.field({
    type: CreatedApiKey,
    authScopes: { can: "key:manage" },
    args: { input: t.arg({ type: CreateApiKey }) },
    resolve: (_root, { input: { organization, ...input } }, ctx) =>
      createApiKey(ctx, { ...input, organizationId: fromTypeId(organization, "org") }),
  }),
  revokeApiKey: t.boolean({
    description: "Ends a key within ten seconds.",
    authScopes: { can: "key:manage" },
    args: { input: t.arg({ type: RevokeApiKey }) },
    resolve: async (_root, { input }, ctx) => {
      await revokeApiKey(ctx, {
        organizationId: fromTypeId(input.organization, "org"),
        id: fromTypeId(input.id, "key"),
      });
      return true;
    },
  }),
}));
