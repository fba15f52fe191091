import { Pool } from "../concepts/pools.ts";
import { checkThresholds } from "./thresholds.ts";

const COUNT = 1_000;
const RESOURCES = 8;

const create = async () => ({});
const work = async (_resource: object) => 1;
const pool = new Pool({ create, max: RESOURCES });
const byHand = poolByHand();

await checkThresholds([
  {
    name: "1,000 uses of an idle resource, one after the other",
    subject: ["Pool.use", () => oneAfterTheOther(() => pool.use(work))],
    baseline: ["by hand", () => oneAfterTheOther(() => byHand(work))],
    atMost: 2,
  },
  {
    name: "1,000 uses of 8 resources, all at once",
    subject: ["Pool.use", () => allAtOnce(() => pool.use(work))],
    baseline: ["by hand", () => allAtOnce(() => byHand(work))],
    atMost: 2.9,
  },
  {
    name: "leaving costs the same in a long line",
    subject: ["10,000 waiters cancelled, last first", () => cancel(10_000)],
    baseline: ["1,000 waiters, ten times", () => repeat(10, () => cancel(1_000))],
    atMost: 1.8,
  },
  {
    name: "one signal for all costs the same in a long line",
    subject: ["10,000 waiters with one signal", () => cancelTogether(10_000)],
    baseline: ["1,000 waiters, ten times", () => repeat(10, () => cancelTogether(1_000))],
    atMost: 1.8,
  },
  {
    name: "being served costs the same in a long line",
    subject: ["10,000 waiters", () => serve(10_000)],
    baseline: ["1,000 waiters, ten times", () => repeat(10, () => serve(1_000))],
    atMost: 1.8,
  },
]);

/** A list of idle resources, and one of those who wait for them. */
function poolByHand() {
  const idle: object[] = [];
  const waiting: ((resource: object) => void)[] = [];
  let served = 0;
  let size = 0;
  return async (fn: (resource: object) => Promise<number>) => {
    let resource = idle.pop();
    if (!resource) {
      if (size < RESOURCES) {
        size++;
        resource = await create();
      } else resource = await new Promise<object>((resolve) => waiting.push(resolve));
    }
    try {
      return await fn(resource);
    } finally {
      if (served < waiting.length) waiting[served++]!(resource);
      else {
        waiting.length = served = 0;
        idle.push(resource);
      }
    }
  };
}

async function oneAfterTheOther(use: () => Promise<unknown>): Promise<void> {
  for (let n = 0; n < COUNT; n++) await use();
}

async function allAtOnce(use: () => Promise<unknown>): Promise<void> {
  await Promise.all(Array.from({ length: COUNT }, use));
}

async function repeat(times: number, act: () => Promise<unknown>): Promise<void> {
  for (let n = 0; n < times; n++) await act();
}

async function serve(count: number): Promise<void> {
  const line = new Pool({ create, max: 1 });
  await Promise.all(Array.from({ length: count }, () => line.use(work)));
}

async function cancel(count: number): Promise<void> {
  const line = new Pool({ create, max: 1 });
  await line.acquire();
  const controllers = Array.from({ length: count }, () => new AbortController());
  const waiting = controllers.map(({ signal }) => line.acquire({ signal }));
  for (const controller of controllers.reverse()) controller.abort();
  await Promise.allSettled(waiting);
}

async function cancelTogether(count: number): Promise<void> {
  const line = new Pool({ create, max: 1 });
  await line.acquire();
  const controller = new AbortController();
  const waiting = Array.from({ length: count }, () => line.acquire({ signal: controller.signal }));
  controller.abort();
  await Promise.allSettled(waiting);
}
