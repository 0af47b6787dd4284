"use client";

import clsx from "clsx";
import type { ReactNode } from "react";
import { type FragmentOf, graphql, readFragment } from "../../graphql/graphql.ts";
import { absent, formatCount } from "../../ui/format.ts";
import { StateIcon } from "../../ui/state-badge.tsx";
import { StepBar } from "../../ui/step-bar.tsx";
import type { RunLive } from "./run-live.ts";
import { rewardName, rewardsOf } from "./run-metrics.ts";
import { isOver } from "./run-state.tsx";
import { valueAt } from "./spec-schema.ts";

export const PhaseStripFragment = graphql(`
  fragment PhaseStrip_run on Run {
    id
    state
    step
    stepLimit
    currentVersion
    revision {
      id
      spec
    }
    stats {
      workersActive
      tasks {
        open
        leased
        submitted
      }
      groups {
        submitted
        verifying
      }
    }
    batches(first: 3) {
      edges {
        node {
          id
          step
          state
          signalGroups
          settledGroups
        }
      }
    }
    trainSteps(buckets: 200) {
      toStep
      metrics {
        name
        last
      }
    }
  }
`);

/** Where the work is right now, from generation to broadcast, and one cell for every step behind and ahead. */
export function PhaseStrip({
  run: masked,
  live,
}: {
  run: FragmentOf<typeof PhaseStripFragment>;
  live: RunLive;
}) {
  const run = readFragment(PhaseStripFragment, masked);
  const { tasks, groups, workersActive } = run.stats;
  const step = Math.max(run.step, live.step ?? 0);
  const version = live.version ?? run.currentVersion;
  const batches = run.batches.edges.map((edge) => edge.node).toSorted((a, b) => b.step - a.step);
  const filling = batches.find((batch) => batch.state === "FILLING");
  const sealed = batches.find((batch) => batch.state === "SEALED");
  const needed = valueAt(run.revision.spec, "batch.settledGroups");
  const active = (live.state ?? run.state) === "RUNNING";
  const known = rewardsOf(run.trainSteps);
  const newest = known.at(-1)?.step ?? 0;
  const rewards = [...known, ...live.points.flatMap(rewardOfPoint).filter(({ step }) => step > newest)];
  return (
    <section aria-label="Phases" className="mt-3">
      <ol className="grid grid-cols-2 border-b border-line sm:grid-cols-5">
        <Phase
          name="Generate"
          busy={active && tasks.leased > 0}
          note={`${formatCount(workersActive)} active, ${formatCount(tasks.open)} open`}
        >
          {formatCount(tasks.leased)} <Unit>tasks leased</Unit>
        </Phase>
        <Phase
          name="Verify"
          busy={active && groups.verifying > 0}
          note={`${formatCount(groups.submitted)} awaiting a draw`}
        >
          {formatCount(groups.verifying)} <Unit>groups measured</Unit>
        </Phase>
        <Phase
          name="Batch"
          busy={active && filling !== undefined}
          note={filling ? `${formatCount(filling.signalGroups)} with signal` : "none filling"}
        >
          {filling ? formatCount(filling.settledGroups) : absent}
          {filling && typeof needed === "number" ? <Unit> / {formatCount(needed)} settled</Unit> : null}
        </Phase>
        <Phase
          name="Train"
          busy={active && sealed !== undefined}
          note={sealed ? `step ${sealed.step} is sealed` : "waits for a batch"}
        >
          {formatCount(step)} <Unit>steps done</Unit>
        </Phase>
        <Phase
          name="Broadcast"
          busy={false}
          note={version === null ? "base not published" : "newest available"}
        >
          {version === null ? absent : `v${version}`} <Unit>policy</Unit>
        </Phase>
      </ol>
      <StepBar rewards={rewards} limit={isOver(run.state) ? Math.max(step, 1) : run.stepLimit} />
    </section>
  );
}

function rewardOfPoint(point: RunLive["points"][number]): { step: number; reward: number }[] {
  const reward = point.metrics.get(rewardName);
  return reward === undefined ? [] : [{ step: point.step, reward }];
}

function Phase({
  name,
  busy,
  note,
  children,
}: {
  name: string;
  busy: boolean;
  note: string;
  children: ReactNode;
}) {
  return (
    <li className="py-1.5 pr-3 sm:border-l sm:border-line sm:pl-3 sm:first:border-l-0 sm:first:pl-0">
      <p
        className={clsx("flex items-center gap-1 text-label", busy ? "text-on-running-soft" : "text-subtle")}
      >
        {name}
        {busy ? (
          <>
            <StateIcon tone="running" />
            <span className="sr-only">, working now</span>
          </>
        ) : null}
      </p>
      <p className="text-strong font-medium">{children}</p>
      <p className="truncate text-table text-subtle">{note}</p>
    </li>
  );
}

function Unit({ children }: { children: ReactNode }) {
  return <span className="font-normal text-muted">{children}</span>;
}
