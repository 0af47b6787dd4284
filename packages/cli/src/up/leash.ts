// Loaded into every process that `muster up` starts (`node --import`): it ends with its supervisor, however that ended. The system
// closes the channel between the two even on kill -9.
import { isMainThread } from "node:worker_threads";

/** Milliseconds a process gets to end by itself. */
const GRACE = 12_000;

if (isMainThread && process.channel !== undefined) {
  process.on("disconnect", () => {
    setTimeout(() => process.exit(1), GRACE).unref();
    process.kill(process.pid, "SIGTERM");
  });
  // The listener would keep a process alive that has nothing else to do.
  process.channel?.unref();
}
