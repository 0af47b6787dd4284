import type { Attack } from "./attack.ts";
import { olderPolicy } from "./older-policy.ts";

/** Every attack, by id. */
export const attacks: Readonly<Record<string, Attack>> = Object.fromEntries(
  [olderPolicy].map((attack) => [attack.id, attack]),
);
