// A bundle judged twice: with the measurement that is in it, and with one made here.
import { type ExecutionProvider, type ModelConfig, Policy } from "@muster/policy";
import { checkpointFiles } from "@muster/policy/graph";
import { canonicalJson, hashHex, type MeasurementPack } from "@muster/protocol";
import {
  type CheckResult,
  type Evidence,
  type EvidenceJudgement,
  judgeEvidence,
  openEvidence,
} from "@muster/verification";
import { readPolicy, requireFilesOf } from "../checkpoint.ts";
import { Failure } from "../failure.ts";

export type Verified = {
  evidence: Evidence;
  /** With the stored measurement. */
  stored: EvidenceJudgement;
  /** With a measurement made here; undefined when none was wanted. */
  measured: EvidenceJudgement | undefined;
  /** Everything is as the bundle says. */
  agrees: boolean;
  differences: string[];
};

/** A checkpoint's files for evidence that has none in it. */
export type FindCheckpoint = (evidence: Evidence) => Promise<ReadonlyMap<string, Uint8Array>>;

export type Settings = {
  /** Who must have signed; anybody when undefined. */
  coordinatorKey: string | undefined;
  /** What the bundle was fetched for; anything when left out. */
  about?: { group: string; run?: string };
  /** Measures; undefined: only the stored measurement is judged. */
  measurer: Measurer | undefined;
};

/**
 * Opens a bundle, judges it and says what differs.
 * @throws EvidenceError for bytes that are no whole bundle, Failure `WRONG_COORDINATOR` or `WRONG_GROUP`, and as the measurer.
 */
export async function verifyBundle(bytes: Uint8Array, settings: Settings): Promise<Verified> {
  const evidence = openEvidence(bytes);
  const { coordinator, group, run } = evidence.header;
  if (settings.coordinatorKey !== undefined && settings.coordinatorKey !== coordinator) {
    throw new Failure({
      exit: "failed",
      code: "WRONG_COORDINATOR",
      what: `The bundle is signed by ${coordinator}, not by ${settings.coordinatorKey}.`,
      why: "Somebody else made it, or the coordinator has a new secret.",
    });
  }
  const { about } = settings;
  if (about !== undefined && (about.group !== group || (about.run ?? run) !== run)) {
    throw new Failure({
      exit: "failed",
      code: "WRONG_GROUP",
      what: `The coordinator was asked for ${about.group} and answered with ${group} of ${run}.`,
      why: "A bundle of another group says nothing about this one.",
    });
  }
  const stored = judgeEvidence(evidence);
  const fresh = await settings.measurer?.measure(evidence);
  const measured = fresh && judgeEvidence(evidence, fresh);
  const differences = [
    ...stored.differences,
    ...(measured?.differences.map((difference) => `Measured here: ${difference}`) ?? []),
  ];
  return { evidence, stored, measured, agrees: differences.length === 0, differences };
}

/** Measures evidence on this machine; keeps the model between bundles of one policy version. */
export class Measurer implements AsyncDisposable {
  private readonly providers: readonly ExecutionProvider[];
  private readonly find: FindCheckpoint;
  private opened: { policy: Policy; model: string; manifest: string } | undefined;

  constructor(providers: readonly ExecutionProvider[], find: FindCheckpoint) {
    this.providers = providers;
    this.find = find;
  }

  /** The execution provider in use, once something was measured. */
  get provider(): string | undefined {
    return this.opened?.policy.provider;
  }

  /** @throws CheckpointError, PolicyError, and as the finder. */
  async measure(evidence: Evidence): Promise<MeasurementPack> {
    const { spec, task, blind, rollouts, pack, parts } = evidence;
    const { form, topK } = spec.verification;
    const policy = await this.policyOf(evidence);
    const keyed = blind?.rollouts ?? rollouts.map((rollout, i) => ({ ...rollout, key: task.keys[i]! }));
    const measured = await policy.measure({
      rollouts: keyed.map(({ prompt, tokens, key }) => ({ prompt, tokens, key })),
      sampling: spec.generation.sampling,
      form,
      topK,
    });
    const { manifest } = pack.header;
    const blindHash = hashHex(parts.get("blind.parquet") ?? new Uint8Array());
    return {
      header: { kind: "measurement", version: 1, manifest, form, topK, blind: blindHash },
      rollouts: measured,
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.opened?.policy.close();
  }

  private async policyOf(evidence: Evidence): Promise<Policy> {
    const { manifest: hash } = evidence.pack.header;
    if (this.opened?.manifest === hash) return this.opened.policy;
    const { model, parameters } = await this.weightsOf(evidence);
    const shape = canonicalJson(model);
    let policy = this.opened?.model === shape ? this.opened.policy : undefined;
    if (policy === undefined) {
      await this.opened?.policy.close();
      this.opened = undefined;
      policy = await Policy.open({ model, providers: this.providers });
    }
    await policy.load(parameters);
    this.opened = { policy, model: shape, manifest: hash };
    return policy;
  }

  private async weightsOf(evidence: Evidence): Promise<{ model: ModelConfig; parameters: Float32Array }> {
    const { manifest, checkpoint, spec } = evidence;
    const files = checkpoint === null ? await this.find(evidence) : checkpointFiles(manifest, checkpoint);
    requireFilesOf(manifest, files);
    return readPolicy(spec, files);
  }
}

/** One check as the coordinator recorded it, and as it came out here. */
export type CheckRow = {
  id: string;
  recorded: CheckResult | undefined;
  stored: CheckResult | undefined;
  measured: CheckResult | undefined;
};

export function checkRows({ evidence, stored, measured }: Verified): CheckRow[] {
  const lists = [
    evidence.header.verdict?.checks ?? [],
    stored.decision.checks,
    measured?.decision.checks ?? [],
  ];
  const ids = [...new Set(lists.flatMap((checks) => checks.map(({ id }) => id)))];
  return ids.map((id) => {
    const [recorded, again, here] = lists.map((checks) => checks.find((check) => check.id === id));
    return { id, recorded, stored: again, measured: here };
  });
}
