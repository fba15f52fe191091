/**
 * # Virtual time
 *
 * Run code that sleeps, times out and retries on a clock that never waits: as soon as everything
 * waits, it jumps to the next timer. A test of an hour takes a millisecond, and the time that it
 * says has passed is exact.
 *
 * Reach for it in every test in which time matters: timeouts, backoff, debouncing, rate limits,
 * caches that expire.
 *
 * Without it such a test sleeps for real: it is slow, it asserts "less than 150 ms" and fails on a
 * busy machine, and what takes a day is never tested at all. With fake timers that are advanced by
 * hand promises don't move while the clock does, and the test hangs until somebody finds the right
 * mixture of `advance` and `await`.
 *
 * Known elsewhere as: trio's `MockClock(autojump_threshold=0)`, `runTest` of Kotlin's
 * coroutines-test, `testing/synctest` in Go, `tokio::time::pause` in Rust.
 *
 * @module
 */

/** What {@link virtualTime} can be told. */
export interface VirtualTimeOptions {
  /** What `Date` says at the start, on every run. Default: 2000-01-01T00:00:00Z. */
  now?: Date | number | undefined;
  /** How many timers may fire before the run is given up as endless. Default: a million. */
  maxTimers?: number | undefined;
  /** Ends the run at once, with the signal's reason, whatever the body is doing. */
  signal?: AbortSignal | undefined;
}

/** What the body of {@link virtualTime} is given. */
export interface VirtualClock {
  /** Milliseconds since the body began. `performance.now()` says the same. */
  readonly elapsed: number;
  /** How many timers wait to fire: 0 proves that a wait has left nothing behind. */
  readonly pending: number;
}

/** Everything waits, and no timer is left that could end it. */
export class DeadlockError extends Error {
  override readonly name = "DeadlockError";
}

/**
 * Runs `body` on a clock of its own and returns what it returns.
 *
 * Inside, `setTimeout`, `setInterval`, `setImmediate`, their `clear` functions, `Date`,
 * `performance.now` and `AbortSignal.timeout` belong to the clock. It stands still while anything
 * runs. When all promises have been worked off and only timers are left, it jumps to the one that
 * is due first and fires it; of two that are due together, the one that was set first. A delay
 * keeps its fractions, and one that the platform can't hold (above 2^31-1 ms) fires at once, as it
 * does there.
 *
 * However the run ends, all globals are put back, and timers that still wait are dropped.
 *
 * The clock sees timers and promises, nothing else. It does not wait for a socket, a file or a
 * worker, nor for timers that go around the globals (`node:timers/promises`, `Bun.sleep`). Replace
 * those in the test, or test with real time.
 *
 * Source of the idea: trio's autojump clock.
 *
 * @param body what to run; it is given the clock
 * @throws {TypeError} `body` is no function, or an option is of the wrong kind
 * @throws {RangeError} `now` is not a valid time, or `maxTimers` not a positive integer
 * @throws {DeadlockError} `body` waits for something that no timer will bring
 * @throws {Error} virtual time runs already: it can be neither nested nor used in concurrent tests
 * @throws {Error} `maxTimers` have fired: an interval runs on while the body waits for something else
 * @throws what `body` throws, or the callback of a timer
 * @throws the signal's reason, once it is aborted
 *
 * @example An hour in no time
 * ```ts
 * import { virtualTime } from "./virtual-time.ts";
 *
 * const elapsed = await virtualTime(async (clock) => {
 *   await new Promise((resolve) => setTimeout(resolve, 3_600_000));
 *   return clock.elapsed;
 * });
 * console.assert(elapsed === 3_600_000);
 * ```
 */
