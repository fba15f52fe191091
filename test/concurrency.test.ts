/**
 * How to test code that does several things at once: exact virtual time proves that tasks overlap,
 * that a limit holds, and that everything that ends early (a failure, an abort, a winner, a loop
 * that is left) aborts the other tasks and waits for them. The tasks here sleep, and need some time
 * to clean up when they are aborted: so the clock shows a result that comes too early. From the
 * second part on, `it` is a `test` in virtual time.
 */
import { describe, expect, expectTypeOf, test } from "bun:test";

import {
  allSettled,
  any,
  asCompleted,
  type Completion,
  gather,
  hedge,
  type HedgeOptions,
  mapConcurrent,
  type MapSource,
  race,
  singleFlight,
  type Task,
  type TaskGroup,
  taskGroup,
  type TasksOptions,
} from "../concepts/concurrency.ts";
import { interleavings, type World } from "../concepts/interleavings.ts";
import { type VirtualClock, virtualTime } from "../concepts/virtual-time.ts";

// Garbage is collected by Bun.
const { Bun } = globalThis as { Bun?: { gc(force: boolean): void } };

describe("Start here", () => {
  test("the clock proves that tasks overlap: two of 100 ms take 100 ms", async () => {
    await virtualTime(async (clock) => {
      await gather([() => sleep(100), () => sleep(100)]);

      expect(clock.elapsed).toBe(100);
    });
  });

  test("a count at the peak proves a limit", async () => {
    await virtualTime(async (clock) => {
      let running = 0;
      let peak = 0;
      const fn = async () => {
        peak = Math.max(peak, ++running);
        await sleep(100);
        running--;
      };

      await mapConcurrent([1, 2, 3, 4, 5], fn, { concurrency: 2 });

      expect([peak, clock.elapsed]).toEqual([2, 300]);
    });
  });

  test("no clock is needed where the test itself decides the order", async () => {
    const [first, second] = [Promise.withResolvers<string>(), Promise.withResolvers<string>()];
    const racing = race([() => first.promise, () => second.promise]);

    second.resolve("second");
    first.resolve("first");

    expect(await racing).toBe("second");
  });

  test("a failure aborts the other tasks, and has waited for their cleanup", async () => {
    await virtualTime(async (clock) => {
      const log: string[] = [];
      const other = async (signal: AbortSignal) => {
        try {
          await sleep(1000, signal);
        } finally {
          await sleep(10);
          log.push(`cleaned up at ${clock.elapsed}`);
        }
      };

      await expect(gather([fail("broken", 50), other])).rejects.toBe("broken");

      expect(log).toEqual(["cleaned up at 60"]);
      expect(clock.pending).toBe(0);
    });
  });

  test("an abort from outside rejects with its reason, and leaves no listener behind", async () => {
    await virtualTime(async (clock) => {
      const { controller, listeners } = watchedController();
      setTimeout(() => controller.abort("stop"), 50);

      await expect(gather([work(1000)], { signal: controller.signal })).rejects.toBe("stop");

      expect([clock.elapsed, listeners()]).toEqual([50, 0]);
    });
  });

  test("trap: a task that does not hand on its signal is waited for to its end", async () => {
    await virtualTime(async (clock) => {
      const deaf = () => sleep(1000);

      await expect(gather([fail("broken", 50), deaf])).rejects.toBe("broken");

      expect(clock.elapsed).toBe(1000);
    });
  });

  test("trap: a promise is not a task, because it already runs", async () => {
    await expect(gather([sleep(0) as never])).rejects.toThrow(
      "tasks[0] must be a function, received Promise",
    );
  });

  test("trap: gather tells the first error only; taskGroup and allSettled tell all", async () => {
    await virtualTime(async () => {
      const tasks = [fail("first", 10), tidy(1000, [], "cleanup failed")];

      await expect(gather(tasks)).rejects.toBe("first");
      expect(
        await rejection(taskGroup(({ spawn }) => tasks.forEach((task) => spawn(task)))),
      ).toMatchObject({
        errors: ["first", "cleanup failed"],
      });
    });
  });
});

type Run = (tasks: Iterable<Task<unknown>>, options?: TasksOptions) => Promise<unknown>;

const allThatRunLists: [name: string, run: Run][] = [
  ["gather", gather],
  ["allSettled", allSettled],
  ["race", race],
  ["any", any],
  ["asCompleted", (tasks, options) => Array.fromAsync(asCompleted(tasks, options))],
];

describe.each(allThatRunLists)("%s, as all that run a list of tasks,", (_name, run) => {
  test("starts no other task after an abort that its own listener has not heard of yet", async () => {
    const { signal, abort } = lateSignal();
    let calls = 0;
    const tasks = [() => abort("stop"), () => calls++];

    await expect(run(tasks, { signal, concurrency: 1 })).rejects.toBe("stop");

    expect(calls).toBe(0);
  });

  test("listens before it calls: an abort from inside a call reaches that very task", async () => {
    const controller = new AbortController();
    let seen: unknown;
    const task = (signal: AbortSignal) => {
      controller.abort("stop");
      seen = signal.reason;
    };

    await expect(run([task], controller)).rejects.toBe("stop");

    expect(seen).toBe("stop");
  });

  it("gives a signal also to a task that declares no parameter", async () => {
    let reason: unknown;
    const task = async (...args: AbortSignal[]) => {
      await sleep(100, args[0]).catch(() => (reason = args[0]?.reason));
    };
    const controller = new AbortController();
    setTimeout(() => controller.abort("stop"), 50);

    await expect(run([task, task], controller)).rejects.toBe("stop");

    expect(reason).toBe("stop");
  });

  test("runs 30,000 synchronous tasks one at a time without overflowing the stack", async () => {
    const failing = Array.from({ length: 30_000 }, () => () => {
      throw "failed";
    });
    const succeeding = Array.from({ length: 30_000 }, () => () => "fine");

    await run(failing, { concurrency: 1 }).catch(() => {});
    await run(succeeding, { concurrency: 1 });
  });

  it("takes tasks from any iterable, and runs them all at once by default", async (clock) => {
    const tasks = new Set([work(100), work(100), work(100)]);

    await run(tasks.values());

    expect(clock.elapsed).toBe(100);
  });

  it.each(["fail", "succeed"])(
    "aborted from outside, it aborts all with the reason, and rejects with it when they have ended, though they %s",
    async (outcome, clock) => {
      const { controller, listeners } = watchedController();
      const reason = new Error("stop");
      const reasons: unknown[] = [];
      const task = async (signal: AbortSignal) => {
        await sleep(1000, signal).catch(() => {});
        reasons.push([clock.elapsed, signal.reason]);
        await sleep(10);
        if (outcome === "fail") throw signal.reason;
      };
      setTimeout(() => controller.abort(reason), 50);

      const running = run([task, task, task], { concurrency: 2, signal: controller.signal });

      await expect(running).rejects.toBe(reason);
      expect(clock.elapsed).toBe(60);
      expect(reasons).toEqual([
        [50, reason],
        [50, reason],
      ]);
      expect([listeners(), clock.pending]).toEqual([0, 0]);
    },
  );

  it("a signal that two of them share ends the second when the first has ended", async (clock) => {
    const controller = new AbortController();
    const { signal } = controller;
    const first = run([work(10)], { signal });
    const second = run([tidy(1000, [])], { signal });
    await first;

    controller.abort("stop");

    await expect(second).rejects.toBe("stop");
    expect(clock.elapsed).toBe(20);
  });

  test("aborted by its first task in the very call, it calls no other", async () => {
    const controller = new AbortController();
    let calls = 0;
    const tasks = [() => controller.abort("stop"), () => calls++];

    await expect(run(tasks, { signal: controller.signal })).rejects.toBe("stop");

    expect(calls).toBe(0);
  });

  test("leaves nothing unhandled when three fail", async () => {
    await withoutUnhandled(async () => {
      await run([fail("a", 0), fail("b", 0), fail("c", 0)]).catch(() => {});
    });
  });

  it("does not abort the signal of a task that has ended", async () => {
    const controller = new AbortController();
    let first: AbortSignal | undefined;
    const ended = (signal: AbortSignal) => void (first = signal);

    await run([ended, fail("late", 10), work(20)], controller).catch(() => {});

    expect(first?.aborted).toBe(false);
  });

  it("does not abort the signal of a task that has failed", async () => {
    let first: AbortSignal | undefined;
    const failed = (signal: AbortSignal) => {
      first = signal;
      throw "failed";
    };
    const running = run([failed, work(1000)], { signal: AbortSignal.timeout(10) });

    await running.catch(() => {});

    expect(first?.aborted).toBe(false);
  });
});

/** All that run tasks, here one. */
const allThatRun: [action: string, run: (task: () => void, options?: any) => unknown][] = [
  ["gather", (task, options) => gather([task], options)],
  ["run allSettled", (task, options) => allSettled([task], options)],
  ["race", (task, options) => race([task], options)],
  ["run any", (task, options) => any([task], options)],
  ["run asCompleted", (task, options) => asCompleted([task], options).next()],
  ["run taskGroup", (task, options) => taskGroup(task, options)],
  ["run mapConcurrent", (task, options) => mapConcurrent([1], task, options)],
  ["hedge", (task, options) => hedge(task, options)],
  ["call singleFlight", (task, options) => singleFlight(task)(undefined, options)],
];

describe("bad arguments are refused before anything is called:", () => {
  let calls = 0;
  const count = () => void calls++;
  const promise = Promise.resolve();
  const { signal } = new AbortController();
  const aborted = AbortSignal.abort("stop");
  type Row = [message: string, call: () => unknown];

  const ofAll = allThatRun.flatMap(([action, run]): Row[] => [
    ...[null, 5, "10", signal].map((options): Row => [
      `${action}: options must be an object, received ${shown(options)}`,
      () => run(count, options),
    ]),
    ...[{}, 5, new AbortController()].map((signal): Row => [
      `${action}: signal must be an AbortSignal, received ${shown(signal)}`,
      () => run(count, { signal, concurrency: 1, after: 1 }),
    ]),
  ]);
  const ofThoseWithAConcurrency = allThatRun
    .slice(0, -2)
    .flatMap(([action, run]) =>
      [0, -1, 1.5, NaN, -Infinity, "1"].map((concurrency): Row => [
        `${action}: concurrency must be a positive integer or Infinity, received ${shown(concurrency)}`,
        () => run(count, { concurrency, signal: aborted }),
      ]),
    );
  const ofLists = allThatRunLists.flatMap(([, run]): Row[] => [
    ["tasks[1] must be a function, received Promise", () => run([count, promise] as never)],
    ["tasks[0] must be a function, received 42", () => run([42] as never, { signal: aborted })],
    ...[undefined, null, 42, () => {}, promise, sourceOf([1])].map((tasks): Row => [
      `tasks must be an iterable of functions, received ${shown(tasks)}`,
      () => run(tasks as never),
    ]),
  ]);
  const more: Row[] = [
    ["run taskGroup: body must be a function, received 42", () => taskGroup(42 as never)],
    ["create singleFlight: fn must be a function, received 42", () => singleFlight(42 as never)],
    [
      "create singleFlight: key must be a function, received 42",
      () => singleFlight(count, { key: 42 as never }),
    ],
    [
      "create singleFlight: options must be an object, received null",
      () => singleFlight(count, null as never),
    ],
    ["hedge: task must be a function, received 42", () => hedge(42 as never, { after: 1 })],
    ...[-1, NaN, "1", undefined].map((after): Row => [
      `hedge: after must be a number of 0 or more, received ${shown(after)}`,
      () => hedge(count, { after } as never),
    ]),
    ...[0, 1.5, "2"].map((attempts): Row => [
      `hedge: attempts must be a positive integer or Infinity, received ${shown(attempts)}`,
      () => hedge(count, { after: 1, attempts } as never),
    ]),
    ...[-1, NaN, "5"].flatMap((timeout: any): Row[] => [
      [
        `run allSettled: timeout must be a number of 0 or more, received ${shown(timeout)}`,
        () => allSettled([count], { timeout }),
      ],
      [
        `run asCompleted: timeout must be a number of 0 or more, received ${shown(timeout)}`,
        () => asCompleted([count], { timeout }).next(),
      ],
    ]),
    ...[42, null].map((source): Row => [
      `run mapConcurrent: source must be an iterable, a stream or a function, received ${source}`,
      () => mapConcurrent(source as never, count, { concurrency: 1 }),
    ]),
    [
      "run mapConcurrent: fn must be a function, received 42",
      () => mapConcurrent([], 42 as never, { concurrency: 1 }),
    ],
    [
      "run mapConcurrent: concurrency must be a positive integer or Infinity, received undefined",
      () => mapConcurrent([1], count, undefined as never),
    ],
    [
      "run mapConcurrent: stopOnError must be a boolean, received 0",
      () => mapConcurrent([1], count, { concurrency: 1, stopOnError: 0 as never }),
    ],
  ];

  test.each([...ofAll, ...ofThoseWithAConcurrency, ...ofLists, ...more])(
    "cannot %s",
    async (message, call) => {
      const isThrown = message.startsWith("create");
      const error = isThrown ? thrownBy(call) : await rejection(call() as Promise<unknown>);

      expect((error as Error).message).toContain(message);
      const isNumber = /received (-?[\d.]+|NaN|-Infinity)$/.test(message);
      const isOfRange = isNumber && /integer|of 0 or more/.test(message);
      expect((error as Error).constructor).toBe(isOfRange ? RangeError : TypeError);
      expect(calls).toBe(0);
    },
  );

  test.each(allThatRun)("a signal that is null is none: can %s", async (_action, run) => {
    calls = 0;
    await run(count, { signal: null, concurrency: 1, after: 1 });

    expect(calls).toBe(1);
    calls = 0;
  });
});

/** What runs three tasks that end after 10, 20 and 30 ms. */
const allThatRunThree: [name: string, run: Run][] = [
  ...allThatRunLists.filter(([name]) => name !== "asCompleted"),
  ["asCompleted", receiveAll],
  [
    "mapConcurrent",
    (tasks, { signal } = {}) =>
      mapConcurrent(tasks, (task, _, own) => task(own), { concurrency: 3, signal }),
  ],
  [
    "taskGroup",
    (tasks, options) =>
      taskGroup(({ spawn }) => Promise.all([...tasks].map((task) => spawn(task))), options),
  ],
  [
    "hedge",
    (tasks, { signal } = {}) => hedge(attemptsOf(...tasks).task, { after: 0, attempts: 3, signal }),
  ],
];

