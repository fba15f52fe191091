// async-concepts 0.2.0, MIT License. A file to copy and own; please keep this line.

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
 * Without it such a test sleeps for real. It is slow, it asserts "less than 150 ms" and fails on a
 * busy machine, and what takes a day is never tested at all. With fake timers that are advanced by
 * hand, promises don't move while the clock does, and the test hangs until somebody finds the right
 * mixture of `advance` and `await`.
 *
 * Known elsewhere as: trio's `MockClock(autojump_threshold=0)`, `runTest` of Kotlin's
 * coroutines-test, `testing/synctest` in Go, `tokio::time::pause` in Rust.
 *
 * @module
 */

/** What {@link virtualTime} can be told. */
export interface VirtualTimeOptions extends WaitOptions {
  /** What `Date` says at the start of the run. Default: 2000-01-01T00:00:00Z. */
  now?: Date | number | undefined;
  /** How many timers may fire before the run is given up as endless. Default: a million. */
  maxTimers?: number | undefined;
  /** Real milliseconds after which the run is given up. Default: 3000, well under a test's limit. */
  realTimeLimit?: number | undefined;
  /**
   * Real milliseconds to wait before the clock jumps, for a body that races timers against I/O.
   * Default: 0.
   */
  idle?: number | undefined;
  /**
   * What becomes of timers that wait when the body has succeeded: `"drop"` forgets them, `"drain"`
   * lets them fire until none is left, `"fail"` rejects. Default: `"drop"`.
   */
  leftovers?: "drop" | "drain" | "fail" | undefined;
}

/** What the body of {@link virtualTime} is given. */
export interface VirtualClock {
  /** Milliseconds since the body began, exactly. */
  readonly elapsed: number;
  /**
   * How many timers wait to fire: 0 proves that a wait has left nothing behind. Those of
   * `AbortSignal.timeout` don't count, because nobody can clear them.
   */
  readonly pending: number;
  /** Aborted when the run ends before the body has: a deadlock, a limit, an abort from outside. */
  readonly signal: AbortSignal;
}

/** The body waits, and no timer is left to wake it. */
export class DeadlockError extends Error {
  override readonly name = "DeadlockError";
}

/**
 * Runs `body` on a clock of its own and returns what it returns.
 *
 * Inside, `setTimeout`, `setInterval`, `setImmediate`, their `clear` functions, `Date`,
 * `performance.now`, `AbortSignal.timeout` and `Temporal.Now` belong to the clock. It stands still
 * while anything runs. When all promises have been worked off and only timers are left, it jumps to
 * the one that is due first and fires it; of two that are due together, the one that was set first.
 * A delay keeps its fractions, and one that the platform can't hold (above 2^31-1 ms) fires at once,
 * as it does there. While other timers wait, a loop of timers of 0 ms takes 1 ms a round after the
 * fifth, so that time passes.
 *
 * The clock sees timers and promises, nothing else: no socket, file, worker or `crypto`, and no
 * timer that goes around the globals (`node:timers/promises`, `Bun.sleep`). When no timer is left it
 * gives them some 50 ms of real time before it names a deadlock, or `idle` if that is longer. Times
 * are exact only without them.
 *
 * When the run must end before the body has, `clock.signal` is aborted and the timers are dropped.
 * The body can then clean up, in virtual time, with timers of its own; what it still waits for after
 * that is abandoned. However the run ends, all globals are put back. A timer or a `setTimeout` kept
 * from inside is then one of the platform's.
 *
 * Await it: otherwise the test ends first, and the next one finds the clock still running.
 *
 * Source of the idea: trio's autojump clock.
 *
 * @param body what to run; it is given the clock
 * @throws {TypeError} an argument is of the wrong kind
 * @throws {RangeError} a number is out of range, or `now` is not a valid time
 * @throws {DeadlockError} `body` waits for something that no timer will bring
 * @throws {Error} virtual time runs already: it can be neither nested nor used in concurrent tests
 * @throws {Error} fake timers are active, or a global can't be replaced
 * @throws {Error} `maxTimers` have fired or `realTimeLimit` has passed, and the body still waits
 * @throws {Error} timers are left behind, and `leftovers` is `"fail"`
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
export function virtualTime<T>(
  body: (clock: VirtualClock) => T | PromiseLike<T>,
  options?: VirtualTimeOptions,
): Promise<T>;
export function virtualTime<R>(
  body: (clock: VirtualClock) => R,
  options?: VirtualTimeOptions,
): Promise<Awaited<R>>;
export async function virtualTime<T>(
  body: (clock: VirtualClock) => T | PromiseLike<T>,
  options: VirtualTimeOptions = {},
): Promise<T> {
  requireFunction(START, "body", body);
  if (Object(options) !== options) {
    throw invalid(START, "options", "an object", options, TypeError);
  }
  const run = new Run(body, options);
  options.signal?.throwIfAborted();
  // The error holds the stack, which says where the run began.
  return run.start(new Error());
}

const START = "start virtual time";

/** Where a run leaves word that it is under way, so that two copies of this file find each other. */
const RUNNING = Symbol.for("async-concepts.virtual-time");

