/** A setting that is not the same in all specs; one value for each spec, undefined where it is not set. */
export type SpecDifference = { readonly path: string; readonly values: readonly (string | undefined)[] };

/** The settings in which specs differ, by their place: `batch.settledGroups`. */
export function specDiff(specs: readonly unknown[]): SpecDifference[] {
  const flat = specs.map((spec) => new Map(leavesOf(spec, "")));
  const paths = [...new Set(flat.flatMap((leaves) => [...leaves.keys()]))];
  return paths
    .map((path) => ({ path, values: flat.map((leaves) => leaves.get(path)) }))
    .filter(({ values }) => values.some((value) => value !== values[0]));
}

/** Lists are compared as a whole: their places mean nothing by themselves. */
function leavesOf(value: unknown, path: string): [string, string][] {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    return path === "" ? [] : [[path, typeof value === "string" ? value : JSON.stringify(value)]];
  }
  return Object.entries(value).flatMap(([name, inner]) =>
    leavesOf(inner, path === "" ? name : `${path}.${name}`),
  );
}
