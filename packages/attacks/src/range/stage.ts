import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { parseRunSpec, type RunSpec, type RunSpecInput } from "@muster/protocol";
import { graphql, type MusterClient } from "@muster/sdk";
import { acceptedStates, readGroups, readStanding, type Standing } from "../facts.ts";

/** A run that attacks are let loose on. */
export type Stage = {
  /** TypeID. */
  run: string;
  spec: RunSpec;
  /** Proof windows of a group whose rollouts have at most 32 tokens each. */
  windowsOfGroup: number;
  /** Where the run stands, at most half a second old. */
  standing(): Promise<Standing>;
  grant(node: string, role: "VALIDATOR" | "TRAINER"): Promise<void>;
  /** Waits until nothing is under suspicion any more, at most half a minute. */
  settled(): Promise<void>;
  /** Groups of everyone but `adversaries` that were measured, and those of them that were rejected. */
  honest(adversaries: ReadonlySet<string>): Promise<{ measured: number; rejected: number; invalid: number }>;
  /** Ends the run. */
  close(): Promise<void>;
};

/** What all stages have in common: small tasks, dense rewards, steps that go on for ever. */
const common = {
  environment: "muster/reverse-text@1",
  generation: { groupSize: 8, groupsPerTask: 4 },
  training: { learningRate: 1e-4, schedule: "constant", warmupSteps: 0 },
  limits: { steps: 1_000_000 },
  evaluation: { versions: [0], examples: 1 },
  leaseSeconds: 8,
} satisfies Partial<RunSpecInput>;

const OpenCasesDocument = graphql(`
  query AttackOpenCases($run: ID!) {
    run(id: $run) {
      id
      stats { groups { submitted verifying } }
      cases(first: 100, state: OPEN) { edges { node { id confirmed } } }
    }
  }
`);

/** What a stage chooses for itself. */
export type StageSpec = Pick<
  RunSpecInput,
  "name" | "base" | "batch" | "verification" | "disputeWindowSeconds"
>;

/** Creates a run with the local trainer and validator in it, starts it and waits for its base. */
export async function openStage(
  client: MusterClient,
  input: { organization: string; spec: StageSpec; signal: AbortSignal },
): Promise<Stage> {
  const parsed = parseRunSpec({ ...common, ...input.spec });
  if (!parsed.ok) throw new Error(parsed.issues.map(({ path, message }) => `${path}: ${message}`).join(" "));
  const { spec } = parsed;
  const { organization } = input;
  const created = await client.runs.create({
    organization,
    spec,
    credits: "1000000000000",
    start: false,
    idempotencyKey: randomUUID(),
  });
  if (created.__typename !== "RunCreated")
    throw new Error(created.issues.map(({ path, message }) => `${path}: ${message}`).join(" "));
  const run = created.run.id;
  // The supervisor would grant them, too, within seconds; what was granted it leaves as it is.
  for await (const node of client.nodes.list()) {
    if (node.name === "trainer") await client.runs.grantRole({ run, node: node.id, role: "TRAINER" });
    // its own: it measures again what others measured
    if (node.name === "validator")
      await client.runs.grantRole({ run, node: node.id, role: "VALIDATOR", own: true });
    if (node.name === "validator") await client.runs.grantRole({ run, node: node.id, role: "EVALUATOR" });
  }
  await client.runs.resume({ run });
  for (;;) {
    const { currentVersion, state, stateReason } = await client.runs.get({ id: run });
    if (currentVersion !== null) break;
    if (state !== "RUNNING") throw new Error(`The run is ${state}: ${stateReason ?? "no reason given"}.`);
    await sleep(250, undefined, { signal: input.signal });
  }

  let last: { at: number; standing: Promise<Standing> } | undefined;
  return {
    run,
    spec,
    windowsOfGroup: spec.generation.groupSize,
    standing() {
      if (last === undefined || performance.now() - last.at > 500)
        last = { at: performance.now(), standing: readStanding(client, run) };
      return last.standing;
    },
    async grant(node, role) {
      await client.runs.grantRole({ run, node, role });
    },
    async settled() {
      for (let look = 0; look < 60; look++) {
        const { run: found } = await client.execute(OpenCasesDocument, { run });
        const { submitted = 0, verifying = 0 } = found?.stats.groups ?? {};
        const unsettled = found?.cases.edges.some(({ node }) => node.confirmed === null) ?? false;
        if (!unsettled && submitted + verifying === 0) return;
        await sleep(500, undefined, { signal: input.signal });
      }
    },
    async honest(adversaries) {
      const tally = { measured: 0, rejected: 0, invalid: 0 };
      for (const { id } of (await readStanding(client, run)).nodes.values()) {
        if (adversaries.has(id)) continue;
        for (const { state, acceptance } of await readGroups(client, run, id)) {
          if (state === "REJECTED") tally.rejected++;
          if (state === "INVALID") tally.invalid++;
          if (state === "REJECTED" || (acceptedStates.has(state) && acceptance === "AUDITED"))
            tally.measured++;
        }
      }
      return tally;
    },
    close: async () => void (await client.runs.cancel({ run, reason: "the range is done with it" })),
  };
}
