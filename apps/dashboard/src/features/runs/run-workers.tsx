"use client";

import { useState } from "react";
import { graphql } from "../../graphql/graphql.ts";
import { useSteadyQuery } from "../../graphql/use-steady-query.ts";
import { useNudge } from "../../live/use-event-stream.ts";
import { Button } from "../../ui/button.tsx";
import { CopyButton } from "../../ui/copy.tsx";
import { absent, formatCount, formatCredits, sentence } from "../../ui/format.ts";
import { Section } from "../../ui/section.tsx";
import { StateWord, type Tone } from "../../ui/state-badge.tsx";
import { Empty, QueryState } from "../../ui/states.tsx";
import { Cell, Head, Row, Table } from "../../ui/table.tsx";
import { Age } from "../../ui/time.tsx";
import { UntrustedText } from "../../ui/untrusted-text.tsx";
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

/** The machines of the run: what they may do, what they did, and how far each is believed. */
export function RunWorkers({ runId, touched }: { runId: string; touched: number }) {
  const [after, setAfter] = useState<string | null>(null);
  const [{ data, error, fetching }, retry] = useSteadyQuery({
    query: RunWorkersQuery,
    variables: { id: runId, after },
  });
  useNudge(touched, retry, 2000);
  const { graphql } = useApiAddress();
  const join = `npm run muster -- worker --url ${new URL(graphql).origin}`;
  const run = data?.run;
  const workers = run?.workers.edges.map((edge) => edge.node) ?? [];
  return (
    <Section
      title="Workers"
      note="Names are chosen by whoever runs the machine. Audit rate is the share of a node's groups that is measured again."
    >
      <QueryState query={{ data: run, error, fetching }} retry={retry} what="the workers" rows={4} />
      {run && workers.length === 0 ? (
        <Empty title="No node has joined yet" action={<CopyButton label="Copy the command" text={join} />}>
          On the machine that should work, in a clone of Muster, run <code className="font-mono">{join}</code>
          .
        </Empty>
      ) : null}
      {workers.length > 0 ? (
        <Table
          label="Workers"
          head={
            <>
              <Head>Liveness</Head>
              <Head>Name</Head>
              <Head>Roles</Head>
              <Head>Trust</Head>
              <Head number>Audit rate</Head>
              <Head number>Audited valid</Head>
              <Head number>Accepted</Head>
              <Head number>Rejected</Head>
              <Head number>Invalid</Head>
              <Head number>Version</Head>
              <Head number>Credits held</Head>
              <Head number>Credits earned</Head>
              <Head>Software</Head>
              <Head>Last seen</Head>
            </>
          }
        >
          {workers.map((worker) => (
            <Row key={worker.id}>
              <Cell>
                <StateWord tone={liveness[worker.node.liveness] ?? "idle"}>
                  {sentence(worker.node.liveness)}
                </StateWord>
              </Cell>
              <Cell className="max-w-48" title={worker.node.id}>
                <UntrustedText line text={worker.node.name} />
              </Cell>
              <Cell className="whitespace-nowrap text-muted">
                {worker.roles.map((role) => role.toLowerCase()).join(", ") || absent}
              </Cell>
              <Cell title={worker.reason ?? (isGranted(worker) ? granted : undefined)}>
                <StateWord tone={isGranted(worker) ? "ok" : (trust[worker.trust] ?? "idle")}>
                  {isGranted(worker) ? "Granted" : sentence(worker.trust)}
                </StateWord>
                {worker.reason ? <span className="ml-1 text-subtle">{worker.reason}</span> : null}
              </Cell>
              <Cell number>
                {worker.roles.includes("WORKER") ? `${(worker.auditRate * 100).toFixed(0)} %` : absent}
              </Cell>
              <Cell number>{formatCount(worker.auditedValid)}</Cell>
              <Cell number>{formatCount(worker.accepted)}</Cell>
              <Cell number>{formatCount(worker.rejected)}</Cell>
              <Cell number>{formatCount(worker.invalid)}</Cell>
              <Cell number title={lagOf(worker.version, run?.currentVersion ?? null)}>
                {worker.version === null ? absent : `v${worker.version}`}
              </Cell>
              <Cell number>{formatCredits(worker.held)}</Cell>
              <Cell number>{formatCredits(worker.available)}</Cell>
              <Cell className="max-w-40">
                <UntrustedText line text={worker.node.software} className="text-muted" />
              </Cell>
              <Cell className="whitespace-nowrap text-muted">
                <Age at={worker.node.lastSeenAt} />
              </Cell>
            </Row>
          ))}
        </Table>
      ) : null}
      {run && (after !== null || run.workers.pageInfo.hasNextPage) ? (
        <div className="mt-3 flex gap-2">
          {after !== null ? <Button onClick={() => setAfter(null)}>First page</Button> : null}
          {run.workers.pageInfo.hasNextPage ? (
            <Button onClick={() => setAfter(run.workers.pageInfo.endCursor)}>Next page</Button>
          ) : null}
        </div>
      ) : null}
    </Section>
  );
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
