import clsx from "clsx";
import type { ReactNode } from "react";

/** What a state means, whatever it is a state of. Icon, word and colour always come together. */
export type Tone = "ok" | "pending" | "running" | "rejected" | "slashed" | "idle";

const soft: Record<Tone, string> = {
  ok: "bg-ok-soft text-on-ok-soft",
  pending: "bg-pending-soft text-on-pending-soft",
  running: "bg-running-soft text-on-running-soft",
  rejected: "bg-rejected-soft text-on-rejected-soft",
  slashed: "bg-slashed-soft text-on-slashed-soft",
  idle: "bg-idle-soft text-on-idle-soft",
};

const plain: Record<Tone, string> = {
  ok: "text-ok",
  pending: "text-pending",
  running: "text-running",
  rejected: "text-rejected",
  slashed: "text-slashed",
  idle: "text-idle",
};

/** A state as a badge: icon and word on a soft ground. */
export function StateBadge({ tone, children }: { tone: Tone; children: ReactNode }) {
  return (
    <span
      className={clsx(
        "badge inline-flex h-5 items-center gap-1 whitespace-nowrap rounded-control px-1.5 text-table font-medium",
        soft[tone],
      )}
    >
      <StateIcon tone={tone} />
      {children}
    </span>
  );
}

/** A state inside a table row: icon in colour, word in ink. */
export function StateWord({ tone, children }: { tone: Tone; children: ReactNode }) {
  return (
    <span className="inline-flex items-center gap-1.5 whitespace-nowrap">
      <span className={plain[tone]}>
        <StateIcon tone={tone} />
      </span>
      {children}
    </span>
  );
}

/** The shapes differ so that they read without colour: ✓ in a disc, clock, half disc, ✕ in a square, octagon, dash. */
export function StateIcon({ tone }: { tone: Tone }) {
  return (
    <svg
      viewBox="0 0 16 16"
      width="12"
      height="12"
      aria-hidden="true"
      className="shrink-0"
      fill="none"
      stroke="currentColor"
      strokeWidth="1.75"
    >
      {shapes[tone]}
    </svg>
  );
}

const shapes: Record<Tone, ReactNode> = {
  ok: (
    <>
      <circle cx="8" cy="8" r="7.5" fill="currentColor" stroke="none" />
      <path d="M4.5 8.2 7 10.6l4.5-5" stroke="var(--bg)" strokeLinecap="round" strokeLinejoin="round" />
    </>
  ),
  pending: (
    <>
      <circle cx="8" cy="8" r="6.6" />
      <path d="M8 4.4V8l2.4 1.6" strokeLinecap="round" />
    </>
  ),
  running: (
    <>
      <circle cx="8" cy="8" r="6.6" />
      <path d="M8 1.4a6.6 6.6 0 0 1 0 13.2Z" fill="currentColor" stroke="none" />
    </>
  ),
  rejected: (
    <>
      <rect x="0.8" y="0.8" width="14.4" height="14.4" rx="2" fill="currentColor" stroke="none" />
      <path d="m5 5 6 6m0-6-6 6" stroke="var(--bg)" strokeLinecap="round" />
    </>
  ),
  slashed: (
    <>
      <path d="M5.1 1h5.8L15 5.1v5.8L10.9 15H5.1L1 10.9V5.1Z" fill="currentColor" stroke="none" />
      <path d="M4.5 8h7" stroke="var(--bg)" strokeLinecap="round" />
    </>
  ),
  idle: <path d="M3 8h10" strokeLinecap="round" strokeWidth="2.25" />,
};
