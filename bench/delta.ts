import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import {
  encodeCheckpoint,
  encodeSafetensors,
  type ModelConfig,
  Policy,
  parameterLayout,
  Trainer,
  type TrainRollout,
} from "@muster/policy";
import {
  demoRunSpec,
  environment,
  exampleSeed,
  groupAdvantages,
  hasSignal,
  type RunSpec,
  rolloutKey,
} from "@muster/protocol";
import { encodeDelta, patched } from "@muster/shardcast";
import { toBf16 } from "@muster/toploc";
import { type Bench, cpuSeconds } from "./bench.ts";

/** Consecutive versions of the built-in policy: what one GRPO step changes. Medians of the steps. */
export type StepDeltas = {
  learningRate: number;
  dtype: "F32" | "BF16";
  steps: number;
  /** Of the elements, how many changed. */
  changed: number;
  /** Bytes of the delta over those of the weights; above 0.9 none is published. */
  deltaOverFull: number;
};

/** Deltas beside the entropy of what changed, beside rsync and between the steps of a real run. */
export const delta: Bench = {
  async run(say) {
    const { steps, ...figures } = await measureDelta(say);
    const ratios = steps.map(({ dtype, learningRate, changed, deltaOverFull }) => [
      `${dtype.toLowerCase()}At${learningRate}`,
      { changed: Number(changed.toPrecision(4)), deltaOverFull: Number(deltaOverFull.toPrecision(4)) },
    ]);
    return { ...figures, ...Object.fromEntries(ratios) };
  },
};

/** @returns `rsyncOverDelta` is null when rsync is not installed. */
export async function measureDelta(
  say: (line: string) => void = () => undefined,
): Promise<{ deltaOverEntropyBound: number; rsyncOverDelta: number | null; steps: StepDeltas[] }> {
  const sparse = await measureSparse(say);
  return { ...sparse, steps: await measureSteps(say) };
}

const ELEMENTS = 32 * 2 ** 20;
const SHARE = 0.01;

/** Weights in bf16, each of which is replaced with probability 1 % by any other 16 bits. */
async function measureSparse(say: (line: string) => void) {
  const draw = draws(1);
  const bell = () => ((draw() + draw() + draw() + draw()) / 2 ** 32 - 2) * 0.04;
  const old = toBf16(Float32Array.from({ length: ELEMENTS }, bell));
  const next = old.slice();
  let changed = 0;
  for (let i = 0; i < ELEMENTS; i++) {
    if (draw() >= SHARE * 2 ** 32) continue;
    next[i] = old[i]! ^ (1 + (draw() % 0xffff));
    changed++;
  }
  const [before, after] = [old, next].map((words) => new Uint8Array(words.buffer)) as [
    Uint8Array,
    Uint8Array,
  ];
  const p = changed / ELEMENTS;
  // Where the changes are, and 16 bits for each.
  const bound = (ELEMENTS * (-p * Math.log2(p) - (1 - p) * Math.log2(1 - p) + 16 * p)) / 8;

  encodeDelta(before, after, 2); // compiles the loops
  let bytes = new Uint8Array();
  const encoding = await cpuSeconds(async () => {
    bytes = encodeDelta(before, after, 2);
  });
  let exact = false;
  const applying = await cpuSeconds(async () => {
    exact = (await hashAfter(before, bytes)) === hashOf(after);
  });
  if (!exact) throw new Error("The delta does not make the weights it was made from.");
  const mb = before.length / 1e6;
  const rate = (seconds: number) => `${(mb / seconds).toFixed(0)} MB a CPU-second`;
  say(`${ELEMENTS} bf16 weights (${mb.toFixed(0)} MB), ${(100 * p).toFixed(2)} % replaced at random:`);
  say(`  entropy ${bound.toFixed(0)} B · delta ${bytes.length} B · full ${before.length} B`);
  say(`  made at ${rate(encoding)}, applied and both results hashed at ${rate(applying)}`);
  const deltaOverEntropyBound = round(bytes.length / bound);

  const rsync = await bytesOfRsync(before, after);
  if (rsync === undefined) {
    say("  rsync is NOT INSTALLED, so nothing was compared with it: apt-get install rsync");
    return { deltaOverEntropyBound, rsyncOverDelta: null };
  }
  say(`  rsync sends ${rsync.plain} B, with --compress ${rsync.compressed} B`);
  return {
    deltaOverEntropyBound,
    rsyncOverDelta: round(Math.min(rsync.plain, rsync.compressed) / bytes.length),
  };
}

