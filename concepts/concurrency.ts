/**
 * # Concurrency
 *
 * Run several things at once, so many at a time, and leave nothing running behind.
 *
 * Reach for it wherever you would write `Promise.all`, `race` or `any`, for a stream of items that
 * is worked off by several at once, or when the same request is made twice, on purpose or not.
 *
 * Without it `Promise.all` rejects on the first failure while the rest goes on, unseen: it still
 * writes to the database that you are closing, and what it throws later is lost. A race leaves its
 * losers running, and nothing limits how many start.
 *
 * What all of them keep: tasks are functions, because what runs already can be neither limited nor
 * aborted. They settle only after every task that was started has ended, cleanup included; a task
 * that ignores its signal is waited for, too. An abort from outside aborts all tasks and rejects
 * with its reason, even if they then succeed. Errors that come after the result has been decided
 * are dropped by those which answer with one result; {@link taskGroup} and {@link settle} keep all.
 *
 * Known elsewhere as: `asyncio.gather`, `TaskGroup`, `as_completed` and `wait`; Go's `errgroup` and
 * `singleflight`; Java's `StructuredTaskScope`; p-map, p-all and p-any on npm.
 *
 * @module
 */

/**
 * Work that stops when its signal is aborted, if it can. The signal is its own: it is aborted only
 * while the task runs, so that a response that has won a race can still be read. The reason is that
 * of the abort from outside, or else an AbortError, whose `cause` is the failure if there was one.
 * So whatever stops quietly on an AbortError does so here, and can't mistake another's failure for
 * its own.
 */
export type Task<T> = (signal: AbortSignal) => T | PromiseLike<T>;

/** Tasks to run: any iterable. For an array written in place the types of all results are kept. */
export type TaskList = readonly Task<unknown>[] | [] | Iterable<Task<unknown>>;

/** What a task of that type comes to. */
export type TaskResult<F> = F extends (signal: AbortSignal) => infer R ? Awaited<R> : never;

/** What the tasks of a list come to. */
export type TaskResults<L> = L extends readonly unknown[]
  ? { -readonly [K in keyof L]: TaskResult<L[K]> }
  : L extends Iterable<infer F>
    ? TaskResult<F>[]
    : never;

/** How the tasks with such results have ended. */
export type TaskOutcomes<R> = { [K in keyof R]: PromiseSettledResult<R[K]> };

/** How to call it off. */
export interface SignalOptions {
  /** Aborts all tasks, and rejects with the signal's reason once they have ended. */
  signal?: AbortSignal | undefined;
}

/** How to run a list of tasks. */
export interface TasksOptions extends SignalOptions {
  /** How many may run at once: a positive integer. Default: `Infinity`. */
  concurrency?: number | undefined;
}

/** How {@link mapConcurrent} works off its source. */
export interface MapOptions extends SignalOptions {
  /** How many items may be worked on at once: a positive integer, or `Infinity`. */
  concurrency: number;
}

/**
 * Runs tasks at once, and returns their results in the order of the tasks. The first failure aborts
 * the others, starts no more, and is what it rejects with as soon as the others have ended.
 *
 * Source of the idea: `asyncio.gather`, with the manners of Go's `errgroup`.
 *
 * @throws {TypeError} `tasks` is no iterable of functions; nothing has been called then
 * @throws {RangeError} `concurrency` is neither a positive integer nor Infinity
 * @throws what the first task to fail has thrown, or the signal's reason
 *
 * @example
 * ```ts
 * import { gather } from "./concurrency.ts";
 *
 * const [id, name] = await gather([() => 7, async () => "Ada"]);
 * console.assert(id + 1 === 8 && name.length === 3);
 *
 * const urls = ["/a", "/b", "/c"];
 * const pages = await gather(
 *   urls.map((url) => async (signal: AbortSignal) => `page of ${url}, ${signal.aborted}`),
 *   { concurrency: 2 },
 * );
 * console.assert(pages[2] === "page of /c, false");
 * ```
 */
