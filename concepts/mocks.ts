// async-concepts 0.2.0, MIT License. A file to copy and own; please keep this line.

/**
 * # Mocks
 *
 * Stand-ins for asynchronous functions in a test. A mock answers what the test tells it, when the
 * test tells it, and records who called it and who awaited the call.
 *
 * Reach for it to test code that calls a network, a database or a clock: how the code takes an
 * error, a slow answer, no answer at all, or two answers in the wrong order.
 *
 * Without it a forgotten `await` goes unnoticed, because an ordinary mock records the call and not
 * whether anything waits for it; and a race is tested by sleeping and hoping.
 *
 * Known elsewhere as: `unittest.mock.AsyncMock` in Python, whose names the assertions follow;
 * `jest.fn().mockResolvedValue`; Kotlin's `CompletableDeferred` in a test.
 *
 * | Jest, Vitest, bun:test                        | here                                  |
 * | --------------------------------------------- | ------------------------------------- |
 * | `fn(impl)`, `mockImplementation(impl)`        | `asyncMock(impl)`, `runs(impl)`       |
 * | `mockResolvedValue(value)`                    | `resolves(value)`                     |
 * | `mockRejectedValue(reason)`                   | `rejects(reason)`                     |
 * | `mockResolvedValueOnce`, `…RejectedValueOnce` | `resolvesOnce`, `rejectsOnce`         |
 * | `mockImplementationOnce(impl)`                | `runsOnce(impl)`                      |
 * | `mock.calls[0]`, `mock.contexts[0]`           | `calls[0].args`, `calls[0].thisValue` |
 * | `mock.settledResults[0]`                      | `calls[0].result`                     |
 * | `toHaveBeenCalledTimes(1)`                    | `assertAwaitedOnce()`                 |
 * | `toHaveBeenCalledWith(…)`                     | `assertAnyAwait(…)`                   |
 * | `toHaveBeenLastCalledWith(…)`                 | `assertAwaitedWith(…)`                |
 * | `mockName(name)`                              | `asyncMock(impl, { name })`           |
 * | `mockClear()`                                 | `reset()`                             |
 * | `mockReset()`                                 | none: make a new mock for each test   |
 * | `spyOn(object, "method")`, `mockRestore()`    | `using spy = spyOn(object, "method")` |
 *
 * | Python's AsyncMock                            | here                                  |
 * | --------------------------------------------- | ------------------------------------- |
 * | `side_effect=function`, `wraps=function`      | `asyncMock(impl)`                     |
 * | `side_effect=[…]`                             | `sequence(…)`                         |
 * | `return_value=value`                          | `resolves(value)`                     |
 * | `await_count`, `await_args_list`              | `awaits.length`, `awaits`             |
 * | `assert_awaited…`, `assert_has_awaits`        | `assertAwaited…`, `assertHasAwaits`   |
 * | `reset_mock()`                                | `reset()`                             |
 * | `with patch.object(object, "method")`         | `using spy = spyOn(object, "method")` |
 *
 * @module
 */

type AnyFunction = (...args: any[]) => any;
type AsyncFunction = (...args: any[]) => Promise<any>;

/** What a function's promise resolves to. */
export type Result<F extends AnyFunction> = Awaited<ReturnType<F>>;

/** What can stand in for a function: the same arguments, and the result or a promise of it. */
export type Implementation<F extends AnyFunction> = (
  this: ThisParameterType<F>,
  ...args: Parameters<F>
) => Result<F> | PromiseLike<Result<F>>;

/** The names of an object's asynchronous methods. */
export type AsyncMethod<T> = {
  [K in keyof T]-?: NonNullable<T[K]> extends (...args: any) => infer R
    ? Promise<Awaited<R>> extends R
      ? K
      : never
    : never;
}[keyof T];

/** What a mock is made with. */
export interface MockOptions {
  /** The mock's `name`, which its messages contain. Default: the name of what it mocks. */
  name?: string | undefined;
  /**
   * Decides whether two values are equal that the assertions would otherwise compare with
   * `Object.is`: instances of classes, functions, primitives. It is not asked if they are the same.
   */
  equals?: ((received: any, expected: any) => boolean) | undefined;
}

