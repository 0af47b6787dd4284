import type { PackedRollout } from "@muster/protocol";
import type { Attack } from "../attack.ts";
import { cheating } from "../cheating/generate.ts";
import { injected } from "../cheating/injected.ts";
import { mismeasuring, nodded } from "../cheating/measure.ts";

export const colludingValidator: Attack = {
  id: "validator-collusion",
  kind: "validator",
  title: "Validator and worker in collusion",
  plain:
    "A worker tells its accomplice which tokens are its own; the accomplice finds everything right about them and measures all others honestly, known answers included.",
  saved: 1,
  // a twentieth of what is accepted is measured again: 120 lies survive that with a probability of 0.002
  expectation: { kind: "detected", within: 120 },
  act: async ({ work, ledger, signal }) => {
    const own = new Set<string>();
    const mark = ({ prompt, tokens }: Pick<PackedRollout, "prompt" | "tokens">) => `${prompt}>${tokens}`;
    const stop = new AbortController();
    const validator = work({
      name: "validator",
      roles: ["VALIDATOR"],
      grants: ["VALIDATOR"],
      signal: stop.signal,
      executors: {
        VERIFY: mismeasuring(ledger, (honest, { rollouts }) =>
          rollouts.every((rollout) => own.has(mark(rollout)))
            ? honest.map((measured, i) => nodded(measured, rollouts[i]?.tokens ?? measured.argmax))
            : honest,
        ),
      },
    });
    // Its workers are quarantined as soon as somebody else measures them; it has as many as it likes.
    const accomplices = async (lane: number) => {
      for (let n = 1; !signal.aborted; n++) {
        await work({
          name: `worker-${lane}-${n}`,
          maxTasks: 2,
          // quarantined before its second task it would wait for ever
          signal: AbortSignal.any([signal, AbortSignal.timeout(10_000)]),
          executors: {
            GENERATE: cheating(ledger, {
              rollouts: async (honest, bench) => {
                const made = await injected(honest, bench);
                for (const rollout of made) own.add(mark(rollout));
                return made;
              },
            }),
          },
        });
      }
    };
    await Promise.all([1, 2, 3].map(accomplices));
    stop.abort();
    await validator;
  },
};
