/**
 * Batches: many requests to a project's upstreams in one, worked on concurrently within the
 * project's limits. The results come all at once as JSON, or one by one as NDJSON or server-sent
 * events. A batch is given up when nobody waits for it any longer.
 */
import { createHash } from "node:crypto";

import { Elysia } from "elysia";
import { z } from "zod";

import { timeout } from "../concepts/async-basics.ts";
import { retry, RetryError } from "../concepts/errors.ts";
import { parallelMap, takeUntil } from "../concepts/generators.ts";
import { type auth, keyIn } from "./auth.ts";
import { preferred } from "./negotiation.ts";
import { content, text, toProblemResponse } from "./openapi.ts";
import { Problem } from "./problems.ts";
import { type Admission, type Project, Unavailable } from "./projects.ts";
import { Runs } from "./runs.ts";
import {
  checkUrl,
  FAILURE_TYPES,
  forwardedHeaders,
  MAX_BODY_BYTES,
  retryAfterMs,
  UpstreamError,
} from "./upstream.ts";

// ─── What comes in ───────────────────────────────────────────────────────────────────────────────

const METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] as const;

const headerName = z
  .string()
  .regex(/^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,200}$/, "is not a header's name");
const headerValue = z
  .string()
  .max(8192)
  .regex(/^[\t\x20-\x7e\x80-\xff]*$/, "must be printable characters of Latin-1, on one line");

/** How deeply the JSON for an upstream may be nested: what is too deep can't be written. */
const MAX_DEPTH = 100;

function isShallow(value: unknown, depth = MAX_DEPTH): boolean {
  if (typeof value !== "object" || value === null) return true;
  return depth > 0 && Object.values(value).every((inner) => isShallow(inner, depth - 1));
}

const upstreamRequest = z
  .strictObject({
    id: z
      .string()
      .min(1)
      .max(200)
      .optional()
      .describe("Comes back with the result. Default: its place, from 0"),
    method: z.enum(METHODS).default("GET"),
    url: z
      .string()
      .max(8192)
      .describe("Begins with one of the project's origins, letter by letter"),
    headers: z.record(headerName, headerValue).default({}),
    body: z
      .union([z.string(), z.record(z.string(), z.unknown()), z.array(z.unknown())])
      .refine(isShallow, `must not be nested deeper than ${MAX_DEPTH} levels`)
      .optional()
      .describe("Text as it is sent, or an object or array to be sent as JSON"),
  })
  .refine(({ method, body }) => body === undefined || !["GET", "HEAD"].includes(method), {
    path: ["body"],
    error: "must not be there for GET and HEAD",
  });

/** The body of a batch. */
export const batchRequest = z
  .strictObject({
    requests: z.array(upstreamRequest).min(1).max(1000),
    concurrency: z
      .int()
      .min(1)
      .max(10_000)
      .optional()
      .describe("Default, and at most: the project's"),
    timeoutMs: z
      .int()
      .min(1)
      .max(600_000)
      .optional()
      .describe("Of an attempt. Default, and at most: the project's"),
    retries: z.int().min(0).max(10).optional().describe("Default, and at most: the project's"),
  })
  .meta({
    examples: [
      {
        requests: [
          { id: "one", url: "http://127.0.0.1:3000/health" },
          {
            method: "POST",
            url: "http://127.0.0.1:3000/orders",
            headers: { "idempotency-key": "order-7" },
            body: { count: 1 },
          },
        ],
        concurrency: 2,
      },
    ],
  })
  .superRefine(({ requests }, context) => {
    const places = new Map<string, number>();
    for (const [n, { id = String(n) }] of requests.entries()) {
      const first = places.get(id);
      if (first === undefined) places.set(id, n);
      else {
        const message = `is also that of request ${first}`;
        context.addIssue({ code: "custom", path: ["requests", n, "id"], message });
      }
    }
  });

export type BatchRequest = z.infer<typeof batchRequest>;
type UpstreamRequest = z.infer<typeof upstreamRequest>;

