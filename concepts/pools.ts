// async-concepts 0.2.0, MIT License. A file to copy and own; please keep this line.

/**
 * # Pools
 *
 * Keep resources that are costly to create, and lend each to one user at a time.
 *
 * Use one for connections, worker threads, browser pages: what takes long to create, can be reused,
 * and of which there may be only so many.
 *
 * Without one every request opens a connection of its own, and under load the server refuses them.
 * A hand-written list of idle connections loses one as soon as a caller aborts or throws, lends
 * those that have died meanwhile, and closes none at shutdown.
 *
 * Known elsewhere as: the pool of Go's `database/sql`; generic-pool on npm; HikariCP in Java.
 *
 * @module
 */

/** How a {@link Pool} creates its resources, and how many it keeps for how long. */
export interface PoolOptions<T> {
  /**
   * Creates a resource. The signal is aborted when the pool is disposed, or when the caller that
   * needed the resource has been aborted and no other caller needs it.
   */
  create: (signal: AbortSignal) => T | PromiseLike<T>;
  /** Closes a resource; awaited. Default: nothing needs to be done. */
  destroy?: ((resource: T) => unknown) | undefined;
  /**
   * Whether a resource that was used before can be lent again; if it throws, it can't. The signal
   * is aborted as that of `create` is. Default: it can.
   */
  validate?: ((resource: T, signal: AbortSignal) => boolean | PromiseLike<boolean>) | undefined;
  /** How many there may be, including those being created or destroyed: a positive integer. */
  max: number;
  /**
   * How many are created in advance, and kept in spite of `idleTimeout`. If creating one fails, the
   * error is dropped, and the next success leads to another try. Default: 0.
   */
  min?: number | undefined;
  /** Milliseconds until an idle resource is destroyed. Default: Infinity. */
  idleTimeout?: number | undefined;
  /**
   * Milliseconds after its creation until a resource is destroyed; one that is lent, as soon as it
   * comes back. Default: Infinity.
   */
  maxLifetime?: number | undefined;
}

/** A resource on loan. Return it with `using` or one of the methods, which are idempotent. */
export interface Lease<T> extends Disposable {
  readonly value: T;
  /** Returns it for the next user. Needs no `this`. */
  release(): void;
  /** Returns it as broken: it is destroyed instead of being lent again. Needs no `this`. */
  discard(): void;
}

/**
 * Lends resources, at most `max` at a time, in order of arrival. The one that came back last is
 * lent first, so that those not needed can time out.
 *
 * A caller that finds no idle resource has one created, if there is a place. Whatever becomes free
 * goes to the head of the line, so a caller may receive another resource than the one created for
 * it, which then stays idle. If creating fails, the head gets the error, and the others a try of
 * their own. A `create` or `validate` that hangs holds a place, but doesn't block callers while
 * there are others.
 *
 * Disposal refuses all callers in line, and waits for every lease to come back and every `create`
 * to settle. Awaiting it inside {@link use} deadlocks. It throws what `destroy` has thrown, the last
 * 100 errors: to hear of them earlier, catch them in `destroy`.
 *
 * Source of the idea: connection pools, such as that of Go's `database/sql`.
 *
 * @example
 * ```ts
 * import { Pool } from "./pools.ts";
 *
 * let created = 0;
 * await using pool = new Pool({ create: async () => ({ id: ++created, broken: false }), max: 2 });
 *
 * const ids = await Promise.all([1, 2, 3].map(() => pool.use(async ({ id }) => id)));
 * console.assert(ids.length === 3 && created === 2 && pool.idle === 2);
 *
 * using lease = await pool.acquire();
 * if (lease.value.broken) lease.discard();
 * ```
 */
export class Pool<T> implements AsyncDisposable {
  readonly #stock: Stock<T>;

