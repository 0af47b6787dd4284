import { fuzz } from "@muster/verification/fuzz";
import type { Bench } from "./bench.ts";

/** The long form of the fuzz test: wrong packs, proofs, measurements and bundles by the million. */
export const fuzzing: Bench = {
  options: { inputs: 1_000_000, seed: 2 },
  async run(say, { inputs = 0, seed = 0 }) {
    say(
      `${inputs} wrong inputs of seed ${seed}. An input is crashing, stalling or accepted, or it is nothing.`,
    );
    const { figures, found, reached } = fuzz({ inputs, seed, say });
    for (const [stage, times] of Object.entries(reached).sort(([a], [b]) => (a < b ? -1 : 1)))
      say(`  ${stage} ${times}`);
    for (const finding of found) say(finding);
    const { crashes, stalls, accepted } = figures;
    if (crashes + stalls + accepted > 0) process.exitCode = 1;
    return figures;
  },
};
