import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { type Attack, type Facts, openLedger } from "../src/index.ts";
import { score } from "../src/range/score.ts";
import { summary } from "../src/range/scoreboard.ts";

const attack = (more: Partial<Pick<Attack, "saved" | "expectation">> = {}): Attack => ({
  id: "some",
  kind: "generation",
  title: "Some",
  plain: "Does something.",
  saved: 0.5,
  expectation: { kind: "detected", within: 4 },
  ...more,
  executors: () => ({}),
});

type Group = Facts["groups"][number];
const group = (state: string, cheated: boolean, more: Partial<Group> = {}): Group => ({
  state,
  cheated,
  acceptance: state === "ACCEPTED" ? "AUDITED" : null,
  retroactive: false,
  trained: false,
  price: 100,
  failed: state === "REJECTED" ? ["sampling"] : [],
  ...more,
});

const facts = (groups: readonly Group[], more: Partial<Facts> = {}): Facts => {
  const accepted = groups.filter(({ state }) => state === "ACCEPTED");
  const earnable = accepted.reduce((sum, { price }) => sum + price, 0);
  return {
    nodes: [
      { id: "n", name: "some", trust: "PROBATION", roles: ["WORKER"], rejected: 0, invalid: 0, credits: 0 },
    ],
    groups,
    refusals: 0,
    poison: accepted.filter(({ cheated }) => cheated).length,
    kept: earnable,
    earnable,
    invalid: 0,
    mostLive: 0,
    roles: ["WORKER"],
    othersAccepted: 0,
    othersRejected: 0,
    othersLately: 0,
    runState: "RUNNING",
    answers: [],
    allAnswered: () => false,
    ...more,
  };
};

test("a lie that is rejected costs the compute that was spent on it", () => {
  const result = score(attack(), facts([group("ACCEPTED", false), group("REJECTED", true)]), 1);
  expect(result).toMatchObject({ outcome: "detected", untilDetection: 1, expectedValue: -50, poison: 0 });
});

test("a lie that is accepted is missed, and worth its pay and the compute that was saved", () => {
  const result = score(attack(), facts([group("ACCEPTED", true)]), 1);
  expect(result).toMatchObject({ outcome: "missed", untilDetection: null, expectedValue: 150, poison: 1 });
});

test("what was promised and taken back counts against the lie that cost it", () => {
  const found = facts(
    [...Array(10).fill(group("ACCEPTED", false)), group("ACCEPTED", true), group("REJECTED", true)],
    {
      kept: 300,
    },
  );
  // 100 kept for a lie, 100 lost with one, 800 of 1,100 promised are gone, half of 200 was never spent
  expect(score(attack(), found, 1)).toMatchObject({ expectedValue: 100 - 100 - 800 + 100, forfeited: 800 });
});

test("a lie that is noticed too late is missed", () => {
  const late = [...Array(4).fill(group("ACCEPTED", true)), group("REJECTED", true)];
  expect(score(attack(), facts(late), 1)).toMatchObject({ outcome: "missed", untilDetection: 5 });
  const within = attack({ expectation: { kind: "detected", within: 5 } });
  expect(score(within, facts(late), 1)).toMatchObject({ outcome: "detected", untilDetection: 5 });
});

test("a lie that was trusted is noticed by the one that was audited, and rejected after it", () => {
  const groups = [group("REJECTED", true, { retroactive: true }), group("REJECTED", true)];
  expect(score(attack(), facts(groups), 1)).toMatchObject({ untilDetection: 2, expectedValue: -100 });
});

test("a refused pack is noticed by its first group, and one that came too late is not", () => {
  const untaken = facts([group("UNTAKEN", true), group("UNTAKEN", true)]);
  expect(score(attack(), { ...untaken, refusals: 1 }, 1)).toMatchObject({
    outcome: "detected",
    untilDetection: 1,
    caughtBy: ["intake"],
  });
  expect(score(attack(), untaken, 1)).toMatchObject({ outcome: "missed" });
});

test("an attack is contained while its bound holds", () => {
  const holds = ({ mostLive }: Facts) => mostLive <= 2;
  const contained = attack({ expectation: { kind: "contained", bound: "few leases", holds } });
  expect(score(contained, facts([], { mostLive: 2 }), 1).outcome).toBe("contained");
  expect(score(contained, facts([], { mostLive: 3 }), 1)).toMatchObject({
    outcome: "missed",
    why: "not so: few leases",
  });
});

test("the summary says of each attack whether it was stopped", () => {
  const scores = [facts([group("REJECTED", true)]), facts([group("ACCEPTED", true)])].map((found) =>
    score(attack(), found, 1),
  );
  const honest = { windows: 10, falseRejections: 0, upper95: 0.26 };
  expect(summary(scores, honest)).toEqual({
    attacks: [
      {
        id: "some",
        kind: "generation",
        detected: true,
        groupsUntilQuarantine: null,
        expectedValue: -50,
        poisonAccepted: 0,
      },
      {
        id: "some",
        kind: "generation",
        detected: false,
        groupsUntilQuarantine: null,
        expectedValue: 150,
        poisonAccepted: 1,
      },
    ],
    honest,
  });
});

test("a ledger that is opened again remembers", () => {
  const folder = mkdtempSync(join(tmpdir(), "muster-ledger-"));
  try {
    const file = join(folder, "nodes", "ledger.jsonl");
    const line = { task: "t", index: 0, version: 1, prompt: "ab=", tokens: 9, cheated: true };
    const first = openLedger(file);
    first.group(line);
    first.answer("claim", "ok");
    const again = openLedger(file);
    expect([again.groups, again.answers]).toEqual([[line], [{ asked: "claim", answer: "ok" }]]);
  } finally {
    rmSync(folder, { recursive: true });
  }
});
