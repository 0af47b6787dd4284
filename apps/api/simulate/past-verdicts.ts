import { toTypeId } from "@muster/protocol";
import { auditRate, nextStanding, type OutcomeKind } from "@muster/verification";
import { manifestOf, type Scene, type Worker } from "./past-scene.ts";
import { addTask } from "./past-tasks.ts";
import { sha256Of } from "./random.ts";
import { pastChecks, reasonOf } from "./verdict-figures.ts";
import type { Cheat, SimulatedNode } from "./world.ts";

/** What is decided of a group, and when. */
export type Fate = {
  id: string;
  tokens: number;
  submittedAt: number;
  decidedAt: number;
  finalAt: number;
  version: number;
};

type Measured = {
  taskId: string;
  verificationId: string;
  validator: SimulatedNode;
  checks: ReturnType<typeof pastChecks>;
  reason: string;
  at: number;
};

export function measure(scene: Scene, worker: Worker, input: Fate & { cheat: Cheat | null }): Measured {
  const { plan, staff, book } = scene;
  const { random, spec } = plan;
  const { id, tokens, version, submittedAt, decidedAt, cheat } = input;
  const validator = random.pick(staff.validators);
  const manifest = manifestOf(scene.manifests, plan.id, version);
  const { id: taskId } = addTask(scene, {
    kind: "VERIFY",
    version,
    payload: { kind: "VERIFY", manifest, blind: sha256Of(`blind ${id}`) },
    from: submittedAt,
    to: decidedAt,
    node: validator,
    excluded: [worker.node.id],
  });
  book.pay(taskId, validator.id, tokens * spec.prices.measuredToken, decidedAt, "Measured group");
  const checks = pastChecks(random, { rollouts: spec.generation.groupSize, tokens, version, cheat });
  return {
    taskId,
    verificationId: random.uuid(decidedAt),
    validator,
    checks,
    reason: reasonOf(checks),
    at: decidedAt,
  };
}

export function addVerification(
  { loader, owner }: Scene,
  group: { id: string; tokens: number; decidedAt: number },
  made: Measured,
): void {
  loader.add("Verification", {
    id: made.verificationId,
    ...owner,
    groupId: group.id,
    taskId: made.taskId,
    validatorNodeId: made.validator.id,
    measurementHash: sha256Of(`measurement ${group.id}`),
    verdict: made.checks.some(({ verdict }) => verdict === "FAIL") ? "REJECTED" : "ACCEPTED",
    checks: made.checks,
    tokens: group.tokens,
    cost: group.tokens / 4_000,
    startedAt: new Date(group.decidedAt - 4_000),
    createdAt: new Date(group.decidedAt),
  });
}

