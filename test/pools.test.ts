/**
 * How to test a pool, and code that uses one: pool numbers instead of connections, and record which
 * are created and destroyed; let each step be slow, fail or hang; abort callers at every point, and
 * prove that no resource is lost and no caller left behind. Time is virtual.
 */
import { describe, expect, expectTypeOf, test } from "bun:test";

import { interleavings, type World } from "../concepts/interleavings.ts";
import { type Lease, Pool, type PoolOptions } from "../concepts/pools.ts";
import { virtualTime } from "../concepts/virtual-time.ts";

const hooks = globalThis.process?.getBuiltinModule?.("node:async_hooks");

describe("Start here", () => {
  test("pool numbers instead of connections, and record what is created and destroyed", async () => {
    const created: number[] = [];
    const destroyed: number[] = [];
    const pool = new Pool({
      create: async () => created.push(created.length + 1),
      destroy: (n) => destroyed.push(n),
      max: 2,
    });

    await Promise.all([1, 2, 3].map(() => pool.use(async () => {})));
    expect(created).toEqual([1, 2]);

    await pool[Symbol.asyncDispose]();
    expect(destroyed.toSorted()).toEqual([1, 2]);
  });

  test("virtual time shows who had to wait, to the millisecond and without waiting", async () => {
    await virtualTime(async (clock) => {
      const { pool } = numbered({ max: 1 });
      const query = () => pool.use(() => sleep(100).then(() => clock.elapsed));

      expect(await Promise.all([query(), query(), query()])).toEqual([100, 200, 300]);
    });
  });

  test("hold a lease to make the pool busy; release it when the caller is to go on", async () => {
    const { pool } = numbered({ max: 1 });
    const lease = await pool.acquire();
    let isServed = false;
    const caller = pool.use(() => (isServed = true));

    await turns();
    expect(isServed).toBe(false);

    lease.release();
    await caller;
    expect(isServed).toBe(true);
  });

  test("let a resource break: discard it, and the next caller gets a new one", async () => {
    const { pool, destroyed } = numbered({ max: 1 });
    {
      using lease = await pool.acquire();
      lease.discard();
    }

    expect(await pool.use((n) => n)).toBe(2);
    expect(destroyed).toEqual([1]);
  });

  test("trap: use() can't know that an error means a broken resource; validate can", async () => {
    const broken = new Set<number>();
    const { pool } = numbered({ max: 1, validate: (n) => !broken.has(n) });
    const failing = pool.use((n) => {
      broken.add(n);
      throw new Error("connection reset");
    });
    await failing.catch(() => {});

    expect(await pool.use((n) => n)).toBe(2);
  });

  test("trap: a lease that is not returned blocks the others; give callers a signal", async () => {
    await virtualTime(async (clock) => {
      const { pool } = numbered({ max: 1 });
      await pool.acquire(); // never released

      const caller = rejection(pool.acquire({ signal: AbortSignal.timeout(100) }));

      expect(await caller).toHaveProperty("name", "TimeoutError");
      expect(clock.elapsed).toBe(100);
    });
  });
});

