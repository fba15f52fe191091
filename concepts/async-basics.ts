// async-concepts 0.3.0, MIT License. A file to copy and own; please keep this line.

/**
 * # Async basics
 *
 * Sleep, set a time limit, wait until a condition holds, initialize once, and end a program cleanly.
 *
 * Reach for it wherever something may take too long or has to stop when asked to. Every wait takes
 * an `AbortSignal`, and leaves no timer and no listener behind.
 *
 * Without it, a `Promise.race` against a timer reports a timeout while the work goes on and the
 * timer keeps the process alive; a `setTimeout` of a month fires at once; a cached promise that
 * failed fails for ever; and Ctrl-C ends a program in the middle of a write.
 *
 * Known elsewhere as: `asyncio.run`, `sleep`, `timeout`, `shield` (`abortable`) and `sleep(0)`
 * (`yieldNow`); Go's `context.WithTimeout`, `signal.NotifyContext` (`run`) and `sync.OnceValue`
 * (`lazy`); `eventually` and `waitFor` of testing libraries (`poll`); p-timeout and p-memoize on npm.
 *
 * @module
 */

/** The options of {@link poll}. */
export interface PollOptions extends WaitOptions {
  /** Milliseconds from the end of a call to the start of the next: 0 or more. */
  interval: number;
  /** Milliseconds until it gives up: 0 or more. Default: `Infinity`. */
  timeout?: number | undefined;
}

/**
 * Waits at least `ms` milliseconds. `Infinity` waits for the signal alone: it sets no timer, and so
 * does not keep a process alive.
 *
 * @param ms 0 or more, also above 2^31-1, where a bare `setTimeout` fires at once
 * @throws {TypeError | RangeError} an argument is of the wrong kind, or out of range
 * @throws the signal's reason, once it is aborted
 *
 * @example
 * ```ts
 * import { sleep } from "./async-basics.ts";
 *
 * await sleep(20);
 *
 * const month = sleep(30 * 24 * 3_600_000, { signal: AbortSignal.timeout(10) });
 * const error = await month.catch((error) => error);
 * console.assert(error.name === "TimeoutError");
 * ```
 */
export function sleep(ms: number, options?: WaitOptions): Promise<void> {
  return new Promise((resolve, reject) => {
    requireDuration("sleep", "ms", ms);
    const signal = signalOf("sleep", options);
    if (signal?.aborted) return reject(signal.reason);
    const stopTimer = startTimer(ms, () => {
      stopListening();
      resolve();
    });
    const stopListening = onAbort(signal, (reason) => {
      stopTimer();
      reject(reason);
    });
  });
}

/**
 * Runs a task for a limited time and returns its result. When the time is up, it aborts the task's
 * signal and rejects with the same error. An abort from outside does so too, with its own reason.
 *
 * It does not wait for the task to end then, because the task may ignore its signal. What the task
 * returns or throws after the abort is dropped; a hold (a permit, a lease) is released. Own other
 * resources inside the task with `using`.
 *
 * @param task is called at once. It is a function, because a running promise can't be stopped. Its
 *   second parameter, `reschedule(ms)`, sets another limit, which counts from that call, as long as
 *   the task runs: to limit the time between two signs of life, say
 * @param ms milliseconds: 0 or more. `Infinity` sets no limit
 * @throws {TypeError | RangeError} an argument is of the wrong kind, or out of range
 * @throws {DOMException} named TimeoutError, when the time is up
 * @throws whatever the task throws, or the signal's reason, once it is aborted
 *
 * @example
 * ```ts
 * import { timeout } from "./async-basics.ts";
 *
 * console.assert((await timeout(async () => 42, 1000)) === 42);
 *
 * const hanging = timeout(() => new Promise<void>(() => {}), 10);
 * const error = await hanging.catch((error) => error);
 * console.assert(error.name === "TimeoutError");
 * ```
 */
