import { graphql, type ResultOf } from "./graphql.ts";
import type { Live } from "./live.ts";
import type { CallOptions, Transport } from "./transport.ts";

export type TaskKind = ReturnType<typeof graphql.scalar<"TaskKind">>;

const TaskOffersDocument = graphql(`
  subscription TaskOffers($kinds: [TaskKind!]!) {
    taskOffers(kinds: $kinds) { kinds at }
  }
`);
const ClaimTasksDocument = graphql(`
  mutation ClaimTasks($input: ClaimTasksInput!) {
    claimTasks(input: $input) {
      task
      run
      kind
      attempt
      leaseUntil
      renewAfterSeconds
      manifest
      policyVersion
      payload
    }
  }
`);
const RenewLeaseDocument = graphql(`
  mutation RenewLease($input: LeaseInput!) {
    renewLease(input: $input) { leaseUntil }
  }
`);
const ReleaseTaskDocument = graphql(`
  mutation ReleaseTask($input: ReleaseTaskInput!) {
    releaseTask(input: $input)
  }
`);
const SubmissionFragment = graphql(`
  fragment Submission on SubmissionResult @_unmask {
    __typename
    ... on Submitted { task state duplicate }
    ... on LeaseLost { task message }
    ... on SubmissionRefused { task code message }
  }
`);
/** Milliseconds for one try to submit a step. */
const STEP_TIMEOUT = 600_000;
const SubmitRolloutsDocument = graphql(
  `
  mutation SubmitRollouts($input: SubmitPackInput!) {
    submitRollouts(input: $input) { ...Submission }
  }
`,
  [SubmissionFragment],
);
const SubmitMeasurementDocument = graphql(
  `
  mutation SubmitMeasurement($input: SubmitPackInput!) {
    submitMeasurement(input: $input) { ...Submission }
  }
`,
  [SubmissionFragment],
);
const SubmitMeasurementsDocument = graphql(
  `
  mutation SubmitMeasurements($input: SubmitMeasurementsInput!) {
    submitMeasurements(input: $input) { ...Submission }
  }
`,
  [SubmissionFragment],
);
const SubmitEvaluationDocument = graphql(
  `
  mutation SubmitEvaluation($input: SubmitPackInput!) {
    submitEvaluation(input: $input) { ...Submission }
  }
`,
  [SubmissionFragment],
);
const SubmitStepDocument = graphql(
  `
  mutation SubmitStep($input: SubmitStepInput!) {
    submitStep(input: $input) { ...Submission }
  }
`,
  [SubmissionFragment],
);

/** A claimed task: what to do (`payload`, parsed by `taskPayloadSchema`), until when, and the attempt that fences everything sent for it. */
export type Lease = ResultOf<typeof ClaimTasksDocument>["claimTasks"][number];
/** How a submission ended, by `__typename`: `Submitted`, `LeaseLost` or `SubmissionRefused`. */
export type SubmissionResult = ResultOf<typeof SubmitRolloutsDocument>["submitRollouts"];
/** Says "look": something of these kinds may be claimable. */
export type TaskOffer = ResultOf<typeof TaskOffersDocument>["taskOffers"];

/** The task and attempt a node holds. */
export type LeaseKey = { task: string; attempt: number };
/** A pack that was PUT before, signed over `submissionBytes`. `cpuSeconds` only feeds the cost figures. */
export type PackSubmission = LeaseKey & { pack: string; signature: string; cpuSeconds?: number };
/** A step's manifest and optimizer state, both PUT before; the signature is over the manifest's hash as pack. */
export type StepSubmission = LeaseKey & {
  manifest: string;
  state: string;
  signature: string;
  metrics: Record<string, unknown>;
  cpuSeconds?: number;
};

export type Tasks = {
  /** Nudges for as long as the signal lets it; one arrives on every (re)connection. A missed one is lost: ask now and then, too. */
  offers(input: { kinds: TaskKind[]; signal?: AbortSignal }): AsyncGenerator<TaskOffer, void, undefined>;
  /**
   * Leases up to `max` tasks. Not repeated by itself: a lease whose answer was lost expires.
   * @throws ApiError `ROLE_NOT_GRANTED`, `NODE_QUARANTINED`, `UPGRADE_REQUIRED`.
   */
  claim(input: { kinds: TaskKind[]; max: number; run?: string }, options?: CallOptions): Promise<Lease[]>;
  /** Extends a lease. @throws ApiError `LEASE_LOST`. */
  renew(input: LeaseKey, options?: CallOptions): Promise<{ leaseUntil: string }>;
  /** Hands a task back undone. */
  release(input: LeaseKey & { reason: string; failed?: boolean }, options?: CallOptions): Promise<boolean>;
  /** Submits the pack of a GENERATE task. The same submission twice answers the first result. */
  submitRollouts(input: PackSubmission, options?: CallOptions): Promise<SubmissionResult>;
  /** Submits the pack of a VERIFY task. */
  submitMeasurement(input: PackSubmission, options?: CallOptions): Promise<SubmissionResult>;
  /** Submits the packs of up to sixteen VERIFY tasks; results come in their order. */
  submitMeasurements(
    input: { submissions: PackSubmission[] },
    options?: CallOptions,
  ): Promise<SubmissionResult[]>;
  /** Submits the pack of an EVALUATE task. */
  submitEvaluation(input: PackSubmission, options?: CallOptions): Promise<SubmissionResult>;
  /** Submits a BASE or TRAIN task. */
  submitStep(input: StepSubmission, options?: CallOptions): Promise<SubmissionResult>;
};

export function createTasks({ execute }: Transport, live: Live): Tasks {
  return {
    async *offers({ kinds, signal }) {
      for await (const { taskOffers } of live.stream(TaskOffersDocument, () => ({ kinds }), { signal })) {
        yield taskOffers;
      }
    },
    claim: async (input, options) => (await execute(ClaimTasksDocument, { input }, options)).claimTasks,
    renew: async (input, options) =>
      (await execute(RenewLeaseDocument, { input }, { ...options, repeatable: true })).renewLease,
    release: async (input, options) =>
      (await execute(ReleaseTaskDocument, { input }, { ...options, repeatable: true })).releaseTask,
    submitRollouts: async (input, options) =>
      (await execute(SubmitRolloutsDocument, { input }, { ...options, repeatable: true })).submitRollouts,
    submitMeasurement: async (input, options) =>
      (await execute(SubmitMeasurementDocument, { input }, { ...options, repeatable: true }))
        .submitMeasurement,
    submitMeasurements: async (input, options) =>
      (await execute(SubmitMeasurementsDocument, { input }, { ...options, repeatable: true }))
        .submitMeasurements,
    submitEvaluation: async (input, options) =>
      (await execute(SubmitEvaluationDocument, { input }, { ...options, repeatable: true })).submitEvaluation,
    submitStep: async (input, options) =>
      (
        await execute(
          SubmitStepDocument,
          { input },
          // The coordinator reads every weight before it answers: a minute and more for some gigabytes.
          { timeout: STEP_TIMEOUT, ...options, repeatable: true },
        )
      ).submitStep,
  };
}