describe("Pool", () => {
  test.each([
    { max: 1, tasks: 5, elapsed: 500 },
    { max: 2, tasks: 5, elapsed: 300 },
    { max: 5, tasks: 5, elapsed: 100 },
    { max: 3, tasks: 100, elapsed: 3400 },
    { max: 3, tasks: 0, elapsed: 0 },
  ])("$max resources let $tasks tasks of 100 ms end after $elapsed ms", async (given) => {
    await virtualTime(async (clock) => {
      const { pool, created } = numbered({ max: given.max });
      const order: number[] = [];

      const results = await Promise.all(
        Array.from({ length: given.tasks }, (_, n) =>
          pool.use(async () => {
            order.push(n);
            await sleep(100);
            return n;
          }),
        ),
      );

      expect(clock.elapsed).toBe(given.elapsed);
      expect(created.length).toBe(Math.min(given.max, given.tasks));
      expect(order).toEqual(results);
      expect(order).toEqual(order.toSorted((a, b) => a - b));
    });
  });

  test("creates a resource when it is needed, and lends it again", async () => {
    const { pool, created } = numbered({ max: 2 });
    expect(created).toEqual([]);

    expect(await pool.use((resource) => resource)).toBe(1);
    expect(await pool.use((resource) => resource)).toBe(1);

    expect(pool).toMatchObject({ size: 1, idle: 1, waiting: 0 });
  });

  test("says how many resources there are, lie idle, and are waited for", async () => {
    const { pool } = numbered({ max: 2 });
    const leases = [await pool.acquire(), await pool.acquire()];
    const third = pool.acquire();
    expect(pool).toMatchObject({ size: 2, idle: 0, waiting: 1 });

    leases[0]!.release();
    await third;
    leases[1]!.release();
    expect(pool).toMatchObject({ size: 2, idle: 1, waiting: 0 });
  });

  test("lends first what came back last", async () => {
    const { pool } = numbered({ max: 3 });
    const [one, two, three] = [await pool.acquire(), await pool.acquire(), await pool.acquire()];
    for (const lease of [two, three, one]) lease.release();

    expect((await pool.acquire()).value).toBe(1);
    expect((await pool.acquire()).value).toBe(3);
  });

  test.each(["free", "in line"])(
    "use() never calls the function synchronously: %s",
    async (how) => {
      const { pool } = numbered({ max: 1 });
      await pool.use(() => {});
      const lease = how === "in line" ? await pool.acquire() : undefined;
      const log: string[] = [];

      const used = pool.use(() => log.push("called"));
      lease?.release();
      log.push("later");
      await used;

      expect(log).toEqual(["later", "called"]);
    },
  );

  test("counters change at once, before a caller goes on", async () => {
    const { pool } = numbered({ max: 1 });
    const lease = await pool.acquire();
    const waiting = pool.acquire();

    lease.release();
    expect(pool).toMatchObject({ size: 1, idle: 0, waiting: 0 });

    (await waiting).release();
    const used = pool.use(() => {});
    expect(pool).toMatchObject({ size: 1, idle: 0, waiting: 0 });
    await used;
    expect(pool.idle).toBe(1);
  });

  test("the methods of a lease need no this", async () => {
    const { pool, destroyed } = numbered({ max: 1 });

    const { value, release } = await pool.acquire();
    release();
    expect(value).toBe(1);
    expect(pool.idle).toBe(1);

    const { discard } = await pool.acquire();
    discard();
    await turns();
    expect(destroyed).toEqual([1]);
  });

  test("use() takes a function that returns a value or a promise", async () => {
    const { pool } = numbered({ max: 1 });
    const promise = pool.use((n): string | Promise<number> => Promise.resolve(n));
    const explicit = pool.use<string>(async () => "text");

    expectTypeOf(promise).toEqualTypeOf<Promise<string | number>>();
    expectTypeOf(explicit).toEqualTypeOf<Promise<string>>();
    expect(await promise).toBe(1);
    expect(await explicit).toBe("text");
  });

  test.skipIf(!hooks)(
    "use() calls it in its caller's async context (not in browsers)",
    async () => {
      const storage = new hooks!.AsyncLocalStorage<number>();
      const { pool } = numbered({ max: 1 });
      const callers = [1, 2, 3];

      const seen = callers.map((n) => storage.run(n, () => pool.use(() => storage.getStore())));

      expect(await Promise.all(seen)).toEqual(callers);
    },
  );

  test("use() gives the resource back when the function throws", async () => {
    const { pool, destroyed } = numbered({ max: 1 });

    const failing = () => {
      throw "failed";
    };
    for (const fn of [failing, () => Promise.reject("failed"), failing]) {
      expect(await rejection(pool.use(fn))).toBe("failed");
    }

    expect(await pool.use((resource) => resource)).toBe(1);
    expect(destroyed).toEqual([]);
  });

  test.each(["release", "discard"] as const)(
    "a lease goes back once, however often: %s() first",
    async (method) => {
      const { pool, destroyed } = numbered({ max: 1 });
      {
        using lease = await pool.acquire();
        lease[method]();
        lease[method]();
        lease.release();
        lease.discard();
      }
      await turns();

      expect(destroyed).toEqual(method === "discard" ? [1] : []);
      expect(pool.idle).toBe(method === "discard" ? 0 : 1);
      await pool.acquire();
      const second = pool.acquire();
      await turns();
      expect(pool).toMatchObject({ size: 1, waiting: 1 });
      second.catch(() => {});
    },
  );

  test("a discarded resource keeps its place until it is destroyed, then the next gets a new one", async () => {
    await virtualTime(async (clock) => {
      const { pool } = numbered({ max: 1, destroy: () => sleep(100) });
      const broken = await pool.acquire();
      const next = pool.acquire();

      broken.discard();
      broken.release();

      expect((await next).value).toBe(2);
      expect(clock.elapsed).toBe(100);
    });
  });

  test.each(["create", "validate"])("a %s has a time limit by AbortSignal.any()", async (step) => {
    await virtualTime(async (clock) => {
      const hang = (signal: AbortSignal) =>
        new Promise<never>((_, reject) => {
          const both = AbortSignal.any([signal, AbortSignal.timeout(100)]);
          both.addEventListener("abort", () => reject(both.reason));
        });
      const { pool, destroyed } = numbered({
        max: 1,
        delay: (n, signal) => (step === "create" && n === 1 ? hang(signal) : 0),
        validate: (n, signal) => (step === "validate" && n === 1 ? hang(signal) : true),
      });
      if (step === "validate") await pool.use(() => {});

      const [first, second] = await Promise.allSettled([pool.use((n) => n), pool.use((n) => n)]);

      if (step === "create") expect(first).toHaveProperty("reason.name", "TimeoutError");
      else expect(first).toHaveProperty("value", 2);
      expect(second).toHaveProperty("value", 2);
      expect(destroyed).toEqual(step === "create" ? [] : [1]);
      expect(clock.elapsed).toBe(100);
    });
  });

  test("shows itself to console.log", async () => {
    const { pool } = numbered({ max: 1 });
    await Promise.race([pool.acquire(), pool.acquire()]);
    const shown = pool as object as Record<symbol, (...args: unknown[]) => string>;

    const text = shown[Symbol.for("nodejs.util.inspect.custom")]!(2, {}, JSON.stringify);

    expect(text).toBe('Pool {"size":1,"idle":0,"waiting":1}');
  });

  describe("an abort meets the wake-up", () => {
    /** What wakes those who wait for the only resource, which is lent to `held`. */
    interface Place {
      pool: Pool<number>;
      wake(held: Lease<number>): unknown;
      /** What those get who are not aborted. */
      outcomes: (alive: number) => unknown[];
    }
    const places: [name: string, create: () => Place][] = [
      [
        "a release",
        () => ({ ...numbered({ max: 1 }), wake: (held) => held.release(), outcomes: served(1) }),
      ],
      [
        "a release, with validate",
        () => ({
          ...numbered({ max: 1, validate: async () => true }),
          wake: (held) => held.release(),
          outcomes: served(1),
        }),
      ],
      [
        "a discard",
        () => ({ ...numbered({ max: 1 }), wake: (held) => held.discard(), outcomes: served(2) }),
      ],
      [
        "an error of create",
        () => {
          let calls = 0;
          const create = async () => {
            if (++calls === 2) throw new Error("refused");
            return calls;
          };
          const outcomes = (alive: number) => ["Error: refused", 3, 3].slice(0, alive);
          return { pool: new Pool({ create, max: 1 }), wake: (held) => held.discard(), outcomes };
        },
      ],
      [
        "disposal",
        () => {
          const { pool } = numbered({ max: 1 });
          const wake = (held: Lease<number>) => {
            void pool[Symbol.asyncDispose]();
            held.release();
          };
          const error = "Error: Cannot acquire from Pool: it has been disposed";
          return { pool, wake, outcomes: (alive) => Array.from({ length: alive }, () => error) };
        },
      ],
    ];
    const methods = {
      acquire: async (pool: Pool<number>, signal: AbortSignal) => {
        using lease = await pool.acquire({ signal });
        await Promise.resolve();
        return lease.value;
      },
      use: (pool: Pool<number>, signal: AbortSignal) =>
        pool.use((n) => (signal.aborted ? "called after an abort" : n), { signal }),
    };
    // Before, while it waits, right before the wake-up; and so many microtasks after it.
    const moments = [-3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 12];

    describe.each(Object.entries(methods))("%s()", (_, enter) => {
      test.each(places)("woken by %s", async (placeName, create) => {
        for (const who of [0, 1, 2]) {
          for (const moment of moments) {
            const { pool, wake, outcomes } = create();
            const held = await pool.acquire();
            const callers = [0, 1, 2].map(() => watchedController());
            const abort = () => callers[who]!.controller.abort("stop");

            if (moment === -3) abort();
            const entering = callers.map(({ controller }) => enter(pool, controller.signal));
            await turns();
            if (moment === -2) abort();
            if (moment < -1) {
              expect(pool.waiting).toBe(2);
              expect(await Promise.race([entering[who]!.catch(String), turns()])).toBe("stop");
            }
            if (moment === -1) abort();
            wake(held);
            for (let n = 0; n < moment; n++) await undefined;
            abort();
            const seen = await Promise.all(entering.map((call) => call.catch(String)));
            await turns();

            // Once it has been served, or refused, an abort changes nothing.
            const isDead = seen[who] === "stop";
            if (moment < (placeName === "disposal" ? 0 : 1)) expect(isDead).toBe(true);
            const alive: unknown[] = seen.filter((_, caller) => caller !== who || !isDead);
            expect({ who, moment, alive }).toEqual({ who, moment, alive: outcomes(alive.length) });
            expect(callers.map(({ listeners }) => listeners())).toEqual([0, 0, 0]);
            const left = placeName === "disposal" ? 0 : 1;
            expect(pool).toMatchObject({ size: left, idle: left, waiting: 0 });
          }
        }
      });
    });
  });

  test.each([1, 2, 3])("no newcomer overtakes those who wait: %d resources", async (max) => {
    const { pool } = numbered({ max });
    const order: string[] = [];
    const leases = await Promise.all(Array.from({ length: max }, () => pool.acquire()));
    const waiting = [1, 2].map((n) => pool.use(() => order.push(`waiter ${n}`)));

    for (const lease of leases) lease.release();
    await Promise.all([
      ...waiting,
      pool.use(() => order.push("newcomer 1")),
      pool.use(() => order.push("newcomer 2"), {}),
      pool.acquire().then(() => order.push("newcomer 3")),
    ]);

    expect(order).toEqual(["waiter 1", "waiter 2", "newcomer 1", "newcomer 2", "newcomer 3"]);
  });

  test("a newcomer who finds a resource goes on after waiters of all kinds", async () => {
    const { pool } = numbered({ max: 3 });
    const leases = await Promise.all([1, 2, 3].map(() => pool.acquire()));
    const order: string[] = [];
    const waiting = [
      pool.acquire().then(() => order.push("waiter 1")),
      pool.use(() => order.push("waiter 2")),
    ];

    for (const lease of leases) lease.release();
    await Promise.all([...waiting, pool.use(() => order.push("newcomer"))]);

    expect(order).toEqual(["waiter 1", "waiter 2", "newcomer"]);
  });

  test("a waiter served by an abort ahead of it goes on before a newcomer", async () => {
    const { pool } = numbered({ max: 1 });
    const held = await pool.acquire();
    const controller = new AbortController();
    const order: string[] = [];
    const aborted = pool.acquire({ signal: controller.signal });
    const waiting = pool.use(() => order.push("waiter"));

    held.release();
    controller.abort("stop");
    await Promise.all([rejection(aborted), waiting, pool.use(() => order.push("newcomer"))]);

    expect(order).toEqual(["waiter", "newcomer"]);
  });

  test("whoever waits for a slow create gets what comes back earlier", async () => {
    await virtualTime(async (clock) => {
      const { pool } = numbered({ max: 2, delay: (n) => (n === 2 ? 1000 : 0) });
      const first = await pool.acquire();
      const waiting = pool.acquire();
      const later = pool.acquire();

      await sleep(10);
      first.release();

      expect((await waiting).value).toBe(1);
      expect(clock.elapsed).toBe(10);
      expect((await later).value).toBe(2);
      expect(clock.elapsed).toBe(1000);
    });
  });

  test("a failed create rejects the first in line, and the next ones get a try of their own", async () => {
    const failing = new Set([1, 2]);
    const { pool, created } = numbered({
      max: 1,
      delay: (n) => {
        if (failing.has(n)) throw new Error(`refused ${n}`);
        return 0;
      },
    });

    const results = await Promise.allSettled([pool.acquire(), pool.acquire(), pool.acquire()]);

    expect(results.map((result) => String("reason" in result && result.reason))).toEqual([
      "Error: refused 1",
      "Error: refused 2",
      "false",
    ]);
    expect(created).toEqual([3]);
    expect(pool.size).toBe(1);
  });

  test("one create fails and another one doesn't: the first in line gets the error, all others a resource", async () => {
    await virtualTime(async () => {
      const { pool } = numbered({
        max: 2,
        delay: (n) => {
          if (n === 2) throw new Error("refused");
          return 100;
        },
      });

      const results = await Promise.allSettled([pool.acquire(), pool.acquire()]);

      expect(results.map(({ status }) => status)).toEqual(["rejected", "fulfilled"]);
      expect(pool).toMatchObject({ size: 1, waiting: 0 });
    });
  });

  test("create that throws synchronously rejects 8,000 callers, and overflows nothing", async () => {
    let calls = 0;
    const pool = new Pool<never>({
      create: () => {
        throw `refused ${++calls}`;
      },
      max: 2,
    });

    const callers = Array.from({ length: 8000 }, () => rejection(pool.acquire()));

    expect(await Promise.all(callers)).toEqual(
      Array.from({ length: 8000 }, (_, n) => `refused ${n + 1}`),
    );
    expect(pool).toMatchObject({ size: 0, waiting: 0 });
  });

  test.each(["create", "validate"])(
    "a %s that hangs, and ignores its signal, doesn't stop callers who come later",
    async (step) => {
      await virtualTime(async (clock) => {
        const hang = hangOnce(step, { isDeaf: true });
        const { pool } = numbered({ max: 2, ...hang.options });
        if (step === "validate") await pool.use(() => {});
        hang.begin();

        const first = rejection(pool.acquire({ signal: AbortSignal.timeout(100) }));
        await first;

        expect(await pool.use(() => clock.elapsed)).toBe(100);
        expect(await pool.use(() => clock.elapsed)).toBe(100);
        expect(pool).toMatchObject({ size: 2, idle: 1, waiting: 0 });
      });
    },
  );

  test.each(["create", "validate"])(
    "a %s that hangs blocks nobody while there are free places, not even its own caller",
    async (step) => {
      const hang = hangOnce(step, { isDeaf: true });
      const { pool } = numbered({ max: 3, ...hang.options });
      if (step === "validate") await pool.use(() => {});
      hang.begin();

      const leases = await Promise.all([pool.acquire(), pool.acquire()]);

      expect(leases).toHaveLength(2);
      expect(pool).toMatchObject({ size: 3, waiting: 0 });
    },
  );

  test.each(["create", "validate"])(
    "a %s that hangs until it is aborted leaves its place when its caller has gone",
    async (step) => {
      await virtualTime(async (clock) => {
        const hang = hangOnce(step);
        const { pool } = numbered({ max: 1, ...hang.options });
        if (step === "validate") await pool.use(() => {});
        hang.begin();

        const first = rejection(pool.acquire({ signal: AbortSignal.timeout(100) }));

        expect(await first).toHaveProperty("name", "TimeoutError");
        expect(hang.reasons).toEqual([await first]);
        await pool.use(() => {});
        expect(clock.elapsed).toBe(100);
      });
    },
  );

  test("a caller who has gone aborts only its own create", async () => {
    const { pool, aborted } = hanging({ max: 5 });
    const controllers = [1, 2, 3].map(() => new AbortController());
    const callers = controllers.map(({ signal }) => rejection(pool.acquire({ signal })));

    controllers[1]!.abort("stop");
    expect(aborted).toEqual([2]);
    expect(pool.size).toBe(3);
    controllers[0]!.abort("stop");
    expect(aborted).toEqual([2, 1]);
    controllers[2]!.abort("stop");
    expect(aborted).toEqual([2, 1, 3]);
    await Promise.all(callers);
    expect(pool.waiting).toBe(0);
  });

  test("with one signal for two callers an abort aborts both creates, and a newcomer gets its own", async () => {
    const { pool, aborted, resolve } = hanging({ max: 4 });
    const controller = new AbortController();
    const { signal } = controller;
    const callers = [1, 2].map(() => rejection(pool.acquire({ signal })));

    controller.abort("stop");
    expect(aborted).toEqual([1, 2]);
    const newcomer = pool.acquire();
    resolve(3);

    expect((await newcomer).value).toBe(3);
    expect(await Promise.all(callers)).toEqual(["stop", "stop"]);
  });

  test("a create goes on as long as anybody needs it", async () => {
    const { pool, aborted } = hanging({ max: 1 });
    const controllers = [1, 2].map(() => new AbortController());
    const callers = controllers.map(({ signal }) => rejection(pool.acquire({ signal })));

    controllers[0]!.abort("stop");
    expect(aborted).toEqual([]);
    controllers[1]!.abort("stop");
    expect(aborted).toEqual([1]);
    await Promise.all(callers);
  });

  test("a create whose caller was served otherwise goes on, and its resource is kept", async () => {
    await virtualTime(async () => {
      const { pool, created } = numbered({ max: 2, delay: (n) => (n === 2 ? 100 : 0) });
      const first = await pool.acquire();
      const second = pool.acquire();

      first.release();
      expect((await second).value).toBe(1);
      await sleep(100);

      expect(created).toEqual([1, 2]);
      expect(pool).toMatchObject({ size: 2, idle: 1 });
    });
  });

  test("a caller whose create served the head gets a create of its own", async () => {
    await virtualTime(async (clock) => {
      const { pool } = numbered({ max: 3, delay: (n) => [1000, 10, 20][n - 1]! });
      const at = async () => [(await pool.acquire()).value, clock.elapsed];

      expect(await Promise.all([at(), at()])).toEqual([
        [2, 10],
        [3, 30],
      ]);
    });
  });

  test("creates no more than are asked for when they come in order", async () => {
    await virtualTime(async () => {
      const { pool, created } = numbered({ max: 10, delay: () => 10 });

      await Promise.all(Array.from({ length: 4 }, () => pool.acquire()));
      await sleep(100);

      expect(created).toEqual([1, 2, 3, 4]);
    });
  });

  test("one who leaves the line while it is full aborts nothing that others need", async () => {
    const { pool, aborted } = hanging({ max: 1 });
    const first = pool.acquire().catch(() => {});
    const controller = new AbortController();
    const second = rejection(pool.acquire({ signal: controller.signal }));

    controller.abort("stop");

    expect(await second).toBe("stop");
    expect(aborted).toEqual([]);
    await pool[Symbol.asyncDispose]();
    await first;
  });

  test("a create that hangs for nobody is aborted when one who found no place has left", async () => {
    const { pool, aborted, resolve } = hanging({ max: 2 });
    const first = pool.acquire();
    const second = pool.acquire();
    resolve(2);
    const lease = await first;
    lease.release();
    const held = await second;
    const controller = new AbortController();
    const third = rejection(pool.acquire({ signal: controller.signal }));
    expect(pool).toMatchObject({ size: 2, waiting: 1 });

    controller.abort("stop");

    expect(await third).toBe("stop");
    expect(aborted).toEqual([1]);
    held.release();
  });

  test("a create that hangs is aborted by a caller whose own served another", async () => {
    const { pool, aborted, resolve } = hanging({ max: 2 });
    const controller = new AbortController();
    const first = pool.acquire();
    const second = rejection(pool.acquire({ signal: controller.signal }));
    resolve(2);
    await first;
    expect(aborted).toEqual([]);

    controller.abort("stop");

    expect(await second).toBe("stop");
    expect(aborted).toEqual([1]);
  });

  test("a caller who has gone aborts its own create rather than one that hangs", async () => {
    const { pool, aborted, resolve } = hanging({ max: 4 });
    const callers = [pool.acquire(), pool.acquire()];
    resolve(2);
    await callers[0];
    const controller = new AbortController();
    const third = rejection(pool.acquire({ signal: controller.signal }));

    controller.abort("stop");

    expect(await third).toBe("stop");
    expect(aborted).toEqual([4]);
    resolve(3);
    await callers[1];
  });

  test("a create in advance that hangs doesn't block a caller while there is a place", async () => {
    const { pool, resolve } = hanging({ max: 2, min: 1 });
    const caller = pool.acquire();
    resolve(2);

    expect((await caller).value).toBe(2);
  });

  test("the first in line hears of its failed create though the second has left", async () => {
    const refused = Promise.withResolvers<never>();
    const creates = [() => refused.promise];
    const pool = new Pool({ create: () => creates.pop()!(), max: 1 });
    const first = rejection(pool.acquire());
    const controller = new AbortController();
    const second = rejection(pool.acquire({ signal: controller.signal }));

    controller.abort("stop");
    expect(await second).toBe("stop");
    refused.reject("refused");

    expect(await first).toBe("refused");
  });

  test("a create that has ended is not taken for one that hangs", async () => {
    const { pool, aborted, resolve } = hanging({ max: 3 });
    const leases = [pool.acquire(), pool.acquire()];
    resolve(2);
    await leases[0];
    resolve(1);
    await leases[1];
    const controller = new AbortController();
    const third = rejection(pool.acquire({ signal: controller.signal }));
    expect(pool).toMatchObject({ size: 3, waiting: 1 });

    controller.abort("stop");

    expect(await third).toBe("stop");
    expect(aborted).toEqual([3]);
  });

  test("a create that was aborted, but goes on, doesn't count as one that others need", async () => {
    const { pool, aborted } = hanging({ max: 2, isDeaf: true });
    const controllers = [1, 2].map(() => new AbortController());
    const callers = controllers.map(({ signal }) => rejection(pool.acquire({ signal })));
    controllers[0]!.abort("stop");
    expect(aborted).toEqual([1]);
    const third = pool.acquire();

    controllers[1]!.abort("stop");

    expect(aborted).toEqual([1]);
    expect(await Promise.all(callers)).toEqual(["stop", "stop"]);
    third.catch(() => {});
  });

  test("a create in advance that is aborted for a caller who has gone is begun anew", async () => {
    const { pool, aborted, resolve } = hanging({ max: 1, min: 1 });
    const controller = new AbortController();
    const caller = rejection(pool.acquire({ signal: controller.signal }));

    controller.abort("stop");
    expect(await caller).toBe("stop");
    expect(aborted).toEqual([1]);
    await turns();
    resolve(2);

    expect(await pool.use((n) => n)).toBe(2);
    await pool[Symbol.asyncDispose]();
    expect(aborted).toEqual([1]);
  });

  test.each([
    { what: "throws costs its resource, which may be what made it hang", isDeaf: false },
    { what: "ends well all the same keeps its resource", isDeaf: true },
  ])("a validate that is aborted and $what", async ({ isDeaf }) => {
    const gate = Promise.withResolvers<boolean>();
    const { pool, destroyed } = numbered({
      max: 1,
      validate: (_, signal) => {
        if (!isDeaf) signal.addEventListener("abort", () => gate.reject(signal.reason));
        return gate.promise;
      },
    });
    await pool.use(() => {});
    const controller = new AbortController();
    const caller = rejection(pool.acquire({ signal: controller.signal }));

    controller.abort("stop");
    gate.resolve(true);
    expect(await caller).toBe("stop");
    await turns();

    expect(destroyed).toEqual(isDeaf ? [] : [1]);
    expect(pool).toMatchObject(isDeaf ? { size: 1, idle: 1 } : { size: 0, idle: 0 });
  });

  test("the caller's signal may be aborted from inside create: the resource is kept", async () => {
    const controller = new AbortController();
    const pool = new Pool({
      create: () => {
        controller.abort("stop");
        return "resource";
      },
      max: 1,
    });

    expect(await rejection(pool.acquire({ signal: controller.signal }))).toBe("stop");
    expect(pool.waiting).toBe(0);
    await turns();
    expect(pool).toMatchObject({ size: 1, idle: 1 });
    expect(await pool.use((it) => it)).toBe("resource");
  });

  test("never has more than max alive, whatever is slow or fails", async () => {
    await virtualTime(async (clock) => {
      const random = seeded(1);
      let alive = 0;
      let peak = 0;
      let served = 0;
      const pool = new Pool({
        create: async () => {
          peak = Math.max(peak, ++alive);
          await sleep(10 * random());
          if (random() < 0.2) {
            alive--;
            throw new Error("create");
          }
          return {};
        },
        destroy: async () => {
          await sleep(10 * random());
          alive--;
          if (random() < 0.2) throw new Error("destroy");
        },
        validate: async () => {
          await sleep(random());
          if (random() < 0.1) throw new Error("validate");
          return random() < 0.9;
        },
        max: 3,
        idleTimeout: 5,
      });
      const task = async () => {
        await sleep(1000 * random());
        using lease = await pool.acquire({
          signal: random() < 0.3 ? AbortSignal.timeout(20 * random()) : undefined,
        });
        served++;
        await sleep(10 * random());
        if (random() < 0.2) lease.discard();
      };

      await Promise.allSettled(Array.from({ length: 300 }, task));
      await rejection(pool[Symbol.asyncDispose]());

      expect(peak).toBe(3);
      expect(served).toBeGreaterThan(100);
      expect(alive).toBe(0);
      expect(pool).toMatchObject({ size: 0, idle: 0, waiting: 0 });
      await sleep(1000);
      expect(clock.pending).toBe(0);
    });
  });

  test("acquire() rejects with the reason when aborted before, and creates nothing", async () => {
    const { pool } = numbered({ max: 1 });

    await expect(pool.acquire({ signal: AbortSignal.abort("stop") })).rejects.toBe("stop");
    await expect(pool.use(() => {}, { signal: AbortSignal.abort("stop") })).rejects.toBe("stop");

    expect(pool.size).toBe(0);
  });

  test("acquire() rejects at once when aborted before, though others wait", async () => {
    const { pool } = numbered({ max: 1 });
    const held = await pool.acquire();
    const waiting = pool.acquire();
    const { controller, listeners } = watchedController();
    controller.abort("stop");

    const aborted = rejection(pool.acquire({ signal: controller.signal }));

    expect(pool.waiting).toBe(1);
    expect(listeners()).toBe(0);
    expect(await aborted).toBe("stop");
    held.release();
    expect((await waiting).value).toBe(1);
  });

  test("a signal ends a later wait as well as the first", async () => {
    const pool = new Pool({ create: () => "resource", max: 1 });
    const controller = new AbortController();
    const { signal } = controller;
    const held = await pool.acquire();
    const first = pool.acquire({ signal });
    held.release();
    await first;

    const second = pool.acquire({ signal });
    controller.abort("stop");

    expect(await rejection(second)).toBe("stop");
  });

  test("acquire() rejects with the reason when aborted while waiting, and leaves no trace", async () => {
    const { pool } = numbered({ max: 1 });
    const held = await pool.acquire();
    const { controller, listeners } = watchedController();
    const aborted = [1, 2].map(() => rejection(pool.acquire({ signal: controller.signal })));
    const patient = pool.acquire();
    expect(listeners()).toBe(1);

    controller.abort("stop");

    expect(pool.waiting).toBe(1);
    expect(listeners()).toBe(0);
    expect(await Promise.all(aborted)).toEqual(["stop", "stop"]);
    held.release();
    expect((await patient).value).toBe(1);
  });

  test.each([0, 1, 2])("the line closes up when number %d of three leaves it", async (leaver) => {
    const { pool } = numbered({ max: 1 });
    const held = await pool.acquire();
    const order: number[] = [];
    const leaving = new AbortController();
    const waiting = [0, 1, 2].map((n) =>
      pool.use(() => order.push(n), n === leaver ? { signal: leaving.signal } : {}),
    );

    leaving.abort("stop");
    held.release();
    await Promise.allSettled(waiting);

    expect(order).toEqual([0, 1, 2].filter((n) => n !== leaver));
  });

  test("acquire() listens no more once it has been served", async () => {
    const { pool } = numbered({ max: 1 });
    const { controller, listeners } = watchedController();

    const lease = await pool.acquire({ signal: controller.signal });
    controller.abort();

    expect(listeners()).toBe(0);
    expect(pool).toMatchObject({ size: 1, idle: 0 });
    lease.release();
    expect(pool.idle).toBe(1);
  });

  test.each(["release, then abort", "abort, then release"])(
    "loses no resource when both happen in one turn: %s",
    async (order) => {
      const { pool } = numbered({ max: 1 });
      const held = await pool.acquire();
      const controller = new AbortController();
      const aborted = pool.acquire({ signal: controller.signal });
      const acts = [() => held.release(), () => controller.abort("stop")];

      for (const act of order.startsWith("release") ? acts : acts.reverse()) act();

      await expect(aborted).rejects.toBe("stop");
      expect((await pool.acquire()).value).toBe(1);
    },
  );

  test.each(["use", "acquire"] as const)(
    "after an abort in the turn of the grant %s() calls nothing, and the next is served",
    async (method) => {
      const { pool } = numbered({ max: 1 });
      const held = await pool.acquire();
      const controller = new AbortController();
      const { signal } = controller;
      const log: string[] = [];
      const aborted =
        method === "use"
          ? pool.use(() => log.push("aborted"), { signal })
          : pool.acquire({ signal });
      const next = pool.use(() => log.push("next"));

      held.release();
      controller.abort("stop");
      expect(pool).toMatchObject({ idle: 0, waiting: 0 });

      expect(await rejection(aborted)).toBe("stop");
      await next;
      expect(log).toEqual(["next"]);
    },
  );

  test("use() calls nothing after an abort, in whatever microtask that comes", async () => {
    const aborted: boolean[] = [];
    for (let microtasks = 0; microtasks < 8; microtasks++) {
      const { pool } = numbered({ max: 1 });
      const held = await pool.acquire();
      const controller = new AbortController();
      const { signal } = controller;
      const used = pool.use(() => aborted.push(signal.aborted), { signal });
      held.release();
      for (let n = 0; n < microtasks; n++) await undefined;
      controller.abort("stop");
      await Promise.allSettled([used]);
      expect(pool.idle).toBe(1);
    }

    expect(aborted.length).toBeGreaterThan(0);
    expect(aborted).not.toContain(true);
  });

  test("an abort of which another listener keeps the pool from hearing is obeyed at the grant", async () => {
    const { pool } = numbered({ max: 1 });
    const held = await pool.acquire();
    const controller = new AbortController();
    const { signal } = controller;
    signal.addEventListener("abort", (event) => event.stopImmediatePropagation());
    const log: string[] = [];
    const granted = rejection(pool.use(() => log.push("granted"), { signal }));
    const waiting = rejection(pool.use(() => log.push("waiting"), { signal }));
    const next = pool.use(() => log.push("next"));

    held.release();
    controller.abort("stop");

    expect(await Promise.all([granted, waiting])).toEqual(["stop", "stop"]);
    await next;
    expect(log).toEqual(["next"]);
  });

  test("use() that is free calls nothing when it is aborted in the same turn", async () => {
    const { pool } = numbered({ max: 1 });
    await pool.use(() => {});
    const controller = new AbortController();
    const log: string[] = [];
    const used = pool.use(() => log.push("called"), { signal: controller.signal });

    controller.abort("stop");

    expect(await rejection(used)).toBe("stop");
    expect(log).toEqual([]);
    expect(pool.idle).toBe(1);
  });

  test("nothing is lent to one whose signal is aborted but who hasn't been told", async () => {
    const { pool } = numbered({ max: 1 });
    const held = await pool.acquire();
    const controller = new AbortController();
    const { signal } = controller;
    const seen: unknown[] = [];
    // Called before the listener of those who wait.
    signal.addEventListener("abort", () => {
      held.release();
      seen.push(pool.idle, pool.waiting);
    });
    const dead = [1, 2].map(() => rejection(pool.acquire({ signal })));
    const alive = pool.use((n) => n);

    controller.abort("stop");

    expect(seen).toEqual([0, 0]);
    expect(await Promise.all(dead)).toEqual(["stop", "stop"]);
    expect(await alive).toBe(1);
    expect(pool.idle).toBe(1);
  });

  test("with one signal for many, an abort lends nothing to any of them", async () => {
    const { pool } = numbered({ max: 2 });
    const controller = new AbortController();
    const { signal } = controller;
    const held = await pool.acquire();
    const other = await pool.acquire();
    const granted = rejection(pool.acquire({ signal }));
    const dead = [1, 2, 3].map(() => rejection(pool.acquire({ signal })));

    held.release();
    controller.abort("stop");

    expect(pool).toMatchObject({ idle: 1, waiting: 0 });
    expect(await Promise.all([granted, ...dead])).toEqual(["stop", "stop", "stop", "stop"]);
    other.release();
    expect(pool.idle).toBe(2);
  });

  test("loses no resource when its user is aborted in the turn in which it was served", async () => {
    const created = Promise.withResolvers<string>();
    const pool = new Pool({ create: () => created.promise, max: 1 });
    const controller = new AbortController();
    const aborted = pool.acquire({ signal: controller.signal });

    created.resolve("resource");
    void created.promise.then(() => controller.abort("stop"));

    await expect(aborted).rejects.toBe("stop");
    expect(pool).toMatchObject({ size: 1, idle: 1 });
  });

  test.each(["somebody waits", "nobody waits"])(
    "what was created for one who has gone is kept when %s",
    async (who) => {
      await virtualTime(async (clock) => {
        const { pool } = numbered({ max: 1, delay: () => 100 });
        const controller = new AbortController();
        const aborted = pool.acquire({ signal: controller.signal });
        const next = who === "somebody waits" ? pool.acquire() : undefined;
        await sleep(50);
        controller.abort("stop");

        await expect(aborted).rejects.toBe("stop");
        expect(clock.elapsed).toBe(50);
        await sleep(50);

        expect((await (next ?? pool.acquire())).value).toBe(1);
        expect(clock.elapsed).toBe(100);
      });
    },
  );

  test("nobody is told when a create fails for one who has gone, and its place is free", async () => {
    await withoutUnhandled(async () => {
      const refused = Promise.withResolvers<never>();
      const creates = [() => refused.promise, () => "second"];
      const pool = new Pool({ create: () => creates.shift()!(), max: 1 });
      const controller = new AbortController();
      const aborted = pool.acquire({ signal: controller.signal });
      controller.abort("stop");
      await expect(aborted).rejects.toBe("stop");

      refused.reject(new Error("refused"));
      await turns();

      expect(pool.size).toBe(0);
      expect((await pool.acquire()).value).toBe("second");
    });
  });

  test.each<[string, (resource: number) => boolean | Promise<boolean>]>([
    ["says no", (resource) => resource !== 1],
    ["says no later", async (resource) => resource !== 1],
    [
      "throws",
      (resource) => {
        if (resource === 1) throw new Error("broken");
        return true;
      },
    ],
    ["rejects", (resource) => (resource === 1 ? Promise.reject("broken") : Promise.resolve(true))],
  ])("what is broken is destroyed and replaced: validate %s", async (_, validate) => {
    const { pool, destroyed } = numbered({ max: 1, validate });
    await pool.use(() => {});

    expect(await pool.use((resource) => resource)).toBe(2);
    expect(await pool.use((resource) => resource)).toBe(2);

    expect(destroyed).toEqual([1]);
    expect(pool.size).toBe(1);
  });

  test("validates what was used before, also when it is passed on, but not what is new", async () => {
    const validated: number[] = [];
    const { pool } = numbered({ max: 1, validate: (resource) => validated.push(resource) > 0 });
    const first = await pool.acquire();
    const second = pool.acquire();
    expect(validated).toEqual([]);

    first.release();
    (await second).release();
    await pool.acquire();

    expect(validated).toEqual([1, 1]);
  });

  test("validates nothing while nobody waits", async () => {
    const validated: number[] = [];
    const { pool } = numbered({ max: 2, validate: (resource) => validated.push(resource) > 0 });
    const [one, two] = [await pool.acquire(), await pool.acquire()];

    one.release();
    two.discard();
    await turns();

    expect(pool).toMatchObject({ size: 1, idle: 1 });
    expect(validated).toEqual([]);
  });

  test("creates a replacement while what is broken is being destroyed, if there is room", async () => {
    await virtualTime(async (clock) => {
      const { pool } = numbered({ max: 2, validate: () => false, destroy: () => sleep(100) });
      await pool.use(() => {});

      expect(await pool.use((resource) => resource)).toBe(2);
      expect(clock.elapsed).toBe(0);
      expect(pool.size).toBe(2);
    });
  });

  test("an idle resource is destroyed after the timeout, and a timer runs only while one is idle", async () => {
    await virtualTime(async (clock) => {
      const { pool, destroyed } = numbered({ max: 2, idleTimeout: 100 });
      const [one, two] = [await pool.acquire(), await pool.acquire()];
      expect(clock.pending).toBe(0);
      one.release();
      await sleep(50);
      two.release();
      await sleep(49);
      await pool.use(() => {});
      expect(destroyed).toEqual([]);

      await sleep(1);
      expect(destroyed).toEqual([1]);
      expect(await pool.use((resource) => resource)).toBe(2);
      await sleep(99);
      expect(destroyed).toEqual([1]);
      await sleep(1);
      expect(destroyed).toEqual([1, 2]);
      expect(clock.pending).toBe(0);
      expect(pool).toMatchObject({ size: 0, idle: 0 });
    });
  });

  test("a resource that is passed on sets no timer", async () => {
    await virtualTime(async (clock) => {
      const { pool } = numbered({ max: 1, idleTimeout: 100 });
      const first = await pool.acquire();
      const second = pool.acquire();
      first.release();
      await second;
      expect(clock.pending).toBe(0);
    });
  });

  test("without a timeout idle resources stay, and set no timer", async () => {
    await virtualTime(async (clock) => {
      const { pool } = numbered({ max: 1 });
      await pool.use(() => {});
      expect(clock.pending).toBe(0);
    });
  });

  test("an idle timeout of 0 destroys what nobody takes at once", async () => {
    await virtualTime(async () => {
      const { pool, destroyed } = numbered({ max: 1, idleTimeout: 0 });
      await pool.use(() => {});
      expect(await pool.use((n) => n)).toBe(1);
      expect(destroyed).toEqual([]);

      await sleep(1);
      expect(destroyed).toEqual([1]);
    });
  });

  test("an idle timeout may be longer than a timer can be", async () => {
    await virtualTime(async () => {
      const { pool, destroyed } = numbered({ max: 1, idleTimeout: 2 ** 31 + 1000 });
      await pool.use(() => {});

      await sleep(2 ** 31 - 1);
      await sleep(1000);
      expect(destroyed).toEqual([]);
      await sleep(1);
      expect(destroyed).toEqual([1]);
    });
  });

  test("min resources are created in advance, and outlive the idle timeout", async () => {
    await virtualTime(async (clock) => {
      const { pool, created, destroyed } = numbered({ max: 3, min: 2, idleTimeout: 100 });
      await sleep(0);
      expect(created).toEqual([1, 2]);
      expect(pool).toMatchObject({ size: 2, idle: 2 });

      const leases = await Promise.all([1, 2, 3].map(() => pool.acquire()));
      for (const lease of leases) lease.release();
      await sleep(100);
      expect(destroyed).toEqual([2]);

      await sleep(10_000);
      expect(pool).toMatchObject({ size: 2, idle: 2 });
      expect(clock.pending).toBe(0);
    });
  });

  test("what is destroyed below min is replaced", async () => {
    const { pool, created } = numbered({ max: 2, min: 1 });
    const lease = await pool.acquire();
    lease.discard();
    await turns();

    expect(created).toEqual([1, 2]);
    expect(pool).toMatchObject({ size: 1, idle: 1 });
    await pool[Symbol.asyncDispose]();
    expect(created).toEqual([1, 2]);
  });

  test("a create for min that fails is tried again only when another one succeeds", async () => {
    await withoutUnhandled(async () => {
      let calls = 0;
      let isDown = true;
      const create = () => {
        calls++;
        if (isDown) throw new Error("down");
        return calls;
      };
      const pool = new Pool({ create, max: 3, min: 2 });
      await turns();
      expect(calls).toBe(2);
      expect(pool.size).toBe(0);

      isDown = false;
      expect(await pool.use((n) => n)).toBe(3);
      await turns();
      expect(pool.size).toBe(2);
    });
  });

  test.each(["idle", "lent"])(
    "a resource is destroyed after its lifetime: it is %s",
    async (state) => {
      await virtualTime(async (clock) => {
        const { pool, destroyed } = numbered({ max: 1, maxLifetime: 100 });
        const lease = await pool.acquire();
        if (state === "idle") lease.release();

        await sleep(99);
        expect(destroyed).toEqual([]);
        await sleep(1);
        expect(destroyed).toEqual(state === "idle" ? [1] : []);
        await sleep(50);
        lease.release();
        await turns();
        expect(destroyed).toEqual([1]);
        expect(await pool.use((n) => n)).toBe(2);
        expect(clock.elapsed).toBe(150);
      });
    },
  );

  test.each(["use", "acquire"] as const)(
    "%s() gets no idle resource whose lifetime is over, even if the timer is late",
    async (method) => {
      await virtualTime(async (clock) => {
        const { pool, destroyed } = numbered({ max: 2, maxLifetime: 100 });
        await pool.use(() => {});
        const now = performance.now;
        const use = () =>
          method === "use" ? pool.use((n) => n) : pool.acquire().then(({ value }) => value);
        performance.now = () => now.call(performance) + 100;
        const lent = use();
        performance.now = now;

        expect(await lent).toBe(2);
        expect(destroyed).toEqual([1]);
        expect(clock.elapsed).toBe(0);
      });
    },
  );

  test("a resource whose lifetime is over is not passed on", async () => {
    await virtualTime(async () => {
      const { pool } = numbered({ max: 1, maxLifetime: 100, validate: () => true });
      const lease = await pool.acquire();
      const next = pool.acquire();

      await sleep(100);
      lease.release();

      expect((await next).value).toBe(2);
    });
  });

  test("the lifetime ends what min keeps, and it is replaced", async () => {
    await virtualTime(async () => {
      const { pool, created, destroyed } = numbered({
        max: 1,
        min: 1,
        idleTimeout: 30,
        maxLifetime: 100,
      });

      await sleep(99);
      expect(created).toEqual([1]);
      await sleep(1);
      expect(destroyed).toEqual([1]);
      expect(created).toEqual([1, 2]);
      await pool[Symbol.asyncDispose]();
    });
  });

  test("disposal waits for leases, and destroys everything", async () => {
    await virtualTime(async (clock) => {
      const { pool, destroyed } = numbered({ max: 3, idleTimeout: 1000, destroy: () => sleep(10) });
      const [one, two] = [await pool.acquire(), await pool.acquire(), await pool.use(() => {})];
      setTimeout(() => one.release(), 100);
      setTimeout(() => two.discard(), 200);

      await pool[Symbol.asyncDispose]();

      expect(clock.elapsed).toBe(210);
      expect(destroyed).toEqual([3, 1, 2]);
      expect(pool).toMatchObject({ size: 0, idle: 0 });
      expect(clock.pending).toBe(0);
    });
  });

  test("disposal of an unused pool is done at once, and a second one does nothing", async () => {
    const { pool } = numbered({ max: 1 });
    await pool[Symbol.asyncDispose]();
    await pool[Symbol.asyncDispose]();
  });

  test("disposal refuses newcomers, and those in line", async () => {
    const { pool } = numbered({ max: 1 });
    const held = await pool.acquire();
    const { controller, listeners } = watchedController();
    const inLine = [1, 2].map(() => rejection(pool.acquire({ signal: controller.signal })));

    const disposing = pool[Symbol.asyncDispose]();
    const newcomer = rejection(pool.acquire());

    const error = new Error("Cannot acquire from Pool: it has been disposed");
    expect(await Promise.all([...inLine, newcomer])).toEqual([error, error, error]);
    expect(listeners()).toBe(0);
    expect(pool.waiting).toBe(0);
    held.release();
    await disposing;
  });

  test("disposal aborts what is being created, and destroys what comes all the same", async () => {
    await virtualTime(async (clock) => {
      const destroyed: string[] = [];
      const reasons: unknown[] = [];
      const creates = [
        (signal: AbortSignal) =>
          new Promise<string>((_, reject) => {
            signal.onabort = () => {
              reasons.push(signal.reason);
              reject(signal.reason);
            };
          }),
        () => sleep(100).then(() => "stubborn"),
      ];
      const pool = new Pool<string>({
        create: (signal) => creates.shift()!(signal),
        destroy: (resource) => destroyed.push(resource),
        max: 2,
      });
      const waiting = [1, 2].map(() => rejection(pool.acquire()));
      await sleep(50);

      await pool[Symbol.asyncDispose]();

      expect(clock.elapsed).toBe(100);
      expect(destroyed).toEqual(["stubborn"]);
      expect(await Promise.all(waiting)).toEqual([reasons[0], reasons[0]]);
    });
  });

  test("disposal during validation destroys the resource", async () => {
    const validated = Promise.withResolvers<boolean>();
    const { pool, destroyed } = numbered({ max: 1, validate: () => validated.promise });
    await pool.use(() => {});
    const acquiring = rejection(pool.acquire());

    const disposing = pool[Symbol.asyncDispose]();
    validated.resolve(true);
    await disposing;

    expect(await acquiring).toBeInstanceOf(Error);
    expect(destroyed).toEqual([1]);
  });

  test("disposal tells of all errors of destroy, also of earlier ones, once", async () => {
    await withoutUnhandled(async () => {
      const { pool } = numbered({
        max: 3,
        destroy: (resource) => {
          throw new Error(`destroy ${resource}`);
        },
      });
      const leases = [await pool.acquire(), await pool.acquire(), await pool.acquire()];
      leases[1]!.discard();
      await turns();
      expect(pool.size).toBe(2);
      leases[0]!.release();
      leases[2]!.release();

      const error = await rejection(pool[Symbol.asyncDispose]());

      expect(error).toBeInstanceOf(AggregateError);
      expect((error as AggregateError).message).toBe("Cannot dispose Pool: destroy failed");
      expect((error as AggregateError).errors.map(String)).toEqual([
        "Error: destroy 2",
        "Error: destroy 3",
        "Error: destroy 1",
      ]);
      await pool[Symbol.asyncDispose]();
    });
  });

  test("of two disposals at once both wait, and one tells of the errors", async () => {
    await virtualTime(async (clock) => {
      const { pool } = numbered({
        max: 1,
        destroy: () => sleep(100).then(() => Promise.reject("destroy")),
      });
      await pool.use(() => {});

      const both = [1, 2].map(() =>
        pool[Symbol.asyncDispose]().catch((error) => (error as AggregateError).errors),
      );

      expect(await Promise.all(both)).toEqual([["destroy"], undefined]);
      expect(clock.elapsed).toBe(100);
    });
  });

  test.each([
    { count: 100, first: 1, rest: "" },
    { count: 250, first: 151, rest: " 250 times; these are the last 100 errors" },
  ])("of $count errors of destroy the last 100 are kept", async ({ count, first, rest }) => {
    await withoutUnhandled(async () => {
      const { pool } = numbered({ max: 1, destroy: (n) => Promise.reject(n) });
      for (let n = 0; n < count; n++) (await pool.acquire()).discard();

      const error = await rejection(pool[Symbol.asyncDispose]());

      expect((error as AggregateError).errors).toEqual(
        Array.from({ length: 100 }, (_, n) => n + first),
      );
      expect((error as AggregateError).message).toBe(`Cannot dispose Pool: destroy failed${rest}`);
    });
  });

  test("disposal lets those go on who have been granted a resource", async () => {
    const { pool, destroyed } = numbered({ max: 1 });
    const lease = await pool.acquire();
    const granted = pool.use((n) => n);
    lease.release();

    await pool[Symbol.asyncDispose]();

    expect(await granted).toBe(1);
    expect(destroyed).toEqual([1]);
  });

  test.each([0, -1, 1.5, NaN, Infinity])("refuses a max of %d", (max) => {
    expect(thrownBy(() => new Pool({ create: () => 1, max }))).toBe(
      `RangeError: Cannot create Pool: max must be a positive integer, received ${max}`,
    );
  });

  test.each(["idleTimeout", "maxLifetime"])("refuses a %s that is not a duration", (name) => {
    for (const ms of [-1, NaN, -Infinity]) {
      expect(thrownBy(() => new Pool({ create: () => 1, max: 1, [name]: ms }))).toBe(
        `RangeError: Cannot create Pool: ${name} must be a number of 0 or more, received ${ms}`,
      );
    }
    expect(new Pool({ create: () => 1, max: 1, [name]: Infinity }).size).toBe(0);
  });

  test.each([-1, 1.5, NaN, 3, Infinity])("refuses a min of %d", (min) => {
    expect(thrownBy(() => new Pool({ create: () => 1, max: 2, min }))).toBe(
      `RangeError: Cannot create Pool: min must be an integer from 0 to max, which is 2, received ${min}`,
    );
  });

  test.each(["create", "destroy", "validate"])("refuses a %s that is not a function", (name) => {
    const options = { create: () => 1, max: 1, [name]: "no" } as unknown as PoolOptions<number>;
    expect(thrownBy(() => new Pool(options))).toBe(
      `TypeError: Cannot create Pool: ${name} must be a function, received "no"`,
    );
  });

  test.each([
    ["undefined", undefined],
    ["null", null],
    ["5", 5],
  ])("refuses %s in place of options", (shown, options) => {
    expect(thrownBy(() => new Pool(options as never))).toBe(
      `TypeError: Cannot create Pool: options must be an object, received ${shown}`,
    );
  });

  test("use() refuses what is not a function, before it takes or creates anything", async () => {
    const { pool } = numbered({ max: 1 });

    expect(await rejection(pool.use(5 as never))).toEqual(
      new TypeError("Cannot use Pool: fn must be a function, received 5"),
    );
    expect(pool.size).toBe(0);
  });

  test.each([
    [
      "a signal that is not one",
      { signal: "stop" },
      'signal must be an AbortSignal, received "stop"',
    ],
    [
      "a signal in place of options",
      new AbortController().signal,
      "options must be an object, received AbortSignal",
    ],
    ["null", null, "options must be an object, received null"],
    ["a number", 5, "options must be an object, received 5"],
  ])("acquire() and use() refuse %s", async (_, options, message) => {
    const { pool } = numbered({ max: 1 });
    const waits = [pool.acquire(options as never), pool.use(() => {}, options as never)];

    expect(await Promise.all(waits.map(rejection))).toEqual([
      new TypeError(`Cannot acquire from Pool: ${message}`),
      new TypeError(`Cannot use Pool: ${message}`),
    ]);
    expect(pool.size).toBe(0);

    await pool.use(() => {});
    const waiting = pool.use(() => {}, options as never);
    expect(await rejection(waiting)).toEqual(new TypeError(`Cannot use Pool: ${message}`));
  });

  test("a signal of null is none", async () => {
    const { pool } = numbered({ max: 1 });

    expect((await pool.acquire({ signal: null as never })).value).toBe(1);
  });

  test.each(["max", "min", "idleTimeout", "maxLifetime"])(
    "refuses a %s that is not a number",
    (name) => {
      const options = { create: () => 1, max: 1, [name]: "1" } as unknown as PoolOptions<number>;
      expect(() => new Pool(options)).toThrow(TypeError);
    },
  );
});

