/**
 * How to test code that cleans up: write down what happens in which order; let the setup, the work
 * and the cleanup fail one after the other and together; prove that every cleanup ran once, to its
 * end, and that every error can be read. Time is virtual where it matters.
 */
import { describe, expect, test } from "bun:test";

import {
  closing,
  type ContextManager,
  contextManager,
  type ExitStack,
  exitStack,
  type Failure,
  Pool,
  type PoolOptions,
  refCounted,
  suppress,
  withContext,
} from "../concepts/context-managers.ts";
import { virtualTime } from "../concepts/virtual-time.ts";

describe("contextManager", () => {
  test("sets up, hands out the value, and cleans up at the end of the block", async () => {
    const log: string[] = [];
    const open = contextManager(async function* (a: string, b: number) {
      log.push("setup");
      yield a + b;
      log.push("cleanup");
    });

    {
      await using handle = await open("a", 1);
      log.push(handle.value);
    }

    expect(log).toEqual(["setup", "a1", "cleanup"]);
  });

  test("does nothing until it is entered", async () => {
    const log: string[] = [];

    traced(log)("a");
    await turns();

    expect(log).toEqual([]);
  });

  test("waits for the setup before the body, and for the cleanup after it", async () => {
    await virtualTime(async (clock) => {
      const open = contextManager(async function* () {
        await sleep(100);
        yield;
        await sleep(10);
      });
      {
        await using _handle = await open();
        expect(clock.elapsed).toBe(100);
      }
      expect(clock.elapsed).toBe(110);
    });
  });

  test("cleans up after a body that throws or returns early; `await using` doesn't tell it why", async () => {
    const log: string[] = [];
    const open = contextManager(async function* () {
      try {
        yield;
        log.push("commit");
      } catch {
        log.push("rollback");
      } finally {
        log.push("close");
      }
    });
    const body = async (outcome: string) => {
      await using _handle = await open();
      if (outcome === "throws") throw new Error("body");
      return outcome;
    };

    await expect(body("throws")).rejects.toThrow("body");
    expect(await body("returns")).toBe("returns");
    expect(log).toEqual(["commit", "close", "commit", "close"]);
  });

  test("disposing a handle twice cleans up once", async () => {
    const log: string[] = [];
    {
      await using handle = await traced(log)("a");
      await handle[Symbol.asyncDispose]();
      await handle[Symbol.asyncDispose]();
    }
    expect(log).toEqual(["enter a", "exit a"]);
  });

  test.each([
    { what: "didn't yield", generator: async function* named(): AsyncGenerator<void, void> {} },
    {
      what: "returned before its yield",
      generator: async function* named(done = true) {
        if (done) return;
        yield;
      },
    },
  ])("names the generator when it $what", async ({ generator }) => {
    const error = new Error("Cannot enter named: its generator did not yield");
    const open = contextManager(generator);

    expect(await rejection(open())).toEqual(error);
    expect(await rejection(withContext(open(), () => "body"))).toEqual(error);
  });

  test("a generator without a name is called a context manager", async () => {
    const open = contextManager(async function* (): AsyncGenerator<void, void> {});

    expect(String(await rejection(open()))).toStartWith("Error: Cannot enter context manager: ");
  });

  test.each(["returns", "throws"])(
    "refuses a generator that yields twice, and closes it, when the body %s",
    async (outcome) => {
      const log: string[] = [];
      const twice = contextManager(async function* twice() {
        try {
          yield;
        } catch {}
        try {
          yield;
          log.push("resumed");
        } finally {
          await turns();
          log.push("closed");
        }
      });
      const thrown = new Error("body");
      const body = () => (outcome === "throws" ? Promise.reject(thrown) : "fine");

      const error = await rejection(withContext(twice(), body));

      expect(errorsIn(error).map(String)).toEqual([
        "Error: Cannot exit twice: its generator did not stop, but yielded again",
        ...(outcome === "throws" ? ["Error: body"] : []),
      ]);
      expect(log).toEqual(["closed"]);
    },
  );

  test("keeps what a generator that yields twice throws when it is closed", async () => {
    const twice = contextManager(async function* twice() {
      yield;
      try {
        yield;
      } finally {
        throw new Error("closing");
      }
    });

    const error = await rejection(withContext(twice(), () => {}));

    expect(errorsIn(error).map(String)).toEqual([
      "Error: closing",
      "Error: Cannot exit twice: its generator did not stop, but yielded again",
    ]);
  });

  test("rejects with the very error of the setup, and runs neither body nor cleanup", async () => {
    const error = new Error("setup");
    const log: string[] = [];
    const open = contextManager(async function* () {
      if (log.length === 0) throw error;
      yield;
      log.push("cleanup");
    });

    expect(await rejection(open())).toBe(error);
    expect(await rejection(withContext(open(), () => log.push("body")))).toBe(error);
    expect(log).toEqual([]);
  });

  test("rejects with the very error of the cleanup", async () => {
    const error = new Error("cleanup");
    const open = contextManager(async function* () {
      yield;
      throw error;
    });
    const block = async () => {
      await using _handle = await open();
    };

    expect(await rejection(block())).toBe(error);
    expect(await rejection(withContext(open(), () => {}))).toBe(error);
  });

  test("is for one use", async () => {
    const log: string[] = [];
    const opening = traced(log)("a");
    await withContext(opening, () => {});

    const error = new Error("Cannot enter context manager: this opening has been entered before");
    expect(await rejection(withContext(opening, () => {}))).toEqual(error);
    expect(await rejection(opening)).toEqual(error);
    expect(log).toEqual(["enter a", "exit a"]);
  });

  test.each(["text", 1, undefined])("refuses what is not a function: %p", (generator) => {
    expect(thrownBy(() => contextManager(generator as never))).toBe(
      `TypeError: Cannot create context manager: generator must be a function, received ${generator}`,
    );
  });
});

