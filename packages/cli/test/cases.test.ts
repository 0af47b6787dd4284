import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { expect, test } from "vitest";
import { muster } from "./muster.ts";

const found = {
  id: "case_01h455vb4pex5vsknk084sn02q",
  state: "OPEN",
  reason: "3 of 56 tokens are not what the seed draws.",
  statement: "My key was stolen.\u001b[2J",
  openedAt: "2026-01-02T03:04:05.678Z",
  openUntil: "2026-01-03T03:04:05.678Z",
  disputedAt: "2026-01-02T04:04:05.678Z",
  confirmed: true,
  decision: null,
  decidedAt: null,
  evidence: "/evidence/group_01h455vb4pex5vsknk084sn02q",
  group: { id: "group_01h455vb4pex5vsknk084sn02q", index: 3, policyVersion: 7, prompt: "528140=" },
  node: { id: "node_01h455vb4pex5vsknk084sn02q", name: "amber" },
};

type Asked = { operationName: string; variables: Record<string, unknown> };

/** A coordinator that answers each operation with its data, and what it was asked. */
async function coordinator(answers: Record<string, unknown>) {
  const asked: Asked[] = [];
  const server = createServer((request, response) => {
    let body = "";
    request.setEncoding("utf8").on("data", (text: string) => {
      body += text;
    });
    request.on("end", () => {
      const { operationName, variables } = JSON.parse(body) as Asked;
      asked.push({ operationName, variables });
      response.setHeader("content-type", "application/json");
      response.end(JSON.stringify({ data: answers[operationName] }));
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  return {
    asked,
    url: `http://127.0.0.1:${port}`,
    [Symbol.asyncDispose]: () => new Promise<void>((resolve) => server.close(() => resolve())),
  };
}

test("a case is told with its state, what the accused says and how to check it", async () => {
  await using server = await coordinator({ Case: { node: found } });
  const { status, stdout } = await muster(["cases", "show", found.id, "--url", server.url]);
  expect(stdout).toMatch(/^ {2}accused +amber \(node_/m);
  expect(stdout).toMatch(/^ {2}measured again +another validator finds the same$/m);
  expect(stdout).toMatch(/^ {2}disputed +2026-01-02T04:04:05.678Z: My key was stolen\.$/m);
  expect(stdout).toMatch(/^ {2}decided +not yet$/m);
  expect(stdout).toContain(`npm run muster -- verify ${found.group.id}`);
  expect(status).toBe(0);
});

test("a decision reaches the coordinator as it was given", async () => {
  const decided = { ...found, state: "OVERTURNED", decision: "It was a fault of ours." };
  await using server = await coordinator({ DecideCase: { decideCase: decided } });
  const reason = "It was a fault of ours.";
  const { status, stdout } = await muster([
    ...["cases", "decide", found.id, "overturned", "--reason", reason],
    ...["--url", server.url, "--json"],
  ]);
  expect(server.asked).toEqual([
    { operationName: "DecideCase", variables: { input: { case: found.id, decision: "OVERTURNED", reason } } },
  ]);
  expect(JSON.parse(stdout)).toMatchObject({ id: found.id, state: "OVERTURNED" });
  expect(status).toBe(0);
});

test("a case that is not there exits with 3", async () => {
  await using server = await coordinator({ Case: { node: null } });
  const { status, stderr } = await muster(["cases", "show", found.id, "--url", server.url]);
  expect(stderr).toContain("There is no case");
  expect(status).toBe(3);
});
