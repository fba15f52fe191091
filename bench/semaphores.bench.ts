import {
  KeyedMutex,
  limit,
  Mutex,
  RateLimiter,
  Semaphore,
  type WaitOptions,
} from "../concepts/semaphores.ts";
import { checkCrowd, checkThresholds } from "./thresholds.ts";

const COUNT = 1_000;
const semaphore = new Semaphore(8);
const single = new Mutex();
const keyed = new KeyedMutex<number>();
const limiter = new RateLimiter({ limit: 1_000_000, interval: 1, burst: 1_000_000_000 });
const work = async () => await undefined;

await checkThresholds([
  {
    name: "acquire and release a free permit, 1,000 times",
    subject: [
      "Semaphore",
      async () => {
        for (let n = 0; n < COUNT; n++) (await semaphore.acquire()).release();
      },
    ],
    baseline: ["await", awaits],
    atMost: 3.7,
  },
  {
    name: "1,000 tasks with 8 permits",
    subject: ["Semaphore.run", () => all(() => semaphore.run(work))],
    baseline: ["Promise.all", () => all(work)],
    atMost: 5.4,
  },
  {
    name: "1,000 tasks, 8 at once",
    subject: [
      "limit",
      () => {
        const run = limit(8);
        return all(() => run(work));
      },
    ],
    baseline: ["eight loops", () => Promise.all(Array.from({ length: 8 }, loop))],
    atMost: 6.4,
  },
  {
    name: "1,000 tasks in line for a lock",
    subject: ["Mutex.run", () => all(() => single.run(work))],
    baseline: ["a promise chain", chain],
    atMost: 2.5,
  },
  {
    name: "1,000 keys that are free",
    subject: ["KeyedMutex.run", () => all((n) => keyed.run(n, work))],
    baseline: ["Promise.all", () => all(work)],
    atMost: 14,
  },
  {
    name: "1,000 tokens that are there",
    subject: [
      "RateLimiter.acquire",
      async () => {
        for (let n = 0; n < COUNT; n++) await limiter.acquire();
      },
    ],
    baseline: ["await", awaits],
    atMost: 5.5,
  },
  {
    name: "a task in a line of 10,000 for a lock",
    subject: ["10,000 tasks once", () => inLine(10_000)],
    baseline: ["1,000 ten times", () => tenTimes(inLine)],
    atMost: 2,
  },
  {
    name: "leaving a line of 10,000 by one signal",
    subject: ["10,000 waiters once", () => cancelTogether(10_000)],
    baseline: ["1,000 ten times", () => tenTimes(cancelTogether)],
    atMost: 2.8,
  },
]);

await checkCrowd("Semaphore.acquire", () => {
  const line = new Semaphore(1);
  const held = line.tryAcquire()!;
  const wait = async (options?: WaitOptions) => (await line.acquire(options)).release();
  return { wait, wake: () => held.release() };
});

function all<T>(task: (index: number) => Promise<T>, count = COUNT): Promise<T[]> {
  return Promise.all(Array.from({ length: count }, (_, index) => task(index)));
}

async function awaits(): Promise<void> {
  for (let n = 0; n < COUNT; n++) await undefined;
}

async function loop(): Promise<void> {
  for (let n = 0; n < COUNT / 8; n++) await work();
}

function chain(): Promise<unknown> {
  let last: Promise<unknown> = Promise.resolve();
  return all(() => (last = last.then(work)));
}

async function tenTimes(task: (count: number) => Promise<unknown>): Promise<void> {
  for (let n = 0; n < 10; n++) await task(1_000);
}

function inLine(count: number): Promise<unknown> {
  return all(() => single.run(work), count);
}

async function cancelTogether(count: number): Promise<void> {
  const line = new Semaphore(1);
  await line.acquire();
  const controller = new AbortController();
  const waiting = Array.from({ length: count }, () => line.acquire({ signal: controller.signal }));
  controller.abort();
  await Promise.allSettled(waiting);
}
