import * as hdr from "hdr-histogram-js";
import { Bench } from "tinybench";

import { Histogram, measure } from "../../concepts/performance.ts";
import type { Job } from "./rounds.ts";

const COUNT = 10_000;
const instant = async () => {};
/** Whole numbers, because HdrHistogram takes no others. */
const latencies = Array.from({ length: COUNT }, (_, n) => 1 + ((n * 7919) % 1000));

export const jobs: Job[] = [
  {
    name: "measure: 10,000 calls, one after the other",
    ours: {
      name: "measure",
      run: async () => (await measure(instant, { iterations: COUNT })).latency.count,
    },
    floor: {
      name: "await between two readings of the clock",
      run: async () => {
        let total = 0;
        let count = 0;
        for (; count < COUNT; count++) {
          const start = performance.now();
          await instant();
          total += performance.now() - start;
        }
        return total > 0 ? count : 0;
      },
    },
    peers: [
      {
        name: "tinybench",
        givesUp: "rates, bounded memory",
        run: async () => {
          const bench = new Bench({
            iterations: COUNT,
            time: 0,
            warmup: false,
            retainSamples: false,
          });
          bench.add("instant", instant);
          const [task] = await bench.run();
          return (task!.result as { latency: { samplesCount: number } }).latency.samplesCount;
        },
      },
    ],
    reach: { fastest: 1, floor: 3 },
  },
  {
    name: "Histogram: 10,000 latencies and four percentiles",
    ours: {
      name: "Histogram",
      run: () => {
        const histogram = new Histogram();
        for (const latency of latencies) histogram.record(latency);
        return [50, 90, 99, 99.9].map((percent) => histogram.percentile(percent));
      },
    },
    floor: {
      name: "a sorted list",
      run: () => {
        const list = latencies.map((latency) => latency).sort((a, b) => a - b);
        return [50, 90, 99, 99.9].map((percent) => list[Math.ceil((percent * COUNT) / 100) - 1]!);
      },
    },
    peers: [
      {
        name: "hdr-histogram-js",
        givesUp: "fractions",
        run: () => {
          const histogram = hdr.build({ numberOfSignificantValueDigits: 3, bitBucketSize: 64 });
          for (const latency of latencies) histogram.recordValue(latency);
          return [50, 90, 99, 99.9].map((percent) => histogram.getValueAtPercentile(percent));
        },
      },
    ],
    reach: { fastest: 1, floor: 1 },
  },
];
