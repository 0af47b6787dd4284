import { defaultKeyHasher } from "@better-auth/api-key";
import { fromTypeId, newId } from "@muster/protocol";
import { createClient } from "@muster/sdk";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { membershipsOf } from "../src/auth/authenticate.ts";
import { allows, apiKeyScopes } from "../src/auth/permissions.ts";
import { createLogger } from "../src/log.ts";
import { bootstrap } from "../src/organizations/bootstrap.ts";
import {
  type Caller,
  operatorToken,
  startTestServer,
  type TestOrganization,
  type TestServer,
} from "./testkit.ts";

let server: TestServer;
let organization: TestOrganization;
/** What the operator reads. */
const lines: string[] = [];
const log = createLogger("info", { write: (line: string) => void lines.push(line) });
beforeAll(async () => {
  server = await startTestServer({ loops: [], log });
  organization = await server.organization();
});
afterAll(() => server.stop());

const dashboard = () => new URL(server.config.dashboardUrl).origin;

/** Asks for a link as the dashboard does. */
async function askForLink(
  email: string,
  on: TestServer = server,
): Promise<{ status: number; body: unknown }> {
  const response = await fetch(`${on.url}/auth/sign-in/magic-link`, {
    method: "POST",
    headers: { "content-type": "application/json", origin: dashboard() },
    body: JSON.stringify({ email, callbackURL: `${dashboard()}/` }),
  });
  return { status: response.status, body: await response.json() };
}

/** The link in the operator's log. */
function linkFor(email: string): string | undefined {
  return lines
    .map((line) => new RegExp(`sign-in link for ${email}: ([^\\s"]+)`).exec(line)?.[1])
    .findLast((link) => link !== undefined);
}

const cookieOf = (response: Response) =>
  response.headers
    .getSetCookie()
    .map((one) => one.split(";")[0])
    .join("; ");
const withCookie = (cookie: string): Caller => ({
  headers: { cookie, origin: dashboard() },
  actor: { kind: "anonymous" },
});
const me = "{ me { kind scopes user { email } organizations { role organization { id name } } } }";

describe("the operator's door", () => {
  const call = (body: unknown, token: string | undefined = operatorToken) =>
    fetch(`${server.url}/operator/bootstrap`, {
      method: "POST",
      headers: {
        "content-type": "application/json",
        ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
      },
      body: JSON.stringify(body),
    });

  test("makes the organization and its owner once, and each time a link and a key that work", async () => {
    const input = { organizationName: "Demo Organization", email: "Operator@Example.com" };
    const first = (await (await call(input)).json()) as {
      organization: string;
      signInUrl: string;
      apiKey: string;
    };
    const second = (await (await call(input)).json()) as typeof first;
    expect(second.organization).toBe(first.organization);
    expect(
      await server.prisma.organization.findUnique({ where: { id: fromTypeId(first.organization, "org") } }),
    ).toMatchObject({ slug: "demo-organization" });

    expect(second.signInUrl.startsWith(`${dashboard()}/sign-in?token=`)).toBe(true);
    const verify = new URL("/auth/magic-link/verify", server.url);
    verify.searchParams.set("token", new URL(second.signInUrl).searchParams.get("token") ?? "");
    verify.searchParams.set("callbackURL", `${dashboard()}/`);
    const signIn = await fetch(verify, { redirect: "manual" });
    expect([signIn.status, signIn.headers.get("location")]).toEqual([302, `${dashboard()}/`]);
    const answer = await server.ask<{ me: unknown }>(me, {}, withCookie(cookieOf(signIn)));
    expect(answer.me).toEqual({
      kind: "PERSON",
      scopes: apiKeyScopes,
      user: { email: "operator@example.com" },
      organizations: [{ role: "owner", organization: { id: first.organization, name: "Demo Organization" } }],
    });
    const again = await fetch(verify, { redirect: "manual" });
    expect(again.headers.get("location")).toContain("error=INVALID_TOKEN");
    expect(again.headers.getSetCookie().join()).not.toContain("session_token=");

    const keyed = (key: string): Caller => ({ headers: { "x-api-key": key }, actor: { kind: "anonymous" } });
    expect((await server.graphql(me, {}, keyed(first.apiKey))).status).toBe(401);
    const { organizations } = await server.ask<{ organizations: { id: string }[] }>(
      "{ organizations { id } }",
      {},
      keyed(second.apiKey),
    );
    expect(organizations).toEqual([{ id: first.organization }]);
  });

  test("two at once agree", async () => {
    const input = { organizationName: "Twice", email: "twice@example.com" };
    const [one, two] = await Promise.all([
      bootstrap(server.services, input),
      bootstrap(server.services, input),
    ]);
    expect(one.organization).toBe(two.organization);
    expect(await server.prisma.user.count({ where: { email: "twice@example.com" } })).toBe(1);
  });

  test("needs the token, and is not there without one", async () => {
    const input = { organizationName: "X", email: "x@example.com" };
    expect((await call(input, "wrong")).status).toBe(403);
    expect((await call(input, "")).status).toBe(403);
    expect(await (await call({ organizationName: "" })).json()).toMatchObject({
      error: { code: "INPUT_INVALID" },
    });
    const without = await startTestServer({
      sharing: server,
      loops: [],
      config: { operatorToken: undefined },
    });
    const response = await fetch(`${without.url}/operator/bootstrap`, {
      method: "POST",
      headers: { authorization: "Bearer undefined" },
    });
    expect(response.status).toBe(404);
    await without.stop();
  });
});

