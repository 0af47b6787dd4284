"use client";

import { type FragmentOf, graphql, readFragment } from "../../graphql/graphql.ts";
import { CopyButton, Id } from "../../ui/copy.tsx";
import { Section } from "../../ui/section.tsx";
import { Age } from "../../ui/time.tsx";

export const RunSpecFragment = graphql(`
  fragment RunSpec_run on Run {
    id
    revision {
      id
      number
      spec
      hash
      createdAt
    }
  }
`);

/** The spec as it is frozen, with what it is known by. */
export function RunSpec({ run: masked }: { run: FragmentOf<typeof RunSpecFragment> }) {
  const { revision } = readFragment(RunSpecFragment, masked);
  const text = JSON.stringify(revision.spec, null, 2);
  return (
    <Section
      title={`Revision ${revision.number}`}
      note={
        <>
          frozen <Age at={revision.createdAt} />, <Id id={revision.id} />
        </>
      }
      actions={<CopyButton label="Copy spec" text={text} />}
    >
      <p className="mb-2 wrap-anywhere text-table text-subtle">
        SHA-256 <span className="font-mono">{revision.hash}</span>
      </p>
      <section
        aria-label="Spec as JSON"
        // biome-ignore lint/a11y/noNoninteractiveTabindex: a scrolling region must be reachable by keyboard
        tabIndex={0}
        className="max-h-[70vh] overflow-auto border-y border-line py-2"
      >
        <pre className="font-mono text-table">{text}</pre>
      </section>
    </Section>
  );
}
