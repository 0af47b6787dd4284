export type { Attack } from "./attack.ts";
export { attacks } from "./attacks.ts";
export { olderPolicyExecutor } from "./older-policy.ts";
