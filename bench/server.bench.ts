/**
 * What limits, metrics and problems cost a request: the server beside a bare Elysia app with the same
 * body and headers. Each runs in a process of its own, and is asked over bare sockets, so that the
 * client costs little. Requests per second are the inverse: 1.11 is nine tenths of them.
 */
import { join } from "node:path";

import { createApp, parseConfig } from "../server.ts";
import { checkThresholds } from "./thresholds.ts";

const CONNECTIONS = 32;

const start = (code: string) => {
  const root = JSON.stringify(join(import.meta.dir, ".."));
  const program = `process.chdir(${root}); ${code}`;
  return Bun.spawn([process.execPath, "-e", program], {
    cwd: join(import.meta.dir, ".."),
    stdout: "pipe",
    env: { ...process.env, PORT: "0", LOG: "silent" },
  });
};

const ours = start(`
  import { createApp, parseConfig, serve } from "./server.ts";
  const config = parseConfig(process.env);
  await serve(createApp(config), config, new AbortController().signal, console.log);
`);
const bare = start(`
  import { Elysia } from "elysia";
  import { version } from "./package.json";
  const source = await Bun.file("concepts/errors.ts").text();
  const app = new Elysia()
    .headers({ "x-content-type-options": "nosniff", "cache-control": "no-store" })
    .get("/health", () => ({
      status: "ok",
      version,
      uptime: Math.round(performance.now()) / 1000,
      timestamp: new Date().toISOString(),
    }))
    .get("/concepts/:file", ({ set }) => {
      set.headers["cache-control"] = "no-cache";
      set.headers["access-control-allow-origin"] = "*";
      set.headers["access-control-expose-headers"] = "ETag";
      set.headers["etag"] = '"OiDJYSdbQAXWwX8AItSfTIolaaT_iiOxxef9IQl6NLQ"';
      set.headers["content-type"] = "text/typescript; charset=utf-8";
      return source;
    })
    .listen({ hostname: "127.0.0.1", port: 0 });
  console.log(app.server.url.origin);
`);

/** A function that asks once on each of some connections, and waits for all the answers. */
async function asker(server: ReturnType<typeof start>, path: string) {
  const url = new URL(path, await originOf(server));
  const request = Buffer.from(`GET ${path} HTTP/1.1\r\nHost: ${url.host}\r\n\r\n`);
  const { promise: first, resolve: onFirst } = Promise.withResolvers<void>();
  let size = 0;
  let left = 0;
  let done = onFirst;
  const connect = () => {
    let received = 0;
    return Bun.connect({
      hostname: url.hostname,
      port: Number(url.port),
      socket: {
        data(_, chunk) {
          size ||= sizeOf(chunk);
          received += chunk.length;
          // The uptime in an answer may get longer.
          if (received < size - 4) return;
          received = 0;
          if (--left === 0) done();
        },
      },
    });
  };
  const sockets = await Promise.all(Array.from({ length: CONNECTIONS }, connect));
  left = 1;
  sockets[0]!.write(request);
  await first;
  const askAll = () =>
    new Promise<void>((resolve) => {
      done = resolve;
      left = CONNECTIONS;
      for (const socket of sockets) socket.write(request);
    });
  // Until what is hot is compiled.
  for (let n = 0; n < 500; n++) await askAll();
  return askAll;
}

const origins = new Map<object, Promise<string>>();

function originOf(server: ReturnType<typeof start>): Promise<string> {
  const read = async () => {
    let text = "";
    for await (const chunk of server.stdout) {
      text += new TextDecoder().decode(chunk);
      if (text.includes("\n")) break;
    }
    return text.trim();
  };
  return origins.getOrInsertComputed(server, read);
}

function sizeOf(answer: Buffer): number {
  const text = answer.toString("latin1");
  const [head = "", length = "0"] = /^[^]*?content-length: (\d+)[^]*?\r\n\r\n/i.exec(text) ?? [];
  return head.length + Number(length);
}

const app = createApp(parseConfig({ LOG: "silent" })).get("/limited", () => "limited");
const request = (path: string) => new Request(`http://localhost${path}`);
const limited = request("/limited");
const health = request("/health");

try {
  await checkThresholds([
    {
      name: `GET /health, ${CONNECTIONS} at once`,
      subject: ["the server", await asker(ours, "/health")],
      baseline: ["a bare Elysia app", await asker(bare, "/health")],
      atMost: 1.11,
    },
    {
      name: `GET /concepts/errors.ts, ${CONNECTIONS} at once`,
      subject: ["the server", await asker(ours, "/concepts/errors.ts")],
      baseline: ["a bare Elysia app", await asker(bare, "/concepts/errors.ts")],
      atMost: 1.11,
    },
    {
      name: "what a slot and a signal cost, in process",
      subject: ["GET /limited", () => app.handle(limited)],
      baseline: ["GET /health", () => app.handle(health)],
      atMost: 2,
    },
  ]);
} finally {
  ours.kill();
  bare.kill();
}
