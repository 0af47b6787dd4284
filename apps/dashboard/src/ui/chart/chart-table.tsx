import { Cell, Head, Row, Table } from "../table.tsx";
import { type Column, tableRows } from "./chart-data.ts";

/** What a chart draws, as numbers: at most 500 rows, the newest first. */
export function ChartTable(props: {
  title: string;
  axis: string;
  x: readonly number[];
  lines: readonly (Column & { label: string })[];
  format(value: number | null | undefined): string;
  height: number;
}) {
  const { title, axis, x, lines, format, height } = props;
  const spread = lines.some((line) => line.low !== undefined);
  return (
    <div className="overflow-y-auto" style={{ height }}>
      <Table
        label={`${title} by ${axis}`}
        head={
          <>
            <Head number>{axis}</Head>
            {lines.map((line) => (
              <Head number key={line.label}>
                {line.label}
                {spread ? " (least … most)" : ""}
              </Head>
            ))}
          </>
        }
      >
        {tableRows(x.length)
          .toReversed()
          .map((row) => (
            <Row key={x[row]}>
              <Cell number>{x[row]}</Cell>
              {lines.map((line) => (
                <Cell number key={line.label}>
                  {format(line.values[row])}
                  {line.low && line.high ? ` (${format(line.low[row])} … ${format(line.high[row])})` : ""}
                </Cell>
              ))}
            </Row>
          ))}
      </Table>
    </div>
  );
}
