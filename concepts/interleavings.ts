// async-concepts 0.3.0, MIT License. A file to copy and own; please keep this line.

/**
 * # Interleavings
 *
 * Run a scenario under every order in which what it waits for can come to pass, and get the failing
 * order with the fewest switches: drawn, and with a schedule that replays it.
 *
 * Reach for it when several tasks share something: a cache, a balance, a lock, a connection. State
 * what must hold after any order, and let the exploration look for the order in which it doesn't.
 *
 * Without it such a test sees one order, the one in which everything is as fast as the mocks are. It
 * stays green until the day when a reply is late. Random delays find some orders and can't say which
 * they have missed; an order that they have found is gone in the next run.
 *
 * Only waits are reordered: code between two of them runs as it is written. A wait takes part if it
 * is a `step`, a call of a function wrapped by `steps`, the start of a spawned task, an `abort`, or a
 * timer. Between two choices everything runs that can run, for one turn of the event loop.
 *
 * Known elsewhere as: CHESS and Coyote in .NET, loom and shuttle in Rust, JCStress and Lincheck on
 * the JVM, `fc.scheduler` of fast-check (which samples).
 *
 * @module
 */

/** What {@link interleavings} can be told. */
export interface InterleavingsOptions extends WaitOptions {
  /** Replays the one run that an {@link InterleavingError} has named. */
  schedule?: string | undefined;
  /** After how many runs the search goes on at random, for a tenth as many. Default: 100,000. */
  maxRuns?: number | undefined;
  /** After how many real milliseconds it does, for a tenth of the time. Default: 3000. */
  maxMs?: number | undefined;
  /** Whether a timer may fire after others that are due later. Default: false. */
  late?: boolean | undefined;
  /** Where the random runs begin; the same seed gives the same runs. Default: a random one. */
  seed?: number | undefined;
  /** Told after every thousand runs how far the search is. */
  onProgress?: ((progress: InterleavingsProgress) => void) | undefined;
  /**
   * Told of every order once it has been run. If it returns `true`, the search goes on although that
   * order fails: to count those that do, or to look behind a bug that is known. An order may come
   * again: at random, or when the search goes back for fewer switches.
   */
  onOrder?: ((order: InterleavingsOrder) => boolean | void) | undefined;
}

/** An order that has been run. */
export interface InterleavingsOrder {
  /** Replays it: `interleavings(scenario, { schedule })`. */
  readonly schedule: string;
  /** As in {@link InterleavingError}. */
  readonly switches: number;
  /** What was chosen and which tasks have ended, one after the other. */
  readonly events: readonly InterleavingsEvent[];
  /** Why it fails, if it does. */
  readonly error?: InterleavingError;
}

/** What has happened in an order. */
export interface InterleavingsEvent {
  /** In the turn of which choice, counted from 1. */
  readonly choice: number;
  /** The name of the task, or `"scenario"`. */
  readonly lane: string;
  /** What was chosen, `"done"` or `"failed"`. */
  readonly state: string;
}

/** How far a search is. */
export interface InterleavingsProgress {
  readonly runs: number;
  /** The switches of the orders that are tried now. All with fewer have been tried. */
  readonly switches: number;
  /** How many beginnings of orders are known that wait to be tried. */
  readonly waiting: number;
}

/** What {@link interleavings} has tried. */
export interface InterleavingsResult {
  /** How many orders were run to their end. */
  readonly runs: number;
  /** How many were left on the way, because others stand for them. */
  readonly cut: number;
  /**
   * How many orders these stand for: more than `runs` if steps say what they touch. A run of more
   * than 30 choices counts as one.
   */
  readonly orders: number;
  /** Whether these are all orders that there are. If not, `maxRuns` or `maxMs` came before. */
  readonly exhaustive: boolean;
  /** The seed of the random runs, if there were any. */
  readonly seed?: number;
}

/** What a {@link World.step} can be told. */
export interface StepOptions extends WaitOptions {
  /**
   * What is touched from the step on until everything waits again, tasks that it wakes included.
   * Steps that touch nothing in common aren't tried in both orders. Default: everything.
   */
  on?: string | readonly string[] | undefined;
  /** An error with which the step may fail: both are tried. `true` stands for some error. */
  fails?: unknown;
}

/** What {@link World.steps} can be told. */
export interface StepsOptions<A extends readonly unknown[]> {
  /**
   * When the function runs: as soon as it is called, and its reply is held (`"reply"`, the default);
   * when the call has arrived (`"call"`); or the one after the other, so that both can be overtaken.
   */
  at?: "reply" | "call" | "both" | undefined;
  /** As in {@link StepOptions}; a function is given the arguments. */
  on?: string | readonly string[] | ((...args: A) => string | readonly string[]) | undefined;
  /** As in {@link StepOptions}. */
  fails?: unknown;
}

/** Where a scenario takes place: its methods make what is reordered. */
export interface World {
  /** Waits for its turn. An aborted `signal` ends the wait. */
  step(label: string, options?: StepOptions): Promise<void>;
  /**
   * Wraps a function, so that each call is a step. A signal in the last argument (`{ signal }`) ends
   * the wait. The label is the name with the arguments.
   */
  steps<A extends unknown[], R>(
    fn: (...args: A) => R,
    name?: string,
    options?: StepsOptions<A>,
  ): (...args: A) => Promise<Awaited<R>>;
  /**
   * Starts a task, in its turn, in a lane of its own. A failure that nobody asks for is unhandled.
   * What the task makes of the world that it is given is its own, in browsers as well.
   */
  spawn<T>(
    name: string,
    task: (world: World) => T | PromiseLike<T>,
    options?: SpawnOptions,
  ): Promise<T>;
  /** Aborts the controller at any moment, or never, unless `surely`. */
  abort(controller: AbortController, options?: AbortOptions): void;
}

/** What {@link World.spawn} can be told. */
export interface SpawnOptions {
  /** What the task touches until its first wait: see {@link StepOptions.on}. */
  on?: string | readonly string[] | undefined;
}

/** What {@link World.abort} can be told. */
export interface AbortOptions {
  /** The signal's reason. Default: an `AbortError`. */
  reason?: unknown;
  /** Whether the abort must come, sooner or later. Default: false. */
  surely?: boolean | undefined;
  /** What it is called where an order is drawn. Default: `"abort"`. */
  label?: string | undefined;
}

/** What went wrong in a run. */
export type InterleavingErrorKind =
  | "failure" // the scenario rejected, or a timer's callback threw: see `cause`
  | "unhandled" // a promise was rejected, and nobody asked
  | "deadlock" // it waits, and nothing is left that could wake it
  | "leak" // it has ended, and something of it still waits
  | "endless" // it made 1,000 choices
  | "nondeterministic"; // it went another way when it was run again

/** The order in which a scenario fails. */
export class InterleavingError extends Error {
  override readonly name = "InterleavingError";
  readonly kind: InterleavingErrorKind;
  /** Replays this order: `interleavings(scenario, { schedule })`. */
  readonly schedule: string;
  /**
   * How often another task went on although the last could, a later call overtook an earlier one,
   * a step failed, or an abort fell into the turn of another step.
   */
  readonly switches: number;

