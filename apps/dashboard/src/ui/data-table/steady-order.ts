"use client";

import { useEffect, useMemo, useRef, useState } from "react";
import type { DataColumn } from "./columns.ts";
import { type SortKey, sortedIndices } from "./sort.ts";

/** The old order with what is gone left out and what is new at the end: what a reader's pointer is on stays there. */
export function heldOrder(before: readonly string[], now: readonly string[]): number[] {
  const places = new Map(now.map((id, index) => [id, index]));
  const kept: number[] = [];
  for (const id of before) {
    const index = places.get(id);
    if (index === undefined) continue;
    kept.push(index);
    places.delete(id);
  }
  return [...kept, ...places.values()];
}

/** How long a table must have been left alone before it is ordered anew. */
const idle = 2_000;

/**
 * Row numbers in the order of the table. Values that change never move rows under the pointer or the focus: the table is ordered anew when
 * it has been left alone for two seconds, or at once when the reader chooses another order.
 * @returns undefined when the rows already are in order
 */
export function useSteadyOrder<Row>(options: {
  rows: readonly Row[];
  columns: readonly DataColumn<Row>[];
  keys: readonly SortKey[];
  getRowId(row: Row): string;
  /** Whether the pointer or the focus is in the table. */
  busy: boolean;
}): readonly number[] | undefined {
  const { rows, columns, keys, getRowId, busy } = options;
  const [, again] = useState(0);
  const last = useRef<{ keys: readonly SortKey[]; rows: readonly Row[]; order: readonly number[] }>(
    undefined,
  );
  const due = useRef(false);

  const order = useMemo(() => {
    if (keys.length === 0) {
      last.current = undefined;
      return undefined;
    }
    const before = last.current;
    const held = before !== undefined && before.keys === keys && busy && !due.current;
    due.current = false;
    const next = held
      ? before.rows === rows
        ? before.order
        : heldOrder(
            before.order.flatMap((index) => {
              const row = before.rows[index];
              return row === undefined ? [] : [getRowId(row)];
            }),
            rows.map(getRowId),
          )
      : sortedIndices(rows, keys, (id) => columns.find((column) => column.id === id)?.sort);
    last.current = { keys, rows, order: next };
    return next;
  }, [rows, keys, columns, busy, due.current]);

  useEffect(() => {
    if (!busy || keys.length === 0) return;
    const timer = setTimeout(() => {
      due.current = true;
      again((n) => n + 1);
    }, idle);
    return () => clearTimeout(timer);
  }, [rows, keys, busy]);
  return order;
}