export async function virtualTime<T>(
  body: (clock: VirtualClock) => T | PromiseLike<T>,
  options: VirtualTimeOptions = {},
): Promise<T> {
  const { now = Date.UTC(2000), maxTimers = 1_000_000, signal } = options;
  if (typeof body !== "function") {
    throw new TypeError(`Cannot start virtual time: body must be a function, received ${body}`);
  }
  const startDate = Number(now);
  if (Number.isNaN(new Date(startDate).getTime())) throw invalid("now", "a valid time", now);
  if (!(Number.isInteger(maxTimers) && maxTimers > 0)) {
    throw invalid("maxTimers", "a positive integer", maxTimers);
  }
  if (running) {
    throw new Error(
      "Cannot start virtual time: it runs already (it can't be nested or concurrent)",
    );
  }
  signal?.throwIfAborted();

  running = true;
  const clock = new Clock(startDate);
  const onNextTurn = turnScheduler();
  const restoreGlobals = replaceGlobals(clock);
  try {
    let settled = false;
    const settle = () => void (settled = true);
    // Later, so that the clock goes even while the body blocks, as in bun's `expect().rejects`.
    const result = Promise.resolve().then(() => body(clock));
    result.then(settle, settle);
    for (let fired = 0; ; fired++) {
      // The event loop turns only when all promises have been worked off: then everything waits.
      await new Promise<void>(onNextTurn);
      if (settled) return result;
      signal?.throwIfAborted();
      const when = `at ${clock.elapsed} ms of virtual time`;
      if (clock.pending === 0) {
        throw new DeadlockError(
          `Deadlock ${when}: the body waits, and no timer is left to wake it`,
        );
      }
      if (fired === maxTimers) {
        throw new Error(`Gave up ${when}: ${fired} timers have fired, and the body still waits`);
      }
      clock.fireNext();
    }
  } finally {
    restoreGlobals();
    running = false;
  }
}

let running = false;

/** The platform's fastest way to the event loop's next turn; ask before globals are replaced. */
function turnScheduler(): (callback: () => void) => void {
  const { setImmediate } = globalThis as { setImmediate?: (callback: () => void) => void };
  if (setImmediate) return setImmediate;
  return (callback) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      callback();
    };
    port2.postMessage(null);
  };
}

/** The timers in the order of their turn. A binary heap, so that a crowd can be set and cleared. */
class Clock implements VirtualClock {
  elapsed = 0;
  readonly #startDate: number;
  readonly #heap: Timer[] = [];
  #created = 0;

  constructor(startDate: number) {
    this.#startDate = startDate;
  }

  get pending(): number {
    return this.#heap.length;
  }

  get date(): number {
    return Math.floor(this.#startDate + this.elapsed);
  }

  set(timer: Timer): Timer {
    timer.due = this.elapsed + timer.delay;
    timer.order = this.#created++;
    this.#place(timer, this.#heap.length);
    this.#rise(timer);
    return timer;
  }

  clear(timer: Timer): void {
    if (timer.index === undefined) return;
    const last = this.#heap.pop();
    if (last && last !== timer) {
      this.#place(last, timer.index);
      this.#rise(last);
      this.#sink(last);
    }
    timer.index = undefined;
  }

  fireNext(): void {
    const timer = this.#heap[0]!;
    this.clear(timer);
    this.elapsed = timer.due;
    if (timer.repeats) this.set(timer);
    timer.callback();
  }

  #rise(timer: Timer): void {
    for (;;) {
      const parent = this.#heap[(timer.index! - 1) >> 1];
      if (!parent || !isBefore(timer, parent)) return;
      this.#swap(timer, parent);
    }
  }

  #sink(timer: Timer): void {
    for (;;) {
      const left = this.#heap[2 * timer.index! + 1];
      const right = this.#heap[2 * timer.index! + 2];
      const child = left && right && isBefore(right, left) ? right : left;
      if (!child || !isBefore(child, timer)) return;
      this.#swap(timer, child);
    }
  }

  #swap(a: Timer, b: Timer): void {
    const index = a.index!;
    this.#place(a, b.index!);
    this.#place(b, index);
  }

  #place(timer: Timer, index: number): void {
    this.#heap[index] = timer;
    timer.index = index;
  }
}

function isBefore(a: Timer, b: Timer): boolean {
  return a.due < b.due || (a.due === b.due && a.order < b.order);
}

/** What `setTimeout` returns; with the methods of Node's Timeout, for the code that uses them. */
class Timer {
  due = 0;
  order = 0;
  /** Where in the heap it is; undefined while it is not set. */
  index: number | undefined;
  readonly #clock: Clock;
  readonly callback: () => void;
  readonly delay: number;
  readonly repeats: boolean;

  constructor(clock: Clock, callback: () => void, delay: number, repeats: boolean) {
    this.#clock = clock;
    this.callback = callback;
    this.delay = delay;
    this.repeats = repeats;
  }

  ref(): this {
    return this;
  }

  unref(): this {
    return this;
  }

  hasRef(): boolean {
    return true;
  }

  refresh(): this {
    this.#clock.clear(this);
    this.#clock.set(this);
    return this;
  }

