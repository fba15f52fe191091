/** Streams. The sources are generators, as they mostly are; the answer is a sum or a count. */
import * as ix from "ix/asynciterable";
import { buffer as ixBuffer, filter as ixFilter, map as ixMap } from "ix/asynciterable/operators";
import { pMapIterable } from "p-map";
import * as streaming from "streaming-iterables";

import { batch, filter, lines, map, merge, parallelMap, tee } from "../../concepts/generators.ts";
import type { Job } from "./rounds.ts";

const double = (n: number) => 2 * n;
const isThird = (n: number) => n % 3 === 0;

async function* numbers(count: number): AsyncGenerator<number> {
  for (let n = 0; n < count; n++) yield n;
}

async function sum(source: AsyncIterable<number>): Promise<number> {
  let total = 0;
  for await (const n of source) total += n;
  return total;
}

/** The number of values, and the length of all. */
async function measure(source: AsyncIterable<{ length: number }>): Promise<number[]> {
  let [count, length] = [0, 0];
  for await (const value of source) {
    count++;
    length += value.length;
  }
  return [count, length];
}

async function* mapByHand<T, R>(source: AsyncIterable<T>, fn: (value: T) => R) {
  for await (const value of source) yield fn(value);
}

async function* filterByHand<T>(source: AsyncIterable<T>, fn: (value: T) => boolean) {
  for await (const value of source) if (fn(value)) yield value;
}

const mapAndFilter: Job = {
  name: "map + filter, 10,000",
  ours: { name: "generators", run: () => sum(filter(map(numbers(10_000), double), isThird)) },
  floor: {
    name: "two generators by hand",
    run: () => sum(filterByHand(mapByHand(numbers(10_000), double), isThird)),
  },
  peers: [
    {
      name: "streaming-iterables",
      givesUp: "leaving a pending next()",
      run: () => sum(streaming.filter(isThird, streaming.map(double, numbers(10_000)))),
    },
    {
      name: "IxJS",
      givesUp: "leaving a pending next()",
      run: () => sum(ix.from(numbers(10_000)).pipe(ixMap(double), ixFilter(isThird))),
    },
  ],
  reach: { fastest: 1, floor: 1.3 },
  node: { fastest: 1 },
};

const quarters = () => Array.from({ length: 4 }, () => numbers(2500));

const merging: Job = {
  name: "merge, 4 x 2,500",
  ours: { name: "generators", run: () => sum(merge(...quarters())) },
  floor: {
    name: "one source after the other",
    run: async () => {
      let total = 0;
      for (const source of quarters()) total += await sum(source);
      return total;
    },
  },
  peers: [
    {
      name: "streaming-iterables parallelMerge",
      givesUp: "closing its sources",
      run: () => sum(streaming.parallelMerge(...quarters())),
    },
    {
      name: "IxJS merge",
      givesUp: "closing its sources",
      run: () => {
        const [first, ...others] = quarters() as [AsyncGenerator<number>];
        return sum(ix.merge(first, ...others));
      },
    },
  ],
  reach: { fastest: 0.8, floor: 4 },
};

const work = async (n: number) => 2 * n;

const mappingInParallel: Job = {
  name: "parallelMap, 1,000 over 8",
  ours: {
    name: "generators",
    run: () => sum(parallelMap(numbers(1000), work, { concurrency: 8 })),
  },
  floor: {
    name: "one at a time",
    run: async () => {
      let total = 0;
      for await (const n of numbers(1000)) total += await work(n);
      return total;
    },
  },
  peers: [
    {
      name: "p-map pMapIterable",
      givesUp: "awaited close, fn's signal",
      run: () => sum(pMapIterable(numbers(1000), work, { concurrency: 8 })),
    },
    {
      name: "streaming-iterables parallelMap",
      givesUp: "awaited close, fn's signal",
      run: () => sum(streaming.parallelMap(8, work, numbers(1000))),
    },
  ],
  reach: { fastest: 0.9 },
};

