import { LedgerKind } from "@muster/db";
import { allows } from "../auth/permissions.ts";
import { builder } from "../builder.ts";
import { Run } from "../runs/schema.ts";
import { budgetOf } from "./ledger.ts";

const LedgerKindEnum = builder.enumType(LedgerKind, { name: "LedgerKind" });

builder.prismaNode("LedgerTransaction", {
  id: { field: "id" },
  authScopes: (transaction, ctx) => allows(ctx.actor, "ledger:read", transaction.organizationId),
  fields: (t) => ({
    kind: t.expose("kind", { type: LedgerKindEnum }),
    memo: t.exposeString("memo"),
    createdAt: t.expose("createdAt", { type: "DateTime" }),
    entries: t.relation("entries"),
  }),
});

builder.prismaNode("LedgerEntry", {
  id: { field: "id" },
  authScopes: (entry, ctx) => allows(ctx.actor, "ledger:read", entry.organizationId),
  fields: (t) => ({
    account: t.string({
      select: { account: { select: { key: true } } },
      resolve: (entry) => entry.account.key,
    }),
    amount: t.expose("amount", {
      type: "BigInt",
      description: "Micro-credits; the entries of a transaction sum to zero.",
    }),
  }),
});

const Budget = builder.objectRef<Awaited<ReturnType<typeof budgetOf>>>("Budget").implement({
  description: "A run's money in micro-credits.",
  authScopes: { can: "ledger:read" },
  fields: (t) => ({
    funded: t.expose("funded", { type: "BigInt" }),
    available: t.expose("available", { type: "BigInt", description: "Not yet promised to anyone." }),
    held: t.expose("held", {
      type: "BigInt",
      description: "Promised for accepted groups that are not final.",
    }),
    paid: t.expose("paid", { type: "BigInt" }),
  }),
});

builder.prismaObjectFields(Run, (t) => ({
  budget: t.field({
    type: Budget,
    authScopes: { can: "ledger:read" },
    select: { id: true },
    resolve: (run, _args, ctx) => budgetOf(ctx.prisma, run.id),
  }),
  ledger: t.prismaConnection({
    type: "LedgerTransaction",
    cursor: "id",
    description: "Ledger transactions of the run, newest first.",
    authScopes: { can: "ledger:read" },
    resolve: (query, run, _args, ctx) =>
      ctx.prisma.ledgerTransaction.findMany({ ...query, where: { runId: run.id }, orderBy: { id: "desc" } }),
  }),
}));
