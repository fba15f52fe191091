import fc from "fast-check";

import { interleavings, type World } from "../../concepts/interleavings.ts";
import type { Job } from "./rounds.ts";

declare function setImmediate(callback: () => void): unknown;

/** Three tasks of two steps have 90 orders if all start at once, and 1,680 if they don't. */
const ORDERS = 1680;
const TASKS = ["ann", "bob", "cyd"];

export const jobs: Job[] = [
  {
    name: "interleavings, 1,680 orders of nine choices",
    ours: { name: "interleavings", run: exploreAll },
    floor: { name: "turns of setImmediate", run: turns },
    peers: [{ name: "fast-check scheduler", givesUp: "trying all, fewest switches", run: sample }],
    reach: { fastest: 1, floor: 3.5 },
  },
];

async function exploreAll(): Promise<number> {
  const scenario = async (world: World) => {
    const task = async () => {
      await world.step("one");
      await world.step("two");
    };
    await Promise.all(TASKS.map((name) => world.spawn(name, task)));
  };
  const { runs } = await interleavings(scenario, { maxMs: Infinity });
  return runs;
}

/** As many orders, drawn at random. */
async function sample(): Promise<number> {
  let runs = 0;
  const property = fc.asyncProperty(fc.scheduler(), async (scheduler) => {
    const task = async () => {
      await scheduler.schedule(Promise.resolve("start"));
      await scheduler.schedule(Promise.resolve("one"));
      await scheduler.schedule(Promise.resolve("two"));
    };
    const ended = Promise.all(TASKS.map(task));
    await scheduler.waitFor(ended);
    runs++;
  });
  await fc.assert(property, { numRuns: ORDERS });
  return runs;
}

async function turns(): Promise<number> {
  for (let turn = 0; turn < ORDERS * 9; turn++) {
    await new Promise<void>((resolve) => setImmediate(resolve));
  }
  return ORDERS;
}
