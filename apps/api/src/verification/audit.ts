import { createCipheriv, createDecipheriv, createHash, createHmac, hkdfSync, randomBytes } from "node:crypto";
import type { AuditEpoch } from "@muster/db";
import { newId } from "@muster/protocol";
import { LRUCache } from "lru-cache";
import type { Services, Tx } from "../context.ts";
import type { Loop } from "../loops.ts";

// Invariant: whether a group is audited, and where decoys fall, is decided by a key that was fixed (its hash public)
// before the pack existed and is kept secret until nothing can depend on it any more. A worker commits first.

const epochHours = 24;
const revealGraceMs = 600_000;

/** The secret draws of one group: all of them follow from the epoch's key, the group and the committed pack. */
export type SecretDraws = {
  /** Uniform in [0, 1): audit when it is below the node's audit rate. */
  readonly audit: number;
  /** Philox key of the decoys. */
  readonly decoys: readonly [number, number];
  /** 32 bytes: whether its audit is measured again, and how a canary made of it differs. */
  readonly canary: Uint8Array;
};

/**
 * The id of a group. It follows from the attempt and the pack that was committed to, so there is one draw for them: nobody gets another by
 * sending the same again, or to several processes at once. A UUIDv7 of the time of the claim, the group's place, and a hash.
 * @param index the group's place in its task, below 4,096.
 */
export function groupIdOf(
  attempt: { readonly id: string; readonly claimedAt: Date },
  packHash: string,
  index: number,
): string {
  const time = attempt.claimedAt.getTime().toString(16).padStart(12, "0");
  const hash = createHash("sha256").update(`muster/group/v1\0${attempt.id}\0${packHash}\0${index}`).digest();
  const variant = ((hash[0] ?? 0) & 0x3f) | 0x80;
  const tail = `${variant.toString(16)}${hash.toString("hex", 1, 8)}`;
  const place = index.toString(16).padStart(3, "0");
  return `${time.slice(0, 8)}-${time.slice(8)}-7${place}-${tail.slice(0, 4)}-${tail.slice(4)}`;
}

/** HMAC-SHA-256(epoch key, `"muster/<purpose>/v1\0"` ‖ group id (16 bytes) ‖ pack hash (32 bytes)), as docs/protocol.md has it. */
export function secretDraws(
  key: Uint8Array,
  group: { readonly id: string; readonly packHash: string },
): SecretDraws {
  const audit = draw(key, "audit", group);
  const decoys = draw(key, "decoys", group);
  return {
    // The comparison with auditRate · 2⁶⁴ needs no more than a double's 53 bits.
    audit: Number(audit.readBigUInt64BE(0) >> 11n) / 2 ** 53,
    decoys: [decoys.readUInt32LE(0), decoys.readUInt32LE(4)],
    canary: draw(key, "canary", group),
  };
}

function draw(
  key: Uint8Array,
  purpose: "audit" | "decoys" | "canary",
  group: { id: string; packHash: string },
): Buffer {
  return createHmac("sha256", key)
    .update(`muster/${purpose}/v1\0`)
    .update(Buffer.from(group.id.replaceAll("-", ""), "hex"))
    .update(Buffer.from(group.packHash, "hex"))
    .digest();
}

/** Opens a run's first epoch; the loop opens every later one before it begins. */
export async function openFirstEpoch(
  services: Services,
  tx: Tx,
  run: { id: string; organizationId: string },
): Promise<void> {
  await insertEpoch(services, tx, run, 1, new Date());
}

/** The epoch in force, with its key. Opens one when the loop has not come round yet (a run resumed after days). */
export async function currentEpoch(
  services: Services,
  run: { id: string; organizationId: string },
): Promise<{ number: number; key: Uint8Array }> {
  const now = new Date();
  const find = () =>
    services.prisma.auditEpoch.findFirst({
      where: { runId: run.id, openedAt: { lte: now }, closedAt: { gt: now } },
      orderBy: { number: "desc" },
    });
  let epoch = await find();
  if (epoch === null) {
    const last = await services.prisma.auditEpoch.aggregate({
      where: { runId: run.id },
      _max: { number: true },
    });
    await insertEpoch(services, services.prisma, run, (last._max.number ?? 0) + 1, now);
    epoch = await find();
  }
  if (epoch === null) throw new Error(`run ${run.id} has no audit epoch in force`);
  return { number: epoch.number, key: epochKey(services, epoch) };
}

// A verdict needs its epoch's key; keys never change and a coordinator has few epochs at hand.
const keys = new LRUCache<string, Uint8Array>({ max: 1000 });

