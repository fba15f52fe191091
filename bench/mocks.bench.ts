import { type AsyncMock, asyncMock, controlled } from "../concepts/mocks.ts";
import { checkThresholds } from "./thresholds.ts";

const answer = async (n: number) => n;

await checkThresholds([
  {
    name: "100 calls that are recorded and awaited",
    subject: ["asyncMock", () => callInTurn(asyncMock(answer))],
    baseline: ["async function", () => callInTurn(answer)],
    atMost: 40,
  },
  {
    name: "100 calls that are settled by hand",
    subject: ["controlled", settleByHand],
    baseline: ["Promise.withResolvers", resolveByHand],
    atMost: 20,
  },
  {
    name: "recording costs the same after many calls",
    subject: ["20,000 calls", () => callTogether(asyncMock(answer), 20_000)],
    baseline: ["200", () => callTogether(asyncMock(answer), 200)],
    atMost: 700,
  },
  {
    name: "aborting costs the same with many calls open",
    subject: ["20,000 calls with one signal", () => abortTogether(20_000)],
    baseline: ["200", () => abortTogether(200)],
    atMost: 700,
  },
  {
    name: "a wait for a call that was aborted costs later calls nothing",
    subject: ["after 10,000 waits", await callerAfter(10_000)],
    baseline: ["after none", await callerAfter(0)],
    atMost: 3,
  },
]);

async function callInTurn(fn: typeof answer): Promise<void> {
  for (let n = 0; n < 100; n++) await fn(n);
}

async function settleByHand(): Promise<void> {
  const mock = controlled<typeof answer>();
  for (let n = 0; n < 100; n++) {
    const promise = mock(n);
    mock.calls[n]!.resolve(n);
    await promise;
  }
}

async function resolveByHand(): Promise<void> {
  for (let n = 0; n < 100; n++) {
    const { promise, resolve } = Promise.withResolvers<number>();
    resolve(n);
    await promise;
  }
}

async function callTogether(mock: AsyncMock<typeof answer>, count: number): Promise<void> {
  await Promise.all(Array.from({ length: count }, (_, n) => mock(n)));
}

async function abortTogether(count: number): Promise<void> {
  const controller = new AbortController();
  const mock = controlled<(signal: AbortSignal) => Promise<void>>();
  const calls = Array.from({ length: count }, () => mock(controller.signal));
  controller.abort();
  await Promise.allSettled(calls);
}

/** Calls a mock, for whose calls others have given up waiting. */
async function callerAfter(waits: number): Promise<() => Promise<void>> {
  const controller = new AbortController();
  const mock = asyncMock(answer);
  const waiting = Array.from({ length: waits }, () =>
    mock.nthCall(101, { signal: controller.signal }),
  );
  controller.abort();
  await Promise.allSettled(waiting);
  return () => callInTurn(mock.reset());
}
