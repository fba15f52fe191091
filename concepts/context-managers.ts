// async-concepts 0.3.0, MIT License. A file to copy and own; please keep this line.

/**
 * # Context managers
 *
 * Keep the setup of a resource and its cleanup in one place, and be sure that the cleanup runs:
 * once, to its end, and knowing whether the work in between has failed.
 *
 * Reach for it when something must be given back whatever happens: a lock, a temporary folder, a
 * transaction ({@link contextManager}); several of them, of which any may fail ({@link exitStack});
 * or one that is shared while somebody needs it ({@link refCounted}).
 *
 * Without it every caller writes its own try/finally, and one forgets it; the third of four
 * cleanups throws, the fourth never runs, and the error that started it all is gone.
 *
 * Known elsewhere as: `asynccontextmanager`, `AsyncExitStack`, `aclosing` and `suppress` in Python's
 * contextlib; `defer` in Go; `refCount` in Rx. JavaScript's own `await using` and
 * `AsyncDisposableStack` do the same for cleanups that needn't know what went wrong.
 *
 * @module
 */

/** An error in a box, so that even `throw undefined` can be told from success. */
export interface Failure {
  readonly error: unknown;
}

/**
 * A cleanup. It is passed what has failed so far, if anything, and returns true to clear that. If
 * it throws, its error is joined with the failure, as {@link withContext} describes.
 */
export type Exit = (failure?: Failure) => boolean | void | PromiseLike<boolean | void>;

/** What is called `__aenter__` and `__aexit__` in Python. */
export interface ContextManager<T> {
  /** Sets up, and returns the value to work with. */
  enter(): T | PromiseLike<T>;
  /** Cleans up, once for each `enter` that has succeeded. */
  exit(failure?: Failure): ReturnType<Exit>;
}

/**
 * A value and its cleanup. Disposing it again doesn't clean up again: it waits for the first
 * disposal, which alone rejects if the cleanup fails.
 */
export interface Handle<T> extends AsyncDisposable {
  readonly value: T;
}

/** A manager for one use. Awaiting it enters it, and gives a handle for `await using`. */
export interface Opening<T> extends ContextManager<T>, PromiseLike<Handle<T>> {}

/** What can be entered: a manager, or any disposable, whose value is the disposable itself. */
export type Enterable = ContextManager<unknown> | AsyncDisposable | Disposable;

/** The value that entering `M` gives. */
export type Entered<M> = M extends ContextManager<infer T> ? T : M;

type Setup<A extends unknown[], T> = (...args: A) => AsyncGenerator<T, void, undefined>;

/**
 * Makes a context manager from an async generator that yields once: what stands before the `yield`
 * sets up, what stands after it cleans up. Each call of the result is for one use.
 *
 * In {@link withContext} and {@link exitStack} an error of the work is thrown at the `yield`. With
 * `await using` the generator resumes as if the work had succeeded: that can't commit or roll back.
 *
 * @throws {TypeError} `generator` is not a function; on entering: it returns no async generator
 * @throws {Error} on entering: the generator doesn't yield, or has been entered before; on exit: it
 *   yields again, and is closed
 *
 * @example
 * ```ts
 * import { contextManager } from "./context-managers.ts";
 *
 * const log: string[] = [];
 * const connect = contextManager(async function* (host: string, port = 5432) {
 *   log.push(`open ${host}:${port}`);
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
 * console.assert(log.join() === "open db:5432,select 1,close db");
 * ```
 */
