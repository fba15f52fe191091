// async-concepts 0.3.0, MIT License. A file to copy and own; please keep this line.

/**
 * # Semaphores
 *
 * Limit how many tasks run at a time, or how many start per second. The others wait in line.
 *
 * Use one when there may be more work than a resource can take: connections, memory, an API's quota
 * ({@link RateLimiter}), or a section of code that must not run twice at once ({@link Mutex}).
 *
 * Without one, `Promise.all(urls.map(fetch))` opens ten thousand sockets, and two requests that
 * both read, wait and write overwrite each other's result. A hand-written counter loses a permit as
 * soon as a caller aborts or throws.
 *
 * Known elsewhere as: `asyncio.Semaphore`, `BoundedSemaphore` and `Lock`; Go's `semaphore.Weighted`
 * and `rate.Limiter`; p-limit and async-mutex on npm; the Web Locks API.
 *
 * Arguments are checked before anything else: a wrong kind is a TypeError, a number out of range a
 * RangeError. What waits rejects with its signal's reason once that is aborted, and has then taken
 * nothing and called nothing. A function is called in its caller's async context, as
 * `AsyncLocalStorage` sees it.
 *
 * @module
 */

/** How much to take from a {@link Semaphore}. */
export interface WeightOptions {
  /** How many permits: a positive integer, at most all of them. Default: 1. */
  weight?: number | undefined;
}

/** The right to be inside. Release it with `using` or `release()`; both are idempotent. */
export interface Permit extends Disposable {
  /** Needs no `this`: `const { release } = await semaphore.acquire()` works. */
  release(): void;
}

/**
 * A number of permits that are lent in the order in which they were asked for.
 *
 * No caller overtakes another: while a caller who needs many permits is at the head of the line,
 * those who need few wait behind it. Otherwise a stream of small requests could starve a large one.
 *
 * Not reentrant: a holder that waits for another permit can deadlock.
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
  static {
    showMembers(this, "permits", "available", "waiting");
  }

  readonly #permits: Permits;
  readonly #idle = new Line<void>();

  /** @param permits how many there are: a positive integer */
  constructor(permits: number) {
    requirePositiveInteger("create Semaphore", "permits", permits);
    this.#permits = new Permits(permits);
  }

  /** How many permits there are, lent or not. */
  get permits(): number {
    return this.#permits.total;
  }

  /** How many permits are free; negative while more are lent than {@link resize} left. */
  get available(): number {
    return this.#permits.total - this.#permits.lent;
  }

  /** How many callers wait in line. */
  get waiting(): number {
    return this.#permits.line.waiting;
  }

  /** Takes permits, and waits in line for them if necessary. */
  acquire(options?: WeightOptions & WaitOptions): Promise<Permit> {
    return this.#permits.acquire("acquire Semaphore", options);
  }

  /** Takes permits if they are free and nobody waits in line; otherwise returns undefined. */
  tryAcquire(options?: WeightOptions): Permit | undefined {
    return this.#permits.tryAcquire(this.#permits.requireWeight("acquire Semaphore", options));
  }

  /** Calls `fn` while holding permits, and returns its result. Never calls it synchronously. */
  run<T>(fn: () => T | PromiseLike<T>, options?: WeightOptions & WaitOptions): Promise<T>;
  run<R>(fn: () => R, options?: WeightOptions & WaitOptions): Promise<Awaited<R>>;
  run(fn: () => unknown, options?: WeightOptions & WaitOptions): Promise<unknown> {
    return this.#permits.run("run Semaphore", fn, options);
  }

  /**
   * Changes the number of permits. Lent permits stay lent: after a cut no caller is let in until
   * enough have been released. A caller in line for more than there are now gets a RangeError.
   */
  resize(permits: number): void {
    requirePositiveInteger("resize Semaphore", "permits", permits);
    this.#permits.resize(permits);
  }

  /**
   * Waits until all permits are free and nobody is in line. It takes nothing: when the caller goes
   * on, a newcomer may have taken permits.
   */
  idle(options?: WaitOptions): Promise<void> {
    return new Promise((resolve, reject) => {
      const signal = requireWaitOptions("wait for Semaphore", options);
      if (signal?.aborted) return reject(signal.reason);
      this.#permits.onIdle = () => this.#idle.grantAll();
      this.#idle.join(new Waiter<void>(resolve, reject, signal));
      if (this.#permits.lent === 0) this.#idle.grantAll();
    });
  }
}

