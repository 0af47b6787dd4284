import { type NextRequest, NextResponse } from "next/server";
import { readApiUrl } from "./api-url.ts";
import { contentSecurityPolicy, securityHeaders } from "./security-headers.ts";

export function proxy(request: NextRequest): NextResponse {
  const apiUrl = readApiUrl(process.env);
  const nonce = btoa(crypto.randomUUID());
  const policy = contentSecurityPolicy({
    nonce,
    apiUrl,
    development: process.env.NODE_ENV === "development",
  });
  const headers = new Headers(request.headers);
  headers.set("x-nonce", nonce);
  // Next reads the nonce for its own scripts from the request
  headers.set("Content-Security-Policy", policy);
  const response = NextResponse.next({ request: { headers } });
  response.headers.set("Content-Security-Policy", policy);
  for (const [name, value] of Object.entries(securityHeaders)) response.headers.set(name, value);
  return response;
}

export const config = { matcher: ["/((?!_next/static|icon.svg).*)"] };