describe.each(allThatRunThree)("%s, aborted", (name, run) => {
  const endsAt = ["race", "any", "hedge"].includes(name) ? 10 : 30;
  const rows = ["first", "middle", "last"].flatMap((which, index) => [
    { when: `while the ${which} runs`, at: 10 * index + 5, microtasks: 0 },
    { when: `in the turn of the ${which}'s end, before it`, at: 10 * index + 10, microtasks: 0 },
    ...Array.from({ length: 12 }, (_, n) => ({
      when: `${n} microtasks after the ${which}'s end`,
      at: 10 * index + 10,
      microtasks: n + 1,
    })),
  ]);
  rows.push({ when: "before it starts", at: -1, microtasks: 0 });
  rows.push({ when: "after its end", at: 35, microtasks: 0 });

  it.each(rows)("$when, delivers or rejects, and nothing is lost or left", async (row, clock) => {
    const { controller, listeners } = watchedController();
    const abort = () => controller.abort("stop");
    if (row.at < 0) abort();
    else if (row.microtasks === 0) setTimeout(abort, row.at);
    let calls = 0;
    const holds: Hold[] = [];
    const tasks = [10, 20, 30].map((ms) => async (signal: AbortSignal) => {
      calls++;
      await sleep(ms, signal);
      if (row.microtasks > 0 && ms === row.at) microtasks(row.microtasks - 1).then(abort);
      return holds[holds.push(new Hold()) - 1];
    });

    const [outcome] = await Promise.allSettled([run(tasks, controller)]);

    const isRejected = outcome.status === "rejected";
    if (isRejected) expect(outcome.reason).toBe("stop");
    const isTie = row.at === endsAt && row.microtasks > 0;
    if (!isTie) expect(isRejected).toBe(row.at <= endsAt);
    expect(clock.elapsed).toBe(Math.max(0, Math.min(row.at, endsAt)));
    await microtasks(20);
    const received = isRejected ? [] : holdsIn(outcome.value);
    expect(holds.map(({ releases }) => releases)).toEqual(
      holds.map((hold) => (received.includes(hold) ? 0 : 1)),
    );
    expect(received.length).toBe(isRejected ? 0 : endsAt / 10);
    expect(calls).toBe(row.at < 0 ? 0 : 3);
    const isToCome = row.at > endsAt && row.microtasks === 0;
    expect([clock.pending, listeners()]).toEqual([isToCome ? 1 : 0, 0]);
  });
});

describe.each(allThatRunLists)("%s, given a generator of tasks,", (name, run) => {
  it("pulls it as tasks can start, without end, and closes it when no more is needed", async () => {
    const list = generatorOf(Array(1000).fill(work(10)));
    const signal = AbortSignal.timeout(45);

    await run(list, { concurrency: 2, signal }).catch((reason) =>
      expect(reason).toBe(signal.reason),
    );

    expect(list.pulled).toBe(name === "race" || name === "any" ? 2 : 10);
    expect(list.closed).toBe(1);
  });

  it("fails with what is not a function, aborts the others, and closes it", async (clock) => {
    const log: string[] = [];
    const list = generatorOf([tidy(100, log), Promise.resolve(work(1)), work(1)]);

    await expect(run(list)).rejects.toThrow("tasks[1] must be a function, received Promise");

    expect(log).toEqual(["aborted at 0", "cleaned up at 10"]);
    expect([clock.elapsed, list.pulled, list.closed]).toEqual([10, 2, 1]);
  });

  it("fails with its error, aborts the others, and waits for them", async (clock) => {
    const log: string[] = [];
    const list = generatorOf([tidy(100, log)], "list failed");

    await expect(run(list)).rejects.toBe("list failed");

    expect(log).toEqual(["aborted at 0", "cleaned up at 10"]);
    expect([clock.elapsed, list.closed]).toEqual([10, 1]);
  });

  test("pulls nothing when it is aborted before, and no more after an abort inside it", async () => {
    const controller = new AbortController();
    const list = generatorOf([() => {}], () => controller.abort("stop"));

    await expect(run(list, { signal: AbortSignal.abort("before") })).rejects.toBe("before");
    expect(list.pulled).toBe(0);
    await expect(run(list, controller)).rejects.toBe("stop");
    expect(list.closed).toBe(1);
  });
});

describe.each(allThatRunLists.filter(([name]) => name !== "race" && name !== "any"))(
  "%s, as all that run every task,",
  (_name, run) => {
    it.each([
      { tasks: 10, concurrency: 1, elapsed: 1000, peak: 1 },
      { tasks: 10, concurrency: 3, elapsed: 400, peak: 3 },
      { tasks: 10, concurrency: 10, elapsed: 100, peak: 10 },
      { tasks: 10, concurrency: 1000, elapsed: 100, peak: 10 },
      { tasks: 10, concurrency: Infinity, elapsed: 100, peak: 10 },
      { tasks: 0, concurrency: 3, elapsed: 0, peak: 0 },
    ])("runs $tasks of 100 ms, $concurrency at once, in $elapsed ms", async (given, clock) => {
      let running = 0;
      let peak = 0;
      const task = async () => {
        peak = Math.max(peak, ++running);
        await sleep(100);
        running--;
      };

      await run(
        Array.from({ length: given.tasks }, () => task),
        given,
      );

      expect([clock.elapsed, peak, running]).toEqual([given.elapsed, given.peak, 0]);
    });
  },
);

describe("gather", () => {
  it("returns the results in the order of the tasks, not of their ends", async (clock) => {
    expect(await gather([work(100, "slow"), work(10, "quick"), () => "plain"])).toEqual([
      "slow",
      "quick",
      "plain",
    ]);
    expect(clock.elapsed).toBe(100);
  });

  test("keeps the types of a tuple", async () => {
    const [id, name] = await gather([() => 7, async () => "Ada"]);
    const sum: number = id + 1;
    const length: number = name.length;

    expect([sum, length]).toEqual([8, 3]);
  });

  test("of nothing is nothing", async () => {
    expect(await gather([])).toEqual([]);
  });

  it("aborts the others when one fails, and rejects when they have cleaned up", async (clock) => {
    const error = new Error("broken");
    const log: string[] = [];

    const gathering = gather([fail(error, 50), tidy(100, log)]);

    await expect(gathering).rejects.toBe(error);
    expect(log).toEqual(["aborted at 50", "cleaned up at 60"]);
    expect([clock.elapsed, clock.pending]).toEqual([60, 0]);
  });

  it("aborts with an AbortError whose cause is the failure", async () => {
    const error = new Error("broken");
    let reason: unknown;

    await gather([
      fail(error, 50),
      (signal) => sleep(100, signal).catch(() => (reason = signal.reason)),
    ]).catch(() => {});

    expect(reason).toBeInstanceOf(DOMException);
    expect(reason).toMatchObject({
      name: "AbortError",
      message: "Another task failed",
      cause: error,
    });
  });

  it("rejects with the first of three failures, by time", async () => {
    const tasks = [fail("third", 30), fail("first", 10), fail("second", 20)];

    await expect(gather(tasks)).rejects.toBe("first");
  });

  test.each([[undefined], [null], [0], [""]])(
    "rejects with %s where that is thrown",
    async (thrown) => {
      await expect(gather([() => Promise.reject(thrown), () => 1])).rejects.toBe(thrown);
    },
  );

  test("takes a task that throws as one that fails", async () => {
    const error = new Error("thrown");
    const gathering = gather([
      () => {
        throw error;
      },
      () => 1,
    ]);

    await expect(gathering).rejects.toBe(error);
  });

  it("starts no more after a failure", async (clock) => {
    let calls = 0;
    const tasks = [work(100), fail("broken", 50), () => calls++, () => calls++];

    await expect(gather(tasks, { concurrency: 2 })).rejects.toBe("broken");

    expect([calls, clock.elapsed]).toEqual([0, 50]);
  });

  it("rejects with the failure when it is aborted later, while the others clean up", async (clock) => {
    const controller = new AbortController();
    setTimeout(() => controller.abort("too late"), 55);

    await expect(gather([fail("broken", 50), tidy(100)], controller)).rejects.toBe("broken");

    expect(clock.elapsed).toBe(60);
  });

  it("rejects with the failure when it is aborted later with the very reason of its tasks", async () => {
    const controller = new AbortController();
    const passesOn = (signal: AbortSignal) =>
      sleep(100, signal).catch((reason) => controller.abort(reason));

    await expect(gather([fail("broken", 50), passesOn], controller)).rejects.toBe("broken");
  });

  test("takes what a thenable comes to", async () => {
    const thenable = { then: (resolve: (value: string) => void) => resolve("then") };

    expect(await gather([() => thenable as PromiseLike<string>, () => 1])).toEqual(["then", 1]);
  });

  test("an abort through 1,000 nested ones neither overflows nor leaves one behind", async () => {
    const controller = new AbortController();
    let ended = 0;
    let nested: Task<unknown> = (signal) => sleep(1000, signal).finally(() => ended++);
    for (let depth = 0; depth < 1000; depth++) {
      const inner = nested;
      nested = (signal) => gather([inner], { signal }).finally(() => ended++);
    }

    const running = rejection(gather([nested], controller));
    controller.abort("stop");

    expect(await running).toBe("stop" as never);
    expect(ended).toBe(1001);
  });
});

describe("allSettled", () => {
  it("tells how each task ended, and lets a failure abort nothing", async (clock) => {
    const error = new Error("broken");

    const outcomes = await allSettled([work(100, "fine"), fail(error, 10)]);

    expect(outcomes).toEqual([
      { status: "fulfilled", value: "fine" },
      { status: "rejected", reason: error },
    ]);
    expect(clock.elapsed).toBe(100);
  });

  test("goes on with the next after a failure", async () => {
    const outcomes = await allSettled([fail("a", 0), fail("b", 0), () => "c"], { concurrency: 1 });

    expect(outcomes.map(({ status }) => status)).toEqual(["rejected", "rejected", "fulfilled"]);
  });

  test("of nothing is nothing", async () => {
    expect(await allSettled([])).toEqual([]);
  });
});

describe("a time limit keeps what has finished:", () => {
  it("allSettled aborts what runs, waits for it, and starts no more", async (clock) => {
    const log: string[] = [];
    const limit = { name: "TimeoutError", message: "Timed out after 50 ms" };
    const late = (signal: AbortSignal) =>
      sleep(100, signal)
        .catch(() => sleep(20))
        .then(() => "late");
    const hold = new Hold();
    const tasks = [work(10, hold), fail(2, 20), tidy(100, log), tidy(100, log, 3), late, work(10)];

    expect(await allSettled(tasks, { concurrency: 3, timeout: 50 })).toMatchObject([
      { status: "fulfilled", value: { releases: 0 } },
      { status: "rejected", reason: 2 },
      { status: "rejected", reason: limit },
      { status: "rejected", reason: 3 },
      { status: "fulfilled", value: "late" },
      { status: "rejected", reason: limit },
    ]);
    expect(log.sort()).toEqual([...twice("aborted at 50"), ...twice("cleaned up at 60")]);
    expect([clock.elapsed, clock.pending]).toEqual([70, 0]);
  });

  it("asCompleted yields that first, also to a slow consumer, and then fails", async (clock) => {
    const log: string[] = [];
    const tasks = [work(10, "a"), work(20, "b"), tidy(100, log, "cleanup failed")];
    const results = asCompleted(tasks, { timeout: 50 });

    await sleep(40);
    expect(await results.next()).toMatchObject({ value: { value: "a" } });
    await sleep(100);
    expect(await results.next()).toMatchObject({ value: { value: "b" } });
    await expect(results.next()).rejects.toMatchObject({ name: "TimeoutError" });

    expect(log).toEqual(["aborted at 90", "cleaned up at 100"]);
    expect(await results.next()).toEqual({ done: true, value: undefined });
    expect(clock.elapsed).toBe(150);
  });

  it.each([0, 10, 2 ** 31, Infinity])(
    "a limit of %d ms leaves no timer",
    async (timeout, clock) => {
      await allSettled([() => 1, fail(2, 0)], { timeout });
      await Array.fromAsync(asCompleted([() => 1], { timeout }));
      await allSettled([work(50)], { timeout, signal: AbortSignal.timeout(5) }).catch(() => {});

      expect(clock.pending).toBe(0);
    },
  );

  it("aborted before its time is up, allSettled keeps nothing", async (clock) => {
    const signal = AbortSignal.timeout(40);
    const hold = new Hold();
    const deaf = () => sleep(60).then(() => hold);

    const settling = rejection(allSettled([deaf], { timeout: 50, signal }));
    await sleep(45);
    expect(clock.pending).toBe(1); // the task's own
    expect(await settling).toBe(signal.reason);

    expect([clock.elapsed, hold.releases]).toEqual([60, 1]);
  });
});

describe("the signal of a task", () => {
  const sharing: [string, (task: (...args: any[]) => unknown) => Promise<unknown>][] = [
    ["gather", (task) => gather([task, task])],
    ["allSettled", (task) => allSettled([task, task])],
    ["asCompleted", (task) => Array.fromAsync(asCompleted([task, task]))],
    ["taskGroup", (task) => taskGroup(({ spawn }) => Promise.all([spawn(task), spawn(task)]))],
    [
      "mapConcurrent",
      (task) => {
        const ofTwo = (item: unknown, index: number, ...rest: unknown[]) =>
          task(item, index, ...rest);
        return mapConcurrent([1, 2], task.length > 0 ? task : ofTwo, { concurrency: 2 });
      },
    ],
  ];

  test.each(sharing)("is one for all in %s, if they declare none", async (_name, run) => {
    const signals = new Set<unknown>();

    await run((...args: unknown[]) => void signals.add(args.at(-1)));

    expect(signals.size).toBe(1);
    expect([...signals][0]).toBeInstanceOf(AbortSignal);
  });

  test.each(sharing)("is its own in %s, if it declares one", async (name, run) => {
    const signals = new Set<unknown>();
    const task = (signal: AbortSignal) => void signals.add(signal);
    const fn = (_item: unknown, _index: unknown, signal: AbortSignal) => task(signal);

    await run(name === "mapConcurrent" ? fn : task);

    expect(signals.size).toBe(2);
  });

  test("is not aborted after the task has ended, in mapConcurrent and taskGroup either", async () => {
    const signals: AbortSignal[] = [];
    const task = (signal: AbortSignal) => {
      if (signals.push(signal) === 2) throw "broken";
    };

    const fn = (_item: number, _index: number, signal: AbortSignal) => task(signal);
    await mapConcurrent([1, 2, 3], fn, { concurrency: 1 }).catch(() => {});
    signals.length = 0;
    await taskGroup(({ spawn }) => [spawn(task), spawn(task)].length).catch(() => {});

    expect(signals.map(({ aborted }) => aborted)).toEqual([false, false]);
  });
});

describe("race", () => {
  it("returns the first result when the loser has cleaned up", async (clock) => {
    const log: string[] = [];

    expect(await race([tidy(100, log), work(50, "first")])).toBe("first");

    expect(log).toEqual(["aborted at 50", "cleaned up at 60"]);
    expect([clock.elapsed, clock.pending]).toEqual([60, 0]);
  });

  it("rejects with an error that comes first, and aborts the others because of it", async (clock) => {
    const error = new Error("broken");
    let reason: unknown;
    const loser = async (signal: AbortSignal) => {
      await sleep(100, signal).catch(() => (reason = signal.reason));
    };

    await expect(race([loser, fail(error, 50)])).rejects.toBe(error);

    expect(reason).toMatchObject({ name: "AbortError", cause: error });
    expect(clock.elapsed).toBe(50);
  });

  test("starts no more once it is decided", async () => {
    let calls = 0;

    expect(await race([() => "first", () => calls++], { concurrency: 1 })).toBe("first");

    expect(calls).toBe(0);
  });

  test("of nothing is a RangeError, as it would never settle", async () => {
    const error = new RangeError("Cannot race: tasks must not be empty");

    await expect(race([])).rejects.toEqual(error);
    await expect(race([].values())).rejects.toEqual(error);
  });

  test("the winner's signal is not aborted, even if it declares no parameter", async () => {
    const signals: AbortSignal[] = [];
    const winner = (...args: AbortSignal[]) => signals.push(...args);
    const loser = (signal: AbortSignal) => microtasks(10).then(() => void signals.push(signal));

    await race([winner, loser]);
    await any([winner, loser]);
    await hedge(winner, { after: 0, attempts: 1 });

    expect(signals.map(({ aborted }) => aborted)).toEqual([false, true, false, true, false]);
    expect(signals[1]?.reason).toMatchObject({
      name: "AbortError",
      message: "The result is no longer needed",
    });
  });
});

