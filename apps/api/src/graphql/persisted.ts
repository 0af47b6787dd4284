import { readFileSync } from "node:fs";
import { usePersistedOperations } from "@graphql-yoga/plugin-persisted-operations";
import type { Plugin } from "graphql-yoga";
import { z } from "zod";
import type { Ctx } from "../context.ts";
import { CodedError } from "../errors.ts";
import { publicError } from "./errors.ts";
import type { Operation } from "./yoga.ts";

/** Where the texts are: written by print-documents.ts. */
export const documentsFile = new URL("../../persisted-documents.json", import.meta.url);

/**
 * Our own clients name their documents by SHA-256 (`extensions.persistedQuery`, as Apollo's clients do) and send no text. Everyone else's
 * documents are welcome under the same limits, so a hash that is not known here is answered `DOCUMENT_UNKNOWN`: send the text.
 */
export function persistedDocuments(): Plugin<Operation & Ctx> {
  const documents = new Map(
    Object.entries(z.record(z.string(), z.string()).parse(JSON.parse(readFileSync(documentsFile, "utf8")))),
  );
  const plugin = usePersistedOperations<Operation & Ctx>({
    allowArbitraryOperations: true,
    getPersistedOperation: (hash) => documents.get(hash) ?? null,
    customErrors: {
      notFound: ({ context }) =>
        refusal(context, "DOCUMENT_UNKNOWN", "This coordinator does not know the document. Send its text."),
      keyNotFound: ({ context }) =>
        refusal(context, "QUERY_REFUSED", "There is no document. Send its text as `query`."),
    },
  });
  return plugin;
}

function refusal(context: unknown, code: "DOCUMENT_UNKNOWN" | "QUERY_REFUSED", message: string): Error {
  // What the transport handed to this engine.
  const { ctx } = context as Operation;
  return publicError(new CodedError(code, message), ctx);
}
