/** Version of the protocol, carried by every message. Two parties with different versions do not work together. */
export const protocolVersion = 1;
