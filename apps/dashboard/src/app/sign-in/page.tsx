import type { Metadata } from "next";
import { SignIn } from "../../features/session/sign-in.tsx";

export const metadata: Metadata = { title: "Sign in" };

export default async function SignInPage({
  searchParams,
}: {
  searchParams: Promise<Record<string, string | string[] | undefined>>;
}) {
  const { token, next, error } = await searchParams;
  return <SignIn token={one(token)} next={one(next)} error={one(error)} />;
}

function one(value: string | string[] | undefined): string | undefined {
  return typeof value === "string" && value !== "" ? value : undefined;
}
