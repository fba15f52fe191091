/**
 * Checks what the benchmarks promise. Every promise is a ratio of two functions measured in the
 * same run, because an absolute time says more about the machine and its other guests than about
 * the code.
 */
import { heapStats } from "bun:jsc";

import { B, bench, group, measure, run, summary } from "mitata";

import { compete, type Ratio } from "./peers/rounds.ts";

/** A function to measure, under the name that the tables show. */
export type Case = readonly [name: string, fn: () => unknown];

/** A promise about cost. */
export interface Threshold {
  /** What is compared, and per what. */
  name: string;
  subject: Case;
  /** What it is held against: the bare language feature, or the same work in smaller crowds. */
  baseline: Case;
  /** How many times as long as the baseline the subject may take. */
  atMost: number;
}

/** What came of a {@link Threshold}. */
export interface Verdict {
  met: boolean;
  line: string;
}

const isQuick = process.env["BENCH"] === "quick";

/**
 * Prints mitata's tables, then a verdict a threshold, and sets the exit code to 1 if one is missed.
 *
 * With `BENCH=quick` it leaves out the tables, measures shortly and doubles what is allowed.
 */
export async function checkThresholds(thresholds: readonly Threshold[]): Promise<void> {
  // Judged before the tables: what mitata has run in this process would slow down the first.
  const verdicts: Verdict[] = [];
  for (const threshold of thresholds) {
    const atMost = threshold.atMost * (isQuick ? 2 : 1);
    verdicts.push(await judge({ ...threshold, atMost }, () => measureRatio(threshold)));
  }
  if (!isQuick) await printTables(thresholds);
  for (const { met, line } of verdicts) {
    console.log(line);
    if (!met) process.exitCode = 1;
  }
}

/** Compares a measured ratio with what is allowed. A miss is measured twice more before it counts. */
export async function judge(
  { name, subject, baseline, atMost }: Threshold,
  measure: () => Promise<Pick<Ratio, "low" | "median" | "high">>,
): Promise<Verdict> {
  let ratio = await measure();
  for (let retry = 0; !(ratio.median <= atMost) && retry < 2; retry++) ratio = await measure();
  const { low, median, high } = ratio;
  const met = median <= atMost;
  const bound = `at most ${Number(atMost.toFixed(2))}`.padEnd(12);
  const line = `${met ? "ok  " : "MISS"} ${median.toFixed(2).padStart(7)} x, ${bound}  ${name} (${subject[0]} / ${baseline[0]})`;
  if (met) return { met, line };
  const spread = `half of the rounds lie between ${low.toFixed(2)} and ${high.toFixed(2)}`;
  const busy = low <= atMost ? "; some are within, so the machine may be busy: try again" : "";
  return { met, line: `${line}\n     measured three times; ${spread}${busy}` };
}

/** Something that a crowd waits for. */
export interface Crowded {
  /** One of the crowd. Settles when it has been woken or aborted. */
  wait(options: { signal: AbortSignal } | undefined): Promise<unknown>;
  /** Wakes those that are left, `count` of them. */
  wake(count: number): unknown;
}

/**
 * Checks that a crowd takes as much time and memory for each waiter as a tenth of it, of a million
 * or, with `BENCH=quick`, a tenth of that. Half of it is aborted in random order.
 */
