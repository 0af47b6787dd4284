import { GraphQLError, Kind, type ValueNode } from "graphql";
import { builder } from "../builder.ts";

// Registered by importing this file once, in schema.ts.

builder.scalarType("DateTime", {
  description: "A moment as ISO 8601 in UTC with milliseconds: 2026-11-22T10:02:11.000Z.",
  serialize: (value) => value.toISOString(),
  parseValue: (value) => {
    // A time without a zone would mean something else on every machine.
    const text =
      typeof value === "string" && /^\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:\d\d)$/.test(value)
        ? value
        : "";
    const moment = new Date(text);
    if (Number.isNaN(moment.getTime()))
      throw invalid("DateTime", "an ISO 8601 time with its zone, such as 2026-11-22T10:02:11Z");
    return moment;
  },
});

builder.scalarType("BigInt", {
  description:
    "A whole number of up to 64 bits as a decimal string: credits and cursors exceed what JSON numbers hold exactly.",
  serialize: (value) => value.toString(),
  parseValue: (value) => {
    if (typeof value === "number" && Number.isSafeInteger(value)) return BigInt(value);
    if (typeof value === "string" && /^-?\d{1,19}$/.test(value)) {
      const parsed = BigInt(value);
      if (BigInt.asIntN(64, parsed) === parsed) return parsed;
    }
    throw invalid("BigInt", "a whole number of up to 64 bits as a decimal string");
  },
  parseLiteral: (node) => {
    const parsed = node.kind === Kind.INT || node.kind === Kind.STRING ? node.value : "";
    if (/^-?\d{1,19}$/.test(parsed) && BigInt.asIntN(64, BigInt(parsed)) === BigInt(parsed))
      return BigInt(parsed);
    throw invalid("BigInt", "a whole number of up to 64 bits");
  },
});

builder.scalarType("JSON", {
  description: "Any JSON value.",
  serialize: (value) => value,
  parseValue: (value) => value,
  parseLiteral: (node, variables) => literal(node, variables ?? {}),
});

function literal(node: ValueNode, variables: Record<string, unknown>): unknown {
  switch (node.kind) {
    case Kind.NULL:
      return null;
    case Kind.INT:
    case Kind.FLOAT:
      return Number(node.value);
    case Kind.STRING:
    case Kind.BOOLEAN:
    case Kind.ENUM:
      return node.value;
    case Kind.LIST:
      return node.values.map((value) => literal(value, variables));
    case Kind.OBJECT:
      // Own keys on a null prototype: a field named __proto__ stays a field.
      return Object.assign(
        Object.create(null),
        Object.fromEntries(node.fields.map((field) => [field.name.value, literal(field.value, variables)])),
      );
    case Kind.VARIABLE:
      return variables[node.name.value];
  }
}

function invalid(scalar: string, expected: string): GraphQLError {
  return new GraphQLError(`${scalar}: expected ${expected}.`, { extensions: { code: "INPUT_INVALID" } });
}
