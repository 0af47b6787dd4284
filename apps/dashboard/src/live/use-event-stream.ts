"use client";

import { useEffect, useRef, useState } from "react";
import type { LoggedEvent } from "./event-log.ts";
import { type EventStream, openEventStream } from "./event-stream.ts";
import { useLive } from "./live-provider.tsx";

/**
 * Follows a stream from the cursor of the first snapshot on; the cursors of later snapshots change nothing.
 * @param stream TypeID, or undefined while there is nothing to follow.
 */
export function useEventStream<View>(options: {
  stream: string | undefined;
  /** Known whenever `stream` is. */
  after: string | undefined;
  initial: View;
  fold(view: View, events: readonly LoggedEvent[]): View;
  onResync(): void;
}): EventStream<View> | undefined {
  const { stream } = options;
  const live = useLive();
  const latest = useRef(options);
  latest.current = options;
  const [opened, setOpened] = useState<EventStream<View>>();

  useEffect(() => {
    const { after, initial, fold } = latest.current;
    if (live === undefined || stream === undefined || after === undefined) return;
    const eventStream = openEventStream({
      socket: live.socket,
      stream,
      after,
      initial,
      fold,
      onResync: () => latest.current.onResync(),
    });
    setOpened(eventStream);
    const stopWatching = restWhileHidden(eventStream);
    return () => {
      stopWatching();
      eventStream.close();
      setOpened(undefined);
    };
  }, [live, stream]);

  return opened;
}

/** How long a tab may be hidden before its stream rests. */
const hiddenFor = 60_000;

/** Nobody looks at a hidden tab: after a minute it hears nothing any more, and takes up at once what it missed when it is shown. */
function restWhileHidden(stream: Pick<EventStream<unknown>, "rest" | "wake">): () => void {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const onChange = () => {
    clearTimeout(timer);
    if (document.visibilityState === "hidden") timer = setTimeout(stream.rest, hiddenFor);
    else stream.wake();
  };
  document.addEventListener("visibilitychange", onChange);
  return () => {
    clearTimeout(timer);
    document.removeEventListener("visibilitychange", onChange);
  };
}

/** Makes the stream the one that the connection chip speaks of. */
export function useFollowed<View>(stream: EventStream<View> | undefined): void {
  const live = useLive();
  useEffect(() => {
    if (live === undefined || stream === undefined) return;
    live.followed.set({
      state: stream.state,
      setPaused: stream.setPaused,
      cursor: () => stream.store.get().log.cursor,
      clockOffset: () => stream.store.get().log.clockOffset,
      gaps: () => stream.store.get().log.gaps.length,
    });
    return () => live.followed.set(undefined);
  }, [live, stream]);
}

/** Calls `refetch` soon after `count` grew, at most once per `every` milliseconds, and never in a hidden tab until it is shown. */
export function useNudge(count: number, refetch: () => void, every = 1000): void {
  const latest = useRef(refetch);
  latest.current = refetch;
  const done = useRef({ count, at: 0 });
  useEffect(() => {
    if (count === done.current.count) return;
    const run = () => {
      if (document.visibilityState === "hidden") return;
      done.current = { count, at: performance.now() };
      latest.current();
    };
    const timer = setTimeout(run, Math.max(150, done.current.at + every - performance.now()));
    document.addEventListener("visibilitychange", run);
    return () => {
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", run);
    };
  }, [count, every]);
}
