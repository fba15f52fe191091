/**
 * # The server
 *
 * Lists the concepts, hands out their files, and says how it is doing. It is also their example at
 * work: a {@link Semaphore} limits how many requests are handled at once, {@link timeout} for how
 * long, and {@link run} lets the program end only when what is in flight has been answered.
 *
 * `bun server.ts` runs it; the variables of its environment are those of {@link parseConfig}.
 *
 * @module
 */
import { createHash, randomUUID, timingSafeEqual } from "node:crypto";
import { readFileSync } from "node:fs";
import { STATUS_CODES } from "node:http";

import { Elysia, NotFoundError, ParseError, ValidationError } from "elysia";
import { z } from "zod";

import { run, sleep, timeout } from "./concepts/async-basics.ts";
import { Semaphore } from "./concepts/semaphores.ts";
import { version } from "./package.json";

// ─── Configuration ───────────────────────────────────────────────────────────────────────────────

const integer = (min: number, max: number) =>
  z
    .string()
    .refine((text) => /^\d+$/.test(text) && Number(text) >= min && Number(text) <= max, {
      error: ({ input }) => `must be an integer from ${min} to ${max}, received "${input}"`,
    })
    .transform(Number);

const environment = z.object({
  /** Where to listen; 0 takes a port that is free. */
  PORT: integer(0, 65_535).default(3000),
  /** The address to listen at. Default: all there are. */
  HOST: z.string().min(1, "must not be empty").optional(),
  /** Who sends it as `X-API-Key` may read `/metrics`. Default: a random one. */
  API_KEY: z
    .string()
    .regex(/^[!-~]+$/, "must be printable ASCII characters, none of them a space")
    .default(() => randomUUID()),
  /** How many requests may be handled at once; one too many is answered 503. */
  MAX_IN_FLIGHT: integer(1, 1_000_000).default(1000),
  /** After how long a request is given up and answered 504. */
  REQUEST_TIMEOUT_MS: integer(1, 120_000).default(10_000),
  /** How long a request's body may be; a longer one is answered 413. */
  MAX_BODY_BYTES: integer(0, 1_000_000_000).default(1_000_000),
});

/** What the server can be told, by the names that it has in the environment. */
export type Config = z.infer<typeof environment>;

/**
 * Reads the configuration from environment variables.
 *
 * @throws {Error} with a line for each variable that is not as it must be, and never with the key
 */
export function parseConfig(env: Record<string, string | undefined>): Config {
  const { data, error } = environment.safeParse(env);
  if (data) return data;
  const lines = error.issues.map(({ path, message }) => `${path} ${message}`);
  throw new Error(["the environment is not as it must be", ...lines].join("\n  "));
}

// ─── The app ─────────────────────────────────────────────────────────────────────────────────────

/** What has to be answered above all when there is too much to do. */
const UNLIMITED = ["/health", "/metrics"];

/**
 * The service as an Elysia app, which listens to nothing. Limits, metrics and problems hold for
 * routes that are added to it as well. Their handlers are given a `signal`, which is aborted when
 * the request's time is up or the client has gone; one that ignores it goes on unnoticed.
 */
