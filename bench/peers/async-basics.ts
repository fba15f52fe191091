import pTimeout from "p-timeout";

import { timeout, yieldNow } from "../../concepts/async-basics.ts";
import type { Job } from "./rounds.ts";

const COUNT = 100;
const task = async () => 42;

/** Does it over and over, one after the other, and returns the sum of the answers. */
const repeat = (once: () => Promise<number>) => async () => {
  let sum = 0;
  for (let n = 0; n < COUNT; n++) sum += await once();
  return sum;
};

const turns = (turn: () => Promise<unknown>) => repeat(() => turn().then(() => 1));

export const jobs: Job[] = [
  {
    name: `timeout, success, ×${COUNT}`,
    ours: { name: "timeout", run: repeat(() => timeout(task, 1000)) },
    floor: { name: "a race with a timer", run: repeat(() => raceWithTimer(task(), 1000)) },
    peers: [
      {
        name: "p-timeout",
        givesUp: "telling the task",
        run: repeat(() => pTimeout(task(), { milliseconds: 1000 })),
      },
    ],
    reach: { fastest: 0.8, floor: 2 },
  },
  {
    name: `yieldNow, ×${COUNT}`,
    ours: { name: "yieldNow", run: turns(() => yieldNow()) },
    floor: {
      name: "a turn of setImmediate",
      run: turns(() => new Promise((resolve) => setImmediate(resolve))),
    },
    peers: [],
    reach: { floor: 1.5 },
  },
];

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
