/**
 * Tests of tests: a scenario states what must hold after any order, and the exploration looks for the
 * order in which it doesn't. Here the scenarios are the bugs that everybody writes, and next to each
 * stands its mended version, which holds in every order.
 */
import { afterEach, describe, expect, test, vi } from "bun:test";

import {
  InterleavingError,
  type InterleavingErrorKind,
  interleavings,
  type InterleavingsOptions,
  type InterleavingsOrder,
  type InterleavingsProgress,
  type World,
} from "../concepts/interleavings.ts";
import { virtualTime } from "../concepts/virtual-time.ts";

const { Bun } = globalThis as { Bun?: any };

describe("Start here", () => {
  /** Check, await, act: two of these together create the user twice. */
  const makeUsers = (exists: (name: string) => Promise<boolean>) => {
    const users: string[] = [];
    const signUp = async (name: string) => {
      if (!(await exists(name)) && !users.includes(name)) users.push(name);
    };
    const signUpTooLate = async (name: string) => {
      const isNew = !users.includes(name);
      await exists(name);
      if (isNew) users.push(name);
    };
    return { users, signUp, signUpTooLate };
  };

  test("an ordinary test sees one order, and stays green", async () => {
    const { users, signUpTooLate } = makeUsers(async () => false);

    await signUpTooLate("ann");
    await signUpTooLate("ann");

    expect(users).toEqual(["ann"]);
  });

  test("the exploration runs every order, and finds the one that fails", async () => {
    const error = await failureOf(async (world) => {
      const { users, signUpTooLate } = makeUsers(world.steps(async () => false, "exists"));
      const twice = ["one", "two"].map((it) => world.spawn(it, () => signUpTooLate("ann")));
      await Promise.all(twice);
      expect(users).toEqual(["ann"]);
    });

    expect(error.kind).toBe("failure");
    expect(error.switches).toBe(1);
    expect(error.message).toContain("The order, with 1 switch:");
  });

  test("the mended version holds in all of them", async () => {
    const result = await interleavings(async (world) => {
      const { users, signUp } = makeUsers(world.steps(async () => false, "exists"));
      await Promise.all(["one", "two"].map((it) => world.spawn(it, () => signUp("ann"))));
      expect(users).toEqual(["ann"]);
    });

    // Two tasks of a start and a step each: 4! / (2! · 2!).
    expect(result).toEqual({ runs: 6, cut: 0, orders: 6, exhaustive: true });
  });

  test("the error draws the order, and its schedule replays that run alone", async () => {
    let runs = 0;
    const scenario = async (world: World) => {
      runs++;
      await lostUpdate(world);
    };
    const { message, schedule } = await failureOf(scenario);
    expect(message).toBe(
      [
        "The scenario fails: Error: the balance is 1",
        [
          "The order, with 1 switch:",
          "",
          "        ann     bob     also pending",
          "     1          starts  ann: starts",
          "   → 2  starts          bob: write",
          "     3  write           bob: write",
          "     4          write",
        ].join("\n"),
        `To replay it: interleavings(scenario, { schedule: "${schedule}" })`,
      ].join("\n\n"),
    );

    runs = 0;
    const again = await failureOf(scenario, { schedule });

    expect(runs).toBe(1);
    expect(again.message).toBe(message);
  });

  test("an abort may come at any moment, in the very turn of another step as well", async () => {
    const moments = new Set<string>();
    await interleavings(async (world) => {
      const controller = new AbortController();
      const { signal } = controller;
      world.abort(controller);
      const steps = ["first", "second"];
      for (const label of steps) {
        if (signal.aborted) break;
        await world.step(label, { signal }).catch(() => {});
        moments.add(`${label}: ${signal.aborted ? "aborted" : "not yet"}`);
      }
    });

    expect([...moments].sort()).toEqual([
      "first: aborted",
      "first: not yet",
      "second: aborted",
      "second: not yet",
    ]);
  });

  test("a deadlock is named at once, with who waits after what", async () => {
    const error = await failureOf(async (world) => {
      const [left, right] = [makeLock(), makeLock()];
      const take = (first: Lock, second: Lock) => async () => {
        await first.lock();
        await world.step("holds one");
        await second.lock();
        second.unlock();
        first.unlock();
      };
      await Promise.all([
        world.spawn("ann", take(left, right)),
        world.spawn("bob", take(right, left)),
      ]);
    });

    expect(error.kind).toBe("deadlock");
    expect(error.message).toContain(
      'nothing is left that could wake ann, after "holds one"; bob, after "holds one".',
    );
  });

  test("trap: what has been started must have ended when the scenario returns", async () => {
    const error = await failureOf(async (world) => {
      void world.spawn("forgotten", () => world.step("save"));
    });

    expect(error.kind).toBe("leak");
    expect(error.message).toContain("forgotten: starts");
  });

  test("trap: a scenario that depends on more than the order is refused", async () => {
    let runs = 0;
    const error = await failureOf(async (world) => {
      const label = `run ${runs++}`;
      await Promise.all([world.step(label), world.step("other")]);
    });

    expect(error.kind).toBe("nondeterministic");
    expect(error.message).toContain("scenario: run 0; scenario: other");
    expect(error.message).toContain("scenario: run 1; scenario: other");
  });
});

