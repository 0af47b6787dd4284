import { chmod, chown, mkdir, mkdtemp, readFile, rm, stat, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import pg from "pg";
import { afterAll, beforeAll, expect, test } from "vitest";
import { removePostgres, startPostgres, withDatabase } from "../src/index.ts";

let parent: string;
let folder: string;

beforeAll(async () => {
  // The server may run as another user than we, who must be able to pass through.
  parent = await mkdtemp(join(tmpdir(), "muster-postgres-"));
  await chmod(parent, 0o755);
  folder = join(parent, "postgres");
});

afterAll(async () => {
  await removePostgres(folder);
  await rm(parent, { recursive: true, force: true });
});

test("two starts at once agree on one server and one password", async () => {
  const [first, second] = await Promise.all([startPostgres(folder), startPostgres(folder)]);
  expect(second.url).toBe(first.url);
  expect(new URL(first.url)).toMatchObject({ hostname: "127.0.0.1", pathname: "/muster" });
  expect(await query(first.url, "SELECT current_database() AS name")).toEqual([{ name: "muster" }]);
});

test("a running server is found again", async () => {
  const { url } = await startPostgres(folder);
  const pid = await postmasterPid();
  expect((await startPostgres(folder)).url).toBe(url);
  expect(await postmasterPid()).toBe(pid);
});

test("nobody gets in without the password, which only the server's user can read", async () => {
  const { url } = await startPostgres(folder);
  const guess = new URL(url);
  guess.password = "guess";
  await expect(query(guess.href, "SELECT 1")).rejects.toMatchObject({ code: "28P01" });
  expect((await stat(join(folder, "password"))).mode & 0o777).toBe(0o600);
  expect((await readFile(join(folder, "password"), "utf8")).trim()).toBe(new URL(url).password);
});

test("it listens on the loopback interface only and stores passwords as scram", async () => {
  const { url } = await startPostgres(folder);
  expect(
    await query(
      url,
      `SELECT current_setting('listen_addresses') AS addresses, current_setting('fsync') AS fsync,
         (SELECT rolpassword LIKE 'SCRAM-SHA-256$%' FROM pg_authid WHERE rolname = 'postgres') AS scram`,
    ),
  ).toEqual([{ addresses: "127.0.0.1", fsync: "on", scram: true }]);
});

test("killed with -9 it recovers on the next start, on the same port, with everything that was committed", async () => {
  const { url } = await startPostgres(folder);
  await query(url, "CREATE TABLE kept (n int)");
  await query(url, "INSERT INTO kept SELECT generate_series(1, 1000)");
  process.kill(await postmasterPid(), "SIGKILL");
  const again = await startPostgres(folder);
  expect(again.url).toBe(url);
  expect(await query(url, "SELECT count(*)::int AS n FROM kept")).toEqual([{ n: 1000 }]);
});

test("a stopped server starts again; stopping twice is harmless", async () => {
  const { url, stop } = await startPostgres(folder);
  await stop();
  await expect(query(url, "SELECT 1")).rejects.toMatchObject({ code: "ECONNREFUSED" });
  await stop();
  const again = await startPostgres(folder, { database: "other" });
  expect(again.url).toBe(withDatabase(url, "other"));
});

test("a pid file that names another program does not keep it from starting", async () => {
  const { url, stop } = await startPostgres(folder);
  const pidFile = join(folder, "data/postmaster.pid");
  const lines = (await readFile(pidFile, "utf8")).split("\n");
  await stop();
  await writeFile(pidFile, [process.pid, ...lines.slice(1)].join("\n"));
  expect((await startPostgres(folder)).url).toBe(url);
});

test("when its port was taken meanwhile it takes another", async () => {
  const { url, stop } = await startPostgres(folder);
  await stop();
  const squatter = createServer();
  await new Promise<void>((done) => squatter.listen(Number(new URL(url).port), "127.0.0.1", done));
  try {
    const moved = await startPostgres(folder);
    expect(new URL(moved.url).port).not.toBe(new URL(url).port);
    expect(await query(moved.url, "SELECT count(*)::int AS n FROM kept")).toEqual([{ n: 1000 }]);
  } finally {
    await new Promise((done) => squatter.close(done));
  }
});

test("a folder that holds something else is refused and left alone", async () => {
  const documents = join(parent, "documents");
  await mkdir(documents);
  await writeFile(join(documents, "letter.txt"), "Dear");
  const before = await stat(documents);
  await expect(startPostgres(documents)).rejects.toMatchObject({
    name: "DatabaseError",
    code: "NOT_A_DATA_DIRECTORY",
    message: expect.stringContaining("letter.txt"),
  });
  expect((await stat(documents)).uid).toBe(before.uid);

  const foreign = join(parent, "foreign");
  await mkdir(join(foreign, "data"), { recursive: true });
  await expect(startPostgres(foreign)).rejects.toMatchObject({ code: "NOT_A_DATA_DIRECTORY" });
});

test("data of another major version is refused with both versions named", async () => {
  const old = join(parent, "old");
  await mkdir(join(old, "data"), { recursive: true });
  await writeFile(join(old, "data/PG_VERSION"), "15\n");
  await expect(startPostgres(old)).rejects.toMatchObject({
    code: "OTHER_MAJOR_VERSION",
    message: expect.stringMatching(/Postgres 15, the bundled server is 18/),
  });
});

test("a lost password file is named", async () => {
  const { stop } = await startPostgres(folder);
  await stop();
  const file = join(folder, "password");
  const password = await readFile(file, "utf8");
  const { mode, uid, gid } = await stat(file);
  await rm(file);
  await expect(startPostgres(folder)).rejects.toMatchObject({ code: "PASSWORD_REFUSED" });
  await writeFile(file, password, { mode });
  await chown(file, uid, gid);
  await startPostgres(folder);
});

test("what was put elsewhere is removed with its folder", async ({ skip }) => {
  skip(process.getuid?.() !== 0, "only root's server runs as another user");
  const closed = await mkdtemp(join(tmpdir(), "muster-postgres-"));
  const hidden = join(closed, "postgres");
  try {
    const { url } = await startPostgres(hidden);
    const elsewhere = (await readFile(join(hidden, "location"), "utf8")).trim();
    expect(elsewhere).toMatch(/^\/var\/lib\/muster\/postgres-/);
    expect((await stat(join(elsewhere, "data"))).isDirectory()).toBe(true);
    await removePostgres(hidden);
    await expect(query(url, "SELECT 1")).rejects.toMatchObject({ code: "ECONNREFUSED" });
    await expect(stat(elsewhere)).rejects.toMatchObject({ code: "ENOENT" });
    await expect(stat(hidden)).rejects.toMatchObject({ code: "ENOENT" });
    await removePostgres(hidden);
  } finally {
    await removePostgres(hidden);
    await rm(closed, { recursive: true, force: true });
  }
});

test("a place that is not ours is neither used nor removed", async () => {
  const forged = join(parent, "forged");
  const theirs = join(parent, "theirs");
  await mkdir(forged);
  await mkdir(theirs);
  await writeFile(join(theirs, "letter.txt"), "Dear");
  await writeFile(join(forged, "location"), `${theirs}\n`);
  const before = await stat(theirs);
  const refusal = { code: "NOT_A_DATA_DIRECTORY", message: expect.stringContaining(theirs) };
  await expect(startPostgres(forged)).rejects.toMatchObject(refusal);
  await expect(removePostgres(forged)).rejects.toMatchObject(refusal);
  expect(await readFile(join(theirs, "letter.txt"), "utf8")).toBe("Dear");
  expect((await stat(theirs)).uid).toBe(before.uid);
});

async function query(url: string, sql: string): Promise<unknown[]> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  // A server that is killed breaks this session too.
  client.on("error", () => {});
  try {
    return (await client.query(sql)).rows;
  } finally {
    await client.end();
  }
}

async function postmasterPid(): Promise<number> {
  return Number((await readFile(join(folder, "data/postmaster.pid"), "utf8")).split("\n")[0]);
}
