// Node strips types only outside node_modules, so what is published is JavaScript, with a manifest that points at it.
import { copyFileSync, readFileSync, writeFileSync } from "node:fs";

const {
  private: _,
  scripts: __,
  devDependencies: ___,
  ...manifest
} = JSON.parse(readFileSync("package.json", "utf8"));
manifest.exports = { ".": { types: "./index.d.ts", default: "./index.js" } };
manifest.sideEffects = false;
writeFileSync("dist/package.json", `${JSON.stringify(manifest, null, 2)}\n`);
copyFileSync("README.md", "dist/README.md");
copyFileSync("../../LICENSE", "dist/LICENSE");
