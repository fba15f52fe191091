import { type AsyncMock, asyncMock, controlled, spyOn } from "../concepts/mocks.ts";
import { checkThresholds } from "./thresholds.ts";

const answer = async (n: number) => n;

await checkThresholds([
  {
    name: "100 calls that are recorded and awaited",
    subject: ["asyncMock", () => callInTurn(asyncMock(answer))],
    baseline: ["async function", () => callInTurn(answer)],
    atMost: 12,
  },
  {
    name: "100 calls that are settled by hand",
    subject: ["controlled", settleByHand],
    baseline: ["Promise.withResolvers", resolveByHand],
    atMost: 7,
  },
  {
    name: "100 mocks that are made and called once",
    subject: ["asyncMock", () => callEach(() => asyncMock(answer))],
    baseline: ["async function", () => callEach(() => async (n) => n)],
    atMost: 38,
  },
  {
    name: "a method that is replaced and put back",
    subject: ["spyOn", replaceMethod],
    baseline: ["two assignments", assignMethod],
    atMost: 25,
  },
  {
    name: "5,000 calls: recording costs the same in a crowd",
    subject: ["5,000 of one mock", () => callTogether(asyncMock(answer), 5_000)],
    baseline: ["100 of each of 50 mocks", () => repeat(() => callTogether(asyncMock(answer), 100))],
    atMost: 2,
  },
  {
    name: "5,000 open calls: aborting costs the same in a crowd",
    subject: ["5,000 with one signal", () => abortTogether(5_000)],
    baseline: ["100 with each of 50 signals", () => repeat(() => abortTogether(100))],
    atMost: 3,
  },
]);

async function callInTurn(fn: typeof answer): Promise<void> {
  for (let n = 0; n < 100; n++) await fn(n);
}

async function callEach(make: () => typeof answer): Promise<void> {
  for (let n = 0; n < 100; n++) await make()(n);
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

async function replaceMethod(): Promise<number> {
  const object = { answer };
  using _spy = spyOn(object, "answer");
  return await object.answer(1);
}

async function assignMethod(): Promise<number> {
  const object = { answer };
  object.answer = (n) => answer(n);
  const result = await object.answer(1);
  object.answer = answer;
  return result;
}

async function repeat(task: () => Promise<void>): Promise<void> {
  for (let n = 0; n < 50; n++) await task();
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
