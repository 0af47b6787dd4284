"use client";

import { parseAsString, useQueryState } from "nuqs";
import { graphql } from "../../graphql/graphql.ts";
import { useSteadyQuery } from "../../graphql/use-steady-query.ts";
import { Page } from "../../ui/page.tsx";
import { Select } from "../../ui/select.tsx";
import { Empty, QueryState } from "../../ui/states.tsx";
import { Tabs } from "../../ui/tabs.tsx";
import { useTab } from "../../ui/view-state.ts";
import { DeliveriesTable } from "./deliveries-table.tsx";
import { EndpointsTable } from "./endpoints-table.tsx";
import { RulesTab } from "./rules-table.tsx";

const AlertsQuery = graphql(`
  query Alerts {
    me {
      organizations {
        role
        organization {
          id
          name
        }
      }
    }
  }
`);

/** An organization as the tabs need it. */
export type Place = {
  readonly id: string;
  /** Whether the reader may write. */
  readonly manages: boolean;
};

/** What an organization wants to be told, and where it is told. */
export function AlertsPage() {
  const [query, reload] = useSteadyQuery({ query: AlertsQuery });
  const [tab, setTab] = useTab(["rules", "webhooks", "deliveries"]);
  const [wanted, setWanted] = useQueryState("org", parseAsString.withOptions({ history: "push" }));
  const places = query.data?.me.organizations ?? [];
  const chosen = places.find(({ organization }) => organization.id === wanted) ?? places[0];
  const place: Place | undefined = chosen && {
    id: chosen.organization.id,
    manages: chosen.role === "owner" || chosen.role === "admin",
  };
  return (
    <Page
      title="Alerts"
      actions={
        chosen && places.length > 1 ? (
          <Select
            label="Organization"
            value={chosen.organization.id}
            options={places.map(({ organization: { id, name } }) => ({ value: id, label: name }))}
            onChange={(id) => void setWanted(id)}
          />
        ) : undefined
      }
    >
      <QueryState query={query} retry={reload} what="the alerts" shown="The page" height={240} />
      {query.data && place === undefined ? (
        <Empty title="You are in no organization">Ask an owner of one to invite you.</Empty>
      ) : null}
      {place ? (
        <Tabs
          label="Alerts"
          value={tab}
          onChange={(next) => void setTab(next)}
          tabs={[
            { value: "rules", label: "Rules", panel: <RulesTab key={place.id} place={place} /> },
            { value: "webhooks", label: "Webhooks", panel: <EndpointsTable key={place.id} place={place} /> },
            {
              value: "deliveries",
              label: "Deliveries",
              panel: <DeliveriesTable key={place.id} place={place} />,
            },
          ]}
        />
      ) : null}
    </Page>
  );
}
