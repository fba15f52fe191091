/**
 * Offers the server ten times the work that it can take, for 30 seconds or as many as the first
 * argument says, and checks that it refuses quickly and never breaks:
 *
 * - every answer is 2xx, 429 or 503;
 * - accepted work takes at most twice as long as without load, and so does another project's;
 * - `/health` keeps answering;
 * - memory at the end is what it was at the start.
 *
 * Run it with `bun bench/overload.ts`. It exits with 1 if one of these does not hold.
 */
import { tmpdir } from "node:os";
import { join } from "node:path";

import { sleep } from "../concepts/async-basics.ts";

const SECONDS = Number(process.argv[2] ?? 30);
const LATENCY_MS = 20;
const BATCH = 10;

/** The project can send 10 at once, 20 ms each: 50 batches of 10 a second. The offer is 500. */
const CAPACITY = 1000 / LATENCY_MS;
const OFFER = 10 * CAPACITY;

const ADMIN = "administrator";

interface Outcome {
  status: number;
  ms: number;
}

const upstream = Bun.serve({
  hostname: "127.0.0.1",
  port: 0,
  fetch: async () => {
    await Bun.sleep(LATENCY_MS);
    return new Response("ok");
  },
});
const origins = [upstream.url.origin];
const limits = { origins, concurrency: BATCH, ratePerSecond: 100_000, allowPrivate: true };
const projects = join(tmpdir(), `overload-${process.pid}.json`);
await Bun.write(
  projects,
  JSON.stringify({
    // A batch may wait while half of another one is done, and no longer.
    noisy: { ...limits, keys: ["noisy"], maxQueued: BATCH / 2 },
    quiet: { ...limits, keys: ["quiet"], maxQueued: BATCH / 2 },
  }),
);
const server = Bun.spawn([process.execPath, join(import.meta.dir, "../server.ts")], {
  env: { ...process.env, PORT: "0", LOG: "silent", API_KEY: ADMIN, PROJECTS: projects },
  stdout: "pipe",
});
const origin = await listening();

try {
  const requests = Array.from({ length: BATCH }, () => ({ url: `${upstream.url.origin}/` }));
  const body = JSON.stringify({ requests, retries: 0 });
  const batch = (project: string) =>
    ask(`/projects/${project}/batches`, {
      method: "POST",
      headers: { "x-api-key": project, "content-type": "application/json" },
      body,
    });
  const health = () => ask("/health");
  const inTurn = async (task: () => Promise<Outcome>, until: number) => {
    const outcomes: Outcome[] = [];
    while (performance.now() < until) {
      outcomes.push(await task());
      await sleep(10);
    }
    return outcomes;
  };
  const quietly = (ms: number) => {
    const until = performance.now() + ms;
    return Promise.all([inTurn(() => batch("quiet"), until), inTurn(health, until)]);
  };
  /** So many a second, whether the earlier ones have been answered or not. */
  const flood = async (seconds: number) => {
    const started = performance.now();
    const asked: Promise<Outcome>[] = [];
    while (performance.now() < started + seconds * 1000) {
      const due = ((performance.now() - started) / 1000) * OFFER;
      while (asked.length < due) asked.push(batch("noisy"));
      await sleep(2);
    }
    return Promise.all(asked);
  };

  await flood(2); // So that what is compiled on the way is compiled.
  const [calmQuiet, calmHealth] = await quietly(2000);
  const calmNoisy = await inTurn(() => batch("noisy"), performance.now() + 2000);
  const before = await memory();
  const [noisy, [quiet, healthy]] = await Promise.all([flood(SECONDS), quietly(SECONDS * 1000)]);
  await sleep(1000);
  const after = await memory();

  const served = noisy.filter(({ status }) => status === 200);
  const counts = Object.entries(Object.groupBy(noisy, ({ status }) => status));
  console.log(
    `${noisy.length} batches offered in ${SECONDS} s, ${Math.round(served.length / SECONDS)} served a second:`,
    counts.map(([status, { length } = []]) => `${length} × ${status}`).join(", "),
  );
  const all = [...noisy, ...quiet, ...healthy];
  check(
    "every answer is 2xx, 429 or 503",
    all.every(({ status }) => (status >= 200 && status < 300) || status === 429 || status === 503),
  );
  check("there is work that is accepted", served.length > 0);
  compare("accepted batches, median", percentile(calmNoisy, 50), percentile(served, 50), 2);
  compare("accepted batches, p99", percentile(calmNoisy, 99), percentile(served, 99), 2);
  compare("another project's batches, median", percentile(calmQuiet, 50), percentile(quiet, 50), 2);
  compare("/health, p99 beside a batch", percentile(calmHealth, 99), percentile(healthy, 99), 10);
  console.log(`memory: ${before} MB before, ${after} MB after`);
  check("memory is what it was", after < before * 1.2 + 10);
} finally {
  server.kill();
  await upstream.stop(true);
  await Bun.file(projects).delete();
}
process.exit();

async function ask(path: string, init?: RequestInit): Promise<Outcome> {
  const started = performance.now();
  const response = await fetch(origin + path, init);
  await response.bytes();
  return { status: response.status, ms: performance.now() - started };
}

/** The server's memory in MB, at rest. */
async function memory(): Promise<number> {
  const readings: number[] = [];
  for (let n = 0; n < 5; n++) {
    const response = await fetch(`${origin}/metrics`, { headers: { "x-api-key": ADMIN } });
    readings.push((await response.json()).memory.rss / 1e6);
    await sleep(100);
  }
  return Math.round(Math.min(...readings));
}

function percentile(outcomes: Outcome[], p: number): number {
  const sorted = outcomes.map(({ ms }) => ms).sort((a, b) => a - b);
  return sorted[Math.ceil((p / 100) * sorted.length) - 1] ?? NaN;
}

function compare(what: string, calm: number, loaded: number, atMost: number): void {
  const ratio = loaded / calm;
  const times = `${calm.toFixed(1)} ms without load, ${loaded.toFixed(1)} ms under it`;
  check(`${what}: ${times}, ${ratio.toFixed(2)} x, at most ${atMost}`, ratio <= atMost);
}

function check(what: string, isMet: boolean): void {
  console.log(`${isMet ? "ok  " : "MISS"} ${what}`);
  if (!isMet) process.exitCode = 1;
}

async function listening(): Promise<string> {
  let text = "";
  for await (const chunk of server.stdout) {
    text += new TextDecoder().decode(chunk);
    const [, origin] = /Listening on (\S+)\n/.exec(text) ?? [];
    if (origin) return origin;
  }
  throw new Error("The server did not start");
}
