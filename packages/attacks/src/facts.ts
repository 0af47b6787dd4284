import { graphql, type MusterClient } from "@muster/sdk";
import type { LedgerAnswer, LedgerGroup } from "./cheating/ledger.ts";

// What the organizer sees of an attack, read through the public API and joined with the adversary's own ledger.

/** An adversary's node in the run. */
export type NodeFacts = {
  id: string;
  name: string;
  trust: string;
  roles: readonly string[];
  rejected: number;
  invalid: number;
  /** Micro-credits, held and released. */
  credits: number;
};

/** A group of the adversary's ledger, and what became of it. */
export type GroupFacts = {
  cheated: boolean;
  /** As the coordinator has it; UNTAKEN when it has no such group: the pack was refused, or came too late. */
  state: string;
  acceptance: string | null;
  /** Whether it was trusted at first, and measured only because a later one was rejected. */
  retroactive: boolean;
  /** Whether a sealed batch holds it: training has it, whatever became of it later. */
  trained: boolean;
  /** Micro-credits it is worth when it is accepted. */
  price: number;
  /** Ids of the checks that failed. */
  failed: readonly string[];
};

export type Facts = {
  nodes: readonly NodeFacts[];
  /** In the order they were made. */
  groups: readonly GroupFacts[];
  /** Packs of its that were refused. */
  refusals: number;
  /** Cheated groups that are accepted, or were for long enough to be trained on. */
  poison: number;
  /** Micro-credits its nodes have, held ones included. */
  kept: number;
  /** Micro-credits of all its accepted groups. */
  earnable: number;
  /** Its groups that were INVALID. */
  invalid: number;
  /** Most LIVE attempts that one of its nodes was seen with. */
  mostLive: number;
  /** Roles its nodes have in the run. */
  roles: readonly string[];
  /** Groups that others had accepted, and honest nodes rejected, while it was at work. */
  othersAccepted: number;
  othersRejected: number;
  /** Groups that others had accepted in the second half of it, when it does what it can. */
  othersLately: number;
  runState: string;
  /** What its calls were answered. */
  answers: readonly LedgerAnswer[];
  /** Whether something was asked, and every time answered so. */
  allAnswered(asked: string, answer: string): boolean;
};

const NodesDocument = graphql(`
  query AttackNodes($run: ID!, $after: String) {
    run(id: $run) {
      id
      state
      stats { groups { accepted setAside stale } }
      workers(first: 100, after: $after) {
        edges { node { id node { id name } roles trust rejected invalid held available } }
        pageInfo { hasNextPage endCursor }
      }
    }
  }
`);
const GroupsDocument = graphql(`
  query AttackGroups($run: ID!, $node: ID!, $after: String) {
    run(id: $run) {
      id
      groups(first: 100, node: $node, after: $after) {
        edges { node { id index prompt policyVersion state acceptance retroactive tokens step } }
        pageInfo { hasNextPage endCursor }
      }
    }
  }
`);
const FailuresDocument = graphql(`
  query AttackFailures($run: ID!, $node: ID!) {
    run(id: $run) {
      id
      groups(first: 20, node: $node, state: REJECTED) {
        edges { node { id verifications { id checks { id verdict } } } }
      }
    }
  }
`);
const LeasesDocument = graphql(`
  query AttackLeases($run: ID!) {
    run(id: $run) {
      id
      tasks(first: 100, state: LEASED) { edges { node { id attempts { id state node { id } } } } }
    }
  }
`);

/** Where a run and the nodes in it stand. */
export type Standing = {
  state: string;
  /** By TypeID of the node. */
  nodes: ReadonlyMap<string, NodeFacts>;
  accepted: number;
};

export async function readStanding(client: MusterClient, run: string): Promise<Standing> {
  const nodes = new Map<string, NodeFacts>();
  for (let after: string | null = null; ; ) {
    const answer: Awaited<ReturnType<typeof page>> = await page(after);
    for (const { node } of answer.workers.edges) {
      nodes.set(node.node.id, {
        id: node.node.id,
        name: node.node.name,
        trust: node.trust,
        roles: node.roles,
        rejected: node.rejected,
        invalid: node.invalid,
        credits: Number(node.held) + Number(node.available),
      });
    }
    const { groups } = answer.stats;
    const { hasNextPage, endCursor } = answer.workers.pageInfo;
    if (!hasNextPage) {
      const accepted = groups.accepted + groups.setAside + groups.stale;
      return { state: answer.state, nodes, accepted };
    }
    after = endCursor;
  }

  async function page(after: string | null) {
    const { run: found } = await client.execute(NodesDocument, { run, after });
    if (found === null) throw new Error(`There is no run ${run}.`);
    return found;
  }
}

/** LIVE attempts in the run by node. */
export async function readLeases(client: MusterClient, run: string): Promise<Map<string, number>> {
  const answer = await client.execute(LeasesDocument, { run });
  const live = new Map<string, number>();
  for (const { node: task } of answer.run?.tasks.edges ?? []) {
    for (const { state, node } of task.attempts)
      if (state === "LIVE") live.set(node.id, (live.get(node.id) ?? 0) + 1);
  }
  return live;
}

