import { Client, fetchExchange, mapExchange } from "@urql/core";
import { createCache } from "./cache.ts";

/** One client for the page; a new sign-in loads the page anew and with it an empty cache. */
export function createGraphQLClient(url: string): Client {
  return new Client({
    url,
    exchanges: [createCache(), refuseHoles, fetchExchange],
    // the session is a cookie of the coordinator's host, which another port of it shares
    fetchOptions: { credentials: "include" },
    preferGetMethod: false,
  });
}

/**
 * An error below a field that cannot be null makes the whole answer null. Stored as it is, the failure of one panel would tell every
 * other reader of the same run that there is no such run.
 */
const refuseHoles = mapExchange({
  onResult(result) {
    const { data, error } = result;
    if (error === undefined || typeof data !== "object" || data === null) return;
    if (Object.values(data).every((value) => value === null)) return { ...result, data: undefined };
  },
});
