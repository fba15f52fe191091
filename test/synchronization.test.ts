import { describe, expect, expectTypeOf, test } from "bun:test";

import { interleavings, type World } from "../concepts/interleavings.ts";
import { Mutex } from "../concepts/semaphores.ts";
import {
  AsyncEvent,
  Barrier,
  BrokenBarrierError,
  Condition,
  type ConditionMutex,
  type Hold,
  Latch,
  ReadWriteLock,
  type WaitOptions,
  type WriteHold,
} from "../concepts/synchronization.ts";
import { virtualTime } from "../concepts/virtual-time.ts";

const { Bun } = globalThis as { Bun?: { gc(force: boolean): void } };

describe("Start here", () => {
  test("whether a call waits is asked without waiting for it", async () => {
    const event = new AsyncEvent();
    const waited = watch(event.wait());

    await turn();
    expect(waited.state).toBe("pending");
    expect(event.waiting).toBe(1);

    event.set();
    await turn();
    expect(waited.state).toBe("fulfilled");
  });

  test("a latch opens with the last report, and not earlier", () =>
    virtualTime(async (clock) => {
      const latch = new Latch(3);
      for (const ms of [30, 10, 20]) setTimeout(() => latch.countDown(), ms);

      await latch.wait();

      expect(clock.elapsed).toBe(30);
    }));

  test("a condition: who finds nothing to do waits until the state has changed", () =>
    virtualTime(async (clock) => {
      const mutex = new Mutex();
      const changed = new Condition(mutex);
      const items: string[] = [];
      const take = async () => {
        using _lock = await mutex.lock();
        await changed.waitFor(() => items.length > 0);
        return `${items.shift()} at ${clock.elapsed}`;
      };
      const taking = [take(), take()];

      for (const item of ["a", "b"]) {
        await sleep(50);
        using _lock = await mutex.lock();
        items.push(item);
        changed.notify();
      }

      expect(await Promise.all(taking)).toEqual(["a at 50", "b at 100"]);
      expect(mutex.locked).toBe(false);
    }));

  test("a barrier: nobody goes on before the last has arrived", () =>
    virtualTime(async (clock) => {
      const barrier = new Barrier(3);
      const arrive = async (ms: number) => {
        await sleep(ms);
        const index = await barrier.wait();
        return `${index} at ${clock.elapsed}`;
      };

      expect(await Promise.all([30, 10, 20].map(arrive))).toEqual([
        "2 at 30",
        "0 at 30",
        "1 at 30",
      ]);
    }));

  test("readers read side by side, a writer is alone", () =>
    virtualTime(async (clock) => {
      const lock = new ReadWriteLock();
      const use = async (hold: Promise<Hold>) => {
        using _hold = await hold;
        await sleep(100);
        return clock.elapsed;
      };

      const ends = [use(lock.read()), use(lock.read()), use(lock.write()), use(lock.read())];

      expect(await Promise.all(ends)).toEqual([100, 100, 200, 300]);
    }));

  test("trap: a notification is not kept for those who come later", async () => {
    const mutex = new Mutex();
    const condition = new Condition(mutex);
    const lock = await mutex.lock();

    condition.notify();
    const waited = watch(condition.wait());

    await turn();
    expect(waited.state).toBe("pending");
    lock.release();
  });

  test("trap: a wait that is aborted holds its lock all the same", async () => {
    const mutex = new Mutex();
    const condition = new Condition(mutex);
    const controller = new AbortController();
    using _lock = await mutex.lock();
    const waited = watch(condition.wait({ signal: controller.signal }));
    const other = await mutex.lock();

    controller.abort("aborted");
    await turn();
    expect(waited.state).toBe("pending");

    other.release();
    await turn();
    expect(waited).toEqual({ state: "rejected", reason: "aborted" });
    expect(mutex.locked).toBe(true);
  });

  test("trap: reading again while a writer waits would wait for oneself", async () => {
    const lock = new ReadWriteLock();
    await lock.read();
    void lock.write();

    expect(lock.tryRead()).toBeUndefined();
  });
});

describe.each(Object.entries(places()))("Every wait: %s", (title, create) => {
  const everyone = [0, 1, 2];
  const setUp = () => {
    const place = create();
    const controllers = everyone.map(() => new AbortController());
    const listeners = controllers.map(({ signal }) => countListeners(signal));
    const waits: ReturnType<typeof watch>[] = [];
    const start = async () => {
      for (const { signal } of controllers) {
        waits.push(watch(place.wait({ signal })));
        await turn();
      }
    };
    const states = () => waits.map(({ state }) => state);
    const left = () => [place.waiting(), ...listeners.map((count) => count())];
    return { place, controllers, start, waits, states, left };
  };

  test("all are woken, and nothing of them is left", async () => {
    const { place, start, states, left } = setUp();
    await start();
    expect(states()).toEqual(["pending", "pending", "pending"]);
    expect(left()).toEqual([3, 1, 1, 1]);

    place.wake();
    await turn();

    expect(states()).toEqual(["fulfilled", "fulfilled", "fulfilled"]);
    expect(left()).toEqual([0, 0, 0, 0]);
    expect(place.isFree()).toBe(true);
  });

  describe.each([
    ["first", 0],
    ["middle", 1],
    ["last", 2],
  ] as const)("of three, when the %s is aborted", (_, n) => {
    const without = everyone.map((index) => (index === n ? "rejected" : "fulfilled"));

    test("before, it rejects and has not waited", async () => {
      const { place, controllers, start, waits, states, left } = setUp();
      controllers[n]!.abort("aborted");
      await start();
      expect(waits[n]).toEqual({ state: "rejected", reason: "aborted" });
      expect(place.waiting()).toBe(2);

      place.wake();
      await turn();

      expect(states()).toEqual(without);
      expect(left()).toEqual([0, 0, 0, 0]);
      expect(place.isFree()).toBe(true);
    });

    test("while it waits, it leaves in that very turn, and the others wait on", async () => {
      const { place, controllers, start, waits, states, left } = setUp();
      await start();

      controllers[n]!.abort("aborted");
      expect(left()).toEqual([2, ...everyone.map((index) => (index === n ? 0 : 1))]);
      await turn();
      expect(waits[n]).toEqual({ state: "rejected", reason: "aborted" });
      expect(states().filter((state) => state === "pending")).toHaveLength(2);

      place.wake();
      await turn();
      expect(states()).toEqual(without);
      expect(place.isFree()).toBe(true);
    });

    test.each<[string, (wake: () => void, abort: () => void) => void]>([
      ["before the wake-up", (wake, abort) => (abort(), wake())],
      ["after the wake-up", (wake, abort) => (wake(), abort())],
    ])("%s in the same turn, it rejects, and the others are woken", async (_, act) => {
      const { place, controllers, start, waits, states, left } = setUp();
      await start();

      act(place.wake, () => controllers[n]!.abort("aborted"));
      await turn();

      expect(waits[n]).toEqual({ state: "rejected", reason: "aborted" });
      expect(states()).toEqual(without);
      expect(left()).toEqual([0, 0, 0, 0]);
      expect(place.isFree()).toBe(true);
    });

    test.each([1, 2, 3, 4, 5, 6, 8, 10, 50])(
      "%d microtasks after the wake-up, the others are woken, and nothing is left",
      async (microtasks) => {
        const { place, controllers, start, waits, states, left } = setUp();
        await start();

        place.wake();
        for (let hop = 0; hop < microtasks; hop++) await undefined;
        controllers[n]!.abort("aborted");
        await turn();

        const isTooLate = waits[n]!.state === "fulfilled";
        expect(states()).toEqual(isTooLate ? everyone.map(() => "fulfilled") : without);
        expect(isTooLate || microtasks < 50).toBe(true);
        expect(left()).toEqual([0, 0, 0, 0]);
        expect(place.isFree()).toBe(true);
      },
    );
  });

  test("with one signal for all, those not yet told of the abort are not woken", async () => {
    const place = create();
    const controller = new AbortController();
    const { signal } = controller;
    // It was there first, so it is called before the waits are told.
    signal.addEventListener("abort", () => place.wake());
    const waits = [0, 1].map(() => watch(place.wait({ signal })));
    await turn();

    controller.abort("aborted");
    await turn();

    expect(waits).toEqual([
      { state: "rejected", reason: "aborted" },
      { state: "rejected", reason: "aborted" },
    ]);
    expect(place.waiting()).toBe(0);
  });

  test.each<[string, unknown, string]>([
    [
      "a signal in place of options",
      new AbortController().signal,
      "options must be an object, received AbortSignal",
    ],
    ["null", null, "options must be an object, received null"],
    ["a number", 5, "options must be an object, received 5"],
    ["a signal of the wrong kind", { signal: 5 }, "signal must be an AbortSignal, received 5"],
  ])("%s is refused before it waits", async (_, options, message) => {
    const place = create();
    const [, Class, who] = /^(\w+), (\w+)/.exec(title)!;
    const action = who === "readers" ? "read" : who === "writers" ? "write" : "wait for";
    const refused = await place.wait(options as never).catch((error: unknown) => error);

    expect(refused).toBeInstanceOf(TypeError);
    expect(refused).toEqual(new TypeError(`Cannot ${action} ${Class}: ${message}`));
    expect(place.waiting()).toBe(0);
  });

  test.each([undefined, null])("a signal that is %s counts as none", async (signal) => {
    const place = create();
    const waited = watch(place.wait({ signal } as never));
    await turn();

    place.wake();
    await turn();

    expect(waited.state).toBe("fulfilled");
  });
});