/** How many turns of a real millisecond are given to what happens outside before a deadlock. */
const GRACE = 50;

/** How many timers may fire for the cleanup of a body that was ended. */
const MAX_CLEANUP_TIMERS = 1000;

/** A run of a body: turns the event loop, fires a timer in each turn, and decides when to end. */
class Run<T> implements VirtualClock {
  readonly #body: (clock: VirtualClock) => T | PromiseLike<T>;
  readonly #clock = new Clock(startOfClock());
  readonly #startDate: number;
  readonly #maxTimers: number;
  readonly #realTimeLimit: number;
  readonly #idle: number;
  readonly #leftovers: "drop" | "drain" | "fail";
  readonly #signal: AbortSignal | undefined;
  readonly #platform = new Platform();
  readonly #ended = Promise.withResolvers<T>();
  #world: World | undefined;
  #stopListening = doNothing;
  #controller: AbortController | undefined;
  #deadline = Infinity;
  #begun = false;
  /** What has come of the body. */
  #outcome: PromiseSettledResult<T> | undefined;
  /** Why the run ends before the body has; errors that came later stand behind the first. */
  #failures: unknown[] | undefined;
  #aborted = false;
  #over = false;
  #fired = 0;
  #cleanupFired = 0;
  /** The real timer that is waited for, if it isn't a turn. */
  #waiting: unknown;
  #quietTurns = 0;
  /** What the clock had done when a wait of `idle` began. */
  #idleSince = -1;
  #jumpAt = 0;

  constructor(
    body: (clock: VirtualClock) => T | PromiseLike<T>,
    {
      now = Date.UTC(2000),
      maxTimers = 1_000_000,
      realTimeLimit = 3000,
      idle = 0,
      leftovers = "drop",
      signal,
    }: VirtualTimeOptions,
  ) {
    this.#startDate = toTime(now);
    requirePositiveInteger(START, "maxTimers", maxTimers);
    requireDuration(START, "realTimeLimit", realTimeLimit);
    requireDuration(START, "idle", idle);
    if (!["drop", "drain", "fail"].includes(leftovers)) {
      throw invalid(START, "leftovers", '"drop", "drain" or "fail"', leftovers, TypeError);
    }
    requireSignal(START, signal);
    this.#body = body;
    this.#maxTimers = maxTimers;
    this.#realTimeLimit = realTimeLimit;
    this.#idle = idle;
    this.#leftovers = leftovers;
    this.#signal = signal ?? undefined;
  }

  get elapsed(): number {
    return this.#clock.elapsed;
  }

  get pending(): number {
    return this.#clock.pending;
  }

  get signal(): AbortSignal {
    return (this.#controller ??= new AbortController()).signal;
  }

  start(began: Error): Promise<T> {
    refuseAnotherRun();
    this.#platform.refuseFakeTimers();
    this.#world = new World(this.#clock, this.#platform, this.#startDate);
    this.#world.enter(began);
    this.#deadline = this.#platform.now() + this.#realTimeLimit;
    this.#stopListening = onAbort(this.#signal, (reason) => {
      if (this.#outcome && !this.#failures && this.#leftovers !== "drain") return;
      this.#aborted ||= !this.#failures;
      this.#stop(reason);
    });
    this.#platform.onTestEnd((done) => this.#testEnded(done));
    this.#platform.nextTurn(this.#turn);
    return this.#ended.promise;
  }

