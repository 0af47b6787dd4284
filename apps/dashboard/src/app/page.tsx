import { redirect } from "next/navigation";

/** The way in. A sign-in link that the coordinator could not honour leads here too, with an error. */
export default async function Home({
  searchParams,
}: {
  searchParams: Promise<Record<string, string | string[] | undefined>>;
}) {
  const { error } = await searchParams;
  redirect(typeof error === "string" ? `/sign-in?error=${encodeURIComponent(error)}` : "/runs");
}