describe("any", () => {
  it("returns the first success, not the first to end, when the loser has cleaned up", async (clock) => {
    const log: string[] = [];

    expect(await any([fail("a", 10), tidy(100, log), work(50, "b")])).toBe("b");

    expect(log).toEqual(["aborted at 50", "cleaned up at 60"]);
    expect(clock.elapsed).toBe(60);
  });

  it("rejects with all errors, in the order of the tasks, when all fail", async (clock) => {
    const error = await rejection(any([fail("a", 30), fail("b", 10), fail("c", 20)]));

    expect(error).toBeInstanceOf(AggregateError);
    expect(error).toMatchObject({ message: "All tasks failed", errors: ["a", "b", "c"] });
    expect(clock.elapsed).toBe(30);
  });

  it("tries one after the other with a concurrency of 1, until one succeeds", async (clock) => {
    let calls = 0;
    const tasks = [fail("a", 10), work(20, "b"), () => calls++];

    expect(await any(tasks, { concurrency: 1 })).toBe("b");

    expect([clock.elapsed, calls]).toEqual([30, 0]);
  });

  test("of nothing rejects with an AggregateError without errors, as Promise.any", async () => {
    expect(await rejection(any([]))).toMatchObject({ name: "AggregateError", errors: [] });
  });
});

describe("asCompleted", () => {
  const done = { done: true, value: undefined } as const;

  it("yields results in the order in which they come, each as soon as it is there", async (clock) => {
    const seen: [Completion<string>, at: number][] = [];

    for await (const completion of asCompleted([work(30, "a"), work(10, "b"), work(20, "c")])) {
      seen.push([completion, clock.elapsed]);
    }

    expect(seen).toEqual([
      [{ index: 1, value: "b" }, 10],
      [{ index: 2, value: "c" }, 20],
      [{ index: 0, value: "a" }, 30],
    ]);
  });

  it("runs on while the consumer is slow", async (clock) => {
    const tasks = Array.from({ length: 5 }, () => work(10));

    for await (const _ of asCompleted(tasks, { concurrency: 1 })) await sleep(20);

    expect(clock.elapsed).toBe(10 + 5 * 20);
  });

  it.each(["break", "throw"])(
    "left by %s, it aborts, awaits, and starts no more",
    async (way, clock) => {
      const { controller, listeners } = watchedController();
      const log: string[] = [];
      let calls = 0;
      const tasks = [work(10), tidy(100, log), work(30), () => calls++];
      const options = { concurrency: 2, signal: controller.signal };
      const consume = async () => {
        for await (const _ of asCompleted(tasks, options)) {
          if (way === "throw") throw new Error("thrown");
          break;
        }
      };

      const error = await rejection(consume());

      expect(error?.message).toBe(way === "throw" ? "thrown" : undefined);
      expect(log).toEqual(["aborted at 10", "cleaned up at 20"]);
      expect([clock.elapsed, clock.pending, listeners(), calls]).toEqual([20, 0, 0, 0]);
    },
  );

  it("tells what fails in the cleanup to the one who leaves, the first of two", async () => {
    const consume = async () => {
      const tasks = [work(10), tidy(100, [], "cleanup failed"), tidy(100, [], "another")];
      for await (const _ of asCompleted(tasks)) break;
    };

    await expect(consume()).rejects.toBe("cleanup failed");
  });

  test("starts nothing before the first next(), and nothing at all when left before", async () => {
    let calls = 0;
    const results = asCompleted([() => calls++]);

    expect(calls).toBe(0);
    await results.return();
    expect(await results.next()).toEqual(done);
    expect(calls).toBe(0);
  });

  it("rejects with a failure after the results that came before, and when all have ended", async (clock) => {
    const log: string[] = [];
    const error = new Error("broken");
    const results = asCompleted([tidy(100, log), fail(error, 20), work(10, "fine")]);

    expect(await results.next()).toEqual({ done: false, value: { index: 2, value: "fine" } });
    await expect(results.next()).rejects.toBe(error);

    expect(log).toEqual(["aborted at 20", "cleaned up at 30"]);
    expect(clock.elapsed).toBe(30);
    expect(await results.next()).toEqual(done);
  });

  it("starts no more after a failure, and yields no more", async () => {
    let calls = 0;
    const stubborn = () => sleep(100).then(() => "late");
    const results = asCompleted([fail("broken", 10), stubborn, () => calls++], {
      concurrency: 2,
    });

    await expect(results.next()).rejects.toBe("broken");

    expect(calls).toBe(0);
  });

  it("aborts the others at once when one fails while nobody waits", async () => {
    const log: string[] = [];
    const results = asCompleted([work(10, "fine"), fail("broken", 20), tidy(100, log)]);

    await results.next();
    await withoutUnhandled(() => sleep(1000));

    expect(log).toEqual(["aborted at 20", "cleaned up at 30"]);
    await expect(results.next()).rejects.toBe("broken");
  });

  test("yields no more after an abort that its own listener has not heard of yet", async () => {
    const { signal, abort } = lateSignal();
    const results = asCompleted([() => 1, () => 2], { signal });
    await results.next();
    await microtasks(10);
    abort("stop");

    await expect(results.next()).rejects.toBe("stop");
  });

  it("can be left during a pending next(), which then is done", async (clock) => {
    const log: string[] = [];
    const results = asCompleted([tidy(1000, log), tidy(1000)]);
    const pending = [results.next(), results.next()];
    await sleep(50);

    const leaving = results.return();
    expect(await results.next()).toEqual(done);
    expect([await leaving, ...(await Promise.all(pending))]).toEqual([done, done, done]);

    expect(log).toEqual(["aborted at 50", "cleaned up at 60"]);
    expect(clock.elapsed).toBe(60);
  });

  test("aborted before, it rejects with the reason once, and may be left then", async () => {
    const results = asCompleted([() => 1], { signal: AbortSignal.abort("stop") });

    await expect(results.next()).rejects.toBe("stop");
    expect(await results.return()).toEqual(done);
    expect(await results.next()).toEqual(done);
  });

  test("tells an error once: the other pending next() is done", async () => {
    const results = asCompleted([fail("broken", 0), work(1000)]);

    expect(await Promise.allSettled([results.next(), results.next(), results.next()])).toEqual([
      { status: "rejected", reason: "broken" },
      { status: "fulfilled", value: done },
      { status: "fulfilled", value: done },
    ]);
    expect(await results.return()).toEqual(done);
  });

  test("serves several pending next() in their order, and then is done", async () => {
    const results = asCompleted([() => "a", async () => "b"]);

    expect(await Promise.all([results.next(), results.next(), results.next()])).toEqual([
      { done: false, value: { index: 0, value: "a" } },
      { done: false, value: { index: 1, value: "b" } },
      done,
    ]);
  });

  it("tells what fails in the cleanup to the one who leaves, not to a pending next()", async () => {
    const results = asCompleted([tidy(100, [], "cleanup failed")]);
    const pending = results.next();

    await expect(results.return()).rejects.toBe("cleanup failed");

    expect(await pending).toEqual(done);
    expect(await results.return()).toEqual(done);
  });

  it("throw() leaves it, and rejects with the error", async (clock) => {
    const results = asCompleted([work(10), tidy(100, [], "cleanup failed")]);
    await results.next();

    await expect(results.throw("thrown")).rejects.toBe("thrown");

    expect(clock.elapsed).toBe(20);
    expect(await results.next()).toEqual(done);
  });

  it("await using leaves it", async (clock) => {
    {
      await using results = asCompleted([work(10), tidy(100)]);
      await results.next();
    }
    expect(clock.elapsed).toBe(20);
  });

  it("yields what came before a failure, also when it is aborted after that", async () => {
    const controller = new AbortController();
    const results = asCompleted([() => 1, () => 2, fail("broken", 10), tidy(100)], controller);
    await results.next();
    await sleep(15);
    controller.abort("stop");

    expect(await results.next()).toEqual({ done: false, value: { index: 1, value: 2 } });
    await expect(results.next()).rejects.toBe("broken");
    expect(await results.next()).toEqual(done);
  });

  test("left after its end, it aborts nothing any more", async () => {
    let shared: AbortSignal | undefined;
    const results = asCompleted([(...args: AbortSignal[]) => (shared = args[0])]);
    await Array.fromAsync({ [Symbol.asyncIterator]: () => results });

    await results.return();

    expect(shared?.aborted).toBe(false);
  });

  it("a failure that nobody has asked for is told to the one who leaves", async () => {
    const consume = async () => {
      for await (const _ of asCompleted([work(10), fail("broken", 20)])) {
        await sleep(100);
        break;
      }
    };

    await expect(consume()).rejects.toBe("broken");
  });

  it.each(["while it runs", "when all have ended"])(
    "aborted from outside %s, it rejects with the reason once",
    async (when) => {
      const controller = new AbortController();
      const tasks = [() => 1, () => 2, when === "while it runs" ? work(1000) : () => 3];
      const results = asCompleted(tasks, controller);
      await results.next();
      await sleep(10);
      controller.abort("stop");

      await expect(results.next()).rejects.toBe("stop");
      expect(await results.next()).toEqual(done);
      expect(await results.return()).toEqual(done);
    },
  );
});

