/** The whole id in a text, when it is nothing else: `run_01k…`. */
export function readId(text: string): string | undefined {
  const trimmed = text.trim();
  return /^[a-z]{2,12}_[0-9a-hjkmnp-tv-z]{26}$/.test(trimmed) ? trimmed : undefined;
}

/**
 * Where the page of a thing is, by its type.
 * @param path of the page one is on: a part of a run is looked up in that run
 * @returns undefined for what has no page
 */
export function placeOf(type: string, id: string, path: string): { href: string; word: string } | undefined {
  if (type === "Run") return { href: `/runs/${id}`, word: "run" };
  const run = /^\/runs\/(run_\w+)/.exec(path)?.[1];
  if (run === undefined) return undefined;
  if (type === "Rollout") return { href: `/runs/${run}/rollouts/${id}`, word: "rollout" };
  if (type === "Case") return { href: `/runs/${run}/cases/${id}`, word: "case" };
  return undefined;
}
