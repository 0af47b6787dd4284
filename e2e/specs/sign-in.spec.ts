import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, signIn, test } from "./fixtures.ts";

const nobody = { cookies: [], origins: [] };

test("the link that `muster up` prints signs its owner in", async ({ page }) => {
  await page.goto("/");
  await page.waitForURL("**/runs");
  await expect(page.getByRole("heading", { name: "Runs", level: 1 })).toBeVisible();
  await page.getByRole("button", { name: /^Account: / }).click();
  await expect(page.getByText("you@muster.localhost")).toBeVisible();
});

test("a link asked for on the page stands in the coordinator's log and works once", async ({
  browser,
  installation,
}) => {
  const first = await browser.newContext({ storageState: nobody });
  const page = await first.newPage();
  await page.goto(`${installation.dashboardUrl}/runs`);
  await page.waitForURL("**/sign-in?next=%2Fruns");
  await page.getByLabel("E-mail").fill("you@muster.localhost");
  await page.getByRole("button", { name: "Send sign-in link" }).click();
  await expect(page.getByText("If you@muster.localhost is known here, a link stands in")).toBeVisible();
  const log = await readFile(join(installation.stateDir, "logs", "api.log"), "utf8");
  const link = [...log.matchAll(/https?:\/\/[^\s"]+[?&]token=[^\s"]+/g)].at(-1)?.[0] ?? "";
  await signIn(page, link);
  await expect(page.getByRole("button", { name: /^Account: / })).toBeVisible();
  await first.close();

  const second = await browser.newContext({ storageState: nobody });
  const stranger = await second.newPage();
  await stranger.goto(link);
  await stranger.waitForURL("**/sign-in**");
  await expect(stranger.getByRole("button", { name: "Send sign-in link" })).toBeVisible();
  await second.close();
});
