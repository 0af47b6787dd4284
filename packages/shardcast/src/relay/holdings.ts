import type { Manifest } from "@muster/protocol";
import { ShardcastError } from "../error.ts";
import { openManifest } from "../verify.ts";
import type { RelayAssignment, RelayEvent } from "./assignment.ts";
import { byRank, chooseKept } from "./retention.ts";
import type { Store } from "./store.ts";

// Which versions a relay should hold, which of them fit, and what of those is missing.

export type HoldingsOptions = {
  store: Store;
  budgetBytes: number;
  maxVersions: number;
  onEvent: (event: RelayEvent) => void;
  /** A manifest was read off the disk, or could not be: `review` has another answer. */
  onChange: () => void;
};

/** A blob that should be here and is not; the size of a manifest is not known before it is here. */
export type Missing = { sha256: string; size: number | undefined; run: string; manifest: string };

/** Bytes by who sent them; null is the origin. */
export type Brought = ReadonlyMap<string | null, number>;

export type Holdings = {
  assign(assignment: RelayAssignment): void;
  /** Whether anything was known of the run. */
  unassign(run: string): boolean;
  assignment(run: string): RelayAssignment | undefined;
  runs(): string[];
  /** Decides anew what is kept, drops the rest and says what is missing, most wanted first. */
  review(): Missing[];
  /** A manifest that was checked is in the store. */
  learn(sha256: string, manifest: Manifest): void;
  /** A blob is in the store. */
  arrived(sha256: string): void;
  /** Counts who sent a blob of that checkpoint. */
  credit(manifest: string, brought: Brought): void;
  /** Who sent what this process received of that checkpoint; undefined when it is not one of those kept. */
  broughtBy(manifest: string): Brought | undefined;
  /** Whether the run's kept versions include the blob; its size when that is known. */
  knows(run: string, sha256: string): { size: number | undefined } | undefined;
  /** Whether every kept version's manifest is here. */
  knowsAll(run: string): boolean;
  status(): { runs: number; versionsHeld: number; newestVersion: number | null };
  close(): void;
};

type Version = {
  run: string;
  version: number;
  manifest: string;
  /** Every distinct blob with its bytes, once the manifest is here. */
  blobs: ReadonlyMap<string, number> | undefined;
  /** The manifest is being read off the disk. */
  reading: boolean;
  /** In the budget. */
  kept: boolean;
  /** Every blob is here. */
  held: boolean;
  since: number;
  brought: Map<string | null, number>;
};

/** Blobs found at the start that no version asked for stay this long: the assignments of other runs may come later. */
const ORPHANS_STAY_MS = 600_000;