type Seen = {
  id: string;
  index: number;
  prompt: string;
  policyVersion: number;
  state: string;
  acceptance: string | null;
  tokens: number;
  step: number | null;
  retroactive: boolean;
};

/** All groups of a node in a run, the oldest first. */
export async function readGroups(client: MusterClient, run: string, node: string): Promise<Seen[]> {
  const found: Seen[] = [];
  for (let after: string | null = null; ; ) {
    const page: Awaited<
      ReturnType<typeof client.execute<Answer, { run: string; node: string; after: string | null }>>
    > = await client.execute(GroupsDocument, { run, node, after });
    const groups = page.run?.groups;
    found.push(...(groups?.edges.map((edge) => edge.node) ?? []));
    if (groups?.pageInfo.hasNextPage !== true) return found.reverse();
    after = groups.pageInfo.endCursor;
  }
}
type Answer = {
  run: {
    groups: { edges: { node: Seen }[]; pageInfo: { hasNextPage: boolean; endCursor: string | null } };
  } | null;
};

/** Ids of the checks that failed, by group: of up to twenty rejected groups of a node. */
async function readFailures(client: MusterClient, run: string, node: string): Promise<Map<string, string[]>> {
  const answer = await client.execute(FailuresDocument, { run, node });
  return new Map(
    (answer.run?.groups.edges ?? []).map(({ node: group }) => [
      group.id,
      group.verifications.flatMap(({ checks }) =>
        checks.filter(({ verdict }) => verdict === "FAIL").map(({ id }) => id),
      ),
    ]),
  );
}

export const acceptedStates: ReadonlySet<string> = new Set(["ACCEPTED", "SET_ASIDE", "STALE"]);
export const decidedStates: ReadonlySet<string> = new Set([...acceptedStates, "REJECTED", "INVALID"]);

/** Everything about an attack by the nodes named, since `before`. */
export async function readFacts(
  client: MusterClient,
  attack: {
    run: string;
    nodes: readonly string[];
    ledger: { groups: readonly LedgerGroup[]; answers: readonly LedgerAnswer[] };
    before: Standing;
    /** Halfway. */
    middle: Standing;
    /** Every adversary in the run, of this attack and of others. */
    adversaries: ReadonlySet<string>;
    mostLive: number;
    /** Micro-credits a generated token earns. */
    price: number;
  },
): Promise<Facts> {
  const { run, ledger, price } = attack;
  const standing = await readStanding(client, run);
  const known = attack.nodes.flatMap((id) => standing.nodes.get(id) ?? []);
  // A group does not name its task to the organizer; prompt, place and version are as good: prompts hardly ever repeat.
  const seen = new Map<string, Seen[]>();
  const failures = new Map<string, string[]>();
  for (const { id } of known) {
    for (const [group, checks] of await readFailures(client, run, id)) failures.set(group, checks);
    for (const group of await readGroups(client, run, id)) {
      const key = keyOf({ ...group, version: group.policyVersion });
      seen.set(key, [...(seen.get(key) ?? []), group]);
    }
  }
  const groups = ledger.groups.map((line): GroupFacts => {
    const found = seen.get(keyOf(line))?.shift();
    return {
      cheated: line.cheated,
      state: found?.state ?? "UNTAKEN",
      acceptance: found?.acceptance ?? null,
      retroactive: found?.retroactive ?? false,
      trained: found !== undefined && found.step !== null && found.state !== "SET_ASIDE",
      price: (found?.tokens ?? line.tokens) * price,
      failed: (found && failures.get(found.id)) ?? [],
    };
  });
  const accepted = groups.filter(({ state }) => acceptedStates.has(state));
  const rejected = groups.filter(({ state }) => state === "REJECTED").length;
  const sum = (numbers: number[]) => numbers.reduce((total, value) => total + value, 0);
  return {
    nodes: known,
    groups,
    refusals: sum(known.map((node) => node.rejected)) - rejected,
    poison: groups.filter(({ cheated, trained, state }) => cheated && (trained || acceptedStates.has(state)))
      .length,
    kept: sum(known.map(({ credits }) => credits)),
    earnable: sum(accepted.map((group) => group.price)),
    invalid: groups.filter(({ state }) => state === "INVALID").length,
    mostLive: attack.mostLive,
    roles: [...new Set(known.flatMap(({ roles }) => roles))],
    othersAccepted: standing.accepted - attack.before.accepted - accepted.length,
    othersRejected: rejectedOf(standing, attack.adversaries) - rejectedOf(attack.before, attack.adversaries),
    othersLately:
      standing.accepted - attack.middle.accepted - (attack.middle === attack.before ? accepted.length : 0),
    runState: standing.state,
    answers: ledger.answers,
    allAnswered: (asked, answer) => {
      const given = ledger.answers.filter((line) => line.asked === asked);
      return given.length > 0 && given.every((line) => line.answer === answer);
    },
  };
}

/** Rejections of everyone but the adversaries. */
function rejectedOf({ nodes }: Standing, adversaries: ReadonlySet<string>): number {
  return [...nodes.values()].reduce((sum, { id, rejected }) => sum + (adversaries.has(id) ? 0 : rejected), 0);
}

function keyOf({ prompt, index, version }: { prompt: string; index: number; version: number }): string {
  return `${version}#${index}#${prompt}`;
}
