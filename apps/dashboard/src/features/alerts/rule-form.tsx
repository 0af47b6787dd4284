"use client";

import { useEffect, useId, useState } from "react";
import { useMutation } from "urql";
import { failureOf } from "../../graphql/failure.ts";
import { graphql } from "../../graphql/graphql.ts";
import { useSteadyQuery } from "../../graphql/use-steady-query.ts";
import { formatDuration, sentence } from "../../ui/format.ts";
import { Refused } from "../../ui/states.tsx";
import { Age } from "../../ui/time.tsx";
import { toast } from "../../ui/toast.tsx";
import { type AlertKind, kindWords, type Severity, valueInWords, windowless } from "./alert-words.ts";
import type { Place } from "./alerts-page.tsx";
import { Field, FormDialog } from "./form-dialog.tsx";
import type { AlertRule } from "./rules-table.tsx";

const RuleRunsQuery = graphql(`
  query RuleRuns {
    runs(first: 100) {
      edges {
        node {
          id
          name
          state
          organization {
            id
          }
        }
      }
    }
  }
`);

const AlertPreviewQuery = graphql(`
  query AlertPreview($input: AlertPreviewInput!) {
    alertPreview(input: $input) {
      possible
      fired
      runs
      days
      episodes {
        run
        from
        to
        worst
      }
    }
  }
`);

const CreateAlertRule = graphql(`
  mutation CreateAlertRule($input: CreateAlertRuleInput!) {
    createAlertRule(input: $input) {
      id
    }
  }
`);

const ChangeAlertRule = graphql(`
  mutation ChangeAlertRule($input: UpdateAlertRuleInput!) {
    updateAlertRule(input: $input) {
      id
      name
      kind
      threshold
      windowSeconds
      severity
      state
      firing
    }
  }
`);

const severities: readonly Severity[] = ["INFO", "WARNING", "CRITICAL"];

/** Writes a rule, and shows beside it how often it would have fired. */
export function RuleForm(props: {
  place: Place;
  rule: AlertRule | undefined;
  open: boolean;
  onOpenChange(open: boolean): void;
  saved(): void;
}) {
  const { place, rule, open, onOpenChange, saved } = props;
  const id = useId();
  const [kind, setKind] = useState<AlertKind>(rule?.kind ?? "RUN_STALLED");
  const words = kindWords[kind];
  const [name, setName] = useState(rule?.name ?? words.label);
  const [run, setRun] = useState(rule?.run?.id ?? "");
  const [severity, setSeverity] = useState<Severity>(rule?.severity ?? words.severity);
  const [threshold, setThreshold] = useState(() =>
    typed(kind, rule ? rule.threshold : words.threshold?.usual),
  );
  const [minutes, setMinutes] = useState(String((rule?.windowSeconds ?? words.window.usual) / 60));
  const [{ data }] = useSteadyQuery({ query: RuleRunsQuery });
  const runs = data?.runs.edges.filter(({ node }) => node.organization.id === place.id) ?? [];
  const [created, create] = useMutation(CreateAlertRule);
  const [changed, change] = useMutation(ChangeAlertRule);

  const windowSeconds = Math.round(Number(minutes) * 60);
  const number =
    threshold.trim() === "" ? null : Number(threshold) / (words.threshold?.unit === "share" ? 100 : 1);
  const windowOk = windowSeconds >= 60 && windowSeconds <= 604_800;
  const thresholdOk =
    words.threshold === undefined ||
    (number === null ? words.threshold.optional === true : Number.isFinite(number) && number >= 0);
  const condition = { kind, threshold: words.threshold === undefined ? null : number, windowSeconds };

  /** Another kind brings its own usual numbers, and its name unless one was thought of. */
  function choose(next: AlertKind): void {
    if (name === words.label) setName(kindWords[next].label);
    setKind(next);
    setThreshold(typed(next, kindWords[next].threshold?.usual));
    setMinutes(String(kindWords[next].window.usual / 60));
    setSeverity(kindWords[next].severity);
  }

  async function submit(): Promise<void> {
    const shared = { name: name.trim(), severity, ...condition };
    const { error } =
      rule === undefined
        ? await create({ input: { organization: place.id, run: run === "" ? null : run, ...shared } })
        : await change({ input: { rule: rule.id, ...shared } });
    if (error) return;
    onOpenChange(false);
    toast(`Saved ${shared.name}`);
    saved();
  }

  return (
    <FormDialog
      open={open}
      onOpenChange={onOpenChange}
      title={rule ? "Edit rule" : "New rule"}
      description="It is looked at every 15 seconds while a run is running. It fires once, and ends by itself."
      submit={rule ? "Save rule" : "Make rule"}
      busy={created.fetching || changed.fetching}
      ready={name.trim() !== "" && windowOk && thresholdOk}
      onSubmit={() => void submit()}
    >
      <div className="grid gap-3 sm:grid-cols-2">
        <Field id={`${id}-kind`} label="Fires on" note={words.help} className="sm:col-span-2">
          <select
            id={`${id}-kind`}
            className="control w-full"
            value={kind}
            onChange={(event) => choose(event.target.value as AlertKind)}
          >
            {Object.entries(kindWords).map(([value, { label }]) => (
              <option key={value} value={value}>
                {label}
              </option>
            ))}
          </select>
        </Field>
        {words.threshold ? (
          <Field
            id={`${id}-threshold`}
            label={`${words.threshold.label}${words.threshold.optional ? " (optional)" : ""}`}
          >
            <input
              id={`${id}-threshold`}
              className="control w-28 text-right tabular-nums"
              inputMode="decimal"
              autoComplete="off"
              aria-invalid={!thresholdOk}
              value={threshold}
              onChange={(event) => setThreshold(event.target.value)}
            />
            <span className="text-table text-subtle">{units[words.threshold.unit]}</span>
          </Field>
        ) : null}
        {windowless.has(kind) ? null : (
          <Field id={`${id}-window`} label={words.window.label}>
            <input
              id={`${id}-window`}
              className="control w-28 text-right tabular-nums"
              inputMode="decimal"
              autoComplete="off"
              aria-invalid={!windowOk}
              value={minutes}
              onChange={(event) => setMinutes(event.target.value)}
            />
            <span className="text-table text-subtle">minutes</span>
          </Field>
        )}
        <Field
          id={`${id}-run`}
          label="Watches"
          note={rule ? "A rule keeps what it watches. Make another one for another run." : undefined}
        >
          <select
            id={`${id}-run`}
            className="control w-full"
            value={run}
            disabled={rule !== undefined}
            onChange={(event) => setRun(event.target.value)}
          >
            <option value="">every run</option>
            {rule?.run && !runs.some(({ node }) => node.id === rule.run?.id) ? (
              <option value={rule.run.id}>{rule.run.name}</option>
            ) : null}
            {runs.map(({ node }) => (
              <option key={node.id} value={node.id}>
                {node.name} ({sentence(node.state).toLowerCase()})
              </option>
            ))}
          </select>
        </Field>
        <Field id={`${id}-severity`} label="Severity">
          <select
            id={`${id}-severity`}
            className="control w-full"
            value={severity}
            onChange={(event) => setSeverity(event.target.value as Severity)}
          >
            {severities.map((each) => (
              <option key={each} value={each}>
                {sentence(each)}
              </option>
            ))}
          </select>
        </Field>
        <Field id={`${id}-name`} label="Name" className="sm:col-span-2">
          <input
            id={`${id}-name`}
            className="control w-full"
            maxLength={100}
            autoComplete="off"
            value={name}
            onChange={(event) => setName(event.target.value)}
          />
        </Field>
      </div>
      {windowOk && thresholdOk ? (
        <RulePreview
          kind={kind}
          input={{ organization: place.id, run: run === "" ? null : run, ...condition }}
          runName={(wanted) => runs.find(({ node }) => node.id === wanted)?.node.name ?? wanted}
        />
      ) : null}
      <Refused error={created.error ?? changed.error} />
    </FormDialog>
  );
}

