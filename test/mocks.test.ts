/**
 * How to test code that calls something asynchronous: tell the other side what to answer and when,
 * prove how many calls overlap, let the answers come in the wrong order, and find the call that
 * nobody awaited. Nothing here sleeps: delays run on virtual time, and order is decided by hand.
 */
import { describe, expect, expectTypeOf, test } from "bun:test";

import { interleavings, type World } from "../concepts/interleavings.ts";
import {
  type AsyncMock,
  asyncMock,
  controlled,
  type MockCall,
  type MockOptions,
  spyOn,
} from "../concepts/mocks.ts";
import { virtualTime } from "../concepts/virtual-time.ts";

interface User {
  id: number;
  name: string;
}

type FetchUser = (id: number, options?: { signal?: AbortSignal }) => Promise<User>;
type Load = (text: string) => Promise<string>;
type Save = (name: string) => Promise<void>;
type FetchLoosely = (...args: unknown[]) => Promise<unknown>;

const ada: User = { id: 1, name: "Ada" };
const bob: User = { id: 2, name: "Bob" };

const { Bun } = globalThis as {
  Bun?: {
    gc(force: boolean): void;
    serve(options: object): { url: URL } & Disposable;
  };
};

/** An asymmetric matcher, such as Vitest's `expect.any(Number)`. */
const anyNumber = { asymmetricMatch: (value: unknown) => typeof value === "number" };

describe("Start here", () => {
  test("a mock answers what it is told, and records its calls", async () => {
    const fetchUser = asyncMock<FetchUser>().resolves(ada);
    const greet = async (id: number) => `Hello, ${(await fetchUser(id)).name}!`;

    expect(await greet(1)).toBe("Hello, Ada!");

    fetchUser.assertAwaitedOnceWith(1);
  });

  test("it fails once, and the code under test tries again", async () => {
    const fetchUser = asyncMock<FetchUser>().rejectsOnce(new Error("busy")).resolves(ada);
    const fetchTwice = (id: number) => fetchUser(id).catch(() => fetchUser(id));

    expect(await fetchTwice(1)).toBe(ada);

    expect(fetchUser.awaits).toHaveLength(2);
  });

  test("it never answers, and the code under test gives up in time", async () => {
    await virtualTime(async (clock) => {
      const fetchUser = asyncMock<FetchUser>().hangs();

      const user = fetchUser(1, { signal: AbortSignal.timeout(5000) });

      expect(await reasonOf(user)).toMatchObject({ name: "TimeoutError" });
      expect(clock.elapsed).toBe(5000);
    });
  });

  test("a controlled mock holds every call open: so many of them overlap", async () => {
    const fetchUser = controlled<FetchUser>();
    const users = Promise.all([fetchUser(1), fetchUser(2)]);

    expect(fetchUser.open).toBe(2);
    fetchUser.calls[1]?.resolve(bob);
    fetchUser.calls[0]?.resolve(ada);

    expect(await users).toEqual([ada, bob]);
  });

  test("the answers come in the wrong order, and the bug is there every time", async () => {
    const search = controlled<Load>();
    let screen = "";
    const show = async (text: string) => void (screen = await search(text));

    const shown = [show("a"), show("ab")];
    (await search.nthCall(2)).resolve("results for ab");
    (await search.nthCall(1)).resolve("results for a");
    await Promise.all(shown);

    expect(screen).toBe("results for a"); // the user asked for ab last
  });

  test("a stream breaks off in the middle", async () => {
    const rows = asyncMock<() => AsyncIterable<number>>().yields(1, 2, new Error("reset"));
    const sum = async () => {
      let sum = 0;
      for await (const row of rows()) sum += row;
      return sum;
    };

    expect(await reasonOf(sum())).toEqual(new Error("reset"));

    expect(rows.calls[0]?.taken).toBe(2);
  });

  test("a spy stands in the place of a method until the test ends", async () => {
    const users = { fetch: async (id: number) => ({ ...ada, id }) };
    {
      using fetchUser = spyOn(users, "fetch").rejectsOnce(new Error("unreachable"));

      await expect(users.fetch(1)).rejects.toThrow("unreachable");
      expect(await users.fetch(2)).toEqual({ ...ada, id: 2 });
      expect(fetchUser.calls.map((call) => call.args)).toEqual([[1], [2]]);
    }
    expect(await users.fetch(3)).toEqual({ ...ada, id: 3 });
  });

  test("the trap: a call is not an await", async () => {
    const save = asyncMock<Save>().rejects(new Error("disk full"));
    const saveCarelessly = async (name: string) => {
      save(name); // forgot to await: the error goes nowhere, and nobody would see it
    };

    await saveCarelessly("ada");

    expect(save.calls).toHaveLength(1);
    expect(() => save.assertAllAwaited()).toThrow('call 1 ("ada") was never awaited');
  });
});

