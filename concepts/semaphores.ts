/**
 * # Semaphores
 *
 * Let at most so many in at a time, or so many per second; the others wait in line.
 *
 * Reach for it when there may be more work than a resource can bear: connections, memory, an API's
 * quota ({@link RateLimiter}), or a piece of code that must not run twice at once ({@link Mutex}).
 *
 * Without it `Promise.all(urls.map(fetch))` opens ten thousand sockets, and two requests that both
 * read, wait and write overwrite one another. With a counter of one's own, a permit is lost as soon
 * as somebody aborts or throws.
 *
 * Known elsewhere as: `asyncio.Semaphore`, `BoundedSemaphore` and `Lock`; Go's `semaphore.Weighted`
 * and `rate.Limiter`; p-limit and async-mutex on npm; the Web Locks API.
 *
 * @module
 */

/** What every wait can be told. */
export interface WaitOptions {
  /** Ends the wait: it rejects with the signal's reason, and has taken nothing. */
  signal?: AbortSignal | undefined;
}

/** How much to take from a {@link Semaphore}. */
export interface WeightOptions {
  /** How many of the permits: a positive integer. Default: 1. */
  weight?: number | undefined;
}

/** How much to take from a {@link RateLimiter}. */
export interface TokenOptions {
  /** How many tokens: a positive integer. Default: 1. */
  tokens?: number | undefined;
}

/** The right to be inside. `using` gives it back, and so does `release()`; twice does nothing. */
export interface Permit extends Disposable {
  release(): void;
}

/**
 * A number of permits that are lent out, first come, first served.
 *
 * Nobody overtakes: while one who needs much waits at the front, those who need little wait behind
 * it. Otherwise a stream of small requests could keep a large one waiting forever.
 *
 * Source of the idea: Dijkstra; weights and order are those of Go's `semaphore.Weighted`.
 *
 * @example At most two downloads at once
 * ```ts
 * import { Semaphore } from "./semaphores.ts";
 *
 * const downloads = new Semaphore(2);
 *
 * async function download(name: string): Promise<string> {
 *   using _permit = await downloads.acquire();
 *   return `contents of ${name}`;
 * }
 *
 * const files = await Promise.all(["a", "b", "c"].map(download));
 * console.assert(files.length === 3 && downloads.available === 2);
 * ```
 */
export class Semaphore {
  #permits: number;
  #available: number;
  #waiting = 0;
  /** Closes the line to a ring: its `next` is who is served first, its `previous` who came last. */
  readonly #line = new Waiter(0);
  readonly #onIdle = new Set<() => void>();

  /**
   * @param permits how many there are: a positive integer
   * @throws {RangeError} `permits` is not a positive integer
   */
  constructor(permits: number) {
    this.#permits = this.#available = positiveInteger("create Semaphore", "permits", permits);
  }

  /** How many permits there are, lent or not. */
  get permits(): number {
    return this.#permits;
  }

  /** How many permits can be lent now; below 0 while more are out than {@link resize} left. */
  get available(): number {
    return this.#available;
  }

  /** How many callers wait in line. */
  get waiting(): number {
    return this.#waiting;
  }

