import { z } from "zod";
import { baseSpecSchema, modelSpecSchema, samplingSchema, trainingSpecSchema } from "./run-spec.ts";

// What a lease hands to a node, by task kind. Prompts travel as token ids: nothing is re-tokenised.

const sha256 = z.string().regex(/^[0-9a-f]{64}$/);
const seed = sha256;
const prompts = z.array(z.array(z.number().int().nonnegative()).min(1)).min(1);

/** Warm up, load or receive the base and publish version 0. */
export const basePayloadSchema = z.strictObject({
  kind: z.literal("BASE"),
  environment: z.string(),
  model: modelSpecSchema,
  seed,
  base: baseSpecSchema,
  /** For `base.kind` "checkpoint": manifest of the checkpoint to start from. */
  parent: sha256.nullable(),
});

/** One prompt a group, `groupSize` rollouts each; rollout index = group × groupSize + rollout. */
export const generatePayloadSchema = z.strictObject({
  kind: z.literal("GENERATE"),
  seed,
  manifest: sha256,
  prompts,
  groupSize: z.number().int().positive(),
  maxOutputTokens: z.number().int().positive(),
  sampling: samplingSchema,
  form: z.enum(["f32", "bf16"]),
  topK: z.number().int().positive(),
});

/** Everything a blind validator may know stands in the BLIND pack. */
export const verifyPayloadSchema = z.strictObject({
  kind: z.literal("VERIFY"),
  manifest: sha256,
  blind: sha256,
});

/** One optimizer step on a sealed batch: from `manifest` and `state` to `version`. */
export const trainPayloadSchema = z.strictObject({
  kind: z.literal("TRAIN"),
  step: z.number().int().positive(),
  totalSteps: z.number().int().positive(),
  version: z.number().int().positive(),
  manifest: sha256,
  state: sha256,
  batch: sha256,
  /** Manifest of version 0, which the KL term is measured against; null without one. */
  reference: sha256.nullable(),
  training: trainingSpecSchema,
  /** At which the rollouts were sampled: log-probabilities are those of logits / temperature. */
  temperature: z.number().positive(),
});

/** One completion for each held-out prompt, seeded by `eval:<suite>` so that versions are paired. */
export const evaluatePayloadSchema = z.strictObject({
  kind: z.literal("EVALUATE"),
  seed,
  suite: z.string(),
  manifest: sha256,
  prompts,
  maxOutputTokens: z.number().int().positive(),
  sampling: samplingSchema,
});

export const taskPayloadSchema = z.discriminatedUnion("kind", [
  basePayloadSchema,
  generatePayloadSchema,
  verifyPayloadSchema,
  trainPayloadSchema,
  evaluatePayloadSchema,
]);

export type TaskPayload = z.infer<typeof taskPayloadSchema>;
export type BasePayload = z.infer<typeof basePayloadSchema>;
export type GeneratePayload = z.infer<typeof generatePayloadSchema>;
export type VerifyPayload = z.infer<typeof verifyPayloadSchema>;
export type TrainPayload = z.infer<typeof trainPayloadSchema>;
export type EvaluatePayload = z.infer<typeof evaluatePayloadSchema>;
