// async-concepts 0.3.0, MIT License. A file to copy and own; please keep this line.

/**
 * # Queues
 *
 * Hand items from those who make them to those who work on them, and let neither run ahead.
 *
 * Reach for one when producers and consumers go at different speeds: jobs for a number of workers, the
 * steps of a pipeline, or events that come by callback and are worked off in a `for await` loop.
 *
 * Without one an array and a flag grow into a polling loop: memory fills up when the producer is
 * faster, nobody notices the end, and an item is lost when a consumer is aborted.
 *
 * Known elsewhere as: `asyncio.Queue`, `PriorityQueue` and `LifoQueue`, with the `shutdown` of Python
 * 3.13; Go's channels and `select`; trio's memory channels.
 *
 * @module
 */

/** How to close a {@link Queue}. */
export interface CloseOptions {
  /** Drops the items that are left, and counts them as done. Default: false. */
  immediate?: boolean | undefined;
  /** What `get` rejects with, and `for await` throws, after the last item. */
  error?: unknown;
}

/** Thrown by a {@link Queue} that is closed. */
export class QueueClosedError extends Error {
  override readonly name = "QueueClosedError";
}

/** What {@link Queue.select} has taken, and from which queue. */
export type Selected<Q> = Q extends Queue<infer T> ? { queue: Q; item: T } : never;

/** Keeps the items of a {@link Queue}, and decides which of them is next. */
export interface Store<T> {
  readonly size: number;
  add(item: T): void;
  /** Removes the next item and returns it. Called only if there is one. */
  take(): T;
  /** Makes an item that has been taken the next one again. */
  putBack(item: T): void;
}

/**
 * A queue with a limited number of places: first in, first out.
 *
 * {@link put} waits while all places are taken, {@link get} while there are no items. Both serve their
 * callers in order of arrival. A caller that is aborted has put or taken nothing.
 *
 * Any number of producers and consumers may share it. A `for await` loop takes items until the queue
 * is closed and empty; leaving the loop leaves the queue open for others.
 *
 * Source of the idea: `asyncio.Queue`.
 *
 * @example Two workers, and a producer that isn't faster than they are
 * ```ts
 * import { Queue } from "./queues.ts";
 *
 * const jobs = new Queue<number>(2);
 * const results: number[] = [];
 *
 * async function work(): Promise<void> {
 *   for await (const job of jobs) results.push(job * job);
 * }
 *
 * const workers = [work(), work()];
 * for (const job of [1, 2, 3, 4]) await jobs.put(job);
 * jobs.close();
 * await Promise.all(workers);
 * console.assert(results.join() === "1,4,9,16");
 * ```
 *
 * @example From callbacks to a loop
 * ```ts
 * import { Queue } from "./queues.ts";
 *
 * const messages = new Queue<string>();
 * const source = { onMessage: (text: string) => messages.tryPut(text), onEnd: () => messages.close() };
 * setTimeout(() => (source.onMessage("hello"), source.onEnd()), 1);
 *
 * const texts: string[] = [];
 * for await (const text of messages) texts.push(text);
 * console.assert(texts.join() === "hello");
 * ```
 */
export class Queue<T> implements AsyncIterable<T> {
  static {
    showMembers(this, "size", "maxSize", "waiting", "closed");
  }

