import { getNamedType, isInterfaceType, isObjectType } from "graphql";
import { expect, test } from "vitest";
import { schema } from "../src/schema.ts";

type Options = { authScopes?: unknown };
const optionsOf = (thing: { extensions: Readonly<Record<PropertyKey, unknown>> }): Options =>
  (thing.extensions.pothosOptions ?? {}) as Options;
const roots = [schema.getQueryType(), schema.getMutationType(), schema.getSubscriptionType()];
const isFrame = (name: string) =>
  name === "PageInfo" ||
  name.endsWith("Connection") ||
  name.endsWith("ConnectionEdge") ||
  name.startsWith("__");

test("every field of Query, Mutation and Subscription says who may use it", () => {
  const open = roots.flatMap((root) =>
    Object.values(root?.getFields() ?? {})
      .filter((field) => optionsOf(field).authScopes === undefined)
      .map((field) => `${root?.name}.${field.name}`),
  );
  expect(open).toEqual([]);
});

test("every type says who may see it, so that each path to it is covered", () => {
  const open = Object.values(schema.getTypeMap())
    .filter((type) => isObjectType(type) && !roots.includes(type) && !isFrame(type.name))
    .filter((type) => optionsOf(type).authScopes === undefined)
    .map(({ name }) => name);
  expect(open).toEqual([]);
});

test("every list that can grow is a connection: rows of the database are never an open list from a root", () => {
  const lists = Object.values(schema.getQueryType()?.getFields() ?? {})
    .filter((field) => String(field.type).startsWith("[") && isObjectType(getNamedType(field.type)))
    .map(({ name }) => name);
  // A person's organizations, the built-in environments and the relays that one node asks are few by their nature.
  const few = ["organizations", "environments", "checkpointSources"];
  expect(lists.filter((name) => !few.includes(name))).toEqual([]);
});

test("whatever implements Node has an id that names its type", () => {
  const node = schema.getType("Node");
  if (!isInterfaceType(node)) throw new Error("Node is no interface");
  expect(schema.getPossibleTypes(node).map(({ name }) => name)).toContain("Run");
});
