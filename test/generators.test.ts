/**
 * How to test streams: with sources that count how they are used, and consumers that leave in every
 * way. Start with the first part. The second holds one contract against every operator; then comes
 * what is particular to each. Time is virtual throughout.
 */
import { describe, expect, expectTypeOf, test } from "bun:test";

import {
  batch,
  buffer,
  concat,
  debounce,
  drop,
  filter,
  flatMap,
  fromEvent,
  interval,
  lines,
  map,
  merge,
  parallelMap,
  scan,
  type Source,
  type Stream,
  switchMap,
  take,
  takeUntil,
  takeWhile,
  tee,
  throttle,
  zip,
} from "../concepts/generators.ts";
import { interleavings, type World } from "../concepts/interleavings.ts";
import { type VirtualClock, virtualTime } from "../concepts/virtual-time.ts";

describe("Start here", () => {
  test("a stream is read with a loop, or collected into an array", async () => {
    const doubled: number[] = [];
    for await (const n of map([1, 2, 3], (n) => 2 * n)) doubled.push(n);

    expect(doubled).toEqual([2, 4, 6]);
    expect(await Array.fromAsync(map([1, 2, 3], (n) => 2 * n))).toEqual([2, 4, 6]);
  });

  test("a source that counts shows how much is pulled: no more than is asked for", async () => {
    let pulled = 0;
    const source = async function* () {
      while (true) yield ++pulled;
    };

    expect(await Array.fromAsync(take(source(), 2))).toEqual([1, 2]);

    expect(pulled).toBe(2);
  });

  test("a break closes the source, and waits for its cleanup", async () => {
    await virtualTime(async (clock) => {
      const source = async function* () {
        try {
          yield* [1, 2, 3];
        } finally {
          await sleep(50);
        }
      };

      for await (const _ of map(source(), (n) => n)) break;

      expect(clock.elapsed).toBe(50);
    });
  });

  test("with virtual time the moment at which a value comes is exact", async () => {
    await virtualTime(async (clock) => {
      const seen: string[] = [];
      for await (const chunk of batch(comeAt(10, 20, 300), 9, { maxWait: 100 })) {
        seen.push(`${chunk} at ${clock.elapsed}`);
      }

      expect(seen).toEqual(["10,20 at 110", "300 at 300"]);
    });
  });

  test("trap: a stream can be read once, as a generator", async () => {
    const stream = map([1, 2], (n) => n);
    await Array.fromAsync(stream);

    expect(await Array.fromAsync(stream)).toEqual([]);
  });

  test("trap: leaving waits for a silent source, unless it is a function that heeds its signal", async () => {
    await virtualTime(async (clock) => {
      const silent = async function* (signal?: AbortSignal) {
        await sleep(60_000, signal);
        yield 1;
      };
      const leave = async (source: Source<number>) => {
        const [stream, start] = [merge([0], source), clock.elapsed];
        for await (const _ of stream) break;
        return clock.elapsed - start;
      };

      expect(await leave(silent())).toBe(60_000);
      expect(await leave(silent)).toBe(0);
    });
  });

  test("trap: what takeUntil() has cut off looks like the whole, unless it is told to reject", async () => {
    await virtualTime(async () => {
      const cutOff = () => AbortSignal.timeout(25);

      expect(await Array.fromAsync(takeUntil(interval(10), cutOff()))).toEqual([0, 1]);
      const strict = takeUntil(interval(10), cutOff(), { reject: true });
      expect(await errorOf(Array.fromAsync(strict))).toHaveProperty("name", "TimeoutError");
    });
  });
});

/** A test in virtual time. Its clock comes before the arguments of `it.each`. */
function it(title: string, body: (clock: VirtualClock) => Promise<void>): void {
  test(title, () => virtualTime(body));
}

it.each =
  <C extends [unknown, ...unknown[]] | string | number | object>(cases: readonly C[]) =>
  (
    title: string,
    body: (clock: VirtualClock, ...args: C extends unknown[] ? C : [C]) => Promise<void>,
  ) =>
    test.each(cases as never[])(title, (...args: never) =>
      virtualTime((clock) => body(clock, ...args)),
    );

/** Some tests need its garbage collector. */
const { Bun } = globalThis as { Bun?: { gc(force: boolean): void } };

const several = { concurrency: Infinity };

/** Every operator, set up so that it yields something for each value of its source. */
const operators: Record<string, (source: Source<number>) => Stream<unknown>> = {
  map: (source) => map(source, (n) => n),
  filter: (source) => filter(source, () => true),
  take: (source) => take(source, 100),
  drop: (source) => drop(source, 0),
  takeWhile: (source) => takeWhile(source, () => true),
  "flatMap, outer": (source) => flatMap(source, (n) => [n]),
  "flatMap, inner": (source) => flatMap(["once"], () => source),
  "flatMap at once, outer": (source) => flatMap(source, (n) => [n], { concurrency: 1000 }),
  "flatMap at once, inner": (source) => flatMap([0, 1], (n) => (n ? source : []), several),
  "switchMap, inner": (source) => switchMap(["once"], () => source),
  scan: (source) => scan(source, (_, n) => n, 0),
  batch: (source) => batch(source, 1),
  "batch with maxWait": (source) => batch(source, 1, { maxWait: 5 }),
  concat: (source) => concat(source),
  "concat, second": (source) => concat([], source),
  "merge of one": (source) => merge(source),
  "merge with an empty one": (source) => merge(source, []),
  zip: (source) => zip(source, [1, 2, 3, 4]),
  buffer: (source) => buffer(source, 1),
  "buffer of many": (source) => buffer(source, 100),
  parallelMap: (source) => parallelMap(source, (n) => n, { concurrency: 1 }),
  "parallelMap of many": (source) => parallelMap(source, async (n) => n, { concurrency: 10 }),
  "parallelMap, unordered": (source) =>
    parallelMap(source, async (n) => n, { concurrency: 10, ordered: false }),
  tee: (source) => tee(source, 1)[0]!,
  "tee whose others have left": (source) => {
    const [left, stays, also] = tee(source, 3);
    left.return();
    also.return();
    return stays;
  },
  takeUntil: (source) => takeUntil(source, new AbortController().signal),
  "takeUntil nothing": (source) => takeUntil(source, undefined),
  lines: (source) => lines(map(source, (n) => new TextEncoder().encode(`${n}\n`))),
  "a chain": (source) =>
    map(
      buffer(
        parallelMap(
          filter(source, () => true),
          (n) => n,
          { concurrency: 2 },
        ),
        2,
      ),
      (n) => n,
    ),
};

/** Every operator that calls a function. */
const failing: [string, (source: Source<number>, fn: () => never) => Stream<unknown>][] = [
  ["map", map],
  ["filter", filter],
  ["takeWhile", takeWhile],
  ["flatMap", flatMap],
  ["scan", (source, fn) => scan(source, fn, 0)],
  ["parallelMap", (source, fn) => parallelMap(source, fn, { concurrency: 3 })],
];

/** Also those that read on while their function works. */
const calling: typeof failing = [
  ...failing,
  ["flatMap at once", (source, fn) => flatMap(source, fn, several)],
  ["switchMap", switchMap],
];

describe.each(Object.entries(operators))("%s", (name, operate) => {
  describe.each(["iterator", "generator"] as const)("source: %s", (kind) => {
    it("passes on all there is, and does not close what has ended", async (clock) => {
      const { source, seen } = probe({ kind, every: 10, count: 3, then: "end" });

      const stream = operate(source);
      const values = await Array.fromAsync(stream);
      await stream.return();

      expect(values).toHaveLength(3);
      expect(seen).toEqual({ opened: 1, pulled: 4, closed: 0, cleanedUp: kindOf(kind, 1) });
      expect(clock.pending).toBe(0);
    });

    it("passes on its error after the values before, and is at its end", async (clock) => {
      const { source, seen } = probe({ kind, every: 10, count: 2, then: "throw" });
      const stream = operate(source);
      const values: unknown[] = [];
      const consume = async () => {
        for await (const value of stream) values.push(value);
      };

      expect(await errorOf(consume())).toBe(broken);

      expect(values).toHaveLength(2);
      expect(seen).toEqual({ opened: 1, pulled: 3, closed: 0, cleanedUp: kindOf(kind, 1) });
      expect(await stream.next()).toEqual({ done: true, value: undefined });
      expect(await stream.return()).toEqual({ done: true, value: undefined });
      expect(clock.pending).toBe(0);
    });

    it("passes on what its cleanup throws, once", async () => {
      const { source, seen } = probe({ kind, every: 10, cleanupFails: true });
      const stream = operate(source);
      const consume = async () => {
        for await (const _ of stream) break;
      };

      expect(await errorOf(consume())).toBe(dirty);

      expect(seen).toMatchObject({ closed: 1, cleanedUp: 1 });
      await stream[Symbol.asyncDispose]();
    });

    it("closes it when it is left while a next() waits, which then is done", async (clock) => {
      const { source, seen } = probe({ kind, every: 100, count: 1 });
      const stream = operate(source);

      const waiting = stream.next();
      await sleep(50);
      const leaving = stream.return();

      expect(await leaving).toEqual({ done: true, value: undefined });
      expect(await waiting).toEqual({ done: true, value: undefined });
      // An iterator can be closed in the middle of its next(), a generator only after it.
      expect(clock.elapsed).toBe(kind === "iterator" ? 60 : 110);
      expect(seen).toEqual({ opened: 1, pulled: 1, closed: 1, cleanedUp: 1 });
    });

    it("opens nothing before it is read, and closes without pulling when it is left at once", async () => {
      const { source, seen } = probe({ kind });
      const stream = operate(source);
      await sleep(1);
      expect(seen.opened).toBe(0);

      await stream.return();

      // The function has not been asked for the inner one.
      const closed = name.endsWith("inner") ? 0 : 1;
      expect(seen).toEqual({
        opened: closed,
        pulled: 0,
        closed,
        cleanedUp: kind === "generator" ? 0 : closed,
      });
      expect(await stream.next()).toEqual({ done: true, value: undefined });
    });
  });

  describe.each([
    [
      "takeUntil() next to the source",
      (source: Source<number>, signal: AbortSignal) => operate(takeUntil(source, signal)),
    ],
    [
      "takeUntil() around all",
      (source: Source<number>, signal: AbortSignal) => takeUntil(operate(source), signal),
    ],
  ])("with %s", (_where, operateUntil) => {
    it("ends at once when aborted during a silent next(), and closes the source", async (clock) => {
      const { source, seen } = probe({ every: 10, count: 2 });
      const { controller, listeners } = watchedController();
      setTimeout(() => controller.abort(), 100);

      const values = await Array.fromAsync(operateUntil(source, controller.signal));

      expect(values).toHaveLength(2);
      expect(clock.elapsed).toBe(100);
      expect(seen).toMatchObject({ pulled: 3, closed: 1, cleanedUp: 0 });
      expect(listeners()).toBe(0);
      await sleep(10);
      expect(seen.cleanedUp).toBe(1);
    });

    it("ends when aborted while a generator is silent, and does not wait for that", async (clock) => {
      const { source, seen } = probe({ kind: "generator", every: 10, count: 2 });
      const controller = new AbortController();
      setTimeout(() => controller.abort(), 100);

      const values = await Array.fromAsync(operateUntil(source, controller.signal));

      expect(values).toHaveLength(2);
      expect(clock.elapsed).toBe(100);
      expect(seen).toMatchObject({ pulled: 3, closed: 1, cleanedUp: 0 });
    });

    it("an abort also ends the wait of a consumer who has left while a generator is silent", async (clock) => {
      const { source, seen } = probe({ kind: "generator", count: 0 });
      const controller = new AbortController();
      const stream = operateUntil(source, controller.signal);
      const waiting = stream.next();
      setTimeout(() => controller.abort(), 100);
      await sleep(1);

      expect(await stream.return()).toEqual({ done: true, value: undefined });

      expect(await waiting).toEqual({ done: true, value: undefined });
      expect(clock.elapsed).toBe(100);
      expect(seen.closed).toBe(1);
    });

    it("drops what the source throws because of the abort", async (clock) => {
      const controller = new AbortController();
      const { signal } = controller;
      const source = async function* () {
        yield 1;
        await sleep(1000, signal);
      };
      setTimeout(() => controller.abort("stop"), 100);
      await withoutUnhandled(async () => {
        expect(await Array.fromAsync(operateUntil(source(), signal))).toHaveLength(1);
      });
      expect(clock.elapsed).toBe(100);
    });

    it("ends at once when aborted before, and pulls nothing", async () => {
      const { source, seen } = probe({ every: 10 });

      const values = await Array.fromAsync(operateUntil(source, AbortSignal.abort()));

      expect(values).toEqual([]);
      expect(seen.pulled).toBe(0);
    });
  });
});

/** Those that yield a value some time after it came, or not at all. */
const paced: typeof operators = {
  "switchMap, outer": (source) => switchMap(source, (n) => [n]),
  debounce: (source) => debounce(source, 5),
  throttle: (source) => throttle(source, 5, { trailing: true }),
};

/** How a consumer may leave: from outside of its loop, at any moment. */
const ways: Record<string, (stream: Stream<unknown>, abort: () => void) => unknown> = {
  "return()": (stream) => stream.return(),
  "await using": (stream) => stream[Symbol.asyncDispose](),
  "an abort": (_, abort) => abort(),
};

describe.each(Object.entries({ ...operators, ...paced }))(
  "left at any moment: %s",
  (name, operate) => {
    // The function that delivers the inner source is not waited for when there is an abort.
    const cases = Object.entries(ways).filter(
      ([way]) => way !== "an abort" || !name.includes("inner"),
    );

    test.each(cases)("in whatever microtask of an item, by %s", async (_way, leave) => {
      for (const kind of ["iterator", "generator"] as const) {
        for (let microtasks = 0; microtasks < 30; microtasks++) {
          await virtualTime(async (clock) => {
            const { source, seen } = probe({ kind, every: name in paced ? 10 : 0 });
            const { controller, listeners } = watchedController();
            const stream = takeUntil(operate(source), controller.signal, { reject: true });
            let received = 0;
            const read = async () => {
              for await (const _ of stream) received++;
            };
            const reading = Promise.allSettled([read()]);
            if (name in paced) await sleep(20);
            for (let n = 0; n < microtasks; n++) await undefined;

            const leaving = leave(stream, () => controller.abort("stop"));
            const before = received;

            await leaving;
            const [outcome] = await reading;
            // An abort doesn't wait for a source in the middle of its next().
            if (name in paced) await sleep(20);
            expect(outcome).toEqual(
              controller.signal.aborted
                ? { status: "rejected", reason: "stop" }
                : { status: "fulfilled", value: undefined },
            );
            // What has been handed over in this turn may still arrive.
            expect(received - before).toBeLessThanOrEqual(1);
            const { opened, pulled, closed, cleanedUp } = seen;
            const isStarted = kind === "iterator" || pulled > 0;
            const expected = { closed: opened, cleanedUp: isStarted ? opened : 0 };
            expect({ microtasks, kind, closed, cleanedUp }).toEqual({
              microtasks,
              kind,
              ...expected,
            });
            expect([clock.pending, listeners()]).toEqual([0, 0]);
          });
        }
      }
    });

    it.each(["break", "throw"])("at its first values, by a %s", async (clock, how) => {
      for (const [kind, every, count] of [
        ["iterator", 10, 1],
        ["generator", 10, 2],
        ["iterator", 0, 3],
        ["generator", 0, 1],
      ] as const) {
        if (every === 0 && name in paced) continue;
        const { source, seen } = probe({ kind, every });
        const consume = async () => {
          let received = 0;
          for await (const _ of operate(source)) {
            if (++received < count) continue;
            if (how === "break") break;
            throw new Error("consumer");
          }
        };

        const [outcome] = await Promise.allSettled([consume()]);

        expect(outcome.status).toBe(how === "break" ? "fulfilled" : "rejected");
        expect(seen).toMatchObject({ opened: 1, closed: 1, cleanedUp: 1 });
        expect(clock.pending).toBe(0);
      }
    });

    it("after its end nothing happens any more", async () => {
      const { source, seen } = probe({ every: 10, count: 2, then: "end" });
      const { controller, listeners } = watchedController();
      const stream = takeUntil(operate(source), controller.signal, { reject: true });
      await Array.fromAsync(stream);
      const pulled = seen.pulled;

      controller.abort("late");

      for (const leave of Object.values(ways)) await leave(stream, () => {});
      expect(await stream.next()).toEqual({ done: true, value: undefined });
      expect(seen).toMatchObject({ pulled, closed: 0 });
      expect(listeners()).toBe(0);
    });
  },
);

