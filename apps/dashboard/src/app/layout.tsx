import { CSPProvider } from "@base-ui/react/csp-provider";
import { GeistMono } from "geist/font/mono";
import { GeistSans } from "geist/font/sans";
import type { Metadata, Viewport } from "next";
import { headers } from "next/headers";
import { NuqsAdapter } from "nuqs/adapters/next/app";
import type { ReactNode } from "react";
import { readApiUrl } from "../api-url.ts";
import { ApiProvider } from "../features/session/api-provider.tsx";
import { railScript } from "../features/session/rail-state.ts";
import { Theme } from "../ui/theme.tsx";
import "./globals.css";

export const metadata: Metadata = {
  title: { default: "Muster", template: "%s · Muster" },
  description: "Reinforcement learning on machines that nobody has to trust.",
  robots: { index: false },
};

export const viewport: Viewport = {
  themeColor: [
    { media: "(prefers-color-scheme: light)", color: "#ffffff" },
    { media: "(prefers-color-scheme: dark)", color: "#0b0c0e" },
  ],
};

export default async function RootLayout({ children }: { children: ReactNode }) {
  const nonce = (await headers()).get("x-nonce") ?? "";
  return (
    <html lang="en" className={`${GeistSans.variable} ${GeistMono.variable}`} suppressHydrationWarning>
      <body>
        <script nonce={nonce} suppressHydrationWarning>
          {railScript}
        </script>
        <CSPProvider nonce={nonce}>
          <Theme nonce={nonce}>
            <NuqsAdapter>
              <ApiProvider apiUrl={readApiUrl(process.env)}>{children}</ApiProvider>
            </NuqsAdapter>
          </Theme>
        </CSPProvider>
      </body>
    </html>
  );
}
