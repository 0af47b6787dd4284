import { mkdir, readFile, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type Exit, type Terminal, type VerifyOptions, verifyFile } from "../src/index.ts";
import { type Bundle, editToken, groupId, makeBundle } from "./evidence.ts";
import { muster, type TestFolder, testFolder } from "./muster.ts";

let folder: TestFolder;
let honest: Bundle;
beforeAll(async () => {
  folder = await testFolder();
  honest = await makeBundle();
});
afterAll(() => folder?.[Symbol.asyncDispose]());

// biome-ignore lint/suspicious/noExplicitAny: what --json prints, read member by member
type Told = { exit: Exit; said: string; value: any };

/** The command in this process; what it would print. */
async function verify(bytes: Uint8Array, options: Partial<VerifyOptions> = {}): Promise<Told> {
  const file = join(folder.path, "one.evidence");
  await writeFile(file, bytes);
  const said: string[] = [];
  let value: unknown;
  const terminal: Terminal = {
    json: false,
    say: (text) => said.push(text),
    value: (given) => {
      value = JSON.parse(JSON.stringify(given));
    },
    note() {},
    status() {},
    outlive() {},
  };
  const exit = await verifyFile(
    file,
    {
      checkpoint: undefined,
      coordinatorKey: undefined,
      save: undefined,
      measure: true,
      providers: ["cpu"],
      ...options,
    },
    terminal,
  );
  return { exit, said: said.join("\n"), value };
}

test("an honest bundle agrees, measured again here", async () => {
  const { exit, said } = await verify(honest.bytes, { coordinatorKey: honest.coordinator });
  expect(said).toMatch(
    new RegExp(
      `\\nAgrees: ${groupId} is recorded as ACCEPTED; judged again .*measured here on cpu, make it ACCEPTED\\.$`,
    ),
  );
  for (const check of ["form", "activations", "decoys", "sampling", "log-probabilities", "reward"])
    expect(said).toMatch(new RegExp(`^${check} +PASS +PASS +PASS `, "m"));
  expect(said).toMatch(
    /^activations +PASS +PASS +PASS +outliers +0 +0 +0 +4\n +meanUlp +\d\S* +\d\S* +0 +64$/m,
  );
  expect(exit).toBe("ok");
});

test("a worker's lie that was rejected agrees, whatever measures it here", async () => {
  const rejected = await makeBundle({ tamper: editToken });
  const { exit, value } = await verify(rejected.bytes, { providers: ["wasm"] });
  expect(value).toMatchObject({
    group: groupId,
    recorded: "REJECTED",
    stored: "REJECTED",
    measured: "REJECTED",
    provider: "wasm",
    agrees: true,
    differences: [],
  });
  const sampling = value.checks.find(({ id }: { id: string }) => id === "sampling");
  expect(sampling.measured.verdict).toBe("FAIL");
  expect(sampling.measured.observed.margin).toBeCloseTo(sampling.recorded.observed.margin, 4);
  expect(exit).toBe("ok");
});

test("a verdict that does not follow from the measurement does not agree", async () => {
  const bundle = await makeBundle({
    tamper: editToken,
    lie: (judged) => ({
      ...judged,
      verdict: "ACCEPTED",
      checks: judged.checks.map((check) => ({ ...check, verdict: "PASS" })),
    }),
  });
  const { exit, said } = await verify(bundle.bytes, { measure: false });
  expect(said).toContain("✗ Recorded as ACCEPTED; it is REJECTED.");
  expect(said).toMatch(/Does not agree: .* is recorded as ACCEPTED\. \d+ things differ\.$/);
  expect(exit).toBe("failed");
});

