// async-concepts 0.3.0, MIT License. A file to copy and own; please keep this line.

/**
 * # Mocks
 *
 * Stand-ins for asynchronous functions in a test. A mock answers what and when the test tells it,
 * and records who called it and who awaited the call.
 *
 * Reach for it to test code that calls a network, a database or a clock: how the code takes an
 * error, a slow answer, no answer at all, or two answers in the wrong order.
 *
 * Without it a forgotten `await` goes unnoticed, because an ordinary mock records the call and not
 * whether anything waits for it; and a race is tested by sleeping and hoping.
 *
 * Known elsewhere as:
 *
 * | here                                  | Jest, Vitest, bun:test           | Python's AsyncMock       |
 * | ------------------------------------- | -------------------------------- | ------------------------ |
 * | `asyncMock(impl)`, `runs(impl)`       | `fn(impl)`, `mockImplementation` | `side_effect=function`   |
 * | `resolves(value)`, `rejects(reason)`  | `mockResolvedValue`, …           | `return_value=value`     |
 * | `resolvesOnce`, `rejectsOnce`, …      | `mockResolvedValueOnce`, …       |                          |
 * | `sequence(…)`                         |                                  | `side_effect=[…]`        |
 * | `yields(…)`                           |                                  | `__aiter__.return_value` |
 * | `calls[0].args`, `.thisValue`         | `mock.calls[0]`, `contexts[0]`   | `call_args_list[0]`      |
 * | `calls[0].result`                     | `mock.settledResults[0]`         |                          |
 * | `awaits`                              |                                  | `await_args_list`        |
 * | `assertAwaitedOnce()`                 | `toHaveBeenCalledTimes(1)`       | `assert_awaited_once()`  |
 * | `assertAwaitedWith(…)`                | `toHaveBeenLastCalledWith(…)`    | `assert_awaited_with(…)` |
 * | `assertAnyAwait(…)`                   | `toHaveBeenCalledWith(…)`        | `assert_any_await(…)`    |
 * | `reset()`                             | `mockClear()`                    | `reset_mock()`           |
 * | `using spy = spyOn(object, "method")` | `spyOn`, `mockRestore()`         | `with patch.object(…)`   |
 *
 * @module
 */

type AnyFunction = (...args: any[]) => any;
type AsyncFunction = (...args: any[]) => Promise<any>;

/** What a function's promise resolves to. */
export type Result<F extends AnyFunction> = Awaited<ReturnType<F>>;

/** What the async iterable gives that a function returns, or a promise of it. */
export type ItemOf<F extends AnyFunction> = Result<F> extends AsyncIterable<infer T> ? T : never;

/** What can stand in for a function: the same arguments, and the result or a promise of it. */
export type Implementation<F extends AnyFunction> = (
  this: ThisParameterType<F>,
  ...args: Parameters<F>
) => Result<F> | PromiseLike<Result<F>>;

/** The names of an object's methods that return a promise or an async iterable. */
export type AsyncMethod<T> = {
  [K in keyof T]-?: NonNullable<T[K]> extends (...args: any) => infer R
    ? Promise<Awaited<R>> extends R
      ? K
      : R extends AsyncIterable<unknown>
        ? K
        : never
    : never;
}[keyof T];

/** What a mock is made with. */
export interface MockOptions {
  /** The mock's `name`, which its messages contain. Default: the name of what it mocks. */
  name?: string | undefined;
  /**
   * Decides about two values that have no content to compare: instances of classes, functions,
   * primitives. It is not asked if they are the same.
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
  /** How many items of {@link MockControls.yields yields()} have been taken. */
  readonly taken: number;
  /** Whether those have come to their end, or were closed because the consumer has left. */
  readonly closed: boolean;
  /** Resolves an open call; with a promise, once that has settled. Throws if it is settled. */
  resolve(value: Result<F>): void;
  /** Rejects an open call. Throws if it is settled. */
  reject(reason: unknown): void;
}

/** A function of type `F` that does what it is told, and records it. */
export type AsyncMock<F extends AnyFunction> = F & MockControls<F>;

/** What a mock can be told and asked. */
export type MockControls<F extends AnyFunction> = Mock<F>;

/** A mock that puts the method back when it is disposed. */
export type Spy<F extends AnyFunction> = AsyncMock<F> & Disposable;

