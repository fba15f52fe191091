/**
 * # Generators
 *
 * Streams of values that come one by one: where they come from, and what can be done with them on
 * the way to a `for await` loop.
 *
 * Reach for it when what you work on is too long, or too slow, to be waited for as an array: rows,
 * lines, events, the pages of an API, whatever comes in while the program runs.
 *
 * Without it the loop is quickly written, but not its end: a `break` leaves a listener attached, a
 * source that is silent can't be stopped, one of two that were merged stays open, and what its
 * cleanup throws is lost.
 *
 * What all of them keep: nothing is opened before the first `next()`, and no more is pulled than is
 * asked for. However a stream ends (by itself, by an error of a source or of `fn`, or because the
 * consumer breaks, throws or calls `return()`), every source is closed once, and its cleanup is
 * awaited. If that fails, too, all errors are in one AggregateError. Functions are given the value
 * and its index, and are awaited. Most take no signal, because {@link until} ends any stream.
 *
 * One thing can't be had: the language closes a generator only after the `next()` that it is in.
 * Leaving a stream waits for that, because otherwise the cleanup would be missed; an abort ends
 * that wait, too. So put a source that may be silent for long into {@link until}, and abort its
 * signal when you leave.
 *
 * Known elsewhere as: Python's async generators, `itertools` and aiostream; Kotlin's `Flow`; the
 * async iterator helpers proposed for JavaScript, from which the names come; IxJS on npm.
 *
 * @module
 */

/** Where values come from. Promises in a synchronous source are awaited. */
export type Source<T> = Iterable<T | PromiseLike<T>> | AsyncIterable<T> | ReadableStream<T>;

/** What all functions here return: to be looped over, once. */
export interface Stream<T> extends AsyncIterableIterator<T, void, undefined>, AsyncDisposable {
  /** The next value, or the end. */
  next(): Promise<IteratorResult<T, void>>;
  /** Ends the stream, even while a `next()` waits, and waits until all sources are closed. */
  return(): Promise<IteratorResult<T, void>>;
}

/** How to call it off. */
export interface SignalOptions {
  /** Closes the source: `next()` rejects with the signal's reason. */
  signal?: AbortSignal | undefined;
}

/**
 * Yields 0, 1, 2, …, one every `ms` milliseconds from the first `next()` on, without drift. If
 * ticks come while the consumer is busy, it gets the last of them at once; a gap in the numbers
 * tells how many were missed. A timer runs only while the consumer waits.
 *
 * Source of the idea: `time.Ticker` in Go.
 *
 * @param ms milliseconds: a positive number
 * @throws {TypeError | RangeError} `ms` is not a positive number
 * @throws the signal's reason, once it is aborted
 *
 * @example
 * ```ts
 * import { interval } from "./generators.ts";
 *
 * const ticks: number[] = [];
 * for await (const tick of interval(5)) if (ticks.push(tick) === 3) break;
 * console.assert(ticks[2]! >= 2);
 * ```
 */
export function interval(ms: number, { signal }: SignalOptions = {}): Stream<number> {
  requirePositive("create interval", "ms", ms);
  let start: number | undefined;
  let tick = -1;
  let timer: ReturnType<typeof setTimeout> | undefined;
  const next = () =>
    new Promise<number>((resolve) => {
      start ??= performance.now();
      tick = Math.max(tick + 1, Math.floor((performance.now() - start) / ms) - 1);
      const due = start + (tick + 1) * ms;
      const check = () => {
        const left = due - performance.now();
        if (left > 0) timer = setTimeout(check, Math.min(left, 2 ** 31 - 1));
        else resolve(tick);
      };
      check();
    });
  return endless(next, () => clearTimeout(timer), signal);
}

/** How {@link fromEvent} listens. */
export interface EventOptions extends SignalOptions {
  /** How many events may wait for the consumer: a positive integer. Default: 1024. */
  size?: number | undefined;
  /**
   * Whether to forget the oldest when one more comes. Otherwise it stops listening then, and
   * `next()` rejects after the events that wait. Default: false.
   */
  dropOldest?: boolean | undefined;
}

