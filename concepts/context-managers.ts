/**
 * # Context managers
 *
 * Keep the setup of a thing and its cleanup in one place, and be sure that the cleanup happens:
 * once, to its end, and knowing whether the work in between has failed.
 *
 * Reach for it when something must be given back whatever happens: a lock, a temporary folder, a
 * transaction ({@link contextManager}); several of them, of which any may fail ({@link exitStack});
 * or costly ones that are to be reused ({@link Pool}).
 *
 * Without it every caller writes its own try/finally, and one forgets it; the third of four
 * cleanups throws, the fourth never runs, and the error that started it all is gone.
 *
 * Known elsewhere as: `asynccontextmanager`, `AsyncExitStack` and the like in Python's contextlib;
 * `defer` in Go. JavaScript's own `await using` and `AsyncDisposableStack` do the same for cleanups
 * that needn't know what went wrong.
 *
 * @module
 */

/** What every wait can be told. */
export interface WaitOptions {
  /** Ends the wait: it rejects with the signal's reason, and has taken nothing. */
  signal?: AbortSignal | undefined;
}

/** An error in a box, so that even `throw undefined` can be told from success. */
export interface Failure {
  readonly error: unknown;
}

/**
 * A cleanup. It is told what has failed, if anything has, and returns true if that is thereby dealt
 * with; what it throws takes the failure's place.
 */
export type Exit = (failure?: Failure) => boolean | void | PromiseLike<boolean | void>;

/** Something to enter and to exit: what Python calls `__aenter__` and `__aexit__`. */
export interface ContextManager<T> {
  /** Sets up, and returns what the work is done with. */
  enter(): T | PromiseLike<T>;
  /** Cleans up; called once for each `enter` that has succeeded. */
  exit(failure?: Failure): ReturnType<Exit>;
}

/** A value and its cleanup. Disposing twice does nothing. */
export interface Handle<T> extends AsyncDisposable {
  readonly value: T;
}

/** A manager for one use. To await it is to enter it, and gives a handle for `await using`. */
export interface Opening<T> extends ContextManager<T>, PromiseLike<Handle<T>> {}

/** What can be entered: a manager, or anything disposable, whose value is the thing itself. */
export type Enterable = ContextManager<unknown> | AsyncDisposable | Disposable;

/** The value that one gets by entering `M`. */
export type Entered<M> = M extends ContextManager<infer T> ? T : M;

/**
 * Makes a context manager from an async generator that yields once: before the `yield` it sets up,
 * after it, it cleans up. Each call of the result is for one use.
 *
 * In {@link withContext} and {@link exitStack} an error of the work is thrown at the `yield`, where
 * the generator may catch it. `await using` can't do that: the generator goes on after the `yield`
 * as if all were well. So what commits or rolls back should be used with {@link withContext}.
 *
 * Source of the idea: `contextlib.asynccontextmanager`.
 *
 * @param generator sets up, yields the value, cleans up
 * @throws {TypeError} `generator` is not a function
 * @throws {Error} on entering: the generator doesn't yield, or has been entered before
 * @throws {Error} on exit: the generator yields again; it is closed then
 * @throws whatever the generator throws
 *
 * @example
 * ```ts
 * import { contextManager } from "./context-managers.ts";
 *
 * const log: string[] = [];
 * const connect = contextManager(async function* (host: string) {
 *   log.push(`open ${host}`);
 *   try {
 *     yield { query: async (sql: string) => log.push(sql) };
 *   } finally {
 *     log.push(`close ${host}`);
 *   }
 * });
 *
 * {
 *   await using connection = await connect("db");
 *   await connection.value.query("select 1");
 * }
 * console.assert(log.join() === "open db,select 1,close db");
 * ```
 */
