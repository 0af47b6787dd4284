"use client";

import Link from "next/link";
import { useRouter } from "next/navigation";
import { graphql, type ResultOf } from "../../graphql/graphql.ts";
import { useSteadyQuery } from "../../graphql/use-steady-query.ts";
import { Id } from "../../ui/copy.tsx";
import {
  absent,
  formatDifference,
  formatExact,
  formatMetric,
  formatReward,
  shortId,
} from "../../ui/format.ts";
import { Figure, Section } from "../../ui/section.tsx";
import { useShortcuts } from "../../ui/shortcuts.tsx";
import { QueryState } from "../../ui/states.tsx";
import { Age } from "../../ui/time.tsx";
import { UntrustedText } from "../../ui/untrusted-text.tsx";
import { RunPart } from "../runs/run-part.tsx";
import { valueAt } from "../runs/spec-schema.ts";
import { CaseStateWord } from "../verification/case-state.tsx";
import { AcceptanceBadge, GroupStateBadge, groupStateMeaning } from "./group-state.tsx";
import { RolloutChecks, RolloutChecksFragment } from "./rollout-checks.tsx";
import { TokenView } from "./token-view.tsx";

const RolloutPageQuery = graphql(
  `
    query RolloutPage($id: ID!, $run: ID!) {
      run(id: $run) {
        id
        name
        revision {
          id
          spec
        }
      }
      node(id: $id) {
        __typename
        id
        ... on Rollout {
          index
          preview
          tokens
          finishReason
          reward
          rewardParts
          advantage
          tokenView {
            position
            token
            text
            claimedLogProbability
            measuredLogProbability
            margin
          }
          group {
            id
            index
            prompt
            policyVersion
            state
            acceptance
            retroactive
            reason
            case {
              id
              state
            }
            meanReward
            step
            submittedAt
            decidedAt
            node {
              id
              name
            }
            rollouts {
              id
              index
              reward
            }
            ...RolloutChecks_group
          }
        }
      }
    }
  `,
  [RolloutChecksFragment],
);

/** One rollout: what was asked and answered, what it was worth, and why it was accepted or not. */
export function RolloutPage({ runId, rolloutId }: { runId: string; rolloutId: string }) {
  const [query, retry] = useSteadyQuery({
    query: RolloutPageQuery,
    variables: { id: rolloutId, run: runId },
  });
  const node = query.data?.node;
  const rollout = node?.__typename === "Rollout" ? node : undefined;
  return (
    <RunPart
      id={rolloutId}
      what="rollout"
      query={query}
      retry={retry}
      part={rollout}
      runId={runId}
      tab={{ id: "rollouts", label: "Rollouts" }}
    >
      {(rollout) => <Rollout rollout={rollout} runId={runId} spec={query.data?.run?.revision.spec} />}
    </RunPart>
  );
}

/** The same beside the table that lists it. */
export function RolloutLook({ runId, rolloutId }: { runId: string; rolloutId: string }) {
  const [query, retry] = useSteadyQuery({
    query: RolloutPageQuery,
    variables: { id: rolloutId, run: runId },
  });
  const { data } = query;
  if (data?.node?.__typename !== "Rollout")
    return <QueryState query={query} retry={retry} what="the rollout" height={240} />;
  return <Rollout rollout={data.node} runId={runId} spec={data.run?.revision.spec} beside />;
}

type RolloutData = Extract<NonNullable<ResultOf<typeof RolloutPageQuery>["node"]>, { __typename: "Rollout" }>;

