import { readdirSync, readFileSync } from "node:fs";
import { expect, test } from "vitest";

test("the graph folder runs in a browser: it imports itself and two pure packages, nothing else", () => {
  const folder = new URL("../src/graph/", import.meta.url);
  const files = readdirSync(folder);
  const imported = files.flatMap((file) => {
    const source = readFileSync(new URL(file, folder), "utf8");
    return Array.from(source.matchAll(/(?:from|import\()\s*"([^"]+)"/g), ([, specifier]) => specifier!);
  });
  expect(files).toContain("index.ts");
  expect(imported.length).toBeGreaterThan(files.length);
  const pure = ["@muster/protocol", "@muster/toploc"];
  expect(imported.filter((name) => !/^\.\/[a-z-]+\.ts$/.test(name) && !pure.includes(name))).toEqual([]);
});
