export {
  type Candidate,
  countFailure,
  countShard,
  drawIndex,
  type Standing,
  type Standings,
  weightsOf,
} from "./balance.ts";
export { blobUrl } from "./blob-url.ts";
export {
  buildManifest,
  type Checkpoint,
  type CheckpointFile,
  mostDeltaBytes,
  type Parent,
  type Shard,
  shardBytesFor,
  signManifest,
} from "./build.ts";
export { applyDelta, encodeDelta, patched } from "./delta.ts";
export {
  type CachedCheckpoint,
  createDownloader,
  type Downloader,
  type DownloaderOptions,
  type OpenCheckpoint,
  type Progress,
  type Receipt,
} from "./download.ts";
export { ShardcastError, type ShardcastErrorCode } from "./error.ts";
export { type Fetched, type FetchShard, fetchShard, type RelayFault, type Source } from "./fetch-shard.ts";
export { choosePath, type Path } from "./path.ts";
export type { RelayLimits } from "./relay/admission.ts";
export type { RelayAssignment, RelayEvent } from "./relay/assignment.ts";
export { type Relay, type RelayHealth, type RelayOptions, startRelay } from "./relay/relay.ts";
export {
  answerBlob,
  type BlobReader,
  type ByteRange,
  parseRange,
  readRange,
  type ServedBlob,
} from "./serve.ts";
export {
  type Fault,
  type FetchBlob,
  openTransfer,
  type Traffic,
  type Transfer,
  type TransferOptions,
  type Wanted,
} from "./transfer.ts";
export { assignParents, leastDepth, type TreeRelay } from "./tree.ts";
export { openManifest, type VerifySignature } from "./verify.ts";
