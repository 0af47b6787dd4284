"use client";

import { ChevronRight, Search } from "lucide-react";
import Link from "next/link";
import { Fragment, type ReactNode } from "react";
import { useShownCrumbs } from "../../ui/crumbs.tsx";

/** The bar over every page: the way to it, the search, and what the session is doing. */
export function TopBar(props: { organization: string | undefined; onSearch(): void; children: ReactNode }) {
  const { organization, onSearch, children } = props;
  return (
    <div className="flex h-11 items-center gap-3 px-4">
      <Crumbs organization={organization} />
      <button
        type="button"
        className="ml-auto inline-flex h-7 items-center gap-2 rounded-control border border-line px-2 text-table text-subtle hover:border-line-strong hover:text-fg max-md:border-0"
        aria-keyshortcuts="Control+K Meta+K"
        onClick={onSearch}
      >
        <Search size={14} aria-hidden />
        <span className="max-md:sr-only">Search</span>
        <kbd className="keycap max-md:hidden">⌘K</kbd>
      </button>
      <div className="flex items-center gap-1">{children}</div>
    </div>
  );
}

function Crumbs({ organization }: { organization: string | undefined }) {
  const crumbs = useShownCrumbs();
  return (
    <nav aria-label="Breadcrumb" className="min-w-0 flex-1">
      <ol className="flex min-w-0 items-center gap-1 text-table text-muted">
        {organization === undefined ? null : (
          <li className="shrink-0 truncate max-sm:hidden">
            <Link className="hover:text-fg hover:underline" href="/runs">
              {organization}
            </Link>
          </li>
        )}
        {crumbs.map(({ label, href }, i) => {
          const last = i === crumbs.length - 1;
          return (
            <Fragment key={`${href ?? ""} ${label}`}>
              <li aria-hidden className={i === 0 ? "text-subtle max-sm:hidden" : "text-subtle"}>
                <ChevronRight size={12} />
              </li>
              <li className={last ? "min-w-0 truncate text-fg" : "max-w-64 min-w-0 shrink truncate"}>
                {href === undefined || last ? (
                  <span aria-current={last ? "page" : undefined}>{label}</span>
                ) : (
                  <Link className="hover:text-fg hover:underline" href={href}>
                    {label}
                  </Link>
                )}
              </li>
            </Fragment>
          );
        })}
      </ol>
    </nav>
  );
}