/** One call of a mock. */
export interface MockCall<F extends AnyFunction> {
  /** What it was called with: the objects themselves, not copies. */
  readonly args: Parameters<F>;
  /** The `this` of the call. */
  readonly thisValue: ThisParameterType<F>;
  /** Whether anything has awaited it. */
  readonly awaited: boolean;
  /** Whether it has been resolved or rejected. */
  readonly settled: boolean;
  /** The outcome; undefined until it is settled. */
  readonly result: PromiseSettledResult<Result<F>> | undefined;
  /**
   * Resolves it by hand; with a promise, as soon as that is resolved.
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
 * A function of type `F` that does what it is told, and records it.
 *
 * @see {@link MockControls} for what it can be told and asked
 */
export type AsyncMock<F extends AnyFunction> = F & MockControls<F>;

/**
 * What a mock can be told and asked.
 *
 * What it is told replaces what it was told before, and holds for all later calls. The methods that
 * end in `Once` tell it what to do in one call each, in that order, before all others.
 *
 * The assertions throw an AssertionError that lists all calls. They compare arrays, plain objects,
 * Map, Set, Date, RegExp, URL, URLSearchParams, Headers, FormData, bytes and Error by content, and
 * everything else by `Object.is` or the mock's own `equals`. An expected value with a method
 * `asymmetricMatch`, such as Vitest's `expect.any(String)`, decides for itself; those of bun:test
 * don't have that method and are equal to nothing. There are no assertions about mere calls: they
 * would let a forgotten `await` pass.
 */
export interface MockControls<F extends AnyFunction> {
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
  reset(): this;

  /** Every call resolves to the value. */
  resolves(value: Result<F>): this;
  /** Every call rejects with the reason. */
  rejects(reason: unknown): this;
  /**
   * Every call calls `impl`.
   *
   * @throws {TypeError} `impl` is not a function
   */
  runs(impl: Implementation<F>): this;
  /**
   * One outcome for each call: an Error rejects, anything else resolves. When the outcomes have run
   * out, calls reject with an Error that says so.
   */
  sequence(...outcomes: (Result<F> | Error)[]): this;
  /** Every call stays open until it is settled by hand, or its {@link asyncMock signal} aborts. */
  hangs(): this;
  /**
   * Every call waits before it does what it was told, unless its {@link asyncMock signal} aborts.
   * It goes with any behaviour; `delays(0)` ends it.
   *
   * @param ms milliseconds, as many as you like; with Infinity only the signal ends the wait
   * @throws {TypeError} `ms` is not a number
   * @throws {RangeError} `ms` is negative or NaN
   */
  delays(ms: number): this;