describe("AsyncEvent", () => {
  test("lets pass while it is set, and not after it was cleared", async () => {
    const event = new AsyncEvent();
    expect(event.isSet).toBe(false);

    event.set();
    event.set();
    expect(event.isSet).toBe(true);
    expect(await event.wait()).toBeUndefined();

    event.clear();
    event.clear();
    expect(event.isSet).toBe(false);
    const waited = watch(event.wait());
    await turn();
    expect(waited.state).toBe("pending");
  });

  test("wakes in order of arrival, and a newcomer's code doesn't run before theirs", async () => {
    const event = new AsyncEvent();
    const order: number[] = [];
    const wait = async (n: number, options?: object) => {
      await event.wait(options);
      order.push(n);
    };
    const waits = [wait(1), wait(2, { signal: new AbortController().signal }), wait(3)];

    event.set();
    waits.push(wait(4), wait(5, {}));
    await Promise.all(waits);
    await wait(6);

    expect(order).toEqual([1, 2, 3, 4, 5, 6]);
  });

  test("set and cleared in one turn, it wakes those who wait, not newcomers", async () => {
    const event = new AsyncEvent();
    const before = watch(event.wait());

    event.set();
    event.clear();
    const after = watch(event.wait());

    await turn();
    expect([before.state, after.state]).toEqual(["fulfilled", "pending"]);
    expect(event.waiting).toBe(1);
  });

  test("a loop that waits again after each pulse takes part in each", async () => {
    const event = new AsyncEvent();
    let pulses = 0;
    const loop = async () => {
      while (pulses < 3) {
        await event.wait();
        pulses++;
      }
    };
    const looping = loop();

    for (let pulse = 1; pulse <= 3; pulse++) {
      event.set();
      event.clear();
      await turn();
      expect(pulses).toBe(pulse);
    }
    await looping;
  });

  test("set, waited for and cleared in one turn, it lets that caller pass", async () => {
    for (const options of [undefined, {}]) {
      const event = new AsyncEvent();

      event.set();
      const waited = watch(event.wait(options));
      event.clear();

      await turn();
      expect(waited.state).toBe("fulfilled");
      expect([event.isSet, event.waiting]).toEqual([false, 0]);
    }
  });

  test("set several times in one turn, it wakes each once", async () => {
    const event = new AsyncEvent();
    let woken = 0;
    void event.wait().then(() => woken++);

    event.set();
    event.clear();
    event.set();
    event.set();

    expect([event.isSet, event.waiting]).toEqual([true, 0]);
    await turn();
    expect(woken).toBe(1);
  });

  test("as a gate: while it is cleared nothing begins, and what runs goes on", () =>
    virtualTime(async (clock) => {
      const open = new AsyncEvent();
      const times: string[] = [];
      const work = async (name: string) => {
        for (let n = 1; n <= 3; n++) {
          await open.wait();
          await sleep(100);
          times.push(`${name}${n} at ${clock.elapsed}`);
        }
      };
      const working = [work("a"), work("b")];
      await sleep(50);
      expect([open.waiting, times.length]).toEqual([2, 0]);

      open.set();
      await sleep(150);
      open.clear();
      await sleep(300);
      expect(open.waiting).toBe(2);
      open.set();
      await Promise.all(working);

      expect(times.join(", ")).toBe(
        "a1 at 150, b1 at 150, a2 at 250, b2 at 250, a3 at 600, b3 at 600",
      );
    }));

  test("beside a value: a reader that was busy sees the last value, and sees it once", async () => {
    const changed = new AsyncEvent();
    let value = 0;
    const send = (next: number) => {
      value = next;
      changed.set();
    };
    const seen: number[] = [];
    const busy = new AsyncEvent();
    const read = async () => {
      while (value < 9) {
        await changed.wait();
        changed.clear();
        seen.push(value);
        await busy.wait();
      }
    };
    const reading = read();
    busy.set();

    send(1);
    await turn();
    busy.clear();
    send(2);
    send(3);
    await turn();
    send(4);
    send(5);
    await turn();
    busy.set();
    await turn();
    expect([seen, changed.waiting]).toEqual([[1, 3, 5], 1]);

    send(9);
    await reading;
    expect(seen).toEqual([1, 3, 5, 9]);
  });

  test("is set, but the signal is aborted: wait() rejects", async () => {
    const event = new AsyncEvent();
    event.set();
    const controller = new AbortController();
    const { signal } = controller;

    const waited = watch(event.wait({ signal }));
    controller.abort("in the same turn");
    await turn();
    expect(waited).toEqual({ state: "rejected", reason: "in the same turn" });

    const late = watch(event.wait({ signal }));
    await turn();
    expect(late).toEqual({ state: "rejected", reason: "in the same turn" });
  });
});

describe("Latch", () => {
  test("opens at zero for all that wait and all that come, and stays open", async () => {
    const latch = new Latch(3);
    const waits = [watch(latch.wait()), watch(latch.wait())];

    latch.countDown();
    expect(latch.count).toBe(2);
    latch.countDown(2);
    expect([latch.count, latch.waiting]).toEqual([0, 0]);

    await turn();
    expect(waits.map(({ state }) => state)).toEqual(["fulfilled", "fulfilled"]);
    expect(await latch.wait()).toBeUndefined();
    expect(await latch.wait({})).toBeUndefined();
  });

  test("is open from the start when there is nothing to wait for", async () => {
    expect(await new Latch(0).wait()).toBeUndefined();
  });

  test("a newcomer's code doesn't run before that of those who waited", async () => {
    const latch = new Latch(1);
    const order: number[] = [];
    const wait = (n: number) => latch.wait().then(() => order.push(n));
    const waits = [wait(1), wait(2)];

    latch.countDown();
    waits.push(wait(3));
    await Promise.all(waits);

    expect(order).toEqual([1, 2, 3]);
  });

  test("two of them let sixteen tasks go together, when all have come", async () => {
    const [ready, go] = [new Latch(16), new Latch(16)];
    let gone = 0;
    const tasks = Array.from({ length: 16 }, async () => {
      ready.countDown();
      await go.wait();
      gone++;
    });

    await ready.wait();
    for (let n = 0; n < 16; n++) {
      await turn();
      expect([gone, go.waiting]).toEqual([0, 16]);
      go.countDown();
    }
    await Promise.all(tasks);

    expect(gone).toBe(16);
  });

  test("counts nothing for n = 0", async () => {
    const latch = new Latch(1);
    latch.countDown(0);

    expect(latch.count).toBe(1);
    latch.countDown(latch.count);
    latch.countDown(latch.count);
    expect(latch.count).toBe(0);
  });

  test.each([
    [0, 1, "Cannot count down Latch: n must be at most its count of 0, received 1"],
    [2, 3, "Cannot count down Latch: n must be at most its count of 2, received 3"],
  ])("of %d refuses to count down by %d, and stays as it is", async (count, n, message) => {
    const latch = new Latch(count);
    const waited = watch(latch.wait());

    expect(() => latch.countDown(n)).toThrow(new RangeError(message));

    await turn();
    expect(latch.count).toBe(count);
    expect(waited.state).toBe(count === 0 ? "fulfilled" : "pending");
  });

  test.each(notAmounts())("refuses a count of %s", (_, value, Kind) => {
    expect(() => new Latch(value as number)).toThrow(Kind);
    expect(() => new Latch(value as number)).toThrow(
      /^Cannot create Latch: count must be an integer of 0 or more, received /,
    );
    expect(() => new Latch(1).countDown(value as number)).toThrow(
      /^Cannot count down Latch: n must be an integer of 0 or more, received /,
    );
  });
});

