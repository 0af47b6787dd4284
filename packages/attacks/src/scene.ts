import { join } from "node:path";
import { type Log, runWorker, type WorkerSummary } from "@muster/worker";
import type { Attack, Scene, WorkingNode } from "./attack.ts";
import type { Ledger } from "./cheating/ledger.ts";
import { openBareNode } from "./cheating/node.ts";

export type SceneOptions = {
  url: string;
  /** TypeID of the run under attack. */
  run: string;
  /** Folder of the attack's nodes. */
  stateDir: string;
  /** Begins the nodes' names; the attack's id when left out. */
  name?: string;
  ledger: Ledger;
  log: Log;
  signal: AbortSignal;
  /** Asks the run's organizer for a role. */
  grant?: (node: string, role: "VALIDATOR" | "TRAINER") => Promise<void>;
  organizer?: Scene["organizer"];
  /** Hears of every node once it is registered. */
  onNode?: (node: { id: string; victim: boolean; worker: boolean }) => void;
};

/** Lets an attack loose. Returns when it has ended by itself or the signal has ended it. */
export async function attackOn(attack: Attack, options: SceneOptions): Promise<void> {
  const { url, run, stateDir, ledger, log, signal, organizer, onNode } = options;
  const prefix = options.name ?? attack.id;
  await using open = new AsyncDisposableStack();

  async function work(node: WorkingNode): Promise<WorkerSummary> {
    const name = node.name === "" ? prefix : `${prefix} ${node.name}`;
    const roles = node.roles ?? ["WORKER"];
    let ready: Promise<unknown> = Promise.resolve();
    const summary = await runWorker({
      url,
      stateDir: join(stateDir, node.name || "node"),
      name,
      roles,
      worksFor: node.worksFor ?? (run === "" ? [] : [run]),
      threads: 1,
      providers: ["cpu"],
      drainSeconds: 2,
      log,
      signal: node.signal ? AbortSignal.any([signal, node.signal]) : signal,
      onRegistered(id) {
        onNode?.({ id, victim: node.victim === true, worker: roles.includes("WORKER") });
        const granted = (node.grants ?? []).map((role) => options.grant?.(id, role));
        ready = Promise.all([...granted, node.onRegistered?.(id)]);
      },
      ...(node.executors ? { executors: node.executors } : {}),
      ...(node.maxTasks === undefined ? {} : { maxTasks: node.maxTasks }),
    });
    await ready;
    return summary;
  }

  if ("executors" in attack) {
    await work({ name: "", executors: attack.executors(ledger) });
    return;
  }
  await attack.act({
    url,
    run,
    ledger,
    log,
    signal,
    work,
    async bare(name) {
      const node = await openBareNode({
        url,
        stateDir: join(stateDir, name),
        name: `${prefix} ${name}`,
        log,
        signal,
      });
      open.use(node);
      onNode?.({ id: node.node, victim: false, worker: true });
      return node;
    },
    ...(organizer ? { organizer } : {}),
  });
}
