// Held-out rewards, computed again from what the evaluator generated: the coordinator's figures are not taken on trust.
import { openDatabase } from "@muster/db";
import { decodeSamplesPack, environment, fromTypeId, heldOutExample } from "@muster/protocol";
import type { MusterClient } from "@muster/sdk";

/**
 * Reward of each example of a version's evaluation, in the suite's order, from its SAMPLES pack.
 * @throws Error when the pack does not hold each example of the suite, posed as the suite poses it.
 */
export async function heldOutRewards(
  installation: { client: MusterClient; databaseUrl: string },
  run: { id: string; environment: string; suite: string; examples: number; version: number },
): Promise<number[]> {
  await using database = openDatabase(installation.databaseUrl, { max: 1 });
  const { samplesHash } = await database.prisma.evaluation.findFirstOrThrow({
    where: { runId: fromTypeId(run.id, "run"), version: run.version, suite: run.suite },
    select: { samplesHash: true },
  });
  const pack = decodeSamplesPack(await installation.client.blobs.get({ sha256: samplesHash }));
  const env = environment(run.environment);
  if (pack.samples.length !== run.examples || pack.header.policyVersion !== run.version)
    throw new Error(
      `The samples of version ${run.version} are ${pack.samples.length} of version ${pack.header.policyVersion}; expected ${run.examples}.`,
    );
  return pack.samples.map((sample, i) => {
    const example = heldOutExample(env, run.suite, i);
    const posed = env.tokenizer.decode(Array.from(sample.prompt));
    if (sample.index !== i || posed !== example.prompt)
      throw new Error(
        `Sample ${i} of version ${run.version} answers "${posed}", the suite asks "${example.prompt}".`,
      );
    const ended = sample.finish === "eos";
    const text = ended ? sample.tokens.slice(0, -1) : sample.tokens;
    return env.score(example, env.tokenizer.decode(Array.from(text)), { finishReason: sample.finish }).reward;
  });
}
