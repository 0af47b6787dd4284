import AxeBuilder from "@axe-core/playwright";
import type { Page } from "@playwright/test";
import { expect, test } from "./fixtures.ts";

test("no page breaks an accessibility rule, light or dark", async ({
  page,
  browser,
  finished,
  installation,
}) => {
  const run = `/runs/${finished.id}`;
  await page.goto("/runs");
  await expect(page.getByRole("grid", { name: "Runs" })).toBeVisible();
  await expectNoViolations(page, "the list of runs");
  await page.goto("/runs/new");
  await expect(page.getByText("The spec is valid.")).toBeVisible();
  await expectNoViolations(page, "the form");
  await page.goto("/settings");
  await expect(page.getByRole("button", { name: "Make key" })).toBeVisible();
  await expectNoViolations(page, "the settings");
  for (const [tab, ready] of [
    ["training", page.getByRole("application", { name: /^Reward\./ })],
    ["rollouts", page.getByRole("grid", { name: "Rollouts" })],
    ["workers", page.getByRole("grid", { name: "Workers" })],
    ["events", page.getByText("step.trained").first()],
    ["spec", page.getByText("muster/sort-digits@1").first()],
  ] as const) {
    await page.goto(`${run}?tab=${tab}`);
    await expect(ready).toBeVisible();
    await expectNoViolations(page, `a run's ${tab}`);
  }
  await page.goto(`${run}?tab=rollouts&f.state=REJECTED`);
  await page
    .getByRole("link", { name: /^Rollout rollout_/ })
    .first()
    .click();
  await expect(page.getByRole("listitem", { name: /: Failed$/ }).first()).toBeVisible();
  await expectNoViolations(page, "a rollout");

  const stranger = await browser.newContext({ storageState: { cookies: [], origins: [] } });
  const signIn = await stranger.newPage();
  await signIn.goto(`${installation.dashboardUrl}/sign-in`);
  await expect(signIn.getByRole("button", { name: "Send sign-in link" })).toBeVisible();
  await expectNoViolations(signIn, "signing in");
  await stranger.close();
});

test("nor does any page on which verdicts are checked", async ({ page, finished }) => {
  await page.goto(`/runs/${finished.id}?tab=verification`);
  await expect(page.getByRole("table", { name: "Audit log" })).toBeVisible();
  await expectNoViolations(page, "a run's verification");
  await page
    .getByRole("link", { name: /^Case case_/ })
    .first()
    .click();
  await expect(page.getByRole("listitem", { name: /: Failed$/ }).first()).toBeVisible();
  await expectNoViolations(page, "a case");
  await page.getByRole("link", { name: "Verify in this browser" }).click();
  await expect(page.getByText("Agrees with the coordinator’s verdict")).toBeVisible({ timeout: 60_000 });
  await expectNoViolations(page, "verified evidence");
});

async function expectNoViolations(page: Page, what: string): Promise<void> {
  for (const colorScheme of ["light", "dark"] as const) {
    // A transition's halfway colours are nobody's to read.
    await page.emulateMedia({ colorScheme, reducedMotion: "reduce" });
    await expect(page.locator("html")).toHaveClass(new RegExp(`\\b${colorScheme}\\b`));
    const axe = new AxeBuilder({ page });
    // The structure is the same in the dark; what was judged once is not judged again.
    if (colorScheme === "dark") axe.withRules(["color-contrast", "link-in-text-block"]);
    const { violations } = await axe.analyze();
    const found = violations.flatMap(({ id, nodes }) =>
      nodes.map((node) => `${id}: ${node.target.join(" ")} — ${node.failureSummary ?? ""}`),
    );
    expect(found, `On ${what}, ${colorScheme}.`).toEqual([]);
  }
}