// ─── What comes out ──────────────────────────────────────────────────────────────────────────────

const about = {
  id: z.string(),
  attempts: z.int().min(0).describe("How often it was sent"),
  durationMs: z.number().describe("From the first attempt to the end"),
};

const answered = z.object({
  ...about,
  status: z.int(),
  headers: z.record(z.string(), z.union([z.string(), z.array(z.string())])),
  body: z.string(),
  bodyEncoding: z.literal("base64").optional().describe("There if the body is not valid UTF-8"),
  bodyTruncated: z
    .literal(true)
    .optional()
    .describe(`There if the body has more than ${MAX_BODY_BYTES} bytes`),
});

const failed = z.object({
  ...about,
  error: z.object({ type: z.enum(FAILURE_TYPES), message: z.string() }),
});

/** What became of a request. */
export const batchResult = z.union([answered, failed]);

export const batchSummary = z.object({
  requests: z.int(),
  done: z.int().describe("Those that were answered, whatever the status"),
  failed: z.int().describe("Those that got no answer"),
  retried: z.int().describe("How often one was tried again"),
  durationMs: z.number(),
});

/** The answer as JSON. */
export const batchAnswer = z.object({ results: z.array(batchResult), summary: batchSummary });

export type BatchResult = z.infer<typeof batchResult>;
export type BatchSummary = z.infer<typeof batchSummary>;

/** What happens to a batch: results as they come; last, and only then it is whole, the summary. */
export type BatchEvent =
  | { type: "result"; index: number; data: BatchResult }
  | { type: "summary"; data: BatchSummary }
  | { type: "aborted"; data: BatchSummary & { message: string } };

// ─── The work ────────────────────────────────────────────────────────────────────────────────────

/** The methods that may be repeated (RFC 9110, 9.2.2). */
const IDEMPOTENT = new Set(["GET", "HEAD", "PUT", "DELETE", "OPTIONS"]);

/** Failures after which it may be tried again. */
const NETWORK = new Set(["dns", "connect", "network", "timeout"]);

const BACKOFF = { baseDelay: 100, maxDelay: 5_000 };

/** Who asks to come again later than in so many milliseconds is not asked again. */
const MAX_RETRY_AFTER_MS = 30_000;

export interface RunOptions {
  /** Aborted when nobody waits for the batch any longer: it ends with the reason. */
  signal: AbortSignal;
  /** Aborted when the server must stop: it ends with an event that says so. */
  stop?: AbortSignal;
  /** Headers that each request is sent with, unless it has its own. */
  trace?: Record<string, string>;
  /** Whether a text is a key that must not be sent on. Default: whether it is the project's. */
  isOwnKey?: (text: string) => boolean;
}

/**
 * Works a batch off. No more is started than is asked for: those that run, and the results that
 * nobody has taken yet, are never more than the batch's concurrency.
 *
 * @param admission the places of its requests in the project's line, which it frees
 */
export async function* runBatch(
  project: Project,
  batch: BatchRequest,
  admission: Admission,
  { signal, stop, trace = {}, isOwnKey = project.isOwnKey }: RunOptions,
): AsyncGenerator<BatchEvent, void, undefined> {
  using _places = admission;
  const { config } = project;
  const started = performance.now();
  const counts = { requests: batch.requests.length, done: 0, failed: 0, retried: 0 };
  const summary = () => ({ ...counts, durationMs: since(started) });
  const limits = {
    timeoutMs: Math.min(batch.timeoutMs ?? Infinity, config.timeoutMs),
    retries: Math.min(batch.retries ?? Infinity, config.retries),
  };
  const concurrency = Math.min(batch.concurrency ?? Infinity, config.concurrency);

  // They share a signal, because a third parameter would give each one of its own.
  const work = async (request: UpstreamRequest, index: number, ...[signal]: [AbortSignal]) => {
    const onRetry = () => {
      counts.retried++;
      project.count("retried");
    };
    const { id = String(index) } = request;
    const options = { id, ...limits, signal, trace, isOwnKey, onRetry };
    const data = await runRequest(project, request, options);
    const outcome = "error" in data ? "failed" : "done";
    counts[outcome]++;
    project.count(outcome);
    admission.leave();
    return { type: "result" as const, index, data };
  };
  const results = parallelMap(batch.requests, work, { concurrency, ordered: false });
  try {
    const end = stop ? AbortSignal.any([signal, stop]) : signal;
    yield* takeUntil(results, end, { reject: true });
    yield { type: "summary", data: summary() };
  } catch (error) {
    if (!stop?.aborted) throw error;
    const message = "The server stops: what had not ended by then was aborted.";
    yield { type: "aborted", data: { ...summary(), message } };
  }
}