export function contextManager<A extends unknown[], T>(
  // The union keeps `port = 1` a number, not unknown. Generic generators fall through.
  generator:
    (Setup<A, T> & (unknown extends A[number] ? never : unknown)) | ((...args: symbol[]) => never),
): (...args: A) => Opening<T>;
export function contextManager<A extends unknown[], T>(
  generator: Setup<A, T>,
): (...args: A) => Opening<T>;
export function contextManager(
  generator: (...args: any[]) => any,
): (...args: unknown[]) => Opening<unknown> {
  requireFunction("create context manager", "generator", generator);
  const name = generator.name || "context manager";
  return (...args) => {
    let steps: AsyncGenerator;
    const enter = async () => {
      steps = generator(...args);
      if (typeof steps?.next !== "function") {
        const what = "what its generator returns";
        throw invalid(`enter ${name}`, what, "an async generator", steps, TypeError);
      }
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
    return createOpening(name, enter, exit);
  };
}

/**
 * Enters the manager, runs `body` with its value, and exits it, passing it the error of `body`, if
 * any. The manager may clear the error, let it pass, or throw another one.
 *
 * If it throws another one, both can be read: an error that carries the body's, say as its `cause`,
 * takes its place; otherwise they are joined in a SuppressedError, as `await using` does. When a
 * cleanup fails, the result of `body` is dropped, and released if it is a hold (a permit, a lease).
 *
 * @param manager what a {@link contextManager} returned, not awaited; or any disposable
 * @returns what `body` returned, or undefined if its error was cleared
 * @throws {TypeError} `manager` can't be entered or disposed, or `body` is not a function
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
export function withContext<M extends Enterable, T>(
  manager: M,
  body: (value: Entered<M>) => T | PromiseLike<T>,
): Promise<T | undefined>;
export function withContext<M extends Enterable, R>(
  manager: M,
  body: (value: Entered<M>) => R,
): Promise<Awaited<R> | undefined>;
export async function withContext(manager: Enterable, body: (it: any) => unknown): Promise<any> {
  const context = toManager(manager);
  requireFunction("run withContext", "body", body);
  const value = await context.enter();
  return runBody(() => body(value), [(failure) => context.exit(failure)]);
}

/** Collects cleanups while the body of {@link exitStack} runs. Its methods need no `this`. */
export interface ExitStack {
  /** The number of cleanups on it. */
  readonly size: number;
  /** The number of managers that are being entered. */
  readonly entering: number;
  /** Enters a manager or disposable, returns its value, and exits it at the end. */
  enter<M extends Enterable>(manager: M): Promise<Entered<M>>;
  /** Calls `fn` at the end. What it returns is awaited, and otherwise ignored. */
  defer(fn: () => unknown): void;
  /** Calls `exit` at the end, with what has failed until then. */
  push(exit: Exit): void;
  /** Takes out all cleanups so far: they run when the handle is disposed instead of at the end. */
  move(): AsyncDisposable;
}

/**
 * Runs `body`, then the cleanups that it has put on the stack: last in, first out, one at a time,
 * all of them even if some fail. Each is passed what has failed before its turn, in the body or in
 * other cleanups, and can clear it. Errors are joined, and a dropped result is released, as
 * {@link withContext} does it.
 *
 * Managers that are still being entered when `body` ends are waited for. If entering one fails, the
 * promise that `enter` returned rejects. The stack throws the error as well where `body` can't have
 * handled it: that promise was never awaited; or `body` failed, and entering failed after that or at
 * the same time, as in `Promise.all`, which drops all errors but one.
 *
 * @returns what `body` returned, or undefined if its error was cleared
 * @throws {TypeError} `body` is not a function
 * @throws {Error} from the stack's methods, once `body` has ended
 * @throws whatever `body` or a cleanup throws
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
export function exitStack<T>(
  body: (stack: ExitStack) => T | PromiseLike<T>,
): Promise<T | undefined>;
export function exitStack<R>(body: (stack: ExitStack) => R): Promise<Awaited<R> | undefined>;
export async function exitStack(body: (stack: ExitStack) => unknown): Promise<any> {
  requireFunction("run exitStack", "body", body);
  const stack = new Exits();
  return runBody(() => body(stack), stack.exits, stack.end);
}

// Named for what console.log shows.
const Exits = class ExitStack {
  static {
    showMembers(this, "size", "entering");
  }

  readonly exits: Exit[] = [];
  entering = 0;
  #bodyFailure: Failure | undefined;
  #ended = false;
  /** The errors of all managers that are being entered at the same time. */
  #refusals: unknown[] = [];

  get size(): number {
    return this.exits.length;
  }

  readonly end = (failure: Failure | undefined): void => {
    this.#ended = true;
    this.#bodyFailure = failure;
  };

  #requireOpen(): void {
    if (this.#ended) throw new Error("Cannot use exit stack: its body has ended");
  }

  readonly push = (exit: Exit): void => {
    requireFunction("push to exit stack", "exit", exit);
    this.#requireOpen();
    this.exits.push(exit);
  };

  readonly defer = (fn: () => unknown): void => {
    requireFunction("defer to exit stack", "fn", fn);
    this.push(async () => void (await fn()));
  };

  readonly move = (): AsyncDisposable => {
    this.#requireOpen();
    const moved = this.exits.splice(0);
    const handle = createHandle(undefined, () => runBody(doNothing, moved));
    movedExits.set(handle, moved);
    return handle;
  };

  readonly enter = <M extends Enterable>(enterable: M): Promise<Entered<M>> => {
    if (this.#ended) return Promise.try(() => this.#requireOpen()) as Promise<never>;
    if (this.entering++ === 0) this.#refusals = [];
    const siblings = this.#refusals;
    let manager: ContextManager<Entered<M>>;
    // Pushed first, because the body may end before it is entered.
    this.push(async (failure) => {
      const refusal = await refused;
      if (!refusal) return manager.exit(failure);
      const told = new Set<unknown>();
      if (this.#bodyFailure) readInto(told, this.#bodyFailure.error);
      const isMissed = refusal.isLate || (failure && siblings.some((error) => told.has(error)));
      if ((this.#bodyFailure && isMissed) || !entered.isAwaited) throw refusal.error;
    });
    const entered = new Entering<Entered<M>>((resolve) => {
      manager = toManager(enterable);
      resolve(manager.enter());
    });
    const refused = entered.watch(
      () => void this.entering--,
      (error: unknown) => {
        this.entering--;
        siblings.push(error);
        return { error, isLate: this.#ended };
      },
    );
    return entered;
  };
};

/** A promise that knows whether anybody has asked for its outcome. */
class Entering<T> extends Promise<T> {
  isAwaited = false;
  readonly watch: Promise<T>["then"] = (...callbacks) => super.then(...callbacks);

  /** `await` calls it too, but only that of a subclass. */
  override then: Promise<T>["then"] = (...callbacks) => {
    this.isAwaited = true;
    return super.then(...callbacks);
  };
}

/** What a body has taken out of its stack. */
const movedExits = new WeakMap<object, Exit[]>();

/** Runs `body` and then the exits, and returns what `body` returned or throws what has failed. */
async function runBody<T>(
  body: () => T,
  exits: Exit[],
  onEnd?: (failure: Failure | undefined) => void,
): Promise<Awaited<T> | undefined> {
  let result: Awaited<T> | undefined;
  let failure: Failure | undefined;
  const known = new Set<unknown>();
  const fail = (error: unknown) => {
    failure = { error: failure ? joinErrors(failure.error, error, known) : error };
  };
  const unwind = async (exits: Exit[] = []) => {
    for (let exit; (exit = exits.pop());) {
      try {
        if ((await exit(failure)) !== true) continue;
        failure = undefined;
        known.clear();
      } catch (error) {
        fail(error);
      }
    }
  };

  try {
    result = await body();
  } catch (error) {
    fail(error);
  }
  onEnd?.(failure);
  await unwind(exits);
  if (!failure) return result;
  await unwind(movedExits.get(result as object));
  releaseHold(result);
  if (failure) throw failure.error;
  return undefined;
}

/** An error in which both can be read. `known` is what can be read from errors joined before. */
function joinErrors(older: unknown, newer: unknown, known: Set<unknown>): unknown {
  readInto(known, older);
  const isKnown = known.has(newer);
  if (readInto(known, newer).has(older)) return newer;
  if (isKnown) return older;
  const pair = new SuppressedError(newer, older, "A cleanup failed after another error");
  known.add(pair);
  return pair;
}

/** Adds to `known` all that can be read from an error, and returns what it looked at. */
function readInto(known: Set<unknown>, error: unknown): Set<unknown> {
  // The loop reaches what is added meanwhile.
  const found = new Set([error]);
  for (const it of found) {
    // The bound is for a proxy that makes up new errors for ever.
    if (known.has(it) || found.size > 2 ** 16) continue;
    known.add(it);
    for (const key of ["cause", "error", "suppressed", "errors"]) {
      try {
        const inner = Object(it)[key];
        for (const one of Array.isArray(inner) ? inner : [inner]) {
          if (one !== undefined) found.add(one);
        }
      } catch {
        // A getter that throws, or a revoked proxy: nothing can be read from it.
      }
    }
  }
  return found;
}

/**
 * Makes an object with a method `close` disposable. What `close` returns is awaited.
 *
 * @throws {TypeError} `resource` has no method `close`
 *
 * @example
 * ```ts
 * import { closing } from "./context-managers.ts";
 *
 * await using file = closing({ read: () => "text", close: async () => {} });
 * console.assert(file.value.read() === "text");
 * ```
 */
export function closing<T extends { close(): unknown }>(resource: T): Handle<T> {
  if (typeof resource?.close !== "function") {
    throw invalid("close", "resource", "an object with a method close", resource, TypeError);
  }
  return createHandle(resource, () => resource.close());
}

/**
 * Runs `body` and returns what it returns, or undefined if it throws an error that matches: an
 * instance of one of the classes, or one for which a predicate returns true. A SuppressedError is
 * suppressed if both its errors are; an AggregateError passes unless it matches itself.
 *
 * @param matches predicates, and classes of this realm; built-in ones stand for those of other
 *   realms as well. `function Gone() {}` is a class if it inherits from Error
 * @throws {TypeError} `body` is not a function, or one of `matches` is not
 * @throws whatever else `body` throws; joined with it, what a predicate throws
 *
 * @example
 * ```ts
 * import { suppress } from "./context-managers.ts";
 *
 * const number = await suppress(() => JSON.parse("{") as number, SyntaxError);
 * const isGone = (error: unknown) => (error as { code?: string }).code === "ENOENT";
 * await suppress(() => Promise.reject({ code: "ENOENT" }), isGone);
 * console.assert(number === undefined);
 * ```
 */
export function suppress<T>(
  body: () => T | PromiseLike<T>,
  ...matches: ErrorMatch[]
): Promise<T | undefined>;
export function suppress<R>(
  body: () => R,
  ...matches: ErrorMatch[]
): Promise<Awaited<R> | undefined>;
export async function suppress(body: () => unknown, ...matches: ErrorMatch[]): Promise<any> {
  requireFunction("suppress errors", "body", body);
  for (const match of matches) requireFunction("suppress errors", "matches", match);
  return runBody(body, [(failure) => failure !== undefined && isCovered(failure.error, matches)]);
}

/** A class of errors, or a function that says whether an error is meant. */
export type ErrorMatch = (abstract new (...args: never[]) => unknown) | ((error: any) => boolean);

/** Whether an error matches, or joins only errors that do. */
function isCovered(error: unknown, matches: ErrorMatch[]): boolean {
  // The loop reaches what is added meanwhile.
  const errors = new Set([error]);
  let isFound = false;
  for (const it of errors) {
    if (matches.some((match) => doesMatch(it, match))) isFound = true;
    else if (!doesMatch(it, SuppressedError)) return false;
    else {
      try {
        errors.add((it as SuppressedError).error).add((it as SuppressedError).suppressed);
      } catch {
        return false; // A getter that throws.
      }
    }
  }
  return isFound;
}

function doesMatch(value: unknown, match: ErrorMatch): boolean {
  if (!isClass(match)) return (match as (error: unknown) => boolean)(value) === true;
  try {
    if (value instanceof match) return true;
    // An object of another realm knows the built-in classes of that realm only.
    const { name } = match;
    if (value instanceof Object || Reflect.get(globalThis, name) !== match) return false;
    let it = Object(value) === value && Object.getPrototypeOf(value);
    while (it && it.constructor?.name !== name) it = Object.getPrototypeOf(it);
    return Boolean(it);
  } catch {
    return false; // A revoked proxy.
  }
}

/** The prototype of a class can't be replaced. */
function isClass(match: ErrorMatch): match is abstract new (...args: never[]) => unknown {
  const prototype = Object.getOwnPropertyDescriptor(match, "prototype");
  return prototype?.writable === false || prototype?.value instanceof Error;
}

/**
 * Shares one resource among all who use it at the same time: the first user enters it, the last one
 * to leave exits it. A user who comes during the exit waits for its end, and enters anew.
 *
 * If entering fails, all users who wait for it get the error, and the next one tries again. The
 * exit is not passed errors of single users; its own error goes to the last user. When all users
 * have aborted their wait, so is the signal that `open` was passed, with the last one's reason. If
 * the resource is entered all the same, it is exited at once. Errors are then dropped.
 *
 * @param open makes the manager, each time the resource is entered
 * @throws {TypeError} `open` is not a function
 * @throws the signal's reason, once it is aborted while waiting
 * @throws whatever `open`, entering or the exit throws
 *
 * @example
 * ```ts
 * import { contextManager, refCounted, withContext } from "./context-managers.ts";
 *
 * const log: string[] = [];
 * const open = contextManager(async function* () {
 *   log.push("open");
 *   yield "database";
 *   log.push("close");
 * });
 * const database = refCounted(open);
 *
 * await Promise.all([1, 2].map(() => withContext(database(), (db) => log.push(db))));
 * console.assert(log.join() === "open,database,database,close");
 * ```
 */
export function refCounted<M extends Enterable>(
  open: (signal: AbortSignal) => M,
): (options?: WaitOptions) => Opening<Entered<M>> {
  requireFunction("create refCounted", "open", open);
  let current: Session<Entered<M>> | undefined;
  let exited: Promise<unknown> | undefined;

  const start = () => {
    const controller = new AbortController();
    const { signal } = controller;
    const enter = async () => {
      await exited;
      signal.throwIfAborted();
      const opened = open(signal);
      const manager = toManager(opened);
      // All users may have aborted in `open`. A disposable is to be disposed even so.
      if (Object.is(manager, opened)) signal.throwIfAborted();
      return { manager, value: await manager.enter() };
    };
    const session = { users: 0, controller, entered: enter() };
    session.entered.catch(() => forget(session));
    return session;
  };
  const forget = (session: unknown) => {
    if (current === session) current = undefined;
  };
  const leave = async (session: Session<Entered<M>>) => {
    if (--session.users > 0) return;
    forget(session);
    const exit = session.entered.then(({ manager }) => manager.exit());
    exited = exit.catch(doNothing);
    await exit;
  };

  return (options) => {
    let session: Session<Entered<M>>;
    const enter = () =>
      new Promise<Entered<M>>((resolve, reject) => {
        requireOptions("enter refCounted", options);
        const signal = options?.signal;
        requireSignal("enter refCounted", signal);
        signal?.throwIfAborted();
        session = current ??= start();
        session.users++;
        let waits = true;
        const abort = () => {
          waits = false;
          leave(session).catch(doNothing);
          if (session.users === 0) session.controller.abort(signal!.reason);
          reject(signal!.reason);
        };
        const stopListening = onAbort(signal, abort);
        session.entered.then(
          ({ value }) => {
            stopListening();
            if (waits && signal?.aborted) abort();
            else resolve(value);
          },
          (error) => {
            stopListening();
            reject(signal?.aborted ? signal.reason : error);
          },
        );
      });
    return createOpening("refCounted", enter, () => leave(session));
  };
}

/** What users share until the last one leaves. */
interface Session<T> {
  users: number;
  readonly controller: AbortController;
  readonly entered: Promise<{ manager: ContextManager<T>; value: T }>;
}

/** A manager for a single use. Hands over at once, because an abort could come in between. */
function createOpening<T>(name: string, enter: () => Promise<T>, exit: Exit): Opening<T> {
  let entered = false;
  const enterOnce = () => {
    const again = `Cannot enter ${name}: this opening has been entered before`;
    if (entered) return Promise.reject(new Error(again));
    entered = true;
    return enter();
  };
  const then: Opening<T>["then"] = (onEntered, onFailed) =>
    enterOnce().then((value) => {
      const handle = createHandle(value, exit);
      return onEntered ? onEntered(handle) : (handle as any);
    }, onFailed);
  return { enter: enterOnce, exit, then };
}

function createHandle<T>(value: T, close: () => unknown): Handle<T> {
  let closing: Promise<unknown> | undefined;
  return {
    value,
    async [Symbol.asyncDispose]() {
      if (closing) await closing.catch(doNothing);
      else await (closing = Promise.try(close));
    },
  };
}

function toManager<M extends Enterable>(enterable: M): ContextManager<Entered<M>> {
  const it = Object(enterable);
  if (typeof it.enter === "function" && typeof it.exit === "function") return it;
  const dispose = it[Symbol.asyncDispose] ?? it[Symbol.dispose];
  if (typeof dispose !== "function") {
    throw invalid("enter", "manager", "a context manager or disposable", enterable, TypeError);
  }
  return { enter: () => it, exit: async () => void (await dispose.call(it)) };
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

// ─── Demo: `bun concepts/context-managers.ts` ────────────────────────────────────────────────────

/** Three orders share a connection; one of them fails, and its transaction is rolled back. */
export async function demo(log: (lane: string, state: string) => void = print): Promise<void> {
  const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
  const connect = refCounted(
    contextManager(async function* () {
      log("connection", "opening");
      await sleep(50);
      log("connection", "open");
      yield;
      log("connection", "closed");
    }),
  );
  const transaction = contextManager(async function* (lane: string) {
    log(lane, "waiting");
    await using _connection = await connect();
    log(lane, "running");
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

if ((import.meta as { main?: boolean }).main) void demo();
