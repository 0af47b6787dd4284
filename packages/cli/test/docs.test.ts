import { readFileSync } from "node:fs";
import { expect, test } from "vitest";

const read = (file: string) => readFileSync(new URL(`../../../${file}`, import.meta.url), "utf8");

test("docs/deploy.md has every environment variable that the coordinator reads, and no other", () => {
  const named = (text: string) => [...new Set(text.match(/\b(MUSTER_[A-Z_]+|DATABASE_URL)\b/g))].toSorted();
  const [table = ""] = read("docs/deploy.md").split("Read by others:");
  const variables = named(table.slice(table.indexOf("## Environment variables")));
  expect(variables).toEqual(named(read("apps/api/src/config.ts").split("const variables")[1] ?? ""));
});
