// async-concepts 0.2.0, MIT License. A file to copy and own; please keep this line.

/**
 * # Errors
 *
 * Retry what failed for a moment, stop calling what is down, and keep several errors apart.
 *
 * Reach for it wherever something outside your program can fail: {@link retry} for a hiccup,
 * {@link CircuitBreaker} for an outage, {@link splitErrors} for the errors of many tasks at once,
 * {@link attempt} where an error is an ordinary result.
 *
 * Without it all clients retry in step after an outage and bring the recovering service down again;
 * a retry loop goes on after its caller has left; and of ten errors nine are lost.
 *
 * Known elsewhere as: Python's `ExceptionGroup` and `except*`; Go's `errors.Join`; tenacity,
 * resilience4j and Polly; p-retry and opossum on npm.
 *
 * @module
 */

/** The outcome of a call: its value or its error. */
export type Attempt<T> =
  { readonly ok: true; readonly value: T } | { readonly ok: false; readonly error: unknown };

/**
 * What {@link attempt} returns for a function that returns `R`: an {@link Attempt}, a promise of
 * one, or either. `any` and `unknown` count as no promise.
 */
export type Attempted<R, All = R> = unknown extends R
  ? Attempt<R>
  : [R] extends [never]
    ? Attempt<never>
    : R extends PromiseLike<infer T>
      ? Promise<Attempt<T>>
      : Attempt<Exclude<All, PromiseLike<unknown>>>;

/** The argument of the function that {@link retry} calls. */
export interface RetryContext {
  /** The number of this attempt, counting from 1. */
  readonly attempt: number;
  /**
   * The signal that was given to `retry`. Without one it is a signal that is never aborted, made
   * when this property is first read; a copy by `{ ...context }` lacks it.
   */
  readonly signal: AbortSignal;
}

/** The argument of {@link RetryOptions.onRetry}. */
export interface RetryEvent {
  /** The number of the attempt that failed, counting from 1. */
  readonly attempt: number;
  /** The error it failed with. */
  readonly error: unknown;
  /** Milliseconds until the next attempt, counted from when `onRetry` has finished. */
  readonly delay: number;
}

/**
 * How often, when and after which errors {@link retry} tries again. The functions may be async:
 * `retry` awaits them.
 */
export interface RetryOptions extends WaitOptions {
  /** The number of attempts in all: a positive integer or Infinity. Default: 3. */
  attempts?: number | undefined;
  /** Milliseconds before the second attempt. Default: 100. */
  baseDelay?: number | undefined;
  /** The factor by which each further delay grows: at least 1. Default: 2. */
  factor?: number | undefined;
  /** The longest delay in milliseconds, even if `baseDelay` is longer. Default: 30,000. */
  maxDelay?: number | undefined;
  /**
   * `"full"` waits a random time between 0 and the delay, so that clients that failed together
   * don't retry together; `"none"` waits exactly the delay. Default: `"full"`.
   */
  jitter?: "full" | "none" | undefined;
  /**
   * Whether to try again after this error. Default: after all but AbortErrors, which say that the
   * work is no longer wanted.
   */
  retryIf?: ((error: unknown) => boolean | PromiseLike<boolean>) | undefined;
  /**
   * Milliseconds to wait after this attempt, for example those of a Retry-After header. `jitter`
   * and `maxDelay` don't change them; Infinity waits until the signal is aborted. Undefined leaves
   * the delay to the other options.
   */
  delay?:
    | ((attempt: number, error: unknown) => number | undefined | PromiseLike<number | undefined>)
    | undefined;
  /** Called before each wait. */
  onRetry?: ((event: RetryEvent) => unknown) | undefined;
}

/** All attempts failed: `errors` has the error of each in order, `cause` the last. */
export class RetryError extends AggregateError {
  override readonly name = "RetryError";
  /** The number of attempts. */
  readonly attempts: number;

  /** @param errors the error of each attempt */
  constructor(errors: readonly unknown[]) {
    super(errors, `Gave up after attempt ${errors.length}`, { cause: errors.at(-1) });
    this.attempts = errors.length;
  }
}

