import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  type AuditPolicy,
  auditRate,
  finalAfter,
  newStanding,
  nextStanding,
  type OutcomeKind,
  probationGroups,
} from "../src/index.ts";

const policy: AuditPolicy = { adversaryShare: 0.2, epsilon: 1e-2, floor: 0.1 };
const after = (outcomes: readonly OutcomeKind[]) =>
  outcomes.reduce((standing, outcome) => nextStanding(standing, outcome, policy), newStanding);
const times = (n: number, outcome: OutcomeKind) => Array<OutcomeKind>(n).fill(outcome);

describe("standing", () => {
  it("needs a(1 − f) / (ε f) audited-valid groups for trust", () => {
    expect(probationGroups(policy)).toBe(180);
    expect(probationGroups({ adversaryShare: 0.2, epsilon: 1e-3, floor: 0.1 })).toBe(1800);
    expect(after(times(179, "ACCEPTED")).state).toBe("PROBATION");
    const trusted = after(times(180, "ACCEPTED"));
    expect(trusted.state).toBe("TRUSTED");
    expect(auditRate(trusted, policy)).toBe(0.1);
  });

  it.each(["REJECTED", "REFUSED", "INVALID"] as const)(
    "loses all trust by one group that is %s",
    (outcome) => {
      const fallen = after([...times(500, "ACCEPTED"), outcome]);
      expect(fallen).toMatchObject({ state: "PROBATION", auditedValid: 0, accepted: 500 });
      expect(auditRate(fallen, policy)).toBe(1);
    },
  );

  it("ends in quarantine by the third failure of a run, however far apart", () => {
    const twice = [...times(300, "ACCEPTED"), "REJECTED", ...times(300, "ACCEPTED"), "REFUSED"] as const;
    expect(after([...twice, ...times(300, "ACCEPTED")]).state).toBe("TRUSTED");
    expect(after([...twice, ...times(300, "ACCEPTED"), "REJECTED"]).state).toBe("QUARANTINED");
  });

  it("ends in quarantine by three INVALID groups in a row and not by three apart", () => {
    expect(after(times(3, "INVALID")).state).toBe("QUARANTINED");
    expect(after(["INVALID", "ACCEPTED", "INVALID", "ACCEPTED", "INVALID"]).state).toBe("PROBATION");
  });

  it("begins anew when it is reinstated, with its failures on record: the next one is one too many", () => {
    const lifted = after([...times(200, "ACCEPTED"), ...times(3, "REJECTED"), "REINSTATED"]);
    expect(lifted).toMatchObject({ state: "PROBATION", auditedValid: 0, accepted: 200, rejected: 3 });
    const again = [...times(3, "INVALID"), "REINSTATED", ...times(180, "ACCEPTED")] as const;
    expect(after(again)).toMatchObject({ state: "TRUSTED", invalid: 3, invalidStreak: 0 });
    const steady = [...times(3, "REJECTED"), "REINSTATED", ...times(180, "ACCEPTED")] as const;
    expect(after(steady).state).toBe("TRUSTED");
    expect(after([...steady, "INVALID"]).state).toBe("PROBATION");
    expect(after([...steady, "REFUSED"]).state).toBe("QUARANTINED");
  });

  it("is audited whole again when silence released its stake, until it holds one again", () => {
    const back = [...times(500, "ACCEPTED"), "RELEASED"] as const;
    expect(after(back)).toMatchObject({ state: "PROBATION", auditedValid: 150, accepted: 500 });
    expect(after([...back, ...times(29, "ACCEPTED")]).state).toBe("PROBATION");
    expect(after([...back, ...times(30, "ACCEPTED")]).state).toBe("TRUSTED");
    // Who has shown less than that loses nothing by it.
    expect(after([...times(20, "ACCEPTED"), "RELEASED"])).toMatchObject({ auditedValid: 20 });
  });

  it("never returns from quarantine by itself", () => {
    const outcome = fc.constantFrom<OutcomeKind>("ACCEPTED", "REJECTED", "INVALID", "REFUSED");
    fc.assert(
      fc.property(
        fc.array(outcome, { maxLength: 60 }),
        fc.array(outcome, { maxLength: 60 }),
        (first, then) => {
          if (after(first).state === "QUARANTINED")
            expect(after([...first, ...then]).state).toBe("QUARANTINED");
        },
      ),
    );
  });

  it("holds a group until ⌈3 / f⌉ more were audited and valid", () => {
    expect(finalAfter(40, policy)).toBe(70);
    expect(finalAfter(0, { ...policy, floor: 1 })).toBe(3);
  });
});
