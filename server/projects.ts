/**
 * A project at work: how much of its work runs at once, how often it starts, what waits in line and
 * what is refused, and which of its upstreams are left alone for a while. Projects share nothing:
 * one that has too much to do slows down nobody else.
 */
import { timeout } from "../concepts/async-basics.ts";
import { CircuitBreaker, CircuitOpenError, type CircuitState } from "../concepts/errors.ts";
import { RateLimiter, Semaphore } from "../concepts/semaphores.ts";
import { hashKey, type ProjectConfig } from "./config.ts";
import { Problem } from "./problems.ts";
import {
  createSend,
  type Incoming,
  type Lookup,
  lookupName,
  type Outgoing,
  resolve,
  type Send,
  UpstreamError,
} from "./upstream.ts";

/** How a project reaches its upstreams; tests put something else in its place. */
export interface ProjectOptions {
  send?: Send;
  lookup?: Lookup;
}

/** How a project is doing. The numbers count upstream requests. */
export interface ProjectReport {
  /** Those that are being sent, or whose answer is being read. */
  running: number;
  /** Those that were accepted and neither run nor have ended: they wait for their turn, or to be
   * tried again. */
  waiting: number;
  /** Those that were answered, whatever the answer's status. */
  done: number;
  /** Those that got no answer. */
  failed: number;
  /** How often one was tried again. */
  retried: number;
  /** Those that were refused because the line was full. */
  refused: number;
  breakers: Record<string, CircuitState>;
}

/** Statuses that say that the upstream, or what is behind it, is down. */
const DOWN = new Set([502, 503, 504]);

/** A breaker's settings: so many failures in a row, and it is left alone for so long. */
const BREAKER = { failureThreshold: 10, resetAfter: 5_000 };

/** Failures that are not the upstream's fault, or say nothing about whether it is up. */
const NOT_DOWN = new Set(["forbidden-address", "protocol"]);

/** An answer that says: not now. */
export class Unavailable extends Error {
  readonly answer: Incoming;

  constructor(answer: Incoming) {
    super(`The upstream answered ${answer.status}`);
    this.answer = answer;
  }
}

/** Statuses after which a request may be tried again. */
const NOT_NOW = new Set([408, 429, ...DOWN]);

/** The limits of a project, and what it has done. */
export class Project {
  readonly config: ProjectConfig;
  readonly #send: Send;
  readonly #lookup: Lookup;
  readonly #slots: Semaphore;
  readonly #rate: RateLimiter;
  readonly #breakers = new Map<string, CircuitBreaker>();
  /** Requests that were accepted and have not ended. */
  #open = 0;
  #running = 0;
  /** How long an attempt takes, in milliseconds: a moving average. */
  #averageMs = 100;
  readonly #counts = { done: 0, failed: 0, retried: 0, refused: 0 };

  constructor(config: ProjectConfig, options: ProjectOptions = {}) {
    this.config = config;
    this.#send = options.send ?? createSend();
    this.#lookup = options.lookup ?? lookupName;
    this.#slots = new Semaphore(config.concurrency);
    this.#rate = new RateLimiter(toRate(config.ratePerSecond));
  }

