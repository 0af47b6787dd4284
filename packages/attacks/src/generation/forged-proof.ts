import type { PackedRollout } from "@muster/protocol";
import { encodeProofF32, PRIME, pointCount, proofLength, windowsOf } from "@muster/toploc";
import type { Attack } from "../attack.ts";
import { type Bench, cheating } from "../cheating/generate.ts";

type Forge = (rollout: PackedRollout, bench: Bench) => Promise<Uint8Array[]>;

/** Honest tokens and log-probabilities under proofs that were not made from them. */
export const [constantProof, meanProof, replayedProof] = [
  attack({
    id: "constant-proof",
    title: "Constant polynomial",
    plain:
      "Proves with a polynomial that has one plausible value everywhere, so that it fits whichever values a validator looks at. It never runs the prefill.",
    saved: 0.9,
    forge: () => async (rollout, bench) =>
      (await windows(rollout, bench)).map(({ k }) => {
        const bytes = new Uint8Array(proofLength(k, "f32"));
        const view = new DataView(bytes.buffer);
        view.setUint16(0, PRIME);
        // the upper half of 2.0: where the largest activations lie
        view.setUint16(2, 0x4000);
        return bytes;
      }),
  }),
  attack({
    id: "mean-proof",
    title: "Interpolated means",
    plain:
      "Remembers what windows look like and proves with a polynomial through their mean values at the places that are usually largest.",
    saved: 0.9,
    forge() {
      // sum and count of the values seen at each flat index
      const seen = new Map<number, { sum: number; n: number }>();
      return async (rollout, bench) => {
        const [measured] = await bench.measure([rollout]);
        for (const { indices, values } of measured?.windows ?? []) {
          indices.forEach((index, i) => {
            const { sum, n } = seen.get(index) ?? { sum: 0, n: 0 };
            seen.set(index, { sum: sum + (values[i] ?? 0), n: n + 1 });
          });
        }
        const usual = [...seen].sort(([, a], [, b]) => b.n - a.n);
        return (await windows(rollout, bench)).map(({ k, size }) => {
          const points = usual.filter(([index]) => index < size).slice(0, k);
          const spare = Array.from({ length: size }, (_, index) => index).filter((index) => !seen.has(index));
          const indices = [...points.map(([index]) => index), ...spare].slice(0, k);
          const values = Float32Array.from(indices, (index) => {
            const { sum, n } = seen.get(index) ?? { sum: 1, n: 1 };
            return sum / n;
          });
          return encodeProofF32(indices, new Uint32Array(values.buffer));
        });
      };
    },
  }),
  attack({
    id: "replayed-proof",
    title: "Replayed proof",
    plain: "Hands its first rollouts' proofs in again, under every later output of the same length.",
    saved: 0.5,
    forge() {
      const kept = new Map<number, Uint8Array[]>();
      return async ({ tokens, proofs }) => {
        const old = kept.get(tokens.length);
        if (old === undefined) kept.set(tokens.length, proofs);
        return old ?? proofs;
      };
    },
  }),
];

/** Points and values of each window. */
async function windows({ tokens }: PackedRollout, bench: Bench): Promise<{ k: number; size: number }[]> {
  const { hiddenSize } = await bench.model();
  return windowsOf(tokens.length).map(({ start, end }) => ({
    k: pointCount(end - start, hiddenSize, bench.assignment.payload.topK),
    size: (end - start) * hiddenSize,
  }));
}

function attack(input: {
  id: string;
  title: string;
  plain: string;
  saved: number;
  forge: () => Forge;
}): Attack {
  const { forge, ...described } = input;
  return {
    ...described,
    kind: "generation",
    expectation: { kind: "detected", within: 4 },
    executors: (ledger) => {
      const proofsOf = forge();
      return {
        GENERATE: cheating(ledger, {
          rollouts: async (honest, bench) => {
            const forged: PackedRollout[] = [];
            for (const rollout of honest) {
              const proofs = await proofsOf(rollout, bench);
              forged.push(proofs === rollout.proofs ? rollout : { ...rollout, proofs });
            }
            return forged;
          },
        }),
      };
    },
  };
}