  readonly #maxSize: number;
  readonly #store: Store<T>;
  /** Granted to getters, in order, but not yet delivered. These items still take their places. */
  readonly #reserved = new Ring<T>();
  readonly #getters = new Line<T>({
    serve: () => this.#serveGetters(),
    // The last one, so that those who are being let in receive the items in order.
    takeBack: () => {
      this.#store.putBack(this.#reserved.takeLast());
      if (this.#isDropping) this.#dropAll();
    },
    deliver: (getter: Waiter<T>) => {
      getter.resolve(this.#reserved.take());
      this.#onTaken();
    },
  });
  /** Places granted to putters, which add their items when that is delivered. */
  #promised = 0;
  readonly #putters = new Line<void>({
    serve: () => this.#servePutters(),
    takeBack: () => void this.#promised--,
    deliver: (putter: Waiter<void>) => {
      this.#promised--;
      if (putter.resolve === doNothing) return this.#addLate(putter.item as T);
      if (this.#end) return putter.reject(this.#refusal());
      this.#add(putter.item as T);
      putter.resolve();
    },
  });
  /** Items of {@link tryPut} behind putters that were let in. They stand in the same line. */
  #late = 0;
  readonly #joiners = new Line<void>();
  #unfinished = 0;
  #isDropping = false;
  #end: { readonly reason: unknown; readonly isError: boolean } | undefined;

  /**
   * @param maxSize how many items it holds: a positive integer, or `Infinity`, the default
   * @param store keeps the items. Default: first in, first out
   * @throws {TypeError} `maxSize` is not a number
   * @throws {RangeError} `maxSize` is not a positive integer or Infinity
   */
  constructor(maxSize: number = Infinity, store: Store<T> = new Ring()) {
    requireCount("create Queue", "maxSize", maxSize);
    this.#maxSize = maxSize;
    this.#store = store;
  }

  /** How many items can be taken now. */
  get size(): number {
    return this.#store.size;
  }

  /** How many items it can hold. */
  get maxSize(): number {
    return this.#maxSize;
  }

  /** How many callers wait, to put an item or to get one. */
  get waiting(): number {
    return this.#putters.waiting + this.#getters.waiting;
  }

  /** Whether it accepts no more items. It may still hold some. */
  get closed(): boolean {
    return this.#end !== undefined;
  }

  /**
   * Adds an item, and waits in line for a place if necessary.
   *
   * @throws {TypeError} `signal` is not an AbortSignal
   * @throws {QueueClosedError} the queue is closed, or is while this waits
   * @throws the signal's reason, once it is aborted; then the item has not been added
   */
  put(item: T, options?: WaitOptions): Promise<void> {
    if (options === undefined && this.#putters.isQuiet && this.#hasPlace && !this.#end) {
      this.#add(item);
      return ADDED;
    }
    return new Promise((resolve, reject) => {
      const signal = requireWait("put into Queue", options);
      if (signal?.aborted) return reject(signal.reason);
      if (this.#end) return reject(this.#refusal());
      this.#putters.enter(new Waiter(resolve, reject, signal, 1, item));
    });
  }

  /**
   * Adds an item if there is a place and nobody waits for it; says whether it did. If a {@link put}
   * was let in but has not added its item yet, this one follows it, in a microtask.
   *
   * @throws {QueueClosedError} the queue is closed
   */
  tryPut(item: T): boolean {
    if (this.#end) throw this.#refusal();
    if (!this.#hasPlace) return false;
    if (this.#promised === 0) this.#add(item);
    else {
      this.#unfinished++;
      this.#late++;
      this.#putters.enter(new Waiter<void>(doNothing, doNothing, undefined, 1, item));
    }
    return true;
  }

  /**
   * Takes the next item, and waits in line for one if necessary.
   *
   * @throws {TypeError} `signal` is not an AbortSignal
   * @throws {QueueClosedError} the queue is closed and empty, or `error` of {@link close}, if given
   * @throws the signal's reason, once it is aborted; then nothing has been taken
   */
  get(options?: WaitOptions): Promise<T> {
    if (options === undefined && this.#getters.isQuiet && this.#store.size > 0) {
      return Promise.resolve(this.#take());
    }
    return new Promise((resolve, reject) => {
      const signal = requireWait("get from Queue", options);
      if (signal?.aborted) return reject(signal.reason);
      this.#enter(new Waiter(resolve, reject, signal));
    });
  }

  /** Takes the next item if there is one and nobody waits for it; otherwise returns undefined. */
  tryGet(): T | undefined {
    return this.#store.size > 0 ? this.#take() : undefined;
  }

  /**
   * Says that the work on one item that was taken is finished. {@link join} counts these calls.
   *
   * @throws {RangeError} it was called more often than items were put
   */
  done(): void {
    if (this.#unfinished === 0) {
      throw new RangeError("Cannot call done: it was called as often as items were put already");
    }
    this.#finish(1);
  }

  /**
   * Waits until {@link done} has been called for every item that was put.
   *
   * @throws {TypeError} `signal` is not an AbortSignal
   * @throws the signal's reason, once it is aborted
   */
  join(options?: WaitOptions): Promise<void> {
    return new Promise((resolve, reject) => {
      const signal = requireWait("join Queue", options);
      if (signal?.aborted) return reject(signal.reason);
      this.#joiners.join(new Waiter(resolve, reject, signal));
      if (this.#unfinished === 0) this.#joiners.grantAll();
    });
  }

  /**
   * Accepts no more items. Callers that wait to put one are rejected; those that get receive what is
   * left, and are rejected then. Closing again does nothing, but may be `immediate`.
   *
   * With `immediate` the items that are left are dropped, and count as done for {@link join}. Holds
   * (permits, leases) among them are released.
   *
   * Source of the idea: `Queue.shutdown` of Python 3.13.
   *
   * @throws {TypeError} `options` is not an object
   */
  close(options?: CloseOptions): void {
    requireOptions("close Queue", options);
    const { immediate = false, error } = options ?? {};
    if (!this.#end) {
      const isError = options !== undefined && "error" in options;
      const closed = new QueueClosedError("Cannot get from Queue: it is closed and empty");
      this.#end = { reason: isError ? error : closed, isError };
      this.#putters.refuse(() => this.#refusal());
    }
    if (immediate) {
      this.#isDropping = true;
      this.#dropAll();
    }
    this.#endIfDrained();
  }

  /** Takes items until the queue is closed and empty. */
  [Symbol.asyncIterator](): AsyncIterableIterator<T, void, undefined> {
    const pending = new Set<Waiter<T>>();
    let isOver = false;
    const next = () => {
      if (isOver) return Promise.resolve(DONE);
      if (this.#getters.isQuiet && this.#store.size > 0) return Promise.resolve(this.#step());
      return new Promise<IteratorResult<T, void>>((resolve, reject) => {
        const onItem = (value: T) => {
          pending.delete(waiter);
          resolve({ done: false, value });
        };
        const onEnd = (reason: unknown) => {
          pending.delete(waiter);
          if (isOver || !this.#end!.isError) resolve(DONE);
          else reject(reason);
          isOver = true;
        };
        const waiter = new Waiter(onItem, onEnd, undefined);
        pending.add(waiter);
        this.#enter(waiter);
      });
    };
    const leave = () => {
      isOver = true;
      for (const waiter of pending) this.#getters.leave(waiter, undefined);
      return Promise.resolve(DONE);
    };
    const iterator = { next, return: leave, [Symbol.asyncIterator]: () => iterator };
    return iterator;
  }

  /**
   * Takes an item from the queue that has one first, and nothing from the others: Go's `select`. Of
   * those that have one already, the first in the list is chosen. A `race` of `get`s would lose an
   * item when two queues receive one at the same moment.
   *
   * @throws {TypeError} `queues` is not an iterable of queues, or `signal` not an AbortSignal
   * @throws {RangeError} there are no queues
   * @throws whatever {@link get} throws, as soon as one of the queues is closed and empty
   * @throws the signal's reason, once it is aborted; then nothing has been taken
   *
   * @example
   * ```ts
   * import { Queue } from "./queues.ts";
   *
   * const [jobs, commands] = [new Queue<number>(), new Queue<string>()];
   * commands.tryPut("stop");
   *
   * const selected = await Queue.select([jobs, commands]);
   * console.assert(selected.queue === commands && selected.item === "stop");
   * ```
   */
  static select<Q extends Queue<any>>(
    queues: Iterable<Q>,
    options?: WaitOptions,
  ): Promise<Selected<Q>> {
    return new Promise((resolve, reject) => {
      const action = "select from Queues";
      const signal = requireWait(action, options);
      const list = Symbol.iterator in Object(queues) ? [...queues] : [queues];
      if (list.length === 0) throw invalid(action, "the number of queues", "at least 1", 0);
      if (!list.every((queue) => queue instanceof Queue)) {
        throw invalid(action, "queues", "an iterable of queues", queues, TypeError);
      }
      if (signal?.aborted) return reject(signal.reason);
      const getters: Waiter<any>[] = [];
      const leaveOthers = () => {
        for (const [index, getter] of getters.splice(0).entries()) {
          list[index]!.#getters.leave(getter, undefined);
        }
      };
      for (const queue of list) {
        const onItem = (item: unknown) => {
          resolve({ queue, item } as Selected<Q>);
          leaveOthers();
        };
        const onEnd = (reason: unknown) => {
          reject(reason);
          leaveOthers();
        };
        const getter = new Waiter<any>(onItem, onEnd, signal);
        getters.push(getter);
        queue.#enter(getter);
        if (getter.state !== "waiting") break;
      }
    });
  }

  get #hasPlace(): boolean {
    return this.#store.size + this.#reserved.size + this.#promised < this.#maxSize;
  }

  #servePutters(): void {
    for (let first; this.#hasPlace && (first = this.#putters.first);) {
      this.#promised++;
      this.#putters.grant(first);
    }
  }

  #serveGetters(): void {
    for (let first; this.#store.size > 0 && (first = this.#getters.first);) {
      this.#reserved.add(this.#store.take());
      this.#getters.grant(first);
    }
  }

  #step(): IteratorResult<T, void> {
    return { done: false, value: this.#take() };
  }

  #enter(getter: Waiter<T>): void {
    this.#getters.enter(getter);
    this.#endIfDrained();
  }

  #add(item: T): void {
    this.#unfinished++;
    this.#store.add(item);
    this.#serveGetters();
  }

  #addLate(item: T): void {
    this.#late--;
    this.#store.add(item);
    if (this.#isDropping) this.#dropAll();
    else this.#serveGetters();
  }

  #take(): T {
    const item = this.#store.take();
    this.#onTaken();
    return item;
  }

  #onTaken(): void {
    if (this.#putters.waiting > 0) this.#servePutters();
    this.#endIfDrained();
  }

  #dropAll(): void {
    let dropped = 0;
    for (; this.#store.size > 0; dropped++) releaseHold(this.#store.take());
    this.#finish(dropped);
  }

  #endIfDrained(): void {
    // An item that is on its way to a getter may yet come back, if the getter is aborted.
    const left = this.#store.size + (this.#isDropping ? 0 : this.#reserved.size + this.#late);
    if (!this.#end || left > 0) return;
    const { reason } = this.#end;
    for (let first; (first = this.#getters.first);) this.#getters.leave(first, reason);
  }

  #finish(count: number): void {
    this.#unfinished -= count;
    if (this.#unfinished === 0) this.#joiners.grantAll();
  }

  #refusal(): QueueClosedError {
    const { isError, reason } = this.#end!;
    const cause = isError ? { cause: reason } : undefined;
    return new QueueClosedError("Cannot put into Queue: it is closed", cause);
  }
}

/** One for all: `put` resolves to nothing. */
const ADDED = Promise.resolve();

const DONE: IteratorReturnResult<void> = Object.freeze({ done: true, value: undefined });

/**
 * A {@link Queue} that gives out the item that came last: last in, first out.
 *
 * @example The newest first
 * ```ts
 * import { Stack } from "./queues.ts";
 *
 * const undo = new Stack<string>();
 * undo.tryPut("typed a");
 * undo.tryPut("typed b");
 * console.assert((await undo.get()) === "typed b");
 * ```
 */
export class Stack<T> extends Queue<T> {
  /**
   * @param maxSize how many items it holds: a positive integer, or `Infinity`, the default
   * @throws {TypeError | RangeError} as {@link Queue}
   */
  constructor(maxSize: number = Infinity) {
    super(maxSize, new Pile());
  }
}

/**
 * A {@link Queue} that gives out the least item; of equal ones, the one that came first. Adding and
 * taking cost O(log n).
 *
 * @example The most urgent first
 * ```ts
 * import { PriorityQueue } from "./queues.ts";
 *
 * interface Job { name: string; priority: number }
 * const jobs = new PriorityQueue<Job>(Infinity, (a, b) => a.priority - b.priority);
 * await jobs.put({ name: "clean up", priority: 9 });
 * await jobs.put({ name: "answer", priority: 1 });
 * console.assert((await jobs.get()).name === "answer");
 * ```
 */
export class PriorityQueue<T> extends Queue<T> {
  /**
   * @param maxSize how many items it holds: a positive integer, or `Infinity`, the default
   * @param compare negative if `a` comes before `b`, positive if after, 0 if they are equal; must not
   *   throw. Default: by `<`, as numbers, strings and dates are compared
   * @throws {TypeError} `compare` is not a function
   * @throws {TypeError | RangeError} as {@link Queue}
   */
  constructor(maxSize: number = Infinity, compare: (a: T, b: T) => number = byValue) {
    requireFunction("create PriorityQueue", "compare", compare);
    super(maxSize, new Heap(compare));
  }
}

function byValue(a: unknown, b: unknown): number {
  if ((a as number) < (b as number)) return -1;
  return (b as number) < (a as number) ? 1 : 0;
}

/** First in, first out, in an array whose end is joined to its start. Its length is a power of 2. */
class Ring<T> implements Store<T> {
  size = 0;
  #head = 0;
  #items: (T | undefined)[] = new Array(SMALLEST_RING);

  add(item: T): void {
    this.#makeRoom();
    this.#items[this.#index(this.size++)] = item;
  }

  take(): T {
    const item = this.#clear(0);
    this.#head = this.#index(1);
    this.#removed();
    return item;
  }

  takeLast(): T {
    const item = this.#clear(this.size - 1);
    this.#removed();
    return item;
  }

  putBack(item: T): void {
    this.#makeRoom();
    this.#head = this.#index(-1);
    this.#items[this.#head] = item;
    this.size++;
  }

  #index(place: number): number {
    return (this.#head + place) & (this.#items.length - 1);
  }

  #clear(place: number): T {
    const index = this.#index(place);
    const item = this.#items[index] as T;
    this.#items[index] = undefined;
    return item;
  }

  #makeRoom(): void {
    if (this.size === this.#items.length) this.#resize(2 * this.size);
  }

  #removed(): void {
    const { length } = this.#items;
    if (--this.size <= length / 4 && length > SMALLEST_RING) this.#resize(length / 2);
  }

  #resize(length: number): void {
    const items = new Array<T | undefined>(length);
    for (let place = 0; place < this.size; place++) items[place] = this.#items[this.#index(place)];
    this.#items = items;
    this.#head = 0;
  }
}