describe("Condition", () => {
  /** A condition with `count` waiters that note their number and hold the lock until `next()`. */
  async function setUp(count: number, signals: (AbortSignal | undefined)[] = []) {
    const mutex = new Mutex();
    const condition = new Condition(mutex);
    const woken: number[] = [];
    const holding: (() => void)[] = [];
    const waits = Array.from({ length: count }, async (_, n) => {
      using _lock = await mutex.lock();
      await condition.wait({ signal: signals[n] });
      woken.push(n);
      await new Promise<void>((resolve) => holding.push(resolve));
    });
    const next = async () => {
      holding.shift()!();
      await turn();
    };
    await turn();
    return { mutex, condition, woken, waits: waits.map(watch), next };
  }

  test("unlocks while it waits, and goes on when notified and locked again", async () => {
    const { mutex, condition, woken, next } = await setUp(3);
    expect([mutex.locked, condition.waiting]).toEqual([false, 3]);

    const lock = await mutex.lock();
    condition.notify();
    await turn();
    expect([woken, condition.waiting]).toEqual([[], 2]);

    lock.release();
    await turn();
    expect(woken).toEqual([0]);
    expect(mutex.locked).toBe(true);

    condition.notify(2);
    await turn();
    expect(woken).toEqual([0]);

    await next();
    expect(woken).toEqual([0, 1]);
    await next();
    expect(woken).toEqual([0, 1, 2]);
    await next();
    expect(mutex.locked).toBe(false);
  });

  test("wakes n in order of arrival, and no more than there are", async () => {
    const { mutex, condition, woken, next } = await setUp(4);
    const notify = async (n: number) => {
      using _lock = await mutex.lock();
      condition.notify(n);
    };

    await notify(0);
    await turn();
    expect(woken).toEqual([]);

    await notify(2);
    await turn();
    await next();
    await next();
    expect(woken).toEqual([0, 1]);

    await notify(2048);
    await turn();
    await next();
    await next();
    expect(woken).toEqual([0, 1, 2, 3]);
    expect(condition.waiting).toBe(0);
  });

  test("who is notified waits for the mutex, and no more for the condition", async () => {
    const { mutex, condition, woken, next } = await setUp(3);
    const lock = await mutex.lock();

    condition.notify(2);
    expect([condition.waiting, mutex.waiting]).toEqual([1, 2]);

    lock.release();
    expect([condition.waiting, mutex.waiting]).toEqual([1, 1]);
    await turn();
    await next();
    expect([woken, mutex.waiting]).toEqual([[0, 1], 0]);
  });

  test("several notifications in one turn wake each waiter once", async () => {
    const { mutex, condition, woken, next } = await setUp(3);
    const lock = await mutex.lock();

    condition.notify();
    condition.notify(2048);
    condition.notifyAll();
    lock.release();
    await turn();
    for (let n = 0; n < 3; n++) await next();

    expect(woken).toEqual([0, 1, 2]);
    expect([mutex.locked, mutex.waiting, condition.waiting]).toEqual([false, 0, 0]);
  });

  test("who waits again is woken again, once each time", async () => {
    const mutex = new Mutex();
    const condition = new Condition(mutex);
    const woken = new Array<number>(20).fill(0);
    let isOver = false;
    const waits = woken.map(async (_, n) => {
      using _lock = await mutex.lock();
      while (!isOver) {
        await condition.wait();
        woken[n]!++;
      }
    });
    await turn();
    await turn();

    for (let round = 1; round <= 5; round++) {
      expect(condition.waiting).toBe(20);
      await mutex.run(() => {
        isOver = round === 5;
        condition.notifyAll();
      });
      for (let n = 0; n < 20; n++) await turn();
      expect(woken.every((times) => times === round)).toBe(true);
    }

    await Promise.all(waits);
    expect([mutex.locked, condition.waiting]).toEqual([false, 0]);
  });

  test("a wait with a time limit holds the lock when the time is over", () =>
    virtualTime(async (clock) => {
      const mutex = new Mutex();
      const condition = new Condition(mutex);
      using _lock = await mutex.lock();

      const waiting = condition.wait({ signal: AbortSignal.timeout(500) });

      await expect(waiting).rejects.toHaveProperty("name", "TimeoutError");
      expect(clock.elapsed).toBe(500);
      expect([mutex.locked, mutex.tryLock(), condition.waiting]).toEqual([true, undefined, 0]);
    }));

  test.each(["while it waits", "while it locks again"])(
    "waitFor() rejects with the very reason of an abort %s",
    async (when) => {
      const mutex = new Mutex();
      const condition = new Condition(mutex);
      const controller = new AbortController();
      const { signal } = controller;
      const waited = watch(mutex.run(() => condition.waitFor(() => false, { signal })));
      await turn();
      const lock = await mutex.lock();
      const reason = new Error("no longer needed");

      if (when === "while it locks again") condition.notify();
      controller.abort(reason);
      await turn();
      expect(waited.state).toBe("pending");

      lock.release();
      await turn();
      expect(waited.reason).toBe(reason);
      expect(mutex.locked).toBe(false);
    },
  );

  test("who notifies and then waits is not woken by that", async () => {
    const { mutex, condition, woken } = await setUp(1);
    const lock = await mutex.lock();

    condition.notifyAll();
    const waited = watch(condition.wait());
    await turn();

    expect(woken).toEqual([0]);
    expect([waited.state, condition.waiting]).toEqual(["pending", 1]);
    lock.release();
  });

  test("hands a turn round a ring of tasks", async () => {
    const mutex = new Mutex();
    const condition = new Condition(mutex);
    const turns: number[] = [];
    const play = async (player: number) => {
      using _lock = await mutex.lock();
      for (let round = 0; round < 5; round++) {
        await condition.waitFor(() => turns.length % 3 === player);
        turns.push(player);
        condition.notifyAll();
      }
    };

    await Promise.all([2, 0, 1].map(play));

    expect(turns.join("")).toBe("012".repeat(5));
  });

  test("two conditions may share a mutex", async () => {
    const mutex = new Mutex();
    const [notFull, notEmpty] = [new Condition(mutex), new Condition(mutex)];
    const buffer: number[] = [];
    const got: number[] = [];
    const produce = async () => {
      for (let n = 0; n < 10; n++) {
        using _lock = await mutex.lock();
        await notFull.waitFor(() => buffer.length < 2);
        buffer.push(n);
        notEmpty.notify();
      }
    };
    const consume = async () => {
      for (let n = 0; n < 10; n++) {
        using _lock = await mutex.lock();
        await notEmpty.waitFor(() => buffer.length > 0);
        got.push(buffer.shift()!);
        notFull.notify();
      }
    };

    await Promise.all([consume(), produce()]);

    expect(got).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
  });

  describe("a notification that meets an abort", () => {
    test.each([0, 1, 2])(
      "goes on to the next: %d of three is woken and aborted in one turn",
      async (n) => {
        const controllers = [0, 1, 2].map(() => new AbortController());
        const { mutex, condition, woken, waits, next } = await setUp(
          4,
          controllers.map(({ signal }) => signal),
        );

        using lock = await mutex.lock();
        condition.notify(3);
        controllers[n]!.abort("aborted");
        expect(condition.waiting).toBe(0);
        lock.release();
        await turn();
        for (let wakeUps = 0; wakeUps < 3; wakeUps++) await next();

        expect(waits[n]).toEqual({ state: "rejected", reason: "aborted" });
        expect(woken).toEqual([0, 1, 2, 3].filter((other) => other !== n));
      },
    );

    test("goes on at once, to one only, before the aborted one has its lock", async () => {
      const controller = new AbortController();
      const { mutex, condition, woken, waits, next } = await setUp(3, [controller.signal]);
      using lock = await mutex.lock();
      condition.notify();
      await turn();
      expect(condition.waiting).toBe(2);

      controller.abort("aborted");
      expect(condition.waiting).toBe(1);
      await turn();
      expect(waits[0]!.state).toBe("pending");

      lock.release();
      await turn();
      expect(waits[0]).toEqual({ state: "rejected", reason: "aborted" });
      await next();
      expect(woken).toEqual([1]);
    });

    test("goes on even if the one who was notified has not been told of its abort", async () => {
      const { signal } = new AbortController();
      const { mutex, condition, woken, waits } = await setUp(2, [signal]);
      using lock = await mutex.lock();
      condition.notify();

      // As in a microtask between two listeners of a platform's signal.
      Object.defineProperties(signal, { aborted: { value: true }, reason: { value: "aborted" } });
      lock.release();
      await turn();

      expect(waits[0]).toEqual({ state: "rejected", reason: "aborted" });
      expect(woken).toEqual([1]);
    });

    test("goes on from one to the other until it finds one that is not aborted", async () => {
      const controllers = [0, 1, 2].map(() => new AbortController());
      const { mutex, condition, woken } = await setUp(
        4,
        controllers.map(({ signal }) => signal),
      );
      await mutex.run(() => condition.notify());

      for (const controller of controllers) controller.abort();
      await turn();

      expect(woken).toEqual([3]);
    });

    test.each([0, 1, 5, 20])(
      "goes on to the next, %d microtasks later, when the one who notified waits in turn",
      async (microtasks) => {
        const mutex = new Mutex();
        const condition = new Condition(mutex);
        const controller = new AbortController();
        let items = 0;
        const consume = async (signal?: AbortSignal) => {
          using _lock = await mutex.lock();
          for (;;) {
            await condition.waitFor(() => items !== 0, { signal });
            if (items < 0) return;
            items--;
            condition.notifyAll();
          }
        };
        const consumers = [watch(consume(controller.signal)), watch(consume())];
        await turn();

        const lock = await mutex.lock();
        items++;
        condition.notify();
        for (let hop = 0; hop < microtasks; hop++) await undefined;
        controller.abort("aborted");
        await condition.waitFor(() => items === 0);

        expect(consumers.map(({ state }) => state)).toEqual(["rejected", "pending"]);
        items = -1;
        condition.notifyAll();
        lock.release();
        await turn();
        expect(consumers[1]!.state).toBe("fulfilled");
        expect([mutex.locked, mutex.waiting, condition.waiting]).toEqual([false, 0, 0]);
      },
    );

    test("is lost if nobody waits, as any notification is", async () => {
      const controller = new AbortController();
      const { mutex, condition, waits } = await setUp(1, [controller.signal]);
      await mutex.run(() => condition.notify());
      controller.abort("aborted");
      await turn();
      expect(waits[0]!.state).toBe("rejected");

      using lock = await mutex.lock();
      const late = watch(condition.wait());
      await turn();
      expect(late.state).toBe("pending");
      lock.release();
    });

    test.each([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12])(
      "%d microtasks later: one of two is woken, not both, not none",
      async (microtasks) => {
        const mutex = new Mutex();
        const condition = new Condition(mutex);
        const controller = new AbortController();
        let items = 0;
        const taken: string[] = [];
        const take = async (name: string, signal?: AbortSignal) => {
          using _lock = await mutex.lock();
          await condition.waitFor(() => items > 0, { signal });
          items--;
          taken.push(name);
        };
        const first = watch(take("first", controller.signal));
        const second = watch(take("second"));
        await turn();

        await mutex.run(() => {
          items++;
          condition.notify();
        });
        for (let hop = 0; hop < microtasks; hop++) await undefined;
        controller.abort();
        await turn();

        expect(taken).toEqual([first.state === "fulfilled" ? "first" : "second"]);
        expect(second.state).toBe(first.state === "fulfilled" ? "pending" : "fulfilled");
        expect([items, mutex.locked]).toEqual([0, false]);
      },
    );
  });

  describe("waitFor()", () => {
    test("returns what the predicate returns, once that is truthy", async () => {
      const mutex = new Mutex();
      const condition = new Condition(mutex);
      const values = [0, "", undefined, "found"];
      const waited = watch(mutex.run(() => condition.waitFor(() => values.shift())));
      await turn();
      expect(values).toHaveLength(3);

      for (let n = 0; n < 3; n++) await mutex.run(() => condition.notify());
      await turn();

      expect(waited).toEqual({ state: "fulfilled", value: "found" });
    });

    test("needs no lock if there is nothing to wait for, and is refused otherwise", async () => {
      const condition = new Condition(new Mutex());

      expect(await condition.waitFor(() => [1, 2, 3])).toEqual([1, 2, 3]);
      await expect(condition.waitFor(() => false)).rejects.toThrow(
        "Cannot wait for Condition: its mutex is not locked",
      );
    });

    test("awaits an async predicate, with the lock held", async () => {
      const mutex = new Mutex();
      const condition = new Condition(mutex);
      const locked: boolean[] = [];
      let isReady = false;
      const waited = watch(
        mutex.run(() =>
          condition.waitFor(async () => {
            await undefined;
            locked.push(mutex.locked);
            return isReady;
          }),
        ),
      );
      await turn();
      expect(waited.state).toBe("pending");

      await mutex.run(() => {
        isReady = true;
        condition.notify();
      });
      await turn();

      expect(waited).toEqual({ state: "fulfilled", value: true });
      expect(locked).toEqual([true, true]);
    });

    test("calls the predicate no more after the abort", async () => {
      for (let microtasks = 0; microtasks < 12; microtasks++) {
        const mutex = new Mutex();
        const condition = new Condition(mutex);
        const controller = new AbortController();
        const { signal } = controller;
        const calls: boolean[] = [];
        const predicate = () => void calls.push(signal.aborted);
        const waited = watch(mutex.run(() => condition.waitFor(predicate, { signal })));
        await turn();

        await mutex.run(() => condition.notify());
        for (let hop = 0; hop < microtasks; hop++) await undefined;
        controller.abort("aborted");
        await turn();

        expect(calls).not.toContain(true);
        expect(waited).toEqual({ state: "rejected", reason: "aborted" });
        expect(mutex.locked).toBe(false);
      }
    });

    test("doesn't call the predicate when it is aborted before", async () => {
      const condition = new Condition(new Mutex());
      const signal = AbortSignal.abort("aborted");
      let calls = 0;

      await expect(condition.waitFor(() => ++calls, { signal })).rejects.toBe("aborted");
      expect(calls).toBe(0);
    });

    test("rejects with what the predicate throws, and holds the lock", async () => {
      const mutex = new Mutex();
      const condition = new Condition(mutex);
      using _lock = await mutex.lock();
      let fails = false;
      const waited = watch(
        condition.waitFor(() => {
          if (fails) throw "failed";
        }),
      );
      await turn();

      await mutex.run(() => {
        fails = true;
        condition.notify();
      });
      await turn();

      expect(waited).toEqual({ state: "rejected", reason: "failed" });
      expect(mutex.locked).toBe(true);
    });

    test("refuses what is not a function", async () => {
      await expect(new Condition(new Mutex()).waitFor(true as never)).rejects.toEqual(
        new TypeError("Cannot wait for Condition: predicate must be a function, received true"),
      );
      await expect(new Condition(new Mutex()).waitFor(() => true, 5 as never)).rejects.toEqual(
        new TypeError("Cannot wait for Condition: options must be an object, received 5"),
      );
    });
  });

  test.each<[string, (condition: Condition) => unknown, string]>([
    ["wait", (condition) => condition.wait(), "wait for"],
    ["waitFor", (condition) => condition.waitFor(() => false), "wait for"],
    ["notify", (condition) => condition.notify(), "notify"],
    ["notifyAll", (condition) => condition.notifyAll(), "notify"],
  ])("%s() is refused while nobody holds the mutex", async (_, call, action) => {
    const mutex = new Mutex();
    const condition = new Condition(mutex);

    const refused = await (async () => call(condition))().catch((error: unknown) => error);

    expect(refused).toEqual(new Error(`Cannot ${action} Condition: its mutex is not locked`));
    expect([condition.waiting, mutex.locked]).toEqual([0, false]);
  });

  test("wait() is refused while the lock is on its way to another", async () => {
    const mutex = new Mutex();
    const condition = new Condition(mutex);
    const running = mutex.run(() => condition.waiting);

    await expect(condition.wait()).rejects.toThrow("Cannot unlock Mutex: nobody holds it");

    expect(await running).toBe(0);
    expect(mutex.locked).toBe(false);
  });

  test("with an aborted signal wait() rejects, and has never unlocked", async () => {
    const mutex = new Mutex();
    const condition = new Condition(mutex);
    using _lock = await mutex.lock();
    const next = watch(mutex.lock());

    const waited = watch(condition.wait({ signal: AbortSignal.abort("aborted") }));

    await turn();
    expect(waited).toEqual({ state: "rejected", reason: "aborted" });
    expect(next.state).toBe("pending");
  });

  test("takes any mutex, and gets in line again at the notification if that lets it", async () => {
    const mutex = new OwnMutex();
    const condition = new Condition(mutex);
    const order: string[] = [];
    const use = async (name: string) => {
      await mutex.lock();
      order.push(name);
      mutex.unlock();
    };
    const wait = async () => {
      await mutex.lock();
      await condition.wait();
      order.push("woken");
      mutex.unlock();
    };
    const waiting = wait();
    await turn();

    await mutex.lock();
    const earlier = use("earlier");
    condition.notify();
    mutex.unlock();
    const newcomer = use("newcomer");
    await Promise.all([waiting, earlier, newcomer]);

    expect(order).toEqual(["earlier", "woken", "newcomer"]);
  });

  test("one that is aborted gets in line again at once as well", async () => {
    const mutex = new OwnMutex();
    const condition = new Condition(mutex);
    const controller = new AbortController();
    const order: string[] = [];
    await mutex.lock();
    const waiting = condition
      .wait({ signal: controller.signal })
      .catch(() => order.push("aborted"));
    await mutex.lock();

    controller.abort();
    mutex.unlock();
    const newcomer = mutex.lock().then(() => order.push("newcomer"));
    await waiting;
    mutex.unlock();
    await newcomer;

    expect(order).toEqual(["aborted", "newcomer"]);
  });

  test.each<[unknown, string]>([
    [undefined, "undefined"],
    [null, "null"],
    [5, "5"],
    [{ lock() {} }, "Object"],
    [new ReadWriteLock(), "Object"],
    [Mutex, "Function"],
  ])("refuses %s for a mutex", (mutex, received) => {
    expect(() => new Condition(mutex as never)).toThrow(
      new TypeError(`Cannot create Condition: mutex must be a Mutex, received ${received}`),
    );
  });

  test.each(notAmounts())("refuses to notify %s", async (_, value, Kind) => {
    const { mutex, condition } = await setUp(1);
    using _lock = await mutex.lock();

    expect(() => condition.notify(value as number)).toThrow(Kind);
    expect(() => condition.notify(value as number)).toThrow(
      /^Cannot notify Condition: n must be an integer of 0 or more, received /,
    );
    expect(condition.waiting).toBe(1);
  });

  test.each([1, 2, 3])("random schedules lose no item and no lock (seed %d)", async (seed) => {
    const random = randomFrom(seed);
    for (let round = 0; round < 60; round++) {
      const mutex = new Mutex();
      const condition = new Condition(mutex);
      let items = 0;
      let inside = 0;
      const takers = Array.from({ length: 6 }, () => {
        const controller = new AbortController();
        const take = async () => {
          using _lock = await mutex.lock();
          try {
            await condition.waitFor(() => items > 0, { signal: controller.signal });
            items--;
          } finally {
            expect(++inside).toBe(1);
            await undefined;
            inside--;
          }
        };
        return { controller, taken: watch(take()) };
      });
      for (let step = 0; step < 8; step++) {
        if (random() < 0.5) {
          takers[Math.floor(random() * 6)]!.controller.abort();
        } else {
          void mutex.run(() => {
            items++;
            condition.notify();
          });
        }
        for (let hop = Math.floor(random() * 8); hop > 0; hop--) await undefined;
      }
      for (let player = 0; player < 6; player++) await turn();

      // Nobody waits while there is something to take.
      expect(items > 0 && condition.waiting > 0).toBe(false);
      expect(takers.filter(({ taken }) => taken.state === "pending")).toHaveLength(
        condition.waiting,
      );
      expect(mutex.locked).toBe(false);
    }
  });
});

