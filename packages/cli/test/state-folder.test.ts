import { spawn } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import type { AddressInfo } from "node:net";
import { createServer } from "node:net";
import { join } from "node:path";
import { expect, test } from "vitest";
import {
  clearStateFolder,
  Failure,
  holderOf,
  lockStateFolder,
  openStateFolder,
  requireFreeDisk,
  secretOf,
} from "../src/index.ts";
import { muster, testFolder } from "./muster.ts";

const serving = { url: "http://127.0.0.1:4000", dashboardUrl: "http://127.0.0.1:4001" };

test("a folder with other people's files is refused in one sentence and left as it was", async () => {
  await using folder = await testFolder();
  writeFileSync(join(folder.path, "thesis.tex"), "years of work");
  const { status, stderr } = await muster(["up", "--no-dashboard", "--fresh", "--state-dir", folder.path]);
  expect(status).toBe(1);
  expect(stderr.trim().split("\n")).toHaveLength(1);
  expect(stderr).toContain("holds other files (thesis.tex) and is not Muster's; nothing in it was changed");
  expect(readdirSync(folder.path)).toEqual(["thesis.tex"]);
});

test("a node that works here for somebody else's coordinator makes the folder no less ours, and outlives --fresh", async () => {
  await using folder = await testFolder();
  const key = join(folder.path, "state", "node", "node.key");
  mkdirSync(join(key, ".."), { recursive: true });
  writeFileSync(key, "secret");
  clearStateFolder(openStateFolder(join(folder.path, "state")));
  expect(readFileSync(key, "utf8")).toBe("secret");
});