describe("in every order", () => {
  const minutes = 120_000;

  test.each(["use()", "acquire()"] as const)(
    "%s: one is aborted, the others are served in order",
    async (way) => {
      await everyOrder(async (world) => {
        const { visit, finish } = customers(world, way, { max: 1 });
        await Promise.all([visit("ann"), visit("bob", abortable(world)), visit("cid")]);
        await finish();
      });
    },
    minutes,
  );

  test.each([
    { way: "use()", max: 1 },
    { way: "acquire()", max: 1 },
    { way: "use()", max: 2 },
  ] as const)(
    "$way with a max of $max: a resource that comes back meets an abort, and goes to the next",
    async ({ way, max }) => {
      await everyOrder(async (world) => {
        const { pool, visit, finish } = customers(world, way, { max });
        const signal = abortable(world);
        const lease = await pool.acquire();
        const holder = world.spawn("holder", lease.release);
        await Promise.all([holder, visit("ann", signal), visit("bob")]);
        await finish();
      });
    },
    minutes,
  );

  test(
    "two that share a signal leave a resource, or a place, to the third",
    async () => {
      await everyOrder(async (world) => {
        const { visit, finish } = customers(world, "use()", { max: 1 });
        const signal = abortable(world);
        await Promise.all([visit("ann", signal), visit("bob", signal), visit("cid")]);
        await finish();
      });
    },
    minutes,
  );

  test.each(["use()", "acquire()"] as const)(
    "%s: a create that fails costs one caller its resource, and no other",
    async (way) => {
      await everyOrder(async (world) => {
        const options = { max: 1, fails: true };
        const { visit, finish, failed } = customers(world, way, options);
        const signal = abortable(world);
        const told = await Promise.all([visit("ann", signal), visit("bob")]);
        await finish();

        expect(told.filter((outcome) => outcome === "create failed").length).toBeLessThanOrEqual(
          failed(),
        );
      });
    },
    minutes,
  );

  test(
    "each resource is validated before it is lent again, and replaced if it is broken",
    async () => {
      await everyOrder(async (world) => {
        const { pool, visit, finish } = customers(world, "use()", { max: 1, validates: true });
        const lease = await pool.acquire();
        lease.value.state = "used";
        const signal = abortable(world);
        const holder = world.spawn("holder", lease.release);
        await Promise.all([holder, visit("ann", signal), visit("bob")]);
        await finish();
      });
    },
    minutes,
  );

  test(
    "a discarded resource is destroyed, and another takes its place",
    async () => {
      await everyOrder(async (world) => {
        const { pool, visit, finish } = customers(world, "use()", { max: 1 });
        const lease = await pool.acquire();
        const signal = abortable(world);
        const holder = world.spawn("holder", lease.discard);
        await Promise.all([holder, visit("ann", signal), visit("bob")]);
        await finish();
      });
    },
    minutes,
  );

  test.each(["use()", "acquire()"] as const)(
    "%s: who gives two back and comes again at once is served after who waited",
    async (way) => {
      await everyOrder(async (world) => {
        const { pool, visit, come, finish } = customers(world, way, { max: 2 });
        const leases = [await pool.acquire(), await pool.acquire()];
        const holder = world.spawn("holder", () => {
          for (const { release } of leases) release();
          return come("holder");
        });
        await Promise.all([holder, visit("ann"), visit("bob", abortable(world))]);
        await finish();
      });
    },
    minutes,
  );

  test(
    "a create that hangs is aborted with its caller, and the next has one of its own",
    async () => {
      await everyOrder(async (world) => {
        const { visit, come, finish } = customers(world, "use()", { max: 1, hangs: 1 });
        const controller = new AbortController();
        const { signal } = controller;
        world.abort(controller, { surely: true });
        const next = () => Promise.all([visit("bob"), visit("cid", signal)]);
        await Promise.all([come("ann", signal).then(next), visit("dan", signal)]);
        await finish();
      });
    },
    minutes,
  );

  test.each([1, 2])(
    "while create %i hangs, and hears of no abort, all are served by the others",
    async (hangs) => {
      await everyOrder(async (world) => {
        const options = { max: 2, hangs, isDeaf: true };
        const { pool, visit, come, finish } = customers(world, "use()", options);
        const lease = hangs === 2 ? await pool.acquire() : undefined;
        const never = new AbortController().signal;
        const ann = come("ann", never);
        const holder = world.spawn("holder", () => lease?.release());
        await Promise.all([ann, holder, visit("bob", never), visit("cid", abortable(world))]);
        await finish();
      });
    },
    minutes,
  );

  test(
    "disposal aborts a create that hangs",
    async () => {
      await everyOrder(async (world) => {
        const { pool, visit, finish } = customers(world, "use()", { max: 1, hangs: 1 });
        const closer = world.spawn("closer", () => pool[Symbol.asyncDispose]());
        await Promise.all([closer, visit("ann"), visit("bob", abortable(world))]);
        await finish();
      });
    },
    minutes,
  );

  test.each(["use()", "acquire()"] as const)(
    "%s: disposal refuses who is not served, and waits for who is",
    async (way) => {
      await everyOrder(async (world) => {
        const { pool, visit, finish } = customers(world, way, { max: 1 });
        const signal = abortable(world);
        const closer = world.spawn("closer", () => pool[Symbol.asyncDispose]());
        await Promise.all([closer, visit("ann"), visit("bob", signal)]);
        await finish();
      });
    },
    minutes,
  );

  test.each([{ idleTimeout: 100 }, { maxLifetime: 100 }, { idleTimeout: 100, min: 1 }])(
    "what times out is not lent, and what is lent doesn't time out: %j",
    async (times) => {
      await everyOrder(async (world) => {
        const { visit, finish } = customers(world, "use()", { max: 1, ...times });
        const late = world.spawn("late", () => sleep(100)).then(() => visit("bob"));
        await Promise.all([visit("ann", abortable(world)), late]);
        await finish();
      });
    },
    minutes,
  );
});

