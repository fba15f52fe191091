/**
 * # Pools
 *
 * Lend resources that are costly to make, such as connections, and take them back for the next.
 *
 * Known elsewhere as: `database/sql` in Go; generic-pool on npm.
 *
 * @module
 */

/** What every wait can be told. */
export interface WaitOptions {
  /** Ends the wait: it rejects with the signal's reason, and has taken nothing. */
  signal?: AbortSignal | undefined;
}

/** What a {@link Pool} is made of. */
export interface PoolOptions<T> {
  /** Makes a resource. The signal is aborted when the pool is disposed. */
  create: (signal: AbortSignal) => T | PromiseLike<T>;
  /** Ends a resource; awaited. Default: nothing needs to be done. */
  destroy?: ((resource: T) => unknown) | undefined;
  /** Whether one that was used before can be lent again. To throw means no. Default: it can. */
  validate?: ((resource: T) => boolean | PromiseLike<boolean>) | undefined;
  /** How many there may be, those being created and destroyed included: a positive integer. */
  max: number;
  /** Milliseconds until an idle resource is destroyed: up to 2^31-1, or Infinity, the default. */
  idleTimeout?: number | undefined;
}

/** A resource on loan. `using` gives it back, and so do the methods; twice does nothing. */
export interface Lease<T> extends Disposable {
  readonly value: T;
  /** Gives it back for the next. */
  release(): void;
  /** Gives it back as broken: it is destroyed, and nobody else gets it. */
  discard(): void;
}