describe("when values come", () => {
  const both = { leading: true, trailing: true };
  const last = { leading: false, trailing: true };
  const wait = { maxWait: 50 };
  const work = async (ms: number) => (await sleep(ms), ms);
  const silent = probe({ count: 0 }).source;
  const three = (n: number) => map(take(interval(10), 3), (tick) => `${n}+${tick}`);
  const every = (ms: number, count: number) => probe({ every: ms, count, then: "end" }).source;

  // What is read, what comes at which millisecond, and for how long the consumer is busy with it.
  it.each([
    ["interval", () => take(interval(100), 3), "0@100 1@200 2@300", [10, 99]],
    ["interval, missed", () => take(interval(100), 4), "0@100 3@450 4@500 5@600", [350]],
    ["merge", () => merge(comeAt(10, 40), comeAt(20, 30), [0]), "0@0 10@10 20@20 30@30 40@40"],
    ["merge of nothing", () => merge(), ""],
    ["concat", () => concat(every(10, 2), every(10, 1), [3]), "1@10 2@20 1@40 3@50"],
    ["concat of nothing", () => concat<string>([], "ab", []), "a@0 b@0"],
    ["concat of no source", () => concat(), ""],
    ["zip", () => zip(comeAt(10, 40), comeAt(20, 30), "xyz"), "10,20,x@20 40,30,y@40"],
    ["zip of nothing", () => zip(), ""],
    ["batch, a chunk's time", () => batch(comeAt(10, 100, 120), 2, wait), "10@60 100,120@120"],
    ["batch, busy", () => batch(comeAt(10, 70, 500), 2, wait), "10@60 70@120 500@500", [40]],
    ["batch, silent", () => take(batch(merge(comeAt(10, 20), silent), 3, wait), 1), "10,20@60"],
    ["buffer", () => buffer(every(100, 3), 1), "1@100 2@200 3@300", [100, 100, 100]],
    ["parallelMap", () => parallelMap([30, 10, 20], work, { concurrency: 3 }), "30@30 10@30 20@30"],
    [
      "parallelMap, busy",
      () => parallelMap([100, 99, 98], work, { concurrency: 1 }),
      "100@100 99@200 98@300",
      [100, 100],
    ],
    [
      "parallelMap, as ready",
      () => parallelMap([30, 10, 20], work, { concurrency: 3, ordered: false }),
      "10@10 20@20 30@30",
    ],
    [
      "flatMap, one inner source",
      () => flatMap([0, 1], three),
      "0+0@10 0+1@20 0+2@30 1+0@40 1+1@50 1+2@60",
    ],
    [
      "flatMap, two",
      () => flatMap([0, 1, 2], (n) => map(every(10, 2), (m) => 10 * m + n), { concurrency: 2 }),
      "10@10 11@10 20@20 21@20 12@40 22@50",
    ],
    [
      "flatMap, all",
      () => flatMap([0, 1, 2], (n) => map(every(10, 1), () => n), several),
      "0@10 1@10 2@10",
    ],
    [
      "switchMap",
      () => switchMap(comeAt(0, 25, 100), three),
      "0+0@10 0+1@20 25+0@35 25+1@45 25+2@55 100+0@110 100+1@120 100+2@130",
    ],
    ["debounce", () => debounce(comeAt(0, 10, 100, 160), 50), "10@60 100@150 160@160"],
    [
      "debounce, busy",
      () => take(debounce(comeAt(0, 10, 90, 110, 170, 300, 400), 50), 4),
      "10@60 110@160 170@260 300@360",
      [100, 100, 100],
    ],
    ["debounce of nothing", () => debounce([], 50), ""],
    ["throttle", () => throttle(comeAt(0, 10, 49, 50, 60, 200), 50), "0@0 50@50 200@200"],
    [
      "throttle, the last too",
      () => throttle(comeAt(0, 10, 40, 60, 70, 120, 200), 50, both),
      "0@0 40@50 70@100 120@150 200@200",
    ],
    [
      "throttle, only the last",
      () => throttle(comeAt(0, 10, 60, 70, 300), 50, last),
      "10@50 70@100 300@300",
    ],
    [
      "throttle, busy",
      () => take(throttle(comeAt(0, 10, 90, 110, 170, 300, 400), 50), 4),
      "0@0 90@100 170@200 300@300",
      [100, 100, 100],
    ],
    ["throttle, neither", () => throttle(comeAt(0, 60), 50, { leading: false }), ""],
    ["throttle of nothing", () => throttle([], 50, both), ""],
  ] as [string, () => Stream<unknown>, string, number[]?][])(
    "%s",
    async (clock, _name, create, expected, busy = []) => {
      const seen: string[] = [];
      for await (const value of create()) {
        seen.push(`${value}@${clock.elapsed}`);
        await sleep(busy[seen.length - 1] ?? 0);
      }

      expect(seen.join(" ")).toBe(expected);
      expect(clock.pending).toBe(0);
    },
  );

  it.each([
    ["interval", () => interval(100), "0@100 1@200 2@300"],
    ["zip", () => zip(comeAt(10, 30, 50), comeAt(20, 40, 60)), "10,20@20 30,40@40 50,60@60"],
  ] as [string, () => Stream<unknown>, string][])(
    "%s, asked three times at once",
    async (clock, _name, create, expected) => {
      const stream = create();
      const read = async () => `${(await stream.next()).value}@${clock.elapsed}`;

      expect((await Promise.all([read(), read(), read()])).join(" ")).toBe(expected);

      await stream.return();
      expect(clock.pending).toBe(0);
    },
  );
});

describe("interval", () => {
  it("does not drift in ten minutes of fractions", async (clock) => {
    for await (const tick of interval(1000 / 3)) {
      await sleep(1);
      if (tick === 3 * 600 - 1) break;
    }

    expect(clock.elapsed).toBeCloseTo(600_001, 5);
  });

  it("needs no timer for a tick that is due", async (clock) => {
    const ticks = interval(100);
    await ticks.next();
    await sleep(100);

    const due = ticks.next();
    expect(clock.pending).toBe(0);

    expect((await due).value).toBe(1);
  });

  it("has a timer only while the consumer waits", async (clock) => {
    const ticks = interval(100);
    await sleep(50);
    expect(clock.pending).toBe(0);

    await ticks.next();
    expect(clock.elapsed).toBe(150);
    expect(clock.pending).toBe(0);

    const waiting = ticks.next();
    await sleep(1);
    expect(clock.pending).toBe(1);
    await ticks.return();
    expect(clock.pending).toBe(0);
    expect(await waiting).toEqual({ done: true, value: undefined });
  });

  it("rejects with the reason when aborted, and leaves no trace", async (clock) => {
    const { controller, listeners } = watchedController();
    const ticks = interval(100, { signal: controller.signal });
    await ticks.next();
    setTimeout(() => controller.abort("stop"), 50);

    expect(await errorOf(ticks.next())).toBe("stop");

    expect(clock.elapsed).toBe(150);
    expect(clock.pending).toBe(0);
    expect(listeners()).toBe(0);
    expect(await ticks.next()).toEqual({ done: true, value: undefined });

    expect(await errorOf(interval(100, { signal: controller.signal }).next())).toBe("stop");
    expect(clock.pending).toBe(0);
  });

  it("is never early, even if it takes longer than a timer can", async (clock) => {
    await interval(2 ** 33).next();

    expect(clock.elapsed).toBe(2 ** 33);
  });
});

describe("fromEvent", () => {
  it("yields the events in order, those too that come while the consumer is busy", async () => {
    const { target, emit } = watchedTarget();
    setTimeout(() => emit(1, 2), 10);
    setTimeout(() => emit(3, 4, 5), 20);
    const seen: number[] = [];

    for await (const event of fromEvent<CustomEvent<number>>(target, "tick")) {
      seen.push(event.detail);
      if (event.detail === 5) break;
      await sleep(15);
    }

    expect(seen).toEqual([1, 2, 3, 4, 5]);
  });

  it("listens once, from the first next() until it is left, waiting or not", async () => {
    const { target, emit, listeners } = watchedTarget();
    const events = fromEvent(target, "tick");
    expect(listeners()).toBe(0);

    const first = events.next();
    expect(listeners()).toBe(1);
    emit(1, 2);
    await first;
    await events.next();
    const waiting = events.next();
    expect(listeners()).toBe(1);

    await events.return();
    expect(listeners()).toBe(0);
    expect(await waiting).toEqual({ done: true, value: undefined });

    setTimeout(() => emit(3));
    for await (const _ of fromEvent(target, "tick")) break;
    expect(listeners()).toBe(0);
  });

  it.each([1, 3])("fails when more than %d wait, after those", async (_, size) => {
    const { target, emit, listeners } = watchedTarget();
    const events = fromEvent<CustomEvent<number>>(target, "tick", { capacity: size });
    const first = events.next();
    emit(0, ...Array.from({ length: size }, (_, n) => n + 1));
    await first;
    expect(listeners()).toBe(1);

    emit(98, 99);

    expect(listeners()).toBe(0);
    for (let n = 1; n <= size; n++) {
      expect((await events.next()).value?.detail).toBe(n);
    }
    expect(await errorOf(events.next())).toEqual(
      new Error(`Cannot keep up with "tick": ${size} events wait already`),
    );
    expect(await events.next()).toEqual({ done: true, value: undefined });
  });

  it("forgets the oldest instead, if told so", async () => {
    const { target, emit } = watchedTarget();
    const events = fromEvent<CustomEvent<number>>(target, "tick", {
      capacity: 2,
      dropOldest: true,
    });
    const first = events.next();
    emit(0, 1, 2, 3, 4);
    await first;

    expect((await events.next()).value?.detail).toBe(3);
    emit(5);
    expect((await events.next()).value?.detail).toBe(4);
    expect((await events.next()).value?.detail).toBe(5);
  });

  test("1024 may wait by default", async () => {
    const { target, emit, listeners } = watchedTarget();
    const events = fromEvent(target, "tick");
    const first = events.next();

    emit(...Array.from({ length: 1025 }, (_, n) => n));
    expect(listeners()).toBe(1);
    emit(1026);
    expect(listeners()).toBe(0);
    await first;
  });

  it("rejects with the reason when aborted, and listens no more", async () => {
    const { target, emit, listeners } = watchedTarget();
    const aborted = watchedController();
    const { signal } = aborted.controller;
    const waiting = fromEvent(target, "tick", { signal }).next();
    const busy = fromEvent(target, "tick", { signal });
    const first = busy.next();
    emit(1, 2);
    await Promise.all([waiting, first]);

    aborted.controller.abort("stop");

    expect(listeners()).toBe(0);
    expect(await errorOf(busy.next())).toBe("stop");
    expect(await errorOf(fromEvent(target, "tick", { signal }).next())).toBe("stop");
    expect(listeners()).toBe(0);
  });

  it("aborted while it waits, it rejects at once", async (clock) => {
    const { target, listeners } = watchedTarget();
    const { controller, listeners: onAbort } = watchedController();
    setTimeout(() => controller.abort("stop"), 100);

    expect(await errorOf(fromEvent(target, "tick", { signal: controller.signal }).next())).toBe(
      "stop",
    );

    expect(clock.elapsed).toBe(100);
    expect(listeners()).toBe(0);
    expect(onAbort()).toBe(0);
  });
});

describe("fromEvent of an emitter", () => {
  test("yields an array of what each event passes, until it is left", async () => {
    const emitter = emitterOf();
    const events = fromEvent<[number, string]>(emitter, "tick");
    expect(emitter.eventNames()).toEqual([]);
    const first = events.next();
    expect(emitter.eventNames().toSorted()).toEqual(["error", "tick"]);
    emitter.emit("tick", 1, "a");
    emitter.emit("tick");
    expect((await first).value).toEqual([1, "a"]);
    expect((await events.next()).value).toEqual([] as never);

    await events.return();

    expect(emitter.eventNames()).toEqual([]);
  });

  test.each([
    ["ends with its end", "close", undefined],
    ["fails with its error", "error", broken],
    ["fails with nothing", "error", undefined],
  ])("%s, after what waits, and listens no more", async (what, type, value) => {
    const emitter = emitterOf();
    const events = fromEvent<[number]>(emitter, "tick", { end: "close" });
    const first = events.next();
    for (const n of [1, 2]) emitter.emit("tick", n);
    emitter.emit(type, value);
    expect(emitter.eventNames()).toEqual([]);

    expect((await first).value).toEqual([1]);
    expect((await events.next()).value).toEqual([2]);
    if (what.startsWith("fails")) expect(await errorOf(events.next())).toBe(value);
    expect(await events.next()).toEqual({ done: true, value: undefined });
  });

  test("ends a next() that waits", async () => {
    const emitter = emitterOf();
    const waiting = fromEvent(emitter, "tick", { end: "end" }).next();

    emitter.emit("end");

    expect(await waiting).toEqual({ done: true, value: undefined });
  });

  test("has other names for the error, or its errors as values, if told so", async () => {
    const emitter = emitterOf();
    const events = fromEvent(emitter, "tick", { error: "abort" }).next();
    const errors = fromEvent(emitter, "error").next();
    expect(emitter.eventNames().toSorted()).toEqual(["abort", "error", "tick"]);

    emitter.emit("error", broken);
    emitter.emit("abort", dirty);

    expect((await errors).value).toEqual([broken]);
    expect(await errorOf(events)).toBe(dirty);
  });

  test.each([
    ["the error of an ErrorEvent", Object.assign(new Event("bad"), { error: broken })],
    ["another event", new Event("bad")],
  ])("an EventTarget fails with %s, and only if told so", async (_what, event) => {
    const target = new EventTarget();
    const told = fromEvent(target, "tick", { error: "bad", end: "close" }).next();
    const untold = fromEvent(target, "tick").next();

    target.dispatchEvent(new Event("error"));
    target.dispatchEvent(event);
    target.dispatchEvent(new Event("tick"));

    expect(await errorOf(told)).toBe("error" in event ? broken : event);
    expect((await untold).value?.type).toBe("tick");
  });

  test("a hostile emitter: what on() and off() throw is told, and all is taken back", async () => {
    const emitter = emitterOf();
    const { on } = emitter;
    emitter.on = (type, listener) => {
      if (type === "tick") throw broken;
      return on.call(emitter, type, listener);
    };

    expect(await errorOf(fromEvent(emitter, "tick", { end: "end" }).next())).toBe(broken);

    expect(emitter.eventNames()).toEqual([]);
  });
});

describe("map, filter, takeWhile, flatMap, scan", () => {
  test.each([
    ["map", () => map([5, 6], (n, index) => `${n} ${index}`), ["5 0", "6 1"]],
    ["map, async", () => map([5, 6], async (n, index) => n + index), [5, 7]],
    ["filter", () => filter([5, 6, 7], (n, index) => n === 6 || index === 2), [6, 7]],
    ["filter, async", () => filter([5, 6, 7], async (n) => n === 6), [6]],
    ["takeWhile", () => takeWhile([5, 6, 5], (n, index) => n === 5 && index < 9), [5]],
    ["takeWhile, index", () => takeWhile([5, 5, 5], (_, index) => index < 2), [5, 5]],
    ["takeWhile, async", () => takeWhile([5, 6, 5], async (n) => n === 5), [5]],
    [
      "flatMap",
      () => flatMap(["ab", "", "c"], (text, index) => [...text, index]),
      ["a", "b", 0, 1, "c", 2],
    ],
    ["flatMap, async", () => flatMap([1, 2], async (n) => map([n], (m) => -m)), [-1, -2]],
    [
      "scan",
      () => scan([5, 6], (text, n, index) => `${text} ${n}@${index}`, ""),
      [" 5@0", " 5@0 6@1"],
    ],
    ["scan, async", () => scan([5, 6], async (sum, n) => sum + n, 1), [6, 12]],
    ["map of nothing", () => map([], () => 1), []],
  ] as [string, () => Stream<unknown>, unknown[]][])("%s", async (_name, create, expected) => {
    expect(await Array.fromAsync(create())).toEqual(expected);
  });

  it("one value at a time: the source is not asked while the function works", async (clock) => {
    const { source, seen } = probe({ count: 3, every: 10, then: "end" });
    const pulledDuring: number[] = [];
    const work = async () => {
      await sleep(100);
      pulledDuring.push(seen.pulled);
    };

    await Array.fromAsync(map(source, work));

    expect(pulledDuring).toEqual([1, 2, 3]);
    expect(clock.elapsed).toBe(340);
  });

  it.each(failing)("%s closes its source when fn throws", async (clock, _name, operate) => {
    const { source, seen } = probe({ every: 10 });
    const fail = () => {
      throw new Error("fn");
    };

    expect(await errorOf(operate(source, fail).next())).toEqual(new Error("fn"));

    expect(clock.elapsed).toBe(20);
    expect(seen).toMatchObject({ closed: 1, cleanedUp: 1 });
  });

  it.each(failing)("%s tells both errors if that fails as well", async (_, _name, operate) => {
    const { source } = probe({ every: 10, cleanupFails: true });
    const fnError = new Error("fn");
    const fail = () => {
      throw fnError;
    };

    const error = await errorOf(operate(source, fail).next());

    expect(error).toBeInstanceOf(AggregateError);
    expect(new Set((error as AggregateError).errors)).toEqual(new Set([fnError, dirty]));
    expect((error as Error).message).toBe("A stream failed, and so did its cleanup");
  });

  it("flatMap closes the inner source before the outer one", async (clock) => {
    const outer = probe({});
    const inner = probe({});

    for await (const _ of flatMap(outer.source, () => inner.source)) break;

    expect(clock.elapsed).toBe(20);
    expect(inner.seen).toMatchObject({ closed: 1, cleanedUp: 1 });
    expect(outer.seen).toMatchObject({ closed: 1, cleanedUp: 1 });
  });

  it("flatMap calls its function once at a time, also if calls of next() overlap", async (clock) => {
    let [running, peak] = [0, 0];
    const stream = flatMap([1, 2], async (n) => {
      peak = Math.max(peak, ++running);
      await sleep(100);
      running--;
      return [n];
    });
    const first = stream.next();
    await sleep(50);

    expect((await stream.next()).value).toBe(2);
    expect((await first).value).toBe(1);
    expect(peak).toBe(1);
    expect(clock.elapsed).toBe(200);
  });

  it("flatMap closes the outer source when the inner one fails, or is none", async () => {
    const outer = probe({});
    const inner = probe({ count: 0, then: "throw" });
    expect(await errorOf(flatMap(outer.source, () => inner.source).next())).toBe(broken);
    expect(outer.seen).toMatchObject({ pulled: 1, closed: 1, cleanedUp: 1 });

    const wrong = flatMap([1], () => 5 as unknown as number[]);
    expect(await errorOf(wrong.next())).toEqual(
      new TypeError("Cannot flatMap: source must be an iterable, received 5"),
    );
  });

  it("flatMap closes both when it is left while the inner one is silent", async () => {
    const outer = probe({});
    const inner = probe({ count: 0 });
    const stream = flatMap(outer.source, () => inner.source);
    const waiting = stream.next();
    await sleep(1);

    await stream.return();

    expect(await waiting).toEqual({ done: true, value: undefined });
    expect(inner.seen).toMatchObject({ closed: 1, cleanedUp: 1 });
    expect(outer.seen).toMatchObject({ pulled: 1, closed: 1, cleanedUp: 1 });
  });
});

test.skipIf(!Bun)(
  "flatMap does not keep the inner sources that have ended (needs Bun)",
  async () => {
    const alive = await countAlive(async (note) => {
      const stream = flatMap(interminable(), (n) => note([n]));
      for (let n = 0; n < 1000; n++) await stream.next();
      return [stream];
    });

    expect(alive).toBeLessThan(100);
  },
);

