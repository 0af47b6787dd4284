import clsx from "clsx";
import type { ComponentProps, ReactNode } from "react";
import { Button } from "./button.tsx";

/** A table that scrolls sideways in its own box; name it after what it lists. */
export function Table({
  label,
  head,
  children,
  className,
}: {
  label: string;
  head: ReactNode;
  children: ReactNode;
  className?: string;
}) {
  return (
    <section
      className={clsx("overflow-x-auto", className)}
      aria-label={`${label}, scrolls sideways`}
      // biome-ignore lint/a11y/noNoninteractiveTabindex: a scrolling region must be reachable by keyboard
      tabIndex={0}
    >
      <table className="w-full border-collapse text-table" aria-label={label}>
        <thead>
          <tr className="border-y border-line text-label text-subtle">{head}</tr>
        </thead>
        <tbody className="divide-y divide-line border-b border-line">{children}</tbody>
      </table>
    </section>
  );
}

/** The way through pages of a table. @param after the cursor this page begins at @param next that of the next one, if there is one */
export function Pages({
  after,
  next,
  onChange,
}: {
  after: string | null;
  next: string | null | undefined;
  onChange(cursor: string | null): void;
}) {
  if (after === null && !next) return null;
  return (
    <div className="mt-3 flex gap-2">
      {after === null ? null : <Button onClick={() => onChange(null)}>Newest</Button>}
      {next ? <Button onClick={() => onChange(next)}>Older</Button> : null}
    </div>
  );
}

/** A column's head; numbers are right-aligned. */
export function Head({ number, className, ...props }: ComponentProps<"th"> & { number?: boolean }) {
  return (
    <th
      scope="col"
      className={clsx(
        "h-7 whitespace-nowrap px-2 font-medium first:pl-0 last:pr-0",
        number ? "text-right" : "text-left",
        className,
      )}
      {...props}
    />
  );
}

export function Cell({ number, className, ...props }: ComponentProps<"td"> & { number?: boolean }) {
  return (
    <td
      className={clsx(
        "h-8 px-2 align-middle first:pl-0 last:pr-0",
        number ? "whitespace-nowrap text-right" : "text-left",
        className,
      )}
      {...props}
    />
  );
}

export function Row({ className, ...props }: ComponentProps<"tr">) {
  return <tr className={clsx("hover:bg-raised", className)} {...props} />;
}
