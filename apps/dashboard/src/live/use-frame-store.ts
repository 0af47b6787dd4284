import { useSyncExternalStore } from "react";
import type { FrameStore } from "./frame-store.ts";

/** The store's value, re-rendered at most once per frame. */
export function useFrameStore<T>(store: FrameStore<T>): T {
  return useSyncExternalStore(store.subscribe, store.get, store.get);
}
