/**
 * How to test code that waits: assert to the millisecond when it ends, that an abort ends it at once
 * with the given reason, and that no timer, listener or unhandled rejection is left. Time is virtual:
 * from the second part on, `it` is a `test` in virtual time.
 * A program's entry is tested with a substitute for `process`, and with a few real processes.
 */
import { describe, expect, expectTypeOf, test } from "bun:test";

import {
  abortable,
  lazy,
  poll,
  type PollOptions,
  run,
  sleep,
  type Task,
  type TimedTask,
  timeout,
  type WaitOptions,
  yieldNow,
} from "../concepts/async-basics.ts";
import { interleavings, type World } from "../concepts/interleavings.ts";
import { DeadlockError, type VirtualClock, virtualTime } from "../concepts/virtual-time.ts";

// Programs are started, and garbage is collected, by Bun.
const { Bun } = globalThis as { Bun?: typeof import("bun") };

describe("Start here", () => {
  test("time is virtual: a test that waits for an hour ends at once, and is exact", async () => {
    await virtualTime(async (clock) => {
      await sleep(3_600_000);

      expect(clock.elapsed).toBe(3_600_000);
    });
  });

  test("start a wait, then act, then await it: `rejection` makes the reason a plain value", async () => {
    const controller = new AbortController();
    const sleeping = rejection(sleep(100, { signal: controller.signal }));

    controller.abort("stop");

    expect(await sleeping).toBe("stop");
  });

  test("after an abort nothing is left: no timer, no listener", async () => {
    await virtualTime(async (clock) => {
      const { controller, listeners } = watchedController();
      const sleeping = rejection(sleep(100, { signal: controller.signal }));
      expect([clock.pending, listeners()]).toEqual([1, 1]);

      controller.abort("stop");

      expect([clock.pending, listeners()]).toEqual([0, 0]);
      await sleeping;
    });
  });

  test("a time limit has two sides: test one millisecond before it, and exactly at it", async () => {
    await virtualTime(async () => {
      expect(await timeout(() => sleep(99).then(() => "done"), 100)).toBe("done");
      expect(await rejection(timeout(() => sleep(100), 100))).toMatchObject(timedOut(100));
    });
  });

  test("trap: a task that ignores its signal runs on after the timeout", async () => {
    await virtualTime(async () => {
      let finished = false;
      const deaf = async () => {
        await sleep(200);
        finished = true;
      };

      await rejection(timeout(deaf, 100));
      expect(finished).toBe(false);

      await sleep(100);
      expect(finished).toBe(true);
    });
  });

  test("trap: a lock that is granted too late must not stay locked", async () => {
    await virtualTime(async () => {
      const lock = new Lock();
      const held = await lock.lock();
      const second = timeout(() => lock.lock(), 100);
      expect(await rejection(second)).toMatchObject(timedOut(100));

      held.release();
      await sleep(0);

      expect(lock.locked).toBe(false);
    });
  });
});

/** What makes a wait that ends after 100 ms; all that wait on it are woken together. */
const waits: [name: string, make: (clock: VirtualClock) => (options: WaitOptions) => unknown][] = [
  ["sleep", () => (options) => sleep(100, options)],
  ["timeout", () => (options) => timeout(() => sleep(100), 1000, options)],
  [
    "poll",
    (clock) => (options) => poll(() => clock.elapsed === 100, { interval: 100, ...options }),
  ],
  [
    "abortable",
    (_, promise = sleep(100)) =>
      ({ signal }) =>
        abortable(promise, signal),
  ],
  ["lazy", () => lazy(() => sleep(100))],
];

describe.each(waits)("of three who wait in %s, one is aborted", (_name, make) => {
  const moments: { moment: string; at: number; isFirst: boolean; rejects: boolean }[] = [
    { moment: "before the wait", at: 0, isFirst: true, rejects: true },
    { moment: "during the wait", at: 50, isFirst: false, rejects: true },
    { moment: "in the turn of the wake-up, before it", at: 100, isFirst: true, rejects: true },
    { moment: "in the turn of the wake-up, after it", at: 100, isFirst: false, rejects: false },
    { moment: "after the wait", at: 150, isFirst: false, rejects: false },
  ];
  const rows = ["first", "middle", "last"].flatMap((who, index) =>
    moments.map((moment) => ({ who, index, ...moment })),
  );

  it.each(rows)("the $who $moment: alone, and without a trace", async (row, clock) => {
    const callers = [watchedController(), watchedController(), watchedController()];
    const { controller } = callers[row.index]!;
    const abort = () => controller.abort("stop");
    if (row.isFirst) row.at === 0 ? abort() : setTimeout(abort, row.at);
    const wait = make(clock);
    const waiting = callers.map(async ({ controller: { signal } }) => {
      const outcome = await Promise.allSettled([wait({ signal })]);
      return [outcome[0].status, clock.elapsed];
    });
    await turn(); // by then poll has set its timer too
    if (!row.isFirst) setTimeout(abort, row.at);

    const expected = Array(3).fill(["fulfilled", 100]);
    if (row.rejects) expected[row.index] = ["rejected", row.at];
    expect(await Promise.all(waiting)).toEqual(expected);
    await sleep(100);
    expect([clock.pending, ...callers.map(({ listeners }) => listeners())]).toEqual([0, 0, 0, 0]);
  });
});

describe("sleep", () => {
  it.each([0, 0.5, 1, 100, 2 ** 31 - 1, 2 ** 31, 2 ** 32, 1e12])(
    "takes exactly %d ms",
    async (ms, clock) => {
      await sleep(ms);

      expect([clock.elapsed, clock.pending]).toEqual([ms, 0]);
    },
  );

  it("lets other code run even if it takes no time", async () => {
    let fired = false;
    setTimeout(() => (fired = true), 0);

    await sleep(0);

    expect(fired).toBe(true);
  });

  it("concurrent sleepers wake in the order of their times", async (clock) => {
    const woken: string[] = [];
    const sleeper = async (ms: number) => {
      await sleep(ms);
      woken.push(`${ms} at ${clock.elapsed}`);
    };

    await Promise.all([300, 100, 2 ** 31, 200].map(sleeper));

    expect(woken).toEqual(["100 at 100", "200 at 200", "300 at 300", "2147483648 at 2147483648"]);
  });

  it("is not early, even if the platform's timer is", async (clock) => {
    const exactTimeout = setTimeout;
    const hastyTimeout = (callback: () => void, ms: number) =>
      exactTimeout(callback, Math.max(1, ms - 1));
    globalThis.setTimeout = hastyTimeout as typeof setTimeout;

    await sleep(100);

    expect(clock.elapsed).toBe(100);
  });

  it("of Infinity sets no timer, and waits for the signal", async (clock) => {
    const { controller, listeners } = watchedController();

    const sleeping = sleep(Infinity, { signal: controller.signal });

    expect(clock.pending).toBe(0);
    controller.abort("stop");
    expect(await rejection(sleeping)).toBe("stop");
    expect(listeners()).toBe(0);
  });

  test("of Infinity without a signal never ends", async () => {
    expect(await rejection(virtualTime(() => sleep(Infinity)))).toBeInstanceOf(DeadlockError);
  });

  it.each([0, 100, Infinity])(
    "of %d ms, aborted before, rejects with the reason and leaves no trace",
    async (ms, clock) => {
      const { controller, listeners } = watchedController();
      const reason = new Error("stop");
      controller.abort(reason);

      const sleeping = rejection(sleep(ms, { signal: controller.signal }));

      expect(clock.pending).toBe(0);
      expect(await sleeping).toBe(reason);
      expect([clock.elapsed, listeners()]).toEqual([0, 0]);
    },
  );

  it.each([
    { ms: 100, abortAt: 40 },
    { ms: 2 ** 32, abortAt: 40 },
    { ms: 2 ** 32, abortAt: 2 ** 31 + 40 },
  ])("of $ms ms, aborted at $abortAt, rejects then and leaves no trace", async (given, clock) => {
    const { controller, listeners } = watchedController();
    const reason = new Error("stop");
    const aborting = sleep(given.abortAt).then(() => controller.abort(reason));

    expect(await rejection(sleep(given.ms, { signal: controller.signal }))).toBe(reason);

    expect([clock.elapsed, clock.pending, listeners()]).toEqual([given.abortAt, 0, 0]);
    await aborting;
  });

  it("a crowd on one signal shares one listener, and is aborted together", async (clock) => {
    const { controller, listeners } = watchedController();
    const { signal } = controller;
    const crowd = Array.from({ length: 1000 }, (_, n) => sleep(n, { signal }));
    const results = Promise.allSettled(crowd);
    expect(listeners()).toBe(1);

    await sleep(499.5);
    controller.abort("stop");

    const statuses = (await results).map(({ status }) => status);
    expect(statuses.indexOf("rejected")).toBe(500);
    expect(statuses.lastIndexOf("fulfilled")).toBe(499);
    expect([clock.elapsed, clock.pending, listeners()]).toEqual([499.5, 0, 0]);
  });

  test.each([-1, -Infinity, NaN])("refuses %d ms", async (ms) => {
    expect(await rejection(sleep(ms))).toEqual(
      new RangeError(`Cannot sleep: ms must be a number of 0 or more, received ${ms}`),
    );
  });

  test.each(["100", null, undefined, 100n])("refuses %s, which is not a number", async (ms) => {
    expect(await rejection(sleep(ms as unknown as number))).toEqual(
      new TypeError(
        `Cannot sleep: ms must be a number of 0 or more, received ${typeof ms === "string" ? `"${ms}"` : ms}`,
      ),
    );
  });

  it("does not wait for hours when the clock is replaced meanwhile", async (clock) => {
    const now = performance.now;
    const sleeping = sleep(100);
    performance.now = () => now.call(performance) - 5_000_000;

    await sleeping;

    expect(clock.elapsed).toBe(100);
  });

  it("works with fake timers that leave performance.now alone", async (clock) => {
    performance.now = () => 7;

    await sleep(100);

    expect(clock.elapsed).toBe(100);
  });
});

