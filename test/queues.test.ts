/**
 * How to test producers and consumers: ask whether a call waits without waiting for it, abort it at
 * every moment, and count the items at the end: nothing lost, nothing doubled. Time is virtual.
 */
import { describe, expect, expectTypeOf, test } from "bun:test";

import { interleavings, type World } from "../concepts/interleavings.ts";
import {
  type CloseOptions,
  PriorityQueue,
  Queue,
  QueueClosedError,
  Stack,
  type WaitOptions,
} from "../concepts/queues.ts";
import { virtualTime } from "../concepts/virtual-time.ts";

const { Bun } = globalThis as { Bun?: { gc(force: boolean): void } };

describe("Start here", () => {
  test("a queue hands on items in the order in which they were put", async () => {
    const queue = new Queue<string>();

    await queue.put("first");
    await queue.put("second");

    expect(await queue.get()).toBe("first");
    expect(await queue.get()).toBe("second");
  });

  test("whether a call waits is asked without waiting for it", async () => {
    const queue = new Queue<string>();
    const got = watch(queue.get());

    await turn();
    expect(got.state).toBe("pending");
    expect(queue.waiting).toBe(1);

    await queue.put("at last");
    await turn();
    expect(got).toEqual({ state: "fulfilled", value: "at last" });
  });

  test("a full queue holds the producer back, exactly as long as the consumer needs", () =>
    virtualTime(async (clock) => {
      const queue = new Queue<number>(1);
      const put: string[] = [];
      const produce = async () => {
        for (const item of [1, 2, 3]) {
          await queue.put(item);
          put.push(`${item} at ${clock.elapsed}`);
        }
        queue.close();
      };
      const consume = async () => {
        for await (const _ of queue) await sleep(100);
      };

      await Promise.all([produce(), consume()]);

      expect(put).toEqual(["1 at 0", "2 at 0", "3 at 100"]);
      expect(clock.elapsed).toBe(300);
    }));

  test("the loop ends when the queue is closed and empty", async () => {
    const queue = new Queue<number>();
    await queue.put(1);
    await queue.put(2);
    queue.close();

    expect(await Array.fromAsync(queue)).toEqual([1, 2]);
  });

  test("join() waits for the work, not only for an empty queue", () =>
    virtualTime(async (clock) => {
      const queue = new Queue<number>();
      await queue.put(1);
      const work = async () => {
        await queue.get();
        await sleep(50);
        queue.done();
      };

      void work();
      await queue.join();

      expect(clock.elapsed).toBe(50);
    }));

  test("trap: an aborted get() takes nothing, even in the turn in which an item came", async () => {
    const queue = new Queue<string>();
    const controller = new AbortController();
    const got = watch(queue.get({ signal: controller.signal }));

    void queue.put("not lost");
    controller.abort("no longer needed");

    await turn();
    expect(got).toEqual({ state: "rejected", reason: "no longer needed" });
    expect(queue.tryGet()).toBe("not lost");
  });

  test("trap: an unbounded queue never holds anybody back", async () => {
    const queue = new Queue<number>();

    for (let n = 0; n < 1000; n++) expect(queue.tryPut(n)).toBe(true);

    expect(queue.size).toBe(1000);
  });
});

