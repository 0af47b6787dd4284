import type { PackSubmission, SubmissionResult } from "@muster/sdk";

/** One of several submissions that are sent in one call. */
export type Ticket = {
  /** Waits for the others, then submits with them; after they have gone, alone. */
  submit(submission: PackSubmission): Promise<SubmissionResult>;
  /** Lets the others go without this one, when it was not submitted. */
  leave(): void;
};

/**
 * Gathers the submissions of tasks that were measured together: one call instead of sixteen. Each ticket either submits or leaves;
 * when all have, what was submitted is sent.
 */
export function gather(
  count: number,
  send: (submissions: PackSubmission[]) => Promise<SubmissionResult[]>,
): Ticket[] {
  type Waiting = {
    submission: PackSubmission;
    resolve: (result: SubmissionResult) => void;
    reject: (error: unknown) => void;
  };
  let expected = count;
  let waiting: Waiting[] = [];

  const sendAll = async (all: Waiting[]) => {
    try {
      const results = await send(all.map(({ submission }) => submission));
      all.forEach(({ resolve, reject }, i) => {
        const result = results[i];
        if (result === undefined)
          reject(new Error("The coordinator answered fewer submissions than were sent."));
        else resolve(result);
      });
    } catch (error) {
      for (const { reject } of all) reject(error);
    }
  };
  const flush = () => {
    if (expected > 0 || waiting.length === 0) return;
    const all = waiting;
    waiting = [];
    void sendAll(all);
  };
  return Array.from({ length: count }, () => {
    let counted = false;
    const count = () => {
      if (counted) return;
      counted = true;
      expected--;
    };
    return {
      submit: (submission) =>
        new Promise((resolve, reject) => {
          waiting.push({ submission, resolve, reject });
          count();
          flush();
        }),
      leave() {
        count();
        flush();
      },
    };
  });
}
