// async-concepts 0.3.0, MIT License. A file to copy and own; please keep this line.

/**
 * # Concurrency
 *
 * Run several things at once, with a limit, and leave nothing running behind.
 *
 * Reach for it wherever you would write `Promise.all`, `race` or `any`, to work off a stream of
 * items with several workers, or when the same request may be made twice.
 *
 * Without it `Promise.all` rejects on the first failure while the other tasks go on unseen: they
 * still write to the database that you are closing, and their errors are lost. A race leaves its
 * losers running, and nothing limits how many tasks start.
 *
 * The rules they all keep:
 * - A task is a function, because a promise already runs: it can be neither limited nor aborted.
 * - They settle only after every task that was started has ended, cleanup included, even if it
 *   ignores its signal. (A caller of {@link singleFlight} leaves at once.)
 * - An abort from outside aborts all tasks, waits for them, and rejects with its reason, even if
 *   the tasks then succeed. After an abort nothing more is called or started, except cleanups.
 * - Tasks are aborted with the reason of the abort from outside, with a TimeoutError when their time
 *   is up, or else with an AbortError, whose `cause` is the failure if there was one.
 * - A task that declares a parameter has a signal of its own, which is aborted only while the task
 *   runs: what it returns (a `Response`, say) stays usable. Tasks that declare none share one
 *   signal, because a signal costs more than a short task, but not in {@link race}, {@link any} and
 *   {@link hedge}.
 * - A result that is dropped (too late, lost a race, aborted) is released if it is a hold: a
 *   disposable with `release()`, such as a lock. Own other resources inside the task, with `using`.
 * - Functions with a single result drop later errors; {@link taskGroup} and {@link allSettled} keep
 *   all.
 *
 * Known elsewhere as: `asyncio.gather`, `TaskGroup`, `as_completed` and `wait`; trio's nurseries;
 * Go's `errgroup` and `singleflight`; Java's `StructuredTaskScope`; p-map, p-all and p-any on npm.
 *
 * @module
 */

/**
 * Tasks to run. An array is checked before anything is called; for one written in place the types of
 * all results are kept. Another iterable, a generator say, is pulled only as fast as tasks can start,
 * so with a `concurrency` it may be endless. If it fails, or yields what is not a function, that is a
 * failure; it is closed when no more is needed.
 */
export type TaskList = readonly Task<unknown>[] | [] | Iterable<Task<unknown>>;

/** The type of a task's result. */
export type TaskResult<F> = F extends (signal: AbortSignal) => infer R ? Awaited<R> : never;

/** The types of the results of a list of tasks. */
export type TaskResults<L> = L extends readonly unknown[]
  ? { -readonly [K in keyof L]: TaskResult<L[K]> }
  : L extends Iterable<infer F>
    ? TaskResult<F>[]
    : never;

/** How the tasks with such results have ended. */
export type TaskOutcomes<R> = { [K in keyof R]: PromiseSettledResult<R[K]> };

/** How to run tasks. */
export interface TasksOptions extends WaitOptions {
  /** How many may run at once: a positive integer. Default: `Infinity`. */
  concurrency?: number | undefined;
}

/** How to run tasks for a limited time. */
export interface TimedOptions extends TasksOptions {
  /** Milliseconds after which what still runs is aborted: 0 or more. Default: `Infinity`. */
  timeout?: number | undefined;
}

/** How {@link mapConcurrent} works off its source. */
export interface MapOptions extends WaitOptions {
  /** How many items may be worked on at once: a positive integer, or `Infinity`. */
  concurrency: number;
  /** With `false` it works off all items, and then tells all that failed. Default: `true`. */
  stopOnError?: boolean | undefined;
}

/** Where items come from. */
export type Items<T> = Iterable<T | PromiseLike<T>> | AsyncIterable<T> | ReadableStream<T>;

/**
 * Items, or a function that opens their source when they are needed. Its signal is aborted when
 * the source is closed before its end: that stops a source which would otherwise stay silent.
 */
export type MapSource<T> = Items<T> | ((signal: AbortSignal) => Items<T> | PromiseLike<Items<T>>);

/**
 * Runs tasks at once, and returns their results in the order of the tasks. The first failure aborts
 * the other tasks and starts no more; when those have ended `gather` rejects with it.
 *
 * @throws {TypeError} `tasks` is not an iterable of functions
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
 * const get = (url: string) => async (signal: AbortSignal) => `${url}, ${signal.aborted}`;
 * const pages = await gather(["/a", "/b", "/c"].map(get), { concurrency: 2 });
 * console.assert(pages[2] === "/c, false");
 * ```
 */
export function gather<const L extends TaskList>(
  tasks: L,
  options: TasksOptions = {},
): Promise<TaskResults<L>> {
  return runAll("gather", tasks, options, collect<TaskResults<L>>);
}

/**
 * Runs tasks at once, all of them to their end, and tells how each ended. A failure aborts nothing.
 *
 * When the time of `timeout` is up it starts no more, aborts what runs with a TimeoutError, and waits
 * for it: so the outcomes tell what has finished, and what has not by that error as its reason. The
 * tasks of an array that have not started have it too.
 *
 * @throws {TypeError | RangeError} as {@link gather} does for bad arguments
 * @throws the signal's reason, or a failure of the list itself
 *
 * @example
 * ```ts
 * import { allSettled } from "./concurrency.ts";
 *
 * const [good, bad] = await allSettled([() => "fine", () => Promise.reject("broken")]);
 * console.assert(good.status === "fulfilled" && good.value === "fine");
 * console.assert(bad.status === "rejected" && bad.reason === "broken");
 * ```
 */
