import { abortable, lazy, sleep, timeout } from "../concepts/async-basics.ts";
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
    atMost: 25,
  },
  {
    name: "a task that is done at once",
    subject: ["timeout", () => timeout(task, 1000)],
    baseline: ["await", async () => await task()],
    atMost: 50,
  },
  {
    name: "a value that is there",
    subject: ["lazy", () => get()],
    baseline: ["await", async () => await settled],
    atMost: 6,
  },
  {
    name: "sleeping costs the same in a crowd",
    subject: ["100,000 sleep and are aborted with one signal", () => sleepTogether(100_000)],
    baseline: ["1,000", () => sleepTogether(1_000)],
    atMost: 400,
  },
]);

async function sleepTogether(count: number): Promise<void> {
  const controller = new AbortController();
  const { signal } = controller;
  const sleeping = Array.from({ length: count }, () => sleep(60_000, { signal }));
  controller.abort();
  await Promise.allSettled(sleeping);
}
