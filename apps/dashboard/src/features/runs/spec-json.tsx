"use client";

import { useId, useState } from "react";
import { CopyButton } from "../../ui/copy.tsx";
import type { JsonObject } from "./spec-schema.ts";

/** The spec as text, both ways: what is written here is what the form holds as soon as it is JSON. */
export function SpecJson({
  spec,
  onSpec,
  onBroken,
}: {
  spec: JsonObject;
  onSpec(spec: JsonObject): void;
  onBroken(broken: boolean): void;
}) {
  const [text, setText] = useState(() => JSON.stringify(spec, null, 2));
  const [problem, setProblem] = useState<string>();
  const id = useId();
  function enter(next: string): void {
    setText(next);
    const parsed = parse(next);
    setProblem(parsed.problem);
    onBroken(parsed.problem !== undefined);
    if (parsed.spec) onSpec(parsed.spec);
  }
  return (
    <div>
      <div className="mb-1 flex items-center gap-2">
        <label htmlFor={id} className="text-table font-medium">
          Spec as JSON
        </label>
        <span className="ml-auto">
          <CopyButton label="Copy spec" text={text} />
        </span>
      </div>
      <textarea
        id={id}
        className="control w-full font-mono text-table"
        rows={32}
        spellCheck={false}
        aria-invalid={problem !== undefined}
        aria-describedby={`${id}-problem`}
        value={text}
        onChange={(event) => enter(event.target.value)}
      />
      <p id={`${id}-problem`} role="status" className="mt-1 text-table text-on-rejected-soft">
        {problem}
      </p>
    </div>
  );
}

function parse(text: string): { spec?: JsonObject; problem?: string } {
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value !== "object" || value === null || Array.isArray(value))
      return { problem: "A spec is a JSON object." };
    return { spec: value as JsonObject }; // an object by the line above
  } catch (cause) {
    return { problem: `This is not JSON yet: ${cause instanceof Error ? cause.message : String(cause)}` };
  }
}