/**
 * A mock that calls `impl`, or resolves to undefined, until it is told otherwise. It always returns
 * a promise. The `this` of the call reaches `impl`, whose properties are copied to the mock.
 *
 * A result that is iterable can be iterated through the promise as well: `for await (const row of
 * mock())`. So a mock can stand in for an async generator. Limitation: its promise has no `next()`.
 *
 * A call counts as awaited from the moment something asks its promise for the outcome: `await`,
 * `then`, `catch`, `finally`, `Promise.all`, `return` from an async function, the `resolves` and
 * `rejects` of `expect`. (Reading the promise's `constructor` counts as well.)
 *
 * So does a handler whose caller awaits the promise: streams do, `setTimeout` and an EventEmitter
 * don't, an EventTarget does on Bun and Node. Limitation: Bun's native code can read a promise
 * without asking, in `Bun.serve`, for a test function that is a mock, and in `expect` once the
 * promise is settled.
 *
 * A rejection that nobody awaits does not end the process; `assertAllAwaited` finds the call.
 *
 * A call that hangs or is delayed rejects with the reason of its signal once that is aborted. Its
 * signal is the first argument that is an AbortSignal or has one as its `signal`.
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
 * await save("ada").catch(() => {});
 * save("ada"); // forgot to await
 *
 * save.assertAwaitedOnceWith("ada");
 * const message = await Promise.try(() => save.assertAllAwaited()).catch(String);
 * console.assert(message!.includes('call 2 ("ada") was never awaited'));
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
 * Replaces an object's asynchronous method with a mock, which calls that method until it is told
 * otherwise. When the mock is disposed, it puts the method back: with `using` at the end of the
 * block, even if the test fails; otherwise call `spy[Symbol.dispose]()`.
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

/**
 * A mock whose every call stays open until the test settles it, in any order: the answers to
 * overlapping calls come in exactly the order that the test is about.
 *
 * It is `asyncMock().hangs()`: a call whose signal is aborted rejects with the signal's reason.
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

/** A function with the methods and the private fields of a class. */
class Callable {
  static {
    Object.setPrototypeOf(this.prototype, Function.prototype);
  }

  constructor(fn: AnyFunction) {
    return Object.setPrototypeOf(fn, new.target.prototype);
  }
}

/**
 * What a mock is told replaces what it was told before, and holds for all later calls. The methods
 * that end in `Once` tell it what to do in one call each, in that order, before all others.
 *
 * The assertions throw an AssertionError that lists all calls. They compare arrays, plain objects,
 * Map, Set, Date, RegExp, URL, URLSearchParams, bytes and Error by content, and everything else by
 * `Object.is` or the mock's own `equals`. An expected value with a method `asymmetricMatch`, such
 * as Vitest's `expect.any(String)`, decides for itself; those of bun:test don't have that method.
 * There are no assertions about mere calls: they would let a forgotten `await` pass.
 */
class Mock<F extends AnyFunction = AnyFunction> extends Callable {
  static {
    showMembers(this, "name", "calls", "open");
  }

  declare readonly name: string;

  readonly #name: string;
  readonly #equals: MockOptions["equals"];
  #log: Log;
  /** Decides what a call is to do, when it is made. */
  #decide: () => AnyFunction;
  #delay = 0;
  readonly #once: { action?: AnyFunction; delay?: number }[] = [];
  /** Those who wait for a call, by its number. */
  readonly #arrivals = new Map<number, Set<(call: Call) => void>>();

  constructor(
    action: string,
    impl?: AnyFunction,
    options?: MockOptions,
    own: unknown = impl?.name,
  ) {
    requireOptions(action, options);
    const { name = typeof own === "string" ? own : "", equals } = options ?? {};
    if (typeof name !== "string") throw invalid(action, "name", "a string", name, TypeError);
    if (equals !== undefined) requireFunction(action, "equals", equals);
    // A method, because it can't be called with `new` and has no prototype.
    const { invoke } = {
      invoke(this: unknown, ...args: unknown[]) {
        return mock.#call(this, args);
      },
    };
    super(invoke);
    const mock = this;
    this.#name = name;
    this.#equals = equals;
    this.#log = new Log(name);
    this.#decide = () => impl ?? doNothing;
    for (const key of impl ? Reflect.ownKeys(impl) : []) {
      if (key === "prototype" || (key in this && key !== "length")) continue;
      Object.defineProperty(this, key, Object.getOwnPropertyDescriptor(impl, key)!);
    }
    Object.defineProperty(this, "name", { value: name || "asyncMock" });
  }

