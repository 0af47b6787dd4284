"use client";

import { createContext, type ReactNode, useContext, useEffect, useMemo, useRef, useState } from "react";
import type { StreamState } from "./connection-status.ts";
import { createFrameStore, type FrameStore } from "./frame-store.ts";
import { type LiveSocket, openLiveSocket } from "./socket.ts";

/** The stream a page follows, as the connection chip sees it. */
export type Followed = {
  state(): StreamState;
  setPaused(options: { paused: boolean }): void;
  cursor(): bigint;
  clockOffset(): number | undefined;
  gaps(): number;
};

type Live = { readonly socket: LiveSocket; readonly followed: FrameStore<Followed | undefined> };

const LiveContext = createContext<Live | undefined>(undefined);

/** Holds the page's one socket for as long as somebody is signed in. */
export function LiveProvider({ url, children }: { url: string; children: ReactNode }) {
  const [socket, setSocket] = useState<LiveSocket>();
  const followed = useMemo(() => createFrameStore<Followed | undefined>(undefined), []);
  useEffect(() => {
    const opened = openLiveSocket(url);
    setSocket(opened);
    return () => {
      setSocket(undefined);
      opened.close();
    };
  }, [url]);
  const live = useMemo(() => (socket ? { socket, followed } : undefined), [socket, followed]);
  return <LiveContext value={live}>{children}</LiveContext>;
}

/** Calls back each time the connection stands again after it was lost. */
export function useReconnected(onOpen: () => void): void {
  const socket = useLive()?.socket;
  const latest = useRef(onOpen);
  latest.current = onOpen;
  useEffect(() => {
    if (socket === undefined) return;
    let { phase } = socket.state.get();
    return socket.state.subscribe(() => {
      const before = phase;
      phase = socket.state.get().phase;
      if (phase === "open" && before === "waiting") latest.current();
    });
  }, [socket]);
}

/** The page's socket; undefined for the moment before it is opened. */
export function useLive(): Live | undefined {
  return useContext(LiveContext);
}
