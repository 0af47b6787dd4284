// Runs on whatever Node the machine has (20 or newer) before everything else: installs the pinned Node and
// all packages when they are missing or older than the lock file, and generates the code that is not
// committed. Everything after it runs on the pinned Node, which npm puts first on the PATH of its scripts.
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const modules = join(root, "node_modules");
const quiet = process.argv.includes("--quiet");

const [major = 0] = process.versions.node.split(".").map(Number);
if (major < 20)
  fail(
    `Muster needs Node 20 or newer to start; this is ${process.version}. Install a current Node from https://nodejs.org.`,
  );

withLock(() => {
  if (!installed()) install();
  generate();
});
if (process.argv.includes("--tests")) installChromium();

function installed() {
  const node = join(modules, ".bin", process.platform === "win32" ? "node.cmd" : "node");
  const marker = join(modules, ".package-lock.json");
  return (
    existsSync(node) &&
    existsSync(marker) &&
    statSync(marker).mtimeMs >= statSync(join(root, "package-lock.json")).mtimeMs - 1000
  );
}

function install() {
  say("Installing packages (about a minute, once) …");
  run(
    "npm",
    ["ci", "--no-audit", "--no-fund", "--loglevel=error"],
    "The installation failed. Look at npm's message above; it needs the npm registry and about 2 GB of disk.",
  );
  // `npm ci` keeps the lock file's time, which may be newer than the marker it wrote.
  writeFileSync(join(modules, ".package-lock.json"), readFileSync(join(modules, ".package-lock.json")));
}

function generate() {
  run(
    join(modules, ".bin", "node"),
    // what the generators say of themselves helps nobody here; errors come through
    [join("scripts", "generate.ts"), "--if-stale", "--quiet"],
    "Generating code failed; see above.",
  );
}

/**
 * Tests drive a real browser: Playwright's own download where there is one, else Debian's Chromium, installed
 * when we may.
 */
function installChromium() {
  const chromium = process.env.CHROMIUM_PATH ?? "/usr/bin/chromium";
  if (existsSync(chromium)) return;
  const apt = spawnSync("apt-get", ["--version"], { stdio: "ignore" }).status === 0;
  if (process.platform === "linux" && process.getuid?.() === 0 && apt) {
    say("Installing Chromium for the end-to-end tests …");
    const options = {
      cwd: root,
      stdio: "inherit",
      env: { ...process.env, DEBIAN_FRONTEND: "noninteractive" },
    };
    spawnSync("apt-get", ["update", "-qq"], options);
    spawnSync(
      "apt-get",
      ["install", "-y", "-qq", "--no-install-recommends", "chromium", "fonts-liberation"],
      options,
    );
    if (existsSync(chromium)) return;
  }
  const playwright = join(modules, ".bin", "playwright");
  if (spawnSync(playwright, ["install", "chromium"], { cwd: root, stdio: "inherit" }).status === 0) return;
  fail(
    "The end-to-end tests need Chromium and it could not be installed. Install it (Debian: apt-get install chromium) or set CHROMIUM_PATH, then run npm test again.",
  );
}

/** Two commands started at once install once. */
function withLock(work) {
  mkdirSync(join(root, ".muster"), { recursive: true });
  const lock = join(root, ".muster", "bootstrap.lock");
  const deadline = Date.now() + 10 * 60_000;
  for (;;) {
    try {
      writeFileSync(lock, String(process.pid), { flag: "wx" });
      break;
    } catch (error) {
      if (error.code !== "EEXIST")
        fail(`Cannot write ${lock}: ${error.message}. Make the folder writable for this user.`);
      if (!alive(Number(readFileSync(lock, "utf8").trim()))) rmSync(lock, { force: true });
      else if (Date.now() > deadline)
        fail(`Another bootstrap has held ${lock} for ten minutes. End it, or remove the file.`);
      else Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 250);
    }
  }
  try {
    work();
  } finally {
    rmSync(lock, { force: true });
  }
}

function alive(pid) {
  try {
    return pid > 0 && process.kill(pid, 0);
  } catch (error) {
    return error.code === "EPERM";
  }
}

function run(command, args, problem) {
  const result = spawnSync(command, args, {
    cwd: root,
    stdio: ["ignore", quiet ? "ignore" : 2, "inherit"],
    shell: process.platform === "win32",
  });
  if (result.status !== 0) {
    rmSync(join(root, ".muster", "bootstrap.lock"), { force: true });
    fail(problem);
  }
}

function say(text) {
  process.stderr.write(`${text}\n`);
}

function fail(text) {
  process.stderr.write(`${text}\n`);
  process.exit(1);
}
