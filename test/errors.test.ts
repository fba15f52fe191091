/**
 * How to test code that handles errors: exact delays between attempts, random ones by replacing
 * Math.random, states that depend on who comes first, and a network that fails, both mocked and on
 * a real socket, with one test for both.
 */
import { describe, expect, expectTypeOf, test } from "bun:test";

import {
  type Attempt,
  attempt,
  CircuitBreaker,
  CircuitOpenError,
  flattenErrors,
  isAbortError,
  isTimeoutError,
  retry,
  RetryError,
  type RetryEvent,
  type RetryOptions,
  splitErrors,
} from "../concepts/errors.ts";
import { interleavings, type World } from "../concepts/interleavings.ts";
import { virtualTime } from "../concepts/virtual-time.ts";

const { Bun } = globalThis as { Bun?: typeof globalThis.Bun };
const vm = globalThis.process?.getBuiltinModule?.("node:vm");

describe("Start here", () => {
  test("1. An outcome can be compared as a value, whether fn throws or not", () => {
    expect(attempt(() => JSON.parse("[1]") as unknown)).toEqual({ ok: true, value: [1] });
    expect(attempt(() => JSON.parse("{") as unknown).ok).toBe(false);
  });

  test("2. On virtual time the delays between attempts are exact, and cost nothing", async () => {
    await virtualTime(async (clock) => {
      await rejection(retry(() => fail("down"), { attempts: 4, jitter: "none" }));

      expect(clock.elapsed).toBe(100 + 200 + 400);
    });
  });

  test("3. A service that fails for a while is scripted by the number of the attempt", async () => {
    await virtualTime(async () => {
      const value = await retry(({ attempt }) => (attempt < 3 ? fail("down") : "up"));

      expect(value).toBe("up");
    });
  });

  test("4. Random delays are tested by replacing Math.random", async () => {
    await virtualTime(async (clock) => {
      using _ = randomness(() => 0.5);
      await rejection(retry(() => fail("down"), { attempts: 2 }));

      expect(clock.elapsed).toBe(50);
    });
  });

  test("5. The error at the end is a RetryError: what fn threw is inside it", async () => {
    await virtualTime(async () => {
      const error = await rejection(retry(({ attempt }) => fail(attempt), { attempts: 2 }));

      expect(error).toBeInstanceOf(RetryError);
      expect(flattenErrors(error)).toEqual([new Error("1"), new Error("2")]);
    });
  });

  test("6. An abort ends the wait at once, and leaves no timer", async () => {
    await virtualTime(async (clock) => {
      const controller = new AbortController();
      setTimeout(() => controller.abort("stop"), 30);

      const retrying = retry(() => fail("down"), { jitter: "none", signal: controller.signal });

      expect(await rejection(retrying)).toBe("stop");
      expect(clock.elapsed).toBe(30);
      expect(clock.pending).toBe(0);
    });
  });

  test("7. An open breaker refuses without a call, until its time has passed", async () => {
    await virtualTime(async () => {
      const breaker = await opened({ resetAfter: 1000 });

      expect(await rejection(breaker.call(() => "up"))).toBeInstanceOf(CircuitOpenError);
      await sleep(1000);
      expect(await breaker.call(() => "up")).toBe("up");
    });
  });

  test("8. Of many errors some are handled, and the rest is passed on", () => {
    const error = new AggregateError([new RangeError("too big"), new TypeError("no text")]);

    const [handled, rest] = splitErrors(error, RangeError);

    expect(flattenErrors(handled)).toEqual([new RangeError("too big")]);
    expect(flattenErrors(rest)).toEqual([new TypeError("no text")]);
  });
});

describe("attempt", () => {
  const error = new Error("thrown");

  test.each([
    ["a number", 1],
    ["undefined", undefined],
    ["an object whose then is no function", { then: "later" }],
  ])("returns the value of a sync function at once: %s", (_, value) => {
    const result: Attempt<unknown> = attempt(() => value as unknown);

    expect(result).toEqual({ ok: true, value });
  });

  test.each([
    ["an Error", error],
    ["undefined", undefined],
  ])("returns the error of a sync function at once: %s", (_, thrown) => {
    const result: Attempt<never> = attempt(() => {
      throw thrown;
    });

    expect(result).toEqual({ ok: false, error: thrown });
  });

  test("returns a promise of an async function's outcome, which never rejects", async () => {
    const succeeded: Promise<Attempt<number>> = attempt(async () => 1);
    const failed: Promise<Attempt<number>> = attempt(() => Promise.reject<number>(error));

    expect(succeeded).toBeInstanceOf(Promise);
    expect(await succeeded).toEqual({ ok: true, value: 1 });
    expect(await failed).toEqual({ ok: false, error });
  });

  test("treats anything with a then method as a promise", async () => {
    type Callback = (result: unknown) => void;
    const good: unknown = { then: (resolve: Callback) => void resolve("value") };
    const bad: unknown = { then: (_: Callback, reject: Callback) => void reject(error) };

    expect(await attempt(() => good as PromiseLike<string>)).toEqual({ ok: true, value: "value" });
    expect(await attempt(() => bad as PromiseLike<string>)).toEqual({ ok: false, error });
  });

  test("returns the outcome at once when fn throws before it returns its promise", () => {
    const result: unknown = attempt((): Promise<number> => {
      throw error;
    });

    expect(result).toEqual({ ok: false, error });
  });

  test("lets the compiler tell the value from the error", () => {
    const result = attempt(() => 20);

    const doubled: number = result.ok ? 2 * result.value : 0;

    expect(doubled).toBe(40);
  });

  test("refuses what is not a function, instead of reporting it as an error of the function", () => {
    expect(thrownBy(() => attempt(1 as never))).toEqual(
      new TypeError("Cannot attempt: fn must be a function, received 1"),
    );
  });
});