describe("interleavings", () => {
  describe("orders", () => {
    test.each([
      { steps: [], orders: 1 },
      { steps: [0], orders: 1 },
      { steps: [0, 0], orders: 2 },
      { steps: [0, 0, 0], orders: 6 },
      { steps: [1, 1], orders: 6 },
      { steps: [3, 1], orders: 15 },
      { steps: [2, 2], orders: 20 },
      { steps: [1, 1, 1], orders: 90 },
      { steps: [1, 2, 1], orders: 210 },
      { steps: [4, 4], orders: 252 },
    ])("tasks of $steps steps have $orders, all distinct", async ({ steps, orders }) => {
      const seen = new Set<string>();

      const result = await interleavings(async (world) => {
        const order: string[] = [];
        const tasks = steps.map((count, i) =>
          world.spawn(`task ${i}`, async () => {
            order.push(`${i}`);
            for (let step = 0; step < count; step++) {
              await world.step(`step ${step}`);
              order.push(`${i}`);
            }
          }),
        );
        await Promise.all(tasks);
        seen.add(order.join());
      });

      expect(result).toEqual({ runs: orders, cut: 0, orders, exhaustive: true });
      expect(seen.size).toBe(orders);
    });

    test("steps of one task overtake each other as well", async () => {
      const seen = new Set<string>();
      await interleavings(async (world) => {
        const order: string[] = [];
        const step = (label: string) => world.step(label).then(() => order.push(label));
        await Promise.all(["a", "b", "c"].map(step));
        seen.add(order.join(""));
      });

      expect([...seen].sort()).toEqual(["abc", "acb", "bac", "bca", "cab", "cba"]);
    });

    test("those with fewer switches come first", async () => {
      const switches: number[] = [];
      await interleavings(async (world) => {
        let last = "";
        let count = 0;
        const left = { ann: 3, bob: 3 };
        const note = (name: "ann" | "bob", other: "ann" | "bob") => {
          // Who leaves another that has begun, and has not ended, has switched.
          if (last === other && left[other] > 0 && left[other] < 3) count++;
          last = name;
          left[name]--;
        };
        const task = (name: "ann" | "bob", other: "ann" | "bob") => async () => {
          note(name, other);
          await world.step("1");
          note(name, other);
          await world.step("2");
          note(name, other);
        };
        await Promise.all([
          world.spawn("ann", task("ann", "bob")),
          world.spawn("bob", task("bob", "ann")),
        ]);
        switches.push(count);
      });

      expect(switches).toHaveLength(20);
      expect(switches).toEqual(switches.toSorted((a, b) => a - b));
      expect(switches.slice(0, 3)).toEqual([0, 0, 1]);
    });
  });

  describe("switches", () => {
    const controller = () => new AbortController();
    const late = { late: true };
    const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

    type Case = [string, (world: World) => unknown, Record<string, number>, InterleavingsOptions?];
    const cases: Case[] = [
      [
        "a later step of the same task comes first",
        (world) => Promise.all([world.step("a"), world.step("b")]),
        { any: 0, 1: 1 },
      ],
      [
        "another task goes on although the last could",
        (world) => Promise.all(["a", "b"].map((name) => world.spawn(name, () => world.step("")))),
        { any: 0, 1: 0, "0.1": 1, "0.1.2": 2, "1.0": 1, "1.0.2": 2 },
      ],
      [
        "a step fails",
        (world) => world.step("a", { fails: true }).catch(() => {}),
        { any: 0, "0!": 1 },
      ],
      [
        "an abort comes, or falls into the turn of a step",
        async (world) => {
          world.abort(controller());
          await world.step("a");
          await world.step("b");
        },
        {
          any: 0,
          ...{ "0": 1, "1+0@-1": 1, "1+0@0": 1, "1+0@1": 1, "1+0@2": 1, "1+0@3": 1 },
          ...{ "1.0": 1, "1.2+0@-1": 1, "1.2+0@0": 1, "1.2+0@1": 1, "1.2+0@2": 1, "1.2+0@3": 1 },
        },
      ],
      [
        "an abort that must come does so while there is a step",
        async (world) => {
          const { signal } = abortSurely(world);
          await world.step("a");
          if (!signal.aborted) await new Promise((resolve) => (signal.onabort = resolve));
        },
        { any: 0, "0": 1, "1+0@-1": 1, "1+0@0": 1, "1+0@1": 1, "1+0@2": 1, "1+0@3": 1 },
      ],
      [
        "an abort that must come does so while there is a timer",
        async (world) => {
          const { signal } = abortSurely(world);
          await sleep(10);
          if (!signal.aborted) await new Promise((resolve) => (signal.onabort = resolve));
        },
        { any: 0, "0": 1, "1+0@-1": 1, "1+0@0": 1, "1+0@1": 1, "1+0@2": 1, "1+0@3": 1 },
      ],
      [
        "an abort that need not come does so while there is a timer",
        async (world) => {
          world.abort(controller());
          await sleep(10);
        },
        { any: 0, "0": 1, "1+0@-1": 1, "1+0@0": 1, "1+0@1": 1, "1+0@2": 1, "1+0@3": 1 },
      ],
      [
        "a timer fires while there is a step",
        (world) => Promise.all([sleep(0), world.step("a")]),
        { any: 0, 0: 1 },
      ],
      [
        "a timer fires before another that is due earlier",
        () => Promise.all([sleep(20), sleep(10)]),
        { any: 0, 0: 1 },
        late,
      ],
      [
        "a timer fires before another that was set earlier, and is due with it",
        () => Promise.all([sleep(10), sleep(10)]),
        { any: 0, 1: 1 },
      ],
    ];
    test.each(cases.map(([it, ...rest]) => ({ it, rest })))("one is that $it", async ({ rest }) => {
      const [scenario, expected, options] = rest;
      const switches: Record<string, number> = {};
      const { exhaustive } = await interleavings(scenario, {
        ...options,
        onOrder: (order) => void (switches[order.schedule] = order.switches),
      });

      expect(exhaustive).toBe(true);
      expect(switches).toEqual(expected);
    });

    test("an abort between two steps of a task doesn't let another go on at no cost", async () => {
      const scenario = async (world: World) => {
        world.abort(controller());
        const task = () => world.step("step");
        await Promise.all([world.spawn("ann", task), world.spawn("bob", task)]);
      };

      const { switches, events } = await replay(scenario, "1.0.2");

      expect(events.map(({ lane, state }) => `${lane} ${state}`).slice(0, 3)).toEqual([
        "ann starts",
        "scenario abort",
        "bob starts",
      ]);
      expect(switches).toBe(2);
    });
  });

  describe("on", () => {
    test.each(["fails", "aborts"] as const)(
      "what %s is tried with all the others, too",
      async (what) => {
        for (const [ann, bob] of [
          [["x"], ["y"]],
          [["x"], ["x"]],
          [[], ["x"]],
        ] as [string[], string[]][]) {
          const program = [
            [["x"], ann],
            [["y"], bob],
          ];
          const everything = await explore(program, false, "", what);
          const classes = await explore(program, true, "", what);

          expect(classes.result.exhaustive).toBe(true);
          expect(classes.classes).toEqual(everything.classes);
        }
      },
    );

    test.each(Array.from({ length: 12 }, (_, i) => [i + 1]))(
      "random program %i: a run for each class, and orders says how many there are",
      async (seed) => {
        const program = randomProgram(seed);
        const everything = await explore(program, false);
        const classes = await explore(program, true);

        expect(everything.result.exhaustive).toBe(true);
        expect(classes.result.exhaustive).toBe(true);
        expect(classes.result.runs).toBe(everything.classes.size);
        expect(classes.classes).toEqual(everything.classes);
        expect(classes.result.orders).toBe(everything.result.runs);
      },
    );

    test.each(Array.from({ length: 12 }, (_, i) => [i + 1]))(
      "random program %i: what fails is found with the fewest switches",
      async (seed) => {
        const program = randomProgram(seed);
        const { classes } = await explore(program, false);
        const forbidden = [...classes].at(seed % classes.size)!;
        const withoutOn = await explore(program, false, forbidden);
        const withOn = await explore(program, true, forbidden);

        expect(withOn.error?.switches).toBe(withoutOn.error!.switches);
      },
    );

    test("what sleeps doesn't hide the fewest switches, though no run was cut", async () => {
      const program = [
        [["z"], ["y"], ["x", "z"]],
        [["x", "y"], ["x"], ["x", "z"]],
      ];
      const forbidden = "x: 1.0,1.1,0.2,1.2; y: 1.0,0.1; z: 0.0,0.2,1.2";

      expect((await explore(program, true)).result.cut).toBe(0);
      expect((await explore(program, true, forbidden)).error?.switches).toBe(1);
    });

    test("what is undeclared touches everything", async () => {
      const { runs } = await interleavings(async (world) => {
        await Promise.all([
          world.step("a", { on: "x" }),
          world.step("b", { on: "y" }),
          world.step("c"),
        ]);
      });

      // c before, between or after; of a and b only one order where they are neighbours.
      expect(runs).toBe(4);
    });

    test.each([
      { steps: 29, orders: 30 },
      { steps: 30, orders: 1 },
    ])("a step beside $steps counts as $orders orders", async ({ steps, orders }) => {
      const result = await interleavings(async (world) => {
        const many = async () => {
          for (let i = 0; i < steps; i++) await world.step("a", { on: "a" });
        };
        await Promise.all([many(), world.step("b", { on: "b" })]);
      });

      // A run of more than 30 choices isn't counted.
      expect([result.runs, result.orders]).toEqual([1, orders]);
    });

    test("what touches nothing is independent of all that is declared", async () => {
      const { runs, orders } = await interleavings(async (world) => {
        const labels = ["a", "b", "c"];
        await Promise.all(labels.map((label) => world.step(label, { on: [] })));
      });

      expect({ runs, orders }).toEqual({ runs: 1, orders: 6 });
    });
  });

  describe("onOrder", () => {
    test("is told of every order, which its schedule replays", async () => {
      const orders: InterleavingsOrder[] = [];
      const tasks = async (world: World) => {
        const task = (label: string) => () => world.step(label);
        await Promise.all([world.spawn("ann", task("a")), world.spawn("bob", task("b"))]);
      };

      const { runs } = await interleavings(tasks, { onOrder: (order) => void orders.push(order) });

      expect(runs).toBe(6);
      expect(orders.map(({ switches }) => switches)).toEqual([0, 0, 1, 1, 2, 2]);
      expect(new Set(orders.map(({ schedule }) => schedule)).size).toBe(6);
      expect(orders[0]).toEqual({
        schedule: "any",
        switches: 0,
        events: [
          { choice: 1, lane: "ann", state: "starts" },
          { choice: 2, lane: "ann", state: "a" },
          { choice: 2, lane: "ann", state: "done" },
          { choice: 3, lane: "bob", state: "starts" },
          { choice: 4, lane: "bob", state: "b" },
          { choice: 4, lane: "bob", state: "done" },
        ],
      });
      for (const order of orders) {
        const again: InterleavingsOrder[] = [];
        const onOrder = (order: InterleavingsOrder) => void again.push(order);
        await interleavings(tasks, { schedule: order.schedule, onOrder });
        expect(again).toEqual([order]);
      }
    });

    test("goes on after a failing order if it returns true", async () => {
      const failing: InterleavingsOrder[] = [];
      const result = await interleavings(lostUpdate, {
        onOrder(order) {
          if (order.error) failing.push(order);
          return true;
        },
      });

      // Both have begun before either writes, in four of the six orders.
      expect(result).toEqual({ runs: 6, cut: 0, orders: 6, exhaustive: true });
      expect(failing.map(({ schedule }) => schedule).sort()).toEqual([
        "0.1",
        "0.1.2",
        "1.0",
        "1.0.2",
      ]);
      for (const { error, schedule, switches } of failing) {
        expect(error!.cause).toEqual(new Error("the balance is 1"));
        expect(error).toMatchObject({ schedule, switches, kind: "failure" });
        expect((await failureOf(lostUpdate, { schedule })).message).toBe(error!.message);
      }
    });

    test.each([[undefined], [false], ["yes"], [Promise.resolve(true)]])(
      "returning %s, ends with the first that fails",
      async (value) => {
        const told: InterleavingsOrder[] = [];
        const onOrder = (order: InterleavingsOrder) => (told.push(order), value as boolean);
        const error = await failureOf(lostUpdate, { onOrder });

        expect(told.map((order) => order.error)).toEqual([undefined, undefined, error]);
      },
    );

    test("passes over a bug that is known, to the one behind it", async () => {
      const error = await failureOf(
        async (world) => {
          const order: string[] = [];
          await Promise.all(["a", "b", "c"].map((it) => world.step(it).then(() => order.push(it))));
          if (order[0] === "b") throw new RangeError("known");
          if (order[0] === "c") throw new TypeError("new");
        },
        { onOrder: ({ error }) => error?.cause instanceof RangeError },
      );

      expect(error.cause).toEqual(new TypeError("new"));
    });

    test("goes on after a failure of each kind", async () => {
      const scenarios: Partial<Record<InterleavingErrorKind, (world: World) => unknown>> = {
        failure: () => Promise.reject(new Error("failed")),
        unhandled: (world) => {
          void world.spawn("broken", () => Promise.reject(new Error("broken")));
          return world.step("last");
        },
        deadlock: () => new Promise(() => {}),
        leak: (world) => void world.spawn("forgotten", () => {}),
        endless: async (world) => {
          for (;;) await world.step("again");
        },
      };
      for (const [kind, scenario] of Object.entries(scenarios)) {
        const kinds: (string | undefined)[] = [];
        const result = await interleavings(
          async (world) => {
            await Promise.all([world.step("a"), world.step("b")]);
            await scenario(world);
          },
          {
            onOrder({ error }) {
              kinds.push(error?.kind);
              return true;
            },
          },
        );

        expect({ kind, exhaustive: result.exhaustive }).toEqual({ kind, exhaustive: true });
        expect(kinds.length).toBe(result.runs);
        expect(kinds.filter((it) => it === kind).length).toBeGreaterThanOrEqual(2);
      }
    });

    test("is not told of a scenario that can't be repeated, which ends the search", async () => {
      let runs = 0;
      const told: InterleavingsOrder[] = [];
      const error = await failureOf(
        (world) => Promise.all([world.step(`run ${runs++}`), world.step("other")]),
        { onOrder: (order) => told.push(order) > 0 },
      );

      expect(error.kind).toBe("nondeterministic");
      expect(told).toHaveLength(1);
    });

    test("is not told of a run that was stopped", async () => {
      const controller = new AbortController();
      const told: InterleavingsOrder[] = [];
      const run = interleavings(() => controller.abort("enough"), {
        signal: controller.signal,
        onOrder: (order) => told.push(order) > 0,
      });

      await expect(run).rejects.toBe("enough");
      expect(told).toEqual([]);
    });

    test("is not told of orders for which others stand, but of random ones", async () => {
      let told = 0;
      const onOrder = () => void told++;
      const independent = async (world: World) => {
        const twice = (on: string) => world.step(on, { on }).then(() => world.step(on, { on }));
        await Promise.all([twice("x"), twice("y")]);
      };
      const { runs, cut } = await interleavings(independent, { onOrder });
      expect([runs, told]).toEqual([1, 1]);
      expect(cut).toBeGreaterThan(0);

      told = 0;
      const result = await interleavings(lostUpdate, { onOrder: () => ++told > 0, maxRuns: 5 });
      expect(result).toMatchObject({ exhaustive: false, runs: told });
      expect(told).toBe(6);
    });

    test("what it throws ends the search", async () => {
      const reason = new Error("thrown");
      const run = interleavings(lostUpdate, {
        onOrder: () => {
          throw reason;
        },
      });

      await expect(run).rejects.toBe(reason);
    });

    test("what it throws ends the search, though others stood for some orders", async () => {
      let told = 0;
      const scenario = async (world: World) => {
        const twice = (on: string) => world.step(on, { on }).then(() => world.step(on, { on }));
        await Promise.all([twice("x"), twice("y"), world.step("z", { on: ["x", "y"] })]);
      };
      const run = interleavings(scenario, {
        onOrder: () => {
          if (++told === 3) throw new Error("enough");
        },
      });

      await expect(run).rejects.toThrow("enough");
      expect(told).toBe(3);
    });

    test("the events tell how tasks end, in whose turn, and what an abort meets", async () => {
      let events: InterleavingsOrder["events"] = [];
      await interleavings(
        async (world) => {
          const controller = new AbortController();
          const { promise, resolve } = Promise.withResolvers<void>();
          const both = [
            world.spawn("sleeper", () => promise.then(() => Promise.reject(new Error("broken")))),
            world.spawn("waker", async () => {
              world.abort(controller, { label: "leaves" });
              await world.step("work");
              resolve();
            }),
          ];
          await Promise.allSettled(both);
        },
        { schedule: "0.1.3+2@0", onOrder: (order) => void (events = order.events) },
      );

      expect(events).toEqual([
        { choice: 1, lane: "sleeper", state: "starts" },
        { choice: 2, lane: "waker", state: "starts" },
        { choice: 3, lane: "waker", state: "work, leaves" },
        { choice: 3, lane: "sleeper", state: "failed" },
        { choice: 3, lane: "waker", state: "done" },
      ]);
    });
  });

  /** Each bug with its mended version, and how many switches it takes. */
  describe("the classic bugs", () => {
    const bugs: {
      bug: string;
      switches: number;
      kind?: InterleavingErrorKind;
      schedule?: string;
      options?: InterleavingsOptions;
      scenario: (world: World, isMended: boolean) => Promise<void>;
    }[] = [
      {
        bug: "a lost update",
        switches: 1,
        schedule: "1.0",
        async scenario(world, isMended) {
          let balance = 0;
          const deposit = async () => {
            const before = balance;
            await world.step("write");
            balance = (isMended ? balance : before) + 1;
          };
          await Promise.all([world.spawn("ann", deposit), world.spawn("bob", deposit)]);
          expect(balance).toBe(2);
        },
      },
      {
        bug: "Promise.all with a shared array, in the order of the replies",
        switches: 1,
        async scenario(world, isMended) {
          const get = world.steps(async (id: number) => id, "get");
          const users: number[] = [];
          const load = async (id: number) => void users.push(await get(id));
          const ids = [1, 2];
          if (isMended) users.push(...(await Promise.all(ids.map((id) => get(id)))));
          else await Promise.all(ids.map(load));
          expect(users).toEqual(ids);
        },
      },
      {
        bug: "a cache stampede",
        switches: 1,
        async scenario(world, isMended) {
          let loads = 0;
          const load = world.steps(async () => ++loads, "load");
          const cache = new Map<string, number | Promise<number>>();
          const get = async () => {
            if (!cache.has("key")) {
              if (isMended) cache.set("key", load());
              else cache.set("key", await load());
            }
            return cache.get("key");
          };
          await Promise.all([world.spawn("ann", get), world.spawn("bob", get)]);
          expect(loads).toBe(1);
        },
      },
      {
        bug: "a stale response",
        switches: 1,
        async scenario(world, isMended) {
          const search = world.steps(async (text: string) => `results of ${text}`, "search");
          let shown = "";
          let latest = 0;
          const type = async (text: string) => {
            const request = ++latest;
            const results = await search(text);
            if (!isMended || request === latest) shown = results;
          };
          await Promise.all([type("a"), type("ab")]);
          expect(shown).toBe("results of ab");
        },
      },
      {
        bug: "a stale cache, read before a write and filled after it",
        switches: 1,
        async scenario(world, isMended) {
          let stored = "old";
          let cached: string | undefined;
          let version = 0;
          const read = world.steps(async () => stored, "read", { at: "both" });
          const fill = async () => {
            const before = version;
            const value = await read();
            if (!isMended || before === version) cached = value;
          };
          const write = async () => {
            await world.step("write");
            stored = "new";
            version++;
            cached = undefined;
          };
          await Promise.all([world.spawn("reader", fill), world.spawn("writer", write)]);
          expect(cached ?? stored).toBe("new");
        },
      },
      {
        bug: "a double submit",
        switches: 1,
        async scenario(world, isMended) {
          let orders = 0;
          let isSubmitted = false;
          const submit = async () => {
            if (isSubmitted) return;
            if (isMended) isSubmitted = true;
            await world.step("post");
            isSubmitted = true;
            orders++;
          };
          await Promise.all([world.spawn("click 1", submit), world.spawn("click 2", submit)]);
          expect(orders).toBe(1);
        },
      },
      {
        bug: "two locks taken in two orders",
        switches: 1,
        kind: "deadlock",
        async scenario(world, isMended) {
          const [left, right] = [makeLock(), makeLock()];
          const take = (first: Lock, second: Lock) => async () => {
            await first.lock();
            await world.step("holds one");
            await second.lock();
            second.unlock();
            first.unlock();
          };
          await Promise.all([
            world.spawn("ann", take(left, right)),
            world.spawn("bob", isMended ? take(left, right) : take(right, left)),
          ]);
        },
      },
      {
        bug: "three dining philosophers",
        switches: 1,
        kind: "deadlock",
        async scenario(world, isMended) {
          const forks = [makeLock(), makeLock(), makeLock()];
          const dine = (one: number, other: number) => async () => {
            await forks[one]!.lock();
            await world.step(`holds fork ${one}`);
            await forks[other]!.lock();
            forks[other]!.unlock();
            forks[one]!.unlock();
          };
          await Promise.all([
            world.spawn("plato", dine(0, 1)),
            world.spawn("kant", dine(1, 2)),
            world.spawn("hume", isMended ? dine(0, 2) : dine(2, 0)),
          ]);
        },
      },
      {
        bug: "a semaphore that loses its permit when a release meets an abort",
        switches: 2,
        async scenario(world, isMended) {
          const semaphore = makeSemaphore(isMended);
          const controller = new AbortController();
          const { signal } = controller;
          world.abort(controller);
          const work = async () => {
            await semaphore.acquire();
            await world.step("work");
            semaphore.release();
          };
          const wait = async () => {
            await semaphore.acquire(signal);
            semaphore.release();
          };
          const first = world.spawn("holder", work);
          await Promise.allSettled([first, world.spawn("waiter", wait)]);
          expect(semaphore.free).toBe(1);
        },
      },
      {
        bug: "a queue that drops an item when a get is aborted",
        switches: 1,
        async scenario(world, isMended) {
          const items: string[] = [];
          const got: string[] = [];
          const waiters: ((item: string) => void)[] = [];
          const controller = new AbortController();
          const { signal } = controller;
          world.abort(controller);
          const put = (item: string) => {
            const next = waiters.shift();
            if (next) next(item);
            else items.push(item);
          };
          const get = async () => {
            signal.throwIfAborted();
            const item = items.shift();
            if (item !== undefined) return item;
            return new Promise<string>((resolve, reject) => {
              waiters.push(resolve);
              signal.addEventListener("abort", () => {
                const index = waiters.indexOf(resolve);
                if (isMended && index >= 0) waiters.splice(index, 1);
                reject(signal.reason);
              });
            });
          };
          const consumer = world.spawn("consumer", async () => void got.push(await get()));
          const producer = world.spawn("producer", async () => {
            await world.step("put");
            put("item");
          });
          await Promise.allSettled([consumer, producer]);
          expect([...got, ...items]).toEqual(["item"]);
        },
      },
      {
        bug: "a lost wake-up: the condition is checked, and only then waited for",
        switches: 1,
        kind: "deadlock",
        async scenario(world, isMended) {
          let isReady = false;
          const waiters: (() => void)[] = [];
          const wait = async () => {
            if (isReady) return;
            if (!isMended) await world.step("about to wait");
            await new Promise<void>((resolve) => waiters.push(resolve));
          };
          const wake = async () => {
            isReady = true;
            for (const waiter of waiters.splice(0)) waiter();
          };
          await Promise.all([world.spawn("waiter", wait), world.spawn("waker", wake)]);
        },
      },
      {
        bug: "a reader beside a writer",
        switches: 1,
        async scenario(world, isMended) {
          const lock = makeLock();
          const pair = { a: 0, b: 0 };
          const write = async () => {
            await lock.lock();
            pair.a++;
            await world.step("half written");
            pair.b++;
            lock.unlock();
          };
          const read = async () => {
            if (isMended) await lock.lock();
            expect(pair.a).toBe(pair.b);
            if (isMended) lock.unlock();
          };
          await Promise.all([world.spawn("writer", write), world.spawn("reader", read)]);
        },
      },
      {
        bug: "a timeout that comes before the reply, and a reply that comes after it",
        switches: 1,
        async scenario(world, isMended) {
          let state = "waiting";
          const reply = world.step("reply").then(() => {
            if (!isMended || state === "waiting") state = "replied";
          });
          await new Promise<void>((resolve) => {
            const timer = setTimeout(() => {
              state = "timed out";
              resolve();
            }, 100);
            void reply.then(() => {
              clearTimeout(timer);
              resolve();
            });
          });
          const told = state;
          await reply;
          expect(state).toBe(told);
        },
      },
    ];

    test.each(bugs)("$bug: found, with $switches", async (it) => {
      const { kind = "failure", switches, options = {} } = it;
      const error = await failureOf((world) => it.scenario(world, false), options);

      expect({ kind: error.kind, switches: error.switches }).toEqual({ kind, switches });
      if (it.schedule) expect(error.schedule).toBe(it.schedule);
    });

    test.each(bugs)("$bug: its schedule replays it", async (it) => {
      const scenario = (world: World) => it.scenario(world, false);
      const { schedule, message } = await failureOf(scenario, it.options);

      const again = await failureOf(scenario, { ...it.options, schedule });

      expect(again.message).toBe(message);
    });

    test.each(bugs)("$bug: mended, it holds in every order", async (it) => {
      const result = await interleavings((world) => it.scenario(world, true), it.options);

      expect(result.exhaustive).toBe(true);
    });
  });
});