describe("Barrier", () => {
  test("lets nobody pass before the last, and each has an index of its own", async () => {
    const barrier = new Barrier(3);
    const waits = [watch(barrier.wait()), watch(barrier.wait())];
    await turn();
    expect(waits.map(({ state }) => state)).toEqual(["pending", "pending"]);
    expect([barrier.parties, barrier.waiting, barrier.broken]).toEqual([3, 2, false]);

    waits.push(watch(barrier.wait()));

    expect(barrier.waiting).toBe(0);
    await turn();
    expect(waits.map(({ value }) => value)).toEqual([0, 1, 2]);
  });

  test("gathers one generation after the other", async () => {
    const barrier = new Barrier(3);
    const rounds: string[] = [];
    const play = async (name: string) => {
      for (let round = 0; round < 4; round++) {
        await barrier.wait();
        rounds.push(`${round}${name}`);
      }
    };

    await Promise.all(["a", "b", "c"].map(play));

    expect(rounds.join(" ")).toBe("0a 0b 0c 1a 1b 1c 2a 2b 2c 3a 3b 3c");
  });

  /**
   * Steps are `+` (a party arrives), `s` (one with a signal), `-` (that is aborted), `abort()`,
   * `reset()`, and `turn` (the others are synchronous). `told` happens in a listener to the signal
   * that is called before the waits hear of it. Outcomes are those of the parties, in order.
   */
  test.each<[title: string, parties: number, steps: string, outcomes: string, told?: string]>([
    ["of one party lets it pass, each time", 1, "+ + +", "0 0 0"],
    ["gathers the next while one generation goes out", 2, "+ + + + +", "0 1 0 1 pending"],
    ["an aborted party is replaced by another", 3, "s + - + +", "aborted 0 1 2"],
    ["an aborted party leaves the others waiting", 3, "+ s - +", "pending aborted pending"],
    ["a party aborted when all are there doesn't pass", 3, "+ s + -", "0 aborted 2"],
    ["a party not yet told doesn't count", 3, "s + -", "aborted pending pending", "+"],
    ["parties pass one not yet told", 3, "+ s -", "0 aborted 1 2", "+ +"],
    ["abort() breaks it for all", 3, "+ + abort() + +", "broken broken broken broken"],
    ["abort() of an empty one breaks it", 1, "abort() +", "broken"],
    ["abort() reaches those going out, and the next", 2, "+ + + abort()", "broken broken broken"],
    ["abort() leaves alone those that have passed", 2, "+ + turn abort()", "0 1"],
    [
      "abort() leaves an aborted party its reason",
      3,
      "s + - s",
      "aborted broken aborted",
      "abort()",
    ],
    ["abort() leaves one going out its reason", 2, "s + - abort()", "aborted broken"],
    ["reset() mends it", 2, "abort() abort() reset() + +", "0 1"],
    ["reset() refuses those that wait", 3, "+ + reset() + + +", "broken broken 0 1 2"],
    ["reset() of an empty one does nothing", 2, "reset() + +", "0 1"],
    ["reset() refuses those going out, not the next", 2, "+ + + reset() +", "broken broken 0 1"],
    ["reset() twice refuses both", 2, "+ + + reset() reset()", "broken broken broken"],
    [
      "reset() refuses those going out after another was refused",
      2,
      "+ + reset() turn + + reset()",
      "broken broken broken broken",
    ],
    ["reset() finds nobody going out", 2, "s s - + reset()", "aborted aborted broken"],
    ["reset() comes after they have gone", 2, "+ + + turn reset()", "0 1 broken"],
    ["reset() leaves an aborted party its reason", 3, "s + -", "aborted broken", "reset()"],
  ])("%s", async (_, parties, steps, outcomes, told = "") => {
    const barrier = new Barrier(parties);
    const controller = new AbortController();
    const { signal } = controller;
    const waits: ReturnType<typeof watch>[] = [];
    const acts: Record<string, () => unknown> = {
      "+": () => waits.push(watch(barrier.wait())),
      s: () => waits.push(watch(barrier.wait({ signal }))),
      "-": () => controller.abort("aborted"),
      "abort()": () => barrier.abort(),
      "reset()": () => barrier.reset(),
    };
    signal.addEventListener("abort", () => {
      for (const step of told.split(" ")) acts[step]?.();
    });

    for (const step of steps.split(" ")) {
      if (step === "turn") await turn();
      else acts[step]!();
    }
    await turn();

    const shown = waits.map(({ state, value, reason }) => {
      if (state === "pending") return state;
      return state === "fulfilled"
        ? value
        : reason instanceof BrokenBarrierError
          ? "broken"
          : reason;
    });
    expect(shown.join(" ")).toBe(outcomes);
    expect(barrier.waiting).toBe(waits.filter(({ state }) => state === "pending").length);
  });

  test.each<[string, (barrier: Barrier) => void, broken: boolean]>([
    ["aborted", (barrier) => barrier.abort(), true],
    ["reset", (barrier) => barrier.reset(), false],
  ])("says that it was %s", async (what, act, broken) => {
    const barrier = new Barrier(2);
    const waited = watch(barrier.wait());

    act(barrier);

    expect([barrier.broken, barrier.waiting]).toEqual([broken, 0]);
    await turn();
    expect(String(waited.reason)).toBe(`BrokenBarrierError: The barrier was ${what}`);
    barrier.reset();
    expect(barrier.broken).toBe(false);
  });

  test("those who were refused by reset() can wait again", async () => {
    const barrier = new Barrier(3);
    const again = () => barrier.wait().catch(() => barrier.wait());
    const waits = [watch(again()), watch(again())];

    barrier.reset();
    await turn();
    waits.push(watch(again()));
    await turn();

    expect(waits.map(({ value }) => value)).toEqual([0, 1, 2]);
  });

  test("who waits is counted, whoever comes and goes", async () => {
    const barrier = new Barrier(3);
    const controller = new AbortController();
    const counts: number[] = [];
    const count = () => counts.push(barrier.waiting);

    const aborted = watch(barrier.wait({ signal: controller.signal }));
    count();
    const waits = [watch(barrier.wait())];
    count();
    controller.abort("aborted");
    count();
    waits.push(watch(barrier.wait()));
    count();
    waits.push(watch(barrier.wait()));
    count();

    await turn();
    expect(counts).toEqual([1, 2, 1, 2, 0]);
    expect(aborted.reason).toBe("aborted");
    expect(waits.map(({ value }) => value)).toEqual([0, 1, 2]);
    expect(barrier.broken).toBe(false);
  });

  describe("parties that have passed and come again", () => {
    /** Five parties pass; the others wait again while those from the `nth` on `act`, and then wait. */
    async function playFive(nth: number, act: (barrier: Barrier) => void) {
      const barrier = new Barrier(5);
      let passed = 0;
      const again = Array.from({ length: 5 }, async () => {
        await barrier.wait();
        if (++passed >= nth) act(barrier);
        return await barrier.wait();
      }).map(watch);
      await turn();
      return { barrier, again };
    }

    test("wait for the next round, not for the rest of this one", async () => {
      const [barrier, others] = [new Barrier(5), new Barrier(3)];
      let early = 2;
      const play = async () => {
        await barrier.wait();
        if (early-- <= 0) await others.wait();
        return barrier.wait();
      };

      const indexes = await Promise.all(Array.from({ length: 5 }, play));

      expect(indexes.sort()).toEqual([0, 1, 2, 3, 4]);
      expect([barrier.waiting, others.waiting]).toEqual([0, 0]);
    });

    test.each([1, 3, 5])(
      "stay when it is reset by party %d of five and those behind",
      async (nth) => {
        const { barrier, again } = await playFive(nth, (barrier) => barrier.reset());

        expect(again.map(({ value }) => value)).toEqual([0, 1, 2, 3, 4]);
        expect([barrier.waiting, barrier.broken]).toEqual([0, false]);
      },
    );

    test.each([1, 3, 5])("are refused when it is aborted by party %d of five", async (nth) => {
      const { barrier, again } = await playFive(nth, (barrier) => barrier.abort());

      expect(again.every(({ reason }) => reason instanceof BrokenBarrierError)).toBe(true);
      expect([barrier.waiting, barrier.broken]).toEqual([0, true]);
    });

    test("are refused when it is reset after all have gone on", async () => {
      const barrier = new Barrier(2);
      const play = () => barrier.wait().then(() => barrier.wait());
      const first = watch(play());
      const second = watch(barrier.wait());
      await turn();
      expect([second.state, barrier.waiting]).toEqual(["fulfilled", 1]);

      barrier.reset();

      await turn();
      expect(first.reason).toBeInstanceOf(BrokenBarrierError);
    });

    test("can mend it when they have met elsewhere", async () => {
      const [barrier, meeting] = [new Barrier(5), new Barrier(5)];
      const seen: string[] = [];
      const play = async () => {
        try {
          if ((await barrier.wait()) === 2) throw new Error("failed");
          await barrier.wait();
          seen.push("passed");
        } catch (error) {
          if (error instanceof BrokenBarrierError) seen.push("broken");
          else barrier.abort();
        }
        if ((await meeting.wait()) === 2) barrier.reset();
        await meeting.wait();
        await barrier.wait();
        seen.push("mended");
      };

      await Promise.all(Array.from({ length: 5 }, play));

      expect(seen).toEqual([...Array(4).fill("broken"), ...Array(5).fill("mended")]);
      expect([barrier.broken, barrier.waiting]).toEqual([false, 0]);
    });
  });

  test("a failing party can spare the others the wait", async () => {
    const barrier = new Barrier(3);
    const work = async (fails: boolean) => {
      await barrier.wait();
      if (fails) barrier.abort();
      else await barrier.wait();
    };

    const outcomes = await Promise.allSettled([work(false), work(true), work(false)]);

    expect(outcomes.map(({ status }) => status)).toEqual(["rejected", "fulfilled", "rejected"]);
  });

  test.each([
    ["0", 0, RangeError],
    ["-4", -4, RangeError],
    ["1.5", 1.5, RangeError],
    ["Infinity", Infinity, RangeError],
    ["undefined", undefined, TypeError],
    ['"2"', "2", TypeError],
  ])("refuses %s parties", (text, parties, Kind) => {
    expect(() => new Barrier(parties as number)).toThrow(
      new Kind(`Cannot create Barrier: parties must be a positive integer, received ${text}`),
    );
  });
});

