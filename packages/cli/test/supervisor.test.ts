import { spawn } from "node:child_process";
import { existsSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test, vi } from "vitest";
import {
  type ChildSpec,
  createSupervisor,
  endLeftovers,
  openStateFolder,
  type StateFolder,
} from "../src/index.ts";
import { testFolder, until } from "./muster.ts";

const STAYS = "console.log('up', process.pid); setInterval(() => {}, 1000);";

function child(code: string, more: Partial<ChildSpec> = {}): ChildSpec {
  return { name: "child", args: ["-e", code], cwd: process.cwd(), grace: 5_000, env: () => ({}), ...more };
}

function runs(pid: number): boolean {
  try {
    process.kill(pid, 0);
  } catch {
    return false;
  }
  // In a container nobody may have reaped it.
  const stat = existsSync(`/proc/${pid}/stat`) ? readFileSync(`/proc/${pid}/stat`, "utf8") : "";
  return !/\) [ZX] /.test(stat);
}

function logOf(folder: StateFolder): string {
  return readFileSync(join(folder.at("logs"), "child.log"), "utf8");
}

test("a child that ends is started again, each time a little later, and writes to its log", async () => {
  await using place = await testFolder();
  const folder = openStateFolder(place.path);
  const notes: string[] = [];
  const supervisor = createSupervisor(folder, (text) => notes.push(text));
  const started = performance.now();
  const ended = supervisor.start(child("console.log('tried'); process.exit(3)"));
  await until("third end", () => ended.ends >= 3);
  expect(performance.now() - started).toBeGreaterThan(2_900);
  await ended.stop();
  expect(logOf(folder).match(/tried/g)).toHaveLength(3);
  expect(notes.map((note) => note.split(". Its log")[0])).toEqual([
    "child ended (status 3); starting it again in 1 s",
    "child ended (status 3); starting it again in 2 s",
    "child ended (status 3); starting it again in 4 s",
  ]);
});

test("only a child that needs the installation's credentials inherits them", async () => {
  await using place = await testFolder();
  const folder = openStateFolder(place.path);
  vi.stubEnv("S3_SECRET_ACCESS_KEY", "of the store");
  vi.stubEnv("DATABASE_URL", "of the database");
  const supervisor = createSupervisor(folder, () => {});
  const tell = "console.log(process.env.S3_SECRET_ACCESS_KEY, process.env.DATABASE_URL, process.env.HOME)";
  const node = supervisor.start(child(tell, { mayFinish: true }));
  await until("end", () => node.pid === undefined);
  expect(logOf(folder).trim()).toBe(`undefined undefined ${process.env.HOME}`);
  const coordinator = supervisor.start(child(tell, { mayFinish: true, credentials: true }));
  await until("end", () => coordinator.pid === undefined);
  expect(logOf(folder)).toContain("of the store of the database");
  vi.unstubAllEnvs();
});

test("a child that may finish is left alone when it does", async () => {
  await using place = await testFolder();
  const folder = openStateFolder(place.path);
  const notes: string[] = [];
  const supervisor = createSupervisor(folder, (text) => notes.push(text));
  const done = supervisor.start(child("", { mayFinish: true }));
  await until("end", () => done.pid === undefined);
  expect({ ends: done.ends, notes }).toEqual({ ends: 0, notes: [] });
});

test("stopping sends SIGTERM, then kills what does not listen", async () => {
  await using place = await testFolder();
  const folder = openStateFolder(place.path);
  const supervisor = createSupervisor(folder, () => {});
  const polite = supervisor.start(
    child(
      "process.on('SIGTERM', () => { console.log('bye'); process.exit(0); }); console.log('up'); setInterval(() => {}, 1000);",
    ),
  );
  await until("start", () => logOf(folder).includes("up"));
  await polite.stop();
  expect(logOf(folder)).toContain("bye");

  const deaf = supervisor.start(
    child("process.on('SIGTERM', () => {}); console.log('deaf'); setInterval(() => {}, 1000);", {
      grace: 200,
    }),
  );
  await until("start", () => logOf(folder).includes("deaf"));
  const pid = deaf.pid ?? 0;
  await deaf.stop();
  expect(runs(pid)).toBe(false);
});

