import { encodeRolloutPack, type PackedRollout, type RolloutPack } from "@muster/protocol";
import { PRIME } from "@muster/toploc";
import type { Attack, Expectation } from "../attack.ts";
import { cheating } from "../cheating/generate.ts";

// Numbers that are none, or too large, where a check might fall over and leave the group undecided.

const refused: Expectation = { kind: "detected", within: 4 };

export const notANumber = attack({
  id: "not-a-number",
  title: "NaN and Infinity",
  plain: "Claims NaN and Infinity as log-probabilities: comparisons with them are never true.",
  write: (pack) =>
    replaced(
      encodeRolloutPack(
        first(pack, (rollout) => ({ ...rollout, logprobs: rollout.logprobs.map(() => placeholder.float) })),
      ),
      bytesOf(Float32Array.of(placeholder.float)),
      [bytesOf(Float32Array.of(Number.NaN)), bytesOf(Float32Array.of(Number.POSITIVE_INFINITY))],
    ),
});

export const hugeValues = attack({
  id: "huge-values",
  title: "Huge values",
  plain:
    "Finite numbers as large as there are, in log-probabilities and in every coefficient of the proofs: sums overflow, and the polynomial stands for NaN patterns.",
  write: (pack) =>
    encodeRolloutPack({
      ...pack,
      rollouts: pack.rollouts.map((rollout) => ({
        ...rollout,
        logprobs: rollout.logprobs.map(() => -3.4e38),
        proofs: rollout.proofs.map(largest),
      })),
    }),
});

export const strangeTokens = attack({
  id: "strange-tokens",
  title: "Tokens outside the vocabulary",
  plain:
    "Names tokens that the vocabulary does not have, negative ones among them: a model would read beside its embedding.",
  write: (pack) =>
    replaced(
      encodeRolloutPack(
        first(pack, (rollout) => ({ ...rollout, tokens: rollout.tokens.map(() => placeholder.token) })),
      ),
      bytesOf(Int32Array.of(placeholder.token)),
      [bytesOf(Int32Array.of(-1)), bytesOf(Int32Array.of(2 ** 31 - 1))],
    ),
});

function attack(input: {
  id: string;
  title: string;
  plain: string;
  write: (pack: RolloutPack) => Uint8Array;
}): Attack {
  const { write, ...described } = input;
  return {
    ...described,
    kind: "pack",
    saved: 0.1,
    expectation: refused,
    executors: (ledger) => ({ GENERATE: cheating(ledger, { pack: write }) }),
  };
}

function first(pack: RolloutPack, change: (rollout: PackedRollout) => PackedRollout): RolloutPack {
  return { ...pack, rollouts: pack.rollouts.map((rollout, i) => (i === 0 ? change(rollout) : rollout)) };
}

/** The modulus stays; every coefficient becomes the largest there is. */
function largest(proof: Uint8Array): Uint8Array {
  const bytes = proof.slice();
  const view = new DataView(bytes.buffer);
  for (let at = 2; at < bytes.length; at += 2) view.setUint16(at, PRIME - 1);
  return bytes;
}

// Encoders of this software refuse such values: harmless ones are written and found again among the bytes.
const placeholder = { float: Math.fround(-7.123456e29), token: 0x5a6b7c8d };

function bytesOf(values: Float32Array | Int32Array): Buffer {
  return Buffer.from(values.buffer);
}

/** Every occurrence of `from` becomes the next of `to`, in turn. */
function replaced(bytes: Uint8Array, from: Buffer, to: readonly Buffer[]): Uint8Array {
  const changed = Buffer.from(bytes);
  let n = 0;
  for (let at = changed.indexOf(from); at >= 0; at = changed.indexOf(from, at + 4))
    to[n++ % to.length]?.copy(changed, at);
  return changed;
}
