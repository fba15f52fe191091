import { virtualTime } from "../concepts/virtual-time.ts";
import { checkThresholds } from "./thresholds.ts";

const sleep = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));
const turn = () => new Promise<void>((resolve) => setImmediate(resolve));

/** A busy machine must not end the run. */
const PATIENT = { realTimeLimit: Infinity };

await checkThresholds([
  {
    name: "an hour takes no longer than a real millisecond",
    subject: ["an hour in virtualTime", () => virtualTime(() => sleep(3_600_000))],
    baseline: ["setTimeout of 1 ms", () => sleep(1)],
    atMost: 0.16,
  },
  {
    name: "1,000 sleeps, one after the other, and as many turns of the event loop",
    subject: ["virtualTime", () => virtualTime(() => repeat(1_000, () => sleep(100)))],
    baseline: ["setImmediate", () => repeat(1_000, turn)],
    atMost: 2.2,
  },
  {
    name: "1,000 timers side by side, and as many turns of the event loop",
    subject: ["virtualTime", () => virtualTime(() => crowd(1_000), PATIENT)],
    baseline: ["setImmediate", () => repeat(1_000, turn)],
    atMost: 2.5,
  },
  {
    name: "a timer costs the same in a crowd",
    subject: ["10,000 timers", () => virtualTime(() => crowd(10_000), PATIENT)],
    baseline: ["10 × 1,000", () => repeat(10, () => virtualTime(() => crowd(1_000), PATIENT))],
    atMost: 1.8,
  },
]);

async function repeat(times: number, step: () => Promise<void>): Promise<void> {
  for (let time = 0; time < times; time++) await step();
}

async function crowd(size: number): Promise<void> {
  await Promise.all(Array.from({ length: size }, () => sleep(Math.random() * 1e6)));
}