export function allSettled<const L extends TaskList>(
  tasks: L,
  options: TimedOptions = {},
): Promise<TaskOutcomes<TaskResults<L>>> {
  return runAll("run allSettled", tasks, options, (scope, outcomes) => {
    const onValue = (value: unknown, index: number) => {
      outcomes[index] = { status: "fulfilled", value };
    };
    return {
      onValue,
      onLate: (value, index) => (scope.failure ? releaseHold(value) : onValue(value, index)),
      onError(reason, index) {
        outcomes[index] = { status: "rejected", reason };
      },
      onTimeout: (error) => scope.stop(error),
      onFailure: () => releaseHold(outcomes),
      finish() {
        const { reason } = scope;
        const all = outcomes.map((outcome) => outcome ?? { status: "rejected", reason });
        return all as TaskOutcomes<TaskResults<L>>;
      },
    };
  });
}

/**
 * Runs tasks at once; the first to settle decides, with its result or its error. The others are
 * aborted and waited for.
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
export function race<const L extends TaskList>(
  tasks: L,
  options: TasksOptions = {},
): Promise<TaskResults<L>[number]> {
  return runAll("race", tasks, options, (scope, results) => ({
    ...firstSuccess(scope, results, () => new RangeError("Cannot race: tasks must not be empty")),
    onError: (error) => scope.fail(error),
  }));
}

/**
 * Runs tasks at once; the first to succeed decides. The others are aborted and waited for.
 *
 * @throws {TypeError | RangeError} as {@link gather} does for bad arguments
 * @throws {AggregateError} all tasks have failed; `errors` is in the order of the tasks
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
export function any<const L extends TaskList>(
  tasks: L,
  options: TasksOptions = {},
): Promise<TaskResults<L>[number]> {
  return runAll("run any", tasks, options, (scope, errors) =>
    firstSuccess(scope, errors, () => new AggregateError(errors, "All tasks failed")),
  );
}

/** A result of {@link asCompleted}. */
export interface Completion<T> {
  /** The place of the task in the list. */
  index: number;
  /** What it returned. */
  value: T;
}

/**
 * Runs tasks at once, and yields their results as they come. A failure aborts the other tasks;
 * `next()` rejects with it when those have ended, after the results that came before.
 *
 * Nothing starts before the first `next()`. A slow consumer doesn't hold up the tasks. Leaving the
 * loop, or calling `return()` during a pending `next()`, aborts what runs and waits for it; it
 * rejects with a failure that no `next()` has told, of a cleanup for example. When the time of
 * `timeout` is up, that is a failure too: a TimeoutError.
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
export function asCompleted<const L extends TaskList>(
  tasks: L,
  options: TimedOptions = {},
): AsyncGenerator<Completion<TaskResults<L>[number]>, void, undefined> {
  type One = Completion<TaskResults<L>[number]>;
  type Step = IteratorResult<One, void>;
  const arrived = new Backlog<One>();
  const waiting = new Backlog<PromiseWithResolvers<Step>>();
  let scope: Scope<void> | undefined;
  let end: Promise<void> | undefined;
  let hasEnded = false;
  let isLeft = false;

  const start = () =>
    runAll<void>("run asCompleted", tasks, options, (own) => {
      scope = own;
      let cleanup: { error: unknown } | undefined;
      return {
        onValue(value, index) {
          const one = { index, value } as One;
          const place = waiting.shift();
          if (place) return place.resolve({ done: false, value: one });
          // The scope hears of an abort until this is taken.
          own.enter();
          arrived.push(one);
        },
        onError(error) {
          if (own.isEcho(error)) return;
          cleanup ??= { error };
          own.fail(error);
        },
        onTimeout: (error) => own.fail(error, error),
        onFailure() {
          if (!own.hasFailed) drop();
        },
        finish() {
          if (cleanup) throw cleanup.error;
        },
      };
    });
  const take = () => {
    const one = arrived.shift();
    if (one) scope!.leave();
    return one;
  };
  const drop = () => {
    for (let one; (one = take());) releaseHold(one.value);
  };
  /** Waits for the end; tells a failure once. */
  const finish = async (): Promise<Step> => {
    isLeft = true;
    const told = end;
    end = end?.catch(doNothing);
    await told;
    return { done: true, value: undefined };
  };
  const onEnd = () => {
    hasEnded = true;
    for (let place; (place = waiting.shift());) {
      place.resolve(isLeft ? { done: true, value: undefined } : finish());
    }
  };

  // Unlike a generator it can be left during a pending `next()`.
  return {
    next() {
      if (isLeft) return Promise.resolve({ done: true, value: undefined });
      if (!end) (end = start()).then(onEnd, onEnd);
      // After an abort that the scope has not heard of yet, it drops what has arrived.
      void scope?.isOver;
      const value = take();
      if (value) return Promise.resolve({ done: false, value });
      if (hasEnded) return finish();
      const place = Promise.withResolvers<Step>();
      waiting.push(place);
      return place.promise;
    },
    return() {
      scope?.stop();
      drop();
      return finish();
    },
    async throw(error) {
      await this.return().catch(doNothing);
      throw error;
    },
    async [Symbol.asyncDispose]() {
      await this.return();
    },
    [Symbol.asyncIterator]() {
      return this;
    },
  };
}