describe("timeout", () => {
  it.each<[string, Task<string>]>([
    ["a value", () => "result"],
    ["a promise", async () => "result"],
    ["a slow promise", () => sleep(99).then(() => "result")],
  ])("passes on %s, and leaves no trace", async (_, task, clock) => {
    const { controller, listeners } = watchedController();

    expect(await timeout(task, 100, { signal: controller.signal })).toBe("result");

    expect([clock.pending, listeners()]).toEqual([0, 0]);
  });

  const error = new Error("failed");
  it.each<[string, Task<never>]>([
    ["a thrown error", () => raise(error)],
    ["a rejection", () => Promise.reject(error)],
    ["a late rejection", () => sleep(99).then(() => raise(error))],
  ])("passes on %s, and leaves no trace", async (_, task, clock) => {
    const { controller, listeners } = watchedController();

    expect(await rejection(timeout(task, 100, { signal: controller.signal }))).toBe(error);

    expect([clock.pending, listeners()]).toEqual([0, 0]);
  });

  test("calls the task at once", async () => {
    let called = false;

    const result = timeout(() => (called = true), 100);

    expect(called).toBe(true);
    await result;
  });

  it.each([0, 100, 2 ** 31])(
    "after %d ms rejects with a TimeoutError, which is the reason of the task's signal",
    async (ms, clock) => {
      const { controller, listeners } = watchedController();
      const given = Promise.withResolvers<AbortSignal>();
      const task: Task<void> = (signal) => {
        given.resolve(signal);
        return sleep(Infinity, { signal });
      };

      const error = await rejection(timeout(task, ms, { signal: controller.signal }));

      expect(error).toBeInstanceOf(DOMException);
      expect(error).toMatchObject(timedOut(ms));
      expect((await given.promise).reason).toBe(error);
      expect([clock.elapsed, clock.pending, listeners()]).toEqual([ms, 0, 0]);
    },
  );

  it("of 0 ms lets a task have what it has by then", async (clock) => {
    expect(await timeout(async () => "done", 0)).toBe("done");
    expect(clock.pending).toBe(0);
  });

  it("of 0 ms lets a task have what is there by then", async (clock) => {
    expect(await timeout(async () => "done", 0)).toBe("done");
    expect(clock.pending).toBe(0);
  });

  it("a task that takes exactly the limit is too late", async () => {
    expect(await rejection(timeout(() => sleep(100), 100))).toMatchObject(timedOut(100));
  });

  it("does not wait for a task that ignores its signal", async (clock) => {
    expect(await rejection(timeout(() => sleep(1000), 100))).toMatchObject(timedOut(100));

    expect(clock.elapsed).toBe(100);
  });

  test("a task that fails after the timeout leaves nothing unhandled", async () => {
    await withoutUnhandled(() =>
      virtualTime(async () => {
        const task = () => sleep(200).then(() => raise(new Error("late")));
        expect(await rejection(timeout(task, 100))).toMatchObject(timedOut(100));
        await sleep(200);
      }),
    );
  });

  it.each<[string, (settle: PromiseWithResolvers<string>) => void]>([
    ["rejecting", (task) => task.reject(new Error("stopped"))],
    ["resolving", (task) => task.resolve("stopped")],
  ])("a task cannot hide its timeout by %s when it is aborted", async (_, react) => {
    const task = Promise.withResolvers<string>();
    const reacting = timeout((signal) => {
      signal.addEventListener("abort", () => react(task));
      return task.promise;
    }, 100);

    expect(await rejection(reacting)).toMatchObject(timedOut(100));
  });

  it("the outer signal's reason wins when it comes first", async (clock) => {
    const { controller, listeners } = watchedController();
    const reason = new Error("stop");
    const aborting = sleep(50).then(() => controller.abort(reason));
    let given: AbortSignal | undefined;
    const task: Task<void> = (signal) => sleep(1000, { signal: (given = signal) });

    expect(await rejection(timeout(task, 100, { signal: controller.signal }))).toBe(reason);

    expect(clock.elapsed).toBe(50);
    expect(given?.reason).toBe(reason);
    expect([clock.pending, listeners()]).toEqual([0, 0]);
    await aborting;
  });

  test("a task that aborts the outer signal and then throws is aborted", async () => {
    await withoutUnhandled(async () => {
      const controller = new AbortController();
      const task = () => {
        controller.abort("stop");
        throw new Error("failed");
      };

      const result = timeout(task, 100, { signal: controller.signal });

      expect(await rejection(result)).toBe("stop");
    });
  });

  it("does not abort the signal of a task that is done", async () => {
    const controller = new AbortController();
    const { signal } = controller;
    const given = await timeout((signal) => signal, 100, { signal });

    await sleep(1000);
    controller.abort();

    expect(given.aborted).toBe(false);
  });

  it("aborted before, it does not call the task", async (clock) => {
    const { controller, listeners } = watchedController();
    controller.abort("stop");
    let called = false;

    const result = timeout(() => (called = true), 100, { signal: controller.signal });

    expect(await rejection(result)).toBe("stop");
    expect(called).toBe(false);
    expect([clock.pending, listeners()]).toEqual([0, 0]);
  });

  it("of Infinity sets no timer, and waits for the task or the signal", async (clock) => {
    const controller = new AbortController();
    const { signal } = controller;
    const hanging = timeout(() => new Promise(() => {}), Infinity, { signal });

    expect(clock.pending).toBe(0);
    expect(await timeout(() => sleep(1e10).then(() => "result"), Infinity)).toBe("result");
    controller.abort("stop");

    expect(await rejection(hanging)).toBe("stop");
  });

  it("of two nested limits the shorter one wins", async (clock) => {
    const nested = (outer: number, inner: number) =>
      timeout((signal) => timeout(() => sleep(1000), inner, { signal }), outer);

    expect(await rejection(nested(50, 100))).toMatchObject(timedOut(50));
    expect(await rejection(nested(100, 50))).toMatchObject(timedOut(50));

    expect(clock.elapsed).toBe(100);
  });

  test("refuses a promise, because work that runs already cannot be stopped", async () => {
    const promise = Promise.resolve() as unknown as Task<void>;

    expect(await rejection(timeout(promise, 100))).toEqual(
      new TypeError("Cannot time out: task must be a function, received Promise"),
    );
  });

  test.each([-1, NaN])("refuses %d ms, and does not call the task", async (ms) => {
    let called = false;

    expect(await rejection(timeout(() => (called = true), ms))).toEqual(
      new RangeError(`Cannot time out: ms must be a number of 0 or more, received ${ms}`),
    );

    expect(called).toBe(false);
  });

  test("listens before it calls the task, which may abort from inside the call", async () => {
    const { controller, listeners } = watchedController();
    const hanging = () => {
      controller.abort("stop");
      return new Promise(() => {});
    };

    expect(await rejection(timeout(hanging, Infinity, { signal: controller.signal }))).toBe("stop");
    expect(listeners()).toBe(0);
  });

  test("delivers a result that came before the abort", async () => {
    const controller = new AbortController();
    const result = timeout(async () => "done", 100, { signal: controller.signal });

    await Promise.resolve();
    controller.abort("stop");

    expect(await result).toBe("done");
  });

  it("the task's signal is aborted before the caller hears of it", async () => {
    const order: string[] = [];
    const task: Task<void> = (signal) => {
      signal.addEventListener("abort", () => order.push("task"));
      return new Promise(() => {});
    };

    await timeout(task, 100).catch(() => order.push("caller"));

    expect(order).toEqual(["task", "caller"]);
  });

  test.each([0, 1, 2, 3, 4, 5, 6, 7, 8])(
    "leaves no lock behind when the abort comes %s microtasks after the grant",
    async (microtasks) => {
      const lock = new Lock();
      const held = await lock.lock();
      const controller = new AbortController();
      const options = { signal: controller.signal };
      const result = timeout((signal) => lock.lock({ signal }), Infinity, options).then(
        (permit) => permit.release(),
        (reason: unknown) => expect(reason).toBe("stop"),
      );

      held.release();
      for (let n = 0; n < microtasks; n++) await null;
      controller.abort("stop");
      await result;
      await turn();

      expect(lock.locked).toBe(false);
    },
  );

  it.each<[string, (hold: Hold) => unknown]>([
    ["a hold", (hold) => hold],
    ["a list of holds", (hold) => [hold]],
    ["a list with something hostile before the hold", (hold) => [revokedProxy(), hold]],
  ])("releases %s that comes too late, once", async (_, wrap) => {
    const hold = new Hold();
    const task = () => sleep(200).then(() => wrap(hold));
    expect(await rejection(timeout(task, 100))).toMatchObject(timedOut(100));

    await sleep(200);

    expect(hold.releases).toBe(1);
  });

  it("leaves alone other disposables, and holds that it delivers", async () => {
    let disposals = 0;
    const shared = { [Symbol.dispose]: () => void disposals++ };
    await rejection(timeout(() => sleep(200).then(() => shared), 100));
    const hold = await timeout(() => new Hold(), 100);
    await sleep(200);

    expect([disposals, hold.releases]).toEqual([0, 0]);
  });

  describe("reschedule", () => {
    it.each([
      { limits: [80, 80, 80], ends: 230, why: "extends the limit" },
      { limits: [5], ends: 55, why: "shortens it" },
      { limits: [0], ends: 50, why: "may say that the time is up" },
      { limits: [Infinity, 2 ** 31], ends: 100 + 2 ** 31, why: "may take it off for a while" },
    ])("$why: $limits ms from each call on", async ({ limits, ends }, clock) => {
      let given: AbortSignal | undefined;
      const task: TimedTask<void> = async (signal, reschedule) => {
        given = signal;
        for (const ms of limits) {
          await sleep(50);
          reschedule(ms);
        }
        await sleep(Infinity, { signal });
      };

      const error = await rejection(timeout(task, 100));

      expect(error).toMatchObject(timedOut(limits.at(-1)!));
      expect(given?.reason).toBe(error);
      expect([clock.elapsed, clock.pending]).toEqual([ends, 0]);
    });

    it.each(["done", "failed", "timed out", "aborted"])(
      "does nothing when the task is %s",
      async (how, clock) => {
        const { controller, listeners } = watchedController();
        let late = (_ms: number) => {};
        const task: TimedTask<void> = async (_, reschedule) => {
          late = reschedule;
          if (how === "aborted") controller.abort("stop");
          if (how === "timed out") await sleep(200);
          if (how === "failed") throw "broken";
        };
        await Promise.allSettled([timeout(task, 100, { signal: controller.signal })]);

        late(50);

        expect([clock.pending, listeners()]).toEqual([how === "timed out" ? 1 : 0, 0]);
        await sleep(200);
      },
    );

    test.each([-1, NaN, "5"])("refuses %d ms, and leaves the limit as it was", async (ms) => {
      const kind = ms === "5" ? TypeError : RangeError;
      const task: TimedTask<unknown> = (_, reschedule) => thrownBy(() => reschedule(ms as number));

      expect(await timeout(task, 100)).toEqual(
        new kind(
          `Cannot reschedule: ms must be a number of 0 or more, received ${ms === "5" ? '"5"' : ms}`,
        ),
      );
    });
  });

  test("infers from tasks that return a value or a promise", () => {
    const mixed = () => timeout((): number | Promise<string> => 5, 100);
    const explicit = () => timeout<number>(async () => 5, 100);
    const generic = <T>(task: Task<T>): Promise<T> => timeout(task, 100);

    expectTypeOf(mixed).returns.toEqualTypeOf<Promise<string | number>>();
    expectTypeOf(explicit).returns.toEqualTypeOf<Promise<number>>();
    expectTypeOf(generic(async () => 5)).toEqualTypeOf<Promise<number>>();
  });
});