describe("world", () => {
  describe("step()", () => {
    test("may fail, with its own error or one made for it, at the cost of a switch", async () => {
      const own = new Error("own");
      const outcomes: unknown[] = [];
      await interleavings(async (world) => {
        const told = (promise: Promise<void>) =>
          promise.then(
            () => "fine",
            (error) => error,
          );
        outcomes.push([
          await told(world.step("a", { fails: own })),
          await told(world.step("b", { fails: true })),
          await told(world.step("c", { fails: false })),
        ]);
      });

      const error = new Error("Step b fails");
      expect(outcomes).toEqual([
        ["fine", "fine", "fine"],
        ["fine", error, "fine"],
        [own, "fine", "fine"],
        [own, error, "fine"],
      ]);
      expect((outcomes[2] as unknown[])[0]).toBe(own);
    });

    test("an aborted signal ends the wait, and nothing of it is left", async () => {
      const reason = new Error("enough");
      const result = await interleavings(async (world) => {
        const controller = new AbortController();
        const { signal } = controller;
        const waiting = world.step("never", { signal }).catch((error) => error);
        controller.abort(reason);
        expect(await waiting).toBe(reason);
        expect(await world.step("late", { signal }).catch((error) => error)).toBe(reason);
      });

      expect(result.runs).toBe(1);
    });

    test("one that waits still when the scenario has ended is a leak", async () => {
      const { kind, message } = await failureOf((world) => void world.step("forgotten"));

      expect(kind).toBe("leak");
      expect(message).toContain("something is left: scenario: forgotten.");
    });

    test("of a run that is over it rejects", async () => {
      let old: World | undefined;
      await interleavings((world) => void (old = world));

      await expect(old!.step("late")).rejects.toThrow("Cannot wait for step: its run has ended");
      expect(() => old!.spawn("late", () => {})).toThrow("Cannot spawn task: its run has ended");
      expect(() => old!.abort(new AbortController())).toThrow("its run has ended");
    });
  });

  describe("steps()", () => {
    test.each([
      { at: "reply", seen: ["call, write, reply", "call, write, reply", "call, reply, write"] },
      { at: "call", seen: ["call, reply, write", "write, call, reply", "write, call, reply"] },
    ] as const)("at $at, the function runs when it says", async ({ at, seen }) => {
      const orders = new Set<string>();
      await interleavings(async (world) => {
        const order: string[] = [];
        const fn = world.steps(() => void order.push("call"), "fn", { at });
        const call = async () => {
          await fn();
          order.push("reply");
        };
        const write = async () => {
          await world.step("write");
          order.push("write");
        };
        await Promise.all([call(), write()]);
        orders.add(order.join(", "));
      });

      expect(orders).toEqual(new Set(seen));
    });

    test("at both, its call and its reply can be overtaken", async () => {
      const orders = new Set<string>();
      await interleavings(async (world) => {
        const order: string[] = [];
        const fn = world.steps(() => void order.push("call"), "fn", { at: "both" });
        const write = () => world.step("write").then(() => order.push("write"));
        await Promise.all([fn().then(() => order.push("reply")), write()]);
        orders.add(order.join(", "));
      });

      expect([...orders].sort()).toEqual([
        "call, reply, write",
        "call, write, reply",
        "write, call, reply",
      ]);
    });

    test("at both, its reply is labelled as one", async () => {
      const { message } = await failureOf(async (world) => {
        await world.steps(() => {}, "fn", { at: "both" })();
        throw new Error("draw it");
      });

      expect(message).toMatch(/1 {2}fn\(\)\n +2 {2}fn\(\) replies\n/);
    });

    test("passes on this, arguments, result and error, and labels a call by them", async () => {
      const { message } = await failureOf(async (world) => {
        const database = {
          name: "users",
          get: world.steps(async function (this: { name: string }, id: number, _options: object) {
            if (id === 0) throw new RangeError(`not in ${this.name}`);
            return `${this.name} ${id}`;
          }, "get"),
        };
        expect(await database.get(7, {})).toBe("users 7");
        await database.get(0, {});
      });

      expect(message).toContain("The scenario fails: RangeError: not in users");
      expect(message).toContain("get(7, Object)");
      expect(message).toContain("get(0, Object)");
    });

    test("takes its name from the function, and does without one", async () => {
      const { events } = await replay(async (world) => {
        await world.steps(async function load(_id: number) {})(1);
        await world.steps(async () => {})();
      }, "any");

      expect(events.map(({ state }) => state)).toEqual(["load(1)", "call()"]);
    });

    test("its label has at most 30 characters of an argument", async () => {
      const { events } = await replay(async (world) => {
        const get = world.steps(async (_key: string) => {}, "get");
        for (const length of [28, 29]) await get("k".repeat(length));
      }, "any");

      // A string is quoted.
      const [whole, cut] = [`get("${"k".repeat(28)}")`, `get("${"k".repeat(28)}…)`];
      expect(events.map(({ state }) => state)).toEqual([whole, cut]);
    });

    test("a signal among its options that is something else is the function's own", async () => {
      await interleavings(async (world) => {
        const kill = world.steps(async ({ signal }: { signal: string }) => signal, "kill");
        expect(await kill({ signal: "SIGTERM" })).toBe("SIGTERM");
      });
    });

    test("at both, the signal ends the wait for the call, too, and it isn't made", async () => {
      await interleavings(async (world) => {
        let calls = 0;
        const controller = new AbortController();
        const { signal } = controller;
        const fetch = world.steps(async (_options: RequestInit) => ++calls, "fetch", {
          at: "both",
        });
        const reply = fetch({ signal }).catch((error) => error);
        controller.abort("enough");
        expect([await reply, calls]).toEqual(["enough", 0]);
      });
    });

    test("the signal among its options ends the wait for its reply", async () => {
      const reason = new Error("enough");
      await interleavings(async (world) => {
        const controller = new AbortController();
        const fetch = world.steps(async (_url: string, _options: RequestInit) => "reply", "fetch");
        const reply = fetch("/", { signal: controller.signal }).catch((error) => error);
        controller.abort(reason);
        expect(await reply).toBe(reason);
      });
    });

    test("a hold that is replied too late, or in vain, is released", async () => {
      await interleavings(async (world) => {
        let held = 0;
        const acquire = world.steps(
          async (_options: { signal: AbortSignal }) => {
            held++;
            return { release: () => held--, [Symbol.dispose]: () => {} };
          },
          "acquire",
          { fails: true },
        );
        const controller = new AbortController();
        world.abort(controller);
        const hold = await acquire({ signal: controller.signal }).catch(() => undefined);
        hold?.release();
        await undefined;
        expect(held).toBe(0);
      });
    });

    test("fails as a step does, before the call or in place of its reply", async () => {
      const error = new Error("unreachable");
      for (const at of ["reply", "call", "both"] as const) {
        const outcomes: string[] = [];
        await interleavings(async (world) => {
          let calls = 0;
          const fn = world.steps(async () => ++calls, "fn", { at, fails: error });
          const outcome = await fn().catch((caught) => (caught === error ? "failed" : caught));
          outcomes.push(`${outcome} after ${calls}`);
        });

        expect(outcomes).toEqual(["1 after 1", `failed after ${at === "call" ? 0 : 1}`]);
      }
    });

    test("what a call touches may depend on its arguments", async () => {
      const count = async (ids: number[], at?: "both") => {
        const { runs } = await interleavings(async (world) => {
          const on = (id: number) => `user ${id}`;
          const get = world.steps(async (id: number) => id, "get", { on, at });
          await Promise.all(ids.map((id) => get(id)));
        });
        return runs;
      };

      expect(await count([1, 2])).toBe(1);
      expect(await count([1, 1])).toBe(2);
      expect(await count([1, 2], "both")).toBe(1);
    });
  });

  describe("spawn()", () => {
    test("returns the task's result, or its error", async () => {
      await interleavings(async (world) => {
        expect(await world.spawn("fine", () => 5)).toBe(5);
        const error = new Error("broken");
        const broken = world.spawn("broken", () => Promise.reject(error));
        expect(await broken.catch((caught) => caught)).toBe(error);
        const thrower = world.spawn("thrower", () => {
          throw error;
        });
        expect(await thrower.catch((caught) => caught)).toBe(error);
      });
    });

    test("a failure that is asked for later is no unhandled rejection", async () => {
      await interleavings(async (world) => {
        const broken = world.spawn("broken", () => Promise.reject(new Error("broken")));
        await world.step("later");
        await broken.catch(() => {});
      });
    });

    test("a failure that nobody asks for is unhandled", async () => {
      const cause = new Error("broken");
      const error = await failureOf(async (world) => {
        const { promise, resolve } = Promise.withResolvers<void>();
        void world.spawn("broken", () => {
          resolve();
          throw cause;
        });
        await promise;
        await world.step("later");
      });

      expect(error.kind).toBe("unhandled");
      expect(error.cause).toBe(cause);
      expect(error.message).toContain("A rejection is unhandled: Error: broken");
    });

    test("the world that a task is given takes what the scenario's does", async () => {
      const { runs, orders } = await interleavings(async (world) => {
        const task = (on: string) => async (own: World) => {
          await own.step("step", { on });
          await own.steps((text: string) => text, "call", { on: (text) => text })(on);
          await own.spawn(`child of ${on}`, () => {}, { on });
        };
        await Promise.all(["a", "b"].map((on) => world.spawn(on, task(on), { on })));
      });

      // Each of four events: 8! / (4! · 4!).
      expect({ runs, orders }).toEqual({ runs: 1, orders: 70 });
    });

    test("the lane of a step is that of the task, whoever has woken it", async () => {
      const { message } = await failureOf(async (world) => {
        const { promise, resolve } = Promise.withResolvers<void>();
        const sleeper = world.spawn("sleeper", async () => {
          await promise;
          await world.step("woken");
          throw new Error("draw it");
        });
        const waker = world.spawn("waker", async () => resolve());
        await Promise.all([sleeper, waker]);
      });

      expect(message).toMatch(/sleeper +waker/);
      expect(message).toMatch(/\d {2}woken$|\d {2}woken +/m);
    });
  });

  describe("abort()", () => {
    test("comes at any moment or never, with its reason", async () => {
      const reason = new Error("enough");
      const reasons: unknown[] = [];
      await interleavings(async (world) => {
        const controller = new AbortController();
        world.abort(controller, { reason });
        await world.step("only");
        reasons.push(controller.signal.reason);
      });

      expect(reasons).toContain(undefined);
      expect(new Set(reasons)).toEqual(new Set([undefined, reason]));
    });

    test("surely comes before a deadlock is named; one that need not come doesn't help", async () => {
      const scenario = (surely?: boolean) => async (world: World) => {
        const controller = new AbortController();
        world.abort(controller, { surely });
        await new Promise((resolve) => controller.signal.addEventListener("abort", resolve));
      };

      expect((await interleavings(scenario(true))).runs).toBe(1);
      const failing = await failureOf(async (world) => {
        await scenario(true)(world);
        throw new Error("aborted");
      });
      expect(failing.switches).toBe(0);
      for (const surely of [false, undefined]) {
        const { kind, message } = await failureOf(scenario(surely));
        expect(kind).toBe("deadlock");
        expect(message).toContain("nothing is left that could wake the scenario.");
      }
    });

    test("a step that listens to it comes before it or not, in one turn", async () => {
      const outcome = async (schedule: string) => {
        let outcome: unknown;
        const { events } = await replay(async (world) => {
          const controller = new AbortController();
          const { signal } = controller;
          world.abort(controller, { reason: "enough" });
          const step = world.step("step", { signal });
          outcome = await step.then(
            () => `done, aborted: ${signal.aborted}`,
            (reason) => reason,
          );
        }, schedule);
        return [outcome, ...events.map(({ choice, state }) => `${choice} ${state}`)];
      };

      expect(await outcome("1+0@-1")).toEqual(["enough", "1 abort, step"]);
      expect(await outcome("1+0@0")).toEqual(["done, aborted: true", "1 step, abort"]);
    });

    test("right before a step, both are of one turn", async () => {
      let isAborted = false;
      const { events } = await replay(async (world) => {
        const controller = new AbortController();
        world.abort(controller);
        await world.step("step");
        isAborted = controller.signal.aborted;
      }, "1+0@-1");

      expect(isAborted).toBe(true);
      expect(events).toEqual([{ choice: 1, lane: "scenario", state: "abort, step" }]);
    });

    test("in the turn of a step it comes before it, and up to three microtasks after it", async () => {
      const seen = new Set<string>();
      await interleavings(async (world) => {
        const events: string[] = [];
        const controller = new AbortController();
        world.abort(controller);
        controller.signal.addEventListener("abort", () => events.push("abort"));
        await world.step("step");
        for (let i = 0; i < 4; i++) {
          events.push(`${i}`);
          await undefined;
        }
        seen.add(events.join(" "));
      });

      expect([...seen].sort()).toEqual([
        "0 1 2 3",
        "0 1 2 abort 3",
        "0 1 abort 2 3",
        "0 abort 1 2 3",
        "abort 0 1 2 3",
      ]);
    });

    test("right before a timer, it may clear it, and the timer doesn't fire", async () => {
      await interleavings(async (world) => {
        const controller = new AbortController();
        const { signal } = controller;
        world.abort(controller);
        let isTooLate = false;
        await new Promise<void>((resolve) => {
          const timer = setTimeout(() => {
            isTooLate = signal.aborted;
            resolve();
          }, 10);
          signal.addEventListener("abort", () => {
            clearTimeout(timer);
            resolve();
          });
        });
        await Promise.resolve();
        expect(isTooLate).toBe(false);
      });
    });

    test("is drawn by its label, where it comes", async () => {
      const { message } = await failureOf(async (world) => {
        const controller = new AbortController();
        world.abort(controller, { label: "user leaves" });
        await world.step("work");
        if (controller.signal.aborted) throw new Error("too late");
      });

      expect(message).toContain("user leaves");
    });

    test.each([
      ["0+1@-1", "user leaves, work"],
      ["0+1@0", "work, user leaves"],
      ["0+1@1", "work, user leaves 1 microtask later"],
      ["0+1@2", "work, user leaves 2 microtasks later"],
    ])("in the turn of a step, %s, it is drawn as %s", async (schedule, drawn) => {
      const scenario = async (world: World) => {
        const controller = new AbortController();
        const work = world.step("work");
        world.abort(controller, { label: "user leaves" });
        await work;
        for (let i = 0; i < 3; i++) await undefined;
        throw new Error("draw it");
      };
      const { message } = await failureOf(scenario, { schedule });

      expect(message).toMatch(new RegExp(`1 {2}${drawn} +scenario: user leaves$`, "m"));
    });

    test("an abort that never came is no leak", async () => {
      await interleavings((world) => world.abort(new AbortController()));
      await interleavings((world) => void abortSurely(world));
    });
  });
});

