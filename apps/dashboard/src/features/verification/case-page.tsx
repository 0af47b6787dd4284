"use client";

import { Download, ShieldCheck } from "lucide-react";
import Link from "next/link";
import { graphql, type ResultOf } from "../../graphql/graphql.ts";
import { useSteadyQuery } from "../../graphql/use-steady-query.ts";
import { buttonClass } from "../../ui/button.tsx";
import { CopyButton, Id } from "../../ui/copy.tsx";
import { formatCredits, formatExact, formatReward, sentence, shortId } from "../../ui/format.ts";
import { Figure, Section } from "../../ui/section.tsx";
import { Age } from "../../ui/time.tsx";
import { UntrustedText } from "../../ui/untrusted-text.tsx";
import { RunPart } from "../runs/run-part.tsx";
import { useApiAddress } from "../session/api-provider.tsx";
import { CaseChecks, CaseChecksFragment } from "./case-checks.tsx";
import { CaseDecision, CaseDecisionFragment } from "./case-decision.tsx";
import { CaseStateBadge, ConfirmedWord, caseStateMeaning } from "./case-state.tsx";
import { CaseTimeline, CaseTimelineFragment } from "./case-timeline.tsx";

const CasePageQuery = graphql(
  `
    query CasePage($id: ID!, $run: ID!) {
      me {
        organizations {
          role
          organization {
            id
          }
        }
      }
      run(id: $run) {
        id
        name
        organization {
          id
          name
        }
        workers(first: 200) {
          edges {
            node {
              id
              trust
              accepted
              rejected
              held
              forfeited
              finalAfter
              node {
                id
              }
            }
          }
        }
      }
      node(id: $id) {
        __typename
        id
        ... on Case {
          state
          reason
          confirmed
          evidence
          node {
            id
            name
          }
          group {
            id
            policyVersion
            tokens
            meanReward
            prompt
            submittedAt
            retroactive
            rollouts {
              id
              index
              reward
            }
          }
          ...CaseTimeline_case
          ...CaseChecks_case
          ...CaseDecision_case
        }
      }
    }
  `,
  [CaseTimelineFragment, CaseChecksFragment, CaseDecisionFragment],
);

/** One rejected group and whether its rejection stands: the accusation, the numbers, what measuring again found, and the decision. */
export function CasePage({ runId, caseId }: { runId: string; caseId: string }) {
  const [query, retry] = useSteadyQuery({
    query: CasePageQuery,
    variables: { id: caseId, run: runId },
  });
  const { data } = query;
  const found = data?.node?.__typename === "Case" ? data.node : undefined;
  return (
    <RunPart
      id={caseId}
      what="case"
      query={query}
      retry={retry}
      part={found}
      runId={runId}
      tab={{ id: "verification", label: "Verification" }}
    >
      {(found) => (
        <Case found={found} run={data?.run ?? null} roles={data?.me.organizations ?? []} reload={retry} />
      )}
    </RunPart>
  );
}

type CaseData = Extract<NonNullable<ResultOf<typeof CasePageQuery>["node"]>, { __typename: "Case" }>;

