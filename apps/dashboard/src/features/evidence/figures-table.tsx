import type { Figures } from "@muster/verification";
import clsx from "clsx";
import { absent } from "../../ui/format.ts";
import { figureRows } from "./figure-rows.ts";

export type FiguresColumn = {
  readonly label: string;
  readonly figures: Figures | undefined;
  /** What was found, as against what it is compared with. */
  readonly strong?: boolean;
};

/** A check's numbers side by side: what was found, what an ideal machine gives and what is allowed. */
export function FiguresTable({ label, columns }: { label: string; columns: readonly FiguresColumn[] }) {
  const rows = figureRows(columns.map(({ figures }) => figures));
  if (rows.length === 0) return null;
  return (
    <table className="w-full table-fixed border-collapse text-table" aria-label={label}>
      <thead>
        <tr className="align-bottom text-label text-subtle">
          <th scope="col" className="w-[30%] pb-1 text-left font-medium">
            Number
          </th>
          {columns.map((column) => (
            <th key={column.label} scope="col" className="pb-1 pl-3 text-right font-medium">
              {column.label}
            </th>
          ))}
        </tr>
      </thead>
      <tbody>
        {rows.map(({ name, values }) => (
          <tr key={name}>
            <th scope="row" className="py-0.5 text-left font-normal text-muted">
              {name}
            </th>
            {columns.map((column, at) => (
              <td
                key={column.label}
                className={clsx("py-0.5 pl-3 text-right", column.strong ? "font-medium" : "text-muted")}
              >
                {values[at] || absent}
              </td>
            ))}
          </tr>
        ))}
      </tbody>
    </table>
  );
}
