/**
 * How to test code that cleans up: record what happens in which order; let the setup, the work and
 * the cleanup fail, one at a time and together; prove that every cleanup ran once, to its end, and
 * that every error can be read. Time is virtual where it matters.
 */
import { describe, expect, expectTypeOf, test } from "bun:test";

import {
  closing,
  type ContextManager,
  contextManager,
  type Enterable,
  type ExitStack,
  exitStack,
  type Failure,
  refCounted,
  suppress,
  withContext,
} from "../concepts/context-managers.ts";
import { interleavings, type World } from "../concepts/interleavings.ts";
import { virtualTime } from "../concepts/virtual-time.ts";

interface Vm {
  runInNewContext(code: string): unknown;
}
interface BuiltinModules {
  process?: { getBuiltinModule?: (name: string) => Vm | undefined };
}
const vm = (globalThis as BuiltinModules).process?.getBuiltinModule?.("node:vm");

describe("Start here", () => {
  test("record what happens, and compare the whole record", async () => {
    const log: string[] = [];
    const open = contextManager(async function* (name: string) {
      log.push("setup");
      yield `hello ${name}`;
      log.push("cleanup");
    });

    await withContext(open("Ada"), (greeting) => log.push(greeting));

    expect(log).toEqual(["setup", "hello Ada", "cleanup"]);
  });

  test("let the work fail: the cleanup runs, and the caller gets the error", async () => {
    const log: string[] = [];
    const open = contextManager(async function* () {
      try {
        yield;
      } finally {
        log.push("cleanup");
      }
    });

    const work = withContext(open(), () => Promise.reject(new Error("work")));

    await expect(work).rejects.toThrow("work");
    expect(log).toEqual(["cleanup"]);
  });

  test("trap: without try/finally nothing after the `yield` runs when the work fails", async () => {
    const log: string[] = [];
    const open = contextManager(async function* () {
      yield;
      log.push("cleanup");
    });

    await withContext(open(), () => Promise.reject(new Error("work"))).catch(() => {});

    expect(log).toEqual([]);
  });

  test("trap: `await using` cleans up, but can't tell the manager that the work failed", async () => {
    const log: string[] = [];
    const transaction = contextManager(async function* () {
      try {
        yield;
        log.push("commit");
      } catch {
        log.push("rollback");
      }
    });
    const work = async () => {
      await using _transaction = await transaction();
      throw new Error("work");
    };

    await work().catch(() => {});
    await withContext(transaction(), () => Promise.reject(new Error("work")));

    expect(log).toEqual(["commit", "rollback"]);
  });

  test("let two of three cleanups fail: the third runs, and both errors can be read", async () => {
    const log: string[] = [];
    const work = exitStack((stack) => {
      stack.defer(() => log.push("third"));
      stack.defer(() => Promise.reject(new Error("second")));
      stack.defer(() => Promise.reject(new Error("first")));
    });

    const error = await rejection(work);

    expect(log).toEqual(["third"]);
    expect(errorsIn(error).map(String)).toEqual(["Error: second", "Error: first"]);
  });

  test("virtual time shows what is waited for, to the millisecond and without waiting", async () => {
    await virtualTime(async (clock) => {
      await exitStack((stack) => {
        stack.defer(() => sleep(100));
        stack.defer(() => sleep(10));
      });

      expect(clock.elapsed).toBe(110);
    });
  });
});

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

  test("a second disposal waits for the first, which alone rejects", async () => {
    await virtualTime(async (clock) => {
      const open = contextManager(async function* () {
        yield;
        await sleep(100);
        throw new Error("cleanup");
      });
      const handle = await open();

      const first = rejection(handle[Symbol.asyncDispose]());
      await sleep(50);
      await handle[Symbol.asyncDispose]();

      expect(clock.elapsed).toBe(100);
      expect(String(await first)).toBe("Error: cleanup");
      await handle[Symbol.asyncDispose]();
    });
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

    expect(String(await rejection(open()))).toMatch(/^Error: Cannot enter context manager: /);
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

  test.each([
    ["text", '"text"'],
    [1, "1"],
    [undefined, "undefined"],
    [{}, "Object"],
  ])("refuses what is not a function: %s", (generator, shown) => {
    expect(thrownBy(() => contextManager(generator as never))).toBe(
      `TypeError: Cannot create context manager: generator must be a function, received ${shown}`,
    );
  });

  test.each([
    ["a promise", async () => {}, "Promise"],
    ["undefined", () => {}, "undefined"],
    ["a string", () => "text", '"text"'],
  ])("entering refuses a function that returns %s", async (_, generator, shown) => {
    const open = contextManager(generator as never);

    const message = `what its generator returns must be an async generator, received ${shown}`;
    expect(await rejection(open())).toEqual(
      new TypeError(`Cannot enter context manager: ${message}`),
    );
  });

  test("rejects, rather than throws, when a default argument throws", async () => {
    const error = new Error("no port");
    const fail = (): number => {
      throw error;
    };
    const open = contextManager(async function* (port = fail()) {
      yield port;
    });

    expect(await rejection(open())).toBe(error);
    expect(await withContext(open(1), (port) => port)).toBe(1);
  });

  test("keeps the types of the parameters and of the value", () => {
    const named = contextManager(async function* (port = 1) {
      yield port;
    });
    const mixed = contextManager(async function* (host: string, port = 1, ...rest: boolean[]) {
      yield { host, port, rest };
    });
    const generic = contextManager(async function* <T>(value: T, times = 2) {
      yield Array<T>(times).fill(value);
    });

    expectTypeOf<Parameters<typeof named>>().toEqualTypeOf<[port?: number | undefined]>();
    expectTypeOf<Awaited<ReturnType<typeof named>>["value"]>().toEqualTypeOf<number>();
    expectTypeOf<Parameters<typeof mixed>>().toEqualTypeOf<
      [host: string, port?: number | undefined, ...rest: boolean[]]
    >();
    const opened = () => generic("text");
    expectTypeOf<Awaited<ReturnType<typeof opened>>["value"]>().toEqualTypeOf<string[]>();
    // @ts-expect-error It must be an async generator.
    const refused = () => contextManager(async () => 1);
    expect([opened, refused]).toHaveLength(2);
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

  test("a part of the body's error doesn't replace it, and is not told twice", async () => {
    const cause = new Error("cause");
    const body = new Error("body", { cause });
    const unwrap = contextManager(async function* () {
      try {
        yield;
      } catch {
        throw cause;
      }
    });

    expect(await rejection(withContext(unwrap(), () => Promise.reject(body)))).toBe(body);
  });

  test.each<[string, (old: unknown) => unknown, boolean]>([
    ["a chain of 50,000 causes that ends with the old error", (old) => chain(50_000, old), true],
    ["a list of 50,000 errors, one of them the old one", (old) => manyErrors(50_000, old), true],
    ["errors that cause each other", () => circle(), false],
    ["an error whose getters throw", () => hostile(), false],
    ["a revoked proxy", () => revokedProxy(), false],
    ["an error caused by a revoked proxy", () => new Error("x", { cause: revokedProxy() }), false],
    ["an error whose list is a revoked proxy", () => withRevokedList(), false],
    ["a proxy that makes up a new cause each time", () => endless(), false],
  ])("looking into an error neither throws nor overflows: %s", async (_, create, carries) => {
    const log: string[] = [];
    const body = new Error("body");
    const cleanup = create(body);

    const error = await rejection(
      exitStack((stack) => {
        stack.defer(() => log.push("last cleanup"));
        stack.defer(() => Promise.reject(cleanup));
        throw body;
      }),
    );

    expect(log).toEqual(["last cleanup"]);
    if (carries) expect(error === cleanup).toBe(true);
    else expect(readsBoth(error, cleanup, body)).toBe(true);
  });

  test("many cleanups may fail: each error is kept once", async () => {
    const errors = Array.from({ length: 5_000 }, (_, n) => ({ n }));

    const error = await rejection(
      exitStack((stack) => {
        for (const error of errors) stack.defer(() => Promise.reject(error));
      }),
    );

    const found: unknown[] = [];
    for (let it = error; ; it = (it as SuppressedError).suppressed) {
      if (!(it instanceof SuppressedError)) {
        found.push(it);
        break;
      }
      found.push(it.error);
    }
    expect(found.length).toBe(errors.length);
    expect(found.every((it, n) => it === errors[n])).toBe(true);
  });

  test("an error that several cleanups pass on is told once", async () => {
    const [first, second] = [new Error("first"), new Error("second")];
    const error = await rejection(
      exitStack((stack) => {
        stack.defer(() => Promise.reject(first));
        stack.defer(() => Promise.reject(second));
        stack.push((failure) => {
          throw failure?.error;
        });
        throw first;
      }),
    );

    expect(errorsIn(error)).toEqual([second, first]);
  });

  test("a cleanup that throws an earlier failure again adds nothing", async () => {
    let earlier: unknown;
    const error = await rejection(
      exitStack((stack) => {
        stack.defer(() => Promise.reject(earlier));
        stack.defer(() => Promise.reject("third"));
        stack.push((failure) => void (earlier = failure?.error));
        stack.defer(() => Promise.reject("second"));
        throw "first";
      }),
    );

    expect(errorsIn(error)).toEqual(["third", "second", "first"]);
  });

  test("what was cleared can fail again", async () => {
    const failure = new Error("again");
    const error = await rejection(
      exitStack((stack) => {
        stack.defer(() => Promise.reject(failure));
        stack.defer(() => Promise.reject(new Error("other")));
        stack.push(() => true);
        stack.defer(() => Promise.reject(new Error("second")));
        throw failure;
      }),
    );

    expect(errorsIn(error).map(String)).toEqual(["Error: again", "Error: other"]);
  });

  test.skipIf(!vm)("looks into errors of another realm (needs node:vm)", async () => {
    const wrap = vm!.runInNewContext("(errors) => new AggregateError(errors, 'x')") as (
      errors: unknown[],
    ) => unknown;
    const body = new Error("body");
    let wrapped: unknown;

    const error = await rejection(
      exitStack((stack) => {
        stack.push((failure) => {
          throw (wrapped = wrap([failure?.error]));
        });
        throw body;
      }),
    );

    expect(error).toBe(wrapped);
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
    ["undefined", undefined, "undefined"],
    ["null", null, "null"],
    ["a number", 1, "1"],
    ["a string", "text", '"text"'],
    ["a manager without exit", { enter() {} }, "Object"],
    ["a manager without enter", { exit() {} }, "Object"],
    ["a manager whose methods are not functions", { enter: 1, exit: 2 }, "Object"],
    ["a disposable whose method is not a function", { [Symbol.dispose]: 1 }, "Object"],
    ["a promise", Promise.resolve(), "Promise"],
  ])("refuses %s", async (_, manager, shown) => {
    const message = `manager must be a context manager or disposable, received ${shown}`;
    const error = new TypeError(`Cannot enter: ${message}`);

    expect(await rejection(withContext(manager as never, () => {}))).toEqual(error);
    expect(await rejection(exitStack((stack) => stack.enter(manager as never)))).toEqual(error);
  });

  test("refuses a body that is not a function, before it enters anything", async () => {
    const log: string[] = [];

    expect(await rejection(withContext(traced(log)("a"), 5 as never))).toEqual(
      new TypeError("Cannot run withContext: body must be a function, received 5"),
    );
    expect(log).toEqual([]);
  });

  test.each(["synchronous", "asynchronous"])(
    "releases a hold that a %s body returns when the cleanup fails",
    async (kind) => {
      const hold = held();
      const disposable = { disposed: 0, [Symbol.dispose]: () => void disposable.disposed++ };
      const failing = { [Symbol.asyncDispose]: () => Promise.reject("cleanup") };
      const result = [hold, disposable];

      const body = () => (kind === "synchronous" ? result : Promise.resolve(result));

      expect(await rejection(withContext(failing, body))).toBe("cleanup");
      expect(hold.released).toBe(1);
      expect(disposable.disposed).toBe(0);
    },
  );

  test("delivers a hold, unreleased, when the cleanup succeeds", async () => {
    const hold = held();

    expect(await withContext(traced([])("a"), () => hold)).toBe(hold);

    expect(hold.released).toBe(0);
  });

  test("delivers a hold, unreleased, when the error of a cleanup is cleared", async () => {
    const hold = held();

    const result = await exitStack((stack) => {
      stack.push(() => true);
      stack.defer(() => Promise.reject("cleanup"));
      return hold;
    });

    expect(result).toBe(hold);
    expect(hold.released).toBe(0);
  });

  test("takes a body that returns a value or a promise", async () => {
    const body = (value: string): number | Promise<string> => (value ? 1 : Promise.resolve(""));
    const promise = withContext(traced([])("a"), body);
    const explicit = exitStack<number>(async () => 1);

    expectTypeOf(promise).toEqualTypeOf<Promise<number | string | undefined>>();
    expectTypeOf(explicit).toEqualTypeOf<Promise<number | undefined>>();
    expect(await promise).toBe(1);
    expect(await explicit).toBe(1);
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

  test.each(["synchronously", "later"])(
    "the error of an enter that nobody awaits is thrown at the end: it fails %s",
    async (when) => {
      await withoutUnhandled(async () => {
        const log: string[] = [];
        const enter = () => {
          if (when === "synchronously") throw new Error("refused");
          return turns().then(() => Promise.reject(new Error("refused")));
        };

        const error = await rejection(
          exitStack((stack) => {
            stack.push((failure) => void log.push(String(failure?.error)));
            void stack.enter({ enter, exit: () => log.push("wrong") > 0 });
            return "result";
          }),
        );

        expect(String(error)).toBe("Error: refused");
        expect(log).toEqual(["Error: refused"]);
      });
    },
  );

  test("the error of an enter that nobody awaits doesn't replace that of the body", async () => {
    await withoutUnhandled(async () => {
      const error = await rejection(
        exitStack(async (stack) => {
          void stack.enter(undefined as never);
          throw new Error("body");
        }),
      );

      expect(errorsIn(error).map(String)).toEqual([
        "TypeError: Cannot enter: manager must be a context manager or disposable, received undefined",
        "Error: body",
      ]);
    });
  });

  test("the error of an enter that is awaited later is told once, to the body", async () => {
    await withoutUnhandled(async () => {
      const error = new Error("refused");
      const refusing: ContextManager<never> = { enter: () => Promise.reject(error), exit() {} };

      const result = await exitStack(async (stack) => {
        const entering = stack.enter(refusing);
        await new Promise((resolve) => setImmediate(resolve));
        return entering.catch((it) => it === error);
      });

      expect(result).toBe(true);
    });
  });

  test.each<[string, (entering: Promise<string>) => Promise<unknown>]>([
    ["await", async (entering) => await entering],
    ["return", (entering) => entering],
    ["then", (entering) => entering.then((value) => value)],
    ["finally", (entering) => entering.finally(() => {})],
    ["Promise.all", (entering) => Promise.all([entering]).then(([value]) => value)],
    ["Promise.race", (entering) => Promise.race([entering])],
  ])("what enter() returns is an ordinary promise: %s", async (_, use) => {
    const value = await exitStack((stack) => use(stack.enter(traced([])("a"))));
    expect(value).toBe("a");

    const refused = new Error("refused");
    const refusing = { enter: () => Promise.reject<string>(refused), exit() {} };
    const error = await rejection(exitStack((stack) => use(stack.enter(refusing))));
    expect(error).toBe(refused);
  });

  test.each([
    { first: 10, second: 10 },
    { first: 10, second: 20 },
    { first: 0, second: 0 },
    { first: 0, second: 10 },
  ])(
    "Promise.all drops the second error, exitStack doesn't: after $first and $second ms",
    async ({ first, second }) => {
      await virtualTime(async () => {
        const refuse = (name: string, ms: number): ContextManager<never> => ({
          enter: () => (ms > 0 ? sleep(ms) : turns(1)).then(() => Promise.reject(name)),
          exit() {},
        });
        const error = await rejection(
          exitStack((stack) =>
            Promise.all([stack.enter(refuse("a", first)), stack.enter(refuse("b", second))]),
          ),
        );

        expect(errorsIn(error).toSorted()).toEqual(["a", "b"]);
      });
    },
  );

  test("an enter that fails after the body has failed is joined with it", async () => {
    await virtualTime(async () => {
      const refusing: ContextManager<never> = {
        enter: () => sleep(100).then(() => Promise.reject("refused")),
        exit() {},
      };
      const work = () => sleep(10).then(() => Promise.reject("work"));

      const error = await rejection(
        exitStack((stack) => Promise.all([stack.enter(refusing), work()])),
      );

      expect(errorsIn(error)).toEqual(["refused", "work"]);
    });
  });

  test("an enter that failed and was handled is not told of when the body fails later", async () => {
    const refuse = (name: string): ContextManager<never> => ({
      enter: () => Promise.reject(name),
      exit() {},
    });

    const error = await rejection(
      exitStack(async (stack) => {
        await stack.enter(traced([])("a"));
        await stack.enter(refuse("primary")).catch(() => {});
        await stack.enter(refuse("secondary"));
      }),
    );

    expect(error).toBe("secondary");
  });

  test("an enter that fails late, and was handled, doesn't fail a body that succeeded", async () => {
    const refused = Promise.withResolvers<never>();
    const handled: unknown[] = [];

    const running = exitStack((stack) => {
      const refusing: ContextManager<never> = { enter: () => refused.promise, exit() {} };
      stack.enter(refusing).catch((error) => handled.push(error));
      return "result";
    });
    await turns();
    refused.reject("refused");

    expect(await running).toBe("result");
    expect(handled).toEqual(["refused"]);
  });

  test("an error of entering that a later manager has cleared stays cleared", async () => {
    const refusing: ContextManager<never> = { enter: () => Promise.reject("refused"), exit() {} };

    const result = await exitStack(async (stack) => {
      const entering = [stack.enter(refusing), stack.enter({ enter() {}, exit: () => true })];
      await Promise.all(entering);
    });

    expect(result).toBeUndefined();
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

  test("moved cleanups that are disposed twice at once still run one at a time", async () => {
    await virtualTime(async (clock) => {
      const log: string[] = [];
      const moved = await exitStack((stack) => {
        for (const name of ["a", "b", "c"]) {
          stack.defer(async () => {
            log.push(`${name} starts`);
            await sleep(10);
            log.push(`${name} ends`);
          });
        }
        return stack.move();
      });

      const first = moved?.[Symbol.asyncDispose]();
      await sleep(5);
      await moved?.[Symbol.asyncDispose]();

      expect(clock.elapsed).toBe(30);
      expect(log).toEqual(["c starts", "c ends", "b starts", "b ends", "a starts", "a ends"]);
      await first;
    });
  });

  test("of two disposals only the first tells of errors", async () => {
    const moved = await exitStack((stack) => {
      stack.defer(() => Promise.reject("cleanup"));
      return stack.move();
    });

    const both = await Promise.allSettled([1, 2].map(() => moved![Symbol.asyncDispose]()));

    expect(both.map(({ status }) => status)).toEqual(["rejected", "fulfilled"]);
    expect(await rejection(Promise.reject((both[0] as PromiseRejectedResult).reason))).toBe(
      "cleanup",
    );
  });

  test("moved cleanups run, and see the error, when they are returned but another cleanup fails", async () => {
    const log: string[] = [];
    const error = await rejection(
      exitStack((stack) => {
        stack.push((failure) => {
          log.push(`moved sees ${failure?.error}`);
          throw "moved";
        });
        const moved = stack.move();
        stack.defer(() => Promise.reject("cleanup"));
        return moved;
      }),
    );

    expect(log).toEqual(["moved sees cleanup"]);
    expect(errorsIn(error)).toEqual(["moved", "cleanup"]);
  });

  test("moved cleanups that are returned can clear the error of another cleanup", async () => {
    const result = await exitStack((stack) => {
      stack.push(() => true);
      const moved = stack.move();
      stack.defer(() => Promise.reject("cleanup"));
      return moved;
    });

    expect(result).toBeUndefined();
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

  describe.each([
    ["in turn", "first", 0],
    ["in turn", "middle", 1],
    ["in turn", "last", 2],
    ["at once", "first", 0],
    ["at once", "middle", 1],
    ["at once", "last", 2],
  ] as const)("of three managers entered %s, the %s is aborted", (how, _which, n) => {
    test.each(momentsOfAbort)("$when", async ({ steps, wins }) => {
      const log: number[] = [];
      const { controller, listeners } = watchedController();
      const gates = [0, 1, 2].map(() => Promise.withResolvers<void>());
      gates.forEach((gate, i) => i === n || gate.resolve());
      const openings = gates.map((gate, i) =>
        refCounted(() => ({ enter: () => gate.promise, exit: () => void log.push(i) }))(
          i === n ? controller : {},
        ),
      );
      let result: Promise<unknown>;
      const end = Promise.withResolvers<void>();

      await act(steps, {
        begin() {
          result = exitStack(async ({ enter }) => {
            if (how === "at once") await Promise.all(openings.map(enter));
            else for (const opening of openings) await enter(opening);
            await end.promise;
            return "done";
          });
        },
        grant: () => gates[n]!.resolve(),
        abort: () => controller.abort("stop"),
      });
      end.resolve();

      expect(await result!.catch((reason: unknown) => reason)).toBe(wins ? "stop" : "done");
      const ofStack = [2, 1, 0].filter((i) => !wins || (how === "in turn" ? i < n : i !== n));
      expect(log.filter((i) => !wins || i !== n)).toEqual(ofStack);
      // What was granted in the turn of the abort is given back.
      expect(log.includes(n)).toBe(!wins || steps.flat().includes("grant"));
      expect(listeners()).toBe(0);
    });
  });

  test("shows itself when it is printed", async () => {
    await exitStack(async (stack) => {
      stack.defer(() => {});
      const entering = stack.enter({ enter: () => turns(1), exit() {} });
      expect(printed(stack)).toBe('ExitStack {"size":2,"entering":1}');

      await entering;
      expect(printed(stack)).toBe('ExitStack {"size":2,"entering":0}');
      stack.move();
      expect(printed(stack)).toBe('ExitStack {"size":0,"entering":0}');
    });
  });

  test("its methods need no this", async () => {
    const log: string[] = [];
    const moved = await exitStack(async ({ enter, defer, push, move }) => {
      await enter(traced(log)("a"));
      defer(() => log.push("defer"));
      push(() => void log.push("push"));
      return move();
    });
    await moved?.[Symbol.asyncDispose]();

    expect(log).toEqual(["enter a", "push", "defer", "exit a"]);
  });

  test("refuses a body that is not a function", async () => {
    expect(await rejection(exitStack("body" as never))).toEqual(
      new TypeError('Cannot run exitStack: body must be a function, received "body"'),
    );
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
    ["undefined", undefined, "undefined"],
    ["null", null, "null"],
    ["a number", 1, "1"],
    ["a string", "file", '"file"'],
    ["an object without close", {}, "Object"],
    ["an object whose close is not a method", { close: true }, "Object"],
  ])("refuses %s", (_, resource, shown) => {
    expect(thrownBy(() => closing(resource as never))).toBe(
      `TypeError: Cannot close: resource must be an object with a method close, received ${shown}`,
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
    ["a value that is not an Error", "x", [Error]],
    ["a string, which is not an instance of String", "x", [String]],
    ["a group of errors that match", new AggregateError([new TypeError("x")]), [TypeError]],
    [
      "an error with the fields of a SuppressedError",
      Object.assign(new Error("x"), { error: new TypeError("a"), suppressed: new TypeError("b") }),
      [TypeError],
    ],
  ])("lets that very error pass: %s", async (_, error, classes) => {
    expect(await rejection(suppress(() => Promise.reject(error), ...classes))).toBe(error);
  });

  const isGone = (error: unknown) => (error as { code?: string } | undefined)?.code === "ENOENT";
  const gone = Object.assign(new Error("x"), { code: "ENOENT" });
  test.each<[string, unknown, Parameters<typeof suppress>[1][]]>([
    ["an arrow function", gone, [isGone]],
    ["a method", gone, [{ isGone }.isGone]],
    [
      "a function of the old kind",
      gone,
      [
        function (error: unknown) {
          return isGone(error);
        },
      ],
    ],
    ["a class beside it", new TypeError("x"), [isGone, TypeError]],
    ["a predicate beside a class", gone, [TypeError, isGone]],
    ["one, for both errors of a pair", new SuppressedError(gone, gone), [isGone]],
    ["one, for a pair as such", new SuppressedError(1, 2), [(it) => it instanceof SuppressedError]],
    ["one, for what is not an object", undefined, [(error) => error === undefined]],
  ])("takes a predicate: %s", async (_, error, matches) => {
    expect(await suppress(() => Promise.reject(error), ...matches)).toBeUndefined();
  });

  test.each<[string, unknown, unknown]>([
    ["that returns false", new Error("x"), isGone],
    ["for one error of a pair", new SuppressedError(gone, new Error("x")), isGone],
    ["that returns a promise, because that is not true", gone, async () => true],
    ["that is a bound class, because that returns an error", gone, Error.bind(null)],
  ])("lets the error pass with a predicate %s", async (_, error, match) => {
    expect(await rejection(suppress(() => Promise.reject(error), match as never))).toBe(error);
  });

  test("takes a class of the old kind, if it inherits from Error", async () => {
    function Gone() {}
    Gone.prototype = Object.create(Error.prototype);
    const error = Object.create(Gone.prototype);

    expect(await suppress(() => Promise.reject(error), Gone as never)).toBeUndefined();
  });

  test("what a predicate throws is joined with the error", async () => {
    const bug = new Error("bug");
    const error = await rejection(
      suppress(
        () => Promise.reject(gone),
        () => {
          throw bug;
        },
      ),
    );

    expect(error).toMatchObject({ name: "SuppressedError", error: bug, suppressed: gone });
  });

  test.each([["TypeError"], [undefined], [{}]])(
    "refuses %s in place of a class or predicate, before it calls the body",
    async (match) => {
      const log: string[] = [];
      const received = typeof match === "string" ? `"${match}"` : match ? "Object" : "undefined";

      const error = await rejection(suppress(() => log.push("called"), match as never, TypeError));

      expect(error).toEqual(
        new TypeError(`Cannot suppress errors: matches must be a function, received ${received}`),
      );
      expect(log).toEqual([]);
    },
  );

  test("refuses a body that is not a function, even if a TypeError is to be suppressed", async () => {
    expect(await rejection(suppress(undefined as never, TypeError))).toEqual(
      new TypeError("Cannot suppress errors: body must be a function, received undefined"),
    );
  });

  test.each<[string, unknown]>([
    ["both errors", new SuppressedError(new TypeError("a"), new RangeError("b"))],
    [
      "all of many errors",
      new SuppressedError(
        new SuppressedError(new TypeError("a"), new RangeError("b")),
        new SuppressedError(new RangeError("c"), new TypeError("d")),
      ),
    ],
    ["50,000 errors", suppressedChain(50_000, () => Object.create(TypeError.prototype))],
  ])("looks into a SuppressedError: %s match", async (_, error) => {
    expect(await suppress(() => Promise.reject(error), TypeError, RangeError)).toBeUndefined();
  });

  test.each<[string, unknown]>([
    ["the newer", new SuppressedError(new Error("a"), new TypeError("b"))],
    ["the older", new SuppressedError(new TypeError("a"), new Error("b"))],
    ["neither", new SuppressedError("a", undefined)],
    [
      "one of 50,000",
      suppressedChain(50_000, (n) => (n === 500 ? "other" : Object.create(TypeError.prototype))),
    ],
    ["none, because it joins itself", circularPair()],
  ])("lets a SuppressedError pass whole if %s doesn't match", async (_, error) => {
    expect(await rejection(suppress(() => Promise.reject(error), TypeError))).toBe(error);
  });

  test.each<[string, () => unknown]>([
    ["a revoked proxy", revokedProxy],
    [
      "a SuppressedError whose getters throw",
      () =>
        Object.defineProperty(new SuppressedError("a", "b"), "suppressed", {
          get() {
            throw new TypeError("hostile");
          },
        }),
    ],
  ])("lets %s pass: looking into it does no harm", async (_, hostile) => {
    const error = hostile();
    const result = await suppress(() => Promise.reject(error), TypeError).catch(
      (it) => it === error,
    );
    expect(result).toBe(true);
  });

  test.skipIf(!vm)("knows built-in classes of another realm (needs node:vm)", async () => {
    const inOther = (code: string) => vm!.runInNewContext(code) as unknown;
    const reject = (code: string) => () => Promise.reject(inOther(code));

    expect(await suppress(reject("new TypeError('x')"), TypeError)).toBeUndefined();
    expect(await suppress(reject("new TypeError('x')"), Error)).toBeUndefined();
    const hidden = "Object.assign(new TypeError('x'), { constructor: undefined })";
    const inherited = `Object.create(${hidden})`;
    expect(await suppress(reject(inherited), TypeError)).toBeUndefined();
    const pair = "new SuppressedError(new TypeError('a'), new RangeError('b'))";
    expect(await suppress(reject(pair), TypeError, RangeError)).toBeUndefined();
    expect(String(await rejection(suppress(reject("new RangeError('x')"), TypeError)))).toBe(
      "RangeError: x",
    );
    const own = class TypeError extends Error {};
    expect(String(await rejection(suppress(reject("new TypeError('x')"), own)))).toBe(
      "TypeError: x",
    );
  });

  test("a class of the same name is not the same class", async () => {
    const twin = new (class TypeError extends Error {})("x");

    expect(await rejection(suppress(() => Promise.reject(twin), TypeError))).toBe(twin);
  });

  test("takes a body that returns a value or a promise", async () => {
    const promise = suppress((): number | Promise<string> => 1, Error);

    expectTypeOf(promise).toEqualTypeOf<Promise<number | string | undefined>>();
    expect(await promise).toBe(1);
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

  describe.each([
    ["first", 0],
    ["middle", 1],
    ["last", 2],
  ])("aborted: the %s of three users", (_which, n) => {
    test.each(
      momentsOfAbort.flatMap((moment) => [
        { ...moment, fails: false, what: "entered" },
        { ...moment, fails: true, what: "refused" },
      ]),
    )("$when, of what is $what in the end", async ({ steps, wins, fails }) => {
      const log: string[] = [];
      const { controller, listeners } = watchedController();
      const gate = Promise.withResolvers<string>();
      const shared = refCounted(() => ({
        enter: () => gate.promise,
        exit: () => void log.push("exit"),
      }));
      const grant = () => (fails ? gate.reject("refused") : gate.resolve("value"));
      let users: PromiseLike<unknown>[] = [];

      await act(steps, {
        begin() {
          users = [0, 1, 2].map((i) =>
            shared(i === n ? controller : {}).then(
              (handle) => handle,
              (reason: unknown) => reason,
            ),
          );
        },
        grant,
        abort: () => controller.abort("stop"),
      });
      // In the row in which nobody has granted it yet.
      grant();
      const outcomes = await Promise.all(users);

      for (const [i, outcome] of outcomes.entries()) {
        if (i === n && wins) expect(outcome).toBe("stop");
        else if (fails) expect(outcome).toBe("refused");
        else expect(outcome).toMatchObject({ value: "value" });
      }
      expect(listeners()).toBe(0);
      expect(log).toEqual([]);
      for (const handle of outcomes as Partial<AsyncDisposable>[]) {
        await handle[Symbol.asyncDispose]?.();
      }
      expect(log).toEqual(fails ? [] : ["exit"]);
    });
  });

  test("a user that is aborted before enters nothing", async () => {
    const log: string[] = [];
    const shared = refCounted(() => traced(log)("a"));

    expect(await rejection(shared({ signal: AbortSignal.abort("stop") }))).toBe("stop");

    expect(log).toEqual([]);
  });

  test("when the last user aborts its wait, the signal of open() is aborted with its reason", async () => {
    const signals: AbortSignal[] = [];
    const shared = refCounted((signal) => {
      signals.push(signal);
      return {
        enter: () =>
          new Promise<void>((_, reject) => {
            signal.addEventListener("abort", () => reject(signal.reason));
          }),
        exit() {},
      };
    });
    const controllers = [1, 2].map(() => new AbortController());
    const users = controllers.map((controller) => rejection(shared(controller)));
    await turns();

    controllers[0]!.abort("first");
    expect(signals[0]!.aborted).toBe(false);
    controllers[1]!.abort("second");

    expect(await Promise.all(users)).toEqual(["first", "second"]);
    expect(signals.map(({ reason }) => reason)).toEqual(["second"]);
    // What was to be entered has gone: the next user doesn't wait for it.
    void shared().then(() => {});
    await turns();
    expect(signals.map(({ aborted }) => aborted)).toEqual([true, false]);
  });

  test("an abort that comes too late finds the work begun, but for the microtask of a promise", async () => {
    const unheard: number[] = [];
    for (let microtasks = 0; microtasks < 10; microtasks++) {
      const controller = new AbortController();
      const { signal } = controller;
      const gate = Promise.withResolvers<void>();
      const database = refCounted(() => ({ enter: () => gate.promise, exit: () => {} }));
      const work = withContext(database({ signal }), () => {
        if (signal.aborted) unheard.push(microtasks);
      });
      await turns();

      gate.resolve();
      await turns(microtasks);
      controller.abort("stop");
      await work.catch((reason: unknown) => expect(reason).toBe("stop"));
    }

    expect(unheard).toHaveLength(1);
  });

  test("a user who leaves aborts nothing", async () => {
    const signals: AbortSignal[] = [];
    const shared = refCounted((signal) => (signals.push(signal), traced([])("a")));

    await withContext(shared(new AbortController()), () => {});

    expect(signals.map(({ aborted }) => aborted)).toEqual([false]);
  });

  test("opens nothing when all have aborted while the last exit goes on", async () => {
    await virtualTime(async (clock) => {
      const log: string[] = [];
      const open = slow(clock, log, { enter: 10, exit: 100 });
      const shared = refCounted(() => {
        log.push("opened");
        return open();
      });
      const first = await shared();
      const leaving = first[Symbol.asyncDispose]();
      const aborted = rejection(shared({ signal: AbortSignal.timeout(50) }));

      await aborted;
      await leaving;
      await sleep(1000);

      expect(log).toEqual(["opened", "entered at 10", "exited at 110"]);
      expect(await withContext(shared(), () => clock.elapsed)).toBe(1120);
    });
  });

  test.each(["manager", "disposable"])(
    "an abort from inside open() is heard: a %s is not entered, or disposed at once",
    async (kind) => {
      const log: string[] = [];
      const controller = new AbortController();
      const shared = refCounted<Enterable>(() => {
        controller.abort("stop");
        return kind === "manager"
          ? traced(log)("a")
          : { [Symbol.dispose]: () => void log.push("disposed") };
      });

      expect(await rejection(shared({ signal: controller.signal }))).toBe("stop");
      await turns();

      expect(log).toEqual(kind === "manager" ? [] : ["disposed"]);
    },
  );

  test("gives nothing to a user whose signal is aborted but not yet heard", async () => {
    const log: string[] = [];
    const gate = Promise.withResolvers<void>();
    const controller = new AbortController();
    const { signal } = controller;
    // Called before the one that tells the user.
    signal.addEventListener("abort", () => gate.resolve());
    const shared = refCounted(() => ({
      enter: () => gate.promise,
      exit: () => void log.push("exit"),
    }));
    const users = [1, 2].map(() => rejection(shared({ signal })));
    await turns();

    controller.abort("stop");

    expect(await Promise.all(users)).toEqual(["stop", "stop"]);
    await turns();
    expect(log).toEqual(["exit"]);
  });

  test("an abort of which another listener keeps it from hearing is obeyed once it is entered", async () => {
    const log: string[] = [];
    const gate = Promise.withResolvers<void>();
    const controller = new AbortController();
    const { signal } = controller;
    signal.addEventListener("abort", (event) => event.stopImmediatePropagation());
    const shared = refCounted(() => ({
      enter: () => gate.promise,
      exit: () => void log.push("exit"),
    }));
    const user = rejection(shared({ signal }));
    await turns();

    controller.abort("stop");
    gate.resolve();

    expect(await user).toBe("stop");
    await turns();
    expect(log).toEqual(["exit"]);
  });

  test("refuses a signal that is not an AbortSignal, or in place of options, and enters nothing", async () => {
    const log: string[] = [];
    const shared = refCounted(() => traced(log)("a"));

    expect(await rejection(shared({ signal: {} as never }))).toEqual(
      new TypeError("Cannot enter refCounted: signal must be an AbortSignal, received Object"),
    );
    expect(await rejection(shared(new AbortController().signal as never))).toEqual(
      new TypeError("Cannot enter refCounted: options must be an object, received AbortSignal"),
    );
    await withContext(shared({ signal: null as never }), () => {});
    expect(log).toEqual(["enter a", "exit a"]);
  });

  test("each opening is for one use", async () => {
    const log: string[] = [];
    const opening = refCounted(() => traced(log)("a"))();
    await withContext(opening, () => {});

    expect(String(await rejection(opening))).toBe(
      "Error: Cannot enter refCounted: this opening has been entered before",
    );
    expect(log).toEqual(["enter a", "exit a"]);
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

  test("entering that fails when all have aborted doesn't part those who came meanwhile", async () => {
    const refused = Promise.withResolvers<never>();
    const enters = [() => refused.promise, () => turns(5).then(() => "second")];
    const shared = refCounted(() => ({ enter: () => enters.shift()!(), exit() {} }));
    const controller = new AbortController();
    const aborted = rejection(shared({ signal: controller.signal }));
    await turns();
    controller.abort("stop");
    expect(await aborted).toBe("stop");
    const second = shared().then((handle) => handle);
    await turns();

    refused.reject("refused");
    const { value } = await second;

    expect(value).toBe("second");
    expect((await shared()).value).toBe("second");
  });

  test("refuses what is not a function", () => {
    expect(thrownBy(() => refCounted(undefined as never))).toBe(
      "TypeError: Cannot create refCounted: open must be a function, received undefined",
    );
  });
});

describe("in every order", () => {
  const minutes = 120_000;

  test(
    "exitStack: all that was entered is exited, once, one at a time, and no error is lost",
    async () => {
      await everyOrder(async (world) => {
        const log = journal();
        const manager = (name: string) => ({
          enter: () => log.enter(name, () => world.step(`enter ${name}`, { fails: name })),
          exit: () => log.exit(name, () => world.step(`exit ${name}`, { fails: `exit ${name}` })),
        });
        const work = world.step("work", { fails: "work" });
        const outcome = await settled(
          exitStack((stack) => {
            const entering = ["a", "b"].map((name) => stack.enter(manager(name)));
            return Promise.all([...entering, work]);
          }),
        );
        await settled(work);

        expect(log.exited).toEqual(["b", "a"].filter((name) => log.entered.includes(name)));
        expect(log.mostAtATime).toBeLessThanOrEqual(1);
        const told = outcome.status === "rejected" ? errorsIn(outcome.reason) : [];
        expect(new Set(told).size).toBe(told.length);
        expect(told.filter((error) => error !== "work").sort()).toEqual(log.errors.sort());
      });
    },
    minutes,
  );

  test(
    "exitStack: a body that is aborted leaves nothing behind, however far the entering is",
    async () => {
      await everyOrder(async (world) => {
        const log = journal();
        const controller = new AbortController();
        world.abort(controller);
        const { signal } = controller;
        const manager = (name: string, signal?: AbortSignal) => ({
          enter: () => log.enter(name, () => world.step(`enter ${name}`, { signal })),
          exit: () => log.exit(name, () => world.step(`exit ${name}`)),
        });
        const outcome = await settled(
          exitStack(async (stack) => {
            const first = stack.enter(manager("a", signal));
            const second = stack.enter(manager("b"));
            await first;
            await world.step("work", { signal });
            await second;
            return "result";
          }),
        );

        expect(log.exited).toEqual(["b", "a"].filter((name) => log.entered.includes(name)));
        const isAborted = outcome.status === "rejected";
        if (isAborted) expect(outcome.reason).toBe(signal.reason);
        else expect(outcome.value).toBe("result");
      });
    },
    minutes,
  );

  test(
    "exitStack: what was moved is exited once, whoever disposes it, and each waits for it",
    async () => {
      await everyOrder(async (world) => {
        const log = journal();
        const manager = (name: string) => ({
          enter: () => log.enter(name, () => world.step(`enter ${name}`)),
          exit: () => log.exit(name, () => world.step(`exit ${name}`)),
        });
        const moved = await exitStack(async (stack) => {
          await Promise.all(["a", "b"].map((name) => stack.enter(manager(name))));
          stack.defer(() => world.step("deferred"));
          return stack.move();
        });
        const dispose = async () => {
          await moved![Symbol.asyncDispose]();
          expect(log.exited).toEqual(["b", "a"]);
        };
        await Promise.all(["ann", "bob", "cid"].map((name) => world.spawn(name, dispose)));
      });
    },
    minutes,
  );

  const shared = [
    { who: "one user", aborts: ["ann"] },
    { who: "all users, with one signal", aborts: ["ann", "bob", "cid"] },
  ];
  test.each(shared)(
    "refCounted: open while it is used, one at a time, closed at the end; $who may abort",
    async ({ aborts }) => {
      await everyOrder(async (world) => {
        const log = journal();
        const controller = new AbortController();
        world.abort(controller, { reason: "gone" });
        const fails: { enter: string | undefined } = { enter: "refused" };
        const database = refCounted(() => ({
          enter: () => log.enter("it", () => world.step("enter", { fails: fails.enter })),
          exit: () => log.exit("it", () => world.step("exit")),
        }));
        const use = async (name: string) => {
          const signal = aborts.includes(name) ? controller.signal : undefined;
          let isIn = false;
          const work = withContext(database({ signal }), async () => {
            isIn = true;
            expect(log.isOpen).toBe(true);
            await world.step(`${name} works`);
            expect(log.isOpen).toBe(true);
          });
          const outcome = await settled(work);
          if (outcome.status === "fulfilled") return;
          expect(isIn).toBe(false);
          expect(["gone", "refused"]).toContain(outcome.reason);
        };
        const names = ["ann", "bob", "cid"];
        await Promise.all(names.map((name) => world.spawn(name, () => use(name))));
        // Waits for the end of an exit that nobody has waited for.
        fails.enter = undefined;
        await withContext(database(), () => {});

        expect(log.mostOpen).toBeLessThanOrEqual(1);
        expect(log.isOpen).toBe(false);
        expect(log.exited).toEqual(log.entered);
      });
    },
    minutes,
  );

  test(
    "refCounted: what nobody waits for any more is told so, and leaves no one waiting",
    async () => {
      await everyOrder(async (world) => {
        const log = journal();
        const controller = new AbortController();
        world.abort(controller, { reason: "gone" });
        const { signal } = controller;
        const database = refCounted((signal) => ({
          enter: () => log.enter("it", () => world.step("enter", { signal })),
          exit: () => log.exit("it", () => world.step("exit")),
        }));
        const use = async (signal?: AbortSignal) => {
          await using _database = await database({ signal });
          expect(log.isOpen).toBe(true);
        };
        const outcomes = await Promise.allSettled([
          world.spawn("ann", () => use(signal)),
          world.spawn("bob", () => use(signal)),
          world.spawn("cid", () => use()),
        ]);

        for (const it of outcomes) if (it.status === "rejected") expect(it.reason).toBe("gone");
        expect(outcomes[2].status).toBe("fulfilled");
        await use();
        expect(log.isOpen).toBe(false);
        expect(log.mostOpen).toBeLessThanOrEqual(1);
      });
    },
    minutes,
  );
});

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** When an abort may meet the end of a wait, and whether it wins. Steps of a list share a turn. */
const momentsOfAbort: { when: string; steps: Step[][]; wins: boolean }[] = [
  { when: "before it waits", steps: [["abort", "begin"]], wins: true },
  { when: "in the turn in which it begins to wait", steps: [["begin", "abort"]], wins: true },
  { when: "while it waits", steps: [["begin"], ["abort"]], wins: true },
  { when: "in the turn of the end, before it", steps: [["begin"], ["abort", "grant"]], wins: true },
  { when: "in the turn of the end, after it", steps: [["begin"], ["grant", "abort"]], wins: true },
  { when: "in a microtask after the end", steps: [["begin"], ["grant", "abort soon"]], wins: true },
  { when: "after its wait", steps: [["begin"], ["grant"], ["abort"]], wins: false },
];

type Step = "begin" | "grant" | "abort" | "abort soon";

async function act(
  steps: Step[][],
  does: Record<"begin" | "grant" | "abort", () => void>,
): Promise<void> {
  for (const turn of steps) {
    for (const step of turn) {
      if (step === "abort soon") queueMicrotask(does.abort);
      else does[step]();
    }
    await turns();
  }
}

/** Writes down who is entered and exited when, and the errors of both. */
function journal() {
  const log = {
    entered: [] as string[],
    exited: [] as string[],
    errors: [] as unknown[],
    isOpen: false,
    mostOpen: 0,
    mostAtATime: 0,
    enter: async (name: string, act: () => Promise<void>) => {
      log.mostOpen = Math.max(log.mostOpen, ++open);
      try {
        await act();
        log.entered.push(name);
        log.isOpen = true;
      } catch (error) {
        open--;
        log.errors.push(error);
        throw error;
      }
    },
    exit: async (name: string, act: () => Promise<void>) => {
      log.mostAtATime = Math.max(log.mostAtATime, ++exiting);
      log.isOpen = false;
      log.exited.push(name);
      try {
        await act();
      } catch (error) {
        log.errors.push(error);
        throw error;
      } finally {
        open--;
        exiting--;
      }
    },
  };
  let [open, exiting] = [0, 0];
  return log;
}

async function settled<T>(promise: Promise<T>): Promise<PromiseSettledResult<T>> {
  const [outcome] = await Promise.allSettled([promise]);
  return outcome;
}

/** A small part of the orders, or all with `bun run test:orders`. */
async function everyOrder(scenario: (world: World) => unknown): Promise<void> {
  const { process } = globalThis as { process?: { env: Record<string, string | undefined> } };
  const all = process?.env["ORDERS"] === "all";
  const part = all ? { maxRuns: 200_000, maxMs: 60_000 } : { maxRuns: 300, maxMs: Infinity };
  const result = await interleavings(scenario, part);
  if (all) console.log(`orders: ${result.runs}`); // summed up by test:orders
}

/** What console.log shows of an object, apart from the platform's way to print its members. */
function printed(object: object): string {
  const inspect = (object as any)[Symbol.for("nodejs.util.inspect.custom")];
  return inspect.call(object, 2, {}, (members: object) => JSON.stringify(members));
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

/** Two errors that cause each other. */
function circle(): Error {
  const error = new Error("a");
  error.cause = new Error("b", { cause: error });
  return error;
}

/** A SuppressedError of nothing but itself. */
function circularPair(): SuppressedError {
  const pair = new SuppressedError(0, 0);
  return Object.assign(pair, { error: pair, suppressed: pair });
}

/** Something thrown with that many causes below it, the last of which is given. */
function chain(length: number, last: unknown): unknown {
  for (let n = 0; n < length; n++) last = { cause: last };
  return last;
}

function suppressedChain(length: number, create: (n: number) => unknown): unknown {
  let all = create(0);
  for (let n = 1; n < length; n++) {
    const pair = Object.create(SuppressedError.prototype);
    all = Object.assign(pair, { error: create(n), suppressed: all });
  }
  return all;
}

function manyErrors(length: number, last: unknown): AggregateError {
  return new AggregateError([...Array.from({ length }, (_, n) => n), last]);
}

function hostile(): Error {
  const get = () => {
    throw new Error("hostile");
  };
  const keys = ["cause", "error", "suppressed", "errors", "name", "message"];
  return Object.defineProperties(
    new Error(),
    Object.fromEntries(keys.map((key) => [key, { get }])),
  );
}

function revokedProxy(target: object = {}): object {
  const { proxy, revoke } = Proxy.revocable(target, {});
  revoke();
  return proxy;
}

function withRevokedList(): Error {
  return Object.assign(new Error("x"), { errors: revokedProxy([]) });
}

function endless(): object {
  return new Proxy({}, { get: (_, key) => (key === "cause" ? endless() : undefined) });
}

/** Whether an error is a SuppressedError of these two. Doesn't print them, as a failed `toBe` would. */
function readsBoth(error: unknown, newer: unknown, older: unknown): boolean {
  if (!(error instanceof SuppressedError)) return false;
  return error.error === newer && error.suppressed === older;
}

/** A hold: disposable, and with `release()`. */
function held() {
  const hold = {
    released: 0,
    release: () => void hold.released++,
    [Symbol.dispose]: () => hold.release(),
  };
  return hold;
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
