import { appendFileSync, existsSync, mkdirSync, readFileSync } from "node:fs";
import { dirname } from "node:path";

// What an adversary knows about itself. The coordinator never sees it: the range compares it with the coordinator's verdicts.

/** A group that was made, honestly or not. */
export type LedgerGroup = {
  task: string;
  /** Position in its task. */
  index: number;
  version: number;
  /** The prompt's text, by which the group is found again among the coordinator's. */
  prompt: string;
  tokens: number;
  cheated: boolean;
};

/** What a call was answered: `ok`, or the error's code. */
export type LedgerAnswer = { asked: string; answer: string };

export type Ledger = {
  group(line: LedgerGroup): void;
  answer(asked: string, answer: string): void;
  /** Groups of this ledger so far. */
  readonly groups: readonly LedgerGroup[];
  readonly answers: readonly LedgerAnswer[];
};

/** A ledger that is also written to a file, one JSON object a line; one that is there is gone on with. */
export function openLedger(file?: string): Ledger {
  const groups: LedgerGroup[] = [];
  const answers: LedgerAnswer[] = [];
  if (file !== undefined) mkdirSync(dirname(file), { recursive: true });
  if (file !== undefined && existsSync(file)) {
    for (const line of readFileSync(file, "utf8").split("\n")) {
      if (line === "") continue;
      // written below and by nobody else
      const entry = JSON.parse(line) as LedgerGroup | LedgerAnswer;
      if ("asked" in entry) answers.push(entry);
      else groups.push(entry);
    }
  }
  const write = (entry: LedgerGroup | LedgerAnswer) => {
    if (file !== undefined) appendFileSync(file, `${JSON.stringify(entry)}\n`);
  };
  return {
    groups,
    answers,
    group(line) {
      groups.push(line);
      write(line);
    },
    answer(asked, answer) {
      answers.push({ asked, answer });
      write({ asked, answer });
    },
  };
}
