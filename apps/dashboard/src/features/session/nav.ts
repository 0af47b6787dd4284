import { Bell, type LucideIcon, Settings, ShieldCheck, Workflow } from "lucide-react";

/** A place of the rail. */
export type NavItem = {
  readonly href: string;
  readonly label: string;
  readonly icon: LucideIcon;
  /** Second key of its shortcut: `g r`. */
  readonly key?: string;
  /** Stands apart at the foot of the rail. */
  readonly foot?: boolean;
};

/** Where the rail leads, in its order. A page gets its line together with its route. */
export const nav: readonly NavItem[] = [
  { href: "/runs", label: "Runs", icon: Workflow, key: "r" },
  { href: "/alerts", label: "Alerts", icon: Bell, key: "a" },
  { href: "/verify", label: "Verify", icon: ShieldCheck, key: "v", foot: true },
  { href: "/settings", label: "Settings", icon: Settings, key: "s", foot: true },
];

/** Whether a path is at or below a place. */
export function isAt(path: string, href: string): boolean {
  return path === href || (href !== "/" && path.startsWith(`${href}/`));
}
