/**
 * # Async basics
 *
 * Sleep, give up in time, wait until something holds, set up once, and end a program cleanly.
 *
 * Reach for it wherever something may take too long, or has to stop when asked to. All of these
 * take an `AbortSignal`, and whoever stops waiting leaves no timer and no listener behind.
 *
 * Without it a `Promise.race` with a timer reports a timeout while the work goes on and the timer
 * keeps the process alive; a `setTimeout` of a month fires at once; a cached promise that failed
 * fails for ever; and Ctrl-C ends a program in the middle of a write.
 *
 * Known elsewhere as: `asyncio.run`, `sleep`, `timeout` and `wait_for`; Go's `context.WithTimeout`,
 * `signal.NotifyContext` and `sync.OnceValue`; delay, p-timeout and p-memoize on npm.
 *
 * @module
 */

/** Work that stops when its signal is aborted, if it can. */
export type Task<T> = (signal: AbortSignal) => T | PromiseLike<T>;

/** What every wait can be told. */
export interface WaitOptions {
  /** Ends the wait: it rejects with the signal's reason. */
  signal?: AbortSignal | undefined;
}

/** How {@link poll} waits. */
export interface PollOptions extends WaitOptions {
  /** Milliseconds from the end of a call to the start of the next: 0 or more. */
  interval: number;
  /** Milliseconds until it gives up: 0 or more. Default: `Infinity`. */
  timeout?: number | undefined;
}

/**
 * Waits for a time, never less. With `Infinity` it waits for the signal alone, and without one
 * for ever; as no timer is set then, it does not keep a process alive either.
 *
 * Source of the idea: `asyncio.sleep`.
 *
 * @param ms milliseconds: 0 or more, also above the 2^31-1 at which a timer fires at once
 * @throws {TypeError} `ms` is no number
 * @throws {RangeError} `ms` is negative or NaN
 * @throws the signal's reason, once it is aborted
 *
 * @example
 * ```ts
 * import { sleep } from "./async-basics.ts";
 *
 * const start = performance.now();
 * await sleep(20);
 * console.assert(performance.now() - start >= 20);
 *
 * const month = sleep(30 * 24 * 3_600_000, { signal: AbortSignal.timeout(10) });
 * const error = await month.catch((error) => error);
 * console.assert(error.name === "TimeoutError");
 * ```
 */
export async function sleep(ms: number, { signal }: WaitOptions = {}): Promise<void> {
  requireDuration("sleep", "ms", ms);
  signal?.throwIfAborted();
  const { promise, resolve } = Promise.withResolvers<void>();
  const stopTimer = startTimer(ms, resolve);
  try {
    await abortable(promise, signal);
  } finally {
    stopTimer();
  }
}

/**
 * Runs a task for a limited time, and returns its result. When time is up it aborts the task's
 * signal and rejects with the same error. An abort from outside does so too, with its own reason.
 *
 * It does not wait for the task to end then, because the task may ignore its signal. So look at the
 * signal in the task; what comes of it after the abort, an error too, nobody gets to see.
 *
 * Source of the idea: `asyncio.timeout`; the error is that of `AbortSignal.timeout`.
 *
 * @param ms milliseconds: 0 or more; `Infinity` sets no limit
 * @throws {TypeError} `task` is no function, as a promise isn't, or `ms` no number
 * @throws {RangeError} `ms` is negative or NaN
 * @throws {DOMException} named TimeoutError, when time is up
 * @throws whatever the task throws, or the signal's reason, once it is aborted
 *
 * @example
 * ```ts
 * import { timeout } from "./async-basics.ts";
 *
 * const answer = await timeout(async () => 42, 1000);
 * console.assert(answer === 42);
 *
 * const hanging = timeout(() => new Promise<void>(() => {}), 10);
 * const error = await hanging.catch((error) => error);
 * console.assert(error.name === "TimeoutError");
 * ```
 */