  /**
   * Takes permits, waiting in line if need be.
   *
   * @throws {RangeError} `weight` is not a positive integer, or more than all permits
   * @throws the signal's reason, once it is aborted
   */
  async acquire(options: WeightOptions & WaitOptions = {}): Promise<Permit> {
    const { weight = 1, signal } = options;
    signal?.throwIfAborted();
    const immediate = this.tryAcquire(options);
    if (immediate) return immediate;

    const waiter = new Waiter(weight);
    waiter.insertBefore(this.#line);
    this.#waiting++;
    waiter.stopListening = onAbort(signal, (reason) => {
      this.#remove(waiter);
      waiter.permit.reject(reason);
      this.#serve();
    });
    const permit = await waiter.permit.promise;
    // Aborted in the very turn in which it was let in: the permit is not lost.
    if (signal?.aborted) {
      permit.release();
      throw signal.reason;
    }
    return permit;
  }

  /**
   * Takes permits if that is possible at once, and returns undefined if not. It never goes ahead of
   * those in line.
   *
   * @throws {RangeError} `weight` is not a positive integer, or more than all permits
   */
  tryAcquire({ weight = 1 }: WeightOptions = {}): Permit | undefined {
    positiveInteger("acquire Semaphore", "weight", weight);
    if (weight > this.#permits) throw this.#tooHeavy(weight);
    return this.#waiting === 0 && weight <= this.#available ? this.#lend(weight) : undefined;
  }

  /**
   * Runs `fn` while holding permits, and returns what it returns.
   *
   * @throws whatever {@link acquire} throws, or `fn`
   */
  async run<T>(
    fn: () => T | PromiseLike<T>,
    options: WeightOptions & WaitOptions = {},
  ): Promise<T> {
    using _permit = await this.acquire(options);
    return await fn();
  }

  /**
   * Changes the number of permits. What is lent stays lent: after a cut nobody is let in until
   * enough has come back. Whoever waits for more than there now is gets a RangeError.
   *
   * @throws {RangeError} `permits` is not a positive integer
   */
  resize(permits: number): void {
    positiveInteger("resize Semaphore", "permits", permits);
    this.#available += permits - this.#permits;
    this.#permits = permits;
    for (let waiter = this.#line.next; waiter !== this.#line; waiter = waiter.next) {
      if (waiter.weight <= permits) continue;
      this.#remove(waiter);
      waiter.permit.reject(this.#tooHeavy(waiter.weight));
    }
    this.#serve();
  }

  /**
   * Waits until all permits are back and nobody is in line. It takes nothing: newcomers go first.
   *
   * @throws the signal's reason, once it is aborted
   */
  async idle({ signal }: WaitOptions = {}): Promise<void> {
    signal?.throwIfAborted();
    if (this.#isIdle) return;
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.#onIdle.add(resolve);
    const stopListening = onAbort(signal, reject);
    try {
      await promise;
    } finally {
      stopListening();
      this.#onIdle.delete(resolve);
    }
  }

  get #isIdle(): boolean {
    return this.#available === this.#permits && this.#waiting === 0;
  }

  #lend(weight: number): Permit {
    this.#available -= weight;
    return createPermit(() => {
      this.#available += weight;
      this.#serve();
    });
  }

  #serve(): void {
    for (let first = this.#line.next; first !== this.#line; first = this.#line.next) {
      if (first.weight > this.#available) return;
      this.#remove(first);
      first.permit.resolve(this.#lend(first.weight));
    }
    if (this.#isIdle) for (const resolve of this.#onIdle) resolve();
  }

  #remove(waiter: Waiter): void {
    waiter.unlink();
    waiter.stopListening();
    this.#waiting--;
  }

  #tooHeavy(weight: number): RangeError {
    return new RangeError(
      `Cannot acquire Semaphore: weight must be at most its ${this.#permits} permits, received ${weight}`,
    );
  }
}

/** A node of a doubly linked list, so that leaving the line costs the same everywhere in it. */
class Waiter {
  previous: Waiter = this;
  next: Waiter = this;
  readonly weight: number;
  readonly permit = Promise.withResolvers<Permit>();
  stopListening: () => void = () => {};

  constructor(weight: number) {
    this.weight = weight;
  }

  insertBefore(next: Waiter): void {
    this.previous = next.previous;
    this.next = next;
    this.previous.next = next.previous = this;
  }

  unlink(): void {
    this.previous.next = this.next;
    this.next.previous = this.previous;
  }
}

/**
 * Mutual exclusion: one at a time, first come, first served. A semaphore of one.
 *
 * It knows no owner: whoever holds it and locks it again waits for themselves.
 *
 * Source of the idea: `asyncio.Lock`.
 *
 * @example Read, wait and write without being overtaken
 * ```ts
 * import { Mutex } from "./semaphores.ts";
 *
 * const mutex = new Mutex();
 * let balance = 0;
 *
 * async function deposit(amount: number): Promise<void> {
 *   using _lock = await mutex.lock();
 *   const before = balance;
 *   await Promise.resolve(); // a database, say
 *   balance = before + amount;
 * }
 *
 * await Promise.all([deposit(1), deposit(2), deposit(3)]);
 * console.assert(balance === 6);
 * ```
 */
export class Mutex {
  readonly #semaphore = new Semaphore(1);

  /** Whether somebody holds it. */
  get locked(): boolean {
    return this.#semaphore.available === 0;
  }

  /**
   * Locks it, waiting in line if need be.
   *
   * @throws the signal's reason, once it is aborted
   */
  lock({ signal }: WaitOptions = {}): Promise<Permit> {
    return this.#semaphore.acquire({ signal });
  }

  /** Locks it if it is free, and returns undefined if not. */
  tryLock(): Permit | undefined {
    return this.#semaphore.tryAcquire();
  }

  /**
   * Runs `fn` while holding the lock, and returns what it returns.
   *
   * @throws whatever `fn` throws, or the signal's reason
   */
  run<T>(fn: () => T | PromiseLike<T>, { signal }: WaitOptions = {}): Promise<T> {
    return this.#semaphore.run(fn, { signal });
  }
}

/**
 * One {@link Mutex} per key: the same key one at a time, different keys side by side. A key that
 * nobody holds or waits for takes no memory. Keys are compared as those of a `Map`.
 *
 * @example Requests of one user one after the other
 * ```ts
 * import { KeyedMutex } from "./semaphores.ts";
 *
 * const users = new KeyedMutex<string>();
 * const log: string[] = [];
 * await Promise.all([
 *   users.run("ada", async () => void log.push("ada 1")),
 *   users.run("ada", async () => void log.push("ada 2")),
 *   users.run("bob", async () => void log.push("bob")),
 * ]);
 * console.assert(log.indexOf("ada 1") < log.indexOf("ada 2") && users.size === 0);
 * ```
 */
export class KeyedMutex<K = unknown> {
  readonly #entries = new Map<K, { mutex: Mutex; users: number }>();

  /** How many keys are in use. */
  get size(): number {
    return this.#entries.size;
  }

  /** Whether somebody holds the key. */
  locked(key: K): boolean {
    return this.#entries.has(key);
  }

  /**
   * Locks the key, waiting in line if need be.
   *
   * @throws the signal's reason, once it is aborted
   */
  async lock(key: K, { signal }: WaitOptions = {}): Promise<Permit> {
    const entry = this.#entries.get(key) ?? { mutex: new Mutex(), users: 0 };
    this.#entries.set(key, entry);
    entry.users++;
    const leave = () => {
      if (--entry.users === 0) this.#entries.delete(key);
    };
    try {
      const permit = await entry.mutex.lock({ signal });
      return createPermit(() => {
        permit.release();
        leave();
      });
    } catch (error) {
      leave();
      throw error;
    }
  }

  /**
   * Runs `fn` while holding the key, and returns what it returns.
   *
   * @throws whatever `fn` throws, or the signal's reason
   */
  async run<T>(key: K, fn: () => T | PromiseLike<T>, options: WaitOptions = {}): Promise<T> {
    using _permit = await this.lock(key, options);
    return await fn();
  }
}

/** What a {@link RateLimiter} allows. */
export interface RateLimiterOptions {
  /** How many tokens come in every `interval`, evenly spread: a positive integer. */
  limit: number;
  /** Milliseconds: a positive number. */
  interval: number;
  /** How many tokens can be saved up, and so be spent at once. Default: `limit`. */
  burst?: number | undefined;
}

/**
 * At most so many per interval, first come, first served. It starts with `burst` tokens, and in any
 * stretch of time spends no more than `burst` and those that came in meanwhile. A timer runs only
 * while somebody waits. What a late timer misses is made up for from what was saved up, so that
 * only a `burst` of 1 falls behind its rate, by what the timers are late.
 *
 * Source of the idea: the token bucket, as in Go's `rate.Limiter`; kept as one number, as in GCRA.
 *
 * @example Two at once, then one every 10 ms
 * ```ts
 * import { RateLimiter } from "./semaphores.ts";
 *
 * const limiter = new RateLimiter({ limit: 100, interval: 1000, burst: 2 });
 * for (let call = 1; call <= 4; call++) await limiter.acquire();
 * console.assert(limiter.tryAcquire() === false);
 * ```
 */
export class RateLimiter {
  readonly #burst: number;
  readonly #msPerToken: number;
  readonly #line = new Mutex();
  /** When the bucket will be full again. */
  #fullAt = -Infinity;

  /**
   * @throws {TypeError} an option is not a number
   * @throws {RangeError} `limit` or `burst` is not a positive integer, or `interval` not positive
   */
  constructor({ limit, interval, burst = limit }: RateLimiterOptions) {
    positiveInteger("create RateLimiter", "limit", limit);
    this.#burst = positiveInteger("create RateLimiter", "burst", burst);
    if (typeof interval !== "number" || !(interval > 0 && interval < Infinity)) {
      throw invalid("create RateLimiter", "interval", "a positive number", interval);
    }
    this.#msPerToken = interval / limit;
  }

  /**
   * Spends tokens, waiting in line for them if need be.
   *
   * @throws {RangeError} `tokens` is not a positive integer, or more than `burst`
   * @throws the signal's reason, once it is aborted; nothing is spent then
   */
  async acquire({ tokens = 1, signal }: TokenOptions & WaitOptions = {}): Promise<void> {
    signal?.throwIfAborted();
    if (this.tryAcquire({ tokens })) return;
    using _turn = await this.#line.lock({ signal });
    for (let ms = this.#wait(tokens); ms > 0; ms = this.#wait(tokens)) await sleep(ms, signal);
    this.#spend(tokens);
  }

  /**
   * Spends tokens if that is possible at once; says whether it was. It never goes ahead of those in
   * line.
   *
   * @throws {RangeError} `tokens` is not a positive integer, or more than `burst`
   */
  tryAcquire({ tokens = 1 }: TokenOptions = {}): boolean {
    positiveInteger("acquire RateLimiter", "tokens", tokens);
    if (tokens > this.#burst) {
      throw invalid("acquire RateLimiter", "tokens", `at most its burst of ${this.#burst}`, tokens);
    }
    if (this.#line.locked || this.#wait(tokens) > 0) return false;
    this.#spend(tokens);
    return true;
  }

  #wait(tokens: number): number {
    const ms = this.#fullAt + (tokens - this.#burst) * this.#msPerToken - performance.now();
    // Below a nanosecond it is a rounding error, for which no timer should be set.
    return ms > 1e-6 ? ms : 0;
  }

  #spend(tokens: number): void {
    this.#fullAt = Math.max(this.#fullAt, performance.now()) + tokens * this.#msPerToken;
  }
}

/** Runs functions, so many at once. */
export interface Limit {
  <A extends unknown[], T>(fn: (...args: A) => T | PromiseLike<T>, ...args: A): Promise<T>;
  /** How many run. */
  readonly activeCount: number;
  /** How many wait in line. */
  readonly pendingCount: number;
}

/**
 * A {@link Semaphore} in the shape that users of p-limit know. An abort refuses what waits in line
 * and what comes later; what runs already goes on.
 *
 * @param concurrency how many may run at once: a positive integer
 * @throws {RangeError} `concurrency` is not a positive integer
 *
 * @example
 * ```ts
 * import { limit } from "./semaphores.ts";
 *
 * const run = limit(2);
 * const squares = await Promise.all([1, 2, 3].map((n) => run(async () => n * n)));
 * console.assert(squares.join() === "1,4,9");
 * ```
 */
export function limit(concurrency: number, { signal }: WaitOptions = {}): Limit {
  const semaphore = new Semaphore(positiveInteger("create limit", "concurrency", concurrency));
  const run = <A extends unknown[], T>(fn: (...args: A) => T | PromiseLike<T>, ...args: A) =>
    semaphore.run(() => fn(...args), { signal });
  return Object.defineProperties(run, {
    activeCount: { get: () => semaphore.permits - semaphore.available },
    pendingCount: { get: () => semaphore.waiting },
  }) as Limit;
}

/**
 * The same function, of which at most so many calls run at once.
 *
 * @param concurrency how many may run at once: a positive integer
 * @throws {RangeError} `concurrency` is not a positive integer
 *
 * @example
 * ```ts
 * import { limited } from "./semaphores.ts";
 *
 * const double = limited(async (n: number) => 2 * n, 2);
 * console.assert((await Promise.all([1, 2, 3].map((n) => double(n)))).join() === "2,4,6");
 * ```
 */
export function limited<A extends unknown[], T>(
  fn: (...args: A) => T | PromiseLike<T>,
  concurrency: number,
  options: WaitOptions = {},
): (...args: A) => Promise<T> {
  const run = limit(concurrency, options);
  return (...args) => run(fn, ...args);
}

function createPermit(release: () => void): Permit {
  let held = true;
  const releaseOnce = () => {
    if (!held) return;
    held = false;
    release();
  };
  return { release: releaseOnce, [Symbol.dispose]: releaseOnce };
}

async function sleep(ms: number, signal: AbortSignal | undefined): Promise<void> {
  signal?.throwIfAborted();
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  // Longer than a timer can be: whoever waits looks at the clock again afterwards.
  const timer = setTimeout(resolve, Math.min(ms, 2 ** 31 - 1));
  const stopListening = onAbort(signal, reject);
  try {
    await promise;
  } finally {
    stopListening();
    clearTimeout(timer);
  }
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

function positiveInteger(action: string, name: string, value: number): number {
  if (Number.isInteger(value) && value > 0) return value;
  throw invalid(action, name, "a positive integer", value);
}

function invalid(action: string, name: string, expected: string, value: unknown): Error {
  const Kind = typeof value === "number" ? RangeError : TypeError;
  return new Kind(`Cannot ${action}: ${name} must be ${expected}, received ${String(value)}`);
}

// ─── Demo: `bun concepts/semaphores.ts` ──────────────────────────────────────────────────────────

/** Five tasks share two permits: never more than two of them run at a time. */
export async function demo(log: (lane: string, state: string) => void = print): Promise<void> {
  const semaphore = new Semaphore(2);
  const task = async (lane: string) => {
    log(lane, "waiting");
    using _permit = await semaphore.acquire();
    log(lane, "running");
    await sleep(100, undefined);
    log(lane, "done");
  };
  await Promise.all([1, 2, 3, 4, 5].map((n) => task(`task ${n}`)));
}

let start: number | undefined;

function print(lane: string, state: string): void {
  start ??= performance.now();
  const ms = Math.round(performance.now() - start);
  console.log(`+${String(ms).padStart(4)} ms  ${lane}  ${state}`);
}

if ((import.meta as { main?: boolean }).main) await demo();
