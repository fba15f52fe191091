/**
 * What people try first with each demo. A knob is an edit of the code: turning it rewrites a number
 * there, so that the code always says what runs.
 */
export interface Knob {
  label: string;
  /** Matches once. All its groups are rewritten; the first is what the knob reads. */
  at: RegExp;
  min: number;
  max: number;
  step?: number;
  /** `"list"` for a list of as many numbers: `1, 2, 3`. */
  kind?: "number" | "list";
}

const ms = { min: 0, max: 500, step: 10 };
const some = { min: 1, max: 6 };

export const KNOBS: Record<string, readonly Knob[]> = {
  "async-basics": [
    { label: "The setup takes (ms)", at: /sleep\(([\d_]+)\)\.then\(\(\) => \(isReady/d, ...ms },
    { label: "It is polled every (ms)", at: /interval: (\d+)/d, min: 5, max: 100, step: 5 },
    { label: "Called off after (ms)", at: /sleep\((\d+)\)\.then\(\(\) => calledOff/d, ...ms },
  ],
  concurrency: [
    { label: "At a time", at: /concurrency: (\d+)/d, ...some },
    {
      label: "Tasks",
      at: /of \[([\d, ]+)\][^]*gather\(\[([\d, ]+)\]/d,
      min: 1,
      max: 8,
      kind: "list",
    },
    {
      label: "The one that fails",
      at: /n === (\d+) \?[^]*n === (\d+)\) throw new Error\("task (\d+)/d,
      min: 1,
      max: 8,
    },
    { label: "Cleaning up takes (ms)", at: /await sleep\((\d+)\);/d, ...ms },
    { label: "All are aborted after (ms)", at: /Signal\.timeout\((\d+)\)/d, ...ms, max: 1000 },
  ],
  "context-managers": [
    { label: "Orders", at: /\[([\d, ]+)\]\.map/d, ...some, kind: "list" },
    { label: "The one that fails", at: /n === (\d+)/d, ...some },
    { label: "Opening takes (ms)", at: /"opening"\);\s+await sleep\((\d+)\)/d, ...ms },
    { label: "Rolling back takes (ms)", at: /"rolling back"\);\s+await sleep\((\d+)\)/d, ...ms },
  ],
  errors: [
    { label: "The service is down for (ms)", at: /now\(\) \+ (\d+)/d, min: 0, max: 1000, step: 50 },
    { label: "Failures until it is left alone", at: /failureThreshold: (\d+)/d, ...some },
    { label: "It is left alone for (ms)", at: /resetAfter: (\d+)/d, ...ms, min: 10 },
    { label: "The first delay (ms)", at: /baseDelay: (\d+)/d, ...ms },
    { label: "Attempts", at: /attempts: (\d+)/d, min: 1, max: 10 },
  ],
  generators: [
    { label: "At a time", at: /concurrency: (\d+)/d, ...some },
    { label: "The consumer leaves after item", at: /n === (\d+)\) break/d, ...some },
    { label: "Item 1 takes (ms)", at: /sleep\((\d+) \* n/d, ...ms },
    { label: "Cleaning up takes (ms)", at: /await sleep\((\d+)\);/d, ...ms },
  ],
  // Its orders are turned in the section "Every order".
  interleavings: [],
  mocks: [{ label: "The save takes (ms)", at: /asyncMock\(\)\.delays\((\d+)\)/d, ...ms }],
  performance: [
    { label: "Calls at a time", at: /concurrency: (\d+)/d, ...some },
    { label: "Calls a second in the open loop", at: /"open loop", (\d+)/d, min: 10, max: 90 },
    { label: "Each loop runs for (ms)", at: /duration: (\d+)/d, min: 500, max: 1500, step: 50 },
  ],
  pools: [
    { label: "Connections", at: /max: (\d+)/d, ...some },
    { label: "Orders", at: /\[([\d, ]+)\]\.map/d, ...some, kind: "list" },
    { label: "Opening takes (ms)", at: /await sleep\((\d+)\);/d, ...ms },
    { label: "Order 1 takes (ms)", at: /sleep\(n \* (\d+)\)/d, ...ms },
  ],
  queues: [
    { label: "Places", at: /new Queue\((\d+)\)/d, ...some },
    { label: "Jobs", at: /of \[([\d, ]+)\]/d, min: 1, max: 10, kind: "list" },
    { label: "A job takes (ms)", at: /sleep\((\d+)\);/d, ...ms },
  ],
  semaphores: [
    { label: "Permits", at: /new Semaphore\((\d+)\)/d, ...some },
    { label: "Tasks", at: /\[([\d, ]+)\]\.map/d, min: 1, max: 10, kind: "list" },
    { label: "A task takes (ms)", at: /setTimeout\(resolve, (\d+)\)/d, ...ms },
    { label: "It gives up after (ms)", at: /Signal\.timeout\((\d+)\)/d, ...ms },
  ],
  synchronization: [
    { label: "The barrier waits for", at: /new Barrier\((\d+)\)/d, min: 1, max: 5 },
    { label: "Later than the one before by (ms)", at: /(\d+) \* \(index/d, ...ms },
    { label: "Reading and writing take (ms)", at: /await sleep\((\d+)\)/d, ...ms },
  ],
  "virtual-time": [
    { label: "A day has (hours)", at: /"day", (\d+)/d, min: 0, max: 48 },
    { label: "A night has (hours)", at: /"night", (\d+)/d, min: 0, max: 48 },
  ],
};

/** What a knob is set to in this code, if its place is there. */
export function read(knob: Knob, code: string): number | undefined {
  const text = knob.at.exec(code)?.[1];
  if (text === undefined) return undefined;
  return knob.kind === "list" ? text.split(",").length : Number(text);
}

/** The parts of the code that make up a knob, the last one first, and what they become. */
export function write(
  knob: Knob,
  code: string,
  value: number,
): [from: number, to: number, string][] {
  const places = knob.at.exec(code)?.indices?.slice(1) ?? [];
  const text =
    knob.kind === "list" ? Array.from({ length: value }, (_, n) => n + 1).join(", ") : `${value}`;
  return places.map((place): [number, number, string] => [...place!, text]).reverse();
}
