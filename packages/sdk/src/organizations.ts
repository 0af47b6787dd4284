import { graphql, type ResultOf } from "./graphql.ts";
import type { CallOptions, Transport } from "./transport.ts";

const OrganizationsDocument = graphql(`
  query Organizations {
    organizations {
      id
      name
      slug
      apiKeys { id name start scopes createdAt expiresAt }
    }
  }
`);
const CreateApiKeyDocument = graphql(`
  mutation CreateApiKey($input: CreateApiKeyInput!) {
    createApiKey(input: $input) {
      key
      apiKey { id name start scopes createdAt expiresAt }
    }
  }
`);
const RevokeApiKeyDocument = graphql(`
  mutation RevokeApiKey($input: RevokeApiKeyInput!) {
    revokeApiKey(input: $input)
  }
`);
const CreateUploadDocument = graphql(`
  mutation CreateUpload($input: CreateUploadInput!) {
    createUpload(input: $input) { url expiresAt }
  }
`);

export type Organization = ResultOf<typeof OrganizationsDocument>["organizations"][number];
export type CreatedApiKey = ResultOf<typeof CreateApiKeyDocument>["createApiKey"];

export type Organizations = {
  /** The organizations the caller is a member of. */
  list(options?: CallOptions): Promise<Organization[]>;
  /** The key itself is answered once and never again. */
  createApiKey(
    input: { organization: string; name: string; scopes: string[]; expiresInDays?: number },
    options?: CallOptions,
  ): Promise<CreatedApiKey>;
  revokeApiKey(input: { organization: string; id: string }, options?: CallOptions): Promise<boolean>;
  /** A place to PUT a base checkpoint: pass `url` to `blobs.put` as its `grant`. `size` in bytes, a decimal string. */
  createUpload(
    input: { organization: string; sha256: string; size: string },
    options?: CallOptions,
  ): Promise<{ url: string; expiresAt: string }>;
};

export function createOrganizations({ execute }: Transport): Organizations {
  return {
    list: async (options) => (await execute(OrganizationsDocument, {}, options)).organizations,
    createApiKey: async (input, options) =>
      (await execute(CreateApiKeyDocument, { input }, options)).createApiKey,
    revokeApiKey: async (input, options) =>
      (await execute(RevokeApiKeyDocument, { input }, { ...options, repeatable: true })).revokeApiKey,
    createUpload: async (input, options) =>
      (await execute(CreateUploadDocument, { input }, { ...options, repeatable: true })).createUpload,
  };
}
