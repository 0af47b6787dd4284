"use client";

import { useId, useState } from "react";
import { useMutation } from "urql";
import { graphql } from "../../graphql/graphql.ts";
import { useSteadyQuery } from "../../graphql/use-steady-query.ts";
import { Refused } from "../../ui/states.tsx";
import { toast } from "../../ui/toast.tsx";
import type { Place } from "./alerts-page.tsx";
import type { WebhookEndpoint } from "./endpoints-table.tsx";
import { Field, FormDialog } from "./form-dialog.tsx";

const EndpointFormQuery = graphql(`
  query EndpointForm {
    webhookEventTypes
    runs(first: 100) {
      edges {
        node {
          id
          name
          organization {
            id
          }
        }
      }
    }
  }
`);

const CreateWebhookEndpoint = graphql(`
  mutation CreateWebhookEndpoint($input: CreateWebhookEndpointInput!) {
    createWebhookEndpoint(input: $input) {
      secret
      endpoint {
        id
        url
      }
    }
  }
`);

const UpdateWebhookEndpoint = graphql(`
  mutation UpdateWebhookEndpoint($input: UpdateWebhookEndpointInput!) {
    updateWebhookEndpoint(input: $input) {
      id
      url
      description
      eventTypes
      pauseAfter
    }
  }
`);

/** Makes or changes an endpoint. */
export function EndpointForm(props: {
  place: Place;
  endpoint: WebhookEndpoint | undefined;
  close(): void;
  /** With the secret of a new one. */
  saved(made: { text: string; url: string } | undefined): void;
}) {
  const { place, endpoint, close, saved } = props;
  const id = useId();
  const [url, setUrl] = useState(endpoint?.url ?? "");
  const [description, setDescription] = useState(endpoint?.description ?? "");
  const [run, setRun] = useState(endpoint?.run?.id ?? "");
  const [pauseAfter, setPauseAfter] = useState(String(endpoint?.pauseAfter ?? 20));
  const [chosen, setChosen] = useState<ReadonlySet<string>>(
    () => new Set(endpoint?.eventTypes ?? ["alert.*", "run.state", "webhook.paused"]),
  );
  const [{ data }] = useSteadyQuery({ query: EndpointFormQuery });
  const [created, create] = useMutation(CreateWebhookEndpoint);
  const [changed, change] = useMutation(UpdateWebhookEndpoint);
  const limit = Number(pauseAfter);
  const limitOk = Number.isInteger(limit) && limit >= 1 && limit <= 1000;
  const urlOk = /^https?:\/\/[^\s]+$/.test(url.trim());

  async function submit(): Promise<void> {
    const shared = {
      url: url.trim(),
      description: description.trim(),
      eventTypes: [...chosen],
      pauseAfter: limit,
    };
    if (endpoint === undefined) {
      const { data: made, error } = await create({
        input: { organization: place.id, run: run === "" ? null : run, ...shared },
      });
      if (error || made === undefined) return;
      const { secret, endpoint: fresh } = made.createWebhookEndpoint;
      saved(secret === null ? undefined : { text: secret, url: fresh.url });
    } else {
      const { error } = await change({ input: { endpoint: endpoint.id, ...shared } });
      if (error) return;
      toast("Saved the webhook");
      saved(undefined);
    }
    close();
  }

  return (
    <FormDialog
      open
      onOpenChange={(open) => {
        if (!open) close();
      }}
      title={endpoint ? "Edit webhook" : "New webhook"}
      description={
        endpoint
          ? "What is sent from now on follows the new settings."
          : "It hears what happens from now on. Its secret is shown once it is made."
      }
      submit={endpoint ? "Save webhook" : "Make webhook"}
      busy={created.fetching || changed.fetching}
      ready={urlOk && limitOk && chosen.size > 0}
      onSubmit={() => void submit()}
    >
      <Field id={`${id}-url`} label="URL">
        <input
          id={`${id}-url`}
          type="url"
          className="control w-full font-mono"
          placeholder="https://example.com/hooks/muster"
          maxLength={1024}
          autoComplete="off"
          aria-invalid={url !== "" && !urlOk}
          value={url}
          onChange={(event) => setUrl(event.target.value)}
        />
      </Field>
      <div className="grid gap-3 sm:grid-cols-2">
        <Field id={`${id}-description`} label="What for (optional)" className="sm:col-span-2">
          <input
            id={`${id}-description`}
            className="control w-full"
            maxLength={200}
            autoComplete="off"
            value={description}
            onChange={(event) => setDescription(event.target.value)}
          />
        </Field>
        <Field id={`${id}-run`} label="Events of">
          <select
            id={`${id}-run`}
            className="control w-full"
            value={run}
            disabled={endpoint !== undefined}
            onChange={(event) => setRun(event.target.value)}
          >
            <option value="">the organization and every run</option>
            {endpoint?.run ? <option value={endpoint.run.id}>{endpoint.run.name}</option> : null}
            {data?.runs.edges
              .filter(({ node }) => node.organization.id === place.id && node.id !== endpoint?.run?.id)
              .map(({ node }) => (
                <option key={node.id} value={node.id}>
                  {node.name}
                </option>
              ))}
          </select>
        </Field>
        <Field id={`${id}-limit`} label="Pause after">
          <input
            id={`${id}-limit`}
            className="control w-20 text-right tabular-nums"
            inputMode="numeric"
            autoComplete="off"
            aria-invalid={!limitOk}
            value={pauseAfter}
            onChange={(event) => setPauseAfter(event.target.value)}
          />
          <span className="text-table text-subtle">failures in a row</span>
        </Field>
      </div>
      <EventPicker types={data?.webhookEventTypes ?? []} chosen={chosen} onChange={setChosen} />
      <Refused error={created.error ?? changed.error} />
    </FormDialog>
  );
}

