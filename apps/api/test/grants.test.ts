import { toTypeId } from "@muster/protocol";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type Caller, startTestServer, type TestOrganization, type TestServer } from "./testkit.ts";

let server: TestServer;
let organization: TestOrganization;
let run: { id: string; typeId: string };
beforeAll(async () => {
  server = await startTestServer({ loops: [] });
  organization = await server.organization();
  const { id } = await server.prisma.run.create({
    data: {
      organizationId: organization.id,
      slug: "r",
      name: "run",
      environment: "muster/sort-digits@1",
      baseKind: "warmup",
      stepLimit: 1,
    },
  });
  run = { id, typeId: toTypeId("run", id) };
});
afterAll(() => server.stop());

const mutation = (name: "grantRole" | "revokeRole") =>
  `mutation($input: GrantRoleInput!) { ${name}(input: $input) { id role revokedAt node { id } } }`;
const change = (name: "grantRole" | "revokeRole", as: Caller, node: string, role = "VALIDATOR") =>
  server.graphql<Record<string, { id: string; role: string; revokedAt: string | null }>>(
    mutation(name),
    { input: { run: run.typeId, node, role } },
    as,
  );

test("an admin grants and takes back; doing it twice changes nothing and tells nothing twice", async () => {
  const node = await server.node();
  const admin = await server.person(organization.id, "admin");
  const first = await change("grantRole", admin, node.typeId);
  expect(first.data?.grantRole).toEqual({
    id: expect.stringMatching(/^grant_/),
    role: "VALIDATOR",
    revokedAt: null,
    node: { id: node.typeId },
  });
  expect((await change("grantRole", admin, node.typeId)).data?.grantRole).toEqual(first.data?.grantRole);
  expect((await change("revokeRole", admin, node.typeId)).data?.revokeRole?.revokedAt).toEqual(
    expect.any(String),
  );
  expect((await change("revokeRole", admin, node.typeId)).data?.revokeRole?.revokedAt).toEqual(
    expect.any(String),
  );
  expect((await change("grantRole", admin, node.typeId)).data?.grantRole).toEqual(first.data?.grantRole);
  const events = await server.prisma.event.findMany({
    where: { stream: `run:${run.id}`, type: "grant.changed" },
    orderBy: { id: "asc" },
  });
  expect(events.map(({ subject, data }) => [subject, data])).toEqual(
    [true, false, true].map((granted) => [node.typeId, { role: "VALIDATOR", granted, own: false }]),
  );
});

test("a granted node is in the run before it has done anything", async () => {
  const node = await server.node({ name: "trainer" });
  const { owner } = organization;
  await change("grantRole", owner, node.typeId, "TRAINER");
  await change("grantRole", owner, node.typeId, "EVALUATOR");
  server.services.presence.beat(node.id, { progress: { version: 7, doing: "training" } });
  await server.services.presence.flush(server.prisma);
  const { node: found } = await server.ask<{ node: unknown }>(
    "query($id: ID!) { node(id: $id) { id ... on RunNode { trust roles auditRate held available version progress node { name liveness } } } }",
    { id: `${run.typeId}.${node.typeId}` },
    owner,
  );
  expect(found).toEqual({
    id: `${run.typeId}.${node.typeId}`,
    trust: "PROBATION",
    roles: expect.arrayContaining(["TRAINER", "EVALUATOR"]),
    auditRate: 1,
    held: "0",
    available: "0",
    version: 7,
    progress: { version: 7, doing: "training" },
    node: { name: "trainer", liveness: "ACTIVE" },
  });
});

test("a member, a key without the scope, another organization and a node may not; WORKER is not granted", async () => {
  const node = await server.node();
  const other = await server.organization();
  const codes = await Promise.all(
    [
      change("grantRole", await server.person(organization.id, "member"), node.typeId),
      change("grantRole", await server.apiKey(organization, ["run:read"]), node.typeId),
      change("grantRole", other.owner, node.typeId),
      change("grantRole", node, node.typeId),
      change("grantRole", organization.owner, node.typeId, "WORKER"),
      change("grantRole", organization.owner, "node_01h455vb4pex5vsknk084sn02q"),
      change("revokeRole", organization.owner, node.typeId),
    ].map(async (answer) => (await answer).errors?.[0]?.extensions.code),
  );
  expect(codes).toEqual([
    "FORBIDDEN",
    "FORBIDDEN",
    "NOT_FOUND",
    "FORBIDDEN",
    "INPUT_INVALID",
    "NOT_FOUND",
    "NOT_FOUND",
  ]);
  expect(await server.prisma.roleGrant.count({ where: { nodeId: node.id } })).toBe(0);
});

test("a node sees itself, not others; people without an organization see no machines", async () => {
  const [one, two] = [await server.node(), await server.node()];
  const query = "query($id: ID!) { node(id: $id) { id } }";
  expect((await server.graphql(query, { id: one.typeId }, one)).data).toEqual({ node: { id: one.typeId } });
  expect((await server.graphql(query, { id: two.typeId }, one)).errors?.[0]?.extensions.code).toBe(
    "FORBIDDEN",
  );
  expect((await server.graphql(query, { id: two.typeId })).errors?.[0]?.extensions.code).toBe(
    "UNAUTHENTICATED",
  );
  const { nodes } = await server.ask<{ nodes: { edges: { node: { id: string } }[] } }>(
    "query($run: ID) { nodes(run: $run) { edges { node { id } } } }",
    { run: run.typeId },
    organization.owner,
  );
  expect(nodes.edges.map(({ node }) => node.id)).not.toContain(one.typeId);
});
