import { defaultKeyHasher } from "@better-auth/api-key";
import { z } from "zod";
import type { Ctx, Services } from "../context.ts";
import { CodedError, notFound } from "../errors.ts";
import { apiKeyPrefix } from "./auth.ts";
import { type Action, apiKeyScopes, assertAllowed } from "./permissions.ts";

export type CreateApiKeyInput = {
  readonly organizationId: string;
  readonly name: string;
  /** Actions from `apiKeyScopes`. */
  readonly scopes: readonly string[];
  /** Default: the key does not expire. */
  readonly expiresInDays?: number | null | undefined;
};

/**
 * Makes a key for programs of an organization. The key itself is shown this once; only its hash is kept.
 * @throws CodedError `FORBIDDEN`, `UNAUTHENTICATED` or `INPUT_INVALID`
 */
export async function createApiKey(ctx: Ctx, input: CreateApiKeyInput): Promise<{ key: string; id: string }> {
  assertAllowed(ctx.actor, "key:manage", input.organizationId);
  if (ctx.actor.kind !== "person") throw new CodedError("FORBIDDEN", "Only a person makes keys. Sign in.");
  return await issueApiKey(ctx, ctx.actor.userId, input);
}

/** Makes a key in the name of an owner whose right was checked before. */
export async function issueApiKey(
  services: Services,
  userId: string,
  { organizationId, name, scopes, expiresInDays }: CreateApiKeyInput,
): Promise<{ key: string; id: string }> {
  if (name.trim() === "" || name.length > 100)
    throw new CodedError("INPUT_INVALID", "A key needs a name of 1 to 100 characters.");
  const unknown = scopes.find((scope) => !isScope(scope));
  if (unknown !== undefined || scopes.length === 0) {
    throw new CodedError(
      "INPUT_INVALID",
      `Scopes of a key are some of: ${apiKeyScopes.join(", ")}. ${unknown ?? "None"} was given.`,
    );
  }
  if (expiresInDays != null && !(expiresInDays >= 1 && expiresInDays <= 365)) {
    throw new CodedError("INPUT_INVALID", "A key expires after 1 to 365 days, or never.");
  }
  const made = await services.auth.api.createApiKey({
    body: {
      organizationId,
      userId,
      name: name.trim(),
      permissions: { muster: [...scopes] },
      ...(expiresInDays == null ? {} : { expiresIn: Math.round(expiresInDays) * 24 * 3600 }),
    },
  });
  return { key: made.key, id: made.id };
}

/**
 * Ends a key; requests with it are refused within ten seconds.
 * @throws CodedError `FORBIDDEN` or `NOT_FOUND`
 */
export async function revokeApiKey(
  ctx: Ctx,
  { organizationId, id }: { organizationId: string; id: string },
): Promise<void> {
  assertAllowed(ctx.actor, "key:manage", organizationId);
  const { count } = await ctx.prisma.apiKey.deleteMany({ where: { id, referenceId: organizationId } });
  if (count === 0) throw notFound("The API key");
}

/** Whose key this is, or undefined when it is unknown, disabled or expired. */
export async function findApiKey(
  services: Pick<Services, "prisma">,
  key: string,
): Promise<{ keyId: string; organizationId: string; scopes: Action[]; expiresAt: Date | null } | undefined> {
  if (!key.startsWith(apiKeyPrefix) || key.length > 200) return undefined;
  const row = await services.prisma.apiKey.findFirst({
    where: { key: await defaultKeyHasher(key), enabled: true },
  });
  if (row === null || (row.expiresAt !== null && row.expiresAt <= new Date())) return undefined;
  return {
    keyId: row.id,
    organizationId: row.referenceId,
    scopes: scopesOf(row.permissions),
    expiresAt: row.expiresAt,
  };
}

const permissionsSchema = z.object({ muster: z.array(z.string()) });

/** The rights a stored key carries; what is not known any more is left out. */
export function scopesOf(permissions: string | null): Action[] {
  if (permissions === null) return [];
  const parsed = permissionsSchema.safeParse(JSON.parse(permissions));
  return parsed.success ? parsed.data.muster.filter(isScope) : [];
}

function isScope(scope: string): scope is Action {
  return apiKeyScopes.some((known) => known === scope);
}
