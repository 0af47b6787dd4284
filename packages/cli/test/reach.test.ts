import { expect, test } from "vitest";
import { type ReachOptions, reachOf } from "../src/index.ts";

const here: ReachOptions = {
  host: "127.0.0.1",
  port: 4000,
  dashboardPort: 4001,
  publicUrl: undefined,
  dashboardUrl: undefined,
  plainHttp: false,
  trustProxy: undefined,
};
const reach = (options: Partial<ReachOptions>) => reachOf({ ...here, ...options }, () => "192.0.2.7");

test("left alone, everything is on this machine and for it", () => {
  expect(reach({})).toMatchObject({
    publicUrl: "http://127.0.0.1:4000",
    dashboardUrl: "http://127.0.0.1:4001",
    dashboardApi: "http://127.0.0.1:4000",
    plainHttp: false,
    trustProxy: false,
    open: false,
  });
});

test("in a trusted network others are told this machine's address, its own processes stay on loopback", () => {
  expect(reach({ host: "0.0.0.0", plainHttp: true })).toMatchObject({
    host: "0.0.0.0",
    localUrl: "http://127.0.0.1:4000",
    publicUrl: "http://192.0.2.7:4000",
    dashboardUrl: "http://192.0.2.7:4001",
    dashboardApi: "http://192.0.2.7:4000",
    plainHttp: true,
    open: true,
  });
  expect(reach({ host: "0.0.0.0", plainHttp: true, publicUrl: "http://gpu-box.lan:4000" }).dashboardUrl).toBe(
    "http://gpu-box.lan:4001",
  );
});

test("behind a TLS proxy on this machine one origin serves both, and the proxy is believed", () => {
  expect(reach({ publicUrl: "https://muster.example/" })).toMatchObject({
    host: "127.0.0.1",
    publicUrl: "https://muster.example",
    dashboardUrl: "https://muster.example",
    dashboardApi: "/",
    trustProxy: true,
    open: true,
  });
});

test("a dashboard under another name calls the coordinator by its address", () => {
  const found = reach({ publicUrl: "https://api.example", dashboardUrl: "https://muster.example" });
  expect(found).toMatchObject({
    dashboardUrl: "https://muster.example",
    dashboardApi: "https://api.example",
  });
});

test.each([
  ["all addresses without TLS and without a word", { host: "0.0.0.0" }, "over TLS only"],
  ["a public address without TLS", { publicUrl: "http://muster.example" }, "has no TLS"],
  ["one address, where its own nodes would not find it", { host: "192.0.2.7" }, "0.0.0.0"],
  ["a path, which nothing serves", { publicUrl: "https://muster.example/api" }, "without a path"],
  ["an address that is none", { publicUrl: "muster.example" }, "--public-url"],
  [
    "a proxy elsewhere that nobody said to believe",
    { host: "0.0.0.0", publicUrl: "https://muster.example" },
    "--trust-proxy",
  ],
] satisfies [string, Partial<ReachOptions>, string][])("refused: %s", (_what, options, said) => {
  expect(() => reach(options)).toThrow(said);
});
