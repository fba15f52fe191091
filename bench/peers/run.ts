/**
 * Holds the concepts against the strongest libraries for the same jobs. Installs what is missing,
 * shows its progress, and ends with a verdict per job.
 *
 *     bun run bench:peers                 # all jobs, on Bun, and on Node those that say so
 *     bun run bench:peers "gather"        # the jobs whose name contains the text
 */
import { compareAnswers, compete, type Job, verdict } from "./rounds.ts";

declare const process: {
  argv: string[];
  execPath: string;
  exitCode?: number;
  versions: Record<string, string | undefined>;
};

const FILES = [
  "semaphores",
  "concurrency",
  "errors",
  "async-basics",
  "generators",
  "pools",
  "mocks",
  "virtual-time",
  "queues",
  "interleavings",
  "performance",
  "synchronization",
];

const { Bun } = globalThis as { Bun?: any };
const here = new URL(".", import.meta.url).pathname;
const wanted = process.argv[2] ?? "";

if (Bun) {
  const install = [process.execPath, "install", "--frozen-lockfile", "--silent"];
  const { exitCode } = Bun.spawnSync(install, {
    cwd: here,
    stdio: ["ignore", "inherit", "inherit"],
  });
  if (exitCode !== 0) throw new Error("Cannot install the peers");
}

const runtime = Bun ? `Bun ${Bun.version}` : `Node ${process.versions["node"]}`;
const lines: string[] = [];
for (const file of FILES) {
  const { jobs } = (await import(`./${file}.ts`)) as { jobs: Job[] };
  for (const job of jobs) {
    if (!job.name.includes(wanted) || (!Bun && !job.node)) continue;
    const target: Job = Bun ? job : { ...job, reach: job.node! };
    console.error(`… ${runtime}: ${job.name}`);
    await compareAnswers(target);
    const { reached, line } = verdict(target, await compete(target));
    lines.push(line);
    if (!reached) process.exitCode = 1;
  }
}
console.log(`\n${runtime}\n\n${lines.join("\n\n")}`);

if (Bun) {
  const command = ["npx", "-y", "-p", "node@26", "-c", `node "${here}run.ts" "${wanted}"`];
  const { exitCode } = Bun.spawnSync(command, {
    cwd: here,
    stdio: ["ignore", "inherit", "inherit"],
  });
  if (exitCode !== 0) process.exitCode = 1;
}