describe("take", () => {
  it.each([0, 1, 3])("asks for %d values, and closes the source", async (_, count) => {
    const { source, seen } = probe({});

    expect(await Array.fromAsync(take(source, count))).toHaveLength(count);

    expect(seen).toEqual({ opened: 1, pulled: count, closed: 1, cleanedUp: 1 });
  });

  test("ends with a source that has fewer", async () => {
    expect(await Array.fromAsync(take([1, 2], 3))).toEqual([1, 2]);
  });
});

describe("takeWhile", () => {
  it("closes the source after the first value that it leaves out, and waits", async (clock) => {
    const { source, seen } = probe({});

    expect(await Array.fromAsync(takeWhile(source, (n) => n < 3))).toEqual([1, 2]);

    expect(clock.elapsed).toBe(10);
    expect(seen).toEqual({ opened: 1, pulled: 3, closed: 1, cleanedUp: 1 });
  });

  it("ends as a break does: it waits for a generator in the middle of its next(), as take does", async (clock) => {
    for (const end of [take, (source: Source<number>) => takeWhile(source, (n) => n === 0)]) {
      const start = clock.elapsed;
      const { source } = probe({ kind: "generator", every: 100 });

      await Array.fromAsync(end(merge([0, 9], source), 1));

      expect(clock.elapsed - start).toBe(110);
    }
  });

  it("tells once what that cleanup throws", async () => {
    const { source } = probe({ cleanupFails: true });
    const stream = takeWhile(source, () => false);

    expect(await errorOf(stream.next())).toBe(dirty);
    expect(await stream.return()).toEqual({ done: true, value: undefined });
  });
});

describe("drop", () => {
  test.each([
    [0, [1, 2, 3]],
    [2, [3]],
    [3, []],
    [9, []],
  ])("leaves out the first %d of three", async (count, expected) => {
    expect(await Array.fromAsync(drop([1, 2, 3], count))).toEqual(expected);
  });
});

describe("batch", () => {
  test.each([
    [1, [[1], [2], [3]]],
    [2, [[1, 2], [3]]],
    [3, [[1, 2, 3]]],
    [4, [[1, 2, 3]]],
  ])("by %d", async (size, expected) => {
    expect(await Array.fromAsync(batch([1, 2, 3], size))).toEqual(expected);
    expect(await Array.fromAsync(batch([1, 2, 3], size, { maxWait: 10 }))).toEqual(expected);
    expect(await Array.fromAsync(batch([], size))).toEqual([]);
  });

  it("waits for a chunk to be full, without a timer, if it isn't told otherwise", async (clock) => {
    await batch(interval(1000), 10).next();
    expect(clock.elapsed).toBe(10_000);

    await batch(take(interval(1000), 5), 10, { maxWait: 2 ** 31 }).next();
    expect(clock.elapsed).toBe(15_000);
    expect(clock.pending).toBe(0);
  });

  it("asks for no more while a chunk waits for the consumer", async () => {
    const { source, seen } = probe({ every: 30 });
    const chunks = batch(source, 2, { maxWait: 20 });
    const asked: number[] = [];
    for await (const chunk of chunks) {
      await sleep(100);
      asked.push(seen.pulled);
      if (chunk[0] === 3) break;
    }

    expect(asked).toEqual([2, 2, 4]);
  });

  it.each([Infinity, 1000])("gives out what is there before an error", async (clock, maxWait) => {
    const { source } = probe({ every: 10, count: 3, then: "throw" });
    const chunks = batch(source, 2, { maxWait });

    expect((await chunks.next()).value).toEqual([1, 2]);
    expect((await chunks.next()).value).toEqual([3]);
    expect(clock.elapsed).toBe(40);
    expect(await errorOf(chunks.next())).toBe(broken);
    expect(clock.pending).toBe(0);
  });
});

describe("concat", () => {
  test("closes also those that it has not come to", async () => {
    let cancelled = 0;
    const unread = new ReadableStream<number>({ cancel: () => void cancelled++ });

    for await (const _ of concat([1, 2], unread)) break;

    expect(cancelled).toBe(1);
  });

  test("opens nothing after an error", async () => {
    const later = probe({});
    const stream = concat(probe({ count: 1, then: "throw" }).source, later.source);

    expect((await stream.next()).value).toBe(1);
    expect(await errorOf(stream.next())).toBe(broken);
    expect(later.seen.pulled).toBe(0);
  });
});

describe("flatMap with concurrency", () => {
  it("asks an inner source for its next value only when the consumer comes back", async () => {
    const inner = [probe({}), probe({})];
    const stream = flatMap(inner, ({ source }) => source, several);

    await stream.next();
    await sleep(100);
    expect(inner.map(({ seen }) => seen.pulled)).toEqual([1, 1]);

    await stream.next();
    await sleep(100);
    expect(inner.map(({ seen }) => seen.pulled).toSorted()).toEqual([1, 2]);
    await stream.return();
  });

  it("of two has two calls of its function running, and closes what they deliver too late", async (clock) => {
    const inner = [probe({}), probe({})];
    let calls = 0;
    const open = async (n: number) => {
      calls++;
      await sleep(100);
      return inner[n]!.source;
    };
    const stream = flatMap([0, 1, 2], open, { concurrency: 2 });
    const waiting = stream.next();
    await sleep(50);
    expect(calls).toBe(2);

    await stream.return();

    expect(await waiting).toEqual({ done: true, value: undefined });
    expect(clock.elapsed).toBe(110);
    for (const { seen } of inner)
      expect(seen).toEqual({ opened: 1, pulled: 0, closed: 1, cleanedUp: 1 });
  });

  it.each([
    ["flatMap", flatMap],
    ["flatMap at once", (source, fn) => flatMap(source, fn, several)],
    ["switchMap", switchMap],
  ] as [string, (source: Source<number>, fn: () => Source<number>) => Stream<number>][])(
    "%s, left from inside its function, closes what that returns",
    async (_, _name, operate) => {
      for (const way of ["return()", "an abort"]) {
        const { source, seen } = probe({});
        const controller = new AbortController();
        let leaving: Promise<unknown> | undefined;
        const stream = operate([1], () => {
          if (way === "return()") leaving = stream.return();
          else controller.abort();
          return source;
        });

        expect(await Array.fromAsync(takeUntil(stream, controller.signal))).toEqual([]);
        await leaving;

        if (way === "an abort") await sleep(20);
        expect({ way, ...seen }).toEqual({ way, opened: 1, pulled: 0, closed: 1, cleanedUp: 1 });
      }
    },
  );

  it("does not call a function that it delivers too late", async () => {
    let calls = 0;
    const stream = flatMap([1], async () => (await sleep(100), () => [calls++]));
    const waiting = stream.next();
    await sleep(50);

    await stream.return();

    await waiting;
    expect(calls).toBe(0);
  });

  it("an error of one closes the others, and is not kept waiting", async (clock) => {
    const [outer, silent] = [probe({ count: 2 }), probe({ count: 0 })];
    const failing = probe({ every: 50, count: 0, then: "throw" });
    const stream = flatMap(outer.source, (n) => [silent, failing][n - 1]!.source, several);

    expect(await errorOf(stream.next())).toBe(broken);

    expect(clock.elapsed).toBe(50);
    await sleep(10);
    for (const { seen } of [outer, silent]) expect(seen).toMatchObject({ closed: 1, cleanedUp: 1 });
  });
});

describe.each([
  ["flatMap at once", (source, fn) => flatMap(source, fn, several)],
  ["switchMap", switchMap],
] as typeof calling)("%s", (_name, operate) => {
  it("reads no further while nobody waits", async () => {
    const outer = probe({ every: 10 });
    const stream = operate(outer.source, ((n: number) => [n]) as () => never);

    expect((await stream.next()).value).toBe(1);
    await sleep(100);

    expect(outer.seen.pulled).toBe(2);
  });
});

describe("switchMap", () => {
  it("closes the one before, whose cleanup it does not await until the end", async (clock) => {
    const inner = [probe({ count: 0 }), probe({ every: 5, count: 1, then: "end" })];
    const values: string[] = [];
    for await (const n of switchMap(comeAt(0, 100), (ms) => inner[ms / 100]!.source)) {
      values.push(`${n} at ${clock.elapsed}`);
    }

    expect(values).toEqual(["1 at 105"]);
    expect(inner[0]!.seen).toMatchObject({ pulled: 1, closed: 1, cleanedUp: 1 });
    expect(inner[1]!.seen).toMatchObject({ closed: 0 });
    expect(clock.elapsed).toBe(110);
  });

  it("aborts the request that the next one makes pointless; its AbortError is dropped", async (clock) => {
    const log: string[] = [];
    const search = (ms: number) => async (signal: AbortSignal) => {
      signal.addEventListener("abort", () => log.push(`${ms} aborted at ${clock.elapsed}`));
      await sleep(100, signal);
      return [`found ${ms}`];
    };

    expect(await Array.fromAsync(switchMap(comeAt(0, 50, 60), search))).toEqual(["found 60"]);

    expect(log).toEqual(["0 aborted at 50", "50 aborted at 60"]);
    expect(clock.elapsed).toBe(160);
  });

  test("does not wait for one that is silent, and tells its late error to who asks next, once", async () => {
    const [asked, late] = [Promise.withResolvers<void>(), Promise.withResolvers<string>()];
    const silent = async function* () {
      asked.resolve();
      yield await late.promise;
    };
    const outer = async function* () {
      yield silent();
      await asked.promise;
      yield ["second"];
    };
    const stream = switchMap(outer, (inner) => inner);
    const ends = stream.next().then(() => stream.next());
    expect(await ends).toEqual({ done: true, value: undefined });

    late.reject("late");
    await turn();

    await expect(stream.next()).rejects.toBe("late");
    expect(await stream.next()).toEqual({ done: true, value: undefined });
  });

  it("drops what still comes of the one before, and releases a hold", async () => {
    const hold = holdOf();
    const late = async function* () {
      await sleep(100);
      yield hold;
    };
    const inner = (ms: number) => (ms === 0 ? late() : [ms]);

    expect(await Array.fromAsync(switchMap(comeAt(0, 50), inner))).toEqual([50]);

    await sleep(100);
    expect(hold.released).toBe(1);
  });

  it("is not kept waiting by an inner source that can't be closed", async (clock) => {
    const silent = async function* () {
      yield await new Promise<number>(() => {});
    };
    const inner = (ms: number) => (ms === 0 ? silent() : [ms]);

    expect(await Array.fromAsync(switchMap(comeAt(0, 50), inner))).toEqual([50]);

    expect(clock.elapsed).toBe(50);
  });

  it("tells what fails in the cleanup of the one before", async () => {
    const inner = [probe({ count: 0, cleanupFails: true }), probe({ count: 0 })];
    const stream = switchMap(comeAt(0, 100), (ms) => inner[ms / 100]!.source);

    expect(await errorOf(stream.next())).toBe(dirty);

    expect(inner[1]!.seen).toMatchObject({ closed: 1 });
  });

  it("waits in the end for the cleanup of one before that was left in its next()", async (clock) => {
    const slow = probe({ kind: "generator", every: 50, count: 1, cleanupFails: true });
    const inner = (ms: number) => (ms === 0 ? slow.source : [ms]);

    expect(await errorOf(Array.fromAsync(switchMap(comeAt(0, 10, 55), inner)))).toBe(dirty);

    expect(clock.elapsed).toBe(60);
  });

  it("switches also while the consumer is busy", async (clock) => {
    const inner = [probe({}), probe({})];
    const stream = switchMap(comeAt(0, 50), (ms) => inner[ms / 50]!.source);
    await stream.next();
    await sleep(60);

    expect(inner.map(({ seen }) => [seen.pulled, seen.closed])).toEqual([
      [1, 1],
      [1, 0],
    ]);
    expect(clock.elapsed).toBe(60);
    await stream.return();
    expect(inner[1]!.seen).toMatchObject({ closed: 1, cleanedUp: 1 });
  });
});

describe("debounce and throttle", () => {
  const both = { leading: true, trailing: true };

  it.each([
    ["debounce", (source: Source<number>) => debounce(source, 50), ["2"]],
    ["throttle", (source: Source<number>) => throttle(source, 50, both), ["1", "2"]],
  ])(
    "%s yields the last before the source's error, at once",
    async (clock, _name, operate, expected) => {
      const { source } = probe({ every: 10, count: 2, then: "throw" });
      const stream = operate(source);

      for (const value of expected) expect(`${(await stream.next()).value}`).toBe(value);
      expect(await errorOf(stream.next())).toBe(broken);

      expect(clock.elapsed).toBe(30);
      expect(clock.pending).toBe(0);
    },
  );

  it.each([
    ["debounce", (source: Source<Hold>) => debounce(source, 50), [1, 1, 1]],
    ["throttle", (source: Source<Hold>) => throttle(source, 50), [0, 1, 1]],
    ["throttle, the last too", (source: Source<Hold>) => throttle(source, 50, both), [0, 1, 1]],
  ])(
    "%s releases the holds that it drops, and has no timer when it is left",
    async (clock, _name, operate, expected) => {
      const holds = [holdOf(), holdOf(), holdOf()];
      const stream = operate(merge(holds, probe({ count: 0 }).source as never));
      const waiting = [stream.next(), stream.next()];
      await sleep(1);

      await stream.return();

      await Promise.all(waiting);
      expect(holds.map((hold) => hold.released)).toEqual(expected);
      expect(clock.pending).toBe(0);
    },
  );
});

describe("merge", () => {
  test("lets no source that always has something keep out the others", async () => {
    const values = await Array.fromAsync(take(merge("aaaa", "bbbb", "cccc"), 9));

    expect(values.toSorted().join("")).toBe("aaabbbccc");
  });

  it("asks a source for its next value only when the consumer comes back", async () => {
    const [fast, silent] = [probe({}), probe({ count: 0 })];
    const stream = merge(fast.source, silent.source);

    await stream.next();
    await sleep(100);
    expect([fast.seen.pulled, silent.seen.pulled]).toEqual([1, 1]);

    await stream.next();
    expect([fast.seen.pulled, silent.seen.pulled]).toEqual([2, 1]);
  });

  it("reads no further while nobody waits, though a source has ended", async () => {
    const [busy, short] = [probe({}), probe({ every: 10, count: 0, then: "end" })];
    const stream = merge(busy.source, short.source);

    expect((await stream.next()).value).toBe(1);
    await sleep(100);

    expect(busy.seen.pulled).toBe(1);
  });

  it("closes the others, at the same time, when one fails", async (clock) => {
    const others = [
      probe({ count: 0 }),
      probe({ every: 1000 }),
      probe({ kind: "generator", every: 40 }),
    ];
    const failing = probe({ every: 50, count: 0, then: "throw" });
    const stream = merge(...others.map(({ source }) => source), failing.source);

    // The generator's first value comes at 40; the next would at 80.
    expect(await stream.next()).toEqual({ done: false, value: 1 });
    expect(await errorOf(stream.next())).toBe(broken);

    expect(clock.elapsed).toBe(50);
    await sleep(41);
    for (const { seen } of others) expect(seen).toMatchObject({ closed: 1, cleanedUp: 1 });
    expect(failing.seen.closed).toBe(0);
  });

  it("tells the errors of all that fail at once", async () => {
    const sources = ["first", "second", "third"].map(async function* (name) {
      throw name;
    });
    await withoutUnhandled(async () => {
      const error = await errorOf(merge(...sources).next());

      expect((error as AggregateError).errors).toEqual(["first", "second", "third"]);
    });
  });

  it("nothing is unhandled when a source fails while the consumer is busy", async () => {
    await withoutUnhandled(async () => {
      const failing = probe({ every: 10, count: 0, then: "throw" });
      const stream = merge([1], failing.source);
      await stream.next();
      await sleep(100);

      expect(await errorOf(stream.next())).toBe(broken);
    });
  });

  it("leaving it tells what a generator throws whose next() has to be waited for", async (clock) => {
    const failing = probe({ kind: "generator", every: 100, count: 0, then: "throw" });
    const stream = merge([1], failing.source);
    await stream.next();

    expect(await errorOf(stream.return())).toBe(broken);

    expect(clock.elapsed).toBe(110);
  });
});

describe("zip", () => {
  it("ends with the shortest, at once, and closes the others", async (clock) => {
    const [silent, busy] = [probe({ count: 1 }), probe({})];

    const tuples = await Array.fromAsync(zip(silent.source, busy.source, ["a"]));

    expect(tuples).toEqual([[1, 1, "a"]]);
    expect(clock.elapsed).toBe(10);
    expect(silent.seen).toEqual({ opened: 1, pulled: 2, closed: 1, cleanedUp: 1 });
    expect(busy.seen).toEqual({ opened: 1, pulled: 2, closed: 1, cleanedUp: 1 });
  });

  it("fails with the first that does, at once, and closes the others", async (clock) => {
    const [silent, failing] = [probe({ count: 0 }), probe({ every: 50, count: 0, then: "throw" })];

    expect(await errorOf(zip(silent.source, failing.source).next())).toBe(broken);

    expect(clock.elapsed).toBe(50);
    await sleep(10);
    expect(silent.seen).toMatchObject({ closed: 1, cleanedUp: 1 });
  });
});

describe("buffer", () => {
  it.each([1, 2, 5])("reads %d ahead of a busy consumer, and not one more", async (_, size) => {
    for (const kind of ["iterator", "generator"] as const) {
      const { source, seen } = probe({ kind });
      const stream = buffer(source, size);
      await sleep(10);
      expect(seen.pulled).toBe(0);

      for (let taken = 1; taken <= 3; taken++) {
        expect(await stream.next()).toEqual({ done: false, value: taken });
        await sleep(10);
        expect(seen.pulled).toBe(taken + size);
      }
    }
  });

  it("gives out what waits before the source's error", async () => {
    const { source, seen } = probe({ count: 3, then: "throw" });
    const stream = buffer(source, 10);
    await stream.next();
    await withoutUnhandled(() => sleep(10));

    expect(seen.pulled).toBe(4);
    expect((await stream.next()).value).toBe(2);
    expect((await stream.next()).value).toBe(3);
    expect(await errorOf(stream.next())).toBe(broken);
  });
});

