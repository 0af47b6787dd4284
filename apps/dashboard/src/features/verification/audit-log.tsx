"use client";

import { useState } from "react";
import { graphql } from "../../graphql/graphql.ts";
import { useSteadyQuery } from "../../graphql/use-steady-query.ts";
import { useNudge } from "../../live/use-event-stream.ts";
import { CopyButton, Id } from "../../ui/copy.tsx";
import { formatExact } from "../../ui/format.ts";
import { Section } from "../../ui/section.tsx";
import { Empty, QueryState } from "../../ui/states.tsx";
import { Cell, Head, Pages, Row, Table } from "../../ui/table.tsx";
import { Age } from "../../ui/time.tsx";
import { UntrustedText } from "../../ui/untrusted-text.tsx";
import { entryInWords } from "./audit-words.ts";

const AuditLogQuery = graphql(`
  query AuditLog($id: ID!, $before: String) {
    run(id: $id) {
      id
      auditHead {
        seq
        hash
      }
      auditLog(last: 20, before: $before) {
        edges {
          node {
            seq
            kind
            subject
            data
            at
            hash
          }
        }
        pageInfo {
          hasPreviousPage
          startCursor
        }
      }
    }
  }
`);

/** The record that cannot be rewritten unnoticed: each line's hash binds all lines before it. */
export function AuditLog({ runId, touched }: { runId: string; touched: number }) {
  const [before, setBefore] = useState<string | null>(null);
  const [{ data, error, fetching }, retry] = useSteadyQuery({
    query: AuditLogQuery,
    variables: { id: runId, before },
  });
  useNudge(before === null ? touched : 0, retry, 5000);
  const run = data?.run;
  const entries = run?.auditLog.edges.map((edge) => edge.node).toReversed() ?? [];
  const head = run?.auditHead;
  return (
    <Section
      title="Audit log"
      note="Each entry’s hash binds all entries before it. Keep the newest one: whoever rewrites the past can no longer produce it."
      actions={
        head ? (
          <>
            <span className="text-table text-subtle">
              Head {formatExact(BigInt(head.seq))}{" "}
              <code className="font-mono" title={head.hash}>
                {head.hash.slice(0, 16)}…
              </code>
            </span>
            <CopyButton label="Copy head hash" text={`${head.seq} ${head.hash}`} />
          </>
        ) : null
      }
    >
      <QueryState
        query={{ data, error, fetching }}
        retry={retry}
        what="the audit log"
        shown="The log"
        rows={6}
      />
      {run && entries.length === 0 ? (
        <Empty title="Nothing is on record yet">
          Verdicts, probes, cases and penalties are recorded here in the order in which they were committed.
        </Empty>
      ) : null}
      {entries.length > 0 ? (
        <Table
          label="Audit log"
          head={
            <>
              <Head number>Entry</Head>
              <Head>Kind</Head>
              <Head>Subject</Head>
              <Head>What</Head>
              <Head>Hash</Head>
              <Head>When</Head>
            </>
          }
        >
          {entries.map((entry) => (
            <Row key={entry.seq}>
              <Cell number className="font-mono text-subtle">
                {entry.seq}
              </Cell>
              <Cell className="whitespace-nowrap font-medium">{entry.kind}</Cell>
              <Cell>
                <Id id={entry.subject} />
              </Cell>
              <Cell className="w-full max-w-64 text-muted">
                <UntrustedText line text={entryInWords(entry.data)} />
              </Cell>
              <Cell className="font-mono text-subtle" title={entry.hash}>
                {entry.hash.slice(0, 12)}
              </Cell>
              <Cell className="whitespace-nowrap text-muted">
                <Age at={entry.at} />
              </Cell>
            </Row>
          ))}
        </Table>
      ) : null}
      <Pages
        after={before}
        next={run?.auditLog.pageInfo.hasPreviousPage ? run.auditLog.pageInfo.startCursor : null}
        onChange={setBefore}
      />
    </Section>
  );
}