function Rollout(props: {
  rollout: RolloutData;
  runId: string;
  spec: unknown;
  /** Not the page itself: its heading and its keys belong to what stands around it. */
  beside?: boolean;
}) {
  const { rollout, runId, spec, beside = false } = props;
  const { group } = rollout;
  const router = useRouter();
  const siblings = group.rollouts.toSorted((a, b) => a.index - b.index);
  const place = siblings.findIndex(({ id }) => id === rollout.id);
  const step = (by: number) => () => {
    const next = siblings[place + by];
    if (beside || next === undefined) return false;
    router.push(`/runs/${runId}/rollouts/${next.id}`);
    return true;
  };
  useShortcuts([
    { keys: "[", label: "Previous rollout of the group", group: "This page", run: step(-1), quiet: true },
    { keys: "]", label: "Next rollout of the group", group: "This page", run: step(1), quiet: true },
  ]);
  return (
    <>
      <header>
        <div className="flex flex-wrap items-center gap-x-3 gap-y-1">
          <GroupStateBadge state={group.state} />
          <AcceptanceBadge acceptance={group.acceptance} retroactive={group.retroactive} />
          {beside ? null : <h1 className="text-title font-semibold">Rollout</h1>}
          <Id id={rollout.id} />
          <span className="text-table text-subtle">
            {place + 1} of {siblings.length} in <Id id={group.id} />
          </span>
        </div>
        <p className="mt-1 max-w-[88ch] text-muted">
          {groupStateMeaning(group.state)}
          {group.reason ? (
            <>
              {" "}
              <UntrustedText text={group.reason} className="text-fg" />
            </>
          ) : null}
        </p>
        {group.case ? (
          <p className="mt-1">
            <Link className="underline underline-offset-2" href={`/runs/${runId}/cases/${group.case.id}`}>
              Case {shortId(group.case.id)}
            </Link>{" "}
            <CaseStateWord state={group.case.state} />
          </p>
        ) : null}
        <dl
          className="mt-3 grid grid-cols-3 gap-x-6 gap-y-2 border-y border-line py-2 md:grid-cols-7"
          aria-label="Key figures"
        >
          <Figure label="Reward">{formatReward(rollout.reward)}</Figure>
          <Figure label="Group mean">{formatReward(group.meanReward)}</Figure>
          <Figure
            label="Advantage"
            title={
              rollout.advantage === null
                ? "Known when the group is accepted"
                : "Reward against the group, in deviations"
            }
          >
            {rollout.advantage === null ? absent : formatDifference(rollout.advantage)}
          </Figure>
          <Figure label="Tokens, finish">
            {formatExact(rollout.tokens)}{" "}
            <span className="font-normal text-subtle">{rollout.finishReason}</span>
          </Figure>
          <Figure label="Policy, step">
            v{group.policyVersion}{" "}
            <span className="font-normal text-subtle">
              {group.step === null ? "not trained on" : `step ${group.step}`}
            </span>
          </Figure>
          <Figure label="Worker" title={group.node.id}>
            <UntrustedText line text={group.node.name} />
          </Figure>
          <Figure label="Submitted">
            <Age at={group.submittedAt} />
          </Figure>
        </dl>
      </header>
      <div className="mt-6 grid gap-8">
        <div className={beside ? "grid gap-8" : "grid gap-8 lg:grid-cols-2"}>
          <Section title="Prompt" note="Written by the coordinator">
            <Text text={group.prompt} />
          </Section>
          <Section title="Output" note="Written by the worker's machine">
            <Text text={rollout.tokenView?.map((token) => token.text).join("") ?? rollout.preview} />
            <RewardParts parts={rollout.rewardParts} />
          </Section>
        </div>
        <Siblings runId={runId} current={rollout.id} rollouts={siblings} />
        {rollout.tokenView === null ? (
          <Section title="Output by token">
            <p className="border-y border-line py-3 text-muted">
              The pack was deleted by retention, so tokens and log-probabilities are gone. Rewards and
              verdicts stay.
            </p>
          </Section>
        ) : (
          <TokenView tokens={rollout.tokenView} scale={scaleOf(spec)} />
        )}
        <RolloutChecks group={group} />
      </div>
    </>
  );
}

function Text({ text }: { text: string }) {
  return (
    <div className="max-h-[40vh] overflow-y-auto border-y border-line py-2">
      {text === "" ? <span className="text-subtle">empty</span> : <UntrustedText text={text} />}
    </div>
  );
}

function RewardParts({ parts }: { parts: unknown }) {
  const entries = typeof parts === "object" && parts !== null ? Object.entries(parts) : [];
  if (entries.length === 0) return null;
  return (
    <dl className="mt-2 flex flex-wrap gap-x-6 gap-y-1 text-table" aria-label="Parts of the reward">
      {entries.map(([name, value]) => (
        <div key={name} className="flex gap-2">
          <dt className="text-subtle">{name}</dt>
          <dd>{typeof value === "number" ? formatMetric(value) : String(value)}</dd>
        </div>
      ))}
    </dl>
  );
}

/** The other answers to the same prompt: what the advantage compares with. */
function Siblings({
  runId,
  current,
  rollouts,
}: {
  runId: string;
  current: string;
  rollouts: readonly { id: string; reward: number }[];
}) {
  const equal = rollouts.every(({ reward }) => reward === rollouts[0]?.reward);
  return (
    <Section
      title="Group"
      note={equal ? "All rewards are equal: no signal." : "Rewards of every rollout of this prompt."}
    >
      <ol className="flex flex-wrap gap-px bg-line border border-line w-fit max-w-full">
        {rollouts.map(({ id, reward }, position) => (
          <li key={id} className="bg-bg">
            <Link
              href={`/runs/${runId}/rollouts/${id}`}
              aria-current={id === current ? "page" : undefined}
              className={`block px-2.5 py-1 text-table hover:bg-raised ${id === current ? "bg-running-soft font-medium text-on-running-soft" : ""}`}
            >
              <span className="sr-only">Rollout </span>
              <span className="text-subtle">{position + 1}</span>
              <span className="sr-only"> of the group, reward</span> {formatReward(reward)}
            </Link>
          </li>
        ))}
      </ol>
    </Section>
  );
}

/** The thresholds the run was calibrated with; the defaults of the protocol while the spec is unknown. */
function scaleOf(spec: unknown): { logProbability: number; margin: number } {
  const number = (path: string, fallback: number) => {
    const value = valueAt(spec, path);
    return typeof value === "number" && value > 0 ? value : fallback;
  };
  return {
    logProbability: number("verification.thresholds.logProbability", 1e-3),
    margin: number("verification.thresholds.margin", 1e-3),
  };
}
