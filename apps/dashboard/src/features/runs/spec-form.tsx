"use client";

import { ChevronRight } from "lucide-react";
import { useId, useState } from "react";
import {
  issuesAt,
  type JsonObject,
  labelOf,
  parseTyped,
  type SpecField,
  type SpecSection,
  shownValue,
  valueAt,
  withValueAt,
} from "./spec-schema.ts";
import { withEnvironment } from "./spec-start.ts";

type Issue = { path: string; message: string };

type Shared = {
  readonly spec: JsonObject;
  /** The spec with every default, while it is valid: what a field means that is left empty. */
  readonly completed: JsonObject | undefined;
  onSpec(spec: JsonObject): void;
  readonly issues: readonly Issue[];
  readonly environments: readonly { slug: string; title: string; description: string }[];
};

/** Every field of the spec, in the sections of its schema. */
export function SpecForm({ section, ...shared }: Shared & { section: SpecSection }) {
  const own = issuesAt(shared.issues, "").filter((issue) => issue.path === "");
  return (
    <div className="grid grid-cols-[minmax(0,1fr)] gap-6">
      {own.map((issue) => (
        <Problem key={issue.message} text={issue.message} />
      ))}
      <Fields fields={section.fields.filter((field) => field.name !== "protocol")} shared={shared} />
      <div>
        {section.sections
          .toSorted((a, b) => rank(a.path) - rank(b.path))
          .map((inner) => (
            <Part key={inner.path} section={inner} shared={shared} />
          ))}
      </div>
    </div>
  );
}

/** What people set first comes first and is open; the rest of the schema follows in its own order. */
const first = ["limits", "generation", "training"];

function rank(path: string): number {
  const at = first.indexOf(path);
  return at < 0 ? first.length : at;
}

/** A section that folds. One with a problem in it cannot be folded away. */
function Part({ section, shared }: { section: SpecSection; shared: Shared }) {
  const [opened, setOpened] = useState(first.includes(section.path));
  const troubled = issuesAt(shared.issues, section.path).length > 0;
  const open = opened || troubled;
  return (
    <details
      open={open}
      onToggle={(event) => setOpened(event.currentTarget.open)}
      className="rule group scroll-mt-16"
      id={`field-${section.path}`}
    >
      <summary className="flex min-h-9 list-none items-baseline gap-3 py-2 hover:bg-raised">
        <ChevronRight
          size={12}
          aria-hidden
          className="shrink-0 self-center text-subtle group-open:rotate-90"
        />
        <h2 className="text-strong font-semibold">{section.label}</h2>
        <span className="min-w-0 truncate text-table text-subtle">
          {open ? section.description : gist(section, shared)}
        </span>
      </summary>
      <div className="pt-1 pb-4 pl-6">
        <Group section={section} shared={shared} depth={0} />
      </div>
    </details>
  );
}

/** The first values of a folded section: `hidden size 64, layers 2, heads 4 …` */
function gist(section: SpecSection, { spec, completed }: Shared): string {
  const all = [...section.fields, ...section.sections.flatMap((inner) => inner.fields)];
  const said = all.flatMap((field) => {
    const value = shownValue(valueAt(spec, field.path) ?? defaultOf(field, completed));
    return value === "" ? [] : [`${field.label.toLowerCase()} ${value}`];
  });
  return said.length > 5 ? `${said.slice(0, 5).join(", ")} …` : said.join(", ");
}

function Group({ section, shared, depth }: { section: SpecSection; shared: Shared; depth: number }) {
  const id = useId();
  const { variants } = section;
  return (
    <div
      {...(depth > 0
        ? { role: "group", "aria-labelledby": id, id: `field-${section.path}`, className: "scroll-mt-16" }
        : {})}
    >
      <div className="mb-2 flex flex-wrap items-baseline gap-x-3">
        {depth > 0 ? (
          <>
            <h3 id={id} className="font-medium">
              {section.label}
            </h3>
            <p className="text-table text-subtle">{section.description}</p>
          </>
        ) : null}
        {variants ? (
          <span className="inline-flex items-center gap-1.5">
            <label htmlFor={`${id}-kind`} className="text-table text-subtle">
              {labelOf(variants.key)}
            </label>
            <select
              id={`${id}-kind`}
              className="control text-table"
              value={String(valueAt(shared.spec, `${section.path}.${variants.key}`) ?? variants.names[0])}
              // another shape has other fields: nothing of the old one is kept
              onChange={(event) =>
                shared.onSpec(withValueAt(shared.spec, section.path, { [variants.key]: event.target.value }))
              }
            >
              {variants.names.map((name) => (
                <option key={name}>{name}</option>
              ))}
            </select>
          </span>
        ) : null}
      </div>
      {shared.issues
        .filter((issue) => issue.path === section.path)
        .map((issue) => (
          <Problem key={issue.message} text={issue.message} />
        ))}
      <Fields fields={section.fields} shared={shared} />
      {section.sections.map((inner) => (
        <div key={inner.path} className="mt-4 border-l-2 border-line pl-3">
          <Group section={inner} shared={shared} depth={depth + 1} />
        </div>
      ))}
    </div>
  );
}

