import { abortable, lazy, sleep, timeout, yieldNow } from "../concepts/async-basics.ts";
import { checkThresholds } from "./thresholds.ts";

const { signal } = new AbortController();
const settled = Promise.resolve(42);
const task = async () => 42;
const get = lazy(task);

await checkThresholds([
  {
    name: "a wait that can be aborted",
    subject: ["abortable", () => abortable(settled, signal)],
    baseline: ["await", async () => await settled],
    atMost: 18,
  },
  {
    name: "a task that is done at once",
    subject: ["timeout", () => timeout(task, 1000)],
    baseline: ["a race with a timer", () => raceWithTimer(task(), 1000)],
    atMost: 3,
  },
  {
    name: "a turn of the event loop",
    subject: ["yieldNow", () => yieldNow()],
    baseline: ["setImmediate", () => new Promise((resolve) => setImmediate(resolve))],
    atMost: 1.5,
  },
  {
    name: "a value that is there",
    subject: ["lazy", () => get()],
    baseline: ["await", async () => await settled],
    atMost: 1.2,
  },
  {
    name: "sleeping costs the same in a crowd",
    subject: ["10,000 sleep and are aborted with one signal", () => sleepTogether(10_000)],
    baseline: ["100, 100 times", () => repeat(100, () => sleepTogether(100))],
    atMost: 2,
  },
]);

async function sleepTogether(count: number): Promise<void> {
  const controller = new AbortController();
  const { signal } = controller;
  const sleeping = Array.from({ length: count }, () => sleep(60_000, { signal }));
  controller.abort();
  await Promise.allSettled(sleeping);
}

async function repeat(times: number, act: () => Promise<void>): Promise<void> {
  for (let n = 0; n < times; n++) await act();
}

async function raceWithTimer<T>(promise: Promise<T>, ms: number): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const tooLate = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error("too late")), ms);
  });
  try {
    return await Promise.race([promise, tooLate]);
  } finally {
    clearTimeout(timer);
  }
}
