import { toTypeId } from "@muster/protocol";
import { manifestOf, type Scene } from "./past-scene.ts";
import { sha256Of } from "./random.ts";
import type { SimulatedNode } from "./world.ts";

export type TaskInput = {
  readonly id?: string;
  readonly kind: "BASE" | "GENERATE" | "VERIFY" | "TRAIN" | "EVALUATE";
  readonly version: number | null;
  readonly payload: object;
  readonly from: number;
  readonly to: number;
  readonly node: SimulatedNode;
  /** Attempts before the one that was accepted. */
  readonly failed?: readonly {
    node: SimulatedNode;
    state: "EXPIRED" | "RELEASED" | "SUBMITTED";
    reason: string;
  }[];
  readonly excluded?: readonly string[];
  readonly pack?: string;
};

export type DoneTask = { id: string; attemptId: string };

/** A task that is DONE, with its attempts and events. */
export function addTask({ plan, loader, log, owner, manifests }: Scene, input: TaskInput): DoneTask {
  const { kind, version, from, to, node, failed = [] } = input;
  const { random } = plan;
  const id = input.id ?? random.uuid(from);
  const subject = toTypeId("task", id);
  const number = failed.length + 1;
  const manifestHash = version === null ? null : manifestOf(manifests, plan.id, version);
  let attemptId = id;
  loader.add("Task", {
    id,
    ...owner,
    kind,
    state: "DONE",
    priority: 0,
    revision: 1,
    policyVersion: version,
    manifestHash,
    payload: input.payload,
    attempt: number,
    failures: failed.filter(({ state }) => state !== "RELEASED").length,
    maxAttempts: 5,
    leaseNodeId: node.id,
    excludedNodes: input.excluded ?? [],
    createdAt: new Date(from),
    updatedAt: new Date(to),
    doneAt: new Date(to),
  });
  const data = { kind, version };
  log.event("task.opened", subject, from, { ...data, attempt: 0 });
  const part = (to - from) / (number + 1);
  [...failed, { node, state: "SUBMITTED" as const, reason: null }].forEach((attempt, i) => {
    const claimed = from + part * (i + 0.4);
    const ended = i + 1 === number ? to : from + part * (i + 1);
    const typeId = toTypeId("node", attempt.node.id);
    attemptId = random.uuid(claimed);
    loader.add("Attempt", {
      id: attemptId,
      ...owner,
      taskId: id,
      number: i + 1,
      nodeId: attempt.node.id,
      state: attempt.state,
      claimedAt: new Date(claimed),
      leaseUntil: new Date(claimed + plan.spec.leaseSeconds * 1000),
      endedAt: new Date(ended),
      reason: attempt.reason,
      versionAtClaim: version,
      packHash: attempt.state === "SUBMITTED" ? (input.pack ?? sha256Of(`pack ${id} ${i}`)) : null,
      uploaded: attempt.state === "SUBMITTED" ? 20_000 : 0,
      cpuSeconds: attempt.state === "SUBMITTED" ? Math.round((ended - claimed) / 50) / 20 : null,
    });
    log.event("task.leased", subject, claimed, {
      ...data,
      attempt: i + 1,
      node: typeId,
      leaseUntil: new Date(claimed + plan.spec.leaseSeconds * 1000).toISOString(),
    });
    if (attempt.state === "EXPIRED")
      log.event("task.expired", subject, ended, { ...data, attempt: i + 1, node: typeId });
    if (attempt.state === "SUBMITTED")
      log.event("task.submitted", subject, ended, { ...data, attempt: i + 1, node: typeId });
    if (i + 1 < number)
      log.event("task.released", subject, ended, { ...data, attempt: i + 1, reason: attempt.reason });
  });
  log.event("task.done", subject, to, { ...data, attempt: number });
  return { id, attemptId };
}
