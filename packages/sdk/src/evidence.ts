import { ApiError, errorOfFetch, errorOfResponse } from "./api-error.ts";
import type { CallOptions, Transport } from "./transport.ts";

export type EvidenceBundles = {
  /**
   * Everything that decided a group, as one file: `openEvidence` of `@muster/verification` reads it. Nothing in it has been checked yet.
   * @param input.group TypeID.
   * @throws ApiError `NOT_FOUND` when the group or its packs are gone, `FORBIDDEN`, `TOO_LARGE` above `maxBytes` (1 GiB).
   */
  get(input: { group: string; maxBytes?: number }, options?: CallOptions): Promise<Uint8Array<ArrayBuffer>>;
};

// Bundles are put together when they are asked for, and may hold a checkpoint.
const TIMEOUT = 5 * 60_000;

export function createEvidence({ repeat, request }: Transport): EvidenceBundles {
  return {
    get: ({ group, maxBytes = 2 ** 30 }, { signal } = {}) =>
      repeat(signal, async () => {
        const response = await request(`/evidence/${encodeURIComponent(group)}`, {
          timeout: TIMEOUT,
          ...(signal ? { signal } : {}),
        });
        if (!response.ok || response.body === null) throw await errorOfResponse(response);
        return read(response.body, { maxBytes, group, signal });
      }),
  };
}

async function read(
  body: ReadableStream<Uint8Array>,
  { maxBytes, group, signal }: { maxBytes: number; group: string; signal: AbortSignal | undefined },
): Promise<Uint8Array<ArrayBuffer>> {
  const parts: Uint8Array[] = [];
  let size = 0;
  const reader = body.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      size += value.length;
      if (size > maxBytes) {
        throw new ApiError({
          code: "TOO_LARGE",
          message: `The evidence of ${group} has more than the ${maxBytes} bytes allowed here.`,
        });
      }
      parts.push(value);
    }
  } catch (cause) {
    await reader.cancel().catch(() => {});
    throw errorOfFetch(cause, signal);
  }
  const bytes = new Uint8Array(size);
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}