function Case({
  found,
  run,
  roles,
  reload,
}: {
  found: CaseData;
  run: ResultOf<typeof CasePageQuery>["run"];
  roles: ResultOf<typeof CasePageQuery>["me"]["organizations"];
  reload(): void;
}) {
  const { group } = found;
  const standing = run?.workers.edges.find((edge) => edge.node.node.id === found.node.id)?.node;
  const role = roles.find(({ organization }) => organization.id === run?.organization.id)?.role;
  return (
    <>
      <header>
        <div className="flex flex-wrap items-center gap-x-3 gap-y-1">
          <CaseStateBadge state={found.state} />
          <h1 className="text-title font-semibold">Case</h1>
          <Id id={found.id} />
          <span className="text-table text-subtle">
            of <Id id={group.id} />
          </span>
        </div>
        <p className="mt-1 max-w-[88ch] text-muted">{caseStateMeaning(found.state)}</p>
        <dl
          className="mt-3 grid grid-cols-2 gap-x-6 gap-y-2 border-y border-line py-2 sm:grid-cols-4 xl:grid-cols-8"
          aria-label="Key figures"
        >
          <Figure label="Accused" title={found.node.id}>
            <UntrustedText line text={found.node.name} />
          </Figure>
          <Figure label="Its standing">{standing ? sentence(standing.trust) : "not in the run"}</Figure>
          <Figure label="Its groups" title="Accepted and rejected in this run">
            {standing ? formatExact(standing.accepted) : "–"}{" "}
            <span className="font-normal text-subtle">
              {standing ? `${formatExact(standing.rejected)} rejected` : ""}
            </span>
          </Figure>
          <Figure label="Its credits held" {...(standing ? { title: standing.finalAfter } : {})}>
            {standing ? formatCredits(standing.held) : "–"}{" "}
            {standing && BigInt(standing.forfeited) > 0n ? (
              <span className="font-normal text-subtle">{formatCredits(standing.forfeited)} forfeited</span>
            ) : null}
          </Figure>
          <Figure label="Measured again">
            <ConfirmedWord confirmed={found.confirmed} />
          </Figure>
          <Figure label="Policy">v{group.policyVersion}</Figure>
          <Figure label="Rollouts, tokens">
            {formatExact(group.rollouts.length)}{" "}
            <span className="font-normal text-subtle">{formatExact(group.tokens)} tokens</span>
          </Figure>
          <Figure label="Submitted">
            <Age at={group.submittedAt} />
          </Figure>
        </dl>
      </header>
      <div className="mt-6 grid gap-8">
        <div className="grid gap-8 lg:grid-cols-2">
          <Section title="Why it was rejected">
            <p className="max-w-[72ch] border-y border-line py-3">{found.reason}</p>
            {group.retroactive ? (
              <p className="mt-2 max-w-[72ch] text-table text-subtle">
                It had been accepted on trust and was audited because its node failed since.
              </p>
            ) : null}
            <Rollouts runId={run?.id ?? ""} rollouts={group.rollouts} />
          </Section>
          <CaseTimeline found={found} />
        </div>
        <Evidence group={group.id} path={found.evidence} />
        <CaseChecks found={found} />
        <CaseDecision
          found={found}
          mayDecide={role === "owner" || role === "admin"}
          organization={run?.organization.name ?? "the organization"}
          onDecided={reload}
        />
      </div>
    </>
  );
}

function Rollouts({
  runId,
  rollouts,
}: {
  runId: string;
  rollouts: readonly { readonly id: string; readonly index: number; readonly reward: number }[];
}) {
  return (
    <ul className="mt-3 flex flex-wrap gap-x-4 gap-y-1 text-table" aria-label="Rollouts of the group">
      {rollouts
        .toSorted((a, b) => a.index - b.index)
        .map(({ id, reward }) => (
          <li key={id}>
            <Link className="font-mono hover:underline" href={`/runs/${runId}/rollouts/${id}`} title={id}>
              <span className="sr-only">Rollout </span>
              {shortId(id)}
            </Link>{" "}
            <span className="text-subtle">{formatReward(reward)}</span>
          </li>
        ))}
    </ul>
  );
}

/** The ways to check the verdict oneself. */
function Evidence({ group, path }: { group: string; path: string | null }) {
  const { evidence } = useApiAddress();
  const command = `npm run muster -- verify ${group}`;
  return (
    <Section
      title="Check it yourself"
      note="The evidence holds everything that decided the group, signed by the worker, the validator and the coordinator."
    >
      {path === null ? (
        <p className="border-y border-line py-3 text-muted">
          There is no evidence bundle: the submission is older than kept signatures, or its packs were deleted
          by retention.
        </p>
      ) : (
        <div className="flex flex-wrap items-center gap-2">
          <Link className={buttonClass({ tone: "primary" })} href={`/verify?group=${group}`}>
            <ShieldCheck size={14} aria-hidden /> Verify in this browser
          </Link>
          <a className={buttonClass()} href={`${evidence}/${group}`} download={`${group}.evidence`}>
            <Download size={14} aria-hidden /> Download evidence
          </a>
          <CopyButton label="Copy command" text={command} />
          <code className="min-w-0 truncate font-mono text-table text-muted">{command}</code>
        </div>
      )}
    </Section>
  );
}
