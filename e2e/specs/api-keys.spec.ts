import { createClient } from "@muster/sdk";
import { expect, test } from "./fixtures.ts";

test("a key made in the settings works within its rights until it is revoked", async ({
  page,
  installation,
}) => {
  await page.goto("/settings");
  await page.getByLabel("Name", { exact: true }).fill("notebook");
  await page.getByRole("button", { name: "Make key" }).click();
  const key = await page
    .getByRole("status")
    .getByText(/^muster_/)
    .innerText();
  await expect(page.getByRole("row", { name: /notebook/ })).toContainText("run:read");

  await using client = createClient({ url: installation.url, apiKey: key });
  expect(await client.me()).toMatchObject({ kind: "API_KEY", scopes: ["run:read"] });
  await page.reload();
  await expect(page.getByRole("row", { name: /notebook/ })).toBeVisible();
  await expect(page.getByText(key)).toBeHidden();

  await page.getByRole("button", { name: "Revoke notebook" }).click();
  await page.getByRole("button", { name: "Revoke key" }).click();
  await expect(page.getByRole("row", { name: /notebook/ })).toBeHidden();
  await expect
    .poll(
      () =>
        client.me().then(
          () => "known",
          (error) => error.code,
        ),
      { timeout: 15_000 },
    )
    .toBe("UNAUTHENTICATED");
});
