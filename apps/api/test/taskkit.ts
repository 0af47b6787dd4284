import type { Lease } from "../src/tasks/claim.ts";
import { acceptSubmission, openTasks } from "../src/tasks/lease.ts";
import { startRun, type TestRun } from "./runkit.ts";
import type { TestNode, TestServer } from "./testkit.ts";

// GENERATE tasks that are made up, and submissions that nobody judges: the life of a task by itself.

/** Hash of a pack that nobody looks at. */
export const somePack = "a".repeat(64);

/** The moves and questions of a file's own coordinator. */
export function tasksOf(server: TestServer) {
  /** A run with so many open GENERATE tasks. */
  async function runWithTasks(
    count: number,
    over: Parameters<typeof startRun>[1] = {},
  ): Promise<TestRun & { tasks: string[] }> {
    const run = await startRun(server, over);
    const tasks = await openGenerate(run, count);
    return { ...run, tasks };
  }

  async function openGenerate(
    run: TestRun,
    count: number,
    more: { excludedNodes?: string[]; notBefore?: Date; priority?: number } = {},
  ): Promise<string[]> {
    return server.prisma.$transaction((tx) =>
      openTasks(
        tx,
        Array.from({ length: count }, () => ({
          organizationId: run.organization.id,
          runId: run.id,
          kind: "GENERATE" as const,
          revision: 1,
          policyVersion: 0,
          payload: { made: "up" },
          ...more,
        })),
      ),
    );
  }

  const submit = (lease: Lease, node: TestNode, packHash = somePack) =>
    server.prisma.$transaction((tx) =>
      acceptSubmission(tx, { taskId: lease.taskId, attempt: lease.attempt, nodeId: node.id, packHash }),
    );

  /** Moves a lease's deadline into the past, where its row says so. */
  const lapse = (lease: Lease) =>
    server.prisma.task.update({
      where: { id: lease.taskId },
      data: { leaseUntil: new Date(Date.now() - 1) },
    });

  const taskState = async (id: string) =>
    (await server.prisma.task.findUniqueOrThrow({ where: { id } })).state;
  const attemptStates = async (taskId: string) =>
    (await server.prisma.attempt.findMany({ where: { taskId }, orderBy: { number: "asc" } })).map(
      (attempt) => attempt.state,
    );

  /** Moves the start of a lease into the past. */
  const age = (lease: Lease, seconds: number) =>
    server.prisma.attempt.updateMany({
      where: { taskId: lease.taskId, number: lease.attempt },
      data: { claimedAt: new Date(Date.now() - seconds * 1000) },
    });

  return { runWithTasks, openGenerate, submit, lapse, taskState, attemptStates, age };
}