describe.each([
  ["Queue", (size?: number) => new Queue<number>(size)],
  ["Stack", (size?: number) => new Stack<number>(size)],
  ["PriorityQueue", (size?: number) => new PriorityQueue<number>(size)],
] as const)("%s", (name, create) => {
  describe("put() and get()", () => {
    test("hand on all items, each once", async () => {
      const queue = create();
      for (const item of [3, 1, 2]) await queue.put(item);

      const items = [await queue.get(), await queue.get(), await queue.get()];

      expect(items).toEqual({ Queue: [3, 1, 2], Stack: [2, 1, 3], PriorityQueue: [1, 2, 3] }[name]);
      expect(queue.size).toBe(0);
    });

    test("put() waits while all places are taken", async () => {
      const queue = create(2);
      await queue.put(1);
      await queue.put(2);
      const third = watch(queue.put(3));
      await turn();
      expect(third.state).toBe("pending");
      expect([queue.size, queue.waiting]).toEqual([2, 1]);

      await queue.get();
      await turn();

      expect(third.state).toBe("fulfilled");
      expect([queue.size, queue.waiting]).toEqual([2, 0]);
    });

    test("getters are served in order of arrival", async () => {
      const queue = create();
      const order: number[] = [];
      const getters = [1, 2, 3].map(async (n) => {
        await queue.get();
        order.push(n);
      });

      for (const item of [1, 1, 1]) queue.tryPut(item);
      await Promise.all(getters);

      expect(order).toEqual([1, 2, 3]);
    });

    test("putters are served in order of arrival", async () => {
      const queue = create(1);
      await queue.put(0);
      const order: number[] = [];
      const putters = [1, 2, 3].map(async (n) => {
        await queue.put(n);
        order.push(n);
      });

      for (let n = 0; n < 3; n++) {
        await queue.get();
        await turn();
      }
      await Promise.all(putters);

      expect(order).toEqual([1, 2, 3]);
    });

    test("a newcomer's code doesn't run before that of a getter who was let in", async () => {
      const queue = create();
      const order: string[] = [];
      const get = async (who: string) => {
        await queue.get();
        order.push(who);
      };
      const first = get("waiter");
      queue.tryPut(1);
      queue.tryPut(2);

      await Promise.all([first, get("newcomer")]);

      expect(order).toEqual(["waiter", "newcomer"]);
    });

    test("a newcomer's item doesn't take the place of a putter in line", async () => {
      const queue = create(1);
      await queue.put(1);
      const waiting = queue.put(2);
      expect(queue.tryGet()).toBe(1);

      expect(queue.tryPut(3)).toBe(false);

      await waiting;
      expect(queue.tryGet()).toBe(2);
    });

    test("there are never more items than places, whoever is aborted", async () => {
      const queue = create(1);
      const controller = new AbortController();
      const got = watch(queue.get({ signal: controller.signal }));
      queue.tryPut(1);
      const second = watch(queue.put(2));
      controller.abort();
      await turn();

      expect(got.state).toBe("rejected");
      expect(second.state).toBe("pending");
      expect(queue.size).toBe(1);
      expect(queue.tryGet()).toBe(1);
      await turn();
      expect(second.state).toBe("fulfilled");
    });
  });

  describe("shared by many", () => {
    test("an item belongs to the getter who waits, not to one who asks in the same turn", async () => {
      const queue = create();
      const got = watch(queue.get());
      queue.tryPut(1);

      expect([queue.tryGet(), queue.size, queue.waiting]).toEqual([undefined, 0, 0]);

      await turn();
      expect(got.value).toBe(1);
      queue.tryPut(2);
      expect(queue.tryGet()).toBe(2);
    });

    test("a getter that was aborted and asks again gets the item it was let in for", async () => {
      const queue = create();
      const controller = new AbortController();
      const aborted = watch(queue.get({ signal: controller.signal }));
      queue.tryPut(1);
      queue.tryPut(2);
      controller.abort();

      expect(await queue.get()).toBe(1);
      expect(aborted.state).toBe("rejected");
      expect([queue.size, queue.waiting]).toEqual([1, 0]);
    });

    test("of consumers that wait none goes away empty", async () => {
      const queue = create(1);
      const received = [0, 0, 0, 0, 0];
      const consume = async (n: number) => {
        for await (const _ of queue) received[n]!++;
      };
      const consumers = received.map((_, n) => consume(n));

      for (let item = 0; item < 10; item++) await queue.put(item);
      queue.close();
      await Promise.all(consumers);

      expect(received).toEqual([2, 2, 2, 2, 2]);
    });

    test("producers that share it close it when all of them have ended", async () => {
      const queue = create(1);
      const produce = async (first: number) => {
        for (const item of [first, first + 1, first + 2]) await queue.put(item);
      };
      void Promise.all([0, 3, 6, 9].map(produce)).then(() => queue.close());

      const items = await Array.fromAsync(queue);

      expect(items.sort((a, b) => a - b)).toEqual(Array.from({ length: 12 }, (_, n) => n));
    });

    test.each<[string, (queue: Queue<number>) => [lock: () => unknown, unlock: () => unknown]]>([
      ["the place", (queue) => [() => queue.put(0), () => queue.tryGet()]],
      [
        "the item",
        (queue) => {
          queue.tryPut(0);
          return [() => queue.get(), () => queue.tryPut(0)];
        },
      ],
    ])("of one place it is a lock: who has %s is alone, and all take turns", async (_, use) => {
      const [lock, unlock] = use(create(1));
      const turns: number[] = [];
      let inside = 0;
      const work = async (n: number) => {
        for (let round = 0; round < 5; round++) {
          await lock();
          expect(++inside).toBe(1);
          turns.push(n);
          await undefined;
          inside--;
          unlock();
        }
      };

      await Promise.all([1, 2, 3].map(work));

      expect(turns.join("")).toBe("123".repeat(5));
    });
  });

  describe("an abort meets the wake-up", () => {
    /** Where callers wait, what wakes them, and what comes of them and of the items. */
    interface Place {
      enter(caller: number, signal: AbortSignal): Promise<unknown>;
      wake(): unknown;
      /** What those who are not aborted get; `first` is the one in front at the wake-up. */
      outcomes(alive: number[], first: number): unknown[];
      left(alive: number[]): number[];
    }
    const items = [1, 2, 3];
    const getters = (queue: Queue<number>, wake: () => unknown): Place => ({
      enter: (_, signal) => queue.get({ signal }),
      wake,
      outcomes: (alive) => alive.map((_, index) => items[index]),
      left: (alive) => items.slice(alive.length),
    });
    const putters = (queue: Queue<number>, wake: () => unknown): Place => ({
      enter: (caller, signal) => queue.put(items[caller]!, { signal }),
      wake,
      outcomes: (alive) => alive.map(() => undefined),
      left: (alive) => alive.map((caller) => items[caller]!),
    });
    const joiners = (queue: Queue<number>, wake: () => unknown): Place => ({
      enter: (_, signal) => queue.join({ signal }),
      wake,
      outcomes: (alive) => alive.map(() => undefined),
      left: () => [],
    });
    const refused = (place: Place, outcome: unknown = "QueueClosedError"): Place => ({
      ...place,
      outcomes: (alive) => alive.map(() => outcome),
      left: () => [],
    });
    const places: [name: string, create: (queue: Queue<number>) => Place][] = [
      ["get, by tryPut", (queue) => getters(queue, () => items.map((n) => queue.tryPut(n)))],
      ["get, by put", (queue) => getters(queue, () => items.map((n) => void queue.put(n)))],
      [
        "get, by an item and close",
        (queue) => ({
          ...getters(queue, () => (queue.tryPut(1), queue.close())),
          outcomes: (alive) => alive.map((_, index) => (index === 0 ? 1 : "QueueClosedError")),
          left: () => [],
        }),
      ],
      [
        "get, by an item and close at once",
        (queue) => ({
          ...getters(queue, () => (queue.tryPut(1), queue.close({ immediate: true }))),
          outcomes: (alive, first) =>
            alive.map((caller) => (caller === first ? 1 : "QueueClosedError")),
          left: () => [],
        }),
      ],
      ["get, by close", (queue) => refused(getters(queue, () => queue.close()))],
      [
        "get, by an error",
        (queue) =>
          refused(
            getters(queue, () => queue.close({ error: new Error("broken") })),
            "Error",
          ),
      ],
      ["put, by tryGet", (queue) => putters(queue, () => items.map(() => queue.tryGet()))],
      ["put, by get", (queue) => putters(queue, () => items.map(() => void queue.get()))],
      ["put, by close", (queue) => refused(putters(queue, () => queue.close()))],
      [
        "put, by close at once",
        (queue) => refused(putters(queue, () => queue.close({ immediate: true }))),
      ],
      [
        "put, by a place and close",
        (queue) => refused(putters(queue, () => (queue.tryGet(), queue.close()))),
      ],
      ["join, by done", (queue) => joiners(queue, () => items.map(() => queue.done()))],
      ["join, by dropping", (queue) => joiners(queue, () => queue.close({ immediate: true }))],
    ];
    // Before, while it waits, right before the wake-up; and so many microtasks after it.
    const moments = [-3, -2, -1, 0, 1, 2, 3, 4, 5];

    test.each(places)("%s", async (placeName, createPlace) => {
      for (const who of [0, 1, 2]) {
        for (const moment of moments) {
          const queue = create(3);
          if (!placeName.startsWith("get")) for (const n of [7, 8, 9]) queue.tryPut(n);
          if (placeName === "join, by done") while (queue.tryGet()) void 0;
          const place = createPlace(queue);
          const controllers = items.map(() => new AbortController());
          const listeners = controllers.map(({ signal }) => countListeners(signal));
          const abort = () => controllers[who]!.abort("stop");

          if (moment === -3) abort();
          const entering = controllers.map(({ signal }, caller) => place.enter(caller, signal));
          await turn();
          if (moment === -2) abort();
          if (moment < -1) {
            if (!placeName.startsWith("join")) expect(queue.waiting).toBe(2);
            expect(await Promise.race([entering[who]!.catch(String), turn()])).toBe("stop");
          }
          if (moment === -1) abort();
          place.wake();
          for (let n = 0; n < moment; n++) await undefined;
          const first = moment < 0 && who === 0 ? 1 : 0;
          if (moment >= 0) abort();
          const outcomes = await Promise.all(
            entering.map((call) => call.catch((reason) => reason.name ?? reason)),
          );

          // Once it has been let in, or refused, an abort changes nothing.
          const isDead = outcomes[who] === "stop";
          if (moment < (/close|error/.test(placeName) ? 0 : 1)) expect(isDead).toBe(true);
          const alive = [0, 1, 2].filter((caller) => caller !== who || !isDead);
          const expected = place.outcomes(alive, first);
          const left: number[] = [];
          for (let item; (item = queue.tryGet()) !== undefined;) left.push(item);
          expect({ who, moment, outcomes, left: left.filter((n) => n < 7).sort() }).toEqual({
            who,
            moment,
            outcomes: [0, 1, 2].map((caller) =>
              alive.includes(caller) ? expected[alive.indexOf(caller)] : "stop",
            ),
            left: place.left(alive),
          });
          expect(listeners.map((count) => count())).toEqual([0, 0, 0]);
          expect(queue.waiting).toBe(0);
        }
      }
    });
  });

  describe("aborted", () => {
    test("a free get() in the turn of an abort rejects, and the item stays", async () => {
      const queue = create();
      await queue.put(1);
      const controller = new AbortController();

      const got = watch(queue.get({ signal: controller.signal }));
      controller.abort("aborted");

      await turn();
      expect(got).toEqual({ state: "rejected", reason: "aborted" });
      expect(queue.tryGet()).toBe(1);
    });

    test("with one signal for all, none of the dead gets an item", async () => {
      const queue = create();
      const controller = new AbortController();
      const { signal } = controller;
      signal.addEventListener("abort", () => queue.tryPut(1));
      const getters = [1, 2].map(() => watch(queue.get({ signal })));

      controller.abort("aborted");
      await turn();

      expect(getters.map(({ state }) => state)).toEqual(["rejected", "rejected"]);
      expect(queue.tryGet()).toBe(1);
    });
  });

  describe("close()", () => {
    test("refuses those who wait for a place, and newcomers", async () => {
      const queue = create(1);
      await queue.put(1);
      const waiting = watch(queue.put(2));

      queue.close();

      await turn();
      expect(waiting.reason).toBeInstanceOf(QueueClosedError);
      expect(String(waiting.reason)).toBe("QueueClosedError: Cannot put into Queue: it is closed");
      expect(await queue.put(3).catch((error: unknown) => error)).toBeInstanceOf(QueueClosedError);
      expect(() => queue.tryPut(3)).toThrow(QueueClosedError);
      expect([queue.size, queue.closed]).toEqual([1, true]);
    });

    test("lets getters have what is left, and then refuses them", async () => {
      const queue = create();
      await queue.put(1);
      queue.close();

      expect(await queue.get()).toBe(1);
      const error = await queue.get().catch((error: unknown) => error);
      expect(error).toBeInstanceOf(QueueClosedError);
      expect(String(error)).toContain("Cannot get from Queue: it is closed and empty");
      expect(queue.tryGet()).toBeUndefined();
    });

    test("of an empty queue refuses all, and join() has nothing to wait for", async () => {
      const queue = create();
      const waiting = watch(queue.get());

      queue.close();

      await queue.join();
      expect(waiting.reason).toBeInstanceOf(QueueClosedError);
      for (const call of [queue.get(), queue.put(1)]) {
        expect(await call.catch((error: unknown) => error)).toBeInstanceOf(QueueClosedError);
      }
      expect(() => queue.tryPut(1)).toThrow(QueueClosedError);
      expect([queue.tryGet(), queue.size, queue.waiting]).toEqual([undefined, 0, 0]);
      expect(() => queue.done()).toThrow(RangeError);
    });

    test("leaves join() waiting until what was left is taken and done", async () => {
      const queue = create(1);
      await queue.put(1);
      const joined = watch(queue.join());
      const refused = watch(queue.put(2));
      queue.close();
      await turn();
      expect([refused.state, joined.state, queue.size]).toEqual(["rejected", "pending", 1]);

      expect(await queue.get()).toBe(1);
      await turn();
      expect(joined.state).toBe("pending");

      queue.done();
      await turn();
      expect(joined.state).toBe("fulfilled");
      expect(() => queue.done()).toThrow(RangeError);
    });

    test.each<[CloseOptions, CloseOptions, got: unknown[]]>([
      [{}, {}, [1, "QueueClosedError"]],
      [{}, { immediate: true }, ["QueueClosedError"]],
      [{ immediate: true }, {}, ["QueueClosedError"]],
      [{ immediate: true }, { immediate: true }, ["QueueClosedError"]],
      [{}, { error: "second" }, [1, "QueueClosedError"]],
      [{ error: "first" }, {}, [1, "first"]],
      [{ error: "first" }, { error: "second" }, [1, "first"]],
      [{ error: "first" }, { immediate: true }, ["first"]],
      [{ error: "first" }, { immediate: true, error: "second" }, ["first"]],
    ])("with %o and then with %o in one turn", async (first, second, got) => {
      const queue = create(1);
      queue.tryPut(1);
      const putting = watch(queue.put(2));
      const joined = watch(queue.join());
      const empty = create();
      const getting = watch(empty.get());
      const loop = watch(Array.fromAsync(empty));

      for (const it of [queue, empty]) {
        it.close(first);
        it.close(second);
      }

      expect([queue.size, queue.waiting, empty.waiting]).toEqual([got.length - 1, 0, 0]);
      await turn();
      expect(putting.reason).toBeInstanceOf(QueueClosedError);
      expect((putting.reason as Error).cause === first.error).toBe(true);
      expect(joined.state).toBe(got.length === 1 ? "fulfilled" : "pending");
      const calls = got.map(() => queue.get().catch((error) => error?.name ?? error));
      expect(await Promise.all(calls)).toEqual(got);
      const isError = "error" in first;
      expect(getting.reason).toEqual(isError ? "first" : expect.any(QueueClosedError));
      expect([loop.state, loop.reason]).toEqual(
        isError ? ["rejected", "first"] : ["fulfilled", undefined],
      );
    });

    test.each([0, 1, 2, 3, 4])(
      "%d microtasks after a put(): either the item is there, or the put() is refused",
      async (microtasks) => {
        const { signal } = new AbortController();
        for (const options of [undefined, {}, { signal }]) {
          for (const items of [[], [7], [7, 8]]) {
            const queue = create(2);
            for (const item of items) queue.tryPut(item);
            const putting = watch(queue.put(1, options));
            if (items.length === 2) queue.tryGet();

            for (let hop = 0; hop < microtasks; hop++) await undefined;
            queue.close();

            const left = await Array.fromAsync(queue);
            expect(putting.state).toBe(left.includes(1) ? "fulfilled" : "rejected");
            if (microtasks > 0 || (!options && items.length < 2)) expect(left).toContain(1);
          }
        }
      },
    );

    test("refuses those who wait for items, at once and all of them", async () => {
      const queue = create();
      const getters = Array.from({ length: 300 }, () => watch(queue.get()));

      queue.close();

      expect(queue.waiting).toBe(0);
      await turn();
      expect(getters.every(({ reason }) => reason instanceof QueueClosedError)).toBe(true);
    });

    test("those who were let in before keep their items", async () => {
      const queue = create();
      const getter = watch(queue.get());
      const behind = watch(queue.get());
      queue.tryPut(1);

      queue.close();

      await turn();
      expect(getter.value).toBe(1);
      expect(behind.state).toBe("rejected");
    });

    test("an item that comes back from an aborted getter still finds its next", async () => {
      const queue = create();
      const controller = new AbortController();
      const first = watch(queue.get({ signal: controller.signal }));
      const second = watch(queue.get());
      queue.tryPut(1);
      queue.close();

      controller.abort();

      await turn();
      expect(first.state).toBe("rejected");
      expect(second.value).toBe(1);
    });

    test("a putter who was let in but has not put yet is refused", async () => {
      const queue = create(1);
      await queue.put(1);
      const waiting = watch(queue.put(2));
      queue.tryGet();

      queue.close();

      await turn();
      expect(waiting.reason).toBeInstanceOf(QueueClosedError);
      expect(queue.size).toBe(0);
    });

    test("immediate drops what is left, and unblocks join()", async () => {
      const queue = create();
      await queue.put(1);
      await queue.put(2);
      const joined = watch(queue.join());

      queue.close({ immediate: true });

      await turn();
      expect(queue.size).toBe(0);
      expect(joined.state).toBe("fulfilled");
      expect(await queue.get().catch((error: unknown) => error)).toBeInstanceOf(QueueClosedError);
    });

    test("immediate drops also what comes back from an aborted getter", async () => {
      const queue = create();
      const controller = new AbortController();
      const getter = watch(queue.get({ signal: controller.signal }));
      queue.tryPut(1);
      queue.close({ immediate: true });
      const joined = watch(queue.join());

      controller.abort("aborted");

      await turn();
      expect([getter.reason, joined.state, queue.size]).toEqual(["aborted", "fulfilled", 0]);
    });

    test("immediate leaves to join() the work that has begun", async () => {
      const queue = create();
      await queue.put(1);
      await queue.put(2);
      await queue.get();
      const joined = watch(queue.join());

      queue.close({ immediate: true });
      await turn();
      expect(joined.state).toBe("pending");

      queue.done();
      await turn();
      expect(joined.state).toBe("fulfilled");
      expect(() => queue.done()).toThrow(RangeError);
    });

    test("with an error, getters and loops end with it after the last item", async () => {
      const queue = create();
      const error = new Error("the connection broke");
      await queue.put(1);
      queue.close({ error });
      const seen: number[] = [];
      const loop = async () => {
        for await (const item of queue) seen.push(item);
      };

      expect(await loop().catch((error: unknown) => error)).toBe(error);
      expect(seen).toEqual([1]);
      expect(await queue.get().catch((error: unknown) => error)).toBe(error);
      expect(await queue.put(2).catch(({ cause }: Error) => cause)).toBe(error);
    });

    test("even undefined is an error that can be told", async () => {
      const queue = create();
      queue.close({ error: undefined });

      expect(await queue.get().catch((error: unknown) => [error])).toEqual([undefined]);
    });

    test("again does nothing, but may then be immediate", async () => {
      const queue = create();
      await queue.put(1);
      queue.close();
      queue.close({ error: new Error("too late") });
      expect(queue.size).toBe(1);

      queue.close({ immediate: true, error: new Error("too late") });

      expect(queue.size).toBe(0);
      expect(await queue.get().catch((error: unknown) => error)).toBeInstanceOf(QueueClosedError);
    });
  });

  describe("for await", () => {
    test("several consumers share the items", async () => {
      const queue = create();
      const consume = () => Array.fromAsync(queue);
      const consumers = [consume(), consume()];

      for (const item of [1, 2, 3, 4]) await queue.put(item);
      queue.close();

      const all = (await Promise.all(consumers)).flat().sort();
      expect(all).toEqual([1, 2, 3, 4]);
    });

    test("ends when the queue is closed while it waits", async () => {
      const queue = create();
      const items = watch(Array.fromAsync(queue));
      await turn();

      queue.close();

      await turn();
      expect(items.value).toEqual([]);
    });

    test("leaving the loop leaves the queue open, and takes no item", async () => {
      const queue = create();
      await queue.put(1);
      await queue.put(2);
      const loop = queue[Symbol.asyncIterator]();
      for await (const _ of loop) break;

      expect(await loop.next()).toEqual({ done: true, value: undefined });
      expect(queue.size).toBe(1);
      expect(queue.closed).toBe(false);
    });

    test("a loop that is left while it waits takes nothing", async () => {
      const queue = create();
      const loop = queue[Symbol.asyncIterator]();
      const next = watch(loop.next());

      await loop.return!();

      expect(queue.waiting).toBe(0);
      await turn();
      expect(next.value).toEqual({ done: true, value: undefined });
      queue.tryPut(1);
      expect(await loop.next()).toEqual({ done: true, value: undefined });
      expect(queue.size).toBe(1);
    });

    test("a loop that is left in the turn of the wake-up takes nothing", async () => {
      const queue = create();
      const loop = queue[Symbol.asyncIterator]();
      const next = watch(loop.next());
      queue.tryPut(1);

      void loop.return!();

      expect(queue.size).toBe(1);
      await turn();
      expect(next.value).toEqual({ done: true, value: undefined });
    });

    test("after the error the loop is over", async () => {
      const queue = create();
      queue.close({ error: "broken" });
      const loop = queue[Symbol.asyncIterator]();

      expect(await loop.next().catch((error: unknown) => error)).toBe("broken");
      expect(await loop.next()).toEqual({ done: true, value: undefined });
    });
  });

  describe("join() and done()", () => {
    test("an empty queue has nothing to wait for", async () => {
      expect(await create().join()).toBeUndefined();
    });

    test("two workers do what there is, and then what comes later", async () => {
      const queue = create();
      let sum = 0;
      const work = async () => {
        for await (const item of queue) {
          await undefined;
          sum += item;
          queue.done();
        }
      };
      const workers = [work(), work()];

      for (let round = 1; round <= 2; round++) {
        for (let item = 1; item <= 100; item++) queue.tryPut(item);
        await queue.join();
        expect(sum).toBe(round * 5050);
        await queue.join();
      }

      queue.close();
      await Promise.all(workers);
    });

    test("an item that comes in the turn of the last done() is not waited for", async () => {
      const queue = create();
      queue.tryPut(1);
      const joined = watch(queue.join());

      queue.done();
      queue.tryPut(2);
      const late = watch(queue.join());

      await turn();
      expect([joined.state, late.state]).toEqual(["fulfilled", "pending"]);
    });

    test("done() before anything was put is a RangeError", () => {
      expect(() => create().done()).toThrow(RangeError);
    });

    test("all who join are told, in order", async () => {
      const queue = create();
      await queue.put(1);
      const order: number[] = [];
      const joined = [1, 2].map((n) => queue.join().then(() => order.push(n)));
      await queue.get();

      queue.done();

      await Promise.all(joined);
      expect(order).toEqual([1, 2]);
    });

    test("done() too often is a RangeError", async () => {
      const queue = create();
      await queue.put(1);
      queue.done();

      expect(() => queue.done()).toThrow(
        new RangeError("Cannot call done: it was called as often as items were put already"),
      );
    });

    test("a join() that is aborted leaves alone", async () => {
      const queue = create();
      await queue.put(1);
      const controller = new AbortController();
      const listeners = countListeners(controller.signal);
      const aborted = watch(queue.join({ signal: controller.signal }));
      const other = watch(queue.join());

      controller.abort("aborted");
      expect(listeners()).toBe(0);
      queue.done();

      await turn();
      expect(aborted).toEqual({ state: "rejected", reason: "aborted" });
      expect(other.state).toBe("fulfilled");
    });
  });

  describe("arguments", () => {
    test.each([0, -1, 1.5, NaN, 2 ** 53, "2", null].map((size) => ({ size })))(
      "a size of $size is refused",
      ({ size }) => {
        const Kind = typeof size === "number" ? RangeError : TypeError;

        expect(() => create(size as number)).toThrow(Kind);
        expect(() => create(size as number)).toThrow(
          /^Cannot create Queue: maxSize must be a positive integer or Infinity, received /,
        );
      },
    );

    test.each([
      [
        "a signal in the place of options",
        new AbortController().signal,
        "options must be an object, received AbortSignal",
      ],
      ["null", null, "options must be an object, received null"],
      [
        "a signal of the wrong kind",
        { signal: new AbortController() },
        "signal must be an AbortSignal, received AbortController",
      ],
    ])("%s is refused", async (_, options, message) => {
      const queue = create();
      for (const [action, call] of [
        ["put into Queue", () => queue.put(1, options as object)],
        ["get from Queue", () => queue.get(options as object)],
        ["join Queue", () => queue.join(options as object)],
      ] as const) {
        const error = await call().catch((error: unknown) => error);
        expect(error).toEqual(new TypeError(`Cannot ${action}: ${message}`));
        expect(error).toBeInstanceOf(TypeError);
      }
      expect([queue.size, queue.waiting]).toEqual([0, 0]);
    });

    test("close() refuses what is not an object", () => {
      expect(() => create().close(true as never)).toThrow(
        "Cannot close Queue: options must be an object, received true",
      );
    });
  });

  test("shows itself to console.log", () => {
    const queue = create(2);
    const show = (depth: number) => {
      const shown = queue as object as Record<symbol, (...args: unknown[]) => string>;
      return shown[Symbol.for("nodejs.util.inspect.custom")]!(depth, {}, JSON.stringify);
    };

    expect(show(2)).toBe(`${name} {"size":0,"maxSize":2,"waiting":0,"closed":false}`);
    expect(show(-1)).toBe(`[${name}]`);

    for (const item of [1, 2, 3, 4, 5]) queue.put(item).catch(ignore);
    expect(show(2)).toBe(`${name} {"size":2,"maxSize":2,"waiting":3,"closed":false}`);

    queue.close();
    expect(show(2)).toBe(`${name} {"size":2,"maxSize":2,"waiting":0,"closed":true}`);
  });

  test.each([1, 2, 3])("random schedules of all calls keep to a model (seed %d)", async (seed) => {
    const random = randomFrom(seed);
    for (let round = 0; round < 60; round++) {
      const maxSize = 1 + Math.floor(random() * 3);
      const queue = create(maxSize);
      const put = new Set<number>();
      const got: number[] = [];
      const calls: Promise<unknown>[] = [];
      for (let step = 0; step < 40; step++) {
        const controller = new AbortController();
        const options = random() < 0.5 ? { signal: controller.signal } : undefined;
        const item = round * 100 + step;
        if (random() < 0.5) {
          calls.push(queue.put(item, options).then(() => put.add(item), ignore));
        } else {
          calls.push(queue.get(options).then((item) => got.push(item), ignore));
        }
        for (let hop = Math.floor(random() * 4); hop > 0; hop--) await undefined;
        if (random() < 0.3) controller.abort();
        expect(queue.size).toBeLessThanOrEqual(maxSize);
      }
      await turn();
      while (queue.size > 0) {
        got.push(await queue.get());
        await turn();
      }
      queue.close();
      await Promise.all(calls);

      expect(got.toSorted((a, b) => a - b)).toEqual([...put].sort((a, b) => a - b));
      expect(queue.waiting).toBe(0);
    }
  });
});

