import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import {
  buildSchema,
  type IntrospectionField,
  type IntrospectionInputValue,
  type IntrospectionType,
  introspectionFromSchema,
} from "graphql";

// What the browser's cache must know of the schema: which types an interface has and which fields may be null.
// Descriptions and input types would be three quarters of the bytes.

const here = new URL("..", import.meta.url);
const schema = buildSchema(readFileSync(new URL("../api/schema.graphql", here), "utf8"));
const { __schema } = introspectionFromSchema(schema, { descriptions: false });

const argument = ({ name, type }: IntrospectionInputValue) => ({ name, type });
const field = ({ name, type, args }: IntrospectionField) => ({ name, type, args: args.map(argument) });

function minified(type: IntrospectionType) {
  switch (type.kind) {
    case "OBJECT":
      return {
        kind: type.kind,
        name: type.name,
        fields: type.fields.map(field),
        interfaces: type.interfaces.map(({ kind, name }) => ({ kind, name })),
      };
    case "INTERFACE":
      return {
        kind: type.kind,
        name: type.name,
        fields: type.fields.map(field),
        interfaces: [],
        possibleTypes: type.possibleTypes.map(({ kind, name }) => ({ kind, name })),
      };
    case "UNION":
      return {
        kind: type.kind,
        name: type.name,
        possibleTypes: type.possibleTypes.map(({ kind, name }) => ({ kind, name })),
      };
    case "SCALAR":
    case "ENUM":
      return { kind: "SCALAR", name: type.name };
    case "INPUT_OBJECT":
      return undefined;
  }
}

const types = __schema.types
  .filter((type) => !type.name.startsWith("__"))
  .map(minified)
  .filter((type) => type !== undefined);

mkdirSync(new URL("generated", here), { recursive: true });
writeFileSync(
  new URL("generated/introspection.json", here),
  JSON.stringify({
    __schema: {
      queryType: { kind: "OBJECT", name: __schema.queryType.name },
      mutationType: __schema.mutationType ? { kind: "OBJECT", name: __schema.mutationType.name } : null,
      subscriptionType: __schema.subscriptionType
        ? { kind: "OBJECT", name: __schema.subscriptionType.name }
        : null,
      types,
    },
  }),
);
