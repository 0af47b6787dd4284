"use client";

import { useEffect, useReducer, useRef } from "react";
import type { JudgeMessage } from "./judge.ts";
import { foldJudging, isSettled, type Judging, judgingBegun } from "./judging.ts";

/** Judges bundles in a thread of their own, one at a time: a new one ends the judgement of the one before. */
export function useJudging(): [Judging | undefined, (bytes: ArrayBuffer) => void] {
  const [judging, dispatch] = useReducer(reduce, undefined);
  const thread = useRef<Worker>(undefined);
  useEffect(() => () => thread.current?.terminate(), []);
  // its memory is as large as the model
  useEffect(() => {
    if (judging !== undefined && isSettled(judging)) thread.current?.terminate();
  }, [judging]);

  function judge(bytes: ArrayBuffer): void {
    thread.current?.terminate();
    dispatch("begin");
    const worker = new Worker(new URL("./judge.worker.ts", import.meta.url), { type: "module" });
    thread.current = worker;
    worker.onmessage = ({ data }: MessageEvent<JudgeMessage>) => dispatch(data);
    worker.onerror = (event) => {
      event.preventDefault();
      dispatch({
        kind: "failed",
        code: "NO_THREAD",
        message: event.message || "The browser did not start the thread that judges. Reload the page.",
      });
    };
    worker.postMessage(bytes, [bytes]);
  }
  return [judging, judge];
}

function reduce(judging: Judging | undefined, message: JudgeMessage | "begin"): Judging | undefined {
  if (message === "begin") return judgingBegun;
  return foldJudging(judging ?? judgingBegun, message);
}
