#!/usr/bin/env node
// Prisma's command line starts a native `schema-engine` and would download it. This program stands in for it:
// the same arguments and the same JSON-RPC on standard input and output, answered by the WebAssembly build of
// that engine which npm ships.
//
// The driver adapter lacks what that engine needs in four places; each is marked "Works round" below.
import { readFile } from "node:fs/promises";
import { createInterface } from "node:readline";
import { PrismaPg } from "@prisma/adapter-pg";
import { bindMigrationAwareSqlAdapterFactory, ColumnTypeEnum } from "@prisma/driver-adapter-utils";
import pg from "pg";

const { datamodels, datasource, words, version } = parseArguments(process.argv.slice(2));

if (version) console.log("schema-engine-cli (WebAssembly)");
else if (words[0] === "cli") await runCommand(words[1]);
else serve();

/** `--datamodels a --datamodels b --datasource {json} cli create-database` */
function parseArguments(args) {
  const parsed = { datamodels: [], datasource: {}, words: [], version: args.includes("--version") };
  for (let i = 0; i < args.length; i++) {
    if (args[i] === "--datamodels") parsed.datamodels.push(args[++i]);
    else if (args[i] === "--datasource") parsed.datasource = JSON.parse(args[++i]);
    else if (args[i].startsWith("--")) i++;
    else parsed.words.push(args[i]);
  }
  return parsed;
}

async function runCommand(command) {
  try {
    if (command === "can-connect-to-database") await withClient(datasource.url, async () => {});
    else if (command === "create-database") await createDatabase();
  } catch (error) {
    // Prisma reads the reason from a log line of this form.
    const fields = { error_code: prismaCode(error.code), message: error.message || String(error.code) };
    process.stderr.write(
      `\n${JSON.stringify({ level: "ERROR", target: "schema_engine::logger", fields })}\n`,
    );
    process.exitCode = 1;
  }
}

function prismaCode(code) {
  if (code === "3D000") return "P1003"; // the database does not exist
  if (code === "28P01" || code === "28000") return "P1000"; // the password is refused
  return "P1001"; // the server cannot be reached
}

/**
 * Answers requests one after the other, in the order they came; ends when the input has ended and all are
 * answered.
 */
function serve() {
  let chain = Promise.resolve();
  const lines = createInterface({ input: process.stdin });
  lines.on("line", (line) => {
    const request = JSON.parse(line);
    if (request.method) chain = chain.then(() => answer(request));
  });
  lines.on("close", () => {
    // The engine keeps a connection open, so the process has to be told to end.
    chain.then(() => process.exit(0));
  });
}

async function answer({ id, method, params }) {
  try {
    send({ id, result: await call(method, params) });
  } catch (error) {
    const data = {
      is_panic: false,
      message: error?.message ?? String(error),
      error_code: error?.code ?? null,
      meta: null,
    };
    send({
      id,
      error: { code: 4466, message: "An error happened. Check the data field for details.", data },
    });
  }
}

let printed = 0;

async function call(method, params) {
  if (method === "createDatabase") return await createDatabase();
  const schemaEngine = await engine();
  if (method === "evaluateDataLoss" || method === "createMigration") {
    // Works round: these two get no shadow database in the WebAssembly build, but read the cache that
    // devDiagnostic fills.
    await schemaEngine.devDiagnostic({ migrationsList: params.migrationsList, filters: params.filters });
  }
  const result = await schemaEngine[method === "getDatabaseVersion" ? "version" : method](params);
  if (method === "diff" && result?.stdout != null) {
    // The native engine asks Prisma to print by a request of its own; the ids only have to differ from
    // Prisma's.
    send({ id: 1_000_000_000 + printed++, method: "print", params: { content: result.stdout } });
  }
  return result ?? {};
}

function send(message) {
  process.stdout.write(`${JSON.stringify({ jsonrpc: "2.0", ...message })}\n`);
}