describe("abortable", () => {
  test.each([
    ["no signal", undefined],
    ["a signal", new AbortController().signal],
  ])("with %s, settles as the promise does", async (_, signal) => {
    const thenable: PromiseLike<string> = {
      then: (...args) => Promise.resolve("odd").then(...args),
    };

    expect(await abortable(Promise.resolve("fine"), signal)).toBe("fine");
    expect(await abortable(thenable, signal)).toBe("odd");
    expect(await rejection(abortable(Promise.reject("failed"), signal))).toBe("failed");
  });

  test("stops listening when the promise has settled", async () => {
    const { controller, listeners } = watchedController();

    await abortable(Promise.resolve(), controller.signal);
    await rejection(abortable(Promise.reject("failed"), controller.signal));

    expect(listeners()).toBe(0);
  });

  test("aborted before, it rejects with the reason even if the promise has settled", async () => {
    const { controller, listeners } = watchedController();
    controller.abort("stop");

    expect(await rejection(abortable(Promise.resolve("fine"), controller.signal))).toBe("stop");
    expect(await rejection(abortable(new Promise(() => {}), controller.signal))).toBe("stop");

    expect(listeners()).toBe(0);
  });

  test.each(["before", "while waiting"])(
    "aborted %s, it leaves nothing unhandled when the promise fails later",
    async (when) => {
      await withoutUnhandled(async () => {
        const controller = new AbortController();
        const promise = Promise.withResolvers<void>();
        if (when === "before") controller.abort("stop");
        const waiting = abortable(promise.promise, controller.signal);
        controller.abort("stop");
        expect(await rejection(waiting)).toBe("stop");

        promise.reject(new Error("late"));
      });
    },
  );

  test.each([5, null, "promise"])("refuses %s, which is not a promise", async (value) => {
    const promise = value as unknown as Promise<void>;

    expect(await rejection(abortable(promise, undefined))).toEqual(
      new TypeError(
        `Cannot wait: promise must be a promise, received ${value === "promise" ? '"promise"' : value}`,
      ),
    );
  });

  test("refuses a signal that is not an AbortSignal", async () => {
    const signal = {} as AbortSignal;

    expect(await rejection(abortable(Promise.resolve(), signal))).toEqual(
      new TypeError("Cannot wait: signal must be an AbortSignal, received Object"),
    );
  });

  test("aborted before, it does not call the `then` of a thenable", async () => {
    let calls = 0;
    // oxlint-disable-next-line no-thenable
    const query = { then: () => void calls++ } as unknown as Promise<void>;

    expect(await rejection(abortable(query, AbortSignal.abort("stop")))).toBe("stop");
    await turn();

    expect(calls).toBe(0);
  });

  test("calls the `then` of a thenable at once, and never after an abort", async () => {
    const controller = new AbortController();
    const abortedAtCall: boolean[] = [];
    // oxlint-disable-next-line no-thenable
    const query = { then: () => void abortedAtCall.push(controller.signal.aborted) };
    const waiting = rejection(abortable(query as unknown as Promise<void>, controller.signal));

    controller.abort("stop");

    expect(await waiting).toBe("stop");
    await turn();
    expect(abortedAtCall).toEqual([false]);
  });

  test("listens before it calls `then`, which may abort from inside the call", async () => {
    const { controller, listeners } = watchedController();
    // oxlint-disable-next-line no-thenable
    const query = { then: () => controller.abort("stop") } as unknown as Promise<void>;

    expect(await rejection(abortable(query, controller.signal))).toBe("stop");
    expect(listeners()).toBe(0);
  });

  test("rejects with what `then` throws, and unwraps a thenable within a thenable", async () => {
    const error = new Error("failed");
    // oxlint-disable-next-line no-thenable
    const broken = { then: () => raise(error) } as PromiseLike<never>;
    // oxlint-disable-next-line no-thenable
    const nested = {
      then: (resolve: (inner: unknown) => void) => resolve(Promise.resolve("inner")),
    };

    expect(await rejection(abortable(broken, undefined))).toBe(error);
    expect(await abortable(nested as PromiseLike<unknown>, undefined)).toBe("inner");
  });

  test("aborted before, it does not start a promise that starts at its `then`", async () => {
    await withoutUnhandled(async () => {
      const query = Promise.reject(new Error("failed"));
      let starts = 0;
      query.then = () => raise(new Error(`started ${++starts} times`));

      expect(await rejection(abortable(query, AbortSignal.abort("stop")))).toBe("stop");
      await turn();

      expect(starts).toBe(0);
    });
  });

  test("however many callers wait and leave, the promise has one reaction", async () => {
    const promise = new Promise<void>(() => {});
    let reactions = 0;
    const then = promise.then.bind(promise) as (...args: unknown[]) => Promise<void>;
    promise.then = ((...args: unknown[]) => (reactions++, then(...args))) as typeof promise.then;

    for (let n = 0; n < 100; n++) {
      const controller = new AbortController();
      const waiting = rejection(abortable(promise, controller.signal));
      controller.abort(n);
      expect(await waiting).toBe(n);
    }

    expect(reactions).toBe(1);
  });

  test.each(["before", "while waiting"])(
    "aborted %s, it releases a hold that comes later, once",
    async (when) => {
      const controller = new AbortController();
      const { promise, resolve } = Promise.withResolvers<Hold>();
      if (when === "before") controller.abort("stop");
      const waiting = [1, 2].map(() => rejection(abortable(promise, controller.signal)));
      controller.abort("stop");
      expect(await Promise.all(waiting)).toEqual(["stop", "stop"]);
      const hold = new Hold();

      resolve(hold);
      await turn();

      expect(hold.releases).toBe(1);
    },
  );

  test("a hold that another has received is not released when a later one leaves", async () => {
    const promise = Promise.resolve(new Hold());
    const controller = new AbortController();

    const hold = await abortable(promise, undefined);
    const leaving = rejection(abortable(promise, controller.signal));
    controller.abort("stop");

    expect(await leaving).toBe("stop");
    await turn();
    expect(hold.releases).toBe(0);
  });

  test("a hold that another waiter receives is not released", async () => {
    const controller = new AbortController();
    const { promise, resolve } = Promise.withResolvers<Hold>();
    const staying = abortable(promise, undefined);
    const leaving = rejection(abortable(promise, controller.signal));
    controller.abort("stop");
    expect(await leaving).toBe("stop");

    resolve(new Hold());
    await turn();

    expect((await staying).releases).toBe(0);
  });
});