describe("retry", () => {
  test.each([
    { failures: 0, elapsed: 0 },
    { failures: 1, elapsed: 100 },
    { failures: 2, elapsed: 300 },
  ])("returns what fn returns after $failures failures, $elapsed ms later", async (given) => {
    await virtualTime(async (clock) => {
      const numbers: number[] = [];

      const value = await retry(
        ({ attempt }) => {
          numbers.push(attempt);
          if (attempt <= given.failures) throw new Error(`failure ${attempt}`);
          return "value";
        },
        { jitter: "none" },
      );

      expect(value).toBe("value");
      expect(numbers).toEqual([1, 2, 3].slice(0, given.failures + 1));
      expect(clock.elapsed).toBe(given.elapsed);
      expect(clock.pending).toBe(0);
    });
  });

  test("gives up with all errors in order, the last as the cause", async () => {
    await virtualTime(async (clock) => {
      const errors = [new Error("first"), undefined, new Error("third")];

      const error = await rejection(
        retry(({ attempt }) => Promise.reject(errors[attempt - 1]), { jitter: "none" }),
      );

      expect(error).toBeInstanceOf(RetryError);
      expect(error).toBeInstanceOf(AggregateError);
      expect(error).toMatchObject({
        name: "RetryError",
        message: "Gave up after attempt 3",
        attempts: 3,
      });
      expect((error as RetryError).errors).toEqual(errors);
      expect((error as RetryError).cause).toBe(errors[2]);
      expect(clock.elapsed).toBe(300);
      expect(clock.pending).toBe(0);
    });
  });

  test("with one attempt it gives up without waiting", async () => {
    await virtualTime(async (clock) => {
      const error = await rejection(retry(() => fail("only"), { attempts: 1 }));

      expect(error).toMatchObject({ attempts: 1, cause: new Error("only") });
      expect(clock.elapsed).toBe(0);
    });
  });

  test.each<[RetryOptions, number[]]>([
    [{}, [100, 200]],
    [{ attempts: 5 }, [100, 200, 400, 800]],
    [{ attempts: 5, maxDelay: 350 }, [100, 200, 350, 350]],
    [{ attempts: 4, baseDelay: 500, maxDelay: 50 }, [50, 50, 50]],
    [{ attempts: 4, baseDelay: 10, factor: 1 }, [10, 10, 10]],
    [{ attempts: 4, baseDelay: 8, factor: 1.5 }, [8, 12, 18]],
    [{ attempts: 4, baseDelay: 0 }, [0, 0, 0]],
    [{ baseDelay: 20_000 }, [20_000, 30_000]],
    [{ baseDelay: 2 ** 31, maxDelay: 2 ** 40 }, [2 ** 31, 2 ** 32]],
  ])("without jitter, %j waits exactly %j", async (options, delays) => {
    await virtualTime(async (clock) => {
      const { starts, fn } = failing(clock);
      const events: RetryEvent[] = [];

      await rejection(
        retry(fn, { ...options, jitter: "none", onRetry: (event) => events.push(event) }),
      );

      expect(differences(starts)).toEqual(delays);
      expect(events.map(({ delay }) => delay)).toEqual(delays);
    });
  });

  test.each<[number, number[]]>([
    [0, [0, 0, 0, 0]],
    [0.25, [25, 50, 100, 125]],
    [0.75, [75, 150, 300, 375]],
  ])("with Math.random() at %d, full jitter waits %j", async (random, delays) => {
    await virtualTime(async (clock) => {
      using _ = randomness(() => random);
      const { starts, fn } = failing(clock);

      await rejection(retry(fn, { attempts: 5, maxDelay: 500 }));

      expect(differences(starts)).toEqual(delays);
    });
  });

  test("full jitter spreads each wait over all from 0 to its delay", async () => {
    await virtualTime(async (clock) => {
      using _ = randomness(seeded(1));
      const { starts, fn } = failing(clock);

      await rejection(retry(fn, { attempts: 1001, factor: 1 }));

      const delays = differences(starts);
      expect(Math.floor(Math.min(...delays))).toBe(0);
      expect(Math.floor(Math.max(...delays))).toBe(99);
      expect(Math.round(clock.elapsed / delays.length / 10)).toBe(5);
    });
  });

  test("delay() decides: neither maxDelay nor jitter changes what it says", async () => {
    await virtualTime(async (clock) => {
      const { starts, fn } = failing(clock);
      const asked: unknown[] = [];
      const retryAfter = [120_000, 0, 2 ** 31];

      await rejection(
        retry(fn, {
          attempts: 4,
          maxDelay: 10,
          delay: (attempt, error) => (asked.push([attempt, error]), retryAfter[attempt - 1]),
        }),
      );

      expect(differences(starts)).toEqual(retryAfter);
      expect(asked).toEqual([1, 2, 3].map((n) => [n, new Error(`failure ${n}`)]));
    });
  });

  test("delay() may leave a wait to the backoff, which has grown meanwhile", async () => {
    await virtualTime(async (clock) => {
      const { starts, fn } = failing(clock);
      const delay = (attempt: number) => (attempt === 2 ? 5 : undefined);

      await rejection(retry(fn, { attempts: 4, jitter: "none", delay }));

      expect(differences(starts)).toEqual([100, 5, 400]);
    });
  });

  test("delay() of Infinity waits for the signal", async () => {
    await virtualTime(async (clock) => {
      const signal = AbortSignal.timeout(2 ** 31 - 1);

      const retrying = retry(() => fail("once"), { delay: () => Infinity, signal });

      expect(await rejection(retrying)).toBe(signal.reason);
      expect(clock.pending).toBe(0);
    });
  });

  test.each([NaN, -1])(
    "a delay() of %s is an error, which keeps that of the attempt",
    async (ms) => {
      const error = await rejection(retry(() => fail("busy"), { delay: () => ms }));

      expect(error).toBeInstanceOf(RangeError);
      expect(error).toMatchObject({
        message: `Cannot retry: delay must be a number of 0 or more, received ${ms}`,
        cause: new Error("busy"),
      });
    },
  );

  test.each([1, 2, 3])(
    "rejects with the error itself when retryIf refuses it at attempt %d",
    async (last) => {
      await virtualTime(async (clock) => {
        const errors = Array.from({ length: last }, (_, i) => new Error(`failure ${i + 1}`));
        const seen: unknown[] = [];

        const error = await rejection(
          retry(({ attempt }) => Promise.reject(errors[attempt - 1]), {
            baseDelay: 10,
            factor: 1,
            jitter: "none",
            retryIf: (error) => error !== errors[last - 1],
            onRetry: ({ error }) => seen.push(error),
          }),
        );

        expect(error).toBe(errors[last - 1]);
        expect(seen).toEqual(errors.slice(0, -1));
        expect(clock.elapsed).toBe(10 * (last - 1));
      });
    },
  );

  const programming = [
    new TypeError("undefined is not an object (evaluating 'user.name')"),
    new TypeError("Cannot read properties of undefined (reading 'connection')"),
    Object.assign(new TypeError("network is no URL"), { code: "ERR_INVALID_URL" }),
    new RangeError("Invalid array length"),
    new ReferenceError("user is not defined"),
    { name: "TypeError", message: "of another realm" },
  ];
  test.each([new DOMException("somebody else's", "AbortError"), ...programming])(
    "an AbortError or a programming error is not retried, unless retryIf says so: %s",
    async (error) => {
      await virtualTime(async (clock) => {
        const { starts, fn } = failing(clock, error);

        expect(await rejection(retry(fn))).toBe(error);
        expect(starts).toHaveLength(1);
        expect(await rejection(retry(fn, { retryIf: () => true }))).toBeInstanceOf(RetryError);
        expect(starts).toHaveLength(4);
      });
    },
  );

  const withCode = (message: string, code: string) =>
    Object.assign(new TypeError(message), { code });
  test.each([
    // In this order: Chrome, Firefox, Safari 16 and 17, Node, Deno, Bun, Cloudflare, React Native.
    new TypeError("Failed to fetch"),
    new TypeError("network error"),
    new TypeError("NetworkError when attempting to fetch resource."),
    new TypeError("The Internet connection appears to be offline."),
    new TypeError("Load failed"),
    new TypeError("fetch failed"),
    new TypeError("terminated"),
    new TypeError("error sending request for url (http://localhost/)"),
    new TypeError("Fetch failed: Requests to port 1 are blocked"),
    new TypeError("error reading a body from connection"),
    withCode("Unable to connect. Is the computer able to access the url?", "ECONNREFUSED"),
    new TypeError("Unable to connect. Is the computer able to access the url?"),
    withCode("reset", "ECONNRESET"),
    new TypeError("Network connection lost."),
    new TypeError("connection refused"),
    new TypeError("Network request failed"),
    new SyntaxError("JSON Parse error: Unexpected EOF"),
    "a string",
    undefined,
  ])("a network that fails, or answers garbage, is retried: %s", async (error) => {
    await virtualTime(async () => {
      const retrying = retry(({ attempt }) => (attempt < 3 ? Promise.reject(error) : "up"));

      expect(await retrying).toBe("up");
    });
  });

  describe("maxElapsed", () => {
    test.each<{ maxElapsed: number; starts: number[] }>([
      // The attempts begin at 0, 100, 300 and 700.
      { maxElapsed: 0, starts: [0] },
      { maxElapsed: 99.9, starts: [0] },
      { maxElapsed: 100, starts: [0, 100] },
      { maxElapsed: 299, starts: [0, 100] },
      { maxElapsed: 300, starts: [0, 100, 300] },
      { maxElapsed: Infinity, starts: [0, 100, 300, 700] },
    ])("of $maxElapsed ms lets attempts begin at $starts", async ({ maxElapsed, starts }) => {
      await virtualTime(async (clock) => {
        const { starts: seen, fn } = failing(clock);
        const told: number[] = [];
        const onRetry = ({ attempt }: RetryEvent) => told.push(attempt);

        const retrying = retry(fn, { attempts: 4, jitter: "none", maxElapsed, onRetry });

        expect(await rejection(retrying)).toMatchObject({
          name: "RetryError",
          attempts: seen.length,
        });
        expect(seen).toEqual(starts);
        // It gives up at once, and doesn't announce a wait that there won't be.
        expect(clock.elapsed).toBe(starts.at(-1)!);
        expect(told).toEqual(starts.slice(1).map((_, i) => i + 1));
      });
    });

    test("counts the attempts themselves, and lets the last one end", async () => {
      await virtualTime(async (clock) => {
        const slow = () => sleep(400).then(() => fail("down"));

        const error = await rejection(retry(slow, { jitter: "none", maxElapsed: 500 }));

        expect(error).toMatchObject({ attempts: 2 });
        expect(clock.elapsed).toBe(900);
      });
    });

    test.each(["retryIf", "delay", "onRetry"])("counts the time that %s takes", async (hook) => {
      await virtualTime(async (clock) => {
        const { starts, fn } = failing(clock);
        const slow = () => sleep(400).then(() => (hook === "delay" ? 200 : true));

        const retrying = retry(fn, { jitter: "none", maxElapsed: 499, [hook]: slow });

        expect(await rejection(retrying)).toMatchObject({ name: "RetryError", attempts: 1 });
        expect(starts).toEqual([0]);
        expect(clock.elapsed).toBe(400);
      });
    });

    test("counts anew when the clock goes back", async () => {
      using clock = manualClock();
      clock.now = 1000;
      const nows = [0, 90, 101];

      const down = () => {
        clock.now = nows.shift()!;
        throw new Error("down");
      };
      const options = { attempts: 4, baseDelay: 0, maxElapsed: 100 };

      expect(await rejection(retry(down, options))).toMatchObject({
        name: "RetryError",
        attempts: 3,
      });
    });

    test("an abort in an onRetry that takes too long is told", async () => {
      await virtualTime(async () => {
        const controller = new AbortController();

        const retrying = retry(() => fail("down"), {
          maxElapsed: 100,
          onRetry: () => sleep(200).then(() => controller.abort("stop")),
          signal: controller.signal,
        });

        expect(await rejection(retrying)).toBe("stop");
      });
    });

    test("bounds endless attempts, and keeps their errors", async () => {
      await virtualTime(async () => {
        const options = { attempts: Infinity, baseDelay: 10, factor: 1, jitter: "none" } as const;

        const error = await rejection(
          retry(({ attempt }) => fail(attempt), { ...options, maxElapsed: 25 }),
        );

        expect(error).toMatchObject({
          errors: [new Error("1"), new Error("2"), new Error("3")],
          cause: new Error("3"),
        });
      });
    });

    test("bounds what delay() says, Infinity included", async () => {
      const retrying = retry(() => fail("down"), { delay: () => Infinity, maxElapsed: 1e9 });

      expect(await rejection(retrying)).toMatchObject({ attempts: 1 });
    });

    test("is not missed by a rounding of the clock", async () => {
      using clock = manualClock();
      clock.now = 0.3;
      let calls = 0;

      await rejection(
        retry(() => ((clock.now = 0.4), calls++, fail("down")), {
          attempts: 2,
          delay: () => 0.1,
          maxElapsed: 0.2,
          onRetry: () => void setTimeout(() => (clock.now = 1), 0),
        }),
      );

      expect(0.4 - 0.3 + 0.1).toBeGreaterThan(0.2);
      expect(calls).toBe(2);
    });
  });

  test("onRetry is told before each wait, and not after the last attempt", async () => {
    await virtualTime(async (clock) => {
      const events: unknown[] = [];

      await rejection(
        retry(({ attempt }) => fail(attempt), {
          jitter: "none",
          onRetry: (event) => events.push({ ...event, at: clock.elapsed }),
        }),
      );

      expect(events).toEqual([
        { attempt: 1, error: new Error("1"), delay: 100, at: 0 },
        { attempt: 2, error: new Error("2"), delay: 200, at: 100 },
      ]);
    });
  });

  describe.each(["retryIf", "delay", "onRetry"])("what %s throws ends it", (hook) => {
    const busy = new Error("busy");
    const throwing = (thrown: unknown, more?: RetryOptions) =>
      rejection(
        retry(() => Promise.reject(busy), { [hook]: () => Promise.reject(thrown), ...more }),
      );

    test.each(["sync", "async"])("and is joined with the error of the attempt: %s", async (how) => {
      await virtualTime(async (clock) => {
        const thrown = new Error("thrown");
        const sync = () => {
          throw thrown;
        };

        const error = await throwing(thrown, how === "sync" ? { [hook]: sync } : {});

        expect(error).toBeInstanceOf(SuppressedError);
        expect(error).toHaveProperty("message", "Handling an error failed");
        expect(flattenErrors(error)).toEqual([thrown, busy]);
        expect(clock.pending).toBe(0);
      });
    });

    test.each([
      ["is the error of the attempt", busy],
      ["has it as its cause", new Error("enough", { cause: busy })],
    ])("alone, if it %s", async (_, thrown) => {
      expect(await throwing(thrown)).toBe(thrown);
    });

    test("unless the signal has been aborted: then its reason does", async () => {
      const controller = new AbortController();
      const { signal } = controller;
      const hooks = {
        [hook]: async () => {
          controller.abort("stop");
          throw new Error("thrown");
        },
      };

      expect(await throwing(0, { signal, ...hooks })).toBe("stop");
    });
  });

  test.skipIf(!Bun)("can try forever, and then keeps no errors (needs Bun)", async () => {
    await virtualTime(async (clock) => {
      const errors: WeakRef<Error>[] = [];

      const kept = await retry(
        ({ attempt }) => {
          if (attempt > 1000) {
            Bun!.gc(true);
            return errors.filter((ref) => ref.deref()).length;
          }
          const error = new Error(`failure ${attempt}`);
          errors.push(new WeakRef(error));
          throw error;
        },
        { attempts: Infinity, baseDelay: 10, factor: 1, jitter: "none" },
      );

      expect(clock.elapsed).toBe(10_000);
      // A few may still be on the stack.
      expect(kept).toBeLessThan(100);
    });
  });

  test("backs off forever without a delay becoming NaN", async () => {
    await virtualTime(async (clock) => {
      const attempts = await retry(({ attempt }) => (attempt > 2000 ? attempt : fail("not yet")), {
        attempts: Infinity,
        baseDelay: 0,
        maxDelay: Infinity,
      });

      expect(attempts).toBe(2001);
      expect(clock.elapsed).toBe(0);
    });
  });

  test("passes the given signal to fn, or one that isn't aborted", async () => {
    const { signal } = new AbortController();

    expect(await retry((context) => context.signal, { signal })).toBe(signal);
    expect((await retry((context) => context.signal)).aborted).toBe(false);
  });

  describe.each([
    ["first", 1, 0, 100],
    ["middle", 2, 100, 300],
    ["last", 3, 300, 700],
  ])("aborted at its %s wait", (_which, n, begin, end) => {
    test.each<[when: string, how: Partial<AbortPlan>, calls: number, elapsed: number]>([
      ["before, in the attempt", { inAttempt: n }, n, begin],
      ["before, in the turn in which it begins", { inTurnAfter: n }, n, begin],
      ["during", { at: (begin + end) / 2 }, n, (begin + end) / 2],
      ["in the turn of its end, before it", { beforeTimer: n }, n, end],
      ["in the turn of its end, after it", { afterTimer: n }, n, end],
    ])("%s: rejects at once, calls nothing, and leaves no trace", async (_when, how, calls, ms) => {
      await virtualTime(async (clock) => {
        const { controller, listeners } = watchedController();
        const { starts, fn } = failing(clock);
        const planned = abortAs(how, controller, fn);

        const retrying = retry(planned, {
          attempts: 4,
          jitter: "none",
          signal: controller.signal,
        });

        expect(await rejection(retrying)).toBe("stop");
        expect(starts).toHaveLength(calls);
        expect(clock.elapsed).toBe(ms);
        expect(clock.pending).toBe(0);
        expect(listeners()).toBe(0);
      });
    });

    test("after it: the attempt is waited for, and what it returns is delivered", async () => {
      await virtualTime(async (clock) => {
        const { controller, listeners } = watchedController();
        const { fn } = failing(clock);

        const retrying = retry(
          async (context) => {
            if (context.attempt <= n) return fn(context);
            controller.abort("stop");
            await sleep(20);
            return "value";
          },
          { attempts: 4, jitter: "none", signal: controller.signal },
        );

        expect(await retrying).toBe("value");
        expect(clock.elapsed).toBe(end + 20);
        expect(listeners()).toBe(0);
      });
    });
  });

  test("aborted before: rejects with the reason, and fn is not called", async () => {
    let calls = 0;

    const retrying = retry(() => calls++, { signal: AbortSignal.abort("stop") });

    await expect(retrying).rejects.toBe("stop");
    expect(calls).toBe(0);
  });

  test("aborted during a wait of months: rejects at once, too", async () => {
    await virtualTime(async (clock) => {
      const { controller, listeners } = watchedController();
      setTimeout(() => setTimeout(() => controller.abort("stop"), 5), 2 ** 31 - 1);

      const retrying = retry(() => fail("down"), {
        delay: () => 2 ** 32,
        signal: controller.signal,
      });

      expect(await rejection(retrying)).toBe("stop");
      expect(clock.elapsed).toBe(2 ** 31 + 4);
      expect(clock.pending).toBe(0);
      expect(listeners()).toBe(0);
    });
  });

  test("aborted during an attempt: awaits its cleanup, then rejects with the reason", async () => {
    await virtualTime(async (clock) => {
      const controller = new AbortController();
      const asked: unknown[] = [];
      setTimeout(() => controller.abort("stop"), 50);

      const retrying = retry(
        async ({ signal }) => {
          await new Promise((resolve) => signal.addEventListener("abort", resolve));
          await sleep(20);
          throw new Error("interrupted");
        },
        { retryIf: (error) => asked.push(error) > 0, signal: controller.signal },
      );

      expect(await rejection(retrying)).toBe("stop");
      expect(clock.elapsed).toBe(70);
      expect(asked).toEqual([]);
    });
  });

  test("a thousand waits share one listener of their signal", async () => {
    await virtualTime(async (clock) => {
      const { controller, listeners } = watchedController();
      const retrying = Array.from({ length: 1000 }, () =>
        rejection(retry(() => fail("down"), { signal: controller.signal })),
      );
      await Promise.resolve();

      expect(clock.pending).toBe(1000);
      expect(listeners()).toBe(1);
      controller.abort("stop");

      expect(await Promise.all(retrying)).toEqual(Array(1000).fill("stop"));
      expect(clock.pending).toBe(0);
      expect(listeners()).toBe(0);
    });
  });

  test("listens no more once it has succeeded or given up", async () => {
    await virtualTime(async () => {
      const { controller, listeners } = watchedController();
      const { signal } = controller;

      await retry(({ attempt }) => (attempt === 1 ? fail("once") : "value"), { signal });
      expect(listeners()).toBe(0);
      await rejection(retry(() => fail("always"), { signal }));
      expect(listeners()).toBe(0);
    });
  });

  test.each([
    ["attempts", 0, RangeError, "a positive integer or Infinity"],
    ["attempts", 1.5, RangeError, "a positive integer or Infinity"],
    ["attempts", "3", TypeError, "a positive integer or Infinity"],
    ["baseDelay", -1, RangeError, "a finite number of at least 0"],
    ["baseDelay", Infinity, RangeError, "a finite number of at least 0"],
    ["factor", 0.5, RangeError, "a finite number of at least 1"],
    ["maxDelay", NaN, RangeError, "a number of 0 or more"],
    ["maxElapsed", -1, RangeError, "a number of 0 or more"],
    ["jitter", true, TypeError, '"full" or "none"'],
  ])("refuses a(n) %s of %s, and doesn't call fn", async (name, value, Kind, expected) => {
    let calls = 0;

    const error = await rejection(retry(() => calls++, { [name]: value }));

    expect(error).toBeInstanceOf(Kind);
    expect((error as Error).message).toBe(
      `Cannot retry: ${name} must be ${expected}, received ${quoted(value)}`,
    );
    expect(calls).toBe(0);
  });

  test("rejects when fn is not a function", async () => {
    expect(await rejection(retry(1 as never))).toEqual(
      new TypeError("Cannot retry: fn must be a function, received 1"),
    );
  });

  test("an async onRetry is awaited before the wait begins", async () => {
    await virtualTime(async (clock) => {
      const { starts, fn } = failing(clock);

      await rejection(retry(fn, { attempts: 2, jitter: "none", onRetry: () => sleep(50) }));

      expect(starts).toEqual([0, 150]);
    });
  });

  test("an async retryIf and delay decide as sync ones do", async () => {
    await virtualTime(async (clock) => {
      const { starts, fn } = failing(clock);

      const error = await rejection(
        retry(fn, {
          retryIf: async (error) => (error as Error).message !== "failure 2",
          delay: async () => 70,
        }),
      );

      expect(error).toEqual(new Error("failure 2"));
      expect(starts).toEqual([0, 70]);
    });
  });

  test.each([
    ["retryIf", []],
    ["delay", ["retryIf"]],
    ["onRetry", ["retryIf", "delay"]],
  ])("aborted by %s: nothing is called after it", async (hook, before) => {
    await virtualTime(async (clock) => {
      const controller = new AbortController();
      const called: string[] = [];
      const record = (name: string, result: unknown) => () => {
        called.push(name);
        if (name === hook) controller.abort("stop");
        return result;
      };
      let calls = 0;

      const retrying = retry(() => (calls++, fail("down")), {
        retryIf: record("retryIf", true) as () => boolean,
        delay: record("delay", 10) as () => number,
        onRetry: record("onRetry", undefined),
        signal: controller.signal,
      });

      expect(await rejection(retrying)).toBe("stop");
      expect(called).toEqual([...before, hook]);
      expect(calls).toBe(1);
      expect(clock.pending).toBe(0);
    });
  });

  test("aborted during an attempt that succeeds all the same: its lock is delivered, not lost", async () => {
    const controller = new AbortController();
    const lock = { release() {}, [Symbol.dispose]() {} };

    const got = await retry(async () => (controller.abort("stop"), lock), controller);

    expect(got).toBe(lock);
  });

  test("endless attempts without a delay don't block the event loop", async () => {
    const controller = new AbortController();
    setTimeout(() => controller.abort("stop"), 0);

    const retrying = retry(() => fail("down"), {
      attempts: Infinity,
      baseDelay: 0,
      signal: controller.signal,
    });

    expect(await rejection(retrying)).toBe("stop");
  });

  test("a backoff without bounds never becomes NaN", async () => {
    await virtualTime(async () => {
      using _ = randomness(() => 0);
      const delays: number[] = [];

      await rejection(
        retry(() => fail("down"), {
          attempts: 4,
          factor: 1e300,
          maxDelay: Infinity,
          onRetry: ({ delay }) => delays.push(delay),
        }),
      );

      expect(delays).toEqual([0, 0, 0]);
    });
  });

  test("a context without a given signal makes one, which can be destructured", async () => {
    const [first, second] = await retry((context) => {
      const { signal } = context;
      return [signal, context.signal];
    });

    expect(first).toBeInstanceOf(AbortSignal);
    expect(second).toBe(first!);
    expect(first!.aborted).toBe(false);
  });

  test("null as the signal counts as none", async () => {
    await virtualTime(async () => {
      const options = { signal: null } as never;
      const value = await retry(({ attempt }) => (attempt < 2 ? fail("once") : "up"), options);

      expect(value).toBe("up");
    });
  });

  test.each([
    ["delay", 500, "delay must be a function, received 500"],
    ["retryIf", true, "retryIf must be a function, received true"],
    ["onRetry", "log", 'onRetry must be a function, received "log"'],
    ["signal", {}, "signal must be an AbortSignal, received Object"],
    ["baseDelay", null, "baseDelay must be a finite number of at least 0, received null"],
  ])("refuses a(n) %s of the wrong kind before it calls fn", async (name, value, message) => {
    let calls = 0;

    const error = await rejection(retry(() => calls++, { [name]: value }));

    expect(error).toEqual(new TypeError(`Cannot retry: ${message}`));
    expect(calls).toBe(0);
  });

  test.each([
    [3, "3"],
    [null, "null"],
    ["3", '"3"'],
    [new AbortController().signal, "AbortSignal"],
  ])("refuses options of %s", async (options, received) => {
    expect(await rejection(retry(() => 1, options as never))).toEqual(
      new TypeError(`Cannot retry: options must be an object, received ${received}`),
    );
  });

  test("a delay() that returns text is an error", async () => {
    const error = await rejection(retry(() => fail("busy"), { delay: () => "5" as never }));

    expect(error).toMatchObject({
      name: "TypeError",
      message: 'Cannot retry: delay must be a number of 0 or more, received "5"',
      cause: new Error("busy"),
    });
  });
});

