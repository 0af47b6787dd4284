import { createHash, randomBytes } from "node:crypto";
import { mkdtemp, readdir, rm, utimes } from "node:fs/promises";
import { request } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Readable } from "node:stream";
import type { PackKind, TaskKind } from "@muster/db";
import { newId, toTypeId } from "@muster/protocol";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { createFileStore } from "../src/blobs/files.ts";
import { collectGarbage, collectStrayFiles } from "../src/blobs/gc.ts";
import { smallSpec } from "./runkit.ts";
import { startS3, type TestS3 } from "./s3kit.ts";
import {
  anonymous,
  type Caller,
  startTestServer,
  type TestNode,
  type TestOrganization,
  type TestServer,
  until,
} from "./testkit.ts";

const hashOf = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");

// What a coordinator does with blobs is the same wherever they lie.
describe.each(["files", "s3"] as const)("with blobs in %s", (kind) => {
  let s3: TestS3 | undefined;
  let server: TestServer;
  let organization: TestOrganization;
  let node: TestNode;
  beforeAll(async () => {
    if (kind === "s3") s3 = await startS3();
    // Here the coordinator passes the bytes on; that it sends clients to the store is tested there.
    const store = s3 === undefined ? {} : { ...s3.config("blobs/"), s3Presign: false };
    const config = { ...store, maxPackBytes: 10_000, blobGraceSeconds: 3600 };
    server = await startTestServer({ config, loops: [] });
    organization = await server.organization();
    node = await server.node();
  });
  afterAll(async () => {
    await server?.stop();
    await s3?.stop();
  });

  async function newRun({ open = true } = {}): Promise<string> {
    const { id } = await server.prisma.run.create({
      data: {
        organizationId: organization.id,
        slug: newId(),
        name: "run",
        environment: "muster/sort-digits@1",
        baseKind: "warmup",
        stepLimit: 1,
        open,
        revisions: {
          create: {
            organizationId: organization.id,
            number: 1,
            spec: JSON.parse(JSON.stringify(smallSpec())),
            hash: "none",
          },
        },
      },
    });
    return id;
  }

  /** A task leased to the node, with its attempt. */
  async function lease(kind: TaskKind, payload: object = {}, by: TestNode = node, runId?: string) {
    const run = runId ?? (await newRun());
    const leaseUntil = new Date(Date.now() + 60_000);
    const task = await server.prisma.task.create({
      data: {
        organizationId: organization.id,
        runId: run,
        kind,
        state: "LEASED",
        revision: 1,
        payload,
        attempt: 1,
        leaseNodeId: by.id,
        leaseUntil,
      },
    });
    const attempt = await server.prisma.attempt.create({
      data: {
        organizationId: organization.id,
        runId: run,
        taskId: task.id,
        number: 1,
        nodeId: by.id,
        leaseUntil,
      },
    });
    return { run, task: task.id, attempt: attempt.id };
  }

  async function put(bytes: Uint8Array, query: string, as: Caller = node, sha256 = hashOf(bytes)) {
    const response = await fetch(`${server.url}/blobs/${sha256}?${query}`, {
      method: "PUT",
      body: Buffer.from(bytes),
      headers: as.headers,
    });
    const body = (await response.json()) as { error?: { code: string } };
    return { status: response.status, code: body.error?.code };
  }

  const forTask = (task: string, kind: PackKind, attempt = 1) =>
    `task=${toTypeId("task", task)}&attempt=${attempt}&kind=${kind}`;

  /** Stores bytes with a reference, as the coordinator's own transactions do. */
  async function keep(kind: PackKind, runId: string, taskId?: string): Promise<string> {
    const bytes = randomBytes(1_000);
    const sha256 = await server.services.blobs.putBytes(bytes);
    await server.prisma.pack.create({ data: { sha256, kind, size: 1_000n } });
    await server.prisma.packReference.create({
      data: {
        organizationId: organization.id,
        sha256,
        runId,
        taskId: taskId ?? null,
        subject: taskId ?? runId,
        kind,
      },
    });
    return sha256;
  }

  const read = (sha256: string, as: Caller, headers: Record<string, string> = {}) =>
    fetch(`${server.url}/blobs/${sha256}`, { headers: { ...as.headers, ...headers } });

  describe("PUT", () => {
    test("a live attempt's pack is stored under its hash, once however often it is sent", async () => {
      const { task, attempt } = await lease("GENERATE");
      const bytes = randomBytes(5_000);
      expect(await put(bytes, forTask(task, "ROLLOUTS"))).toEqual({ status: 201, code: undefined });
      expect(await put(bytes, forTask(task, "ROLLOUTS"))).toEqual({ status: 201, code: undefined });
      expect(Buffer.from(await server.services.blobs.read(hashOf(bytes)))).toEqual(bytes);
      expect(await server.prisma.pack.findUniqueOrThrow({ where: { sha256: hashOf(bytes) } })).toMatchObject({
        kind: "ROLLOUTS",
        size: 5_000n,
        attemptId: attempt,
      });
    });

    test("bytes with another hash are refused, and leave nothing", async () => {
      const { task, attempt } = await lease("GENERATE");
      const claimed = hashOf(randomBytes(8));
      expect(await put(randomBytes(100), forTask(task, "ROLLOUTS"), node, claimed)).toEqual({
        status: 422,
        code: "BLOB_HASH_MISMATCH",
      });
      expect(await server.services.blobs.has(claimed)).toBe(false);
      expect(await server.prisma.pack.count({ where: { sha256: claimed } })).toBe(0);
      expect(await readdir(join(server.config.stateDir, "blobs", "tmp"))).toEqual([]);
      expect((await server.prisma.attempt.findUniqueOrThrow({ where: { id: attempt } })).uploaded).toBe(0n);
    });

    test("only the attempt's node may, only while nobody else holds the task", async () => {
      const bytes = randomBytes(100);
      const { task, attempt } = await lease("GENERATE");
      const stranger = await server.node();
      expect(await put(bytes, forTask(task, "ROLLOUTS"), stranger)).toMatchObject({ code: "NOT_FOUND" });
      expect(await put(bytes, forTask(task, "ROLLOUTS"), anonymous)).toMatchObject({ code: "FORBIDDEN" });
      expect(await put(bytes, forTask(task, "ROLLOUTS", 2))).toMatchObject({ code: "NOT_FOUND" });
      await server.prisma.attempt.update({ where: { id: attempt }, data: { state: "EXPIRED" } });
      await server.prisma.task.update({
        where: { id: task },
        data: { state: "OPEN", leaseNodeId: null, leaseUntil: null },
      });
      expect(await put(bytes, forTask(task, "ROLLOUTS"))).toMatchObject({ status: 201 });
      await server.prisma.task.update({ where: { id: task }, data: { attempt: 2 } });
      expect(await put(bytes, forTask(task, "ROLLOUTS"))).toEqual({ status: 409, code: "LEASE_LOST" });
      await server.prisma.attempt.update({ where: { id: attempt }, data: { state: "CANCELLED" } });
      expect(await put(bytes, forTask(task, "ROLLOUTS"))).toMatchObject({ code: "LEASE_LOST" });
    });

    test("a task leaves only what its kind leaves", async () => {
      const { task } = await lease("GENERATE");
      expect(await put(randomBytes(10), forTask(task, "MANIFEST"))).toEqual({
        status: 400,
        code: "INPUT_INVALID",
      });
      expect(
        await put(randomBytes(10), forTask(task, "ROLLOUTS").replace("ROLLOUTS", "NONSENSE")),
      ).toMatchObject({ code: "INPUT_INVALID" });
    });

    test("a blob beyond its size, and uploads beyond the attempt's quota, are refused", async () => {
      const { task } = await lease("GENERATE");
      expect(await put(randomBytes(10_001), forTask(task, "ROLLOUTS"))).toEqual({
        status: 413,
        code: "BLOB_TOO_LARGE",
      });
      const answers = await Promise.all(
        [1, 2, 3, 4].map(() => put(randomBytes(10_000), forTask(task, "ROLLOUTS"))),
      );
      expect(answers.map(({ status }) => status).sort()).toEqual([201, 201, 201, 413]);
      expect(await put(randomBytes(1), forTask(task, "ROLLOUTS"))).toMatchObject({
        code: "BLOB_QUOTA_EXCEEDED",
      });
    });

    test("a client that goes away in the middle leaves nothing, and its quota is given back", async () => {
      const { task, attempt } = await lease("GENERATE");
      const bytes = randomBytes(9_000);
      const sending = request(`${server.url}/blobs/${hashOf(bytes)}?${forTask(task, "ROLLOUTS")}`, {
        method: "PUT",
        headers: { ...node.headers, "content-length": "9000" },
      });
      sending.on("error", () => {});
      sending.write(bytes.subarray(0, 4_000));
      const tmp = join(server.config.stateDir, "blobs", "tmp");
      await until(async () => (await readdir(tmp)).length === 1);
      sending.destroy();
      await until(async () => (await readdir(tmp)).length === 0);
      expect(await server.services.blobs.has(hashOf(bytes))).toBe(false);
      await until(
        async () =>
          (await server.prisma.attempt.findUniqueOrThrow({ where: { id: attempt } })).uploaded === 0n,
      );
    });

    test("an organizer's grant is good for its hash and size until it expires", async () => {
      const bytes = randomBytes(3_000);
      const mutation =
        "mutation($input: CreateUploadInput!) { createUpload(input: $input) { url expiresAt } }";
      const input = { organization: organization.typeId, sha256: hashOf(bytes), size: "3000" };
      const member = await server.person(organization.id);
      const { createUpload } = await server.ask<{ createUpload: { url: string } }>(
        mutation,
        { input },
        member,
      );
      const query = new URL(createUpload.url).search.slice(1);
      expect(createUpload.url.startsWith(`${server.url}/blobs/${hashOf(bytes)}?grant=grant_`)).toBe(true);
      expect(await put(randomBytes(3_000), query, anonymous)).toMatchObject({ code: "FORBIDDEN" });
      expect(await put(bytes, query, anonymous)).toMatchObject({ status: 201 });
      expect(await server.prisma.pack.findUniqueOrThrow({ where: { sha256: hashOf(bytes) } })).toMatchObject({
        kind: "BASE",
      });
      // The answer may have been lost: the same again is answered the same, and nothing is written.
      expect(await put(bytes, query, anonymous)).toMatchObject({ status: 201 });
      await server.prisma.uploadGrant.updateMany({ data: { expiresAt: new Date(Date.now() - 1) } });
      expect(await put(bytes, query, anonymous)).toMatchObject({ code: "FORBIDDEN" });
      const other = await server.organization();
      expect((await server.graphql(mutation, { input }, other.owner)).errors?.[0]?.extensions.code).toBe(
        "FORBIDDEN",
      );
    });
  });

  describe("what many uploads may leave", () => {
    const mutation = "mutation($input: CreateUploadInput!) { createUpload(input: $input) { url } }";

    test("a grant is good for one upload at a time", async () => {
      const bytes = randomBytes(3_000);
      const input = { organization: organization.typeId, sha256: hashOf(bytes), size: "3000" };
      const { createUpload } = await server.ask<{ createUpload: { url: string } }>(
        mutation,
        { input },
        organization.owner,
      );
      const query = new URL(createUpload.url).search.slice(1);
      const sending = request(createUpload.url, { method: "PUT", headers: { "content-length": "3000" } });
      sending.on("error", () => {});
      sending.write(bytes.subarray(0, 1_000));
      await until(
        async () =>
          (await server.prisma.uploadGrant.count({
            where: { sha256: input.sha256, usedAt: { not: null } },
          })) > 0,
      );
      expect(await put(bytes, query, anonymous)).toEqual({ status: 409, code: "STATE_CONFLICT" });
      sending.destroy();
      await until(async () => (await put(bytes, query, anonymous)).status === 201);
    });

    test("an organization announces no more than some bases at a time", async () => {
      const other = await server.organization();
      const announce = async (i: number) =>
        (
          await server.graphql(
            mutation,
            { input: { organization: other.typeId, sha256: hashOf(Buffer.from([i])), size: "1600000" } },
            other.owner,
          )
        ).errors?.[0]?.extensions.code ?? "ok";
      const answers = await Promise.all([1, 2, 3, 4, 5, 6].map(announce));
      expect(answers.sort()).toEqual([...Array(2).fill("BLOB_QUOTA_EXCEEDED"), ...Array(4).fill("ok")]);
    });

    test("a node that claims, sends and drops again and again is stopped", async () => {
      const hoarder = await server.node();
      const answers: number[] = [];
      for (let i = 0; i < 20; i++) {
        const { task, attempt } = await lease("GENERATE", {}, hoarder);
        answers.push((await put(randomBytes(10_000), forTask(task, "ROLLOUTS"), hoarder)).status);
        await server.prisma.attempt.update({ where: { id: attempt }, data: { state: "RELEASED" } });
      }
      expect(answers).toEqual([...Array(16).fill(201), ...Array(4).fill(413)]);
    });
  });

  describe("GET", () => {
    test("a manifest is for every node of an open run and for members; in a closed run the node needs a grant", async () => {
      const open = await keep("MANIFEST", await newRun());
      const closedRun = await newRun({ open: false });
      const closed = await keep("SHARD", closedRun);
      const other = await server.organization();
      const reader = await server.apiKey(organization, ["run:read"]);
      const statuses = async (sha256: string) =>
        await Promise.all(
          [node, organization.owner, reader, other.owner, anonymous].map(
            async (as) => (await read(sha256, as)).status,
          ),
        );
      expect(await statuses(open)).toEqual([200, 200, 200, 404, 401]);
      expect(await statuses(closed)).toEqual([404, 200, 200, 404, 401]);
      const grant = await server.prisma.roleGrant.create({
        data: { organizationId: organization.id, runId: closedRun, nodeId: node.id, role: "RELAY" },
      });
      expect((await read(closed, node)).status).toBe(200);
      await server.prisma.roleGrant.update({ where: { id: grant.id }, data: { revokedAt: new Date() } });
      expect((await read(closed, node)).status).toBe(404);
    });

    test("what hundreds of versions of other runs share is found for one's own run all the same", async () => {
      const sha256 = await keep("SHARD", await newRun({ open: false }));
      const [stranger] = await server.prisma.packReference.findMany({ where: { sha256 } });
      if (stranger === undefined) throw new Error("it was just kept");
      const { id: _, ...reference } = stranger;
      await server.prisma.packReference.createMany({
        data: Array.from({ length: 300 }, () => ({ ...reference, subject: newId() })),
      });
      expect((await read(sha256, node)).status).toBe(404);
      const own = await newRun();
      await server.prisma.packReference.create({ data: { ...reference, runId: own, subject: own } });
      expect((await read(sha256, node)).status).toBe(200);
    });

    test("what a task names is for the node that holds its lease, and only while it holds it", async () => {
      const holder = await server.node();
      for (const [kind, field, pack] of [
        ["VERIFY", "blind", "BLIND"],
        ["TRAIN", "batch", "BATCH"],
      ] as const) {
        const run = await newRun();
        const { task, attempt } = await lease(kind, {}, holder, run);
        const sha256 = await keep(pack, run, task);
        expect((await read(sha256, holder)).status, field).toBe(200);
        expect((await read(sha256, node)).status).toBe(404);
        await server.prisma.attempt.update({ where: { id: attempt }, data: { state: "EXPIRED" } });
        expect((await read(sha256, holder)).status).toBe(404);
      }
    });

    test("a state is for the node that trains on it, though another task made it", async () => {
      const run = await newRun();
      const made = await lease("BASE", {}, node, run);
      const state = await keep("STATE", run, made.task);
      await server.prisma.attempt.update({ where: { id: made.attempt }, data: { state: "SUBMITTED" } });
      const trainer = await server.node();
      expect((await read(state, trainer)).status).toBe(404);
      await lease("TRAIN", { kind: "TRAIN", state }, trainer, run);
      expect((await read(state, trainer)).status).toBe(200);
    });

    test("rollouts and measurements are for organizers who may read them, never for a node", async () => {
      const run = await newRun();
      const { task } = await lease("GENERATE", {}, node, run);
      const sha256 = await keep("ROLLOUTS", run, task);
      const reader = await server.apiKey(organization, ["rollout:read"]);
      const lister = await server.apiKey(organization, ["run:read"]);
      const statuses = await Promise.all(
        [node, organization.owner, reader, lister].map(async (as) => (await read(sha256, as)).status),
      );
      expect(statuses).toEqual([404, 200, 200, 404]);
    });

    test("bytes come whole, in ranges, or not at all when known", async () => {
      const run = await newRun();
      const sha256 = await keep("MANIFEST", run);
      const bytes = Buffer.from(await server.services.blobs.read(sha256));
      const whole = await read(sha256, node);
      expect(
        Object.fromEntries(
          ["etag", "accept-ranges", "content-length", "cache-control"].map((name) => [
            name,
            whole.headers.get(name),
          ]),
        ),
      ).toEqual({
        etag: `"${sha256}"`,
        "accept-ranges": "bytes",
        "content-length": "1000",
        "cache-control": "private, max-age=31536000, immutable",
      });
      expect(Buffer.from(await whole.arrayBuffer())).toEqual(bytes);
      const part = await read(sha256, node, { range: "bytes=100-199" });
      expect([part.status, part.headers.get("content-range")]).toEqual([206, "bytes 100-199/1000"]);
      expect(Buffer.from(await part.arrayBuffer())).toEqual(bytes.subarray(100, 200));
      const last = await read(sha256, node, { range: "bytes=-10" });
      expect(Buffer.from(await last.arrayBuffer())).toEqual(bytes.subarray(990));
      const beyond = await read(sha256, node, { range: "bytes=1000-" });
      expect([beyond.status, beyond.headers.get("content-range")]).toEqual([416, "bytes */1000"]);
      expect((await read(sha256, node, { "if-none-match": `"${sha256}"` })).status).toBe(304);
    });
  });

  // Only of the store that we start can objects be made to look old.
  describe.skipIf(kind === "s3" && process.env.MUSTER_TEST_S3 !== undefined)("garbage", () => {
    const old = new Date(Date.now() - 7_200_000);
    const ageBytes = (sha256: string) => {
      const path = `${sha256.slice(0, 2)}/${sha256}`;
      if (s3 !== undefined) return s3.age(`blobs/${path}`, old);
      return utimes(join(server.config.stateDir, "blobs", path), old, old);
    };
    const age = async (sha256: string) => {
      await server.prisma.pack.updateMany({ where: { sha256 }, data: { createdAt: old } });
      await ageBytes(sha256);
    };

    test("an old pack without references goes, a referenced or a young one stays", async () => {
      const run = await newRun();
      const kept = await keep("MANIFEST", run);
      const { task } = await lease("GENERATE");
      const [stale, young] = [randomBytes(50), randomBytes(50)];
      await put(stale, forTask(task, "ROLLOUTS"));
      await put(young, forTask(task, "ROLLOUTS"));
      await age(kept);
      await age(hashOf(stale));
      expect(await collectGarbage(server.services)).toBe(1);
      const there = await Promise.all(
        [kept, hashOf(stale), hashOf(young)].map((sha256) => server.services.blobs.has(sha256)),
      );
      expect(there).toEqual([true, false, true]);
      expect(await server.prisma.pack.count({ where: { sha256: hashOf(stale) } })).toBe(0);
    });

    test("an old pack that is sent again stays", async () => {
      const { task } = await lease("GENERATE");
      const bytes = randomBytes(60);
      await put(bytes, forTask(task, "ROLLOUTS"));
      await age(hashOf(bytes));
      await put(bytes, forTask(task, "ROLLOUTS"));
      expect(await collectGarbage(server.services)).toBe(0);
      expect(await server.services.blobs.has(hashOf(bytes))).toBe(true);
    });

    test("a file stored again after its row went stays", async () => {
      const sha256 = await server.services.blobs.putBytes(randomBytes(70));
      expect(await server.services.blobs.deleteOlder(sha256, old)).toBe(false);
      expect(await server.services.blobs.has(sha256)).toBe(true);
    });

    test("an old file that no row knows goes, and what cut-off uploads left", async () => {
      const stray = await server.services.blobs.putBytes(randomBytes(80));
      const fresh = await server.services.blobs.putBytes(randomBytes(80));
      await ageBytes(stray);
      expect(await collectStrayFiles(server.services)).toBe(1);
      expect([await server.services.blobs.has(stray), await server.services.blobs.has(fresh)]).toEqual([
        false,
        true,
      ]);
    });
  });

  test("a name that is no hash never becomes a path", async () => {
    for (const name of ["../../../etc/passwd", "", "A".repeat(64), `${"a".repeat(63)}/`]) {
      await expect(server.services.blobs.read(name)).rejects.toMatchObject({ code: "BLOB_NOT_FOUND" });
    }
  });
});

describe("the file store", () => {
  test("a full disk is told as STORAGE_FULL and leaves nothing half-stored", async () => {
    const folder = await mkdtemp(join(tmpdir(), "muster-full-"));
    const store = await createFileStore(folder);
    const bytes = randomBytes(1_000);
    const source = Readable.from(
      (async function* () {
        yield bytes.subarray(0, 500);
        // What the system says when a write finds no room.
        throw Object.assign(new Error("no space left on device"), { code: "ENOSPC" });
      })(),
    );
    await expect(store.put(hashOf(bytes), source, { maxBytes: 1_000 })).rejects.toMatchObject({
      code: "STORAGE_FULL",
      retryable: true,
    });
    expect(await readdir(join(folder, "tmp"))).toEqual([]);
    expect(await store.has(hashOf(bytes))).toBe(false);
    await rm(folder, { recursive: true });
  });
});
