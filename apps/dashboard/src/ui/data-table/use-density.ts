"use client";

import { useSyncExternalStore } from "react";

const key = "muster-rows";
const listeners = new Set<() => void>();

/** Whether rows are 28 px high and not 32; a habit of the reader, so it is kept in the browser and not in the address. */
export function useDense(): [boolean, (dense: boolean) => void] {
  const dense = useSyncExternalStore(subscribe, read, () => false);
  return [
    dense,
    (wanted) => {
      try {
        if (wanted) localStorage.setItem(key, "compact");
        else localStorage.removeItem(key);
      } catch {}
      for (const listener of [...listeners]) listener();
    },
  ];
}

/** Whether the screen is too narrow for columns: rows become two lines. */
export function useNarrow(): boolean {
  return useSyncExternalStore(
    (listener) => {
      const query = matchMedia(narrowQuery);
      query.addEventListener("change", listener);
      return () => query.removeEventListener("change", listener);
    },
    () => matchMedia(narrowQuery).matches,
    () => false,
  );
}

const narrowQuery = "(max-width: 767px)";

function subscribe(listener: () => void): () => void {
  listeners.add(listener);
  return () => {
    listeners.delete(listener);
  };
}

function read(): boolean {
  try {
    return localStorage.getItem(key) === "compact";
  } catch {
    return false; // a browser that keeps nothing for this page
  }
}
