// async-concepts 0.3.0, MIT License. A file to copy and own; please keep this line.

/**
 * # Performance
 *
 * Put a task under load, and learn how many calls a second it stands and how long they take: the
 * median, and the slow ones that users complain about.
 *
 * Reach for it to size a pool, to compare two implementations, to try a server before its users do,
 * or to hold a limit in a test.
 *
 * Without it a loop around `Date.now()` gives an average, which hides every slow call; and a stall of
 * a second counts as one slow call, though everybody who would have called in that second has waited.
 * That is *coordinated omission*. A **closed loop** (`concurrency`) has it by nature: it is right for
 * a fixed number of clients, each of which waits for its answer. An **open loop** (`rate`) starts
 * calls when they are due, as independent users do, and counts the latency from then.
 *
 * How to hold a limit in a test that doesn't fail on a busy machine:
 * - Put what can be on virtual time (`virtual-time.ts`). There throughput, percentiles and peaks are
 *   exact: this is the way to test limits, queues, retries.
 * - Never assert an absolute time. Measure a baseline in the same test, and assert the ratio.
 * - Take turns between both, several times, and take the median of the ratios: a pause hits one round.
 * - Compare medians (`p50`), not means or the slowest; leave half as much room again.
 * - Check that nothing failed: an error is often faster than an answer.
 *
 * Known elsewhere as: wrk2, k6 (its arrival-rate executors), autocannon, oha, JMH; HdrHistogram.
 *
 * @module
 */

/** What {@link measure} is to do. One of `iterations` and `duration` must be given. */
export interface MeasureOptions extends WaitOptions {
  /** How many calls may run at a time. Default: 1; with `rate`, as many as it takes. */
  concurrency?: number | undefined;
  /** How many calls to make. */
  iterations?: number | undefined;
  /** For how many milliseconds to start calls. Those that run then are waited for. */
  duration?: number | undefined;
  /** How many calls to start a second, evenly spaced. Default: each when another has ended. */
  rate?: number | undefined;
  /**
   * How much to do before, uncounted: a number of calls if `iterations` is given, otherwise
   * milliseconds. Default: 0.
   */
  warmup?: number | undefined;
  /** Called once a second with what has been measured so far, and awaited. */
  onProgress?: ((soFar: Measurement) => unknown) | undefined;
}

/** What {@link measure} has found. */
export interface Measurement {
  /** How many calls have settled. */
  readonly calls: number;
  /** How many of them have failed. */
  readonly failed: number;
  /**
   * How many have failed in which way: by the `code` of the error or of its cause, otherwise by its
   * name. After 100 kinds, all others count as `"other"`.
   */
  readonly errors: Readonly<Record<string, number>>;
  /** The first error. */
  readonly firstError: unknown;
  /** Milliseconds from the first call to the end of the last. */
  readonly elapsed: number;
  /** How many calls a second have succeeded. */
  readonly throughput: number;
  /**
   * How long the calls took that succeeded. With `rate` this counts from when a call was due,
   * otherwise from when it started.
   */
  readonly latency: Histogram;
  /** The same from when a call started: what it took once it was its turn. */
  readonly service: Histogram;
  /** How many calls are running: after an abort, how many were, and are therefore not counted. */
  readonly inFlight: number;
  /** How many ran at a time, at most. */
  readonly peakInFlight: number;
  /** Whether it was aborted before its end. */
  readonly aborted: boolean;
  /** The calls that were to start in a second, if that was given. */
  readonly rate: number | undefined;
  readonly timeline: Timeline;
}

/** What happened when: the time that {@link measure} took in up to 48 slices of equal length. */
export interface Timeline {
  /** How many milliseconds a slice takes; it doubles when there would be too many. */
  readonly width: number;
  /** For each slice, how many calls have settled in it. */
  readonly calls: readonly number[];
  /** How many of them have failed. */
  readonly failed: readonly number[];
  /** The longest latency of those that have succeeded, or 0. */
  readonly slowest: readonly number[];
}

