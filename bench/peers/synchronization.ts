import { RWLock } from "async-rwlock";
import { Effect, Latch as EffectLatch } from "effect";
import { Mutex as EsMutex } from "es-toolkit";
import { Barrier as PrexBarrier, CountdownEvent, ManualResetEvent, ReaderWriterLock } from "prex";

import { Mutex } from "../../concepts/semaphores.ts";
import {
  AsyncEvent,
  Barrier,
  Condition,
  Latch,
  ReadWriteLock,
} from "../../concepts/synchronization.ts";
import type { Job } from "./rounds.ts";

const COUNT = 1_000;
const PARTIES = 8;
const ROUNDS = 125;
const all = <T>(run: (index: number) => T) =>
  Promise.all(Array.from({ length: COUNT }, (_, n) => run(n)));

const PREX = "cancel by signal";

export const jobs: Job[] = [
  {
    name: "AsyncEvent: 1,000 wait for one set",
    ours: {
      name: "AsyncEvent",
      run: () => {
        const event = new AsyncEvent();
        return wake(
          () => event.wait(),
          () => event.set(),
        );
      },
    },
    floor: {
      name: "a list of resolvers",
      run: () => {
        const resolvers: (() => void)[] = [];
        return wake(
          () => new Promise<void>((resolve) => resolvers.push(resolve)),
          () => resolvers.forEach((resolve) => resolve()),
        );
      },
    },
    peers: [
      {
        name: "prex ManualResetEvent",
        givesUp: PREX,
        run: () => {
          const event = new ManualResetEvent();
          return wake(
            () => event.wait(),
            () => event.set(),
          );
        },
      },
      {
        name: "Effect's Latch",
        run: () => {
          const job = Effect.gen(function* () {
            const latch = EffectLatch.makeUnsafe();
            let woken = 0;
            const wait = Effect.map(latch.await, () => woken++);
            const waits = Array.from({ length: COUNT }, () => wait);
            yield* Effect.all([...waits, Effect.sync(() => latch.openUnsafe())], {
              concurrency: "unbounded",
            });
            return woken;
          });
          return Effect.runPromise(job);
        },
      },
    ],
    reach: { fastest: 1, floor: 2 },
  },
  {
    name: "Latch: 1,000 reports, ten wait",
    ours: {
      name: "Latch",
      run: () => {
        const latch = new Latch(COUNT);
        return report(
          () => latch.wait(),
          () => latch.countDown(),
        );
      },
    },
    floor: {
      name: "a counter and a promise",
      run: () => {
        const { promise, resolve } = Promise.withResolvers<void>();
        let count = COUNT;
        return report(
          () => promise,
          () => --count === 0 && resolve(),
        );
      },
    },
    peers: [
      {
        name: "prex CountdownEvent",
        givesUp: PREX,
        run: () => {
          const latch = new CountdownEvent(COUNT);
          return report(
            () => latch.wait(),
            () => latch.signal(),
          );
        },
      },
    ],
    reach: { fastest: 1, floor: 2 },
  },
  {
    name: "Barrier: 8 parties meet 125 times",
    ours: {
      name: "Barrier",
      run: () => {
        const barrier = new Barrier(PARTIES);
        return meet(() => barrier.wait());
      },
    },
    floor: {
      name: "a list of resolvers",
      run: () => {
        let waiting: ((index: number) => void)[] = [];
        return meet(
          () =>
            new Promise<number>((resolve) => {
              if (waiting.push(resolve) < PARTIES) return;
              waiting.forEach((resolve, index) => resolve(index));
              waiting = [];
            }),
        );
      },
    },
    peers: [
      {
        name: "prex Barrier",
        givesUp: `${PREX}, the index, reset`,
        run: () => {
          const barrier = new PrexBarrier(PARTIES);
          return meet(() => barrier.signalAndWait());
        },
      },
    ],
    reach: { fastest: 1, floor: 3 },
  },
  {
    name: "ReadWriteLock: 1,000 reads, free",
    ours: {
      name: "ReadWriteLock",
      run: async () => {
        const lock = new ReadWriteLock();
        for (let n = 0; n < COUNT; n++) (await lock.read()).release();
        return COUNT;
      },
    },
    floor: {
      name: "await",
      run: async () => {
        for (let n = 0; n < COUNT; n++) await undefined;
        return COUNT;
      },
    },
    peers: [
      {
        name: "prex ReaderWriterLock",
        givesUp: PREX,
        run: async () => {
          const lock = new ReaderWriterLock();
          for (let n = 0; n < COUNT; n++) (await lock.read()).release();
          return COUNT;
        },
      },
      {
        name: "async-rwlock",
        givesUp: "cancel, order, a single release",
        run: async () => {
          const lock = new RWLock();
          for (let n = 0; n < COUNT; n++) {
            await lock.readLock();
            lock.unlock();
          }
          return COUNT;
        },
      },
    ],
    reach: { fastest: 1, floor: 4 },
  },
  {
    name: "ReadWriteLock: 1,000 in line, every tenth writes",
    ours: {
      name: "ReadWriteLock",
      run: () => {
        const lock = new ReadWriteLock();
        return readAndWrite(async (isWriter, use) => {
          const hold = await (isWriter ? lock.write() : lock.read());
          await use();
          hold.release();
        });
      },
    },
    peers: [
      {
        name: "prex ReaderWriterLock",
        givesUp: PREX,
        run: () => {
          const lock = new ReaderWriterLock();
          return readAndWrite(async (isWriter, use) => {
            const hold = await (isWriter ? lock.write() : lock.read());
            await use();
            hold.release();
          });
        },
      },
      {
        name: "async-rwlock",
        givesUp: "cancel, order, a single release",
        run: () => {
          const lock = new RWLock();
          return readAndWrite(async (isWriter, use) => {
            await (isWriter ? lock.writeLock() : lock.readLock());
            await use();
            lock.unlock();
          });
        },
      },
    ],
    reach: { fastest: 1 },
  },
  {
    name: "Condition: two tasks take 1,000 turns",
    ours: {
      name: "Condition",
      run: () => {
        const mutex = new Mutex();
        const condition = new Condition(mutex);
        return takeTurns(async (play) => {
          using _lock = await mutex.lock();
          await play(
            (predicate) => condition.waitFor(predicate),
            () => condition.notify(),
          );
        });
      },
    },
    peers: [
      {
        name: "es-toolkit Mutex and a list of resolvers",
        givesUp: "cancel, refusing those without the lock",
        run: () => {
          const mutex = new EsMutex();
          const waiting: (() => void)[] = [];
          const waitFor = async (predicate: () => boolean) => {
            while (!predicate()) {
              mutex.release();
              await new Promise<void>((resolve) => waiting.push(resolve));
              await mutex.acquire();
            }
          };
          return takeTurns(async (play) => {
            await mutex.acquire();
            await play(waitFor, () => waiting.shift()?.());
            mutex.release();
          });
        },
      },
    ],
    reach: { fastest: 2 },
  },
];

