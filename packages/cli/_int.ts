import { spawn } from "node:child_process";
import { mkdirSync, openSync } from "node:fs";
import { startPostgres } from "@muster/db";
import { demoRunSpec } from "@muster/protocol";
import { createClient } from "@muster/sdk";
import { openIdentity } from "@muster/worker";
import { registerNode } from "./src/register-node.ts";

const dir = process.argv[2]!;
const steps = Number(process.argv[3] ?? 5);
const port = 4700;
mkdirSync(dir, { recursive: true, mode: 0o755 });
const pg = await startPostgres(`${dir}/pg`);
console.log("pg", pg.url);
const log = openSync(`${dir}/api.log`, "w");
const token = "o".repeat(40);
const t0 = Date.now();
const api = spawn(process.execPath, ["--cpu-prof", `--cpu-prof-dir=${dir}/prof`, "apps/api/src/main.ts"], {
  cwd: "/work/main",
  stdio: ["ignore", log, log],
  env: {
    ...process.env,
    DATABASE_URL: pg.url,
    MUSTER_PORT: String(port),
    MUSTER_SECRET: "s".repeat(40),
    MUSTER_OPERATOR_TOKEN: token,
    MUSTER_STATE_DIR: dir,
    MUSTER_MIGRATE: "1",
    MUSTER_LOG_LEVEL: process.env.LOGL ?? "info",
  },
});
const url = `http://127.0.0.1:${port}`;
for (;;) {
  try {
    const r = await fetch(`${url}/readyz`);
    if (r.ok) break;
  } catch {}
  await new Promise((r) => setTimeout(r, 200));
  if (api.exitCode !== null) {
    console.log("api died");
    process.exit(1);
  }
}
console.log("ready", Date.now() - t0);
const boot = await (
  await fetch(`${url}/operator/bootstrap`, {
    method: "POST",
    headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
    body: JSON.stringify({ organizationName: "Demo", email: "you@localhost.test" }),
  })
).json();
console.log(boot);
const client = createClient({ url, apiKey: boot.apiKey });
const out = await client.runs.create({
  organization: boot.organization,
  spec: { ...demoRunSpec({ seed: 1, steps: 100 }), limits: { steps }, evaluation: { versions: [0, steps] } },
  credits: "10000000000",
  start: true,
});
if (out.__typename !== "RunCreated") {
  console.log(out);
  process.exit(1);
}
const run = out.run.id;
console.log(run);
const names: [string, string, ("TRAINER" | "VALIDATOR" | "EVALUATOR")[]][] = [
  ["trainer", "trainer", ["TRAINER"]],
  ["validator", "validator,evaluator", ["VALIDATOR", "EVALUATOR"]],
  ["worker-1", "worker", []],
  ["worker-2", "worker", []],
  ["worker-3", "worker", []],
];
const kids = [];
for (const [name, roles, grants] of names) {
  const state = `${dir}/nodes/${name}`;
  mkdirSync(state, { recursive: true });
  const id = await registerNode(createClient({ url }), {
    identity: await openIdentity(state),
    name,
    signal: new AbortController().signal,
  });
  for (const role of grants) await client.runs.grantRole({ run, node: id, role });
  const fd = openSync(`${dir}/${name}.log`, "w");
  kids.push(
    spawn(process.execPath, ["packages/cli/_node.ts", url, state, roles, name], {
      cwd: "/work/main",
      stdio: ["ignore", fd, fd],
    }),
  );
}
let last = "";
for (let i = 0; i < 600; i++) {
  await new Promise((r) => setTimeout(r, 1000));
  const r = await client.runs.get({ id: run });
  const line = `${r.state} ${r.stateReason} v${r.currentVersion} step ${r.step} reward ${r.stats.reward} ${JSON.stringify(r.stats.groups)} tasks ${JSON.stringify(r.stats.tasks)} share ${r.stats.verificationShare?.toFixed(3)} eta ${r.stats.etaSeconds?.toFixed(0)}`;
  if (line !== last) console.log(((Date.now() - t0) / 1000).toFixed(1), line);
  last = line;
  if (["COMPLETED", "FAILED", "CANCELLED"].includes(r.state)) break;
}
console.log(JSON.stringify(await client.runs.evaluations({ run })));
import("node:fs").then(() => 0);
const fs = await import("node:fs");
for (const [n, p] of [["api", api.pid], ...names.map((x, i) => [x[0], kids[i]!.pid])] as [string, number][]) {
  const f = fs.readFileSync(`/proc/${p}/stat`, "utf8").split(") ")[1]!.split(" ");
  console.log(n, "cpu s", (Number(f[11]) + Number(f[12])) / 100);
}
for (const k of kids) k.kill("SIGTERM");
await new Promise((r) => setTimeout(r, 3000));
api.kill("SIGTERM");
await new Promise((r) => setTimeout(r, 2000));
await pg.stop();
process.exit(0);