describe("poll", () => {
  it.each([0, 1, 5])(
    "returns the first truthy answer, here after %d falsy ones",
    async (others, clock) => {
      const answers = [...Array<undefined>(others), "yes"];
      const later = [...answers];

      const answer: string = await poll(() => answers.shift(), { interval: 10 });
      expect(answer).toBe("yes");
      expect(clock.elapsed).toBe(others * 10);
      expect(await poll(async () => later.shift(), { interval: 10 })).toBe("yes");

      expect([clock.elapsed, clock.pending]).toEqual([others * 20, 0]);
    },
  );

  it("calls at once, and again after each falsy answer", async () => {
    const answers = [false, 0, 0n, "", null, undefined, NaN, "yes"];

    const polling = poll(() => answers.shift(), { interval: 0 });

    expect(answers).toHaveLength(7);
    expect(await polling).toBe("yes");
    expect(answers).toHaveLength(0);
  });

  it("the interval counts from the end of a call, so that calls never overlap", async (clock) => {
    const calls: number[] = [];

    await poll(
      async () => {
        calls.push(clock.elapsed);
        await sleep(30);
        return calls.length === 3;
      },
      { interval: 10 },
    );

    expect(calls).toEqual([0, 40, 80]);
    expect(clock.elapsed).toBe(110);
  });

  it.each<[string, () => never | Promise<never>]>([
    ["thrown", () => raise(new Error("failed"))],
    ["rejected", () => Promise.reject(new Error("failed"))],
  ])("a %s error ends it at once", async (_, fail, clock) => {
    let calls = 0;
    const fn = () => (++calls === 2 ? fail() : false);

    expect(await rejection(poll(fn, { interval: 10, timeout: 100 }))).toEqual(new Error("failed"));

    expect([calls, clock.elapsed, clock.pending]).toEqual([2, 10, 0]);
  });

  it("gives up with a TimeoutError, and stops calling", async (clock) => {
    let calls = 0;

    const error = await rejection(poll(() => void calls++, { interval: 10, timeout: 25 }));

    expect(error).toMatchObject(timedOut(25));
    expect([clock.elapsed, clock.pending, calls]).toEqual([25, 0, 3]);
  });

  it("gives up a call that hangs, and aborts its signal", async (clock) => {
    let given: AbortSignal | undefined;
    const hang: Task<boolean> = (signal) => new Promise(() => (given = signal));
    const { signal } = new AbortController();

    const error = await rejection(poll(hang, { interval: 10, timeout: 100, signal }));

    expect(error).toMatchObject(timedOut(100));
    expect(given?.reason).toBe(error);
    expect(clock.elapsed).toBe(100);
  });

  it("does not call again when a call that was given up answers after all", async (clock) => {
    let calls = 0;
    const slow = async () => {
      calls++;
      await sleep(500);
      return false;
    };

    expect(await rejection(poll(slow, { interval: 10, timeout: 100 }))).toMatchObject(
      timedOut(100),
    );
    await sleep(1000);

    expect([calls, clock.pending]).toEqual([1, 0]);
  });

  it.each<[string, Task<boolean>]>([
    ["between two calls", () => false],
    ["while a call hangs", () => new Promise(() => {})],
  ])("aborted %s, it rejects with the reason and leaves no trace", async (_, fn, clock) => {
    const { controller, listeners } = watchedController();
    const aborting = sleep(45).then(() => controller.abort("stop"));

    const polling = poll(fn, { interval: 10, timeout: 1000, signal: controller.signal });

    expect(await rejection(polling)).toBe("stop");
    expect([clock.elapsed, clock.pending, listeners()]).toEqual([45, 0, 0]);
    await aborting;
  });

  test("aborted before, it does not call", async () => {
    let calls = 0;
    const signal = AbortSignal.abort("stop");

    expect(await rejection(poll(() => ++calls, { interval: 10, signal }))).toBe("stop");

    expect(calls).toBe(0);
  });

  test.each([
    ["interval", -1, RangeError],
    ["interval", NaN, RangeError],
    ["interval", undefined, TypeError],
    ["timeout", -1, RangeError],
    ["timeout", "10", TypeError],
  ])("refuses the %s %s, and does not call", async (name, value, Kind) => {
    let calls = 0;
    const options = { interval: 10, [name]: value };

    expect(await rejection(poll(() => ++calls, options))).toEqual(
      new Kind(
        `Cannot poll: ${name} must be a number of 0 or more, received ${typeof value === "string" ? `"${value}"` : value}`,
      ),
    );

    expect(calls).toBe(0);
  });

  test("refuses a value that is not a function", async () => {
    const value = 1 as unknown as Task<boolean>;

    expect(await rejection(poll(value, { interval: 10 }))).toEqual(
      new TypeError("Cannot poll: fn must be a function, received 1"),
    );
  });

  it("does not call again when the abort falls between the timer and the call", async () => {
    const controller = new AbortController();
    let calls = 0;
    const polling = poll(() => void calls++, { interval: 10, signal: controller.signal });
    setTimeout(() => queueMicrotask(() => controller.abort("stop")), 10);
    expect(await rejection(polling)).toBe("stop");
    await sleep(100);

    expect(calls).toBe(1);
  });

  it.each([0, 1, 2, 3, 4, 5])(
    "does not call after an abort that comes %s microtasks after the timer",
    async (microtasks) => {
      const controller = new AbortController();
      let callsAfterAbort = 0;
      const fn = () => void (controller.signal.aborted && callsAfterAbort++);
      const polling = rejection(poll(fn, { interval: 10, signal: controller.signal }));
      await sleep(10);
      for (let n = 0; n < microtasks; n++) await null;
      controller.abort("stop");

      expect(await polling).toBe("stop");
      await sleep(100);
      expect(callsAfterAbort).toBe(0);
    },
  );

  it("releases a hold that a call returns too late", async () => {
    const hold = new Hold();
    const fn = () => sleep(200).then(() => hold);
    expect(await rejection(poll(fn, { interval: 10, timeout: 100 }))).toMatchObject(timedOut(100));

    await sleep(200);

    expect(hold.releases).toBe(1);
  });

  test("infers the truthy part of a value or a promise", () => {
    const mixed = () => poll((): 0 | Promise<string | null> => 0, { interval: 1 });

    expectTypeOf(mixed).returns.toEqualTypeOf<Promise<string>>();
  });
});

