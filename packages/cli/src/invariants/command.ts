import { startPostgres } from "@muster/db";
import type { Exit } from "../exit-codes.ts";
import { Failure } from "../failure.ts";
import { findStateFolder, holderOf, readText, type StateFolder } from "../state-folder.ts";
import type { Terminal } from "../terminal.ts";
import { checkInvariants } from "./check.ts";

export type InvariantsCommand = {
  databaseUrl: string | undefined;
  stateDir: string;
  graceSeconds: number;
};

/** Checks and prints; the last line is the sum, with --json the whole report. */
export async function invariantsCommand(command: InvariantsCommand, terminal: Terminal): Promise<Exit> {
  const { databaseUrl, stateDir, graceSeconds } = command;
  const folder = findStateFolder(stateDir);
  await using database = databaseUrl === undefined ? await databaseOf(folder, stateDir) : given(databaseUrl);
  const report = await checkInvariants({
    databaseUrl: database.url,
    graceSeconds,
    ...(folder === undefined ? {} : { stateDir: folder.path }),
  });
  for (const { id, sentence, violations, examples } of report.details) {
    terminal.say(`${violations === 0 ? "✓" : "✗"} ${id}: ${sentence}`);
    for (const example of examples) terminal.say(`    ${example}`);
    if (violations > examples.length) terminal.say(`    … and ${violations - examples.length} more`);
  }
  terminal.value(report);
  terminal.say(`${report.checked} invariants checked, ${report.violations} violations.`);
  return report.violations === 0 ? "ok" : "failed";
}

type Database = AsyncDisposable & { url: string };

function given(url: string): Database {
  return { url, [Symbol.asyncDispose]: async () => {} };
}

/** The database of the installation in the folder; one that is not running runs for as long as it is asked. */
async function databaseOf(folder: StateFolder | undefined, stateDir: string): Promise<Database> {
  if (folder === undefined || !hasDatabase(folder)) {
    throw new Failure({
      exit: "failed",
      code: "NO_DATABASE",
      what: `There is no Muster database in ${folder?.path ?? stateDir}.`,
      fix: ["npm run invariants -- --state-dir <folder>", "DATABASE_URL=<url> npm run invariants"],
    });
  }
  const running =
    holderOf(folder) !== undefined || readText(`${folder.at("postgres")}/data/postmaster.pid`) !== undefined;
  const postgres = await startPostgres(folder.at("postgres"));
  return {
    url: postgres.url,
    [Symbol.asyncDispose]: async () => {
      if (!running && holderOf(folder) === undefined) await postgres.stop();
    },
  };
}

function hasDatabase(folder: StateFolder): boolean {
  const home = folder.at("postgres");
  return readText(`${home}/password`) !== undefined || readText(`${home}/location`) !== undefined;
}
