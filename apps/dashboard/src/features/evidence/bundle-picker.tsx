"use client";

import clsx from "clsx";
import { FileCheck } from "lucide-react";
import { useEffect, useRef, useState } from "react";
import { Button } from "../../ui/button.tsx";

/** Where a bundle is chosen, or dropped: anywhere on the page. */
export function BundlePicker({ name, onPick }: { name: string | undefined; onPick(file: File): void }) {
  const input = useRef<HTMLInputElement>(null);
  const over = useDropped(onPick);
  return (
    <div
      className={clsx(
        "flex min-h-36 flex-col items-center justify-center gap-2 rounded-panel border border-dashed px-4 py-6 text-center",
        over ? "border-accent bg-raised" : "border-line-strong",
      )}
    >
      <Button
        size="regular"
        tone={name === undefined ? "primary" : "plain"}
        onClick={() => input.current?.click()}
      >
        <FileCheck size={16} aria-hidden />
        {name === undefined ? "Choose a bundle" : "Choose another bundle"}
      </Button>
      <input
        ref={input}
        type="file"
        hidden
        aria-label="Evidence bundle"
        onChange={(event) => {
          const file = event.target.files?.[0];
          // the same file, chosen again, is to be judged again
          event.target.value = "";
          if (file) onPick(file);
        }}
      />
      <p className="text-table text-subtle">
        {over ? "Drop it to verify it here." : "or drop it anywhere on this page"}
      </p>
      {name === undefined ? null : (
        <p className="max-w-full truncate font-mono text-table text-muted" title={name}>
          {name}
        </p>
      )}
    </div>
  );
}

/** Whether a file is held over the page; what is dropped is handed on. */
function useDropped(onDrop: (file: File) => void): boolean {
  const [over, setOver] = useState(false);
  const latest = useRef(onDrop);
  latest.current = onDrop;
  useEffect(() => {
    const holds = (event: DragEvent) => event.dataTransfer?.types.includes("Files") === true;
    const enter = (event: DragEvent) => {
      if (!holds(event)) return;
      // without this the browser opens the file
      event.preventDefault();
      setOver(true);
    };
    const leave = (event: DragEvent) => {
      if (event.relatedTarget === null) setOver(false);
    };
    const drop = (event: DragEvent) => {
      if (!holds(event)) return;
      event.preventDefault();
      setOver(false);
      const file = event.dataTransfer?.files[0];
      if (file) latest.current(file);
    };
    document.addEventListener("dragover", enter);
    document.addEventListener("dragleave", leave);
    document.addEventListener("drop", drop);
    return () => {
      document.removeEventListener("dragover", enter);
      document.removeEventListener("dragleave", leave);
      document.removeEventListener("drop", drop);
    };
  }, []);
  return over;
}
