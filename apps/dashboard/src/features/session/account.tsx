"use client";

import { Menu } from "@base-ui/react/menu";
import { UserRound } from "lucide-react";
import { useState } from "react";
import { graphql, type ResultOf } from "../../graphql/graphql.ts";
import { iconButton } from "../../ui/button.tsx";
import { useApiAddress } from "./api-provider.tsx";
import { signOut } from "./auth.ts";

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

/** Who is signed in, and the way out. */
export function Account({ viewer }: { viewer: ResultOf<typeof AccountFragment> }) {
  const address = useApiAddress();
  const [failed, setFailed] = useState(false);
  const name = viewer.user?.name || viewer.user?.email || "Signed in";
  async function leave(): Promise<void> {
    const left = await signOut(address.auth);
    if (left.ok) location.assign("/sign-in");
    else setFailed(true);
  }
  return (
    <Menu.Root>
      <Menu.Trigger className={iconButton} aria-label={`Account: ${name}`} title={name}>
        <UserRound size={16} aria-hidden />
      </Menu.Trigger>
      <Menu.Portal>
        <Menu.Positioner sideOffset={6} align="end" className="z-30">
          <Menu.Popup className="w-60 rounded-panel border border-line bg-bg py-1 shadow-[var(--overlay-shadow)] outline-none">
            <div className="border-b border-line px-3 pt-1 pb-2">
              <p className="truncate font-medium">{name}</p>
              {viewer.user ? <p className="truncate text-table text-subtle">{viewer.user.email}</p> : null}
              {viewer.organizations.map(({ organization, role }) => (
                <p key={organization.id} className="truncate text-table text-subtle">
                  {organization.name}, {role}
                </p>
              ))}
            </div>
            <Menu.Item
              className="flex h-8 cursor-default items-center px-3 outline-none data-highlighted:bg-raised"
              onClick={() => void leave()}
              closeOnClick={false}
            >
              Sign out
            </Menu.Item>
            {failed ? (
              <p role="alert" className="px-3 pb-1 text-table text-on-rejected-soft">
                The coordinator did not answer; you are still signed in.
              </p>
            ) : null}
          </Menu.Popup>
        </Menu.Positioner>
      </Menu.Portal>
    </Menu.Root>
  );
}
