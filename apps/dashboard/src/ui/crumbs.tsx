"use client";

import { createContext, type ReactNode, useContext, useEffect, useMemo, useState } from "react";

/** A step of the way to a page; without an address it is the page itself. */
export type Crumb = { readonly label: string; readonly href?: string };

const CrumbsContext = createContext<readonly Crumb[]>([]);
const SetCrumbsContext = createContext<(crumbs: readonly Crumb[]) => void>(() => {});

/** Carries the way to the page from the page to the bar above it. */
export function CrumbsProvider({ children }: { children: ReactNode }) {
  const [crumbs, setCrumbs] = useState<readonly Crumb[]>([]);
  return (
    <SetCrumbsContext value={setCrumbs}>
      <CrumbsContext value={crumbs}>{children}</CrumbsContext>
    </SetCrumbsContext>
  );
}

export function useShownCrumbs(): readonly Crumb[] {
  return useContext(CrumbsContext);
}

/** Says the way to this page for as long as it is there, the page itself last. */
export function useCrumbs(crumbs: readonly Crumb[]): void {
  const set = useContext(SetCrumbsContext);
  const key = JSON.stringify(crumbs);
  const kept = useMemo(() => crumbs, [key]);
  useEffect(() => {
    set(kept);
    return () => set([]);
  }, [set, kept]);
}