  constructor(message: string, fields: Omit<InterleavingError, "name" | "message" | "stack">) {
    super(message, "cause" in fields ? { cause: fields.cause } : undefined);
    this.kind = fields.kind;
    this.schedule = fields.schedule;
    this.switches = fields.switches;
  }
}

/**
 * Runs `scenario` once for every order in which what it waits for can come to pass, those with few
 * switches first, and rejects with the first that fails.
 *
 * A scenario is run thousands of times. It makes everything anew in each, depends on nothing but the
 * order (no random numbers, no I/O), and leaves nothing waiting: all that it has started must have
 * ended when it returns. It fails by rejecting, which an assertion does.
 *
 * Choices are made between spawned tasks that haven't begun, steps, aborts, and timers. Time is
 * virtual: a timer fires when it is due first, at any moment before or after other steps. An abort
 * comes alone, or in the turn of another choice: right before it, or up to three microtasks later.
 *
 * While it runs, the global timers, `Date`, `performance.now` and `AbortSignal.timeout` are replaced.
 * Tasks are told apart by the async context (on Bun, Node and Deno). Browsers have none: there it is
 * the task that was chosen last, unless a task uses the world that "spawn" gives it.
 * bun:test ends a test at an unhandled rejection before it can be named here.
 *
 * Source of the idea: iterative context bounding, as in Microsoft's CHESS; sleep sets.
 *
 * @throws {InterleavingError} an order fails, deadlocks, leaks, or can't be repeated
 * @throws {TypeError} an argument is of the wrong kind
 * @throws {RangeError} a number is out of range
 * @throws {Error} it runs already, virtual time does, or fake timers are active
 * @throws the signal's reason, once it is aborted
 *
 * @example A lost update
 * ```ts
 * import { InterleavingError, interleavings } from "./interleavings.ts";
 *
 * const error = await interleavings(async (world) => {
 *   let balance = 0;
 *   const deposit = async () => {
 *     const before = balance;
 *     await world.step("write");
 *     balance = before + 1;
 *   };
 *   await Promise.all([world.spawn("ann", deposit), world.spawn("bob", deposit)]);
 *   if (balance !== 2) throw new Error(`balance is ${balance}`);
 * }).catch((error) => error);
 *
 * console.assert(error instanceof InterleavingError);
 * console.assert(error.switches === 1);
 * console.assert(error.message.includes("→ 2  starts          bob: write"));
 * ```
 */
export async function interleavings(
  scenario: (world: World) => unknown,
  options: InterleavingsOptions = {},
): Promise<InterleavingsResult> {
  requireFunction(EXPLORE, "scenario", scenario);
  requireOptions(EXPLORE, options);
  const { maxRuns = 100_000, maxMs = 3000, late = false, onProgress, onOrder, signal } = options;
  const { seed = Math.floor(Math.random() * 2 ** 32) } = options;
  const path = options.schedule === undefined ? undefined : parse(options.schedule);
  requirePositiveInteger(EXPLORE, "maxRuns", maxRuns);
  requireDuration(EXPLORE, "maxMs", maxMs);
  requireCount(EXPLORE, "seed", seed);
  if (typeof late !== "boolean") throw invalid(EXPLORE, "late", "a boolean", late, TypeError);
  if (onProgress !== undefined) requireFunction(EXPLORE, "onProgress", onProgress);
  if (onOrder !== undefined) requireFunction(EXPLORE, "onOrder", onOrder);
  requireSignal(EXPLORE, signal);
  signal?.throwIfAborted();

  const stage = new Stage(EXPLORE);
  const settings = { maxRuns, maxMs, seed, onProgress, onOrder };
  const { AsyncLocalStorage } = builtin("node:async_hooks") ?? {};
  const storage = AsyncLocalStorage && new AsyncLocalStorage();
  const place: Place = { scenario, late, stage, storage };
  const search = new Search(place, settings);
  try {
    stage.enter(new Error());
    replaceGlobals(place);
    search.listen();
    stage.undo.push(onAbort(signal ?? undefined, (reason) => search.stop(reason)));
    return await (path ? search.replay(path) : search.explore());
  } finally {
    stage.leave();
  }
}

const EXPLORE = "explore interleavings";

/** How many microtasks after a choice an abort may come in its turn; -1 is right before it. */
const GLUE = [-1, 0, 1, 2, 3];

/** How many choices a run may make. */
const MAX_CHOICES = 1000;

/** How many choices are drawn: of more, the first and the last. */
const MAX_ROWS = 60;

/** How many milliseconds are given to what happens outside before a deadlock is named. */
const GRACE = 50;

/** How often priorities change in a random run: it finds bugs that need an order of three events. */
const PRIORITY_CHANGES = 2;

// ─── The search ──────────────────────────────────────────────────────────────────────────────────

/** A beginning of an order that is still to be tried. */
interface Branch {
  /** What is chosen. After these it is the first option. */
  readonly path: readonly Choice[];
  readonly switches: number;
  /** What need not be chosen after these until something touches the same. */
  readonly asleep: readonly Choice[];
  /** What was pending in the run that this branches off from: it must be the same again. */
  readonly expected: readonly (readonly Seen[])[];
}

/** What all runs share. */
interface Place {
  readonly scenario: (world: World) => unknown;
  readonly late: boolean;
  readonly stage: Stage;
  /** Knows whose code is running, where the platform does. */
  readonly storage:
    { run<T>(lane: Lane, fn: () => T): T; getStore(): Lane | undefined } | undefined;
}

interface Budget {
  readonly maxRuns: number;
  readonly maxMs: number;
  readonly seed: number;
  readonly onProgress: InterleavingsOptions["onProgress"];
  readonly onOrder: InterleavingsOptions["onOrder"];
}

const ANY: Branch = { path: [], switches: 0, asleep: [], expected: [] };

/** Chooses what comes next after the branch; `undefined` leaves the run. */
type Choose = (run: Run) => Choice | undefined;

class Search {
  readonly #place: Place;
  readonly #budget: Budget;
  readonly #began: number;
  readonly #ended = Promise.withResolvers<void>();
  #stopped: { reason: unknown } | undefined;
  #runs = 0;
  #cut = 0;
  #orders = 0;
  #choices = 0;

  constructor(place: Place, budget: Budget) {
    this.#place = place;
    this.#budget = budget;
    this.#began = place.stage.realNow();
  }

  stop(reason: unknown): void {
    this.#stopped ??= { reason };
    Run.current?.stop(reason);
  }

  /** Hears of rejections that would end the process. */
  listen(): void {
    const { process } = globalThis as { process?: any };
    const { undo } = this.#place.stage;
    const hear = (reason: unknown) => Run.current?.fail("unhandled", reason);
    const hearEvent = (event: any) => {
      event.preventDefault();
      hear(event.reason);
    };
    process?.on("unhandledRejection", hear);
    globalThis.addEventListener?.("unhandledrejection", hearEvent);
    onTestEnd(() => {
      this.stop(new Error("The test has ended before the exploration. Was it awaited?"));
      return this.#place.stage.over ? undefined : this.#ended.promise;
    });
    undo.push(() => {
      this.#ended.resolve();
      process?.off("unhandledRejection", hear);
      globalThis.removeEventListener?.("unhandledrejection", hearEvent);
    });
  }