export function createApp(config: Config) {
  const created = performance.now();
  const uptime = () => Math.round(performance.now() - created) / 1000;
  const concepts = readConcepts();
  const keyHash = sha256(config.API_KEY);
  const slots = new Semaphore(config.MAX_IN_FLIGHT);
  const metrics = new Metrics();
  const signals = new WeakMap<Request, AbortSignal>();
  let table: Route[] | undefined;

  const app = new Elysia({ handler: { standardHostname: false } })
    .wrap((handle, request) => () => answer(request, handle as unknown as Handle))
    .onError(({ error }) => {
      throw error; // out of Elysia and into answer(), where all errors become problems
    })
    .get("/health", () => ({
      status: "ok",
      version,
      uptime: uptime(),
      timestamp: new Date().toISOString(),
    }))
    .get("/metrics", ({ request }) => {
      // Hashes have the same length, and their comparison tells nothing about the key.
      if (!timingSafeEqual(sha256(request.headers.get("x-api-key") ?? ""), keyHash)) {
        const headers = { "www-authenticate": 'ApiKey realm="metrics"' };
        throw new Problem(401, "The header X-API-Key is missing or wrong.", headers);
      }
      const { rss, heapUsed } = process.memoryUsage();
      return {
        timestamp: new Date().toISOString(),
        uptime: uptime(),
        requests: metrics.report(),
        inFlight: slots.permits - slots.available,
        memory: { rss, heapUsed },
      };
    })
    // For all routes from here on: those above are not limited.
    .derive(({ request }) => ({ signal: signals.get(request)! }))
    .get("/concepts", () => concepts.map(({ source: _, etag: __, ...listed }) => listed))
    .get("/concepts/:file", ({ params, request }) => {
      const concept = concepts.find(({ file }) => file === params.file);
      if (!concept) throw new Problem(404, "There is no such file. GET /concepts lists them.");
      const { source, etag } = concept;
      const headers = { etag, "cache-control": "no-cache" };
      // W/, and what else is in the list, make no difference.
      const known = request.headers.get("if-none-match");
      if (known === "*" || known?.includes(etag)) {
        return new Response(null, { status: 304, headers });
      }
      const type = "text/typescript; charset=utf-8";
      return new Response(source, { headers: { ...headers, "content-type": type } });
    });

  async function answer(request: Request, handle: Handle): Promise<Response> {
    const started = performance.now();
    // As Elysia takes it from the URL, so that both find the same route.
    const path = request.url.replace(/^https?:\/\/[^/]*|\?.*/g, "");
    const routes = routesAt(path);
    const method = request.method === "HEAD" ? "GET" : request.method;
    const route = routes.find((route) => route.method === method);
    let response: Response;
    try {
      checkBody(request, config.MAX_BODY_BYTES);
      const isUnlimited = route && UNLIMITED.includes(route.path);
      response = await (isUnlimited ? handle(request) : handleWithinLimits(request, handle));
    } catch (error) {
      response = toResponse(error, request.method, path, route ? [] : routes);
    }
    const label = route ? `${method} ${route.path}` : "unmatched";
    metrics.record(label, response.status, performance.now() - started);
    response.headers.set("x-content-type-options", "nosniff");
    if (!response.headers.has("cache-control")) response.headers.set("cache-control", "no-store");
    if (response.status === 304) response.headers.delete("content-length");
    return request.method === "HEAD" ? new Response(null, response) : response;
  }

  async function handleWithinLimits(request: Request, handle: Handle): Promise<Response> {
    using slot = slots.tryAcquire();
    if (!slot) throw new Problem(503, "Too many requests are in flight.", { "retry-after": "1" });

    let { signal } = request;
    const task = async (taskSignal: AbortSignal) => {
      signals.set(request, (signal = taskSignal));
      return handle(request);
    };
    try {
      return await timeout(task, config.REQUEST_TIMEOUT_MS, { signal });
    } catch (error) {
      // What a handler throws once its signal is aborted only echoes that.
      if (!signal.aborted) throw error;
      throw request.signal.aborted
        ? new Problem(CLIENT_GONE, "The client did not wait for the answer.")
        : new Problem(504, `The answer took longer than ${config.REQUEST_TIMEOUT_MS} ms.`);
    }
  }

  /** The routes of a path, whatever their method. Elysia finds only the one for a method. */
  function routesAt(path: string): Route[] {
    table ??= app.routes.map(({ method, path }) => {
      const pattern = path.replace(/:[^/]+/g, "[^/]+");
      return { method, path, pattern: new RegExp(`^${pattern}/?$`) };
    });
    return table.filter(({ pattern }) => pattern.test(path));
  }

  return app;
}

/** Refuses a body by what it announces. HTTP lets no more come than that. */
function checkBody({ headers }: Request, maxBytes: number): void {
  const close = { connection: "close" };
  if (headers.has("transfer-encoding")) {
    throw new Problem(411, "The body must come with a Content-Length.", close);
  }
  if (Number(headers.get("content-length")) > maxBytes) {
    throw new Problem(413, `The body must have at most ${maxBytes} bytes.`, close);
  }
}

type Handle = (request: Request) => Response | Promise<Response>;

interface Route {
  method: string;
  path: string;
  pattern: RegExp;
}

function sha256(text: string): Buffer {
  return createHash("sha256").update(text).digest();
}

// ─── Problems (RFC 9457) ─────────────────────────────────────────────────────────────────────────

/** nginx's status for it. Nobody sees it but the metrics. */
const CLIENT_GONE = 499;

/** An error that the client is meant to see. */
class Problem extends Error {
  readonly status: number;
  readonly headers: Record<string, string>;
  /** Members beside those that every problem has. */
  readonly extra: object;

  constructor(status: number, detail: string, headers = {}, extra = {}) {
    super(detail);
    this.status = status;
    this.headers = headers;
    this.extra = extra;
  }
}

/**
 * What an error means to the client. If the server is to blame, the log has the rest.
 *
 * @param others the routes of the same path, if there is none for the method
 */
function toProblem(error: unknown, method: string, others: Route[]): Problem {
  if (error instanceof Problem) return error;
  if (error instanceof ParseError) {
    return new Problem(400, "The body is not what its Content-Type says.");
  }
  if (error instanceof ValidationError && error.type !== "response") {
    const errors = error.all.map(({ path, message }) => ({ path, message }));
    return new Problem(422, `The request is not valid in its ${error.type}.`, {}, { errors });
  }
  if (error instanceof NotFoundError) {
    return others.length === 0
      ? new Problem(404, "There is nothing at this path.")
      : new Problem(405, `There is no ${method} at this path.`, { allow: allow(others) });
  }
  const requestId = randomUUID();
  console.error(`Request ${requestId} failed:`, error);
  return new Problem(500, "The server failed; its log knows more.", {}, { requestId });
}

