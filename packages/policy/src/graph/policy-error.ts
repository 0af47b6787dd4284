/**
 * - `NO_WEIGHTS`: nothing was loaded yet.
 * - `WRONG_SIZE`: parameters or optimizer state do not fit the model.
 * - `BAD_CONFIG`: the model configuration is impossible.
 * - `BAD_STATE`: the optimizer state is not one that `export` wrote.
 * - `INVALID_TOKEN`: a token is outside the vocabulary, or a prompt is empty.
 * - `TOO_LONG`: prompt and output do not fit the model's positions.
 * - `TOO_LARGE`: one sequence alone needs more memory than a pass may use.
 * - `EMPTY_BATCH`: nothing to train on.
 * - `NO_REFERENCE`: a KL term without the policy it is measured against.
 * - `NOT_FINITE`: the step produced NaN or infinity; the state before it is kept.
 * - `NO_PROVIDER`: no execution provider could run the model.
 * - `CANCELLED`: the caller's signal was aborted.
 * - `CLOSED`: the policy or trainer was closed, or its thread ended.
 */
export const policyErrorCodes = [
  "NO_WEIGHTS",
  "WRONG_SIZE",
  "BAD_CONFIG",
  "BAD_STATE",
  "INVALID_TOKEN",
  "TOO_LONG",
  "TOO_LARGE",
  "EMPTY_BATCH",
  "NO_REFERENCE",
  "NOT_FINITE",
  "NO_PROVIDER",
  "CANCELLED",
  "CLOSED",
] as const;
export type PolicyErrorCode = (typeof policyErrorCodes)[number];

export class PolicyError extends Error {
  override readonly name = "PolicyError";
  readonly code: PolicyErrorCode;

  constructor(code: PolicyErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}
