"use client";

import Link from "next/link";
import { type ReactNode, useId, useState } from "react";
import { useMutation } from "urql";
import { graphql } from "../../graphql/graphql.ts";
import { Button, buttonClass } from "../../ui/button.tsx";
import { Confirm, preparesConfirm } from "../../ui/confirm.tsx";
import { Id } from "../../ui/copy.tsx";
import { formatCount } from "../../ui/format.ts";
import { Refused } from "../../ui/states.tsx";
import { Age } from "../../ui/time.tsx";
import { toast } from "../../ui/toast.tsx";
import type { Place } from "./alerts-page.tsx";
import { type Answer, AnswerShown } from "./answer-shown.tsx";
import { EndpointState } from "./endpoint-state.tsx";
import type { WebhookEndpoint } from "./endpoints-table.tsx";
import { hostOf } from "./host.ts";

const SendTestWebhook = graphql(`
  mutation SendTestWebhook($input: WebhookEndpointInput!) {
    sendTestWebhook(input: $input) {
      id
      state
      latencyMs
      responseStatus
      responseBody
      error
    }
  }
`);

const RotateWebhookSecret = graphql(`
  mutation RotateWebhookSecret($input: RotateWebhookSecretInput!) {
    rotateWebhookSecret(input: $input) {
      secret
      endpoint {
        id
        secretMadeAt
        previousSecretUntil
      }
    }
  }
`);

const PauseWebhookEndpoint = graphql(`
  mutation PauseWebhookEndpoint($input: WebhookEndpointInput!) {
    pauseWebhookEndpoint(input: $input) {
      id
      state
      reason
    }
  }
`);

const ResumeWebhookEndpoint = graphql(`
  mutation ResumeWebhookEndpoint($input: ResumeWebhookEndpointInput!) {
    resumeWebhookEndpoint(input: $input) {
      id
      state
      reason
      failures
      restsUntil
      missed
      waiting
    }
  }
`);

