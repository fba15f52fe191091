import { describe, expect, expectTypeOf, test } from "bun:test";

import {
  Histogram,
  measure,
  type Measurement,
  type MeasureOptions,
  report,
} from "../concepts/performance.ts";
import { virtualTime } from "../concepts/virtual-time.ts";

const { Bun } = globalThis as { Bun?: { gc(force: boolean): void } };

describe("Start here", () => {
  test("on virtual time a known service time gives exact numbers", () =>
    virtualTime(async () => {
      const result = await measure(() => sleep(10), { concurrency: 2, iterations: 100 });

      expect(result).toMatchObject({ calls: 100, failed: 0, elapsed: 500, throughput: 200 });
      expect(result.latency).toMatchObject({ min: 10, p50: 10, p99: 10, max: 10, mean: 10 });
    }));

  test("the average hides what the percentiles show", () =>
    virtualTime(async () => {
      const times = [1000, ...Array(9).fill(100), ...Array(90).fill(10)] as number[];

      const { latency } = await measure(() => sleep(times.pop()!), { iterations: 100 });

      expect(latency.mean).toBe(28);
      expect([latency.p50, latency.p90, latency.p99, latency.max]).toEqual([10, 10, 100, 1000]);
    }));

  test("errors are counted, not thrown", () =>
    virtualTime(async () => {
      const errors = [new TypeError("no such user"), Object.assign(new Error(), { code: "EPIPE" })];
      let call = 0;

      const result = await measure(
        async () => {
          await sleep(10);
          if (++call % 2 === 0) throw errors[call % 4 === 0 ? 0 : 1];
        },
        { iterations: 12 },
      );

      expect(result).toMatchObject({ calls: 12, failed: 6, errors: { EPIPE: 3, TypeError: 3 } });
      expect(result.firstError).toBe(errors[1]);
    }));

  test("a stall hides in the closed loop, and shows in the open one", () =>
    virtualTime(async () => {
      // Answers in 5 ms, but not between 400 and 600 ms after its start.
      const startServer = () => {
        const start = performance.now();
        return () => {
          const now = performance.now() - start;
          return sleep(now >= 400 && now < 600 ? 605 - now : 5);
        };
      };

      const closed = await measure(startServer(), { concurrency: 1, duration: 2000 });
      const open = await measure(startServer(), { rate: 100, duration: 2000 });

      // One call of 360 was slow, because none was made during the stall.
      expect([closed.calls, closed.latency.within(5)]).toEqual([360, 359]);
      expect([closed.latency.p99, closed.latency.max]).toEqual([5, 205]);
      // Twenty callers of 200 were kept waiting, from 205 ms to 15 ms.
      expect([open.calls, open.latency.within(5)]).toEqual([200, 180]);
      expect([open.latency.p90, open.latency.p99, open.latency.max]).toEqual([5, 185, 205]);
    }));

  test("trap: at a rate that is too high, latency says only how long it was kept up", () =>
    virtualTime(async () => {
      const overload = (duration: number) =>
        measure(() => sleep(20), { rate: 100, concurrency: 1, duration });

      const short = await overload(1000);
      const long = await overload(5000);

      expect([short.throughput, long.throughput]).toEqual([50, 50]);
      expect([short.latency.max, long.latency.max]).toEqual([1010, 5010]);
    }));

  test("trap: what is asserted in real time is a ratio, never a time", async () => {
    const list = Array.from({ length: 10_000 }, (_, n) => n);
    const set = new Set(list);
    const ratios: number[] = [];

    for (let round = 0; round < 5; round++) {
      const subject = await measure(() => set.has(9999), { iterations: 200, warmup: 50 });
      const baseline = await measure(() => list.includes(9999), { iterations: 200, warmup: 50 });
      ratios.push(subject.latency.p50 / baseline.latency.p50);
    }

    const median = ratios.sort((a, b) => a - b)[2]!;
    expect(median).toBeLessThan(0.5);
  });

  test("an abort gives what was measured so far", () =>
    virtualTime(async (clock) => {
      const controller = new AbortController();
      setTimeout(() => controller.abort(), 95);

      const result = await measure((signal) => sleep(10, signal), {
        duration: Infinity,
        signal: controller.signal,
      });

      expect(result).toMatchObject({
        aborted: true,
        calls: 9,
        failed: 0,
        inFlight: 1,
        elapsed: 95,
      });
      expect([clock.elapsed, clock.pending]).toEqual([95, 0]);
    }));
});

