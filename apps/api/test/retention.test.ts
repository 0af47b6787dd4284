import { toTypeId } from "@muster/protocol";
import { expect, test } from "vitest";
import { collectGarbage } from "../src/blobs/gc.ts";
import { dropFingerprints, dropMeasurements } from "../src/verification/retention.ts";
import { generate, luck, measure, startWatching, watchedRun } from "./watchkit.ts";

const { server, packs } = await startWatching();

const daysAgo = (days: number) => new Date(Date.now() - days * 86_400_000);

test("what was measured of a group goes a week after it is final, unless it has a case or its version is still served", async () => {
  const run = await watchedRun(server);
  const [old = "", young = ""] = await generate(server, run, packs);
  const [accused = ""] = await generate(server, run, packs, { luck });
  await measure(server, run, packs, run.validator);
  const finalSince = (id: string, days: number) =>
    server.prisma.group.update({ where: { id }, data: { finalAt: daysAgo(days) } });
  const kept = async () => {
    const found = [];
    for (const id of [old, young, accused]) {
      const { blindHash, verifications } = await server.prisma.group.findUniqueOrThrow({
        where: { id },
        include: { verifications: true },
      });
      const hashes = [blindHash ?? "", ...verifications.map(({ measurementHash }) => measurementHash)];
      found.push([
        await server.prisma.packReference.count({ where: { sha256: { in: hashes } } }),
        (await server.prisma.windowFingerprint.count({ where: { groupId: id } })) > 0,
      ]);
    }
    return found;
  };
  const drop = async () => [await dropMeasurements(server.ctx()), (await dropFingerprints(server.ctx())) > 0];
  await finalSince(old, 8);
  await finalSince(accused, 8);
  expect(await drop()).toEqual([0, false]);
  await server.prisma.checkpoint.updateMany({ where: { runId: run.id }, data: { state: "RETIRED" } });
  expect(await drop()).toEqual([2, true]);
  // The accused one's blind pack is named by the task of its re-execution, too.
  expect(await kept()).toEqual([
    [0, false],
    [2, true],
    [3, true],
  ]);
  await finalSince(young, 6);
  expect(await drop()).toEqual([0, false]);

  const evidence = async (id: string) => {
    const { headers } = run.organization.owner;
    return fetch(`${server.url}/evidence/${toTypeId("group", id)}`, { headers });
  };
  await collectGarbage({ ...server.ctx(), config: { ...server.config, blobGraceSeconds: 0 } });
  expect([(await evidence(young)).status, (await evidence(accused)).status]).toEqual([200, 200]);
  expect(await (await evidence(old)).json()).toMatchObject({
    error: { code: "BLOB_NOT_FOUND", message: expect.stringContaining("has expired") },
  });
});

test("of a run that has ended it goes whatever the version", async () => {
  const run = await watchedRun(server);
  const groups = await generate(server, run, packs);
  await measure(server, run, packs, run.validator);
  await server.prisma.group.updateMany({ where: { runId: run.id }, data: { finalAt: daysAgo(8) } });
  await server.prisma.run.update({ where: { id: run.id }, data: { endedAt: daysAgo(8) } });
  expect(await dropMeasurements(server.ctx())).toBe(2 * groups.length);
});