describe("asyncMock", () => {
  describe("with a client that tries again", () => {
    /** The code under test: up to three attempts, each given 50 ms. */
    async function fetchPatiently(fetchUser: FetchUser, id: number): Promise<User> {
      for (let attempt = 1; ; attempt++) {
        try {
          return await fetchUser(id, { signal: AbortSignal.timeout(50) });
        } catch (error) {
          if (attempt === 3) throw error;
        }
      }
    }

    test.each<[string, (User | Error)[]]>([
      ["at once", [ada]],
      ["at the second attempt", [new Error("busy"), ada]],
      ["at the last attempt", [new Error("busy"), new Error("busy"), ada]],
    ])("it may succeed %s", async (_when, outcomes) => {
      const fetchUser = asyncMock<FetchUser>().sequence(...outcomes);

      expect(await fetchPatiently(fetchUser, 1)).toBe(ada);

      expect(fetchUser.awaits).toHaveLength(outcomes.length);
    });

    test("it gives up with the last error", async () => {
      const [first, second, third] = [new Error("1"), new Error("2"), new Error("3")];
      const fetchUser = asyncMock<FetchUser>().sequence(first, second, third, ada);

      expect(await reasonOf(fetchPatiently(fetchUser, 1))).toBe(third);

      expect(fetchUser.calls).toHaveLength(3);
    });

    test("it waits no longer than its timeout, three times, when no answer comes", async () => {
      await virtualTime(async (clock) => {
        const fetchUser = asyncMock<FetchUser>().hangs();

        expect(await reasonOf(fetchPatiently(fetchUser, 1))).toMatchObject({
          name: "TimeoutError",
        });

        expect(clock.elapsed).toBe(150);
        expect(fetchUser.calls).toHaveLength(3);
      });
    });

    test.each([
      { ms: 49, elapsed: 49, calls: 1 },
      { ms: 51, elapsed: 150, calls: 3 },
    ])(
      "an answer that takes $ms ms costs $calls call(s) and $elapsed ms",
      async ({ ms, elapsed, calls }) => {
        await virtualTime(async (clock) => {
          const fetchUser = asyncMock<FetchUser>().resolves(ada).delays(ms);

          await Promise.allSettled([fetchPatiently(fetchUser, 1)]);

          expect(clock.elapsed).toBe(elapsed);
          expect(fetchUser.calls).toHaveLength(calls);
        });
      },
    );
  });

  describe("behaviour", () => {
    test("without an implementation it resolves to undefined", async () => {
      expect(await asyncMock()("anything", 1)).toBeUndefined();
    });

    test.each<[string, (n: number) => number | Promise<number>]>([
      ["plain", (n) => n + 1],
      ["asynchronous", async (n) => n + 1],
    ])("calls its implementation at once, and waits for the value: %s", async (_name, add) => {
      const seen: number[] = [];
      const mock = asyncMock((n: number) => (seen.push(n), add(n)));

      const promise = mock(41);

      expect(seen).toEqual([41]);
      expect(promise).toBeInstanceOf(Promise);
      expect(await promise).toBe(42);
    });

    test.each<[string, () => unknown]>([
      ["throws", () => JSON.parse("{")],
      ["rejects", () => Promise.reject(new SyntaxError("{"))],
    ])("an implementation that %s makes a promise that rejects", async (_name, impl) => {
      expect(await reasonOf(asyncMock(impl)())).toBeInstanceOf(SyntaxError);
    });

    test.each<[string, unknown]>([
      ["an object", ada],
      ["undefined", undefined],
      ["an Error", new Error("a value as others are")],
    ])("resolves() resolves every call to the value: %s", async (_name, value) => {
      const mock = asyncMock<() => Promise<unknown>>().resolves(value);

      expect(await mock()).toBe(value);
      expect(await mock()).toBe(value);
    });

    test.each<[string, unknown]>([
      ["an Error", new Error("failed")],
      ["a string", "failed"],
      ["undefined", undefined],
    ])("rejects() rejects every call with the reason: %s", async (_name, reason) => {
      const mock = asyncMock().rejects(reason);

      expect(await reasonOf(mock())).toBe(reason);
      expect(await reasonOf(mock())).toBe(reason);
    });

    test("sequence() gives one outcome a call, of which an Error rejects", async () => {
      const error = new Error("busy");
      const mock = asyncMock<FetchUser>().sequence(ada, error, bob);

      expect(await Promise.allSettled([mock(1), mock(2), mock(3)])).toEqual([
        { status: "fulfilled", value: ada },
        { status: "rejected", reason: error },
        { status: "fulfilled", value: bob },
      ]);
    });

    test.each<[size: number, outcomes: User[]]>([
      [0, []],
      [1, [ada]],
      [3, [ada, bob, ada]],
    ])("a sequence() of %d runs out with an error that says so", async (size, outcomes) => {
      const mock = asyncMock<FetchUser>().sequence(...outcomes);
      for (const outcome of outcomes) expect(await mock(1)).toBe(outcome);

      for (const call of [size + 1, size + 2]) {
        const message = `asyncMock ran out: call ${call}, but the sequence ends after ${size}`;
        expect(await reasonOf(mock(1))).toEqual(new Error(message));
      }
    });

    test("what it is told last holds, for the calls to come", async () => {
      const mock = asyncMock(async () => "impl");
      const calls = [mock()];

      calls.push(mock.rejects(new Error("failed"))());
      calls.push(mock.sequence("first", "second")());
      calls.push(mock.hangs()());
      calls.push(mock.resolves("resolved")());

      mock.calls[3]?.resolve("by hand");
      expect(await Promise.allSettled(calls)).toMatchObject([
        { value: "impl" },
        { reason: { message: "failed" } },
        { value: "first" },
        { value: "by hand" },
        { value: "resolved" },
      ]);
    });

    test.each<[string, AsyncMock<Load>, outcome: unknown, elapsed: number]>([
      ["resolves() before it", asyncMock<Load>().resolves("a").delays(100), "a", 100],
      ["resolves() after it", asyncMock<Load>().delays(100).resolves("a"), "a", 100],
      ["rejects()", asyncMock<Load>().rejects("failed").delays(100), "failed", 100],
      ["sequence()", asyncMock<Load>().delays(100).sequence("a"), "a", 100],
      ["an implementation", asyncMock<Load>(async (text) => text).delays(100), "a", 100],
      ["delays(0), which ends it", asyncMock<Load>().resolves("a").delays(100).delays(0), "a", 0],
    ])("delays() goes with %s", async (_name, mock, outcome, elapsed) => {
      await virtualTime(async (clock) => {
        expect(await mock("a").catch((reason: unknown) => reason)).toBe(outcome);
        expect(clock.elapsed).toBe(elapsed);
      });
    });

    test("delays() holds back the implementation itself", async () => {
      await virtualTime(async (clock) => {
        const calledAt: number[] = [];
        const mock = asyncMock(() => void calledAt.push(clock.elapsed)).delays(100);

        await Promise.all([mock(), mock()]);

        expect(calledAt).toEqual([100, 100]);
        expect(clock.elapsed).toBe(100);
      });
    });

    test("a call that is aborted in its delay has used up its outcome", async () => {
      await virtualTime(async () => {
        const mock = asyncMock<FetchUser>().sequence(ada, bob).delays(100);

        const aborted = mock(1, { signal: AbortSignal.timeout(50) });
        expect(await reasonOf(aborted)).toMatchObject({ name: "TimeoutError" });

        expect(await mock(2)).toBe(bob);
      });
    });

    test("delays() overlap: ten calls of 100 ms take 100 together and 1,000 in turn", async () => {
      await virtualTime(async (clock) => {
        const mock = asyncMock().delays(100);

        await Promise.all(Array.from({ length: 10 }, () => mock()));
        expect(clock.elapsed).toBe(100);

        for (let call = 0; call < 10; call++) await mock();
        expect(clock.elapsed).toBe(1100);
      });
    });

    test("after the delay an abort is the implementation's own business", async () => {
      await virtualTime(async () => {
        const open = Promise.withResolvers<string>();
        const mock = asyncMock((_signal: AbortSignal) => open.promise).delays(100);
        const { controller, listeners } = watchedController();
        const call = mock(controller.signal);
        expect(listeners()).toBe(1);

        await sleep(100);
        expect(listeners()).toBe(0);
        controller.abort("too late");
        open.resolve("answer");

        expect(await call).toBe("answer");
        expect(listeners()).toBe(0);
      });
    });

    test.each(["resolve", "reject"] as const)(
      "a call settled by hand ignores what its implementation comes to (%s)",
      async (end) => {
        const open = Promise.withResolvers<string>();
        const mock = asyncMock(() => open.promise);
        const call = mock();

        mock.calls[0]?.resolve("by hand");
        open[end]("too late");
        await settled();

        expect(await call).toBe("by hand");
        expect(mock.open).toBe(0);
      },
    );

    describe.each(["delays", "delaysOnce"] as const)("%s()", (method) => {
      test.each<[received: string, ms: unknown, Kind: ErrorConstructor]>([
        ["-1", -1, RangeError],
        ["NaN", NaN, RangeError],
        ['"100"', "100", TypeError],
        ["null", null, TypeError],
      ])("refuses %s", (received, ms, Kind) => {
        const message = `ms must be a number of 0 or more, received ${received}`;
        const error = thrownBy(() => asyncMock()[method](ms as number));
        expect(error).toEqual(new Kind(`Cannot delay asyncMock: ${message}`));
      });

      test("waits longer than a timer can", async () => {
        await virtualTime(async (clock) => {
          await asyncMock()[method](2 ** 31)();
          expect(clock.elapsed).toBe(2 ** 31);
        });
      });

      test("of Infinity sets no timer, and waits for the signal", async () => {
        await virtualTime(async (clock) => {
          const call = asyncMock<FetchLoosely>()[method](Infinity)(AbortSignal.timeout(100));
          expect(clock.pending).toBe(0);
          expect(await reasonOf(call)).toMatchObject({ name: "TimeoutError" });
        });
      });
    });

    test.each<[string, () => unknown, message: string]>([
      ["impl null", () => asyncMock(null as never), "impl must be a function, received null"],
      ["impl 1", () => asyncMock(1 as never), "impl must be a function, received 1"],
      ["impl {}", () => asyncMock({} as never), "impl must be a function, received Object"],
      ["impl 'f'", () => asyncMock("f" as never), 'impl must be a function, received "f"'],
      [
        "options 5",
        () => asyncMock(undefined, 5 as never),
        "options must be an object, received 5",
      ],
      [
        "name 5",
        () => asyncMock(undefined, { name: 5 as never }),
        "name must be a string, received 5",
      ],
      [
        "equals 5",
        () => asyncMock(undefined, { equals: 5 as never }),
        "equals must be a function, received 5",
      ],
    ])("refuses %s", (_what, create, message) => {
      expect(thrownBy(create)).toEqual(new TypeError(`Cannot create asyncMock: ${message}`));
    });

    test.each(["runs", "runsOnce"] as const)(
      "%s() refuses a value that is not a function",
      (method) => {
        const mock = asyncMock(async () => "before");

        expect(thrownBy(() => mock[method](undefined as never))).toEqual(
          new TypeError(
            "Cannot run an implementation: impl must be a function, received undefined",
          ),
        );
        expect(mock.calls).toEqual([]);
      },
    );

    test("runs() replaces the implementation", async () => {
      const mock = asyncMock(async (n: number) => n + 1).runs((n) => n * 10);

      expect(await mock(5)).toBe(50);
    });

    test("an outcome is never there before the next microtask", async () => {
      const mock = asyncMock<Load>().resolves("a");

      const call = mock("");
      expect(mock.open).toBe(1);
      await call;

      expect(mock.open).toBe(0);
    });

    test.each<[string, () => unknown]>([
      ["a thenable", () => ({ then: (resolve: (value: string) => void) => resolve("a") })],
      ["a promise of a promise", async () => Promise.resolve("a")],
      ["another mock's promise", () => asyncMock().resolves("a")()],
    ])("an implementation may return %s", async (_what, impl) => {
      const mock = asyncMock(impl);

      expect(await mock()).toBe("a");

      expect(mock.calls[0]?.result).toEqual({ status: "fulfilled", value: "a" });
    });

    test("an outcome whose then() can't be read rejects, by hand as well", async () => {
      const error = new Error("hostile");
      const hostile = {
        get then() {
          throw error;
        },
      };
      const byHand = controlled<FetchLoosely>();
      const call = byHand();

      byHand.calls[0]?.resolve(hostile);

      expect(await reasonOf(call)).toBe(error);
      expect(byHand.calls[0]?.result).toEqual({ status: "rejected", reason: error });
      expect(await reasonOf(asyncMock<FetchLoosely>(() => hostile as never)())).toBe(error);
    });

    test("a hold that comes too late is released", async () => {
      const open = Promise.withResolvers<{ release: () => void } & Disposable>();
      const releases: string[] = [];
      const release = () => void releases.push("released");
      const lock = asyncMock(() => open.promise);
      const call = lock();

      lock.calls[0]?.reject("by hand");
      open.resolve({ release, [Symbol.dispose]: release });
      await settled();

      expect(await reasonOf(call)).toBe("by hand");
      expect(releases).toEqual(["released"]);
    });

    test("an Error of another kind rejects in a sequence, too", async () => {
      const stop = new DOMException("stop", "AbortError");

      expect(await reasonOf(asyncMock<Load>().sequence(stop as Error)("a"))).toBe(stop);
    });

    test("an outcome of a sequence that can't be looked at leaves no call open", async () => {
      const mock = asyncMock<FetchLoosely>().sequence(revokedProxy());

      expect(await reasonOf(mock())).toBeInstanceOf(TypeError);

      expect(mock.open).toBe(0);
    });

    test("an Error of another realm rejects in a sequence, too", async () => {
      const error: Error = Object.setPrototypeOf(new Error("busy"), null);

      expect((await reasonOf(asyncMock<Load>().sequence(error)("a"))) === error).toBe(true);
    });

    test("a call that is settled goes on as soon as an ordinary promise", async () => {
      const order: string[] = [];
      const mock = controlled<() => Promise<void>>();
      const ordinary = Promise.withResolvers<void>();
      const wait = async (promise: Promise<void>, name: string) => {
        await promise;
        order.push(name);
      };
      const waits = [wait(mock(), "mock"), wait(ordinary.promise, "ordinary")];

      mock.calls[0]?.resolve();
      ordinary.resolve();
      await Promise.all(waits);

      expect(order).toEqual(["mock", "ordinary"]);
    });

    test("a call can be resolved with a promise, and then comes to the same", async () => {
      const mock = controlled<FetchLoosely>();
      const calls = [mock(), mock()];

      mock.calls[0]?.resolve(Promise.reject("failed"));
      mock.calls[1]?.resolve(Promise.resolve("a"));

      expect(await Promise.allSettled(calls)).toEqual([
        { status: "rejected", reason: "failed" },
        { status: "fulfilled", value: "a" },
      ]);
      expect(mock.calls[1]?.result).toEqual({ status: "fulfilled", value: "a" });
    });

    test("its types follow the mocked function", async () => {
      const typed = asyncMock<FetchUser>().resolves(ada);
      const inferred = asyncMock(async (id: number) => ({ ...ada, id }));
      const plain = asyncMock((text: string) => text.length);
      const nothing: AsyncMock<() => Promise<void>> = asyncMock<() => Promise<void>>().resolves();

      const standIn: FetchUser = typed;
      const user: User = await standIn(1);
      const id: number = (await inferred(3)).id;
      const length: number = await plain("four");
      const argument: number | undefined = typed.calls[0]?.args[0];
      await nothing();
      expect([user.name, id, length, argument]).toEqual(["Ada", 3, 4, 1]);

      // @ts-expect-error: an id is a number
      await typed("1");
      // @ts-expect-error: an id is missing
      await inferred();
      // @ts-expect-error: a user is not a string
      typed.resolves("Ada");
      // @ts-expect-error: nor one of several outcomes
      typed.sequence(ada, "Bob");
      // @ts-expect-error: nor what a call is resolved to by hand
      (typed.hangs()(1), typed.calls.at(-1)?.resolve("Ada"));
      // @ts-expect-error: an id is compared with a number
      expect(() => typed.assertAwaitedOnceWith("1")).toThrow();
    });
  });

  describe("what it is told to do once", () => {
    test("comes first, in order, and leaves what holds for every call", async () => {
      const mock = asyncMock<Load>()
        .rejectsOnce("failed")
        .resolves("every")
        .resolvesOnce("once")
        .runsOnce(async (text) => `ran ${text}`);

      const results = await Promise.allSettled(["a", "b", "c", "d", "e"].map((text) => mock(text)));

      expect(results).toEqual([
        { status: "rejected", reason: "failed" },
        { status: "fulfilled", value: "once" },
        { status: "fulfilled", value: "ran c" },
        { status: "fulfilled", value: "every" },
        { status: "fulfilled", value: "every" },
      ]);
    });

    test("rejectsOnce() leaves the implementation", async () => {
      const mock = asyncMock(async (n: number) => n).rejectsOnce(new Error("busy"));

      await expect(mock(1)).rejects.toThrow("busy");
      expect(await mock(2)).toBe(2);
    });

    test("uses up nothing of a sequence()", async () => {
      const mock = asyncMock<Load>().sequence("first", "second").rejectsOnce("failed");

      expect(await reasonOf(mock(""))).toBe("failed");
      expect(await mock("")).toBe("first");
      expect(await mock("")).toBe("second");
    });

    test("hangsOnce() keeps one call open, and no other", async () => {
      const mock = asyncMock<Load>().resolves("every").hangsOnce();
      const controller = new AbortController();

      const first = (mock as AsyncMock<FetchLoosely>)(controller.signal);
      expect(await mock("")).toBe("every");
      expect(mock.open).toBe(1);
      controller.abort("stop");

      expect(await reasonOf(first)).toBe("stop");
    });

    test("delaysOnce() delays one call, which then does what every call does", async () => {
      await virtualTime(async (clock) => {
        const mock = asyncMock<Load>().resolves("every").rejectsOnce("failed").delaysOnce(100);

        expect(await reasonOf(mock(""))).toBe("failed");
        expect(clock.elapsed).toBe(0);
        expect(await mock("")).toBe("every");
        expect(clock.elapsed).toBe(100);
        expect(await mock("")).toBe("every");
        expect(clock.elapsed).toBe(100);
      });
    });

    test("takes the delay of every call, but for delaysOnce()", async () => {
      await virtualTime(async (clock) => {
        const mock = asyncMock<Load>().delays(100).resolvesOnce("once").delaysOnce(0);

        expect(await mock("")).toBe("once");
        expect(clock.elapsed).toBe(100);
        await mock("");
        expect(clock.elapsed).toBe(100);
        await mock("");
        expect(clock.elapsed).toBe(200);
      });
    });

    test("stays over a reset()", async () => {
      const mock = asyncMock<Load>().resolves("every").resolvesOnce("once").reset();

      expect(await mock("")).toBe("once");
    });
  });

  describe("what it yields", () => {
    type Query = (sql: string, options?: { signal?: AbortSignal }) => AsyncIterable<number>;
    const read = async (rows: AsyncIterable<unknown>, into: unknown[] = []) => {
      for await (const row of rows) into.push(row);
      return into;
    };

    test.each([[[]], [[1]], [[1, 2, 3]]])("the items %j, anew for each call", async (items) => {
      const query = asyncMock<Query>().yields(...items);

      expect(await read(query("a"))).toEqual(items);
      expect(await Promise.all([read(query("b")), read(query("c"))])).toEqual([items, items]);

      expect(query.calls.map(({ taken, closed }) => ({ taken, closed }))).toEqual(
        Array(3).fill({ taken: items.length, closed: true }),
      );
    });

    test("an Error in its turn, after which there is no more", async () => {
      const query = asyncMock<Query>().yields(1, new Error("reset"), 3);
      const rows: unknown[] = [];

      expect(await reasonOf(read(query(""), rows))).toEqual(new Error("reset"));

      expect(rows).toEqual([1]);
      expect(query.calls[0]).toMatchObject({ taken: 1, closed: true });
    });

    test("promises, of which a rejected one is not unhandled before its turn", async () => {
      const later = Promise.withResolvers<number>();
      const query = asyncMock<Query>().yields(later.promise, 2, Promise.reject("reset"));
      const rows: unknown[] = [];
      const reading = read(query(""), rows);
      await settled();
      expect(rows).toEqual([]);

      later.resolve(1);

      expect(await reasonOf(reading)).toBe("reset");
      expect(rows).toEqual([1, 2]);
    });

    test("to a consumer that leaves, which is recorded", async () => {
      const query = asyncMock<Query>().yields(1, 2, 3);

      for await (const row of query("")) if (row === 2) break;

      expect(query.calls[0]).toMatchObject({ taken: 2, closed: true });
    });

    test("to a consumer that stops in the middle, without leaving", async () => {
      const query = asyncMock<Query>().yields(1, 2);
      const rows = query("")[Symbol.asyncIterator]();
      await rows.next();

      expect(query.calls[0]).toMatchObject({ taken: 1, closed: false });
    });

    test("nothing more once it was left, even if a next() hangs", async () => {
      const query = asyncMock<Query>().yields(1, new Promise<number>(() => {}), 3);
      const rows = query("")[Symbol.asyncIterator]();
      await rows.next();
      const pending = rows.next();

      expect(await rows.return!()).toEqual({ done: true, value: undefined });
      expect(await pending).toEqual({ done: true, value: undefined });
      expect(await rows.next()).toEqual({ done: true, value: undefined });
      expect(query.calls[0]).toMatchObject({ taken: 1, closed: true });
    });

    test("an array that it resolves to, which can be left as well", async () => {
      const query = asyncMock<any>().resolves([1, 2]);
      const rows = query("")[Symbol.asyncIterator]();

      expect(await rows.next()).toEqual({ done: false, value: 1 });
      expect(await rows.return()).toEqual({ done: true, value: undefined });
    });

    test("nothing, if it is left before it begins", async () => {
      const query = asyncMock<Query>().yields(1);
      const rows = query("")[Symbol.asyncIterator]();

      expect(await rows.return!()).toEqual({ done: true, value: undefined });

      expect(query.calls[0]).toMatchObject({ taken: 0, closed: true });
    });

    test.each([
      ["before it begins", true, { taken: 0, elapsed: 0 }],
      ["while it hangs", false, { taken: 1, elapsed: 50 }],
    ])("an abort %s ends it with the reason, once", async (_when, before, { taken, elapsed }) => {
      await virtualTime(async (clock) => {
        const hanging = new Promise<number>(() => {});
        const query = asyncMock<Query>().yields(1, hanging, hanging, 4);
        const { controller, listeners } = watchedController();
        const rows = query("", controller)[Symbol.asyncIterator]();
        if (before) controller.abort("stop");
        else {
          await rows.next();
          expect(listeners()).toBe(0);
          setTimeout(() => controller.abort("stop"), 50);
        }

        const pending = await Promise.allSettled([rows.next(), rows.next()]);

        expect(pending.map(({ status }) => status).sort()).toEqual(["fulfilled", "rejected"]);
        expect(pending).toContainEqual({ status: "rejected", reason: "stop" });
        expect(await rows.next()).toEqual({ done: true, value: undefined });
        expect(clock.elapsed).toBe(elapsed);
        expect(listeners()).toBe(0);
        expect(query.calls[0]).toMatchObject({ taken, closed: true });
      });
    });

    test("nothing at all, when nobody iterates: that call was never awaited", async () => {
      const query = asyncMock<Query>().yields(1);
      void query("forgotten");
      query("")[Symbol.asyncIterator]();
      await read(query("read"));

      expect(query.calls.map((call) => call.awaited)).toEqual([false, false, true]);
    });

    test("through a promise, too, as a client gives it that connects first", async () => {
      const open = asyncMock<() => Promise<AsyncIterable<string>>>().yields("a", "b");

      expect(await read(await open())).toEqual(["a", "b"]);

      expect(open.calls[0]).toMatchObject({ awaited: true, taken: 2, closed: true });
    });

    test.each<[string, () => unknown]>([
      [
        "an async generator",
        async function* () {
          yield* [1, 2];
        },
      ],
      [
        "a generator",
        function* () {
          yield* [1, 2];
        },
      ],
      ["a list", () => [1, 2]],
    ])("what its implementation does: %s", async (_kind, impl) => {
      const query = asyncMock<Query>(impl as never);

      expect(await read(query(""))).toEqual([1, 2]);
      for await (const row of query("")) {
        expect(row).toBe(1);
        break;
      }
      expect(query.calls[0]).toMatchObject({ awaited: true, taken: 0, closed: false });
    });

    test("a generator that is left runs its finally", async () => {
      const log: string[] = [];
      const query = asyncMock(async function* () {
        try {
          yield* [1, 2];
        } finally {
          log.push("closed");
        }
      });

      for await (const _row of query() as unknown as AsyncIterable<number>) break;

      expect(log).toEqual(["closed"]);
    });

    test("once, or after a delay, or not at all: it goes with everything else", async () => {
      await virtualTime(async (clock) => {
        const query = asyncMock<Query>()
          .yields(1)
          .yieldsOnce(2)
          .delaysOnce(100)
          .rejectsOnce("busy");

        expect(await read(query(""))).toEqual([2]);
        expect(await read(query(""))).toEqual([1]);
        expect(clock.elapsed).toBe(100);
        expect(await reasonOf(read(query("")))).toBe("busy");
        expect(await read(query(""))).toEqual([1]);
      });
    });

    test("in the place of a method", async () => {
      const db = {
        async *rows(_sql: string) {
          yield 1;
        },
      };
      using rows = spyOn(db, "rows");
      expect(await read(db.rows(""))).toEqual([1]);

      rows.yields(2, 3);
      expect(await read(db.rows(""))).toEqual([2, 3]);
      rows.assertAwaitedWith("");
    });

    test("its types follow the mocked function", () => {
      const query = asyncMock<Query>().yields(1, Promise.resolve(2), new Error("x"));
      const open = asyncMock<() => Promise<AsyncIterable<string>>>().yieldsOnce("a");
      expectTypeOf(query).toEqualTypeOf<AsyncMock<Query>>();
      expect(open.calls).toEqual([]);

      // @ts-expect-error: a row is a number
      query.yields("a");
      // @ts-expect-error: it returns nothing iterable
      asyncMock<Save>().yields("a");
    });
  });

  test("shows itself when it is printed", async () => {
    const save = asyncMock<Save>(undefined, { name: "save" });
    await save("ada");
    void save.hangs()("bob");

    expect(printed(save)).toBe(
      'Mock {"name":"save","calls":[' +
        '{"args":["ada"],"awaited":true,"result":{"status":"fulfilled"}},' +
        '{"args":["bob"],"awaited":false}],"open":1}',
    );
    expect(printed(save.calls[0]!)).toBe(
      'Call {"args":["ada"],"awaited":true,"result":{"status":"fulfilled"}}',
    );
    expect(printed(save.calls[1]!)).toBe('Call {"args":["bob"],"awaited":false}');
  });

  describe("what it records", () => {
    test("the this of a call, which reaches the implementation", async () => {
      const counter = {
        count: 5,
        next: asyncMock(async function (this: { count: number }, step: number) {
          return this.count + step;
        }),
      };

      expect(await counter.next(1)).toBe(6);

      expect(counter.next.calls[0]?.thisValue).toBe(counter);
    });

    test.each<[string, (mock: AsyncMock<FetchLoosely>, object: object) => unknown]>([
      ["call", (mock, object) => mock.call(object, "a", "b")],
      ["apply", (mock, object) => mock.apply(object, ["a", "b"])],
      ["bind", (mock, object) => mock.bind(object, "a")("b")],
      ["Reflect.apply", (mock, object) => Reflect.apply(mock, object, ["a", "b"])],
    ])("the this of %s", async (_name, use) => {
      const [mock, object] = [asyncMock<FetchLoosely>().delays(0), {}];

      await use(mock, object);

      expect(mock.calls).toMatchObject([{ args: ["a", "b"] }]);
      expect(mock.calls[0]?.thisValue).toBe(object);
    });

    test("the this of a delayed call, and of runs() and runsOnce()", async () => {
      await virtualTime(async () => {
        const seen: unknown[] = [];
        const object = {
          method: asyncMock(async function (this: unknown) {
            seen.push(this);
          })
            .delays(100)
            .runsOnce(async function (this: unknown) {
              seen.push(this);
            }),
        };

        await object.method();
        await object.method();

        expect(seen).toEqual([object, object]);
        expect(seen[0]).toBe(object);
      });
    });

    test("no this where there is none", async () => {
      const mock = asyncMock();

      await mock();

      expect(mock.calls[0]?.thisValue).toBeUndefined();
    });

    test("what each call came to", async () => {
      const mock = asyncMock<Load>().sequence("a", new Error("busy"));
      const calls = [mock(""), mock("")];
      mock.hangs();
      calls.push(mock(""), mock(""));
      mock.calls[3]?.resolve("by hand");

      await Promise.allSettled(calls.filter((_, n) => n !== 2));

      expect(mock.calls.map((call) => call.result)).toEqual([
        { status: "fulfilled", value: "a" },
        { status: "rejected", reason: new Error("busy") },
        undefined,
        { status: "fulfilled", value: "by hand" },
      ]);
    });

    test.each<[name: string, AsyncMock<() => Promise<unknown>>]>([
      ["save", asyncMock(async () => {}, { name: "save" })],
      ["given", asyncMock(async function own() {}, { name: "given" })],
      ["own", asyncMock(async function own() {})],
      ["asyncMock", asyncMock(async () => {})],
      ["asyncMock", asyncMock(Object.defineProperty(async () => {}, "name", { value: 5 }))],
      ["asyncMock", asyncMock(undefined, {})],
      ["asyncMock", controlled()],
      ["search", controlled({ name: "search" })],
    ])("a name: %s", (name, mock) => {
      expect(mock.name).toBe(name);
    });

    test("its name stands in the messages", async () => {
      const save = asyncMock<Save>(undefined, { name: "save" });
      await save("ada");
      const calls = 'but these are the calls:\n  call 1 save("ada") was awaited';

      expect(thrownBy(() => save.assertNotAwaited())).toMatchObject({
        message: `Expected no await of save, ${calls}`,
      });
      expect(thrownBy(() => save.assertAwaitedWith("bob"))).toMatchObject({
        message: `Expected the last await to be of save("bob"), ${calls}`,
      });
      expect(thrownBy(() => save.calls[0]?.resolve())).toMatchObject({
        message: 'Cannot resolve call 1 save("ada"): it is settled already',
      });
      expect(await reasonOf(save.sequence()("bob"))).toMatchObject({
        message: "save ran out: call 1, but the sequence ends after 0",
      });
    });

    test("the length, and what else the implementation has", () => {
      const impl = Object.assign(async (_a: string, _b: string) => {}, { retries: 3, open: 5 });
      const mock = asyncMock(impl);

      expect(mock.length).toBe(2);
      expect(mock.retries).toBe(3);
      // The mock's own members come first.
      expect(mock.open).toBe(0);
      expect("prototype" in asyncMock(function () {})).toBe(false);
    });
  });

  describe("awaits", () => {
    async function saveBoth(save: Save): Promise<void> {
      await save("ada");
      await save("bob");
    }

    async function saveBothCarelessly(save: Save): Promise<void> {
      await save("ada");
      void save("bob");
    }

    test("a call that nobody awaits can be told from one that somebody does", async () => {
      const save = asyncMock<Save>();

      await saveBothCarelessly(save);

      expect(save.calls.map((call) => call.args[0])).toEqual(["ada", "bob"]);
      expect(save.calls.map((call) => call.awaited)).toEqual([true, false]);
      expect(save.awaits).toEqual([save.calls[0]!]);
    });

    test("assertAllAwaited() names it", async () => {
      const [careful, careless] = [asyncMock<Save>(), asyncMock<Save>()];

      await saveBoth(careful);
      await saveBothCarelessly(careless);

      careful.assertAllAwaited();
      expect(() => careless.assertAllAwaited()).toThrow(
        "Expected an await of every call, but these are the calls:\n" +
          '  call 1 ("ada") was awaited\n' +
          '  call 2 ("bob") was never awaited',
      );
    });

    test("its rejection does not end the process", async () => {
      const save = asyncMock<Save>().rejects(new Error("disk full"));

      void save("ada");
      // bun:test fails a test in which a rejection is left unhandled.
      await settled();

      expect(save.calls[0]?.settled).toBe(true);
      save.assertNotAwaited();
    });

    test.each<[string, (promise: Promise<void>) => unknown]>([
      ["await", async (promise) => await promise],
      ["then", (promise) => promise.then(() => {})],
      ["catch", (promise) => promise.catch(() => {})],
      ["finally", (promise) => promise.finally(() => {})],
      ["Promise.all", (promise) => Promise.all([promise])],
      ["Promise.allSettled", (promise) => Promise.allSettled([promise])],
      ["Promise.race", (promise) => Promise.race([promise])],
      ["Promise.any", (promise) => Promise.any([promise])],
      ["return from an async function", async (promise) => promise],
      ["return from a then", (promise) => Promise.resolve().then(() => promise)],
      ["for await", async (promise) => void (await Array.fromAsync([promise]))],
      ["two awaits", async (promise) => [await promise, await promise]],
    ])("%s counts as one await", async (_name, use) => {
      const save = asyncMock<Save>();

      await use(save("ada"));

      expect(save.awaits).toHaveLength(1);
    });

    test.each<[string, (promise: Promise<void>) => unknown]>([
      ["nothing at all", () => {}],
      ["void", (promise) => void promise],
      ["keeping it in a list", (promise) => [promise]],
    ])("%s counts as none", async (_name, use) => {
      const save = asyncMock<Save>();

      use(save("ada"));
      await settled();

      expect(save.calls).toHaveLength(1);
      save.assertNotAwaited();
    });

    test("awaits are listed in their own order, not in that of the calls", async () => {
      const save = asyncMock<Save>();
      const [first, second] = [save("ada"), save("bob")];

      await second;
      await first;

      expect(save.calls.map((call) => call.args[0])).toEqual(["ada", "bob"]);
      expect(save.awaits.map((call) => call.args[0])).toEqual(["bob", "ada"]);
    });

    test("reset() forgets what was recorded and keeps the behaviour", async () => {
      const save = asyncMock<FetchUser>().sequence(ada, bob);
      const late = save(1);

      expect(save.reset()).toBe(save);
      await late;

      expect(save.calls).toEqual([]);
      expect(save.awaits).toEqual([]);
      expect(save.open).toBe(0);
      expect(await save(2)).toBe(bob);
      expect((await save.nthCall(1)).args).toEqual([2]);
    });
  });

  describe("what counts as an await", () => {
    test.each<[string, (promise: Promise<void>) => unknown]>([
      ["expect().resolves", (promise) => expect(promise).resolves.toBeUndefined()],
      ["Promise.resolve", (promise) => Promise.resolve(promise)],
      ["Promise.try", (promise) => Promise.try(() => promise)],
      ["await using", (promise) => disposeOf(() => promise)],
      ["the pull() of a stream", (promise) => readAll(promise)],
      ["resolving another promise", (promise) => Promise.withResolvers<void>().resolve(promise)],
    ])("%s", async (_name, use) => {
      const save = asyncMock<Save>();

      await use(save("ada"));
      await settled();

      expect(save.awaits).toHaveLength(1);
    });

    test("one that comes after the rejection", async () => {
      const save = asyncMock<Save>().rejects(new Error("disk full"));
      const promise = save("ada");
      await settled();
      save.assertNotAwaited();

      expect(await reasonOf(promise)).toEqual(new Error("disk full"));

      save.assertAwaitedOnceWith("ada");
    });

    test("expect().rejects", async () => {
      const save = asyncMock<Save>().rejects(new Error("disk full"));

      await expect(save("ada")).rejects.toThrow("disk full");

      save.assertAwaitedOnceWith("ada");
    });

    test("a listener of an EventTarget counts on Bun and Node", async () => {
      const save = asyncMock<FetchLoosely>();
      const target = new EventTarget();

      target.addEventListener("save", save);
      target.dispatchEvent(new Event("save"));
      await settled();

      expect(save.calls).toHaveLength(1);
      // Those two watch for a rejection.
      expect(save.awaits).toHaveLength("Deno" in globalThis ? 0 : 1);
    });

    test("expect() on a promise that is settled counts, but not in bun:test", async () => {
      const save = asyncMock<Save>();
      const promise = save("ada");
      await settled();

      await expect(promise).resolves.toBeUndefined();

      expect(save.awaits).toHaveLength(Bun ? 0 : 1);
    });

    test.skipIf(!Bun)("a handler of Bun.serve doesn't count (needs Bun)", async () => {
      const handle = asyncMock(async (_request: Request) => new Response("hello"));
      using server = Bun!.serve({ port: 0, fetch: handle });

      const response = await fetch(server.url);

      expect(await response.text()).toBe("hello");
      expect(handle.calls).toHaveLength(1);
      handle.assertNotAwaited();
    });

    test("a timer's callback doesn't count", async () => {
      await virtualTime(async () => {
        const save = asyncMock<Save>();

        setTimeout(save, 100, "ada");
        await sleep(100);

        expect(save.calls).toHaveLength(1);
        save.assertNotAwaited();
      });
    });

    test("looking at the promise doesn't count", async () => {
      const save = asyncMock<Save>();
      const promise = save("ada");

      expect(promise instanceof Promise).toBe(true);
      expect(Object.prototype.toString.call(promise)).toBe("[object Promise]");
      expect(typeof promise.then).toBe("function");
      expect(JSON.stringify({ promise })).toBe('{"promise":{}}');
      await settled();

      save.assertNotAwaited();
    });

    test("it is known at once, and every one of many is seen", async () => {
      const save = asyncMock<Save>();
      void save("ada").then(() => {});
      expect(save.calls[0]?.awaited).toBe(true);

      for (let call = 2; call <= 10_000; call++) await save("ada");

      expect(save.awaits).toHaveLength(10_000);
      save.assertAllAwaited();
    });

    test("what then() returns is an ordinary promise", async () => {
      const save = asyncMock<Save>();
      const next = save("ada").then(() => "next");

      expect(next.constructor).toBe(Promise);
      expect(await next).toBe("next");
      save.assertAwaitedOnce();
    });
  });

  describe.each<[string, (mock: AsyncMock<FetchLoosely>) => unknown]>([
    ["hangs()", (mock) => mock.hangs()],
    ["delays()", (mock) => mock.delays(1000)],
    ["both", (mock) => mock.delays(1000).hangs()],
  ])("%s and its signal", (_name, tell) => {
    test.each<[string, (signal: AbortSignal) => unknown[]]>([
      ["an argument", (signal) => [signal]],
      ["the last argument", (signal) => ["url", null, undefined, signal]],
      ["in the options", (signal) => ["url", { signal }]],
      ["in a Request", (signal) => [new Request("http://localhost", { signal })]],
    ])("an abort rejects with the reason: the signal is %s", async (_name, argsWith) => {
      await virtualTime(async (clock) => {
        const mock = asyncMock<FetchLoosely>();
        tell(mock);
        const controller = new AbortController();
        const reason = new Error("stop");
        const call = mock(...argsWith(controller.signal));
        expect(mock.open).toBe(1);

        setTimeout(() => controller.abort(reason), 100);

        expect(await reasonOf(call)).toBe(reason);
        expect(clock.elapsed).toBe(100);
        expect(clock.pending).toBe(0);
        expect(mock.open).toBe(0);
      });
    });

    describe.each(positions)("of three calls the %s", (_which, n) => {
      test.each(momentsOfAbort)("is aborted $when", async ({ steps, wins }) => {
        await virtualTime(async (clock) => {
          let runs = 0;
          const mock = asyncMock<FetchLoosely>(async () => runs++);
          tell(mock);
          const { controller, listeners } = watchedController();
          const calls: Promise<unknown>[] = [];

          await act(steps, {
            begin: () => {
              for (let i = 0; i < 3; i++) calls.push(mock(i === n ? controller : undefined));
            },
            end: () => mock.calls[n]!.settled || mock.calls[n]!.resolve("by hand"),
            abort: () => controller.abort("stop"),
          });
          mock.calls.forEach((call) => call.settled || call.resolve("by hand"));

          const others = { status: "fulfilled", value: "by hand" };
          const expected: unknown[] = [others, others, others];
          if (wins) expected[n] = { status: "rejected", reason: "stop" };
          const outcomes: unknown[] = await Promise.allSettled(calls);
          expect(outcomes).toEqual(expected);
          expect(mock.open).toBe(0);
          expect(listeners()).toBe(0);
          expect(clock.pending).toBe(0);
          expect(clock.elapsed).toBe(0);
          expect(runs).toBe(0);
        });
      });
    });

    test("a signal whose calls have all ended is listened to again for those to come", async () => {
      await virtualTime(async () => {
        const mock = asyncMock<FetchLoosely>();
        tell(mock);
        const controller = new AbortController();
        void mock(controller.signal);
        mock.calls[0]?.resolve("by hand");

        const later = mock(controller.signal);
        controller.abort("stop");

        expect(await reasonOf(later)).toBe("stop");
      });
    });

    test("a signal that can't be read rejects the call, which is then not open", async () => {
      await virtualTime(async (clock) => {
        const mock = asyncMock<FetchLoosely>();
        tell(mock);
        const error = new Error("hostile");
        const hostile = {
          get signal() {
            throw error;
          },
        };

        expect(await reasonOf(mock(hostile))).toBe(error);
        expect(await reasonOf(mock(revokedProxy()))).toBeInstanceOf(TypeError);

        expect(mock.open).toBe(0);
        expect(clock.pending).toBe(0);
      });
    });

    test.each([{ signal: "SIGINT" }, { signal: null }, { signal: {} }, "text", 5, null])(
      "%j is or has no signal",
      async (arg) => {
        await virtualTime(async () => {
          const mock = asyncMock<FetchLoosely>();
          tell(mock);
          const call = mock(arg, { signal: AbortSignal.abort("stop") });

          expect(await reasonOf(call)).toBe("stop");
        });
      },
    );

    test("the first signal counts", async () => {
      await virtualTime(async () => {
        const mock = asyncMock<FetchLoosely>();
        tell(mock);

        const call = mock({ signal: AbortSignal.abort("options") }, AbortSignal.abort("argument"));

        expect(await reasonOf(call)).toBe("options");
      });
    });
  });

  describe("nthCall()", () => {
    test.skipIf(!Bun)("frees an aborted waiter's memory (needs Bun)", async () => {
      const load = controlled<Load>();
      const reasons = Array.from({ length: 100 }, () => {
        const controller = new AbortController();
        const reason = new Error("stop");
        load.nthCall(5, { signal: controller.signal }).catch(() => {});
        controller.abort(reason);
        return new WeakRef(reason);
      });

      await settled();
      Bun!.gc(true);

      const kept = reasons.filter((reason) => reason.deref() !== undefined).length;
      expect(kept < 50).toBe(true);
    });

    test("gives a call that has been made, and waits for one that has not", async () => {
      const load = controlled<Load>();
      void load("a");
      const arrivals: string[] = [];
      const note = (n: number) =>
        load.nthCall(n).then(({ args }) => arrivals.push(`${n} ${args[0]}`));
      const waits = [note(3), note(1), note(2), note(3)];

      await settled();
      expect(arrivals).toEqual(["1 a"]);
      void load("b");
      await settled();
      expect(arrivals).toEqual(["1 a", "2 b"]);
      void load("c");
      await Promise.all(waits);

      expect(arrivals).toEqual(["1 a", "2 b", "3 c", "3 c"]);
    });

    test("works for every mock, and awaits nothing", async () => {
      const save = asyncMock<Load>().resolves("saved");
      const first = save.nthCall(1);

      void save("ada");

      expect((await first).args).toEqual(["ada"]);
      save.assertNotAwaited();
    });

    describe.each(positions)("of three waiters the %s", (_which, n) => {
      test.each(momentsOfAbort)("is aborted $when", async ({ steps, wins, sharesTurn }) => {
        const load = controlled<Load>();
        const { controller, listeners } = watchedController();
        let waiters: Promise<unknown>[] = [];
        const rejects = wins || sharesTurn;

        await act(steps, {
          begin: () => {
            waiters = [0, 1, 2].map((i) => load.nthCall(1, i === n ? controller : {}));
            // Not yet awaited, and not unhandled either.
            for (const waiter of waiters) waiter.catch(() => {});
          },
          end: () => void load("a"),
          abort: () => controller.abort("stop"),
        });
        if (load.calls.length === 0) void load("a");

        const outcomes = await Promise.allSettled(waiters);
        for (const [i, outcome] of outcomes.entries()) {
          if (i === n && rejects) expect(outcome).toEqual({ status: "rejected", reason: "stop" });
          else expect(outcome).toMatchObject({ value: { args: ["a"] } });
        }
        expect(listeners()).toBe(0);
      });
    });

    test("a call that never comes is a deadlock in virtual time", async () => {
      const waiting = virtualTime(() => controlled().nthCall(1));

      expect(await reasonOf(waiting)).toMatchObject({ name: "DeadlockError" });
    });

    test.each<[received: string, n: unknown, Kind: ErrorConstructor]>([
      ["0", 0, RangeError],
      ["-1", -1, RangeError],
      ["1.5", 1.5, RangeError],
      ["NaN", NaN, RangeError],
      ["9007199254740992", 2 ** 53, RangeError],
      ['"1"', "1", TypeError],
      ["undefined", undefined, TypeError],
    ])("refuses %s", async (received, n, Kind) => {
      const error = await reasonOf(controlled().nthCall(n as number));

      const message = `Cannot wait for a call: n must be a positive integer, received ${received}`;
      expect(error).toEqual(new Kind(message));
    });

    test.each<[string, unknown, message: string]>([
      [
        "a signal that is not an AbortSignal",
        { signal: {} },
        "signal must be an AbortSignal, received Object",
      ],
      ["options that are not an object", 1000, "options must be an object, received 1000"],
      ["null for options", null, "options must be an object, received null"],
      [
        "a signal for options",
        new AbortController().signal,
        "options must be an object, received AbortSignal",
      ],
    ])("refuses %s", async (_what, options, message) => {
      const error = await reasonOf(controlled().nthCall(1, options as never));

      expect(error).toEqual(new TypeError(`Cannot wait for a call: ${message}`));
    });

    test.each([{ options: undefined }, { options: {} }, { options: { signal: null } }])(
      "takes %j for no signal",
      async ({ options }) => {
        const load = controlled<Load>();
        const waiting = load.nthCall(1, options as never);

        void load("a");

        expect((await waiting).args).toEqual(["a"]);
      },
    );

    test("a waiter that is aborted but not yet told gets no call", async () => {
      const load = controlled<Load>();
      const controller = new AbortController();
      controller.signal.addEventListener("abort", () => void load("a"));
      const waiting = load.nthCall(1, { signal: controller.signal });

      controller.abort("stop");

      expect(await reasonOf(waiting)).toBe("stop");
    });

    test("goes on over a reset, and counts from there", async () => {
      const load = controlled<Load>();
      const waiting = load.nthCall(2);
      void load("a");

      load.reset();
      void load("b");
      void load("c");

      expect((await waiting).args).toEqual(["c"]);
    });

    test("an abort right after the call takes nothing from who waits after a reset", async () => {
      const load = controlled<Load>();
      const controller = new AbortController();
      const first = load.nthCall(1, { signal: controller.signal });
      void load("a");

      load.reset();
      const second = load.nthCall(1);
      controller.abort("stop");
      void load("b");

      expect(await reasonOf(first)).toBe("stop");
      expect((await second).args).toEqual(["b"]);
    });

    test("one of many waiters may leave, and the others wait on", async () => {
      const load = controlled<Load>();
      const controller = new AbortController();
      const waits = [
        load.nthCall(1),
        load.nthCall(1, { signal: controller.signal }),
        load.nthCall(1),
      ];

      controller.abort("stop");
      void load("a");

      expect(await Promise.allSettled(waits)).toMatchObject([
        { value: { args: ["a"] } },
        { reason: "stop" },
        { value: { args: ["a"] } },
      ]);
    });
  });

  describe("assertions", () => {
    const NEVER = "it was never called";
    const ONCE = 'these are the calls:\n  call 1 ("a") was awaited';
    const TWICE = `${ONCE}\n  call 2 ("b") was awaited`;
    const FORGOTTEN = 'these are the calls:\n  call 1 ("a") was never awaited';

    type Assertion = Extract<keyof AsyncMock<Load>, `assert${string}`>;

    /** Calls an assertion by name, and returns its error. */
    function check(mock: AsyncMock<Load>, name: Assertion, args: unknown[]): unknown {
      try {
        (mock[name] as (...args: unknown[]) => void)(...args);
      } catch (error) {
        return error;
      }
      return undefined;
    }

    test.each<[awaited: string[], Assertion, args: unknown[]]>([
      [["a"], "assertAwaited", []],
      [["a", "b"], "assertAwaited", []],
      [["a"], "assertAwaitedOnce", []],
      [["a", "b"], "assertAwaitedWith", ["b"]],
      [["a"], "assertAwaitedOnceWith", ["a"]],
      [["a", "b"], "assertAnyAwait", ["a"]],
      [["a", "b"], "assertAnyAwait", ["b"]],
      [["a", "b", "c"], "assertHasAwaits", [[["a"], ["b"]]]],
      [["a", "b", "c"], "assertHasAwaits", [[["b"], ["c"]]]],
      [["a", "a", "b"], "assertHasAwaits", [[["a"], ["b"]]]],
      [[], "assertHasAwaits", [[]]],
      [["a"], "assertHasAwaits", [[]]],
      [["a", "b", "c"], "assertHasAwaits", [[["c"], ["a"]], { anyOrder: true }]],
      [["a", "b", "a"], "assertHasAwaits", [[["a"], ["a"]], { anyOrder: true }]],
      [[], "assertHasAwaits", [[], { anyOrder: true }]],
      [["a", "b"], "assertHasAwaits", [[["a"], ["b"]], { anyOrder: false }]],
      [["a", "b"], "assertHasAwaits", [[["a"]], undefined]],
      [[], "assertNotAwaited", []],
      [[], "assertAllAwaited", []],
      [["a", "b"], "assertAllAwaited", []],
    ])("after awaits of %j, %s passes, given %j", async (awaited, name, args) => {
      const load = asyncMock<Load>();
      for (const text of awaited) await load(text);

      expect(check(load, name, args)).toBeUndefined();
    });

    test.each<[awaited: string[], Assertion, args: unknown[], message: string]>([
      [[], "assertAwaited", [], `an await, but ${NEVER}`],
      [[], "assertAwaitedOnce", [], `exactly one await, but ${NEVER}`],
      [["a", "b"], "assertAwaitedOnce", [], `exactly one await, but ${TWICE}`],
      [[], "assertAwaitedWith", ["a"], `the last await to be of ("a"), but ${NEVER}`],
      [["a", "b"], "assertAwaitedWith", ["a"], `the last await to be of ("a"), but ${TWICE}`],
      [["a", "b"], "assertAwaitedOnceWith", ["b"], `exactly one await, but ${TWICE}`],
      [["a"], "assertAwaitedOnceWith", ["b"], `the last await to be of ("b"), but ${ONCE}`],
      [["a", "b"], "assertAnyAwait", ["c"], `awaits of ("c"), but ${TWICE}`],
      [["a", "b"], "assertHasAwaits", [[["b"], ["a"]]], `awaits of ("b") ("a"), but ${TWICE}`],
      [["a"], "assertHasAwaits", [[["a"], ["b"]]], `awaits of ("a") ("b"), but ${ONCE}`],
      [["a", "b"], "assertHasAwaits", [[["b"], ["c"]]], `awaits of ("b") ("c"), but ${TWICE}`],
      [
        ["a", "b"],
        "assertHasAwaits",
        [[["b"], ["a"]], { anyOrder: false }],
        `awaits of ("b") ("a"), but ${TWICE}`,
      ],
      [
        ["a", "b"],
        "assertHasAwaits",
        [[["b"], ["b"]], { anyOrder: true }],
        `in any order awaits of ("b") ("b"), but ${TWICE}`,
      ],
      [
        ["a"],
        "assertHasAwaits",
        [[["a"], ["a"]], { anyOrder: true }],
        `in any order awaits of ("a") ("a"), but ${ONCE}`,
      ],
      [["a"], "assertNotAwaited", [], `no await, but ${ONCE}`],
    ])("after awaits of %j, %s fails, given %j", async (awaited, name, args, message) => {
      const load = asyncMock<Load>();
      for (const text of awaited) await load(text);

      const error = check(load, name, args);

      expect(error).toBeInstanceOf(Error);
      expect(error).toMatchObject({ name: "AssertionError", message: `Expected ${message}` });
    });

    test.each<[Assertion, args: unknown[], expected: string]>([
      ["assertAwaited", [], "an await"],
      ["assertAwaitedOnce", [], "exactly one await"],
      ["assertAwaitedWith", ["a"], 'the last await to be of ("a")'],
      ["assertAwaitedOnceWith", ["a"], "exactly one await"],
      ["assertAnyAwait", ["a"], 'awaits of ("a")'],
      ["assertHasAwaits", [[["a"]]], 'awaits of ("a")'],
      ["assertAllAwaited", [], "an await of every call"],
    ])("a call that nobody awaited does not satisfy %s", async (name, args, expected) => {
      const load = asyncMock<Load>();

      void load("a");
      await settled();

      const message = `Expected ${expected}, but ${FORGOTTEN}`;
      expect(check(load, name, args)).toMatchObject({ message });
    });

    class Person {
      readonly name = "Ada";
    }
    const person = new Person();
    const action = (): void => {};

    test.each<[what: string, received: unknown, expected: unknown]>([
      ["strings", "a", "a"],
      ["NaN", NaN, NaN],
      ["arrays", [1, [2, 3]], [1, [2, 3]]],
      ["objects", { a: { b: [1] } }, { a: { b: [1] } }],
      ["keys in another order", { a: 1, b: 2 }, { b: 2, a: 1 }],
      ["an object without a prototype", Object.assign(Object.create(null), { a: 1 }), { a: 1 }],
      ["dates", new Date(0), new Date(0)],
      ["invalid dates", new Date(NaN), new Date(NaN)],
      ["the very same instance", { person }, { person }],
      ["the very same function", action, action],
    ])("takes as equal: %s", async (_what, received, expected) => {
      const mock = asyncMock<(value: unknown) => Promise<void>>();

      await mock(received);

      mock.assertAwaitedOnceWith(expected);
    });

    test.each<[what: string, received: unknown, expected: unknown]>([
      ["strings", "a", "b"],
      ["a string and a number", "1", 1],
      ["0 and -0", 0, -0],
      ["null and undefined", null, undefined],
      ["null and an object", null, {}],
      ["an object and null", {}, null],
      ["a longer array", [1, 2], [1]],
      ["a shorter array", [1], [1, 2]],
      ["an array and an object", ["a"], { 0: "a" }],
      ["values", { a: 1 }, { a: 2 }],
      ["keys", { a: undefined }, { b: undefined }],
      ["a key that is missing", { a: 1 }, { a: 1, b: undefined }],
      ["dates", new Date(0), new Date(1)],
      ["a date and an object", new Date(0), {}],
      ["an instance and an object", person, { name: "Ada" }],
      ["instances", person, new Person()],
      ["functions", () => {}, () => {}],
    ])("takes as different: %s", async (_what, received, expected) => {
      const mock = asyncMock<(value: unknown) => Promise<void>>();

      await mock(received);

      expect(() => mock.assertAwaitedOnceWith(expected)).toThrow(
        "Expected the last await to be of",
      );
    });

    test.each<[string, args: unknown[], message: string]>([
      ["a text", ["a"], 'expected must be an array of arrays, received "a"'],
      ["arguments of one call", [["a"]], "expected must be an array of arrays, received Array"],
      ["nothing", [], "expected must be an array of arrays, received undefined"],
      [
        "options that are not an object",
        [[["a"]], true],
        "options must be an object, received true",
      ],
    ])("assertHasAwaits() refuses %s", async (_what, args, message) => {
      const load = asyncMock<Load>();
      await load("a");

      expect(check(load, "assertHasAwaits", args)).toEqual(
        new TypeError(`Cannot assert awaits: ${message}`),
      );
    });

    test("takes as different: another number of arguments", async () => {
      const mock = asyncMock<(...values: unknown[]) => Promise<void>>();

      await mock("a", undefined);

      expect(() => mock.assertAwaitedOnceWith("a")).toThrow('("a", undefined) was awaited');
    });

    const circle: Record<string, unknown> = { twice: [action, action] };
    circle["self"] = circle;

    test.each<[shown: string, value: unknown]>([
      ['"say \\"hi\\""', 'say "hi"'],
      ["null", null],
      ["12", 12n],
      ["Symbol(s)", Symbol("s")],
      ['[1, "a"]', [1, "a"]],
      ["[{ n: 1 }, { n: 1 }]", Array(2).fill({ n: 1 })],
      ["{ a: { b: undefined } }", { a: { b: undefined } }],
      ["{ signal: [object AbortSignal] }", { signal: AbortSignal.abort() }],
      ["Error: boom", new Error("boom")],
      ["{ twice: [[function action], [function action]], self: [circular] }", circle],
      ["{}", {}],
      ["[]", []],
      ["{ Symbol(s): 1 }", { [Symbol("s")]: 1 }],
      ['Map { "a": { b: 1 } }', new Map([["a", { b: 1 }]])],
      ["Map { { a: 1 }: 1 }", new Map([[{ a: 1 }, 1]])],
      ["Map {}", new Map()],
      ['Set ["a"]', new Set(["a"])],
      ["Uint8Array 1,2", new Uint8Array([1, 2])],
      ["ArrayBuffer 0,0", new ArrayBuffer(2)],
      ["URL http://localhost/", new URL("http://localhost/")],
      ["RegExp /a/g", /a/g],
      ["Date 1970-01-01T00:00:00.001Z", new Date(1)],
      ["[[[[[[1]]]]]]", [[[[[[1]]]]]]],
    ])("an argument is shown as %s", (shown, value) => {
      const mock = asyncMock<(value: unknown) => Promise<void>>();

      void mock(value);

      expect(() => mock.assertAwaited()).toThrow(`call 1 (${shown}) was never awaited`);
    });

    test.each<[what: string, value: unknown, shown: string]>([
      ["a text of 496 characters is not", "a".repeat(496), `"${"a".repeat(496)}"`],
      ["a text of 10,000", "a".repeat(10_000), `"${"a".repeat(498)}…`],
      ["a list of 10,000 items", new Array(10_000).fill(0), `[${"0, ".repeat(166)}…`],
    ])("arguments are cut after 500 characters: %s", (_what, value, shown) => {
      const mock = asyncMock<(value: unknown) => Promise<void>>();

      void mock(value);

      expect(() => mock.assertAwaited()).toThrow(`call 1 (${shown}) was never awaited`);
    });

    const fail = (): never => {
      throw new Error("hostile");
    };

    test.each<[what: string, shown: string, value: unknown]>([
      [
        "a toString() that throws",
        "[Object]",
        new (class {
          toString = fail;
        })(),
      ],
      [
        "a toString() that returns nothing",
        "[Object]",
        new (class {
          toString() {
            return {};
          }
        })(),
      ],
      [
        "a getter that throws",
        "[object Object]",
        {
          get value() {
            return fail();
          },
        },
      ],
      ["an error without a text", "[Error]", Object.assign(new Error(), { toString: fail })],
      ["a name that throws", "[Function]", Object.defineProperty(() => {}, "name", { get: fail })],
      [
        "a name that is not a string",
        "[function 5]",
        Object.defineProperty(() => {}, "name", { value: 5 }),
      ],
      ["a revoked proxy", "[object]", revokedProxy()],
      ["a proxy that refuses all", "[object]", new Proxy({}, { get: fail, getPrototypeOf: fail })],
      [
        "an object of no class",
        "[object]",
        Object.create({}, { [Symbol.toStringTag]: { get: fail } }),
      ],
      ["an invalid date", "Date null", new Date(NaN)],
      [
        "a hostile value deep inside",
        "[{ a: [Object] }]",
        [
          {
            a: new (class {
              toString = fail;
            })(),
          },
        ],
      ],
    ])("%s doesn't hide the AssertionError", async (_what, shown, value) => {
      const mock = asyncMock<Load>();

      await mock(value as string);

      expect(check(mock, "assertNotAwaited", [])).toMatchObject({
        name: "AssertionError",
        message: `Expected no await, but these are the calls:\n  call 1 (${shown}) was awaited`,
      });
      expect(check(mock, "assertAwaitedWith", [1])).toMatchObject({
        name: "AssertionError",
      });
      expect(check(mock, "assertAwaitedWith", [value])).toBeUndefined();
    });

    test("an argument that branches without end is shown in an instant", () => {
      let value: unknown = "leaf";
      for (let level = 0; level < 40; level++) value = [value, value, value];
      const mock = asyncMock<(value: unknown) => Promise<void>>();

      void mock(value);

      expect(() => mock.assertAwaited()).toThrow("was never awaited");
    });

    test.each<[shape: string, grow: (inner: unknown) => unknown]>([
      ["lists", (inner) => [inner]],
      ["objects", (inner) => ({ inner })],
      ["maps", (inner) => new Map([["inner", inner]])],
    ])("arguments may be nested to any depth: %s", async (_shape, grow) => {
      const nest = () => {
        let value: unknown = "leaf";
        for (let level = 0; level < 3_000; level++) value = grow(value);
        return value;
      };
      const mock = asyncMock<(value: unknown) => Promise<void>>();

      await mock(nest());

      mock.assertAwaitedWith(nest());
    });

    test("arguments that branch without end are compared in an instant", async () => {
      const branch = () => {
        let value: unknown = "leaf";
        for (let level = 0; level < 40; level++) value = [value, value];
        return value;
      };
      const mock = asyncMock<(value: unknown) => Promise<void>>();

      await mock(branch());

      mock.assertAwaitedWith(branch());
    });
  });

  describe("what is equal", () => {
    const circle = () => {
      const list: unknown[] = [1];
      const node: Record<string, unknown> = { list };
      list.push(node);
      return Object.assign(node, { self: node });
    };
    const ring = (size: number) => {
      const nodes = Array.from({ length: size }, () => ({ next: {} }));
      nodes.forEach((node, n) => (node.next = nodes[(n + 1) % size]!));
      return nodes[0];
    };
    const symbol = Symbol("key");
    const bytes = [1, 2, 255];
    class DatabaseError extends Error {}
    const withoutClass = (message: string) => Object.setPrototypeOf(new Error(message), null);
    /** As SuppressedError is made, which Bun and Node have and browsers may not. */
    const suppressing = (error: unknown, suppressed: unknown) =>
      Object.defineProperties(new Error(), {
        error: { value: error },
        suppressed: { value: suppressed },
      });
    const Nameless = [class extends Error {}][0]!;
    const withCode = (message: string, code: string) => Object.assign(new Error(message), { code });
    const hostile = () => ({
      get value() {
        throw new Error("hostile");
      },
    });
    const [one, two] = [{ n: 1 }, { n: 2 }];
    const deepSet = (n: number) => new Set([{ n, self: circle() }, { n: n + 1 }]);

    test.each<[what: string, received: unknown, expected: unknown]>([
      ["circular objects", circle(), circle()],
      ["rings of another length", ring(2), ring(3)],
      ["symbol keys", { [symbol]: [1] }, { [symbol]: [1] }],
      ["hidden properties aside", Object.defineProperty({}, "hidden", { value: 1 }), {}],
      ["maps", new Map([["a", [1]]]), new Map([["a", [1]]])],
      [
        "maps in another order",
        new Map([
          ["a", 1],
          ["b", 2],
        ]),
        new Map([
          ["b", 2],
          ["a", 1],
        ]),
      ],
      ["maps of objects", new Map([[{ a: 1 }, [2]]]), new Map([[{ a: 1 }, [2]]])],
      ["sets", new Set([1, "a"]), new Set([1, "a"])],
      ["sets in another order", new Set([1, 2]), new Set([2, 1])],
      [
        "sets of objects in another order",
        new Set([{ a: 1 }, { b: 2 }]),
        new Set([{ b: 2 }, { a: 1 }]),
      ],
      ["sets of circles", deepSet(1), new Set([...deepSet(1)].reverse())],
      ["bytes", new Uint8Array(bytes), new Uint8Array(bytes)],
      ["bytes within a buffer", new Uint8Array([0, ...bytes]).subarray(1), new Uint8Array(bytes)],
      ["buffers", new Uint8Array(bytes).buffer, new Uint8Array(bytes).buffer],
      ["views", new DataView(new ArrayBuffer(2)), new DataView(new ArrayBuffer(2))],
      ["numbers in an array of floats", new Float64Array([NaN, -0]), new Float64Array([NaN, -0])],
      ["URLs", new URL("http://a/b?c"), new URL("http://a/b?c")],
      ["search parameters", new URLSearchParams("a=1&a=2"), new URLSearchParams("a=1&a=2")],
      ["regular expressions", /a/g, /a/g],
      ["errors", new TypeError("a"), new TypeError("a")],
      ["errors with causes", new Error("a", { cause: [1] }), new Error("a", { cause: [1] })],
      ["errors with codes", withCode("a", "E"), withCode("a", "E")],
      ["groups", new AggregateError([new Error("a")]), new AggregateError([new Error("a")])],
      ["errors of a class", new DatabaseError("a"), new DatabaseError("a")],
      ["errors without a class", withoutClass("a"), withoutClass("a")],
      ["errors of a class without a name", new Nameless("a"), new Nameless("a")],
      ["DOMExceptions", new DOMException("a", "AbortError"), new DOMException("a", "AbortError")],
      ["sparse arrays", [, 1], [, 1]],
      ["a sparse array of any length", new Array(2 ** 32 - 1), new Array(2 ** 32 - 1)],
      ["an asymmetric matcher", "anything", { asymmetricMatch: () => true }],
      ["a matcher deep inside", [{ a: new Map([["b", 5]]) }], [{ a: new Map([["b", anyNumber]]) }]],
      ["a matcher in a set", new Set([1, 2]), new Set([2, anyNumber])],
    ])("takes as equal: %s", async (_what, received, expected) => {
      const mock = asyncMock<(value: unknown) => Promise<void>>();

      await mock(received);

      mock.assertAwaitedOnceWith(expected);
    });

    test.each<[what: string, received: unknown, expected: unknown]>([
      ["circles with other content", circle(), Object.assign(circle(), { list: [2] })],
      ["a circle and its copy by one turn", circle(), { list: [1, {}], self: {} }],
      ["symbol keys", { [symbol]: 1 }, { [Symbol("key")]: 1 }],
      ["values of symbol keys", { [symbol]: 1 }, { [symbol]: 2 }],
      ["keys of maps", new Map([["a", 1]]), new Map([["b", 1]])],
      ["values of maps", new Map([["a", 1]]), new Map([["a", 2]])],
      ["values of maps of objects", new Map([[{ a: 1 }, 1]]), new Map([[{ a: 1 }, 2]])],
      [
        "sizes of maps",
        new Map([["a", 1]]),
        new Map([
          ["a", 1],
          ["b", 2],
        ]),
      ],
      ["sets", new Set([1]), new Set([2])],
      ["sets of objects", new Set([{ a: 1 }, { a: 1 }]), new Set([{ a: 1 }, { a: 2 }])],
      ["sets of circles", deepSet(1), deepSet(2)],
      ["sets that share an item", new Set([one, { n: 1 }]), new Set([one, { n: 2 }])],
      [
        "a pair that was tried in a set before",
        [new Set([one, { n: 2 }]), one],
        [new Set([two, { n: 1 }]), two],
      ],
      ["a set and a map", new Set([1]), new Map([[1, 1]])],
      ["bytes", new Uint8Array(bytes), new Uint8Array([1, 2, 254])],
      ["fewer bytes", new Uint8Array(bytes), new Uint8Array([1, 2])],
      ["bytes of another kind", new Uint8Array(bytes), new Int8Array([1, 2, -1])],
      ["buffers", new Uint8Array(bytes).buffer, new ArrayBuffer(3)],
      ["URLs", new URL("http://a/b"), new URL("http://a/c")],
      ["a URL and its text", new URL("http://a/"), "http://a/"],
      ["search parameters", new URLSearchParams("a=1"), new URLSearchParams("a=2")],
      ["regular expressions", /a/g, /a/i],
      ["messages", new Error("a"), new Error("b")],
      ["kinds of errors", new TypeError("a"), new RangeError("a")],
      ["classes of errors", new DatabaseError("a"), new Error("a")],
      ["causes", new Error("a", { cause: 1 }), new Error("a", { cause: 2 })],
      ["codes", withCode("a", "E"), withCode("a", "F")],
      ["errors without a class", withoutClass("a"), withoutClass("b")],
      ["errors in a SuppressedError", suppressing(1, 2), suppressing(3, 2)],
      ["suppressed errors", suppressing(1, 2), suppressing(1, 3)],
      [
        "errors of groups",
        new AggregateError([new Error("a")]),
        new AggregateError([new Error("b")]),
      ],
      ["DOMExceptions", new DOMException("a", "AbortError"), new DOMException("a", "TimeoutError")],
      ["sparse arrays of other lengths", new Array(2), new Array(3)],
      ["an array and the same without a value", [undefined], new Array(1)],
      ["a value and a box of it", "a", Object("a")],
      ["an asymmetric matcher", "anything", { asymmetricMatch: () => false }],
      ["a matcher that was received", { asymmetricMatch: () => true }, "anything"],
      ["objects with throwing getters", hostile(), hostile()],
      ["revoked proxies", revokedProxy(), revokedProxy()],
      ["a revoked proxy and an object", revokedProxy(), {}],
    ])("takes as different: %s", async (_what, received, expected) => {
      const mock = asyncMock<(value: unknown) => Promise<void>>();

      await mock(received);

      expect(thrownBy(() => mock.assertAwaitedOnceWith(expected))).toMatchObject({
        name: "AssertionError",
      });
    });

    test("a matcher gets what was received", async () => {
      const seen: unknown[] = [];
      const mock = asyncMock<(value: unknown) => Promise<void>>();
      await mock({ id: 5 });

      mock.assertAwaitedWith({
        id: { asymmetricMatch: (received: unknown) => seen.push(received) > 0 },
      });

      expect(seen).toEqual([5]);
    });

    class Money {
      readonly #cents: number;

      constructor(cents: number) {
        this.#cents = cents;
      }

      equals(other: Money): boolean {
        return this.#cents === other.#cents;
      }
    }

    const options: MockOptions = {
      equals: (a, b) => a instanceof Money && b instanceof Money && a.equals(b),
    };

    test("equals() decides about instances, at any depth", async () => {
      const pay = asyncMock<(order: { price: Money; of: string }) => Promise<void>>(
        undefined,
        options,
      );

      await pay({ price: new Money(100), of: "tea" });

      pay.assertAwaitedOnceWith({ price: new Money(100), of: "tea" });
      expect(() => pay.assertAwaitedWith({ price: new Money(99), of: "tea" })).toThrow();
      expect(() => pay.assertAwaitedWith({ price: new Money(100), of: "coffee" })).toThrow();
    });

    test("equals() is asked about what has no content", async () => {
      const asked: unknown[][] = [];
      const mock = asyncMock<FetchLoosely>(undefined, {
        equals: (...pair) => {
          asked.push(pair);
          return true;
        },
      });
      const received = new Money(1);

      await mock(1, "same", { a: received }, new Set(["b"]), new Map([["k", "v"]]), {});
      mock.assertAwaitedOnceWith(2, "same", { a: null }, new Set(["b"]), new Map([["k", "w"]]), 5);

      expect(asked).toEqual([
        [1, 2],
        [{}, 5],
        [received, null],
        ["v", "w"],
      ]);
      expect(() => mock.assertAwaitedWith(2)).toThrow();
    });

    test("equals() is not asked about the keys of maps and the items of sets", async () => {
      const mock = asyncMock<FetchLoosely>(undefined, { equals: () => true });

      await mock(new Set(["a"]), new Map([["b", 1]]));

      expect(() => mock.assertAwaitedWith(new Set(["b"]), new Map([["b", 1]]))).toThrow();
      expect(() => mock.assertAwaitedWith(new Set(["a"]), new Map([["a", 1]]))).toThrow();
    });

    test.each<[string, (mock: AsyncMock<FetchLoosely>) => void]>([
      ["assertAnyAwait", (mock) => mock.assertAnyAwait(new Money(1))],
      ["assertHasAwaits", (mock) => mock.assertHasAwaits([[new Money(1)]])],
      ["a spy's", (mock) => mock.assertAwaitedWith(new Money(1))],
    ])("equals() is asked by %s", async (_name, assert) => {
      const object = { method: async (..._args: unknown[]): Promise<unknown> => 1 };
      using spy = spyOn(object, "method", options);

      await object.method(new Money(1));

      assert(spy);
    });

    test("what equals() throws is told", async () => {
      const error = new Error("can't compare");
      const equals = () => {
        throw error;
      };
      const mock = asyncMock<FetchLoosely>(undefined, { equals });
      await mock(1);

      expect(thrownBy(() => mock.assertAwaitedWith(2))).toBe(error);
    });

    test("sets and maps of a thousand items are compared in an instant", async () => {
      const numbers = Array.from({ length: 1000 }, (_, n) => n);
      const mock = asyncMock<FetchLoosely>();

      await mock(new Set(numbers), new Map(numbers.map((n) => [{ n }, n])));

      mock.assertAwaitedWith(
        new Set(numbers.toReversed()),
        new Map(numbers.map((n) => [{ n }, n])),
      );
    });
  });

  describe("types", () => {
    type Identity = <T>(value: T) => Promise<T>;
    interface Parse {
      (text: string): Promise<string>;
      (count: number): Promise<number>;
    }

    test("a mock of F is an F, generic and overloaded functions included", async () => {
      const identity: Identity = asyncMock<Identity>(async (value) => value);
      const parse: Parse = asyncMock<Parse>().resolves(5);
      const user: FetchUser = asyncMock<FetchUser>().resolves(ada);

      expectTypeOf(identity("a")).toEqualTypeOf<Promise<string>>();
      expectTypeOf(parse("a")).toEqualTypeOf<Promise<string>>();
      expectTypeOf(parse(1)).toEqualTypeOf<Promise<number>>();
      expect(await identity("a")).toBe("a");
      expect(await parse(1)).toBe(5);
      expect(await user(1)).toBe(ada);
    });

    test("in a generic function, too", async () => {
      const wrap = <F extends (...args: any[]) => Promise<any>>(fn: F): F => asyncMock(fn);
      const unwrap = <F extends (...args: any[]) => Promise<any>>(mock: AsyncMock<F>): F => mock;

      expect(await wrap(async (n: number) => n)(5)).toBe(5);
      expect(await unwrap(asyncMock(async (n: number) => n))(5)).toBe(5);
    });

    test("a mock of fetch is a fetch, whatever else the platform's has", async () => {
      const mock = asyncMock<typeof fetch>(async (input, init) => {
        return new Response(`${init?.method} ${String(input)}`);
      });
      const standIn: typeof fetch = mock;

      const response = await standIn("http://localhost/", { method: "PUT" });

      expect(await response.text()).toBe("PUT http://localhost/");
      mock.assertAwaitedOnceWith("http://localhost/", { method: "PUT" });
    });

    test("a mock of a synchronous function returns a promise", async () => {
      const length = asyncMock((text: string) => text.length);
      const mixed = asyncMock((n: number): number | Promise<string> => n);

      expectTypeOf(length("four")).toEqualTypeOf<Promise<number>>();
      expectTypeOf(mixed(4)).toEqualTypeOf<Promise<number | string>>();
      expect(await length("four")).toBe(4);
      expect(await mixed(4)).toBe(4);
    });

    test("what a mock is told keeps its type, a spy's being disposable", () => {
      const users = { fetch: async (id: number) => ({ ...ada, id }) };
      using spy = spyOn(users, "fetch").resolvesOnce(bob).delays(5).rejects("failed").reset();

      expectTypeOf<(typeof spy.calls)[0]["args"]>().toEqualTypeOf<[id: number]>();
      expectTypeOf(spy).toExtend<Disposable>();
    });

    test("an implementation may be synchronous, and knows its this", async () => {
      type Named = (this: User, greeting: string) => Promise<string>;
      const greet = asyncMock<Named>(function (greeting) {
        return `${greeting}, ${this.name}!`;
      });

      expect(await greet.call(ada, "Hello")).toBe("Hello, Ada!");
      expectTypeOf<(typeof greet.calls)[0]["thisValue"]>().toEqualTypeOf<User>();
    });

    test("only methods that may return a promise can be spied on", () => {
      const object = {
        name: "Ada",
        load: async (text: string) => text,
        length: (text: string) => text.length,
        perhaps: undefined as undefined | ((text: string) => Promise<string>),
      };
      expectTypeOf(spyOn<typeof object, "load" | "perhaps">).toBeFunction();
      // @ts-expect-error: its callers expect a number, and get a promise
      spyOn(object, "length")[Symbol.dispose]();
      // @ts-expect-error: not a method
      expect(() => spyOn(object, "name")).toThrow();
    });
  });
});

