import { randomBytes } from "node:crypto";
import { defaultKeyHasher } from "@better-auth/api-key";
import { newId, toTypeId } from "@muster/protocol";
import { z } from "zod";
import { issueApiKey } from "../auth/api-keys.ts";
import { apiKeyScopes } from "../auth/permissions.ts";
import type { Services } from "../context.ts";

const inputSchema = z.object({
  organizationName: z.string().trim().min(1).max(100),
  email: z
    .email()
    .max(200)
    .transform((email) => email.toLowerCase()),
});

export type Bootstrap = {
  /** TypeID. */
  readonly organization: string;
  /** On the dashboard: signs the owner in once; valid for a day. */
  readonly signInUrl: string;
  /** A key with every scope; the one made by the bootstrap before it is revoked. */
  readonly apiKey: string;
};

/**
 * Makes the organization and its owner unless they are there, and new keys to the door: what the operator of this machine, who could
 * read the database as well, needs to begin. Doing it again changes nothing but the link and the key.
 * @throws ZodError for input of the wrong form
 */
export async function bootstrap(services: Services, input: unknown): Promise<Bootstrap> {
  const { organizationName, email } = inputSchema.parse(input);
  const slug = slugOf(organizationName);
  const { organizationId, userId } = await services.prisma.$transaction(async (tx) => {
    // Inserts that a unique column settles: two bootstraps at once agree.
    const name = email.split("@")[0] ?? email;
    await tx.user.createMany({
      data: [{ id: newId("user"), email, name, emailVerified: true }],
      skipDuplicates: true,
    });
    await tx.organization.createMany({
      data: [{ id: newId("org"), name: organizationName, slug }],
      skipDuplicates: true,
    });
    const user = await tx.user.findUniqueOrThrow({ where: { email } });
    const organization = await tx.organization.findUniqueOrThrow({ where: { slug } });
    const place = { organizationId: organization.id, userId: user.id };
    await tx.member.createMany({ data: [{ id: newId(), ...place, role: "owner" }], skipDuplicates: true });
    await tx.member.update({ where: { organizationId_userId: place }, data: { role: "owner" } });
    return { organizationId: organization.id, userId: user.id };
  });
  const name = "operator";
  await services.prisma.apiKey.deleteMany({ where: { referenceId: organizationId, name } });
  const { key } = await issueApiKey(services, userId, { organizationId, name, scopes: apiKeyScopes });
  return {
    organization: toTypeId("org", organizationId),
    signInUrl: await signInUrl(services, email),
    apiKey: key,
  };
}

/**
 * A link to the dashboard that signs a person in once: its page hands the token to `/auth/magic-link/verify`, and has good words for one
 * that was used. As the auth library makes them on request, but valid for a day.
 */
export async function signInUrl({ auth, config }: Services, email: string): Promise<string> {
  const token = randomBytes(32).toString("base64url");
  const { internalAdapter } = await auth.$context;
  await internalAdapter.createVerificationValue({
    identifier: await defaultKeyHasher(token),
    value: JSON.stringify({ email }),
    expiresAt: new Date(Date.now() + 24 * 3_600_000),
  });
  const url = new URL("/sign-in", config.dashboardUrl);
  url.searchParams.set("token", token);
  return url.href;
}

function slugOf(name: string): string {
  const slug = name
    .normalize("NFKD")
    .toLowerCase()
    .replaceAll(/[^a-z0-9]+/g, "-")
    .replaceAll(/^-|-$/g, "");
  return slug === "" ? "organization" : slug;
}
