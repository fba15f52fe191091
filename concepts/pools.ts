// async-concepts 0.3.0, MIT License. A file to copy and own; please keep this line.

/**
 * # Pools
 *
 * Keep resources that are costly to create, and lend each to one user at a time.
 *
 * Use one for connections, worker threads, browser pages: what takes long to create, can be reused,
 * and of which there may be only so many.
 *
 * Without it every request opens a connection of its own, and under load the server refuses them. A
 * hand-written list of idle connections loses one as soon as a caller aborts or throws, lends those
 * that have died meanwhile, and closes none at shutdown.
 *
 * Known elsewhere as: the pool of Go's `database/sql`; generic-pool on npm; HikariCP in Java.
 *
 * @module
 */

/** How a {@link Pool} creates its resources, and how many it keeps for how long. */
export interface PoolOptions<T> {
  /**
   * Creates a resource. The signal is aborted when the pool is disposed, or when the caller that
   * needed the resource has been aborted and no other caller needs it. For a time limit hand on
   * `AbortSignal.any([signal, AbortSignal.timeout(ms)])`, here and in `validate`.
   */
  create: (signal: AbortSignal) => T | PromiseLike<T>;
  /** Closes a resource; awaited. Default: nothing needs to be done. */
  destroy?: ((resource: T) => unknown) | undefined;
  /**
   * Whether a resource that was used before can be lent again; if it throws, it can't. The signal
   * is aborted as that of `create` is. A `validate` that throws then costs the resource, because a
   * broken one may be what made it hang. Default: it can.
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

/** A resource on loan. Its methods are idempotent, and need no `this`. */
export interface Lease<T> extends Disposable {
  readonly value: T;
  /** Returns it for the next user, as `using` does. */
  release(): void;
  /** Returns it as broken: it is destroyed instead of being lent again. */
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
  static {
    showMembers(this, "size", "idle", "waiting");
  }

  readonly #settings: ReturnType<typeof checkOptions<T>>;
  readonly #line = new Line<any>({
    serve: () => this.#serve(),
    takeBack: () => this.#offer(this.#granted.pop()!),
    deliver: ({ resolve, item: isCall }) => {
      const resource = this.#granted.shift()!;
      resolve(isCall ? resource : this.#lend(resource));
    },
  });
  #size = 0;
  readonly #idle: Resource<T>[] = [];
  /** One for each waiter to which it has not yet been delivered; all are alike. */
  readonly #granted: Resource<T>[] = [];
  /**
   * What is being created or validated, oldest first: one for each waiter, as long as there are
   * resources or places, so that no waiter depends on what was begun for another one.
   */
  readonly #needed = new Set<AbortController>();
  /** The same, but nobody depends on it any more. It is welcome all the same. */
  readonly #spare = new Set<AbortController>();
  #latestNeeded: AbortController | undefined;
  #closed: Error | undefined;
  readonly #empty = Promise.withResolvers<void>();
  readonly #errors: unknown[] = [];
  #errorCount = 0;

  /**
   * @throws {TypeError} an option is of the wrong kind
   * @throws {RangeError} `max` is not a positive integer, `min` not an integer from 0 to `max`, or
   *   a time negative
   */
  constructor(options: PoolOptions<T>) {
    this.#settings = checkOptions(options);
    this.#replenish();
  }

  /** How many resources there are: idle, lent, or being created, validated or destroyed. */
  get size(): number {
    return this.#size;
  }

  /** How many resources are idle. */
  get idle(): number {
    return this.#idle.length;
  }