export function timeout<T>(task: TimedTask<T>, ms: number, options?: WaitOptions): Promise<T>;
export function timeout<R>(
  task: (signal: AbortSignal, reschedule: (ms: number) => void) => R,
  ms: number,
  options?: WaitOptions,
): Promise<Awaited<R>>;
export function timeout<T>(task: TimedTask<T>, ms: number, options?: WaitOptions): Promise<T> {
  return new Promise((resolve, reject) => {
    requireFunction("time out", "task", task);
    requireDuration("time out", "ms", ms);
    const outer = signalOf("time out", options);
    if (outer?.aborted) return reject(outer.reason);
    const limit = new TimeLimit(ms, reject);
    if (outer) limit.stopListening = onAbort(outer, (reason) => limit.abort(reason));
    try {
      const running = task(limit.controller.signal, (ms) => limit.reschedule(ms));
      Promise.resolve(running).then(
        (value) => {
          if (limit.isOver) return releaseHold(value);
          limit.end();
          resolve(value);
        },
        (error) => limit.fail(error),
      );
    } catch (error) {
      limit.fail(error);
    }
  });
}

/** The time that a task has. */
class TimeLimit {
  isOver = false;
  stopListening: () => void = doNothing;
  readonly controller = new AbortController();
  readonly #reject: (error: unknown) => void;
  #stopTimer: () => void;

  constructor(ms: number, reject: (error: unknown) => void) {
    this.#reject = reject;
    this.#stopTimer = this.#start(ms);
  }

  #start(ms: number): () => void {
    return startTimer(ms, () =>
      this.abort(new DOMException(`Timed out after ${ms} ms`, "TimeoutError")),
    );
  }

  reschedule(ms: number): void {
    requireDuration("reschedule", "ms", ms);
    this.#stopTimer();
    if (!this.isOver) this.#stopTimer = this.#start(ms);
  }

  end(): void {
    this.isOver = true;
    this.#stopTimer();
    this.stopListening();
  }

  fail(error: unknown): void {
    this.end();
    this.#reject(error);
  }

  abort(reason: unknown): void {
    this.fail(reason);
    this.controller.abort(reason);
  }
}

/** A {@link Task} that can set itself another limit. */
export type TimedTask<T> = (
  signal: AbortSignal,
  reschedule: (ms: number) => void,
) => T | PromiseLike<T>;

/**
 * Waits for a promise until the signal is aborted. The work behind the promise goes on. A later
 * failure is handled; a later hold (a permit, a lease) is released, unless another `abortable` of the
 * same promise has received it. Any number of callers may wait for one, and leave without a trace.
 *
 * @param signal may be undefined, to pass on an optional one
 * @throws {TypeError} `promise` is not a promise, or `signal` not an AbortSignal
 * @throws the signal's reason, once it is aborted, or whatever the promise rejects with
 *
 * @example
 * ```ts
 * import { abortable } from "./async-basics.ts";
 *
 * const controller = new AbortController();
 * const waiting = abortable(new Promise<void>(() => {}), controller.signal);
 * controller.abort("enough");
 * console.assert((await waiting.catch((reason) => reason)) === "enough");
 * ```
 */
export function abortable<T>(promise: PromiseLike<T>, signal: AbortSignal | undefined): Promise<T> {
  return new Promise((resolve, reject) => {
    if (typeof promise?.then !== "function") {
      throw invalid("wait", "promise", "a promise", promise, TypeError);
    }
    requireSignal("wait", signal);
    let waiters = waitersByPromise.get(promise);
    if (!waiters) waitersByPromise.set(promise, (waiters = new Waiters()));
    if (signal?.aborted) {
      reject(signal.reason);
      const { then } = Promise.prototype;
      // Another `then` may begin the work, as that of a query. (What this throws is ignored.)
      if (promise.then !== then) return void then.call(promise as Promise<T>, null, doNothing);
    } else {
      const waiter = { resolve, reject };
      const stopListening = onAbort(signal, (reason) => {
        waiters.delete(waiter);
        reject(reason);
      });
      waiters.set(waiter, stopListening);
    }
    if (!waiters.arePending) waiters.settleWith(promise);
  });
}