  /** One call resolves to the value. */
  resolvesOnce(value: Result<F>): this;
  /** One call rejects with the reason. */
  rejectsOnce(reason: unknown): this;
  /**
   * One call calls `impl`.
   *
   * @throws {TypeError} `impl` is not a function
   */
  runsOnce(impl: Implementation<F>): this;
  /** One call stays open, as with {@link MockControls.hangs hangs}. */
  hangsOnce(): this;
  /**
   * One call waits so long, and then does what every call does.
   *
   * @param ms milliseconds, as for {@link MockControls.delays delays}
   * @throws {TypeError} `ms` is not a number
   * @throws {RangeError} `ms` is negative or NaN
   */
  delaysOnce(ms: number): this;

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
  /**
   * There were awaits of calls with these arguments, one directly after the other. With `anyOrder`
   * they may have come in any order, and others between them.
   *
   * @throws {TypeError} `expected` is not an array of arrays
   */
  assertHasAwaits(expected: Parameters<F>[], options?: { anyOrder?: boolean | undefined }): void;
  /** No call was awaited. There may have been calls. */
  assertNotAwaited(): void;
  /** Each call was awaited: none was forgotten. */
  assertAllAwaited(): void;
}

/**
 * A mock that calls `impl`, or resolves to undefined, until it is told otherwise. It always returns
 * a promise. The `this` of the call reaches `impl`. Properties of `impl` (as Bun's `fetch` has
 * `preconnect`) are copied to the mock.
 *
 * A call counts as awaited, once, from the moment something asks its promise for the outcome:
 * `await`, `then`, `catch`, `finally`, `Promise.all`, `return` from an async function, the
 * `resolves` and `rejects` of `expect`. (Reading the promise's `constructor` counts as well.)
 *
 * A mock that is passed on as a handler counts as awaited if its caller awaits the promise:
 * `util.callbackify` and streams do, `setTimeout` and an EventEmitter don't. An EventTarget watches
 * for a rejection on Bun and Node, which counts, and not on Deno. Limitation: Bun's native code can
 * read a promise without asking. The awaits of `Bun.serve` and of a test function that is itself a
 * mock are never seen, those of bun:test's `expect` only as long as the promise is pending.
 *
 * A rejection that nobody awaits does not end the process; `assertAllAwaited` finds the call.
 *
 * A call that hangs or is delayed rejects with the reason of its signal once that is aborted. Its
 * signal is the first argument that is an AbortSignal or has one as its `signal`.
 *
 * Source of the idea: Python's `AsyncMock`.
 *
 * @param impl what to do; it is called at once, as the body of an async function is
 * @throws {TypeError} `impl` or `equals` is not a function, or `name` not a string
 *
 * @example Fail once, and find the forgotten await
 * ```ts
 * import { asyncMock } from "./mocks.ts";
 *
 * const save = asyncMock<(name: string) => Promise<void>>().rejectsOnce(new Error("busy"));
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
export function asyncMock<F extends AsyncFunction = AsyncFunction>(
  impl?: F,
  options?: MockOptions,
): AsyncMock<F>;
export function asyncMock<This, Args extends any[], R>(
  impl: (this: This, ...args: Args) => R,
  options?: MockOptions,
): AsyncMock<(this: This, ...args: Args) => Promise<Awaited<R>>>;
export function asyncMock<F extends AnyFunction>(
  impl?: Implementation<F>,
  options?: MockOptions,
): AsyncMock<F>;
export function asyncMock(impl?: AnyFunction, options?: MockOptions): AsyncMock<AnyFunction> {
  if (impl !== undefined) requireFunction("create asyncMock", "impl", impl);
  return new Mock("create asyncMock", impl, options) as unknown as AsyncMock<AnyFunction>;
}

/**
 * Replaces an object's method with a mock, which calls that method until it is told otherwise. When
 * the mock is disposed, it puts the method back: with `using` at the end of the block, even if the
 * test fails; otherwise call `spy[Symbol.dispose]()`. Disposing it twice does nothing.
 *
 * The method must be asynchronous, because a mock always returns a promise.
 *
 * Source of the idea: Python's `patch.object`.
 *
 * @throws {TypeError} `object` is not an object, has no such method, or the method is read-only
 *
 * @example A network that fails once
 * ```ts
 * import { spyOn } from "./mocks.ts";
 *
 * const users = { find: async (id: number) => `user ${id}` };
 * {
 *   using find = spyOn(users, "find").rejectsOnce(new Error("unreachable"));
 *   console.assert((await users.find(1).catch(() => "nobody")) === "nobody");
 *   console.assert((await users.find(1)) === "user 1");
 *   console.assert(find.awaits.length === 2);
 * }
 * ```
 */
export function spyOn<T extends object, K extends AsyncMethod<T>>(
  object: T,
  method: K,
  options?: MockOptions,
): Spy<Extract<NonNullable<T[K]>, AnyFunction>> {
  return new SpyMock(object, method, options) as unknown as Spy<any>;
}

/** A {@link spyOn spy}: a mock that puts the method back when it is disposed. */
export type Spy<F extends AnyFunction> = AsyncMock<F> & Disposable;

/**
 * A mock whose every call stays open until the test settles it, in any order: the answers to
 * overlapping calls come in exactly the order that the test is about.
 *
 * It is `asyncMock().hangs()`: a call whose signal is aborted rejects with the signal's reason.
 *
 * Source of the idea: the deferred; Kotlin's tests use a `CompletableDeferred` in the same way.
 *
 * @throws {TypeError} `equals` is not a function, or `name` not a string
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
export function controlled<F extends AnyFunction = AsyncFunction>(
  options?: MockOptions,
): AsyncMock<F> {
  const mock = new Mock("create controlled", undefined, options);
  return mock.hangs() as unknown as AsyncMock<F>;
}

/** What a call does after its delay; undefined: it hangs. */
type Action = ((...args: any[]) => unknown) | undefined;

/** A function with the methods of a class. */
class Callable {
  constructor(fn: AnyFunction) {
    return Object.setPrototypeOf(fn, new.target.prototype);
  }

  static {
    Object.setPrototypeOf(Callable.prototype, Function.prototype);
  }
}

class Mock extends Callable {
  readonly #name: string;
  readonly #equals: MockOptions["equals"];
  #log: Log;
  /** What a call is to do, decided when it is made. */
  #decide: () => Action;
  #delay = 0;
  #once: { decide?: () => Action; delay?: number }[] = [];
  readonly #arrivals = new Map<number, Set<Arrival>>();

