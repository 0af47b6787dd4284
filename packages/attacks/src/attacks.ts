import type { Attack } from "./attack.ts";
import { failingSybils } from "./economy/failing-sybils.ts";
import { intermittent } from "./economy/intermittent.ts";
import { sybils } from "./economy/sybils.ts";
import { timeBomb } from "./economy/time-bomb.ts";
import { trustFarming } from "./economy/trust-farming.ts";
import { bestOfN } from "./generation/best-of-n.ts";
import { copiedRollout } from "./generation/copied-rollout.ts";
import { editedToken, padding, truncation } from "./generation/edited-output.ts";
import { constantProof, meanProof, replayedProof } from "./generation/forged-proof.ts";
import { inflatedLogProbabilities } from "./generation/inflated-log-probabilities.ts";
import { injectedAnswer } from "./generation/injected-answer.ts";
import { bf16Weights, fp16Weights, int4Weights, int8Weights } from "./generation/lower-precision.ts";
import { newerPolicy } from "./generation/newer-policy.ts";
import { olderPolicy } from "./generation/older-policy.ts";
import { otherModel } from "./generation/other-model.ts";
import { otherTemperature, otherTopK } from "./generation/other-sampling.ts";
import { perturbedWeights } from "./generation/perturbed-weights.ts";
import { smallDecode } from "./generation/small-decode.ts";
import { tamperedPrompt } from "./generation/tampered-prompt.ts";
import { brokenFile, foreignHeader, parquetBomb, wrongCount, wrongSchema } from "./packs/bytes.ts";
import { extraProof, missingProofs, shortProof, smallModulus, unreducedProof } from "./packs/proofs.ts";
import { hugeValues, notANumber, strangeTokens } from "./packs/values.ts";
import { attemptBurning } from "./protocol/attempt-burning.ts";
import { clockSkew } from "./protocol/clock-skew.ts";
import { ghost } from "./protocol/ghost.ts";
import { ghostArmy } from "./protocol/ghost-army.ts";
import { leaseHoarding } from "./protocol/lease-hoarding.ts";
import { replayedRequests } from "./protocol/replayed-requests.ts";
import { roleGrabbing } from "./protocol/role-grabbing.ts";
import { stolenLease } from "./protocol/stolen-lease.ts";
import { colludingValidator } from "./validators/collusion.ts";
import { echoValidator } from "./validators/echo.ts";
import { hostileValidator } from "./validators/hostile.ts";
import { lazyValidator } from "./validators/lazy.ts";

/** Every attack, by id, in the order they are shown. */
export const attacks: Readonly<Record<string, Attack>> = Object.fromEntries(
  [
    olderPolicy,
    newerPolicy,
    otherModel,
    fp16Weights,
    bf16Weights,
    int8Weights,
    int4Weights,
    perturbedWeights,
    tamperedPrompt,
    injectedAnswer,
    otherTemperature,
    otherTopK,
    bestOfN,
    smallDecode,
    truncation,
    padding,
    editedToken,
    constantProof,
    meanProof,
    replayedProof,
    copiedRollout,
    inflatedLogProbabilities,
    missingProofs,
    shortProof,
    extraProof,
    unreducedProof,
    smallModulus,
    notANumber,
    hugeValues,
    strangeTokens,
    wrongSchema,
    parquetBomb,
    brokenFile,
    foreignHeader,
    wrongCount,
    leaseHoarding,
    ghost,
    ghostArmy,
    attemptBurning,
    stolenLease,
    clockSkew,
    replayedRequests,
    roleGrabbing,
    echoValidator,
    lazyValidator,
    hostileValidator,
    colludingValidator,
    sybils,
    failingSybils,
    trustFarming,
    ...intermittent,
    timeBomb,
  ].map((attack) => [attack.id, attack]),
);
