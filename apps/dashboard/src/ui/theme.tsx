"use client";

import { Monitor, Moon, Sun } from "lucide-react";
import { ThemeProvider, useTheme } from "next-themes";
import { type ReactNode, useSyncExternalStore } from "react";
import { iconButton } from "./button.tsx";

export function Theme({ nonce, children }: { nonce: string; children: ReactNode }) {
  return (
    <ThemeProvider
      attribute="class"
      defaultTheme="system"
      enableSystem
      disableTransitionOnChange
      storageKey="muster-theme"
      nonce={nonce}
    >
      {children}
    </ThemeProvider>
  );
}

const order = ["system", "light", "dark"] as const;
const icons = { system: Monitor, light: Sun, dark: Moon };

/** Goes through system, light and dark. */
export function ThemeSwitch() {
  const { theme, setTheme } = useTheme();
  // what is stored is only known in the browser
  const mounted = useSyncExternalStore(
    noChange,
    () => true,
    () => false,
  );
  const current = mounted ? (order.find((name) => name === theme) ?? "system") : "system";
  const next = order[(order.indexOf(current) + 1) % order.length] ?? "system";
  const Icon = icons[current];
  return (
    <button
      type="button"
      className={iconButton}
      aria-label={`Theme: ${current}. Switch to ${next}`}
      title={`Theme: ${current}`}
      onClick={() => setTheme(next)}
    >
      <Icon size={16} aria-hidden />
    </button>
  );
}

const noChange = () => () => {};