describe("withContext", () => {
  test("gives the body the value, and returns what the body returns", async () => {
    const log: string[] = [];
    const open = traced(log);

    expect(await withContext(open("a"), (value) => value.toUpperCase())).toBe("A");
    expect(await withContext(open("b"), async (value) => value.toUpperCase())).toBe("B");
    expect(log).toEqual(["enter a", "exit a", "enter b", "exit b"]);
  });

  test("cleans up only when an asynchronous body has ended", async () => {
    await virtualTime(async () => {
      const log: string[] = [];
      await withContext(traced(log)("a"), async () => {
        await sleep(100);
        log.push("body");
      });
      expect(log).toEqual(["enter a", "body", "exit a"]);
    });
  });

  test.each([
    ["an Error", new Error("body")],
    ["a string", "body"],
    ["undefined", undefined],
  ])("throws %s into the generator, which lets that very thing pass", async (_, thrown) => {
    const log: unknown[] = [];
    const open = contextManager(async function* () {
      try {
        yield;
        log.push("no error");
      } catch (error) {
        log.push(error);
        throw error;
      }
    });

    const failing = withContext(open(), () => {
      throw thrown;
    });

    expect(await rejection(failing)).toBe(thrown);
    expect(log).toEqual([thrown]);
  });

  test.each([
    ["an Error", new Error("body")],
    ["undefined", undefined],
  ])("resolves to undefined when the manager swallows %s", async (_, error) => {
    const open = contextManager(async function* () {
      try {
        yield;
      } catch {}
    });

    expect(await withContext(open(), () => Promise.reject(error))).toBeUndefined();
  });

  test.each<[string, (error: unknown) => unknown]>([
    ["its cause", (error) => new Error("new", { cause: error })],
    [
      "the cause of its cause",
      (error) => new Error("new", { cause: new Error("x", { cause: error }) }),
    ],
    ["one of its errors", (error) => new AggregateError([new Error("x"), error], "new")],
    ["what it suppressed", (error) => new SuppressedError(new Error("x"), error, "new")],
    ["the error of a SuppressedError", (error) => new SuppressedError(error, "x", "new")],
  ])("an error that has the body's as %s replaces it", async (_, translate) => {
    const body = new Error("body");
    const translated = translate(body);
    const open = contextManager(async function* () {
      try {
        yield;
      } catch {
        throw translated;
      }
    });

    expect(await rejection(withContext(open(), () => Promise.reject(body)))).toBe(translated);
  });

  test.each<[string, unknown, unknown]>([
    ["an Error", new Error("cleanup"), new Error("body")],
    ["an Error with a cause", new Error("cleanup", { cause: "else" }), new Error("body")],
    ["an Error that is its own cause", circularError(), new Error("body")],
    ["a string", "cleanup", new Error("body")],
    ["an Error, after undefined", new Error("cleanup"), undefined],
    ["undefined", undefined, new Error("body")],
  ])("an error of the cleanup hides none of the body: %s", async (_, cleanup, body) => {
    const open = contextManager(async function* () {
      try {
        yield;
      } finally {
        throw cleanup;
      }
    });

    const error = await rejection(withContext(open(), () => Promise.reject(body)));

    expect(error).toBeInstanceOf(SuppressedError);
    expect((error as SuppressedError).message).toBe("A cleanup failed after another error");
    expect((error as SuppressedError).error).toBe(cleanup);
    expect((error as SuppressedError).suppressed).toBe(body);
  });

  test("enters what is disposable, and its value is the thing itself", async () => {
    const log: string[] = [];
    const sync = { name: "sync", [Symbol.dispose]: () => void log.push("dispose") };
    const async = {
      name: "async",
      async [Symbol.asyncDispose]() {
        await turns();
        log.push(`dispose ${this.name}`);
      },
      [Symbol.dispose]: () => void log.push("wrong"),
    };

    expect(await withContext(sync, ({ name }) => log.push(name))).toBe(1);
    expect(await withContext(async, ({ name }) => log.push(name))).toBe(3);

    expect(log).toEqual(["sync", "dispose", "async", "dispose async"]);
  });

  test("a disposable swallows nothing, whatever its dispose returns", async () => {
    const resource = { [Symbol.dispose]: () => true };

    await expect(
      withContext(resource as unknown as Disposable, () => Promise.reject(new Error("body"))),
    ).rejects.toThrow("body");
  });

  test("enters a manager written by hand, whose methods may be synchronous", async () => {
    const seen: (Failure | undefined)[] = [];
    const manager: ContextManager<string> = {
      enter: () => "value",
      exit(failure) {
        expect(this).toBe(manager);
        seen.push(failure);
      },
    };

    expect(await withContext(manager, (value) => value)).toBe("value");
    await withContext(manager, () => Promise.reject("body")).catch(() => {});

    expect(seen).toEqual([undefined, { error: "body" }]);
  });

  test.each([
    ["undefined", undefined],
    ["null", null],
    ["a number", 1],
    ["a manager without exit", { enter() {} }],
    ["a manager without enter", { exit() {} }],
    ["a promise", Promise.resolve()],
  ])("refuses %s", async (_, manager) => {
    const entering = withContext(manager as never, () => {});

    expect(await rejection(entering)).toBeInstanceOf(TypeError);
    await expect(entering).rejects.toThrow(
      `Cannot enter: manager must be a context manager or disposable, received ${manager}`,
    );
  });
});

