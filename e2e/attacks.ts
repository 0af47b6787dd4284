// `npm run attacks`: starts a whole installation of its own, lets `packages/attacks` loose on it as a process, and ends both.
import { type ChildProcess, spawn } from "node:child_process";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { type Installation, repository, startInstallation } from "./installation.ts";

const asked = process.argv.slice(2);
const keep = asked.includes("--keep");
const started = performance.now();

let range: ChildProcess | undefined;
let stopped = false;
for (const signal of ["SIGINT", "SIGTERM"] as const) {
  process.on(signal, () => {
    stopped = true;
    range?.kill(signal);
  });
}

const installation = await startInstallation({
  name: "attacks",
  workers: 0,
  keep,
  // Leases that nobody renews end from the start: a run of seconds has no time to wait for nodes to come back.
  env: { MUSTER_SWEEP_DELAY_SECONDS: "1" },
});
try {
  process.exitCode = stopped ? 130 : await attack(installation);
} finally {
  if (keep) process.stderr.write(`Kept in ${installation.stateDir}\n`);
  await installation.stop();
  process.stderr.write(`${((performance.now() - started) / 1000).toFixed(0)} s in all.\n`);
}

async function attack({ url, organization, apiKey, stateDir }: Installation): Promise<number> {
  const operatorToken = (await readFile(join(stateDir, "operator-token"), "utf8")).trim();
  const args = ["--url", url, "--organization", organization, "--folder", join(stateDir, "..", "range")];
  const child = spawn(
    process.execPath,
    [
      join(repository, "packages", "attacks", "src", "range.ts"),
      ...args,
      ...asked.filter((argument) => argument !== "--keep"),
    ],
    {
      stdio: ["ignore", "inherit", "inherit"],
      env: { ...process.env, MUSTER_API_KEY: apiKey, MUSTER_OPERATOR_TOKEN: operatorToken },
    },
  );
  range = child;
  return new Promise((resolve) => child.once("exit", (status) => resolve(status ?? 1)));
}
