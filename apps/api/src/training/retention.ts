import type { RunSpec } from "@muster/protocol";
import type { Tx } from "../context.ts";
import type { StartedRun } from "../runs/lifecycle.ts";
import { wantedVersions } from "./evaluation-plan.ts";

/**
 * Retires old checkpoints: kept are the newest `asyncLevel + 2` versions, the base, versions that are evaluated, whatever an
 * unfinished task names, and versions of groups that may have to be measured yet: accepted by trust and not final, or rejected and not decided. The bytes go when the blob collector finds them unreferenced.
 * @returns whether any was retired.
 */
export async function retireCheckpoints(tx: Tx, run: StartedRun, spec: RunSpec): Promise<boolean> {
  const oldest = run.currentVersion - (spec.batch.asyncLevel + 2) + 1;
  const kept = new Set([0, ...wantedVersions(spec, run.currentVersion, { final: false })]);
  const candidates = await tx.checkpoint.findMany({
    where: { runId: run.id, state: "AVAILABLE", version: { lt: oldest, notIn: [...kept] } },
    select: { id: true, manifestHash: true, version: true },
  });
  if (candidates.length === 0) return false;
  const needed = await tx.task.findMany({
    where: {
      runId: run.id,
      state: { in: ["OPEN", "LEASED", "SUBMITTED"] },
      manifestHash: { in: candidates.map((checkpoint) => checkpoint.manifestHash) },
    },
    select: { manifestHash: true },
    distinct: ["manifestHash"],
  });
  const atStake = await tx.$queryRaw<{ version: number }[]>`
    SELECT v.version FROM unnest(${candidates.map(({ version }) => version)}::int[]) AS v(version)
    WHERE EXISTS (SELECT 1 FROM "Group" g
      WHERE g."runId" = ${run.id}::uuid AND g.state IN ('ACCEPTED', 'SET_ASIDE', 'STALE') AND g."policyVersion" = v.version
        AND g.acceptance = 'TRUSTED' AND g."finalAt" IS NULL)
      OR EXISTS (SELECT 1 FROM "Case" c JOIN "Group" g ON g.id = c."groupId"
      WHERE c."runId" = ${run.id}::uuid AND c.state = 'OPEN' AND g."policyVersion" = v.version)`;
  const evaluated = await tx.evaluation.findMany({ where: { runId: run.id }, select: { version: true } });
  const retired = candidates.filter(
    (checkpoint) =>
      !needed.some((task) => task.manifestHash === checkpoint.manifestHash) &&
      !atStake.some(({ version }) => version === checkpoint.version),
  );
  const { count } = await tx.checkpoint.updateMany({
    where: {
      id: { in: retired.map((checkpoint) => checkpoint.id) },
      version: { notIn: evaluated.map((evaluation) => evaluation.version) },
    },
    data: { state: "RETIRED", stateHash: null },
  });
  if (count === 0) return false;
  // A checkpoint's references carry its id as their subject, so shards that versions share stay as long as one of them does.
  await tx.$executeRaw`
    DELETE FROM "PackReference" p USING "Checkpoint" c
    WHERE p."runId" = ${run.id}::uuid AND c."runId" = p."runId" AND p.subject = c.id AND c.state = 'RETIRED'`;
  return true;
}