  async replay(path: readonly Choice[]): Promise<InterleavingsResult> {
    await this.#run(ANY, (run) => {
      const options = run.options();
      const wanted = path[run.path.length] ?? options[0];
      return options.find((option) => format([option]) === format([wanted!])) ?? wanted;
    });
    return this.#result(false);
  }

  async explore(): Promise<InterleavingsResult> {
    try {
      if (await this.#inOrder(Infinity, true)) return this.#result(true);
    } catch (error) {
      throw await this.#withFewestSwitches(error);
    }
    const { seed } = this.#budget;
    await this.#atRandom(seed);
    return { ...this.#result(false), seed };
  }

  #result(exhaustive: boolean): InterleavingsResult {
    return { runs: this.#runs, cut: this.#cut, orders: this.#orders, exhaustive };
  }

  /** Tries all orders that have at most so many switches; false if there are too many. */
  async #inOrder(maxSwitches: number, sleeps: boolean): Promise<boolean> {
    const branches: Branch[][] = [[ANY]];
    for (let switches = 0; switches < branches.length; switches++) {
      for (let branch; (branch = branches[switches]!.pop());) {
        this.#report(switches, branches);
        if (this.#isOver(10)) return false;
        await this.#follow(branch, (next) => {
          if (next.switches > maxSwitches) return;
          while (branches.length <= next.switches) branches.push([]);
          branches[next.switches]!.push(sleeps ? next : { ...next, asleep: [] });
        });
      }
    }
    return true;
  }

  #follow(branch: Branch, add: (branch: Branch) => void): Promise<void> {
    let { asleep } = branch;
    const isAwake = ({ id, fails, abort }: Choice) =>
      abort !== undefined || !asleep.some((it) => it.id === id && it.fails === fails);

    return this.#run(branch, (run) => {
      const options = run.options();
      const awake = asleep.length > 0 ? options.filter(isAwake) : options;
      const [first] = awake;
      for (let i = 1; i < awake.length; i++) {
        const option = awake[i]!;
        const earlier = option.on ? [...asleep, ...awake.slice(0, i)] : [];
        add({
          path: [...run.path, option],
          switches: run.switches + option.cost,
          asleep: earlier.filter((it) => isApart(it, option)),
          expected: run.pendings,
        });
      }
      if (first && asleep.length > 0) asleep = asleep.filter((it) => isApart(it, first));
      return first;
    });
  }

  /** What sleeps may hide an order with fewer switches of the same kind. */
  async #withFewestSwitches(error: unknown): Promise<unknown> {
    if (!(error instanceof InterleavingError) || error.switches === 0) return error;
    if (this.#cut === 0 && this.#orders === this.#runs) return error;
    try {
      await this.#inOrder(error.switches - 1, false);
      return error;
    } catch (simpler) {
      return simpler;
    }
  }

  /**
   * Probabilistic concurrency testing: lanes have random priorities, which change at random moments.
   * An order that needs d such moments is found with a known probability in each run.
   */
  async #atRandom(seed: number): Promise<void> {
    const random = randomFrom(seed);
    const length = Math.max(1, Math.round(this.#choices / Math.max(1, this.#runs)));
    while (!this.#isOver(11)) {
      const priorities = new Map<unknown, number>();
      let lowest = -1;
      const changes = Array.from({ length: PRIORITY_CHANGES }, () => Math.floor(random() * length));
      await this.#run(ANY, (run) => {
        const options = run.options();
        const ownerOf = ({ id }: Choice) => {
          const pending = run.find(id)!;
          return pending.kind === "abort" ? pending : pending.lane;
        };
        const priorityOf = (option: Choice) => {
          const owner = ownerOf(option);
          if (!priorities.has(owner)) priorities.set(owner, random());
          return priorities.get(owner)!;
        };
        const highest = Math.max(...options.map(priorityOf));
        const best = options.filter((option) => priorityOf(option) === highest);
        const chosen = best[random() < 0.5 ? 0 : Math.floor(random() * best.length)]!;
        // Who waits for a timer lets others go on, or a loop of timers would never end.
        const yields = run.find(chosen.id)!.kind === "timer" || changes.includes(run.path.length);
        if (yields) priorities.set(ownerOf(chosen), lowest--);
        return chosen;
      });
    }
  }

  async #run(branch: Branch, choose: Choose): Promise<void> {
    const run = new Run(this.#place, branch, choose);
    let error: InterleavingError | undefined;
    const ended = await run.end().catch((reason: unknown) => {
      // What can't be repeated has no other orders; any other reason is that of a stop.
      if (!(reason instanceof InterleavingError) || reason.kind === "nondeterministic")
        throw reason;
      error = reason;
      return true;
    });
    this.#choices += run.path.length;
    if (!ended) return void this.#cut++;
    const goesOn = this.#budget.onOrder?.(run.summary(error));
    if (error && goesOn !== true) throw error;
    this.#runs++;
    this.#orders += run.countOrders();
  }

  #isOver(tenths: number): boolean {
    if (this.#stopped) throw this.#stopped.reason;
    const { maxRuns, maxMs } = this.#budget;
    const ms = this.#place.stage.realNow() - this.#began;
    return 10 * (this.#runs + this.#cut) >= maxRuns * tenths || 10 * ms >= maxMs * tenths;
  }

  #report(switches: number, branches: readonly (readonly Branch[])[]): void {
    const runs = this.#runs + this.#cut;
    if (runs === 0 || runs % 1000 > 0) return;
    let waiting = 0;
    for (const level of branches) waiting += level.length;
    this.#budget.onProgress?.({ runs, switches, waiting });
  }
}

/** Whether two choices commute: they say what they touch, and share nothing of it. */
function isApart(one: Choice, other: Choice): boolean {
  const { on } = one;
  return !!on && !!other.on && !other.on.some((touched) => on.includes(touched));
}

