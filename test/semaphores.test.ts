/**
 * How to test code that shares something scarce: prove that a semaphore of two never lets a third
 * in, that nobody overtakes, and that no permit is lost, whoever aborts, throws or releases twice.
 * Time is virtual throughout.
 */
import { describe, expect, test } from "bun:test";

import {
  KeyedMutex,
  limit,
  limited,
  Mutex,
  RateLimiter,
  Semaphore,
} from "../concepts/semaphores.ts";
import { virtualTime } from "../concepts/virtual-time.ts";

describe("Semaphore", () => {
  test.each([
    { permits: 1, tasks: 5, elapsed: 500 },
    { permits: 2, tasks: 5, elapsed: 300 },
    { permits: 5, tasks: 5, elapsed: 100 },
    { permits: 3, tasks: 100, elapsed: 3400 },
    { permits: 3, tasks: 0, elapsed: 0 },
  ])("$permits permits let $tasks tasks of 100 ms end after $elapsed ms", async (given) => {
    await virtualTime(async (clock) => {
      const semaphore = new Semaphore(given.permits);
      let running = 0;
      let peak = 0;
      const task = async () => {
        peak = Math.max(peak, ++running);
        await sleep(100);
        running--;
      };

      await Promise.all(Array.from({ length: given.tasks }, () => semaphore.run(task)));

      expect(clock.elapsed).toBe(given.elapsed);
      expect(peak).toBe(Math.min(given.permits, given.tasks));
      expect(semaphore.available).toBe(given.permits);
    });
  });

  test("run() returns what the function returns, and gives the permit back when it throws", async () => {
    const semaphore = new Semaphore(1);

    expect(await semaphore.run(() => "plain")).toBe("plain");
    expect(await semaphore.run(async () => "promised")).toBe("promised");
    const error = new Error("thrown");
    await expect(semaphore.run(() => Promise.reject(error))).rejects.toBe(error);
    await expect(
      semaphore.run(() => {
        throw error;
      }),
    ).rejects.toBe(error);

    expect(semaphore.available).toBe(1);
  });

  test("lets waiters in in the order in which they came", async () => {
    const semaphore = new Semaphore(1);
    const order: number[] = [];

    await Promise.all([1, 2, 3, 4].map((n) => semaphore.run(() => order.push(n))));

    expect(order).toEqual([1, 2, 3, 4]);
  });

  test("lets no small request overtake a big one", async () => {
    const semaphore = new Semaphore(3);
    const order: string[] = [];
    const held = await semaphore.acquire({ weight: 2 });
    const big = semaphore.run(() => order.push("big"), { weight: 3 });
    const small = semaphore.run(() => order.push("small"), { weight: 1 });

    expect(semaphore.available).toBe(1);
    expect(semaphore.tryAcquire({ weight: 1 })).toBeUndefined();
    expect(semaphore.waiting).toBe(2);

    held.release();
    await Promise.all([big, small]);
    expect(order).toEqual(["big", "small"]);
  });

  test("tryAcquire() takes what is free, and nothing otherwise", () => {
    const semaphore = new Semaphore(3);

    const permit = semaphore.tryAcquire({ weight: 2 });

    expect(semaphore.available).toBe(1);
    expect(semaphore.tryAcquire({ weight: 2 })).toBeUndefined();
    expect(semaphore.available).toBe(1);
    permit?.release();
    expect(semaphore.available).toBe(3);
  });

  test("a permit goes back once, however often it is released or disposed", async () => {
    const semaphore = new Semaphore(2);
    await semaphore.acquire();
    {
      using permit = await semaphore.acquire();
      permit.release();
      permit.release();
      expect(semaphore.available).toBe(1);
    }
    expect(semaphore.available).toBe(1);
  });

  test("acquire() rejects with the reason when aborted before, and takes nothing", async () => {
    const semaphore = new Semaphore(1);

    await expect(semaphore.acquire({ signal: AbortSignal.abort("stop") })).rejects.toBe("stop");

    expect(semaphore.available).toBe(1);
  });

  test("acquire() rejects with the reason when aborted while waiting, and leaves no trace", async () => {
    const semaphore = new Semaphore(1);
    const held = await semaphore.acquire();
    const { controller, listeners } = watchedController();

    const acquiring = semaphore.acquire({ signal: controller.signal });
    expect(listeners()).toBe(1);
    controller.abort("stop");

    expect(semaphore.waiting).toBe(0);
    expect(listeners()).toBe(0);
    await expect(acquiring).rejects.toBe("stop");
    held.release();
    expect(semaphore.available).toBe(1);
  });

  test("acquire() listens no more once it has been let in", async () => {
    const semaphore = new Semaphore(1);
    const held = await semaphore.acquire();
    const { controller, listeners } = watchedController();
    const acquiring = semaphore.acquire({ signal: controller.signal });

    held.release();
    const permit = await acquiring;
    controller.abort();

    expect(listeners()).toBe(0);
    expect(semaphore.available).toBe(0);
    permit.release();
    expect(semaphore.available).toBe(1);
  });

  test("a signal ends a later wait as well as the first", async () => {
    const semaphore = new Semaphore(1);
    const held = await semaphore.acquire();
    const controller = new AbortController();
    const first = semaphore.acquire({ signal: controller.signal });
    held.release();
    await first;

    const second = semaphore.acquire({ signal: controller.signal });
    controller.abort("stop");

    await expect(second).rejects.toBe("stop");
  });

  test("aborting the first in line lets in the next, if it fits", async () => {
    const semaphore = new Semaphore(3);
    await semaphore.acquire({ weight: 2 });
    const controller = new AbortController();
    const big = semaphore.acquire({ weight: 3, signal: controller.signal });
    const small = semaphore.acquire({ weight: 1 });

    controller.abort("stop");

    await expect(big).rejects.toBe("stop");
    await small;
    expect(semaphore.available).toBe(0);
  });

  test.each(["first", "middle", "last"] as const)(
    "the line closes up when the %s of three leaves it",
    async (who) => {
      const semaphore = new Semaphore(1);
      const held = await semaphore.acquire();
      const order: string[] = [];
      const leaving = new AbortController();
      const waiting = (["first", "middle", "last"] as const).map((name) =>
        semaphore.run(() => order.push(name), name === who ? { signal: leaving.signal } : {}),
      );

      leaving.abort("stop");
      held.release();

      const results = await Promise.allSettled(waiting);
      expect(results.filter((result) => result.status === "rejected")).toHaveLength(1);
      expect(order).toEqual(["first", "middle", "last"].filter((name) => name !== who));
      expect(semaphore.available).toBe(1);
    },
  );

  test("one signal can end the wait of many, and none of them is let in", async () => {
    const semaphore = new Semaphore(2);
    await semaphore.acquire();
    const { controller, listeners } = watchedController();
    const doomed = [2, 1, 1].map((weight) =>
      semaphore.acquire({ weight, signal: controller.signal }),
    );
    const patient = semaphore.acquire({ weight: 1 });
    expect(listeners()).toBe(1);

    controller.abort("stop");

    for (const result of await Promise.allSettled(doomed)) {
      expect(result).toEqual({ status: "rejected", reason: "stop" });
    }
    await patient;
    expect(semaphore.available).toBe(0);
    expect(listeners()).toBe(0);
  });

  test.each(["release, then abort", "abort, then release"])(
    "loses no permit when both happen in one turn: %s",
    async (order) => {
      const semaphore = new Semaphore(1);
      const held = await semaphore.acquire();
      const controller = new AbortController();
      const aborted = semaphore.acquire({ signal: controller.signal });
      const next = semaphore.acquire();

      if (order === "release, then abort") {
        held.release();
        controller.abort("stop");
      } else {
        controller.abort("stop");
        held.release();
      }

      await expect(aborted).rejects.toBe("stop");
      (await next).release();
      expect(semaphore.available).toBe(1);
      expect(semaphore.waiting).toBe(0);
    },
  );

  test("resize() up lets in at once whoever fits now", async () => {
    const semaphore = new Semaphore(1);
    await semaphore.acquire();
    const waiting = [semaphore.acquire(), semaphore.acquire(), semaphore.acquire()];

    semaphore.resize(3);

    await Promise.all(waiting.slice(0, 2));
    expect(semaphore.permits).toBe(3);
    expect(semaphore.available).toBe(0);
    expect(semaphore.waiting).toBe(1);
  });

  test("resize() down takes nothing away, and waits for what is lent", async () => {
    const semaphore = new Semaphore(3);
    const [first, second] = [await semaphore.acquire({ weight: 2 }), await semaphore.acquire()];

    semaphore.resize(1);
    const waiting = semaphore.acquire();

    expect(semaphore.available).toBe(-2);
    first.release();
    expect(semaphore.waiting).toBe(1);
    second.release();
    await waiting;
    expect(semaphore.available).toBe(0);
  });

  test("resize() refuses those in line who ask for more than is left, and only those", async () => {
    const semaphore = new Semaphore(4);
    const held = await semaphore.acquire({ weight: 4 });
    const { controller, listeners } = watchedController();
    const waiting = [3, 2, 4, 1].map((weight) =>
      semaphore.acquire({ weight, signal: controller.signal }),
    );

    semaphore.resize(2);
    held.release();
    waiting[1]?.then((permit) => permit.release());

    const results = await Promise.allSettled(waiting);
    expect(results.map((result) => result.status)).toEqual([
      "rejected",
      "fulfilled",
      "rejected",
      "fulfilled",
    ]);
    expect(results[0]).toHaveProperty("reason.name", "RangeError");
    expect(results[0]).toHaveProperty(
      "reason.message",
      "Cannot acquire Semaphore: weight must be at most its 2 permits, received 3",
    );
    expect(listeners()).toBe(0);
  });

  test("resize() down to a first in line who is refused lets the next one in", async () => {
    const semaphore = new Semaphore(3);
    await semaphore.acquire();
    const big = semaphore.acquire({ weight: 3 });
    const small = semaphore.acquire();

    semaphore.resize(2);

    await expect(big).rejects.toThrow(RangeError);
    await small;
    expect(semaphore.available).toBe(0);
  });

  test("idle() waits until everything is back and nobody is in line", async () => {
    await virtualTime(async (clock) => {
      const semaphore = new Semaphore(1);
      await semaphore.idle();
      expect(clock.elapsed).toBe(0);

      const work = [1, 2, 3].map(() => semaphore.run(() => sleep(100)));
      await Promise.all([semaphore.idle(), semaphore.idle()]);

      expect(clock.elapsed).toBe(300);
      await Promise.all(work);
    });
  });

  test("idle() sees that the last in line has gone away", async () => {
    const semaphore = new Semaphore(2);
    const held = await semaphore.acquire();
    const controller = new AbortController();
    const leaving = semaphore.acquire({ weight: 2, signal: controller.signal });
    const idle = semaphore.idle();

    held.release();
    const permit = await leaving;
    permit.release();

    await idle;
    expect(semaphore.available).toBe(2);
  });

  test("idle() can be aborted, before and while it waits", async () => {
    const semaphore = new Semaphore(1);
    await expect(semaphore.idle({ signal: AbortSignal.abort("before") })).rejects.toBe("before");

    const held = await semaphore.acquire();
    const { controller, listeners } = watchedController();
    const idle = semaphore.idle({ signal: controller.signal });
    controller.abort("while");

    await expect(idle).rejects.toBe("while");
    expect(listeners()).toBe(0);
    held.release();
    await semaphore.idle({ signal: new AbortController().signal });
  });

  test.each([0, -1, 1.5, NaN, Infinity])("refuses %d permits", async (permits) => {
    const message = `permits must be a positive integer, received ${permits}`;
    expect(thrownBy(() => new Semaphore(permits))).toEqual(
      new RangeError(`Cannot create Semaphore: ${message}`),
    );
    expect(thrownBy(() => new Semaphore(1).resize(permits))).toEqual(
      new RangeError(`Cannot resize Semaphore: ${message}`),
    );
  });

  test.each([0, -1, 1.5, NaN, 3])(
    "refuses a weight of %d when there are two permits",
    async (weight) => {
      const semaphore = new Semaphore(2);
      const held = await semaphore.acquire({ weight: 2 });

      await expect(semaphore.acquire({ weight })).rejects.toThrow(RangeError);
      expect(() => semaphore.tryAcquire({ weight })).toThrow(RangeError);

      expect(semaphore.waiting).toBe(0);
      held.release();
      expect(semaphore.available).toBe(2);
    },
  );

  test("refuses what is no number with a TypeError", async () => {
    const two = "2" as unknown as number;
    expect(thrownBy(() => new Semaphore(two))).toEqual(
      new TypeError('Cannot create Semaphore: permits must be a positive integer, received "2"'),
    );
    await expect(new Semaphore(1).acquire({ weight: two })).rejects.toThrow(TypeError);
  });
});

