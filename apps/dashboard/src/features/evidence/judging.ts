import type { EvidenceErrorCode } from "@muster/verification";
import type { BundleFacts, JudgeMessage, StageName, Verdicts } from "./judge.ts";

/** What the page knows of a judgement so far. */
export type Judging = {
  readonly stages: Readonly<Record<StageName, Stage>>;
  readonly facts: BundleFacts | undefined;
  readonly verdicts: Verdicts | undefined;
  readonly failure: { readonly code: string; readonly message: string } | undefined;
};

export type Stage = {
  readonly state: "waiting" | "running" | "done" | "skipped" | "failed";
  readonly note: string;
};

/** The stages in order, in words. */
export const stageTitles: Readonly<Record<StageName, string>> = {
  open: "Hashes and signatures",
  stored: "Judged again, with the stored measurement",
  model: "The policy is made ready in this browser",
  measure: "Measured again, by this browser",
  fresh: "Judged again, with the new measurement",
};

export const stageNames = Object.keys(stageTitles) as StageName[];

const waiting: Stage = { state: "waiting", note: "" };

export const judgingBegun: Judging = {
  stages: { open: waiting, stored: waiting, model: waiting, measure: waiting, fresh: waiting },
  facts: undefined,
  verdicts: undefined,
  failure: undefined,
};

/** Folds what the judging thread says into what is shown. */
export function foldJudging(judging: Judging, message: JudgeMessage): Judging {
  switch (message.kind) {
    case "stage": {
      const { stage, state, note } = message;
      return { ...judging, stages: { ...judging.stages, [stage]: { state, note } } };
    }
    case "opened":
      return { ...judging, facts: message.facts };
    case "judged":
      return { ...judging, verdicts: message.verdicts };
    case "failed":
      return {
        ...judging,
        stages: withoutWaiting(judging.stages),
        failure: { code: message.code, message: message.message },
      };
  }
}

/** What still waits when a judgement ends will never be done. */
function withoutWaiting(stages: Judging["stages"]): Judging["stages"] {
  const ended = { ...stages };
  for (const name of stageNames)
    if (ended[name].state === "waiting") ended[name] = { state: "skipped", note: "" };
  return ended;
}

/** Whether nothing more will come. */
export function isSettled({ verdicts, failure }: Judging): boolean {
  return verdicts !== undefined || failure !== undefined;
}

/** Whether everything that was judged here says what is on record. */
export function agrees({ stored, fresh }: Verdicts): boolean {
  return stored.agrees && (fresh?.agrees ?? true);
}

/** What a damaged file's code means for whoever holds it. */
export const damage: Readonly<Record<EvidenceErrorCode, string>> = {
  TRUNCATED: "The file ends early. Download it again.",
  WRONG_MAGIC: "This is some other file. A bundle comes from a case's page, or from `muster verify --save`.",
  WRONG_HEADER: "The header is damaged or contradicts itself. Nothing in the file may be relied on.",
  WRONG_PART:
    "A part is missing, was altered, or does not belong to the others. Nothing in the file may be relied on.",
  WRONG_SIGNATURE: "The file was changed after it was signed. Nothing in it may be relied on.",
};
