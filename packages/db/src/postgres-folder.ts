// Where a server's files lie, as whom it runs, and making them the first time.
//
// Nothing here takes a lock, so nothing can be left locked: the password file appears by link(2), the data
// directory by rename(2) of a finished one. Whoever comes second finds what the first one made.
import { randomBytes, randomUUID } from "node:crypto";
import { chmod, chown, link, mkdir, readdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { codeOf, DatabaseError } from "./errors.ts";
import {
  type Binaries,
  findBinaries,
  reachable,
  run,
  type ServerUser,
  serverUser,
} from "./postgres-binaries.ts";

/** Where a server's files lie and as whom it runs. */
export type Server = {
  home: string;
  data: string;
  logFile: string;
  user: ServerUser | undefined;
  binaries: Binaries;
};

const fallbackRoot = "/var/lib/muster";
const fallbackHome = /^\/var\/lib\/muster\/postgres-[0-9a-f]+$/;

/** Finds or chooses the place below `dir`, and makes the programs ready. */
export async function prepare(dir: string): Promise<Server> {
  await mkdir(dir, { recursive: true });
  const recorded = await recordedHome(dir);
  const owner = await ownerOf(join(recorded ?? dir, "data"));
  const user = await serverUser(owner);
  if (recorded !== undefined && !(await exists(recorded))) {
    throw new DatabaseError(
      "DATA_UNREACHABLE",
      `The database of ${dir} was kept in ${recorded}, which is gone. Restore that folder, or remove ${dir} to begin anew.`,
    );
  }
  const home = recorded ?? (await chooseHome(dir, user));
  if (user !== undefined) await chown(home, user.uid, user.gid);
  const binaries = await findBinaries(user, fallbackRoot);
  return { home, data: join(home, "data"), logFile: join(home, "log"), user, binaries };
}

export async function holdsServer(dir: string): Promise<boolean> {
  return (await exists(join(dir, "data"))) || (await exists(join(dir, "location")));
}

/** Where the files of the server of `dir` lie; `dir` itself unless it records another place. */
export async function homeOf(dir: string): Promise<string> {
  return (await recordedHome(dir)) ?? dir;
}

/** What is named there is given to the server's user and may be deleted: only a place that was made for it will do. */
async function recordedHome(dir: string): Promise<string | undefined> {
  const home = (await readText(join(dir, "location")))?.trim();
  if (home === undefined || fallbackHome.test(home)) return home;
  throw new DatabaseError(
    "NOT_A_DATA_DIRECTORY",
    `${join(dir, "location")} names ${home}, which is no place of Muster's databases. Remove that file, or keep the state in another folder.`,
  );
}

async function chooseHome(dir: string, user: ServerUser | undefined): Promise<string> {
  const others = (await readdir(dir)).filter((name) => !/^(data|password|port|log)(\..*)?$/.test(name));
  if (others.length > 0 && !(await exists(join(dir, "data")))) {
    throw new DatabaseError(
      "NOT_A_DATA_DIRECTORY",
      `${dir} holds other files (${others.slice(0, 3).join(", ")}). Give the database a folder of its own.`,
    );
  }
  if (user === undefined) return dir;
  await chown(dir, user.uid, user.gid);
  if (await reachable(dir, user)) return dir;
  if (await exists(join(dir, "data"))) {
    throw new DatabaseError(
      "DATA_UNREACHABLE",
      `The database in ${dir} runs as user id ${user.uid}, which may no longer enter that folder. Let it pass through every folder above: chmod o+x <folder>`,
    );
  }
  // Named at random, not after `dir`: whoever deletes `dir` to begin anew must not find the old data again.
  const home = join(fallbackRoot, `postgres-${randomBytes(6).toString("hex")}`);
  await mkdir(home, { recursive: true });
  await chmod(fallbackRoot, 0o755);
  await chown(home, user.uid, user.gid);
  if (!(await writeOnce(join(dir, "location"), `${home}\n`, undefined))) await rm(home, { recursive: true });
  return (await readFile(join(dir, "location"), "utf8")).trim();
}

/** Makes password and data directory unless they are there; refuses what is no data of this version. */
export async function initialise(server: Server): Promise<void> {
  const { data, home, user, binaries } = server;
  const version = (await readText(join(data, "PG_VERSION")))?.trim();
  if (version !== undefined && version !== binaries.major) {
    throw new DatabaseError(
      "OTHER_MAJOR_VERSION",
      `The data in ${data} is of Postgres ${version}, the bundled server is ${binaries.major}. Move it with ${version}'s pg_dump and set DATABASE_URL, or move ${home} away to begin anew.`,
    );
  }
  if (version !== undefined) return;
  if (await exists(data)) {
    throw new DatabaseError(
      "NOT_A_DATA_DIRECTORY",
      `${data} is not a Postgres data directory (it holds no PG_VERSION). Move it away, or keep the state in another folder.`,
    );
  }
  await writeOnce(join(home, "password"), `${randomBytes(24).toString("base64url")}\n`, user);
  const fresh = join(home, `data.new-${randomUUID()}`);
  await removeAbandoned(home);
  try {
    // The built-in provider sorts the same on every system and needs no locale to be installed.
    const locale = ["-E", "UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"];
    const access = ["-U", "postgres", "-A", "scram-sha-256", `--pwfile=${join(home, "password")}`];
    await run(binaries.initdb, ["-D", fresh, ...access, ...locale, "--no-instructions"], { cwd: home, user });
    await rename(fresh, data);
  } catch (error) {
    await rm(fresh, { recursive: true, force: true });
    const somebodyElseWon =
      ["ENOTEMPTY", "EEXIST", "EPERM"].includes(codeOf(error) ?? "") && (await exists(data));
    if (!somebodyElseWon) throw error;
  }
}

/** Fresh data directories of starts that were killed; ten minutes is beyond any initdb still running. */
async function removeAbandoned(home: string): Promise<void> {
  for (const name of await readdir(home)) {
    if (!name.startsWith("data.new-")) continue;
    const path = join(home, name);
    const { mtimeMs } = await stat(path).catch(() => ({ mtimeMs: Date.now() }));
    if (Date.now() - mtimeMs > 600_000) await rm(path, { recursive: true, force: true });
  }
}

export async function readPassword(server: Server): Promise<string> {
  const password = await readText(join(server.home, "password"));
  if (password !== undefined) return password.trim();
  throw new DatabaseError(
    "PASSWORD_REFUSED",
    `The password of the database in ${server.home} is missing. Restore the file ${join(server.home, "password")}, or move the folder away to begin anew.`,
  );
}

/** Writes a file that only its owner reads, unless it is there already. Never visible half written. */
async function writeOnce(path: string, text: string, owner: ServerUser | undefined): Promise<boolean> {
  const draft = `${path}.${randomUUID()}`;
  await writeFile(draft, text, { mode: 0o600 });
  try {
    if (owner !== undefined) await chown(draft, owner.uid, owner.gid);
    await link(draft, path);
    return true;
  } catch (error) {
    if (codeOf(error) === "EEXIST") return false;
    throw error;
  } finally {
    await rm(draft, { force: true });
  }
}

export async function readText(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    if (codeOf(error) === "ENOENT") return undefined;
    throw error;
  }
}

export async function exists(path: string): Promise<boolean> {
  return (await ownerOf(path)) !== undefined;
}

async function ownerOf(path: string): Promise<ServerUser | undefined> {
  return await stat(path).catch(() => undefined);
}
