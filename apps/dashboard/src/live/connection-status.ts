import { formatDuration, formatExact } from "../ui/format.ts";

/** The socket as it is, whatever it carries. */
export type SocketState = {
  readonly phase: "connecting" | "open" | "waiting" | "refused";
  /** How many times in a row connecting has failed. */
  readonly failures: number;
  /** Round trip of the last ping. */
  readonly latency: number | undefined;
};

/** The stream of the page, when it has one. Times are milliseconds of the same clock as `now`. */
export type StreamState = {
  readonly heardAt: number | undefined;
  readonly behind: number;
  readonly backfilling: boolean;
  readonly paused: boolean;
  readonly waiting: number;
};

export type ConnectionStatus = {
  readonly kind:
    | "live"
    | "catching-up"
    | "stale"
    | "reconnecting"
    | "connecting"
    | "offline"
    | "paused"
    | "refused";
  /** What the chip says: `Live · 84 ms`. */
  readonly label: string;
  /** The same without figures that change by the second: what a screen reader hears. */
  readonly spoken: string;
  /** Whether what the page shows may be out of date. */
  readonly doubtful: boolean;
};

/** A heartbeat comes every 5 s even when nothing happens, so this long a silence is a fact about the connection. */
const staleAfter = 10_000;

/** A busy stream is always a batch or two ahead of what has been drawn; that is not catching up. */
const unseenInFlight = 500;

/** What the connection is doing, decided by what was heard and when, never by hope. */
export function connectionStatus(input: {
  online: boolean;
  socket: SocketState;
  stream: StreamState | undefined;
  now: number;
}): ConnectionStatus {
  const { online, socket, stream, now } = input;
  if (socket.phase === "refused") return status("refused", "Signed out", true);
  if (socket.phase !== "open") {
    // a coordinator on this machine answers without any network, so only a closed socket makes it true
    if (!online) return status("offline", "Offline", true);
    if (socket.failures === 0) return status("connecting", "Connecting", false);
    return status("reconnecting", `Reconnecting (${socket.failures})`, true, "Reconnecting");
  }
  if (stream?.paused) {
    return status("paused", `Paused · ${formatExact(stream.waiting)} new`, false, "Live updates paused");
  }
  if (stream?.heardAt !== undefined && now - stream.heardAt > staleAfter) {
    return status(
      "stale",
      `Stale ${formatDuration(Math.floor((now - stream.heardAt) / 1000))}`,
      true,
      "Stale",
    );
  }
  if (stream && stream.behind > (stream.backfilling ? 0 : unseenInFlight)) {
    return status("catching-up", `Catching up ${formatExact(stream.behind)}`, false, "Catching up");
  }
  const latency = socket.latency === undefined ? "" : ` · ${Math.round(socket.latency)} ms`;
  return status("live", `Live${latency}`, false, "Live");
}

function status(
  kind: ConnectionStatus["kind"],
  label: string,
  doubtful: boolean,
  spoken = label,
): ConnectionStatus {
  return { kind, label, spoken, doubtful };
}