interface Customer {
  name: string;
  signal: AbortSignal | undefined;
  state: "waiting" | "inside" | "gone";
}

interface Resource {
  state: "new" | "used" | "broken" | "destroyed";
  users: number;
}

/**
 * A pool whose creates and destroys are steps, and tasks that come, work with a resource for a step
 * and leave. `finish` disposes the pool, and fails if a resource was lent to two, lent when it was
 * broken, or lost; if there were too many; if one overtook another, or was called after its abort.
 * The create whose number is `hangs` ends only by its signal, or if deaf, at the end.
 */
function customers(
  world: World,
  way: "use()" | "acquire()",
  {
    fails = false,
    validates = false,
    hangs = 0,
    isDeaf = false,
    ...options
  }: Omit<PoolOptions<Resource>, "create"> & {
    fails?: boolean;
    validates?: boolean;
    hangs?: number;
    isDeaf?: boolean;
  },
) {
  const wrong: string[] = [];
  const came: Customer[] = [];
  const end = Promise.withResolvers<void>();
  let creates = 0;
  let alive = 0;
  let failed = 0;
  const pool = new Pool<Resource>({
    ...options,
    async create(signal) {
      if (++alive > options.max) wrong.push("too many are created");
      try {
        if (++creates === hangs) {
          if (!isDeaf) signal.addEventListener("abort", () => end.reject(signal.reason));
          await end.promise;
        } else
          await world.step("create", { signal, fails: fails && failed === 0 && CREATE_FAILED });
        return { state: "new", users: 0 };
      } catch (error) {
        if (error === CREATE_FAILED) failed++;
        alive--;
        throw error;
      }
    },
    async destroy(resource) {
      if (resource.state === "destroyed") wrong.push("destroyed twice");
      if (resource.users > 0) wrong.push("destroyed while in use");
      resource.state = "destroyed";
      await world.step("destroy");
      alive--;
    },
    ...(validates && {
      async validate(resource, signal) {
        if (resource.users > 0) wrong.push("validated while in use");
        resource.state = "broken";
        await world.step("validate", { signal, fails: true });
        resource.state = "new";
        return true;
      },
    }),
  });

  /** Tells how it ended. */
  const come = async (name: string, signal?: AbortSignal) => {
    const customer: Customer = { name, signal, state: "waiting" };
    const work = async (resource: Resource) => {
      const isGood = resource.state === "new" || (resource.state === "used" && !validates);
      if (!isGood) wrong.push(`${name} gets a ${resource.state} resource`);
      if (++resource.users > 1) wrong.push(`${name} gets a lent resource`);
      for (const other of came.slice(0, came.indexOf(customer))) {
        const isWaiting = other.state === "waiting" && !other.signal?.aborted;
        if (isWaiting) wrong.push(`${name} overtakes ${other.name}`);
      }
      customer.state = "inside";
      await world.step("work");
      resource.users--;
      resource.state = "used";
    };
    const call = async () => {
      using lease = await pool.acquire(signal && { signal });
      await work(lease.value);
      lease.release(); // and once more at the end
    };
    const use = () =>
      pool.use((resource) => {
        if (signal?.aborted) wrong.push(`${name} is called after its abort`);
        return work(resource);
      }, signal && { signal });
    came.push(customer);
    try {
      await (way === "use()" ? use() : call());
      return "served";
    } catch (error) {
      if (customer.state === "inside") wrong.push(`${name} was served, and rejects`);
      if (error === CREATE_FAILED) return "create failed";
      if (signal?.aborted && error === signal.reason) return "aborted";
      if (/it has been disposed/.test(String(error))) return "refused";
      throw error;
    } finally {
      customer.state = "gone";
    }
  };
  const visit = (name: string, signal?: AbortSignal) => world.spawn(name, () => come(name, signal));
  const finish = async () => {
    end.resolve();
    await pool[Symbol.asyncDispose]();
    expect([wrong, alive, pool.size, pool.waiting]).toEqual([[], 0, 0, 0]);
  };
  return { pool, visit, come, finish, failed: () => failed };
}