describe("ReadWriteLock", () => {
  test("is held by many readers or by one writer", async () => {
    const lock = new ReadWriteLock();
    const seen = () => [lock.readers, lock.writing, lock.waiting];
    expect(seen()).toEqual([0, false, 0]);

    const readers = [await lock.read(), await lock.read()];
    expect(seen()).toEqual([2, false, 0]);

    const writing = watch(lock.write());
    await turn();
    expect(seen()).toEqual([2, false, 1]);
    expect(writing.state).toBe("pending");

    readers[0]!.release();
    await turn();
    expect(writing.state).toBe("pending");
    readers[1]!.release();
    expect(seen()).toEqual([0, true, 0]);
    await turn();
    writing.value!.release();
    expect(seen()).toEqual([0, false, 0]);
  });

  test.each<[string, (hold: Hold) => void]>([
    ["release()", (hold) => hold.release()],
    ["release() taken out of the hold", ({ release }) => release()],
    ["using", (hold) => hold[Symbol.dispose]()],
  ])("%s gives it back, once", async (_, release) => {
    const lock = new ReadWriteLock();
    const [one, two] = [await lock.read(), await lock.read()];
    release(one);
    release(one);
    expect(lock.readers).toBe(1);
    release(two);

    const writer = await lock.write();
    release(writer);
    const other = await lock.write();
    release(writer);
    expect(lock.writing).toBe(true);
    release(other);
    expect([lock.readers, lock.writing]).toEqual([0, false]);
  });

  describe("nobody overtakes", () => {
    /** What is let in, in order; each lets go when the test says so. */
    function enter(lock: ReadWriteLock, names: string) {
      const holds = new Map<string, Hold>();
      const order: string[] = [];
      for (const name of names.split(" ")) {
        const hold = name.startsWith("w") ? lock.write() : lock.read();
        void hold.then((hold) => {
          holds.set(name, hold);
          order.push(name);
        });
      }
      const release = async (...names: string[]) => {
        for (const name of names) holds.get(name)!.release();
        await turn();
      };
      return { order, release };
    }

    test("a reader doesn't overtake a waiting writer, nor a writer readers", async () => {
      const lock = new ReadWriteLock();
      const { order, release } = enter(lock, "r1 r2 w1 r3 r4 w2 w3 r5");
      await turn();
      expect(order.join(" ")).toBe("r1 r2");
      expect(lock.tryRead()).toBeUndefined();

      await release("r2");
      expect(order.join(" ")).toBe("r1 r2");
      await release("r1");
      expect(order.join(" ")).toBe("r1 r2 w1");
      await release("w1");
      expect(order.join(" ")).toBe("r1 r2 w1 r3 r4");
      await release("r3", "r4");
      await release("w2");
      await release("w3");
      expect(order.join(" ")).toBe("r1 r2 w1 r3 r4 w2 w3 r5");
    });

    test("a stream of readers doesn't starve a writer", () =>
      virtualTime(async (clock) => {
        const lock = new ReadWriteLock();
        let isOver = false;
        const readOn = async () => {
          while (!isOver) {
            using _hold = await lock.read();
            await sleep(10);
          }
        };
        const readers = [readOn(), sleep(5).then(readOn)];
        await sleep(12);

        using _hold = await lock.write();

        expect(clock.elapsed).toBe(20);
        isOver = true;
        _hold.release();
        await Promise.all(readers);
      }));

    test("a stream of writers doesn't starve a reader", () =>
      virtualTime(async (clock) => {
        const lock = new ReadWriteLock();
        let isOver = false;
        const writeOn = async () => {
          while (!isOver) {
            using _hold = await lock.write();
            await sleep(10);
          }
        };
        const writers = [writeOn(), writeOn()];
        await sleep(5);

        (await lock.read()).release();

        expect(clock.elapsed).toBe(20);
        isOver = true;
        await Promise.all(writers);
      }));

    test.each<[string, (lock: ReadWriteLock) => Promise<Hold>]>([
      ["read", (lock) => lock.read()],
      ["read with a signal", (lock) => lock.read({ signal: new AbortController().signal })],
    ])("a newcomer's %s() doesn't run before readers that were let in", async (_, read) => {
      const lock = new ReadWriteLock();
      const writer = await lock.write();
      const order: string[] = [];
      const waits = ["waiter 1", "waiter 2"].map((name) =>
        lock.read().then(() => order.push(name)),
      );

      writer.release();
      waits.push(read(lock).then(() => order.push("newcomer")));
      await Promise.all(waits);

      expect(order).toEqual(["waiter 1", "waiter 2", "newcomer"]);
    });

    test("tasks that write again and again take turns", async () => {
      const lock = new ReadWriteLock();
      const turns: number[] = [];
      let written = 0;
      const write = async (n: number) => {
        for (let round = 0; round < 5; round++) {
          using _hold = await lock.write();
          turns.push(n);
          const before = written;
          await undefined;
          written = before + n;
        }
      };

      await Promise.all([1, 2, 3].map(write));

      expect(turns.join("")).toBe("123".repeat(5));
      expect(written).toBe(30);
    });

    test("a writer waits for both reads of one caller, who then waits for the writer", async () => {
      const lock = new ReadWriteLock();
      const holds = [await lock.read(), await lock.read()];
      const writing = watch(lock.write());
      const reading = watch(lock.read());

      for (const hold of holds) {
        await turn();
        expect([writing.state, reading.state]).toEqual(["pending", "pending"]);
        hold.release();
      }
      await turn();
      expect([writing.state, reading.state]).toEqual(["fulfilled", "pending"]);

      writing.value!.release();
      await turn();
      expect([reading.state, lock.readers]).toEqual(["fulfilled", 1]);
    });

    test("a writer that is aborted at the head lets in the readers behind it", async () => {
      const lock = new ReadWriteLock();
      await lock.read();
      const controller = new AbortController();
      const writer = watch(lock.write({ signal: controller.signal }));
      const reader = watch(lock.read());
      const second = watch(lock.write());

      controller.abort("aborted");
      expect(lock.readers).toBe(2);

      await turn();
      expect(writer.reason).toBe("aborted");
      expect([reader.state, second.state]).toEqual(["fulfilled", "pending"]);
    });

    test("a writer that was let in and aborted in one turn lets in the next", async () => {
      const lock = new ReadWriteLock();
      const reader = await lock.read();
      const controller = new AbortController();
      const writer = watch(lock.write({ signal: controller.signal }));
      const readers = [watch(lock.read()), watch(lock.read())];

      reader.release();
      controller.abort("aborted");
      expect(lock.readers).toBe(2);

      await turn();
      expect(writer).toEqual({ state: "rejected", reason: "aborted" });
      expect(readers.map(({ state }) => state)).toEqual(["fulfilled", "fulfilled"]);
    });

    test("a free lock is not taken by a caller that is aborted in the same turn", async () => {
      const lock = new ReadWriteLock();
      const controller = new AbortController();
      const { signal } = controller;
      const waits = [watch(lock.read({ signal })), watch(lock.write({ signal }))];

      controller.abort("aborted");
      await turn();

      expect(waits.map(({ reason }) => reason)).toEqual(["aborted", "aborted"]);
      expect([lock.readers, lock.writing, lock.waiting]).toEqual([0, false, 0]);
    });
  });

  describe("tryRead() and tryWrite()", () => {
    test("take it if it is free for them", () => {
      const lock = new ReadWriteLock();
      const [one, two] = [lock.tryRead()!, lock.tryRead()!];
      expect(lock.tryWrite()).toBeUndefined();
      one.release();
      expect(lock.tryWrite()).toBeUndefined();
      two.release();

      const writer = lock.tryWrite()!;
      expect([lock.tryRead(), lock.tryWrite()]).toEqual([undefined, undefined]);
      writer.release();
      expect(lock.tryRead()).toBeDefined();
    });

    test("don't count on a waiter that is aborted and has not been told yet", async () => {
      const lock = new ReadWriteLock();
      await lock.read();
      const controller = new AbortController();
      const { signal } = controller;
      let reader: Hold | undefined;
      signal.addEventListener("abort", () => (reader = lock.tryRead()));
      const writer = watch(lock.write({ signal }));

      controller.abort("aborted");
      await turn();

      expect(reader).toBeDefined();
      expect(writer.reason).toBe("aborted");
    });
  });

  describe("downgrade()", () => {
    test("goes on as a reader, and lets in the readers at the head of the line", async () => {
      const lock = new ReadWriteLock();
      const { downgrade, release } = await lock.write();
      const [reader, writer, late] = [watch(lock.read()), watch(lock.write()), watch(lock.read())];

      downgrade();
      expect([lock.readers, lock.writing]).toEqual([2, false]);
      await turn();
      expect([reader, writer, late].map(({ state }) => state)).toEqual([
        "fulfilled",
        "pending",
        "pending",
      ]);

      downgrade();
      expect(lock.readers).toBe(2);
      release();
      expect(lock.readers).toBe(1);
      reader.value!.release();
      await turn();
      expect([lock.writing, late.state]).toEqual([true, "pending"]);
    });

    test("lets no other writer in between", async () => {
      const lock = new ReadWriteLock();
      const hold = await lock.write();
      const other = watch(lock.write());

      hold.downgrade();
      await turn();
      expect(other.state).toBe("pending");

      hold.release();
      await turn();
      expect(other.state).toBe("fulfilled");
    });

    test("does nothing after the release", async () => {
      const lock = new ReadWriteLock();
      const hold = await lock.write();
      hold.release();
      const other = await lock.write();

      hold.downgrade();

      expect(lock.writing).toBe(true);
      other.release();
      expect(lock.readers).toBe(0);
    });

    test("is for writers: a reader's hold hasn't got it", async () => {
      const lock = new ReadWriteLock();

      expect("downgrade" in (await lock.read())).toBe(false);
      expect("downgrade" in lock.tryRead()!).toBe(false);
    });
  });

  test.each([1, 2, 3])("random schedules keep to the rule (seed %d)", async (seed) => {
    const random = randomFrom(seed);
    for (let round = 0; round < 60; round++) {
      const lock = new ReadWriteLock();
      const inside: string[] = [];
      const started: number[] = [];
      const use = async (n: number, signal: AbortSignal) => {
        const isWriter = random() < 0.4;
        using hold = await (isWriter ? lock.write({ signal }) : lock.read({ signal }));
        started.push(n);
        inside.push(isWriter ? "writer" : "reader");
        expect(inside.includes("writer") && inside.length > 1).toBe(false);
        for (let hop = Math.floor(random() * 5); hop > 0; hop--) await undefined;
        inside.splice(inside.indexOf(isWriter ? "writer" : "reader"), 1);
        if (isWriter && random() < 0.3) (hold as WriteHold).downgrade();
      };
      const uses: Promise<unknown>[] = [];
      for (let n = 0; n < 30; n++) {
        const controller = new AbortController();
        uses.push(use(n, controller.signal).catch((reason) => expect(reason).toBe("aborted")));
        for (let hop = Math.floor(random() * 4); hop > 0; hop--) await undefined;
        if (random() < 0.3) controller.abort("aborted");
      }
      await Promise.all(uses);

      expect(started).toEqual(started.toSorted((a, b) => a - b));
      expect([lock.readers, lock.writing, lock.waiting]).toEqual([0, false, 0]);
    }
  });
});