/** Mulberry32. */
function randomFrom(seed: number): () => number {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** A schedule names what is chosen by its number: `0.2!.3+1@2`, where 2 fails, and 1 aborts after 3. */
function format(path: readonly Choice[]): string {
  const names = path.map(({ id, fails, abort, ticks }) => {
    const glued = abort === undefined ? "" : `+${abort}@${ticks}`;
    return `${id}${fails ? "!" : ""}${glued}`;
  });
  return names.join(".") || "any";
}

function parse(schedule: unknown): Choice[] {
  const expected = "what an InterleavingError names";
  if (typeof schedule !== "string") {
    throw invalid(EXPLORE, "schedule", "a string", schedule, TypeError);
  }
  if (schedule === "any") return [];
  return schedule.split(".").map((name) => {
    const parts = name.match(/^(\d+)(!?)(?:\+(\d+)@(-?\d))?$/);
    if (!parts) throw invalid(EXPLORE, "schedule", expected, schedule, RangeError);
    const [, id, failing, abort, ticks] = parts;
    const glued = {
      abort: abort === undefined ? undefined : Number(abort),
      ticks: Number(ticks ?? 0),
    };
    return { id: Number(id), fails: failing === "!", ...glued, on: undefined, cost: 0 };
  });
}

// ─── A run ───────────────────────────────────────────────────────────────────────────────────────

/** A spawned task, or what the scenario does itself. */
interface Lane {
  readonly name: string;
  readonly run: Run;
  ended: { readonly choice: number; readonly state: string } | undefined;
  /** What it did last. */
  last: string | undefined;
}

/** What waits to be chosen. */
class Pending {
  readonly kind: "start" | "step" | "timer" | "abort";
  readonly lane: Lane;
  readonly label: string;
  readonly go: () => void;
  fail: (() => void) | undefined = undefined;
  stopListening: (() => void) | undefined = undefined;
  on: readonly string[] | undefined = undefined;
  /** When it fires, if it is a timer. */
  due = 0;
  /** Whether it may be left: an abort that need not come, the timer of `AbortSignal.timeout`. */
  optional = false;
  /** Which one it is of all in its run. */
  readonly id: number;
  /** How many choices had been made when it came. */
  readonly since: number;

  constructor(kind: Pending["kind"], lane: Lane, label: string, go: () => void) {
    this.kind = kind;
    this.lane = lane;
    this.label = label;
    this.go = go;
    this.id = lane.run.made++;
    this.since = lane.run.path.length;
    lane.run.pending.push(this);
  }
}

/** What is kept of something pending. */
interface Seen {
  readonly id: number;
  readonly lane: string;
  readonly label: string;
}

/** Something pending that may come next, alone or with an abort. */
interface Choice {
  /** The number of what is pending. */
  readonly id: number;
  readonly fails: boolean;
  /** The number of an abort in the same turn, and how many microtasks later it comes. */
  readonly abort: number | undefined;
  readonly ticks: number;
  readonly on: readonly string[] | undefined;
  /** The switches that it adds. */
  readonly cost: number;
}

class Run implements World {
  /** The one that is under way. */
  static current: Run | undefined;

  readonly path: Choice[] = [];
  readonly pending: Pending[] = [];
  /** What was pending at each choice. */
  readonly pendings: (readonly Seen[])[] = [];
  /** How many have been pending. */
  made = 0;
  switches = 0;
  elapsed = 0;
  readonly timers = new Map<number, Timer>();
  readonly #chosen: Pending[] = [];
  /** The aborts in the turns of these. */
  readonly #glued: (Pending | undefined)[] = [];
  /** How many choices were made up to the last that was not the first option. */
  #forced = 0;
  #first: Choice | undefined;
  readonly #place: Place;
  readonly #branch: Branch;
  readonly #choose: Choose;
  /** Whether anything says what it touches. */
  #declares = false;
  readonly #lanes: Lane[] = [];
  readonly #spawned: Spawned<unknown>[] = [];
  /** The wrapped calls that are waited for. */
  readonly #calls = new Set<{ readonly lane: Lane; readonly label: string }>();
  /** Which lane ran last: the one that a switch leaves. */
  #lane: Lane;
  /** For how many milliseconds it may still wait for what happens outside. */
  #grace = GRACE;
  readonly #ended = Promise.withResolvers<boolean>();
  #over = false;
  #outcome: PromiseSettledResult<unknown> | undefined;
  #error: { kind: InterleavingErrorKind; cause: unknown } | undefined;

  constructor(place: Place, branch: Branch, choose: Choose) {
    this.#place = place;
    this.#branch = branch;
    this.#choose = choose;
    this.#lane = this.#addLane("scenario");
  }

  /** The lane of the code that is running. */
  get lane(): Lane {
    const lane = this.#place.storage?.getStore();
    return lane?.run === this ? lane : this.#lane;
  }

  /** Runs to the end, and says whether it came there. */
  end(): Promise<boolean> {
    Run.current = this;
    this.within(this.#lane, async () => {
      [this.#outcome] = await Promise.allSettled([Promise.try(this.#place.scenario, this)]);
    });
    this.#nextTurn();
    return this.#ended.promise;
  }

  #nextTurn(): void {
    const { stage } = this.#place;
    if (stage.platform["setImmediate"]) return stage.nextTurn(this.#turn);
    // Browsers tell of an unhandled rejection in the turn after the next.
    stage.nextTurn(() => stage.nextTurn(this.#turn));
  }

  readonly #turn = (): void => {
    if (this.#over) return;
    const { resolve, reject } = this.#ended;
    try {
      const isWhole = this.#proceed();
      if (isWhole === undefined) return;
      resolve(isWhole);
    } catch (error) {
      reject(error);
    }
    this.#leave();
  };

  /** Ends the run where it is. */
  stop(reason: unknown): void {
    this.#ended.reject(reason);
    this.#leave();
  }

  #leave(): void {
    this.#over = true;
    for (const pending of this.pending) pending.stopListening?.();
    this.timers.clear();
    Run.current = undefined;
  }

  /** Makes a choice; `undefined` if the run goes on. */
  #proceed(): boolean | undefined {
    if (this.#error) throw this.#failure(this.#error.kind, this.#error.cause);
    const at = this.path.length;
    const follows = at < this.#branch.path.length;
    if (this.#outcome?.status === "rejected") {
      throw this.#failure("failure", this.#outcome.reason);
    }
    if (this.#outcome) {
      if (follows) throw this.#otherwise(at);
      return this.#conclude(this.#outcome.value);
    }
    if (this.#isStuck()) {
      if (this.#grace-- === 0) throw follows ? this.#otherwise(at) : this.#failure("deadlock");
      const { stage } = this.#place;
      // Not from one timer to the other: browsers would make that 4 ms.
      return void stage.nextTurn(() => stage.platform["setTimeout"](this.#turn, 1));
    }
    this.#grace = GRACE;
    if (at === MAX_CHOICES) throw this.#failure("endless");
    this.pendings.push(follows ? this.#asExpected(at) : this.#see());
    const choice = follows ? this.#branch.path[at] : this.#choose(this);
    if (!choice) return false;
    // First of all, because what is chosen may block and turn the event loop itself.
    this.#nextTurn();
    this.#take(choice);
    return undefined;
  }

  #see(): Seen[] {
    return this.pending.map(({ id, lane, label }) => ({ id, lane: lane.name, label }));
  }

  /** What was pending in the run that this branches off from, if the same is again. */
  #asExpected(at: number): readonly Seen[] {
    const expected = this.#branch.expected[at]!;
    const { pending } = this;
    let same = pending.length === expected.length;
    for (let i = 0; same && i < pending.length; i++) {
      const { lane, label } = expected[i]!;
      same = pending[i]!.label === label && pending[i]!.lane.name === lane;
    }
    if (same) return expected;
    throw this.#otherwise(at);
  }

  #otherwise(at: number): InterleavingError {
    return this.#failure("nondeterministic", undefined, this.#branch.expected[at]);
  }

  /** An error that would otherwise end the process. */
  fail(kind: InterleavingErrorKind, cause: unknown): void {
    this.#error ??= { kind, cause };
  }

  step(label: string, options: StepOptions = {}, lane = this.lane): Promise<void> {
    return new Promise((resolve, reject) => {
      const action = "wait for step";
      requireString(action, "label", label);
      requireOptions(action, options);
      const { fails, signal } = options;
      const on = touched(action, options.on);
      requireSignal(action, signal);
      signal?.throwIfAborted();
      this.#refuseDead(action);
      const pending = new Pending("step", lane, label, resolve);
      if (on) this.#declare(pending, on);
      if (fails !== undefined && fails !== false) {
        const error = fails === true ? new Error(`Step ${label} fails`) : fails;
        pending.fail = () => reject(error);
      }
      pending.stopListening = onAbort(signal ?? undefined, (reason) => {
        this.remove(pending);
        reject(reason);
      });
    });
  }

  steps<A extends unknown[], R>(
    fn: (...args: A) => R,
    name?: string,
    options: StepsOptions<A> = {},
    owner?: Lane,
  ): (...args: A) => Promise<Awaited<R>> {
    const action = "wrap function";
    requireFunction(action, "fn", fn);
    if (name !== undefined) requireString(action, "name", name);
    requireOptions(action, options);
    const { at = "reply", on, fails } = options;
    if (!["reply", "call", "both"].includes(at)) {
      throw invalid(action, "at", '"reply", "call" or "both"', at, TypeError);
    }
    if (typeof on !== "function") touched(action, on);
    const title = name ?? (fn.name || "call");
    const run = this;

    return async function (this: unknown, ...args: A): Promise<Awaited<R>> {
      const label = `${title}(${args.map(inLabel).join(", ")})`;
      const { signal } = Object(args.at(-1)) as { signal?: unknown };
      const step: StepOptions = { on: typeof on === "function" ? on(...args) : on, fails };
      if (signal instanceof AbortSignal) step.signal = signal;
      const lane = owner ?? run.lane;
      const waiting = { lane, label };

      if (at === "call") await run.step(label, step, lane);
      else if (at === "both") await run.step(label, { ...step, fails: undefined }, lane);
      const reply = Promise.try((): R => Reflect.apply(fn, this, args));
      reply.catch(doNothing); // It may have to wait for its turn.
      run.#calls.add(waiting);
      let isDue = false;
      try {
        if (at !== "call") await run.step(at === "both" ? `${label} replies` : label, step, lane);
        isDue = true;
        return await reply;
      } finally {
        run.#calls.delete(waiting);
        if (!isDue) reply.then(releaseHold, doNothing);
      }
    };
  }

  spawn<T>(
    name: string,
    task: (world: World) => T | PromiseLike<T>,
    options: SpawnOptions = {},
  ): Promise<T> {
    const action = "spawn task";
    requireString(action, "name", name);
    requireFunction(action, "task", task);
    requireOptions(action, options);
    const on = touched(action, options.on);
    this.#refuseDead(action);
    const lane = this.#addLane(name);
    const spawned = new Spawned<T>((resolve, reject) => {
      const start = async () => {
        let state = "done";
        try {
          resolve(await this.within(lane, () => task(new TaskWorld(this, lane))));
        } catch (reason) {
          spawned.fail(reason);
          reject(reason);
          state = "failed";
        }
        lane.ended = { choice: this.path.length, state };
      };
      const pending = new Pending("start", lane, "starts", start);
      if (on) this.#declare(pending, on);
    });
    this.#spawned.push(spawned);
    return spawned;
  }

  abort(controller: AbortController, options: AbortOptions = {}, lane = this.lane): void {
    const action = "abort controller";
    if (typeof controller?.abort !== "function") {
      throw invalid(action, "controller", "an AbortController", controller, TypeError);
    }
    requireOptions(action, options);
    this.#refuseDead(action);
    const { reason, surely = false, label = "abort" } = options;
    requireString(action, "label", label);
    const abort = () => this.within(lane, () => controller.abort(reason));
    new Pending("abort", lane, label, abort).optional = !surely;
  }

  remove(pending: Pending): void {
    const index = this.pending.indexOf(pending);
    if (index >= 0) this.pending.splice(index, 1);
  }

  #declare(pending: Pending, on: readonly string[]): void {
    pending.on = on;
    this.#declares = true;
  }

  #schedule(): string {
    return format(this.path.slice(0, this.#forced));
  }

  /** The order that it was, once it has ended. */
  summary(error?: InterleavingError): InterleavingsOrder {
    const events = this.#chosen.flatMap((pending, i) => {
      const choice = i + 1;
      const state = labelOf(pending, this.path[i]!, this.#glued[i]);
      const ended = this.#lanes.filter((lane) => lane.ended?.choice === choice);
      return [
        { choice, lane: pending.lane.name, state },
        ...ended.map(({ name, ended }) => ({ choice, lane: name, state: ended!.state })),
      ];
    });
    const order = { schedule: this.#schedule(), switches: this.switches, events };
    return error ? { ...order, error } : order;
  }

  /** How many orders of the same choices stand for the same run. */
  countOrders(): number {
    const { path } = this;
    const { length } = path;
    if (!this.#declares || length > 30) return 1;
    // A bit for each choice that must come before.
    const before = path.map((choice, i) => {
      let bits = 0;
      for (let j = 0; j < i; j++) {
        const isCause = j === this.#chosen[i]!.since - 1;
        if (isCause || !isApart(path[j]!, choice)) bits |= 1 << j;
      }
      return bits;
    });
    const known = new Map<number, number>([[2 ** length - 1, 1]]);
    const count = (done: number): number => {
      let orders = known.get(done);
      if (orders !== undefined) return orders;
      orders = 0;
      before.forEach((needed, i) => {
        if (!(done & (1 << i)) && (needed & done) === needed) orders! += count(done | (1 << i));
      });
      known.set(done, orders);
      return orders;
    };
    return count(0);
  }

  /** What may come next, those that add the fewest switches first. */
  options(): Choice[] {
    let hasSteps = false;
    let first = Infinity;
    const aborts: Pending[] = [];
    for (const pending of this.pending) {
      if (pending.kind === "timer") first = Math.min(first, pending.due);
      else if (pending.kind === "abort") aborts.push(pending);
      else hasSteps = true;
    }
    const { late } = this.#place;
    const isDue = (pending: Pending) => late || pending.due === first;
    // Who waits for a timer can't go on while others have something to do.
    const isReady = (pending: Pending) => {
      if (pending.kind === "timer") return !hasSteps && isDue(pending);
      return pending.kind !== "abort" || (!hasSteps && first === Infinity && !pending.optional);
    };
    const canGoOn = this.pending.some((it) => it.lane === this.#lane && isReady(it));

    const options: Choice[][] = [[], [], [], []];
    for (const pending of this.pending) {
      const { id, kind, lane, on } = pending;
      const ready = isReady(pending);
      if (kind === "timer" && !isDue(pending)) continue;
      const choice = { id, fails: false, abort: undefined, ticks: 0, on };
      if (kind === "abort") {
        options[ready ? 0 : 1]!.push({ ...choice, cost: ready ? 0 : 1 });
        continue;
      }
      const isSwitch = !ready || (canGoOn && lane !== this.#lane);
      const cost = Number(isSwitch) + Number(this.#overtakes(pending));
      options[cost]!.push({ ...choice, cost });
      if (pending.fail) options[cost + 1]!.push({ ...choice, fails: true, cost: cost + 1 });
      for (const abort of aborts) {
        const glued = { ...choice, abort: abort.id, on: undefined, cost: cost + 1 };
        for (const ticks of GLUE) options[cost + 1]!.push({ ...glued, ticks });
      }
    }
    const sorted = options.flat();
    this.#first = sorted[0];
    return sorted;
  }

  find(id: number | undefined): Pending | undefined {
    return this.pending.find((pending) => pending.id === id);
  }

  #take(choice: Choice): void {
    const { id, fails, ticks } = choice;
    const pending = this.find(id);
    const abort = this.find(choice.abort);
    if (!pending || (fails && !pending.fail) || (choice.abort !== undefined && !abort)) {
      const where = `${format([choice])} at choice ${this.path.length + 1}`;
      throw new RangeError(`Cannot ${EXPLORE}: the schedule doesn't fit, there is no ${where}`);
    }
    this.path.push(choice);
    if (choice !== this.#first) this.#forced = this.path.length;
    this.#chosen.push(pending);
    this.#glued.push(abort);
    this.switches += choice.cost;
    if (pending.kind !== "abort") this.#lane = pending.lane;
    pending.lane.last = pending.label;
    this.elapsed = Math.max(this.elapsed, pending.due);
    if (abort) this.remove(abort);
    if (ticks < 0) abort!.go();
    // What the abort has cleared or ended comes no more.
    if (!this.pending.includes(pending)) return;
    this.remove(pending);
    pending.stopListening?.();
    if (fails) pending.fail!();
    else pending.go();
    if (abort && ticks >= 0) after(ticks, abort.go);
  }

  /** Whether an earlier call of the same lane waits for the same kind of turn. */
  #overtakes(pending: Pending): boolean {
    const { lane, kind, due, id } = pending;
    for (const other of this.pending) {
      if (other.lane !== lane || other.kind === "abort") continue;
      if ((other.kind === "timer") !== (kind === "timer")) continue;
      if (other.due < due || (other.due === due && other.id < id)) return true;
    }
    return false;
  }

  /** Whether nothing is left but aborts that need not come. */
  #isStuck(): boolean {
    return !this.pending.some(({ kind, optional }) => kind !== "abort" || !optional);
  }

  within<T>(lane: Lane, fn: () => T): T {
    const { storage } = this.#place;
    return storage ? storage.run(lane, fn) : fn();
  }

  #addLane(name: string): Lane {
    const lane = { name, run: this, ended: undefined, last: undefined };
    this.#lanes.push(lane);
    return lane;
  }

  /** Whether all has ended well with the scenario. */
  #conclude(result: unknown): true {
    releaseHold(result);
    const failed = this.#spawned.find((spawned) => spawned.failure && !spawned.asked);
    if (failed) throw this.#failure("unhandled", failed.failure!.reason);
    const [, ...tasks] = this.#lanes;
    const isLeft = (pending: Pending) => pending.kind !== "abort" && !pending.optional;
    if (this.pending.some(isLeft) || tasks.some(({ ended }) => !ended)) {
      throw this.#failure("leak");
    }
    return true;
  }

  #refuseDead(action: string): void {
    if (this.#over) throw new Error(`Cannot ${action}: its run has ended`);
  }

  #failure(
    kind: InterleavingErrorKind,
    cause?: unknown,
    expected?: readonly Seen[],
  ): InterleavingError {
    const failed = this.#spawned.find((spawned) => spawned.failure && !spawned.asked);
    if (kind === "deadlock" && failed) return this.#failure("unhandled", failed.failure!.reason);
    const { switches } = this;
    const schedule = this.#schedule();
    const lines = [
      `${this.#what(kind, cause, expected)}`,
      `The order, with ${switches} ${switches === 1 ? "switch" : "switches"}:`,
      this.#draw(),
      `To replay it: interleavings(scenario, { schedule: "${schedule}" })`,
    ];
    const fields = { kind, schedule, switches };
    const caused = kind === "failure" || kind === "unhandled" ? { ...fields, cause } : fields;
    return new InterleavingError(lines.join("\n\n"), caused);
  }

  #what(kind: InterleavingErrorKind, cause: unknown, expected: readonly Seen[] = []): string {
    const reason = cause instanceof Error ? `${cause.name}: ${cause.message}` : describe(cause);
    if (kind === "failure") return `The scenario fails: ${reason}`;
    if (kind === "unhandled") return `A rejection is unhandled: ${reason}`;
    if (kind === "endless") return `The scenario doesn't end: ${MAX_CHOICES} choices were made.`;
    if (kind === "nondeterministic") {
      return (
        `The scenario is not deterministic. At choice ${this.path.length + 1} there were ` +
        `${list(titles(expected))}, and now there are ${list(titles(this.#see()))}.`
      );
    }
    if (kind === "leak") {
      return `The scenario has ended, and something is left: ${list(this.#waiting())}.`;
    }
    return `Deadlock: nothing is left that could wake ${list(this.#waiting())}.`;
  }

  /** What everybody waits for. */
  #waiting(): string[] {
    const [scenario] = this.#lanes;
    const waits = this.#lanes.flatMap((lane) => {
      if (lane.ended || lane === scenario) return [];
      const calls = [...this.#calls].filter((call) => call.lane === lane);
      if (calls.length > 0) return calls.map(({ label }) => `${lane.name}, in ${label}`);
      const isPending = this.pending.some((pending) => pending.lane === lane);
      if (isPending) return [];
      return [`${lane.name}, after "${lane.last}"`];
    });
    const pending = this.pending.filter(({ kind }) => kind !== "abort");
    if (waits.length + pending.length === 0) return ["the scenario"];
    return [...waits, ...pending.map(({ lane, label }) => `${lane.name}: ${label}`)];
  }

  /** A row for each choice, a column for each lane. */
  #draw(): string {
    const lanes = this.#lanes.filter((lane) => this.#chosen.some((it) => it.lane === lane));
    const cells = this.#chosen.map((pending, i) =>
      lanes.map((lane) =>
        pending.lane === lane ? labelOf(pending, this.path[i]!, this.#glued[i]) : "",
      ),
    );
    const widths = lanes.map((lane, i) =>
      Math.max(lane.name.length, ...cells.map((row) => row[i]!.length)),
    );
    const rowOf = (mark: string, row: readonly string[], also: string) =>
      `${mark.padStart(6)}  ${row.map((cell, i) => cell.padEnd(widths[i]!)).join("  ")}  ${also}`.trimEnd();
    const head = rowOf(
      "",
      lanes.map(({ name }) => name),
      "also pending",
    );
    const rows = this.#chosen.map((pending, i) => {
      const also = titles(this.pendings[i]!.filter(({ id }) => id !== pending.id));
      const mark = `${this.path[i]!.cost > 0 ? "→ " : ""}${i + 1}`;
      return rowOf(mark, cells[i]!, also.join(", "));
    });
    if (rows.length > MAX_ROWS) {
      const left = rows.length - MAX_ROWS;
      rows.splice(MAX_ROWS / 2, left, `        … ${left} choices …`);
    }
    return [head, ...rows].join("\n");
  }
}

