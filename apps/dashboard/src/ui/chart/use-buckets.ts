"use client";

import { useEffect, useState } from "react";
import type { Ends } from "./chart-range.ts";
import type { ChartData } from "./time-series.tsx";

type Fetch = (range: Ends | undefined, pixels: number, signal: AbortSignal) => Promise<ChartData>;

/**
 * Points for the part of x in sight, as fine as the screen. What was drawn stays until there is better; an answer that another zoom
 * overtook is thrown away.
 * @param pixels 0 reads nothing yet
 */
export function useBuckets(fetch: Fetch | undefined, range: Ends | undefined, pixels: number) {
  const [state, setState] = useState<{ data?: ChartData; error?: string; fetching: boolean }>({
    fetching: fetch !== undefined,
  });
  const [attempt, setAttempt] = useState(0);
  // a drag of the window's edge is not a hundred questions
  const columns = Math.ceil(pixels / 64) * 64;
  const from = range?.[0];
  const to = range?.[1];
  useEffect(() => {
    if (fetch === undefined || columns === 0) return;
    const abort = new AbortController();
    setState(({ data }) => ({ ...(data ? { data } : {}), fetching: true }));
    fetch(from === undefined || to === undefined ? undefined : [from, to], columns, abort.signal).then(
      (data) => {
        if (!abort.signal.aborted) setState({ data, fetching: false });
      },
      (error: unknown) => {
        if (abort.signal.aborted) return;
        const message = error instanceof Error ? error.message : String(error);
        setState(({ data }) => ({ ...(data ? { data } : {}), error: message, fetching: false }));
      },
    );
    return () => abort.abort();
  }, [fetch, from, to, columns, attempt]);
  return {
    data: state.data,
    error: state.error,
    fetching: fetch !== undefined && state.fetching,
    retry: () => setAttempt((n) => n + 1),
  };
}
