import fc from "fast-check";
import { expect, test } from "vitest";
import { assignParents, leastDepth, type TreeRelay } from "../src/index.ts";

const relay = (id: string, rest: Partial<TreeRelay> = {}): TreeRelay => ({
  id,
  uplinkMbps: 100,
  region: null,
  parent: undefined,
  ...rest,
});
const ids = (n: number) => Array.from({ length: n }, (_, i) => `r${String(i).padStart(3, "0")}`);
const after = (relays: readonly TreeRelay[], parents: ReadonlyMap<string, string | null>): TreeRelay[] =>
  relays.map((one) => ({ ...one, parent: parents.get(one.id) }));
const childrenOf = (parents: ReadonlyMap<string, string | null>, id: string | null) =>
  [...parents].filter(([, parent]) => parent === id).map(([child]) => child);

/** Relays between the origin and one, itself included; throws in a circle or at a parent that is not there. */
function depthOf(parents: ReadonlyMap<string, string | null>, id: string): number {
  let depth = 0;
  for (let at: string | null = id; at !== null; depth++) {
    const parent = parents.get(at);
    if (parent === undefined || depth > parents.size) throw new Error(`${id} does not hang from the origin`);
    at = parent;
  }
  return depth;
}

function assertTree(
  relays: readonly TreeRelay[],
  parents: ReadonlyMap<string, string | null>,
  fanOut: number,
) {
  const inner = relays.filter(({ rank = "inner" }) => rank === "inner");
  const byId = new Map(relays.map((one) => [one.id, one]));
  const roots = relays.filter(({ rank }) => rank === "root").map(({ id }) => id);
  for (const { id } of inner) expect(parents.has(id)).toBe(true);
  for (const [id, parent] of parents) {
    expect(byId.has(id)).toBe(true);
    expect(byId.get(parent ?? "")?.rank).not.toBe("leaf");
    // A root is no deeper than the origin.
    const least = leastDepth(inner.length, fanOut) + 1 + (roots.length > 0 ? 1 : 0);
    if (byId.get(id)?.rank !== "leaf") expect(depthOf(parents, id)).toBeLessThanOrEqual(least);
    else depthOf(parents, id);
  }
  for (const parent of [null, ...byId.keys()]) {
    const fed = childrenOf(parents, parent).filter((id) => parent !== null || !roots.includes(id));
    expect(fed.length).toBeLessThanOrEqual(fanOut);
  }
}

const anyRelays = fc
  .uniqueArray(
    fc.record({
      id: fc.constantFrom(...ids(60)),
      uplinkMbps: fc.constantFrom(10, 20, 100, 200, 1000),
      region: fc.constantFrom(null, "eu", "us"),
      // Also itself, strangers, leaves, and circles.
      parent: fc.option(fc.constantFrom(null, "gone", ...ids(60)), { nil: undefined }),
      rank: fc.constantFrom("inner", "inner", "inner", "leaf", "root") as fc.Arbitrary<
        "root" | "inner" | "leaf"
      >,
    }),
    { selector: ({ id }) => id, maxLength: 60 },
  )
  .map((relays): TreeRelay[] => relays);

test("whatever it was, it becomes a tree: every inner relay in it, nobody with too many children, no circle, no needless depth", () => {
  fc.assert(
    fc.property(anyRelays, fc.integer({ min: 1, max: 6 }), (relays, fanOut) => {
      const parents = assignParents(relays, fanOut);
      assertTree(relays, parents, fanOut);
      // Nobody moves but for an exchange of two.
      let now = after(relays, parents);
      for (let turns = 0; ; turns++) {
        const again = assignParents(now, fanOut);
        assertTree(now, again, fanOut);
        const moved = now.filter(({ id, parent }) => again.get(id) !== parent).length;
        if (moved === 0) break;
        expect(moved).toBeLessThanOrEqual(2 * fanOut + 1);
        expect(turns).toBeLessThan(300);
        now = after(now, again);
      }
    }),
    { numRuns: 200 },
  );
});

test("a new tree is as flat as can be, and the strongest stand at the top", () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 80 }), fc.integer({ min: 1, max: 5 }), (n, fanOut) => {
      const relays = ids(n).map((id, i) => relay(id, { uplinkMbps: 1 + ((i * 83) % n) }));
      const parents = assignParents(relays, fanOut);
      const depths = relays.map(({ id, uplinkMbps }) => ({ depth: depthOf(parents, id), uplinkMbps }));
      expect(Math.max(...depths.map(({ depth }) => depth))).toBe(leastDepth(n, fanOut));
      for (const a of depths)
        for (const b of depths) if (a.depth < b.depth) expect(a.uplinkMbps).toBeGreaterThan(b.uplinkMbps);
    }),
    { numRuns: 50 },
  );
});