describe("mapConcurrent", () => {
  it.each<[string, () => MapSource<number>]>([
    ["an array", () => [30, 10, 20]],
    ["a set", () => new Set([30, 10, 20])],
    ["an array of promises", () => [30, 10, 20].map((ms) => Promise.resolve(ms))],
    ["a generator", () => [30, 10, 20].values()],
    ["an async generator", () => sourceOf([30, 10, 20])],
    ["a stream", () => streamOf(30, 10, 20)],
    ["what a function returns", () => () => new Set([30, 10, 20])],
    ["what an async function returns", () => async () => sourceOf([30, 10, 20])],
  ])("maps %s, with the results in order", async (_name, source, clock) => {
    const fn = async (ms: number, index: number, signal: AbortSignal) => {
      await sleep(ms, signal);
      return `${index}: ${ms}`;
    };

    const results = await mapConcurrent(source(), fn, { concurrency: 2 });

    expect(results).toEqual(["0: 30", "1: 10", "2: 20"]);
    expect(clock.elapsed).toBe(30);
  });

  const item = Promise.resolve(1);
  test.each<[string, MapSource<unknown>, unknown[]]>([
    ["null and undefined", [null, undefined, 0], [null, undefined, 0]],
    ["those of a set", new Set([null, undefined, 0]), [null, undefined, 0]],
    ["the characters of a string, as for await does", "añ💡", ["a", "ñ", "💡"]],
    ["what an asynchronous source yields, be it a promise", asyncIterable([item].values()), [item]],
    ["what a next() returns that gives no promise", asyncIterable([1, 2].values()), [1, 2]],
  ])("hands on %s", async (_what, source, items) => {
    const seen: unknown[] = [];

    await mapConcurrent(source, (item) => void seen.push(item), { concurrency: 2 });

    expect(seen.length).toBe(items.length);
    expect(seen.every((item, index) => item === items[index])).toBe(true);
  });

  it("never holds more items of a long source than it works on", async () => {
    let peak = 0;
    const source = scripted(Array.from({ length: 1_000 }, (_, item) => () => item));
    let finished = 0;
    const fn = async (item: number) => {
      await sleep(item % 3);
      peak = Math.max(peak, source.pulled - finished++);
    };

    await mapConcurrent(source, fn, { concurrency: 3 });

    expect([finished, peak]).toEqual([1_000, 3]);
  });

  it("never asks a slow source for two items at a time, and closes none that has ended", async (clock) => {
    let asked = 0;
    let peak = 0;
    const step = async () => {
      peak = Math.max(peak, ++asked);
      await sleep(10);
      return asked--;
    };
    const source = scripted([step, step, step]);

    expect(await mapConcurrent(source, (n) => n, { concurrency: 5 })).toEqual([1, 1, 1]);

    expect([peak, clock.elapsed, source.closed]).toEqual([1, 30, 0]);
  });

  test("has eight running at once, even if each takes but a microtask", async () => {
    let running = 0;
    let peak = 0;
    const fn = async () => {
      peak = Math.max(peak, ++running);
      await undefined;
      running--;
    };

    await mapConcurrent(Array(100).keys(), fn, { concurrency: 8 });

    expect(peak).toBe(8);
  });

  test("works off 30,000 items with a synchronous function without overflowing the stack", async () => {
    const results = await mapConcurrent(Array(30_000).keys(), (n) => n, { concurrency: 1 });

    expect(results.length).toBe(30_000);
    expect(results.at(-1)).toBe(29_999);
  });

  describe("on a failure or an abort", () => {
    it("pulls no more, aborts what runs, closes the source once, and waits for both", async (clock) => {
      const source = sourceOf([1, 2, 3, 4], { closing: 20 });
      const log: string[] = [];
      const fn = (n: number, _: number, signal: AbortSignal) =>
        (n === 1 ? fail("broken", 50) : tidy(100, log))(signal);

      await expect(mapConcurrent(source, fn, { concurrency: 2 })).rejects.toBe("broken");

      expect(log).toEqual(["aborted at 50", "cleaned up at 60"]);
      expect(source.log).toEqual(["pulled 1", "pulled 2", "closed at 70"]);
      expect(clock.elapsed).toBe(70);
    });

    it("from outside does the same", async (clock) => {
      const { controller, listeners } = watchedController();
      const source = sourceOf([1, 2, 3], { closing: 20 });
      const log: string[] = [];
      const fn = (_n: number, _: number, signal: AbortSignal) => tidy(100, log)(signal);
      setTimeout(() => controller.abort("stop"), 50);
      const options = { concurrency: 2, signal: controller.signal };

      await expect(mapConcurrent(source, fn, options)).rejects.toBe("stop");

      expect(log).toEqual([...twice("aborted at 50"), ...twice("cleaned up at 60")]);
      expect(source.log).toEqual(["pulled 1", "pulled 2", "closed at 70"]);
      expect([clock.elapsed, listeners()]).toEqual([70, 0]);
    });

    it("while it pulls, waits for no item, drops it, and closes the source after it", async (clock) => {
      const source = sourceOf([1, 2, 3], { every: 30, closing: 20 });
      const seen: number[] = [];
      const fn = (n: number) => fail("broken", seen.push(n) * 10)();

      await expect(mapConcurrent(source, fn, { concurrency: 2 })).rejects.toBe("broken");
      expect(clock.elapsed).toBe(40);
      await sleep(100);

      expect(seen).toEqual([1]);
      expect(source.log).toEqual(["pulled 1", "pulled 2", "closed at 80"]);
    });

    it("of the source, aborts what runs and waits for it, and closes nothing", async (clock) => {
      const log: string[] = [];
      const source = scripted([() => 1, fail("source failed", 50)]);
      const fn = (_item: unknown, _: number, signal: AbortSignal) => tidy(100, log)(signal);

      await expect(mapConcurrent(source, fn, { concurrency: 5 })).rejects.toBe("source failed");

      expect(log).toEqual(["aborted at 50", "cleaned up at 60"]);
      expect([clock.elapsed, source.closed]).toEqual([60, 0]);
      const failing = scripted([fail("at once", 0)]);
      await expect(mapConcurrent(failing, fn, { concurrency: 5 })).rejects.toBe("at once");
      expect(failing.closed).toBe(0);
    });

    test.each([
      ["fn throws", () => [Promise.resolve(1), Promise.resolve(2)]],
      ["one of them rejects", () => [Promise.reject("thrown")]],
    ])("closes a source of promises when %s", async (_when, items) => {
      const source = generatorOf<unknown>(items());

      const mapping = mapConcurrent(source, raise("thrown"), { concurrency: 1 });

      await expect(mapping).rejects.toBe("thrown");
      expect(source.closed).toBe(1);
    });

    test("rejects with the failure, even if closing the source fails too", async () => {
      const source = scripted([() => 1, () => 2], { closing: fail("closing failed", 0) });

      const mapping = mapConcurrent(source, fail("broken", 0), { concurrency: 1 });

      await expect(mapping).rejects.toBe("broken");
      expect(source.closed).toBe(1);
    });

    test("before it begins, calls nothing and pulls nothing", async () => {
      const source = sourceOf([1]);
      const options = { concurrency: 1, signal: AbortSignal.abort("stop") };

      await expect(mapConcurrent(source, () => {}, options)).rejects.toBe("stop");

      expect(source.log).toEqual([]);
    });

    it.each<[string, () => MapSource<number>]>([
      ["an iterator", () => scripted([() => 1, silence])],
      ["a generator", () => silentGenerator()],
      ["a stream", () => silentStream(1)],
      ["an array with a pending promise", () => [1, new Promise<number>(() => {})]],
      ["a function that returns a stream", () => () => silentStream(1)],
      ["an async function that returns a generator", () => async () => silentGenerator()],
    ])("does not wait while %s is silent", async (_name, source, clock) => {
      const { controller, listeners } = watchedController();
      setTimeout(() => controller.abort("stop"), 50);
      const options = { concurrency: 2, signal: controller.signal };

      await expect(mapConcurrent(source(), fail("broken", 20), options)).rejects.toBe("broken");
      expect([clock.elapsed, listeners()]).toEqual([20, 0]);

      await expect(mapConcurrent(source(), () => {}, options)).rejects.toBe("stop");
      expect([clock.elapsed, listeners()]).toEqual([50, 0]);
    });

    it("tells a silent source to close at once, once, and does not wait for it", async (clock) => {
      const closing = () => sleep(20);
      const [one, other] = [
        scripted([() => 1, silence], { closing }),
        scripted([silence], { closing }),
      ];
      const signal = AbortSignal.timeout(50);

      const failing = mapConcurrent(one, fail("broken", 50), { concurrency: 2 });
      const aborted = mapConcurrent(other, () => {}, { concurrency: 1, signal });

      expect(await Promise.all([failing, aborted].map(rejection))).toEqual([
        "broken",
        signal.reason,
      ]);
      expect(clock.elapsed).toBe(50);
      expect([one.closed, other.closed, clock.pending]).toEqual([1, 1, 2]);
    });

    it("drops what a silent source, or its closing, fails with afterwards", async () => {
      const source = scripted([fail("late", 100)], { closing: fail("closing failed", 0) });
      const options = { concurrency: 2, signal: AbortSignal.timeout(50) };

      await withoutUnhandled(async () => {
        await expect(mapConcurrent(source, () => {}, options)).rejects.toThrow("timed out");
        await sleep(100);
      });
    });

    it.each(["ends", "fails"])(
      "waits for what runs if the closed source then %s",
      async (how, clock) => {
        const last = how === "fails" ? fail("late", 30) : () => sleep(30);
        const source = scripted([() => 1, () => 2], { last });
        const fn = (n: number) => (n === 1 ? fail("broken", 10)() : sleep(100));

        await expect(mapConcurrent(source, fn, { concurrency: 3 })).rejects.toBe("broken");

        expect(clock.elapsed).toBe(100);
      },
    );

    test("that its listener has not heard of yet, calls nothing for an item that comes then", async () => {
      const { signal, abort } = lateSignal();
      let calls = 0;
      const source = scripted([() => abort("stop")]);

      const mapping = mapConcurrent(source, () => calls++, { concurrency: 1, signal });

      await expect(mapping).rejects.toBe("stop");
      expect(calls).toBe(0);
    });

    test.each(["generator", "iterator that ends", "iterable that is being opened"])(
      "from inside a sync %s, closes it if it is open, and once",
      async (kind) => {
        const controller = new AbortController();
        const options = { concurrency: 1, signal: controller.signal };
        const abort = () => controller.abort("stop");
        const source = {
          generator: generatorOf([], abort),
          "iterator that ends": scripted([], { sync: true, last: abort }),
          "iterable that is being opened": scripted([], { sync: true, opening: abort }),
        }[kind]!;

        const mapping = mapConcurrent(source as Iterable<unknown>, () => {}, options);

        await expect(mapping).rejects.toBe("stop");
        expect(source.closed).toBe(kind === "iterator that ends" ? 0 : 1);
      },
    );
  });

  it("handles a promise in an array that rejects before its turn", async () => {
    await withoutUnhandled(async () => {
      const source = [sleep(100), Promise.reject("rejected")];

      await expect(mapConcurrent(source, () => {}, { concurrency: 1 })).rejects.toBe("rejected");
    });
  });

  describe("of a stream", () => {
    test("leaves it unlocked at its end, and when it fails", async () => {
      const [ending, failing] = [streamOf(1), brokenStream("stream failed")];

      await mapConcurrent(ending, () => {}, { concurrency: 2 });
      const mapping = mapConcurrent(failing, () => {}, { concurrency: 2 });

      await expect(mapping).rejects.toBe("stream failed");
      expect([ending.locked, failing.locked]).toEqual([false, false]);
    });

    it.each([
      ["idle", 2, 1],
      ["silent", 1, 2],
    ])("that is %s cancels and unlocks it on a failure", async (_state, items, concurrency) => {
      const stream = silentStream(items);

      await expect(mapConcurrent(stream, fail("broken", 10), { concurrency })).rejects.toBe(
        "broken",
      );

      expect([stream.cancelled, stream.locked]).toEqual([1, false]);
    });

    test("fails if somebody else reads it", async () => {
      const stream = silentStream(1);
      stream.getReader();

      const mapping = mapConcurrent(stream, () => {}, { concurrency: 2 });

      await expect(mapping).rejects.toBeInstanceOf(TypeError);
    });
  });

  describe("of a function that opens its source", () => {
    test.each<[string, (signal: AbortSignal) => unknown]>([
      ["an iterable", () => [1, 2]],
      ["a stream", () => streamOf(1, 2)],
      ["a promise of a generator", async () => sourceOf([1, 2])],
    ])(
      "calls it once, here for %s, with a signal that a natural end leaves alone",
      async (_what, open) => {
        const signals: AbortSignal[] = [];
        const source = (signal: AbortSignal) => {
          signals.push(signal);
          return open(signal) as Iterable<number>;
        };
        const fn = async (n: number) => {
          await microtasks(20);
          if (n === 2) throw "broken";
        };

        await expect(mapConcurrent(source, fn, { concurrency: 5 })).rejects.toBe("broken");

        expect(signals.map(({ aborted }) => aborted)).toEqual([false]);
      },
    );

    it("aborts its signal on a failure, with the reason, before it closes the source", async (clock) => {
      const log: unknown[] = [];
      async function* source(signal: AbortSignal) {
        signal.addEventListener("abort", () => log.push(["aborted", signal.reason.cause]));
        try {
          yield 1;
          yield 2;
        } finally {
          log.push(`closed at ${clock.elapsed}`);
        }
      }

      const mapping = mapConcurrent(source, fail("broken", 10), { concurrency: 1 });

      await expect(mapping).rejects.toBe("broken");
      expect(log).toEqual([["aborted", "broken"], "closed at 10"]);
    });

    it("stops a silent source by its signal, and drops what that throws", async (clock) => {
      const source = (signal: AbortSignal) => scripted([() => sleep(1000, signal)]);
      const options = { concurrency: 1, signal: AbortSignal.timeout(10) };

      await expect(mapConcurrent(source, () => {}, options)).rejects.toThrow("timed out");

      expect([clock.elapsed, clock.pending]).toEqual([10, 0]);
    });

    test("aborts the signal of a source that fails by itself", async () => {
      let seen: AbortSignal | undefined;
      const source = (signal: AbortSignal) => {
        seen = signal;
        return scripted([() => 1, fail("source failed", 0)]);
      };

      await expect(mapConcurrent(source, () => {}, { concurrency: 1 })).rejects.toBe(
        "source failed",
      );

      expect(seen?.reason).toMatchObject({ name: "AbortError", cause: "source failed" });
    });

    it.each(["generator", "stream", "iterable", "nothing"])(
      "closes a %s that it delivers after the abort, and does not iterate over it",
      async (kind) => {
        const late = {
          generator: sourceOf([1]),
          stream: silentStream(1),
          iterable: scripted([]),
          nothing: undefined,
        };
        const source = () => sleep(20).then(() => late[kind as "generator"]);
        const options = { concurrency: 1, signal: AbortSignal.timeout(10) };

        await withoutUnhandled(async () => {
          await expect(mapConcurrent(source, () => {}, options)).rejects.toThrow("timed out");
          await sleep(20);
        });

        expect(late.iterable.opened).toBe(0);
        if (kind === "stream") expect(late.stream.cancelled).toBe(1);
        if (kind === "generator") {
          expect(await late.generator.next()).toEqual({ done: true, value: undefined });
        }
      },
    );

    test.each<[string, () => never[] | Promise<never[]>]>([
      ["throws", raise("not opened")],
      ["rejects", fail("not opened", 0)],
    ])("fails when it %s", async (_how, source) => {
      const mapping = mapConcurrent(source, () => {}, { concurrency: 1 });

      await expect(mapping).rejects.toBe("not opened");
    });

    test("fails when it returns something else", async () => {
      const mapping = mapConcurrent((() => 5) as never, () => {}, { concurrency: 1 });

      await expect(mapping).rejects.toEqual(
        new TypeError("Cannot run mapConcurrent: what source returns must be a source, received 5"),
      );
    });
  });

  test("prefers the asynchronous iterator", async () => {
    const source = { ...scripted([() => 1]), [Symbol.iterator]: () => [42].values() };

    expect(await mapConcurrent<number, number>(source, (n) => n, { concurrency: 2 })).toEqual([1]);
  });

  test.each([
    { kind: "async", source: { [Symbol.asyncIterator]: () => ({ next: async () => 5 }) } },
    { kind: "sync", source: { [Symbol.iterator]: () => ({ next: () => undefined }) } },
  ])("fails when next() of an $kind source does not return an object", async ({ source }) => {
    const mapping = mapConcurrent(source as never, () => {}, { concurrency: 1 });

    await expect(mapping).rejects.toThrow("the result of next() must be an object, received");
    await expect(mapping).rejects.toBeInstanceOf(TypeError);
  });

  describe("with stopOnError: false", () => {
    const failOnOdd = async (n: number) => {
      await sleep(10 * (5 - n));
      if (n % 2) throw `failed on ${n}`;
      return n;
    };
    const options = { concurrency: 4, stopOnError: false };

    it("works off all, and rejects with all errors in order of time", async (clock) => {
      const error = await rejection(mapConcurrent([1, 2, 3, 4, 0], failOnOdd, options));

      expect(error).toBeInstanceOf(AggregateError);
      expect(error).toMatchObject({
        message: "Some items failed",
        errors: ["failed on 3", "failed on 1"],
        cause: "failed on 3",
      });
      expect(clock.elapsed).toBe(60);
    });

    test("returns the results when none fails", async () => {
      expect(await mapConcurrent([2, 4], (n) => n, options)).toEqual([2, 4]);
    });

    it("stops when the source fails, and keeps that error and the others", async () => {
      const log: string[] = [];
      const fn = (n: number, _: number, signal: AbortSignal) =>
        n === 1
          ? fail("item failed", 0)()
          : tidy(100, log, n === 2 ? "cleanup failed" : undefined)(signal);
      async function* source() {
        yield* [1, 2, 3];
        await sleep(20);
        throw "source failed";
      }

      const error = await rejection(mapConcurrent(source(), fn, options));

      expect(error).toMatchObject({ errors: ["item failed", "cleanup failed", "source failed"] });
      expect(log).toContain("cleaned up at 30");
      await expect(mapConcurrent(generatorOf([], "alone"), fn, options)).rejects.toBe("alone");
    });

    it("rejects with the reason when it is aborted, also after a failure", async () => {
      const signal = AbortSignal.timeout(35);
      const mapping = mapConcurrent([3, 1, 2], failOnOdd, { ...options, signal });

      expect(await rejection(mapping)).toBe(signal.reason);
    });

    test.each<[string, () => MapSource<number>]>([
      ["an item", () => [1, 2]],
      ["the source", () => generatorOf([1, 3], "failed")],
    ])("releases the results once when %s fails", async (_what, source) => {
      const hold = new Hold();
      const fn = (n: number) =>
        n === 1 ? hold : n === 3 ? microtasks(20) : Promise.reject("failed");

      await expect(
        mapConcurrent(source(), fn, { ...options, concurrency: 1 }),
      ).rejects.toBeDefined();

      expect(hold.releases).toBe(1);
    });

    test("may fail with undefined", async () => {
      const failing = mapConcurrent([1], () => Promise.reject(), options);
      await expect(failing).rejects.toMatchObject({ errors: [undefined] });
    });
  });
});

