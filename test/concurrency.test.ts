/**
 * How to test code that does several things at once: prove by exact virtual time that they overlap,
 * that no more than allowed do, and that whatever ends early (a failure, an abort, a winner, a loop
 * that is left) aborts the rest and waits for it. A task here sleeps, and cleans up for a while
 * when it is aborted, so that a result which comes too early can be told by the clock.
 */
import { describe, expect, test } from "bun:test";

import {
  any,
  asCompleted,
  type Completion,
  gather,
  hedge,
  mapConcurrent,
  race,
  settle,
  singleFlight,
  type Task,
  type TaskGroup,
  taskGroup,
  type TasksOptions,
} from "../concepts/concurrency.ts";
import { virtualTime } from "../concepts/virtual-time.ts";

type Run = (tasks: Iterable<Task<unknown>>, options?: TasksOptions) => Promise<unknown>;

const allThatRunLists: [name: string, run: Run][] = [
  ["gather", gather],
  ["settle", settle],
  ["race", race],
  ["any", any],
  ["asCompleted", (tasks, options) => Array.fromAsync(asCompleted(tasks, options))],
];

describe.each(allThatRunLists)("%s, as all that run a list of tasks,", (_name, run) => {
  test("refuses a list with a promise in it before it calls anything", async () => {
    let calls = 0;
    const tasks = [() => calls++, Promise.resolve()] as Task<unknown>[];

    await expect(run(tasks)).rejects.toThrow(
      /^Cannot .*: tasks\[1\] must be a function, received \[object Promise\]$/,
    );
    await expect(run(tasks)).rejects.toBeInstanceOf(TypeError);
    await expect(run([42] as never)).rejects.toBeInstanceOf(TypeError);
    expect(calls).toBe(0);
  });

  test.each([undefined, null, 42, () => {}, Promise.resolve([])])(
    "refuses %p, which is no list",
    async (tasks) => {
      const refused = run(tasks as never);

      await expect(refused).rejects.toThrow("tasks must be an iterable of functions, received");
      await expect(refused).rejects.toBeInstanceOf(TypeError);
    },
  );

  test.each([0, -1, 1.5, NaN, -Infinity])("refuses a concurrency of %d", async (concurrency) => {
    let calls = 0;
    const refused = run([() => calls++], { concurrency });

    await expect(refused).rejects.toThrow(
      `concurrency must be a positive integer or Infinity, received ${concurrency}`,
    );
    await expect(refused).rejects.toBeInstanceOf(RangeError);
    expect(calls).toBe(0);
  });

  test("takes tasks from any iterable, and runs them all at once by default", async () => {
    await virtualTime(async (clock) => {
      const tasks = new Set([work(100), work(100), work(100)]);

      await run(tasks.values());

      expect(clock.elapsed).toBe(100);
    });
  });

  test("calls nothing when it is aborted before", async () => {
    let calls = 0;
    const reason = new Error("stop");

    await expect(run([() => calls++], { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);

    expect(calls).toBe(0);
  });

  test.each(["fail", "succeed"])(
    "aborted from outside, it aborts all with the reason, and rejects with it when they have ended, though they %s",
    async (outcome) => {
      await virtualTime(async (clock) => {
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
        expect(listeners()).toBe(0);
        expect(clock.pending).toBe(0);
      });
    },
  );

  test("a signal that two of them share ends the second when the first has ended", async () => {
    await virtualTime(async (clock) => {
      const controller = new AbortController();
      const { signal } = controller;
      const first = run([work(10)], { signal });
      const second = run([tidy(1000, [])], { signal });
      await first;

      controller.abort("stop");

      await expect(second).rejects.toBe("stop");
      expect(clock.elapsed).toBe(20);
    });
  });

  test("aborted by its first task in the very call, it calls no other", async () => {
    const controller = new AbortController();
    let calls = 0;
    const tasks = [() => controller.abort("stop"), () => calls++];

    await expect(run(tasks, { signal: controller.signal })).rejects.toBe("stop");

    expect(calls).toBe(0);
  });

  test("listens no more once it has ended, well or badly", async () => {
    const { controller, listeners } = watchedController();
    const { signal } = controller;

    await run([() => 1, () => 2], { signal });
    expect(listeners()).toBe(0);
    await run([() => Promise.reject("failed")], { signal }).catch(() => {});
    expect(listeners()).toBe(0);
  });

  test("leaves nothing unhandled when three fail", async () => {
    await withoutUnhandled(async () => {
      await run([fail("a", 0), fail("b", 0), fail("c", 0)]).catch(() => {});
    });
  });

  test("does not abort the signal of a task that has ended", async () => {
    await virtualTime(async () => {
      const controller = new AbortController();
      let first: AbortSignal | undefined;
      const ended = (signal: AbortSignal) => void (first = signal);

      await run([ended, fail("late", 10), work(20)], controller).catch(() => {});
      controller.abort();

      expect(first?.aborted).toBe(false);
    });
  });
});

describe.each(allThatRunLists.filter(([name]) => name !== "race" && name !== "any"))(
  "%s, as all that run every task,",
  (_name, run) => {
    test.each([
      { tasks: 10, concurrency: 1, elapsed: 1000, peak: 1 },
      { tasks: 10, concurrency: 3, elapsed: 400, peak: 3 },
      { tasks: 10, concurrency: 10, elapsed: 100, peak: 10 },
      { tasks: 10, concurrency: 1000, elapsed: 100, peak: 10 },
      { tasks: 10, concurrency: Infinity, elapsed: 100, peak: 10 },
      { tasks: 0, concurrency: 3, elapsed: 0, peak: 0 },
    ])("runs $tasks of 100 ms, $concurrency at once, in $elapsed ms", async (given) => {
      await virtualTime(async (clock) => {
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

        expect(clock.elapsed).toBe(given.elapsed);
        expect(peak).toBe(given.peak);
        expect(running).toBe(0);
      });
    });
  },
);

describe("gather", () => {
  test("returns the results in the order of the tasks, not of their ends", async () => {
    await virtualTime(async (clock) => {
      expect(await gather([work(100, "slow"), work(10, "quick"), () => "plain"])).toEqual([
        "slow",
        "quick",
        "plain",
      ]);
      expect(clock.elapsed).toBe(100);
    });
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

  test("aborts the others when one fails, and rejects when they have cleaned up", async () => {
    await virtualTime(async (clock) => {
      const error = new Error("broken");
      const log: string[] = [];

      const gathering = gather([fail(error, 50), tidy(100, log)]);

      await expect(gathering).rejects.toBe(error);
      expect(log).toEqual(["aborted at 50", "cleaned up at 60"]);
      expect(clock.elapsed).toBe(60);
      expect(clock.pending).toBe(0);
    });
  });

  test("aborts with an AbortError whose cause is the failure", async () => {
    await virtualTime(async () => {
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
  });

  test("rejects with the first of three failures, by time", async () => {
    await virtualTime(async () => {
      const tasks = [fail("third", 30), fail("first", 10), fail("second", 20)];

      await expect(gather(tasks)).rejects.toBe("first");
    });
  });

  test.each([undefined, null, 0, ""])("rejects with %p where that is thrown", async (thrown) => {
    await expect(gather([() => Promise.reject(thrown), () => 1])).rejects.toBe(thrown);
  });

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

  test("starts no more after a failure", async () => {
    await virtualTime(async (clock) => {
      let calls = 0;
      const tasks = [work(100), fail("broken", 50), () => calls++, () => calls++];

      await expect(gather(tasks, { concurrency: 2 })).rejects.toBe("broken");

      expect(calls).toBe(0);
      expect(clock.elapsed).toBe(50);
    });
  });

  test("rejects with the failure when it is aborted later, while the others clean up", async () => {
    await virtualTime(async (clock) => {
      const controller = new AbortController();
      setTimeout(() => controller.abort("too late"), 55);

      await expect(gather([fail("broken", 50), tidy(100)], controller)).rejects.toBe("broken");

      expect(clock.elapsed).toBe(60);
    });
  });
});

describe("settle", () => {
  test("tells how each task ended, and lets a failure abort nothing", async () => {
    await virtualTime(async (clock) => {
      const error = new Error("broken");

      const outcomes = await settle([work(100, "fine"), fail(error, 10)]);

      expect(outcomes).toEqual([
        { status: "fulfilled", value: "fine" },
        { status: "rejected", reason: error },
      ]);
      expect(clock.elapsed).toBe(100);
    });
  });

  test("goes on with the next after a failure", async () => {
    const outcomes = await settle([fail("a", 0), fail("b", 0), () => "c"], { concurrency: 1 });

    expect(outcomes.map(({ status }) => status)).toEqual(["rejected", "rejected", "fulfilled"]);
  });

  test("of nothing is nothing", async () => {
    expect(await settle([])).toEqual([]);
  });
});

describe("race", () => {
  test("returns the first result when the loser has cleaned up", async () => {
    await virtualTime(async (clock) => {
      const log: string[] = [];

      expect(await race([tidy(100, log), work(50, "first")])).toBe("first");

      expect(log).toEqual(["aborted at 50", "cleaned up at 60"]);
      expect(clock.elapsed).toBe(60);
      expect(clock.pending).toBe(0);
    });
  });

  test("rejects with an error that comes first, and aborts the others because of it", async () => {
    await virtualTime(async (clock) => {
      const error = new Error("broken");
      let reason: unknown;
      const loser = async (signal: AbortSignal) => {
        await sleep(100, signal).catch(() => (reason = signal.reason));
      };

      await expect(race([loser, fail(error, 50)])).rejects.toBe(error);

      expect(reason).toMatchObject({ name: "AbortError", cause: error });
      expect(clock.elapsed).toBe(50);
    });
  });

  test.each(["result", "error"])("is decided, whatever comes of a loser: %s", async (late) => {
    await virtualTime(async () => {
      const loser = async (signal: AbortSignal) => {
        await sleep(100, signal).catch(() => {});
        if (late === "error") throw new Error("late");
        return "late";
      };

      expect(await race([loser, work(50, undefined)])).toBeUndefined();
      await expect(race([loser, fail("first", 50)])).rejects.toBe("first");
    });
  });

  test("starts no more once it is decided", async () => {
    let calls = 0;

    expect(await race([() => "first", () => calls++], { concurrency: 1 })).toBe("first");

    expect(calls).toBe(0);
  });

  test("returns the winner when it is aborted later, while the losers clean up", async () => {
    await virtualTime(async () => {
      const controller = new AbortController();
      setTimeout(() => controller.abort("too late"), 55);

      expect(await race([tidy(100), work(50, "first")], controller)).toBe("first");
    });
  });

  test("of nothing is a RangeError, as it would never settle", async () => {
    await expect(race([])).rejects.toEqual(new RangeError("Cannot race: tasks must not be empty"));
  });
});

describe("any", () => {
  test("returns the first success, not the first to end, when the loser has cleaned up", async () => {
    await virtualTime(async (clock) => {
      const log: string[] = [];

      expect(await any([fail("a", 10), tidy(100, log), work(50, "b")])).toBe("b");

      expect(log).toEqual(["aborted at 50", "cleaned up at 60"]);
      expect(clock.elapsed).toBe(60);
    });
  });

  test("is decided, though a loser succeeds too", async () => {
    await virtualTime(async () => {
      const loser = (signal: AbortSignal) => sleep(100, signal).catch(() => "late");

      expect(await any([loser, work(50, undefined)])).toBeUndefined();
    });
  });

  test("rejects with all errors, in the order of the tasks, when all fail", async () => {
    await virtualTime(async (clock) => {
      const error = await rejection(any([fail("a", 30), fail("b", 10), fail("c", 20)]));

      expect(error).toBeInstanceOf(AggregateError);
      expect(error).toMatchObject({ message: "All tasks failed", errors: ["a", "b", "c"] });
      expect(clock.elapsed).toBe(30);
    });
  });

  test("tries one after the other with a concurrency of 1, until one succeeds", async () => {
    await virtualTime(async (clock) => {
      let calls = 0;
      const tasks = [fail("a", 10), work(20, "b"), () => calls++];

      expect(await any(tasks, { concurrency: 1 })).toBe("b");

      expect(clock.elapsed).toBe(30);
      expect(calls).toBe(0);
    });
  });

  test("of nothing rejects with an AggregateError without errors, as Promise.any", async () => {
    expect(await rejection(any([]))).toMatchObject({ name: "AggregateError", errors: [] });
  });
});

describe("asCompleted", () => {
  test("yields results in the order in which they come, each as soon as it is there", async () => {
    await virtualTime(async (clock) => {
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
  });

  test("runs on while the consumer is slow", async () => {
    await virtualTime(async (clock) => {
      const tasks = Array.from({ length: 5 }, () => work(10));

      for await (const _ of asCompleted(tasks, { concurrency: 1 })) await sleep(20);

      expect(clock.elapsed).toBe(10 + 5 * 20);
    });
  });

  test.each(["break", "throw"])("left by %s, it aborts and awaits what runs", async (way) => {
    await virtualTime(async (clock) => {
      const { controller, listeners } = watchedController();
      const log: string[] = [];
      const consume = async () => {
        for await (const _ of asCompleted([work(10), tidy(100, log)], controller)) {
          if (way === "throw") throw new Error("thrown");
          break;
        }
      };

      const error = await rejection(consume());

      expect(error?.message).toBe(way === "throw" ? "thrown" : undefined);
      expect(log).toEqual(["aborted at 10", "cleaned up at 20"]);
      expect(clock.elapsed).toBe(20);
      expect(clock.pending).toBe(0);
      expect(listeners()).toBe(0);
    });
  });

  test("left, it starts no more", async () => {
    await virtualTime(async () => {
      let calls = 0;
      const tasks = [work(10), work(20), work(30), () => calls++];

      for await (const _ of asCompleted(tasks, { concurrency: 2 })) break;

      expect(calls).toBe(0);
    });
  });

  test("tells what fails in the cleanup to the one who leaves", async () => {
    await virtualTime(async () => {
      const error = new Error("cleanup failed");
      const consume = async () => {
        for await (const _ of asCompleted([work(10), tidy(100, [], error)])) break;
      };

      await expect(consume()).rejects.toBe(error);
    });
  });

  test("starts nothing before the first next(), and nothing at all when left before", async () => {
    let calls = 0;
    const results = asCompleted([() => calls++]);

    expect(calls).toBe(0);
    await results.return();
    expect(await results.next()).toEqual({ done: true, value: undefined });
    expect(calls).toBe(0);
  });

  test("rejects with a failure after the results that came before, and when all have ended", async () => {
    await virtualTime(async (clock) => {
      const log: string[] = [];
      const error = new Error("broken");
      const results = asCompleted([tidy(100, log), fail(error, 20), work(10, "fine")]);

      expect(await results.next()).toEqual({ done: false, value: { index: 2, value: "fine" } });
      await expect(results.next()).rejects.toBe(error);

      expect(log).toEqual(["aborted at 20", "cleaned up at 30"]);
      expect(clock.elapsed).toBe(30);
      expect(await results.next()).toEqual({ done: true, value: undefined });
    });
  });

  test("starts no more after a failure, and yields no more", async () => {
    await virtualTime(async () => {
      let calls = 0;
      const stubborn = () => sleep(100).then(() => "late");
      const results = asCompleted([fail("broken", 10), stubborn, () => calls++], {
        concurrency: 2,
      });

      await expect(results.next()).rejects.toBe("broken");

      expect(calls).toBe(0);
    });
  });

  test("aborts the others at once when one fails while nobody waits", async () => {
    await virtualTime(async () => {
      const log: string[] = [];
      const results = asCompleted([work(10, "fine"), fail("broken", 20), tidy(100, log)]);

      await results.next();
      await withoutUnhandled(() => sleep(1000));

      expect(log).toEqual(["aborted at 20", "cleaned up at 30"]);
      await expect(results.next()).rejects.toBe("broken");
    });
  });

  test("aborted from outside between two results, it yields no more", async () => {
    await virtualTime(async () => {
      const controller = new AbortController();
      const results = asCompleted([() => 1, () => 2], controller);

      await results.next();
      await sleep(10);
      controller.abort("stop");

      await expect(results.next()).rejects.toBe("stop");
    });
  });
});

describe("mapConcurrent", () => {
  test.each([
    { name: "an array", source: () => [30, 10, 20] },
    { name: "a set", source: () => new Set([30, 10, 20]) },
    { name: "an array of promises", source: () => [30, 10, 20].map((ms) => Promise.resolve(ms)) },
    { name: "a generator", source: () => [30, 10, 20].values() },
    { name: "an async generator", source: () => sourceOf([30, 10, 20]) },
  ])("maps $name, with the results in order", async ({ source }) => {
    await virtualTime(async (clock) => {
      const fn = async (ms: number, index: number, signal: AbortSignal) => {
        await sleep(ms, signal);
        return `${index}: ${ms}`;
      };

      const results = await mapConcurrent<number, string>(source(), fn, { concurrency: 2 });

      expect(results).toEqual(["0: 30", "1: 10", "2: 20"]);
      expect(clock.elapsed).toBe(30);
    });
  });

  test.each([
    { items: 10, concurrency: 1, elapsed: 1000, peak: 1 },
    { items: 10, concurrency: 3, elapsed: 400, peak: 3 },
    { items: 10, concurrency: Infinity, elapsed: 100, peak: 10 },
    { items: 0, concurrency: 3, elapsed: 0, peak: 0 },
  ])("works off $items items, $concurrency at once, in $elapsed ms", async (given) => {
    await virtualTime(async (clock) => {
      let running = 0;
      let peak = 0;
      const fn = async () => {
        peak = Math.max(peak, ++running);
        await sleep(100);
        running--;
      };

      await mapConcurrent(Array(given.items).keys(), fn, given);

      expect(clock.elapsed).toBe(given.elapsed);
      expect(peak).toBe(given.peak);
    });
  });

  test("never holds more items of a long source than it works on", async () => {
    await virtualTime(async () => {
      let held = 0;
      let peak = 0;
      let finished = 0;
      function* source() {
        for (let item = 0; item < 10_000; item++) {
          peak = Math.max(peak, ++held);
          yield item;
        }
      }
      const fn = async (item: number) => {
        await sleep(item % 3);
        held--;
        finished++;
      };

      await mapConcurrent(source(), fn, { concurrency: 3 });

      expect(finished).toBe(10_000);
      expect(peak).toBe(3);
    });
  });

  test("never asks a slow source for two items at a time, and closes none that has ended", async () => {
    await virtualTime(async (clock) => {
      let asked = 0;
      let peak = 0;
      let returns = 0;
      const source = {
        [Symbol.asyncIterator]: () => ({
          count: 0,
          async next() {
            peak = Math.max(peak, ++asked);
            await sleep(10);
            asked--;
            return { done: ++this.count > 3, value: this.count };
          },
          return: async () => ({ done: true as const, value: returns++ }),
        }),
      };

      expect(await mapConcurrent(source, (n) => n, { concurrency: 5 })).toEqual([1, 2, 3]);

      expect(peak).toBe(1);
      expect(clock.elapsed).toBe(40);
      expect(returns).toBe(0);
    });
  });

  test("on a failure pulls no more, aborts what runs, closes the source once, and waits for both", async () => {
    await virtualTime(async (clock) => {
      const source = sourceOf([1, 2, 3, 4], { closing: 20 });
      const log: string[] = [];
      const fn = (n: number, _: number, signal: AbortSignal) =>
        (n === 1 ? fail("broken", 50) : tidy(100, log))(signal);

      await expect(mapConcurrent(source, fn, { concurrency: 2 })).rejects.toBe("broken");

      expect(log).toEqual(["aborted at 50", "cleaned up at 60"]);
      expect(source.log).toEqual(["pulled 1", "pulled 2", "closed at 70"]);
      expect(clock.elapsed).toBe(70);
    });
  });

  test("on a failure while it pulls, drops the item, and closes the source after it", async () => {
    await virtualTime(async (clock) => {
      const source = sourceOf([1, 2, 3], { every: 30, closing: 20 });
      const seen: number[] = [];
      const fn = (n: number, _: number, signal: AbortSignal) => {
        seen.push(n);
        return fail("broken", 10)(signal);
      };

      await expect(mapConcurrent(source, fn, { concurrency: 2 })).rejects.toBe("broken");

      expect(seen).toEqual([1]);
      expect(source.log).toEqual(["pulled 1", "pulled 2", "closed at 80"]);
      expect(clock.elapsed).toBe(80);
    });
  });

  test("takes a function that throws as one that fails, and closes a source of promises", async () => {
    let closed = 0;
    function* source() {
      try {
        yield Promise.resolve(1);
        yield Promise.resolve(2);
      } finally {
        closed++;
      }
    }
    const fn = () => {
      throw "thrown";
    };

    await expect(mapConcurrent(source(), fn, { concurrency: 1 })).rejects.toBe("thrown");

    expect(closed).toBe(1);
  });

  test("rejects with the failure, even if closing the source fails too", async () => {
    const source = {
      [Symbol.asyncIterator]: () => ({
        next: async () => ({ done: false, value: 1 }),
        return: () => Promise.reject(new Error("closing failed")),
      }),
    };

    const mapping = mapConcurrent(source, fail("broken", 0), { concurrency: 1 });

    await expect(mapping).rejects.toBe("broken");
  });

  test("when the source fails, aborts what runs and waits for it, and closes nothing", async () => {
    await virtualTime(async (clock) => {
      const log: string[] = [];
      const error = new Error("source failed");
      let returns = 0;
      const steps = [async () => 1, () => sleep(50).then(() => Promise.reject(error))];
      const source = {
        [Symbol.asyncIterator]: () => ({
          next: async () => ({ done: false, value: await steps.shift()?.() }),
          return: async () => ({ done: true as const, value: returns++ }),
        }),
      };

      const mapping = mapConcurrent(source, (_item, _index, signal) => tidy(100, log)(signal), {
        concurrency: 5,
      });

      await expect(mapping).rejects.toBe(error);
      expect(log).toEqual(["aborted at 50", "cleaned up at 60"]);
      expect(clock.elapsed).toBe(60);
      expect(returns).toBe(0);
    });
  });

  test("calls nothing and pulls nothing when it is aborted before", async () => {
    const source = sourceOf([1]);

    const mapping = mapConcurrent(source, () => {}, {
      concurrency: 1,
      signal: AbortSignal.abort("stop"),
    });

    await expect(mapping).rejects.toBe("stop");
    expect(source.log).toEqual([]);
  });

  test("aborted from outside, it aborts what runs, closes the source, and waits for both", async () => {
    await virtualTime(async (clock) => {
      const { controller, listeners } = watchedController();
      const source = sourceOf([1, 2, 3], { closing: 20 });
      const log: string[] = [];
      setTimeout(() => controller.abort("stop"), 50);

      const mapping = mapConcurrent(source, (_n, _index, signal) => tidy(100, log)(signal), {
        concurrency: 2,
        signal: controller.signal,
      });

      await expect(mapping).rejects.toBe("stop");
      expect(log.toSorted().slice(0, 2)).toEqual(["aborted at 50", "aborted at 50"]);
      expect(source.log).toEqual(["pulled 1", "pulled 2", "closed at 80"]);
      expect(clock.elapsed).toBe(80);
      expect(listeners()).toBe(0);
    });
  });

  test("closes a silent source at once, and waits for its cleanup", async () => {
    await virtualTime(async (clock) => {
      const { controller, listeners } = watchedController();
      const whenFailing = silentAfter(1);
      const whenAborted = silentAfter(0);
      setTimeout(() => controller.abort("stop"), 50);

      const failing = mapConcurrent(whenFailing, fail("broken", 50), { concurrency: 2 });
      const aborted = mapConcurrent(whenAborted, () => {}, {
        concurrency: 1,
        signal: controller.signal,
      });

      expect(await Promise.allSettled([failing, aborted])).toEqual([
        { status: "rejected", reason: "broken" },
        { status: "rejected", reason: "stop" },
      ]);
      expect(clock.elapsed).toBe(70);
      expect([whenFailing.closed, whenAborted.closed]).toEqual([1, 1]);
      expect(listeners()).toBe(0);
    });
  });

  test("waits for a generator that is silent, unless it is aborted from outside", async () => {
    await virtualTime(async (clock) => {
      const closed: string[] = [];
      async function* slow(name: string) {
        try {
          yield 1;
          await sleep(100);
          yield 2;
        } finally {
          closed.push(`${name} at ${clock.elapsed}`);
        }
      }
      const failing = mapConcurrent(slow("failing"), fail("broken", 50), { concurrency: 2 });
      const aborted = mapConcurrent(slow("aborted"), () => {}, {
        concurrency: 2,
        signal: AbortSignal.timeout(60),
      });

      await expect(aborted).rejects.toThrow("timed out");
      expect([clock.elapsed, closed]).toEqual([60, []]);
      await expect(failing).rejects.toBe("broken");
      await sleep(0);
      expect([clock.elapsed, closed]).toEqual([100, ["failing at 100", "aborted at 100"]]);
    });
  });

  test("what a silent source comes to after the abort, or its closing, is nobody's concern", async () => {
    await withoutUnhandled(() =>
      virtualTime(async () => {
        const source = {
          [Symbol.asyncIterator]: () => ({
            next: fail("late", 100),
            return: fail("closing failed", 0),
          }),
        };
        const mapping = mapConcurrent(source, () => {}, {
          concurrency: 2,
          signal: AbortSignal.timeout(50),
        });

        await expect(mapping).rejects.toThrow("timed out");
        await sleep(100);
      }),
    );
  });

  test.each([
    { source: 42, fn: () => {}, concurrency: 1, message: "source must be an iterable" },
    { source: null, fn: () => {}, concurrency: 1, message: "source must be an iterable" },
    { source: [], fn: 42, concurrency: 1, message: "fn must be a function" },
    { source: [], fn: () => {}, concurrency: "1", message: "concurrency must be a positive" },
  ])("refuses bad arguments: $message", async ({ source, fn, concurrency, message }) => {
    const refused = mapConcurrent(source as never, fn as never, { concurrency } as never);

    await expect(refused).rejects.toThrow(`Cannot run mapConcurrent: ${message}`);
    await expect(refused).rejects.toBeInstanceOf(TypeError);
  });

  test.each([0, 1.5, NaN])("refuses a concurrency of %d", async (concurrency) => {
    await expect(mapConcurrent([], () => {}, { concurrency })).rejects.toBeInstanceOf(RangeError);
  });
});

describe("taskGroup", () => {
  test("returns the body's result when all tasks have ended, also those nobody awaits", async () => {
    await virtualTime(async (clock) => {
      const result = await taskGroup(async (group) => {
        group.spawn(work(100));
        return await group.spawn(work(50, "result"));
      });

      expect(result).toBe("result");
      expect(clock.elapsed).toBe(100);
    });
  });

  test("lets tasks spawn tasks, also when the body has returned", async () => {
    await virtualTime(async (clock) => {
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
  });

  test("refuses to spawn after its end, and calls nothing then", async () => {
    let calls = 0;
    const ended = await taskGroup((group) => group);

    await expect(ended.spawn(() => calls++)).rejects.toEqual(
      new Error("Cannot spawn: the group has ended"),
    );
    expect(calls).toBe(0);
  });

  test("refuses to spawn from what follows its last task, rather than leave that running", async () => {
    let late: Promise<unknown> = Promise.resolve();

    await taskGroup(({ spawn }) => {
      late = spawn(() => microtasks(10)).then(() => spawn(() => "late"));
      late.catch(() => {});
    });

    await expect(late).rejects.toThrow("the group has ended");
  });

  test("refuses to spawn after an abort, with the reason, and calls nothing then", async () => {
    await virtualTime(async () => {
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
  });

  test("a task that fails aborts the body and the others, which clean up before it rejects", async () => {
    await virtualTime(async (clock) => {
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
      expect(clock.elapsed).toBe(60);
      expect(clock.pending).toBe(0);
    });
  });

  test("a body that fails aborts the tasks", async () => {
    await virtualTime(async (clock) => {
      const error = await rejection(
        taskGroup((group) => {
          group.spawn(work(100));
          throw "body failed";
        }),
      );

      expect(error).toMatchObject({ errors: ["body failed"] });
      expect(clock.elapsed).toBe(0);
    });
  });

  test("keeps every real failure, of body, tasks and cleanups, in order of time", async () => {
    await virtualTime(async () => {
      const error = await rejection(
        taskGroup(async (group) => {
          group.spawn(tidy(100, [], "cleanup failed"));
          group.spawn(fail("task failed", 50));
          await sleep(55);
          throw "body failed";
        }),
      );

      expect(error).toMatchObject({ errors: ["task failed", "body failed", "cleanup failed"] });
    });
  });

  test.each([undefined, null, "text", { name: "Error" }])(
    "keeps %p, thrown in a cleanup",
    async (thrown) => {
      await virtualTime(async () => {
        const cleanup = (signal: AbortSignal) =>
          sleep(100, signal).catch(() => Promise.reject(thrown));

        const error = await rejection(
          taskGroup((group) => {
            group.spawn(cleanup);
            group.spawn(fail("broken", 50));
          }),
        );

        expect((error as AggregateError).errors).toEqual(["broken", thrown]);
      });
    },
  );

  test.each([
    { echo: "the very reason", make: (reason: unknown) => reason },
    { echo: "an AbortError", make: () => new DOMException("gone", "AbortError") },
  ])("leaves out what echoes the abort: $echo", async ({ make }) => {
    await virtualTime(async () => {
      const error = await rejection(
        taskGroup((group) => {
          group.spawn((signal) =>
            sleep(100, signal).catch((reason) => Promise.reject(make(reason))),
          );
          group.spawn(fail("broken", 50));
        }),
      );

      expect(error).toMatchObject({ errors: ["broken"] });
    });
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

  test("takes what is no function, but spawned as if it were, as a failure", async () => {
    const error = await rejection(taskGroup(({ spawn }) => void spawn(Promise.resolve() as never)));

    expect((error as AggregateError).errors).toEqual([
      new TypeError("Cannot spawn: task must be a function, received [object Promise]"),
    ]);
  });

  test("nested groups end inside out, and the inner error is part of the outer one", async () => {
    await virtualTime(async (clock) => {
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
  });

  test("a nested group that ends quietly when aborted leaves no error in the outer one", async () => {
    await virtualTime(async () => {
      const inner = (signal: AbortSignal) =>
        taskGroup((group) => void group.spawn((own) => sleep(100, own)), { signal });

      const error = await rejection(
        taskGroup((group) => {
          group.spawn(inner);
          group.spawn(fail("broken", 50));
        }),
      );

      expect(error).toMatchObject({ errors: ["broken"] });
    });
  });

  test("aborted from outside, it rejects with the very reason after the cleanup", async () => {
    await virtualTime(async (clock) => {
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
      expect(clock.elapsed).toBe(60);
      expect(listeners()).toBe(0);
    });
  });

  test("aborted from outside, it keeps what fails in the cleanup, and the reason as its cause", async () => {
    await virtualTime(async () => {
      const reason = new Error("stop");
      const controller = new AbortController();
      setTimeout(() => controller.abort(reason), 50);

      const error = await rejection(
        taskGroup(({ spawn }) => void spawn(tidy(100, [], "cleanup failed")), controller),
      );

      expect(error).toMatchObject({ errors: ["cleanup failed"] });
      expect(error?.cause).toBe(reason);
    });
  });

  test("is not called when it is aborted before", async () => {
    let calls = 0;

    await expect(taskGroup(() => calls++, { signal: AbortSignal.abort("stop") })).rejects.toBe(
      "stop",
    );

    expect(calls).toBe(0);
  });

  test("listens no more once it has ended, and does not abort what has ended well", async () => {
    const { controller, listeners } = watchedController();
    const signals: AbortSignal[] = [];

    await taskGroup((group: TaskGroup) => {
      signals.push(group.signal);
      group.spawn((signal) => signals.push(signal));
    }, controller);

    expect(listeners()).toBe(0);
    expect(signals.map(({ aborted }) => aborted)).toEqual([false, false]);
  });

  test("refuses a body that is no function", async () => {
    await expect(taskGroup(42 as never)).rejects.toEqual(
      new TypeError("Cannot run taskGroup: body must be a function, received 42"),
    );
  });
});

describe("singleFlight", () => {
  test("shares one run between concurrent calls, its result and its error", async () => {
    await virtualTime(async (clock) => {
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
  });

  test("lets a caller in who comes later, and forgets the run when it has ended", async () => {
    await virtualTime(async (clock) => {
      let runs = 0;
      const fly = singleFlight(async () => {
        await sleep(100);
        return ++runs;
      });

      const first = fly();
      await sleep(50);
      expect(await gather([() => first, () => fly()])).toEqual([1, 1]);
      expect(clock.elapsed).toBe(100);
      expect(await fly()).toBe(2);
    });
  });

  test("forgets the run before the callers go on", async () => {
    let runs = 0;
    const fly = singleFlight(async () => ++runs);

    expect(await fly().then(() => fly())).toBe(2);
  });

  test("goes by the key, if there is one", async () => {
    const inputs: string[] = [];
    const fly = singleFlight(async (input: string) => void inputs.push(input), {
      key: (input) => input.toLowerCase(),
    });

    await Promise.all([fly("Ada"), fly("ADA"), fly("Bob")]);

    expect(inputs).toEqual(["Ada", "Bob"]);
  });

  test("shares what is thrown as a rejection, and tries again afterwards", async () => {
    let runs = 0;
    const fly = singleFlight(() => {
      throw `failed ${++runs}`;
    });

    const [one, two] = await settle([() => fly(), () => fly()]);

    expect([one, two]).toEqual(Array(2).fill({ status: "rejected", reason: "failed 1" }));
    await expect(fly()).rejects.toBe("failed 2");
  });

  test("rejects when the key throws", async () => {
    const fly = singleFlight(() => {}, {
      key: () => {
        throw "no key";
      },
    });

    await expect(fly()).rejects.toBe("no key");
  });

  test("lets a caller who aborts leave alone and at once", async () => {
    await virtualTime(async (clock) => {
      const { controller, listeners } = watchedController();
      const fly = singleFlight(async (_: void, signal) => {
        await sleep(100, signal);
        return "landed";
      });
      setTimeout(() => controller.abort("stop"), 50);

      const left = rejection(fly(undefined, controller));
      const stayed = fly();

      expect(await left).toBe("stop" as never);
      expect(clock.elapsed).toBe(50);
      expect(listeners()).toBe(0);
      expect(await stayed).toBe("landed");
      expect(clock.elapsed).toBe(100);
    });
  });

  test("aborts the run when all have left, with the last one's reason, and starts anew for the next", async () => {
    await virtualTime(async () => {
      const signals: AbortSignal[] = [];
      const fly = singleFlight(async (_: void, signal) => {
        signals.push(signal);
        await sleep(100);
        return signals.length;
      });
      const [one, two] = [new AbortController(), new AbortController()];
      const left = [fly(undefined, one), fly(undefined, two)].map(rejection);

      one.abort("one");
      expect(signals[0]?.aborted).toBe(false);
      two.abort("two");
      expect(signals[0]?.reason).toBe("two");

      const next = fly();
      await sleep(50);
      const joins = fly();
      expect(await Promise.all(left)).toEqual(["one", "two"] as never);
      expect(await next).toBe(2);
      expect(await joins).toBe(2);
      expect(signals[1]?.aborted).toBe(false);
    });
  });

  test("the end of a run that all have left does not end the one that follows it", async () => {
    await virtualTime(async () => {
      let runs = 0;
      const fly = singleFlight(async () => {
        const run = ++runs;
        await sleep(run === 1 ? 60 : 100);
        return run;
      });
      const controller = new AbortController();
      rejection(fly(undefined, controller));
      controller.abort();

      const next = fly();
      await sleep(80);

      expect(await fly()).toBe(2);
      expect(await next).toBe(2);
    });
  });

  test("aborts a run that its only caller has left, and never one whose result it got", async () => {
    const outcomes = new Set<string>();
    for (let turns = 0; turns < 20; turns++) {
      const controller = new AbortController();
      let run: AbortSignal | undefined;
      const fly = singleFlight((_: void, signal) => {
        run = signal;
        return microtasks(5);
      });

      const [{ status }] = await Promise.all([
        settle([() => fly(undefined, controller)]).then(([outcome]) => outcome),
        microtasks(turns).then(() => controller.abort()),
      ]);

      outcomes.add(`${status}, ${run?.aborted ? "aborted" : "not aborted"}`);
    }

    expect([...outcomes].sort()).toEqual(["fulfilled, not aborted", "rejected, aborted"]);
  });

  test("listens no more once it has ended, and calls nothing when aborted before", async () => {
    const { controller, listeners } = watchedController();
    let runs = 0;
    const fly = singleFlight(() => ++runs);

    expect(await fly(undefined, controller)).toBe(1);
    expect(listeners()).toBe(0);
    await expect(fly(undefined, { signal: AbortSignal.abort("stop") })).rejects.toBe("stop");
    expect(runs).toBe(1);
  });

  test("leaves nothing unhandled when a run fails that all have left", async () => {
    await withoutUnhandled(async () => {
      const controller = new AbortController();
      const fly = singleFlight(fail("late", 0));
      const left = rejection(fly(undefined, controller));
      controller.abort();
      await left;
    });
  });

  test("refuses what is no function", () => {
    const message = "must be a function, received 42";
    expect(thrownBy(() => singleFlight(42 as never))).toEqual(
      new TypeError(`Cannot create singleFlight: fn ${message}`),
    );
    expect(thrownBy(() => singleFlight(() => {}, { key: 42 as never }))).toEqual(
      new TypeError(`Cannot create singleFlight: key ${message}`),
    );
  });
});

describe("hedge", () => {
  test("starts one attempt when that is quick enough", async () => {
    await virtualTime(async (clock) => {
      const attempts = attemptsOf(work(50, "first"));

      expect(await hedge(attempts.task, { after: 100, max: 5 })).toBe("first");

      expect(attempts.startedAt).toEqual([0]);
      expect(clock.elapsed).toBe(50);
      expect(clock.pending).toBe(0);
    });
  });

  test("starts another when it is slow, and aborts and awaits the loser", async () => {
    await virtualTime(async (clock) => {
      const log: string[] = [];
      const attempts = attemptsOf(tidy(1000, log), work(50, "second"));

      expect(await hedge(attempts.task, { after: 100 })).toBe("second");

      expect(attempts.startedAt).toEqual([0, 100]);
      expect(log).toEqual(["aborted at 150", "cleaned up at 160"]);
      expect(clock.elapsed).toBe(160);
      expect(clock.pending).toBe(0);
    });
  });

  test("does not abort the signal of the winner, and starts no more", async () => {
    await virtualTime(async (clock) => {
      const signals: AbortSignal[] = [];
      const task = async (signal: AbortSignal) => {
        const ms = signals.push(signal) === 1 ? 150 : 1000;
        await sleep(ms, signal).catch(() => sleep(500));
      };

      await hedge(task, { after: 100, max: 5 });

      expect(signals.map(({ aborted }) => aborted)).toEqual([false, true]);
      expect(clock.elapsed).toBe(650);
    });
  });

  test.each([
    { max: undefined, startedAt: [0, 100] },
    { max: 1, startedAt: [0] },
    { max: 4, startedAt: [0, 100, 200, 300] },
    { max: Infinity, startedAt: [0, 100, 200, 300, 400, 500, 600, 700, 800, 900] },
  ])("makes at most $max attempts", async ({ max, startedAt }) => {
    await virtualTime(async (clock) => {
      const attempts = attemptsOf(work(950, "first"));

      expect(await hedge(attempts.task, { after: 100, max })).toBe("first");

      expect(attempts.startedAt).toEqual([...startedAt]);
      expect(clock.elapsed).toBe(950);
    });
  });

  test("starts the next at once when an attempt fails, and the one after that in its time", async () => {
    await virtualTime(async (clock) => {
      const attempts = attemptsOf(fail("broken", 30), work(1000), work(10, "third"));

      expect(await hedge(attempts.task, { after: 100, max: 3 })).toBe("third");

      expect(attempts.startedAt).toEqual([0, 30, 130]);
      expect(clock.elapsed).toBe(140);
    });
  });

  test("starts all attempts at once when they are to come after 0 ms", async () => {
    await virtualTime(async (clock) => {
      const attempts = attemptsOf(work(1000, "first"), work(100, "second"), work(10, "third"));

      expect(await hedge(attempts.task, { after: 0, max: 3 })).toBe("third");

      expect(attempts.startedAt).toEqual([0, 0, 0]);
      expect(clock.elapsed).toBe(10);
    });
  });

  test.each([Infinity, 2 ** 31])("starts the next only after a failure with %d", async (after) => {
    await virtualTime(async (clock) => {
      const attempts = attemptsOf(fail("broken", 5000), work(10, "second"));

      expect(await hedge(attempts.task, { after })).toBe("second");

      expect(attempts.startedAt).toEqual([0, 5000]);
      expect(clock.elapsed).toBe(5010);
    });
  });

  test("rejects with all errors when all attempts fail, in their order", async () => {
    await virtualTime(async (clock) => {
      const attempts = attemptsOf(fail("a", 250), fail("b", 10), fail("c", 10));

      const error = await rejection(hedge(attempts.task, { after: 100, max: 3 }));

      expect(error).toBeInstanceOf(AggregateError);
      expect(error).toMatchObject({ message: "All attempts failed", errors: ["a", "b", "c"] });
      expect(clock.elapsed).toBe(250);
      expect(clock.pending).toBe(0);
    });
  });

  test("aborted from outside, it aborts all attempts, starts no more, and rejects when they have ended", async () => {
    await virtualTime(async (clock) => {
      const { controller, listeners } = watchedController();
      const log: string[] = [];
      const attempts = attemptsOf(tidy(1000, log));
      setTimeout(() => controller.abort("stop"), 195);

      const hedging = hedge(attempts.task, { after: 100, max: 5, signal: controller.signal });

      await expect(hedging).rejects.toBe("stop");
      expect(attempts.startedAt).toEqual([0, 100]);
      expect(clock.elapsed).toBe(205);
      expect(clock.pending).toBe(0);
      expect(listeners()).toBe(0);
    });
  });

  test("calls nothing when it is aborted before", async () => {
    const attempts = attemptsOf(work(1));

    const hedging = hedge(attempts.task, { after: 1, signal: AbortSignal.abort("stop") });

    await expect(hedging).rejects.toBe("stop");
    expect(attempts.startedAt).toEqual([]);
  });

  test.each([
    { options: { after: -1 }, message: "after must be a number of 0 or more, received -1" },
    { options: { after: NaN }, message: "after must be a number of 0 or more, received NaN" },
    {
      options: { after: 1, max: 0 },
      message: "max must be a positive integer or Infinity, received 0",
    },
  ])("refuses a wrong option: $message", async ({ options, message }) => {
    await expect(hedge(() => {}, options)).rejects.toEqual(
      new RangeError(`Cannot hedge: ${message}`),
    );
  });

  test("refuses what is no function, or no number", async () => {
    await expect(hedge(42 as never, { after: 1 })).rejects.toEqual(
      new TypeError("Cannot hedge: task must be a function, received 42"),
    );
    await expect(hedge(() => {}, { after: "1" } as never)).rejects.toEqual(
      new TypeError("Cannot hedge: after must be a number of 0 or more, received 1"),
    );
  });
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

/** Lets so many promises settle one after the other. */
async function microtasks(count: number): Promise<void> {
  for (let i = 0; i < count; i++) await undefined;
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
      log.push(`aborted at ${performance.now()}`);
      await sleep(10);
      log.push(`cleaned up at ${performance.now()}`);
      throw failure ?? reason;
    }
  };
}

/** A task that is another one at each attempt, the last one from then on. */
function attemptsOf<T>(...tasks: Task<T>[]): { task: Task<T>; startedAt: number[] } {
  const startedAt: number[] = [];
  const task: Task<T> = (signal) => {
    startedAt.push(performance.now());
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
      log.push(`closed at ${performance.now()}`);
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

/** A source that yields so many items and then nothing, and whose cleanup takes 20 ms. */
function silentAfter(count: number) {
  const source = {
    closed: 0,
    [Symbol.asyncIterator]: () => ({
      next: () =>
        count-- > 0
          ? Promise.resolve({ done: false as const, value: count })
          : new Promise<never>(() => {}),
      return: async () => {
        await sleep(20);
        return { done: true as const, value: source.closed++ };
      },
    }),
  };
  return source;
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