describe("signing in", () => {
  test("an unknown address gets the same answer as a known one, and no user", async () => {
    const known = await askForLink(organization.owner.email);
    const unknown = await askForLink("nobody@example.com");
    expect([unknown.status, unknown.body]).toEqual([known.status, known.body]);
    expect(known.status).toBe(200);
    const signIn = await fetch(linkFor(organization.owner.email) ?? "", { redirect: "manual" });
    expect(
      (await server.ask<{ me: { user: unknown } }>(me, {}, withCookie(cookieOf(signIn)))).me.user,
    ).toEqual({ email: organization.owner.email });
    expect(linkFor("nobody@example.com")).toBeUndefined();
    expect(await server.prisma.user.count({ where: { email: "nobody@example.com" } })).toBe(0);
  });

  test("a person who is not invited cannot sign up, even with a token from the database", async () => {
    const { internalAdapter } = await server.services.auth.$context;
    await internalAdapter.createVerificationValue({
      identifier: await defaultKeyHasher("a-token"),
      value: JSON.stringify({ email: "stranger@example.com" }),
      expiresAt: new Date(Date.now() + 60_000),
    });
    const answer = await fetch(
      `${server.url}/auth/magic-link/verify?token=a-token&callbackURL=${encodeURIComponent(dashboard())}`,
      { redirect: "manual" },
    );
    expect(answer.headers.getSetCookie().join()).not.toContain("session_token=");
    expect(await server.prisma.user.count({ where: { email: "stranger@example.com" } })).toBe(0);
  });

  test("an invited person signs in by link, joins, and sees the organization", async () => {
    const email = "invited@example.com";
    const invite = await fetch(`${server.url}/auth/organization/invite-member`, {
      method: "POST",
      headers: { "content-type": "application/json", ...organization.owner.headers },
      body: JSON.stringify({ email, role: "member", organizationId: organization.id }),
    });
    expect(invite.status).toBe(200);
    const { id: invitationId } = (await invite.json()) as { id: string };
    await askForLink(email);
    const signIn = await fetch(linkFor(email) ?? "", { redirect: "manual" });
    const caller = withCookie(cookieOf(signIn));
    const accept = await fetch(`${server.url}/auth/organization/accept-invitation`, {
      method: "POST",
      headers: { "content-type": "application/json", ...caller.headers },
      body: JSON.stringify({ invitationId }),
    });
    expect(accept.status).toBe(200);
    const user = await server.prisma.user.findUniqueOrThrow({ where: { email } });
    expect(await membershipsOf(server.services, user.id)).toEqual([
      { organizationId: organization.id, role: "member" },
    ]);
  });

  test("links stay out of the log of an API that others reach", async () => {
    const reached = await startTestServer({
      sharing: server,
      loops: [],
      log,
      config: { publicUrl: "https://muster.example" },
    });
    lines.length = 0;
    expect((await askForLink(organization.owner.email, reached)).status).toBe(200);
    expect(linkFor(organization.owner.email)).toBeUndefined();
    expect(lines.join()).toContain("MUSTER_SIGN_IN_LINKS=log");
    expect(lines.join()).not.toContain("token=");
    await reached.stop();
  });

  test("links are made for the dashboard only", async () => {
    const response = await fetch(`${server.url}/auth/sign-in/magic-link`, {
      method: "POST",
      headers: { "content-type": "application/json", origin: dashboard() },
      body: JSON.stringify({ email: organization.owner.email, callbackURL: "https://evil.example/" }),
    });
    expect(response.status).toBe(403);
  });

  test("signing out ends the session", async () => {
    const person = await server.person(organization.id);
    const out = await fetch(`${server.url}/auth/sign-out`, {
      method: "POST",
      headers: { "content-type": "application/json", ...person.headers },
      body: "{}",
    });
    expect(out.status).toBe(200);
    const { me: after } = await server.ask<{ me: { kind: string } }>("{ me { kind } }", {}, person);
    expect(after.kind).toBe("ANONYMOUS");
  });
});

