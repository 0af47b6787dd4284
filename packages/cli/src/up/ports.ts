import { createServer } from "node:net";
import { Failure, systemCode } from "../failure.ts";

/** @throws Failure `PORT_TAKEN`, which names the option that chooses another. */
export async function requireFreePort(
  port: number,
  use: { host: string; what: string; option: string },
): Promise<void> {
  const refusal = await listen(port, use.host);
  if (typeof refusal === "number") return;
  const reason =
    systemCode(refusal) === "EADDRINUSE"
      ? `Port ${port} is taken by another program`
      : `Port ${port} cannot be used (${refusal.message})`;
  throw new Failure({
    exit: "failed",
    code: "PORT_TAKEN",
    what: `${reason}, and ${use.what} wants it. Choose another with ${use.option} <port>.`,
    cause: refusal,
  });
}

/** A port that is free now. */
export async function freePort(): Promise<number> {
  const port = await listen(0, "127.0.0.1");
  if (typeof port === "number") return port;
  throw port;
}

function listen(port: number, host: string): Promise<number | Error> {
  return new Promise((resolve) => {
    const probe = createServer();
    probe.once("error", resolve);
    probe.listen(port, host, () => {
      const address = probe.address();
      probe.close(() => resolve(typeof address === "object" && address !== null ? address.port : port));
    });
  });
}