let loading;

function engine() {
  loading ??= loadEngine();
  return loading;
}

async function loadEngine() {
  const bindings = await import("@prisma/schema-engine-wasm/schema_engine_bg");
  const file = new URL("schema_engine_bg.wasm", import.meta.resolve("@prisma/schema-engine-wasm"));
  const module = new WebAssembly.Module(await readFile(file));
  const instance = new WebAssembly.Instance(module, { "./schema_engine_bg.js": bindings });
  bindings.__wbg_set_wasm(instance.exports);
  instance.exports.__wbindgen_start();
  const schemas = await Promise.all(datamodels.map(async (path) => [path, await readFile(path, "utf8")]));
  return await bindings.SchemaEngine.new(
    { datamodels: schemas.length > 0 ? schemas : undefined },
    () => {},
    bindMigrationAwareSqlAdapterFactory(new AdapterFactory({ connectionString: datasource.url, max: 1 })),
  );
}

class AdapterFactory extends PrismaPg {
  async connect() {
    return mend(await super.connect());
  }

  // Works round: the adapter's own version hands the connection string on, so its "shadow" is the main
  // database.
  async connectToShadowDb() {
    if (datasource.shadowDatabaseUrl) return await connectTo(datasource.shadowDatabaseUrl);
    const name = `prisma_migrate_shadow_db_${crypto.randomUUID()}`;
    await withClient(inDatabase("postgres"), (client) => client.query(`CREATE DATABASE "${name}"`));
    const adapter = await connectTo(inDatabase(name));
    const dispose = adapter.dispose.bind(adapter);
    adapter.dispose = async () => {
      await dispose();
      await withClient(inDatabase("postgres"), (client) =>
        client.query(`DROP DATABASE IF EXISTS "${name}" WITH (FORCE)`),
      );
    };
    return adapter;
  }
}

async function connectTo(connectionString) {
  return mend(await new PrismaPg({ connectionString, max: 1 }).connect());
}

function mend(adapter) {
  const performIO = adapter.performIO.bind(adapter);
  const queryRaw = adapter.queryRaw.bind(adapter);

  // Works round: columns of type "char" (oid 18), of which the catalogs are full, have no mapping; read as
  // bpchar (1042) they do.
  adapter.queryRaw = async (query) => {
    const charColumns = [];
    adapter.performIO = async (io) => {
      const result = await performIO(io);
      for (const [index, field] of result.fields.entries()) {
        if (field.dataTypeID !== 18) continue;
        charColumns.push(index);
        field.dataTypeID = 1042;
      }
      return result;
    };
    try {
      const result = await queryRaw(query);
      for (const index of charColumns) result.columnTypes[index] = ColumnTypeEnum.Character;
      return result;
    } finally {
      adapter.performIO = performIO;
    }
  };

  // Works round: the adapter cuts scripts at every `;`, function bodies included. The server itself knows
  // where statements end.
  adapter.executeScript = async (script) => {
    try {
      await adapter.underlyingDriver().query(script);
    } catch (error) {
      adapter.onError(error);
    }
  };
  return adapter;
}

async function createDatabase() {
  const databaseName = decodeURIComponent(new URL(datasource.url).pathname.slice(1));
  await withClient(inDatabase("postgres"), async (client) => {
    const found = await client.query("SELECT 1 FROM pg_database WHERE datname = $1", [databaseName]);
    if (found.rowCount === 0) await client.query(`CREATE DATABASE ${client.escapeIdentifier(databaseName)}`);
  });
  return { databaseName };
}

function inDatabase(name) {
  const url = new URL(datasource.url);
  url.pathname = `/${name}`;
  url.searchParams.delete("schema");
  return url.href;
}

async function withClient(connectionString, work) {
  const client = new pg.Client({ connectionString });
  await client.connect();
  try {
    return await work(client);
  } finally {
    await client.end();
  }
}
