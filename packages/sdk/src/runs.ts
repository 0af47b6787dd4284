import { ApiError } from "./api-error.ts";
import { graphql, type ResultOf, type VariablesOf } from "./graphql.ts";
import { itemsOf } from "./pages.ts";
import type { CallOptions, Transport } from "./transport.ts";

const RunFragment = graphql(`
  fragment RunParts on Run @_unmask {
    id
    slug
    name
    state
    stateReason
    open
    currentVersion
    step
    stepLimit
    environment { slug title }
    revision { id number spec hash }
    createdAt
    startedAt
    endedAt
    asOf
    stats {
      tasks { open leased submitted done failed cancelled }
      groups { submitted verifying accepted setAside rejected invalid stale }
      attempts { live submitted released expired cancelled }
      workersActive
      tokensGenerated
      tokensMeasured
      verificationShare
      reward
      etaSeconds
    }
  }
`);
const RunDocument = graphql(
  `
  query Run($id: ID, $slug: String) {
    run(id: $id, slug: $slug) { ...RunParts }
  }
`,
  [RunFragment],
);
const RunsDocument = graphql(
  `
  query Runs($first: Int, $after: String, $state: RunState) {
    runs(first: $first, after: $after, state: $state) {
      edges { node { ...RunParts } }
      pageInfo { hasNextPage endCursor }
    }
  }
`,
  [RunFragment],
);
const RunGroupsDocument = graphql(`
  query RunGroups($run: ID!, $first: Int, $after: String, $state: GroupState, $node: ID, $version: Int) {
    run(id: $run) {
      id
      groups(first: $first, after: $after, state: $state, node: $node, version: $version) {
        edges {
          node {
            id
            index
            prompt
            policyVersion
            state
            acceptance
            reason
            meanReward
            tokens
            auditRate
            step
            submittedAt
            decidedAt
            node { id name }
            rollouts { id index preview tokens finishReason reward rewardParts advantage }
          }
        }
        pageInfo { hasNextPage endCursor }
      }
    }
  }
`);
const RunWorkersDocument = graphql(`
  query RunWorkers($run: ID!, $first: Int, $after: String) {
    run(id: $run) {
      id
      workers(first: $first, after: $after) {
        edges {
          node {
            id
            node { id name software liveness lastSeenAt }
            roles
            trust
            auditRate
            auditedValid
            accepted
            rejected
            invalid
            reason
            held
            available
            progress
            version
          }
        }
        pageInfo { hasNextPage endCursor }
      }
    }
  }
`);
const RunCheckpointsDocument = graphql(`
  query RunCheckpoints($run: ID!, $first: Int, $after: String) {
    run(id: $run) {
      id
      checkpoints(first: $first, after: $after) {
        edges { node { id version parentVersion manifestHash size state createdAt availableAt } }
        pageInfo { hasNextPage endCursor }
      }
    }
  }
`);
const RunVerificationsDocument = graphql(`
  query RunVerifications($run: ID!, $first: Int, $after: String, $verdict: Verdict) {
    run(id: $run) {
      id
      verifications(first: $first, after: $after, verdict: $verdict) {
        edges {
          node {
            id
            verdict
            checks { id title verdict observed expected threshold note plain cannotCatch }
            validator { id name }
            group { id index policyVersion node { id name } }
            tokens
            cost
            createdAt
          }
        }
        pageInfo { hasNextPage endCursor }
      }
    }
  }
`);
const RunEvaluationsDocument = graphql(`
  query RunEvaluations($run: ID!) {
    run(id: $run) {
      id
      evaluations { id version suite n mean ciLow ciHigh gain gainLow gainHigh createdAt }
    }
  }
`);
const TrainStepsDocument = graphql(`
  query TrainSteps($run: ID!, $from: Int, $to: Int, $buckets: Int) {
    run(id: $run) {
      id
      trainSteps(from: $from, to: $to, buckets: $buckets) {
        fromStep
        toStep
        n
        at
        metrics { name min max last }
      }
    }
  }
`);
const CheckRunSpecDocument = graphql(`
  query CheckRunSpec($spec: JSON!) {
    checkRunSpec(spec: $spec) { valid hash spec issues { path message } }
  }
`);
const DemoRunSpecDocument = graphql(`
  query DemoRunSpec($steps: Int) {
    demoRunSpec(steps: $steps)
  }
`);
const RunSpecSchemaDocument = graphql(`
  query RunSpecSchema {
    runSpecSchema
  }
`);
const CreateRunDocument = graphql(
  `
  mutation CreateRun($input: CreateRunInput!) {
    createRun(input: $input) {
      __typename
      ... on RunCreated { run { ...RunParts } }
      ... on SpecInvalid { message issues { path message } }
    }
  }
`,
  [RunFragment],
);
const ReviseRunDocument = graphql(
  `
  mutation ReviseRun($input: ReviseRunInput!) {
    reviseRun(input: $input) {
      __typename
      ... on RunCreated { run { ...RunParts } }
      ... on SpecInvalid { message issues { path message } }
    }
  }
`,
  [RunFragment],
);
const PauseRunDocument = graphql(
  `
  mutation PauseRun($input: RunInput!) {
    pauseRun(input: $input) { ...RunParts }
  }
`,
  [RunFragment],
);
const ResumeRunDocument = graphql(
  `
  mutation ResumeRun($input: RunInput!) {
    resumeRun(input: $input) { ...RunParts }
  }
`,
  [RunFragment],
);
const CancelRunDocument = graphql(
  `
  mutation CancelRun($input: RunInput!) {
    cancelRun(input: $input) { ...RunParts }
  }
`,
  [RunFragment],
);
const FundRunDocument = graphql(
  `
  mutation FundRun($input: FundRunInput!) {
    fundRun(input: $input) { ...RunParts }
  }
`,
  [RunFragment],
);
const GrantRoleDocument = graphql(`
  mutation GrantRole($input: GrantRoleInput!) {
    grantRole(input: $input) { id role createdAt revokedAt node { id name } }
  }
`);
const RevokeRoleDocument = graphql(`
  mutation RevokeRole($input: GrantRoleInput!) {
    revokeRole(input: $input) { id role createdAt revokedAt node { id name } }
  }
`);