export function contextManager<A extends unknown[], T>(
  generator: (...args: A) => AsyncGenerator<T, void, undefined>,
): (...args: A) => Opening<T> {
  callable("create context manager", "generator", generator);
  const name = generator.name || "context manager";
  return (...args) => {
    const steps = generator(...args);
    let entered = false;
    const enter = async () => {
      if (entered) throw new Error(`Cannot enter ${name}: this opening has been entered before`);
      entered = true;
      const { done, value } = await steps.next();
      if (done) throw new Error(`Cannot enter ${name}: its generator did not yield`);
      return value;
    };
    const exit = async (failure?: Failure) => {
      const { done } = await (failure ? steps.throw(failure.error) : steps.next());
      if (done) return true;
      await using _closed = steps;
      throw new Error(`Cannot exit ${name}: its generator did not stop, but yielded again`);
    };
    const open = async () => createHandle(await enter(), exit);
    return { enter, exit, then: (...callbacks) => open().then(...callbacks) };
  };
}

/**
 * Enters the manager, runs `body` with its value, and exits it, telling it how `body` ended. The
 * manager may swallow the error, let it pass, or throw another one.
 *
 * An error that carries the body's, as its `cause` say, takes its place. One that doesn't is joined
 * with it in a SuppressedError, as by `await using`, so that both can be read. (Python notes the
 * older one as `__context__` of the newer one.)
 *
 * Source of the idea: Python's `async with`.
 *
 * @param manager what a {@link contextManager} returned, not awaited; or anything disposable
 * @returns what `body` returned, or undefined if its error was swallowed
 * @throws {TypeError} `manager` can be neither entered nor disposed
 * @throws whatever entering, `body` or the exit throws
 *
 * @example Commit, or roll back
 * ```ts
 * import { contextManager, withContext } from "./context-managers.ts";
 *
 * const log: string[] = [];
 * const transaction = contextManager(async function* () {
 *   try {
 *     yield (sql: string) => log.push(sql);
 *   } catch (error) {
 *     log.push("rollback");
 *     throw error;
 *   }
 *   log.push("commit");
 * });
 *
 * await withContext(transaction(), (run) => run("insert"));
 * await withContext(transaction(), () => Promise.reject(new Error("no"))).catch(() => {});
 * console.assert(log.join() === "insert,commit,rollback");
 * ```
 */
export function withContext<M extends Enterable, R>(
  manager: M,
  body: (value: Entered<M>) => R | PromiseLike<R>,
): Promise<R | undefined> {
  return exitStack(async (stack) => body(await stack.enter(manager)));
}

/** Collects cleanups while the body of {@link exitStack} runs. */
export interface ExitStack {
  /** Enters a manager or disposable, returns its value, and exits it at the end. */
  enter<M extends Enterable>(manager: M): Promise<Entered<M>>;
  /** Calls `fn` at the end. What it returns is awaited, and otherwise ignored. */
  defer(fn: () => unknown): void;
  /** Calls `exit` at the end, with what has failed until then. */
  push(exit: Exit): void;
  /** Takes all cleanups so far out: they run when the result is disposed, not at the end. */
  move(): AsyncDisposable;
}

/**
 * Runs `body`, then the cleanups that it has put on the stack: the last one first, one after the
 * other, all of them even if some fail. What is still being entered when `body` ends is waited for.
 *
 * It works like `async with` blocks inside one another: a cleanup is told of whatever has failed
 * before its turn, in the body or in other cleanups, and was not dealt with, and can deal with it.
 * How errors are joined is said at {@link withContext}.
 *
 * Source of the idea: `contextlib.AsyncExitStack`.
 *
 * @returns what `body` returned, or undefined if its error was dealt with
 * @throws whatever `body` or a cleanup throws
 * @throws {Error} from the stack's methods, once `body` has ended
 *
 * @example All connections, or none
 * ```ts
 * import { exitStack } from "./context-managers.ts";
 *
 * const log: string[] = [];
 * const connect = async (host: string) => {
 *   if (host === "c") throw new Error("refused");
 *   return { [Symbol.asyncDispose]: async () => void log.push(`close ${host}`) };
 * };
 * const connectAll = (hosts: string[]) =>
 *   exitStack(async (stack) => {
 *     for (const host of hosts) await stack.enter(await connect(host));
 *     return stack.move();
 *   });
 *
 * await connectAll(["a", "b", "c"]).catch(() => log.push("failed"));
 * console.assert(log.join() === "close b,close a,failed");
 * await using _all = await connectAll(["a", "b"]);
 * ```
 */
