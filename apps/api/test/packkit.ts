import { type ModelConfig, Policy } from "@muster/policy";
import {
  decodeBlindPack,
  encodeMeasurementPack,
  environment,
  generatePayloadSchema,
  type MeasurementPack,
  type RolloutPack,
  rolloutKey,
  toTypeId,
  verifyPayloadSchema,
} from "@muster/protocol";
import type { Lease } from "../src/tasks/claim.ts";
import { modelOf, type TestRun, weightsOf } from "./runkit.ts";
import type { TestNode, TestServer } from "./testkit.ts";

// Packs as honest nodes make them: a decoder of a few hundred weights on onnxruntime, the very one that `publishBase` publishes.

export type Packs = AsyncDisposable & {
  /** What a worker draws for a GENERATE task. */
  rollouts(run: TestRun, lease: Lease): Promise<RolloutPack>;
  /** What a validator measures for a VERIFY task, its blind pack fetched as any validator does. */
  measurement(server: TestServer, validator: TestNode, lease: Lease): Promise<Uint8Array>;
};

/** Opens the policy of a run at version 0; it serves every run of the same model. */
export async function openPacks(run: Pick<TestRun, "spec">): Promise<Packs> {
  const model: ModelConfig = modelOf(run.spec);
  const policy = await Policy.open({ model, providers: ["cpu"] });
  await policy.load(weightsOf(model, 0));
  return {
    async rollouts({ typeId }, lease) {
      const payload = generatePayloadSchema.parse(lease.payload);
      const { form, topK, groupSize, manifest } = payload;
      const task = toTypeId("task", lease.taskId);
      const prompts = payload.prompts.flatMap((prompt) =>
        Array.from({ length: groupSize }, () => Int32Array.from(prompt)),
      );
      const drawn = await policy.generate({
        prompts,
        keys: prompts.map((_, index) => rolloutKey(payload.seed, task, index)),
        sampling: payload.sampling,
        maxOutputTokens: payload.maxOutputTokens,
        eos: model.eos,
        proof: { form, topK },
      });
      return {
        header: { kind: "rollouts", version: 1, run: typeId, task, manifest, form, topK },
        rollouts: drawn.map((rollout, index) => ({
          index,
          prompt: prompts[index] ?? new Int32Array(),
          ...rollout,
        })),
      };
    },
    async measurement(server, validator, lease) {
      const { blind: sha256, manifest } = verifyPayloadSchema.parse(lease.payload);
      const response = await fetch(`${server.url}/blobs/${sha256}`, { headers: validator.headers });
      if (!response.ok) throw new Error(`the blind pack was answered with ${response.status}`);
      const blind = decodeBlindPack(new Uint8Array(await response.arrayBuffer()));
      const { sampling, form, topK } = blind.header;
      const rollouts = await policy.measure({ rollouts: blind.rollouts, sampling, form, topK });
      const header: MeasurementPack["header"] = {
        kind: "measurement",
        version: 1,
        manifest,
        form,
        topK,
        blind: sha256,
      };
      return encodeMeasurementPack({ header, rollouts });
    },
    [Symbol.asyncDispose]: () => policy.close(),
  };
}

/** The right answer to a prompt of the run's environment, as tokens with the end. */
export function rightAnswer(run: TestRun, exampleSeed: Uint8Array): Int32Array {
  const { example, answer, tokenizer } = environment(run.spec.environment);
  return Int32Array.from([...tokenizer.encode(answer(example(exampleSeed, "train"))), tokenizer.eos]);
}
