import type { Executors } from "@muster/worker";

/** A dishonest node: the real worker with something else done for some kinds of tasks. Everything it sends is signed and well-formed. */
export type Attack = {
  id: string;
  title: string;
  /** What it does and what it hopes for, in plain words. */
  plain: string;
  /** Made anew for each node: an attack may remember things. */
  executors(): Partial<Executors>;
};