describe("CircuitBreaker", () => {
  const down = () => fail("down");
  const up = () => "up";

  test("lets calls through while closed, and passes on values, errors and the signal", async () => {
    const breaker = new CircuitBreaker({ failureThreshold: 2, resetAfter: 100 });
    const { signal } = new AbortController();
    const error = new Error("down");

    expect(await breaker.call(up)).toBe("up");
    expect(await breaker.call(async () => "later")).toBe("later");
    expect(await breaker.call((signal) => signal, { signal })).toBe(signal);
    expect((await breaker.call((signal) => signal)).aborted).toBe(false);
    expect(await rejection(breaker.call(() => Promise.reject(error)))).toBe(error);
    expect(breaker.state).toBe("closed");
  });

  test.each([1, 2, 5])("opens after %d failures in a row", async (failureThreshold) => {
    const breaker = new CircuitBreaker({ failureThreshold, resetAfter: 100 });
    const states: string[] = [];

    for (let i = 0; i < failureThreshold; i++) {
      states.push(breaker.state);
      await rejection(breaker.call(down));
    }

    expect(new Set(states)).toEqual(new Set(["closed"]));
    expect(breaker.state).toBe("open");
  });

  test("a success in between starts the count anew", async () => {
    const breaker = new CircuitBreaker({ failureThreshold: 2, resetAfter: 100 });

    for (const task of [down, up, down, up, down]) {
      await attempt(() => breaker.call<unknown>(task));
    }
    expect(breaker.state).toBe("closed");
    await rejection(breaker.call(down));
    expect(breaker.state).toBe("open");
  });

  test("refuses calls while open, and says how long to wait", async () => {
    await virtualTime(async (clock) => {
      const breaker = await opened({ resetAfter: 100 });
      let calls = 0;
      const refused = () => rejection(breaker.call(() => calls++));

      expect(await refused()).toBeInstanceOf(CircuitOpenError);
      expect(await refused()).toMatchObject({
        name: "CircuitOpenError",
        message: "Circuit is open: it can be tried again in 100 ms",
        retryAfter: 100,
      });
      await sleep(99.5);
      expect(await refused()).toMatchObject({ retryAfter: 1 });
      expect(breaker.state).toBe("open");
      expect(calls).toBe(0);
      expect(clock.pending).toBe(0);
    });
  });

  test("is half-open when resetAfter has passed, without a timer", async () => {
    await virtualTime(async (clock) => {
      const breaker = await opened({ resetAfter: 100 });
      expect(clock.pending).toBe(0);

      await sleep(99);
      expect(breaker.state).toBe("open");
      await sleep(1);
      expect(breaker.state).toBe("half-open");
    });
  });

  test.each([1, 2, 5])("half-open, it lets %d of 10 callers through, then closes", async (n) => {
    await virtualTime(async () => {
      const breaker = await opened({ resetAfter: 100, halfOpenCalls: n });
      const service = controllable();
      await sleep(100);

      const calls = Array.from({ length: 10 }, () => attempt(() => breaker.call(service.task)));

      expect(service.running).toHaveLength(n);
      const refused = await Promise.all(calls.slice(n));
      for (const { ok, error } of refused as { ok: boolean; error?: unknown }[]) {
        expect(ok).toBe(false);
        expect(error).toBeInstanceOf(CircuitOpenError);
        expect(error).toMatchObject({
          message: "Circuit is half-open: its probes still run",
          retryAfter: undefined,
        });
      }
      for (const [i, probe] of service.running.entries()) {
        expect(breaker.state).toBe("half-open");
        probe.resolve(`probe ${i}`);
        expect(await calls[i]).toEqual({ ok: true, value: `probe ${i}` });
      }
      expect(breaker.state).toBe("closed");
    });
  });

  test("half-open, it lets no more probes through one after another than at once", async () => {
    await virtualTime(async () => {
      const breaker = await opened({ resetAfter: 100, halfOpenCalls: 2 });
      const service = controllable();
      await sleep(100);

      expect(await breaker.call(up)).toBe("up");
      const second = breaker.call(service.task);
      expect(await rejection(breaker.call(up))).toBeInstanceOf(CircuitOpenError);

      service.running[0]!.resolve("up");
      await second;
      expect(breaker.state).toBe("closed");
    });
  });

  test("a probe that fails opens it for the whole time again", async () => {
    await virtualTime(async () => {
      const breaker = await opened({ failureThreshold: 3, resetAfter: 100 });
      await sleep(130);

      expect(await rejection(breaker.call(down))).toEqual(new Error("down"));

      expect(await rejection(breaker.call(up))).toMatchObject({ retryAfter: 100 });
      await sleep(100);
      expect(await breaker.call(up)).toBe("up");
      expect(breaker.state).toBe("closed");
    });
  });

  test.each(["resolve", "reject"] as const)(
    "of two probes the first to fail opens it, and what the other does (%s) changes nothing",
    async (outcome) => {
      await virtualTime(async () => {
        const breaker = await opened({ resetAfter: 100, halfOpenCalls: 2 });
        const service = controllable();
        await sleep(100);
        const probes = [1, 2].map(() => attempt(() => breaker.call(service.task)));

        service.running[0]!.reject(new Error("down"));
        await probes[0];
        await sleep(60);
        service.running[1]![outcome]("late");
        await probes[1];

        expect(breaker.state).toBe("open");
        await sleep(40);
        expect(breaker.state).toBe("half-open");
      });
    },
  );

  test("once closed again it counts failures from the beginning", async () => {
    await virtualTime(async () => {
      const breaker = await opened({ failureThreshold: 2, resetAfter: 100 });
      await sleep(100);
      await breaker.call(up);

      await rejection(breaker.call(down));
      expect(breaker.state).toBe("closed");
      await rejection(breaker.call(down));
      expect(breaker.state).toBe("open");
    });
  });

  test.each(["resolve", "reject"] as const)(
    "a call from before it opened changes nothing when it ends late (%s)",
    async (outcome) => {
      await virtualTime(async () => {
        const breaker = new CircuitBreaker({ failureThreshold: 1, resetAfter: 100 });
        const service = controllable();
        const slow = [1, 2, 3].map(() => attempt(() => breaker.call(service.task)));
        await rejection(breaker.call(down));
        const end = async (i: number) => {
          service.running[i]![outcome]("late");
          await slow[i];
        };

        await sleep(60);
        await end(0);
        expect(await rejection(breaker.call(up))).toMatchObject({ retryAfter: 40 });

        await sleep(40);
        await end(1);
        expect(breaker.state).toBe("half-open");

        await breaker.call(up);
        await end(2);
        expect(breaker.state).toBe("closed");
      });
    },
  );

  test("an error that isFailure excuses counts as a success", async () => {
    await virtualTime(async () => {
      const isFailure = (error: unknown) => (error as Error).message !== "404";
      const breaker = await opened({ failureThreshold: 2, resetAfter: 100, isFailure });
      await sleep(100);

      expect(await rejection(breaker.call(() => fail("404")))).toEqual(new Error("404"));
      expect(breaker.state).toBe("closed");
      for (const message of ["500", "404", "500"]) {
        await rejection(breaker.call(() => fail(message)));
      }
      expect(breaker.state).toBe("closed");
    });
  });

  test("an isFailure that returns nothing excuses the error", async () => {
    const breaker = new CircuitBreaker({
      failureThreshold: 1,
      resetAfter: 100,
      isFailure: (() => {}) as never,
    });

    await rejection(breaker.call(down));

    expect(breaker.state).toBe("closed");
  });

  test("a probe whose isFailure throws gives back its place, and tells both errors", async () => {
    await virtualTime(async () => {
      const breaker = await opened({
        resetAfter: 100,
        isFailure: (error) => (error === "strange" ? fail("isFailure") : true),
      });
      await sleep(100);

      const error = await rejection(breaker.call(() => Promise.reject("strange")));
      expect(flattenErrors(error)).toEqual([new Error("isFailure"), "strange"]);
      expect(await breaker.call(up)).toBe("up");
    });
  });

  const stopped = new Error("stopped");
  const aborts = {
    "the signal's reason": (signal: AbortSignal) => Promise.reject(signal.reason),
    "an AbortError": () => Promise.reject(new DOMException("", "AbortError")),
  };
  test.each(Object.entries(aborts))(
    "%s counts neither as a failure nor as a success",
    async (_, task) => {
      const breaker = new CircuitBreaker({ failureThreshold: 2, resetAfter: 100 });
      const aborted = () => {
        const controller = new AbortController();
        const calling = breaker.call(
          (signal) => (controller.abort(stopped), task(signal)),
          controller,
        );
        return rejection(calling);
      };

      for (let i = 0; i < 5; i++) await aborted();
      expect(breaker.state).toBe("closed");
      await rejection(breaker.call(down));
      await aborted();
      await rejection(breaker.call(down));
      expect(breaker.state).toBe("open");
    },
  );

  describe.each(["first", "middle", "last"])("aborted: the %s of three calls", (which) => {
    const n = ["first", "middle", "last"].indexOf(which);
    type End = "resolve" | "reject";
    const controls = { abort: (c: AbortController) => c.abort(stopped) };

    // What counts is how the task ended: an abort that it didn't obey has not happened.
    test.each<[when: string, steps: ("abort" | End)[], counts: boolean]>([
      ["before it ends", ["abort", "reject"], false],
      ["before it succeeds all the same", ["abort", "resolve"], true],
      ["in the turn in which it has succeeded", ["resolve", "abort"], true],
    ])("%s", async (_when, steps, counts) => {
      await virtualTime(async () => {
        const breaker = await opened({ resetAfter: 100, halfOpenCalls: 3 });
        const { controller, listeners } = watchedController();
        const service = controllable();
        await sleep(100);
        const probes = [0, 1, 2].map((i) =>
          attempt(() => breaker.call(service.task, i === n ? controller : {})),
        );

        expect(await rejection(breaker.call(up))).toBeInstanceOf(CircuitOpenError);
        for (const step of steps) {
          if (step === "abort") controls.abort(controller);
          else service.running[n]![step](step === "reject" ? stopped : "up");
        }
        service.running.forEach((probe) => probe.resolve("up"));
        const outcomes = await Promise.all(probes);

        expect(outcomes.filter(({ ok }) => ok)).toHaveLength(counts ? 3 : 2);
        expect(breaker).toMatchObject({ state: counts ? "closed" : "half-open", running: 0 });
        expect(listeners()).toBe(0);
        // Its place is free for another probe.
        expect(await breaker.call(up)).toBe("up");
        expect(breaker.state).toBe("closed");
      });
    });

    test("after it has ended", async () => {
      const breaker = new CircuitBreaker({ failureThreshold: 4, resetAfter: 100 });
      const controller = new AbortController();

      await Promise.allSettled([0, 1, 2].map((i) => breaker.call(down, i === n ? controller : {})));
      controller.abort(stopped);

      expect(breaker.failures).toBe(3);
    });
  });

  test.each([
    ["another error during an abort", new Error("down")],
    ["a TimeoutError", new DOMException("too slow", "TimeoutError")],
  ])("%s counts as a failure", async (_, error) => {
    const breaker = new CircuitBreaker({ failureThreshold: 1, resetAfter: 100 });
    const controller = new AbortController();

    const calling = breaker.call(
      () => (controller.abort(stopped), Promise.reject(error)),
      controller,
    );

    expect(await rejection(calling)).toBe(error);
    expect(breaker.state).toBe("open");
  });

  test("undefined counts as a failure, though it is an unaborted signal's reason", async () => {
    const breaker = new CircuitBreaker({ failureThreshold: 1, resetAfter: 100 });

    expect(await rejection(breaker.call(() => Promise.reject(undefined)))).toBeUndefined();
    expect(breaker.state).toBe("open");
  });

  test("a TimeoutError counts as a failure even as the signal's reason", async () => {
    await virtualTime(async () => {
      const breaker = new CircuitBreaker({ failureThreshold: 1, resetAfter: 100 });
      const hanging = (signal: AbortSignal) =>
        new Promise((_, reject) => {
          signal.addEventListener("abort", () => reject(signal.reason));
        });

      const error = await rejection(breaker.call(hanging, { signal: AbortSignal.timeout(10) }));

      expect(isTimeoutError(error)).toBe(true);
      expect(breaker.state).toBe("open");
    });
  });

  test.each(["closed", "open"])("aborted before: the task is not called (%s)", async (state) => {
    const breaker = new CircuitBreaker({ failureThreshold: 1, resetAfter: 100 });
    if (state === "open") await rejection(breaker.call(down));
    let calls = 0;

    const calling = breaker.call(() => calls++, { signal: AbortSignal.abort(stopped) });

    expect(await rejection(calling)).toBe(stopped);
    expect(calls).toBe(0);
    expect(breaker.state).toBe(state as "closed");
  });

  test("retry() can wait for it, with its retryAfter as the delay", async () => {
    await virtualTime(async (clock) => {
      const breaker = new CircuitBreaker({ failureThreshold: 2, resetAfter: 1000 });
      const { starts, fn } = failing(clock);

      await retry(
        () => breaker.call<unknown>(() => (clock.elapsed < 500 ? fn({ attempt: 1 }) : up())),
        {
          attempts: 4,
          jitter: "none",
          delay: (_, error) => (error instanceof CircuitOpenError ? error.retryAfter : undefined),
        },
      );

      expect(starts).toEqual([0, 100]);
      expect(clock.elapsed).toBe(1100);
    });
  });

  describe("with a failureRate", () => {
    const options = { failureRate: 0.5, minimumCalls: 4, window: 1000, resetAfter: 100 };

    test.each([
      // Each letter is a call: u(p) or d(own).
      { calls: "ddd", state: "closed", why: "too few calls" },
      { calls: "dddd", state: "open", why: "enough of them" },
      { calls: "uudd", state: "open", why: "the rate is reached" },
      { calls: "uuudd", state: "closed", why: "it is not" },
      { calls: "uuuddd", state: "open", why: "it is now" },
      { calls: "dddu", state: "closed", why: "a success opens nothing" },
      { calls: "dddud", state: "open", why: "the next failure does" },
    ])("after the calls $calls it is $state: $why", async ({ calls, state }) => {
      const breaker = new CircuitBreaker(options);

      for (const call of calls)
        await attempt(() => breaker.call<unknown>(call === "d" ? down : up));

      expect(breaker.state).toBe(state as "open");
    });

    test.each([
      { waits: [0, 0, 0, 999], state: "open" },
      { waits: [0, 0, 0, 1000], state: "closed" },
      { waits: [0, 900, 0, 200], state: "closed" },
      { waits: [0, 900, 0, 200, 0], state: "open" },
    ])("failures after waits of $waits ms leave it $state", async ({ waits, state }) => {
      await virtualTime(async (clock) => {
        const breaker = new CircuitBreaker(options);
        // The tenths of the window are those of the clock.
        await sleep(1000 - (performance.now() % 1000));
        expect(clock.pending).toBe(0);

        for (const wait of waits) {
          await sleep(wait);
          await rejection(breaker.call(down));
        }

        expect(breaker.state).toBe(state as "open");
      });
    });

    test("forgets what another clock counted", async () => {
      using clock = manualClock();
      clock.now = 3_600_000;
      const breaker = new CircuitBreaker(options);
      for (let i = 0; i < 3; i++) await rejection(breaker.call(down));

      clock.now = 5;
      await rejection(breaker.call(down));
      expect(breaker.state).toBe("closed");

      for (let i = 0; i < 3; i++) await rejection(breaker.call(down));
      expect(breaker.state).toBe("open");
    });

    test.skipIf(!Bun)("many calls take no more memory than a few (needs Bun)", async () => {
      const jsc = "bun:jsc";
      const { heapStats } = await import(jsc);
      const heapSize = (): number => (Bun!.gc(true), heapStats().heapSize);
      using clock = manualClock();
      const breaker = new CircuitBreaker(options);
      // Of the tenths of the window two have one call each, the third all the others.
      for (let tenth = 0; tenth < 2; tenth++, clock.now += 100) await breaker.call(up);
      let growth = Infinity;
      // What others have left may be in the heap: the best of some tries counts. A leak is in each.
      for (let attempt = 0; attempt < 5 && growth >= 200_000; attempt++) {
        const before = heapSize();
        for (let n = 0; n < 20_000; n++) await breaker.call(up);
        growth = Math.min(growth, heapSize() - before);
      }

      expect(growth).toBeLessThan(200_000);
      expect(breaker.state).toBe("closed");
    });

    test("a single probe that fails opens it again", async () => {
      await virtualTime(async () => {
        const breaker = new CircuitBreaker(options);
        breaker.open();
        await sleep(100);
        await rejection(breaker.call(down));
        expect(breaker.state).toBe("open");
      });
    });

    test("begins anew once it has closed again", async () => {
      await virtualTime(async () => {
        const breaker = new CircuitBreaker(options);
        for (let i = 0; i < 4; i++) await rejection(breaker.call(down));
        await sleep(100);
        await breaker.call(up);

        for (let i = 0; i < 3; i++) await rejection(breaker.call(down));
        expect(breaker.state).toBe("closed");
        await rejection(breaker.call(down));
        expect(breaker.state).toBe("open");
      });
    });

    test("a failureThreshold beside it opens as well, and neither waits for the other", async () => {
      const breaker = new CircuitBreaker({ ...options, failureThreshold: 2 });
      await rejection(breaker.call(down));
      expect(breaker.state).toBe("closed");
      await rejection(breaker.call(down));
      expect(breaker.state).toBe("open");

      breaker.close();
      for (const task of [down, up, up, down]) await attempt(() => breaker.call<unknown>(task));
      expect(breaker.state).toBe("open");
    });

    test("unless told otherwise it wants ten calls within ten seconds", async () => {
      await virtualTime(async () => {
        const breaker = new CircuitBreaker({ failureRate: 1, resetAfter: 100 });
        await rejection(breaker.call(down));
        await sleep(10_000);

        for (let i = 0; i < 9; i++) await rejection(breaker.call(down));
        await sleep(9_000);
        expect(breaker.state).toBe("closed");
        await rejection(breaker.call(down));
        expect(breaker.state).toBe("open");
      });
    });
  });

  test("a result that isFailedResult recognizes counts as a failure, and is returned", async () => {
    const breaker = new CircuitBreaker({
      failureThreshold: 2,
      resetAfter: 100,
      isFailedResult: (response: Response) => response.status >= 500,
    });
    const answer = (status: number) => breaker.call(() => new Response(null, { status }));

    for (const status of [503, 404, 503]) expect((await answer(status)).status).toBe(status);
    expect(breaker.state).toBe("closed");
    await answer(500);
    expect(breaker.state).toBe("open");
  });

  test("a lock that isFailedResult refuses to look at is released", async () => {
    const breaker = new CircuitBreaker({
      failureThreshold: 1,
      resetAfter: 100,
      isFailedResult: () => fail("strange"),
    });
    let released = 0;
    const lock = { release: () => released++, [Symbol.dispose]() {} };

    expect(await rejection(breaker.call(() => lock))).toEqual(new Error("strange"));

    expect(released).toBe(1);
    expect(breaker).toMatchObject({ state: "closed", running: 0 });
  });

  describe("by hand", () => {
    test("open() opens it for resetAfter, whatever the calls come to", async () => {
      await virtualTime(async () => {
        const breaker = new CircuitBreaker({ failureThreshold: 1, resetAfter: 100 });
        const service = controllable();
        const early = breaker.call(service.task);

        breaker.open();
        service.running[0]!.resolve("up");

        expect(await early).toBe("up");
        expect(await rejection(breaker.call(up))).toMatchObject({ retryAfter: 100 });
        await sleep(100);
        expect(await breaker.call(up)).toBe("up");
        expect(breaker.state).toBe("closed");
      });
    });

    test("open(ms) opens it for so long, once", async () => {
      await virtualTime(async () => {
        const breaker = new CircuitBreaker({ failureThreshold: 1, resetAfter: 100 });

        breaker.open(500);
        await sleep(499);
        expect(breaker.state).toBe("open");
        await sleep(1);
        await rejection(breaker.call(down));

        expect(await rejection(breaker.call(up))).toMatchObject({ retryAfter: 100 });
      });
    });

    test("open(Infinity) keeps it open until close()", async () => {
      await virtualTime(async () => {
        const breaker = new CircuitBreaker({ failureThreshold: 1, resetAfter: 100 });

        breaker.open(Infinity);
        await sleep(2 ** 40);

        expect(await rejection(breaker.call(up))).toMatchObject({
          name: "CircuitOpenError",
          message: "Circuit is open until it is closed by hand",
          retryAfter: undefined,
        });
        breaker.close();
        expect(await breaker.call(up)).toBe("up");
      });
    });

    test("close() forgets the failures, and probes that still run", async () => {
      await virtualTime(async () => {
        const breaker = await opened({ failureThreshold: 2, resetAfter: 100 });
        const service = controllable();
        await sleep(100);
        const probe = rejection(breaker.call(service.task));

        breaker.close();
        service.running[0]!.reject("down");
        await probe;
        await rejection(breaker.call(down));

        expect(breaker).toMatchObject({ state: "closed", failures: 1 });
        breaker.close();
        expect(breaker.failures).toBe(0);
      });
    });

    test.each([
      [-1, RangeError],
      ["5", TypeError],
    ])("open() refuses %s", (ms, Kind) => {
      const breaker = new CircuitBreaker({ failureThreshold: 1, resetAfter: 100 });

      expect(thrownBy(() => breaker.open(ms as number))).toEqual(
        new Kind(
          `Cannot open CircuitBreaker: resetAfter must be a number of 0 or more, received ${quoted(ms)}`,
        ),
      );
      expect(breaker.state).toBe("closed");
    });
  });

  describe("statechange", () => {
    test("is dispatched after each change, and only then", async () => {
      await virtualTime(async () => {
        const breaker = new CircuitBreaker({ failureThreshold: 2, resetAfter: 100 });
        const states: string[] = [];
        breaker.addEventListener("statechange", () => states.push(breaker.state));
        const expectStates = (...expected: string[]) => expect(states.splice(0)).toEqual(expected);

        breaker.close();
        await rejection(breaker.call(down));
        await breaker.call(up);
        expectStates();
        await rejection(breaker.call(down));
        await rejection(breaker.call(down));
        expectStates("open");
        await rejection(breaker.call(up));
        breaker.open();
        expectStates();

        await sleep(100);
        expectStates(); // It sets no timer.
        await rejection(breaker.call(down));
        expectStates("half-open", "open");
        await sleep(100);
        await breaker.call(up);
        expectStates("half-open", "closed");
        breaker.open(0);
        expectStates("half-open");
      });
    });

    test("a probe is told before its task is called, and a listener may decide otherwise", async () => {
      await virtualTime(async () => {
        const breaker = await opened({ resetAfter: 100 });
        let calls = 0;
        breaker.addEventListener("statechange", () => breaker.open(Infinity), { once: true });
        await sleep(100);

        expect(await rejection(breaker.call(() => calls++))).toBeInstanceOf(CircuitOpenError);

        expect(calls).toBe(0);
      });
    });

    test("a listener that aborts the probe is obeyed", async () => {
      await virtualTime(async () => {
        const breaker = await opened({ resetAfter: 100 });
        const controller = new AbortController();
        let calls = 0;
        breaker.addEventListener("statechange", () => controller.abort("stop"), { once: true });
        await sleep(100);

        expect(await rejection(breaker.call(() => calls++, controller))).toBe("stop");

        expect(calls).toBe(0);
      });
    });
  });

  test.each([
    ["closed", 2, 'CircuitBreaker {"state":"closed","failures":2,"running":1}'],
    ["open", 3, 'CircuitBreaker {"state":"open","failures":0,"running":0}'],
  ])("shows itself when it is printed: %s", async (_state, failures, text) => {
    const breaker = new CircuitBreaker({ failureThreshold: 3, resetAfter: 100 });
    void breaker.call(() => new Promise(() => {}));
    for (let i = 0; i < failures; i++) await rejection(breaker.call(down));

    expect(printed(breaker)).toBe(text);
  });

  test.each([
    ["failureThreshold", 0, RangeError, "a positive integer"],
    ["failureThreshold", "1", TypeError, "a positive integer"],
    ["failureRate", 0, RangeError, "a number above 0 and at most 1"],
    ["failureRate", 1.1, RangeError, "a number above 0 and at most 1"],
    ["failureRate", NaN, RangeError, "a number above 0 and at most 1"],
    ["failureRate", "0.5", TypeError, "a number above 0 and at most 1"],
    ["window", 0, RangeError, "a positive integer"],
    ["minimumCalls", 1.5, RangeError, "a positive integer"],
    ["isFailedResult", 1, TypeError, "a function"],
    ["resetAfter", -1, RangeError, "a finite number of at least 0"],
    ["resetAfter", undefined, TypeError, "a finite number of at least 0"],
    ["halfOpenCalls", 1.5, RangeError, "a positive integer"],
    ["isFailure", 1, TypeError, "a function"],
  ])("refuses a(n) %s of %s", (name, value, Kind, expected) => {
    const options = { failureThreshold: 1, resetAfter: 1, [name]: value };

    expect(thrownBy(() => new CircuitBreaker(options))).toEqual(
      new Kind(
        `Cannot create CircuitBreaker: ${name} must be ${expected}, received ${quoted(value)}`,
      ),
    );
  });

  test.each(hostileErrors())(
    "counts as failures errors that can't be looked into: %s",
    async (_, error) => {
      await virtualTime(async () => {
        const breaker = new CircuitBreaker({ failureThreshold: 1, resetAfter: 100 });
        let calls = 0;

        await retry(() => (++calls < 2 ? breaker.call(() => Promise.reject(error)) : "up"));

        expect(calls).toBe(2);
        expect(breaker.state).toBe("open");
      });
    },
  );

  test("call() rejects when the task is not a function, which does not count as a failure", async () => {
    const breaker = new CircuitBreaker({ failureThreshold: 1, resetAfter: 100 });

    expect(await rejection(breaker.call(null as never))).toEqual(
      new TypeError("Cannot call through CircuitBreaker: task must be a function, received null"),
    );
    expect(breaker.state).toBe("closed");
  });

  test("opened on a clock that then goes back, it stays open no longer than resetAfter", async () => {
    using clock = manualClock();
    clock.now = 3_600_000;
    const breaker = await opened({ resetAfter: 100 });

    clock.now = 5;
    expect(await rejection(breaker.call(() => 1))).toMatchObject({ retryAfter: 100 });
    clock.now = 104;
    expect(breaker.state).toBe("open");
    clock.now = 105;
    expect(breaker.state).toBe("half-open");
    expect(await breaker.call(() => 1)).toBe(1);
  });

  test("rounding on the clock neither keeps it open nor lengthens the wait", async () => {
    using clock = manualClock();
    clock.now = 123.456;
    const breaker = await opened({ resetAfter: 10_000 });

    expect(await rejection(breaker.call(() => 1))).toMatchObject({ retryAfter: 10_000 });
    clock.now = 123.456 + 9_999.9999;
    expect(breaker.state).toBe("half-open");
  });

  test("without a signal the task gets one that is not aborted, its own if it declares it", async () => {
    const breaker = new CircuitBreaker({ failureThreshold: 1, resetAfter: 100 });

    const first = await breaker.call((signal) => signal);
    const second = await breaker.call((signal) => signal);
    const rest = await breaker.call((...signals) => signals[0]);

    expect(first).toBeInstanceOf(AbortSignal);
    expect(second === first).toBe(false);
    expect(rest).toBeInstanceOf(AbortSignal);
    expect(rest!.aborted).toBe(false);
  });

  test.each([
    ["options", 5, "options must be an object, received 5"],
    ["options", AbortSignal.abort(), "options must be an object, received AbortSignal"],
    ["signal", { signal: 5 }, "signal must be an AbortSignal, received 5"],
  ])(
    "call() refuses %s of the wrong kind before it calls the task",
    async (_, options, message) => {
      const breaker = new CircuitBreaker({ failureThreshold: 1, resetAfter: 100 });
      let calls = 0;

      const error = await rejection(breaker.call(() => calls++, options as never));

      expect(error).toEqual(new TypeError(`Cannot call through CircuitBreaker: ${message}`));
      expect(calls).toBe(0);
    },
  );

  test("refuses a failureThreshold out of range beside a failureRate, too", () => {
    expect(
      thrownBy(() => new CircuitBreaker({ failureRate: 1, failureThreshold: 0, resetAfter: 1 })),
    ).toBeInstanceOf(RangeError);
  });

  test("refuses to be made without options", () => {
    expect(thrownBy(() => new CircuitBreaker(undefined as never))).toEqual(
      new TypeError(
        "Cannot create CircuitBreaker: failureThreshold must be a positive integer, received undefined",
      ),
    );
  });
});

