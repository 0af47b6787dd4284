import { createCipheriv, createDecipheriv, hkdfSync, randomBytes } from "node:crypto";
import type { Services } from "../context.ts";

/** A signing secret as Standard Webhooks writes it: `whsec_` and 32 bytes in base64. */
export const newSecret = (): string => `whsec_${randomBytes(32).toString("base64")}`;

type WithConfig = Pick<Services, "config">;

/** The secret as it is stored: AES-256-GCM under a key derived from the coordinator's secret, bound to its endpoint, so that rows cannot be swapped. */
export function sealSecret(
  services: WithConfig,
  endpointId: string,
  secret: string,
): Uint8Array<ArrayBuffer> {
  const iv = randomBytes(12);
  const cipher = createCipheriv("aes-256-gcm", wrappingKey(services), iv).setAAD(Buffer.from(endpointId));
  return Uint8Array.from(Buffer.concat([iv, cipher.update(secret), cipher.final(), cipher.getAuthTag()]));
}

/** @throws Error when the coordinator was started with another secret than the one it was stored under */
export function openSecret(services: WithConfig, endpointId: string, stored: Uint8Array): string {
  const sealed = Buffer.from(stored);
  const decipher = createDecipheriv("aes-256-gcm", wrappingKey(services), sealed.subarray(0, 12));
  decipher.setAAD(Buffer.from(endpointId)).setAuthTag(sealed.subarray(-16));
  try {
    return decipher.update(sealed.subarray(12, -16), undefined, "utf8") + decipher.final("utf8");
  } catch (cause) {
    throw new Error(
      "The endpoint's secret does not open with this MUSTER_SECRET. Rotate the endpoint's secret, or start the coordinator with the secret it was made under.",
      { cause },
    );
  }
}

function wrappingKey({ config }: WithConfig): Uint8Array {
  return new Uint8Array(hkdfSync("sha256", config.secret, "", "muster/webhooks/v1", 32));
}