/**
 * Yields the events of a target. It listens from the first `next()` on, so that a stream nobody
 * reads holds nothing, until it is left.
 *
 * Source of the idea: `events.on` of Node, with a bound.
 *
 * @throws {TypeError | RangeError} `target` is no EventTarget, or `size` not a positive integer
 * @throws {Error} more than `size` events wait
 * @throws the signal's reason, once it is aborted
 *
 * @example
 * ```ts
 * import { fromEvent } from "./generators.ts";
 *
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
  { size = 1024, dropOldest = false, signal }: EventOptions = {},
): Stream<E> {
  requireFunction("listen", "target.addEventListener", Object(target).addEventListener);
  requireInteger("listen", "size", size, 1);
  /** Undefined stands for those that did not fit. */
  const events = new Queue<E | undefined>();
  /** How many events wait; -1 while the consumer does. */
  let waiting = 0;
  const listener = (event: Event) => {
    const isFull = waiting === size;
    if (!isFull) waiting++;
    else if (dropOldest) events.take();
    else close();
    events.put(isFull && !dropOldest ? undefined : (event as E));
  };
  const close = () => target.removeEventListener(type, listener);
  let isListening = false;
  const next = async () => {
    if (!isListening) target.addEventListener(type, listener);
    isListening = true;
    waiting--;
    const event = await events.take();
    if (!event) throw new Error(`Cannot keep up with "${type}": ${size} events wait already`);
    return event;
  };
  return endless(next, close, signal);
}

/**
 * Yields what `fn` makes of each value, one after the other.
 *
 * @throws {TypeError} `source` is no iterable, or `fn` no function
 *
 * @example
 * ```ts
 * import { map } from "./generators.ts";
 *
 * const squares = await Array.fromAsync(map([1, 2, 3], async (n) => n * n));
 * console.assert(squares.join() === "1,4,9");
 * ```
 */
export function map<T, R>(
  source: Source<T>,
  fn: (value: T, index: number) => R | PromiseLike<R>,
): Stream<R> {
  requireFunction("map", "fn", fn);
  return operator("map", source, async function* (input) {
    let index = 0;
    for await (const value of input) yield fn(value, index++);
  });
}

/**
 * Yields the values for which `fn` says something truthy.
 *
 * @throws {TypeError} `source` is no iterable, or `fn` no function
 *
 * @example
 * ```ts
 * import { filter } from "./generators.ts";
 *
 * const even = await Array.fromAsync(filter([1, 2, 3, 4], (n) => n % 2 === 0));
 * console.assert(even.join() === "2,4");
 * ```
 */
export function filter<T>(source: Source<T>, fn: (value: T, index: number) => unknown): Stream<T> {
  requireFunction("filter", "fn", fn);
  return operator("filter", source, async function* (input) {
    let index = 0;
    for await (const value of input) if (await fn(value, index++)) yield value;
  });
}

/**
 * Yields the first `count` values, and asks the source for no more.
 *
 * @throws {TypeError | RangeError} `source` is no iterable, or `count` not an integer of 0 or more
 *
 * @example
 * ```ts
 * import { interval, take } from "./generators.ts";
 *
 * const ticks = await Array.fromAsync(take(interval(1), 3));
 * console.assert(ticks.length === 3);
 * ```
 */
export function take<T>(source: Source<T>, count: number): Stream<T> {
  requireInteger("take", "count", count, 0);
  return operator("take", source, async function* (input) {
    for (let left = count; left > 0; left--) {
      const step = await input.next();
      if (step.done) return;
      yield step.value;
    }
  });
}

/**
 * Yields all but the first `count` values.
 *
 * @throws {TypeError | RangeError} `source` is no iterable, or `count` not an integer of 0 or more
 *
 * @example
 * ```ts
 * import { drop } from "./generators.ts";
 *
 * const rows = await Array.fromAsync(drop(["header", "first", "second"], 1));
 * console.assert(rows.join() === "first,second");
 * ```
 */