type Falsy = false | 0 | 0n | "" | null | undefined;

/**
 * Calls a function until it returns something truthy, and returns that. The first call comes at
 * once. An error ends it: catch inside the function what may fail for a while. When the time is up,
 * a pending call is given up as in {@link timeout}.
 *
 * @throws {TypeError | RangeError} an argument is of the wrong kind, or out of range
 * @throws {DOMException} named TimeoutError, when the time is up
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
export function poll<T>(fn: Task<T>, options: PollOptions): Promise<Exclude<T, Falsy>>;
export function poll<R>(
  fn: (signal: AbortSignal) => R,
  options: PollOptions,
): Promise<Exclude<Awaited<R>, Falsy>>;
export async function poll<T>(fn: Task<T>, options: PollOptions): Promise<T> {
  requireFunction("poll", "fn", fn);
  const outer = signalOf("poll", options);
  const { interval, timeout: ms = Infinity } = options ?? {};
  requireDuration("poll", "interval", interval);
  requireDuration("poll", "timeout", ms);
  const calls = async (signal: AbortSignal) => {
    for (;;) {
      const value = await fn(signal);
      if (value) return value;
      await sleep(interval, { signal });
      // Between the timer and this line it may have been aborted.
      signal.throwIfAborted();
    }
  };
  return timeout(calls, ms, { signal: outer });
}

/**
 * Returns a function that runs `init` at its first call and from then on returns the same result.
 * Concurrent callers share the run and its failure; the next call after a failure tries again.
 *
 * An abort ends the wait of one caller only, and `init` goes on for the others and for later ones.
 * `init` must not wait for its own result.
 *
 * `peek()` returns the result if it is there; `reset()` forgets it, and lets the next call run `init`
 * again. A run that goes on is then for those who wait for it.
 *
 * @throws {TypeError} `init` is not a function
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
export function lazy<T>(init: () => T | PromiseLike<T>): Lazy<T>;
export function lazy<R>(init: () => R): Lazy<Awaited<R>>;
export function lazy<T>(init: () => T | PromiseLike<T>): Lazy<T> {
  requireFunction("create lazy", "init", init);
  let running: Promise<{ value: T }> | undefined;
  let ready: { value: T } | undefined;
  const get = async (options?: WaitOptions): Promise<T> => {
    const signal = signalOf("wait for lazy", options);
    signal?.throwIfAborted();
    if (ready) return ready.value;
    if (running) return (await abortable(running, signal)).value;
    const { promise, resolve, reject } = Promise.withResolvers<{ value: T }>();
    running = promise;
    const first = abortable(promise, signal);
    Promise.try(init).then(
      (value) => {
        // In an object, so that a hold is not released when all callers have left: others may come.
        if (running === promise) resolve((ready = { value }));
        // After a reset none will; in a settled outcome it is released then.
        else resolve({ status: "fulfilled", value } as { value: T });
      },
      (error) => {
        if (running === promise) running = undefined;
        reject(error);
      },
    );
    return (await first).value;
  };
  const reset = () => {
    running = ready = undefined;
  };
  return Object.assign(get, { peek: () => ready?.value, reset });
}

/** What {@link lazy} makes. */
export interface Lazy<T> {
  (options?: WaitOptions): Promise<T>;
  /** The result, if it is there. */
  peek(): T | undefined;
  /** Lets the next call run `init` again. Does not release the result, which others may use. */
  reset(): void;
}

