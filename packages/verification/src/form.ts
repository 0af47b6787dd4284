import {
  environment,
  type PackedRollout,
  type RolloutPack,
  type RunSpec,
  type Tokenizer,
} from "@muster/protocol";
import {
  decodeProof,
  PRIME,
  type Proof,
  ProofError,
  pointCount,
  windowCount,
  windowsOf,
} from "@muster/toploc";
import type { CheckDescription, CheckResult } from "./check.ts";

/** Is this an answer to what was asked? Decided at intake, without a model. */
export const form = {
  id: "form",
  title: "Form",
  plain:
    "The pack answers this task: the prompts are the examples', every token is in the vocabulary, outputs end at EOS or at the length limit, and there is one well-formed proof for every 32 tokens.",
  cannotCatch: "Anything that is well-formed: whether the numbers are true is for the other checks.",
} as const satisfies CheckDescription;

/** What the coordinator expects of a whole pack. */
export type PackTask = {
  /** TypeIDs of the run and of the task. */
  run: string;
  task: string;
  /** SHA-256 of the manifest the task names. */
  manifest: string;
  /** Prompt token ids, one list a rollout of the pack, in order. */
  promptTokens: readonly ArrayLike<number>[];
};

/** The form check of a whole pack, for intake: its header, then every rollout. The first fault found is the note. */
export function checkForm(input: { spec: RunSpec; task: PackTask; pack: RolloutPack }): CheckResult {
  const { spec, task, pack } = input;
  return result(
    headerFault(spec, task, pack) ?? rolloutsFault(spec, task.promptTokens, pack.rollouts, 0),
    pack.rollouts,
  );
}

/** The same rules for one group cut out of a pack. `proofs`: those of each rollout, parsed; complete when the form is sound. */
export function checkGroupForm(
  spec: RunSpec,
  promptTokens: readonly ArrayLike<number>[],
  rollouts: readonly PackedRollout[],
): { result: CheckResult; proofs: Proof[][] } {
  const proofs: Proof[][] = [];
  const { groupSize } = spec.generation;
  const first = rollouts[0]?.index ?? 0;
  const fault =
    rollouts.length !== groupSize
      ? `The group has ${rollouts.length} rollouts; ${groupSize} were asked for.`
      : first % groupSize !== 0
        ? `The first rollout has index ${first}, which does not begin a group of ${groupSize}.`
        : rolloutsFault(spec, promptTokens, rollouts, first, proofs);
  return { result: result(fault, rollouts), proofs };
}

function result(fault: string | undefined, rollouts: readonly PackedRollout[]): CheckResult {
  return {
    id: "form",
    verdict: fault === undefined ? "PASS" : "FAIL",
    observed: { rollouts: rollouts.length, faults: fault === undefined ? 0 : 1 },
    expected: { faults: 0 },
    threshold: { faults: 0 },
    note: fault ?? "",
    plain:
      fault === undefined
        ? "The pack is what the task asked for."
        : `The pack is not what the task asked for. ${fault}`,
  };
}

function headerFault(spec: RunSpec, task: PackTask, { header }: RolloutPack): string | undefined {
  const { form: proofForm, topK } = spec.verification;
  const differs = (what: string, found: unknown, asked: unknown) =>
    found === asked ? undefined : `The pack's ${what} is ${found}; the task's is ${asked}.`;
  return (
    differs("run", header.run, task.run) ??
    differs("task", header.task, task.task) ??
    differs("manifest", header.manifest, task.manifest) ??
    differs("proof form", header.form, proofForm) ??
    differs("top-k", header.topK, topK)
  );
}

function rolloutsFault(
  spec: RunSpec,
  promptTokens: readonly ArrayLike<number>[],
  rollouts: readonly PackedRollout[],
  firstIndex: number,
  parsed?: Proof[][],
): string | undefined {
  if (rollouts.length !== promptTokens.length) {
    return `There are ${rollouts.length} rollouts; ${promptTokens.length} were asked for.`;
  }
  const { tokenizer } = environment(spec.environment);
  for (const [i, rollout] of rollouts.entries()) {
    const fault =
      rollout.index === firstIndex + i
        ? (tokensFault(spec, tokenizer, promptTokens[i]!, rollout) ?? proofsFault(spec, rollout, parsed))
        : `its index is ${rollout.index}; ${firstIndex + i} stands in this place.`;
    if (fault !== undefined) return `Rollout ${firstIndex + i}: ${fault}`;
  }
  return undefined;
}

function tokensFault(
  spec: RunSpec,
  tokenizer: Tokenizer,
  asked: ArrayLike<number>,
  { prompt, tokens, logprobs, finish }: PackedRollout,
): string | undefined {
  const { maxOutputTokens } = spec.generation;
  const { eos, vocabularySize } = tokenizer;
  if (prompt.length !== asked.length || prompt.some((token, i) => token !== asked[i])) {
    return "its prompt is not the example's.";
  }
  if (tokens.length < 1 || tokens.length > maxOutputTokens) {
    return `it has ${tokens.length} output tokens; 1 to ${maxOutputTokens} are allowed.`;
  }
  const stranger = tokens.findIndex((token) => token < 0 || token >= vocabularySize);
  if (stranger >= 0) return `token ${stranger} is ${tokens[stranger]}; the vocabulary has ${vocabularySize}.`;
  const end = tokens.indexOf(eos);
  if (finish === "eos" && end !== tokens.length - 1) {
    return "it says that it ended at EOS, and EOS is not its last token alone.";
  }
  if (finish === "length" && end >= 0)
    return "it says that it ended at the length limit, and it contains EOS.";
  if (finish === "length" && tokens.length !== maxOutputTokens) {
    return `it says that it ended at the length limit of ${maxOutputTokens}, and it has ${tokens.length} tokens.`;
  }
  if (logprobs.length !== tokens.length) {
    return `it has ${logprobs.length} log-probabilities for ${tokens.length} tokens.`;
  }
  const nonsense = logprobs.findIndex((value) => !Number.isFinite(value));
  if (nonsense >= 0) return `the log-probability of token ${nonsense} is ${logprobs[nonsense]}.`;
  return undefined;
}

function proofsFault(
  spec: RunSpec,
  { tokens, proofs }: PackedRollout,
  parsed: Proof[][] | undefined,
): string | undefined {
  const { form: proofForm, topK } = spec.verification;
  const hidden = spec.model.hiddenSize;
  if (proofs.length !== windowCount(tokens.length)) {
    return `it has ${proofs.length} proofs; ${tokens.length} tokens take ${windowCount(tokens.length)}.`;
  }
  const own: Proof[] = [];
  for (const [window, { start, end }] of windowsOf(tokens.length).entries()) {
    const size = (end - start) * hidden;
    const k = pointCount(end - start, hidden, topK);
    try {
      const proof = decodeProof(proofs[window]!, { k, form: proofForm });
      const { modulus } = proof;
      // Indices below 65497 are apart at 65497, and no smaller modulus is the largest. A smaller one would also shrink the room
      // that decoys are drawn from, to nothing at m = 1.
      if (size <= PRIME && modulus !== PRIME) {
        return `proof ${window} has modulus ${modulus}; a window of ${size} values has ${PRIME}.`;
      }
      if (modulus < k) return `proof ${window} has modulus ${modulus}, which cannot keep ${k} indices apart.`;
      own.push(proof);
    } catch (error) {
      if (!(error instanceof ProofError)) throw error;
      return `proof ${window} is malformed. ${error.message}`;
    }
  }
  parsed?.push(own);
  return undefined;
}
