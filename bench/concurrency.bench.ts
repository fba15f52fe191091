import { gather, mapConcurrent, singleFlight, taskGroup } from "../concepts/concurrency.ts";
import { checkThresholds } from "./thresholds.ts";

const work = async () => {};
const tasks = Array.from({ length: 100 }, () => work);
const items = Array.from({ length: 1000 }, (_, index) => index);
const fly = singleFlight(work);

await checkThresholds([
  {
    name: "100 tasks at once",
    subject: ["gather", () => gather(tasks)],
    baseline: ["Promise.all", () => Promise.all(tasks.map((task) => task()))],
    atMost: 40,
  },
  {
    name: "100 tasks, 10 at once",
    subject: ["gather", () => gather(tasks, { concurrency: 10 })],
    baseline: ["ten loops that share a list", () => loops(10)],
    atMost: 30,
  },
  {
    name: "100 tasks that nobody awaits",
    subject: ["taskGroup", () => taskGroup(({ spawn }) => tasks.forEach(spawn))],
    baseline: ["Promise.all", () => Promise.all(tasks.map((task) => task()))],
    atMost: 50,
  },
  {
    name: "1,000 items, one at a time",
    subject: ["mapConcurrent", () => mapConcurrent(stream(), work, { concurrency: 1 })],
    baseline: ["for await", () => forAwait()],
    atMost: 30,
  },
  {
    name: "joining a run",
    subject: ["100 calls of singleFlight", () => Promise.all(tasks.map(() => fly()))],
    baseline: ["Promise.all", () => Promise.all(tasks.map((task) => task()))],
    atMost: 25,
  },
  {
    name: "a task costs the same in a crowd",
    subject: ["100,000 tasks that listen to their signal", () => gatherListening(100_000)],
    baseline: ["1,000", () => gatherListening(1_000)],
    atMost: 600,
  },
  {
    name: "a failure costs the same in a crowd",
    subject: ["100,000 tasks that fail", () => gatherFailing(100_000)],
    baseline: ["1,000", () => gatherFailing(1_000)],
    atMost: 600,
  },
  {
    name: "joining a run costs the same in a crowd with one signal",
    subject: ["100,000 callers", () => join(100_000)],
    baseline: ["1,000", () => join(1_000)],
    atMost: 600,
  },
]);

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
