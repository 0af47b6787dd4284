import { mkdtempSync, readdirSync, readFileSync, rmSync, statfsSync } from "node:fs";
import { rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { JsonValue } from "@muster/protocol";
import type { Bench } from "./bench.ts";
import {
  busyShare,
  isRunning,
  machineTime,
  type Network,
  openNetwork,
  removeLeftovers,
  whyNoNetwork,
} from "./broadcast-net.ts";
import { missing, type Peer, peers, removeReceived, type Spread, writeRandom } from "./broadcast-peers.ts";
import { boundSeconds, parentOf, spreadByTree, storeCheckpoint, type TreeSpread } from "./broadcast-tree.ts";
import { measureDelta } from "./delta.ts";

/** A checkpoint to many receivers over shaped lines, beside what the links allow and what other programs take; and deltas, see `delta.ts`. */
export const broadcast: Bench = {
  options: { "fan-out": 2 },
  flags: ["short"],
  async run(say, options, flags) {
    const fanOut = options["fan-out"] ?? 2;
    const short = flags.has("short");
    const trees = await measureTrees(say, fanOut, short ? shortSetUps : setUps);
    say("");
    if (short) say("Deltas were not measured: leave --short out, or measure `delta`.");
    const { deltaOverEntropyBound, rsyncOverDelta } = short ? noDelta : await measureDelta(say);
    return { ...trees, fanOut, deltaOverEntropyBound, rsyncOverDelta };
  },
};

const noDelta = { deltaOverEntropyBound: null, rsyncOverDelta: null };

type SetUp = {
  receivers: number;
  bytes: number;
  /** Bits per second of each line, both ways. */
  rate: number;
  /** What one origin serves alone takes `receivers` times as long, so it is given this part of the bytes; … */
  served: number;
  /** … and who passes on what it receives this one. */
  swarmed: number;
  /** Milliseconds it waits for a machine that others leave alone. */
  patience: number;
};

const MIB = 2 ** 20;
const setUps: readonly SetUp[] = [
  { receivers: 64, bytes: 64 * MIB, rate: 20e6, served: 1 / 64, swarmed: 1 / 4, patience: 45_000 },
  { receivers: 16, bytes: 1024 * MIB, rate: 200e6, served: 1 / 64, swarmed: 1 / 4, patience: 45_000 },
];
const shortSetUps: readonly SetUp[] = [
  { receivers: 4, bytes: 8 * MIB, rate: 20e6, served: 1 / 8, swarmed: 1 / 4, patience: 4_000 },
];

/** Above this the processors, not the lines, may be what was measured. */
const MOST_BUSY = 0.7;
const QUIET = 0.3;
const ATTEMPTS = 2;
/** Exit code of a run that says nothing: the machine was too busy, or there was no network to measure on. */
const INVALID = 3;
const PREFIX = "muster-bench-";

const share = 0.95;

/** `originOverSize`: of ours the bodies alone, of others every frame whole. */
type Judged = { overBound: number; originOverSize: number };

async function measureTrees(
  say: (line: string) => void,
  fanOut: number,
  measured: readonly SetUp[],
): Promise<Record<string, JsonValue>> {
  const reason = whyNoNetwork();
  if (reason !== undefined) {
    say(`The broadcast was not measured. ${reason}`);
    process.exitCode = INVALID;
    return { makespanOverBound95: null, originEgressOverSize: null, cpuSecondsPerGiB: null };
  }
  removeLeftovers();
  removeFolders((pid) => !isRunning(pid));
  say(
    `Every host has its own network namespace and a line to one bridge, shaped by tbf in both directions: rates, no latency. Receivers`,
  );
  say(
    `verify and discard. Bound: max(size / down, fan-out × size / up), fan-out ${fanOut}; the time counts until 95 % have everything.`,
  );
  say(
    "Beside it, with fewer bytes and the bound of as many: others, whose origin's bytes include every frame's head (4.6 % at 1,500 bytes).",
  );
  const trees: { spread: TreeSpread; judged: Judged }[] = [];
  const beside = new Map<string, Judged | null>();
  for (const setUp of measured) {
    const tree = await measureSetUp(say, setUp, fanOut, beside);
    trees.push(tree);
  }
  const worst = (of: (tree: (typeof trees)[number]) => number) => Math.max(...trees.map(of));
  const cpu = trees.reduce((sum, { spread }) => sum + spread.cpuSeconds, 0);
  const delivered = trees.reduce((sum, { spread }) => sum + spread.deliveredBytes, 0);
  const busy = worst(({ spread }) => spread.busy);
  if (busy > MOST_BUSY) {
    say(
      `INVALID: the machine was ${percent(busy)} busy (at most ${percent(MOST_BUSY)} may be). This is no miss; measure again when it is quiet.`,
    );
    process.exitCode = INVALID;
  }
  return {
    makespanOverBound95: rounded(worst(({ judged }) => judged.overBound)),
    originEgressOverSize: rounded(worst(({ judged }) => judged.originOverSize)),
    originWireOverSize: rounded(worst(({ spread }) => spread.originBytes / spread.size)),
    cpuSecondsPerGiB: rounded(cpu / (delivered / 2 ** 30)),
    busy: rounded(busy),
    valid: busy <= MOST_BUSY,
    beside: Object.fromEntries(
      [...beside].map(([name, judged]) => [
        name,
        judged && {
          makespanOverBound95: rounded(judged.overBound),
          originWireOverSize: rounded(judged.originOverSize),
        },
      ]),
    ),
  };
}

/** The tree and every peer on one network. */
async function measureSetUp(
  say: (line: string) => void,
  setUp: SetUp,
  fanOut: number,
  beside: Map<string, Judged | null>,
): Promise<{ spread: TreeSpread; judged: Judged }> {
  const { receivers, bytes, rate } = setUp;
  const relays = new Set(Array.from({ length: receivers }, (_, i) => parentOf(i + 2, fanOut))).size;
  const dir = temporaryFolder(relays * bytes);
  const network = openNetwork({ hosts: receivers + 1, rate });
  const cleanUp = () => {
    network.close();
    rmSync(dir, { recursive: true, force: true });
  };
  const stop = () => process.exit(130);
  process.once("exit", cleanUp);
  process.once("SIGINT", stop).once("SIGTERM", stop);
  try {
    say("");
    say(`${mib(bytes)} to ${receivers} receivers at ${rate / 1e6} Mbit/s, ${relays - 1} of them relays`);
    const tree = await measureTree(say, setUp, fanOut, { network, dir });
    for (const peer of peers) {
      const judged = await measurePeer(say, peer, setUp, fanOut, { network, dir });
      const before = beside.get(peer.name);
      beside.set(
        peer.name,
        judged && {
          overBound: Math.max(judged.overBound, before?.overBound ?? 0),
          originOverSize: Math.max(judged.originOverSize, before?.originOverSize ?? 0),
        },
      );
    }
    return tree;
  } finally {
    cleanUp();
    process.off("exit", cleanUp).off("SIGINT", stop).off("SIGTERM", stop);
  }
}

async function measureTree(
  say: (line: string) => void,
  { bytes, rate, patience }: SetUp,
  fanOut: number,
  { network, dir }: { network: Network; dir: string },
): Promise<{ spread: TreeSpread; judged: Judged }> {
  const stored = await storeCheckpoint(join(dir, "origin"), bytes);
  const bound = boundSeconds({ bytes, rate, fanOut });
  for (let attempt = 1; ; attempt++) {
    await quiet(say, patience);
    const folder = join(dir, `tree-${attempt}`);
    const spread = await spreadByTree({ network, stored, dir: folder, fanOut });
    await rm(folder, { recursive: true, force: true });
    const judged = { overBound: makespan(spread) / bound, originOverSize: spread.originPayload / bytes };
    row(say, "muster", bytes, makespan(spread), judged);
    say(
      `    last ${Math.max(...spread.seconds).toFixed(1)} s; origin's line ${(spread.originBytes / bytes).toFixed(3)} × with every frame's head; ` +
        `${spread.cpuSeconds.toFixed(0)} CPU-seconds (${(spread.cpuSeconds / (spread.deliveredBytes / 2 ** 30)).toFixed(2)} a GiB delivered); ` +
        `machine ${percent(spread.busy)} busy; ${spread.wastedBytes} bytes wasted, ${network.dropped()} packets lost`,
    );
    say(`    by level ${levels(spread)}`);
    for (const fault of spread.faults.slice(0, 5)) say(`    ${fault}`);
    if (spread.busy <= MOST_BUSY || attempt === ATTEMPTS) return { spread, judged };
    say(`    above ${percent(MOST_BUSY)} the processors are measured, not the lines: once more`);
  }
}

async function measurePeer(
  say: (line: string) => void,
  peer: Peer,
  setUp: SetUp,
  fanOut: number,
  { network, dir }: { network: Network; dir: string },
): Promise<Judged | null> {
  const lacking = missing(peer);
  if (lacking.length > 0) {
    say(`  ${peer.name}: not measured, there is no ${lacking.join(", no ")}`);
    return null;
  }
  const bytes = setUp.bytes * (peer.swarm ? setUp.swarmed : setUp.served);
  await writeRandom(join(dir, "file"), bytes);
  try {
    const spread = await peer.spread({ network, dir, file: "file", bytes });
    const judged = {
      overBound: makespan(spread) / boundSeconds({ bytes, rate: setUp.rate, fanOut }),
      originOverSize: spread.originBytes / bytes,
    };
    row(say, peer.name, bytes, makespan(spread), judged);
    return judged;
  } catch (cause) {
    say(`  ${peer.name}: not measured. ${cause instanceof Error ? cause.message : String(cause)}`);
    return null;
  } finally {
    await removeReceived(dir, network.hosts);
  }
}

function row(
  say: (line: string) => void,
  name: string,
  bytes: number,
  seconds: number,
  judged: Judged,
): void {
  say(
    `  ${name.padEnd(18)} ${mib(bytes).padStart(9)}  ${seconds.toFixed(1).padStart(6)} s  ${judged.overBound.toFixed(3).padStart(7)} × bound  origin ${judged.originOverSize.toFixed(3).padStart(7)} × size`,
  );
}

/** Seconds until 95 % had everything. */
function makespan({ seconds }: Spread): number {
  return seconds.toSorted((a, b) => a - b)[Math.ceil(share * seconds.length) - 1]!;
}

function levels({ hosts }: TreeSpread): string {
  const deepest = Math.max(...hosts.map(({ depth }) => depth));
  return Array.from({ length: deepest }, (_, i) => {
    const seconds = hosts.filter(({ depth }) => depth === i + 1).map(({ seconds }) => seconds);
    return `${Math.min(...seconds).toFixed(1)}–${Math.max(...seconds).toFixed(1)} s`;
  }).join(", ");
}

/** Waits until others leave the machine alone, but not for ever. */
async function quiet(say: (line: string) => void, patience: number): Promise<void> {
  const until = performance.now() + patience;
  let told = false;
  for (;;) {
    const before = machineTime();
    await new Promise((resolve) => setTimeout(resolve, 2_000));
    const busy = busyShare(before, machineTime());
    if (busy <= QUIET || performance.now() > until) return;
    if (!told) say(`    waiting: the machine is ${percent(busy)} busy with something else`);
    told = true;
  }
}

/** Memory when there is enough to spare, else the disk. */
function temporaryFolder(bytes: number): string {
  const memory = "/dev/shm";
  const available =
    1024 * Number(/^MemAvailable:\s+(\d+)/m.exec(readFileSync("/proc/meminfo", "utf8"))?.[1] ?? 0);
  const fits = (free: number) => free > bytes + 4 * 2 ** 30;
  const roomy = fits(available) && fits(freeIn(memory));
  return mkdtempSync(join(roomy ? memory : tmpdir(), `${PREFIX}${process.pid}-`));
}

function freeIn(dir: string): number {
  try {
    const { bavail, bsize } = statfsSync(dir);
    return bavail * bsize;
  } catch {
    return 0;
  }
}

function removeFolders(of: (pid: number) => boolean): void {
  for (const parent of ["/dev/shm", tmpdir()]) {
    for (const name of readdirSync(parent)) {
      const pid = name.startsWith(PREFIX) ? Number(name.slice(PREFIX.length).split("-")[0]) : Number.NaN;
      if (Number.isInteger(pid) && of(pid)) rmSync(join(parent, name), { recursive: true, force: true });
    }
  }
}

const mib = (bytes: number) => `${bytes / MIB} MiB`;
const percent = (part: number) => `${Math.round(100 * part)} %`;
const rounded = (value: number) => Number(value.toPrecision(4));
