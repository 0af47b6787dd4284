import type pg from "pg";

/** Something that must hold in the database at every moment, whatever was killed when. */
export type Invariant = {
  /** Stable name. */
  id: string;
  /** What must hold, in words. */
  sentence: string;
} & (
  | {
      /**
       * Answers one row a violation, with a column `what` that names it. `$1` is the grace in seconds that sweepers have; `clock.at`
       * is the last moment at which the coordinator is known to have worked: what was due after it nobody could have done.
       */
      sql: string;
    }
  | {
      /** The violations in words, for what Postgres cannot compute. */
      find: (client: pg.ClientBase) => Promise<string[]>;
    }
);

/** The tables of one area and what must hold in them. */
export type Invariants = readonly Invariant[];

/** Put before every query that says `clock`: its parameter is the grace. */
export const clock = `clock AS (
  SELECT least(now(), greatest(
    (SELECT max("at") FROM "Event"),
    (SELECT max("updatedAt") FROM "Task"),
    (SELECT max("lastSeenAt") FROM "Node")
  )) AS at, make_interval(secs => $1::float8) AS grace
)`;