describe("parallelMap", () => {
  test.each([
    { concurrency: 1, items: 6, elapsed: 600 },
    { concurrency: 2, items: 6, elapsed: 300 },
    { concurrency: 3, items: 100, elapsed: 3400 },
    { concurrency: 10, items: 6, elapsed: 100 },
    { concurrency: 3, items: 0, elapsed: 0 },
  ])("$items items of 100 ms, $concurrency at a time, take $elapsed ms", async (given) => {
    const { concurrency, items, elapsed } = given;
    for (const ordered of [true, false]) {
      await virtualTime(async (clock) => {
        let [running, peak] = [0, 0];
        const work = async (n: number, index: number) => {
          peak = Math.max(peak, ++running);
          await sleep(100);
          running--;
          return n * 10 + index;
        };
        const source = Array.from({ length: items }, (_, n) => n);

        const results = await Array.fromAsync(parallelMap(source, work, { concurrency, ordered }));

        expect(results).toEqual(source.map((n) => n * 11));
        expect(peak).toBe(Math.min(concurrency, items));
        expect(clock.elapsed).toBe(elapsed);
      });
    }
  });

  it.each([{ ordered: true }, { ordered: false }])(
    "a million needs memory for a few, ordered: $ordered",
    async (_, { ordered }) => {
      let [pulled, delivered, most] = [0, 0, 0];
      const million = function* () {
        while (pulled < 1_000_000) {
          most = Math.max(most, pulled - delivered);
          yield pulled++;
        }
      };
      const work = async (n: number) => void (await sleep(n % 7));
      for await (const _ of parallelMap(million(), work, { concurrency: 5, ordered })) {
        if (++delivered === 1000) break;
        if (delivered % 100 === 0) await sleep(50);
      }

      expect(most).toBe(5);
      expect(pulled).toBeLessThanOrEqual(1005);
    },
  );

  it.each([{ ordered: true }, { ordered: false }])(
    "a failure aborts and awaits the others, ordered: $ordered",
    async (clock, { ordered }) => {
      const { source, seen } = probe({});
      const log: string[] = [];
      const work = async (n: number, _: number, signal: AbortSignal) => {
        if (n === 2) {
          await sleep(50);
          throw new Error("second");
        }
        await abortableSleep(1000, signal);
        log.push(`${n} aborted at ${clock.elapsed}: ${signal.reason}`);
        await sleep(100);
        log.push(`${n} cleaned up at ${clock.elapsed}`);
        throw signal.reason;
      };

      const stream = parallelMap(source, work, { concurrency: 3, ordered });
      expect(await errorOf(stream.next())).toEqual(new Error("second"));

      expect(log).toEqual([
        "1 aborted at 50: AbortError: The result is no longer needed",
        "3 aborted at 50: AbortError: The result is no longer needed",
        "1 cleaned up at 150",
        "3 cleaned up at 150",
      ]);
      expect(seen).toEqual({ opened: 1, pulled: 3, closed: 1, cleanedUp: 1 });
      expect(clock.pending).toBe(0);
    },
  );

  it("results that come before the failure in order are still given out", async () => {
    const work = async (n: number) => {
      await sleep(n === 1 ? 100 : 50);
      if (n === 3) throw new Error("third");
      return n;
    };
    const stream = parallelMap([1, 2, 3, 4], work, { concurrency: 4 });

    expect((await stream.next()).value).toBe(1);
    expect((await stream.next()).value).toBe(2);
    expect(await errorOf(stream.next())).toEqual(new Error("third"));
  });

  it("several failures are all told, those of the cleanup too; echoes of the abort are not", async () => {
    const work = async (n: number, _: number, signal: AbortSignal) => {
      await abortableSleep(n === 1 ? 50 : 1000, signal);
      if (n === 2) throw new DOMException("mine", "AbortError");
      throw n === 4 ? null : `${n} failed`;
    };
    await withoutUnhandled(async () => {
      const error = await errorOf(parallelMap([1, 2, 3, 4], work, { concurrency: 4 }).next());

      expect((error as AggregateError).errors).toEqual(["1 failed", "3 failed", null]);
    });
  });

  test("an AbortError that nobody asked for is a failure", async () => {
    const own = new DOMException("mine", "AbortError");
    const stream = parallelMap([1], () => Promise.reject(own), { concurrency: 1 });

    expect(await errorOf(stream.next())).toBe(own);
  });

  it("the source's failure aborts what runs", async (clock) => {
    const { source } = probe({ every: 20, count: 1, then: "throw" });
    const aborted: number[] = [];
    const work = async (n: number, _: number, signal: AbortSignal) => {
      await abortableSleep(1000, signal);
      aborted.push(n);
      throw signal.reason;
    };

    expect(await errorOf(parallelMap(source, work, { concurrency: 3 }).next())).toBe(broken);

    expect(aborted).toEqual([1]);
    expect(clock.elapsed).toBe(40);
  });

  it.each(["break", "return() while next() waits"])(
    "left by %s it aborts and awaits what runs",
    async (clock, how) => {
      const { source, seen } = probe({});
      const log: string[] = [];
      const work = async (n: number, _: number, signal: AbortSignal) => {
        log.push(`${n} starts`);
        if (n === 1 && how === "break") return;
        await abortableSleep(1000, signal);
        await sleep(30);
        log.push(`${n} ends at ${clock.elapsed}`);
        throw signal.reason;
      };
      const stream = parallelMap(source, work, { concurrency: 2 });

      if (how === "break") {
        for await (const _ of stream) {
          await sleep(50);
          break;
        }
        expect(log).toEqual(["1 starts", "2 starts", "3 starts", "2 ends at 80", "3 ends at 80"]);
      } else {
        const waiting = stream.next();
        await sleep(50);
        await stream.return();
        expect(await waiting).toEqual({ done: true, value: undefined });
        expect(log).toEqual(["1 starts", "2 starts", "1 ends at 80", "2 ends at 80"]);
      }

      expect(seen).toMatchObject({ closed: 1, cleanedUp: 1 });
    },
  );

  it("leaving tells what fails in the cleanup", async () => {
    const work = async (n: number, _: number, signal: AbortSignal) => {
      if (n === 1) return n;
      await abortableSleep(1000, signal);
      throw "cannot clean up";
    };
    const stream = parallelMap([1, 2], work, { concurrency: 2 });
    await stream.next();

    expect(await errorOf(stream.return())).toBe("cannot clean up");
  });

  test("a value that arrives in the turn in which it is left is not worked on", async () => {
    const arrival = Promise.withResolvers<IteratorResult<number>>();
    const started: number[] = [];
    const source = { [Symbol.asyncIterator]: () => ({ next: () => arrival.promise }) };
    const stream = parallelMap(source, (n: number) => started.push(n), { concurrency: 2 });
    const waiting = stream.next();

    arrival.resolve({ done: false, value: 1 });
    await Promise.resolve();
    await stream.return();

    expect(await waiting).toEqual({ done: true, value: undefined });
    expect(started).toEqual([]);
  });

  test("a signal is left alone once its function has returned", async () => {
    const signals: AbortSignal[] = [];
    const keep = async (n: number, _: number, signal: AbortSignal) => {
      signals.push(signal);
      if (n === 2) await new Promise((resolve) => signal.addEventListener("abort", resolve));
    };
    for await (const _ of parallelMap([1, 2], keep, { concurrency: 2 })) break;

    expect(signals.map((signal) => signal.aborted)).toEqual([false, true]);
  });

  test("a function that doesn't declare its signal gets one all the same", async () => {
    const signals: AbortSignal[] = [];
    const work = async (...args: unknown[]) => {
      const signal = args[2] as AbortSignal;
      signals.push(signal);
      if (args[1] === 1) await new Promise((resolve) => signal.addEventListener("abort", resolve));
    };
    for await (const _ of parallelMap([1, 2], work, { concurrency: 2 })) break;

    expect(signals.map((signal) => signal.aborted)).toEqual([true, true]);
  });

  it.each([{ ordered: true }, { ordered: false }])(
    "its source's end aborts nothing, ordered: $ordered",
    async (_, { ordered }) => {
      const work = async (ms: number, _: number, signal: AbortSignal) => {
        await sleep(ms);
        return signal.aborted;
      };
      const options = { concurrency: 3, ordered };

      expect(await Array.fromAsync(parallelMap([10, 100], work, options))).toEqual([false, false]);
    },
  );

  it("a source that has ended is not asked again", async () => {
    const { source, seen } = probe({ count: 2, then: "end" });

    await Array.fromAsync(parallelMap(source, () => sleep(10), { concurrency: 3 }));

    expect(seen.pulled).toBe(3);
  });
});

describe("tee", () => {
  it.each([1, 2, 3])("gives %d readers all, each at its pace", async (clock, count) => {
    const { source, seen } = probe({ every: 10, count: 3, then: "end" });
    const ended: number[] = [];
    const read = async (stream: Stream<number>, index: number) => {
      const values: number[] = [];
      for await (const value of stream) {
        values.push(value);
        await sleep(100 * index);
      }
      ended.push(clock.elapsed);
      return values;
    };

    const all = await Promise.all(tee(source, count).map(read));

    expect(all).toEqual(all.map(() => [1, 2, 3]));
    expect(ended).toEqual([40, 310, 610].slice(0, count));
    expect(seen).toEqual({ opened: 1, pulled: 4, closed: 0, cleanedUp: 0 });
  });

  test("is pulled by the fastest only, and not before", async () => {
    const { source, seen } = probe({});
    const [fast, slow] = tee(source, 2);
    await Promise.all([fast.next(), slow.next()]);
    expect(seen.pulled).toBe(1);

    await fast.next();
    await fast.next();
    expect(seen.pulled).toBe(3);
    expect((await slow.next()).value).toBe(2);
    expect(seen.pulled).toBe(3);
  });

  it("closes the source when the last has left, waiting or not, and not before", async () => {
    const { source, seen } = probe({ count: 1 });
    const [first, second, third] = tee(source, 3);
    await first.next();
    const waiting = [first.next(), second.next().then(() => second.next())];
    await sleep(1);

    await first.return();
    expect(await waiting[0]).toEqual({ done: true, value: undefined });
    await first.return();
    await third.return();
    expect(seen.closed).toBe(0);

    await second.return();
    expect(await waiting[1]).toEqual({ done: true, value: undefined });
    expect(seen).toEqual({ opened: 1, pulled: 2, closed: 1, cleanedUp: 1 });
  });

  it("an error comes to all, each after the values before", async () => {
    const { source } = probe({ every: 10, count: 1, then: "throw" });
    const [fast, slow] = tee(source, 2);
    await withoutUnhandled(async () => {
      await fast.next();
      expect(await errorOf(fast.next())).toBe(broken);
    });

    expect((await slow.next()).value).toBe(1);
    expect(await errorOf(slow.next())).toBe(broken);
  });

  test.skipIf(!Bun)("does not keep what all have read (needs Bun)", async () => {
    const alive = await countAlive(async (note) => {
      const readers = tee(
        map(interminable(), (n) => note({ n })),
        2,
      );
      for (let n = 0; n < 1000; n++) for (const reader of readers) await reader.next();
      return readers;
    });

    expect(alive).toBeLessThan(100);
  });
});

describe("takeUntil", () => {
  it("stops listening at the end, and can be aborted by the same signal afterwards", async () => {
    const { controller, listeners } = watchedController();

    expect(await Array.fromAsync(takeUntil([1, 2], controller.signal))).toEqual([1, 2]);
    expect(listeners()).toBe(0);

    setTimeout(() => controller.abort(), 100);
    const silent = takeUntil(probe({ count: 0 }).source, controller.signal);
    expect(await Array.fromAsync(silent)).toEqual([]);
  });

  it("aborted while the consumer is busy, it closes the source at once", async (clock) => {
    const { source, seen } = probe({});
    const controller = new AbortController();
    setTimeout(() => controller.abort(), 100);

    for await (const _ of takeUntil(source, controller.signal)) await sleep(115);

    expect(clock.elapsed).toBe(115);
    expect(seen).toEqual({ opened: 1, pulled: 1, closed: 1, cleanedUp: 1 });
  });

  it("ends also while what it reads is busy reading ahead from a silent generator", async (clock) => {
    const { source } = probe({ kind: "generator", count: 1 });
    const controller = new AbortController();
    setTimeout(() => controller.abort(), 100);

    for await (const _ of takeUntil(buffer(source, 3), controller.signal)) await sleep(200);

    expect(clock.elapsed).toBe(200);
  });

  it.each(["has left", "waits"])(
    "aborted while fn hangs and the consumer %s, it awaits the cleanup",
    async (clock, state) => {
      const { source, seen } = probe({});
      const controller = new AbortController();
      const hanging = map(source, () => new Promise(() => {}));
      const stream = takeUntil(hanging, controller.signal);
      setTimeout(() => controller.abort(), 100);

      const waiting = stream.next();
      await sleep(1);
      if (state === "has left") await stream.return();

      expect(await waiting).toEqual({ done: true, value: undefined });
      // Who has left at 1 has closed the source then.
      expect(clock.elapsed).toBe(state === "has left" ? 100 : 110);
      expect(seen).toMatchObject({ closed: 1, cleanedUp: 1 });
    },
  );

  it("asked for more and left in one call, it awaits the cleanup also when an abort comes", async (clock) => {
    const { source, seen } = probe({});
    const controller = new AbortController();
    const stream = takeUntil(source, controller.signal);
    await stream.next();
    setTimeout(() => controller.abort(), 5);

    const waiting = stream.next();
    await stream.return();

    expect(await waiting).toEqual({ done: true, value: undefined });
    expect(clock.elapsed).toBe(10);
    expect(seen).toMatchObject({ closed: 1, cleanedUp: 1 });
  });

  it("one of two readers that is aborted does not disturb the other", async (clock) => {
    const { source, seen } = probe({ kind: "generator", every: 200, count: 1, then: "end" });
    const [doomed, stays] = tee(source, 2);
    const controller = new AbortController();
    setTimeout(() => controller.abort(), 100);
    const reading = Array.fromAsync(stays);

    expect(await Array.fromAsync(takeUntil(doomed, controller.signal))).toEqual([]);
    expect(clock.elapsed).toBe(100);
    expect(await reading).toEqual([1]);
    expect(seen).toEqual({ opened: 1, pulled: 2, closed: 0, cleanedUp: 1 });
  });

  it("tells what the cleanup throws that it has waited for, once", async () => {
    const { source, seen } = probe({ count: 1, cleanupFails: true });
    const controller = new AbortController();
    const stream = takeUntil(takeUntil(source, undefined), controller.signal);
    await withoutUnhandled(async () => {
      await stream.next();
      controller.abort();
      await sleep(200);

      expect(await errorOf(stream.next())).toBe(dirty);
    });

    expect(seen.closed).toBe(1);
    expect(await stream.return()).toEqual({ done: true, value: undefined });
  });

  it.each(["waits", "is busy"])(
    "with reject: rejects once, after the cleanup, if the consumer %s",
    async (clock, state) => {
      const { source, seen } = probe({ count: state === "waits" ? 0 : 1 });
      const { controller, listeners } = watchedController();
      const stream = takeUntil(source, controller.signal, { reject: true });
      if (state === "is busy") await stream.next();
      setTimeout(() => controller.abort("stop"), 100);
      if (state === "is busy") await sleep(100);

      expect(await errorOf(stream.next())).toBe("stop");

      expect(clock.elapsed).toBe(state === "waits" ? 100 : 110);
      expect(seen.closed).toBe(1);
      expect(listeners()).toBe(0);
      expect(await stream.next()).toEqual({ done: true, value: undefined });
      await stream.return();
    },
  );

  test("with reject: rejects before anything is opened if aborted before", async () => {
    const { source, seen } = probe({});
    const stream = takeUntil(source, AbortSignal.abort("stop"), { reject: true });

    expect(await errorOf(stream.next())).toBe("stop");

    expect(seen.opened).toBe(0);
  });

  test("with reject: ends as the source does if that comes first", async () => {
    const { controller, listeners } = watchedController();
    const stream = takeUntil([1], controller.signal, { reject: true });

    expect(await Array.fromAsync(stream)).toEqual([1]);
    controller.abort();

    expect(listeners()).toBe(0);
    expect(await stream.next()).toEqual({ done: true, value: undefined });
  });

  it("waits for what runs in parallelMap(), whose failures but not whose echoes are told", async (clock) => {
    const controller = new AbortController();
    const { signal } = controller;
    setTimeout(() => controller.abort("stop"), 100);
    const work = async (n: number) => {
      const error = await errorOf(sleep(1000, signal));
      await sleep(30);
      throw n === 1 ? error : `${n} failed`;
    };
    const stream = takeUntil(parallelMap([1, 2], work, { concurrency: 2 }), signal);

    expect(await errorOf(stream.next())).toMatchObject({ errors: ["stop", "2 failed"] });

    expect(clock.elapsed).toBe(130);
  });

  test("aborted while the source is being opened, it opens and closes it once", async () => {
    for (const kind of ["iterator", "generator"] as const) {
      await virtualTime(async () => {
        const { source, seen } = probe({ kind });
        const controller = new AbortController();
        const reentrant = {
          [Symbol.asyncIterator]() {
            controller.abort();
            return source[Symbol.asyncIterator]();
          },
        };

        expect(await Array.fromAsync(takeUntil(reentrant, controller.signal))).toEqual([]);

        await sleep(10);
        expect(seen).toMatchObject({ opened: 1, pulled: 0, closed: 1 });
      });
    }
  });

  test("aborted by an iterator that is its own iterable, it closes that once", async () => {
    const controller = new AbortController();
    let closed = 0;
    const iterator = {
      next: () => Promise.reject(broken),
      return: async () => (closed++, { done: true as const, value: undefined }),
      [Symbol.asyncIterator]() {
        controller.abort();
        return this;
      },
    };

    expect(await Array.fromAsync(takeUntil(iterator, controller.signal))).toEqual([]);

    await turn();
    expect(closed).toBe(1);
  });

  it("one signal can end many, and nothing of them is left", async () => {
    const { controller, listeners } = watchedController();
    const streams = [1, 2, 3].map(() => takeUntil(probe({ count: 0 }).source, controller.signal));
    const reading = Promise.all(streams.map((stream) => Array.fromAsync(stream)));
    expect(listeners()).toBe(1);

    controller.abort();

    expect(await reading).toEqual([[], [], []]);
    expect(listeners()).toBe(0);
  });
});

