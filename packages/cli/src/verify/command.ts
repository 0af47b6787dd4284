// `muster verify`: a verdict is nobody's word. From a bundle alone, everything that led to it is checked and computed again.
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { ExecutionProvider } from "@muster/policy";
import { prefixOf } from "@muster/protocol";
import { ApiError, graphql, type MusterClient } from "@muster/sdk";
import { checkpointAt, fetchCheckpoint, readBytes } from "../checkpoint.ts";
import type { Exit } from "../exit-codes.ts";
import { Failure } from "../failure.ts";
import { findRun } from "../runs.ts";
import { type Terminal, table } from "../terminal.ts";
import { type FindCheckpoint, Measurer, type Verified, verifyBundle } from "./bundle.ts";
import { report, sentence, verifiedJson } from "./report.ts";

export type VerifyOptions = {
  /** Folder or file of the policy's weights. */
  checkpoint: string | undefined;
  coordinatorKey: string | undefined;
  /** Where the bundle is kept. */
  save: string | undefined;
  /** Whether the tokens are measured here. */
  measure: boolean;
  providers: readonly ExecutionProvider[];
};

type Online = VerifyOptions & { signal: AbortSignal };

const CoordinatorKeyDocument = graphql(`
  query CoordinatorKey {
    coordinator { publicKey }
  }
`);
const GroupOfRolloutDocument = graphql(`
  query GroupOfRollout($id: ID!) {
    node(id: $id) {
      ... on Rollout { group { id } }
    }
  }
`);

/** Whether a word names a group or a rollout of a coordinator; else it is a file. */
export function isId(word: string): boolean {
  const prefix = prefixOf(word);
  return prefix === "group" || prefix === "rollout";
}

/** Verifies a bundle in a file, without any network. */
export async function verifyFile(file: string, options: VerifyOptions, terminal: Terminal): Promise<Exit> {
  await using measurer = measurerOf(options, async ({ manifest }) => {
    throw new Failure({
      exit: "failed",
      code: "NO_CHECKPOINT",
      what: `The bundle does not hold version ${manifest.version} of the policy, so its tokens cannot be measured here.`,
      fix: [
        `npm run muster -- verify ${file} --checkpoint <folder with model.safetensors and config.json>`,
        `npm run muster -- verify ${file} --no-measure`,
      ],
    });
  });
  const bytes = await readBytes(file);
  const { coordinatorKey } = options;
  const verified = await verifyBundle(bytes, { coordinatorKey, measurer });
  if (options.save !== undefined) await writeFile(options.save, bytes);
  if (coordinatorKey === undefined)
    terminal.note(
      `Signed by ${verified.evidence.header.coordinator}; give --coordinator-key to insist on a coordinator.`,
    );
  return tell(verified, measurer?.provider, terminal);
}

/** Verifies the bundle of a group or rollout, fetched from the coordinator. */
export async function verifyIds(
  client: MusterClient,
  { id, ...options }: Online & { id: string },
  terminal: Terminal,
): Promise<Exit> {
  const { save, signal } = options;
  await using measurer = onlineMeasurer(client, options);
  const coordinatorKey = await keyOf(client, options);
  const group = await groupOf(client, id, signal);
  const bytes = await client.evidence.get({ group }, { signal });
  if (save !== undefined) await writeFile(save, bytes);
  const verified = await verifyBundle(bytes, { coordinatorKey, measurer, about: { group } });
  return tell(verified, measurer?.provider, terminal);
}