describe("flattenErrors", () => {
  test.each([
    ["1", "1"],
    ["a(1)", "1"],
    ["a(1 1)", "1 1"],
    ["a(1 b(c(2) 3) 4)", "1 2 3 4"],
    ["a(1 empty())", "1 empty()"],
  ])("of %s are %s", (error, expected) => {
    expect(flattenErrors(grow(error)).map(shape).join(" ")).toBe(expected);
  });

  test("looks into a RetryError", () => {
    const errors = [new Error("first"), new Error("second")];

    expect(flattenErrors(new RetryError(errors))).toEqual(errors);
  });

  test("keeps whatever was thrown", () => {
    const thrown = [undefined, null, "text", [1, 2], { errors: [3] }];

    expect(flattenErrors(new AggregateError(thrown))).toEqual(thrown);
    for (const error of thrown) expect(flattenErrors(error)).toEqual([error]);
  });

  test("handles groups that contain themselves or occur more than once", () => {
    const cyclic = grow("cyclic(1)");
    cyclic.errors.push(new AggregateError([cyclic, grow("2")]), grow("3"));
    let shared = grow("shared(1 2)");
    for (let i = 0; i < 100; i++) shared = new AggregateError([shared, shared]);

    expect(flattenErrors(cyclic).map(shape)).toEqual(["1", "2", "3"]);
    expect(flattenErrors(shared).map(shape)).toEqual(["1", "2"]);
  });
});

