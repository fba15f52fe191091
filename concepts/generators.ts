// async-concepts 0.3.0, MIT License. A file to copy and own; please keep this line.

/**
 * # Generators
 *
 * Streams of values that come one by one: where they come from, and what can be done with them on
 * the way to a `for await` loop.
 *
 * Reach for it when what you work on is too long, or too slow, to be waited for as an array: rows,
 * lines, events, the pages of an API.
 *
 * Without it the loop is quickly written, but not its end: a `break` leaves a listener attached, a
 * silent source can't be stopped, one of two merged sources stays open, and the error that its
 * cleanup throws is lost.
 *
 * All of them keep one contract. Nothing is opened before the first `next()`, and no more is pulled
 * than is asked for. However a stream ends (by itself, by an error of a source or of `fn`, or
 * because the consumer breaks, throws or calls `return()`), every open source is closed once, and
 * its cleanup is awaited. An error is told once; several are told as one AggregateError. Functions
 * are called with the value and its index, and are awaited. Calls of `next()` that overlap are
 * answered in order. A result that nobody receives is released if it is a hold: disposable, with a
 * `release()` method.
 *
 * Limitation: a source can be closed in the middle of a `next()` only if it cooperates; a generator
 * closes after that `next()`. An error and an abort don't wait for it: the source has been told to
 * close. A consumer who merely leaves does wait. To make a source stoppable, pass a function: its
 * signal is aborted when the stream is left.
 *
 * Known elsewhere as: Python's async generators, `itertools` and aiostream; Go's channels between
 * goroutines; Kotlin's `Flow`; RxJS and IxJS. The names are those of the async iterator helpers
 * proposed for JavaScript, then RxJS's.
 *
 * @module
 */

/** Values in a sequence. Promises in a synchronous one are awaited. */
export type Sequence<T> = Iterable<T | PromiseLike<T>> | AsyncIterable<T> | ReadableStream<T>;

/**
 * Where values come from: a sequence, or a function that returns one, at once or as a promise.
 *
 * The function is called once, at the first `next()`. Its signal is aborted when the stream ends
 * before the source does; an AbortError that the source throws then is dropped. A sequence that
 * nobody has read is opened only to be closed.
 */
export type Source<T> =
  Sequence<T> | ((signal: AbortSignal) => Sequence<T> | PromiseLike<Sequence<T>>);

/** Called with a value and its index. */
type PerValue<T, R> = (value: T, index: number) => R;

type Inner<R> = Source<R> | PromiseLike<Source<R>>;

/** What all functions here return: to be looped over, once. */
export interface Stream<T> extends AsyncIterableIterator<T, void, undefined>, AsyncDisposable {
  /** The next value, or the end. */
  next(): Promise<IteratorResult<T, void>>;
  /**
   * Ends the stream, even while a `next()` waits, which then is done. Waits until all sources are
   * closed, and rejects with what has failed since, unless that has been told.
   */
  return(): Promise<IteratorResult<T, void>>;
}

// ─── Sources ─────────────────────────────────────────────────────────────────────────────────────

/**
 * Yields 0, 1, 2, …, one every `ms` milliseconds from the first `next()` on, without drift. If
 * ticks come while the consumer is busy, it gets the last of them at once; a gap in the numbers
 * tells how many were missed. A timer runs only while the consumer waits.
 *
 * @param ms milliseconds: a positive number
 * @throws {TypeError | RangeError} `ms` is not a positive number, or `signal` not an AbortSignal
 * @throws the signal's reason, once it is aborted
 *
 * @example
 * ```ts
 * import { interval } from "./generators.ts";
 * const ticks: number[] = [];
 * for await (const tick of interval(5)) if (ticks.push(tick) === 3) break;
 * console.assert(ticks[2]! >= 2);
 * ```
 */
export function interval(ms: number, options: WaitOptions = {}): Stream<number> {
  requirePositive("create interval", "ms", ms);
  requireOptions("create interval", options);
  requireSignal("create interval", options.signal);
  let start: number | undefined;
  let tick = -1;
  const hub: Hub<number> = new Hub("create interval", [], {
    pull() {
      if (hub.isTiming) return;
      const now = performance.now();
      start ??= now;
      tick = Math.max(tick + 1, Math.floor((now - start) / ms) - 1);
      const left = start + (tick + 1) * ms - now;
      if (left <= 0) return hub.put(tick);
      hub.startTimer(left, () => hub.put(tick));
    },
  });
  return options.signal ? takeUntil(hub, options.signal, { reject: true }) : hub;
}

/** What {@link fromEvent} listens to, if not to an EventTarget: Node's `EventEmitter` is one. */
export interface Emitter {
  on(type: any, listener: (...values: any[]) => void): unknown;
  off(type: any, listener: (...values: any[]) => void): unknown;
}

/** How {@link fromEvent} listens. */
export interface EventOptions extends WaitOptions {
  /** How many events may wait for the consumer: a positive integer. Default: 1024. */
  capacity?: number | undefined;
  /**
   * Whether one event too many drops the oldest. Otherwise it ends the stream: `next()` rejects
   * after the events that wait. Default: false.
   */
  dropOldest?: boolean | undefined;
  /** The event that ends the stream, after those that wait. */
  end?: string | undefined;
  /**
   * The event that fails the stream, after those that wait: with its value, or with the `error` of
   * an ErrorEvent. Default: "error" of an emitter, nothing of an EventTarget.
   */
  error?: string | undefined;
}

/**
 * Yields the events of a target, or an array of what each event of an emitter has passed to its
 * listeners. It listens from the first `next()` until it is left, so that a stream nobody reads
 * holds nothing. As `events.on` of Node, with a bound.
 *
 * @throws {TypeError | RangeError} `target` is neither an EventTarget nor an emitter, a type not a
 * string, `capacity` not a positive integer, or `signal` not an AbortSignal
 * @throws {Error} more than `capacity` events wait
 * @throws the signal's reason, once it is aborted
 *
 * @example
 * ```ts
 * import { fromEvent } from "./generators.ts";
 * const button = new EventTarget();
 * setTimeout(() => button.dispatchEvent(new Event("click")), 1);
 * for await (const event of fromEvent(button, "click")) {
 *   console.assert(event.type === "click");
 *   break;
 * }
 * ```
 */
export function fromEvent<E extends Event = Event>(
  target: EventTarget,
  type: string,
  options?: EventOptions,
): Stream<E>;
export function fromEvent<V extends unknown[] = any[]>(
  target: Emitter,
  type: string,
  options?: EventOptions,
): Stream<V>;
export function fromEvent(
  target: EventTarget | Emitter,
  type: string,
  options: EventOptions = {},
): Stream<unknown> {
  const isTarget = typeof Object(target).addEventListener === "function";
  if (!isTarget && typeof Object(target).on !== "function") {
    throw invalid("listen", "target", "an EventTarget or an emitter", target, TypeError);
  }
  requireOptions("listen", options);
  const { capacity = 1024, dropOldest = false, end = "", signal } = options;
  const { error = isTarget ? "" : "error" } = options;
  for (const [name, value] of Object.entries({ type, end, error })) {
    if (typeof value !== "string") throw invalid("listen", name, "a string", value, TypeError);
  }
  requirePositiveInteger("listen", "capacity", capacity);
  requireSignal("listen", signal);
  const listeners: Record<string, (...values: any[]) => void> = {
    [end]: () => hub.finish(),
    [error]: (value) => hub.fail((isTarget && value.error) || value),
    [type](...values) {
      const value = isTarget ? values[0] : values;
      if (hub.ready < capacity) hub.put(value);
      else if (dropOldest) hub.replaceOldest(value);
      else hub.fail(new Error(`Cannot keep up with "${type}": ${capacity} events wait already`));
    },
  };
  const each = (method: string) => {
    for (const name in listeners) if (name) (target as any)[method](name, listeners[name]);
  };
  let isListening = false;
  const hub: Hub<unknown> = new Hub("listen", [], {
    pull() {
      if (!isListening) each(isTarget ? "addEventListener" : "on");
      isListening = true;
    },
    shut: () => each(isTarget ? "removeEventListener" : "off"),
  });
  return signal ? takeUntil(hub, signal, { reject: true }) : hub;
}

