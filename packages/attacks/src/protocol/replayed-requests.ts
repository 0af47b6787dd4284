import { challengeBytes } from "@muster/protocol";
import { type Lease, pause } from "@muster/sdk";
import type { Attack } from "../attack.ts";
import { cheating } from "../cheating/generate.ts";
import { answerTo, type BareNode, submitted } from "../cheating/node.ts";

/** What each replay has to be answered. */
const answers = {
  "the submission again": "duplicate",
  "its pack under another task": "PACK_INVALID",
  "its signature under another task": "SIGNATURE_INVALID",
  "a registration again": "CHALLENGE_INVALID",
} as const;

export const replayedRequests: Attack = {
  id: "replayed-requests",
  kind: "protocol",
  title: "Replayed requests",
  plain:
    "Sends what was right once again: a submission, its pack and its signature for another task, the answer to a registration's challenge.",
  saved: 1,
  expectation: {
    kind: "contained",
    bound: "every replay is refused or answered as the first time, and the work is paid once",
    holds: (facts) =>
      Object.entries(answers).every(([asked, answer]) => facts.allAnswered(asked, answer)) &&
      facts.kept <= facts.earnable,
  },
  async act({ bare, url, ledger, signal }) {
    const node = await bare("replayer");
    const { client, identity } = node.ctx;
    const { publicKey } = identity;
    const { challenge } = await client.nodes.challenge({ publicKey });
    const audience = new URL(url).origin;
    const registration = {
      publicKey,
      challenge,
      signature: identity.signHex(challengeBytes({ publicKey, challenge, audience })),
      protocol: 1,
      software: "muster-worker/0.1.0",
      name: "replayer",
      hardware: {},
    };
    await client.nodes.register(registration);
    ledger.answer("a registration again", await answerTo(() => client.nodes.register(registration)));

    const first = await oneLease(node, signal);
    if (first === undefined) return;
    const bytes = await node.generate(first, cheating(ledger, {}));
    const pack = await node.put(first, bytes);
    const submission = node.signed(first, pack);
    ledger.answer("an honest submission", await submitted(() => client.tasks.submitRollouts(submission)));
    for (let n = 0; n < 3; n++)
      ledger.answer("the submission again", await submitted(() => client.tasks.submitRollouts(submission)));

    const second = await oneLease(node, signal);
    if (second === undefined) return;
    await node.put(second, bytes);
    const copied = node.signed(second, pack, first);
    ledger.answer(
      "its signature under another task",
      await submitted(() => client.tasks.submitRollouts(copied)),
    );
    const resigned = node.signed(second, pack);
    ledger.answer(
      "its pack under another task",
      await submitted(() => client.tasks.submitRollouts(resigned)),
    );
  },
};

async function oneLease({ ctx }: BareNode, signal: AbortSignal): Promise<Lease | undefined> {
  while (!signal.aborted) {
    const [lease] = await ctx.client.tasks.claim({ kinds: ["GENERATE"], max: 1 });
    if (lease !== undefined) return lease;
    await pause(200, signal);
  }
  return undefined;
}
