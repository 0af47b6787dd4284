"use client";

import { useRouter } from "next/navigation";
import { type FormEvent, useDeferredValue, useEffect, useId, useMemo, useRef, useState } from "react";
import { useMutation, useQuery } from "urql";
import { failureOf } from "../../graphql/failure.ts";
import { graphql, type ResultOf } from "../../graphql/graphql.ts";
import { randomHex } from "../../random-hex.ts";
import { Button } from "../../ui/button.tsx";
import { formatCredits, parseCredits } from "../../ui/format.ts";
import { Select } from "../../ui/select.tsx";
import { Empty, Failed, Loading } from "../../ui/states.tsx";
import { Tabs } from "../../ui/tabs.tsx";
import { costBound } from "./spec-cost.ts";
import { SpecForm } from "./spec-form.tsx";
import { SpecJson } from "./spec-json.tsx";
import { issuesAt, type JsonObject, pathsOf, placeOf, type SpecSection, sectionOf } from "./spec-schema.ts";
import { startFrom } from "./spec-start.ts";

const CreateRunQuery = graphql(`
  query CreateRunForm {
    runSpecSchema
    demoRunSpec
    environments {
      slug
      title
      description
    }
    me {
      kind
      organizations {
        role
        organization {
          id
          name
        }
      }
    }
  }
`);

const CheckRunSpecQuery = graphql(`
  query CheckRunSpec($spec: JSON!) {
    checkRunSpec(spec: $spec) {
      valid
      hash
      spec
      issues {
        path
        message
      }
    }
  }
`);

const CreateRunMutation = graphql(`
  mutation CreateRun($input: CreateRunInput!) {
    createRun(input: $input) {
      __typename
      ... on RunCreated {
        run {
          id
        }
      }
      ... on SpecInvalid {
        message
        issues {
          path
          message
        }
      }
    }
  }
`);

/** The form starts from the demo and is checked by the coordinator's own schema while it is written. */
export function CreateRun() {
  const [{ data, error, fetching }, reload] = useQuery({
    query: CreateRunQuery,
    requestPolicy: "network-only",
  });
  // what was typed must survive a query that runs again
  const [start, setStart] = useState<ResultOf<typeof CreateRunQuery>>();
  useEffect(() => setStart((known) => known ?? data), [data]);
  return (
    <>
      <h1 className="text-title font-semibold">New run</h1>
      {start ? <Form start={start} /> : null}
      {!start && error ? (
        <Failed
          failure={failureOf(error)}
          what="the form"
          retry={() => reload({ requestPolicy: "network-only" })}
        />
      ) : null}
      {!start && fetching ? <Loading what="the form" height={320} /> : null}
    </>
  );
}

type Issue = { path: string; message: string };

const views = ["form", "json"] as const;

function Form({ start }: { start: ResultOf<typeof CreateRunQuery> }) {
  const router = useRouter();
  const organizations = start.me.organizations.map((membership) => membership.organization);
  const [organization, setOrganization] = useState(organizations[0]?.id ?? "");
  const [spec, setSpec] = useState<JsonObject>(() => startFrom(asObject(start.demoRunSpec)));
  const [view, setView] = useState<(typeof views)[number]>("form");
  const [jsonBroken, setJsonBroken] = useState(false);
  // until somebody types one, the budget follows the spec
  const [typed, setTyped] = useState<string>();
  const [startNow, setStartNow] = useState(true);
  const [created, create] = useMutation(CreateRunMutation);
  const [refused, setRefused] = useState<{ spec: JsonObject; issues: readonly Issue[] }>();
  // one form makes one run, however often its button is pressed
  const [idempotencyKey] = useState(() => randomHex(16));
  const id = useId();

  const section = useMemo(() => sectionOf(start.runSpecSchema, spec), [start.runSpecSchema, spec]);
  const check = useCheck(spec);
  const issues = refused?.spec === spec ? refused.issues : check.issues;
  // while something is wrong, the last complete spec still says best what an empty field means
  const complete = useRef<JsonObject>(undefined);
  complete.current = check.completed ?? complete.current;
  const bound = costBound(complete.current);
  const credits = typed ?? suggestedBudget(bound);
  const amount = parseCredits(credits);
  const short = amount !== undefined && bound !== undefined && amount < bound;
  const ready = !jsonBroken && amount !== undefined && organization !== "" && !created.fetching;

  async function submit(event: FormEvent): Promise<void> {
    event.preventDefault();
    if (!ready) return;
    const result = await create({
      input: { organization, spec, credits: String(amount), start: startNow, idempotencyKey },
    });
    const outcome = result.data?.createRun;
    if (outcome?.__typename === "RunCreated") router.push(`/runs/${outcome.run.id}`);
    if (outcome?.__typename === "SpecInvalid") {
      setRefused({ spec, issues: outcome.issues });
      document.getElementById(`${id}-issues`)?.focus();
    }
  }

  if (organizations.length === 0) {
    return (
      <Empty title="You are in no organization">
        A run belongs to one, with its budget. Ask an owner to invite you.
      </Empty>
    );
  }
  return (
    <form
      onSubmit={(event) => void submit(event)}
      className="mt-3 grid grid-cols-[minmax(0,1fr)] items-start gap-8 lg:grid-cols-[minmax(0,1fr)_20rem]"
      noValidate
    >
      <Tabs
        label="Ways to write the spec"
        value={view}
        onChange={(next) => {
          if (!jsonBroken) setView(next);
        }}
        tabs={[
          {
            value: "form",
            label: "Form",
            panel: (
              <SpecForm
                section={section}
                spec={spec}
                completed={complete.current}
                onSpec={setSpec}
                issues={issues}
                environments={start.environments}
              />
            ),
          },
          {
            value: "json",
            label: "JSON",
            panel: <SpecJson spec={spec} onSpec={setSpec} onBroken={setJsonBroken} />,
          },
        ]}
      />
      <aside aria-label="Budget and start" className="grid gap-4 lg:sticky lg:top-16">
        {organizations.length > 1 ? (
          <Select
            label="Organization"
            value={organization}
            options={organizations.map(({ id, name }) => ({ value: id, label: name }))}
            onChange={setOrganization}
          />
        ) : null}
        <div>
          <label htmlFor={`${id}-budget`} className="text-table font-medium">
            Budget in credits
          </label>
          <input
            id={`${id}-budget`}
            className="control mt-1 w-full"
            inputMode="decimal"
            aria-invalid={amount === undefined}
            aria-describedby={`${id}-budget-hint`}
            value={credits}
            onChange={(event) => setTyped(event.target.value)}
          />
          <p
            id={`${id}-budget-hint`}
            className={`mt-1 text-table ${short ? "text-on-pending-soft" : "text-subtle"}`}
          >
            {amount === undefined
              ? "Write an amount such as 120 or 0.5, with at most six decimals."
              : [
                  bound === undefined
                    ? ""
                    : short
                      ? `The work of this spec may cost up to ${formatCredits(bound)}: when these are used up the run pauses, and an organizer has to fund it.`
                      : `The work of this spec costs at most ${formatCredits(bound)}.`,
                  "An organization issues its own credits; what a run does not need stays unspent.",
                ].join(" ")}
          </p>
        </div>
        <label className="flex items-center gap-2">
          <input
            type="checkbox"
            className="size-4 accent-[var(--accent)]"
            checked={startNow}
            onChange={(event) => setStartNow(event.target.checked)}
          />
          Start now
        </label>
        <IssueSummary
          id={`${id}-issues`}
          issues={issues}
          section={section}
          checking={check.checking}
          failed={check.failed}
          hash={check.hash}
          onShow={() => setView("form")}
        />
        <div className="flex gap-2">
          <Button type="submit" tone="primary" size="regular" disabled={!ready || issues.length > 0}>
            {created.fetching ? "Creating …" : "Create run"}
          </Button>
        </div>
        {created.error ? (
          <p role="alert" className="rounded-control bg-rejected-soft px-3 py-2 text-on-rejected-soft">
            {failureOf(created.error).message}
          </p>
        ) : null}
      </aside>
    </form>
  );
}

