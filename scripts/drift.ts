// Fails when prisma/schema says something that prisma/migrations do not make. Needs a Postgres: DATABASE_URL,
// else the test server.
import { spawnSync } from "node:child_process";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { testServer } from "@muster/db/testing";

const repository = fileURLToPath(new URL("..", import.meta.url));
const prisma = join(dirname(createRequire(import.meta.url).resolve("prisma/package.json")), "build/index.js");
const diff = ["migrate", "diff", "--from-migrations", "prisma/migrations", "--to-schema", "prisma/schema"];

const { status, stdout, stderr } = spawnSync(process.execPath, [prisma, ...diff, "--exit-code"], {
  cwd: repository,
  env: { ...process.env, DATABASE_URL: await testServer() },
  encoding: "utf8",
});

switch (status) {
  case 0:
    console.log("The migrations make exactly the schema.");
    break;
  case 2:
    console.error(`prisma/schema has changes without a migration:\n${stdout}
Make one: npx prisma migrate dev --name <what-changes>`);
    process.exitCode = 2;
    break;
  default:
    console.error(`The schema and the migrations could not be compared:\n${stdout}${stderr}`);
    process.exitCode = 1;
}