describe("Queue", () => {
  test("a loop's code doesn't run before that of a getter who was let in", async () => {
    const queue = new Queue<number>();
    const order: string[] = [];
    void queue.get().then(() => order.push("getter"));
    const loop = queue[Symbol.asyncIterator]();

    queue.tryPut(1);
    queue.tryPut(2);
    void loop.next().then(() => order.push("loop"));
    await turn();

    expect(order).toEqual(["getter", "loop"]);
  });

  test.skipIf(!Bun)(
    "gives its memory back when a crowd has passed (needs Bun)",
    async () => {
      const jsc = "bun:jsc";
      const { heapStats } = await import(jsc);
      const heapSize = (): number => (Bun!.gc(true), heapStats().heapSize);
      const queue = new Queue<number>();
      const before = heapSize();
      const fill = () => {
        for (let n = 0; n < 2 ** 20; n++) queue.tryPut(n);
      };
      const drain = () => {
        while (queue.size > 0) queue.tryGet();
      };
      // What merely looks like a pointer, somewhere on the stack, may keep a crowd that has passed: so
      // the best of some tries counts. A leak is in each.
      let left = Infinity;
      for (let attempt = 0; attempt < 5 && left >= 2 ** 20; attempt++) {
        fill();
        expect(heapSize() - before).toBeGreaterThan(2 ** 22);
        drain();
        await turn();
        left = Math.min(left, heapSize() - before);
      }
      expect(left).toBeLessThan(2 ** 20);
      expect(queue.size).toBe(0);

      const large = new Queue<number[]>();
      const loop = large[Symbol.asyncIterator]();
      for (let n = 0; n < 16; n++) large.tryPut(new Array(2 ** 17).fill(n));
      while (large.size > 0) large.tryGet();
      expect(heapSize() - before).toBeLessThan(2 ** 20);

      for (let n = 0; n < 2 ** 14; n++) {
        const next = loop.next();
        large.tryPut([]);
        await next;
      }

      expect(heapSize() - before).toBeLessThan(2 ** 20);
      expect((await loop.return!()).done).toBe(true);
      // Code that is instrumented, to see which lines the tests reach, takes long.
    },
    60_000,
  );

  test("what comes back from an aborted getter finds room", async () => {
    const queue = new Queue<number>();
    const controller = new AbortController();
    const getting = watch(queue.get({ signal: controller.signal }));
    for (let n = 0; n < 17; n++) queue.tryPut(n);

    controller.abort();

    queue.close();
    expect(await Array.fromAsync(queue)).toEqual(Array.from({ length: 17 }, (_, n) => n));
    expect(getting.state).toBe("rejected");
  });

  test("keeps the order while it grows and shrinks", async () => {
    const queue = new Queue<number>();
    const got: number[] = [];
    for (let n = 0; n < 1000; n++) queue.tryPut(n);
    for (let n = 0; n < 900; n++) got.push(queue.tryGet()!);
    for (let n = 1000; n < 1100; n++) queue.tryPut(n);
    while (queue.size > 0) got.push(queue.tryGet()!);

    expect(got).toEqual(Array.from({ length: 1100 }, (_, n) => n));
  });

  test("releases the permits that an immediate close drops", () => {
    const queue = new Queue<Disposable>();
    const permit = { released: 0, release: () => void permit.released++, [Symbol.dispose]() {} };
    queue.tryPut(permit);

    queue.close({ immediate: true });

    expect(permit.released).toBe(1);
  });

  test("has no limit unless it is given one", () => {
    expect([new Queue().maxSize, new Queue(3).maxSize]).toEqual([Infinity, 3]);
  });

  describe("tryPut() in the turn in which a put() was let in", () => {
    /** Two places are free, and the first `puts` items have been let in, but are not there yet. */
    const letIn = (puts: number, signal?: AbortSignal) => {
      const queue = new Queue<number>(4);
      for (const item of [7, 7, 7, 7]) queue.tryPut(item);
      const putting = [1, 2, 3].slice(0, puts).map((item) => watch(queue.put(item, { signal })));
      for (let n = 0; n < 4; n++) queue.tryGet();
      for (let n = 0; n < 4; n++) queue.done();
      return { queue, putting };
    };

    test.each<{ puts: number; left: number[] }>([
      { puts: 1, left: [1, 4, 5, 6] },
      { puts: 2, left: [1, 2, 4, 5] },
      { puts: 3, left: [1, 2, 3, 4] },
    ])("doesn't overtake it: $left", async ({ puts, left }) => {
      const { queue, putting } = letIn(puts);

      const added = [4, 5, 6].map((item) => queue.tryPut(item));

      expect(added.filter(Boolean)).toHaveLength(4 - puts);
      await turn();
      expect(putting.every(({ state }) => state === "fulfilled")).toBe(true);
      expect(drain(queue)).toEqual(left);
    });

    test("is followed by the next put()", async () => {
      const { queue } = letIn(1);

      queue.tryPut(2);
      const putting = watch(queue.put(3));

      await turn();
      expect(putting.state).toBe("fulfilled");
      expect(drain(queue)).toEqual([1, 2, 3]);
    });

    test("goes on without it when it is aborted", async () => {
      const controller = new AbortController();
      const { queue, putting } = letIn(2, controller.signal);

      queue.tryPut(4);
      controller.abort("aborted");

      await turn();
      expect(putting.map(({ reason }) => reason)).toEqual(["aborted", "aborted"]);
      expect(drain(queue)).toEqual([4]);
    });

    test("gives its item to a getter, or to a loop, after the close", async () => {
      for (const take of [(queue: Queue<number>) => queue.get(), nextOf]) {
        const { queue, putting } = letIn(1);
        queue.tryPut(4);
        queue.close();
        const got = [watch(take(queue)), watch(take(queue))];

        await turn();
        expect(putting[0]!.reason).toBeInstanceOf(QueueClosedError);
        expect(got[0]!.value).toBe(4);
        expect(got[1]!.state).not.toBe("pending");
        expect(got[1]!.value).toBeUndefined();
      }
    });

    test("counts for join() at once", async () => {
      const { queue } = letIn(1);
      queue.tryPut(4);
      const joined = watch(queue.join());
      await turn();
      expect(joined.state).toBe("pending");

      queue.done();
      queue.done();

      await turn();
      expect(joined.state).toBe("fulfilled");
    });

    test("is dropped by an immediate close, which join() waits for", async () => {
      const queue = new Queue<Disposable>(2);
      const permit = { released: 0, release: () => void permit.released++, [Symbol.dispose]() {} };
      const putting = watch(queue.put(permit, {}));
      expect(queue.tryPut(permit)).toBe(true);
      const getting = watch(queue.get());

      queue.close({ immediate: true });
      const joined = watch(queue.join());

      await turn();
      expect([putting.state, getting.state, joined.state]).toEqual([
        "rejected",
        "rejected",
        "fulfilled",
      ]);
      expect([permit.released, queue.size]).toEqual([1, 0]);
    });
  });

  test.each([1, 2, 3])("random schedules keep the order of items (seed %d)", async (seed) => {
    const random = randomFrom(seed);
    let tried = 0;
    for (let round = 0; round < 100; round++) {
      const queue = new Queue<number>(1 + Math.floor(random() * 4));
      const got: number[] = [];
      const lost = new Set<number>();
      const calls: Promise<unknown>[] = [];
      for (let item = 0; item < 40; item++) {
        const controller = new AbortController();
        const options = random() < 0.5 ? { signal: controller.signal } : undefined;
        const action = random();
        if (action < 0.3) calls.push(queue.put(item, options).catch(() => lost.add(item)));
        else if (action < 0.6 && queue.tryPut(item)) tried++;
        else lost.add(item);
        if (action > 0.5) calls.push(queue.get(options).then((it) => got.push(it), ignore));
        for (let hop = Math.floor(random() * 3); hop > 0; hop--) await undefined;
        if (random() < 0.2) controller.abort();
      }
      await turn();
      while (queue.size > 0) {
        got.push(await queue.get());
        await turn();
      }
      queue.close();
      await Promise.all(calls);

      expect(got).toEqual(Array.from({ length: 40 }, (_, n) => n).filter((n) => !lost.has(n)));
    }
    expect(tried).toBeGreaterThan(500);
  });

  describe("with a single permit that is kept, it is a notification", () => {
    const create = () => {
      const queue = new Queue<true>();
      const controller = new AbortController();
      const waits: ReturnType<typeof watch>[] = [];
      const acts: Record<string, () => unknown> = {
        wait: () => waits.push(watch(queue.get())),
        "wait*": () => waits.push(watch(queue.get({ signal: controller.signal }))),
        notify: () => queue.size === 0 && queue.tryPut(true),
        "abort*": () => controller.abort(),
      };
      return { queue, waits, acts };
    };
    const letters: Record<string, string> = { fulfilled: "+", rejected: "x", pending: "-" };

    test.each<[steps: string, outcomes: string, kept: number]>([
      ["notify wait", "+", 0],
      ["notify wait wait", "+-", 0],
      ["wait wait notify", "+-", 0],
      ["wait wait notify notify", "++", 0],
      ["wait wait wait notify turn notify", "++-", 0],
      ["notify notify wait wait", "+-", 0],
      ["notify notify", "", 1],
      ["notify wait wait notify", "++", 0],
      ["wait* wait abort* notify", "x+", 0],
      ["wait* wait notify abort*", "x+", 0],
      ["wait* notify abort* wait", "x+", 0],
      ["wait* notify abort*", "x", 1],
      ["wait* wait wait notify abort*", "x+-", 0],
      ["wait* wait wait* notify notify abort*", "x+x", 1],
      ["wait notify wait* turn abort* notify", "+x", 1],
    ])("%s", async (steps, outcomes, kept) => {
      const { queue, waits, acts } = create();

      for (const step of steps.split(" ")) {
        if (step === "turn") await turn();
        else acts[step]!();
      }
      await turn();

      expect(waits.map(({ state }) => letters[state]).join("")).toBe(outcomes);
      expect([queue.size, queue.waiting]).toEqual([kept, outcomes.split("-").length - 1]);
    });
  });

  test("keeps its items in any store", async () => {
    const items = new Set<string>();
    const queue = new Queue<string>(Infinity, {
      get size() {
        return items.size;
      },
      add: (item) => void items.add(item),
      take: () => {
        const [item] = items as Set<string> & Iterable<string>;
        items.delete(item!);
        return item!;
      },
      putBack: (item) => void items.add(item),
    });

    for (const item of ["a", "b", "a"]) queue.tryPut(item);

    expect([await queue.get(), await queue.get(), queue.tryGet()]).toEqual(["a", "b", undefined]);
  });

  test("a get() that loses a race and is aborted takes nothing", async () => {
    const [left, right] = [new Queue<string>(), new Queue<string>()];
    const controller = new AbortController();
    const { signal } = controller;
    const first = Promise.race([left.get({ signal }), right.get({ signal })]);

    right.tryPut("from the right");
    const item = await first;
    controller.abort();
    left.tryPut("stays");

    expect(item).toBe("from the right");
    expect(left.tryGet()).toBe("stays");
  });

  describe("select()", () => {
    const create = () => [new Queue<string>(), new Stack<string>(), new Queue<string>()] as const;

    test.each([
      { put: [0], taken: 0 },
      { put: [2], taken: 2 },
      { put: [1, 0], taken: 1 },
      { put: [2, 1, 0], taken: 2 },
    ])(
      "takes from the first of $put that receives an item, and leaves the others",
      async (given) => {
        for (let microtasks = 0; microtasks < 8; microtasks++) {
          const queues = create();
          const selecting = Queue.select(queues);
          expect(queues.map(({ waiting }) => waiting)).toEqual([1, 1, 1]);

          for (const n of given.put) {
            queues[n]!.tryPut(`item ${n}`);
            for (let n = 0; n < microtasks; n++) await undefined;
          }
          const { queue, item } = await selecting;

          expect([queues.indexOf(queue), item]).toEqual([given.taken, `item ${given.taken}`]);
          expect(queues.map(({ waiting }) => waiting)).toEqual([0, 0, 0]);
          const left = queues.flatMap((queue) => queue.tryGet() ?? []);
          expect(left).toEqual(
            given.put
              .filter((n) => n !== given.taken)
              .sort()
              .map((n) => `item ${n}`),
          );
        }
      },
    );

    test("of those that have an item already, it takes from the first in the list", async () => {
      const queues = create();
      for (const queue of queues.slice(1)) queue.tryPut("item");

      const selecting = Queue.select(new Set(queues));

      expect(queues.map(({ size, waiting }) => [size, waiting])).toEqual([
        [0, 1],
        [0, 0],
        [1, 0],
      ]);
      expect((await selecting).queue).toBe(queues[1]);
      expect(queues[0].waiting).toBe(0);
    });

    test("waits in line behind those who get from one queue", async () => {
      const [queue, other] = create();
      const ahead = queue.get();
      const selecting = Queue.select([queue, other]);

      queue.tryPut("first");
      queue.tryPut("second");

      expect(await ahead).toBe("first");
      expect(await selecting).toEqual({ queue, item: "second" });
    });

    test.each([-1, 0, 1, 2, 3])(
      "aborted %d microtasks after an item came, it loses nothing",
      async (n) => {
        const queues = create();
        const controller = new AbortController();
        const { signal } = controller;
        const listeners = countListeners(signal);
        const selecting = watch(Queue.select(queues, { signal }));

        if (n < 0) controller.abort("stop");
        for (const queue of queues) queue.tryPut("item");
        for (let hop = 0; hop < n; hop++) await undefined;
        controller.abort("stop");
        await turn();

        const left = queues.map(({ size }) => size).join();
        expect([selecting.reason ?? "item", left]).toEqual(
          n < 1 ? ["stop", "1,1,1"] : ["item", "0,1,1"],
        );
        expect(listeners()).toBe(0);
        expect(queues.map(({ waiting }) => waiting)).toEqual([0, 0, 0]);
      },
    );

    test.each(["before", "while it waits"])(
      "ends with what a queue was closed with, %s",
      async (when) => {
        const queues = create();
        const close = () => queues[1].close({ error: "broken" });
        if (when === "before") close();
        const selecting = watch(Queue.select(queues));
        if (when !== "before") close();

        await turn();
        expect(selecting).toEqual({ state: "rejected", reason: "broken" });
        expect(queues.map(({ waiting }) => waiting)).toEqual([0, 0, 0]);
      },
    );

    test("aborted before, it takes nothing", async () => {
      const [queue, other] = create();
      queue.tryPut("item");
      const signal = AbortSignal.abort("stop");

      const selecting = [[queue], [other]].map((queues) => watch(Queue.select(queues, { signal })));

      expect([queue.size, other.waiting]).toEqual([1, 0]);
      await turn();
      expect(selecting.map(({ reason }) => reason)).toEqual(["stop", "stop"]);
    });

    test.each<[unknown, Error]>([
      [[], new RangeError("the number of queues must be at least 1, received 0")],
      [5, new TypeError("queues must be an iterable of queues, received 5")],
      [undefined, new TypeError("queues must be an iterable of queues, received undefined")],
      [[new Queue(), {}], new TypeError("queues must be an iterable of queues, received Array")],
    ])("refuses %o", async (queues, { name, message }) => {
      const selecting = watch(Queue.select(queues as Queue<string>[]));
      await turn();

      expect(String(selecting.reason)).toBe(`${name}: Cannot select from Queues: ${message}`);
    });
  });

  test("types", () => {
    const queue = new Queue<number>();

    expectTypeOf(queue.get()).toEqualTypeOf<Promise<number>>();
    expectTypeOf(queue.tryGet()).toEqualTypeOf<number | undefined>();
    expectTypeOf(new PriorityQueue<Date>()).toExtend<Queue<Date>>();
    const select = () => Queue.select([queue, new Stack<string>()]);
    expectTypeOf<ReturnType<typeof select>>().toEqualTypeOf<
      Promise<{ queue: Queue<number>; item: number } | { queue: Stack<string>; item: string }>
    >();
  });
});

