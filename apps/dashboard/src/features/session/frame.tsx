"use client";

import Link from "next/link";
import { usePathname } from "next/navigation";
import { type ReactNode, useEffect } from "react";
import { failureOf } from "../../graphql/failure.ts";
import { graphql, readFragment } from "../../graphql/graphql.ts";
import { useSteadyQuery } from "../../graphql/use-steady-query.ts";
import { ConnectionBanner, ConnectionChip } from "../../live/connection-chip.tsx";
import { LiveProvider } from "../../live/live-provider.tsx";
import { Failed, Loading } from "../../ui/states.tsx";
import { ThemeSwitch } from "../../ui/theme.tsx";
import { Account, AccountFragment } from "./account.tsx";
import { useApiAddress } from "./api-provider.tsx";

const FrameQuery = graphql(
  `
    query Frame {
      me {
        kind
        ...Account_viewer
      }
    }
  `,
  [AccountFragment],
);

/** The frame of every page for people who are signed in; anybody else is sent to sign in, and back. */
export function Frame({ children }: { children: ReactNode }) {
  const address = useApiAddress();
  const [{ data, error, fetching }, reload] = useSteadyQuery({ query: FrameQuery });
  const anonymous =
    data?.me.kind === "ANONYMOUS" || (error !== undefined && failureOf(error).kind === "signed-out");
  useEffect(() => {
    // a full load on purpose: nothing of the last session stays in memory
    if (anonymous)
      location.replace(`/sign-in?next=${encodeURIComponent(location.pathname + location.search)}`);
  }, [anonymous]);

  const viewer = readFragment(AccountFragment, data?.me);
  return (
    <LiveBoundary signedIn={data !== undefined && !anonymous} url={address.socket}>
      <a
        href="#content"
        className="sr-only focus:not-sr-only focus:absolute focus:z-50 focus:bg-bg focus:px-3 focus:py-2"
      >
        Skip to content
      </a>
      <header className="sticky top-0 z-20 border-b border-line bg-bg">
        <div className="mx-auto flex h-11 max-w-[1680px] items-center gap-4 px-4">
          <Link
            href="/runs"
            className="flex items-center gap-2 font-semibold tracking-[-0.01em]"
            aria-label="Muster, all runs"
          >
            <Mark />
            <span className="hidden sm:inline">Muster</span>
          </Link>
          <nav aria-label="Main" className="flex gap-1">
            <NavLink href="/runs">Runs</NavLink>
            <NavLink href="/verify">Verify</NavLink>
            <NavLink href="/settings">Settings</NavLink>
          </nav>
          <div className="ml-auto flex items-center gap-1">
            {data && !anonymous ? <ConnectionChip /> : null}
            <ThemeSwitch />
            {viewer && !anonymous ? <Account viewer={viewer} /> : null}
          </div>
        </div>
        {data && !anonymous ? <ConnectionBanner /> : null}
      </header>
      <main id="content" className="mx-auto max-w-[1680px] px-4 pt-4 pb-16">
        {fetching && !data ? <Loading what="your session" height={160} /> : null}
        {error && !data && !anonymous ? (
          <Failed page failure={failureOf(error)} what="this page" retry={reload} />
        ) : null}
        {data && !anonymous ? children : null}
      </main>
    </LiveBoundary>
  );
}

function LiveBoundary({ signedIn, url, children }: { signedIn: boolean; url: string; children: ReactNode }) {
  return signedIn ? <LiveProvider url={url}>{children}</LiveProvider> : children;
}

function NavLink({ href, children }: { href: string; children: ReactNode }) {
  const active = usePathname().startsWith(href);
  return (
    <Link
      href={href}
      aria-current={active ? "page" : undefined}
      className={`rounded-control px-2 py-1 hover:bg-raised ${active ? "font-medium text-fg" : "text-muted"}`}
    >
      {children}
    </Link>
  );
}

/** Three columns that rise in step: many machines, one direction. */
export function Mark() {
  return (
    <svg viewBox="0 0 16 16" width="16" height="16" aria-hidden="true" fill="currentColor">
      <path d="M1 9.5h3V15H1zM6.5 5.5h3V15h-3zM12 1.5h3V15h-3z" />
    </svg>
  );
}
