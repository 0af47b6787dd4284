import { fromTypeId, type IdPrefix, prefixOf, toTypeId } from "@muster/protocol";
import { CodedError } from "../errors.ts";

/** Which prefix the ids of a GraphQL type carry. A node in a run is `<run id>.<node id>`. */
const prefixes = {
  Run: "run",
  RunRevision: "rev",
  ComputeNode: "node",
  RoleGrant: "grant",
  Task: "task",
  Attempt: "attempt",
  Group: "group",
  Rollout: "rollout",
  Verification: "verif",
  Case: "case",
  Batch: "batch",
  Checkpoint: "ckpt",
  TrainStep: "step",
  Evaluation: "eval",
  LedgerTransaction: "ledger",
  LedgerEntry: "entry",
  Organization: "org",
  User: "user",
  ApiKey: "key",
  Relay: "relay",
  CheckpointReceipt: "receipt",
  AlertRule: "rule",
  Alert: "alert",
  WebhookEndpoint: "hook",
  WebhookDelivery: "delivery",
} as const satisfies Record<string, IdPrefix>;

/** The id of a GraphQL object as every surface shows it. `id` is the UUID, for a node in a run `<run uuid>.<node uuid>`. */
export function encodeId(typename: string, id: string): string {
  if (typename === "RunNode") {
    const [run = "", node = ""] = id.split(".");
    return `${toTypeId("run", run)}.${toTypeId("node", node)}`;
  }
  const prefix = (prefixes as Record<string, IdPrefix | undefined>)[typename];
  if (prefix === undefined)
    throw new Error(`The type ${typename} has no id prefix; add it to graphql/ids.ts.`);
  return toTypeId(prefix, id);
}

/** @throws CodedError `INPUT_INVALID` for anything but a whole id of a known type. */
export function decodeId(id: string): { typename: string; id: string } {
  const dot = id.indexOf(".");
  if (dot > 0) {
    return {
      typename: "RunNode",
      id: `${fromTypeId(id.slice(0, dot), "run")}.${fromTypeId(id.slice(dot + 1), "node")}`,
    };
  }
  const prefix = prefixOf(id);
  const typename = Object.entries(prefixes).find(([, known]) => known === prefix)?.[0];
  if (typename === undefined || prefix === undefined) {
    throw new CodedError(
      "INPUT_INVALID",
      `"${id.slice(0, 60)}" is no id of this API. Ids look like run_01h455vb4pex5vsknk084sn02q.`,
    );
  }
  return { typename, id: fromTypeId(id, prefix) };
}
