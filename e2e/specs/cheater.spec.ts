import type { Group } from "@muster/sdk";
import { expect, test } from "./fixtures.ts";

test("every group of a cheater is rejected, none of an honest worker, and the policy still learns", async ({
  installation,
  finished,
}) => {
  const { runs } = installation.client;
  const groups: Group[] = [];
  for await (const group of runs.groups({ run: finished.id })) groups.push(group);
  const isCheater = (group: Group) => group.node.name.includes("cheater");

  // It begins with version 1: before, there is no older policy to use.
  const forged = groups.filter((group) => isCheater(group) && group.policyVersion >= 1);
  expect(forged.length).toBeGreaterThan(0);
  expect(forged.map(({ state }) => state)).toEqual(forged.map(() => "REJECTED"));
  const honest = groups.filter((group) => !isCheater(group));
  expect(honest.filter(({ state }) => state === "REJECTED" || state === "INVALID")).toEqual([]);

  const workers = [];
  for await (const worker of runs.workers({ run: finished.id })) workers.push(worker);
  const cheater = workers.find(({ node }) => node.name.includes("cheater"));
  expect(cheater?.trust).toBe("QUARANTINED");

  const [base, last] = (await runs.evaluations({ run: finished.id })).toSorted(
    (a, b) => a.version - b.version,
  );
  expect(base?.version).toBe(0);
  expect(last?.gainLow ?? 0).toBeGreaterThan(0);
});

test("the page of a rejected rollout says why in plain words", async ({ page, finished }) => {
  await page.goto(`/runs/${finished.id}?tab=rollouts&f.state=REJECTED`);
  const table = page.getByRole("grid", { name: "Rollouts" });
  await expect(table.getByRole("row").nth(1)).toContainText("cheater");
  await table
    .getByRole("link", { name: /^Rollout rollout_/ })
    .first()
    .click();
  await page.waitForURL(/\/rollouts\/rollout_/);

  await expect(page.getByText("A check failed: it is neither paid nor trained on.")).toBeVisible();
  const failed = page.getByRole("listitem", { name: /: Failed$/ }).first();
  await expect(failed).toBeVisible();
  await expect(failed.getByRole("paragraph").nth(1)).toContainText(/\w+ \w+ \w+/);
  await expect(failed).toContainText("Observed");
  await expect(failed).toContainText("Threshold");
});