  #call(thisValue: unknown, args: unknown[]): Promise<unknown> {
    const call = new Call(this.#log, thisValue, args);
    const number = this.#log.calls.push(call);
    const once = this.#once.length > 0 ? this.#once.shift() : undefined;
    const promise = call.start(once?.delay ?? this.#delay, once?.action ?? this.#decide());
    if (this.#arrivals.size > 0) {
      const arrivals = this.#arrivals.get(number);
      arrivals?.forEach((arrive) => arrivals.delete(arrive) && arrive(call));
      this.#arrivals.delete(number);
    }
    return promise;
  }

  /** All calls, in the order in which they were made. */
  get calls(): readonly MockCall<F>[] {
    return this.#log.calls;
  }

  /** The calls that were awaited, in the order in which they first were. */
  get awaits(): readonly MockCall<F>[] {
    return this.#log.awaits;
  }

  /** How many calls are not settled. */
  get open(): number {
    return this.#log.open;
  }

  /**
   * Waits until the `n`th call has been made, and returns it.
   *
   * @param n counts from 1
   * @throws {TypeError} `n` is not a number
   * @throws {RangeError} `n` is not a positive integer
   * @throws the signal's reason, once it is aborted
   */
  async nthCall(n: number, options?: WaitOptions): Promise<MockCall<F>> {
    const action = "wait for a call";
    requirePositiveInteger(action, "n", n);
    requireOptions(action, options);
    const signal = options?.signal;
    requireSignal(action, signal);
    signal?.throwIfAborted();
    const made = this.#log.calls[n - 1];
    if (made) return made;
    const { promise, resolve, reject } = Promise.withResolvers<Call>();
    const arrivals = this.#arrivals.get(n) ?? new Set();
    this.#arrivals.set(n, arrivals.add(resolve));
    const stopListening = onAbort(signal, (reason) => {
      if (arrivals.delete(resolve) && arrivals.size === 0) this.#arrivals.delete(n);
      reject(reason);
    });
    const call = await promise.finally(stopListening);
    signal?.throwIfAborted();
    return call;
  }

  /** Forgets all calls and awaits. Behaviour stays, and so do calls that are open. */
  reset(): this {
    this.#log = new Log(this.#name);
    return this;
  }

  /** Every call resolves to the value. */
  resolves(value: Result<F>): this {
    return this.#everyCall(() => value);
  }

  /** Every call rejects with the reason. */
  rejects(reason: unknown): this {
    return this.#everyCall(throwing(reason));
  }

  /** Every call calls `impl`. */
  runs(impl: Implementation<F>): this {
    requireFunction("run an implementation", "impl", impl);
    return this.#everyCall(impl);
  }

  /** Every call stays open until it is settled by hand, or its {@link asyncMock signal} aborts. */
  hangs(): this {
    return this.#everyCall(hang);
  }

  /**
   * One outcome for each call: an Error rejects, anything else resolves. When the outcomes have run
   * out, calls reject with an Error that says so.
   */
  sequence(...outcomes: (Result<F> | Error)[]): this {
    const ranOut = `${this.#name || "asyncMock"} ran out: call`;
    let n = 0;
    this.#decide = () => {
      const outcome = outcomes[n++];
      if (n <= outcomes.length) return isError(outcome) ? throwing(outcome) : () => outcome;
      return throwing(new Error(`${ranOut} ${n}, but the sequence ends after ${outcomes.length}`));
    };
    return this;
  }

  /**
   * Every call gives an async iterable of the items. An Error is thrown in its turn, and a promise
   * waited for, until the consumer leaves or the call's {@link asyncMock signal} aborts.
   */
  yields(...items: (ItemOf<F> | PromiseLike<ItemOf<F>> | Error)[]): this {
    return this.#everyCall(yielding(items));
  }

  /**
   * Every call waits before it does what it was told, unless its {@link asyncMock signal} aborts.
   *
   * @param ms milliseconds; with Infinity only the signal ends the wait, 0 waits no more
   * @throws {TypeError} `ms` is not a number
   * @throws {RangeError} `ms` is negative or NaN
   */
  delays(ms: number): this {
    requireDuration("delay asyncMock", "ms", ms);
    this.#delay = ms;
    return this;
  }

