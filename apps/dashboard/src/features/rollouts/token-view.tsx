"use client";

import { useVirtualizer } from "@tanstack/react-virtual";
import clsx from "clsx";
import { parseAsStringLiteral, useQueryState } from "nuqs";
import { type KeyboardEvent, type MouseEvent, useId, useMemo, useRef, useState } from "react";
import { absent, formatMetric } from "../../ui/format.ts";
import { Section } from "../../ui/section.tsx";
import { Select } from "../../ui/select.tsx";
import { Cell, Head, Row, Table } from "../../ui/table.tsx";
import { plainLine } from "../../ui/untrusted.ts";
import { UntrustedText } from "../../ui/untrusted-text.tsx";
import {
  heatOf,
  isBeyond,
  type Overlay,
  overlays,
  overlayTitles,
  overlayValue,
  type Scale,
  type Token,
} from "./overlay.ts";

/** Tokens a chunk: 32,000 tokens as single elements take six seconds to paint, in virtual chunks of this size 43 ms. */
const chunkSize = 256;

const heat = ["bg-heat-0", "bg-heat-1", "bg-heat-2", "bg-heat-3", "bg-heat-4", "bg-heat-5"];

/** The output token by token under one overlay. Arrow keys walk along it; the figures of the chosen token stand below. */
export function TokenView({ tokens, scale }: { tokens: readonly Token[]; scale: Scale }) {
  const [overlay, setOverlay] = useQueryState(
    "overlay",
    parseAsStringLiteral(overlays).withDefault("difference").withOptions({ history: "replace" }),
  );
  const [chosen, setChosen] = useState(0);
  const scroller = useRef<HTMLDivElement>(null);
  const id = useId();
  const chunks = useMemo(
    () => Array.from({ length: Math.ceil(tokens.length / chunkSize) }, (_, i) => i),
    [tokens.length],
  );
  const rows = useVirtualizer({
    count: chunks.length,
    getScrollElement: () => scroller.current,
    estimateSize: () => 320,
    overscan: 1,
  });

  function choose(index: number): void {
    const next = Math.min(tokens.length - 1, Math.max(0, index));
    setChosen(next);
    const chunk = Math.floor(next / chunkSize);
    if (!rows.getVirtualItems().some((item) => item.index === chunk)) rows.scrollToIndex(chunk);
  }

  function onKeyDown(event: KeyboardEvent): void {
    const next = {
      ArrowLeft: chosen - 1,
      ArrowRight: chosen + 1,
      PageUp: chosen - 32,
      PageDown: chosen + 32,
      Home: 0,
      End: tokens.length - 1,
    }[event.key];
    if (next === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    choose(next);
  }

  function onClick(event: MouseEvent): void {
    const element = event.target instanceof Element ? event.target.closest("[data-token]") : null;
    if (element instanceof HTMLElement) choose(Number(element.dataset.token));
  }

  const token = tokens[chosen];
  return (
    <Section
      title="Output by token"
      note={overlayTitles[overlay].meaning}
      actions={
        <Select
          label="Overlay"
          value={overlay}
          options={overlays.map((value) => ({ value, label: overlayTitles[value].label }))}
          onChange={(value) => void setOverlay(value)}
        />
      }
    >
      <div
        ref={scroller}
        role="listbox"
        aria-label="Output tokens"
        aria-activedescendant={token ? `${id}-${chosen}` : undefined}
        tabIndex={0}
        onKeyDown={onKeyDown}
        onClick={onClick}
        className="max-h-[40vh] overflow-y-auto border-y border-line py-2"
      >
        <div className="relative" role="presentation" style={{ height: rows.getTotalSize() }}>
          {rows.getVirtualItems().map((item) => (
            <div
              key={item.key}
              ref={rows.measureElement}
              data-index={item.index}
              role="presentation"
              className="absolute inset-x-0 top-0 flex flex-wrap gap-y-1 pb-1"
              style={{ transform: `translateY(${item.start}px)` }}
            >
              {tokens.slice(item.index * chunkSize, (item.index + 1) * chunkSize).map((each, offset) => {
                const index = item.index * chunkSize + offset;
                return (
                  <TokenBox
                    key={each.position}
                    id={`${id}-${index}`}
                    index={index}
                    token={each}
                    overlay={overlay}
                    scale={scale}
                    chosen={index === chosen}
                  />
                );
              })}
            </div>
          ))}
        </div>
      </div>
      <Legend overlay={overlay} scale={scale} />
      {token ? <TokenFacts token={token} /> : null}
      <TokenTable tokens={tokens} scale={scale} />
    </Section>
  );
}

function TokenBox(props: {
  id: string;
  index: number;
  token: Token;
  overlay: Overlay;
  scale: Scale;
  chosen: boolean;
}) {
  const { id, index, token, overlay, scale, chosen } = props;
  const value = overlayValue(token, overlay);
  const beyond = isBeyond(token, overlay, scale);
  return (
    <span
      id={id}
      role="option"
      tabIndex={-1}
      aria-selected={chosen}
      aria-label={`Token ${token.position}, ${plainLine(token.text) || "empty"}${value === null ? "" : `, ${formatMetric(value)}`}${beyond ? ", beyond the threshold" : ""}`}
      data-token={index}
      className={clsx(
        "min-h-6 cursor-pointer border-b-2 px-1 text-body leading-6",
        heat[heatOf(token, overlay, scale)],
        beyond ? "border-rejected" : "border-transparent",
        chosen && "outline-2 -outline-offset-2 outline-accent",
      )}
    >
      {token.text === "" ? (
        <span className="font-mono text-subtle">∅</span>
      ) : (
        <UntrustedText text={token.text} />
      )}
      {beyond ? <span aria-hidden="true">!</span> : null}
    </span>
  );
}

function Legend({ overlay, scale }: { overlay: Overlay; scale: Scale }) {
  if (overlay === "none") return null;
  const ends = {
    claimed: ["0", "−5 nats or less"],
    measured: ["0", "−5 nats or less"],
    difference: ["0", `${formatMetric(scale.logProbability)} or more: beyond the threshold, marked !`],
    margin: ["0", `${formatMetric(scale.margin)} or more: beyond the threshold, marked !`],
  }[overlay];
  return (
    <p className="mt-2 flex items-center gap-1.5 text-table text-subtle">
      {ends[0]}
      <span className="inline-flex border border-line">
        {heat.map((name) => (
          <span key={name} className={clsx("h-3 w-5", name)} />
        ))}
      </span>
      {ends[1]}
    </p>
  );
}

function TokenFacts({ token }: { token: Token }) {
  return (
    <dl
      aria-label="Chosen token"
      aria-live="polite"
      className="mt-3 grid grid-cols-2 gap-x-6 gap-y-1 text-table sm:grid-cols-4 xl:grid-cols-7"
    >
      <Fact name="Position">{token.position}</Fact>
      <Fact name="Token id">{token.token}</Fact>
      <Fact name="Text">{token.text === "" ? "empty (end)" : <UntrustedText line text={token.text} />}</Fact>
      <Fact name="Claimed log-prob.">{reported(token.claimedLogProbability, "not claimed")}</Fact>
      <Fact name="Measured log-prob.">{reported(token.measuredLogProbability, "not measured")}</Fact>
      <Fact name="Distance">{reported(overlayValue(token, "difference"), absent)}</Fact>
      <Fact name="Margin">{reported(token.margin, "not measured")}</Fact>
    </dl>
  );
}

function Fact({ name, children }: { name: string; children: React.ReactNode }) {
  return (
    <div>
      <dt className="text-label text-subtle">{name}</dt>
      <dd>{children}</dd>
    </div>
  );
}

const rowsShown = 256;

/** The same as numbers. Long outputs are listed in parts. */
function TokenTable({ tokens, scale }: { tokens: readonly Token[]; scale: Scale }) {
  const [open, setOpen] = useState(false);
  const [from, setFrom] = useState(0);
  const part = tokens.slice(from, from + rowsShown);
  return (
    <details className="mt-3" open={open} onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary className="text-table text-muted">View as a table</summary>
      {open ? (
        <>
          <Table
            label="Tokens"
            className="mt-2"
            head={
              <>
                <Head number>Position</Head>
                <Head number>Token id</Head>
                <Head>Text</Head>
                <Head number>Claimed log-probability</Head>
                <Head number>Measured log-probability</Head>
                <Head number>Distance</Head>
                <Head number>Margin</Head>
                <Head>Beyond a threshold</Head>
              </>
            }
          >
            {part.map((token) => (
              <Row key={token.position}>
                <Cell number>{token.position}</Cell>
                <Cell number>{token.token}</Cell>
                <Cell>
                  <UntrustedText line text={token.text} />
                </Cell>
                <Cell number>{formatMetric(token.claimedLogProbability)}</Cell>
                <Cell number>{formatMetric(token.measuredLogProbability)}</Cell>
                <Cell number>{formatMetric(overlayValue(token, "difference"))}</Cell>
                <Cell number>{formatMetric(token.margin)}</Cell>
                <Cell>
                  {[
                    isBeyond(token, "difference", scale) ? "log-probability" : "",
                    isBeyond(token, "margin", scale) ? "margin" : "",
                  ]
                    .filter(Boolean)
                    .join(", ")}
                </Cell>
              </Row>
            ))}
          </Table>
          {tokens.length > rowsShown ? (
            <p className="mt-2 flex gap-2 text-table">
              <button
                type="button"
                disabled={from === 0}
                className="underline disabled:opacity-50"
                onClick={() => setFrom(Math.max(0, from - rowsShown))}
              >
                Earlier tokens
              </button>
              <button
                type="button"
                disabled={from + rowsShown >= tokens.length}
                className="underline disabled:opacity-50"
                onClick={() => setFrom(from + rowsShown)}
              >
                Later tokens
              </button>
            </p>
          ) : null}
        </>
      ) : null}
    </details>
  );
}

function reported(value: number | null, otherwise: string): string {
  return value === null ? otherwise : formatMetric(value);
}
