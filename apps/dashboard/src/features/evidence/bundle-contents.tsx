"use client";

import { type ReactNode, useState } from "react";
import { graphql } from "../../graphql/graphql.ts";
import { useSteadyQuery } from "../../graphql/use-steady-query.ts";
import { Button } from "../../ui/button.tsx";
import { formatBytes, formatExact, formatMoment } from "../../ui/format.ts";
import { Section } from "../../ui/section.tsx";
import { StateWord } from "../../ui/state-badge.tsx";
import { Cell, Head, Row, Table } from "../../ui/table.tsx";
import { UntrustedText } from "../../ui/untrusted-text.tsx";
import type { BundleFacts } from "./judge.ts";

const CoordinatorQuery = graphql(`
  query CoordinatorKey {
    coordinator {
      publicKey
    }
  }
`);

/** What the bundle says, each signature in it being right: who did what, under which rules. */
export function BundleContents({ facts }: { facts: BundleFacts }) {
  const { header } = facts;
  return (
    <div className="grid gap-8 xl:grid-cols-2">
      <Section title="What is in the bundle">
        <dl className="grid grid-cols-[8rem_minmax(0,1fr)] divide-y divide-line border-y border-line text-table [&>*]:py-1.5">
          <Fact name="File">
            {formatBytes(facts.size)}, SHA-256 <Mono>{facts.sha256}</Mono>
          </Fact>
          <Fact name="Run">
            <UntrustedText text={facts.runName} className="font-sans" /> <Mono>{header.run}</Mono>
          </Fact>
          <Fact name="Group">
            <Mono>{header.group}</Mono>, place {header.index + 1} in <Mono>{header.task}</Mono>
          </Fact>
          <Fact name="Rollouts">
            {formatExact(facts.rollouts)} with {formatExact(facts.tokens)} tokens, policy v
            {header.policyVersion}, {header.environment.slug}, proofs in {facts.form}
          </Fact>
          <Fact name="Accepted">
            {header.acceptance === null
              ? "no"
              : header.acceptance === "AUDITED"
                ? "after an audit"
                : "on trust, unaudited"}
            ; {(header.audit.rate * 100).toFixed(0)} % of the node’s groups were audited then, secret draws of
            epoch {header.audit.epoch}
          </Fact>
          <Fact name="Decided">
            <time dateTime={header.createdAt}>{formatMoment(new Date(header.createdAt))}</time>
          </Fact>
          {header.auditEntry ? (
            <Fact name="Audit log">
              entry {formatExact(header.auditEntry.seq)}, <Mono>{header.auditEntry.hash}</Mono>
            </Fact>
          ) : null}
          <Fact name="Rules">
            revision {header.revision} of the run’s spec, <Mono>{header.specHash}</Mono>
          </Fact>
          <Fact name="Worker">
            <Mono>{header.worker.node}</Mono>, key <Mono>{header.worker.publicKey}</Mono>
          </Fact>
          <Fact name="Validator">
            {header.validator === null ? (
              "nobody measured it"
            ) : (
              <>
                <Mono>{header.validator.node}</Mono>, key <Mono>{header.validator.publicKey}</Mono>
              </>
            )}
          </Fact>
          <Fact name="Coordinator">
            <Coordinator signer={header.coordinator} />
          </Fact>
        </dl>
      </Section>
      <Parts facts={facts} />
    </div>
  );
}

/** Whose signature it is: anyone can sign a bundle, so the key is compared with the one published here. */
function Coordinator({ signer }: { signer: string }) {
  const [{ data, error }] = useSteadyQuery({ query: CoordinatorQuery });
  const published = data?.coordinator.publicKey;
  return (
    <>
      {published === signer ? (
        <StateWord tone="ok">signed by the coordinator of this page</StateWord>
      ) : published === undefined ? (
        <StateWord tone="pending">
          {error ? "the coordinator of this page could not be asked for its key" : "comparing keys …"}
        </StateWord>
      ) : (
        <span className="text-on-rejected-soft">
          <StateWord tone="rejected">signed by another coordinator than this page’s</StateWord>
        </span>
      )}
      <br />
      key <Mono>{signer}</Mono>
    </>
  );
}

const fewParts = 8;

function Parts({ facts }: { facts: BundleFacts }) {
  const { parts } = facts.header;
  const [all, setAll] = useState(parts.length <= fewParts);
  const shown = all ? parts : parts.slice(0, fewParts);
  return (
    <Section title="Parts">
      <Table
        label="Parts of the bundle"
        head={
          <>
            <Head>Name</Head>
            <Head number>Size</Head>
            <Head>SHA-256</Head>
          </>
        }
      >
        {shown.map(({ name, size, sha256 }) => (
          <Row key={name}>
            <Cell className="whitespace-nowrap font-mono">{name}</Cell>
            <Cell number title={`${formatExact(size)} bytes`}>
              {formatBytes(size)}
            </Cell>
            <Cell className="font-mono text-muted">{sha256}</Cell>
          </Row>
        ))}
      </Table>
      {all ? null : (
        <Button className="mt-2" onClick={() => setAll(true)}>
          All {parts.length} parts
        </Button>
      )}
    </Section>
  );
}

function Fact({ name, children }: { name: string; children: ReactNode }) {
  return (
    <>
      <dt className="text-subtle">{name}</dt>
      <dd className="min-w-0 wrap-anywhere">{children}</dd>
    </>
  );
}

function Mono({ children }: { children: string }) {
  return <code className="font-mono text-muted">{children}</code>;
}
