/**
 * # Mocks
 *
 * Functions that stand in for asynchronous ones in a test: they answer what the test tells them,
 * when it tells them, and record both who called them and who awaited them.
 *
 * Reach for it to test code that calls a network, a database or a clock: how it takes an error, a
 * slow answer, no answer at all, or two answers in the wrong order.
 *
 * Without it a forgotten `await` goes unnoticed, because an ordinary mock sees the call and not
 * whether anybody waits for it; and a race is tested by sleeping and hoping.
 *
 * Known elsewhere as: `unittest.mock.AsyncMock` in Python, whose names the assertions follow;
 * `jest.fn().mockResolvedValue`; Kotlin's `CompletableDeferred` in the hands of a test.
 *
 * @module
 */

type AnyFunction = (...args: any[]) => any;

/** What the promise of a function brings. */
export type Result<F extends AnyFunction> = Awaited<ReturnType<F>>;

/** What every wait can be told. */
export interface WaitOptions {
  /** Ends the wait: it rejects with the signal's reason. */
  signal?: AbortSignal | undefined;
}

/** One call of a mock. */
export interface MockCall<F extends AnyFunction> {
  /** What it was called with: the very objects, not copies of them. */
  readonly args: Parameters<F>;
  /** Whether anybody has awaited it; known a microtask after the `await`. */
  readonly awaited: boolean;
  /** Whether it has been resolved or rejected. */
  readonly settled: boolean;
  /**
   * Resolves it by hand.
   *
   * @throws {Error} it is settled already
   */
  resolve(value: Result<F>): void;
  /**
   * Rejects it by hand.
   *
   * @throws {Error} it is settled already
   */
  reject(reason: unknown): void;
}

/**
 * A function that does as it is told, and records it. What it is told replaces what it was told
 * before, and holds for the calls to come.
 *
 * The assertions throw an AssertionError that lists all calls. They compare arrays, plain objects
 * and dates by content, everything else by `Object.is`; for finer comparisons take your test
 * runner's `expect` and `calls`. No assertion asks whether there was merely a call: it would let a
 * forgotten `await` pass.
 */
export interface AsyncMock<F extends AnyFunction> {
  (...args: Parameters<F>): Promise<Result<F>>;

  /** All calls, in the order in which they were made. */
  readonly calls: readonly MockCall<F>[];
  /** The calls that were awaited, in the order in which they first were. */
  readonly awaits: readonly MockCall<F>[];
  /** How many calls are not settled. */
  readonly open: number;
  /**
   * Waits until the `n`th call has been made, and returns it.
   *
   * @param n counts from 1
   * @throws {TypeError} `n` is not a number
   * @throws {RangeError} `n` is not a positive integer
   * @throws the signal's reason, once it is aborted
   */
  nthCall(n: number, options?: WaitOptions): Promise<MockCall<F>>;
  /** Forgets all calls and awaits. Behaviour stays, and so do calls that are open. */
  reset(): AsyncMock<F>;

  /** Every call resolves to the value. */
  resolves(value: Result<F>): AsyncMock<F>;
  /** Every call rejects with the reason. */
  rejects(reason: unknown): AsyncMock<F>;
  /** One outcome per call: an Error rejects, anything else resolves. One call more rejects. */
  sequence(...outcomes: (Result<F> | Error)[]): AsyncMock<F>;
  /** Every call stays open until it is settled by hand, or its {@link asyncMock signal} aborts. */
  hangs(): AsyncMock<F>;
  /**
   * Every call waits before it does what else it was told, unless its {@link asyncMock signal}
   * aborts. It goes with any behaviour; `delays(0)` ends it.
   *
   * @param ms milliseconds, from 0 to what a timer can hold: 2^31-1
   * @throws {TypeError} `ms` is not a number
   * @throws {RangeError} `ms` is out of range
   */
  delays(ms: number): AsyncMock<F>;

  /** At least one call was awaited. */
  assertAwaited(): void;
  /** Exactly one call was awaited. */
  assertAwaitedOnce(): void;
  /** The last await was of a call with these arguments. */
  assertAwaitedWith(...args: Parameters<F>): void;
  /** Exactly one call was awaited, and had these arguments. */
  assertAwaitedOnceWith(...args: Parameters<F>): void;
  /** Some await was of a call with these arguments. */
  assertAnyAwait(...args: Parameters<F>): void;
  /** There were awaits of calls with these arguments, in this order, with no other in between. */
  assertHasAwaits(expected: Parameters<F>[]): void;
  /** No call was awaited. There may have been calls. */
  assertNotAwaited(): void;
  /** No call was forgotten: each was awaited. */
  assertAllAwaited(): void;
}