describe("exitStack", () => {
  test("runs the cleanups when the body has ended, the last first, one after the other", async () => {
    await virtualTime(async (clock) => {
      const log: string[] = [];
      const result = await exitStack(async (stack) => {
        log.push(await stack.enter(traced(log)("a")));
        stack.defer(async () => {
          await sleep(100);
          log.push(`defer at ${clock.elapsed}`);
        });
        stack.push(() => void log.push("push"));
        log.push("end");
        return "result";
      });

      expect(result).toBe("result");
      expect(log).toEqual(["enter a", "a", "end", "push", "defer at 100", "exit a"]);
    });
  });

  test.each([0, 1, 1000])("runs all of %d cleanups", async (count) => {
    const order: number[] = [];
    await exitStack((stack) => {
      for (let n = 0; n < count; n++) stack.defer(() => order.push(n));
    });
    expect(order).toEqual(Array.from({ length: count }, (_, n) => count - 1 - n));
  });

  test.each([
    { body: "returns", failure: undefined },
    { body: "throws", failure: { error: "body" } },
  ])("exits see whether the body failed: it $body", async ({ failure }) => {
    const seen: (Failure | undefined)[] = [];
    const run = exitStack((stack) => {
      stack.push((failure) => void seen.push(failure));
      stack.defer((...args: unknown[]) => expect(args).toEqual([]));
      stack.push((failure) => void seen.push(failure));
      if (failure) throw failure.error;
    });

    await run.catch((error) => expect(error).toBe("body"));
    expect(seen).toEqual([failure, failure]);
  });

  test("every cleanup runs, and every error is kept", async () => {
    const log: string[] = [];
    const error = await rejection(
      exitStack(async (stack) => {
        for (const name of ["a", "b", "c"]) {
          stack.push((failure) => {
            log.push(`${name} sees ${errorsIn(failure?.error)}`);
            throw name;
          });
          stack.defer(() => Promise.reject(`${name}'`));
        }
        throw "body";
      }),
    );

    expect(log).toEqual(["c sees c',body", "b sees b',c,c',body", "a sees a',b,b',c,c',body"]);
    expect(errorsIn(error)).toEqual(["a", "a'", "b", "b'", "c", "c'", "body"]);
  });

  test("a single error of a cleanup is not wrapped", async () => {
    const error = new Error("cleanup");
    const failing = exitStack((stack) => {
      stack.defer(() => {});
      stack.defer(() => Promise.reject(error));
    });
    expect(await rejection(failing)).toBe(error);
  });

  test("a cleanup that returns true clears the error, and those after it see success", async () => {
    const seen: unknown[] = [];
    const result = await exitStack((stack): string => {
      stack.push((failure) => void seen.push(failure));
      stack.push(async (failure) => failure?.error === "body");
      stack.push((failure) => void seen.push(failure));
      throw "body";
    });

    expect(result).toBeUndefined();
    expect(seen).toEqual([{ error: "body" }, undefined]);
  });

  test("clearing deals with all that failed before, and with nothing that fails later", async () => {
    const error = await rejection(
      exitStack((stack) => {
        stack.defer(() => Promise.reject("later"));
        stack.push(() => true);
        stack.defer(() => Promise.reject("earlier"));
        throw "body";
      }),
    );

    expect(error).toBe("later");
  });

  test("a result is kept when an error of a cleanup is cleared", async () => {
    const result = await exitStack((stack) => {
      stack.push(() => true);
      stack.defer(() => Promise.reject("cleanup"));
      return "result";
    });
    expect(result).toBe("result");
  });

  test("only true clears, and what a deferred function returns doesn't", async () => {
    const failing = exitStack((stack) => {
      stack.defer(() => true);
      stack.push((() => 1) as never);
      throw "body";
    });
    expect(await rejection(failing)).toBe("body");
  });

  test("an outer manager can swallow what an inner one has thrown", async () => {
    const log: unknown[] = [];
    const outer = contextManager(async function* () {
      try {
        yield;
      } catch (error) {
        log.push(error);
      }
    });
    const inner = contextManager(async function* () {
      yield;
      throw "inner";
    });

    await exitStack(async (stack) => {
      await stack.enter(outer());
      await stack.enter(inner());
    });

    expect(log).toEqual(["inner"]);
  });

  test("what can't be entered is not exited, and the others are", async () => {
    const log: string[] = [];
    const open = traced(log);
    const refuse: ContextManager<never> = {
      enter() {
        throw new Error("refused");
      },
      exit: () => void log.push("wrong"),
    };

    const failing = exitStack(async (stack) => {
      await stack.enter(open("a"));
      await stack.enter(refuse);
      await stack.enter(open("c"));
    });

    await expect(failing).rejects.toThrow("refused");
    expect(log).toEqual(["enter a", "exit a"]);
  });

  test("goes on after a failed enter that the body has dealt with", async () => {
    const refusing: ContextManager<never> = { enter: () => Promise.reject("refused"), exit() {} };

    const result = await exitStack((stack) => stack.enter(refusing).catch((error) => error));

    expect(result).toBe("refused");
  });

  test("waits for what is being entered when the body ends, and exits it", async () => {
    await virtualTime(async (clock) => {
      const log: string[] = [];
      const open = contextManager(async function* (name: string, ms: number) {
        await sleep(ms);
        if (name === "bad") throw new Error("refused");
        log.push(`enter ${name}`);
        try {
          yield;
        } finally {
          log.push(`exit ${name}`);
        }
      });

      const failing = exitStack((stack) =>
        Promise.all([
          stack.enter(open("a", 50)),
          stack.enter(open("bad", 10)),
          stack.enter(open("b", 30)),
        ]),
      );

      await expect(failing).rejects.toThrow("refused");
      expect(log).toEqual(["enter b", "exit b", "enter a", "exit a"]);
      expect(clock.elapsed).toBe(50);
    });
  });

  test("moved cleanups outlive the body, and run once when disposed", async () => {
    const log: string[] = [];
    const moved = await exitStack((stack) => {
      stack.defer(() => log.push("a"));
      stack.push((failure) => void log.push(`b ${failure}`));
      const all = stack.move();
      stack.defer(() => log.push("c"));
      return all;
    });
    expect(log).toEqual(["c"]);

    await moved?.[Symbol.asyncDispose]();
    await moved?.[Symbol.asyncDispose]();

    expect(log).toEqual(["c", "b undefined", "a"]);
  });

  test("moved cleanups keep every error too", async () => {
    const moved = await exitStack((stack) => {
      stack.defer(() => Promise.reject("a"));
      stack.defer(() => Promise.reject("b"));
      return stack.move();
    });

    expect(errorsIn(await rejection(moved?.[Symbol.asyncDispose]()))).toEqual(["a", "b"]);
  });

  test.each<[string, (stack: ExitStack) => unknown]>([
    ["enter", (stack) => stack.enter({ [Symbol.dispose]() {} })],
    ["push", (stack) => stack.push(() => {})],
    ["defer", (stack) => stack.defer(() => {})],
    ["move", (stack) => stack.move()],
  ])("%s() is refused as soon as the body has ended", async (_, use) => {
    const attempts: Promise<unknown>[] = [];
    let left: ExitStack | undefined;
    const attempt = async () => use(left!);
    await exitStack((stack) => {
      left = stack;
      stack.defer(() => void attempts.push(rejection(attempt())));
    });
    attempts.push(rejection(attempt()));

    const message = "Cannot use exit stack: its body has ended";
    expect(await Promise.all(attempts)).toEqual([new Error(message), new Error(message)]);
  });

  test("enters nothing once the body has ended", async () => {
    const log: string[] = [];
    const stack = await exitStack((stack) => stack);

    await rejection(stack?.enter(traced(log)("a")));

    expect(log).toEqual([]);
  });

  test("refuses cleanups that are not functions", async () => {
    await exitStack((stack) => {
      expect(thrownBy(() => stack.push(1 as never))).toBe(
        "TypeError: Cannot push to exit stack: exit must be a function, received 1",
      );
      expect(thrownBy(() => stack.defer(undefined as never))).toBe(
        "TypeError: Cannot defer to exit stack: fn must be a function, received undefined",
      );
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

describe("closing", () => {
  test.each([
    ["synchronous", (log: string[]) => void log.push("closed")],
    ["asynchronous", (log: string[]) => turns().then(() => void log.push("closed"))],
  ])("a %s close is called once, at the end of the block, and awaited", async (_, close) => {
    const log: string[] = [];
    const resource = { close: () => close(log) };
    {
      await using handle = closing(resource);
      expect(handle.value).toBe(resource);
      log.push("body");
    }
    expect(log).toEqual(["body", "closed"]);
  });

  test("calls close as a method, and once", async () => {
    const resource = {
      closed: 0,
      close() {
        this.closed++;
      },
    };
    const handle = closing(resource);

    await handle[Symbol.asyncDispose]();
    await handle[Symbol.asyncDispose]();

    expect(resource.closed).toBe(1);
  });

  test("can be entered", async () => {
    const log: string[] = [];
    const name = await withContext(closing({ name: "a", close: () => log.push("close") }), (it) => {
      log.push("body");
      return it.value.name;
    });
    expect(name).toBe("a");
    expect(log).toEqual(["body", "close"]);
  });

  test("disposal rejects with the error of close", async () => {
    const error = new Error("close");
    const handle = closing({
      close() {
        throw error;
      },
    });
    expect(await rejection(handle[Symbol.asyncDispose]())).toBe(error);
  });

  test.each([
    ["undefined", undefined],
    ["null", null],
    ["a number", 1],
    ["an object without close", {}],
    ["an object whose close is no method", { close: true }],
  ])("refuses %s", (_, resource) => {
    expect(thrownBy(() => closing(resource as never))).toBe(
      `TypeError: Cannot close: resource must be an object with a method close, received ${resource}`,
    );
  });
});

describe("suppress", () => {
  test("returns what the body returns", async () => {
    expect(await suppress(() => 1, TypeError)).toBe(1);
    expect(await suppress(async () => 2, TypeError)).toBe(2);
  });

  test.each([
    ["the class", [TypeError]],
    ["one of several classes", [RangeError, TypeError]],
    ["a class above it", [Error]],
  ])("resolves to undefined for an instance of %s", async (_, classes) => {
    const error = new TypeError("x");
    const thrower = () => {
      throw error;
    };
    expect(await suppress(thrower, ...classes)).toBeUndefined();
    expect(await suppress(() => Promise.reject(error), ...classes)).toBeUndefined();
  });

  test.each([
    ["another class", new Error("x"), [TypeError]],
    ["no class", new Error("x"), []],
    ["something that is no Error", "x", [Error]],
    ["a group of errors that match", new AggregateError([new TypeError("x")]), [TypeError]],
  ])("lets that very error pass: %s", async (_, error, classes) => {
    expect(await rejection(suppress(() => Promise.reject(error), ...classes))).toBe(error);
  });

  test("refuses what is not a class, before it calls the body", async () => {
    const log: string[] = [];
    const call = suppress(() => log.push("called"), "TypeError" as never);

    expect(await rejection(call)).toEqual(
      new TypeError("Cannot suppress errors: errorClasses must be a function, received TypeError"),
    );
    expect(log).toEqual([]);
  });
});

describe("refCounted", () => {
  test("the first to come enters, the last to leave exits", async () => {
    const log: string[] = [];
    const shared = refCounted(() => traced(log)("a"));

    const [one, two] = await Promise.all([shared(), shared()]);
    const three = await shared();
    for (const handle of [one, three]) await handle[Symbol.asyncDispose]();
    expect(log).toEqual(["enter a"]);
    await two[Symbol.asyncDispose]();

    expect(log).toEqual(["enter a", "exit a"]);
    expect([one.value, two.value, three.value]).toEqual(["a", "a", "a"]);
  });

  test("whoever comes after the last has it entered anew", async () => {
    const log: string[] = [];
    const shared = refCounted(() => traced(log)("a"));

    await withContext(shared(), (value) => log.push(value));
    await withContext(shared(), (value) => log.push(value));

    expect(log).toEqual(["enter a", "a", "exit a", "enter a", "a", "exit a"]);
  });

  test("one user who disposes twice leaves once", async () => {
    const log: string[] = [];
    const shared = refCounted(() => traced(log)("a"));
    const [one, two] = [await shared(), await shared()];

    await one[Symbol.asyncDispose]();
    await one[Symbol.asyncDispose]();
    expect(log).toEqual(["enter a"]);

    await two[Symbol.asyncDispose]();
    expect(log).toEqual(["enter a", "exit a"]);
  });

  test("whoever comes during the exit waits for its end", async () => {
    await virtualTime(async (clock) => {
      const log: string[] = [];
      const shared = refCounted(slow(clock, log, { enter: 10, exit: 100 }));
      const first = await shared();
      const leaving = first[Symbol.asyncDispose]();
      const others = [1, 2].map(() => withContext(shared(), () => clock.elapsed));

      await leaving;
      expect(clock.elapsed).toBe(110);
      expect(await Promise.all(others)).toEqual([120, 120]);

      expect(log).toEqual(["entered at 10", "exited at 110", "entered at 120", "exited at 220"]);
    });
  });

  test("a failed enter rejects all who wait for it, and is forgotten", async () => {
    const log: string[] = [];
    const error = new Error("refused");
    let attempts = 0;
    const shared = refCounted(
      contextManager(async function* () {
        await turns();
        if (++attempts === 1) throw error;
        yield attempts;
        log.push("exit");
      }),
    );
    const retrying = rejection(shared()).then((reason) => {
      expect(reason).toBe(error);
      return withContext(shared(), (value) => value);
    });

    expect(await Promise.all([rejection(shared()), rejection(shared())])).toEqual([error, error]);
    expect(await retrying).toBe(2);
    expect(log).toEqual(["exit"]);
  });

  test("whoever comes while those who failed are leaving shares a new enter", async () => {
    const refused = Promise.withResolvers<string>();
    const enters = [refused.promise];
    let entered = 0;
    let peak = 0;
    const shared = refCounted(() => ({
      enter: async () => {
        const value = await (enters.shift() ?? "second");
        peak = Math.max(peak, ++entered);
        return value;
      },
      exit: () => void entered--,
    }));
    const use = () => withContext(shared(), (value) => turns().then(() => value));
    const first = rejection(use());
    await turns();

    refused.reject("refused");
    const newcomers: Promise<unknown>[] = [];
    for (let turn = 0; turn < 100; turn++) {
      newcomers.push(use().catch((error) => error));
      await Promise.resolve();
    }

    expect(await first).toBe("refused");
    expect(await newcomers.at(-1)).toBe("second");
    await Promise.all(newcomers);
    expect(peak).toBe(1);
  });

  test("an open that throws is a failed enter", async () => {
    const opens = [
      () => {
        throw new Error("refused");
      },
      () => traced([])("a"),
    ];
    const shared = refCounted(() => opens.shift()!());

    expect(String(await rejection(shared()))).toBe("Error: refused");
    await withContext(shared(), (value) => expect(value).toBe("a"));
  });

  test("the last user gets the error of the exit, and the next one is not concerned", async () => {
    await withoutUnhandled(async () => {
      const errors = [new Error("exit")];
      const shared = refCounted(
        contextManager(async function* () {
          yield "value";
          if (errors.length > 0) throw errors.pop();
        }),
      );
      const [one, two] = [await shared(), await shared()];
      await one[Symbol.asyncDispose]();
      const leaving = rejection(two[Symbol.asyncDispose]());
      const next = withContext(shared(), (value) => value);

      expect(String(await leaving)).toBe("Error: exit");
      expect(await next).toBe("value");
    });
  });

  test("the exit is not told of a user's error, which that user gets", async () => {
    const seen: unknown[] = [];
    const shared = refCounted(() => ({
      enter: () => "value",
      exit: (failure?: Failure) => seen.push(failure) > 0,
    }));

    await expect(withContext(shared(), () => Promise.reject("body"))).rejects.toBe("body");

    expect(seen).toEqual([undefined]);
  });

  test("can share what is disposable", async () => {
    let disposed = 0;
    const shared = refCounted(() => ({ name: "a", [Symbol.dispose]: () => void disposed++ }));

    expect(await withContext(shared(), ({ name }) => name)).toBe("a");

    expect(disposed).toBe(1);
  });

  test("rejects with the reason when aborted before, and enters nothing", async () => {
    const log: string[] = [];
    const shared = refCounted(() => traced(log)("a"));

    expect(await rejection(shared({ signal: AbortSignal.abort("stop") }))).toBe("stop");

    expect(log).toEqual([]);
  });

  test("rejects with the reason when aborted while waiting; the others are not concerned", async () => {
    await virtualTime(async (clock) => {
      const log: string[] = [];
      const shared = refCounted(slow(clock, log, { enter: 100, exit: 0 }));
      const { controller, listeners } = watchedController();
      const first = rejection(shared({ signal: controller.signal }));
      const second = withContext(shared(), () => clock.elapsed);
      setTimeout(() => controller.abort("stop"), 50);

      expect(await first).toBe("stop");
      expect(clock.elapsed).toBe(50);
      expect(listeners()).toBe(0);
      expect(await second).toBe(100);
      expect(log).toEqual(["entered at 100", "exited at 100"]);
    });
  });

  test("listens no more once it has been entered", async () => {
    const { controller, listeners } = watchedController();
    const shared = refCounted(() => traced([])("a"));

    await using _handle = await shared({ signal: controller.signal });

    expect(listeners()).toBe(0);
  });

  test("when all have aborted, it is exited as soon as it is entered, and can be entered again", async () => {
    await virtualTime(async (clock) => {
      const log: string[] = [];
      const shared = refCounted(slow(clock, log, { enter: 100, exit: 10 }));
      const aborted = rejection(shared({ signal: AbortSignal.timeout(50) }));
      await aborted;
      expect(clock.elapsed).toBe(50);

      await withContext(shared(), () => {});

      expect(log).toEqual(["entered at 100", "exited at 110", "entered at 210", "exited at 220"]);
    });
  });

  test.each(["entering", "exit"])(
    "when all have aborted, an error of the %s is nobody's any more",
    async (step) => {
      await withoutUnhandled(async () => {
        const gate = Promise.withResolvers<void>();
        const shared = refCounted(
          contextManager(async function* () {
            await gate.promise;
            if (step === "entering") throw new Error(step);
            yield;
            throw new Error(step);
          }),
        );
        const controller = new AbortController();
        const aborted = rejection(shared({ signal: controller.signal }));
        await turns();
        controller.abort("stop");
        expect(await aborted).toBe("stop");

        gate.resolve();
        await turns();
      });
    },
  );

  test("refuses what is not a function", () => {
    expect(thrownBy(() => refCounted(undefined as never))).toBe(
      "TypeError: Cannot create refCounted: open must be a function, received undefined",
    );
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

/** All errors that can be read from one, the newest first. */
function errorsIn(error: unknown): unknown[] {
  if (!(error instanceof SuppressedError)) return [error];
  return [...errorsIn(error.error), ...errorsIn(error.suppressed)];
}

/** An error whose causes go round in a circle. */
function circularError(): Error {
  const error = new Error("circular");
  error.cause = error;
  return error;
}

/** A context manager, with its own name as its value, that writes down what happens. */
function traced(log: string[]) {
  return contextManager(async function* (name: string) {
    log.push(`enter ${name}`);
    try {
      yield name;
    } finally {
      log.push(`exit ${name}`);
    }
  });
}

/** A context manager that takes its time, and writes down when it was done. */
function slow(
  clock: { elapsed: number },
  log: string[],
  { enter, exit }: { enter: number; exit: number },
) {
  return contextManager(async function* () {
    await sleep(enter);
    log.push(`entered at ${clock.elapsed}`);
    yield;
    await sleep(exit);
    log.push(`exited at ${clock.elapsed}`);
  });
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
