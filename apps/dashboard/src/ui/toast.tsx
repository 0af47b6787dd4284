"use client";

import { useSyncExternalStore } from "react";

// One line at the foot of the page, for the reader's own actions only. Nothing that must be read may stand only here: it goes by itself.

type Message = { readonly id: number; readonly text: string };

let current: Message | undefined;
let next = 0;
let timer: ReturnType<typeof setTimeout> | undefined;
const listeners = new Set<() => void>();

/** Says for four seconds what the reader just did: `Copied run_7qk3f`. */
export function toast(text: string): void {
  clearTimeout(timer);
  show({ id: next++, text });
  timer = setTimeout(() => show(undefined), 4_000);
}

/** Where toasts appear; once per page. */
export function Toasts() {
  const message = useSyncExternalStore(
    subscribe,
    () => current,
    () => undefined,
  );
  return (
    <div
      role="status"
      className="pointer-events-none fixed inset-x-0 bottom-4 z-50 flex justify-center px-4 max-md:bottom-16"
    >
      {message ? (
        <p
          key={message.id}
          className="max-w-full truncate rounded-control bg-primary px-3 py-1.5 text-table text-on-primary shadow-[var(--overlay-shadow)]"
        >
          {message.text}
        </p>
      ) : null}
    </div>
  );
}

function show(message: Message | undefined): void {
  current = message;
  for (const listener of [...listeners]) listener();
}

function subscribe(listener: () => void): () => void {
  listeners.add(listener);
  return () => {
    listeners.delete(listener);
  };
}