/**
 * A mock that calls `impl`, or resolves to undefined, until it is told otherwise. It always returns
 * a promise.
 *
 * A call is awaited, once, when something first asks its promise for the outcome: `await`, `then`,
 * `catch`, `finally`, `Promise.all`, `return` from an async function. The `resolves` and `rejects`
 * of bun:test's `expect` look into the promise without asking, and go unseen. A rejection that
 * nobody awaits does not end the process; `assertAllAwaited` finds the call.
 *
 * A call that hangs or is delayed rejects with the reason of its signal once that is aborted. Its
 * signal is the first argument that is an AbortSignal or has one as its `signal`.
 *
 * Source of the idea: Python's `AsyncMock`.
 *
 * @param impl what to do; it is called at once, as the body of an async function is
 * @throws {TypeError} `impl` is not a function
 *
 * @example Fail once, and find the forgotten await
 * ```ts
 * import { asyncMock } from "./mocks.ts";
 *
 * const save = asyncMock<(name: string) => Promise<void>>().sequence(new Error("busy"), undefined);
 *
 * async function saveTwice(name: string): Promise<void> {
 *   await save(name).catch(() => {});
 *   save(name); // forgot to await
 * }
 *
 * await saveTwice("ada");
 * save.assertAwaitedOnceWith("ada");
 * let message = "";
 * try {
 *   save.assertAllAwaited();
 * } catch (error) {
 *   message = String(error);
 * }
 * console.assert(message.includes('call 2 ("ada") was never awaited'));
 * ```
 */
export function asyncMock<F extends AnyFunction = AnyFunction>(impl?: F): AsyncMock<F> {
  if (impl !== undefined && typeof impl !== "function") {
    throw new TypeError(`Cannot create asyncMock: impl must be a function, received ${impl}`);
  }
  let log = new Log<F>();
  let behaviour: Behaviour<F> = (args) => () => impl?.(...args);
  let delay = 0;
  const onCall = new Set<(call: Call<F>) => void>();

  const invoke = (...args: Parameters<F>) => {
    const call = new Call(log, args);
    call.start(delay, behaviour(args));
    for (const listener of onCall) listener(call);
    return call.promise;
  };
  const behave = (next: Behaviour<F>) => {
    behaviour = next;
    return mock;
  };
  const assert = (holds: boolean, expected: string, args: unknown[][] = []) => {
    if (holds) return;
    throw new AssertionError(`Expected ${[expected, ...args.map(showArgs)].join(" ")}, but ${log}`);
  };

  // `Pick` leaves out the call signature.
  const members: Pick<AsyncMock<F>, keyof AsyncMock<F>> = {
    get calls() {
      return log.calls;
    },
    get awaits() {
      return log.awaits;
    },
    get open() {
      return log.open;
    },
    async nthCall(n, { signal } = {}) {
      if (!(Number.isInteger(n) && n > 0)) {
        throw invalid("wait for a call", "n", "a positive integer", n);
      }
      signal?.throwIfAborted();
      const made = log.calls[n - 1];
      if (made) return made;
      const { promise, resolve, reject } = Promise.withResolvers<MockCall<F>>();
      const listener = (call: Call<F>) => {
        if (call.number === n) resolve(call);
      };
      onCall.add(listener);
      const stopListening = onAbort(signal, reject);
      try {
        return await promise;
      } finally {
        onCall.delete(listener);
        stopListening();
      }
    },
    reset() {
      log = new Log();
      return mock;
    },

    resolves: (value) => behave(() => () => value),
    rejects: (reason) => behave(() => () => Promise.reject(reason)),
    sequence(...outcomes) {
      const size = outcomes.length;
      let n = 0;
      return behave(() => {
        const ranOut = () =>
          new Error(`asyncMock ran out: call ${n}, but the sequence ends after ${size}`);
        const outcome = ++n > size ? ranOut() : outcomes[n - 1];
        return () => (outcome instanceof Error ? Promise.reject(outcome) : outcome);
      });
    },
    hangs: () => behave(() => undefined),
    delays(ms) {
      if (!(typeof ms === "number" && ms >= 0 && ms < 2 ** 31)) {
        throw invalid("delay asyncMock", "ms", "a number from 0 to 2147483647", ms);
      }
      delay = ms;
      return mock;
    },

    assertAwaited: () => assert(log.awaits.length > 0, "an await"),
    assertAwaitedOnce: () => assert(log.awaits.length === 1, "exactly one await"),
    assertAwaitedWith: (...args) =>
      assert(equal(log.awaits.at(-1)?.args, args), "the last await to be of", [args]),
    assertAwaitedOnceWith(...args) {
      mock.assertAwaitedOnce();
      mock.assertAwaitedWith(...args);
    },
    assertAnyAwait: (...args) => mock.assertHasAwaits([args]),
    assertHasAwaits(expected) {
      const startsAt = (start: number) =>
        expected.every((args, i) => equal(log.awaits[start + i]?.args, args));
      assert(
        log.awaits.some((_, i) => startsAt(i)),
        "awaits of",
        expected,
      );
    },
    assertNotAwaited: () => assert(log.awaits.length === 0, "no await"),
    assertAllAwaited: () =>
      assert(log.awaits.length === log.calls.length, "an await of every call"),
  };
  const mock: AsyncMock<F> = Object.defineProperties(
    invoke as AsyncMock<F>,
    Object.getOwnPropertyDescriptors(members),
  );
  return mock;
}