describe("splitErrors", () => {
  // The expectations are what Python's ExceptionGroup.split gives for groups of the same shapes.
  test.each([
    ["1", "1", undefined],
    ["-1", undefined, "-1"],
    ["a(1)", "a(1)", undefined],
    ["a(-1)", undefined, "a(-1)"],
    ["a(1 -2)", "a(1)", "a(-2)"],
    ["a(1 -2 3 -4)", "a(1 3)", "a(-2 -4)"],
    ["a(1 b(2))", "a(1 b(2))", undefined],
    ["a(b(-1) -2)", undefined, "a(b(-1) -2)"],
    ["a(b(1) -2)", "a(b(1))", "a(-2)"],
    ["a(1 b(-2 3) -4)", "a(1 b(3))", "a(b(-2) -4)"],
    ["a(b(c(1 -2)) d(-3))", "a(b(c(1)))", "a(b(c(-2)) d(-3))"],
    ["a(b(1 2) c(-3) d(4 -5))", "a(b(1 2) d(4))", "a(c(-3) d(-5))"],
    ["a(b(1 -2) b(1 -2))", "a(b(1) b(1))", "a(b(-2) b(-2))"],
  ])("splits %s into %s and %s, by predicate or by class", (error, matched, rest) => {
    const byPredicate = splitErrors(grow(error), (error) => error instanceof RangeError);
    const byClass = splitErrors(grow(error), RangeError);

    expect(byPredicate.map(shape)).toEqual([matched, rest]);
    expect(byClass.map(shape)).toEqual([matched, rest]);
  });

  test.each([
    ["a", "a(1 b(2 -3))", undefined],
    ["b", "a(b(2 -3))", "a(1)"],
  ])("matches groups before their errors: %s matches as a whole", (name, matched, rest) => {
    const error = grow("a(1 b(2 -3))");

    const halves = splitErrors(error, (error) => (error as Error).message === name);

    expect(halves.map(shape)).toEqual([matched, rest]);
  });

  test("a class of groups matches them as a whole, too", () => {
    const gaveUp = new RetryError([grow("1"), grow("b(-2)")]);

    const [matched, rest] = splitErrors(new AggregateError([gaveUp, grow("3")], "a"), RetryError);

    expect((matched as AggregateError).errors).toEqual([gaveUp]);
    expect(shape(rest)).toBe("a(3)");
    expect(splitErrors(gaveUp, Error)).toEqual([gaveUp, undefined]);
  });

  test("keeps each group's message, cause and stack, and the errors themselves", () => {
    const [cause, first, second] = [new Error("cause"), grow("1"), grow("-2")];
    const inner = new AggregateError([first, second], "inner");
    const outer = new AggregateError([inner], "outer", { cause });

    const halves = splitErrors(outer, RangeError) as AggregateError[];

    for (const half of halves) {
      expect(half).toMatchObject({ message: "outer", stack: outer.stack });
      expect(half.cause).toBe(cause);
      expect(half.errors[0]).toMatchObject({ message: "inner", stack: inner.stack });
      expect("cause" in half.errors[0]).toBe(false);
    }
    expect(halves[0]!.errors[0].errors[0]).toBe(first);
    expect(halves[1]!.errors[0].errors[0]).toBe(second);
    expect(inner.errors).toEqual([first, second]);
  });

  test("the stack of a half can be replaced, as that of any error", () => {
    const error = new AggregateError([grow("1"), grow("-2")]);
    const { stack } = error;
    const [matched] = splitErrors(error, RangeError) as AggregateError[];

    matched!.stack = "mine";

    expect(matched!.stack).toBe("mine");
    expect(error.stack).toBe(stack!);
    expect(Object.getOwnPropertyDescriptor(matched, "message")).toEqual(
      Object.getOwnPropertyDescriptor(new Error(""), "message"),
    );
  });

  test("a group of which nothing is split off is no copy", () => {
    const error = grow("a(1 b(2 3) -4)");

    const [matched, rest] = splitErrors(error, RangeError) as AggregateError[];

    expect(matched!.errors[1]).toBe(error.errors[1]);
    expect(splitErrors(matched, RangeError)[0]).toBe(matched);
    expect(splitErrors(rest, RangeError)[1]).toBe(rest);
  });

  test("keeps whatever was thrown", () => {
    const error = new AggregateError([undefined, null, "text", [1, 2]]);

    const [matched, rest] = splitErrors(error, (error) => typeof error === "string");

    expect((matched as AggregateError).errors).toEqual(["text"]);
    expect((rest as AggregateError).errors).toEqual([undefined, null, [1, 2]]);
  });

  test("matches what is not an Error only by predicate", () => {
    expect(splitErrors("text", Error)).toEqual([undefined, "text"]);
    expect(splitErrors("text", TypeError)).toEqual([undefined, "text"]);
    expect(splitErrors("text", (error) => error === "text")).toEqual(["text", undefined]);
  });

  test("an empty group is an error itself", () => {
    const error = grow("a(empty() 1)");

    expect(splitErrors(error, RangeError).map(shape)).toEqual(["a(1)", "a(empty())"]);
    expect(splitErrors(error, AggregateError)).toEqual([error, undefined]);
  });

  test("handles groups that contain themselves or occur more than once", () => {
    const cyclic = grow("cyclic(1)");
    cyclic.errors.push(new AggregateError([cyclic, grow("-2")], "inside"));
    let shared = grow("shared(1 -2)");
    for (let i = 0; i < 100; i++) shared = new AggregateError([shared, shared]);

    expect(splitErrors(cyclic, RangeError).map(shape)).toEqual(["cyclic(1)", "cyclic(inside(-2))"]);
    const halves = splitErrors(shared, RangeError);
    expect(halves.map((half) => flattenErrors(half).map(shape))).toEqual([["1"], ["-2"]]);
    expect(halves.map((half) => (half as AggregateError).errors.length)).toEqual([2, 2]);
  });

  test("refuses what is neither a class nor a predicate", () => {
    expect(thrownBy(() => splitErrors(grow("1"), "RangeError" as never))).toEqual(
      new TypeError('Cannot split errors: match must be a function, received "RangeError"'),
    );
  });
});

