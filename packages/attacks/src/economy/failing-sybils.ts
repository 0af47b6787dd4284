import { initialParameters } from "@muster/policy/graph";
import type { Attack } from "../attack.ts";
import { cheating } from "../cheating/generate.ts";
import { withWeights } from "../cheating/weights.ts";

const identities = 4;

export const failingSybils: Attack = {
  id: "failing-sybils",
  kind: "economy",
  title: "Failing sybils",
  plain:
    "Many identities fail the same check at the same time, to make it look broken, so that it is loosened or its failures are forgiven.",
  saved: 1,
  expectation: {
    kind: "contained",
    bound:
      "each failure counts against its node, none is forgiven, and nobody else's work is judged otherwise",
    holds: ({ nodes, poison, othersRejected, invalid }) =>
      nodes.length === identities &&
      nodes.every(({ rejected }) => rejected > 0) &&
      poison === 0 &&
      invalid === 0 &&
      othersRejected === 0,
  },
  async act({ work, ledger }) {
    const checkpoint = withWeights("failing", (_, model) => initialParameters(model, [3, 5]));
    await Promise.all(
      Array.from({ length: identities }, (_, n) =>
        work({
          name: `sybil-${n + 1}`,
          executors: { GENERATE: cheating(ledger, { checkpoint }) },
          maxTasks: 1,
        }),
      ),
    );
  },
};
