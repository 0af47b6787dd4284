import clsx from "clsx";
import { type ReactNode, useId } from "react";

/** A titled part of a page: a title, a rule, no box. */
export function Section({
  title,
  note,
  actions,
  children,
  className,
}: {
  title: string;
  note?: ReactNode;
  actions?: ReactNode;
  children: ReactNode;
  className?: string;
}) {
  const id = useId();
  return (
    <section aria-labelledby={id} className={clsx("min-w-0", className)}>
      <div className="mb-2 flex min-h-7 flex-wrap items-center gap-x-3 gap-y-1">
        <h2 id={id} className="text-strong font-semibold">
          {title}
        </h2>
        {note ? <p className="min-w-0 text-table text-subtle">{note}</p> : null}
        {actions ? <div className="ml-auto flex flex-wrap items-center gap-2">{actions}</div> : null}
      </div>
      {children}
    </section>
  );
}

/** A figure with its name: `Rejected 1.3 %`. */
export function Figure({ label, children, title }: { label: string; children: ReactNode; title?: string }) {
  return (
    <div className="min-w-0">
      <dt className="truncate text-label text-subtle">{label}</dt>
      <dd className="text-strong font-medium" {...(title === undefined ? {} : { title })}>
        {children}
      </dd>
    </div>
  );
}
