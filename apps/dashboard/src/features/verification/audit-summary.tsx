"use client";

import clsx from "clsx";
import { failureOf } from "../../graphql/failure.ts";
import { graphql } from "../../graphql/graphql.ts";
import { useSteadyQuery } from "../../graphql/use-steady-query.ts";
import { useNudge } from "../../live/use-event-stream.ts";
import {
  absent,
  formatCount,
  formatCredits,
  formatDuration,
  formatExact,
  formatShare,
} from "../../ui/format.ts";
import { Figure, Section } from "../../ui/section.tsx";
import { Failed, Loading, Partial } from "../../ui/states.tsx";
import { boundInWords, type Outcomes, outcomesOf, policyInWords } from "./audit-words.ts";

const AuditSummaryQuery = graphql(`
  query AuditSummary($id: ID!) {
    run(id: $id) {
      id
      audit {
        probationGroups
        floor
        adversaryShare
        epsilon
        audited
        trusted
        auditedShare
        auditedAtTrust
        badAtTrust
        poisonUpper95
        retroactive
        retroactivePending
        poisonTrained
        forfeited
        backlog
        backlogLimit
        oldestBacklogSeconds
        costShare
        costShareAtTrust
      }
      stats {
        groups {
          submitted
          verifying
          accepted
          setAside
          stale
          rejected
          invalid
        }
      }
    }
  }
`);

/** What is checked, what that found, and what it costs. */
export function AuditSummary({ runId, touched }: { runId: string; touched: number }) {
  const [{ data, error, fetching }, retry] = useSteadyQuery({
    query: AuditSummaryQuery,
    variables: { id: runId },
  });
  useNudge(touched, retry, 3000);
  const run = data?.run;
  if (!run)
    return (
      <Section title="Audits">
        {error ? <Failed failure={failureOf(error)} what="the audits" retry={retry} /> : null}
        {fetching && !error ? <Loading what="the audits" height={160} /> : null}
      </Section>
    );
  const { audit, stats } = run;
  const [how = "", ...rules] = policyInWords(audit);
  return (
    <Section title="Audits">
      {error ? <Partial retry={retry}>{failureOf(error).message} These figures may be old.</Partial> : null}
      <p className="max-w-[100ch] text-muted">
        {how} {rules.join(" ")}
      </p>
      <dl
        className="mt-3 grid grid-cols-2 gap-x-6 gap-y-2 border-y border-line py-2 sm:grid-cols-4 xl:grid-cols-8"
        aria-label="Audits in figures"
      >
        <Figure label="Poison, at most" title="Share of all accepted groups, upper 95 % bound at any moment">
          {formatShare(audit.trusted === 0 ? 0 : audit.poisonUpper95)}
        </Figure>
        <Figure
          label="Audited"
          title={`${formatExact(audit.audited)} of ${formatExact(audit.audited + audit.trusted)} groups`}
        >
          {formatShare(audit.auditedShare)}{" "}
          <span className="font-normal text-subtle">of {formatCount(audit.audited + audit.trusted)}</span>
        </Figure>
        <Figure label="Rejected at trust" title="Rejections in secret audits of nodes that were trusted">
          {formatExact(audit.badAtTrust)}{" "}
          <span className="font-normal text-subtle">of {formatCount(audit.auditedAtTrust)}</span>
        </Figure>
        <Figure
          label="Audited afterwards"
          title="Groups that were accepted on trust and are audited because their node failed since"
        >
          {formatExact(audit.retroactive)}
          {audit.retroactivePending > 0 ? (
            <span className="font-normal text-subtle"> {formatExact(audit.retroactivePending)} pending</span>
          ) : null}
        </Figure>
        <Figure label="Poison trained on" title="Rejected groups that stand in a sealed batch">
          {formatExact(audit.poisonTrained)}
        </Figure>
        <Figure
          label="Backlog"
          title={`Measurements that wait or are being made. Above ${formatExact(audit.backlogLimit)} no new work is opened; no audit is ever skipped.`}
        >
          {formatExact(audit.backlog)}{" "}
          <span className="font-normal text-subtle">
            {audit.oldestBacklogSeconds === null
              ? `of ${formatExact(audit.backlogLimit)}`
              : `oldest ${formatDuration(audit.oldestBacklogSeconds)}`}
          </span>
        </Figure>
        <Figure
          label="Cost of measuring"
          title="CPU-seconds of measuring over those of generating, as the nodes report them; beside it the same for groups of trusted nodes"
        >
          {formatShare(audit.costShare)}
          {audit.costShareAtTrust === null ? null : (
            <span className="font-normal text-subtle"> {formatShare(audit.costShareAtTrust)} at trust</span>
          )}
        </Figure>
        <Figure label="Credits forfeited" title="Taken back from nodes, net of refunds">
          {BigInt(audit.forfeited) === 0n ? "0" : (formatCredits(audit.forfeited) ?? absent)}
        </Figure>
      </dl>
      <p className="mt-2 max-w-[100ch] text-table text-subtle">{boundInWords(audit)}</p>
      <OutcomeBar outcomes={outcomesOf(stats.groups, audit.trusted)} />
    </Section>
  );
}

const solid = { ok: "bg-ok", running: "bg-running", rejected: "bg-rejected", idle: "bg-idle" } as const;

/** All groups of the run by how they fared. */
function OutcomeBar({ outcomes }: { outcomes: Outcomes }) {
  const total = outcomes.reduce((sum, { count }) => sum + count, 0);
  if (total === 0) return null;
  const shown = outcomes.filter(({ count }) => count > 0);
  return (
    <div className="mt-4">
      <div className="flex h-2 gap-px" aria-hidden="true">
        {shown.map(({ name, tone, faint, count }) => (
          <span
            key={name}
            className={clsx("min-w-0.5", solid[tone], faint && "opacity-40")}
            style={{ width: `${(count / total) * 100}%` }}
          />
        ))}
      </div>
      <ul className="mt-1.5 flex flex-wrap gap-x-5 gap-y-1 text-table" aria-label="Groups by verdict">
        {shown.map(({ name, tone, faint, count }) => (
          <li key={name} className="inline-flex items-center gap-1.5">
            <span aria-hidden="true" className={clsx("size-2", solid[tone], faint && "opacity-40")} />
            <span className="text-muted">{name}</span>
            <span className="font-medium">{formatCount(count)}</span>
            <span className="text-subtle">{formatShare(count / total)}</span>
          </li>
        ))}
      </ul>
    </div>
  );
}