describe("Mutex", () => {
  test("keeps out everybody else between a read and a write", async () => {
    await virtualTime(async () => {
      const mutex = new Mutex();
      let balance = 0;
      const deposit = async () => {
        using _lock = await mutex.lock();
        const before = balance;
        await sleep(10);
        balance = before + 1;
      };

      await Promise.all(Array.from({ length: 10 }, deposit));

      expect(balance).toBe(10);
      expect(mutex.locked).toBe(false);
    });
  });

  test("tryLock() gets it when it is free, and not when it is held", () => {
    const mutex = new Mutex();

    const lock = mutex.tryLock();

    expect(mutex.locked).toBe(true);
    expect(mutex.tryLock()).toBeUndefined();
    lock?.release();
    expect(mutex.locked).toBe(false);
  });

  test("run() holds it while the function runs, and lets go when it fails", async () => {
    const mutex = new Mutex();

    expect(await mutex.run(async () => mutex.locked)).toBe(true);
    await expect(mutex.run(() => Promise.reject("failed"))).rejects.toBe("failed");

    expect(mutex.locked).toBe(false);
  });

  test("lock() and run() can be aborted while they wait", async () => {
    const mutex = new Mutex();
    const lock = await mutex.lock();
    const controller = new AbortController();
    const locking = mutex.lock({ signal: controller.signal });
    const running = mutex.run(() => "never", { signal: controller.signal });

    controller.abort("stop");

    expect(await Promise.allSettled([locking, running])).toEqual([
      { status: "rejected", reason: "stop" },
      { status: "rejected", reason: "stop" },
    ]);
    lock.release();
    expect(mutex.locked).toBe(false);
  });
});