function IssueSummary(props: {
  id: string;
  issues: readonly Issue[];
  section: SpecSection;
  checking: boolean;
  failed: boolean;
  hash: string | undefined;
  onShow(): void;
}) {
  const { id, issues, section, checking, failed, hash, onShow } = props;
  const known = pathsOf(section);
  if (failed)
    return (
      <p className="text-table text-on-pending-soft">
        The coordinator did not check this version; it will when you create the run.
      </p>
    );
  if (issues.length === 0) {
    return (
      <p role="status" className="wrap-anywhere text-table text-subtle">
        {checking || hash === undefined ? "Checking …" : `The spec is valid. SHA-256 ${hash.slice(0, 12)}…`}
      </p>
    );
  }
  return (
    <div
      id={id}
      tabIndex={-1}
      role="alert"
      className="rounded-control bg-rejected-soft px-3 py-2 text-table text-on-rejected-soft"
    >
      <p className="font-medium">
        {issues.length === 1 ? "One thing is wrong" : `${issues.length} things are wrong`}
      </p>
      <ul className="mt-1 grid gap-1">
        {issues.map((issue) => {
          const target = known.findLast((path) => issuesAt([issue], path).length > 0);
          return (
            <li key={`${issue.path} ${issue.message}`}>
              {target === undefined ? (
                <span>{issue.path || "The spec"}</span>
              ) : (
                <a className="underline underline-offset-2" href={`#field-${target}`} onClick={onShow}>
                  {placeOf(section, issue.path)}
                </a>
              )}
              {": "}
              {issue.message}
            </li>
          );
        })}
      </ul>
    </div>
  );
}

/** Asks the coordinator what is wrong, a moment after the last keystroke. */
function useCheck(spec: JsonObject): {
  issues: readonly Issue[];
  hash: string | undefined;
  /** With every default; undefined while something is wrong. */
  completed: JsonObject | undefined;
  checking: boolean;
  failed: boolean;
} {
  const [settled, setSettled] = useState(spec);
  const deferred = useDeferredValue(spec);
  useEffect(() => {
    const timer = setTimeout(() => setSettled(deferred), 250);
    return () => clearTimeout(timer);
  }, [deferred]);
  const [{ data, error, fetching, operation }] = useQuery({
    query: CheckRunSpecQuery,
    variables: { spec: settled },
    requestPolicy: "network-only",
  });
  const current = operation?.variables?.spec === settled;
  return {
    issues: data?.checkRunSpec.issues ?? [],
    hash: data?.checkRunSpec.hash ?? undefined,
    completed: data?.checkRunSpec.valid ? asObject(data.checkRunSpec.spec) : undefined,
    checking: fetching || !current || settled !== spec,
    failed: error !== undefined && data === undefined,
  };
}

/** A budget that covers the work with a fifth to spare, rounded up to whole credits. */
function suggestedBudget(bound: bigint | undefined): string {
  if (bound === undefined) return "100";
  return String((bound * 6n) / 5n / 1_000_000n + 1n);
}

function asObject(value: unknown): JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value) ? (value as JsonObject) : {}; // a record by its checks
}
