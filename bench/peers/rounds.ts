/**
 * Times several ways of doing one job against each other, in one process: their answers are
 * compared first, then all take turns, in an order that rotates from round to round. What counts is
 * the median of the ratios within a round, because a busy machine slows down whole rounds.
 *
 * Runs on Bun and on Node.
 */

/** One way to do the job. */
export interface Contender {
  name: string;
  /** What its users do without, compared with ours. Left out: nothing. */
  givesUp?: string;
  /** Does the whole job once, and returns an answer that is the same for all. */
  run: () => unknown;
}

/** A job, ours, and those we are held against. */
export interface Job {
  name: string;
  ours: Contender;
  /** The bare language feature that does the same, as far as it can. */
  floor?: Contender;
  peers: Contender[];
  /** The ratios to reach: ours / fastest peer, ours / floor. */
  reach: { fastest?: number; floor?: number };
  /** Whether it is run on Node too, with the ratio to reach there. */
  node?: { fastest: number };
}

/** A median with its quartiles. */
export interface Ratio {
  to: Contender;
  low: number;
  median: number;
  high: number;
}

/** How long to measure. */
export interface Effort {
  rounds: number;
  /** Milliseconds that a contender's turn takes, at least. */
  batchMs: number;
}

/** Runs all rounds of a job, and returns ours / theirs for each other contender. */
export async function compete(
  job: Job,
  { rounds: count, batchMs }: Effort = { rounds: 21, batchMs: 4 },
): Promise<Ratio[]> {
  const contenders = [job.ours, ...(job.floor ? [job.floor] : []), ...job.peers];
  const batches = new Map<Contender, number>();
  for (const contender of contenders) batches.set(contender, await batchSize(contender, batchMs));

  const rounds: Map<Contender, number>[] = [];
  for (let round = 0; round < count; round++) {
    const times = new Map<Contender, number>();
    for (let turn = 0; turn < contenders.length; turn++) {
      const contender = contenders[(round + turn) % contenders.length]!;
      const runs = batches.get(contender)!;
      times.set(contender, (await time(contender, runs)) / runs);
    }
    rounds.push(times);
  }
  return contenders.slice(1).map((to) => {
    const ratios = rounds.map((times) => times.get(job.ours)! / times.get(to)!);
    const sorted = ratios.sort((a, b) => a - b);
    const at = (part: number) => sorted[Math.round(part * (sorted.length - 1))]!;
    return { to, low: at(0.25), median: at(0.5), high: at(0.75) };
  });
}

/** The line that says what came of a job, and whether it was reached. */
export function verdict(
  { name, floor, reach }: Job,
  ratios: Ratio[],
): { reached: boolean; line: string } {
  const peers = ratios.filter(({ to }) => to !== floor).sort((a, b) => b.median - a.median);
  const fastest = peers[0];
  const equal = peers.find(({ to }) => to.givesUp === undefined);
  const toFloor = ratios.find(({ to }) => to === floor);
  const misses = [
    fastest && reach.fastest !== undefined && fastest.median > reach.fastest,
    toFloor && reach.floor !== undefined && toFloor.median > reach.floor,
  ];
  const reached = !misses.includes(true);
  const parts = [
    fastest &&
      `${show(fastest, reach.fastest)} of the fastest, ${fastest.to.name}` +
        (fastest.to.givesUp ? ` (gives up: ${fastest.to.givesUp})` : ""),
    equal && equal !== fastest && `${show(equal)} of ${equal.to.name}, which gives up nothing`,
    toFloor && `${show(toFloor, reach.floor)} of the floor, ${toFloor.to.name}`,
  ];
  const indent = "\n         ";
  return {
    reached,
    line: `${reached ? "reached" : "MISSED "}  ${name}${indent}${parts.filter(Boolean).join(indent)}`,
  };
}

function show({ low, median, high }: Ratio, reach?: number): string {
  const bound = reach === undefined ? "" : `, to reach ${reach}`;
  return `${median.toFixed(2)} x (${low.toFixed(2)} to ${high.toFixed(2)}${bound})`;
}

/** Throws if a contender's answer isn't ours. */
export async function compareAnswers({ name: job, ours, floor, peers }: Job): Promise<void> {
  const expected = JSON.stringify(await ours.run());
  for (const other of floor ? [floor, ...peers] : peers) {
    const answer = JSON.stringify(await other.run());
    if (answer === expected) continue;
    const short = (text = "undefined") => text.slice(0, 100);
    throw new Error(`${job}: ${other.name} answers ${short(answer)}, we ${short(expected)}`);
  }
}

/** How many runs fill a turn, once the code is warm. */
async function batchSize(contender: Contender, batchMs: number): Promise<number> {
  for (let runs = 1; ; runs *= 2) {
    const ms = await time(contender, runs);
    if (ms >= batchMs) return Math.max(1, Math.round((runs * batchMs) / ms));
  }
}

async function time({ run }: Contender, runs: number): Promise<number> {
  // A new turn, so that nobody works off what another has left.
  await new Promise((resolve) => setTimeout(resolve, 0));
  const start = performance.now();
  for (let n = 0; n < runs; n++) await run();
  return performance.now() - start;
}
