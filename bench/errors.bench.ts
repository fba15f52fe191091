import { attempt, CircuitBreaker, flattenErrors, retry, splitErrors } from "../concepts/errors.ts";
import { checkThresholds } from "./thresholds.ts";

const breaker = new CircuitBreaker({ failureThreshold: 5, resetAfter: 1000 });
const { signal } = new AbortController();
const work = async () => {};
const fail = () => {
  throw failure;
};
const failure = new Error("failed");
const bare = ["await", () => inARow(work)] as const;
const small = errors(1_000);
const large = errors(20_000);

await checkThresholds([
  {
    name: "1,000 retries that aren't needed, one after another",
    subject: ["retry", () => inARow(() => retry(work))],
    baseline: bare,
    atMost: 4.2,
  },
  {
    name: "1,000 retries that aren't needed, with a signal",
    subject: ["retry", () => inARow(() => retry(work, { signal }))],
    baseline: bare,
    atMost: 6.5,
  },
  {
    name: "1,000 calls through a closed circuit, one after another",
    subject: ["CircuitBreaker.call", () => inARow(() => breaker.call(work))],
    baseline: bare,
    atMost: 4,
  },
  {
    name: "1,000 errors as values",
    subject: ["attempt", () => times(1_000, () => attempt(fail))],
    baseline: ["try/catch", () => times(1_000, caught)],
    atMost: 2,
  },
  {
    name: "splitting costs the same per error, however many there are",
    subject: ["20,000 errors", () => splitErrors(large, RangeError)],
    baseline: ["20 times 1,000", () => times(20, () => splitErrors(small, RangeError))],
    atMost: 2,
  },
  {
    name: "flattening costs the same per error, however many there are",
    subject: ["20,000 errors", () => flattenErrors(large)],
    baseline: ["20 times 1,000", () => times(20, () => flattenErrors(small))],
    atMost: 2,
  },
  {
    name: "cancelling costs the same per retry in a crowd that shares one signal",
    subject: ["20,000 retries", () => cancel(20_000)],
    baseline: ["20 times 1,000", () => inARow(() => cancel(1_000), 20)],
    atMost: 2,
  },
]);

async function inARow(call: () => Promise<unknown>, count = 1_000): Promise<void> {
  for (let i = 0; i < count; i++) await call();
}

function caught(): unknown {
  try {
    return fail();
  } catch (error) {
    return error;
  }
}

function times(count: number, fn: () => unknown): void {
  for (let i = 0; i < count; i++) fn();
}

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
