/**
 * What a batch costs: 1,000 requests of 20 ms, 50 at once, through the server and by a loop that
 * somebody wrote by hand. Client, server and upstream are processes of their own.
 */
import { sleep } from "../concepts/async-basics.ts";
import { createApp, parseConfig, serve } from "../server.ts";
import { hashKey } from "../server/config.ts";
import { checkThresholds } from "./thresholds.ts";

const REQUESTS = 1000;
const CONCURRENCY = 50;

/** What the other processes do; each tells where it listens. */
const roles: Record<string, (upstream: string) => Promise<string>> = {
  async upstream() {
    const answer = async () => {
      await sleep(20);
      return new Response("hello");
    };
    return Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: answer }).url.origin;
  },
  async server(upstream) {
    const project = {
      slug: "bench",
      keys: [hashKey("key")],
      origins: [upstream],
      concurrency: CONCURRENCY,
      ratePerSecond: 100_000,
      maxQueued: REQUESTS,
      timeoutMs: 10_000,
      retries: 2,
      allowPrivate: true,
    };
    const config = { ...parseConfig({ PORT: "0", LOG: "silent" }), projects: [project] };
    const { promise, resolve } = Promise.withResolvers<string>();
    void serve(createApp(config), config, new AbortController().signal, resolve);
    return promise;
  },
};

/** Starts this file as another process, which prints its origin and ends when its input does. */
async function start(role: string, upstream = "") {
  const child = Bun.spawn([process.execPath, import.meta.path, role, upstream], {
    stdin: "pipe",
    stdout: "pipe",
  });
  for await (const chunk of child.stdout) {
    const origin = new TextDecoder().decode(chunk).trim();
    return { origin, [Symbol.dispose]: () => child.kill() };
  }
  throw new Error(`Cannot start ${role}`);
}

const [role, upstreamOrigin = ""] = process.argv.slice(2);
if (role) {
  console.log(await roles[role]!(upstreamOrigin));
  for await (const _ of Bun.stdin.stream());
  process.exit();
}

using upstream = await start("upstream");
using server = await start("server", upstream.origin);
const urls = Array.from({ length: REQUESTS }, (_, n) => `${upstream.origin}/${n}`);

async function byBatch(accept: string): Promise<number> {
  const response = await fetch(`${server.origin}/projects/bench/batches`, {
    method: "POST",
    headers: { "content-type": "application/json", "x-api-key": "key", accept },
    body: JSON.stringify({ requests: urls.map((url) => ({ url })), concurrency: CONCURRENCY }),
  });
  const text = await response.text();
  return text.match(/"body":"hello"/g)?.length ?? 0;
}

async function byHand(): Promise<number> {
  const bodies: string[] = [];
  let next = 0;
  const worker = async () => {
    for (let n = next++; n < urls.length; n = next++) {
      const response = await fetch(urls[n]!);
      bodies[n] = await response.text();
    }
  };
  await Promise.all(Array.from({ length: CONCURRENCY }, worker));
  return bodies.filter((body) => body === "hello").length;
}

// The server has to be warm: it is another process, which the first measurement would find cold.
for (let round = 0; round < 3; round++) {
  for (const count of [await byHand(), await byBatch("application/json")]) {
    if (count !== REQUESTS) throw new Error(`${count} of ${REQUESTS} were answered`);
  }
}

await checkThresholds(
  [["as JSON", "application/json"] as const, ["as NDJSON", "application/x-ndjson"] as const].map(
    ([name, accept]) => ({
      name: `1,000 requests of 20 ms, 50 at once, ${name}`,
      subject: ["a batch", () => byBatch(accept)] as const,
      baseline: ["a loop by hand", byHand] as const,
      atMost: 1.2,
    }),
  ),
);
