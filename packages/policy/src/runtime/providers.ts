/** Execution providers in the order they are tried when nothing else is said. */
export const executionProviders = ["cuda", "webgpu", "dml", "coreml", "cpu"] as const;

/** `wasm` is onnxruntime-web's, as in a browser: slower than `cpu` and there wherever that is, so it is used only where it is named. */
export type ExecutionProvider = (typeof executionProviders)[number] | "wasm";
