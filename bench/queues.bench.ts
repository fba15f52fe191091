import { PriorityQueue, Queue } from "../concepts/queues.ts";
import { checkThresholds } from "./thresholds.ts";

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
  {
    name: "a getter, half of them aborted in random order, costs the same in a crowd",
    subject: ["50,000 at once", () => crowd(50_000)],
    baseline: ["1,000, fifty times", () => repeat(50, () => crowd(1000))],
    atMost: 3,
  },
]);

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

async function crowd(size: number): Promise<void> {
  const queue = new Queue<number>();
  const controllers = Array.from({ length: size / 2 }, () => new AbortController());
  const getters = controllers.flatMap(({ signal }) => [queue.get({ signal }), queue.get()]);
  for (const controller of shuffle(controllers)) controller.abort();
  for (let n = 0; n < size / 2; n++) queue.tryPut(n);
  await Promise.allSettled(getters);
}

async function repeat(times: number, run: () => Promise<void>): Promise<void> {
  for (let n = 0; n < times; n++) await run();
}

function shuffle<T>(values: T[]): T[] {
  for (let last = values.length - 1; last > 0; last--) {
    const other = Math.floor(Math.random() * (last + 1));
    [values[last], values[other]] = [values[other]!, values[last]!];
  }
  return values;
}