// ─── Operators ───────────────────────────────────────────────────────────────────────────────────

/**
 * Yields the results of `fn`, called with one value after the other.
 *
 * @throws {TypeError} `source` is not an iterable, or `fn` not a function
 *
 * @example
 * ```ts
 * import { map } from "./generators.ts";
 * const squares = await Array.fromAsync(map([1, 2, 3], async (n) => n * n));
 * console.assert(squares.join() === "1,4,9");
 * ```
 */
export function map<T, R>(source: Source<T>, fn: PerValue<T, R | PromiseLike<R>>): Stream<R>;
export function map<T, R>(source: Source<T>, fn: PerValue<T, R>): Stream<Awaited<R>>;
export function map(source: Source<any>, fn: PerValue<any, any>): Stream<any> {
  requireFunction("map", "fn", fn);
  return new Transform("map", source, fn, (_, result) => result);
}

/**
 * Yields the values for which `fn` returns something truthy.
 *
 * @throws {TypeError} `source` is not an iterable, or `fn` not a function
 *
 * @example
 * ```ts
 * import { filter } from "./generators.ts";
 * const even = await Array.fromAsync(filter([1, 2, 3, 4], (n) => n % 2 === 0));
 * console.assert(even.join() === "2,4");
 * ```
 */
export function filter<T, S extends T>(
  source: Source<T>,
  fn: (value: T, index: number) => value is S,
): Stream<S>;
export function filter<T>(source: Source<T>, fn: PerValue<T, unknown>): Stream<T>;
export function filter<T>(source: Source<T>, fn: PerValue<T, unknown>): Stream<T> {
  requireFunction("filter", "fn", fn);
  return new Transform("filter", source, fn, valueOrSkip);
}

/**
 * Yields the first `count` values, and asks the source for no more.
 *
 * @throws {TypeError | RangeError} `source` is not an iterable, or `count` not an integer of 0 or
 * more
 *
 * @example
 * ```ts
 * import { interval, take } from "./generators.ts";
 * const ticks = await Array.fromAsync(take(interval(1), 3));
 * console.assert(ticks.length === 3);
 * ```
 */
export function take<T>(source: Source<T>, count: number): Stream<T> {
  requireIndex("take", "count", count);
  return new Transform<T, unknown, T>("take", source, doNothing, (value) => value, count);
}

/**
 * Yields all but the first `count` values.
 *
 * @throws {TypeError | RangeError} `source` is not an iterable, or `count` not an integer of 0 or
 * more
 *
 * @example
 * ```ts
 * import { drop } from "./generators.ts";
 * const rows = await Array.fromAsync(drop(["header", "first", "second"], 1));
 * console.assert(rows.join() === "first,second");
 * ```
 */
export function drop<T>(source: Source<T>, count: number): Stream<T> {
  requireIndex("drop", "count", count);
  return new Transform("drop", source, (_: T, index) => index >= count, valueOrSkip);
}

/**
 * Yields values as long as `fn` returns something truthy.
 *
 * @throws {TypeError} `source` is not an iterable, or `fn` not a function
 *
 * @example
 * ```ts
 * import { takeWhile } from "./generators.ts";
 * const small = await Array.fromAsync(takeWhile([1, 2, 9, 1], (n) => n < 5));
 * console.assert(small.join() === "1,2");
 * ```
 */
export function takeWhile<T, S extends T>(
  source: Source<T>,
  fn: (value: T, index: number) => value is S,
): Stream<S>;
export function takeWhile<T>(source: Source<T>, fn: PerValue<T, unknown>): Stream<T>;
export function takeWhile<T>(source: Source<T>, fn: PerValue<T, unknown>): Stream<T> {
  requireFunction("takeWhile", "fn", fn);
  return new Transform("takeWhile", source, fn, (value: T, isIn) => (isIn ? value : END));
}

/**
 * Yields what has been accumulated after each value: `fn` is called with the result before, or
 * `initial`, and the value.
 *
 * @throws {TypeError} `source` is not an iterable, or `fn` not a function
 *
 * @example
 * ```ts
 * import { scan } from "./generators.ts";
 * const sums = await Array.fromAsync(scan([1, 2, 3], (sum, n) => sum + n, 0));
 * console.assert(sums.join() === "1,3,6");
 * ```
 */
export function scan<T, A>(
  source: Source<T>,
  fn: (accumulated: A, value: T, index: number) => A | PromiseLike<A>,
  initial: A,
): Stream<A> {
  requireFunction("scan", "fn", fn);
  let accumulated = initial;
  return new Transform<T, A, A>(
    "scan",
    source,
    (value, index) => fn(accumulated, value, index),
    (_, result) => (accumulated = result),
  );
}

/** How {@link flatMap} reads. */
export interface FlatMapOptions {
  /** How many inner sources are read at once: a positive integer or `Infinity`. Default: 1. */
  concurrency?: number | undefined;
}

/**
 * Yields all values of the sources that `fn` returns, one source after the other. With a
 * `concurrency` it reads so many of them at once, and yields their values as they come.
 *
 * @throws {TypeError} `source`, or what `fn` returns, is not an iterable, or `fn` not a function
 *
 * @example
 * ```ts
 * import { flatMap } from "./generators.ts";
 * const words = await Array.fromAsync(flatMap(["to be", "or not"], (line) => line.split(" ")));
 * console.assert(words.join() === "to,be,or,not");
 * ```
 */
export function flatMap<T, R>(
  source: Source<T>,
  fn: PerValue<T, Inner<R>>,
  options?: FlatMapOptions,
): Stream<R>;
export function flatMap<T, S extends Inner<unknown>>(
  source: Source<T>,
  fn: PerValue<T, S>,
  options?: FlatMapOptions,
): Stream<Item<Awaited<S>>>;
export function flatMap(
  source: Source<any>,
  fn: PerValue<any, any>,
  options: FlatMapOptions = {},
): Stream<any> {
  requireOptions("flatMap", options);
  const { concurrency = 1 } = options;
  requireCount("flatMap", "concurrency", concurrency);
  return flatten("flatMap", source, fn, concurrency);
}

/**
 * Yields the values of the source that `fn` has returned last. The next value of `source` closes
 * it and opens another at once; what still comes of the old one is dropped. Return a function,
 * `(signal) => source`, to stop a request that has become pointless. The end does not wait for an
 * old source that is silent: should it fail later, the next `next()` rejects with that.
 *
 * @throws {TypeError} `source`, or what `fn` returns, is not an iterable, or `fn` not a function
 *
 * @example
 * ```ts
 * import { interval, map, switchMap, take } from "./generators.ts";
 * const search = (text: string) => map(take(interval(1), 1), () => `found ${text}`);
 * const found = await Array.fromAsync(switchMap(["a", "ab", "abc"], search));
 * console.assert(found.join() === "found abc");
 * ```
 */
export function switchMap<T, R>(source: Source<T>, fn: PerValue<T, Inner<R>>): Stream<R>;
export function switchMap<T, S extends Inner<unknown>>(
  source: Source<T>,
  fn: PerValue<T, S>,
): Stream<Item<Awaited<S>>>;
export function switchMap(source: Source<any>, fn: PerValue<any, any>): Stream<any> {
  return flatten("switchMap", source, fn);
}