/**
 * Mutual exclusion: one holder at a time, in order of arrival. A semaphore with one permit.
 *
 * Not reentrant: locking it again while holding it deadlocks.
 *
 * Source of the idea: `asyncio.Lock`.
 *
 * @example Read, wait and write without a lost update
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
  static {
    showMembers(this, "locked", "waiting");
  }

  readonly #permits = new Permits(1);

  /** Whether it is held. */
  get locked(): boolean {
    return this.#permits.lent > 0;
  }

  /** How many callers wait in line. */
  get waiting(): number {
    return this.#permits.line.waiting;
  }

  /** Locks it, and waits in line if necessary. */
  lock(options?: WaitOptions): Promise<Permit> {
    return this.#permits.acquire("lock Mutex", options);
  }

  /** Locks it if it is free; otherwise returns undefined. */
  tryLock(): Permit | undefined {
    return this.#permits.tryAcquire(1);
  }

  /** Calls `fn` while holding the lock, and returns its result. Never calls it synchronously. */
  run<T>(fn: () => T | PromiseLike<T>, options?: WaitOptions): Promise<T>;
  run<R>(fn: () => R, options?: WaitOptions): Promise<Awaited<R>>;
  run(fn: () => unknown, options?: WaitOptions): Promise<unknown> {
    return this.#permits.run("run Mutex", fn, options);
  }

  /**
   * Unlocks it, calls `fn` at once, and locks it again when `fn` has settled, in order of arrival,
   * even after an abort. Then it returns what `fn` returned, or throws what it threw. `lockAgain`
   * takes the place in line at once, while `fn` goes on. A condition variable is made of this.
   *
   * Only the holder may call it, and keeps its permit. If the permit is released or {@link run}
   * ends meanwhile, nobody else loses the lock: it takes effect after locking again.
   *
   * @throws {Error} nobody holds the mutex
   */
  unlockWhile<T>(fn: (lockAgain: () => Promise<void>) => T | PromiseLike<T>): Promise<T>;
  unlockWhile<R>(fn: (lockAgain: () => Promise<void>) => R): Promise<Awaited<R>>;
  async unlockWhile(fn: (lockAgain: () => Promise<void>) => unknown): Promise<unknown> {
    requireFunction("unlock Mutex", "fn", fn);
    const resume = this.#permits.suspend("unlock Mutex");
    let locking: Promise<void> | undefined;
    const lockAgain = () => (locking ??= resume());
    try {
      return await fn(lockAgain);
    } finally {
      await lockAgain();
    }
  }
}

/**
 * One {@link Mutex} per key: one holder per key, different keys side by side. With a number of
 * permits it is one {@link Semaphore} per key. A key that is neither held nor waited for takes no
 * memory. Keys are compared as `Map` compares them.
 *
 * @example Move money between two accounts
 * ```ts
 * import { KeyedMutex } from "./semaphores.ts";
 *
 * const accounts = new KeyedMutex<string>();
 * const balance: Record<string, number> = { ada: 10, bob: 10 };
 *
 * async function move(amount: number, from: string, to: string): Promise<void> {
 *   using _locks = await accounts.lockAll([from, to]);
 *   balance[from]! -= amount;
 *   balance[to]! += amount;
 * }
 *
 * await Promise.all([move(5, "ada", "bob"), move(1, "bob", "ada")]);
 * console.assert(balance["ada"] === 6 && accounts.size === 0);
 * ```
 */
export class KeyedMutex<K = unknown> {
  static {
    showMembers(this, "size");
  }

  readonly #permits: number;
  readonly #locks = new Map<K, Permits>();

  /** @param permits how many may hold one key at a time: a positive integer */
  constructor(permits = 1) {
    requirePositiveInteger("create KeyedMutex", "permits", permits);
    this.#permits = permits;
  }

  /** How many keys are held. */
  get size(): number {
    return this.#locks.size;
  }

