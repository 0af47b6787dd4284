import { StateWord } from "../../ui/state-badge.tsx";
import type { WebhookEndpoint } from "./endpoints-table.tsx";

/** How an endpoint is doing, in a word. */
export function stateOf({ state, failures }: Pick<WebhookEndpoint, "state" | "failures">) {
  if (state === "PAUSED") return { word: "Paused", tone: "idle" } as const;
  if (failures > 0) return { word: `Failing (${failures})`, tone: "rejected" } as const;
  return { word: "Active", tone: "ok" } as const;
}

export function EndpointState({ endpoint }: { endpoint: WebhookEndpoint }) {
  const { word, tone } = stateOf(endpoint);
  return (
    <span title={endpoint.reason ?? undefined}>
      <StateWord tone={tone}>{word}</StateWord>
    </span>
  );
}
