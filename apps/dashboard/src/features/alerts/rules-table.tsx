"use client";

import { Plus } from "lucide-react";
import { useMemo, useState } from "react";
import { useMutation } from "urql";
import { graphql, type ResultOf, readFragment } from "../../graphql/graphql.ts";
import { Button } from "../../ui/button.tsx";
import { Confirm, preparesConfirm } from "../../ui/confirm.tsx";
import type { DataColumn } from "../../ui/data-table/columns.ts";
import { DataTable } from "../../ui/data-table/data-table.tsx";
import { useKeyset } from "../../ui/data-table/use-keyset.ts";
import { sentence } from "../../ui/format.ts";
import { useShortcuts } from "../../ui/shortcuts.tsx";
import { StateWord } from "../../ui/state-badge.tsx";
import { Empty, Refused } from "../../ui/states.tsx";
import { Age } from "../../ui/time.tsx";
import { toast } from "../../ui/toast.tsx";
import { conditionInWords, kindWords, severityTone, windowless } from "./alert-words.ts";
import type { Place } from "./alerts-page.tsx";
import { AlertsTable } from "./alerts-table.tsx";
import { RuleForm } from "./rule-form.tsx";
import { useEvery } from "./use-every.ts";

export const AlertRuleFragment = graphql(`
  fragment AlertRule_rule on AlertRule {
    id
    name
    kind
    threshold
    windowSeconds
    severity
    enabled
    state
    firing
    lastFiredAt
    run {
      id
      name
    }
  }
`);

const AlertRulesQuery = graphql(
  `
    query AlertRules($org: ID!, $after: String) {
      node(id: $org) {
        id
        ... on Organization {
          alertRules(first: 100, after: $after) {
            edges {
              node {
                id
                ...AlertRule_rule
              }
            }
            pageInfo {
              hasNextPage
              endCursor
            }
          }
        }
      }
    }
  `,
  [AlertRuleFragment],
);

const UpdateAlertRule = graphql(
  `
    mutation UpdateAlertRule($input: UpdateAlertRuleInput!) {
      updateAlertRule(input: $input) {
        id
        ...AlertRule_rule
      }
    }
  `,
  [AlertRuleFragment],
);

const DeleteAlertRule = graphql(`
  mutation DeleteAlertRule($input: DeleteAlertRuleInput!) {
    deleteAlertRule(input: $input)
  }
`);

const CreateUsualRule = graphql(`
  mutation CreateUsualRule($input: CreateAlertRuleInput!) {
    createAlertRule(input: $input) {
      id
    }
  }
`);

export type AlertRule = ResultOf<typeof AlertRuleFragment>;

const stateWords = { OK: "OK", FIRING: "Firing", OFF: "Off" } as const;
const stateTones = { OK: "ok", FIRING: "rejected", OFF: "idle" } as const;

/** What is watched, what fires, and what fired. */
export function RulesTab({ place }: { place: Place }) {
  const { rows, query, old, page, retry } = useKeyset({
    query: AlertRulesQuery,
    variables: { org: place.id },
    connection: (data) => (data.node && "alertRules" in data.node ? data.node.alertRules : undefined),
  });
  useEvery(10_000, retry);
  const rules = useMemo(() => rows.map((row) => readFragment(AlertRuleFragment, row)), [rows]);
  const [edited, setEdited] = useState<AlertRule | "new">();
  const [open, setOpen] = useState(false);
  const [doomed, setDoomed] = useState<AlertRule>();
  const [asking, setAsking] = useState(false);
  const [{ error: changeError }, update] = useMutation(UpdateAlertRule);
  const [{ fetching: deleting, error: deleteError }, remove] = useMutation(DeleteAlertRule);
  const usual = useUsualRules(place, retry);

  const add = () => {
    setEdited("new");
    setOpen(true);
  };
  useShortcuts(place.manages ? [{ keys: "n", label: "New rule", group: "This page", run: add }] : []);
  const columns = useMemo(
    () =>
      ruleColumns({
        manages: place.manages,
        edit: (rule) => {
          setEdited(rule);
          setOpen(true);
        },
        toggle: (rule) => void update({ input: { rule: rule.id, enabled: !rule.enabled } }),
        remove: (rule) => {
          setDoomed(rule);
          setAsking(true);
        },
      }),
    [place.manages, update],
  );

  async function end(): Promise<void> {
    if (doomed === undefined) return;
    const { error } = await remove({ input: { rule: doomed.id } });
    if (error) return;
    setAsking(false);
    toast(`Deleted ${doomed.name}`);
    retry();
  }

  const addButton = place.manages ? (
    <Button tone="primary" onClick={add}>
      <Plus size={14} aria-hidden /> New rule
    </Button>
  ) : undefined;
  return (
    <>
      <Refused error={changeError} />
      <DataTable<AlertRule>
        label="Alert rules"
        prefix="rules"
        columns={columns}
        rows={rules}
        getRowId={(rule) => rule.id}
        query={query}
        retry={retry}
        old={old}
        page={page}
        sort="client"
        total={{ matching: rules.length, total: rules.length }}
        height={Math.min(420, 110 + 32 * Math.max(4, rules.length))}
        skeleton={4}
        tools={addButton}
        empty={
          <Empty
            title="No rules yet"
            action={
              place.manages ? (
                <Button disabled={usual.busy} onClick={() => void usual.add()}>
                  {usual.busy ? "Adding them …" : "Add the usual rules"}
                </Button>
              ) : undefined
            }
          >
            {place.manages
              ? "A rule watches every run that is running, and fires once for each time something goes wrong."
              : "Owners and admins of the organization make them."}
            <Refused error={usual.error} />
          </Empty>
        }
      />
      <AlertsTable place={place} />
      {edited === undefined ? null : (
        <RuleForm
          key={edited === "new" ? "new" : edited.id}
          place={place}
          rule={edited === "new" ? undefined : edited}
          open={open}
          onOpenChange={(next) => {
            setOpen(next);
            if (!next) setEdited(undefined);
          }}
          saved={retry}
        />
      )}
      {doomed === undefined ? null : (
        <Confirm
          open={asking}
          onOpenChange={setAsking}
          title={`Delete ${doomed.name}?`}
          description="It watches no more, and what it fires for ends. Its alerts stay in the history."
          button="Delete rule"
          danger
          busy={deleting}
          error={deleteError}
          onConfirm={end}
        />
      )}
    </>
  );
}

