import type { ReactNode } from "react";
import { Frame } from "../../features/session/frame.tsx";

export default function AppLayout({ children }: { children: ReactNode }) {
  return <Frame>{children}</Frame>;
}
