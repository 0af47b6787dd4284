import { randomHex } from "../../random-hex.ts";
import { type JsonObject, valueAt, withValueAt } from "./spec-schema.ts";

/** What follows from other fields when it is left out; as a number it would stay behind when those change. */
const follow = ["evaluation.versions", "generation.maxOutputTokens"];

/** The demo's spec to begin a run of one's own from: with a seed of its own, and nothing in it that hinders the first change. */
export function startFrom(demo: JsonObject): JsonObject {
  const free = follow.reduce<JsonObject>((spec, path) => withValueAt(spec, path, undefined), demo);
  return withValueAt(free, "seed", randomHex(32));
}

/** Another environment; a name that was only the old one's title becomes the new one's. */
export function withEnvironment(
  spec: JsonObject,
  slug: string,
  environments: readonly { slug: string; title: string }[],
): JsonObject {
  const titleOf = (name: unknown) => environments.find((each) => each.slug === name)?.title;
  const named = valueAt(spec, "name") === titleOf(valueAt(spec, "environment"));
  const title = titleOf(slug);
  const moved = withValueAt(spec, "environment", slug);
  return named && title !== undefined ? withValueAt(moved, "name", title) : moved;
}
