// async-concepts 0.3.0, MIT License. A file to copy and own; please keep this line.

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
   * Real milliseconds in which nothing sets a timer, before the clock jumps: for a body that races
   * timers against I/O. Default: 0.
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
 * timer that goes around the globals (`node:timers/promises`, `Bun.sleep`). While timers wait it
 * jumps, whatever else is under way; when none is left it gives some 50 ms of real time to what it
 * can't see before it names a deadlock. Raise `idle` for I/O that takes longer, or that must come
 * before a timer. A server in the same process may set timers of its own, which move the clock:
 * times are exact only without I/O.
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
  requireOptions(START, options);
  const { now = Date.UTC(2000), maxTimers = 1_000_000, realTimeLimit = 3000 } = options;
  const { idle = 0, leftovers = "drop", signal } = options;
  const startDate = describe(now) === "Date" ? Number(now) : now;
  if (typeof startDate !== "number" || Number.isNaN(new Date(startDate).getTime())) {
    throw invalid(START, "now", "a valid time", startDate);
  }
  requirePositiveInteger(START, "maxTimers", maxTimers);
  requireDuration(START, "realTimeLimit", realTimeLimit);
  requireDuration(START, "idle", idle);
  if (!["drop", "drain", "fail"].includes(leftovers)) {
    throw invalid(START, "leftovers", '"drop", "drain" or "fail"', leftovers, TypeError);
  }
  requireSignal(START, signal);
  signal?.throwIfAborted();
  const world = new World(startDate);
  const run = new Run(body, world, { maxTimers, realTimeLimit, idle, leftovers });
  try {
    world.enter(new Error());
    return await run.start(signal);
  } finally {
    world.stage.leave();
  }
}

const START = "start virtual time";

/** How many turns of a real millisecond are given to what happens outside before a deadlock. */
const GRACE = 50;

/** How many timers may fire for the cleanup of a body that was ended. */
const MAX_CLEANUP_TIMERS = 1000;

type Settings = Omit<
  { [K in keyof VirtualTimeOptions]-?: NonNullable<VirtualTimeOptions[K]> },
  "now" | "signal"
>;

/** A run of a body: fires a timer in each turn of the event loop, and decides when to end. */
class Run<T> implements VirtualClock {
  readonly #body: (clock: VirtualClock) => T | PromiseLike<T>;
  readonly #world: World;
  readonly #settings: Settings;
  readonly #ended = Promise.withResolvers<T>();
  readonly #controller = new AbortController();
  readonly signal: AbortSignal = this.#controller.signal;
  readonly #deadline: number;
  /** How many timers may still fire. */
  #timersLeft: number;
  #outcome: PromiseSettledResult<T> | undefined;
  /** Why the run ends before the body has; errors that came later stand behind the first. */
  #failures: unknown[] | undefined;
  #aborted = false;
  /** For how many turns the clock has stayed as it was, and what it was: see {@link Clock}. */
  #idleTurns = 0;
  #idleSince = 0;

  constructor(body: (clock: VirtualClock) => T | PromiseLike<T>, world: World, settings: Settings) {
    this.#body = body;
    this.#world = world;
    this.#settings = settings;
    this.#timersLeft = settings.maxTimers;
    this.#deadline = world.stage.realNow() + settings.realTimeLimit;
  }

  get elapsed(): number {
    return this.#world.clock.elapsed;
  }

  get pending(): number {
    return this.#world.clock.pending;
  }

