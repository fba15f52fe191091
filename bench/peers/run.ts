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
];
