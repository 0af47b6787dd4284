import { NotFound } from "../ui/states.tsx";

export default function NotFoundPage() {
  return (
    <main className="mx-auto max-w-[640px] px-4 pt-[16vh]">
      <NotFound page what="the page" />
    </main>
  );
}
