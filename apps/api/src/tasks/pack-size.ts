import type { TaskKind } from "@muster/db";
import type { RunSpec } from "@muster/protocol";

/** Rows of one proof window, and bytes of a pack beside its rows: header, schema and footer. */
const windowRows = 32;
const overhead = 64 * 1024;
/** Lists carry their own structure, and other writers of Parquet are welcome to be less frugal than ours. */
const slack = 2;

/** Largest manifest that is read: protocol's `parseManifest` takes no larger one. */
const manifestBytes = 16 * 2 ** 20;

/**
 * Bytes that the result of a task can need at the very most, whoever wrote it: rows × (4 a token id, 4 a log-probability, 2 + 4k a proof,
 * 8k a measured window, …), twice, and something for the file. What is larger is refused before a byte of it is read.
 * @param kind of the task; for BASE and TRAIN the answer is the manifest's
 */
export function mostPackBytes(spec: RunSpec, kind: TaskKind): number {
  const { generation, verification, evaluation, model } = spec;
  const tokens = model.maxPositions;
  const windows = Math.ceil(tokens / windowRows);
  const row = 128;
  const pack = (rows: number, bytes: number) => overhead + slack * rows * (row + bytes);
  switch (kind) {
    case "GENERATE":
      return pack(
        generation.groupSize * generation.groupsPerTask,
        tokens * 12 + windows * (6 + 4 * verification.topK),
      );
    case "VERIFY":
      return pack(generation.groupSize, tokens * 12 + windows * (4 + 8 * verification.topK));
    case "EVALUATE":
      return pack(evaluation.examples, tokens * 8);
    case "BASE":
    case "TRAIN":
      return manifestBytes;
  }
}
