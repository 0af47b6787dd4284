// What is calibrated: a run's spec, and the policy that it is calibrated with.
import { type ModelConfig, Trainer } from "@muster/policy";
import { environment, parseRunSpec, type RunSpec, trainingSpecSchema } from "@muster/protocol";
import type { MusterClient } from "@muster/sdk";
import { checkpointAt, fetchCheckpoint, modelOf, readPolicy } from "../checkpoint.ts";
import { Failure } from "../failure.ts";
import { findRun, readSpec } from "../runs.ts";

/** A model with its weights, flat. `name` is for people. */
export type Subject = { name: string; spec: RunSpec; model: ModelConfig; parameters: Float32Array };

/** A run of the coordinator, or a spec in a file. */
export type SubjectOf = { run: string; client: MusterClient } | { spec: string };

type Options = {
  /** Folder or file of the weights; else the run's newest version, or a version 0 that is made here. */
  checkpoint: string | undefined;
  signal: AbortSignal;
  tell: (text: string) => void;
};

/** @throws Failure `SPEC_INVALID`, `NO_CHECKPOINT`, `WRONG_MODEL` and as the files and the coordinator are to blame. */
export async function subjectOf(of: SubjectOf, options: Options): Promise<Subject> {
  const { checkpoint } = options;
  const { name, spec, find } = "spec" in of ? await ofFile(of.spec, options) : await ofRun(of, options);
  if (checkpoint !== undefined) return { name, spec, ...readPolicy(spec, await checkpointAt(checkpoint)) };
  return { name, spec, ...(await find()) };
}

/** `find`: the weights, when nobody gave any. */
type Found = {
  name: string;
  spec: RunSpec;
  find: () => Promise<{ model: ModelConfig; parameters: Float32Array }>;
};

async function ofFile(file: string, { tell }: Options): Promise<Found> {
  const parsed = parseRunSpec(await readSpec(file));
  if (!parsed.ok) {
    throw new Failure({
      exit: "usage",
      code: "SPEC_INVALID",
      what: `${file} is no run spec.`,
      fix: parsed.issues.map(({ path, message }) => `${path === "" ? "spec" : path}: ${message}`),
    });
  }
  const { spec } = parsed;
  const find = async () => ({ model: modelOf(spec), parameters: await warmedUp(spec, tell) });
  return { name: spec.name, spec, find };
}

async function ofRun(
  { run: id, client }: { run: string; client: MusterClient },
  { signal, tell }: Options,
): Promise<Found> {
  const run = await findRun(client, id, signal);
  const parsed = parseRunSpec(run.revision.spec);
  if (!parsed.ok) throw new Error("The coordinator sent a run spec that is none.");
  const { spec } = parsed;
  return {
    name: `${run.name} (${run.slug})`,
    spec,
    async find() {
      for await (const checkpoint of client.runs.checkpoints({ run: run.id }, { signal })) {
        const { version, manifestHash, state } = checkpoint;
        if (state !== "AVAILABLE" || version !== run.currentVersion) continue;
        tell(`Fetching version ${version} …`);
        return readPolicy(spec, (await fetchCheckpoint(client, manifestHash, signal)).files);
      }
      throw new Failure({
        exit: "failed",
        code: "NO_CHECKPOINT",
        what: `${run.slug} has no policy version yet, and thresholds are calibrated with one.`,
        fix: ["npm run muster -- calibrate --run <id> --checkpoint <folder>"],
      });
    },
  };
}

/** Version 0 as its trainer makes it, for a spec that has no run yet. @throws Failure `NO_CHECKPOINT` when it comes from elsewhere. */
async function warmedUp(spec: RunSpec, tell: (text: string) => void): Promise<Float32Array> {
  const { base } = spec;
  if (base.kind !== "warmup") {
    throw new Failure({
      exit: "usage",
      code: "NO_CHECKPOINT",
      what: `The spec's version 0 comes from a ${base.kind}, which is not here.`,
      fix: ["npm run muster -- calibrate --spec <file> --checkpoint <folder>"],
    });
  }
  const { tokenizer, corpus } = environment(spec.environment);
  const { kind: _, ...warmup } = base;
  const seed = new Uint8Array(Buffer.from(spec.seed, "hex"));
  await using trainer = await Trainer.open({
    model: modelOf(spec),
    training: trainingSpecSchema.parse({}),
    providers: ["cpu"],
  });
  await trainer.init(spec.model.initSeed ?? spec.seed);
  await trainer.warmup({
    ...warmup,
    corpus: (step) =>
      corpus(seed, step * base.batchSize, base.batchSize).map(({ prompt, answer }) => ({
        prompt: Int32Array.from(tokenizer.encode(prompt)),
        tokens: Int32Array.from([...tokenizer.encode(answer), tokenizer.eos]),
      })),
    onProgress: ({ step }) => tell(`Making version 0: step ${step} of ${base.steps} …`),
  });
  return (await trainer.export()).flat;
}
