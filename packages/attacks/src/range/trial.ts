import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { type MusterClient, pause } from "@muster/sdk";

import type { Attack, Scene } from "../attack.ts";
import { openLedger } from "../cheating/ledger.ts";
import { decidedStates, type Facts, readFacts, readLeases } from "../facts.ts";
import { attackOn } from "../scene.ts";
import { logFile } from "./log-file.ts";
import { type Score, score } from "./score.ts";
import type { Stage } from "./stage.ts";

export type TrialOptions = {
  client: MusterClient;
  url: string;
  /** The attack's own folder. */
  folder: string;
  /** Seconds it may take. */
  seconds: number;
  /** Be content with detection, and do not wait for the quarantine. */
  hasty: boolean;
  organizer: Scene["organizer"];
  /** Seconds after which an attack that would go on for ever has shown what it can do. */
  watch: number;
  /** Seconds of standstill after which nothing more is expected. */
  calm: number;
  /** Nodes of adversaries in the stage's run; this attack's are added. */
  adversaries: Set<string>;
  signal: AbortSignal;
};

/** Lets one attack loose on a stage until it is over: quarantined, ended by itself, or out of time. */
export async function tryAttack(attack: Attack, stage: Stage, options: TrialOptions): Promise<Score> {
  const { client } = options;
  const started = performance.now();
  const seconds = () => (performance.now() - started) / 1000;
  mkdirSync(options.folder, { recursive: true });
  const ledger = openLedger(join(options.folder, "ledger.jsonl"));
  const own = new Set<string>();
  const stop = new AbortController();
  const signal = AbortSignal.any([stop.signal, options.signal]);
  const before = await stage.standing();
  let middle = before;
  let mostLive = 0;
  let ended = false;
  let failure: unknown;
  const conduct = attackOn(attack, {
    url: options.url,
    run: stage.run,
    stateDir: options.folder,
    ledger,
    log: logFile(join(options.folder, "log.jsonl")),
    signal,
    grant: stage.grant,
    organizer: options.organizer,
    onNode({ id, victim }) {
      if (victim) return;
      own.add(id);
      options.adversaries.add(id);
    },
  })
    .catch((error: unknown) => {
      failure = error;
    })
    .finally(() => {
      ended = true;
    });

  const facts = () =>
    readFacts(client, {
      run: stage.run,
      nodes: [...own],
      ledger,
      before,
      middle,
      adversaries: options.adversaries,
      mostLive,
      price: stage.spec.prices.generatedToken,
    });
  const contained = attack.expectation.kind === "contained";
  const watch = Math.max(options.watch, attack.watch ?? 0);
  while (!ended && seconds() < (contained ? watch : options.seconds) && !signal.aborted) {
    await pause(400, signal);
    if (attack.kind === "protocol") {
      const live = await readLeases(client, stage.run);
      for (const id of own) mostLive = Math.max(mostLive, live.get(id) ?? 0);
    }
    if (middle === before && seconds() > watch / 2) middle = await stage.standing();
    if (contained) continue;
    const { nodes } = await stage.standing();
    const known = [...own].flatMap((id) => nodes.get(id) ?? []);
    const suspects =
      attack.kind === "validator" ? known.filter(({ roles }) => roles.includes("VALIDATOR")) : known;
    if (suspects.some(({ trust }) => trust === "QUARANTINED")) break;
    if (options.hasty && known.some(({ rejected }) => rejected > 0)) break;
  }
  if (attack.expectation.kind === "contained") {
    // what others do needs its time
    while (seconds() < options.seconds && !attack.expectation.holds(await facts())) await sleep(500);
  }
  stop.abort();
  await conduct;
  if (failure !== undefined && !signal.aborted) throw failure;
  const found = await settled(facts, options.hasty ? 1 : options.calm);
  const result = score(attack, found, seconds());
  writeFileSync(join(options.folder, "facts.json"), JSON.stringify(found, null, 1));
  return failure === undefined ? result : { ...result, outcome: "missed", why: String(failure) };
}

/**
 * The facts once every group is decided and the nodes' credits stand still. Cases are decided, groups that were trusted audited and stakes
 * forfeited by loops that nobody can be seen waiting for, so a node that is out is watched for a while longer.
 */
async function settled(read: () => Promise<Facts>, calmSeconds: number): Promise<Facts> {
  let facts = await read();
  let calmSince = performance.now();
  for (const started = performance.now(); performance.now() - started < 60_000; ) {
    await sleep(500);
    const next = await read();
    const undecided = next.groups.some(({ state }) => state !== "UNTAKEN" && !decidedStates.has(state));
    if (undecided || next.kept !== facts.kept || next.poison !== facts.poison) calmSince = performance.now();
    facts = next;
    if (performance.now() - calmSince > calmSeconds * 1000) break;
  }
  return facts;
}