/**
 * Gives the event loop a turn, so that I/O and timers come to theirs. For loops that compute for
 * long: awaiting a settled promise lets only other promises run. It sets no timer, which would take
 * a millisecond or more, but uses `setImmediate`, or a `MessageChannel` in browsers.
 *
 * @throws {TypeError} `signal` is not an AbortSignal
 * @throws the signal's reason, once it is aborted
 *
 * @example
 * ```ts
 * import { yieldNow } from "./async-basics.ts";
 *
 * let fired = false;
 * setTimeout(() => (fired = true), 5);
 * while (!fired) await yieldNow(); // with `await null` here it would never end
 * console.assert(fired);
 * ```
 */
export function yieldNow(options?: WaitOptions): Promise<void> {
  return new Promise((resolve, reject) => {
    const signal = signalOf("yield", options);
    if (signal?.aborted) return reject(signal.reason);
    const cancel = onNextTurn(() => {
      stopListening();
      resolve();
    });
    const stopListening = onAbort(signal, (reason) => {
      cancel();
      reject(reason);
    });
  });
}

/**
 * Runs a program. SIGINT (Ctrl-C) and SIGTERM abort the signal that `main` is given, and `main` has
 * all the time it needs to clean up; a second one exits at once.
 *
 * The exit code is left alone when `main` returns. It is 1 when `main` throws: the error is printed
 * to stderr, and the promise is fulfilled all the same. It is 130 after SIGINT and 143 after SIGTERM,
 * as shells expect, when `main` throws the reason of its signal, or an AbortError with that cause.
 * The process ends when nothing is left to do, so that all output gets out. Where there is no
 * `process`, as in browsers, errors are printed, and that is all.
 *
 * @param options its signal aborts `main` too; the reason is then an error like any other
 * @throws {TypeError} `main` is not a function, or `signal` not an AbortSignal
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
export async function run(main: Task<unknown>, options?: WaitOptions): Promise<void> {
  requireFunction("run", "main", main);
  const signal = signalOf("run", options);
  const { process } = globalThis as { process?: HostProcess };
  const controller = new AbortController();
  let interruption: { reason: unknown; exitCode: number } | undefined;
  const interrupt = (name: string) => {
    const exitCode = name === "SIGINT" ? 130 : 143;
    if (interruption) return process!.exit(exitCode);
    const reason = new DOMException(`Interrupted by ${name}`, "AbortError");
    interruption = { reason, exitCode };
    controller.abort(reason);
  };
  process?.on?.("SIGINT", interrupt);
  process?.on?.("SIGTERM", interrupt);
  const stopListening = onAbort(signal, (reason) => controller.abort(reason));
  try {
    signal?.throwIfAborted();
    releaseHold(await main(controller.signal));
  } catch (error) {
    const isEcho = interruption && echoes(error, interruption.reason);
    if (process) process.exitCode = isEcho ? interruption!.exitCode : 1;
    if (!isEcho) printError(error);
  } finally {
    stopListening();
    process?.off?.("SIGINT", interrupt);
    process?.off?.("SIGTERM", interrupt);
  }
}

const waitersByPromise = new WeakMap<PromiseLike<any>, Waiters>();

type Settlers = Omit<PromiseWithResolvers<any>, "promise">;

/**
 * Those who wait for one promise in {@link abortable}, each with what stops its listening. If each
 * had a reaction of its own, a promise that never settles would keep those who have left.
 */
class Waiters extends Map<Settlers, () => void> {
  arePending = false;
  /** The result has been received, and is in use, or it has been dropped: later ones drop nothing. */
  #isGone = false;

  settleWith(promise: PromiseLike<any>): void {
    this.arePending = true;
    // Calls `then` now: in a later microtask the caller might have left.
    new Promise((resolve, reject) => promise.then(resolve, reject)).then(
      (value) => {
        this.#settle("resolve", value);
        if (!this.#isGone) releaseHold(value);
        this.#isGone = true;
      },
      (error) => this.#settle("reject", error),
    );
  }

  #settle(outcome: keyof Settlers, value: unknown): void {
    this.arePending = false;
    for (const [waiter, stopListening] of this) {
      stopListening();
      waiter[outcome](value);
      this.#isGone = true;
    }
    this.clear();
  }
}

