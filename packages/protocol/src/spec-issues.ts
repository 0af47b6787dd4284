import type { z } from "zod";

/**
 * What is wrong with one value of a run spec, as a sentence for whoever wrote it. Given to zod with a parse, so that a field's own message
 * comes first.
 * @returns undefined where zod's own words do.
 */
export function specIssueInWords(issue: z.core.$ZodRawIssue): string | undefined {
  switch (issue.code) {
    case "invalid_type":
      if (issue.input === undefined) return "This is missing.";
      return `This must be ${kinds[issue.expected] ?? issue.expected}.`;
    case "too_small": {
      const least = plain(issue.minimum);
      if (issue.origin === "string")
        return least === "1" ? "Write something here." : `Write at least ${least} characters.`;
      if (issue.origin === "array") return `This needs at least ${least} entries.`;
      return `This must be ${issue.inclusive === false ? "more than" : "at least"} ${least}.`;
    }
    case "too_big": {
      const most = plain(issue.maximum);
      if (issue.origin === "string") return `Write at most ${most} characters.`;
      if (issue.origin === "array") return `This takes at most ${most} entries.`;
      return `This must be ${issue.inclusive === false ? "less than" : "at most"} ${most}.`;
    }
    case "invalid_value":
      return `This must be one of ${issue.values.map(String).join(", ")}.`;
    case "invalid_union":
      return issue.note === undefined
        ? undefined
        : `"${issue.discriminator}" names none of the kinds there are.`;
    case "unrecognized_keys": {
      const names = issue.keys.map((key) => `"${key}"`).join(", ");
      return issue.keys.length === 1
        ? `There is no field ${names} here.`
        : `There are no fields ${names} here.`;
    }
    case "invalid_format":
      return issue.format === "datetime" ? "Write a moment in UTC, such as 2030-01-31T12:00:00Z." : undefined;
    default:
      return undefined;
  }
}

const kinds: Partial<Record<string, string>> = {
  string: "text",
  number: "a number",
  int: "a whole number",
  boolean: "true or false",
  array: "a list",
  object: "an object",
};

function plain(bound: number | bigint | undefined): string {
  return bound === undefined ? "" : bound.toLocaleString("en-US", { maximumFractionDigits: 9 });
}
