// What others wrote and Postgres has to keep: its text and jsonb hold neither the character NUL nor half a surrogate pair.

/** Whether a value can be stored as jsonb. One that cannot would fail the statement it is part of, with all of its other rows. */
export function isStorable(value: unknown): boolean {
  // JSON.stringify writes exactly these as escapes; a backslash of the text itself comes as a pair.
  return !/(?<!\\)(?:\\\\)*\\u(?:0000|d[89a-f])/.test(JSON.stringify(value) ?? "");
}

/** A text as it can be stored and shown in one line: without control characters, at most `most` characters. */
export function storable(text: string, most: number): string {
  const whole = text.replaceAll(/\p{Cc}+/gu, " ").replaceAll(/\p{Cs}/gu, "\ufffd");
  return whole.length <= most ? whole : `${whole.slice(0, most - 1).replace(/\p{Cs}$/u, "")}…`;
}