/**
 * Calls `fn` for each item, several at once, and returns the results in the order of the items. The
 * source is pulled only when `fn` has a place free, one item at a time: a long one needs no more
 * memory than its results and `concurrency` items.
 *
 * The first failure, of `fn` or the source, or an abort from outside ends it: the source is closed,
 * the signals given to `fn` are aborted, and when all that has ended it rejects. Only a source in
 * the middle of a `next()` is not waited for: it has been told to close, and what it still yields
 * is dropped. To stop such a source write it as a function of a signal.
 *
 * With `stopOnError: false` a failure of `fn` ends nothing. When all items are done it rejects with an
 * AggregateError of all failures, in order of time. (To have results and errors: {@link allSettled}.)
 *
 * @param source an iterable, an async iterable, a ReadableStream, or a function that returns one
 * @param fn is given the item, its index, and a signal: its own one if it declares three parameters
 * @throws {TypeError} `source` is not a source, or `fn` not a function
 * @throws {RangeError} `concurrency` is neither a positive integer nor Infinity
 * @throws the first failure, or the signal's reason
 * @throws {AggregateError} with `stopOnError: false`: items have failed, and maybe then the source
 *
 * @example
 * ```ts
 * import { mapConcurrent } from "./concurrency.ts";
 *
 * async function* lines(_signal: AbortSignal) {
 *   yield* ["1", "2", "3"];
 * }
 * const squares = await mapConcurrent(lines, async (line) => Number(line) ** 2, {
 *   concurrency: 2,
 * });
 * console.assert(squares.join() === "1,4,9");
 * ```
 */
export function mapConcurrent<S, T>(
  source: MapSource<S>,
  fn: (item: S, index: number, signal: AbortSignal) => T | PromiseLike<T>,
  options: MapOptions,
): Promise<T[]>;
export function mapConcurrent<S, R>(
  source: MapSource<S>,
  fn: (item: S, index: number, signal: AbortSignal) => R,
  options: MapOptions,
): Promise<Awaited<R>[]>;
export function mapConcurrent<S, T>(
  source: MapSource<S>,
  fn: (item: S, index: number, signal: AbortSignal) => T | PromiseLike<T>,
  options: MapOptions = {} as MapOptions,
): Promise<T[]> {
  const action = "run mapConcurrent";
  return new Promise((resolve, reject) => {
    if (typeof source !== "function" && !isItems(source)) {
      throw invalid(action, "source", "an iterable, a stream or a function", source, TypeError);
    }
    requireFunction(action, "fn", fn);
    requireOptions(action, options);
    const { concurrency, stopOnError = true } = options;
    requireCount(action, "concurrency", concurrency);
    if (typeof stopOnError !== "boolean") {
      throw invalid(action, "stopOnError", "a boolean", stopOnError, TypeError);
    }

    const results: T[] = [];
    const errors: unknown[] = [];
    const scope = new Scope<T[]>(action, options, resolve, reject, (scope) => {
      const plan = collect<T[]>(scope, results);
      plan.ownSignals = fn.length > 2;
      if (stopOnError) return plan;
      return {
        ...plan,
        onError(error) {
          if (!scope.isEcho(error)) errors.push(error);
        },
        finish() {
          if (errors.length === 0) return results;
          releaseHold(results);
          throw errors[0];
        },
        toError(cause) {
          if (errors.length === 0 || (scope.isOver && !scope.hasFailed)) return cause;
          if (scope.hasFailed) errors.push(cause);
          return new AggregateError(errors, "Some items failed", { cause: errors[0] });
        },
      };
    });
    scope.input = feed(action, source, scope, (item) => {
      const index = results.push(undefined as T) - 1;
      scope.start((signal) => fn(item, index, signal), index);
    });
    scope.input.pull();
  });
}

/** Where tasks are started: what the body of {@link taskGroup} is given. */
class TaskGroup {
  static {
    showMembers(this, "running", "waiting");
  }
  readonly #scope: Scope<any>;
  readonly #line: Backlog<Place>;

  /** @internal */
  constructor(scope: Scope<any>, line: Backlog<Place>) {
    this.#scope = scope;
    this.#line = line;
  }

  /** Aborted on the first failure, or from outside. */
  get signal(): AbortSignal {
    return this.#scope.signal;
  }

  /** How many tasks run; the body is not one. */
  get running(): number {
    return this.#scope.running;
  }

  /** How many tasks wait in line. */
  get waiting(): number {
    return this.#line.size;
  }

  /**
   * Starts a task, and returns a promise of its result. The promise may be ignored: a failure ends
   * the group in any case. More tasks can be spawned while anything of the group runs, by tasks
   * too. After an abort `spawn` rejects with its reason, and after the end with an Error.
   */
  readonly spawn: {
    <T>(task: Task<T>): Promise<T>;
    <R>(task: (signal: AbortSignal) => R): Promise<Awaited<R>>;
  } = (task: any): Promise<any> => {
    const scope = this.#scope;
    const checked: Task<any> =
      typeof task === "function" ? task : () => requireFunction("spawn", "task", task);
    if (scope.hasRoom && !scope.hasEnded) return scope.start(checked, 0);
    const place = { task: checked, ...Promise.withResolvers<any>() };
    place.promise.catch(doNothing);
    if (scope.hasEnded) place.reject(new Error("Cannot spawn: the group has ended"));
    else if (scope.isOver) place.reject(scope.reason);
    else this.#line.push(place);
    return place.promise;
  };
}

