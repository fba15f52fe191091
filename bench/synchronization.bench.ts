import { Mutex } from "../concepts/semaphores.ts";
import {
  AsyncEvent,
  Barrier,
  Condition,
  Latch,
  ReadWriteLock,
  type WaitOptions,
} from "../concepts/synchronization.ts";
import { checkCrowd, checkThresholds } from "./thresholds.ts";

await checkThresholds([
  {
    name: "1,000 wait for one event, per waiter",
    subject: ["AsyncEvent", waitForEvent],
    baseline: ["a list of resolvers", waitForList],
    atMost: 3,
  },
  {
    name: "1,000 count down a latch, per count",
    subject: ["Latch", countDown],
    baseline: ["a counter and a promise", countDownByHand],
    atMost: 3.8,
  },
  {
    name: "8 parties meet 125 times, per arrival",
    subject: ["Barrier", () => meet(new Barrier(8))],
    baseline: ["a list of resolvers", () => meet(new BareBarrier(8))],
    atMost: 5,
  },
  {
    name: "an arrival at a barrier costs the same in a crowd",
    subject: ["10,000 parties", () => arrive(1, 10_000)],
    baseline: ["1,000 parties, ten times", () => arrive(10, 1000)],
    atMost: 2,
  },
  {
    name: "1,000 reads of a free lock, per read",
    subject: ["ReadWriteLock", readFree],
    baseline: ["await", awaitNothing],
    atMost: 5,
  },
  {
    name: "1,000 in line, every tenth a writer, per caller",
    subject: ["ReadWriteLock", readAndWrite],
    baseline: ["Mutex", lockInLine],
    atMost: 2,
  },
  {
    name: "two tasks take 1,000 turns, per turn",
    subject: ["Condition", takeTurns],
    baseline: ["Mutex, locked twice for each", lockTwice],
    atMost: 4,
  },
]);

await checkCrowd("AsyncEvent.wait", () => {
  const event = new AsyncEvent();
  return { wait: (options) => event.wait(options), wake: () => event.set() };
});

await checkCrowd("Condition.wait", () => {
  const mutex = new Mutex();
  const condition = new Condition(mutex);
  const wait = (options?: WaitOptions) => {
    const { release } = mutex.tryLock()!;
    return condition.wait(options).then(release, release);
  };
  return { wait, wake: () => mutex.run(() => condition.notifyAll()) };
});

async function waitForEvent(): Promise<void> {
  const event = new AsyncEvent();
  const waits = Array.from({ length: 1000 }, () => event.wait());
  event.set();
  await Promise.all(waits);
}

async function waitForList(): Promise<void> {
  const resolvers: (() => void)[] = [];
  const wait = () => new Promise<void>((resolve) => resolvers.push(resolve));
  const waits = Array.from({ length: 1000 }, wait);
  for (const resolve of resolvers) resolve();
  await Promise.all(waits);
}

async function countDown(): Promise<void> {
  const latch = new Latch(1000);
  const waited = latch.wait();
  for (let n = 0; n < 1000; n++) latch.countDown();
  await waited;
}

async function countDownByHand(): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  let count = 1000;
  const report = (n = 1) => {
    if (n > count) throw new RangeError();
    count -= n;
    if (count === 0) resolve();
  };
  for (let n = 0; n < 1000; n++) report();
  await promise;
}

async function meet(barrier: { wait(): Promise<unknown> }): Promise<void> {
  const play = async () => {
    for (let round = 0; round < 125; round++) await barrier.wait();
  };
  await Promise.all(Array.from({ length: 8 }, play));
}

async function arrive(times: number, parties: number): Promise<void> {
  for (let n = 0; n < times; n++) {
    const barrier = new Barrier(parties);
    await Promise.all(Array.from({ length: parties }, () => barrier.wait()));
  }
}

class BareBarrier {
  readonly #parties: number;
  #waiting: ((index: number) => void)[] = [];

  constructor(parties: number) {
    this.#parties = parties;
  }

  wait(): Promise<number> {
    return new Promise((resolve) => {
      if (this.#waiting.push(resolve) < this.#parties) return;
      this.#waiting.forEach((resolve, index) => resolve(index));
      this.#waiting = [];
    });
  }
}

async function readFree(): Promise<void> {
  const lock = new ReadWriteLock();
  for (let n = 0; n < 1000; n++) (await lock.read()).release();
}

async function awaitNothing(): Promise<void> {
  for (let n = 0; n < 1000; n++) await undefined;
}

async function readAndWrite(): Promise<void> {
  const lock = new ReadWriteLock();
  const use = async (n: number) => (await (n % 10 ? lock.read() : lock.write())).release();
  await Promise.all(Array.from({ length: 1000 }, (_, n) => use(n)));
}

async function lockInLine(): Promise<void> {
  const mutex = new Mutex();
  const use = async () => (await mutex.lock()).release();
  await Promise.all(Array.from({ length: 1000 }, use));
}

async function takeTurns(): Promise<void> {
  const mutex = new Mutex();
  const condition = new Condition(mutex);
  let next = 0;
  const play = async (player: number) => {
    const lock = await mutex.lock();
    for (let n = 0; n < 500; n++) {
      await condition.waitFor(() => next === player);
      next = 1 - player;
      condition.notify();
    }
    lock.release();
  };
  await Promise.all([play(0), play(1)]);
}

async function lockTwice(): Promise<void> {
  const mutex = new Mutex();
  const use = async () => {
    for (let n = 0; n < 1000; n++) (await mutex.lock()).release();
  };
  await Promise.all([use(), use()]);
}
