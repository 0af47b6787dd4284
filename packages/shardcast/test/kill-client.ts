// A client as a process of its own, to be killed: downloads one checkpoint into a cache, and says when it begins and ends.
import { createDownloader } from "../src/download.ts";

const [cacheDir = "", manifestHash = "", url = ""] = process.argv.slice(2);

const downloader = createDownloader({
  cacheDir,
  relays: async () => [
    { id: "a", url: `${url}/a` },
    { id: "b", url: `${url}/b` },
  ],
  origin: async ({ sha256, signal }) => {
    const response = await fetch(`${url}/origin/blobs/${sha256}`, signal ? { signal } : {});
    return new Uint8Array(await response.arrayBuffer());
  },
});
process.stdout.write("begun\n");
const found = await downloader.open({ manifestHash });
process.stdout.write(`${found.path("model.safetensors")}\n`);
