/** A version as far as keeping it is concerned; without blobs when its manifest is not here yet. */
export type Candidate = { blobs: ReadonlyMap<string, number> | undefined };

/** The newest version of each run, then the ones before them, as many of each as are kept at most. */
export function byRank<T>(runs: readonly (readonly T[])[], maxVersions: number): T[] {
  return Array.from({ length: maxVersions }, (_, rank) => runs.flatMap((list) => list[rank] ?? [])).flat();
}

/**
 * Which versions fit. A blob that several share counts once. One that does not fit is passed over, and one whose size is not known yet is
 * taken, because its manifest has to be fetched to know.
 * @param ranked most wanted first: see {@link byRank}.
 */
export function chooseKept<T extends Candidate>(ranked: readonly T[], budgetBytes: number): Set<T> {
  const counted = new Set<string>();
  const kept = new Set<T>();
  let left = budgetBytes;
  for (const version of ranked) {
    const more = [...(version.blobs ?? [])].filter(([sha256]) => !counted.has(sha256));
    const bytes = more.reduce((sum, [, size]) => sum + size, 0);
    if (bytes > left) continue;
    kept.add(version);
    left -= bytes;
    for (const [sha256] of more) counted.add(sha256);
  }
  return kept;
}