describe("measure()", () => {
  describe("in a closed loop", () => {
    test.each([
      { concurrency: 1, iterations: 10, peak: 1, elapsed: 100 },
      { concurrency: 3, iterations: 10, peak: 3, elapsed: 40 },
      { concurrency: 10, iterations: 10, peak: 10, elapsed: 10 },
      { concurrency: 11, iterations: 10, peak: 10, elapsed: 10 },
      { concurrency: Infinity, iterations: 10, peak: 10, elapsed: 10 },
      { concurrency: undefined, iterations: 2, peak: 1, elapsed: 20 },
    ])(
      "$concurrency callers make $iterations calls in $elapsed ms",
      ({ peak, elapsed, ...options }) =>
        virtualTime(async (clock) => {
          const { task, running } = countRunning(() => sleep(10));

          const result = await measure(task, options);

          expect(result).toMatchObject({ calls: options.iterations, elapsed, peakInFlight: peak });
          expect(result.throughput).toBe((1000 * options.iterations) / elapsed);
          expect(running).toMatchObject({ calls: options.iterations, peak });
          expect([clock.elapsed, clock.pending]).toEqual([elapsed, 0]);
        }),
    );

    test.each([
      { duration: 0, calls: 0, elapsed: 0 },
      { duration: 1, calls: 2, elapsed: 10 },
      { duration: 99, calls: 20, elapsed: 100 },
      { duration: 100, calls: 20, elapsed: 100 },
      { duration: 100.5, calls: 22, elapsed: 110 },
    ])("for $duration ms, calls that have started are waited for and count", (expected) =>
      virtualTime(async (clock) => {
        const { duration, ...rest } = expected;

        const result = await measure(() => sleep(10), { concurrency: 2, duration });

        expect(result).toMatchObject({ ...rest, inFlight: 0, aborted: false });
        expect(clock.elapsed).toBe(rest.elapsed);
      }),
    );

    test("of iterations and duration the first ends it", () =>
      virtualTime(async () => {
        const task = () => sleep(10);

        expect(await measure(task, { iterations: 3, duration: 100 })).toHaveProperty("calls", 3);
        expect(await measure(task, { iterations: 30, duration: 100 })).toHaveProperty("calls", 10);
        expect(await measure(task, { iterations: 3, duration: Infinity })).toHaveProperty(
          "calls",
          3,
        );
        expect(await measure(task, { iterations: Infinity, duration: 20 })).toHaveProperty(
          "calls",
          2,
        );
      }));

    test("a caller calls again as soon as its own call has settled", () =>
      virtualTime(async (clock) => {
        const times = [30, 10, 10, 10];
        const starts: number[] = [];

        await measure(
          () => {
            starts.push(clock.elapsed);
            return sleep(times.shift()!);
          },
          { concurrency: 2, iterations: 4 },
        );

        expect(starts).toEqual([0, 0, 10, 20]);
      }));

    test("there is no queue, so service and latency are the same", () =>
      virtualTime(async () => {
        const { latency, service, rate } = await measure(() => sleep(10), { iterations: 3 });

        expect(service).toBe(latency);
        expect(rate).toBeUndefined();
      }));
  });

  describe("in an open loop", () => {
    test.each([
      { rate: 1, starts: [0, 1000] },
      { rate: 100, starts: [0, 10, 20] },
      { rate: 1000, starts: [0, 1, 2, 3] },
      { rate: 2500, starts: [0, 0.4, 0.8, 1.2, 1.6] },
      { rate: 0.1, starts: [0, 10_000] },
    ] as { rate: number; starts: number[] }[])(
      "starts $rate calls a second, evenly spaced",
      ({ rate, starts }) =>
        virtualTime(async (clock) => {
          const actual: number[] = [];
          const task = () => {
            actual.push(Math.round(clock.elapsed * 1e6) / 1e6);
            return sleep(3000);
          };

          const result = await measure(task, { rate, iterations: starts.length });

          expect(actual).toEqual(starts);
          expect(result.rate).toBe(rate);
          expect(result.latency.max).toBeCloseTo(3000, 3);
        }),
    );

    test.each([
      { rate: 100, limit: { iterations: 50 }, calls: 50, elapsed: 500 },
      { rate: 100, limit: { duration: 500 }, calls: 50, elapsed: 500 },
      { rate: 100, limit: { duration: 501 }, calls: 51, elapsed: 505 },
      { rate: 100, limit: { duration: 491 }, calls: 50, elapsed: 495 },
      { rate: 100, limit: { iterations: 50, duration: 100 }, calls: 10, elapsed: 100 },
      { rate: 100, limit: { iterations: 1 }, calls: 1, elapsed: 10 },
      { rate: 100, limit: { iterations: 0 }, calls: 0, elapsed: 0 },
      { rate: 100, limit: { duration: 0 }, calls: 0, elapsed: 0 },
      { rate: 0.001, limit: { duration: 10 }, calls: 1, elapsed: 10 },
      { rate: 10_000, limit: { duration: 50 }, calls: 500, elapsed: 54.9 },
      { rate: 100_000, limit: { duration: 5 }, calls: 500, elapsed: 9.99 },
    ])(
      "at $rate a second $limit makes $calls calls in $elapsed ms",
      ({ rate, limit, calls, elapsed }) =>
        virtualTime(async (clock) => {
          const result = await measure(() => sleep(5), { rate, ...limit });

          expect(result.calls).toBe(calls);
          expect(result.elapsed).toBeCloseTo(clock.elapsed, 6);
          expect(clock.elapsed).toBeCloseTo(elapsed, 6);
          expect(clock.pending).toBe(0);
        }),
    );

    test("the throughput is the rate, if it is kept up", () =>
      virtualTime(async () => {
        const byCount = await measure(() => sleep(5), { rate: 200, iterations: 100 });
        const byTime = await measure(() => sleep(5), { rate: 200, duration: 1000 });

        expect([byCount.throughput, byTime.throughput]).toEqual([200, 200]);
      }));

    test("as many calls run at a time as the service time demands (Little's law)", () =>
      virtualTime(async () => {
        const { task, running } = countRunning(() => sleep(50));

        const result = await measure(task, { rate: 100, duration: 2000 });

        expect(result.peakInFlight).toBe(5);
        expect(running.peak).toBe(5);
        const mean = running.time() / result.elapsed;
        expect(mean).toBeCloseTo((result.throughput * result.latency.mean) / 1000, 9);
      }));

    test("with a concurrency late calls start as soon as there is room, and count from when they were due", () =>
      virtualTime(async (clock) => {
        const starts: number[] = [];
        const task = () => {
          starts.push(clock.elapsed);
          return sleep(30);
        };

        const result = await measure(task, { rate: 100, concurrency: 2, iterations: 6 });

        expect(starts).toEqual([0, 10, 30, 40, 60, 70]);
        expect(result.peakInFlight).toBe(2);
        expect([result.latency.min, result.latency.max]).toEqual([30, 50]);
        expect(result.latency.mean).toBe((30 + 30 + 40 + 40 + 50 + 50) / 6);
        expect([result.service.min, result.service.max]).toEqual([30, 30]);
        expect(result.service.count).toBe(6);
      }));

    test("calls that are due while a synchronous task blocks are made afterwards, late", () =>
      virtualTime(async () => {
        let call = 0;
        const result = await measure(() => (call++ === 5 ? block(100) : undefined), {
          rate: 100,
          duration: 100,
        });

        expect(result.calls).toBe(10);
        expect(result.latency.max).toBe(100);
        expect(result.latency.within(0)).toBe(5);
      }));

    test.each([0.2, 1, 7, 25])(
      "timers that are %d ms late add to the latency, but not up",
      (late) =>
        virtualTime(async (clock) => {
          const starts: number[] = [];
          const task = () => void starts.push(clock.elapsed);
          const { setTimeout } = globalThis;
          const delayed = (callback: () => void, ms = 0) => setTimeout(callback, ms + late);
          globalThis.setTimeout = delayed as typeof setTimeout;

          const result = await measure(task, { rate: 100, iterations: 100 });

          for (const [n, start] of starts.entries())
            expect(start).toBeGreaterThanOrEqual(10 * n - 1e-6);
          expect(starts.at(-1)!).toBeLessThanOrEqual(990 + 2 * late);
          expect(result.latency.max).toBeLessThanOrEqual(2 * late);
          expect(result.service.max).toBe(0);
        }),
    );

    test("timers that are early don't start a call before it is due", () =>
      virtualTime(async (clock) => {
        const starts: number[] = [];
        const { setTimeout } = globalThis;
        const hasty = (callback: () => void, ms = 0) =>
          setTimeout(callback, ms > 1 ? ms - 0.7 : ms);
        globalThis.setTimeout = hasty as typeof setTimeout;

        await measure(() => void starts.push(clock.elapsed), { rate: 100, iterations: 20 });

        for (const [n, start] of starts.entries())
          expect(start).toBeGreaterThanOrEqual(10 * n - 1e-6);
        expect(starts).toHaveLength(20);
      }));

    test("works where there is no setImmediate", () =>
      virtualTime(async (clock) => {
        globalThis.setImmediate = undefined as never;

        await measure(() => {}, { rate: 100, iterations: 10 });

        expect(clock.elapsed).toBeCloseTo(100, 6);
      }));
  });

  describe("warmup", () => {
    test.each([
      { options: { iterations: 10, warmup: 3 }, calls: 13, counted: 10, elapsed: 100 },
      { options: { iterations: 10, warmup: 0 }, calls: 10, counted: 10, elapsed: 100 },
      { options: { duration: 100, warmup: 30 }, calls: 13, counted: 10, elapsed: 100 },
      { options: { duration: 100, warmup: 25 }, calls: 13, counted: 10, elapsed: 100 },
      { options: { duration: 100, warmup: 20.5 }, calls: 13, counted: 10, elapsed: 100 },
      { options: { iterations: 10, duration: 50, warmup: 3 }, calls: 8, counted: 5, elapsed: 50 },
      { options: { rate: 50, iterations: 10, warmup: 3 }, calls: 13, counted: 10, elapsed: 200 },
      { options: { rate: 50, duration: 200, warmup: 60 }, calls: 13, counted: 10, elapsed: 200 },
    ])(
      "$options makes $calls calls, of which $counted count",
      ({ options, calls, counted, elapsed }) =>
        virtualTime(async () => {
          const { task, running } = countRunning(() => sleep(10));

          const result = await measure(task, options);

          expect(running.calls).toBe(calls);
          expect(result).toMatchObject({ calls: counted, elapsed });
          expect(result.latency.count).toBe(counted);
          expect(sum(result.timeline.calls)).toBe(counted);
        }),
    );

    test("is slow and fails without being seen", () =>
      virtualTime(async () => {
        let call = 0;
        const task = async () => {
          await sleep(++call <= 4 ? 500 : 10);
          if (call <= 4) throw new Error();
        };

        const result = await measure(task, { concurrency: 2, iterations: 4, warmup: 4 });

        expect(result).toMatchObject({ calls: 4, failed: 0, firstError: undefined, elapsed: 20 });
        expect(result.latency.max).toBe(10);
      }));

    test("counts its calls in flight no more", () =>
      virtualTime(async () => {
        let call = 0;
        const task = () => sleep(++call <= 10 ? 100 : 5);

        const result = await measure(task, { rate: 100, iterations: 10, warmup: 10 });

        expect(result.peakInFlight).toBe(1);
      }));

    test("aborted in it, nothing has been measured", () =>
      virtualTime(async (clock) => {
        const controller = new AbortController();
        const { signal } = controller;
        const { task, running } = countRunning(() => sleep(10));
        setTimeout(() => controller.abort(), 25);

        const result = await measure(task, { iterations: 10, warmup: 10, signal });

        expect(result).toMatchObject({ aborted: true, calls: 0, elapsed: 0, throughput: 0 });
        expect(running.calls).toBe(3);
        expect(clock.elapsed).toBe(30);
      }));
  });

  describe("tasks", () => {
    test("may be synchronous, and are then not charged with a microtask", () =>
      virtualTime(async () => {
        const result = await measure(() => block(3), { iterations: 10, concurrency: 4 });

        expect(result).toMatchObject({ calls: 10, elapsed: 30, peakInFlight: 1 });
        expect(result.latency.max).toBe(3);
      }));

    test("may return any thenable", () =>
      virtualTime(async () => {
        const thenable = { then: (resolve: () => void) => void setTimeout(resolve, 10) };

        const result = await measure(() => thenable, { iterations: 3 });

        expect(result.latency.mean).toBe(10);
      }));

    test("are called with a signal and nothing else", async () => {
      const calls: unknown[][] = [];
      const task = function (this: unknown, ...args: unknown[]) {
        calls.push([this, ...args]);
      };

      await measure(task, { iterations: 2 });

      expect(calls).toEqual([
        [undefined, expect.any(AbortSignal)],
        [undefined, expect.any(AbortSignal)],
      ]);
    });

    test("that return holds have them released, wherever they end", () =>
      virtualTime(async () => {
        let held = 0;
        const controller = new AbortController();
        const lock = async () => {
          await sleep(10);
          held++;
          return { release: () => held--, [Symbol.dispose]: () => {} };
        };
        setTimeout(() => controller.abort(), 75);

        await measure(lock, { iterations: 10, warmup: 5, signal: controller.signal });

        expect(held).toBe(0);
      }));

    test("that never wait don't keep an abort from being heard", async () => {
      for (const rate of [undefined, 1e9]) {
        const controller = new AbortController();
        setTimeout(() => controller.abort(), 0);

        const options = { duration: Infinity, signal: controller.signal };
        const result = await measure(() => {}, rate ? { ...options, rate } : options);

        expect(result.aborted).toBe(true);
        expect(result.calls).toBeGreaterThan(0);
      }
    });

    test.each(["synchronous", "asynchronous"])(
      "that are %s and take no time end with the duration, on virtual time too",
      (kind) =>
        virtualTime(async (clock) => {
          const task = kind === "synchronous" ? () => {} : async () => {};

          const result = await measure(task, { duration: 3 });

          expect([result.elapsed, clock.elapsed]).toEqual([3, 3]);
          expect(result.latency.max).toBe(0);
        }),
    );
  });

  describe("errors", () => {
    const withCause = (code: unknown) => new TypeError("fetch failed", { cause: { code } });
    const hostile = {
      get name() {
        throw new Error("trap");
      },
    };

    test.each([
      ["Error", new Error("x")],
      ["RangeError", new RangeError()],
      ["ECONNREFUSED", Object.assign(new Error(), { code: "ECONNREFUSED" })],
      ["ECONNRESET", withCause("ECONNRESET")],
      ["TypeError", withCause(5)],
      ["TimeoutError", new DOMException("", "TimeoutError")],
      ["Error", Object.assign(new Error(), { code: "" })],
      ["Object", {}],
      ["Object", hostile],
      ['"text"', "text"],
      ["undefined", undefined],
      ["null", null],
      ["5", 5],
      ["Object", { name: 5 }],
      ["__proto__", Object.assign(new Error(), { code: "__proto__" })],
    ])("are counted as %s", async (kind, error) => {
      const rejecting = await measure(() => Promise.reject(error), { iterations: 2 });
      const throwing = await measure(
        () => {
          throw error;
        },
        { iterations: 2 },
      );

      for (const { errors, failed, calls, firstError } of [rejecting, throwing]) {
        expect(Object.entries(errors)).toEqual([[kind, 2]]);
        expect([failed, calls]).toEqual([2, 2]);
        expect(firstError).toBe(error);
      }
    });

    test("of a hundred kinds are told apart, and the rest is told as one", async () => {
      let call = 0;
      const task = () => Promise.reject(Object.assign(new Error(), { code: `E${call++ % 120}` }));

      const { errors } = await measure(task, { iterations: 240 });

      expect(Object.keys(errors)).toHaveLength(101);
      expect(errors).toMatchObject({ E0: 2, E99: 2, other: 40 });
      expect(sum(Object.values(errors))).toBe(240);
    });

    test("have kinds of at most a hundred characters", async () => {
      const { errors } = await measure(() => Promise.reject("x".repeat(1e4)), { iterations: 1 });

      expect(Object.keys(errors)[0]).toHaveLength(100);
    });

    test("don't count for throughput and latencies, because a failure is often fast", () =>
      virtualTime(async () => {
        let call = 0;
        const task = async () => {
          if (++call % 2 === 0) throw new Error();
          await sleep(10);
        };

        const result = await measure(task, { iterations: 20 });

        expect(result).toMatchObject({ calls: 20, failed: 10, elapsed: 100, throughput: 100 });
        expect(result.latency).toMatchObject({ count: 10, min: 10 });
        expect(sum(result.timeline.failed)).toBe(10);
        expect(sum(result.timeline.calls)).toBe(20);
      }));

    test("of all calls leave no numbers that a limit could be within", () =>
      virtualTime(async () => {
        const { latency, throughput } = await measure(() => Promise.reject(new Error()), {
          iterations: 5,
        });

        expect(throughput).toBe(0);
        expect([latency.p50, latency.min, latency.max, latency.mean]).toEqual([NaN, NaN, NaN, NaN]);
      }));
  });

  describe("aborted", () => {
    test("before, it rejects with the reason and calls nothing", async () => {
      const { task, running } = countRunning(() => sleep(10));

      const signal = AbortSignal.abort("stopped");
      const reason = await measure(task, { iterations: 10, signal }).catch(
        (error: unknown) => error,
      );

      expect(reason).toBe("stopped");
      expect(running.calls).toBe(0);
    });

    test.each([
      { loop: "closed", options: { duration: 1000, concurrency: 2 }, calls: 10, inFlight: 2 },
      { loop: "open", options: { duration: 1000, rate: 100 }, calls: 5, inFlight: 1 },
      {
        loop: "open, at its limit",
        options: { duration: 1000, rate: 1000, concurrency: 2 },
        calls: 10,
        inFlight: 2,
      },
      {
        loop: "open, between two calls",
        options: { duration: 1000, rate: 10 },
        calls: 1,
        inFlight: 0,
      },
    ])("in a $loop loop, it ends at once and leaves nothing", ({ options, calls, inFlight }) =>
      virtualTime(async (clock) => {
        const controller = new AbortController();
        const listeners = countListeners(controller.signal);
        const { task, running } = countRunning((signal) => sleep(10, signal));
        setTimeout(() => {
          controller.abort("stopped");
          expect(clock.pending).toBe(0);
          expect(listeners()).toBe(0);
        }, 55);

        const result = await measure(task, {
          ...options,
          signal: controller.signal,
          onProgress: () => {},
        });

        expect(result).toMatchObject({ aborted: true, calls, inFlight, failed: 0, elapsed: 55 });
        expect(running.calls).toBe(calls + inFlight);
        expect(clock.elapsed).toBe(55);
      }),
    );

    test.each([
      ["succeed", () => {}],
      [
        "fail",
        () => {
          throw new Error("too late");
        },
      ],
    ])("tasks that ignore it and %s are waited for, but don't count", (_, end) =>
      virtualTime(async (clock) => {
        const controller = new AbortController();
        setTimeout(() => controller.abort(), 15);
        const task = async () => {
          await sleep(10);
          if (clock.elapsed > 10) end();
        };

        const result = await measure(task, { duration: 100, signal: controller.signal });

        expect(result).toMatchObject({ calls: 1, failed: 0, inFlight: 1, elapsed: 15 });
        expect(result.latency.count).toBe(1);
        expect(clock.elapsed).toBe(20);
      }),
    );

    test.each([{ concurrency: 3 }, { rate: 1e6 }])(
      "by a task while it is called, no further call is made: $concurrency $rate",
      async (options) => {
        const controller = new AbortController();
        let calls = 0;
        const task = () => {
          if (++calls === 2) controller.abort();
        };

        const result = await measure(task, {
          ...options,
          iterations: 5,
          signal: controller.signal,
        });

        expect(calls).toBe(2);
        expect(result).toMatchObject({ aborted: true, calls: 1, inFlight: 1 });
      },
    );

    test("in the turn in which a call ends, that call was still running", () =>
      virtualTime(async () => {
        const controller = new AbortController();
        const task = () =>
          new Promise<void>((resolve) =>
            setTimeout(() => {
              resolve();
              controller.abort();
            }, 10),
          );

        const result = await measure(task, { duration: 100, signal: controller.signal });

        expect(result).toMatchObject({ aborted: true, calls: 0, inFlight: 1, elapsed: 10 });
      }));

    test("at any moment, each call either counts or was running", () =>
      virtualTime(async (clock) => {
        for (let seed = 1; seed <= 60; seed++) {
          const random = randomFrom(seed);
          const pick = (limit: number) => Math.floor(random() * limit);
          const controller = new AbortController();
          const heeds = random() < 0.5;
          const { task, running } = countRunning(async (signal) => {
            await sleep(pick(8), heeds ? signal : undefined);
            if (random() < 0.2) throw new Error();
          });
          const rate = random() < 0.5 ? undefined : 1 + pick(2000);
          const concurrency = 1 + pick(5);
          setTimeout(() => controller.abort(), pick(30));

          const { signal } = controller;
          const result = await measure(task, { rate, concurrency, duration: 30, signal });

          const { calls, inFlight, failed, latency, timeline, peakInFlight } = result;
          expect(calls + inFlight, `seed ${seed}`).toBe(running.calls);
          expect(calls - failed).toBe(latency.count);
          expect([sum(timeline.calls), sum(timeline.failed)]).toEqual([calls, failed]);
          expect(peakInFlight).toBe(running.peak);
          expect(clock.pending).toBe(0);
        }
      }));

    test("tasks get the reason", () =>
      virtualTime(async () => {
        const controller = new AbortController();
        const reasons: unknown[] = [];
        setTimeout(() => controller.abort("stopped"), 5);

        await measure(
          (signal) => sleep(10, signal).catch((reason: unknown) => reasons.push(reason)),
          { concurrency: 2, duration: 100, signal: controller.signal },
        );

        expect(reasons).toEqual(["stopped", "stopped"]);
      }));

    test("after its end, nothing changes", () =>
      virtualTime(async () => {
        const controller = new AbortController();
        const listeners = countListeners(controller.signal);
        let taskSignal: AbortSignal | undefined;

        const result = await measure((signal) => void (taskSignal = signal), {
          iterations: 1,
          signal: controller.signal,
        });
        controller.abort();

        expect(result.aborted).toBe(false);
        expect(taskSignal!.aborted).toBe(false);
        expect(listeners()).toBe(0);
      }));

    test("while onProgress still runs, it has ended before", () =>
      virtualTime(async (clock) => {
        const controller = new AbortController();
        let taskSignal: AbortSignal | undefined;
        setTimeout(() => controller.abort(), 1200);

        const result = await measure((signal) => ((taskSignal = signal), sleep(1100)), {
          iterations: 1,
          onProgress: () => sleep(500),
          signal: controller.signal,
        });

        expect(result).toMatchObject({ aborted: false, calls: 1, elapsed: 1100 });
        expect(taskSignal!.aborted).toBe(false);
        expect(clock.elapsed).toBe(1500);
      }));
  });

  describe("onProgress", () => {
    test("is called once a second with what has been measured so far", () =>
      virtualTime(async (clock) => {
        const seen: unknown[] = [];
        const onProgress = ({ calls, elapsed, inFlight, aborted }: Measurement) =>
          seen.push([clock.elapsed, calls, elapsed, inFlight, aborted]);

        await measure(() => sleep(30), { duration: 2900, warmup: 300, concurrency: 2, onProgress });

        expect(seen).toEqual([
          [1300, 66, 1000, 2, false],
          [2300, 132, 2000, 2, false],
        ]);
        expect(clock.pending).toBe(0);
      }));

    test("can draw a report", () =>
      virtualTime(async () => {
        const reports: string[] = [];
        const onProgress = (soFar: Measurement) => reports.push(report(soFar));

        await measure(() => sleep(30), { duration: 1500, onProgress });

        expect(reports).toEqual([expect.stringMatching(/^33 calls in 1\.00 s/)]);
      }));

    test("is not called in a short run, nor after the end", () =>
      virtualTime(async (clock) => {
        let calls = 0;
        await measure(() => sleep(10), { duration: 500, onProgress: () => calls++ });
        await sleep(5000);

        expect(calls).toBe(0);
        expect(clock.pending).toBe(0);
      }));

    test("is awaited, and not called twice at a time", () =>
      virtualTime(async (clock) => {
        const { task, running } = countRunning(() => sleep(1500));

        await measure(() => sleep(100), { duration: 4900, onProgress: task });

        expect(running).toMatchObject({ calls: 2, peak: 1 });
        expect(clock.elapsed).toBe(5000);
      }));

    test.each([
      [
        "throws",
        () => {
          throw new Error("full disk");
        },
      ],
      ["rejects", () => Promise.reject(new Error("full disk"))],
    ])(
      "that %s ends the measurement with its error, once all calls have settled",
      (_, onProgress) =>
        virtualTime(async (clock) => {
          const { task, running } = countRunning(() => sleep(400));
          let taskSignal: AbortSignal | undefined;

          const measured = measure((signal) => ((taskSignal = signal), task(signal)), {
            duration: 5000,
            onProgress,
          });

          const error = (await measured.catch((error: unknown) => error)) as Error;
          expect(error.message).toBe("full disk");
          expect(taskSignal!.reason).toBe(error);
          expect([running.calls, clock.elapsed, clock.pending]).toEqual([3, 1200, 0]);
        }),
    );
  });

  describe("timeline", () => {
    test("says when how many calls ended, and how long the slowest took", () =>
      virtualTime(async () => {
        const times = [5, 5, 5, 15, 10];

        const { timeline } = await measure(() => sleep(times.shift()!), { iterations: 5 });

        expect(timeline.width).toBe(1);
        expect(timeline.calls).toHaveLength(40);
        const ends = timeline.calls.flatMap((calls, slice) => (calls > 0 ? [slice + 1] : []));
        expect(ends).toEqual([5, 10, 15, 30, 40]);
        expect(ends.map((end) => timeline.slowest[end - 1])).toEqual([5, 5, 5, 15, 10]);
      }));

    test.each([
      { duration: 48, width: 1, slices: 48 },
      { duration: 49, width: 2, slices: 25 },
      { duration: 96, width: 2, slices: 48 },
      { duration: 1000, width: 32, slices: 32 },
      { duration: 3_600_000, width: 131_072, slices: 28 },
    ])("of $duration ms has $slices slices of $width ms", ({ duration, width, slices }) =>
      virtualTime(async () => {
        let call = 0;
        const calls = 16;
        const task = async () => {
          await sleep(duration / calls);
          if (++call % 4 === 0) throw new Error();
        };

        const { timeline } = await measure(task, { iterations: calls });

        expect(timeline.width).toBe(width);
        expect(timeline.calls).toHaveLength(slices);
        expect([sum(timeline.calls), sum(timeline.failed)]).toEqual([16, 4]);
        expect(Math.max(...timeline.slowest)).toBe(duration / calls);
        const ends = (step: number) => {
          const expected = Array.from({ length: slices }, () => 0);
          for (let n = step; n <= calls; n += step) {
            expected[Math.ceil((n * duration) / calls / width) - 1]!++;
          }
          return expected;
        };
        expect(timeline.calls).toEqual(ends(1));
        expect(timeline.failed).toEqual(ends(4));
        expect(timeline.slowest).toHaveLength(slices);
      }),
    );

    test("begins with the first call, and has nothing to say of no time", () =>
      virtualTime(async () => {
        const { timeline } = await measure(() => sleep(0.5), { iterations: 3 });
        const none = await measure(() => {}, { iterations: 0 });
        const instant = await measure(() => {}, { iterations: 4 });

        expect(timeline).toEqual({ width: 1, calls: [2, 1], failed: [0, 0], slowest: [0.5, 0.5] });
        expect(none.timeline).toEqual({ width: 1, calls: [], failed: [], slowest: [] });
        expect(instant.timeline).toEqual({ width: 1, calls: [4], failed: [0], slowest: [0] });
      }));

    test("shows a stall as slices in which nothing ended, at its end too", () =>
      virtualTime(async () => {
        const controller = new AbortController();
        setTimeout(() => controller.abort(), 40);
        let call = 0;

        const { timeline } = await measure((signal) => sleep(++call > 3 ? 1000 : 10, signal), {
          duration: 100,
          signal: controller.signal,
        });

        expect(timeline.calls).toHaveLength(40);
        expect(timeline.calls.slice(30)).toEqual(Array(10).fill(0));
      }));

    test("is a copy: what progress was told doesn't change", () =>
      virtualTime(async () => {
        let first: Measurement | undefined;
        await measure(() => sleep(100), {
          duration: 2500,
          onProgress: (soFar) => void (first ??= soFar),
        });

        expect(sum(first!.timeline.calls)).toBe(first!.calls);
        expect(first!.timeline.slowest.length).toBe(first!.timeline.calls.length);
      }));
  });

  const noCall = () => {
    throw new Error("must not be called");
  };
  test.each([
    [undefined, { iterations: 1 }, "task must be a function, received undefined"],
    [Promise.resolve(), { iterations: 1 }, "task must be a function, received Promise"],
    [noCall, undefined, "iterations or duration must be given"],
    [noCall, {}, "iterations or duration must be given"],
    [noCall, { rate: 5 }, "iterations or duration must be given"],
    [noCall, 5, "options must be an object, received 5"],
    [noCall, null, "options must be an object, received null"],
    [noCall, AbortSignal.abort(), "options must be an object, received AbortSignal"],
    ...[-1, 1.5, NaN, "5", null, 2 ** 53].map((iterations) => [
      noCall,
      { iterations },
      `iterations must be a positive integer or Infinity, received ${quote(iterations)}`,
    ]),
    ...[-1, NaN, "5", null].map((duration) => [
      noCall,
      { duration },
      `duration must be a number of 0 or more, received ${quote(duration)}`,
    ]),
    ...[0, -1, 1.5, NaN, "5", null].map((concurrency) => [
      noCall,
      { iterations: 1, concurrency },
      `concurrency must be a positive integer or Infinity, received ${quote(concurrency)}`,
    ]),
    ...[0, -1, NaN, Infinity, "5", null].map((rate) => [
      noCall,
      { iterations: 1, rate },
      `rate must be a positive finite number, received ${quote(rate)}`,
    ]),
    ...[-1, NaN, "5", null].map((warmup) => [
      noCall,
      { iterations: 1, warmup },
      `warmup must be a number of 0 or more, received ${quote(warmup)}`,
    ]),
    [
      noCall,
      { iterations: 1, warmup: 1.5 },
      "warmup must be a finite integer of 0 or more, received 1.5",
    ],
    [
      noCall,
      { iterations: 1, warmup: Infinity },
      "warmup must be a finite integer of 0 or more, received Infinity",
    ],
    [
      noCall,
      { duration: 1, warmup: Infinity },
      "warmup must be a finite number of 0 or more, received Infinity",
    ],
    [
      noCall,
      { duration: 1, concurrency: Infinity },
      "concurrency must be finite without rate or iterations, received Infinity",
    ],
    [
      noCall,
      { iterations: Infinity, concurrency: Infinity },
      "concurrency must be finite without rate or iterations, received Infinity",
    ],
    [noCall, { iterations: 1, onProgress: 5 }, "onProgress must be a function, received 5"],
    [noCall, { iterations: 1, signal: {} }, "signal must be an AbortSignal, received Object"],
  ] as [never, never, string][])("refuses %s, %s: %s", async (task, options, message) => {
    const error = (await measure(task, options).catch((error: unknown) => error)) as Error;

    expect(error.message).toBe(`Cannot measure: ${message}`);
    const received = message.split("received ")[1];
    const isNumber =
      (received !== undefined && !Number.isNaN(Number(received))) || received === "NaN";
    expect(error).toBeInstanceOf(
      isNumber && !/task|options|onProgress/.test(message) ? RangeError : TypeError,
    );
  });

  test("takes undefined for what is not given, and null for no signal", async () => {
    const undefinedOptions: MeasureOptions = {
      iterations: 1,
      duration: undefined,
      concurrency: undefined,
      rate: undefined,
      warmup: undefined,
      onProgress: undefined,
      signal: null as never,
    };

    expect(await measure(() => {}, undefinedOptions)).toHaveProperty("calls", 1);
  });

  test.each([{ iterations: 0 }, { duration: 0 }, { iterations: 0, rate: 5 }])(
    "of nothing resolves to nothing: %s",
    async (options) => {
      const result = await measure(noCall, options);

      expect(result).toMatchObject({
        calls: 0,
        failed: 0,
        errors: {},
        throughput: 0,
        peakInFlight: 0,
        aborted: false,
      });
      expect(result.latency.p50).toBeNaN();
    },
  );

  test("types: any task, synchronous or not", () => {
    expectTypeOf(measure).toBeCallableWith(() => 5, { iterations: 1 });
    expectTypeOf(measure).toBeCallableWith(async (signal) => void signal.aborted, { duration: 1 });
    expectTypeOf<Awaited<ReturnType<typeof measure>>>().toEqualTypeOf<Measurement>();
  });
});

