import type { MeasurementPack } from "@muster/protocol";
import {
  type CheckResult,
  checks,
  type Evidence,
  type EvidenceHeader,
  judgeEvidence,
  openEvidence,
} from "@muster/verification";

// What happens to a bundle on the verify page, apart from threads and drawing.

/** What a judgement takes, in this order. */
export type StageName = "open" | "stored" | "model" | "measure" | "fresh";

/** What the page hears while a bundle is judged, and at the end. */
export type JudgeMessage =
  | { kind: "stage"; stage: StageName; state: "running" | "done" | "skipped" | "failed"; note: string }
  /** The seal is whole: what the bundle says of itself. */
  | { kind: "opened"; facts: BundleFacts }
  | { kind: "judged"; verdicts: Verdicts }
  /** Nothing in the file may be relied on. */
  | { kind: "failed"; code: string; message: string };

/** What a bundle holds, every hash and signature in it being right. */
export type BundleFacts = {
  header: EvidenceHeader;
  /** SHA-256 of the file. */
  sha256: string;
  size: number;
  runName: string;
  form: string;
  rollouts: number;
  tokens: number;
  /** Whether the checkpoint is in it, so that it can be measured again. */
  measurable: boolean;
};

/** A check's outcome with the words for what it is. */
export type DescribedCheck = CheckResult & { title: string; does: string; cannotCatch: string };

/** One judgement beside the record. */
export type Verdict = {
  verdict: "ACCEPTED" | "REJECTED" | "INCONCLUSIVE";
  checks: DescribedCheck[];
  agrees: boolean;
  differences: string[];
};

export type Verdicts = {
  /** Judged with the measurement that the bundle holds. */
  stored: Verdict;
  /** Judged with a measurement made here; null when none was made. */
  fresh: Verdict | null;
  /** Why none was made. */
  unmeasured: string | null;
};

/** Measures a bundle's group with its own checkpoint. `told` hears what is being done and how many rollouts are measured. */
export type MeasureEvidence = (
  evidence: Evidence & { checkpoint: readonly Uint8Array[] },
  told: { modelReady(note: string): void; measured(rollouts: number): void },
) => Promise<MeasurementPack["rollouts"]>;

/** Opens, judges, measures and judges again. Never rejects: what goes wrong is a message. */
export async function judgeBundle(
  bytes: Uint8Array,
  tools: { measure: MeasureEvidence; tell(message: JudgeMessage): void; now(): number },
): Promise<void> {
  const { measure, tell, now } = tools;
  let stage: StageName = "open";
  let began = now();
  const told = (state: "running" | "done" | "skipped" | "failed", note: string) =>
    tell({ kind: "stage", stage, state, note });
  const begin = (name: StageName, note = "") => {
    stage = name;
    began = now();
    told("running", note);
  };
  const done = (note: string) => told("done", `${note}, ${duration(now() - began)}`);

  let evidence: Evidence;
  begin("open");
  try {
    evidence = openEvidence(bytes);
  } catch (error) {
    const failure = failureOf(error);
    told("failed", failure.code);
    tell({ kind: "failed", ...failure });
    return;
  }
  const facts = factsOf(evidence, bytes.length);
  tell({ kind: "opened", facts });
  done(`${facts.header.parts.length} parts, ${facts.header.validator === null ? 3 : 4} signatures`);

  begin("stored");
  const stored = verdictOf(judgeEvidence(evidence));
  if (evidence.measurement === null) told("skipped", "nobody had measured it");
  else done(stored.verdict.toLowerCase());

  const { checkpoint } = evidence;
  if (checkpoint === null) {
    for (const name of remeasuring) {
      stage = name;
      told("skipped", "no checkpoint in the bundle");
    }
    return tell({ kind: "judged", verdicts: { stored, fresh: null, unmeasured: noCheckpoint } });
  }
  try {
    begin("model");
    const rollouts = await measure(
      { ...evidence, checkpoint },
      {
        modelReady(note) {
          done(note);
          begin("measure", `0 of ${facts.rollouts} rollouts`);
        },
        measured: (count) => told("running", `${count} of ${facts.rollouts} rollouts`),
      },
    );
    done(`${facts.rollouts} rollouts, ${facts.tokens} tokens`);
    begin("fresh");
    const fresh = verdictOf(judgeEvidence(evidence, measurementOf(evidence, rollouts)));
    done(fresh.verdict.toLowerCase());
    tell({ kind: "judged", verdicts: { stored, fresh, unmeasured: null } });
  } catch (error) {
    const { code, message } = failureOf(error);
    told("failed", code);
    tell({ kind: "judged", verdicts: { stored, fresh: null, unmeasured: message } });
  }
}

const remeasuring = ["model", "measure", "fresh"] as const;

const noCheckpoint =
  "The policy's checkpoint is not in the bundle: it is larger than 64 MiB, or was deleted by retention.";

function verdictOf({ decision, agrees, differences }: ReturnType<typeof judgeEvidence>): Verdict {
  const described = decision.checks.map((check) => {
    const { title, plain, cannotCatch } = checks[check.id];
    return { ...check, title, does: plain, cannotCatch };
  });
  return { verdict: decision.verdict, checks: described, agrees, differences };
}

function factsOf({ header, sha256, spec, rollouts, checkpoint }: Evidence, size: number): BundleFacts {
  return {
    header,
    sha256,
    size,
    runName: spec.name,
    form: spec.verification.form,
    rollouts: rollouts.length,
    tokens: rollouts.reduce((sum, { tokens }) => sum + tokens.length, 0),
    measurable: checkpoint !== null,
  };
}

function measurementOf({ spec, task }: Evidence, rollouts: MeasurementPack["rollouts"]): MeasurementPack {
  const { form, topK } = spec.verification;
  // A group that nobody measured has no BLIND pack to answer; then the field is compared with nothing.
  const blind = task.blind ?? "0".repeat(64);
  return {
    header: { kind: "measurement", version: 1, manifest: task.manifest, form, topK, blind },
    rollouts,
  };
}

function failureOf(error: unknown): { code: string; message: string } {
  const coded = error instanceof Error && "code" in error && typeof error.code === "string";
  return {
    code: coded ? String(error.code) : "FAILED",
    message: error instanceof Error ? error.message : String(error),
  };
}

function duration(milliseconds: number): string {
  return milliseconds < 1000 ? `${Math.round(milliseconds)} ms` : `${(milliseconds / 1000).toFixed(1)} s`;
}