export async function gather<const L extends TaskList>(
  tasks: L,
  options: TasksOptions = {},
): Promise<TaskResults<L>> {
  const results: unknown[] = [];
  const scope: Scope = startAll("gather", tasks, options, (outcome, index) => {
    if (outcome.status === "rejected") scope.fail(outcome.reason);
    else results[index] = outcome.value;
  });
  await scope.end();
  return results as TaskResults<L>;
}

/**
 * Runs tasks at once, all of them to their end, and tells how each ended. A failure aborts nothing.
 *
 * Source of the idea: `asyncio.gather(return_exceptions=True)`, `Promise.allSettled`.
 *
 * @throws {TypeError | RangeError} as {@link gather} does for bad arguments
 * @throws the signal's reason
 *
 * @example
 * ```ts
 * import { settle } from "./concurrency.ts";
 *
 * const [good, bad] = await settle([() => "fine", () => Promise.reject("broken")]);
 * console.assert(good.status === "fulfilled" && good.value === "fine");
 * console.assert(bad.status === "rejected" && bad.reason === "broken");
 * ```
 */
export async function settle<const L extends TaskList>(
  tasks: L,
  options: TasksOptions = {},
): Promise<TaskOutcomes<TaskResults<L>>> {
  const outcomes: unknown[] = [];
  const scope = startAll("settle", tasks, options, (outcome, index) => (outcomes[index] = outcome));
  await scope.end();
  return outcomes as TaskOutcomes<TaskResults<L>>;
}

/**
 * Runs tasks at once; the first to settle decides, be it with a result or an error. The others are
 * aborted and waited for.
 *
 * Source of the idea: `asyncio.wait(return_when=FIRST_COMPLETED)`, `Promise.race`.
 *
 * @throws {RangeError} there are no tasks
 * @throws {TypeError | RangeError} as {@link gather} does for bad arguments
 * @throws what the first task to settle has thrown, or the signal's reason
 *
 * @example
 * ```ts
 * import { race } from "./concurrency.ts";
 *
 * const never = (signal: AbortSignal) =>
 *   new Promise<string>((_, reject) => {
 *     signal.addEventListener("abort", () => reject(signal.reason));
 *   });
 * console.assert((await race([never, async () => "first"])) === "first");
 * ```
 */
export async function race<const L extends TaskList>(
  tasks: L,
  options: TasksOptions = {},
): Promise<TaskResults<L>[number]> {
  const list = requireTasks("race", tasks);
  if (list.length === 0) throw new RangeError("Cannot race: tasks must not be empty");
  const values: unknown[] = [];
  const scope: Scope = startAll("race", list, options, (outcome) => {
    if (scope.signal.aborted) return;
    if (outcome.status === "rejected") return scope.fail(outcome.reason);
    values.push(outcome.value);
    scope.stop();
  });
  await scope.end();
  return values[0] as TaskResults<L>[number];
}

/**
 * Runs tasks at once; the first to succeed decides. The others are aborted and waited for.
 *
 * Source of the idea: `Promise.any`.
 *
 * @throws {TypeError | RangeError} as {@link gather} does for bad arguments
 * @throws {AggregateError} all tasks have failed; its errors are theirs, in the order of the tasks
 * @throws the signal's reason
 *
 * @example
 * ```ts
 * import { any } from "./concurrency.ts";
 *
 * const mirror = await any([() => Promise.reject("down"), async () => "up"], { concurrency: 1 });
 * console.assert(mirror === "up");
 * ```
 */
export async function any<const L extends TaskList>(
  tasks: L,
  options: TasksOptions = {},
): Promise<TaskResults<L>[number]> {
  const values: unknown[] = [];
  const errors: unknown[] = [];
  const scope: Scope = startAll("run any", tasks, options, (outcome, index) => {
    if (outcome.status === "rejected") return void (errors[index] = outcome.reason);
    values.push(outcome.value);
    scope.stop();
  });
  await scope.end();
  if (values.length === 0) throw new AggregateError(errors, "All tasks failed");
  return values[0] as TaskResults<L>[number];
}

/** A result of {@link asCompleted}. */
export interface Completion<T> {
  /** The place of the task in the list. */
  index: number;
  /** What it returned. */
  value: T;
}