describe("Histogram", () => {
  const record = (...values: number[]) => {
    const histogram = new Histogram();
    for (const value of values) histogram.record(value);
    return histogram;
  };

  test.each([
    ["uniform", (random: () => number) => random() * 1000],
    ["exponential", (random: () => number) => -Math.log(1 - random()) * 10],
    ["long-tailed", (random: () => number) => 0.001 / (1 - random()) ** 3],
    ["nanoseconds", (random: () => number) => 1e-6 + random() * 1e-4],
    ["years", (random: () => number) => 1e10 * (1 + random())],
    ["whole milliseconds", (random: () => number) => Math.floor(random() * 2049)],
    ["two values", (random: () => number) => (random() < 0.9 ? 1 : 1000)],
  ] as const)(
    "percentiles of %s latencies are those of the sorted list, within 0.05 %%",
    (kind, draw) => {
      for (const seed of [1, 2, 3]) {
        for (const size of [1, 2, 10, 999, 5000]) {
          const random = randomFrom(seed * size);
          const values = Array.from({ length: size }, () => draw(random));
          const histogram = record(...values);
          values.sort((a, b) => a - b);

          for (const percent of [0, 1, 25, 50, 75, 90, 95, 99, 99.9, 99.99, 100]) {
            const rank = Math.max(1, Math.ceil((percent * size) / 100 - 1e-9));
            const exact = values[rank - 1]!;
            const error = Math.abs(histogram.percentile(percent) - exact) / exact || 0;
            const allowed = kind === "whole milliseconds" || kind === "two values" ? 0 : 2 ** -11;
            expect(error, `seed ${seed}, ${size} values, ${percent} %`).toBeLessThanOrEqual(
              allowed,
            );
          }
          expect([histogram.min, histogram.max]).toEqual([values[0]!, values.at(-1)!]);
          expect(histogram.count).toBe(size);
          expect(histogram.mean / (sum(values) / size)).toBeCloseTo(1, 12);
        }
      }
    },
  );

  test.each([1, 2, 3])("within() counts as a filter of the list does (seed %d)", (seed) => {
    const random = randomFrom(seed);
    const values = Array.from({ length: 1000 }, () => Math.floor(random() * 100));
    const histogram = record(...values);

    for (let ms = -1; ms <= 101; ms++) {
      expect(histogram.within(ms)).toBe(values.filter((value) => value <= ms).length);
    }
    expect(histogram.within(NaN)).toBe(0);
    expect(histogram.within(Infinity)).toBe(1000);
  });

  test("within() tells latencies apart that differ by a thousandth", () => {
    const histogram = record(1, 1 + 2 ** -10, 2 - 2 ** -10, 2, 2 + 2 ** -9, 100);

    const limits = [1, 1 + 2 ** -10, 2 - 2 ** -10, 2, 2 + 2 ** -9, 99];
    expect(limits.map((ms) => histogram.within(ms))).toEqual([1, 2, 3, 4, 5, 5]);
  });

  test("the percentile p is the smallest latency that p percent don't exceed", () => {
    const histogram = record(...Array.from({ length: 1000 }, (_, n) => n + 1));

    const percents = [0, 0.1, 0.11, 50, 50.01, 90, 99, 99.9, 99.91, 100];
    expect(percents.map((percent) => histogram.percentile(percent))).toEqual([
      1, 1, 2, 500, 501, 900, 990, 999, 1000, 1000,
    ]);
    expect([histogram.p50, histogram.p90, histogram.p99, histogram.p999]).toEqual([
      500, 900, 990, 999,
    ]);
    expect(record(5, 7, 1 / 3).p50).toBe(5);
  });

  test.each([0, 1e-9, 0.1, 1 / 3, 5, 1000.0001, 123_456.789, Infinity])(
    "a single latency of %d ms is exact in all of them",
    (ms) => {
      const { min, mean, p50, p99, p999, max } = record(ms);

      expect([min, mean, p50, p99, p999, max]).toEqual([ms, ms, ms, ms, ms, ms]);
    },
  );

  test("less than a nanosecond counts as nothing", () => {
    expect(record(0, 1e-9, 5e-324, 1).p50).toBe(0);
  });

  test("is empty in the beginning", () => {
    const histogram = new Histogram();

    expect(histogram.count).toBe(0);
    expect(histogram.within(Infinity)).toBe(0);
    for (const name of ["min", "mean", "p50", "p90", "p99", "p999", "max"] as const) {
      expect(histogram[name]).toBeNaN();
    }
  });

  test.each([
    [-1, RangeError, "-1"],
    [NaN, RangeError, "NaN"],
    ["5", TypeError, '"5"'],
    [undefined, TypeError, "undefined"],
  ])("refuses to record %s", (ms, Kind, received) => {
    const histogram = new Histogram();

    expect(() => histogram.record(ms as number)).toThrow(
      new Kind(
        `Cannot record in Histogram: ms must be a number of 0 or more, received ${received}`,
      ),
    );
    expect(histogram.count).toBe(0);
  });

  test.each([
    [-1, RangeError, "-1"],
    [100.1, RangeError, "100.1"],
    [NaN, RangeError, "NaN"],
    ["5", TypeError, '"5"'],
  ])("refuses the percentile %s", (percent, Kind, received) => {
    expect(() => record(1).percentile(percent as number)).toThrow(
      new Kind(
        `Cannot get percentile: percent must be a number from 0 to 100, received ${received}`,
      ),
    );
  });

  test("is written to JSON, and printed, with its numbers", () => {
    const members = { count: 4, min: 1, mean: 2.5, p50: 2, p90: 4, p99: 4, p999: 4, max: 4 };
    const histogram = record(1, 2, 3, 4);

    expect(JSON.parse(JSON.stringify(histogram))).toEqual(members);
    expect(inspect(histogram)).toBe(`Histogram ${JSON.stringify(members)}`);
    expect(inspect(new Histogram())).toMatch(/^Histogram \{"count":0,"min":null/);
  });

  test.skipIf(!Bun)("many latencies take no more memory than a few (needs Bun)", () => {
    const fill = (size: number) => {
      const random = randomFrom(1);
      const histogram = new Histogram();
      for (let n = 0; n < size; n++) histogram.record(1 + random() * 1000);
      return histogram;
    };
    const sizeAfter = (size: number) => {
      Bun!.gc(true);
      const before = process.memoryUsage().arrayBuffers;
      const histogram = fill(size);
      Bun!.gc(true);
      return [histogram.count, process.memoryUsage().arrayBuffers - before];
    };

    const [, small] = sizeAfter(10_000);
    const [count, large] = sizeAfter(300_000);

    expect(count).toBe(300_000);
    expect(large).toBeLessThanOrEqual(Math.max(small!, 100_000));
  });
});

describe("report()", () => {
  test("draws the numbers, the distribution, and what happened when", () =>
    virtualTime(async () => {
      const times = [...Array(90).fill(10), ...Array(9).fill(50), 1000] as number[];

      const result = await measure(() => sleep(times.shift()!), { iterations: 100 });

      expect(report(result)).toBe(
        unindent(`
          100 calls in 2.35 s: 42.6 a second, up to 1 at a time

                          min      p50      p90      p99    p99.9      max     mean
          latency     10.0 ms  10.0 ms  10.0 ms  50.0 ms   1.00 s   1.00 s  23.5 ms

           ≤ 15.8 ms  ████████████████████████████████████████ 90
           ≤ 25.1 ms                                           0
           ≤ 39.8 ms                                           0
           ≤ 63.1 ms  ████                                     9
            ≤ 100 ms                                           0
            ≤ 158 ms                                           0
            ≤ 251 ms                                           0
            ≤ 398 ms                                           0
            ≤ 631 ms                                           0
            ≤ 1.00 s  █                                        1

          a second  ▇▇█▇█▇▇█▇█▇▇█▇▃▂▂▃▂▂▂▂              ▂  up to 109
          slowest   ▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁              █  up to 1.00 s
                    0                                      2.35 s`),
      );
    }));

  test("draws both latencies of an open loop", () =>
    virtualTime(async () => {
      let call = 0;
      const task = () => sleep(++call === 10 ? 500 : 5);

      const result = await measure(task, { rate: 100, concurrency: 1, iterations: 100 });

      expect(report(result)).toBe(
        unindent(`
          100 calls in 1.04 s: 96.2 of 100 a second, up to 1 at a time

                          min      p50      p90      p99    p99.9      max     mean
          from due    5.00 ms   250 ms   450 ms   495 ms   500 ms   500 ms   251 ms
          from start  5.00 ms  5.00 ms  5.00 ms  5.00 ms   500 ms   500 ms  9.95 ms

           ≤ 7.92 ms  ██████████                               9
           ≤ 12.6 ms                                           0
           ≤ 19.9 ms                                           0
           ≤ 31.5 ms                                           0
           ≤ 50.0 ms  ██                                       1
           ≤ 79.2 ms  ██████                                   5
            ≤ 126 ms  ███████████                              10
            ≤ 199 ms  ████████████████                         14
            ≤ 315 ms  ██████████████████████████               24
            ≤ 500 ms  ████████████████████████████████████████ 37

          a second  ▄▄▄               ▅█▇▇█▇█▇▇█▇█▇▇▅  up to 219
          slowest   ▁▁▁               ███▇▇▆▆▅▅▄▄▃▂▂▂  up to 500 ms
                    0                                  1.04 s`),
      );
    }));

  test("says what failed, and that it was aborted", () =>
    virtualTime(async () => {
      const controller = new AbortController();
      setTimeout(() => controller.abort(), 1500);
      let call = 0;
      const task = async () => {
        await sleep(1);
        if (++call % 3 === 0) throw call % 2 ? new TypeError() : new RangeError();
      };

      const result = await measure(task, {
        duration: 5000,
        concurrency: 2,
        signal: controller.signal,
      });

      expect(report(result).split("\n").slice(0, 6)).toEqual([
        "2,998 calls in 1.50 s: 1,333 a second, up to 2 at a time",
        "aborted, 2 calls were running",
        "999 failed (33.3 %)",
        "  TypeError × 500",
        "  RangeError × 499",
        "",
      ]);
    }));

  test("draws over time only what succeeded", () =>
    virtualTime(async () => {
      let call = 0;
      const task = async () => {
        await sleep(10);
        if (++call > 50) throw new Error();
      };

      const result = await measure(task, { iterations: 100 });

      const line = report(result)
        .split("\n")
        .find((line) => line.startsWith("a second"))!;
      expect(line).toBe("a second  ▆▆▆▆█▆▆▆▆█▆▆▆▆█▄                  up to 125");
    }));

  test.each([
    [999.4, "999 ms"],
    [999.5, "1,000 ms"],
  ])("shows %d ms as %s", (ms, shown) =>
    virtualTime(async () => {
      const result = await measure(() => sleep(ms), { iterations: 1 });

      expect(report(result)).toContain(shown);
      expect(report(result)).not.toContain("e+");
    }),
  );

  test("says that a single call failed", async () => {
    const result = await measure(() => Promise.reject(new Error()), { iterations: 1 });

    expect(report(result).split("\n").slice(1, 3)).toEqual(["1 failed (100 %)", "  Error × 1"]);
  });

  test("of nothing shows no numbers", () =>
    virtualTime(async () => {
      const result = await measure(() => {}, { iterations: 0 });

      expect(report(result)).toBe(
        unindent(`
          0 calls in 0 ms: 0 a second, up to 0 at a time

                          min      p50      p90      p99    p99.9      max     mean
          latency           –        –        –        –        –        –        –`),
      );
    }));

  test.each([
    [0, "0 ms"],
    [2e-9, "0 ms"],
    [0.000_05, "50.0 ns"],
    [0.0123, "12.3 µs"],
    [1, "1.00 ms"],
    [99.96, "100 ms"],
    [999.4, "999 ms"],
    [999.9, "1,000 ms"],
    [1000, "1.00 s"],
    [3_600_000, "3,600 s"],
    [1e9, "1,000,000 s"],
    [Infinity, "Infinity s"],
  ])("writes %d ms as %s", (elapsed, text) => {
    const result = { ...empty, elapsed };

    expect(report(result).split("\n")[0]).toBe(`0 calls in ${text}: 0 a second, up to 0 at a time`);
  });

  test.each([
    [0.25, "0.3"],
    [99.94, "99.9"],
    [99.96, "100"],
    [100.4, "100"],
    [999.6, "1,000"],
    [1234.5, "1,235"],
    [1_234_567, "1,234,567"],
    [Infinity, "Infinity"],
  ])("writes %d as %s", (throughput, text) => {
    const result = { ...empty, throughput };

    expect(report(result).split("\n")[0]).toBe(
      `0 calls in 0 ms: ${text} a second, up to 0 at a time`,
    );
  });

  test("draws calls that took no time, and those that all took the same", () =>
    virtualTime(async () => {
      const times = [0, 0, 0, 10];
      const instant = await measure(() => {}, { iterations: 5 });
      const mixed = await measure(() => sleep(times.shift()!), { iterations: 4 });
      const same = await measure(() => sleep(5), { iterations: 5 });
      const single = await measure(() => sleep(5), { iterations: 1 });

      const bar = "█".repeat(40);
      expect(rowsOf(instant)).toEqual([`    ≤ 0 ms  ${bar} 5`]);
      expect(rowsOf(same)).toEqual([` ≤ 5.00 ms  ${bar} 5`]);
      expect(rowsOf(single)).toEqual([` ≤ 5.00 ms  ${bar} 1`]);
      expect(rowsOf(mixed)).toHaveLength(10);
      expect(rowsOf(mixed)[0]).toBe(` ≤ 2.51 µs  ${bar} 3`);
      expect(rowsOf(mixed)[9]).toMatch(/^ ≤ 10\.0 ms {2}█+ +1$/);
    }));

  test.each([undefined, null, 5, "text", {}, { latency: {} }, { timeline: {} }])(
    "refuses %s",
    (value) => {
      expect(() => report(value as never)).toThrow(
        /^Cannot report: result must be a Measurement, rec/,
      );
      expect(() => report(value as never)).toThrow(TypeError);
    },
  );
});

function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}

