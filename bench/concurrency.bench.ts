import {
  asCompleted,
  gather,
  mapConcurrent,
  singleFlight,
  taskGroup,
} from "../concepts/concurrency.ts";
import { checkThresholds } from "./thresholds.ts";

const work = async () => {};
const tasks = Array.from({ length: 1_000 }, () => work);
const items = Array.from({ length: 1_000 }, (_, index) => index);
const fly = singleFlight(work);
const running = new Map<unknown, Promise<void>>();
const promiseAll = ["Promise.all", () => Promise.all(tasks.map((task) => task()))] as const;

await checkThresholds([
  {
    name: "1,000 tasks at once",
    subject: ["gather", () => gather(tasks)],
    baseline: promiseAll,
    atMost: 3.2,
  },
  {
    name: "1,000 tasks, 10 at once",
    subject: ["gather", () => gather(tasks, { concurrency: 10 })],
    baseline: ["ten loops that share a list", () => loops(10)],
    atMost: 3,
  },
  {
    name: "1,000 tasks spawned",
    subject: ["taskGroup", () => taskGroup(({ spawn }) => tasks.forEach((task) => spawn(task)))],
    baseline: promiseAll,
    atMost: 4,
  },
  {
    name: "1,000 results as they come",
    subject: ["asCompleted", () => drain(asCompleted(tasks))],
    baseline: promiseAll,
    atMost: 6.5,
  },
  {
    name: "1,000 items, 8 at once",
    subject: ["mapConcurrent", () => mapConcurrent(items, work, { concurrency: 8 })],
    baseline: promiseAll,
    atMost: 5.5,
  },
  {
    name: "1,000 items of a stream, one at a time",
    subject: ["mapConcurrent", () => mapConcurrent(stream(), work, { concurrency: 1 })],
    baseline: ["for await", () => forAwait()],
    atMost: 3,
  },
  {
    name: "1,000 callers join one run",
    subject: ["singleFlight", () => Promise.all(items.map(() => fly()))],
    baseline: ["a Map of promises", () => Promise.all(items.map(() => shared()))],
    atMost: 2,
  },
  {
    name: "20,000 tasks that listen to their signal: in one crowd / in 20",
    subject: ["20,000", () => gatherListening(20_000)],
    baseline: ["20 x 1,000", () => repeat(20, () => gatherListening(1_000))],
    atMost: 2.5,
  },
  {
    name: "20,000 tasks that fail: in one crowd / in 20",
    subject: ["20,000", () => gatherFailing(20_000)],
    baseline: ["20 x 1,000", () => repeat(20, () => gatherFailing(1_000))],
    atMost: 2.5,
  },
  {
    name: "20,000 callers with one signal join a run: in one crowd / in 20",
    subject: ["20,000", () => join(20_000)],
    baseline: ["20 x 1,000", () => repeat(20, () => join(1_000))],
    atMost: 2.5,
  },
]);

async function repeat(times: number, act: () => Promise<unknown>): Promise<void> {
  for (let n = 0; n < times; n++) await act();
}

async function loops(concurrency: number): Promise<void[]> {
  const queue = tasks.values();
  const results: void[] = [];
  const loop = async () => {
    for (const task of queue) results.push(await task());
  };
  await Promise.all(Array.from({ length: concurrency }, loop));
  return results;
}

async function forAwait(): Promise<void[]> {
  const results: void[] = [];
  for await (const _ of stream()) results.push(await work());
  return results;
}

async function* stream(): AsyncGenerator<number> {
  yield* items;
}

async function drain(source: AsyncIterable<unknown>): Promise<void> {
  for await (const _ of source);
}

function shared(): Promise<void> {
  const joined = running.get(undefined);
  if (joined) return joined;
  const run = work().finally(() => running.delete(undefined));
  running.set(undefined, run);
  return run;
}

async function gatherListening(count: number): Promise<void> {
  const listening = async (signal: AbortSignal) => {
    const listener = () => {};
    signal.addEventListener("abort", listener);
    await undefined;
    signal.removeEventListener("abort", listener);
  };
  const { signal } = new AbortController();
  await gather(Array(count).fill(listening), { signal });
}

async function gatherFailing(count: number): Promise<void> {
  const failing = () => Promise.reject(new Error("failed"));
  await gather(Array(count).fill(failing)).catch(() => {});
}

async function join(count: number): Promise<void> {
  const { signal } = new AbortController();
  await Promise.all(Array.from({ length: count }, () => fly(undefined, { signal })));
}