/**
 * Runs tasks at once, and yields their results as they come. A failure aborts the others; `next()`
 * rejects with it when they have ended, after the results that came before. Leaving the loop aborts
 * and awaits what runs; if that fails for reasons of its own, leaving throws.
 *
 * Nothing starts before the first `next()`. A slow consumer doesn't hold up the tasks.
 *
 * Source of the idea: `asyncio.as_completed`.
 *
 * @throws {TypeError | RangeError} as {@link gather} does for bad arguments
 * @throws what the first task to fail has thrown, or the signal's reason
 *
 * @example
 * ```ts
 * import { asCompleted } from "./concurrency.ts";
 *
 * const after = (ms: number) => () => new Promise<number>((done) => setTimeout(done, ms, ms));
 * const order: number[] = [];
 * for await (const { index } of asCompleted([after(20), after(1)])) order.push(index);
 * console.assert(order.join() === "1,0");
 * ```
 */
export async function* asCompleted<const L extends TaskList>(
  tasks: L,
  options: TasksOptions = {},
): AsyncGenerator<Completion<TaskResults<L>[number]>, void, undefined> {
  const list = requireTasks("run asCompleted", tasks);
  const arrivals = list.map(() =>
    Promise.withResolvers<Completion<TaskResults<L>[number]> | undefined>(),
  );
  let arrived = 0;
  const scope: Scope = startAll("run asCompleted", list, options, (outcome, index) => {
    const arrival = arrivals[arrived++]!;
    if (outcome.status === "rejected") scope.fail(outcome.reason);
    arrival.resolve(outcome.status === "rejected" ? undefined : { index, value: outcome.value });
  });
  try {
    for (const { promise } of arrivals) {
      const completion = await promise;
      if (!completion || scope.isCancelled) break;
      yield completion;
    }
  } finally {
    scope.stop();
    await scope.end();
  }
}

/**
 * Calls `fn` for each item, several at once, and returns the results in the order of the items. The
 * source is pulled only when `fn` has a place free, one item at a time, so that a long one needs no
 * more memory than its results and `concurrency` items.
 *
 * The first failure, of `fn` or the source, ends it: the source is pulled no more and closed, the
 * signals given to `fn` are aborted, and when all that has ended it rejects with the failure. A
 * generator in the middle of a `next()` can be closed only when it has yielded, and is waited for.
 * Only an abort from outside does not wait for that.
 *
 * Source of the idea: `Array.fromAsync`; `Executor.map(buffersize=…)` in Python; p-map.
 *
 * @param fn is given the item, its index, and a signal of its own
 * @throws {TypeError} `source` is no iterable, or `fn` no function
 * @throws {RangeError} `concurrency` is neither a positive integer nor Infinity
 * @throws the first failure, or the signal's reason
 *
 * @example
 * ```ts
 * import { mapConcurrent } from "./concurrency.ts";
 *
 * async function* lines() {
 *   yield* ["1", "2", "3"];
 * }
 * const squares = await mapConcurrent(lines(), async (line) => Number(line) ** 2, {
 *   concurrency: 2,
 * });
 * console.assert(squares.join() === "1,4,9");
 * ```
 */
export async function mapConcurrent<S, T>(
  source: Iterable<S | PromiseLike<S>> | AsyncIterable<S>,
  fn: (item: S, index: number, signal: AbortSignal) => T | PromiseLike<T>,
  { concurrency, signal }: MapOptions,
): Promise<T[]> {
  if (!(Symbol.asyncIterator in Object(source) || Symbol.iterator in Object(source))) {
    throw invalid("run mapConcurrent", "source", "an iterable", source, TypeError);
  }
  requireFunction("run mapConcurrent", "fn", fn);
  requireCount("run mapConcurrent", "concurrency", concurrency);

  const results: T[] = [];
  const scope = new Scope(signal);
  let free = concurrency;
  let onFree = () => {};
  const pullAll = async () => {
    const iterator = iterate(source);
    let isStuck = false;
    for (let index = 0; !scope.signal.aborted; index++) {
      const step = await nextUnlessAborted(iterator, scope.signal);
      if (!step) {
        isStuck = isGenerator(iterator);
        break;
      }
      if (step.done) return;
      free--;
      // Does nothing if it has been aborted in the meantime: the item is dropped then.
      scope.start(
        (own) => fn(step.value, index, own),
        (outcome) => {
          free++;
          if (outcome.status === "rejected") scope.fail(outcome.reason);
          else results[index] = outcome.value;
          onFree();
        },
      );
      if (free === 0) await new Promise<void>((resolve) => (onFree = resolve));
    }
    const closing = (async () => iterator.return?.())();
    if (isStuck && scope.isCancelled) closing.catch(() => {});
    else await closing;
  };
  scope.start(pullAll, (outcome) => {
    if (outcome.status === "rejected") scope.fail(outcome.reason);
  });
  await scope.end();
  return results;
}

