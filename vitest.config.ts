import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    projects: [
      "packages/{protocol,toploc,verification,policy,shardcast,db,sdk,worker,cli,attacks}",
      "apps/api",
      "apps/dashboard",
      "examples",
    ],
    pool: "forks",
    maxWorkers: 2,
  },
});