  /**
   * @throws {TypeError} an option is of the wrong kind
   * @throws {RangeError} `max` is not a positive integer, `min` not an integer from 0 to `max`, or
   *   a time negative
   */
  constructor(options: PoolOptions<T>) {
    const action = "create Pool";
    if (Object(options) !== options) {
      throw invalid(action, "options", "an object", options, TypeError);
    }
    const { create, destroy = doNothing, validate, max, min = 0 } = options;
    const { idleTimeout = Infinity, maxLifetime = Infinity } = options;
    requireFunction(action, "create", create);
    requireFunction(action, "destroy", destroy);
    if (validate !== undefined) requireFunction(action, "validate", validate);
    requirePositiveInteger(action, "max", max);
    if (!Number.isSafeInteger(min) || min < 0 || min > max) {
      throw invalid(action, "min", `an integer from 0 to max, which is ${max}`, min);
    }
    requireDuration(action, "idleTimeout", idleTimeout);
    requireDuration(action, "maxLifetime", maxLifetime);
    this.#stock = new Stock({ create, destroy, validate, max, min, idleTimeout, maxLifetime });
  }

  /** How many resources there are: idle, lent, or being created, validated or destroyed. */
  get size(): number {
    return this.#stock.size;
  }

  /** How many resources are idle. */
  get idle(): number {
    return this.#stock.idle.length;
  }

  /** How many callers wait in line. */
  get waiting(): number {
    return this.#stock.waiting;
  }

  /**
   * Lends a resource, waiting in line if none is free.
   *
   * @throws {TypeError} `signal` is not an AbortSignal
   * @throws the signal's reason, once it is aborted
   * @throws whatever `create` throws
   * @throws {Error} the pool has been disposed
   */
  acquire(options?: WaitOptions): Promise<Lease<T>> {
    return this.#stock.wait("acquire from Pool", options);
  }

  /**
   * Calls `fn` with a resource, and returns what it returns. The resource goes back even if `fn`
   * throws: use `validate` to find out whether it is broken.
   *
   * @throws {TypeError} `fn` is not a function, or `signal` not an AbortSignal
   * @throws whatever {@link acquire} throws, or `fn`
   */
  use<R>(fn: (resource: T) => R | PromiseLike<R>, options?: WaitOptions): Promise<R>;
  use<R>(fn: (resource: T) => R, options?: WaitOptions): Promise<Awaited<R>>;
  use(fn: (resource: T) => unknown, options?: WaitOptions): Promise<unknown> {
    if (typeof fn !== "function") {
      return Promise.reject(invalid("use Pool", "fn", "a function", fn, TypeError));
    }
    return this.#stock.use(fn, options);
  }

  /**
   * Refuses all callers in line and to come. Resolves when all resources are back, and destroyed.
   *
   * @throws {AggregateError} of what `destroy` has thrown
   */
  [Symbol.asyncDispose](): Promise<void> {
    return this.#stock.dispose();
  }
}

/**
 * A caller in a {@link Line}: a node of a doubly linked ring, so that leaving costs the same
 * everywhere in it. A single object without closures, because there may be many.
 */
class Waiter<T> {
  previous: Waiter<T>;
  next: Waiter<T>;
  state: "waiting" | "granted" | "gone";
  stopListening: (() => void) | undefined;
  readonly resolve: (value: T) => void;
  readonly reject: (reason: unknown) => void;
  readonly signal: AbortSignal | undefined;
  /** How much it asks for. */
  readonly amount: number;
  /** What is to be called; without it, the waiter is resolved. */
  readonly fn: (() => unknown) | undefined;