/** The type alone, because {@link taskGroup} makes the groups. */
export type { TaskGroup };

/** A task that waits in line. */
type Place = { task: Task<any> } & PromiseWithResolvers<any>;

/**
 * Runs `body`, which may spawn tasks, and returns its result when all of them have ended. The first
 * failure, of the body or a task, aborts `group.signal` and the signals of all tasks.
 *
 * It then rejects with an AggregateError of all failures, in order of time; an error that the body
 * passes on from a task is listed once. Errors that merely echo the abort are left out: its reason,
 * and after the abort everything named AbortError, and groups that contain nothing else. An abort
 * from outside rejects with its very reason, or, if cleanups then fail, with the AggregateError of
 * their failures, whose `cause` is the reason.
 *
 * With `concurrency`, tasks beyond it wait in line; the body doesn't count. A task that spawns and
 * awaits another one can then deadlock.
 *
 * When the group rejects, the holds that its tasks returned are released.
 *
 * @throws {TypeError} `body` is not a function
 * @throws {RangeError} `concurrency` is neither a positive integer nor Infinity
 * @throws {AggregateError} body or tasks have failed; `cause` is what came first
 * @throws the signal's reason
 *
 * @example
 * ```ts
 * import { taskGroup } from "./concurrency.ts";
 *
 * const seen: string[] = [];
 * await taskGroup(({ spawn }) => {
 *   const visit = (page: string, links: string[]) => {
 *     seen.push(page);
 *     for (const link of links) spawn(async () => visit(link, []));
 *   };
 *   visit("home", ["news", "contact"]);
 * });
 * console.assert(seen.join() === "home,news,contact");
 * ```
 */
export function taskGroup<T>(
  body: (group: TaskGroup) => T | PromiseLike<T>,
  options?: TasksOptions,
): Promise<T>;
export function taskGroup<R>(
  body: (group: TaskGroup) => R,
  options?: TasksOptions,
): Promise<Awaited<R>>;
export function taskGroup<T>(
  body: (group: TaskGroup) => T | PromiseLike<T>,
  options: TasksOptions = {},
): Promise<T> {
  const action = "run taskGroup";
  return new Promise((resolve, reject) => {
    requireFunction(action, "body", body);
    let result: T;
    const errors = new Set<unknown>();
    const holds = new Set<unknown>();
    const line = new Backlog<Place>();
    const onValue = (value: unknown) => {
      if (mayHold(value)) holds.add(value);
    };
    const scope = new Scope<T>(action, options, resolve, reject, () => ({
      onValue,
      // Its receiver may use a hold until the group has ended.
      onLate: onValue,
      onError: (error) => onError(error),
      finish: () => result,
      toError(cause) {
        releaseHold([...holds]);
        if (errors.size === 0) return cause;
        return new AggregateError(errors, "The task group failed", { cause });
      },
    }));
    const onError = (error: unknown) => {
      if (scope.isEcho(error)) return;
      errors.add(error);
      scope.fail(error);
    };
    scope.input = {
      pull() {
        const place = line.shift();
        place?.resolve(scope.start(place.task, 0));
      },
      stop() {
        for (let place; (place = line.shift());) place.reject(scope.reason);
      },
    };
    // The body takes no task's place.
    scope.enter();
    Promise.try(body, new TaskGroup(scope, line))
      .then((value) => onValue((result = value)), onError)
      .then(() => scope.leave());
  });
}

/** What {@link singleFlight} can be told. */
export interface SingleFlightOptions<I> {
  /** Inputs with the same key, compared as in a `Map`, share a run. Default: the input itself. */
  key?: ((input: I) => unknown) | undefined;
}

/** A function of which concurrent calls share one run. */
export interface SingleFlight<I, T> {
  (input: I, options?: WaitOptions): Promise<T>;
  /** Lets the next call with this key start a new run. One that runs goes on for its callers. */
  forget(key: unknown): void;
}

