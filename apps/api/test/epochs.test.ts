import { afterAll, beforeAll, expect, test } from "vitest";
import { epochLoop } from "../src/verification/audit.ts";
import { startRun } from "./runkit.ts";
import { startTestServer, type TestServer } from "./testkit.ts";

let server: TestServer;
beforeAll(async () => {
  server = await startTestServer({ loops: [] });
});
afterAll(() => server.stop());

const turn = () => epochLoop.run(server.ctx(), { topics: new Set(), signal: new AbortController().signal });
const ago = (hours: number) => new Date(Date.now() - hours * 3_600_000);
const epochsOf = (runId: string) =>
  server.prisma.auditEpoch.findMany({ where: { runId }, orderBy: { number: "asc" } });

test("a run that slept for days goes on with one epoch from now, not with one for each day", async () => {
  const run = await startRun(server);
  await server.prisma.auditEpoch.updateMany({
    where: { runId: run.id },
    data: { openedAt: ago(240), closedAt: ago(216) },
  });
  await turn();
  const [, next] = await epochsOf(run.id);
  expect(next?.openedAt.getTime()).toBeGreaterThan(ago(0.1).getTime());
  await turn();
  expect(await epochsOf(run.id)).toHaveLength(2);
});

test("a key is revealed no sooner than ten minutes after its epoch, when what was read with it is stored", async () => {
  const run = await startRun(server);
  const close = (minutes: number) =>
    server.prisma.auditEpoch.updateMany({
      where: { runId: run.id, number: 1 },
      data: { closedAt: ago(minutes / 60) },
    });
  const revealed = async () => (await epochsOf(run.id))[0]?.revealedAt ?? null;
  await close(9);
  await turn();
  expect(await revealed()).toBeNull();
  await close(11);
  await turn();
  expect(await revealed()).not.toBeNull();
});