/**
 * A mock whose every call stays open until the test settles it, in any order: the answers to
 * overlapping calls come in exactly the order that the test is about.
 *
 * It is `asyncMock().hangs()`: a call whose signal is aborted rejects with the signal's reason.
 *
 * Source of the idea: the deferred; Kotlin's tests use a `CompletableDeferred` in the same way.
 *
 * @example The answer to the first question comes last
 * ```ts
 * import { controlled } from "./mocks.ts";
 *
 * const search = controlled<(text: string) => Promise<string>>();
 * let screen = "";
 * const show = async (text: string) => void (screen = await search(text));
 *
 * const shown = [show("a"), show("ab")];
 * (await search.nthCall(2)).resolve("results for ab");
 * (await search.nthCall(1)).resolve("results for a");
 * await Promise.all(shown);
 * console.assert(screen === "results for a"); // the user asked for ab last: a bug is found
 * ```
 */
export function controlled<F extends AnyFunction = AnyFunction>(): AsyncMock<F> {
  return asyncMock<F>().hangs();
}

/** Decides, when a call is made, what it does after its delay; undefined: it hangs. */
type Behaviour<F extends AnyFunction> = (args: Parameters<F>) => (() => unknown) | undefined;

/** What happened since the last reset. */
class Log<F extends AnyFunction> {
  readonly calls: Call<F>[] = [];
  readonly awaits: Call<F>[] = [];
  open = 0;

  toString(): string {
    if (this.calls.length === 0) return "it was never called";
    const lines = this.calls.map(
      (call) => `  ${call} was ${call.awaited ? "awaited" : "never awaited"}`,
    );
    return `these are the calls:\n${lines.join("\n")}`;
  }
}

class Call<F extends AnyFunction> implements MockCall<F> {
  readonly args: Parameters<F>;
  readonly number: number;
  readonly promise: Promise<Result<F>>;
  awaited = false;
  settled = false;
  readonly #log: Log<F>;
  #settlers!: [resolve: (value: Result<F>) => void, reject: (reason: unknown) => void];
  #stopWaiting = () => {};

  constructor(log: Log<F>, args: Parameters<F>) {
    this.args = args;
    this.number = log.calls.push(this);
    this.promise = new ObservedPromise<Result<F>>(
      (...settlers) => void (this.#settlers = settlers),
      () => {
        if (!this.awaited) log.awaits.push(this);
        this.awaited = true;
      },
    );
    this.#log = log;
    log.open++;
  }

  resolve(value: Result<F>): void {
    this.#close("resolve");
    this.#settlers[0](value);
  }

  reject(reason: unknown): void {
    this.#close("reject");
    this.#settlers[1](reason);
  }

  /** Performs after the delay, unless it is settled before, by hand or by an abort. */
  start(delay: number, perform: (() => unknown) | undefined): void {
    if (perform && delay === 0) return this.#perform(perform);
    const signal = findSignal(this.args);
    if (signal?.aborted) return this.reject(signal.reason);
    const stopListening = onAbort(signal, (reason) => this.reject(reason));
    const wake = (act: () => unknown) => {
      this.#stopWaiting();
      this.#perform(act);
    };
    const timer = perform && setTimeout(wake, delay, perform);
    this.#stopWaiting = () => {
      stopListening();
      clearTimeout(timer);
      this.#stopWaiting = () => {};
    };
  }

  toString(): string {
    return `call ${this.number} ${showArgs(this.args)}`;
  }