describe("in every order", () => {
  test.each<[string, (world: World) => Promise<void>]>([
    [
      "AsyncEvent: a pulse wakes those that wait, in order, and no others",
      async (world) => {
        const event = new AsyncEvent();
        const { came, passed, left, all } = threeWait(world, (options) => event.wait(options));
        let early: string[] = [];
        await world.spawn("pulse", () => {
          event.set();
          event.clear();
          early = [...came];
        });
        await world.step("later");
        expect(passed).toEqual(early.filter((name) => !left.includes(name)));

        event.set();
        early = [...came];
        await event.wait();
        expect(passed).toEqual(early.filter((name) => !left.includes(name)));
        await all;
      },
    ],
    [
      "Latch: nobody passes before all have reported, and all do then, in order",
      async (world) => {
        const latch = new Latch(2);
        const { all } = threeWait(world, async (options) => {
          await latch.wait(options);
          expect(latch.count).toBe(0);
        });
        const report = () => latch.countDown();
        await Promise.all([world.spawn("one", report), world.spawn("two", report), all]);
        expect(latch.waiting).toBe(0);
      },
    ],
    // An abort comes up to three microtasks after a step; to get the lock again takes longer.
    ...[0, 4, 8].map((hops): [string, (world: World) => Promise<void>] => [
      `Condition: a notification that meets an abort goes on to the next, ${hops} microtasks later`,
      async (world) => {
        const mutex = new Mutex();
        const condition = new Condition(mutex);
        const signal = mayAbort(world, hops);
        const items = ["a", "b"];
        const stock: string[] = [];
        const taken: string[] = [];
        const take = async (options?: WaitOptions) => {
          using _lock = await mutex.lock();
          await condition.waitFor(() => {
            expect(options?.signal?.aborted ?? false).toBe(false);
            return stock.length > 0;
          }, options);
          taken.push(stock.shift()!);
          await world.step("use it");
        };
        const put = async () => {
          for (const item of items) {
            using _lock = await mutex.lock();
            await world.step("make an item");
            stock.push(item);
            condition.notify();
          }
        };
        const errors = await errorsOf(
          world.spawn("aborted", () => take({ signal })),
          world.spawn("patient", () => take()),
          world.spawn("producer", put),
        );
        for (const error of errors) expect(error).toBe(signal.reason);
        expect(taken).toHaveLength(2 - errors.length);
        expect([...taken, ...stock]).toEqual(items);
        expect([mutex.locked, mutex.waiting, condition.waiting]).toEqual([false, 0, 0]);
      },
    ]),
    [
      "Condition: wait() holds the lock whenever it ends, and takes it in order",
      async (world) => {
        const mutex = new Mutex();
        const condition = new Condition(mutex);
        const inside = onlyOne();
        const allCame = Promise.withResolvers<void>();
        let count = 0;
        const waiters = threeWait(world, async (options) => {
          const lock = await mutex.lock();
          if (++count === 3) allCame.resolve();
          try {
            await condition.wait(options);
          } finally {
            await inside(() => world.step("after the wait"));
            lock.release();
          }
        });
        const notifyAll = () => mutex.run(() => condition.notifyAll());
        await world.spawn("notifier", notifyAll);
        await allCame.promise;
        await notifyAll();
        await waiters.all;
        expect([mutex.locked, mutex.waiting, condition.waiting]).toEqual([false, 0, 0]);
      },
    ],
    [
      "Condition: three take turns, each told by another",
      async (world) => {
        const mutex = new Mutex();
        const condition = new Condition(mutex);
        const turns: number[] = [];
        const play = async (player: number) => {
          using _lock = await mutex.lock();
          for (let round = 0; round < 2; round++) {
            await condition.waitFor(() => turns.length % 3 === player);
            turns.push(player);
            condition.notifyAll();
            await world.step("play");
          }
        };
        await Promise.all([0, 1, 2].map((n) => world.spawn(`player ${n}`, () => play(n))));
        expect(turns).toEqual([0, 1, 2, 0, 1, 2]);
      },
    ],
    [
      "Condition: an async predicate is not called after the abort, and takes no notification along",
      async (world) => {
        const mutex = new Mutex();
        const condition = new Condition(mutex);
        const signal = mayAbort(world);
        let isReady = false;
        const look = async (options?: WaitOptions) => {
          using _lock = await mutex.lock();
          const isAborted = () => options?.signal?.aborted ?? false;
          await condition.waitFor(async () => {
            expect(isAborted()).toBe(false);
            await world.step("look");
            return isReady;
          }, options);
          condition.notify();
        };
        const errors = await errorsOf(
          world.spawn("aborted", () => look({ signal })),
          world.spawn("patient", () => look()),
          world.spawn("setter", () =>
            mutex.run(() => {
              isReady = true;
              condition.notify();
            }),
          ),
        );
        for (const error of errors) expect(error).toBe(signal.reason);
        expect([mutex.locked, mutex.waiting, condition.waiting]).toEqual([false, 0, 0]);
      },
    ],
    [
      "Barrier: an aborted party leaves, and another takes its place",
      async (world) => {
        const barrier = new Barrier(2);
        const indexes: number[] = [];
        const three = threeWait(world, async (options) => {
          indexes.push(await barrier.wait(options));
        });
        const breaking = world.spawn("breaker", async () => {
          await world.step("later");
          expect(barrier.waiting).toBeLessThan(2);
          barrier.reset();
          expect(barrier.waiting).toBe(0);
          await world.step("last");
          barrier.abort();
        });
        await Promise.all([three.all, breaking]);
        // One alone passes only if the other is aborted when both are there.
        const isAlone = three.left.includes("bob") && indexes.length === 1;
        expect(isAlone ? [0, 1] : indexes.toSorted()).toEqual(indexes.length > 0 ? [0, 1] : []);
        expect([barrier.waiting, barrier.broken]).toEqual([0, true]);
      },
    ],
    [
      "Barrier: both parties of a round pass or both are refused, whenever it is reset",
      async (world) => {
        const barrier = new Barrier(2);
        const arrive = async (): Promise<number> => {
          for (;;) {
            try {
              return await barrier.wait();
            } catch (error) {
              expect(error).toBeInstanceOf(BrokenBarrierError);
            }
          }
        };
        // It may come with any other step, some microtasks later.
        mayAbort(world).addEventListener("abort", () => barrier.reset());
        const indexes = await Promise.all([world.spawn("ann", arrive), world.spawn("bob", arrive)]);
        expect(indexes.sort()).toEqual([0, 1]);
        expect([barrier.waiting, barrier.broken]).toEqual([0, false]);
      },
    ],
    [
      "Barrier: nobody begins a round before all have ended the last one",
      async (world) => {
        const barrier = new Barrier(3);
        const ended = [0, 0];
        const play = async () => {
          for (const round of [0, 1]) {
            await world.step("play");
            ended[round]!++;
            await barrier.wait();
            expect(ended[round]).toBe(3);
          }
        };
        await Promise.all(["ann", "bob", "cyd"].map((name) => world.spawn(name, play)));
        expect(barrier.waiting).toBe(0);
      },
    ],
    ...(["read", "write"] as const).map((kind): [string, (world: World) => Promise<void>] => [
      `ReadWriteLock: a writer is alone, and all are let in as they came (one may leave: to ${kind})`,
      async (world) => {
        const lock = new ReadWriteLock();
        const inside: string[] = [];
        await threeWait(
          world,
          (options, name) =>
            (kind === "write") === (name === "bob") ? lock.write(options) : lock.read(options),
          async (hold) => {
            using _hold = hold;
            const isWriter = "downgrade" in hold;
            inside.push(isWriter ? "writer" : "reader");
            if (inside.includes("writer")) expect(inside).toHaveLength(1);
            expect(lock.writing).toBe(isWriter);
            await world.step(isWriter ? "write" : "read");
            inside.splice(inside.indexOf(isWriter ? "writer" : "reader"), 1);
          },
        ).all;
        expect([lock.readers, lock.writing, lock.waiting]).toEqual([0, false, 0]);
      },
    ]),
    [
      "ReadWriteLock: no other writer comes between writing and reading what was written",
      async (world) => {
        const lock = new ReadWriteLock();
        const signal = mayAbort(world);
        let version = 0;
        const write = async (options?: WaitOptions) => {
          using hold = await lock.write(options);
          const written = ++version;
          await world.step("write");
          hold.downgrade();
          await world.step("read it again");
          expect(version).toBe(written);
        };
        const errors = await errorsOf(
          world.spawn("aborted", () => write({ signal })),
          world.spawn("patient", () => write()),
          world.spawn("impatient", () => {
            const hasWaiters = lock.waiting > 0;
            using writer = lock.tryWrite();
            if (writer) version++;
            using reader = lock.tryRead();
            expect(reader !== undefined).toBe(!lock.writing && !hasWaiters);
          }),
        );
        for (const error of errors) expect(error).toBe(signal.reason);
        expect([lock.readers, lock.writing, lock.waiting]).toEqual([0, false, 0]);
      },
    ],
  ])(
    "%s",
    async (_, scenario) => {
      await everyOrder(scenario);
    },
    120_000,
  );
});

