"use client";

import { graphql } from "../../graphql/graphql.ts";
import { useSteadyQuery } from "../../graphql/use-steady-query.ts";
import { useNudge } from "../../live/use-event-stream.ts";
import { absent, formatCount } from "../../ui/format.ts";
import { Section } from "../../ui/section.tsx";
import { StateWord } from "../../ui/state-badge.tsx";
import { Empty, QueryState } from "../../ui/states.tsx";
import { Cell, Head, Row, Table } from "../../ui/table.tsx";
import { Age } from "../../ui/time.tsx";
import { UntrustedText } from "../../ui/untrusted-text.tsx";

const ValidatorsQuery = graphql(`
  query Validators($id: ID!) {
    run(id: $id) {
      id
      grants {
        id
        role
        own
        revokedAt
        node {
          id
          name
          lastSeenAt
        }
      }
      workers(first: 200) {
        edges {
          node {
            id
            trust
            reason
            probes
            disagreements
            node {
              id
            }
          }
        }
      }
    }
  }
`);

/** Who measures, and whether their measuring has held. */
export function Validators({ runId, touched }: { runId: string; touched: number }) {
  const [{ data, error, fetching }, retry] = useSteadyQuery({
    query: ValidatorsQuery,
    variables: { id: runId },
  });
  useNudge(touched, retry, 5000);
  const run = data?.run;
  const validators =
    run?.grants
      .filter(({ role, revokedAt }) => role === "VALIDATOR" && revokedAt === null)
      .map((grant) => ({
        ...grant,
        standing: run.workers.edges.find((edge) => edge.node.node.id === grant.node.id)?.node,
      })) ?? [];
  const anyOwn = validators.some(({ own }) => own);
  return (
    <Section
      title="Validators"
      note="Watched by tasks that look like any other: re-executions, and groups whose measurement is known."
    >
      <QueryState query={{ data: run, error, fetching }} retry={retry} what="the validators" rows={2} />
      {run && validators.length === 0 ? (
        <Empty title="No node may measure in this run">
          Nothing can be accepted before a validator is granted:{" "}
          <code className="font-mono">npm run muster -- nodes grant</code>.
        </Empty>
      ) : null}
      {validators.length > 0 ? (
        <Table
          label="Validators"
          head={
            <>
              <Head>Standing</Head>
              <Head>Name</Head>
              <Head>Whose</Head>
              <Head number>Probes</Head>
              <Head number>Disagreements</Head>
              <Head className="pl-6">Reason</Head>
              <Head>Last seen</Head>
            </>
          }
        >
          {validators.map(({ id, node, own, standing }) => (
            <Row key={id}>
              <Cell>
                <Standing trust={standing?.trust} disagreements={standing?.disagreements ?? 0} />
              </Cell>
              <Cell className="max-w-48" title={node.id}>
                <UntrustedText line text={node.name} />
              </Cell>
              <Cell className="whitespace-nowrap text-muted">
                {own ? "the organizer’s own" : anyOwn ? "granted" : "granted, counts as the organizer’s own"}
              </Cell>
              <Cell number>{formatOrAbsent(standing?.probes)}</Cell>
              <Cell number>{formatOrAbsent(standing?.disagreements)}</Cell>
              <Cell className="max-w-md pl-6 text-muted">{standing?.reason ?? ""}</Cell>
              <Cell className="whitespace-nowrap text-muted">
                <Age at={node.lastSeenAt} />
              </Cell>
            </Row>
          ))}
        </Table>
      ) : null}
    </Section>
  );
}

function Standing({ trust, disagreements }: { trust: string | undefined; disagreements: number }) {
  if (trust === "QUARANTINED") return <StateWord tone="rejected">Quarantined</StateWord>;
  if (trust === "EJECTED") return <StateWord tone="slashed">Ejected</StateWord>;
  // one of the organizer's own is never quarantined for it: somebody has to look
  if (disagreements > 0) return <StateWord tone="pending">Suspect</StateWord>;
  return <StateWord tone="ok">Measures</StateWord>;
}

function formatOrAbsent(count: number | null | undefined): string {
  return count === null || count === undefined ? absent : formatCount(count);
}
