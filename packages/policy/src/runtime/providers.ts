/** Execution providers in the order they are tried when nothing else is said. */
export const executionProviders = ["cuda", "webgpu", "dml", "coreml", "cpu"] as const;
export type ExecutionProvider = (typeof executionProviders)[number];
