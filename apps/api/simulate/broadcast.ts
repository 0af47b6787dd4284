import type { Role } from "@muster/db";
import { toTypeId } from "@muster/protocol";
import { assignParents } from "@muster/shardcast";
import type { StoredVersion } from "./checkpoints.ts";
import type { Loader } from "./copy.ts";
import type { Past } from "./history.ts";
import type { SimulatedNode, World } from "./world.ts";

/** The roles that the organizer granted in a run. The first two validators are its own. */
export function addGrants(loader: Loader, { plan }: Past, { staff }: World): void {
  const random = plan.random.fork("grants");
  const at = plan.createdAt + 1_000;
  const grant = (node: SimulatedNode, role: Role, own = false) =>
    loader.add("RoleGrant", {
      id: random.uuid(at),
      organizationId: plan.organizationId,
      runId: plan.id,
      nodeId: node.id,
      role,
      grantedById: plan.createdById,
      own,
      createdAt: new Date(at),
    });
  for (const node of staff.trainers) grant(node, "TRAINER");
  for (const [i, node] of staff.validators.entries()) grant(node, "VALIDATOR", i < 2);
  for (const node of staff.evaluators) grant(node, "EVALUATOR");
  for (const node of staff.relays) grant(node, "RELAY");
}

/** Children of the origin and of each relay, as the coordinator's configuration has it when nothing else is said. */
const fanOut = 4;

/** The relays of a run under way in their tree, and who has the newest versions from whom. */
export function addBroadcast(
  loader: Loader,
  past: Past,
  input: {
    world: World;
    now: number;
    checkpoints: ReadonlyMap<number, string>;
    stored: ReadonlyMap<number, StoredVersion>;
  },
): void {
  const { plan } = past;
  if (plan.state !== "RUNNING" && plan.state !== "PAUSED") return;
  const { world, now } = input;
  const random = plan.random.fork("relays");
  const owner = { organizationId: plan.organizationId, runId: plan.id };
  const nodes = plan.flagship ? world.staff.relays : world.staff.relays.slice(0, 5);
  const relays = nodes.map((node, i) => ({
    node,
    id: random.uuid(plan.createdAt + i),
    uplinkMbps: random.pick([50, 100, 200, 500, 1_000, 2_500]),
    // The last two have left, and one is gone for good.
    state: i >= nodes.length - 1 ? "DROPPED" : i >= nodes.length - 2 ? "OFFLINE" : "LIVE",
  }));
  const live = relays.filter(({ state }) => state === "LIVE");
  const parents = assignParents(
    live.map(({ id, uplinkMbps, node }) => ({ id, uplinkMbps, region: node.region, parent: undefined })),
    fanOut,
  );
  const size = input.stored.get(past.steps)?.size ?? 0;
  const inOrder = [...relays].sort((a, b) => depthOf(parents, a.id) - depthOf(parents, b.id));
  for (const { node, id, uplinkMbps, state } of inOrder)
    loader.add("Relay", {
      id,
      ...owner,
      nodeId: node.id,
      url: `https://${node.name}.example.net:8443`,
      region: node.region,
      uplinkMbps,
      state,
      parentId: parents.get(id) ?? null,
      placed: parents.has(id),
      newestVersion: past.steps,
      heldBytes: size * 4,
      sentBytes: size * random.between(40, 4_000),
      clients: state === "LIVE" ? random.between(0, 40) : 0,
      lastSeenAt: new Date(state === "LIVE" ? now : now - 3_600_000),
      probedAt: new Date(now - random.between(1_000, 9_000)),
      probeFailures: 0,
      reason:
        state === "DROPPED"
          ? "It sent a shard that is not what it is named after."
          : state === "OFFLINE"
            ? "It said that it goes away."
            : null,
      createdAt: new Date(plan.createdAt + 60_000),
      updatedAt: new Date(now - 60_000),
    });
  addReceipts(loader, past, { ...input, live, owner });
}

function depthOf(parents: ReadonlyMap<string, string | null>, id: string): number {
  let depth = 0;
  for (let at = parents.get(id); at != null; at = parents.get(at)) depth++;
  return depth;
}

function addReceipts(
  loader: Loader,
  past: Past,
  input: {
    checkpoints: ReadonlyMap<number, string>;
    stored: ReadonlyMap<number, StoredVersion>;
    live: readonly { id: string; node: SimulatedNode; uplinkMbps: number }[];
    owner: { organizationId: string; runId: string };
  },
): void {
  const { plan, steps, versions, log, participants } = past;
  const { owner, live } = input;
  const random = plan.random.fork("receipts");
  const isRelay = new Set(live.map(({ node }) => node.id));
  const present = participants.filter(({ silence, id }) => silence < 30_000 && !isRelay.has(id));
  for (const { version, at } of versions.slice(-4)) {
    const checkpointId = input.checkpoints.get(version);
    const size = input.stored.get(version)?.size ?? 0;
    if (checkpointId === undefined) continue;
    // The newest reached everybody; of those before, some thousand are enough.
    for (const node of version === steps ? present : present.slice(0, 1_000)) {
      const relay = random.chance(0.85) ? random.pick(live.length > 0 ? live : [null]) : null;
      const seconds =
        Math.round(1000 * (0.4 + (6 * -Math.log(1 - random.next())) / (0.3 + node.speed))) / 1000;
      const id = random.uuid(at + seconds * 1000);
      const receivedAt = new Date(at + seconds * 1000);
      const credited = relay === null || relay.node.ownerId === node.ownerId ? 0 : size;
      loader.add("CheckpointReceipt", {
        id,
        ...owner,
        checkpointId,
        version,
        nodeId: node.id,
        layout: "FULL",
        seconds,
        bytes: size,
        wastedBytes: random.chance(0.03) ? Math.floor(size / 3) : 0,
        creditedBytes: credited,
        receivedAt,
        settledAt: credited === 0 ? receivedAt : null,
      });
      log.event("checkpoint.received", toTypeId("ckpt", checkpointId), receivedAt.getTime(), {
        node: toTypeId("node", node.id),
        version,
        layout: "FULL",
        seconds,
        bytes: size,
      });
      if (relay !== null)
        loader.add("ReceiptSource", {
          receiptId: id,
          relayId: relay.id,
          ...owner,
          bytes: size,
          creditedBytes: credited,
        });
    }
  }
}