describe("PriorityQueue", () => {
  test("of equal items the one that came first is next", async () => {
    const queue = new PriorityQueue<[number, string]>(Infinity, (a, b) => a[0] - b[0]);
    for (const name of ["a", "b", "c", "d"]) {
      queue.tryPut([2, name]);
      queue.tryPut([1, name]);
    }

    const names: string[] = [];
    while (queue.size > 0) names.push(queue.tryGet()!.join(""));

    expect(names).toEqual(["1a", "1b", "1c", "1d", "2a", "2b", "2c", "2d"]);
  });

  test("an item that comes back from an aborted getter is before its equals again", async () => {
    const queue = new PriorityQueue<[number, string]>(Infinity, (a, b) => a[0] - b[0]);
    const controller = new AbortController();
    const { signal } = controller;
    const getters = [watch(queue.get({ signal })), watch(queue.get({ signal }))];
    for (const name of ["a", "b", "c"]) queue.tryPut([1, name]);

    controller.abort();
    await turn();

    expect(getters.map(({ state }) => state)).toEqual(["rejected", "rejected"]);
    expect([queue.tryGet(), queue.tryGet(), queue.tryGet()].map((item) => item?.[1]).join("")).toBe(
      "abc",
    );
  });

  test.each([1, 2, 3])("sorts as a stable sort does (seed %d)", (seed) => {
    const random = randomFrom(seed);
    const items = Array.from({ length: 500 }, (_, n) => ({ n, rank: Math.floor(random() * 20) }));
    const queue = new PriorityQueue<{ rank: number }>(Infinity, (a, b) => a.rank - b.rank);
    for (const item of items) queue.tryPut(item);

    const sorted = items.map(() => queue.tryGet());

    expect(sorted).toEqual(items.toSorted((a, b) => a.rank - b.rank));
  });

  test.each([1, 2, 3])("keeps the order while items come and go (seed %d)", (seed) => {
    const random = randomFrom(seed);
    const queue = new PriorityQueue<{ rank: number }>(Infinity, (a, b) => a.rank - b.rank);
    const model: { rank: number }[] = [];
    for (let step = 0; step < 2000; step++) {
      if (random() < 0.52) {
        const item = { rank: Math.floor(random() * 10) };
        queue.tryPut(item);
        const behind = model.findIndex(({ rank }) => rank > item.rank);
        model.splice(behind < 0 ? model.length : behind, 0, item);
      } else {
        expect(queue.tryGet() === model.shift()).toBe(true);
      }
    }
    expect(queue.size).toBe(model.length);
    while (model.length > 0) expect(queue.tryGet() === model.shift()).toBe(true);
  });

  test("gives workers the most urgent job, and equal ones in order", async () => {
    type Job = { name: string; priority: number };
    const jobs = new PriorityQueue<Job>(Infinity, (a, b) => b.priority - a.priority);
    const done: string[] = [];
    const work = async () => {
      for await (const { name } of jobs) {
        done.push(name);
        await undefined;
      }
    };
    const working = work();

    jobs.tryPut({ name: "first", priority: 0 });
    jobs.tryPut({ name: "a", priority: 1 });
    jobs.tryPut({ name: "last", priority: -1 });
    jobs.tryPut({ name: "urgent", priority: 2 });
    jobs.tryPut({ name: "b", priority: 1 });
    jobs.close();
    await working;

    expect(done).toEqual(["first", "urgent", "a", "b", "last"]);
  });

  test("compares strings and dates by value, if not told otherwise", () => {
    const words = new PriorityQueue<string>();
    for (const word of ["b", "c", "a"]) words.tryPut(word);

    expect([words.tryGet(), words.tryGet(), words.tryGet()]).toEqual(["a", "b", "c"]);

    const dates = new PriorityQueue<Date>();
    const equals = Array.from({ length: 9 }, () => new Date(2));
    const early = new Date(1);
    for (const date of [...equals, early]) dates.tryPut(date);

    expect(early).toBe(dates.tryGet()!);
    for (const date of equals) expect(date === dates.tryGet()).toBe(true);
  });

  test("refuses to compare with what is not a function", () => {
    expect(() => new PriorityQueue(1, 5 as never)).toThrow(
      "Cannot create PriorityQueue: compare must be a function, received 5",
    );
  });
});