/** Lets virtual time pass while nothing else can run, as a long computation does. */
function block(ms: number): void {
  const now = performance.now() + ms;
  const { now: original } = performance;
  let started: number | undefined;
  performance.now = () => {
    started ??= original.call(performance);
    return Math.max(now, now + original.call(performance) - started);
  };
}

/** A task that counts its calls, and how many of them run. */
function countRunning(task: (signal: AbortSignal) => Promise<unknown>) {
  let current = 0;
  let total = 0;
  const running = { calls: 0, peak: 0, time: () => total };
  const counted = async (signal?: AbortSignal | unknown) => {
    running.calls++;
    running.peak = Math.max(running.peak, ++current);
    const start = performance.now();
    try {
      await task(signal as AbortSignal);
    } finally {
      total += performance.now() - start;
      current--;
    }
  };
  return { task: counted, running };
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

const empty: Measurement = {
  calls: 0,
  failed: 0,
  errors: {},
  firstError: undefined,
  elapsed: 0,
  throughput: 0,
  latency: new Histogram(),
  service: new Histogram(),
  inFlight: 0,
  peakInFlight: 0,
  aborted: false,
  rate: undefined,
  timeline: { width: 1, calls: [], failed: [], slowest: [] },
};

/** The rows of the distribution in a report. */
function rowsOf(result: Measurement): string[] {
  return report(result)
    .split("\n")
    .filter((line) => line.includes("≤"));
}

/** A text without its first line end, and without the indent that all its lines have. */
function unindent(text: string): string {
  const lines = text.slice(1).split("\n");
  const indent = lines[0]!.search(/\S/);
  return lines.map((line) => line.slice(indent)).join("\n");
}

function inspect(object: object): string {
  const show = (object as Record<symbol, unknown>)[Symbol.for("nodejs.util.inspect.custom")];
  const print = (members: unknown) => JSON.stringify(members);
  return (show as (...args: unknown[]) => string).call(object, 2, {}, print);
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}

function quote(value: unknown): string {
  return typeof value === "string" ? JSON.stringify(value) : String(value);
}

function randomFrom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}