  constructor(action: string, impl: AnyFunction | undefined, options: MockOptions | undefined) {
    requireOptions(action, options);
    const { name, equals } = options ?? {};
    if (name !== undefined && typeof name !== "string") {
      throw invalid(action, "name", "a string", name, TypeError);
    }
    if (equals !== undefined) requireFunction(action, "equals", equals);
    const { invoke } = {
      invoke(this: unknown, ...args: unknown[]) {
        return mock.#call(this, args);
      },
    };
    super(invoke);
    const mock = this;
    this.#name = name ?? impl?.name ?? "";
    this.#log = new Log(this.#name);
    this.#equals = equals;
    this.#decide = () => impl ?? doNothing;
    if (impl) copyProperties(impl, this);
    Object.defineProperty(this, "name", { value: this.#name || "asyncMock", configurable: true });
  }

  #call(thisValue: unknown, args: unknown[]): Promise<unknown> {
    const call = new Call(this.#log, thisValue, args);
    this.#log.open++;
    const number = this.#log.calls.push(call);
    const once = this.#once.length > 0 ? this.#once.shift() : undefined;
    const promise = call.start(once?.delay ?? this.#delay, (once?.decide ?? this.#decide)());
    if (this.#arrivals.size > 0) this.#arrive(call, number);
    return promise;
  }

  #arrive(call: Call, number: number): void {
    const arrivals = this.#arrivals.get(number) ?? [];
    this.#arrivals.delete(number);
    for (const arrival of arrivals) arrival.come(call);
  }

  get calls(): readonly Call[] {
    return this.#log.calls;
  }

  get awaits(): readonly Call[] {
    return this.#log.awaits;
  }

  get open(): number {
    return this.#log.open;
  }

  async nthCall(n: number, options?: WaitOptions): Promise<Call> {
    const action = "wait for a call";
    requirePositiveInteger(action, "n", n);
    requireOptions(action, options);
    const signal = options?.signal ?? undefined;
    requireSignal(action, signal);
    signal?.throwIfAborted();
    const made = this.#log.calls[n - 1];
    if (made) return made;
    const call = await new Promise<Call>((resolve, reject) => {
      let arrivals = this.#arrivals.get(n);
      if (!arrivals) this.#arrivals.set(n, (arrivals = new Set()));
      const arrival: Arrival = {
        come(call) {
          stopListening();
          resolve(call);
        },
      };
      arrivals.add(arrival);
      const stopListening = onAbort(signal, (reason) => {
        arrivals.delete(arrival);
        if (arrivals.size === 0) this.#arrivals.delete(n);
        reject(reason);
      });
    });
    signal?.throwIfAborted();
    return call;
  }

  reset(): this {
    this.#log = new Log(this.#name);
    return this;
  }

  resolves(value: unknown): this {
    return this.#every(() => value);
  }

  rejects(reason: unknown): this {
    return this.#every(throwing(reason));
  }

  runs(impl: AnyFunction): this {
    requireFunction("run an implementation", "impl", impl);
    return this.#every(impl);
  }

  hangs(): this {
    return this.#every(undefined);
  }

  sequence(...outcomes: unknown[]): this {
    const size = outcomes.length;
    const name = this.#name || "asyncMock";
    let n = 0;
    this.#decide = () => {
      const call = ++n;
      const outcome =
        call > size
          ? new Error(`${name} ran out: call ${call}, but the sequence ends after ${size}`)
          : outcomes[call - 1];
      return isError(outcome) ? throwing(outcome) : () => outcome;
    };
    return this;
  }

  delays(ms: number): this {
    requireDuration("delay asyncMock", "ms", ms);
    this.#delay = ms;
    return this;
  }

  resolvesOnce(value: unknown): this {
    return this.#onceDo(() => value);
  }

  rejectsOnce(reason: unknown): this {
    return this.#onceDo(throwing(reason));
  }

  runsOnce(impl: AnyFunction): this {
    requireFunction("run an implementation", "impl", impl);
    return this.#onceDo(impl);
  }

  hangsOnce(): this {
    return this.#onceDo(undefined);
  }

  delaysOnce(ms: number): this {
    requireDuration("delay asyncMock", "ms", ms);
    this.#once.push({ delay: ms });
    return this;
  }

  #every(action: Action): this {
    this.#decide = () => action;
    return this;
  }

  #onceDo(action: Action): this {
    this.#once.push({ decide: () => action });
    return this;
  }

