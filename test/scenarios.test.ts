/**
 * The scenarios of the pages, on Bun: each broken version fails in those orders in which its bug
 * shows, and in no other; each mended version holds in all.
 */
import { afterAll, describe, expect, spyOn, test } from "bun:test";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import {
  interleavings,
  type InterleavingsEvent,
  type InterleavingsOrder,
  type World,
} from "../concepts/interleavings.ts";
import { SCENARIOS } from "../page/scenarios.ts";

const folder = await mkdtemp(join(tmpdir(), "scenarios-"));
afterAll(() => rm(folder, { recursive: true }));

/** When a lane was first in such a state. */
type When = (lane: string, state: string | RegExp) => number;

/** Whether two tasks have both looked before either has acted. */
const overlap = (lanes: string[], when: When, look: string, act: RegExp): boolean =>
  lanes.some((one, i) =>
    lanes
      .slice(i + 1)
      .some((other) => when(one, look) < when(other, act) && when(other, look) < when(one, act)),
  );

/** For each bug, how many orders there are, and whether it shows in one. */
const EXPECTED: Record<string, [broken: number, mended: number, shows: (when: When) => boolean]> = {
  "lost-update": [1680, 72, (when) => overlap(["ann", "bob", "eve"], when, "read", /^write/)],
  "check-then-act": [
    20,
    6,
    (when) => overlap(["phone", "laptop"], when, "is ann free?", /^(take|give)/),
  ],
  "cache-stampede": [
    66,
    18,
    (when) => {
      const readers = ["ann", "bob", "eve"];
      const loaded = Math.min(...readers.map((lane) => when(lane, "load the menu")));
      return readers.filter((lane) => when(lane, "starts") < loaded).length > 1;
    },
  ],
  "stale-response": [
    90,
    90,
    (when) => {
      const [one, other, latest] = ["t", "te", "tea"].map((it) => when(`search ${it}`, "reply"));
      return latest! < Math.max(one!, other!);
    },
  ],
  "lost-permit": [
    57,
    57,
    (when) => {
      // Between the release and the moment in which the waiter hears of it.
      const met = when("holder", "work, abort 1 microtask later");
      const waits = when("waiter", "starts");
      return met < Infinity && when("holder", "starts") < waits && waits < met;
    },
  ],
  "lost-wake-up": [
    24,
    24,
    (when) =>
      ["reader 1", "reader 2"].some(
        (lane) =>
          when(lane, "starts") < when("writer", "starts") &&
          when("writer", "starts") < when(lane, "about to wait"),
      ),
  ],
  "two-locks": [
    8,
    6,
    (when) => {
      const lanes = ["ann to bob", "bob to ann"];
      const locked = Math.min(...lanes.map((lane) => when(lane, /^has locked/)));
      return lanes.every((lane) => when(lane, "starts") < locked);
    },
  ],
  philosophers: [
    90,
    55,
    // Everybody finds the fork of the neighbour taken.
    (when) =>
      [
        ["plato", "kant"],
        ["kant", "hume"],
        ["hume", "plato"],
      ].every(([one, right]) => when(right!, "starts") < when(one!, /^has fork/)),
  ],
};

describe.each(SCENARIOS)("$name", ({ name, broken, mended }) => {
  const [brokenOrders, mendedOrders, shows] = EXPECTED[name]!;

  test("broken, it fails in the orders in which the bug shows", async () => {
    const orders = await explore(`${name}-broken`, broken);

    expect(orders).toHaveLength(brokenOrders);
    const failing = orders.filter(({ error }) => error);
    const showing = orders.filter(({ events }) => shows(whenOf(events)));
    expect(failing.length).toBeGreaterThan(0);
    expect(failing.map(toSchedule)).toEqual(showing.map(toSchedule));
    expect(new Set(failing.map(({ error }) => error!.kind)).size).toBe(1);
  });

  test("mended, it holds in all orders", async () => {
    const orders = await explore(`${name}-mended`, mended);

    expect(orders).toHaveLength(mendedOrders);
    expect(orders.filter(({ error }) => error).map(toSchedule)).toEqual([]);
  });
});

async function explore(name: string, code: string): Promise<InterleavingsOrder[]> {
  const path = join(folder, `${name}.js`);
  const concepts = join(import.meta.dir, "../concepts");
  await Bun.write(path, code.replace(/"\.\/([\w-]+)\.js"/g, `"${concepts}/$1.ts"`));
  const { scenario }: { scenario: (world: World) => Promise<void> } = await import(path);
  const orders: InterleavingsOrder[] = [];
  // A deadlock is named after some milliseconds, for what may happen outside. In a scenario nothing
  // does, and as many turns of the event loop will do.
  using _ = spyOn(globalThis, "setTimeout").mockImplementation(((turn: () => void) =>
    setImmediate(turn)) as unknown as typeof setTimeout);
  const { exhaustive } = await interleavings(scenario, {
    maxMs: Infinity,
    onOrder: (order) => orders.push(order) > 0,
  });
  expect(exhaustive).toBe(true);
  return orders;
}

function toSchedule({ schedule }: InterleavingsOrder): string {
  return schedule;
}

function whenOf(events: readonly InterleavingsEvent[]): When {
  return (lane, state) => {
    const index = events.findIndex(
      (event) =>
        event.lane === lane &&
        (typeof state === "string" ? event.state === state : state.test(event.state)),
    );
    return index < 0 ? Infinity : index;
  };
}