/** What {@link run} uses of `process`. Bundlers for browsers define one that has nothing but `env`. */
interface HostProcess {
  exitCode?: unknown;
  exit(code: number): void;
  on?(name: string, listener: (name: string) => void): unknown;
  off?(name: string, listener: (name: string) => void): unknown;
}

/** Whether the error is the reason, or an AbortError around it, as Node's own functions make it. */
function echoes(error: unknown, reason: unknown): boolean {
  try {
    const { name, cause } = Object(error) as Error;
    return error === reason || (name === "AbortError" && cause === reason);
  } catch {
    return false;
  }
}

function printError(error: unknown): void {
  try {
    console.error(error);
  } catch {
    console.error(`An error that can't be printed: ${describe(error)}`);
  }
}

function signalOf(action: string, options: WaitOptions | undefined): AbortSignal | undefined {
  requireOptions(action, options);
  const signal = options?.signal;
  requireSignal(action, signal);
  return signal;
}

// ─── Shared ──────────────────────────────────────────────────────────────────────────────────────
// These stand in several concepts, the same to the letter, because a concept imports nothing.

/** What every wait takes. */
export interface WaitOptions {
  /** Ends the wait: it rejects with the signal's reason, and has taken nothing. */
  signal?: AbortSignal | undefined;
}

/** Work that stops when its signal is aborted, if it can. */
export type Task<T> = (signal: AbortSignal) => T | PromiseLike<T>;

/** A `setTimeout` of any length, which is never early. Returns what stops it. */
function startTimer(ms: number, callback: () => void): () => void {
  if (ms === Infinity) return doNothing;
  let timer: ReturnType<typeof setTimeout>;
  const wait = (left: number) => {
    const part = Math.min(left, 2 ** 31 - 1);
    const due = performance.now() + part;
    const check = () => {
      const early = due - performance.now();
      // Node is early by up to a millisecond. A clock that says much more has been replaced.
      const rest = left - part + (early > Math.max(1, part / 2) ? 0 : Math.max(0, early));
      if (rest > 0) wait(rest);
      else callback();
    };
    timer = setTimeout(check, part);
  };
  wait(ms);
  return () => clearTimeout(timer);
}

/** Calls back in the event loop's next turn. Returns what cancels it, unless it is a message. */
function onNextTurn(callback: () => void): () => void {
  const { setImmediate, clearImmediate } = globalThis as {
    setImmediate?: (callback: () => void) => unknown;
    clearImmediate?: (immediate: unknown) => void;
  };
  if (setImmediate) {
    const immediate = setImmediate(callback);
    return () => clearImmediate!(immediate);
  }
  const { port1, port2 } = new MessageChannel();
  port1.onmessage = () => {
    port1.close();
    callback();
  };
  port2.postMessage(undefined);
  return doNothing;
}

/**
 * Calls `listener` once the signal is aborted, unless the returned function is called before. All
 * listeners share one of the signal's own, because a signal searches its list at every change.
 */
function onAbort(signal: AbortSignal | undefined, listener: (reason: unknown) => void): () => void {
  if (!signal) return doNothing;
  let listeners = abortListeners.get(signal);
  if (!listeners) abortListeners.set(signal, (listeners = new AbortListeners(signal)));
  listeners.add(listener);
  return () => {
    if (listeners.delete(listener) && listeners.size === 0) listeners.detach();
  };
}

const abortListeners = new WeakMap<AbortSignal, AbortListeners>();

class AbortListeners extends Set<(reason: unknown) => void> {
  static readonly #aborting: AbortListeners[] = [];
  readonly #signal: AbortSignal;

  constructor(signal: AbortSignal) {
    super();
    this.#signal = signal;
    signal.addEventListener("abort", this);
  }