/**
 * Makes a function of which concurrent calls with the same key share one run and its outcome. When
 * that is there the key is forgotten: this is not a cache.
 *
 * A caller that aborts leaves alone, at once. When all have left, the run is aborted and its result
 * dropped, and the next caller starts a new one.
 *
 * @param fn is given the first caller's input, and a signal
 * @throws {TypeError} `fn` or `key` is not a function
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
  options?: SingleFlightOptions<I>,
): SingleFlight<I, T>;
export function singleFlight<I = void, R = unknown>(
  fn: (input: I, signal: AbortSignal) => R,
  options?: SingleFlightOptions<I>,
): SingleFlight<I, Awaited<R>>;
export function singleFlight<I, T>(
  fn: (input: I, signal: AbortSignal) => T | PromiseLike<T>,
  options: SingleFlightOptions<I> = {},
): SingleFlight<I, T> {
  requireFunction("create singleFlight", "fn", fn);
  requireOptions("create singleFlight", options);
  const { key = (input: I): unknown => input } = options;
  requireFunction("create singleFlight", "key", key);
  const flights = new Map<unknown, Flight<T>>();

  const fly = (input: I, options?: WaitOptions): Promise<T> => {
    try {
      let signal: AbortSignal | undefined;
      if (options !== undefined) {
        requireOptions("call singleFlight", options);
        requireSignal("call singleFlight", options.signal);
        signal = options.signal;
        signal?.throwIfAborted();
      }
      const id = key(input);
      signal?.throwIfAborted();
      const joined = flights.get(id);
      if (joined) return board(joined, signal);

      const flight: Flight<T> = {
        callers: new Set(),
        staying: undefined,
        controller: new AbortController(),
        forget: () => flights.get(id) === flight && flights.delete(id),
      };
      flights.set(id, flight);
      const promise = board(flight, signal);
      Promise.try(fn, input, flight.controller.signal).then(
        (value) => {
          if (flight.callers.size === 0) releaseHold(value);
          land(flight, (caller) => caller.resolve(value));
        },
        (error) => land(flight, (caller) => caller.reject(error)),
      );
      return promise;
    } catch (error) {
      return Promise.reject(error);
    }
  };
  return Object.assign(fly, { forget: (key: unknown) => void flights.delete(key) });
}

/** One run of {@link singleFlight}. */
interface Flight<T> {
  /** Those that have not left. */
  callers: Set<Caller<T>>;
  /** The callers without a signal can't leave, and share one promise. */
  staying: Caller<T> | undefined;
  controller: AbortController;
  forget: () => void;
}

interface Caller<T> extends PromiseWithResolvers<T> {
  stopListening: () => void;
}

function board<T>(flight: Flight<T>, signal: AbortSignal | null | undefined): Promise<T> {
  if (!signal && flight.staying) return flight.staying.promise;
  const caller: Caller<T> = { ...Promise.withResolvers<T>(), stopListening: doNothing };
  flight.callers.add(caller);
  if (!signal) flight.staying = caller;
  else {
    caller.stopListening = onAbort(signal, (reason) => {
      caller.reject(reason);
      flight.callers.delete(caller);
      if (flight.callers.size > 0) return;
      flight.forget();
      flight.controller.abort(reason);
    });
  }
  return caller.promise;
}

function land<T>(flight: Flight<T>, tell: (caller: Caller<T>) => void): void {
  flight.forget();
  for (const caller of flight.callers) {
    caller.stopListening();
    tell(caller);
  }
}

/** How {@link hedge} tries. */
export interface HedgeOptions extends WaitOptions {
  /**
   * Milliseconds after which one more attempt starts: 0 or more. With `Infinity` it starts only
   * when an attempt has failed.
   */
  after: number;
  /** How many attempts to make in all: a positive integer, or `Infinity`. Default: 2. */
  attempts?: number | undefined;
}

/**
 * Runs a task, and again if it is slow: every `after` milliseconds, and at once when an attempt has
 * failed (every tenth failure gives the event loop a turn first). The first success decides; the
 * other attempts are aborted and waited for.
 *
 * Only for what may be done twice without harm: reading, say. The idea is that of hedged requests,
 * in "The Tail at Scale" by Dean and Barroso.
 *
 * @throws {TypeError} `task` is not a function, or `after` or `attempts` not a number
 * @throws {RangeError} `after` is negative or NaN, or `attempts` neither a positive integer nor
 *   Infinity
 * @throws {AggregateError} all attempts have failed; `errors` is in the order of the attempts
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
export function hedge<T>(task: Task<T>, options: HedgeOptions): Promise<T>;
export function hedge<R>(
  task: (signal: AbortSignal) => R,
  options: HedgeOptions,
): Promise<Awaited<R>>;
export function hedge<T>(task: Task<T>, options = {} as HedgeOptions): Promise<T> {
  return new Promise((resolve, reject) => {
    requireFunction("hedge", "task", task);
    requireOptions("hedge", options);
    const { after, attempts = 2, signal } = options;
    requireDuration("hedge", "after", after);
    requireCount("hedge", "attempts", attempts);

    const errors: unknown[] = [];
    let started = 0;
    let failed = 0;
    const scope: Scope<T> = new Scope<T>("hedge", { signal }, resolve, reject, (scope) => ({
      ...firstSuccess(scope, errors, () => new AggregateError(errors, "All attempts failed")),
      onError(error, index) {
        errors[index] = error;
        if (started === attempts) return;
        // Attempts that fail at once would block the event loop.
        if (++failed % 10 === 0) startIn(Math.min(after, 1));
        else attempt();
      },
    }));
    // Until the last attempt has started, there may be more to wait for.
    scope.enter();
    scope.input = {
      pull: doNothing,
      stop() {
        if (started < attempts) scope.leave();
      },
    };
    const startIn = (ms: number) => {
      scope.stopTimer();
      scope.stopTimer = startTimer(ms, attempt);
    };
    const attempt = () => {
      scope.stopTimer();
      if (scope.isOver) return;
      const isLast = ++started === attempts;
      if (!isLast) startIn(after);
      scope.start(task, started - 1);
      if (isLast) scope.leave();
    };
    attempt();
  });
}

/** What a {@link Scope} works for. */
interface Plan<R> {
  /** Whether a task has a signal of its own. Default: only if it declares a parameter. */
  ownSignals?: boolean;
  /** A task has succeeded before any abort. */
  onValue: (value: unknown, index: number) => void;
  /** A task has succeeded after an abort. Default: `releaseHold`. */
  onLate?: (value: unknown, index: number) => void;
  onError: (error: unknown, index: number) => void;
  onTimeout?: (error: unknown) => void;
  /** It will reject: drops what nobody will receive. */
  onFailure?: () => void;
  /** All tasks have ended, without a failure or an abort from outside. */
  finish: () => R;
  /** Turns the failure, or the reason of the abort from outside, into what is thrown. */
  toError?: (cause: unknown) => unknown;
}

