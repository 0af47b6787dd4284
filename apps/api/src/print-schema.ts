import { writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { lexicographicSortSchema, printSchema } from "graphql";
import { schema } from "./schema.ts";

// Writes apps/api/schema.graphql: the contract that people review and clients are typed by.
const file = fileURLToPath(new URL("../schema.graphql", import.meta.url));
await writeFile(file, `${printSchema(lexicographicSortSchema(schema))}\n`);