export function drop<T>(source: Source<T>, count: number): Stream<T> {
  requireInteger("drop", "count", count, 0);
  return filter(source, (_, index) => index >= count);
}

/**
 * Yields values as long as `fn` says something truthy.
 *
 * @throws {TypeError} `source` is no iterable, or `fn` no function
 *
 * @example
 * ```ts
 * import { takeWhile } from "./generators.ts";
 *
 * const small = await Array.fromAsync(takeWhile([1, 2, 9, 1], (n) => n < 5));
 * console.assert(small.join() === "1,2");
 * ```
 */
export function takeWhile<T>(
  source: Source<T>,
  fn: (value: T, index: number) => unknown,
): Stream<T> {
  requireFunction("takeWhile", "fn", fn);
  return operator("takeWhile", source, async function* (input) {
    let index = 0;
    for await (const value of input) {
      if (!(await fn(value, index++))) return;
      yield value;
    }
  });
}

/**
 * Yields all values of what `fn` returns for each value, one source after the other.
 *
 * @throws {TypeError} `source`, or what `fn` returns, is no iterable, or `fn` no function
 *
 * @example
 * ```ts
 * import { flatMap } from "./generators.ts";
 *
 * const words = await Array.fromAsync(flatMap(["to be", "or not"], (line) => line.split(" ")));
 * console.assert(words.join() === "to,be,or,not");
 * ```
 */
export function flatMap<T, R>(
  source: Source<T>,
  fn: (value: T, index: number) => Source<R> | PromiseLike<Source<R>>,
): Stream<R> {
  requireFunction("flatMap", "fn", fn);
  const outer = new Input("flatMap", source);
  const inputs = new Set<Part>([outer]);
  return new Operator(inputs, async function* () {
    let index = 0;
    for await (const value of outer) {
      const inner = new Input("flatMap", await fn(value, index++));
      inputs.add(inner);
      yield* inner;
      inputs.delete(inner);
    }
  });
}

/**
 * Yields what has been accumulated after each value: `fn` is given the result before, or `initial`.
 *
 * Source of the idea: `itertools.accumulate`.
 *
 * @throws {TypeError} `source` is no iterable, or `fn` no function
 *
 * @example
 * ```ts
 * import { scan } from "./generators.ts";
 *
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
  return map(source, async (value, index) => (accumulated = await fn(accumulated, value, index)));
}

/** When {@link batch} gives out a chunk that isn't full. */
export interface BatchOptions {
  /** Milliseconds after its first value came: a positive number. Default: `Infinity`. */
  maxWait?: number | undefined;
}

/**
 * Yields the values in arrays of `size`. One that isn't full comes when its time is up, when the
 * source has ended, and before the source's error.
 *
 * Source of the idea: `itertools.batched`.
 *
 * @throws {TypeError | RangeError} `source` is no iterable, `size` not a positive integer, or
 * `maxWait` not a positive number
 *
 * @example
 * ```ts
 * import { batch } from "./generators.ts";
 *
 * const chunks = await Array.fromAsync(batch(["a", "b", "c"], 2, { maxWait: 100 }));
 * console.assert(JSON.stringify(chunks) === '[["a","b"],["c"]]');
 * ```
 */
export function batch<T>(
  source: Source<T>,
  size: number,
  { maxWait = Infinity }: BatchOptions = {},
): Stream<T[]> {
  requireInteger("batch", "size", size, 1);
  requirePositive("batch", "maxWait", maxWait);
  return operator("batch", source, async function* (input) {
    const arrive = async () => ({ step: await input.next(), at: performance.now() });
    // Outlives a chunk whose time is up while the source is silent.
    let arriving: ReturnType<typeof arrive> | undefined;
    for (;;) {
      const chunk: T[] = [];
      const timeIsUp = Promise.withResolvers<undefined>();
      let timer: ReturnType<typeof setTimeout> | undefined;
      try {
        while (chunk.length < size) {
          arriving ??= arrive();
          const arrived = await Promise.race([arriving, timeIsUp.promise]);
          if (!arrived) break;
          arriving = undefined;
          if (arrived.step.done) return;
          chunk.push(arrived.step.value);
          if (chunk.length > 1 || maxWait > 2 ** 31 - 1) continue;
          timer = setTimeout(timeIsUp.resolve, arrived.at + maxWait - performance.now());
        }
      } finally {
        clearTimeout(timer);
        if (chunk.length > 0) yield chunk;
      }
    }
  });
}

