import { fileURLToPath } from "node:url";

/** The checkout that this program runs from: the other programs it starts lie there too. */
export const repository = fileURLToPath(new URL("../../../..", import.meta.url));
