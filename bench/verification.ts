import { initialParameters, Policy } from "@muster/policy";
import {
  demoRunSpec,
  environment,
  exampleSeed,
  type MeasuredRollout,
  type PackedRollout,
  type PhiloxKey,
  philox4x32,
  rolloutKey,
  toTypeId,
} from "@muster/protocol";
import {
  buildProof,
  buildProofF32,
  compareBf16,
  compareF32,
  countDecoys,
  decodeProof,
  fromBf16,
  selectTopK,
  toBf16,
} from "@muster/toploc";
import { verifyGroup } from "@muster/verification";
import { type Bench, cpuSeconds, medianMs } from "./bench.ts";

/** What proofs cost beside reading the window once, and what verification costs beside generation. */
export const verification: Bench = {
  async run(say) {
    const proofs = measureProofs(say);
    const verifyCpuOverGenerateCpu = await measureShare(say);
    return { ...proofs, verifyCpuOverGenerateCpu };
  },
};

const ROWS = 32;
const HIDDEN = 5120;
const TOP_K = 128;
const ROUNDS = 200;

function measureProofs(say: (line: string) => void) {
  // Several windows in turn, together larger than the second-level cache: a real one has just been written by the model.
  const floats = Array.from({ length: 8 }, (_, seed) => gaussian(ROWS * HIDDEN, seed));
  const words = floats.map((window) => new Uint32Array(window.buffer));
  const patterns = floats.map(toBf16);
  const draw = (i: number) => philox4x32([i, 0, 0, 0], [1, 2])[0];
  const at = <T>(list: readonly T[], round: number): T => list[round % list.length]!;

  const f32Proofs = floats.map((window) => buildProofF32(window, { topK: TOP_K }));
  const bf16Proofs = patterns.map((window) => buildProof(window, { topK: TOP_K }));

  const limitF32 = medianMs(ROUNDS, (round) => scanF32(at(words, round)));
  const limitBf16 = medianMs(ROUNDS, (round) => scanBf16(at(patterns, round)));
  const buildF32 = medianMs(ROUNDS, (round) => buildProofF32(at(floats, round), { topK: TOP_K }));
  const buildBf16 = medianMs(ROUNDS, (round) => buildProof(at(patterns, round), { topK: TOP_K }));
  // All a validator and a coordinator do for one window together: top-k, parse, compare, decoys.
  const verifyF32 = medianMs(ROUNDS, (round) => {
    const window = at(floats, round);
    const indices = selectTopK(window, TOP_K);
    const values = Float32Array.from(indices, (index) => window[index]!);
    const proof = decodeProof(at(f32Proofs, round), { k: TOP_K, form: "f32" });
    return [compareF32(proof, indices, values), countDecoys(proof, indices, values, draw)];
  });
  const verifyBf16 = medianMs(ROUNDS, (round) => {
    const window = at(patterns, round);
    const indices = selectTopK(window, TOP_K);
    const values = fromBf16(Uint16Array.from(indices, (index) => window[index]!));
    const proof = decodeProof(at(bf16Proofs, round), { k: TOP_K, form: "bf16" });
    return [compareBf16(proof, indices, values), countDecoys(proof, indices, values, draw)];
  });

  say(`One window of ${ROWS} × ${HIDDEN}, top-${TOP_K}, one core, decoys included; median of ${ROUNDS}.`);
  say(`Limit: one pass over the window's magnitudes that keeps nothing but their maximum.`);
  const row = (form: string, limit: number, build: number, verify: number) =>
    say(
      `  ${form}  limit ${limit.toFixed(3)} ms   build ${build.toFixed(3)} ms (${(build / limit).toFixed(1)}×)   verify ${verify.toFixed(3)} ms (${(verify / limit).toFixed(1)}×)`,
    );
  row("f32 ", limitF32, buildF32, verifyF32);
  row("bf16", limitBf16, buildBf16, verifyBf16);
  return {
    buildMsPerWindow5120: rounded(Math.max(buildF32, buildBf16)),
    verifyMsPerWindow5120: rounded(Math.max(verifyF32, verifyBf16)),
    buildOverScan: rounded(Math.max(buildF32 / limitF32, buildBf16 / limitBf16)),
    verifyOverScan: rounded(Math.max(verifyF32 / limitF32, verifyBf16 / limitBf16)),
  };
}

// Four maxima, so that one comparison does not wait for the last: the fastest pass found in JavaScript. One function an array type,
// because a shared one loads polymorphically, and slowly.
function scanF32(bits: Uint32Array): number {
  let [a, b, c, d] = [0, 0, 0, 0];
  for (let i = 0; i + 4 <= bits.length; i += 4) {
    a = Math.max(a, bits[i]! & 0x7fffffff);
    b = Math.max(b, bits[i + 1]! & 0x7fffffff);
    c = Math.max(c, bits[i + 2]! & 0x7fffffff);
    d = Math.max(d, bits[i + 3]! & 0x7fffffff);
  }
  return Math.max(a, b, c, d);
}

