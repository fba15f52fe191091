/**
 * How to test code that shares something scarce: prove that a semaphore with two permits never lets
 * a third task in, that nobody overtakes, and that no permit is lost, no matter who aborts, throws
 * or releases twice. Time is virtual throughout.
 */
import { describe, expect, expectTypeOf, test } from "bun:test";

import { interleavings, type World } from "../concepts/interleavings.ts";
import {
  KeyedMutex,
  limit,
  limited,
  Mutex,
  type Permit,
  RateLimiter,
  type Reservation,
  Semaphore,
} from "../concepts/semaphores.ts";
import { virtualTime } from "../concepts/virtual-time.ts";

const hooks = globalThis.process?.getBuiltinModule?.("node:async_hooks");

describe("Start here", () => {
  test("five tasks of 100 ms with two permits take exactly 300 ms", async () => {
    await virtualTime(async (clock) => {
      const semaphore = new Semaphore(2);

      await Promise.all([1, 2, 3, 4, 5].map(() => semaphore.run(() => sleep(100))));

      expect(clock.elapsed).toBe(300);
    });
  });

  test("count what runs: the peak is the limit, and at the end all permits are back", async () => {
    await virtualTime(async () => {
      const semaphore = new Semaphore(2);
      let running = 0;
      let peak = 0;
      const task = async () => {
        using _permit = await semaphore.acquire();
        peak = Math.max(peak, ++running);
        await sleep(100);
        running--;
      };

      await Promise.all([1, 2, 3, 4, 5].map(task));

      expect(peak).toBe(2);
      expect(semaphore.available).toBe(2);
    });
  });

  test("a lost update is seen without a mutex, and gone with it", async () => {
    const deposit = async (account: { balance: number }) => {
      const before = account.balance;
      await Promise.resolve(); // a database, say
      account.balance = before + 1;
    };

    const unsafe = { balance: 0 };
    await Promise.all([deposit(unsafe), deposit(unsafe)]);
    expect(unsafe.balance).toBe(1);

    const safe = { balance: 0 };
    const mutex = new Mutex();
    await Promise.all([1, 2].map(() => mutex.run(() => deposit(safe))));
    expect(safe.balance).toBe(2);
  });

  test("a failing task must not keep its permit: test the failure, too", async () => {
    const semaphore = new Semaphore(1);

    await expect(semaphore.run(() => Promise.reject("failed"))).rejects.toBe("failed");

    expect(semaphore.available).toBe(1);
  });

  test("a lock with a time limit is a lock with a signal", async () => {
    await virtualTime(async (clock) => {
      const mutex = new Mutex();
      await mutex.lock();

      const locking = mutex.lock({ signal: AbortSignal.timeout(100) });

      await expect(locking).rejects.toHaveProperty("name", "TimeoutError");
      expect(clock.elapsed).toBe(100);
    });
  });

  test("trap: a mutex is not reentrant, and virtual time names the deadlock", async () => {
    const mutex = new Mutex();
    const nested = virtualTime(() => mutex.run(() => mutex.run(() => "never")));

    await expect(nested).rejects.toHaveProperty("name", "DeadlockError");
  });

  test("a rate limit is tested by the exact times of its calls", async () => {
    await virtualTime(async (clock) => {
      const limiter = new RateLimiter({ limit: 10, interval: 1000, burst: 2 });
      const times: number[] = [];

      for (let call = 0; call < 4; call++) {
        await limiter.acquire();
        times.push(clock.elapsed);
      }

      expect(times).toEqual([0, 0, 100, 200]);
    });
  });
});

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

  test.each([
    { weights: [1, 1], released: 0 },
    { weights: [1, 1], released: 1 },
    { weights: [1, 2], released: 0 },
  ])("idle() waits for every permit: of $weights, number $released comes back", async (given) => {
    const semaphore = new Semaphore(3);
    const held = await Promise.all(given.weights.map((weight) => semaphore.acquire({ weight })));
    let isIdle = false;
    const idle = semaphore.idle().then(() => (isIdle = true));

    held.splice(given.released, 1)[0]?.release();
    semaphore.tryAcquire({ weight: 1 })?.release();
    await drain();
    expect(isIdle).toBe(false);

    held[0]?.release();
    await idle;
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
    await expect(semaphore.idle({ signal: AbortSignal.abort("before") })).rejects.toBe("before");
    const { controller, listeners } = watchedController();
    const idle = semaphore.idle({ signal: controller.signal });
    controller.abort("while");

    await expect(idle).rejects.toBe("while");
    expect(listeners()).toBe(0);
    held.release();
    await semaphore.idle({ signal: new AbortController().signal });
  });

  test("available and waiting change at once, before anybody is told", async () => {
    const semaphore = new Semaphore(2);
    const held = await semaphore.acquire({ weight: 2 });
    void semaphore.acquire();
    expect([semaphore.available, semaphore.waiting]).toEqual([0, 1]);

    held.release();

    expect([semaphore.available, semaphore.waiting]).toEqual([1, 0]);
    expect(semaphore.tryAcquire()).toBeDefined();
    expect(semaphore.tryAcquire()).toBeUndefined();
  });

  test("run() never calls the function itself, but later", async () => {
    const calls: string[] = [];

    const running = new Semaphore(1).run(() => calls.push("called"));
    calls.push("returned");
    await running;

    expect(calls).toEqual(["returned", "called"]);
  });

  test("run() releases before its caller goes on", async () => {
    const semaphore = new Semaphore(1);

    await semaphore.run(async () => {});
    const afterSuccess = semaphore.tryAcquire();
    afterSuccess?.release();
    await semaphore.run(() => Promise.reject("failed")).catch(() => {});

    expect(afterSuccess).toBeDefined();
    expect(semaphore.available).toBe(1);
  });

  test("run() takes any thenable, and hears nothing but its first answer", async () => {
    const semaphore = new Semaphore(1);
    const thenable = {
      // oxlint-disable-next-line no-thenable
      then(resolve: (value: string) => void) {
        resolve("first");
        resolve("second");
        throw new Error("too late");
      },
    };

    expect(await semaphore.run(() => thenable as PromiseLike<string>)).toBe("first");

    expect(semaphore.available).toBe(1);
  });

  test("run() waits for a promise whose then() was replaced, as await does", async () => {
    const semaphore = new Semaphore(1);
    const promise = Object.assign(Promise.resolve("done"), {
      then() {
        throw new Error("called");
      },
    });

    const results = [semaphore.run(() => promise), semaphore.run(() => "next")];

    expect(await Promise.all(results)).toEqual(["done", "next"]);
    expect(semaphore.available).toBe(1);
  });

  test("ten thousand functions that throw at once don't overflow the stack", async () => {
    const semaphore = new Semaphore(1);
    const failing = () => {
      throw "failed";
    };

    const runs = Array.from({ length: 10_000 }, () => semaphore.run(failing));

    const results = await Promise.allSettled(runs);
    expect(results.filter(({ status }) => status === "rejected")).toHaveLength(10_000);
    expect(semaphore.available).toBe(1);
  });

  test("an abort takes back what was granted in this turn, and the next one gets it at once", async () => {
    const semaphore = new Semaphore(1);
    const held = await semaphore.acquire();
    const { controller, listeners } = watchedController();
    const aborted = semaphore.acquire({ signal: controller.signal });

    held.release();
    expect([semaphore.available, listeners()]).toEqual([0, 1]);
    controller.abort("stop");

    expect([semaphore.available, listeners()]).toEqual([1, 0]);
    expect(semaphore.tryAcquire()).toBeDefined();
    await expect(aborted).rejects.toBe("stop");
  });

  test("a free permit is given back, too, when the signal is aborted in the same turn", async () => {
    const semaphore = new Semaphore(1);
    const { controller, listeners } = watchedController();
    const acquiring = semaphore.acquire({ signal: controller.signal });
    expect(semaphore.available).toBe(0);

    controller.abort("stop");

    expect([semaphore.available, listeners()]).toEqual([1, 0]);
    await expect(acquiring).rejects.toBe("stop");
  });

  test("a waiter that was aborted is not let in, even before it hears of it", async () => {
    const semaphore = new Semaphore(1);
    const held = await semaphore.acquire();
    const controller = new AbortController();
    let taken: Permit | undefined;
    // This listener is called before those of the waiters.
    controller.signal.addEventListener("abort", () => {
      held.release();
      taken = semaphore.tryAcquire();
    });
    const doomed = [1, 2].map(() => semaphore.acquire({ signal: controller.signal }));

    controller.abort("stop");

    expect(taken).toBeDefined();
    expect([semaphore.available, semaphore.waiting]).toEqual([0, 0]);
    expect(await Promise.allSettled(doomed)).toEqual([
      { status: "rejected", reason: "stop" },
      { status: "rejected", reason: "stop" },
    ]);
  });

  test("tryAcquire() sees past aborted waiters that don't know it yet", async () => {
    const semaphore = new Semaphore(2);
    await semaphore.acquire();
    const controller = new AbortController();
    let taken: Permit | undefined;
    controller.signal.addEventListener("abort", () => (taken = semaphore.tryAcquire()));
    const big = semaphore.acquire({ weight: 2, signal: controller.signal });

    controller.abort("stop");

    expect(taken).toBeDefined();
    await expect(big).rejects.toBe("stop");
  });

  test.each(["waits", "was let in"])(
    "an aborted waiter that %s and is never told of the abort is passed over",
    async (how) => {
      const semaphore = new Semaphore(1);
      const held = await semaphore.acquire();
      const controller = new AbortController();
      controller.signal.addEventListener("abort", (event) => event.stopImmediatePropagation());
      const order: string[] = [];
      const aborted = semaphore.run(() => order.push("never"), { signal: controller.signal });
      const next = semaphore.run(() => order.push("next"));

      if (how === "was let in") held.release();
      controller.abort("stop");
      held.release();

      await expect(aborted).rejects.toBe("stop");
      await next;
      expect(order).toEqual(["next"]);
      expect(semaphore.available).toBe(1);
    },
  );

  test("a function that aborts another in its turn keeps that from being called", async () => {
    const semaphore = new Semaphore(3);
    const controller = new AbortController();
    const called: string[] = [];
    const { signal } = controller;

    const runs = [
      semaphore.run(() => controller.abort("stop")),
      semaphore.run(() => called.push("aborted"), { signal }),
      semaphore.run(() => called.push("not aborted")),
    ];

    expect((await Promise.allSettled(runs)).map(({ status }) => status)).toEqual([
      "fulfilled",
      "rejected",
      "fulfilled",
    ]);
    expect(called).toEqual(["not aborted"]);
    expect(semaphore.available).toBe(3);
  });

  describe.each([
    ["a resize", ({ semaphore }: Crowd) => semaphore.resize(4)],
    [
      "several releases",
      ({ held }: Crowd) => {
        for (const permit of held) permit.release();
      },
    ],
    ["an abort at the head", ({ controller }: Crowd) => controller.abort("stop")],
  ] as const)("nobody overtakes those let in by %s", (_how, letIn) => {
    test.each(["acquire", "acquire with options", "run", "in a function"] as const)(
      "a newcomer by %s",
      async (newcomer) => {
        const semaphore = new Semaphore(2);
        const held = [await semaphore.acquire()];
        const controller = new AbortController();
        const order: string[] = [];
        const note = (name: string) => () => void order.push(name);
        // At the head: too much for what is free, until it is aborted or another is released.
        const head = semaphore.acquire({ weight: 2, signal: controller.signal });
        const doomed = head.then(
          (permit) => permit.release(),
          () => {},
        );
        held.push(...[]);
        const first = semaphore.acquire().then((permit) => {
          order.push("first");
          permit.release();
        });
        const second = semaphore.run(note("second"));

        letIn({ semaphore, held, controller });
        const enter = {
          acquire: () =>
            semaphore.acquire().then((permit) => {
              order.push("newcomer");
              permit.release();
            }),
          "acquire with options": () =>
            semaphore.acquire({ weight: 1 }).then((permit) => {
              order.push("newcomer");
              permit.release();
            }),
          run: () => semaphore.run(note("newcomer")),
          "in a function": () => limit(1)(() => semaphore.run(note("newcomer"))),
        }[newcomer]();

        await Promise.all([doomed, first, second, enter]);
        expect(order).toEqual(["first", "second", "newcomer"]);
      },
    );
  });

  test("those let in together go on in order, however they wait", async () => {
    const semaphore = new Semaphore(9);
    const held = await semaphore.acquire({ weight: 9 });
    const order: number[] = [];
    const waiting = [0, 1, 2, 3, 4, 5, 6, 7, 8].map((n) =>
      n % 3 === 0
        ? semaphore.acquire().then(() => order.push(n))
        : semaphore.run(() => void order.push(n)),
    );

    held.release();
    await Promise.all(waiting);

    expect(order).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8]);
  });

  test("one let in by a function goes on before a function that comes later", async () => {
    const semaphore = new Semaphore(3);
    const order: string[] = [];

    await semaphore.run(() => {
      void semaphore.acquire().then(() => order.push("acquire"));
      void semaphore.run(() => order.push("run"));
    });
    await drain();

    expect(order).toEqual(["acquire", "run"]);
  });

  test("resize() up costs nothing to those who fit, and keeps their order", async () => {
    const semaphore = new Semaphore(2);
    const held = await semaphore.acquire({ weight: 2 });
    const order: number[] = [];
    const waiting = [2, 1].map((weight) => semaphore.run(() => order.push(weight), { weight }));

    semaphore.resize(3);
    expect(semaphore.waiting).toBe(2);
    held.release();
    await Promise.all(waiting);

    expect(order).toEqual([2, 1]);
    expect(semaphore.available).toBe(3);
  });

  test("resize() up and far down while five share it: as many are in as it says", async () => {
    const semaphore = new Semaphore(2);
    const entered: number[] = [];
    const permits: Permit[] = [];
    const waiting = [0, 1, 2, 3, 4].map(async (n) => {
      permits[n] = await semaphore.acquire();
      entered.push(n);
    });
    const seen = () => [semaphore.available, semaphore.waiting, entered.length];
    await drain();
    expect(seen()).toEqual([0, 3, 2]);

    semaphore.resize(4);
    await drain();
    expect(seen()).toEqual([0, 1, 4]);

    semaphore.resize(1);
    for (const available of [-2, -1, 0]) {
      permits.shift()!.release();
      await drain();
      expect(seen()).toEqual([available, 1, 4]);
    }

    permits.shift()!.release();
    await Promise.all(waiting);
    expect(seen()).toEqual([0, 0, 5]);
    expect(entered).toEqual([0, 1, 2, 3, 4]);
  });

  test("idle() sees the permits of aborted and of refused waiters", async () => {
    const semaphore = new Semaphore(2);
    const held = await semaphore.acquire();
    const controller = new AbortController();
    const leaving = semaphore.acquire({ signal: controller.signal });
    const idle = semaphore.idle();

    held.release();
    controller.abort("stop");

    await idle;
    await expect(leaving).rejects.toBe("stop");
    expect(semaphore.available).toBe(2);
  });

  test("idle() doesn't mind functions that fail, and waits for those that come meanwhile", async () => {
    await virtualTime(async (clock) => {
      const semaphore = new Semaphore(2);
      const run = async (ms: number, fails: boolean) => {
        await sleep(ms);
        if (fails) throw "failed";
      };
      const runs = [true, false, true].map((fails) => semaphore.run(() => run(100, fails)));
      const idle = [semaphore.idle(), semaphore.idle()];

      runs.push(semaphore.run(() => run(300, true)));
      const results = await Promise.allSettled(runs);
      await Promise.all(idle);

      expect(results.map(({ status }) => status)).toEqual([
        "rejected",
        "fulfilled",
        "rejected",
        "rejected",
      ]);
      expect(clock.elapsed).toBe(400);
    });
  });

  test("idle() can be awaited again and again", async () => {
    const semaphore = new Semaphore(1);
    for (let round = 0; round < 3; round++) {
      const held = await semaphore.acquire();
      let isIdle = false;
      const idle = semaphore.idle().then(() => (isIdle = true));
      await drain();
      expect(isIdle).toBe(false);
      held.release();
      await idle;
    }
  });

  test("a crowd that is cancelled in random order leaves nothing behind", async () => {
    const semaphore = new Semaphore(1);
    const held = await semaphore.acquire();
    const random = randomNumbers(1);
    const controllers = Array.from({ length: 500 }, () => watchedController());
    const waiting = controllers.map(({ controller }) =>
      semaphore.acquire({ signal: controller.signal }),
    );

    const inRandomOrder = controllers
      .map((watched) => ({ watched, key: random() }))
      .sort((a, b) => a.key - b.key);
    for (const { watched } of inRandomOrder) watched.controller.abort("stop");

    expect(semaphore.waiting).toBe(0);
    expect(controllers.filter(({ listeners }) => listeners() > 0)).toEqual([]);
    const results = await Promise.allSettled(waiting);
    expect(results.filter(({ status }) => status === "fulfilled")).toEqual([]);
    held.release();
    expect(semaphore.available).toBe(1);
  });

  test.each(["acquire", "run"] as const)(
    "a crowd in %s() with one signal is cancelled at once, and doesn't overflow the stack",
    async (how) => {
      const semaphore = new Semaphore(1);
      const { controller, listeners } = watchedController();
      const { signal } = controller;
      const called: number[] = [];
      const waiting = Array.from({ length: 10_000 }, (_, n) =>
        how === "run"
          ? semaphore.run(() => called.push(n), { signal })
          : semaphore.acquire({ signal }),
      );

      controller.abort("stop");

      expect([semaphore.available, semaphore.waiting, listeners()]).toEqual([1, 0, 0]);
      const results = await Promise.allSettled(waiting);
      expect(results.filter(({ status }) => status === "fulfilled")).toEqual([]);
      expect(called).toEqual([]);
    },
  );

  test("random schedules keep to a model: in order, never too many, nothing lost", async () => {
    for (let seed = 1; seed <= 100; seed++) {
      const problems = await randomSchedule(seed);
      expect({ seed, problems }).toEqual({ seed, problems: [] });
    }
  });

  test("a weight that is right once is refused after resize()", async () => {
    const semaphore = new Semaphore(3);
    semaphore.resize(2);

    const message = "Cannot acquire Semaphore: weight must be at most its 2 permits, received 3";
    expect(thrownBy(() => semaphore.tryAcquire({ weight: 3 }))).toEqual(new RangeError(message));
    await expect(semaphore.acquire({ weight: 3 })).rejects.toEqual(new RangeError(message));
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

  test("tryLock() is refused while somebody waits or was let in this turn", async () => {
    const mutex = new Mutex();
    const held = await mutex.lock();
    const next = mutex.lock();

    held.release();

    expect(mutex.tryLock()).toBeUndefined();
    expect(mutex.locked).toBe(true);
    (await next).release();
    expect(mutex.locked).toBe(false);
  });

  test("waiting counts those in line, without the holder", async () => {
    const mutex = new Mutex();
    const { release } = await mutex.lock();
    const next = [mutex.lock(), mutex.lock()];
    expect(mutex.waiting).toBe(2);

    release();

    expect(mutex.waiting).toBe(1);
    (await next[0]!).release();
    expect(mutex.waiting).toBe(0);
  });

  describe("unlockWhile()", () => {
    test("calls the function in the same turn, unlocked, and returns its result locked", async () => {
      const mutex = new Mutex();
      const lock = await mutex.lock();
      const seen: boolean[] = [];

      const unlocking = mutex.unlockWhile(async () => {
        seen.push(mutex.locked);
        return "result";
      });

      expect(seen).toEqual([false]);
      expect(await unlocking).toBe("result");
      expect(mutex.locked).toBe(true);
      lock.release();
      expect(mutex.locked).toBe(false);
    });

    test("lets others in meanwhile, and waits behind all that have come", async () => {
      await virtualTime(async (clock) => {
        const mutex = new Mutex();
        const log: string[] = [];
        const note = (what: string) => log.push(`${what} at ${clock.elapsed}`);
        const other = (name: string) =>
          mutex.run(async () => {
            note(name);
            await sleep(100);
          });
        const holder = mutex.run(async () => {
          await mutex.unlockWhile(() => sleep(150));
          note("holder");
          await sleep(100);
        });
        await drain();

        const others = ["first", "second"].map(other);
        await sleep(160);
        others.push(other("late"));
        await Promise.all([holder, ...others]);

        expect(log).toEqual(["first at 0", "second at 100", "holder at 200", "late at 300"]);
        expect(mutex.locked).toBe(false);
      });
    });

    test("lockAgain() takes the place in line at once, and once", async () => {
      const mutex = new Mutex();
      const lock = await mutex.lock();
      const asleep = Promise.withResolvers<void>();
      const order: string[] = [];
      let wake: (() => Promise<void>) | undefined;
      const unlocking = mutex
        .unlockWhile((lockAgain) => ((wake = lockAgain), asleep.promise))
        .then(() => order.push("holder"));
      const other = await mutex.lock();

      void wake?.();
      void wake?.();
      const newcomer = mutex.run(() => order.push("newcomer"));
      expect(mutex.waiting).toBe(2);
      other.release();
      await drain();
      expect(order).toEqual([]);
      asleep.resolve();
      await unlocking;
      lock.release();
      await newcomer;

      expect(order).toEqual(["holder", "newcomer"]);
      expect(mutex.locked).toBe(false);
    });

    test.each<[how: string, fn: () => unknown]>([
      [
        "throws",
        () => {
          throw "failed";
        },
      ],
      ["rejects", () => Promise.reject("failed")],
    ])("is locked again when the function %s, even if it must wait for it", async (_how, fn) => {
      const mutex = new Mutex();
      const lock = await mutex.lock();
      const next = mutex.lock();
      let settled = "";
      const unlocking = mutex.unlockWhile(fn).catch((error: string) => (settled = error));

      const other = await next;
      await drain();
      expect(settled).toBe("");
      other.release();
      await unlocking;

      expect(settled).toBe("failed");
      expect(mutex.locked).toBe(true);
      lock.release();
      expect(mutex.locked).toBe(false);
    });

    test("the lock stays the holder's: it can be unlocked again and again", async () => {
      const mutex = new Mutex();

      await mutex.run(async () => {
        for (let round = 0; round < 3; round++) {
          expect(await mutex.unlockWhile(() => mutex.run(() => round))).toBe(round);
          expect(mutex.locked).toBe(true);
        }
      });

      expect(mutex.locked).toBe(false);
    });

    test.each(["release()", "the end of run()"])(
      "%s meanwhile takes no lock from others, and unlocks it in the end",
      async (how) => {
        const mutex = new Mutex();
        const asleep = Promise.withResolvers<void>();
        let unlocking: Promise<void> | undefined;
        const unlock = () => void (unlocking = mutex.unlockWhile(() => asleep.promise));
        let other: Permit;
        if (how === "release()") {
          const lock = await mutex.lock();
          unlock();
          other = await mutex.lock();
          lock.release();
        } else {
          await mutex.run(unlock);
          other = await mutex.lock();
        }
        expect([mutex.locked, mutex.tryLock()]).toEqual([true, undefined]);

        asleep.resolve();
        await drain();
        expect(mutex.waiting).toBe(1);
        other.release();
        await unlocking;

        expect(mutex.locked).toBe(false);
      },
    );

    test("of two holders that have unlocked it, each may release its permit", async () => {
      const mutex = new Mutex();
      const asleep = Promise.withResolvers<void>();
      const first = await mutex.lock();
      const unlocking = [mutex.unlockWhile(() => asleep.promise)];
      const second = await mutex.lock();
      unlocking.push(mutex.unlockWhile(() => asleep.promise));
      const third = await mutex.lock();

      first.release();
      second.release();
      expect(mutex.locked).toBe(true);

      third.release();
      asleep.resolve();
      await Promise.all(unlocking);
      expect([mutex.locked, mutex.waiting]).toEqual([false, 0]);
    });

    test("a permit released in the turn in which it is locked again is released", async () => {
      for (let microtasks = 0; microtasks < 10; microtasks++) {
        const mutex = new Mutex();
        const lock = await mutex.lock();
        const unlocking = mutex.unlockWhile(() => {});

        for (let n = 0; n < microtasks; n++) await Promise.resolve();
        lock.release();
        await unlocking;

        expect({ microtasks, locked: mutex.locked }).toEqual({ microtasks, locked: false });
      }
    });

    test("rejects when nobody holds it, also when nobody has received it yet", async () => {
      const mutex = new Mutex();
      const message = "Cannot unlock Mutex: nobody holds it";
      const called: string[] = [];
      const unlock = () => mutex.unlockWhile(() => called.push("called"));
      await expect(unlock()).rejects.toEqual(new Error(message));

      const running = mutex.run(() => "ran");
      await expect(unlock()).rejects.toEqual(new Error(message));
      expect(await running).toBe("ran");
      await expect(unlock()).rejects.toEqual(new Error(message));

      const permit = mutex.tryLock();
      permit?.release();
      await expect(unlock()).rejects.toEqual(new Error(message));
      expect(called).toEqual([]);
      expect(mutex.locked).toBe(false);
    });

    test("checks its function before it unlocks", async () => {
      const mutex = new Mutex();
      await mutex.lock();

      const unlocking = mutex.unlockWhile(5 as never);

      expect(mutex.locked).toBe(true);
      await expect(unlocking).rejects.toEqual(
        new TypeError("Cannot unlock Mutex: fn must be a function, received 5"),
      );
    });

    test("a condition variable is made of it: no notification is lost", async () => {
      await virtualTime(async (clock) => {
        const mutex = new Mutex();
        const waiters: (() => void)[] = [];
        const items: number[] = [];
        const take = () =>
          mutex.run(async () => {
            while (items.length === 0) {
              await mutex.unlockWhile(() => new Promise<void>((resolve) => waiters.push(resolve)));
            }
            return `${items.shift()} at ${clock.elapsed}`;
          });
        const put = (item: number) =>
          mutex.run(() => {
            items.push(item);
            waiters.shift()?.();
          });

        const taking = [take(), take()];
        await sleep(10);
        await put(1);
        await sleep(10);
        await put(2);

        expect(await Promise.all(taking)).toEqual(["1 at 10", "2 at 20"]);
        expect(mutex.locked).toBe(false);
      });
    });
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

  test("waiting() counts those in line for one key", async () => {
    const mutex = new KeyedMutex<string>();
    await Promise.all([mutex.lock("a"), mutex.lock("b")]);
    void mutex.lock("a");
    void mutex.lockAll(["a", "b"]);

    expect(["a", "b", "c"].map((key) => mutex.waiting(key))).toEqual([2, 1, 0]);
  });

  test("locked() and size forget who is aborted at once, also right after a grant", async () => {
    const mutex = new KeyedMutex<string>();
    const held = await mutex.lock("a");
    const { controller, listeners } = watchedController();
    const waiting = mutex.lock("a", { signal: controller.signal });

    held.release();
    expect(mutex.locked("a")).toBe(true);
    controller.abort("stop");

    expect([mutex.locked("a"), mutex.size, listeners()]).toEqual([false, 0, 0]);
    await expect(waiting).rejects.toBe("stop");
    expect(mutex.tryLock("a")).toBeDefined();
  });

  test("keys that were refused are not kept", async () => {
    const mutex = new KeyedMutex<string>();
    const wrong = undefined as unknown as () => void;

    await expect(mutex.run("a", wrong)).rejects.toThrow(TypeError);
    await expect(mutex.run("a", () => {}, { signal: AbortSignal.abort("stop") })).rejects.toBe(
      "stop",
    );

    expect(mutex.size).toBe(0);
  });

  test("tryLock() gets a key that is free, and not one that is held", () => {
    const mutex = new KeyedMutex<string>();

    const lock = mutex.tryLock("a");

    expect(mutex.locked("a")).toBe(true);
    expect(mutex.tryLock("a")).toBeUndefined();
    expect(mutex.tryLock("b")).toBeDefined();
    lock?.release();
    lock?.release();
    expect(mutex.locked("a")).toBe(false);
    expect(mutex.size).toBe(1);
  });

  test("a permit released twice does not unlock the next holder of the key", async () => {
    const mutex = new KeyedMutex<string>();
    const first = await mutex.lock("a");
    first.release();
    await mutex.lock("a");

    first.release();

    expect(mutex.locked("a")).toBe(true);
  });

  test("compares keys as Map does", async () => {
    const mutex = new KeyedMutex();
    const object = {};
    for (const key of [NaN, object, undefined, 0]) await mutex.lock(key);

    expect([NaN, object, {}, -0, "0"].map((key) => mutex.locked(key))).toEqual([
      true,
      true,
      false,
      true,
      false,
    ]);
  });

  test("with permits it lets in so many holders per key", async () => {
    await virtualTime(async (clock) => {
      const mutex = new KeyedMutex<string>(2);
      const task = (key: string) => mutex.run(key, () => sleep(100).then(() => clock.elapsed));

      const tasks = ["a", "a", "a", "b"].map(task);
      expect([mutex.size, mutex.waiting("a"), mutex.tryLock("a")]).toEqual([2, 1, undefined]);
      expect(["a", "b", "c"].map((key) => mutex.locked(key))).toEqual([true, false, false]);
      using other = mutex.tryLock("b");
      expect([other !== undefined, mutex.locked("b")]).toEqual([true, true]);

      expect(await Promise.all(tasks)).toEqual([100, 100, 200, 100]);
      other?.release();
      expect(mutex.size).toBe(0);
    });
  });

  describe("lockAll()", () => {
    test("holds all keys, and releases them together, once", async () => {
      const mutex = new KeyedMutex<string>();

      const locks = await mutex.lockAll(["a", "b", "a"]);

      expect([mutex.locked("a"), mutex.locked("b"), mutex.size]).toEqual([true, true, 2]);
      locks.release();
      expect(mutex.size).toBe(0);
      await mutex.lock("a");
      locks[Symbol.dispose]();
      expect(mutex.locked("a")).toBe(true);
    });

    test("does not deadlock, whatever the order of the keys", async () => {
      await virtualTime(async (clock) => {
        const mutex = new KeyedMutex<string>();
        const ended: string[] = [];
        const task = async (keys: string) => {
          using _locks = await mutex.lockAll([...keys]);
          await sleep(100);
          ended.push(`${keys} at ${clock.elapsed}`);
        };

        await Promise.all(["ab", "bc", "ca", "ba", "d"].map(task));

        expect(ended).toEqual(["ab at 100", "d at 100", "bc at 200", "ca at 300", "ba at 400"]);
        expect(mutex.size).toBe(0);
      });
    });

    test("waits in line with those who want a single key, and nobody overtakes it", async () => {
      const mutex = new KeyedMutex<string>();
      const held = await mutex.lock("b");
      const order: string[] = [];
      const all = mutex.lockAll(["a", "b"]).then((locks) => {
        order.push("all");
        locks.release();
      });
      const single = mutex.run("a", () => order.push("single"));
      await drain();
      expect(order).toEqual([]);

      held.release();
      await Promise.all([all, single]);

      expect(order).toEqual(["all", "single"]);
    });

    test("of no keys holds nothing and waits for nothing", async () => {
      const mutex = new KeyedMutex<string>();
      const locks = await mutex.lockAll([]);
      expect(mutex.size).toBe(0);
      locks.release();
    });

    test.each(["before it has any", "when it has some", "when it has all, in the same turn"])(
      "aborted %s, it keeps none and leaves no trace",
      async (when) => {
        const mutex = new KeyedMutex<string>();
        const { controller, listeners } = watchedController();
        const held = await mutex.lock("b");
        const locking = mutex.lockAll(["a", "b", "c"], { signal: controller.signal });
        const patient = mutex.lock("c");

        if (when !== "before it has any") await drain();
        if (when === "when it has all, in the same turn") held.release();
        controller.abort("stop");

        expect(mutex.locked("a")).toBe(false);
        expect(mutex.tryLock("a")).toBeDefined();
        expect(listeners()).toBe(0);
        await expect(locking).rejects.toBe("stop");
        (await patient).release();
        held.release();
        expect(mutex.size).toBe(1);
      },
    );

    test("aborted at any microtask, it holds all keys or none", async () => {
      const outcomes = new Set<string>();
      for (let microtasks = 0; microtasks < 12; microtasks++) {
        const mutex = new KeyedMutex<string>();
        const { controller, listeners } = watchedController();
        const locking = mutex.lockAll(["a", "b"], { signal: controller.signal });

        for (let n = 0; n < microtasks; n++) await Promise.resolve();
        controller.abort("stop");
        const outcome = await locking.then(
          () => "locked",
          (reason: string) => reason,
        );

        outcomes.add(outcome);
        const size = outcome === "locked" ? 2 : 0;
        expect({ microtasks, size: mutex.size }).toEqual({ microtasks, size });
        expect(listeners()).toBe(0);
      }
      expect([...outcomes]).toEqual(["stop", "locked"]);
    });

    test("aborted without being told, it keeps none", async () => {
      for (let microtasks = 0; microtasks < 6; microtasks++) {
        const mutex = new KeyedMutex<string>();
        const controller = new AbortController();
        controller.signal.addEventListener("abort", (event) => event.stopImmediatePropagation());
        const locking = mutex.lockAll(["a", "b"], { signal: controller.signal });

        for (let n = 0; n < microtasks; n++) await Promise.resolve();
        controller.abort("stop");
        const isLocked = await locking.then(
          () => true,
          () => false,
        );

        expect({ microtasks, size: mutex.size }).toEqual({ microtasks, size: isLocked ? 2 : 0 });
      }
    });

    test("listens no more once it has all, and keeps them when aborted later", async () => {
      const mutex = new KeyedMutex<string>();
      const { controller, listeners } = watchedController();

      const locks = await mutex.lockAll(["a", "b"], { signal: controller.signal });
      expect(listeners()).toBe(0);
      controller.abort("stop");

      expect(mutex.size).toBe(2);
      locks.release();
      expect(mutex.size).toBe(0);
    });

    test("aborted before, it takes nothing", async () => {
      const mutex = new KeyedMutex<string>();
      const signal = AbortSignal.abort("stop");

      const untouched = {
        [Symbol.iterator]() {
          throw new Error("called");
        },
      };
      await expect(mutex.lockAll(untouched, { signal })).rejects.toBe("stop");
      expect(mutex.size).toBe(0);

      const held = await mutex.lock("a");
      const waiting = mutex.lock("a");
      await expect(mutex.lockAll(["a"], { signal })).rejects.toBe("stop");
      held.release();
      (await waiting).release();
    });

    test("passes on what the keys throw, and has locked none", async () => {
      const mutex = new KeyedMutex<number>();
      const failing = function* () {
        yield 1;
        throw "failed";
      };

      await expect(mutex.lockAll(failing())).rejects.toBe("failed");

      expect(mutex.size).toBe(0);
    });
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
    "in 1,000 tokens of $limit per $interval ms it neither drifts nor exceeds its burst of $burst",
    async (options) => {
      await virtualTime(async (clock) => {
        const limiter = new RateLimiter(options);
        const times: number[] = [];
        for (let n = 0; n < 1000; n++) {
          await limiter.acquire();
          times.push(clock.elapsed);
        }

        const { limit, interval, burst } = options;
        const due = times.map((_, n) => Math.max(0, ((n + 1 - burst) * interval) / limit));
        expect(times.filter((time, n) => Math.abs(time - due[n]!) > 1e-3)).toEqual([]);
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

  test("waiting counts those in line", async () => {
    await virtualTime(async () => {
      const limiter = new RateLimiter({ limit: 1, interval: 1000 });
      const acquiring = [1, 2, 3].map(() => limiter.acquire());
      expect(limiter.waiting).toBe(2);

      await sleep(1000);
      expect(limiter.waiting).toBe(1);
      await Promise.all(acquiring);

      expect(limiter.waiting).toBe(0);
    });
  });

  test("tryAcquire() sees past aborted waiters that don't know it yet", async () => {
    await virtualTime(async () => {
      const limiter = new RateLimiter({ limit: 10, interval: 1000, burst: 2 });
      await limiter.acquire({ tokens: 2 });
      const controller = new AbortController();
      let taken = false;
      controller.signal.addEventListener("abort", () => (taken = limiter.tryAcquire()));
      const aborted = limiter.acquire({ tokens: 2, signal: controller.signal });
      await sleep(150);

      controller.abort("stop");

      expect(taken).toBe(true);
      await expect(aborted).rejects.toBe("stop");
    });
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

  test("aborted in the turn in which its tokens were there, it gives them back", async () => {
    const limiter = new RateLimiter({ limit: 1, interval: 1000 });
    const { controller, listeners } = watchedController();
    const acquiring = limiter.acquire({ signal: controller.signal });

    controller.abort("stop");

    expect(limiter.tryAcquire()).toBe(true);
    expect(listeners()).toBe(0);
    await expect(acquiring).rejects.toBe("stop");
  });

  test("those behind move up when one who wants much goes away", async () => {
    await virtualTime(async (clock) => {
      const limiter = new RateLimiter({ limit: 10, interval: 1000, burst: 10 });
      await limiter.acquire({ tokens: 10 });
      const controller = new AbortController();
      const big = limiter.acquire({ tokens: 9, signal: controller.signal });
      const small = limiter.acquire();
      await sleep(50);

      controller.abort("stop");

      await expect(big).rejects.toBe("stop");
      await small;
      expect(clock.elapsed).toBe(100);
    });
  });

  test("a newcomer goes on after those whose tokens came in the same turn", async () => {
    const limiter = new RateLimiter({ limit: 2, interval: 1000 });
    const order: string[] = [];
    const first = limiter.acquire({ tokens: 1 }).then(() => order.push("first"));

    const newcomer = limiter.acquire().then(() => order.push("newcomer"));
    await Promise.all([first, newcomer]);

    expect(order).toEqual(["first", "newcomer"]);
  });

  describe("maxWait", () => {
    test.each([
      { maxWait: 999, outcome: "TimeoutError at 0" },
      { maxWait: 1000, outcome: "served at 1000" },
      { maxWait: 0, outcome: "TimeoutError at 0" },
      { maxWait: Infinity, outcome: "served at 1000" },
    ])("of $maxWait ms, with one ahead that waits 500: $outcome", async ({ maxWait, outcome }) => {
      await virtualTime(async (clock) => {
        const limiter = new RateLimiter({ limit: 2, interval: 1000, burst: 1 });
        await limiter.acquire();
        const ahead = limiter.acquire();

        const result = await limiter.acquire({ maxWait }).then(
          () => "served",
          (error: Error) => error.name,
        );

        expect(`${result} at ${clock.elapsed}`).toBe(outcome);
        await ahead;
        await limiter.acquire();
        expect(clock.elapsed).toBe(result === "served" ? 1500 : 1000);
      });
    });

    test("says how long it would have been", async () => {
      await virtualTime(async () => {
        const limiter = new RateLimiter({ limit: 1, interval: 1000 });
        await limiter.acquire();

        await expect(limiter.acquire({ maxWait: 10 })).rejects.toThrow(
          "Cannot acquire RateLimiter: it would take 1000 ms, maxWait is 10",
        );
      });
    });

    test("of 0 is enough for tokens that are there", async () => {
      const limiter = new RateLimiter({ limit: 1, interval: 1000 });

      await limiter.acquire({ maxWait: 0 });

      expect(limiter.tryAcquire()).toBe(false);
    });
  });

  test("tokens tells what is there, with a fraction", async () => {
    await virtualTime(async () => {
      const limiter = new RateLimiter({ limit: 10, interval: 1000, burst: 2 });
      expect([limiter.tokens, limiter.burst]).toEqual([2, 2]);

      await limiter.acquire({ tokens: 2 });
      await sleep(150);
      expect(limiter.tokens).toBe(1.5);
      await sleep(1000);
      expect(limiter.tokens).toBe(2);
    });
  });

  describe("setLimit()", () => {
    test.each([
      { limit: 100, elapsed: 55 },
      { limit: 10, elapsed: 100 },
      { limit: 1, elapsed: 550 },
    ])("after half a token of 10/s, the other half comes at $limit/s", async (given) => {
      await virtualTime(async (clock) => {
        const limiter = new RateLimiter({ limit: 10, interval: 1000, burst: 1 });
        await limiter.acquire();
        const waiting = [limiter.acquire(), limiter.acquire()];
        await sleep(50);

        limiter.setLimit({ limit: given.limit, interval: 1000, burst: 1 });
        expect([limiter.tokens, clock.pending]).toEqual([0.5, 1]);
        await waiting[0];
        expect(clock.elapsed).toBe(given.elapsed);
        await waiting[1];
        expect(clock.elapsed).toBe(given.elapsed + 1000 / given.limit);
      });
    });

    test("keeps saved tokens, up to the new burst, and adds none", async () => {
      await virtualTime(async (clock) => {
        const limiter = new RateLimiter({ limit: 4, interval: 1000 });
        const steps: [burst: number, tokens: number][] = [
          [8, 4],
          [2, 2],
          [8, 2],
        ];
        for (const [burst, tokens] of steps) {
          limiter.setLimit({ limit: 8, interval: 1000, burst });
          expect([limiter.burst, limiter.tokens]).toEqual([burst, tokens]);
        }

        await limiter.acquire({ tokens: 8 });
        expect(clock.elapsed).toBe(750);
      });
    });

    test("refuses those in line who ask for more than the new burst, and serves the others", async () => {
      await virtualTime(async (clock) => {
        const limiter = new RateLimiter({ limit: 10, interval: 1000, burst: 3 });
        await limiter.acquire({ tokens: 2 });
        const { ready } = limiter.reserve({ tokens: 3 });
        const big = limiter.acquire({ tokens: 2 });
        const small = limiter.acquire();

        limiter.setLimit({ limit: 10, interval: 1000, burst: 1 });

        await small;
        expect(clock.elapsed).toBe(0);
        const message =
          "Cannot acquire RateLimiter: tokens must be at most its burst of 1, received ";
        await expect(ready).rejects.toEqual(new RangeError(`${message}3`));
        await expect(big).rejects.toEqual(new RangeError(`${message}2`));
      });
    });

    test("tokens given back afterwards count as they are now", async () => {
      await virtualTime(async (clock) => {
        const limiter = new RateLimiter({ limit: 10, interval: 1000, burst: 2 });
        const { cancel, ready } = limiter.reserve({ tokens: 2 });

        limiter.setLimit({ limit: 1, interval: 1000, burst: 2 });
        cancel();
        await expect(ready).rejects.toHaveProperty("name", "AbortError");

        await limiter.acquire({ tokens: 2 });
        expect(clock.elapsed).toBe(0);
      });
    });

    test("given nonsense, it changes nothing", () => {
      const limiter = createLimiter();

      expect(() => limiter.setLimit({ limit: 0, interval: 1 })).toThrow(
        "Cannot set RateLimiter: limit must be a positive integer, received 0",
      );

      expect([limiter.burst, limiter.tokens]).toEqual([2, 2]);
    });
  });

  describe("reserve()", () => {
    test("tells how long it takes, and takes so long", async () => {
      await virtualTime(async (clock) => {
        const limiter = new RateLimiter({ limit: 10, interval: 1000, burst: 2 });

        const reservations = [1, 2, 1].map((tokens) => limiter.reserve({ tokens }));

        expect(reservations.map(({ delay }) => delay)).toEqual([0, 100, 200]);
        for (const { delay, ready } of reservations) {
          await ready;
          expect(clock.elapsed).toBe(delay);
        }
      });
    });

    test("cancelled, it spends nothing, moves the others up and leaves no timer", async () => {
      await virtualTime(async (clock) => {
        const limiter = new RateLimiter({ limit: 1, interval: 1000 });
        await limiter.acquire();
        const reservation = limiter.reserve();
        const behind = limiter.acquire();

        reservation.cancel();
        reservation.cancel();
        await behind;

        expect(clock.elapsed).toBe(1000);
        await expect(reservation.ready).rejects.toMatchObject({
          name: "AbortError",
          message: "The reservation was cancelled",
        });
        const { delay, cancel } = limiter.reserve();
        expect([delay, clock.pending]).toEqual([1000, 1]);
        cancel();
        expect(clock.pending).toBe(0);
      });
    });

    test("cancelled in its turn it gives back its tokens, later it does nothing", async () => {
      const limiter = new RateLimiter({ limit: 2, interval: 1000 });

      limiter.reserve({ tokens: 2 }).cancel();
      const reservation = limiter.reserve();
      await reservation.ready;
      reservation.cancel();

      expect([limiter.tryAcquire(), limiter.tryAcquire()]).toEqual([true, false]);
    });

    test("cancelled again when others wait, it does not disturb them", async () => {
      await virtualTime(async (clock) => {
        const limiter = new RateLimiter({ limit: 1, interval: 1000 });
        await limiter.acquire();
        const reservation = limiter.reserve();
        const behind = limiter.acquire();
        reservation.cancel();
        await behind;
        const last = limiter.acquire();

        reservation.cancel();
        await last;

        expect(clock.elapsed).toBe(2000);
      });
    });

    test("waits behind those in line, and keeps newcomers behind it", async () => {
      await virtualTime(async () => {
        const limiter = new RateLimiter({ limit: 1, interval: 1000, burst: 2 });
        await limiter.acquire({ tokens: 2 });
        void limiter.acquire();

        expect(limiter.reserve({ tokens: 2 }).delay).toBe(3000);
        expect(limiter.reserve().delay).toBe(4000);
        await sleep(1500);
        expect(limiter.tryAcquire()).toBe(false);
      });
    });
  });

  describe("when the clock jumps", () => {
    test("back, as at the end of virtual time, it waits no longer than for an empty bucket", async () => {
      const limiter = new RateLimiter({ limit: 1, interval: 1000, burst: 2 });
      await virtualTime(async () => {
        await sleep(3_600_000);
        await limiter.acquire({ tokens: 2 });
      });

      await virtualTime(async (clock) => {
        await limiter.acquire();
        expect(clock.elapsed).toBe(1000);
        await limiter.acquire({ tokens: 2 });
        expect(clock.elapsed).toBe(3000);
      });
    });

    test("back, tokens that were saved are not lost for more than they take to come", async () => {
      const limiter = new RateLimiter({ limit: 1, interval: 1000, burst: 3 });
      await virtualTime(async () => {
        await sleep(2000);
        expect(limiter.tryAcquire({ tokens: 3 })).toBe(true);
      });

      await virtualTime(async (clock) => {
        await limiter.acquire();
        expect(clock.elapsed).toBe(1000);
      });
    });

    test("back with waiters in line, whose timer is gone, newcomers are served after them", async () => {
      const limiter = new RateLimiter({ limit: 1, interval: 1000 });
      const served: string[] = [];
      await virtualTime(async () => {
        await sleep(500);
        await limiter.acquire();
        void limiter.acquire().then(() => served.push("left over"));
        await sleep(500);
      });

      await virtualTime(async (clock) => {
        await limiter.acquire().then(() => served.push("newcomer"));
        expect(clock.elapsed).toBe(2000);
      });
      expect(served).toEqual(["left over", "newcomer"]);
    });

    test("forth, it has saved up no more than its burst", async () => {
      await virtualTime(async (clock) => {
        const limiter = new RateLimiter({ limit: 1, interval: 1000 });
        await limiter.acquire();
        using _jump = replaced(performance, "now", () => clock.elapsed + 3_600_000);

        expect([limiter.tryAcquire(), limiter.tryAcquire()]).toEqual([true, false]);
      });
    });
  });

  describe("when timers are late", () => {
    const late = 1.2;
    // As platforms do it: at least 1 ms, and some more.
    const isLate = () => {
      const { setTimeout: exact } = globalThis;
      const setLate = (callback: () => void, ms: number) => exact(callback, Math.max(1, ms) + 0.2);
      return replaced(globalThis, "setTimeout", setLate as typeof exact);
    };

    test.each([
      { burst: 2, calls: "one after the other" },
      { burst: 5, calls: "one after the other" },
      { burst: 100, calls: "one after the other" },
      { burst: 2, calls: "in a crowd" },
      { burst: 5, calls: "in a crowd" },
      { burst: 100, calls: "in a crowd" },
    ])(
      "keeps a rate of 10,000/s with a burst of $burst, $calls, and is early by no more than that",
      async ({ burst, calls }) => {
        await virtualTime(async (clock) => {
          using _late = isLate();
          const limiter = new RateLimiter({ limit: 10_000, interval: 1000, burst });
          const times: number[] = [];
          const acquire = () => limiter.acquire().then(() => times.push(clock.elapsed));
          if (calls === "in a crowd") await Promise.all(Array.from({ length: 1000 }, acquire));
          else for (let call = 0; call < 1000; call++) await acquire();

          const due = times.map((_, n) => Math.max(0, (n + 1 - burst) / 10));
          const early = times.filter((time, n) => time < due[n]! - 1e-6);
          const tooLate = times.filter((time, n) => time > due[n]! + late + 1e-6);
          expect({ early, tooLate }).toEqual({ early: [], tooLate: [] });
          // In no window more than the burst, what came in, and what came in while a timer was late.
          const spent = times.flatMap((from, first) =>
            times.slice(first, first + 200).map((to, n) => (n + 1 - burst) / 10 - (to - from)),
          );
          expect(spent.filter((ms) => ms > late + 1e-6)).toEqual([]);
        });
      },
    );

    test("with a burst of 1 it keeps its distance, and falls behind", async () => {
      await virtualTime(async (clock) => {
        using _late = isLate();
        const limiter = new RateLimiter({ limit: 10_000, interval: 1000, burst: 1 });
        for (let call = 0; call < 11; call++) await limiter.acquire();

        expect(clock.elapsed).toBeCloseTo(10 * late, 6);
      });
    });

    test("makes up for nothing where there was no timer", async () => {
      await virtualTime(async () => {
        const limiter = new RateLimiter({ limit: 1000, interval: 1000, burst: 2 });
        await limiter.acquire({ tokens: 2 });
        await limiter.acquire();
        await sleep(1000);

        await limiter.acquire({ tokens: 1 });
        await sleep(4);
        limiter.tryAcquire();

        expect([limiter.tryAcquire(), limiter.tryAcquire()]).toEqual([true, false]);
      });
    });

    test("makes up for no more than the timer was late", async () => {
      await virtualTime(async () => {
        const limiter = new RateLimiter({ limit: 1000, interval: 1000, burst: 2 });
        await limiter.acquire({ tokens: 2 });
        {
          using _late = isLate();
          await limiter.acquire();
        }
        await sleep(4);

        expect([1, 2, 3].map(() => limiter.tryAcquire())).toEqual([true, true, false]);
      });
    });

    test("makes up for nothing when the timer was on time", async () => {
      await virtualTime(async () => {
        const limiter = new RateLimiter({ limit: 1000, interval: 1000, burst: 2 });
        await limiter.acquire({ tokens: 2 });
        await limiter.acquire();
        await sleep(4);

        expect([1, 2, 3].map(() => limiter.tryAcquire())).toEqual([true, true, false]);
      });
    });

    test.each([
      { pause: 4, spent: 7 },
      { pause: 5, spent: 2 },
    ])("$pause ms after a timer that was very late, $spent can be spent", async (given) => {
      await virtualTime(async () => {
        const limiter = new RateLimiter({ limit: 1000, interval: 1000, burst: 2 });
        await limiter.acquire({ tokens: 2 });
        const { setTimeout: exact } = globalThis;
        const late = (callback: () => void) => exact(callback, 1000);
        {
          using _late = replaced(globalThis, "setTimeout", late as typeof exact);
          await limiter.acquire();
        }
        await sleep(given.pause);

        const calls = Array.from({ length: 10 }, () => limiter.tryAcquire());
        expect(calls.filter(Boolean)).toHaveLength(given.spent);
      });
    });

    test("by much, it makes up for 5 ms, and not again later", async () => {
      await virtualTime(async (clock) => {
        const limiter = new RateLimiter({ limit: 1000, interval: 1000, burst: 2 });
        const { setTimeout: exact } = globalThis;
        const atOnce = async () => {
          const from = clock.elapsed;
          let served = 0;
          const waiting = Array.from({ length: 50 }, () =>
            limiter.acquire().then(() => (served += clock.elapsed === from + 1000 ? 1 : 0)),
          );
          {
            using _late = replaced(globalThis, "setTimeout", ((callback: () => void) =>
              exact(callback, 1000)) as typeof exact);
            void limiter.acquire();
          }
          await Promise.all(waiting);
          return served;
        };

        expect(await atOnce()).toBe(7);
        await sleep(5);
        expect([1, 2, 3].map(() => limiter.tryAcquire())).toEqual([true, true, false]);
      });
    });
  });

  test("waits on when its timer is early", async () => {
    await virtualTime(async (clock) => {
      const { setTimeout: exact } = globalThis;
      const early = (callback: () => void, ms: number) => exact(callback, Math.trunc(ms));
      using _early = replaced(globalThis, "setTimeout", early as typeof exact);
      const limiter = new RateLimiter({ limit: 2, interval: 3, burst: 1 });
      await limiter.acquire();
      const waiting = limiter.acquire();
      await exactly(exact, 1);
      using _exact = replaced(globalThis, "setTimeout", exact);
      await waiting;

      expect(clock.elapsed).toBe(1.5);
    });
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

  test("activeCount and pendingCount change at once", async () => {
    const run = limit(1);
    const first = run(async () => {});
    const second = run(async () => {});

    expect([run.activeCount, run.pendingCount]).toEqual([1, 1]);

    await Promise.all([first, second]);
    expect([run.activeCount, run.pendingCount]).toEqual([0, 0]);
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
    await drain();

    controller.abort("stop");

    await expect(second).rejects.toBe("stop");
    await expect(run(() => "never")).rejects.toBe("stop");
    running.resolve("done");
    expect(await first).toBe("done");
  });

  test("concurrency can be raised: those in line start", async () => {
    await virtualTime(async (clock) => {
      const run = limit(1);
      const results = [1, 2, 3].map(() => run(sleep, 100));

      run.concurrency = 3;

      expect(run.concurrency).toBe(3);
      expect([run.activeCount, run.pendingCount]).toEqual([3, 0]);
      await Promise.all(results);
      expect(clock.elapsed).toBe(100);
    });
  });

  test("concurrency can be lowered: what runs goes on", async () => {
    await virtualTime(async (clock) => {
      const run = limit(3);
      const results = [1, 2, 3, 4, 5].map(() => run(sleep, 100));

      run.concurrency = 1;

      expect([run.activeCount, run.pendingCount]).toEqual([3, 2]);
      await Promise.all(results);
      expect(clock.elapsed).toBe(300);
    });
  });

  test("an infinite concurrency lets all run, and can be made finite", async () => {
    const run = limit(Infinity);
    const ended = Promise.withResolvers<void>();
    const results = Array.from({ length: 100 }, () => run(() => ended.promise));

    expect([run.concurrency, run.activeCount, run.pendingCount]).toEqual([Infinity, 100, 0]);
    run.concurrency = 1;
    results.push(run(() => {}));
    expect([run.activeCount, run.pendingCount]).toEqual([100, 1]);
    ended.resolve();
    await Promise.all(results);
    expect(run.activeCount).toBe(0);
  });

  test("clearQueue() rejects what waits with an AbortError, and lets run what runs", async () => {
    const run = limit(1);
    const running = Promise.withResolvers<string>();
    const called: string[] = [];
    const first = run(() => running.promise);
    const waiting = [2, 3].map((n) => run(() => called.push(`${n}`)));

    run.clearQueue();

    expect([run.activeCount, run.pendingCount]).toEqual([1, 0]);
    for (const result of await Promise.allSettled(waiting)) {
      expect(result).toHaveProperty("reason.name", "AbortError");
      expect(result).toHaveProperty("reason.message", "The queue was cleared");
    }
    running.resolve("done");
    expect(await first).toBe("done");
    expect(await run(() => "later")).toBe("later");
    expect(called).toEqual([]);
  });

  test("clearQueue() leaves no listeners of what waited, and what comes later is aborted", async () => {
    const { controller, listeners } = watchedController();
    const run = limit(1, { signal: controller.signal });
    const running = Promise.withResolvers<string>();
    const first = run(() => running.promise);
    await drain();

    for (let round = 0; round < 3; round++) {
      const waiting = [1, 2].map(() => run(() => "never"));
      expect(listeners()).toBe(1);
      run.clearQueue();
      expect(listeners()).toBe(0);
      for (const result of await Promise.allSettled(waiting)) {
        expect(result).toHaveProperty("reason.name", "AbortError");
      }
    }
    const later = run(() => "never");
    controller.abort("stop");

    await expect(later).rejects.toBe("stop");
    expect([run.activeCount, run.pendingCount, listeners()]).toEqual([1, 0, 0]);
    running.resolve("done");
    expect(await first).toBe("done");
  });

  test("clearQueue() of nothing does nothing", async () => {
    const run = limit(1);
    run.clearQueue();
    expect(await run(() => "fine")).toBe("fine");
  });

  test("does not call a function whose signal was aborted in the same turn", async () => {
    const { controller, listeners } = watchedController();
    const run = limit(1, { signal: controller.signal });
    const called: string[] = [];
    const call = run(() => called.push("called"));

    controller.abort("stop");

    await expect(call).rejects.toBe("stop");
    expect(called).toEqual([]);
    expect([run.activeCount, listeners()]).toEqual([0, 0]);
  });

  describe("map()", () => {
    test("calls the function with item and index, so many at once, results in order", async () => {
      await virtualTime(async (clock) => {
        const run = limit(2);
        const results = await run.map(new Set([30, 10, 20]), async (ms, index) => {
          await sleep(ms);
          return `${index}: ${ms} at ${clock.elapsed}`;
        });

        expect(results).toEqual(["0: 30 at 30", "1: 10 at 10", "2: 20 at 30"]);
        expect(await run.map([], () => "never")).toEqual([]);
        expect(await limit(1, {}).map([1, 2], (n) => 2 * n)).toEqual([2, 4]);
      });
    });

    test("shares the limit with other calls", async () => {
      await virtualTime(async (clock) => {
        const run = limit(1);
        await Promise.all([run(sleep, 100), run.map([100, 100], sleep), run(sleep, 100)]);
        expect(clock.elapsed).toBe(400);
      });
    });

    test("after a failure it calls no more, waits for what runs, and keeps the first error", async () => {
      await virtualTime(async (clock) => {
        const run = limit(2);
        const called: number[] = [];
        const mapping = run.map([1, 2, 3, 4], async (n) => {
          called.push(n);
          await sleep(100 * n);
          throw `failed ${n}`;
        });

        await expect(mapping).rejects.toBe("failed 1");

        expect(clock.elapsed).toBe(200);
        expect(called).toEqual([1, 2]);
        expect(run.activeCount).toBe(0);
      });
    });

    test("drops holds with its results: they are released", async () => {
      const mutexes = [new Mutex(), new Mutex()];
      const mapping = limit(3).map([...mutexes, undefined], (mutex) => {
        if (!mutex) throw "failed";
        return mutex.lock();
      });

      await expect(mapping).rejects.toBe("failed");
      await drain();

      expect(mutexes.map(({ locked }) => locked)).toEqual([false, false]);
    });

    test("passes on what the items throw, after those that were called have ended", async () => {
      await virtualTime(async (clock) => {
        const items = function* () {
          yield 100;
          throw "failed";
        };

        await expect(limit(1).map(items(), sleep)).rejects.toBe("failed");

        expect(clock.elapsed).toBe(0);
      });
    });

    test("aborted, it calls and pulls no more, and waits for what runs", async () => {
      await virtualTime(async (clock) => {
        const controller = new AbortController();
        const run = limit(1, { signal: controller.signal });
        const called: number[] = [];
        const mapping = run.map([1, 2, 3], async (n) => {
          called.push(n);
          await sleep(100);
        });
        await sleep(50);

        controller.abort("stop");

        await expect(mapping).rejects.toBe("stop");
        expect(clock.elapsed).toBe(100);
        expect(called).toEqual([1]);
        const untouched = {
          [Symbol.iterator]() {
            throw new Error("called");
          },
        };
        await expect(run.map(untouched, () => {})).rejects.toBe("stop");
      });
    });

    test("aborted by its items, it pulls no more", async () => {
      const controller = new AbortController();
      const pulled: number[] = [];
      const items = function* () {
        for (let n = 1; n <= 3; n++) {
          if (n === 2) controller.abort("stop");
          pulled.push(n);
          yield n;
        }
      };

      const mapping = limit(1, { signal: controller.signal }).map(items(), () => "never");

      await expect(mapping).rejects.toBe("stop");
      expect(pulled).toEqual([1, 2]);
    });

    test("is rejected by clearQueue()", async () => {
      const run = limit(1);
      const mapping = run.map([1, 2], async () => {});

      run.clearQueue();

      await expect(mapping).rejects.toHaveProperty("name", "AbortError");
    });
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

  test("keeps this, name and length", async () => {
    class Account {
      balance = 1;
      constructor() {
        this.deposit = limited(this.deposit, 1);
      }
      async deposit(amount: number, _memo: string): Promise<number> {
        return (this.balance += amount);
      }
    }
    const account = new Account();

    expect(await account.deposit(2, "gift")).toBe(3);
    expect([account.deposit.name, account.deposit.length]).toEqual(["deposit", 2]);
  });

  test("has the controls of limit()", async () => {
    const running = Promise.withResolvers<void>();
    const wait = limited(() => running.promise, 1);
    const first = wait();
    const second = wait();

    expect([wait.activeCount, wait.pendingCount, wait.concurrency]).toEqual([1, 1, 1]);
    wait.clearQueue();
    await expect(second).rejects.toHaveProperty("name", "AbortError");
    wait.concurrency = 2;
    const third = wait();
    expect([wait.activeCount, wait.pendingCount, wait.concurrency]).toEqual([2, 0, 2]);
    running.resolve();
    await Promise.all([first, third]);
  });
});

describe("in every order", () => {
  const minutes = 120_000;

  const locks: { name: string; permits: number; make: () => Lock }[] = [
    { name: "Semaphore.acquire()", permits: 2, make: () => lockBySemaphore(false) },
    { name: "Semaphore.run()", permits: 2, make: () => lockBySemaphore(true) },
    {
      name: "Mutex.lock()",
      permits: 1,
      make() {
        const mutex = new Mutex();
        return {
          take: () => mutex.tryLock()!,
          async hold(work, { signal }) {
            // Without options it is locked in a quicker way, if nobody is there.
            using _lock = await mutex.lock(signal && { signal });
            await work();
          },
          left: () => Number(mutex.locked) + mutex.waiting,
        };
      },
    },
    {
      name: "Mutex.run()",
      permits: 1,
      make() {
        const mutex = new Mutex();
        return {
          take: () => mutex.tryLock()!,
          hold: (work, { signal }) => mutex.run(unlessAborted(work, signal), { signal }),
          left: () => Number(mutex.locked) + mutex.waiting,
        };
      },
    },
    {
      name: "KeyedMutex.run()",
      permits: 1,
      make() {
        const mutex = new KeyedMutex<string>();
        return {
          take: () => mutex.tryLock("key")!,
          hold: (work, { keys, signal }) =>
            mutex.run(keys[0]!, unlessAborted(work, signal), { signal }),
          left: () => mutex.size,
        };
      },
    },
    {
      name: "KeyedMutex.lockAll()",
      permits: 1,
      make() {
        const mutex = new KeyedMutex<string>();
        return {
          take: () => mutex.tryLock("key")!,
          async hold(work, { keys, signal }) {
            using _locks = await mutex.lockAll(keys, { signal });
            await work();
          },
          left: () => mutex.size,
        };
      },
    },
  ];

  test.each(locks)(
    "$name: a release meets an abort, and the next is served",
    async ({ permits, make }) => {
      await everyOrder(async (world) => {
        const { take, hold, left } = make();
        const { visit, guest, wrong } = visitors(world, hold, () => permits);
        const signal = abortable(world);
        const leave = guest("holder", take(), permits);
        const holder = world.spawn("holder", leave);
        await Promise.all([holder, visit("ann", { signal, weight: permits }), visit("bob")]);

        expect([wrong, left()]).toEqual([[], 0]);
      });
    },
    minutes,
  );

  test.each(locks)(
    "$name: two share a signal, and the holder comes again at once",
    async ({ permits, make }) => {
      await everyOrder(async (world) => {
        const { take, hold, left } = make();
        const { visit, come, guest, wrong } = visitors(world, hold, () => permits);
        const signal = abortable(world);
        const leave = guest("holder", take(), permits);
        const holder = world.spawn("holder", () => {
          leave();
          return come("holder");
        });
        await Promise.all([holder, visit("ann", { signal }), visit("bob", { signal })]);

        expect([wrong, left()]).toEqual([[], 0]);
      });
    },
    minutes,
  );

  test(
    "Semaphore: who needs few permits doesn't overtake who needs many",
    async () => {
      await everyOrder(async (world) => {
        const { hold, left } = lockBySemaphore(false);
        const { visit, wrong } = visitors(world, hold, () => 2);
        await Promise.all([visit("ann"), visit("bob", { weight: 2 }), visit("cid")]);

        expect([wrong, left()]).toEqual([[], 0]);
      });
    },
    minutes,
  );

  test.each([
    { from: 2, to: 1, weight: 2 },
    { from: 1, to: 2, weight: 1 },
  ])(
    "Semaphore.resize() from $from to $to: what is lent stays lent, who asks for too many is told",
    async ({ from, to, weight }) => {
      await everyOrder(async (world) => {
        const semaphore = new Semaphore(from);
        const hold: Hold = (work, { keys: _, ...options }) => semaphore.run(work, options);
        const { visit, look, wrong } = visitors(world, hold, () => semaphore.permits);
        const signal = abortable(world);
        const accepts = (error: unknown) => error instanceof RangeError && weight > to;
        await Promise.all([
          world.spawn("owner", () => {
            semaphore.resize(to);
            return look();
          }),
          visit("ann", { signal }),
          visit("bob", { weight, accepts }),
          visit("cid"),
        ]);

        expect([wrong, [semaphore.available, semaphore.waiting]]).toEqual([[], [to, 0]]);
      });
    },
    minutes,
  );

  test(
    "Semaphore.tryAcquire(): never past a waiter",
    async () => {
      await everyOrder(async (world) => {
        const semaphore = new Semaphore(2);
        const hold: Hold = (work, { keys: _, ...options }) => semaphore.run(work, options);
        const { visit, guest, wrong, waiting } = visitors(world, hold, () => 2);
        const signal = abortable(world);
        const taker = world.spawn("taker", async () => {
          const ahead = waiting();
          const permit = semaphore.tryAcquire();
          if (!permit) return;
          if (ahead.length > 0) wrong.push(`the taker overtakes ${ahead.join()}`);
          const leave = guest("taker", permit);
          await world.step("take");
          leave();
        });
        await Promise.all([taker, visit("ann"), visit("bob", { weight: 2, signal })]);

        expect([wrong, [semaphore.available, semaphore.waiting]]).toEqual([[], [2, 0]]);
      });
    },
    minutes,
  );

  test(
    "Semaphore.idle(): all who came before have left, or it is aborted and takes nothing",
    async () => {
      await everyOrder(async (world) => {
        const semaphore = new Semaphore(1);
        const hold: Hold = (work, { signal }) => semaphore.run(work, { signal });
        const { visit, wrong, present } = visitors(world, hold, () => 1);
        const signal = abortable(world);
        const idler = world.spawn("idler", async () => {
          const before = present();
          await semaphore.idle({ signal });
          const still = before.filter((name) => present().includes(name));
          if (still.length > 0) wrong.push(`idle while ${still.join()} is there`);
        });
        const idle = idler.catch((error) => {
          if (error !== signal.reason) throw error;
        });
        await Promise.all([idle, visit("ann"), visit("bob", { signal })]);

        expect([wrong, [semaphore.available, semaphore.waiting]]).toEqual([[], [1, 0]]);
      });
    },
    minutes,
  );

  test.each([{ releasesEarly: false }, { releasesEarly: true }])(
    "Mutex.unlockWhile(): others come in meanwhile, never two at once; released early: $releasesEarly",
    async ({ releasesEarly }) => {
      await everyOrder(async (world) => {
        const mutex = new Mutex();
        const hold: Hold = async (work, { signal }) => {
          using _lock = await mutex.lock({ signal });
          await work();
        };
        const { visit, wrong, inside } = visitors(world, hold, () => 1, { isEager: false });
        const signal = releasesEarly ? undefined : abortable(world);
        const ann = world.spawn("ann", async () => {
          const permit = await mutex.lock();
          const apart = mutex.unlockWhile(() => world.step("apart"));
          if (releasesEarly) permit.release();
          await apart;
          if (!releasesEarly && inside().length > 0) wrong.push(`${inside().join()} is inside`);
          permit.release();
        });
        await Promise.all([ann, visit("bob"), visit("cid", { signal })]);

        expect([wrong, [mutex.locked, mutex.waiting]]).toEqual([[], [false, 0]]);
      });
    },
    minutes,
  );

  test(
    "KeyedMutex.lockAll(): three philosophers with three forks, one of whom gives up",
    async () => {
      await everyOrder(async (world) => {
        const forks = new KeyedMutex<number>();
        const hold: Hold = async (work, { keys, signal }) => {
          using _forks = await forks.lockAll(keys.map(Number), { signal });
          await work();
        };
        const { visit, wrong } = visitors(world, hold, () => 1);
        const signal = abortable(world);
        await Promise.all([
          visit("plato", { keys: ["0", "1"] }),
          visit("kant", { keys: ["1", "2"], signal }),
          visit("hume", { keys: ["2", "0"] }),
        ]);

        expect([wrong, forks.size]).toEqual([[], 0]);
      });
    },
    minutes,
  );

  test.each([1, 2])(
    "RateLimiter with a burst of %i: nobody before the tokens are there, nobody later",
    async (burst) => {
      await everyOrder(async (world) => {
        const limiter = new RateLimiter({ limit: 1, interval: 100, burst });
        const bucket = referenceBucket(burst);
        const hold: Hold = async (work, { weight, signal }) => {
          const came = performance.now();
          await limiter.acquire({ tokens: weight, signal });
          bucket.spend(came, weight);
          await work();
        };
        const { visit, wrong } = visitors(world, hold);
        const signal = abortable(world);
        signal.addEventListener("abort", () => bucket.left());
        await Promise.all([visit("ann"), visit("bob", { weight: burst, signal }), visit("cid")]);

        expect([...wrong, ...bucket.wrong]).toEqual([]);
        expect([limiter.waiting, limiter.tokens]).toEqual([0, bucket.tokens()]);
      });
    },
    minutes,
  );

  test(
    "RateLimiter.tryAcquire(): never past a waiter",
    async () => {
      await everyOrder(async (world) => {
        const limiter = new RateLimiter({ limit: 1, interval: 100, burst: 2 });
        const hold: Hold = async (work, { weight, signal }) => {
          await limiter.acquire({ tokens: weight, signal });
          await work();
        };
        const { visit, wrong, waiting } = visitors(world, hold);
        const taker = world.spawn("taker", async () => {
          await sleep(100);
          const ahead = waiting();
          if (limiter.tryAcquire() && ahead.length > 0) {
            wrong.push(`the taker overtakes ${ahead.join()}`);
          }
        });
        const signal = abortable(world);
        await Promise.all([
          taker,
          visit("ann", { weight: 2 }),
          visit("bob", { weight: 2, signal }),
        ]);

        expect([wrong, limiter.waiting]).toEqual([[], 0]);
      });
    },
    minutes,
  );

  test(
    "RateLimiter.reserve(): a cancelled place is given to those behind, at once",
    async () => {
      await everyOrder(async (world) => {
        const limiter = new RateLimiter({ limit: 1, interval: 100, burst: 2 });
        const bucket = referenceBucket(2);
        const hold: Hold = async (work, { weight, signal }) => {
          const came = performance.now();
          const reservation = limiter.reserve({ tokens: weight });
          signal?.addEventListener("abort", reservation.cancel);
          await reservation.ready;
          bucket.spend(came, weight);
          await work();
        };
        const { visit, wrong } = visitors(world, hold);
        const controller = new AbortController();
        const { signal } = controller;
        signal.addEventListener("abort", () => bucket.left());
        await Promise.all([
          visit("ann", { weight: 2 }),
          visit("bob", { weight: 2, signal, accepts: isAbortError }),
          visit("cid"),
          world.spawn("leaver", () => controller.abort()),
        ]);

        expect([...wrong, ...bucket.wrong]).toEqual([]);
        expect([limiter.waiting, limiter.tokens]).toEqual([0, bucket.tokens()]);
      });
    },
    minutes,
  );

  test.each(["abort", "clearQueue()", "concurrency = 2"])(
    "limit: what runs goes on, %s decides over what waits",
    async (event) => {
      await everyOrder(async (world) => {
        const controller = new AbortController();
        const { signal } = controller;
        if (event === "abort") world.abort(controller);
        const run = limit(1, { signal });
        const { visit, wrong } = visitors(
          world,
          (work) => run(work),
          () => run.concurrency,
        );
        const accepts = (error: unknown) =>
          event === "abort" ? error === signal.reason : isAbortError(error);
        const owner = world.spawn("owner", () => {
          if (event === "clearQueue()") run.clearQueue();
          else if (event === "concurrency = 2") run.concurrency = 2;
        });
        const names = ["ann", "bob", "cid"];
        await Promise.all([owner, ...names.map((name) => visit(name, { accepts }))]);

        expect([wrong, [run.activeCount, run.pendingCount]]).toEqual([[], [0, 0]]);
      });
    },
    minutes,
  );

  test(
    "limit.map(): after a failure or an abort nothing is called, and nothing is left running",
    async () => {
      await everyOrder(async (world) => {
        const signal = abortable(world);
        const run = limit(2, { signal });
        const wrong: string[] = [];
        const errors: unknown[] = [];
        let running = 0;
        const fn = async (item: string) => {
          if (++running > 2) wrong.push(`${item} is one too many`);
          if (signal.aborted) wrong.push(`${item} is called after the abort`);
          if (errors.length > 0) wrong.push(`${item} is called after a failure`);
          try {
            await world.step(item, { fails: item });
            return item;
          } catch (error) {
            errors.push(error);
            throw error;
          } finally {
            running--;
          }
        };
        const items = ["a", "b", "c"];
        const [outcome] = await Promise.allSettled([run.map(items, fn)]);

        expect([wrong, [running, run.activeCount, run.pendingCount]]).toEqual([[], [0, 0, 0]]);
        if (outcome.status === "fulfilled") expect(outcome.value).toEqual(items);
        else expect([errors[0], signal.reason]).toContain(outcome.reason);
      });
    },
    minutes,
  );
});

describe("as a lock", () => {
  type Hold = <T>(fn: () => Promise<T>) => Promise<T>;
  const by =
    (lock: () => Promise<Permit>): Hold =>
    async (fn) => {
      using _permit = await lock();
      return await fn();
    };

  const locks: [name: string, create: () => Hold][] = [
    ["Semaphore.acquire", (semaphore = new Semaphore(1)) => by(() => semaphore.acquire())],
    [
      "Semaphore.run",
      (semaphore = new Semaphore(1)) =>
        (fn) =>
          semaphore.run(fn),
    ],
    ["Mutex.lock", (mutex = new Mutex()) => by(() => mutex.lock())],
    [
      "Mutex.run",
      (mutex = new Mutex()) =>
        (fn) =>
          mutex.run(fn),
    ],
    ["KeyedMutex.lock", (keyed = new KeyedMutex()) => by(() => keyed.lock("key"))],
    ["KeyedMutex.lockAll", (keyed = new KeyedMutex()) => by(() => keyed.lockAll(["a", "b"]))],
    [
      "KeyedMutex.run",
      (keyed = new KeyedMutex()) =>
        (fn) =>
          keyed.run("key", fn),
    ],
    [
      "limit",
      (run = limit(1)) =>
        (fn) =>
          run(fn),
    ],
  ];

  test.each(locks)("%s: one is inside, and those who come again take turns", async (_, create) => {
    const hold = create();
    const turns: number[] = [];
    let inside = 0;
    const work = async (n: number) => {
      for (let round = 0; round < 5; round++) {
        await hold(async () => {
          expect(++inside).toBe(1);
          turns.push(n);
          await undefined;
          inside--;
        });
      }
    };

    await Promise.all([1, 2, 3, 4].map(work));

    expect(turns.join("")).toBe("1234".repeat(5));
  });
});

describe("an abort meets the wake-up", () => {
  /** Where callers wait, and what wakes them. */
  interface Place {
    /** Calls `letIn` as soon as the caller is in, who goes again soon. */
    enter(letIn: () => void, signal: AbortSignal): Promise<unknown>;
    wake(): unknown;
    waiting(): number;
    /** What is taken, apart from what was before. */
    taken(served: number): number;
  }
  const stay = async (entering: PromiseLike<Disposable>, letIn: () => void) => {
    using _permit = await entering;
    letIn();
    await Promise.resolve();
  };
  const bySemaphore = (
    permits: number,
    weights: number[],
    method: "acquire" | "run",
    wake: (semaphore: Semaphore, held: Permit[], head: AbortController) => void,
  ): Place => {
    const semaphore = new Semaphore(permits);
    const held = weights.map((weight) => semaphore.tryAcquire({ weight })!);
    // With places left, one who wants all of them keeps the others from being let in.
    const head = new AbortController();
    if (semaphore.available > 0) {
      void semaphore.acquire({ weight: permits, signal: head.signal }).catch(() => {});
    }
    let left = 0;
    return {
      enter: (letIn, signal) =>
        method === "run"
          ? semaphore.run(letIn, { signal })
          : stay(semaphore.acquire({ signal }), letIn),
      wake: () => {
        wake(semaphore, held, head);
        left = held.length;
      },
      waiting: () => semaphore.waiting,
      taken: () => semaphore.permits - semaphore.available - left,
    };
  };
  const release = (_: Semaphore, held: Permit[]) => {
    for (const permit of held.splice(0)) permit.release();
  };
  const byMutex = (
    method: "lock" | "run",
    wake: (mutex: Mutex, held: Permit) => unknown,
    left = 0,
  ): Place => {
    const mutex = new Mutex();
    const held = mutex.tryLock()!;
    return {
      enter: (letIn, signal) =>
        method === "run" ? mutex.run(letIn, { signal }) : stay(mutex.lock({ signal }), letIn),
      wake: () => wake(mutex, held),
      waiting: () => mutex.waiting,
      taken: () => Number(mutex.locked) - left,
    };
  };
  const byKey = (method: "lock" | "run" | "lockAll"): Place => {
    const mutex = new KeyedMutex<string>();
    const held = mutex.tryLock("a")!;
    return {
      enter: (letIn, signal) =>
        method === "run"
          ? mutex.run("a", letIn, { signal })
          : stay(
              method === "lock"
                ? mutex.lock("a", { signal })
                : mutex.lockAll(["b", "a", "c"], { signal }),
              letIn,
            ),
      wake: () => held.release(),
      waiting: () => mutex.waiting("a"),
      taken: () => mutex.size,
    };
  };
  const byTokens = (wake: (limiter: RateLimiter, head: Reservation) => void): Place => {
    const limiter = new RateLimiter({ limit: 4, interval: 1e9 });
    limiter.tryAcquire();
    const head = limiter.reserve({ tokens: 4 });
    return {
      enter: (letIn, signal) => limiter.acquire({ signal }).then(letIn),
      wake: () => wake(limiter, head),
      waiting: () => limiter.waiting,
      taken: (served) => 3 - served - Math.floor(limiter.tokens),
    };
  };
  const places: [name: string, create: () => Place][] = [
    ["Semaphore.acquire, by a release", () => bySemaphore(1, [1], "acquire", release)],
    ["Semaphore.acquire, by several releases", () => bySemaphore(3, [1, 2], "acquire", release)],
    ["Semaphore.run, by several releases", () => bySemaphore(3, [1, 1, 1], "run", release)],
    ["Semaphore.acquire, by a resize", () => bySemaphore(1, [1], "acquire", (it) => it.resize(3))],
    ["Semaphore.run, by a resize", () => bySemaphore(1, [1], "run", (it) => it.resize(9))],
    [
      "Semaphore.acquire, by an abort ahead",
      () => bySemaphore(2, [1], "acquire", (_, __, head) => head.abort()),
    ],
    [
      "Semaphore.run, by an abort ahead",
      () => bySemaphore(4, [1], "run", (_, __, head) => head.abort()),
    ],
    [
      "Semaphore.run, by a refusal ahead",
      () => bySemaphore(3, [1], "run", (semaphore) => semaphore.resize(2)),
    ],
    [
      "Semaphore.idle, by a release",
      () => {
        const semaphore = new Semaphore(1);
        const held = semaphore.tryAcquire()!;
        return {
          enter: (letIn, signal) => semaphore.idle({ signal }).then(letIn),
          wake: held.release,
          waiting: () => NaN,
          taken: () => semaphore.permits - semaphore.available,
        };
      },
    ],
    ["Mutex.lock, by a release", () => byMutex("lock", (_, held) => held.release())],
    ["Mutex.run, by a release", () => byMutex("run", (_, held) => held.release())],
    ["Mutex.lock, by unlockWhile", () => byMutex("lock", (it) => it.unlockWhile(() => {}), 1)],
    ["Mutex.run, by unlockWhile", () => byMutex("run", (it) => it.unlockWhile(() => {}), 1)],
    ["KeyedMutex.lock, by a release", () => byKey("lock")],
    ["KeyedMutex.run, by a release", () => byKey("run")],
    ["KeyedMutex.lockAll, by a release", () => byKey("lockAll")],
    ["RateLimiter.acquire, by a cancel ahead", () => byTokens((_, head) => head.cancel())],
    [
      "RateLimiter.acquire, by a refusal ahead",
      () => byTokens((limiter) => limiter.setLimit({ limit: 3, interval: 1e9 })),
    ],
  ];
  const moments = [-3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9];

  describe.each(places)("%s", (name, create) => {
    test.each(["first", "middle", "last"])("%s in line", async (who) => {
      for (const moment of moments) {
        const place = create();
        const callers = ["first", "middle", "last"].map((caller) => ({
          caller,
          ...watchedController(),
        }));
        const { controller } = callers.find(({ caller }) => caller === who)!;
        const order: string[] = [];
        const dead: string[] = [];
        if (moment === -3) controller.abort("stop");
        const entering = callers.map(({ caller, controller: { signal } }) =>
          place.enter(() => {
            order.push(caller);
            if (signal.aborted) dead.push(caller);
          }, signal),
        );
        const others = place.waiting() - (moment === -2 ? 1 : 0);
        await drain();
        if (moment === -2) controller.abort("stop");
        if (moment < -1) {
          expect(place.waiting()).toBe(others);
          const entered = entering[callers.findIndex(({ caller }) => caller === who)]!;
          expect(await Promise.race([entered.catch(String), drain()])).toBe("stop");
        }
        if (moment === -1) controller.abort("stop");
        const waking = place.wake();
        for (let n = 0; n < moment; n++) await Promise.resolve();
        if (moment >= 0) controller.abort("stop");
        const results = await Promise.allSettled(entering);
        await waking;

        // Once it has been let in, an abort changes nothing.
        const isLetIn = moment > 0 && order.includes(who);
        const served = callers.filter(({ caller }) => isLetIn || caller !== who);
        expect({ moment, order }).toEqual({ moment, order: served.map(({ caller }) => caller) });
        expect(results).toEqual(
          callers.map(({ caller }) =>
            isLetIn || caller !== who
              ? { status: "fulfilled", value: undefined }
              : { status: "rejected", reason: "stop" },
          ),
        );
        if (name.includes("run")) expect(dead).toEqual([]);
        expect(callers.map(({ listeners }) => listeners())).toEqual([0, 0, 0]);
        expect([place.taken(order.length), place.waiting() || 0]).toEqual([0, 0]);
      }
    });
  });
});

describe("an abort meets a refusal: what comes first decides", () => {
  const refusals: [
    name: string,
    (signal: AbortSignal) => { wait: Promise<unknown>; refuse(): void },
  ][] = [
    [
      "Semaphore.resize",
      (signal) => {
        const semaphore = new Semaphore(2);
        semaphore.tryAcquire();
        const wait = semaphore.acquire({ weight: 2, signal });
        return { wait, refuse: () => semaphore.resize(1) };
      },
    ],
    [
      "RateLimiter.setLimit",
      (signal) => {
        const limiter = createLimiter({ limit: 2 });
        limiter.tryAcquire();
        const wait = limiter.acquire({ tokens: 2, signal });
        return { wait, refuse: () => limiter.setLimit({ limit: 1, interval: 1000 }) };
      },
    ],
    [
      "limit's clearQueue",
      (signal) => {
        const run = limit(1, { signal });
        void run(() => new Promise(() => {})).catch(() => {});
        return { wait: run(() => {}), refuse: () => run.clearQueue() };
      },
    ],
  ];

  test.each(refusals)("%s", async (_name, create) => {
    for (const isAbortFirst of [true, false]) {
      const { controller, listeners } = watchedController();
      const { wait, refuse } = create(controller.signal);
      const outcome = wait.catch((reason: unknown) => (reason === "stop" ? "aborted" : "refused"));

      if (isAbortFirst) controller.abort("stop");
      refuse();
      controller.abort("stop");

      expect(await outcome).toBe(isAbortFirst ? "aborted" : "refused");
      expect(listeners()).toBe(0);
    }
  });
});

describe("console.log", () => {
  const shown: [text: string, create: () => object][] = [
    ['Semaphore {"permits":2,"available":2,"waiting":0}', () => new Semaphore(2)],
    [
      'Semaphore {"permits":1,"available":0,"waiting":1}',
      () => {
        const semaphore = new Semaphore(1);
        void Promise.all([semaphore.acquire(), semaphore.acquire()]);
        return semaphore;
      },
    ],
    ['Mutex {"locked":false,"waiting":0}', () => new Mutex()],
    [
      'KeyedMutex {"size":1}',
      () => {
        const mutex = new KeyedMutex<string>();
        mutex.tryLock("a");
        return mutex;
      },
    ],
    ['RateLimiter {"tokens":2,"burst":2,"waiting":0}', () => createLimiter()],
    ["[Mutex]", () => new Mutex()],
    ["Mutex", () => Mutex.prototype],
  ];
  test.each(shown)("shows %s", (text, create) => {
    const object = create() as Record<symbol, (...args: unknown[]) => string>;
    const depth = text.startsWith("[") ? -1 : 2;

    expect(object[Symbol.for("nodejs.util.inspect.custom")]!(depth, {}, JSON.stringify)).toBe(text);
  });
});

describe("whatever runs a function", () => {
  const forms: {
    name: string;
    create: () => {
      run: (fn: () => unknown, signal?: AbortSignal) => Promise<unknown>;
      isFree: () => boolean;
    };
  }[] = [
    {
      name: "Semaphore.run",
      create: () => {
        const semaphore = new Semaphore(1);
        return {
          run: (fn, signal) => semaphore.run(fn, { signal }),
          isFree: () => semaphore.available === 1 && semaphore.waiting === 0,
        };
      },
    },
    {
      name: "Mutex.run",
      create: () => {
        const mutex = new Mutex();
        return {
          run: (fn, signal) => mutex.run(fn, { signal }),
          isFree: () => !mutex.locked,
        };
      },
    },
    {
      name: "KeyedMutex.run",
      create: () => {
        const mutex = new KeyedMutex();
        return {
          run: (fn, signal) => mutex.run("key", fn, { signal }),
          isFree: () => mutex.size === 0,
        };
      },
    },
    {
      name: "limit",
      create: () => {
        const runs = limit(1);
        return {
          run: (fn, signal) => (signal ? limited(fn, 1, { signal })() : runs(fn)),
          isFree: () => runs.activeCount === 0 && runs.pendingCount === 0,
        };
      },
    },
  ];

  describe.each(forms)("$name", ({ create }) => {
    test("does not call it when it was free and is aborted in the same turn", async () => {
      const { run, isFree } = create();
      const { controller, listeners } = watchedController();
      const called: string[] = [];
      const running = run(() => called.push("aborted"), controller.signal);
      const next = run(() => called.push("next"));

      controller.abort("stop");

      expect(listeners()).toBe(0);
      await expect(running).rejects.toBe("stop");
      await next;
      expect(called).toEqual(["next"]);
      expect(isFree()).toBe(true);
    });

    test("is not disturbed by an abort while the function runs, and listens no more", async () => {
      const { run, isFree } = create();
      const { controller, listeners } = watchedController();

      const running = run(async () => {
        expect(listeners()).toBe(0);
        controller.abort("stop");
        await Promise.resolve();
        return "done";
      }, controller.signal);

      expect(await running).toBe("done");
      expect(isFree()).toBe(true);
    });

    test.skipIf(!hooks)("calls it in its caller's async context (not in browsers)", async () => {
      const storage = new hooks!.AsyncLocalStorage<number>();
      const { run, isFree } = create();
      const callers = [1, 2, 3];
      const seen = callers.map((caller) =>
        storage.run(caller, () =>
          run(async () => {
            const before = storage.getStore();
            await Promise.resolve();
            return [before, storage.getStore()];
          }),
        ),
      );

      expect(await Promise.all(seen)).toEqual(callers.map((caller) => [caller, caller]));
      expect(isFree()).toBe(true);
    });

    const outcomes: [how: string, fn: () => unknown, outcome: unknown][] = [
      ["returns", () => "value", { value: "value" }],
      ["promises", async () => "value", { value: "value" }],
      [
        "throws",
        () => {
          throw "error";
        },
        { error: "error" },
      ],
      ["rejects", () => Promise.reject("error"), { error: "error" }],
    ];
    test.each(outcomes)(
      "passes on what the function %s, and is free afterwards",
      async (_how, fn, outcome) => {
        const { run, isFree } = create();

        const settled: unknown = await run(fn).then(
          (value) => ({ value }),
          (error) => ({ error }),
        );

        expect(settled).toEqual(outcome);
        expect(isFree()).toBe(true);
      },
    );
  });
});

describe("arguments", () => {
  const { signal } = new AbortController();
  const semaphore = new Semaphore(2);
  const mutex = new Mutex();
  const keyed = new KeyedMutex<string>();
  const limiter = createLimiter();
  const run = limit(2);
  const fn = () => {};
  type Kind = readonly [expected: string, wrong: unknown[]];
  const object: Kind = ["an object", [2, null, "signal", signal, fn]];
  const signals: Kind = ["an AbortSignal", [{}, true, "stop"]];
  const functions: Kind = ["a function", [undefined, Promise.resolve(), {}]];
  const integer: Kind = [
    "a positive integer",
    [0, -1, 1.5, NaN, Infinity, 2 ** 53, "2", null, true, {}],
  ];
  const count: Kind = ["a positive integer or Infinity", [0, -1, 1.5, NaN, "2", undefined, {}]];
  const given: Kind = ["an object", [undefined]];
  const positive: Kind = ["a positive number", [0, -1, NaN, Infinity, "1s", "1"]];
  const duration: Kind = ["a number of 0 or more", [-1, NaN, "1s", "1"]];
  const permits: Kind = ["at most its 2 permits", [3]];
  const burst: Kind = ["at most its burst of 2", [3]];
  const keys: Kind = ["an iterable object", ["ab", true, undefined]];
  const iterable: Kind = ["an iterable", [true, null, undefined]];
  type Refusals = [action: string, name: string, kind: Kind, call: (value: never) => unknown][];

  const rejected: Refusals = [
    ["acquire Semaphore", "weight", integer, (weight) => semaphore.acquire({ weight })],
    ["acquire Semaphore", "weight", permits, (weight) => semaphore.acquire({ weight })],
    ["acquire Semaphore", "signal", signals, (signal) => semaphore.acquire({ signal })],
    ["acquire Semaphore", "options", object, (options) => semaphore.acquire(options)],
    ["run Semaphore", "fn", functions, (fn) => semaphore.run(fn)],
    ["run Semaphore", "options", object, (options) => semaphore.run(fn, options)],
    ["wait for Semaphore", "signal", signals, (signal) => semaphore.idle({ signal })],
    ["lock Mutex", "options", object, (options) => mutex.lock(options)],
    ["run Mutex", "fn", functions, (fn) => mutex.run(fn)],
    ["unlock Mutex", "fn", functions, (fn) => mutex.unlockWhile(fn)],
    ["lock KeyedMutex", "options", object, (options) => keyed.lock("key", options)],
    ["run KeyedMutex", "fn", functions, (fn) => keyed.run("key", fn)],
    ["lock KeyedMutex", "keys", keys, (keys) => keyed.lockAll(keys)],
    ["lock KeyedMutex", "signal", signals, (signal) => keyed.lockAll([], { signal })],
    ["acquire RateLimiter", "tokens", integer, (tokens) => limiter.acquire({ tokens })],
    ["acquire RateLimiter", "tokens", burst, (tokens) => limiter.acquire({ tokens })],
    ["acquire RateLimiter", "maxWait", duration, (maxWait) => limiter.acquire({ maxWait })],
    ["acquire RateLimiter", "options", object, (options) => limiter.acquire(options)],
    ["acquire RateLimiter", "signal", signals, (signal) => limiter.acquire({ signal })],
    ["run limit", "fn", functions, (fn) => run(fn)],
    ["run limit", "fn", functions, (fn) => run(fn as (n: number) => void, 1)],
    ["map limit", "items", iterable, (items) => run.map(items, fn)],
    ["map limit", "fn", functions, (fn) => run.map([], fn)],
  ];
  const thrown: Refusals = [
    ["create Semaphore", "permits", integer, (permits) => new Semaphore(permits)],
    ["resize Semaphore", "permits", integer, (permits) => semaphore.resize(permits)],
    ["acquire Semaphore", "weight", integer, (weight) => semaphore.tryAcquire({ weight })],
    ["acquire Semaphore", "weight", permits, (weight) => semaphore.tryAcquire({ weight })],
    ["acquire Semaphore", "options", object, (options) => semaphore.tryAcquire(options)],
    ["create KeyedMutex", "permits", integer, (permits) => new KeyedMutex(permits)],
    ["create RateLimiter", "options", object, (options) => new RateLimiter(options)],
    ["create RateLimiter", "options", given, (options) => new RateLimiter(options)],
    ["create RateLimiter", "limit", integer, (limit) => createLimiter({ limit })],
    ["create RateLimiter", "burst", integer, (burst) => createLimiter({ burst })],
    ["create RateLimiter", "interval", positive, (interval) => createLimiter({ interval })],
    ["set RateLimiter", "limit", integer, (limit) => limiter.setLimit({ limit, interval: 1 })],
    ["set RateLimiter", "options", given, (options) => limiter.setLimit(options)],
    ["acquire RateLimiter", "tokens", burst, (tokens) => limiter.tryAcquire({ tokens })],
    ["acquire RateLimiter", "options", object, (options) => limiter.tryAcquire(options)],
    ["reserve RateLimiter", "tokens", integer, (tokens) => limiter.reserve({ tokens })],
    ["create limit", "concurrency", count, (concurrency) => limit(concurrency)],
    ["create limit", "options", object, (options) => limit(1, options)],
    ["create limit", "signal", signals, (signal) => limit(1, { signal })],
    ["set limit", "concurrency", count, (concurrency) => (run.concurrency = concurrency)],
    ["create limited", "fn", functions, (fn) => limited(fn, 1)],
    ["create limited", "concurrency", count, (concurrency) => limited(fn, concurrency)],
    ["create limited", "signal", signals, (signal) => limited(fn, 1, { signal })],
  ];
  const refusal = (action: string, name: string, expected: string, value: unknown) => {
    const isNumber = typeof value === "number" && expected !== "an object";
    const Kind = isNumber ? RangeError : TypeError;
    const kind = Object.prototype.toString.call(value).slice("[object ".length, -1);
    const shown = typeof value === "string" ? `"${value}"` : Object(value) === value ? kind : value;
    return new Kind(`Cannot ${action}: ${name} must be ${expected}, received ${String(shown)}`);
  };

  test.each(rejected)(
    "Cannot %s: its %s is rejected",
    async (action, name, [expected, wrong], call) => {
      for (const value of wrong) {
        const promise = call(value as never) as Promise<unknown>;

        const error = await promise.catch((reason: Error) => reason);

        expect(error).toEqual(refusal(action, name, expected, value));
        expect((error as Error).name).toBe(refusal(action, name, expected, value).name);
      }
      expect([semaphore.available, mutex.locked, keyed.size, run.activeCount]).toEqual([
        2,
        false,
        0,
        0,
      ]);
      expect(limiter.tokens).toBe(2);
    },
  );

  test.each(thrown)("Cannot %s: its %s is refused", (action, name, [expected, wrong], call) => {
    for (const value of wrong) {
      const error = thrownBy(() => call(value as never));

      expect(error).toEqual(refusal(action, name, expected, value));
      expect((error as Error).name).toBe(refusal(action, name, expected, value).name);
    }
    expect([semaphore.permits, semaphore.available, limiter.tokens, run.concurrency]).toEqual([
      2, 2, 2, 2,
    ]);
  });

  test.each([
    { interval: 5e-324, burst: 2, received: "0" },
    { interval: 1e308, burst: 100, received: "Infinity" },
  ])("a bucket that fills in $received ms is refused", ({ received, ...options }) => {
    const message = `burst * interval / limit must be positive and finite, received ${received}`;
    expect(thrownBy(() => createLimiter(options))).toEqual(
      new RangeError(`Cannot create RateLimiter: ${message}`),
    );
  });

  test("a wrong argument is told before an abort", async () => {
    const aborted = AbortSignal.abort("stop");

    await expect(semaphore.acquire({ weight: 3, signal: aborted })).rejects.toThrow(RangeError);
    await expect(semaphore.run(5 as never, { signal: aborted })).rejects.toThrow(TypeError);
    await expect(limiter.acquire({ tokens: 3, signal: aborted })).rejects.toThrow(RangeError);
  });

  test("a signal of null and options of undefined count as none", async () => {
    const none = { signal: null as never };
    (await semaphore.acquire(none)).release();
    (await keyed.lockAll(["a"], none)).release();
    await semaphore.idle(none);
    await createLimiter().acquire(none);
    expect(await limit(1, none)(() => "called")).toBe("called");
    expect(await mutex.run(() => "called", undefined)).toBe("called");
  });
});

describe("types", () => {
  test("of results that are mixed, given explicitly, or passed through", async () => {
    const mixed = (): number | Promise<string> => 1;
    const semaphore = new Semaphore(1);
    const run = limit(1);
    const unlock = () => new Mutex().unlockWhile(mixed);
    const through = <T>(task: () => T | PromiseLike<T>): Promise<T> => semaphore.run(task);

    expectTypeOf(semaphore.run(mixed)).toEqualTypeOf<Promise<string | number>>();
    expectTypeOf(semaphore.run<number>(async () => 5)).toEqualTypeOf<Promise<number>>();
    expectTypeOf(through(async () => 5)).toEqualTypeOf<Promise<number>>();
    expectTypeOf(new Mutex().run(mixed)).toEqualTypeOf<Promise<string | number>>();
    expectTypeOf<ReturnType<typeof unlock>>().toEqualTypeOf<Promise<string | number>>();
    expectTypeOf(new KeyedMutex<string>().run("a", mixed)).toEqualTypeOf<
      Promise<string | number>
    >();
    expectTypeOf(run(mixed)).toEqualTypeOf<Promise<string | number>>();
    expectTypeOf(run(async (n: number) => n, 1)).toEqualTypeOf<Promise<number>>();
    expectTypeOf(run.map([1], mixed)).toEqualTypeOf<Promise<(string | number)[]>>();
    expectTypeOf(run.map(["a"], async (item) => item)).toEqualTypeOf<Promise<string[]>>();
    expectTypeOf(limited(mixed, 1)()).toEqualTypeOf<Promise<string | number>>();
    expect(await through(() => 1)).toBe(1);
  });

  test("of what is refused", () => {
    const refused = () => {
      // @ts-expect-error -- a string is iterable, but is not a list of keys
      void new KeyedMutex<string>().lockAll("ab");
      // @ts-expect-error -- the arguments of the function are missing
      void limit(1)((n: number) => n);
      // @ts-expect-error -- an argument of another type
      void limited((n: number) => n, 1)("1");
      // @ts-expect-error -- a getter
      limit(1).activeCount = 1;
    };
    expect(refused).toBeInstanceOf(Function);
  });

  test("limited() keeps the parameters and this", () => {
    function add(this: { total: number }, n: number, text: string): string {
      return `${this.total + n}${text}`;
    }
    const run = limited(add, 1);

    expectTypeOf<Parameters<typeof run>>().toEqualTypeOf<[n: number, text: string]>();
    expectTypeOf<ThisParameterType<typeof run>>().toEqualTypeOf<{ total: number }>();
    expect(run.name).toBe("add");
  });
});

/** How a visitor takes what it needs, does its work, and gives it back. */
type Hold = (
  work: () => Promise<void>,
  needs: { weight: number; keys: string[]; signal: AbortSignal | undefined },
) => PromiseLike<unknown>;

interface Visitor {
  name: string;
  keys: string[];
  weight: number;
  signal: AbortSignal | undefined;
  state: "waiting" | "inside" | "gone";
}

interface Lock {
  take: () => Permit;
  hold: Hold;
  /** How many hold it or wait for it. */
  left: () => number;
}

/**
 * Tasks that come, are let in, work for a step and leave. Says what was wrong: too many are inside,
 * one has overtaken another that wants the same, or waits while there is room.
 */
function visitors(
  world: World,
  hold: Hold,
  room: () => number = () => Infinity,
  { isEager = room() !== Infinity } = {},
) {
  const wrong: string[] = [];
  const came: Visitor[] = [];
  const isInside = ({ state }: Visitor) => state === "inside";
  const isWaiting = ({ state, signal }: Visitor) => state === "waiting" && !signal?.aborted;
  const named = (which: (visitor: Visitor) => boolean) => came.filter(which).map((it) => it.name);
  const rivalsOf = ({ keys }: Visitor) =>
    came.filter((other) => other.keys.some((key) => keys.includes(key)));
  const fits = (visitor: Visitor) =>
    rivalsOf(visitor)
      .filter(isInside)
      .reduce((sum, { weight }) => sum + weight, visitor.weight) <= room();
  const ahead = (visitor: Visitor) => {
    const rivals = rivalsOf(visitor);
    return rivals.slice(0, rivals.indexOf(visitor)).filter(isWaiting);
  };
  const enter = (visitor: Visitor) => {
    if (!fits(visitor)) wrong.push(`${visitor.name} is one too many`);
    for (const other of ahead(visitor)) wrong.push(`${visitor.name} overtakes ${other.name}`);
    visitor.state = "inside";
  };
  /** At the end of this turn. */
  const look = async () => {
    if (!isEager) return;
    await drain();
    for (const visitor of came.filter(isWaiting)) {
      if (ahead(visitor).length === 0 && fits(visitor)) wrong.push(`${visitor.name} still waits`);
    }
  };

  /** `accepts` are the errors that may end its wait, besides its signal's reason. */
  const come = async (name: string, options: VisitOptions = {}) => {
    const { weight = 1, keys = ["key"], signal, accepts = () => false } = options;
    const visitor: Visitor = { name, keys, weight, signal, state: "waiting" };
    const work = async () => {
      enter(visitor);
      await world.step("work");
      visitor.state = "gone";
      void look();
    };
    came.push(visitor);
    void look();
    try {
      await hold(work, { weight, keys, signal });
    } catch (error) {
      const isExpected = accepts(error) || (signal?.aborted && error === signal.reason);
      if (!isExpected) throw error;
      if (visitor.state !== "waiting") wrong.push(`${name} was inside, and rejects`);
    }
    visitor.state = "gone";
  };
  const visit = (name: string, options?: VisitOptions) =>
    world.spawn(name, () => come(name, options));
  /** Who is inside already; returns what ends that. */
  const guest = (name: string, permit: Permit, weight = 1) => {
    const visitor: Visitor = { name, keys: ["key"], weight, signal: undefined, state: "inside" };
    came.push(visitor);
    return () => {
      visitor.state = "gone";
      permit.release();
      void look();
    };
  };
  return {
    visit,
    come,
    guest,
    look,
    wrong,
    waiting: () => named(isWaiting),
    inside: () => named(isInside),
    present: () => named((it) => isInside(it) || isWaiting(it)),
  };
}

interface VisitOptions {
  weight?: number;
  keys?: string[];
  signal?: AbortSignal | undefined;
  accepts?: (error: unknown) => boolean;
}

function lockBySemaphore(usesRun: boolean): Lock {
  const semaphore = new Semaphore(2);
  return {
    take: () => semaphore.tryAcquire({ weight: 2 })!,
    async hold(work, { weight, signal }) {
      if (usesRun) return semaphore.run(unlessAborted(work, signal), { weight, signal });
      // Without options there is a quicker way, if permits are free and nobody is there.
      const isSimple = weight === 1 && !signal;
      using _permit = await semaphore.acquire(isSimple ? undefined : { weight, signal });
      await work();
    },
    left: () => semaphore.permits - semaphore.available + semaphore.waiting,
  };
}

/** When tokens must be there, 100 ms apart, from when callers came, and others left. */
function referenceBucket(burst: number) {
  const wrong: string[] = [];
  let fullAt = performance.now();
  let soonest = -Infinity;
  return {
    wrong,
    left: () => void (soonest = performance.now()),
    tokens: () => burst - Math.max(0, fullAt - performance.now()) / 100,
    spend(came: number, tokens: number) {
      const now = performance.now();
      const due = Math.max(came, soonest, fullAt + (tokens - burst) * 100);
      if (now !== due) wrong.push(`comes at ${now} instead of ${due}`);
      fullAt = Math.max(fullAt, now) + tokens * 100;
      soonest = now;
    },
  };
}

/** Work that fails if it is called after its abort. */
function unlessAborted<T>(work: () => T, signal: AbortSignal | undefined): () => T {
  return () => {
    if (signal?.aborted) throw new Error("called after its abort");
    return work();
  };
}

/** A signal that may be aborted at any moment, or never. */
function abortable(world: World): AbortSignal {
  const controller = new AbortController();
  world.abort(controller);
  return controller.signal;
}

function isAbortError(error: unknown): boolean {
  return error instanceof DOMException && error.name === "AbortError";
}

/** A small part of the orders, or all with `bun run test:orders`. */
async function everyOrder(scenario: (world: World) => unknown): Promise<void> {
  const all = globalThis.process?.env["ORDERS"] === "all";
  const part = all ? { maxRuns: 200_000, maxMs: 60_000 } : { maxRuns: 300, maxMs: Infinity };
  const result = await interleavings(scenario, part);
  if (all) console.log(`orders: ${result.runs}`); // summed up by test:orders
}

interface Crowd {
  semaphore: Semaphore;
  held: Permit[];
  controller: AbortController;
}

function createLimiter(
  options: { limit?: number; interval?: number; burst?: number } = {},
): RateLimiter {
  return new RateLimiter({ limit: 2, interval: 1000, ...options });
}

/** Plays random acquires, aborts, releases and resizes; returns what was wrong. */
async function randomSchedule(seed: number): Promise<string[]> {
  const random = randomNumbers(seed);
  const below = (end: number) => Math.floor(random() * end);
  const problems: string[] = [];
  const semaphore = new Semaphore(1 + below(3));
  const held: { permit: Permit; weight: number }[] = [];
  const signals: { controller: AbortController; listeners: () => number }[] = [];
  const attempts: Promise<unknown>[] = [];
  let lastEntered = -1;
  let entered = 0;
  const enter = (n: number): void => {
    if (n < lastEntered) problems.push(`${n} came after ${lastEntered}`);
    lastEntered = n;
    entered++;
  };
  for (let n = 0; n < 60; n++) {
    const action = below(10);
    const watched = watchedController();
    const { signal } = watched.controller;
    if (action < 3) {
      const weight = 1 + below(semaphore.permits);
      const options = below(2) ? { weight, signal } : weight === 1 ? undefined : { weight };
      if (options && "signal" in options) signals.push(watched);
      const acquiring = semaphore.acquire(options).then((permit) => {
        enter(n);
        held.push({ permit, weight });
      });
      attempts.push(acquiring);
    } else if (action < 5) {
      signals.push(watched);
      const running = semaphore.run(
        () => {
          enter(n);
          if (signal.aborted) problems.push(`${n} was called after its abort`);
          return below(2) ? Promise.resolve() : undefined;
        },
        { signal },
      );
      attempts.push(running);
    } else if (action < 8) held.splice(below(held.length), 1)[0]?.permit.release();
    else if (action < 9) signals[below(signals.length)]?.controller.abort("stop");
    else semaphore.resize(1 + below(3));
    if (below(3) === 0) await Promise.resolve();
    if (below(5) === 0) await drain();
  }
  for (let rounds = 0; rounds < 100; rounds++) {
    await drain();
    held.shift()?.permit.release();
  }
  const failed = (await Promise.allSettled(attempts)).filter(({ status }) => status === "rejected");
  if (entered + failed.length !== attempts.length)
    problems.push("somebody was neither let in nor refused");
  if (semaphore.available !== semaphore.permits)
    problems.push(`${semaphore.available} are available`);
  if (semaphore.waiting !== 0) problems.push(`${semaphore.waiting} wait`);
  for (const { listeners } of signals) if (listeners() !== 0) problems.push("a listener is left");
  return problems;
}

/** Numbers from 0 to 1 that are the same for the same seed (mulberry32). */
function randomNumbers(seed: number): () => number {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let mixed = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Lets all promises go on that can. */
async function drain(): Promise<void> {
  for (let n = 0; n < 20; n++) await Promise.resolve();
}

/** Replaces a property until it is disposed. */
function replaced<T extends object, K extends keyof T>(target: T, key: K, value: T[K]): Disposable {
  const before = target[key];
  target[key] = value;
  return {
    [Symbol.dispose]() {
      target[key] = before;
    },
  };
}

function exactly(set: typeof setTimeout, ms: number): Promise<void> {
  return new Promise((resolve) => set(resolve, ms));
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

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** An AbortController, and a function that counts the listeners which its signal has. */
function watchedController(): { controller: AbortController; listeners: () => number } {
  const controller = new AbortController();
  const { signal } = controller;
  const [add, remove] = [signal.addEventListener, signal.removeEventListener];
  const listening = new Set<unknown>();
  signal.addEventListener = (...args: Parameters<typeof add>) => {
    listening.add(args[1]);
    add.apply(signal, args);
  };
  signal.removeEventListener = (...args: Parameters<typeof remove>) => {
    listening.delete(args[1]);
    remove.apply(signal, args);
  };
  return { controller, listeners: () => listening.size };
}