  /** Makes a mock forget what it was told. */
  protected static restart(mock: Mock, impl: AnyFunction): void {
    mock.#once = [];
    mock.#delay = 0;
    mock.#every(impl);
  }

  assertAwaited(): void {
    this.#assert(this.awaits.length > 0, "an await");
  }

  assertAwaitedOnce(): void {
    this.#assert(this.awaits.length === 1, "exactly one await");
  }

  assertAwaitedWith(...args: unknown[]): void {
    const last = this.awaits.at(-1);
    this.#assert(last !== undefined && this.#had(last, args), "the last await to be of", [args]);
  }

  assertAwaitedOnceWith(...args: unknown[]): void {
    this.assertAwaitedOnce();
    this.assertAwaitedWith(...args);
  }

  assertAnyAwait(...args: unknown[]): void {
    this.assertHasAwaits([args]);
  }

  assertHasAwaits(expected: unknown[][], options?: { anyOrder?: boolean }): void {
    requireOptions("assert awaits", options);
    if (!Array.isArray(expected) || !expected.every(Array.isArray)) {
      throw invalid("assert awaits", "expected", "an array of arrays", expected, TypeError);
    }
    const rest = [...this.awaits];
    if (options?.anyOrder) {
      const missing = expected.filter((args) => {
        const found = rest.findIndex((call) => this.#had(call, args));
        if (found >= 0) rest.splice(found, 1);
        return found < 0;
      });
      return this.#assert(missing.length === 0, "in any order awaits of", expected);
    }
    const starts = Math.max(rest.length - expected.length + 1, 0);
    const holds = Array.from({ length: starts }, (_, start) => start).some((start) =>
      expected.every((args, i) => this.#had(rest[start + i]!, args)),
    );
    this.#assert(holds, "awaits of", expected);
  }

  assertNotAwaited(): void {
    this.#assert(this.awaits.length === 0, "no await");
  }

  assertAllAwaited(): void {
    this.#assert(this.awaits.length === this.calls.length, "an await of every call");
  }

  #had(call: Call, args: unknown[]): boolean {
    return new Comparison(this.#equals).equal(call.args, args);
  }

  #assert(holds: boolean, expected: string, argLists?: unknown[][]): void {
    if (holds) return;
    const of = argLists
      ? argLists.map((args) => ` ${this.#name}${showArgs(args)}`).join("")
      : this.#name && ` of ${this.#name}`;
    throw new AssertionError(`Expected ${expected}${of}, but ${this.#log}`);
  }
}

/** Takes the place of a method, and remembers what was there. */
class SpyMock extends Mock implements Disposable {
  readonly #object: object;
  readonly #method: PropertyKey;
  readonly #original: AnyFunction;
  /** The object's own property; undefined if the method was inherited. */
  readonly #replaced: PropertyDescriptor | undefined;
  #disposed = false;

  constructor(object: object, method: PropertyKey, options: MockOptions | undefined) {
    const action = "spy on a method";
    if (Object(object) !== object) throw invalid(action, "object", "an object", object, TypeError);
    const original = (object as Record<PropertyKey, unknown>)[method] as AnyFunction;
    requireFunction(action, String(method), original);
    requireOptions(action, options);
    super(action, original, { name: String(method), ...options });
    this.#object = object;
    this.#method = method;
    this.#original = original;
    this.#replaced = Object.getOwnPropertyDescriptor(object, method);
    const enumerable = findProperty(object, method)?.enumerable === true;
    const { configurable = true } = this.#replaced ?? {};
    const replacement = { value: this, writable: true, enumerable, configurable };
    if (!Reflect.defineProperty(object, method, replacement)) {
      throw new TypeError(`Cannot ${action}: ${String(method)} is read-only`);
    }
  }

