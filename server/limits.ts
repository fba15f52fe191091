/**
 * What every request is held to, also on routes that are added later: how many are in flight, how long
 * one may take, how long its body may be, and that there is only one way to read its path.
 *
 * An {@link Exchange} is a request with its answer, until the last byte of the answer is out. It has
 * its slot until then; what ends it early (its time is up, the client has gone, the server stops)
 * aborts its signal.
 */
import { randomUUID } from "node:crypto";

import { Elysia } from "elysia";

import { timeout } from "../concepts/async-basics.ts";
import { type Permit, Semaphore } from "../concepts/semaphores.ts";
import type { Config } from "./config.ts";
import { Problem, type Reporter, toProblem, toResponse } from "./problems.ts";
import { decode } from "./routes.ts";
import { follow, statusOf } from "./streams.ts";

/** nginx's status for it. It appears only in the metrics and the log. */
const CLIENT_GONE = 499;

/** How deeply a body may be nested. */
const MAX_DEPTH = 100;

/** How long those who hear that the server stops have to say so, in ms. */
export const LAST_WORDS_MS = 500;

/** What an exchange uses of the context that handlers get. */
export interface Context {
  request: Request;
  path: string;
  body?: unknown;
  route?: string | undefined;
  set: { status?: number | string | undefined; headers: Record<string, unknown> };
}

/** A request and its answer. */
export class Exchange {
  readonly request: Request;
  readonly started = performance.now();
  /** The context of the handler. Requests that Elysia has not seen yet have none. */
  context: Context | undefined;
  /** The pattern of the route that Elysia matched, if there is one. */
  route: string | undefined;
  /** The status of the answer, once it is known. */
  status = 0;
  /** How many bytes its body has; those of a stream that are out. */
  bytes = 0;
  /** Whose key the request had. */
  caller: string | undefined;
  /** The slug of the project that it is about. */
  project: string | undefined;
  /** What went wrong if the server is to blame, or a stream broke off. */
  error: unknown;
  /** What ended it early, as the client is told. */
  problem: Problem | undefined;
  /** Whether the answer is to HEAD, and its body would be a stream. */
  hasUnknownLength = false;
  /** Whether nothing around Elysia sees its answer: the app is used inside another's group. */
  isUnseen = false;
  hasEnded = false;
  readonly #exchanges: Exchanges;
  #id: string | undefined;
  #slot: Permit | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #reason: unknown;
  #controller: AbortController | undefined;
  #isListening = false;
  /** Ends a stream with an error. */
  #cut: ((reason: unknown) => void) | undefined;
  /** Answers in place of a handler that does not. */
  #answer: ((response: Response) => void) | undefined;

  constructor(exchanges: Exchanges, request: Request) {
    this.#exchanges = exchanges;
    this.request = request;
  }

  /** By which the log has it. The client may choose one, if it is a sane one. */
  get id(): string {
    if (this.#id === undefined) {
      const given = this.request.headers.get("x-request-id");
      this.#id = given && /^[\w.:+/=-]{1,128}$/.test(given) ? given : randomUUID();
    }
    return this.#id;
  }

  /** Aborted when the exchange ends early. It is made when it is first asked for. */
  get signal(): AbortSignal {
    if (!this.#controller) {
      this.#controller = new AbortController();
      if (this.problem) this.#controller.abort(this.#reason);
      else this.#listen();
    }
    return this.#controller.signal;
  }

  /** Gives the handler's context a `signal`, which is made when the handler asks for it. */
  offerSignal(): void {
    const get = () => this.signal;
    Object.defineProperty(this.context!, "signal", { get, enumerable: true, configurable: true });
  }

  /** Refuses a body that is nested too deeply: what tells a client what is wrong with it would choke. */
  checkBody(): void {
    const { body } = this.context!;
    if (typeof body !== "object" || !isDeeperThan(MAX_DEPTH, body)) return;
    throw new Problem(400, `The body must not be nested more than ${MAX_DEPTH} deep.`);
  }

  /** Takes a slot, until the end. */
  take(slot: Permit): void {
    this.#slot = slot;
  }

