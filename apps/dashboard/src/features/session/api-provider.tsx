"use client";

import { createContext, type ReactNode, useContext, useEffect, useMemo } from "react";
import { Provider } from "urql";
import { type ApiAddress, apiAddress, loopbackHost } from "../../api-url.ts";
import { createGraphQLClient } from "../../graphql/client.ts";

const AddressContext = createContext<ApiAddress | undefined>(undefined);

/** Gives the tree the coordinator's address, which the server knows only at request time, and a client for it. */
export function ApiProvider({ apiUrl, children }: { apiUrl: string; children: ReactNode }) {
  const { address, client } = useMemo(() => {
    // on the server nothing is fetched; only the browser knows the page's origin
    const address = apiAddress(
      apiUrl,
      typeof location === "undefined" ? "http://localhost" : location.origin,
    );
    return { address, client: createGraphQLClient(address.graphql) };
  }, [apiUrl]);
  useEffect(() => {
    const host = loopbackHost(apiUrl, location.host);
    if (host !== undefined) location.host = host;
  }, [apiUrl]);
  return (
    <AddressContext value={address}>
      <Provider value={client}>{children}</Provider>
    </AddressContext>
  );
}

export function useApiAddress(): ApiAddress {
  const address = useContext(AddressContext);
  if (address === undefined) throw new Error("useApiAddress needs an ApiProvider above it.");
  return address;
}
