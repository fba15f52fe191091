/**
 * How to test a pool: count what is created and destroyed, and let each step be slow, fail or hang.
 */
import { describe, expect, test } from "bun:test";

import { Pool, type PoolOptions } from "../concepts/pools.ts";
import { virtualTime } from "../concepts/virtual-time.ts";

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

  test("use() gives the resource back when the function throws", async () => {
    const { pool, destroyed } = numbered({ max: 1 });

    await expect(pool.use(() => Promise.reject("failed"))).rejects.toBe("failed");

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

  test("no newcomer overtakes those who wait", async () => {
    const { pool } = numbered({ max: 1 });
    const order: string[] = [];
    const held = await pool.acquire();
    const first = pool.use(() => order.push("first"));

    held.release();
    await Promise.all([first, pool.use(() => order.push("newcomer"))]);

    expect(order).toEqual(["first", "newcomer"]);
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

  test.each([0, -1, 1.5, NaN, Infinity])("refuses a max of %d", (max) => {
    expect(thrownBy(() => new Pool({ create: () => 1, max }))).toBe(
      `RangeError: Cannot create Pool: max must be a positive integer, received ${max}`,
    );
  });

  test.each([-1, NaN, -Infinity, 2 ** 31])("refuses an idleTimeout of %d", (idleTimeout) => {
    expect(thrownBy(() => new Pool({ create: () => 1, max: 1, idleTimeout }))).toBe(
      `RangeError: Cannot create Pool: idleTimeout must be from 0 to 2^31-1, or Infinity, received ${idleTimeout}`,
    );
  });

  test.each([0, 2 ** 31 - 1, Infinity])("takes an idleTimeout of %d", (idleTimeout) => {
    expect(new Pool({ create: () => 1, max: 1, idleTimeout }).size).toBe(0);
  });

  test.each(["create", "destroy", "validate"])("refuses a %s that is not a function", (name) => {
    const options = { create: () => 1, max: 1, [name]: "no" } as unknown as PoolOptions<number>;
    expect(thrownBy(() => new Pool(options))).toBe(
      `TypeError: Cannot create Pool: ${name} must be a function, received no`,
    );
  });

  test.each(["max", "idleTimeout"])("refuses a %s that is not a number", (name) => {
    const options = { create: () => 1, max: 1, [name]: "1" } as unknown as PoolOptions<number>;
    expect(() => new Pool(options)).toThrow(TypeError);
  });
});

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
}: Omit<PoolOptions<number>, "create"> & { delay?: (n: number) => number }) {
  const created: number[] = [];
  const destroyed: number[] = [];
  let next = 1;
  const pool = new Pool<number>({
    ...options,
    create: async () => {
      const n = next++;
      const ms = delay(n);
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
  const [add, remove] = [signal.addEventListener, signal.removeEventListener];
  let count = 0;
  signal.addEventListener = (...args: Parameters<typeof add>) => (count++, add.apply(signal, args));
  signal.removeEventListener = (...args: Parameters<typeof remove>) => (
    count--,
    remove.apply(signal, args)
  );
  return { controller, listeners: () => count };
}
