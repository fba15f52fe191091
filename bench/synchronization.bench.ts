import { heapStats } from "bun:jsc";

import { Mutex } from "../concepts/semaphores.ts";
import {
  AsyncEvent,
  Barrier,
  Condition,
  Latch,
  ReadWriteLock,
} from "../concepts/synchronization.ts";
import { checkThresholds, judge } from "./thresholds.ts";

const isQuick = process.env["BENCH"] === "quick";

await checkThresholds([
  {
    name: "1,000 wait for one event, per waiter",
    subject: ["AsyncEvent", waitForEvent],
    baseline: ["a list of resolvers", waitForList],
    atMost: 3,
  },
  {
    name: "1,000 count down a latch, per count",
    subject: ["Latch", countDown],
    baseline: ["a counter and a promise", countDownByHand],
    atMost: 3.8,
  },
  {
    name: "8 parties meet 125 times, per arrival",
    subject: ["Barrier", () => meet(new Barrier(8))],
    baseline: ["a list of resolvers", () => meet(new BareBarrier(8))],
    atMost: 5,
  },
  {
    name: "an arrival at a barrier costs the same in a crowd",
    subject: ["10,000 parties", () => arrive(1, 10_000)],
    baseline: ["1,000 parties, ten times", () => arrive(10, 1000)],
    atMost: 2,
  },
  {
    name: "1,000 reads of a free lock, per read",
    subject: ["ReadWriteLock", readFree],
    baseline: ["await", awaitNothing],
    atMost: 5,
  },
  {
    name: "1,000 in line, every tenth a writer, per caller",
    subject: ["ReadWriteLock", readAndWrite],
    baseline: ["Mutex", lockInLine],
    atMost: 2,
  },
  {
    name: "two tasks take 1,000 turns, per turn",
    subject: ["Condition", takeTurns],
    baseline: ["Mutex, locked twice for each", lockTwice],
    atMost: 4,
  },
]);

async function waitForEvent(): Promise<void> {
  const event = new AsyncEvent();
  const waits = Array.from({ length: 1000 }, () => event.wait());
  event.set();
  await Promise.all(waits);
}

async function waitForList(): Promise<void> {
  const resolvers: (() => void)[] = [];
  const wait = () => new Promise<void>((resolve) => resolvers.push(resolve));
  const waits = Array.from({ length: 1000 }, wait);
  for (const resolve of resolvers) resolve();
  await Promise.all(waits);
}

async function countDown(): Promise<void> {
  const latch = new Latch(1000);
  const waited = latch.wait();
  for (let n = 0; n < 1000; n++) latch.countDown();
  await waited;
}

async function countDownByHand(): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  let count = 1000;
  const report = (n = 1) => {
    if (n > count) throw new RangeError();
    count -= n;
    if (count === 0) resolve();
  };
  for (let n = 0; n < 1000; n++) report();
  await promise;
}

async function meet(barrier: { wait(): Promise<unknown> }): Promise<void> {
  const play = async () => {
    for (let round = 0; round < 125; round++) await barrier.wait();
  };
  await Promise.all(Array.from({ length: 8 }, play));
}

async function arrive(times: number, parties: number): Promise<void> {
  for (let n = 0; n < times; n++) {
    const barrier = new Barrier(parties);
    await Promise.all(Array.from({ length: parties }, () => barrier.wait()));
  }
}

class BareBarrier {
  readonly #parties: number;
  #waiting: ((index: number) => void)[] = [];

  constructor(parties: number) {
    this.#parties = parties;
  }