interface RequestOptions {
  id: string;
  timeoutMs: number;
  retries: number;
  signal: AbortSignal;
  trace: Record<string, string>;
  isOwnKey: (text: string) => boolean;
  onRetry: () => void;
}

async function runRequest(
  project: Project,
  request: UpstreamRequest,
  { id, timeoutMs, retries, signal, trace, isOwnKey, onRetry }: RequestOptions,
): Promise<BatchResult> {
  const { method } = request;
  let started = performance.now();
  let attempts = 0;
  const onSend = () => {
    if (attempts++ === 0) started = performance.now();
  };
  const finish = <T>(outcome: T) => ({ id, ...outcome, attempts, durationMs: since(started) });
  try {
    const url = checkUrl(request.url, project.config.origins);
    const headers = forwardedHeaders({ ...trace, ...request.headers }, isOwnKey);
    const isJson = request.body !== undefined && typeof request.body !== "string";
    const body = isJson ? JSON.stringify(request.body) : (request.body as string | undefined);
    if (isJson && !headers.has("content-type")) headers.set("content-type", "application/json");
    const isRepeatable = IDEMPOTENT.has(method) || headers.has("idempotency-key");
    const answer = await retry(
      () => project.attempt({ url, method, headers, body }, timeoutMs, signal, onSend),
      {
        ...BACKOFF,
        attempts: isRepeatable ? retries + 1 : 1,
        retryIf: mayRetry,
        // A wait of 0 is left to the backoff.
        delay: (_, error) => waitAskedFor(error) || undefined,
        onRetry,
        signal,
      },
    );
    return finish(answer);
  } catch (error) {
    const last = error instanceof RetryError ? error.cause : error;
    if (last instanceof Unavailable) return finish(last.answer);
    if (!(last instanceof UpstreamError)) throw last;
    return finish({ error: { type: last.type, message: last.message } });
  }
}

function mayRetry(error: unknown): boolean {
  if (error instanceof Unavailable) return (waitAskedFor(error) ?? 0) <= MAX_RETRY_AFTER_MS;
  return error instanceof UpstreamError && NETWORK.has(error.type);
}

function waitAskedFor(error: unknown): number | undefined {
  return error instanceof Unavailable ? retryAfterMs(error.answer.headers) : undefined;
}

function since(started: number): number {
  return Math.round((performance.now() - started) * 10) / 10;
}

// ─── How it is told ──────────────────────────────────────────────────────────────────────────────

/** After so many milliseconds without an event a comment is sent. */
const SILENCE_MS = 15_000;

/** After so many seconds in which a client reads nothing it is taken for gone. */
const STALLED_S = 60;

const TYPES = ["application/json", "application/x-ndjson", "text/event-stream"] as const;

/** How events are streamed. */
interface Format {
  /** What is sent for an event. The last one is never a result. */
  write: (event: BatchEvent) => string;
  /** What is sent so that the connection is not taken for dead. */
  comment: string;
  /** What is sent at once, because the head goes out with it. */
  opening?: string;
}

const FORMATS: Record<Exclude<(typeof TYPES)[number], "application/json">, Format> = {
  "application/x-ndjson": {
    write: ({ type, data }) => `${JSON.stringify(type === "result" ? data : { [type]: data })}\n`,
    comment: "\n",
  },
  "text/event-stream": {
    write: ({ type, data }) => `event: ${type}\ndata: ${JSON.stringify(data)}\n\n`,
    comment: ": still at work\n\n",
    opening: ": at work\n\n",
  },
};

