import { AttemptState, TaskState } from "@muster/db";

/** Which state may follow which. DONE, CANCELLED and FAILED are ends: what failed or was cancelled is replaced, never revived. */
export const taskTransitions = {
  // OPEN → SUBMITTED is the late submit: the lease expired, nobody else has claimed since.
  OPEN: ["LEASED", "SUBMITTED", "CANCELLED", "FAILED"],
  LEASED: ["OPEN", "SUBMITTED", "CANCELLED", "FAILED"],
  SUBMITTED: ["DONE", "OPEN", "CANCELLED", "FAILED"],
  DONE: [],
  CANCELLED: [],
  FAILED: [],
} as const satisfies Record<TaskState, readonly TaskState[]>;

export const attemptTransitions = {
  LIVE: ["SUBMITTED", "RELEASED", "EXPIRED", "CANCELLED"],
  // Only while no newer attempt exists.
  EXPIRED: ["SUBMITTED"],
  SUBMITTED: [],
  RELEASED: [],
  CANCELLED: [],
} as const satisfies Record<AttemptState, readonly AttemptState[]>;

/** States from which a task may become `to`: what an update's `where` names. */
export function tasksThatMayBecome(to: TaskState): TaskState[] {
  return Object.values(TaskState).filter((from) =>
    (taskTransitions[from] as readonly TaskState[]).includes(to),
  );
}

/** States from which an attempt may become `to`. */
export function attemptsThatMayBecome(to: AttemptState): AttemptState[] {
  return Object.values(AttemptState).filter((from) =>
    (attemptTransitions[from] as readonly AttemptState[]).includes(to),
  );
}

export const unfinishedTaskStates: TaskState[] = Object.values(TaskState).filter(
  (state) => taskTransitions[state].length > 0,
);
