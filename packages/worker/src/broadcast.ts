import type { MusterClient } from "@muster/sdk";
import type { Fault, Progress, Receipt, Source } from "@muster/shardcast";
import { isOutage } from "./connection.ts";
import type { Log } from "./log.ts";
import type { RelayService } from "./relay.ts";

// What passes between a node that downloads and the coordinator: who has a checkpoint, who failed, who brought it. None of it may fail a
// task: without an answer there is always the origin, and what was not heard is told in the log.

const SOURCES_LIVE_MS = 60_000;
const ASK_WITHIN_MS = 5_000;
// A ticket that runs out on its way is a refusal.
const TICKET_MARGIN_MS = 30_000;
const REPORT_AGAIN_MS = 60_000;
const MOST_REPORTS_A_MINUTE = 10;
const LOUD_MS = 1_000;
const SAY_EVERY_MS = 5_000;
const MiB = 2 ** 20;

type At = { version: number; verifiedBytes: number; totalBytes: number };

/** This node's own relay: what it should hold is fetched through it. */
export type OwnRelay = Pick<RelayService, "source" | "broughtBy">;

export function openBroadcast({
  client,
  log,
  ownRelay,
}: {
  client: MusterClient;
  log: Log;
  ownRelay?: OwnRelay;
}) {
  const known = new Map<string, { sources: Source[]; until: number }>();
  const throughOwn = new Set<string>();
  const reported = new Map<string, number>();
  const receipts = new Map<string, Receipt>();
  const downloads = new Map<string, { at: At; startedAt: number; saidAt: number }>();

  async function ask(manifest: string): Promise<Source[]> {
    const now = Date.now();
    const cached = known.get(manifest);
    if (cached && cached.until > now) return cached.sources;
    for (const [old, { until }] of known) if (until <= now) known.delete(old);
    const found = await client.broadcast.sources(
      { manifest },
      { signal: AbortSignal.timeout(ASK_WITHIN_MS) },
    );
    const tickets = found.flatMap(({ expiresAt }) => (expiresAt === null ? [] : [Date.parse(expiresAt)]));
    const sources = found.map(({ relay, url, ticket }) => ({
      id: relay,
      url,
      ...(ticket === null ? {} : { token: ticket }),
    }));
    const until = Math.min(now + SOURCES_LIVE_MS, ...tickets.map((ends) => ends - TICKET_MARGIN_MS));
    known.set(manifest, { sources, until });
    return sources;
  }

  function mayReport({ source, fault }: Fault): boolean {
    const now = Date.now();
    for (const [key, at] of reported) if (at < now - REPORT_AGAIN_MS) reported.delete(key);
    const key = `${source} ${fault}`;
    if (reported.has(key) || reported.size >= MOST_REPORTS_A_MINUTE) return false;
    reported.set(key, now);
    return true;
  }

  return {
    /** Who has the checkpoint. Throws when the coordinator does not say. */
    async relays(manifest: string): Promise<Source[]> {
      const own = ownRelay?.source(manifest);
      const again = throughOwn.has(manifest);
      if (own) throughOwn.add(manifest);
      if (own && !again) return [own];
      try {
        // asked again because one's own does not have everything, or takes long
        return own ? [own, ...(await ask(manifest))] : await ask(manifest);
      } catch (error) {
        if (!isOutage(error))
          log.debug({ manifest, error: String(error) }, "no relays are known; asking the coordinator itself");
        throw error;
      }
    },

    onFault(fault: Fault): void {
      if (!mayReport(fault)) return;
      const { source: relay, ...rest } = fault;
      log.warn({ relay, ...rest }, "a relay failed; the shard is fetched elsewhere");
      // one's own relay is nobody else's business
      if (!isNamed(relay)) return;
      client.broadcast.report({ relay, ...rest }).catch((error: unknown) => {
        if (!isOutage(error)) log.debug({ relay, error: String(error) }, "the report was not heard");
      });
    },

    onReceipt: (receipt: Receipt) => void receipts.set(receipt.manifest, receipt),

    onProgress({ manifest, ...at }: Progress): void {
      const now = performance.now();
      const { startedAt, saidAt } = downloads.get(manifest) ?? {
        startedAt: now,
        saidAt: now + LOUD_MS - SAY_EVERY_MS,
      };
      const loud = now - saidAt >= SAY_EVERY_MS && at.verifiedBytes < at.totalBytes;
      downloads.set(manifest, { at, startedAt, saidAt: loud ? now : saidAt });
      if (loud)
        log.info(
          { version: at.version, MiB: mib(at.verifiedBytes), ofMiB: mib(at.totalBytes) },
          "downloading",
        );
    },

    /** How far the download that began last is. */
    progress: (): At | undefined => [...downloads.values()].at(-1)?.at,

    /** Nobody waits for this checkpoint any more. */
    ended(manifest: string): void {
      downloads.delete(manifest);
      throughOwn.delete(manifest);
    },

    /** A task has the checkpoint: tells who brought it, if it was brought just now. */
    opened(manifest: string): void {
      const receipt = receipts.get(manifest);
      if (!receipt) return;
      receipts.delete(manifest);
      const { version, layout, bytes, seconds, wastedBytes } = receipt;
      const sources = receipt.sources
        .flatMap((source) =>
          source.relay === null || isNamed(source.relay)
            ? [source]
            : sharedOut(source.bytes, ownRelay?.broughtBy(manifest)),
        )
        .reduce<Receipt["sources"]>(added, []);
      const line = {
        version,
        layout,
        MiB: mib(bytes),
        seconds: Math.round(seconds * 10) / 10,
        wastedBytes,
        sources,
      };
      if (seconds * 1_000 >= LOUD_MS) log.info(line, "checkpoint received");
      else log.debug(line, "checkpoint received");
      client.broadcast
        .receipt({ manifest, layout, seconds, bytes, wastedBytes, sources })
        .catch((error: unknown) => {
          log.warn({ manifest, error: String(error) }, "the receipt of a checkpoint was not heard");
        });
    },
  };
}

/** Whether the coordinator gave it its name; one's own has another, and so has a parent that the operator chose. */
function isNamed(relay: string): boolean {
  return relay.startsWith("relay_");
}

/** Bytes that came through one's own relay, by who brought them to it; the parts that the coordinator knows by name. */
function sharedOut(
  bytes: number,
  brought: ReadonlyMap<string | null, number> | undefined,
): Receipt["sources"] {
  const all = [...(brought ?? [])];
  const total = all.reduce((sum, [, part]) => sum + part, 0);
  return all
    .filter(([relay]) => relay === null || isNamed(relay))
    .map(([relay, part]) => ({ relay, bytes: Math.floor((bytes * part) / total) }));
}

function added(
  sources: Receipt["sources"],
  { relay, bytes }: Receipt["sources"][number],
): Receipt["sources"] {
  const before = sources.find((source) => source.relay === relay)?.bytes ?? 0;
  return [...sources.filter((source) => source.relay !== relay), { relay, bytes: before + bytes }];
}

function mib(bytes: number): number {
  return Math.round((bytes / MiB) * 10) / 10;
}
