import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { createClient } from "@muster/sdk";
import { expect, test } from "vitest";
import { openStateFolder, readConnection } from "../src/index.ts";
import { muster, testFolder, until } from "./muster.ts";

const script = fileURLToPath(new URL("../src/main.ts", import.meta.url));

type Up = AsyncDisposable & { process: ChildProcess; said(): string; ended: Promise<number | null> };

function start(stateDir: string, port: number, more: string[] = []): Up {
  const args = [
    "up",
    "--no-dashboard",
    "--no-demo",
    "--workers",
    "0",
    "--port",
    String(port),
    "--state-dir",
    stateDir,
  ];
  const child = spawn(process.execPath, [script, ...args, ...more], {
    env: { ...process.env, DATABASE_URL: "" },
    stdio: ["ignore", "pipe", "pipe"],
  });
  let said = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding("utf8").on("data", (text: string) => {
      said += text;
    });
  }
  const ended = new Promise<number | null>((resolve) => child.once("close", resolve));
  const dispose = async () => {
    child.kill("SIGTERM");
    await ended;
  };
  return { process: child, said: () => said, ended, [Symbol.asyncDispose]: dispose };
}

/** Pids that the supervisor recorded. */
function pids(stateDir: string): number[] {
  const children: { pid: number }[] = JSON.parse(readFileSync(join(stateDir, "children.json"), "utf8"));
  return children.map(({ pid }) => pid);
}

function postmasterPid(stateDir: string): number {
  return Number(readFileSync(join(stateDir, "postgres", "data", "postmaster.pid"), "utf8").split("\n")[0]);
}

function lives(pid: number): boolean {
  try {
    process.kill(pid, 0);
  } catch {
    return false;
  }
  const stat = existsSync(`/proc/${pid}/stat`) ? readFileSync(`/proc/${pid}/stat`, "utf8") : "";
  return !/\) [ZX] /.test(stat);
}

async function freePort(): Promise<number> {
  const server = createServer();
  const port = await new Promise<number>((resolve) => {
    server.listen(0, "127.0.0.1", () => {
      const address = server.address();
      resolve(typeof address === "object" && address !== null ? address.port : 0);
    });
  });
  await new Promise((resolve) => server.close(resolve));
  return port;
}

test("an installation starts, serves, refuses a second one, ends in order, comes back, and begins anew with --fresh", async () => {
  await using folder = await testFolder();
  const stateDir = join(folder.path, "state");
  const port = await freePort();
  const ready = (up: Up) =>
    until(
      `start; it said: ${up.said()}`,
      () => {
        if (up.process.exitCode !== null) throw new Error(`up ended: ${up.said()}`);
        return existsSync(join(stateDir, "connection.json")) && /^API /m.test(up.said());
      },
      60,
    );

  await using first = start(stateDir, port);
  await ready(first);
  const connection = readConnection(openStateFolder(stateDir));
  expect(connection).toMatchObject({ url: `http://127.0.0.1:${port}`, dashboardUrl: undefined });
  await using client = createClient({ url: connection?.url ?? "", apiKey: connection?.apiKey ?? "" });
  expect(await client.me()).toMatchObject({ kind: "API_KEY" });
  const listed = await muster(["nodes", "list", "--json", "--state-dir", stateDir]);
  expect(
    JSON.parse(listed.stdout)
      .items.map((node: { name: string }) => node.name)
      .toSorted(),
  ).toEqual(["trainer", "validator"]);

  const second = await muster([
    "up",
    "--no-dashboard",
    "--state-dir",
    stateDir,
    "--port",
    String(await freePort()),
  ]);
  expect([second.status, second.stderr]).toEqual([
    1,
    expect.stringContaining(`It serves http://127.0.0.1:${port}`),
  ]);
  first.process.kill("SIGTERM");
  const running = pids(stateDir);
  expect(running).toHaveLength(3);
  expect(await first.ended).toBe(0);
  expect(running.filter(lives)).toEqual([]);
  expect(readdirSync(stateDir).toSorted()).toEqual([
    "blobs",
    "children.json",
    "logs",
    "muster.json",
    "nodes",
    "operator-token",
    "postgres",
    "secret",
  ]);

  const checked = await muster(["invariants", "--json", "--state-dir", stateDir]);
  expect([checked.status, JSON.parse(checked.stdout).violations]).toEqual([0, 0]);

  const keyOf = (node: string) => readFileSync(join(stateDir, "nodes", node, "node.key"), "utf8");
  const key = keyOf("trainer");
  await using again = start(stateDir, port);
  await ready(again);
  expect(keyOf("trainer")).toBe(key);
  // As of `npm start | tee log`, where the same Ctrl-C ends the reader: nobody hears of it, yet all is stopped.
  again.process.stdout?.destroy();
  again.process.stderr?.destroy();
  const postmaster = postmasterPid(stateDir);
  const all = [...pids(stateDir), postmaster];
  expect(all.filter(lives)).toEqual(all);
  // As a terminal and npm send it: one Ctrl-C, twice at once. It is one.
  again.process.kill("SIGINT");
  again.process.kill("SIGINT");
  expect(await again.ended).toBe(130);
  expect(all.filter(lives)).toEqual([]);

  await using fresh = start(stateDir, port, ["--fresh"]);
  await ready(fresh);
  expect(keyOf("trainer")).not.toBe(key);
  const hurried = [...pids(stateDir), postmasterPid(stateDir)];
  fresh.process.kill("SIGINT");
  // Time itself is what is tested: a second signal within a second of the first counts as the same key press.
  await new Promise((resolve) => setTimeout(resolve, 1_100));
  fresh.process.kill("SIGINT");
  expect(await fresh.ended).toBe(130);
  await until("end of every process", () => hurried.every((pid) => !lives(pid)));
}, 180_000);

test("--fresh does not begin anew on a database that is somebody else's", async () => {
  await using folder = await testFolder();
  const stateDir = join(folder.path, "state");
  const { status, stderr } = await muster(["up", "--fresh", "--state-dir", stateDir], {
    env: { DATABASE_URL: "postgresql://nobody@127.0.0.1:9/muster" },
  });
  expect([status, stderr]).toEqual([1, expect.stringContaining("DATABASE_URL")]);
  expect(existsSync(stateDir)).toBe(false);
});
