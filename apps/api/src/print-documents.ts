import { createHash } from "node:crypto";
import { readdir, readFile, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { parse, print } from "graphql";
import { documentsFile } from "./graphql/persisted.ts";

// Writes apps/api/persisted-documents.json: the queries and mutations of our own clients, by the SHA-256 of their printed text. They are
// read out of the sources, because a client keeps its documents to itself.
const clients = ["packages/sdk/src", "packages/cli/src"];

/** Every query and mutation that stands in a `graphql` template of the clients, sorted by hash. */
export async function clientDocuments(): Promise<Record<string, string>> {
  const found: [string, string][] = [];
  for (const client of clients) {
    const folder = fileURLToPath(new URL(`../../../${client}/`, import.meta.url));
    for (const name of await readdir(folder, { recursive: true })) {
      if (!name.endsWith(".ts")) continue;
      const source = await readFile(`${folder}${name}`, "utf8");
      for (const [, text = ""] of source.matchAll(/\bgraphql\(`\s*((?:query|mutation)\b[^`]*)`\)/g)) {
        const printed = print(parse(text));
        found.push([createHash("sha256").update(printed).digest("hex"), printed]);
      }
    }
  }
  return Object.fromEntries(found.sort(([a], [b]) => (a < b ? -1 : 1)));
}

if (process.argv[1] === fileURLToPath(import.meta.url))
  await writeFile(documentsFile, `${JSON.stringify(await clientDocuments(), null, 2)}\n`);
