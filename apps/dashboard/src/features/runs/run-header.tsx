"use client";

import { type FragmentOf, graphql, readFragment } from "../../graphql/graphql.ts";
import { Id } from "../../ui/copy.tsx";
import { absent, formatCount, formatDuration, formatExact, formatReward } from "../../ui/format.ts";
import { Figure } from "../../ui/section.tsx";
import { Age } from "../../ui/time.tsx";
import { UntrustedText } from "../../ui/untrusted-text.tsx";
import { RunActions } from "./run-actions.tsx";
import { emptyRunLive, type RunLive } from "./run-live.ts";
import { isOver, RunStateBadge, reasonInWords } from "./run-state.tsx";

export const RunHeaderFragment = graphql(`
  fragment RunHeader_run on Run {
    id
    asOf
    name
    state
    stateReason
    open
    step
    stepLimit
    currentVersion
    createdAt
    endedAt
    environment {
      slug
      title
    }
    organization {
      id
      name
    }
    stats {
      reward
      workersActive
      etaSeconds
      tokensGenerated
    }
  }
`);

/** The run in one glance. Figures of events are newer than those of the snapshot, which follows a moment later. */
export function RunHeader({
  run: masked,
  live,
}: {
  run: FragmentOf<typeof RunHeaderFragment>;
  live: RunLive;
}) {
  const run = readFragment(RunHeaderFragment, masked);
  const newer = live.seq > BigInt(run.asOf) ? live : emptyRunLive;
  const state = newer.state ?? run.state;
  const reason = reasonInWords(newer.state === undefined ? run.stateReason : newer.reason);
  const step = Math.max(run.step, newer.step ?? 0);
  const version = newer.version ?? run.currentVersion;
  const reward = newer.reward ?? run.stats.reward;
  return (
    <header>
      <div className="flex flex-wrap items-center gap-x-3 gap-y-1">
        <RunStateBadge state={state} />
        <h1 className="min-w-0 truncate text-title font-semibold">{run.name}</h1>
        <Id id={run.id} />
        <div className="ml-auto flex gap-2">
          <RunActions id={run.id} state={state} workers={run.stats.workersActive} />
        </div>
      </div>
      {reason ? (
        <p className="mt-1 max-w-[88ch] text-muted">
          {state === "RUNNING" ? "Finishing: " : ""}
          <UntrustedText text={reason} className="font-sans" />
        </p>
      ) : null}
      <p className="mt-1 text-table text-subtle">
        <span className="font-mono" title={run.environment.title}>
          {run.environment.slug}
        </span>
        {" · "}
        {run.organization.name}
        {" · "}
        {run.endedAt ? (
          <>
            ended <Age at={run.endedAt} />
          </>
        ) : (
          <>
            created <Age at={run.createdAt} />
          </>
        )}
        {" · "}
        {run.open ? "Open: any worker may join." : "Closed: only granted nodes work."} Packs with prompts,
        tokens and log-probabilities are readable by the coordinator and {run.organization.name}; a validator
        sees only its blind task.
      </p>
      <dl
        className="mt-3 grid grid-cols-3 gap-x-6 gap-y-2 border-y border-line py-2 md:grid-cols-6"
        aria-label="Key figures"
      >
        <Figure label="Step">
          {formatExact(step)} <span className="font-normal text-subtle">/ {formatExact(run.stepLimit)}</span>
        </Figure>
        <Figure label="Policy version">{version === null ? "no base yet" : `v${version}`}</Figure>
        <Figure label="Reward" title="Mean reward of the newest trained batch">
          {formatReward(reward)}
        </Figure>
        <Figure
          label="Workers generating"
          title="Nodes that may generate and were seen within 30 seconds; trainers and validators are under Workers"
        >
          {isOver(state) ? absent : formatExact(run.stats.workersActive)}
        </Figure>
        <Figure label="Tokens generated" title={formatExact(BigInt(run.stats.tokensGenerated))}>
          {formatCount(BigInt(run.stats.tokensGenerated))}
        </Figure>
        <Figure label="Time left" title="Estimated by the coordinator from the median of the newest steps">
          {isOver(state) ? absent : formatDuration(run.stats.etaSeconds)}
        </Figure>
      </dl>
    </header>
  );
}
