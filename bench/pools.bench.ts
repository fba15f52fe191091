import { Pool } from "../concepts/pools.ts";
import { checkThresholds } from "./thresholds.ts";

const work = async () => {};
const pool = new Pool({ create: work, max: 1 });

await checkThresholds([
  {
    name: "a resource that is idle",
    subject: ["Pool.use", () => pool.use(work)],
    baseline: ["await", async () => await work()],
    atMost: 40,
  },
  {
    name: "leaving costs the same in a long line",
    subject: ["100,000 waiters cancelled, last first", () => cancel(100_000)],
    baseline: ["1,000", () => cancel(1_000)],
    atMost: 400,
  },
  {
    name: "one signal for all costs the same in a long line",
    subject: ["100,000 waiters with one signal", () => cancelTogether(100_000)],
    baseline: ["1,000", () => cancelTogether(1_000)],
    atMost: 400,
  },
]);

async function cancel(count: number): Promise<void> {
  const line = new Pool({ create: work, max: 1 });
  await line.acquire();
  const controllers = Array.from({ length: count }, () => new AbortController());
  const waiting = controllers.map(({ signal }) => line.acquire({ signal }));
  for (const controller of controllers.reverse()) controller.abort();
  await Promise.allSettled(waiting);
}

async function cancelTogether(count: number): Promise<void> {
  const line = new Pool({ create: work, max: 1 });
  await line.acquire();
  const controller = new AbortController();
  const waiting = Array.from({ length: count }, () => line.acquire({ signal: controller.signal }));
  controller.abort();
  await Promise.allSettled(waiting);
}