/** Where tasks are started: what the body of {@link taskGroup} is given. */
export interface TaskGroup {
  /** Aborted on the first failure, or from outside. */
  readonly signal: AbortSignal;
  /**
   * Starts a task, and returns a promise of its result, which may be ignored: its failure ends the
   * group in any case. While anything of the group runs more can be started, by tasks too; after an
   * abort it rejects with the reason, and after the end with an Error.
   */
  spawn<T>(task: Task<T>): Promise<T>;
}

/**
 * Runs `body`, which may spawn tasks, and returns its result when all of them have ended. The first
 * failure, of the body or a task, aborts `group.signal` and the signals of all tasks.
 *
 * It then rejects with every failure in one AggregateError, in order of time. An error that merely
 * echoes the abort is left out: `group.signal.reason` itself, and after the abort anything named
 * AbortError. One that is passed on, by a body that awaits a task, is listed once.
 *
 * An abort from outside rejects with its very reason. If something failed in the cleanup it is the
 * AggregateError of that, with the reason as `cause`, so that `errors` holds nothing but failures.
 *
 * Source of the idea: trio's nurseries, `asyncio.TaskGroup`.
 *
 * @throws {TypeError} `body` is no function
 * @throws {AggregateError} body or tasks have failed; `cause` is what came first
 * @throws the signal's reason
 *
 * @example
 * ```ts
 * import { taskGroup } from "./concurrency.ts";
 *
 * const seen: string[] = [];
 * await taskGroup((group) => {
 *   const visit = (page: string, links: string[]) => {
 *     seen.push(page);
 *     for (const link of links) group.spawn(async () => visit(link, []));
 *   };
 *   visit("home", ["news", "contact"]);
 * });
 * console.assert(seen.join() === "home,news,contact");
 *
 * const group = taskGroup(({ spawn }) => {
 *   spawn(() => Promise.reject("one"));
 *   spawn(() => Promise.reject("two"));
 * });
 * const error: AggregateError = await group.catch((error) => error);
 * console.assert(error.errors.join() === "one,two");
 * ```
 */
export async function taskGroup<T>(
  body: (group: TaskGroup) => T | PromiseLike<T>,
  { signal }: SignalOptions = {},
): Promise<T> {
  requireFunction("run taskGroup", "body", body);
  const scope = new Scope(signal);
  const spawn = <R>(task: Task<R>): Promise<R> => {
    const { promise, resolve, reject } = Promise.withResolvers<R>();
    promise.catch(() => {});
    if (scope.hasEnded) reject(new Error("Cannot spawn: the group has ended"));
    else if (scope.signal.aborted) reject(scope.signal.reason);
    const checked: Task<R> = (own) => {
      // Here it fails the group, and so is seen even if the promise is ignored.
      requireFunction("spawn", "task", task);
      return task(own);
    };
    scope.start(checked, (outcome) => {
      if (outcome.status === "fulfilled") return resolve(outcome.value);
      scope.fail(outcome.reason);
      reject(outcome.reason);
    });
    return promise;
  };
  const result = spawn(() => body({ signal: scope.signal, spawn }));
  try {
    await scope.end();
  } catch (cause) {
    if (scope.errors.size === 0) throw cause;
    throw new AggregateError(scope.errors, "The task group failed", { cause });
  }
  return result;
}