describe("timers", () => {
  test("fire in the order in which they are due, on a clock that jumps", async () => {
    const { runs } = await interleavings(async () => {
      const began = performance.now();
      const date = Date.now();
      const fired: string[] = [];
      const set = (ms: number) =>
        new Promise<void>((resolve) => {
          setTimeout(
            (name: string) => {
              fired.push(name);
              resolve();
            },
            ms,
            `${ms} ms`,
          );
        });
      await Promise.all([set(3_600_000), set(20), set(100)]);

      expect(fired).toEqual(["20 ms", "100 ms", "3600000 ms"]);
      expect(performance.now() - began).toBe(3_600_000);
      expect(Date.now() - date).toBe(3_600_000);
      expect(new Date().getTime()).toBe(Date.now());
    });

    expect(runs).toBe(1);
  });

  test("those that are due together fire in every order", async () => {
    const seen = new Set<string>();
    await interleavings(async () => {
      const fired: string[] = [];
      const set = (name: string, ms: number) =>
        new Promise<void>((resolve) => {
          setTimeout(() => resolve(void fired.push(name)), ms);
        });
      await Promise.all([set("a", 10), set("b", 10), set("c", 20)]);
      seen.add(fired.join(""));
    });

    expect([...seen].sort()).toEqual(["abc", "bac"]);
  });

  test("with late, any may fire after others that are due later", async () => {
    const seen = new Set<string>();
    const { exhaustive } = await interleavings(
      async () => {
        const fired: string[] = [];
        const set = (ms: number) =>
          new Promise<void>((resolve) => {
            setTimeout(() => resolve(void fired.push(`${ms} at ${performance.now() % 1000}`)), ms);
          });
        await Promise.all([set(10), set(20)]);
        seen.add(fired.join(", "));
      },
      { late: true },
    );

    const [start] = [2 ** 20 % 1000];
    expect(exhaustive).toBe(true);
    expect([...seen].sort()).toEqual([
      `10 at ${start + 10}, 20 at ${start + 20}`,
      `20 at ${start + 20}, 10 at ${start + 20}`,
    ]);
  });

  test("compete with steps: a timeout comes before the reply or after it", async () => {
    const seen = new Set<string>();
    await interleavings(async (world) => {
      const reply = world.step("reply").then(() => "reply");
      const late = new Promise<string>((resolve) => setTimeout(resolve, 100, "timeout"));
      seen.add(await Promise.race([reply, late]));
      await Promise.all([reply, late]);
    });

    expect([...seen].sort()).toEqual(["reply", "timeout"]);
  });

  test("a loop of timers doesn't keep others from going on", async () => {
    const { runs, exhaustive } = await interleavings(
      async (world) => {
        let isReady = false;
        const poll = async () => {
          while (!isReady) await new Promise((resolve) => setTimeout(resolve, 10));
        };
        const prepare = async () => {
          await world.step("prepare");
          isReady = true;
        };
        await Promise.all([world.spawn("poll", poll), world.spawn("prepare", prepare)]);
      },
      { maxRuns: 500, maxMs: Infinity },
    );

    expect(exhaustive).toBe(false);
    expect(runs).toBe(550);
  });

  test.each(["Timeout", "Interval", "Immediate"])(
    "set%s that is cleared, by itself or its number, leaves nothing",
    async (kind) => {
      type Timers = Record<string, (...args: unknown[]) => unknown>;
      const call = (name: string, ...args: unknown[]) =>
        (globalThis as unknown as Timers)[`${name}${kind}`]!(...args);
      await interleavings(() => {
        call(
          "clear",
          call("set", () => {}, 10),
        );
        call("clear", Number(call("set", () => {}, 10)));
      });

      const error = await failureOf(() => void call("set", () => {}, 10));

      expect(error.kind).toBe("leak");
      expect(error.message).toContain(`scenario: set${kind}`);
    },
  );

  test("a timer that is refreshed is due anew, and one that was cleared stays cleared", async () => {
    await interleavings(async () => {
      const start = performance.now();
      const times: number[] = [];
      const timer = setTimeout(() => times.push(performance.now() - start), 100);
      if (typeof timer === "number") return;
      const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
      await sleep(60);
      timer.refresh();
      await sleep(60);
      expect(times).toEqual([]);
      await sleep(60);
      timer.refresh();
      await sleep(101);
      expect(times).toEqual([160, 280]);
      timer.refresh();
      clearTimeout(timer);
      timer.refresh();
    });
  });

  test("an interval goes on until it is cleared", async () => {
    const times: number[] = [];
    await interleavings(async () => {
      const began = performance.now();
      await new Promise<void>((resolve) => {
        const interval = setInterval(() => {
          times.push(performance.now() - began);
          if (times.length < 3) return;
          clearInterval(interval);
          resolve();
        }, 10);
      });
    });

    expect(times).toEqual([10, 20, 30]);
  });

  test.each([[-1], [NaN], ["x"]])("AbortSignal.timeout(%s) is refused as outside", async (ms) => {
    const timeout = () => AbortSignal.timeout(ms as number);
    expect(timeout).toThrow();
    await interleavings(() => expect(timeout).toThrow());
  });

  test("setImmediate passes its arguments, and waits for nothing", async () => {
    await interleavings(async () => {
      const start = performance.now();
      const args = await new Promise((resolve) =>
        setImmediate((...args: number[]) => resolve(args), 50, 60),
      );

      expect(args).toEqual([50, 60]);
      expect(performance.now() - start).toBe(0);
    });
  });

  test("those that have numbers are cleared by their own", async () => {
    await interleavings(async () => {
      const [first, second] = [setTimeout(() => {}, 10), setTimeout(() => {}, 20)].map(Number);
      expect(second).not.toBe(first);
      clearTimeout(second);
      await new Promise((resolve) => setTimeout(resolve, 30));
    });
  });

  test("clearing one that has fired leaves the others alone", async () => {
    await interleavings(async (world) => {
      const fired = setTimeout(() => {}, 0);
      await new Promise((resolve) => setTimeout(resolve, 10));
      const step = world.step("step");
      clearTimeout(fired);
      await step;
    });
  });

  test("an interval that has fired is a leak as well", async () => {
    const { kind } = await failureOf(
      () => new Promise<void>((resolve) => void setInterval(resolve, 10)),
    );

    expect(kind).toBe("leak");
  });

  test("what setTimeout returns is what the platform's does", async () => {
    await interleavings(async () => {
      let fired = 0;
      const timer: any = setTimeout(() => fired++, 10);
      if (typeof timer === "number") return;
      expect(timer.unref().ref()).toBe(timer);
      expect(timer.hasRef()).toBe(true);
      timer[Symbol.dispose]();
      await new Promise((resolve) => setTimeout(resolve, 20));
      expect(fired).toBe(0);
    });
  });

  test("AbortSignal.timeout alone wakes who waits for it", async () => {
    const { events } = await replay(async () => {
      const signal = AbortSignal.timeout(10);
      await new Promise((resolve) => signal.addEventListener("abort", resolve));
      expect(signal.reason.message).toBe("The operation timed out.");
    }, "any");

    expect(events.map(({ state }) => state)).toEqual(["AbortSignal.timeout of 10 ms"]);
  });

  test("AbortSignal.timeout aborts in its time, and is no leak", async () => {
    const seen = new Set<boolean>();
    await interleavings(async (world) => {
      const signal = AbortSignal.timeout(100);
      await world.step("work");
      seen.add(signal.aborted);
      if (signal.aborted) expect(signal.reason.name).toBe("TimeoutError");
    });

    expect(seen).toEqual(new Set([true, false]));
  });

  test("what a timer throws is a failure", async () => {
    const cause = new Error("thrown");
    const error = await failureOf(async () => {
      await new Promise(() => {
        setTimeout(() => {
          throw cause;
        }, 10);
      });
    });

    expect(error.kind).toBe("failure");
    expect(error.cause).toBe(cause);
  });
});

