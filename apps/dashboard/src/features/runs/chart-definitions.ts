import { formatReward } from "../../ui/format.ts";
import { rewardName } from "./run-metrics.ts";

/** A chart of a run: what it is called, what it means, and which metrics of the trainer it draws. */
export type ChartDefinition = {
  title: string;
  about: string;
  lines: readonly { label: string; names: readonly string[] }[];
  format?: (value: number | null | undefined) => string;
  bounds?: readonly [number, number];
};

/** The curves of a run, in the order in which they are read. */
export const chartDefinitions: readonly ChartDefinition[] = [
  {
    title: "Reward",
    about:
      "Mean reward over every rollout of the step's settled groups, computed by the coordinator (metric: meanReward).",
    lines: [{ label: "Reward", names: [rewardName] }],
    format: formatReward,
    bounds: [0, 1],
  },
  {
    title: "Loss",
    about:
      "The clipped policy loss of the step with its penalties, as the trainer reports it (metric: loss).",
    lines: [{ label: "Loss", names: ["loss"] }],
  },
  {
    title: "Entropy",
    about:
      "Mean entropy of the policy over the trained tokens, in nats: near zero it has stopped exploring (metric: entropy).",
    lines: [{ label: "Entropy", names: ["entropy"] }],
  },
  {
    title: "Divergence",
    about:
      "Estimated divergence between the policy that generated and the one that is trained, in nats (metric: kl).",
    lines: [{ label: "KL", names: ["kl"] }],
  },
  {
    title: "Clipped tokens",
    about:
      "Share of trained tokens whose probability ratio left the clip range (metrics: clipLow, clipHigh).",
    lines: [
      { label: "Below", names: ["clipLow"] },
      { label: "Above", names: ["clipHigh"] },
    ],
    bounds: [0, 1],
  },
  {
    title: "Gradient norm",
    about: "Length of the gradient before it is clipped (metric: gradNorm).",
    lines: [{ label: "Norm", names: ["gradNorm"] }],
  },
];