describe("flattenErrors and splitErrors", () => {
  test("don't overflow on groups and pairs nested 20,000 deep", () => {
    // Without stacks the errors are made in a moment.
    const { stackTraceLimit } = Error;
    Error.stackTraceLimit = 0;
    let deep: unknown = new RangeError("1");
    for (let i = 0; i < 20_000; i++) {
      deep = i % 2 ? new AggregateError([deep]) : new SuppressedError(new TypeError("2"), deep);
    }

    const [matched, rest] = splitErrors(deep, RangeError);
    Error.stackTraceLimit = stackTraceLimit;
    expect(flattenErrors(deep)).toHaveLength(10_001);
    expect(flattenErrors(matched)).toEqual([new RangeError("1")]);
    expect(flattenErrors(rest)).toHaveLength(10_000);
  }, 20_000);

  describe("given a SuppressedError", () => {
    const pair = (error: unknown, suppressed: unknown) =>
      new SuppressedError(error, suppressed, "both");
    const [one, two, three] = [new RangeError("1"), new TypeError("2"), new RangeError("3")];

    test("flattenErrors looks into it, however it is nested", () => {
      expect(flattenErrors(pair(one, pair(two, three)))).toEqual([one, two, three]);
      expect(flattenErrors(new AggregateError([pair(one, two), three]))).toEqual([one, two, three]);
    });

    test("splitErrors keeps it if both halves of it match", () => {
      const error = pair(one, three);

      expect(splitErrors(error, RangeError)).toEqual([error, undefined]);
      expect(splitErrors(error, RangeError)[0]).toBe(error);
    });

    test("splitErrors leaves the one error that remains of it", () => {
      expect(splitErrors(pair(one, two), RangeError)).toEqual([one, two]);
    });

    test("splitErrors keeps its nesting and message", () => {
      const error = pair(new AggregateError([one, two], "a"), pair(three, two));

      const [matched, rest] = splitErrors(error, RangeError) as SuppressedError[];

      expect(matched).toBeInstanceOf(SuppressedError);
      expect(matched!.message).toBe("both");
      expect(matched!.stack).toBe(error.stack!);
      expect(matched!.error.errors).toEqual([one]);
      expect(matched!.suppressed).toBe(three);
      expect(rest!.error.errors).toEqual([two]);
      expect(rest!.suppressed).toBe(two);
    });
  });

  describe("given errors of another realm", () => {
    // Stands for a class made in an iframe or by node:vm: it has the names, not the identity.
    const foreign = (name: string, properties: object): object => {
      const error = { name: "Error", message: "" };
      const prototype = Object.create(error, { name: { value: name } }) as object;
      return Object.assign(Object.create(prototype) as object, properties);
    };
    const range = foreign("RangeError", { message: "1" });
    const type = foreign("TypeError", { message: "-2" });

    test("groups are flattened, also those of a subclass with a name of its own", () => {
      const group = foreign("AggregateError", { errors: [range, type] });
      const named = Object.assign(foreign("AggregateError", { errors: [group, 3] }), {});
      Object.defineProperty(named, "name", { value: "RetryError" });

      expect(flattenErrors(named)).toEqual([range, type, 3]);
    });

    test("pairs are flattened", () => {
      const pair = foreign("SuppressedError", { error: range, suppressed: type });

      expect(flattenErrors(pair)).toEqual([range, type]);
    });

    test("are split by a built-in class, and keep the nesting", () => {
      const group = foreign("AggregateError", { errors: [range, type], message: "two" });

      const [matched, rest] = splitErrors(group, RangeError) as AggregateError[];

      expect(matched).toMatchObject({ message: "two" });
      expect(matched!.errors[0]).toBe(range);
      expect(rest!.errors[0]).toBe(type);
    });

    test.skipIf(!vm)("they may come from node:vm (needs node:vm)", () => {
      const group = vm!.runInNewContext(
        `new AggregateError([new RangeError("1"), new TypeError("2"), 3], "all")`,
      ) as AggregateError;

      const [matched, rest] = splitErrors(group, RangeError) as AggregateError[];

      expect(group instanceof AggregateError).toBe(false);
      expect(flattenErrors(group).map(String)).toEqual(["RangeError: 1", "TypeError: 2", "3"]);
      expect(matched!.message).toBe("all");
      expect(matched!.errors.map(String)).toEqual(["RangeError: 1"]);
      expect(rest!.errors.map(String)).toEqual(["TypeError: 2", "3"]);
    });

    test("a class of one's own isn't taken for the built-in one of its name", () => {
      class Own extends Error {
        static override readonly name = "RangeError";
      }

      expect(splitErrors(range, Own)).toEqual([undefined, range]);
    });

    test("an Error that merely has the name of a built-in class is not an instance", () => {
      const named = Object.assign(new Error("1"), { name: "RangeError" });

      expect(splitErrors(named, RangeError)).toEqual([undefined, named]);
    });

    test.each<[string, object]>([
      ["an Error with a list called errors", Object.assign(new Error(), { errors: [1, 2] })],
      ["an Error with a pair", Object.assign(new Error(), { error: 1, suppressed: 2 })],
      ["a group with text as its list", Object.assign(new AggregateError([]), { errors: "ab" })],
      ["an object that merely has the name of a pair", { name: "SuppressedError" }],
    ])("%s counts as single", (_, error) => {
      expect(flattenErrors(error)).toEqual([error]);
    });
  });

  describe("given errors that can't be looked into", () => {
    test.each(hostileErrors())("count as single: %s", (_, error) => {
      expect(flattenErrors(error)[0] === error).toBe(true);
      expect(flattenErrors(new AggregateError([error, 2]))[0] === error).toBe(true);
      const [matched, rest] = splitErrors(error, RangeError);
      expect(matched === undefined && rest === error).toBe(true);
    });

    test("a proxy that is its own prototype ends the search", () => {
      const ownPrototype: object = new Proxy({}, { getPrototypeOf: () => ownPrototype });

      expect(flattenErrors(ownPrototype)[0] === ownPrototype).toBe(true);
    });

    test("a group whose message, cause and stack throw is split without them", () => {
      const group = Object.defineProperties(new AggregateError([new RangeError("1"), -2]), {
        message: { get: () => fail("message") },
        cause: { get: () => fail("cause") },
        stack: { get: () => fail("stack") },
      });

      const [matched, rest] = splitErrors(group, RangeError) as AggregateError[];

      expect(matched!.errors).toEqual([new RangeError("1")]);
      expect(rest!.errors).toEqual([-2]);
    });
  });
});

