import { asyncMock } from "../../concepts/mocks.ts";
import type { Job } from "./rounds.ts";

type Fn = (n: number) => Promise<number>;

const CALLS = 1000;
const answer: Fn = async (n) => n;

// There is no mock on Node that is as strong as Bun's own, and no row for Node.
const bunTest = "bun:test";
const { mock } = (
  "Bun" in globalThis ? await import(bunTest) : { mock: (fn: Fn) => fn }
) as typeof import("bun:test");

export const jobs: Job[] = [
  {
    name: "asyncMock call",
    ours: { name: "asyncMock", run: () => callInTurn(asyncMock(answer)) },
    floor: { name: "the async function itself", run: () => callInTurn(answer) },
    peers: [{ name: "bun:test mock", givesUp: "who awaited", run: () => callInTurn(mock(answer)) }],
    reach: { fastest: 1.5 },
  },
];

/** Calls and awaits a new mock, as often as a busy test does. */
async function callInTurn(fn: Fn): Promise<number> {
  let sum = 0;
  for (let n = 0; n < CALLS; n++) sum += await fn(n);
  return sum;
}
