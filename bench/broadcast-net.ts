import { type ChildProcess, execFileSync, type SpawnOptions, spawn } from "node:child_process";
import { readFileSync } from "node:fs";

/** Hosts with a shaped line each, in network namespaces of their own; the machine's own network is not touched. */
export type Network = {
  hosts: number;
  /** Bits per second of each direction. */
  rate: number;
  address(host: number): string;
  /** Starts a program as if on that host; it does not outlive this process. */
  start(host: number, argv: readonly string[], options?: SpawnOptions): ChildProcess;
  /** Bytes that a host has put on its line since it exists, every frame's head included. */
  sent(host: number): number;
  /** Packets that some queue had no room for. */
  dropped(): number;
  /** Ends what runs there and removes the namespaces. Synchronous, so that an exiting process can call it. */
  close(): void;
};

const PREFIX = "muster-bench-";
const QUEUE_BYTES = 16 * 2 ** 20;

/**
 * Every host hangs on one bridge by a pair of virtual interfaces. `tbf` limits both directions of it: what the host sends at the host,
 * what it receives at the bridge. Rates only: no latency, no loss.
 * @param rate bits per second of each direction.
 */
export function openNetwork({ hosts, rate }: { hosts: number; rate: number }): Network {
  const prefix = `${PREFIX}${process.pid}-`;
  const bridge = `${prefix}bridge`;
  const name = (host: number) => `${prefix}${host}`;
  const address = (host: number) => `10.77.${host >> 8}.${host & 255}`;
  const mac = (host: number) =>
    `02:00:00:00:${[host >> 8, host & 255].map((byte) => byte.toString(16).padStart(2, "0")).join(":")}`;
  const others = (host: number) =>
    Array.from({ length: hosts }, (_, i) => i + 1).filter((other) => other !== host);
  const started = new Set<ChildProcess>();
  const names = [bridge, ...Array.from({ length: hosts }, (_, i) => name(i + 1))];

  // A bucket that holds the largest packet of segmentation offload, so that it need not be cut, and a queue that holds what some dozens of
  // sockets put there at once: a host waits for its own line, it does not lose packets on it.
  const bucket = Math.max(128 * 1024, Math.round(rate / 8 / 250));
  const shape = `root tbf rate ${rate}bit burst ${bucket} limit ${bucket + QUEUE_BYTES}`;

  const close = () => {
    for (const child of started) child.kill("SIGKILL");
    for (const namespace of names) removeNamespace(namespace);
  };
  try {
    batch(
      [],
      names.map((namespace) => `netns add ${namespace}`),
    );
    for (const namespace of names) setUp(namespace);
    batch(
      ["-n", bridge],
      ["link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0", "link set br0 up"],
    );
    for (let host = 1; host <= hosts; host++) {
      batch(
        ["-n", bridge],
        [
          `link add p${host} type veth peer name eth0 address ${mac(host)} netns ${name(host)}`,
          `link set p${host} master br0`,
          `link set p${host} up`,
        ],
      );
      batch(
        ["-n", name(host)],
        [
          "link set lo up",
          "link set eth0 up",
          `address add ${address(host)}/16 dev eth0`,
          // Linux's own default, whatever the machine around it has chosen
          `route change 10.77.0.0/16 dev eth0 proto kernel scope link src ${address(host)} congctl cubic`,
          // known beforehand: all of them together have more neighbours than the machine's table holds by itself
          ...others(host).map((other) => `neighbour add ${address(other)} lladdr ${mac(other)} dev eth0`),
        ],
      );
      run("tc", ["-n", name(host), ..."qdisc add dev eth0".split(" "), ...shape.split(" ")]);
      run("tc", ["-n", bridge, ...`qdisc add dev p${host}`.split(" "), ...shape.split(" ")]);
    }
  } catch (cause) {
    close();
    throw cause;
  }

  return {
    hosts,
    rate,
    address,
    start(host, argv, options = {}) {
      const child = spawn(
        "ip",
        ["netns", "exec", name(host), "setpriv", "--pdeathsig", "KILL", ...argv],
        options,
      );
      started.add(child);
      child.once("exit", () => started.delete(child));
      return child;
    },
    sent(host) {
      const [line] = queues(name(host)).filter(({ kind }) => kind === "tbf");
      return line?.bytes ?? 0;
    },
    dropped() {
      return names.flatMap(queues).reduce((sum, { drops }) => sum + drops, 0);
    },
    close,
  };
}

