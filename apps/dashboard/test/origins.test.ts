import { expect, test } from "vitest";
import { apiAddress, loopbackHost, readApiUrl } from "../src/api-url.ts";
import { safeNext } from "../src/features/session/auth.ts";
import { contentSecurityPolicy, staticFilesPolicy } from "../src/security-headers.ts";

test("the coordinator's address comes from the environment, absolute or as a path behind a proxy", () => {
  expect(readApiUrl({})).toBe("http://127.0.0.1:4000");
  expect(readApiUrl({ MUSTER_API_URL: "https://api.example.org/" })).toBe("https://api.example.org");
  expect(readApiUrl({ MUSTER_API_URL: "/" })).toBe("/");
  expect(readApiUrl({ MUSTER_API_URL: "/api/" })).toBe("/api");
  for (const wrong of ["ftp://x", "//evil.example", "nonsense"]) {
    expect(() => readApiUrl({ MUSTER_API_URL: wrong })).toThrow("MUSTER_API_URL");
  }
});

test("sockets use the coordinator's scheme and host", () => {
  expect(apiAddress("https://api.example.org", "https://d.example.org").socket).toBe(
    "wss://api.example.org/graphql",
  );
  expect(apiAddress("/", "http://localhost:8080").graphql).toBe("http://localhost:8080/graphql");
  expect(apiAddress("/api", "https://one.example.org").socket).toBe("wss://one.example.org/api/graphql");
});

test("a page under another name of the same machine is sent to the name the cookie belongs to", () => {
  expect(loopbackHost("http://127.0.0.1:4000", "localhost:4001")).toBe("127.0.0.1:4001");
  expect(loopbackHost("http://localhost:4000", "127.0.0.1:4001")).toBe("localhost:4001");
  expect(loopbackHost("http://127.0.0.1:4000", "127.0.0.1:4001")).toBeUndefined();
  expect(loopbackHost("https://api.example.org", "localhost:4001")).toBeUndefined();
  expect(loopbackHost("/", "localhost:4001")).toBeUndefined();
});

test("the policy names the coordinator and nobody else", () => {
  const policy = contentSecurityPolicy({ nonce: "n", apiUrl: "http://127.0.0.1:4000", development: false });
  expect(policy).toContain("connect-src 'self' http://127.0.0.1:4000 ws://127.0.0.1:4000;");
  expect(policy).not.toContain("unsafe-eval");
  expect(policy).toMatch(/script-src 'self' 'nonce-n' 'strict-dynamic';/);
  expect(contentSecurityPolicy({ nonce: "n", apiUrl: "/", development: false })).toContain(
    "connect-src 'self';",
  );
});

test("no page runs WebAssembly, and the thread that does can reach nothing but this origin", () => {
  const policy = contentSecurityPolicy({ nonce: "n", apiUrl: "http://127.0.0.1:4000", development: false });
  expect(policy).not.toContain("wasm");
  expect(policy).toContain("worker-src 'self';");
  expect(staticFilesPolicy).toBe(
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; connect-src 'self'",
  );
});

test("after signing in one lands on a path of this origin only", () => {
  expect(safeNext("/runs/run_1?tab=events")).toBe("/runs/run_1?tab=events");
  for (const wrong of [
    null,
    "",
    "https://evil.example",
    "//evil.example",
    "/\\evil.example",
    "/sign-in?next=/x",
    "javascript:alert(1)",
  ]) {
    expect([wrong, safeNext(wrong)]).toEqual([wrong, "/runs"]);
  }
});