test("a restart reads the environment anew", async () => {
  await using place = await testFolder();
  const folder = openStateFolder(place.path);
  const supervisor = createSupervisor(folder, () => {});
  let port = 1;
  const one = supervisor.start(
    child(`console.log('port', process.env.PORT);${STAYS}`, { env: () => ({ PORT: String(port) }) }),
  );
  await until("start", () => logOf(folder).includes("port 1"));
  port = 2;
  await one.restart();
  await until("second start", () => logOf(folder).includes("port 2"));
  expect(one.ends).toBe(0);
  await one.stop();
});

test("children end with a supervisor that is killed", async () => {
  await using place = await testFolder();
  const folder = openStateFolder(place.path);
  const pid = await abandoned(folder, STAYS);
  await until("end of the child", () => !runs(pid));
});

test("what an earlier supervisor left running is ended by the next one, and nothing else", async () => {
  await using place = await testFolder();
  const folder = openStateFolder(place.path);
  // It does not hear that its supervisor is gone.
  const pid = await abandoned(folder, `process.on('SIGTERM', () => {}); ${STAYS}`);
  const stranger = spawn(process.execPath, ["-e", STAYS], { stdio: "ignore" });
  try {
    const recorded: { name: string; pid: number }[] = JSON.parse(
      readFileSync(folder.at("children.json"), "utf8"),
    );
    expect(recorded.map((one) => [one.name, one.pid])).toEqual([["child", pid]]);
    expect(runs(pid)).toBe(true);
    const forged = [
      { name: "reused pid", pid: stranger.pid, identity: "a boot:1" },
      { name: "no identity", pid: stranger.pid },
    ];
    writeFileSync(folder.at("children.json"), JSON.stringify([...recorded, ...forged]));
    expect(await endLeftovers(folder)).toEqual(["child"]);
    expect([runs(pid), runs(stranger.pid ?? 0)]).toEqual([false, true]);
    expect(existsSync(folder.at("children.json"))).toBe(false);
  } finally {
    stranger.kill("SIGKILL");
  }
}, 20_000);

test("leftovers that do not read are no leftovers", async () => {
  await using place = await testFolder();
  const folder = openStateFolder(place.path);
  writeFileSync(folder.at("children.json"), "{ half");
  expect(await endLeftovers(folder)).toEqual([]);
});

test("a log that has grown large is put aside at the next start", async () => {
  await using place = await testFolder();
  const folder = openStateFolder(place.path);
  const supervisor = createSupervisor(folder, () => {});
  const file = join(folder.at("logs"), "child.log");
  writeFileSync(file, "x".repeat(10 * 2 ** 20 + 1));
  const one = supervisor.start(child(STAYS));
  await until("start", () => logOf(folder).includes("up"));
  expect(statSync(`${file}.1`).size).toBe(10 * 2 ** 20 + 1);
  await one.stop();
});

/** Starts a supervisor of its own with one child and kills the supervisor. @returns the child's pid. */
async function abandoned(folder: StateFolder, code: string): Promise<number> {
  const module = (name: string) => JSON.stringify(new URL(`../src/${name}`, import.meta.url).href);
  const supervisor = spawn(
    process.execPath,
    [
      "--input-type=module",
      "-e",
      `const { openStateFolder } = await import(${module("state-folder.ts")});
       const { createSupervisor } = await import(${module("up/supervisor.ts")});
       createSupervisor(openStateFolder(${JSON.stringify(folder.path)}), () => {}).start(
         { name: "child", args: ["-e", ${JSON.stringify(code)}], cwd: process.cwd(), grace: 1000, env: () => ({}) });`,
    ],
    { stdio: "inherit" },
  );
  const said = await until("child", () =>
    existsSync(join(folder.at("logs"), "child.log")) ? /up (\d+)/.exec(logOf(folder)) : undefined,
  );
  supervisor.kill("SIGKILL");
  await new Promise((resolve) => supervisor.once("exit", resolve));
  return Number(said[1]);
}
