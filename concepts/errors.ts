// async-concepts 0.3.0, MIT License. A file to copy and own; please keep this line.

/**
 * # Errors
 *
 * Retry what failed for a moment, stop calling what is down, and keep several errors apart.
 *
 * Reach for it wherever something outside your program can fail: {@link retry} for a hiccup,
 * {@link CircuitBreaker} for an outage, {@link splitErrors} for the errors of many tasks at once,
 * {@link attempt} where an error is an ordinary result.
 *
 * Without it all clients retry in step and bring the recovering service down again; a retry loop
 * goes on after its caller has left; and of ten errors nine are lost.
 *
 * Known elsewhere as: Python's `ExceptionGroup`, its `split` and `except*`; Go's `errors.Join`;
 * Rust's `Result`; tenacity, resilience4j and Polly; p-retry and opossum on npm.
 *
 * @module
 */

/** The outcome of a call: its value or its error. */
export type Attempt<T> =
  { readonly ok: true; readonly value: T } | { readonly ok: false; readonly error: unknown };

/** The {@link Attempt} of a function that returns `R`, or a promise of it if `R` is a promise. */
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
  /** That of the options, or one that is never aborted; then a copy `{ ...context }` lacks it. */
  readonly signal: AbortSignal;
}

/** The argument of {@link RetryOptions.onRetry}. */
export interface RetryEvent {
  /** The number of the attempt that failed, counting from 1. */
  readonly attempt: number;
  readonly error: unknown;
  /** Milliseconds until the next attempt, counted from when `onRetry` has finished. */
  readonly delay: number;
}

/** How often, when and after which errors {@link retry} tries again. Its functions may be async. */
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
   * Milliseconds after which no attempt begins, counted from the beginning of the first. If the next
   * delay would end later, it gives up at once. It ends no running attempt. Default: Infinity.
   */
  maxElapsed?: number | undefined;
  /**
   * Whether to try again after this error. Default: after all but AbortErrors, TypeErrors,
   * RangeErrors and ReferenceErrors, by name. The TypeErrors of a `fetch` that didn't reach its
   * server are told by their message, and tried again.
   */
  retryIf?: ((error: unknown) => boolean | PromiseLike<boolean>) | undefined;
  /**
   * Milliseconds to wait after this attempt, such as those of a Retry-After header: exactly these,
   * Infinity until the signal is aborted. Undefined leaves the delay to the other options.
   */
  delay?:
    | ((attempt: number, error: unknown) => number | undefined | PromiseLike<number | undefined>)
    | undefined;
  /** Called before each wait. */
  onRetry?: ((event: RetryEvent) => unknown) | undefined;
}

/** When a {@link CircuitBreaker} opens, and when it closes again. */
export interface CircuitBreakerOptions {
  /** The number of failures in a row that opens it. Required, unless there is a `failureRate`. */
  failureThreshold?: number | undefined;
  /**
   * The share of failures among the calls that ended in the last `window` ms, above 0 and at most 1.
   * The failure that reaches it opens the circuit, if as many as `minimumCalls` have ended.
   */
  failureRate?: number | undefined;
  /** Milliseconds, counted in tenths of it: a positive integer. Default: 10,000. */
  window?: number | undefined;
  /** The number of calls that a rate needs: a positive integer. Default: 10. */
  minimumCalls?: number | undefined;
  /** Milliseconds for which it stays open before it lets probes through. */
  resetAfter: number;
  /** The number of probes, all of which must succeed: a positive integer. Default: 1. */
  halfOpenCalls?: number | undefined;
  /**
   * Whether the error says that the service is down. One that doesn't (a 404, say) counts as a
   * success. Default: every error does.
   */
  isFailure?: ((error: unknown) => boolean) | undefined;
  /** Whether a result says that the service is down, a response 503, say. Default: none does. */
  isFailedResult?: ((value: any) => boolean) | undefined;
}

/** Closed: all calls go through. Open: none does. Half-open: only probes do. */
export type CircuitState = "closed" | "open" | "half-open";

/** All attempts failed, or time ran out: `errors` has the error of each in order, `cause` the last. */
export class RetryError extends AggregateError {
  override readonly name = "RetryError";
  readonly attempts: number;

  constructor(errors: readonly unknown[]) {
    super(errors, `Gave up after attempt ${errors.length}`, { cause: errors.at(-1) });
    this.attempts = errors.length;
  }
}