/** The world as one task sees it: it knows the task where the platform doesn't. */
class TaskWorld implements World {
  readonly #run: Run;
  readonly #lane: Lane;

  constructor(run: Run, lane: Lane) {
    this.#run = run;
    this.#lane = lane;
  }

  step(label: string, options?: StepOptions): Promise<void> {
    return this.#run.step(label, options, this.#lane);
  }

  steps<A extends unknown[], R>(
    fn: (...args: A) => R,
    name?: string,
    options?: StepsOptions<A>,
  ): (...args: A) => Promise<Awaited<R>> {
    return this.#run.steps(fn, name, options, this.#lane);
  }

  spawn<T>(
    name: string,
    task: (world: World) => T | PromiseLike<T>,
    options?: SpawnOptions,
  ): Promise<T> {
    return this.#run.spawn(name, task, options);
  }

  abort(controller: AbortController, options?: AbortOptions): void {
    this.#run.abort(controller, options, this.#lane);
  }
}

/** What a spawned task promises. It knows whether anybody has asked for it. */
class Spawned<T> extends Promise<T> {
  asked = false;
  failure: { reason: unknown } | undefined;

  static override get [Symbol.species](): PromiseConstructor {
    return Promise;
  }

  /** Notes that it will be rejected, which is no rejection that ends the process. */
  fail(reason: unknown): void {
    this.failure = { reason };
    super.then(undefined, doNothing);
  }

