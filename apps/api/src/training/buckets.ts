import type { Ctx } from "../context.ts";

export type MetricBucket = {
  readonly name: string;
  readonly min: number;
  readonly max: number;
  readonly last: number;
};

/** Training steps `fromStep` to `toStep`; with n = 1 it is the step itself. */
export type TrainStepBucket = {
  readonly fromStep: number;
  readonly toStep: number;
  /** Steps in it that are done. */
  readonly n: number;
  readonly at: Date;
  readonly metrics: readonly MetricBucket[];
};

const mostBuckets = 2000;

/**
 * Training steps in at most `buckets` buckets. A bucket is a power of two wide and begins at a multiple of its width, so a step that
 * comes later never moves the ones before it.
 */
export async function trainStepBuckets(
  ctx: Ctx,
  runId: string,
  range: { from?: number; to?: number; buckets?: number },
): Promise<TrainStepBucket[]> {
  const newest = await ctx.prisma.trainStep.aggregate({ where: { runId }, _max: { step: true } });
  const from = Math.max(1, range.from ?? 1);
  const to = Math.min(range.to ?? Number.MAX_SAFE_INTEGER, newest._max.step ?? 0);
  if (to < from) return [];
  const wanted = Math.max(1, Math.min(range.buckets ?? 500, mostBuckets));
  const width = bucketWidth(from, to, wanted);
  const rows = await ctx.prisma.$queryRaw<Row[]>`
    SELECT (s.step - 1) / ${width}::int AS bucket, min(s.step) AS "fromStep", max(s.step) AS "toStep", count(DISTINCT s.step)::int AS n,
      max(s."createdAt") AS at, m.name, min(m.value) AS min, max(m.value) AS max, (array_agg(m.value ORDER BY s.step DESC))[1] AS last
    FROM "TrainStep" s
    CROSS JOIN LATERAL (
      SELECT e.key AS name, (e.value #>> '{}')::float8 AS value FROM jsonb_each(s.metrics) e WHERE jsonb_typeof(e.value) = 'number'
      UNION ALL SELECT 'meanReward', s."meanReward" WHERE s."meanReward" IS NOT NULL
    ) m
    WHERE s."runId" = ${runId}::uuid AND s.step BETWEEN ${from} AND ${to}
    GROUP BY 1, m.name ORDER BY 1, m.name`;
  return gathered(rows);
}

/** The least power of two that covers the steps in so many aligned buckets. */
function bucketWidth(from: number, to: number, buckets: number): number {
  let width = 1;
  while (Math.floor((to - 1) / width) - Math.floor((from - 1) / width) + 1 > buckets) width *= 2;
  return width;
}

type Row = {
  bucket: number;
  fromStep: number;
  toStep: number;
  n: number;
  at: Date;
  name: string;
  min: number;
  max: number;
  last: number;
};

function gathered(rows: readonly Row[]): TrainStepBucket[] {
  const buckets = new Map<number, Row[]>();
  for (const row of rows) buckets.set(row.bucket, [...(buckets.get(row.bucket) ?? []), row]);
  return [...buckets.values()].map((group) => ({
    // A metric may be missing from some steps of a bucket; the bucket's extent is that of its fullest.
    fromStep: Math.min(...group.map((row) => row.fromStep)),
    toStep: Math.max(...group.map((row) => row.toStep)),
    n: Math.max(...group.map((row) => row.n)),
    at: new Date(Math.max(...group.map((row) => row.at.getTime()))),
    metrics: group.map(({ name, min, max, last }) => ({ name, min, max, last })),
  }));
}