/**
 * Calls `fn` until it succeeds, waiting longer after each failure, and returns its result.
 *
 * An abort ends a wait at once. A running attempt is waited for: its result is still returned, its
 * error is replaced by the signal's reason. An attempt has no time limit unless `fn` sets one. With
 * neither `attempts` nor `maxElapsed` finite, errors are not kept: only `onRetry` is told of them.
 *
 * Source of the idea: exponential backoff with full jitter, as measured by AWS's architects.
 *
 * @throws {RetryError} all attempts failed, or `maxElapsed` leaves no time for another
 * @throws the error itself, if `retryIf` refuses it; `onRetry` has been told of those before it
 * @throws what `retryIf`, `delay` or `onRetry` throws; in a SuppressedError with the error that it
 *   was asked about, unless it is that error or has it as its `cause`
 * @throws {TypeError | RangeError} an argument, or what `delay` returns, is not what it must be
 * @throws the signal's reason, once it is aborted
 *
 * @example Do what the server asks for, and back off otherwise
 * ```ts
 * import { retry, type RetryContext } from "./errors.ts";
 *
 * const request = async ({ attempt }: RetryContext) => {
 *   if (attempt === 1) throw new Error("busy", { cause: { retryAfter: 5 } });
 *   return "ready";
 * };
 * const delay = (_: number, error: any) => error.cause?.retryAfter;
 * console.assert((await retry(request, { delay })) === "ready");
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
export function retry(
  fn: (context: RetryContext) => unknown,
  options?: RetryOptions,
): Promise<unknown> {
  let settings = DEFAULTS;
  try {
    requireFunction("retry", "fn", fn);
    if (options !== undefined) settings = withDefaults(options);
    settings.signal?.throwIfAborted();
  } catch (error) {
    return Promise.reject(error);
  }
  const start = settings.maxElapsed === Infinity ? 0 : performance.now();
  const first = begin(fn, contextOf(1, settings.signal));
  return first.then(undefined, (error) => retryAfter(error, fn, settings, start));
}

/** All that comes after the first failure; apart, because an async function costs more. */
async function retryAfter(
  error: unknown,
  fn: (context: RetryContext) => unknown,
  settings: typeof DEFAULTS,
  start: number,
): Promise<unknown> {
  const { attempts, baseDelay, factor, maxDelay, maxElapsed, jitter } = settings;
  const { retryIf, delay, onRetry, signal } = settings;
  const errors: unknown[] = [];
  const ask = async <T>(hook: () => T): Promise<Awaited<T>> => {
    try {
      return await hook();
    } catch (thrown) {
      throw withOlder(thrown, error);
    } finally {
      signal?.throwIfAborted();
    }
  };
  for (let attempt = 1; ; attempt++) {
    signal?.throwIfAborted();
    const again = retryIf ? await ask(() => retryIf(error)) : isTransient(error);
    if (!again) throw error;
    if (attempts !== Infinity || maxElapsed !== Infinity) errors.push(error);
    if (attempt === attempts) throw new RetryError(errors);
    // Never Infinity, which times 0 would be NaN.
    const growth = Math.min(factor ** (attempt - 1), Number.MAX_VALUE);
    const backoff = Math.min(baseDelay * growth, maxDelay, Number.MAX_VALUE);
    const jittered = (jitter === "full" ? Math.random() : 1) * backoff;
    const ms = (delay && (await ask(() => delay(attempt, error)))) ?? jittered;
    if (!(typeof ms === "number" && ms >= 0)) {
      const wrong = invalid("retry", "delay", "a number of 0 or more", ms);
      throw Object.assign(wrong, { cause: error });
    }
    const requireTime = () => {
      const now = performance.now();
      // A clock that has gone back is another clock.
      if (now < start) start = now;
      if (now - start + ms > maxElapsed + ROUNDING) throw new RetryError(errors);
    };
    requireTime();
    if (onRetry) {
      await ask(() => onRetry({ attempt, error, delay: ms }));
      requireTime();
    }
    await sleep(ms, signal);
    signal?.throwIfAborted();
    try {
      return await fn(contextOf(attempt + 1, signal));
    } catch (next) {
      error = next;
    }
  }
}

