import type { CheckResult } from "@muster/verification";
import { absent } from "../../ui/format.ts";
import { figureRows } from "./figure-rows.ts";

/** A check's numbers: what is on record, what was found, what an ideal machine gives and what is allowed. */
export function FiguresTable(props: {
  label: string;
  recorded: CheckResult | undefined;
  found: CheckResult | undefined;
  foundHere: string;
}) {
  const rows = figureRows(props.recorded, props.found);
  if (rows.length === 0) return null;
  return (
    <table className="w-full border-collapse text-table" aria-label={props.label}>
      <thead>
        <tr className="text-label text-subtle">
          <th scope="col" className="pb-1 text-left font-medium">
            Number
          </th>
          {["On record", props.foundHere, "Expected", "Threshold"].map((name) => (
            <th key={name} scope="col" className="pb-1 pl-3 text-right font-medium">
              {name}
            </th>
          ))}
        </tr>
      </thead>
      <tbody>
        {rows.map(({ name, recorded, found, expected, threshold }) => (
          <tr key={name}>
            <th scope="row" className="py-0.5 text-left font-normal text-muted">
              {name}
            </th>
            <td className="py-0.5 pl-3 text-right">{recorded || absent}</td>
            <td className="py-0.5 pl-3 text-right font-medium">{found || absent}</td>
            <td className="py-0.5 pl-3 text-right text-muted">{expected || absent}</td>
            <td className="py-0.5 pl-3 text-right text-muted">{threshold || absent}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}
