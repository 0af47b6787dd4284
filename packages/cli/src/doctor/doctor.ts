import type { Exit } from "../exit-codes.ts";
import type { Terminal } from "../terminal.ts";
import { checkCoordinator } from "./coordinator.ts";
import type { Finding } from "./finding.ts";
import { checkInference } from "./inference.ts";
import { checkDatabase, checkDisk, checkMemory, checkNode, checkStateFolder } from "./machine.ts";

const marks = { ok: "✓", none: "–", warn: "!", fail: "✗" } as const;

/** Looks at everything that Muster needs here. @returns `failed` when something is missing that it cannot do without. */
export async function doctor(
  options: { url: string; urlGiven: boolean; stateDir: string },
  terminal: Terminal,
): Promise<Exit> {
  const findings: Finding[] = [];
  const tell = (found: readonly Finding[]) => {
    for (const finding of found) {
      findings.push(finding);
      terminal.say(`${marks[finding.level]} ${finding.what}`);
      if (finding.why !== undefined) terminal.say(`    why: ${finding.why}`);
      if (finding.fix !== undefined) terminal.say(`    fix:\n${finding.fix}`);
    }
  };
  tell([checkNode(), checkMemory(), checkDisk(options.stateDir), checkStateFolder(options.stateDir)]);
  tell([await checkDatabase()]);
  tell(await checkInference());
  tell(await checkCoordinator({ url: options.url, required: options.urlGiven }));
  const missing = findings.filter(({ level }) => level === "fail").length;
  terminal.value({ ok: missing === 0, findings });
  terminal.say(
    missing === 0
      ? "Nothing that Muster needs is missing."
      : `${missing} of ${findings.length} checks failed.`,
  );
  return missing === 0 ? "ok" : "failed";
}
