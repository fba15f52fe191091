import { Effect } from "effect";
import { mapAsync } from "es-toolkit";
import pMap, { pMapIterable } from "p-map";
import pMemoize from "p-memoize";
import { all as radashiAll, parallel } from "radashi";

import {
  asCompleted,
  gather,
  mapConcurrent,
  singleFlight,
  taskGroup,
} from "../../concepts/concurrency.ts";
import type { Job } from "./rounds.ts";

const COUNT = 1_000;
const items = Array.from({ length: COUNT }, (_, index) => index);
const square = async (item: number) => item * item;
const tasks = items.map((item) => async () => item * item);
const effect = (task: () => Promise<number>) => Effect.promise(task);
const unbounded = { concurrency: "unbounded" } as const;
const sum = (numbers: number[]) => numbers.reduce((a, b) => a + b, 0);

const ours = singleFlight(square);
const memoized = pMemoize(square, { cache: false });
const running = new Map<number, Promise<number>>();

const mapOver8 = {
  ours: {
    name: "mapConcurrent",
    run: () => mapConcurrent(items, square, { concurrency: 8 }),
  },
  pMap: {
    name: "p-map",
    givesUp: "waiting for what runs, a signal for the mapper, streams that are silent",
    run: () => pMap(items, square, { concurrency: 8 }),
  },
};

export const jobs: Job[] = [
  {
    name: "mapConcurrent, 1,000 over 8",
    ours: mapOver8.ours,
    floor: { name: "Promise.all", run: () => Promise.all(items.map(square)) },
    peers: [
      {
        name: "radashi parallel",
        givesUp: "stopping at a failure, a signal for the function, sources",
        run: () => parallel(8, items, square),
      },
      mapOver8.pMap,
      {
        name: "es-toolkit mapAsync",
        givesUp: "stopping at a failure, signals, sources",
        run: () => mapAsync(items, square, { concurrency: 8 }),
      },
      {
        name: "Effect.forEach",
        givesUp: "sources that are asynchronous",
        run: () =>
          Effect.runPromise(
            Effect.forEach(items, (item) => Effect.promise(() => square(item)), { concurrency: 8 }),
          ),
      },
    ],
    reach: { fastest: 1, floor: 4 },
    node: { fastest: 1 },
  },
  {
    name: "mapConcurrent, 1,000 over 8, beside p-map",
    ours: mapOver8.ours,
    peers: [mapOver8.pMap],
    reach: { fastest: 0.7 },
    node: { fastest: 0.7 },
  },
  {
    name: "gather, 1,000",
    ours: { name: "gather", run: () => gather(tasks) },
    floor: { name: "Promise.all", run: () => Promise.all(tasks.map((task) => task())) },
    peers: [
      {
        name: "radashi all",
        givesUp: "signals, limits, stopping at a failure",
        run: () => radashiAll(tasks.map((task) => task())),
      },
      {
        name: "p-map",
        givesUp: "waiting for what runs, a signal for the tasks",
        run: () => pMap(tasks, (task) => task()),
      },
      {
        name: "Effect.all",
        run: () => Effect.runPromise(Effect.all(tasks.map(effect), unbounded)),
      },
    ],
    reach: { fastest: 1.5, floor: 2.5 },
    node: { fastest: 1.5 },
  },
  {
    name: "taskGroup, 1,000 spawns",
    ours: {
      name: "taskGroup",
      run: async () =>
        sum(await taskGroup((group) => Promise.all(tasks.map((task) => group.spawn(task))))),
    },
    floor: {
      name: "Promise.all",
      run: async () => sum(await Promise.all(tasks.map((task) => task()))),
    },
    peers: [
      {
        name: "Effect.forEach",
        givesUp: "all errors, tasks that spawn tasks",
        run: async () => sum(await Effect.runPromise(Effect.forEach(tasks, effect, unbounded))),
      },
    ],
    reach: { fastest: 0.7, floor: 4 },
  },
  {
    name: "asCompleted, 1,000",
    ours: {
      name: "asCompleted",
      run: async () => {
        let total = 0;
        for await (const { value } of asCompleted(tasks)) total += value;
        return total;
      },
    },
    floor: {
      name: "Promise.all",
      run: async () => sum(await Promise.all(tasks.map((task) => task()))),
    },
    peers: [
      {
        name: "p-map's pMapIterable",
        givesUp: "signals, waiting for what runs",
        run: async () => {
          let total = 0;
          const results = pMapIterable(tasks, (task) => task(), { preserveOrder: false });
          for await (const value of results) total += value;
          return total;
        },
      },
    ],
    reach: { fastest: 0.8, floor: 5 },
  },
  {
    name: "singleFlight, 1,000 join one",
    ours: {
      name: "singleFlight",
      run: async () => sum(await Promise.all(items.map(() => ours(7)))),
    },
    floor: {
      name: "a Map of promises",
      run: async () => sum(await Promise.all(items.map(() => shared(7)))),
    },
    peers: [
      {
        name: "p-memoize",
        givesUp: "leaving",
        run: async () => sum(await Promise.all(items.map(() => memoized(7)))),
      },
    ],
    reach: { fastest: 1.5, floor: 2 },
  },
];

function shared(key: number): Promise<number> {
  const joined = running.get(key);
  if (joined) return joined;
  const run = square(key).finally(() => running.delete(key));
  running.set(key, run);
  return run;
}