  wait(): Promise<number> {
    return new Promise((resolve) => {
      if (this.#waiting.push(resolve) < this.#parties) return;
      this.#waiting.forEach((resolve, index) => resolve(index));
      this.#waiting = [];
    });
  }
}

async function readFree(): Promise<void> {
  const lock = new ReadWriteLock();
  for (let n = 0; n < 1000; n++) (await lock.read()).release();
}

async function awaitNothing(): Promise<void> {
  for (let n = 0; n < 1000; n++) await undefined;
}

async function readAndWrite(): Promise<void> {
  const lock = new ReadWriteLock();
  const use = async (n: number) => (await (n % 10 ? lock.read() : lock.write())).release();
  await Promise.all(Array.from({ length: 1000 }, (_, n) => use(n)));
}

async function lockInLine(): Promise<void> {
  const mutex = new Mutex();
  const use = async () => (await mutex.lock()).release();
  await Promise.all(Array.from({ length: 1000 }, use));
}

async function takeTurns(): Promise<void> {
  const mutex = new Mutex();
  const condition = new Condition(mutex);
  let next = 0;
  const play = async (player: number) => {
    const lock = await mutex.lock();
    for (let n = 0; n < 500; n++) {
      await condition.waitFor(() => next === player);
      next = 1 - player;
      condition.notify();
    }
    lock.release();
  };
  await Promise.all([play(0), play(1)]);
}

async function lockTwice(): Promise<void> {
  const mutex = new Mutex();
  const use = async () => {
    for (let n = 0; n < 1000; n++) (await mutex.lock()).release();
  };
  await Promise.all([use(), use()]);
}

// A crowd waits, half of it is aborted in random order, and the others are woken. What counts is
// that a crowd costs as much as ten of a tenth.

/** Brings a crowd to wait, and returns what wakes it. Calls `done` for each that is settled. */
type Crowd = (size: number, signals: AbortSignal[], done: () => void) => () => unknown;

const crowds: Record<string, Crowd> = {
  AsyncEvent: (size, signals, done) => {
    const event = new AsyncEvent();
    for (let n = 0; n < size; n++) {
      void event.wait(n % 2 ? { signal: signals[(n >> 1) % signals.length] } : {}).then(done, done);
    }
    return () => event.set();
  },
  Condition: (size, signals, done) => {
    const mutex = new Mutex();
    const condition = new Condition(mutex);
    const wait = async (options: { signal?: AbortSignal | undefined }) => {
      const lock = await mutex.lock();
      await condition.wait(options).catch(() => {});
      lock.release();
      done();
    };
    for (let n = 0; n < size; n++) {
      void wait(n % 2 ? { signal: signals[(n >> 1) % signals.length] } : {});
    }
    return () => mutex.run(() => condition.notifyAll());
  },
};

// A task that waits for a condition keeps four times as much on the heap.
const sizes = { AsyncEvent: isQuick ? 100_000 : 1_000_000, Condition: isQuick ? 50_000 : 200_000 };
for (const [name, size] of Object.entries(sizes)) {
  let growth: Cost | undefined = await measureGrowth(name, size);
  for (const what of ["time", "bytes"] as const) {
    const threshold = {
      name: `${what}, when half of those that wait are aborted in random order`,
      subject: [`${name}, ${size.toLocaleString("en")}`, () => {}],
      baseline: [`ten times ${(size / 10).toLocaleString("en")}`, () => {}],
      atMost: (what === "time" ? 2 : 1.1) * (isQuick ? 2 : 1),
    } as const;
    const { met, line } = await judge(threshold, async () => {
      const { [what]: median } = (growth ??= await measureGrowth(name, size));
      if (median > threshold.atMost) growth = undefined;
      return { low: median, median, high: median };
    });
    console.log(line);
    if (!met) process.exitCode = 1;
  }
}

/** What a crowd costs. */
interface Cost {
  /** Microseconds of the processor. */
  time: number;
  /** Bytes of the heap, while it waits. */
  bytes: number;
}

/** How many times as much a crowd costs as ten of a tenth. */
async function measureGrowth(name: string, size: number): Promise<Cost> {
  // Warm, so that the first don't pay for the compiler.
  for (let n = 0; n < 20; n++) await measure(crowds[name]!, 1000);
  const few: Cost = { time: 0, bytes: 0 };
  for (let n = 0; n < 10; n++) {
    const { time, bytes } = await measure(crowds[name]!, size / 10);
    few.time += time;
    few.bytes += bytes;
  }
  const many = await measure(crowds[name]!, size);
  return { time: many.time / few.time, bytes: many.bytes / few.bytes };
}

/** In processor time: a single long run can't be told from one that others have interrupted. */
async function measure(crowd: Crowd, size: number): Promise<Cost> {
  // Ten listen to each signal.
  const controllers = Array.from({ length: size / 20 }, () => new AbortController());
  const signals = controllers.map(({ signal }) => signal);
  let settled = 0;
  const before = await heapSize();
  const start = cpuTime();
  const wake = crowd(size, signals, () => void settled++);
  await turn();
  const started = cpuTime();
  // A few bytes for each, so that a ratio of next to nothing is none.
  const bytes = Math.max(16 * size, (await heapSize()) - before);
  const middle = cpuTime();
  for (const controller of shuffle(controllers)) controller.abort();
  wake();
  while (settled < size) await turn();
  return { time: started - start + cpuTime() - middle, bytes };
}

/** Microseconds. */
function cpuTime(): number {
  const { user, system } = process.cpuUsage();
  return user + system;
}

function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

/** In later turns, when nothing is left on the stack. */
async function heapSize(): Promise<number> {
  for (let n = 0; n < 2; n++) {
    await turn();
    Bun.gc(true);
  }
  return heapStats().heapSize;
}

function shuffle<T>(values: T[]): T[] {
  for (let last = values.length - 1; last > 0; last--) {
    const other = Math.floor(Math.random() * (last + 1));
    [values[last], values[other]] = [values[other]!, values[last]!];
  }
  return values;
}