/** What was thrown while an older error was handled. Both can be read from the result. */
function withOlder(thrown: unknown, older: unknown): unknown {
  if (thrown === older || read(thrown, "cause") === older) return thrown;
  return new SuppressedError(thrown, older, "Handling an error failed");
}

/** Milliseconds by which sums of a clock's fractions may be wrong. */
const ROUNDING = 0.001;

function isTransient(error: unknown): boolean {
  const name = read(error, "name");
  if (name !== "TypeError") {
    return !["AbortError", "RangeError", "ReferenceError"].includes(name as string);
  }
  const code = read(error, "code");
  if (typeof code === "string") return !code.startsWith("ERR_");
  return NETWORK.test(String(read(error, "message")));
}

/** What browsers, Bun, Deno, Node and Cloudflare say when a `fetch` fails on its way. */
const NETWORK =
  /(?<![.'\w])(network|connect|terminated|(fetch|load) failed|failed to fetch|error sending)/i;

function withDefaults(options: RetryOptions) {
  requireOptions("retry", options);
  const { attempts = 3, baseDelay = 100, factor = 2, maxDelay = 30_000, jitter = "full" } = options;
  const { maxElapsed = Infinity, retryIf, delay, onRetry, signal } = options;
  requireCount("retry", "attempts", attempts);
  requireFinite("retry", "baseDelay", baseDelay);
  requireFinite("retry", "factor", factor, 1);
  requireDuration("retry", "maxDelay", maxDelay);
  requireDuration("retry", "maxElapsed", maxElapsed);
  if (jitter !== "full" && jitter !== "none") {
    throw invalid("retry", "jitter", '"full" or "none"', jitter);
  }
  if (retryIf !== undefined) requireFunction("retry", "retryIf", retryIf);
  if (delay !== undefined) requireFunction("retry", "delay", delay);
  if (onRetry !== undefined) requireFunction("retry", "onRetry", onRetry);
  requireSignal("retry", signal);
  return {
    attempts,
    baseDelay,
    factor,
    maxDelay,
    maxElapsed,
    jitter,
    retryIf,
    delay,
    onRetry,
    signal,
  };
}

const DEFAULTS = withDefaults({});

function contextOf(attempt: number, signal: AbortSignal | undefined): RetryContext {
  return signal ? { attempt, signal } : new SignallessContext(attempt);
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

/** What `Promise.try` does, but faster. */
function begin<A>(fn: (argument: A) => unknown, argument: A): Promise<unknown> {
  try {
    return Promise.resolve(fn(argument));
  } catch (error) {
    return Promise.reject(error);
  }
}

/** The circuit breaker has refused the call. */
export class CircuitOpenError extends Error {
  override readonly name = "CircuitOpenError";
  /**
   * Milliseconds until probes are let through; undefined if nobody knows: they are running, or the
   * circuit stays open until it is closed by hand.
   */
  readonly retryAfter: number | undefined;

  constructor(retryAfter: number | undefined) {
    let reason = `open: it can be tried again in ${retryAfter} ms`;
    if (retryAfter === undefined) reason = "half-open: its probes still run";
    if (retryAfter === Infinity) reason = "open until it is closed by hand";
    super(`Circuit is ${reason}`);
    this.retryAfter = retryAfter === Infinity ? undefined : retryAfter;
  }
}

/**
 * Stops calling a service that is down, so that callers fail at once and the service can recover.
 *
 * After `failureThreshold` failures in a row, or at a `failureRate`, it opens. After `resetAfter` it
 * is half-open and lets `halfOpenCalls` probes through: when all of them have succeeded it closes,
 * when one fails it opens again. The outcome of a call that began before the last opening or closing
 * is ignored, and all counts begin anew.
 *
 * Aborted calls count neither as failures nor as successes. A TimeoutError is a failure, even as
 * the signal's reason. Set a time limit: a probe that hangs keeps the breaker half-open.
 *
 * It dispatches an event `statechange` when `state` has changed. It sets no timer: its listeners
 * are told that it is half-open when the next call comes.
 *
 * Source of the idea: Michael Nygard, "Release It!"; resilience4j, which waits for all probes.
 *
 * @example Refuse at once while the service is down
 * ```ts
 * import { CircuitBreaker, CircuitOpenError } from "./errors.ts";
 *
 * const breaker = new CircuitBreaker({ failureThreshold: 2, resetAfter: 10_000 });
 * breaker.addEventListener("statechange", () => console.assert(breaker.state === "open"));
 * const ask = () => breaker.call(() => Promise.reject("down")).catch((error: unknown) => error);
 *
 * const [, second, third] = [await ask(), await ask(), await ask()];
 * console.assert(second === "down" && breaker.state === "open");
 * console.assert(third instanceof CircuitOpenError && third.retryAfter! <= 10_000);
 * ```
 */
export class CircuitBreaker extends EventTarget {
  static {
    showMembers(this, "state", "failures", "running");
    // Deno's EventTarget prints itself in a way of its own, which comes first.
    Object.defineProperty(this.prototype, Symbol.for("Deno.privateCustomInspect"), { value: null });
  }

  readonly #options: ReturnType<typeof breakerOptions>;
  #era = newEra();
  /** The state of which listeners have been told. */
  #told: CircuitState = "closed";

  /** @throws {TypeError | RangeError} an option is of the wrong kind or out of range */
  constructor(options: CircuitBreakerOptions) {
    super();
    this.#options = breakerOptions(options);
  }

  /** What the next call will meet. */
  get state(): CircuitState {
    if (this.#era.openedAt === undefined) return "closed";
    return this.#timeLeft() > 0 ? "open" : "half-open";
  }

  /** The number of failures in a row, while it is closed. */
  get failures(): number {
    return this.#era.failures;
  }

  /** The number of calls that are running, without those from before it last opened or closed. */
  get running(): number {
    return this.#era.running;
  }

  /**
   * Opens it, as a failure too many would.
   *
   * @param resetAfter milliseconds until it lets probes through; with Infinity it stays open until
   *   it is closed by hand. Default: the `resetAfter` it was made with
   * @throws {TypeError | RangeError} `resetAfter` is not a number of 0 or more
   */
  open(resetAfter: number = this.#options.resetAfter): void {
    requireDuration("open CircuitBreaker", "resetAfter", resetAfter);
    this.#begin(newEra(performance.now(), resetAfter));
  }

  /** Closes it, as probes that succeed would. */
  close(): void {
    this.#begin(newEra());
  }

  /**
   * Calls `task` unless the circuit is open, and returns its result, even after an abort.
   *
   * @throws {CircuitOpenError} the circuit is open, or its probes are running
   * @throws what `task` or `isFailedResult` throws; joined with that error, what `isFailure` throws,
   *   as {@link retry} does it
   * @throws the signal's reason, if it is already aborted
   * @throws {TypeError} an argument is of the wrong kind
   */
  call<T>(task: Task<T>, options?: WaitOptions): Promise<T>;
  call<R>(task: (signal: AbortSignal) => R, options?: WaitOptions): Promise<Awaited<R>>;
  call(task: Task<unknown>, options?: WaitOptions): Promise<unknown> {
    const signal = options?.signal;
    try {
      const action = "call through CircuitBreaker";
      requireFunction(action, "task", task);
      requireOptions(action, options);
      requireSignal(action, signal);
      if (this.#era.openedAt !== undefined) this.#tell();
      signal?.throwIfAborted();
      if (this.#era.openedAt !== undefined) this.#requireRoom(this.#era);
    } catch (error) {
      return Promise.reject(error);
    }
    const era = this.#era;
    era.running++;
    return begin(task, signal ?? neverAborted(task)).then(
      (value) => {
        era.running--;
        try {
          this.#count(era, Boolean(this.#options.isFailedResult?.(value)));
        } catch (error) {
          releaseHold(value);
          throw error;
        }
        return value;
      },
      (error) => {
        era.running--;
        const aborted = signal?.aborted && error === signal.reason && !isTimeoutError(error);
        if (!aborted && !isAbortError(error)) {
          const { isFailure } = this.#options;
          try {
            this.#count(era, !isFailure || isFailure(error));
          } catch (thrown) {
            throw withOlder(thrown, error);
          }
        }
        throw error;
      },
    );
  }

  #requireRoom({ running, successes }: Era): void {
    const ms = this.#timeLeft();
    if (ms > 0) throw new CircuitOpenError(Math.ceil(ms));
    if (running + successes >= this.#options.halfOpenCalls) throw new CircuitOpenError(undefined);
  }

  /** Milliseconds until it is half-open. */
  #timeLeft(): number {
    const era = this.#era;
    const now = performance.now();
    // A clock that has gone back is another clock, for example after virtual time: start anew.
    if (now < era.openedAt!) era.openedAt = now;
    return era.resetAfter - (now - era.openedAt!) - ROUNDING;
  }

  /** Counts the outcome of a call that began in this era. */
  #count(era: Era, isFailure: boolean): void {
    if (era !== this.#era) return;
    const { failureThreshold, halfOpenCalls } = this.#options;
    if (era.openedAt === undefined) {
      era.failures = isFailure ? era.failures + 1 : 0;
      if (this.#isOverRate(era, isFailure) || era.failures >= failureThreshold) this.open();
    } else if (isFailure) this.open();
    else if (++era.successes === halfOpenCalls) this.close();
  }

  /** Counts an outcome, and says whether too many of the last ones were failures. */
  #isOverRate({ parts }: Era, isFailure: boolean): boolean {
    const { failureRate, window, minimumCalls } = this.#options;
    if (failureRate === undefined) return false;
    const now = Math.floor((performance.now() / window) * 10);
    // A part that lies in the future is that of another clock.
    while (parts[0] && !(parts[0].at > now - 10 && parts[0].at <= now)) parts.shift();
    if (parts.at(-1)?.at !== now) parts.push({ at: now, calls: 0, failures: 0 });
    const part = parts.at(-1)!;
    part.calls++;
    if (!isFailure) return false;
    part.failures++;
    const sum = (key: "calls" | "failures") => parts.reduce((sum, part) => sum + part[key], 0);
    return sum("calls") >= minimumCalls && sum("failures") / sum("calls") >= failureRate;
  }

  #begin(era: Era): void {
    this.#era = era;
    this.#tell();
  }

  #tell(): void {
    const { state } = this;
    if (state === this.#told) return;
    this.#told = state;
    this.dispatchEvent(new Event("statechange"));
  }
}

function breakerOptions(options: CircuitBreakerOptions) {
  const action = "create CircuitBreaker";
  requireOptions(action, options);
  const { failureRate, window = 10_000, minimumCalls = 10, halfOpenCalls = 1 } = options ?? {};
  const { failureThreshold, resetAfter, isFailure, isFailedResult } = options ?? {};
  if (failureRate === undefined || failureThreshold !== undefined) {
    requirePositiveInteger(action, "failureThreshold", failureThreshold!);
  }
  const isRate = typeof failureRate === "number" && failureRate > 0 && failureRate <= 1;
  if (failureRate !== undefined && !isRate) {
    throw invalid(action, "failureRate", "a number above 0 and at most 1", failureRate);
  }
  requirePositiveInteger(action, "window", window);
  requirePositiveInteger(action, "minimumCalls", minimumCalls);
  requireFinite(action, "resetAfter", resetAfter);
  requirePositiveInteger(action, "halfOpenCalls", halfOpenCalls);
  if (isFailure !== undefined) requireFunction(action, "isFailure", isFailure);
  if (isFailedResult !== undefined) requireFunction(action, "isFailedResult", isFailedResult);
  const limits = { failureThreshold: failureThreshold ?? Infinity, failureRate, halfOpenCalls };
  return { ...limits, window, minimumCalls, resetAfter, isFailure, isFailedResult };
}

type Era = ReturnType<typeof newEra>;

/** What is counted between two changes of the circuit. It is closed if `openedAt` is undefined. */
function newEra(openedAt?: number, resetAfter = 0) {
  const parts: { at: number; calls: number; failures: number }[] = [];
  return { openedAt, resetAfter, running: 0, failures: 0, successes: 0, parts };
}

/** A signal that is never aborted: a shared one if the task declares no parameter. */
function neverAborted(task: Task<unknown>): AbortSignal {
  if (task.length > 0) return new AbortController().signal;
  return (sharedSignal ??= new AbortController().signal);
}

let sharedSignal: AbortSignal | undefined;

/**
 * Calls `fn` and returns its outcome instead of throwing: at once, or as a promise if `fn` returns
 * one (anything with a `then` method). Await it if `fn` may throw before it returns its promise.
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
  const succeeded = (value: unknown): any => ({ ok: true, value });
  const failed = (error: unknown): any => ({ ok: false, error });
  try {
    const result: unknown = fn();
    if (typeof Object(result).then !== "function") return succeeded(result);
    return Promise.resolve(result).then(succeeded, failed) as Attempted<R>;
  } catch (error) {
    return failed(error);
  }
}

/**
 * The single errors inside nested AggregateErrors and SuppressedErrors, in order (`error` before
 * `suppressed`); `[error]` if it is neither. A group that occurs twice is listed once. Groups are
 * recognized by name, in any realm. One that is empty or can't be read counts as a single error.
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
 * keeps the nesting, with the message, cause and stack of each group, as it is if it loses nothing.
 * A SuppressedError of which one error is left becomes that error. A half without errors is
 * undefined. A group that matches itself matches as a whole. For what counts as a group, see
 * {@link flattenErrors}; one inside itself is left out.
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
  const matches = nameIn(["Error"], match.prototype)
    ? instanceOf(match)
    : (match as (error: unknown) => boolean);
  // What is left of each error in each half. Maps, because undefined may have been thrown.
  const [matched, rest] = [new Map<unknown, unknown>(), new Map<unknown, unknown>()];
  const seen = new Set<unknown>();
  // A group comes up twice: by itself, and after its errors, together with them.
  const todo: [error: unknown, inner?: unknown[]][] = [[error]];
  for (let next = todo.pop(); next; next = todo.pop()) {
    const [error, inner] = next;
    if (inner) {
      for (const half of [matched, rest]) {
        const left = inner.filter((error) => half.has(error)).map((error) => half.get(error));
        if (left.length > 0) half.set(error, regroup(error, inner, left));
      }
    } else if (!seen.has(error)) {
      seen.add(error);
      const isMatch = matches(error);
      const inner = isMatch ? [] : innerErrors(error);
      if (inner.length === 0) (isMatch ? matched : rest).set(error, error);
      else {
        todo.push([error, inner]);
        for (const error of inner.toReversed()) todo.push([error]);
      }
    }
  }
  return [matched.get(error), rest.get(error)];
}

/** Whether an error is an instance of a class, or of the same built-in class of another realm. */
function instanceOf(Class: Function): (error: unknown) => boolean {
  const isBuiltIn = Reflect.get(globalThis, Class.name) === Class;
  return (error) => {
    try {
      if (error instanceof Class) return true;
      return isBuiltIn && nameIn([Class.name], Object.getPrototypeOf(error)) !== undefined;
    } catch {
      return false;
    }
  };
}

/** The group with only those of its errors that are left. */
function regroup(group: unknown, inner: unknown[], left: unknown[]): unknown {
  if (left.length === inner.length && left.every((e, i) => Object.is(e, inner[i]))) return group;
  const isPair = nameIn(GROUPS, group) === "SuppressedError";
  if (isPair && left.length === 1) return left[0];
  const copy = isPair ? new SuppressedError(left[0], left[1]) : new AggregateError(left);
  for (const key of ["message", "cause", "stack"]) {
    const value = read(group, key);
    if (value === undefined) continue;
    Object.defineProperty(copy, key, { value, writable: true, configurable: true });
  }
  return copy;
}

/** The errors directly inside a group; none if it is a single error or can't be looked into. */
function innerErrors(error: unknown): unknown[] {
  const kind = nameIn(GROUPS, error);
  try {
    const group = error as AggregateError & SuppressedError;
    if (kind === "AggregateError" && Array.isArray(group.errors)) return [...group.errors];
    if (kind === "SuppressedError" && "suppressed" in group) return [group.error, group.suppressed];
  } catch {
    // What can't be looked into is a single error.
  }
  return [];
}

const GROUPS = ["AggregateError", "SuppressedError"];

/** The first of the names that the value or one of its prototypes has, as those of classes do. */
function nameIn(names: readonly string[], value: unknown): string | undefined {
  try {
    // A proxy can be its own prototype.
    for (let links = 0; Object(value) === value && links < 100; links++) {
      const name: unknown = Object.getOwnPropertyDescriptor(value, "name")?.value;
      if (names.includes(name as string)) return name as string;
      value = Object.getPrototypeOf(value);
    }
  } catch {
    // A revoked proxy, for example, has no name.
  }
  return undefined;
}

/**
 * Whether the error says that the work is no longer wanted; by name, so that it recognizes those
 * of other realms and libraries.
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
 * Whether the error says that time has run out, as that of `AbortSignal.timeout` does; by name.
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
  const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
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
