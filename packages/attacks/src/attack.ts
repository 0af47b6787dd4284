import type { Executors, Log, WorkerRole, WorkerSummary } from "@muster/worker";
import type { Ledger } from "./cheating/ledger.ts";
import type { BareNode } from "./cheating/node.ts";
import type { Facts } from "./facts.ts";

/** What an attack aims at: the rollouts, the bytes, the coordinator's calls, the measurements, the money. */
export type AttackKind = "generation" | "pack" | "protocol" | "validator" | "economy";

/** A dishonest node, or a few: the real worker with something else done. */
export type Attack = {
  id: string;
  kind: AttackKind;
  title: string;
  /** What it does and what it hopes for, in plain words. */
  plain: string;
  /** Share of a group's price, 0 … 1, that cheating saves in compute; what is made of numbers alone saves all of it. */
  saved: number;
  expectation: Expectation;
  /** Seconds it has to go on before its bound says anything, where that is long. */
  watch?: number;
} & Conduct;

/** What has to come of an attack. */
export type Expectation =
  /** A cheated group is rejected or its pack refused at the latest with so many groups; a validator is convicted with so many false measurements. */
  | { kind: "detected"; within: number }
  /** It is not stopped, or there is nothing to stop: what it can achieve is bounded. */
  | { kind: "contained"; bound: string; holds(facts: Facts): boolean };

/** Made anew for each node: an attack may remember things. */
type Conduct =
  | { executors(ledger: Ledger): Partial<Executors> }
  /** Anything else than one worker: several nodes, or calls that no worker makes. Ends by itself or when the scene's signal says so. */
  | { act(scene: Scene): Promise<void> };

export type Scene = {
  url: string;
  /** TypeID of the run under attack. */
  run: string;
  ledger: Ledger;
  log: Log;
  /** Aborts when enough was seen. */
  signal: AbortSignal;
  /** The real worker, until it is done or the scene's signal or its own aborts. */
  work(node: WorkingNode): Promise<WorkerSummary>;
  /** The parts of a worker without the worker: nothing happens by itself. Closed when the attack ends. */
  bare(name: string): Promise<BareNode>;
  /** What only somebody with an organization of their own has; undefined where the range was not given the operator's token. */
  organizer?: (name: string) => Promise<{ organization: string; apiKey: string }>;
};

export type WorkingNode = {
  /** Part of the node's name, unique in the attack. */
  name: string;
  roles?: readonly WorkerRole[];
  /** Asked of the organizer of the run under attack before it begins. */
  grants?: readonly ("VALIDATOR" | "TRAINER")[];
  /** A node of good faith that the attack needs: what it does is not the adversary's. */
  victim?: true;
  onRegistered?: (node: string) => Promise<void>;
  /** TypeIDs of runs; the one under attack when left out. */
  worksFor?: readonly string[];
  executors?: Partial<Executors>;
  maxTasks?: number;
  signal?: AbortSignal;
};
