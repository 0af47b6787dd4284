import type { ChildProcess } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { mkdir, open, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { installed, type Network } from "./broadcast-net.ts";

/** What a broadcast took: when each receiver had everything, in seconds from the start, and what left the origin. */
export type Spread = { seconds: number[]; originBytes: number };

export type Peer = {
  name: string;
  /** Programs it needs and the Debian packages they are in. */
  needs: Readonly<Record<string, string>>;
  /** Receivers take from one another, so that the origin's line is not the whole story. */
  swarm: boolean;
  /** Sends `file` of `dir` from host 1 to all the others. */
  spread(input: { network: Network; dir: string; file: string; bytes: number }): Promise<Spread>;
};

const PATIENCE_MS = 120_000;

const curl: Peer = {
  name: "nginx + curl",
  needs: { nginx: "nginx-light", curl: "curl" },
  swarm: false,
  async spread({ network, dir, file }) {
    const config = join(dir, "nginx.conf");
    await writeFile(
      config,
      `daemon off; master_process off; pid ${dir}/nginx.pid; error_log stderr error; events { worker_connections 1024; }
       http { access_log off; sendfile on; tcp_nopush on; client_body_temp_path ${dir}/t1; proxy_temp_path ${dir}/t2;
       fastcgi_temp_path ${dir}/t3; uwsgi_temp_path ${dir}/t4; scgi_temp_path ${dir}/t5; server { listen 80; root ${dir}; } }`,
    );
    const server = network.start(1, ["nginx", "-e", "stderr", "-p", dir, "-c", config], { stdio: "ignore" });
    await ready();
    const url = `http://${network.address(1)}/${file}`;
    return await all(network, server, (host) =>
      exit(
        network.start(host, ["curl", "--fail", "--silent", "--output", "/dev/null", url], {
          stdio: "ignore",
        }),
      ),
    );
  },
};

const rsync: Peer = {
  name: "rsync daemon",
  needs: { rsync: "rsync" },
  swarm: false,
  async spread({ network, dir, file }) {
    const config = join(dir, "rsyncd.conf");
    await writeFile(
      config,
      `use chroot = no\nuid = 0\nmax connections = 0\n[store]\npath = ${dir}\nread only = yes\n`,
    );
    const server = network.start(1, ["rsync", "--daemon", "--no-detach", `--config=${config}`], {
      stdio: "ignore",
    });
    await ready();
    const url = `rsync://${network.address(1)}/store/${file}`;
    return await all(network, server, (host) =>
      exit(
        network.start(host, ["rsync", "--whole-file", url, join(dir, `got-${host}`)], { stdio: "ignore" }),
      ),
    );
  },
};

const aria2: Peer = {
  name: "aria2 (BitTorrent)",
  needs: { aria2c: "aria2" },
  swarm: true,
  async spread({ network, dir, file, bytes }) {
    const torrent = join(dir, "file.torrent");
    await writeFile(
      torrent,
      await describe(join(dir, file), file, bytes, `http://${network.address(1)}:6969/announce`),
    );
    const tracker = network.start(
      1,
      [
        process.execPath,
        fileURLToPath(new URL("broadcast-tracker.ts", import.meta.url)),
        String(network.hosts),
      ],
      { stdio: ["ignore", "pipe", "inherit"] },
    );
    await once(tracker.stdout!, "data");
    const hook = join(dir, "done.sh");
    await writeFile(hook, "#!/bin/sh\necho COMPLETE\n", { mode: 0o755 });
    const leech = (host: number, folder: string, ...more: string[]) =>
      network.start(
        host,
        [
          "aria2c",
          `--dir=${folder}`,
          "--enable-dht=false",
          "--enable-dht6=false",
          "--bt-enable-lpd=false",
          "--listen-port=6881",
          "--seed-ratio=0",
          "--file-allocation=none",
          "--bt-max-peers=0",
          "--bt-request-peer-speed-limit=1000M",
          "--summary-interval=0",
          "--show-console-readout=false",
          `--on-bt-download-complete=${hook}`,
          ...more,
          torrent,
        ],
        { stdio: ["ignore", "pipe", "ignore"] },
      );
    const seed = leech(1, dir, "--bt-seed-unverified=true");
    await ready();
    const leeches: ChildProcess[] = [];
    const spread = await all(network, seed, async (host) => {
      const folder = join(dir, `got-${host}`);
      await mkdir(folder);
      const child = leech(host, folder);
      leeches.push(child);
      await new Promise<void>((resolve, reject) => {
        child.stdout!.on("data", (text: Buffer) => {
          if (text.includes("COMPLETE")) resolve();
        });
        child.once("exit", (code) =>
          reject(new Error(`aria2c ended with ${code} before it had everything.`)),
        );
      });
    });
    for (const child of [tracker, ...leeches]) child.kill("SIGKILL");
    return spread;
  },
};

export const peers: readonly Peer[] = [curl, rsync, aria2];

/** Programs it lacks here, with their packages. */
export function missing(peer: Peer): string[] {
  return Object.entries(peer.needs)
    .filter(([program]) => !installed(program))
    .map(([program, debian]) => `${program} (apt-get install ${debian})`);
}

/** A file of random bytes, which no peer can compress. */
export async function writeRandom(path: string, bytes: number): Promise<void> {
  const random = await open("/dev/urandom");
  const file = await open(path, "w");
  try {
    const block = Buffer.alloc(4 * 2 ** 20);
    for (let left = bytes; left > 0; left -= block.length) {
      await random.read(block);
      await file.write(block, 0, Math.min(left, block.length));
    }
  } finally {
    await random.close();
    await file.close();
  }
}

/** Lets every host but the first take, and notes when each was done. */
async function all(
  network: Network,
  server: ChildProcess,
  take: (host: number) => Promise<void>,
): Promise<Spread> {
  const before = network.sent(1);
  const start = performance.now();
  const timer = AbortSignal.timeout(PATIENCE_MS);
  const late = new Promise<never>((_, reject) => {
    timer.onabort = () => reject(new Error(`Not done after ${PATIENCE_MS / 1000} s.`));
  });
  const seconds: number[] = [];
  try {
    const takes = Array.from({ length: network.hosts - 1 }, async (_, i) => {
      await take(i + 2);
      seconds.push((performance.now() - start) / 1000);
    });
    await Promise.race([Promise.all(takes), late]);
  } finally {
    timer.onabort = null;
    server.kill("SIGKILL");
  }
  return { seconds, originBytes: network.sent(1) - before };
}

async function exit(child: ChildProcess): Promise<void> {
  const [code] = (await once(child, "exit")) as [number | null];
  if (code !== 0) throw new Error(`${child.spawnargs.slice(6).join(" ")} ended with ${code}.`);
}

// None of these servers says when it listens.
async function ready(): Promise<void> {
  await new Promise((resolve) => setTimeout(resolve, 700));
}

/** A torrent of one file (BEP 3). */
async function describe(path: string, name: string, bytes: number, announce: string): Promise<Buffer> {
  const piece = 256 * 1024;
  const hashes: Buffer[] = [];
  const file = await open(path);
  try {
    const block = Buffer.alloc(piece);
    for (let offset = 0; offset < bytes; offset += piece) {
      const { bytesRead } = await file.read(block, 0, piece, offset);
      hashes.push(createHash("sha1").update(block.subarray(0, bytesRead)).digest());
    }
  } finally {
    await file.close();
  }
  const text = (value: string) => `${value.length}:${value}`;
  const pieces = Buffer.concat(hashes);
  return Buffer.concat([
    Buffer.from(
      `d${text("announce")}${text(announce)}${text("info")}d${text("length")}i${bytes}e${text("name")}${text(name)}${text("piece length")}i${piece}e${text("pieces")}${pieces.length}:`,
    ),
    pieces,
    Buffer.from("ee"),
  ]);
}

/** Removes what receivers wrote. */
export async function removeReceived(dir: string, hosts: number): Promise<void> {
  for (let host = 2; host <= hosts; host++)
    await rm(join(dir, `got-${host}`), { recursive: true, force: true });
}
