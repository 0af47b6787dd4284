import { randomBytes } from "node:crypto";
import { protocolVersion } from "@muster/protocol";
import { ApiError, pause } from "@muster/sdk";
import {
  type Relay,
  type RelayAssignment,
  type RelayEvent,
  type RelayHealth,
  type Source,
  startRelay,
} from "@muster/shardcast";
import { isOutage } from "./connection.ts";
import type { Log } from "./log.ts";
import type { Session } from "./session.ts";

/** How a node relays. */
export type RelayServiceOptions = {
  /** Folder of the relay alone. */
  dir: string;
  /** Where it listens; 127.0.0.1:4010. */
  host?: string;
  port?: number;
  /** Where others reach it; where it listens when left out. */
  publicUrl?: string;
  /** What its uplink carries, in Mbit/s; the tree is built from it. */
  uplinkMbps: number;
  /** Near whom it is, such as `eu-west`; relays of one region are put together. */
  region?: string;
  /** Bytes of checkpoints it keeps. */
  budgetBytes?: number;
  /** Pulls from here, whatever the coordinator assigns: a mirror, or a relay that the coordinator names for this node. */
  parentUrl?: string;
  /** Hears what the relay does, in place of the log. */
  onEvent?: (event: RelayEvent) => void;
};

/** A relay under the coordinator's direction. */
export type RelayService = AsyncDisposable & {
  /** Where others reach it. */
  url: string;
  /** The relay as a source for its own process, of a checkpoint that it should hold. */
  source(manifest: string): Source | undefined;
  /** Bytes of such a checkpoint by who sent them to the relay: a relay's TypeID, or null for the coordinator. */
  broughtBy: Relay["broughtBy"];
  health(): RelayHealth;
  /** Resolves when it has ended; rejects when the coordinator refuses it for good. */
  ended: Promise<void>;
};

const ANNOUNCE_EVERY_MS = 10_000;
const REFUSED_AGAIN_MS = 60_000;
const REPORT_AGAIN_MS = 60_000;
/** A relay that is taken out of the tree for a while keeps what it has; whoever may not fetch it is given no ticket. */
const FORGET_MS = 900_000;
/** Tickets live for ten minutes at least. */
const TICKET_AGAIN_MS = 240_000;
const WITHDRAW_WITHIN_MS = 5_000;
/** Answers under way when it ends may take this long. */
const GRACE_MS = 5_000;

/**
 * Starts a relay and does as the coordinator says: it announces itself every ten seconds, hears at once what to hold and from whom, and
 * learns the same from each announcement, should a push be lost. A coordinator that is away stops nothing: what is here is served on.
 * @param input.wait for a grant that is missing, telling so once; else `ended` rejects with `ROLE_NOT_GRANTED`.
 * @throws what listening throws, for example EADDRINUSE.
 */
export async function openRelay(input: {
  session: Session;
  coordinatorUrl: string;
  options: RelayServiceOptions;
  log: Log;
  wait: boolean;
}): Promise<RelayService> {
  const { session, options, log } = input;
  const { broadcast } = session.client;
  const stop = new AbortController();
  const { signal } = stop;
  const ownToken = randomBytes(32).toString("hex");
  const reported = new Map<string, number>();
  let refused = false;
  const relay = await startRelay({
    dir: options.dir,
    ...(options.host === undefined ? {} : { host: options.host }),
    ...(options.port === undefined ? {} : { port: options.port }),
    ...(options.budgetBytes === undefined ? {} : { budgetBytes: options.budgetBytes }),
    ownToken,
    origin: {
      url: input.coordinatorUrl,
      token: (refused) => session.token(refused),
      headers: { "muster-protocol": String(protocolVersion) },
    },
    onEvent(event) {
      report(event);
      if (options.onEvent) options.onEvent(event);
      else tell(log, event);
    },
  });
  const url = options.publicUrl ?? relay.url;
  const assigned = createAssignments(relay, options.parentUrl && pinTo(options.parentUrl, session, log));

  function report(event: RelayEvent): void {
    if (event.type !== "fault" || !event.source.startsWith("relay_")) return;
    const { source, manifest, sha256, fault } = event;
    const key = `${source} ${fault}`;
    if ((reported.get(key) ?? Number.NEGATIVE_INFINITY) > Date.now() - REPORT_AGAIN_MS) return;
    reported.set(key, Date.now());
    broadcast.report({ relay: source, manifest, sha256, fault }).catch((error: unknown) => {
      if (!isOutage(error)) log.debug({ relay: source, error: String(error) }, "the report was not heard");
    });
  }

  async function announce(): Promise<number> {
    const { region, uplinkMbps } = options;
    const since = assigned.now();
    try {
      const assignments = await broadcast.announce(
        { url, uplinkMbps, health: relay.health(), ...(region === undefined ? {} : { region }) },
        { signal },
      );
      refused = false;
      await assigned.replace(assignments, since);
      return ANNOUNCE_EVERY_MS;
    } catch (error) {
      if (signal.aborted || isOutage(error)) return ANNOUNCE_EVERY_MS;
      if (!(error instanceof ApiError) || error.retryable) {
        log.warn({ error: String(error) }, "the relay could not be announced; trying again");
        return ANNOUNCE_EVERY_MS;
      }
      const revoked = error.code === "ROLE_NOT_GRANTED";
      if (!revoked || !(input.wait || assigned.any())) throw error;
      if (!refused) log.warn({ code: error.code }, error.message);
      refused = true;
      await assigned.replace([], since);
      return REFUSED_AGAIN_MS;
    }
  }

  async function keepAnnouncing(): Promise<void> {
    while (!signal.aborted) await pause(await announce(), signal);
  }

  async function hear(): Promise<void> {
    // a stream that is refused is no loss: every announcement is answered with the same
    while (!signal.aborted) {
      try {
        for await (const assignment of broadcast.assignments({ signal })) await assigned.push(assignment);
      } catch (error) {
        if (!signal.aborted && !isOutage(error))
          log.debug({ error: String(error) }, "no assignments are pushed; the announcements bring them");
      }
      await pause(REFUSED_AGAIN_MS, signal);
    }
  }

  const announcing = keepAnnouncing();
  const hearing = hear();
  announcing.catch((error: unknown) => {
    // who does not wait hears of it by `ended`
    if (input.wait) log.error({ error: String(error) }, "the coordinator refuses the relay");
  });
  log.info({ url }, "relaying");
  return {
    url,
    source: (manifest) =>
      relay.broughtBy(manifest) ? { id: "own", url: relay.url, token: ownToken } : undefined,
    broughtBy: relay.broughtBy,
    health: relay.health,
    ended: announcing,
    async [Symbol.asyncDispose]() {
      stop.abort();
      await Promise.allSettled([announcing, hearing]);
      await broadcast
        .withdraw({ signal: AbortSignal.timeout(WITHDRAW_WITHIN_MS) })
        .catch((error: unknown) => log.debug({ error: String(error) }, "the relay could not be withdrawn"));
      await relay.close({ graceMs: GRACE_MS });
    },
  };
}

