import { toTypeId } from "@muster/protocol";
import { auditChainFault, judgeEvidence, openEvidence } from "@muster/verification";
import { describe, expect, test } from "vitest";
import { chainEntries } from "../src/verification/record.ts";
import { anonymous, type Caller } from "./testkit.ts";
import { accused, casesOf, generate, measure, startWatching, watchedRun } from "./watchkit.ts";

// What anyone may check of a verdict without believing the coordinator.

const { server, packs } = await startWatching();

const decide = (as: Caller, caseId: string, decision: string) =>
  server.graphql<{ decideCase: { state: string } }>(
    "mutation($input: DecideCaseInput!) { decideCase(input: $input) { state } }",
    { input: { case: caseId, decision, reason: "We looked at it together." } },
    as,
  );

describe("the audit log", () => {
  test("is a chain from the first verdict to the last decision, and a change anywhere breaks it", async () => {
    const run = await watchedRun(server);
    await accused(server, run, packs);
    await measure(server, run, packs, run.validator);
    const [one] = await casesOf(server, run);
    if (one === undefined) throw new Error("no case");
    await decide(run.organization.owner, one.id, "OVERTURNED");
    while ((await chainEntries(server.services)) > 0);
    type Entry = { seq: string; kind: string; subject: string; data: never; at: string; hash: string };
    const { run: answer } = await server.ask<{
      run: { auditLog: { edges: { node: Entry }[] }; auditHead: { seq: string; hash: string } };
    }>(
      `query($id: ID!) { run(id: $id) { auditHead { seq hash }
        auditLog(first: 100) { edges { node { seq kind subject data at hash } } } } }`,
      { id: run.typeId },
      run.organization.owner,
    );
    const entries = answer.auditLog.edges.map(({ node }) => ({ ...node, seq: Number(node.seq) }));
    expect(auditChainFault(run.typeId, entries)).toBeNull();
    expect(answer.auditHead).toEqual({ seq: String(entries.length), hash: entries.at(-1)?.hash });
    expect(new Set(entries.map(({ kind }) => kind))).toEqual(
      new Set(["verdict.rejected", "case.opened", "probe.decided", "case.confirmed", "case.decided"]),
    );
    const changed = entries.map((entry, i) => (i === 1 ? { ...entry, kind: "verdict.accepted" } : entry));
    expect(auditChainFault(run.typeId, changed)).toContain("Entry 2");
    expect(auditChainFault(run.typeId, entries.toSpliced(1, 1))).toContain("Entry 2");
    expect(auditChainFault((await watchedRun(server)).typeId, entries)).toContain("Entry 1");
    await expect(
      server.prisma.auditEntry.updateMany({ where: { runId: run.id, seq: 1n }, data: { kind: "x" } }),
    ).rejects.toThrow(/append/);
    const outsider = await server.organization();
    const refused = await server.graphql(
      "query($id: ID!) { run(id: $id) { auditHead { seq } } }",
      { id: run.typeId },
      outsider.owner,
    );
    expect(refused.data?.run ?? null).toBeNull();
  });
});

describe("evidence", () => {
  const fetchEvidence = (groupId: string, as: Caller) =>
    fetch(`${server.url}/evidence/${toTypeId("group", groupId)}`, { headers: as.headers });

  test("of a rejected group opens with the coordinator's published key and judges the same again, anywhere", async () => {
    const run = await watchedRun(server);
    const { groups, cases } = await accused(server, run, packs);
    const [groupId = ""] = groups;
    expect(cases.map(({ evidence }) => evidence)).toContain(`/evidence/${toTypeId("group", groupId)}`);
    const response = await fetchEvidence(groupId, run.organization.owner);
    expect(response.status).toBe(200);
    const evidence = openEvidence(new Uint8Array(await response.arrayBuffer()));
    const { coordinator } = await server.ask<{ coordinator: { publicKey: string } }>(
      "{ coordinator { publicKey } }",
    );
    expect(evidence.header.coordinator).toBe(coordinator.publicKey);
    expect(evidence.header.worker).toMatchObject({
      node: run.worker.typeId,
      publicKey: run.worker.publicKey,
    });
    expect(evidence.header.validator).toMatchObject({ node: run.validator.typeId });
    expect(evidence.checkpoint).not.toBeNull();
    const judged = judgeEvidence(evidence);
    expect(judged.differences).toEqual([]);
    expect(judged.decision.verdict).toBe("REJECTED");
  });

  test("is for the organizer, and for the node that made the group once it is decided; for nobody else", async () => {
    const run = await watchedRun(server);
    const [groupId = ""] = await generate(server, run, packs);
    expect((await fetchEvidence(groupId, run.organization.owner)).status).toBe(200);
    expect((await fetchEvidence(groupId, run.worker)).status).toBe(403);
    await measure(server, run, packs, run.validator);
    expect((await fetchEvidence(groupId, run.worker)).status).toBe(200);
    expect((await fetchEvidence(groupId, run.validator)).status).toBe(404);
    expect((await fetchEvidence(groupId, await server.node())).status).toBe(404);
    expect((await fetchEvidence(groupId, (await server.organization()).owner)).status).toBe(404);
    expect((await fetchEvidence(groupId, anonymous)).status).toBe(401);
    expect((await fetch(`${server.url}/evidence/nonsense`, { headers: run.worker.headers })).status).toBe(
      400,
    );
  });
});
