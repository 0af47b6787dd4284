import { demoRunSpec, type RunSpec } from "@muster/protocol";
import type { Run } from "@muster/sdk";
import { type Browser, test as base, type Page } from "@playwright/test";
import { createRun, type Installation, startInstallation, until } from "../installation.ts";

/** What a project of the configuration may choose. */
export type InstallationChoice = { apiProcesses: number };

type WorkerFixtures = InstallationChoice & {
  /** A whole Muster with two honest workers, a cheater and the dashboard. */
  installation: Installation & { dashboardUrl: string };
  /** Cookies of a person who has signed in by the link that `muster up` printed. */
  session: Awaited<ReturnType<Awaited<ReturnType<Browser["newContext"]>>["storageState"]>>;
  /** A short run that has ended: trained, evaluated, with accepted and rejected groups. */
  finished: Run;
};

/** Tests with an installation of their own; `page` is signed in. */
export const test = base.extend<object, WorkerFixtures>({
  apiProcesses: [1, { option: true, scope: "worker" }],
  installation: [
    async ({ apiProcesses }, use) => {
      const installation = await startInstallation({
        name: "e2e",
        dashboard: true,
        cheaters: 1,
        apiProcesses,
      });
      try {
        const { dashboardUrl } = installation;
        if (dashboardUrl === undefined) throw new Error("`muster up` runs no dashboard.");
        await use({ ...installation, dashboardUrl });
      } finally {
        await installation.stop();
      }
    },
    { scope: "worker", timeout: 180_000 },
  ],
  session: [
    async ({ browser, installation }, use) => {
      const context = await browser.newContext();
      const page = await context.newPage();
      await signIn(page, installation.signInUrl ?? "");
      const state = await context.storageState();
      await context.close();
      await use(state);
    },
    { scope: "worker" },
  ],
  finished: [
    async ({ installation }, use) => {
      const run = await createRun(installation, shortSpec({ steps: 10, name: "A cheater among them" }));
      await use(await runEnded(installation, run.id));
    },
    { scope: "worker", timeout: 180_000 },
  ],
  baseURL: async ({ installation }, use) => use(installation.dashboardUrl),
  storageState: async ({ session }, use) => use(session),
});

export { expect } from "@playwright/test";

/** The demo's run with fewer steps. */
export function shortSpec({ steps, name }: { steps: number; name: string }): RunSpec {
  const demo = demoRunSpec({ steps, name });
  return { ...demo, evaluation: { ...demo.evaluation, examples: 256 } };
}

/** Waits for a run's end and its last evaluation. */
export async function runEnded({ client }: Installation, id: string): Promise<Run> {
  return until("end of the run", 150, async () => {
    const run = await client.runs.get({ id });
    if (run.state === "PAUSED" || run.state === "FAILED")
      throw new Error(`The run is ${run.state}: ${run.stateReason}`);
    const evaluations = await client.runs.evaluations({ run: id });
    const evaluated = evaluations.some(({ version }) => version > 0 && version === run.currentVersion);
    return run.state === "COMPLETED" && evaluated ? run : undefined;
  });
}

export async function signIn(page: Page, link: string): Promise<void> {
  await page.goto(link);
  await page.waitForURL("**/runs");
}
