"use client";

import { Tabs as Base } from "@base-ui/react/tabs";
import type { ReactNode } from "react";
import { useShortcuts } from "./shortcuts.tsx";

/** Tabs over a hairline, by the digits too; which one is open belongs in the address. */
export function Tabs<Name extends string>(props: {
  label: string;
  value: Name;
  onChange(value: Name): void;
  tabs: readonly { value: Name; label: ReactNode; panel: ReactNode }[];
}) {
  const { tabs, onChange } = props;
  useShortcuts(
    tabs.slice(0, 9).map(({ value, label }, i) => ({
      keys: String(i + 1),
      label: typeof label === "string" ? label : value,
      group: "Tabs",
      run: () => onChange(value),
    })),
  );
  return (
    <Base.Root value={props.value} onValueChange={(value) => props.onChange(value)}>
      <Base.List
        aria-label={props.label}
        className="relative flex gap-4 overflow-x-auto border-b border-line"
      >
        {props.tabs.map((tab) => (
          <Base.Tab
            key={tab.value}
            value={tab.value}
            className="h-8 whitespace-nowrap border-b-2 border-transparent text-body text-muted outline-offset-[-2px] hover:text-fg data-[active]:border-fg data-[active]:font-medium data-[active]:text-fg"
          >
            {tab.label}
          </Base.Tab>
        ))}
      </Base.List>
      {props.tabs.map((tab) => (
        <Base.Panel key={tab.value} value={tab.value} className="pt-4 outline-offset-4">
          {tab.panel}
        </Base.Panel>
      ))}
    </Base.Root>
  );
}
