"use client";

import Link from "next/link";
import { type FormEvent, useEffect, useId, useRef, useState } from "react";
import { Button } from "../../ui/button.tsx";
import { ThemeSwitch } from "../../ui/theme.tsx";
import { useApiAddress } from "./api-provider.tsx";
import { linkRefused, requestLink, safeNext, signInWithToken } from "./auth.ts";
import { Mark } from "./mark.tsx";

type Progress =
  | { kind: "idle" }
  | { kind: "checking" }
  | { kind: "sending" }
  | { kind: "sent"; email: string }
  | { kind: "failed"; message: string };

/** Signs in with the one-time token of the address, or asks for a link that has one. */
export function SignIn({
  token,
  next,
  error,
}: {
  token: string | undefined;
  next: string | undefined;
  error: string | undefined;
}) {
  const { auth } = useApiAddress();
  const local = useLocal(auth);
  const [progress, setProgress] = useState<Progress>(() => {
    if (token) return { kind: "checking" };
    return error ? { kind: "failed", message: linkRefused } : { kind: "idle" };
  });
  const [email, setEmail] = useState("");
  const spent = useRef<string>(undefined);
  const id = useId();

  useEffect(() => {
    // a token works once; effects may run twice
    if (token === undefined || spent.current === token) return;
    spent.current = token;
    void signInWithToken(auth, token).then((outcome) => {
      if (outcome.ok) return location.replace(safeNext(next));
      // what is spent need not stay in the address or in the history
      history.replaceState(
        null,
        "",
        next === undefined ? "/sign-in" : `/sign-in?next=${encodeURIComponent(next)}`,
      );
      setProgress({ kind: "failed", message: outcome.message });
    });
  }, [auth, token, next]);

  async function submit(event: FormEvent): Promise<void> {
    event.preventDefault();
    setProgress({ kind: "sending" });
    const outcome = await requestLink(auth, {
      email: email.trim(),
      origin: location.origin,
      next: safeNext(next),
    });
    setProgress(
      outcome.ok ? { kind: "sent", email: email.trim() } : { kind: "failed", message: outcome.message },
    );
  }

  return (
    <main className="mx-auto flex min-h-dvh max-w-[400px] flex-col px-4 pt-[16vh]">
      <div className="flex items-center gap-2">
        <Mark />
        <span className="font-semibold tracking-[-0.01em]">Muster</span>
        <span className="ml-auto">
          <ThemeSwitch />
        </span>
      </div>
      <h1 className="mt-8 text-title font-semibold">Sign in</h1>
      {progress.kind === "checking" ? (
        <p role="status" className="mt-2 text-muted">
          Checking your link …
        </p>
      ) : (
        <form className="mt-4" onSubmit={(event) => void submit(event)}>
          <label htmlFor={`${id}-email`} className="text-table font-medium">
            E-mail
          </label>
          <input
            id={`${id}-email`}
            type="email"
            required
            autoComplete="email"
            // biome-ignore lint/a11y/noAutofocus: the page's only task
            autoFocus
            className="control mt-1 h-8 w-full"
            aria-describedby={`${id}-hint`}
            value={email}
            onChange={(event) => setEmail(event.target.value)}
          />
          <p id={`${id}-hint`} className="mt-1 text-table text-subtle">
            You get a link that signs you in once, if the address is known here or was invited.{" "}
            {local ? (
              <>
                It is printed in <code className="font-mono">.muster/logs/api.log</code>. On your own machine
                you are <code className="font-mono">you@muster.localhost</code>, and every{" "}
                <code className="font-mono">npm start</code> prints a new link.
              </>
            ) : (
              "This coordinator sends no mail: its operator finds the link in its log and hands it on."
            )}
          </p>
          <Button
            type="submit"
            tone="primary"
            size="regular"
            className="mt-4 w-full"
            disabled={progress.kind === "sending"}
          >
            {progress.kind === "sending" ? "Sending …" : "Send sign-in link"}
          </Button>
        </form>
      )}
      <p className="mt-4 text-table text-subtle">
        Somebody gave you an evidence bundle?{" "}
        <Link className="underline underline-offset-2" href="/verify">
          Verify it without signing in
        </Link>
        .
      </p>
      <div role="status" className="mt-4 min-h-10">
        {progress.kind === "sent" ? (
          <p className="rounded-control bg-ok-soft px-3 py-2 text-on-ok-soft">
            If {progress.email} is known here, a link stands in{" "}
            {local ? <code className="font-mono">.muster/logs/api.log</code> : "the coordinator’s log"} now.
          </p>
        ) : null}
        {progress.kind === "failed" ? (
          <p className="rounded-control bg-rejected-soft px-3 py-2 text-on-rejected-soft">
            {progress.message}
          </p>
        ) : null}
      </div>
    </main>
  );
}

/** Whether the coordinator runs on the reader's own machine; only the browser knows. */
function useLocal(url: string): boolean {
  const [local, setLocal] = useState(false);
  useEffect(() => setLocal(/^(localhost|127(\.\d+){3}|\[::1\])$/.test(new URL(url).hostname)), [url]);
  return local;
}
