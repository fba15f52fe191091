/**
 * How time and memory grow with the crowd, from 1,000 to 1,000,000 (with `BENCH=quick` to 100,000).
 * Each brings a crowd in flight, and then lets all of it go. What counts is the growth
 * for ten times the crowd, on average, compared with that of `Promise.all`: the heap itself gets
 * slower, too.
 */
import { heapStats } from "bun:jsc";

import * as mitata from "mitata";

import { gather, mapConcurrent } from "../concepts/concurrency.ts";
import { merge, tee } from "../concepts/generators.ts";
import { Semaphore } from "../concepts/semaphores.ts";

/** Brings a crowd in flight, and returns what lets it go and waits until it has gone. */
type Crowd = (size: number) => () => Promise<unknown>;

const crowds: Record<string, Crowd> = {
  "Promise.all": (size) => {
    const { open, opened } = gate();
    const all = Promise.all(Array.from({ length: size }, () => opened()));
    return () => (open(), all);
  },
  "Semaphore.acquire": (size) => {
    const semaphore = new Semaphore(1);
    const first = semaphore.acquire();
    const pass = async () => (await semaphore.acquire()).release();
    const all = Promise.all(Array.from({ length: size }, pass));
    return async () => ((await first).release(), await all);
  },
  gather: (size) => {
    const { open, opened } = gate();
    const all = gather(Array.from({ length: size }, () => () => opened()));
    return () => (open(), all);
  },
  mapConcurrent: (size) => {
    const { open, opened } = gate();
    const items = Array.from({ length: size }, (_, index) => index);
    const all = mapConcurrent(items, () => opened(), { concurrency: Infinity });
    return () => (open(), all);
  },
  // It holds nothing but what its ten sources are about to yield.
  "merge, of ten sources": (size) => {
    const { open, opened } = gate();
    const part = async function* () {
      await opened();
      for (let n = 0; n < size / 10; n++) yield n;
    };
    const all = consume(merge(...Array.from({ length: 10 }, part)));
    return () => (open(), all);
  },
  "tee, with one so far behind": (size) => {
    const items = Array.from({ length: size }, (_, index) => index);
    const [ahead, behind] = tee(items, 2);
    const read = consume(ahead!);
    return async () => (await read, await consume(behind!));
  },
};

const isQuick = process.env["BENCH"] === "quick";
const sizes = isQuick ? [1000, 10_000, 100_000] : [1000, 10_000, 100_000, 1_000_000];

const measured: Record<string, Sample[]> = {};
for (const [name, crowd] of Object.entries(crowds)) measured[name] = await measureSizes(crowd);
if (!isQuick) {
  draw("time, from 1,000 to 1,000,000", ({ ms }) => ms);
  draw("memory, from 1,000 to 1,000,000", ({ bytes }) => bytes);
}
for (const name of Object.keys(crowds).slice(1)) {
  const slack = isQuick ? 2 : 1;
  await judge(name, "time", 1.3 * slack, ({ ms }) => ms);
  await judge(name, "memory", 1.3 * slack, ({ bytes }) => bytes);
}

interface Sample {
  /** Milliseconds to bring the crowd in flight and to let it go. */
  ms: number;
  /** What the crowd in flight keeps on the heap. */
  bytes: number;
}

async function measureSizes(crowd: Crowd): Promise<Sample[]> {
  // Warm, so that the first size doesn't pay for the compiler.
  for (let n = 0; n < 50; n++) await crowd(1000)();
  const samples: Sample[] = [];
  for (const size of sizes) samples.push(await measure(crowd, size));
  return samples;
}

async function measure(crowd: Crowd, size: number): Promise<Sample> {
  const runs = Math.max(1, Math.min(21, (isQuick ? 100_000 : 300_000) / size));
  const samples: Sample[] = [];
  for (let run = 0; run < runs; run++) samples.push(await measureOnce(crowd, size));
  const median = (value: (sample: Sample) => number) =>
    samples.map(value).sort((a, b) => a - b)[samples.length >> 1]!;
  return { ms: median(({ ms }) => ms), bytes: median(({ bytes }) => bytes) };
}

async function measureOnce(crowd: Crowd, size: number): Promise<Sample> {
  const before = await heapSize();
  const start = performance.now();
  const letGo = crowd(size);
  const started = performance.now();
  // A few bytes for each, so that a ratio of next to nothing is none.
  const bytes = Math.max(16 * size, (await heapSize()) - before);
  const middle = performance.now();
  await letGo();
  return { ms: started - start + (performance.now() - middle), bytes };
}

/** In a later turn: streams have opened by then what they need, and nothing is left on the stack. */
async function heapSize(): Promise<number> {
  await new Promise((resolve) => setImmediate(resolve));
  Bun.gc(true);
  return heapStats().heapSize;
}

async function judge(
  name: string,
  what: string,
  atMost: number,
  value: (sample: Sample) => number,
): Promise<void> {
  const growthOf = (of: string) => {
    const samples = measured[of]!;
    const growth = value(samples.at(-1)!) / value(samples[0]!);
    return growth ** (1 / (samples.length - 1));
  };
  const ratio = () => growthOf(name) / growthOf("Promise.all");
  if (!(ratio() <= atMost)) {
    measured["Promise.all"] = await measureSizes(crowds["Promise.all"]!);
    measured[name] = await measureSizes(crowds[name]!);
  }
  const met = ratio() <= atMost;
  const verdict = `${met ? "ok  " : "MISS"} ${ratio().toFixed(2).padStart(7)} x, at most ${atMost}`;
  console.log(`${verdict}   ten times the crowd, ${what} (${name} / Promise.all)`);
  if (!met) process.exitCode = 1;
}

/** Both axes are logarithmic: what grows in step with the crowd is a straight line. */
function draw(title: string, value: (sample: Sample) => number): void {
  // Exported by mitata, but not declared.
  const { $ } = mitata as unknown as {
    $: { lineplot: { ascii(map: object, options: object): string[] } };
  };
  const logs = Object.entries(measured).map(
    ([name, samples]) =>
      [name, samples.map((sample) => Math.log10(Math.max(1e-3, value(sample))))] as const,
  );
  const all = logs.flatMap(([, ys]) => ys);
  const [min, max] = [Math.min(...all), Math.max(...all)];
  const lines = logs.map(([name, ys]) => [
    name,
    { x: ys.map((_, index) => index / (ys.length - 1)), y: ys.map((y) => (y - min) / (max - min)) },
  ]);
  const options = {
    width: 44,
    height: 16,
    xmin: 0,
    xmax: 1,
    ymin: 0,
    ymax: 1,
    key: 28,
    colors: {},
  };
  console.log(`\n• ${title}, both axes logarithmic\n`);
  for (const line of $.lineplot.ascii(Object.fromEntries(lines), options)) console.log(line);
}

function gate() {
  const waiting: (() => void)[] = [];
  return {
    opened: () => new Promise<void>((resolve) => void waiting.push(resolve)),
    open: () => waiting.forEach((resolve) => resolve()),
  };
}

async function consume(stream: AsyncIterable<unknown>): Promise<void> {
  for await (const _ of stream);
}