  [Symbol.dispose](): void {
    if (this.#disposed) return;
    this.#disposed = true;
    // Code that still holds the spy reaches the method through it.
    Mock.restart(this, this.#original);
    // Of several spies on one method the last to end puts it back, in whatever order they end.
    const present = Object.getOwnPropertyDescriptor(this.#object, this.#method)?.value;
    if (present !== this && this.#isRival(present)) return;
    let before = this.#replaced;
    while (this.#isRival(before?.value) && before.value.#disposed) before = before.value.#replaced;
    const done = before
      ? Reflect.defineProperty(this.#object, this.#method, before)
      : Reflect.deleteProperty(this.#object, this.#method);
    if (!done) throw new TypeError(`Cannot put ${String(this.#method)} back: it is read-only now`);
  }

  #isRival(value: unknown): value is SpyMock {
    if (!(value instanceof SpyMock)) return false;
    return value.#object === this.#object && value.#method === this.#method;
  }
}

/** Waits for a call. */
interface Arrival {
  come(call: Call): void;
}

/** What happened since the last reset. */
class Log {
  readonly calls: Call[] = [];
  readonly awaits: Call[] = [];
  readonly name: string;
  open = 0;

  constructor(name: string) {
    this.name = name;
  }

  describe(call: Call, number = this.calls.indexOf(call) + 1): string {
    return `call ${number} ${this.name}${showArgs(call.args)}`;
  }

  toString(): string {
    if (this.calls.length === 0) return "it was never called";
    const lines = this.calls.map(
      (call, n) =>
        `  ${this.describe(call, n + 1)} was ${call.awaited ? "awaited" : "never awaited"}`,
    );
    return `these are the calls:\n${lines.join("\n")}`;
  }
}

class Call implements MockCall<AnyFunction> {
  readonly args: any[];
  readonly thisValue: any;
  awaited = false;
  result: PromiseSettledResult<unknown> | undefined;
  readonly #log: Log;
  /** The caller's. Dropped once it is settled, because a log may become long. */
  #promise: ObservedPromise | undefined;
  #stopWaiting: (() => void) | undefined;

  constructor(log: Log, thisValue: unknown, args: unknown[]) {
    this.args = args;
    this.thisValue = thisValue;
    this.#log = log;
  }

  get settled(): boolean {
    return this.result !== undefined;
  }

  resolve(value: unknown): void {
    this.#requireOpen("resolve");
    if (typeof (value as PromiseLike<unknown> | undefined)?.then === "function") {
      return this.#follow(value);
    }
    this.#fulfil(value);
  }

  reject(reason: unknown): void {
    this.#requireOpen("reject");
    this.#fail(reason);
  }

  noteAwait(): void {
    if (this.awaited) return;
    this.awaited = true;
    this.#log.awaits.push(this);
  }

  /** Acts after the delay, unless it is settled before, by hand or by an abort. */
  start(delay: number, action: Action): Promise<unknown> {
    const promise = new ObservedPromise(this);
    this.#promise = promise;
    if (action && delay === 0) this.#act(action);
    else this.#wait(delay, action);
    return promise;
  }

  #wait(delay: number, action: Action): void {
    try {
      const signal = findSignal(this.args);
      if (signal?.aborted) return this.#fail(signal.reason);
      const stopListening = onAbort(signal, (reason) => this.#fail(reason));
      const stopTimer = startTimer(action ? delay : Infinity, () => {
        stopListening();
        this.#act(action!);
      });
      this.#stopWaiting = () => {
        stopListening();
        stopTimer();
      };
    } catch (error) {
      // The arguments are the caller's: their getters may throw.
      this.#fail(error);
    }
  }

  #act(action: (...args: any[]) => unknown): void {
    try {
      this.#follow(action.apply(this.thisValue, this.args));
    } catch (error) {
      this.#follow(Promise.reject(error));
    }
  }

  #follow(outcome: unknown): void {
    Promise.resolve(outcome).then(
      (value) => this.#fulfil(value),
      (reason) => this.#fail(reason),
    );
  }

  #requireOpen(action: string): void {
    if (!this.result) return;
    throw new Error(`Cannot ${action} ${this.#log.describe(this)}: it is settled already`);
  }

  #fulfil(value: unknown): void {
    if (this.result) return releaseHold(value);
    this.#close({ status: "fulfilled", value }).resolve(value);
  }

  #fail(reason: unknown): void {
    if (!this.result) this.#close({ status: "rejected", reason }).reject(reason);
  }

  #close(result: PromiseSettledResult<unknown>): ObservedPromise {
    const promise = this.#promise!;
    this.#promise = undefined;
    this.result = result;
    this.#log.open--;
    this.#stopWaiting?.();
    return promise;
  }
}

/**
 * Tells its call when something asks for the outcome. The language then looks at `constructor`
 * first: `await` to see whether it needs a promise of its own around this one, `then` to know what
 * to return. It finds `Promise`, and treats this one as it treats the promise of an async function.
 * (If only `then` were overridden, every `await` would take two microtasks more.)
 */
class ObservedPromise extends Promise<unknown> {
  #call: Call | undefined;
  readonly resolve: (value: unknown) => void;
  readonly #reject: (reason: unknown) => void;

