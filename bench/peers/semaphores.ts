import { Mutex as AsyncMutex, Semaphore as AsyncSemaphore } from "async-mutex";
import { Sema } from "async-sema";
import { limitAsync, Mutex as EsMutex, Semaphore as EsSemaphore } from "es-toolkit";
import pLimit from "p-limit";

import { limit, Mutex, Semaphore } from "../../concepts/semaphores.ts";
import type { Job } from "./rounds.ts";

const COUNT = 1_000;
const CONCURRENCY = 8;
const work = async (value: number) => {
  await undefined;
  return value + 1;
};
const all = <T>(run: (index: number) => T) =>
  Promise.all(Array.from({ length: COUNT }, (_, n) => run(n)));
const sum = (values: number[]) => values.reduce((total, value) => total + value, 0);

const ES = "cancel, weights, a single release";
const ASYNC_MUTEX = "cancel by signal";

export const jobs: Job[] = [
  {
    name: "acquire + release, free",
    ours: {
      name: "Semaphore.acquire",
      run: async () => {
        const semaphore = new Semaphore(CONCURRENCY);
        for (let n = 0; n < COUNT; n++) (await semaphore.acquire()).release();
        return semaphore.available;
      },
    },
    floor: {
      name: "await",
      run: async () => {
        for (let n = 0; n < COUNT; n++) await undefined;
        return CONCURRENCY;
      },
    },
    peers: [
      {
        name: "es-toolkit Semaphore",
        givesUp: ES,
        run: async () => {
          const semaphore = new EsSemaphore(CONCURRENCY);
          for (let n = 0; n < COUNT; n++) {
            await semaphore.acquire();
            semaphore.release();
          }
          return semaphore.available;
        },
      },
      {
        name: "async-mutex Semaphore",
        givesUp: ASYNC_MUTEX,
        run: async () => {
          const semaphore = new AsyncSemaphore(CONCURRENCY);
          for (let n = 0; n < COUNT; n++) {
            const [, release] = await semaphore.acquire();
            release();
          }
          return semaphore.getValue();
        },
      },
      {
        name: "async-sema",
        givesUp: ES,
        run: async () => {
          const semaphore = new Sema(CONCURRENCY);
          for (let n = 0; n < COUNT; n++) {
            await semaphore.acquire();
            semaphore.release();
          }
          return CONCURRENCY;
        },
      },
    ],
    reach: { fastest: 1.5, floor: 2.5 },
    node: { fastest: 2 },
  },
  {
    name: "Semaphore.run, 1,000 over 8",
    ours: {
      name: "Semaphore.run",
      run: async () => {
        const semaphore = new Semaphore(CONCURRENCY);
        return sum(await all((n) => semaphore.run(() => work(n))));
      },
    },
    floor: { name: "Promise.all", run: async () => sum(await all((n) => work(n))) },
    peers: [
      {
        name: "es-toolkit Semaphore",
        givesUp: ES,
        run: async () => {
          const semaphore = new EsSemaphore(CONCURRENCY);
          return sum(
            await all(async (n) => {
              await semaphore.acquire();
              try {
                return await work(n);
              } finally {
                semaphore.release();
              }
            }),
          );
        },
      },
      {
        name: "async-mutex Semaphore",
        givesUp: ASYNC_MUTEX,
        run: async () => {
          const semaphore = new AsyncSemaphore(CONCURRENCY);
          return sum(await all((n) => semaphore.runExclusive(() => work(n))));
        },
      },
      {
        name: "async-sema",
        givesUp: ES,
        run: async () => {
          const semaphore = new Sema(CONCURRENCY);
          return sum(
            await all(async (n) => {
              await semaphore.acquire();
              try {
                return await work(n);
              } finally {
                semaphore.release();
              }
            }),
          );
        },
      },
    ],
    reach: { fastest: 0.95, floor: 3 },
    node: { fastest: 0.95 },
  },
  {
    name: "limit(8), 1,000",
    ours: {
      name: "limit",
      run: async () => {
        const run = limit(CONCURRENCY);
        return sum(await all((n) => run(work, n)));
      },
    },
    floor: {
      name: "eight loops",
      run: async () => {
        let next = 0;
        const results: number[] = [];
        const loop = async () => {
          for (let n = next++; n < COUNT; n = next++) results[n] = await work(n);
        };
        await Promise.all(Array.from({ length: CONCURRENCY }, loop));
        return sum(results);
      },
    },
    peers: [
      {
        name: "es-toolkit limitAsync",
        givesUp: "cancel, counts, settable concurrency",
        run: async () => {
          const run = limitAsync(work, CONCURRENCY);
          return sum(await all((n) => run(n)));
        },
      },
      {
        name: "p-limit",
        givesUp: "cancel by signal",
        run: async () => {
          const run = pLimit(CONCURRENCY);
          return sum(await all((n) => run(work, n)));
        },
      },
    ],
    reach: { fastest: 1, floor: 3.5 },
  },
  {
    name: "Mutex.run, 1,000 in line",
    ours: {
      name: "Mutex.run",
      run: async () => {
        const mutex = new Mutex();
        return sum(await all((n) => mutex.run(() => work(n))));
      },
    },
    floor: {
      name: "promise chain",
      run: async () => {
        let last: Promise<unknown> = Promise.resolve();
        return sum(
          await all((n) => {
            const result = last.then(() => work(n));
            last = result;
            return result;
          }),
        );
      },
    },
    peers: [
      {
        name: "es-toolkit Mutex",
        givesUp: "cancel, a single release",
        run: async () => {
          const mutex = new EsMutex();
          return sum(
            await all(async (n) => {
              await mutex.acquire();
              try {
                return await work(n);
              } finally {
                mutex.release();
              }
            }),
          );
        },
      },
      {
        name: "async-mutex Mutex",
        givesUp: ASYNC_MUTEX,
        run: async () => {
          const mutex = new AsyncMutex();
          return sum(await all((n) => mutex.runExclusive(() => work(n))));
        },
      },
    ],
    reach: { fastest: 0.9, floor: 1.6 },
  },
  {
    // With 100,000 at once all rounds take more than a minute.
    name: "cancel 10,000 in random order",
    ours: { name: "once", run: () => cancel(10_000, 1) },
    floor: { name: "1,000 ten times", run: () => cancel(1_000, 10) },
    peers: [],
    reach: { floor: 1.5 },
  },
];

/** Lets so many wait with a signal each, so many times, and aborts them in random order. */
async function cancel(count: number, times: number): Promise<number> {
  let cancelled = 0;
  for (let time = 0; time < times; time++) {
    const semaphore = new Semaphore(1);
    await semaphore.acquire();
    const controllers = Array.from({ length: count }, () => new AbortController());
    const waiting = controllers.map(({ signal }) => semaphore.acquire({ signal }));
    for (let last = count - 1; last > 0; last--) {
      const other = Math.floor(Math.random() * (last + 1));
      [controllers[last], controllers[other]] = [controllers[other]!, controllers[last]!];
    }
    for (const controller of controllers) controller.abort();
    const results = await Promise.allSettled(waiting);
    cancelled += results.filter(({ status }) => status === "rejected").length;
  }
  return cancelled;
}