/** A rejection with its case: measured again, it is upheld, or overturned when the node was wronged. */
export function accuse(
  scene: Scene,
  worker: Worker,
  input: Fate & { verdict: Measured; wronged: boolean },
): void {
  const { plan, loader, log, owner } = scene;
  const { id: groupId, decidedAt, finalAt, verdict, wronged, submittedAt } = input;
  const { random } = plan;
  const caseId = random.uuid(decidedAt);
  const subject = toTypeId("case", caseId);
  const group = toTypeId("group", groupId);
  const node = worker.typeId;
  const { reason } = verdict;
  const endsAt = Math.max(decidedAt + 1_000, finalAt - 500);
  const objected = wronged || random.chance(0.1);
  const decision = wronged
    ? "Measured again, the group passes every check."
    : objected
      ? "Both measurements show the same; the statement does not explain them."
      : "Measured again, it fails again; nobody objected.";
  loader.add("Case", {
    id: caseId,
    ...owner,
    groupId,
    nodeId: worker.node.id,
    verificationId: verdict.verificationId,
    state: wronged ? "OVERTURNED" : "UPHELD",
    reason,
    statement: objected ? "I run the released version and changed nothing. Please measure it again." : null,
    disputedAt: objected ? new Date(decidedAt + 600) : null,
    openedAt: new Date(decidedAt),
    openUntil: new Date(decidedAt + plan.spec.disputeWindowSeconds * 1000),
    reexecutionHash: sha256Of(`again ${groupId}`),
    confirmed: !wronged,
    decision,
    decidedById: objected && !wronged ? plan.createdById : null,
    decidedAt: new Date(endsAt),
  });
  const about = { group, node, run: scene.run };
  log.audit("verdict.rejected", group, decidedAt, {
    node,
    validator: toTypeId("node", verdict.validator.id),
    reason,
  });
  log.event("case.opened", subject, decidedAt, {
    ...about,
    reason,
    openUntil: new Date(endsAt).toISOString(),
  });
  log.audit("case.opened", subject, decidedAt, { node, reason, group });
  log.event("case.decided", subject, endsAt, {
    ...about,
    state: wronged ? "OVERTURNED" : "UPHELD",
    decision,
  });
  log.audit("case.decided", subject, endsAt, {
    node,
    state: wronged ? "OVERTURNED" : "UPHELD",
    decision,
    by: null,
  });
  if (wronged) {
    // Annulled, and replaced by what should have been: the standing is as if nothing had happened.
    addOutcome(scene, worker, { kind: "REJECTED", groupId, at: decidedAt, reason, annulled: true });
    record(scene, worker, { kind: "ACCEPTED", groupId, at: endsAt, reason: null });
    return;
  }
  record(scene, worker, { kind: "REJECTED", groupId, at: decidedAt, reason });
  for (const held of worker.stakes) {
    if (held.lost || held.finalAt <= endsAt || held.submittedAt > submittedAt) continue;
    held.lost = true;
    scene.book.forfeit(
      held.groupId,
      worker.node.id,
      held.amount,
      endsAt,
      "A rejection of the node was upheld",
    );
    log.audit("ledger.forfeit", toTypeId("group", held.groupId), endsAt, {
      node,
      amount: String(held.amount),
    });
  }
}

export function stake(
  scene: Scene,
  worker: Worker,
  { id: groupId, tokens, decidedAt, finalAt, submittedAt }: Fate,
): void {
  const amount = tokens * scene.plan.spec.prices.generatedToken;
  scene.book.hold(groupId, worker.node.id, amount, decidedAt);
  worker.stakes.push({ groupId, amount, finalAt, submittedAt, lost: false });
}

export function releaseStakes(scene: Scene, workers: readonly Worker[]): void {
  for (const { node, stakes } of workers)
    for (const { groupId, amount, finalAt, lost } of stakes)
      if (!lost) scene.book.release(groupId, node.id, amount, finalAt);
}

export function join({ log }: Scene, worker: Worker, at: number): void {
  if (worker.joined) return;
  worker.joined = true;
  log.event("node.joined", worker.typeId, at, { trust: "PROBATION", auditRate: 1 });
}

type NewOutcome = { kind: OutcomeKind; groupId: string | null; at: number; reason: string | null };

export function record(scene: Scene, worker: Worker, outcome: NewOutcome): void {
  const { audit } = scene.plan.spec.verification;
  addOutcome(scene, worker, { ...outcome, annulled: false });
  const before = worker.standing;
  worker.standing = nextStanding(before, outcome.kind, audit);
  worker.changedAt = outcome.at;
  const { state } = worker.standing;
  if (state === before.state) return;
  const quarantined = state === "QUARANTINED";
  worker.reason = quarantined
    ? `${worker.standing.rejected} of its submissions were rejected or refused; the last: ${outcome.reason ?? "no reason was given"}`
    : null;
  worker.quarantinedAt = quarantined ? outcome.at : null;
  const rate = auditRate(worker.standing, audit);
  scene.log.event("node.trust", worker.typeId, outcome.at, {
    trust: state,
    auditRate: rate,
    reason: worker.reason,
  });
  if (quarantined) scene.log.audit("node.quarantined", worker.typeId, outcome.at, { reason: worker.reason });
}

function addOutcome(
  { loader, owner }: Scene,
  { node }: Worker,
  outcome: NewOutcome & { annulled: boolean },
): void {
  const { kind, groupId, at, reason, annulled } = outcome;
  loader.add("NodeOutcome", { ...owner, nodeId: node.id, groupId, kind, reason, annulled, at: new Date(at) });
}
