import { KeyedMutex, limit, Mutex, RateLimiter, Semaphore } from "../concepts/semaphores.ts";
import { checkThresholds, judge } from "./thresholds.ts";

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
    atMost: 6,
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
    atMost: 8,
  },
  {
    name: "1,000 tasks in line for a lock",
    subject: ["Mutex.run", () => all(() => single.run(work))],
    baseline: ["a promise chain", chain],
    atMost: 3.3,
  },
  {
    name: "1,000 keys that are free",
    subject: ["KeyedMutex.run", () => all((n) => keyed.run(n, work))],
    baseline: ["Promise.all", () => all(work)],
    atMost: 16,
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

await checkCrowd("Semaphore.acquire", (controllers) => {
  const line = new Semaphore(1);
  const held = line.tryAcquire()!;
  const pass = async (options?: { signal: AbortSignal }) => (await line.acquire(options)).release();
  const waiting = controllers.flatMap(({ signal }) => [pass({ signal }), pass()]);
  return () => (held.release(), Promise.allSettled(waiting));
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

function shuffle<T>(values: T[]): T[] {
  for (let last = values.length - 1; last > 0; last--) {
    const other = Math.floor(Math.random() * (last + 1));
    [values[last], values[other]] = [values[other]!, values[last]!];
  }
  return values;
}

/** Brings waiters in line, half of them with a signal each; returns what lets all of them go. */
type Crowd = (controllers: AbortController[]) => () => Promise<unknown>;

/** Judges what a waiter costs in a crowd, held against one in a crowd of a tenth. */
async function checkCrowd(name: string, crowd: Crowd): Promise<void> {
  const isQuick = process.env["BENCH"] === "quick";
  const size = isQuick ? 100_000 : 1_000_000;
  let ratios = { time: NaN, memory: NaN };
  const measureAll = async () => {
    await perWaiter(crowd, 10_000); // Warm.
    const few = await perWaiter(crowd, size / 10);
    const many = await perWaiter(crowd, size);
    ratios = { time: many.time / few.time, memory: many.memory / few.memory };
  };
  for (const unit of ["time", "memory"] as const) {
    const threshold = {
      name: `${unit} per waiter, of whom half are aborted in random order`,
      subject: [`${name}, ${size}`, doNothing],
      baseline: [`${size / 10}`, doNothing],
      atMost: (unit === "time" ? 2 : 1.2) * (isQuick ? 2 : 1),
    } as const;
    const { met, line } = await judge(threshold, async () => {
      if (unit === "time") await measureAll();
      return { low: ratios[unit], median: ratios[unit], high: ratios[unit] };
    });
    console.log(line);
    if (!met) process.exitCode = 1;
  }
}

async function perWaiter(crowd: Crowd, size: number): Promise<{ time: number; memory: number }> {
  const controllers = Array.from({ length: size / 2 }, () => new AbortController());
  const before = await heapSize();
  const start = performance.now();
  const letGo = crowd(controllers);
  const arrived = performance.now();
  const memory = (await heapSize()) - before;
  const restart = performance.now();
  for (const controller of shuffle(controllers)) controller.abort();
  await letGo();
  const ms = arrived - start + (performance.now() - restart);
  return { time: ms / size, memory: memory / size };
}

async function heapSize(): Promise<number> {
  await new Promise((resolve) => setImmediate(resolve));
  Bun.gc(true);
  return process.memoryUsage().heapUsed;
}

function doNothing(): void {}
