// What both examples begin with: a client from two environment variables, and errors as sentences.

import { ApiError, createClient, type MusterClient, type Run } from "@muster/sdk";

/** A client of MUSTER_URL (http://127.0.0.1:4000) with the key in MUSTER_API_KEY. Ends the program without one. */
export function openCoordinator(): MusterClient {
  const apiKey = process.env.MUSTER_API_KEY;
  if (!apiKey) {
    return fail(
      2,
      "Set MUSTER_API_KEY: in the dashboard under Settings, or the local installation's by\n" +
        "  export MUSTER_API_KEY=$(npm run --silent muster -- api-key)",
    );
  }
  return createClient({ url: process.env.MUSTER_URL ?? "http://127.0.0.1:4000", apiKey });
}

/** A run by its id (`run_…`) or its slug. */
export async function findRun(client: MusterClient, name: string): Promise<Run> {
  return await client.runs.get(name.startsWith("run_") ? { id: name } : { slug: name });
}

/** Does the work; what the coordinator refuses is told, and is no stack trace. */
export async function attempt(work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } catch (error) {
    if (!(error instanceof ApiError) || error.code === "ABORTED") throw error;
    fail(1, `${error.code}: ${error.message}`);
  }
}

export function fail(code: number, message: string): never {
  console.error(message);
  process.exit(code);
}
