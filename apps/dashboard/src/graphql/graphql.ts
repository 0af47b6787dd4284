import type { graphql as typed } from "@muster/sdk";
import { initGraphQLTada, type setupSchema } from "gql.tada";

// The one door to typed documents. The types are the SDK's, so that one description of the schema exists; its code stays out of the
// browser, which needs a parser of documents and not a client.

/** Writes a typed GraphQL document: variables and results are inferred from its text and the coordinator's schema. */
export const graphql = initGraphQLTada<setupSchema>() as unknown as typeof typed; // the parser is the same for every schema

export { type FragmentOf, type ResultOf, readFragment, type VariablesOf } from "gql.tada";
