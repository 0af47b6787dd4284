import { defineConfig } from "vitest/config";

export default defineConfig({
  // Vite would pick graphql's ES modules for our files and Node its CommonJS for graphql-ws: two realms, one schema.
  test: { server: { deps: { inline: [/graphql-ws/] } } },
});
