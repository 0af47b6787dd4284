import type { Metadata } from "next";
import { RolloutPage } from "../../../../../../features/rollouts/rollout-page.tsx";

export const metadata: Metadata = { title: "Rollout" };

export default async function Page({ params }: { params: Promise<{ id: string; rolloutId: string }> }) {
  const { id, rolloutId } = await params;
  return <RolloutPage runId={decodeURIComponent(id)} rolloutId={decodeURIComponent(rolloutId)} />;
}
