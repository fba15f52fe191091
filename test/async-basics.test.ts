/**
 * How to test code that waits: prove to the millisecond when it ends, that an abort ends it at once
 * with the very reason, and that no timer, no listener and no unhandled rejection is left. Time is
 * virtual throughout. A program's entry and its signals are tested with real processes, which are
 * waited for by what they print.
 */
import { describe, expect, test } from "bun:test";

import {
  abortable,
  lazy,
  poll,
  run,
  sleep,
  type Task,
  timeout,
  yieldNow,
} from "../concepts/async-basics.ts";
import { DeadlockError, virtualTime } from "../concepts/virtual-time.ts";

describe("sleep", () => {
  test.each([0, 0.5, 1, 100, 2 ** 31 - 1, 2 ** 31, 2 ** 32, 1e12])(
    "takes exactly %d ms",
    async (ms) => {
      await virtualTime(async (clock) => {
        await sleep(ms);

        expect(clock.elapsed).toBe(ms);
        expect(clock.pending).toBe(0);
      });
    },
  );

  test("lets other code run even if it takes no time", async () => {
    await virtualTime(async () => {
      let fired = false;
      setTimeout(() => (fired = true), 0);

      await sleep(0);

      expect(fired).toBe(true);
    });
  });

  test("many sleep at once, and wake in the order of their times", async () => {
    await virtualTime(async (clock) => {
      const woken: string[] = [];
      const sleeper = async (ms: number) => {
        await sleep(ms);
        woken.push(`${ms} at ${clock.elapsed}`);
      };

      await Promise.all([300, 100, 2 ** 31, 200].map(sleeper));

      expect(woken).toEqual(["100 at 100", "200 at 200", "300 at 300", "2147483648 at 2147483648"]);
    });
  });

  test("is not early when the platform's timer is", async () => {
    await virtualTime(async (clock) => {
      const exactTimeout = setTimeout;
      const hastyTimeout = (callback: () => void, ms: number) =>
        exactTimeout(callback, Math.max(1, ms - 1));
      globalThis.setTimeout = hastyTimeout as typeof setTimeout;

      await sleep(100);

      expect(clock.elapsed).toBe(100);
    });
  });

  test("without end it sets no timer, and waits for the signal", async () => {
    await virtualTime(async (clock) => {
      const { controller, listeners } = watchedController();

      const sleeping = sleep(Infinity, { signal: controller.signal });

      expect(clock.pending).toBe(0);
      controller.abort("stop");
      expect(await rejection(sleeping)).toBe("stop");
      expect(listeners()).toBe(0);
    });
  });

  test("without end and signal it never ends", async () => {
    expect(await rejection(virtualTime(() => sleep(Infinity)))).toBeInstanceOf(DeadlockError);
  });

  test.each([0, 100, Infinity])(
    "of %d ms, aborted before, rejects with the reason and leaves no trace",
    async (ms) => {
      await virtualTime(async (clock) => {
        const { controller, listeners } = watchedController();
        const reason = new Error("stop");
        controller.abort(reason);

        const sleeping = rejection(sleep(ms, { signal: controller.signal }));

        expect(clock.pending).toBe(0);
        expect(await sleeping).toBe(reason);
        expect(clock.elapsed).toBe(0);
        expect(listeners()).toBe(0);
      });
    },
  );

  test.each([
    { ms: 100, abortAt: 40 },
    { ms: 2 ** 32, abortAt: 40 },
    { ms: 2 ** 32, abortAt: 2 ** 31 + 40 },
  ])("of $ms ms, aborted at $abortAt, rejects then and leaves no trace", async (given) => {
    await virtualTime(async (clock) => {
      const { controller, listeners } = watchedController();
      const reason = new Error("stop");
      const aborting = sleep(given.abortAt).then(() => controller.abort(reason));

      expect(await rejection(sleep(given.ms, { signal: controller.signal }))).toBe(reason);

      expect(clock.elapsed).toBe(given.abortAt);
      expect(clock.pending).toBe(0);
      expect(listeners()).toBe(0);
      await aborting;
    });
  });

  test("listens no more once it is over, and a later abort changes nothing", async () => {
    await virtualTime(async () => {
      const { controller, listeners } = watchedController();
      const sleeping = sleep(100, { signal: controller.signal });
      expect(listeners()).toBe(1);

      await sleeping;
      expect(listeners()).toBe(0);

      controller.abort();
      await sleeping;
    });
  });

  test("a crowd on one signal needs one listener, and is woken together", async () => {
    await virtualTime(async (clock) => {
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
      expect(clock.elapsed).toBe(499.5);
      expect(clock.pending).toBe(0);
      expect(listeners()).toBe(0);
    });
  });

  test.each([-1, -Infinity, NaN])("refuses %d ms", async (ms) => {
    expect(await rejection(sleep(ms))).toEqual(
      new RangeError(`Cannot sleep: ms must be a number of 0 or more, received ${ms}`),
    );
  });

  test.each(["100", null, undefined, 100n])("refuses %s, which is no number", async (ms) => {
    expect(await rejection(sleep(ms as unknown as number))).toEqual(
      new TypeError(
        `Cannot sleep: ms must be a number of 0 or more, received ${typeof ms === "string" ? `"${ms}"` : ms}`,
      ),
    );
  });
});

