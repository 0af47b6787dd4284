import type { Metadata } from "next";
import { CreateRun } from "../../../../features/runs/create-run.tsx";

export const metadata: Metadata = { title: "New run" };

export default function NewRunPage() {
  return <CreateRun />;
}