/** The key of a past or present epoch. */
export async function epochKeyOf(services: Services, runId: string, number: number): Promise<Uint8Array> {
  const name = `${runId}:${number}`;
  const known = keys.get(name);
  if (known !== undefined) return known;
  const epoch = await services.prisma.auditEpoch.findUniqueOrThrow({
    where: { runId_number: { runId, number } },
  });
  const key = epochKey(services, epoch);
  keys.set(name, key);
  return key;
}

/** Opens the next epoch an hour before the present one closes, so that its key's hash is public before it begins; reveals keys nothing depends on. */
export const epochLoop: Loop = {
  name: "audit-epochs",
  everyMs: 60_000,
  leader: true,
  async run(ctx) {
    const soon = new Date(Date.now() + 3_600_000);
    const ending = await ctx.prisma.run.findMany({
      where: { state: { in: ["RUNNING", "PAUSED"] }, auditEpochs: { none: { closedAt: { gt: soon } } } },
      select: { id: true, organizationId: true, auditEpochs: { orderBy: { number: "desc" }, take: 1 } },
      take: 64,
    });
    for (const run of ending) {
      const last = run.auditEpochs[0];
      // A run that was created days ago and begins now does not catch up on days on which nothing happened.
      const openedAt = new Date(Math.max(last?.closedAt?.getTime() ?? 0, Date.now()));
      await insertEpoch(ctx, ctx.prisma, run, (last?.number ?? 0) + 1, openedAt);
    }
    // An intake that read the key just before the end has stored its groups by then. One statement over all of them: so many at a
    // time, those whose groups are never final would keep all others secret.
    await ctx.prisma.$executeRaw`
      UPDATE "AuditEpoch" e SET "revealedAt" = now()
      WHERE e."revealedAt" IS NULL AND e."closedAt" < ${new Date(Date.now() - revealGraceMs)}
        AND NOT EXISTS (SELECT 1 FROM "Group" g WHERE g."runId" = e."runId" AND g.epoch = e.number AND g."finalAt" IS NULL)`;
  },
};

/** The key of a revealed epoch as hexadecimal; null while it is secret. */
export function revealedKey(services: Services, epoch: AuditEpoch): string | null {
  return epoch.revealedAt === null ? null : Buffer.from(epochKey(services, epoch)).toString("hex");
}

/** Opens an epoch of 24 hours with a key of its own, unless the run has one of this number. */
export async function insertEpoch(
  services: Services,
  tx: Tx,
  run: { id: string; organizationId: string },
  number: number,
  openedAt: Date,
): Promise<void> {
  const key = randomBytes(32);
  await tx.auditEpoch.createMany({
    data: [
      {
        id: newId(),
        organizationId: run.organizationId,
        runId: run.id,
        number,
        keyHash: createHash("sha256").update(key).digest("hex"),
        key: seal(services, run.id, number, key),
        openedAt,
        closedAt: new Date(openedAt.getTime() + epochHours * 3_600_000),
      },
    ],
    // Two replicas may open the same epoch: the first one's key stands.
    skipDuplicates: true,
  });
}

// AES-256-GCM under a key derived from the coordinator's secret; run and number are authenticated, so rows cannot be swapped.
function seal(services: Services, runId: string, number: number, key: Uint8Array): Uint8Array<ArrayBuffer> {
  const iv = randomBytes(12);
  const cipher = createCipheriv("aes-256-gcm", wrappingKey(services), iv).setAAD(
    Buffer.from(`${runId}:${number}`),
  );
  const sealed = Buffer.concat([iv, cipher.update(key), cipher.final(), cipher.getAuthTag()]);
  return Uint8Array.from(sealed);
}

function epochKey(services: Services, epoch: AuditEpoch): Uint8Array {
  const sealed = Buffer.from(epoch.key);
  const decipher = createDecipheriv("aes-256-gcm", wrappingKey(services), sealed.subarray(0, 12));
  decipher.setAAD(Buffer.from(`${epoch.runId}:${epoch.number}`)).setAuthTag(sealed.subarray(-16));
  try {
    return Buffer.concat([decipher.update(sealed.subarray(12, -16)), decipher.final()]);
  } catch (cause) {
    throw new Error(
      "An audit key does not open with this MUSTER_SECRET. Start the coordinator with the secret the run was created under.",
      { cause },
    );
  }
}

function wrappingKey(services: Services): Uint8Array {
  return new Uint8Array(hkdfSync("sha256", services.config.secret, "", "muster/audit-epochs/v1", 32));
}
