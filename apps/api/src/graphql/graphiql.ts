import { createHash } from "node:crypto";
import type { Exchange } from "../http/exchange.ts";

// The explorer comes from our own origin, as a page with one script and one style sheet: nothing inline to allow, nothing from elsewhere.

/** Serves `/graphiql` and its two assets. Returns false for another path below it. */
export async function serveGraphiql({ req, res, url }: Exchange): Promise<boolean> {
  if (req.method !== "GET" && req.method !== "HEAD") return false;
  loaded ??= load();
  const parts = await loaded;
  const file =
    url.pathname === "/graphiql"
      ? { type: "text/html; charset=utf-8", body: parts.html, cache: "no-cache" }
      : url.pathname === parts.scriptPath
        ? {
            type: "text/javascript; charset=utf-8",
            body: parts.script,
            cache: "public, max-age=31536000, immutable",
          }
        : url.pathname === parts.stylePath
          ? {
              type: "text/css; charset=utf-8",
              body: parts.style,
              cache: "public, max-age=31536000, immutable",
            }
          : undefined;
  if (file === undefined) return false;
  res.writeHead(200, {
    "Content-Type": file.type,
    "Content-Length": Buffer.byteLength(file.body),
    "Cache-Control": file.cache,
    // The editor makes its workers from blobs and its styles as it runs.
    "Content-Security-Policy":
      "default-src 'self'; worker-src 'self' blob:; style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
  });
  res.end(req.method === "HEAD" ? undefined : file.body);
  return true;
}

type Parts = { html: string; script: string; scriptPath: string; style: string; stylePath: string };
let loaded: Promise<Parts> | undefined;

/** Nine megabytes, so only when somebody asks. */
async function load(): Promise<Parts> {
  const { renderGraphiQL } = await import("@graphql-yoga/render-graphiql");
  const page = renderGraphiQL({
    title: "Muster API",
    endpoint: "/graphql",
    subscriptionsProtocol: "WS",
    credentials: "same-origin",
    defaultQuery:
      '# Sign in on the dashboard, or add a header: { "x-api-key": "muster_…" }\nquery Me {\n  me {\n    kind\n    scopes\n  }\n}\n',
  });
  const style = between(page, "<style>", "</style>");
  const script = between(page, "<script>", "</script>");
  const hash = (text: string) => createHash("sha256").update(text).digest("hex").slice(0, 16);
  const scriptPath = `/graphiql/${hash(script)}.js`;
  const stylePath = `/graphiql/${hash(style)}.css`;
  const html = `<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8" />
    <title>Muster API</title>
    <link rel="icon" href="data:," />
    <link rel="stylesheet" href="${stylePath}" />
  </head>
  <body id="body" class="no-focus-outline">
    <noscript>The API explorer needs JavaScript.</noscript>
    <div id="root"></div>
    <script src="${scriptPath}"></script>
  </body>
</html>
`;
  return { html, script, scriptPath, style, stylePath };
}

function between(page: string, from: string, to: string): string {
  return page.slice(page.indexOf(from) + from.length, page.lastIndexOf(to));
}