/** Event types by area; a whole area, or all, stands for the types in it, those to come included. */
function EventPicker(props: {
  types: readonly string[];
  chosen: ReadonlySet<string>;
  onChange(chosen: ReadonlySet<string>): void;
}) {
  const { types, chosen, onChange } = props;
  const areas = types.filter((type) => type.endsWith(".*"));
  const all = chosen.has("*");
  function toggle(type: string): void {
    const next = new Set(chosen);
    if (!next.delete(type)) next.add(type);
    onChange(next);
  }
  return (
    <fieldset>
      <legend className="text-table font-medium">Events</legend>
      <Tick label="every event" checked={all} onChange={() => toggle("*")} />
      <div className="mt-1 max-h-64 gap-x-4 overflow-y-auto rounded-control border border-line p-2 sm:columns-2">
        {areas.map((area) => {
          const whole = all || chosen.has(area);
          const members = types.filter((type) => type.startsWith(area.slice(0, -1)) && type !== area);
          return (
            <div key={area} className="mb-2 break-inside-avoid">
              <Tick
                label={members.length === 1 ? (members[0] ?? area) : `all of ${area.slice(0, -2)}`}
                checked={whole}
                disabled={all}
                onChange={() => toggle(area)}
              />
              {members.length > 1
                ? members.map((type) => (
                    <div key={type} className="pl-5">
                      <Tick
                        label={type}
                        checked={whole || chosen.has(type)}
                        disabled={whole}
                        onChange={() => toggle(type)}
                      />
                    </div>
                  ))
                : null}
            </div>
          );
        })}
      </div>
    </fieldset>
  );
}

function Tick(props: { label: string; checked: boolean; disabled?: boolean; onChange(): void }) {
  return (
    <label className="flex items-center gap-2">
      <input
        type="checkbox"
        className="size-4 shrink-0 accent-[var(--accent)]"
        checked={props.checked}
        disabled={props.disabled}
        onChange={props.onChange}
      />
      <span className="font-mono text-table">{props.label}</span>
    </label>
  );
}
