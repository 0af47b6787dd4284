/** Random bytes in hexadecimal. Works on any page; `crypto.randomUUID` only on those that came by TLS or from this machine. */
export function randomHex(bytes: number): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(bytes)), (byte) =>
    byte.toString(16).padStart(2, "0"),
  ).join("");
}