const SMALLEST_RING = 16;

/** Last in, first out. */
class Pile<T> implements Store<T> {
  readonly #items: T[] = [];

  get size(): number {
    return this.#items.length;
  }

  add(item: T): void {
    this.#items.push(item);
  }

  take(): T {
    return this.#items.pop() as T;
  }

  putBack(item: T): void {
    this.#items.push(item);
  }
}

interface Ranked<T> {
  readonly item: T;
  /** Decides between equal items. */
  readonly order: number;
}

/** A binary heap. */
class Heap<T> implements Store<T> {
  readonly #compare: (a: T, b: T) => number;
  readonly #items: Ranked<T>[] = [];
  #last = 0;
  #first = 0;

  constructor(compare: (a: T, b: T) => number) {
    this.#compare = compare;
  }

  get size(): number {
    return this.#items.length;
  }

  add(item: T): void {
    this.#insert({ item, order: ++this.#last });
  }

  putBack(item: T): void {
    this.#insert({ item, order: --this.#first });
  }

  take(): T {
    const top = this.#items[0]!;
    const last = this.#items.pop()!;
    if (top !== last) this.#sink(last);
    return top.item;
  }

  #insert(entry: Ranked<T>): void {
    const items = this.#items;
    let place = items.push(entry) - 1;
    while (place > 0) {
      const parent = (place - 1) >> 1;
      if (!this.#isBefore(entry, items[parent]!)) break;
      items[place] = items[parent]!;
      place = parent;
    }
    items[place] = entry;
  }

