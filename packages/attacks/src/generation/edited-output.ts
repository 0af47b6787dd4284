import type { PackedRollout } from "@muster/protocol";
import type { Attack } from "../attack.ts";
import { type Bench, cheating } from "../cheating/generate.ts";
import { withTokens } from "../cheating/tokens.ts";

type Edit = (tokens: Int32Array, at: { eos: number; longest: number; vocabularySize: number }) => Int32Array;

/** Outputs that were drawn honestly and then edited. */
export const [truncation, padding, editedToken] = [
  attack({
    id: "truncation",
    title: "Truncation",
    plain: "Stops after two tokens and puts an EOS there: most of the decoding is saved.",
    saved: 0.6,
    proofs: "prefill",
    edit: (tokens, { eos }) => (tokens.length <= 3 ? tokens : Int32Array.of(...tokens.subarray(0, 2), eos)),
  }),
  attack({
    id: "padding",
    title: "Padding",
    plain:
      "Fills every output up to the length limit with its own first token: credits are paid by the token.",
    saved: 0.5,
    proofs: "prefill",
    edit: (tokens, { eos, longest }) => {
      const text = tokens.filter((token) => token !== eos);
      if (tokens.length === longest && text.length === longest) return tokens;
      return Int32Array.from({ length: longest }, (_, i) => text[i] ?? text[0] ?? (eos === 0 ? 1 : 0));
    },
  }),
  attack({
    id: "edited-token",
    title: "One edited token",
    plain:
      "Changes one token in the middle of each output and leaves everything else, the proof included, as the policy made it.",
    saved: 0,
    proofs: "keep",
    edit: (tokens, { eos, vocabularySize }) => {
      const at = Math.floor((tokens.length - 1) / 2);
      if (tokens.length < 2) return tokens;
      const other = (token: number): number => (token + 1) % vocabularySize;
      const next = other(tokens[at] ?? 0);
      return tokens.with(at, next === eos ? other(next) : next);
    },
  }),
];

function attack(input: {
  id: string;
  title: string;
  plain: string;
  saved: number;
  proofs: "prefill" | "keep";
  edit: Edit;
}): Attack {
  const { edit, proofs, ...described } = input;
  const rollouts = async (honest: readonly PackedRollout[], bench: Bench) => {
    const { env } = await bench.problem();
    const { eos, vocabularySize } = env.tokenizer;
    const longest = bench.assignment.payload.maxOutputTokens;
    const edited = honest.map((rollout) =>
      withTokens(rollout, edit(rollout.tokens, { eos, longest, vocabularySize }), eos),
    );
    const proven = proofs === "keep" ? edited : await bench.prefilled(edited);
    return honest.map((rollout, i) => (edited[i] === rollout ? rollout : (proven[i] ?? rollout)));
  };
  return {
    ...described,
    kind: "generation",
    expectation: { kind: "detected", within: 4 },
    executors: (ledger) => ({ GENERATE: cheating(ledger, { rollouts }) }),
  };
}
