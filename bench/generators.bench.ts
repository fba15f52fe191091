import { buffer, lines, map, merge, parallelMap, tee } from "../concepts/generators.ts";
import { checkThresholds } from "./thresholds.ts";

const COUNT = 1000;
const double = (n: number) => 2 * n;
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

const bareLoop = [
  "for await",
  async () => {
    for await (const n of numbers()) await double(n);
  },
] as const;

await checkThresholds([
  {
    name: "a value through one operator",
    subject: ["map", () => drain(map(numbers(), double))],
    baseline: bareLoop,
    atMost: 12,
  },
  {
    name: "a value of one among ten sources",
    subject: [
      "merge",
      () => drain(merge(...Array.from({ length: 10 }, () => numbers(COUNT / 10)))),
    ],
    baseline: bareLoop,
    atMost: 20,
  },
  {
    name: "a value read ahead",
    subject: ["buffer", () => drain(buffer(numbers(), 16))],
    baseline: bareLoop,
    atMost: 40,
  },
  {
    name: "a value worked on at once with others",
    subject: ["parallelMap", () => drain(parallelMap(numbers(), double, { concurrency: 16 }))],
    baseline: bareLoop,
    atMost: 40,
  },
  {
    name: "a line of a stream of bytes",
    subject: ["lines", () => drain(lines(inPieces(16_384)))],
    baseline: ["split, for await", () => drain(splitAll())],
    atMost: 5,
  },
  {
    name: "a long line costs the same per byte as a short one",
    subject: [
      "1 MB in pieces of 100 bytes",
      () => drain(lines(inPieces(100, new Uint8Array(1e6)))),
    ],
    baseline: ["10 kB", () => drain(lines(inPieces(100, new Uint8Array(1e4))))],
    atMost: 300,
  },
  {
    name: "how far a reader lags does not matter",
    subject: ["100,000 values behind", () => lag(100_000)],
    baseline: ["1,000", () => lag(1_000)],
    atMost: 600,
  },
]);

async function* splitAll(): AsyncGenerator<string> {
  let all = "";
  const decoder = new TextDecoder();
  for await (const piece of inPieces(16_384)) all += decoder.decode(piece, { stream: true });
  yield* all.split("\n");
}

async function lag(count: number): Promise<void> {
  const [fast, slow] = tee(numbers(count), 2);
  await drain(fast!);
  await drain(slow!);
}