describe("lazy", () => {
  it("runs at the first call, and only once", async (clock) => {
    let runs = 0;
    const get = lazy(async () => {
      await sleep(100);
      return { run: ++runs };
    });
    await sleep(1000);
    expect(runs).toBe(0);

    const [first, second] = await Promise.all([get(), get()]);
    const third = await get();

    expect(first).toEqual({ run: 1 });
    expect(second).toBe(first);
    expect(third).toBe(first);
    expect(clock.elapsed).toBe(1100);
  });

  test.each([undefined, 0, "value"])("remembers %s from a plain function", async (value) => {
    let runs = 0;
    const get = lazy(() => (runs++, value));

    expect([await get(), await get()]).toEqual([value, value]);

    expect(runs).toBe(1);
  });

  test.each<[string, (error: Error) => never | Promise<never>]>([
    ["throws", raise],
    ["rejects", (error) => Promise.reject(error)],
  ])(
    "when it %s, all waiting callers get the error, and the next call tries again",
    async (_, fail) => {
      let runs = 0;
      const get = lazy(() => (++runs === 1 ? fail(new Error("failed")) : runs));

      const [first, second] = (await Promise.allSettled([get(), get()])) as PromiseRejectedResult[];
      expect(first?.reason).toEqual(new Error("failed"));
      expect(second?.reason).toBe(first?.reason);

      expect(await get()).toBe(2);
      expect(await get()).toBe(2);
    },
  );

  test("has forgotten a failure by the time a caller sees it", async () => {
    let runs = 0;
    const get = lazy(() => (++runs === 1 ? raise(new Error("failed")) : "recovered"));

    expect(await get().catch(() => get())).toBe("recovered");
  });

  it("when all callers have left, it goes on for later ones", async (clock) => {
    const controller = new AbortController();
    const get = lazy(() => sleep(100).then(() => "ready"));
    const leaving = get({ signal: controller.signal });
    controller.abort("stop");
    expect(await rejection(leaving)).toBe("stop");

    await sleep(100);

    expect(await get()).toBe("ready");
    expect(clock.elapsed).toBe(100);
  });

  test("when all callers have left, a failure is handled, and forgotten", async () => {
    const failing = Promise.withResolvers<string>();
    const runs = [failing.promise, Promise.resolve("recovered")];
    const get = lazy(() => runs.shift()!);

    await withoutUnhandled(async () => {
      const controller = new AbortController();
      const leaving = get({ signal: controller.signal });
      controller.abort("stop");
      expect(await rejection(leaving)).toBe("stop");
      failing.reject(new Error("late"));
    });

    expect(await get()).toBe("recovered");
  });

  test("does not run for a caller whose signal is aborted already", async () => {
    let runs = 0;
    const get = lazy(() => ++runs);
    const signal = AbortSignal.abort("stop");

    expect(await rejection(get({ signal }))).toBe("stop");
    expect(runs).toBe(0);

    await get();
    expect(await rejection(get({ signal }))).toBe("stop");
  });

  test("refuses a value that is not a function", () => {
    const promise = Promise.resolve() as unknown as () => void;

    expect(thrownBy(() => lazy(promise))).toEqual(
      new TypeError("Cannot create lazy: init must be a function, received Promise"),
    );
  });

  test("does not run init again when called from inside init", async () => {
    let runs = 0;
    let inner: Promise<number> | undefined;
    const get: () => Promise<number> = lazy(() => {
      runs++;
      inner = get();
      return runs;
    });

    expect(await get()).toBe(1);
    expect(await inner).toBe(1);
    expect(runs).toBe(1);
  });

  test("hears an abort from inside init", async () => {
    const { controller, listeners } = watchedController();
    const get = lazy(() => {
      controller.abort("stop");
      return new Promise<void>(() => {});
    });

    expect(await rejection(get({ signal: controller.signal }))).toBe("stop");
    expect(listeners()).toBe(0);
  });

  test("delivers a value that is there, even if the abort comes right after the call", async () => {
    const controller = new AbortController();
    const get = lazy(() => "value");
    await get();

    const waiting = get({ signal: controller.signal });
    controller.abort("stop");

    expect(await waiting).toBe("value");
  });

  test.skipIf(!Bun)("keeps nothing of callers who leave while it hangs (needs Bun)", async () => {
    const get = lazy(() => new Promise<void>(() => {}));
    const reasons = Array.from({ length: 100 }, () => {
      const controller = new AbortController();
      const reason = new Error("stop");
      get({ signal: controller.signal }).catch(() => {});
      controller.abort(reason);
      return new WeakRef(reason);
    });

    await turn();
    Bun!.gc(true);

    const kept = reasons.filter((reason) => reason.deref() !== undefined).length;
    expect(kept < 50).toBe(true);
  });

  test("peek() returns the value once it is there, and runs nothing", async () => {
    let runs = 0;
    const get = lazy(async () => ++runs);

    expect([get.peek(), runs]).toEqual([undefined, 0]);
    const first = get();
    expect([get.peek(), runs]).toEqual([undefined, 1]);
    await first;
    expect([get.peek(), runs]).toEqual([1, 1]);
  });

  test("reset() forgets the value, and the next call runs again", async () => {
    let runs = 0;
    const get = lazy(() => ++runs);

    expect(await get()).toBe(1);
    get.reset();
    expect(get.peek()).toBeUndefined();
    expect([await get(), await get(), get.peek()]).toEqual([2, 2, 2]);
  });

  it.each(["succeeds", "fails"])(
    "a run that was reset is for those who wait for it, and leaves the next one alone when it %s",
    async (how) => {
      let runs = 0;
      const get = lazy(async () => {
        const run = ++runs;
        await sleep(run === 1 ? 60 : 100);
        if (run === 1 && how === "fails") throw "failed";
        return run;
      });
      const old = Promise.allSettled([get(), get()]);
      get.reset();
      const next = get();
      await sleep(80);

      expect((await old).map((outcome) => Object.values(outcome)[1])).toEqual(
        how === "fails" ? ["failed", "failed"] : [1, 1],
      );
      expect(get.peek()).toBeUndefined();
      expect([await get(), await next, get.peek(), runs]).toEqual([2, 2, 2, 2]);
    },
  );

  test("infers from an init that returns a value or a promise", () => {
    const get = lazy((): number | Promise<string> => 5);

    expectTypeOf(get).returns.toEqualTypeOf<Promise<string | number>>();
  });
});