  override then<R1 = T, R2 = never>(
    onFulfilled?: ((value: T) => R1 | PromiseLike<R1>) | null,
    onRejected?: ((reason: any) => R2 | PromiseLike<R2>) | null,
  ): Promise<R1 | R2> {
    this.asked = true;
    return super.then(onFulfilled, onRejected);
  }
}

function labelOf({ label }: Pending, { fails, ticks }: Choice, abort?: Pending): string {
  const event = fails ? `${label} fails` : label;
  if (!abort) return event;
  if (ticks < 0) return `${abort.label}, ${event}`;
  const when = ["", " 1 microtask later"][ticks] ?? ` ${ticks} microtasks later`;
  return `${event}, ${abort.label}${when}`;
}

function titles(seen: readonly Seen[]): string[] {
  return seen.map(({ lane, label }) => `${lane}: ${label}`);
}

function list(items: readonly string[]): string {
  return items.length > 0 ? items.join("; ") : "nothing";
}

function after(ticks: number, fn: () => void): void {
  if (ticks === 0) fn();
  else queueMicrotask(() => after(ticks - 1, fn));
}

function touched(action: string, on: unknown): readonly string[] | undefined {
  if (on === undefined) return undefined;
  const names = Array.isArray(on) ? (on as unknown[]) : [on];
  for (const name of names) requireString(action, "on", name);
  return names as string[];
}

