import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { expect, test } from "vitest";
import { type Published, publish, type Store, sha, startSource } from "./published.ts";

// Real processes, killed with SIGKILL at random moments of their download until each of them gets through. What is on disk afterwards is
// only ever whole and right, and what was there whole is never asked for again.

const KILLS = 200;
const LANES = 4;
const SHARD = 65_536;
const SIZE = 12 * SHARD;

type Life = { cache: string; kept: Set<string>; kills: number };

test(`a client killed ${KILLS} times resumes: never a wrong file, never a verified shard fetched again`, {
  timeout: 240_000,
}, async () => {
  await using stack = new AsyncDisposableStack();
  const folder = await mkdtemp(join(tmpdir(), "muster-kill-"));
  stack.defer(() => rm(folder, { recursive: true, force: true }));
  const store: Store = new Map();
  const published = await publish(store, { size: SIZE, shardBytes: SHARD });
  const server = stack.use(await startSource(store, 20e6));
  const lives = new Map<string, Life>();
  const again: string[] = [];
  server.meddle = ({ url = "" }, _response, hash) => {
    const life = lives.get(url.split("/")[1] ?? "");
    if (life?.kept.has(hash)) again.push(`${hash} after ${life.kills} kills`);
    return false;
  };

  async function begin(name: string): Promise<Life> {
    const life: Life = { cache: join(folder, name), kept: new Set(), kills: 0 };
    await mkdir(life.cache);
    lives.set(name, life);
    return life;
  }
  const script = await bundle(folder);
  const lead = (life: Life, name: string, within: number) =>
    live({ script, life, within, published, url: `${server.url}/${name}`, code: join(folder, "code") });

  // the first one leaves compiled code behind, which killed ones do not; the second shows how long one takes
  await lead(await begin("first"), "first", Number.POSITIVE_INFINITY);
  const alone = await lead(await begin("second"), "second", Number.POSITIVE_INFINITY);
  expect(alone.path).toBeDefined();

  let kills = 0;
  let finished = 2;
  let resumed = 0;
  let keptByKilled = 0;
  async function lane(number: number): Promise<void> {
    for (let n = 0; kills < KILLS; n++) {
      const name = `${number}-${n}`;
      const life = await begin(name);
      for (;;) {
        // the last life is let through
        const within = kills < KILLS ? alone.ms * 1.5 : Number.POSITIVE_INFINITY;
        const { path } = await lead(life, name, within);
        await look(life, published);
        if (path !== undefined) {
          expect(sha(await readFile(path))).toBe(sha(published.weights));
          break;
        }
        kills++;
        life.kills++;
        keptByKilled += life.kept.size;
      }
      finished++;
      if (life.kills > 0) resumed++;
      expect(await readdir(join(life.cache, "partial"))).toEqual([]);
      await rm(life.cache, { recursive: true });
    }
  }
  await Promise.all(Array.from({ length: LANES }, (_, i) => lane(i)));
  expect(again).toEqual([]);
  expect(kills).toBeGreaterThanOrEqual(KILLS);
  expect(resumed).toBeGreaterThan(0);
  expect(keptByKilled).toBeGreaterThan(KILLS / 4);
  // what is lost with a client is what was on its connections
  const most = finished * (SIZE + SHARD) + kills * 4 * SHARD;
  expect(server.sentBytes).toBeLessThanOrEqual(most);
});

/** The client as one file: read as its sources, it takes twice the time to start, and that is most of its life here. */
async function bundle(folder: string): Promise<string> {
  const vitest = createRequire(createRequire(import.meta.url).resolve("vitest/package.json"));
  const vite: { build(config: object): Promise<unknown> } = await import(
    pathToFileURL(vitest.resolve("vite")).href
  );
  await vite.build({
    configFile: false,
    logLevel: "error",
    root: import.meta.dirname,
    ssr: { noExternal: true },
    build: { ssr: "kill-client.ts", outDir: join(folder, "client"), target: "node22", emptyOutDir: true },
  });
  const [name = ""] = await readdir(join(folder, "client"));
  return join(folder, "client", name);
}

/** One process, killed at a random moment within so many milliseconds of its download unless it is done before: then it has a path. */
async function live(input: {
  script: string;
  life: Life;
  within: number;
  published: Published;
  url: string;
  code: string;
}): Promise<{ path: string | undefined; ms: number }> {
  const { script, life, within, published, url, code } = input;
  const child = spawn(process.execPath, [script, life.cache, published.checkpoint.hash, url], {
    stdio: ["ignore", "pipe", "inherit"],
    env: { ...process.env, NODE_COMPILE_CACHE: code },
  });
  let said = "";
  const begun = new Promise<void>((resolve) => {
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      said += text;
      if (said.includes("begun\n")) resolve();
    });
  });
  const closed = once(child, "close");
  await Promise.race([begun, closed]);
  const begunAt = performance.now();
  // the moment is what is random here
  const timer = Number.isFinite(within) ? setTimeout(() => kill(child), Math.random() * within) : undefined;
  await closed;
  clearTimeout(timer);
  const ms = performance.now() - begunAt;
  if (child.signalCode === "SIGKILL") return { path: undefined, ms };
  expect(child.exitCode).toBe(0);
  return { path: said.split("\n")[1], ms };
}

function kill(child: ChildProcess): void {
  child.kill("SIGKILL");
}

/** Whatever has a name in the cache is what the name says. */
async function look(life: Life, { checkpoint, weights }: Published): Promise<void> {
  const partial = join(life.cache, "partial", checkpoint.hash);
  for (const name of await readdir(partial).catch(() => [])) {
    expect(sha(await readFile(join(partial, name)))).toBe(name);
    life.kept.add(name);
  }
  const checkpoints = join(life.cache, "checkpoints");
  for (const name of await readdir(checkpoints).catch(() => [])) {
    expect(name).toBe(checkpoint.hash);
    expect(sha(await readFile(join(checkpoints, name, "manifest.json")))).toBe(checkpoint.hash);
    expect(sha(await readFile(join(checkpoints, name, "model.safetensors")))).toBe(sha(weights));
  }
}
