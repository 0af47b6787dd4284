import { expect, test } from "vitest";
import { facetOptions, totalsInWords } from "../src/ui/data-table/columns.ts";
import {
  moveColumn,
  parseColumns,
  printColumns,
  resizeColumn,
  shownColumns,
  toggleColumn,
} from "../src/ui/data-table/columns-state.ts";
import { gridAfterKey, selectIds } from "../src/ui/data-table/grid-focus.ts";
import { nextSort, parseSort, printSort, sortedIndices } from "../src/ui/data-table/sort.ts";
import { heldOrder } from "../src/ui/data-table/steady-order.ts";
import { toCsv, toNdjson } from "../src/ui/data-table/table-export.ts";

const all = [{ id: "name" }, { id: "state" }, { id: "reward" }, { id: "owner", hidden: true }];

test("an order survives the address", () => {
  const keys = [
    { id: "reward", down: true },
    { id: "name", down: false },
  ];
  expect(printSort(keys)).toBe("-reward,name");
  expect(parseSort("-reward,name")).toEqual(keys);
  expect(parseSort("<b>")).toBeNull();
});

test("a head is clicked through its first direction, the other one and no order", () => {
  const click = (keys: ReturnType<typeof nextSort>, add = false) =>
    nextSort(keys, "reward", { add, first: "down" });
  const once = click([]);
  expect(once).toEqual([{ id: "reward", down: true }]);
  const twice = click(once);
  expect(twice).toEqual([{ id: "reward", down: false }]);
  expect(click(twice)).toEqual([]);
});

test("with shift the other keys stay and keep their rank", () => {
  const keys = nextSort([{ id: "name", down: false }], "reward", { add: true, first: "down" });
  expect(printSort(keys)).toBe("name,-reward");
  expect(printSort(nextSort(keys, "name", { add: true, first: "up" }))).toBe("-name,-reward");
  expect(printSort(nextSort(keys, "state", { add: false, first: "up" }))).toBe("state");
});

test("a million rows are ordered by two columns, absent values last in both directions", () => {
  const rows = Array.from({ length: 1_000_000 }, (_, i) => ({ a: i % 10, b: i % 7 === 0 ? null : -i }));
  const read = (id: string) => (row: (typeof rows)[number]) => (id === "a" ? row.a : row.b);
  const order = sortedIndices(
    rows,
    [
      { id: "a", down: true },
      { id: "b", down: true },
    ],
    read,
  );
  expect(order).toHaveLength(rows.length);
  expect(rows[order[0] ?? -1]).toEqual({ a: 9, b: -9 });
  expect(rows[order.at(-1) ?? -1]?.b).toBeNull();
  const up = sortedIndices(rows, [{ id: "b", down: false }], read);
  expect(rows[up[0] ?? -1]?.b).toBe(-999_998);
  expect(rows[up.at(-1) ?? -1]?.b).toBeNull();
});

test("a held order keeps rows where they are, drops what is gone and puts what is new at the end", () => {
  const now = ["d", "a", "c"];
  expect(heldOrder(["c", "b", "a"], now).map((i) => now[i])).toEqual(["c", "a", "d"]);
});

test("columns survive the address, and what it names wrongly is ignored", () => {
  const shown = [{ id: "name", width: 240 }, { id: "reward" }];
  expect(printColumns(shown)).toBe("name~240,reward");
  expect(parseColumns("name~240,reward")).toEqual(shown);
  expect(parseColumns("name~9999,name,<x>")).toEqual([{ id: "name", width: 900 }]);
  expect(shownColumns(all, parseColumns("reward,nothing"))).toEqual([{ id: "name" }, { id: "reward" }]);
  expect(shownColumns(all, parseColumns("nothing")).map(({ id }) => id)).toEqual(["name", "state", "reward"]);
});

test("the column that identifies a row stays first however others are moved", () => {
  const shown = shownColumns(all, null);
  expect(moveColumn(shown, "reward", -1).map(({ id }) => id)).toEqual(["name", "reward", "state"]);
  expect(moveColumn(shown, "state", -1).map(({ id }) => id)).toEqual(["name", "state", "reward"]);
  expect(moveColumn(shown, "name", 1).map(({ id }) => id)).toEqual(["name", "state", "reward"]);
  expect(toggleColumn(shown, "owner").at(-1)).toEqual({ id: "owner" });
  expect(resizeColumn(shown, "state", 10)[1]).toEqual({ id: "state", width: 48 });
});

test("keys move the focus of a grid by cell, row and page, and never out of it", () => {
  const size = { rows: 100, columns: 5, page: 20 };
  const from = { row: 50, column: 2 };
  expect(gridAfterKey("j", from, size)).toEqual({ row: 51, column: 2 });
  expect(gridAfterKey("PageUp", from, size)).toEqual({ row: 31, column: 2 });
  expect(gridAfterKey("End", from, size, { ctrl: true })).toEqual({ row: 99, column: 4 });
  expect(gridAfterKey("ArrowDown", { row: 99, column: 0 }, size)).toEqual({ row: 99, column: 0 });
  expect(gridAfterKey("ArrowUp", { row: 0, column: 3 }, size)).toEqual({ row: -1, column: 3 });
  expect(gridAfterKey("k", { row: 0, column: 3 }, size)).toEqual({ row: 0, column: 3 });
  expect(gridAfterKey("q", from, size)).toBeUndefined();
});

test("a selection takes no more than its limit, and gives back what is chosen twice", () => {
  const some = selectIds(new Set(["a"]), ["b", "c", "d"], 3);
  expect([...some]).toEqual(["a", "b", "c"]);
  expect([...selectIds(some, ["b"], 3)]).toEqual(["a", "c"]);
});

test("values of a filter stand by how many have them, and a search never hides what is chosen", () => {
  const facet = {
    field: "worker",
    label: "Worker",
    options: [
      { value: "1", label: "ant", count: 2 },
      { value: "2", label: "bee", count: 9 },
      { value: "3", label: "asp", count: 2 },
    ],
    value: ["2"],
    onChange: () => {},
  };
  expect(facetOptions(facet, "").map(({ label }) => label)).toEqual(["bee", "ant", "asp"]);
  expect(facetOptions(facet, "as").map(({ label }) => label)).toEqual(["bee", "asp"]);
});

test("the foot of a table says what is shown, what matches and what is estimated", () => {
  const words = (shown: number, totals: Parameters<typeof totalsInWords>[1], more: boolean) =>
    totalsInWords(shown, totals, more, String);
  expect(words(12, { matching: 12, total: 12 }, false)).toBe("12 in all");
  expect(words(50, {}, true)).toBe("50 shown so far");
  expect(words(20, { matching: 20, total: 90 }, false)).toBe("20 shown of 20 matching, 90 in all");
  expect(words(50, { matching: 40_000, total: 5_100_000, estimated: true }, true)).toBe(
    "50 shown of ≈ 40000 matching, ≈ 5100000 in all",
  );
});

test("an export never hands a stranger's text to a spreadsheet as a formula", () => {
  const columns = [{ id: "name", head: "Name", cell: () => null, text: (row: { name: string }) => row.name }];
  const names = ['=HYPERLINK("x")', "-cmd", "-0.5", 'a "b", c', "@x"].map((name) => ({ name }));
  expect(toCsv(columns, names).split("\r\n")).toEqual([
    "name",
    `"'=HYPERLINK(""x"")"`,
    "'-cmd",
    "-0.5",
    '"a ""b"", c"',
    "'@x",
    "",
  ]);
  expect(toNdjson(columns, names.slice(1, 2))).toBe('{"name":"-cmd"}\n');
});