const units = { share: "%", seconds: "seconds", number: "", count: "nodes" } as const;

/** A threshold as it is typed: shares in per cent. */
function typed(kind: AlertKind, value: number | null | undefined): string {
  if (value === null || value === undefined) return "";
  return String(kindWords[kind].threshold?.unit === "share" ? Number((value * 100).toPrecision(6)) : value);
}

type PreviewInput = {
  organization: string;
  run: string | null;
  kind: AlertKind;
  threshold: number | null;
  windowSeconds: number;
};

/** What the rule would have done in the last days, once the reader stops typing. */
function RulePreview(props: { kind: AlertKind; input: PreviewInput; runName(id: string): string }) {
  const settled = useSettled(props.input, 400);
  const [{ data, error, fetching }] = useSteadyQuery({
    query: AlertPreviewQuery,
    variables: { input: settled },
  });
  const preview = data?.alertPreview;
  return (
    <section aria-label="Preview" aria-busy={fetching} className="rounded-panel bg-raised px-3 py-2">
      <p role="status" className="font-medium">
        {error
          ? "The preview could not be made."
          : preview === undefined
            ? "Looking at the last 7 days …"
            : inWords(preview)}
      </p>
      {error ? <p className="text-table text-muted">{failureOf(error).message}</p> : null}
      {preview && preview.episodes.length > 0 ? (
        <ul className="mt-1 grid gap-0.5 text-table text-muted">
          {preview.episodes.slice(0, 5).map((episode) => (
            <li key={`${episode.run} ${episode.from}`} className="flex flex-wrap gap-x-2">
              <Age at={episode.from} />
              <span className="truncate">{props.runName(episode.run)}</span>
              <span>
                {episode.to === null
                  ? "still firing"
                  : `for ${formatDuration((new Date(episode.to).getTime() - new Date(episode.from).getTime()) / 1000)}`}
                , worst {valueInWords(props.kind, episode.worst)}
              </span>
            </li>
          ))}
          {preview.fired > 5 ? <li>and {preview.fired - 5} more</li> : null}
        </ul>
      ) : null}
    </section>
  );
}

function inWords({
  possible,
  fired,
  runs,
  days,
}: {
  possible: boolean;
  fired: number;
  runs: number;
  days: number;
}): string {
  if (!possible) return "When nodes were seen is not kept, so there is no preview of this one.";
  if (runs === 0) return `No run was running in the last ${days} days.`;
  const times =
    fired === 0 ? "Would not have fired" : `Would have fired ${fired === 1 ? "once" : `${fired} times`}`;
  return `${times} in the last ${days} days, in ${runs} ${runs === 1 ? "run" : "runs"}.`;
}

/** A value once it has stood still. */
function useSettled<Value>(value: Value, ms: number): Value {
  const [settled, setSettled] = useState(value);
  const key = JSON.stringify(value);
  useEffect(() => {
    // the key is the value
    const timer = setTimeout(() => setSettled(JSON.parse(key) as Value), ms);
    return () => clearTimeout(timer);
  }, [key, ms]);
  return settled;
}
