"use client";

import { useMemo } from "react";
import { graphql, type ResultOf } from "../../graphql/graphql.ts";
import { useNudge } from "../../live/use-event-stream.ts";
import { CopyButton } from "../../ui/copy.tsx";
import { countValues, type DataColumn, type Facet } from "../../ui/data-table/columns.ts";
import { DataTable } from "../../ui/data-table/data-table.tsx";
import { useKeyset } from "../../ui/data-table/use-keyset.ts";
import { absent, formatCount, formatCredits, sentence, shortId } from "../../ui/format.ts";
import { Panel } from "../../ui/page.tsx";
import { StateWord, type Tone } from "../../ui/state-badge.tsx";
import { Empty } from "../../ui/states.tsx";
import { Age } from "../../ui/time.tsx";
import { UntrustedText } from "../../ui/untrusted-text.tsx";
import { useFacet } from "../../ui/view-state.ts";
import { useApiAddress } from "../session/api-provider.tsx";

const RunWorkersQuery = graphql(`
  query RunWorkers($id: ID!, $after: String) {
    run(id: $id) {
      id
      currentVersion
      workers(first: 100, after: $after) {
        edges {
          node {
            id
            roles
            trust
            auditRate
            auditedValid
            accepted
            rejected
            invalid
            reason
            held
            available
            version
            node {
              id
              name
              software
              liveness
              lastSeenAt
            }
          }
        }
        pageInfo {
          hasNextPage
          endCursor
        }
      }
    }
  }
`);

const liveness: Record<string, Tone> = {
  ACTIVE: "ok",
  STALE: "pending",
  DRAINING: "running",
  OFFLINE: "idle",
};
const trust: Record<string, Tone> = {
  PROBATION: "pending",
  TRUSTED: "ok",
  QUARANTINED: "rejected",
  EJECTED: "slashed",
};

type RunWithWorkers = NonNullable<ResultOf<typeof RunWorkersQuery>["run"]>;
type Worker = RunWithWorkers["workers"]["edges"][number]["node"];

function columnsOf(newest: number | null): readonly DataColumn<Worker>[] {
  return [
    {
      id: "name",
      head: "Name",
      width: 176,
      grow: true,
      cell: (worker) => (
        <span title={worker.node.id}>
          <UntrustedText line text={worker.node.name} />
        </span>
      ),
      text: (worker) => worker.node.name,
      sort: (worker) => worker.node.name,
    },
    {
      id: "liveness",
      head: "Liveness",
      width: 96,
      cell: ({ node }) => (
        <StateWord tone={liveness[node.liveness] ?? "idle"}>{sentence(node.liveness)}</StateWord>
      ),
      text: ({ node }) => sentence(node.liveness),
      sort: ({ node }) => node.liveness,
    },
    {
      id: "roles",
      head: "Roles",
      width: 120,
      cell: (worker) => <span className="text-muted">{rolesOf(worker) || absent}</span>,
      text: rolesOf,
      sort: rolesOf,
    },
    {
      id: "trust",
      head: "Trust",
      help: "How far the run believes the node; trust is earned by groups that were audited and valid.",
      width: 168,
      cell: (worker) => (
        <span title={worker.reason ?? (isGranted(worker) ? granted : undefined)}>
          <StateWord tone={isGranted(worker) ? "ok" : (trust[worker.trust] ?? "idle")}>
            {isGranted(worker) ? "Granted" : sentence(worker.trust)}
          </StateWord>
          {worker.reason ? <span className="ml-1 text-subtle">{worker.reason}</span> : null}
        </span>
      ),
      text: (worker) => (isGranted(worker) ? "Granted" : sentence(worker.trust)),
      sort: (worker) => worker.trust,
    },
    {
      id: "auditRate",
      head: "Audit rate",
      help: "Share of the node's groups that is measured again.",
      number: true,
      width: 88,
      cell: (worker) => (isWorker(worker) ? `${(worker.auditRate * 100).toFixed(0)} %` : absent),
      text: (worker) => (isWorker(worker) ? String(worker.auditRate) : ""),
      sort: (worker) => (isWorker(worker) ? worker.auditRate : null),
    },
    countColumn("auditedValid", "Audited valid", (worker) => worker.auditedValid),
    countColumn("accepted", "Accepted", (worker) => worker.accepted, "second"),
    countColumn("rejected", "Rejected", (worker) => worker.rejected, "second"),
    countColumn("invalid", "Invalid", (worker) => worker.invalid),
    {
      id: "version",
      head: "Version",
      help: "The policy version it holds.",
      number: true,
      width: 76,
      cell: ({ version }) => (
        <span title={lagOf(version, newest)}>{version === null ? absent : `v${version}`}</span>
      ),
      text: (worker) => String(worker.version ?? ""),
      sort: (worker) => worker.version,
    },
    creditsColumn("held", "Credits held", (worker) => worker.held),
    creditsColumn("available", "Credits earned", (worker) => worker.available),
    {
      id: "software",
      head: "Software",
      width: 136,
      cell: ({ node }) => <UntrustedText line text={node.software} className="text-muted" />,
      text: ({ node }) => node.software,
      sort: ({ node }) => node.software,
    },
    {
      id: "seen",
      head: "Last seen",
      width: 92,
      first: "down",
      cell: ({ node }) => (
        <span className="text-muted">
          <Age at={node.lastSeenAt} />
        </span>
      ),
      text: ({ node }) => node.lastSeenAt,
      sort: ({ node }) => node.lastSeenAt,
      narrow: "second",
    },
    {
      id: "node",
      head: "Node",
      width: 104,
      cell: ({ node }) => <span className="font-mono text-muted">{shortId(node.id)}</span>,
      text: ({ node }) => node.id,
      hidden: true,
    },
  ];
}

