// Starts Next with telemetry off. An environment variable in an npm script would not work on every shell.
process.env.NEXT_TELEMETRY_DISABLED = "1";
await import("next/dist/bin/next");

export {};
