import { systemCtx } from "../src/context.ts";
import { bootstrap } from "../src/organizations/bootstrap.ts";
import { startServer } from "../src/server.ts";
import { withoutSync } from "./blobs.ts";
import { openInstallation } from "./installation.ts";
import { goLive } from "./live.ts";
import { readOptions, usage } from "./options.ts";
import { type Simulated, simulate } from "./simulate.ts";
import { account } from "./world.ts";

// `npm run simulate`: makes a database full of runs, or goes on with one.

process.exitCode = await main().catch((error: unknown) => {
  process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
  return 1;
});

async function main(): Promise<number> {
  let options: ReturnType<typeof readOptions>;
  try {
    options = readOptions(process.argv.slice(2));
  } catch (error) {
    process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n\n${usage}`);
    return 2;
  }
  if (options === null) {
    process.stdout.write(usage);
    return 0;
  }
  const { seed, scale, rate, json } = options;
  const say = (text: string) => void process.stderr.write(`${text}\n`);
  const stop = new AbortController();
  process.once("SIGINT", () => stop.abort());
  process.once("SIGTERM", () => stop.abort());

  await using installation = await openInstallation(options);
  const server = await startServer(installation.config);
  try {
    const { services } = server;
    const found = await services.prisma.organization.findFirst({
      where: { metadata: { contains: '"simulation"' } },
      orderBy: { id: "asc" },
    });
    const runs = await services.prisma.run.count();
    const goesOn = found !== null && rate !== null && !options.into;
    if (found !== null && !goesOn && !options.into) {
      say(
        "This database holds a simulation already. Go on with it (--events 3000/s), add another one (--into --seed <other>), or name an empty database.",
      );
      return 1;
    }
    if (runs > 0 && found === null && !options.into) {
      say(
        `This database holds ${runs} runs that are no simulation. Name an empty database, or say --into to add a simulation beside them.`,
      );
      return 1;
    }
    // The first organization of a simulation, whose name bootstrap() finds it by.
    const taken = (await services.prisma.organization.count()) > 0;
    const suffix = taken ? `-${seed}` : "";
    const made = goesOn ? undefined : await simulate(services, { seed, scale, suffix, say });
    if (made !== undefined) tell(made, say);
    const signIn = await bootstrap(services, {
      organizationName: made?.world.organizations[0]?.name ?? found?.name ?? account.organizationName,
      email: account.email,
    });
    say(`Sign in once  ${signIn.signInUrl}`);
    const report = rate === null ? undefined : await live();
    if (report !== undefined)
      say(
        `${report.events} events in ${report.seconds.toFixed(1)} s: ${report.rate}/s, with ${report.groups} groups and ${report.steps} steps.`,
      );
    if (json)
      process.stdout.write(
        `${JSON.stringify({
          ...(made === undefined
            ? {}
            : {
                rows: Object.fromEntries(made.rows),
                points: made.points,
                seconds: made.seconds,
                present: made.present,
              }),
          ...(report === undefined ? {} : { live: report }),
          signInUrl: signIn.signInUrl,
        })}\n`,
      );
    return 0;

    async function live() {
      const blobs = withoutSync(services.blobs, services.config.stateDir);
      const run = await services.prisma.run.findFirstOrThrow({
        where: { state: "RUNNING", organization: { metadata: { contains: '"simulation"' } } },
        orderBy: { groups: { _count: "desc" } },
      });
      say(
        `Live: ${run.name} at ${rate} events a second${options?.seconds ? ` for ${options.seconds} s` : "; Ctrl-C stops it"}`,
      );
      return await goLive(systemCtx({ ...services, blobs }, "simulation"), {
        runId: run.id,
        seed: made === undefined ? seedOf(found) : seed,
        rate: rate ?? 0,
        seconds: options?.seconds ?? null,
        signal: stop.signal,
        say,
      });
    }
  } finally {
    await server.stop();
  }
}

/** The seed that a simulation was made with: its trainer's key follows from it. */
function seedOf(organization: { metadata: string | null } | null): string {
  const { simulation }: { simulation?: { seed?: string } } = JSON.parse(organization?.metadata ?? "{}");
  return simulation?.seed ?? "1";
}

function tell({ rows, points, seconds, present }: Simulated, say: (text: string) => void): void {
  const total = [...rows.values()].reduce((sum, count) => sum + count, 0);
  say(
    `${total} rows of the past in ${seconds.toFixed(1)} s (${Math.round(total / seconds)}/s): ${rows.get("Rollout") ?? 0} rollouts, ${points} points, ${rows.get("Node") ?? 0} nodes.`,
  );
  if (present.groups > 0)
    say(
      `${present.groups} groups through the coordinator in ${present.seconds.toFixed(1)} s (${(present.groups / present.seconds).toFixed(1)}/s), ${present.steps} steps and evaluations.`,
    );
}
