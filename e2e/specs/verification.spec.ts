import type { Page } from "@playwright/test";
import { expect, test } from "./fixtures.ts";

test("a case says who stands accused, of what, and what measuring again found", async ({
  page,
  finished,
}) => {
  await page.goto(`/runs/${finished.id}?tab=verification`);
  await expect(
    page.getByText(/At most .+ % of what was accepted is poison|Nothing was accepted unaudited/),
  ).toBeVisible();
  await expect(page.getByRole("table", { name: "Validators" })).toContainText("validator");
  await expect(page.getByRole("table", { name: "Audit log" })).toContainText("verdict.");
  await openCase(page);

  await expect(page.getByText("cheater").first()).toBeVisible();
  await expect(page.getByRole("region", { name: "Why it was rejected" })).toContainText(/\w+ \w+ \w+/);
  await expect(page.getByRole("region", { name: "Timeline" })).toContainText("it fails again");
  const failed = page.getByRole("listitem", { name: /: Failed$/ }).first();
  await expect(failed).toContainText("What it cannot catch.");
  for (const column of ["First", "Again", "Expected", "Threshold"])
    await expect(failed.getByRole("columnheader", { name: column })).toBeVisible();
});

test("the evidence verifies in anyone's browser, and one flipped bit in it is noticed", async ({
  page,
  browser,
  installation,
  finished,
}) => {
  await page.goto(`/runs/${finished.id}?tab=verification`);
  await openCase(page);
  await page.getByRole("link", { name: "Verify in this browser" }).click();
  await expectAgreement(page);
  await expect(page.getByText("signed by the coordinator of this page")).toBeVisible();
  const group = new URL(page.url()).searchParams.get("group") ?? "";

  const bundle = Buffer.from(await installation.client.evidence.get({ group }));
  const altered = Buffer.from(bundle);
  const middle = altered.length >> 1;
  altered.writeUInt8(altered.readUInt8(middle) ^ 1, middle);

  const stranger = await browser.newContext({ storageState: { cookies: [], origins: [] } });
  const elsewhere = await stranger.newPage();
  const sent: number[] = [];
  elsewhere.on("request", (request) => sent.push(request.postDataBuffer()?.length ?? 0));
  await elsewhere.goto(`${installation.dashboardUrl}/verify`);
  const input = elsewhere.locator("input[type=file]");
  const file = { name: "case.evidence", mimeType: "application/octet-stream" };
  await expect(async () => {
    // Before the page has come alive, nobody listens to its input.
    await input.setInputFiles({ ...file, buffer: altered });
    await expect(elsewhere.getByText("Not to be relied on")).toBeVisible({ timeout: 2_000 });
  }).toPass();
  await expect(elsewhere.getByText("WRONG_PART").first()).toBeVisible();
  await expect(elsewhere.getByText("Agrees with")).toBeHidden();

  await input.setInputFiles({ ...file, buffer: bundle });
  await expectAgreement(elsewhere);
  expect(Math.max(...sent)).toBeLessThan(1_000);
  await stranger.close();
});

test("the organizer overturns a rejection, with a reason", async ({ page, finished }) => {
  await page.goto(`/runs/${finished.id}?tab=verification`);
  await openCase(page);
  const overturn = page.getByRole("button", { name: "Overturn rejection" });
  await expect(overturn).toBeDisabled();
  await page.getByLabel(/^Reason/).fill("The machine was ours: we tried the alarm.");
  await overturn.click();
  await page.getByRole("dialog").getByRole("button", { name: "Overturn rejection" }).click();
  await expect(page.getByText("Overturned", { exact: true })).toBeVisible();
  await expect(page.getByRole("region", { name: "Timeline" })).toContainText("we tried the alarm");
  await expect(page.getByRole("link", { name: /^Rollout rollout_/ }).first()).toBeVisible();
});

/** Opens the newest case that was measured again. */
async function openCase(page: Page): Promise<void> {
  const row = page
    .getByRole("grid", { name: "Cases" })
    .getByRole("row")
    .filter({ hasText: "Found the same" })
    .filter({ hasText: "cheater" });
  await row
    .first()
    .getByRole("link", { name: /^Case case_/ })
    .click();
  await page.waitForURL(/\/cases\/case_/);
  await expect(page.getByRole("heading", { name: "Case", level: 1 })).toBeVisible();
}

/** Every stage went through, the measuring in this browser included. */
async function expectAgreement(page: Page): Promise<void> {
  await expect(page.getByText("Agrees with the coordinator’s verdict")).toBeVisible({ timeout: 60_000 });
  const stages = page.getByRole("list", { name: "Progress" }).getByRole("listitem");
  await expect(stages.filter({ hasText: "Done" })).toHaveCount(5);
  await expect(page.getByText("From this browser’s own measurement: rejected.")).toBeVisible();
}