function countColumn(
  id: string,
  head: string,
  read: (worker: Worker) => number,
  narrow?: "second",
): DataColumn<Worker> {
  return {
    id,
    head,
    number: true,
    width: 88,
    cell: (worker) => formatCount(read(worker)),
    text: (worker) => String(read(worker)),
    sort: read,
    ...(narrow ? { narrow } : {}),
  };
}

function creditsColumn(id: string, head: string, read: (worker: Worker) => string): DataColumn<Worker> {
  return {
    id,
    head,
    number: true,
    width: 108,
    cell: (worker) => formatCredits(read(worker)),
    text: (worker) => formatCredits(read(worker)),
    sort: (worker) => BigInt(read(worker)),
  };
}

const livenessNames = ["ACTIVE", "STALE", "DRAINING", "OFFLINE"] as const;
const trustNames = ["PROBATION", "TRUSTED", "QUARANTINED", "EJECTED"] as const;

/** The machines of the run: what they may do, what they did, and how far each is believed. */
export function RunWorkers({ runId, touched }: { runId: string; touched: number }) {
  const { rows, query, old, page, retry } = useKeyset({
    query: RunWorkersQuery,
    variables: { id: runId },
    connection: (data) => data.run?.workers,
  });
  useNudge(touched, retry, 2000);
  const [states, setStates] = useFacet("liveness", livenessNames);
  const [trusts, setTrusts] = useFacet("trust", trustNames);
  const { graphql } = useApiAddress();
  const join = `npm run muster -- worker --url ${new URL(graphql).origin}`;
  const newest = query.data?.run?.currentVersion ?? null;
  const columns = useMemo(() => columnsOf(newest), [newest]);
  const shown = useMemo(
    () =>
      rows.filter(
        ({ node, trust }) =>
          (states.length === 0 || states.some((state) => state === node.liveness)) &&
          (trusts.length === 0 || trusts.some((each) => each === trust)),
      ),
    [rows, states, trusts],
  );
  const facets = useMemo((): Facet[] => {
    const alive = countValues(rows, ({ node }) => node.liveness);
    const believed = countValues(rows, ({ trust }) => trust);
    return [
      facetOf("liveness", "Liveness", livenessNames, states, setStates, alive),
      facetOf("trust", "Trust", trustNames, trusts, setTrusts, believed),
    ];
  }, [rows, states, trusts, setStates, setTrusts]);
  return (
    <Panel title="Workers" note="Names are chosen by whoever runs the machine.">
      <DataTable<Worker>
        label="Workers"
        columns={columns}
        rows={shown}
        getRowId={(worker) => worker.id}
        query={{ ...query, data: query.data?.run }}
        retry={retry}
        old={old}
        page={page}
        sort="client"
        facets={facets}
        total={page.hasNext ? {} : { matching: shown.length, total: rows.length }}
        skeleton={4}
        empty={
          rows.length > 0 ? (
            <Empty title="No worker matches">No node of this run has this liveness and trust.</Empty>
          ) : (
            <Empty
              title="No node has joined yet"
              action={<CopyButton label="Copy the command" text={join} />}
            >
              On the machine that should work, in a clone of Muster, run{" "}
              <code className="font-mono">{join}</code>.
            </Empty>
          )
        }
      />
    </Panel>
  );
}

function facetOf(
  field: string,
  label: string,
  names: readonly string[],
  value: readonly string[],
  onChange: (value: readonly string[]) => void,
  counts: ReadonlyMap<string, number>,
): Facet {
  const options = names.map((name) => ({ value: name, label: sentence(name), count: counts.get(name) ?? 0 }));
  return { field, label, options, value, onChange };
}

function rolesOf({ roles }: Worker): string {
  return roles.map((role) => role.toLowerCase()).join(", ");
}

function isWorker({ roles }: Worker): boolean {
  return roles.includes("WORKER");
}

const granted = "The organizer gave it its role; trust is earned by generating, which it does not do here.";

/** Whether a node only does what it was granted: of such a one, probation says nothing. */
function isGranted({ roles, trust }: { roles: readonly string[]; trust: string }): boolean {
  return trust === "PROBATION" && roles.length > 0 && !roles.includes("WORKER");
}

function lagOf(version: number | null, newest: number | null): string {
  if (version === null) return "Not reported by this worker";
  if (newest === null || version >= newest) return "The newest version";
  return `${newest - version} behind the newest`;
}
