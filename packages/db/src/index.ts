export * from "../generated/prisma/client.ts";
export {
  type Database,
  databaseName,
  ensureDatabase,
  type OpenDatabaseOptions,
  openDatabase,
  withDatabase,
} from "./client.ts";
export {
  type EmbeddedPostgres,
  removePostgres,
  type StartPostgresOptions,
  startPostgres,
  stopPostgres,
} from "./embedded.ts";
export { DatabaseError, type DatabaseErrorCode } from "./errors.ts";
export { migrate, migrationsFolder } from "./migrate.ts";