describe("API keys", () => {
  const create =
    "mutation($input: CreateApiKeyInput!) { createApiKey(input: $input) { key apiKey { id name start scopes expiresAt } } }";
  const input = (more: object = {}) => ({
    input: { organization: organization.typeId, name: "ci", scopes: ["run:read"], ...more },
  });

  test("an owner makes one, it does what its scopes say, and is gone when revoked", async () => {
    const { createApiKey } = await server.ask<{
      createApiKey: { key: string; apiKey: { id: string; start: string } };
    }>(create, input({ expiresInDays: 2 }), organization.owner);
    expect(createApiKey).toEqual({
      key: expect.stringMatching(/^muster_/),
      apiKey: {
        id: expect.stringMatching(/^key_/),
        name: "ci",
        start: createApiKey.key.slice(0, 13),
        scopes: ["run:read"],
        expiresAt: expect.any(String),
      },
    });
    const key: Caller = {
      headers: { authorization: `Bearer ${createApiKey.key}` },
      actor: { kind: "anonymous" },
    };
    expect(await server.ask("{ me { kind scopes } organizations { id } }", {}, key)).toEqual({
      me: { kind: "API_KEY", scopes: ["run:read"] },
      organizations: [{ id: organization.typeId }],
    });
    expect((await server.graphql(create, input(), key)).errors?.[0]?.extensions.code).toBe("FORBIDDEN");
    expect(JSON.stringify(await server.prisma.apiKey.findMany(), (_, value) => value)).not.toContain(
      createApiKey.key,
    );
    const revoke = "mutation($input: RevokeApiKeyInput!) { revokeApiKey(input: $input) }";
    const gone = { input: { organization: organization.typeId, id: createApiKey.apiKey.id } };
    await server.ask(revoke, gone, organization.owner);
    expect((await server.graphql(revoke, gone, organization.owner)).errors?.[0]?.extensions.code).toBe(
      "NOT_FOUND",
    );
    // Another process has not seen the key yet, so it remembers nothing of it.
    const other = await startTestServer({ sharing: server, loops: [] });
    expect((await other.graphql("{ me { kind } }", {}, key)).status).toBe(401);
    await other.stop();
  });

  test("an expired or disabled key is refused", async () => {
    const [expired, disabled] = [await server.apiKey(organization), await server.apiKey(organization)];
    await server.prisma.apiKey.update({
      where: { id: expired.id },
      data: { expiresAt: new Date(Date.now() - 1) },
    });
    await server.prisma.apiKey.update({ where: { id: disabled.id }, data: { enabled: false } });
    for (const key of [expired, disabled])
      expect((await server.graphql("{ me { kind } }", {}, key)).status).toBe(401);
  });

  test("a key that is not valid is told so in the words of GraphQL, and our own client hands them on", async () => {
    const key = await server.apiKey(organization);
    await server.prisma.apiKey.delete({ where: { id: key.id } });
    expect(await server.graphql("{ me { kind } }", {}, key)).toEqual({
      status: 401,
      errors: [
        {
          message: expect.stringContaining("revoked"),
          extensions: { code: "UNAUTHENTICATED", retryable: false, requestId: expect.any(String) },
        },
      ],
    });
    const client = createClient({ url: server.url, apiKey: key.key });
    await expect(client.organizations.list()).rejects.toMatchObject({
      name: "ApiError",
      code: "UNAUTHENTICATED",
      status: 401,
      retryable: false,
    });
    // A session that has ended is nobody's.
    const stale: Caller = {
      headers: { cookie: "muster.session_token=gone.gone" },
      actor: { kind: "anonymous" },
    };
    expect(
      (await server.graphql("{ organizations { id } }", {}, stale)).errors?.[0]?.extensions,
    ).toMatchObject({
      code: "UNAUTHENTICATED",
    });
  });

  test("a key knows its own organization, whatever else it may do, and no other", async () => {
    const other = await server.organization();
    const own = { id: organization.typeId, slug: organization.slug };
    for (const scopes of [["run:read"], ["upload:create"]]) {
      const key = await server.apiKey(organization, scopes);
      const client = createClient({ url: server.url, apiKey: key.key });
      expect(await client.organizations.list()).toEqual([{ ...own, name: expect.any(String), apiKeys: [] }]);
      expect(await client.me()).toMatchObject({
        kind: "API_KEY",
        organizations: [{ role: "key", organization: own }],
      });
      const node = "query($id: ID!) { node(id: $id) { id } }";
      expect((await server.graphql(node, { id: other.typeId }, key)).errors?.[0]?.extensions.code).toBe(
        "FORBIDDEN",
      );
    }
    const blind = await server.apiKey(organization, ["upload:create"]);
    const runs = "{ organizations { runs(first: 1) { edges { node { id } } } } }";
    expect((await server.graphql(runs, {}, blind)).errors?.[0]?.extensions.code).toBe("FORBIDDEN");
    // Keys are shown to owners alone.
    const member = await server.person(organization.id, "admin");
    const keys = "{ organizations { apiKeys { id } } }";
    expect(await server.ask(keys, {}, member)).toEqual({ organizations: [{ apiKeys: [] }] });
    const { organizations } = await server.ask<{ organizations: { apiKeys: unknown[] }[] }>(
      keys,
      {},
      organization.owner,
    );
    expect(organizations[0]?.apiKeys.length).toBeGreaterThan(1);
  });

  test("a member, another organization's owner and a scope that does not exist are refused", async () => {
    const member = await server.person(organization.id, "admin");
    const other = await server.organization();
    const codes = await Promise.all(
      [
        server.graphql(create, input(), member),
        server.graphql(create, input(), other.owner),
        server.graphql(create, input({ scopes: ["key:manage"] }), organization.owner),
        server.graphql(create, input({ scopes: [] }), organization.owner),
        server.graphql(create, input({ expiresInDays: 400 }), organization.owner),
      ].map(async (answer) => (await answer).errors?.[0]?.extensions.code),
    );
    expect(codes).toEqual(["FORBIDDEN", "FORBIDDEN", "INPUT_INVALID", "INPUT_INVALID", "INPUT_INVALID"]);
  });

  test("the library's own routes for keys are shut", async () => {
    for (const [method, path] of [
      ["POST", "create"],
      ["POST", "verify"],
      ["GET", "list"],
      ["POST", "update"],
      ["POST", "delete"],
    ] as const) {
      const response = await fetch(`${server.url}/auth/api-key/${path}`, {
        method,
        headers: { "content-type": "application/json", ...organization.owner.headers },
        ...(method === "POST" ? { body: "{}" } : {}),
      });
      expect(response.status, path).toBe(404);
    }
  });
});

test("rights follow the role, the organization and the key's scopes", () => {
  const [here, elsewhere] = [newId(), newId()];
  const person = (role: "owner" | "admin" | "member") => ({
    kind: "person" as const,
    userId: newId(),
    memberships: [{ organizationId: here, role }],
  });
  const key = {
    kind: "apiKey" as const,
    keyId: newId(),
    organizationId: here,
    scopes: ["run:read", "key:manage"],
  };
  const table = [
    allows(person("member"), "run:read", here),
    allows(person("member"), "run:control", here),
    allows(person("admin"), "run:control", here),
    allows(person("admin"), "key:manage", here),
    allows(person("owner"), "key:manage", here),
    allows(person("owner"), "run:read", elsewhere),
    allows(key, "run:read", here),
    allows(key, "run:read", elsewhere),
    allows(key, "run:create", here),
    allows(key, "key:manage", here),
    allows({ kind: "node", nodeId: newId(), sessionId: newId() }, "run:read", here),
    allows({ kind: "anonymous" }, "run:read"),
  ];
  expect(table).toEqual([true, false, true, false, true, false, true, false, false, false, false, false]);
});