  /** Whether the key is held, by as many as may. */
  locked(key: K): boolean {
    return (this.#locks.get(key)?.lent ?? 0) >= this.#permits;
  }

  /** How many callers wait in line for the key. */
  waiting(key: K): number {
    return this.#locks.get(key)?.line.waiting ?? 0;
  }

  /** Locks the key, and waits in line if necessary. */
  lock(key: K, options?: WaitOptions): Promise<Permit> {
    return this.#use(key, (lock) => lock.acquire("lock KeyedMutex", options));
  }

  /**
   * Locks all keys at once, and waits in line for those that are held. Callers with common keys are
   * served in the order in which they came, whatever the order of their keys: they can't deadlock.
   * A key given twice counts once.
   */
  async lockAll(keys: Iterable<K> & object, options?: WaitOptions): Promise<Permit> {
    const signal = requireWaitOptions("lock KeyedMutex", options);
    // A string is iterable, but its characters are not the keys that are meant.
    if (typeof keys === "string" || !isIterable(keys)) {
      throw invalid("lock KeyedMutex", "keys", "an iterable object", keys, TypeError);
    }
    signal?.throwIfAborted();
    const permits: Permit[] = [];
    const release = () => permits.splice(0).forEach((permit) => permit.release());
    const lock = async (key: K) => permits.push(await this.lock(key, { signal }));
    const stopListening = onAbort(signal, release);
    try {
      // All lines are joined synchronously: a caller ahead in one line is ahead in all of them.
      await Promise.all(Array.from(new Set(keys), lock));
      signal?.throwIfAborted();
    } catch (error) {
      release();
      throw error;
    } finally {
      stopListening();
    }
    return { release, [Symbol.dispose]: release };
  }

  /** Locks the key if it is free; otherwise returns undefined. */
  tryLock(key: K): Permit | undefined {
    return this.#use(key, (lock) => lock.tryAcquire(1));
  }

  /** Calls `fn` while holding the key, and returns its result. Never calls it synchronously. */
  run<T>(key: K, fn: () => T | PromiseLike<T>, options?: WaitOptions): Promise<T>;
  run<R>(key: K, fn: () => R, options?: WaitOptions): Promise<Awaited<R>>;
  run(key: K, fn: () => unknown, options?: WaitOptions): Promise<unknown> {
    return this.#use(key, (lock) => lock.run("run KeyedMutex", fn, options));
  }

  #use<T>(key: K, take: (lock: Permits) => T): T {
    const lock = this.#locks.get(key) ?? new Permits(this.#permits, () => this.#locks.delete(key));
    const result = take(lock);
    if (lock.lent > 0) this.#locks.set(key, lock);
    return result;
  }
}

/** What a {@link RateLimiter} allows. */
export interface RateLimiterOptions {
  /** How many tokens arrive in each `interval`, evenly spread: a positive integer. */
  limit: number;
  /** Milliseconds: a positive number. */
  interval: number;
  /** How many tokens can be saved, and so be spent at once: a positive integer. Default: `limit`. */
  burst?: number | undefined;
}

/** How much to take from a {@link RateLimiter}. */
export interface TokenOptions {
  /** How many tokens: a positive integer, at most `burst`. Default: 1. */
  tokens?: number | undefined;
}

/** How long to wait for a {@link RateLimiter}. */
export interface RateWaitOptions extends TokenOptions, WaitOptions {
  /** Rejects at once if the wait would be longer than so many milliseconds. Default: Infinity. */
  maxWait?: number | undefined;
}

/** A place in the line of a {@link RateLimiter}. */
export interface Reservation {
  /** Milliseconds until the tokens are there; less if a caller ahead gives up. 0: now. */
  readonly delay: number;
  /** Fulfilled when the tokens are spent; rejected with an AbortError by {@link cancel}. */
  readonly ready: Promise<void>;
  /** Leaves the line. Does nothing once the tokens are spent. */
  cancel(): void;
}

/**
 * At most so many per interval, in order of arrival. It starts with `burst` tokens, and in any
 * stretch of time it spends at most `burst` tokens and those that arrived meanwhile. A timer runs
 * only while a caller waits.
 *
 * Timers are late, often by more than a token takes to arrive. With a `burst` of 2 or more, the
 * limiter makes up for that: tokens that arrived while its timer was late (5 ms of them at most)
 * are spent as well, beyond `burst`. With a `burst` of 1 two tokens are never spent closer together
 * than `interval / limit`, so that it falls behind its rate by what its timers are late.
 *
 * Source of the idea: the token bucket, as in Go's `rate.Limiter`; kept as one number, as in GCRA.
 *
 * @example Two at once, then one every 10 ms
 * ```ts
 * import { RateLimiter } from "./semaphores.ts";
 *
 * const limiter = new RateLimiter({ limit: 100, interval: 1000, burst: 2 });
 * for (let call = 1; call <= 4; call++) await limiter.acquire();
 *
 * const { delay, ready, cancel } = limiter.reserve();
 * if (delay > 500) cancel();
 * else await ready;
 * console.assert(delay <= 10);
 * ```
 */
export class RateLimiter {
  static {
    showMembers(this, "tokens", "burst", "waiting");
  }