/**
 * Yields the values of all sources as they come, until all have ended. It asks a source for its
 * next value when the consumer comes back from the one before.
 *
 * Source of the idea: a loop around Go's `select`.
 *
 * @throws {TypeError} a source is no iterable
 *
 * @example
 * ```ts
 * import { interval, map, merge, take } from "./generators.ts";
 *
 * const fast = map(interval(2), () => "fast");
 * const slow = map(interval(1000), () => "slow");
 * const values = await Array.fromAsync(take(merge(slow, fast), 3));
 * console.assert(values.join() === "fast,fast,fast");
 * ```
 */
export function merge<T>(...sources: Source<T>[]): Stream<T> {
  const inputs = sources.map((source) => new Input("merge", source));
  return new Operator(inputs, async function* () {
    const arrivals = new Queue<{ input: Input<T>; step: Step<T> } | undefined>();
    const pull = (input: Input<T>) =>
      input.next().then(
        (step) => arrivals.put({ input, step }),
        () => arrivals.put(undefined),
      );
    inputs.forEach(pull);
    for (let open = inputs.length; open > 0;) {
      const arrival = await arrivals.take();
      if (!arrival) return;
      const { input, step } = arrival;
      if (step.done) open--;
      else {
        yield step.value;
        pull(input);
      }
    }
  });
}

/**
 * Yields arrays with one value of each source, all of which it asks at once. It ends with the
 * shortest.
 *
 * Source of the idea: `zip` in Python.
 *
 * @throws {TypeError} a source is no iterable
 *
 * @example
 * ```ts
 * import { zip } from "./generators.ts";
 *
 * const pairs = await Array.fromAsync(zip(["a", "b", "c"], [1, 2]));
 * console.assert(pairs.join(" ") === "a,1 b,2");
 * ```
 */
export function zip<T extends unknown[]>(...sources: { [K in keyof T]: Source<T[K]> }): Stream<T> {
  const inputs = sources.map((source) => new Input("zip", source));
  return new Operator(inputs, async function* () {
    while (inputs.length > 0) {
      const end = Promise.withResolvers<undefined>();
      const pull = async (input: Input<unknown>) => {
        const step = await input.next();
        if (step.done) end.resolve(undefined);
        return step.value;
      };
      const values = await Promise.race([end.promise, Promise.all(inputs.map(pull))]);
      if (!values) return;
      yield values as T;
    }
  });
}

/**
 * Reads ahead: from the first `next()` on it asks the source also while the consumer is busy, until
 * `size` values wait. An error of the source comes after them.
 *
 * Source of the idea: Go's buffered channels.
 *
 * @throws {TypeError | RangeError} `source` is no iterable, or `size` not a positive integer
 *
 * @example
 * ```ts
 * import { buffer } from "./generators.ts";
 *
 * const pages = await Array.fromAsync(buffer(["page 1", "page 2"], 10));
 * console.assert(pages.length === 2);
 * ```
 */
export function buffer<T>(source: Source<T>, size: number): Stream<T> {
  requireInteger("buffer", "size", size, 1);
  return mapAhead("buffer", source, (value) => value, size, true);
}

/** How {@link parallelMap} works off its source. */
export interface ParallelOptions {
  /** How many values may be worked on, or wait for the consumer, at once: a positive integer. */
  concurrency: number;
  /** Whether results come in the order of the source, or as they are ready. Default: true. */
  ordered?: boolean | undefined;
}