describe.each([
  { is: isAbortError, name: "AbortError", platform: AbortSignal.abort().reason as unknown },
  { is: isTimeoutError, name: "TimeoutError", platform: new DOMException("", "TimeoutError") },
])("$is.name", ({ is, name, platform }) => {
  test.each([
    ["the platform's own", platform],
    ["an Error of that name", Object.assign(new Error(), { name })],
    ["one of another realm, which is no instance of our classes", { __proto__: null, name }],
  ])("recognizes %s", (_, error) => {
    expect(is(error)).toBe(true);
  });

  test.each([
    ["undefined", undefined],
    ["null", null],
    ["the bare name", name],
    ["a function of that name", Object.defineProperty(() => {}, "name", { value: name })],
    ["another error", new Error(name)],
    ["another DOMException", new DOMException(name, "NotFoundError")],
    ["an error that it caused", new Error("failed", { cause: platform })],
    ...hostileErrors(),
  ])("does not recognize %s", (_, error) => {
    expect(is(error)).toBe(false);
  });
});

test("types: mixed returns are inferred, abstract classes split, outcomes keep their promise", () => {
  abstract class Failure extends Error {
    abstract readonly code: number;
  }
  const breaker = new CircuitBreaker({ failureThreshold: 1, resetAfter: 100 });
  const mixed = (): number | Promise<string> => 1;
  const wrap = <T>(fn: () => Promise<T>): Promise<T> => retry(fn);

  expectTypeOf(retry(mixed)).toEqualTypeOf<Promise<number | string>>();
  expectTypeOf(retry<number>(async () => 5)).toEqualTypeOf<Promise<number>>();
  expectTypeOf(wrap(async () => 5)).toEqualTypeOf<Promise<number>>();
  expectTypeOf(breaker.call(mixed)).toEqualTypeOf<Promise<number | string>>();
  expectTypeOf(attempt(mixed)).toEqualTypeOf<Attempt<number> | Promise<Attempt<string>>>();
  expectTypeOf(attempt((): boolean | Promise<string> => true)).toEqualTypeOf<
    Attempt<boolean> | Promise<Attempt<string>>
  >();
  expectTypeOf(attempt(() => fail("never"))).toEqualTypeOf<Attempt<never>>();
  expect(splitErrors(new RangeError("1"), Failure)).toEqual([undefined, new RangeError("1")]);
});

/** A client as one writes it: it retries what may pass, and obeys Retry-After. */
async function fetchJson(
  url: string,
  { request = fetch, baseDelay = 0, onRetry, signal }: ClientOptions = {},
): Promise<unknown> {
  return await retry(
    async ({ signal }) => {
      const response = await request(url, { signal });
      if (!response.ok) throw new HttpError(response.status, response.headers.get("retry-after"));
      return await response.json();
    },
    {
      baseDelay,
      retryIf: (error) =>
        !isAbortError(error) && !(error instanceof HttpError && error.status < 500),
      delay: (_, error) => {
        const seconds = error instanceof HttpError ? error.retryAfter : null;
        return seconds === null ? undefined : 1000 * Number(seconds);
      },
      onRetry,
      signal,
    },
  );
}

interface ClientOptions {
  request?: Request;
  baseDelay?: number;
  onRetry?: (event: RetryEvent) => void;
  signal?: AbortSignal;
}

type Request = (url: string, init: { signal: AbortSignal }) => Promise<Response>;

class HttpError extends Error {
  readonly status: number;
  readonly retryAfter: string | null;

