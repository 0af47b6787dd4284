import { z } from "zod";
import { canonicalJson, hashHex } from "./canonical.ts";
import type { Environment } from "./environment.ts";
import { environments } from "./environments.ts";
import { demoSeed } from "./seeds.ts";
import { specIssueInWords } from "./spec-issues.ts";

const count = (max: number) => z.int().min(1).max(max);
const fraction = z.number().min(0).max(1);
const hex64 = z.string().regex(/^[0-9a-f]{64}$/, "64 lower-case hexadecimal digits");

/** How tokens are drawn. */
export const samplingSchema = z
  .strictObject({
    temperature: z.number().min(0).max(10).default(1).describe("Logits are divided by it; 0 is greedy."),
    topK: z.int().min(0).max(1_000_000).default(0).describe("Keep the k likeliest tokens; 0 keeps all."),
    topP: z
      .number()
      .gt(0)
      .max(1)
      .default(1)
      .describe("Keep the likeliest tokens up to this mass; 1 keeps all."),
    minP: fraction
      .default(0)
      .describe("Keep tokens at least this fraction as likely as the likeliest; 0 keeps all."),
    repetitionPenalty: z
      .number()
      .gt(0)
      .max(10)
      .default(1)
      .describe("Makes tokens that already occurred less likely; 1 is none."),
  })
  .describe("How tokens are drawn. Part of every task, and checked.");

/** The decoder of a run. Left out, `kvHeads` and `intermediateSize` follow from the other sizes. */
export const modelSpecSchema = z
  .strictObject({
    hiddenSize: count(16_384).default(64).describe("Width of the decoder."),
    layers: count(256).default(2).describe("Number of decoder blocks."),
    heads: count(256).default(4).describe("Attention heads; divides the hidden size."),
    kvHeads: count(256)
      .optional()
      .describe("Key and value heads; divides the heads. As many as heads when left out."),
    intermediateSize: count(65_536)
      .optional()
      .describe(
        "Width of the feed-forward layer. About 8/3 of the hidden size, in steps of 32, when left out.",
      ),
    maxPositions: count(131_072).default(32).describe("Longest prompt and output together, in tokens."),
    tiedHead: z.boolean().default(true).describe("Whether the output layer is the embedding."),
    qkvBias: z.boolean().default(false).describe("Whether query, key and value have a bias, as in Qwen 2."),
    ropeTheta: z.number().gt(1).max(1e9).default(10_000).describe("Base of the rotary positions."),
    rmsNormEps: z
      .number()
      .gt(0)
      .max(0.1)
      .default(1e-5)
      .describe("Added to the variance in every normalisation."),
    initSeed: z
      .int()
      .min(0)
      .max(0xffffffff)
      .optional()
      .describe("Seed of the first weights; from the run seed when left out."),
  })
  .transform((model) => ({
    ...model,
    kvHeads: model.kvHeads ?? model.heads,
    intermediateSize:
      model.intermediateSize ?? Math.max(32, Math.round((model.hiddenSize * 8) / 3 / 32) * 32),
  }))
  .describe("The decoder: Llama's architecture, Qwen 2's with qkvBias.");

/** Where version 0 of a run comes from. */
export const baseSpecSchema = z
  .discriminatedUnion("kind", [
    z
      .strictObject({
        kind: z.literal("warmup"),
        steps: count(1_000_000).default(300).describe("Steps of imitation before reinforcement."),
        batchSize: count(65_536).default(192).describe("Pairs a step."),
        learningRate: z.number().gt(0).max(1).default(2e-3).describe("Peak learning rate of the warm-up."),
        warmupSteps: z.int().min(0).default(50).describe("Steps until the learning rate is at its peak."),
        weightDecay: fraction.default(0.01).describe("On matrices only."),
      })
      .describe("Train version 0 here, on the environment's warm-up corpus."),
    z
      .strictObject({
        kind: z.literal("checkpoint"),
        run: z.string().min(1).max(100).describe("Id of the run."),
        version: z.int().min(0).describe("Its policy version."),
      })
      .describe("Start from a version of another run."),
    z
      .strictObject({
        kind: z.literal("upload"),
        sha256: hex64.describe("SHA-256 of the uploaded safetensors file."),
      })
      .describe("Start from uploaded weights."),
  ])
  .describe("Where version 0 comes from.");