/** What {@link singleFlight} can be told. */
export interface SingleFlightOptions<I> {
  /** Inputs with the same key, compared as in a `Map`, share a run. Default: the input itself. */
  key?: ((input: I) => unknown) | undefined;
}

/** A function of which concurrent calls share one run. */
export type SingleFlight<I, T> = (input: I, options?: SignalOptions) => Promise<T>;

/**
 * Makes a function of which concurrent calls with the same key share one run and its outcome. When
 * that is there the key is forgotten: this is no cache.
 *
 * A caller who aborts leaves alone, at once. When all have left, the run is aborted, nobody waits
 * for it, and the next caller starts a new one.
 *
 * Source of the idea: Go's `singleflight`.
 *
 * @param fn is given the first caller's input, and a signal
 * @throws {TypeError} `fn` or `key` is no function
 *
 * @example
 * ```ts
 * import { singleFlight } from "./concurrency.ts";
 *
 * let queries = 0;
 * const loadUser = singleFlight(async (id: number) => ({ id, query: ++queries }));
 * const [one, same] = await Promise.all([loadUser(7), loadUser(7), loadUser(8)]);
 * console.assert(one === same && queries === 2);
 * ```
 */
export function singleFlight<I = void, T = unknown>(
  fn: (input: I, signal: AbortSignal) => T | PromiseLike<T>,
  { key = (input) => input }: SingleFlightOptions<I> = {},
): SingleFlight<I, T> {
  requireFunction("create singleFlight", "fn", fn);
  requireFunction("create singleFlight", "key", key);
  const flights = new Map<unknown, Flight<T>>();

  const takeOff = (id: unknown, input: I): Flight<T> => {
    const flight: Flight<T> = { callers: new Set(), controller: new AbortController() };
    const land = (tell: (caller: PromiseWithResolvers<T>) => void) => {
      if (flights.get(id) === flight) flights.delete(id);
      flight.callers.forEach(tell);
    };
    flights.set(id, flight);
    (async () => fn(input, flight.controller.signal))().then(
      (value) => land((caller) => caller.resolve(value)),
      (error) => land((caller) => caller.reject(error)),
    );
    return flight;
  };

  return async (input, { signal } = {}) => {
    signal?.throwIfAborted();
    const id = key(input);
    const flight = flights.get(id) ?? takeOff(id, input);
    const caller = Promise.withResolvers<T>();
    flight.callers.add(caller);
    const stopListening = onAbort(signal, (reason) => {
      caller.reject(reason);
      flight.callers.delete(caller);
      if (flight.callers.size > 0 || flights.get(id) !== flight) return;
      flights.delete(id);
      flight.controller.abort(reason);
    });
    try {
      return await caller.promise;
    } finally {
      stopListening();
    }
  };
}

interface Flight<T> {
  callers: Set<PromiseWithResolvers<T>>;
  controller: AbortController;
}

/** How {@link hedge} tries. */
export interface HedgeOptions extends SignalOptions {
  /**
   * Milliseconds after which one more attempt starts: 0 or more. With `Infinity`, as with all that
   * no timer can hold (above 2^31-1), it starts only when one has failed.
   */
  after: number;
  /** How many attempts to make in all: a positive integer, or `Infinity`. Default: 2. */
  max?: number | undefined;
}

/**
 * Runs a task, and again if it is slow: every `after` milliseconds, and at once when an attempt has
 * failed. The first success decides; the other attempts are aborted and waited for.
 *
 * Only for what may be done twice, and does no harm when it is: reading, say.
 *
 * Source of the idea: hedged requests, in "The Tail at Scale" by Dean and Barroso.
 *
 * @throws {TypeError} `task` is no function, or `after` or `max` no number
 * @throws {RangeError} `after` is negative or NaN, or `max` neither a positive integer nor Infinity
 * @throws {AggregateError} all attempts have failed; its errors are theirs, in order
 * @throws the signal's reason
 *
 * @example
 * ```ts
 * import { hedge } from "./concurrency.ts";
 *
 * let attempts = 0;
 * const slowAtFirst = (signal: AbortSignal) =>
 *   new Promise<number>((resolve, reject) => {
 *     signal.addEventListener("abort", () => reject(signal.reason));
 *     if (++attempts === 2) resolve(attempts);
 *   });
 * console.assert((await hedge(slowAtFirst, { after: 5 })) === 2);
 * ```
 */
