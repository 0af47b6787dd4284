/** Every status `muster` ends with. Programs may rely on them; the table is printed by `muster --help`. */
export const exitCodes = {
  ok: { code: 0, meaning: "done" },
  failed: { code: 1, meaning: "it was tried and failed, or a check found something" },
  usage: { code: 2, meaning: "the command line or a file given to it is wrong" },
  refused: { code: 3, meaning: "not found, or the coordinator refused" },
  signedOut: { code: 4, meaning: "not signed in: an API key is missing or was not accepted" },
  unreachable: { code: 5, meaning: "the coordinator cannot be reached" },
  interrupted: { code: 130, meaning: "interrupted by Ctrl-C" },
} as const satisfies Record<string, { code: number; meaning: string }>;

export type Exit = keyof typeof exitCodes;

/** The table as `--help` shows it. */
export function exitCodeHelp(): string {
  const rows = Object.values(exitCodes).map(
    ({ code, meaning }) => `  ${String(code).padStart(3)}  ${meaning}`,
  );
  return `\nExit codes:\n${rows.join("\n")}`;
}