describe("yieldNow", () => {
  it("lets promises and due timers go first, and takes no time", async (clock) => {
    const order: string[] = [];
    setTimeout(() => order.push("due"), 0);
    setTimeout(() => order.push("not due"), 1);
    Promise.resolve()
      .then(() => {})
      .then(() => order.push("promise"));

    await yieldNow();

    expect(order).toEqual(["promise", "due"]);
    expect(clock.elapsed).toBe(0);
  });

  it.each(["before", "while waiting"])(
    "aborted %s, rejects with the reason",
    async (when, clock) => {
      const { controller, listeners } = watchedController();
      if (when === "before") controller.abort("stop");
      const yielding = yieldNow({ signal: controller.signal });
      controller.abort("stop");

      expect(await rejection(yielding)).toBe("stop");

      expect([clock.pending, listeners()]).toEqual([0, 0]);
    },
  );

  test("lets timers fire during a loop that never sleeps", async () => {
    const fired: string[] = [];
    setTimeout(() => fired.push("timer"), 1);

    while (fired.length === 0) await yieldNow();

    expect(fired).toEqual(["timer"]);
  });

  test("sets no timer", async () => {
    const platform = globalThis.setTimeout;
    globalThis.setTimeout = (() => raise(new Error("a timer"))) as unknown as typeof setTimeout;
    try {
      await yieldNow();
    } finally {
      globalThis.setTimeout = platform;
    }
  });

  test.each(["resolves", "rejects"])("without setImmediate, as in browsers, it %s", async (how) => {
    const platform = globalThis.setImmediate;
    globalThis.setImmediate = undefined as unknown as typeof setImmediate;
    try {
      const { controller, listeners } = watchedController();
      const yielding = yieldNow({ signal: controller.signal });
      if (how === "rejects") controller.abort("stop");

      if (how === "rejects") expect(await rejection(yielding)).toBe("stop");
      else expect(await yielding).toBeUndefined();
      expect(listeners()).toBe(0);
    } finally {
      globalThis.setImmediate = platform;
    }
  });

  test("stops listening when it is over", async () => {
    const { controller, listeners } = watchedController();

    await yieldNow({ signal: controller.signal });

    expect(listeners()).toBe(0);
  });
});

describe("run", () => {
  test.each([undefined, 0, 7])(
    "leaves an exit code of %s alone when main returns",
    async (code) => {
      using process = fakeProcess({ exitCode: code });

      expect(await run(async () => "result")).toBeUndefined();

      expect(process).toMatchObject({ exitCode: code, printed: [], exits: [] });
    },
  );

  const error = new Error("broken");
  test.each<[string, Task<never>, unknown]>([
    ["throws", () => raise(error), error],
    ["rejects", () => Promise.reject(error), error],
    ["rejects with null", () => Promise.reject(null), null],
    ["rejects with undefined", () => Promise.reject(), undefined],
    ["rejects with an AbortError", () => Promise.reject(abortError()), abortError()],
  ])("when main %s, prints the error, sets exit code 1, and fulfills", async (_, main, printed) => {
    using process = fakeProcess();

    expect(await run(main)).toBeUndefined();

    expect(process).toMatchObject({ exitCode: 1, printed: [printed], exits: [] });
  });

  test.each([
    ["SIGINT", 130],
    ["SIGTERM", 143],
  ] as const)("on %s aborts main, waits for its cleanup, and sets %d", async (name, exitCode) => {
    using process = fakeProcess();
    const steps: string[] = [];
    const running = run(async (signal) => {
      try {
        await sleep(Infinity, { signal });
      } finally {
        await turn();
        steps.push(`cleaned up: ${String(signal.reason)}`);
      }
    }).then(() => steps.push("over"));

    process.emit(name);
    await running;

    expect(steps).toEqual([`cleaned up: AbortError: Interrupted by ${name}`, "over"]);
    expect(process).toMatchObject({ exitCode, printed: [], exits: [] });
  });

  test.each([
    ["SIGINT", "SIGTERM", 143],
    ["SIGTERM", "SIGINT", 130],
    ["SIGINT", "SIGINT", 130],
  ] as const)("on %s and then %s exits at once with %d", async (first, second, exitCode) => {
    using process = fakeProcess();
    const cleanup = Promise.withResolvers<void>();
    const running = run(() => cleanup.promise);

    process.emit(first);
    expect(process.exits).toEqual([]);
    process.emit(second);

    expect(process.exits).toEqual([exitCode]);
    cleanup.resolve();
    await running;
  });

  test("leaves the exit code alone when main returns after a signal", async () => {
    using process = fakeProcess();
    const running = run((signal) => sleep(Infinity, { signal }).catch(() => {}));

    process.emit("SIGTERM");
    await running;

    expect(process).toMatchObject({ exitCode: undefined, printed: [] });
  });

  test("takes an AbortError caused by the reason for an interruption", async () => {
    using process = fakeProcess();
    const running = run(async (signal) => {
      await sleep(Infinity, { signal }).catch(() => {});
      throw abortError({ cause: signal.reason });
    });

    process.emit("SIGTERM");
    await running;

    expect(process).toMatchObject({ exitCode: 143, printed: [] });
  });

  test.each<[string, (reason: unknown) => unknown]>([
    ["another error", () => new Error("not saved")],
    ["undefined", () => undefined],
    ["an AbortError with another cause", () => abortError({ cause: "another" })],
    ["an error with the reason as its cause", (cause) => new Error("not saved", { cause })],
    [
      "a SuppressedError of a cleanup",
      (reason) => new SuppressedError(new Error("not saved"), reason),
    ],
    ["throwing getters", hostileError],
    ["a revoked proxy", revokedProxy],
  ])(
    "when main throws %s after a signal, prints it and sets exit code 1",
    async (_, errorAfter) => {
      using process = fakeProcess();
      let error: unknown;
      const running = run(async (signal) => {
        await sleep(Infinity, { signal }).catch(() => {});
        throw (error = errorAfter(signal.reason));
      });

      process.emit("SIGINT");
      await running;

      expect(process.exitCode).toBe(1);
      expect(process.printed.map((printed) => printed === error)).toEqual([true]);
    },
  );

  test("prints the kind of an error that cannot be printed", async () => {
    using process = fakeProcess();
    process.print = (printed) => void (typeof printed === "string" || raise(new Error("hostile")));

    await run(() => Promise.reject(new Map()));

    expect(process).toMatchObject({
      exitCode: 1,
      printed: [new Map(), "An error that can't be printed: Map"],
    });
  });

  test.each<[string, Task<void>]>([
    ["returns", () => {}],
    ["throws", () => raise(error)],
  ])("listens while main runs, and stops when it %s", async (_, main) => {
    using process = fakeProcess();
    const { controller, listeners } = watchedController();
    const counts = () => [process.listeners("SIGINT"), process.listeners("SIGTERM"), listeners()];
    let during: number[] = [];

    await run(
      (signal) => {
        during = counts();
        return main(signal);
      },
      { signal: controller.signal },
    );

    expect(during).toEqual([1, 1, 1]);
    expect(counts()).toEqual([0, 0, 0]);
  });

  test("can be aborted from outside; the reason is then an error like any other", async () => {
    using process = fakeProcess();
    const controller = new AbortController();
    const running = run((signal) => sleep(Infinity, { signal }), { signal: controller.signal });

    controller.abort("enough");
    process.emit("SIGINT");
    await running;

    expect(process).toMatchObject({ exitCode: 1, printed: ["enough"], exits: [] });
  });

  test("aborted before, it does not call main", async () => {
    using process = fakeProcess();
    let calls = 0;

    await run(() => void calls++, { signal: AbortSignal.abort("enough") });

    expect(calls).toBe(0);
    expect(process).toMatchObject({ exitCode: 1, printed: ["enough"] });
    expect([process.listeners("SIGINT"), process.listeners("SIGTERM")]).toEqual([0, 0]);
  });

  test.each([
    ["no process", undefined],
    ["a process that has only env", { env: {} }],
  ])("with %s, as in a browser, it only reports the error", async (_, substitute) => {
    using process = fakeProcess();
    process.replaceBy(substitute);

    await run(() => {});
    await run(() => Promise.reject("broken"));

    expect(process.printed).toEqual(["broken"]);
  });

  test("releases a hold that main returns", async () => {
    const hold = new Hold();

    await run(() => hold);

    expect(hold.releases).toBe(1);
  });

  test("refuses a value that is not a function", async () => {
    const promise = Promise.resolve() as unknown as Task<void>;

    expect(await rejection(run(promise))).toEqual(
      new TypeError("Cannot run: main must be a function, received Promise"),
    );
  });

  describe("in a process of its own", () => {
    test.skipIf(!Bun)("does not end the program after a failure (needs Bun)", async () => {
      await using program = start(`
        setTimeout(() => console.log("timers go on"), 0);
        await run(() => { throw new Error("broken"); });
        console.log("code goes on");
      `);

      const { exitCode, stdout, stderr } = await program.end();

      expect([exitCode, stdout]).toEqual([1, "code goes on\ntimers go on\n"]);
      expect(stderr).toContain("broken");
    });

    test.skipIf(!Bun)("exits after the cleanup, with the signal's code (needs Bun)", async () => {
      await using program = start(`
        await run(async (signal) => {
          console.log("ready");
          await sleep(60_000, { signal }).finally(() => console.log("cleaned up"));
        });
      `);
      await program.printed("ready");

      program.kill("SIGINT");

      const stdout = "ready\ncleaned up\n";
      expect(await program.end()).toEqual({ exitCode: 130, stdout, stderr: "" });
    });

    test.skipIf(!Bun)("exits during the cleanup on a second signal (needs Bun)", async () => {
      await using program = start(`
        await run(async (signal) => {
          console.log("ready");
          await sleep(60_000, { signal }).catch(() => console.log("cleaning up"));
          await sleep(60_000);
        });
      `);
      await program.printed("ready");
      program.kill("SIGINT");
      await program.printed("cleaning up");

      program.kill("SIGTERM");

      expect((await program.end()).exitCode).toBe(143);
    });
  });
});

