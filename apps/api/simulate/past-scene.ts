import type { Environment } from "@muster/protocol";
import type { Standing } from "@muster/verification";
import type { Book } from "./book.ts";
import type { Loader } from "./copy.ts";
import type { RunLog } from "./log.ts";
import type { RunPlan } from "./plan.ts";
import { sha256Of } from "./random.ts";
import type { SimulatedNode, World } from "./world.ts";

/** What everything that adds to a run's past needs. */
export type Scene = {
  readonly plan: RunPlan;
  readonly loader: Loader;
  readonly log: RunLog;
  readonly book: Book;
  readonly env: Environment;
  readonly staff: World["staff"];
  readonly owner: { readonly organizationId: string; readonly runId: string };
  readonly run: string;
  /** Versions whose manifests are there. */
  readonly manifests: ReadonlyMap<number, { hash: string }>;
};

/** A worker of the run and how it stands so far. */
export type Worker = {
  readonly node: SimulatedNode;
  readonly typeId: string;
  standing: Standing;
  joined: boolean;
  changedAt: number;
  reason: string | null;
  quarantinedAt: number | null;
  stakes: { groupId: string; amount: number; finalAt: number; submittedAt: number; lost: boolean }[];
};

/** A group that may go into a batch. */
export type Settled = {
  id: string;
  signal: boolean;
  version: number;
  tokens: number;
  rewards: readonly number[];
};

/** The manifest of a version: one that is there, or the name of one that retention has deleted. */
export function manifestOf(
  manifests: ReadonlyMap<number, { hash: string }>,
  runId: string,
  version: number,
): string {
  return manifests.get(version)?.hash ?? sha256Of(`manifest ${runId} ${version}`);
}

/** Number of the audit epoch, each a day long, that a moment falls into. */
export function epochAt({ createdAt }: Pick<RunPlan, "createdAt">, at: number): number {
  return 1 + Math.floor((at - createdAt) / 86_400_000);
}
