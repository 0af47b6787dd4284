// Every domain adds its types and fields to the builder when it is imported.
import "./graphql/scalars.ts";
import "./auth/schema.ts";
import "./organizations/schema.ts";
import "./nodes/schema.ts";
import "./events/schema.ts";
import "./blobs/schema.ts";
import "./runs/schema.ts";
import "./tasks/schema.ts";
import "./training/schema.ts";
import "./broadcast/schema.ts";
import "./rollouts/schema.ts";
import "./verification/schema.ts";
import "./verification/audit-schema.ts";
import "./verification/case-schema.ts";
import "./verification/reexecution-schema.ts";
import "./verification/calibration-schema.ts";
import "./ledger/schema.ts";
import "./alerts/schema.ts";
import "./webhooks/schema.ts";
import type { GraphQLSchema } from "graphql";
import { builder } from "./builder.ts";

/** The coordinator's GraphQL schema. */
export const schema: GraphQLSchema = builder.toSchema();