describe("lines", () => {
  const text = "\uFEFFé\r\n€ 𝄞\n\n\r\nlone \r stays\nlast ü";
  const expected = ["é", "€ 𝄞", "", "", "lone \r stays", "last ü"];
  const bytes = new TextEncoder().encode(text);

  test("gives the same wherever the bytes are cut in two", async () => {
    for (let cut = 0; cut <= bytes.length; cut++) {
      const chunks = [bytes.subarray(0, cut), bytes.subarray(cut)];

      expect(await Array.fromAsync(lines(chunks)), `cut at ${cut}`).toEqual(expected);
    }
  });

  test.each([1, 2, 3, 1000])("gives the same in chunks of %d bytes", async (size) => {
    const chunks = Array.from({ length: Math.ceil(bytes.length / size) }, (_, n) =>
      bytes.subarray(n * size, (n + 1) * size),
    );

    expect(await Array.fromAsync(lines(chunks))).toEqual(expected);
  });

  test.each([
    ["", []],
    ["\n", [""]],
    ["a", ["a"]],
    ["a\n", ["a"]],
    ["a\r\n", ["a"]],
    ["a\r", ["a\r"]],
    ["a\n\n", ["a", ""]],
    ["a\r\r\n", ["a\r"]],
  ])("%j", async (given, wanted) => {
    expect(await Array.fromAsync(lines([new TextEncoder().encode(given)]))).toEqual(wanted);
  });

  test.each([
    ["in the middle", [0x61, 0xff, 0x0a, 0x62], ["a\uFFFD", "b"]],
    ["cut off at the end", [0x61, 0x0a, 0xe2, 0x82], ["a", "\uFFFD"]],
  ])("replaces what is no UTF-8, %s", async (_where, given, wanted) => {
    expect(await Array.fromAsync(lines([new Uint8Array(given)]))).toEqual(wanted);
  });

  test("reads a chunk only when the lines of the one before are used up", async () => {
    let pulled = 0;
    const chunks = async function* () {
      for (const chunk of ["a\nb\n", "c\nd"]) {
        pulled++;
        yield new TextEncoder().encode(chunk);
      }
    };
    const stream = lines(chunks());
    const seen: string[] = [];
    for await (const line of stream) {
      await turn();
      seen.push(`${line} ${pulled}`);
    }

    expect(seen).toEqual(["a 1", "b 1", "c 2", "d 2"]);
  });

  test.each([
    ["ab\ncdef\ng", ["ab"]],
    ["abc\r\nabc\nabc", ["abc", "abc", "abc"]],
    ["abcd", []],
    ["abc\r", []],
    ["abc\rd\n", []],
    ["\n\n12\n1234567890", ["", "", "12"]],
  ])("%j with a maxLength of 3, in chunks of any size", async (given, wanted) => {
    const bytes = new TextEncoder().encode(given);
    for (let size = 1; size <= bytes.length; size++) {
      const chunks = Array.from({ length: Math.ceil(bytes.length / size) }, (_, n) =>
        bytes.subarray(n * size, (n + 1) * size),
      );
      const texts: string[] = [];
      const read = async () => {
        for await (const text of lines(chunks, { maxLength: 3 })) texts.push(text);
      };
      if (wanted.length === 3 && given.startsWith("abc")) await read();
      else {
        expect(await errorOf(read())).toEqual(
          new RangeError("Cannot read lines: a line is longer than 3"),
        );
      }

      expect(texts, `in chunks of ${size}`).toEqual(wanted);
    }
  });

  test("a line without end is refused when it is too long, and its source closed", async () => {
    let pulled = 0;
    let closed = false;
    const endless = async function* () {
      try {
        for (;;) yield (pulled++, new Uint8Array(100));
      } finally {
        closed = true;
      }
    };

    expect(await errorOf(lines(endless(), { maxLength: 1000 }).next())).toBeInstanceOf(RangeError);

    expect({ pulled, closed }).toEqual({ pulled: 11, closed: true });
  });

  test("refuses what is not bytes", async () => {
    expect(await errorOf(lines(["text"] as never).next())).toEqual(
      new TypeError('Cannot read lines: a chunk must be a Uint8Array, received "text"'),
    );
  });

  test("reads a ReadableStream", async () => {
    expect(await Array.fromAsync(lines(new Response(text).body!))).toEqual(expected);
  });

  it.each([
    ["next to the stream: the rest of a line is given out", true, ["one", "tw"]],
    ["around all", false, ["one"]],
  ])(
    "a ReadableStream is cancelled in the middle of a read by takeUntil(), %s",
    async (clock, _where, isNext, wanted) => {
      let cancelled = 0;
      const stream = new ReadableStream<Uint8Array>({
        start: (controller) => controller.enqueue(new TextEncoder().encode("one\ntw")),
        async cancel() {
          await sleep(10);
          cancelled++;
        },
      });
      const controller = new AbortController();
      const { signal } = controller;
      setTimeout(() => controller.abort(), 100);

      const texts = await Array.fromAsync(
        isNext ? lines(takeUntil(stream, signal)) : takeUntil(lines(stream), signal),
      );

      expect(texts).toEqual(wanted);
      expect(clock.elapsed).toBe(110);
      expect(cancelled).toBe(1);
    },
  );

  test("passes on the error of a ReadableStream", async () => {
    const stream = new ReadableStream<Uint8Array>({
      pull: (controller) => controller.error(broken),
    });

    expect(await errorOf(lines(stream).next())).toBe(broken);
  });
});

describe("sources", () => {
  test("a synchronous generator is closed, also when a promise that it yields is rejected", async () => {
    let closed = 0;
    const source = function* () {
      try {
        yield 1;
        yield Promise.reject(broken);
      } finally {
        closed++;
      }
    };

    for await (const n of map(source(), (n) => n)) {
      expect(n).toBe(1);
      break;
    }
    expect(closed).toBe(1);
    expect(await errorOf(Array.fromAsync(map(source(), (n) => n)))).toBe(broken);
    expect(closed).toBe(2);
  });

  test("an iterator needs no return()", async () => {
    let n = 0;
    const source = { [Symbol.asyncIterator]: () => ({ next: async () => ({ value: ++n }) }) };

    expect(await Array.fromAsync(take(source as AsyncIterable<number>, 2))).toEqual([1, 2]);
  });

  test.each([
    [
      "opening it",
      () => {
        throw broken;
      },
    ],
    [
      "a next() that should have rejected",
      () => ({
        next() {
          throw broken;
        },
      }),
    ],
  ])("what %s throws comes out of next()", async (_what, open) => {
    const source = { [Symbol.asyncIterator]: open } as unknown as AsyncIterable<number>;

    expect(await errorOf(map(source, (n) => n).next())).toBe(broken);
  });

  test.each(Object.entries(operators))(
    "one whose next() throws has ended, and is not closed: %s",
    async (_name, operate) => {
      let closed = 0;
      const steps = [{ done: false, value: 1 }];
      const iterator = {
        next: () => {
          if (steps.length === 0) throw broken;
          return steps.pop();
        },
        return: () => ({ closed: ++closed }),
      };
      const source = { [Symbol.asyncIterator]: () => iterator } as unknown as AsyncIterable<number>;

      expect(await errorOf(Array.fromAsync(operate(source)))).toBe(broken);
      expect(closed).toBe(0);
    },
  );

  test("are asked in the very call of next(), so that none misses what comes after it", async () => {
    for (const name of ["map", "flatMap, outer", "merge of one", "zip", "tee", "takeUntil"]) {
      const { source, seen } = probe({});
      const first = operators[name]!(source).next();

      expect({ name, ...seen }).toMatchObject({ name, opened: 1, pulled: 1 });
      expect((await first).done).toBe(false);
    }
  });

  test("a stream without an async iterator, as Safari has them", async () => {
    const stream = new ReadableStream<number>({
      start(controller) {
        for (const n of [1, 2]) controller.enqueue(n);
        controller.close();
      },
    });
    const source = { getReader: () => stream.getReader() } as ReadableStream<number>;

    expect(await Array.fromAsync(map(source, (n) => n))).toEqual([1, 2]);
  });

  test("an iterator that inherits what generators do, but has a next() of its own, can be left", async () => {
    const parent = Object.getPrototypeOf(Object.getPrototypeOf(async function* () {}.prototype));
    const silent = Object.assign(Object.create(parent), {
      next: () => new Promise(() => {}),
      return: async () => ({ done: true }),
    });
    const stream = map(silent as AsyncIterable<number>, (n) => n);
    const waiting = stream.next();

    expect(await stream.return()).toEqual({ done: true, value: undefined });
    expect(await waiting).toEqual({ done: true, value: undefined });
  });
});

describe("leaving", () => {
  it("sets no timer and listens to nothing when it is asked again", async (clock) => {
    const { target, listeners } = watchedTarget();
    for (const stream of [interval(10), fromEvent(target, "tick")]) {
      await stream.return();

      expect(await stream.next()).toEqual({ done: true, value: undefined });
      expect([clock.pending, listeners()]).toEqual([0, 0]);
    }
  });

  it("an error waits for the cleanup of what was open and has not been read", async (clock) => {
    const { source, seen } = probe({ kind: "generator" });
    const open = source[Symbol.asyncIterator]() as AsyncGenerator<number>;
    await open.next();
    const failing = probe({ count: 0, then: "throw" });

    const stream = concat(
      failing.source,
      map(open, (n) => n),
    );

    expect(await errorOf(stream.next())).toBe(broken);
    expect(seen.cleanedUp).toBe(1);
    expect(clock.elapsed).toBe(10);
  });

  it("leaving twice waits for the same cleanup, and tells once what it throws", async (clock) => {
    const { source, seen } = probe({ cleanupFails: true });
    const stream = merge(source, [1]);
    await stream.next();

    const first = errorOf(stream.return());
    await sleep(5);
    expect(await stream.return()).toEqual({ done: true, value: undefined });

    expect(clock.elapsed).toBe(10);
    expect(await first).toBe(dirty);
    expect(seen).toMatchObject({ closed: 1, cleanedUp: 1 });
  });

  it("await using waits also for a generator in the middle of its next()", async (clock) => {
    const { source } = probe({ kind: "generator", every: 100 });
    for (const stream of [map(source, (n) => n), merge(source)]) {
      const start = clock.elapsed;
      const waiting = stream.next();
      await stream[Symbol.asyncDispose]();

      expect(clock.elapsed - start).toBe(110);
      expect(await waiting).toEqual({ done: true, value: undefined });
    }
  });

  it("a source that rejects its next() when it is closed is waited for, and its error told", async (clock) => {
    for (const operate of [operators["merge of one"]!, operators["map"]!]) {
      for (const way of ["return()", "an abort"]) {
        const start = clock.elapsed;
        const step = Promise.withResolvers<IteratorResult<number>>();
        const iterator: AsyncIterator<number> = {
          next: () => step.promise,
          async return() {
            step.reject(broken);
            await sleep(10);
            return { done: true, value: undefined };
          },
        };
        const controller = new AbortController();
        const source = { [Symbol.asyncIterator]: () => iterator };
        const stream = takeUntil(operate(source), controller.signal);
        const outcomes = [stream.next()] as Promise<unknown>[];

        if (way === "return()") outcomes.unshift(stream.return());
        else controller.abort();
        outcomes.push(stream.next());

        const [first, ...others] = await Promise.allSettled(outcomes);
        expect({ way, ms: clock.elapsed - start }).toEqual({ way, ms: 10 });
        expect(first).toEqual({ status: "rejected", reason: broken });
        const done = { status: "fulfilled", value: { done: true, value: undefined } };
        expect(others).toEqual(others.map(() => done as never));
      }
    }
  });
});

/** Sources that answer nothing for ever, and can't be closed before they answer. */
const silent: Record<string, () => Source<number>> = {
  "an async generator": async function* () {
    yield await new Promise<number>(() => {});
  },
  "an iterator that forwards to a generator": () => {
    const generator = (silent["an async generator"] as () => AsyncGenerator<number>)();
    return {
      [Symbol.asyncIterator]: () => ({
        next: () => generator.next(),
        return: () => generator.return(undefined),
      }),
    };
  },
  "an iterator without return()": () => ({
    [Symbol.asyncIterator]: () => ({ next: () => new Promise<never>(() => {}) }),
  }),
  "a pending promise in an array": () => [new Promise<number>(() => {})],
  "a ReadableStream": () => new ReadableStream<number>(),
  "a Node stream": () => {
    const { Readable } = (globalThis as any).process.getBuiltinModule("node:stream");
    return new Readable({ objectMode: true, read() {} });
  },
  "a function that ignores its signal": () => silent["an async generator"] as () => never,
  "a function that never returns a source": () => () => new Promise<never>(() => {}),
};

describe.each(Object.entries(silent))("a silent source, %s,", (kind, create) => {
  it.each(
    Object.entries({
      merge: (source: Source<number>, failing: Source<number>) => merge(source, failing),
      zip: (source: Source<number>, failing: Source<number>) => zip(source, failing),
      "merge of a chain": (source: Source<number>, failing: Source<number>) =>
        merge(
          map(
            filter(buffer(source, 2), () => true),
            (n) => n,
          ),
          failing,
        ),
    }),
  )("does not keep the error of another one waiting in %s", async (clock, _operator, operate) => {
    const failing = probe({ every: 50, count: 0, then: "throw" });

    expect(await errorOf(operate(create(), failing.source).next())).toBe(broken);

    expect(clock.elapsed).toBe(50);
  });

  it.each([{ ordered: true }, { ordered: false }])(
    "doesn't delay parallelMap's error, ordered: $ordered",
    async (clock, { ordered }) => {
      const work = async () => {
        await sleep(50);
        throw broken;
      };
      const source = flatMap([[1], create()], (inner) => inner as Source<number>);

      const stream = parallelMap(source, work, { concurrency: 3, ordered });
      expect(await errorOf(stream.next())).toBe(broken);

      expect(clock.elapsed).toBe(50);
    },
  );

  it("does not keep the error of map's function waiting behind merge", async (clock) => {
    const work = async () => {
      await sleep(50);
      throw broken;
    };

    expect(await errorOf(map(merge(create(), [1]), work).next())).toBe(broken);

    expect(clock.elapsed).toBe(50);
  });

  it.each([
    ["a function returns", (stream: Stream<number>) => map(() => stream, String)],
    ["a function resolves to", (stream: Stream<number>) => map(async () => stream, String)],
    ["flatMap reads", (stream: Stream<number>) => flatMap([1], () => stream)],
    ["flatMap resolves to", (stream: Stream<number>) => flatMap([1], async () => stream)],
    ["switchMap reads", (stream: Stream<number>) => switchMap([1], () => stream)],
    ["a generator of sources has", (stream: Stream<number>) => concat(concat([]), stream)],
  ])("does not keep an error waiting in a stream that %s", async (clock, _what, operate) => {
    const stream = operate(merge([1], create()));
    const fail = async () => {
      await sleep(50);
      throw broken;
    };

    expect(await errorOf(map(stream as Stream<unknown>, fail).next())).toBe(broken);

    expect(clock.elapsed).toBe(50);
  });

  it("does not keep an abort waiting in a stream that a function returns and that was left", async (clock) => {
    const controller = new AbortController();
    setTimeout(() => controller.abort(), 100);
    const inner = () => merge([1], create());
    const streams = [map(inner, String), flatMap([1], inner), merge(inner)].map((stream) =>
      takeUntil(stream as Stream<unknown>, controller.signal),
    );
    for (const stream of streams) await stream.next();

    await Promise.all(streams.map((stream) => stream.return()));

    // Some sources can be closed in the middle of a next().
    const isStoppable = /without return|array|ReadableStream/.test(kind);
    expect(clock.elapsed).toBe(isStoppable ? 0 : 100);
  });

  it("does not keep zip waiting when the shortest source ends", async (clock) => {
    const short = probe({ every: 50, count: 0, then: "end" });

    expect(await Array.fromAsync(zip(create(), short.source))).toEqual([]);

    expect(clock.elapsed).toBe(50);
  });

  it.each(Object.entries(operators))(
    "does not keep an abort waiting: %s",
    async (clock, _op, operate) => {
      const controller = new AbortController();
      setTimeout(() => controller.abort("stop"), 100);
      const stream = takeUntil(operate(create()), controller.signal, { reject: true });

      expect(await errorOf(stream.next())).toBe("stop");

      expect(clock.elapsed).toBe(100);
      expect(await stream.return()).toEqual({ done: true, value: undefined });
    },
  );
});

