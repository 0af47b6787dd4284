import { arch, availableParallelism, cpus, platform, release, totalmem } from "node:os";

/** What a node says about its machine; shown, never relied on. */
export type Hardware = {
  os: string;
  arch: string;
  cpu: string;
  cores: number;
  memoryBytes: number;
  node: string;
  /** Execution providers, in the order they will be tried. */
  providers: readonly string[];
  /** Threads inside one operator. */
  threads: number;
};

export function describeHardware(input: { providers: readonly string[]; threads: number }): Hardware {
  return {
    os: `${platform()} ${release()}`,
    arch: arch(),
    cpu: cpus()[0]?.model.trim() ?? "unknown",
    cores: availableParallelism(),
    memoryBytes: totalmem(),
    node: process.version,
    providers: input.providers,
    threads: input.threads,
  };
}
