import { interleavings, type World } from "../concepts/interleavings.ts";
import { checkThresholds } from "./thresholds.ts";

/** 1,680 orders of nine choices. */
const TASKS = [2, 2, 2];
const CHOICES = 15_120;

await checkThresholds([
  {
    name: "a choice, and 3.5 turns of the event loop",
    subject: ["interleavings, 1,680 orders", () => explore(TASKS)],
    baseline: [`${CHOICES} times setImmediate`, () => turns(CHOICES)],
    atMost: 3.5,
  },
  {
    name: "a choice costs the same when there are many orders",
    subject: ["15,120 choices in 1,680 orders", () => explore(TASKS)],
    baseline: ["14,700 in 10 × 210", () => repeat(10, () => explore([2, 1, 1]))],
    atMost: 1.6,
  },
]);

/** Tasks of so many steps each, in all their orders. */
async function explore(tasks: number[]): Promise<void> {
  const scenario = async (world: World) => {
    const run = async (steps: number) => {
      for (let step = 0; step < steps; step++) await world.step("step");
    };
    await Promise.all(tasks.map((steps, i) => world.spawn(`task ${i}`, () => run(steps))));
  };
  await interleavings(scenario, { maxMs: Infinity });
}

async function turns(count: number): Promise<void> {
  await new Promise<void>((resolve) => {
    const turn = () => (--count > 0 ? setImmediate(turn) : resolve());
    setImmediate(turn);
  });
}

async function repeat(times: number, task: () => Promise<void>): Promise<void> {
  for (let time = 0; time < times; time++) await task();
}
