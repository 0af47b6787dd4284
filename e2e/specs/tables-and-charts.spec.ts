import type { Locator, Page } from "@playwright/test";
import { expect, test } from "./fixtures.ts";

test("a table is read, looked into and left by keys alone, and the address says what is shown", async ({
  page,
  finished,
}) => {
  await page.goto(`/runs/${finished.id}?tab=rollouts`);
  const grid = page.getByRole("grid", { name: "Rollouts" });
  await expect(grid.getByRole("row").nth(1)).toBeVisible();
  // The first press takes the focus to the table, the next ones move it.
  await page.keyboard.press("j");
  await expect(grid.getByRole("row").nth(1).getByRole("gridcell").first()).toBeFocused();
  await page.keyboard.press("j");
  await page.keyboard.press("ArrowRight");
  await expect(grid.getByRole("row").nth(2).getByRole("gridcell").nth(1)).toBeFocused();

  await page.keyboard.press("Space");
  const look = page.getByRole("complementary", { name: /^Look into Rollout / });
  await expect(look.getByRole("region", { name: "Prompt" })).toBeVisible();
  const second = selected(page);
  await page.keyboard.press("j");
  await expect.poll(() => selected(page)).not.toBe(second);
  await page.keyboard.press("Escape");
  await expect(look).toBeHidden();
  expect(selected(page)).toBeNull();
});

test("columns and their order are in the address", async ({ page, finished }) => {
  await page.goto(`/runs/${finished.id}?tab=workers`);
  const grid = page.getByRole("grid", { name: "Workers" });
  await grid.getByRole("columnheader", { name: "Accepted" }).click();
  await expect(grid.getByRole("columnheader", { name: "Accepted" })).toHaveAttribute(
    "aria-sort",
    "descending",
  );
  await grid.getByRole("columnheader", { name: "Name" }).click({ modifiers: ["Shift"] });
  await page.getByRole("button", { name: "Columns of workers" }).click();
  await page.getByRole("checkbox", { name: "Roles" }).click();
  await expect(grid.getByRole("columnheader", { name: "Roles" })).toBeHidden();
  await expect.poll(() => parameter(page, "sort")).toBe("-accepted,name");

  // Whoever gets the link sees the same.
  await page.goto(page.url());
  await expect(grid.getByRole("columnheader", { name: "Accepted" })).toHaveAttribute(
    "aria-sort",
    "descending",
  );
  await expect(grid.getByRole("columnheader", { name: "Roles" })).toBeHidden();
});

test("zooming into a curve is a step that can be taken back, by pointer and by key", async ({
  page,
  finished,
}) => {
  await page.goto(`/runs/${finished.id}`);
  const chart = page.getByRole("application", { name: /^Reward\./ });
  await expect(chart.locator(".u-over")).toBeVisible();
  await drag(page, chart.locator(".u-over"), 0.2, 0.8);
  await expect.poll(() => parameter(page, "range")).not.toBeNull();
  const first = parameter(page, "range");
  await drag(page, chart.locator(".u-over"), 0.3, 0.7);
  await expect.poll(() => parameter(page, "range")).not.toBe(first);
  await chart.focus();
  await page.keyboard.press("Backspace");
  await expect.poll(() => parameter(page, "range")).toBe(first);
  await page.keyboard.press("0");
  await expect.poll(() => parameter(page, "range")).toBeNull();
  await page.keyboard.press("l");
  await expect.poll(() => parameter(page, "log")).toBe("y");
  await page.keyboard.press("Home");
  await expect(chart).toHaveAccessibleDescription(/^step 1: Reward 0\.\d{3}$/);
});

test("single keys can be switched off, and the palette finds a run by its id without them", async ({
  page,
  finished,
}) => {
  await page.goto(`/runs/${finished.id}`);
  await expect(page.getByRole("tab", { name: "Workers" })).toBeVisible();
  await page.keyboard.press("4");
  await expect(page.getByRole("tab", { name: "Workers" })).toHaveAttribute("aria-selected", "true");
  await page.keyboard.press("?");
  await page.getByRole("checkbox", { name: /^Single-key shortcuts/ }).click();
  await page.keyboard.press("Escape");
  await expect(page.getByRole("dialog")).toBeHidden();
  await page.keyboard.press("2");
  await page.keyboard.press("Control+k");
  await page.getByRole("combobox").fill(finished.id);
  await expect(page.getByRole("option", { name: /^Open run/ })).toBeVisible();
  await page.keyboard.press("Escape");
  await expect(page.getByRole("tab", { name: "Workers" })).toHaveAttribute("aria-selected", "true");
});

function parameter(page: Page, name: string): string | null {
  return new URL(page.url()).searchParams.get(name);
}

function selected(page: Page): string | null {
  return parameter(page, "sel");
}

async function drag(page: Page, over: Locator, from: number, to: number): Promise<void> {
  const box = await over.boundingBox();
  if (box === null) throw new Error("The chart is not drawn.");
  await page.mouse.move(box.x + box.width * from, box.y + box.height / 2);
  await page.mouse.down();
  await page.mouse.move(box.x + box.width * to, box.y + box.height / 2, { steps: 5 });
  await page.mouse.up();
}
