import { expect, test } from "./fixtures.ts";

test("a rollout shows its prompt, output, reward and every check with its numbers", async ({
  page,
  installation,
  finished,
}) => {
  await page.goto(`/runs/${finished.id}?tab=rollouts&f.state=ACCEPTED`);
  const table = page.getByRole("grid", { name: "Rollouts" });
  await expect(table.getByRole("row").nth(1)).toContainText("Accepted");
  await expect(table.getByRole("link", { name: /^Rollout rollout_/ }).first()).toBeVisible();

  // Once nodes are trusted, few of the newest were measured.
  let measured: string | undefined;
  for await (const group of installation.client.runs.groups({ run: finished.id, state: "ACCEPTED" })) {
    if (group.acceptance === "AUDITED") {
      measured = group.rollouts[0]?.id;
      break;
    }
  }
  await page.goto(`/runs/${finished.id}/rollouts/${measured}`);

  await expect(page.getByRole("region", { name: "Prompt" })).toContainText(/^Prompt.*\d+=/s);
  await expect(page.getByRole("region", { name: "Output", exact: true })).toBeVisible();
  const checks = page.getByRole("article", { name: /^Verification verif_/ });
  for (const title of ["Activations", "Decoys", "Sampling", "Log-probabilities", "Reward"]) {
    const check = checks.getByRole("listitem", { name: `${title}: Passed` });
    await expect(check).toBeVisible();
    for (const number of ["Observed", "Expected", "Threshold"])
      await expect(check.getByRole("term").filter({ hasText: number })).toBeVisible();
    await expect(check).toContainText("What it cannot catch.");
  }
});
