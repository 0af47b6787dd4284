// Packages name their builds for other systems as optional dependencies. When the registry lacks one, `npm
// install` writes a lock without it and says nothing; `npm ci` on any machine then refuses the lock. This
// finds it at once.
import { readFileSync } from "node:fs";

const { packages } = JSON.parse(readFileSync(new URL("../package-lock.json", import.meta.url), "utf8"));
const locked = new Set(Object.keys(packages).map((path) => path.split("node_modules/").pop()));

const missing = Object.entries(packages).flatMap(([path, entry]) =>
  Object.keys(entry.optionalDependencies ?? {})
    .filter((name) => !locked.has(name))
    .map((name) => `  ${name}, which ${path} asks for`),
);

if (missing.length > 0) {
  console.error(
    `package-lock.json lacks optional dependencies, so npm ci will fail. Pin versions whose builds for all systems exist:\n${missing.join("\n")}`,
  );
  process.exitCode = 1;
} else {
  console.log(`package-lock.json is complete: ${locked.size} packages.`);
}
