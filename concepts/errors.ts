/**
 * # Errors
 *
 * Try again what failed for a moment, stop asking what is down, and keep several errors apart.
 *
 * Reach for it wherever something outside your program can fail: {@link retry} for a hiccup,
 * {@link CircuitBreaker} for an outage, {@link splitErrors} for the errors of many tasks at once,
 * {@link attempt} where an error is an answer like any other.
 *
 * Without it everybody who was cut off tries again in step, and so keeps a service down that was
 * coming up; a loop that retries goes on after the user has left; and of ten errors nine are lost.
 *
 * Known elsewhere as: Python's `ExceptionGroup` and `except*`; Go's `errors.Join`; tenacity,
 * resilience4j and Polly; p-retry and opossum on npm.
 *
 * @module
 */

/** How it went: the value, or the error. */
export type Attempt<T> =
  { readonly ok: true; readonly value: T } | { readonly ok: false; readonly error: unknown };

/** What {@link attempt} makes of what its function returns; `any` counts as no promise. */
export type Attempted<R> = unknown extends R
  ? Attempt<R>
  : [Extract<R, PromiseLike<unknown>>] extends [never]
    ? Attempt<R>
    : R extends PromiseLike<infer T>
      ? Promise<Attempt<T>>
      : Attempt<R>;

/** What every wait can be told. */
export interface WaitOptions {
  /** Ends the wait: it rejects with the signal's reason. */
  signal?: AbortSignal | undefined;
}

/** What {@link retry} tells the function that it calls. */
export interface RetryContext {
  /** Which attempt this is, counting from 1. */
  readonly attempt: number;
  /** The signal that was given to `retry`, or else one that is never aborted. */
  readonly signal: AbortSignal;
}

/** What {@link RetryOptions.onRetry} is told. */
export interface RetryEvent {
  /** Which attempt failed, counting from 1. */
  readonly attempt: number;
  /** What it failed with. */
  readonly error: unknown;
  /** Milliseconds until the next attempt. */
  readonly delay: number;
}

/** How often, when and for which errors {@link retry} tries again. */
export interface RetryOptions extends WaitOptions {
  /** How many attempts in all: a positive integer, or Infinity. Default: 3. */
  attempts?: number | undefined;
  /** Milliseconds before the second attempt. Default: 100. */
  baseDelay?: number | undefined;
  /** By what each further delay grows: at least 1. Default: 2. */
  factor?: number | undefined;
  /** Milliseconds that the growth stops at; may be Infinity. Default: 30,000. */
  maxDelay?: number | undefined;
  /**
   * `"full"` waits a random time between 0 and the delay, so that those who failed together don't
   * come back together; `"none"` waits the delay itself. Default: `"full"`.
   */
  jitter?: "full" | "none" | undefined;
  /**
   * Whether this error is worth another attempt. Default: all but AbortErrors, since whoever raised
   * one wanted the work to stop.
   */
  retryIf?: ((error: unknown) => boolean) | undefined;
  /**
   * Milliseconds to wait after this attempt, as a server's Retry-After asks for: neither `jitter`
   * nor `maxDelay` changes them. Undefined leaves it to the other options.
   */
  delay?: ((attempt: number, error: unknown) => number | undefined) | undefined;
  /** Called before each wait. */
  onRetry?: ((event: RetryEvent) => void) | undefined;
}

/** All attempts failed: `errors` has the error of each in order, `cause` the last. */
export class RetryError extends AggregateError {
  override readonly name = "RetryError";
  /** How many attempts were made. */
  readonly attempts: number;

  /** @param errors what each attempt failed with */
  constructor(errors: readonly unknown[]) {
    super(errors, `Gave up after attempt ${errors.length}`, { cause: errors.at(-1) });
    this.attempts = errors.length;
  }
}