test.each<[object, string]>([
  [new AsyncEvent(), 'AsyncEvent {"isSet":false,"waiting":0}'],
  [new Latch(2), 'Latch {"count":2,"waiting":0}'],
  [new Condition(new Mutex()), 'Condition {"waiting":0}'],
  [new Barrier(3), 'Barrier {"parties":3,"waiting":0,"broken":false}'],
  [new ReadWriteLock(), 'ReadWriteLock {"readers":0,"writing":false,"waiting":0}'],
])("%o is printed with its members", (object, text) => {
  const print = (object as Record<symbol, Function>)[Symbol.for("nodejs.util.inspect.custom")]!;

  expect(print.call(object, 2, {}, (members: object) => JSON.stringify(members))).toBe(text);
});

test("what waits is printed, and what it waits for", () => {
  const [event, latch, barrier, lock] = [
    new AsyncEvent(),
    new Latch(2),
    new Barrier(3),
    new ReadWriteLock(),
  ];
  for (const it of [event, latch, barrier]) void it.wait();
  for (let n = 0; n < 2; n++) void lock.read();
  void lock.write();
  const mutex = new Mutex();
  const condition = new Condition(mutex);
  mutex.tryLock();
  void condition.wait();
  const print = (object: object) =>
    (object as Record<symbol, Function>)[Symbol.for("nodejs.util.inspect.custom")]!(
      2,
      {},
      JSON.stringify,
    );

  expect([event, latch, condition, barrier, lock].map(print)).toEqual([
    'AsyncEvent {"isSet":false,"waiting":1}',
    'Latch {"count":2,"waiting":1}',
    'Condition {"waiting":1}',
    'Barrier {"parties":3,"waiting":1,"broken":false}',
    'ReadWriteLock {"readers":2,"writing":false,"waiting":1}',
  ]);
});