  [Symbol.dispose](): void {
    this.#clock.clear(this);
  }
}

type Callback = (...args: unknown[]) => void;

/** Puts the clock in the place of the platform's timers and dates; returns what puts them back. */
function replaceGlobals(clock: Clock): () => void {
  const set = (
    name: string,
    callback: Callback,
    delay: number,
    args: unknown[],
    repeats = false,
  ): Timer => {
    if (typeof callback !== "function") {
      throw new TypeError(
        `Cannot call ${name}: callback must be a function, received ${typeof callback}`,
      );
    }
    return clock.set(new Timer(clock, () => callback(...args), delay, repeats));
  };
  // A timer from before the run is the platform's own, and can be cleared from inside as well.
  const clearWith = (platformClear: ((timer: unknown) => void) | undefined) => (timer: unknown) =>
    timer instanceof Timer ? clock.clear(timer) : platformClear?.(timer);

  const platform = globalThis as unknown as Record<string, ((timer: unknown) => void) | undefined>;
  const undo = [
    replace(globalThis, {
      setTimeout: (callback: Callback, ms?: unknown, ...args: unknown[]) =>
        set("setTimeout", callback, toDelay(ms), args),
      // A repeated timer of 0 ms would never let the clock go on. Node makes it 1, too.
      setInterval: (callback: Callback, ms?: unknown, ...args: unknown[]) =>
        set("setInterval", callback, Math.max(1, toDelay(ms)), args, true),
      setImmediate: (callback: Callback, ...args: unknown[]) =>
        set("setImmediate", callback, 0, args),
      clearTimeout: clearWith(platform["clearTimeout"]),
      clearInterval: clearWith(platform["clearInterval"]),
      clearImmediate: clearWith(platform["clearImmediate"]),
      Date: new Proxy(Date, {
        apply: (date) => new date(clock.date).toString(),
        construct: (date, args, newTarget) =>
          Reflect.construct(date, args.length ? args : [clock.date], newTarget),
        get: (date, key) => (key === "now" ? () => clock.date : Reflect.get(date, key)),
      }),
    }),
    replace(performance, { now: () => clock.elapsed }),
    replace(AbortSignal, {
      timeout: (ms: number) => {
        const controller = new AbortController();
        const reason = new DOMException("The operation timed out.", "TimeoutError");
        clock.set(new Timer(clock, () => controller.abort(reason), toDelay(ms), false));
        return controller.signal;
      },
    }),
  ];
  return () => undo.forEach((restore) => restore());
}

/** Replaces those properties of `target` that it has; returns what puts them back. */
function replace(target: object, values: Record<string, unknown>): () => void {
  const restore = Object.keys(values)
    .filter((key) => key in target)
    .map((key) => {
      const own = Object.getOwnPropertyDescriptor(target, key);
      Object.defineProperty(target, key, {
        value: values[key],
        configurable: true,
        enumerable: true,
        writable: true,
      });
      return () =>
        own ? Object.defineProperty(target, key, own) : Reflect.deleteProperty(target, key);
    });
  return () => restore.forEach((put) => put());
}

function toDelay(ms: unknown): number {
  const delay = Number(ms);
  return delay > 0 && delay <= 2 ** 31 - 1 ? delay : 0;
}

function invalid(name: string, expected: string, value: unknown): Error {
  const Kind = typeof value === "number" || value instanceof Date ? RangeError : TypeError;
  return new Kind(`Cannot start virtual time: ${name} must be ${expected}, received ${value}`);
}

// ─── Demo: `bun concepts/virtual-time.ts` ────────────────────────────────────────────────────────

/** A day passes at once; the times in front of the lines are those of the virtual clock. */
export async function demo(log: (lane: string, state: string) => void = print): Promise<void> {
  const sleeper = async (lane: string, hours: number) => {
    log(lane, "waiting");
    await new Promise((resolve) => setTimeout(resolve, hours * 3_600_000));
    log(lane, new Date().toISOString());
    log(lane, "done");
  };
  await virtualTime(() => Promise.all([sleeper("day", 24), sleeper("night", 8)]));
}

let start: number | undefined;

function print(lane: string, state: string): void {
  start ??= performance.now();
  const ms = Math.round(performance.now() - start);
  console.log(`+${String(ms).padStart(4)} ms  ${lane}  ${state}`);
}

if ((import.meta as { main?: boolean }).main) await demo();
