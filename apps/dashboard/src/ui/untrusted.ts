/**
 * Text that a stranger's machine wrote, cut into what may be shown as it is and characters that would deceive a reader:
 * controls, direction marks and overrides, zero-width and other invisible characters, private use, lone surrogates.
 */
export type UntrustedPart =
  | { kind: "text"; text: string }
  | { kind: "break" }
  /** `code` is `U+202E`; `name` says what it is in words. */
  | { kind: "mark"; code: string; name: string };

/** Cuts text into parts. Joined, the parts say everything that was in it: nothing is dropped. */
export function partsOf(text: string): UntrustedPart[] {
  const parts: UntrustedPart[] = [];
  let plain = "";
  const flush = () => {
    if (plain !== "") parts.push({ kind: "text", text: plain });
    plain = "";
  };
  for (const character of text) {
    if (character === "\n") {
      flush();
      parts.push({ kind: "break" });
    } else if (deceptive.test(character)) {
      flush();
      parts.push(markOf(character));
    } else {
      plain += character;
    }
  }
  flush();
  return parts;
}

/** The text on one line, with marks written out: for titles, labels and other places that hold only a string. */
export function plainLine(text: string): string {
  return partsOf(text).map(written).join("");
}

function written(part: UntrustedPart): string {
  switch (part.kind) {
    case "text":
      return part.text;
    case "break":
      return "↵";
    case "mark":
      return `⟨${part.code}⟩`;
  }
}

const deceptive =
  /^[\p{Cc}\p{Cf}\p{Co}\p{Cs}\p{Cn}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}\u00a0\u2000-\u200a\u202f\u205f\u3000]$/u;

function markOf(character: string): UntrustedPart {
  const point = character.codePointAt(0) ?? 0;
  const code = `U+${point.toString(16).toUpperCase().padStart(4, "0")}`;
  return { kind: "mark", code, name: names.get(point) ?? categoryOf(character, point) };
}

function categoryOf(character: string, point: number): string {
  if (point >= 0xe0000 && point <= 0xe007f) return "invisible tag character";
  if (/\p{Cc}/u.test(character)) return "control character";
  if (/\p{Co}/u.test(character)) return "private use character";
  if (/\p{Cs}/u.test(character)) return "half of a character";
  if (/\p{Cn}/u.test(character)) return "unassigned character";
  if (/\p{Z}/u.test(character)) return "unusual space";
  return "invisible character";
}

const names = new Map([
  [0x00, "null"],
  [0x09, "tab"],
  [0x0d, "carriage return"],
  [0x1b, "escape"],
  [0x7f, "delete"],
  [0xa0, "no-break space"],
  [0xad, "soft hyphen"],
  [0x061c, "Arabic letter mark"],
  [0x200b, "zero-width space"],
  [0x200c, "zero-width non-joiner"],
  [0x200d, "zero-width joiner"],
  [0x200e, "left-to-right mark"],
  [0x200f, "right-to-left mark"],
  [0x2028, "line separator"],
  [0x2029, "paragraph separator"],
  [0x202a, "left-to-right embedding"],
  [0x202b, "right-to-left embedding"],
  [0x202c, "end of direction"],
  [0x202d, "left-to-right override"],
  [0x202e, "right-to-left override"],
  [0x2060, "word joiner"],
  [0x2066, "left-to-right isolate"],
  [0x2067, "right-to-left isolate"],
  [0x2068, "first strong isolate"],
  [0x2069, "end of isolate"],
  [0xfeff, "byte order mark"],
]);
