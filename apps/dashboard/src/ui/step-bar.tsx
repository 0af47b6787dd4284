import { formatReward } from "./format.ts";

const mostCells = 200;

/** One cell a step, as dark as its reward is high; steps to come are hollow. Beyond 200 steps a cell stands for several. */
export function StepBar({
  rewards,
  limit,
}: {
  rewards: readonly { step: number; reward: number }[];
  limit: number;
}) {
  const per = Math.max(1, Math.ceil(limit / mostCells));
  const cells = Math.ceil(limit / per);
  const latest = new Map(rewards.map(({ step, reward }) => [Math.floor((step - 1) / per), reward]));
  const last = rewards.at(-1);
  const summary =
    last === undefined
      ? `No step of ${limit} yet`
      : `Step ${last.step} of ${limit}, reward ${formatReward(last.reward)}`;
  return (
    <svg
      role="img"
      aria-label={summary}
      viewBox={`0 0 ${cells} 1`}
      preserveAspectRatio="none"
      className="block h-2 w-full"
      shapeRendering="crispEdges"
    >
      <title>{summary}</title>
      <rect width={cells} height="1" fill="var(--raised)" />
      {[...latest].map(([cell, reward]) => (
        <rect
          key={cell}
          x={cell}
          width="1"
          height="1"
          fill={`color-mix(in srgb, var(--accent) ${Math.round(12 + 88 * Math.min(1, Math.max(0, reward)))}%, var(--bg))`}
        />
      ))}
    </svg>
  );
}