type Pin = (assignment: RelayAssignment) => Promise<RelayAssignment>;

/** Applies assignments in the order in which they were made, as far as that can be told. */
function createAssignments(relay: Relay, pin: Pin | undefined | "") {
  const pushedAt = new Map<string, number>();
  const known = new Set<string>();
  const missingSince = new Map<string, number>();
  const pushedSince = (run: string, since: number) =>
    (pushedAt.get(run) ?? Number.NEGATIVE_INFINITY) >= since;

  async function apply(assignment: RelayAssignment): Promise<void> {
    known.add(assignment.run);
    relay.assign(pin ? await pin(assignment) : assignment);
  }

  return {
    now: () => performance.now(),
    any: () => known.size > 0,
    async push(assignment: RelayAssignment): Promise<void> {
      pushedAt.set(assignment.run, performance.now());
      await apply(assignment);
    },
    /** @param since when it was asked for: what was pushed later is newer. */
    async replace(assignments: readonly RelayAssignment[], since: number): Promise<void> {
      for (const assignment of assignments) if (!pushedSince(assignment.run, since)) await apply(assignment);
      const listed = new Set(assignments.map(({ run }) => run));
      for (const run of known) {
        if (listed.has(run) || pushedSince(run, since)) {
          missingSince.delete(run);
          continue;
        }
        const missing = missingSince.get(run) ?? since;
        missingSince.set(run, missing);
        if (performance.now() - missing < FORGET_MS) continue;
        missingSince.delete(run);
        known.delete(run);
        relay.unassign(run);
      }
    },
  };
}

/** Puts one parent in the place of whichever is assigned, with the ticket that the coordinator gives any node for it. */
function pinTo(parentUrl: string, { client }: Session, log: Log): Pin {
  const tickets = new Map<string, { relay: string | undefined; ticket: string | null; askedAt: number }>();
  return async (assignment) => {
    if (assignment.parentUrl === parentUrl) return assignment;
    const { run, versions } = assignment;
    let known = tickets.get(run);
    const [newest] = versions;
    if (newest && (known?.askedAt ?? Number.NEGATIVE_INFINITY) < Date.now() - TICKET_AGAIN_MS) {
      const sources = await client.broadcast
        .sources({ manifest: newest.manifest })
        .catch((error: unknown) => {
          log.debug({ error: String(error) }, "no ticket for the parent was to be had");
          return [];
        });
      const found = sources.find(({ url }) => url === parentUrl);
      known = { relay: found?.relay, ticket: found?.ticket ?? null, askedAt: Date.now() };
      tickets.set(run, known);
    }
    return { ...assignment, parent: known?.relay ?? parentUrl, parentUrl, ticket: known?.ticket ?? null };
  };
}

function tell(log: Log, event: RelayEvent): void {
  const { type, ...fields } = event;
  switch (event.type) {
    case "held":
      log.info(fields, "a version is here whole");
      break;
    case "dropped":
      log.debug(fields, "a version was dropped for newer ones");
      break;
    case "too-large":
      log.warn(fields, "a version does not fit the budget and is not relayed");
      break;
    case "fault":
      log.warn(fields, "a source failed; the blob is fetched again");
      break;
    case "disk":
      log.error(fields, "the disk failed; trying again");
      break;
  }
}
