"use client";

import { Dialog as Base } from "@base-ui/react/dialog";
import { type FormEvent, type ReactNode, useId } from "react";
import { Button } from "../../ui/button.tsx";

/** A form over the page. It scrolls in itself, closes with Escape, and keeps what was typed until it is sent or given up. */
export function FormDialog(props: {
  open: boolean;
  onOpenChange(open: boolean): void;
  title: string;
  description: string;
  submit: string;
  busy?: boolean;
  ready?: boolean;
  onSubmit(): void;
  /** Beside the buttons. */
  foot?: ReactNode;
  children: ReactNode;
}) {
  const id = useId();
  function send(event: FormEvent): void {
    event.preventDefault();
    if (props.ready !== false && !props.busy) props.onSubmit();
  }
  return (
    <Base.Root open={props.open} onOpenChange={(open) => props.onOpenChange(open)}>
      <Base.Portal>
        <Base.Backdrop className="fixed inset-0 z-40 bg-[rgb(0_0_0/0.4)] transition-opacity duration-120 data-ending-style:opacity-0 data-starting-style:opacity-0" />
        <Base.Popup className="fixed top-[6vh] left-1/2 z-40 flex max-h-[88vh] w-[560px] max-w-[calc(100vw-32px)] -translate-x-1/2 flex-col rounded-panel border border-line bg-bg shadow-[var(--overlay-shadow)] transition-opacity duration-120 data-ending-style:opacity-0 data-starting-style:opacity-0">
          <div className="px-4 pt-4">
            <Base.Title className="text-section font-semibold">{props.title}</Base.Title>
            <Base.Description className="mt-1 text-table text-muted">{props.description}</Base.Description>
          </div>
          <form id={id} className="grid min-h-0 gap-3 overflow-y-auto px-4 py-3" onSubmit={send} noValidate>
            {props.children}
          </form>
          <div className="flex flex-wrap items-center justify-end gap-2 border-t border-line px-4 py-3">
            {props.foot ? <div className="mr-auto">{props.foot}</div> : null}
            <Base.Close render={<Button size="regular">Back</Button>} />
            <Button
              type="submit"
              form={id}
              size="regular"
              tone="primary"
              disabled={props.ready === false || props.busy === true}
            >
              {props.submit}
            </Button>
          </div>
        </Base.Popup>
      </Base.Portal>
    </Base.Root>
  );
}

/** A field with its label above and a line of help or trouble below. */
export function Field(props: {
  label: string;
  id: string;
  note?: ReactNode;
  className?: string;
  children: ReactNode;
}) {
  return (
    <div className={props.className}>
      <label htmlFor={props.id} className="text-table font-medium">
        {props.label}
      </label>
      <div className="mt-1 flex items-center gap-1.5">{props.children}</div>
      {props.note ? <p className="mt-1 text-table text-subtle">{props.note}</p> : null}
    </div>
  );
}