async function* tell(
  events: AsyncGenerator<BatchEvent>,
  { write, comment, opening }: Format,
): AsyncGenerator<string> {
  if (opening) yield opening;
  for (;;) {
    const next = events.next();
    const settled = () => true;
    const isThere = () => next.then(settled, settled);
    while (!(await timeout(isThere, SILENCE_MS).catch(() => false))) yield comment;
    const { done, value } = await next;
    if (done) return;
    yield write(value);
  }
}

/** A stream without a buffer: what nobody reads is not asked for. A failure cuts it off. */
function toStream(
  texts: AsyncGenerator<string> | Generator<string>,
  leave = () => {},
): ReadableStream<Uint8Array> {
  const encoder = new TextEncoder();
  return new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        const { done, value } = await texts.next();
        if (done) controller.close();
        else controller.enqueue(encoder.encode(value));
      },
      cancel: leave,
    },
    { highWaterMark: 0 },
  );
}

/** How many characters of JSON are sent in one piece. A longer one would hold up everything else. */
const PIECE = 100_000;

/**
 * All results as JSON, in the order of the requests; in pieces if that is long.
 *
 * @throws {Problem} 503: the server stops; what is known is told
 */
async function toJson(events: AsyncIterable<BatchEvent>): Promise<string | ReadableStream> {
  const results: string[] = [];
  for await (const event of events) {
    if (event.type === "result") results[event.index] = JSON.stringify(event.data);
    else if (event.type === "summary") {
      const pieces = toPieces(results, event.data);
      const length = results.reduce((sum, result) => sum + result.length, 0);
      return length < PIECE ? [...pieces].join("") : toStream(pieces);
    } else {
      const { message, ...summary } = event.data;
      const known = results.filter(() => true).map((result) => JSON.parse(result));
      throw new Problem(503, message, { "retry-after": "5" }, { results: known, summary });
    }
  }
  throw new Error("The batch has ended without a summary");
}

function* toPieces(results: string[], summary: BatchSummary): Generator<string> {
  let piece = '{"results":[';
  for (const [n, result] of results.entries()) {
    piece += n === 0 ? result : `,${result}`;
    if (piece.length < PIECE) continue;
    yield piece;
    piece = "";
  }
  yield `${piece}],"summary":${JSON.stringify(summary)}}`;
}

/** What the documentation shows. */
const EXAMPLE: BatchEvent[] = [
  {
    type: "result",
    index: 0,
    data: { id: "0", status: 200, headers: {}, body: "hello", attempts: 1, durationMs: 20.1 },
  },
  {
    type: "summary",
    data: { requests: 1, done: 1, failed: 0, retried: 0, durationMs: 20.4 },
  },
];

function exampleOf(type: keyof typeof FORMATS) {
  return text("", type, EXAMPLE.map(FORMATS[type].write).join("")).content;
}

// ─── The route ───────────────────────────────────────────────────────────────────────────────────

const batchHeaders = z.looseObject({
  "idempotency-key": z
    .string()
    .regex(/^[\x20-\x7e]{1,255}$/, "must have 1 to 255 printable ASCII characters")
    .optional()
    .describe("While a batch with this key runs, the same batch joins it, and another one is 422"),
});

const detail = {
  tags: ["projects"],
  summary: "Works off a batch of requests to the project's upstreams",
  description:
    "Results come all at once as JSON, in the order of the requests; or, as `Accept` prefers, one by " +
    "one as they complete, as NDJSON or server-sent events. A stream ends with the summary, or with " +
    "`aborted` if the server stops; a stream without either was cut. After 15 s of silence NDJSON " +
    "has an empty line, and server-sent events a comment. When the client leaves, all is aborted.",
  responses: {
    200: {
      description: "Every request has ended, whatever became of it.",
      content: {
        ...content(batchAnswer, "").content,
        ...exampleOf("application/x-ndjson"),
        ...exampleOf("text/event-stream"),
      },
    },
    406: toProblemResponse("The client accepts none of the three forms."),
    422: toProblemResponse("The batch is not valid, or another one has its Idempotency-Key."),
    429: toProblemResponse("The project's line is full, or too many wrong keys came from there."),
    503: toProblemResponse("The server is full, or stops; what was done by then is in `results`."),
  },
};

