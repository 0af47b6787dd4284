"use client";

import { Popover as Base } from "@base-ui/react/popover";
import type { ReactElement, ReactNode } from "react";

/** A panel beside its trigger, open when it is first shown: see {@link OnDemand}. */
export function Popover({
  trigger,
  title,
  children,
}: {
  trigger: ReactElement;
  title: string;
  children: ReactNode;
}) {
  return (
    <Base.Root defaultOpen>
      <Base.Trigger render={trigger} />
      <Base.Portal>
        <Base.Positioner sideOffset={6} align="end" collisionPadding={8} className="z-30">
          <Base.Popup className="w-72 max-w-[calc(100vw-16px)] rounded-panel border border-line bg-bg p-3 shadow-[var(--overlay-shadow)] transition-opacity duration-120 data-ending-style:opacity-0 data-starting-style:opacity-0">
            <Base.Title className="text-body font-semibold">{title}</Base.Title>
            {children}
          </Base.Popup>
        </Base.Positioner>
      </Base.Portal>
    </Base.Root>
  );
}