/**
 * Calls `fn` until it succeeds, waiting longer after each failure, and returns its result.
 *
 * An abort ends a wait at once. A running attempt is waited for: its result is still returned, its
 * error is replaced by the signal's reason. A running `retryIf`, `delay` or `onRetry` is waited
 * for, too. An attempt has no time limit unless `fn` sets one.
 *
 * With infinitely many attempts errors are not kept, because nobody could ever read them; see
 * `onRetry`.
 *
 * Source of the idea: exponential backoff with full jitter, as measured by AWS's architects.
 *
 * @throws {RetryError} all attempts failed
 * @throws the error itself, if `retryIf` refuses it; `onRetry` has been told of those before it
 * @throws what `retryIf`, `delay` or `onRetry` throws
 * @throws {TypeError} an argument is of the wrong kind, or what `delay` returns
 * @throws {RangeError} a number is out of range, be it an option or what `delay` returns
 * @throws the signal's reason, once it is aborted
 *
 * @example Do what the server asks for, and back off otherwise
 * ```ts
 * import { retry } from "./errors.ts";
 *
 * class Busy extends Error {
 *   retryAfter = 5;
 * }
 *
 * const answer = await retry(
 *   async ({ attempt }) => {
 *     if (attempt < 3) throw new Busy();
 *     return `came with attempt ${attempt}`;
 *   },
 *   { delay: (_, error) => (error instanceof Busy ? error.retryAfter : undefined) },
 * );
 * console.assert(answer === "came with attempt 3");
 * ```
 */
export function retry<T>(
  fn: (context: RetryContext) => T | PromiseLike<T>,
  options?: RetryOptions,
): Promise<T>;
export function retry<R>(
  fn: (context: RetryContext) => R,
  options?: RetryOptions,
): Promise<Awaited<R>>;
export async function retry(
  fn: (context: RetryContext) => unknown,
  options?: RetryOptions,
): Promise<unknown> {
  requireFunction("retry", "fn", fn);
  let backoff = options === undefined ? undefined : new Backoff(options);
  const signal = backoff?.signal;
  for (let attempt = 1; ; attempt++) {
    signal?.throwIfAborted();
    try {
      return await fn(signal ? { attempt, signal } : new SignallessContext(attempt));
    } catch (error) {
      await (backoff ??= new Backoff({})).wait(attempt, error);
    }
  }
}

/** What happens between two attempts. Without options none is needed until one has failed. */
class Backoff {
  readonly signal: AbortSignal | undefined;
  readonly #attempts: number;
  readonly #factor: number;
  readonly #maxDelay: number;
  readonly #jitter: RetryOptions["jitter"];
  readonly #retryIf: RetryOptions["retryIf"];
  readonly #delay: RetryOptions["delay"];
  readonly #onRetry: RetryOptions["onRetry"];
  readonly #errors: unknown[] = [];
  #next: number;

  constructor(options: RetryOptions) {
    requireOptions("retry", options);
    const { attempts = 3, baseDelay = 100, factor = 2, maxDelay = 30_000 } = options;
    const { jitter = "full", retryIf, delay, onRetry, signal } = options;
    requireCount("retry", "attempts", attempts);
    requireFinite("retry", "baseDelay", baseDelay);
    requireFinite("retry", "factor", factor, 1);
    requireDuration("retry", "maxDelay", maxDelay);
    if (jitter !== "full" && jitter !== "none") {
      throw invalid("retry", "jitter", '"full" or "none"', jitter);
    }
    if (retryIf !== undefined) requireFunction("retry", "retryIf", retryIf);
    if (delay !== undefined) requireFunction("retry", "delay", delay);
    if (onRetry !== undefined) requireFunction("retry", "onRetry", onRetry);
    requireSignal("retry", signal);
    this.signal = signal ?? undefined;
    this.#attempts = attempts;
    this.#factor = factor;
    // Never Infinity, which times 0 would be NaN.
    this.#maxDelay = Math.min(maxDelay, Number.MAX_VALUE);
    this.#jitter = jitter;
    this.#retryIf = retryIf;
    this.#delay = delay;
    this.#onRetry = onRetry;
    this.#next = baseDelay;
  }

