/**
 * Where a source keeps a blob: `<url>/blobs/<sha256>`, or, when the url has a `{sha256}`, the url with it filled in (`{ab}`: the hash's first
 * two characters). So a folder behind nginx, a bucket or a CDN is a source like any relay: `https://cdn.example/store/{ab}/{sha256}`.
 * @param url without a query or fragment of its own, unless it is a template.
 */
export function blobUrl(url: string, sha256: string): string {
  if (url.includes("{sha256}")) {
    return url.replaceAll("{sha256}", sha256).replaceAll("{ab}", sha256.slice(0, 2));
  }
  return `${url.replace(/\/+$/, "")}/blobs/${sha256}`;
}