export async function exitStack<T>(
  body: (stack: ExitStack) => T | PromiseLike<T>,
): Promise<T | undefined> {
  const exits: Exit[] = [];
  let over = false;
  const assertOpen = () => {
    if (over) throw new Error("Cannot use exit stack: its body has ended");
  };
  const push = (exit: Exit) => {
    callable("push to exit stack", "exit", exit);
    assertOpen();
    exits.push(exit);
  };
  const stack: ExitStack = {
    push,
    defer(fn) {
      callable("defer to exit stack", "fn", fn);
      push(async () => void (await fn()));
    },
    async enter(enterable) {
      const manager = toManager(enterable);
      // Pushed first, because the body may end before it is entered.
      push(async (failure) => (await entered) && manager.exit(failure));
      const entering = (async () => manager.enter())();
      const entered = entering.then(() => true).catch(() => false);
      return entering;
    },
    move() {
      assertOpen();
      const moved = exits.splice(0);
      return { [Symbol.asyncDispose]: () => unwind(moved) };
    },
  };
  let result: T | undefined;
  let failure: Failure | undefined;
  try {
    result = await body(stack);
  } catch (error) {
    failure = { error };
  }
  over = true;
  await unwind(exits, failure);
  return result;
}

async function unwind(exits: Exit[], failure?: Failure): Promise<void> {
  for (let exit = exits.pop(); exit; exit = exits.pop()) {
    try {
      if ((await exit(failure)) === true) failure = undefined;
    } catch (error) {
      failure = { error: failure ? join(error, failure.error) : error };
    }
  }
  if (failure) throw failure.error;
}

function join(error: unknown, old: unknown): unknown {
  if (carries(error, old)) return error;
  return new SuppressedError(error, old, "A cleanup failed after another error");
}

