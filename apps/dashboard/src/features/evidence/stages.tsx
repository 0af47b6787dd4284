import { StateWord, type Tone } from "../../ui/state-badge.tsx";
import { type Judging, type Stage, stageNames, stageTitles } from "./judging.ts";

const states: Record<Stage["state"], { tone: Tone; word: string }> = {
  waiting: { tone: "pending", word: "Waiting" },
  running: { tone: "running", word: "Running" },
  done: { tone: "ok", word: "Done" },
  skipped: { tone: "idle", word: "Left out" },
  failed: { tone: "rejected", word: "Failed" },
};

/** How far the judgement is. */
export function Stages({ judging }: { judging: Judging }) {
  return (
    <ol className="divide-y divide-line border-y border-line" aria-label="Progress">
      {stageNames.map((name) => {
        const { state, note } = judging.stages[name];
        return (
          <li
            key={name}
            className="grid min-h-7 grid-cols-[5.5rem_minmax(0,1fr)] items-center gap-x-3 py-1 text-table"
          >
            <StateWord tone={states[state].tone}>{states[state].word}</StateWord>
            <span className="flex flex-wrap justify-between gap-x-3">
              <span className={state === "waiting" || state === "skipped" ? "text-subtle" : ""}>
                {stageTitles[name]}
              </span>
              <span className="text-subtle">{note}</span>
            </span>
          </li>
        );
      })}
    </ol>
  );
}
