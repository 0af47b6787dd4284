import { expect, test } from "vitest";
import { DatabaseError, ensureDatabase, openDatabase, withDatabase } from "../src/index.ts";
import { createTestDatabase, testServer } from "../src/testing.ts";

test("a test database is cloned in less than a second and gone after its drop", async () => {
  await (await createTestDatabase()).drop();
  const before = performance.now();
  const db = await createTestDatabase();
  expect(performance.now() - before).toBeLessThan(1_000);
  expect(await db.prisma.run.count()).toBe(0);
  await db.drop();
  const gone = openDatabase(db.url);
  await expect(gone.pool.query("SELECT 1")).rejects.toMatchObject({ code: "3D000" });
  await gone.close();
});

test("what one test database holds another does not", async () => {
  await using first = await createTestDatabase();
  await using second = await createTestDatabase();
  await first.prisma.eventStream.create({ data: { stream: "run:1" } });
  expect([await first.prisma.eventStream.count(), await second.prisma.eventStream.count()]).toEqual([1, 0]);
});

test("a moment written through Prisma, through SQL or by the server is the same moment", async () => {
  await using db = await createTestDatabase();
  const at = new Date("2026-07-01T12:34:56.789Z");
  const rows = [
    db.prisma.event.create({ data: { stream: "s", type: "t", subject: "prisma", data: {}, at } }),
    db.pool.query(
      `INSERT INTO "Event" (stream, type, subject, data, at) VALUES ('s', 't', 'sql', '{}', $1)`,
      [at],
    ),
  ];
  await Promise.all(rows);
  const read = await db.prisma.event.findMany({ select: { at: true } });
  expect(read).toEqual([{ at }, { at }]);
  expect((await db.pool.query<{ at: Date }>('SELECT at FROM "Event"')).rows).toEqual([{ at }, { at }]);
  const { rows: clock } = await db.pool.query<{ now: Date; zone: string }>(
    "SELECT now()::timestamptz AS now, current_setting('TimeZone') AS zone",
  );
  expect(clock[0]?.zone).toBe("UTC");
  expect(Math.abs((clock[0]?.now.getTime() ?? 0) - Date.now())).toBeLessThan(60_000);
});

test("a statement that runs too long is ended by the server", async () => {
  await using db = await createTestDatabase({ statementTimeout: 50 });
  await expect(db.pool.query("SELECT pg_sleep(5)")).rejects.toMatchObject({ code: "57014" });
});

test("Prisma and the pool are the same connections", async () => {
  await using db = await createTestDatabase({ max: 1 });
  const [mine] = await db.prisma.$queryRaw<{ pid: number }[]>`SELECT pg_backend_pid() AS pid`;
  const { rows } = await db.pool.query<{ pid: number }>("SELECT pg_backend_pid() AS pid");
  expect(rows[0]).toEqual(mine);
});

test("connections that the server cuts are reported and replaced", async () => {
  const heard: string[] = [];
  await using db = await createTestDatabase({ log: (message) => heard.push(message) });
  const { rows } = await db.pool.query<{ pid: number }>("SELECT pg_backend_pid() AS pid");
  await using other = openDatabase(await testServer());
  await other.pool.query("SELECT pg_terminate_backend($1)", [rows[0]?.pid]);
  await expect.poll(() => heard).toHaveLength(1);
  expect(await db.prisma.run.count()).toBe(0);
});

test("a database is created once, by however many ask", async () => {
  const url = withDatabase(await testServer(), `muster_test_ensure_${process.pid}`);
  await Promise.all([ensureDatabase(url), ensureDatabase(url), ensureDatabase(url)]);
  await ensureDatabase(url);
  await using admin = openDatabase(withDatabase(url, "postgres"));
  await admin.pool.query(`DROP DATABASE "${new URL(url).pathname.slice(1)}"`);
});

test("a URL that names no database is refused without showing its password", () => {
  for (const url of ["postgresql://u:secret@127.0.0.1:5432", "mysql://u:secret@127.0.0.1/x", "secret"]) {
    expect(() => openDatabase(url)).toThrow(DatabaseError);
    expect(() => openDatabase(url)).not.toThrow(/secret/);
  }
});