/**
 * Calls `task` again and again, and measures.
 *
 * Without `rate` it is a closed loop: `concurrency` callers, each of which calls again as soon as its
 * call has settled. With `rate` it is an open loop: call n is due n / rate seconds after the first,
 * and starts then, or as soon as fewer than `concurrency` are running. However late it starts, its
 * latency counts from when it was due. No call is left out: with a `duration`, all that are due in it
 * are made, even if that takes longer.
 *
 * A call that fails is counted by the kind of its error, and nothing else: `throughput`, `latency` and
 * `service` are of those that succeed. The task may be synchronous. Holds that it returns (permits,
 * leases) are released. All calls share a signal. After an abort it resolves to what had been
 * measured by then, as soon as all calls have settled; those that were running are not counted.
 * Limitation: it waits for a call that never settles, so give the task a time limit if it may hang.
 *
 * What happens between two calls takes a fraction of a microsecond, which counts for `throughput`,
 * but not as latency. With `rate` it polls for the last two milliseconds before each start, because
 * timers are late: that keeps a core busy from 500 a second.
 *
 * Source of the idea: Gil Tene's wrk2, which measures from when a request was due.
 *
 * @throws {TypeError} an argument is of the wrong kind, or neither `iterations` nor `duration` is given
 * @throws {RangeError} a number is out of range, or endlessly many calls would start at once
 * @throws the signal's reason, if it is aborted before anything is called
 * @throws what `onProgress` throws; the calls are aborted and waited for
 *
 * @example On virtual time, where all numbers are exact
 * ```ts
 * import { measure, report } from "./performance.ts";
 * import { virtualTime } from "./virtual-time.ts";
 *
 * await virtualTime(async () => {
 *   const task = () => new Promise((resolve) => setTimeout(resolve, 50));
 *   const result = await measure(task, { rate: 100, concurrency: 4, duration: 1000 });
 *
 *   console.assert(result.throughput < 80); // 100 are due, but only 80 can be done
 *   console.assert(result.service.p99 === 50 && result.latency.p99 > 200); // so they queue
 *   console.assert(report(result).includes("p99.9"));
 * });
 * ```
 */
export async function measure(task: Task<unknown>, options: MeasureOptions): Promise<Measurement> {
  const settings = requireSettings(task, options);
  settings.signal?.throwIfAborted();
  return new Run(task, settings).finish();
}

/**
 * Draws a {@link Measurement} as text: the numbers, the distribution of the latencies, and what
 * happened over time.
 *
 * @throws {TypeError} `result` is not a Measurement
 *
 * @example
 * ```ts
 * import { measure, report } from "./performance.ts";
 *
 * const text = report(await measure(async () => {}, { iterations: 100 }));
 * console.assert(text.startsWith("100 calls in "));
 * ```
 */
export function report(result: Measurement): string {
  const { calls, failed, latency, service, rate } = result ?? {};
  if (!(Object(latency) === latency && Object(result.timeline) === result.timeline)) {
    throw invalid("report", "result", "a Measurement", result, TypeError);
  }
  const { elapsed, throughput, inFlight, peakInFlight, aborted } = result;
  const target = rate === undefined ? "" : ` of ${formatCount(rate)}`;
  const lines = [
    `${formatCount(calls)} calls in ${formatMs(elapsed)}: ${formatCount(throughput)}${target} a second, ` +
      `up to ${formatCount(peakInFlight)} at a time`,
  ];
  if (aborted) lines.push(`aborted, ${formatCount(inFlight)} calls were running`);
  if (failed > 0) {
    lines.push(`${formatCount(failed)} failed (${((100 * failed) / calls).toPrecision(3)} %)`);
    for (const [kind, count] of Object.entries(result.errors)) {
      lines.push(`  ${kind} × ${formatCount(count)}`);
    }
  }
  lines.push("", drawRow(""), drawRow(rate === undefined ? "latency" : "from due", latency));
  if (rate !== undefined) lines.push(drawRow("from start", service));
  if (latency.count > 0) lines.push("", ...drawHistogram(latency), "", ...drawTimeline(result));
  return lines.join("\n");
}