function scanBf16(bits: Uint16Array): number {
  let [a, b, c, d] = [0, 0, 0, 0];
  for (let i = 0; i + 4 <= bits.length; i += 4) {
    a = Math.max(a, bits[i]! & 0x7fff);
    b = Math.max(b, bits[i + 1]! & 0x7fff);
    c = Math.max(c, bits[i + 2]! & 0x7fff);
    d = Math.max(d, bits[i + 3]! & 0x7fff);
  }
  return Math.max(a, b, c, d);
}

const GROUPS = 16;
const MANIFEST = "0".repeat(64);

/** One task of the demo generated, measured and checked: CPU-seconds of the last two over those of the first. */
async function measureShare(say: (line: string) => void): Promise<number> {
  const spec = demoRunSpec();
  const { form, topK, audit } = spec.verification;
  const { groupSize, maxOutputTokens, sampling } = spec.generation;
  const { tokenizer, ...env } = environment(spec.environment);
  const model = { ...spec.model, vocabularySize: tokenizer.vocabularySize, eos: tokenizer.eos };
  const taskId = toTypeId("task", "01920000-0000-7000-8000-000000000001");
  const examples = Array.from({ length: GROUPS }, (_, group) =>
    env.example(exampleSeed(spec.seed, taskId, group), "train"),
  );
  const prompts = examples.flatMap(({ prompt }) =>
    Array.from({ length: groupSize }, () => Int32Array.from(tokenizer.encode(prompt))),
  );
  const keys = prompts.map((_, index): PhiloxKey => rolloutKey(spec.seed, taskId, index));

  await using policy = await Policy.open({ model, providers: ["cpu"] });
  // Untrained weights: the work for a token is the same whatever its value.
  await policy.load(initialParameters(model, [1, 2]));

  let rollouts: PackedRollout[] = [];
  let measured: MeasuredRollout[] = [];
  let rejected = 0;
  const generate = async () => {
    const generated = await policy.generate({
      prompts,
      keys,
      sampling,
      maxOutputTokens,
      eos: tokenizer.eos,
      proof: { form, topK },
    });
    rollouts = generated.map((rollout, index) => ({ ...rollout, index, prompt: prompts[index]! }));
  };
  const measure = async () => {
    const pairs = rollouts.map(({ prompt, tokens }, i) => ({ prompt, tokens, key: keys[i]! }));
    measured = await policy.measure({ rollouts: pairs, sampling, form, topK });
  };
  const check = async () => {
    for (let group = 0; group < GROUPS; group++) {
      const range = [group * groupSize, (group + 1) * groupSize] as const;
      const { verdict } = verifyGroup({
        spec,
        task: {
          policyVersion: 0,
          manifest: MANIFEST,
          promptTokens: prompts.slice(...range),
          keys: keys.slice(...range),
          example: examples[group]!,
        },
        rollouts: rollouts.slice(...range),
        measurement: {
          header: { kind: "measurement", version: 1, manifest: MANIFEST, form, topK, blind: MANIFEST },
          rollouts: measured.slice(...range),
        },
        decoyKey: [group, 7],
      });
      if (verdict !== "ACCEPTED") rejected++;
    }
  };

  const seconds = { generate: 0, measure: 0, check: 0 };
  const rounds = 12;
  for (let round = 0; round < 2 * rounds; round++) {
    const warm = round >= rounds ? 1 : 0;
    seconds.generate += warm * (await cpuSeconds(generate));
    seconds.measure += warm * (await cpuSeconds(measure));
    seconds.check += warm * (await cpuSeconds(check));
  }
  if (rejected > 0)
    throw new Error(`${rejected} honest groups were not accepted, so these times mean nothing.`);

  const ratio = (seconds.measure + seconds.check) / seconds.generate;
  const tokens = rollouts.reduce((sum, rollout) => sum + rollout.tokens.length, 0);
  const ms = (value: number) => `${((1000 * value) / rounds).toFixed(1)} ms`;
  say(
    `The demo's model, one task of ${rollouts.length} rollouts and ${tokens} tokens, CPU time, mean of ${rounds}.`,
  );
  say(
    `  generate ${ms(seconds.generate)}   measure ${ms(seconds.measure)}   check ${ms(seconds.check)}   verification / generation ${ratio.toFixed(3)}`,
  );
  say(
    `  at the audit rate of a trusted node (${audit.floor}): ${(100 * ratio * audit.floor).toFixed(1)} % of generation`,
  );
  return rounded(ratio);
}

function gaussian(length: number, seed: number): Float32Array {
  const values = new Float32Array(length);
  for (let i = 0; i < length; i += 2) {
    const [a, b] = philox4x32([i, 0, 0, 0], [seed, 0]);
    const radius = Math.sqrt(-2 * Math.log((a + 0.5) / 2 ** 32));
    values[i] = radius * Math.cos((2 * Math.PI * b) / 2 ** 32);
    if (i + 1 < length) values[i + 1] = radius * Math.sin((2 * Math.PI * b) / 2 ** 32);
  }
  return values;
}

function rounded(value: number): number {
  return Number(value.toPrecision(4));
}
