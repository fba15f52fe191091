import { install } from "@sinonjs/fake-timers";

import { virtualTime } from "../../concepts/virtual-time.ts";
import type { Job } from "./rounds.ts";

declare function setImmediate(callback: () => void): unknown;

/** A busy machine must not end the run. */
const PATIENT = { realTimeLimit: Infinity };

export const jobs: Job[] = [1_000, 100_000].map((size) => ({
  name: `virtualTime, ${size.toLocaleString("en")} timers`,
  ours: { name: "virtualTime", run: () => virtualTime(() => crowd(size), PATIENT) },
  floor: { name: "turns of setImmediate", run: () => turns(size) },
  peers: [{ name: "@sinonjs/fake-timers async", givesUp: "deadlocks", run: () => faked(size) }],
  reach: { fastest: 0.7, floor: size === 1_000 ? 2.5 : 4 },
}));

/** Sleeps of many lengths, side by side. Multiplying by a prime gives them no apparent order. */
async function crowd(size: number): Promise<number> {
  let woken = 0;
  const sleep = async (ms: number) => {
    await new Promise<void>((resolve) => setTimeout(resolve, ms));
    woken++;
  };
  await Promise.all(Array.from({ length: size }, (_, n) => sleep((n * 7919) % 1_000_003)));
  return woken;
}

async function turns(size: number): Promise<number> {
  let turn = 0;
  for (; turn < size; turn++) await new Promise<void>((resolve) => setImmediate(resolve));
  return turn;
}

async function faked(size: number): Promise<number> {
  const clock = install({ loopLimit: Infinity });
  try {
    const result = crowd(size);
    await clock.runAllAsync();
    return await result;
  } finally {
    clock.uninstall();
  }
}