describe("in every order", () => {
  type Scenario = (world: World) => Promise<void>;
  const kinds = [
    { kind: "Queue", create: (maxSize?: number) => new Queue<number>(maxSize) },
    { kind: "PriorityQueue", create: (maxSize?: number) => new PriorityQueue<number>(maxSize) },
    { kind: "Stack", create: (maxSize?: number) => new Stack<number>(maxSize) },
  ];
  const ofEachKind = kinds.flatMap(({ kind, create }): [string, Scenario][] => [
    [
      `${kind}: a get() that is aborted takes nothing, and its item goes to the next`,
      async (world) => {
        const queue = create();
        const signal = mayAbort(world);
        const [got, came, served]: [number[], string[], string[]] = [[], [], []];
        const get = (name: string, options?: WaitOptions) => async () => {
          came.push(name);
          got.push(await queue.get(options));
          served.push(name);
        };
        const errors = await errorsOf(
          world.spawn("aborted", get("aborted", { signal })),
          world.spawn("patient", get("patient")),
          world.spawn("producer", async () => {
            queue.tryPut(1);
            queue.tryPut(2);
            await world.step("later");
            queue.tryPut(3);
          }),
        );
        for (const error of errors) expect(error).toBe(signal.reason);
        expect(got).toHaveLength(2 - errors.length);
        expect(served).toEqual(came.filter((name) => served.includes(name)));
        expect([...got, ...drain(queue)].sort()).toEqual([1, 2, 3]);
        expect(queue.waiting).toBe(0);
      },
    ],
    [
      `${kind}: a put() that is aborted adds nothing, and its place goes to the next`,
      async (world) => {
        const queue = create(1);
        const signal = mayAbort(world);
        const [added, got]: number[][] = [[], []];
        const put = (item: number, options?: WaitOptions) => async () => {
          await queue.put(item, options);
          added!.push(item);
        };
        const errors = await errorsOf(
          world.spawn("aborted", put(1, { signal })),
          world.spawn("patient", put(2)),
          world.spawn("other", put(3)),
          world.spawn("consumer", async () => {
            for (let n = 0; n < 2; n++) {
              got!.push(await queue.get());
              expect(queue.size).toBeLessThanOrEqual(1);
              await world.step("use it");
            }
          }),
        );
        for (const error of errors) expect(error).toBe(signal.reason);
        expect(added).toHaveLength(3 - errors.length);
        expect([...got!, ...drain(queue)].sort()).toEqual(added!.sort());
        expect(queue.waiting).toBe(0);
      },
    ],
    [
      `${kind}: two loops share all that was put before the close, and end`,
      async (world) => {
        const queue = create(1);
        const [added, got]: number[][] = [[], []];
        const consume = async () => {
          for await (const item of queue) {
            got!.push(item);
            await world.step("use it");
          }
        };
        // It may come with any other step, some microtasks later.
        mayAbort(world, { surely: true }).addEventListener("abort", () => {
          got!.push(...drain(queue));
          queue.close();
        });
        const errors = await errorsOf(
          world.spawn("producer", async () => {
            for (const item of [1, 2, 3]) {
              await queue.put(item);
              added!.push(item);
            }
          }),
          world.spawn("consumer 1", consume),
          world.spawn("consumer 2", consume),
        );
        for (const error of errors) expect(error).toBeInstanceOf(QueueClosedError);
        expect(got!.toSorted()).toEqual(added!);
        expect([queue.size, queue.waiting]).toEqual([0, 0]);
      },
    ],
  ]);

  test.each<[string, Scenario]>([
    ...ofEachKind,
    [
      "Queue: items and getters keep their order, whoever is aborted",
      async (world) => {
        const queue = new Queue<number>();
        const signal = mayAbort(world);
        const came: string[] = [];
        const got: [string, number][] = [];
        const get = (name: string, options?: WaitOptions) => async () => {
          came.push(name);
          const item = await queue.get(options);
          got.push([name, item]);
        };
        const errors = await errorsOf(
          world.spawn("ann", get("ann")),
          world.spawn("bob", get("bob", { signal })),
          world.spawn("cyd", get("cyd")),
          world.spawn("producer", () => {
            for (const item of [1, 2, 3, 4]) queue.tryPut(item);
            return get("producer")();
          }),
        );
        const served = came.filter((name) => name !== "bob" || errors.length === 0);
        expect(got).toEqual(served.map((name, index) => [name, index + 1]));
        expect(drain(queue)).toEqual([1, 2, 3, 4].slice(served.length));
      },
    ],
    [
      "Queue: tryPut() comes after the puts that were let in, whoever is aborted",
      async (world) => {
        const queue = new Queue<number>(2);
        const signal = mayAbort(world);
        const called = [1, 2];
        for (const item of called) queue.tryPut(item);
        const got: number[] = [];
        const put = (item: number, options?: WaitOptions) => async () => {
          called.push(item);
          await queue.put(item, options);
        };
        const errors = await errorsOf(
          world.spawn("aborted", put(3, { signal })),
          world.spawn("patient", put(4)),
          world.spawn("consumer", async () => {
            got.push(...drain(queue));
            if (queue.tryPut(5)) called.push(5);
            await world.step("later");
            got.push(...drain(queue));
          }),
        );
        for (const error of errors) expect(error).toBe(signal.reason);
        got.push(...drain(queue));
        expect(got).toEqual(called.filter((item) => item !== 3 || errors.length === 0));
        expect([queue.size, queue.waiting]).toEqual([0, 0]);
      },
    ],
    [
      "Queue: join() returns when all that was taken is done, or dropped by the close",
      async (world) => {
        const queue = new Queue<number>();
        let unfinished = 0;
        const put = () => {
          queue.tryPut(unfinished++);
          queue.tryPut(unfinished++);
        };
        put();
        mayAbort(world).addEventListener("abort", () => {
          unfinished -= queue.size;
          queue.close({ immediate: true });
        });
        const work = async () => {
          while (queue.tryGet() !== undefined) {
            await world.step("work");
            unfinished--;
            queue.done();
          }
        };
        await Promise.all([
          world.spawn("worker 1", work),
          world.spawn("worker 2", work),
          world.spawn("joiner", async () => {
            await queue.join();
            expect(unfinished).toBe(0);
          }),
        ]);
        expect(() => queue.done()).toThrow(RangeError);
      },
    ],
    [
      "Queue: an immediate close unblocks all, and drops what nobody has received",
      async (world) => {
        const released: number[] = [];
        const lease = (id: number) => {
          const release = () => void released.push(id);
          return { id, release, [Symbol.dispose]: release };
        };
        const queue = new Queue<ReturnType<typeof lease>>(1);
        const signal = mayAbort(world);
        const closing = mayAbort(world, { surely: true });
        closing.addEventListener("abort", () => queue.close({ immediate: true }));
        const [added, got]: number[][] = [[], []];
        const put = (id: number) => async () => {
          await queue.put(lease(id));
          added!.push(id);
        };
        const get = (options?: WaitOptions) => async () => {
          got!.push((await queue.get(options)).id);
          queue.done();
        };
        const errors = await errorsOf(
          world.spawn("putter 1", put(1)),
          world.spawn("putter 2", put(2)),
          world.spawn("aborted", get({ signal })),
          world.spawn("patient", get()),
        );
        for (const error of errors) {
          if (error !== signal.reason) expect(error).toBeInstanceOf(QueueClosedError);
        }
        queue.close({ immediate: true });
        expect([...got!, ...released].sort()).toEqual(added!.sort());
        expect([queue.size, queue.waiting]).toEqual([0, 0]);
        await queue.join();
      },
    ],
    ...[false, true].map((immediate): [string, Scenario] => [
      `Queue: an item, a close${immediate ? ", immediate," : ""} and an abort in one turn`,
      async (world) => {
        const queue = new Queue<number>();
        const signal = mayAbort(world);
        const got: number[] = [];
        const get = (options?: WaitOptions) => async () => void got.push(await queue.get(options));
        const errors = await errorsOf(
          world.spawn("aborted", get({ signal })),
          world.spawn("patient", get()),
          world.spawn("producer", () => {
            queue.tryPut(1);
            queue.close({ immediate });
          }),
        );
        expect(got.length + errors.length).toBe(2);
        const ends = errors.filter((it) => it instanceof QueueClosedError);
        expect(errors.filter((it) => it !== signal.reason)).toEqual(ends);
        // Dropped only if nobody has received it.
        if (immediate) expect(got.length).toBeLessThan(2);
        else expect(got).toEqual([1]);
        expect([queue.size, queue.waiting]).toEqual([0, 0]);
      },
    ]),
    [
      "Queue: never holds more than it has places, whatever comes back from an aborted get()",
      async (world) => {
        const queue = new Queue<number>(1);
        const signal = mayAbort(world);
        const errors = await errorsOf(
          world.spawn("aborted", async () => void (await queue.get({ signal }))),
          world.spawn("producer", async () => {
            for (const item of [1, 2]) queue.tryPut(item);
            await world.step("later");
            expect(queue.size).toBeLessThan(2);
            queue.close();
          }),
        );
        for (const error of errors) expect(error).toBe(signal.reason);
      },
    ],
    [
      "Queue: a close with an error is told after the last item, to each loop once",
      async (world) => {
        const queue = new Queue<number>();
        const error = new Error("broken");
        const [added, got]: number[][] = [[], []];
        const consume = async () => {
          for await (const item of queue) got!.push(item);
        };
        mayAbort(world, { surely: true }).addEventListener("abort", () => queue.close({ error }));
        const errors = await errorsOf(
          world.spawn("consumer 1", consume),
          world.spawn("consumer 2", consume),
          world.spawn("producer", async () => {
            for (const item of [1, 2]) {
              await queue.put(item);
              added!.push(item);
              await world.step("make another");
            }
          }),
        );
        const refused = errors.filter((it) => it !== error);
        expect(errors).toHaveLength(2 + refused.length);
        for (const it of refused) expect(it).toMatchObject({ cause: error });
        expect(got).toEqual(added!);
      },
    ],
    [
      "Queue: a loop that is left while it waits takes nothing",
      async (world) => {
        const queue = new Queue<number>();
        const got: number[] = [];
        const loop = queue[Symbol.asyncIterator]();
        let waiting = 0;
        mayAbort(world).addEventListener("abort", () => {
          void loop.return!();
          waiting = queue.waiting;
        });
        const take = async () => {
          const { done, value } = await loop.next();
          if (!done) got.push(value);
          await loop.return!();
        };
        await Promise.all([
          world.spawn("loop", take),
          world.spawn("patient", async () => void got.push(await queue.get())),
          world.spawn("producer", async () => {
            queue.tryPut(1);
            await world.step("make another");
            queue.tryPut(2);
          }),
        ]);
        expect(waiting).toBeLessThan(2);
        expect([...got, ...drain(queue)].sort()).toEqual([1, 2]);
        expect(queue.waiting).toBe(0);
      },
    ],
    [
      "Queue.select: takes one item of all queues, or none when it is aborted",
      async (world) => {
        const queues = [new Queue<number>(), new Queue<number>()] as const;
        const signal = mayAbort(world);
        const got: number[] = [];
        const errors = await errorsOf(
          world.spawn("select", async () => {
            const { queue, item } = await Queue.select(queues, { signal });
            expect(queue).toBe(queues[item - 1]!);
            got.push(item);
          }),
          world.spawn("producer 1", () => queues[0].tryPut(1)),
          world.spawn("producer 2", () => queues[1].put(2)),
        );
        for (const error of errors) expect(error).toBe(signal.reason);
        expect(got).toHaveLength(1 - errors.length);
        expect([...got, ...queues.flatMap(drain)].sort()).toEqual([1, 2]);
        expect(queues.map((queue) => queue.waiting)).toEqual([0, 0]);
      },
    ],
    [
      "Queue.select: leaves the item of the other queue to one that waits behind it",
      async (world) => {
        const queues = [new Queue<number>(), new Queue<number>()] as const;
        const signal = mayAbort(world);
        const got: number[] = [];
        const produce = async () => {
          for (const [index, queue] of queues.entries()) queue.tryPut(index);
          await world.step("make another");
          queues[1].tryPut(2);
        };
        const errors = await errorsOf(
          world.spawn("select", async () => {
            got.push((await Queue.select(queues, { signal })).item);
          }),
          world.spawn("patient", async () => void got.push(await queues[1].get())),
          world.spawn("producer", produce),
        );
        for (const error of errors) expect(error).toBe(signal.reason);
        expect([...got, ...queues.flatMap(drain)].sort()).toEqual([0, 1, 2]);
        expect(queues.map((queue) => queue.waiting)).toEqual([0, 0]);
      },
    ],
  ])(
    "%s",
    async (_, scenario) => {
      await everyOrder(scenario);
    },
    120_000,
  );
});