const CREATE_FAILED = new Error("create failed");

/** A signal that may be aborted at any moment, or never. */
function abortable(world: World): AbortSignal {
  const controller = new AbortController();
  world.abort(controller);
  return controller.signal;
}

/** A small part of the orders, or all with `bun run test:orders`. */
async function everyOrder(scenario: (world: World) => unknown): Promise<void> {
  const all = globalThis.process?.env["ORDERS"] === "all";
  const part = all ? { maxRuns: 200_000, maxMs: 60_000 } : { maxRuns: 300, maxMs: Infinity };
  const result = await interleavings(scenario, part);
  if (all) console.log(`orders: ${result.runs}`); // summed up by test:orders
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** Lets promises that can go on without a timer go on. */
async function turns(count = 50): Promise<void> {
  for (let turn = 0; turn < count; turn++) await Promise.resolve();
}

/** The error with which a promise rejects. */
async function rejection(promise: PromiseLike<unknown> | undefined): Promise<unknown> {
  const [result] = await Promise.allSettled([promise]);
  if (result.status === "fulfilled") throw new Error(`not rejected: ${String(result.value)}`);
  return result.reason;
}

/** What a function throws, as text. */
function thrownBy(fn: () => unknown): string {
  try {
    fn();
  } catch (error) {
    return String(error);
  }
  throw new Error("nothing thrown");
}

/** A pool of the numbers from 1, and what it has created and destroyed so far. */
function numbered({
  destroy,
  delay = () => 0,
  ...options
}: Omit<PoolOptions<number>, "create"> & {
  delay?: (n: number, signal: AbortSignal) => number | Promise<never>;
}) {
  const created: number[] = [];
  const destroyed: number[] = [];
  let next = 1;
  const pool = new Pool<number>({
    ...options,
    create: async (signal) => {
      const n = next++;
      const ms = await delay(n, signal);
      if (ms > 0) await sleep(ms);
      created.push(n);
      return n;
    },
    destroy: async (n) => {
      await destroy?.(n);
      destroyed.push(n);
    },
  });
  return { pool, created, destroyed };
}

/** Options with which one step hangs once after `begin`: until it is aborted, or for ever. */
function hangOnce(step: string, { isDeaf = false } = {}) {
  let isArmed = false;
  const reasons: unknown[] = [];
  const hang = (signal: AbortSignal) => {
    isArmed = false;
    return new Promise<never>((_, reject) => {
      signal.addEventListener("abort", () => {
        reasons.push(signal.reason);
        if (!isDeaf) reject(signal.reason);
      });
    });
  };
  const delay = (_: number, signal: AbortSignal) => (isArmed ? hang(signal) : 0);
  const validate = (_: number, signal: AbortSignal) => (isArmed ? hang(signal) : true);
  return {
    reasons,
    options: step === "create" ? { delay } : { validate },
    begin: () => void (isArmed = true),
  };
}

/** A pool whose creates wait to be resolved, or aborted, and which of them were aborted. */
function hanging({ isDeaf = false, ...sizes }: { max: number; min?: number; isDeaf?: boolean }) {
  const aborted: number[] = [];
  const creates: PromiseWithResolvers<number>[] = [];
  const pool = new Pool<number>({
    create: (signal) => {
      const create = Promise.withResolvers<number>();
      const n = creates.push(create);
      signal.addEventListener("abort", () => {
        aborted.push(n);
        if (!isDeaf) create.reject(signal.reason);
      });
      return create.promise;
    },
    ...sizes,
  });
  return { pool, aborted, resolve: (n: number) => creates[n - 1]!.resolve(n) };
}

/** All get the same number. */
function served(n: number): (alive: number) => number[] {
  return (alive) => Array.from({ length: alive }, () => n);
}

/** Random numbers that are the same in every run. */
function seeded(seed: number): () => number {
  return () => (seed = (seed * 48271) % 2147483647) / 2147483647;
}

/** Runs `act`; then bun:test fails the test if a rejection has been left unhandled. */
async function withoutUnhandled(act: () => Promise<unknown>): Promise<void> {
  await act();
  await new Promise((resolve) => setImmediate(resolve));
}

/** An AbortController, and a function that counts the listeners which its signal has. */
function watchedController(): { controller: AbortController; listeners: () => number } {
  const controller = new AbortController();
  const { signal } = controller;
  const listeners = new Set<unknown>();
  const { addEventListener: add, removeEventListener: remove } = signal;
  signal.addEventListener = (...args: Parameters<typeof add>) => {
    listeners.add(args[1]);
    add.apply(signal, args);
  };
  signal.removeEventListener = (...args: Parameters<typeof remove>) => {
    listeners.delete(args[1]);
    remove.apply(signal, args);
  };
  return { controller, listeners: () => listeners.size };
}