describe("InterleavingError", () => {
  test("a failure has its cause", async () => {
    const cause = new TypeError("broken");
    const error = await failureOf(() => Promise.reject(cause));

    expect(error).toBeInstanceOf(Error);
    expect(error.name).toBe("InterleavingError");
    expect(error.cause).toBe(cause);
    expect(error.message).toContain("The scenario fails: TypeError: broken");
  });

  test.each(["a string", undefined, null, 5])("a failure with %s is one as well", async (cause) => {
    const error = await failureOf(() => Promise.reject(cause));

    expect(error.kind).toBe("failure");
    expect(error.cause).toBe(cause);
  });

  test("a deadlock names the wrapped calls that never reply", async () => {
    const error = await failureOf(async (world) => {
      const get = world.steps(() => new Promise(() => {}), "get");
      await world.spawn("ann", () => get());
    });

    expect(error.kind).toBe("deadlock");
    expect(error.message).toContain("nothing is left that could wake ann, in get().");
    expect("cause" in error).toBe(false);
  });

  test("a deadlock names for each task the call that it waits in, and no abort", async () => {
    const { message } = await failureOf(async (world) => {
      world.abort(new AbortController());
      const never = (name: string) => world.steps(() => new Promise(() => {}), name);
      const tasks = ["get", "put"].map((it) => world.spawn(`to ${it}`, () => never(it)()));
      await Promise.all([...tasks, world.spawn("bob", () => new Promise(() => {}))]);
    });

    expect(message).toContain(
      'nothing is left that could wake to get, in get(); to put, in put(); bob, after "starts".',
    );
  });

  test("a task's failure that nobody has asked for is told before a deadlock", async () => {
    const cause = new Error("broken");
    const error = await failureOf(async (world) => {
      void world.spawn("ann", () => {});
      void world.spawn("bob", () => Promise.reject(cause));
      await new Promise(() => {});
    });
    expect([error.kind, error.cause]).toEqual(["unhandled", cause]);
    expect(error.message).toContain("A rejection is unhandled: Error: broken");

    const asked = await failureOf(async (world) => {
      await world.spawn("bob", () => Promise.reject(cause)).catch(() => {});
      await new Promise(() => {});
    });
    expect(asked.kind).toBe("deadlock");
  });

  test("a scenario that waits alone is named as well", async () => {
    const { message } = await failureOf(() => new Promise(() => {}));

    expect(message).toContain("Deadlock: nothing is left that could wake the scenario.");
  });

  test("waiting for I/O is no deadlock", async () => {
    let ended = 0;
    await interleavings(async (world) => {
      await crypto.subtle.digest("SHA-256", new Uint8Array(1_000_000));
      await world.step("then");
      ended++;
    });

    expect(ended).toBe(1);
  });

  test.each([
    ["ends earlier", () => {}, "now there are nothing"],
    ["gets stuck", () => new Promise(() => {}), "now there are nothing"],
    ["waits for less", (world) => world.step("a"), "now there are scenario: a."],
    [
      "waits for more",
      (world) => Promise.all(["a", "b", "c"].map((label) => world.step(label))),
      "now there are scenario: a; scenario: b; scenario: c.",
    ],
  ] as [string, (world: World) => unknown, string][])(
    "a scenario that %s, unlike the run before, is not deterministic",
    async (_, other, text) => {
      let runs = 0;
      const error = await failureOf(async (world) => {
        if (runs++ === 0) await Promise.all([world.step("a"), world.step("b")]);
        else await other(world);
      });

      expect(error.kind).toBe("nondeterministic");
      expect(error.message).toContain("At choice 1 there were scenario: a; scenario: b, and");
      expect(error.message).toContain(text);
    },
  );

  test("a scenario that starts other tasks than before is not deterministic", async () => {
    let runs = 0;
    const error = await failureOf(async (world) => {
      const name = runs++ === 0 ? "ann" : "bob";
      await Promise.all([world.step("a"), world.spawn(name, () => {})]);
    });

    expect(error.kind).toBe("nondeterministic");
    expect(error.message).toContain("scenario: a; ann: starts, and now there are");
    expect(error.message).toContain("scenario: a; bob: starts.");
  });

  test("two calls alike are both drawn as pending", async () => {
    const { message, switches } = await failureOf(async (world) => {
      await Promise.all([world.step("same"), world.step("same")]);
      throw new Error("draw it");
    });

    expect(switches).toBe(0);
    expect(message).toContain("The order, with 0 switches:\n");
    expect(message).toMatch(/1 {2}same +scenario: same$/m);
  });

  test("each wait for I/O has its own time before a deadlock is named", async () => {
    const { setTimeout: realTimeout } = globalThis;
    await interleavings(async (world) => {
      for (let round = 0; round < 2; round++) {
        // Together more turns than are waited for.
        for (let turn = 0; turn < 35; turn++) await new Promise((r) => realTimeout(r, 1));
        await world.step("then");
      }
    });
  });

  test.each([
    ["setTimeout of 10 ms", () => void setTimeout(() => {}, 10)],
    ["setTimeout", () => void setTimeout(() => {}, 0)],
    ["setInterval of 1 ms", () => void setInterval(() => {}, 0)],
    ["setImmediate", () => void setImmediate(() => {})],
  ])("a timer that is left is named: %s", async (name, scenario) => {
    const { message } = await failureOf(scenario);

    expect(message).toContain(`something is left: scenario: ${name}.`);
  });

  test("timers alone, fired as they are due, need no switch", async () => {
    const { switches } = await failureOf(async () => {
      await new Promise((resolve) => setTimeout(resolve, 10));
      throw new Error("at once");
    });

    expect(switches).toBe(0);
  });

  test("a task that still waits when the scenario has ended is a leak", async () => {
    const { kind, message } = await failureOf(async (world) => {
      void world.spawn("forgotten", async () => {
        await world.step("begin");
        await new Promise(() => {});
      });
      await world.step("a");
      await world.step("b");
      await world.step("c");
    });

    expect(kind).toBe("leak");
    expect(message).toContain("something is left: forgotten: starts.");
    const both = await failureOf(async (world) => {
      const { promise, resolve } = Promise.withResolvers<void>();
      void world.spawn("stuck", () => new Promise(() => resolve()));
      await promise;
      world.abort(new AbortController());
      void world.step("forgotten");
    });
    expect(both.message).toContain(
      'something is left: stuck, after "starts"; scenario: forgotten.',
    );
    const waiting = await failureOf(async (world) => {
      const { promise, resolve } = Promise.withResolvers<void>();
      void world.spawn("stuck", async () => {
        resolve();
        await new Promise(() => {});
      });
      await promise;
    });
    expect(waiting.message).toContain('something is left: stuck, after "starts".');
  });

  test.each([
    { steps: 60, left: 0 },
    { steps: 62, left: 2 },
  ])("of $steps choices it leaves out $left in the middle", async ({ steps, left }) => {
    const { message } = await failureOf(async (world) => {
      for (let step = 1; step <= steps; step++) await world.step("go");
      throw new Error("draw it");
    });

    expect(message.match(/^ +\d+ {2}go$/gm)).toHaveLength(60);
    expect(message.match(/^ +… (\d+) choices …$/m)?.[1]).toBe(left > 0 ? `${left}` : undefined);
  });

  test("a scenario that doesn't end is given up", async () => {
    const { kind, message } = await failureOf(async (world) => {
      for (;;) await world.step("again");
    });

    expect(kind).toBe("endless");
    expect(message).toContain("1000 choices were made");
  });
});

