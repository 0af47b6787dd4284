import type { Ctx } from "../context.ts";
import { runStream } from "../events/append.ts";

// A page reads a run and then follows its events from `asOf`. The cursor must be read before the rows: an event numbered in between
// would be in neither. Events carry absolute values, so one that is in both does no harm.
const heads = new WeakMap<Ctx, Map<string, Promise<bigint>>>();

/** The cursor of a run's event stream. The first call of a request decides; make it before reading the run. */
export function asOf(ctx: Ctx, runId: string): Promise<bigint> {
  let known = heads.get(ctx);
  if (known === undefined) {
    known = new Map();
    heads.set(ctx, known);
  }
  let head = known.get(runId);
  if (head === undefined) {
    head = ctx.prisma.eventStream
      .findUnique({ where: { stream: runStream(runId) }, select: { head: true } })
      .then((row) => row?.head ?? 0n);
    known.set(runId, head);
  }
  return head;
}
