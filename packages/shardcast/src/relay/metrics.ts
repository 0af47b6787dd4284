import type { PullStatus } from "./pull.ts";

export type RelayFigures = PullStatus & {
  sentBytes: number;
  heldBytes: number;
  budgetBytes: number;
  clients: number;
  connections: number;
  requestsUnderWay: number;
  /** Answers by status. */
  answers: ReadonlyMap<number, number>;
};

type Metric = { type: "counter" | "gauge"; help: string; values: [labels: Record<string, string>, number][] };

/** The figures of a relay in Prometheus' text format. They name no run and no client: whoever reaches the relay may read them. */
export function metricsText(figures: RelayFigures): string {
  return Object.entries(metricsOf(figures))
    .flatMap(([name, { type, help, values }]) => [
      `# HELP muster_relay_${name} ${help}`,
      `# TYPE muster_relay_${name} ${type}`,
      ...values.map(([labels, value]) => `muster_relay_${name}${written(labels)} ${value}`),
    ])
    .concat("")
    .join("\n");
}

function metricsOf(figures: RelayFigures): Record<string, Metric> {
  const { receivedBytes } = figures;
  return {
    received_bytes_total: counter("Bytes received, by where from.", [
      [{ from: "parent" }, receivedBytes.parent],
      [{ from: "origin" }, receivedBytes.origin],
    ]),
    sent_bytes_total: counter("Bytes of blobs sent.", [[{}, figures.sentBytes]]),
    wasted_bytes_total: counter("Bytes received that were thrown away.", [[{}, figures.wastedBytes]]),
    answers_total: counter(
      "Requests for blobs, by the status they were answered with.",
      [...figures.answers].map(([status, count]) => [{ status: String(status) }, count]),
    ),
    faults_total: counter(
      "Failures of those this relay fetches from.",
      [...figures.faults].map(([key, count]) => {
        const [parent = "", fault = ""] = key.split(" ");
        return [{ parent, fault }, count];
      }),
    ),
    held_bytes: gauge("Bytes of the blobs on the disk.", figures.heldBytes),
    budget_bytes: gauge("Bytes of blobs this relay may keep.", figures.budgetBytes),
    versions_held: gauge("Versions that are here whole.", figures.versionsHeld),
    newest_version: gauge("Newest version that is here whole; -1 for none.", figures.newestVersion ?? -1),
    runs: gauge("Runs it relays.", figures.runs),
    clients: gauge("Clients that asked for something within a minute.", figures.clients),
    connections: gauge("Open connections.", figures.connections),
    requests_under_way: gauge("Requests being answered.", figures.requestsUnderWay),
    pulls_under_way: gauge("Blobs being fetched.", figures.underWay),
    pulls_waiting: gauge("Blobs still to be fetched.", figures.waiting),
  };
}

const counter = (help: string, values: Metric["values"]): Metric => ({ type: "counter", help, values });
const gauge = (help: string, value: number): Metric => ({ type: "gauge", help, values: [[{}, value]] });

function written(labels: Record<string, string>): string {
  const pairs = Object.entries(labels).map(
    ([name, value]) =>
      `${name}="${value.replace(/[\\"\n]/g, (character) => (character === "\n" ? "\\n" : `\\${character}`))}"`,
  );
  return pairs.length === 0 ? "" : `{${pairs.join(",")}}`;
}