  #burst: number;
  #msPerToken: number;
  readonly #line = new Line<void>({
    serve: () => void this.#serve(),
    takeBack: ({ amount }: Waiter<void>) => (this.#fullAt -= amount * this.#msPerToken),
  });
  /** When the bucket will be full again. */
  #fullAt = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;
  /** When the timer should fire. */
  #timerDue = Infinity;
  /** How late the timer was, and when that was. */
  #lateness = 0;
  #lateAt = 0;

  constructor(options: RateLimiterOptions) {
    [this.#burst, this.#msPerToken] = requireRate("create RateLimiter", options);
  }

  /** How many tokens there are, with a fraction for the next one. */
  get tokens(): number {
    return this.#tokens(this.#now());
  }

  /** How many tokens can be saved. */
  get burst(): number {
    return this.#burst;
  }

  /** How many callers wait in line. */
  get waiting(): number {
    return this.#line.waiting;
  }

  /**
   * Spends tokens, and waits in line for them if necessary.
   *
   * @throws {DOMException} a TimeoutError: the wait would be longer than `maxWait`. It is thrown at
   *   once, and nothing is spent
   */
  acquire(options?: RateWaitOptions): Promise<void> {
    if (options === undefined && this.#line.isQuiet && this.#trySpend(1)) return Promise.resolve();
    return new Promise((resolve, reject) => {
      const action = "acquire RateLimiter";
      const tokens = this.#requireTokens(action, options);
      const { maxWait = Infinity, signal } = options ?? {};
      requireDuration(action, "maxWait", maxWait);
      requireSignal(action, signal);
      if (signal?.aborted) return reject(signal.reason);
      const delay = this.#delay(tokens);
      if (delay > maxWait) {
        const message = `Cannot ${action}: it would take ${delay} ms, maxWait is ${maxWait}`;
        return reject(new DOMException(message, "TimeoutError"));
      }
      this.#line.enter(new Waiter<void>(resolve, reject, signal, tokens));
    });
  }

  /** Spends tokens if they are there and nobody waits in line; returns whether it did. */
  tryAcquire(options?: TokenOptions): boolean {
    return this.#trySpend(this.#requireTokens("acquire RateLimiter", options));
  }

  /** Joins the line as {@link acquire} does, and tells how long it will take. */
  reserve(options?: TokenOptions): Reservation {
    const tokens = this.#requireTokens("reserve RateLimiter", options);
    const delay = this.#delay(tokens);
    const { promise: ready, resolve, reject } = Promise.withResolvers<void>();
    // Only `cancel` rejects it, and its caller knows.
    ready.catch(doNothing);
    const waiter = new Waiter<void>(resolve, reject, undefined, tokens);
    this.#line.enter(waiter);
    const cancel = () =>
      this.#line.leave(waiter, new DOMException("The reservation was cancelled", "AbortError"));
    return { delay, ready, cancel };
  }

  /**
   * Changes what is allowed, from now on. Saved tokens are kept, up to the new `burst`; those who
   * wait in line do so at the new rate, whatever `delay` their reservations told. A caller in line
   * for more than the new `burst` gets a RangeError.
   */
  setLimit(options: RateLimiterOptions): void {
    const [burst, msPerToken] = requireRate("set RateLimiter", options);
    const now = this.#now();
    const tokens = Math.min(this.#tokens(now), burst);
    [this.#burst, this.#msPerToken] = [burst, msPerToken];
    this.#fullAt = now + (burst - tokens) * msPerToken;
    const action = "acquire RateLimiter";
    this.#line.refuse(({ amount }) => amount > burst && this.#tooMany(action, amount));
    this.#serve();
  }

  #requireTokens(action: string, options: TokenOptions | undefined): number {
    requireOptions(action, options);
    const { tokens = 1 } = options ?? {};
    requirePositiveInteger(action, "tokens", tokens);
    if (tokens > this.#burst) throw this.#tooMany(action, tokens);
    return tokens;
  }

  #tooMany(action: string, tokens: number): Error {
    return invalid(action, "tokens", `at most its burst of ${this.#burst}`, tokens);
  }

  #trySpend(tokens: number): boolean {
    const now = this.#serve();
    const canSpend = this.#line.waiting === 0 && this.#wait(tokens, now) === 0;
    if (canSpend) this.#spend(tokens, now);
    return canSpend;
  }

  /** Lets in those whose tokens are there, and sets the timer for the next. Returns the time. */
  #serve(): number {
    const now = this.#now();
    if (now > this.#timerDue) {
      this.#lateness = Math.min(now - this.#timerDue, MAX_LATENESS);
      this.#lateAt = now;
    }
    // Set again each time, because a timer of virtual time never fires once that has ended.
    clearTimeout(this.#timer);
    this.#timerDue = Infinity;
    for (let first; (first = this.#line.first);) {
      const ms = this.#wait(first.amount, now);
      if (ms > 0) {
        this.#timerDue = now + ms;
        // It may fire early, and can't be longer than 2^31-1 ms: the clock decides.
        this.#timer = setTimeout(() => this.#serve(), Math.min(ms, 2 ** 31 - 1));
        break;
      }
      this.#spend(first.amount, now);
      this.#line.grant(first);
    }
    return now;
  }

  /** The time. If the bucket could not be as empty as it is, the clock has jumped back. */
  #now(): number {
    const now = performance.now();
    this.#fullAt = Math.min(this.#fullAt, now + this.#burst * this.#msPerToken);
    return now;
  }

  #tokens(now: number): number {
    return this.#burst - Math.max(0, this.#fullAt - now) / this.#msPerToken;
  }

  /** How many milliseconds a newcomer will have to wait if nobody ahead gives up. */
  #delay(tokens: number): number {
    return this.#wait(this.#line.asked + tokens, this.#now());
  }

  #wait(tokens: number, now: number): number {
    const ms = this.#fullAt + (tokens - this.#burst) * this.#msPerToken - now;
    // Below a nanosecond it is a rounding error, for which no timer should be set.
    return ms > 1e-6 ? ms : 0;
  }

  #spend(tokens: number, now: number): void {
    const isMakingUp = this.#burst > 1 && Math.abs(now - this.#lateAt) < MAX_LATENESS;
    const from = isMakingUp ? now - this.#lateness : now;
    this.#fullAt = Math.max(this.#fullAt, from) + tokens * this.#msPerToken;
  }
}