/** Without a `concurrency` the last inner source replaces the one before. */
function flatten(
  action: string,
  source: Source<unknown>,
  fn: PerValue<unknown, any>,
  concurrency?: number,
): Stream<unknown> {
  requireFunction(action, "fn", fn);
  let index = 0;
  // Those whose value has come; the last of these values may still wait for the consumer.
  const resting = new Fifo<Intake<unknown>>();
  const hub: Hub<unknown> = new Hub(action, [source], {
    pull() {
      const isFull = hub.intakes.size > (concurrency ?? Infinity);
      if (hub.intakes.has(outer) && !isFull) outer.read();
      while (resting.size > hub.ready) resting.shift().read();
    },
    arrived(value, intake) {
      if (intake !== outer) {
        resting.push(intake);
        return hub.put(value);
      }
      if (concurrency === undefined) for (const old of inner()) void hub.leave(old);
      // Opened first, because the function may leave the stream.
      const later = Promise.withResolvers<Source<unknown>>();
      hub.open(later.promise).read();
      later.resolve(Promise.try(fn, value, index++));
      if (hub.isWanted) hub.pull();
    },
    async shut(isUrgent) {
      // The inner sources first, as if the loops were nested.
      const errors = await hub.closeSources(isUrgent, [...hub.leaving, ...inner()]);
      return [...errors, ...(await outer.close(isUrgent))];
    },
  });
  const outer = [...hub.intakes][0]!;
  const inner = () => [...hub.intakes].filter((intake) => intake !== outer);
  return hub;
}

/** When {@link batch} yields a chunk that isn't full. */
export interface BatchOptions {
  /** Milliseconds after the chunk's first value came: a positive number. Default: `Infinity`. */
  maxWait?: number | undefined;
}

/**
 * Yields the values in arrays of `size`. A chunk that isn't full is yielded when its time is up,
 * when the source has ended, and before the source's error.
 *
 * @throws {TypeError | RangeError} `source` is not an iterable, `size` not a positive integer, or
 * `maxWait` not a positive number
 *
 * @example
 * ```ts
 * import { batch } from "./generators.ts";
 * const chunks = await Array.fromAsync(batch(["a", "b", "c"], 2, { maxWait: 100 }));
 * console.assert(JSON.stringify(chunks) === '[["a","b"],["c"]]');
 * ```
 */
export function batch<T>(source: Source<T>, size: number, options: BatchOptions = {}): Stream<T[]> {
  requirePositiveInteger("batch", "size", size);
  requireOptions("batch", options);
  const { maxWait = Infinity } = options;
  requirePositive("batch", "maxWait", maxWait);
  const hub: Hub<T[], T> = new Hub("batch", [source], {
    arrived(value, intake) {
      const length = hub.kept.push(value);
      if (length === 1) hub.startTimer(maxWait, flush);
      if (length === size) flush();
      else if (hub.isWanted) intake.read();
    },
    flush() {
      hub.stopTimer();
      const chunk = hub.kept;
      hub.kept = [];
      if (chunk.length > 0) hub.put(chunk);
    },
  });
  const { flush } = hub;
  return hub;
}

/**
 * Yields all values of the first source, then those of the second, and so on.
 *
 * @throws {TypeError} a source is not an iterable
 *
 * @example
 * ```ts
 * import { concat } from "./generators.ts";
 * const rows = await Array.fromAsync(concat(["header"], ["first", "second"]));
 * console.assert(rows.join() === "header,first,second");
 * ```
 */
export function concat<T>(...sources: Source<T>[]): Stream<T>;
export function concat<S extends Source<unknown>[]>(...sources: S): Stream<Item<S[number]>>;
export function concat<T>(...sources: Source<T>[]): Stream<T> {
  return new Hub("concat", sources, {});
}

/**
 * Yields a value when `ms` milliseconds have passed without another one, and drops those before.
 * The last one comes when the source ends, or before its error. It also asks the source while the
 * consumer is busy, until a value waits.
 *
 * @throws {TypeError | RangeError} `source` is not an iterable, or `ms` not a positive number
 *
 * @example
 * ```ts
 * import { debounce } from "./generators.ts";
 * const typed = await Array.fromAsync(debounce(["a", "ab", "abc"], 100));
 * console.assert(typed.join() === "abc");
 * ```
 */
export function debounce<T>(source: Source<T>, ms: number): Stream<T> {
  return pace("debounce", source, ms, { leading: false, trailing: true }, true);
}

/** Which values {@link throttle} yields. */
export interface ThrottleOptions {
  /** Whether it yields the value with which a pause begins, at once. Default: true. */
  leading?: boolean | undefined;
  /** Whether it yields the last value that came in a pause, at its end. Default: false. */
  trailing?: boolean | undefined;
}

/**
 * Yields a value, and drops those that come in the pause of `ms` milliseconds after it. With
 * `trailing` the last of them is yielded at the end of the pause, and begins the next one; it comes
 * early if the source ends or fails. `{ leading: false, trailing: true }` samples the source. It
 * also asks the source while the consumer is busy, until a value waits.
 *
 * @throws {TypeError | RangeError} `source` is not an iterable, or `ms` not a positive number
 *
 * @example
 * ```ts
 * import { throttle } from "./generators.ts";
 * const shown = await Array.fromAsync(throttle([1, 2, 3], 100, { trailing: true }));
 * console.assert(shown.join() === "1,3");
 * ```
 */
export function throttle<T>(
  source: Source<T>,
  ms: number,
  options: ThrottleOptions = {},
): Stream<T> {
  requireOptions("throttle", options);
  return pace("throttle", source, ms, options, false);
}

function pace<T>(
  action: string,
  source: Source<T>,
  ms: number,
  { leading = true, trailing = false }: ThrottleOptions,
  isDebounce: boolean,
): Stream<T> {
  requirePositive(action, "ms", ms);
  const pause = () => {
    hub.startTimer(ms, () => {
      if (!isDebounce && hub.kept.length > 0) pause();
      hub.flush();
    });
  };
  const hub: Hub<T> = new Hub(action, [source], {
    arrived(value) {
      const isFirst = !hub.isTiming;
      if (isFirst || isDebounce) pause();
      if (isFirst && leading) hub.put(value);
      else discard(trailing ? hub.kept.splice(0, 1, value) : value);
      hub.readOn();
    },
    flush() {
      for (const value of hub.kept.splice(0)) hub.put(value);
    },
    taken: () => hub.readOn(),
  });
  return hub;
}

/**
 * Yields the values of all sources as they come, until all have ended. It asks a source for its
 * next value when the consumer comes back from the one before.
 *
 * @throws {TypeError} a source is not an iterable
 *
 * @example
 * ```ts
 * import { interval, map, merge, take } from "./generators.ts";
 * const fast = map(interval(2), () => "fast");
 * const slow = map(interval(1000), () => "slow");
 * const values = await Array.fromAsync(take(merge(slow, fast), 3));
 * console.assert(values.join() === "fast,fast,fast");
 * ```
 */
export function merge<T>(...sources: Source<T>[]): Stream<T>;
export function merge<S extends Source<unknown>[]>(...sources: S): Stream<Item<S[number]>>;
export function merge<T>(...sources: Source<T>[]): Stream<T> {
  const resting = new Fifo<Intake<T>>();
  const hub: Hub<T> = new Hub("merge", sources, {
    pull() {
      // The last of the values that have come may still wait for the consumer.
      while (resting.size > hub.ready && !hub.isOver) resting.shift().read();
      if (hub.intakes.size === 0) hub.finish();
    },
    arrived(value, intake) {
      resting.push(intake);
      hub.put(value);
    },
  });
  for (const intake of hub.intakes) resting.push(intake);
  return hub;
}