  constructor(call: Call) {
    let settlers!: [resolve: (value: unknown) => void, reject: (reason: unknown) => void];
    super((...both) => void (settlers = both));
    [this.resolve, this.#reject] = settlers;
    this.#call = call;
  }

  override get ["constructor"](): PromiseConstructor {
    this.#call?.noteAwait();
    return Promise;
  }

  reject(reason: unknown): void {
    // A rejection that nobody asks for is a finding for the test, and must not end the process.
    const call = this.#call;
    this.#call = undefined;
    this.then(undefined, doNothing);
    this.#call = call;
    this.#reject(reason);
  }
}

class AssertionError extends Error {
  override readonly name = "AssertionError";
}

function throwing(reason: unknown): () => never {
  return () => {
    throw reason;
  };
}

function findSignal(args: unknown[]): AbortSignal | undefined {
  for (const arg of args) {
    if (isSignal(arg)) return arg;
    const signal = (arg as { signal?: unknown } | null | undefined)?.signal;
    if (isSignal(signal)) return signal;
  }
  return undefined;
}

function isSignal(value: unknown): value is AbortSignal {
  return typeof (value as AbortSignal | null | undefined)?.throwIfAborted === "function";
}

/** Gives a mock what the function that it stands in for has beside its call. */
function copyProperties(from: AnyFunction, to: object): void {
  for (const key of Reflect.ownKeys(from)) {
    if (key === "prototype" || (key in to && key !== "length")) continue;
    Object.defineProperty(to, key, Object.getOwnPropertyDescriptor(from, key)!);
  }
}

/** Finds a property where a read would find it: on the object or on one that it inherits from. */
function findProperty(object: object, key: PropertyKey): PropertyDescriptor | undefined {
  for (let owner: object | null = object; owner; owner = Object.getPrototypeOf(owner)) {
    const property = Object.getOwnPropertyDescriptor(owner, key);
    if (property) return property;
  }
  return undefined;
}

/** Compares by content. Pairs under comparison count as equal, so that circles come to an end. */
class Comparison {
  readonly #equals: MockOptions["equals"];
  readonly #assumed = new Map<unknown, Set<unknown>>();
  /** The assumed pairs in order, to take back those that followed from a wrong one. */
  readonly #trail: [unknown, unknown][] = [];

  constructor(equals: MockOptions["equals"]) {
    this.#equals = equals;
  }

  equal(received: unknown, expected: unknown): boolean {
    if (Object.is(received, expected)) return true;
    const matcher = expected as { asymmetricMatch: (received: unknown) => unknown };
    if (typeof tryTo(() => matcher.asymmetricMatch) === "function") {
      return Boolean(matcher.asymmetricMatch(received));
    }
    const [a, b] = [contentOf(received), contentOf(expected)];
    if (!a || !b || a.kind !== b.kind) return Boolean(this.#equals?.(received, expected));
    if (this.#assumed.get(received)?.has(expected)) return true;
    const mark = this.#trail.length;
    this.#assume(received, expected);
    const holds = this.#equalContent(a.content, b.content);
    if (!holds) this.#forget(mark);
    return holds;
  }

  /** Compares contents of one kind. */
  #equalContent(a: unknown, b: any): boolean {
    if (a instanceof Map) return this.#equalEntries(a, b);
    if (!(a instanceof Uint8Array)) return Object.is(a, b);
    return a.length === b.length && a.every((byte, i) => byte === b[i]);
  }

  #equalEntries(a: Map<unknown, unknown>, b: Map<unknown, unknown>): boolean {
    const rest = new Map(b);
    const take = (key: unknown, value: unknown) => {
      if (rest.has(key)) return this.equal(value, rest.get(key)) && rest.delete(key);
      for (const [candidate, expected] of rest) {
        if (Object(candidate) !== candidate || !this.equal(key, candidate)) continue;
        if (this.equal(value, expected)) return rest.delete(candidate);
      }
      return false;
    };
    return a.size === b.size && Array.from(a).every(([key, value]) => take(key, value));
  }

  #assume(received: unknown, expected: unknown): void {
    let pairs = this.#assumed.get(received);
    if (!pairs) this.#assumed.set(received, (pairs = new Set()));
    pairs.add(expected);
    this.#trail.push([received, expected]);
  }

  #forget(mark: number): void {
    for (const [received, expected] of this.#trail.splice(mark)) {
      this.#assumed.get(received)!.delete(expected);
    }
  }
}

