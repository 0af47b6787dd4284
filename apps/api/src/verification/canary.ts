import { createHmac, hkdfSync } from "node:crypto";
import { drawsFrom, type MeasurementPack, type PackedRollout, type RunSpec } from "@muster/protocol";
import { compareMeasurements } from "@muster/verification";

// A canary is a group whose measurement is known, given to a validator that has not seen it. It looks like any other: the same rollouts
// in another order, so that its bytes are new; a bad one with a few tokens changed, which every honest measurement shows.

export type CanaryPurpose = "CANARY_GOOD" | "CANARY_BAD";

/** Share of a validator's tasks that are canaries, half of them bad, once it has had its first two. */
export const canaryRate = 0.04;

/** Both kinds come within this many of a validator's first tasks. */
export const firstTasks = 20;

/** Rollouts of a bad canary that are changed, one token each. */
const mostEdits = 3;

/**
 * Where the next canary of a validator falls, fixed by a secret: the first two within its first 20 tasks, one of each kind; every later task
 * is one with probability `canaryRate`, whatever came before. Who answers without measuring survives n tasks with probability
 * (1 − rate)ⁿ.
 * @param key see `canaryKey`.
 * @param validator what tells this validator in this run from every other.
 * @param issued canaries it has had.
 * @returns the number of the task, from 1, and its kind.
 */
export function nextCanary(
  key: Uint8Array,
  validator: string,
  issued: number,
): { at: number; purpose: CanaryPurpose } {
  const draw = (k: number) => {
    const bytes = createHmac("sha256", key).update(`${validator}:${k}`).digest();
    return { uniform: (bytes.readUInt32LE(0) + 0.5) / 2 ** 32, bad: (bytes[4] ?? 0) % 2 === 1 };
  };
  const half = firstTasks / 2;
  const firstIsBad = draw(0).bad;
  if (issued < 2) {
    const at = issued * half + 1 + Math.floor(draw(issued).uniform * half);
    return { at, purpose: (issued === 0) === firstIsBad ? "CANARY_BAD" : "CANARY_GOOD" };
  }
  let at = firstTasks;
  for (let k = 2; k <= issued; k++)
    at += 1 + Math.floor(Math.log(draw(k).uniform) / Math.log(1 - canaryRate));
  return { at, purpose: draw(issued).bad ? "CANARY_BAD" : "CANARY_GOOD" };
}

/** The key of the canaries' times. Not an epoch's: those are published, and then everyone could count along. */
export function canaryKey(secret: string, runId: string): Uint8Array {
  return new Uint8Array(hkdfSync("sha256", secret, runId, "muster/canaries/v1", 32));
}

/** How a canary differs from its group. */
export type CanaryShape = {
  /** Place in the group of each of the canary's rollouts. */
  readonly order: readonly number[];
  /** Changed tokens, by the canary's order; none in a good one. */
  readonly edits: readonly { readonly rollout: number; readonly position: number }[];
};

/**
 * Makes a canary of a group.
 * @param seed secret, 32 bytes.
 * @param known the group's measurement.
 * @returns null when nothing of the group can be changed: every output is just its end.
 */
export function shapeCanary(
  seed: Uint8Array,
  purpose: CanaryPurpose,
  group: { rollouts: readonly PackedRollout[]; known: MeasurementPack; vocabularySize: number; eos: number },
): { shape: CanaryShape; rollouts: PackedRollout[] } | null {
  const draws = drawsFrom(seed, 0);
  const order = [...group.rollouts.keys()];
  // Never as they were: the bytes would be those of the group's own BLIND pack.
  while (order.every((place, i) => place === i)) draws.shuffle(order);
  const rollouts = order.flatMap((place) => group.rollouts[place] ?? []);
  if (purpose === "CANARY_GOOD") return { shape: { order, edits: [] }, rollouts };

  const spoken = [...new Set(group.rollouts.flatMap(({ tokens }) => [...tokens]))];
  const edits: { rollout: number; position: number }[] = [];
  const candidates = [...rollouts.keys()];
  draws.shuffle(candidates);
  for (const i of candidates) {
    const { tokens } = rollouts[i]!;
    // The end stays the end: an output that stops anywhere else than at its end or its longest would look made up.
    const places = [...tokens.keys()].filter((position) => tokens[position] !== group.eos);
    if (edits.length === mostEdits || places.length === 0) continue;
    const position = draws.pick(places);
    const drawn = group.known.rollouts[order[i]!]?.argmax[position];
    const other = (token: number) => token !== group.eos && token !== tokens[position] && token !== drawn;
    const likely = spoken.filter(other);
    const choices =
      likely.length > 0 ? likely : Array.from({ length: group.vocabularySize }, (_, v) => v).filter(other);
    if (choices.length === 0) continue;
    const changed = tokens.slice();
    changed[position] = draws.pick(choices);
    rollouts[i] = { ...rollouts[i]!, tokens: changed };
    edits.push({ rollout: i, position });
  }
  return edits.length === 0 ? null : { shape: { order, edits }, rollouts };
}

/**
 * Whether a measurement of a canary is what an honest one must be: everything before a change equals what is known, and the
 * changed tokens are seen not to be the seed's. One of them is enough, for another token may be as good within the margin.
 */
export function judgeCanary(
  spec: RunSpec,
  { order, edits }: CanaryShape,
  known: MeasurementPack,
  measurement: MeasurementPack,
): { agrees: boolean; note: string } {
  const expected = { ...known, rollouts: order.flatMap((place) => known.rollouts[place] ?? []) };
  const upTo = expected.rollouts.map(
    ({ argmax }, i) => edits.find(({ rollout }) => rollout === i)?.position ?? argmax.length,
  );
  const { agrees, note } = compareMeasurements(expected, measurement, { spec, upTo });
  if (!agrees) return { agrees, note };
  const { margin } = spec.verification.thresholds;
  const seen = edits.filter(
    ({ rollout, position }) => (measurement.rollouts[rollout]?.margins[position] ?? 0) > margin,
  );
  if (edits.length > 0 && seen.length === 0)
    return { agrees: false, note: `None of ${edits.length} changed tokens was seen not to be the seed's.` };
  return { agrees: true, note: "" };
}
