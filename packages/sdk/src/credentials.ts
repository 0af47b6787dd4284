/**
 * Supplies the session token. When the coordinator has refused one, it is named in `refused`: answer with a fresh one,
 * or with the same one (or none) to give up.
 */
export type GetToken = (context: { refused?: string }) => string | undefined | Promise<string | undefined>;

/** Who the client is. At most one of the three; none makes the caller anonymous (or, in a browser, its session cookie). */
export type CredentialOptions = {
  /** A node's session token. */
  token?: string;
  /** An organization's API key. */
  apiKey?: string;
  /** A token that expires and is renewed. */
  getToken?: GetToken;
};

/** What one request or connection is sent with. */
export type Credential = { headers: Record<string, string>; token: string | undefined };

export type Credentials = {
  current(): Promise<Credential>;
  /** Asks for another token after `refused` was refused; false when there is no other to be had. */
  refresh(refused: string | undefined): Promise<boolean>;
  /** Everything that must not be printed. */
  secrets(): string[];
};

/** Version of the wire protocol this client speaks; it is sent with every request. */
export const PROTOCOL = 1;

/** @throws TypeError when more than one way to authenticate is given. */
export function credentialsFrom({ token, apiKey, getToken }: CredentialOptions): Credentials {
  if ([token, apiKey, getToken].filter((given) => given !== undefined).length > 1) {
    throw new TypeError("Give one of token, apiKey and getToken, not several.");
  }
  const seen = new Set([token, apiKey].filter((secret) => secret !== undefined && secret !== "") as string[]);
  const remember = (value: string | undefined) => {
    if (value !== undefined && value !== "") {
      // tokens last an hour: a node that runs for a month must not keep them all
      if (seen.size > 8) seen.delete([...seen][0] ?? "");
      seen.add(value);
    }
    return value;
  };
  return {
    async current() {
      const bearer = token ?? remember(await getToken?.({}));
      const headers: Record<string, string> = { "muster-protocol": String(PROTOCOL) };
      if (bearer !== undefined) headers.authorization = `Bearer ${bearer}`;
      if (apiKey !== undefined) headers["x-api-key"] = apiKey;
      return { headers, token: bearer };
    },
    async refresh(refused) {
      if (getToken === undefined) return false;
      const fresh = remember(await getToken(refused === undefined ? {} : { refused }));
      return fresh !== undefined && fresh !== refused;
    },
    secrets: () => [...seen],
  };
}