/** One rule of each kind, with the numbers that most begin with. */
function useUsualRules(place: Place, done: () => void) {
  const [{ error }, create] = useMutation(CreateUsualRule);
  const [busy, setBusy] = useState(false);
  return {
    busy,
    error,
    async add(): Promise<void> {
      setBusy(true);
      // the entries of a record keyed by the kinds
      for (const kind of Object.keys(kindWords) as (keyof typeof kindWords)[]) {
        const { label, threshold, window, severity } = kindWords[kind];
        const { error: failed } = await create({
          input: {
            organization: place.id,
            ...{ name: label, kind, severity, windowSeconds: window.usual },
            threshold: threshold?.usual ?? null,
          },
        });
        if (failed) break;
      }
      setBusy(false);
      done();
    },
  };
}

function ruleColumns(actions: {
  manages: boolean;
  edit(rule: AlertRule): void;
  toggle(rule: AlertRule): void;
  remove(rule: AlertRule): void;
}): DataColumn<AlertRule>[] {
  return [
    {
      id: "name",
      head: "Name",
      width: 180,
      cell: (rule) =>
        actions.manages ? (
          <button
            type="button"
            className="truncate font-medium hover:underline"
            onClick={() => actions.edit(rule)}
          >
            {rule.name}
          </button>
        ) : (
          <span className="font-medium">{rule.name}</span>
        ),
      text: (rule) => rule.name,
      sort: (rule) => rule.name,
    },
    {
      id: "state",
      head: "State",
      width: 132,
      cell: (rule) => (
        <StateWord tone={stateTones[rule.state]}>
          {stateWords[rule.state]}
          {rule.firing > 1 ? ` in ${rule.firing} runs` : ""}
        </StateWord>
      ),
      text: (rule) => stateWords[rule.state],
      sort: (rule) => ["FIRING", "OK", "OFF"].indexOf(rule.state),
    },
    {
      id: "condition",
      head: "Fires when",
      width: 280,
      grow: true,
      cell: (rule) => <span className="text-muted">{conditionInWords(rule)}</span>,
      text: conditionInWords,
    },
    {
      id: "scope",
      head: "Watches",
      width: 148,
      cell: (rule) => <span className="truncate">{rule.run?.name ?? "every run"}</span>,
      text: (rule) => rule.run?.name ?? "every run",
      sort: (rule) => rule.run?.name ?? "",
    },
    {
      id: "window",
      head: "Window",
      number: true,
      width: 92,
      hidden: true,
      cell: (rule) => (windowless.has(rule.kind) ? "now" : `${rule.windowSeconds} s`),
      text: (rule) => String(rule.windowSeconds),
      sort: (rule) => rule.windowSeconds,
    },
    {
      id: "severity",
      head: "Severity",
      width: 104,
      cell: (rule) => <StateWord tone={severityTone[rule.severity]}>{sentence(rule.severity)}</StateWord>,
      text: (rule) => sentence(rule.severity),
      sort: (rule) => ["INFO", "WARNING", "CRITICAL"].indexOf(rule.severity),
      first: "down",
    },
    {
      id: "fired",
      head: "Last fired",
      width: 104,
      cell: (rule) => (
        <span className="text-muted">{rule.lastFiredAt ? <Age at={rule.lastFiredAt} /> : "never"}</span>
      ),
      text: (rule) => rule.lastFiredAt ?? "",
      sort: (rule) => rule.lastFiredAt ?? "",
      first: "down",
    },
    ...(actions.manages
      ? [
          {
            id: "actions",
            head: "Change",
            width: 220,
            cell: (rule: AlertRule) => (
              <span className="flex justify-end gap-1">
                <Button tone="quiet" aria-label={`Edit ${rule.name}`} onClick={() => actions.edit(rule)}>
                  Edit
                </Button>
                <Button
                  tone="quiet"
                  aria-label={`Turn ${rule.enabled ? "off" : "on"} ${rule.name}`}
                  onClick={() => actions.toggle(rule)}
                >
                  Turn {rule.enabled ? "off" : "on"}
                </Button>
                <Button
                  tone="quiet"
                  {...preparesConfirm}
                  aria-label={`Delete ${rule.name}`}
                  onClick={() => actions.remove(rule)}
                >
                  Delete
                </Button>
              </span>
            ),
            narrow: "none" as const,
          },
        ]
      : []),
  ];
}
