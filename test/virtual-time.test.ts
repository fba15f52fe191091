/**
 * How to test code that waits: on a clock that jumps. Elapsed time is asserted exactly, nothing
 * sleeps, and what never ends is reported as a deadlock instead of a test that hangs.
 */
import { describe, expect, test } from "bun:test";

import { virtualTime } from "../concepts/virtual-time.ts";

describe("virtualTime", () => {
  test("returns what the body returns, plain or promised", async () => {
    expect(await virtualTime(() => "plain")).toBe("plain");
    expect(await virtualTime(async () => "promised")).toBe("promised");
  });

  test("rejects with what the body throws, at once or later", async () => {
    const error = new Error("thrown");
    const atOnce = () => {
      throw error;
    };
    const later = async () => {
      await sleep(100);
      throw error;
    };

    await expect(virtualTime(atOnce)).rejects.toBe(error);
    await expect(virtualTime(later)).rejects.toBe(error);
  });

  test("makes an hour pass at once, and says that exactly an hour has passed", async () => {
    await virtualTime(async (clock) => {
      await sleep(3_600_000);

      expect(clock.elapsed).toBe(3_600_000);
    });
  });

  test("two sleeps overlap when they run together, and add up when they don't", async () => {
    await virtualTime(async (clock) => {
      await Promise.all([sleep(100), sleep(100)]);
      expect(clock.elapsed).toBe(100);

      await sleep(100);
      await sleep(100);
      expect(clock.elapsed).toBe(300);
    });
  });

  test("fires timers when they are due, and those due together as they were set", async () => {
    await virtualTime(async () => {
      const fired: string[] = [];
      for (const [name, ms] of [
        ["d", 300],
        ["b", 200],
        ["a", 100],
        ["c", 200],
      ] as const) {
        setTimeout(() => fired.push(name), ms);
      }

      await sleep(300);

      expect(fired.join("")).toBe("abcd");
    });
  });

  test("keeps the order of a crowd of which some are cleared", async () => {
    await virtualTime(async (clock) => {
      // Multiplying by a prime modulo another visits every number once, in no apparent order.
      const delays = Array.from({ length: 1009 }, (_, n) => (n * 619) % 1009);
      const fired: number[] = [];
      const timers = delays.map((ms) => setTimeout(() => fired.push(ms), ms));

      delays.forEach((ms, n) => ms % 3 === 0 && clearTimeout(timers[n]));
      expect(clock.pending).toBe(delays.filter((ms) => ms % 3 !== 0).length);
      await sleep(1009);

      expect(fired).toEqual(delays.filter((ms) => ms % 3 !== 0).sort((a, b) => a - b));
    });
  });

  test("keeps the order when the last timer takes the place of one that is cleared", async () => {
    await virtualTime(async () => {
      const fired: number[] = [];
      const timers = [0, 100, 1, 101, 102, 2, 3].map((ms) => setTimeout(() => fired.push(ms), ms));

      clearTimeout(timers[3]);
      await sleep(102);

      expect(fired).toEqual([0, 1, 2, 3, 100, 102]);
    });
  });

  test("goes on while the body blocks, as it does in expect().rejects of bun:test", () =>
    virtualTime(async (clock) => {
      const failing = sleep(100).then(() => Promise.reject("failed"));

      await expect(failing).rejects.toBe("failed");

      expect(clock.elapsed).toBe(100);
    }));

  test("lets all promises run to their end before the next timer fires", async () => {
    await virtualTime(async () => {
      const log: string[] = [];
      setTimeout(async () => {
        log.push("first timer");
        for (let step = 0; step < 1000; step++) await null;
        log.push("its promises");
      }, 100);
      setTimeout(() => log.push("second timer"), 100);

      await sleep(100);

      expect(log).toEqual(["first timer", "its promises", "second timer"]);
    });
  });

  test("hands the arguments on to the callbacks", async () => {
    await virtualTime(async () => {
      const received: unknown[] = [];
      const receive = (...args: unknown[]) => received.push(args);
      setTimeout(receive, 10, "timeout", 1);
      setImmediate(receive, "immediate", 2);
      const interval = setInterval(receive, 30, "interval", 3);

      await sleep(30);
      clearInterval(interval);

      expect(received).toEqual([
        ["immediate", 2],
        ["timeout", 1],
        ["interval", 3],
      ]);
    });
  });

  test("repeats intervals until they are cleared, also from inside", async () => {
    await virtualTime(async (clock) => {
      const times: number[] = [];
      const interval = setInterval(() => {
        times.push(clock.elapsed);
        if (times.length === 3) clearInterval(interval);
      }, 100);

      await sleep(1000);

      expect(times).toEqual([100, 200, 300]);
      expect(clock.pending).toBe(0);
    });
  });

  test("an interval of 0 ms takes 1, so that time goes on", async () => {
    await virtualTime(async () => {
      let ticks = 0;
      const interval = setInterval(() => ticks++, 0);

      await sleep(5.5);
      clearInterval(interval);

      expect(ticks).toBe(5);
    });
  });

  test.each([
    { ms: 0.25, elapsed: 0.25 },
    { ms: 2 ** 31 - 1, elapsed: 2 ** 31 - 1 },
    { ms: 2 ** 31, elapsed: 0 },
    { ms: Infinity, elapsed: 0 },
    { ms: NaN, elapsed: 0 },
    { ms: -1, elapsed: 0 },
    { ms: undefined, elapsed: 0 },
    { ms: "20", elapsed: 20 },
  ])("a timeout of $ms fires after $elapsed ms", async ({ ms, elapsed }) => {
    await virtualTime(async (clock) => {
      await new Promise((resolve) => setTimeout(resolve, ms as number));

      expect(clock.elapsed).toBe(elapsed);
    });
  });

  test("immediates fire in the order in which they were set, and can be cleared", async () => {
    await virtualTime(async (clock) => {
      const fired: string[] = [];
      setImmediate(() => fired.push("a"));
      clearImmediate(setImmediate(() => fired.push("cleared")));
      setImmediate(() => fired.push("b"));

      await sleep(0);

      expect(fired).toEqual(["a", "b"]);
      expect(clock.elapsed).toBe(0);
    });
  });

  test("clearing what has fired, was cleared or never was does nothing", async () => {
    await virtualTime(async (clock) => {
      const done: string[] = [];
      const timer = setTimeout(() => done.push("timer"), 10);
      await sleep(10);
      setTimeout(() => done.push("second"), 20);
      const cleared = setTimeout(() => done.push("cleared"), 5);
      setTimeout(() => done.push("third"), 30);

      clearTimeout(timer);
      clearTimeout(undefined);
      clearTimeout(cleared);
      clearTimeout(cleared);

      expect(clock.pending).toBe(2);
      await sleep(30);
      expect(done).toEqual(["timer", "second", "third"]);
    });
  });

  test.each(["clearTimeout", "clearInterval", "clearImmediate"] as const)(
    "%s reaches the timers that were set before it began",
    async (name) => {
      const globals = globalThis as unknown as Record<string, (timer: unknown) => void>;
      const platform = globals[name]!;
      const cleared: unknown[] = [];
      globals[name] = (timer) => cleared.push(timer);
      try {
        await virtualTime(() => globals[name]!("outside"));
      } finally {
        globals[name] = platform;
      }

      expect(cleared).toEqual(["outside"]);
    },
  );

  test("its timers have what Node's have", async () => {
    await virtualTime(async (clock) => {
      const times: number[] = [];
      const timer = setTimeout(() => times.push(clock.elapsed), 100);
      expect(timer.unref().ref().hasRef()).toBe(true);

      await sleep(60);
      expect(timer.refresh()).toBe(timer);
      await sleep(60);
      expect(times).toEqual([]);
      await sleep(40);
      expect(times).toEqual([160]);

      {
        using _timer = setTimeout(() => times.push(clock.elapsed), 100);
      }
      expect(clock.pending).toBe(0);
    });
  });

  test("refuses a callback that is no function", async () => {
    await virtualTime(() => {
      const code = "alert()" as unknown as () => void;
      expect(thrownBy(() => setTimeout(code, 1))).toEqual(
        new TypeError('Cannot call setTimeout: callback must be a function, received "alert()"'),
      );
      expect(() => setInterval(code, 1)).toThrow(TypeError);
      expect(() => setImmediate(code)).toThrow(TypeError);
    });
  });

  test("Date, performance.now and the clock agree", async () => {
    await virtualTime(
      async (clock) => {
        const start = performance.now();
        expect([Date.now(), clock.elapsed]).toEqual([1000, 0]);

        await sleep(1500.5);

        expect([Date.now(), performance.now() - start, clock.elapsed]).toEqual([
          2500, 1500.5, 1500.5,
        ]);
        expect(new Date().getTime()).toBe(2500);
        expect(Date()).toBe(new Date(2500).toString());
      },
      { now: 1000 },
    );
  });

  test("starts in the year 2000, or whenever it is told", async () => {
    const date = () => new Date().toISOString();

    expect(await virtualTime(date)).toBe("2000-01-01T00:00:00.000Z");
    expect(await virtualTime(date, { now: 0 })).toBe("1970-01-01T00:00:00.000Z");
    const now = new Date("2028-02-29T12:00:00Z");
    expect(await virtualTime(date, { now })).toBe("2028-02-29T12:00:00.000Z");
  });

  test("Date is otherwise as it was", async () => {
    const outside = new Date(0);
    await virtualTime(() => {
      expect(new Date("2024-05-06").getTime()).toBe(Date.UTC(2024, 4, 6));
      expect(Date.parse("1970-01-01")).toBe(0);
      expect(new Date()).toBeInstanceOf(Date);
      expect(outside).toBeInstanceOf(Date);
    });
  });

  test("AbortSignal.timeout aborts with a TimeoutError when its time has come", async () => {
    await virtualTime(async (clock) => {
      const signal = AbortSignal.timeout(5000);

      await sleep(4999);
      expect(signal.aborted).toBe(false);
      await new Promise((resolve) => signal.addEventListener("abort", resolve));

      expect(clock.elapsed).toBe(5000);
      expect(signal.reason).toBeInstanceOf(DOMException);
      expect(signal.reason.name).toBe("TimeoutError");
    });
  });

  test("a body that nothing can wake is a deadlock, reported at once", async () => {
    const never = new Promise(() => {});

    await expect(virtualTime(() => never)).rejects.toThrow(
      "Deadlock at 0 ms of virtual time: the body waits, and no timer is left to wake it",
    );
    const later = virtualTime(async () => {
      await sleep(70);
      await never;
    });
    await expect(later).rejects.toThrow("Deadlock at 70 ms");
    await expect(later).rejects.toHaveProperty("name", "DeadlockError");
  });

  test("a timer's callback that throws ends the run with its error", async () => {
    const error = new Error("in the callback");
    const run = virtualTime(async () => {
      setTimeout(() => {
        throw error;
      }, 100);
      await sleep(1000);
    });

    await expect(run).rejects.toBe(error);
  });

  test("gives up when timers fire without end and the body waits on", async () => {
    const endless = async () => {
      setInterval(() => {}, 10);
      await new Promise(() => {});
    };

    await expect(virtualTime(endless, { maxTimers: 100 })).rejects.toThrow(
      "Gave up at 1000 ms of virtual time: 100 timers have fired, and the body still waits",
    );
    await virtualTime(() => sleep(1), { maxTimers: 1 });
  });

  test("needs no setImmediate, which browsers don't have", async () => {
    const { setImmediate } = globalThis;
    Reflect.deleteProperty(globalThis, "setImmediate");
    try {
      await virtualTime(async (clock) => {
        expect(globalThis).not.toHaveProperty("setImmediate");
        await Promise.all([sleep(100), sleep(200)]);
        expect(clock.elapsed).toBe(200);
      });
    } finally {
      globalThis.setImmediate = setImmediate;
    }
  });

  test("a signal that is aborted before keeps the body from running", async () => {
    let called = false;
    const run = virtualTime(() => (called = true), { signal: AbortSignal.abort("stop") });

    await expect(run).rejects.toBe("stop");
    expect(called).toBe(false);
  });

  test("a signal ends the run whatever the body is doing", async () => {
    const controller = new AbortController();
    const run = virtualTime(
      async () => {
        setInterval(() => {}, 10);
        setTimeout(() => controller.abort("stop"), 100);
        await new Promise(() => {});
      },
      { signal: controller.signal },
    );

    await expect(run).rejects.toBe("stop");
    expect(await virtualTime(() => "free again")).toBe("free again");
  });

  test("drops the timers that the body has left behind", async () => {
    let fired = false;
    await virtualTime(() => void setTimeout(() => (fired = true), 0));

    await virtualTime(() => sleep(10));

    expect(fired).toBe(false);
  });

  test("can be neither nested nor run concurrently, and says so", async () => {
    const message = "Cannot start virtual time: it runs already (it can't be nested or concurrent)";
    await expect(virtualTime(() => virtualTime(() => {}))).rejects.toThrow(message);

    const first = virtualTime(() => sleep(10));
    await expect(virtualTime(() => {})).rejects.toThrow(message);
    await first;

    expect(await virtualTime(() => "free again")).toBe("free again");
  });

  test.each([
    ["success", () => {}],
    ["failure", () => Promise.reject("failed")],
    ["a deadlock", () => new Promise(() => {})],
  ] as const)("puts all globals back after %s", async (_outcome, body) => {
    const before = replacedGlobals();
    let inside: unknown[] = [];

    await Promise.allSettled([
      virtualTime(() => {
        inside = replacedGlobals();
        return body();
      }),
    ]);

    expect(replacedGlobals()).toEqual(before);
    for (const [n, property] of inside.entries()) expect(property).not.toEqual(before[n]);
  });

  test("refuses what it cannot do", async () => {
    const text = "tomorrow" as unknown as number;
    await expect(virtualTime(5 as unknown as () => void)).rejects.toEqual(
      new TypeError("Cannot start virtual time: body must be a function, received 5"),
    );
    await expect(virtualTime(() => {}, { now: text })).rejects.toEqual(
      new TypeError('Cannot start virtual time: now must be a valid time, received "tomorrow"'),
    );
    await expect(virtualTime(() => {}, { now: NaN })).rejects.toThrow(RangeError);
    await expect(virtualTime(() => {}, { now: new Date(NaN) })).rejects.toThrow(RangeError);
    await expect(virtualTime(() => {}, { maxTimers: 0 })).rejects.toEqual(
      new RangeError("Cannot start virtual time: maxTimers must be a positive integer, received 0"),
    );
  });
});

/** What a function throws. (`toThrow` compares the messages of errors, but not their classes.) */
function thrownBy(fn: () => unknown): unknown {
  try {
    fn();
  } catch (error) {
    return error;
  }
  throw new Error("nothing was thrown");
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** Every property that virtual time replaces, as it is defined now. */
function replacedGlobals(): unknown[] {
  return (
    [
      [globalThis, "setTimeout"],
      [globalThis, "setInterval"],
      [globalThis, "setImmediate"],
      [globalThis, "clearTimeout"],
      [globalThis, "clearInterval"],
      [globalThis, "clearImmediate"],
      [globalThis, "Date"],
      [performance, "now"],
      [AbortSignal, "timeout"],
    ] as const
  ).map(([target, key]) => Object.getOwnPropertyDescriptor(target, key));
}
