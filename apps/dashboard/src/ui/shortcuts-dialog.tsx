"use client";

import { Dialog } from "@base-ui/react/dialog";
import { X } from "lucide-react";
import { iconButton } from "./button.tsx";
import { keyCaps } from "./shortcut-keys.ts";
import { type Shortcut, useSingleKeys } from "./shortcuts.tsx";

/** Every shortcut that works on this page, and the switch that turns single keys off. */
export function ShortcutsDialog(props: {
  open: boolean;
  onOpenChange(open: boolean): void;
  shortcuts: readonly Shortcut[];
}) {
  const [on, setOn] = useSingleKeys();
  const apple = /Mac|iPhone|iPad/.test(navigator.userAgent);
  const groups = byGroup(unique(props.shortcuts));
  return (
    <Dialog.Root open={props.open} onOpenChange={(open) => props.onOpenChange(open)}>
      <Dialog.Portal>
        <Dialog.Backdrop className="overlay-backdrop" />
        <Dialog.Popup className="overlay-panel top-[10vh] w-[720px]">
          <div className="flex h-11 items-center border-b border-line px-4">
            <Dialog.Title className="text-strong font-semibold">Keyboard shortcuts</Dialog.Title>
            <Dialog.Close className={`${iconButton} ml-auto`} aria-label="Close">
              <X size={16} aria-hidden />
            </Dialog.Close>
          </div>
          <div className="max-h-[64vh] gap-x-10 overflow-y-auto px-4 py-3 sm:columns-2">
            {[...groups].map(([group, shortcuts]) => (
              <section key={group} aria-label={group} className="mb-4 break-inside-avoid">
                <h3 className="border-b border-line pb-1 text-label text-subtle">{group}</h3>
                <dl>
                  {shortcuts.map(({ keys, label }) => (
                    <div key={keys} className="flex min-h-7 items-center justify-between gap-4">
                      <dt className={on || keys.startsWith("mod+") ? "" : "text-subtle line-through"}>
                        {label}
                      </dt>
                      <dd className="flex shrink-0 gap-1">
                        {keyCaps(keys, apple).map((cap, i) => (
                          // two keys of one shortcut may be the same
                          <kbd key={i} className="keycap">
                            {cap}
                          </kbd>
                        ))}
                      </dd>
                    </div>
                  ))}
                </dl>
              </section>
            ))}
          </div>
          <label className="flex items-center gap-2 border-t border-line px-4 py-3">
            <input type="checkbox" checked={on} onChange={(event) => setOn(event.target.checked)} />
            Single-key shortcuts
            <span className="text-table text-subtle">Off, only those with {apple ? "⌘" : "Ctrl"} work.</span>
          </label>
        </Dialog.Popup>
      </Dialog.Portal>
    </Dialog.Root>
  );
}

/** The innermost of those with the same keys, which is the one that works. */
function unique(shortcuts: readonly Shortcut[]): Shortcut[] {
  const seen = new Set<string>();
  return shortcuts.filter(({ keys }) => !seen.has(keys) && seen.add(keys));
}

function byGroup(shortcuts: readonly Shortcut[]): Map<string, Shortcut[]> {
  const groups = new Map<string, Shortcut[]>();
  for (const shortcut of shortcuts)
    groups.set(shortcut.group, [...(groups.get(shortcut.group) ?? []), shortcut]);
  return groups;
}
