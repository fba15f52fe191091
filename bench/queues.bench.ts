import { PriorityQueue, Queue } from "../concepts/queues.ts";
import { checkCrowd, checkThresholds } from "./thresholds.ts";

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

await checkCrowd("Queue.get", () => {
  const queue = new Queue<number>();
  const wake = (count: number) => {
    for (let n = 0; n < count; n++) queue.tryPut(n);
  };
  return { wait: (options) => queue.get(options), wake };
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