/**
 * Counts latencies, in bounded memory: some 8 kB per power of 2 between the fastest and the slowest.
 *
 * A latency is rounded to 11 significant binary digits. So percentiles are wrong by at most 0.05 %, and
 * exact for whole milliseconds up to 2048. `count`, `mean`, `min` and `max` are exact. Without any
 * latency all but `count` are NaN, with which no comparison holds.
 *
 * Source of the idea: Gil Tene's HdrHistogram.
 *
 * @example
 * ```ts
 * import { Histogram } from "./performance.ts";
 *
 * const histogram = new Histogram();
 * for (let ms = 1; ms <= 1000; ms++) histogram.record(ms);
 * console.assert(histogram.p50 === 500);
 * console.assert(histogram.percentile(99.9) === 999);
 * console.assert(histogram.within(100) === 100);
 * ```
 */
export class Histogram {
  static {
    showMembers(this, "count", "min", "mean", "p50", "p90", "p99", "p999", "max");
  }

  #count = 0;
  #sum = 0;
  #min = Infinity;
  #max = 0;
  /** How many have which key, for each power of 2 in an array of its own, which ends with their sum. */
  readonly #octaves: Float64Array[] = [];

  /** How many have been recorded. */
  get count(): number {
    return this.#count;
  }

  get min(): number {
    return this.#count === 0 ? NaN : this.#min;
  }

  get max(): number {
    return this.#count === 0 ? NaN : this.#max;
  }

  get mean(): number {
    return this.#sum / this.#count;
  }

  get p50(): number {
    return this.percentile(50);
  }

  get p90(): number {
    return this.percentile(90);
  }

  get p99(): number {
    return this.percentile(99);
  }

  get p999(): number {
    return this.percentile(99.9);
  }

  /**
   * Adds a latency, in milliseconds.
   *
   * @throws {TypeError} `ms` is not a number
   * @throws {RangeError} `ms` is negative or NaN
   */
  record(ms: number): void {
    requireDuration("record in Histogram", "ms", ms);
    this.#count++;
    this.#sum += ms;
    this.#min = Math.min(this.#min, ms);
    this.#max = Math.max(this.#max, ms);
    const key = keyOf(ms);
    const counts = (this.#octaves[Math.floor(key / OCTAVE)] ??= new Float64Array(OCTAVE + 1));
    counts[key % OCTAVE]!++;
    counts[OCTAVE]!++;
  }