export async function checkCrowd(name: string, create: () => Crowded): Promise<void> {
  const size = isQuick ? 100_000 : 1_000_000;
  const measureGrowth = async () => {
    // A short one can't be told from a collection of garbage.
    const few = { time: 0, memory: 0 };
    const times = isQuick ? 5 : 1;
    for (let n = 0; n < times; n++) {
      const { time, memory } = await measureCrowd(create(), size / 10);
      few.time += time / times;
      few.memory += memory / times;
    }
    const many = await measureCrowd(create(), size);
    return { time: many.time / few.time, memory: many.memory / few.memory };
  };
  // Warm, so that the first don't pay for the compiler.
  for (let n = 0; n < 10; n++) await measureCrowd(create(), 2000);
  let growth: Awaited<ReturnType<typeof measureGrowth>> | undefined = await measureGrowth();
  for (const unit of ["time", "memory"] as const) {
    const threshold = {
      name: `${unit} per waiter, when half of them are aborted in random order`,
      subject: [`${name}, ${size.toLocaleString("en")}`, () => {}],
      baseline: [(size / 10).toLocaleString("en"), () => {}],
      atMost: (unit === "time" ? 2 : 1.2) * (isQuick ? 2 : 1),
    } as const;
    const { met, line } = await judge(threshold, async () => {
      const { [unit]: ratio } = (growth ??= await measureGrowth());
      if (ratio > threshold.atMost) growth = undefined;
      return { low: ratio, median: ratio, high: ratio };
    });
    console.log(line);
    if (!met) process.exitCode = 1;
  }
}

/** What each of a crowd costs, in processor time: one long run is interrupted by others. */
async function measureCrowd(
  { wait, wake }: Crowded,
  size: number,
): Promise<{ time: number; memory: number }> {
  // Each signal has ten waiters all over the line: a controller costs more than a waiter.
  const controllers = Array.from({ length: size / 20 }, () => new AbortController());
  const options = controllers.map(({ signal }) => ({ signal }));
  let settled = 0;
  const done = () => void settled++;
  const before = await heapSize();
  const start = cpuTime();
  for (let n = 0; n < size; n++) {
    if (n % 1000 === 0) await undefined;
    void wait(n % 2 ? options[(n >> 1) % options.length] : undefined).then(done, done);
  }
  const arrived = cpuTime();
  const memory = (await heapSize()) - before;
  const restart = cpuTime();
  for (const controller of shuffle(controllers)) controller.abort();
  wake(size / 2);
  while (settled < size) await new Promise((resolve) => setImmediate(resolve));
  return { time: (arrived - start + cpuTime() - restart) / size, memory: memory / size };
}

/** Microseconds. */
function cpuTime(): number {
  const { user, system } = process.cpuUsage();
  return user + system;
}

/** In a later turn, when nothing is left on the stack. */
async function heapSize(): Promise<number> {
  await new Promise((resolve) => setImmediate(resolve));
  Bun.gc(true);
  return heapStats().heapSize;
}

function shuffle<T>(values: T[]): T[] {
  for (let last = values.length - 1; last > 0; last--) {
    const other = Math.floor(Math.random() * (last + 1));
    [values[last], values[other]] = [values[other]!, values[last]!];
  }
  return values;
}

async function measureRatio({ name, subject, baseline }: Threshold): Promise<Ratio> {
  const [ratio] = await compete(
    {
      name,
      ours: { name: subject[0], run: subject[1] },
      peers: [{ name: baseline[0], run: baseline[1] }],
      reach: {},
    },
    isQuick ? { rounds: 5, batchMs: 1 } : { rounds: 9, batchMs: 2 },
  );
  return ratio!;
}

async function printTables(thresholds: readonly Threshold[]): Promise<void> {
  for (const { name, subject, baseline } of thresholds) {
    group(name, () =>
      summary(() => {
        shorten(bench(...baseline).baseline());
        shorten(bench(...subject));
      }),
    );
  }
  await run();
}

/** Measures for 20 ms; with mitata's own 642 the tables would take longer than all the rest. */
function shorten(trial: B): void {
  const { f, _name, _group, flags } = trial as B & Record<string, any>;
  trial.run = async () => ({
    kind: "static",
    args: {},
    alias: _name,
    group: _group,
    baseline: flags === 2,
    runs: [
      {
        name: _name,
        args: {},
        error: undefined,
        stats: await measure(f, { min_cpu_time: 20e6, min_samples: 1, warmup_samples: 0 }),
      },
    ],
    style: { highlight: false, compact: false },
  });
}