function Fields({ fields, shared }: { fields: readonly SpecField[]; shared: Shared }) {
  return (
    <div className="grid gap-x-6 gap-y-3 sm:grid-cols-2 xl:grid-cols-3">
      {fields.map((field) => (
        <Field key={field.path} field={field} shared={shared} />
      ))}
    </div>
  );
}

function Field({ field, shared }: { field: SpecField; shared: Shared }) {
  const id = `field-${field.path}`;
  const issues = issuesAt(shared.issues, field.path);
  const describedBy = [issues.length > 0 ? `${id}-issue` : "", `${id}-about`].filter(Boolean).join(" ");
  const wide = field.path === "seed";
  return (
    <div className={wide ? "min-w-0 sm:col-span-2" : "min-w-0"}>
      <label htmlFor={id} className="text-table font-medium">
        {field.label}
      </label>
      <Input id={id} field={field} shared={shared} describedBy={describedBy} invalid={issues.length > 0} />
      {issues.length > 0 ? (
        <div id={`${id}-issue`}>
          {issues.map((issue) => (
            <Problem key={`${issue.path} ${issue.message}`} text={issue.message} />
          ))}
        </div>
      ) : null}
      <p id={`${id}-about`} className="mt-0.5 text-table text-subtle">
        <Marked text={about(field, shared)} />
      </p>
    </div>
  );
}

function Input(props: {
  id: string;
  field: SpecField;
  shared: Shared;
  describedBy: string;
  invalid: boolean;
}) {
  const { id, field, shared, describedBy, invalid } = props;
  const value = valueAt(shared.spec, field.path);
  // what is being typed is kept as it is: "1e-" is on its way to a number
  const [typed, setTyped] = useState<{ text: string; means: unknown }>();
  const text = typed !== undefined && same(typed.means, value) ? typed.text : shownValue(value);
  const enter = (next: string) => {
    const means = parseTyped(field, next);
    setTyped({ text: next, means });
    shared.onSpec(
      field.path === "environment"
        ? withEnvironment(shared.spec, next, shared.environments)
        : withValueAt(shared.spec, field.path, means),
    );
  };
  const common = {
    id,
    "aria-describedby": describedBy,
    "aria-invalid": invalid,
    className: "control mt-1 w-full",
  } as const;
  const choices = field.path === "environment" ? shared.environments.map(({ slug }) => slug) : field.choices;
  if (field.kind === "boolean" || choices.length > 0) {
    const options = field.kind === "boolean" ? ["true", "false"] : choices;
    const current = text === "" ? String(field.fallback ?? "") : text;
    return (
      <select {...common} value={current} onChange={(event) => enter(event.target.value)}>
        {options.includes(current) ? null : <option value={current}>{current || "choose"}</option>}
        {options.map((option) => (
          <option key={option} value={option}>
            {field.kind === "boolean" ? (option === "true" ? "Yes" : "No") : option}
          </option>
        ))}
      </select>
    );
  }
  return (
    <input
      {...common}
      className={field.path === "seed" ? `${common.className} font-mono` : common.className}
      inputMode={field.kind === "number" || field.kind === "integer" ? "decimal" : "text"}
      spellCheck={false}
      placeholder={field.required ? "" : shownValue(defaultOf(field, shared.completed))}
      value={text}
      onChange={(event) => enter(event.target.value)}
    />
  );
}

/** What an empty field means: its own default, or what follows from the other fields. */
function defaultOf(field: SpecField, completed: JsonObject | undefined): unknown {
  return field.fallback ?? valueAt(completed, field.path);
}

function about(field: SpecField, shared: Shared): string {
  const environment =
    field.path === "environment"
      ? shared.environments.find(({ slug }) => slug === valueAt(shared.spec, "environment"))
      : undefined;
  if (environment) return environment.description;
  return [field.description, field.limits === "" ? "" : `${field.limits}.`].filter(Boolean).join(" ");
}

/** A description, with what stands between backticks set as code. */
function Marked({ text }: { text: string }) {
  return text.split("`").map((part, i) =>
    i % 2 === 1 ? (
      <code key={i} className="font-mono">
        {part}
      </code>
    ) : (
      part
    ),
  );
}

function Problem({ text }: { text: string }) {
  return <p className="mt-0.5 text-table text-on-rejected-soft before:mr-1 before:content-['✕']">{text}</p>;
}

function same(a: unknown, b: unknown): boolean {
  return a === b || JSON.stringify(a) === JSON.stringify(b);
}
