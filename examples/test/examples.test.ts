import { spawn } from "node:child_process";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { fileURLToPath } from "node:url";
import { expect, test, vi } from "vitest";

// each starts programs, on a machine that may be busy
vi.setConfig({ testTimeout: 30_000 });

const rollout = (id: string, reward: number) => ({
  id,
  index: 0,
  preview: "124568",
  tokens: 7,
  finishReason: "eos",
  reward,
  rewardParts: {},
  advantage: 0.5,
});
const group = (id: string, rollouts: unknown[]) => ({
  node: { id, index: 0, prompt: "528140=", policyVersion: 3, step: 4, state: "ACCEPTED", rollouts },
});

test("export-rollouts writes every accepted rollout of every page that is good enough", async () => {
  const asked: { after: string | null; state: string; key: string | undefined }[] = [];
  const server = createServer(async (request, response) => {
    let body = "";
    for await (const chunk of request) body += chunk;
    const { after, state } = JSON.parse(body).variables;
    asked.push({ after, state, key: request.headers["x-api-key"]?.toString() });
    const edges =
      after === null
        ? [group("group_a", [rollout("rollout_1", 1), rollout("rollout_2", 0)])]
        : [group("group_b", [rollout("rollout_3", 1)])];
    const pageInfo = { hasNextPage: after === null, endCursor: "x" };
    response.setHeader("content-type", "application/json");
    response.end(JSON.stringify({ data: { run: { id: "run_x", groups: { edges, pageInfo } } } }));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  const { lines, code } = await runExample("export-rollouts.ts", ["run_x", "0.5"], {
    MUSTER_URL: `http://127.0.0.1:${port}`,
    MUSTER_API_KEY: "key",
  });
  server.close();
  expect(code).toBe(0);
  expect(lines.map((line) => JSON.parse(line).id)).toEqual(["rollout_1", "rollout_3"]);
  expect(JSON.parse(lines[0] ?? "")).toEqual({
    id: "rollout_1",
    group: "group_a",
    policyVersion: 3,
    step: 4,
    prompt: "528140=",
    completion: "124568",
    finishReason: "eos",
    reward: 1,
    advantage: 0.5,
  });
  expect(asked).toEqual([
    { after: null, state: "ACCEPTED", key: "key" },
    { after: "x", state: "ACCEPTED", key: "key" },
  ]);
});

test("without a key, and refused, the examples say so in a sentence and without a stack", async () => {
  const unknown = createServer((_request, response) => {
    response.setHeader("content-type", "application/json");
    response.end(JSON.stringify({ data: { run: null } }));
  });
  await new Promise<void>((resolve) => unknown.listen(0, "127.0.0.1", resolve));
  const { port } = unknown.address() as AddressInfo;
  const MUSTER_URL = `http://127.0.0.1:${port}`;
  for (const file of ["watch-run.ts", "export-rollouts.ts"]) {
    const keyless = await runExample(file, ["a-run"], { MUSTER_URL, MUSTER_API_KEY: "" });
    expect([keyless.code, keyless.said]).toEqual([2, expect.stringContaining("Set MUSTER_API_KEY")]);
    const refused = await runExample(file, ["a-run"], { MUSTER_URL, MUSTER_API_KEY: "key" });
    expect([refused.code, refused.said]).toEqual([1, expect.stringContaining("a-run")]);
    expect(refused.said).not.toMatch(/\n\s+at /);
  }
  unknown.close();
});

test("called without a run, the examples say how to call them", async () => {
  for (const file of ["watch-run.ts", "export-rollouts.ts"]) {
    expect(await runExample(file, [], {})).toMatchObject({ code: 2, lines: [] });
  }
});

function runExample(
  file: string,
  args: string[],
  env: Record<string, string>,
): Promise<{ lines: string[]; said: string; code: number | null }> {
  return new Promise((resolve) => {
    const path = fileURLToPath(new URL(`../${file}`, import.meta.url));
    const child = spawn(process.execPath, [path, ...args], { env: { ...process.env, ...env } });
    let out = "";
    child.stdout.on("data", (chunk) => {
      out += chunk;
    });
    let said = "";
    child.stderr.on("data", (chunk) => {
      said += chunk;
    });
    child.on("close", (code) => resolve({ lines: out.split("\n").filter(Boolean), said, code }));
  });
}
