import { KeyedMutex, limit, Mutex, RateLimiter, Semaphore } from "../concepts/semaphores.ts";
import { checkThresholds } from "./thresholds.ts";

const semaphore = new Semaphore(1);
const mutex = new Mutex();
const keyed = new KeyedMutex<string>();
const run = limit(1);
const limiter = new RateLimiter({ limit: 1_000_000, interval: 1, burst: 1_000_000_000 });
const work = async () => {};

await checkThresholds([
  {
    name: "a permit that is free",
    subject: ["Semaphore.run", () => semaphore.run(work)],
    baseline: ["await", async () => await work()],
    atMost: 20,
  },
  {
    name: "a lock that is free",
    subject: ["Mutex.run", () => mutex.run(work)],
    baseline: ["Semaphore.run", () => semaphore.run(work)],
    atMost: 3,
  },
  {
    name: "a key that is free",
    subject: ["KeyedMutex.run", () => keyed.run("key", work)],
    baseline: ["Semaphore.run", () => semaphore.run(work)],
    atMost: 5,
  },
  {
    name: "a token that is there",
    subject: ["RateLimiter.acquire", () => limiter.acquire()],
    baseline: ["Semaphore.run", () => semaphore.run(work)],
    atMost: 3,
  },
  {
    name: "100 tasks in line for one place",
    subject: ["limit", () => Promise.all(Array.from({ length: 100 }, () => run(work)))],
    baseline: ["Promise.all", () => Promise.all(Array.from({ length: 100 }, work))],
    atMost: 50,
  },
  {
    name: "waiting costs the same in a long line",
    subject: ["100,000 waiters served", () => serve(100_000)],
    baseline: ["1,000", () => serve(1_000)],
    atMost: 400,
  },
  {
    name: "leaving costs the same from anywhere in a long line",
    subject: ["100,000 waiters cancelled in random order", () => cancel(100_000)],
    baseline: ["1,000", () => cancel(1_000)],
    atMost: 400,
  },
  {
    name: "one signal for all costs the same in a long line",
    subject: ["100,000 waiters with one signal", () => cancelTogether(100_000)],
    baseline: ["1,000", () => cancelTogether(1_000)],
    atMost: 400,
  },
]);

async function serve(count: number): Promise<void> {
  const line = new Semaphore(1);
  await Promise.all(Array.from({ length: count }, () => line.run(work)));
}

async function cancel(count: number): Promise<void> {
  const line = new Semaphore(1);
  await line.acquire();
  const controllers = Array.from({ length: count }, () => new AbortController());
  const waiting = controllers.map(({ signal }) => line.acquire({ signal }));
  for (const controller of shuffle(controllers)) controller.abort();
  await Promise.allSettled(waiting);
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