export async function timeout<T>(
  task: Task<T>,
  ms: number,
  { signal }: WaitOptions = {},
): Promise<T> {
  requireFunction("time out", "task", task);
  requireDuration("time out", "ms", ms);
  signal?.throwIfAborted();
  const controller = new AbortController();
  const outcome = Promise.withResolvers<T>();
  // Listens before the task can: what the task makes of its abort comes too late to count.
  const result = abortable(outcome.promise, controller.signal);
  const stopListening = onAbort(signal, (reason) => controller.abort(reason));
  const stopTimer = startTimer(ms, () =>
    controller.abort(new DOMException(`Timed out after ${ms} ms`, "TimeoutError")),
  );
  try {
    outcome.resolve((async () => task(controller.signal))());
    return await result;
  } finally {
    stopTimer();
    stopListening();
  }
}

/**
 * Waits for a promise until the signal is aborted. What the promise stands for goes on; that it may
 * fail later is taken care of.
 *
 * A promise can't forget who waits for it: each call costs a little memory until it settles.
 *
 * Source of the idea: `asyncio.shield`, seen from the one who waits.
 *
 * @param signal may be undefined, to pass on what is optional
 * @throws the signal's reason, once it is aborted, or whatever the promise rejects with
 *
 * @example
 * ```ts
 * import { abortable } from "./async-basics.ts";
 *
 * const silent = new Promise<void>(() => {});
 * const controller = new AbortController();
 * const waiting = abortable(silent, controller.signal);
 * controller.abort("enough");
 * console.assert((await waiting.catch((reason) => reason)) === "enough");
 * ```
 */
export async function abortable<T>(
  promise: PromiseLike<T>,
  signal: AbortSignal | undefined,
): Promise<T> {
  if (!signal) return await promise;
  const aborted = Promise.withResolvers<never>();
  if (signal.aborted) aborted.reject(signal.reason);
  const stopListening = onAbort(signal, aborted.reject);
  try {
    return await Promise.race([aborted.promise, promise]);
  } finally {
    stopListening();
  }
}

type Falsy = false | 0 | 0n | "" | null | undefined;

/**
 * Calls a function until it returns something truthy, and returns that. The first call comes at
 * once. An error ends it: what may fail for a while has to be caught in the function.
 *
 * A call that hangs is given up as in {@link timeout}; its signal tells it so.
 *
 * Source of the idea: `eventually` and `waitFor` of the testing libraries.
 *
 * @throws {TypeError} `fn` is no function, or a time is no number
 * @throws {RangeError} a time is negative or NaN
 * @throws {DOMException} named TimeoutError, when time is up
 * @throws whatever `fn` throws, or the signal's reason, once it is aborted
 *
 * @example
 * ```ts
 * import { poll } from "./async-basics.ts";
 *
 * const inbox: string[] = [];
 * setTimeout(() => inbox.push("hello"), 20);
 * const mail = await poll(() => inbox[0], { interval: 5, timeout: 1000 });
 * console.assert(mail === "hello");
 * ```
 */
export async function poll<T>(
  fn: Task<T>,
  { interval, timeout: ms = Infinity, signal: outer }: PollOptions,
): Promise<Exclude<T, Falsy>> {
  requireFunction("poll", "fn", fn);
  requireDuration("poll", "interval", interval);
  requireDuration("poll", "timeout", ms);
  const calls: Task<Exclude<T, Falsy>> = async (signal) => {
    for (;;) {
      const value = await fn(signal);
      if (value) return value as Exclude<T, Falsy>;
      await sleep(interval, { signal });
    }
  };
  return timeout(calls, ms, { signal: outer });
}

/**
 * A function that runs `init` when it is first called, and returns the same promise's result ever
 * after. Those who call meanwhile share the run, and its failure; the next call then tries again.
 *
 * An abort ends only the wait of the caller whose signal it is; `init` goes on for the others, and
 * for those to come.
 *
 * Source of the idea: Go's `sync.OnceValue`, without its memory for failures.
 *
 * @throws {TypeError} `init` is no function
 *
 * @example
 * ```ts
 * import { lazy } from "./async-basics.ts";
 *
 * let connections = 0;
 * const connect = lazy(async () => ({ id: ++connections }));
 *
 * const [first, second] = await Promise.all([connect(), connect()]);
 * console.assert(first === second && connections === 1);
 * ```
 */
