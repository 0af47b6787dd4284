import { randomUUID } from "node:crypto";
import { extname } from "node:path";
import { prefixOf } from "@muster/protocol";
import { graphql, type MusterClient, type Run, type RunState } from "@muster/sdk";
import { parse as parseToml, TomlError } from "smol-toml";
import { readBytes } from "./checkpoint.ts";
import type { Exit } from "./exit-codes.ts";
import { Failure } from "./failure.ts";
import { progressLine, progressOf, showProgress } from "./run-progress.ts";
import { printable, type Terminal, table } from "./terminal.ts";

const MyOrganizationsDocument = graphql(`
  query MyOrganizations {
    organizations { id name }
  }
`);

export async function listRuns(
  client: MusterClient,
  terminal: Terminal,
  options: { state: RunState | undefined; signal: AbortSignal },
): Promise<void> {
  const { state, signal } = options;
  const runs: Run[] = [];
  for await (const run of client.runs.list(state === undefined ? {} : { state }, { signal })) runs.push(run);
  terminal.value({ items: runs });
  if (runs.length === 0)
    return terminal.say("There are no runs. Create one: npm run muster -- runs create <spec.toml>");
  terminal.say(
    table(
      ["ID", "SLUG", "STATE", "STEP", "REWARD", "ACCEPTED", "REJECTED"],
      runs.map((run) => {
        const { step, steps, reward, accepted, rejected } = progressOf(run);
        return [
          run.id,
          run.slug,
          run.state,
          `${step}/${steps}`,
          reward?.toFixed(2) ?? "–",
          accepted,
          rejected,
        ];
      }),
    ),
  );
}

export async function showRun(
  client: MusterClient,
  terminal: Terminal,
  options: { run: string; signal: AbortSignal },
): Promise<void> {
  const { signal } = options;
  const run = await findRun(client, options.run, signal);
  const evaluations = await client.runs.evaluations({ run: run.id }, { signal });
  terminal.value({ ...run, evaluations });
  const { tasks, groups, workersActive, tokensGenerated, tokensMeasured } = run.stats;
  const counts = (of: Record<string, number>) =>
    Object.entries(of)
      .flatMap(([name, n]) => (n > 0 ? [`${n} ${name}`] : []))
      .join(", ") || "none";
  // as everywhere else: what is set aside was accepted, and is paid
  const { accepted, setAside, ...others } = groups;
  const settled = { accepted: accepted + setAside, "of these without signal": setAside };
  terminal.say(progressLine(run));
  const rows: [string, string][] = [
    ["id", run.id],
    ["slug", run.slug],
    ["state", run.stateReason === null ? run.state : `${run.state} (${printable(run.stateReason)})`],
    ["environment", run.environment.slug],
    ["revision", `${run.revision.number}, spec ${run.revision.hash.slice(0, 12)}`],
    ["version", run.currentVersion === null ? "none yet" : String(run.currentVersion)],
    ["tasks", counts(tasks)],
    ["groups", counts({ ...settled, ...others })],
    ["workers", run.endedAt === null ? `${workersActive} generating` : "none, the run has ended"],
    ["tokens", `${tokensGenerated} generated, ${tokensMeasured} measured`],
    ...evaluations.map(({ version, mean, ciLow, ciHigh, n }): [string, string] => [
      `version ${version}`,
      `held-out reward ${mean.toFixed(3)} (${ciLow.toFixed(3)} to ${ciHigh.toFixed(3)}, n = ${n})`,
    ]),
  ];
  const width = Math.max(...rows.map(([name]) => name.length));
  for (const [name, value] of rows) terminal.say(`  ${name.padEnd(width)}  ${value}`);
}

/** Creates a run from a file; its issues are told one by one when the coordinator refuses it. */
export async function createRun(
  client: MusterClient,
  terminal: Terminal,
  options: {
    file: string;
    credits: string;
    start: boolean;
    organization: string | undefined;
    signal: AbortSignal;
  },
): Promise<void> {
  const { signal } = options;
  const spec = await readSpec(options.file);
  const organization = options.organization ?? (await onlyOrganization(client, signal));
  const outcome = await client.runs.create(
    { organization, spec, credits: options.credits, start: options.start, idempotencyKey: randomUUID() },
    { signal },
  );
  if (outcome.__typename === "SpecInvalid") {
    throw new Failure({
      exit: "refused",
      code: "SPEC_INVALID",
      what: `The coordinator refused ${options.file}: ${outcome.message}`,
      fix: outcome.issues.map(({ path, message }) => `${path === "" ? "spec" : path}: ${message}`),
    });
  }
  terminal.value(outcome.run);
  terminal.say(`Created ${outcome.run.id} (${outcome.run.slug}), ${outcome.run.state}. Follow it:`);
  terminal.say(`npm run muster -- runs watch ${outcome.run.id}`);
}

