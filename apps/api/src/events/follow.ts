import { fromTypeId, prefixOf, toTypeId } from "@muster/protocol";
import { allows, assertAllowed } from "../auth/permissions.ts";
import type { Ctx } from "../context.ts";
import { CodedError, notFound } from "../errors.ts";
import type { EventBatch } from "./hub.ts";

/** What has a stream of events. */
export type StreamOwner = { readonly kind: "run" | "organization" | "node"; readonly id: string };

/** The stream of what an id names: a run, an organization or a node. @throws CodedError `INPUT_INVALID` */
export function streamOf(id: string): StreamOwner {
  switch (prefixOf(id)) {
    case "run":
      return { kind: "run", id: fromTypeId(id) };
    case "org":
      return { kind: "organization", id: fromTypeId(id) };
    case "node":
      return { kind: "node", id: fromTypeId(id) };
    default:
      throw new CodedError(
        "INPUT_INVALID",
        `"${id.slice(0, 60)}" has no events. Give the id of a run, an organization or a node.`,
      );
  }
}

/** The id that stands for a stream's internal name on every surface. */
export function streamId(stream: string): string {
  const [kind, id = ""] = stream.split(":");
  return toTypeId(kind === "organization" ? "org" : kind === "node" ? "node" : "run", id);
}

/**
 * Follows a stream after checking that the actor may: members of the organization for a run or an organization, the node itself for a node.
 * @param input.after number of the last event applied; undefined for only what happens from now on
 * @throws CodedError `NOT_FOUND`, `FORBIDDEN`, `UNAUTHENTICATED` or `INPUT_INVALID`
 */
export async function followStream(
  ctx: Ctx,
  { owner, after }: { owner: StreamOwner; after: bigint | undefined },
): Promise<AsyncIterableIterator<EventBatch>> {
  if (after !== undefined && after < 0n)
    throw new CodedError("INPUT_INVALID", "`after` is the number of the last event applied, 0 or more.");
  await assertMayFollow(ctx, owner);
  return ctx.hub.follow(`${owner.kind}:${owner.id}`, after);
}

async function assertMayFollow(ctx: Ctx, owner: StreamOwner): Promise<void> {
  switch (owner.kind) {
    case "run": {
      const run = await ctx.prisma.run.findUnique({
        where: { id: owner.id },
        select: { organizationId: true },
      });
      // Somebody else's run is answered like one that does not exist.
      if (run === null || !allows(ctx.actor, "run:read", run.organizationId)) throw notFound("The run");
      return;
    }
    case "organization":
      assertAllowed(ctx.actor, "run:read", owner.id);
      return;
    case "node":
      if (ctx.actor.kind === "node" && ctx.actor.nodeId === owner.id) return;
      throw notFound("The node's stream");
  }
}
