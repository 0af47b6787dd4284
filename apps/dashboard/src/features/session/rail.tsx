"use client";

import { PanelLeftClose, PanelLeftOpen } from "lucide-react";
import Link from "next/link";
import { usePathname } from "next/navigation";
import { useSyncExternalStore } from "react";
import { Mark } from "./mark.tsx";
import { isAt, type NavItem, nav } from "./nav.ts";
import { pinRail, railKey, railPinned } from "./rail-state.ts";

/**
 * The way between pages: a rail of icons whose names appear on hover and focus, a bar at the foot of a narrow screen. Pinned, it shows the
 * names always; its width is decided before the first paint, by an attribute of the document.
 */
export function Rail() {
  const path = usePathname();
  const pinned = useSyncExternalStore(subscribe, railPinned, () => false);
  const Icon = pinned ? PanelLeftClose : PanelLeftOpen;
  return (
    <nav aria-label="Main" className="rail">
      <Link href="/runs" className="rail-item rail-home" aria-label="Muster, home">
        <Mark />
        <span className="rail-name font-semibold tracking-[-0.01em]">Muster</span>
      </Link>
      <ul className="rail-list">
        {nav
          .filter(({ foot }) => !foot)
          .map((item) => (
            <RailLink key={item.href} item={item} active={isAt(path, item.href)} />
          ))}
      </ul>
      <ul className="rail-list rail-foot">
        {nav
          .filter(({ foot }) => foot)
          .map((item) => (
            <RailLink key={item.href} item={item} active={isAt(path, item.href)} />
          ))}
        <li className="max-md:hidden">
          <button
            type="button"
            className="rail-item w-full"
            aria-pressed={pinned}
            aria-label={pinned ? "Collapse the navigation" : "Pin the navigation open"}
            onClick={() => {
              pinRail(!pinned);
              for (const listener of [...listeners]) listener();
            }}
          >
            <Icon size={16} aria-hidden />
            <span className="rail-name" aria-hidden>
              {pinned ? "Collapse" : "Pin open"}
            </span>
          </button>
        </li>
      </ul>
    </nav>
  );
}

function RailLink({ item, active }: { item: NavItem; active: boolean }) {
  const { href, label, icon: Icon } = item;
  return (
    <li>
      <Link href={href} className="rail-item" aria-current={active ? "page" : undefined}>
        <Icon size={16} aria-hidden />
        <span className="rail-name">{label}</span>
      </Link>
    </li>
  );
}

const listeners = new Set<() => void>();

function subscribe(listener: () => void): () => void {
  const onStorage = (event: StorageEvent) => {
    if (event.key === railKey) listener();
  };
  listeners.add(listener);
  window.addEventListener("storage", onStorage);
  return () => {
    listeners.delete(listener);
    window.removeEventListener("storage", onStorage);
  };
}