export async function hedge<T>(
  task: Task<T>,
  { after, max = 2, signal }: HedgeOptions,
): Promise<T> {
  requireFunction("hedge", "task", task);
  if (typeof after !== "number" || !(after >= 0)) {
    throw invalid("hedge", "after", "a number of 0 or more", after);
  }
  requireCount("hedge", "max", max);

  const scope = new Scope(signal);
  const values: T[] = [];
  const errors: unknown[] = [];
  let attempts = 0;
  let timer: ReturnType<typeof setTimeout> | undefined;
  const attempt = () => {
    clearTimeout(timer);
    if (attempts === max || scope.signal.aborted) return;
    const index = attempts++;
    if (after <= 2 ** 31 - 1) timer = setTimeout(attempt, after);
    scope.start(task, (outcome) => {
      if (outcome.status === "rejected") errors[index] = outcome.reason;
      else {
        values.push(outcome.value);
        scope.stop();
      }
      // Starts the next after a failure; after a success it only stops the timer.
      attempt();
    });
  };
  attempt();
  await scope.end();
  if (values.length === 0) throw new AggregateError(errors, "All attempts failed");
  return values[0] as T;
}

/** Tasks that are aborted together and waited for together: what all of the above stand on. */
class Scope {
  /** The real failures, in order of time. */
  readonly errors = new Set<unknown>();
  hasEnded = false;
  readonly #outer: AbortSignal | undefined;
  readonly #stopListening: () => void;
  readonly #controller = new AbortController();
  readonly #running = new Set<AbortController>();
  readonly #ended = Promise.withResolvers<void>();

