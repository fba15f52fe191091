/**
 * How to test code that waits: on a clock that jumps. Elapsed time is asserted exactly, nothing
 * sleeps, and what never ends is reported as a deadlock instead of a test that hangs.
 */
import { describe, expect, expectTypeOf, test, vi } from "bun:test";

import {
  DeadlockError,
  type VirtualClock,
  virtualTime,
  type VirtualTimeOptions,
} from "../concepts/virtual-time.ts";

const { Bun } = globalThis as { Bun?: any };

describe("Start here", () => {
  test("an hour passes at once, and exactly", async () => {
    await virtualTime(async (clock) => {
      await sleep(3_600_000);

      expect(clock.elapsed).toBe(3_600_000);
    });
  });

  test("waits that run together take as long as the longest", async () => {
    await virtualTime(async (clock) => {
      await Promise.all([sleep(100), sleep(250)]);

      expect(clock.elapsed).toBe(250);
    });
  });

  test("a wait that is cut short leaves no timer behind", async () => {
    await virtualTime(async (clock) => {
      clearTimeout(setTimeout(() => {}, 100));

      expect(clock.pending).toBe(0);
    });
  });

  test("what never ends is a deadlock, not a test that hangs", async () => {
    const run = virtualTime(() => new Promise(() => {}));

    await expect(run).rejects.toThrow(DeadlockError);
  });

  test("trap: a run that isn't awaited is still under way when the next begins", async () => {
    const forgotten = virtualTime(() => sleep(10));

    await expect(virtualTime(() => {})).rejects.toThrow("was it awaited?");
    await forgotten;
  });

  test("trap: Date starts in the year 2000, unless it is told otherwise", async () => {
    const year = () => new Date().getUTCFullYear();

    expect(await virtualTime(year)).toBe(2000);
    expect(await virtualTime(year, { now: Date.UTC(2030) })).toBe(2030);
  });

  test("trap: performance.now() doesn't start at 0; take differences, or clock.elapsed", async () => {
    await virtualTime(async (clock) => {
      const start = performance.now();
      await sleep(100);

      expect(start).toBeGreaterThan(0);
      expect(performance.now() - start).toBe(100);
      expect(clock.elapsed).toBe(100);
    });
  });

  test("trap: what happens outside takes real time, of which it is given a little", async () => {
    const digest = await virtualTime(() => crypto.subtle.digest("SHA-256", new Uint8Array(3)));

    expect(digest.byteLength).toBe(32);
  });
});

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

  test("keeps the order of the few that are left of a crowd", async () => {
    await virtualTime(async (clock) => {
      const fired: number[] = [];
      const timers = Array.from({ length: 1000 }, (_, n) =>
        setTimeout(() => fired.push(n), 1000 - n),
      );
      timers.forEach((timer, n) => n % 20 > 0 && clearTimeout(timer));
      expect(clock.pending).toBe(50);
      await sleep(1000);

      expect(fired).toEqual(Array.from({ length: 50 }, (_, n) => 980 - 20 * n));
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

  test("ten thousand jumps take no real time", async () => {
    await virtualTime(async (clock) => {
      for (let second = 0; second < 10_000; second++) await sleep(1000);

      expect(clock.elapsed).toBe(10_000_000);
    });
  });

  test("a crowd that is cleared is gone at once", async () => {
    await virtualTime(async (clock) => {
      const crowd = Array.from({ length: 30_000 }, (_, n) => setTimeout(() => {}, n));
      for (const timer of crowd) clearTimeout(timer);
      await sleep(100);

      expect(clock.elapsed).toBe(100);
    });
  });

  test.skipIf(!Bun)(
    "what was cleared or has fired is free for collection (needs Bun)",
    async () => {
      await virtualTime(async () => {
        const set = (ms: number) => {
          const callback = () => {};
          const timer = setTimeout(callback, ms);
          return { timer: +(timer as unknown as number), callback: new WeakRef(callback) };
        };
        const cleared = Array.from({ length: 1000 }, () => set(1e6));
        for (const { timer } of cleared) clearTimeout(timer);
        const fired = Array.from({ length: 1000 }, () => set(1));
        await sleep(1);
        Bun.gc(true);
        // A collection may begin a turn later, and a few may be found on the stack.
        await sleep(1);
        Bun.gc(true);

        const left = (timers: typeof fired) => timers.filter((it) => it.callback.deref()).length;
        expect(left(cleared)).toBeLessThan(200);
        expect(left(fired)).toBeLessThan(200);
      });
    },
  );

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

      expect(cleared).toContain("outside");
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
      expect(signal.reason.message).toBe("The operation timed out.");
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

  test("needs nothing that browsers don't have", async () => {
    const names = ["setImmediate", "clearImmediate", "process", "Temporal"];

    await without(names, () =>
      virtualTime(async (clock) => {
        expect(globalThis).not.toHaveProperty("setImmediate");
        await Promise.all([sleep(100), sleep(200)]);
        expect(clock.elapsed).toBe(200);
      }),
    );
  });

  test("calls the platform's timers as browsers want it, and not as methods", async () => {
    const { setTimeout: set, clearTimeout: clear } = globalThis;
    const strict = (fn: Function) =>
      function (this: unknown, ...args: unknown[]): unknown {
        if (this && this !== globalThis) throw new TypeError("Illegal invocation");
        return fn(...args);
      };
    Object.assign(globalThis, { setTimeout: strict(set), clearTimeout: strict(clear) });
    try {
      const outside = setTimeout(() => {}, 1);
      const run = virtualTime(async () => {
        clearTimeout(setTimeout(() => {}, 1));
        clearTimeout(outside);
        await new Promise(() => {});
      });

      await expect(run).rejects.toThrow("eadlock");
    } finally {
      Object.assign(globalThis, { setTimeout: set, clearTimeout: clear });
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
    const message =
      "Cannot start virtual time: a virtual clock runs already (it can't be nested or concurrent)";
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

  test("infers what the body returns", async () => {
    const mixed = await virtualTime(() => 5 as number | Promise<string>);
    expectTypeOf(mixed).toEqualTypeOf<number | string>();
    expect(mixed).toBe(5);
    expectTypeOf(await virtualTime<number>(async () => 5)).toEqualTypeOf<number>();
  });
});

describe("the house is left as it was found", () => {
  test("a timer of an earlier run, cleared or refreshed, never touches the next run's clock", async () => {
    const kept = await virtualTime(() => [
      setTimeout(() => {}, 10_000),
      setTimeout(() => {}, 20_000),
    ]);

    await virtualTime(async (clock) => {
      setTimeout(() => {}, 1);
      setTimeout(() => {}, 2);
      clearTimeout(kept[0]);
      (kept[1] as unknown as { refresh?(): void }).refresh?.();
      expect(clock.pending).toBe(2);
      clearTimeout(kept[1]);
      expect(clock.pending).toBe(2);
    });
    (kept[1] as unknown as { close?(): void }).close?.();
  });

  test("a setTimeout kept from an earlier run is the platform's, in the next run as well", async () => {
    const kept = await virtualTime(() => ({
      setTimeout,
      setImmediate,
      setInterval,
      clearInterval,
    }));

    await virtualTime(async (clock) => {
      await new Promise<void>((resolve) => kept.setTimeout(resolve, 1));
      await new Promise<void>((resolve) => kept.setImmediate(resolve));
      await new Promise<void>((resolve) => {
        const interval = kept.setInterval(() => {
          kept.clearInterval(interval);
          resolve();
        }, 1);
      });
      expect(clock.elapsed).toBe(0);
      expect(clock.pending).toBe(0);
    });
  });

  test("a kept Date, performance.now and AbortSignal.timeout are the platform's", async () => {
    const { KeptDate, Sub, now, timeout } = await virtualTime(() => ({
      KeptDate: Date,
      Sub: class extends Date {},
      now: performance.now,
      timeout: AbortSignal.timeout,
    }));
    const year = new Date().getFullYear();

    expect(new Date(KeptDate.now()).getFullYear()).toBe(year);
    expect(new KeptDate().getFullYear()).toBe(year);
    expect(new Sub().getFullYear()).toBe(year);
    expect(KeptDate()).toContain(String(year));
    const before = performance.now();
    const between = now();
    const after = performance.now();
    expect([before, between, after]).toEqual([before, between, after].sort((a, b) => a - b));
    const signal = timeout(1);
    await new Promise((resolve) => signal.addEventListener("abort", resolve));
    expect(signal.reason.name).toBe("TimeoutError");
  });

  test("a timer that is refreshed after its run fires as the platform's", async () => {
    let fire = (_: string) => {};
    const timer = await virtualTime(() => setTimeout((what: string) => fire(what), 1, "fired"));
    if (typeof timer === "number") return;

    const fired = await new Promise((resolve) => {
      fire = resolve;
      timer.unref();
      timer.refresh();
      timer.ref();
    });

    expect(fired).toBe("fired");
    const again = new Promise((resolve) => (fire = resolve));
    timer.refresh();
    expect(await again).toBe("fired");
    timer.close();
  });

  test("a timer that is closed after it was refreshed doesn't fire", async () => {
    let fired = 0;
    const timer = await virtualTime(() => setTimeout(() => fired++, 1));
    if (typeof timer === "number") return;

    timer.refresh();
    timer.close();
    timer.refresh();
    await new Promise((resolve) => setTimeout(resolve, 5));

    expect(fired).toBe(0);
  });

  test.each(["setTimeout", "clearImmediate", "Date"])(
    "a frozen %s refuses the run, and nothing stays replaced",
    async (name) => {
      const own = Object.getOwnPropertyDescriptor(globalThis, name)!;
      const defineProperty = Reflect.defineProperty;
      const before = replacedGlobals();
      // As a frozen property does, which could not be thawed for the tests to come.
      Reflect.defineProperty = (target, key, property) =>
        target === globalThis && key === name && property.value !== own.value
          ? false
          : defineProperty(target, key, property);
      try {
        await expect(virtualTime(() => {})).rejects.toThrow(`${name} can't be replaced`);
      } finally {
        Reflect.defineProperty = defineProperty;
      }

      expect(replacedGlobals()).toEqual(before);
      expect(await virtualTime(() => "free again")).toBe("free again");
    },
  );

  test("a frozen object refuses the run as well", async () => {
    const { performance } = globalThis;
    const own = Object.getOwnPropertyDescriptor(globalThis, "performance")!;
    const frozen = Object.freeze({ now: () => performance.now(), timeOrigin: 0 });
    Object.defineProperty(globalThis, "performance", { configurable: true, value: frozen });
    const before = Object.getOwnPropertyDescriptor(globalThis, "Date");
    try {
      await expect(virtualTime(() => {})).rejects.toThrow("now can't be replaced");
      expect(Object.getOwnPropertyDescriptor(globalThis, "Date")).toEqual(before);
    } finally {
      Object.defineProperty(globalThis, "performance", own);
    }
  });

  test("a signal that can't be listened to refuses the run, and nothing stays replaced", async () => {
    const before = replacedGlobals();
    const signal = { aborted: false, throwIfAborted() {} } as unknown as AbortSignal;

    await expect(virtualTime(() => {}, { signal })).rejects.toThrow(TypeError);

    expect(replacedGlobals()).toEqual(before);
    expect(await virtualTime(() => "free again")).toBe("free again");
  });

  test("Date.now patched inside and put back leaves the real one outside", async () => {
    const real = Date.now;
    await virtualTime(() => {
      const inside = Date.now;
      Date.now = () => 5;
      expect(Date.now()).toBe(5);
      Date.now = inside;
    });
    expect(Date.now).toBe(real);

    await virtualTime(() => void (Date.now = () => 5));
    expect(Date.now).toBe(real);
  });

  test("globals that the body has deleted or replaced come back", async () => {
    const before = replacedGlobals();
    await virtualTime(() => {
      Reflect.deleteProperty(globalThis, "setTimeout");
      globalThis.setInterval = (() => 5) as unknown as typeof setInterval;
    });

    expect(replacedGlobals()).toEqual(before);
  });

  test("clears the timer by which it sees what the platform's timers are", async () => {
    const { setTimeout: set, clearTimeout: clear } = globalThis;
    const timers = new Set<unknown>();
    globalThis.setTimeout = ((...args: Parameters<typeof setTimeout>) => {
      const timer = set(...args);
      timers.add(timer);
      return timer;
    }) as typeof setTimeout;
    globalThis.clearTimeout = ((timer?: number) => {
      timers.delete(timer);
      clear(timer);
    }) as typeof clearTimeout;
    try {
      await virtualTime(() => sleep(100));
    } finally {
      Object.assign(globalThis, { setTimeout: set, clearTimeout: clear });
    }

    expect(timers.size).toBe(0);
  });

  test("leaves no property behind", async () => {
    const before = Reflect.ownKeys(globalThis);
    await virtualTime(() => {});

    expect(Reflect.ownKeys(globalThis)).toEqual(before);
  });

  test("what it replaces is as enumerable as it was, and its own mark is hidden", async () => {
    const enumerable = () => [
      Object.keys(globalThis),
      Object.keys(performance),
      Object.keys(Date),
      Object.keys(AbortSignal),
      (replacedGlobals() as (PropertyDescriptor | undefined)[]).map(
        (it) => it?.enumerable ?? false,
      ),
    ];

    expect(await virtualTime(enumerable)).toEqual(enumerable());
    const mark = await virtualTime(() => Object.getOwnPropertyDescriptor(globalThis, RUNNING));
    expect(mark?.enumerable).toBe(false);
  });

  test("a refreshed timer is still unref'd when it has become the platform's", async () => {
    const { setTimeout: platformTimeout } = globalThis;
    const set: ReturnType<typeof setTimeout>[] = [];
    globalThis.setTimeout = ((...args: Parameters<typeof setTimeout>) => {
      set.push(platformTimeout(...args));
      return set.at(-1);
    }) as unknown as typeof setTimeout;
    try {
      const timers = await virtualTime(() => [1, 2].map((ms) => setTimeout(() => {}, ms * 10_000)));
      if (timers.some((timer) => typeof timer === "number")) return;
      timers[0]!.unref();
      timers[0]!.refresh();
      timers[1]!.refresh();

      expect(set.slice(-2).map((timer) => timer.hasRef())).toEqual([false, true]);
      for (const timer of timers) timer.close();
    } finally {
      globalThis.setTimeout = platformTimeout;
    }
  });

  test("a timer of an earlier run that was refreshed can be cleared in the next", async () => {
    let fired = 0;
    const timer = await virtualTime(() => setTimeout(() => fired++, 20));
    if (typeof timer === "number") return;
    timer.refresh();

    await virtualTime(() => clearTimeout(timer));
    await new Promise((resolve) => setTimeout(resolve, 20));

    expect(fired).toBe(0);
  });

  test.each(["setTimeout", "setImmediate", "performance"] as const)(
    "refuses to run under fake timers that have replaced %s",
    async (name) => {
      const faked = globalThis[name];
      if (!faked) return;
      Object.assign(faked, { clock: {} });
      try {
        await expect(virtualTime(() => {})).rejects.toThrow("fake timers are active");
      } finally {
        Reflect.deleteProperty(faked, "clock");
      }
    },
  );

  test("refuses to run under the old fake timers of Jest", async () => {
    const faked = globalThis.setImmediate;
    if (!faked) return;
    Object.assign(faked, { _isMockFunction: true });
    try {
      await expect(virtualTime(() => {})).rejects.toThrow("fake timers are active");
    } finally {
      Reflect.deleteProperty(faked, "_isMockFunction");
    }
  });

  test("refuses to run under active fake timers", async () => {
    vi.useFakeTimers();
    const { setTimeout } = globalThis;
    try {
      const error = await virtualTime(() => {}).catch((error) => error);

      expect(error.message).toContain("fake timers are active");
      expect(globalThis.setTimeout).toBe(setTimeout);
    } finally {
      vi.useRealTimers();
    }
    expect(await virtualTime(() => "free again")).toBe("free again");
  });

  test("says where the other run began, and asks whether it was awaited", async () => {
    const first = virtualTime(() => sleep(10));

    const error = await virtualTime(() => {}).catch((error) => error);

    expect(error.message).toMatch(/began at .*virtual-time\.test\.ts.*was it awaited\?/);
    await first;
  });

  test.each([
    [
      "V8",
      "Error\n    at virtualTime (v.ts:5:7)\n    at my test (/a/my test.ts:12:34)",
      "my test (/a/my test.ts:12:34)",
    ],
    ["anonymous", "Error\n    at v.ts:5:7\n    at t.ts:12:34\n    at u.ts:1:1", "t.ts:12:34"],
    ["Firefox", "virtualTime@v.ts:5:7\nat home@t.ts:12:34\n", "home@t.ts:12:34"],
    ["Safari", "virtualTime@v.ts:5:7\nlook at it@t.ts:12:34\n", "look at it@t.ts:12:34"],
    ["its own line alone", "Error\n    at v.ts:5:7", undefined],
    ["no lines", "Error", undefined],
    ["no stack", undefined, undefined],
  ])("a run that another copy has begun is named: %s", async (_, stack, place) => {
    // The mark by which copies of the file find each other.
    (globalThis as { [RUNNING]?: unknown })[RUNNING] = { stack };
    try {
      await expect(virtualTime(() => {})).rejects.toThrow(
        "Cannot start virtual time: a virtual clock runs already (it can't be nested or concurrent). " +
          `The other run began ${place ? `at ${place}` : "elsewhere"}: was it awaited?`,
      );
    } finally {
      Reflect.deleteProperty(globalThis, RUNNING);
    }
  });

  test.skipIf(!Bun)("two copies of the file find each other (needs Bun)", async () => {
    const file = `/tmp/virtual-time-${crypto.randomUUID()}.ts`;
    await Bun.write(file, Bun.file(new URL("../concepts/virtual-time.ts", import.meta.url)));
    const copy = (await import(file)) as { virtualTime: typeof virtualTime };
    await Bun.file(file).delete();
    expect(copy.virtualTime).not.toBe(virtualTime);

    await expect(virtualTime(() => copy.virtualTime(() => {}))).rejects.toThrow("runs already");
    await expect(copy.virtualTime(() => virtualTime(() => {}))).rejects.toThrow("runs already");
  });
});

describe("limits", () => {
  test("realTimeLimit ends a run in whose body timers never stop", async () => {
    const endless = async () => {
      for (;;) await sleep(100);
    };

    const run = virtualTime(endless, { realTimeLimit: 20, maxTimers: 1e9 });

    await expect(run).rejects.toThrow(/^Gave up .*: 20 ms of real time have passed, and the body/);
    expect(await virtualTime(() => "free again")).toBe("free again");
  });

  test("realTimeLimit ends a run that waits for something outside, or for idle", async () => {
    const outside = virtualTime(() => new Promise(() => {}), { realTimeLimit: 10 });
    await expect(outside).rejects.toThrow("10 ms of real time have passed");

    const idle = virtualTime(() => sleep(1), { realTimeLimit: 10, idle: 1e6 });
    await expect(idle).rejects.toThrow("10 ms of real time have passed");
  });

  test("idle lets what happens outside come before a timer", async () => {
    const { setTimeout: realTimeout } = globalThis;
    const first = (idle: number) =>
      virtualTime(
        () =>
          Promise.race([
            sleep(60_000).then(() => "timer"),
            new Promise((resolve) => realTimeout(resolve, 5, "outside")),
          ]),
        { idle },
      );

    expect(await first(0)).toBe("timer");
    expect(await first(1000)).toBe("outside");
  });

  test("idle passes before each jump, and only before a jump", async () => {
    await virtualTime(
      async (clock) => {
        await Promise.all([sleep(100), sleep(100), sleep(0)]);
        await sleep(50);
        expect(clock.elapsed).toBe(150);
      },
      { idle: 1 },
    );
  });

  test("idle keeps nothing waiting that is due now", async () => {
    const opts = { idle: 1e6, realTimeLimit: 5 };

    expect(await virtualTime(() => sleep(0).then(() => "done"), opts)).toBe("done");
    await expect(virtualTime(() => sleep(1), opts)).rejects.toThrow("5 ms of real time");
  });

  test("whatever is set meanwhile gives what happens outside its time anew", async () => {
    const { setTimeout: realTimeout } = globalThis;
    await virtualTime(async (clock) => {
      for (let round = 0; round < 2; round++) {
        // Together more turns than are waited for before a deadlock.
        for (let turn = 0; turn < 35; turn++) await new Promise((r) => realTimeout(r, 1));
        await sleep(100);
      }
      expect(clock.elapsed).toBe(200);
    });
  });

  test("a deadlock names what the clock can't see", async () => {
    const run = virtualTime(() => new Promise(() => {}));

    await expect(run).rejects.toThrow(/socket.*file.*worker.*crypto.*timers\/promises.*idle/);
  });

  test("what happens outside may set timers later", async () => {
    const { setTimeout: realTimeout } = globalThis;
    await virtualTime(async (clock) => {
      for (let round = 0; round < 3; round++) {
        await new Promise((resolve) => realTimeout(resolve, 3));
        await sleep(100);
      }
      expect(clock.elapsed).toBe(300);
    });
  });
});

describe("clock.signal", () => {
  const hangs = (signal: AbortSignal) =>
    new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));

  const endings: [string, VirtualTimeOptions, RegExp][] = [
    ["a deadlock", {}, /^Deadlock at 0 ms/],
    ["too many timers", { maxTimers: 5 }, /^Gave up at 50 ms.*5 timers have fired/],
    ["too much real time", { realTimeLimit: 5 }, /^Gave up at .*: 5 ms of real time have passed/],
    ["an abort", { signal: AbortSignal.any([]) }, /^stop$/],
  ];
  test.each(endings)(
    "after %s the body can clean up, with timers too",
    async (name, opts, message) => {
      const log: unknown[] = [];
      const controller = new AbortController();
      const options = name === "an abort" ? { signal: controller.signal } : opts;
      const run = virtualTime(async (clock) => {
        const { signal } = clock;
        if (name !== "a deadlock") setInterval(() => log.push("tick"), 10);
        if (name === "an abort") setTimeout(() => controller.abort(new Error("stop")), 15);
        try {
          await hangs(signal);
        } finally {
          log.length = 0;
          log.push(signal.reason.message);
          const before = clock.elapsed;
          await sleep(100);
          log.push(clock.elapsed - before);
        }
      }, options);

      await expect(run).rejects.toThrow(message);
      expect(log).toEqual([expect.stringMatching(message), 100]);
    },
  );

  test("is not aborted when the body ends by itself", async () => {
    const signal = await virtualTime(({ signal }) => signal);

    expect(signal.aborted).toBe(false);
  });

  test("is aborted although it is asked for only afterwards", async () => {
    let clock: VirtualClock | undefined;
    const run = virtualTime((given) => {
      clock = given;
      setTimeout(() => {
        throw "failed";
      });
      return new Promise(() => {});
    });

    await expect(run).rejects.toBe("failed");
    expect(clock!.signal.reason).toBe("failed");
  });

  test("a cleanup that never ends is abandoned", async () => {
    const run = virtualTime(async ({ signal }) => {
      await hangs(signal).catch(() => {});
      for (;;) await sleep(1);
    });

    await expect(run).rejects.toThrow(DeadlockError);
  });

  test("a cleanup that fails is not lost", async () => {
    const callback = new Error("in the callback");
    const cleanup = new Error("in the cleanup");
    const run = virtualTime(async ({ signal }) => {
      setTimeout(() => {
        throw callback;
      }, 10);
      await hangs(signal).catch(() => {});
      throw cleanup;
    });

    const error = (await run.catch((error) => error)) as AggregateError;
    expect(error.errors).toEqual([callback, cleanup]);
    expect(error.message).toBe("Several errors in virtual time");
  });

  test("a timer that throws during the cleanup is not lost either", async () => {
    const run = virtualTime(async ({ signal }) => {
      await hangs(signal).catch(() => {});
      setTimeout(() => {
        throw "in the cleanup";
      }, 10);
      await sleep(20);
    });

    const error = (await run.catch((error) => error)) as AggregateError;
    expect(error.errors).toEqual([expect.any(DeadlockError), "in the cleanup"]);
  });

  test("an abort from outside rejects with its reason, although the cleanup fails", async () => {
    const controller = new AbortController();
    const run = virtualTime(
      async ({ signal }) => {
        setTimeout(() => controller.abort("stop"), 10);
        await hangs(signal).catch(() => {});
        throw new Error("in the cleanup");
      },
      { signal: controller.signal },
    );

    await expect(run).rejects.toBe("stop");
  });

  test("a body that succeeds in spite of the abort has what it holds released", async () => {
    let released = 0;
    const hold = { release: () => released++, [Symbol.dispose]: () => {} };
    const run = virtualTime(async ({ signal }) => {
      await hangs(signal).catch(() => {});
      return hold;
    });
    await expect(run).rejects.toThrow(DeadlockError);
    expect(released).toBe(1);

    let deliver = (_: unknown) => {};
    const late = virtualTime(() => new Promise((resolve) => (deliver = resolve)));
    await expect(late).rejects.toThrow(DeadlockError);
    deliver(hold);
    await new Promise((resolve) => setTimeout(resolve));
    expect(released).toBe(2);
  });

  test("an abort from outside ends a real wait at once, and leaves no listener", async () => {
    const controller = new AbortController();
    const count = countListeners(controller.signal);
    const { setTimeout: realTimeout } = globalThis;
    const run = virtualTime(
      async ({ signal }) => {
        realTimeout(() => controller.abort("stop"), 2);
        setTimeout(() => {}, 1);
        await hangs(signal).catch(() => {});
        await sleep(100);
      },
      { signal: controller.signal, idle: 60_000, realTimeLimit: Infinity },
    );

    expect(count()).toBe(1);
    await expect(run).rejects.toBe("stop");
    expect(count()).toBe(0);
  });

  test("a run that ends by itself leaves no listener on the signal", async () => {
    const { signal } = new AbortController();
    const count = countListeners(signal);

    await virtualTime(() => expect(count()).toBe(1), { signal });
    await Promise.allSettled([virtualTime(() => Promise.reject("failed"), { signal })]);

    expect(count()).toBe(0);
  });

  test("an abort in the turn of the start keeps the body from running", async () => {
    const controller = new AbortController();
    let called = false;
    const run = virtualTime(() => void (called = true), { signal: controller.signal });
    controller.abort("stop");

    await expect(run).rejects.toBe("stop");
    expect(called).toBe(false);
  });

  test("a result that came before the abort is delivered", async () => {
    const controller = new AbortController();
    const abortLater = async () => {
      for (let step = 0; step < 100; step++) await null;
      controller.abort("stop");
    };
    const run = virtualTime(
      () => {
        void abortLater();
        return "result";
      },
      { signal: controller.signal },
    );

    expect(await run).toBe("result");
  });
});

describe("leftovers", () => {
  const leave = async (clock: { elapsed: number }, fired: number[]) => {
    setTimeout(() => {
      fired.push(clock.elapsed);
      setTimeout(() => fired.push(clock.elapsed), 50);
    }, 100);
    return "result";
  };

  test.each([
    ["drop", []],
    ["drain", [100, 150]],
  ] as const)("%s", async (leftovers, times) => {
    const fired: number[] = [];

    const result = await virtualTime((clock) => leave(clock, fired), { leftovers });

    expect(result).toBe("result");
    expect(fired).toEqual([...times]);
  });

  test("fail", async () => {
    const run = virtualTime((clock) => leave(clock, []), { leftovers: "fail" });

    await expect(run).rejects.toThrow("Timers are left behind at 0 ms of virtual time: 1 still");
    expect(await virtualTime(() => 5, { leftovers: "fail" })).toBe(5);
    const failing = virtualTime(() => (setTimeout(() => {}), Promise.reject("failed")), {
      leftovers: "fail",
    });
    await expect(failing).rejects.toBe("failed");
  });

  test("a body that fails is not drained", async () => {
    const fired: number[] = [];
    const body = (clock: VirtualClock) => leave(clock, fired).then(() => Promise.reject("failed"));

    await expect(virtualTime(body, { leftovers: "drain" })).rejects.toBe("failed");

    expect(fired).toEqual([]);
  });

  test("an interval can't be drained, and is given up", async () => {
    const body = () => void setInterval(() => {}, 10);

    const run = virtualTime(body, { leftovers: "drain", maxTimers: 100 });

    await expect(run).rejects.toThrow("100 timers have fired, and timers are still left");
  });

  test("an AbortSignal.timeout is no leftover", async () => {
    for (const leftovers of ["drain", "fail"] as const) {
      const elapsed = await virtualTime(
        (clock) => {
          AbortSignal.timeout(1000);
          expect(clock.pending).toBe(0);
          return clock.elapsed;
        },
        { leftovers },
      );
      expect(elapsed).toBe(0);
    }
  });
});

describe("as on the platforms", () => {
  test("Date is the constructor of its dates, and can be subclassed", async () => {
    const before = Date.prototype.constructor;
    await virtualTime(
      async () => {
        class Later extends Date {
          plus(ms: number) {
            return this.getTime() + ms;
          }
        }
        expect(new Date().constructor).toBe(Date);
        expect(Object.getPrototypeOf(new Date())).toBe(Date.prototype);
        expect(new Later().plus(5)).toBe(1005);
        expect(new Later()).toBeInstanceOf(Later);
        expect(Object.keys(new Date())).toEqual([]);
        expect([Date.name, Date.length]).toEqual(["Date", 7]);
      },
      { now: 1000 },
    );
    expect(Date.prototype.constructor).toBe(before);
  });

  test("timers have numbers, by which they can be cleared and kept as keys", async () => {
    await virtualTime(async (clock) => {
      const timers = [0, 1, 2].map(() => setTimeout(() => {}, 100) as unknown as number);
      const [a, b, c] = timers as [number, number, number];
      expect(Number.isSafeInteger(+a)).toBe(true);
      expect(new Set(timers.map(Number)).size).toBe(3);
      expect(+a).toBe(+a);

      clearTimeout(+a);
      clearTimeout(String(b));
      expect(clock.pending).toBe(1);
      const kept: Record<number, boolean> = {};
      kept[c] = true;
      for (const key in kept) clearTimeout(key);
      expect(clock.pending).toBe(0);
    });
  });

  test("a number of an earlier run clears nothing in the next", async () => {
    const ids: number[] = [];
    for (let round = 0; round < 2; round++) {
      await virtualTime((clock) => {
        for (let n = 0; n < 10; n++) ids.push(+(setTimeout(() => {}, 100) as unknown as number));
        for (const id of ids.slice(0, round * 10)) clearTimeout(id);
        expect(clock.pending).toBe(10);
      });
    }
  });

  test("timers are plain numbers where the platform's are", async () => {
    const { setTimeout: platformTimeout } = globalThis;
    globalThis.setTimeout = ((...args: Parameters<typeof setTimeout>) =>
      +(platformTimeout(...args) as unknown as number)) as unknown as typeof setTimeout;
    try {
      await virtualTime(async (clock) => {
        const timer = setTimeout(() => {}, 100);
        expect(typeof timer).toBe("number");
        clearTimeout(timer);
        expect(clock.pending).toBe(0);
      });
    } finally {
      globalThis.setTimeout = platformTimeout;
    }
  });

  test("an interval keeps its number from round to round", async () => {
    await virtualTime(async (clock) => {
      const interval = +(setInterval(() => {}, 10) as unknown as number);
      await sleep(25);
      clearInterval(interval);

      expect(clock.pending).toBe(0);
    });
  });

  test("an interval that is refreshed in its callback goes on from there, once", async () => {
    await virtualTime(async (clock) => {
      const times: number[] = [];
      const interval = setInterval(() => {
        times.push(clock.elapsed);
        (interval as unknown as { refresh?(): void }).refresh?.();
      }, 10);
      await sleep(35);

      expect(times).toEqual([10, 20, 30]);
      expect(clock.pending).toBe(1);
      clearInterval(interval);
      expect(clock.pending).toBe(0);
    });
  });

  test("hasRef says what ref and unref have done", async () => {
    await virtualTime(() => {
      const timer = setTimeout(() => {}, 1);
      if (typeof timer === "number") return;
      expect([timer.hasRef(), timer.unref().hasRef(), timer.ref().hasRef()]).toEqual([
        true,
        false,
        true,
      ]);
    });
  });

  test("a cleared timer stays cleared; one that has fired can be refreshed", async () => {
    await virtualTime(async (clock) => {
      const times: number[] = [];
      const fire = () => times.push(clock.elapsed);
      const cleared = setTimeout(fire, 10);
      clearTimeout(cleared);
      cleared.refresh();
      expect(clock.pending).toBe(0);
      const timer = setTimeout(fire, 10);
      await sleep(20);
      timer.refresh();
      await sleep(20);
      const interval = setInterval(() => {
        fire();
        clearInterval(interval);
        interval.refresh();
      }, 10);
      await sleep(30);

      expect(times).toEqual([10, 30, 50]);
    });
  });

  test("a refreshed timer takes its turn behind those that were set before", async () => {
    await virtualTime(async (clock) => {
      const fired: string[] = [];
      const fire = (name: string) => fired.push(`${name} ${clock.elapsed}`);
      const [a, b] = ["a", "b", "c"].map((name) => setTimeout(fire, 10, name));
      const d = setTimeout(fire, 5, "d");
      a!.refresh?.();
      clearTimeout(b);
      await sleep(3);
      d!.refresh?.();
      await sleep(20);

      expect(fired).toEqual(
        "refresh" in Object(a) ? ["d 8", "c 10", "a 10"] : ["d 5", "a 10", "c 10"],
      );
    });
  });

  test("a crowd keeps its order when many are refreshed and cleared", async () => {
    await virtualTime(async () => {
      const fired: number[] = [];
      const timers = Array.from({ length: 500 }, (_, n) => setTimeout(() => fired.push(n), n % 7));
      await sleep(0);
      timers.forEach((timer, n) => n % 3 === 0 && timer.refresh?.());
      timers.forEach((timer, n) => n % 3 !== 2 && n % 2 === 0 && clearTimeout(timer));
      const left = timers.keys().filter((n) => n % 7 > 0 && (n % 3 === 2 || n % 2 === 1));
      await sleep(10);

      const refreshed = (n: number) => (n % 3 === 0 && "refresh" in Object(timers[n]) ? 1 : 0);
      const order = (n: number) => (n % 7) * 10_000 + refreshed(n) * 1000 + n;
      expect(fired.filter((n) => n % 7 > 0)).toEqual([...left].sort((a, b) => order(a) - order(b)));
    });
  });

  test("a timer that is refreshed over and over outlives a crowd that is cleared", async () => {
    await virtualTime(async (clock) => {
      let fired = 0;
      const crowd = Array.from({ length: 300 }, () => setTimeout(() => {}, 10));
      const timer = setTimeout(() => fired++, 10);
      for (const other of crowd) {
        clearTimeout(other);
        timer.refresh?.();
      }
      expect(clock.pending).toBe(1);
      await sleep(10);

      expect(fired).toBe(1);
    });
  });

  test("what an interval's callback sets comes before its next round", async () => {
    await virtualTime(async () => {
      const log: string[] = [];
      const interval = setInterval(() => {
        if (log.push("interval") === 1) setTimeout(() => log.push("timeout"), 100);
      }, 100);

      await sleep(250);
      clearInterval(interval);

      expect(log).toEqual(["interval", "timeout", "interval"]);
    });
  });

  test("util.promisify finds a promise's setTimeout and setImmediate, where there is one", async () => {
    const key = Symbol.for("nodejs.util.promisify.custom");
    if (!(key in setTimeout)) return;
    await virtualTime(async (clock) => {
      const wait = (setTimeout as any)[key] as (...args: unknown[]) => Promise<unknown>;
      expect(await wait(100, "value")).toBe("value");
      expect(await (setImmediate as any)[key]("now")).toBe("now");
      expect(clock.elapsed).toBe(100);

      const controller = new AbortController();
      const aborted = wait(1000, "value", { signal: controller.signal });
      controller.abort("stop");
      expect(clock.pending).toBe(0);
      await expect(aborted).rejects.toMatchObject({ name: "AbortError", cause: "stop" });
      const before = wait(1000, "value", { signal: controller.signal });
      await expect(before).rejects.toMatchObject({ name: "AbortError" });
    });
  });

  test("nextTick comes before promises, in the body and in callbacks", async () => {
    const { process } = globalThis as { process?: { nextTick?(callback: () => void): void } };
    if (!process?.nextTick) return;
    await virtualTime(async () => {
      const log: string[] = [];
      const both = (name: string) => {
        void Promise.resolve().then(() => log.push(`${name} promise`));
        process.nextTick!(() => log.push(`${name} tick`));
      };
      both("body");
      setTimeout(both, 10, "timer");
      await sleep(20);

      expect(log).toEqual(["body tick", "body promise", "timer tick", "timer promise"]);
    });
  });

  test("AsyncLocalStorage is kept in callbacks, where there is one", async () => {
    const { process } = globalThis as { process?: { getBuiltinModule?(name: string): any } };
    const hooks = process?.getBuiltinModule?.("node:async_hooks");
    if (!hooks) return;
    const storage = new hooks.AsyncLocalStorage();
    const seen: unknown[] = [];
    const see = () => seen.push(storage.getStore());
    await storage.run("outer", () =>
      virtualTime(async () => {
        see();
        storage.run("timer", () => setTimeout(see, 20));
        storage.run("interval", () => {
          const interval = setInterval(() => (see(), clearInterval(interval)), 10);
        });
        storage.run("immediate", () => setImmediate(see));
        await sleep(100);
        see();
      }),
    );

    expect(seen).toEqual(["outer", "immediate", "interval", "timer", "outer"]);
  });

  test.each(["setTimeout", "setImmediate"] as const)(
    "a loop of %s(0) beside a sleep lets time pass",
    async (name) => {
      await virtualTime(async (clock) => {
        let done = false;
        void sleep(100).then(() => (done = true));
        while (!done) await new Promise((resolve) => globalThis[name](resolve as () => void, 0));

        expect(clock.elapsed).toBe(100);
      });
    },
  );

  test("a loop of setTimeout(0) takes 1 ms a round, one of setImmediate 1 ms in 100", async () => {
    const rounds = (name: "setTimeout" | "setImmediate") =>
      virtualTime(async () => {
        let done = false;
        let round = 0;
        void sleep(10).then(() => (done = true));
        for (; !done; round++) {
          await new Promise((resolve) => globalThis[name](resolve as () => void, 0));
        }
        return round;
      });

    expect([await rounds("setTimeout"), await rounds("setImmediate")]).toEqual([15, 1010]);
  });

  test("two loops of 0 ms side by side take no time either", async () => {
    await virtualTime(async (clock) => {
      const loop = async () => {
        for (let round = 0; round < 20; round++) await sleep(0);
      };
      await Promise.all([loop(), loop()]);

      expect(clock.elapsed).toBe(0);
    });
  });

  test("a loop of 0 ms takes no time while nothing else waits", async () => {
    await virtualTime(async (clock) => {
      for (let round = 0; round < 2000; round++) await sleep(0);

      expect(clock.elapsed).toBe(0);
    });
  });

  test("a crowd of 0 ms takes no time, and five in a row neither", async () => {
    await virtualTime(async (clock) => {
      const beside = setTimeout(() => {}, 100);
      const start = performance.now();
      await Promise.all(Array.from({ length: 100 }, () => sleep(0)));
      for (let round = 0; round < 4; round++) await sleep(0);
      expect(clock.elapsed).toBe(0);

      await sleep(0);
      expect(clock.elapsed).toBe(1);
      expect(performance.now() - start).toBe(1);
      await sleep(0.5);
      expect(clock.elapsed).toBe(1.5);
      clearTimeout(beside);
    });
  });

  test.each([[-1], [NaN], [Infinity], [2 ** 53], ["x"]])(
    "AbortSignal.timeout(%s) is refused",
    async (ms) => {
      const platform = thrownBy(() => AbortSignal.timeout(ms as number)) as Error;
      await virtualTime(() => {
        const error = thrownBy(() => AbortSignal.timeout(ms as number)) as Error;
        expect([error.name, error.message]).toEqual([platform.name, platform.message]);
      });
    },
  );

  test("AbortSignal.timeout sets no timer of the platform's", async () => {
    const { timeout } = AbortSignal;
    const asked: number[] = [];
    AbortSignal.timeout = (ms) => {
      asked.push(ms);
      return timeout.call(AbortSignal, ms);
    };
    try {
      await virtualTime(() => {
        AbortSignal.timeout(1_000_000);
        expect(() => AbortSignal.timeout(-1)).toThrow();
      });
    } finally {
      AbortSignal.timeout = timeout;
    }

    expect(asked).toEqual([-1]);
  });

  test("AbortSignal.timeout holds what the platform holds", async () => {
    const { setTimeout: realTimeout } = globalThis;
    const signal = AbortSignal.timeout(2 ** 31);
    await new Promise((resolve) => realTimeout(resolve, 20));

    expect(await timeoutOf(2 ** 31)).toBe(signal.aborted ? 0 : 2 ** 31);
  });

  test("AbortSignal.timeout holds any time where there is no process, as in browsers", async () => {
    expect(await without(["process"], () => timeoutOf(2 ** 31))).toBe(2 ** 31);
  });

  test("Temporal.Now and performance.timeOrigin agree with Date, where there are such", async () => {
    const { Temporal } = globalThis as { Temporal?: any };
    await virtualTime(
      async () => {
        await sleep(500);
        expect(performance.timeOrigin + performance.now()).toBe(Date.now());
        if (!Temporal) return;
        const { Now } = Temporal;
        expect(Now.instant().epochMilliseconds).toBe(1500);
        expect(Now.zonedDateTimeISO("UTC").epochMilliseconds).toBe(1500);
        expect(Now.zonedDateTimeISO().timeZoneId).toBe(Now.timeZoneId());
        expect(String(Now.plainDateTimeISO("UTC"))).toBe("1970-01-01T00:00:01.5");
        expect(String(Now.plainDateISO("UTC"))).toBe("1970-01-01");
        expect(String(Now.plainTimeISO("UTC"))).toBe("00:00:01.5");
      },
      { now: 1000 },
    );
    const year = new Date().getUTCFullYear();
    if (Temporal) expect(Temporal.Now.plainDateISO("UTC").year).toBe(year);
  });

  test("performance.now() never goes back when a run begins", async () => {
    const before = performance.now();

    const inside = await virtualTime(() => performance.now());
    expect(inside).toBeGreaterThan(before);
    expect(inside).toBeGreaterThanOrEqual(2 ** 20);
  });

  test("fractions of delays don't make a timer early or late", async () => {
    await virtualTime(async () => {
      for (let n = 1; n < 100; n++) {
        const due = performance.now() + n / 10;
        await sleep(n / 10);
        expect(performance.now()).toBe(due);
      }
    });
  });

  test("fetch, files and modules can be waited for", async () => {
    await virtualTime(async (clock) => {
      const response = await fetch("data:text/plain,hello");
      expect(await response.text()).toBe("hello");
      await import("../concepts/virtual-time.ts");
      await sleep(100);
      expect(clock.elapsed).toBe(100);
    });
  });
});

describe("arguments", () => {
  const refusals: [string, VirtualTimeOptions, unknown][] = [
    ["now must be a valid time, received null", { now: null as never }, TypeError],
    ["now must be a valid time, received true", { now: true as never }, TypeError],
    ['now must be a valid time, received "5"', { now: "5" as never }, TypeError],
    ["now must be a valid time, received Array", { now: [] as never }, TypeError],
    ["now must be a valid time, received NaN", { now: new Date(NaN) }, RangeError],
    ["now must be a valid time, received 9000000000000000", { now: 9e15 }, RangeError],
    ["maxTimers must be a positive integer, received 1.5", { maxTimers: 1.5 }, RangeError],
    ['maxTimers must be a positive integer, received "5"', { maxTimers: "5" as never }, TypeError],
    ["idle must be a number of 0 or more, received -1", { idle: -1 }, RangeError],
    [
      "realTimeLimit must be a number of 0 or more, received NaN",
      { realTimeLimit: NaN },
      RangeError,
    ],
    [
      'leftovers must be "drop", "drain" or "fail", received "keep"',
      { leftovers: "keep" as never },
      TypeError,
    ],
    ["signal must be an AbortSignal, received Object", { signal: {} as never }, TypeError],
    ["options must be an object, received 5", 5 as never, TypeError],
    ["options must be an object, received null", null as never, TypeError],
  ];
  test.each(refusals)("%s", async (message, options, Kind) => {
    let called = false;
    const error = await virtualTime(() => (called = true), options).catch((error) => error);

    expect(error.message).toBe(`Cannot start virtual time: ${message}`);
    expect(error.constructor).toBe(Kind);
    expect(called).toBe(false);
  });

  test("a signal of null counts as none", async () => {
    expect(await virtualTime(() => 5, { signal: null as never })).toBe(5);
  });
});

describe("a test runner that ends a test too early", () => {
  test.skipIf(!Bun)("an unhandled rejection doesn't poison later runs (needs Bun)", async () => {
    const concept = new URL("../concepts/virtual-time.ts", import.meta.url).pathname;
    const file = `/tmp/virtual-time-${crypto.randomUUID()}.test.ts`;
    await Bun.write(
      file,
      `import { expect, test } from "bun:test";
      import { virtualTime } from "${concept}";
      const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
      let ended;
      test("ended", () => virtualTime(({ signal }) => void (ended = signal)));
      test("unhandled", () => virtualTime(async ({ signal }) => {
        signal.addEventListener("abort", () => console.log(signal.reason.message));
        setTimeout(() => Promise.reject(new Error("lost")), 5);
        for (;;) await sleep(100);
      }));
      test("next", async () => {
        expect(ended.aborted).toBe(false);
        expect(new Date().getUTCFullYear()).not.toBe(2000);
        expect(await virtualTime(() => 5)).toBe(5);
      });`,
    );
    // Outside the repository, whose bunfig.toml may hide the tests that pass.
    const command = [process.execPath, "test", file];
    const child = Bun.spawn(command, { cwd: "/tmp", stdout: "pipe", stderr: "pipe" });
    const output = await new Response(child.stderr).text();
    const told = await new Response(child.stdout).text();
    await Bun.file(file).delete();

    expect(output).toContain("(fail) unhandled");
    expect(output).toContain("(pass) next");
    expect(told).toMatch(
      /^Stopped at \d+ ms of virtual time: the test has ended before it\. Was the run awaited\?$/m,
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

/** Where a run leaves word for other copies of the file. */
const RUNNING = Symbol.for("async-concepts.virtual-time");

/**
 * Runs on a platform that doesn't have these globals. `process` is missed only while the run begins,
 * because a test runner needs it meanwhile.
 */
async function without<T>(names: readonly string[], fn: () => Promise<T>): Promise<T> {
  const hidden = names.map(
    (name) => [name, Object.getOwnPropertyDescriptor(globalThis, name)] as const,
  );
  const putBack = (isDue: (name: string) => boolean) => {
    for (const [name, own] of hidden) {
      if (own && isDue(name)) Object.defineProperty(globalThis, name, own);
    }
  };
  for (const name of names) Reflect.deleteProperty(globalThis, name);
  try {
    const running = fn();
    putBack((name) => name === "process");
    return await running;
  } finally {
    putBack(() => true);
  }
}

/** How long an `AbortSignal.timeout` takes in virtual time. */
function timeoutOf(ms: number): Promise<number> {
  return virtualTime(async (clock) => {
    const signal = AbortSignal.timeout(ms);
    await new Promise((resolve) => signal.addEventListener("abort", resolve));
    return clock.elapsed;
  });
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

/** Counts the listeners that a signal has. */
function countListeners(signal: AbortSignal): () => number {
  const listeners = new Set<unknown>();
  const { addEventListener, removeEventListener } = signal;
  signal.addEventListener = (...args: [string, unknown]) => {
    listeners.add(args[1]);
    return Reflect.apply(addEventListener, signal, args);
  };
  signal.removeEventListener = (...args: [string, unknown]) => {
    listeners.delete(args[1]);
    return Reflect.apply(removeEventListener, signal, args);
  };
  return () => listeners.size;
}
