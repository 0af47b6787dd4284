// How numbers, times and ids are written, everywhere the same.

/** What stands where a value is honestly absent. */
export const absent = "–";

/** `412`, `9,999`, `12.4 k`, `3.1 M`: at most four significant places, the exact number belongs in a title. */
export function formatCount(value: number | bigint): string {
  const n = Number(value);
  if (Math.abs(n) < 10_000) return exact.format(n);
  for (const [size, unit] of scales) {
    if (Math.abs(n) >= size) return `${(n / size).toFixed(Math.abs(n) >= size * 100 ? 0 : 1)} ${unit}`;
  }
  return exact.format(n);
}

/** `1 task`, `12 tasks`. */
export function counted(value: number, one: string): string {
  return `${formatCount(value)} ${value === 1 ? one : `${one}s`}`;
}

/** Every digit: `12,431`. */
export function formatExact(value: number | bigint): string {
  return exact.format(value);
}

/** `512 B`, `3.4 kB`, `14.2 MB`: bytes in powers of 1000. */
export function formatBytes(bytes: number): string {
  if (bytes < 1000) return `${bytes} B`;
  const unit =
    bytes < 1e6 ? ([1e3, "kB"] as const) : bytes < 1e9 ? ([1e6, "MB"] as const) : ([1e9, "GB"] as const);
  return `${(bytes / unit[0]).toFixed(1)} ${unit[1]}`;
}

/** A share of one as a percentage with what a reader needs of it: `36 %`, `5.8 %`, `0.42 %`; null is honestly absent. */
export function formatShare(share: number | null | undefined): string {
  if (share === null || share === undefined || !Number.isFinite(share)) return absent;
  const percent = share * 100;
  return `${Number(percent.toFixed(percent >= 10 ? 0 : percent >= 1 ? 1 : 2))} %`;
}

/** A reward or a fraction of one, three decimals, so that columns align. */
export function formatReward(value: number | null | undefined): string {
  return value === null || value === undefined || !Number.isFinite(value) ? absent : value.toFixed(3);
}

/** A signed difference: `+0.104`, `−0.020` (a real minus sign). */
export function formatDifference(value: number): string {
  if (!Number.isFinite(value)) return absent;
  const digits = Math.abs(value).toFixed(3);
  if (Number(digits) === 0) return "0.000";
  return `${value < 0 ? "−" : "+"}${digits}`;
}

/** A metric of unknown size: four significant digits, exponent only where plain digits would be long. */
export function formatMetric(value: number | null | undefined): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return absent;
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-4) return minus(value.toExponential(2));
  if (size >= 1000) return minus(exact.format(Math.round(value)));
  return minus(String(Number(value.toPrecision(4))));
}

/** `84 ms`, `12 s`, `3 min 20 s`, `3 h 12 m`, `2 d 4 h`. */
export function formatDuration(seconds: number | null | undefined): string {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds) || seconds < 0) return absent;
  if (seconds === 0) return "0 s";
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  const s = Math.round(seconds);
  if (s < 60) return `${s} s`;
  const minutes = Math.floor(s / 60);
  if (minutes < 60) return s % 60 === 0 ? `${minutes} min` : `${minutes} min ${s % 60} s`;
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return `${hours} h ${minutes % 60} m`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

/** `now`, `12 s ago`, `3 min ago`, `5 h ago`, `2 d ago`; a moment ahead is `in 3 min`. */
export function formatAge(at: Date, now: Date): string {
  const seconds = (now.getTime() - at.getTime()) / 1000;
  const size = Math.abs(seconds);
  if (size < 2) return "now";
  const words = ageWords(size);
  return seconds < 0 ? `in ${words}` : `${words} ago`;
}

/** Both clocks of a moment, for a title: local time and UTC. */
export function formatMoment(at: Date): string {
  const local = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "medium" }).format(at);
  return `${local} here, ${at.toISOString().replace("T", " ").slice(0, 19)} UTC`;
}

/** `10:02:11` in local time. */
export function formatClock(at: Date): string {
  return new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" }).format(at);
}

const microPerCredit = 1_000_000n;

/** Micro-credits as credits with at most three decimals: `84.213`; the rest is below what a page should show. */
export function formatCredits(micro: string | bigint): string {
  const value = BigInt(micro);
  const negative = value < 0n;
  const size = negative ? -value : value;
  const thousandths = (size + 500n) / 1000n;
  const whole = exact.format(thousandths / 1000n);
  const rest = String(thousandths % 1000n)
    .padStart(3, "0")
    .replace(/0+$/, "");
  return `${negative ? "−" : ""}${whole}${rest === "" ? "" : `.${rest}`}`;
}

/** What a person typed as credits, in micro-credits; undefined when it is not an amount. Commas may group digits. */
export function parseCredits(text: string): bigint | undefined {
  const match = /^(\d{1,15})(?:\.(\d{1,6}))?$/.exec(text.trim().replaceAll(",", ""));
  if (!match) return undefined;
  return BigInt(match[1] ?? "0") * microPerCredit + BigInt((match[2] ?? "").padEnd(6, "0"));
}

/** `run_7qk3f`: the prefix and the last five characters, which are random; the whole id belongs in a title. */
export function shortId(id: string): string {
  const cut = id.lastIndexOf("_");
  if (cut < 0 || id.length - cut <= 9) return id;
  return `${id.slice(0, cut + 1)}${id.slice(-5)}`;
}

/** `SET_ASIDE` → `Set aside`. */
export function sentence(constant: string): string {
  const words = constant.toLowerCase().replaceAll("_", " ");
  return words.charAt(0).toUpperCase() + words.slice(1);
}

const exact = new Intl.NumberFormat("en-US");
const scales = [
  [1e12, "T"],
  [1e9, "G"],
  [1e6, "M"],
  [1e3, "k"],
] as const;
function minus(text: string): string {
  return text.replace("-", "−").replace("e-", "e−");
}

function ageWords(seconds: number): string {
  if (seconds < 60) return `${Math.round(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86_400)} d`;
}
