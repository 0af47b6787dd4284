import { graphql, type MusterClient, type ResultOf } from "@muster/sdk";
import { Failure } from "./failure.ts";
import { findRun } from "./runs.ts";
import { printable, type Terminal, table } from "./terminal.ts";

const CaseFragment = graphql(`
  fragment CaseParts on Case @_unmask {
    id
    state
    reason
    statement
    openedAt
    openUntil
    disputedAt
    confirmed
    decision
    decidedAt
    evidence
    group { id index policyVersion prompt }
    node { id name }
  }
`);
const CasesDocument = graphql(
  `
  query Cases($run: ID!, $first: Int, $after: String, $state: CaseState) {
    run(id: $run) {
      id
      cases(first: $first, after: $after, state: $state) {
        edges { node { ...CaseParts } }
        pageInfo { hasNextPage endCursor }
      }
    }
  }
`,
  [CaseFragment],
);
const CaseDocument = graphql(
  `
  query Case($id: ID!) {
    node(id: $id) { ... on Case { ...CaseParts } }
  }
`,
  [CaseFragment],
);
const DisputeCaseDocument = graphql(
  `
  mutation DisputeCase($input: DisputeCaseInput!) {
    disputeCase(input: $input) { ...CaseParts }
  }
`,
  [CaseFragment],
);
const DecideCaseDocument = graphql(
  `
  mutation DecideCase($input: DecideCaseInput!) {
    decideCase(input: $input) { ...CaseParts }
  }
`,
  [CaseFragment],
);

type Case = ResultOf<typeof CaseFragment>;

export async function listCases(
  client: MusterClient,
  terminal: Terminal,
  options: { run: string; state: Case["state"] | undefined; signal: AbortSignal },
): Promise<void> {
  const { state = null, signal } = options;
  const { id } = await findRun(client, options.run, signal);
  const items: Case[] = [];
  let after: string | null = null;
  do {
    const page: ResultOf<typeof CasesDocument> = await client.execute(
      CasesDocument,
      { run: id, first: 50, after, state },
      { signal },
    );
    const cases = page.run?.cases;
    items.push(...(cases?.edges.map(({ node }) => node) ?? []));
    after = cases?.pageInfo.hasNextPage === true ? cases.pageInfo.endCursor : null;
  } while (after !== null);
  terminal.value({ items });
  if (items.length === 0) return terminal.say("No cases: no group was rejected by a measurement.");
  terminal.say(
    table(
      ["ID", "STATE", "NODE", "GROUP", "CONFIRMED", "DISPUTED", "OPEN UNTIL"],
      items.map(({ id, state, node, group, confirmed, disputedAt, openUntil }) => [
        id,
        state,
        node.name,
        group.id,
        confirmed === null ? "not yet" : confirmed ? "yes" : "no",
        disputedAt ?? "no",
        openUntil,
      ]),
    ),
  );
}

export async function showCase(
  client: MusterClient,
  terminal: Terminal,
  options: { case: string; signal: AbortSignal },
): Promise<void> {
  const { node } = await client.execute(CaseDocument, { id: options.case }, { signal: options.signal });
  if (node === null || !("group" in node)) {
    throw new Failure({
      exit: "refused",
      code: "NOT_FOUND",
      what: `There is no case ${options.case} that you may see.`,
    });
  }
  tell(node, terminal);
}

export async function disputeCase(
  client: MusterClient,
  terminal: Terminal,
  options: { case: string; statement: string; signal: AbortSignal },
): Promise<void> {
  const { statement, signal } = options;
  const input = { case: options.case, statement };
  tell((await client.execute(DisputeCaseDocument, { input }, { signal })).disputeCase, terminal);
}

export async function decideCase(
  client: MusterClient,
  terminal: Terminal,
  options: { case: string; decision: string; reason: string; signal: AbortSignal },
): Promise<void> {
  const { reason, signal } = options;
  const decision = (["UPHELD", "OVERTURNED"] as const).find((one) => one === options.decision.toUpperCase());
  if (decision === undefined) {
    throw new Failure({
      exit: "usage",
      code: "USAGE",
      what: `"${options.decision}" is no decision. A case is UPHELD or OVERTURNED.`,
    });
  }
  const input = { case: options.case, decision, reason };
  tell((await client.execute(DecideCaseDocument, { input }, { signal })).decideCase, terminal);
}

function tell(found: Case, terminal: Terminal): void {
  terminal.value(found);
  const { group, node, confirmed, statement, disputedAt, decision, decidedAt } = found;
  const rows: [string, string][] = [
    ["state", found.state],
    ["accused", `${printable(node.name)} (${node.id})`],
    ["group", `${group.id}, policy version ${group.policyVersion}, prompt ${printable(group.prompt)}`],
    ["rejected for", printable(found.reason)],
    [
      "measured again",
      confirmed === null
        ? "not yet"
        : confirmed
          ? "another validator finds the same"
          : "another validator does not find the same",
    ],
    ["opened", `${found.openedAt}, may be disputed until ${found.openUntil}`],
    ["disputed", disputedAt === null ? "no" : `${disputedAt}: ${printable(statement ?? "")}`],
    ["decided", decidedAt === null ? "not yet" : `${decidedAt}: ${printable(decision ?? "")}`],
    ["verify", found.evidence === null ? "its packs are deleted" : `npm run muster -- verify ${group.id}`],
  ];
  terminal.say(found.id);
  const width = Math.max(...rows.map(([name]) => name.length));
  for (const [name, value] of rows) terminal.say(`  ${name.padEnd(width)}  ${value}`);
}