/** Where a {@link Scope} gets its tasks. */
interface Input {
  /** A task has ended: starts another, if there is one. */
  pull: () => void;
  /** No more are needed. */
  stop: () => void;
}

/** Tasks that are aborted together and waited for together: the base of most of the above. */
class Scope<R> {
  /** How many tasks run. */
  running = 0;
  hasEnded = false;
  /** What all have been aborted with. */
  reason: unknown;
  /** What it rejects with: a failure, or the reason of the abort from outside. */
  failure: { error: unknown } | undefined;
  hasFailed = false;
  input!: Input;
  /** Stops the one timer it may have. */
  stopTimer: () => void = doNothing;
  readonly #concurrency: number;
  readonly #plan: Plan<R>;
  readonly #outer: AbortSignal | null | undefined;
  readonly #stopListening: () => void;
  readonly #resolve: (result: R) => void;
  readonly #reject: (error: unknown) => void;
  readonly #controllers = new Set<AbortController>();
  #shared: AbortSignal | undefined;
  #entered = 0;
  #isAborted = false;

  constructor(
    action: string,
    options: TasksOptions,
    resolve: (result: R) => void,
    reject: (error: unknown) => void,
    plan: (scope: Scope<R>) => Plan<R>,
  ) {
    requireOptions(action, options);
    const { concurrency = Infinity, signal, timeout: ms = Infinity } = options as TimedOptions;
    requireCount(action, "concurrency", concurrency);
    requireDuration(action, "timeout", ms);
    requireSignal(action, signal);
    signal?.throwIfAborted();
    this.#concurrency = concurrency;
    this.#outer = signal;
    this.#resolve = resolve;
    this.#reject = reject;
    this.#plan = plan(this);
    this.#stopListening = onAbort(signal ?? undefined, () => void this.isOver);
    const { onTimeout } = this.#plan;
    if (!onTimeout) return;
    this.stopTimer = startTimer(ms, () =>
      onTimeout(new DOMException(`Timed out after ${ms} ms`, "TimeoutError")),
    );
  }

  /** The signal of the tasks that have none of their own. */
  get signal(): AbortSignal {
    return (this.#shared ??= this.#newController().signal);
  }

  #newController(): AbortController {
    const controller = new AbortController();
    if (this.#isAborted) controller.abort(this.reason);
    this.#controllers.add(controller);
    return controller;
  }

  /** Whether there was an abort. The outer signal may not have told its listeners yet. */
  get isOver(): boolean {
    if (this.#outer?.aborted && !this.#isAborted && !this.hasEnded) {
      this.#abort(this.#outer.reason, { error: this.#outer.reason });
    }
    return this.#isAborted;
  }

  /** Whether one more task may start. */
  get hasRoom(): boolean {
    return this.running < this.#concurrency && !this.isOver;
  }

  /** Makes the scope wait for one more. */
  enter(): void {
    this.#entered++;
  }

  /** Undoes one `enter()`. After the last one, and the last task, the scope ends. */
  leave(): void {
    this.#entered--;
    this.#endIfDone();
  }

  #endIfDone(): void {
    if (this.running + this.#entered > 0 || this.hasEnded) return;
    this.hasEnded = true;
    this.stopTimer();
    this.#stopListening();
    const { finish, toError = (cause) => cause } = this.#plan;
    try {
      if (this.failure) throw this.failure.error;
      this.#resolve(finish());
    } catch (cause) {
      this.#reject(toError(cause));
    }
  }

  /** Runs a task, and returns the promise of its result, which need not be handled. */
  start(task: Task<unknown>, index: number): Promise<unknown> {
    this.running++;
    const plan = this.#plan;
    const own = (plan.ownSignals ?? task.length > 0) ? this.#newController() : undefined;
    let outcome: Promise<unknown>;
    try {
      outcome = Promise.resolve(task(own ? own.signal : this.signal));
    } catch (error) {
      outcome = Promise.reject(error);
    }
    outcome.then(
      (value) => {
        if (own) this.#controllers.delete(own);
        if (this.isOver) (plan.onLate ?? releaseHold)(value, index);
        else plan.onValue(value, index);
        this.#end();
      },
      (error) => {
        if (own) this.#controllers.delete(own);
        plan.onError(error, index);
        this.#end();
      },
    );
    return outcome;
  }

  /** A task has ended. */
  #end(): void {
    this.running--;
    this.input.pull();
    this.#endIfDone();
  }

  /** Aborts all because of a failure. Does nothing after an abort. */
  fail(error: unknown, reason: unknown = failedBecause(error)): void {
    if (this.isOver) return;
    this.hasFailed = true;
    this.#abort(reason, { error });
  }

