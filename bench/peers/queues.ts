import { Channel } from "async-channel";
import { Effect, Queue as EffectQueue } from "effect";

import { Queue } from "../../concepts/queues.ts";
import type { Job } from "./rounds.ts";

const COUNT = 10_000;
const PLACES = 16;

export const jobs: Job[] = [
  {
    name: "Queue: 10,000 put and get through 16 places",
    ours: {
      name: "Queue",
      run: () => {
        const queue = new Queue<number>(PLACES);
        return exchange(
          (item) => queue.put(item),
          () => queue.get(),
        );
      },
    },
    floor: {
      name: "two awaits for each",
      run: async () => {
        const pass = async (item: number) => item;
        let sum = 0;
        for (let n = 0; n < COUNT; n++) sum += await pass(await pass(n));
        return sum;
      },
    },
    peers: [
      {
        name: "async-channel",
        givesUp: "cancel, join",
        run: () => {
          const channel = new Channel<number>(PLACES);
          return exchange(
            (item) => channel.push(item),
            () => channel.get(),
          );
        },
      },
      {
        name: "Effect's Queue",
        run: () => {
          const job = Effect.gen(function* () {
            const queue = yield* EffectQueue.bounded<number>(PLACES);
            const produce = Effect.gen(function* () {
              for (let n = 0; n < COUNT; n++) yield* EffectQueue.offer(queue, n);
            });
            const consume = Effect.gen(function* () {
              let sum = 0;
              for (let n = 0; n < COUNT; n++) sum += yield* EffectQueue.take(queue);
              return sum;
            });
            const [, sum] = yield* Effect.all([produce, consume], { concurrency: 2 });
            return sum;
          });
          return Effect.runPromise(job);
        },
      },
    ],
    reach: { fastest: 0.6, floor: 2 },
  },
];

async function exchange(
  put: (item: number) => Promise<unknown>,
  get: () => Promise<number>,
): Promise<number> {
  const produce = async () => {
    for (let n = 0; n < COUNT; n++) await put(n);
  };
  const consume = async () => {
    let sum = 0;
    for (let n = 0; n < COUNT; n++) sum += await get();
    return sum;
  };
  const [, sum] = await Promise.all([produce(), consume()]);
  return sum;
}
