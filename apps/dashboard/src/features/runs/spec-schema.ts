// The run spec's JSON Schema, read as a form: which fields there are, what they hold, and how a value gets in and out of one.

export type JsonObject = { readonly [key: string]: unknown };

/** One input. `path` is where its value is in the spec. */
export type SpecField = {
  readonly path: string;
  readonly name: string;
  readonly label: string;
  readonly description: string;
  readonly kind: "text" | "number" | "integer" | "boolean" | "choice" | "list";
  readonly choices: readonly string[];
  readonly required: boolean;
  readonly fallback: unknown;
  /** `1 to 256`, for a hint; empty without limits. */
  readonly limits: string;
};

/** An object of the spec: its own fields, and the objects inside it. */
export type SpecSection = {
  readonly path: string;
  readonly label: string;
  readonly description: string;
  readonly fields: readonly SpecField[];
  readonly sections: readonly SpecSection[];
  /** The key that says which of several shapes this object has, and the shapes' names. */
  readonly variants: { readonly key: string; readonly names: readonly string[] } | undefined;
};

/** Reads a schema for the spec at hand: of an object with several shapes, the one it has. */
export function sectionOf(schema: unknown, spec: JsonObject): SpecSection {
  return readSection(asObject(schema), asObject(schema), spec, "", "Run");
}

/** The value at a path (`training.clipLow`, `evaluation.versions.0`); undefined when there is none. */
export function valueAt(spec: unknown, path: string): unknown {
  if (path === "") return spec;
  let value = spec;
  for (const key of path.split(".")) {
    if (typeof value !== "object" || value === null || !Object.hasOwn(value, key)) return undefined;
    value = (value as JsonObject)[key]; // an object that has the key
  }
  return value;
}

/** A copy of the spec with the value at a path; `undefined` takes the key out, so that its default applies. */
export function withValueAt(spec: JsonObject, path: string, value: unknown): JsonObject {
  const [key = "", ...rest] = path.split(".");
  if (rest.length === 0) {
    if (value !== undefined) return { ...spec, [key]: value };
    return Object.fromEntries(Object.entries(spec).filter(([name]) => name !== key));
  }
  return { ...spec, [key]: withValueAt(asObject(spec[key]), rest.join("."), value) };
}

/** What a person typed, as the spec holds it. Text that is not a number stays text: the schema's own check then says what is wrong. */
export function parseTyped(field: SpecField, text: string): unknown {
  const trimmed = text.trim();
  if (trimmed === "") return field.kind === "text" && field.required ? "" : undefined;
  switch (field.kind) {
    case "number":
    case "integer":
      return numberOr(trimmed);
    case "list":
      return trimmed
        .split(/[\s,]+/)
        .filter((part) => part !== "")
        .map(numberOr);
    case "boolean":
      return trimmed === "true";
    case "choice":
    case "text":
      return text;
  }
}