function toResponse(error: unknown, method: string, path: string, others: Route[]): Response {
  if (error instanceof NotFoundError && method === "OPTIONS" && others.length > 0) {
    return new Response(null, { status: 204, headers: { allow: allow(others) } });
  }
  const { status, message: detail, headers, extra } = toProblem(error, method, others);
  const title = STATUS_CODES[status];
  const members = { type: "about:blank", title, status, detail, instance: path, ...extra };
  const body = JSON.stringify(members);
  return new Response(body, {
    status,
    headers: {
      ...headers,
      "content-type": "application/problem+json",
      // For HEAD, whose answer has no body to measure.
      "content-length": String(Buffer.byteLength(body)),
    },
  });
}

function allow(routes: Route[]): string {
  const methods = routes.flatMap(({ method }) => (method === "GET" ? ["GET", "HEAD"] : [method]));
  return [...methods, "OPTIONS"].join(", ");
}

// ─── Metrics ─────────────────────────────────────────────────────────────────────────────────────

interface RouteMetrics {
  count: number;
  /** How many by class: `2xx` and so on. */
  status: Record<string, number>;
  latencies: number[];
}

/** Counts requests by route, and keeps the latencies of the last 1000 to each. */
class Metrics {
  readonly #routes = new Map<string, RouteMetrics>();

  record(route: string, status: number, ms: number): void {
    const entry = this.#routes.get(route) ?? { count: 0, status: {}, latencies: [] };
    this.#routes.set(route, entry);
    const statusClass = `${Math.floor(status / 100)}xx`;
    entry.status[statusClass] = (entry.status[statusClass] ?? 0) + 1;
    entry.latencies[entry.count++ % 1000] = ms;
  }

  report(): object {
    return Object.fromEntries(
      [...this.#routes].map(([route, { count, status, latencies }]) => {
        const sorted = latencies.toSorted((a, b) => a - b);
        const percentile = (p: number) =>
          Number(sorted[Math.ceil((p / 100) * sorted.length) - 1]!.toFixed(3));
        const latencyMs = { p50: percentile(50), p90: percentile(90), p99: percentile(99) };
        return [route, { count, status, latencyMs }];
      }),
    );
  }
}

// ─── Concepts ────────────────────────────────────────────────────────────────────────────────────

function readConcepts() {
  const directory = `${import.meta.dir}/concepts`;
  const transpiler = new Bun.Transpiler({ loader: "ts" });
  return [...new Bun.Glob("*.ts").scanSync(directory)].sort().map((file) => {
    const source = readFileSync(`${directory}/${file}`, "utf8");
    return {
      name: file.replace(/\.ts$/, ""),
      file,
      summary: firstSentence(source),
      exports: transpiler.scan(source).exports,
      source,
      etag: `"${sha256(source).toString("base64url")}"`,
    };
  });
}

/** The first sentence under the title of a file's header. */
function firstSentence(source: string): string {
  const header = source.slice(0, source.indexOf("*/")).replace(/^(\/\*\*| \*) ?/gm, "");
  const [, sentence = ""] = /^# .*\n+([^]+?\.)(?=\s)/m.exec(header) ?? [];
  return sentence.replace(/\s+/g, " ");
}

// ─── The program ─────────────────────────────────────────────────────────────────────────────────

/**
 * Serves an app until the signal is aborted. Then it accepts no more, answers what is in flight,
 * and cuts off what goes on after twice the time that a request may take.
 *
 * @param onListening is given the server's address as soon as it answers
 * @throws {Error} it can't listen there
 */
export async function serve(
  app: { fetch: Handle },
  config: Config,
  signal: AbortSignal,
  onListening: (origin: string) => void,
): Promise<void> {
  const server = Bun.serve({
    port: config.PORT,
    ...(config.HOST && { hostname: config.HOST }),
    fetch: app.fetch,
    error: (error) => toResponse(error, "GET", "", []),
    // Bun's own limits would cut off without a word what ours answer with a problem.
    idleTimeout: Math.ceil(config.REQUEST_TIMEOUT_MS / 1000) + 10,
    maxRequestBodySize: Number.MAX_SAFE_INTEGER,
  });
  onListening(server.url.origin);
  await sleep(Infinity, { signal }).catch(() => {});
  await timeout(() => server.stop(), 2 * config.REQUEST_TIMEOUT_MS).catch(() => server.stop(true));
}

async function main(signal: AbortSignal): Promise<void> {
  try {
    const config = parseConfig(process.env);
    await serve(createApp(config), config, signal, (origin) => {
      console.log(`Listening on ${origin}`);
      if (!process.env["API_KEY"]) console.log(`X-API-Key of this run: ${config.API_KEY}`);
    });
  } catch (error) {
    console.error(`Cannot start: ${(error as Error).message}`);
    process.exitCode = 1;
  }
}

if (import.meta.main) await run(main);
