/**
 * How to test code that calls something asynchronous: tell the other side what to answer and when,
 * prove how many calls overlap, make the answers come in the wrong order, and find the call that
 * nobody awaited. Nothing here sleeps: delays run on virtual time, and order is decided by hand.
 */
import { describe, expect, test } from "bun:test";

import { type AsyncMock, asyncMock, controlled, type MockCall } from "../concepts/mocks.ts";
import { virtualTime } from "../concepts/virtual-time.ts";

interface User {
  id: number;
  name: string;
}

type FetchUser = (id: number, options?: { signal?: AbortSignal }) => Promise<User>;

const ada: User = { id: 1, name: "Ada" };
const bob: User = { id: 2, name: "Bob" };

describe("asyncMock, with a client that tries again", () => {
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

      expect(await reasonOf(fetchPatiently(fetchUser, 1))).toMatchObject({ name: "TimeoutError" });

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

describe("asyncMock, and the await that was forgotten", () => {
  type Save = (name: string) => Promise<void>;

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

  test("awaits are listed in the order in which they came, not in that of the calls", async () => {
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

describe("asyncMock, and what it is told", () => {
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

  test("a call that is aborted in its delay has used up its outcome of the sequence", async () => {
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

  test.each([
    [-1, RangeError],
    [NaN, RangeError],
    [Infinity, RangeError],
    [2 ** 31, RangeError],
    ["100" as unknown as number, TypeError],
  ])("delays(%p) is refused", (ms, Kind) => {
    const message = `ms must be a number from 0 to 2147483647, received ${ms}`;
    expect(() => asyncMock().delays(ms)).toThrow(Kind);
    expect(() => asyncMock().delays(ms)).toThrow(`Cannot delay asyncMock: ${message}`);
  });

  test("the longest delay that a timer can hold is waited for", async () => {
    await virtualTime(async (clock) => {
      await asyncMock().delays(2 ** 31 - 1)();
      expect(clock.elapsed).toBe(2 ** 31 - 1);
    });
  });

  test.each([null, 1, {}])("an implementation that is %p is refused", (impl) => {
    const message = `Cannot create asyncMock: impl must be a function, received ${impl}`;
    expect(() => asyncMock(impl as never)).toThrow(TypeError);
    expect(() => asyncMock(impl as never)).toThrow(message);
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

describe.each<[string, (mock: AsyncMock<FetchLoosely>) => unknown]>([
  ["hangs()", (mock) => mock.hangs()],
  ["delays()", (mock) => mock.delays(1000)],
  ["both", (mock) => mock.delays(1000).hangs()],
])("asyncMock › %s and its signal", (_name, tell) => {
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

  test("leaves neither timer nor listener behind, aborted or settled by hand", async () => {
    await virtualTime(async (clock) => {
      const mock = asyncMock<FetchLoosely>();
      tell(mock);
      const { controller, listeners } = watchedController();
      const calls = [1, 2, 3].map(() => mock({ signal: controller.signal }));

      mock.calls[1]?.resolve("by hand");
      mock.calls[2]?.reject("by hand");
      expect(mock.open).toBe(1);
      controller.abort("stop");

      expect(await Promise.allSettled(calls)).toEqual([
        { status: "rejected", reason: "stop" },
        { status: "fulfilled", value: "by hand" },
        { status: "rejected", reason: "by hand" },
      ]);
      expect(clock.pending).toBe(0);
      expect(listeners()).toBe(0);
    });
  });

  test("aborted before the call, it rejects at once and calls nothing", async () => {
    await virtualTime(async (clock) => {
      let called = false;
      const mock = asyncMock<FetchLoosely>(async () => (called = true));
      tell(mock);
      const { controller, listeners } = watchedController();
      controller.abort("stopped before");

      expect(await reasonOf(mock(controller.signal))).toBe("stopped before");

      expect(called).toBe(false);
      expect(listeners()).toBe(0);
      expect(clock.pending).toBe(0);
      expect(clock.elapsed).toBe(0);
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

  test("the first signal counts", async () => {
    await virtualTime(async () => {
      const mock = asyncMock<FetchLoosely>();
      tell(mock);

      const call = mock({ signal: AbortSignal.abort("options") }, AbortSignal.abort("argument"));

      expect(await reasonOf(call)).toBe("options");
    });
  });
});

describe("asyncMock › assertions", () => {
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

    expect(() => mock.assertAwaitedOnceWith(expected)).toThrow("Expected the last await to be of");
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
  ])("an argument is shown as %s", (shown, value) => {
    const mock = asyncMock<(value: unknown) => Promise<void>>();

    void mock(value);

    expect(() => mock.assertAwaited()).toThrow(`call 1 (${shown}) was never awaited`);
  });
});

describe("controlled, with a search box that is typed into", () => {
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

describe("controlled", () => {
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
    "its calls can be settled in the order %p",
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

  test("an abort rejects the open calls with that signal, and no others", async () => {
    const load = controlled<FetchLoosely>();
    const { controller, listeners } = watchedController();
    const { signal } = controller;
    const calls = [load("a", { signal }), load("b"), load("c", { signal }), load("d", { signal })];
    load.calls[2]?.resolve("answer");

    controller.abort("stop");

    expect(load.calls.map((call) => call.settled)).toEqual([true, false, true, true]);
    load.calls[1]?.resolve("answer");
    expect(await Promise.allSettled(calls)).toEqual([
      { status: "rejected", reason: "stop" },
      { status: "fulfilled", value: "answer" },
      { status: "fulfilled", value: "answer" },
      { status: "rejected", reason: "stop" },
    ]);
    expect(listeners()).toBe(0);
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

describe("nthCall()", () => {
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

  test("rejects with the reason when aborted, before and while it waits", async () => {
    const load = controlled<Load>();
    const { controller, listeners } = watchedController();
    const waits = [1, 2].map((n) => load.nthCall(n, { signal: controller.signal }));

    void load("a");
    expect((await waits[0])?.args).toEqual(["a"]);
    expect(listeners()).toBe(1);
    controller.abort("stop");

    expect(await reasonOf(waits[1]!)).toBe("stop");
    expect(await reasonOf(load.nthCall(1, { signal: controller.signal }))).toBe("stop");
    expect(listeners()).toBe(0);
  });

  test("a call that never comes is a deadlock in virtual time", async () => {
    const waiting = virtualTime(() => controlled().nthCall(1));

    expect(await reasonOf(waiting)).toMatchObject({ name: "DeadlockError" });
  });

  test.each([
    [0, RangeError],
    [-1, RangeError],
    [1.5, RangeError],
    [NaN, RangeError],
    ["1" as unknown as number, TypeError],
  ])("nthCall(%p) is refused", async (n, Kind) => {
    const error = await reasonOf(controlled().nthCall(n));

    const message = `Cannot wait for a call: n must be a positive integer, received ${n}`;
    expect(error).toBeInstanceOf(Kind);
    expect(error).toMatchObject({ message });
  });
});

type Load = (text: string) => Promise<string>;
type FetchLoosely = (...args: unknown[]) => Promise<unknown>;

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

/** Comes back when all promises that can settle have done so. */
function settled(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
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