describe("spyOn", () => {
  class Repository {
    readonly rows = ["a", "b"];

    async read(index: number): Promise<string | undefined> {
      return this.rows[index];
    }
  }

  test("calls the method with its this, and records what came of it", async () => {
    const repository = new Repository();
    using read = spyOn(repository, "read");

    expect(await repository.read(1)).toBe("b");

    read.assertAwaitedOnceWith(1);
    expect(read.calls[0]?.thisValue).toBe(repository);
    expect(read.calls[0]?.result).toEqual({ status: "fulfilled", value: "b" });
    expect(read.name).toBe("read");
  });

  test("does instead what it is told", async () => {
    const repository = new Repository();
    using read = spyOn(repository, "read").resolves("told").rejectsOnce("failed");

    expect(await reasonOf(repository.read(0))).toBe("failed");
    expect(await repository.read(0)).toBe("told");
    expect(read.awaits).toHaveLength(2);
  });

  test("on a prototype it stands for all instances", async () => {
    {
      using read = spyOn(Repository.prototype, "read").resolves("told");

      expect(await new Repository().read(0)).toBe("told");
      expect(read.calls[0]?.thisValue).toBeInstanceOf(Repository);
      expect(Object.keys(Repository.prototype)).toEqual([]);
    }
    expect(await new Repository().read(0)).toBe("a");
  });

  test.each<[string, (read: Repository["read"]) => { read: Repository["read"] }]>([
    ["its own", (read) => ({ read })],
    ["inherited", (read) => Object.create({ read })],
    [
      "inherited and hidden",
      (read) => Object.create(Object.create(null, { read: { value: read } })),
    ],
    [
      "hidden",
      (read) => Object.defineProperty({} as never, "read", { value: read, configurable: true }),
    ],
    [
      "behind a getter",
      (read) => Object.defineProperty({} as never, "read", { get: () => read, configurable: true }),
    ],
    [
      "fixed, but writable",
      (read) => Object.defineProperty({} as never, "read", { value: read, writable: true }),
    ],
    ["of a list", (read) => Object.assign([], { read })],
    ["of a function", (read) => Object.assign(() => {}, { read })],
    ["of an object without a prototype", (read) => Object.assign(Object.create(null), { read })],
  ])("puts a method back exactly as it was: %s", async (_what, create) => {
    const read = async () => "original";
    const object = create(read);
    const before = Object.getOwnPropertyDescriptors(object);
    const keys = Object.keys(object);
    {
      using spy = spyOn(object, "read").resolves("told");
      expect(object.read).toBe(spy);
      expect(await object.read(1)).toBe("told");
      expect(Object.keys(object)).toEqual(keys);
    }
    expect(Object.getOwnPropertyDescriptors(object)).toEqual(before);
    expect(object.read).toBe(read);
  });

  test("puts it back when the test fails, too", async () => {
    const object = { read: async () => "original" };
    const { read } = object;

    expect(() => {
      using _spy = spyOn(object, "read");
      throw new Error("the test failed");
    }).toThrow("the test failed");

    expect(object.read).toBe(read);
  });

  test("disposed twice, it puts back once", async () => {
    const object = { read: async () => "original" };
    const later = async () => "later";
    const spy = spyOn(object, "read");

    spy[Symbol.dispose]();
    object.read = later;
    spy[Symbol.dispose]();

    expect(object.read).toBe(later);
  });

  test("disposed, it calls the method for code that still holds it", async () => {
    await virtualTime(async (clock) => {
      const object = { read: async () => "original" };
      const spy = spyOn(object, "read").delays(1000).resolves("told").rejectsOnce("failed");

      spy[Symbol.dispose]();

      expect(await spy()).toBe("original");
      expect(clock.elapsed).toBe(0);
      expect(spy.calls).toHaveLength(1);
    });
  });

  const another = { read: async () => "another" };

  test.each<
    [string, (object: { read: () => Promise<string>; write: () => Promise<string> }) => void]
  >([
    ["assigned", (object) => (object.read = async () => "assigned")],
    ["replaced by a mock", (object) => (object.read = asyncMock(async () => "assigned"))],
    ["replaced by another object's spy", (object) => (object.read = spyOn(another, "read"))],
    ["replaced by another method's spy", (object) => (object.read = spyOn(object, "write"))],
    ["deleted", (object) => Reflect.deleteProperty(object, "read")],
  ])("puts back a method that was meanwhile %s", (_what, change) => {
    const object = { read: async () => "original", write: async () => "written" };
    const { read } = object;
    const spy = spyOn(object, "read");

    change(object);
    spy[Symbol.dispose]();

    expect(object.read).toBe(read);
  });

  test("takes a method that only a proxy knows of", async () => {
    const object = new Proxy({} as { read: () => Promise<string> }, {
      get: (target, key) => Reflect.get(target, key) ?? (async () => "original"),
    });
    {
      using _spy = spyOn(object, "read").resolves("told");
      expect(await object.read()).toBe("told");
    }
    expect(await object.read()).toBe("original");
    expect(Object.hasOwn(object, "read")).toBe(false);
  });

  test.each([[[0, 1, 2]], [[0, 2, 1]], [[1, 0, 2]], [[1, 2, 0]], [[2, 0, 1]], [[2, 1, 0]]])(
    "three spies on one method may end in the order %j",
    async (order) => {
      const object = { read: async () => "original" };
      const { read } = object;
      const spies = [0, 1, 2].map((n) => spyOn(object, "read").runs(async () => `spy ${n}`));

      const alive = new Set([0, 1, 2]);
      for (const n of order) {
        expect(await object.read()).toBe(`spy ${Math.max(...alive)}`);
        spies[n]![Symbol.dispose]();
        alive.delete(n);
      }

      expect(object.read).toBe(read);
    },
  );

  test("spies on an object and on its prototype don't get into each other's way", async () => {
    const prototype = { read: async () => "original" };
    const object: typeof prototype = Object.create(prototype);
    const onPrototype = spyOn(prototype, "read").resolves("prototype");
    const onObject = spyOn(object, "read");

    expect(await object.read()).toBe("prototype");
    onPrototype[Symbol.dispose]();
    expect(await object.read()).toBe("original");
    onObject[Symbol.dispose]();

    expect(Object.hasOwn(object, "read")).toBe(false);
    expect(await object.read()).toBe("original");
  });

  test("takes a symbol, a static method and a name of its own", async () => {
    const key = Symbol("read");
    class Static {
      static async [key](): Promise<string> {
        return "original";
      }
    }
    using spy = spyOn(Static, key);
    using named = spyOn(new Repository(), "read", { name: "repository.read" });

    expect(await Static[key]()).toBe("original");
    expect(spy.name).toBe("Symbol(read)");
    expect(named.name).toBe("repository.read");
  });

  test("says so when it can't put the method back", () => {
    const object = { read: async () => "original" };
    const spy = spyOn(object, "read");
    Object.freeze(object);

    expect(thrownBy(() => spy[Symbol.dispose]())).toEqual(
      new TypeError("Cannot put read back: it is read-only now"),
    );
  });

  test("keeps what the method has beside its call", () => {
    const object = { read: Object.assign(async () => "original", { retries: 3 }) };
    using spy = spyOn(object, "read");

    expect(object.read.retries).toBe(3);
    expect(spy).toHaveLength(0);
  });

  test.each<[string, () => unknown, message: string]>([
    ["a number", () => spyOn(5 as never, "read" as never), "object must be an object, received 5"],
    [
      "null",
      () => spyOn(null as never, "read" as never),
      "object must be an object, received null",
    ],
    [
      "a method that is missing",
      () => spyOn({} as never, "read" as never),
      "read must be a function, received undefined",
    ],
    [
      "a property",
      () => spyOn({ read: "a" } as never, "read" as never),
      'read must be a function, received "a"',
    ],
    [
      "options that are not an object",
      () => spyOn({ read: async () => {} }, "read", 5 as never),
      "options must be an object, received 5",
    ],
    [
      "a frozen object",
      () => spyOn(Object.freeze({ read: async () => {} }), "read"),
      "read is read-only",
    ],
    [
      "an object that takes no properties",
      () => spyOn(Object.preventExtensions(new Repository()), "read"),
      "read is read-only",
    ],
  ])("refuses %s", (_what, spy, message) => {
    expect(thrownBy(spy)).toEqual(new TypeError(`Cannot spy on a method: ${message}`));
  });
});