  /** One call resolves to the value. */
  resolvesOnce(value: Result<F>): this {
    return this.#oneCall({ action: () => value });
  }

  /** One call rejects with the reason. */
  rejectsOnce(reason: unknown): this {
    return this.#oneCall({ action: throwing(reason) });
  }

  /** One call gives an async iterable, as with {@link yields}. */
  yieldsOnce(...items: (ItemOf<F> | PromiseLike<ItemOf<F>> | Error)[]): this {
    return this.#oneCall({ action: yielding(items) });
  }

  /** One call calls `impl`. */
  runsOnce(impl: Implementation<F>): this {
    requireFunction("run an implementation", "impl", impl);
    return this.#oneCall({ action: impl });
  }

  /** One call stays open, as with {@link hangs}. */
  hangsOnce(): this {
    return this.#oneCall({ action: hang });
  }

  /** One call waits, as with {@link delays}, and then does what every call does. */
  delaysOnce(ms: number): this {
    requireDuration("delay asyncMock", "ms", ms);
    return this.#oneCall({ delay: ms });
  }

  #everyCall(action: AnyFunction): this {
    this.#decide = () => action;
    return this;
  }

  #oneCall(behaviour: { action?: AnyFunction; delay?: number }): this {
    this.#once.push(behaviour);
    return this;
  }

  /** Makes a mock forget what it was told. */
  protected static restart(mock: Mock, impl: AnyFunction): void {
    mock.#once.length = 0;
    mock.runs(impl).delays(0);
  }

  /** At least one call was awaited. */
  assertAwaited(): void {
    this.#assert(this.awaits.length > 0, "an await");
  }

  /** Exactly one call was awaited. */
  assertAwaitedOnce(): void {
    this.#assert(this.awaits.length === 1, "exactly one await");
  }

  /** The last await was of a call with these arguments. */
  assertAwaitedWith(...args: Parameters<F>): void {
    const last = this.awaits.at(-1);
    this.#assert(last !== undefined && this.#had(last, args), "the last await to be of", [args]);
  }

  /** Exactly one call was awaited, and had these arguments. */
  assertAwaitedOnceWith(...args: Parameters<F>): void {
    this.assertAwaitedOnce();
    this.assertAwaitedWith(...args);
  }

  /** Some await was of a call with these arguments. */
  assertAnyAwait(...args: Parameters<F>): void {
    this.assertHasAwaits([args]);
  }

  /**
   * There were awaits of calls with these arguments, one directly after the other. With `anyOrder`
   * they may have come in any order, and others between them.
   *
   * @throws {TypeError} `expected` is not an array of arrays
   */
  assertHasAwaits(expected: Parameters<F>[], options?: { anyOrder?: boolean | undefined }): void {
    requireOptions("assert awaits", options);
    if (!Array.isArray(expected) || !expected.every(Array.isArray)) {
      throw invalid("assert awaits", "expected", "an array of arrays", expected, TypeError);
    }
    const rest = [...this.awaits];
    if (options?.anyOrder) {
      const found = expected.every((args) => {
        const index = rest.findIndex((call) => this.#had(call, args));
        return index >= 0 && rest.splice(index, 1);
      });
      return this.#assert(found, "in any order awaits of", expected);
    }
    const startsAt = (start: number) =>
      expected.every((args, i) => start + i < rest.length && this.#had(rest[start + i]!, args));
    const found = expected.length === 0 || rest.some((_, start) => startsAt(start));
    this.#assert(found, "awaits of", expected);
  }

  /** No call was awaited. There may have been calls. */
  assertNotAwaited(): void {
    this.#assert(this.awaits.length === 0, "no await");
  }

  /** Each call was awaited: none was forgotten. */
  assertAllAwaited(): void {
    this.#assert(this.awaits.length === this.calls.length, "an await of every call");
  }

  #had(call: MockCall<F>, args: unknown[]): boolean {
    return equal([call.args, args], this.#equals);
  }

  #assert(holds: boolean, expected: string, argLists?: unknown[][]): void {
    if (holds) return;
    const of = argLists
      ? argLists.map((args) => ` ${this.#name}${showArgs(args)}`).join("")
      : this.#name && ` of ${this.#name}`;
    const calls = this.#log.calls.map((call, n) => {
      return `\n  ${this.#log.describe(call, n + 1)} was ${call.awaited ? "" : "never "}awaited`;
    });
    const list = calls.length > 0 ? `these are the calls:${calls.join("")}` : "it was never called";
    throw new AssertionError(`Expected ${expected}${of}, but ${list}`);
  }
}