test("types", () => {
  const condition = new Condition(new Mutex());
  const lock = new ReadWriteLock();
  const mixed = (): number | Promise<string> => 1;
  const generic = <T>(predicate: () => T | PromiseLike<T>) => condition.waitFor<T>(predicate);

  expectTypeOf(condition.waitFor(mixed)).toEqualTypeOf<Promise<number | string>>();
  expectTypeOf(new AsyncEvent().wait()).toEqualTypeOf<Promise<void>>();
  expectTypeOf(new Barrier(1).wait()).toEqualTypeOf<Promise<number>>();
  expectTypeOf(condition.wait).returns.toEqualTypeOf<Promise<void>>();
  expectTypeOf(condition.waitFor(() => ["a"].shift())).toEqualTypeOf<Promise<string>>();
  expectTypeOf(condition.waitFor(async () => ["a"].shift())).toEqualTypeOf<Promise<string>>();
  expectTypeOf(generic(() => 1)).toEqualTypeOf<Promise<number>>();
  expectTypeOf(lock.read()).toEqualTypeOf<Promise<Hold>>();
  expectTypeOf(lock.write()).toEqualTypeOf<Promise<WriteHold>>();
  expectTypeOf(lock.tryRead()).toEqualTypeOf<Hold | undefined>();
  expectTypeOf(lock.tryWrite()).toEqualTypeOf<WriteHold | undefined>();
  expectTypeOf<Mutex>().toExtend<ConditionMutex>();
});

test.skipIf(!Bun)("a cancelled waiter's memory is freed at once (needs Bun)", async () => {
  const event = new AsyncEvent();
  void event.wait();
  const abortMany = async () => {
    const controllers = Array.from({ length: 500 }, () => new AbortController());
    const waits = controllers.map(({ signal }) => event.wait({ signal }));
    for (const controller of controllers) controller.abort();
    await Promise.allSettled(waits);
    return controllers.map(({ signal }) => new WeakRef(signal));
  };
  let fewest = Infinity;
  // What merely looks like a pointer may keep some: the best of some tries counts. A leak is in each.
  for (let attempt = 0; attempt < 5 && fewest >= 50; attempt++) {
    const signals = await abortMany();
    await turn();
    Bun!.gc(true);
    fewest = Math.min(fewest, signals.filter((ref) => ref.deref()).length);
  }

  expect(event.waiting).toBe(1);
  expect(fewest).toBeLessThan(50);
});

/** Something to wait at, and what wakes all that wait there. */
interface Place {
  wait(options: WaitOptions): Promise<unknown>;
  wake(): unknown;
  waiting(): number;
  /** Whether nothing is left behind when all have been woken. */
  isFree(): boolean;
}

function places(): Record<string, () => Place> {
  return {
    "AsyncEvent, woken by set()": () => {
      const event = new AsyncEvent();
      return { ...waitsAt(event), wake: () => event.set(), isFree: () => event.isSet };
    },
    "AsyncEvent, woken by set() and clear()": () => {
      const event = new AsyncEvent();
      const wake = () => (event.set(), event.clear());
      return { ...waitsAt(event), wake, isFree: () => !event.isSet };
    },
    "Latch, woken by countDown()": () => {
      const latch = new Latch(1);
      return { ...waitsAt(latch), wake: () => latch.countDown(), isFree: () => latch.count === 0 };
    },
    "Barrier, woken by the last to arrive": () => {
      const barrier = new Barrier(4);
      const wake = () => {
        while (barrier.waiting > 0) void barrier.wait();
      };
      return { ...waitsAt(barrier), wake, isFree: () => !barrier.broken };
    },
    "Condition, woken by notify() for each": () =>
      conditionPlace((condition) => {
        for (let n = condition.waiting; n > 0; n--) condition.notify();
      }),
    "Condition, woken by notify(n)": () =>
      conditionPlace((condition) => condition.notify(condition.waiting)),
    "Condition, woken by notifyAll()": () => conditionPlace((condition) => condition.notifyAll()),
    "ReadWriteLock, readers woken by a writer's release()": () => {
      const lock = new ReadWriteLock();
      const writer = lock.tryWrite()!;
      const wait = (options: WaitOptions) => lock.read(options).then((hold) => hold.release());
      const isFree = () => lock.tryWrite() !== undefined;
      return { wait, wake: () => writer.release(), waiting: () => lock.waiting, isFree };
    },
    "ReadWriteLock, readers woken by downgrade()": () => {
      const lock = new ReadWriteLock();
      const writer = lock.tryWrite()!;
      const wait = (options: WaitOptions) => lock.read(options).then((hold) => hold.release());
      const isFree = () => lock.readers === 1;
      return { wait, wake: () => writer.downgrade(), waiting: () => lock.waiting, isFree };
    },
    "ReadWriteLock, writers woken by a reader's release()": () => {
      const lock = new ReadWriteLock();
      const reader = lock.tryRead()!;
      const wait = (options: WaitOptions) => lock.write(options).then((hold) => hold.release());
      const isFree = () => lock.tryWrite() !== undefined;
      return { wait, wake: () => reader.release(), waiting: () => lock.waiting, isFree };
    },
  };
}

function waitsAt(target: {
  wait(options: WaitOptions): Promise<unknown>;
  readonly waiting: number;
}): Pick<Place, "wait" | "waiting"> {
  return { wait: (options) => target.wait(options), waiting: () => target.waiting };
}

/** Its waiters come and go with the lock; who wakes them takes it for that. */
function conditionPlace(notify: (condition: Condition) => void): Place {
  const mutex = new Mutex();
  const condition = new Condition(mutex);
  return {
    wait: (options) => {
      const lock = mutex.tryLock()!;
      return condition.wait(options).finally(() => {
        expect(mutex.locked).toBe(true);
        lock.release();
      });
    },
    wake: () => {
      using _lock = mutex.tryLock()!;
      notify(condition);
    },
    waiting: () => condition.waiting,
    isFree: () => !mutex.locked,
  };
}

/** What is not an integer of 0 or more. */
function notAmounts(): [name: string, value: unknown, Kind: ErrorConstructor][] {
  return [
    ["-1", -1, RangeError],
    ["1.5", 1.5, RangeError],
    ["NaN", NaN, RangeError],
    ["Infinity", Infinity, RangeError],
    ["2 ** 53", 2 ** 53, RangeError],
    ["null", null, TypeError],
    ['"1"', "1", TypeError],
  ];
}

/** A mutex of one's own, as small as can be: what Condition needs, and in order. */
class OwnMutex implements ConditionMutex {
  locked = false;
  readonly #line: (() => void)[] = [];

  lock(): Promise<void> {
    return new Promise((resolve) => {
      if (this.locked) this.#line.push(resolve);
      else resolve();
      this.locked = true;
    });
  }

  unlock(): void {
    const next = this.#line.shift();
    if (next) next();
    else this.locked = false;
  }

  async unlockWhile<T>(fn: (lockAgain: () => Promise<void>) => PromiseLike<T>): Promise<T> {
    let locking: Promise<void> | undefined;
    const lockAgain = () => (locking ??= this.lock());
    this.unlock();
    try {
      return await fn(lockAgain);
    } finally {
      await lockAgain();
    }
  }
}

/** An abort that may come at any moment, and some microtasks later; or never. */
function mayAbort(world: World, hops = 0): AbortSignal {
  const [first, last] = [new AbortController(), new AbortController()];
  world.abort(first);
  if (hops === 0) return first.signal;
  first.signal.addEventListener("abort", async () => {
    for (let hop = 0; hop < hops; hop++) await undefined;
    last.abort();
  });
  return last.signal;
}

/**
 * Ann, Bob and Cyd wait, and are let in as they came. Bob may be aborted: then he has left.
 *
 * `then` is what each does with what it has received.
 */
function threeWait<T>(
  world: World,
  wait: (options: WaitOptions, name: string) => Promise<T>,
  then?: (received: T) => Promise<void>,
) {
  const signal = mayAbort(world);
  const [came, passed, left]: string[][] = [[], [], []];
  const tasks = ["ann", "bob", "cyd"].map((name) =>
    world.spawn(name, async () => {
      came!.push(name);
      try {
        const received = await wait(name === "bob" ? { signal } : {}, name);
        passed!.push(name);
        await then?.(received);
      } catch (error) {
        if (error instanceof BrokenBarrierError) return;
        if (name !== "bob" || error !== signal.reason) throw error;
        left!.push(name);
      }
    }),
  );
  const all = Promise.all(tasks).then(() => {
    expect(passed).toEqual(came!.filter((name) => passed!.includes(name)));
  });
  return { came: came!, passed: passed!, left: left!, all };
}

/** Runs a function, and fails if another one is running. */
function onlyOne(): (fn: () => Promise<void>) => Promise<void> {
  let running = 0;
  return async (fn) => {
    expect(++running).toBe(1);
    await fn();
    running--;
  };
}

/** What those of the tasks have rejected with that have failed. */
async function errorsOf(...tasks: Promise<unknown>[]): Promise<unknown[]> {
  const outcomes = await Promise.allSettled(tasks);
  return outcomes.flatMap((it) => (it.status === "rejected" ? [it.reason] : []));
}

/** A small part of the orders, or all with `bun run test:orders`. */
async function everyOrder(scenario: (world: World) => unknown): Promise<void> {
  const { process } = globalThis as { process?: { env: Record<string, string | undefined> } };
  const all = process?.env["ORDERS"] === "all";
  const part = all ? { maxRuns: 200_000, maxMs: 60_000 } : { maxRuns: 300, maxMs: Infinity };
  const result = await interleavings(scenario, part);
  if (all) console.log(`orders: ${result.runs}`); // summed up by test:orders
}

/** Long enough for all that follows from microtasks. */
async function turn(): Promise<void> {
  for (let hop = 0; hop < 50; hop++) await undefined;
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** What has become of a promise so far. */
function watch<T>(promise: Promise<T>): { state: string; value?: T; reason?: unknown } {
  const watched: { state: string; value?: T; reason?: unknown } = { state: "pending" };
  promise.then(
    (value) => Object.assign(watched, { state: "fulfilled", value }),
    (reason: unknown) => Object.assign(watched, { state: "rejected", reason }),
  );
  return watched;
}

/** How many listeners a signal has. */
function countListeners(signal: AbortSignal): () => number {
  let count = 0;
  const { addEventListener, removeEventListener } = signal;
  signal.addEventListener = (...args: Parameters<typeof addEventListener>) => {
    count++;
    addEventListener.apply(signal, args);
  };
  signal.removeEventListener = (...args: Parameters<typeof removeEventListener>) => {
    count--;
    removeEventListener.apply(signal, args);
  };
  return () => count;
}

function randomFrom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}