  // A callback of the platform's, and not a continuation of a promise: ticks come before promises.
  readonly #turn = (): void => {
    if (this.#over) return;
    this.#waiting = undefined;
    const clock = this.#clock;
    if (!this.#begun && !this.#failures) return this.#begin();
    if (this.#isDone()) return this.#end();
    if (!this.#failures) {
      if (this.#platform.now() >= this.#deadline) {
        return this.#giveUp(`${this.#realTimeLimit} ms of real time have passed`);
      }
      if (clock.size === 0) return this.#awaitOutside();
      if (this.#isToWait()) return;
      if (this.#fired === this.#maxTimers) return this.#giveUp(`${this.#fired} timers have fired`);
    }
    // First of all, because the callback may block and turn the event loop itself, as `expect()
    // .rejects` does in bun:test.
    this.#platform.nextTurn(this.#turn);
    this.#fired++;
    this.#quietTurns = 0;
    try {
      clock.fireNext();
    } catch (error) {
      this.#stop(error);
    }
  };

  #begin(): void {
    this.#begun = true;
    this.#platform.nextTurn(this.#turn);
    Promise.try(this.#body, this).then(
      (value) => this.#settle({ status: "fulfilled", value }),
      (reason) => this.#settle({ status: "rejected", reason }),
    );
  }

  #settle(outcome: PromiseSettledResult<T>): void {
    this.#outcome = outcome;
    if (this.#over) {
      if (outcome.status === "fulfilled") releaseHold(outcome.value);
    } else this.#wake();
  }

  #isDone(): boolean {
    if (!this.#failures) {
      return !!this.#outcome && (this.#leftovers !== "drain" || this.#clock.pending === 0);
    }
    return (
      !this.#begun ||
      !!this.#outcome ||
      this.#clock.size === 0 ||
      this.#cleanupFired++ === MAX_CLEANUP_TIMERS
    );
  }

  /** No timer is left: something outside may wake the body, or nothing will. */
  #awaitOutside(): void {
    if (this.#quietTurns++ < Math.max(GRACE, this.#idle)) return this.#wait(1);
    const error = new DeadlockError(
      `Deadlock ${this.#when()}: the body waits, and no timer is left to wake it. ` +
        "(The clock can't see sockets, files, workers, crypto, and timers that go around the " +
        "globals, such as node:timers/promises: the option idle gives them more real time)",
    );
    this.#platform.nextTurn(this.#turn);
    this.#stop(error);
  }

  /** Whether real time must pass before the clock jumps; any timer set or cleared starts it anew. */
  #isToWait(): boolean {
    if (this.#idle === 0 || this.#clock.nextDue === this.#clock.elapsed) return false;
    const now = this.#platform.now();
    if (this.#idleSince !== this.#clock.changes) {
      this.#idleSince = this.#clock.changes;
      this.#jumpAt = now + this.#idle;
    }
    if (now >= this.#jumpAt) return false;
    this.#wait(Math.min(this.#jumpAt - now, this.#deadline - now, 2 ** 31 - 1));
    return true;
  }

  #wait(ms: number): void {
    this.#waiting = this.#platform.globals["setTimeout"](this.#turn, ms);
  }

  #wake(): void {
    if (this.#waiting === undefined) return;
    this.#platform.globals["clearTimeout"](this.#waiting);
    this.#waiting = undefined;
    this.#platform.nextTurn(this.#turn);
  }

  #giveUp(why: string): void {
    this.#platform.nextTurn(this.#turn);
    const still = this.#outcome ? "timers are still left" : "the body still waits";
    this.#stop(new Error(`Gave up ${this.#when()}: ${why}, and ${still}`));
  }

  /** Calls `done` once the body has been told. */
  #testEnded(done: () => void): void {
    if (this.#over) return done();
    const error = `Stopped ${this.#when()}: the test has ended before it. Was the run awaited?`;
    this.#stop(new Error(error));
    this.#ended.promise.finally(done).catch(doNothing);
  }

