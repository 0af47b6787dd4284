"use client";

import { RotateCw } from "lucide-react";
import Link from "next/link";
import { Fragment, type ReactNode, useEffect, useState } from "react";
import type { CombinedError } from "urql";
import { type Failure, failureOf } from "../graphql/failure.ts";
import type { Steady } from "../graphql/use-steady-query.ts";
import { Button, buttonClass } from "./button.tsx";
import { CopyButton } from "./copy.tsx";

// The ways a panel can have nothing to show. Each is designed once; a panel that fails leaves the rest of the page alone.

/** What a part of a page shows instead of its data. */
export type StateProps =
  | { kind: "empty"; title: string; children?: ReactNode; action?: ReactNode }
  | { kind: "loading"; what: string; rows?: number; height?: number; cancel?: () => void }
  | { kind: "partial"; children: ReactNode; retry?: () => void }
  | { kind: "error"; what: string; failure: Failure; retry?: () => void; page?: boolean }
  | { kind: "no-access"; what: string; message: string; page?: boolean }
  | { kind: "not-found"; what: string; nearest?: readonly Nearest[]; page?: boolean };

/** Any of the states by its name; each has its own component below. */
export function State(props: StateProps) {
  switch (props.kind) {
    case "empty":
      return <Empty {...props} />;
    case "loading":
      return <Loading {...props} />;
    case "partial":
      return <Partial {...props} />;
    case "error":
      return <Failed {...props} />;
    case "no-access":
      return <Failed {...props} failure={{ kind: "no-access", message: props.message }} />;
    case "not-found":
      return <NotFound {...props} />;
  }
}

/** Something that exists, offered for something that does not. */
export type Nearest = { readonly href: string; readonly label: string };

/** A query that has nothing to show yet, or cannot renew what is shown. @param props.shown what may be out of date then */
export function QueryState(props: {
  query: Steady<unknown>;
  retry: () => void;
  what: string;
  shown?: string;
  rows?: number;
  height?: number;
}) {
  const { query, retry, what, shown = "The table", ...size } = props;
  const { data, error, fetching } = query;
  if (!data && error) return <Failed failure={failureOf(error)} what={what} retry={retry} />;
  if (!data && fetching) return <Loading what={what} {...size} />;
  if (!error) return null;
  return (
    <Partial retry={retry}>
      {failureOf(error).message} {shown} may be out of date.
    </Partial>
  );
}

/** Why what was asked for was not done. */
export function Refused({ error }: { error: CombinedError | undefined }) {
  if (error === undefined) return null;
  return (
    <p role="alert" className="mt-2 text-table text-on-rejected-soft">
      {failureOf(error).message}
    </p>
  );
}

/** One sentence why, and the one next action. */
export function Empty({
  title,
  children,
  action,
}: {
  title: string;
  children?: ReactNode;
  action?: ReactNode;
}) {
  return (
    <Message title={title} action={action}>
      {children}
    </Message>
  );
}

/**
 * A failed query: what it means for this page, and what can be done.
 * @param props.page the whole page failed, so the title is its heading.
 */
export function Failed(props: { failure: Failure; retry?: () => void; what: string; page?: boolean }) {
  const { failure, retry, what, page = false } = props;
  switch (failure.kind) {
    case "signed-out":
      return (
        <Message page={page} title="You are signed out" action={<SignInLink />}>
          {failure.message}
        </Message>
      );
    case "no-access":
      return (
        <Message
          page={page}
          title={`You may not see ${what}`}
          action={<SignInLink label="Sign in as somebody else" />}
        >
          {failure.message} An owner of the organization can grant it.
        </Message>
      );
    case "not-found":
      return <NotFound what={what} page={page} />;
    case "unreachable":
      return (
        <Message alert page={page} title="The coordinator does not answer" action={<Retry retry={retry} />}>
          Is it running? <code className="font-mono">npm start</code> starts it;{" "}
          <code className="font-mono">npm run muster -- doctor</code> says what is missing.
        </Message>
      );
    case "failed":
      return (
        <Message
          alert
          page={page}
          title={`Could not load ${what}`}
          action={
            <>
              <Retry retry={retry} />
              <CopyButton
                label="Copy details"
                text={JSON.stringify({
                  what,
                  code: failure.code,
                  message: failure.message,
                  requestId: failure.requestId ?? null,
                })}
              />
            </>
          }
        >
          {failure.message}{" "}
          <span className="text-subtle">
            {failure.code}
            {failure.requestId === undefined ? "" : `, request ${failure.requestId}`}
          </span>
        </Message>
      );
  }
}

