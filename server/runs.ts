/**
 * Runs that several may follow: who comes with the same key joins the run that is under way, and
 * gets all of it. A run goes on as long as one of them stays, and no faster than the quickest of
 * them reads.
 */
import { abortable } from "../concepts/async-basics.ts";
import { singleFlight } from "../concepts/concurrency.ts";
import { Problem } from "./problems.ts";

/** Begins a run: what it yields are its events. */
export type Begin<T> = (signal: AbortSignal) => AsyncIterable<T>;

interface Run<T> {
  /** What it does, to tell it from another run with the same key. */
  readonly hash: string;
  readonly log: Log<T>;
  readonly begin: Begin<T>;
  readonly forget: () => void;
}

/** The runs that are under way. */
export class Runs<T> {
  readonly #byKey = new Map<string, Run<T>>();
  /** Its signal is aborted when all who follow a run have left. */
  readonly #work = singleFlight(async ({ log, begin, forget }: Run<T>, signal: AbortSignal) => {
    // At once, so that nobody joins what is being aborted.
    signal.addEventListener("abort", forget);
    try {
      await log.fill(begin(signal), signal);
    } finally {
      forget();
    }
  });

  /**
   * Follows the run with this key, or a new one, from its beginning.
   *
   * @param key nobody joins a run without one
   * @param prepare is called if the run is a new one; what it returns begins it, in the same turn
   * @returns the events, and what ends following them at once
   * @throws {Problem} 422: what the run with this key does has another hash
   * @throws what `prepare` throws
   */
  follow(
    key: string | undefined,
    hash: string,
    prepare: () => Begin<T>,
    signal: AbortSignal,
  ): { events: AsyncGenerator<T>; leave: () => void } {
    signal.throwIfAborted();
    const run = this.#find(key, hash) ?? this.#add(key, hash, prepare());
    const controller = new AbortController();
    const leave = () => controller.abort();
    const own = AbortSignal.any([signal, controller.signal]);
    const end = this.#work(run, { signal: own });
    end.catch(() => {});
    const follow = async function* () {
      try {
        yield* run.log.read(own);
        await end;
      } finally {
        leave();
      }
    };
    return { events: follow(), leave };
  }

  #find(key: string | undefined, hash: string): Run<T> | undefined {
    const known = key === undefined ? undefined : this.#byKey.get(key);
    if (!known || known.hash === hash) return known;
    throw new Problem(422, "Another batch with the same Idempotency-Key is running.");
  }

  #add(key: string | undefined, hash: string, begin: Begin<T>): Run<T> {
    if (key === undefined) return { hash, begin, log: new Log(false), forget: () => {} };
    const forget = () => {
      if (this.#byKey.get(key) === run) this.#byKey.delete(key);
    };
    const run: Run<T> = { hash, begin, log: new Log(true), forget };
    this.#byKey.set(key, run);
    return run;
  }
}

/** The events of a run so far. Each reader begins with the first one, and goes at its own pace. */
class Log<T> {
  readonly #items: (T | undefined)[] = [];
  readonly #isKept: boolean;
  #isOver = false;
  #news = Promise.withResolvers<void>();
  #demand = Promise.withResolvers<void>();

  /** @param isKept whether there may be a second reader */
  constructor(isKept: boolean) {
    this.#isKept = isKept;
  }

  /** Adds what comes of the source, until it ends. */
  async fill(source: AsyncIterable<T>, signal: AbortSignal): Promise<void> {
    try {
      for await (const item of source) {
        this.#items.push(item);
        this.#tell();
        await abortable(this.#demand.promise, signal);
        this.#demand = Promise.withResolvers();
      }
    } finally {
      this.#isOver = true;
      this.#tell();
    }
  }

  #tell(): void {
    this.#news.resolve();
    this.#news = Promise.withResolvers();
  }

  /** What there is, and then what comes. Who has read all there is makes the run go on. */
  async *read(signal: AbortSignal): AsyncGenerator<T, void, undefined> {
    for (let n = 0; ; n++) {
      while (n === this.#items.length) {
        if (this.#isOver) return;
        if (n > 0) this.#demand.resolve();
        await abortable(this.#news.promise, signal);
      }
      const item = this.#items[n] as T;
      if (!this.#isKept) this.#items[n] = undefined;
      yield item;
    }
  }
}