  #perform(perform: () => unknown): void {
    Promise.try(perform).then(
      (value) => this.settled || this.resolve(value as Result<F>),
      (error) => this.settled || this.reject(error),
    );
  }

  #close(action: string): void {
    if (this.settled) throw new Error(`Cannot ${action} ${this}: it is settled already`);
    this.settled = true;
    this.#log.open--;
    this.#stopWaiting();
  }
}

/** Tells when it is asked for its outcome. Only of a subclass does `await` call the `then`. */
class ObservedPromise<T> extends Promise<T> {
  readonly #onThen: () => void;

  static override get [Symbol.species](): PromiseConstructor {
    return Promise;
  }

  constructor(executor: ConstructorParameters<typeof Promise<T>>[0], onThen: () => void) {
    super(executor);
    this.#onThen = onThen;
    // A rejection that nobody asks for is a finding for the test, and must not end the process.
    super.then(undefined, () => {});
  }

  override then<A = T, B = never>(
    onFulfilled?: ((value: T) => A | PromiseLike<A>) | null,
    onRejected?: ((reason: any) => B | PromiseLike<B>) | null,
  ): Promise<A | B> {
    this.#onThen();
    return super.then(onFulfilled, onRejected);
  }
}

class AssertionError extends Error {
  override readonly name = "AssertionError";
}

function findSignal(args: unknown[]): AbortSignal | undefined {
  return args
    .flatMap((arg) => [arg, (arg as { signal?: unknown } | null | undefined)?.signal])
    .find((candidate) => candidate instanceof AbortSignal);
}

function equal(a: unknown, b: unknown): boolean {
  if (Object.is(a, b)) return true;
  if (a instanceof Date && b instanceof Date) return Object.is(a.getTime(), b.getTime());
  if (!isPlain(a) || !isPlain(b) || Array.isArray(a) !== Array.isArray(b)) return false;
  const keys = Object.keys(a);
  return (
    keys.length === Object.keys(b).length &&
    keys.every((key) => Object.hasOwn(b, key) && equal(a[key], b[key]))
  );
}

function isPlain(value: unknown): value is Record<string, unknown> {
  if (typeof value !== "object" || value === null) return false;
  const prototype = Object.getPrototypeOf(value);
  return Array.isArray(value) || prototype === Object.prototype || prototype === null;
}

function showArgs(args: unknown[]): string {
  return `(${args.map((arg) => show(arg)).join(", ")})`;
}

function show(value: unknown, parents: unknown[] = []): string {
  if (typeof value === "string") return JSON.stringify(value);
  if (typeof value === "function") return `[function ${value.name}]`;
  if (!isPlain(value)) return String(value);
  if (parents.includes(value)) return "[circular]";
  const within = [...parents, value];
  if (Array.isArray(value)) return `[${value.map((item) => show(item, within)).join(", ")}]`;
  const entries = Object.entries(value).map(([key, item]) => `${key}: ${show(item, within)}`);
  return `{ ${entries.join(", ")} }`;
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

function invalid(action: string, name: string, expected: string, value: unknown): Error {
  const Kind = typeof value === "number" ? RangeError : TypeError;
  return new Kind(`Cannot ${action}: ${name} must be ${expected}, received ${String(value)}`);
}

// ─── Demo: `bun concepts/mocks.ts` ───────────────────────────────────────────────────────────────

/** The answer to an old search comes last; then somebody forgets to wait for a save. */
export async function demo(log: (lane: string, state: string) => void = print): Promise<void> {
  const search = controlled<(text: string) => Promise<string>>();
  const show = async (text: string) => {
    log(`search ${text}`, "waiting");
    log("screen", await search(text));
    log(`search ${text}`, "done");
  };
  const shown = [show("a"), show("ab")];
  (await search.nthCall(2)).resolve("results for ab");
  (await search.nthCall(1)).resolve("results for a");
  await Promise.all(shown);

  const save = asyncMock<(text: string) => Promise<void>>().delays(100);
  log("save a", "running");
  await save("a");
  log("save a", "done");
  save.delays(0).rejects(new Error("disk full"));
  log("save ab", "running");
  void save("ab");
  try {
    save.assertAllAwaited();
  } catch {
    log("save ab", "failed, and nobody awaited it");
  }
}

let start: number | undefined;

function print(lane: string, state: string): void {
  start ??= performance.now();
  const ms = Math.round(performance.now() - start);
  console.log(`+${String(ms).padStart(4)} ms  ${lane}  ${state}`);
}

if ((import.meta as { main?: boolean }).main) await demo();