export function lazy<T>(init: () => T | PromiseLike<T>): (options?: WaitOptions) => Promise<T> {
  requireFunction("create lazy", "init", init);
  let shared: Promise<T> | undefined;
  return async ({ signal } = {}) => {
    signal?.throwIfAborted();
    if (!shared) {
      shared = (async () => init())();
      shared.catch(() => (shared = undefined));
    }
    return abortable(shared, signal);
  };
}

/**
 * Lets everything else have a turn: promises, timers that are due, I/O that is ready. For loops
 * that compute for long; awaiting a settled promise would let only other promises run.
 *
 * It is `sleep(0)`, and takes the millisecond or so that a platform makes of a timer of 0.
 *
 * Source of the idea: `await asyncio.sleep(0)`; `scheduler.yield()` in browsers.
 *
 * @throws the signal's reason, once it is aborted
 *
 * @example
 * ```ts
 * import { yieldNow } from "./async-basics.ts";
 *
 * let fired = false;
 * setTimeout(() => (fired = true), 0);
 * await Promise.resolve();
 * console.assert(!fired);
 * await yieldNow();
 * console.assert(fired);
 * ```
 */
export function yieldNow(options: WaitOptions = {}): Promise<void> {
  return sleep(0, options);
}

/**
 * Runs a program. SIGINT (Ctrl-C) and SIGTERM abort the signal that `main` is given, and `main` has
 * all the time it needs to clean up; a second one exits at once.
 *
 * The exit code is left alone when `main` returns, and is 1 when it throws: the error goes to
 * stderr, and the promise is fulfilled all the same. It is 130 after SIGINT and 143 after SIGTERM,
 * as shells expect, when `main` throws the signal's reason, or an error whose cause that is.
 *
 * The process ends when nothing is left to do, so that all output gets out. Where there is no
 * `process`, as in browsers, only errors are reported.
 *
 * Source of the idea: `asyncio.run`; Go's `signal.NotifyContext`.
 *
 * @param options its signal aborts `main` too; the reason is then an error like any other
 * @throws {TypeError} `main` is no function
 *
 * @example
 * ```ts
 * import { run } from "./async-basics.ts";
 *
 * let cleanedUp = false;
 * await run(async (signal) => {
 *   await using _connection = { [Symbol.asyncDispose]: async () => void (cleanedUp = true) };
 *   for (let job = 0; job < 3 && !signal.aborted; job++) await Promise.resolve();
 * });
 * console.assert(cleanedUp);
 * ```
 */
export async function run(main: Task<unknown>, { signal }: WaitOptions = {}): Promise<void> {
  requireFunction("run", "main", main);
  const { process } = globalThis as { process?: Process };
  const controller = new AbortController();
  const exitCodes = new Map<unknown, number>();
  const interrupt = (name: StopSignal) => {
    const exitCode = name === "SIGINT" ? 130 : 143;
    if (exitCodes.size > 0) process?.exit(exitCode);
    const reason = new DOMException(`Interrupted by ${name}`, "AbortError");
    exitCodes.set(reason, exitCode);
    controller.abort(reason);
  };
  for (const name of stopSignals) process?.on(name, interrupt);
  const stopListening = onAbort(signal, (reason) => controller.abort(reason));
  try {
    signal?.throwIfAborted();
    await main(controller.signal);
  } catch (error) {
    // Node's own functions reject with an error of theirs, whose cause is the reason.
    const exitCode = exitCodes.get(error) ?? exitCodes.get((error as Error | null)?.cause);
    if (!exitCode) console.error(error);
    if (process) process.exitCode = exitCode ?? 1;
  } finally {
    stopListening();
    for (const name of stopSignals) process?.off(name, interrupt);
  }
}

const stopSignals = ["SIGINT", "SIGTERM"] as const;

type StopSignal = (typeof stopSignals)[number];

