"use client";

import { useEffect, useRef } from "react";
import { Button } from "../../ui/button.tsx";
import { CopyButton } from "../../ui/copy.tsx";
import { hostOf } from "./host.ts";

/** A signing secret, this once. */
export function SecretOnce({ secret, url, hide }: { secret: string; url: string; hide(): void }) {
  const box = useRef<HTMLDivElement>(null);
  // it appears above what was just worked with
  useEffect(() => {
    void box.current?.scrollIntoView({ block: "nearest" });
  }, []);
  return (
    <div ref={box} role="status" className="mb-4 rounded-control bg-ok-soft px-3 py-2 text-on-ok-soft">
      <p className="font-medium">
        The secret of the webhook to {hostOf(url)} is shown this once. Put it where your server verifies
        signatures.
      </p>
      <div className="mt-1 flex flex-wrap items-center gap-2">
        <code className="wrap-anywhere font-mono select-all">{secret}</code>
        <CopyButton label="Copy secret" text={secret} />
        <Button onClick={hide}>Hide it</Button>
      </div>
    </div>
  );
}