/**
 * Yields arrays with one value of each source, all of which it asks at once. It ends with the
 * shortest, and doesn't wait for those that are in the middle of a `next()` then.
 *
 * @throws {TypeError} a source is not an iterable
 *
 * @example
 * ```ts
 * import { zip } from "./generators.ts";
 * const pairs = await Array.fromAsync(zip(["a", "b", "c"], [1, 2]));
 * console.assert(pairs.join(" ") === "a,1 b,2");
 * ```
 */
export function zip<T extends unknown[]>(
  ...sources: { [K in keyof T]: Source<T[K]> }
): Stream<{ [K in keyof T]: Awaited<T[K]> }> {
  let missing = 0;
  const hub: Hub<{ [K in keyof T]: Awaited<T[K]> }, unknown> = new Hub("zip", sources, {
    pull() {
      if (sources.length === 0) hub.finish();
      if (missing > 0) return;
      missing = sources.length;
      for (const intake of intakes) intake.read();
    },
    arrived(value, intake) {
      hub.kept[intakes.indexOf(intake)] = value;
      if (--missing > 0) return;
      const row = hub.kept;
      hub.kept = [];
      hub.put(row as never);
    },
    ended: () => hub.finish(),
  });
  const intakes = [...hub.intakes];
  return hub;
}

/**
 * Reads ahead: from the first `next()` on it also asks the source while the consumer is busy, until
 * `size` values wait. An error of the source comes after them.
 *
 * @throws {TypeError | RangeError} `source` is not an iterable, or `size` not a positive integer
 *
 * @example
 * ```ts
 * import { buffer } from "./generators.ts";
 * const pages = await Array.fromAsync(buffer(["page 1", "page 2"], 10));
 * console.assert(pages.length === 2);
 * ```
 */
export function buffer<T>(source: Source<T>, size: number): Stream<T> {
  requirePositiveInteger("buffer", "size", size);
  const fill = () => hub.readOn(size);
  const hub: Hub<T> = new Hub("buffer", [source], {
    pull: fill,
    arrived(value) {
      hub.put(value);
      fill();
    },
    taken: fill,
  });
  return hub;
}

/** How {@link parallelMap} works off its source. */
export interface ParallelOptions {
  /** How many values may be worked on, or wait for the consumer, at once: a positive integer. */
  concurrency: number;
  /** Whether results come in the order of the source, or as they are ready. Default: true. */
  ordered?: boolean | undefined;
}

/**
 * Yields the results of `fn`, called for several values at once. The source is asked only when
 * there is room for its value, so that a long one needs memory for `concurrency` of them.
 *
 * The first failure, of `fn` or of the source, aborts what runs; so does leaving. The stream ends
 * when every call of `fn` has; an AbortError that comes of the abort is not a failure. Results that
 * come before the failure are still yielded.
 *
 * @param fn called with the value, its index, and a signal. A function that declares these three
 * parameters gets a signal of its own, which is aborted only while it runs; others share one.
 * @throws {TypeError | RangeError} `source` is not an iterable, `fn` not a function, or
 * `concurrency` not a positive integer
 *
 * @example
 * ```ts
 * import { parallelMap } from "./generators.ts";
 * const load = async (id: number, _: number, signal: AbortSignal) => `${id} ${signal.aborted}`;
 * const users = await Array.fromAsync(parallelMap([7, 8, 9], load, { concurrency: 2 }));
 * console.assert(users.join() === "7 false,8 false,9 false");
 * ```
 */
export function parallelMap<T, R>(
  source: Source<T>,
  fn: (value: T, index: number, signal: AbortSignal) => R | PromiseLike<R>,
  options: ParallelOptions,
): Stream<R>;
export function parallelMap<T, R>(
  source: Source<T>,
  fn: (value: T, index: number, signal: AbortSignal) => R,
  options: ParallelOptions,
): Stream<Awaited<R>>;
export function parallelMap(
  source: Source<any>,
  fn: (value: any, index: number, signal: AbortSignal) => any,
  options: ParallelOptions,
): Stream<any> {
  requireFunction("run parallelMap", "fn", fn);
  requireOptions("run parallelMap", options);
  const { concurrency, ordered = true } = options ?? {};
  requirePositiveInteger("run parallelMap", "concurrency", concurrency);
  let free = concurrency;
  let index = 0;
  let running = 0;
  let hasFailed = false;
  let idle: PromiseWithResolvers<void> | undefined;
  let shared: AbortController | undefined;
  const controllers = new Set<AbortController>();
  /** Places for results in the order of the source; the result of the first isn't there yet. */
  const slots = new Fifo<{ isReady: boolean; result: unknown }>();

  const work = async (value: unknown) => {
    const slot = { isReady: false, result: undefined as unknown };
    if (ordered) slots.push(slot);
    // A controller costs much, so that calls which seem not to use it share one.
    const isOwn = fn.length > 2;
    const controller = isOwn ? new AbortController() : (shared ??= new AbortController());
    if (isOwn) controllers.add(controller);
    try {
      const result = fn(value, index++, controller.signal);
      slot.result = isThenable(result) ? await result : result;
      deliver(slot);
    } catch (error) {
      hasFailed = true;
      hub.fail(error);
    }
    controllers.delete(controller);
    if (--running > 0) return;
    idle?.resolve();
    if (hub.intakes.size === 0) hub.finish();
  };
  const deliver = (slot: { isReady: boolean; result: unknown }) => {
    slot.isReady = true;
    if (!ordered) return hasFailed ? discard(slot.result) : hub.put(slot.result);
    while (slots.first?.isReady) hub.put(slots.shift().result);
  };
  const pull = () => {
    if (free > 0 && hub.intakes.size > 0) hub.readOn(Infinity);
  };
  const hub: Hub<unknown> = new Hub("run parallelMap", [source], {
    pull,
    arrived(value) {
      free--;
      running++;
      work(value);
      pull();
    },
    ended() {
      if (running === 0) hub.finish();
    },
    taken() {
      free++;
      pull();
    },
    shut(isUrgent) {
      if (running > 0) {
        idle ??= Promise.withResolvers();
        const reason = new DOMException("The result is no longer needed", "AbortError");
        for (const controller of [shared, ...controllers]) controller?.abort(reason);
      }
      return Promise.all([hub.closeSources(isUrgent), idle?.promise]).then(([errors]) => errors);
    },
    closed() {
      while (slots.size > 0) discard(slots.shift().result);
    },
  });
  return hub;
}

/**
 * Several streams with the values of one source, each at its own pace. What the fastest has read is
 * kept until the slowest has, so that memory is bounded by its lag alone: leave (`return()`) those
 * that you don't read. The source is closed when all have left, and its error comes to each.
 *
 * @throws {TypeError | RangeError} `source` is not an iterable, or `count` not a positive integer
 *
 * @example
 * ```ts
 * import { map, tee } from "./generators.ts";
 * const [plain, loud] = tee(["a", "b"], 2);
 * const upper = map(loud, (text) => text.toUpperCase());
 * const both = await Promise.all([Array.fromAsync(plain), Array.fromAsync(upper)]);
 * console.assert(both.join() === "a,b,A,B");
 * ```
 */
export function tee<T, const N extends number = number>(
  source: Source<T>,
  count: N,
): Tuple<Stream<T>, N> {
  requirePositiveInteger("tee", "count", count);
  const readers = new Set<Hub<T>>();
  const hub = new Hub<T>("tee", [source], {
    arrived(value) {
      if (isObject(value)) owners.set(value, readers.size);
      for (const reader of readers) reader.put(value);
    },
    ended: () => readers.forEach((reader) => reader.finish()),
    failed: (error) => readers.forEach((reader) => reader.fail(error)),
  });
  for (let n = 0; n < count; n++) {
    const reader: Hub<T> = new Hub("tee", [], {
      pull() {
        if (reader.ready === 0) hub.read();
      },
      shut(isUrgent) {
        readers.delete(reader);
        return readers.size === 0 ? errorsOf(hub[CLOSE](isUrgent)) : undefined;
      },
    });
    readers.add(reader);
  }
  return [...readers] as Stream<T>[] as Tuple<Stream<T>, N>;
}

