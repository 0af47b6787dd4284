import { checkpointFiles, measureRollouts, openContinuations, readCheckpoint } from "@muster/policy/graph";
import type { Evidence } from "@muster/verification";
import * as ort from "onnxruntime-web/wasm";
import { type JudgeMessage, judgeBundle, type MeasureEvidence } from "./judge.ts";

// The thread that judges a bundle. Its own policy of content (next.config.ts) lets it run WebAssembly of this origin and nothing else.

ort.env.wasm.wasmPaths = {
  wasm: new URL("onnxruntime-web/ort-wasm-simd-threaded.wasm", import.meta.url).href,
};
// Threads share memory, which a page may only do when it is isolated from all others.
ort.env.wasm.numThreads = 1;

const measure: MeasureEvidence = async ({ manifest, checkpoint, rollouts, task, spec }, told) => {
  const { model, parameters } = readCheckpoint(checkpointFiles(manifest, checkpoint));
  const { run, release } = await openContinuations(ort, model, { executionProviders: ["wasm"] });
  try {
    told.modelReady(`${parameters.length.toLocaleString("en-US")} parameters`);
    const { form, topK } = spec.verification;
    return await measureRollouts(run, {
      model,
      parameters,
      form,
      topK,
      sampling: spec.generation.sampling,
      rollouts: rollouts.map(({ prompt, tokens }, i) => ({ prompt, tokens, key: keyAt(task, i) })),
      onProgress: told.measured,
    });
  } finally {
    await release();
  }
};

function keyAt({ keys }: Evidence["task"], index: number) {
  const key = keys[index];
  if (key === undefined) throw new Error("a task has one key a rollout");
  return key;
}

addEventListener("message", ({ data }: MessageEvent<ArrayBuffer>) => {
  void judgeBundle(new Uint8Array(data), {
    measure,
    tell: (message: JudgeMessage) => postMessage(message),
    now: () => performance.now(),
  });
});