  /**
   * The smallest latency that at least `percent` percent of all latencies don't exceed.
   *
   * @throws {TypeError} `percent` is not a number
   * @throws {RangeError} `percent` is not between 0 and 100
   */
  percentile(percent: number): number {
    if (!(typeof percent === "number" && percent >= 0 && percent <= 100)) {
      throw invalid("get percentile", "percent", "a number from 0 to 100", percent);
    }
    // 99.9 % of 1,000 must be 999, whatever the product is rounded to.
    let left = Math.max(1, Math.ceil((percent / 100) * this.#count * (1 - 1e-14)));
    const octave = this.#octaves.findIndex((counts) => {
      if (counts && counts[OCTAVE]! >= left) return true;
      left -= counts?.[OCTAVE] ?? 0;
      return false;
    });
    if (octave < 0) return NaN;
    let index = 0;
    while ((left -= this.#octaves[octave]![index]!) > 0) index++;
    return Math.min(Math.max(valueOf(octave * OCTAVE + index), this.#min), this.#max);
  }

  /** How many latencies were at most `ms` milliseconds, within the same error. */
  within(ms: number): number {
    if (!(ms >= this.#min)) return 0;
    const last = keyOf(ms);
    let total = 0;
    this.#octaves.forEach((counts, octave) => {
      const size = last + 1 - octave * OCTAVE;
      if (size >= OCTAVE) total += counts[OCTAVE]!;
      else for (let index = 0; index < size; index++) total += counts[index]!;
    });
    return total;
  }

  /** What `JSON.stringify` writes. */
  toJSON(): Record<string, number> {
    const { count, min, mean, p50, p90, p99, p999, max } = this;
    return { count, min, mean, p50, p90, p99, p999, max };
  }
}

/** Binary digits of a latency that are kept, besides the first, and how many keys that makes. */
const DIGITS = 10;
const OCTAVE = 1 << DIGITS;

/** The key of 2^-20 ms, which is about a nanosecond. What is less counts as 0. */
const FIRST_KEY = (1023 - 20) << DIGITS;

const bits = new DataView(new ArrayBuffer(8));

/** A number's exponent and first digits, rounded, as they stand in its upper 32 bits. */
function keyOf(ms: number): number {
  bits.setFloat64(0, ms);
  return Math.max(0, ((bits.getInt32(0) + (1 << (19 - DIGITS))) >> (20 - DIGITS)) - FIRST_KEY);
}

function valueOf(key: number): number {
  if (key === 0) return 0;
  bits.setFloat64(0, 0);
  bits.setInt32(0, (key + FIRST_KEY) << (20 - DIGITS));
  return bits.getFloat64(0);
}

interface Settings extends MeasureOptions {
  concurrency: number;
  iterations: number;
  duration: number;
  warmup: number;
}

function requireSettings(task: unknown, options: MeasureOptions | undefined): Settings {
  requireFunction(MEASURE, "task", task);
  requireOptions(MEASURE, options);
  const { rate, warmup = 0, onProgress, signal } = options ?? {};
  const { concurrency = rate === undefined ? 1 : Infinity } = options ?? {};
  const { iterations = Infinity, duration = Infinity } = options ?? {};
  if (options?.iterations === undefined && options?.duration === undefined) {
    throw new TypeError(`Cannot ${MEASURE}: iterations or duration must be given`);
  }
  requireCount(MEASURE, "concurrency", concurrency);
  if (iterations !== 0) requireCount(MEASURE, "iterations", iterations);
  requireDuration(MEASURE, "duration", duration);
  if (rate !== undefined && !(typeof rate === "number" && rate > 0 && rate < Infinity)) {
    throw invalid(MEASURE, "rate", "a positive finite number", rate);
  }
  requireDuration(MEASURE, "warmup", warmup);
  if (warmup === Infinity || (iterations < Infinity && !Number.isSafeInteger(warmup))) {
    const kind = iterations < Infinity ? "integer" : "number";
    throw invalid(MEASURE, "warmup", `a finite ${kind} of 0 or more`, warmup);
  }
  if (rate === undefined && concurrency === Infinity && iterations === Infinity) {
    throw invalid(MEASURE, "concurrency", "finite without rate or iterations", concurrency);
  }
  if (onProgress !== undefined) requireFunction(MEASURE, "onProgress", onProgress);
  requireSignal(MEASURE, signal);
  return { concurrency, iterations, duration, rate, warmup, onProgress, signal };
}

const MEASURE = "measure";

/** A measurement under way. */
class Run {
  readonly #task: Task<unknown>;
  readonly #settings: Settings;
  readonly #controller = new AbortController();
  /** When the first call was made that counts; Infinity during the warm-up. */
  #start = Infinity;
  #calls = 0;
  #failed = 0;
  readonly #errors = new Map<string, number>();
  #firstError: unknown;
  readonly #service = new Histogram();
  readonly #latency: Histogram;
  readonly #timeline = new TimelineRecorder();
  #inFlight = 0;
  #peakInFlight = 0;
  #isAborted = false;
  /** What came of it, once no more calls are made. */
  #result: Measurement | undefined;
  /** Waits for timers and turns of the event loop. Each function here ends one. */
  readonly #waits = new Set<() => void>();
  /** A wait until fewer than `below` calls are running. */
  #wait: { below: number; resolve: () => void } | undefined;
  /** What the clock said after the last turn of the event loop that this has taken. */
  #lastTurn = performance.now();
  /** What it said last, and how often. */
  #lastNow = 0;
  #sameNow = 0;

  constructor(task: Task<unknown>, settings: Settings) {
    this.#task = task;
    this.#settings = settings;
    this.#latency = settings.rate === undefined ? this.#service : new Histogram();
  }

  async finish(): Promise<Measurement> {
    const { iterations, duration, warmup, signal } = this.#settings;
    const stopListening = onAbort(signal ?? undefined, (reason) => {
      if (this.#result) return;
      this.#isAborted = true;
      this.#stop();
      this.#controller.abort(reason);
    });
    if (iterations < Infinity) await this.#makeCalls(warmup, Infinity);
    else await this.#makeCalls(Infinity, warmup);
    let failure: { error: unknown } | undefined;
    const told = this.#tellProgress().catch((error: unknown) => {
      failure = { error };
      this.#stop();
      this.#controller.abort(error);
    });
    if (!this.#result) this.#start = performance.now();
    this.#peakInFlight = 0;
    await this.#makeCalls(iterations, duration);
    this.#stop();
    stopListening();
    await told;
    if (failure) throw failure.error;
    return this.#result!;
  }

  /** Makes calls, and returns when all have settled. */
  async #makeCalls(iterations: number, duration: number): Promise<void> {
    const { concurrency, rate } = this.#settings;
    const start = performance.now();
    if (rate === undefined) {
      let left = iterations;
      const isNext = () => {
        if (this.#result || left === 0) return false;
        if (duration < Infinity && performance.now() - start >= duration) return false;
        left--;
        return true;
      };
      const callers: Promise<void>[] = [];
      while (callers.length < concurrency && isNext()) callers.push(this.#call(undefined, isNext));
      await Promise.all(callers);
      return;
    }
    for (let n = 0; ; n++) {
      // The last one that is due is followed by an interval, too, as every other.
      const offset = Math.min((n * 1000) / rate, duration);
      await this.#waitUntil(start + offset);
      if (this.#inFlight >= concurrency) await this.#waitForFewer(concurrency);
      if (this.#result || n === iterations || offset === duration) break;
      void this.#call(start + offset);
    }
    if (this.#inFlight > 0) await this.#waitForFewer(1);
  }

  /** Calls the task, and again as long as `isNext` says so. */
  async #call(due: number | undefined, isNext?: () => boolean): Promise<void> {
    const task = this.#task;
    do {
      this.#peakInFlight = Math.max(this.#peakInFlight, ++this.#inFlight);
      const start = performance.now();
      let outcome: unknown;
      let hasFailed = false;
      try {
        outcome = task(this.#controller.signal);
        // Synchronous tasks aren't charged with a microtask.
        if (typeof (outcome as PromiseLike<unknown> | null | undefined)?.then === "function") {
          outcome = await outcome;
        }
      } catch (error) {
        hasFailed = true;
        outcome = error;
      }
      const end = performance.now();
      this.#inFlight--;
      if (!this.#result && this.#start < Infinity) {
        if (hasFailed) this.#countFailure(end, outcome);
        else this.#countSuccess(due ?? start, start, end);
      }
      if (outcome && !hasFailed) releaseHold(outcome);
      if (this.#wait && this.#inFlight < this.#wait.below) this.#wait.resolve();
      const turn = isNext && this.#takeTurn(end);
      if (turn) await turn;
    } while (isNext?.());
  }

  #countSuccess(due: number, start: number, end: number): void {
    const latency = Math.max(0, end - due);
    this.#calls++;
    this.#latency.record(latency);
    if (this.#latency !== this.#service) this.#service.record(Math.max(0, end - start));
    this.#timeline.record(end - this.#start, 0, latency);
  }

  #countFailure(end: number, error: unknown): void {
    if (this.#failed++ === 0) this.#firstError = error;
    this.#calls++;
    const errors = this.#errors;
    let kind = kindOf(error);
    if (!errors.has(kind) && errors.size >= MAX_KINDS) kind = "other";
    errors.set(kind, (errors.get(kind) ?? 0) + 1);
    this.#timeline.record(end - this.#start, 1, 0);
  }

  /** Makes no more calls, and ends all waits. What is counted by now is the result. */
  #stop(): void {
    this.#result ??= this.#measured();
    for (const end of this.#waits) end();
  }

  #measured(): Measurement {
    const succeeded = this.#calls - this.#failed;
    const elapsed = Math.max(0, performance.now() - this.#start);
    return {
      calls: this.#calls,
      failed: this.#failed,
      errors: Object.fromEntries(this.#errors),
      firstError: this.#firstError,
      elapsed,
      throughput: succeeded === 0 ? 0 : (1000 * succeeded) / elapsed,
      latency: this.#latency,
      service: this.#service,
      inFlight: this.#inFlight,
      peakInFlight: this.#peakInFlight,
      aborted: this.#isAborted,
      rate: this.#settings.rate,
      timeline: this.#timeline.until(elapsed),
    };
  }

  async #tellProgress(): Promise<void> {
    const { onProgress } = this.#settings;
    while (onProgress && !this.#result) {
      await this.#waitFor(1000);
      if (!this.#result) await onProgress(this.#measured());
    }
  }

  /** Timers are late, so it polls in the end: one turn of the event loop after the other. */
  async #waitUntil(due: number): Promise<void> {
    let before = NaN;
    while (!this.#result) {
      const now = performance.now();
      const left = due - now;
      if (left <= 0) return this.#takeTurn(now);
      // A clock that stands still, as virtual time does, moves with timers only.
      if (now === before) await this.#waitFor(left);
      else await this.#waitFor(Math.floor(left) - 1);
      before = now;
    }
  }

  /** Now and then, so that timers and an abort are heard though the tasks never wait. */
  #takeTurn(now: number): Promise<void> | undefined {
    if (now !== this.#lastNow) {
      this.#lastNow = now;
      this.#sameNow = 0;
    } else if (++this.#sameNow === MAX_SAME_NOW) return this.#waitFor(1);
    return now - this.#lastTurn < 10 ? undefined : this.#waitFor(0);
  }

  /** Waits for a timer or, if there is no delay, for the next turn of the event loop. */
  #waitFor(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const end = () => {
        stop();
        this.#waits.delete(end);
        this.#lastTurn = performance.now();
        resolve();
      };
      const stop = ms > 0 ? startTimer(ms, end) : onNextTurn(end);
      this.#waits.add(end);
    });
  }

  #waitForFewer(below: number): Promise<void> {
    return new Promise((resolve) => void (this.#wait = { below, resolve }));
  }
}

const MAX_KINDS = 100;

/** How many calls may end before the clock must move. */
const MAX_SAME_NOW = 10_000;

function kindOf(error: unknown): string {
  try {
    const { code, name, cause } = Object(error);
    // Node's fetch says why it failed in its cause. The codes of DOMExceptions are numbers.
    const kinds = [code, Object(cause).code, name, describe(error)];
    return kinds.find((kind) => typeof kind === "string" && kind !== "").slice(0, 100);
  } catch {
    return describe(error);
  }
}

/** Keeps a {@link Timeline}. */
class TimelineRecorder {
  #width = 1;
  #slices: { calls: number; failed: number; slowest: number }[] = [];

  record(ms: number, failed: number, latency: number): void {
    const slice = this.#sliceAt(ms);
    slice.calls++;
    slice.failed += failed;
    slice.slowest = Math.max(slice.slowest, latency);
  }

  /** A copy of it, up to now. */
  until(elapsed: number): Timeline {
    if (elapsed > 0) this.#sliceAt(elapsed);
    const all = (key: "calls" | "failed" | "slowest") => this.#slices.map((slice) => slice[key]);
    return {
      width: this.#width,
      calls: all("calls"),
      failed: all("failed"),
      slowest: all("slowest"),
    };
  }

  /** The slice in which a time lies: it contains its end, but not its beginning. */
  #sliceAt(ms: number) {
    let index = Math.max(0, Math.ceil(ms / this.#width) - 1);
    for (; index >= MAX_SLICES; index >>= 1) {
      this.#width *= 2;
      for (let n = 0; n < this.#slices.length; n++) {
        const [slice, next] = this.#slices.splice(n, 2, this.#slices[n]!);
        if (!next) continue;
        slice!.calls += next.calls;
        slice!.failed += next.failed;
        slice!.slowest = Math.max(slice!.slowest, next.slowest);
      }
    }
    while (this.#slices.length <= index) this.#slices.push({ calls: 0, failed: 0, slowest: 0 });
    return this.#slices[index]!;
  }
}

const MAX_SLICES = 48;

const COLUMNS = ["min", "p50", "p90", "p99", "p999", "max", "mean"] as const;

/** The numbers in columns; their names, if there is no histogram. */
function drawRow(label: string, latency?: Histogram): string {
  const cells = COLUMNS.map((name) =>
    latency ? formatMs(latency[name]) : name.replace("p999", "p99.9"),
  );
  return label.padEnd(10) + cells.map((cell) => cell.padStart(9)).join("");
}

/** Rows of equal ratio, as latencies are spread: the tail has room, and the bulk keeps its shape. */
function drawHistogram(latency: Histogram): string[] {
  const { min, max } = latency;
  const first = Math.max(min, max / 10_000);
  const edges = Array.from({ length: 9 }, (_, n) => first * (max / first) ** ((n + 1) / 10));
  if (min === max) edges.length = 0;
  const counts = [...edges, max].map((edge) => latency.within(edge));
  const rows = counts.map((count, n) => count - (counts[n - 1] ?? 0));
  const most = Math.max(...rows);
  return rows.map((count, n) => {
    const bar = "█".repeat(Math.ceil((40 * count) / most)).padEnd(41);
    return `${`≤ ${formatMs(edges[n] ?? max)}`.padStart(10)}  ${bar}${formatCount(count)}`;
  });
}

function drawTimeline({ timeline, elapsed }: Measurement): string[] {
  const { width, calls, failed, slowest } = timeline;
  const succeeded = calls.map((count, slice) => count - failed[slice]!);
  return [
    `a second  ${drawLine(succeeded)}  up to ${formatCount((1000 * Math.max(...succeeded)) / width)}`,
    `slowest   ${drawLine(slowest)}  up to ${formatMs(Math.max(...slowest))}`,
    `          ${"0".padEnd(calls.length)}  ${formatMs(elapsed)}`,
  ];
}

function drawLine(values: readonly number[]): string {
  const most = Math.max(...values);
  return values.map((value) => " ▁▂▃▄▅▆▇█"[Math.ceil((8 * value) / most) || 0]).join("");
}

function formatMs(ms: number): string {
  if (Number.isNaN(ms)) return "–";
  const [unit, size] = UNITS.find(([, size]) => ms >= size) ?? ["ms", Infinity];
  const count = ms / size;
  return `${count > 0 && count < 999.5 ? count.toPrecision(3) : formatCount(count)} ${unit}`;
}

const UNITS = [
  ["s", 1000],
  ["ms", 1],
  ["µs", 1e-3],
  ["ns", 1e-6],
] as const;

/** As `toLocaleString("en-US")`, but that takes a millisecond in Bun. */
function formatCount(count: number): string {
  const text = count < 100 ? String(Math.round(10 * count) / 10) : count.toFixed(0);
  return text.replace(/\B(?=(\d{3})+$)/g, ",");
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

/** Calls back in the event loop's next turn. Returns what cancels it, unless it is a message. */
function onNextTurn(callback: () => void): () => void {
  const { setImmediate, clearImmediate } = globalThis as {
    setImmediate?: (callback: () => void) => unknown;
    clearImmediate?: (immediate: unknown) => void;
  };
  if (setImmediate) {
    const immediate = setImmediate(callback);
    return () => clearImmediate!(immediate);
  }
  const { port1, port2 } = new MessageChannel();
  port1.onmessage = () => {
    port1.close();
    callback();
  };
  port2.postMessage(undefined);
  return doNothing;
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

// ─── Demo: `bun concepts/performance.ts` ─────────────────────────────────────────────────────────

/**
 * A server answers in 10 ms, but stalls for 250 ms. The closed loop sees one slow call; the open one
 * counts everybody who had to wait.
 */
export async function demo(log: (lane: string, state: string) => void = print): Promise<void> {
  const load = async (lane: string, rate?: number) => {
    const start = performance.now();
    const serve = () => {
      const now = performance.now() - start;
      const ms = now >= 200 && now < 450 ? 460 - now : 10;
      return new Promise((resolve) => setTimeout(resolve, ms));
    };
    log(lane, "running");
    const result = await measure(serve, { concurrency: 1, duration: 700, rate });
    log(lane, `done: 9 of 10 within ${Math.round(result.latency.p90)} ms`);
    return result;
  };
  await load("closed loop");
  const lines = report(await load("open loop", 50)).split("\n");
  for (const line of lines) if (line) log("report", line);
}

let start: number | undefined;

function print(lane: string, state: string): void {
  start ??= performance.now();
  const ms = Math.round(performance.now() - start);
  console.log(`+${String(ms).padStart(4)} ms  ${lane}  ${state}`);
}

if ((import.meta as { main?: boolean }).main) void demo();
