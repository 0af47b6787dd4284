// tsc does not see an unknown field in a GraphQL document; gql.tada's own checker does.
import { spawnSync } from "node:child_process";
import { join } from "node:path";

const root = join(import.meta.dirname, "..");
let failed = false;
for (const folder of ["packages/sdk", "apps/dashboard"]) {
  const { status } = spawnSync(join(root, "node_modules", ".bin", "gql.tada"), ["check", "--fail-on-warn"], {
    cwd: join(root, folder),
    stdio: "inherit",
  });
  failed ||= status !== 0;
}
process.exit(failed ? 1 : 0);