test("somebody else's muster.json makes a folder no less foreign", async () => {
  await using folder = await testFolder();
  writeFileSync(join(folder.path, "muster.json"), '{"product":"mustard"}');
  expect(() => openStateFolder(folder.path)).toThrow(/is not Muster's/);
});

test("a folder of a newer layout is refused", async () => {
  await using folder = await testFolder();
  writeFileSync(join(folder.path, "muster.json"), '{"product":"muster","layout":2}');
  expect(() => openStateFolder(folder.path)).toThrow(/layout 2; this one knows 1/);
});

test("what the repository's own commands leave behind does not make a folder foreign", async () => {
  await using folder = await testFolder();
  for (const name of ["bootstrap.lock", "test-results", "test-postgres"]) mkdirSync(join(folder.path, name));
  openStateFolder(folder.path);
  expect(JSON.parse(readFileSync(join(folder.path, "muster.json"), "utf8"))).toEqual({
    product: "muster",
    layout: 1,
  });
});

test("a file in the place of the folder is told in one sentence", async () => {
  await using folder = await testFolder();
  const path = join(folder.path, "state");
  writeFileSync(path, "");
  const { status, stderr } = await muster(["up", "--no-dashboard", "--state-dir", path]);
  expect(status).toBe(1);
  expect(stderr).toContain("it is a file, not a folder");
});

test("a second start in the same folder says where the first one serves", async () => {
  await using folder = await testFolder();
  using _release = locked(folder.path);
  const { status, stderr } = await muster(["up", "--no-dashboard", "--state-dir", folder.path]);
  expect(status).toBe(1);
  expect(stderr).toContain(`It serves http://127.0.0.1:4001 (process ${process.pid})`);
});

test("a lock whose process is gone is taken over, also when its pid is another's by now", async () => {
  await using folder = await testFolder();
  const state = openStateFolder(folder.path);
  const gone = spawn(process.execPath, ["-e", ""]);
  await new Promise((resolve) => gone.once("exit", resolve));
  for (const stale of [
    { pid: gone.pid, identity: "a boot:1", ...serving },
    { pid: process.pid, identity: "a boot:1", ...serving },
  ]) {
    writeFileSync(state.at("lock"), JSON.stringify(stale));
    expect(holderOf(state)).toBeUndefined();
    const release = lockStateFolder(state, serving);
    expect(holderOf(state)?.pid).toBe(process.pid);
    release();
    expect(holderOf(state)).toBeUndefined();
  }
  expect(readdirSync(folder.path)).toEqual(["muster.json"]);
});

test("of many who find the same stale lock one gets it", async () => {
  await using folder = await testFolder();
  const state = openStateFolder(folder.path);
  writeFileSync(state.at("lock"), JSON.stringify({ pid: 4_194_304, identity: "a boot:1", ...serving }));
  const script = `
    const { openStateFolder, lockStateFolder } = await import(${JSON.stringify(new URL("../src/state-folder.ts", import.meta.url).href)});
    try { lockStateFolder(openStateFolder(${JSON.stringify(folder.path)}), ${JSON.stringify(serving)}); console.log("mine"); }
    catch { console.log("theirs"); }
    process.stdin.on("data", () => process.exit()).resume();`;
  const children = Array.from({ length: 6 }, () =>
    spawn(process.execPath, ["--input-type=module", "-e", script]),
  );
  try {
    const said = await Promise.all(
      children.map(
        (child) =>
          new Promise<string>((resolve) => child.stdout.once("data", (data) => resolve(String(data).trim()))),
      ),
    );
    expect(said.toSorted()).toEqual(["mine", "theirs", "theirs", "theirs", "theirs", "theirs"]);
  } finally {
    for (const child of children) child.kill("SIGKILL");
  }
});

test("a taken port is told with the option that chooses another", async () => {
  await using folder = await testFolder();
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  try {
    const { status, stderr } = await muster([
      "up",
      "--no-dashboard",
      "--state-dir",
      folder.path,
      "--port",
      String(port),
    ]);
    expect(status).toBe(1);
    expect(stderr).toBe(
      `error: Port ${port} is taken by another program, and the coordinator wants it. Choose another with --port <port>.\n`,
    );
    expect(holderOf(openStateFolder(folder.path))).toBeUndefined();
  } finally {
    server.close();
  }
});

test("too little disk is told in one sentence", async () => {
  await using folder = await testFolder();
  requireFreeDisk(folder.path, 1);
  expect(() => requireFreeDisk(folder.path, 1e18)).toThrow(Failure);
  expect(() => requireFreeDisk(folder.path, 1e18)).toThrow(
    /^Only \d+ MB are free on the disk of .*; Muster needs 1000000000000 MB\. Make room, or/,
  );
});

test("a secret is made once, is long, and only its owner reads it", async () => {
  await using folder = await testFolder();
  const state = openStateFolder(folder.path);
  const secret = secretOf(state, "secret");
  expect(secret).toMatch(/^[0-9a-f]{64}$/);
  expect(secretOf(state, "secret")).toBe(secret);
  expect(secretOf(state, "operator-token")).not.toBe(secret);
  expect(statSync(state.at("secret")).mode & 0o777).toBe(0o600);
});

test("--fresh removes what is ours and nothing else", async () => {
  await using folder = await testFolder();
  const state = openStateFolder(folder.path);
  secretOf(state, "secret");
  for (const name of ["logs", "blobs", "nodes", "postgres", "test-postgres", "notes"]) {
    mkdirSync(join(folder.path, name));
    writeFileSync(join(folder.path, name, "file"), "");
  }
  clearStateFolder(state);
  expect(readdirSync(folder.path).toSorted()).toEqual(["muster.json", "notes", "test-postgres"]);
});

test.skipIf(process.getuid?.() === 0)(
  "a folder that may not be written is told in one sentence",
  async () => {
    await using folder = await testFolder();
    const path = join(folder.path, "state");
    mkdirSync(path, { mode: 0o500 });
    expect(() => openStateFolder(path)).toThrow(/this user may not read and write it/);
    rmSync(path, { recursive: true });
  },
);

function locked(path: string): Disposable {
  const release = lockStateFolder(openStateFolder(path), serving);
  return { [Symbol.dispose]: release };
}