  #when(): string {
    return `at ${this.#clock.elapsed} ms of virtual time`;
  }

  /** Tells the body to end. Timers that it sets from now on are its cleanup's. */
  #stop(reason: unknown): void {
    if (this.#failures) return void this.#failures.push(reason);
    this.#failures = [reason];
    this.#clock.drop();
    (this.#controller ??= new AbortController()).abort(reason);
    this.#wake();
  }

  #end(): void {
    this.#over = true;
    this.#stopListening();
    this.#platform.close();
    const pending = this.#clock.pending;
    const { resolve, reject } = this.#ended;
    const notRestored = this.#world!.leave();
    const outcome = this.#outcome;
    const failures = this.#failures ?? [];
    if (notRestored) failures.push(notRestored);
    if (!this.#failures && outcome?.status === "fulfilled" && this.#leftovers === "fail") {
      if (pending > 0) {
        failures.push(new Error(`Timers are left behind ${this.#when()}: ${pending} still wait`));
      }
    }
    if (failures.length === 0 && outcome?.status === "fulfilled") return resolve(outcome.value);
    if (outcome?.status === "fulfilled") releaseHold(outcome.value);
    else if (outcome && !failures.includes(outcome.reason)) failures.push(outcome.reason);
    if (this.#aborted || failures.length === 1) return reject(failures[0]);
    reject(new AggregateError(failures, "Several errors in virtual time"));
  }
}

/**
 * What `performance.now` says at first: the same in every run, so that fractions are rounded alike,
 * and later than the platform's, so that it never goes back. Not 0, which some caches take for
 * "never".
 */
function startOfClock(): number {
  return 2 ** Math.max(20, Math.ceil(Math.log2(performance.now() + 1)));
}

function refuseAnotherRun(): void {
  const other = (globalThis as { [RUNNING]?: Error })[RUNNING];
  if (!other) return;
  // Below the line of the function itself stands that of its caller.
  const frames = String(other.stack)
    .split("\n")
    .filter((line) => /:\d+:\d+/.test(line));
  const place = frames[1]?.trim().replace(/^at /, "");
  throw new Error(
    `Cannot ${START}: it runs already (it can't be nested or concurrent). ` +
      `The other run began${place ? ` at ${place}` : " elsewhere"}: was it awaited?`,
  );
}

function toTime(now: unknown): number {
  const time = describe(now) === "Date" ? Number(now) : now;
  if (typeof time !== "number") throw invalid(START, "now", "a valid time", now);
  if (Number.isNaN(new Date(time).getTime())) throw invalid(START, "now", "a valid time", time);
  return time;
}

/**
 * Timers in the order of their turn, and how much time has passed. A binary heap, in arrays of plain
 * numbers, because a crowd of objects would miss the processor's cache at every comparison. A timer
 * that is cleared leaves a dead entry, whose order is no longer the timer's.
 */
class Clock {
  elapsed = 0;
  /** What `performance.now` says. */
  now: number;
  /** How many timers wait. */
  size = 0;
  /** How many timers were set or cleared. */
  changes = 0;
  readonly #dues: number[] = [];
  readonly #orders: number[] = [];
  readonly #timers: Timer[] = [];
  /** How many have a delay. */
  #delayed = 0;
  /** How many don't count as pending. */
  #uncounted = 0;
  #firing: Timer | undefined;

  constructor(now: number) {
    this.now = now;
  }

  get pending(): number {
    return this.size - this.#uncounted;
  }

  get nextDue(): number {
    this.#dropDead();
    return this.#dues[0]!;
  }

