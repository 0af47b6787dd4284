// The auth library's endpoints under the coordinator's /auth. Everything goes with the cookie; nothing is kept here.

/** Whether it worked; if not, what to tell the person. */
export type AuthOutcome = { ok: true } | { ok: false; message: string };

export const linkRefused =
  "This link has been used already or has expired. Ask for a new one, or take the one that the newest start printed.";

const unreachable = "The coordinator does not answer. Is it running?";

/** Trades a one-time token for a session cookie. It works once. */
export async function signInWithToken(auth: string, token: string): Promise<AuthOutcome> {
  try {
    // an invalid token is answered with a redirect to an error page: not followed, so that it can be told apart
    const link = await fetch(`${auth}/magic-link/verify?token=${encodeURIComponent(token)}`, {
      credentials: "include",
      redirect: "manual",
    });
    if (link.ok) return { ok: true };
    if (link.status === 429)
      return { ok: false, message: "Too many attempts. Wait a minute and open the link again." };
    return { ok: false, message: linkRefused };
  } catch {
    return { ok: false, message: unreachable };
  }
}

/** Asks for a link that leads to `next` on this page's origin. The answer is the same whether the address is known or not. */
export async function requestLink(
  auth: string,
  request: { email: string; origin: string; next: string },
): Promise<AuthOutcome> {
  const { email, origin, next } = request;
  const answer = await post(`${auth}/sign-in/magic-link`, {
    email,
    callbackURL: origin + next,
    errorCallbackURL: `${origin}/sign-in`,
  });
  if (answer === undefined) return { ok: false, message: unreachable };
  if (answer.ok) return { ok: true };
  if (answer.status === 429) return { ok: false, message: "Too many requests. Wait a minute and try again." };
  return {
    ok: false,
    message: (await messageOf(answer)) ?? `The coordinator refused with HTTP ${answer.status}.`,
  };
}

export async function signOut(auth: string): Promise<AuthOutcome> {
  const answer = await post(`${auth}/sign-out`, {});
  return answer?.ok ? { ok: true } : { ok: false, message: unreachable };
}

/** Where to go after signing in: a path of this page's own origin, whatever the address bar says. */
export function safeNext(next: string | null | undefined): string {
  if (!next?.startsWith("/")) return "/runs";
  const url = URL.parse(next, "http://self.invalid");
  if (
    url === null ||
    url.host !== "self.invalid" ||
    url.pathname.startsWith("//") ||
    url.pathname.startsWith("/sign-in")
  )
    return "/runs";
  return url.pathname + url.search + url.hash;
}

async function post(url: string, body: unknown): Promise<Response | undefined> {
  try {
    return await fetch(url, {
      method: "POST",
      credentials: "include",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
    });
  } catch {
    return undefined;
  }
}

async function messageOf(answer: Response): Promise<string | undefined> {
  const body: unknown = await answer.json().catch(() => undefined);
  if (typeof body !== "object" || body === null || !("message" in body)) return undefined;
  return typeof body.message === "string" ? body.message : undefined;
}
