"use client";

import { type ReactNode, useEffect } from "react";
import { failureOf } from "../../graphql/failure.ts";
import type { Steady } from "../../graphql/use-steady-query.ts";
import { useCrumbs } from "../../ui/crumbs.tsx";
import { shortId } from "../../ui/format.ts";
import { Failed, Loading, NotFound, Partial } from "../../ui/states.tsx";

/**
 * The page of something that a run has: its title, the way back to the run, and what stands there while there is nothing to show.
 * @param props.what one word: `rollout`
 * @param props.part what the query found
 * @param props.tab the run's tab that lists it
 */
export function RunPart<Part>(props: {
  id: string;
  what: string;
  query: Steady<{ readonly run: { readonly name: string } | null }>;
  retry: () => void;
  part: Part | undefined;
  runId: string;
  tab: { readonly id: string; readonly label: string };
  children: (part: Part) => ReactNode;
}) {
  const { id, what, query, retry, part, runId, tab, children } = props;
  const { data, error, fetching } = query;
  useCrumbs([
    { label: "Runs", href: "/runs" },
    { label: data?.run?.name ?? shortId(runId), href: `/runs/${runId}` },
    { label: tab.label, href: `/runs/${runId}?tab=${tab.id}` },
    { label: shortId(id) },
  ]);
  useEffect(() => {
    document.title = `${shortId(id)} · Muster`;
  }, [id]);
  if (part === undefined) {
    if (error) return <Failed page failure={failureOf(error)} what={`this ${what}`} retry={retry} />;
    if (fetching || data === undefined) return <Loading what={`the ${what}`} height={240} />;
    return <NotFound page what={`this ${what}`} />;
  }
  return (
    <>
      {error ? <Partial retry={retry}>{failureOf(error).message} Some of it may be missing.</Partial> : null}
      {children(part)}
    </>
  );
}
