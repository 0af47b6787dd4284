import { encodeManifest, type Manifest, manifestHash } from "@muster/protocol";

/** How a checkpoint's `model.safetensors` is to be had. */
export type Path =
  | { layout: "FULL"; bytes: number }
  | {
      layout: "DELTA";
      /** Manifest hash of the checkpoint on this machine that the first delta changes. */
      from: string;
      /** Manifest hashes of the checkpoints whose deltas follow each other, oldest first; the last is the one that is wanted. */
      steps: string[];
      bytes: number;
    };

type Shards = readonly { sha256: string; size: number }[];

/**
 * The way that needs the fewest bytes, which `bytes` says, files beside the weights included: the checkpoint's own shards, or the
 * deltas from one of the ancestors that its manifest names. Between equals the whole checkpoint, then the shorter way.
 * @param input.cached whether the checkpoint with this manifest hash is on this machine.
 * @param input.bytesToFetch bytes of those of these shards that are not on this machine.
 */
export function choosePath(input: {
  manifest: Manifest;
  cached: (manifestHash: string) => boolean;
  bytesToFetch: (shards: Shards) => number;
}): Path {
  const { manifest, cached, bytesToFetch } = input;
  const { files, delta } = manifest;
  let best: Path = { layout: "FULL", bytes: bytesToFetch(files.flatMap(({ shards }) => shards)) };
  if (delta === null) return best;
  const others = files.filter(({ name }) => name !== "model.safetensors").flatMap(({ shards }) => shards);
  // What a manifest between costs is known only when it is here; they are of one family, so it is about as large as this one.
  const manifestBytes = encodeManifest(manifest).length;
  const steps = [manifestHash(manifest)];
  let bytes = bytesToFetch([...others, ...delta.file.shards]);
  for (const [i, ancestor] of delta.chain.entries()) {
    if (i > 0) bytes += ancestor.bytes + manifestBytes;
    if (bytes >= best.bytes) break;
    if (cached(ancestor.manifest))
      best = { layout: "DELTA", from: ancestor.manifest, steps: [...steps], bytes };
    steps.unshift(ancestor.manifest);
  }
  return best;
}
