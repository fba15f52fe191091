import { attempt, CircuitBreaker, flattenErrors, retry, splitErrors } from "../concepts/errors.ts";
import { checkThresholds } from "./thresholds.ts";

const breaker = new CircuitBreaker({ failureThreshold: 5, resetAfter: 1000 });
const { signal } = new AbortController();
const work = async () => {};
const fail = () => {
  throw failure;
};
const failure = new Error("failed");
const small = errors(1_000);
const large = errors(100_000);

await checkThresholds([
  {
    name: "a retry that isn't needed",
    subject: ["retry", () => retry(work, { signal })],
    baseline: ["await", async () => await work()],
    atMost: 4,
  },
  {
    name: "a retry that isn't needed, with a signal of its own",
    subject: ["retry", () => retry(work)],
    baseline: ["await", async () => await work()],
    atMost: 30,
  },
  {
    name: "a call through a closed circuit",
    subject: ["CircuitBreaker.call", () => breaker.call(work, { signal })],
    baseline: ["await", async () => await work()],
    atMost: 4,
  },
  {
    name: "an error as a value",
    subject: ["attempt", () => attempt(fail)],
    baseline: [
      "try/catch",
      () => {
        try {
          return fail();
        } catch (error) {
          return error;
        }
      },
    ],
    atMost: 5,
  },
  {
    name: "splitting costs the same per error, however many there are",
    subject: ["splitErrors of 100,000", () => splitErrors(large, RangeError)],
    baseline: ["1,000", () => splitErrors(small, RangeError)],
    atMost: 400,
  },
  {
    name: "flattening costs the same per error, however many there are",
    subject: ["flattenErrors of 100,000", () => flattenErrors(large)],
    baseline: ["1,000", () => flattenErrors(small)],
    atMost: 400,
  },
  {
    name: "waiting costs the same in a crowd that shares one signal",
    subject: ["100,000 retries cancelled", () => cancel(100_000)],
    baseline: ["1,000", () => cancel(1_000)],
    atMost: 500,
  },
]);

/** Groups of ten, in each of which half are RangeErrors. */
function errors(count: number): AggregateError {
  const groups = Array.from({ length: count / 10 }, () => {
    const errors = Array.from({ length: 10 }, (_, i) => new (i % 2 ? RangeError : TypeError)());
    return new AggregateError(errors);
  });
  return new AggregateError(groups);
}

async function cancel(count: number): Promise<void> {
  const controller = new AbortController();
  const retrying = Array.from({ length: count }, () =>
    retry(fail, { baseDelay: 60_000, jitter: "none", signal: controller.signal }),
  );
  controller.abort();
  await Promise.allSettled(retrying);
}
