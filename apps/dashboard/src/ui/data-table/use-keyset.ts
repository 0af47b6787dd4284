"use client";

import type { Client, TypedDocumentNode } from "@urql/core";
import { useEffect, useMemo, useRef, useState } from "react";
import { type AnyVariables, type CombinedError, useClient } from "urql";
import type { Steady } from "../../graphql/use-steady-query.ts";
import { useReconnected } from "../../live/live-provider.tsx";

type Connection<Row> = {
  readonly edges: readonly { readonly node: Row }[];
  readonly pageInfo: { readonly hasNextPage: boolean; readonly endCursor?: string | null };
};

/** Rows of a connection, page after page. */
export type Keyset<Data, Row> = {
  /** All rows read so far; those of the last filter until the first of the new one are there. */
  readonly rows: readonly Row[];
  /** For `QueryState` and tables; `data` is the first page's answer. */
  readonly query: Steady<Data>;
  /** Whether the rows are still those of another filter. */
  readonly old: boolean;
  readonly page: { readonly hasNext: boolean; readonly loading: boolean; loadMore(): void };
  /** Reads again as many pages as are shown, in place. */
  retry(): void;
};

type KeysetOptions<Data, Variables extends AnyVariables, Row> = {
  /** Takes `after` among its variables. */
  query: TypedDocumentNode<Data, Variables>;
  variables: Omit<NonNullable<Variables>, "after">;
  /** Finds the connection in an answer; undefined when the thing it is of does not exist. */
  connection(data: Data): Connection<Row> | null | undefined;
};

/**
 * Reads a Relay connection by its cursors, never by offsets. What the cache learns of a row later shows at once. Other variables begin
 * anew; a page that fails leaves what is shown.
 */
export function useKeyset<Data, Variables extends AnyVariables, Row>(
  options: KeysetOptions<Data, Variables, Row> & {
    /** Reads nothing while true. */
    pause?: boolean;
  },
): Keyset<Data, Row> {
  const { pause = false } = options;
  const client = useClient();
  const latest = useRef(options);
  latest.current = options;
  const key = JSON.stringify(options.variables);
  const [shown, setShown] = useState<Snapshot<Data, Row>>();
  const [opened, setOpened] = useState<Opened>();

  useEffect(() => {
    if (pause) return;
    const keyset = openKeyset(client, key, latest.current, setShown);
    setOpened(keyset);
    return keyset.close;
  }, [client, key, pause]);

  const old = shown !== undefined && (shown.key !== key || !shown.read);
  const rows = useMemo(() => shown?.pages.flat() ?? [], [shown?.pages]);
  useReconnected(() => {
    if (shown?.error !== undefined) opened?.reload();
  });
  return {
    rows,
    query: { data: shown?.first, error: shown?.error, fetching: shown === undefined || shown.fetching },
    old,
    page: {
      hasNext: shown?.hasNext ?? false,
      loading: shown?.fetching ?? true,
      loadMore: () => opened?.loadMore(),
    },
    retry: () => opened?.reload(),
  };
}

type Snapshot<Data, Row> = {
  readonly key: string;
  /** Whether any of it was read for this key; until then it is the one before. */
  readonly read: boolean;
  readonly first: Data | undefined;
  readonly pages: readonly (readonly Row[])[];
  readonly hasNext: boolean;
  readonly fetching: boolean;
  readonly error: CombinedError | undefined;
};

type Opened = { loadMore(): void; reload(): void; close(): void };

type Page<Data, Row> = {
  readonly after: string | null;
  data: Data | undefined;
  rows: readonly Row[];
  end: string | null;
  error: CombinedError | undefined;
  fetching: boolean;
  stop(): void;
};

function openKeyset<Data, Variables extends AnyVariables, Row>(
  client: Client,
  key: string,
  options: KeysetOptions<Data, Variables, Row>,
  show: (next: (last: Snapshot<Data, Row> | undefined) => Snapshot<Data, Row>) => void,
): Opened {
  const { query, variables, connection } = options;
  const pages: Page<Data, Row>[] = [];
  let wanted = 1;

  function open(at: number, after: string | null, kept: Page<Data, Row> | undefined): void {
    const page: Page<Data, Row> = {
      after,
      data: kept?.data,
      rows: kept?.rows ?? [],
      end: kept?.end ?? null,
      error: undefined,
      fetching: true,
      stop: () => {},
    };
    kept?.stop();
    pages[at] = page;
    const source = client.query(query, { ...variables, after } as unknown as Variables, {
      requestPolicy: kept ? "network-only" : "cache-and-network",
    });
    const { unsubscribe } = source.subscribe((result) => {
      if (pages[at] !== page) return;
      page.fetching = result.stale;
      page.error = result.error;
      const found = result.data === undefined ? undefined : connection(result.data);
      if (result.data !== undefined && (result.error === undefined || page.data === undefined)) {
        page.data = result.data;
        page.rows = found?.edges.map((edge) => edge.node) ?? [];
        page.end = found?.pageInfo.hasNextPage ? (found.pageInfo.endCursor ?? null) : null;
        follow(at + 1, page.end);
      }
      publish();
    });
    page.stop = unsubscribe;
  }

  /** Brings the page after one whose end may have moved in line with it. */
  function follow(at: number, after: string | null): void {
    const next = pages[at];
    if (after === null) {
      for (const page of pages.splice(at)) page.stop();
    } else if (next ? next.after !== after : at < wanted) {
      open(at, after, next);
    }
  }

  function publish(): void {
    const last = pages.at(-1);
    const first = pages[0];
    const read = first?.data !== undefined;
    const state = {
      key,
      hasNext: last !== undefined && last.end !== null,
      fetching: pages.some(({ fetching }) => fetching),
      error: pages.find(({ error }) => error !== undefined)?.error,
    };
    // what was there before stays until there is something to put in its place
    show((before) =>
      read || before === undefined
        ? { ...state, read, first: first?.data, pages: pages.map(({ rows }) => rows) }
        : { ...state, read, first: before.first, pages: before.pages },
    );
  }

  open(0, null, undefined);
  publish();
  return {
    loadMore() {
      const last = pages.at(-1);
      if (last === undefined || last.end === null || last.fetching) return;
      wanted = pages.length + 1;
      open(pages.length, last.end, undefined);
      publish();
    },
    reload() {
      for (const [at, page] of [...pages.entries()]) open(at, page.after, page);
      publish();
    },
    close() {
      for (const page of pages.splice(0)) page.stop();
    },
  };
}
