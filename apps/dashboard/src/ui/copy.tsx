"use client";

import { Check, Copy } from "lucide-react";
import { useEffect, useState } from "react";
import { Button } from "./button.tsx";
import { copyText } from "./clipboard.ts";
import { shortId } from "./format.ts";

export function CopyButton({ text, label }: { text: string; label: string }) {
  const { copied, copy } = useCopy(text);
  return (
    <Button onClick={copy}>
      {copied ? <Check size={14} aria-hidden /> : <Copy size={14} aria-hidden />}
      {copied ? "Copied" : label}
    </Button>
  );
}

/** An id in its short form; a click copies the whole one. */
export function Id({ id }: { id: string }) {
  const { copied, copy } = useCopy(id);
  return (
    <button
      type="button"
      className="rounded-control font-mono text-table text-muted hover:text-fg hover:underline"
      title={`${id}\nClick to copy`}
      onClick={copy}
    >
      <span className="sr-only">{copied ? "Copied " : "Copy "}</span>
      {shortId(id)}
      {copied ? " ✓" : null}
    </button>
  );
}

function useCopy(text: string): { copied: boolean; copy: () => void } {
  const [copied, setCopied] = useState(false);
  useEffect(() => {
    if (!copied) return;
    const timer = setTimeout(() => setCopied(false), 1200);
    return () => clearTimeout(timer);
  }, [copied]);
  return {
    copied,
    copy: () => {
      void copyText(text).then(setCopied);
    },
  };
}