async function wake(wait: () => Promise<unknown>, set: () => unknown): Promise<number> {
  let woken = 0;
  const waits = all(async () => {
    await wait();
    woken++;
  });
  set();
  await waits;
  return woken;
}

async function report(wait: () => Promise<unknown>, countDown: () => unknown): Promise<number> {
  const waits = Array.from({ length: 10 }, wait);
  for (let n = 0; n < COUNT; n++) countDown();
  await Promise.all(waits);
  return COUNT;
}

async function meet(wait: () => Promise<unknown>): Promise<number> {
  let met = 0;
  const play = async () => {
    for (let round = 0; round < ROUNDS; round++) {
      await wait();
      met++;
    }
  };
  await Promise.all(Array.from({ length: PARTIES }, play));
  return met;
}

async function readAndWrite(
  hold: (isWriter: boolean, use: () => Promise<void>) => Promise<void>,
): Promise<number> {
  let sum = 0;
  await all((n) =>
    hold(n % 10 === 9, async () => {
      await undefined;
      sum += n;
    }),
  );
  return sum;
}

async function takeTurns(
  run: (
    play: (
      waitFor: (predicate: () => boolean) => Promise<unknown>,
      notify: () => void,
    ) => Promise<void>,
  ) => Promise<void>,
): Promise<number> {
  let turns = 0;
  const player = (player: number) =>
    run(async (waitFor, notify) => {
      for (let n = 0; n < COUNT / 2; n++) {
        await waitFor(() => turns % 2 === player);
        turns++;
        notify();
      }
    });
  await Promise.all([player(0), player(1)]);
  return turns;
}