  constructor(outer: AbortSignal | undefined) {
    outer?.throwIfAborted();
    this.#outer = outer;
    this.#stopListening = onAbort(outer, (reason) => this.#abort(reason));
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** Whether the abort from outside came before any other. */
  get isCancelled(): boolean {
    return this.signal.aborted && this.signal.reason === this.#outer?.reason;
  }

  /** Runs a task, unless all is over; `onSettled` may start others in its place. */
  async start<T>(
    task: Task<T>,
    onSettled: (outcome: PromiseSettledResult<T>) => void,
  ): Promise<void> {
    if (this.signal.aborted || this.hasEnded) return;
    const controller = new AbortController();
    this.#running.add(controller);
    const outcome = await outcomeOf(task, controller.signal);
    this.#running.delete(controller);
    onSettled(outcome);
    if (this.#running.size > 0) return;
    this.hasEnded = true;
    this.#ended.resolve();
  }

  /** Takes note of a failure, unless it echoes the abort, and aborts all because of it. */
  fail(error: unknown): void {
    const { aborted, reason } = this.signal;
    const isEcho = aborted && (error === reason || (error as Error | null)?.name === "AbortError");
    if (isEcho) return;
    this.errors.add(error);
    this.stop("Another task failed", error);
  }

  /** Aborts what still runs. */
  stop(why = "The result is no longer needed", cause?: unknown): void {
    if (this.signal.aborted) return;
    const reason = new DOMException(why, "AbortError");
    this.#abort(Object.defineProperty(reason, "cause", { value: cause }));
  }

  /** Waits for all, then throws what ended them: the abort from outside, or the first failure. */
  async end(): Promise<void> {
    if (this.#running.size > 0) await this.#ended.promise;
    this.#stopListening();
    if (this.isCancelled) throw this.signal.reason;
    for (const error of this.errors) throw error;
  }

  #abort(reason: unknown): void {
    this.#controller.abort(reason);
    for (const controller of this.#running) controller.abort(reason);
  }
}

async function outcomeOf<T>(task: Task<T>, signal: AbortSignal): Promise<PromiseSettledResult<T>> {
  try {
    return { status: "fulfilled", value: await task(signal) };
  } catch (reason) {
    return { status: "rejected", reason };
  }
}

/** Starts the tasks in one scope, so many at once; each that settles makes room for the next. */
function startAll<F extends Task<unknown>>(
  action: string,
  tasks: Iterable<F>,
  { concurrency = Infinity, signal }: TasksOptions,
  onSettled: (outcome: PromiseSettledResult<TaskResult<F>>, index: number) => void,
): Scope {
  const list = requireTasks(action, tasks) as Task<TaskResult<F>>[];
  requireCount(action, "concurrency", concurrency);
  const scope = new Scope(signal);
  let next = 0;
  const startNext = () => {
    const index = next++;
    const task = list[index];
    if (!task) return;
    scope.start(task, (outcome) => {
      onSettled(outcome, index);
      startNext();
    });
  };
  list.slice(0, concurrency).forEach(startNext);
  return scope;
}

function iterate<T>(source: Iterable<T | PromiseLike<T>> | AsyncIterable<T>): AsyncIterator<T> {
  if (Symbol.asyncIterator in source) return source[Symbol.asyncIterator]();
  return (async function* () {
    yield* source;
  })();
}

function isGenerator(iterator: object): boolean {
  return Object.prototype.toString.call(iterator) === "[object AsyncGenerator]";
}

/** The next step, or undefined if the signal is aborted before that has come. */
async function nextUnlessAborted<T>(
  iterator: AsyncIterator<T>,
  signal: AbortSignal,
): Promise<IteratorResult<T> | undefined> {
  const { promise, resolve, reject } = Promise.withResolvers<IteratorResult<T> | undefined>();
  const stopListening = onAbort(signal, () => resolve(undefined));
  try {
    iterator.next().then(resolve, reject);
    return await promise;
  } finally {
    stopListening();
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

function requireTasks<F>(action: string, tasks: Iterable<F>): F[] {
  if (!(Symbol.iterator in Object(tasks))) {
    throw invalid(action, "tasks", "an iterable of functions", tasks, TypeError);
  }
  const list = [...tasks];
  list.forEach((task, index) => requireFunction(action, `tasks[${index}]`, task));
  return list;
}

function requireFunction(action: string, name: string, value: unknown): void {
  if (typeof value !== "function") throw invalid(action, name, "a function", value, TypeError);
}

function requireCount(action: string, name: string, value: number): void {
  if (value === Infinity || (Number.isInteger(value) && value > 0)) return;
  throw invalid(action, name, "a positive integer or Infinity", value);
}

function invalid(
  action: string,
  name: string,
  expected: string,
  value: unknown,
  Kind = typeof value === "number" ? RangeError : TypeError,
): Error {
  return new Kind(`Cannot ${action}: ${name} must be ${expected}, received ${String(value)}`);
}

// ─── Demo: `bun concepts/concurrency.ts` ─────────────────────────────────────────────────────────

/** Two at a time; the third fails: the fourth is aborted and cleans up, the fifth never starts. */
export async function demo(log: (lane: string, state: string) => void = print): Promise<void> {
  const task = (n: number) => async (signal: AbortSignal) => {
    log(`task ${n}`, "running");
    await sleep(50 + 50 * n, signal);
    if (signal.aborted) {
      log(`task ${n}`, "cleaning up");
      await sleep(100);
      log(`task ${n}`, "cancelled");
    } else {
      log(`task ${n}`, n === 3 ? "failed" : "done");
      if (n === 3) throw new Error("task 3 is broken");
    }
  };
  for (const n of [1, 2, 3, 4, 5]) log(`task ${n}`, "waiting");
  log("gather", "running");
  await gather([1, 2, 3, 4, 5].map(task), { concurrency: 2 }).catch(() => log("gather", "failed"));
}

/** Ends early when the signal is aborted. */
function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    onAbort(signal, () => {
      clearTimeout(timer);
      resolve();
    });
  });
}

let start: number | undefined;

function print(lane: string, state: string): void {
  start ??= performance.now();
  const ms = Math.round(performance.now() - start);
  console.log(`+${String(ms).padStart(4)} ms  ${lane}  ${state}`);
}

if ((import.meta as { main?: boolean }).main) await demo();
