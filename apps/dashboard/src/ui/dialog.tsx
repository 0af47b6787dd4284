"use client";

import { Dialog as Base } from "@base-ui/react/dialog";
import type { ReactNode } from "react";
import { Button } from "./button.tsx";

/** A question before something that cannot be taken back lightly. The description says what follows. */
export function Dialog(props: {
  open: boolean;
  onOpenChange(open: boolean): void;
  title: string;
  description: ReactNode;
  children?: ReactNode;
  confirm: ReactNode;
}) {
  return (
    <Base.Root open={props.open} onOpenChange={(open) => props.onOpenChange(open)}>
      <Base.Portal>
        <Base.Backdrop className="fixed inset-0 z-40 bg-[rgb(0_0_0/0.4)] transition-opacity duration-120 data-ending-style:opacity-0 data-starting-style:opacity-0" />
        <Base.Popup className="fixed top-[20vh] left-1/2 z-40 w-[440px] max-w-[calc(100vw-32px)] -translate-x-1/2 rounded-panel border border-line bg-bg p-4 shadow-[var(--overlay-shadow)] transition-opacity duration-120 data-ending-style:opacity-0 data-starting-style:opacity-0">
          <Base.Title className="text-section font-semibold">{props.title}</Base.Title>
          <Base.Description className="mt-1 text-muted">{props.description}</Base.Description>
          {props.children ? <div className="mt-3">{props.children}</div> : null}
          <div className="mt-4 flex justify-end gap-2">
            <Base.Close render={<Button size="regular">Back</Button>} />
            {props.confirm}
          </div>
        </Base.Popup>
      </Base.Portal>
    </Base.Root>
  );
}
