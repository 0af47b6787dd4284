"use client";

import { Info } from "lucide-react";
import { Component, type ErrorInfo, type ReactNode, useEffect } from "react";
import type { Steady } from "../graphql/use-steady-query.ts";
import { type Crumb, useCrumbs } from "./crumbs.tsx";
import { Section } from "./section.tsx";
import { Failed, QueryState } from "./states.tsx";

/**
 * A page: its title and its actions on one line, its way in the bar above, its name in the browser's tab.
 * @param props.crumbs the way to it below the organization, without the page itself
 * @param props.badge a state beside the title
 * @param props.note one line under the title
 */
export function Page(props: {
  title: string;
  crumbs?: readonly Crumb[];
  badge?: ReactNode;
  note?: ReactNode;
  actions?: ReactNode;
  children: ReactNode;
}) {
  const { title, crumbs = [], badge, note, actions, children } = props;
  useCrumbs([...crumbs, { label: title }]);
  useEffect(() => {
    document.title = `${title} · Muster`;
  }, [title]);
  return (
    <>
      <div className="mb-3 flex min-h-8 flex-wrap items-center gap-x-3 gap-y-1">
        {badge}
        <h1 className="min-w-0 truncate text-title font-semibold">{title}</h1>
        {actions ? (
          <div data-actions className="ml-auto flex flex-wrap items-center gap-2">
            {actions}
          </div>
        ) : null}
      </div>
      {note ? <p className="-mt-2 mb-3 max-w-[100ch] text-table text-subtle">{note}</p> : null}
      {children}
    </>
  );
}

/**
 * A titled part of a page that fails alone: an error in it, while loading or while drawing, leaves the rest of the page as it is.
 * @param props.help what the part shows, on hover and focus of an i
 * @param props.query shows skeleton, error or a note that data may be old; the children appear only with data
 */
export function Panel(props: {
  title: string;
  help?: string;
  note?: ReactNode;
  actions?: ReactNode;
  query?: Steady<unknown>;
  retry?: () => void;
  /** What is loaded, in words: `the workers`. */
  what?: string;
  rows?: number;
  height?: number;
  className?: string;
  children: ReactNode;
}) {
  const {
    title,
    help,
    note,
    actions,
    query,
    retry,
    what = "this part",
    rows,
    height,
    className,
    children,
  } = props;
  return (
    <Section
      title={title}
      note={help ? <Help text={help}>{note}</Help> : note}
      actions={actions}
      {...(className === undefined ? {} : { className })}
    >
      <PanelBoundary what={what}>
        {query ? (
          <QueryState
            query={query}
            retry={retry ?? (() => {})}
            what={what}
            shown={title}
            {...(rows === undefined ? {} : { rows })}
            {...(height === undefined ? {} : { height })}
          />
        ) : null}
        {query === undefined || query.data ? children : null}
      </PanelBoundary>
    </Section>
  );
}

/** An i that says on hover and focus what something is. */
export function Help({ text, children }: { text: string; children?: ReactNode }) {
  return (
    <span className="inline-flex items-center gap-2">
      <button type="button" className="help" aria-label={text} data-help={text}>
        <Info size={13} aria-hidden />
      </button>
      {children}
    </span>
  );
}

/** Keeps a part that throws while it is drawn from taking the page with it. */
export class PanelBoundary extends Component<
  { what: string; children: ReactNode },
  { error: Error | undefined }
> {
  override state: { error: Error | undefined } = { error: undefined };

  static getDerivedStateFromError(error: Error): { error: Error } {
    return { error };
  }

  override componentDidCatch(error: Error, info: ErrorInfo): void {
    console.error(error, info.componentStack);
  }

  override render(): ReactNode {
    const { error } = this.state;
    if (error === undefined) return this.props.children;
    return (
      <Failed
        what={this.props.what}
        failure={{ kind: "failed", message: error.message, code: "PANEL", requestId: undefined }}
        retry={() => this.setState({ error: undefined })}
      />
    );
  }
}