/**
 * Yields what `fn` makes of each value, several at once. The source is asked only when there is a
 * place for its value, so that a long one needs memory for `concurrency` of them.
 *
 * The first failure, be it of `fn` or the source, aborts what runs, and so does leaving. The stream
 * ends when all that has ended; an AbortError that comes of the abort is no failure.
 *
 * Source of the idea: `buffer_unordered` and `buffered` of Rust's futures.
 *
 * @param fn is given the value, its index, and a signal that is aborted only while it runs
 * @throws {TypeError | RangeError} `source` is no iterable, `fn` no function, or `concurrency` not a
 * positive integer
 *
 * @example
 * ```ts
 * import { parallelMap } from "./generators.ts";
 *
 * const load = async (id: number, _: number, signal: AbortSignal) => `${id} ${signal.aborted}`;
 * const users = await Array.fromAsync(parallelMap([7, 8, 9], load, { concurrency: 2 }));
 * console.assert(users.join() === "7 false,8 false,9 false");
 * ```
 */
export function parallelMap<T, R>(
  source: Source<T>,
  fn: (value: T, index: number, signal: AbortSignal) => R | PromiseLike<R>,
  { concurrency, ordered = true }: ParallelOptions,
): Stream<R> {
  requireFunction("run parallelMap", "fn", fn);
  requireInteger("run parallelMap", "concurrency", concurrency, 1);
  return mapAhead("run parallelMap", source, fn, concurrency, ordered);
}

function mapAhead<T, R>(
  action: string,
  source: Source<T>,
  fn: (value: T, index: number, signal: AbortSignal) => R | PromiseLike<R>,
  places: number,
  ordered: boolean,
): Stream<R> {
  const input = new Input(action, source);
  const results = new Queue<{ value: R } | undefined>();
  const running = new Map<AbortController, Promise<void>>();
  const errors = new Set<unknown>();
  let isOver = false;

  const abort = () => {
    isOver = true;
    for (const controller of running.keys()) {
      controller.abort(new DOMException("The result is no longer needed", "AbortError"));
    }
  };
  const work = async (value: T, index: number, controller: AbortController) => {
    let put = ordered ? results.reserve() : undefined;
    let result: { value: R } | undefined;
    try {
      result = { value: await fn(value, index, controller.signal) };
    } catch (error) {
      const isEcho = controller.signal.aborted && (error as Error | null)?.name === "AbortError";
      if (!isEcho) errors.add(error);
      abort();
    }
    put ??= results.reserve();
    put(result);
    running.delete(controller);
  };

  let free = places;
  let index = 0;
  let isPulling = false;
  const pull = async () => {
    if (isPulling || isOver) return;
    isPulling = true;
    while (free > 0) {
      const step = await input.next().catch(abort);
      if (isOver || !step || step.done) {
        await Promise.all(running.values());
        return results.put(undefined);
      }
      free--;
      const controller = new AbortController();
      running.set(controller, work(step.value, index++, controller));
    }
    isPulling = false;
  };
  const workers = {
    leave: abort,
    abandon: abort,
    async return() {
      await Promise.all(running.values());
      throwAll(errors);
    },
  };
  return new Operator([input, workers], async function* () {
    pull();
    for (let result; (result = await results.take());) {
      free++;
      pull();
      yield result.value;
    }
  });
}

/**
 * Several streams with the values of one source, each at its own pace. What the fastest has read is
 * kept until the slowest has, so that memory is bounded by its lag alone: leave (`return()`) those
 * that you don't read. The source is closed when all have left, and its error comes to each.
 *
 * Source of the idea: `itertools.tee`.
 *
 * @throws {TypeError | RangeError} `source` is no iterable, or `count` not a positive integer
 *
 * @example
 * ```ts
 * import { map, tee } from "./generators.ts";
 *
 * const [plain, loud] = tee(["a", "b"], 2);
 * const upper = map(loud!, (text) => text.toUpperCase());
 * const both = await Promise.all([Array.fromAsync(plain!), Array.fromAsync(upper)]);
 * console.assert(both.join() === "a,b,A,B");
 * ```
 */
