import { writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { demoRunSpec } from "@muster/protocol";
import { test } from "vitest";
import { exitCodes, openStateFolder, writeConnection } from "../src/index.ts";
import { muster, testFolder } from "./muster.ts";

/** Something that answers every GraphQL request with the same errors. */
async function answering(
  code: string,
  message: string,
  status = 200,
): Promise<AsyncDisposable & { url: string }> {
  const server = createServer((_request, response) => {
    response.writeHead(status, { "content-type": "application/json" });
    response.end(
      JSON.stringify({ errors: [{ message, extensions: { code, retryable: false, requestId: "req_7" } }] }),
    );
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  // A server that listens on a port has such an address.
  const { port } = server.address() as AddressInfo;
  return {
    url: `http://127.0.0.1:${port}`,
    [Symbol.asyncDispose]: () => new Promise((resolve) => server.close(() => resolve())),
  };
}

test.concurrent("the exit codes are a contract, and --help prints it", async ({ expect }) => {
  expect(Object.entries(exitCodes).map(([name, { code }]) => [name, code])).toEqual([
    ["ok", 0],
    ["failed", 1],
    ["usage", 2],
    ["refused", 3],
    ["signedOut", 4],
    ["unreachable", 5],
    ["interrupted", 130],
  ]);
  const { status, stdout, stderr } = await muster(["--help"]);
  expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
  for (const { code, meaning } of Object.values(exitCodes)) expect(stdout).toContain(`${code}  ${meaning}`);
});

test.concurrent.for([
  [["frobnicate"], "unknown command 'frobnicate'"],
  [["runs", "lst"], "unknown command 'lst'"],
  [[], "Say which command"],
  [["up", "--wokers", "2"], "unknown option '--wokers'"],
  [["up", "--workers", "two"], "whole number from 0 to 64"],
  [["up", "--port", "70000"], "whole number from 1 to 65535"],
  [["up", "--port", "5000", "--dashboard-port", "5000"], "cannot share a port"],
  [["up", "--host", "0.0.0.0"], "npm start -- --host 0.0.0.0 --plain-http"],
  [["worker", "--roles", "worker,king"], '"king" is no role'],
  [["relay"], "--run <id> or --organization <id>"],
  [["relay", "--run", "run_1", "--host", "0.0.0.0"], "--public-url https://relay.example"],
  [["relay", "--run", "sort-digits"], "begins with run_"],
  [["worker", "--providers", "abacus"], '"abacus" is no execution provider'],
  [["runs", "list", "--state", "ASLEEP"], "one of DRAFT"],
  [["runs", "create", "missing.toml"], "missing.toml cannot be read: there is no such file"],
  [["runs", "list", "--url", "localhost:4000"], "is not a coordinator's URL"],
  [["worker", "--url", "notaurl"], '"notaurl" (--url) is not a coordinator\'s URL'],
  [["worker", "--run", "sort-digits"], "begins with run_"],
  [["runs", "create", "spec.json", "--credits", "1e3"], "an amount of credits"],
  [["runs", "grant", "run", "node", "king"], '"king" is no role that can be granted'],
  [["cases", "decide", "case", "maybe", "--reason", "r"], '"maybe" is no decision'],
  [["cases", "list", "run", "--state", "ASLEEP"], "one of OPEN"],
  [["cases", "dispute", "case"], "--statement <text>"],
  [["nodes", "reinstate", "run", "node"], "--reason <text>"],
  [["verify", "some.evidence", "--coordinator-key", "abc"], "64 hexadecimal digits"],
] as const)("muster %s is told what is wrong, and exits with 2", async ([args, said], { expect }) => {
  const { status, stdout, stderr } = await muster(args);
  expect(stderr).toContain(said);
  expect(stderr).not.toContain("    at ");
  expect({ status, stdout }).toEqual({ status: 2, stdout: "" });
});

test.concurrent("a spec that is not TOML is told with its place, and exits with 2", async ({ expect }) => {
  await using folder = await testFolder();
  const file = join(folder.path, "spec.toml");
  await writeFile(file, 'name = "a"\nseed = = 3\n');
  const { status, stderr } = await muster(["runs", "create", file]);
  expect(status).toBe(2);
  expect(stderr).toContain("spec.toml is not TOML");
  expect(stderr).toMatch(/2:\s+seed = = 3/);
});

test.concurrent("a coordinator that is not there exits with 5 and says what to do", async ({ expect }) => {
  const { status, stdout, stderr } = await muster(["runs", "list", "--url", "http://127.0.0.1:9"]);
  expect({ status, stdout }).toEqual({ status: 5, stdout: "" });
  expect(stderr).toContain("\n    npm start\n    npm run muster -- doctor\n");
});

test.concurrent("UNAUTHENTICATED exits with 4 and says how to sign in", async ({ expect }) => {
  await using coordinator = await answering("UNAUTHENTICATED", "Sign in first.", 401);
  const { status, stderr } = await muster([
    "runs",
    "show",
    "a-run",
    "--url",
    coordinator.url,
    "--api-key",
    "mk_old",
  ]);
  expect(status).toBe(4);
  expect(stderr).toContain("export MUSTER_API_KEY=<key>");
  expect(stderr).not.toContain("mk_old");
});

test.concurrent("a refusal exits with 3; with --json it is JSON on standard error and standard output stays empty", async ({
  expect,
}) => {
  await using coordinator = await answering(
    "STATE_CONFLICT",
    "The run is COMPLETED and cannot become PAUSED.",
  );
  const { status, stdout, stderr } = await muster([
    "--json",
    "runs",
    "pause",
    "a-run",
    "--url",
    coordinator.url,
  ]);
  expect({ status, stdout }).toEqual({ status: 3, stdout: "" });
  expect(JSON.parse(stderr)).toEqual({
    error: {
      code: "STATE_CONFLICT",
      message: "The run is COMPLETED and cannot become PAUSED.",
      fix: [],
      requestId: "req_7",
      exitCode: 3,
    },
  });
});

test.concurrent("a coordinator that wants TLS is told apart from one that does not answer", async ({
  expect,
}) => {
  await using coordinator = await answering("TLS_REQUIRED", "Over TLS only.", 426);
  const { status, stderr } = await muster(["runs", "list", "--url", coordinator.url]);
  expect(status).toBe(3);
  expect(stderr).toContain("takes no plain HTTP");
});

test.concurrent("the local key is printed for a program, or how to get one", async ({ expect }) => {
  await using folder = await testFolder();
  const state = join(folder.path, "state");
  const none = await muster(["api-key", "--state-dir", state]);
  expect([none.status, none.stdout]).toEqual([1, ""]);
  expect(none.stderr).toContain("npm start");
  const connection = { url: "http://127.0.0.1:9", organization: "org_1", apiKey: "muster_k" };
  writeConnection(openStateFolder(state), { ...connection, urls: [connection.url], dashboardUrl: undefined });
  expect(await muster(["api-key", "--state-dir", state])).toEqual({
    status: 0,
    stdout: "muster_k\n",
    stderr: "",
  });
});

test.concurrent("a stack is shown with --debug and only then", async ({ expect }) => {
  await using coordinator = await answering("NOT_FOUND", "There is no such run.");
  const plain = await muster(["runs", "show", "a-run", "--url", coordinator.url]);
  const debug = await muster(["runs", "show", "a-run", "--url", coordinator.url, "--debug"]);
  expect([plain.status, debug.status]).toEqual([3, 3]);
  expect(plain.stderr).not.toMatch(/\n\s+at /);
  expect(debug.stderr).toMatch(/\n\s+at /);
});

test.concurrent("demo-spec prints the demo's spec and nothing else", async ({ expect }) => {
  const { status, stdout, stderr } = await muster(["demo-spec", "--seed", "2", "--steps", "7"]);
  expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
  expect(JSON.parse(stdout)).toEqual(JSON.parse(JSON.stringify(demoRunSpec({ seed: 2, steps: 7 }))));
  const json = await muster(["demo-spec", "--seed", "2", "--steps", "7", "--json"]);
  expect(JSON.parse(json.stdout)).toEqual(JSON.parse(stdout));
});
