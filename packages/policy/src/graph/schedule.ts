/** The part of a run spec's `training` that decides the learning rate. */
export type Schedule = {
  learningRate: number;
  /** Steps over which the rate rises linearly from 0; 0 = none. */
  warmupSteps: number;
  schedule: "linear" | "constant" | "cosine";
  /** What is left of the rate at the last step. */
  finalFraction: number;
};

/**
 * The learning rate of one step: the schedule from 1 at the first step to `finalFraction` at the last, times the warm-up.
 * @param step from 1.
 * @param totalSteps of the run; later steps keep the last step's rate.
 */
export function learningRateAt(spec: Schedule, step: number, totalSteps: number): number {
  const rise = spec.warmupSteps === 0 ? 1 : Math.min(1, step / spec.warmupSteps);
  const progress = totalSteps <= 1 ? 0 : Math.min(1, (step - 1) / (totalSteps - 1));
  return (
    spec.learningRate *
    rise *
    (spec.finalFraction + (1 - spec.finalFraction) * remaining(spec.schedule, progress))
  );
}

function remaining(schedule: Schedule["schedule"], progress: number): number {
  switch (schedule) {
    case "constant":
      return 1;
    case "linear":
      return 1 - progress;
    case "cosine":
      return (1 + Math.cos(Math.PI * progress)) / 2;
  }
}