  constructor(
    resolve: (value: T) => void,
    reject: (reason: unknown) => void,
    signal: AbortSignal | undefined,
    amount = 1,
    fn?: () => unknown,
  ) {
    this.previous = this.next = this;
    this.state = "waiting";
    this.stopListening = undefined;
    this.resolve = resolve;
    this.reject = reject;
    this.signal = signal;
    this.amount = amount;
    this.fn = fn;
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

/**
 * Waiters in order of arrival. A grant counts at once, but is delivered in a microtask, to all
 * waiters of this turn in order. Until then the waiter listens to its signal: an abort takes the
 * grant back at once, and the next waiter is served.
 *
 * A subclass says what is granted ({@link serve}), what becomes of a grant that nobody receives
 * ({@link takeBack}), and how it is received ({@link deliver}).
 */
class Line<T> {
  /** How many wait, without those that have been granted something. */
  waiting = 0;
  /** The sum of what they ask for. */
  asked = 0;
  #delivering = false;
  readonly #waiters = new Waiter<T>(doNothing, doNothing, undefined);
  readonly #granted = new Waiter<T>(doNothing, doNothing, undefined);

  /** Grants what can be granted, beginning at the head. Called whenever a waiter leaves. */
  serve(): void {}

  /** Puts back what was granted to a waiter that was aborted before it received it. */
  takeBack(_waiter: Waiter<T>): void {}

  deliver(waiter: Waiter<T>): void {
    waiter.resolve(undefined as T);
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
    this.serve();
  }

  /** Lets a waiter in: it is told in a microtask. */
  grant(waiter: Waiter<T>): void {
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
    if (state === "granted") this.takeBack(waiter);
    waiter.reject(reason);
    this.serve();
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
    let resolved = false;
    for (let waiter; (waiter = this.#granted.next) !== this.#granted;) {
      if (waiter.signal?.aborted) {
        this.leave(waiter, waiter.signal.reason);
        continue;
      }
      // A resolved waiter continues in a microtask. Functions behind it are called after that.
      if (waiter.fn && resolved) return this.#deliverSoon();
      resolved ||= !waiter.fn;
      this.#remove(waiter);
      this.deliver(waiter);
    }
    this.#delivering = false;
  }
}

interface Settings<T> extends PoolOptions<T> {
  destroy: (resource: T) => unknown;
  min: number;
  idleTimeout: number;
  maxLifetime: number;
}

/** The resources of a pool, and the line of callers who wait for one. */
class Stock<T> extends Line<any> {
  /** Those being created, validated or destroyed included. */
  size = 0;
  readonly idle: Resource<T>[] = [];
  readonly #settings: Settings<T>;
  /**
   * What is being created or validated, oldest first: one for each waiter, as long as there are
   * resources or places, so that no waiter depends on what was begun for another one.
   */
  readonly #awaited = new Set<AbortController>();
  /** The same, but its waiter has gone. It is welcome all the same. */
  readonly #extra = new Set<AbortController>();
  #last: Borrower<T> | undefined;
  #closed: Error | undefined;
  readonly #empty = Promise.withResolvers<void>();
  readonly #errors: unknown[] = [];
  #errorCount = 0;

  constructor(settings: Settings<T>) {
    super();
    this.#settings = settings;
    this.#replenish();
  }

  wait(action: string, options?: WaitOptions, fn?: (resource: T) => unknown): Promise<any> {
    return new Promise((resolve, reject) => {
      requireOptions(action, options);
      const signal = options?.signal ?? undefined;
      requireSignal(action, signal);
      if (signal?.aborted) reject(signal.reason);
      else if (this.#closed) reject(this.#closed);
      else this.enter(new Borrower(resolve, reject, signal, 1, fn as () => unknown));
    });
  }

  use(fn: (resource: T) => unknown, options?: WaitOptions): Promise<unknown> {
    if (options !== undefined || !this.isQuiet || this.#settings.validate) {
      return this.wait("use Pool", options, fn);
    }
    const resource = this.#takeIdle();
    return resource ? this.#call(resource, fn, true) : this.wait("use Pool", options, fn);
  }

  override serve(): void {
    const { validate, max } = this.#settings;
    while (this.first && this.#awaited.size < this.waiting) {
      const resource = this.#takeIdle();
      if (resource && !validate) this.#offer(resource);
      else if (resource) this.#validate(resource);
      else if (this.size < max) this.#create();
      else return;
    }
  }

  override join(waiter: Waiter<any>): void {
    this.#last = waiter as Borrower<T>;
    super.join(waiter);
  }

  override takeBack(waiter: Waiter<any>): void {
    this.#offer((waiter as Borrower<T>).resource!);
  }

  override leave(waiter: Waiter<any>, reason: unknown): void {
    if (waiter.state !== "waiting") return super.leave(waiter, reason);
    const before = this.waiting;
    super.leave(waiter, reason);
    const { attempt } = waiter as Borrower<T>;
    if (attempt && this.#awaited.delete(attempt)) this.#extra.add(attempt);
    this.#detach();
    for (let gone = before - this.waiting; gone > 0; gone--) {
      if (this.#awaited.size + this.#extra.size <= this.waiting) return;
      // There are more than waiters. The oldest is the most likely to hang.
      const [oldest] = this.#extra;
      const needless = attempt && this.#extra.has(attempt) ? attempt : oldest!;
      this.#extra.delete(needless);
      needless.abort(reason);
    }
  }

  override deliver(waiter: Waiter<any>): void {
    const { resource, fn } = waiter as Borrower<T>;
    if (fn) waiter.resolve(this.#call(resource!, fn));
    else waiter.resolve(new Loan(this, resource!));
  }

  /** Takes back what was lent. */
  giveBack(resource: Resource<T>): void {
    if (this.#settings.validate && this.#canLend(resource) && this.first) this.#validate(resource);
    else this.#offer(resource);
  }

  destroy(resource: Resource<T>): void {
    Promise.try(this.#settings.destroy, resource.value)
      .catch((error) => {
        this.#errorCount++;
        if (this.#errors.push(error) > MAX_ERRORS) this.#errors.shift();
      })
      .then(() => {
        this.size--;
        this.#replenish();
        this.#changed();
      });
  }

  async dispose(): Promise<void> {
    this.#closed ??= new Error("Cannot acquire from Pool: it has been disposed");
    this.refuse(() => this.#closed);
    for (const attempt of [...this.#awaited, ...this.#extra]) attempt.abort(this.#closed);
    this.#takeIdle();
    this.#changed();
    await this.#empty.promise;
    const errors = this.#errors.splice(0);
    if (errors.length === 0) return;
    const count = this.#errorCount;
    const many = ` ${count} times; these are the last ${MAX_ERRORS} errors`;
    const message = `Cannot dispose Pool: destroy failed${count > MAX_ERRORS ? many : ""}`;
    throw new AggregateError(errors, message);
  }

  /** Lends what can be lent to the first waiter, or keeps it until one comes. */
  #offer(resource: Resource<T>): void {
    if (!this.#canLend(resource)) return this.destroy(resource);
    const first = this.first as Borrower<T> | undefined;
    if (first) {
      first.resource = resource;
      this.grant(first);
      this.#detach(1);
    } else {
      this.idle.push(resource);
      this.#setTimer(resource, this.#settings.idleTimeout);
    }
  }

  #create(): void {
    this.size++;
    const attempt = this.#begin();
    const { create, maxLifetime } = this.#settings;
    Promise.try(create, attempt.signal).then(
      (value) => {
        this.#offer(new Resource(value, performance.now() + maxLifetime));
        this.#end(attempt);
        this.#replenish();
        this.#changed();
      },
      (error) => {
        this.size--;
        const isAwaited = this.#awaited.has(attempt);
        this.#end(attempt);
        const first = isAwaited ? this.first : undefined;
        if (first) super.leave(first, error);
        this.#changed();
      },
    );
  }

  #validate(resource: Resource<T>): void {
    const attempt = this.#begin();
    Promise.try(this.#settings.validate!, resource.value, attempt.signal)
      .catch(() => false)
      .then((isValid) => {
        if (isValid) this.#offer(resource);
        else this.destroy(resource);
        this.#end(attempt);
        this.#changed();
      });
  }

  #begin(): AbortController {
    const attempt = new AbortController();
    const needed = this.waiting - this.#awaited.size;
    (needed > 0 ? this.#awaited : this.#extra).add(attempt);
    if (needed === 1) this.#last!.attempt = attempt;
    return attempt;
  }

  #end(attempt: AbortController): void {
    this.#awaited.delete(attempt);
    this.#extra.delete(attempt);
  }

  /** Waiters at the head have gone, so nobody depends on the oldest attempts any more. */
  #detach(count = this.#awaited.size - this.waiting): void {
    if (count <= 0 || this.#awaited.size === 0) return;
    for (const oldest of this.#awaited) {
      this.#awaited.delete(oldest);
      this.#extra.add(oldest);
      if (--count <= 0) return;
    }
  }

  #changed(): void {
    this.serve();
    if (this.#closed && this.size === 0) this.#empty.resolve();
  }

  #replenish(): void {
    while (!this.#closed && this.size < this.#settings.min) this.#create();
  }

  #setTimer(resource: Resource<T>, idleTimeout: number): void {
    const { maxLifetime, min } = this.#settings;
    const longest = Math.min(idleTimeout, maxLifetime);
    if (longest === Infinity) return;
    const rest = Math.min(longest, resource.end - performance.now());
    resource.stopTimer = startTimer(rest, () => {
      if (this.size <= min && this.#canLend(resource)) return this.#setTimer(resource, Infinity);
      this.idle.splice(this.idle.indexOf(resource), 1);
      this.destroy(resource);
    });
  }

  /** The idle resource to lend next. Destroys those that can't be lent. */
  #takeIdle(): Resource<T> | undefined {
    for (let resource; (resource = this.idle.pop()); this.destroy(resource)) {
      resource.stopTimer?.();
      if (this.#canLend(resource)) return resource;
    }
    return undefined;
  }

  #canLend({ end }: Resource<T>): boolean {
    return !this.#closed && (end === Infinity || performance.now() < end);
  }

  async #call(
    resource: Resource<T>,
    fn: (resource: T) => unknown,
    isEarly = false,
  ): Promise<unknown> {
    // A grant is always delivered in a microtask.
    if (isEarly) await undefined;
    try {
      return await fn(resource.value);
    } finally {
      this.giveBack(resource);
    }
  }
}

const MAX_ERRORS = 100;

class Borrower<T> extends Waiter<any> {
  /** What it has been granted. */
  resource: Resource<T> | undefined = undefined;
  /** What was begun when it came. */
  attempt: AbortController | undefined = undefined;
}

class Resource<T> {
  readonly value: T;
  /** When its lifetime ends. */
  readonly end: number;
  stopTimer: (() => void) | undefined = undefined;

  constructor(value: T, end: number) {
    this.value = value;
    this.end = end;
  }
}

class Loan<T> implements Lease<T> {
  readonly value: T;
  readonly release: () => void;
  readonly discard: () => void;

  constructor(stock: Stock<T>, resource: Resource<T>) {
    this.value = resource.value;
    let lender: Stock<T> | undefined = stock;
    const once = () => {
      const it = lender;
      lender = undefined;
      return it;
    };
    this.release = () => once()?.giveBack(resource);
    this.discard = () => once()?.destroy(resource);
  }

  [Symbol.dispose](): void {
    this.release();
  }
}

/** The signal itself in place of `{ signal }` would never be heard. */
function requireOptions(action: string, options: object | null | undefined): void {
  if (options === undefined) return;
  if (typeof options === "object" && options !== null && !("throwIfAborted" in options)) return;
  throw invalid(action, "options", "an object", options, TypeError);
}

// ─── Shared ──────────────────────────────────────────────────────────────────────────────────────
// These stand in several concepts, the same to the letter, because a concept imports nothing.

/** What every wait takes. */
export interface WaitOptions {
  /** Ends the wait: it rejects with the signal's reason, and has taken nothing. */
  signal?: AbortSignal | undefined;
}

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

// ─── Demo: `bun concepts/pools.ts` ───────────────────────────────────────────────────────────────

/** Three orders share two connections. */
export async function demo(log: (lane: string, state: string) => void = print): Promise<void> {
  const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
  let connections = 0;
  await using pool = new Pool({
    create: async () => {
      const connection = `connection ${++connections}`;
      log(connection, "opening");
      await sleep(50);
      log(connection, "open");
      return connection;
    },
    destroy: (connection) => log(connection, "closed"),
    max: 2,
  });
  const order = async (n: number) => {
    log(`order ${n}`, "waiting");
    await pool.use(async (connection) => {
      log(`order ${n}`, `running on ${connection}`);
      await sleep(n * 100);
      log(`order ${n}`, "done");
    });
  };
  await Promise.all([1, 2, 3].map(order));
}

let start: number | undefined;

function print(lane: string, state: string): void {
  start ??= performance.now();
  const ms = Math.round(performance.now() - start);
  console.log(`+${String(ms).padStart(4)} ms  ${lane}  ${state}`);
}

if ((import.meta as { main?: boolean }).main) void demo();