  constructor(status: number, retryAfter: string | null) {
    super(`HTTP ${status}`);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

/** How a server may treat a request: well, or not. */
type Answer = { status: number; body: string; retryAfter?: string } | "hang" | "reset";

/** Something that answers request after request with the next of the answers, and counts them. */
interface Service extends Disposable {
  url: string;
  request?: Request;
  /** How many requests have come. */
  requests: number;
  /** Called whenever a request has come. */
  onRequest?: () => void;
}

// One body of tests, run twice: the mock makes them exact, the real server keeps the mock honest.
describe.each([
  ["a mocked fetch", mockService],
  ...(Bun ? [["a real server", realService] as const] : []),
])("retry, integrated with %s,", (_, serve) => {
  const good = { status: 200, body: '{"n":1}' };

  test("needs one request when all is well", async () => {
    using service = serve(good);

    expect(await fetchJson(service.url, service)).toEqual({ n: 1 });
    expect(service.requests).toBe(1);
  });

  test("gets past a connection reset and an answer that is not JSON", async () => {
    using service = serve("reset", { status: 200, body: "<html>" }, good);
    const errors: unknown[] = [];

    const value = await fetchJson(service.url, {
      ...service,
      onRetry: ({ error }) => errors.push(error),
    });

    expect(value).toEqual({ n: 1 });
    expect(errors).toMatchObject([{ code: "ECONNRESET" }, { name: "SyntaxError" }]);
    expect(service.requests).toBe(3);
  });

  test("obeys a Retry-After instead of backing off", async () => {
    using service = serve({ status: 503, body: "", retryAfter: "0" }, good);
    const events: RetryEvent[] = [];

    const value = await fetchJson(service.url, {
      ...service,
      baseDelay: 3_600_000,
      onRetry: (event) => events.push(event),
    });

    expect(value).toEqual({ n: 1 });
    expect(events).toMatchObject([{ delay: 0, error: { message: "HTTP 503" } }]);
  });

  test("gives up with the errors of all attempts", async () => {
    using service = serve("reset", { status: 500, body: "" }, { status: 502, body: "" }, good);

    const error = await rejection(fetchJson(service.url, service));

    expect(error).toBeInstanceOf(RetryError);
    expect((error as RetryError).errors).toMatchObject([
      { code: "ECONNRESET" },
      { message: "HTTP 500" },
      { message: "HTTP 502" },
    ]);
    expect(service.requests).toBe(3);
  });

  test("doesn't ask again after a 404", async () => {
    using service = serve({ status: 404, body: "" }, good);

    const error = await rejection(fetchJson(service.url, service));

    expect(error).toMatchObject({ message: "HTTP 404" });
    expect(service.requests).toBe(1);
  });

  test("ends when aborted while the server hangs", async () => {
    using service = serve("hang", good);
    const controller = new AbortController();
    const reason = new Error("the user has left");
    service.onRequest = () => controller.abort(reason);

    const error = await rejection(
      fetchJson(service.url, { ...service, signal: controller.signal }),
    );

    expect(error).toBe(reason);
    expect(service.requests).toBe(1);
  });
});

test("with a mocked fetch and virtual time, a Retry-After of an hour takes no time", async () => {
  await virtualTime(async (clock) => {
    using service = mockService(
      { status: 503, body: "", retryAfter: "3600" },
      { status: 200, body: "[]" },
    );

    expect(await fetchJson(service.url, service)).toEqual([]);
    expect(clock.elapsed).toBe(3_600_000);
  });
});

describe.skipIf(!Bun)("a real network (needs Bun)", () => {
  test("that refuses the connection fails until somebody listens", async () => {
    const free = Bun!.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
    const { port } = free;
    free.stop(true);
    let server: Bun.Server<undefined> | undefined;
    const errors: unknown[] = [];

    try {
      const value = await fetchJson(`http://127.0.0.1:${port}`, {
        onRetry: ({ error }) => {
          errors.push(error);
          server = Bun!.serve({ hostname: "127.0.0.1", port, fetch: () => Response.json("up") });
        },
      });

      expect(value).toBe("up");
      expect(errors).toMatchObject([{ name: "TypeError", code: "ECONNREFUSED" }]);
    } finally {
      await server?.stop(true);
    }
  });

  test.each([
    ["garbage", "what is HTTP?\r\n\r\n", "Malformed_HTTP_Response"],
    ["half an answer", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n[1, 2", "ECONNRESET"],
    ["nothing", "", "ECONNRESET"],
  ])("that answers %s is asked again", async (_, text, code) => {
    using server = tcpServer((socket, n) => void socket.end(n < 3 ? text : http(200, "[3]")));
    const errors: unknown[] = [];

    const value = await fetchJson(server.url, { onRetry: ({ error }) => errors.push(error) });

    expect(value).toEqual([3]);
    expect(errors).toMatchObject([{ code }, { code }]);
  });

  test("that hangs ends in a TimeoutError, and is asked again", async () => {
    let hangs = true;
    using server = tcpServer((socket) => void (hangs || socket.end(http(200, "[]"))));
    const errors: unknown[] = [];

    const response = await retry(
      // With a limit for the second attempt, too, the test would depend on the machine's speed.
      ({ signal }) => fetch(server.url, { signal: hangs ? AbortSignal.timeout(1) : signal }),
      {
        baseDelay: 0,
        onRetry: ({ error }) => {
          errors.push(error);
          hangs = false;
        },
      },
    );

    expect(response.status).toBe(200);
    expect(errors.map(isTimeoutError)).toEqual([true]);
  });

  test("that is down opens a CircuitBreaker, which spares it further requests", async () => {
    let up = false;
    using server = tcpServer(
      (socket) => void (up ? socket.end(http(200, "[]")) : socket.terminate()),
    );
    const breaker = new CircuitBreaker({ failureThreshold: 3, resetAfter: 60_000 });
    const ask = () => breaker.call((signal) => fetch(server.url, { signal }));
    using clock = manualClock();

    for (let i = 0; i < 3; i++) {
      expect(await rejection(ask())).toMatchObject({ code: "ECONNRESET" });
    }
    for (let i = 0; i < 7; i++) expect(await rejection(ask())).toBeInstanceOf(CircuitOpenError);
    expect(server.requests).toBe(3);

    clock.now += 60_000;
    expect(await rejection(ask())).toMatchObject({ code: "ECONNRESET" });
    expect(breaker.state).toBe("open");

    clock.now += 60_000;
    up = true;
    const answers = await Promise.allSettled(Array.from({ length: 10 }, ask));
    expect(answers.filter(({ status }) => status === "fulfilled")).toHaveLength(1);
    expect(server.requests).toBe(5);
    expect(breaker.state).toBe("closed");
  });
});

describe("in every order", () => {
  const minutes = 120_000;

  test.each([1, 2, 3])(
    "CircuitBreaker: %d probes decide, those that are aborted give their place back",
    async (halfOpenCalls) => {
      await everyOrder(async (world) => {
        const breaker = new CircuitBreaker({ failureThreshold: 9, resetAfter: 100, halfOpenCalls });
        breaker.open(0);
        const { counted, probes, call } = observed(world, breaker);
        const controller = new AbortController();
        world.abort(controller);
        const { signal } = controller;
        const aborted = world.spawn("ann", () => call("ann", { signal, fails: true }));
        const others = ["bob", "cid"].map((name) =>
          world.spawn(name, () => call(name, { fails: true })),
        );
        await Promise.all([aborted, ...others]);

        const decisive = counted.slice(0, halfOpenCalls);
        const isDecided = decisive.length === halfOpenCalls || decisive.includes("failed");
        const decision = decisive.includes("failed") ? "open" : "closed";
        expect(breaker.state).toBe(isDecided ? decision : "half-open");
        expect(probes.size).toBeLessThanOrEqual(halfOpenCalls);
        expect(breaker.running).toBe(0);
      });
    },
    minutes,
  );

  test(
    "CircuitBreaker: two failures in a row open it, whatever is aborted between them",
    async () => {
      await everyOrder(async (world) => {
        const breaker = new CircuitBreaker({ failureThreshold: 2, resetAfter: 100 });
        const { counted, call } = observed(world, breaker);
        const controller = new AbortController();
        world.abort(controller);
        const { signal } = controller;
        const names = ["ann", "bob", "cid"];
        await Promise.all(
          names.map((name) => world.spawn(name, () => call(name, { signal, fails: true }))),
        );

        const isOpen = counted.join().includes("failed,failed");
        expect(breaker.state).toBe(isOpen ? "open" : "closed");
      });
    },
    minutes,
  );

  test(
    "CircuitBreaker: a call from before the last change changes nothing, each change is told once",
    async () => {
      await everyOrder(async (world) => {
        const breaker = new CircuitBreaker({ failureThreshold: 1, resetAfter: 100 });
        const { call } = observed(world, breaker);
        const told = ["closed"];
        breaker.addEventListener("statechange", () => told.push(breaker.state));
        const late = ["ann", "bob"].map((name) =>
          world.spawn(name, () => call(name, { fails: true })),
        );
        const probe = world.spawn("probe", async () => {
          breaker.open();
          await sleep(100);
          await call("probe", { fails: true });
        });
        const hand = world.spawn("hand", async () => breaker.close());
        await Promise.all([...late, probe, hand]);

        expect(told).toEqual(told.filter((state, i) => state !== told[i - 1]));
        expect(breaker.running).toBe(0);
      });
    },
    minutes,
  );

  test(
    "retry: nobody gets past an open breaker, and an abort is followed by nothing",
    async () => {
      await everyOrder(async (world) => {
        const breaker = new CircuitBreaker({ failureThreshold: 1, resetAfter: 100 });
        let isUp = false;
        const controller = new AbortController();
        const { signal } = controller;
        world.abort(controller, { reason: "gone" });
        const wrong: string[] = [];
        const client = (name: string, signal?: AbortSignal) => async () => {
          const request = async () => {
            if (signal?.aborted) wrong.push(`${name} goes on after its abort`);
            if (breaker.state === "open") wrong.push(`${name} gets through`);
            const wasUp = isUp;
            isUp = true;
            await world.step("request");
            if (!wasUp) throw new Error("down");
            return name;
          };
          const delay = (_: number, error: unknown) =>
            error instanceof CircuitOpenError ? (error.retryAfter ?? 10) : undefined;
          const retryIf = () => {
            if (signal?.aborted) wrong.push(`${name} asks after its abort`);
            return true;
          };
          const options = { attempts: 3, jitter: "none", retryIf, delay, signal } as const;
          return retry(() => breaker.call(request), options);
        };
        const [ann, bob] = await Promise.allSettled([
          world.spawn("ann", client("ann", signal)),
          world.spawn("bob", client("bob")),
        ]);

        expect(wrong).toEqual([]);
        for (const { reason } of [ann, bob].filter((it) => it.status === "rejected")) {
          if (reason !== signal.reason) expect(reason).toBeInstanceOf(RetryError);
        }
        expect(breaker.running).toBe(0);
      });
    },
    minutes,
  );
});

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** What a function throws. (`toThrow` compares the messages of errors, but not their classes.) */
function thrownBy(fn: () => unknown): unknown {
  try {
    fn();
  } catch (error) {
    return error;
  }
  throw new Error("nothing was thrown");
}

/** What a promise is rejected with. A promise that isn't fails the test. */
async function rejection(promise: Promise<unknown>): Promise<unknown> {
  const [result] = await Promise.allSettled([promise]);
  if (result.status === "fulfilled") throw new Error(`not rejected: ${String(result.value)}`);
  return result.reason;
}

/** Errors that can't be looked into, each with a description. */
function hostileErrors(): [description: string, error: unknown][] {
  const throwing = (error: Error, ...keys: string[]) =>
    Object.defineProperties(
      error,
      Object.fromEntries(keys.map((key) => [key, { get: () => fail(key) }])),
    );
  const group = throwing(new AggregateError([1]), "name", "errors", "message", "cause");
  const pair = throwing(new SuppressedError(1, 2), "error", "suppressed");
  const proxy = Proxy.revocable(new AggregateError([1]), {});
  const list = Proxy.revocable([1], {});
  proxy.revoke();
  list.revoke();
  return [
    ["a group whose getters throw", group],
    ["a pair whose getters throw", pair],
    ["a revoked proxy", proxy.proxy],
    ["a group whose list is a revoked proxy", { name: "AggregateError", errors: list.proxy }],
  ];
}

/** A value as the messages of errors show it. */
function quoted(value: unknown): string {
  return typeof value === "string" ? JSON.stringify(value) : String(value);
}

function fail(message: unknown): never {
  throw new Error(String(message));
}

/** A function that always fails, and the times at which it was called. */
function failing(clock: { elapsed: number }, error?: unknown) {
  const starts: number[] = [];
  const fn = ({ attempt }: { attempt: number }): never => {
    starts.push(clock.elapsed);
    throw error ?? new Error(`failure ${attempt}`);
  };
  return { starts, fn };
}

function differences(times: number[]): number[] {
  return times.slice(1).map((time, i) => time - times[i]!);
}

/** Replaces Math.random until it is disposed. */
function randomness(random: () => number): Disposable {
  const { random: original } = Math;
  Math.random = random;
  return { [Symbol.dispose]: () => void (Math.random = original) };
}

/** Random numbers that are the same in every run: mulberry32. */
function seeded(seed: number): () => number {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let bits = Math.imul(seed ^ (seed >>> 15), seed | 1);
    bits ^= bits + Math.imul(bits ^ (bits >>> 7), bits | 61);
    return ((bits ^ (bits >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** A clock that goes by hand, for use with sockets, for which virtualTime doesn't wait. */
function manualClock(): { now: number } & Disposable {
  const { now } = performance;
  const clock = { now: 0, [Symbol.dispose]: () => void (performance.now = now) };
  performance.now = () => clock.now;
  return clock;
}

/** A breaker that failures have just opened. */
async function opened(
  options: Partial<ConstructorParameters<typeof CircuitBreaker>[0]>,
): Promise<CircuitBreaker> {
  const { failureThreshold = 1, resetAfter = 100 } = options;
  const breaker = new CircuitBreaker({ failureThreshold, resetAfter, ...options });
  for (let i = 0; i < failureThreshold; i++) await rejection(breaker.call(() => fail("down")));
  return breaker;
}

/** A task whose every run stays open until the test settles it. */
function controllable() {
  const running: PromiseWithResolvers<unknown>[] = [];
  const task = () => {
    const run = Promise.withResolvers<unknown>();
    running.push(run);
    return run.promise;
  };
  return { running, task };
}

/** When {@link abortAs} aborts: in an attempt, at a time, or around the end of the nth wait. */
interface AbortPlan {
  inAttempt: number;
  inTurnAfter: number;
  at: number;
  beforeTimer: number;
  afterTimer: number;
}

/** Makes an attempt of `fn` or a timer abort. `virtualTime` puts `setTimeout` back. */
function abortAs<A extends { attempt: number }>(
  plan: Partial<AbortPlan>,
  controller: AbortController,
  fn: (context: A) => never,
): (context: A) => never {
  const abort = () => controller.abort("stop");
  if (plan.at !== undefined) setTimeout(abort, plan.at);
  const { setTimeout: set } = globalThis;
  let waits = 0;
  globalThis.setTimeout = ((callback: () => void, ms: number) => {
    const n = ++waits;
    return set(() => {
      if (n === plan.beforeTimer) abort();
      callback();
      if (n === plan.afterTimer) abort();
    }, ms);
  }) as typeof setTimeout;
  return (context) => {
    if (context.attempt === plan.inAttempt) abort();
    // The wait begins some microtasks after the attempt has failed.
    if (context.attempt === plan.inTurnAfter) setImmediate(abort);
    return fn(context);
  };
}

/** Calls through a breaker, and what is to be counted of them, in this order. */
function observed(world: World, breaker: CircuitBreaker) {
  const counted: ("succeeded" | "failed")[] = [];
  /** Those that were let through half-open, and were not aborted. */
  const probes = new Set<string>();
  const snapshot = () => [breaker.state, breaker.running, breaker.failures].join();
  let changes = 0;
  breaker.addEventListener("statechange", () => {
    if (breaker.state !== "half-open") changes++;
  });
  const call = async (name: string, options: { signal?: AbortSignal; fails?: boolean } = {}) => {
    const begin = { state: "", aborted: false, changes };
    const end = { changes, snapshot: "" };
    const task = async (signal: AbortSignal) => {
      Object.assign(begin, { state: breaker.state, aborted: signal.aborted, changes });
      if (begin.state === "half-open") probes.add(name);
      try {
        await world.step(name, { ...options, signal });
        counted.push("succeeded");
      } catch (error) {
        if (error === signal.reason) probes.delete(name);
        else counted.push("failed");
        throw error;
      } finally {
        Object.assign(end, { changes, snapshot: snapshot() });
      }
    };
    const outcome = await attempt(() => breaker.call(task, options));
    if (begin.state === "") {
      if (!options.signal?.aborted)
        expect((outcome as { error?: unknown }).error).toBeInstanceOf(CircuitOpenError);
      return;
    }
    expect(begin.state).not.toBe("open");
    expect(begin.aborted).toBe(false);
    // A call from before the last change must not change anything.
    if (begin.changes !== end.changes) expect(snapshot()).toBe(end.snapshot);
  };
  return { counted, probes, call };
}

/** A small part of the orders, or all with `bun run test:orders`. */
async function everyOrder(scenario: (world: World) => unknown): Promise<void> {
  const all = globalThis.process?.env["ORDERS"] === "all";
  const part = all ? { maxRuns: 200_000, maxMs: 60_000 } : { maxRuns: 300, maxMs: Infinity };
  const result = await interleavings(scenario, part);
  if (all) console.log(`orders: ${result.runs}`); // summed up by test:orders
}

/** What console.log shows of an object, apart from the platform's way to print its members. */
function printed(object: object): string {
  const inspect = (object as any)[Symbol.for("nodejs.util.inspect.custom")];
  return inspect.call(object, 2, {}, (members: object) => JSON.stringify(members));
}

/** The error that `a(1 b(-2))` describes: groups, RangeErrors and, below 0, TypeErrors. */
function grow(text: string): AggregateError {
  const tokens = text.match(/\w+\(|-?\d+|\)/g)![Symbol.iterator]();
  const group = (message: string): AggregateError => {
    const errors: Error[] = [];
    for (let token = tokens.next().value; token && token !== ")"; token = tokens.next().value) {
      if (token.endsWith("(")) errors.push(group(token.slice(0, -1)));
      else errors.push(token.startsWith("-") ? new TypeError(token) : new RangeError(token));
    }
    return new AggregateError(errors, message);
  };
  return group("").errors[0];
}

/** The text from which {@link grow} would make this error. */
function shape(error: unknown): string | undefined {
  if (!(error instanceof AggregateError)) return (error as Error | undefined)?.message;
  return `${error.message}(${error.errors.map(shape).join(" ")})`;
}

function mockService(...answers: Answer[]): Service {
  const service = {
    url: "http://mock",
    requests: 0,
    onRequest: () => {},
    request: async (_: string, { signal }: { signal: AbortSignal }) => {
      const answer = answers[service.requests++]!;
      service.onRequest();
      if (answer === "hang") {
        signal.throwIfAborted();
        await new Promise((_, reject) =>
          signal.addEventListener("abort", () => reject(signal.reason)),
        );
      }
      if (answer === "reset") throw Object.assign(new TypeError("reset"), { code: "ECONNRESET" });
      const { status, body, retryAfter } = answer as Exclude<Answer, string>;
      const headers = retryAfter ? { "retry-after": retryAfter } : {};
      return new Response(body, { status, headers });
    },
    [Symbol.dispose]: () => {},
  };
  return service;
}

function realService(...answers: Answer[]): Service {
  const service = tcpServer((socket, n) => {
    const answer = answers[n - 1]!;
    service.onRequest?.();
    if (answer === "reset") socket.terminate();
    else if (answer !== "hang") socket.end(http(answer.status, answer.body, answer.retryAfter));
  });
  return service;
}

/** A server below HTTP: `answer` does with each request's socket as it likes. */
function tcpServer(answer: (socket: Bun.Socket, request: number) => void): Service {
  const listener = Bun!.listen({
    hostname: "127.0.0.1",
    port: 0,
    socket: { data: (socket) => answer(socket, ++service.requests) },
  });
  const service: Service = {
    url: `http://127.0.0.1:${listener.port}`,
    requests: 0,
    [Symbol.dispose]: () => listener.stop(true),
  };
  return service;
}

function http(status: number, body: string, retryAfter?: string): string {
  const head = [`HTTP/1.1 ${status} ?`, `Content-Length: ${body.length}`, "Connection: close"];
  if (retryAfter) head.push(`Retry-After: ${retryAfter}`);
  return [...head, "", body].join("\r\n");
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