function ignore(): void {}

async function nextOf<T>(queue: Queue<T>): Promise<T | void> {
  return (await queue[Symbol.asyncIterator]().next()).value;
}

/** An abort that may come at any moment, or never, unless `surely`. */
function mayAbort(world: World, options?: { surely: boolean }): AbortSignal {
  const controller = new AbortController();
  world.abort(controller, options);
  return controller.signal;
}

function drain<T>(queue: Queue<T>): T[] {
  const items: T[] = [];
  while (queue.size > 0) items.push(queue.tryGet()!);
  return items;
}

/** What those of the tasks have rejected with that have failed. */
async function errorsOf(...tasks: Promise<unknown>[]): Promise<unknown[]> {
  const outcomes = await Promise.allSettled(tasks);
  return outcomes.flatMap((it) => (it.status === "rejected" ? [it.reason] : []));
}

/** A small part of the orders, or all with `bun run test:orders`. */
async function everyOrder(scenario: (world: World) => unknown): Promise<void> {
  const { process } = globalThis as { process?: { env: Record<string, string | undefined> } };
  const all = process?.env["ORDERS"] === "all";
  const part = all ? { maxRuns: 200_000, maxMs: 60_000 } : { maxRuns: 300, maxMs: Infinity };
  const result = await interleavings(scenario, part);
  if (all) console.log(`orders: ${result.runs}`); // summed up by test:orders
}

/** Long enough for all that follows from microtasks. */
async function turn(): Promise<void> {
  for (let hop = 0; hop < 20; hop++) await undefined;
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** What has become of a promise so far. */
function watch<T>(promise: Promise<T>): { state: string; value?: T; reason?: unknown } {
  const watched: { state: string; value?: T; reason?: unknown } = { state: "pending" };
  promise.then(
    (value) => Object.assign(watched, { state: "fulfilled", value }),
    (reason: unknown) => Object.assign(watched, { state: "rejected", reason }),
  );
  return watched;
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

function randomFrom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}
