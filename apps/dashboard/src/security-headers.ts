/** Origins the browser may talk to besides the page's own: the coordinator, over HTTP and over a socket. */
function connectSources(apiUrl: string): string[] {
  if (apiUrl.startsWith("/")) return [];
  const { protocol, host, origin } = new URL(apiUrl);
  return [origin, `${protocol === "https:" ? "wss" : "ws"}://${host}`];
}

/** The page's Content-Security-Policy. Nothing is ever loaded from a third party, and no inline script runs without the nonce. */
export function contentSecurityPolicy(options: {
  nonce: string;
  apiUrl: string;
  development: boolean;
}): string {
  const { nonce, apiUrl, development } = options;
  return [
    "default-src 'none'",
    `script-src 'self' 'nonce-${nonce}' 'strict-dynamic'${development ? " 'unsafe-eval'" : ""}`,
    // style attributes are set by React for sizes that only the data knows; they cannot load anything here
    development ? "style-src 'self' 'unsafe-inline'" : `style-src 'self' 'nonce-${nonce}'`,
    "style-src-attr 'unsafe-inline'",
    "img-src 'self' data: blob:",
    "font-src 'self'",
    ["connect-src 'self'", ...connectSources(apiUrl), ...(development ? ["ws:"] : [])].join(" "),
    "worker-src 'self'",
    "manifest-src 'self'",
    "base-uri 'none'",
    "form-action 'self'",
    "frame-ancestors 'none'",
  ].join("; ");
}

/**
 * The policy of files that never change. Only a thread has use for one: it obeys its own file's and not its page's, so the thread that
 * judges evidence may run WebAssembly of this origin, no page may, and the thread reaches nothing beyond this origin.
 */
export const staticFilesPolicy = [
  "default-src 'none'",
  "script-src 'self' 'wasm-unsafe-eval'",
  "connect-src 'self'",
].join("; ");

/** Headers of every answer. */
export const securityHeaders: Readonly<Record<string, string>> = {
  // a sign-in link carries its token in the address
  "Referrer-Policy": "no-referrer",
  "X-Content-Type-Options": "nosniff",
  "X-Frame-Options": "DENY",
  "Cross-Origin-Opener-Policy": "same-origin",
  "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=(), browsing-topics=()",
};
