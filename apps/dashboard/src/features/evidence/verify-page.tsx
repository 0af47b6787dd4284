"use client";

import { useEffect, useState } from "react";
import type { Failure } from "../../graphql/failure.ts";
import { formatBytes } from "../../ui/format.ts";
import { Failed } from "../../ui/states.tsx";
import { useApiAddress } from "../session/api-provider.tsx";
import { PublicFrame } from "../session/public-frame.tsx";
import { BundleContents } from "./bundle-contents.tsx";
import { BundlePicker } from "./bundle-picker.tsx";
import { fetchEvidence } from "./fetch-evidence.ts";
import { JudgedChecks } from "./judged-checks.tsx";
import { Outcome } from "./outcome.tsx";
import { Stages } from "./stages.tsx";
import { useJudging } from "./use-judging.ts";

/**
 * Judges an evidence bundle in the browser alone.
 * @param props.group TypeID of a group whose bundle is fetched from the coordinator, as whoever is signed in.
 */
export function VerifyPage({ group }: { group: string | undefined }) {
  const [judging, judge] = useJudging();
  const [name, setName] = useState<string>();
  const fetched = useFetched(group, (bytes) => {
    setName(`${group}.evidence`);
    judge(bytes);
  });
  function pick(file: File): void {
    setName(file.name);
    void file.arrayBuffer().then(judge);
  }
  return (
    <PublicFrame>
      <h1 className="text-title font-semibold">Verify evidence</h1>
      <p className="mt-1 max-w-[88ch] text-muted">
        An evidence bundle holds everything that decided one group of rollouts. Your browser checks its hashes
        and signatures, judges it again by the run’s own rules, and measures the rollouts itself with the
        policy that is in the bundle. It all happens on this machine:{" "}
        <strong className="font-medium text-fg">the file is not uploaded anywhere.</strong>
      </p>
      <div className="mt-4 grid gap-8 lg:grid-cols-[minmax(0,1fr)_minmax(0,1fr)]">
        <BundlePicker name={name} onPick={pick} />
        {judging ? <Stages judging={judging} /> : null}
        {judging === undefined && fetched.kind === "fetching" ? (
          <p role="status" className="self-center text-muted">
            Fetching the bundle from the coordinator: {formatBytes(fetched.bytes)}
          </p>
        ) : null}
        {judging === undefined && fetched.kind === "failed" ? (
          <Failed failure={fetched.failure} what="this group’s evidence" />
        ) : null}
      </div>
      {judging ? (
        <div className="mt-8 grid gap-8">
          <Outcome judging={judging} />
          {judging.verdicts && judging.facts ? (
            <JudgedChecks recorded={judging.facts.header.verdict} verdicts={judging.verdicts} />
          ) : null}
          {judging.facts ? <BundleContents facts={judging.facts} /> : null}
        </div>
      ) : null}
    </PublicFrame>
  );
}

type Fetched = { kind: "none" } | { kind: "fetching"; bytes: number } | { kind: "failed"; failure: Failure };

/** Fetches a group's bundle once; `done` is called with its bytes. */
function useFetched(group: string | undefined, done: (bytes: ArrayBuffer) => void): Fetched {
  const { evidence } = useApiAddress();
  const [fetched, setFetched] = useState<Fetched>(() =>
    group === undefined ? { kind: "none" } : { kind: "fetching", bytes: 0 },
  );
  // what is done with the bytes is no reason to fetch them again
  useEffect(() => {
    if (group === undefined) return;
    const abort = new AbortController();
    void fetchEvidence(`${evidence}/${encodeURIComponent(group)}`, {
      signal: abort.signal,
      onProgress: (bytes) => setFetched({ kind: "fetching", bytes }),
    }).then((outcome) => {
      if (abort.signal.aborted) return;
      setFetched(outcome.ok ? { kind: "none" } : { kind: "failed", failure: outcome.failure });
      if (outcome.ok) done(outcome.bytes);
    });
    return () => abort.abort();
  }, [evidence, group]);
  return fetched;
}
