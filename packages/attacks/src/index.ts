export type { Attack, AttackKind, Expectation, Scene } from "./attack.ts";
export { attacks } from "./attacks.ts";
export { type Ledger, type LedgerGroup, openLedger } from "./cheating/ledger.ts";
export type { Facts } from "./facts.ts";
