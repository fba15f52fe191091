import { circuitBreaker, ConsecutiveBreaker, handleAll } from "cockatiel";
import { retry as esToolkitRetry } from "es-toolkit/function";
import pRetry from "p-retry";
import { retry as radashiRetry } from "radashi";

import { CircuitBreaker, retry } from "../../concepts/errors.ts";
import type { Job } from "./rounds.ts";

const N = 1000;
const work = async () => 1;
const breaker = new CircuitBreaker({ failureThreshold: 5, resetAfter: 10_000 });
const policy = circuitBreaker(handleAll, {
  breaker: new ConsecutiveBreaker(5),
  halfOpenAfter: 10_000,
});

const bare = { name: "await", run: () => times(work) };

export const jobs: Job[] = [
  {
    name: "retry, success, × 1,000",
    ours: { name: "retry", run: () => times(() => retry(work)) },
    floor: bare,
    peers: [
      {
        name: "es-toolkit retry",
        givesUp: "aborting a wait, backoff, errors of earlier attempts",
        run: () => times(() => esToolkitRetry(work, 2)),
      },
      {
        name: "radashi retry",
        givesUp: "errors of earlier attempts",
        run: () => times(() => radashiRetry({ times: 3 }, work)),
      },
      {
        name: "p-retry",
        givesUp: "errors of earlier attempts",
        run: () => times(() => pRetry(work, { retries: 2 })),
      },
    ],
    reach: { fastest: 1.1, floor: 3 },
  },
  {
    name: "CircuitBreaker, closed, × 1,000",
    ours: { name: "CircuitBreaker.call", run: () => times(() => breaker.call(work)) },
    floor: bare,
    peers: [
      {
        name: "cockatiel circuitBreaker",
        givesUp: "a signal of its own, limited probes",
        run: () => times(() => policy.execute(work)),
      },
    ],
    reach: { fastest: 0.5, floor: 3.5 },
  },
];

/** Calls one after another, and returns the sum of the results. */
async function times(call: () => Promise<number>): Promise<number> {
  let sum = 0;
  for (let n = 0; n < N; n++) sum += await call();
  return sum;
}
