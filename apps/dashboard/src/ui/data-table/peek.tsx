"use client";

import { ArrowDown, ArrowUp, Maximize2, X } from "lucide-react";
import Link from "next/link";
import type { ReactNode } from "react";
import { iconButton } from "../button.tsx";
import { PanelBoundary } from "../page.tsx";

/** A look into a row beside its table; the table stays usable, and the next row is one key away. */
export function Peek(props: {
  title: string;
  href: string | undefined;
  onClose(): void;
  onStep(by: number): void;
  children: ReactNode;
}) {
  const { title, href, onClose, onStep, children } = props;
  return (
    <aside className="peek" aria-label={`Look into ${title}`}>
      <div className="sticky top-0 z-10 flex h-11 items-center gap-1 border-b border-line bg-bg px-4">
        <h2 className="min-w-0 flex-1 truncate text-strong font-semibold">{title}</h2>
        <button type="button" className={iconButton} aria-label="Previous row" onClick={() => onStep(-1)}>
          <ArrowUp size={16} aria-hidden />
        </button>
        <button type="button" className={iconButton} aria-label="Next row" onClick={() => onStep(1)}>
          <ArrowDown size={16} aria-hidden />
        </button>
        {href === undefined ? null : (
          <Link className={iconButton} href={href} aria-label="Open the whole page">
            <Maximize2 size={14} aria-hidden />
          </Link>
        )}
        <button type="button" className={iconButton} aria-label="Close" onClick={onClose}>
          <X size={16} aria-hidden />
        </button>
      </div>
      <div className="p-4">
        <PanelBoundary what="this row" key={title}>
          {children}
        </PanelBoundary>
      </div>
    </aside>
  );
}
