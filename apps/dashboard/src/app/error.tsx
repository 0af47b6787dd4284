"use client";

import { Failed } from "../ui/states.tsx";

export default function ErrorPage({
  error,
  reset,
}: {
  error: Error & { digest?: string };
  reset: () => void;
}) {
  return (
    <main className="mx-auto max-w-[640px] px-4 pt-[16vh]">
      <Failed
        page
        what="this page"
        failure={{ kind: "failed", message: error.message, code: "PAGE", requestId: error.digest }}
        retry={reset}
      />
    </main>
  );
}
