import { expect, test } from "vitest";
import { partsOf, plainLine } from "../src/ui/untrusted.ts";

test("plain text of any script is left as it is", () => {
  for (const text of ["528140=", "Grüße, 世界", "שלום", "مرحبا", "a + b = c", "🙂", "<b>not markup</b>"]) {
    expect(partsOf(text)).toEqual([{ kind: "text", text }]);
  }
});

test("a direction override is shown where it stands", () => {
  expect(partsOf("ab\u202ecd")).toEqual([
    { kind: "text", text: "ab" },
    { kind: "mark", code: "U+202E", name: "right-to-left override" },
    { kind: "text", text: "cd" },
  ]);
});

test("everything that would be invisible or change direction is marked", () => {
  const hidden = [
    ..."\u200b\u200c\u200d\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u2060\u2066\u2067\u2068\u2069\ufeff\u00ad\u034f\u115f\u3164",
    ..."\u0000\u0007\u001b\u007f\u0085\u00a0\u3000\u2028\u2029\ue000\ufe0f",
    "\u{e0041}",
    "\u{e01ef}",
    "\ud800",
  ];
  for (const character of hidden) {
    expect([character, partsOf(`a${character}b`).map((part) => part.kind)]).toEqual([
      character,
      ["text", "mark", "text"],
    ]);
  }
});

test("a line break is a break, and a line of text writes it out", () => {
  expect(partsOf("a\nb").map((part) => part.kind)).toEqual(["text", "break", "text"]);
  expect(plainLine("a\nb\u202ec")).toBe("a↵b⟨U+202E⟩c");
});

test("nothing is dropped: characters and parts add up", () => {
  const text = "x\u200b\u200b\ny\u{1f642}\u202e";
  const length = partsOf(text).reduce(
    (sum, part) => sum + (part.kind === "text" ? [...part.text].length : 1),
    0,
  );
  expect(length).toBe([...text].length);
});
