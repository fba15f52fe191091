/** What the server's tests share: an app in process or over a socket, clients, and gates. */
import { expect } from "bun:test";

import { poll } from "../concepts/async-basics.ts";
import { type Config, createApp, parseConfig, serve } from "../server.ts";

export const KEY = "the-key-of-the-tests";
export const authorized = { headers: { "X-API-Key": KEY } };

/** A server under test. */
export interface Server extends AsyncDisposable {
  /** 0 in process. */
  port: number;
  fetch(path: string, init?: RequestInit): Promise<Response>;
}

type App = Pick<ReturnType<typeof createApp>, "handle"> & Parameters<typeof serve>[0];

export function config(given: Partial<Config> = {}): Config {
  return { ...parseConfig({ API_KEY: KEY, LOG: "silent", PORT: "0" }), ...given };
}

export async function inProcess(app: App): Promise<Server> {
  return {
    port: 0,
    fetch: (path, init) => app.handle(new Request(`http://localhost${path}`, init)),
    [Symbol.asyncDispose]: async () => {},
  };
}

export async function overSocket(app: App, given = config({ DRAIN_MS: 0 })) {
  const controller = new AbortController();
  const listening = Promise.withResolvers<string>();
  const stopped = serve(app, given, controller.signal, listening.resolve);
  await Promise.race([listening.promise, stopped]);
  const origin = await listening.promise;
  return {
    origin,
    port: Number(new URL(origin).port),
    /** Begins to stop it, as SIGTERM does. */
    stop: () => controller.abort(),
    stopped,
    fetch: (path: string, init?: RequestInit) => fetch(origin + path, init),
    [Symbol.asyncDispose]: () => {
      controller.abort();
      return stopped;
    },
  };
}

/** What /metrics says to the administrator. */
export async function metricsOf(server: Pick<Server, "fetch">) {
  const response = await server.fetch("/metrics", authorized);
  return (await response.json()) as {
    uptime: number;
    inFlight: number;
    requests: Record<
      string,
      { count: number; status: Record<string, number>; refused: number; latencyMs: object }
    >;
  };
}

/** Checks all that RFC 9457 asks of an answer, and returns its members. */
export async function expectProblem(
  response: Response,
  status: number,
  title: string,
  instance: string,
) {
  expect(response.status).toBe(status);
  expect(response.headers.get("content-type")).toBe("application/problem+json");
  const problem = await response.json();
  expect(problem).toMatchObject({ type: "about:blank", title, status, instance });
  expect(problem.detail).toMatch(/^[A-Z].+\.$/);
  return problem as { detail: string; errors?: unknown; requestId?: string };
}

/** A place where handlers wait until the test opens it; from then on they pass. */
export function gate() {
  const opened = Promise.withResolvers<string>();
  let waiting = 0;
  let onArrival = () => {};
  return {
    open: () => opened.resolve("passed"),
    pass: () => {
      waiting++;
      onArrival();
      return opened.promise;
    },
    reached: (count: number) =>
      new Promise<void>((resolve) => {
        onArrival = () => waiting >= count && resolve();
        onArrival();
      }),
  };
}

export function aborted(signal: AbortSignal): Promise<unknown> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve(signal.reason);
    else signal.addEventListener("abort", () => resolve(signal.reason));
  });
}

/** Waits for what another process or the network brings about. */
export function eventually(isTrue: () => Promise<boolean> | boolean): Promise<true> {
  return poll(isTrue, { interval: 1, timeout: 10_000 }) as Promise<true>;
}

/** Sends text over TCP. `received` is all that comes until the server closes the connection. */
export async function connect(port: number, text: string) {
  const received = Promise.withResolvers<string>();
  let answer = "";
  let isClosed = false;
  let rest: Buffer = Buffer.from(text, "latin1");
  const write = (socket: { write(data: Buffer): number }) =>
    void (rest = rest.subarray(Math.max(0, socket.write(rest))));
  const socket = await Bun.connect({
    hostname: "127.0.0.1",
    port,
    socket: {
      open: write,
      drain: write,
      data: (_, chunk) => void (answer += chunk.toString("latin1")),
      close: () => {
        isClosed = true;
        received.resolve(answer);
      },
    },
  });
  return {
    received: received.promise,
    /** What has come so far. */
    get answer() {
      return answer;
    },
    get isClosed() {
      return isClosed;
    },
    send: (more: string) => {
      rest = Buffer.concat([rest, Buffer.from(more, "latin1")]);
      write(socket);
    },
    /** Takes nothing more, as a client that is slow to read. */
    pause: () => socket.pause(),
    hangUp: () => socket.terminate(),
  };
}

/** Asks over a bare socket, with this for the first line, and reads the whole answer. */
export async function ask(port: number, line: string, headers = "Host: a\r\n"): Promise<string> {
  const { received } = await connect(
    port,
    `${line} HTTP/1.1\r\n${headers}Connection: close\r\n\r\n`,
  );
  return received;
}

/** Random numbers that are the same in every run (mulberry32). */
export function seeded(seed: number): (below: number) => number {
  return (below) => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return Math.floor((((t ^ (t >>> 14)) >>> 0) / 2 ** 32) * below);
  };
}