describe("taskGroup", () => {
  it("returns the body's result when all tasks have ended, also those nobody awaits", async (clock) => {
    const result = await taskGroup(async (group) => {
      group.spawn(work(100));
      return await group.spawn(work(50, "result"));
    });

    expect(result).toBe("result");
    expect(clock.elapsed).toBe(100);
  });

  it("lets tasks spawn tasks, also when the body has returned", async (clock) => {
    const log: string[] = [];

    await taskGroup(({ spawn }) => {
      spawn(async () => {
        await sleep(10);
        spawn(async () => {
          await sleep(10);
          log.push(`grandchild at ${clock.elapsed}`);
        });
      });
      log.push("body returned");
    });

    expect(log).toEqual(["body returned", "grandchild at 20"]);
  });

  test("refuses to spawn after its end, and calls nothing then", async () => {
    let calls = 0;
    let late: Promise<unknown> = Promise.resolve();

    const ended = await taskGroup((group) => {
      late = group.spawn(() => microtasks(10)).then(() => group.spawn(() => calls++));
      return group;
    });

    await expect(late).rejects.toEqual(new Error("Cannot spawn: the group has ended"));
    await expect(ended.spawn(() => calls++)).rejects.toThrow("the group has ended");
    expect(calls).toBe(0);
  });

  it("refuses to spawn after an abort, with the reason, and calls nothing then", async () => {
    let calls = 0;
    let refusal: unknown;
    let reason: unknown;

    await taskGroup(async ({ spawn, signal }) => {
      spawn(fail("broken", 10));
      await sleep(20);
      reason = signal.reason;
      refusal = await rejection(spawn(() => calls++));
    }).catch(() => {});

    expect(refusal).toBe(reason as Error);
    expect(refusal).toMatchObject({ name: "AbortError", cause: "broken" });
    expect(calls).toBe(0);
  });

  it("a task that fails aborts the body and the others, which clean up before it rejects", async (clock) => {
    const log: string[] = [];
    const failure = new Error("broken");

    const error = await rejection(
      taskGroup(async (group) => {
        group.spawn(tidy(100, log));
        group.spawn(fail(failure, 50));
        await sleep(100, group.signal);
      }),
    );

    expect(error).toBeInstanceOf(AggregateError);
    expect(error).toMatchObject({ message: "The task group failed", errors: [failure] });
    expect(error?.cause).toBe(failure);
    expect(log).toEqual(["aborted at 50", "cleaned up at 60"]);
    expect([clock.elapsed, clock.pending]).toEqual([60, 0]);
  });

  it("keeps every real failure, of body, tasks and cleanups, in order of time", async () => {
    const body = async ({ spawn }: TaskGroup) => {
      spawn(tidy(100, [], "cleanup failed"));
      spawn(fail("task failed", 50));
      await sleep(55);
      throw "body failed";
    };

    expect(await rejection(taskGroup(body))).toMatchObject({
      errors: ["task failed", "body failed", "cleanup failed"],
    });
    const failing = taskGroup(({ spawn }) => {
      spawn(tidy(100));
      throw "body failed";
    });
    expect(await rejection(failing)).toMatchObject({ errors: ["body failed"] });
  });

  it.each([
    ["undefined", undefined],
    ["null", null],
    ["a string", "text"],
    ["an object", { name: "Error" }],
    ["an empty group", new AggregateError([])],
    ["a group with a failure in it", new AggregateError([abortErrorOfAnotherRealm(), "failed"])],
    ["an error whose name throws", hostileError()],
    ["a revoked proxy", revokedProxy()],
  ])("keeps %s that is thrown in a cleanup", async (_kind, thrown) => {
    const cleanup = (signal: AbortSignal) => sleep(100, signal).catch(() => Promise.reject(thrown));

    const error = await rejection(
      taskGroup((group) => {
        group.spawn(cleanup);
        group.spawn(fail("broken", 50));
      }),
    );

    expect((error as AggregateError).errors.length).toBe(2);
    expect((error as AggregateError).errors[1] === thrown).toBe(true);
  });

  it.each([
    { echo: "the very reason", make: (reason: unknown) => reason },
    { echo: "an AbortError", make: () => new DOMException("gone", "AbortError") },
    { echo: "an AbortError of another realm", make: abortErrorOfAnotherRealm },
    { echo: "a group of echoes", make: (reason: unknown) => new AggregateError([reason, reason]) },
    { echo: "a long chain of groups", make: chainOfGroups },
    { echo: "a group in a group", make: groupInGroup },
  ])("leaves out what echoes the abort: $echo", async ({ make }) => {
    const error = await rejection(
      taskGroup((group) => {
        group.spawn((signal) => sleep(100, signal).catch((reason) => Promise.reject(make(reason))));
        group.spawn(fail("broken", 50));
      }),
    );

    expect(error).toMatchObject({ errors: ["broken"] });
  });

  test("takes an AbortError that nobody asked for as a failure", async () => {
    const abortError = new DOMException("gone", "AbortError");

    const error = await rejection(taskGroup(({ spawn }) => void spawn(fail(abortError, 0))));

    expect(error).toMatchObject({ errors: [abortError] });
  });

  test("lists an error once that the body passes on from a task", async () => {
    const error = await rejection(taskGroup(({ spawn }) => spawn(fail("broken", 0))));

    expect(error).toMatchObject({ errors: ["broken"] });
  });

  test("lets the promise of a failed task be awaited, and be ignored", async () => {
    let seen: unknown;
    await withoutUnhandled(async () => {
      await taskGroup(async ({ spawn }) => {
        spawn(fail("ignored", 0));
        seen = await rejection(spawn(fail("awaited", 0)));
      }).catch(() => {});
    });

    expect(seen).toBe("awaited");
  });

  test("takes something spawned that is not a function as a failure", async () => {
    const error = await rejection(taskGroup(({ spawn }) => void spawn(Promise.resolve() as never)));

    expect((error as AggregateError).errors).toEqual([
      new TypeError("Cannot spawn: task must be a function, received Promise"),
    ]);
  });

  it("nested groups end inside out, and the inner error is part of the outer one", async (clock) => {
    const log: string[] = [];
    const inner = async (signal: AbortSignal) => {
      try {
        await taskGroup((group) => void group.spawn(tidy(100, log, "inner cleanup")), { signal });
      } finally {
        log.push(`inner ended at ${clock.elapsed}`);
      }
    };

    const error = await rejection(
      taskGroup((group) => {
        group.spawn(inner);
        group.spawn(fail("outer failed", 50));
      }),
    );

    log.push(`outer ended at ${clock.elapsed}`);
    expect(log).toEqual([
      "aborted at 50",
      "cleaned up at 60",
      "inner ended at 60",
      "outer ended at 60",
    ]);
    expect(error).toMatchObject({
      errors: ["outer failed", { name: "AggregateError", errors: ["inner cleanup"] }],
    });
  });

  it("a nested group that ends quietly when aborted leaves no error in the outer one", async () => {
    const inner = (signal: AbortSignal) =>
      taskGroup((group) => void group.spawn(work(100)), { signal });

    const outer = taskGroup((group) => void [inner, fail("broken", 50)].map(group.spawn));

    expect(await rejection(outer)).toMatchObject({ errors: ["broken"] });
  });

  it("aborted from outside, it rejects with the very reason after the cleanup", async (clock) => {
    const { controller, listeners } = watchedController();
    const reason = new Error("stop");
    const log: string[] = [];
    setTimeout(() => controller.abort(reason), 50);

    const group = taskGroup(async ({ spawn, signal }) => {
      spawn(tidy(100, log));
      await sleep(100, signal).catch(() => {});
      return "unmoved";
    }, controller);

    await expect(group).rejects.toBe(reason);
    expect(log).toEqual(["aborted at 50", "cleaned up at 60"]);
    expect([clock.elapsed, listeners()]).toEqual([60, 0]);
  });

  it("aborted from outside, it keeps what fails in the cleanup, and the reason as its cause", async () => {
    const reason = new Error("stop");
    const controller = new AbortController();
    setTimeout(() => controller.abort(reason), 50);

    const error = await rejection(
      taskGroup(({ spawn }) => void spawn(tidy(100, [], "cleanup failed")), controller),
    );

    expect(error).toMatchObject({ errors: ["cleanup failed"] });
    expect(error?.cause).toBe(reason);
  });

  test("is not called when it is aborted before", async () => {
    let calls = 0;
    const options = { signal: AbortSignal.abort("stop") };

    await expect(taskGroup(() => calls++, options)).rejects.toBe("stop");

    expect(calls).toBe(0);
  });

  test("aborted from inside the body, which then fails, it keeps that failure", async () => {
    const controller = new AbortController();
    const body = () => {
      controller.abort("stop");
      throw "body failed";
    };

    expect(await rejection(taskGroup(body, controller))).toMatchObject({
      errors: ["body failed"],
      cause: "stop",
    });
  });

  it("rejects with the failure when it is aborted later, and leaves out an echo of that abort", async () => {
    const controller = new AbortController();
    const { signal } = controller;
    setTimeout(() => controller.abort(new Error("stop")), 55);

    const error = await rejection(
      taskGroup(
        ({ spawn }) => {
          spawn(() => sleep(100, signal));
          spawn(fail("broken", 50));
        },
        { signal },
      ),
    );

    expect(error).toMatchObject({ errors: ["broken"], cause: "broken" });
  });

  test("is cancelled by its signal, not by an error that is equal to the reason", async () => {
    const controller = new AbortController();
    const same = new Error("same");

    const error = await rejection(
      taskGroup(async ({ spawn }) => {
        spawn(fail(same, 0));
        await microtasks(10);
        controller.abort(same);
      }, controller),
    );

    expect(error).toMatchObject({ name: "AggregateError", errors: [same] });
  });

  test("an abort through 1,000 nested groups neither overflows nor leaves one behind", async () => {
    const controller = new AbortController();
    let ended = 0;
    const nest = async (depth: number, signal: AbortSignal): Promise<unknown> => {
      // Lets the stack go; starting them all in one call would overflow it on some runtimes.
      await undefined;
      const inner = (own: AbortSignal) => (depth > 0 ? nest(depth - 1, own) : sleep(1000, own));
      return taskGroup(({ spawn }) => void spawn(inner), { signal }).finally(() => ended++);
    };

    const running = rejection(nest(1000, controller.signal));
    await microtasks(5000);
    controller.abort("stop");

    expect(await running).toBe("stop" as never);
    expect(ended).toBe(1001);
  });

  test("refuses to spawn after an abort of which it has not heard yet", async () => {
    const { signal, abort } = lateSignal();
    let calls = 0;
    let refusal: unknown;

    const group = taskGroup(
      async ({ spawn }) => {
        abort("stop");
        refusal = await rejection(spawn(() => calls++));
      },
      { signal },
    );

    await expect(group).rejects.toBe("stop");
    expect(refusal).toBe("stop");
    expect(calls).toBe(0);
  });

  it("runs at most so many tasks at once, in the order in which they were spawned", async (clock) => {
    const log: string[] = [];
    const task = (name: string) => async () => {
      log.push(`${name} at ${clock.elapsed}`);
      await sleep(100);
      return name;
    };

    const results = await taskGroup(
      async ({ spawn }) => Promise.all(["a", "b", "c", "d", "e"].map((name) => spawn(task(name)))),
      { concurrency: 2 },
    );

    expect(results).toEqual(["a", "b", "c", "d", "e"]);
    expect(log).toEqual(["a at 0", "b at 0", "c at 100", "d at 100", "e at 200"]);
    expect(clock.elapsed).toBe(300);
  });

  test("starts none in line after an abort of which it has not heard yet", async () => {
    const { signal, abort } = lateSignal();
    let calls = 0;
    const group = taskGroup(
      ({ spawn }) => {
        spawn(() => abort("stop"));
        spawn(() => calls++);
      },
      { concurrency: 1, signal },
    );

    await expect(group).rejects.toBe("stop");
    expect(calls).toBe(0);
  });

  test("its signal is aborted also if it is asked for only after a failure", async () => {
    let reason: unknown;
    const group = taskGroup(async (group) => {
      group.spawn((_signal) => Promise.reject("broken"));
      await microtasks(10);
      reason = group.signal.reason;
    });

    expect(await rejection(group)).toMatchObject({ errors: ["broken"] });
    expect(reason).toMatchObject({ name: "AbortError", cause: "broken" });
  });

  test("runs the tasks in line that nobody awaits, and keeps their failures", async () => {
    const log: number[] = [];

    const error = await rejection(
      taskGroup(
        ({ spawn }) => {
          for (const n of [1, 2, 3]) spawn(() => void log.push(n));
          spawn(fail("broken", 0));
        },
        { concurrency: 1 },
      ),
    );

    expect(log).toEqual([1, 2, 3]);
    expect(error).toMatchObject({ errors: ["broken"] });
  });

  it.each(["failure", "abort"])(
    "on a %s rejects those in line, and starts none of them",
    async (kind) => {
      const controller = new AbortController();
      let calls = 0;
      let reason: unknown;
      let refusals: unknown[] = [];
      if (kind === "abort") setTimeout(() => controller.abort("stop"), 50);

      await taskGroup(
        async ({ spawn, signal }) => {
          spawn(kind === "abort" ? (own) => sleep(100, own) : fail("broken", 50));
          refusals = await Promise.all([
            rejection(spawn(() => calls++)),
            rejection(spawn(() => calls++)),
          ]);
          reason = signal.reason;
        },
        { concurrency: 1, signal: controller.signal },
      ).catch(() => {});

      expect(calls).toBe(0);
      expect(refusals).toEqual([reason, reason]);
      expect(reason === "stop").toBe(kind === "abort");
    },
  );

  it("the end of the body makes no room for tasks in line", async (clock) => {
    await taskGroup(
      ({ spawn }) => {
        spawn(work(100));
        spawn(work(100));
      },
      { concurrency: 1 },
    );

    expect(clock.elapsed).toBe(200);
  });

  test.skipIf(!Bun)("keeps no results while it runs, but holds (needs Bun)", async () => {
    const end = Promise.withResolvers<void>();
    const results: WeakRef<object>[] = [];
    const running = taskGroup(async ({ spawn }) => {
      for (let n = 0; n < 100; n++) {
        spawn(() => {
          const result = [{ n }];
          results.push(new WeakRef(result));
          return result;
        });
      }
      await end.promise;
    });
    await new Promise((resolve) => setImmediate(resolve));

    Bun!.gc(true);

    const kept = results.filter((result) => result.deref() !== undefined).length;
    end.resolve();
    await running;
    expect(kept < 50).toBe(true);
  });

  test("a refusal to spawn need not be handled", async () => {
    await withoutUnhandled(async () => {
      const spawn = await taskGroup((group) => group.spawn);
      spawn(() => "too late");
      const failing = taskGroup(async (group) => {
        group.spawn(fail("broken", 0));
        await microtasks(10);
        group.spawn(() => "too late");
      });
      await expect(failing).rejects.toThrow("The task group failed");
    });
  });
});

describe("a TaskGroup", () => {
  it("tells how many tasks run, and how many wait in line", async () => {
    const seen: string[] = [];
    const started: number[] = [];
    const task = (n: number) => (signal: AbortSignal) => work(10 * started.push(n))(signal);
    const look = (group: TaskGroup) => {
      const key = Symbol.for("nodejs.util.inspect.custom") as never;
      const show = group[key] as (...args: unknown[]) => string;
      seen.push(show.call(group, 2, {}, JSON.stringify));
    };

    const group = await taskGroup(
      async (group) => {
        look(group);
        for (const n of [1, 2, 3, 4]) group.spawn(task(n));
        look(group);
        await sleep(15);
        group.spawn(task(5));
        look(group);
        return group;
      },
      { concurrency: 2 },
    );
    look(group);

    expect(seen).toEqual([
      'TaskGroup {"running":0,"waiting":0}',
      'TaskGroup {"running":2,"waiting":2}',
      'TaskGroup {"running":2,"waiting":2}',
      'TaskGroup {"running":0,"waiting":0}',
    ]);
    expect(started).toEqual([1, 2, 3, 4, 5]);
  });
});