describe("a source that is a function", () => {
  it.each(Object.entries(operators))(
    "of a signal stops when %s is left",
    async (clock, _name, operate) => {
      const log: string[] = [];
      const source = async function* (signal: AbortSignal) {
        log.push("opened");
        signal.addEventListener("abort", () => log.push(`aborted at ${clock.elapsed}`));
        try {
          await sleep(1000, signal);
          yield 1;
        } finally {
          await sleep(10);
          log.push(`closed at ${clock.elapsed}`);
        }
      };
      const stream = operate(source);
      await sleep(50);
      expect(log).toEqual([]);
      const waiting = stream.next();
      await sleep(50);
      expect(log).toEqual(["opened"]);

      expect(await stream.return()).toEqual({ done: true, value: undefined });

      expect(await waiting).toEqual({ done: true, value: undefined });
      expect(log).toEqual(["opened", "aborted at 100", "closed at 110"]);
      expect(clock.pending).toBe(0);
    },
  );

  test("has its signal aborted before return() is called, and only then", async () => {
    const log: string[] = [];
    const source = (signal: AbortSignal) => ({
      [Symbol.asyncIterator]: () => ({
        next: async () => ({ done: false, value: signal.aborted }),
        async return() {
          log.push(`closed, aborted: ${signal.aborted}, ${signal.reason}`);
          return { done: true as const, value: undefined };
        },
      }),
    });

    for await (const isAborted of map(source, (n) => n)) {
      expect(isAborted).toBe(false);
      break;
    }

    expect(log).toEqual(["closed, aborted: true, AbortError: The stream was left"]);
  });

  test.each(["its end", "its error"])("does not have its signal aborted at %s", async (how) => {
    const signals: AbortSignal[] = [];
    const source = async function* (signal: AbortSignal) {
      signals.push(signal);
      yield 1;
      if (how === "its error") throw broken;
    };

    const outcome = Array.fromAsync(merge(source));
    if (how === "its error") expect(await errorOf(outcome)).toBe(broken);
    else expect(await outcome).toEqual([1]);

    expect(signals.map((signal) => signal.aborted)).toEqual([false]);
  });

  it("has its signal aborted by an error of fn, of another source, and by an abort", async () => {
    const reasons: string[] = [];
    const source = async function* (signal: AbortSignal) {
      signal.addEventListener("abort", () => reasons.push(signal.reason.name));
      yield 1;
      await sleep(1000, signal);
    };
    const fail = () => Promise.reject(broken);
    const late = probe({ count: 0, every: 10, then: "throw" });

    expect(await errorOf(map(source, fail).next())).toBe(broken);
    expect(await errorOf(parallelMap(source, fail, { concurrency: 2 }).next())).toBe(broken);
    expect(await errorOf(Array.fromAsync(merge(source, late.source)))).toBe(broken);
    await Array.fromAsync(takeUntil(source, AbortSignal.timeout(10)));

    expect(reasons).toEqual(Array(4).fill("AbortError"));
  });

  test.each([
    ["an array", () => [1, 2]],
    ["a promise of an array", async () => [1, 2]],
    ["a generator", () => interminable()],
    ["an async generator", () => comeAt(1, 2, 3)],
    ["a ReadableStream", () => new Response("\u0001\u0002").body!.pipeThrough(bytesToNumbers())],
    ["another stream", () => map([1, 2], (n) => n)],
  ] as [string, () => Source<number> & (() => never)][])("may return %s", async (_what, source) => {
    await virtualTime(async () => {
      const values = await Array.fromAsync(take(source as unknown as Source<number>, 2));

      expect(values.length).toBe(2);
    });
  });

  test("is not called when the stream is left unread", async () => {
    let calls = 0;
    const source = () => [calls++];

    for (const operate of Object.values(operators)) await operate(source).return();

    expect(calls).toBe(0);
  });

  test("and an iterable is taken as an iterable", async () => {
    const both = Object.assign(() => [1], { [Symbol.iterator]: () => [2].values() });

    expect(await Array.fromAsync(map(both, (n) => n))).toEqual([2]);
  });

  test("may be what flatMap's function returns", async () => {
    const signals: AbortSignal[] = [];
    const inner = (n: number) => (signal: AbortSignal) => (signals.push(signal), [n, -n]);

    expect(await Array.fromAsync(take(flatMap([1, 2], inner), 3))).toEqual([1, -1, 2]);

    expect(signals.map((signal) => signal.aborted)).toEqual([false, true]);
  });

  test("that throws, rejects or returns something else fails the stream", async () => {
    const fail = () => {
      throw broken;
    };
    expect(await errorOf(map(fail, (n) => n).next())).toBe(broken);
    expect(await errorOf(merge(() => Promise.reject(broken)).next())).toBe(broken);
    expect(await errorOf(merge((() => 5) as never).next())).toEqual(
      new TypeError("Cannot merge: source must be an iterable, received 5"),
    );
  });

  it.each(["map", "merge of one", "merge with an empty one"])(
    "that delivers late is closed and awaited: %s",
    async (clock, name) => {
      const { source, seen } = probe({});
      const slow = async () => {
        await sleep(100);
        return source;
      };
      const stream = operators[name]!(slow);
      const waiting = stream.next();
      await sleep(50);

      await stream.return();

      expect(await waiting).toEqual({ done: true, value: undefined });
      expect(clock.elapsed).toBe(110);
      expect(seen).toEqual({ opened: 1, pulled: 0, closed: 1, cleanedUp: 1 });
    },
  );

  test("an AbortError that its cleanup throws is dropped, that of another source is told", async () => {
    const echo = new DOMException("mine", "AbortError");
    const source = {
      [Symbol.asyncIterator]: () => ({
        next: async () => ({ done: false, value: 1 }),
        return: () => Promise.reject(echo),
      }),
    };
    const leave = async (source: Source<number>) => {
      for await (const _ of map(source, (n) => n)) break;
    };

    await leave(() => source);
    expect(await errorOf(leave(source))).toBe(echo);
  });

  test("is not called by take(source, 0)", async () => {
    expect(await Array.fromAsync(take(() => Promise.reject(broken), 0))).toEqual([]);
  });

  it("an AbortError after the abort is dropped, another error is told", async () => {
    const failWith = (error: unknown) =>
      async function* (signal: AbortSignal) {
        await sleep(1000, signal).catch(() => {});
        yield await Promise.reject(error);
      };
    const leave = async (source: Source<number>) => {
      const stream = merge([0], source);
      await stream.next();
      await sleep(1);
      await stream.return();
    };

    await leave(failWith(new DOMException("mine", "AbortError")));
    expect(await errorOf(leave(failWith(broken)))).toBe(broken);
  });
});

describe("a hold that nobody receives is released", () => {
  const { lines: _, ...others } = operators;

  test.each(Object.entries(others))("on its way when %s is left", async (_name, operate) => {
    for (const kind of ["iterator", "generator"]) {
      await virtualTime(async () => {
        const hold = holdOf();
        const generate = async function* () {
          await sleep(100);
          yield hold;
        };
        const iterator = {
          [Symbol.asyncIterator]: () => ({
            next: async () => (await sleep(100), { done: false, value: hold }),
          }),
        };
        const source = kind === "generator" ? generate() : iterator;
        const stream = operate(source as unknown as Source<number>);
        const waiting = stream.next();
        await sleep(50);

        await stream.return();
        expect(await waiting).toEqual({ done: true, value: undefined });
        await sleep(100);

        expect(hold.released).toBeGreaterThanOrEqual(1);
      });
    }
  });

  it.each(Object.entries(others))(
    "but not one that %s has delivered",
    async (_, _name, operate) => {
      const hold = holdOf();
      const stream = operate([hold] as unknown as Source<number>);

      await stream.next();
      await stream.next();
      await stream.return();

      expect(hold.released).toBe(0);
    },
  );

  test("waiting in a buffer when it is left", async () => {
    const holds = [holdOf(), holdOf(), holdOf()];
    const stream = buffer(holds, 5);
    await stream.next();
    await turn();

    await stream.return();

    expect(holds.map((hold) => hold.released)).toEqual([0, 1, 1]);
  });

  it("the result of map's, filter's or scan's function when the stream was left meanwhile", async () => {
    const [made, kept] = [holdOf(), holdOf()];
    const streams = [
      map([1], async () => (await sleep(100), made)),
      filter([kept], () => sleep(100).then(() => true)),
    ];
    const waiting = streams.map((stream) => stream.next());
    await sleep(1);
    for (const stream of streams) await stream.return();

    expect(await Promise.all(waiting)).toEqual(Array(2).fill({ done: true, value: undefined }));
    expect([made.released, kept.released]).toEqual([1, 1]);
  });

  it.each([{ ordered: true }, { ordered: false }])(
    "that comes after a failure, ordered: $ordered",
    async (_, { ordered }) => {
      const hold = holdOf();
      const work = async (n: number) => {
        await sleep(n);
        if (n === 10) throw broken;
        return hold;
      };
      const stream = parallelMap([10, 20], work, { concurrency: 2, ordered });

      expect(await errorOf(stream.next())).toBe(broken);

      expect(hold.released).toBe(1);
    },
  );

  it("a result of parallelMap that is ready, or comes, when it is left", async () => {
    const holds = new Map([10, 20, 30].map((ms) => [ms, holdOf()]));
    const work = async (ms: number) => (await sleep(ms), holds.get(ms)!);
    const stream = parallelMap(holds.keys(), work, { concurrency: 3 });
    expect((await stream.next()).value).toBe(holds.get(10));
    await sleep(15);

    await stream.return();

    expect([...holds.values()].map((hold) => hold.released)).toEqual([0, 1, 1]);
  });

  it("what is in a batch, or in a row of zip, that never becomes full", async () => {
    const [inBatch, inRow] = [holdOf(), holdOf()];
    const never = probe({ count: 0 }).source;
    const streams = [batch(merge([inBatch], never), 2), zip([inRow], never)];
    const waiting = streams.map((stream) => stream.next());
    await sleep(1);
    for (const stream of streams) await stream.return();
    await Promise.all(waiting);

    expect([inBatch.released, inRow.released]).toEqual([1, 1]);
  });

  test("what tee has read when all have left, unless one has received it", async () => {
    const [received, unclaimed] = [holdOf(), holdOf()];
    const [fast, slow, never] = tee([received, unclaimed], 3);
    await fast.next();
    await fast.return();
    await slow.next();
    const second = slow.next();
    expect((await second).value).toBe(unclaimed);
    await never.return();
    await slow.return();
    expect([received.released, unclaimed.released]).toEqual([0, 0]);

    const hold = holdOf();
    const [first, other] = tee([hold], 2);
    const waiting = first.next();
    first.return();
    other.return();
    await waiting;
    await turn();
    expect(hold.released).toBe(1);
  });

  it.each<[string, (source: Source<Hold>) => Stream<unknown>]>([
    ["buffer", (source) => buffer(source, 2)],
    ["batch", (source) => batch(source, 3)],
    ["buffer of batches", (source) => buffer(batch(source, 1), 2)],
  ])(
    "what a %s of a reader of tee drops, unless another has received it",
    async (_clock, _name, read) => {
      const holds = [holdOf(), holdOf()];
      const [plain, other] = tee(concat(holds, interval(1000)), 2);
      await plain.next();
      await plain.next();
      const stream = read(other as Stream<Hold>);
      const first = stream.next();
      await turn();
      await Promise.all([stream.return(), plain.return(), first]);

      expect(holds.map(({ released }) => released)).toEqual([0, 0]);
    },
  );

  test("what tee has read for two readers when both leave, but not when one has received it", async () => {
    for (const isReceived of [false, true]) {
      const hold = holdOf();
      const [asks, second, third] = tee([hold], 3);
      const waiting = asks.next();
      asks.return();
      await waiting;
      await turn();

      await second.return();
      expect(hold.released).toBe(0);
      if (isReceived) expect((await third.next()).value).toBe(hold);
      await third.return();

      expect(hold.released).toBe(isReceived ? 0 : 1);
    }
  });

  test("an event that a full fromEvent drops", async () => {
    const target = new EventTarget();
    const events = fromEvent(target, "hold", { capacity: 1, dropOldest: true });
    const holds = [0, 1, 2].map(() => Object.assign(new Event("hold"), holdOf()));
    const first = events.next();
    for (const hold of holds) target.dispatchEvent(hold);

    expect((await first).value).toBe(holds[0]!);
    expect((await events.next()).value).toBe(holds[2]!);

    expect(holds.map((hold) => hold.released)).toEqual([0, 1, 0]);
  });

  test("an array, a value without release() and one that is not disposable are left alone", async () => {
    let released = 0;
    const release = () => released++;
    const values = [{ release }, { [Symbol.dispose]: release }, 5, null];
    const stream = buffer([1, ...values], 9);
    await stream.next();
    await turn();

    await stream.return();

    expect(released).toBe(0);
  });
});

describe("errors", () => {
  it.each(Object.entries(operators))(
    "only the first of two pending next() rejects: %s",
    async (_, _name, operate) => {
      const { source } = probe({ every: 10, count: 0, then: "throw" });
      const stream = operate(source);

      const outcomes = await Promise.allSettled([stream.next(), stream.next(), stream.next()]);

      const done = { status: "fulfilled", value: { done: true, value: undefined } };
      expect(outcomes).toEqual([{ status: "rejected", reason: broken }, done, done] as never);
    },
  );

  it.each([
    ["an array", (promises: Promise<number>[]) => promises],
    ["a Set", (promises: Promise<number>[]) => new Set(promises)],
    ["an array that a function returns", (promises: Promise<number>[]) => () => promises],
  ])(
    "a promise in %s that is rejected before its turn is not unhandled",
    async (clock, _what, create) => {
      const slow = sleep(100).then(() => 1);
      const rejecting = sleep(10).then(() => Promise.reject(broken));
      const stream = map(create([slow, rejecting]), (n) => n);
      await withoutUnhandled(async () => {
        expect(await stream.next()).toEqual({ done: false, value: 1 });

        expect(clock.elapsed).toBe(100);
        expect(await errorOf(stream.next())).toBe(broken);
      });
    },
  );

  it("which come after the stream was left are dropped, and not unhandled", async () => {
    await withoutUnhandled(async () => {
      const late = async function* () {
        await sleep(100);
        throw broken;
      };
      const unclean = async function* () {
        try {
          yield await sleep(100);
        } finally {
          throw dirty;
        }
      };
      const stream = takeUntil(
        merge<unknown>(late(), map(late(), String), unclean()),
        AbortSignal.timeout(10),
      );
      expect(await Array.fromAsync(stream)).toEqual([]);
      await sleep(200);
      expect(await stream.return()).toEqual({ done: true, value: undefined });
    });
  });

  it("of a cleanup that an abort has stopped waiting for are dropped", async () => {
    const unclean = async function* () {
      try {
        yield await sleep(100);
      } finally {
        throw dirty;
      }
    };
    const stream = takeUntil(unclean(), AbortSignal.timeout(50));
    const waiting = stream.next();
    expect(await stream.return()).toEqual({ done: true, value: undefined });
    expect(await waiting).toEqual({ done: true, value: undefined });

    await withoutUnhandled(() => sleep(100));

    expect(await stream.return()).toEqual({ done: true, value: undefined });
  });

  test("of a target that can't be left are told", async () => {
    const target = new EventTarget();
    target.removeEventListener = () => {
      throw broken;
    };
    const events = fromEvent(target, "x");
    const waiting = events.next();

    expect(await errorOf(events.return())).toBe(broken);
    expect(await waiting).toEqual({ done: true, value: undefined });
  });

  test("of a hostile kind do not stop the cleanup", async () => {
    const { proxy, revoke } = Proxy.revocable({}, {});
    revoke();
    const throwing = Object.defineProperty({}, "name", {
      get() {
        throw new Error("getter");
      },
    });
    for (const error of [proxy, throwing, null, undefined]) {
      const { source, seen } = probe({});
      await virtualTime(async () => {
        const work = async (_n: number, index: number, signal: AbortSignal) => {
          await new Promise((resolve) => signal.addEventListener("abort", resolve));
          if (index > 0) throw error;
        };
        const stream = parallelMap(source, work, { concurrency: 2 });
        const waiting = stream.next();
        await sleep(1);

        const outcome = await Promise.allSettled([stream.return()]);

        expect(outcome[0].status).toBe("rejected");
        expect((outcome[0] as PromiseRejectedResult).reason === error).toBe(true);
        expect(await waiting).toEqual({ done: true, value: undefined });
        expect(seen).toMatchObject({ closed: 1, cleanedUp: 1 });
      });
    }
  });
});

describe("next()", () => {
  it.each(Object.entries(operators))(
    "answers overlapping calls in order: %s",
    async (_, _name, operate) => {
      const { source, seen } = probe({ every: 10, count: 3, then: "end" });
      const stream = operate(source);

      const steps = await Promise.all(Array.from({ length: 5 }, () => stream.next()));

      const values = steps.map((step) => (step.done ? "end" : JSON.stringify(step.value)));
      expect(values.slice(3)).toEqual(["end", "end"]);
      expect(values.slice(0, 3)).toEqual([...values.slice(0, 3)].sort());
      expect(new Set(values).size).toBe(4);
      expect(seen.pulled).toBe(4);
    },
  );

  it.each(calling)("of %s calls nothing after return()", async (_, _name, operate) => {
    const { source } = probe({ kind: "generator", every: 100 });
    let calls = 0;
    const stream = operate(source, () => calls++ as never);
    const waiting = stream.next();
    await sleep(50);

    await stream.return();

    expect(await waiting).toEqual({ done: true, value: undefined });
    expect(calls).toBe(0);
  });

  test.each(calling)("of %s calls nothing in the turn of an abort", async (_name, operate) => {
    const arrival = Promise.withResolvers<IteratorResult<number>>();
    const source = { [Symbol.asyncIterator]: () => ({ next: () => arrival.promise }) };
    const controller = new AbortController();
    let calls = 0;
    const stream = takeUntil(
      operate(source, () => calls++ as never),
      controller.signal,
    );
    const waiting = stream.next();

    arrival.resolve({ done: false, value: 1 });
    controller.abort();

    expect(await waiting).toEqual({ done: true, value: undefined });
    await turn();
    expect(calls).toBe(0);
  });

  it("of map runs its function once at a time, also if calls overlap", async (clock) => {
    let [running, peak] = [0, 0];
    const stream = map([1, 2, 3], async (n) => {
      peak = Math.max(peak, ++running);
      await sleep(100);
      running--;
      return n;
    });
    const first = stream.next();
    const second = stream.next();
    await first;
    const third = stream.next();

    expect([(await second).value, (await third).value]).toEqual([2, 3]);
    expect(peak).toBe(1);
    expect(clock.elapsed).toBe(300);
  });

  it.each(["next", "return"] as const)(
    "and return() don't overflow in a chain of 1,000: %s",
    async (_, how) => {
      const { source, seen } = probe({});
      let stream: Source<number> = source;
      for (let n = 0; n < 250; n++) {
        stream = filter(
          map(stream, (n) => n + 1),
          () => true,
        );
        stream = takeUntil(merge(stream), new AbortController().signal);
        // One that reads from another that reads ahead makes all of them read the more.
        if (n % 20 === 0) stream = buffer(stream, 1);
      }
      const chain = stream as Stream<number>;
      expect(await chain.next()).toEqual({ done: false, value: 251 });

      if (how === "return") {
        await chain.return();
        expect(seen).toMatchObject({ closed: 1, cleanedUp: 1 });
      } else expect(await chain.next()).toEqual({ done: false, value: 252 });
    },
  );

  it("an abort doesn't overflow in a chain of 1,000", async (clock) => {
    const { source, seen } = probe({ count: 0 });
    const controller = new AbortController();
    let stream: Source<number> = source;
    for (let n = 0; n < 500; n++)
      stream = takeUntil(
        map(stream, (n) => n),
        controller.signal,
      );
    setTimeout(() => controller.abort(), 10);

    expect(await Array.fromAsync(stream as Stream<number>)).toEqual([]);

    expect(clock.elapsed).toBe(10);
    expect(seen.closed).toBe(1);
  });
});

