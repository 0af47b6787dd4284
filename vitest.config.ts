import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    projects: [
      "packages/{protocol,toploc,verification,policy,shardcast,db,sdk,worker,cli}",
      "apps/api",
      "apps/dashboard",
    ],
    pool: "forks",
    maxWorkers: 2,
  },
});