/**
 * Calls `fn` until it succeeds, waiting longer after each failure, and returns what it returns.
 *
 * An abort ends a wait at once. An attempt that runs is waited for: its value is returned, its
 * error gives way to the signal's reason. It has no time limit, unless `fn` sets one.
 *
 * With infinitely many attempts no error is kept, since nobody could ever read it; `onRetry` can.
 *
 * Source of the idea: exponential backoff with full jitter, as measured by AWS's architects.
 *
 * @throws {RetryError} all attempts failed
 * @throws the error itself, if `retryIf` refuses it; those before it went to `onRetry`
 * @throws whatever `retryIf`, `delay` or `onRetry` throws, which ends it
 * @throws {TypeError} an option is of the wrong kind
 * @throws {RangeError} a number is out of range, be it an option or what `delay` returns
 * @throws the signal's reason, once it is aborted
 *
 * @example Do what the server asks for, and otherwise back off
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
export async function retry<T>(
  fn: (context: RetryContext) => T | PromiseLike<T>,
  options: RetryOptions = {},
): Promise<T> {
  const { attempts = 3, baseDelay = 100, factor = 2, maxDelay = 30_000, jitter = "full" } = options;
  const { retryIf = (error) => !isAbortError(error), delay, onRetry } = options;
  const { signal = new AbortController().signal } = options;
  callable("retry", "fn", fn);
  if (attempts !== Infinity) positiveInteger("retry", "attempts", attempts);
  finiteNumber("retry", "baseDelay", baseDelay);
  finiteNumber("retry", "factor", factor, 1);
  if (maxDelay !== Infinity) finiteNumber("retry", "maxDelay", maxDelay);
  if (jitter !== "full" && jitter !== "none") {
    throw invalid("retry", "jitter", '"full" or "none"', jitter);
  }

  const errors: unknown[] = [];
  for (let attempt = 1, backoff = baseDelay; ; attempt++, backoff *= factor) {
    signal.throwIfAborted();
    try {
      return await fn({ attempt, signal });
    } catch (error) {
      signal.throwIfAborted();
      if (!retryIf(error)) throw error;
      if (attempts !== Infinity) errors.push(error);
      if (attempt === attempts) throw new RetryError(errors);
      const scale = jitter === "full" ? Math.random() : 1;
      const ms = delay?.(attempt, error) ?? scale * Math.min(backoff, maxDelay);
      if (!(ms >= 0)) {
        throw Object.assign(invalid("retry", "delay", "at least 0", ms), { cause: error });
      }
      onRetry?.({ attempt, error, delay: ms });
      await sleep(ms, signal);
    }
  }
}

/** When a {@link CircuitBreaker} opens, and when it closes again. */
export interface CircuitBreakerOptions {
  /** How many failures in a row open it: a positive integer. */
  failureThreshold: number;
  /** Milliseconds for which it stays open before it lets probes through. */
  resetAfter: number;
  /** How many probes it lets through, all of which must succeed: a positive integer. Default: 1. */
  halfOpenCalls?: number | undefined;
  /**
   * Whether the error says that the service is down. One that doesn't (a 404, say) counts as a
   * success, since the service has answered. Default: all do.
   */
  isFailure?: ((error: unknown) => boolean) | undefined;
}

/** Calls go through; none does; or only probes do. */
export type CircuitState = "closed" | "open" | "half-open";