/** What {@link run} uses of the `process` that Bun, Node and Deno share. */
interface Process {
  exitCode?: unknown;
  exit(code: number): void;
  on(name: StopSignal, listener: (name: StopSignal) => void): unknown;
  off(name: StopSignal, listener: (name: StopSignal) => void): unknown;
}

/** A `setTimeout` of any length, which is never early. Returns what stops it. */
function startTimer(ms: number, callback: () => void): () => void {
  const due = performance.now() + ms;
  let timer: ReturnType<typeof setTimeout> | undefined;
  const wait = (left: number) => {
    timer = setTimeout(() => fire(due - performance.now()), Math.min(left, 2 ** 31 - 1));
  };
  const fire = (left: number) => (left > 0 ? wait(left) : callback());
  if (ms < Infinity) wait(ms);
  return () => clearTimeout(timer);
}

/**
 * Calls `listener` when the signal is aborted, until the returned function is called. All listeners
 * share one of the signal's own, because a signal searches those one by one at every change, and
 * that would add up when many wait with the same signal.
 */
function onAbort(signal: AbortSignal | undefined, listener: (reason: unknown) => void): () => void {
  if (!signal) return () => {};
  let listeners = abortListeners.get(signal);
  if (!listeners) {
    listeners = new AbortListeners();
    abortListeners.set(signal, listeners);
    signal.addEventListener("abort", listeners);
  }
  listeners.add(listener);
  return () => {
    listeners.delete(listener);
    if (listeners.size > 0) return;
    abortListeners.delete(signal);
    signal.removeEventListener("abort", listeners);
  };
}

const abortListeners = new WeakMap<AbortSignal, AbortListeners>();

class AbortListeners extends Set<(reason: unknown) => void> {
  handleEvent(event: Event): void {
    for (const listener of this) listener((event.target as AbortSignal).reason);
  }
}

function requireFunction(action: string, name: string, value: unknown): void {
  if (typeof value === "function") return;
  throw new TypeError(`Cannot ${action}: ${name} must be a function, received ${String(value)}`);
}

function requireDuration(action: string, name: string, value: unknown): void {
  if (typeof value === "number" && value >= 0) return;
  throw invalid(action, name, "a number of 0 or more", value);
}

function invalid(action: string, name: string, expected: string, value: unknown): Error {
  const Kind = typeof value === "number" ? RangeError : TypeError;
  return new Kind(`Cannot ${action}: ${name} must be ${expected}, received ${String(value)}`);
}

// ─── Demo: `bun concepts/async-basics.ts` ────────────────────────────────────────────────────────

/** Work within its time, too late, called off, waited for by polling, and set up once for two. */
export async function demo(log: (lane: string, state: string) => void = print): Promise<void> {
  const calledOff = new AbortController();
  let isReady = false;
  const setUp = lazy(async () => {
    log("setup", "running");
    await sleep(150);
    isReady = true;
    log("setup", "done");
  });
  const lane = async (name: string, work: () => Promise<unknown>) => {
    log(name, "waiting");
    try {
      await work();
      log(name, "done");
    } catch (error) {
      log(name, error === calledOff.signal.reason ? "cancelled" : `failed: ${error}`);
    }
  };
  await Promise.all([
    lane("100 ms of work, given 200", () => timeout((signal) => sleep(100, { signal }), 200)),
    lane("300 ms of work, given 200", () => timeout((signal) => sleep(300, { signal }), 200)),
    lane("a sleep without end", () => sleep(Infinity, { signal: calledOff.signal })),
    lane("user 1 of the setup", setUp),
    lane("user 2 of the setup", setUp),
    lane("polling for the setup", () => poll(() => isReady, { interval: 20 })),
    sleep(250).then(() => calledOff.abort()),
  ]);
}

let start: number | undefined;

function print(lane: string, state: string): void {
  start ??= performance.now();
  const ms = Math.round(performance.now() - start);
  console.log(`+${String(ms).padStart(4)} ms  ${lane}  ${state}`);
}

if ((import.meta as { main?: boolean }).main) await demo();