  detach(): void {
    if (abortListeners.delete(this.#signal)) this.#signal.removeEventListener("abort", this);
  }

  /** Tells one signal's listeners after the other's: nested scopes would overflow the stack. */
  handleEvent(): void {
    this.detach();
    const aborting = AbortListeners.#aborting;
    if (aborting.push(this) > 1) return;
    try {
      for (const listeners of aborting) {
        for (const listener of listeners) listener(listeners.#signal.reason);
      }
    } finally {
      aborting.length = 0;
    }
  }
}

/** Releases a hold that nobody will receive, or the holds in a list or in settled outcomes. */
function releaseHold(value: unknown): void {
  if (Object(value) !== value) return;
  // A Set, because a list may contain itself. The loop reaches what is added meanwhile.
  const values = new Set<unknown>([value]);
  for (const item of values) {
    try {
      if (Array.isArray(item)) for (const each of Object.values(item)) values.add(each);
      const it = item as Partial<PromiseFulfilledResult<unknown> & Disposable & AsyncDisposable>;
      if (it.status === "fulfilled") values.add(it.value);
      if (!(it[Symbol.dispose] ?? it[Symbol.asyncDispose])) continue;
      const { release } = it as { release?: unknown };
      if (typeof release === "function") Promise.resolve(release.call(it)).catch(doNothing);
    } catch {
      // Nobody is left who could be told.
    }
  }
}

function doNothing(): void {}

/** A signal in place of `{ signal }` would silently never be heard. */
function requireOptions(action: string, options: unknown): void {
  if (options === undefined) return;
  if (typeof options === "object" && options !== null && !("throwIfAborted" in options)) return;
  throw invalid(action, "options", "an object", options, TypeError);
}

function requireFunction(action: string, name: string, value: unknown): void {
  if (typeof value !== "function") throw invalid(action, name, "a function", value, TypeError);
}

function requireSignal(action: string, signal: AbortSignal | null | undefined): void {
  if (signal == null || typeof signal.throwIfAborted === "function") return;
  throw invalid(action, "signal", "an AbortSignal", signal, TypeError);
}

function requireDuration(action: string, name: string, value: number): void {
  if (typeof value === "number" && value >= 0) return;
  throw invalid(action, name, "a number of 0 or more", value);
}

function invalid(
  action: string,
  name: string,
  expected: string,
  value: unknown,
  Kind = typeof value === "number" ? RangeError : TypeError,
): Error {
  return new Kind(`Cannot ${action}: ${name} must be ${expected}, received ${describe(value)}`);
}

/** A string in quotes, an object by its kind. */
function describe(value: unknown): string {
  if (typeof value === "string") return JSON.stringify(value);
  if (Object(value) !== value) return String(value);
  try {
    return Object.prototype.toString.call(value).slice("[object ".length, -1);
  } catch {
    return typeof value;
  }
}

// ─── Demo: `bun concepts/async-basics.ts` ────────────────────────────────────────────────────────

/** Work in time, too late, called off, waited for by polling, and done once for two. */
export async function demo(log: (lane: string, state: string) => void = print): Promise<void> {
  const calledOff = new AbortController();
  const { signal } = calledOff;
  let isReady = false;
  const setUp = lazy(() => sleep(150).then(() => (isReady = true)));
  const lane = async (name: string, work: () => Promise<unknown>) => {
    log(name, "waiting");
    await work().then(
      () => log(name, "done"),
      (error) => log(name, error === signal.reason ? "cancelled" : `failed: ${error}`),
    );
  };
  await Promise.all([
    lane("100 ms of work, given 200", () => timeout((signal) => sleep(100, { signal }), 200)),
    lane("300 ms of work, given 200", () => timeout((signal) => sleep(300, { signal }), 200)),
    lane("a sleep without end", () => sleep(Infinity, { signal })),
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

if ((import.meta as { main?: boolean }).main) void demo();
