import { initGraphQLTada } from "gql.tada";
import type { introspection } from "./graphql-env.d.ts";

/**
 * Writes a typed GraphQL document: variables and results are inferred from its text and the coordinator's schema.
 * `DateTime` is an ISO 8601 string, `BigInt` a decimal string (credits and cursors exceed 2^53), `JSON` is unknown until parsed.
 */
export const graphql = initGraphQLTada<{
  introspection: introspection;
  scalars: { DateTime: string; BigInt: string; JSON: unknown; ID: string };
}>();

export {
  type FragmentOf,
  type ResultOf,
  readFragment,
  type TadaDocumentNode,
  type VariablesOf,
} from "gql.tada";