export function tee<T>(source: Source<T>, count: number): Stream<T>[] {
  requireInteger("tee", "count", count, 1);
  const shared = { input: new Input("tee", source), readers: count };
  const first = new Link<Step<T>>();
  return Array.from({ length: count }, () => createReader(shared, first));
}

/** Apart from `tee`, so that it refers to its own place only, and what all have read is freed. */
function createReader<T>(
  shared: { readonly input: Input<T>; readers: number },
  place: Link<Step<T>>,
): Stream<T> {
  const next = () => {
    const { promise, resolve } = place.value;
    if (!place.isAsked) resolve(shared.input.next());
    place.isAsked = true;
    place = place.next;
    return promise;
  };
  const close = async () => (--shared.readers > 0 ? DONE : shared.input.return());
  const abandon = () => {
    if (shared.readers === 0) shared.input.abandon();
  };
  return operator("tee", { next, return: close, [ABANDON]: abandon }, passOn);
}

/**
 * Ends the stream when the signal is aborted, without an error, even in the middle of a `next()`.
 * The source is closed at once, and its cleanup awaited, except where that can't be: a generator
 * that is stuck in its `next()`, or an operator in its `fn`, is not waited for, and what it throws
 * later is dropped. ({@link parallelMap} can stop its `fn`, and waits.)
 *
 * Put it next to the source: all that is made of the stream ends with it.
 *
 * Source of the idea: `takeUntil` of RxJS.
 *
 * @param signal may be undefined, to pass on what is optional
 * @throws {TypeError} `source` is no iterable
 *
 * @example
 * ```ts
 * import { map, until } from "./generators.ts";
 *
 * async function* silent() {
 *   yield 1;
 *   await new Promise(() => {});
 * }
 * const stream = until(silent(), AbortSignal.timeout(10));
 * const values = await Array.fromAsync(map(stream, (n) => 2 * n));
 * console.assert(values.join() === "2");
 * ```
 */
export function until<T>(source: Source<T>, signal: AbortSignal | undefined): Stream<T> {
  return operator("until", source, (input) => passOn(input, signal));
}

/**
 * Yields the lines of a stream of bytes in UTF-8, without their ends: `\n` or `\r\n`. A `\r` alone
 * ends nothing, empty lines count, and the last line needs no end. A byte order mark is left out,
 * and what is no UTF-8 becomes U+FFFD.
 *
 * Source of the idea: `bufio.ScanLines` in Go.
 *
 * @throws {TypeError} `source` is no iterable
 *
 * @example
 * ```ts
 * import { lines } from "./generators.ts";
 *
 * const body = new Response("first\r\nsecond\n").body!;
 * const texts = await Array.fromAsync(lines(body));
 * console.assert(texts.join() === "first,second");
 * ```
 */
export function lines(source: Source<Uint8Array>): Stream<string> {
  return operator("read lines", source, async function* (input) {
    const decoder = new TextDecoder();
    // A long line is put together once, not with every chunk.
    let pieces: string[] = [];
    for await (const chunk of input) {
      const [end, ...rest] = decoder.decode(chunk, { stream: true }).split("\n");
      pieces.push(end!);
      for (const piece of rest) {
        yield pieces.join("").replace(/\r$/, "");
        pieces = [piece];
      }
    }
    const last = pieces.join("") + decoder.decode();
    if (last) yield last;
  });
}

type Step<T> = IteratorResult<T, void>;

type Upstream<T> = AsyncIterator<T> & { [ABANDON]?(): void };

type Body<T> = AsyncGenerator<T, void, undefined>;

const DONE = { done: true, value: undefined } as const;

/** Tells an iterator not to wait, or to wait no longer, for what is stuck in a `next()`. */
const ABANDON = Symbol("abandon");

/** What an operator closes at its end. */
interface Part {
  /** The consumer leaves: end what the operator may be waiting for. */
  leave(): void;
  /** Don't wait, or wait no longer, for what is stuck. */
  abandon(): void;
  /** Closes it, and throws what goes wrong, then or before. */
  return(): Promise<unknown>;
}

