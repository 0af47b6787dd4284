"use client";

import {
  createContext,
  type ReactNode,
  useContext,
  useEffect,
  useMemo,
  useRef,
  useSyncExternalStore,
} from "react";
import { readPress } from "./shortcut-keys.ts";

/** A key, or two in a row, and what it does. */
export type Shortcut = {
  /** `n`, `g r`, `mod+k`, `Escape`. */
  readonly keys: string;
  readonly label: string;
  /** Heading in the list of shortcuts. */
  readonly group: string;
  /** Returning false leaves the key to whoever registered it before. */
  readonly run: () => unknown;
  /** Left out of the palette of actions, as keys that only move are. */
  readonly quiet?: boolean;
};

type Registry = {
  add(read: () => readonly Shortcut[]): () => void;
  list(): Shortcut[];
};

const RegistryContext = createContext<Registry | undefined>(undefined);

const storageKey = "muster-shortcuts";
const sequenceTimeout = 1_200;

/** Listens for the shortcuts of whatever is on the page. What was registered last comes first. */
export function Shortcuts({ children }: { children: ReactNode }) {
  const registry = useMemo(createRegistry, []);
  useEffect(() => {
    let pending: string | undefined;
    let timer: ReturnType<typeof setTimeout> | undefined;
    function onKeyDown(event: KeyboardEvent): void {
      if (
        event.defaultPrevented ||
        event.isComposing ||
        ["Shift", "Meta", "Control", "Alt"].includes(event.key)
      )
        return;
      const all = registry.list();
      const reading = readPress(
        {
          key: event.key,
          mod: event.metaKey || event.ctrlKey,
          alt: event.altKey,
          typing: isTyping(event.target),
        },
        { pending, known: new Set(all.map(({ keys }) => keys)), single: singleKeysOn() },
      );
      pending = undefined;
      clearTimeout(timer);
      if (reading === undefined) return;
      if ("pending" in reading) {
        pending = reading.pending;
        timer = setTimeout(() => {
          pending = undefined;
        }, sequenceTimeout);
        return;
      }
      // an overlay has its own keys; only ⌘K and the like reach past it
      if (!reading.keys.startsWith("mod+") && overlayOpen()) return;
      for (const shortcut of all) {
        if (shortcut.keys !== reading.keys || shortcut.run() === false) continue;
        event.preventDefault();
        return;
      }
    }
    document.addEventListener("keydown", onKeyDown);
    return () => {
      document.removeEventListener("keydown", onKeyDown);
      clearTimeout(timer);
    };
  }, [registry]);
  return <RegistryContext value={registry}>{children}</RegistryContext>;
}

/** Offers shortcuts for as long as the component is there. Without a `Shortcuts` above it does nothing. */
export function useShortcuts(shortcuts: readonly Shortcut[]): void {
  const registry = useContext(RegistryContext);
  const latest = useRef(shortcuts);
  latest.current = shortcuts;
  useEffect(() => registry?.add(() => latest.current), [registry]);
}

/** Reads every shortcut that works now, the innermost first. */
export function useShortcutList(): () => Shortcut[] {
  const registry = useContext(RegistryContext);
  return () => registry?.list() ?? [];
}

/** Whether keys without ⌘ or Ctrl are shortcuts; kept in this browser. */
export function useSingleKeys(): [boolean, (on: boolean) => void] {
  const on = useSyncExternalStore(subscribe, singleKeysOn, () => true);
  return [on, setSingleKeys];
}

function createRegistry(): Registry {
  const entries: (() => readonly Shortcut[])[] = [];
  return {
    add(read) {
      entries.unshift(read);
      return () => {
        entries.splice(entries.indexOf(read), 1);
      };
    },
    list: () => entries.flatMap((read) => read()),
  };
}

const listeners = new Set<() => void>();

function subscribe(listener: () => void): () => void {
  listeners.add(listener);
  return () => {
    listeners.delete(listener);
  };
}

function singleKeysOn(): boolean {
  try {
    return localStorage.getItem(storageKey) !== "off";
  } catch {
    return true; // a browser that keeps nothing for this page
  }
}

function setSingleKeys(on: boolean): void {
  try {
    if (on) localStorage.removeItem(storageKey);
    else localStorage.setItem(storageKey, "off");
  } catch {}
  for (const listener of [...listeners]) listener();
}

function isTyping(target: EventTarget | null): boolean {
  if (!(target instanceof HTMLElement)) return false;
  if (target.isContentEditable) return true;
  if (target instanceof HTMLInputElement)
    return !["checkbox", "radio", "range", "button"].includes(target.type);
  return target instanceof HTMLTextAreaElement || target instanceof HTMLSelectElement;
}

function overlayOpen(): boolean {
  return document.querySelector('[role="dialog"][data-open], [role="menu"][data-open]') !== null;
}
