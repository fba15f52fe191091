// async-concepts 0.3.0, MIT License. A file to copy and own; please keep this line.

/**
 * # Synchronization
 *
 * Let tasks wait for each other: for an event, for a change of shared state, for all the others, or
 * for their turn to read or to write.
 *
 * Reach for {@link AsyncEvent} when many wait for one thing to happen, {@link Latch} when one waits
 * for many things, {@link Condition} when tasks wait until state that a mutex guards has changed,
 * {@link Barrier} when all must have arrived before any goes on, and {@link ReadWriteLock} when
 * many may read at once, but only one may write.
 *
 * Without them tasks poll a flag, or share a promise that can't be reset. A hand-written list of
 * resolvers keeps callers that have gone, loses a wake-up to one that was aborted, and lets a
 * newcomer overtake those who wait.
 *
 * Known elsewhere as: `asyncio.Event`, `Condition` and `Barrier`; Go's `sync.Cond`, `RWMutex` and
 * `WaitGroup`; Java's `CountDownLatch`, `CyclicBarrier` and `ReentrantReadWriteLock`; tokio's
 * `Notify`, `Barrier` and `RwLock`; trio's `Event` and `Condition`.
 *
 * Arguments are checked before anything else: a wrong kind is a TypeError, a number out of range a
 * RangeError. Every wait takes a signal, and rejects with its reason once it is aborted.
 *
 * @module
 */

/**
 * A flag that tasks can wait for. While it is set, {@link wait} returns at once.
 *
 * Setting it wakes all waiters in order of arrival, even if it is cleared again at once:
 * `event.set(); event.clear();` wakes those that wait now, and no others.
 *
 * Source of the idea: `asyncio.Event`, which is a manual-reset event elsewhere.
 *
 * @example Pause and resume
 * ```ts
 * import { AsyncEvent } from "./synchronization.ts";
 *
 * const running = new AsyncEvent();
 * const steps: number[] = [];
 *
 * async function work(): Promise<void> {
 *   for (let step = 1; step <= 3; step++) {
 *     await running.wait();
 *     steps.push(step);
 *   }
 * }
 *
 * const working = work();
 * console.assert(running.waiting === 1 && steps.length === 0);
 * running.set();
 * await working;
 * console.assert(steps.join() === "1,2,3");
 * ```
 */
export class AsyncEvent {
  static {
    showMembers(this, "isSet", "waiting");
  }

