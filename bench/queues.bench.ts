import { PriorityQueue, Queue } from "../concepts/queues.ts";
import { checkThresholds, judge } from "./thresholds.ts";

await checkThresholds([
  {
    name: "1,000 items through 16 places, per item",
    subject: ["Queue", () => exchange(new Queue(16))],
    baseline: ["two awaits for each", passOn],
    atMost: 2.7,
  },
  {
    name: "1,000 items in a loop, per item",
    subject: ["for await of a Queue", consume],
    baseline: ["for await of a generator", consumeGenerator],
    atMost: 2,
  },
  {
    name: "1,000 items by priority, per item",
    subject: ["PriorityQueue", () => exchange(new PriorityQueue(16))],
    baseline: ["Queue", () => exchange(new Queue(16))],
    atMost: 2,
  },
]);

await checkCrowd("Queue.get", (controllers) => {
  const queue = new Queue<number>();
  const getters = controllers.flatMap(({ signal }) => [queue.get({ signal }), queue.get()]);
  return () => {
    for (let n = 0; n < controllers.length; n++) queue.tryPut(n);
    return Promise.allSettled(getters);
  };
});

async function exchange(queue: Queue<number>): Promise<void> {
  const produce = async () => {
    for (let n = 0; n < 1000; n++) await queue.put(n);
  };
  const work = async () => {
    for (let n = 0; n < 1000; n++) await queue.get();
  };
  await Promise.all([produce(), work()]);
}

async function passOn(): Promise<void> {
  const pass = async (item: number) => item;
  for (let n = 0; n < 1000; n++) await pass(await pass(n));
}

async function consume(): Promise<void> {
  const queue = new Queue<number>();
  for (let n = 0; n < 1000; n++) queue.tryPut(n);
  queue.close();
  for await (const _ of queue);
}

async function consumeGenerator(): Promise<void> {
  const generator = async function* () {
    for (let n = 0; n < 1000; n++) yield n;
  };
  for await (const _ of generator());
}

function shuffle<T>(values: T[]): T[] {
  for (let last = values.length - 1; last > 0; last--) {
    const other = Math.floor(Math.random() * (last + 1));
    [values[last], values[other]] = [values[other]!, values[last]!];
  }
  return values;
}

/** Brings waiters in line, half of them with a signal each; returns what lets all of them go. */
type Crowd = (controllers: AbortController[]) => () => Promise<unknown>;

/** Judges what a waiter costs in a crowd, held against one in a crowd of a tenth. */
async function checkCrowd(name: string, crowd: Crowd): Promise<void> {
  const isQuick = process.env["BENCH"] === "quick";
  const size = isQuick ? 100_000 : 1_000_000;
  let ratios = { time: NaN, memory: NaN };
  const measureAll = async () => {
    await perWaiter(crowd, 10_000); // Warm.
    const few = await perWaiter(crowd, size / 10);
    const many = await perWaiter(crowd, size);
    ratios = { time: many.time / few.time, memory: many.memory / few.memory };
  };
  for (const unit of ["time", "memory"] as const) {
    const threshold = {
      name: `${unit} per waiter, of whom half are aborted in random order`,
      subject: [`${name}, ${size}`, doNothing],
      baseline: [`${size / 10}`, doNothing],
      atMost: (unit === "time" ? 2 : 1.2) * (isQuick ? 2 : 1),
    } as const;
    const { met, line } = await judge(threshold, async () => {
      if (unit === "time") await measureAll();
      return { low: ratios[unit], median: ratios[unit], high: ratios[unit] };
    });
    console.log(line);
    if (!met) process.exitCode = 1;
  }
}

async function perWaiter(crowd: Crowd, size: number): Promise<{ time: number; memory: number }> {
  const controllers = Array.from({ length: size / 2 }, () => new AbortController());
  const before = await heapSize();
  const start = performance.now();
  const letGo = crowd(controllers);
  const arrived = performance.now();
  const memory = (await heapSize()) - before;
  const restart = performance.now();
  for (const controller of shuffle(controllers)) controller.abort();
  await letGo();
  const ms = arrived - start + (performance.now() - restart);
  return { time: ms / size, memory: memory / size };
}

async function heapSize(): Promise<number> {
  await new Promise((resolve) => setImmediate(resolve));
  Bun.gc(true);
  return process.memoryUsage().heapUsed;
}

function doNothing(): void {}