describe("KeyedMutex", () => {
  test("one key goes one at a time, different keys side by side", async () => {
    await virtualTime(async (clock) => {
      const mutex = new KeyedMutex<string>();
      const ended: string[] = [];
      const task = (key: string) =>
        mutex.run(key, async () => {
          await sleep(100);
          ended.push(`${key} at ${clock.elapsed}`);
        });

      await Promise.all(["a", "a", "b"].map(task));

      expect(ended).toEqual(["a at 100", "b at 100", "a at 200"]);
    });
  });

  test("keeps a key only while somebody holds it or waits for it", async () => {
    const mutex = new KeyedMutex<string>();
    const first = await mutex.lock("a");
    const second = mutex.lock("a");
    expect(mutex.locked("a")).toBe(true);
    expect(mutex.locked("b")).toBe(false);

    first.release();
    first.release();
    expect(mutex.locked("a")).toBe(true);
    (await second).release();

    expect(mutex.locked("a")).toBe(false);
    expect(mutex.size).toBe(0);
  });

  test("forgets those who were aborted, before and while waiting", async () => {
    const mutex = new KeyedMutex<string>();
    await expect(mutex.lock("a", { signal: AbortSignal.abort("before") })).rejects.toBe("before");
    expect(mutex.size).toBe(0);

    const held = await mutex.lock("a");
    const controller = new AbortController();
    const waiting = mutex.run("a", () => "never", { signal: controller.signal });
    controller.abort("while");
    await expect(waiting).rejects.toBe("while");
    held.release();

    expect(mutex.size).toBe(0);
  });

  test("run() returns what the function returns, and lets go of the key when it fails", async () => {
    const mutex = new KeyedMutex<string>();

    expect(await mutex.run("a", async () => "done")).toBe("done");
    await expect(mutex.run("a", () => Promise.reject("failed"))).rejects.toBe("failed");

    expect(mutex.size).toBe(0);
  });
});

