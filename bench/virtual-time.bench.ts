import { virtualTime } from "../concepts/virtual-time.ts";
import { checkThresholds } from "./thresholds.ts";

const sleep = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));
const turn = () => new Promise<void>((resolve) => setImmediate(resolve));

await checkThresholds([
  {
    name: "an hour takes no longer than a real millisecond",
    subject: ["an hour in virtualTime", () => virtualTime(() => sleep(3_600_000))],
    baseline: ["setTimeout of 1 ms", () => sleep(1)],
    atMost: 1,
  },
  {
    name: "1,000 sleeps, one after the other, and as many turns of the event loop",
    subject: ["virtualTime", () => virtualTime(() => repeat(1_000, () => sleep(100)))],
    baseline: ["setImmediate", () => repeat(1_000, turn)],
    atMost: 6,
  },
  {
    name: "a timer costs the same in a crowd",
    subject: ["100,000 timers", () => virtualTime(() => crowd(100_000))],
    baseline: ["1,000", () => virtualTime(() => crowd(1_000))],
    atMost: 400,
  },
]);

async function repeat(times: number, step: () => Promise<void>): Promise<void> {
  for (let time = 0; time < times; time++) await step();
}

async function crowd(size: number): Promise<void> {
  await Promise.all(Array.from({ length: size }, () => sleep(Math.random() * 1e6)));
}
