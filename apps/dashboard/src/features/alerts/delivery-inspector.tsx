"use client";

import { useMemo } from "react";
import { useMutation } from "urql";
import { graphql } from "../../graphql/graphql.ts";
import { useSteadyQuery } from "../../graphql/use-steady-query.ts";
import { Button } from "../../ui/button.tsx";
import { CopyButton, Id } from "../../ui/copy.tsx";
import { formatClock, sentence } from "../../ui/format.ts";
import { NotFound, QueryState, Refused } from "../../ui/states.tsx";
import { Age } from "../../ui/time.tsx";
import { toast } from "../../ui/toast.tsx";
import { UntrustedText } from "../../ui/untrusted-text.tsx";
import type { Place } from "./alerts-page.tsx";
import { AnswerShown } from "./answer-shown.tsx";
import { Fact } from "./endpoint-detail.tsx";
import { useEvery } from "./use-every.ts";

const DeliveryInspectorQuery = graphql(`
  query DeliveryInspector($id: ID!) {
    node(id: $id) {
      id
      ... on WebhookDelivery {
        messageId
        eventType
        body
        state
        sending
        attempts
        nextAttemptAt
        lastAttemptAt
        latencyMs
        responseStatus
        responseBody
        error
        createdAt
        log {
          at
          ms
          status
          error
        }
        endpoint {
          id
          url
          state
        }
      }
    }
  }
`);

const ResendWebhook = graphql(`
  mutation ResendWebhook($input: ResendWebhookInput!) {
    resendWebhook(input: $input) {
      id
      state
      nextAttemptAt
    }
  }
`);

/** A message with its headers, its body and what came back. */
export function DeliveryInspector({ id, place }: { id: string; place: Place }) {
  const [query, reload] = useSteadyQuery({ query: DeliveryInspectorQuery, variables: { id } });
  const [{ fetching, error }, resend] = useMutation(ResendWebhook);
  const found = query.data?.node;
  const delivery = found && "body" in found ? found : undefined;
  useEvery(2_000, () => {
    if (delivery?.state === "PENDING") reload();
  });
  const body = useMemo(() => pretty(delivery?.body ?? ""), [delivery?.body]);

  async function again(): Promise<void> {
    const { error: failed } = await resend({ input: { delivery: id } });
    if (failed) return;
    toast("Sending it again");
    reload();
  }

  return (
    <>
      <QueryState query={query} retry={reload} what="the delivery" shown="The delivery" rows={6} />
      {query.data && delivery === undefined ? <NotFound what="delivery" /> : null}
      {delivery ? (
        <div className="grid gap-4">
          <dl className="grid grid-cols-[auto_1fr] gap-x-4 gap-y-1 text-table">
            <Fact name="State">
              {delivery.sending ? "Sending" : sentence(delivery.state)}
              {delivery.nextAttemptAt ? (
                <>
                  , next try <Age at={delivery.nextAttemptAt} />
                </>
              ) : null}
            </Fact>
            <Fact name="Goes to">
              <span className="wrap-anywhere font-mono">{delivery.endpoint.url}</span>
            </Fact>
            <Fact name="Made">
              <Age at={delivery.createdAt} />
            </Fact>
            <Fact name="Attempts">{delivery.attempts}</Fact>
            <Fact name="Id">
              <Id id={delivery.id} />
            </Fact>
          </dl>
          {place.manages ? (
            <div>
              <Button
                disabled={fetching || delivery.sending || delivery.endpoint.state === "PAUSED"}
                title={delivery.endpoint.state === "PAUSED" ? "Resume the webhook first." : undefined}
                onClick={() => void again()}
              >
                Send again
              </Button>
              <Refused error={error} />
            </div>
          ) : null}
          <section aria-label="Answer">
            <h3 className="mb-1 font-medium">Answer</h3>
            {delivery.log.length === 0 ? (
              <p className="text-table text-subtle">It was not tried yet.</p>
            ) : (
              <AnswerShown answer={delivery} />
            )}
          </section>
          <section aria-label="Request">
            <div className="mb-1 flex items-center gap-2">
              <h3 className="mr-auto font-medium">Request</h3>
              <CopyButton text={delivery.body} label="Copy body" />
            </div>
            <pre className="overflow-x-auto rounded-control bg-raised p-2 font-mono text-table">
              {[
                "content-type: application/json",
                `webhook-id: ${delivery.messageId}`,
                "webhook-timestamp: the second of the attempt",
                "webhook-signature: v1,… made anew for each",
              ].join("\n")}
            </pre>
            {/* what nodes and people call themselves stands in it */}
            <div className="mt-2 max-h-96 overflow-auto rounded-control bg-raised p-2 text-table">
              <UntrustedText text={body} />
            </div>
          </section>
          {delivery.log.length > 0 ? (
            <section aria-label="Attempts">
              <h3 className="mb-1 font-medium">Attempts</h3>
              <ol className="grid gap-0.5 text-table text-muted">
                {delivery.log.map((attempt) => (
                  <li key={attempt.at} className="flex flex-wrap gap-x-3">
                    <time dateTime={attempt.at}>{formatClock(new Date(attempt.at))}</time>
                    <span className="text-fg">{attempt.status ?? "no answer"}</span>
                    <span>{attempt.ms} ms</span>
                    {attempt.error ? <span className="wrap-anywhere">{attempt.error}</span> : null}
                  </li>
                ))}
              </ol>
            </section>
          ) : null}
        </div>
      ) : null}
    </>
  );
}

/** The body as it reads best; it is signed as it was sent. */
function pretty(body: string): string {
  try {
    return JSON.stringify(JSON.parse(body), null, 2);
  } catch {
    return body;
  }
}
