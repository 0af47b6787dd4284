import Link from "next/link";
import type { ReactNode } from "react";
import { ThemeSwitch } from "../../ui/theme.tsx";
import { Mark } from "./mark.tsx";

/** The frame of a page that anyone may open: nothing in it asks who is there. */
export function PublicFrame({ children }: { children: ReactNode }) {
  return (
    <>
      <header className="sticky top-0 z-20 border-b border-line bg-bg">
        <div className="mx-auto flex h-11 max-w-[1680px] items-center gap-4 px-4">
          <Link
            href="/runs"
            className="flex items-center gap-2 font-semibold tracking-[-0.01em]"
            aria-label="Muster, all runs"
          >
            <Mark />
            Muster
          </Link>
          <span className="ml-auto">
            <ThemeSwitch />
          </span>
        </div>
      </header>
      <main id="content" className="mx-auto max-w-[1680px] px-4 pt-4 pb-16">
        {children}
      </main>
    </>
  );
}
