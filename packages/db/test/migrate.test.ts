import { randomUUID } from "node:crypto";
import { cp, mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import pg from "pg";
import { afterEach, beforeEach, expect, test } from "vitest";
import { ensureDatabase, migrate, migrationsFolder, withDatabase } from "../src/index.ts";
import { testServer } from "../src/testing.ts";

let url: string;
let folder: string;

beforeEach(async () => {
  url = withDatabase(await testServer(), `muster_test_${randomUUID().replaceAll("-", "")}`);
  await ensureDatabase(url);
  folder = await mkdtemp(join(tmpdir(), "muster-migrations-"));
});

afterEach(async () => {
  const name = new URL(url).pathname.slice(1);
  await query(`DROP DATABASE ${name} WITH (FORCE)`, [], withDatabase(url, "postgres"));
  await rm(folder, { recursive: true });
});

test("the repository's migrations apply once; the second time there is nothing to do", async () => {
  await cp(migrationsFolder, folder, { recursive: true });
  expect((await migrate(url, folder))[0]).toBe("0001_init");
  expect(await migrate(url, folder)).toEqual([]);
});

test("two starts at once apply each migration once", async () => {
  await add("0001_a", "SELECT pg_sleep(0.2); CREATE TABLE a (n int);");
  await add("0002_b", "CREATE TABLE b (n int);");
  const applied = await Promise.all([migrate(url, folder), migrate(url, folder), migrate(url, folder)]);
  expect(applied.flat().sort()).toEqual(["0001_a", "0002_b"]);
  expect(await query("SELECT migration_name FROM _prisma_migrations ORDER BY 1")).toHaveLength(2);
});

test("a migration edited after it was applied is refused", async () => {
  await add("0001_a", "CREATE TABLE a (n int);");
  await migrate(url, folder);
  await add("0001_a", "CREATE TABLE a (n bigint);");
  await expect(migrate(url, folder)).rejects.toMatchObject({
    name: "DatabaseError",
    code: "MIGRATION_EDITED",
    message: expect.stringContaining("0001_a"),
  });
});

test("a migration that fails leaves nothing behind and can be mended and run again", async () => {
  await add("0001_a", "CREATE TABLE a (n int); SELECT 1 / 0;");
  await expect(migrate(url, folder)).rejects.toMatchObject({
    code: "MIGRATION_FAILED",
    message: expect.stringContaining("division by zero"),
  });
  expect(await query("SELECT to_regclass('a') AS a")).toEqual([{ a: null }]);
  await add("0001_a", "CREATE TABLE a (n int);");
  expect(await migrate(url, folder)).toEqual(["0001_a"]);
});

test("one that runs without a transaction and fails stops every further start until it is resolved", async () => {
  await add("0001_a", "CREATE TABLE a (n int);");
  await add("0002_b", "-- no transaction\nCREATE INDEX CONCURRENTLY a_n ON a (n);\nSELECT 1 / 0;\n");
  await expect(migrate(url, folder)).rejects.toMatchObject({ code: "MIGRATION_FAILED" });
  expect(await query("SELECT to_regclass('a_n')::text AS index")).toEqual([{ index: "a_n" }]);
  await expect(migrate(url, folder)).rejects.toMatchObject({
    code: "MIGRATION_FAILED",
    message: expect.stringContaining("prisma migrate resolve"),
  });
  // What `prisma migrate resolve --rolled-back` does.
  await query("UPDATE _prisma_migrations SET rolled_back_at = now() WHERE finished_at IS NULL");
  await query("DROP INDEX a_n");
  await add("0002_b", "-- no transaction\nCREATE INDEX CONCURRENTLY a_n ON a (n);\n");
  expect(await migrate(url, folder)).toEqual(["0002_b"]);
});

test("a database that a newer version migrated is refused", async () => {
  await add("0001_a", "CREATE TABLE a (n int);");
  await add("0002_b", "CREATE TABLE b (n int);");
  await migrate(url, folder);
  await rm(join(folder, "0002_b"), { recursive: true });
  await expect(migrate(url, folder)).rejects.toMatchObject({ code: "MIGRATION_UNKNOWN" });
});

async function add(name: string, sql: string): Promise<void> {
  await mkdir(join(folder, name), { recursive: true });
  await writeFile(join(folder, name, "migration.sql"), sql);
}

async function query(sql: string, values: unknown[] = [], at = url): Promise<unknown[]> {
  const client = new pg.Client({ connectionString: at });
  await client.connect();
  try {
    return (await client.query(sql, values)).rows;
  } finally {
    await client.end();
  }
}