  report(): ProjectReport {
    const breakers = Object.fromEntries(
      this.#breakers.entries().map(([origin, { state }]) => [origin, state]),
    );
    const [running, open] = [this.#running, this.#open];
    return { running, waiting: open - running, ...this.#counts, breakers };
  }

  /** Counts what became of a request, or of an attempt. */
  count(what: "done" | "failed" | "retried"): void {
    this.#counts[what]++;
  }

  /**
   * Takes requests into the line, all or none. A project that has nothing to do takes any number, so
   * that nobody is told to come again with what would never be taken.
   *
   * @returns what takes them out again, one after the other or all that are left
   * @throws {Problem} 429: there would wait more than `maxQueued`
   */
  admit(count: number): Admission {
    const { concurrency, maxQueued } = this.config;
    const excess = this.#open + count - concurrency - maxQueued;
    if (excess > 0 && this.#open > 0) {
      this.#counts.refused += count;
      const seconds = this.#secondsFor(excess);
      throw new Problem(429, `The project has ${this.#open} requests in work or in line.`, {
        "retry-after": String(seconds),
        ...this.rateLimit(seconds),
      });
    }
    this.#open += count;
    const leave = (left: number) => {
      this.#open -= Math.min(left, count);
      count -= Math.min(left, count);
    };
    return { leave: () => leave(1), [Symbol.dispose]: () => leave(count) };
  }

  /** The fields of draft-ietf-httpapi-ratelimit-headers: how many requests may still be sent. */
  rateLimit(seconds = this.#secondsFor(1)): Record<string, string> {
    const { concurrency, maxQueued } = this.config;
    const quota = concurrency + maxQueued;
    const left = Math.max(quota - this.#open, 0);
    return {
      "ratelimit-policy": `"requests";q=${quota};qu="concurrent-requests"`,
      ratelimit: `"requests";r=${left};t=${seconds}`,
    };
  }

  /** In how many seconds so many requests will have left the line, from what they took so far. */
  #secondsFor(count: number): number {
    const { concurrency, ratePerSecond } = this.config;
    const perSecond = Math.min(ratePerSecond, (concurrency * 1000) / this.#averageMs);
    return Math.min(Math.max(Math.ceil(count / perSecond), 1), 600);
  }

  /** Whether a text is one of the project's keys. */
  readonly isOwnKey = (text: string): boolean => this.config.keys.includes(hashKey(text));

  /**
   * Sends a request once, when it is its turn. The time limit is that of the attempt alone.
   *
   * @param onSend called when it is about to be sent
   * @throws {Unavailable} the answer has a status of {@link NOT_NOW}
   * @throws {UpstreamError} there was no answer
   * @throws the signal's reason, once it is aborted
   */
  async attempt(
    request: Omit<Outgoing, "addresses">,
    timeoutMs: number,
    signal: AbortSignal,
    onSend: () => void,
  ): Promise<Incoming> {
    const { url } = request;
    // At once where nobody waits: that costs less.
    using _slot = this.#slots.tryAcquire() ?? (await this.#slots.acquire({ signal }));
    const breaker = this.#breakerOf(url.origin);
    // So that those who will be refused by the breaker take no part of the rate.
    if (breaker.state !== "open" && !this.#rate.tryAcquire()) await this.#rate.acquire({ signal });
    const started = performance.now();
    this.#running++;
    try {
      const send = async (signal: AbortSignal) => {
        const addresses = await resolve(url, this.config.allowPrivate, this.#lookup, signal);
        return breaker.call(
          async () => {
            onSend();
            const answer = await this.#send({ ...request, addresses }, signal);
            if (NOT_NOW.has(answer.status)) throw new Unavailable(answer);
            return answer;
          },
          { signal },
        );
      };
      return await timeout(send, timeoutMs, { signal });
    } catch (error) {
      signal.throwIfAborted();
      throw toFailure(error, timeoutMs);
    } finally {
      this.#running--;
      this.#averageMs += (performance.now() - started - this.#averageMs) / 10;
    }
  }

  #breakerOf(origin: string): CircuitBreaker {
    const known = this.#breakers.get(origin);
    if (known) return known;
    const breaker = new CircuitBreaker({ ...BREAKER, isFailure: saysDown });
    this.#breakers.set(origin, breaker);
    return breaker;
  }
}

/** Places in the line of a project. Disposing it frees those that are left. */
export interface Admission extends Disposable {
  /** Frees a place: a request has ended. */
  leave(): void;
}

function saysDown(error: unknown): boolean {
  if (error instanceof Unavailable) return DOWN.has(error.answer.status);
  return !(error instanceof UpstreamError && NOT_DOWN.has(error.type));
}

function toFailure(error: unknown, timeoutMs: number): unknown {
  if (error instanceof CircuitOpenError) {
    const message = "The upstream has failed too often, and is left alone for a while";
    return new UpstreamError("circuit-open", message, error);
  }
  if (error instanceof DOMException && error.name === "TimeoutError") {
    return new UpstreamError("timeout", `There was no whole answer within ${timeoutMs} ms`, error);
  }
  return error;
}

/**
 * A rate may be a fraction, a number of tokens may not. What was saved for a tenth of a second may
 * start at once, so that in no second there start many more than the rate says.
 */
function toRate(perSecond: number) {
  if (perSecond < 1) return { limit: 1, interval: 1000 / perSecond };
  const limit = Math.floor(perSecond);
  return { limit, interval: (limit * 1000) / perSecond, burst: Math.ceil(limit / 10) };
}
