import { existsSync } from "node:fs";
import { join } from "node:path";
import { defineConfig } from "@playwright/test";
import { repository } from "./installation.ts";
import type { InstallationChoice } from "./specs/fixtures.ts";

const results = join(repository, ".muster", "test-results");
// A browser of the system where there is one; elsewhere Playwright's own, which `npx playwright install chromium` fetches.
const chromium = process.env.CHROMIUM_PATH ?? "/usr/bin/chromium";

export const launchOptions = {
  ...(existsSync(chromium) ? { executablePath: chromium } : {}),
  args: [
    // Chromium's own sandbox does not start as root, which containers run as; the pages are our own.
    ...(process.getuid?.() === 0 ? ["--no-sandbox"] : []),
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
  ],
};

export default defineConfig<object, InstallationChoice>({
  testDir: "specs",
  outputDir: join(results, "playwright"),
  // Each worker runs a whole installation, which takes both cores of a small machine.
  workers: 1,
  fullyParallel: false,
  forbidOnly: process.env.CI !== undefined,
  retries: 0,
  timeout: 120_000,
  expect: { timeout: 20_000 },
  reporter: [
    ["list"],
    ["json", { outputFile: process.env.PLAYWRIGHT_JSON_OUTPUT_FILE ?? join(results, "playwright.json") }],
  ],
  use: {
    actionTimeout: 20_000,
    viewport: { width: 1440, height: 900 },
    trace: "retain-on-failure",
    screenshot: "only-on-failure",
    launchOptions,
  },
  projects: [
    { name: "one coordinator process" },
    { name: "two coordinator processes", testMatch: "create-run.spec.ts", use: { apiProcesses: 2 } },
  ],
});