describe("singleFlight", () => {
  it("shares one run between concurrent calls, its result and its error", async (clock) => {
    let runs = 0;
    const fly = singleFlight(async (name: string) => {
      await sleep(100);
      if (name === "bad") throw new Error(`failed ${++runs}`);
      return { name, run: ++runs };
    });

    const [one, two, three] = await gather([() => fly("a"), () => fly("a"), () => fly("b")]);
    const [bad, worse] = await gather([() => rejection(fly("bad")), () => rejection(fly("bad"))]);

    expect(one).toBe(two);
    expect(three).toEqual({ name: "b", run: 2 });
    expect(bad).toBe(worse);
    expect(bad).toEqual(new Error("failed 3"));
    expect(clock.elapsed).toBe(200);
  });

  it("lets a caller in who comes later, and forgets the run when it has ended", async (clock) => {
    const { fly } = flight(100);

    const first = fly();
    await sleep(50);
    expect(await gather([() => first, () => fly()])).toEqual(["run 1", "run 1"]);
    expect(clock.elapsed).toBe(100);
    expect(await fly().then(() => fly())).toBe("run 3");
  });

  test("goes by the key, if there is one, and rejects when that throws", async () => {
    const inputs: string[] = [];
    const fly = singleFlight((input: string) => void inputs.push(input), {
      key: (input) => input.toLowerCase(),
    });

    await Promise.all([fly("Ada"), fly("ADA"), fly("Bob")]);

    expect(inputs).toEqual(["Ada", "Bob"]);
    await expect(fly(null as never)).rejects.toBeInstanceOf(TypeError);
  });

  test("shares what is thrown as a rejection, and tries again afterwards", async () => {
    let runs = 0;
    const fly = singleFlight(() => {
      throw `failed ${++runs}`;
    });

    expect(await Promise.all([fly(), fly()].map(rejection))).toEqual(twice("failed 1") as never);
    await expect(fly()).rejects.toBe("failed 2");
  });

  const moments = [
    { moment: "before the call", at: 0, isFirst: true, rejects: true },
    { moment: "during the run", at: 50, isFirst: false, rejects: true },
    { moment: "in the turn of its end, before it", at: 100, isFirst: true, rejects: true },
    { moment: "in the turn of its end, after it", at: 100, isFirst: false, rejects: false },
    { moment: "after its end", at: 150, isFirst: false, rejects: false },
  ];
  const rows = ["first", "middle", "last"].flatMap((who, index) =>
    moments.map((moment) => ({ who, index, ...moment })),
  );
  it.each(rows)(
    "the $who of three callers, aborted $moment, leaves alone, at once, without a trace",
    async (row, clock) => {
      const { fly, signals } = flight(100);
      const callers = [watchedController(), watchedController(), watchedController()];
      const abort = () => callers[row.index]!.controller.abort("stop");
      if (row.isFirst) row.at === 0 ? abort() : setTimeout(abort, row.at);
      const outcomes = callers.map(async ({ controller }) => {
        const error = await rejection(fly(undefined, controller));
        return [error, clock.elapsed];
      });
      if (!row.isFirst) setTimeout(abort, row.at);

      const expected: unknown[] = Array(3).fill([undefined, 100]);
      if (row.rejects) expected[row.index] = ["stop", row.at];
      expect(await Promise.all(outcomes)).toEqual(expected as never);
      await sleep(100);
      expect(callers.map(({ listeners }) => listeners())).toEqual([0, 0, 0]);
      expect(signals.map(({ aborted }) => aborted)).toEqual([false]);
    },
  );

  it("aborts the run when all have left, with the last one's reason, and starts anew for the next", async () => {
    const { fly, signals } = flight(60, 100);
    const [one, two] = [new AbortController(), new AbortController()];
    const left = [fly(undefined, one), fly(undefined, two)].map(rejection);

    one.abort("one");
    expect(signals[0]?.aborted).toBe(false);
    two.abort("two");
    expect(signals[0]?.reason).toBe("two");

    // The old run, which is deaf, ends before the new one, and does not end that.
    const next = fly();
    await sleep(80);
    const joins = fly();
    expect(await Promise.all(left)).toEqual(["one", "two"] as never);
    expect(await Promise.all([next, joins])).toEqual(["run 2", "run 2"]);
    expect(signals[1]?.aborted).toBe(false);
  });

  test("leaves nothing unhandled when a run fails that all have left", async () => {
    await withoutUnhandled(async () => {
      const controller = new AbortController();
      const left = rejection(singleFlight(fail("late", 0))(undefined, controller));
      controller.abort();
      await left;
    });
  });

  test("is joined, not run again, by a call from inside its run", async () => {
    let runs = 0;
    let joined: Promise<number> | undefined;
    const fly: () => Promise<number> = singleFlight(() => {
      joined ??= fly();
      return ++runs;
    });

    expect([await fly(), await joined, runs]).toEqual([1, 1, 1]);
  });

  test("aborted from inside its run, it rejects, aborts the run, and the next call starts anew", async () => {
    const controller = new AbortController();
    const signals: AbortSignal[] = [];
    const fly = singleFlight((_: void, signal) => {
      if (signals.push(signal) === 1) controller.abort("stop");
      return signals.length;
    });

    await expect(fly(undefined, controller)).rejects.toBe("stop");

    expect(signals[0]?.reason).toBe("stop");
    expect(await fly()).toBe(2);
  });

  test("aborted before, it does not ask for the key; aborted by that, it runs nothing", async () => {
    const controller = new AbortController();
    let [keys, runs] = [0, 0];
    const key = () => {
      keys++;
      controller.abort("by the key");
    };
    const fly = singleFlight(() => ++runs, { key });

    await expect(fly(undefined, { signal: AbortSignal.abort("before") })).rejects.toBe("before");
    expect(keys).toBe(0);
    await expect(fly(undefined, controller)).rejects.toBe("by the key");
    expect([keys, runs]).toEqual([1, 0]);
  });

  it("forget() lets the next call start a new run, and leaves the old one to its callers", async () => {
    const signals: AbortSignal[] = [];
    const fly = singleFlight(
      async (id: number, signal) => {
        const run = signals.push(signal);
        await sleep(run === 1 ? 60 : 100);
        return `${id}: run ${run}`;
      },
      { key: (id) => id % 10 },
    );
    const { controller, listeners } = watchedController();
    const old = [fly(7), fly(17)];
    const leaving = rejection(fly(7, controller));

    fly.forget(5);
    expect(fly(7)).toBe(old[0]!);
    fly.forget(7);
    const anew = fly(7, new AbortController());
    controller.abort("stop");

    expect(await leaving).toBe("stop" as never);
    expect(await Promise.all(old)).toEqual(["7: run 1", "7: run 1"]);
    expect(await Promise.all([anew, fly(27)])).toEqual(["7: run 2", "7: run 2"]);
    expect(signals.some(({ aborted }) => aborted)).toBe(false);
    expect(listeners()).toBe(0);
  });

  it("aborts a forgotten run when all have left, and not the one that follows it", async () => {
    const signals: AbortSignal[] = [];
    const fly = singleFlight((_: void, signal) =>
      work(100, "landed")((signals.push(signal), undefined as never)),
    );
    const controller = new AbortController();
    const old = rejection(fly(undefined, controller));
    fly.forget(undefined);
    const anew = fly();

    controller.abort("stop");

    expect(await old).toBe("stop" as never);
    expect(signals.map(({ aborted }) => aborted)).toEqual([true, false]);
    expect(fly()).toBe(anew);
    expect(await anew).toBe("landed");
  });
});

describe("hedge", () => {
  it("starts one attempt when that is quick enough", async (clock) => {
    const attempts = attemptsOf(work(50, "first"));

    expect(await hedge(attempts.task, { after: 100, attempts: 5 })).toBe("first");

    expect(attempts.startedAt).toEqual([0]);
    expect([clock.elapsed, clock.pending]).toEqual([50, 0]);
  });

  it("starts another when it is slow, and aborts and awaits the loser", async (clock) => {
    const log: string[] = [];
    const attempts = attemptsOf(tidy(1000, log), work(50, "second"));

    expect(await hedge(attempts.task, { after: 100 })).toBe("second");

    expect(attempts.startedAt).toEqual([0, 100]);
    expect(log).toEqual(["aborted at 150", "cleaned up at 160"]);
    expect([clock.elapsed, clock.pending]).toEqual([160, 0]);
  });

  it("does not abort the signal of the winner, and starts no more", async (clock) => {
    const signals: AbortSignal[] = [];
    const task = async (signal: AbortSignal) => {
      const ms = signals.push(signal) === 1 ? 150 : 1000;
      await sleep(ms, signal).catch(() => sleep(500));
    };

    await hedge(task, { after: 100, attempts: 5 });

    expect(signals.map(({ aborted }) => aborted)).toEqual([false, true]);
    expect(clock.elapsed).toBe(650);
  });

  const day = 24 * 3_600_000;
  const twoMonths = async (signal: AbortSignal) => {
    for (let n = 0; n < 60; n++) await sleep(day, signal);
    return "";
  };
  it.each<{
    what: string;
    tasks: Task<string>[];
    options: HedgeOptions;
    starts: number[];
    end: number;
  }>([
    {
      what: "makes two attempts by default",
      tasks: [work(950, "done")],
      options: { after: 100 },
      starts: [0, 100],
      end: 950,
    },
    {
      what: "makes no second attempt if it may make one",
      tasks: [work(950, "done")],
      options: { after: 100, attempts: 1 },
      starts: [0],
      end: 950,
    },
    {
      what: "makes as many attempts as it may",
      tasks: [work(950, "done")],
      options: { after: 100, attempts: 4 },
      starts: [0, 100, 200, 300],
      end: 950,
    },
    {
      what: "makes attempts without end",
      tasks: [work(350, "done")],
      options: { after: 100, attempts: Infinity },
      starts: [0, 100, 200, 300],
      end: 350,
    },
    {
      what: "starts the next at once when an attempt fails, and the one after that in its time",
      tasks: [fail("broken", 30), work(1000, ""), work(10, "done")],
      options: { after: 100, attempts: 3 },
      starts: [0, 30, 130],
      end: 140,
    },
    {
      what: "starts all at once when they are to come after 0 ms",
      tasks: [work(1000, ""), work(100, ""), work(10, "done")],
      options: { after: 0, attempts: 3 },
      starts: [0, 0, 0],
      end: 10,
    },
    ...[Infinity, 2 ** 31].map((after) => ({
      what: `starts the next only after a failure, with ${after}`,
      tasks: [fail("broken", 5000), work(10, "done")],
      options: { after },
      starts: [0, 5000],
      end: 5010,
    })),
    {
      what: "counts months",
      tasks: [twoMonths, work(10, "done")],
      options: { after: 30 * day },
      starts: [0, 30 * day],
      end: 30 * day + 10,
    },
  ])("$what", async ({ tasks, options, starts, end }, clock) => {
    const attempts = attemptsOf(...tasks);

    expect(await hedge(attempts.task, options)).toBe("done");

    expect(attempts.startedAt).toEqual(starts);
    expect([clock.elapsed, clock.pending]).toEqual([end, 0]);
  });

  it("rejects with all errors when all attempts fail, in their order", async (clock) => {
    const attempts = attemptsOf(fail("a", 250), fail("b", 10), fail("c", 10));

    const error = await rejection(hedge(attempts.task, { after: 100, attempts: 3 }));

    expect(error).toBeInstanceOf(AggregateError);
    expect(error).toMatchObject({ message: "All attempts failed", errors: ["a", "b", "c"] });
    expect([clock.elapsed, clock.pending]).toEqual([250, 0]);
  });

  it("aborted from outside, it aborts all attempts, starts no more, and rejects when they have ended", async (clock) => {
    const { controller, listeners } = watchedController();
    const attempts = attemptsOf(tidy(1000));
    setTimeout(() => controller.abort("stop"), 195);

    const hedging = hedge(attempts.task, { after: 100, attempts: 5, signal: controller.signal });

    await expect(hedging).rejects.toBe("stop");
    expect(attempts.startedAt).toEqual([0, 100]);
    expect([clock.elapsed, clock.pending, listeners()]).toEqual([205, 0, 0]);
  });

  it("starts no attempt after an abort that its own listener has not heard of yet", async (clock) => {
    const { signal, abort } = lateSignal();
    const attempts = attemptsOf(work(20));
    const hedging = hedge(attempts.task, { after: 10, signal });
    abort("stop");

    await expect(hedging).rejects.toBe("stop");
    expect(attempts.startedAt).toEqual([0]);
    expect(clock.elapsed).toBe(10);
  });

  it("makes attempts without end that fail at once, and lets the event loop have its turns", async (clock) => {
    let calls = 0;
    const task = () => raise(`failed ${++calls}`)();
    const signal = AbortSignal.timeout(5);

    const hedging = hedge(task, { after: 1000, attempts: Infinity, signal });

    await expect(hedging).rejects.toThrow("timed out");
    expect([clock.elapsed, clock.pending]).toEqual([5, 0]);
    expect(calls).toBeGreaterThan(10);
  });

  it.each([
    { attempts: 25, pauses: 2 },
    { attempts: 10, pauses: 0 },
  ])(
    "makes $attempts attempts that fail at once, with $pauses pauses of 1 ms",
    async ({ attempts, pauses }, clock) => {
      const error = await rejection(hedge(fail("failed", 0), { after: Infinity, attempts }));

      expect((error as AggregateError).errors).toEqual(Array(attempts).fill("failed"));
      expect([clock.elapsed, clock.pending]).toEqual([pauses, 0]);
    },
  );

  it("an attempt that fails during such a pause ends it", async (clock) => {
    let calls = 0;
    const task = async () => {
      // The first is slow, nine more fail at once while it runs.
      if (++calls === 1) return sleep(10.5).then(raise("slow"));
      if (calls < 12) throw "quick";
      return clock.elapsed;
    };

    expect(await hedge(task, { after: 10, attempts: Infinity })).toBe(10.5);

    expect([calls, clock.pending]).toEqual([12, 0]);
  });

  it("sets no timer for an attempt after the last one", async (clock) => {
    expect(await hedge(() => clock.pending, { after: 100, attempts: 1 })).toBe(0);
    expect(await hedge(() => clock.pending, { after: 100, attempts: 2 })).toBe(1);
  });
});

