/** A key as it was pressed. */
export type Press = {
  readonly key: string;
  readonly mod: boolean;
  readonly alt: boolean;
  /** Whether the focus is where text is typed. */
  readonly typing: boolean;
};

/** What a press means: a whole shortcut, the first of two keys, or nothing. */
export type Reading = { readonly keys: string } | { readonly pending: string } | undefined;

/**
 * Reads a press as a shortcut. Single keys are never read while text is typed, nor when they are switched off; `⌘K` always is.
 * @param pending the first key of a sequence that is waited for
 * @param known every shortcut there is: `n`, `g r`, `mod+k`
 */
export function readPress(
  press: Press,
  options: { pending: string | undefined; known: ReadonlySet<string>; single: boolean },
): Reading {
  const { pending, known, single } = options;
  const key = press.key.length === 1 ? press.key.toLowerCase() : press.key;
  if (press.mod) {
    const keys = `mod+${key}`;
    return known.has(keys) ? { keys } : undefined;
  }
  if (press.alt || press.typing || !single) return undefined;
  if (pending !== undefined) {
    const keys = `${pending} ${key}`;
    if (known.has(keys)) return { keys };
  }
  // a sequence beats a single key of the same letter: it can still be completed
  for (const each of known) if (each.startsWith(`${key} `)) return { pending: key };
  return known.has(key) ? { keys: key } : undefined;
}

/** The keys as they stand on a keyboard: `⌘K` on Apple's, `Ctrl K` elsewhere. */
export function keyCaps(keys: string, apple: boolean): string[] {
  return keys
    .split(" ")
    .flatMap((part) => part.split("+"))
    .map((part) => {
      if (part === "mod") return apple ? "⌘" : "Ctrl";
      if (part === "Escape") return "Esc";
      return part.length === 1 && /[a-z]/.test(part) ? part.toUpperCase() : part;
    });
}
