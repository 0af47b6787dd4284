"use client";

import clsx from "clsx";
import type { ReactNode } from "react";
import { type FragmentOf, graphql, readFragment } from "../../graphql/graphql.ts";
import { absent, counted, formatCount } from "../../ui/format.ts";
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
      }
      groups {
        submitted
        verifying
        accepted
        setAside
        rejected
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
  const state = live.state ?? run.state;
  const active = state === "RUNNING";
  const over = isOver(state);
  // the trainer's first task: nobody can generate before there is a version 0
  const preparing = version === null;
  const judged = groups.accepted + groups.setAside + groups.rejected;
  const still = over ? "the run has ended" : state === "PAUSED" ? "paused" : undefined;
  const known = rewardsOf(run.trainSteps);
  const newest = known.at(-1)?.step ?? 0;
  const rewards = [...known, ...live.points.flatMap(rewardOfPoint).filter(({ step }) => step > newest)];
  return (
    <section aria-label="Phases" className="mt-3">
      <ol className="grid grid-cols-2 border-b border-line sm:grid-cols-5">
        <Phase
          name="Generate"
          busy={active && !preparing && workersActive > 0}
          note={
            still ?? (preparing ? "waits for the base policy" : `${counted(tasks.open, "task")} open in all`)
          }
        >
          {over ? absent : formatCount(workersActive)}{" "}
          <Unit>{workersActive === 1 ? "worker" : "workers"}</Unit>
        </Phase>
        <Phase
          name="Verify"
          busy={active && groups.verifying > 0}
          note={
            groups.submitted > 0
              ? `${formatCount(groups.submitted)} awaiting a draw`
              : `${counted(judged, "group")} judged`
          }
        >
          {formatCount(groups.verifying)}{" "}
          <Unit>{groups.verifying === 1 ? "group" : "groups"} being measured</Unit>
        </Phase>
        <Phase
          name="Batch"
          busy={active && filling !== undefined}
          note={still ?? (filling ? `${formatCount(filling.signalGroups)} with signal` : "none filling")}
        >
          {filling && !over ? formatCount(filling.settledGroups) : absent}
          {filling && !over && typeof needed === "number" ? (
            <Unit> / {formatCount(needed)} settled</Unit>
          ) : null}
        </Phase>
        <Phase
          name="Train"
          busy={active && (sealed !== undefined || preparing)}
          note={
            still ??
            (preparing
              ? "prepares the base policy"
              : sealed
                ? `step ${sealed.step} is sealed`
                : "waits for a batch")
          }
        >
          {formatCount(step)} <Unit>{step === 1 ? "step" : "steps"} done</Unit>
        </Phase>
        <Phase
          name="Broadcast"
          busy={false}
          note={version === null ? "base not published" : "newest available"}
        >
          {version === null ? absent : `v${version}`} <Unit>policy</Unit>
        </Phase>
      </ol>
      <StepBar rewards={rewards} limit={over ? Math.max(step, 1) : run.stepLimit} />
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