describe("the budget", () => {
  const steps = (count: number) => async (world: World) => {
    await Promise.all(Array.from({ length: count }, (_, i) => world.step(`${i}`)));
  };

  test("after maxRuns it goes on at random for a tenth as many, and says so", async () => {
    const result = await interleavings(steps(6), { maxRuns: 100, maxMs: Infinity, seed: 5 });

    expect(result).toEqual({ runs: 110, cut: 0, orders: 110, exhaustive: false, seed: 5 });
  });

  test("a search that ends with its last run is exhaustive", async () => {
    expect(await interleavings(steps(4), { maxRuns: 24 })).toMatchObject({ exhaustive: true });
    expect(await interleavings(steps(4), { maxRuns: 23 })).toMatchObject({ exhaustive: false });
  });

  test("runs that were cut count as well", async () => {
    const declared = async (world: World) => {
      const twice = (on: string) => world.step(on, { on }).then(() => world.step(on, { on }));
      await Promise.all(["x", "y", "z"].map(twice));
    };
    const { runs, cut } = await interleavings(declared);
    expect([runs, cut > 1]).toEqual([1, true]);

    const result = await interleavings(declared, { maxRuns: cut });
    expect(result).toMatchObject({ cut: cut - 1, exhaustive: false });
  });

  test("maxMs are real milliseconds, and a tenth more for random orders", async () => {
    const { now } = performance;
    let ms = 0;
    performance.now = () => ms;
    try {
      const limits = { maxMs: 20, seed: 5, onOrder: () => void ms++ };
      const result = await interleavings(steps(5), limits);
      expect(result).toMatchObject({ runs: 22, exhaustive: false });
    } finally {
      performance.now = now;
    }
  });

  test("a maxMs of 0 leaves the rest to chance at once", async () => {
    const result = await interleavings(steps(4), { maxMs: 0, maxRuns: 10 });

    expect(result).toMatchObject({ runs: 0, exhaustive: false });
  });

  test("the same seed gives the same random orders, another one others", async () => {
    const orders = async (seed: number) => {
      const seen: string[] = [];
      await interleavings(
        async (world) => {
          const order: number[] = [];
          const step = (i: number) => world.step(`${i}`).then(() => order.push(i));
          await Promise.all([0, 1, 2, 3, 4, 5].map(step));
          seen.push(order.join(""));
        },
        { maxRuns: 100, maxMs: Infinity, seed },
      );
      return seen.slice(100);
    };

    expect(await orders(1)).toEqual(await orders(1));
    expect(await orders(1)).not.toEqual(await orders(2));
    // On any platform.
    expect((await orders(1)).slice(0, 3)).toEqual(["503124", "012345", "104235"]);
  });

  describe("a random order", () => {
    /** Three hundred of them. */
    const sample = async (scenario: (world: World) => unknown) => {
      const orders: InterleavingsOrder[] = [];
      const onOrder = (order: InterleavingsOrder) => void orders.push(order);
      await interleavings(scenario, { onOrder, maxRuns: 3000, maxMs: Infinity, seed: 7 });
      return orders.slice(3000);
    };

    test("leaves a task for another twice at most before it has ended, at any of its steps", async () => {
      const names = ["ann", "bob", "cyd"];
      const moments = new Set<number>();
      const counts = [0, 0, 0];
      const orders = await sample(async (world) => {
        const task = async () => {
          for (let n = 0; n < 3; n++) await world.step("step");
        };
        await Promise.all(names.map((name) => world.spawn(name, task)));
      });
      for (const { events } of orders) {
        const left = { ann: 4, bob: 4, cyd: 4 } as Record<string, number>;
        let switches = 0;
        const chosen = events.filter(({ state }) => state !== "done");
        for (const [n, { lane }] of chosen.entries()) {
          const last = n > 0 ? chosen[n - 1]!.lane : lane;
          if (lane !== last && left[last]! > 0) {
            switches++;
            moments.add(n);
          }
          left[lane]!--;
        }
        counts[switches]!++;
      }

      expect(counts).toHaveLength(3);
      expect(Math.min(...counts)).toBeGreaterThan(10);
      // The last task can't be left, and no task before it has begun.
      expect([...moments].sort((a, b) => a - b)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    });

    test("has what has waited longest in a task more often than not", async () => {
      const orders = await sample(async (world) => {
        await Promise.all(Array.from({ length: 7 }, (_, n) => world.step(`${n}`)));
      });
      const inOrder = orders.filter(({ events }) => events[0]!.state === "0");

      expect(inOrder.length / orders.length).toBeGreaterThan(0.5);
      expect(inOrder.length).toBeLessThan(orders.length);
    });

    test("has an abort before all else as often as after something", async () => {
      const orders = await sample(async (world) => {
        world.abort(new AbortController());
        for (let n = 0; n < 5; n++) await world.step(`${n}`);
        await Promise.all(Array.from({ length: 5 }, (_, n) => world.step(`${n}`)));
      });
      const first = orders.filter(({ events }) => events[0]!.state === "abort");

      expect(first.length / orders.length).toBeGreaterThan(0.4);
      expect(first.length / orders.length).toBeLessThan(0.6);
    });
  });

  test("what only a random order has is found, and can be replayed", async () => {
    const scenario = async (world: World) => {
      const order: string[] = [];
      const task = (name: string) => async () => {
        for (let i = 0; i < 6; i++) {
          await world.step(`${i}`);
          order.push(name);
        }
      };
      await Promise.all(["a", "b", "c"].map((name) => world.spawn(name, task(name))));
      // Reached by two switches, but only after thousands of others.
      if (order.join("").startsWith("aaabbbb")) throw new Error("found");
    };
    const error = await failureOf(scenario, { maxRuns: 2000, maxMs: Infinity, seed: 3 });

    const again = await failureOf(scenario, { schedule: error.schedule });

    expect(again.message).toBe(error.message);
  });

  test("progress is told after every thousand runs", async () => {
    const told: InterleavingsProgress[] = [];
    const onProgress = (progress: InterleavingsProgress) => told.push(progress);
    await interleavings(steps(7), { maxRuns: 2001, maxMs: Infinity, onProgress });

    expect(told.map(({ runs }) => runs)).toEqual([1000, 2000]);
    const [first, second] = told;
    expect(second!.switches).toBeGreaterThanOrEqual(first!.switches);
    expect(first!.waiting).toBeGreaterThan(0);
  });

  test("progress counts runs that were cut; nobody needs to listen", async () => {
    const declared = async (world: World) => {
      const twice = (on: string) => world.step(on, { on }).then(() => world.step(on, { on }));
      await Promise.all([...["v", "w", "x", "y", "z"].map(twice), world.step("any")]);
    };
    const limits = { maxRuns: 1200, maxMs: Infinity, seed: 1 };
    const told: number[] = [];
    const onProgress = ({ runs }: InterleavingsProgress) => told.push(runs);
    const result = await interleavings(declared, { ...limits, onProgress });

    expect(result.cut).toBeGreaterThan(0);
    expect(told).toEqual([1000]);
    expect(await interleavings(declared, limits)).toEqual(result);
  });

  test("its signal ends a run that waits for I/O at once", async () => {
    const controller = new AbortController();
    const reason = new Error("enough");
    const { setTimeout: realTimeout } = globalThis;
    const run = interleavings(
      () => {
        realTimeout(() => controller.abort(reason), 1);
        return new Promise(() => {});
      },
      { signal: controller.signal },
    );

    await expect(run).rejects.toBe(reason);
  });

  test("its signal, aborted while progress is told, ends it before the next run", async () => {
    const controller = new AbortController();
    let runs = 0;
    const run = interleavings(
      async (world) => {
        runs++;
        await Promise.all(Array.from({ length: 7 }, (_, n) => world.step(`${n}`)));
      },
      { onProgress: () => controller.abort("enough"), signal: controller.signal, maxMs: Infinity },
    );

    await expect(run).rejects.toBe("enough");
    expect(runs).toBe(1000);
  });

  test("after its abort nothing goes on", async () => {
    const controller = new AbortController();
    let wentOn = false;
    const run = interleavings(
      async (world) => {
        const step = world.step("step").then(() => (wentOn = true));
        controller.abort("enough");
        await step;
      },
      { signal: controller.signal },
    );

    await expect(run).rejects.toBe("enough");
    // A second one has the stage for itself at once.
    expect(await interleavings((world) => world.step("step"))).toMatchObject({ runs: 1 });
    expect(wentOn).toBe(false);
  });

  test("its signal, aborted from inside, ends the run as well", async () => {
    const controller = new AbortController();
    let told = "";
    const run = interleavings(
      async (world) => {
        controller.abort("enough");
        await world.step("after").catch((error) => (told = error.message));
      },
      { signal: controller.signal },
    );

    await expect(run).rejects.toBe("enough");
    expect(told).toBe("Cannot wait for step: its run has ended");
  });

  test("runs that are left on the way leave no listener on a signal from outside", async () => {
    const { signal } = new AbortController();
    const listeners = new Set<unknown>();
    const { addEventListener, removeEventListener } = signal;
    signal.addEventListener = (...args: [string, unknown]) => {
      listeners.add(args[1]);
      Reflect.apply(addEventListener, signal, args);
    };
    signal.removeEventListener = (...args: [string, unknown]) => {
      listeners.delete(args[1]);
      Reflect.apply(removeEventListener, signal, args);
    };
    const { cut } = await interleavings(async (world) => {
      const step = (on: string) => world.step(on, { on, signal });
      await Promise.all([step("a"), step("b").then(() => step("b"))]);
    });

    expect(cut).toBeGreaterThan(0);
    expect(listeners.size).toBe(0);
  });

  test("its signal ends it between two runs, and rejects with the reason", async () => {
    const controller = new AbortController();
    const reason = new Error("enough");
    let runs = 0;
    const exploring = interleavings(
      async (world) => {
        if (++runs === 3) controller.abort(reason);
        await steps(5)(world);
      },
      { signal: controller.signal },
    );

    expect(await exploring.catch((error) => error)).toBe(reason);
    expect(runs).toBe(3);
    const { signal } = controller;
    expect(await interleavings(steps(1), { signal }).catch((error) => error)).toBe(reason);
  });
});

describe("the house it visits", () => {
  const globals = () => [
    setTimeout,
    setInterval,
    setImmediate,
    clearTimeout,
    clearInterval,
    clearImmediate,
    Date,
    performance.now,
    AbortSignal.timeout,
  ];
  const before = globals();
  afterEach(() => expect(globals()).toEqual(before));

  test.each([
    ["it has succeeded", () => {}],
    ["it has failed", () => Promise.reject(new Error("failed"))],
    ["it was stuck", () => new Promise(() => {})],
  ])("is as it was when %s", async (_, scenario) => {
    await interleavings(scenario).catch(() => {});

    expect(globals()).toEqual(before);
  });

  test("can't have two at once, nor virtual time", async () => {
    const message = "a virtual clock runs already (it can't be nested or concurrent)";
    const nested = (inner: () => Promise<unknown>) => async () => {
      await expect(inner()).rejects.toThrow(message);
    };

    await interleavings(nested(() => interleavings(() => {})));
    await interleavings(nested(() => virtualTime(() => {})));
    await virtualTime(nested(() => interleavings(() => {})));
  });

  test("what doesn't belong to a run keeps the platform's timers", async () => {
    const { promise, resolve } = Promise.withResolvers<void>();
    // Set before, it comes in the middle of a run, and sets another.
    setTimeout(() => setTimeout(resolve, 0), 0);

    const { runs } = await interleavings(async (world) => {
      await promise;
      await world.step("then");
    });

    expect(runs).toBe(1);
  });

  test("a choice takes one turn of the event loop", async () => {
    const { setImmediate: nextTurn } = globalThis;
    let turns = 0;
    let isOver = false;
    const count = () => {
      turns++;
      if (!isOver) nextTurn(count);
    };
    nextTurn(count);
    await interleavings(async (world) => {
      for (let step = 0; step < 100; step++) await world.step("go");
    });
    isOver = true;

    expect(turns).toBeLessThan(110);
  });

  test("a timer that was set before can be cleared in a run", async () => {
    let fired = false;
    const before = setTimeout(() => (fired = true), 1);

    const { runs } = await interleavings(async (world) => {
      clearTimeout(before);
      clearTimeout(undefined);
      await world.step("then");
    });
    await new Promise((resolve) => setTimeout(resolve, 2));

    expect([runs, fired]).toEqual([1, false]);
  });

  test("between two runs timers are the platform's, too", async () => {
    const { setTimeout: outside } = globalThis;
    const { runs } = await interleavings(
      async (world) => {
        await Promise.all([world.step("a"), world.step("b")]);
      },
      {
        onOrder() {
          expect(setTimeout).not.toBe(outside);
          const timer = setTimeout(() => {}, 10_000);
          expect(Number(timer)).toBeLessThan(2 ** 30);
          clearTimeout(Number(timer));
          clearTimeout(undefined);
        },
      },
    );

    expect(runs).toBe(2);
  });

  test("timers want functions", async () => {
    for (const name of ["setTimeout", "setInterval", "setImmediate"] as const) {
      const { message } = await failureOf(() => void globalThis[name](5 as never));
      expect(message).toContain(`Cannot call ${name}: callback must be a function, received 5`);
    }
  });

  test("a hold that the scenario returns is released", async () => {
    let released = 0;
    const { runs } = await interleavings(async (world) => {
      await Promise.all([world.step("a"), world.step("b")]);
      return { release: () => released++, [Symbol.dispose]() {} };
    });

    expect([runs, released]).toEqual([2, 2]);
  });

  // Other runners listen, too, and take it for their own.
  test.skipIf(!Bun)(
    "an unhandled rejection is that of its run, or nobody's (needs Bun)",
    async () => {
      const { process } = globalThis as { process?: any };
      const cause = new Error("nobody asks");
      const tell = () => process.emit("unhandledRejection", cause);
      const before = process.listenerCount("unhandledRejection");
      const error = await failureOf(async (world) => {
        tell();
        await world.step("step");
      });
      expect([error.kind, error.cause]).toEqual(["unhandled", cause]);

      const { runs } = await interleavings((world) => world.step("step"), {
        onOrder: () => void tell(),
      });
      expect(runs).toBe(1);
      expect(process.listenerCount("unhandledRejection")).toBe(before);
    },
  );

  // Deno's process uses them.
  test.skipIf(!Bun)("needs no global events, which Node doesn't have (needs Bun)", async () => {
    const { addEventListener, removeEventListener } = globalThis;
    Object.assign(globalThis, { addEventListener: undefined, removeEventListener: undefined });
    try {
      expect((await interleavings(() => {})).runs).toBe(1);
    } finally {
      Object.assign(globalThis, { addEventListener, removeEventListener });
    }
  });

  test("a setTimeout kept from inside is the platform's afterwards", async () => {
    let kept: typeof setTimeout | undefined;
    await interleavings(() => void (kept = setTimeout));

    await new Promise<void>((resolve) => kept!(resolve, 0));
  });

  // Other runners use process meanwhile.
  test.skipIf(!Bun)("needs nothing that browsers don't have (needs Bun)", async () => {
    const { promise, resolve } = Promise.withResolvers<string>();
    await asInBrowsers(async () => {
      const { runs } = await interleavings(
        async (world) => {
          const task = async () => {
            const timer = setTimeout(() => {}, 1000);
            expect(typeof timer).toBe("number");
            clearTimeout(timer);
            for (let step = 0; step < 2; step++) await world.step("go");
          };
          await Promise.all(["a", "b", "c"].map((name) => world.spawn(name, task)));
          await new Promise((then) => setTimeout(then, 1000));
        },
        // It belongs to no run, and its timer is the platform's.
        { maxMs: Infinity, onProgress: () => void setTimeout(resolve, 0, "fired") },
      );
      expect(runs).toBe(1680);
    });
    expect(await promise).toBe("fired");
  });

  test.skipIf(!Bun)("names a deadlock in browsers (needs Bun)", () =>
    asInBrowsers(async () => {
      const outside = setTimeout(() => {}, 1);
      const error = await failureOf(async () => {
        clearTimeout(outside);
        await new Promise(() => {});
      });

      expect(error.kind).toBe("deadlock");
    }),
  );

  test.skipIf(!Bun)("an unhandled rejection is that of its order in browsers (needs Bun)", () => {
    // A browser has a queue of turns. It tells of the rejection in one that is put behind the others.
    const {
      setImmediate: nextTurn,
      MessageChannel,
      addEventListener,
      removeEventListener,
    } = globalThis;
    const listeners = new Map<(event: object) => void, string>();
    let prevented = 0;
    const tell = () => {
      const event = { reason: new Error("nobody asks"), preventDefault: () => void prevented++ };
      for (const [listener, type] of listeners) if (type === "unhandledrejection") listener(event);
    };
    class Channel {
      readonly port1 = { onmessage: () => {}, close: () => {} };
      readonly port2 = { postMessage: () => void nextTurn(() => this.port1.onmessage()) };
    }
    return asInBrowsers(async () => {
      Object.assign(globalThis, {
        MessageChannel: Channel,
        addEventListener: (type: string, listener: () => void) => listeners.set(listener, type),
        removeEventListener: (type: string, listener: () => void) =>
          listeners.get(listener) === type && listeners.delete(listener),
      });
      try {
        const failing: string[] = [];
        const { runs } = await interleavings(
          async (world) => {
            const order: string[] = [];
            await Promise.all(["a", "b"].map((it) => world.step(it).then(() => order.push(it))));
            if (order[0] === "b") nextTurn(tell);
          },
          {
            onOrder({ error, schedule }) {
              if (error) failing.push(`${schedule}: ${error.kind}`);
              return true;
            },
          },
        );

        expect({ runs, failing, prevented }).toEqual({
          runs: 2,
          failing: ["1: unhandled"],
          prevented: 1,
        });
        expect(listeners.size).toBe(0);
      } finally {
        Object.assign(globalThis, { MessageChannel, addEventListener, removeEventListener });
      }
    });
  });

  test.skipIf(!Bun)("in browsers a task's own world tells whose a step is (needs Bun)", () =>
    asInBrowsers(async () => {
      let lanes: string[] = [];
      const onOrder = ({ events }: InterleavingsOrder) => {
        const steps = events.filter(({ state }) => !["starts", "done"].includes(state));
        lanes = steps.map(({ lane, state }) => `${lane}: ${state}`);
      };
      await interleavings(
        async (world) => {
          const { promise, resolve } = Promise.withResolvers<void>();
          // Woken in the waker's turn.
          const sleeper = world.spawn("sleeper", async (own) => {
            await promise;
            await own.step("step");
            await own.steps(async (_id: number) => {}, "reply")(1);
            await own.steps(() => {}, "call", { at: "call" })();
            await own.steps(() => {}, "both", { at: "both" })();
            const controller = new AbortController();
            own.abort(controller, { surely: true, label: "leave" });
            await new Promise((left) => controller.signal.addEventListener("abort", left));
          });
          await Promise.all([sleeper, world.spawn("waker", () => resolve())]);
        },
        { schedule: "any", onOrder },
      );

      const steps = ["step", "reply(1)", "call()", "both()", "both() replies", "leave"];
      expect(lanes).toEqual(steps.map((it) => `sleeper: ${it}`));
    }),
  );

  test.skipIf(!Bun)("ends with a test that hasn't awaited it (needs Bun)", async () => {
    const concept = new URL("../concepts/interleavings.ts", import.meta.url).pathname;
    const file = `/tmp/interleavings-${crypto.randomUUID()}.test.ts`;
    await Bun.write(
      file,
      `import { expect, test } from "bun:test";
      import { interleavings } from "${concept}";
      let forgotten;
      test("forgets", () => {
        forgotten = interleavings(() => new Promise(() => {})).catch((error) => error);
      });
      test("next", async () => {
        expect((await forgotten).message).toBe(
          "The test has ended before the exploration. Was it awaited?",
        );
        expect((await interleavings(() => {})).runs).toBe(1);
      });`,
    );
    // Outside the repository, whose bunfig.toml may hide the tests that pass.
    const command = [process.execPath, "test", file];
    const child = Bun.spawn(command, { cwd: "/tmp", stdout: "ignore", stderr: "pipe" });
    const output = await new Response(child.stderr).text();
    await Bun.file(file).delete();

    expect(output).toContain("(pass) next");
  });

  test("refuses to run under fake timers", async () => {
    vi.useFakeTimers();
    try {
      await expect(interleavings(() => {})).rejects.toThrow("fake timers are active");
    } finally {
      vi.useRealTimers();
    }
  });
});

describe("arguments", () => {
  test.each([
    [[undefined], TypeError, "scenario must be a function, received undefined"],
    [[() => {}, 5], TypeError, "options must be an object, received 5"],
    [[() => {}, { maxRuns: 0 }], RangeError, "maxRuns must be a positive integer, received 0"],
    [[() => {}, { maxMs: -1 }], RangeError, "maxMs must be"],
    [[() => {}, { late: 1 }], TypeError, "late must be a boolean, received 1"],
    [[() => {}, { seed: -1 }], RangeError, "seed must be"],
    [[() => {}, { schedule: 5 }], TypeError, "schedule must be a string, received 5"],
    ...["", "x", "x0", "0x", "0.", "0+1", "0+1@x"].map(
      (schedule) =>
        [
          [() => {}, { schedule }],
          RangeError,
          `schedule must be what an InterleavingError names, received "${schedule}"`,
        ] as const,
    ),
    [[() => {}, { onProgress: 5 }], TypeError, "onProgress must be a function, received 5"],
    [[() => {}, { onOrder: 5 }], TypeError, "onOrder must be a function, received 5"],
    [[() => {}, { signal: 5 }], TypeError, "signal must be an AbortSignal, received 5"],
  ])("interleavings refuses %j", async (args, kind, message) => {
    const error = await Reflect.apply(interleavings, undefined, args).catch((it: unknown) => it);

    expect(error).toBeInstanceOf(kind);
    expect(String(error)).toContain(`Cannot explore interleavings: ${message}`);
  });

  test.each(["7", "0!", "0+7@0"])(
    "the schedule %s is refused if it doesn't fit",
    async (schedule) => {
      const { message } = await interleavings((world) => world.step("only"), {
        schedule,
      }).catch((error) => error);

      expect(message).toBe(
        `Cannot explore interleavings: the schedule doesn't fit, there is no ${schedule} at choice 1`,
      );
    },
  );

  test("a schedule may name more than ten that wait", async () => {
    const scenario = async (world: World) => {
      const steps = Array.from({ length: 12 }, (_, n) => world.step(`${n}`));
      world.abort(new AbortController());
      await Promise.all(steps);
    };

    const { events, schedule } = await replay(scenario, "10.11+12@0");

    expect(events.slice(0, 2).map(({ state }) => state)).toEqual(["10", "11, abort"]);
    expect(schedule).toBe("10.11+12@0");
  });

  test.each([
    ["step", [5], "Cannot wait for step: label must be a string, received 5"],
    ["step", ["a", { on: 5 }], "Cannot wait for step: on must be a string, received 5"],
    ["step", ["a", { signal: 5 }], "Cannot wait for step: signal must be an AbortSignal"],
    ["steps", [5], "Cannot wrap function: fn must be a function, received 5"],
    ["steps", [() => {}, 5], "Cannot wrap function: name must be a string, received 5"],
    [
      "steps",
      [() => {}, "f", { at: "end" }],
      'Cannot wrap function: at must be "reply", "call" or',
    ],
    ["steps", [() => {}, "f", { on: 5 }], "Cannot wrap function: on must be a string, received 5"],
    ["spawn", [5, () => {}], "Cannot spawn task: name must be a string, received 5"],
    ["spawn", ["a", 5], "Cannot spawn task: task must be a function, received 5"],
    ["abort", [5], "Cannot abort controller: controller must be an AbortController, received 5"],
    [
      "abort",
      [null],
      "Cannot abort controller: controller must be an AbortController, received null",
    ],
    [
      "abort",
      [new AbortController(), { label: 5 }],
      "Cannot abort controller: label must be a string, received 5",
    ],
  ] as const)("world.%s refuses %j", async (method, args, message) => {
    const error = await interleavings(async (world) => {
      await Reflect.apply(world[method], world, args as unknown as []);
    }).catch((it: unknown) => it);

    expect(String(error)).toContain(message);
    expect((error as InterleavingError).cause).toBeInstanceOf(TypeError);
  });
});

/** What the scenario is refused for. */
async function failureOf(
  scenario: (world: World) => unknown,
  options?: InterleavingsOptions,
): Promise<InterleavingError> {
  const error: unknown = await interleavings(scenario, options).then(
    (result) => new Error(`nothing failed: ${JSON.stringify(result)}`),
    (error: unknown) => error,
  );
  if (!(error instanceof InterleavingError)) throw error;
  return error;
}

/** One order of a scenario. */
async function replay(
  scenario: (world: World) => unknown,
  schedule: string,
): Promise<InterleavingsOrder> {
  const orders: InterleavingsOrder[] = [];
  const onOrder = (order: InterleavingsOrder) => orders.push(order) > 0;
  const result = await interleavings(scenario, { schedule, onOrder });
  expect(result).toEqual({ runs: 1, cut: 0, orders: 1, exhaustive: false });
  return orders[0]!;
}

function abortSurely(world: World): AbortController {
  const controller = new AbortController();
  world.abort(controller, { surely: true });
  return controller;
}

/** Without what only Bun, Node and Deno have, and with timers that are functions of the window only. */
async function asInBrowsers(test: () => Promise<void>): Promise<void> {
  const hidden = ["process", "setImmediate", "clearImmediate", "Temporal"];
  const strict = ["setTimeout", "clearTimeout"];
  const before = [...hidden, ...strict].map(
    (it) => [it, Object.getOwnPropertyDescriptor(globalThis, it)] as const,
  );
  for (const name of hidden) Reflect.deleteProperty(globalThis, name);
  for (const name of strict) {
    const original: Function = Reflect.get(globalThis, name);
    Reflect.set(globalThis, name, function (this: unknown, ...args: unknown[]): unknown {
      if (this && this !== globalThis) throw new TypeError("Illegal invocation");
      return original(...args);
    });
  }
  try {
    await test();
  } finally {
    for (const [name, own] of before) if (own) Object.defineProperty(globalThis, name, own);
  }
}

async function lostUpdate(world: World): Promise<void> {
  let balance = 0;
  const deposit = async () => {
    const before = balance;
    await world.step("write");
    balance = before + 1;
  };
  await Promise.all([world.spawn("ann", deposit), world.spawn("bob", deposit)]);
  if (balance !== 2) throw new Error(`the balance is ${balance}`);
}

interface Lock {
  lock(): Promise<void>;
  unlock(): void;
}

function makeLock(): Lock {
  let isLocked = false;
  const waiters: (() => void)[] = [];
  return {
    async lock() {
      if (isLocked) return new Promise((resolve) => waiters.push(resolve));
      isLocked = true;
    },
    unlock() {
      const next = waiters.shift();
      if (next) next();
      else isLocked = false;
    },
  };
}

function makeSemaphore(isMended: boolean) {
  const waiters: (() => void)[] = [];
  const semaphore = {
    free: 1,
    async acquire(signal?: AbortSignal): Promise<void> {
      signal?.throwIfAborted();
      if (semaphore.free > 0) return void semaphore.free--;
      await new Promise<void>((resolve, reject) => {
        waiters.push(resolve);
        signal?.addEventListener("abort", () => {
          const index = waiters.indexOf(resolve);
          if (index >= 0) waiters.splice(index, 1);
          reject(signal.reason);
        });
      });
      if (!signal?.aborted) return;
      // It was let in, and aborted in the same turn.
      if (isMended) semaphore.release();
      throw signal.reason;
    },
    release(): void {
      const next = waiters.shift();
      if (next) next();
      else semaphore.free++;
    },
  };
  return semaphore;
}

/** For each task what its start and each of its steps touch. */
type Program = string[][][];

function randomProgram(seed: number): Program {
  let state = seed * 7919;
  const below = (n: number) => {
    state = (state * 1103515245 + 12345) % 2 ** 31;
    return Math.floor((state / 2 ** 31) * n);
  };
  const touched = () => ["x", "y", "z"].filter(() => below(3) === 0);
  return Array.from({ length: 2 + below(2) }, () => Array.from({ length: 1 + below(3) }, touched));
}

/** Runs a program; two orders are of one class if for all that is touched they agree on the order. */
async function explore(
  program: Program,
  declares: boolean,
  forbidden?: string,
  also?: "fails" | "aborts",
) {
  const classes = new Set<string>();
  let error: InterleavingError | undefined;
  const scenario = async (world: World) => {
    const order: { event: string; on: string[] }[] = [];
    const controller = new AbortController();
    controller.signal.onabort = () => order.push({ event: "abort", on: ["x", "y", "z"] });
    if (also === "aborts") world.abort(controller);
    const fails = also === "fails";
    const tasks = program.map(([start, ...steps], i) =>
      world.spawn(
        `task ${i}`,
        async () => {
          order.push({ event: `${i}.0`, on: start! });
          for (const [at, on] of steps.entries()) {
            const options = { fails, signal: controller.signal };
            const step = world.step(`step ${at + 1}`, declares ? { on, ...options } : options);
            const outcome = await step.then(
              () => (controller.signal.aborted ? " late" : ""),
              () => " failed",
            );
            order.push({ event: `${i}.${at + 1}${outcome}`, on });
          }
        },
        declares ? { on: start! } : {},
      ),
    );
    await Promise.all(tasks);
    const name = classOf(order);
    classes.add(name);
    if (name === forbidden) throw new Error("forbidden");
  };
  const result = await interleavings(scenario, { maxMs: 60_000 }).catch((caught: unknown) => {
    error = caught as InterleavingError;
    return { runs: 0, cut: 0, orders: 0, exhaustive: false };
  });
  return { classes, result, error };
}

function classOf(order: { event: string; on: string[] }[]): string {
  const names = ["x", "y", "z"];
  return names
    .map((name) => `${name}: ${order.flatMap((it) => (it.on.includes(name) ? [it.event] : []))}`)
    .join("; ");
}
