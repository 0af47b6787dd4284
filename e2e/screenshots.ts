// Takes the pictures of the documentation from a running installation: `node e2e/screenshots.ts --state-dir .muster`.
// Needs the one-time link that `muster up` printed: `--sign-in <url>`.
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { chromium } from "@playwright/test";
import { launchOptions } from "./playwright.config.ts";

const { values } = parseArgs({
  options: { "sign-in": { type: "string" }, out: { type: "string", default: "docs/screenshots" } },
});
const link = values["sign-in"];
if (link === undefined) {
  process.stderr.write("Name the sign-in link that `muster up` printed: --sign-in http://…\n");
  process.exit(2);
}
const out = join(import.meta.dirname, "..", values.out);
mkdirSync(out, { recursive: true });

const browser = await chromium.launch(launchOptions);
try {
  const context = await browser.newContext({ viewport: { width: 1440, height: 1000 }, colorScheme: "light" });
  const page = await context.newPage();
  await page.goto(link);
  await page.getByRole("grid", { name: "Runs" }).waitFor();
  await page.getByRole("grid", { name: "Runs" }).getByRole("link").first().click();
  await page.getByRole("application", { name: /^Reward/ }).waitFor();
  const run = page.url();
  for (const theme of ["light", "dark"] as const) {
    await page.emulateMedia({ colorScheme: theme });
    await page.goto(run);
    await page.getByRole("application", { name: /^Reward/ }).waitFor();
    await page.getByRole("button", { name: /^Connection: / }).waitFor();
    await page.screenshot({ path: join(out, `run-${theme}.png`) });
    await page.goto(`${run}?tab=verification`);
    await page.getByRole("table", { name: "Validators" }).waitFor();
    await page.screenshot({ path: join(out, `verification-${theme}.png`), fullPage: true });
    await page.goto(`${run}?tab=rollouts&f.state=REJECTED`);
    await page.getByRole("grid", { name: "Rollouts" }).waitFor();
    await page.screenshot({ path: join(out, `rollouts-${theme}.png`) });
    await page
      .getByRole("link", { name: /^Rollout / })
      .first()
      .click();
    await page.getByRole("heading", { name: "Verification" }).waitFor();
    await page.screenshot({ path: join(out, `rollout-${theme}.png`), fullPage: true });
  }
} finally {
  await browser.close();
}
