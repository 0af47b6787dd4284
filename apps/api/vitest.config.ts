import { defineConfig } from "vitest/config";

export default defineConfig({
  // Vite would take graphql's .mjs for our files while Node takes its .js for the libraries: two copies, which refuse each other.
  resolve: { alias: [{ find: /^graphql$/, replacement: "graphql/index.js" }] },
  test: {
    include: ["test/**/*.test.ts"],
    // Two cores, and each file starts a server of its own.
    pool: "forks",
    maxWorkers: 2,
    testTimeout: 20_000,
    hookTimeout: 30_000,
  },
});
