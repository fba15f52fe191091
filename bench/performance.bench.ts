import { Histogram, measure } from "../concepts/performance.ts";
import { checkThresholds } from "./thresholds.ts";

const instant = async () => {};
/** From 1 to 1,000 ms, most of them short. */
const latencies = Array.from(
  { length: 10_000 },
  (_, n) => 10 ** ((3 * ((n * 7919) % 10_000)) / 10_000),
);
const isQuick = process.env["BENCH"] === "quick";

await checkThresholds([
  {
    name: "5,000 calls, per call",
    subject: ["measure", () => measure(instant, { iterations: 5000 })],
    baseline: ["await between two readings of the clock", () => time(instant)],
    atMost: 3.6,
  },
  {
    name: "5,000 calls at a rate that can't be kept up, per call",
    subject: ["open loop", () => measure(instant, { rate: 1e9, iterations: 5000 })],
    baseline: ["closed loop", () => measure(instant, { iterations: 5000 })],
    atMost: 3.5,
  },
  {
    name: "10,000 latencies and their p50, p90, p99 and p99.9",
    subject: ["Histogram", () => percentiles(latencies)],
    baseline: ["a sorted list", () => sorted(latencies)],
    atMost: 0.5,
  },
  {
    name: "a latency costs the same after a million",
    subject: ["1,000,000 in one Histogram", () => record(1_000_000)],
    baseline: ["10,000 in each of a hundred", () => repeat(100, () => record(10_000))],
    atMost: 1.5,
  },
]);
checkMemory(isQuick ? 1_000_000 : 10_000_000);

async function time(task: () => Promise<void>): Promise<number> {
  let total = 0;
  for (let n = 0; n < 5000; n++) {
    const start = performance.now();
    await task();
    total += performance.now() - start;
  }
  return total;
}

function percentiles(values: readonly number[]): number[] {
  const histogram = new Histogram();
  for (const value of values) histogram.record(value);
  return [histogram.p50, histogram.p90, histogram.p99, histogram.p999];
}

function sorted(values: readonly number[]): number[] {
  const list: number[] = [];
  for (const value of values) list.push(value);
  list.sort((a, b) => a - b);
  return [0.5, 0.9, 0.99, 0.999].map((part) => list[Math.ceil(part * list.length) - 1]!);
}

function record(count: number): Histogram {
  const histogram = new Histogram();
  for (let n = 0; n < count; n++) histogram.record(latencies[n % latencies.length]!);
  return histogram;
}

function repeat(times: number, run: () => void): void {
  for (let n = 0; n < times; n++) run();
}

/** A list of as many numbers would take 8 bytes for each. */
function checkMemory(count: number): void {
  const used = () => {
    Bun.gc(true);
    const { heapUsed, arrayBuffers } = process.memoryUsage();
    return heapUsed + arrayBuffers;
  };
  const before = used();
  const histogram = record(count);
  const bytes = used() - before;
  const met = bytes < 1_000_000 && histogram.count === count;
  const million = count / 1e6;
  console.log(
    `${met ? "ok  " : "MISS"} ${bytes} bytes for ${million} million latencies, at most 1 MB`,
  );
  if (!met) process.exitCode = 1;
}