describe("RateLimiter", () => {
  test("spends its burst at once, then keeps to its rate", async () => {
    await virtualTime(async (clock) => {
      const limiter = new RateLimiter({ limit: 10, interval: 1000, burst: 3 });
      const times: number[] = [];

      for (let call = 0; call < 6; call++) {
        await limiter.acquire();
        times.push(clock.elapsed);
      }

      expect(times).toEqual([0, 0, 0, 100, 200, 300]);
    });
  });

  test("saves up no more than its burst, by default its limit", async () => {
    await virtualTime(async (clock) => {
      const limiter = new RateLimiter({ limit: 2, interval: 1000 });
      await sleep(1_000_000);

      expect([1, 2, 3].map(() => limiter.tryAcquire())).toEqual([true, true, false]);
      await limiter.acquire();

      expect(clock.elapsed).toBe(1_000_500);
    });
  });

  test.each([
    { limit: 7, interval: 1000, burst: 1 },
    { limit: 7, interval: 1000, burst: 20 },
    { limit: 20, interval: 1000, burst: 5 },
    { limit: 3, interval: 60_000, burst: 3 },
  ])(
    "in an hour of $limit per $interval ms it neither drifts nor exceeds its burst of $burst",
    async (options) => {
      await virtualTime(async (clock) => {
        const hour = 3_600_000;
        const limiter = new RateLimiter(options);
        const times: number[] = [];
        while (clock.elapsed < hour) {
          await limiter.acquire();
          times.push(clock.elapsed);
        }

        const { limit, interval, burst } = options;
        expect(times).toHaveLength(burst + Math.round((hour * limit) / interval));
        const msPerToken = interval / limit;
        const tooEarly = times.filter((time, n) => time < (n + 1 - burst) * msPerToken - 1e-3);
        expect(tooEarly).toEqual([]);
      });
    },
  );

  test("after any pause, no window holds more than the burst and what came in", async () => {
    await virtualTime(async (clock) => {
      const limiter = new RateLimiter({ limit: 10, interval: 1000, burst: 4 });
      const times: number[] = [];
      for (const pause of [0, 250, 0, 1000, 30, 0, 90, 400, 0, 0, 10, 5000, 0, 0, 0, 0, 0]) {
        await sleep(pause);
        await limiter.acquire();
        times.push(clock.elapsed);
      }

      for (const [first, from] of times.entries()) {
        const inWindows = times.slice(first).map((to, n) => ({ spent: n + 1, ms: to - from }));
        expect(inWindows.filter(({ spent, ms }) => spent > 4 + ms / 100)).toEqual([]);
      }
    });
  });

  test("serves in order, even when who is behind asks for less", async () => {
    await virtualTime(async (clock) => {
      const limiter = new RateLimiter({ limit: 10, interval: 1000, burst: 5 });
      await limiter.acquire({ tokens: 5 });
      const served: string[] = [];
      const acquire = async (name: string, tokens: number) => {
        await limiter.acquire({ tokens });
        served.push(`${name} at ${clock.elapsed}`);
      };

      const acquiring = [acquire("big", 4), acquire("small", 1)];
      expect(limiter.tryAcquire()).toBe(false);
      await sleep(300);
      expect(limiter.tryAcquire()).toBe(false);
      await Promise.all(acquiring);

      expect(served).toEqual(["big at 400", "small at 500"]);
    });
  });

  test("whoever gets tokens at once keeps nobody from getting the next in the same turn", () => {
    const limiter = new RateLimiter({ limit: 2, interval: 1000 });

    void limiter.acquire();

    expect([limiter.tryAcquire(), limiter.tryAcquire()]).toEqual([true, false]);
  });

  test("has a timer only while somebody waits", async () => {
    await virtualTime(async (clock) => {
      const limiter = new RateLimiter({ limit: 1, interval: 1000 });
      await limiter.acquire();
      expect(clock.pending).toBe(0);

      const waiting = [limiter.acquire(), limiter.acquire()];
      await sleep(1);
      expect(clock.pending).toBe(1);
      await Promise.all(waiting);

      expect(clock.pending).toBe(0);
    });
  });

  test("aborted, it spends nothing, leaves no trace and serves the next", async () => {
    await virtualTime(async (clock) => {
      const limiter = new RateLimiter({ limit: 1, interval: 1000 });
      await limiter.acquire();
      const { controller, listeners } = watchedController();
      const aborted = [1, 2].map(() => limiter.acquire({ signal: controller.signal }));
      const patient = limiter.acquire();

      await sleep(400);
      controller.abort("stop");

      expect(await Promise.allSettled(aborted)).toEqual([
        { status: "rejected", reason: "stop" },
        { status: "rejected", reason: "stop" },
      ]);
      expect(listeners()).toBe(0);
      await patient;
      expect(clock.elapsed).toBe(1000);
      expect(clock.pending).toBe(0);
      await expect(limiter.acquire({ signal: controller.signal })).rejects.toBe("stop");
    });
  });

  test("aborted before, it spends nothing", async () => {
    const limiter = new RateLimiter({ limit: 1, interval: 1000 });

    await expect(limiter.acquire({ signal: AbortSignal.abort("stop") })).rejects.toBe("stop");

    expect(limiter.tryAcquire()).toBe(true);
  });

  test("aborted in the turn in which the wait begins, or alone in line, it leaves no timer", async () => {
    await virtualTime(async (clock) => {
      const limiter = new RateLimiter({ limit: 1, interval: 1000 });
      await limiter.acquire();
      const controller = new AbortController();
      const atOnce = limiter.acquire({ signal: controller.signal });
      controller.abort("stop");
      await expect(atOnce).rejects.toBe("stop");

      const late = new AbortController();
      const alone = limiter.acquire({ signal: late.signal });
      await sleep(400);
      late.abort("stop");
      await expect(alone).rejects.toBe("stop");

      expect(clock.elapsed).toBe(400);
      expect(clock.pending).toBe(0);
    });
  });

  test("waits longer than a timer can be set for", async () => {
    await virtualTime(async (clock) => {
      const limiter = new RateLimiter({ limit: 1, interval: 2 ** 33 });
      await limiter.acquire();
      await limiter.acquire();
      expect(clock.elapsed).toBe(2 ** 33);
    });
  });

  test("refuses what it cannot do", async () => {
    const valid = { limit: 2, interval: 1000 };
    for (const wrong of [
      { limit: 0, burst: 1 },
      { limit: 1.5, burst: 1 },
      { burst: 0 },
      { interval: 0 },
      { interval: NaN },
      { interval: Infinity },
    ]) {
      expect(() => new RateLimiter({ ...valid, ...wrong })).toThrow(RangeError);
    }
    const interval = "1s" as unknown as number;
    expect(() => new RateLimiter({ ...valid, interval })).toThrow(TypeError);

    const limiter = new RateLimiter(valid);
    const error = new RangeError(
      "Cannot acquire RateLimiter: tokens must be at most its burst of 2, received 3",
    );
    await expect(limiter.acquire({ tokens: 3 })).rejects.toEqual(error);
    expect(thrownBy(() => limiter.tryAcquire({ tokens: 3 }))).toEqual(error);
    expect(() => limiter.tryAcquire({ tokens: 0 })).toThrow(RangeError);
    expect(limiter.tryAcquire({ tokens: 2 })).toBe(true);
  });
});

