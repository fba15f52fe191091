/**
 * What holds between concepts, tried on trees that nobody would write: combinators inside combinators
 * over locks, with failures and aborts at any microtask. Afterwards nothing may run on, be held,
 * wait or listen, and every error has been told to somebody.
 *
 * `SEED=1 TREES=10000 bun test test/trees.test.ts` tries other or more trees; a failure tells its seed.
 */
import { expect, test } from "bun:test";

import { abortable, sleep, timeout } from "../concepts/async-basics.ts";
import {
  allSettled,
  any,
  asCompleted,
  gather,
  hedge,
  mapConcurrent,
  race,
  type Task,
  taskGroup,
} from "../concepts/concurrency.ts";
import { retry } from "../concepts/errors.ts";
import { KeyedMutex, limit, Mutex, Semaphore } from "../concepts/semaphores.ts";
import { virtualTime } from "../concepts/virtual-time.ts";

const seed = Number(process.env["SEED"] ?? Math.floor(Math.random() * 2 ** 31));
const count = Number(process.env["TREES"] ?? 3000);

test(`${count} random trees leave nothing behind`, async () => {
  for (let n = 0; n < count; n++) {
    const left = await grow(seed + n).catch((error: unknown) => [String(error)]);
    if (left.length > 0) throw new Error(`SEED=${seed + n} TREES=1 leaves ${left.join(", ")}`);
  }
  expect(count).toBeGreaterThan(0);
}, 60_000);

/** Runs one tree, and returns what it has left behind. */
function grow(seed: number): Promise<string[]> {
  const random = randomFrom(seed);
  const pick = <T>(...options: T[]): T => options[Math.floor(random() * options.length)]!;
  const below = (limit: number) => Math.floor(random() * limit);

  const mutex = new Mutex();
  const semaphore = new Semaphore(3);
  const keyed = new KeyedMutex<number>();
  const outer = new AbortController();
  const limited = limit(2, { signal: outer.signal });
  const listeners = countListeners(outer.signal);
  const reason = new Error("aborted from outside");
  let running = 0;
  let calledTooLate = 0;

  /** What holders do: a few microtasks or milliseconds, and some of them fail. */
  const work = (signal: AbortSignal) => {
    const hops = below(6);
    const ms = pick(0, 0, below(4));
    const fails = random() < 0.2;
    const aborts = random() < 0.03;
    return async () => {
      if (signal.aborted) calledTooLate++;
      running++;
      try {
        for (let hop = 0; hop < hops; hop++) await undefined;
        if (aborts) outer.abort(reason);
        if (ms > 0) await sleep(ms, { signal });
        if (fails) throw new Error("failed");
        return "done";
      } finally {
        running--;
      }
    };
  };
  const holding = async (acquiring: Promise<Disposable>, signal: AbortSignal) => {
    using _hold = await acquiring;
    // Between the grant and this line there is a microtask, in which an abort may fall.
    if (!signal.aborted) await work(signal)();
  };
  const weight = () => 1 + below(3);
  const leaf = (): Task<unknown> => {
    const ms = below(5);
    const size = weight();
    const key = below(2);
    return pick<Task<unknown>>(
      (signal) => holding(mutex.lock({ signal }), signal),
      (signal) => holding(semaphore.acquire({ signal, weight: size }), signal),
      (signal) => holding(keyed.lock(key, { signal }), signal),
      (signal) => mutex.run(work(signal), { signal }),
      (signal) => semaphore.run(work(signal), { signal, weight: size }),
      (signal) => keyed.run(key, work(signal), { signal }),
      // Their result is the hold: whoever drops it must release it.
      (signal) => mutex.lock({ signal }),
      (signal) => semaphore.acquire({ signal, weight: size }),
      (signal) => keyed.lock(key, { signal }),
      (signal) => timeout((inner) => mutex.lock({ signal: inner }), ms, { signal }),
      (signal) => abortable(mutex.lock(), signal),
      () => limited(work(outer.signal)),
      (signal) => work(signal)(),
    );
  };
  const tree = (depth: number): Task<unknown> => {
    if (depth === 0 || random() < 0.2) return leaf();
    const children = Array.from({ length: 1 + below(4) }, () => tree(depth - 1));
    const first = children[0]!;
    const ms = below(6);
    const concurrency = pick(1, 2, Infinity);
    const bodyFails = random() < 0.2;
    return pick<Task<unknown>>(
      (signal) => gather(children, { signal, concurrency }),
      (signal) => allSettled(children, { signal, concurrency }),
      (signal) => race(children, { signal, concurrency }),
      (signal) => any(children, { signal, concurrency }),
      (signal) => hedge(first, { after: ms, signal }),
      (signal) => timeout(first, ms, { signal }),
      (signal) => retry(({ signal }) => first(signal), { attempts: 2, baseDelay: 1, signal }),
      (signal) => mapConcurrent(children, (child, _, own) => child(own), { concurrency, signal }),
      (signal) =>
        mapConcurrent(
          async function* () {
            for (const child of children) yield child;
          },
          (child, _, own) => child(own),
          { concurrency, signal },
        ),
      (signal) =>
        taskGroup(
          async (group) => {
            const spawned = children.map((child) => group.spawn(child));
            if (bodyFails) throw new Error("the body failed");
            const outcomes = await Promise.allSettled(spawned);
            return outcomes.map((outcome) => Object(outcome).value);
          },
          { signal },
        ),
      async (signal) => {
        for await (const { value } of asCompleted(children, { signal })) {
          release(value);
          if (ms > 3) break;
        }
      },
    );
  };

  const root = tree(3);
  const hops = below(40);
  // Some trees deadlock, when one task returns the lock that another waits for: all are aborted.
  const ms = pick(0, 0, below(15), 1000);
  return virtualTime(async (clock) => {
    const result = (async () => root(outer.signal))().then(release, () => {});
    if (ms > 0) await sleep(ms);
    for (let hop = 0; hop < hops; hop++) await undefined;
    outer.abort(reason);
    await result;
    // A timeout doesn't wait for its task, which has been told to end.
    await sleep(2000);
    const left = {
      "running tasks": running,
      "tasks called after the abort": calledTooLate,
      "a locked mutex": Number(mutex.locked),
      "permits of a semaphore": semaphore.permits - semaphore.available,
      waiters: semaphore.waiting,
      "held keys": keyed.size,
      "places of a limit": limited.activeCount + limited.pendingCount,
      timers: clock.pending,
      listeners: listeners(),
    };
    return Object.entries(left).flatMap(([what, number]) => (number ? [`${number} ${what}`] : []));
  });
}

/** Receives what a tree came to: whoever is given a hold releases it. */
function release(result: unknown): void {
  if (Array.isArray(result)) return result.forEach(release);
  const { release: end, value } = Object(result);
  if (end) end.call(result);
  else if (value) release(value);
}

function countListeners(signal: AbortSignal): () => number {
  let count = 0;
  const { addEventListener, removeEventListener } = signal;
  signal.addEventListener = (...args: Parameters<typeof addEventListener>) => {
    count++;
    addEventListener.apply(signal, args);
  };
  signal.removeEventListener = (...args: Parameters<typeof removeEventListener>) => {
    count--;
    removeEventListener.apply(signal, args);
  };
  return () => count;
}

/** The generator mulberry32: the same numbers for the same seed. */
function randomFrom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let bits = Math.imul(state ^ (state >>> 15), 1 | state);
    bits = (bits + Math.imul(bits ^ (bits >>> 7), 61 | bits)) ^ bits;
    return ((bits ^ (bits >>> 14)) >>> 0) / 2 ** 32;
  };
}
