import {
  batch,
  buffer,
  filter,
  lines,
  map,
  merge,
  parallelMap,
  takeUntil,
  tee,
} from "../concepts/generators.ts";
import { checkThresholds } from "./thresholds.ts";

const COUNT = 2_000;
const double = (n: number) => 2 * n;
const isThird = (n: number) => n % 3 === 0;
const work = async (n: number) => 2 * n;
const { signal } = new AbortController();
const text = "The quick brown fox jumps over the lazy dog\n".repeat(COUNT);
const bytes = new TextEncoder().encode(text);

async function* numbers(count = COUNT): AsyncGenerator<number> {
  for (let n = 0; n < count; n++) yield n;
}

async function* inPieces(size: number, data = bytes): AsyncGenerator<Uint8Array> {
  for (let from = 0; from < data.length; from += size) yield data.subarray(from, from + size);
}

async function drain(source: AsyncIterable<unknown>): Promise<void> {
  for await (const _ of source);
}

async function repeat(times: number, act: () => Promise<unknown>): Promise<void> {
  for (let n = 0; n < times; n++) await act();
}

const bareLoop = ["for await", () => drain(numbers())] as const;

await checkThresholds([
  {
    name: "2,000 lines of a stream of bytes",
    subject: ["lines", () => drain(lines(inPieces(16_384)))],
    baseline: ["split, for await", () => drain(splitAll())],
    atMost: 1.5,
  },
  {
    name: "2,000 values through two operators",
    subject: ["map + filter", () => drain(filter(map(numbers(), double), isThird))],
    baseline: ["two generators", () => drain(filterByHand(mapByHand()))],
    atMost: 2.6,
  },
  {
    name: "2,000 values of ten sources",
    subject: [
      "merge",
      () => drain(merge(...Array.from({ length: 10 }, () => numbers(COUNT / 10)))),
    ],
    baseline: bareLoop,
    atMost: 6,
  },
  {
    name: "2,000 values that an abort may cut off",
    subject: ["takeUntil", () => drain(takeUntil(numbers(), signal))],
    baseline: bareLoop,
    atMost: 5.5,
  },
  {
    name: "2,000 values read ahead",
    subject: ["buffer", () => drain(buffer(numbers(), 16))],
    baseline: bareLoop,
    atMost: 7,
  },
  {
    name: "2,000 values worked on 16 at a time",
    subject: ["parallelMap", () => drain(parallelMap(numbers(), work, { concurrency: 16 }))],
    baseline: [
      "await",
      async () => {
        for await (const n of numbers()) await work(n);
      },
    ],
    atMost: 6.5,
  },
  {
    name: "2,000 values in batches of 100",
    subject: ["batch", () => drain(batch(numbers(), 100))],
    baseline: ["by hand", () => drain(batchByHand(100))],
    atMost: 2.6,
  },
  {
    name: "a byte of a long line costs as much as one of a short line",
    subject: ["1 x 200 kB", () => drain(lines(inPieces(100, new Uint8Array(2e5))))],
    baseline: [
      "20 x 10 kB",
      () => repeat(20, () => drain(lines(inPieces(100, new Uint8Array(1e4))))),
    ],
    atMost: 1.5,
  },
  {
    name: "a value costs as much however far a reader lags",
    subject: ["1 x 20,000 behind", () => lag(20_000)],
    baseline: ["20 x 1,000 behind", () => repeat(20, () => lag(1_000))],
    atMost: 2.5,
  },
  {
    name: "a value of a long stream costs as much as one of a short stream",
    subject: ["1 x 20,000", () => pipeline(20_000)],
    baseline: ["20 x 1,000", () => repeat(20, () => pipeline(1_000))],
    atMost: 1.5,
  },
  {
    name: "a value of many sources costs as much as one of few",
    subject: ["2,000 x 10", () => drain(merge(...sources(2_000)))],
    baseline: ["20 times 100 x 10", () => repeat(20, () => drain(merge(...sources(100))))],
    atMost: 3,
  },
]);

async function* mapByHand(): AsyncGenerator<number> {
  for await (const n of numbers()) yield double(n);
}

async function* filterByHand(source: AsyncIterable<number>): AsyncGenerator<number> {
  for await (const n of source) if (isThird(n)) yield n;
}

async function* batchByHand(size: number): AsyncGenerator<number[]> {
  let chunk: number[] = [];
  for await (const n of numbers()) {
    if (chunk.push(n) < size) continue;
    yield chunk;
    chunk = [];
  }
  if (chunk.length > 0) yield chunk;
}

async function* splitAll(): AsyncGenerator<string> {
  let all = "";
  const decoder = new TextDecoder();
  for await (const piece of inPieces(16_384)) all += decoder.decode(piece, { stream: true });
  yield* all.split("\n");
}

async function lag(count: number): Promise<void> {
  const [fast, slow] = tee(numbers(count), 2);
  await drain(fast);
  await drain(slow);
}

function pipeline(count: number): Promise<void> {
  const doubled = map(numbers(count), double);
  return drain(batch(parallelMap(doubled, work, { concurrency: 8 }), 100));
}

function sources(count: number): AsyncGenerator<number>[] {
  return Array.from({ length: count }, () => numbers(10));
}
