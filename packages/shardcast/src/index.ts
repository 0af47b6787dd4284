export {
  buildManifest,
  type Checkpoint,
  type CheckpointFile,
  type Shard,
  shardBytesFor,
  signManifest,
} from "./build.ts";
export { type CachedCheckpoint, type DownloadInput, downloadCheckpoint, type FetchBlob } from "./download.ts";
export { ShardcastError, type ShardcastErrorCode } from "./error.ts";
export { openManifest, type VerifySignature } from "./verify.ts";
