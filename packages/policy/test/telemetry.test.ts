import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { type AddressInfo, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";

// onnxruntime's build brings its maker's telemetry: it opens a log in the temporary folder when the first session is made, and some nine
// seconds later it connects to mobile.events.data.microsoft.com, through a proxy where one is named. That it does not connect has no moment
// to wait for, so the process lives longer than that.
const outlast = 13_000;

const program = `
  const { Policy, initialParameters } = await import(${JSON.stringify(new URL("../src/index.ts", import.meta.url).href)});
  const { demoModel } = await import(${JSON.stringify(new URL("support/models.ts", import.meta.url).href)});
  const policy = await Policy.open({ model: demoModel, providers: ["cpu"] });
  await policy.load(initialParameters(demoModel, [1, 2]));
  await new Promise((resolve) => setTimeout(resolve, ${outlast}));
  await policy.close();
  console.log("done");
`;

test("onnxruntime reports to nobody: it leaves no log and opens no connection", async () => {
  const folder = await mkdtemp(join(tmpdir(), "muster-telemetry-"));
  const asked: string[] = [];
  const proxy = createServer((socket) => {
    socket.on("error", () => {});
    socket.once("data", (bytes) => {
      asked.push(bytes.toString("latin1").split("\r\n")[0] ?? "");
      socket.destroy();
    });
  });
  await once(proxy.listen(0, "127.0.0.1"), "listening");
  // A listening TCP server has such an address.
  const url = `http://127.0.0.1:${(proxy.address() as AddressInfo).port}`;
  try {
    const { ORT_DISABLE_TELEMETRY: _, NO_PROXY: __, no_proxy: ___, ...env } = process.env;
    const child = spawn(process.execPath, ["--input-type=module", "-e", program], {
      env: { ...env, TMPDIR: folder, https_proxy: url, HTTPS_PROXY: url, http_proxy: url, ALL_PROXY: url },
      stdio: ["ignore", "pipe", "inherit"],
    });
    let said = "";
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      said += text;
    });
    await once(child, "close");
    expect(said).toBe("done\n");
    expect(await readdir(folder)).toEqual([]);
    expect(asked).toEqual([]);
  } finally {
    proxy.close();
    await rm(folder, { recursive: true, force: true });
  }
}, 60_000);
