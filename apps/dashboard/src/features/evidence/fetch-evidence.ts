import type { Failure } from "../../graphql/failure.ts";

export type FetchedEvidence = { ok: true; bytes: ArrayBuffer } | { ok: false; failure: Failure };

/** Reads a group's bundle from the coordinator, as whoever is signed in. Never rejects, but when it is aborted. */
export async function fetchEvidence(
  url: string,
  options: { signal: AbortSignal; onProgress(bytes: number): void },
): Promise<FetchedEvidence> {
  let response: Response;
  try {
    response = await fetch(url, { credentials: "include", signal: options.signal });
    if (!response.ok || response.body === null) return { ok: false, failure: await failureOf(response) };
    return { ok: true, bytes: await read(response.body, options.onProgress) };
  } catch {
    return { ok: false, failure: { kind: "unreachable", message: "The coordinator does not answer." } };
  }
}

async function read(
  body: ReadableStream<Uint8Array>,
  onProgress: (bytes: number) => void,
): Promise<ArrayBuffer> {
  const parts: Uint8Array<ArrayBufferLike>[] = [];
  let size = 0;
  const reader = body.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    size += value.length;
    onProgress(size);
  }
  const bytes = new Uint8Array(size);
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes.buffer;
}

async function failureOf(response: Response): Promise<Failure> {
  const body: unknown = await response.json().catch(() => undefined);
  const error = field(body, "error");
  const message = text(field(error, "message")) ?? `The coordinator answered with HTTP ${response.status}.`;
  switch (response.status) {
    case 401:
      return { kind: "signed-out", message };
    case 403:
      return { kind: "no-access", message };
    default:
      return {
        kind: "failed",
        message,
        code: text(field(error, "code")) ?? `HTTP ${response.status}`,
        requestId: text(field(error, "requestId")),
      };
  }
}

function field(value: unknown, name: string): unknown {
  if (typeof value !== "object" || value === null) return undefined;
  return Object.entries(value).find(([key]) => key === name)?.[1];
}

function text(value: unknown): string | undefined {
  return typeof value === "string" ? value : undefined;
}