/** Why there can be no network here, or undefined. */
export function whyNoNetwork(): string | undefined {
  if (process.platform !== "linux") return "Network namespaces need Linux.";
  if (process.getuid?.() !== 0)
    return "Network namespaces need root; run it with sudo, or in a container with --privileged.";
  for (const program of ["ip", "tc", "setpriv"]) {
    if (!installed(program)) return `${program} is missing; install the packages iproute2 and util-linux.`;
  }
  try {
    const probe = `${PREFIX}${process.pid}-probe`;
    run("ip", ["netns", "add", probe]);
    removeNamespace(probe);
  } catch (cause) {
    return `A network namespace cannot be made here: ${cause instanceof Error ? cause.message : String(cause)}`;
  }
  return undefined;
}

export function installed(program: string): boolean {
  try {
    execFileSync("which", [program], { stdio: "ignore" });
    return true;
  } catch {
    return false;
  }
}

/** Removes what a run that was killed left behind. */
export function removeLeftovers(): void {
  for (const line of run("ip", ["netns", "list"]).split("\n")) {
    const namespace = line.split(" ")[0] ?? "";
    if (!namespace.startsWith(PREFIX)) continue;
    const owner = Number(namespace.slice(PREFIX.length).split("-")[0]);
    if (!isRunning(owner)) removeNamespace(namespace);
  }
}

/** Time of all processors together since the machine was started, in ticks; what a machine around it took away is busy. */
export function machineTime(): { busy: number; idle: number } {
  const line = readFileSync("/proc/stat", "utf8").split("\n")[0]!;
  // user nice system idle iowait irq softirq steal; guests are within user
  const ticks = line.split(/\s+/).slice(1, 9).map(Number);
  const all = ticks.reduce((sum, value) => sum + value, 0);
  const idle = ticks[3]! + ticks[4]!;
  return { busy: all - idle, idle };
}

/** Part of the time between two readings in which the processors were busy. */
export function busyShare(from: { busy: number; idle: number }, to: { busy: number; idle: number }): number {
  const busy = to.busy - from.busy;
  return busy / Math.max(1, busy + to.idle - from.idle);
}

function queues(namespace: string): { kind: string; bytes: number; drops: number }[] {
  return JSON.parse(run("tc", ["-n", namespace, "-j", "-s", "qdisc", "show"])) as {
    kind: string;
    bytes: number;
    drops: number;
  }[];
}

export function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

function removeNamespace(namespace: string): void {
  try {
    // those that its programs started are not ours to know one by one
    for (const pid of run("ip", ["netns", "pids", namespace]).split("\n").filter(Boolean)) {
      try {
        process.kill(Number(pid), "SIGKILL");
      } catch {
        // it ended by itself
      }
    }
    run("ip", ["netns", "delete", namespace]);
  } catch {
    // it was never made
  }
}

/**
 * `tcp_tso_rtt_log`: by itself Linux gives a connection that was opened on an idle line twenty times as much room in its queue as one that
 * was opened on a busy line, as long as the idle line has no latency. On real lines, which have some, both get the same.
 */
function setUp(namespace: string): void {
  const settings = { "ipv4/tcp_tso_rtt_log": 31, "ipv6/conf/default/disable_ipv6": 1 };
  const script = Object.entries(settings)
    .map(([name, value]) => `[ ! -e /proc/sys/net/${name} ] || echo ${value} > /proc/sys/net/${name}`)
    .join("; ");
  run("ip", ["netns", "exec", namespace, "sh", "-c", script]);
}

function batch(options: string[], lines: string[]): void {
  run("ip", [...options, "-batch", "-"], `${lines.join("\n")}\n`);
}

function run(program: string, args: string[], input?: string): string {
  return execFileSync(program, args, {
    input: input ?? "",
    encoding: "utf8",
    stdio: ["pipe", "pipe", "pipe"],
  });
}