/** Follows a run to its end. @returns `failed` when it ended other than COMPLETED. */
export async function watchRun(
  client: MusterClient,
  terminal: Terminal,
  options: { run: string; signal: AbortSignal },
): Promise<Exit> {
  const { signal } = options;
  const { id } = await findRun(client, options.run, signal);
  const ended = await showProgress(client, terminal, { run: id, signal });
  terminal.status("");
  if (ended === undefined) return "interrupted";
  return ended.state === "COMPLETED" ? "ok" : "failed";
}

export async function controlRun(
  client: MusterClient,
  terminal: Terminal,
  options: {
    run: string;
    action: "pause" | "resume" | "cancel";
    reason: string | undefined;
    signal: AbortSignal;
  },
): Promise<void> {
  const { action, reason, signal } = options;
  const { id } = await findRun(client, options.run, signal);
  const input = { run: id, ...(reason === undefined ? {} : { reason }) };
  const run = await client.runs[action](input, { signal });
  terminal.value(run);
  terminal.say(
    `${run.slug} is ${run.state}${run.stateReason === null ? "" : ` (${printable(run.stateReason)})`}.`,
  );
}

export async function grantRole(
  client: MusterClient,
  terminal: Terminal,
  options: { run: string; node: string; role: string; revoke: boolean; signal: AbortSignal },
): Promise<void> {
  const { node, revoke, signal } = options;
  const role = grantable.find((one) => one === options.role.toUpperCase());
  if (role === undefined) {
    throw new Failure({
      exit: "usage",
      code: "USAGE",
      what: `"${options.role}" is no role that can be granted. Known are ${grantable.join(", ").toLowerCase()}; generating needs no grant.`,
    });
  }
  const { id: run } = await findRun(client, options.run, signal);
  const grant = await (revoke ? client.runs.revokeRole : client.runs.grantRole)(
    { run, node, role },
    { signal },
  );
  terminal.value(grant);
  terminal.say(
    `${printable(grant.node.name)} ${revoke ? "is no longer" : "is now"} ${role} of ${options.run}.`,
  );
  // a node takes granted roles only from whom it names
  if (!revoke)
    terminal.say(
      `It must agree: muster ${role === "RELAY" ? "relay" : `worker --roles ${role.toLowerCase()}`} --run ${run} --url <coordinator>, on that machine.`,
    );
}

const grantable = ["VALIDATOR", "TRAINER", "EVALUATOR", "RELAY"] as const;

/** A run by its id or slug. */
export async function findRun(client: MusterClient, name: string, signal: AbortSignal): Promise<Run> {
  return await client.runs.get(prefixOf(name) === "run" ? { id: name } : { slug: name }, { signal });
}

async function onlyOrganization(client: MusterClient, signal: AbortSignal): Promise<string> {
  const { organizations } = await client.execute(MyOrganizationsDocument, {}, { signal });
  const [first] = organizations;
  if (first !== undefined && organizations.length === 1) return first.id;
  throw new Failure({
    exit: first === undefined ? "signedOut" : "usage",
    code: first === undefined ? "NO_ORGANIZATION" : "USAGE",
    what:
      first === undefined
        ? "You are not signed in as a member of an organization, and a run belongs to one."
        : "You belong to several organizations; say which one the run is for.",
    fix:
      first === undefined
        ? ["export MUSTER_API_KEY=<key>"]
        : organizations.map(({ id, name }) => `--organization ${id}    (${printable(name)})`),
  });
}

/** What a file in TOML or JSON says. @throws Failure `FILE_UNREADABLE`, `FILE_MALFORMED` */
export async function readSpec(file: string): Promise<unknown> {
  const text = new TextDecoder().decode(await readBytes(file));
  try {
    return extname(file) === ".toml" ? parseToml(text) : JSON.parse(text);
  } catch (error) {
    if (!(error instanceof TomlError || error instanceof SyntaxError)) throw error;
    throw new Failure({
      exit: "usage",
      code: "FILE_MALFORMED",
      what: `${file} is not ${extname(file) === ".toml" ? "TOML" : "JSON (end the name in .toml for TOML)"}: ${error.message}`,
      fix: ["npm run --silent muster -- demo-spec > spec.json"],
    });
  }
}