/** The value of a field as its input shows it. */
export function shownValue(value: unknown): string {
  if (value === undefined || value === null) return "";
  if (Array.isArray(value)) return value.map((item) => shownValue(item)).join(", ");
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

/** Issues of a field or of anything inside it: an issue at `evaluation.versions.1` belongs to `evaluation.versions`. */
export function issuesAt<T extends { path: string }>(issues: readonly T[], path: string): T[] {
  return issues.filter((issue) => issue.path === path || (path !== "" && issue.path.startsWith(`${path}.`)));
}

/** Paths of every field and section, to tell issues that stand beside something from those that stand alone. */
export function pathsOf(section: SpecSection): string[] {
  return [
    ...section.fields.map((field) => field.path),
    ...section.sections.flatMap((inner) => [inner.path, ...pathsOf(inner)]),
  ];
}

/** Where a path is in the form, in its own words: `evaluation.versions.1` is `Evaluation › Versions, entry 2`. */
export function placeOf(section: SpecSection, path: string): string {
  const field = section.fields.find((each) => path === each.path || path.startsWith(`${each.path}.`));
  if (field !== undefined) {
    const entry = path.slice(field.path.length + 1);
    return /^\d+$/.test(entry) ? `${field.label}, entry ${Number(entry) + 1}` : field.label;
  }
  const inner = section.sections.find((each) => path === each.path || path.startsWith(`${each.path}.`));
  if (inner === undefined) return path === "" || path === section.path ? "" : path;
  return [inner.label, placeOf(inner, path)].filter((part) => part !== "").join(" › ");
}

/** `maxGradientNorm` → `Max gradient norm`. */
export function labelOf(name: string): string {
  const words = name
    .replace(/([a-z0-9])([A-Z])/g, "$1 $2")
    .toLowerCase()
    .replace(/\b(kl|kv|qkv|rms)\b/g, (word) => word.toUpperCase())
    .replace(/\bmi b$/, "MiB");
  return words.charAt(0).toUpperCase() + words.slice(1);
}

function readSection(
  root: JsonObject,
  schema: JsonObject,
  value: unknown,
  path: string,
  label: string,
): SpecSection {
  const description = textOf(schema.description);
  const { shape, variants } = shapeOf(root, resolved(root, schema), value);
  const required = new Set(Array.isArray(shape.required) ? shape.required.map(String) : []);
  const fields: SpecField[] = [];
  const sections: SpecSection[] = [];
  for (const [name, raw] of Object.entries(asObject(shape.properties))) {
    if (name === variants?.key) continue;
    const inner = { ...resolved(root, asObject(raw)), ...described(asObject(raw)) };
    const innerPath = path === "" ? name : `${path}.${name}`;
    if (inner.type === "object" || inner.properties !== undefined || shapesOf(inner).length > 0) {
      sections.push(readSection(root, inner, valueAt(value, name), innerPath, labelOf(name)));
    } else if (inner.const === undefined) {
      fields.push(readField(inner, name, innerPath, required.has(name)));
    }
  }
  return { path, label, description: description || textOf(shape.description), fields, sections, variants };
}

function readField(schema: JsonObject, name: string, path: string, required: boolean): SpecField {
  const choices = Array.isArray(schema.enum) ? schema.enum.map(String) : [];
  return {
    path,
    name,
    label: labelOf(name),
    description: textOf(schema.description),
    kind: kindOf(schema, choices),
    choices,
    required,
    fallback: schema.default,
    limits: limitsOf(schema),
  };
}

function kindOf(schema: JsonObject, choices: readonly string[]): SpecField["kind"] {
  if (choices.length > 0) return "choice";
  switch (schema.type) {
    case "integer":
    case "number":
    case "boolean":
      return schema.type;
    case "array":
      return "list";
    default:
      return "text";
  }
}

function limitsOf(schema: JsonObject): string {
  if (schema.type !== "integer" && schema.type !== "number") return "";
  const { minimum, exclusiveMinimum, maximum, exclusiveMaximum } = schema;
  // a bound of 2^53 only says that it is an integer
  const bound = (value: unknown) => typeof value === "number" && Math.abs(value) < Number.MAX_SAFE_INTEGER;
  const say = (value: unknown) => Number(value).toLocaleString("en-US", { maximumFractionDigits: 9 });
  const high = bound(maximum) ? say(maximum) : "";
  const below = bound(exclusiveMaximum) ? say(exclusiveMaximum) : "";
  if (bound(minimum)) {
    if (high) return `${say(minimum)} to ${high}`;
    return below ? `${say(minimum)} to less than ${below}` : `At least ${say(minimum)}`;
  }
  if (bound(exclusiveMinimum)) {
    if (high) return `More than ${say(exclusiveMinimum)}, at most ${high}`;
    return below ? `Between ${say(exclusiveMinimum)} and ${below}` : `More than ${say(exclusiveMinimum)}`;
  }
  if (high) return `At most ${high}`;
  return below ? `Less than ${below}` : "";
}

/** Of an object with several shapes told apart by a constant key, the shape of this value. */
function shapeOf(
  root: JsonObject,
  schema: JsonObject,
  value: unknown,
): { shape: JsonObject; variants: SpecSection["variants"] } {
  const shapes = shapesOf(schema).map((shape) => resolved(root, shape));
  const key = shapes
    .flatMap((shape) => Object.entries(asObject(shape.properties)))
    .find(([, property]) => asObject(property).const !== undefined)?.[0];
  if (key === undefined) return { shape: shapes[0] ?? schema, variants: undefined };
  const named = shapes.map((shape) => ({
    shape,
    name: String(asObject(asObject(shape.properties)[key]).const),
  }));
  const chosen = named.find(({ name }) => name === String(valueAt(value, key))) ?? named[0];
  return { shape: chosen?.shape ?? schema, variants: { key, names: named.map(({ name }) => name) } };
}

function shapesOf(schema: JsonObject): JsonObject[] {
  const shapes = schema.oneOf ?? schema.anyOf;
  return Array.isArray(shapes) ? shapes.map(asObject) : [];
}

function resolved(root: JsonObject, schema: JsonObject): JsonObject {
  const reference = schema.$ref;
  if (typeof reference !== "string" || !reference.startsWith("#/")) return schema;
  let target: unknown = root;
  for (const key of reference.slice(2).split("/")) target = asObject(target)[key];
  return asObject(target);
}

/** What stands beside a reference overrides what it points at. */
function described({ description, default: fallback }: JsonObject): JsonObject {
  return {
    ...(description === undefined ? {} : { description }),
    ...(fallback === undefined ? {} : { default: fallback }),
  };
}

function numberOr(text: string): number | string {
  const value = Number(text);
  return text !== "" && Number.isFinite(value) ? value : text;
}

function textOf(value: unknown): string {
  return typeof value === "string" ? value : "";
}

function asObject(value: unknown): JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value) ? (value as JsonObject) : {};
}