function requireString(action: string, name: string, value: unknown): void {
  if (typeof value !== "string") throw invalid(action, name, "a string", value, TypeError);
}

function inLabel(value: unknown): string {
  const text = describe(value);
  return text.length > 30 ? `${text.slice(0, 29)}…` : text;
}

// ─── Virtual time ────────────────────────────────────────────────────────────────────────────────

/** What `setTimeout` and its like return: it waits to be chosen. */
class Timer {
  readonly #run: Run;
  readonly #label: string;
  readonly #delay: number;
  readonly #repeats: boolean;
  readonly #callback: () => unknown;
  #pending!: Pending;
  #id = 0;
  #cleared = false;

  /** @param lane what a timer does belongs to who has set it */
  constructor(
    lane: Lane,
    name: string,
    delay: number,
    callback: () => unknown,
    { repeats = false, optional = false } = {},
  ) {
    this.#run = lane.run;
    this.#label = delay > 0 ? `${name} of ${delay} ms` : name;
    this.#delay = delay;
    this.#repeats = repeats;
    this.#callback = callback;
    this.#set(lane, optional);
  }

  #set(lane: Lane, optional: boolean): void {
    this.#pending = new Pending("timer", lane, this.#label, () => this.#fire(lane));
    this.#pending.due = this.#run.elapsed + this.#delay;
    this.#pending.optional = optional;
  }

  #fire(lane: Lane): void {
    try {
      this.#run.within(lane, this.#callback);
    } catch (error) {
      this.#run.fail("failure", error);
    }
    if (this.#repeats && !this.#cleared) this.#set(lane, false);
  }

  close(): this {
    this.#cleared = true;
    this.#run.remove(this.#pending);
    return this;
  }

  refresh(): this {
    if (this.#cleared) return this;
    const { lane, optional } = this.#pending;
    this.#run.remove(this.#pending);
    this.#set(lane, optional);
    return this;
  }

  ref(): this {
    return this;
  }

  unref(): this {
    return this;
  }

  hasRef(): boolean {
    return true;
  }

  [Symbol.dispose](): void {
    this.close();
  }

  [Symbol.toPrimitive](): number {
    this.#id ||= ++lastTimerId;
    this.#run.timers.set(this.#id, this);
    return this.#id;
  }
}

/** Above all numbers that a platform gives to its own timers. */
let lastTimerId = 2 ** 30;