test("a measurement that nobody made agrees with itself and not with the tokens", async () => {
  // What the worker claims, in place of a measurement.
  const bundle = await makeBundle({
    tamper: editToken,
    forge: (measurement) => ({
      ...measurement,
      rollouts: measurement.rollouts.map((rollout) => ({
        ...rollout,
        logprobs: rollout.logprobs.map((value) => value + 0.5),
      })),
    }),
  });
  expect((await verify(bundle.bytes, { measure: false })).exit).toBe("ok");
  const { exit, said } = await verify(bundle.bytes);
  expect(said).toContain("✗ Measured here: The measurements disagree. ");
  expect(exit).toBe("failed");
});

test("a bundle without a checkpoint takes it from a folder, whose files must be the manifest's", async () => {
  const bundle = await makeBundle({ checkpoint: false });
  await expect(verify(bundle.bytes)).rejects.toMatchObject({ code: "NO_CHECKPOINT" });

  const place = join(folder.path, "checkpoint");
  await mkdir(place);
  await writeFile(join(place, "config.json"), bundle.files.config);
  await writeFile(join(place, "model.safetensors"), bundle.files.model);
  for (const checkpoint of [place, join(place, "model.safetensors")])
    expect((await verify(bundle.bytes, { checkpoint })).exit).toBe("ok");

  const { model } = bundle.files;
  await writeFile(join(place, "model.safetensors"), model.with(model.length - 1, 7));
  await expect(verify(bundle.bytes, { checkpoint: place })).rejects.toMatchObject({ code: "WRONG_FILE" });
  await expect(verify(bundle.bytes, { checkpoint: join(place, "none") })).rejects.toMatchObject({
    code: "FILE_UNREADABLE",
  });
});

test.for([
  ["nothing", () => new Uint8Array(), "TRUNCATED"],
  ["something else", () => new TextEncoder().encode("not evidence at all"), "WRONG_MAGIC"],
  ["half of it", (bytes: Uint8Array) => bytes.subarray(0, bytes.length >> 1), "TRUNCATED"],
  ["one byte changed", (bytes: Uint8Array) => bytes.with(bytes.length - 100, 7), "WRONG_PART"],
] as const)("%s is refused by its code", async ([, change, code]) => {
  await expect(verify(change(honest.bytes))).rejects.toMatchObject({ code });
});

test("a bundle signed by another coordinator is refused", async () => {
  await expect(verify(honest.bytes, { coordinatorKey: "ab".repeat(32) })).rejects.toMatchObject({
    code: "WRONG_COORDINATOR",
  });
});

test("the command ends with 1 and says the code when a bundle is broken", async () => {
  const file = join(folder.path, "broken.evidence");
  await writeFile(file, honest.bytes.subarray(0, 1000));
  const { status, stdout, stderr } = await muster(["verify", file, "--json"]);
  expect(JSON.parse(stderr).error).toMatchObject({ code: "TRUNCATED", exitCode: 1 });
  expect({ status, stdout }).toEqual({ status: 1, stdout: "" });
});

test("with an id the bundle and the key come from the coordinator, and are kept when asked", async () => {
  const asked: string[] = [];
  const server = createServer((request, response) => {
    asked.push(`${request.method} ${request.url} ${request.headers["x-api-key"]}`);
    if (request.url === `/evidence/${groupId}`) return response.end(honest.bytes);
    response.setHeader("content-type", "application/json");
    response.end(JSON.stringify({ data: { coordinator: { publicKey: honest.coordinator } } }));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  try {
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    const kept = join(folder.path, "kept.evidence");
    const { status } = await muster([
      ...["verify", groupId, "--save", kept],
      ...["--url", url, "--api-key", "mk_test"],
    ]);
    expect(status).toBe(0);
    expect(asked).toEqual(["POST /graphql mk_test", `GET /evidence/${groupId} mk_test`]);
    expect(Buffer.from(honest.bytes).equals(await readFile(kept))).toBe(true);
  } finally {
    server.close();
  }
});

test("what is to be verified is said once", async () => {
  for (const args of [[], [groupId, "--run", "a-run"]]) {
    const { status, stderr } = await muster(["verify", ...args]);
    expect(stderr).toContain("Say what to verify");
    expect(status).toBe(2);
  }
});