/** The GRPO step of a run. */
export const trainingSpecSchema = z
  .strictObject({
    clipLow: fraction.default(0.2).describe("How far the probability ratio may fall below 1."),
    clipHigh: z.number().min(0).max(10).default(0.2).describe("How far it may rise above 1."),
    delta: z
      .number()
      .gt(1)
      .max(1000)
      .default(4)
      .describe("Upper bound of the ratio where the advantage is negative."),
    klCoefficient: z.number().min(0).max(10).default(0).describe("Weight of the divergence from the base."),
    entropyCoefficient: z.number().min(0).max(10).default(0).describe("Weight of the entropy bonus."),
    learningRate: z.number().gt(0).max(1).default(1e-3).describe("Peak learning rate."),
    warmupSteps: z.int().min(0).default(10).describe("Steps until the learning rate is at its peak."),
    schedule: z
      .enum(["linear", "constant", "cosine"])
      .default("linear")
      .describe("How the learning rate falls over the run."),
    finalFraction: fraction.default(0.1).describe("What is left of the learning rate at the end."),
    beta1: z.number().min(0).lt(1).default(0.9).describe("AdamW: decay of the first moment."),
    beta2: z.number().min(0).lt(1).default(0.95).describe("AdamW: decay of the second moment."),
    epsilon: z.number().gt(0).max(1).default(1e-8).describe("AdamW: added to the denominator."),
    weightDecay: fraction.default(0.01).describe("AdamW: on matrices only."),
    maxGradientNorm: z
      .number()
      .gt(0)
      .max(1e6)
      .default(1)
      .describe("Longer gradients are scaled down to this norm."),
    advantageEpsilon: z
      .number()
      .gt(0)
      .max(1)
      .default(1e-4)
      .describe("Added to the deviation of a group's rewards."),
    permuteAdvantages: z
      .boolean()
      .default(false)
      .describe("Control experiment: advantages on the wrong rollouts."),
  })
  .describe("The GRPO step.");

const thresholdsSchema = z
  .strictObject({
    outliers: z
      .int()
      .min(0)
      .default(4)
      .describe("Activations: most points of a window that may differ by 2^23 ulp or more."),
    meanUlp: z
      .number()
      .min(0)
      .default(64)
      .describe("Activations: largest mean distance of the other points, in ulp."),
    decoys: z
      .int()
      .min(0)
      .max(128)
      .default(48)
      .describe("Decoys: most secret residues at which a proof may fit."),
    margin: z.number().min(0).default(1e-3).describe("Sampling: largest margin of a token."),
    logProbability: z
      .number()
      .min(0)
      .default(1e-3)
      .describe("Log-probabilities: largest difference of claim and measurement."),
    exponentMismatches: z
      .int()
      .min(0)
      .default(38)
      .describe("Activations in bf16: most points whose exponent differs."),
    mantissaMean: z
      .number()
      .min(0)
      .default(10)
      .describe("Activations in bf16: largest mean difference of mantissas."),
    mantissaMedian: z
      .number()
      .min(0)
      .default(8)
      .describe("Activations in bf16: largest median difference of mantissas."),
  })
  .describe("One calibrated set for the run: what honest machines never exceed.");

/**
 * The schema of a run spec's input: everything has a default but `name` and `environment`, unknown keys are refused. Use
 * `parseRunSpec` to get a `RunSpec`; use this one to build a form (`z.toJSONSchema(runSpecSchema, { io: "input" })`).
 */