describe("in every order", () => {
  test("timeout: the first of result, time and abort decides; a late hold is dropped", async () => {
    await everyOrder(async (world) => {
      const { controller, listeners } = watchedController();
      world.abort(controller, { reason: "stop" });
      const own = Promise.withResolvers<AbortSignal>();
      const ended = Promise.withResolvers<Hold | undefined>();
      const task: TimedTask<Hold> = async (signal, reschedule) => {
        own.resolve(signal);
        let hold: Hold | undefined;
        try {
          await world.step("begins", { fails: "failed" });
          reschedule(20);
          // It ignores its signal.
          await world.step("ends", { fails: "failed" });
          return (hold = new Hold());
        } finally {
          ended.resolve(hold);
        }
      };

      const outcome = await outcomeOf(timeout(task, 10, controller));

      const { aborted, reason } = await own.promise;
      expect(listeners()).toBe(0);
      const hold = await ended.promise;
      await microtasks(10);
      if (!aborted)
        expect<unknown[]>([{ value: hold }, { error: "failed" }]).toContainEqual(outcome);
      else {
        expect(outcome).toEqual({ error: reason });
        expect(reason === "stop" || reason.name === "TimeoutError").toBe(true);
      }
      if (reason === "stop") expect(controller.signal.aborted).toBe(true);
      if (hold) expect(hold.releases).toBe(aborted ? 1 : 0);
    });
  }, 120_000);

  test("abortable: each caller leaves alone, and a hold is dropped if all have", async () => {
    await everyOrder(async (world) => {
      const hold = new Hold();
      const work = world.step("work", { fails: "failed" }).then(() => hold);
      let releasesWhenReceived: number | undefined;
      const [one, two] = [watchedController(), watchedController()];
      for (const { controller } of [one, two]) world.abort(controller, { reason: "stop" });
      const callers = Object.entries({ ann: one, bob: two, cid: two }).map(([name, leaver]) => {
        const { controller, listeners } = leaver;
        const wait = async () => {
          const outcome = await outcomeOf(abortable(work, controller.signal));
          if (outcome.value) releasesWhenReceived ??= hold.releases;
          return { outcome, wasAborted: controller.signal.aborted };
        };
        return { listeners, waiting: world.spawn(name, wait) };
      });
      const result = await outcomeOf(work);

      for (const { waiting } of callers) {
        const { outcome, wasAborted } = await waiting;
        if (outcome.error === "stop") expect(wasAborted).toBe(true);
        else expect(outcome).toEqual(result);
      }
      expect(callers.map(({ listeners }) => listeners())).toEqual([0, 0, 0]);
      await microtasks(10);
      if (result.value) expect(hold.releases).toBe(releasesWhenReceived ?? 1);
    });
  }, 120_000);

  test("lazy: one run at a time, one result for all, and another try after a failure", async () => {
    await everyOrder(async (world) => {
      const { controller, listeners } = watchedController();
      world.abort(controller, { reason: "stop" });
      let [running, overlaps, failures] = [0, 0, 0];
      const made: Hold[] = [];
      const steps: Promise<void>[] = [];
      const get = lazy(async () => {
        overlaps += running++;
        try {
          if (made.length > 0) overlaps++;
          const step = world.step("init", { fails: "failed" });
          steps.push(step);
          await step;
          const hold = new Hold();
          made.push(hold);
          return hold;
        } catch (error) {
          failures++;
          throw error;
        } finally {
          running--;
        }
      });
      const call = async (options?: WaitOptions) => {
        const before = failures;
        const { value, error } = await outcomeOf(get(options));
        if (value) expect([value, get.peek()]).toEqual([made[0], made[0]]);
        else if (error === "stop") expect(options?.signal?.aborted).toBe(true);
        // It has waited for the run that failed.
        else expect([error, failures > before]).toEqual(["failed", true]);
      };

      await Promise.all([
        world.spawn("ann", () => call(controller)),
        world.spawn("bob", () => call()),
        world.spawn("cid", () => call()),
      ]);
      await Promise.allSettled(steps);

      expect([overlaps, listeners()]).toEqual([0, 0]);
      for (const hold of made) expect(hold.releases).toBe(0);
    });
  }, 120_000);

  test("lazy, reset: a caller gets what was made for it, and drops it if all have left", async () => {
    await everyOrder(async (world) => {
      const { controller } = watchedController();
      const { signal } = controller;
      world.abort(controller, { reason: "stop" });
      let resets = 0;
      const runs: { after: number; step: Promise<void>; hold?: Hold; isLate?: boolean }[] = [];
      const get = lazy(async () => {
        const step = world.step("init", { fails: "failed" });
        const run: (typeof runs)[number] = { after: resets, step };
        runs.push(run);
        await step;
        run.isLate = signal.aborted;
        return (run.hold = new Hold());
      });
      const kept = new Set<unknown>();
      const call = async (options?: WaitOptions) => {
        const before = resets;
        const { value } = await outcomeOf(get(options));
        if (!value) return;
        kept.add(value);
        const run = runs.find(({ hold }) => hold === value)!;
        expect(run.after >= before).toBe(true);
        if (options) expect(run.isLate).toBe(false);
      };

      await Promise.all([
        world.spawn("ann", () => call({ signal })),
        world.spawn("bob", () => call()),
        world.spawn("reset", () => {
          // What is forgotten may be in use, and is not released.
          kept.add(get.peek());
          resets++;
          get.reset();
        }),
      ]);
      await Promise.allSettled(runs.map(({ step }) => step));
      await microtasks(10);

      const last = runs.at(-1)!;
      expect(get.peek()).toBe(last.after === resets ? last.hold : undefined);
      kept.add(get.peek());
      for (const { hold } of runs) if (hold) expect(hold.releases).toBe(kept.has(hold) ? 0 : 1);
    });
  }, 120_000);
});