/** How many errors the client is told. */
const MAX_ERRORS = 20;

/**
 * Refuses what is not valid before Elysia does, which would print all of it: a small body that is
 * nested deeply is enough to keep it busy for minutes.
 */
function refuseInvalid({ body }: { body: unknown }): void {
  const { error } = batchRequest.safeParse(body);
  if (!error) return;
  const errors = error.issues
    .slice(0, MAX_ERRORS)
    .map(({ path, message }) => ({ path: path.join("."), message: message.slice(0, 200) }));
  throw new Problem(422, "The request is not valid in its body.", {}, { errors });
}

/** What the routes need. */
export interface BatchesOptions {
  auth: ReturnType<typeof auth>;
  /** By slug. */
  projects: ReadonlyMap<string, Project>;
  /** Aborted when what runs must stop: it ends with an event that says so. */
  signal: AbortSignal;
  /** Whether no new batches are taken. */
  isDraining: () => boolean;
}

/** The route by which projects have batches worked off. */
export function batches({ auth, projects, signal: stop, isDraining }: BatchesOptions) {
  const runs = new Runs<BatchEvent>();

  const app = new Elysia({ name: "batches" }).use(auth);
  // A macro, because those of a route come in order: who has no key learns nothing of the body.
  return app.macro({ valid: { transform: refuseInvalid } }).post(
    "/projects/:project/batches",
    async ({ params, body, headers, request, server, exchange }) => {
      // Its requests have their own time limits.
      exchange.allow(Infinity);
      if (isDraining()) {
        throw new Problem(503, "The server stops, and takes no new work.", { "retry-after": "5" });
      }
      const type = preferred(request.headers.get("accept"), TYPES);
      if (!type) throw new Problem(406, `There is ${TYPES.join(", ")}.`);
      const project = projects.get(params.project)!;
      const key = headers["idempotency-key"];
      const { events, leave } = runs.follow(
        key && `${params.project} ${key}`,
        key ? createHash("sha256").update(JSON.stringify(body)).digest("hex") : "",
        () => {
          const admission = project.admit(body.requests.length);
          const trace = traceOf(request.headers);
          const key = keyIn(request.headers);
          // Also the administrator's, who may have sent this.
          const isOwnKey = (text: string) => text === key || project.isOwnKey(text);
          return (signal) => runBatch(project, body, admission, { signal, stop, trace, isOwnKey });
        },
        request.signal,
      );
      const rateLimit = project.rateLimit();
      if (type === "application/json") {
        // Nothing is sent until the last request has ended, which may take long.
        server?.timeout(exchange.request, 0);
        return new Response(await toJson(events), {
          headers: { "content-type": type, ...rateLimit },
        });
      }
      // Something is sent every 15 s: where nothing gets out, the client doesn't read.
      server?.timeout(exchange.request, STALLED_S);
      const stream = toStream(tell(events, FORMATS[type]), leave);
      return new Response(stream, { headers: { "content-type": type, ...rateLimit } });
    },
    {
      project: true,
      valid: true,
      parse: "json",
      body: batchRequest,
      headers: batchHeaders,
      detail,
    },
  );
}

/** The trace that the request belongs to, to be passed on (W3C Trace Context). */
function traceOf(headers: Headers): Record<string, string> {
  const traceparent = headers.get("traceparent") ?? "";
  if (!/^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$/.test(traceparent)) return {};
  const tracestate = headers.get("tracestate");
  return { traceparent, ...(tracestate && { tracestate }) };
}