  /** Waits for the next attempt, or throws if there is to be none. */
  async wait(attempt: number, error: unknown): Promise<void> {
    const { signal } = this;
    const [retryIf, delay, onRetry] = [this.#retryIf, this.#delay, this.#onRetry];
    signal?.throwIfAborted();
    const again = retryIf ? await retryIf(error) : !isAbortError(error);
    signal?.throwIfAborted();
    if (!again) throw error;
    if (this.#attempts !== Infinity) this.#errors.push(error);
    if (attempt === this.#attempts) throw new RetryError(this.#errors);
    const backoff = Math.min(this.#next, this.#maxDelay);
    this.#next = backoff * this.#factor;
    const asked = delay && (await delay(attempt, error));
    const ms = asked ?? (this.#jitter === "none" ? 1 : Math.random()) * backoff;
    if (!(typeof ms === "number" && ms >= 0)) {
      throw Object.assign(invalid("retry", "delay", "a number of 0 or more", ms), { cause: error });
    }
    signal?.throwIfAborted();
    if (onRetry) await onRetry({ attempt, error, delay: ms });
    await sleep(ms, signal);
  }
}

/** Makes its signal when it is first read, because few read it and a controller is expensive. */
class SignallessContext implements RetryContext {
  readonly attempt: number;
  #signal: AbortSignal | undefined;

  constructor(attempt: number) {
    this.attempt = attempt;
  }

  get signal(): AbortSignal {
    return (this.#signal ??= new AbortController().signal);
  }
}

/** When a {@link CircuitBreaker} opens, and when it closes again. */
export interface CircuitBreakerOptions {
  /** The number of failures in a row that opens it: a positive integer. */
  failureThreshold: number;
  /** Milliseconds for which it stays open before it lets probes through. */
  resetAfter: number;
  /** The number of probes, all of which must succeed: a positive integer. Default: 1. */
  halfOpenCalls?: number | undefined;
  /**
   * Whether the error says that the service is down. An error that doesn't (a 404, say) counts as a
   * success, because the service has answered. Default: every error does.
   */
  isFailure?: ((error: unknown) => boolean) | undefined;
}

/** Whether all calls go through, none, or only probes. */
export type CircuitState = "closed" | "open" | "half-open";

/** The circuit breaker has refused the call. */
export class CircuitOpenError extends Error {
  override readonly name = "CircuitOpenError";
  /** Milliseconds until probes are let through; undefined while they are running. */
  readonly retryAfter: number | undefined;

  /** @param retryAfter milliseconds until probes are let through, if that is known */
  constructor(retryAfter: number | undefined) {
    super(
      retryAfter === undefined
        ? "Circuit is half-open: its probes still run"
        : `Circuit is open: it can be tried again in ${retryAfter} ms`,
    );
    this.retryAfter = retryAfter;
  }
}

/**
 * Stops calling a service that is down, so that callers fail at once and the service can recover.
 *
 * After `failureThreshold` failures in a row it opens. After `resetAfter` it is half-open and lets
 * `halfOpenCalls` probes through: when all of them have succeeded it closes, when one fails it
 * opens again. The outcome of a call that began before the last opening or closing is ignored.
 *
 * Aborted calls count neither as failures nor as successes. A TimeoutError is a failure, even as
 * the signal's reason. Set a time limit: a probe that hangs keeps the breaker half-open.
 *
 * Source of the idea: Michael Nygard, "Release It!"; resilience4j, which waits for all probes.
 *
 * @example Refuse at once while the service is down
 * ```ts
 * import { CircuitBreaker, CircuitOpenError } from "./errors.ts";
 *
 * const breaker = new CircuitBreaker({ failureThreshold: 2, resetAfter: 10_000 });
 * let calls = 0;
 * const ask = () => {
 *   calls++;
 *   throw new Error("down");
 * };
 *
 * for (let i = 0; i < 5; i++) await breaker.call(ask).catch(() => "a cached answer");
 * console.assert(calls === 2 && breaker.state === "open");
 *
 * const refused: unknown = await breaker.call(ask).catch((error) => error);
 * console.assert(refused instanceof CircuitOpenError && refused.retryAfter! <= 10_000);
 * ```
 */
export class CircuitBreaker {
  readonly #failureThreshold: number;
  readonly #resetAfter: number;
  readonly #halfOpenCalls: number;
  readonly #isFailure: (error: unknown) => boolean;
  #era = new Era();

  /**
   * @throws {TypeError} an option is of the wrong kind
   * @throws {RangeError} a number is out of range
   */
  constructor(options: CircuitBreakerOptions) {
    const action = "create CircuitBreaker";
    requireOptions(action, options);
    const {
      failureThreshold,
      resetAfter,
      halfOpenCalls = 1,
      isFailure = () => true,
    } = options ?? {};
    requirePositiveInteger(action, "failureThreshold", failureThreshold);
    requireFinite(action, "resetAfter", resetAfter);
    requirePositiveInteger(action, "halfOpenCalls", halfOpenCalls);
    requireFunction(action, "isFailure", isFailure);
    this.#failureThreshold = failureThreshold;
    this.#resetAfter = resetAfter;
    this.#halfOpenCalls = halfOpenCalls;
    this.#isFailure = isFailure;
  }

  /** Whether the next calls go through, none of them, or only probes. */
  get state(): CircuitState {
    if (this.#era.openedAt === undefined) return "closed";
    return this.#timeLeft() > 0 ? "open" : "half-open";
  }

  /**
   * Calls `task` unless the circuit is open, and returns its result, even after an abort.
   *
   * @throws {CircuitOpenError} the circuit is open, or half-open and its probes are running
   * @throws what `task` throws, or `isFailure`
   * @throws the signal's reason, if it is already aborted
   * @throws {TypeError} an argument is of the wrong kind
   */
  call<T>(task: Task<T>, options?: WaitOptions): Promise<T>;
  call<R>(task: (signal: AbortSignal) => R, options?: WaitOptions): Promise<Awaited<R>>;
  async call(task: Task<unknown>, options?: WaitOptions): Promise<unknown> {
    const action = "call through CircuitBreaker";
    requireFunction(action, "task", task);
    requireOptions(action, options);
    const signal = options?.signal;
    requireSignal(action, signal);
    signal?.throwIfAborted();
    const era = this.#era;
    if (era.openedAt !== undefined) this.#admit(era);
    era.running++;
    try {
      const value = await task(signal ?? neverAborted(task));
      this.#succeeded(era);
      return value;
    } catch (error) {
      const aborted = signal?.aborted && error === signal.reason && !isTimeoutError(error);
      if (!aborted && !isAbortError(error)) {
        if (this.#isFailure(error)) this.#failed(era);
        else this.#succeeded(era);
      }
      throw error;
    } finally {
      era.running--;
    }
  }

  #admit({ running, successes }: Era): void {
    const ms = this.#timeLeft();
    if (ms > 0) throw new CircuitOpenError(Math.ceil(ms));
    if (running + successes >= this.#halfOpenCalls) throw new CircuitOpenError(undefined);
  }

  /** Milliseconds until it is half-open. */
  #timeLeft(): number {
    const now = performance.now();
    // A clock that has gone back is another clock, for example after virtual time: start anew.
    if (now < this.#era.openedAt!) this.#era.openedAt = now;
    return this.#resetAfter - (now - this.#era.openedAt!) - ROUNDING;
  }

  #succeeded(era: Era): void {
    era.failures = 0;
    if (era.openedAt === undefined) return;
    if (++era.successes === this.#halfOpenCalls) this.#era = new Era();
  }

  #failed(era: Era): void {
    if (era !== this.#era) return;
    if (era.openedAt === undefined && ++era.failures < this.#failureThreshold) return;
    this.#era = new Era(performance.now());
  }
}

/** Milliseconds that sums of times may be wrong by. */
const ROUNDING = 0.001;

/** The time between two changes of the circuit: a call reports to the era in which it began. */
class Era {
  running = 0;
  failures = 0;
  successes = 0;
  /** Undefined while the circuit is closed. */
  openedAt: number | undefined;

  constructor(openedAt?: number) {
    this.openedAt = openedAt;
  }
}

/**
 * Calls `fn` and returns its outcome instead of throwing: at once, or as a promise if `fn` returns
 * a promise (anything with a `then` method).
 *
 * Await the outcome of a function that is not `async` but returns a promise: if it throws before it
 * returns, the outcome comes at once.
 *
 * Source of the idea: Rust's `Result`.
 *
 * @throws {TypeError} `fn` is not a function
 *
 * @example
 * ```ts
 * import { attempt } from "./errors.ts";
 *
 * const parsed = attempt(() => JSON.parse("{"));
 * console.assert(!parsed.ok && parsed.error instanceof SyntaxError);
 *
 * const answer = await attempt(async () => 42);
 * console.assert(answer.ok && answer.value === 42);
 * ```
 */
export function attempt<R>(fn: () => R): Attempted<R> {
  requireFunction("attempt", "fn", fn);
  let outcome: unknown;
  try {
    const result: unknown = fn();
    const isPromise = typeof Object(result).then === "function";
    outcome = isPromise ? Promise.resolve(result).then(succeeded, failed) : succeeded(result);
  } catch (error) {
    outcome = failed(error);
  }
  return outcome as Attempted<R>;
}

function succeeded<T>(value: T): Attempt<T> {
  return { ok: true, value };
}

function failed(error: unknown): Attempt<never> {
  return { ok: false, error };
}

/**
 * The single errors inside nested AggregateErrors and SuppressedErrors, in order (`error` before
 * `suppressed`); `[error]` if it is neither. An empty group counts as a single error, and the
 * errors of a group that occurs twice are listed once.
 *
 * Groups are recognized by name, so those of other realms are looked into as well; a group that
 * can't be looked into, because a getter throws or a proxy is revoked, counts as a single error.
 *
 * Source of the idea: Go's `errors.Join`, backwards.
 *
 * @example
 * ```ts
 * import { flattenErrors } from "./errors.ts";
 *
 * const error = new AggregateError([1, new AggregateError([2, 3])]);
 * console.assert(flattenErrors(error).join() === "1,2,3");
 * ```
 */
export function flattenErrors(error: unknown): unknown[] {
  const single: unknown[] = [];
  const groups = new Set<unknown>();
  const todo = [error];
  while (todo.length > 0) {
    const next = todo.pop();
    const inner = innerErrors(next);
    if (inner.length === 0) single.push(next);
    else if (!groups.has(next)) {
      groups.add(next);
      for (const error of inner.reverse()) todo.push(error);
    }
  }
  return single;
}

/**
 * Splits nested AggregateErrors and SuppressedErrors in two: what matches, and the rest. Each half
 * keeps the nesting, with the message, cause and stack of each group. A group without errors is
 * left out, a SuppressedError of which one error is left is replaced by that error, and a half
 * without errors is undefined.
 *
 * A group is matched before its errors: if it matches, it matches as a whole. A group that loses
 * nothing is kept, not copied. An empty group, or one that can't be looked into, counts as a single
 * error; a group inside itself is left out. Groups are recognized by name, those of other realms
 * included.
 *
 * Source of the idea: Python's `ExceptionGroup.split`, on which `except*` rests.
 *
 * @param match a predicate, or an error class, which matches its instances (a built-in class those
 *   of other realms, too)
 * @throws {TypeError} `match` is not a function
 * @throws what the predicate throws
 *
 * @example Handle the timeouts, pass on everything else
 * ```ts
 * import { isTimeoutError, splitErrors } from "./errors.ts";
 *
 * const late = new DOMException("too slow", "TimeoutError");
 * const error = new AggregateError([late, new RangeError("too big")], "two failed");
 *
 * const [timeouts, rest] = splitErrors(error, isTimeoutError);
 * console.assert(timeouts instanceof AggregateError && timeouts.errors[0] === late);
 * console.assert(rest instanceof AggregateError && rest.message === "two failed");
 * ```
 */
export function splitErrors(
  error: unknown,
  match: ((error: unknown) => boolean) | (abstract new (...args: never[]) => Error),
): [matched: unknown, rest: unknown] {
  requireFunction("split errors", "match", match);
  const matches = isErrorClass(match) ? (error: unknown) => isInstance(error, match) : match;
  const splits = new Map<unknown, Split>();
  // A loop, because deeply nested groups would overflow the stack.
  let split = new Split(undefined, [error], undefined);
  while (true) {
    if (split.next < split.inner.length) {
      const error = split.inner[split.next++];
      const inner = matches(error) ? undefined : innerErrors(error);
      if (!inner) split.add([error], []);
      else if (inner.length === 0) split.add([], [error]);
      else if (splits.has(error)) split.add(...splits.get(error)!.halves);
      else splits.set(error, (split = new Split(error, inner, split)));
    } else if (split.parent) {
      const { group, inner, matched, rest, parent } = split;
      split.halves = [regroup(group, inner, matched), regroup(group, inner, rest)];
      parent.add(...split.halves);
      split = parent;
    } else return [split.matched[0], split.rest[0]];
  }
}

/** A group that is being split or has been. */
class Split {
  readonly group: unknown;
  readonly inner: unknown[];
  readonly parent: Split | undefined;
  /** The index of the inner error whose turn it is. */
  next = 0;
  readonly matched: unknown[] = [];
  readonly rest: unknown[] = [];
  /**
   * What is left of the group on either side: a list of one or none, because `undefined` may have
   * been thrown. Both are empty until the group has been split, so a group inside itself is left
   * out.
   */
  halves: [matched: unknown[], rest: unknown[]] = [[], []];

  constructor(group: unknown, inner: unknown[], parent: Split | undefined) {
    this.group = group;
    this.inner = inner;
    this.parent = parent;
  }

  add(matched: unknown[], rest: unknown[]): void {
    this.matched.push(...matched);
    this.rest.push(...rest);
  }
}

function regroup(group: unknown, inner: unknown[], part: unknown[]): unknown[] {
  if (part.length === 0) return [];
  if (part.length === inner.length && part.every((e, i) => Object.is(e, inner[i]))) return [group];
  const isPair = hasName(group, "SuppressedError");
  if (isPair && part.length === 1) return part;
  const copy = isPair ? new SuppressedError(part[0], part[1]) : new AggregateError(part);
  for (const key of ["message", "cause", "stack"]) {
    const value = read(group, key);
    if (value === undefined) continue;
    Object.defineProperty(copy, key, { value, writable: true, configurable: true });
  }
  return [copy];
}

/** The errors directly inside a group; none if it is a single error or can't be looked into. */
function innerErrors(error: unknown): unknown[] {
  const group = error as AggregateError & SuppressedError;
  try {
    if (hasName(group, "SuppressedError")) {
      return "suppressed" in group ? [group.error, group.suppressed] : [];
    }
    const errors: unknown = hasName(group, "AggregateError") && group.errors;
    return Array.isArray(errors) ? [...errors] : [];
  } catch {
    return [];
  }
}

/**
 * Whether the value or one of its prototypes has this name of its own. So a class is known by the
 * name of its prototype, in whatever realm it was made.
 */
function hasName(value: unknown, name: string): boolean {
  try {
    // A proxy can be its own prototype.
    for (let links = 0; Object(value) === value && links < 100; links++) {
      if (ownName(value) === name) return true;
      value = Object.getPrototypeOf(value);
    }
  } catch {
    // A revoked proxy, for example, has no name.
  }
  return false;
}

function ownName(value: unknown): unknown {
  return Object.getOwnPropertyDescriptor(value, "name")?.value;
}

function isErrorClass(fn: Function): fn is abstract new (...args: never[]) => Error {
  return hasName(fn.prototype, "Error");
}

function isInstance(error: unknown, Class: abstract new (...args: never[]) => Error): boolean {
  try {
    if (error instanceof Class) return true;
    const isBuiltIn = Reflect.get(globalThis, Class.name) === Class;
    return isBuiltIn && hasName(Object.getPrototypeOf(error), Class.name);
  } catch {
    return false;
  }
}

/**
 * Whether the error says that the work is no longer wanted. It goes by the name, so it recognizes
 * the errors of other realms and libraries, which `instanceof DOMException` does not.
 *
 * @example
 * ```ts
 * import { isAbortError } from "./errors.ts";
 *
 * console.assert(isAbortError(AbortSignal.abort().reason));
 * ```
 */
export function isAbortError(error: unknown): error is Error & { name: "AbortError" } {
  return typeof error === "object" && read(error, "name") === "AbortError";
}

/**
 * Whether the error says that time has run out, as that of `AbortSignal.timeout` does. It goes by
 * the name, so it recognizes the errors of other realms and libraries.
 *
 * @example
 * ```ts
 * import { isTimeoutError } from "./errors.ts";
 *
 * console.assert(isTimeoutError(new DOMException("too slow", "TimeoutError")));
 * ```
 */
export function isTimeoutError(error: unknown): error is Error & { name: "TimeoutError" } {
  return typeof error === "object" && read(error, "name") === "TimeoutError";
}

/** A property of something that was thrown; undefined if reading it throws. */
function read(error: unknown, key: string): unknown {
  try {
    return (error as Record<string, unknown>)[key];
  } catch {
    return undefined;
  }
}

/**
 * A signal that is never aborted. A task that declares no parameter is given one that is shared,
 * because a controller is expensive.
 */
function neverAborted(task: Task<unknown>): AbortSignal {
  if (task.length > 0) return new AbortController().signal;
  return (sharedSignal ??= new AbortController().signal);
}

let sharedSignal: AbortSignal | undefined;

function requireFinite(action: string, name: string, value: number, min = 0): void {
  if (Number.isFinite(value) && value >= min) return;
  throw invalid(action, name, `a finite number of at least ${min}`, value);
}

// ─── Shared ──────────────────────────────────────────────────────────────────────────────────────
// These stand in several concepts, the same to the letter, because a concept imports nothing.

/** What every wait takes. */
export interface WaitOptions {
  /** Ends the wait: it rejects with the signal's reason, and has taken nothing. */
  signal?: AbortSignal | undefined;
}

/** Work that stops when its signal is aborted, if it can. */
export type Task<T> = (signal: AbortSignal) => T | PromiseLike<T>;

/** Waits at least `ms` milliseconds, or rejects with the signal's reason. */
function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(signal.reason);
    const stopTimer = startTimer(ms, () => {
      stopListening();
      resolve();
    });
    const stopListening = onAbort(signal, (reason) => {
      stopTimer();
      reject(reason);
    });
  });
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

// ─── Demo: `bun concepts/errors.ts` ──────────────────────────────────────────────────────────────

/** A service is down for 250 ms: two clients find out, a third is refused, all get through. */
export async function demo(log: (lane: string, state: string) => void = print): Promise<void> {
  const downUntil = performance.now() + 250;
  const breaker = new CircuitBreaker({ failureThreshold: 2, resetAfter: 150 });
  const client = async (lane: string, arrival: number) => {
    log(lane, "waiting");
    await sleep(arrival);
    const request = () => {
      log(lane, "running");
      if (performance.now() < downUntil) throw new Error("the service is down");
    };
    await retry(() => breaker.call(request), {
      attempts: 10,
      baseDelay: 50,
      jitter: "none",
      delay: (_, error) => (error instanceof CircuitOpenError ? error.retryAfter : undefined),
      onRetry: ({ error, delay }) => {
        const why = error instanceof CircuitOpenError ? "refused" : "failed";
        log(lane, `${why}, waiting ${Math.round(delay)} ms`);
      },
    });
    log(lane, "done");
  };
  await Promise.all([client("client 1", 0), client("client 2", 20), client("client 3", 40)]);
}

let start: number | undefined;

function print(lane: string, state: string): void {
  start ??= performance.now();
  const ms = Math.round(performance.now() - start);
  console.log(`+${String(ms).padStart(4)} ms  ${lane}  ${state}`);
}

if ((import.meta as { main?: boolean }).main) void demo();
