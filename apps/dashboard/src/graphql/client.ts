import { Client, fetchExchange } from "@urql/core";
import { createCache } from "./cache.ts";

/** One client for the page; a new sign-in loads the page anew and with it an empty cache. */
export function createGraphQLClient(url: string): Client {
  return new Client({
    url,
    exchanges: [createCache(), fetchExchange],
    // the session is a cookie of the coordinator's host, which another port of it shares
    fetchOptions: { credentials: "include" },
    preferGetMethod: false,
  });
}