/** Returns the burst and the milliseconds per token. */
function requireRate(action: string, options: RateLimiterOptions): [number, number] {
  if (options === undefined) throw invalid(action, "options", "an object", options);
  requireOptions(action, options);
  const { limit, interval, burst = limit } = options;
  requirePositiveInteger(action, "limit", limit);
  requirePositiveInteger(action, "burst", burst);
  if (!(typeof interval === "number" && interval > 0 && interval < Infinity)) {
    throw invalid(action, "interval", "a positive number", interval);
  }
  const msPerToken = interval / limit;
  const msToFill = burst * msPerToken;
  if (msToFill > 0 && msToFill < Infinity) return [burst, msPerToken];
  throw invalid(action, "burst * interval / limit", "positive and finite", msToFill);
}

/** Milliseconds; browsers may add 4 to a timer, and platforms another one. */
const MAX_LATENESS = 5;

/** What {@link limit} and {@link limited} have in common. */
export interface LimitControls {
  /** How many functions run. */
  readonly activeCount: number;
  /** How many calls wait in line. */
  readonly pendingCount: number;
  /** How many may run at once; can be set to a positive integer or Infinity. What runs goes on. */
  concurrency: number;
  /** Rejects all calls that wait in line with an AbortError. */
  clearQueue(): void;
}

/** Runs functions, so many at once. */
export interface Limit extends LimitControls {
  <A extends unknown[], T>(fn: (...args: A) => T | PromiseLike<T>, ...args: A): Promise<T>;
  <A extends unknown[], R>(fn: (...args: A) => R, ...args: A): Promise<Awaited<R>>;
  /**
   * Calls `fn(item, index)` for each item, and returns the results in order. After a failure it
   * calls no more, waits for those that run, and rejects with the first error; it drops later ones.
   */
  map<I, T>(items: Iterable<I>, fn: (item: I, index: number) => T | PromiseLike<T>): Promise<T[]>;
  map<I, R>(items: Iterable<I>, fn: (item: I, index: number) => R): Promise<Awaited<R>[]>;
}

/**
 * A {@link Semaphore} in the shape that users of p-limit know. An abort rejects the calls that wait
 * in line and those that come later; what runs goes on.
 *
 * Not reentrant: a limited function that waits for another call through the same limit can
 * deadlock.
 *
 * @param concurrency how many may run at once: a positive integer or Infinity
 *
 * @example
 * ```ts
 * import { limit } from "./semaphores.ts";
 *
 * const run = limit(2);
 * const squares = await run.map([1, 2, 3], async (n) => n * n);
 * console.assert(squares.join() === "1,4,9" && (await run(Math.sqrt, 4)) === 2);
 * ```
 */
export function limit(concurrency: number, options?: WaitOptions): Limit {
  requireCount("create limit", "concurrency", concurrency);
  requireWaitOptions("create limit", options);
  const permits = new Permits(concurrency);
  const run = (fn: (...args: unknown[]) => unknown, ...args: unknown[]) => {
    return permits.run("run limit", fn, options, args);
  };
  const map = async (items: Iterable<unknown>, fn: (item: unknown, index: number) => unknown) => {
    if (!isIterable(items)) throw invalid("map limit", "items", "an iterable", items, TypeError);
    requireFunction("map limit", "fn", fn);
    options?.signal?.throwIfAborted();
    const results: unknown[] = [];
    const errors: unknown[] = [];
    const calls: Promise<unknown>[] = [];
    const fail = (error: unknown) => errors.push(error);
    try {
      for (const item of items) {
        const index = calls.length;
        const call = async () => {
          if (errors.length > 0) return;
          // Noted before the permit is released, so that the next in line is not called.
          await Promise.try(fn, item, index).then((result) => (results[index] = result), fail);
        };
        calls.push(run(call).catch(fail));
        if (options?.signal?.aborted) break;
      }
    } catch (error) {
      fail(error);
    }
    await Promise.all(calls);
    if (errors.length === 0) return results;
    releaseHold(results);
    throw errors[0];
  };
  const resize = (total: number) => {
    requireCount("set limit", "concurrency", total);
    permits.resize(total);
  };
  const clearQueue = () => {
    const error = new DOMException("The queue was cleared", "AbortError");
    permits.line.refuse(() => error);
  };
  return Object.defineProperties(run, {
    activeCount: { get: () => permits.lent },
    pendingCount: { get: () => permits.line.waiting },
    concurrency: { get: () => permits.total, set: resize },
    clearQueue: { value: clearQueue },
    map: { value: map },
  }) as unknown as Limit;
}