export const runSpecSchema = z
  .strictObject({
    protocol: z.literal(1).default(1).describe("Version of the protocol."),
    name: z.string().trim().min(1).max(100).describe("What people call the run."),
    environment: z.string().min(1).max(100).describe("The problems and their reward: owner/name@version."),
    seed: hex64.optional().describe("Seed of everything public and random in the run. Drawn when left out."),
    model: modelSpecSchema.prefault({}),
    base: baseSpecSchema.prefault({ kind: "warmup" }),
    generation: z
      .strictObject({
        groupSize: z
          .int()
          .min(2)
          .max(256)
          .default(8)
          .describe("Rollouts of one example; at least 2, or there is nothing to compare."),
        groupsPerTask: count(1024).default(16).describe("Examples in one task."),
        maxOutputTokens: count(131_072)
          .optional()
          .describe("Longest output; the environment's own limit when left out."),
        sampling: samplingSchema.prefault({}),
      })
      .prefault({})
      .describe("What one GENERATE task asks for."),
    batch: z
      .strictObject({
        signalGroups: count(65_536).default(64).describe("A batch seals at this many groups with signal …"),
        settledGroups: count(65_536)
          .default(64)
          .describe("… or at this many settled groups, whichever comes first."),
        minSignalGroups: count(65_536).default(4).describe("With fewer groups with signal the run ends."),
        asyncLevel: count(64)
          .default(2)
          .describe("How many versions a rollout may be behind when its batch seals."),
      })
      .prefault({})
      .describe("When a training step has enough to learn from."),
    training: trainingSpecSchema.prefault({}),
    limits: z
      .strictObject({
        steps: count(1_000_000).default(100).describe("The run is complete after this many training steps."),
        credits: z
          .int()
          .min(0)
          .optional()
          .describe(
            "The run ends when it has spent this many micro-credits; left out, its budget is its only limit.",
          ),
        deadline: z.iso.datetime().optional().describe("The run ends then at the latest (UTC)."),
      })
      .prefault({})
      .describe("When the run ends."),
    verification: z
      .strictObject({
        form: z.enum(["f32", "bf16"]).default("f32").describe("Form of the activation proofs."),
        topK: z
          .int()
          .min(16)
          .max(128)
          .default(128)
          .describe("Values of each window that a proof commits to."),
        thresholds: thresholdsSchema.prefault({}),
        audit: z
          .strictObject({
            adversaryShare: z
              .number()
              .min(0)
              .lt(1)
              .default(0.2)
              .describe("Assumed share of dishonest nodes."),
            epsilon: z.number().gt(0).max(1).default(1e-2).describe("Accepted share of poisoned groups."),
            floor: z
              .number()
              .gt(0)
              .max(1)
              .default(0.1)
              .describe("Audit rate of a trusted node; everyone else is audited in full."),
          })
          .prefault({})
          .describe("How much of a node's work is measured."),
      })
      .prefault({})
      .describe("How work is checked."),
    evaluation: z
      .strictObject({
        suite: z
          .string()
          .regex(/^[a-z0-9][a-z0-9-]{0,63}$/)
          .default("held-out")
          .describe("Name of the examples; the same name, the same examples."),
        examples: count(100_000).default(1024).describe("How many held-out examples."),
        temperature: z.number().min(0).max(10).default(1).describe("Temperature of evaluation; 0 is greedy."),
        versions: z
          .array(z.int().min(0).max(1_000_000))
          .max(1000)
          .optional()
          .describe(
            "Versions to evaluate; 0 is the base. The base and version 50 (or the last) when left out.",
          ),
        every: z
          .int()
          .min(0)
          .max(1_000_000)
          .default(0)
          .describe("Also every so many versions; 0 is only those named."),
      })
      .prefault({})
      .describe("What is measured on examples that training never sees."),
    prices: z
      .strictObject({
        generatedToken: price(100).describe("A generated token of an accepted group."),
        measuredToken: price(20).describe("A token measured by a validator."),
        trainedToken: price(50).describe("A token trained on."),
        evaluatedToken: price(100).describe("A token of an evaluation."),
        relayedMiB: price(10).describe("A MiB relayed."),
      })
      .prefault({})
      .describe("What work earns, in micro-credits."),
    disputeWindowSeconds: z
      .int()
      .min(0)
      .max(2_592_000)
      .default(86_400)
      .describe("How long a final verdict may be disputed."),
    open: z.boolean().default(true).describe("Whether any node may generate for the run."),
    leaseSeconds: z
      .int()
      .min(5)
      .max(86_400)
      .default(60)
      .describe("A lease that is not renewed ends after this long."),
  })
  .superRefine((input, context) => {
    for (const { path, message } of contradictions(completed(input, input.seed ?? ""))) {
      context.addIssue({ code: "custom", path: [...path], message });
    }
  });

/** What a person writes: everything but `name` and `environment` may be left out. */
export type RunSpecInput = z.input<typeof runSpecSchema>;

/** A complete run spec: the whole truth about a run, frozen as a revision and hashed. */
export type RunSpec = ReturnType<typeof completed>;

/** One thing wrong with a run spec, at `path` (`model.heads`; empty for the whole). */
export type RunSpecIssue = { path: string; message: string };

/** Checks a run spec and fills in every default, a random seed among them. Never throws. */
export function parseRunSpec(
  input: unknown,
): { ok: true; spec: RunSpec } | { ok: false; issues: RunSpecIssue[] } {
  const parsed = runSpecSchema.safeParse(input, { error: specIssueInWords });
  if (parsed.success) return { ok: true, spec: completed(parsed.data, parsed.data.seed ?? randomSeed()) };
  const issues = parsed.error.issues.map(({ path, message }) => ({
    path: path.map(String).join("."),
    message,
  }));
  return { ok: false, issues };
}

/** SHA-256 of the canonical JSON of a spec: what a revision is known by. */
export function specHash(spec: RunSpec): string {
  return hashHex(canonicalJson(spec));
}

/**
 * The run of the demo: `muster/sort-digits@1`, every other number a default.
 * @param seed number of the demo seed, 1 by default.
 * @param steps 100 by default.
 */
