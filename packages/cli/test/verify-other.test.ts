import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { expect, test } from "vitest";
import { groupId, makeBundle } from "./evidence.ts";
import { muster } from "./muster.ts";

test("a coordinator that answers with the bundle of another group is found out", async () => {
  const honest = await makeBundle();
  const server = createServer((request, response) => {
    if (request.url?.startsWith("/evidence/")) return response.end(honest.bytes);
    response.setHeader("content-type", "application/json");
    response.end(JSON.stringify({ data: { coordinator: { publicKey: honest.coordinator } } }));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  try {
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    const asked = groupId.replace(/.$/, (last) => (last === "5" ? "6" : "5"));
    const { status, stdout, stderr } = await muster([
      ...["verify", asked, "--no-measure", "--json"],
      ...["--url", url, "--api-key", "mk_test"],
    ]);
    expect(JSON.parse(stderr).error).toMatchObject({ code: "WRONG_GROUP" });
    expect({ status, stdout }).toEqual({ status: 1, stdout: "" });
  } finally {
    server.close();
  }
});