/** Whether the old error can be read from the new one. */
function carries(error: unknown, old: unknown, seen: Set<unknown> = new Set()): boolean {
  if (error === old) return true;
  if (seen.has(error)) return false;
  seen.add(error);
  const { cause, error: newer, suppressed, errors } = Object(error);
  return [cause, newer, suppressed, errors]
    .flat()
    .some((inner) => inner !== undefined && carries(inner, old, seen));
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
 * import { Pool } from "./context-managers.ts";
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
 * Makes something with a method `close` disposable. What `close` returns is awaited.
 *
 * Source of the idea: `contextlib.aclosing`. Async generators, which that is meant for, are
 * disposable by themselves.
 *
 * @throws {TypeError} `resource` has no method `close`
 * @throws whatever `close` throws, on disposal
 *
 * @example
 * ```ts
 * import { closing } from "./context-managers.ts";
 *
 * let closed = false;
 * {
 *   await using file = closing({ read: () => "text", close: async () => void (closed = true) });
 *   console.assert(file.value.read() === "text" && !closed);
 * }
 * console.assert(closed);
 * ```
 */
export function closing<T extends { close(): unknown }>(resource: T): Handle<T> {
  if (typeof resource?.close !== "function") {
    throw wrongKind("close", "resource", "an object with a method close", resource);
  }
  return createHandle(resource, () => resource.close());
}

/**
 * Runs `body` and returns what it returns, or undefined if it throws an instance of one of the
 * classes. It doesn't look into an AggregateError, which passes unless its own class is named.
 *
 * Source of the idea: `contextlib.suppress`.
 *
 * @throws {TypeError} one of `errorClasses` is not a class
 * @throws whatever else `body` throws
 *
 * @example
 * ```ts
 * import { suppress } from "./context-managers.ts";
 *
 * const number = await suppress(() => JSON.parse("{") as number, SyntaxError);
 * console.assert(number === undefined);
 * ```
 */
export async function suppress<T>(
  body: () => T | PromiseLike<T>,
  ...errorClasses: (abstract new (...args: never[]) => unknown)[]
): Promise<T | undefined> {
  for (const errorClass of errorClasses) callable("suppress errors", "errorClasses", errorClass);
  try {
    return await body();
  } catch (error) {
    if (errorClasses.some((errorClass) => error instanceof errorClass)) return undefined;
    throw error;
  }
}

/**
 * Shares one resource among all who use it at the same time: the first to come enters it, the last
 * to leave exits it, and whoever comes later waits for that exit and has it entered anew.
 *
 * If entering fails, all who wait for it get the error, and the next to come tries again. The exit
 * is not told of errors of single users; its own error goes to the last of them. When all have
 * aborted their wait, the resource is exited as soon as it has been entered, and there is nobody
 * left who could be told of an error.
 *
 * Source of the idea: `refCount` of Rx.
 *
 * @param open makes the manager, anew each time the resource is entered
 * @throws {TypeError} `open` is not a function
 * @throws the signal's reason, once it is aborted while waiting
 * @throws whatever `open`, entering or the exit throws
 *
 * @example
 * ```ts
 * import { contextManager, refCounted } from "./context-managers.ts";
 *
 * const log: string[] = [];
 * const openDatabase = contextManager(async function* () {
 *   log.push("open");
 *   yield "database";
 *   log.push("close");
 * });
 * const database = refCounted(openDatabase);
 *
 * const work = async () => {
 *   await using db = await database();
 *   log.push(db.value);
 * };
 * await Promise.all([work(), work()]);
 * console.assert(log.join() === "open,database,database,close");
 * ```
 */
export function refCounted<M extends Enterable>(
  open: () => M,
): (options?: WaitOptions) => Opening<Entered<M>> {
  callable("create refCounted", "open", open);
  let current: { users: number; entering: Promise<Handle<Entered<M>>> } | undefined;
  let exited: Promise<unknown> = Promise.resolve();

  async function enter(): Promise<Handle<Entered<M>>> {
    await exited;
    const manager = toManager(open());
    return createHandle(await manager.enter(), () => manager.exit());
  }

  return contextManager(async function* ({ signal }: WaitOptions = {}) {
    signal?.throwIfAborted();
    const session = (current ??= { users: 0, entering: enter() });
    const forget = () => {
      if (current === session) current = undefined;
    };
    session.users++;
    session.entering.catch(forget);
    const aborted = Promise.withResolvers<never>();
    const stopListening = onAbort(signal, aborted.reject);
    let handle: Handle<Entered<M>> | undefined;
    try {
      handle = await Promise.race([session.entering, aborted.promise]).finally(stopListening);
      yield handle.value;
    } finally {
      if (--session.users === 0) {
        forget();
        const exit = session.entering.then((entered) => entered[Symbol.asyncDispose]());
        exited = exit.catch(() => {});
        if (handle) await exit;
      }
    }
  });
}

function createHandle<T>(value: T, close: () => unknown): Handle<T> {
  let open = true;
  return {
    value,
    async [Symbol.asyncDispose]() {
      if (!open) return;
      open = false;
      await close();
    },
  };
}

function toManager<M extends Enterable>(enterable: M): ContextManager<Entered<M>> {
  const it = Object(enterable);
  if (it.enter && it.exit) return it;
  const dispose = it[Symbol.asyncDispose] ?? it[Symbol.dispose];
  if (!dispose) throw wrongKind("enter", "manager", "a context manager or disposable", enterable);
  return { enter: () => it, exit: async () => void (await dispose.call(it)) };
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

// ─── Demo: `bun concepts/context-managers.ts` ────────────────────────────────────────────────────

/** Three orders share two connections; one of them fails, and its transaction is rolled back. */
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
  const transaction = contextManager(async function* (lane: string) {
    log(lane, "waiting");
    using connection = await pool.acquire();
    log(lane, `running on ${connection.value}`);
    try {
      yield;
      log(lane, "done");
    } catch (error) {
      log(lane, "rolling back");
      await sleep(50);
      log(lane, `failed: ${error}`);
    }
  });
  const order = (n: number) =>
    withContext(transaction(`order ${n}`), async () => {
      await sleep(n * 100);
      if (n === 2) throw new Error("out of stock");
    });
  await Promise.all([1, 2, 3].map(order));
}

let start: number | undefined;

function print(lane: string, state: string): void {
  start ??= performance.now();
  const ms = Math.round(performance.now() - start);
  console.log(`+${String(ms).padStart(4)} ms  ${lane}  ${state}`);
}

if ((import.meta as { main?: boolean }).main) await demo();