test("when a relay dies, its children move, and beside them at most a few a level", () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 2, max: 60 }),
      fc.integer({ min: 2, max: 5 }),
      fc.nat(),
      (n, fanOut, pick) => {
        const relays = ids(n).map((id) => relay(id));
        const before = assignParents(relays, fanOut);
        const dead = relays[pick % n]?.id ?? "";
        const left = after(relays, before).filter(({ id }) => id !== dead);
        const mended = assignParents(left, fanOut);
        assertTree(left, mended, fanOut);
        const moved = left.filter(({ id, parent }) => mended.get(id) !== parent).map(({ id }) => id);
        const orphans = childrenOf(before, dead);
        const others = moved.filter((id) => !orphans.includes(id)).length;
        expect(others).toBeLessThanOrEqual(orphans.length === 0 ? 0 : (fanOut - 1) * leastDepth(n, fanOut));
      },
    ),
    { numRuns: 100 },
  );
});

test("when one at the top of a full tree dies, a few relays a level move and the tree stays as flat", () => {
  for (const fanOut of [2, 3, 4]) {
    const n = 340;
    const relays = ids(n).map((id, i) => relay(id, { uplinkMbps: 100 + (i % 50) }));
    const before = assignParents(relays, fanOut);
    const dead = childrenOf(before, null)[0] ?? "";
    const left = after(relays, before).filter(({ id }) => id !== dead);
    const mended = assignParents(left, fanOut);
    assertTree(left, mended, fanOut);
    const moved = left.filter(({ id, parent }) => mended.get(id) !== parent);
    expect(moved.length).toBeLessThanOrEqual(fanOut * (leastDepth(n, fanOut) + 1));
  }
});

test("who comes late moves nobody", () => {
  const relays = ids(30).map((id) => relay(id));
  const now = after(relays.slice(0, 29), assignParents(relays.slice(0, 29), 4));
  const parents = assignParents([...now, relay("r029")], 4);
  expect(now.filter(({ id, parent }) => parents.get(id) !== parent)).toEqual([]);
  expect(depthOf(parents, "r029")).toBe(3);
});

test("at one depth a relay of the same region is the parent, then the one whose uplink has most to spare", () => {
  const top = [
    relay("a", { parent: null, region: "eu", uplinkMbps: 100 }),
    relay("b", { parent: null, region: "us", uplinkMbps: 900 }),
    relay("c", { parent: null, region: null, uplinkMbps: 500 }),
  ];
  const parentOf = (one: TreeRelay) => assignParents([...top, one], 3).get("x");
  expect(parentOf(relay("x", { region: "eu", uplinkMbps: 50 }))).toBe("a");
  expect(parentOf(relay("x", { region: "us", uplinkMbps: 50 }))).toBe("b");
  expect(parentOf(relay("x", { region: "asia", uplinkMbps: 50 }))).toBe("c");
  expect(parentOf(relay("x", { uplinkMbps: 50 }))).toBe("b");
});

test("a child of twice the uplink takes its parent's place, one exchange at a time", () => {
  const relays = [
    relay("slow", { parent: null, uplinkMbps: 10 }),
    relay("fast", { parent: "slow", uplinkMbps: 100 }),
    relay("other", { parent: "slow", uplinkMbps: 12 }),
    relay("below", { parent: "fast", uplinkMbps: 12 }),
  ];
  expect(Object.fromEntries(assignParents(relays, 2))).toEqual({
    fast: null,
    slow: "fast",
    other: "fast",
    below: "slow",
  });
});

test("a leaf has no children, makes room for an inner relay, and may go without a place", () => {
  const leaves = ids(3).map((id) => relay(id, { rank: "leaf" }));
  const first = assignParents(leaves, 2);
  expect([...first.values()]).toEqual([null, null]);
  const proven = relay("proven", { uplinkMbps: 1 });
  const second = assignParents([...after(leaves, first), proven], 2);
  expect(second.get("proven")).toBe(null);
  expect(childrenOf(second, null)).toHaveLength(2);
  expect(childrenOf(second, "proven")).toHaveLength(2);
});

test("a mirror feeds relays beside the origin and takes no place there", () => {
  const mirror = relay("mirror", { rank: "root", uplinkMbps: 1000 });
  const parents = assignParents([mirror, ...ids(8).map((id) => relay(id))], 4);
  expect(childrenOf(parents, "mirror")).toHaveLength(4);
  expect(childrenOf(parents, null).toSorted()).toHaveLength(5);
  expect(parents.get("mirror")).toBe(null);
});