/** How {@link takeUntil} ends. */
export interface UntilOptions {
  /** Whether an abort is an error: `next()` rejects with the signal's reason. Default: false. */
  reject?: boolean | undefined;
}

/**
 * Ends the stream when the signal is aborted, even in the middle of a silent `next()`. With
 * `reject` it ends with the signal's reason, so that a part can't be taken for the whole.
 *
 * The abort closes the source at once. Its cleanup is awaited, and so is what runs in a
 * {@link parallelMap}; a source in the middle of a `next()`, or another operator in its `fn`, is
 * not waited for, and what it throws later is dropped.
 *
 * Put it next to the source: all that is made of the stream ends with it.
 *
 * @param signal may be undefined, to pass on what is optional
 * @throws {TypeError} `source` is not an iterable, or `signal` not an AbortSignal
 *
 * @example
 * ```ts
 * import { map, takeUntil } from "./generators.ts";
 * async function* silent() {
 *   yield 1;
 *   await new Promise(() => {});
 * }
 * const stream = takeUntil(silent(), AbortSignal.timeout(10));
 * const values = await Array.fromAsync(map(stream, (n) => 2 * n));
 * console.assert(values.join() === "2");
 * ```
 */
export function takeUntil<T>(
  source: Source<T>,
  signal: AbortSignal | null | undefined,
  options: UntilOptions = {},
): Stream<T> {
  requireSignal("takeUntil", signal);
  requireOptions("takeUntil", options);
  let stopListening = doNothing;
  const abort = () => {
    if (options.reject && !hub.isOver) hub.fail(signal!.reason);
    hub.echo = signal!.reason;
    hub.finish(true);
  };
  const hub: Hub<T> = new Hub("takeUntil", [source], {
    pull() {
      if (signal?.aborted) return abort();
      if (stopListening === doNothing) stopListening = onAbort(signal ?? undefined, abort);
      hub.read();
    },
    closed: () => stopListening(),
  });
  return hub;
}

/** What {@link lines} accepts. */
export interface LinesOptions {
  /** How long a line may be, in UTF-16 code units: a positive integer. Default: `Infinity`. */
  maxLength?: number | undefined;
}

/**
 * Yields the lines of a stream of bytes in UTF-8, without their ends: `\n` or `\r\n`. A `\r` alone
 * ends nothing, empty lines count, and the last line needs no end. A byte order mark is left out,
 * and what is not UTF-8 becomes U+FFFD. Memory is needed for a chunk and a line: give a `maxLength`
 * if you don't trust the sender.
 *
 * @throws {TypeError | RangeError} `source` is not an iterable, or yields something other than
 * bytes; `maxLength` is not a positive integer or `Infinity`, or a line is longer
 *
 * @example
 * ```ts
 * import { lines } from "./generators.ts";
 * const body = new Response("first\r\nsecond\n").body!;
 * const texts = await Array.fromAsync(lines(body));
 * console.assert(texts.join() === "first,second");
 * ```
 */
export function lines(source: Source<Uint8Array>, options: LinesOptions = {}): Stream<string> {
  requireOptions("read lines", options);
  const { maxLength = Infinity } = options;
  requireCount("read lines", "maxLength", maxLength);
  const decoder = new TextDecoder();
  // A long line is put together once, not with every chunk.
  let pieces: string[] = [];
  let length = 0;
  const check = (length: number) => {
    if (length <= maxLength) return;
    throw new RangeError(`Cannot read lines: a line is longer than ${maxLength}`);
  };
  const put = (line: string) => {
    check(line.length);
    hub.put(line);
  };
  const hub: Hub<string, Uint8Array> = new Hub("read lines", [source], {
    arrived(chunk, intake) {
      if (!ArrayBuffer.isView(chunk)) {
        throw invalid("read lines", "a chunk", "a Uint8Array", chunk, TypeError);
      }
      const texts = decoder.decode(chunk, { stream: true }).split("\n");
      const rest = texts.pop()!;
      for (const text of texts) {
        const line = pieces.length > 0 ? pieces.join("") + text : text;
        pieces = [];
        put(line.endsWith("\r") ? line.slice(0, -1) : line);
      }
      length = texts.length > 0 ? rest.length : length + rest.length;
      // One more, because a "\r" may belong to the end.
      check(length - 1);
      if (rest) pieces.push(rest);
      if (hub.isWanted) intake.read();
    },
    ended() {
      const last = pieces.join("") + decoder.decode();
      if (last) put(last);
      hub.finish();
    },
  });
  return hub;
}

/** What a source yields. */
type Item<S> = S extends (signal: AbortSignal) => infer R
  ? Item<Awaited<R>>
  : S extends ReadableStream<infer T> | AsyncIterable<infer T>
    ? T
    : S extends Iterable<infer T>
      ? Awaited<T>
      : never;

/** As many of T, if that is known and not many. */
type Tuple<T, N extends number, R extends T[] = []> = number extends N
  ? T[]
  : R["length"] extends N
    ? R
    : R["length"] extends 32
      ? T[]
      : Tuple<T, N, [...R, T]>;

// ─── How a stream is left ────────────────────────────────────────────────────────────────────────
//
//   consumer ─ return() ─▶ Transform | Hub ─ CLOSE ─▶ SourceReader ─ abort, return() ─▶ source
//
//   The stream ends because …              and then waits for …
//   its sources have ended                 nothing: there is nothing to close
//   the consumer leaves                    the calls of fn and the cleanup of all sources, even of
//                                          one in the middle of a next(), which can't close before
//   fn or a source fails, zip's shortest   the calls of parallelMap's fn and the cleanup of all
//   source ends, or takeUntil is aborted   sources, except one in the middle of a next(): "urgent"
//
//   Whoever closes first is told what fails in the cleanup. A value on its way then is released.

type Step<T> = IteratorResult<T, void>;

const DONE: Step<never> = Object.freeze({ done: true, value: undefined });

/** Closes an upstream; a symbol, so that users don't see it. */
const CLOSE = Symbol("close");

/** What an operator reads, and what it is itself: a stream of this file, or a source in one. */
abstract class Upstream<T> implements Stream<T> {
  readonly action: string;

  constructor(action: string) {
    this.action = action;
  }

  /** Awaited in a `try`. A reader never calls it while a call is pending, nor after the end. */
  abstract next(): Promise<Step<T>>;
  /** It reads the source as well as `next()` does, if there is one. */
  generator: AsyncIterable<T> | undefined = undefined;
  /** May be called again, for example because it has become urgent. */
  abstract [CLOSE](isUrgent: boolean): Promise<void>;

  [Symbol.asyncIterator](): this {
    return this;
  }

  async return(): Promise<Step<T>> {
    await this[CLOSE](false);
    return DONE;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this[CLOSE](false);
  }

  /** What Bun, Node and Deno print. */
  [Symbol.for("nodejs.util.inspect.custom")](): string {
    return `Stream { action: "${this.action}" }`;
  }
}

const SKIP = Symbol("skip");
const END = Symbol("end");
type Choice<R> = R | typeof SKIP | typeof END;

