import type { Metadata } from "next";
import { CasePage } from "../../../../../../features/verification/case-page.tsx";

export const metadata: Metadata = { title: "Case" };

export default async function Page({ params }: { params: Promise<{ id: string; caseId: string }> }) {
  const { id, caseId } = await params;
  return <CasePage runId={decodeURIComponent(id)} caseId={decodeURIComponent(caseId)} />;
}