  start(signal: AbortSignal | null | undefined): Promise<T> {
    this.#world.stage.undo.push(
      onAbort(signal ?? undefined, (reason) => {
        if (this.#failures || this.#isDone()) return;
        this.#aborted = true;
        this.#stop(reason);
      }),
    );
    onTestEnd(() => {
      if (this.#world.stage.over) return undefined;
      const when = `Stopped ${this.#when()}: the test has ended before it`;
      this.#stop(new Error(`${when}. Was the run awaited?`));
      return this.#ended.promise;
    });
    this.#world.stage.nextTurn(this.#begin);
    return this.#ended.promise;
  }

  // A callback of the platform's, and not a continuation of a promise: ticks come before promises.
  readonly #begin = (): void => {
    if (this.#failures) return this.#end();
    this.#world.stage.nextTurn(this.#turn);
    Promise.try(this.#body, this).then(
      (value) => {
        this.#outcome = { status: "fulfilled", value };
        if (this.#world.stage.over) releaseHold(value);
      },
      (reason) => (this.#outcome = { status: "rejected", reason }),
    );
  };

  readonly #turn = (): void => {
    if (this.#isDone()) return this.#end();
    if (this.#isToWait()) return void this.#world.stage.platform["setTimeout"](this.#turn, 1);
    // First of all, because the callback may block and turn the event loop itself, as `expect()
    // .rejects` does in bun:test.
    this.#world.stage.nextTurn(this.#turn);
    try {
      if (!this.#failures) this.#checkLimits();
      this.#timersLeft--;
      this.#world.clock.fireNext();
    } catch (error) {
      this.#stop(error);
    }
  };

  #isDone(): boolean {
    const { clock } = this.#world;
    if (this.#failures) return !!this.#outcome || clock.size === 0 || this.#timersLeft === 0;
    if (!this.#outcome) return false;
    const drains = this.#settings.leftovers === "drain" && this.#outcome.status === "fulfilled";
    return !drains || clock.pending === 0;
  }

  /** Whether real time must pass first. Any timer that is set or cleared starts the wait anew. */
  #isToWait(): boolean {
    if (this.#failures) return false;
    const { clock, stage } = this.#world;
    const { idle } = this.#settings;
    if (clock.next?.due === clock.elapsed) return false;
    if (this.#idleSince !== clock.changes) this.#idleTurns = 0;
    this.#idleSince = clock.changes;
    const turns = clock.size === 0 ? Math.max(GRACE, idle) : idle;
    return this.#idleTurns++ < turns && stage.realNow() < this.#deadline;
  }

  #checkLimits(): void {
    const { maxTimers, realTimeLimit } = this.#settings;
    let limit: string;
    if (this.#world.stage.realNow() >= this.#deadline) {
      limit = `${realTimeLimit} ms of real time have passed`;
    } else if (this.#world.clock.size === 0) {
      throw new DeadlockError(
        `Deadlock ${this.#when()}: the body waits, and no timer is left to wake it. ` +
          "(The clock can't see sockets, files, workers, crypto, and timers that go around the " +
          "globals, such as node:timers/promises: the option idle gives them more real time)",
      );
    } else if (this.#timersLeft === 0) limit = `${maxTimers} timers have fired`;
    else return;
    const still = this.#outcome ? "timers are still left" : "the body still waits";
    throw new Error(`Gave up ${this.#when()}: ${limit}, and ${still}`);
  }

  #when(): string {
    return `at ${this.elapsed} ms of virtual time`;
  }

  /** Tells the body to end. Timers that it sets from now on are its cleanup's. */
  #stop(reason: unknown): void {
    if (this.#failures) return void this.#failures.push(reason);
    this.#failures = [reason];
    this.#timersLeft = MAX_CLEANUP_TIMERS;
    this.#world.clock.drop();
    this.#controller.abort(reason);
  }

  #end(): void {
    const { resolve, reject } = this.#ended;
    const outcome = this.#outcome;
    const failures = this.#failures ?? [];
    if (outcome?.status === "rejected") {
      if (!failures.includes(outcome.reason)) failures.push(outcome.reason);
    } else if (outcome) {
      const left = this.#settings.leftovers === "fail" ? this.pending : 0;
      if (!this.#failures && left === 0) return resolve(outcome.value);
      if (!this.#failures) {
        failures.push(new Error(`Timers are left behind ${this.#when()}: ${left} still wait`));
      }
      releaseHold(outcome.value);
    }
    if (this.#aborted || failures.length === 1) reject(failures[0]);
    else reject(new AggregateError(failures, "Several errors in virtual time"));
  }
}

/** How much time has passed, and the timers that wait. */
class Clock {
  elapsed = 0;
  /**
   * What `performance.now` says. It begins at the same number in every run, so that fractions are
   * rounded alike, and later than the platform's, so that it never goes back. Not at 0, which some
   * caches take for "never".
   */
  now: number = 2 ** Math.max(20, Math.ceil(Math.log2(performance.now())));
  /** How many timers wait. */
  size = 0;
  /** How many timers were set or cleared. */
  changes = 0;
  /** How many have a delay. */
  #delayed = 0;
  /** How many are of an `AbortSignal.timeout`. */
  #signals = 0;
  #firing: Timer | undefined;
  /**
   * A binary heap of timers and their times, which stand apart because a crowd of objects would miss
   * the processor's cache at every comparison. A timer that is cleared or refreshed keeps its entry,
   * which is then too early, and mended when its turn has come.
   */
  #timers: Timer[] = [];
  readonly #dues: number[] = [];

  get pending(): number {
    return this.size - this.#signals;
  }

  /** The timer whose turn is next. */
  get next(): Timer | undefined {
    for (;;) {
      const timer = this.#timers[0];
      if (!timer || timer.entry === timer.order) return timer;
      this.#removeHead();
      if (timer.order) this.#insert(timer);
    }
  }

  set(timer: Timer): void {
    if (timer.delay === 0) this.#delayInLoop(timer);
    timer.due = Math.max(timer.due, this.elapsed + timer.delay);
    timer.dueNow = Math.max(timer.dueNow, this.now + timer.delay);
    this.#count(timer, 1);
    timer.order = this.changes;
    if (!timer.entry) this.#insert(timer);
  }

  clear(timer: Timer): void {
    if (!timer.order) return;
    timer.order = 0;
    this.#count(timer, -1);
    if (this.#timers.length < 2 * this.size + 100) return;
    const timers = this.#timers;
    this.#timers = [];
    for (const timer of timers) {
      timer.entry = 0;
      if (timer.order) this.#insert(timer);
    }
  }

  /** Jumps to the next timer, and fires it. */
  fireNext(): void {
    const timer = this.next!;
    this.#removeHead();
    this.clear(timer);
    this.elapsed = timer.due;
    this.now = Math.max(this.now, timer.dueNow);
    this.#firing = timer;
    timer.fire();
  }

  /** Forgets all timers. */
  drop(): void {
    for (let timer; (timer = this.next);) this.clear(timer);
  }

  #count(timer: Timer, change: number): void {
    this.changes++;
    this.size += change;
    if (timer.delay > 0) this.#delayed += change;
    if (timer.kind === "Signal") this.#signals += change;
  }

  /**
   * Where a timer of 0 ms follows from another, and that from another, time must pass some day, or
   * the timers that have a delay would never fire. Immediates count less: a turn takes microseconds.
   */
  #delayInLoop(timer: Timer): void {
    const limit = timer.kind === "Immediate" ? 100 : 5;
    timer.chain = this.#delayed > 0 && this.#firing?.delay === 0 ? this.#firing.chain + 1 : 1;
    if (timer.chain <= limit) return;
    timer.chain = timer.kind === "Immediate" ? 0 : limit;
    timer.due = this.elapsed + 1;
    timer.dueNow = this.now + 1;
  }

  #insert(timer: Timer): void {
    timer.entry = timer.order;
    this.#raise(this.#timers.length, timer, timer.due);
  }

  #removeHead(): void {
    const timers = this.#timers;
    const dues = this.#dues;
    timers[0]!.entry = 0;
    const last = timers.pop()!;
    const size = timers.length;
    if (size === 0) return;
    const due = dues[size]!;
    // The gap sinks to the bottom, where the last entry most likely belongs.
    let gap = 0;
    for (let child = 1; child < size; child = 2 * gap + 1) {
      const other = child + 1;
      if (other < size && this.#isBefore(timers[other]!, dues[other]!, child)) child = other;
      timers[gap] = timers[child]!;
      dues[gap] = dues[child]!;
      gap = child;
    }
    this.#raise(gap, last, due);
  }

  /** Puts an entry into a gap, which rises as far as the entry must. */
  #raise(gap: number, timer: Timer, due: number): void {
    while (gap > 0) {
      const parent = (gap - 1) >> 1;
      if (!this.#isBefore(timer, due, parent)) break;
      this.#timers[gap] = this.#timers[parent]!;
      this.#dues[gap] = this.#dues[parent]!;
      gap = parent;
    }
    this.#timers[gap] = timer;
    this.#dues[gap] = due;
  }

  #isBefore(timer: Timer, due: number, index: number): boolean {
    const other = this.#dues[index]!;
    return due < other || (due === other && timer.entry < this.#timers[index]!.entry);
  }
}

type Callback = (...args: any[]) => unknown;

/** What `setTimeout` and its like return, with the methods of Node's Timeout. */
class Timer {
  /** When it fires: as `elapsed` has it, and as `performance.now` will say it, exactly. */
  due = 0;
  dueNow = 0;
  /** Which one it is of all that were set; 0 while it is not set. */
  order = 0;
  /** What `order` was when it came into the {@link Clock}'s heap; 0 while it is not there. */
  entry = 0;
  /** How many timers of 0 ms have led to it. */
  chain = 0;
  readonly kind: "Timeout" | "Interval" | "Immediate" | "Signal";
  readonly delay: number;
  readonly #world: World;
  readonly #callback: Callback;
  readonly #args: readonly unknown[];
  /** Keeps the context of AsyncLocalStorage in which the timer was set. */
  readonly #context: any;
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
    ...args: readonly unknown[]
  ) {
    this.#world = world;
    this.kind = kind;
    this.delay = delay;
    this.#callback = callback;
    this.#args = args;
    if (world.AsyncResource) this.#context = new world.AsyncResource(kind);
    world.clock.set(this);
  }

  fire(): void {
    if (this.kind !== "Interval") this.#world.timers.delete(this.#id);
    try {
      if (this.#context) this.#context.runInAsyncScope(this.#callback, this, ...this.#args);
      else Reflect.apply(this.#callback, this, this.#args);
    } finally {
      // Only now, as on the platforms: what the callback has set comes before the next round.
      if (this.kind === "Interval" && !this.#cleared && !this.order) this.#world.clock.set(this);
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
    const { clock, stage } = this.#world;
    const { over, platform } = stage;
    if (over) {
      platform["clearTimeout"](this.#successor);
      this.#successor = platform[`set${this.kind}`](this.#callback, this.delay, ...this.#args);
      if (!this.#hasRef) this.#successor.unref();
    } else {
      clock.clear(this);
      clock.set(this);
    }
    return this;
  }

  close(): this {
    this.#cleared = true;
    const { timers, clock, stage } = this.#world;
    timers.delete(this.#id);
    clock.clear(this);
    stage.platform["clearTimeout"](this.#successor);
    return this;
  }

  [Symbol.dispose](): void {
    this.close();
  }

  [Symbol.toPrimitive](): number {
    this.#id ??= ++lastTimerId;
    this.#world.timers.set(this.#id, this);
    return this.#id;
  }
}

/** Above all numbers that a platform gives to its own timers; no two runs share one. */
let lastTimerId = 2 ** 30;

/** The globals of a run. When it is over they do what the platform's do. */
class World {
  readonly stage: Stage = new Stage(START);
  readonly clock = new Clock();
  /** Timers whose number was asked for. */
  readonly timers = new Map<number | undefined, Timer>();
  readonly AsyncResource: any = builtin("node:async_hooks")?.AsyncResource;
  readonly #startDate: number;

  constructor(startDate: number) {
    this.#startDate = startDate;
  }

  enter(began: Error): void {
    this.stage.enter(began);
    this.#replaceTimers();
    const date = () => Math.floor(this.#startDate + this.clock.elapsed);
    this.stage.replaceDates(date, () => this.clock.now);
  }

  #replaceTimers(): void {
    const world = this;
    const { stage } = world;
    const { platform } = stage;
    const { setTimeout: timeoutOutside, setImmediate: immediateOutside } = globalThis as any;
    // In browsers timers are plain numbers.
    const probe = setTimeout(doNothing);
    clearTimeout(probe);
    const set = (kind: Timer["kind"], delay: number, callback: Callback, ...args: unknown[]) => {
      requireFunction(`call set${kind}`, "callback", callback);
      const timer = new Timer(world, kind, delay, callback, ...args);
      return typeof probe === "number" ? +timer : timer;
    };
    stage.override(globalThis, "setTimeout", (callback, ms, ...args) =>
      set("Timeout", toDelay(ms), callback, ...args),
    );
    // An interval of 0 ms would never let the clock go on. Node makes it 1, too.
    stage.override(globalThis, "setInterval", (callback, ms, ...args) =>
      set("Interval", Math.max(1, toDelay(ms)), callback, ...args),
    );
    stage.override(globalThis, "setImmediate", (callback, ...args) =>
      set("Immediate", 0, callback, ...args),
    );
    for (const name of ["clearTimeout", "clearInterval", "clearImmediate"]) {
      stage.override(globalThis, name, (timer) => {
        const own = timer instanceof Timer ? timer : world.timers.get(Number(timer));
        if (own) own.close();
        else platform[name](timer);
      });
    }
    world.#overridePromisified("Timeout", timeoutOutside);
    world.#overridePromisified("Immediate", immediateOutside);

    const { timeout } = AbortSignal;
    // Node and Deno give it a timer, which can't hold more than any other.
    const holdsAny = "Bun" in globalThis || !("process" in globalThis);
    stage.override(AbortSignal, "timeout", (ms) => {
      // The platform refuses what it refuses.
      if (!Number.isInteger(ms) || toDelay(ms) !== ms) timeout.call(AbortSignal, ms);
      const whole = Math.trunc(Number(ms));
      const controller = new AbortController();
      const abort = () =>
        controller.abort(new DOMException("The operation timed out.", "TimeoutError"));
      new Timer(world, "Signal", holdsAny ? whole : toDelay(whole), abort);
      return controller.signal;
    });
  }

  /** What `util.promisify` makes of a timer function, where the platform has it. */
  #overridePromisified(kind: "Timeout" | "Immediate", outside: any): void {
    const key = Symbol.for("nodejs.util.promisify.custom");
    const original: Callback | undefined = outside?.[key];
    if (!original) return;
    const target: object = Reflect.get(globalThis, `set${kind}`);
    Object.defineProperty(target, key, { value: original, configurable: true });
    this.stage.override(target, key, (...args) => {
      const [ms, value, options] = kind === "Timeout" ? args : [0, ...args];
      const signal: AbortSignal | undefined = options?.signal;
      // The platform has the right error.
      if (signal?.aborted) return original(...args);
      return new Promise((resolve) => {
        const fire = () => {
          stopListening();
          resolve(value);
        };
        const timer = new Timer(this, kind, toDelay(ms), fire);
        const stopListening = onAbort(signal, () => {
          timer.close();
          resolve(original(...args));
        });
      });
    });
  }
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

/** Globals that are replaced for a run, until all are put back. */
class Stage {
  over = false;
  /** The functions outside, by their names. */
  readonly platform: Record<PropertyKey, any> = {};
  readonly realNow: () => number = performance.now.bind(performance);
  /** What is to be done in the end. */
  readonly undo: (() => unknown)[] = [];
  readonly #action: string;
  #channel: MessageChannel | undefined;

  constructor(action: string) {
    this.#action = action;
  }

  /** @param began its stack says where the run began */
  enter(began: Error): void {
    this.#refuseAnotherRun();
    this.#refuseFakeTimers();
    this.put(globalThis, RUNNING, began);
  }

  leave(): void {
    this.over = true;
    this.#channel?.port1.close();
    for (const putBack of this.undo.splice(0)) putBack();
  }

  /** Calls back in the next turn of the event loop, after all promises have been worked off. */
  nextTurn(callback: () => void): void {
    const { setImmediate } = this.platform;
    if (setImmediate) return void setImmediate(callback);
    this.#channel ??= new MessageChannel();
    this.#channel.port1.onmessage = callback;
    this.#channel.port2.postMessage(null);
  }

  /** Replaces a function of `target`, where it has it, until the run is over. */
  override(target: object, name: PropertyKey, virtual: (...args: any[]) => unknown): void {
    const original = (target as Record<PropertyKey, any>)[name];
    if (!original) return;
    // Browsers refuse to call it as a method of anything else.
    this.platform[name] = original.bind(target);
    const stage = this;
    // A method has the name, and can't be constructed.
    const methods = {
      [name](...args: unknown[]): unknown {
        return stage.over ? Reflect.apply(original, target, args) : virtual(...args);
      },
    };
    this.put(target, name, Reflect.get(methods, name));
  }

  put(target: object, key: PropertyKey, value: unknown): void {
    const own = Reflect.getOwnPropertyDescriptor(target, key);
    const enumerable = own?.enumerable ?? false;
    const property = { value, configurable: true, enumerable, writable: true };
    if (!Reflect.defineProperty(target, key, property)) {
      throw new TypeError(`Cannot ${this.#action}: ${String(key)} can't be replaced, it is frozen`);
    }
    this.undo.push(() =>
      own ? Reflect.defineProperty(target, key, own) : Reflect.deleteProperty(target, key),
    );
  }

  /** @param date what `Date` says, @param now what `performance.now` does; both in milliseconds */
  replaceDates(date: () => number, now: () => number): void {
    const stage = this;
    const Real = Date;
    const timeOrigin = date() - now();
    // Not a proxy: what is written to it must not reach the platform's.
    function VirtualDate(...args: unknown[]): unknown {
      const dated = args.length || stage.over ? args : [date()];
      if (new.target) return Reflect.construct(Real, dated, new.target);
      return stage.over ? Real() : new Real(date()).toString();
    }
    Object.defineProperties(VirtualDate, Object.getOwnPropertyDescriptors(Real));
    stage.override(VirtualDate, "now", date);
    stage.put(globalThis, "Date", VirtualDate);
    stage.put(Real.prototype, "constructor", VirtualDate);
    stage.override(performance, "now", now);
    stage.put(performance, "timeOrigin", timeOrigin);

    const { Temporal } = globalThis as { Temporal?: any };
    if (!Temporal) return;
    const { Now, Instant } = Temporal;
    const zoned = (zone: unknown = Now.timeZoneId()) =>
      Instant.fromEpochMilliseconds(date()).toZonedDateTimeISO(zone);
    stage.override(Now, "instant", () => Instant.fromEpochMilliseconds(date()));
    stage.override(Now, "zonedDateTimeISO", zoned);
    for (const kind of ["DateTime", "Date", "Time"]) {
      stage.override(Now, `plain${kind}ISO`, (zone) => zoned(zone)[`toPlain${kind}`]());
    }
  }

  #refuseAnotherRun(): void {
    const other = (globalThis as { [RUNNING]?: Error })[RUNNING];
    if (!other) return;
    // Below the line of the function itself stands that of its caller.
    const place = String(other.stack)
      .match(/.*:\d+:\d.*/g)?.[1]
      ?.trim()
      .replace(/^at /, "");
    throw new Error(
      `Cannot ${this.#action}: a virtual clock runs already (it can't be nested or concurrent). ` +
        `The other run began${place ? ` at ${place}` : " elsewhere"}: was it awaited?`,
    );
  }

  /** They would stop the event loop's turns. */
  #refuseFakeTimers(): void {
    const { setTimeout, setImmediate } = globalThis as Record<string, any>;
    const marked = [setTimeout, setImmediate, performance].some((it) => it && "clock" in it);
    if (!marked && !(setImmediate && "_isMockFunction" in setImmediate)) return;
    throw new Error(`Cannot ${this.#action}: fake timers are active, call useRealTimers() first`);
  }
}

/** Where a run leaves word that it is under way, so that two copies of this file find each other. */
const RUNNING = Symbol.for("async-concepts.virtual-time");

/** What a module of Node's exports, where there is one. */
function builtin(name: string): any {
  return (globalThis as { process?: any }).process?.getBuiltinModule?.(name);
}

/** bun:test ends a test at an unhandled rejection, and begins the next in the same turn. */
function onTestEnd(stop: () => Promise<unknown> | undefined): void {
  try {
    builtin("bun:test")?.onTestFinished((done: () => void) => {
      const stopped = stop();
      if (stopped) stopped.finally(done).catch(doNothing);
      else done();
    });
  } catch {
    // Not in a test.
  }
}

/** What the platforms make of a timer's delay. */
function toDelay(ms: unknown): number {
  const delay = Number(ms);
  return delay > 0 && delay <= 2 ** 31 - 1 ? delay : 0;
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