describe("a hold that nobody receives is released:", () => {
  it("allSettled, aborted from outside, releases what it has got, and what comes later", async () => {
    const [early, late] = [new Hold(), new Hold()];
    const tasks = [() => early, fail("broken", 0), () => sleep(100).then(() => late)];

    await expect(allSettled(tasks, { signal: AbortSignal.timeout(50) })).rejects.toThrow();

    expect([early.releases, late.releases]).toEqual([1, 1]);
  });

  it.each<[string, Run]>([
    ["race", race],
    ["any", any],
    ["hedge", (tasks) => hedge(attemptsOf(...tasks).task, { after: 0, attempts: 2 })],
  ])("%s releases the loser's, and delivers the winner's", async (_name, run) => {
    const [winner, loser] = [new Hold(), new Hold()];

    const result = await run([
      () => sleep(20).then(() => loser),
      () => sleep(10).then(() => winner),
    ]);

    expect(result).toBe(winner);
    expect([winner.releases, loser.releases]).toEqual([0, 1]);
  });

  it.each<[string, Run]>([
    ["race", race],
    ["any", any],
    ["hedge", (tasks, options) => hedge([...tasks][0]!, { after: Infinity, ...options })],
    ["taskGroup", (tasks, options) => taskGroup(({ spawn }) => spawn([...tasks][0]!), options)],
    ["asCompleted", (tasks, options) => Array.fromAsync(asCompleted(tasks, options))],
    [
      "mapConcurrent",
      (tasks, options) =>
        mapConcurrent(tasks, (task) => task(null as never), { ...options, concurrency: 1 }),
    ],
  ])("%s, aborted from outside, releases what comes later", async (_name, run) => {
    const hold = new Hold();

    const running = run([() => sleep(20).then(() => hold)], { signal: AbortSignal.timeout(10) });

    await expect(running).rejects.toThrow("timed out");
    expect(hold.releases).toBe(1);
  });

  test("asCompleted delivers what came before a failure", async () => {
    const hold = new Hold();
    const results = asCompleted([() => 1, () => hold, fail("broken", 0)]);
    await results.next();
    await microtasks(10);

    expect(await results.next()).toEqual({ done: false, value: { index: 1, value: hold } });
    await expect(results.next()).rejects.toBe("broken");
    expect(hold.releases).toBe(0);
  });

  it("mapConcurrent releases results it has got, and items that come too late", async () => {
    const [result, item, promised] = [new Hold(), new Hold(), new Hold()];
    async function* source() {
      yield 1;
      yield 2;
      await sleep(20);
      yield item;
    }
    const fn = (n: unknown) => (n === 1 ? result : fail("broken", 10)());

    await expect(mapConcurrent(source(), fn, { concurrency: 2 })).rejects.toBe("broken");
    const late = mapConcurrent([2, sleep(20).then(() => promised)], fn, { concurrency: 2 });
    await expect(late).rejects.toBe("broken");
    await sleep(20);

    expect([result, item, promised].map(({ releases }) => releases)).toEqual([1, 1, 1]);
  });

  it("taskGroup, when it fails, releases those of its tasks and its body, but not before its end", async () => {
    const holds = Array.from({ length: 5 }, () => new Hold());
    const [ignored, listed, looped, awaited, result] = holds;
    const loop: unknown[] = [];
    loop.push(loop, looped);
    let whileCleaningUp: unknown;

    const group = taskGroup(async ({ spawn, signal }) => {
      spawn(() => ignored);
      spawn(async () => allSettled([() => ["no hold", listed]]));
      spawn(() => loop);
      spawn(fail("broken", 10));
      await spawn(() => awaited);
      await sleep(100, signal).catch(() => sleep(10));
      whileCleaningUp = holds.map(({ releases }) => releases);
      return result;
    });

    expect(await rejection(group)).toMatchObject({ errors: ["broken"] });
    expect(whileCleaningUp).toEqual([0, 0, 0, 0, 0]);
    expect(holds.map(({ releases }) => releases)).toEqual([1, 1, 1, 1, 1]);
  });

  test("taskGroup, when it succeeds, releases none", async () => {
    const hold = new Hold();

    expect(await taskGroup(({ spawn }) => spawn(() => hold))).toBe(hold);

    expect(hold.releases).toBe(0);
  });

  it("singleFlight releases the result of a run that all have left, and delivers it to who stays", async () => {
    const holds: Hold[] = [];
    const fly = singleFlight(async () => {
      await sleep(20);
      return holds[holds.push(new Hold()) - 1];
    });
    const signal = AbortSignal.timeout(10);

    await expect(fly(undefined, { signal })).rejects.toThrow("timed out");
    const left = rejection(fly(undefined, { signal: AbortSignal.timeout(10) }));
    const stayed = fly();
    await left;

    expect(await stayed).toBe(holds[1]);
    expect(holds.map(({ releases }) => releases)).toEqual([1, 0]);
  });

  test("other disposables, which may be shared, are left alone", async () => {
    let touched = 0;
    const touch = () => touched++;
    const disposable = { [Symbol.dispose]: touch, [Symbol.asyncDispose]: touch };
    const releasable = { release: touch };

    await gather([() => disposable, () => releasable, fail("broken", 0)]).catch(() => {});

    expect(touched).toBe(0);
  });

  test("an error in a release is dropped, and the next hold is released", async () => {
    await withoutUnhandled(async () => {
      const hold = new Hold();
      const broken = {
        release: () => {
          throw "release failed";
        },
        [Symbol.dispose]() {},
      };
      const rejecting = {
        release: () => Promise.reject("release failed"),
        async [Symbol.asyncDispose]() {},
      };

      const gathering = gather([() => broken, () => rejecting, () => hold, fail("broken", 0)]);

      await expect(gathering).rejects.toBe("broken");
      expect(hold.releases).toBe(1);
    });
  });
});

describe("types", () => {
  test("a function that returns a value or a promise of another type has the union of both", async () => {
    const mixed = (): number | Promise<string> => 5;

    const [gathered] = await gather([mixed]);
    const raced = await race([mixed]);
    const mapped = await mapConcurrent([1], mixed, { concurrency: 1 });
    const grouped = await taskGroup(mixed);
    const spawned = await taskGroup(({ spawn }) => spawn(mixed));
    const flown = await singleFlight(mixed)();
    const hedged = await hedge(mixed, { after: 1 });

    expectTypeOf(gathered).toEqualTypeOf<number | string>();
    expectTypeOf(raced).toEqualTypeOf<number | string>();
    expectTypeOf(mapped).toEqualTypeOf<(number | string)[]>();
    expectTypeOf(grouped).toEqualTypeOf<number | string>();
    expectTypeOf(spawned).toEqualTypeOf<number | string>();
    expectTypeOf(flown).toEqualTypeOf<number | string>();
    expectTypeOf(hedged).toEqualTypeOf<number | string>();
    expect([gathered, raced, mapped, grouped, spawned, flown, hedged].flat()).toEqual(
      Array(7).fill(5),
    );
  });

  test("explicit types and generic wrappers work", async () => {
    const five = async () => 5;
    const wrap = <T>(task: Task<T>): Promise<T> => taskGroup<T>(({ spawn }) => spawn<T>(task));
    const again = <T>(task: Task<T>): Promise<T> => hedge<T>(task, { after: 1 });
    const each = <S, T>(items: MapSource<S>, fn: (item: S) => Promise<T>): Promise<T[]> =>
      mapConcurrent<S, T>(items, fn, { concurrency: 1 });

    expectTypeOf(wrap(five)).toEqualTypeOf<Promise<number>>();
    expectTypeOf(each("ab", five)).toEqualTypeOf<Promise<number[]>>();
    expect([await wrap(five), await again(five), await hedge<number>(five, { after: 1 })]).toEqual([
      5, 5, 5,
    ]);
    expect(await each([1], five)).toEqual([5]);
  });

  test("mapConcurrent knows the items of every kind of source", async () => {
    const options = { concurrency: 1 };
    const seen: unknown[] = [];
    const text = (item: string) => seen.push(item);
    const number = (item: number) => seen.push(item);

    await mapConcurrent("a", text, options);
    await mapConcurrent([Promise.resolve(1)], number, options);
    await mapConcurrent(sourceOf([2]), number, options);
    await mapConcurrent(streamOf(3), number, options);
    await mapConcurrent(() => streamOf(4), number, options);
    await mapConcurrent(async (_signal) => [5], number, options);

    expect(seen).toEqual(["a", 1, 2, 3, 4, 5]);
  });

  test("asCompleted is an async generator of the tasks' results", async () => {
    const results = asCompleted([() => 1, async () => "a"]);

    expectTypeOf(results).toEqualTypeOf<
      AsyncGenerator<Completion<number | string>, void, undefined>
    >();
    expect(await Array.fromAsync(results, ({ value }) => value)).toEqual([1, "a"]);
  });
});

describe("in every order", () => {
  const byName = (log: Ended[]) => log.toSorted((a, b) => a.name.localeCompare(b.name));
  const valuesOf = (log: Ended[]) => log.map(({ value }) => value);
  const errorsOf = (log: Ended[]) => log.flatMap(({ error }) => error ?? []);
  const allOr = (error: unknown, log: Ended[], value: unknown): Outcome | undefined =>
    error ? { error } : log.length === 3 ? { value } : undefined;
  const firstSuccess = (log: Ended[]) => {
    const success = log.find(({ value }) => value);
    if (success) return { value: success.value };
    return log.length === 3 ? { error: errorsOf(byName(log)) } : undefined;
  };

  /** What is decided once these tasks have ended, in this order. */
  const decisions: [name: string, decide: (log: Ended[]) => Outcome | undefined, run: Run][] = [
    ["gather", (log) => allOr(errorsOf(log)[0], log, valuesOf(byName(log))), gather],
    [
      "mapConcurrent",
      (log) => allOr(errorsOf(log)[0], log, valuesOf(byName(log))),
      (tasks, { signal } = {}) =>
        mapConcurrent(tasks, (task, _, own) => task(own), { concurrency: 2, signal }),
    ],
    ["asCompleted", (log) => allOr(errorsOf(log)[0], log, valuesOf(log)), receiveAll],
    [
      "allSettled",
      (log) => {
        const outcomes = byName(log).map(({ value, error: reason }) =>
          reason ? { status: "rejected", reason } : { status: "fulfilled", value },
        );
        return allOr(undefined, log, outcomes);
      },
      allSettled,
    ],
    [
      "race",
      ([first]) => first && (first.error ? { error: first.error } : { value: first.value }),
      race,
    ],
    ["any", firstSuccess, any],
    [
      "hedge",
      firstSuccess,
      (tasks, { signal } = {}) =>
        hedge(attemptsOf(...tasks).task, { after: 10, attempts: 3, signal }),
    ],
  ];

  test.each(decisions)(
    "%s settles as its tasks decide, when all have ended, and drops no hold",
    async (name, decide, run) => {
      await everyOrder(async (world) => {
        const stage = new Stage(world);
        const tasks = [
          stage.actor("ann", { fails: true }),
          stage.actor("bob", { fails: true, isDeaf: true }),
          stage.actor("cid", { fails: true, cleansUp: true }),
        ];

        const outcome = await outcomeOf(run(tasks, { signal: stage.signal, concurrency: 2 }));

        stage.check(outcome, decide(stage.beforeAbort), { limit: name === "hedge" ? 3 : 2 });
      });
    },
    120_000,
  );

  test("taskGroup tells all failures, when all tasks have ended, and drops no hold", async () => {
    await everyOrder(async (world) => {
      const stage = new Stage(world);
      const group = taskGroup(
        ({ spawn }) => {
          spawn(stage.actor("ann", { fails: true, cleansUp: true }));
          spawn(stage.actor("bob", { isDeaf: true }));
          // It spawns another one, which waits in line.
          return spawn(async (signal) => {
            const hold = await stage.actor("cid", { fails: true })(signal);
            spawn(stage.actor("dan"));
            return hold;
          });
        },
        { signal: stage.signal, concurrency: 2 },
      );

      const outcome = await outcomeOf(group);

      const errors = errorsOf(stage.log);
      const { value } = stage.log.find(({ name }) => name === "cid") ?? {};
      const decision =
        errors.length > 0
          ? { error: errors }
          : stage.beforeAbort.length === 4
            ? { value }
            : undefined;
      stage.check(outcome, decision, {
        limit: 2,
        received: outcome.error ? [] : valuesOf(stage.log),
      });
    });
  }, 120_000);

  test("a group that ends either runs what is spawned at last, or refuses it", async () => {
    await everyOrder(async (world) => {
      const stage = new Stage(world);
      const { promise: opened, resolve: open } = Promise.withResolvers<TaskGroup>();
      const spawned: string[] = [];
      const body = async (group: TaskGroup) => {
        void group.spawn(() => world.step("first"));
        open(group);
        await world.step("body");
      };
      const group = taskGroup(body, { signal: stage.signal, concurrency: 1 });
      const late = ["ann", "bob"].map((name) =>
        world.spawn(name, async () => {
          const { spawn } = await opened;
          spawned.push(name);
          return outcomeOf(spawn(stage.actor(name)));
        }),
      );

      await outcomeOf(group);
      expect(stage.running).toBe(0);

      for (const [index, outcome] of (await Promise.all(late)).entries()) {
        const ended = stage.log.find(({ name }) => name === ["ann", "bob"][index]);
        expect(outcome.value).toBe(ended?.value);
      }
      expect(stage.started).toEqual(spawned.filter((name) => stage.started.includes(name)));
      expect(stage.calledTooLate).toBe(0);
    });
  }, 120_000);

  test("asCompleted, left during a pending next(), gives each hold to one, or drops it", async () => {
    await everyOrder(async (world) => {
      const stage = new Stage(world);
      const results = asCompleted(
        [stage.actor("ann"), stage.actor("bob", { isDeaf: true })],
        stage,
      );
      const received: unknown[] = [];
      const consumer = world.spawn("consumer", async () => {
        for (;;) {
          const isTooLate = stage.signal.aborted;
          const { done, value } = await results.next();
          if (done) return;
          if (isTooLate) stage.calledTooLate++;
          received.push(value.value);
          await world.step("works");
        }
      });
      const leaver = world.spawn("leaver", async () => {
        const outcome = await outcomeOf(results.return());
        expect(stage.running).toBe(0);
        return outcome;
      });

      const outcomes = [await outcomeOf(consumer), await leaver];

      const told = outcomes.filter(({ error }) => error !== undefined);
      if (told.length > 0)
        expect([told, stage.signal.aborted]).toEqual([[{ error: "stop" }], true]);
      for (const { value } of stage.log) {
        expect(value!.releases).toBe(received.includes(value) ? 0 : 1);
      }
      expect([stage.calledTooLate, stage.listeners()]).toEqual([0, 0]);
    });
  }, 120_000);

  test("allSettled, out of time, tells what has ended by then", async () => {
    await everyOrder(async (world) => {
      const stage = new Stage(world);
      const tasks = [
        stage.actor("ann", { fails: true }),
        stage.actor("bob", { isDeaf: true }),
        stage.actor("cid", { cleansUp: true }),
      ];

      const settling = allSettled(tasks, { signal: stage.signal, concurrency: 2, timeout: 10 });
      const outcome = await outcomeOf(settling);

      const outcomes = ["ann", "bob", "cid"].map((name) => {
        const ended = stage.log.find((ended) => ended.name === name);
        if (ended?.value) return { status: "fulfilled", value: ended.value };
        return { status: "rejected", reason: ended?.error ?? expect.any(DOMException) };
      });
      if (outcome.error !== "stop") expect(outcome).toEqual({ value: outcomes });
      stage.check(outcome, outcome, { limit: 2 });
    });
  }, 120_000);

  test("mapConcurrent pulls what it has room for, closes its source once, and drops no hold", async () => {
    await everyOrder(async (world) => {
      const stage = new Stage(world);
      const items = ["first", "second"].map((name) => new Hold(name));
      const source = { pulled: 0, closed: 0, hasEnded: false, pulls: [] as Promise<unknown>[] };
      const next = async (): Promise<IteratorResult<Hold>> => {
        const value = items[source.pulled++];
        try {
          await world.step("next", { fails: "source" });
          source.hasEnded = !value;
          if (value) yielded.push(value);
          return value ? { done: false, value } : { done: true, value };
        } catch (error) {
          source.hasEnded = true;
          throw error;
        }
      };
      const iterator = {
        [Symbol.asyncIterator]: () => iterator,
        next() {
          if (stage.signal.aborted || stage.running > 1) stage.calledTooLate++;
          const pull = next();
          source.pulls.push(pull.catch(() => {}));
          return pull;
        },
        return: async () => ({ done: true, value: source.closed++ }) as const,
      };
      const yielded: Hold[] = [];
      const given: Hold[] = [];
      const fn = (item: Hold, _: number, signal: AbortSignal) => {
        given.push(item);
        return stage.actor(item.name, { fails: true, cleansUp: true })(signal);
      };

      const mapping = mapConcurrent(iterator, fn, { signal: stage.signal, concurrency: 2 });
      const outcome = await outcomeOf(mapping);
      const isClosed = outcome.error !== undefined && !source.hasEnded;
      await Promise.all(source.pulls);

      expect(source.closed <= 1).toBe(true);
      if (isClosed) expect(source.closed).toBe(1);
      if (outcome.value) expect(source.closed).toBe(0);
      await microtasks(10);
      for (const item of yielded) expect(item.releases).toBe(given.includes(item) ? 0 : 1);
      stage.check(outcome, outcome, { limit: 2 });
    });
  }, 120_000);

  test.each([
    { leaving: ["ann"], staying: ["bob", "cid"] },
    { leaving: ["ann", "bob"], staying: [] },
  ])(
    "singleFlight, where $leaving may leave, and $staying not",
    async ({ leaving, staying }) => {
      await everyOrder(async (world) => {
        const runs: { signal: AbortSignal; hold?: Hold; step: Promise<void> }[] = [];
        let overlaps = 0;
        const fly = singleFlight(async (_: void, signal) => {
          if (runs.some((run) => !run.hold && !run.signal.aborted)) overlaps++;
          const run: (typeof runs)[number] = { signal, step: world.step("run") };
          runs.push(run);
          await run.step;
          return (run.hold = new Hold("flight"));
        });
        const call = async (options?: { signal: AbortSignal }) => {
          const { value, error } = await outcomeOf(fly(undefined, options));
          if (error !== undefined) expect([error, options?.signal.aborted]).toEqual(["stop", true]);
          return value;
        };
        const watched = leaving.map((name) => ({ name, ...watchedController() }));
        const callers = watched.map(({ name, controller }) => {
          world.abort(controller, { reason: "stop" });
          return world.spawn(name, () => call(controller));
        });
        for (const name of staying) callers.push(world.spawn(name, () => call()));

        const received = await Promise.all(callers);
        await Promise.all(runs.map(({ step }) => step));
        await microtasks(5);

        for (const { signal, hold } of runs) {
          // Either somebody has received it, or all have left.
          const isReceived = received.includes(hold);
          expect([signal.aborted, hold!.releases]).toEqual(isReceived ? [false, 0] : [true, 1]);
        }
        expect([overlaps, ...watched.map(({ listeners }) => listeners())]).toEqual([
          0,
          ...watched.map(() => 0),
        ]);
      });
    },
    120_000,
  );
});

