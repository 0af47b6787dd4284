import { fromTypeId } from "@muster/protocol";
import { builder } from "../builder.ts";
import { createUpload } from "./upload.ts";

const UploadGrant = builder.objectRef<{ url: string; expiresAt: Date }>("UploadGrant").implement({
  description: "A permission to PUT one blob.",
  authScopes: { signedIn: true },
  fields: (t) => ({
    url: t.exposeString("url", { description: "PUT the bytes here." }),
    expiresAt: t.expose("expiresAt", { type: "DateTime" }),
  }),
});

const CreateUploadInput = builder.inputType("CreateUploadInput", {
  fields: (t) => ({
    organization: t.id(),
    sha256: t.string({ description: "SHA-256 of the bytes, hexadecimal." }),
    size: t.field({ type: "BigInt", description: "Bytes." }),
  }),
});

builder.mutationField("createUpload", (t) =>
  t.field({
    type: UploadGrant,
    description: "Lets the base of a run to come be uploaded.",
    authScopes: { can: "upload:create" },
    args: { input: t.arg({ type: CreateUploadInput }) },
    resolve: (_root, { input }, ctx) =>
      createUpload(ctx, { ...input, organizationId: fromTypeId(input.organization, "org") }),
  }),
);
