import { encodeRolloutPack, encodeSamplesPack, newId, type RolloutPack, toTypeId } from "@muster/protocol";
import type { Attack } from "../attack.ts";
import { cheating } from "../cheating/generate.ts";
import { bombs } from "./bombs.ts";

/** Packs that are something else than the task's pack. An attack of several forms takes the next one at each task. */
export const [wrongSchema, parquetBomb, brokenFile, foreignHeader, wrongCount] = (
  [
    [
      "wrong-schema",
      "Wrong schema",
      "Hands in a Parquet file with other columns.",
      [
        ({ header: { run, manifest }, rollouts }) =>
          encodeSamplesPack({
            header: { kind: "samples", version: 1, run, suite: "held-out", manifest, policyVersion: 0 },
            samples: rollouts.map(({ index, prompt, tokens, finish }) => ({ index, prompt, tokens, finish })),
          }),
      ],
    ],
    [
      "parquet-bomb",
      "Parquet bomb",
      "A file of a few kilobytes that declares billions of rows, values or columns, so that its reader allocates until it dies.",
      bombs.map((bomb) => (pack: RolloutPack) => bomb(encodeRolloutPack(pack))),
    ],
    [
      "broken-file",
      "Broken file",
      "Half of a pack, one flipped bit in its footer, no bytes of a pack at all.",
      [
        (pack) => encodeRolloutPack(pack).slice(0, 2_000),
        (pack) => {
          const bytes = encodeRolloutPack(pack);
          const at = bytes.length - 100;
          bytes[at] = (bytes[at] ?? 0) ^ 0x40;
          return bytes;
        },
        () => new TextEncoder().encode("PAR1 not at all PAR1"),
      ],
    ],
    [
      "foreign-header",
      "Another task's header",
      "Hands a pack in whose header names another task, so that one pack would be paid twice.",
      [
        ({ header, rollouts }) =>
          encodeRolloutPack({ header: { ...header, task: toTypeId("task", newId("task")) }, rollouts }),
      ],
    ],
    [
      "wrong-count",
      "Too few, too many",
      "Leaves the last rollout of a group out, or adds one more.",
      [
        ({ header, rollouts }) => encodeRolloutPack({ header, rollouts: rollouts.slice(0, -1) }),
        ({ header, rollouts }) =>
          encodeRolloutPack({
            header,
            rollouts: [
              ...rollouts,
              ...rollouts.slice(-1).map((last) => ({ ...last, index: last.index + 1 })),
            ],
          }),
      ],
    ],
  ] satisfies [string, string, string, ((pack: RolloutPack) => Uint8Array)[]][]
).map(([id, title, plain, forms]): Attack => {
  return {
    id,
    kind: "pack",
    title,
    plain,
    saved: 1,
    expectation: { kind: "detected", within: 4 },
    executors: (ledger) => {
      let n = 0;
      const write = (pack: RolloutPack) => forms[n++ % forms.length]?.(pack) ?? encodeRolloutPack(pack);
      return { GENERATE: cheating(ledger, { pack: write }) };
    },
  };
}) as [Attack, Attack, Attack, Attack, Attack];