  /** Aborts what still runs. */
  stop(reason: unknown = new DOMException("The result is no longer needed", "AbortError")): void {
    if (!this.isOver && !this.hasEnded) this.#abort(reason);
  }

  #abort(reason: unknown, failure?: { error: unknown }): void {
    this.#isAborted = true;
    this.reason = reason;
    this.failure = failure;
    this.stopTimer();
    for (const controller of this.#controllers) controller.abort(reason);
    this.input.stop();
    if (failure) this.#plan.onFailure?.();
  }

  /** Whether an error merely passes on the abort. */
  isEcho(error: unknown): boolean {
    if (!this.isOver) return false;
    const seen = new Set([error]);
    try {
      // The loop also visits what is added meanwhile, the errors of groups.
      for (const one of seen as Set<any>) {
        if (this.#outer?.aborted && one === this.#outer.reason) continue;
        if (one.name === "AbortError") continue;
        if (!Array.isArray(one.errors) || one.errors.length === 0) return false;
        for (const inner of one.errors) seen.add(inner);
      }
      return true;
    } catch {
      // It can't be looked into, so it is taken for a failure.
      return false;
    }
  }
}

function failedBecause(cause: unknown): DOMException {
  const reason = new DOMException("Another task failed", "AbortError");
  return Object.defineProperty(reason, "cause", { value: cause });
}

/** Runs the tasks of a list in one scope; for an array `results` has a place for each. */
function runAll<R>(
  action: string,
  tasks: TaskList,
  options: TasksOptions,
  plan: (scope: Scope<R>, results: unknown[]) => Plan<R>,
): Promise<R> {
  return new Promise((resolve, reject) => {
    if (!(Symbol.iterator in Object(tasks))) {
      throw invalid(action, "tasks", "an iterable of functions", tasks, TypeError);
    }
    const list = Array.isArray(tasks) ? [...(tasks as Task<unknown>[])] : undefined;
    list?.forEach((task, index) => {
      if (typeof task !== "function") requireFunction(action, `tasks[${index}]`, task);
    });
    const results = new Array(list?.length ?? 0).fill(undefined);
    const scope = new Scope<R>(action, options, resolve, reject, (scope) => plan(scope, results));
    let index = 0;
    const start = (task: Task<unknown>) => scope.start(task, index++);
    scope.input = list
      ? feedArray(list, scope, start)
      : feed(action, checkEach(action, tasks), scope, start);
    scope.input.pull();
  });
}

/** A task that is wrong closes the list, as leaving the loop does. */
function* checkEach(action: string, tasks: TaskList): Generator<Task<unknown>> {
  let index = 0;
  for (const task of tasks) {
    requireFunction(action, `tasks[${index++}]`, task);
    yield task;
  }
}

/** The plan of those that return all results, and stop at the first failure. */
function collect<R>(scope: Scope<R>, results: unknown[]): Plan<R> {
  return {
    onValue(value, index) {
      results[index] = value;
    },
    onError: (error) => scope.fail(error),
    onFailure: () => releaseHold(results),
    finish: () => results as R,
  };
}

/** The plan of those that return the first success, or throw `none()`. */
function firstSuccess<R>(scope: Scope<R>, errors: unknown[], none: () => Error): Plan<R> {
  let winner: { value: unknown } | undefined;
  return {
    ownSignals: true,
    onValue(value) {
      winner = { value };
      scope.stop();
    },
    onError(error, index) {
      errors[index] = error;
    },
    finish() {
      if (!winner) throw none();
      return winner.value as R;
    },
  };
}

interface ItemIterator {
  next: () => any;
  return?: () => unknown;
}

/** Reads a source. The scope waits until that has ended or been closed. */
function feed<T>(
  action: string,
  source: MapSource<T>,
  scope: Scope<any>,
  onItem: (item: T) => void,
): Input {
  if (isArrayOfItems<T>(source)) return feedArray(source, scope, onItem);
  scope.enter();
  let controller: AbortController | undefined;
  let iterator: ItemIterator | undefined;
  let isSync: boolean;
  let isOpen = true;
  /** Asked for something that has not come yet. */
  let isBusy = false;
  /** In the very call of `next()`: a generator can't be closed then. */
  let isCalling: boolean;

  /** Asks for items, one at a time, as long as there is a place for them. */
  const pull = async (): Promise<void> => {
    let isItem = false;
    try {
      while (!isBusy && isOpen && scope.hasRoom) {
        isBusy = true;
        if (!iterator) {
          let items: any = source;
          if (!isItems(items)) {
            controller = new AbortController();
            items = await items(controller.signal);
            if (!isOpen) return void close(items);
            if (!isItems(items)) {
              throw invalid(action, "what source returns", "a source", items, TypeError);
            }
          }
          isSync = !(items.getReader ?? items[Symbol.asyncIterator]);
          iterator = iteratorOf(items);
        }
        if (!isOpen) return void close();
        isCalling = true;
        let step = iterator.next();
        isCalling = false;
        if (!isOpen && !step.done) close();
        if (!isSync) step = await step;
        if (Object(step) !== step) {
          throw invalid(action, "the result of next()", "an object", step, TypeError);
        }
        if (step.done) {
          if (isOpen) scope.leave();
          isOpen = false;
          return;
        }
        let item = step.value;
        isItem = true;
        if (isSync && typeof item?.then === "function") item = await item;
        isItem = isBusy = false;
        if (scope.isOver) releaseHold(item);
        else onItem(item);
      }
    } catch (error) {
      if (!isOpen) return;
      if (isItem) close();
      isOpen = false;
      scope.fail(error);
      controller?.abort(scope.reason);
      scope.leave();
    }
  };
  // What was never iterated is closed by its own method. Without one, this fails unheard.
  const close = (items: any = iterator): Promise<unknown> => {
    const closing = Promise.try(() => (items.getReader ? items.cancel() : items.return()));
    closing.catch(doNothing);
    return closing;
  };
  /** Tells the source to close, and waits for that unless it is busy: it may be silent for ever. */
  const stop = () => {
    if (!isOpen) return;
    isOpen = false;
    controller?.abort(scope.reason);
    const leave = () => scope.leave();
    if (!isBusy) return void close().then(leave, leave);
    if (!isCalling) close();
    leave();
  };
  return { pull, stop };
}

/** As {@link feed}, for an array: it needs no asking, no waiting and no closing. */
function feedArray<T>(items: readonly T[], scope: Scope<any>, onItem: (item: T) => void): Input {
  scope.enter();
  let next = 0;
  const pull = (): void => {
    while (next <= items.length && scope.hasRoom) {
      if (next === items.length) return stop();
      onItem(items[next++]!);
    }
  };
  const stop = (): void => {
    if (next <= items.length) scope.leave();
    next = Infinity;
  };
  return { pull, stop };
}

/** Promises are awaited before their turn, so an array that has any is a source like others. */
function isArrayOfItems<T>(source: unknown): source is T[] {
  return Array.isArray(source) && !source.some((item) => typeof item?.then === "function");
}

/** First in, first out. */
class Backlog<T> {
  #pushed: T[] = [];
  /** The next is at the end. */
  #reversed: T[] = [];