/**
 * Lends resources that are costly to make: at most `max` at a time, first come, first served. The
 * one that came back last is lent first, so that those not needed can time out.
 *
 * A resource is created only for somebody who waits. If they have gone when it is there, the next
 * in line gets it, or it stays idle. If creating fails, the first in line gets the error, and the
 * others a try of their own.
 *
 * Disposal refuses those who are in line, waits for every lease to come back, and destroys all. As
 * nobody waits for a single resource to be destroyed, errors of `destroy` are kept until then;
 * whoever wants to know earlier catches them in `destroy`.
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
  readonly #options: { [K in keyof PoolOptions<T>]-?: NonNullable<PoolOptions<T>[K]> };
  /** Closes the line to a ring: its `next` is who is served first, its `previous` who came last. */
  readonly #line = new Waiter<Lease<T>>();
  readonly #idle: Idle<T>[] = [];
  readonly #disposal = new AbortController();
  readonly #empty = Promise.withResolvers<void>();
  readonly #errors: unknown[] = [];
  #size = 0;
  #waiting = 0;
  #creating = 0;
  #validating = 0;

  /**
   * @throws {TypeError} an option is of the wrong kind
   * @throws {RangeError} `max` is not a positive integer, or `idleTimeout` out of range
   */
  constructor(options: PoolOptions<T>) {
    const { create, destroy = () => {}, validate = () => true } = options;
    const { max, idleTimeout = Infinity } = options;
    for (const [name, option] of Object.entries({ create, destroy, validate })) {
      callable("create Pool", name, option);
    }
    positiveInteger("create Pool", "max", max);
    const canBeTimed = Number.isFinite(idleTimeout) && idleTimeout >= 0 && idleTimeout < 2 ** 31;
    if (!canBeTimed && idleTimeout !== Infinity) {
      throw invalid("create Pool", "idleTimeout", "from 0 to 2^31-1, or Infinity", idleTimeout);
    }
    this.#options = { create, destroy, validate, max, idleTimeout };
  }

  /** How many resources there are: idle, lent, or being created, validated or destroyed. */
  get size(): number {
    return this.#size;
  }

  /** How many resources lie unused. */
  get idle(): number {
    return this.#idle.length;
  }

  /** How many callers wait in line. */
  get waiting(): number {
    return this.#waiting;
  }

  /**
   * Lends a resource, waiting in line if need be.
   *
   * @throws the signal's reason, once it is aborted
   * @throws whatever `create` throws
   * @throws {Error} the pool has been disposed, or is while this waits
   */
  async acquire({ signal }: WaitOptions = {}): Promise<Lease<T>> {
    signal?.throwIfAborted();
    this.#disposal.signal.throwIfAborted();
    const waiter = new Waiter<Lease<T>>();
    waiter.insertBefore(this.#line);
    this.#waiting++;
    waiter.stopListening = onAbort(signal, (reason) => this.#dequeue(waiter).reject(reason));
    this.#serve();
    const lease = await waiter.turn.promise;
    // Aborted in the same turn in which it was served: the resource is not lost, but goes back.
    if (signal?.aborted) {
      lease.release();
      throw signal.reason;
    }
    return lease;
  }

  /**
   * Runs `fn` with a resource, and returns what it returns. The resource goes back even if `fn`
   * throws: whether it is broken is for `validate` to find out.
   *
   * @throws whatever {@link acquire} throws, or `fn`
   */
  async use<R>(fn: (resource: T) => R | PromiseLike<R>, options: WaitOptions = {}): Promise<R> {
    using lease = await this.acquire(options);
    return await fn(lease.value);
  }

  /**
   * Refuses newcomers and those in line; resolves when all resources are back, and destroyed.
   *
   * @throws {AggregateError} of all that `destroy` has ever thrown
   */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#disposal.abort(new Error("Cannot acquire from Pool: it has been disposed"));
    while (this.#waiting > 0) this.#dequeue().reject(this.#disposal.signal.reason);
    while (this.#idle.length > 0) void this.#destroy(this.#takeIdle());
    this.#serve();
    await this.#empty.promise;
    const errors = this.#errors.splice(0);
    if (errors.length > 0) throw new AggregateError(errors, "Cannot dispose Pool: destroy failed");
  }

  #dequeue(waiter: Waiter<Lease<T>> = this.#line.next): PromiseWithResolvers<Lease<T>> {
    waiter.unlink();
    waiter.stopListening();
    this.#waiting--;
    return waiter.turn;
  }

  /** Sends one more resource on its way, if a waiter needs it; called after every change. */
  #serve(): void {
    if (this.#waiting > 0 && this.#idle.length > 0) void this.#validate(this.#takeIdle());
    if (this.#validating + this.#creating < this.#waiting && this.#size < this.#options.max) {
      void this.#create();
    }
    if (this.#disposal.signal.aborted && this.#size === 0) this.#empty.resolve();
  }

  async #create(): Promise<void> {
    this.#size++;
    this.#creating++;
    let resource: T;
    try {
      resource = await this.#options.create(this.#disposal.signal);
    } catch (error) {
      this.#creating--;
      this.#size--;
      if (this.#waiting > 0) this.#dequeue().reject(error);
      return this.#serve();
    }
    this.#creating--;
    this.#lend(resource);
  }

  async #validate(resource: T): Promise<void> {
    this.#validating++;
    const valid = await (async () => this.#options.validate(resource))().catch(() => false);
    this.#validating--;
    if (valid) return this.#lend(resource);
    void this.#destroy(resource);
    this.#serve();
  }

  async #destroy(resource: T): Promise<void> {
    try {
      await this.#options.destroy(resource);
    } catch (error) {
      this.#errors.push(error);
    }
    this.#size--;
    this.#serve();
  }

  #lend(resource: T): void {
    if (this.#waiting === 0) return this.#takeBack(resource);
    let lent = true;
    const once = (giveBack: () => unknown) => () => {
      if (!lent) return;
      lent = false;
      giveBack();
    };
    const release = once(() => this.#takeBack(resource));
    const discard = once(() => this.#destroy(resource));
    this.#dequeue().resolve({ value: resource, release, discard, [Symbol.dispose]: release });
  }

  #takeBack(resource: T): void {
    if (this.#disposal.signal.aborted) return void this.#destroy(resource);
    if (this.#waiting > 0) return void this.#validate(resource);
    const idle: Idle<T> = { resource, timer: undefined };
    this.#idle.push(idle);
    const { idleTimeout } = this.#options;
    if (idleTimeout === Infinity) return;
    idle.timer = setTimeout(() => {
      this.#idle.splice(this.#idle.indexOf(idle), 1);
      void this.#destroy(resource);
    }, idleTimeout);
  }

  #takeIdle(): T {
    const { resource, timer } = this.#idle.pop()!;
    clearTimeout(timer);
    return resource;
  }
}

interface Idle<T> {
  resource: T;
  timer: ReturnType<typeof setTimeout> | undefined;
}

/** A node of a doubly linked list, so that leaving the line costs the same everywhere in it. */
class Waiter<T> {
  previous: Waiter<T> = this;
  next: Waiter<T> = this;
  readonly turn = Promise.withResolvers<T>();
  stopListening: () => void = () => {};

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

function callable(action: string, name: string, value: unknown): void {
  if (typeof value !== "function") throw wrongKind(action, name, "a function", value);
}

function wrongKind(action: string, name: string, expected: string, value: unknown): Error {
  return new TypeError(invalid(action, name, expected, value).message);
}

function positiveInteger(action: string, name: string, value: number): number {
  if (Number.isInteger(value) && value > 0) return value;
  throw invalid(action, name, "a positive integer", value);
}

function invalid(action: string, name: string, expected: string, value: unknown): Error {
  const Kind = typeof value === "number" ? RangeError : TypeError;
  return new Kind(`Cannot ${action}: ${name} must be ${expected}, received ${String(value)}`);
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
