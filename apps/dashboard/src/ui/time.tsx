"use client";

import { useSyncExternalStore } from "react";
import { formatAge, formatMoment } from "./format.ts";

/** How long ago, kept current; both clocks on hover. */
export function Age({ at }: { at: string }) {
  const now = useNow();
  const moment = new Date(at);
  return (
    <time dateTime={at} title={formatMoment(moment)} suppressHydrationWarning>
      {formatAge(moment, new Date(Math.max(now, moment.getTime())))}
    </time>
  );
}

/** The day of a moment, near or far; both clocks on hover. */
export function Day({ at }: { at: string }) {
  const moment = new Date(at);
  return (
    <time dateTime={at} title={formatMoment(moment)} suppressHydrationWarning>
      {new Intl.DateTimeFormat("en-GB", { dateStyle: "medium" }).format(moment)}
    </time>
  );
}

/** Milliseconds since the epoch, once a second; one timer for the whole page. */
export function useNow(): number {
  return useSyncExternalStore(
    subscribe,
    () => current,
    () => current,
  );
}

let current = Date.now();
let timer: ReturnType<typeof setInterval> | undefined;
const listeners = new Set<() => void>();

function subscribe(listener: () => void): () => void {
  listeners.add(listener);
  if (timer === undefined) {
    current = Date.now();
    timer = setInterval(() => {
      current = Date.now();
      for (const each of [...listeners]) each();
    }, 1000);
  }
  return () => {
    listeners.delete(listener);
    if (listeners.size === 0) {
      clearInterval(timer);
      timer = undefined;
    }
  };
}