/**
 * The same function, of which at most so many calls run at once. It keeps `this`, `name` and
 * `length`, and has the controls of {@link limit}.
 *
 * @param concurrency how many may run at once: a positive integer or Infinity
 *
 * @example
 * ```ts
 * import { limited } from "./semaphores.ts";
 *
 * const double = limited(async (n: number) => 2 * n, 2);
 * console.assert((await Promise.all([1, 2, 3].map((n) => double(n)))).join() === "2,4,6");
 * ```
 */
export function limited<This, A extends unknown[], T>(
  fn: (this: This, ...args: A) => T | PromiseLike<T>,
  concurrency: number,
  options?: WaitOptions,
): ((this: This, ...args: A) => Promise<T>) & LimitControls;
export function limited<This, A extends unknown[], R>(
  fn: (this: This, ...args: A) => R,
  concurrency: number,
  options?: WaitOptions,
): ((this: This, ...args: A) => Promise<Awaited<R>>) & LimitControls;
export function limited(
  fn: (...args: unknown[]) => unknown,
  concurrency: number,
  options?: WaitOptions,
): ((...args: unknown[]) => Promise<unknown>) & LimitControls {
  requireFunction("create limited", "fn", fn);
  requireCount("create limited", "concurrency", concurrency);
  requireWaitOptions("create limited", options);
  const run = limit(concurrency, options);
  const { map: _, ...controls } = Object.getOwnPropertyDescriptors(run);
  const { name, length } = fn;
  const call = function (this: unknown, ...args: unknown[]) {
    return run(() => Reflect.apply(fn, this, args));
  };
  return Object.defineProperties(call, {
    ...controls,
    name: { value: name },
    length: { value: length },
  }) as typeof call & LimitControls;
}

/** The permits inside {@link Semaphore}, {@link Mutex}, {@link KeyedMutex} and {@link limit}. */
class Permits {
  total: number;
  lent = 0;
  readonly line = new Line<any>(this);
  /** Called when all permits are back and nobody waits. */
  onIdle: (() => void) | undefined;
  /** The one let in last, until one releases: the holder, if there is a single permit. */
  #holder: object | undefined;
  /** Holders that have unlocked it for a while. */
  #suspended: Set<object> | undefined;

  constructor(total: number, onIdle?: () => void) {
    this.total = total;
    this.onIdle = onIdle;
  }

