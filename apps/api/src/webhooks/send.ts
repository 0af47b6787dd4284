import { request as httpRequest } from "node:http";
import { request as httpsRequest } from "node:https";
import { Webhook } from "standardwebhooks";
import { guardedAgents, type Outbound, refusalText, refusedHost } from "../http/outbound.ts";
import { storable } from "../storable.ts";

/** A message as it goes out. */
export type Message = {
  readonly url: string;
  readonly id: string;
  readonly body: string;
  /** Every secret that signs it, newest first. */
  readonly secrets: readonly string[];
};

/** What came of an attempt. A status that is not 2xx, a redirect included, is a failure. */
export type Answer = {
  readonly ok: boolean;
  readonly ms: number;
  readonly status: number | undefined;
  /** The first kilobyte. */
  readonly body: string | undefined;
  readonly error: string | undefined;
  /** Seconds that the receiver asks us to wait. */
  readonly retryAfter: number | undefined;
};

const timeoutMs = 15_000;
const keptBytes = 1024;

/** The headers of Standard Webhooks; while two secrets hold, a signature with each. */
export function signedHeaders(
  { id, body, secrets }: Omit<Message, "url">,
  at: Date,
): Record<"webhook-id" | "webhook-timestamp" | "webhook-signature", string> {
  return {
    "webhook-id": id,
    "webhook-timestamp": String(Math.floor(at.getTime() / 1000)),
    "webhook-signature": secrets.map((secret) => new Webhook(secret).sign(id, at, body)).join(" "),
  };
}

/** Posts a message once: no redirect is followed, no more than a kilobyte of the answer is read, and it ends within 15 seconds. Never throws for what the receiver does. */
export async function send(may: Outbound, message: Message, signal: AbortSignal): Promise<Answer> {
  const started = performance.now();
  const url = new URL(message.url);
  const done = (rest: Partial<Answer>): Answer => ({
    ok: rest.status !== undefined && rest.status >= 200 && rest.status < 300,
    ms: Math.round(performance.now() - started),
    status: undefined,
    body: undefined,
    error: undefined,
    retryAfter: undefined,
    ...rest,
  });
  // What an URL may lead to is the operator's to change after it was stored.
  const refusal = refusedHost(may, url);
  if (refusal !== undefined) return done({ error: `Not sent: ${refusalText(refusal, url)}.` });
  const agents = guardedAgents(may, url);
  const secure = url.protocol === "https:";
  const late = AbortSignal.timeout(timeoutMs);
  try {
    return await new Promise<Answer>((resolve) => {
      const body = Buffer.from(message.body);
      const request = (secure ? httpsRequest : httpRequest)(url, {
        method: "POST",
        agent: secure ? agents.https : agents.http,
        signal: AbortSignal.any([signal, late]),
        headers: {
          "Content-Type": "application/json",
          "Content-Length": body.length,
          "User-Agent": "Muster-Webhooks/1",
          ...signedHeaders(message, new Date()),
        },
      });
      request.once("response", (response) => {
        const chunks: Buffer[] = [];
        let size = 0;
        const answered = () => {
          response.destroy();
          const status = response.statusCode ?? 0;
          const error = status >= 300 && status < 400 ? "A redirect is not followed." : undefined;
          resolve(
            done({
              status,
              body: readable(Buffer.concat(chunks).subarray(0, keptBytes)),
              error,
              retryAfter: secondsOf(response.headers["retry-after"]),
            }),
          );
        };
        response.on("data", (chunk: Buffer) => {
          chunks.push(chunk);
          size += chunk.length;
          if (size >= keptBytes) answered();
        });
        // The status has been said; how the body ends changes nothing.
        for (const end of ["end", "error", "aborted"]) response.once(end, answered);
      });
      request.once("error", (error) => resolve(done({ error: plain(error, late) })));
      request.end(body);
    });
  } finally {
    agents.http.destroy();
    agents.https.destroy();
  }
}

function plain(error: Error, late: AbortSignal): string {
  if (late.aborted) return `No answer within ${timeoutMs / 1000} seconds.`;
  const code = "code" in error && typeof error.code === "string" ? error.code : undefined;
  // Several addresses failed, each for its own reason; there is no text then.
  return storable(error.message || code || "The connection failed.", 300);
}

function secondsOf(header: string | undefined): number | undefined {
  const seconds = Number(header);
  return header !== undefined && Number.isFinite(seconds) && seconds >= 0 ? seconds : undefined;
}

const readable = (bytes: Buffer): string =>
  bytes
    .toString("utf8")
    // Postgres keeps no NUL, and a line's end is worth seeing.
    .replaceAll("\0", "\ufffd");
