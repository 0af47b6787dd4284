"use client";

import { UserRound } from "lucide-react";
import { lazy } from "react";
import { graphql, type ResultOf } from "../../graphql/graphql.ts";
import { iconButton } from "../../ui/button.tsx";
import { OnDemand } from "../../ui/on-demand.tsx";

export const AccountFragment = graphql(`
  fragment Account_viewer on Viewer {
    kind
    user {
      id
      name
      email
    }
    organizations {
      role
      organization {
        id
        name
      }
    }
  }
`);

const load = () => import("./account-menu.tsx");
const AccountMenu = lazy(async () => ({ default: (await load()).AccountMenu }));

/** Who is signed in, and the way out. */
export function Account({ viewer }: { viewer: ResultOf<typeof AccountFragment> }) {
  const name = viewer.user?.name || viewer.user?.email || "Signed in";
  const trigger = (
    <button type="button" className={iconButton} aria-label={`Account: ${name}`} title={name}>
      <UserRound size={16} aria-hidden />
    </button>
  );
  return (
    <OnDemand trigger={trigger} popup="menu" load={load}>
      <AccountMenu viewer={viewer} name={name} trigger={trigger} />
    </OnDemand>
  );
}