  #sink(entry: Ranked<T>): void {
    const items = this.#items;
    let place = 0;
    for (;;) {
      let child = 2 * place + 1;
      if (child >= items.length) break;
      if (child + 1 < items.length && this.#isBefore(items[child + 1]!, items[child]!)) child++;
      if (!this.#isBefore(items[child]!, entry)) break;
      items[place] = items[child]!;
      place = child;
    }
    items[place] = entry;
  }

  #isBefore(a: Ranked<T>, b: Ranked<T>): boolean {
    return (this.#compare(a.item, b.item) || a.order - b.order) < 0;
  }
}

function requireWait(action: string, options: WaitOptions | undefined): AbortSignal | undefined {
  requireOptions(action, options);
  requireSignal(action, options?.signal);
  return options?.signal ?? undefined;
}

// ─── Shared ──────────────────────────────────────────────────────────────────────────────────────
// These stand in several concepts, the same to the letter, because a concept imports nothing.

/** What every wait takes. */
export interface WaitOptions {
  /** Ends the wait: it rejects with the signal's reason, and has taken nothing. */
  signal?: AbortSignal | undefined;
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

/**
 * Waiters in order of arrival. A grant counts at once, but is delivered in a microtask, to all
 * waiters of this turn in order. Until then the waiter listens to its signal: an abort takes the
 * grant back at once, and the next waiter is served.
 */
class Line<T> {
  /** How many wait, without those that have been granted something. */
  waiting = 0;
  /** The sum of what they ask for. */
  asked = 0;
  readonly #owner: LineOwner<T>;
  #delivering = false;
  readonly #waiters = new Waiter<T>(doNothing, doNothing, undefined);
  readonly #granted = new Waiter<T>(doNothing, doNothing, undefined);