/** One endpoint, and what can be done with it. */
export function EndpointDetail(props: {
  endpoint: WebhookEndpoint;
  place: Place;
  edit(): void;
  remove(): void;
  rotated(secret: string): void;
  changed(): void;
}) {
  const { endpoint, place, edit, remove, rotated, changed } = props;
  const id = useId();
  const [test, sendTest] = useMutation(SendTestWebhook);
  const [answer, setAnswer] = useState<Answer>();
  const [rotation, rotate] = useMutation(RotateWebhookSecret);
  const [asking, setAsking] = useState(false);
  const [overlap, setOverlap] = useState("24");
  const [pausing, pause] = useMutation(PauseWebhookEndpoint);
  const [resuming, resume] = useMutation(ResumeWebhookEndpoint);
  const [skip, setSkip] = useState(false);
  const paused = endpoint.state === "PAUSED";
  const hours = Number(overlap);
  const overlapOk = overlap.trim() !== "" && hours >= 0 && hours <= 168;

  async function tryIt(): Promise<void> {
    setAnswer(undefined);
    const { data } = await sendTest({ input: { endpoint: endpoint.id } });
    if (data) setAnswer(data.sendTestWebhook);
    changed();
  }
  async function newSecret(): Promise<void> {
    if (!overlapOk) return;
    const { data } = await rotate({ input: { endpoint: endpoint.id, overlapHours: hours } });
    if (!data?.rotateWebhookSecret.secret) return;
    setAsking(false);
    rotated(data.rotateWebhookSecret.secret);
  }
  async function start(): Promise<void> {
    const { error } = await resume({ input: { endpoint: endpoint.id, skipMissed: skip } });
    if (!error) toast("Resumed the webhook");
  }
  async function stop(): Promise<void> {
    const { error } = await pause({ input: { endpoint: endpoint.id } });
    if (!error) toast("Paused the webhook");
  }

  return (
    <div className="grid gap-4">
      <dl className="grid grid-cols-[auto_1fr] gap-x-4 gap-y-1 text-table">
        <Fact name="Goes to">
          <span className="wrap-anywhere font-mono">{endpoint.url}</span>
        </Fact>
        <Fact name="State">
          <EndpointState endpoint={endpoint} />
          {endpoint.reason ? <p className="text-muted">{endpoint.reason}</p> : null}
          {endpoint.restsUntil && !paused ? (
            <p className="text-muted">
              It is tried again <Age at={endpoint.restsUntil} />.
            </p>
          ) : null}
        </Fact>
        <Fact name="Hears">
          <span className="font-mono">{endpoint.eventTypes.join(", ")}</span> of{" "}
          {endpoint.run?.name ?? "every run"}
        </Fact>
        <Fact name="Pauses after">{endpoint.pauseAfter} failures in a row</Fact>
        <Fact name="Secret">
          made <Age at={endpoint.secretMadeAt} />
          {endpoint.previousSecretUntil ? (
            <p className="text-muted">
              The one before it signs as well; it ends <Age at={endpoint.previousSecretUntil} />.
            </p>
          ) : null}
        </Fact>
        <Fact name="Waiting">{formatCount(endpoint.waiting)}</Fact>
        {endpoint.missed === "0" ? null : (
          <Fact name="Missed">
            {formatCount(BigInt(endpoint.missed))} events were deleted or skipped before they were sent
          </Fact>
        )}
        <Fact name="Id">
          <Id id={endpoint.id} />
        </Fact>
      </dl>
      <div className="flex flex-wrap gap-2">
        {place.manages ? (
          <>
            <Button disabled={test.fetching} onClick={() => void tryIt()}>
              {test.fetching ? "Sending …" : "Send a test"}
            </Button>
            <Button {...preparesConfirm} onClick={() => setAsking(true)}>
              Rotate secret
            </Button>
            <Button onClick={edit}>Edit</Button>
            {paused ? null : (
              <Button disabled={pausing.fetching} onClick={() => void stop()}>
                Pause
              </Button>
            )}
            <Button tone="danger" {...preparesConfirm} onClick={remove}>
              Delete
            </Button>
          </>
        ) : null}
        <Link href={`/alerts?tab=deliveries&f.endpoint=${endpoint.id}`} className={buttonClass()}>
          Deliveries
        </Link>
      </div>
      {paused && place.manages ? (
        <div className="rounded-control bg-idle-soft px-3 py-2 text-on-idle-soft">
          <p>What happened meanwhile is sent when it is resumed.</p>
          <label htmlFor={`${id}-skip`} className="mt-1 flex items-center gap-2 text-table">
            <input
              id={`${id}-skip`}
              type="checkbox"
              className="size-4 accent-[var(--accent)]"
              checked={skip}
              onChange={(event) => setSkip(event.target.checked)}
            />
            Skip it: begin with what happens now
          </label>
          <Button className="mt-2" tone="primary" disabled={resuming.fetching} onClick={() => void start()}>
            Resume
          </Button>
        </div>
      ) : null}
      {answer ? <AnswerShown answer={answer} /> : null}
      <Refused error={test.error ?? pausing.error ?? resuming.error} />
      <Confirm
        open={asking}
        onOpenChange={setAsking}
        title={`Rotate the secret of the webhook to ${hostOf(endpoint.url)}?`}
        description="A new secret is made and shown once. Until the overlap ends, messages are signed with both, so your server can take either."
        button="Rotate secret"
        danger={hours === 0}
        busy={rotation.fetching}
        error={rotation.error}
        onConfirm={newSecret}
      >
        <label htmlFor={`${id}-overlap`} className="flex items-center gap-2">
          Overlap
          <input
            id={`${id}-overlap`}
            className="control w-20 text-right tabular-nums"
            inputMode="decimal"
            autoComplete="off"
            aria-invalid={!overlapOk}
            value={overlap}
            onChange={(event) => setOverlap(event.target.value)}
          />
          <span className="text-table text-subtle">hours, at most 168</span>
        </label>
      </Confirm>
    </div>
  );
}

export function Fact({ name, children }: { name: string; children: ReactNode }) {
  return (
    <>
      <dt className="text-subtle">{name}</dt>
      <dd className="min-w-0">{children}</dd>
    </>
  );
}
