/** A relay as the tree sees it. */
export type TreeRelay = {
  id: string;
  /** What its uplink carries, Mbit/s: of those who may serve, the strongest stand nearest to the origin. */
  uplinkMbps: number;
  /** Relays of one region are put below each other where it costs no depth; null matches nobody. */
  region: string | null;
  /** Whom it pulls from now: another relay, null for the origin, undefined while it has no place. */
  parent: string | null | undefined;
  /**
   * `inner` (default) has children; a `leaf` has none, because it is not proven yet, and makes room for any inner relay; a `root` needs no
   * parent and is as good as the origin: a mirror of the store.
   */
  rank?: "root" | "inner" | "leaf";
};

/**
 * Gives every relay its parent: null for the origin, which feeds as many relays as any relay does. Every inner relay gets a place; leaves
 * get what is left over, and those without a place are missing from the answer.
 *
 * The tree is mended, not rebuilt: who has a valid parent keeps it. When a relay is gone, its children move and take what hangs below them
 * along, each to the shallowest free place, at one depth to a parent of their region, and then to the one whose uplink has most to spare.
 * Where that would make the tree too deep, the first of them takes the place that is free now and the others go below it; whom it has no room
 * for goes below a sibling, and so on: a few moves a level. Inner relays stand at most one level deeper than the fullest possible tree would have them; a new tree is exactly as deep. One call
 * exchanges at most one relay with a child of at least twice its uplink, so a better order comes with few moves at a time.
 * @param fanOut most children of the origin and of each relay, at least 1
 */
export function assignParents(relays: readonly TreeRelay[], fanOut: number): Map<string, string | null> {
  const tree = keepValid(relays, fanOut);
  tree.adopt(tree.unplaced().filter((one) => rankOf(one) === "inner"));
  tree.flatten();
  tree.exchangeOne();
  // Those that inner relays pushed out are among them by now.
  for (const relay of tree.unplaced()) tree.attach(relay, { evict: false });
  return tree.parents();
}

/** Least number of levels in which `relays` find room when nobody has more than `fanOut` children. */
export function leastDepth(relays: number, fanOut: number): number {
  let depth = 0;
  for (let room = 0, level = 1; room < relays; depth++) {
    level *= fanOut;
    room += level;
  }
  return depth;
}

/** Twice the uplink: less is within what such figures are worth, and every exchange makes a dozen relays move. */
const worthExchanging = 2;

const rankOf = (relay: TreeRelay) => relay.rank ?? "inner";

/** Strongest first; the id decides between equals, so that everyone computes the same tree. */
const byUplink = (a: TreeRelay, b: TreeRelay) => b.uplinkMbps - a.uplinkMbps || (a.id < b.id ? -1 : 1);

