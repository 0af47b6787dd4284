"use client";

import { useRef } from "react";
import { type AnyVariables, type CombinedError, type UseQueryArgs, useQuery } from "urql";
import { useReconnected } from "../live/live-provider.tsx";

/** What a component knows of its query: the newest data there was, and the error of the last attempt beside it. */
export type Steady<Data> = {
  readonly data: Data | undefined;
  readonly error: CombinedError | undefined;
  readonly fetching: boolean;
};

/**
 * A query that reads the cache and the network, and keeps what it has when reading again fails: a lost connection must not blank a page.
 * When the connection stands again, what failed is read again.
 * Other variables are another query: they start from nothing.
 * @returns the state and a function that reads from the network again.
 */
export function useSteadyQuery<Data, Variables extends AnyVariables>(
  args: UseQueryArgs<Variables, Data>,
): [Steady<Data>, () => void] {
  const [{ data, error, fetching, stale }, execute] = useQuery<Data, Variables>({
    requestPolicy: "cache-and-network",
    ...args,
  });
  const reload = () => execute({ requestPolicy: "network-only" });
  useReconnected(() => {
    if (error !== undefined) reload();
  });
  const kept = useRef<{ readonly key: string; readonly data: Data }>(undefined);
  const key = JSON.stringify(args.variables ?? null);
  // what comes with an error may have holes: it is only better than nothing
  if (data && (error === undefined || kept.current?.key !== key)) kept.current = { key, data };
  return [
    {
      data: kept.current?.key === key ? kept.current.data : undefined,
      error,
      fetching: fetching || stale,
    },
    reload,
  ];
}