export function demoRunSpec(options: { seed?: number; steps?: number; name?: string } = {}): RunSpec {
  const input: RunSpecInput = {
    name: options.name ?? "Sort digits",
    environment: "muster/sort-digits@1",
    seed: demoSeed(options.seed ?? 1),
    limits: { steps: options.steps ?? 100 },
    disputeWindowSeconds: 0,
  };
  const parsed = parseRunSpec(input);
  if (!parsed.ok)
    throw new RangeError(parsed.issues.map(({ path, message }) => `${path}: ${message}`).join("\n"));
  return parsed.spec;
}

function price(microCredits: number) {
  return z.int().min(0).max(1_000_000_000).default(microCredits);
}

function randomSeed(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(32));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** The defaults that follow from other fields. */
function completed(input: z.output<typeof runSpecSchema>, seed: string) {
  const { generation, evaluation, limits } = input;
  return {
    ...input,
    seed,
    generation: {
      ...generation,
      maxOutputTokens: generation.maxOutputTokens ?? known(input.environment)?.maxOutputTokens ?? 1,
    },
    evaluation: { ...evaluation, versions: evaluation.versions ?? [0, Math.min(50, limits.steps)] },
  };
}

function known(slug: string): Environment | undefined {
  return Object.hasOwn(environments, slug) ? environments[slug] : undefined;
}

/** Fields that are fine each alone and make no sense together. */
function* contradictions(spec: RunSpec): Generator<{ path: readonly string[]; message: string }> {
  const { model, generation, batch, base, training, limits, evaluation } = spec;
  const env = known(spec.environment);
  if (env === undefined) {
    const slugs = Object.keys(environments).join(", ");
    yield {
      path: ["environment"],
      message: `There is no environment "${spec.environment}"; this version has ${slugs}.`,
    };
  }
  if (model.hiddenSize % model.heads !== 0) {
    yield {
      path: ["model", "heads"],
      message: `${model.heads} heads do not divide the hidden size ${model.hiddenSize}.`,
    };
  } else if ((model.hiddenSize / model.heads) % 2 !== 0) {
    yield { path: ["model", "heads"], message: "Rotary positions need an even hidden size per head." };
  }
  if (model.heads % model.kvHeads !== 0) {
    yield {
      path: ["model", "kvHeads"],
      message: `${model.kvHeads} key/value heads do not divide the ${model.heads} heads.`,
    };
  }
  if (env !== undefined) {
    const longest = env.maxPromptTokens + generation.maxOutputTokens;
    if (longest > model.maxPositions) {
      yield {
        path: ["model", "maxPositions"],
        message: `Prompt (${env.maxPromptTokens}) and output (${generation.maxOutputTokens}) need ${longest} positions; the model has ${model.maxPositions}.`,
      };
    }
    if (generation.sampling.topK > env.tokenizer.vocabularySize) {
      yield {
        path: ["generation", "sampling", "topK"],
        message: `The vocabulary has only ${env.tokenizer.vocabularySize} tokens; 0 keeps all.`,
      };
    }
  }
  if (generation.sampling.temperature === 0) {
    yield {
      path: ["generation", "sampling", "temperature"],
      message:
        "Greedy rollouts of one example are all the same, so no group would have signal; use a temperature above 0.",
    };
  }
  if (generation.groupSize * generation.groupsPerTask > maxRolloutsPerTask) {
    yield {
      path: ["generation", "groupsPerTask"],
      message: `A task holds at most ${maxRolloutsPerTask} rollouts (group size × groups).`,
    };
  }
  if (batch.minSignalGroups > batch.signalGroups) {
    yield { path: ["batch", "minSignalGroups"], message: `More than signalGroups (${batch.signalGroups}).` };
  }
  if (batch.signalGroups > batch.settledGroups) {
    yield {
      path: ["batch", "signalGroups"],
      message: `More than settledGroups (${batch.settledGroups}), so the batch would always seal before it is reached.`,
    };
  }
  if (base.kind === "warmup" && base.warmupSteps > base.steps) {
    yield { path: ["base", "warmupSteps"], message: `More than the warm-up's ${base.steps} steps.` };
  }
  if (training.beta1 > training.beta2) {
    yield {
      path: ["training", "beta1"],
      message: `Above beta2 (${training.beta2}), which makes AdamW diverge.`,
    };
  }
  for (const [i, version] of evaluation.versions.entries()) {
    if (version > limits.steps) {
      yield {
        path: ["evaluation", "versions", String(i)],
        message: `The run ends at version ${limits.steps}.`,
      };
    }
  }
}

/** One task is one pack: more rollouts than this make leases and retries expensive. */
const maxRolloutsPerTask = 8192;
