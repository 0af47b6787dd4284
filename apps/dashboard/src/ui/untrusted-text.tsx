import clsx from "clsx";
import { partsOf, plainLine, type UntrustedPart } from "./untrusted.ts";

/**
 * Text of a stranger's machine. It is never markup, cannot turn the direction of what stands around it, and shows what would be invisible.
 * With `line`, breaks become a sign and the text stays on one line.
 */
export function UntrustedText(props: { text: string; line?: boolean; className?: string }) {
  const { text, line = false, className } = props;
  return (
    <bdi
      translate="no"
      dir="ltr"
      className={clsx(
        "font-mono",
        line ? "block truncate whitespace-pre" : "whitespace-pre-wrap wrap-anywhere",
        className,
      )}
      {...(line ? { title: plainLine(text) } : {})}
    >
      {partsOf(text).map((part, index) => (
        // parts of one immutable text
        <Part key={index} part={part} line={line} />
      ))}
    </bdi>
  );
}

function Part({ part, line }: { part: UntrustedPart; line: boolean }) {
  switch (part.kind) {
    case "text":
      return part.text;
    case "break":
      return (
        <>
          <span className="text-subtle">↵</span>
          {line ? null : "\n"}
        </>
      );
    case "mark":
      return (
        <span
          className="mx-px rounded-control border border-rejected px-0.5 text-label text-on-rejected-soft"
          title={part.name}
        >
          {part.code}
          <span className="sr-only"> {part.name}</span>
        </span>
      );
  }
}
