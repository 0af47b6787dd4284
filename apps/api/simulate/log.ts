import { toTypeId } from "@muster/protocol";
import { auditEntryHash } from "@muster/verification";
import { type EventType, type NewEvent, runStream } from "../src/events/append.ts";
import type { AuditKind, NewAuditEntry } from "../src/verification/record.ts";
import type { Loader } from "./copy.ts";

// A run's events and its audit log, in the order in which things happened, numbered as the sequencer and the chain number them.

export type RunLog = {
  event(type: EventType, subject: string, at: number, data: NewEvent["data"]): void;
  audit(kind: AuditKind, subject: string, at: number, data: NewAuditEntry["data"]): void;
  /** Writes both; called once, when nothing of the run's past is to come any more. */
  write(loader: Loader): void;
};

export function createRunLog(
  owner: { readonly organizationId: string; readonly runId: string },
  { keep }: { keep: number },
): RunLog {
  const { organizationId, runId } = owner;
  type Line = { at: number; type: string; subject: string; data: object };
  let events: Line[] = [];
  const entries: Line[] = [];
  let forgotten = 0;
  const inOrder = (lines: Line[]) => lines.sort((a, b) => a.at - b.at);

  return {
    event(type, subject, at, data) {
      events.push({ at: Math.floor(at), type, subject, data });
      if (events.length < 2 * keep) return;
      // What is older than retention: its numbers stay given.
      const newest = inOrder(events).slice(-keep);
      forgotten += events.length - newest.length;
      events = newest;
    },
    audit(kind, subject, at, data) {
      entries.push({ at: Math.floor(at), type: kind, subject, data });
    },
    write(loader) {
      const stream = runStream(runId);
      const kept = inOrder(events).slice(-keep);
      forgotten += events.length - kept.length;
      kept.forEach(({ at, type, subject, data }, i) => {
        loader.add("Event", {
          organizationId,
          stream,
          seq: forgotten + i + 1,
          type,
          subject,
          data,
          at: new Date(at),
        });
      });
      if (kept.length > 0) loader.add("EventStream", { stream, head: forgotten + kept.length });
      let hash: string | null = null;
      const run = toTypeId("run", runId);
      inOrder(entries).forEach(({ at, type: kind, subject, data }, i) => {
        const seq = i + 1;
        const plain = JSON.parse(JSON.stringify(data));
        hash = auditEntryHash(hash, run, { seq, kind, subject, data: plain, at: new Date(at).toISOString() });
        loader.add("AuditEntry", { organizationId, runId, seq, kind, subject, data, at: new Date(at), hash });
      });
    },
  };
}
