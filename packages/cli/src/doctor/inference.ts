// Which execution providers really run here: each opens a session of its own, and the one that would be chosen generates.
import {
  type ExecutionProvider,
  executionProviders,
  initialParameters,
  type ModelConfig,
  Policy,
} from "@muster/policy";
import type { Finding } from "./finding.ts";

const tiny: ModelConfig = {
  vocabularySize: 16,
  eos: 0,
  hiddenSize: 16,
  layers: 1,
  heads: 2,
  kvHeads: 2,
  intermediateSize: 32,
  maxPositions: 16,
  tiedHead: true,
  qkvBias: false,
  ropeTheta: 10_000,
  rmsNormEps: 1e-5,
};

export async function checkInference(): Promise<Finding[]> {
  const found: { provider: ExecutionProvider; why: string | undefined }[] = [];
  for (const provider of executionProviders) found.push({ provider, why: await refusalOf(provider) });
  const chosen = found.find(({ why }) => why === undefined)?.provider;
  const providers = found.map(({ provider, why }): Finding => {
    if (why === undefined) {
      const use = provider === chosen ? "; it is the one that is used" : "";
      return {
        id: `provider-${provider}`,
        level: "ok",
        what: `onnxruntime runs a model on ${provider}${use}`,
      };
    }
    // Every machine lacks most of them; only the one that always works is missed.
    if (provider !== "cpu") return { id: `provider-${provider}`, level: "none", what: `${provider}: ${why}` };
    return {
      id: "provider-cpu",
      level: "fail",
      what: `onnxruntime runs no model on the cpu: ${why}`,
      why: "Without it nothing can be generated, measured or trained.",
      fix: "npm ci",
    };
  });
  return chosen === undefined ? providers : [...providers, await checkGeneration(chosen)];
}

async function refusalOf(provider: ExecutionProvider): Promise<string | undefined> {
  try {
    await using policy = await Policy.open({ model: tiny, providers: [provider] });
    return policy.provider === provider ? undefined : `${policy.provider} was opened instead`;
  } catch (error) {
    const text = error instanceof Error ? error.message : String(error);
    return /\((.*)\)/s.exec(text)?.[1]?.replace(`${provider}: `, "") ?? text;
  }
}

async function checkGeneration(provider: ExecutionProvider): Promise<Finding> {
  const id = "inference";
  const started = performance.now();
  try {
    await using policy = await Policy.open({ model: tiny, providers: [provider] });
    await policy.load(initialParameters(tiny, [1, 2]));
    const [rollout] = await policy.generate({
      prompts: [Int32Array.of(1, 2, 3)],
      keys: [[1, 2]],
      maxOutputTokens: 4,
      eos: tiny.eos,
      sampling: { temperature: 1, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1 },
      proof: { form: "f32", topK: 16 },
    });
    const milliseconds = Math.round(performance.now() - started);
    return {
      id,
      level: "ok",
      what: `a tiny model generated ${rollout?.tokens.length ?? 0} tokens with proofs in ${milliseconds} ms`,
    };
  } catch (error) {
    return {
      id,
      level: "fail",
      what: `generating failed: ${error instanceof Error ? error.message : String(error)}`,
      why: "A session opens, but the model does not run.",
      fix: "npm run muster -- worker --providers cpu --url <coordinator>",
    };
  }
}