  get size(): number {
    return this.#pushed.length + this.#reversed.length;
  }

  push(item: T): void {
    this.#pushed.push(item);
  }

  shift(): T | undefined {
    if (this.#reversed.length === 0) {
      this.#reversed = this.#pushed.reverse();
      this.#pushed = [];
    }
    return this.#reversed.pop();
  }
}

/** Whether `releaseHold` may find something in it. */
function mayHold(value: unknown): boolean {
  try {
    if (Array.isArray(value)) return value.some(mayHold);
    const { release, status, value: inner } = Object(value);
    return typeof release === "function" || (status === "fulfilled" && mayHold(inner));
  } catch {
    return true;
  }
}

function isItems(source: any): boolean {
  return (source?.getReader ?? source?.[Symbol.asyncIterator] ?? source?.[Symbol.iterator]) != null;
}

function iteratorOf(items: any): ItemIterator {
  if (items.getReader) return readerOf(items);
  if (items[Symbol.asyncIterator]) return items[Symbol.asyncIterator]();
  // Else those that fail before their turn would be unhandled.
  if (Array.isArray(items)) {
    for (const item of items) if (item instanceof Promise) item.catch(doNothing);
  }
  return items[Symbol.iterator]();
}

/** Unlike the platform's, it can be closed during a pending `next()`, and leaves no lock behind. */
function readerOf(stream: ReadableStream): ItemIterator {
  const reader = stream.getReader();
  return {
    async next() {
      let isDone = true;
      try {
        const step = await reader.read();
        isDone = step.done;
        return step;
      } finally {
        if (isDone) reader.releaseLock();
      }
    },
    return() {
      const closing = reader.cancel();
      reader.releaseLock();
      return closing;
    },
  };
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

// ─── Demo: `bun concepts/concurrency.ts` ─────────────────────────────────────────────────────────

/** Two at a time; the third fails: the fourth is aborted and cleans up, the fifth never starts. */
export async function demo(log: (lane: string, state: string) => void = print): Promise<void> {
  const sleep = (ms: number, signal?: AbortSignal) =>
    new Promise<void>((resolve, reject) => {
      const timer = setTimeout(resolve, ms);
      signal?.addEventListener("abort", () => {
        clearTimeout(timer);
        reject(signal.reason);
      });
    });
  const task = (n: number) => async (signal: AbortSignal) => {
    log(`task ${n}`, "running");
    try {
      await sleep(50 + 50 * n, signal);
    } catch (reason) {
      log(`task ${n}`, "cleaning up");
      await sleep(100);
      log(`task ${n}`, "cancelled");
      throw reason;
    }
    log(`task ${n}`, n === 3 ? "failed" : "done");
    if (n === 3) throw new Error("task 3 is broken");
  };
  for (const n of [1, 2, 3, 4, 5]) log(`task ${n}`, "waiting");
  log("gather", "running");
  const options = { concurrency: 2, signal: AbortSignal.timeout(1000) };
  await gather([1, 2, 3, 4, 5].map(task), options).catch(() => log("gather", "failed"));
}

let start: number | undefined;

function print(lane: string, state: string): void {
  start ??= performance.now();
  const ms = Math.round(performance.now() - start);
  console.log(`+${String(ms).padStart(4)} ms  ${lane}  ${state}`);
}

if ((import.meta as { main?: boolean }).main) void demo();