/** "Total bytes sent" of `rsync --no-whole-file --stats`, which lets it look for what the receiver has. */
async function bytesOfRsync(before: Uint8Array, after: Uint8Array) {
  const run = promisify(execFile);
  const installed = await run("rsync", ["--version"]).then(
    () => true,
    () => false,
  );
  if (!installed) return undefined;
  const folder = await mkdtemp(join(tmpdir(), "muster-rsync-"));
  const [sent, held] = [join(folder, "next"), join(folder, "old")];
  const bytes = async (...options: string[]) => {
    await writeFile(held, before);
    const args = ["--no-whole-file", "--ignore-times", "--stats", ...options, sent, held];
    const { stdout } = await run("rsync", args, { env: { ...process.env, LC_ALL: "C" } });
    const found = /Total bytes sent: ([\d,]+)/.exec(stdout)?.[1];
    if (found === undefined) throw new Error(`rsync did not say what it sent:\n${stdout}`);
    return Number(found.replaceAll(",", ""));
  };
  try {
    await writeFile(sent, after);
    return { plain: await bytes(), compressed: await bytes("--compress") };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

const STEPS = 8;
const GROUPS = 64;
/** What reinforcement learning of large models uses. */
const SMALL_RATE = 1e-6;

/** The demo: its warm-up, then GRPO steps at its own learning rate and, from the same weights, at a large model's. */
async function measureSteps(say: (line: string) => void): Promise<StepDeltas[]> {
  const spec = demoRunSpec();
  if (spec.base.kind !== "warmup") throw new Error("The demo's base is a warm-up.");
  const env = environment(spec.environment);
  const { tokenizer } = env;
  const model = { ...spec.model, vocabularySize: tokenizer.vocabularySize, eos: tokenizer.eos };
  const corpusSeed = new Uint8Array(Buffer.from(spec.seed, "hex"));
  const { batchSize } = spec.base;
  await using policy = await Policy.open({ model, providers: ["cpu"] });
  await using warm = await Trainer.open({ model, training: spec.training, providers: ["cpu"] });
  await warm.init(spec.seed);
  await warm.warmup({
    ...spec.base,
    corpus: (step) =>
      env.corpus(corpusSeed, step * batchSize, batchSize).map(({ prompt, answer }) => ({
        prompt: Int32Array.from(tokenizer.encode(prompt)),
        tokens: Int32Array.from([...tokenizer.encode(answer), tokenizer.eos]),
      })),
  });
  const { flat, state } = await warm.export();

  const found: StepDeltas[] = [];
  for (const learningRate of [spec.training.learningRate, SMALL_RATE]) {
    const training = { ...spec.training, learningRate };
    await using trainer = await Trainer.open({ model, training, providers: ["cpu"] });
    await trainer.restore(flat, state);
    let current = flat.slice();
    const measured: Record<StepDeltas["dtype"], { changed: number; ratio: number }[]> = { F32: [], BF16: [] };
    for (let step = 1; step <= STEPS; step++) {
      await policy.load(current);
      await trainer.step({ rollouts: await batchOf(policy, spec, step), step, totalSteps: 100 });
      const next = (await trainer.export()).flat.slice();
      for (const dtype of ["F32", "BF16"] as const)
        measured[dtype].push(await compare(model, dtype, current, next));
      current = next;
    }
    for (const dtype of ["F32", "BF16"] as const) {
      const changed = median(measured[dtype].map((one) => one.changed));
      const deltaOverFull = median(measured[dtype].map((one) => one.ratio));
      found.push({ learningRate, dtype, steps: STEPS, changed, deltaOverFull });
      say(
        `GRPO steps of the built-in policy, learning rate ${learningRate}, ${dtype}: ${(100 * changed).toFixed(1)} % changed, ` +
          `delta ${(100 * deltaOverFull).toFixed(1)} % of the weights (${measured[dtype].map(({ ratio }) => ratio.toFixed(3)).join(" ")})`,
      );
    }
  }
  return found;
}

async function compare(
  model: ModelConfig,
  dtype: StepDeltas["dtype"],
  old: Float32Array,
  next: Float32Array,
) {
  const [before, after] = [fileOf(model, dtype, old), fileOf(model, dtype, next)];
  const words = (flat: Float32Array) => (dtype === "F32" ? new Uint32Array(flat.buffer) : toBf16(flat));
  const [a, b] = [words(old), words(next)];
  let changed = 0;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) changed++;
  const bytes = encodeDelta(before, after, dtype === "F32" ? 4 : 2);
  if ((await hashAfter(before, bytes)) !== hashOf(after))
    throw new Error("The delta does not make the weights it was made from.");
  return { changed: changed / a.length, ratio: bytes.length / after.length };
}

/** `model.safetensors` as a checkpoint has it; in BF16, every weight rounded. */
function fileOf(model: ModelConfig, dtype: StepDeltas["dtype"], flat: Float32Array): Uint8Array {
  if (dtype === "F32")
    return encodeCheckpoint(model, flat, environment(demoRunSpec().environment).tokenizer).model;
  const tensors = parameterLayout(model).tensors.map(({ name, shape, offset, size }) => ({
    name,
    dtype,
    shape,
    data: new Uint8Array(toBf16(flat.slice(offset, offset + size)).buffer),
  }));
  return encodeSafetensors(tensors, { format: "pt" }).bytes;
}

/** One step's groups with signal, generated and scored as the demo's are. */
async function batchOf(policy: Policy, spec: RunSpec, step: number): Promise<TrainRollout[]> {
  const env = environment(spec.environment);
  const { groupSize, sampling } = spec.generation;
  const task = `task_${step}`;
  const examples = Array.from({ length: GROUPS }, (_, group) =>
    env.example(exampleSeed(spec.seed, task, group), "train"),
  );
  const prompts = examples.flatMap(({ prompt }) => {
    const tokens = Int32Array.from(env.tokenizer.encode(prompt));
    return Array.from({ length: groupSize }, () => tokens);
  });
  const generated = await policy.generate({
    prompts,
    keys: prompts.map((_, i) => rolloutKey(spec.seed, task, i)),
    sampling,
    maxOutputTokens: env.maxOutputTokens,
    eos: env.tokenizer.eos,
  });
  return examples.flatMap((example, group) => {
    const own = generated.slice(group * groupSize, (group + 1) * groupSize);
    const rewards = own.map(
      ({ tokens, finish }) =>
        env.score(example, env.tokenizer.decode(tokens), { finishReason: finish }).reward,
    );
    if (!hasSignal(rewards)) return [];
    const advantages = groupAdvantages(rewards, spec.training.advantageEpsilon);
    return own.map(({ tokens, logprobs }, i) => ({
      prompt: prompts[group * groupSize]!,
      tokens,
      logprobs,
      advantage: advantages[i]!,
    }));
  });
}

async function hashAfter(old: Uint8Array, bytes: Uint8Array): Promise<string> {
  const hash = createHash("sha256");
  const source = (async function* () {
    yield bytes;
  })();
  for await (const block of patched({ old, delta: source })) hash.update(block);
  return hash.digest("hex");
}

function hashOf(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}

/** Whole numbers below 2³², the same in every run: xorshift32 (Marsaglia 2003). */
function draws(seed: number): () => number {
  let state = seed;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return state >>> 0;
  };
}

function median(values: number[]): number {
  return values.toSorted((a, b) => a - b)[values.length >> 1]!;
}

const round = (value: number) => Number(value.toPrecision(4));