  acquire(action: string, options?: WeightOptions & WaitOptions): Promise<Permit> {
    if (options !== undefined || !this.line.isQuiet || this.lent >= this.total) {
      return this.#wait(action, options);
    }
    this.lent++;
    return Promise.resolve(this.#lend(1));
  }

  tryAcquire(weight: number): Permit | undefined {
    this.serve();
    if (this.line.waiting > 0 || weight > this.total - this.lent) return undefined;
    this.lent += weight;
    return this.#lend(weight);
  }

  async run(
    action: string,
    fn: (...args: unknown[]) => unknown,
    options?: WeightOptions & WaitOptions,
    args?: unknown[],
  ): Promise<unknown> {
    requireFunction(action, "fn", fn);
    // Called after an `await` of the caller's own, `fn` finds its AsyncLocalStorage.
    const waiter: Waiter<any> = await this.#wait(action, options, true);
    this.#holder = waiter;
    try {
      if (waiter.signal?.aborted) throw waiter.signal.reason;
      return await (args ? fn(...args) : fn());
    } finally {
      this.release(waiter.amount, waiter);
    }
  }

  resize(total: number): void {
    const isCut = total < this.total;
    this.total = total;
    const reason = ({ amount }: Waiter<any>) =>
      amount > total && this.#tooHeavy("acquire Semaphore", amount);
    if (isCut) this.line.refuse(reason);
    this.serve();
  }

  release(weight: number, holder: object): void {
    if (this.#suspended?.delete(holder)) return;
    this.#holder = undefined;
    this.lent -= weight;
    this.serve();
  }

  /** Takes the permit from its holder, and returns what takes it for the same holder again. */
  suspend(action: string): () => Promise<void> {
    const holder = this.#holder;
    if (!holder) throw new Error(`Cannot ${action}: nobody holds it`);
    this.release(1, holder);
    const suspended = (this.#suspended ??= new Set()).add(holder);
    return async () => {
      const permit = await this.acquire(action);
      // A holder that has released its permit meanwhile is suspended no more.
      if (suspended.delete(holder)) this.#holder = holder;
      else permit.release();
    };
  }

  serve(): void {
    for (let first; (first = this.line.first);) {
      if (first.amount > this.total - this.lent) break;
      this.lent += first.amount;
      this.line.grant(first, true);
    }
    if (this.lent === 0) this.onIdle?.();
  }

  takeBack(waiter: Waiter<any>): void {
    this.lent -= waiter.amount;
  }

  deliver(waiter: Waiter<any>): void {
    // A call needs no permit of its own: its waiter is the holder.
    waiter.resolve(waiter.item ? waiter : this.#lend(waiter.amount));
  }

  #lend(weight: number): Permit {
    const release = () => {
      if (weight > 0) this.release(weight, release);
      weight = 0;
    };
    this.#holder = release;
    return { release, [Symbol.dispose]: release };
  }

  #wait(action: string, options?: WeightOptions & WaitOptions, isCall = false): Promise<any> {
    let weight = 1;
    let signal: AbortSignal | undefined;
    if (options !== undefined) {
      try {
        weight = this.requireWeight(action, options);
        signal = requireWaitOptions(action, options);
        signal?.throwIfAborted();
      } catch (error) {
        return Promise.reject(error);
      }
    }
    const { promise, resolve, reject } = Promise.withResolvers<any>();
    this.line.enter(new Waiter(resolve, reject, signal, weight, isCall));
    return promise;
  }

  requireWeight(action: string, options: WeightOptions | undefined): number {
    requireOptions(action, options);
    const { weight = 1 } = options ?? {};
    requirePositiveInteger(action, "weight", weight);
    if (weight > this.total) throw this.#tooHeavy(action, weight);
    return weight;
  }

  #tooHeavy(action: string, weight: number): Error {
    return invalid(action, "weight", `at most its ${this.total} permits`, weight);
  }
}

function requireWaitOptions(action: string, options?: WaitOptions): AbortSignal | undefined {
  requireOptions(action, options);
  requireSignal(action, options?.signal);
  return options?.signal ?? undefined;
}

function isIterable(value: unknown): boolean {
  return typeof (value as Iterable<unknown> | undefined)?.[Symbol.iterator] === "function";
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

/**
 * Waiters in order of arrival. A grant counts at once, but is delivered in a microtask, to all
 * waiters of this turn in order. Until then the waiter listens to its signal: an abort takes the
 * grant back at once, and the next waiter is served.
 */
class Line<T> {
  /** How many wait, without those that have been granted something. */
  waiting = 0;
  /** The sum of what they ask for. */
  asked = 0;
  readonly #owner: LineOwner<T>;
  #delivering = false;
  readonly #waiters = new Waiter<T>(doNothing, doNothing, undefined);
  readonly #granted = new Waiter<T>(doNothing, doNothing, undefined);

  constructor(owner: LineOwner<T> = {}) {
    this.#owner = owner;
  }

  /** Whether a newcomer may skip the line, because nobody is waiting or being let in. */
  get isQuiet(): boolean {
    return this.waiting === 0 && !this.#delivering;
  }

  /** The waiter at the head. Drops aborted waiters whose listener has not yet been called. */
  get first(): Waiter<T> | undefined {
    for (;;) {
      const waiter = this.#waiters.next;
      if (waiter === this.#waiters) return undefined;
      if (!waiter.signal?.aborted) return waiter;
      this.#remove(waiter);
      waiter.reject(waiter.signal.reason);
    }
  }

  /** Adds a waiter whose signal is not aborted. */
  join(waiter: Waiter<T>): void {
    waiter.insertBefore(this.#waiters);
    this.waiting++;
    this.asked += waiter.amount;
    if (!waiter.signal) return;
    waiter.stopListening = onAbort(waiter.signal, (reason) => this.leave(waiter, reason));
  }

  /** Adds a waiter, and serves it if nobody is ahead and what it asks for is free. */
  enter(waiter: Waiter<T>): void {
    this.join(waiter);
    this.#owner.serve?.();
  }

  /** Lets a waiter in: in a microtask, unless it is `sure` that nothing but an abort could undo it. */
  grant(waiter: Waiter<T>, sure = false): void {
    if (sure && !waiter.signal && !this.#delivering) return this.#handOver(waiter);
    waiter.unlink();
    this.waiting--;
    this.asked -= waiter.amount;
    waiter.state = "granted";
    waiter.insertBefore(this.#granted);
    if (!this.#delivering) this.#deliverSoon();
  }

  grantAll(): void {
    for (let first; (first = this.first);) this.grant(first);
  }

  /** Rejects a waiter that has not yet received anything. */
  leave(waiter: Waiter<T>, reason: unknown): void {
    if (waiter.state === "gone") return;
    const { state } = waiter;
    this.#remove(waiter);
    if (state === "granted") this.#owner.takeBack?.(waiter);
    waiter.reject(reason);
    this.#owner.serve?.();
  }

  /** Rejects the waiters for which `reasonFor` returns a reason. */
  refuse(reasonFor: (waiter: Waiter<T>) => unknown): void {
    for (let waiter = this.#waiters.next; waiter !== this.#waiters; waiter = waiter.next) {
      const reason = reasonFor(waiter);
      if (!reason) continue;
      this.#remove(waiter);
      waiter.reject(reason);
    }
  }

  #remove(waiter: Waiter<T>): void {
    if (waiter.state === "waiting") {
      this.waiting--;
      this.asked -= waiter.amount;
    }
    waiter.state = "gone";
    waiter.unlink();
    waiter.stopListening?.();
  }

  #deliverSoon(): void {
    this.#delivering = true;
    queueMicrotask(() => this.#deliver());
  }

  #deliver(): void {
    for (let waiter; (waiter = this.#granted.next) !== this.#granted;) this.#handOver(waiter);
    this.#delivering = false;
  }

  #handOver(waiter: Waiter<T>): void {
    this.#remove(waiter);
    if (this.#owner.deliver) this.#owner.deliver(waiter);
    else waiter.resolve(undefined as T);
  }
}

/** What decides over a {@link Line}. */
interface LineOwner<T> {
  /** Grants what can be granted, from the head. Called when a waiter enters, and when one leaves. */
  serve?(): void;
  /** Puts back what was granted to a waiter that was aborted before it received it. */
  takeBack?(waiter: Waiter<T>): void;
  /** Hands over what was granted. Default: undefined. */
  deliver?(waiter: Waiter<T>): void;
}

/**
 * A caller in a {@link Line}: a node of a doubly linked ring, so that leaving costs the same
 * everywhere in it. A single object without closures, because there may be many.
 */
class Waiter<T> {
  previous: Waiter<T> = this;
  next: Waiter<T> = this;
  state: "waiting" | "granted" | "gone" = "waiting";
  stopListening: (() => void) | undefined = undefined;
  readonly resolve: (value: T) => void;
  readonly reject: (reason: unknown) => void;
  readonly signal: AbortSignal | undefined;
  /** How much it asks for. */
  readonly amount: number;
  /** What the owner of the line should know. */
  readonly item: unknown;

  constructor(
    resolve: (value: T) => void,
    reject: (reason: unknown) => void,
    signal: AbortSignal | undefined,
    amount = 1,
    item?: unknown,
  ) {
    this.resolve = resolve;
    this.reject = reject;
    this.signal = signal;
    this.amount = amount;
    this.item = item;
  }

  insertBefore(next: Waiter<T>): void {
    this.previous = next.previous;
    this.next = next;
    this.previous.next = next.previous = this;
  }

  unlink(): void {
    this.previous.next = this.next;
    this.next.previous = this.previous;
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

/** Lets Bun, Node and Deno print objects of `type` as `Semaphore { permits: 2, waiting: 3 }`. */
function showMembers<T extends object>(
  type: abstract new (...args: never[]) => T,
  ...names: (keyof T)[]
): void {
  Object.defineProperty(type.prototype, Symbol.for("nodejs.util.inspect.custom"), {
    configurable: true,
    value(this: T, depth: number, options: object, inspect: Inspect): string {
      const title = this.constructor.name;
      if (depth < 0) return `[${title}]`;
      try {
        return `${title} ${inspect(Object.fromEntries(names.map((name) => [name, this[name]])), options)}`;
      } catch {
        return title; // A prototype has no private fields.
      }
    },
  });
}

type Inspect = (value: unknown, options: object) => string;

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

function requireCount(action: string, name: string, value: number): void {
  if (value === Infinity || (Number.isSafeInteger(value) && value > 0)) return;
  throw invalid(action, name, "a positive integer or Infinity", value);
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

// ─── Demo: `bun concepts/semaphores.ts` ──────────────────────────────────────────────────────────

/** Five tasks share two permits: never more than two of them run at a time, and none waits forever. */
export async function demo(log: (lane: string, state: string) => void = print): Promise<void> {
  const semaphore = new Semaphore(2);
  const task = async (lane: string) => {
    log(lane, "waiting");
    try {
      using _permit = await semaphore.acquire({ signal: AbortSignal.timeout(500) });
      log(lane, "running");
      await new Promise((resolve) => setTimeout(resolve, 100));
      log(lane, "done");
    } catch {
      log(lane, "cancelled");
    }
  };
  await Promise.all([1, 2, 3, 4, 5].map((n) => task(`task ${n}`)));
}

let start: number | undefined;

function print(lane: string, state: string): void {
  start ??= performance.now();
  const ms = Math.round(performance.now() - start);
  console.log(`+${String(ms).padStart(4)} ms  ${lane}  ${state}`);
}

if ((import.meta as { main?: boolean }).main) void demo();
