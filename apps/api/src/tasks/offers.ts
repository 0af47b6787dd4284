import type { TaskKind } from "@muster/db";
import type { Ctx } from "../context.ts";
import { nudges } from "../events/bus.ts";

/** Says "look": tasks of these kinds may be claimable. */
export type TaskOffer = { readonly kinds: readonly TaskKind[]; readonly at: Date };

// A planner's pass opens several tasks at once, and every offer makes every idle node claim.
const atLeastMs = 100;
const atMostMs = 15_000;

/**
 * Offers of these kinds: one at once (whoever connects late has missed nothing), then when tasks open or come back, at least every 15 s.
 * Listening starts when this returns.
 */
export function taskOffers(ctx: Ctx, asked: readonly TaskKind[]): AsyncIterableIterator<TaskOffer> {
  // Each is a listener, and the list is written out with every offer.
  const kinds = [...new Set(asked)];
  const heard = nudges(
    ctx.bus,
    kinds.map((kind) => `offers:${kind}` as const),
    { everyMs: atMostMs },
  );
  let last: number | undefined;
  return {
    [Symbol.asyncIterator]() {
      return this;
    },
    async next() {
      if (last !== undefined) {
        const pause = atLeastMs - (Date.now() - last);
        if (pause > 0) await new Promise((resolve) => setTimeout(resolve, pause));
      }
      let nudged = kinds;
      if (last !== undefined) {
        const { value, done } = await heard.next();
        if (done) return { value: undefined, done: true };
        const named = kinds.filter((kind) => value.has(`offers:${kind}`));
        // None is named when the time was up or messages may have been missed: look for all of them.
        if (named.length > 0) nudged = named;
      }
      last = Date.now();
      return { value: { kinds: nudged, at: new Date() }, done: false };
    },
    async return() {
      await heard.return?.();
      return { value: undefined, done: true };
    },
  };
}