describe("every function with options", () => {
  let calls = 0;
  const count = () => ++calls;
  test.each<[string, (options: WaitOptions) => Promise<unknown>]>([
    ["sleep", (options) => sleep(1, options)],
    ["time out", (options) => timeout(count, 1, options)],
    ["poll", (options) => poll(count, options as PollOptions)],
    ["wait for lazy", (options) => lazy(count)(options)],
    ["yield", (options) => yieldNow(options)],
    ["run", (options) => run(count, options)],
  ])("refuses options of the wrong kind: cannot %s", async (action, call) => {
    const message = async (options: unknown) => {
      const error = await rejection(call(options as WaitOptions));
      expect(error).toBeInstanceOf(TypeError);
      return (error as Error).message;
    };
    const isWrong = `Cannot ${action}: options must be an object, received`;

    expect(await message(null)).toBe(`${isWrong} null`);
    expect(await message(5)).toBe(`${isWrong} 5`);
    expect(await message(new AbortController().signal)).toBe(`${isWrong} AbortSignal`);
    expect(await message({ signal: "stop" })).toBe(
      `Cannot ${action}: signal must be an AbortSignal, received "stop"`,
    );
    expect(calls).toBe(0);
  });
});

function raise(error: Error): never {
  throw error;
}

/**
 * What the promise rejects with. Unlike `expect().rejects` it does not block while it waits: a
 * promise that never settles is a deadlock of virtual time, or a test that times out.
 */
async function rejection(promise: Promise<unknown>): Promise<unknown> {
  const result = await promise.then(
    (value) => ({ value }),
    (reason: unknown) => ({ reason }),
  );
  if ("reason" in result) return result.reason;
  throw new Error(`Expected a rejection, received ${String(result.value)}`);
}

/** A hold: it can be released and is disposable. Counts how often it has been released. */
class Hold {
  releases = 0;
  release(): void {
    this.releases++;
  }
  [Symbol.dispose](): void {
    this.release();
  }
}

/** A lock that is small enough for a test. Grants in order, and rejects when it is aborted. */
class Lock {
  locked = false;
  readonly #waiting: { grant: () => void; signal: AbortSignal | undefined }[] = [];

  async lock({ signal }: WaitOptions = {}): Promise<Hold> {
    signal?.throwIfAborted();
    const granted = Promise.withResolvers<void>();
    if (this.locked) this.#waiting.push({ grant: granted.resolve, signal });
    else granted.resolve();
    this.locked = true;
    await granted.promise;
    const hold = new Hold();
    hold.release = () => {
      if (hold.releases++ > 0) return;
      const next = this.#waiting.shift();
      if (next) next.grant();
      else this.locked = false;
    };
    return hold;
  }
}

function revokedProxy(): object {
  const { proxy, revoke } = Proxy.revocable({}, {});
  revoke();
  return proxy;
}

/** A turn of the event loop. */
function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

/** What there is to see of a TimeoutError. */
function timedOut(ms: number) {
  return { name: "TimeoutError", message: `Timed out after ${ms} ms` };
}

/** What a function throws. (`toThrow` compares the messages of errors, but not their classes.) */
function thrownBy(fn: () => unknown): unknown {
  try {
    fn();
  } catch (error) {
    return error;
  }
  throw new Error("nothing was thrown");
}

/** An AbortController, and a function that counts the listeners which its signal has. */
function watchedController(): { controller: AbortController; listeners: () => number } {
  const controller = new AbortController();
  const { signal } = controller;
  const [add, remove] = [signal.addEventListener, signal.removeEventListener];
  let count = 0;
  signal.addEventListener = (...args: Parameters<typeof add>) => (count++, add.apply(signal, args));
  signal.removeEventListener = (...args: Parameters<typeof remove>) => (
    count--,
    remove.apply(signal, args)
  );
  return { controller, listeners: () => count };
}

/** Runs `act`; then bun:test fails the test if a rejection has been left unhandled. */
async function withoutUnhandled(act: () => Promise<unknown>): Promise<void> {
  await act();
  await new Promise((resolve) => setImmediate(resolve));
}

function abortError(options?: ErrorOptions): Error {
  return Object.assign(new Error("aborted", options), { name: "AbortError" });
}

function hostileError(): object {
  return {
    get name() {
      return raise(new Error("hostile"));
    },
  };
}

/**
 * Puts a `process` in the place of the platform's, and listens to what is printed to stderr, until it
 * is disposed of: signals are events of it, and exits do not end the test.
 */
function fakeProcess({ exitCode }: { exitCode?: number | undefined } = {}) {
  const platform = { process: globalThis.process, error: console.error };
  const listening: { name: string; listener: (name: string) => void }[] = [];
  const fake = {
    exitCode,
    exits: [] as number[],
    printed: [] as unknown[],
    print: (_printed: unknown) => {},
    exit: (code: number) => void fake.exits.push(code),
    on: (name: string, listener: (name: string) => void) => void listening.push({ name, listener }),
    off: (name: string, listener: (name: string) => void) => {
      const index = listening.findIndex((each) => each.name === name && each.listener === listener);
      listening.splice(index, index < 0 ? 0 : 1);
    },
    listeners: (name: string) => listening.filter((each) => each.name === name).length,
    emit: (name: string) => {
      for (const each of [...listening]) if (each.name === name) each.listener(name);
    },
    replaceBy: (process: unknown) => {
      globalThis.process = process as typeof globalThis.process;
    },
    [Symbol.dispose]: () => {
      fake.replaceBy(platform.process);
      console.error = platform.error;
    },
  };
  fake.replaceBy(fake);
  console.error = (printed) => {
    fake.printed.push(printed);
    fake.print(printed);
  };
  return fake;
}

/** Starts a process which runs the code with the concept at hand, and dies with the test. */
function start(code: string) {
  const concept = JSON.stringify(new URL("../concepts/async-basics.ts", import.meta.url).pathname);
  const program = `import { run, sleep } from ${concept}; ${code}`;
  const child = Bun!.spawn([process.execPath, "-e", program], { stdout: "pipe", stderr: "pipe" });
  const output = child.stdout.pipeThrough(new TextDecoderStream()).getReader();
  let stdout = "";
  const read = async () => {
    const { done, value = "" } = await output.read();
    stdout += value;
    return !done;
  };
  return {
    kill: (signal: NodeJS.Signals) => child.kill(signal),
    /** Waits until the program has printed the text. */
    printed: async (text: string) => {
      while (!stdout.includes(text)) if (!(await read())) throw new Error(`Not printed: ${text}`);
    },
    /** Waits for the program's end, and tells how it went. */
    end: async () => {
      const stderr = await new Response(child.stderr).text();
      while (await read());
      return { exitCode: await child.exited, stdout, stderr };
    },
    [Symbol.asyncDispose]: async () => {
      child.kill("SIGKILL");
      await child.exited;
    },
  };
}

/** A small part of the orders, or all with `bun run test:orders`. */
async function everyOrder(scenario: (world: World) => unknown): Promise<void> {
  const all = globalThis.process?.env["ORDERS"] === "all";
  const part = all ? { maxRuns: 200_000, maxMs: 60_000 } : { maxRuns: 300, maxMs: Infinity };
  const result = await interleavings(scenario, part);
  if (all) console.log(`orders: ${result.runs}`); // summed up by test:orders
}

function outcomeOf<T>(promise: Promise<T>): Promise<{ value?: T; error?: unknown }> {
  return promise.then(
    (value) => ({ value }),
    (error) => ({ error }),
  );
}

async function microtasks(count: number): Promise<void> {
  for (let n = 0; n < count; n++) await undefined;
}

/** A test in virtual time. In a table the clock comes after the row. */
function it(name: string, body: (clock: VirtualClock) => Promise<unknown>): void {
  test(name, async () => void (await virtualTime(body)));
}
it.each = ((rows: any[]) => (name: string, body: (...row: any[]) => Promise<unknown>) => {
  test.each(rows)(name, async (...row) => void (await virtualTime((clock) => body(...row, clock))));
}) as {
  <Row extends readonly [unknown, ...unknown[]]>(
    rows: readonly Row[],
  ): (name: string, body: (...args: [...Row, VirtualClock]) => Promise<unknown>) => void;
  <Row>(
    rows: readonly Row[],
  ): (name: string, body: (row: Row, clock: VirtualClock) => Promise<unknown>) => void;
};