/** The circuit breaker has refused the call. */
export class CircuitOpenError extends Error {
  override readonly name = "CircuitOpenError";
  /** Milliseconds until probes are let through; undefined while the probes' outcome is awaited. */
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
 * It opens after so many failures in a row. After `resetAfter` it is half-open: so many probes are
 * let through. When all of them have succeeded it closes; when one fails it opens anew. A call that
 * began before it opened, or opened anew, changes nothing when it ends.
 *
 * Aborted calls count neither as failures nor as successes. A TimeoutError does count as a failure,
 * even as the signal's reason. Set a limit: a probe that hangs keeps the breaker half-open.
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
    const { failureThreshold, resetAfter, halfOpenCalls = 1, isFailure = () => true } = options;
    const action = "create CircuitBreaker";
    this.#failureThreshold = positiveInteger(action, "failureThreshold", failureThreshold);
    this.#resetAfter = finiteNumber(action, "resetAfter", resetAfter);
    this.#halfOpenCalls = positiveInteger(action, "halfOpenCalls", halfOpenCalls);
    this.#isFailure = callable(action, "isFailure", isFailure);
  }

  /** What it does with a call now. */
  get state(): CircuitState {
    if (this.#era.halfOpenAt === undefined) return "closed";
    return performance.now() < this.#era.halfOpenAt ? "open" : "half-open";
  }

  /**
   * Calls `task` unless the circuit is open, and returns what it returns.
   *
   * @throws {CircuitOpenError} the circuit is open, or half-open and its probes run already
   * @throws whatever `task` throws, or `isFailure`
   * @throws the signal's reason, if it is aborted already
   */
  async call<T>(
    task: (signal: AbortSignal) => T | PromiseLike<T>,
    { signal = new AbortController().signal }: WaitOptions = {},
  ): Promise<T> {
    callable("call through CircuitBreaker", "task", task);
    signal.throwIfAborted();
    const era = this.#era;
    this.#admit(era);
    era.running++;
    try {
      const value = await task(signal);
      this.#succeeded(era);
      return value;
    } catch (error) {
      const aborted = signal.aborted && error === signal.reason && !isTimeoutError(error);
      if (!aborted && !isAbortError(error)) {
        if (this.#isFailure(error)) this.#failed(era);
        else this.#succeeded(era);
      }
      throw error;
    } finally {
      era.running--;
    }
  }

  #admit({ halfOpenAt, running, successes }: Era): void {
    if (halfOpenAt === undefined) return;
    const ms = halfOpenAt - performance.now();
    if (ms > 0) throw new CircuitOpenError(Math.ceil(ms));
    if (running + successes >= this.#halfOpenCalls) throw new CircuitOpenError(undefined);
  }

  #succeeded(era: Era): void {
    era.failures = 0;
    if (era.halfOpenAt === undefined) return;
    if (++era.successes === this.#halfOpenCalls) this.#era = new Era();
  }

  #failed(era: Era): void {
    if (era !== this.#era) return;
    if (era.halfOpenAt === undefined && ++era.failures < this.#failureThreshold) return;
    this.#era = new Era(performance.now() + this.#resetAfter);
  }
}

/** From one change of the circuit to the next: a call reports to the era that it began in. */
class Era {
  running = 0;
  failures = 0;
  successes = 0;
  /** Undefined in an era in which the circuit is closed. */
  readonly halfOpenAt: number | undefined;

  constructor(halfOpenAt?: number) {
    this.halfOpenAt = halfOpenAt;
  }
}

/**
 * Calls `fn` and returns how it went, instead of throwing: at once, or as a promise if `fn` returns
 * one (anything with a `then` is one).
 *
 * An async result is best awaited: should `fn` throw before it has made its promise, there is none.
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
  callable("attempt", "fn", fn);
  const succeeded = (value: unknown) => ({ ok: true, value });
  const failed = (error: unknown) => ({ ok: false, error });
  const run = () => {
    const result: unknown = fn();
    const isPromise = typeof Object(result).then === "function";
    return isPromise ? Promise.resolve(result).then(succeeded, failed) : succeeded(result);
  };
  try {
    return run() as Attempted<R>;
  } catch (error) {
    return failed(error) as Attempted<R>;
  }
}

/**
 * The single errors inside nested AggregateErrors, in order; `[error]` if it is none. An empty
 * AggregateError counts as a single error, and a group that occurs twice is gone into once.
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
    if (!isGroup(next)) single.push(next);
    else if (!groups.has(next)) {
      groups.add(next);
      for (const inner of next.errors.toReversed()) todo.push(inner);
    }
  }
  return single;
}

/**
 * Splits nested AggregateErrors in two: what matches, and the rest. Each half keeps the nesting,
 * with the message, cause and stack of each group; groups without errors are left out, and a half
 * without errors is undefined.
 *
 * A group is asked itself before its errors are: if it matches, it matches as a whole. A group of
 * which nothing was split off is returned as it is, not as a copy. An empty group counts as a
 * single error; a group inside itself is left out.
 *
 * Source of the idea: Python's `ExceptionGroup.split`, on which `except*` rests.
 *
 * @param match a predicate, or an error class
 * @throws {TypeError} `match` is not a function
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
  match: ((error: unknown) => boolean) | (new (...args: never[]) => Error),
): [matched: unknown, rest: unknown] {
  callable("split errors", "match", match);
  const matches = isErrorClass(match) ? (error: unknown) => error instanceof match : match;
  const groups = new Map<AggregateError, Halves>();
  const split = (error: unknown): Halves => {
    if (matches(error)) return [[error], []];
    if (!isGroup(error)) return [[], [error]];
    const known = groups.get(error);
    if (known) return known;
    groups.set(error, [[], []]);
    const parts = error.errors.map(split);
    const matched = parts.flatMap((part) => part[0]);
    const rest = parts.flatMap((part) => part[1]);
    const halves: Halves = [regroup(error, matched), regroup(error, rest)];
    groups.set(error, halves);
    return halves;
  };
  const [[matched], [rest]] = split(error);
  return [matched, rest];
}

/** Each half holds one error or none; as lists, because `undefined` can be thrown, too. */
type Halves = [matched: unknown[], rest: unknown[]];

function regroup(group: AggregateError, errors: unknown[]): unknown[] {
  if (errors.length === 0) return [];
  const { errors: all, message, stack } = group;
  if (errors.length === all.length && errors.every((error, i) => error === all[i])) return [group];
  // The group serves as the options, too: all that is looked at there is a cause, if there is one.
  return [Object.assign(new AggregateError(errors, message, group), { stack })];
}

function isGroup(error: unknown): error is AggregateError {
  return error instanceof AggregateError && error.errors.length > 0;
}

function isErrorClass(fn: Function): fn is new (...args: never[]) => Error {
  return fn === Error || fn.prototype instanceof Error;
}

/**
 * Whether the error says that somebody wanted the work to stop. It goes by the name, and so knows
 * the errors of other realms and libraries, which `instanceof DOMException` doesn't.
 *
 * @example
 * ```ts
 * import { isAbortError } from "./errors.ts";
 *
 * console.assert(isAbortError(AbortSignal.abort().reason));
 * ```
 */
export function isAbortError(error: unknown): error is Error & { name: "AbortError" } {
  return isNamed(error, "AbortError");
}

/**
 * Whether the error says that time has run out, as that of `AbortSignal.timeout` does. It goes by
 * the name, and so knows the errors of other realms and libraries.
 *
 * @example
 * ```ts
 * import { isTimeoutError } from "./errors.ts";
 *
 * console.assert(isTimeoutError(new DOMException("too slow", "TimeoutError")));
 * ```
 */
export function isTimeoutError(error: unknown): error is Error & { name: "TimeoutError" } {
  return isNamed(error, "TimeoutError");
}

function isNamed(error: unknown, name: string): boolean {
  return typeof error === "object" && (error as Error | null)?.name === name;
}

async function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  signal?.throwIfAborted();
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, Math.min(ms, LONGEST_TIMER));
  const stopListening = onAbort(signal, reject);
  try {
    await promise;
  } finally {
    stopListening();
    clearTimeout(timer);
  }
  if (ms > LONGEST_TIMER) await sleep(ms - LONGEST_TIMER, signal);
}

/** Milliseconds; a timer that is set to more fires at once. */
const LONGEST_TIMER = 2 ** 31 - 1;

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

function positiveInteger(action: string, name: string, value: number): number {
  if (Number.isInteger(value) && value > 0) return value;
  throw invalid(action, name, "a positive integer", value);
}

function finiteNumber(action: string, name: string, value: number, min = 0): number {
  if (Number.isFinite(value) && value >= min) return value;
  throw invalid(action, name, `a finite number of at least ${min}`, value);
}

function callable<F>(action: string, name: string, value: F): F {
  if (typeof value === "function") return value;
  throw new TypeError(`Cannot ${action}: ${name} must be a function, received ${String(value)}`);
}

function invalid(action: string, name: string, expected: string, value: unknown): Error {
  const Kind = typeof value === "number" ? RangeError : TypeError;
  return new Kind(`Cannot ${action}: ${name} must be ${expected}, received ${String(value)}`);
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

if ((import.meta as { main?: boolean }).main) await demo();
