import { createClient } from "@muster/sdk";
import type { Locator, Page } from "@playwright/test";
import { expect, test } from "./fixtures.ts";

const steps = 8;

test("a run made in the form is worked on, and its curve rises without a reload", async ({
  page,
  installation,
}) => {
  await page.goto("/runs/new");
  await page.getByLabel("Name", { exact: true }).fill("Made by hand");
  await part(page, "Limits").getByLabel("Steps", { exact: true }).fill(String(steps));
  await expect(page.getByText("The spec is valid.")).toBeVisible();
  const evaluation = part(page, "Evaluation");
  await evaluation.getByRole("heading", { name: "Evaluation" }).click();
  // What was left empty follows the steps.
  const versions = evaluation.getByLabel("Versions", { exact: true });
  await expect(versions).toHaveAttribute("placeholder", `0, ${steps}`);
  // What does not fit is said at once, by the name the form gives it.
  await versions.fill(`0, ${steps + 1}`);
  await expect(page.getByRole("alert").filter({ hasText: "Evaluation › Versions, entry 2" })).toBeVisible();
  await versions.fill("");
  await evaluation.getByLabel("Examples", { exact: true }).fill("128");
  await expect(page.getByText("The spec is valid.")).toBeVisible();
  await page.getByRole("button", { name: "Create run" }).click();
  await page.waitForURL(/\/runs\/run_/);
  await expect(page.getByRole("heading", { name: "Made by hand", level: 1 })).toBeVisible();
  const run = page.url().split("/runs/")[1] ?? "";

  // A page that is loaded anew loses this.
  await page.evaluate(() => Object.assign(window, { sameDocument: true }));
  const events = await eventsOf({ ...installation, run });

  await page.getByRole("tab", { name: "Workers" }).click();
  const workers = page.getByRole("grid", { name: "Workers" });
  await expect(workers.getByRole("row").filter({ hasText: "worker" }).first()).toContainText("Active", {
    timeout: 60_000,
  });

  await page.getByRole("tab", { name: "Training" }).click();
  await expect(page.getByRole("application", { name: /^Reward\./ })).toBeVisible({ timeout: 60_000 });
  await page.getByRole("button", { name: "View Reward as a table" }).click();
  await expect.poll(() => rewards(page), { timeout: 60_000 }).toHaveLength(steps);
  const curve = await rewards(page);
  expect(mean(curve.slice(-3))).toBeGreaterThan(mean(curve.slice(0, 3)) + 0.05);

  await expect(page.getByRole("row", { name: /^Paid to nodes/ }).getByRole("cell")).not.toHaveText("0");

  await expect(page.getByText("Completed", { exact: true }).first()).toBeVisible();
  await expect(
    page
      .getByRole("table", { name: "Evaluations" })
      .getByRole("row")
      .filter({ hasText: `v${steps}` }),
  ).toContainText("128", { timeout: 30_000 });
  expect(await page.evaluate(() => "sameDocument" in window)).toBe(true);

  // The other coordinator, where there is one, told the same story in the same order.
  expect(await events.stepsTold(steps)).toEqual(Array.from({ length: steps }, (_, i) => i + 1));
});

/** A part of the form, by its heading. */
function part(page: Page, name: string): Locator {
  return page.getByRole("group").filter({ has: page.getByRole("heading", { name, level: 2 }) });
}

/** The reward of each step as the chart's table shows it, oldest first. */
async function rewards(page: Page): Promise<number[]> {
  const rows = await page.getByRole("table", { name: "Reward by step" }).getByRole("row").allInnerTexts();
  return rows
    .map((row) => row.split(/\s+/).map(Number))
    .filter((cells) => cells.length >= 2 && cells.every((cell) => !Number.isNaN(cell)))
    .map(([, reward]) => reward ?? 0)
    .toReversed();
}

/** Follows the run's events at the coordinator that the browser does not speak to. */
async function eventsOf(input: { urls: readonly string[]; apiKey: string; run: string }) {
  const client = createClient({ url: input.urls.at(-1) ?? "", apiKey: input.apiKey });
  const done = new AbortController();
  const told: number[] = [];
  const following = (async () => {
    for await (const batch of client.events.stream({ stream: input.run, signal: done.signal })) {
      for (const event of batch.events) {
        const { step } = event.data as { step?: number };
        if (event.type === "step.trained" && step !== undefined) told.push(step);
      }
    }
  })();
  return {
    async stepsTold(count: number): Promise<number[]> {
      await expect.poll(() => told.length, { timeout: 10_000 }).toBeGreaterThanOrEqual(count);
      done.abort();
      await following.catch(() => {});
      await client.close();
      return told;
    },
  };
}

function mean(numbers: readonly number[]): number {
  return numbers.reduce((sum, value) => sum + value, 0) / numbers.length;
}