  /** Sets another time limit, in milliseconds from the start. */
  allow(ms: number): void {
    this.#exchanges.excuse(this);
    clearTimeout(this.#timer);
    if (ms === Infinity) return;
    const left = this.started + ms - performance.now();
    // Beyond that a timer would fire at once.
    this.#timer = setTimeout(() => this.expire(ms), Math.min(left, 2 ** 31 - 1));
  }

  /** Waits for the handler's answer, for as long as it may take. */
  wait(handling: Promise<Response>): Promise<Response> {
    const { promise, resolve } = Promise.withResolvers<Response>();
    let isTooLate = false;
    this.#answer = (response) => {
      isTooLate = true;
      resolve(response);
    };
    this.#listen();
    handling.then(
      (response) => {
        if (!isTooLate) resolve(this.answered(response));
      },
      (error) => {
        if (!isTooLate) resolve(this.answered(this.#exchanges.answerTo(this, error)));
      },
    );
    return promise;
  }

  /** The answer is out, unless it is a stream. */
  answered(response: Response): Response {
    this.#answer = undefined;
    if (!this.#cut) this.end(response.status);
    if (this.request.method !== "HEAD") return response;
    const { status, headers } = response;
    // Elysia counts the bytes that it has seen: none of a stream, and it counts those of a 304, too.
    if (status === 304 || this.hasUnknownLength) headers.delete("content-length");
    else if (!headers.has("content-length")) headers.set("content-length", String(this.bytes));
    if (this.hasUnknownLength) headers.set("transfer-encoding", "chunked");
    return new Response(null, { status, headers });
  }

  /** The answer is a stream, which `cut` ends with an error. */
  stream(status: number, cut: (reason: unknown) => void): void {
    this.status = status;
    this.#cut = cut;
    this.#listen();
  }

  /** Its time is up. */
  expire(ms: number): void {
    const detail = `The answer took longer than ${ms} ms.`;
    this.fail(new Problem(504, detail), new DOMException(detail, "TimeoutError"));
  }

  /** The client has gone. */
  leave(): void {
    const detail = "The client did not wait for the answer.";
    this.fail(new Problem(CLIENT_GONE, detail), new DOMException(detail, "AbortError"));
  }

  /** Aborts the signal, and lets the handler say what it still has to say. */
  abort(problem: Problem, reason: unknown): void {
    if (this.hasEnded || this.problem) return;
    this.problem = problem;
    this.#reason = reason;
    this.#controller?.abort(reason);
  }

  /** Aborts the signal, answers with the problem in place of the handler, or cuts its stream. */
  fail(problem: Problem, reason: unknown): void {
    if (this.hasEnded) return;
    this.abort(problem, reason);
    const answer = this.#answer;
    const cut = this.#cut;
    if (cut) this.error ??= reason;
    const response = answer && this.#exchanges.answerTo(this, this.problem);
    this.end(this.status || problem.status);
    cut?.(reason);
    answer?.(response!);
  }

  /** Its stream failed. An echo of the abort is not a failure of its own. */
  breakOff(error: unknown): void {
    if (this.hasEnded) return;
    const cut = this.#cut;
    this.error = this.problem ? this.#reason : error;
    this.end(this.status);
    cut?.(error);
  }

  /** Lets Elysia's error hooks answer to what fails after the handler has returned. */
  answerError(error: unknown): Promise<unknown> {
    return this.#exchanges.handleError(this, error);
  }

  /** The answer is known, and sent but for streams. */
  end(status: number): void {
    if (this.hasEnded) return;
    this.hasEnded = true;
    this.status = status;
    this.route ??= this.context?.route;
    this.#cut = this.#answer = undefined;
    if (this.#isListening) this.request.signal.removeEventListener("abort", this);
    if (this.#timer) clearTimeout(this.#timer);
    this.#slot?.release();
    this.#exchanges.ended(this);
  }

  /** What `request.signal` calls. */
  handleEvent(): void {
    this.leave();
  }

  /** Only for those who need it: a listener costs more than all the rest of an exchange. */
  #listen(): void {
    if (this.#isListening || this.hasEnded) return;
    this.#isListening = true;
    const { signal } = this.request;
    if (signal.aborted) this.leave();
    else signal.addEventListener("abort", this);
  }
}

/** How an app answers to errors. */
export interface Answers {
  /** The server is to blame for an error. */
  failed: Reporter;
  /** Answers to an error, as the app's error hooks have it. */
  answer(error: unknown, exchange: Exchange): Promise<unknown>;
}

/** All exchanges of an app. */
export class Exchanges {
  readonly slots: Semaphore;
  /** Whether the server is about to stop. */
  isDraining = false;
  readonly #stopping = new AbortController();
  readonly #timeoutMs: number;
  readonly #maxBodyBytes: number;
  /** Without a log they would be of no use. */
  readonly #tellsIds: boolean;
  readonly #answers: Answers;
  readonly #logs: ((exchange: Exchange) => void)[] = [];
  /** Those with the usual time limit. The first one's time is up first. */
  readonly #hurried = new Set<Exchange>();
  readonly #others = new Set<Exchange>();
  #timer: ReturnType<typeof setTimeout> | undefined;
  #entering: Exchange | undefined;

  constructor(config: Config, answers: Answers) {
    this.slots = new Semaphore(config.MAX_IN_FLIGHT);
    this.#timeoutMs = config.REQUEST_TIMEOUT_MS;
    this.#maxBodyBytes = config.MAX_BODY_BYTES;
    this.#tellsIds = config.LOG !== "silent";
    this.#answers = answers;
  }

  get inFlight(): number {
    return this.slots.permits - this.slots.available;
  }

  /** Begins an exchange, before Elysia sees the request. */
  begin(request: Request): Exchange {
    const exchange = new Exchange(this, request);
    this.#hurried.add(exchange);
    if (!this.#timer) this.#startTimer(this.#timeoutMs);
    return (this.#entering = exchange);
  }

  /** The exchange of a request that Elysia begins to handle. */
  enter(request: Request): Exchange {
    let exchange = this.#entering;
    if (exchange?.request !== request) {
      exchange = this.begin(request);
      exchange.isUnseen = true;
    }
    this.#entering = undefined;
    return exchange;
  }

  /**
   * Lets a request in.
   *
   * @param isLimited whether it needs a slot
   * @throws {Problem} 400, 413 or 503
   */
  admit(exchange: Exchange, isLimited: boolean): void {
    const { request, context } = exchange;
    if (this.#tellsIds) context!.set.headers["x-request-id"] = exchange.id;
    // Without a valid Host the URL has only a path, and Elysia would take the wrong part of it.
    if (request.url.charCodeAt(0) === 47) {
      throw new Problem(400, "The header Host is missing or not valid.", { connection: "close" });
    }
    if (decode(context!.path) === undefined) throw new Problem(400, "The path is not valid UTF-8.");
    if (request.body) context!.request = limitBody(request, this.#maxBodyBytes);
    // Its slot would be given back only when its time is up.
    if (!isLimited || exchange.isUnseen) return;
    const slot = this.slots.tryAcquire();
    if (!slot) throw new Problem(503, "Too many requests are in flight.", { "retry-after": "1" });
    exchange.take(slot);
  }

  /** An exchange has another time limit. */
  excuse(exchange: Exchange): void {
    if (this.#hurried.delete(exchange)) this.#others.add(exchange);
  }

  ended(exchange: Exchange): void {
    if (!this.#hurried.delete(exchange)) this.#others.delete(exchange);
    for (const log of this.#logs) log(exchange);
  }

  /** Calls back at the end of every exchange. */
  observe(log: (exchange: Exchange) => void): void {
    this.#logs.push(log);
  }

  handleError(exchange: Exchange, error: unknown): Promise<unknown> {
    return this.#answers.answer(error, exchange);
  }

  /** The answer to an error that Elysia does not see. */
  answerTo(exchange: Exchange, error: unknown): Response {
    const ended = error instanceof Problem ? error : exchange.problem;
    const problem = ended ?? toProblem(error, exchange, this.#answers.failed);
    const { path = "", set } = exchange.context ?? {};
    return toResponse(problem, path, set?.headers);
  }

  /** Aborted when the server stops, and what still runs must end. */
  get stopping(): AbortSignal {
    return this.#stopping.signal;
  }

  /**
   * Lets what is in flight end. After `ms` it is aborted, and has some time for its last words; then
   * it is cut off.
   */
  async drain(ms: number): Promise<void> {
    this.isDraining = true;
    if (await this.#idle(ms)) return;
    const detail = "The server has stopped before the answer was complete.";
    const reason = new DOMException(detail, "AbortError");
    const problem = new Problem(503, detail, { "retry-after": "1" });
    const all = () => [...this.#hurried, ...this.#others];
    this.#stopping.abort(reason);
    for (const exchange of all()) exchange.abort(problem, reason);
    await this.#idle(LAST_WORDS_MS);
    for (const exchange of all()) exchange.fail(problem, reason);
  }

  #idle(ms: number): Promise<boolean> {
    const idle = (signal: AbortSignal) => this.slots.idle({ signal });
    return timeout(idle, ms).then(
      () => true,
      () => false,
    );
  }

  #startTimer(ms: number): void {
    this.#timer = setTimeout(() => this.#sweep(), ms);
    // A process needs not wait for it: what is in flight keeps it alive.
    this.#timer.unref?.();
  }

  /** One timer for all: it is set for the first one, and most have ended before it fires. */
  #sweep(): void {
    this.#timer = undefined;
    for (const exchange of this.#hurried) {
      const left = exchange.started + this.#timeoutMs - performance.now();
      if (left > 0) return this.#startTimer(left);
      exchange.expire(this.#timeoutMs);
    }
  }
}

/**
 * The limits as a plugin. It has the context's `exchange`, and the macro `deadline`, with which a
 * route sets a time limit of its own.
 *
 * @param unlimited the paths that need no slot
 */
export function limits(exchanges: Exchanges, unlimited: ReadonlySet<string>) {
  let handle: Handle | undefined;
  let limited: Handle | undefined;
  return (
    new Elysia({ name: "limits" })
      .decorate("exchange", undefined as unknown as Exchange)
      .macro({
        deadline: (ms: number) => ({
          transform({ exchange }: { exchange: Exchange }) {
            exchange.allow(ms);
          },
        }),
      })
      // Elysia reads the source of hooks, and for one that hands on the whole context it would parse
      // cookies, bodies and queries on every route.
      .onRequest(function begin(context) {
        const exchange = exchanges.enter(context.request);
        context.exchange = exchange;
        exchange.context = context as unknown as Context;
        exchanges.admit(exchange, !unlimited.has(exchange.context.path));
      })
      // And one with a call behind `return` or `=>` it would wait for.
      .mapResponse({ as: "global" }, function finish(answer) {
        const { exchange, responseValue, set, route, error } = answer as unknown as Finish;
        exchange.route ??= route;
        let instead: unknown;
        if (typeof responseValue === "string") {
          exchange.bytes = Buffer.byteLength(responseValue);
          exchange.end(statusOf(set.status));
        } else if (error === undefined || responseValue !== undefined) {
          // Without a value it is an error that this hook had nothing to say to; the next one may.
          instead = follow(exchange, responseValue);
        }
        return instead as Response;
      })
      // Around Elysia, because a handler that ignores its signal must be answered for.
      .wrap((inner) => {
        const next = inner as unknown as Handle;
        if (next === handle) return limited!;
        handle = next;
        return (limited = (request: Request) => {
          const exchange = exchanges.begin(request);
          try {
            const answer = next(request);
            return answer instanceof Promise ? exchange.wait(answer) : exchange.answered(answer);
          } catch (error) {
            // Elysia compiles a route when it is first asked for, and that may fail.
            return exchange.answered(exchanges.answerTo(exchange, error));
          }
        });
      })
  );
}

type Handle = (request: Request) => Response | Promise<Response>;

interface Finish {
  exchange: Exchange;
  responseValue: unknown;
  set: Context["set"];
  route: string | undefined;
  error?: unknown;
}

/** Refuses a body by its announced length, or lets no more than that be read of it. */
function limitBody(request: Request, maxBytes: number): Request {
  const { headers } = request;
  const refuse = () =>
    new Problem(413, `The body must have at most ${maxBytes} bytes.`, { connection: "close" });
  if (Number(headers.get("content-length")) > maxBytes) throw refuse();
  if (!headers.has("transfer-encoding")) return request;
  let left = maxBytes;
  const limit = new TransformStream<Uint8Array, Uint8Array>({
    transform(chunk, controller) {
      left -= chunk.byteLength;
      if (left < 0) controller.error(refuse());
      else controller.enqueue(chunk);
    },
  });
  const { url, method, signal } = request;
  const body = request.body!.pipeThrough(limit);
  try {
    return new Request(url, { method, headers, body, signal });
  } catch {
    // A port that is out of range, or a method such as CONNECT.
    throw new Problem(400, "The request can't have a body.", { connection: "close" });
  }
}

function isDeeperThan(depth: number, value: object | null): boolean {
  // By levels, because a recursion could be too deep itself.
  let level: unknown[] = [value];
  for (let n = 0; level.length > 0; n++) {
    if (n > depth) return true;
    level = level.flatMap((item) => {
      const isList = Array.isArray(item);
      const isPlain = isList || Object(item).constructor === Object;
      const members: unknown[] = isList ? item : isPlain ? Object.values(item as object) : [];
      return members.filter((member) => typeof member === "object" && member !== null);
    });
  }
  return false;
}