const batching: Job = {
  name: "batch, 10,000 by 100",
  ours: { name: "generators", run: () => measure(batch(numbers(10_000), 100)) },
  floor: {
    name: "by hand",
    run: () => measure(batchByHand(numbers(10_000), 100)),
  },
  peers: [
    {
      name: "streaming-iterables",
      givesUp: "the values before an error",
      run: () => measure(streaming.batch(100, numbers(10_000))),
    },
    {
      name: "IxJS buffer",
      givesUp: "the values before an error",
      run: () => measure(ix.from(numbers(10_000)).pipe(ixBuffer(100))),
    },
  ],
  reach: { fastest: 1, floor: 1.5 },
};

async function* batchByHand<T>(source: AsyncIterable<T>, size: number) {
  let chunk: T[] = [];
  for await (const value of source) {
    if (chunk.push(value) < size) continue;
    yield chunk;
    chunk = [];
  }
  if (chunk.length > 0) yield chunk;
}

const bytes = new TextEncoder().encode(
  "The quick brown fox jumps over the lazy dog, and 24 other animals.\n".repeat(150_000),
);

function chunks(): ReadableStream<Uint8Array<ArrayBuffer>> {
  let from = 0;
  return new ReadableStream({
    pull(controller) {
      if (from === bytes.length) return controller.close();
      controller.enqueue(bytes.slice(from, from + 65_536));
      from = Math.min(from + 65_536, bytes.length);
    },
  });
}

/**
 * Deno's std is not on npm: this is how its TextLineStream works, less the option for a lone `\r`,
 * used as its users do, behind a TextDecoderStream.
 */
class TextLineStream extends TransformStream<string, string> {
  constructor() {
    let rest = "";
    super({
      transform(text, controller) {
        text = rest + text;
        for (let end; (end = text.indexOf("\n")) >= 0; text = text.slice(end + 1)) {
          const isCrLf = text[end - 1] === "\r";
          controller.enqueue(text.slice(0, isCrLf ? end - 1 : end));
        }
        rest = text;
      },
      flush(controller) {
        if (rest) controller.enqueue(rest);
      },
    });
  }
}

const readingLines: Job = {
  name: "lines, 10 MB",
  ours: { name: "generators", run: () => measure(lines(chunks())) },
  floor: { name: "TextDecoder + indexOf", run: () => measure(linesByHand(chunks())) },
  peers: [
    {
      name: "TextDecoderStream + TextLineStream as in Deno's std",
      run: () =>
        measure(chunks().pipeThrough(new TextDecoderStream()).pipeThrough(new TextLineStream())),
    },
    {
      name: "node:readline",
      givesUp: "the web's streams",
      run: async () => {
        const { createInterface } = await import("node:readline");
        const { Readable } = await import("node:stream");
        const input = Readable.fromWeb(chunks() as never);
        return measure(createInterface({ input, crlfDelay: Infinity }));
      },
    },
  ],
  reach: { fastest: 0.8, floor: 1.1 },
};

async function* linesByHand(stream: ReadableStream<Uint8Array>) {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const chunk of stream) {
    const text = rest + decoder.decode(chunk, { stream: true });
    let from = 0;
    for (let end; (end = text.indexOf("\n", from)) >= 0; from = end + 1) {
      yield text.slice(from, text[end - 1] === "\r" ? end - 1 : end);
    }
    rest = text.slice(from);
  }
  if (rest) yield rest;
}

const sumBoth = async (readers: AsyncIterable<number>[]) => Promise.all(readers.map(sum));

const teeing: Job = {
  name: "tee(2), 10,000",
  ours: { name: "generators", run: () => sumBoth(tee(numbers(10_000), 2)) },
  floor: { name: "two sources", run: () => sumBoth([numbers(10_000), numbers(10_000)]) },
  peers: [
    {
      name: "ReadableStream.tee",
      run: () => sumBoth(toReadable(numbers(10_000)).tee()),
    },
  ],
  reach: { fastest: 0.7, floor: 3 },
};

function toReadable<T>(source: AsyncGenerator<T>): ReadableStream<T> {
  return new ReadableStream(
    {
      async pull(controller) {
        const step = await source.next();
        if (step.done) controller.close();
        else controller.enqueue(step.value);
      },
      cancel: async () => void (await source.return(undefined)),
    },
    { highWaterMark: 0 },
  );
}

export const jobs: Job[] = [
  mapAndFilter,
  merging,
  mappingInParallel,
  batching,
  readingLines,
  teeing,
];
