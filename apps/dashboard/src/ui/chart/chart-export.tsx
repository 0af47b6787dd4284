"use client";

import type { ReactElement } from "react";
import { Button } from "../button.tsx";
import { download } from "../data-table/table-export.ts";
import { formatExact } from "../format.ts";
import { Popover } from "../popover.tsx";
import { toast } from "../toast.tsx";
import { chartCsv } from "./chart-csv.ts";
import type { Line } from "./lines.ts";

/** The drawn points as a file, or the drawing as a picture. Smoothing is never in a file. */
export function ChartExportMenu(props: {
  trigger: ReactElement;
  title: string;
  axis: string;
  x: readonly number[];
  lines: readonly Line[];
  canvas(): HTMLCanvasElement | null;
}) {
  const { trigger, title, axis, x, lines, canvas } = props;
  const name = `${title.toLowerCase().replaceAll(/\W+/g, "-")}-${new Date().toISOString().slice(0, 10)}`;
  function savePicture(): void {
    const drawn = canvas();
    if (drawn === null) {
      toast("The chart is not drawn: it is shown as a table");
      return;
    }
    withTitle(drawn, title).toBlob((blob) => {
      if (blob) download(`${name}.png`, "image/png", blob);
    });
  }
  return (
    <Popover title={`Export ${title}`} trigger={trigger}>
      <p className="mt-1 text-table text-subtle">
        {formatExact(x.length)} points as drawn, without smoothing
      </p>
      <div className="mt-2 flex gap-2">
        <Button onClick={() => download(`${name}.csv`, "text/csv", chartCsv(axis, x, lines))}>CSV</Button>
        <Button onClick={savePicture}>PNG</Button>
      </div>
    </Popover>
  );
}

/** The drawing on the page's ground, with its title: a picture that says what it shows. */
function withTitle(drawn: HTMLCanvasElement, title: string): HTMLCanvasElement {
  const pixels = devicePixelRatio;
  const style = getComputedStyle(document.documentElement);
  const canvas = document.createElement("canvas");
  canvas.width = drawn.width;
  canvas.height = drawn.height + 28 * pixels;
  const context = canvas.getContext("2d");
  if (context === null) return drawn;
  context.fillStyle = style.getPropertyValue("--bg");
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.fillStyle = style.getPropertyValue("--fg");
  context.font = `500 ${13 * pixels}px ${getComputedStyle(document.body).fontFamily}`;
  context.fillText(title, 8 * pixels, 19 * pixels);
  context.drawImage(drawn, 0, 28 * pixels);
  return canvas;
}