/** A run as its page shows it. `asOf` is the cursor of its event stream at which it was read. */
export type Run = ResultOf<typeof RunFragment>;
export type RunState = Run["state"];
/** `RunCreated` with the run, or `SpecInvalid` with one issue per wrong field. */
export type CreateRunResult = ResultOf<typeof CreateRunDocument>["createRun"];
export type CreateRunInput = VariablesOf<typeof CreateRunDocument>["input"];
export type RoleGrantInput = VariablesOf<typeof GrantRoleDocument>["input"];
export type RoleGrant = ResultOf<typeof GrantRoleDocument>["grantRole"];
export type RunSpecCheck = ResultOf<typeof CheckRunSpecDocument>["checkRunSpec"];

type Connected<Result, Field extends string> = Result extends { run: infer Found | null }
  ? Found extends { [K in Field]: { edges: readonly { node: infer Item }[] } }
    ? Item
    : never
  : never;
/** A group with its rollouts. */
export type Group = Connected<ResultOf<typeof RunGroupsDocument>, "groups">;
export type GroupState = Group["state"];
/** A node in a run: its roles, trust and credits. */
export type RunNode = Connected<ResultOf<typeof RunWorkersDocument>, "workers">;
export type Checkpoint = Connected<ResultOf<typeof RunCheckpointsDocument>, "checkpoints">;
export type Verification = Connected<ResultOf<typeof RunVerificationsDocument>, "verifications">;
export type Evaluation = NonNullable<ResultOf<typeof RunEvaluationsDocument>["run"]>["evaluations"][number];
export type TrainStepBucket = NonNullable<ResultOf<typeof TrainStepsDocument>["run"]>["trainSteps"][number];