  set(timer: Timer): void {
    timer.due = this.elapsed + timer.delay;
    timer.dueNow = this.now + timer.delay;
    timer.order = this.changes++;
    if (timer.delay > 0) this.#delayed++;
    else if (this.#delayed > 0) this.#delayInLoop(timer);
    if (!timer.counts) this.#uncounted++;
    this.size++;
    this.#place(this.#dues.length, timer.due, timer.order, timer);
  }

  clear(timer: Timer): void {
    if (timer.order < 0) return;
    timer.order = -1;
    this.changes++;
    if (timer.delay > 0) this.#delayed--;
    if (!timer.counts) this.#uncounted--;
    this.size--;
    if (this.#timers.length > 2 * this.size + 100) this.#sweep();
  }

  /** Jumps to the timer that is due first, and fires it. */
  fireNext(): void {
    this.#dropDead();
    const timer = this.#timers[0]!;
    this.#removeHead();
    this.clear(timer);
    this.elapsed = timer.due;
    this.now = Math.max(this.now, timer.dueNow);
    this.#firing = timer;
    timer.fire();
  }

  /** Forgets all timers. */
  drop(): void {
    for (const timer of [...this.#timers]) this.clear(timer);
    this.#sweep();
  }

  /**
   * Where a timer of 0 ms follows from another, and that from another, time must pass some day, or
   * the timers that have a delay would never fire. Immediates count less: a turn takes microseconds.
   */
  #delayInLoop(timer: Timer): void {
    const before = this.#firing?.delay === 0 ? this.#firing.chain : 0;
    timer.chain = before + (timer.kind === "Immediate" ? 10 : 200);
    if (timer.chain <= 1000) return;
    timer.chain = timer.kind === "Immediate" ? 0 : 1000;
    timer.due = this.elapsed + 1;
    timer.dueNow = this.now + 1;
  }

  #dropDead(): void {
    while (this.#timers.length > 0 && this.#timers[0]!.order !== this.#orders[0]) {
      this.#removeHead();
    }
  }

  /** Removes all dead entries, before they are more than the others. */
  #sweep(): void {
    const orders = this.#orders.splice(0);
    const timers = this.#timers.splice(0);
    this.#dues.length = 0;
    for (const [n, timer] of timers.entries()) {
      if (timer.order !== orders[n]) continue;
      this.#place(this.#dues.length, timer.due, timer.order, timer);
    }
  }

  #removeHead(): void {
    const dues = this.#dues;
    const due = dues.pop()!;
    const order = this.#orders.pop()!;
    const timer = this.#timers.pop()!;
    if (dues.length === 0) return;
    // The gap sinks to the bottom, where the last entry most likely belongs.
    let gap = 0;
    for (let child = 1; child < dues.length; child = 2 * gap + 1) {
      const other = child + 1;
      if (other < dues.length && this.#isBefore(dues[other]!, this.#orders[other]!, child)) child++;
      this.#move(child, gap);
      gap = child;
    }
    this.#place(gap, due, order, timer);
  }

  /** Fills a gap, which rises as far as the entry must. */
  #place(gap: number, due: number, order: number, timer: Timer): void {
    while (gap > 0) {
      const parent = (gap - 1) >> 1;
      if (!this.#isBefore(due, order, parent)) break;
      this.#move(parent, gap);
      gap = parent;
    }
    this.#dues[gap] = due;
    this.#orders[gap] = order;
    this.#timers[gap] = timer;
  }

  #isBefore(due: number, order: number, index: number): boolean {
    const other = this.#dues[index]!;
    return due < other || (due === other && order < this.#orders[index]!);
  }

  #move(from: number, to: number): void {
    this.#dues[to] = this.#dues[from]!;
    this.#orders[to] = this.#orders[from]!;
    this.#timers[to] = this.#timers[from]!;
  }
}

type Callback = (...args: any[]) => unknown;

interface AsyncResource {
  runInAsyncScope(callback: Callback, self: unknown, ...args: unknown[]): unknown;
}

/** What `setTimeout` and its like return, with the methods of Node's Timeout. */
class Timer {
  /** When it fires: as `elapsed` has it, and as `performance.now` will say it, exactly. */
  due = 0;
  dueNow = 0;
  /** Which one it is of all that were set; -1 while it is not set. */
  order = -1;
  /** See {@link Clock}. */
  chain = 0;
  readonly kind: "Timeout" | "Interval" | "Immediate";
  readonly delay: number;
  /** Whether it counts as pending. */
  readonly counts: boolean;
  readonly #world: World;
  readonly #callback: Callback;
  readonly #args: readonly unknown[];
  /** Keeps the context of AsyncLocalStorage in which the timer was set. */
  readonly #context: AsyncResource | undefined;
  #id: number | undefined;
  #cleared = false;
  #hasRef = true;
  /** The platform's timer, if it was refreshed after the run. */
  #successor: any;

  constructor(
    world: World,
    kind: Timer["kind"],
    delay: number,
    callback: Callback,
    args: readonly unknown[] = NO_ARGUMENTS,
    counts = true,
  ) {
    this.#world = world;
    this.kind = kind;
    this.delay = delay;
    this.counts = counts;
    this.#callback = callback;
    this.#args = args;
    const { AsyncResource } = world.platform;
    if (AsyncResource) this.#context = new AsyncResource(kind);
    world.clock.set(this);
  }

