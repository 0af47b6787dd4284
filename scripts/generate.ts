// Makes everything that is generated and not committed, in the order it depends on each other: Prisma's
// client and the Pothos data model, apps/api/schema.graphql (committed: a contract people review), and the
// types gql.tada reads it into. `--if-stale` does nothing when no source changed; `--check` fails when the
// committed schema differs from the code's.
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, globSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const root = join(import.meta.dirname, "..");
const bin = join(root, "node_modules", ".bin");
const stampFile = join(root, "node_modules", ".cache", "muster-generate");
const outputs = [
  "packages/db/generated/prisma/client.ts",
  "apps/api/generated/pothos-types.ts",
  "packages/sdk/src/graphql-env.d.ts",
];

const check = process.argv.includes("--check");
const stdio: ["ignore", "ignore" | "inherit", "inherit"] = [
  "ignore",
  process.argv.includes("--quiet") ? "ignore" : "inherit",
  "inherit",
];
const schemaFile = join(root, "apps", "api", "schema.graphql");

if (!process.argv.includes("--if-stale") || stamp() !== readStamp()) {
  const committed = existsSync(schemaFile) ? readFileSync(schemaFile, "utf8") : "";
  run("prisma", ["generate"], root);
  if (!process.argv.includes("--if-stale") || committed === "") {
    execFileSync(process.execPath, ["src/print-schema.ts"], { cwd: join(root, "apps/api"), stdio });
  }
  run("gql.tada", ["generate-output"], join(root, "packages/sdk"));
  execFileSync(process.execPath, ["src/print-documents.ts"], { cwd: join(root, "apps/api"), stdio });
  if (check && readFileSync(schemaFile, "utf8") !== committed) {
    process.stderr.write(
      "apps/api/schema.graphql was not what the code prints; it is now. Look at the difference and commit it.\n",
    );
    process.exit(1);
  }
  mkdirSync(join(stampFile, ".."), { recursive: true });
  writeFileSync(stampFile, stamp());
}

function run(command: string, args: string[], cwd: string): void {
  execFileSync(join(bin, command), args, {
    cwd,
    stdio,
    env: { ...process.env, PRISMA_HIDE_UPDATE_MESSAGE: "1" },
  });
}

/** A digest of every source of generated code, and whether the outputs exist. */
function stamp(): string {
  const hash = createHash("sha256");
  for (const file of globSync(["prisma/schema/*.prisma", "apps/api/schema.graphql", "package-lock.json"], {
    cwd: root,
  }).sort()) {
    hash.update(file).update(readFileSync(join(root, file)));
  }
  return hash.update(String(outputs.map((file) => existsSync(join(root, file))))).digest("hex");
}

function readStamp(): string {
  return existsSync(stampFile) ? readFileSync(stampFile, "utf8") : "";
}
