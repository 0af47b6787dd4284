import {
  type BlindPack,
  decodeBlindPack,
  decodeMeasurementPack,
  encodeMeasurementPack,
  type MeasuredRollout,
} from "@muster/protocol";
import { type Executor, executors, type Outcome } from "@muster/worker";
import type { Ledger } from "./ledger.ts";

/** Under which each measurement stands in the ledger, answered `honest` or `lie`. */
export const measurement = "measurement";

/** VERIFY with the measurements changed. What is returned as it was given is honest work. */
export function mismeasuring(
  ledger: Ledger,
  change: (honest: MeasuredRollout[], blind: BlindPack) => MeasuredRollout[],
): Executor<"VERIFY"> {
  const { batch, execute } = executors.VERIFY;
  return {
    batch,
    async execute(ctx, assignments) {
      const outcomes = await execute(ctx, assignments);
      const changed: Outcome[] = [];
      for (const [i, outcome] of outcomes.entries()) {
        const assignment = assignments[i];
        if (outcome.kind !== "pack" || assignment === undefined) {
          changed.push(outcome);
          continue;
        }
        const { header, rollouts } = decodeMeasurementPack(outcome.bytes);
        const { payload, signal } = assignment;
        const blind = decodeBlindPack(await ctx.client.blobs.get({ sha256: payload.blind, signal }));
        const said = change(rollouts, blind);
        ledger.answer(measurement, said === rollouts ? "honest" : "lie");
        const bytes = encodeMeasurementPack({ header, rollouts: said });
        changed.push(said === rollouts ? outcome : { ...outcome, bytes: new Uint8Array(bytes) });
      }
      return changed;
    },
  };
}

/** The rollout as if every token had been the seed's choice. */
export function nodded(measured: MeasuredRollout, tokens: Int32Array): MeasuredRollout {
  return { ...measured, argmax: tokens, margins: new Float32Array(tokens.length) };
}