/** Verifies every group of a run that was measured. What retention has deleted is counted and does not fail. */
export async function verifyRun(
  client: MusterClient,
  { run, ...options }: Online & { run: string },
  terminal: Terminal,
): Promise<Exit> {
  const { save, signal } = options;
  const { id } = await findRun(client, run, signal);
  await using measurer = onlineMeasurer(client, options);
  const coordinatorKey = await keyOf(client, options);
  if (save !== undefined) await mkdir(save, { recursive: true });
  const seen = new Set<string>();
  /** Groups by what their workers signed: one submission is not the evidence of two. */
  const places = new Map<string, string>();
  const differing: Verified[] = [];
  let gone = 0;
  for await (const { group } of client.runs.verifications({ run: id }, { signal })) {
    if (seen.has(group.id)) continue;
    seen.add(group.id);
    terminal.status(`${seen.size} groups, ${differing.length} differ …`);
    let bytes: Uint8Array;
    try {
      bytes = await client.evidence.get({ group: group.id }, { signal });
    } catch (error) {
      if (!(error instanceof ApiError) || !absent.has(error.code)) throw error;
      gone++;
      continue;
    }
    if (save !== undefined) await writeFile(join(save, `${group.id}.evidence`), bytes);
    const about = { group: group.id, run: id };
    const verified = onceOnly(places, await verifyBundle(bytes, { coordinatorKey, measurer, about }));
    if (!verified.agrees) differing.push(verified);
    terminal.value(verifiedJson(verified));
  }
  terminal.status("");
  const checked = seen.size - gone;
  if (differing.length > 0) {
    terminal.say(
      table(
        ["GROUP", "RECORDED", "WHAT DIFFERS"],
        differing.map(({ evidence, differences }) => [
          evidence.header.group,
          evidence.header.verdict?.verdict ?? "–",
          differences.join(" "),
        ]),
      ),
    );
  }
  const deleted = gone === 0 ? "" : ` Of ${gone} others the evidence is deleted.`;
  const how = options.measure ? "judged again and measured here" : "judged again";
  terminal.say(
    differing.length === 0
      ? `All ${checked} groups of ${run} agree, ${how}.${deleted}`
      : `${differing.length} of ${checked} groups of ${run} do not agree, ${how}.${deleted}`,
  );
  terminal.value({ run: id, groups: checked, agree: checked - differing.length, gone });
  return differing.length === 0 ? "ok" : "failed";
}

/** The same, but that it differs when its rollouts are another group's already: a bundle's own word is all that names its group. */
function onceOnly(places: Map<string, string>, verified: Verified): Verified {
  const { group, task, index } = verified.evidence.header;
  const place = `${task} ${index}`;
  const other = places.get(place);
  places.set(place, group);
  if (other === undefined) return verified;
  const differences = [...verified.differences, `Its rollouts are those of ${other}.`];
  return { ...verified, agrees: false, differences };
}

/** Codes with which the coordinator says that a group's packs are not there any more. */
const absent: ReadonlySet<string> = new Set(["NOT_FOUND", "BLOB_NOT_FOUND"]);

function tell(verified: Verified, provider: string | undefined, terminal: Terminal): Exit {
  terminal.value({ ...verifiedJson(verified), provider, sentence: sentence(verified, provider) });
  report(verified, provider, terminal);
  return verified.agrees ? "ok" : "failed";
}

function measurerOf(
  { measure, checkpoint, providers }: VerifyOptions,
  otherwise: FindCheckpoint,
): Measurer | undefined {
  if (!measure) return undefined;
  return new Measurer(providers, checkpoint === undefined ? otherwise : () => checkpointAt(checkpoint));
}

function onlineMeasurer(client: MusterClient, options: Online): Measurer | undefined {
  return measurerOf(options, async ({ pack }) => {
    const { files } = await fetchCheckpoint(client, pack.header.manifest, options.signal);
    return files;
  });
}

async function keyOf(client: MusterClient, { coordinatorKey, signal }: Online): Promise<string> {
  if (coordinatorKey !== undefined) return coordinatorKey;
  return (await client.execute(CoordinatorKeyDocument, {}, { signal })).coordinator.publicKey;
}

async function groupOf(client: MusterClient, id: string, signal: AbortSignal): Promise<string> {
  if (prefixOf(id) === "group") return id;
  const { node } = await client.execute(GroupOfRolloutDocument, { id }, { signal });
  if (node === null || !("group" in node)) {
    throw new Failure({
      exit: "refused",
      code: "NOT_FOUND",
      what: `There is no rollout ${id} that you may see.`,
    });
  }
  return node.group.id;
}