function replaceGlobals({ stage, storage }: Place): void {
  const { platform } = stage;
  // What belongs to no run, such as a server in the same process, has none.
  const laneNow = () => (storage ? storage.getStore() : Run.current?.lane);
  for (const kind of ["Timeout", "Interval", "Immediate"]) {
    const name = `set${kind}`;
    stage.override(globalThis, name, (callback, ...args) => {
      requireFunction(`call ${name}`, "callback", callback);
      const lane = laneNow();
      if (!lane) return platform[name](callback, ...args);
      const repeats = kind === "Interval";
      const delay = kind === "Immediate" ? 0 : toDelay(args.shift());
      const call = () => callback(...args);
      const timer = new Timer(lane, name, Math.max(delay, Number(repeats)), call, { repeats });
      // In browsers timers are plain numbers.
      return "process" in globalThis ? timer : Number(timer);
    });
    stage.override(globalThis, `clear${kind}`, (timer) => {
      const own = timer instanceof Timer ? timer : Run.current?.timers.get(Number(timer));
      if (own) own.close();
      else platform[`clear${kind}`](timer);
    });
  }
  const { timeout } = AbortSignal;
  stage.override(AbortSignal, "timeout", (ms) => {
    const lane = laneNow();
    // The platform refuses what it refuses, and holds what is too long for a timer.
    if (!lane || toDelay(ms) !== ms) return timeout.call(AbortSignal, ms);
    const controller = new AbortController();
    const abort = () =>
      controller.abort(new DOMException("The operation timed out.", "TimeoutError"));
    new Timer(lane, "AbortSignal.timeout", ms, abort, { optional: true });
    return controller.signal;
  });
  const elapsed = () => Run.current?.elapsed ?? 0;
  stage.replaceDates(
    () => Date.UTC(2000) + Math.floor(elapsed()),
    () => 2 ** 20 + elapsed(),
  );
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

/** Globals that are replaced for a run, until all are put back. */
class Stage {
  over = false;
  /** The functions outside, by their names. */
  readonly platform: Record<PropertyKey, any> = {};
  readonly realNow: () => number = performance.now.bind(performance);
  /** What is to be done in the end. */
  readonly undo: (() => unknown)[] = [];
  readonly #action: string;
  #channel: MessageChannel | undefined;

  constructor(action: string) {
    this.#action = action;
  }

  /** @param began its stack says where the run began */
  enter(began: Error): void {
    this.#refuseAnotherRun();
    this.#refuseFakeTimers();
    this.put(globalThis, RUNNING, began);
  }

  leave(): void {
    this.over = true;
    this.#channel?.port1.close();
    for (const putBack of this.undo.splice(0)) putBack();
  }

  /** Calls back in the next turn of the event loop, after all promises have been worked off. */
  nextTurn(callback: () => void): void {
    const { setImmediate } = this.platform;
    if (setImmediate) return void setImmediate(callback);
    this.#channel ??= new MessageChannel();
    this.#channel.port1.onmessage = callback;
    this.#channel.port2.postMessage(null);
  }

  /** Replaces a function of `target`, where it has it, until the run is over. */
  override(target: object, name: PropertyKey, virtual: (...args: any[]) => unknown): void {
    const original = (target as Record<PropertyKey, any>)[name];
    if (!original) return;
    // Browsers refuse to call it as a method of anything else.
    this.platform[name] = original.bind(target);
    const stage = this;
    // A method has the name, and can't be constructed.
    const methods = {
      [name](...args: unknown[]): unknown {
        return stage.over ? Reflect.apply(original, target, args) : virtual(...args);
      },
    };
    this.put(target, name, Reflect.get(methods, name));
  }

  put(target: object, key: PropertyKey, value: unknown): void {
    const own = Reflect.getOwnPropertyDescriptor(target, key);
    const enumerable = own?.enumerable ?? false;
    const property = { value, configurable: true, enumerable, writable: true };
    if (!Reflect.defineProperty(target, key, property)) {
      throw new TypeError(`Cannot ${this.#action}: ${String(key)} can't be replaced, it is frozen`);
    }
    this.undo.push(() =>
      own ? Reflect.defineProperty(target, key, own) : Reflect.deleteProperty(target, key),
    );
  }

  /** @param date what `Date` says, @param now what `performance.now` does; both in milliseconds */
  replaceDates(date: () => number, now: () => number): void {
    const stage = this;
    const Real = Date;
    const timeOrigin = date() - now();
    // Not a proxy: what is written to it must not reach the platform's.
    function VirtualDate(...args: unknown[]): unknown {
      const dated = args.length || stage.over ? args : [date()];
      if (new.target) return Reflect.construct(Real, dated, new.target);
      return stage.over ? Real() : new Real(date()).toString();
    }
    Object.defineProperties(VirtualDate, Object.getOwnPropertyDescriptors(Real));
    stage.override(VirtualDate, "now", date);
    stage.put(globalThis, "Date", VirtualDate);
    stage.put(Real.prototype, "constructor", VirtualDate);
    stage.override(performance, "now", now);
    stage.put(performance, "timeOrigin", timeOrigin);

    const { Temporal } = globalThis as { Temporal?: any };
    if (!Temporal) return;
    const { Now, Instant } = Temporal;
    const zoned = (zone: unknown = Now.timeZoneId()) =>
      Instant.fromEpochMilliseconds(date()).toZonedDateTimeISO(zone);
    stage.override(Now, "instant", () => Instant.fromEpochMilliseconds(date()));
    stage.override(Now, "zonedDateTimeISO", zoned);
    for (const kind of ["DateTime", "Date", "Time"]) {
      stage.override(Now, `plain${kind}ISO`, (zone) => zoned(zone)[`toPlain${kind}`]());
    }
  }

  #refuseAnotherRun(): void {
    const other = (globalThis as { [RUNNING]?: Error })[RUNNING];
    if (!other) return;
    // Below the line of the function itself stands that of its caller.
    const place = String(other.stack)
      .match(/.*:\d+:\d.*/g)?.[1]
      ?.trim()
      .replace(/^at /, "");
    throw new Error(
      `Cannot ${this.#action}: a virtual clock runs already (it can't be nested or concurrent). ` +
        `The other run began${place ? ` at ${place}` : " elsewhere"}: was it awaited?`,
    );
  }

  /** They would stop the event loop's turns. */
  #refuseFakeTimers(): void {
    const { setTimeout, setImmediate } = globalThis as Record<string, any>;
    const marked = [setTimeout, setImmediate, performance].some((it) => it && "clock" in it);
    if (!marked && !(setImmediate && "_isMockFunction" in setImmediate)) return;
    throw new Error(`Cannot ${this.#action}: fake timers are active, call useRealTimers() first`);
  }
}

/** Where a run leaves word that it is under way, so that two copies of this file find each other. */
const RUNNING = Symbol.for("async-concepts.virtual-time");

/** What a module of Node's exports, where there is one. */
function builtin(name: string): any {
  return (globalThis as { process?: any }).process?.getBuiltinModule?.(name);
}

/** bun:test ends a test at an unhandled rejection, and begins the next in the same turn. */
function onTestEnd(stop: () => Promise<unknown> | undefined): void {
  try {
    builtin("bun:test")?.onTestFinished((done: () => void) => {
      const stopped = stop();
      if (stopped) stopped.finally(done).catch(doNothing);
      else done();
    });
  } catch {
    // Not in a test.
  }
}

/** What the platforms make of a timer's delay. */
function toDelay(ms: unknown): number {
  const delay = Number(ms);
  return delay > 0 && delay <= 2 ** 31 - 1 ? delay : 0;
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

// ─── Demo: `bun concepts/interleavings.ts` ───────────────────────────────────────────────────────

/** Looks for a lost update, and shows the order that has it. */
export async function demo(log: (lane: string, state: string) => void = print): Promise<void> {
  let trace: [lane: string, state: string][] = [];
  const tell = (lane: string, state: string) => trace.push([lane, state]);
  const scenario = async (world: World) => {
    trace = [];
    let balance = 100;
    const deposit = (name: string, amount: number) =>
      world.spawn(name, async () => {
        const before = balance;
        tell(name, `read ${before}`);
        await world.step(`write ${before + amount}`);
        balance = before + amount;
        tell(name, `wrote ${balance}`);
      });
    await Promise.all([deposit("ann", 10), deposit("bob", 20)]);
    if (balance !== 130) throw new Error(`the balance is ${balance}`);
  };
  log("explorer", "running");
  const error: unknown = await interleavings(scenario).catch((error: unknown) => error);
  for (const [lane, state] of trace) log(lane, state);
  if (error instanceof InterleavingError) log("explorer", `failed, replay with ${error.schedule}`);
}

let start: number | undefined;

function print(lane: string, state: string): void {
  start ??= performance.now();
  const ms = Math.round(performance.now() - start);
  console.log(`+${String(ms).padStart(4)} ms  ${lane}  ${state}`);
}

if ((import.meta as { main?: boolean }).main) void demo();
