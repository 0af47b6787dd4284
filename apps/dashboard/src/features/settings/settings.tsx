"use client";

import { failureOf } from "../../graphql/failure.ts";
import { graphql } from "../../graphql/graphql.ts";
import { useSteadyQuery } from "../../graphql/use-steady-query.ts";
import { useCrumbs } from "../../ui/crumbs.tsx";
import { Empty, Failed, Loading, Partial } from "../../ui/states.tsx";
import { ApiKeys, ApiKeysFragment } from "./api-keys.tsx";

const SettingsQuery = graphql(
  `
    query Settings {
      me {
        kind
        scopes
        organizations {
          role
          organization {
            id
            ...ApiKeys_organization
          }
        }
      }
    }
  `,
  [ApiKeysFragment],
);

/** What an organization's members set up once: so far, its keys for programs. */
export function Settings() {
  const [{ data, error, fetching }, reload] = useSteadyQuery({ query: SettingsQuery });
  const { organizations = [], scopes = [] } = data?.me ?? {};
  useCrumbs([{ label: "Settings" }]);
  return (
    <>
      <h1 className="mb-3 text-title font-semibold">Settings</h1>
      {error && data ? (
        <Partial retry={reload}>{failureOf(error).message} This page may be out of date.</Partial>
      ) : null}
      {error && !data ? <Failed failure={failureOf(error)} what="the settings" retry={reload} /> : null}
      {fetching && !data ? <Loading what="the settings" height={240} /> : null}
      {data && organizations.length === 0 ? (
        <Empty title="You are in no organization">Ask an owner of one to invite you.</Empty>
      ) : null}
      <div className="grid gap-10">
        {organizations.map(({ role, organization }) => (
          <ApiKeys
            key={organization.id}
            organization={organization}
            owner={role === "owner"}
            scopes={scopes}
            reload={reload}
          />
        ))}
      </div>
    </>
  );
}
