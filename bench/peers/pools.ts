import { createPool } from "generic-pool";

import { Pool } from "../../concepts/pools.ts";
import type { Contender, Job } from "./rounds.ts";

type Work = (resource: object) => Promise<number>;
type Use = (work: Work) => Promise<number>;

const COUNT = 1_000;
const RESOURCES = 8;

const work: Work = async () => 1;
const create = async () => ({});

const oneAfterTheOther = (name: string, use: Use, givesUp?: string): Contender => ({
  name,
  ...(givesUp && { givesUp }),
  async run() {
    let sum = 0;
    for (let n = 0; n < COUNT; n++) sum += await use(work);
    return sum;
  },
});
const allAtOnce = (name: string, use: Use, givesUp?: string): Contender => ({
  name,
  ...(givesUp && { givesUp }),
  async run() {
    const results = await Promise.all(Array.from({ length: COUNT }, () => use(work)));
    return results.reduce((sum, one) => sum + one, 0);
  },
});

const ours = new Pool({ create, max: RESOURCES });
const theirs = createPool({ create, destroy: async () => {} }, { max: RESOURCES });

export const jobs: Job[] = [
  {
    name: "Pool.use, idle, 1,000",
    ours: oneAfterTheOther("Pool.use", (fn) => ours.use(fn)),
    floor: oneAfterTheOther("by hand", byHand()),
    peers: [oneAfterTheOther("generic-pool", (fn) => theirs.use(fn) as Promise<number>, "signals")],
    reach: { fastest: 0.6, floor: 2 },
  },
  {
    name: "Pool.use, in line, 1,000 over 8",
    ours: allAtOnce("Pool.use", (fn) => ours.use(fn)),
    floor: allAtOnce("by hand", byHand()),
    peers: [allAtOnce("generic-pool", (fn) => theirs.use(fn) as Promise<number>, "signals")],
    reach: { fastest: 0.6, floor: 2 },
  },
];

/** A list of idle resources, and one of those who wait for them. */
function byHand(): Use {
  const idle: object[] = [];
  const waiting: ((resource: object) => void)[] = [];
  let served = 0;
  let size = 0;
  return async (fn) => {
    let resource = idle.pop();
    if (!resource) {
      if (size < RESOURCES) {
        size++;
        resource = await create();
      } else resource = await new Promise<object>((resolve) => waiting.push(resolve));
    }
    try {
      return await fn(resource);
    } finally {
      if (served < waiting.length) waiting[served++]!(resource);
      else {
        waiting.length = served = 0;
        idle.push(resource);
      }
    }
  };
}
