"use client";

import {
  type ComponentProps,
  cloneElement,
  type ReactElement,
  type ReactNode,
  Suspense,
  useState,
} from "react";

/**
 * A button whose overlay is code that a page need not wait for: it is fetched when the pointer or the focus comes near, and shown by the
 * first click. The loaded overlay brings the same trigger and opens by itself.
 */
export function OnDemand({
  trigger,
  popup,
  load,
  children,
}: {
  trigger: ReactElement<ComponentProps<"button">>;
  /** What assistive technology is told to expect. */
  popup: "menu" | "dialog";
  /** Starts fetching; called more than once. */
  load: () => Promise<unknown>;
  /** The overlay, made with `lazy`. */
  children: ReactNode;
}) {
  const [asked, setAsked] = useState(false);
  if (asked) return <Suspense fallback={trigger}>{children}</Suspense>;
  // a failure is met again by the click, which shows it
  const prepare = () => void load().catch(() => {});
  return cloneElement(trigger, {
    "aria-haspopup": popup,
    "aria-expanded": false,
    onPointerEnter: prepare,
    onFocus: prepare,
    onClick: () => setAsked(true),
  });
}