  constructor(owner: LineOwner<T> = {}) {
    this.#owner = owner;
  }

  /** Whether a newcomer may skip the line, because nobody is waiting or being let in. */
  get isQuiet(): boolean {
    return this.waiting === 0 && !this.#delivering;
  }

  /** The waiter at the head. Drops aborted waiters whose listener has not yet been called. */
  get first(): Waiter<T> | undefined {
    for (;;) {
      const waiter = this.#waiters.next;
      if (waiter === this.#waiters) return undefined;
      if (!waiter.signal?.aborted) return waiter;
      this.#remove(waiter);
      waiter.reject(waiter.signal.reason);
    }
  }

  /** Adds a waiter whose signal is not aborted. */
  join(waiter: Waiter<T>): void {
    waiter.insertBefore(this.#waiters);
    this.waiting++;
    this.asked += waiter.amount;
    if (!waiter.signal) return;
    waiter.stopListening = onAbort(waiter.signal, (reason) => this.leave(waiter, reason));
  }

  /** Adds a waiter, and serves it if nobody is ahead and what it asks for is free. */
  enter(waiter: Waiter<T>): void {
    this.join(waiter);
    this.#owner.serve?.();
  }

  /** Lets a waiter in: in a microtask, unless it is `sure` that nothing but an abort could undo it. */
  grant(waiter: Waiter<T>, sure = false): void {
    if (sure && !waiter.signal && !this.#delivering) return this.#handOver(waiter);
    waiter.unlink();
    this.waiting--;
    this.asked -= waiter.amount;
    waiter.state = "granted";
    waiter.insertBefore(this.#granted);
    if (!this.#delivering) this.#deliverSoon();
  }

  grantAll(): void {
    for (let first; (first = this.first);) this.grant(first);
  }

  /** Rejects a waiter that has not yet received anything. */
  leave(waiter: Waiter<T>, reason: unknown): void {
    if (waiter.state === "gone") return;
    const { state } = waiter;
    this.#remove(waiter);
    if (state === "granted") this.#owner.takeBack?.(waiter);
    waiter.reject(reason);
    this.#owner.serve?.();
  }

  /** Rejects the waiters for which `reasonFor` returns a reason. */
  refuse(reasonFor: (waiter: Waiter<T>) => unknown): void {
    for (let waiter = this.#waiters.next; waiter !== this.#waiters; waiter = waiter.next) {
      const reason = reasonFor(waiter);
      if (!reason) continue;
      this.#remove(waiter);
      waiter.reject(reason);
    }
  }

  #remove(waiter: Waiter<T>): void {
    if (waiter.state === "waiting") {
      this.waiting--;
      this.asked -= waiter.amount;
    }
    waiter.state = "gone";
    waiter.unlink();
    waiter.stopListening?.();
  }

  #deliverSoon(): void {
    this.#delivering = true;
    queueMicrotask(() => this.#deliver());
  }

  #deliver(): void {
    for (let waiter; (waiter = this.#granted.next) !== this.#granted;) this.#handOver(waiter);
    this.#delivering = false;
  }

  #handOver(waiter: Waiter<T>): void {
    this.#remove(waiter);
    if (this.#owner.deliver) this.#owner.deliver(waiter);
    else waiter.resolve(undefined as T);
  }
}

/** What decides over a {@link Line}. */
interface LineOwner<T> {
  /** Grants what can be granted, from the head. Called when a waiter enters, and when one leaves. */
  serve?(): void;
  /** Puts back what was granted to a waiter that was aborted before it received it. */
  takeBack?(waiter: Waiter<T>): void;
  /** Hands over what was granted. Default: undefined. */
  deliver?(waiter: Waiter<T>): void;
}

/**
 * A caller in a {@link Line}: a node of a doubly linked ring, so that leaving costs the same
 * everywhere in it. A single object without closures, because there may be many.
 */
class Waiter<T> {
  previous: Waiter<T> = this;
  next: Waiter<T> = this;
  state: "waiting" | "granted" | "gone" = "waiting";
  stopListening: (() => void) | undefined = undefined;
  readonly resolve: (value: T) => void;
  readonly reject: (reason: unknown) => void;
  readonly signal: AbortSignal | undefined;
  /** How much it asks for. */
  readonly amount: number;
  /** What the owner of the line should know. */
  readonly item: unknown;

  constructor(
    resolve: (value: T) => void,
    reject: (reason: unknown) => void,
    signal: AbortSignal | undefined,
    amount = 1,
    item?: unknown,
  ) {
    this.resolve = resolve;
    this.reject = reject;
    this.signal = signal;
    this.amount = amount;
    this.item = item;
  }

  insertBefore(next: Waiter<T>): void {
    this.previous = next.previous;
    this.next = next;
    this.previous.next = next.previous = this;
  }

  unlink(): void {
    this.previous.next = this.next;
    this.next.previous = this.previous;
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

// ─── Demo: `bun concepts/queues.ts` ──────────────────────────────────────────────────────────────

/** A producer is faster than its two workers, so it waits for places; then it closes the queue. */
export async function demo(log: (lane: string, state: string) => void = print): Promise<void> {
  const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
  const jobs = new Queue<number>(2);
  const produce = async () => {
    for (const job of [1, 2, 3, 4, 5, 6]) {
      log("producer", `waiting, to put job ${job}`);
      await jobs.put(job);
    }
    jobs.close();
    log("producer", "done");
  };
  const work = async (lane: string) => {
    log(lane, "waiting");
    for await (const job of jobs) {
      log(lane, `running job ${job}`);
      await sleep(100);
      log(lane, "waiting");
    }
    log(lane, "done");
  };
  await Promise.all([produce(), work("worker 1"), work("worker 2")]);
}

let start: number | undefined;

function print(lane: string, state: string): void {
  start ??= performance.now();
  const ms = Math.round(performance.now() - start);
  console.log(`+${String(ms).padStart(4)} ms  ${lane}  ${state}`);
}

if ((import.meta as { main?: boolean }).main) void demo();