describe("controlled", () => {
  describe("with a search box that is typed into", () => {
    type Search = (text: string) => Promise<string>;

    /** The code under test, with the bug that we all write first: the last answer wins. */
    class NaiveSearchBox {
      results = "";
      protected readonly search: Search;

      constructor(search: Search) {
        this.search = search;
      }

      async type(text: string): Promise<void> {
        this.results = await this.search(text);
      }
    }

    /** The same without the bug: the last question wins. */
    class SearchBox extends NaiveSearchBox {
      #latest = 0;

      override async type(text: string): Promise<void> {
        const question = ++this.#latest;
        const results = await this.search(text);
        if (question === this.#latest) this.results = results;
      }
    }

    test.each([
      { box: "the naive one", Box: NaiveSearchBox, order: [1, 2], shown: "results for ab" },
      { box: "the naive one", Box: NaiveSearchBox, order: [2, 1], shown: "results for a" },
      { box: "the right one", Box: SearchBox, order: [1, 2], shown: "results for ab" },
      { box: "the right one", Box: SearchBox, order: [2, 1], shown: "results for ab" },
    ])("$box shows $shown when the answers come in the order $order", async (given) => {
      const search = controlled<Search>();
      const box = new given.Box(search);
      const typed = [box.type("a"), box.type("ab")];

      for (const n of given.order) {
        const call = await search.nthCall(n);
        call.resolve(`results for ${call.args[0]}`);
        await typed[n - 1];
      }

      expect(box.results).toBe(given.shown);
    });
  });

  /** The code under test: at most so many calls at a time. */
  async function loadAll(texts: string[], load: Load, concurrency: number): Promise<void> {
    const rest = texts.values();
    const worker = async () => {
      for (const text of rest) await load(text);
    };
    await Promise.all(Array.from({ length: concurrency }, worker));
  }

  test("shows how many calls are open, and waits for the next one", async () => {
    const load = controlled<Load>();
    const loading = loadAll(["a", "b", "c", "d"], load, 2);

    expect(load.open).toBe(2);
    (await load.nthCall(2)).resolve("answer");
    expect((await load.nthCall(3)).args).toEqual(["c"]);
    expect(load.open).toBe(2);
    (await load.nthCall(3)).resolve("answer");
    (await load.nthCall(4)).resolve("answer");
    expect(load.open).toBe(1);
    (await load.nthCall(1)).resolve("answer");

    await loading;
    expect(load.open).toBe(0);
    load.assertHasAwaits([["a"], ["b"], ["c"], ["d"]]);
  });

  test.each([[[0, 1, 2]], [[2, 1, 0]], [[1, 2, 0]]])(
    "its calls can be settled in the order %j",
    async (order) => {
      const load = controlled<(index: number) => Promise<string>>();
      const ended: unknown[] = [];
      const calls = [0, 1, 2].map((index) => load(index).then(ended.push.bind(ended)));

      for (const index of order) {
        load.calls[index]?.resolve(`answer ${index}`);
        await calls[index];
      }

      expect(ended).toEqual(order.map((index) => `answer ${index}`));
    },
  );

  test("a call is open until it is settled, with a value or a reason", async () => {
    const load = controlled<(index: number) => Promise<string>>();
    const calls = [load(0), load(1), load(2)];
    const results = Promise.allSettled(calls.slice(0, 2));

    load.calls[0]?.resolve("answer");
    load.calls[1]?.reject("failed");

    expect(load.calls.map((call) => call.settled)).toEqual([true, true, false]);
    expect(load.open).toBe(1);
    expect(await results).toEqual([
      { status: "fulfilled", value: "answer" },
      { status: "rejected", reason: "failed" },
    ]);
  });

  test.each<[string, (call: MockCall<Load>) => void]>([
    ["resolved", (call) => call.resolve("answer")],
    ["rejected", (call) => call.reject("failed")],
  ])("a call that is %s can't be settled again", (_name, settle) => {
    const load = controlled<Load>();
    void load("a");
    const call = load.calls[0]!;

    settle(call);

    const message = 'call 1 ("a"): it is settled already';
    expect(() => call.resolve("again")).toThrow(new Error(`Cannot resolve ${message}`));
    expect(() => call.reject("again")).toThrow(new Error(`Cannot reject ${message}`));
    expect(load.open).toBe(0);
  });

  test.each([undefined, null, 0])("a call can be resolved with %s", async (value) => {
    const load = controlled<FetchLoosely>();
    const call = load();

    load.calls[0]?.resolve(value);

    expect(await call).toBe(value);
  });

  test("refuses a name that is not a string", () => {
    expect(thrownBy(() => controlled({ name: 5 as never }))).toEqual(
      new TypeError("Cannot create controlled: name must be a string, received 5"),
    );
  });

  test("calls that are open at a reset can still be settled", async () => {
    const load = controlled<Load>();
    const before = load("before");
    const call = await load.nthCall(1);

    load.reset();
    const after = load("after");
    expect(load.open).toBe(1);
    call.resolve("answer");
    await before;

    expect(load.open).toBe(1);
    expect(load.awaits).toEqual([]);
    (await load.nthCall(1)).resolve("answer");
    await after;
    load.assertAwaitedOnceWith("after");
  });

  test("its types follow the mocked function", () => {
    const load = controlled<FetchUser>();
    void load(1);
    const id: number = load.calls[0]!.args[0];
    expect(id).toBe(1);

    // @ts-expect-error: a user is not a string
    load.calls[0]!.resolve("Ada");
    // @ts-expect-error: an id is a number
    void load("2");
  });
});

describe("in every order", () => {
  const minutes = 120_000;

  test(
    "nthCall: each who waits gets the call that it waits for, or its abort, whichever comes first",
    async () => {
      await everyOrder(async (world) => {
        const mock = controlled<(n: number) => Promise<void>>();
        const controller = new AbortController();
        world.abort(controller, { reason: "gone" });
        const { signal } = controller;
        const wait = (n: number, options?: { signal: AbortSignal }) =>
          world.spawn(`waits for ${n}`, async () => (await mock.nthCall(n, options)).args[0]);
        const call = world.spawn("calls", async () => {
          mock(1);
          await world.step("again");
          mock(2);
        });
        const waits = [wait(1, { signal }), wait(2, { signal }), wait(2)];
        const [one, two, last] = await Promise.allSettled(waits);
        await call;

        expect(last).toEqual({ status: "fulfilled", value: 2 });
        for (const [it, value] of [[one, 1] as const, [two, 2] as const]) {
          const isAborted = signal.aborted && it!.status === "rejected";
          const outcome = isAborted ? { reason: "gone" } : { value };
          expect(it).toMatchObject(outcome);
        }
      });
    },
    minutes,
  );

  test(
    "controlled: a call is settled once, by hand or by its abort, and a late lock is released",
    async () => {
      await everyOrder(async (world) => {
        const mock = controlled<(options: { signal: AbortSignal }) => Promise<object>>();
        const controller = new AbortController();
        world.abort(controller, { reason: "gone" });
        let [given, released] = [0, 0];
        const lock = { release: () => released++, [Symbol.dispose]: () => {} };
        const caller = world.spawn("caller", () => mock(controller));
        const answer = world.spawn("answer", async () => {
          const call = await mock.nthCall(1);
          if (call.settled) return;
          given++;
          const reply = world.step("reply").then(() => lock);
          call.resolve(reply);
          await reply;
        });
        const [outcome] = await Promise.allSettled([caller, answer]);
        await world.step("end");
        const [call] = mock.calls;

        expect(outcome).toEqual(call!.result as typeof outcome);
        expect(mock.open).toBe(0);
        if (outcome.status === "rejected") expect(outcome.reason).toBe("gone");
        expect(released).toBe(outcome.status === "rejected" ? given : 0);
      });
    },
    minutes,
  );
});

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/**
 * What the promise rejects with. `expect(promise).rejects` never gives way, so that a promise that
 * doesn't settle would hang it, whatever the test's timeout; with `await` the test fails.
 */
async function reasonOf(promise: Promise<unknown>): Promise<unknown> {
  const [result] = await Promise.allSettled([promise]);
  if (result.status === "fulfilled") throw new Error(`It resolved to ${result.value}`);
  return result.reason;
}

const positions: [which: string, n: number][] = [
  ["first", 0],
  ["middle", 1],
  ["last", 2],
];

/** When an abort may meet the end of a wait, and whether it wins. Steps of a list share a turn. */
const momentsOfAbort: { when: string; steps: Step[][]; wins: boolean; sharesTurn?: boolean }[] = [
  { when: "before it begins", steps: [["abort", "begin"]], wins: true },
  { when: "in the turn in which it begins", steps: [["begin", "abort"]], wins: true },
  { when: "while it waits", steps: [["begin"], ["abort"]], wins: true },
  { when: "in the turn of its end, before it", steps: [["begin"], ["abort", "end"]], wins: true },
  {
    when: "in the turn of its end, after it",
    steps: [["begin"], ["end", "abort"]],
    wins: false,
    sharesTurn: true,
  },
  { when: "after its end", steps: [["begin"], ["end"], ["abort"]], wins: false },
];

type Step = "begin" | "end" | "abort";

async function act(steps: Step[][], does: Record<Step, () => unknown>): Promise<void> {
  for (const turn of steps) {
    for (const step of turn) does[step]();
    for (let microtask = 0; microtask < 20; microtask++) await Promise.resolve();
  }
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

function revokedProxy(): object {
  const { proxy, revoke } = Proxy.revocable({}, {});
  revoke();
  return proxy;
}

/** What the function throws. */
function thrownBy(fn: () => unknown): unknown {
  try {
    fn();
  } catch (error) {
    return error;
  }
  throw new Error("It threw nothing");
}

/** Runs a function as the cleanup of `await using`. */
async function disposeOf(dispose: () => Promise<void>): Promise<void> {
  await using _resource = { [Symbol.asyncDispose]: dispose };
}

/** Reads a stream whose source returns the promise from its pull(). */
async function readAll(promise: Promise<void>): Promise<void> {
  const stream = new ReadableStream({
    pull(controller) {
      controller.close();
      return promise;
    },
  });
  await stream.getReader().read();
}

/** Comes back when all promises that can settle have done so. */
function settled(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

/** An AbortController, and a function that counts the listeners which its signal has. */
function watchedController(): { controller: AbortController; listeners: () => number } {
  const controller = new AbortController();
  const { signal } = controller;
  const [add, remove] = [signal.addEventListener, signal.removeEventListener];
  const listeners = new Set<unknown>();
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
