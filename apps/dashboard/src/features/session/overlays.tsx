"use client";

import { useRouter } from "next/navigation";
import { useTheme } from "next-themes";
import { lazy, Suspense, useState } from "react";
import { copyText } from "../../ui/clipboard.ts";
import { useShownCrumbs } from "../../ui/crumbs.tsx";
import { type Shortcut, useShortcutList, useShortcuts } from "../../ui/shortcuts.tsx";
import { toast } from "../../ui/toast.tsx";
import { nav } from "./nav.ts";

const Palette = lazy(async () => ({ default: (await import("./palette.tsx")).Palette }));
const ShortcutsDialog = lazy(async () => ({
  default: (await import("../../ui/shortcuts-dialog.tsx")).ShortcutsDialog,
}));

type Open = { readonly kind: "palette" | "shortcuts"; readonly shortcuts: readonly Shortcut[] };

/** What can lie over the page, and the shortcuts that work everywhere. */
export function useOverlays() {
  const router = useRouter();
  const crumbs = useShownCrumbs();
  const { resolvedTheme, setTheme } = useTheme();
  const list = useShortcutList();
  const [open, setOpen] = useState<Open>();
  const show = (kind: Open["kind"]) => setOpen({ kind, shortcuts: list() });
  useShortcuts([
    {
      keys: "mod+k",
      label: "Search and go to",
      group: "Everywhere",
      run: () => show("palette"),
      quiet: true,
    },
    { keys: "/", label: "Search", group: "Everywhere", run: () => show("palette"), quiet: true },
    { keys: "?", label: "Keyboard shortcuts", group: "Everywhere", run: () => show("shortcuts") },
    {
      keys: "t",
      label: "Switch theme",
      group: "Everywhere",
      run: () => setTheme(resolvedTheme === "dark" ? "light" : "dark"),
    },
    {
      keys: "y",
      label: "Copy link to this page as it is shown",
      group: "Everywhere",
      run: () =>
        void copyText(location.href).then((copied) =>
          toast(copied ? "Copied the link" : "This browser did not let the link be copied"),
        ),
    },
    {
      keys: ".",
      label: "Actions of the page",
      group: "Everywhere",
      quiet: true,
      run: () => {
        const action = document.querySelector<HTMLElement>(
          "[data-actions] :is(a, button:not(:disabled), select, input)",
        );
        action?.focus();
        return action !== null;
      },
    },
    {
      keys: "Escape",
      label: "Back to what it is part of",
      group: "Everywhere",
      quiet: true,
      run: () => {
        const parent = crumbs.findLast(({ href }, i) => href !== undefined && i < crumbs.length - 1);
        if (parent?.href === undefined) return false;
        router.push(parent.href);
        return true;
      },
    },
    ...nav.flatMap(({ href, label, key }): Shortcut[] =>
      key === undefined
        ? []
        : [{ keys: `g ${key}`, label, group: "Go to", quiet: true, run: () => router.push(href) }],
    ),
  ]);
  return { open, close: () => setOpen(undefined), openPalette: () => show("palette") };
}

/** The palette and the list of shortcuts, fetched when they are first asked for. */
export function Overlays({ state }: { state: ReturnType<typeof useOverlays> }) {
  const { open, close } = state;
  if (open === undefined) return null;
  return (
    <Suspense fallback={null}>
      {open.kind === "palette" ? (
        <Palette actions={open.shortcuts.filter(({ quiet }) => !quiet)} onClose={close} />
      ) : (
        <ShortcutsDialog open onOpenChange={close} shortcuts={open.shortcuts} />
      )}
    </Suspense>
  );
}
