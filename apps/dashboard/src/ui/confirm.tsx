"use client";

import { lazy, type ReactNode, Suspense } from "react";
import type { CombinedError } from "urql";
import { Button } from "./button.tsx";
import { Refused } from "./states.tsx";

const load = () => import("./dialog.tsx");
const Dialog = lazy(async () => ({ default: (await load()).Dialog }));

const prepare = () => void load().catch(() => {});
/** For the button that asks: the dialog is fetched when the pointer or the focus comes near. */
export const preparesConfirm = { onPointerEnter: prepare, onFocus: prepare };

/** A question before something that cannot be taken back lightly, and the button that does it. */
export function Confirm({
  open,
  onOpenChange,
  title,
  description,
  button,
  danger,
  busy,
  error,
  onConfirm,
  children,
}: {
  open: boolean;
  onOpenChange(open: boolean): void;
  title: string;
  description: string;
  button: string;
  danger: boolean;
  busy: boolean;
  error: CombinedError | undefined;
  onConfirm(): Promise<void>;
  children?: ReactNode;
}) {
  return (
    <Suspense fallback={null}>
      <Dialog
        open={open}
        onOpenChange={onOpenChange}
        title={title}
        description={description}
        confirm={
          <Button
            size="regular"
            tone={danger ? "danger" : "primary"}
            disabled={busy}
            onClick={() => void onConfirm()}
          >
            {button}
          </Button>
        }
      >
        {children}
        <Refused error={error} />
      </Dialog>
    </Suspense>
  );
}