/** Yields at most one value for each of its source's, and reads only while the consumer waits. */
class Transform<T, A, R> extends Upstream<R> {
  readonly #input: Upstream<T>;
  readonly #fn: PerValue<T, A | PromiseLike<A>>;
  readonly #select: (value: T, answer: A) => Choice<R>;
  readonly #errors = new Set<unknown>();
  #limit: number;
  #index = 0;
  #calls = 0;
  #last: Promise<Step<R>> | undefined;
  #isInputOpen = true;
  #isOver = false;
  #isLeft = false;
  isReading = false;

  constructor(
    action: string,
    source: Source<T>,
    fn: PerValue<T, A | PromiseLike<A>>,
    select: (value: T, answer: A) => Choice<R>,
    limit = Infinity,
  ) {
    super(action);
    requireSource(action, source);
    this.#input = source instanceof Upstream ? source : new SourceReader(action, source, this);
    this.#fn = fn;
    this.#select = select;
    this.#limit = limit;
  }

  next(): Promise<Step<R>> {
    if (this.#calls++ === 0) return (this.#last = this.#step());
    const step = () => this.#step();
    return (this.#last = this.#last!.then(step, step));
  }

  async #step(): Promise<Step<R>> {
    try {
      while (!this.#isOver) {
        // Its own end is as if the consumer had left; an error is urgent.
        if (this.#index >= this.#limit) {
          await this.#end(false);
          break;
        }
        this.isReading = true;
        const step = await this.#input.next();
        if (step.done) {
          this.#isInputOpen = false;
          break;
        }
        this.isReading = false;
        if (this.#isOver) {
          discard(step.value);
          break;
        }
        let answer = this.#fn(step.value, this.#index++);
        if (isThenable(answer)) answer = await answer;
        const result = this.#select(step.value, answer as A);
        if (result === END) this.#limit = 0;
        else if (this.#isOver) discard(result);
        else if (result !== SKIP) return { done: false, value: result };
      }
    } catch (error) {
      if (this.isReading) this.#isInputOpen = false;
      const errors = [error, ...(await errorsOf(this.#end(true)))];
      if (!this.#isLeft) throwAll(errors);
      for (const error of errors) if (!isAbort(error)) this.#errors.add(error);
    } finally {
      this.#calls--;
      this.isReading = false;
    }
    this.#isOver = true;
    return DONE;
  }

  async #end(isUrgent: boolean): Promise<void> {
    this.#isOver = true;
    if (this.#isInputOpen) await this.#input[CLOSE](isUrgent);
  }

  async [CLOSE](isUrgent: boolean): Promise<void> {
    const closing = this.#end(isUrgent);
    if (isUrgent) return closing;
    this.#isLeft = true;
    const errors = await errorsOf(closing);
    await this.#last?.catch(doNothing);
    errors.push(...this.#errors);
    this.#errors.clear();
    throwAll(errors);
  }
}

/** Reads one upstream for a {@link Hub}, a value at a time. */
class Intake<T> {
  readonly #upstream: Upstream<T>;
  readonly #hub: Hub<any, T>;
  #isOpen = true;
  #isClosed = false;
  #isHanding = false;
  #goOn: (() => void) | undefined;
  isReading = false;

  constructor(action: string, source: Unopened<T>, hub: Hub<any, T>) {
    this.#upstream = source instanceof Upstream ? source : new SourceReader(action, source, this);
    this.#hub = hub;
  }

  /** Does nothing if it is reading already, or at its end. */
  read(): void {
    if (this.isReading || !this.#isOpen || this.#isClosed) return;
    this.isReading = true;
    if (this.#isHanding) return;
    if (this.#goOn) this.#goOn();
    else this.#ask();
  }

  #ask(): void {
    try {
      this.#upstream.next().then(this.#answered, this.#failed);
    } catch (error) {
      this.#failed(error);
    }
  }

  readonly #answered = (step: Step<T>) => {
    if (step.done) return this.#ended();
    this.#hand(step.value);
    if (!this.isReading) return;
    if (this.#upstream.generator) this.#loop(this.#upstream.generator);
    else this.#ask();
  };

  /** A generator that is asked again at once is read by a loop: that is the fastest. */
  async #loop(generator: AsyncIterable<T>): Promise<void> {
    try {
      for await (const value of generator) {
        this.#hand(value);
        if (!this.isReading) {
          await new Promise<void>((resolve) => (this.#goOn = resolve));
          this.#goOn = undefined;
        }
      }
      this.#ended();
    } catch (error) {
      this.#failed(error);
    }
  }

  #hand(value: T): void {
    this.isReading = false;
    if (this.#hub.isOver || this.#isClosed) return discard(value);
    this.#isHanding = true;
    try {
      this.#hub.arrived(value, this);
    } catch (error) {
      this.#hub.failed(error);
    }
    this.#isHanding = false;
  }

  #ended(): void {
    this.isReading = false;
    if (this.#isClosed) return;
    this.#isOpen = false;
    try {
      this.#hub.remove(this);
    } catch (error) {
      this.#hub.failed(error);
    }
  }

  readonly #failed = (error: unknown) => {
    this.isReading = false;
    if (!this.#isClosed) this.#isOpen = false;
    else if (isAbort(error)) return;
    this.#hub.failed(error);
  };

  /** Resolves to what has gone wrong. */
  close(isUrgent: boolean): Promise<unknown[]> {
    this.#isClosed = true;
    return errorsOf(this.#isOpen ? this.#upstream[CLOSE](isUrgent) : undefined);
  }
}

/** What an operator may replace in its {@link Hub}. */
type Operator<T, S> = Pick<
  Hub<T, S>,
  "pull" | "arrived" | "ended" | "failed" | "flush" | "taken" | "shut" | "closed"
>;

/** Stands between sources, or what else an operator has, and a consumer who may leave any time. */
class Hub<T, S = T> extends Upstream<T> {
  /** Those that have not ended, in order. */
  readonly intakes = new Set<Intake<S>>();
  /** Those that are being closed while the stream goes on. */
  readonly leaving = new Set<Intake<any>>();
  /** Values that wait for others. */
  kept: S[] = [];
  stopTimer: () => void = doNothing;
  isTiming = false;
  /** No failure once the stream is over. */
  echo: unknown = DONE;
  readonly #values = new Fifo<T>();
  readonly #waiters = new Fifo<PromiseWithResolvers<Step<T>>>();
  readonly #errors = new Set<unknown>();
  readonly #closed = Promise.withResolvers<void>();
  readonly #next = this.intakes.values();
  #current: Intake<S> | undefined;
  /** 1: it waits for all it closes. 2: it is urgent. */
  #closing = 0;
  #isLeft = false;
  #isClosed = false;

  /** The consumer asks for a value. */
  pull = (): void => this.readOn();
  arrived = (value: S, _intake: Intake<S>): void => this.put(value as never);
  /** A source has ended. */
  ended = (): void => {
    this.flush();
    if (this.intakes.size === 0) this.finish();
    else if (this.isWanted) this.#pull();
  };
  failed = (error: unknown): void => {
    this.flush();
    this.fail(error);
  };
  /** Puts what can still be yielded before the end, or before an error. */
  flush: () => void = doNothing;
  /** The consumer has received a value. */
  taken: (value: T) => void = doNothing;
  /** Stops all that feeds the stream. Called again when it becomes urgent. */
  shut = (isUrgent: boolean): Promise<unknown[]> | void => this.closeSources(isUrgent);
  /** Nothing runs any more. */
  closed: () => void = doNothing;

  constructor(action: string, sources: readonly Source<S>[], operator: Partial<Operator<T, S>>) {
    super(action);
    Object.assign(this, operator);
    for (const source of sources) {
      requireSource(action, source);
      this.open(source);
    }
  }

  open(source: Unopened<S>): Intake<S> {
    const intake = new Intake(this.action, source, this);
    this.intakes.add(intake);
    return intake;
  }

  /** Replaces the timer. */
  startTimer(ms: number, callback: () => void): void {
    this.stopTimer();
    this.isTiming = true;
    this.stopTimer = startTimer(ms, () => {
      this.isTiming = false;
      callback();
    });
  }

  /** Closes one source; the stream goes on, and ends without it if it is silent then. */
  async leave(intake: Intake<any>): Promise<void> {
    this.leaving.add(intake);
    intake.close(false).then((errors) => {
      errors.forEach(this.failed);
      this.leaving.delete(intake);
    });
    await intake.close(true);
    this.remove(intake);
  }

  get isOver(): boolean {
    return this.#closing > 0;
  }

  /** How many values wait for the consumer. */
  get ready(): number {
    return this.#values.size;
  }

  /** Whether the consumer waits for a value. */
  get isWanted(): boolean {
    return this.#waiters.size > 0;
  }

  next(): Promise<Step<T>> {
    if (!this.isOver) this.#pull();
    if (this.ready > 0) {
      const value = this.#values.shift();
      this.taken(value);
      return Promise.resolve({ done: false, value });
    }
    if (this.#isClosed) return this.#tell();
    const waiter = Promise.withResolvers<Step<T>>();
    this.#waiters.push(waiter);
    return waiter.promise;
  }

  #pull(): void {
    try {
      this.pull();
    } catch (error) {
      this.fail(error);
    }
  }

  /** Reads the first source that has not ended. */
  read(): void {
    this.#current ??= this.#next.next().value;
    if (this.#current) this.#current.read();
    else this.finish();
  }

  /** Reads if there is room for a value. */
  readOn(places = 1): void {
    if (this.ready < places && !this.isOver) this.read();
  }

  remove(intake: Intake<S>): void {
    this.intakes.delete(intake);
    this.#current = undefined;
    if (!this.isOver) this.ended();
  }

  /** Hands a value to the consumer, now or when it asks. */
  put(value: T): void {
    if (this.#isLeft) return discard(value);
    if (!this.isWanted) return this.#values.push(value);
    this.#waiters.shift().resolve({ done: false, value });
    this.taken(value);
    if (this.isWanted && !this.isOver) this.#pull();
  }

  replaceOldest(value: T): void {
    discard(this.#values.shift());
    this.#values.push(value);
  }

  fail(error: unknown): void {
    if (this.isOver && (isAbort(error) || error === this.echo)) return;
    this.#errors.add(error);
    this.finish();
  }

  /** No value comes after those that wait; the errors do. */
  finish(isUrgent = !this.isOver): void {
    this.#close(isUrgent);
  }

  async [CLOSE](isUrgent: boolean): Promise<void> {
    this.#isLeft = true;
    while (this.ready > 0) discard(this.#values.shift());
    this.#close(isUrgent);
    await this.#closed.promise;
    await this.#tell();
  }

  async #close(isUrgent: boolean): Promise<void> {
    const urgency = isUrgent ? 2 : 1;
    if (this.#closing >= urgency) return;
    this.#closing = urgency;
    this.stopTimer();
    discard(this.kept);
    this.kept = [];
    const shutting = Promise.try(async () => this.shut(isUrgent));
    const errors = await shutting.catch((error: unknown) => [error]);
    if (this.#isClosed) return;
    for (const error of errors ?? []) if (error !== this.echo) this.#errors.add(error);
    this.#isClosed = true;
    this.closed();
    while (this.isWanted) this.#waiters.shift().resolve(this.#isLeft ? DONE : this.#tell());
    this.#closed.resolve();
  }

  async closeSources(
    isUrgent: boolean,
    intakes: Iterable<Intake<any>> = this.intakes,
  ): Promise<unknown[]> {
    return (await Promise.all(Array.from(intakes, (intake) => intake.close(isUrgent)))).flat();
  }

  /** The end, or what has gone wrong, once. */
  async #tell(): Promise<Step<T>> {
    const errors = [...this.#errors];
    this.#errors.clear();
    throwAll(errors);
    return DONE;
  }
}

// ─── Sources of others ───────────────────────────────────────────────────────────────────────────

/**
 * How many microtasks an urgent close gives a source in the middle of a `next()`: one that is about
 * to answer is closed like one that rests, and a silent one isn't waited for.
 */
const PATIENCE = 50;

type Unopened<T> = Source<T> | Promise<Source<T>>;

/** A source, opened at the first `next()` and closed once. */
class SourceReader<T> extends Upstream<T> {
  readonly #source: Unopened<T>;
  readonly #reader: { readonly isReading: boolean };
  #iterator: AsyncIterator<T> | undefined;
  #controller: AbortController | undefined;
  #isOpen = false;
  #opening: Promise<void> | undefined;
  #isClosed = false;
  #closing = Promise.resolve();

  /** `reader.isReading` tells whether it is in the middle of a `next()`. */
  constructor(action: string, source: Unopened<T>, reader: { readonly isReading: boolean }) {
    super(action);
    this.#source = source;
    this.#reader = reader;
  }

  next(): Promise<Step<T>> {
    if (!this.#isOpen) {
      this.#isOpen = true;
      this.#opening = this.#open(this.#source);
    }
    if (this.#isClosed) return Promise.resolve(DONE);
    if (this.#iterator) return this.#iterator.next() as Promise<Step<T>>;
    return this.#opening!.then(() => this.next());
  }

  async #open(unopened: Unopened<T>): Promise<void> {
    let source = unopened instanceof Promise ? await unopened : unopened;
    for (;;) {
      requireSource(this.action, source);
      if (isSequence(source)) break;
      if (this.#isClosed) return;
      this.#controller ??= new AbortController();
      source = await source(this.#controller.signal);
    }
    this.#iterate(source);
  }

  #iterate(source: Sequence<T>): void {
    this.#iterator = iterate(source);
    if (isGenerator(this.#iterator)) this.generator = this.#iterator;
  }

  async [CLOSE](isUrgent: boolean): Promise<void> {
    const isFirst = !this.#isClosed;
    this.#isClosed = true;
    if (isFirst) this.#closing = this.#close(isUrgent);
    else if (isUrgent && this.#iterator instanceof Upstream) {
      this.#iterator[CLOSE](true).catch(doNothing);
    }
    // The first is told what fails.
    const closing = isFirst ? this.#closing : this.#closing.catch(doNothing);
    closing.catch(doNothing);
    if (isUrgent) {
      for (let n = 0; this.#reader.isReading && n < PATIENCE; n++) await undefined;
      if (this.#reader.isReading) return;
    }
    await closing;
  }

  async #close(isUrgent: boolean): Promise<void> {
    try {
      this.#controller?.abort(new DOMException("The stream was left", "AbortError"));
      if (!this.#isOpen) {
        // Nobody has read it. An abort lets go of what is open, but opens nothing.
        const source = Object(this.#source);
        if (!isUrgent || "getReader" in source || "return" in source) {
          if (isSequence(source)) this.#iterate(source as Sequence<T>);
        }
      } else if (!this.#iterator) {
        await undefined; // Now it is known whether opening it takes time.
        await this.#opening?.catch(doNothing);
      }
      if (this.#iterator instanceof Upstream) return await this.#iterator[CLOSE](isUrgent);
      if (!this.#iterator?.return) return;
      const result = await this.#iterator.return();
      if (isObject(result)) return;
      throw invalid(this.action, "the result of return()", "an object", result, TypeError);
    } catch (error) {
      if (!this.#controller || !isAbort(error)) throw error;
    }
  }
}

/** What all generators inherit. */
const generators: AsyncGenerator = Object.getPrototypeOf(async function* () {}.prototype);

function isGenerator<T>(it: AsyncIterator<T>): it is AsyncGenerator<T> {
  const keys = ["next", Symbol.asyncIterator] as const;
  return keys.every((key) => (it as AsyncGenerator)[key] === generators[key]);
}

function iterate<T>(source: Sequence<T>): AsyncIterator<T> {
  if ("getReader" in Object(source)) return readStream(source as ReadableStream<T>);
  if (!(Symbol.asyncIterator in Object(source))) {
    return new Guard((source as Iterable<T>)[Symbol.iterator](), true);
  }
  const iterator = (source as AsyncIterable<T>)[Symbol.asyncIterator]();
  return isGenerator(iterator) || iterator instanceof Upstream
    ? iterator
    : new Guard(iterator, false);
}

/** Reads a `ReadableStream`, whose own iterator can't be closed in the middle of a `next()`. */
function readStream<T>(stream: ReadableStream<T>): AsyncIterator<T> {
  const reader = stream.getReader();
  return {
    async next() {
      let isOver = true;
      try {
        const step = await reader.read();
        isOver = step.done;
        return step as Step<T>;
      } finally {
        if (isOver) reader.releaseLock();
      }
    },
    async return() {
      const cancelling = reader.cancel();
      reader.releaseLock();
      await cancelling;
      return DONE;
    },
  };
}

/** An iterator whose `next()` settles when it is closed, if not before; also a synchronous one. */
class Guard<T> implements AsyncIterator<T, void> {
  readonly #iterator: AsyncIterator<T> | Iterator<T>;
  readonly #isSync: boolean;
  #settle: ((step: Step<T>) => void) | undefined;
  #isClosed = false;

  constructor(iterator: AsyncIterator<T> | Iterator<T>, isSync: boolean) {
    this.#iterator = iterator;
    this.#isSync = isSync;
  }

  next(): Promise<Step<T>> {
    const answer = this.#iterator.next() as Step<T>;
    const isSync = this.#isSync && isObject(answer);
    if (isSync && !isThenable(answer.value)) return Promise.resolve(answer);
    return new Promise((resolve, reject) => {
      this.#settle = resolve;
      const answered = isSync ? this.#unwrap(answer) : Promise.resolve(answer);
      answered.then((step) => {
        // Like `for await`, it takes no primitive for a result.
        if (!isObject(step)) return reject(new TypeError(`${describe(step)} is not a result`));
        if (this.#isClosed) discard(step.value);
        resolve(this.#isClosed ? DONE : step);
      }, reject);
    });
  }

  async #unwrap({ done, value }: Step<T>): Promise<Step<T>> {
    try {
      return { done, value: await value } as Step<T>;
    } catch (error) {
      const isOpen = !done && !this.#isClosed;
      throwAll([error, ...(isOpen ? await errorsOf(this.#iterator.return?.()) : [])]);
      throw error;
    }
  }

  async return(): Promise<Step<T>> {
    this.#isClosed = true;
    try {
      // A result that isn't an object is for the caller to see.
      return this.#iterator.return ? ((await this.#iterator.return()) as Step<T>) : DONE;
    } finally {
      this.#settle?.(DONE);
    }
  }
}

// ─── Helpers ─────────────────────────────────────────────────────────────────────────────────────

/** A list from whose head values are taken. */
class Fifo<T> {
  /** Those that came first, the first one last, because a list is cut there at no cost. */
  #older: T[] = [];
  #newer: T[] = [];

  get size(): number {
    return this.#older.length + this.#newer.length;
  }

  get first(): T | undefined {
    const older = this.#older;
    return older.length > 0 ? older[older.length - 1] : this.#newer[0];
  }

  push(value: T): void {
    this.#newer.push(value);
  }

  /** Only when it isn't empty. */
  shift(): T {
    if (this.#older.length === 0) {
      if (this.#newer.length === 1) return this.#newer.pop()!;
      this.#older = this.#newer.reverse();
      this.#newer = [];
    }
    return this.#older.pop()!;
  }
}

/** How many streams will receive or drop an object that tee has handed to several. */
const owners = new WeakMap<object, number>();

/** Releases a hold that nobody will receive, or those in a batch or a row. */
function discard(value: unknown): void {
  const isLast = (it: unknown) => {
    const others = isObject(it) ? (owners.get(it) ?? 1) - 1 : 0;
    if (others > 0) owners.set(it as object, others);
    return others === 0;
  };
  if (isLast(value)) releaseHold(Array.isArray(value) ? value.filter(isLast) : value);
}

function valueOrSkip<T>(value: T, isIn: unknown): T | typeof SKIP {
  return isIn ? value : SKIP;
}

function isObject(value: unknown): value is object {
  return typeof value === "object" ? value !== null : typeof value === "function";
}

function isThenable(value: unknown): value is PromiseLike<unknown> {
  return isObject(value) && typeof (value as Partial<PromiseLike<unknown>>).then === "function";
}

function isAbort(error: unknown): boolean {
  try {
    return (error as Error).name === "AbortError";
  } catch {
    return false;
  }
}

/** What the promise is rejected with, or nothing. */
async function errorsOf(promise: unknown): Promise<unknown[]> {
  try {
    await promise;
    return [];
  } catch (error) {
    return [error];
  }
}

/** An error that is there twice is told once. */
function throwAll(errors: unknown[]): void {
  const all = new Set(errors);
  if (all.size > 1) throw new AggregateError(all, "A stream failed, and so did its cleanup");
  for (const error of all) throw error;
}

function isSequence(source: unknown): source is Sequence<unknown> {
  const keys = ["getReader", Symbol.asyncIterator, Symbol.iterator];
  return keys.some((key) => key in Object(source));
}

function requireSource(action: string, source: unknown): void {
  if (!isSequence(source)) {
    if (typeof source === "function") return;
    throw invalid(action, "source", "an iterable", source, TypeError);
  }
  // These wait for their turn; one that is rejected meanwhile must not count as unhandled.
  if (!Array.isArray(source) && !(source instanceof Set)) return;
  for (const value of source) if (value instanceof Promise) value.catch(doNothing);
}

function requirePositive(action: string, name: string, value: number): void {
  if (typeof value === "number" && value > 0) return;
  throw invalid(action, name, "a positive number", value);
}

function requireIndex(action: string, name: string, value: number): void {
  if (Number.isSafeInteger(value) && value >= 0) return;
  throw invalid(action, name, "an integer of 0 or more", value);
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

// ─── Demo: `bun concepts/generators.ts` ──────────────────────────────────────────────────────────

/** Two at a time. The consumer leaves after two: what runs is cancelled, and the source closed. */
export async function demo(log: (lane: string, state: string) => void = print): Promise<void> {
  const sleep = (ms: number, signal?: AbortSignal) => takeUntil(interval(ms), signal).next();
  const source = async function* () {
    try {
      for (let n = 1; ; n++) {
        log("source", `yields ${n}`);
        yield n;
      }
    } finally {
      log("source", "cleaning up");
      await sleep(50);
      log("source", "done");
    }
  };
  const work = async (n: number, _: number, signal: AbortSignal) => {
    log(`item ${n}`, "running");
    await sleep(100 * n, signal);
    log(`item ${n}`, signal.aborted ? "cancelled" : "done");
    return n;
  };
  log("consumer", "waiting");
  for await (const n of parallelMap(source(), work, { concurrency: 2 })) {
    log("consumer", `has ${n}`);
    if (n === 2) break;
  }
  log("consumer", "done");
}

let start: number | undefined;

function print(lane: string, state: string): void {
  start ??= performance.now();
  const ms = Math.round(performance.now() - start);
  console.log(`+${String(ms).padStart(4)} ms  ${lane}  ${state}`);
}

if ((import.meta as { main?: boolean }).main) void demo();