  #isSet = false;
  readonly #line = new Line<void>({
    serve: () => {
      if (this.#isSet) this.#line.grantAll();
    },
  });

  /** Whether it is set. */
  get isSet(): boolean {
    return this.#isSet;
  }

  /** How many callers wait. */
  get waiting(): number {
    return this.#line.waiting;
  }

  /** Wakes all waiters. Idempotent. */
  set(): void {
    this.#isSet = true;
    this.#line.grantAll();
  }

  /** Makes later callers wait again. Idempotent. */
  clear(): void {
    this.#isSet = false;
  }

  /**
   * Waits until the event is set.
   *
   * @throws the signal's reason, once it is aborted, even if the event is set
   */
  wait(options?: WaitOptions): Promise<void> {
    if (options === undefined && this.#isSet && this.#line.isQuiet) return Promise.resolve();
    return waitInLine(this.#line, "wait for AsyncEvent", options);
  }
}

/**
 * A count of events that have yet to happen. At zero it opens, and stays open.
 *
 * To start tasks and wait for all of them use `taskGroup` or `gather`, which also report failures.
 * A latch is for what is reported from elsewhere: by callbacks, messages, or parts of a larger
 * task.
 *
 * Source of the idea: Java's `CountDownLatch`. Go's `WaitGroup` can count up as well.
 *
 * @example Ready when all three have reported
 * ```ts
 * import { Latch } from "./synchronization.ts";
 *
 * const ready = new Latch(3);
 * for (const ms of [1, 2, 3]) setTimeout(() => ready.countDown(), ms);
 *
 * await ready.wait();
 * console.assert(ready.count === 0);
 * ```
 */
export class Latch {
  static {
    showMembers(this, "count", "waiting");
  }

  #count: number;
  readonly #line = new Line<void>({
    serve: () => {
      if (this.#count === 0) this.#line.grantAll();
    },
  });

  /** @param count how many events to wait for: an integer of 0 or more. With 0 it is open */
  constructor(count: number) {
    requireAmount("create Latch", "count", count);
    this.#count = count;
  }

  /** How many events have yet to happen. */
  get count(): number {
    return this.#count;
  }

  /** How many callers wait. */
  get waiting(): number {
    return this.#line.waiting;
  }

  /**
   * Counts down by one, or by `n`: an integer of 0 or more.
   *
   * @throws {RangeError} `n` is more than {@link count}; then an event was counted twice
   */
  countDown(n = 1): void {
    requireAmount("count down Latch", "n", n);
    if (n > this.#count)
      throw invalid("count down Latch", "n", `at most its count of ${this.#count}`, n);
    this.#count -= n;
    if (this.#count === 0) this.#line.grantAll();
  }

  /**
   * Waits until the count is zero.
   *
   * @throws the signal's reason, once it is aborted, even if the count is zero
   */
  wait(options?: WaitOptions): Promise<void> {
    return waitInLine(this.#line, "wait for Latch", options);
  }
}

/** What a {@link Condition} needs of its mutex. `Mutex` of semaphores.ts has it. */
export interface ConditionMutex {
  /** Whether it is held. */
  readonly locked: boolean;
  /**
   * Unlocks it, and calls `fn` at once. `lockAgain` takes the place in line at once, and resolves
   * when the mutex is locked again for the same holder. A condition calls it, and `fn` never settles.
   *
   * @throws {Error} nobody holds the mutex
   */
  unlockWhile<T>(fn: (lockAgain: () => PromiseLike<unknown>) => PromiseLike<T>): PromiseLike<T>;
}

/**
 * Lets tasks wait for a change of state that a mutex guards.
 *
 * All its methods are called by the holder of the mutex. {@link wait} unlocks it, waits for a
 * notification, and **holds the lock again whenever it returns or rejects**, even if it must wait
 * for that after an abort. So the caller's `using` or `finally` can release it in any case.
 *
 * A notified waiter needs the lock to go on, and others may have it first and change the state
 * again. Use {@link waitFor}, which looks again. A notification wakes waiters of that moment; none
 * is kept for later ones. If a notified waiter is aborted before it has the lock, the notification
 * goes on to the next.
 *
 * Source of the idea: `asyncio.Condition`.
 *
 * @example Take when there is something to take
 * ```ts
 * import { Mutex } from "./semaphores.ts";
 * import { Condition } from "./synchronization.ts";
 *
 * const mutex = new Mutex();
 * const changed = new Condition(mutex);
 * const items: string[] = [];
 *
 * async function take(): Promise<string> {
 *   using _lock = await mutex.lock();
 *   await changed.waitFor(() => items.length > 0);
 *   return items.shift()!;
 * }
 *
 * async function put(item: string): Promise<void> {
 *   using _lock = await mutex.lock();
 *   items.push(item);
 *   changed.notify();
 * }
 *
 * const taking = take();
 * await put("apple");
 * console.assert((await taking) === "apple" && !mutex.locked);
 * ```
 */
export class Condition {
  static {
    showMembers(this, "waiting");
  }

  readonly #mutex: ConditionMutex;
  readonly #line = new Line<void>();
  #lockAgain: (() => PromiseLike<unknown>) | undefined;
  /** One for all waits: a function for each would cost memory as long as it waits. */
  readonly #keepLockAgain = (lockAgain: () => PromiseLike<unknown>) => {
    this.#lockAgain = lockAgain;
    return NEVER;
  };

  /** @param mutex a `Mutex` of semaphores.ts, or one like it; several conditions may share it */
  constructor(mutex: ConditionMutex) {
    if (typeof mutex?.unlockWhile !== "function") {
      throw invalid("create Condition", "mutex", "a Mutex", mutex, TypeError);
    }
    this.#mutex = mutex;
  }

  /** How many callers wait for a notification. */
  get waiting(): number {
    return this.#line.waiting;
  }

  /**
   * Unlocks the mutex, waits for a notification, and locks the mutex again.
   *
   * @throws {Error} nobody holds the mutex. If another task holds it, that goes unnoticed, and that
   *   task loses the lock
   * @throws the signal's reason, once it is aborted and the mutex is locked again
   */
  wait(options?: WaitOptions): Promise<void> {
    return new Promise((resolve, reject) => {
      const signal = signalIn("wait for Condition", options);
      signal?.throwIfAborted();
      this.#requireLock("wait for Condition");
      const { lockAgain, unlocking } = this.#unlock();
      // The mutex is locked for somebody who hasn't received it yet.
      if (!lockAgain) return resolve(unlocking);
      const leave = (reason: unknown) => {
        const locking = lockAgain();
        if (reason !== NOTIFIED) return void locking.then(() => reject(reason), reject);
        if (!signal) return void locking.then(() => resolve(), reject);
        // Between the notification and the lock, an abort passes the notification on.
        let notifications = 1;
        const passOn = () => this.#notify(notifications--);
        const stopListening = onAbort(signal, passOn);
        const onLocked = () => {
          stopListening();
          if (!signal.aborted) return resolve();
          passOn();
          reject(signal.reason);
        };
        locking.then(onLocked, reject);
      };
      this.#line.join(new Waiter<void>(doNothing, leave, signal));
    });
  }

  /**
   * Waits until `predicate` returns something truthy, and returns that. Calls it at once, and after
   * each notification while the mutex is locked. It may be async.
   *
   * @throws {Error} nobody holds the mutex, and the first call returned something falsy
   * @throws what `predicate` throws, or the signal's reason, once it is aborted
   */
  waitFor<T>(predicate: () => T | PromiseLike<T>, options?: WaitOptions): Promise<Truthy<T>>;
  waitFor<R>(predicate: () => R, options?: WaitOptions): Promise<Truthy<Awaited<R>>>;
  async waitFor(predicate: () => unknown, options?: WaitOptions): Promise<unknown> {
    requireFunction("wait for Condition", "predicate", predicate);
    const signal = signalIn("wait for Condition", options);
    signal?.throwIfAborted();
    for (;;) {
      const value = await predicate();
      if (value) return value;
      await this.wait(options);
      // It may have been aborted since `wait` returned.
      if (!signal?.aborted) continue;
      this.#notify(1);
      throw signal.reason;
    }
  }

  /**
   * Wakes the first waiter, or the first `n`: an integer of 0 or more. They go on one after the
   * other, as each gets the lock.
   *
   * @throws {Error} nobody holds the mutex
   */
  notify(n = 1): void {
    requireAmount("notify Condition", "n", n);
    this.#requireLock("notify Condition");
    this.#notify(n);
  }

  /**
   * Wakes all waiters.
   *
   * @throws {Error} nobody holds the mutex
   */
  notifyAll(): void {
    this.notify(this.waiting);
  }

  /** Unlocks the mutex, and returns what locks it again, or a promise that rejects. */
  #unlock() {
    this.#lockAgain = undefined;
    const unlocking = this.#mutex.unlockWhile(this.#keepLockAgain);
    return { lockAgain: this.#lockAgain as (() => PromiseLike<unknown>) | undefined, unlocking };
  }

  #notify(n: number): void {
    for (let first; n > 0 && (first = this.#line.first); n--) this.#line.leave(first, NOTIFIED);
  }

  #requireLock(action: string): void {
    if (!this.#mutex.locked) throw new Error(`Cannot ${action}: its mutex is not locked`);
  }
}

/** The reason for which a waiter leaves the line of a {@link Condition} when it is notified. */
const NOTIFIED = Symbol();

/** Keeps nothing of those that wait for it: unlike a pending promise, it doesn't know them. */
const NEVER = { then: doNothing } as object as PromiseLike<never>;

type Truthy<T> = Exclude<T, false | 0 | 0n | "" | null | undefined>;

/** Thrown by {@link Barrier.wait} when the barrier is broken, or reset meanwhile. */
export class BrokenBarrierError extends Error {
  override readonly name = "BrokenBarrierError";
}

/**
 * A number of tasks that wait for each other: when the last has arrived, all go on. Then it can be
 * used again.
 *
 * A party that is aborted leaves, and the others wait until another takes its place. If none will,
 * call {@link abort}.
 *
 * Source of the idea: `asyncio.Barrier`.
 *
 * @example Nobody begins a round before all have finished the last one
 * ```ts
 * import { Barrier } from "./synchronization.ts";
 *
 * const barrier = new Barrier(2);
 * const log: string[] = [];
 *
 * async function play(name: string): Promise<void> {
 *   for (const round of [1, 2]) {
 *     log.push(`${name}${round}`);
 *     const index = await barrier.wait();
 *     if (index === 0) log.push("|");
 *   }
 * }
 *
 * await Promise.all([play("a"), play("b")]);
 * console.assert(log.join("") === "a1b1|a2b2|");
 * ```
 */
export class Barrier {
  static {
    showMembers(this, "parties", "waiting", "broken");
  }

  readonly #parties: number;
  readonly #line = new Line<number>({
    serve: () => this.#serve(),
    takeBack: ({ exit }: Party) => void exit!.size--,
    deliver: ({ resolve, reject, index, exit }: Party) => {
      exit!.size--;
      if (exit!.error) return reject(exit!.error);
      resolve(index!);
      if (exit!.size > 0) return;
      this.#isPassing = true;
      queueMicrotask(() => (this.#isPassing = false));
    },
  });
  #exit: Exit = { size: 0, error: undefined };
  /** Until the code of those that were released last goes on. */
  #isPassing = false;
  #error: BrokenBarrierError | undefined;

  /** @param parties how many wait for each other: a positive integer */
  constructor(parties: number) {
    requirePositiveInteger("create Barrier", "parties", parties);
    this.#parties = parties;
  }

  /** How many wait for each other. */
  get parties(): number {
    return this.#parties;
  }

  /** How many callers wait for the others. */
  get waiting(): number {
    return this.#line.waiting;
  }

  /** Whether it was aborted, and not reset since. */
  get broken(): boolean {
    return this.#error !== undefined;
  }

  /**
   * Waits until all parties have arrived. Returns the index of arrival, 0 to `parties - 1`. Each
   * has its own, so that one of them can do what must be done once.
   *
   * @throws {BrokenBarrierError} the barrier is broken, or is aborted or reset meanwhile
   * @throws the signal's reason, once it is aborted
   */
  wait(options?: WaitOptions): Promise<number> {
    return waitInLine(this.#line, "wait for Barrier", options);
  }

  /**
   * Starts again: waiters get a BrokenBarrierError, and the barrier is not broken any more. In the
   * turn in which the last party arrives, those parties get it; callers that wait for the next
   * round stay. They also stay when a party resets it as soon as it has passed.
   */
  reset(): void {
    this.#error = undefined;
    const error = new BrokenBarrierError("The barrier was reset");
    if (this.#exit.size > 0) this.#closeExit(error);
    else if (!this.#isPassing) this.#refuse(error);
  }

  /**
   * Breaks the barrier until it is reset: waiters get a BrokenBarrierError, and so does each new
   * caller. In the turn in which the last party arrives, those parties get it as well.
   */
  abort(): void {
    const error = (this.#error = new BrokenBarrierError("The barrier was aborted"));
    this.#closeExit(error);
    this.#refuse(error);
  }

  #refuse(error: BrokenBarrierError): void {
    this.#line.refuse(({ signal }) => !signal?.aborted && error);
  }

  #closeExit(error: BrokenBarrierError): void {
    this.#exit.error = error;
    this.#exit = { size: 0, error: undefined };
  }

  #serve(): void {
    if (this.#error) return this.#refuse(this.#error);
    if (this.#line.waiting < this.#parties) return;
    // Aborted parties whose listener has not yet been called don't count.
    let present = 0;
    this.#line.refuse(({ signal }) => void (signal?.aborted || present++));
    if (present < this.#parties) return;
    for (let index = 0, first; (first = this.#line.first); index++) {
      this.#exit.size++;
      this.#line.grant(Object.assign(first, { index, exit: this.#exit }));
    }
  }
}

/** What parties share that have been released, but have not received that yet. */
interface Exit {
  /** How many they are. */
  size: number;
  /** What they receive instead, if the barrier was reset or aborted meanwhile. */
  error: BrokenBarrierError | undefined;
}

type Party = Waiter<number> & { index?: number; exit?: Exit };

/** The right to read or to write. Release it with `using` or `release()`; both are idempotent. */
export interface Hold extends Disposable {
  /** Needs no `this`: `const { release } = await lock.read()` works. */
  release(): void;
}

/** The right to write. */
export interface WriteHold extends Hold {
  /**
   * Turns it into the right to read, without letting another writer in between. Readers at the head
   * of the line are let in. Idempotent; does nothing after the release. Needs no `this`.
   */
  downgrade(): void;
}

/**
 * A lock that many readers hold at a time, or one writer.
 *
 * Callers are served in order of arrival. A reader that comes after a writer waits behind it, so
 * that a stream of readers can't starve a writer, nor writers a reader.
 *
 * Not reentrant: a reader that reads again deadlocks if a writer waits in between. A read hold
 * can't be upgraded, because two readers that try would wait for each other: release it, take the
 * lock for writing, and check again what was read. A write hold can be downgraded.
 *
 * Source of the idea: Go's `sync.RWMutex`; order and downgrading are those of tokio's `RwLock`.
 *
 * @example Read side by side, write alone
 * ```ts
 * import { ReadWriteLock } from "./synchronization.ts";
 *
 * const lock = new ReadWriteLock();
 * let config = { version: 1 };
 *
 * async function read(): Promise<number> {
 *   using _hold = await lock.read();
 *   return config.version;
 * }
 *
 * async function update(): Promise<void> {
 *   using _hold = await lock.write();
 *   config = { version: config.version + 1 };
 * }
 *
 * const versions = await Promise.all([read(), read(), update().then(() => 0), read()]);
 * console.assert(versions.join() === "1,1,0,2");
 * ```
 */
export class ReadWriteLock {
  static {
    showMembers(this, "readers", "writing", "waiting");
  }

  #free = ALL;
  readonly #line = new Line<any>({
    serve: () => this.#serve(),
    takeBack: ({ amount }: Waiter<any>) => void (this.#free += amount),
    deliver: ({ resolve, amount }: Waiter<any>) => resolve(this.#lend(amount)),
  });

  /** How many readers hold it. */
  get readers(): number {
    return this.writing ? 0 : ALL - this.#free;
  }

  /** Whether a writer holds it. */
  get writing(): boolean {
    return this.#free === 0;
  }

  /** How many callers wait in line, readers and writers. */
  get waiting(): number {
    return this.#line.waiting;
  }

  /**
   * Takes it for reading, and waits in line if necessary.
   *
   * @throws the signal's reason, once it is aborted; then nothing has been taken
   */
  read(options?: WaitOptions): Promise<Hold> {
    return this.#take("read ReadWriteLock", 1, options);
  }

  /**
   * Takes it for writing, and waits in line if necessary.
   *
   * @throws the signal's reason, once it is aborted; then nothing has been taken
   */
  write(options?: WaitOptions): Promise<WriteHold> {
    return this.#take("write ReadWriteLock", ALL, options);
  }

  /** Takes it for reading if no writer holds it and nobody waits; otherwise returns undefined. */
  tryRead(): Hold | undefined {
    return this.#tryTake(1);
  }

  /** Takes it for writing if nobody holds it or waits; otherwise returns undefined. */
  tryWrite(): WriteHold | undefined {
    return this.#tryTake(ALL);
  }

  #take(action: string, amount: number, options: WaitOptions | undefined): Promise<any> {
    if (options === undefined && this.#line.isQuiet && amount <= this.#free) {
      this.#free -= amount;
      return Promise.resolve(this.#lend(amount));
    }
    return waitInLine(this.#line, action, options, amount);
  }

  #tryTake(amount: number): any {
    this.#serve();
    if (this.#line.waiting > 0 || amount > this.#free) return undefined;
    this.#free -= amount;
    return this.#lend(amount);
  }

  #serve(): void {
    for (let first; (first = this.#line.first) && first.amount <= this.#free;) {
      this.#free -= first.amount;
      this.#line.grant(first);
    }
  }

  #lend(amount: number): Hold | WriteHold {
    let held = amount;
    const keep = (kept: number) => {
      if (held <= kept) return;
      this.#free += held - kept;
      held = kept;
      this.#serve();
    };
    const release = () => keep(0);
    const hold = { release, [Symbol.dispose]: release };
    return amount === 1 ? hold : { ...hold, downgrade: () => keep(1) };
  }
}

/** How many places there are: a reader takes one, a writer all of them. */
const ALL = 2 ** 30;

function waitInLine<T>(
  line: Line<T>,
  action: string,
  options: WaitOptions | undefined,
  amount?: number,
): Promise<T> {
  return new Promise((resolve, reject) => {
    const signal = signalIn(action, options);
    if (signal?.aborted) return reject(signal.reason);
    line.enter(new Waiter(resolve, reject, signal, amount));
  });
}

function signalIn(action: string, options: WaitOptions | undefined): AbortSignal | undefined {
  requireOptions(action, options);
  requireSignal(action, options?.signal);
  return options?.signal ?? undefined;
}

function requireAmount(action: string, name: string, value: number): void {
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

// ─── Demo: `bun concepts/synchronization.ts` ─────────────────────────────────────────────────────

/** Four tasks get ready at different speeds, start together, and then read or write in turn. */
export async function demo(log: (lane: string, state: string) => void = print): Promise<void> {
  const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
  const ready = new Barrier(4);
  const lock = new ReadWriteLock();
  const task = async (lane: string, ms: number) => {
    log(lane, "running");
    await sleep(ms);
    log(lane, "waiting for the others");
    await ready.wait();
    const isWriter = lane.startsWith("writer");
    log(lane, isWriter ? "waiting to write" : "waiting to read");
    using _hold = await (isWriter ? lock.write() : lock.read());
    log(lane, isWriter ? "writing" : "reading");
    await sleep(100);
    log(lane, "done");
  };
  const lanes = ["reader 1", "reader 2", "writer", "reader 3"];
  await Promise.all(lanes.map((lane, index) => task(lane, 50 * (index + 1))));
}

let start: number | undefined;

function print(lane: string, state: string): void {
  start ??= performance.now();
  const ms = Math.round(performance.now() - start);
  console.log(`+${String(ms).padStart(4)} ms  ${lane}  ${state}`);
}

if ((import.meta as { main?: boolean }).main) void demo();
