import { parseRunSpec } from "@muster/protocol";
import { createClient, pause } from "@muster/sdk";
import type { Attack, Scene } from "../attack.ts";
import { cheating } from "../cheating/generate.ts";
import { injected } from "../cheating/injected.ts";
import { openLedger } from "../cheating/ledger.ts";
import { type BareNode, submitted } from "../cheating/node.ts";

export const trustFarming: Attack = {
  id: "trust-farming",
  kind: "economy",
  title: "Trust farmed in a run of its own",
  plain:
    "Opens an organization and a run with rules of its own, is audited there by its accomplice until it is trusted, and then cheats where it matters.",
  saved: 1,
  expectation: {
    kind: "contained",
    bound:
      "trust is kept per run and organization: here it begins with full audits and no cheated group is accepted",
    holds: ({ poison, kept, nodes, allAnswered }) =>
      allAnswered("trusted in its own run", "yes") &&
      poison === 0 &&
      kept === 0 &&
      nodes.some(({ name, rejected }) => name.endsWith("farmer") && rejected > 0),
  },
  async act(scene) {
    const farmer = await scene.bare("farmer");
    const own = await ownRun(scene, farmer);
    if (own === undefined) return;
    await using client = own.client;
    const stop = new AbortController();
    const accomplice = scene.work({
      name: "accomplice",
      roles: ["TRAINER", "VALIDATOR"],
      worksFor: [own.run],
      signal: stop.signal,
      onRegistered: async (node) => {
        for (const role of ["TRAINER", "VALIDATOR"] as const)
          await client.runs.grantRole({ run: own.run, node, role });
      },
    });
    try {
      const trusted = await farm(scene, farmer, own.run, async () => {
        for await (const { node, trust } of client.runs.workers({ run: own.run }))
          if (node.id === farmer.node && trust === "TRUSTED") return true;
        return false;
      });
      scene.ledger.answer("trusted in its own run", trusted ? "yes" : "no");
    } finally {
      await client.runs.cancel({ run: own.run });
      stop.abort();
      await accomplice;
    }
    await handIn(scene, farmer, scene.run, cheating(scene.ledger, { rollouts: injected }));
  },
};

async function ownRun(scene: Scene, farmer: BareNode) {
  const owner = await scene.organizer?.("Farm");
  if (owner === undefined) return undefined;
  const client = createClient({ url: scene.url, apiKey: owner.apiKey });
  const parsed = parseRunSpec({
    name: "Farm",
    environment: "muster/reverse-text@1",
    open: false,
    base: { kind: "warmup", steps: 1, warmupSteps: 0 },
    generation: { groupSize: 2, groupsPerTask: 4 },
    verification: { audit: { adversaryShare: 0.01, epsilon: 1, floor: 0.9 } },
    evaluation: { versions: [], examples: 1 },
  });
  if (!parsed.ok) throw new Error(parsed.issues.map(({ message }) => message).join(" "));
  const { organization } = owner;
  const created = await client.runs.create({
    organization,
    spec: parsed.spec,
    credits: "1000000000",
    start: true,
  });
  if (created.__typename !== "RunCreated") throw new Error(created.message);
  // any grant opens a closed run to a worker
  await client.runs.grantRole({ run: created.run.id, node: farmer.node, role: "EVALUATOR" });
  return { client, run: created.run.id };
}

/** Works honestly in the run until it is trusted there. */
async function farm(
  scene: Scene,
  farmer: BareNode,
  run: string,
  isTrusted: () => Promise<boolean>,
): Promise<boolean> {
  const elsewhere = openLedger();
  while (!scene.signal.aborted) {
    if (await isTrusted()) return true;
    await handIn(scene, farmer, run, cheating(elsewhere, {}));
    await pause(300, scene.signal);
  }
  return false;
}

/** Claims one task of the run, waiting for it, and hands in what the executor makes of it. */
async function handIn(
  { signal }: Scene,
  node: BareNode,
  run: string,
  executor: ReturnType<typeof cheating>,
): Promise<void> {
  const { tasks } = node.ctx.client;
  while (!signal.aborted) {
    const [lease] = await tasks.claim({ kinds: ["GENERATE"], max: 1, run });
    if (lease === undefined) {
      await pause(250, signal);
      continue;
    }
    const submission = node.signed(lease, await node.put(lease, await node.generate(lease, executor)));
    await submitted(() => tasks.submitRollouts(submission));
    return;
  }
}
