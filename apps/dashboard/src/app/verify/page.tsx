import type { Metadata } from "next";
import { VerifyPage } from "../../features/evidence/verify-page.tsx";

export const metadata: Metadata = { title: "Verify evidence" };

/** For anyone with a bundle, signed in or not. */
export default async function Page({
  searchParams,
}: {
  searchParams: Promise<Record<string, string | string[] | undefined>>;
}) {
  const { group } = await searchParams;
  return <VerifyPage group={typeof group === "string" ? group : undefined} />;
}
