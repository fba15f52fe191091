/**
 * Checks what the benchmarks promise. Every promise is a ratio of two functions measured in the
 * same run, because an absolute time says more about the machine and its other guests than about
 * the code.
 */
import { bench, group, measure, run, summary } from "mitata";

/** A function to measure, under the name that the tables show. */
export type Case = readonly [name: string, fn: () => unknown];

/** A promise about cost. */
export interface Threshold {
  /** What is compared. */
  name: string;
  subject: Case;
  /** What it is held against: the bare language feature, or the same with less. */
  baseline: Case;
  /** How many times as long as the baseline the subject may take. */
  atMost: number;
}

/** What came of a {@link Threshold}. */
export interface Verdict {
  met: boolean;
  line: string;
}

// mitata's own options; min_cpu_time is in nanoseconds.
const THOROUGH = { min_cpu_time: 100e6, min_samples: 5, warmup_samples: 1 };
const QUICK = { min_cpu_time: 10e6, min_samples: 2, warmup_samples: 1 };

/**
 * Prints mitata's tables, then a verdict a threshold, and sets the exit code to 1 if one is missed.
 *
 * With `BENCH=quick` it leaves out the tables, measures shortly and doubles what is allowed.
 */
export async function checkThresholds(thresholds: readonly Threshold[]): Promise<void> {
  const quick = process.env["BENCH"] === "quick";
  if (!quick) await printTables(thresholds);
  for (const threshold of thresholds) {
    const { met, line } = await judge(
      { ...threshold, atMost: threshold.atMost * (quick ? 2 : 1) },
      () => measureRatio(threshold, quick ? QUICK : THOROUGH),
    );
    console.log(line);
    if (!met) process.exitCode = 1;
  }
}

/** Compares a measured ratio with what is allowed. A miss is measured twice more before it counts. */
export async function judge(
  { name, subject, baseline, atMost }: Threshold,
  measure: () => Promise<number>,
): Promise<Verdict> {
  let ratio = await measure();
  for (let retry = 0; !(ratio <= atMost) && retry < 2; retry++) ratio = await measure();
  const met = ratio <= atMost;
  const verdict = met ? "ok  " : "MISS";
  const measured = `${ratio.toFixed(2).padStart(7)} x, at most ${String(atMost).padEnd(4)}`;
  return { met, line: `${verdict} ${measured}  ${name} (${subject[0]} / ${baseline[0]})` };
}

async function printTables(thresholds: readonly Threshold[]): Promise<void> {
  for (const { name, subject, baseline } of thresholds) {
    group(name, () =>
      summary(() => {
        bench(...baseline).baseline();
        bench(...subject);
      }),
    );
  }
  await run();
}

/** The median of three ratios, each of two medians taken one right after the other. */
async function measureRatio(
  { subject, baseline }: Threshold,
  options: typeof QUICK,
): Promise<number> {
  const ratios: number[] = [];
  for (let round = 0; round < 3; round++) {
    const below = await measure(baseline[1], options);
    const above = await measure(subject[1], options);
    ratios.push(above.p50 / below.p50);
  }
  return ratios.sort((a, b) => a - b)[1]!;
}