export type Runs = {
  /** One run by TypeID or slug. @throws ApiError `NOT_FOUND`. */
  get(input: { id: string } | { slug: string }, options?: CallOptions): Promise<Run>;
  /** The runs the caller may see. */
  list(input?: { state?: RunState }, options?: CallOptions): AsyncGenerator<Run, void, undefined>;
  /** Checks a spec without storing it; defaults are filled in. */
  checkSpec(spec: unknown, options?: CallOptions): Promise<RunSpecCheck>;
  /** The JSON Schema of a run spec. */
  specSchema(options?: CallOptions): Promise<unknown>;
  /** The demo's spec. */
  demoSpec(input?: { steps?: number }, options?: CallOptions): Promise<unknown>;
  /** Creates a run; a repetition with the same `idempotencyKey` answers the first one's run. Repeated by itself only with such a key. */
  create(input: CreateRunInput, options?: CallOptions): Promise<CreateRunResult>;
  /** Adds a revision of the spec. */
  revise(input: { run: string; spec: unknown }, options?: CallOptions): Promise<CreateRunResult>;
  pause(input: { run: string; reason?: string }, options?: CallOptions): Promise<Run>;
  resume(input: { run: string; reason?: string }, options?: CallOptions): Promise<Run>;
  cancel(input: { run: string; reason?: string }, options?: CallOptions): Promise<Run>;
  /** Moves micro-credits (a decimal string) into the run's budget. */
  fund(input: { run: string; credits: string; idempotencyKey?: string }, options?: CallOptions): Promise<Run>;
  /** Lets a node do more than generate in this run. */
  grantRole(input: RoleGrantInput, options?: CallOptions): Promise<RoleGrant>;
  revokeRole(input: RoleGrantInput, options?: CallOptions): Promise<RoleGrant>;
  /** Groups with their rollouts. */
  groups(
    input: { run: string; state?: GroupState; node?: string; version?: number },
    options?: CallOptions,
  ): AsyncGenerator<Group, void, undefined>;
  /** The nodes of a run, newest first. */
  workers(input: { run: string }, options?: CallOptions): AsyncGenerator<RunNode, void, undefined>;
  checkpoints(input: { run: string }, options?: CallOptions): AsyncGenerator<Checkpoint, void, undefined>;
  verifications(
    input: { run: string; verdict?: Verification["verdict"] },
    options?: CallOptions,
  ): AsyncGenerator<Verification, void, undefined>;
  evaluations(input: { run: string }, options?: CallOptions): Promise<Evaluation[]>;
  /** Training metrics, in at most `buckets` buckets of (min, max, last); raw when there are fewer steps. */
  trainSteps(
    input: { run: string; from?: number; to?: number; buckets?: number },
    options?: CallOptions,
  ): Promise<TrainStepBucket[]>;
};

export function createRuns({ execute }: Transport): Runs {
  const again = { repeatable: true };
  return {
    get: async (input, options) => found((await execute(RunDocument, input, options)).run, input),
    list: (input = {}, options) =>
      itemsOf(async (at) => (await execute(RunsDocument, { ...at, ...input }, options)).runs),
    checkSpec: async (spec, options) => (await execute(CheckRunSpecDocument, { spec }, options)).checkRunSpec,
    specSchema: async (options) => (await execute(RunSpecSchemaDocument, {}, options)).runSpecSchema,
    demoSpec: async (input = {}, options) => (await execute(DemoRunSpecDocument, input, options)).demoRunSpec,
    create: async (input, options) => {
      const repeatable = input.idempotencyKey !== undefined && input.idempotencyKey !== null;
      return (await execute(CreateRunDocument, { input }, { ...options, repeatable })).createRun;
    },
    revise: async (input, options) => (await execute(ReviseRunDocument, { input }, options)).reviseRun,
    pause: async (input, options) =>
      (await execute(PauseRunDocument, { input }, { ...options, ...again })).pauseRun,
    resume: async (input, options) =>
      (await execute(ResumeRunDocument, { input }, { ...options, ...again })).resumeRun,
    cancel: async (input, options) =>
      (await execute(CancelRunDocument, { input }, { ...options, ...again })).cancelRun,
    fund: async (input, options) => {
      const repeatable = input.idempotencyKey !== undefined;
      return (await execute(FundRunDocument, { input }, { ...options, repeatable })).fundRun;
    },
    grantRole: async (input, options) =>
      (await execute(GrantRoleDocument, { input }, { ...options, ...again })).grantRole,
    revokeRole: async (input, options) =>
      (await execute(RevokeRoleDocument, { input }, { ...options, ...again })).revokeRole,
    groups: (input, options) =>
      itemsOf(
        async (at) =>
          found((await execute(RunGroupsDocument, { ...at, ...input }, options)).run, input).groups,
      ),
    workers: (input, options) =>
      itemsOf(
        async (at) =>
          found((await execute(RunWorkersDocument, { ...at, ...input }, options)).run, input).workers,
      ),
    checkpoints: (input, options) =>
      itemsOf(
        async (at) =>
          found((await execute(RunCheckpointsDocument, { ...at, ...input }, options)).run, input).checkpoints,
      ),
    verifications: (input, options) =>
      itemsOf(
        async (at) =>
          found((await execute(RunVerificationsDocument, { ...at, ...input }, options)).run, input)
            .verifications,
      ),
    evaluations: async (input, options) =>
      found((await execute(RunEvaluationsDocument, input, options)).run, input).evaluations,
    trainSteps: async (input, options) =>
      found((await execute(TrainStepsDocument, input, options)).run, input).trainSteps,
  };
}

function found<T>(run: T | null, asked: { id?: string; slug?: string; run?: string }): T {
  if (run !== null) return run;
  const name = asked.id ?? asked.slug ?? asked.run ?? "";
  throw new ApiError({ code: "NOT_FOUND", message: `There is no run "${name}" that this caller may see.` });
}
