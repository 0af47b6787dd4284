import { apiKey } from "@better-auth/api-key";
import { prismaAdapter } from "@better-auth/prisma-adapter";
import type { PrismaClient } from "@muster/db";
import { newId } from "@muster/protocol";
import { betterAuth } from "better-auth";
import { magicLink, organization } from "better-auth/plugins";
import type { Logger } from "pino";
import type { Config } from "../config.ts";

export type AuthOptions = {
  readonly config: Config;
  readonly prisma: PrismaClient;
  readonly log: Logger;
  readonly publicUrl: string;
};

export type Auth = ReturnType<typeof createAuth>;

/**
 * People: sessions by magic link, organizations with invitations, API keys. Served under `/auth/*`.
 *
 * Nobody signs up uninvited: a user is made for an address with a pending invitation, or by the operator. Asking for a link is answered
 * the same for every address. There is no mail here: the operator hands links on (see `signInLinks` in the configuration).
 */
export function createAuth({ config, prisma, log, publicUrl }: AuthOptions) {
  const isInvited = async (email: string): Promise<boolean> =>
    (await prisma.invitation.count({
      where: { email: email.toLowerCase(), status: "pending", expiresAt: { gt: new Date() } },
    })) > 0;
  const showLinks = (config.signInLinks ?? (isLoopback(publicUrl) ? "log" : "hide")) === "log";

  return betterAuth({
    appName: "Muster",
    baseURL: publicUrl,
    basePath: "/auth",
    secret: config.secret,
    trustedOrigins: [new URL(config.dashboardUrl).origin, new URL(publicUrl).origin],
    database: prismaAdapter(prisma, { provider: "postgresql" }),
    telemetry: { enabled: false },
    logger: {
      level: "warn",
      log: (level, message, ...details) => log[level]({ details }, message),
    },
    advanced: {
      cookiePrefix: "muster",
      useSecureCookies: publicUrl.startsWith("https:"),
      // Said aloud, because the library switches both off when it believes it is being tested.
      disableOriginCheck: false,
      disableCSRFCheck: false,
      database: { generateId: () => newId() },
      // The server has counted proxies already; a header from the client itself is not to be believed.
      ipAddress: { ipAddressHeaders: [clientAddressHeader] },
    },
    user: { modelName: "user" },
    session: { modelName: "authSession", expiresIn: 7 * 24 * 3600, updateAge: 24 * 3600 },
    account: { modelName: "authAccount" },
    verification: { modelName: "authVerification" },
    rateLimit: { enabled: true, window: 10, max: 100 },
    databaseHooks: {
      user: { create: { before: async (user) => (await isInvited(user.email)) && { data: user } } },
    },
    // Keys are made and revoked by mutations, which know the rights a key may carry.
    disabledPaths: ["create", "get", "update", "delete", "list", "verify"].map((name) => `/api-key/${name}`),
    plugins: [
      magicLink({
        expiresIn: 600,
        storeToken: "hashed",
        rateLimit: { window: 60, max: 10 },
        sendMagicLink: async ({ email, url }) => {
          const known =
            (await prisma.user.count({ where: { email: email.toLowerCase() } })) > 0 ||
            (await isInvited(email));
          if (!known)
            log.info(
              { email },
              "a sign-in link was asked for by an address that is neither known nor invited",
            );
          else if (showLinks) log.info(`sign-in link for ${email}: ${url}`);
          else
            log.info(
              { email },
              "a sign-in link was asked for; set MUSTER_SIGN_IN_LINKS=log to see such links here",
            );
        },
      }),
      organization({
        allowUserToCreateOrganization: true,
        invitationExpiresIn: 7 * 24 * 3600,
        sendInvitationEmail: async ({ email, organization: { name } }) => {
          log.info(
            { email, organization: name },
            "someone was invited; they sign in by asking for a link with this address",
          );
        },
        schema: {
          session: { fields: { activeOrganizationId: "activeOrganizationId" } },
          organization: { modelName: "organization" },
          member: { modelName: "member" },
          invitation: { modelName: "invitation" },
        },
      }),
      apiKey({
        references: "organization",
        defaultPrefix: apiKeyPrefix,
        startingCharactersConfig: { charactersLength: apiKeyPrefix.length + 6 },
        maximumNameLength: 100,
        // The coordinator limits requests itself, for every kind of client.
        rateLimit: { enabled: false },
        schema: { apikey: { modelName: "apiKey" } },
      }),
    ],
  });
}

/** What every API key begins with; a node's token never does. */
export const apiKeyPrefix = "muster_";

/** Carries the address the server determined to the auth library; whatever a client sends under this name is dropped. */
export const clientAddressHeader = "x-muster-client-address";

/** Whether a URL or an address names this machine only. */
export function isLoopback(urlOrAddress: string): boolean {
  const host = URL.canParse(urlOrAddress) ? new URL(urlOrAddress).hostname : urlOrAddress;
  return /^(localhost|127(\.\d+){3}|\[?::1\]?|::ffff:127(\.\d+){3})$/.test(host);
}
