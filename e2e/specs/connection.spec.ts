import { killHard } from "../processes.ts";
import { expect, test } from "./fixtures.ts";

test("the connection chip says when the coordinator is away and when it is back", async ({
  page,
  installation,
  finished,
}) => {
  await page.goto(`/runs/${finished.id}`);
  const chip = page.getByRole("button", { name: /^Connection: / });
  await expect(chip).toHaveAccessibleName(/Connection: Live/);

  const api = (await installation.children()).find(({ name }) => name === "api");
  killHard(api?.pid ?? 0);
  await expect(chip).toHaveAccessibleName(/Connection: (Reconnecting|Offline)/);
  await expect(page.getByText("This page shows what it last knew")).toBeVisible();

  // The supervisor starts it again; nobody touches the page.
  await expect(chip).toHaveAccessibleName(/Connection: Live/, { timeout: 60_000 });
  await expect(page.getByText("This page shows what it last knew")).toBeHidden();
});
