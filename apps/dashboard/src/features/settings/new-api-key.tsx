"use client";

import { type FormEvent, useId, useState } from "react";
import { useMutation } from "urql";
import { graphql } from "../../graphql/graphql.ts";
import { Button } from "../../ui/button.tsx";
import { CopyButton } from "../../ui/copy.tsx";
import { Select } from "../../ui/select.tsx";
import { Refused } from "../../ui/states.tsx";

const CreateApiKey = graphql(`
  mutation CreateApiKey($input: CreateApiKeyInput!) {
    createApiKey(input: $input) {
      key
      apiKey {
        id
        name
      }
    }
  }
`);

type Life = "30" | "90" | "365" | "never";

const lives: readonly { value: Life; label: string }[] = [
  { value: "30", label: "30 days" },
  { value: "90", label: "90 days" },
  { value: "365", label: "a year" },
  { value: "never", label: "never" },
];

/** Makes a key and shows it, this once. */
export function NewApiKey({
  organization,
  scopes,
  made,
}: {
  organization: string;
  scopes: readonly string[];
  made(): void;
}) {
  const id = useId();
  const [name, setName] = useState("");
  const [life, setLife] = useState<Life>("90");
  const [chosen, setChosen] = useState<ReadonlySet<string>>(() => new Set(["run:read"]));
  const [{ data, error, fetching }, create] = useMutation(CreateApiKey);
  const [shown, setShown] = useState(false);
  const ready = name.trim() !== "" && chosen.size > 0 && !fetching;
  const key = shown ? data?.createApiKey.key : undefined;

  async function submit(event: FormEvent): Promise<void> {
    event.preventDefault();
    if (!ready) return;
    const expiresInDays = life === "never" ? null : Number(life);
    const input = { organization, name: name.trim(), scopes: [...chosen], expiresInDays };
    const outcome = await create({ input });
    if (outcome.data === undefined) return;
    setShown(true);
    setName("");
    made();
  }

  function toggle(scope: string): void {
    const next = new Set(chosen);
    if (!next.delete(scope)) next.add(scope);
    setChosen(next);
  }

  return (
    <>
      {key === undefined ? null : (
        <div role="status" className="mt-4 rounded-control bg-ok-soft px-3 py-2 text-on-ok-soft">
          <p className="font-medium">This key is shown this once. Keep it where others do not read.</p>
          <div className="mt-1 flex flex-wrap items-center gap-2">
            <code className="wrap-anywhere font-mono select-all">{key}</code>
            <CopyButton label="Copy key" text={key} />
            <Button onClick={() => setShown(false)}>Hide it</Button>
          </div>
        </div>
      )}
      <form className="mt-5 grid max-w-[720px] gap-3" onSubmit={(event) => void submit(event)} noValidate>
        <h3 className="font-medium">New key</h3>
        <div className="flex flex-wrap items-end gap-x-6 gap-y-3">
          <div className="min-w-0 grow sm:max-w-72">
            <label htmlFor={`${id}-name`} className="text-table font-medium">
              Name
            </label>
            <input
              id={`${id}-name`}
              className="control mt-1 w-full"
              maxLength={100}
              placeholder="what will use it"
              autoComplete="off"
              value={name}
              onChange={(event) => setName(event.target.value)}
            />
          </div>
          <Select<Life> label="Expires after" value={life} options={lives} onChange={setLife} />
        </div>
        <fieldset className="grid gap-x-6 gap-y-1 sm:grid-cols-2">
          <legend className="mb-1 text-table font-medium">Rights</legend>
          {scopes.map((scope) => (
            <label key={scope} className="flex items-baseline gap-2">
              <input
                type="checkbox"
                className="size-4 shrink-0 self-center accent-[var(--accent)]"
                checked={chosen.has(scope)}
                onChange={() => toggle(scope)}
              />
              <span className="font-mono text-table">{scope}</span>
              <span className="text-table text-subtle">{meanings[scope] ?? ""}</span>
            </label>
          ))}
        </fieldset>
        <div>
          <Button type="submit" tone="primary" size="regular" disabled={!ready}>
            {fetching ? "Making it …" : "Make key"}
          </Button>
          <Refused error={error} />
        </div>
      </form>
    </>
  );
}

const meanings: Readonly<Record<string, string>> = {
  "run:read": "see runs, their events and nodes",
  "run:create": "create runs",
  "run:control": "start, pause, revise and end runs",
  "run:fund": "add to a run\u2019s budget",
  "node:grant": "grant roles to nodes",
  "case:decide": "decide cases",
  "rollout:read": "read rollouts, token by token",
  "ledger:read": "see budgets and payments",
  "upload:create": "upload weights",
  "alert:manage": "make and change alert rules",
  "webhook:manage": "make webhooks and rotate their secrets",
};