  fire(): void {
    if (this.kind !== "Interval") this.#forgetId();
    try {
      if (this.#context) this.#context.runInAsyncScope(this.#callback, this, ...this.#args);
      else Reflect.apply(this.#callback, this, this.#args);
    } finally {
      // Only now, as on the platforms: what the callback has set comes before the next round.
      if (this.kind === "Interval" && !this.#cleared && this.order < 0) this.#world.clock.set(this);
    }
  }

  ref(): this {
    this.#hasRef = true;
    this.#successor?.ref();
    return this;
  }

  unref(): this {
    this.#hasRef = false;
    this.#successor?.unref();
    return this;
  }

  hasRef(): boolean {
    return this.#hasRef;
  }

  refresh(): this {
    if (this.#cleared) return this;
    const { over, clock, platform } = this.#world;
    if (!over) {
      clock.clear(this);
      clock.set(this);
    } else if (this.#successor) this.#successor.refresh();
    else {
      const set = platform.globals[this.kind === "Interval" ? "setInterval" : "setTimeout"];
      this.#successor = set(this.#callback, this.delay, ...this.#args);
      if (!this.#hasRef) this.#successor.unref();
    }
    return this;
  }

  close(): this {
    this.#cleared = true;
    this.#forgetId();
    this.#world.clock.clear(this);
    if (this.#successor) this.#world.platform.globals["clearTimeout"](this.#successor);
    return this;
  }

  [Symbol.dispose](): void {
    this.close();
  }

  [Symbol.toPrimitive](): number {
    this.#id ??= ++lastId;
    this.#world.timers.set(this.#id, this);
    return this.#id;
  }

  #forgetId(): void {
    if (this.#id !== undefined) this.#world.timers.delete(this.#id);
  }
}

const NO_ARGUMENTS: readonly unknown[] = [];

/** Above all numbers that a platform gives to its own timers; no two runs share one. */
let lastId = 2 ** 30;

type Process = { getBuiltinModule?: (name: string) => any; versions?: object };

/** What the platform has of its own, as it is before the run. */
class Platform {
  readonly globals = pick(globalThis, [
    "setTimeout",
    "setInterval",
    "setImmediate",
    "clearTimeout",
    "clearInterval",
    "clearImmediate",
  ]);
  readonly now: () => number = performance.now.bind(performance);
  readonly AsyncResource: (new (kind: string) => AsyncResource) | undefined;
  readonly #process = (globalThis as { process?: Process }).process;
  #channel: MessageChannel | undefined;
  #givesNumbers: boolean | undefined;

  constructor() {
    this.AsyncResource = this.#process?.getBuiltinModule?.("node:async_hooks")?.AsyncResource;
  }

  /** Calls back in the next turn of the event loop, after all promises have been worked off. */
  nextTurn(callback: () => void): void {
    const { setImmediate } = this.globals;
    if (setImmediate) return void setImmediate(callback);
    if (!this.#channel) {
      this.#channel = new MessageChannel();
      this.#channel.port1.onmessage = callback;
    }
    this.#channel.port2.postMessage(null);
  }

  close(): void {
    this.#channel?.port1.close();
  }

  /** Fake timers would stop the event loop's turns. */
  refuseFakeTimers(): void {
    const { setTimeout, setImmediate } = this.globals;
    const marked = [setTimeout, setImmediate, performance].some((it) => it && "clock" in it);
    if (!marked && !(setImmediate && "_isMockFunction" in setImmediate)) return;
    throw new Error(`Cannot ${START}: fake timers are active, call useRealTimers() first`);
  }

  /** Bun ends a test at an unhandled rejection and begins the next in the same turn. */
  onTestEnd(callback: (done: () => void) => void): void {
    try {
      this.#process?.getBuiltinModule?.("bun:test")?.onTestFinished(callback);
    } catch {
      // Not in a test.
    }
  }

  /** Whether its timers are plain numbers, as in browsers. */
  get givesNumbers(): boolean {
    if (this.#givesNumbers === undefined) {
      const timer = this.globals["setTimeout"](doNothing);
      this.globals["clearTimeout"](timer);
      this.#givesNumbers = typeof timer === "number";
    }
    return this.#givesNumbers;
  }

  /** Node and Deno give a timer to `AbortSignal.timeout`, which can't hold more than any other. */
  get holdsAnyTimeout(): boolean {
    return "Bun" in globalThis || !this.#process;
  }
}

function pick(target: object, names: string[]): Record<string, any> {
  const values = target as Record<string, unknown>;
  return Object.fromEntries(names.map((name) => [name, values[name]]));
}

/** The globals of a run. When it is over they do what the platform's do. */
class World {
  over = false;
  readonly clock: Clock;
  readonly platform: Platform;
  /** Timers whose number was asked for. */
  readonly timers = new Map<number, Timer>();
  readonly #startDate: number;
  readonly #undo: (() => boolean)[] = [];

  constructor(clock: Clock, platform: Platform, startDate: number) {
    this.clock = clock;
    this.platform = platform;
    this.#startDate = startDate;
  }

  get #date(): number {
    return Math.floor(this.#startDate + this.clock.elapsed);
  }

  enter(began: Error): void {
    try {
      this.#replace(globalThis, { [RUNNING]: began }, true);
      this.#replaceTimers();
      this.#replaceDates();
    } catch (error) {
      this.leave();
      throw error;
    }
  }

  /** Puts everything back; returns the error if that fails. */
  leave(): Error | undefined {
    this.over = true;
    const failed = this.#undo.reverse().filter((putBack) => !putBack());
    return failed.length ? new Error("Cannot put the globals back: they were frozen") : undefined;
  }

  #replaceTimers(): void {
    const { globals } = this.platform;
    const world = this;
    const set = (
      name: string,
      kind: Timer["kind"],
      delay: number,
      callback: Callback,
      args: unknown[],
    ) => {
      requireFunction(`call ${name}`, "callback", callback);
      const timer = new Timer(world, kind, delay, callback, args);
      return world.platform.givesNumbers ? +timer : timer;
    };
    const clear = (name: string) => (timer?: unknown) => {
      const own = timer instanceof Timer ? timer : world.#timerOf(timer);
      if (own) own.close();
      else globals[name]?.(timer);
    };
    const functions = {
      setTimeout(callback: Callback, ms?: unknown, ...args: unknown[]): unknown {
        if (world.over) return globals["setTimeout"](callback, ms, ...args);
        return set("setTimeout", "Timeout", toDelay(ms), callback, args);
      },
      setInterval(callback: Callback, ms?: unknown, ...args: unknown[]): unknown {
        if (world.over) return globals["setInterval"](callback, ms, ...args);
        // One of 0 ms would never let the clock go on. Node makes it 1, too.
        return set("setInterval", "Interval", Math.max(1, toDelay(ms)), callback, args);
      },
      setImmediate(callback: Callback, ...args: unknown[]): unknown {
        if (world.over) return globals["setImmediate"](callback, ...args);
        return set("setImmediate", "Immediate", 0, callback, args);
      },
      clearTimeout: clear("clearTimeout"),
      clearInterval: clear("clearInterval"),
      clearImmediate: clear("clearImmediate"),
    };
    this.#replace(globalThis, functions);
    this.#promisify("setTimeout", (done, ms) => new Timer(world, "Timeout", toDelay(ms), done));
    this.#promisify("setImmediate", (done) => new Timer(world, "Immediate", 0, done));

    const timeout = AbortSignal.timeout;
    this.#replace(AbortSignal, {
      timeout(ms: number): AbortSignal {
        const held = Number.isInteger(ms) && toDelay(ms) === ms;
        // The platform refuses what it refuses.
        if (world.over || !held) {
          const signal = timeout.call(AbortSignal, ms);
          if (world.over) return signal;
        }
        const whole = Math.trunc(Number(ms));
        const delay = world.platform.holdsAnyTimeout ? whole : toDelay(whole);
        const controller = new AbortController();
        const abort = () =>
          controller.abort(new DOMException("The operation timed out.", "TimeoutError"));
        new Timer(world, "Timeout", delay, abort, NO_ARGUMENTS, false);
        return controller.signal;
      },
    });
  }

  #timerOf(id: unknown): Timer | undefined {
    const isId = typeof id === "number" || typeof id === "string";
    return isId ? this.timers.get(Number(id)) : undefined;
  }

  /** What `util.promisify` makes of a timer function, where the platform has it. */
  #promisify(
    name: "setTimeout" | "setImmediate",
    set: (done: () => void, ms: unknown) => Timer,
  ): void {
    const key = Symbol.for("nodejs.util.promisify.custom");
    const original = this.platform.globals[name]?.[key];
    if (!original) return;
    const promised = (...args: any[]): Promise<unknown> => {
      if (this.over) return original(...args);
      const [ms, value, options] = name === "setTimeout" ? args : [0, ...args];
      const signal: AbortSignal | undefined = options?.signal;
      return new Promise((resolve, reject) => {
        const abort = (cause: unknown) => {
          const error = new Error("The operation was aborted", { cause });
          reject(Object.assign(error, { name: "AbortError", code: "ABORT_ERR" }));
        };
        if (signal?.aborted) return abort(signal.reason);
        const timer = set(() => {
          stopListening();
          resolve(value);
        }, ms);
        const stopListening = onAbort(signal, (reason) => {
          timer.close();
          abort(reason);
        });
      });
    };
    const replaced = (globalThis as unknown as Record<string, object>)[name]!;
    Object.defineProperty(replaced, key, { value: promised });
  }

  #replaceDates(): void {
    const world = this;
    const { clock, platform } = this;
    const Real = Date;
    // Not a proxy: what is written to it must not reach the platform's.
    function VirtualDate(...args: unknown[]): unknown {
      const dated = args.length || world.over ? args : [world.#date];
      if (new.target) return Reflect.construct(Real, dated, new.target);
      return world.over ? Real() : new Real(world.#date).toString();
    }
    const functions = {
      now: () => (world.over ? Real.now() : world.#date),
    };
    Object.defineProperties(VirtualDate, {
      ...Object.getOwnPropertyDescriptors(Real),
      now: { value: functions.now, configurable: true, writable: true },
    });
    this.#replace(globalThis, { Date: VirtualDate });
    this.#replace(Real.prototype, { constructor: VirtualDate });
    this.#replace(performance, {
      now: () => (world.over ? platform.now() : clock.now),
      timeOrigin: this.#startDate - clock.now,
    });

    const { Temporal } = globalThis as { Temporal?: any };
    if (!Temporal) return;
    const real = { instant: Temporal.Now.instant, zone: Temporal.Now.timeZoneId };
    const instant = () =>
      world.over ? real.instant() : Temporal.Instant.fromEpochMilliseconds(world.#date);
    const zoned = (zone: unknown = real.zone()) => instant().toZonedDateTimeISO(zone);
    this.#replace(Temporal.Now, {
      instant,
      zonedDateTimeISO: zoned,
      plainDateTimeISO: (zone?: unknown) => zoned(zone).toPlainDateTime(),
      plainDateISO: (zone?: unknown) => zoned(zone).toPlainDate(),
      plainTimeISO: (zone?: unknown) => zoned(zone).toPlainTime(),
    });
  }

  /** Replaces those properties of `target` that it has. */
  #replace(target: object, values: Record<PropertyKey, unknown>, add = false): void {
    for (const key of Reflect.ownKeys(values)) {
      if (!add && !(key in target)) continue;
      const own = Reflect.getOwnPropertyDescriptor(target, key);
      const enumerable = own ? own.enumerable! : !add;
      const property = { value: values[key], configurable: true, enumerable, writable: true };
      if (!Reflect.defineProperty(target, key, property)) {
        throw new TypeError(`Cannot ${START}: ${String(key)} can't be replaced, it is frozen`);
      }
      this.#undo.push(() =>
        own ? Reflect.defineProperty(target, key, own) : Reflect.deleteProperty(target, key),
      );
    }
  }
}

function toDelay(ms: unknown): number {
  const delay = Number(ms);
  return delay > 0 && delay <= 2 ** 31 - 1 ? delay : 0;
}

// ─── Shared ──────────────────────────────────────────────────────────────────────────────────────
// These stand in several concepts, the same to the letter, because a concept imports nothing.

/** What every wait takes. */
export interface WaitOptions {
  /** Ends the wait: it rejects with the signal's reason, and has taken nothing. */
  signal?: AbortSignal | undefined;
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
    if (Object(item) !== item) continue;
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

function requireFunction(action: string, name: string, value: unknown): void {
  if (typeof value !== "function") throw invalid(action, name, "a function", value, TypeError);
}

function requireSignal(action: string, signal: AbortSignal | null | undefined): void {
  if (signal == null || typeof signal.throwIfAborted === "function") return;
  throw invalid(action, "signal", "an AbortSignal", signal, TypeError);
}

function requirePositiveInteger(action: string, name: string, value: number): void {
  if (Number.isSafeInteger(value) && value > 0) return;
  throw invalid(action, name, "a positive integer", value);
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

if ((import.meta as { main?: boolean }).main) void demo();