describe("timeout", () => {
  test.each<[string, Task<string>]>([
    ["a value", () => "result"],
    ["a promise", async () => "result"],
    ["a slow promise", () => sleep(99).then(() => "result")],
  ])("passes on %s, and leaves no trace", async (_, task) => {
    await virtualTime(async (clock) => {
      const { controller, listeners } = watchedController();

      expect(await timeout(task, 100, { signal: controller.signal })).toBe("result");

      expect(clock.pending).toBe(0);
      expect(listeners()).toBe(0);
    });
  });

  const error = new Error("failed");
  test.each<[string, Task<never>]>([
    ["a thrown error", () => raise(error)],
    ["a rejection", () => Promise.reject(error)],
    ["a late rejection", () => sleep(99).then(() => raise(error))],
  ])("passes on %s, and leaves no trace", async (_, task) => {
    await virtualTime(async (clock) => {
      const { controller, listeners } = watchedController();

      expect(await rejection(timeout(task, 100, { signal: controller.signal }))).toBe(error);

      expect(clock.pending).toBe(0);
      expect(listeners()).toBe(0);
    });
  });

  test("calls the task at once", async () => {
    let called = false;

    const result = timeout(() => (called = true), 100);

    expect(called).toBe(true);
    await result;
  });

  test.each([0, 100, 2 ** 31])(
    "after %d ms rejects with a TimeoutError, which is the reason of the task's signal",
    async (ms) => {
      await virtualTime(async (clock) => {
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
        expect(clock.elapsed).toBe(ms);
        expect(clock.pending).toBe(0);
        expect(listeners()).toBe(0);
      });
    },
  );

  test("a task that takes exactly the time is too late", async () => {
    await virtualTime(async () => {
      expect(await rejection(timeout(() => sleep(100), 100))).toMatchObject(timedOut(100));
    });
  });

  test("does not wait for a task that ignores its signal", async () => {
    await virtualTime(async (clock) => {
      expect(await rejection(timeout(() => sleep(1000), 100))).toMatchObject(timedOut(100));

      expect(clock.elapsed).toBe(100);
    });
  });

  test("a task that fails after its time leaves nothing unhandled", async () => {
    await withoutUnhandled(() =>
      virtualTime(async () => {
        const task = () => sleep(200).then(() => raise(new Error("late")));
        expect(await rejection(timeout(task, 100))).toMatchObject(timedOut(100));
        await sleep(200);
      }),
    );
  });

  test.each<[string, (settle: PromiseWithResolvers<string>) => void]>([
    ["rejecting", (task) => task.reject(new Error("stopped"))],
    ["resolving", (task) => task.resolve("stopped")],
  ])("a task cannot hide its timeout by %s when it is aborted", async (_, react) => {
    await virtualTime(async () => {
      const task = Promise.withResolvers<string>();
      const reacting = timeout((signal) => {
        signal.addEventListener("abort", () => react(task));
        return task.promise;
      }, 100);

      expect(await rejection(reacting)).toMatchObject(timedOut(100));
    });
  });

  test("the outer signal's reason wins when it comes first", async () => {
    await virtualTime(async (clock) => {
      const { controller, listeners } = watchedController();
      const reason = new Error("stop");
      const aborting = sleep(50).then(() => controller.abort(reason));
      let given: AbortSignal | undefined;
      const task: Task<void> = (signal) => sleep(1000, { signal: (given = signal) });

      expect(await rejection(timeout(task, 100, { signal: controller.signal }))).toBe(reason);

      expect(clock.elapsed).toBe(50);
      expect(given?.reason).toBe(reason);
      expect(clock.pending).toBe(0);
      expect(listeners()).toBe(0);
      await aborting;
    });
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

  test("a task that is done is not aborted any more", async () => {
    await virtualTime(async () => {
      const controller = new AbortController();
      const { signal } = controller;
      const given = await timeout((signal) => signal, 100, { signal });

      await sleep(1000);
      controller.abort();

      expect(given.aborted).toBe(false);
    });
  });

  test("aborted before, it does not call the task", async () => {
    await virtualTime(async (clock) => {
      const { controller, listeners } = watchedController();
      controller.abort("stop");
      let called = false;

      const result = timeout(() => (called = true), 100, { signal: controller.signal });

      expect(await rejection(result)).toBe("stop");
      expect(called).toBe(false);
      expect(clock.pending).toBe(0);
      expect(listeners()).toBe(0);
    });
  });

  test("without limit it sets no timer, and waits for the task or the signal", async () => {
    await virtualTime(async (clock) => {
      const controller = new AbortController();
      const { signal } = controller;
      const hanging = timeout(() => new Promise(() => {}), Infinity, { signal });

      expect(clock.pending).toBe(0);
      expect(await timeout(() => sleep(1e10).then(() => "result"), Infinity)).toBe("result");
      controller.abort("stop");

      expect(await rejection(hanging)).toBe("stop");
    });
  });

  test("of two around one task the shorter wins", async () => {
    await virtualTime(async (clock) => {
      const nested = (outer: number, inner: number) =>
        timeout((signal) => timeout(() => sleep(1000), inner, { signal }), outer);

      expect(await rejection(nested(50, 100))).toMatchObject(timedOut(50));
      expect(await rejection(nested(100, 50))).toMatchObject(timedOut(50));

      expect(clock.elapsed).toBe(100);
    });
  });

  test("refuses a promise, because what runs already cannot be stopped", async () => {
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
});

describe("abortable", () => {
  test.each([
    ["no signal", undefined],
    ["a signal", new AbortController().signal],
  ])("with %s passes on what the promise brings", async (_, signal) => {
    const thenable: PromiseLike<string> = {
      then: (...args) => Promise.resolve("odd").then(...args),
    };

    expect(await abortable(Promise.resolve("fine"), signal)).toBe("fine");
    expect(await abortable(thenable, signal)).toBe("odd");
    expect(await rejection(abortable(Promise.reject("failed"), signal))).toBe("failed");
  });

  test("listens no more once the promise has settled", async () => {
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

  test("aborted while waiting, it rejects with the reason and leaves no trace", async () => {
    const { controller, listeners } = watchedController();
    const promise = new Promise(() => {});
    const waiting = [1, 2].map(() => abortable(promise, controller.signal));
    expect(listeners()).toBe(1);

    controller.abort("stop");

    expect(await Promise.allSettled(waiting)).toEqual([
      { status: "rejected", reason: "stop" },
      { status: "rejected", reason: "stop" },
    ]);
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
});

describe("poll", () => {
  test.each([0, 1, 5])("returns the first truthy answer, here after %d others", async (others) => {
    await virtualTime(async (clock) => {
      const answers = [...Array<undefined>(others), "yes"];
      const later = [...answers];

      const answer: string = await poll(() => answers.shift(), { interval: 10 });
      expect(answer).toBe("yes");
      expect(clock.elapsed).toBe(others * 10);
      expect(await poll(async () => later.shift(), { interval: 10 })).toBe("yes");

      expect(clock.elapsed).toBe(others * 20);
      expect(clock.pending).toBe(0);
    });
  });

  test("asks at once, and again after everything falsy", async () => {
    await virtualTime(async () => {
      const answers = [false, 0, 0n, "", null, undefined, NaN, "yes"];

      const polling = poll(() => answers.shift(), { interval: 0 });

      expect(answers).toHaveLength(7);
      expect(await polling).toBe("yes");
      expect(answers).toHaveLength(0);
    });
  });

  test("the interval counts from the end of a call, so that calls never overlap", async () => {
    await virtualTime(async (clock) => {
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
  });

  test.each<[string, () => never | Promise<never>]>([
    ["thrown", () => raise(new Error("failed"))],
    ["rejected", () => Promise.reject(new Error("failed"))],
  ])("a %s error ends it at once", async (_, fail) => {
    await virtualTime(async (clock) => {
      let calls = 0;
      const fn = () => (++calls === 2 ? fail() : false);

      expect(await rejection(poll(fn, { interval: 10, timeout: 100 }))).toEqual(
        new Error("failed"),
      );

      expect(calls).toBe(2);
      expect(clock.elapsed).toBe(10);
      expect(clock.pending).toBe(0);
    });
  });

  test("gives up with a TimeoutError, and asks no more", async () => {
    await virtualTime(async (clock) => {
      let calls = 0;

      const error = await rejection(poll(() => void calls++, { interval: 10, timeout: 25 }));

      expect(error).toMatchObject(timedOut(25));
      expect(clock.elapsed).toBe(25);
      expect(clock.pending).toBe(0);
      expect(calls).toBe(3);
    });
  });

  test("gives up a call that hangs, and tells it so", async () => {
    await virtualTime(async (clock) => {
      let given: AbortSignal | undefined;
      const hang: Task<boolean> = (signal) => new Promise(() => (given = signal));
      const { signal } = new AbortController();

      const error = await rejection(poll(hang, { interval: 10, timeout: 100, signal }));

      expect(error).toMatchObject(timedOut(100));
      expect(given?.reason).toBe(error);
      expect(clock.elapsed).toBe(100);
    });
  });

  test("asks no more when a call that was given up answers after all", async () => {
    await virtualTime(async (clock) => {
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

      expect(calls).toBe(1);
      expect(clock.pending).toBe(0);
    });
  });

  test.each<[string, Task<boolean>]>([
    ["between two calls", () => false],
    ["while a call hangs", () => new Promise(() => {})],
  ])("aborted %s, it rejects with the reason and leaves no trace", async (_, fn) => {
    await virtualTime(async (clock) => {
      const { controller, listeners } = watchedController();
      const aborting = sleep(45).then(() => controller.abort("stop"));

      const polling = poll(fn, { interval: 10, timeout: 1000, signal: controller.signal });

      expect(await rejection(polling)).toBe("stop");
      expect(clock.elapsed).toBe(45);
      expect(clock.pending).toBe(0);
      expect(listeners()).toBe(0);
      await aborting;
    });
  });

  test("aborted before, it does not ask", async () => {
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
  ])("refuses the %s %p, and does not ask", async (name, value, Kind) => {
    let calls = 0;
    const options = { interval: 10, [name]: value };

    expect(await rejection(poll(() => ++calls, options))).toEqual(
      new Kind(
        `Cannot poll: ${name} must be a number of 0 or more, received ${typeof value === "string" ? `"${value}"` : value}`,
      ),
    );

    expect(calls).toBe(0);
  });

  test("refuses what is no function", async () => {
    const value = 1 as unknown as Task<boolean>;

    expect(await rejection(poll(value, { interval: 10 }))).toEqual(
      new TypeError("Cannot poll: fn must be a function, received 1"),
    );
  });
});

describe("lazy", () => {
  test("runs at the first call, and once for all", async () => {
    await virtualTime(async (clock) => {
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
  });

  test.each([undefined, 0, "value"])(
    "remembers %p, of which a plain function is enough",
    async (value) => {
      let runs = 0;
      const get = lazy(() => (runs++, value));

      expect([await get(), await get()]).toEqual([value, value]);

      expect(runs).toBe(1);
    },
  );

  test.each<[string, (error: Error) => never | Promise<never>]>([
    ["throws", raise],
    ["rejects", (error) => Promise.reject(error)],
  ])(
    "when it %s, those who wait share the error, and the next call tries again",
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

  test("has forgotten a failure when the caller sees it", async () => {
    let runs = 0;
    const get = lazy(() => (++runs === 1 ? raise(new Error("failed")) : "recovered"));

    expect(await get().catch(() => get())).toBe("recovered");
  });

  test("an abort ends the wait of one caller only", async () => {
    await virtualTime(async (clock) => {
      const { controller, listeners } = watchedController();
      let runs = 0;
      const get = lazy(() => sleep(100).then(() => ++runs));
      const leaving = get({ signal: controller.signal });
      const staying = get({ signal: new AbortController().signal });
      const aborting = sleep(40).then(() => controller.abort("stop"));

      expect(await rejection(leaving)).toBe("stop");
      expect(clock.elapsed).toBe(40);
      expect(listeners()).toBe(0);

      expect(await staying).toBe(1);
      expect(clock.elapsed).toBe(100);
      expect(await get()).toBe(1);
      await aborting;
    });
  });

  test("when all have left, it goes on for those to come", async () => {
    await virtualTime(async (clock) => {
      const controller = new AbortController();
      const get = lazy(() => sleep(100).then(() => "ready"));
      const leaving = get({ signal: controller.signal });
      controller.abort("stop");
      expect(await rejection(leaving)).toBe("stop");

      await sleep(100);

      expect(await get()).toBe("ready");
      expect(clock.elapsed).toBe(100);
    });
  });

  test("when all have left, a failure is not unhandled, and is forgotten", async () => {
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

  test("called by somebody who is aborted already, it does not run", async () => {
    let runs = 0;
    const get = lazy(() => ++runs);
    const signal = AbortSignal.abort("stop");

    expect(await rejection(get({ signal }))).toBe("stop");
    expect(runs).toBe(0);

    await get();
    expect(await rejection(get({ signal }))).toBe("stop");
  });

  test("refuses what is no function", () => {
    const promise = Promise.resolve() as unknown as () => void;

    expect(thrownBy(() => lazy(promise))).toEqual(
      new TypeError("Cannot create lazy: init must be a function, received Promise"),
    );
  });
});

describe("yieldNow", () => {
  test("lets promises and timers that are due go first, and takes no time", async () => {
    await virtualTime(async (clock) => {
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
  });

  test.each(["before", "while waiting"])("aborted %s, rejects with the reason", async (when) => {
    await virtualTime(async (clock) => {
      const { controller, listeners } = watchedController();
      if (when === "before") controller.abort("stop");
      const yielding = yieldNow({ signal: controller.signal });
      controller.abort("stop");

      expect(await rejection(yielding)).toBe("stop");

      expect(clock.pending).toBe(0);
      expect(listeners()).toBe(0);
    });
  });
});

describe("run", () => {
  test.each([0, 7])("leaves an exit code of %d alone when main returns", async (exitCode) => {
    await using program = start(`
      await run(async () => {
        process.exitCode = ${exitCode};
        console.log("done");
      });
    `);

    expect(await program.end()).toEqual({ exitCode, stdout: "done\n", stderr: "" });
  });

  test.each([
    ["throws", `() => { throw new Error("broken"); }`],
    ["rejects", `async () => { throw new Error("broken"); }`],
  ])("when main %s, prints the error and sets exit code 1, but ends nothing", async (_, main) => {
    await using program = start(`
      setTimeout(() => console.log("timers go on"), 0);
      await run(${main});
      console.log("code goes on");
    `);

    const { exitCode, stdout, stderr } = await program.end();
    expect(exitCode).toBe(1);
    expect(stdout).toBe("code goes on\ntimers go on\n");
    expect(stderr).toContain("broken");
  });

  test.each([null, undefined])("fails even with %p", async (error) => {
    await using program = start(`await run(() => Promise.reject(${error}));`);

    expect(await program.end()).toMatchObject({ exitCode: 1, stderr: `${error}\n` });
  });

  test.each([
    ["SIGINT", 130],
    ["SIGTERM", 143],
  ] as const)("on %s aborts main, waits for its cleanup, and exits with %d", async (name, code) => {
    await using program = start(`
      await run(async (signal) => {
        try {
          console.log("ready");
          await sleep(60_000, { signal });
        } finally {
          await yieldNow();
          console.log("cleaned up:", String(signal.reason));
        }
      });
    `);

    await program.printed("ready");
    program.kill(name);

    const stdout = `ready\ncleaned up: AbortError: Interrupted by ${name}\n`;
    expect(await program.end()).toEqual({ exitCode: code, stdout, stderr: "" });
  });

  test.each([
    ["returns", "return", 0, ""],
    [
      "throws an AbortError it caused",
      `throw Object.assign(new Error("", { cause: signal.reason }), { name: "AbortError" })`,
      143,
      "",
    ],
    ["throws something else", `throw "broken"`, 1, "broken\n"],
    ["throws nothing", `throw undefined`, 1, "undefined\n"],
  ])("when main %s after a signal, the exit code says so", async (_, end, exitCode, stderr) => {
    await using program = start(`
      await run(async (signal) => {
        console.log("ready");
        await sleep(60_000, { signal }).catch(() => {});
        ${end};
      });
    `);

    await program.printed("ready");
    program.kill("SIGTERM");

    expect(await program.end()).toMatchObject({ exitCode, stderr });
  });

  test.each([
    ["SIGINT", "SIGTERM", 143],
    ["SIGTERM", "SIGINT", 130],
    ["SIGINT", "SIGINT", 130],
  ] as const)("on %s and then %s exits at once with %d", async (first, second, exitCode) => {
    await using program = start(`
      await run(async (signal) => {
        console.log("ready");
        await sleep(60_000, { signal }).catch(() => {});
        console.log("cleaning up");
        await sleep(60_000);
      });
    `);

    await program.printed("ready");
    program.kill(first);
    await program.printed("cleaning up");
    program.kill(second);

    expect((await program.end()).exitCode).toBe(exitCode);
  });

  test.each(["() => {}", "() => { throw 0; }"])(
    "leaves the signals to the platform after %s",
    async (main) => {
      await using program = start(`
        await run(${main});
        console.log(process.listenerCount("SIGINT"), process.listenerCount("SIGTERM"));
      `);

      expect((await program.end()).stdout).toBe("0 0\n");
    },
  );

  test("can be aborted from outside; the reason is then an error like any other", async () => {
    await using program = start(`
      const controller = new AbortController();
      await run((signal) => {
        controller.abort("enough");
        process.kill(process.pid, "SIGINT");
        return sleep(60_000, { signal });
      }, { signal: controller.signal });
    `);

    expect(await program.end()).toEqual({ exitCode: 1, stdout: "", stderr: "enough\n" });
  });

  test("aborted before, it does not call main", async () => {
    await using program = start(`
      await run(() => console.log("never"), { signal: AbortSignal.abort("enough") });
    `);

    expect(await program.end()).toEqual({ exitCode: 1, stdout: "", stderr: "enough\n" });
  });

  test("listens to the outer signal while main runs, and no longer", async () => {
    const { controller, listeners } = watchedController();

    await run(() => expect(listeners()).toBe(1), { signal: controller.signal });

    expect(listeners()).toBe(0);
  });

  test("does without a process, as in a browser, and still reports the error", async () => {
    await using program = start(`
      delete globalThis.process;
      await run(() => console.log("done"));
      await run(() => Promise.reject("broken"));
    `);

    expect(await program.end()).toEqual({ exitCode: 0, stdout: "done\n", stderr: "broken\n" });
  });

  test("refuses what is no function", async () => {
    const promise = Promise.resolve() as unknown as Task<void>;

    expect(await rejection(run(promise))).toEqual(
      new TypeError("Cannot run: main must be a function, received Promise"),
    );
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

/** Starts a process which runs the code with the concept at hand, and dies with the test. */
function start(code: string) {
  const concept = JSON.stringify(require.resolve("../concepts/async-basics.ts"));
  const program = `import { run, sleep, yieldNow } from ${concept}; ${code}`;
  const child = Bun.spawn([process.execPath, "-e", program], { stdout: "pipe", stderr: "pipe" });
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
