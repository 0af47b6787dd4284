import { expect, test } from "vitest";
import {
  boundInWords,
  entryInWords,
  outcomesOf,
  policyInWords,
} from "../src/features/verification/audit-words.ts";

const audit = {
  probationGroups: 180,
  floor: 0.1,
  adversaryShare: 0.2,
  epsilon: 0.01,
  trusted: 311,
  auditedAtTrust: 41,
  badAtTrust: 0,
  poisonUpper95: 0.0577,
};

test("the policy in force is said with its numbers, and no bound is claimed where everything is audited", () => {
  const words = policyInWords(audit).join(" ");
  expect(words).toContain(
    "after 180 good ones in a row the node is trusted, and a secret 10 % of its groups is",
  );
  expect(words).toContain("no more than 20 % of the work were dishonest, at most 1 %");
  const everything = policyInWords({ ...audit, floor: 1 }).join(" ");
  expect(everything).toContain("Every group is checked");
  expect(everything).not.toContain("dishonest");
});

test("the bound says what it rests on; without unaudited groups there is nothing to bound", () => {
  expect(boundInWords(audit)).toContain("At most 5.8 % of what was accepted is poison");
  expect(boundInWords(audit)).toContain("0 rejections in 41 secret audits");
  expect(boundInWords({ ...audit, trusted: 0 })).not.toContain("%");
});

test("every group is counted once, and what was trusted is part of what was accepted", () => {
  const groups = {
    submitted: 1,
    verifying: 2,
    accepted: 500,
    setAside: 300,
    stale: 16,
    rejected: 16,
    invalid: 3,
  };
  const outcomes = outcomesOf(groups, 311);
  expect(outcomes.map(({ count }) => count)).toEqual([505, 311, 3, 16, 3]);
  expect(outcomes.reduce((sum, { count }) => sum + count, 0)).toBe(838);
  expect(outcomesOf(groups, 9_999)[0]?.count).toBe(0);
});

test("an entry's ids and hashes are short, and what has no plain value is left out", () => {
  expect(
    entryInWords({
      outcome: "AGREED",
      group: "group_01m82p9h79eaxs8mmbpgbrwpgk",
      measurement: "ab".repeat(32),
      checks: [],
      note: "",
      by: null,
    }),
  ).toBe("outcome AGREED, group group_rwpgk, measurement abababababab");
  expect(entryInWords("nothing")).toBe("");
});
