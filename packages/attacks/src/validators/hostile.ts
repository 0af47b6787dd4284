import type { Attack } from "../attack.ts";
import { mismeasuring } from "../cheating/measure.ts";

export const hostileValidator: Attack = {
  id: "validator-hostile",
  kind: "validator",
  title: "Hostile validator",
  plain:
    "Measures, and bends the numbers of every third group by a hundredth, so that honest workers are rejected and quarantined.",
  saved: 0,
  expectation: { kind: "detected", within: 40 },
  act: async ({ work, ledger }) => {
    let n = 0;
    await work({
      name: "validator",
      roles: ["VALIDATOR"],
      grants: ["VALIDATOR"],
      executors: {
        VERIFY: mismeasuring(ledger, (honest) => {
          if (n++ % 3 !== 0) return honest;
          return honest.map((measured) => ({
            ...measured,
            windows: measured.windows.map(({ indices, values }) => ({
              indices,
              values: values.map((value) => value * 1.01),
            })),
          }));
        }),
      },
    });
  },
};