describe("what is open is closed, once", () => {
  test.each(Object.entries(operators))(
    "a generator that nobody has started: %s",
    async (name, operate) => {
      for (const source of [interminable(), comeAt(1)]) {
        let closed = 0;
        const close = source.return.bind(source) as () => never;
        source.return = () => (closed++, close());

        await operate(source).return();

        // The function has not been asked for the inner one.
        expect(closed).toBe(name.endsWith("inner") ? 0 : 1);
      }
    },
  );

  it.each(["it ends", "it fails", "it is left", "it is left during next()"])(
    "a ReadableStream is unlocked when %s",
    async (_, how) => {
      let cancelled = 0;
      const stream = new ReadableStream<number>({
        start(controller) {
          if (!how.endsWith("next()")) controller.enqueue(1);
          if (how === "it ends") controller.close();
          if (how === "it fails") setTimeout(() => controller.error(broken), 1);
        },
        cancel: () => void cancelled++,
      });
      const reader = map(stream, (n) => n);
      const first = reader.next();
      expect(stream.locked).toBe(true);

      if (how === "it ends") await Array.fromAsync(reader);
      else if (how === "it fails") expect(await errorOf(Array.fromAsync(reader))).toBe(broken);
      else {
        await (how.endsWith("next()") ? sleep(1) : first);
        await reader.return();
      }
      await first;

      expect(stream.locked).toBe(false);
      expect(cancelled).toBe(how.includes("left") ? 1 : 0);
    },
  );

  test("a generator whose return() has been taken away", async () => {
    const source = Object.assign(comeAt(0, 1), { return: undefined }) as never;

    const stream = map(source, (n) => n);
    expect(await stream.next()).toEqual({ done: false, value: 0 });
    expect(await stream.return()).toEqual({ done: true, value: undefined });
  });

  test("an iterator that nobody has read and that can't be closed", async () => {
    const source = { next: () => ({ value: 1 }), [Symbol.iterator]: () => interminable() };

    expect(await map(source, (n) => n).return()).toEqual({ done: true, value: undefined });
  });

  test("what is open already when an abort comes before the first read, but nothing is opened then", async () => {
    let cancelled = 0;
    const stream = new ReadableStream<number>({ cancel: () => void cancelled++ });
    let closed = 0;
    const generator = comeAt(1);
    const close = generator.return.bind(generator);
    generator.return = (value) => (closed++, close(value));
    const { source, seen } = probe({});

    for (const unread of [stream, generator, source]) {
      expect(await Array.fromAsync(takeUntil(unread, AbortSignal.abort()))).toEqual([]);
    }

    expect({ cancelled, closed, opened: seen.opened }).toEqual({
      cancelled: 1,
      closed: 1,
      opened: 0,
    });
  });

  it.each(["map", "merge of one", "takeUntil"])(
    "a source is told in the very call of return(): %s",
    async (_, name) => {
      const { source, seen } = probe({});
      const stream = operators[name]!(source);
      await stream.next();

      const leaving = stream.return();

      expect(seen.closed).toBe(1);
      await leaving;
    },
  );

  test("a ReadableStream that nobody has read is cancelled", async () => {
    let cancelled = 0;
    await map(new ReadableStream({ cancel: () => void cancelled++ }), (n) => n).return();

    expect(cancelled).toBe(1);
  });

  it.each(["has left", "has been aborted"])(
    "an inner source that comes when the consumer %s",
    async (clock, how) => {
      let closed = 0;
      const inner = comeAt(1);
      const close = inner.return.bind(inner);
      inner.return = async (value) => {
        closed++;
        await sleep(10);
        return close(value);
      };
      const controller = new AbortController();
      const slow = async () => (await sleep(100), inner);
      const stream = takeUntil(flatMap([1], slow), controller.signal);
      const waiting = stream.next();
      await sleep(50);

      if (how === "has left") await stream.return();
      else controller.abort();

      expect(await waiting).toEqual({ done: true, value: undefined });
      expect(clock.elapsed).toBe(how === "has left" ? 110 : 50);
      await sleep(60);
      expect(closed).toBe(1);
    },
  );

  it("what fails in the cleanup of such an inner source is told", async () => {
    const inner = comeAt(1);
    inner.return = () => Promise.reject(dirty);
    const stream = flatMap([1], async () => (await sleep(100), inner));
    const waiting = stream.next();
    await sleep(50);

    expect(await errorOf(stream.return())).toBe(dirty);
    expect(await waiting).toEqual({ done: true, value: undefined });
  });

  it.each([
    ["pending", () => new Promise<never>(() => {})],
    ["rejected later", () => sleep(100).then(() => Promise.reject(broken))],
  ])("a synchronous source whose promise is %s", async (clock, _what, create) => {
    let closed = 0;
    const source = {
      [Symbol.iterator]: () => ({
        next: () => ({ done: false, value: create() }),
        return: () => (closed++, { done: true as const, value: undefined }),
      }),
    };
    const stream = map(source, (n) => n);
    const waiting = stream.next();
    await sleep(50);

    await stream.return();

    expect(await waiting).toEqual({ done: true, value: undefined });
    expect(clock.elapsed).toBe(50);
    await withoutUnhandled(() => sleep(100));
    expect(closed).toBe(1);
  });
});

describe("in every order", () => {
  const two = { concurrency: 2 };

  /** Of two sources "a" is left only after its `next()`; "b" is a function that heeds its signal. */
  const made: Record<string, (play: Play) => Stream<unknown>> = {
    merge: ({ source }) => merge(source("a", 2), source("b", 1)),
    zip: ({ source }) => zip(source("a", 2, "shortest"), source("b", 1, "shortest")),
    concat: ({ source }) => concat(source("a", 1), source("b", 1)),
    "buffer of 1": ({ source }) => buffer(source("a", 3), 1),
    "buffer of 2": ({ source }) => buffer(source("b", 3), 2),
    "merge of buffers": ({ source }) => merge(buffer(source("a", 1), 2), buffer(source("b", 1), 2)),
    batch: ({ source }) => batch(source("a", 3), 2),
    "batch with maxWait": ({ source }) => batch(source("b", 3), 2, { maxWait: 10 }),
    parallelMap: ({ source, work }) => parallelMap(source("a", 3), work, two),
    "parallelMap, unordered": ({ source, work }) =>
      parallelMap(source("b", 3), (n, i) => work(n, i), { ...two, ordered: false }),
    flatMap: ({ source, open }) => flatMap(source("a", 2), open),
    "flatMap at once": ({ source, open }) => flatMap(source("b", 2), open, two),
    switchMap: ({ source, open }) => switchMap(source("a", 2), open),
    debounce: ({ source }) => debounce(source("a", 3), 10),
    throttle: ({ source }) => throttle(source("b", 3), 10, { trailing: true }),
    tee({ source, readAlso }) {
      const [one, other] = tee(source("a", 2), 2);
      readAlso(one);
      return other;
    },
    "buffers of tee": ({ source, readAlso }) => {
      const [one, other] = tee(source("b", 2), 2);
      readAlso(buffer(one, 2), 1);
      return buffer(other, 1);
    },
  };

  /** How many values may have been asked for and not been received; the one on its way included. */
  const limits: Record<string, number> = {
    merge: 2,
    zip: 2,
    concat: 1,
    "buffer of 1": 2,
    "buffer of 2": 3,
    batch: 2,
    "batch with maxWait": 2,
    parallelMap: 3,
    "parallelMap, unordered": 3,
    flatMap: 1,
    "flatMap at once": 2,
    debounce: 3,
    throttle: 3,
    tee: 1,
    "buffers of tee": 3,
  };

  const ways: Record<string, (play: Play, stream: Stream<unknown>) => Promise<unknown>> = {
    "read to its end": (play, stream) => play.read(stream),
    "left by break": (play, stream) => play.read(stream, 1),
    async "read by two loops"({ world, read }, stream) {
      await Promise.all([read(stream), world.spawn("other", () => read(stream))]);
    },
    async "left in the middle"({ world, tell, read }, stream) {
      const leaving = world.spawn("leaver", () => tell(stream.return()));
      await Promise.all([read(stream), leaving]);
    },
    async aborted({ world, hurry, read, must }, stream) {
      const { controller, listeners } = watchedController();
      const { signal } = controller;
      signal.addEventListener("abort", hurry);
      world.abort(controller, { reason: "aborted" });
      await world.spawn("reader", async () => {
        const isTooLate = signal.aborted;
        const count = await read(takeUntil(stream, signal, { reject: true }));
        if (isTooLate) must([count], [0]);
      });
      must([listeners()], [1]);
    },
  };

  for (const [way, leave] of Object.entries(ways)) {
    test.each(Object.entries(made))(
      `a stream of sources that fail is ${way}: %s`,
      async (name, make) => {
        await everyOrder(async (world) => {
          const isInOrder = !/merge|zip|at once|unordered/.test(name);
          const play = playOf(world, isInOrder, limits[name]);
          await leave(play, make(play));
          const isRead =
            way.startsWith("read") && !/zip|switchMap|debounce|throttle|s of tee/.test(name);
          await play.check(isRead, isRead && /^(concat|buffer|batch|tee)/.test(name));
        });
      },
      120_000,
    );
  }
});

describe("a source's answers are taken as `for await` takes them", () => {
  const sourceOf = (next: () => unknown, close?: () => unknown) =>
    ({ [Symbol.asyncIterator]: () => ({ next, return: close }) }) as AsyncIterable<number>;
  const both = [operators["map"]!, operators["buffer"]!];

  test("a next() that returns no promise", async () => {
    for (const operate of both) {
      const steps = [{ value: 1 }, { done: false, value: 2 }, { done: true, value: 3 }];
      const source = sourceOf(() => steps.shift());

      expect(await Array.fromAsync(operate(source))).toEqual([1, 2]);
    }
  });

  test("a result that is a primitive", async () => {
    for (const operate of both) {
      for (const result of [5, "step", null, undefined, true]) {
        for (const source of [sourceOf(async () => result), sourceOf(() => result)]) {
          const error = await errorOf(operate(source).next());
          expect(error).toBeInstanceOf(TypeError);
          const shown = typeof result === "string" ? `"${result}"` : `${result}`;
          expect((error as Error).message).toBe(`${shown} is not a result`);
        }
      }
    }
  });

  test("the last value of a synchronous source, if it is a promise that is rejected", async () => {
    for (const operate of both) {
      let closed = 0;
      const iterator = {
        next: () => ({ done: true, value: Promise.reject(broken) }),
        return: () => ({ value: ++closed }),
      };
      const source = { [Symbol.iterator]: () => iterator } as unknown as Iterable<number>;

      expect(await errorOf(operate(source).next())).toBe(broken);
      expect(closed).toBe(0);
    }
  });

  test("a function with then() is a promise", async () => {
    const later = Object.assign(() => {}, {
      then: (resolve: (value: number) => void) => resolve(5),
    }) as unknown as Promise<number>;

    expect(await map([1], () => later).next()).toEqual({ done: false, value: 5 });
    expect(await map([later], (n) => n).next()).toEqual({ done: false, value: 5 });
    const results = parallelMap([1], () => later, { concurrency: 1 });
    expect(await results.next()).toEqual({ done: false, value: 5 });
  });

  test("a return() that results in a primitive, or in a promise of one", async () => {
    for (const operate of both) {
      for (const close of [() => 5, async () => 5]) {
        const stream = operate(sourceOf(() => ({ value: 1 }), close));
        await stream.next();
        const error = await errorOf(stream.return());

        expect(error).toBeInstanceOf(TypeError);
        expect((error as Error).message).toContain(
          "the result of return() must be an object, received 5",
        );
      }
    }
  });

  test("a result whose object is used again by a source that is read ahead", async () => {
    const step = { done: false, value: 0 };
    const source = sourceOf(() => ((step.done = ++step.value > 3), step));

    expect(await Array.fromAsync(buffer(source, 5))).toEqual([1, 2, 3]);
  });
});

test("what console.log shows of a stream", () => {
  const inspect = Symbol.for("nodejs.util.inspect.custom");
  const show = (stream: unknown) => (stream as { [inspect](): string })[inspect]();

  expect(show(map([1], String))).toBe('Stream { action: "map" }');
  expect(show(lines([]))).toBe('Stream { action: "read lines" }');
  expect(show(interval(1))).toBe('Stream { action: "create interval" }');
  expect(show(fromEvent(new EventTarget(), "x"))).toBe('Stream { action: "listen" }');
  expect(show(tee([], 1)[0])).toBe('Stream { action: "tee" }');
});

test("types: what comes out of a stream", () => {
  const numbers = [1] as number[];
  const words = map(numbers, String);

  expectTypeOf(merge(numbers, words)).toEqualTypeOf<Stream<number | string>>();
  expectTypeOf(merge(numbers, numbers)).toEqualTypeOf<Stream<number>>();
  expectTypeOf(merge<number>(numbers)).toEqualTypeOf<Stream<number>>();
  expectTypeOf(
    merge(
      async function* () {
        yield 1;
      },
      () => "ab",
    ),
  ).toEqualTypeOf<Stream<number | string>>();
  expectTypeOf(zip(numbers, "ab")).toEqualTypeOf<Stream<[number, string]>>();
  expectTypeOf(zip([Promise.resolve(1)], words)).toEqualTypeOf<Stream<[number, string]>>();
  expectTypeOf(flatMap(numbers, (n) => [String(n)])).toEqualTypeOf<Stream<string>>();
  expectTypeOf(flatMap(numbers, (n) => (n > 1 ? [n] : "ab"))).toEqualTypeOf<
    Stream<number | string>
  >();
  expectTypeOf(flatMap(numbers, async (n) => (n > 1 ? [n] : words))).toEqualTypeOf<
    Stream<number | string>
  >();
  expectTypeOf(concat(numbers, "ab")).toEqualTypeOf<Stream<number | string>>();
  expectTypeOf(concat<number>(numbers)).toEqualTypeOf<Stream<number>>();
  expectTypeOf(switchMap(numbers, (n) => (n > 1 ? [n] : words))).toEqualTypeOf<
    Stream<number | string>
  >();
  expectTypeOf(flatMap(numbers, () => words, several)).toEqualTypeOf<Stream<string>>();
  expectTypeOf(debounce(numbers, 1)).toEqualTypeOf<Stream<number>>();
  expectTypeOf(throttle(numbers, 1)).toEqualTypeOf<Stream<number>>();
  expectTypeOf(fromEvent(new EventTarget(), "x")).toEqualTypeOf<Stream<Event>>();
  expectTypeOf(fromEvent<[number]>(emitterOf(), "x")).toEqualTypeOf<Stream<[number]>>();
  expectTypeOf(map(numbers, (n) => (n > 1 ? n : Promise.resolve("a")))).toEqualTypeOf<
    Stream<number | string>
  >();
  expectTypeOf(map<number, string>(numbers, async (n) => String(n))).toEqualTypeOf<
    Stream<string>
  >();
  expectTypeOf(map([Promise.resolve(1)], (n) => n)).toEqualTypeOf<Stream<number>>();
  expectTypeOf(
    map(
      (_signal) => numbers,
      (n) => n,
    ),
  ).toEqualTypeOf<Stream<number>>();
  const mixed = (n: number) => (n > 1 ? n : Promise.resolve("a"));
  expectTypeOf(parallelMap(numbers, mixed, { concurrency: 1 })).toEqualTypeOf<
    Stream<number | string>
  >();

  const isText = (value: number | string): value is string => typeof value === "string";
  expectTypeOf(filter(merge(numbers, words), isText)).toEqualTypeOf<Stream<string>>();
  expectTypeOf(filter([1, null], (n) => n !== null)).toEqualTypeOf<Stream<number>>();
  expectTypeOf(takeWhile(merge(numbers, words), isText)).toEqualTypeOf<Stream<string>>();
  expectTypeOf(filter(numbers, (n) => n > 1)).toEqualTypeOf<Stream<number>>();

  expectTypeOf(tee(numbers, 2)).toEqualTypeOf<[Stream<number>, Stream<number>]>();
  expectTypeOf(tee(numbers, 2 as number)).toEqualTypeOf<Stream<number>[]>();
  expectTypeOf(tee<number>(numbers, 2)).toEqualTypeOf<Stream<number>[]>();
  const generic = <T>(first: Source<T>, second: Source<T>): Stream<T> => merge(first, second);
  expectTypeOf(generic(numbers, numbers)).toEqualTypeOf<Stream<number>>();
});