  /** How many callers wait in line. */
  get waiting(): number {
    return this.#line.waiting;
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
    return this.#wait("acquire from Pool", options);
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
  async use(fn: (resource: T) => unknown, options?: WaitOptions): Promise<unknown> {
    requireFunction("use Pool", "fn", fn);
    const mayBeFree = options === undefined && this.#line.isQuiet && !this.#settings.validate;
    const idle = mayBeFree ? this.#takeIdle() : undefined;
    // Called after an `await` of the caller's own, `fn` finds the caller's AsyncLocalStorage.
    const resource: Resource<T> = await (idle ?? this.#wait("use Pool", options, true));
    try {
      if (options?.signal?.aborted) throw options.signal.reason;
      return await fn(resource.value);
    } finally {
      this.#giveBack(resource);
    }
  }

  /**
   * Refuses all callers in line and to come, waits for every lease to come back and every `create`
   * to settle, and destroys all resources. Awaiting it inside {@link use} deadlocks.
   *
   * @throws {AggregateError} of the last 100 errors that `destroy` has thrown, earlier ones included:
   *   to hear of them at once, catch them in `destroy`
   */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed ??= new Error("Cannot acquire from Pool: it has been disposed");
    this.#line.refuse(() => this.#closed);
    for (const attempt of [...this.#needed, ...this.#spare]) attempt.abort(this.#closed);
    this.#takeIdle(); // None can be lent, so all are destroyed.
    this.#changed();
    await this.#empty.promise;
    const errors = this.#errors.splice(0);
    if (errors.length === 0) return;
    const times = this.#errorCount;
    const rest =
      times > MAX_ERRORS ? ` ${times} times; these are the last ${MAX_ERRORS} errors` : "";
    throw new AggregateError(errors, `Cannot dispose Pool: destroy failed${rest}`);
  }

  #wait(action: string, options?: WaitOptions, isCall = false): Promise<any> {
    return new Promise((resolve, reject) => {
      requireOptions(action, options);
      const signal = options?.signal ?? undefined;
      requireSignal(action, signal);
      if (signal?.aborted) return reject(signal.reason);
      if (this.#closed) return reject(this.#closed);
      const before = this.#latestNeeded;
      let own: AbortController | undefined;
      const leave = (reason: unknown) => {
        reject(reason);
        if (signal?.aborted) this.#abandon(own, reason);
      };
      this.#line.enter(new Waiter(resolve, leave, signal, 1, isCall));
      if (this.#latestNeeded !== before) own = this.#latestNeeded;
    });
  }

  #serve(): void {
    const { validate, max } = this.#settings;
    while (this.#line.first && this.#needed.size < this.#line.waiting) {
      const resource = this.#takeIdle();
      if (resource && validate) void this.#validate(resource);
      else if (resource) this.#offer(resource);
      else if (this.#size < max) void this.#create();
      else return;
    }
  }

  /** The idle resource to lend next. Destroys those that can't be lent. */
  #takeIdle(): Resource<T> | undefined {
    for (let resource; (resource = this.#idle.pop()); void this.#destroy(resource)) {
      resource.stopTimer?.();
      if (this.#canLend(resource)) return resource;
    }
    return undefined;
  }

  #canLend({ end }: Resource<T>): boolean {
    return !this.#closed && (end === Infinity || performance.now() < end);
  }

  /** Lends what can be lent to the first waiter, or keeps it until one comes. */
  #offer(resource: Resource<T>): void {
    if (!this.#canLend(resource)) return void this.#destroy(resource);
    const { first } = this.#line;
    if (first) {
      this.#granted.push(resource);
      this.#line.grant(first);
      this.#detach(1);
    } else {
      this.#idle.push(resource);
      this.#setTimer(resource, this.#settings.idleTimeout);
    }
  }

  #lend(resource: Resource<T>): Lease<T> {
    let isLent = true;
    const end = (isBroken: boolean) => {
      if (!isLent) return;
      isLent = false;
      if (isBroken) void this.#destroy(resource);
      else this.#giveBack(resource);
    };
    const release = () => end(false);
    return { value: resource.value, release, discard: () => end(true), [Symbol.dispose]: release };
  }

  #giveBack(resource: Resource<T>): void {
    if (this.#settings.validate && this.#canLend(resource) && this.#line.first) {
      void this.#validate(resource);
    } else this.#offer(resource);
  }

  async #create(): Promise<void> {
    this.#size++;
    const { create, maxLifetime } = this.#settings;
    const attempt = this.#begin();
    try {
      const value = await Promise.try(create, attempt.signal);
      this.#offer({ value, end: performance.now() + maxLifetime, stopTimer: undefined });
      this.#end(attempt);
      this.#replenish();
    } catch (error) {
      this.#size--;
      const first = this.#end(attempt) ? this.#line.first : undefined;
      if (first) this.#line.leave(first, error);
      // It may have been one of those to be created in advance.
      if (attempt.signal.aborted) this.#replenish();
    }
    this.#changed();
  }

  async #validate(resource: Resource<T>): Promise<void> {
    const attempt = this.#begin();
    const validating = Promise.try(this.#settings.validate!, resource.value, attempt.signal);
    if (await validating.catch(() => false)) this.#offer(resource);
    else void this.#destroy(resource);
    this.#end(attempt);
    this.#changed();
  }

  async #destroy(resource: Resource<T>): Promise<void> {
    try {
      await Promise.try(this.#settings.destroy, resource.value);
    } catch (error) {
      this.#errorCount++;
      if (this.#errors.push(error) > MAX_ERRORS) this.#errors.shift();
    }
    this.#size--;
    this.#replenish();
    this.#changed();
  }

  #changed(): void {
    this.#serve();
    if (this.#closed && this.#size === 0) this.#empty.resolve();
  }

  #replenish(): void {
    while (!this.#closed && this.#size < this.#settings.min) void this.#create();
  }

  #begin(): AbortController {
    const attempt = new AbortController();
    if (this.#needed.size < this.#line.waiting) this.#needed.add((this.#latestNeeded = attempt));
    else this.#spare.add(attempt);
    return attempt;
  }

  /** Returns whether a waiter depended on it. */
  #end(attempt: AbortController): boolean {
    this.#spare.delete(attempt);
    return this.#needed.delete(attempt);
  }

  /** So many waiters have gone, and with them the need of the oldest attempts. */
  #detach(count: number): void {
    for (const oldest of this.#needed) {
      if (count-- <= 0) return;
      this.#needed.delete(oldest);
      this.#spare.add(oldest);
    }
  }

  /** A waiter has gone. Aborts its own attempt if it can, or the one that most likely hangs. */
  #abandon(own: AbortController | undefined, reason: unknown): void {
    if (own && this.#needed.delete(own)) this.#spare.add(own);
    this.#detach(this.#needed.size - this.#line.waiting);
    if (this.#needed.size + this.#spare.size <= this.#line.waiting) return;
    const [oldest] = this.#spare;
    const needless = own && this.#spare.has(own) ? own : oldest!;
    this.#spare.delete(needless);
    needless.abort(reason);
  }

  #setTimer(resource: Resource<T>, idleTimeout: number): void {
    const { maxLifetime, min } = this.#settings;
    const longest = Math.min(idleTimeout, maxLifetime);
    if (longest === Infinity) return;
    const rest = Math.min(longest, resource.end - performance.now());
    resource.stopTimer = startTimer(rest, () => {
      if (this.#size <= min && this.#canLend(resource)) return this.#setTimer(resource, Infinity);
      this.#idle.splice(this.#idle.indexOf(resource), 1);
      void this.#destroy(resource);
    });
  }
}

const MAX_ERRORS = 100;

interface Resource<T> {
  readonly value: T;
  /** When its lifetime ends. */
  readonly end: number;
  stopTimer: (() => void) | undefined;
}

function checkOptions<T>(options: PoolOptions<T>) {
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
  return { create, destroy, validate, max, min, idleTimeout, maxLifetime };
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