/** Takes the place of a method, and remembers what was there. */
class SpyMock extends Mock implements Disposable {
  readonly #object: object;
  readonly #method: PropertyKey;
  readonly #original: AnyFunction;
  /** The object's own property; undefined if the method was inherited. */
  #replaced: PropertyDescriptor | undefined;
  #disposed = false;

  constructor(object: object, method: PropertyKey, options: MockOptions | undefined) {
    const action = "spy on a method";
    if (Object(object) !== object) throw invalid(action, "object", "an object", object, TypeError);
    const original = (object as Record<PropertyKey, unknown>)[method] as AnyFunction;
    requireFunction(action, String(method), original);
    super(action, original, options, String(method));
    this.#object = object;
    this.#method = method;
    this.#original = original;
    this.#replaced = Object.getOwnPropertyDescriptor(object, method);
    const { enumerable = false, configurable = true } = this.#replaced ?? {};
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
    let later = Object.getOwnPropertyDescriptor(this.#object, this.#method)?.value;
    for (; later instanceof SpyMock; later = later.#replaced?.value) {
      if (later.#replaced?.value !== this) continue;
      // A later spy on the method goes on, and then puts back what this one would have.
      later.#replaced = this.#replaced;
      return;
    }
    const done = this.#replaced
      ? Reflect.defineProperty(this.#object, this.#method, this.#replaced)
      : Reflect.deleteProperty(this.#object, this.#method);
    if (!done) throw new TypeError(`Cannot put ${String(this.#method)} back: it is read-only now`);
  }
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
}

class Call implements MockCall<any> {
  static {
    showMembers(this, "args", "awaited", "result");
  }

  readonly args: any;
  readonly thisValue: any;
  awaited = false;
  result: PromiseSettledResult<any> | undefined;
  readonly #log: Log;
  /** The caller's. Dropped once it is settled, because a log may become long. */
  #promise: ObservedPromise | undefined;
  #stopWaiting: (() => void) | undefined;

  constructor(log: Log, thisValue: unknown, args: unknown[]) {
    this.args = args;
    this.thisValue = thisValue;
    this.#log = log;
    log.open++;
  }

  get settled(): boolean {
    return this.result !== undefined;
  }

  get taken(): number {
    return this.#items?.taken ?? 0;
  }

  get closed(): boolean {
    return this.#items?.closed ?? false;
  }

  get #items(): Yields | undefined {
    const { value } = (this.result ?? {}) as { value?: unknown };
    return value instanceof Yields ? value : undefined;
  }

  resolve(value: unknown): void {
    this.#requireOpen("resolve");
    const isPlain = tryTo(() => typeof (value as { then?: unknown } | null)?.then !== "function");
    if (isPlain) this.#fulfil(value);
    else this.#follow(value);
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
  start(delay: number, action: AnyFunction): Promise<unknown> {
    const promise = new ObservedPromise(this);
    this.#promise = promise;
    if (action === hang) this.#wait(Infinity, action);
    else if (delay > 0) this.#wait(delay, action);
    else this.#act(action);
    return promise;
  }

  #wait(delay: number, action: AnyFunction): void {
    try {
      const signal = signalAmong(this.args);
      if (signal?.aborted) return this.#fail(signal.reason);
      const stopListening = onAbort(signal, (reason) => this.#fail(reason));
      const stopTimer = startTimer(delay, () => {
        stopListening();
        this.#act(action);
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

  #act(action: AnyFunction): void {
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
    if (this.result) releaseHold(value);
    else this.#close({ status: "fulfilled", value }).resolve(value);
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

/** The first argument that is a signal or has one. Their getters may throw. */
function signalAmong(args: unknown[]): AbortSignal | undefined {
  const candidates = args.flatMap((arg: any) => [arg, arg?.signal]);
  return candidates.find((it) => typeof it?.throwIfAborted === "function");
}

function yielding(items: readonly unknown[]): AnyFunction {
  // A promise is looked at in its turn, and may be rejected before.
  for (const item of items) if (item instanceof Promise) item.catch(doNothing);
  return (...args) => new Yields(items, signalAmong(args));
}

/** The way of one consumer through the items. */
class Yields implements AsyncIterableIterator<unknown, undefined> {
  taken = 0;
  closed = false;
  #next = 0;
  readonly #items: readonly unknown[];
  readonly #signal: AbortSignal | undefined;
  readonly #end = Promise.withResolvers<unknown>();

  constructor(items: readonly unknown[], signal: AbortSignal | undefined) {
    this.#items = items;
    this.#signal = signal;
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  async next(): Promise<IteratorResult<unknown, undefined>> {
    if (this.#next === this.#items.length) this.closed = true;
    const stopListening = onAbort(this.#signal, (reason) => this.#end.reject(reason));
    try {
      this.#signal?.throwIfAborted();
      const value = await Promise.race([this.#items[this.#next++], this.#end.promise]);
      if (this.closed) return this.return();
      if (isError(value)) throw value;
      this.taken++;
      return { done: false, value };
    } catch (error) {
      // One of several pending calls tells of it.
      if (this.closed) return this.return();
      this.closed = true;
      throw error;
    } finally {
      stopListening();
    }
  }

  async return(): Promise<IteratorReturnResult<undefined>> {
    this.closed = true;
    this.#end.resolve(undefined);
    return { done: true, value: undefined };
  }
}

/**
 * Tells its call when something asks for the outcome: both `await` and `then` look at `constructor`
 * first. They find `Promise`, and treat this one as the promise of an async function. (If `then`
 * were overridden instead, every `await` would take two microtasks more.)
 */
class ObservedPromise extends Promise<unknown> {
  #call: Call | undefined;
  readonly resolve: (value: unknown) => void;
  readonly #reject: (reason: unknown) => void;

  constructor(call: Call) {
    super(keepSettlers);
    this.resolve = resolveLast;
    this.#reject = rejectLast;
    this.#call = call;
  }

  override get ["constructor"](): PromiseConstructor {
    this.#call?.noteAwait();
    return Promise;
  }

  [Symbol.asyncIterator](): AsyncIterator<unknown> {
    let iterator: Promise<AsyncIterator<unknown>> | undefined;
    // A generator would close its source only after a pending `next()`.
    const open = () =>
      (iterator ??= this.then((it: any) => it[Symbol.asyncIterator]?.() ?? it[Symbol.iterator]()));
    return {
      next: async () => (await open()).next(),
      return: async () => (await (await open()).return?.()) ?? { done: true, value: undefined },
    };
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

// One executor for all promises: a closure for each would make calls slower by a tenth.
let resolveLast: (value: unknown) => void;
let rejectLast: (reason: unknown) => void;

function keepSettlers(resolve: typeof resolveLast, reject: typeof rejectLast): void {
  resolveLast = resolve;
  rejectLast = reject;
}

class AssertionError extends Error {
  override readonly name = "AssertionError";
}

/** Stands for doing nothing: the call stays open. */
function hang(): void {}

function throwing(reason: unknown): () => never {
  return () => {
    throw reason;
  };
}

type Pair = [received: unknown, expected: unknown];

/** Compares by content, without recursion: a list may be long. */
function equal(pair: Pair, equals: MockOptions["equals"]): boolean {
  /** What counts as equal while its content is compared, so that circles come to an end. */
  const assumed = new Map<unknown, Set<unknown>>();
  const trail: Pair[] = [];

  /** Adds to the pairs what they contain. */
  function areEqual(pairs: Pair[]): boolean {
    const start = trail.length;
    for (const pair of pairs) {
      if (isEqual(pair, pairs)) continue;
      // What followed from a wrong assumption may be wrong, too.
      for (const [key, value] of trail.splice(start)) assumed.get(key)!.delete(value);
      return false;
    }
    return true;
  }

  function isEqual(pair: Pair, pairs: Pair[]): boolean {
    const [received, expected] = pair as [unknown, any];
    if (Object.is(received, expected)) return true;
    if (typeof tryTo(() => expected.asymmetricMatch) === "function") {
      return Boolean(expected.asymmetricMatch(received));
    }
    const [kind, content] = contentOf(received) ?? [];
    const [expectedKind, rest] = contentOf(expected) ?? [];
    if (!kind || !expectedKind) return Boolean(equals?.(received, expected));
    if (kind !== expectedKind) return false;
    if (!(content instanceof Map && rest instanceof Map)) return content === rest;
    const before = assumed.get(received) ?? new Set();
    if (before.has(expected)) return true;
    assumed.set(received, before.add(expected));
    trail.push(pair);

    const take = (key: unknown, value: unknown) => {
      if (rest.has(key)) return pairs.push([value, rest.get(key)]) && rest.delete(key);
      for (const [candidate, wanted] of rest) {
        if (Object(candidate) !== candidate) continue;
        const both = [[key, candidate] as Pair, [value, wanted] as Pair];
        if (areEqual(both)) return rest.delete(candidate);
      }
      return false;
    };
    return content.size === rest.size && [...content].every((entry) => take(...entry));
  }

  return areEqual([pair]);
}

/** What an object is compared and shown by. */
type Content = [kind: string, content: Map<unknown, unknown> | string];

/** Undefined for primitives, functions, and objects whose content is private or can't be read. */
function contentOf(value: any): Content | undefined {
  return tryTo((): Content | undefined => {
    const kind = describe(value);
    if (isError(value)) return [`a ${value.constructor?.name}`, ownEntries(value, ERROR_KEYS)];
    if (Array.isArray(value)) return [`Array of ${value.length}`, ownEntries(value)];
    const prototype = Object.getPrototypeOf(value);
    // A plain object of any realm.
    if (!prototype || !Object.getPrototypeOf(prototype)) return ["Object", ownEntries(value)];
    if (kind === "Map" || kind === "Set") return [kind, new Map(value.entries())];
    if (kind === "Date") return [kind, String(value.toJSON())];
    if (["RegExp", "URL", "URLSearchParams"].includes(kind)) return [kind, String(value)];
    if (kind === "ArrayBuffer") return [kind, String(new Uint8Array(value))];
    if (!ArrayBuffer.isView(value)) return undefined;
    return [kind, String(new Uint8Array(value.buffer, value.byteOffset, value.byteLength))];
  });
}

const ERROR_KEYS = ["name", "message", "cause", "errors", "error", "suppressed"];

function ownEntries(value: any, more: string[] = []): Map<unknown, unknown> {
  const isEnumerable = (key: PropertyKey) => Object.prototype.propertyIsEnumerable.call(value, key);
  const keys = [...Reflect.ownKeys(value).filter(isEnumerable), ...more];
  return new Map(keys.map((key) => [key, value[key]]));
}

/** In any realm. */
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

function showArgs(args: unknown[]): string {
  let text = "";
  for (const piece of show(args)) {
    text += piece;
    if (text.length > LONGEST) return `(${text.slice(1, LONGEST)}…)`;
  }
  return `(${text.slice(1, -1)})`;
}

/** How many characters of a call's arguments are shown. */
const LONGEST = 500;

/** In pieces, because a value may branch without end. */
function* show(value: any, parents: readonly unknown[] = []): Generator<string> {
  const [kind, content] = contentOf(value) ?? [];
  if (!(content instanceof Map) || isError(value)) {
    const whole = tryTo(() => {
      if (typeof value === "string") return JSON.stringify(value);
      if (typeof value === "function") return `[function ${value.name}]`;
      return typeof content === "string" ? `${kind} ${content}` : String(value);
    });
    return yield whole ?? `[${describe(value)}]`;
  }
  if (parents.includes(value)) return yield "[circular]";
  const isList = kind === "Set" || Array.isArray(value);
  if (kind === "Map" || kind === "Set") yield `${kind} `;
  yield isList ? "[" : "{";
  const within = [...parents, value];
  let separator = isList ? "" : " ";
  for (const [key, item] of content) {
    yield separator;
    if (kind === "Map") yield* show(key, within);
    else if (!isList) yield String(key);
    if (!isList) yield ": ";
    yield* show(item, within);
    separator = ", ";
  }
  yield isList ? "]" : content.size > 0 ? " }" : "}";
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
  if (save.awaits.length < save.calls.length) log("save ab", "failed, and nobody awaited it");
}

let start: number | undefined;

function print(lane: string, state: string): void {
  start ??= performance.now();
  const ms = Math.round(performance.now() - start);
  console.log(`+${String(ms).padStart(4)} ms  ${lane}  ${state}`);
}

if ((import.meta as { main?: boolean }).main) void demo();