describe("limit", () => {
  test("runs functions with their arguments, so many at once", async () => {
    await virtualTime(async (clock) => {
      const run = limit(2);
      const double = async (n: number) => {
        await sleep(100);
        return 2 * n;
      };

      const results = [1, 2, 3].map((n) => run(double, n));
      await sleep(50);
      expect([run.activeCount, run.pendingCount]).toEqual([2, 1]);

      expect(await Promise.all(results)).toEqual([2, 4, 6]);
      expect(clock.elapsed).toBe(200);
      expect([run.activeCount, run.pendingCount]).toEqual([0, 0]);
    });
  });

  test("passes errors on, and goes on afterwards", async () => {
    const run = limit(1);

    await expect(run(() => Promise.reject("failed"))).rejects.toBe("failed");

    expect(await run(() => "fine")).toBe("fine");
  });

  test("aborted, it refuses what waits and what comes later, and lets run what runs", async () => {
    const controller = new AbortController();
    const run = limit(1, { signal: controller.signal });
    const running = Promise.withResolvers<string>();
    const first = run(() => running.promise);
    const second = run(() => "never");
    await Promise.resolve();

    controller.abort("stop");

    await expect(second).rejects.toBe("stop");
    await expect(run(() => "never")).rejects.toBe("stop");
    running.resolve("done");
    expect(await first).toBe("done");
  });

  test.each([0, 1.5, NaN])("refuses a concurrency of %d", (concurrency) => {
    const message = `concurrency must be a positive integer or Infinity, received ${concurrency}`;
    expect(thrownBy(() => limit(concurrency))).toEqual(
      new RangeError(`Cannot create limit: ${message}`),
    );
    expect(thrownBy(() => limited(() => {}, concurrency))).toEqual(
      new RangeError(`Cannot create limited: ${message}`),
    );
  });
});

describe("limited", () => {
  test("is the same function, of which so many calls run at once", async () => {
    await virtualTime(async (clock) => {
      const join = limited(async (a: string, b: number) => {
        await sleep(100);
        return a + b;
      }, 2);

      expect(await Promise.all([join("a", 1), join("b", 2), join("c", 3)])).toEqual([
        "a1",
        "b2",
        "c3",
      ]);
      expect(clock.elapsed).toBe(200);
    });
  });

  test("can be aborted", async () => {
    const nothing = limited(() => {}, 1, { signal: AbortSignal.abort("stop") });

    await expect(nothing()).rejects.toBe("stop");
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

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
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
