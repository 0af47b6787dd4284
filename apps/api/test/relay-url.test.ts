import { expect, test } from "vitest";
import { readRelayUrl } from "../src/broadcast/relay-url.ts";
import { type Config, readConfig } from "../src/config.ts";
import { reachOf } from "../src/http/outbound.ts";

const config = readConfig({
  DATABASE_URL: "postgres://nowhere",
  MUSTER_SECRET: "a secret for tests that nobody else uses",
});
const code = (expected: string) => expect.objectContaining({ code: expected });

const read = (
  url: string,
  over: Partial<Config> = {},
  publicUrl = "http://127.0.0.1:4000",
  template = false,
) => readRelayUrl({ config: { ...config, ...over }, publicUrl }, url, { template });

test("is http or https, with a host and perhaps a path, written one way", () => {
  expect(read("https://relay.example/")).toBe("https://relay.example");
  expect(read("HTTPS://Relay.Example:443/a/b/")).toBe("https://relay.example/a/b");
  expect(read("http://127.0.0.1:4010")).toBe("http://127.0.0.1:4010");
  expect(read("https://cdn.example/{ab}/{sha256}", {}, undefined, true)).toBe(
    "https://cdn.example/{ab}/{sha256}",
  );
});

test.each([
  "",
  "relay.example",
  "ftp://relay.example",
  "file:///etc/passwd",
  "https://user:secret@relay.example",
  "https://relay.example/?a=1",
  "https://relay.example/#a",
  "https://relay.example/{sha256}",
  `https://relay.example/${"a".repeat(512)}`,
  "https://relay.example/a b",
  "javascript:alert(1)",
])("%j is none", (url) => {
  expect(() => read(url)).toThrow(code("INPUT_INVALID"));
});

test.each(["https://{sha256}.cdn.example/", "https://cdn.example/{ab}", "https://cdn.example/{other}"])(
  "%j is no mirror's",
  (url) => {
    expect(() => read(url, {}, undefined, true)).toThrow(code("INPUT_INVALID"));
  },
);

const own = [
  "http://127.0.0.1:1",
  "http://localhost:1",
  "http://[::1]:1",
  "https://10.0.0.1",
  "https://192.168.1.1",
  "https://172.16.0.1",
  "https://100.64.0.1",
  "https://[fd00::1]",
  "https://[::ffff:10.0.0.1]",
  "https://2130706433",
  "https://0x7f.1",
];
test.each(own)(
  "%s is reached only where the coordinator itself is of that kind, or its operator allows it",
  (url) => {
    const open = "https://muster.example";
    expect(() => read(url, {}, open)).toThrow(code("INPUT_INVALID"));
    expect(() => read(url, { privateRelays: false })).toThrow(code("INPUT_INVALID"));
    expect(read(url, {}, "http://10.1.1.1:4000")).toBeTruthy();
    expect(read(url, { privateRelays: true }, open)).toBeTruthy();
  },
);

test.each([
  "https://169.254.169.254",
  "https://[fe80::1]",
  "https://0.0.0.0",
  "https://[::]",
  "https://224.0.0.1",
  "https://[64:ff9b::a9fe:a9fe]",
  "https://[2002:a9fe:a9fe::1]",
  "https://[::ffff:169.254.169.254]",
])("%s is reached by nobody", (url) => {
  expect(() => read(url, { privateRelays: true })).toThrow(code("INPUT_INVALID"));
});

test("is https beyond this machine, unless plain http is allowed", () => {
  expect(() => read("http://relay.example")).toThrow(code("TLS_REQUIRED"));
  expect(() => read("http://10.0.0.1")).toThrow(code("TLS_REQUIRED"));
  expect(read("http://relay.example", { plainHttp: true })).toBe("http://relay.example");
});

test("no address leads elsewhere than it seems", () => {
  expect(["8.8.8.8", "2606:4700::1111", "172.32.0.1"].map(reachOf)).toEqual(["public", "public", "public"]);
  expect(["::ffff:127.0.0.1", "::1", "nonsense"].map(reachOf)).toEqual(["loopback", "loopback", "never"]);
});