/** The tree as it stands, without the edges that cannot stay. */
function keepValid(relays: readonly TreeRelay[], fanOut: number) {
  const byId = new Map(relays.map((relay) => [relay.id, relay]));
  const parentOf = new Map<string, string | null>();
  const childrenOf = new Map<string | null, TreeRelay[]>([[null, []]]);
  for (const { id } of relays) childrenOf.set(id, []);
  const children = (id: string | null) => childrenOf.get(id) ?? [];

  const link = (relay: TreeRelay, parent: string | null) => {
    parentOf.set(relay.id, parent);
    children(parent).push(relay);
  };
  const unlink = (relay: TreeRelay) => {
    const parent = parentOf.get(relay.id);
    if (parent === undefined) return;
    parentOf.delete(relay.id);
    childrenOf.set(
      parent,
      children(parent).filter((child) => child !== relay),
    );
  };

  // Inner relays first: where a parent has too many, it keeps those that others depend on.
  for (const rank of ["inner", "leaf"] as const) {
    for (const relay of relays.filter((one) => rankOf(one) === rank).sort(byUplink)) {
      const { parent } = relay;
      if (parent === undefined || children(parent).length >= fanOut) continue;
      const above = parent === null ? undefined : byId.get(parent);
      if (parent !== null && (above === undefined || above === relay || rankOf(above) === "leaf")) continue;
      link(relay, parent);
    }
  }
  // Followed upwards, a valid edge ends at the origin, at a root or at a relay without a parent; in a circle it never does.
  for (const relay of relays) {
    const passed = new Set<string>();
    for (let at: string | null | undefined = relay.id; at != null; at = parentOf.get(at)) {
      const here = byId.get(at);
      if (passed.has(at) && here !== undefined) unlink(here);
      passed.add(at);
    }
  }

  /** Relays that are connected to the origin or a root, with their depth; the origin (null) and roots have depth 0. */
  const depths = (): Map<string | null, number> => {
    const depth = new Map<string | null, number>([[null, 0]]);
    for (const relay of relays) if (rankOf(relay) === "root") depth.set(relay.id, 0);
    // A map is walked in the order of insertion, what is inserted on the way included.
    for (const [id, level] of depth) for (const child of children(id)) depth.set(child.id, level + 1);
    return depth;
  };
  const within = (top: TreeRelay): Set<string> => {
    const ids = new Set([top.id]);
    for (const id of ids) for (const child of children(id)) ids.add(child.id);
    return ids;
  };

  /** The best place for a relay: free, or held by a leaf when `evict`; never below itself. */
  const bestPlace = (relay: TreeRelay, { evict }: { evict: boolean }): string | null | undefined => {
    const own = within(relay);
    let best: { parent: string | null; score: readonly number[] } | undefined;
    for (const [parent, depth] of depths()) {
      if (parent !== null && own.has(parent)) continue;
      const above = parent === null ? undefined : byId.get(parent);
      if (above !== undefined && rankOf(above) === "leaf") continue;
      const held = children(parent);
      const free = held.length < fanOut;
      if (!free && !(evict && held.some((child) => rankOf(child) === "leaf"))) continue;
      const score = [
        depth,
        distance(relay, above),
        // A mirror spares the origin; a free place spares a leaf its move.
        above !== undefined && rankOf(above) === "root" ? 0 : 1,
        free ? 0 : 1,
        -(above?.uplinkMbps ?? 0) / (held.length + 1),
      ];
      if (best === undefined || before(score, best.score)) best = { parent, score };
    }
    return best?.parent;
  };
  const place = (relay: TreeRelay, parent: string | null) => {
    unlink(relay);
    if (children(parent).length >= fanOut) {
      const leaf = children(parent).findLast((child) => rankOf(child) === "leaf");
      if (leaf !== undefined) unlink(leaf);
    }
    link(relay, parent);
  };

  const heightOf = (relay: TreeRelay): number => {
    const level = new Map([[relay.id, 1]]);
    let height = 1;
    for (const [id, at] of level)
      for (const child of children(id)) {
        if (rankOf(child) !== "leaf") height = at + 1;
        level.set(child.id, at + 1);
      }
    return height;
  };
  /** Puts a relay below another one. Without room the weakest child makes way for it, and goes below the strongest of the others. */
  const pushDown = (relay: TreeRelay, parent: string, pushed: Set<string>): void => {
    unlink(relay);
    pushed.add(relay.id);
    const held = [...children(parent)].sort(byUplink);
    const leaf = held.findLast((child) => rankOf(child) === "leaf");
    const weakest =
      held.length < fanOut ? undefined : (leaf ?? held.findLast(({ id }) => !pushed.has(id)) ?? held.at(-1));
    if (weakest !== undefined) unlink(weakest);
    link(relay, parent);
    if (weakest === undefined || weakest === leaf) return;
    const others = held.filter((child) => child !== weakest);
    const next = others.find(({ id }) => !pushed.has(id)) ?? others[0] ?? relay;
    pushDown(weakest, next.id, pushed);
  };

  const inner = relays.filter((one) => rankOf(one) === "inner");
  const mostDepth = leastDepth(inner.length, fanOut) + 1;

  return {
    /** Gives inner relays that lost their parent, or never had one, a place. */
    adopt(orphans: readonly TreeRelay[]) {
      const heirs = new Map<string, string>();
      const pushed = new Set<string>();
      for (const relay of orphans) {
        const lost = relay.parent ?? "";
        const heir = heirs.get(lost);
        const parent = bestPlace(relay, { evict: true });
        const depth = (depths().get(parent ?? null) ?? 0) + heightOf(relay);
        if (heir !== undefined && depth > mostDepth) pushDown(relay, heir, pushed);
        else if (parent !== undefined) place(relay, parent);
        if (heir === undefined && lost !== "") heirs.set(lost, relay.id);
      }
    },

    /** Relays without a parent, strongest first. */
    unplaced: () => relays.filter((one) => rankOf(one) !== "root" && !parentOf.has(one.id)).sort(byUplink),

    attach(relay: TreeRelay, options: { evict: boolean }) {
      const parent = bestPlace(relay, options);
      if (parent !== undefined) place(relay, parent);
    },

    /** Moves the deepest inner relays up while the tree is more than one level deeper than it need be. */
    flatten() {
      // Each turn takes one relay up; none can be taken up more often than it is deep.
      for (let turns = inner.length * inner.length; turns > 0; turns--) {
        const depth = depths();
        const levelOf = (relay: TreeRelay) => depth.get(relay.id) ?? 0;
        const deepest = inner.reduce<TreeRelay | undefined>(
          (found, relay) => (found === undefined || levelOf(relay) > levelOf(found) ? relay : found),
          undefined,
        );
        if (deepest === undefined || levelOf(deepest) <= mostDepth) return;
        const parent = bestPlace(deepest, { evict: true });
        if (parent === undefined || (depth.get(parent) ?? 0) + 1 >= levelOf(deepest)) return;
        place(deepest, parent);
      }
    },

    /** Puts the child that most outdoes its parent in the parent's place, and the parent in its. */
    exchangeOne() {
      let most: { child: TreeRelay; above: TreeRelay; gain: number } | undefined;
      for (const child of relays) {
        const above = byId.get(parentOf.get(child.id) ?? "");
        if (above === undefined || rankOf(child) !== "inner" || rankOf(above) !== "inner") continue;
        const gain = child.uplinkMbps / above.uplinkMbps;
        if (gain >= worthExchanging && gain > (most?.gain ?? 0)) most = { child, above, gain };
      }
      if (most === undefined) return;
      const { child, above } = most;
      const top = parentOf.get(above.id);
      if (top === undefined) return;
      const siblings = children(above.id).filter((one) => one !== child);
      const below = [...children(child.id)];
      for (const one of [above, child, ...siblings, ...below]) unlink(one);
      link(child, top);
      link(above, child.id);
      for (const one of siblings) link(one, child.id);
      for (const one of below) link(one, above.id);
    },

    parents(): Map<string, string | null> {
      const placed = new Map(
        relays.filter((one) => rankOf(one) === "root").map(({ id }) => [id, null] as [string, string | null]),
      );
      for (const id of depths().keys()) {
        const parent = id === null ? undefined : parentOf.get(id);
        if (id !== null && parent !== undefined) placed.set(id, parent);
      }
      return placed;
    },
  };
}

/** 0 within a region, 2 between two, 1 where one of them is unknown. */
function distance(relay: TreeRelay, above: TreeRelay | undefined): number {
  if (relay.region === null || above === undefined || above.region === null) return 1;
  return relay.region === above.region ? 0 : 2;
}

function before(a: readonly number[], b: readonly number[]): boolean {
  const at = a.findIndex((value, index) => value !== b[index]);
  return at >= 0 && (a[at] ?? 0) < (b[at] ?? 0);
}
