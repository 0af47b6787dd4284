import { fromTypeId } from "@muster/protocol";
import { builder } from "../builder.ts";
import { CreateRunResult, Run } from "../runs/schema.ts";
import { recordCalibration } from "./calibration.ts";

const Calibration = builder.prismaObject("Calibration", {
  description: "Thresholds derived from honest runs and known attacks, with what was measured.",
  // Only ever reached through its run, which decides.
  authScopes: { signedIn: true },
  fields: (t) => ({
    revision: t.exposeInt("revision", { description: "The revision of the spec that put them in force." }),
    thresholds: t.expose("thresholds", { type: "JSON" }),
    evidence: t.expose("evidence", { type: "JSON" }),
    createdAt: t.expose("createdAt", { type: "DateTime" }),
  }),
});

builder.prismaObjectFields(Run, (t) => ({
  calibrations: t.relation("calibrations", {
    type: Calibration,
    description: "Newest first, at most 20.",
    authScopes: { can: "run:read" },
    query: { orderBy: { createdAt: "desc" }, take: 20 },
  }),
}));

const RecordCalibrationInput = builder.inputType("RecordCalibrationInput", {
  fields: (t) => ({
    run: t.id(),
    thresholds: t.field({ type: "JSON", description: "Those that change, by their names in the run spec." }),
    evidence: t.field({ type: "JSON", description: "What they were derived from." }),
  }),
});

builder.mutationFields((t) => ({
  recordCalibration: t.field({
    type: CreateRunResult,
    description:
      "Puts calibrated thresholds in force, as a new revision of the spec, and keeps their evidence.",
    authScopes: { can: "run:control" },
    args: { input: t.arg({ type: RecordCalibrationInput }) },
    resolve: (_root, { input }, ctx) =>
      recordCalibration(ctx, {
        runId: fromTypeId(input.run, "run"),
        thresholds: input.thresholds,
        evidence: input.evidence,
      }),
  }),
}));
