import { afterAll, beforeAll, expect, test } from "vitest";
import { cancelRun } from "../src/runs/lifecycle.ts";
import { specOf } from "../src/runs/spec.ts";
import { startRun } from "./runkit.ts";
import { startTestServer, type TestServer } from "./testkit.ts";

let server: TestServer;
beforeAll(async () => {
  server = await startTestServer();
});
afterAll(() => server.stop());

const record = `mutation($input: RecordCalibrationInput!) { recordCalibration(input: $input) {
  ... on RunCreated { run { revision { number spec } calibrations { revision thresholds evidence } } }
  ... on SpecInvalid { issues { path } } } }`;
const evidence = { windows: 100_000, falseRejections: 0 };

test("calibrated thresholds come into force as a revision, and their evidence is kept", async () => {
  const run = await startRun(server, { verification: { thresholds: { outliers: 5 } } });
  const thresholds = { meanUlp: 30, margin: 0.004 };
  const { recordCalibration: answer } = await server.ask<{ recordCalibration: { run: unknown } }>(
    record,
    { input: { run: run.typeId, thresholds, evidence } },
    run.organization.owner,
  );
  const expected = { ...run.spec.verification.thresholds, ...thresholds };
  expect(expected.outliers).toBe(5);
  expect(answer.run).toMatchObject({
    revision: { number: 2, spec: { verification: { thresholds: expected } } },
    calibrations: [{ revision: 2, thresholds, evidence }],
  });
  expect((await specOf(server.prisma, run.id, 2)).verification.thresholds).toEqual(expected);
  // What was opened before keeps its revision.
  expect((await specOf(server.prisma, run.id, 1)).verification.thresholds.meanUlp).toBe(64);
  const tasks = await server.prisma.task.findMany({ where: { runId: run.id } });
  expect(tasks.map(({ revision }) => revision)).toEqual([1]);
});

test("a threshold that no run may have is a typed answer, and nothing is kept", async () => {
  const run = await startRun(server);
  const input = { run: run.typeId, thresholds: { decoys: 129, shoeSize: 44 }, evidence };
  const { recordCalibration: answer } = await server.ask<{
    recordCalibration: { issues: { path: string }[] };
  }>(record, { input }, run.organization.owner);
  expect(answer.issues.map(({ path }) => path)).toEqual(
    expect.arrayContaining(["verification.thresholds.decoys"]),
  );
  expect(await server.prisma.calibration.count({ where: { runId: run.id } })).toBe(0);
  expect(await server.prisma.runRevision.count({ where: { runId: run.id } })).toBe(1);
});

test("who may not steer the run, and what is no calibration, are refused", async () => {
  const run = await startRun(server);
  const stranger = await server.organization();
  const codeOf = async (input: Record<string, unknown>, caller = run.organization.owner) =>
    (await server.graphql(record, { input: { run: run.typeId, ...input } }, caller)).errors?.[0]?.extensions
      .code;
  const thresholds = { meanUlp: 30 };
  expect(await codeOf({ thresholds, evidence }, stranger.owner)).toBe("NOT_FOUND");
  expect(await codeOf({ thresholds: {}, evidence })).toBe("INPUT_INVALID");
  expect(await codeOf({ thresholds: [30], evidence })).toBe("INPUT_INVALID");
  expect(await codeOf({ thresholds, evidence: "trust me" })).toBe("INPUT_INVALID");
  expect(await codeOf({ thresholds, evidence: { text: "\u0000" } })).toBe("INPUT_INVALID");
  expect(await codeOf({ thresholds, evidence: { text: "x".repeat(1_000_001) } })).toBe("INPUT_INVALID");
  await cancelRun(server.ctx(run.organization.owner), { runId: run.id });
  expect(await codeOf({ thresholds, evidence })).toBe("STATE_CONFLICT");
});
