"use client";

import { Menu } from "@base-ui/react/menu";
import { type ReactElement, useState } from "react";
import type { ResultOf } from "../../graphql/graphql.ts";
import type { AccountFragment } from "./account.tsx";
import { useApiAddress } from "./api-provider.tsx";
import { signOut } from "./auth.ts";

/** The open menu of the account: who is signed in, and the way out. */
export function AccountMenu({
  viewer,
  name,
  trigger,
}: {
  viewer: ResultOf<typeof AccountFragment>;
  name: string;
  trigger: ReactElement;
}) {
  const address = useApiAddress();
  const [failed, setFailed] = useState(false);
  async function leave(): Promise<void> {
    const left = await signOut(address.auth);
    if (left.ok) location.assign("/sign-in");
    else setFailed(true);
  }
  return (
    <Menu.Root defaultOpen>
      <Menu.Trigger render={trigger} />
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