describe("arguments", () => {
  const wrong = (value: unknown) => value as never;
  const one = () => 1;
  const on = (options: unknown) => fromEvent(new EventTarget(), "x", wrong(options));
  const parallel = (options: unknown) => parallelMap([], one, wrong(options));

  // What is called, what it can't do, what must be what, and what it has received.
  const iterable = "source must be an iterable";
  const fn = "fn must be a function";
  const object = "options must be an object";
  const abortSignal = "signal must be an AbortSignal";
  const count = "count must be an integer of 0 or more";
  const positive = "must be a positive number";
  const integer = "must be a positive integer";
  test.each([
    [() => map(wrong(5), one), "map", iterable, "5"],
    [() => filter(wrong(null), one), "filter", iterable, "null"],
    [() => merge([], wrong({})), "merge", iterable, "Object"],
    [() => merge(wrong(Promise.resolve([]))), "merge", iterable, "Promise"],
    [() => concat([], wrong(true)), "concat", iterable, "true"],
    [() => drop(wrong(5), 1), "drop", iterable, "5"],
    [() => take(wrong(5), 1), "take", iterable, "5"],
    [() => takeWhile(wrong(5), one), "takeWhile", iterable, "5"],
    [() => scan(wrong(5), one, 0), "scan", iterable, "5"],
    [() => flatMap(wrong(5), () => []), "flatMap", iterable, "5"],
    [() => switchMap(wrong(5), () => []), "switchMap", iterable, "5"],
    [() => debounce(wrong(5), 1), "debounce", iterable, "5"],
    [() => throttle(wrong(5), 1), "throttle", iterable, "5"],
    [() => batch(wrong(5), 1), "batch", iterable, "5"],
    [() => buffer(wrong(5), 1), "buffer", iterable, "5"],
    [() => parallelMap(wrong(5), one, { concurrency: 1 }), "run parallelMap", iterable, "5"],
    [() => takeUntil(wrong(5), undefined), "takeUntil", iterable, "5"],
    [() => zip([], wrong(1)), "zip", iterable, "1"],
    [() => tee(wrong(1), 2), "tee", iterable, "1"],
    [() => lines(wrong(1)), "read lines", iterable, "1"],
    [() => map([], wrong(5)), "map", fn, "5"],
    [() => filter([], wrong("x")), "filter", fn, '"x"'],
    [() => takeWhile([], wrong(5)), "takeWhile", fn, "5"],
    [() => flatMap([], wrong(5)), "flatMap", fn, "5"],
    [() => switchMap([], wrong(5)), "switchMap", fn, "5"],
    [() => scan([], wrong(5), 0), "scan", fn, "5"],
    [() => parallelMap([], wrong(5), { concurrency: 1 }), "run parallelMap", fn, "5"],
    [() => takeUntil([], wrong({})), "takeUntil", abortSignal, "Object"],
    [() => interval(1, { signal: wrong("x") }), "create interval", abortSignal, '"x"'],
    [() => on({ signal: 5 }), "listen", abortSignal, "5"],
    [() => interval(1, wrong(null)), "create interval", object, "null"],
    [() => interval(1, wrong(AbortSignal.abort())), "create interval", object, "AbortSignal"],
    [() => on(5), "listen", object, "5"],
    [() => batch([], 1, wrong(5)), "batch", object, "5"],
    [() => takeUntil([], null, wrong(true)), "takeUntil", object, "true"],
    [() => flatMap([], () => [], wrong(2)), "flatMap", object, "2"],
    [() => throttle([], 1, wrong(2)), "throttle", object, "2"],
    [() => lines([], wrong(80)), "read lines", object, "80"],
    [() => parallel(null), "run parallelMap", object, "null"],
    [() => parallel(undefined), "run parallelMap", `concurrency ${integer}`, "undefined"],
    [() => parallel({}), "run parallelMap", `concurrency ${integer}`, "undefined"],
    [() => take([], wrong("2")), "take", count, '"2"'],
    [() => batch([], 1, { maxWait: wrong("2") }), "batch", `maxWait ${positive}`, '"2"'],
    [() => interval(wrong("2")), "create interval", `ms ${positive}`, '"2"'],
    [() => debounce([], wrong("2")), "debounce", `ms ${positive}`, '"2"'],
    [
      () => fromEvent(wrong({}), "x"),
      "listen",
      "target must be an EventTarget or an emitter",
      "Object",
    ],
    [
      () => fromEvent(wrong(null), "x"),
      "listen",
      "target must be an EventTarget or an emitter",
      "null",
    ],
    [() => fromEvent(new EventTarget(), wrong(5)), "listen", "type must be a string", "5"],
    [() => on({ end: 5 }), "listen", "end must be a string", "5"],
    [() => on({ error: Symbol("s") }), "listen", "error must be a string", "Symbol(s)"],
  ] as [() => unknown, string, string, string][])(
    "of the wrong kind are refused at the call, %#",
    (call, action, expected, received) => {
      expect(call).toThrow(TypeError);
      expect(call).toThrow(`Cannot ${action}: ${expected}, received ${received}`);
    },
  );

  const noCount = [-1, 0.5, NaN, Infinity, 2 ** 53];
  const noInteger = [0, ...noCount];
  const noSize = [0, -1, 0.5, NaN, -Infinity, 2 ** 53];
  const orInfinity = `${integer} or Infinity`;
  test.each([
    [(n) => take([], n), "take", count, noCount],
    [(n) => drop([], n), "drop", count, noCount],
    [(n) => batch([], n), "batch", `size ${integer}`, noInteger],
    [(n) => batch([], 1, { maxWait: n }), "batch", `maxWait ${positive}`, [0, -1, NaN]],
    [(n) => buffer([], n), "buffer", `size ${integer}`, noInteger],
    [(n) => parallel({ concurrency: n }), "run parallelMap", `concurrency ${integer}`, noInteger],
    [
      (n) => flatMap([], () => [], { concurrency: n }),
      "flatMap",
      `concurrency ${orInfinity}`,
      noSize,
    ],
    [(n) => lines([], { maxLength: n }), "read lines", `maxLength ${orInfinity}`, noSize],
    [(n) => tee([], n), "tee", `count ${integer}`, noInteger],
    [(n) => interval(n), "create interval", `ms ${positive}`, [0, -1, NaN]],
    [(n) => debounce([], n), "debounce", `ms ${positive}`, [0, -1, NaN]],
    [(n) => throttle([], n), "throttle", `ms ${positive}`, [0, -1, NaN]],
    [(n) => on({ capacity: n }), "listen", `capacity ${integer}`, noInteger],
  ] as [(n: number) => unknown, string, string, number[]][])(
    "out of range are refused at the call, %#",
    (call, action, expected, values) => {
      for (const value of values) {
        expect(() => call(value)).toThrow(RangeError);
        expect(() => call(value)).toThrow(`Cannot ${action}: ${expected}, received ${value}`);
      }
    },
  );
});

const broken = new Error("the source is broken");
const dirty = new Error("the cleanup failed");

interface ProbeOptions {
  /** What kind of source it is: an iterator written by hand (the default), or a generator. */
  kind?: "iterator" | "generator";
  /** How many values it has; it starts with 1. */
  count?: number;
  /** How many milliseconds each takes. */
  every?: number;
  /** What comes after them. By default nothing ever does. */
  then?: "silence" | "end" | "throw";
  cleanupFails?: boolean;
}

/** A source, and how it has been used. Its cleanup takes 10 ms. */
function probe(options: ProbeOptions) {
  const {
    kind = "iterator",
    count = Infinity,
    every = 0,
    then = "silence",
    cleanupFails,
  } = options;
  const seen = { opened: 0, pulled: 0, closed: 0, cleanedUp: 0 };
  const advance = async () => {
    seen.pulled++;
    if (seen.pulled > count && then === "silence") await new Promise(() => {});
    if (every > 0) await sleep(every);
    if (seen.pulled > count && then === "throw") throw broken;
    return seen.pulled <= count;
  };
  const cleanUp = async () => {
    await sleep(10);
    seen.cleanedUp++;
    if (cleanupFails) throw dirty;
  };
  const generate = async function* () {
    try {
      while (await advance()) yield seen.pulled;
    } finally {
      await cleanUp();
    }
  };
  const iterate = (): AsyncIterator<number> => ({
    async next() {
      const hasValue = await advance();
      return hasValue ? { done: false, value: seen.pulled } : { done: true, value: undefined };
    },
    async return() {
      await cleanUp();
      return { done: true, value: undefined };
    },
  });
  const source = {
    [Symbol.asyncIterator]() {
      seen.opened++;
      const iterator = kind === "generator" ? generate() : iterate();
      const close = iterator.return!.bind(iterator);
      iterator.return = (value) => (seen.closed++, close(value));
      return iterator;
    },
  };
  return { source, seen };
}

/** A small part of the orders, or many more with `bun run test:orders`. */
async function everyOrder(scenario: (world: World) => unknown): Promise<void> {
  const { process } = globalThis as { process?: { env: Record<string, string | undefined> } };
  const all = process?.env["ORDERS"] === "all";
  const result = await interleavings(scenario, { maxRuns: all ? 2000 : 40, maxMs: Infinity });
  if (all) console.log(`orders: ${result.runs}`); // summed up by test:orders
}

type Play = ReturnType<typeof playOf>;

/**
 * Sources whose every move is a step that may fail, consumers, and what must hold in the end. Values
 * are holds: each is received or released. Whether an error is told that a source throws in the
 * middle of a `next()`, after another error or an abort, is left open: nobody waits for it.
 */
function playOf(world: World, isInOrder: boolean, limit = Infinity) {
  type Origin = { id: number; isClosed?: boolean };
  const items: ReturnType<typeof itemOf>[] = [];
  const received: typeof items = [];
  const [thrown, late, told]: [Set<unknown>, Set<unknown>, unknown[]] = [new Set(), new Set(), []];
  const [ends, others]: [Promise<void>[], Promise<unknown>[]] = [[], []];
  const [reading, worked] = [new Set<Origin>(), new Set<unknown>()];
  let abandoned: Set<Origin> | undefined;
  let [moves, readers, loops, asked] = [0, 0, 0, 0];
  const violations: string[] = [];
  /** Where an `expect` would throw, an operator might drop the error; it is slow, too. */
  const must = (actual: unknown[], expected: unknown[]) => {
    const [is, should] = [actual.join(", "), expected.join(", ")];
    if (is !== should) violations.push(`${is} instead of ${should}`);
  };

  const results: Origin = { id: 0 };

  const hurry = () => void (abandoned ??= new Set(reading));
  const step = async (label: string, origin?: Origin, signal?: AbortSignal) => {
    const error = new Error(`${label} failed`);
    try {
      await world.step(label, { fails: error, signal });
    } catch (caught) {
      if (caught === error) {
        const isLate = readers === 0 || origin?.isClosed || abandoned?.has(origin!);
        (isLate ? late : thrown).add(error);
        hurry();
      }
      throw caught;
    } finally {
      moves++;
    }
  };
  const itemOf = (origin: Origin, n: number) => ({ ...holdOf(), origin, n });
  const add = (origin: Origin, n: number) => items[items.push(itemOf(origin, n)) - 1]!;

  const source = (name: string, count: number, isShortest?: "shortest"): Source<any> => {
    const origin: Origin = { id: 0 };
    const end = Promise.withResolvers<void>();
    let [opened, n, closes, endedAt] = [0, 0, 0, -1];
    const iterate = (signal?: AbortSignal) => {
      must([name, ++opened], [name, 1]);
      origin.id = ends.push(end.promise);
      const iterator = {
        [Symbol.asyncIterator]: () => iterator,
        async next() {
          must([name, reading.has(origin), closes, endedAt], [name, false, 0, -1]);
          reading.add(origin);
          const released = items.filter((item) => item.released > 0).length;
          const waiting = ++asked - released - new Set(received).size;
          must([name, waiting, waiting <= loops * limit], [name, waiting, true]);
          let value: unknown;
          try {
            await step(`${name}${n}`, origin, signal);
            if (n < count) value = add(origin, n++);
            else if (isShortest) hurry();
            return { done: !value, value };
          } finally {
            reading.delete(origin);
            if (!value) endedAt = moves;
            if (!value) asked--;
            if (origin.isClosed || (!value && closes === 0)) end.resolve();
          }
        },
        async return() {
          // It may end in the very turn in which it is closed.
          const isOpen = endedAt < 0 || endedAt === moves;
          if (signal) must([signal.aborted], [true]);
          must([name, closes++, isOpen], [name, 0, true]);
          try {
            await step(`close ${name}`, origin);
          } finally {
            origin.isClosed = true;
            if (!reading.has(origin)) end.resolve();
          }
          return { done: true, value: undefined };
        },
      };
      return iterator;
    };
    return name < "b" ? { [Symbol.asyncIterator]: () => iterate() } : iterate;
  };
  const tell = async (promise: Promise<unknown>) => {
    const outcome = await Promise.allSettled([promise]);
    const leaves = (error: any): unknown[] => error.errors?.flatMap(leaves) ?? [error];
    for (const { reason } of outcome as any[]) if (reason) told.push(...leaves(reason));
  };
  const read = async (stream: AsyncIterable<unknown>, count = 1000) => {
    loops = Math.max(loops, ++readers);
    const last = new Map<unknown, number>();
    let left = count;
    const loop = async () => {
      for await (const value of stream) {
        left--;
        for (const item of [value as any].flat()) {
          const key = isInOrder || item.origin;
          const place = 10 * item.origin.id + item.n;
          if (item.origin !== results || isInOrder)
            must([place, (last.get(key) ?? -1) < place], [place, true]);
          last.set(key, place);
          received.push(item);
        }
        await world.step("consumes");
        if (left === 0) break;
      }
    };
    await tell(loop());
    readers--;
    return count - left;
  };

  return {
    world,
    source,
    hurry,
    tell,
    must,
    read,
    readAlso: (stream: Stream<unknown>, count?: number) =>
      others.push(world.spawn("another", () => read(stream, count))),
    open(value: any, index: number): Source<any> {
      must([readers > 0, abandoned], [true, undefined]); // nothing is called after the end
      received.push(value);
      return source(index === 0 ? "a'" : "c", 1);
    },
    async work(value: any, index: number, signal?: AbortSignal) {
      must([readers > 0, abandoned, signal?.aborted ?? false], [true, undefined, false]);
      worked.add(value);
      await step(`work ${index}`, undefined, signal);
      return add(results, index);
    },
    /** If it was read whole, nothing was dropped before an error, or not even for an error. */
    async check(isRead: boolean, isReadTillError: boolean) {
      await Promise.all(others);
      await Promise.all(ends);
      await world.step("then");
      const most = 1 + others.length;
      const isWhole = isRead && (isReadTillError || thrown.size + late.size === 0);
      for (const item of items) {
        const count = received.filter((it) => it === item).length;
        const isTaken = count > 0 || worked.has(item);
        must([item.n, count <= most, item.released], [item.n, true, isTaken ? 0 : 1]);
        if (isWhole) must([item.n, isTaken], [item.n, true]);
      }
      const errors = most === 1 ? told : [...new Set(told)];
      const known = new Set(["aborted", ...thrown, ...late]);
      must([new Set(errors).size], [errors.length]);
      must(
        errors.filter((error) => !known.has(error)),
        [],
      );
      must(
        [...thrown].filter((error) => !told.includes(error)),
        [],
      );
      expect(violations).toEqual([]);
    },
  };
}

/** A generator cleans up when it ends by itself, too; an iterator is told by `return()` only. */
function kindOf(kind: "iterator" | "generator", cleanedUp: number): number {
  return kind === "generator" ? cleanedUp : 0;
}

type Hold = ReturnType<typeof holdOf>;

/** A hold that counts how often it is released. */
function holdOf() {
  return {
    released: 0,
    release() {
      this.released++;
    },
    [Symbol.dispose]() {
      this.release();
    },
  };
}

/** Lets all that can run do so. */
function turn(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 0));
}

function bytesToNumbers() {
  return new TransformStream<Uint8Array, number>({
    transform: (chunk, controller) => chunk.forEach((byte) => controller.enqueue(byte)),
  });
}

/** Rejects with the signal's reason when it is aborted. */
function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}

function* interminable(): Generator<number> {
  for (let n = 0; ; n++) yield n;
}

/**
 * How many of the objects that `act` notes are still there when the garbage has been collected, and
 * the streams that it returns are still in use. What merely looks like a pointer, somewhere on the
 * stack, may keep a whole chain of them; so the best of some tries counts. A leak is in each.
 */
async function countAlive(
  act: (note: <T extends object>(object: T) => T) => Promise<Stream<unknown>[]>,
): Promise<number> {
  let fewest = Infinity;
  for (let attempt = 0; attempt < 5 && fewest >= 100; attempt++) {
    const refs: WeakRef<object>[] = [];
    const streams = await act((object) => (refs.push(new WeakRef(object)), object));
    await new Promise((resolve) => setImmediate(resolve));
    Bun?.gc(true);
    fewest = Math.min(fewest, refs.filter((ref) => ref.deref()).length);
    for (const stream of streams) await stream.return();
  }
  return fewest;
}

/** Yields each number so many milliseconds after it is opened, or at once when it is later. */
async function* comeAt(...times: number[]): AsyncGenerator<number> {
  const start = performance.now();
  for (const time of times) {
    await sleep(Math.max(0, start + time - performance.now()));
    yield time;
  }
}

/** Emits as Node's EventEmitter does. */
function emitterOf() {
  const listeners = new Map<string, Set<(...values: unknown[]) => void>>();
  return {
    on: (type: string, listener: () => void) =>
      listeners.set(type, (listeners.get(type) ?? new Set()).add(listener)),
    off(type: string, listener: () => void) {
      listeners.get(type)?.delete(listener);
      if (listeners.get(type)?.size === 0) listeners.delete(type);
    },
    emit: (type: string, ...values: unknown[]) =>
      [...(listeners.get(type) ?? [])].forEach((listener) => listener(...values)),
    eventNames: () => [...listeners.keys()],
  };
}

/** An EventTarget whose listeners for "tick" can be counted; `emit` dispatches such events. */
function watchedTarget() {
  const target = new EventTarget();
  const listeners: unknown[] = [];
  const [add, remove] = [target.addEventListener, target.removeEventListener];
  target.addEventListener = (...args: Parameters<typeof add>) => {
    listeners.push(args[1]);
    add.apply(target, args);
  };
  target.removeEventListener = (...args: Parameters<typeof remove>) => {
    if (listeners.includes(args[1])) listeners.splice(listeners.indexOf(args[1]), 1);
    remove.apply(target, args);
  };
  const emit = (...details: number[]) => {
    for (const detail of details) target.dispatchEvent(new CustomEvent("tick", { detail }));
  };
  return { target, emit, listeners: () => listeners.length };
}

/** Ends early when the signal is aborted. */
function abortableSleep(ms: number, signal: AbortSignal): Promise<void> {
  return sleep(ms, signal).catch(() => {});
}

/** What a promise is rejected with; fails if it isn't. */
async function errorOf(promise: Promise<unknown>): Promise<unknown> {
  const [outcome] = await Promise.allSettled([promise]);
  if (outcome.status === "fulfilled") throw new Error("It was not rejected");
  return outcome.reason;
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