/** What a function throws. (`toThrow` compares the messages of errors, but not their classes.) */
function thrownBy(fn: () => unknown): unknown {
  try {
    fn();
  } catch (error) {
    return error;
  }
  throw new Error("nothing was thrown");
}

/** Milliseconds since virtual time began, which it does at the start of the year 2000. */
function now(): number {
  return Date.now() - Date.UTC(2000, 0, 1);
}

/** Ends early, with the signal's reason, when that is aborted. */
function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}

/**
 * A generator of tasks, which counts how many were pulled. What it fails with at last, or what it
 * calls then, may be given.
 */
function generatorOf<T>(items: T[], last?: string | (() => void)) {
  function* generate() {
    try {
      for (const item of items) {
        list.pulled++;
        yield item;
      }
      if (typeof last === "string") throw last;
      last?.();
      yield items[0]!;
    } finally {
      list.closed++;
    }
  }
  const list = Object.assign(generate(), { pulled: 0, closed: 0 });
  return list as Generator<never, void> & typeof list;
}

function twice<T>(item: T): T[] {
  return [item, item];
}

/** A value as messages show it. */
function shown(value: unknown): string {
  if (typeof value === "string") return `"${value}"`;
  return Object(value) === value ? Object.prototype.toString.call(value).slice(8, -1) : `${value}`;
}

/** Lets so many promises settle one after the other. */
async function microtasks(count: number): Promise<void> {
  for (let i = 0; i < count; i++) await undefined;
}

function raise(error: unknown): () => never {
  return () => {
    throw error;
  };
}

/** A task that succeeds after a time. */
function work<T = void>(ms: number, result?: T): (signal: AbortSignal) => Promise<T> {
  return async (signal) => {
    await sleep(ms, signal);
    return result as T;
  };
}

/** A task that fails after a time, or, after 0 ms, without waiting. */
function fail(error: unknown, ms: number): (...args: unknown[]) => Promise<never> {
  return async () => {
    if (ms > 0) await sleep(ms);
    throw error;
  };
}

/** A task that cleans up for 10 ms when it is aborted, and may fail at that. */
function tidy(ms: number, log: string[] = [], failure?: unknown) {
  return async (signal: AbortSignal): Promise<string> => {
    try {
      await sleep(ms, signal);
      return "not aborted";
    } catch (reason) {
      log.push(`aborted at ${now()}`);
      await sleep(10);
      log.push(`cleaned up at ${now()}`);
      throw failure ?? reason;
    }
  };
}

/** A task that is another one at each attempt, the last one from then on. */
function attemptsOf<T>(...tasks: Task<T>[]): { task: Task<T>; startedAt: number[] } {
  const startedAt: number[] = [];
  const task: Task<T> = (signal) => {
    startedAt.push(now());
    return (tasks.length > 1 ? tasks.shift() : tasks[0])!(signal);
  };
  return { task, startedAt };
}

/** An async generator that keeps a log of what is done to it, and takes its time. */
function sourceOf<T>(
  items: T[],
  { every = 0, closing = 0 } = {},
): AsyncGenerator<T> & { log: string[] } {
  const log: string[] = [];
  async function* generate() {
    try {
      for (const item of items) {
        if (every > 0) await sleep(every);
        log.push(`pulled ${item}`);
        yield item;
      }
    } finally {
      if (closing > 0) await sleep(closing);
      log.push(`closed at ${now()}`);
    }
  }
  return Object.assign(generate(), { log });
}

/** What the promise rejects with, or undefined. */
function rejection(promise: Promise<unknown>): Promise<Error | undefined> {
  return promise.then(
    () => undefined,
    (error) => error,
  );
}

/** Runs `act`; then bun:test fails the test if a rejection has been left unhandled. */
async function withoutUnhandled(act: () => Promise<unknown>): Promise<void> {
  await act();
  await new Promise((resolve) => setImmediate(resolve));
}

/** A generator that yields an item, and then nothing for ever. */
async function* silentGenerator(): AsyncGenerator<number> {
  yield 1;
  await new Promise(() => {});
}

function streamOf(...items: number[]): ReadableStream<number> {
  return new ReadableStream({
    start(controller) {
      for (const item of items) controller.enqueue(item);
      controller.close();
    },
  });
}

/** A stream of so many items and then nothing, which counts how often it was cancelled. */
function silentStream(count: number): ReadableStream<number> & { cancelled: number } {
  const stream = new ReadableStream<number>({
    pull: (controller) => (count-- > 0 ? controller.enqueue(count) : new Promise(() => {})),
    cancel: () => void result.cancelled++,
  });
  const result = Object.assign(stream, { cancelled: 0 });
  return result;
}

function brokenStream(error: unknown): ReadableStream<never> {
  return new ReadableStream({ pull: (controller) => controller.error(error) });
}

/** An iterator as it is, given out as an asynchronous one. */
function asyncIterable<T>(iterator: Iterator<T>): AsyncIterable<T> {
  return { [Symbol.asyncIterator]: () => iterator as never };
}

/** A source whose steps are functions, and which counts what is done to it. */
function scripted<T>(
  steps: (() => T | Promise<T>)[],
  { sync = false, opening = () => {}, last = () => {}, closing = () => {} }: Script = {},
) {
  const next = () => {
    const step = steps[source.pulled++];
    return step ? { done: false, value: step() } : { done: true, value: last() };
  };
  const nextLater = async () => {
    const { done, value } = next();
    return { done, value: await value };
  };
  const source = {
    opened: 0,
    pulled: 0,
    closed: 0,
    [sync ? Symbol.iterator : Symbol.asyncIterator]: () => {
      source.opened++;
      opening();
      return {
        next: sync ? next : nextLater,
        return: () => {
          source.closed++;
          return closing();
        },
      };
    },
  };
  return source as typeof source & AsyncIterable<T>;
}

interface Script {
  sync?: boolean;
  /** Called when it is opened, at its end, and when it is closed before. */
  opening?: () => unknown;
  last?: () => unknown;
  closing?: () => unknown;
}

function silence(): Promise<never> {
  return new Promise(() => {});
}

/** An AbortController, and a function that counts the listeners which its signal has. */
function watchedController(): { controller: AbortController; listeners: () => number } {
  const controller = new AbortController();
  const { signal } = controller;
  const listeners = new Set<unknown>();
  const { addEventListener, removeEventListener } = signal;
  signal.addEventListener = (...args: Parameters<typeof addEventListener>) => {
    listeners.add(args[1]);
    addEventListener.apply(signal, args);
  };
  signal.removeEventListener = (...args: Parameters<typeof removeEventListener>) => {
    listeners.delete(args[1]);
    removeEventListener.apply(signal, args);
  };
  return { controller, listeners: () => listeners.size };
}

/** A signal that is aborted some time before its listeners hear of it, as among several waiters. */
function lateSignal(): { signal: AbortSignal; abort: (reason: unknown) => void } {
  const { signal } = new AbortController();
  const state: { aborted: boolean; reason: unknown } = { aborted: false, reason: undefined };
  Object.defineProperties(signal, {
    aborted: { get: () => state.aborted },
    reason: { get: () => state.reason },
  });
  return { signal, abort: (reason) => void Object.assign(state, { aborted: true, reason }) };
}

function abortErrorOfAnotherRealm(): unknown {
  return { name: "AbortError", message: "aborted elsewhere" };
}

function hostileError(): unknown {
  return Object.defineProperty({}, "name", {
    get() {
      throw new Error("looked into");
    },
  });
}

function revokedProxy(): unknown {
  const { proxy, revoke } = Proxy.revocable({}, {});
  revoke();
  return proxy;
}

function groupInGroup(reason: unknown): unknown {
  return {
    name: "AggregateError",
    errors: [new AggregateError([reason]), abortErrorOfAnotherRealm()],
  };
}

function chainOfGroups(reason: unknown): unknown {
  let error = reason;
  for (let depth = 0; depth < 30_000; depth++) error = { errors: [error] };
  return error;
}

/** What is released by whoever drops it: a permit, a lease. */
class Hold implements Disposable {
  readonly name: string;
  releases = 0;

  constructor(name = "hold") {
    this.name = name;
  }

  release(): void {
    this.releases++;
  }

  [Symbol.dispose](): void {
    this.release();
  }
}

/** The results of asCompleted. What has been received before it fails is released. */
async function receiveAll(
  tasks: Iterable<Task<unknown>>,
  options?: TasksOptions,
): Promise<unknown> {
  const received: unknown[] = [];
  try {
    for await (const { value } of asCompleted(tasks, options)) received.push(value);
    return received;
  } catch (error) {
    releaseAll(received);
    throw error;
  }
}

/** The holds in what a combinator returns. */
function holdsIn(result: any): Hold[] {
  return [result].flat().map((one) => one?.value ?? one);
}

/** A small part of the orders, or all with `bun run test:orders`. */
async function everyOrder(scenario: (world: World) => unknown): Promise<void> {
  const all = globalThis.process?.env["ORDERS"] === "all";
  const part = all ? { maxRuns: 200_000, maxMs: 60_000 } : { maxRuns: 300, maxMs: Infinity };
  const result = await interleavings(scenario, part);
  if (all) console.log(`orders: ${result.runs}`); // summed up by test:orders
}

/** What a promise has come to; of an AggregateError its errors. */
interface Outcome {
  value?: unknown;
  error?: unknown;
}

function outcomeOf(promise: Promise<unknown>): Promise<Outcome> {
  return promise.then(
    (value) => ({ value }),
    (error) => ({ error: error instanceof AggregateError ? error.errors : error }),
  );
}

/** A task that has ended otherwise than by an abort. */
interface Ended {
  name: string;
  signal: AbortSignal;
  value?: Hold;
  error?: string;
  /** Whether its signal was aborted when it ended. */
  wasAborted?: boolean;
}

/** Tasks that take a step each and return a hold, under an abort that may come at any moment. */
class Stage {
  readonly signal: AbortSignal;
  readonly listeners: () => number;
  running = 0;
  calledTooLate = 0;
  readonly started: string[] = [];
  /** In order of time. */
  readonly log: Ended[] = [];
  #beforeAbort: Ended[] | undefined;
  #isInTurn = false;
  /** Whether the abort came in the turn of the last task that ended before it. */
  #isGlued = false;
  #peak = 0;
  readonly #world: World;

  constructor(world: World) {
    const { controller, listeners } = watchedController();
    this.#world = world;
    this.signal = controller.signal;
    this.listeners = listeners;
    world.abort(controller, { reason: "stop" });
    const onAbort = () => {
      this.#beforeAbort = [...this.log];
      this.#isGlued = this.#isInTurn;
    };
    // The first to hear of it, and not counted.
    EventTarget.prototype.addEventListener.call(this.signal, "abort", onAbort);
  }

  /** The tasks that had ended when the abort came, if it has. */
  get beforeAbort(): Ended[] {
    return this.#beforeAbort ?? this.log;
  }

  actor(
    name: string,
    { isDeaf = false, fails = false, cleansUp = false } = {},
  ): (signal: AbortSignal) => Promise<Hold> {
    return async (signal) => {
      if (this.signal.aborted || signal.aborted) this.calledTooLate++;
      this.started.push(name);
      this.#peak = Math.max(this.#peak, ++this.running);
      const options = { signal: isDeaf ? undefined : signal, fails: fails ? name : undefined };
      try {
        await this.#world.step(`${name} begins`, options);
        await this.#world.step(`${name} ends`, options);
        const value = new Hold(name);
        this.#note({ name, signal, value });
        return value;
      } catch (error) {
        if (cleansUp) await this.#world.step(`${name} cleans up`);
        if (error === name) this.#note({ name, signal, error: name });
        throw error;
      } finally {
        this.running--;
      }
    };
  }

  #note(ended: Ended): void {
    this.log.push(ended);
    this.#isInTurn = true;
    void microtasks(20).then(() => {
      this.#isInTurn = false;
      ended.wasAborted = ended.signal.aborted;
    });
  }

  /** What holds for all that run tasks: call it in the turn in which they settle. */
  check(
    outcome: Outcome,
    decision: Outcome | undefined,
    { limit, received = holdsIn(outcome.value) }: { limit: number; received?: unknown[] },
  ): void {
    if (!decision || (this.#isGlued && outcome.error === "stop")) decision = { error: "stop" };
    expect(outcome).toEqual(decision);
    const { running, calledTooLate } = this;
    expect({ running, calledTooLate, listeners: this.listeners() }).toEqual({
      running: 0,
      calledTooLate: 0,
      listeners: 0,
    });
    expect(this.#peak <= limit).toBe(true);
    for (const { value, signal, wasAborted } of this.log) {
      if (value) expect(value.releases).toBe(received.includes(value) ? 0 : 1);
      if (wasAborted === false) expect(signal.aborted).toBe(false);
    }
  }
}

/** Releases the holds in a result. */
function releaseAll(value: unknown): void {
  if (Array.isArray(value)) value.forEach(releaseAll);
  else (value as Partial<Hold> | undefined)?.release?.();
}

/** A shared function that counts its runs; they ignore their signals, and take so long in turn. */
function flight(...times: number[]) {
  const signals: AbortSignal[] = [];
  const fly = singleFlight(async (_: void, signal) => {
    const run = signals.push(signal);
    await sleep(times.length > 1 ? times.shift()! : times[0]!);
    return `run ${run}`;
  });
  return { fly, signals };
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
