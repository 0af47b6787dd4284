// Judging a submission holds its packs in memory and the event loop while it decodes them. Whoever sends a thousand at once must not
// make us hold a thousand, nor keep the others waiting for more than one of them.

const atOnce = 4;

let running = 0;
const waiting: (() => void)[] = [];
const last = new Map<string, Promise<unknown>>();

/** Runs the work when it is the node's turn: one at a time for each node, a few in this process. Its outcome is the work's. */
export async function inTurn<T>(nodeId: string, work: () => Promise<T>): Promise<T> {
  const before = last.get(nodeId);
  const turn = (async () => {
    await before?.catch(() => {});
    if (running >= atOnce) await new Promise<void>((resolve) => waiting.push(resolve));
    else running++;
    try {
      return await work();
    } finally {
      // Handed on without giving it up in between.
      const next = waiting.shift();
      if (next === undefined) running--;
      else next();
    }
  })();
  last.set(nodeId, turn);
  try {
    return await turn;
  } finally {
    if (last.get(nodeId) === turn) last.delete(nodeId);
  }
}