/** @see Holdings */
export function createHoldings({ store, onEvent, onChange, ...options }: HoldingsOptions): Holdings {
  const runs = new Map<string, { assignment: RelayAssignment; versions: Version[] }>();
  const wanted = new Set<string>();
  const orphans = new Set(store.all());
  const orphanTimer = setTimeout(() => {
    for (const sha256 of orphans) if (!wanted.has(sha256)) store.drop(sha256);
    orphans.clear();
  }, ORPHANS_STAY_MS);
  orphanTimer.unref();

  const versions = (): Version[] => [...runs.values()].flatMap((run) => run.versions);

  function keep(version: Version, kept: boolean): void {
    if (version.kept && !kept) {
      const { run, version: number, manifest, held } = version;
      const bytes = sum(version.blobs?.values() ?? []);
      onEvent(
        held
          ? { type: "dropped", run, version: number, manifest }
          : { type: "too-large", run, version: number, manifest, bytes, budgetBytes: options.budgetBytes },
      );
      version.held = false;
    }
    version.kept = kept;
  }

  /** What lies on the disk from an earlier time is looked at like what a stranger sends. */
  async function readManifest(version: Version): Promise<void> {
    if (version.reading) return;
    version.reading = true;
    try {
      const bytes = await store.read(version.manifest);
      version.blobs = blobsOf(await openManifestOf(version.run, version.manifest, bytes));
    } catch {
      store.drop(version.manifest);
    }
    version.reading = false;
    onChange();
  }

  /** Removes what was found at the start and nobody has asked for, when its room is needed. */
  function makeRoom(): void {
    for (const sha256 of orphans) {
      if (wanted.has(sha256)) orphans.delete(sha256);
      else if (store.bytes() > options.budgetBytes) {
        orphans.delete(sha256);
        store.drop(sha256);
      }
    }
  }

  function settle(version: Version): void {
    if (version.held || !version.kept || !version.blobs) return;
    for (const sha256 of version.blobs.keys()) if (store.size(sha256) === undefined) return;
    version.held = true;
    onEvent({
      type: "held",
      run: version.run,
      version: version.version,
      manifest: version.manifest,
      bytes: sum(version.blobs.values()),
      seconds: (performance.now() - version.since) / 1000,
    });
  }

  return {
    assign(assignment) {
      const before = runs.get(assignment.run)?.versions ?? [];
      const listed = assignment.versions
        .toSorted((a, b) => b.version - a.version)
        .slice(0, options.maxVersions);
      runs.set(assignment.run, {
        assignment,
        versions: listed.map(
          ({ version, manifest }) =>
            before.find((one) => one.manifest === manifest) ??
            freshVersion(assignment.run, version, manifest),
        ),
      });
      for (const { run, version, manifest, held } of before) {
        if (held && !listed.some((one) => one.manifest === manifest))
          onEvent({ type: "dropped", run, version, manifest });
      }
    },
    unassign: (run) => runs.delete(run),
    assignment: (run) => runs.get(run)?.assignment,
    runs: () => [...runs.keys()],
    review() {
      const ranked = byRank(
        [...runs.values()].map((run) => run.versions),
        options.maxVersions,
      );
      const kept = chooseKept(ranked, options.budgetBytes);
      for (const version of ranked) keep(version, kept.has(version));
      const missing: Missing[] = [];
      const before = new Set(wanted);
      wanted.clear();
      for (const version of kept) {
        const { run, manifest } = version;
        wanted.add(manifest);
        if (store.size(manifest) === undefined)
          missing.push({ sha256: manifest, size: undefined, run, manifest });
        else if (!version.blobs) void readManifest(version);
        for (const [sha256, size] of version.blobs ?? []) {
          if (wanted.has(sha256)) continue;
          wanted.add(sha256);
          if (store.size(sha256) === undefined) missing.push({ sha256, size, run, manifest });
        }
      }
      for (const sha256 of before) if (!wanted.has(sha256)) store.drop(sha256);
      makeRoom();
      for (const version of kept) settle(version);
      return missing;
    },
    learn(sha256, manifest) {
      for (const version of versions()) if (version.manifest === sha256) version.blobs = blobsOf(manifest);
    },
    arrived(sha256) {
      for (const version of versions()) if (version.blobs?.has(sha256)) settle(version);
    },
    credit(manifest, brought) {
      const version = versions().find((one) => one.manifest === manifest);
      for (const [from, bytes] of brought)
        version?.brought.set(from, (version.brought.get(from) ?? 0) + bytes);
    },
    broughtBy: (manifest) => versions().find((one) => one.kept && one.manifest === manifest)?.brought,
    knows(run, sha256) {
      for (const version of runs.get(run)?.versions ?? []) {
        if (!version.kept) continue;
        if (version.manifest === sha256) return { size: store.size(sha256) };
        const size = version.blobs?.get(sha256);
        if (size !== undefined) return { size };
      }
      return undefined;
    },
    knowsAll: (run) => runs.get(run)?.versions.every(({ kept, blobs }) => !kept || blobs) ?? true,
    status() {
      const held = versions().filter((version) => version.held);
      return {
        runs: runs.size,
        versionsHeld: held.length,
        newestVersion: held.reduce<number | null>((most, { version }) => Math.max(most ?? 0, version), null),
      };
    },
    close: () => clearTimeout(orphanTimer),
  };
}

/** @throws ShardcastError for anything but that run's manifest with this hash. */
export async function openManifestOf(run: string, hash: string, bytes: Buffer): Promise<Manifest> {
  const manifest = await openManifest({ bytes, hash });
  if (manifest.run === run) return manifest;
  throw new ShardcastError("MANIFEST_INVALID", `Manifest ${hash} belongs to ${manifest.run}, not to ${run}.`);
}

function freshVersion(run: string, version: number, manifest: string): Version {
  return {
    run,
    version,
    manifest,
    blobs: undefined,
    reading: false,
    kept: true,
    held: false,
    since: performance.now(),
    brought: new Map(),
  };
}

/** Every distinct blob of a checkpoint: the delta first, because whoever has the version before needs no more. */
function blobsOf({ files, delta }: Manifest): Map<string, number> {
  const shards = [...(delta?.file.shards ?? []), ...files.flatMap((file) => file.shards)];
  return new Map(shards.map(({ sha256, size }) => [sha256, size]));
}

function sum(sizes: Iterable<number>): number {
  let total = 0;
  for (const size of sizes) total += size;
  return total;
}