/** @param props.nearest what may have been meant */
export function NotFound(props: { what: string; page?: boolean; nearest?: readonly Nearest[] }) {
  const { what, page = false, nearest = [] } = props;
  return (
    <Message
      page={page}
      title={`There is no ${what.replace(/^(this|the) /, "")} here`}
      action={
        <Link className={buttonClass()} href="/runs">
          All runs
        </Link>
      }
    >
      It does not exist, or you may not see it. Check the address and who you are signed in as.
      {nearest.length > 0 ? (
        <>
          {" "}
          Did you mean{" "}
          {nearest.map(({ href, label }, i) => (
            <Fragment key={href}>
              {i === 0 ? "" : i === nearest.length - 1 ? " or " : ", "}
              <Link className="text-fg underline underline-offset-2" href={href}>
                {label}
              </Link>
            </Fragment>
          ))}
          ?
        </>
      ) : null}
    </Message>
  );
}

/** Data that is shown although something of it failed or is old. */
export function Partial({ children, retry }: { children: ReactNode; retry?: () => void }) {
  return (
    <p
      role="status"
      className="mb-2 flex items-center gap-2 rounded-control bg-pending-soft px-2 py-1 text-table text-on-pending-soft"
    >
      <span className="min-w-0 flex-1">{children}</span>
      {retry ? (
        <button type="button" className="font-medium underline underline-offset-2" onClick={retry}>
          Retry
        </button>
      ) : null}
    </p>
  );
}

/**
 * A skeleton with the layout of what will stand there: rows of a table, or a block. Says so after eight seconds.
 * @param props.cancel gives up waiting
 */
export function Loading(props: { what: string; rows?: number; height?: number; cancel?: () => void }) {
  const { what, rows = 0, height, cancel } = props;
  const slow = useSlow(8_000);
  return (
    <div role="status" aria-label={`Loading ${what}`} aria-busy="true">
      {rows > 0 ? (
        <div className="divide-y divide-line border-y border-line">
          {Array.from({ length: rows }, (_, row) => (
            // placeholders have no identity
            <div key={row} className="flex h-8 items-center gap-4">
              <div className="skeleton h-3 w-16" />
              <div className="skeleton h-3 flex-1" />
              <div className="skeleton h-3 w-24" />
            </div>
          ))}
        </div>
      ) : (
        <div className="skeleton" style={{ height: height ?? 96 }} />
      )}
      {slow ? (
        <p className="mt-2 flex items-center gap-2 text-table text-subtle">
          Still loading {what} …{cancel ? <Button onClick={cancel}>Cancel</Button> : null}
        </p>
      ) : null}
    </div>
  );
}

function Message(props: {
  title: string;
  children?: ReactNode;
  action?: ReactNode;
  alert?: boolean;
  page?: boolean;
}) {
  const Title = props.page ? "h1" : "p";
  return (
    <div role={props.alert ? "alert" : undefined} className="max-w-[72ch] py-6">
      <Title className="text-strong font-medium">{props.title}</Title>
      {props.children ? <div className="mt-1 text-muted">{props.children}</div> : null}
      {props.action ? <div className="mt-3 flex flex-wrap gap-2">{props.action}</div> : null}
    </div>
  );
}

function Retry({ retry }: { retry: (() => void) | undefined }) {
  if (retry === undefined) return null;
  return (
    <Button onClick={retry}>
      <RotateCw size={14} aria-hidden /> Retry
    </Button>
  );
}

function SignInLink({ label = "Sign in" }: { label?: string }) {
  const [next, setNext] = useState("");
  useEffect(() => setNext(`?next=${encodeURIComponent(location.pathname + location.search)}`), []);
  return (
    <Link className={buttonClass({ tone: "primary" })} href={`/sign-in${next}`}>
      {label}
    </Link>
  );
}

function useSlow(after: number): boolean {
  const [slow, setSlow] = useState(false);
  useEffect(() => {
    const timer = setTimeout(() => setSlow(true), after);
    return () => clearTimeout(timer);
  }, [after]);
  return slow;
}