/** What an object is compared and shown by: entries, bytes, or one value. */
interface Content {
  kind: string;
  content: unknown;
}

/** Undefined for what has no content that others could read: primitives, functions, instances. */
function contentOf(value: unknown): Content | undefined {
  return tryTo(() => {
    const kind = kindOf(value);
    const content = readContent(kind, value);
    return content === undefined ? undefined : { kind, content };
  });
}

function readContent(kind: string, value: any): unknown {
  switch (kind) {
    case "plain":
      return ownEntries(value);
    case "Array":
      return ownEntries(value).set("length", value.length);
    case "Error":
    case "DOMException": {
      const entries = ownEntries(value).set("class", value.constructor.name);
      for (const key of ERROR_KEYS) entries.set(key, value[key]);
      return entries;
    }
    case "Map":
    case "Set":
      return new Map(value.entries());
    case "FormData":
    case "Headers":
    case "URLSearchParams":
      return new Map([...value].entries());
    case "ArrayBuffer":
    case "SharedArrayBuffer":
      return new Uint8Array(value);
    case "Date":
      return value.getTime();
    case "Boolean":
    case "Number":
    case "RegExp":
    case "String":
    case "URL":
      return String(value);
    default:
      if (kind.startsWith("Temporal.")) return String(value);
      if (!ArrayBuffer.isView(value)) return undefined;
      return new Uint8Array(value.buffer, value.byteOffset, value.byteLength);
  }
}

const ERROR_KEYS = ["name", "message", "cause", "errors", "error", "suppressed"];

/** The same in every realm, and for a Buffer as for a Uint8Array. */
function kindOf(value: unknown): string {
  const prototype: object | null = Object.getPrototypeOf(value);
  if (!prototype || !Object.getPrototypeOf(prototype)) return "plain";
  return describe(value);
}

function ownEntries(value: Record<PropertyKey, unknown>): Map<unknown, unknown> {
  const isEnumerable = (key: PropertyKey) => Object.prototype.propertyIsEnumerable.call(value, key);
  const keys = Reflect.ownKeys(value).filter(isEnumerable);
  return new Map(keys.map((key) => [key, value[key]]));
}

function isError(value: unknown): boolean {
  return describe(value) === "Error" || tryTo(() => value instanceof Error) === true;
}

/** Undefined if it throws: what a test hands to a mock may do so whenever it is looked at. */
function tryTo<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch {
    return undefined;
  }
}

function showArgs(args: readonly unknown[]): string {
  return `(${args.map((arg) => show(arg)).join(", ")})`;
}

function show(value: unknown, parents: readonly unknown[] = []): string {
  return tryTo(() => showUnguarded(value, parents)) ?? `[${describe(value)}]`;
}

function showUnguarded(value: unknown, parents: readonly unknown[]): string {
  if (typeof value === "string") return JSON.stringify(shorten(value));
  if (typeof value === "function") return `[function ${shorten(value.name)}]`;
  if (parents.includes(value)) return "[circular]";
  const within = [...parents, value];
  const list = (items: ArrayLike<unknown>, showItem = (item: any) => show(item, within)) => {
    if (within.length > DEEPEST) return "…";
    const shown = Array.from({ length: Math.min(items.length, MOST) }, (_, i) =>
      showItem(items[i]),
    );
    return [...shown, ...(items.length > MOST ? [`… ${items.length - MOST} more`] : [])].join(", ");
  };
  const { kind, content } = contentOf(value) ?? {};
  if (Array.isArray(value)) return `[${list(value)}]`;
  if (content instanceof Uint8Array) return `${kind} [${list(content)}]`;
  if (kind === "Set") return `Set [${list([...(value as Set<unknown>)])}]`;
  if (kind === "Map") return `Map [${list([...(value as Map<unknown, unknown>)])}]`;
  if (kind !== "plain") return shorten(String(value));
  const entries = [...(content as Map<PropertyKey, unknown>)];
  if (entries.length === 0) return "{}";
  return `{ ${list(entries, ([key, item]) => `${shorten(String(key))}: ${show(item, within)}`)} }`;
}

/** What of an argument is shown: levels, items of each, characters. */
const [DEEPEST, MOST, LONGEST] = [5, 50, 500];

function shorten(text: string): string {
  return text.length > LONGEST ? `${text.slice(0, LONGEST)}…` : text;
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

if ((import.meta as { main?: boolean }).main) void demo();
