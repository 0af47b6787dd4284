"use client";

import { type ReactNode, useEffect } from "react";
import { failureOf } from "../../graphql/failure.ts";
import { graphql, readFragment } from "../../graphql/graphql.ts";
import { useSteadyQuery } from "../../graphql/use-steady-query.ts";
import { ConnectionBanner, ConnectionChip } from "../../live/connection-chip.tsx";
import { LiveProvider } from "../../live/live-provider.tsx";
import { CrumbsProvider } from "../../ui/crumbs.tsx";
import { Shortcuts } from "../../ui/shortcuts.tsx";
import { Failed, Loading } from "../../ui/states.tsx";
import { ThemeSwitch } from "../../ui/theme.tsx";
import { Toasts } from "../../ui/toast.tsx";
import { Account, AccountFragment } from "./account.tsx";
import { useApiAddress } from "./api-provider.tsx";
import { Overlays, useOverlays } from "./overlays.tsx";
import { Rail } from "./rail.tsx";
import { TopBar } from "./top-bar.tsx";

const FrameQuery = graphql(
  `
    query Frame {
      me {
        kind
        organizations {
          organization {
            id
            name
          }
        }
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
  const signedIn = data !== undefined && !anonymous;
  return (
    <Shortcuts>
      <CrumbsProvider>
        <LiveBoundary signedIn={signedIn} url={address.socket}>
          <Shell
            signedIn={signedIn}
            organization={data?.me.organizations[0]?.organization.name}
            account={viewer && signedIn ? <Account viewer={viewer} /> : null}
          >
            {fetching && !data ? <Loading what="your session" height={160} /> : null}
            {error && !data && !anonymous ? (
              <Failed page failure={failureOf(error)} what="this page" retry={reload} />
            ) : null}
            {signedIn ? children : null}
          </Shell>
        </LiveBoundary>
      </CrumbsProvider>
    </Shortcuts>
  );
}

function Shell(props: {
  signedIn: boolean;
  organization: string | undefined;
  account: ReactNode;
  children: ReactNode;
}) {
  const { signedIn, organization, account, children } = props;
  const overlays = useOverlays();
  return (
    <>
      <a href="#content" className="skip-link">
        Skip to content
      </a>
      <Rail />
      <div className="beside-rail">
        <header className="sticky top-0 z-20 border-b border-line bg-bg">
          <TopBar organization={organization} onSearch={overlays.openPalette}>
            {signedIn ? <ConnectionChip /> : null}
            <ThemeSwitch />
            {account}
          </TopBar>
          {signedIn ? <ConnectionBanner /> : null}
        </header>
        <main id="content" tabIndex={-1} className="max-w-[1680px] px-4 pt-4 pb-16 outline-none">
          {children}
        </main>
      </div>
      <Overlays state={overlays} />
      <Toasts />
    </>
  );
}

function LiveBoundary({ signedIn, url, children }: { signedIn: boolean; url: string; children: ReactNode }) {
  return signedIn ? <LiveProvider url={url}>{children}</LiveProvider> : children;
}