/** A source as an operator sees it: it can be left at any time, and is closed once. */
class Input<T> implements Part, AsyncIterableIterator<T, void, undefined> {
  readonly #source: Source<T> | Upstream<T>;
  readonly #errors = new Set<unknown>();
  #iterator: Upstream<T> | undefined;
  #pending: PromiseWithResolvers<Step<T>> | undefined;
  #isLeft = false;
  #isAbandoned = false;
  readonly #abandoned = Promise.withResolvers<void>();
  #end: Promise<void> | undefined;

  constructor(action: string, source: Source<T> | Upstream<T>) {
    const keys = ["getReader", Symbol.asyncIterator, Symbol.iterator, "next"];
    // A string is no object, but can be iterated.
    this.#source = Object(source);
    if (!keys.some((key) => key in this.#source)) {
      throw invalid(action, "source", "an iterable", source, TypeError);
    }
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  next(): Promise<Step<T>> {
    if (this.#isLeft || this.#end) return this.return();
    const pending = (this.#pending = Promise.withResolvers<Step<T>>());
    this.#pull(pending);
    return pending.promise;
  }

  async #pull(pending: PromiseWithResolvers<Step<T>>): Promise<void> {
    try {
      this.#iterator ??= iterate(this.#source);
      const step = await this.#iterator.next();
      if (this.#end) return;
      if (step.done) this.#end = Promise.resolve();
      pending.resolve(step.done ? DONE : step);
    } catch (error) {
      if (!this.#isAbandoned) this.#errors.add(error);
      if (this.#end) return;
      this.#end = Promise.resolve();
      pending.reject(error);
    }
    this.#pending = undefined;
  }

  leave(): void {
    this.#isLeft = true;
    if (this.#pending) this.return().catch(ignore);
  }

  abandon(): void {
    this.#isAbandoned = true;
    this.#abandoned.resolve();
    this.#iterator?.[ABANDON]?.();
  }

  async return(): Promise<Step<T>> {
    await (this.#end ??= this.#close());
    throwAll(this.#errors);
    return DONE;
  }

  async #close(): Promise<void> {
    try {
      const iterator = (this.#iterator ??= iterate(this.#source));
      const closing = iterator.return?.();
      if (this.#isAbandoned) iterator[ABANDON]?.();
      const mayBeStuck = this.#pending && isGenerator(iterator);
      await (mayBeStuck ? Promise.race([closing, this.#abandoned.promise]) : closing);
    } catch (error) {
      this.#errors.add(error);
    }
    this.#pending?.resolve(DONE);
  }
}

/** What consumers see: values made by a generator, which can be left while it waits for a part. */
class Operator<T> implements Stream<T> {
  readonly #parts: Iterable<Part>;
  readonly #generator: Body<T>;
  readonly #abandoned = Promise.withResolvers<Step<T>>();
  #end: Promise<void> | undefined;

  constructor(parts: Iterable<Part>, body: () => Body<T>) {
    this.#parts = parts;
    this.#generator = body();
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  next(): Promise<Step<T>> {
    return this.#run(() => this.#generator.next());
  }

  return(): Promise<Step<T>> {
    for (const part of this.#parts) part.leave();
    return this.#run(() => Promise.race([this.#generator.return(), this.#abandoned.promise]));
  }

  [ABANDON](): void {
    for (const part of this.#parts) part.abandon();
    this.#abandoned.resolve(DONE);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.return();
  }

  async #run(step: () => Promise<Step<T>>): Promise<Step<T>> {
    if (this.#end) {
      // What went wrong has been told.
      await this.#end.catch(ignore);
      return DONE;
    }
    const errors = new Set<unknown>();
    try {
      const result = await step();
      if (!result.done) return result;
    } catch (error) {
      errors.add(error);
    }
    await (this.#end = this.#close(errors));
    return DONE;
  }

  async #close(errors: Set<unknown>): Promise<void> {
    const closings = await Promise.allSettled([...this.#parts].map((part) => part.return()));
    for (const closing of closings) if (closing.status === "rejected") errors.add(closing.reason);
    throwAll(errors);
  }
}

/** A place in a list whose values may be awaited before they are there. */
class Link<T> {
  readonly value: PromiseWithResolvers<T> = Promise.withResolvers<T>();
  isAsked = false;
  #next: Link<T> | undefined;

  get next(): Link<T> {
    return (this.#next ??= new Link());
  }
}

/** First come, first served, on both sides. */
class Queue<T> {
  #first = new Link<T>();
  #last = this.#first;

  put(value: T): void {
    this.reserve()(value);
  }

  /** A place in the queue, to be filled later. */
  reserve(): (value: T) => void {
    const { resolve } = this.#last.value;
    this.#last = this.#last.next;
    return resolve;
  }

  take(): Promise<T> {
    const { promise } = this.#first.value;
    this.#first = this.#first.next;
    return promise;
  }
}

function iterate<T>(source: Source<T> | Upstream<T>): Upstream<T> {
  if ("getReader" in source) {
    // Its reader can be cancelled in the middle of a read; its own iterator can't be closed then.
    const reader = source.getReader();
    return {
      next: () => reader.read() as Promise<IteratorResult<T>>,
      return: async () => (await reader.cancel(), DONE),
    };
  }
  if (Symbol.asyncIterator in source) return source[Symbol.asyncIterator]();
  if (!(Symbol.iterator in source)) return source;
  return (async function* () {
    for (const value of source) yield value;
  })();
}

function isGenerator(iterator: object): boolean {
  return Object.prototype.toString.call(iterator) === "[object AsyncGenerator]";
}

/** An operator with one source. */
function operator<T, R>(
  action: string,
  source: Source<T> | Upstream<T>,
  body: (input: Input<T>) => Body<R>,
): Stream<R> {
  const input = new Input(action, source);
  return new Operator([input], () => body(input));
}

async function* passOn<T>(input: Input<T>, signal?: AbortSignal): Body<T> {
  const abandon = () => {
    input.abandon();
    input.return().catch(ignore);
  };
  if (signal?.aborted) abandon();
  const stopListening = onAbort(signal, abandon);
  try {
    yield* input;
  } finally {
    stopListening();
  }
}

/** A stream that ends when it is left, or with the signal's reason. */
function endless<T>(
  next: () => Promise<T>,
  close: () => void,
  signal: AbortSignal | undefined,
): Stream<T> {
  const iterator: Upstream<T> = {
    next: async () => ({ done: false, value: await next() }),
    return: async () => (close(), DONE),
  };
  return operator("", iterator, async function* (input) {
    yield* passOn(input, signal);
    signal?.throwIfAborted();
  });
}

function throwAll(errors: Set<unknown>): void {
  if (errors.size > 1) throw new AggregateError(errors, "A stream failed, and so did its cleanup");
  for (const error of errors) throw error;
}

function ignore(): void {}

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

function requireFunction(action: string, name: string, value: unknown): void {
  if (typeof value !== "function") throw invalid(action, name, "a function", value, TypeError);
}

function requirePositive(action: string, name: string, value: number): void {
  if (typeof value === "number" && value > 0) return;
  throw invalid(action, name, "a positive number", value);
}

function requireInteger(action: string, name: string, value: number, min: 0 | 1): void {
  if (Number.isInteger(value) && value >= min) return;
  throw invalid(action, name, min ? "a positive integer" : "an integer of 0 or more", value);
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

// ─── Demo: `bun concepts/generators.ts` ──────────────────────────────────────────────────────────

/** Two at a time. The consumer leaves after two: what runs is cancelled, and the source closed. */
export async function demo(log: (lane: string, state: string) => void = print): Promise<void> {
  const sleep = (ms: number, signal?: AbortSignal) => until(interval(ms), signal).next();
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

if ((import.meta as { main?: boolean }).main) await demo();
