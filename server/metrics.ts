/**
 * What the server has done and is doing, as JSON for people and in Prometheus' text format for
 * scrapers. Memory is bounded by the number of routes: paths that are none share one series.
 */
import { monitorEventLoopDelay } from "node:perf_hooks";

import { Elysia } from "elysia";
import { z } from "zod";

import { ADMIN, type auth } from "./auth.ts";
import type { Exchange, Exchanges } from "./limits.ts";
import { preferred } from "./negotiation.ts";
import { documented, toJsonSchema } from "./openapi.ts";
import type { ProjectReport } from "./projects.ts";

/** Instead of a route, for all paths that have none. Routes begin with a slash. */
const UNMATCHED = "unmatched";

const METHODS = new Set(["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]);

/** The upper bounds of the histogram, in seconds. */
const BOUNDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60];

/** How many latencies a series keeps for its percentiles. */
const KEPT = 1000;

/** Statuses of requests that were refused, or whose client did not wait: their latency says nothing. */
const UNSERVED = new Set([429, 499, 503]);

interface Series {
  method: string;
  route: string;
  count: number;
  status: Record<string, number>;
  refused: number;
  served: number;
  seconds: number;
  /** The last ones, in ms, in no order. */
  latencies: number[];
  /** How many took at most the bound, and more than the one before. */
  buckets: number[];
}

/** Counts exchanges by route, method and status. */
export class Metrics {
  readonly #created = performance.now();
  readonly #delay = monitorEventLoopDelay({ resolution: 20 });
  /** By route and method, because a key made of both would have to be made for each request. */
  readonly #series = new Map<string, Map<string, Series>>();

  /** How long the app has been there, in seconds. */
  get uptime(): number {
    return Math.round(performance.now() - this.#created) / 1000;
  }

  /** Begins to measure how late the event loop is. */
  start(): void {
    this.#delay.enable();
  }

  stop(): void {
    this.#delay.disable();
  }

  record({ route = UNMATCHED, request, status, started }: Exchange): void {
    const series = this.#seriesOf(route, request.method);
    series.count++;
    series.status[status] = (series.status[status] ?? 0) + 1;
    if (UNSERVED.has(status)) {
      if (status !== 499) series.refused++;
      return;
    }
    const ms = performance.now() - started;
    series.latencies[series.served++ % KEPT] = ms;
    series.seconds += ms / 1000;
    let bucket = 0;
    while (ms > BOUNDS[bucket]! * 1000) bucket++;
    series.buckets[bucket]!++;
  }

  /** The requests by `GET /health` and so on. */
  requests(): Record<string, z.infer<typeof requestMetrics>> {
    return Object.fromEntries(
      this.#all().map(({ method, route, count, status, refused, latencies }) => {
        const sorted = latencies.toSorted((a, b) => a - b);
        const percentile = (p: number) =>
          Number((sorted[Math.ceil((p / 100) * sorted.length) - 1] ?? 0).toFixed(3));
        const latencyMs = { p50: percentile(50), p90: percentile(90), p99: percentile(99) };
        const name = route === UNMATCHED ? route : `${method} ${route}`;
        return [name, { count, status, refused, latencyMs }];
      }),
    );
  }

  /** How late the event loop was, in ms. */
  eventLoopDelay(): { mean: number; p99: number; max: number } {
    const { count, mean, max } = this.#delay;
    const ms = (ns: number) => (count === 0 ? 0 : Math.round(ns / 1e3) / 1e3);
    return { mean: ms(mean), p99: ms(this.#delay.percentile(99)), max: ms(max) };
  }

  /** All of it in Prometheus' text format, version 0.0.4. */
  exposition(inFlight: number, projects: [string, ProjectReport][]): string {
    const page = new Exposition();
    const all = this.#all();
    const labels = ({ method, route }: Series) => ({ method, route });
    page.add("http_requests_total", "counter", "Requests by their status.");
    for (const series of all) {
      for (const [status, count] of Object.entries(series.status)) {
        page.sample("http_requests_total", { ...labels(series), status }, count);
      }
    }
    page.add("http_requests_refused_total", "counter", "Requests answered 429 or 503.");
    for (const series of all) {
      page.sample("http_requests_refused_total", labels(series), series.refused);
    }
    page.add("http_request_duration_seconds", "histogram", "How long served requests took.");
    for (const series of all) {
      let sum = 0;
      [...BOUNDS, Infinity].forEach((bound, n) => {
        const le = bound === Infinity ? "+Inf" : String(bound);
        sum += series.buckets[n]!;
        page.sample("http_request_duration_seconds_bucket", { ...labels(series), le }, sum);
      });
      page.sample("http_request_duration_seconds_sum", labels(series), series.seconds);
      page.sample("http_request_duration_seconds_count", labels(series), series.served);
    }
    const gauge = (name: string, help: string, value: number) => {
      page.add(name, "gauge", help);
      page.sample(name, {}, value);
    };
    const { rss, heapUsed } = process.memoryUsage();
    const { mean, p99, max } = this.eventLoopDelay();
    gauge("http_requests_in_flight", "Requests that hold a slot.", inFlight);
    gauge("process_uptime_seconds", "How long the server has been there.", this.uptime);
    gauge("process_resident_memory_bytes", "Resident memory.", rss);
    gauge("process_heap_used_bytes", "Memory used on the heap.", heapUsed);
    gauge("event_loop_delay_mean_seconds", "How late the event loop was, mean.", mean / 1000);
    gauge("event_loop_delay_p99_seconds", "How late the event loop was, p99.", p99 / 1000);
    gauge("event_loop_delay_max_seconds", "How late the event loop was, at most.", max / 1000);
    return page.text + projectExposition(projects);
  }

  #all(): Series[] {
    return [...this.#series.values()].flatMap((byMethod) => [...byMethod.values()]);
  }

  #seriesOf(route: string, method: string): Series {
    let byMethod = this.#series.get(route);
    if (!byMethod) this.#series.set(route, (byMethod = new Map()));
    const known = byMethod.get(method);
    if (known) return known;
    // What is asked for with HEAD counts as GET, and methods that clients make up are one.
    const asked = method === "HEAD" ? "GET" : method;
    const name = route !== UNMATCHED && METHODS.has(asked) ? asked : "OTHER";
    const series = byMethod.get(name) ?? {
      method: name,
      route,
      count: 0,
      status: {},
      refused: 0,
      served: 0,
      seconds: 0,
      latencies: [],
      buckets: Array(BOUNDS.length + 1).fill(0),
    };
    byMethod.set(name, series);
    return series;
  }
}

const PROJECT_SERIES = [
  ["running", "gauge", "Requests to upstreams that are under way."],
  ["waiting", "gauge", "Requests to upstreams that wait for their turn."],
  ["done", "counter", "Requests to upstreams that were answered."],
  ["failed", "counter", "Requests to upstreams that failed."],
  ["retried", "counter", "Attempts after the first."],
  ["refused", "counter", "Requests that the project's waiting line had no room for."],
] as const;

/** What projects do, in Prometheus' text format. */
function projectExposition(projects: [string, ProjectReport][]): string {
  const page = new Exposition();
  for (const [member, type, help] of PROJECT_SERIES) {
    const name = `project_requests_${member}${type === "counter" ? "_total" : ""}`;
    page.add(name, type, help);
    for (const [project, report] of projects) page.sample(name, { project }, report[member]);
  }
  page.add("project_breaker_state", "gauge", "1 for the state that an origin's breaker is in.");
  for (const [project, { breakers }] of projects) {
    for (const [origin, current] of Object.entries(breakers)) {
      for (const state of ["closed", "open", "half-open"]) {
        const labels = { project, origin, state };
        page.sample("project_breaker_state", labels, Number(state === current));
      }
    }
  }
  return page.text;
}

/** Prometheus' text format, line by line. */
class Exposition {
  text = "";

  add(name: string, type: string, help: string): void {
    this.text += `# HELP ${name} ${help}\n# TYPE ${name} ${type}\n`;
  }

  sample(name: string, labels: Record<string, string>, value: number): void {
    const pairs = Object.entries(labels).map(([name, value]) => `${name}="${escape(value)}"`);
    this.text += `${name}${pairs.length > 0 ? `{${pairs.join(",")}}` : ""} ${value}\n`;
  }
}

function escape(value: string): string {
  return value.replace(/[\\"\n]/g, (char) => (char === "\n" ? "\\n" : `\\${char}`));
}

/** `GET /metrics` as a plugin. */
export function metricsPage(
  metrics: Metrics,
  exchanges: Exchanges,
  projects: ReadonlyMap<string, { report(): ProjectReport }>,
  guard: ReturnType<typeof auth>,
) {
  return new Elysia({ name: "metrics" })
    .use(guard)
    .decorate("exchange", undefined as unknown as Exchange)
    .onStart(() => metrics.start())
    .onStop(() => metrics.stop())
    .get(
      "/metrics",
      ({ request, exchange: { caller }, set }) => {
        const reports = [...projects]
          .filter(([slug]) => caller === ADMIN || caller === slug)
          .map(([slug, project]) => [slug, project.report()] as [string, ProjectReport]);
        const type = preferred(request.headers.get("accept"), [
          "application/json",
          "text/plain",
          "application/openmetrics-text",
        ]);
        if (type !== undefined && type !== "application/json") {
          set.headers["content-type"] = "text/plain; version=0.0.4; charset=utf-8";
          return caller === ADMIN
            ? metrics.exposition(exchanges.inFlight, reports)
            : projectExposition(reports);
        }
        const own = { timestamp: new Date().toISOString(), projects: Object.fromEntries(reports) };
        if (caller !== ADMIN) return own;
        const { rss, heapUsed } = process.memoryUsage();
        return {
          ...own,
          uptime: metrics.uptime,
          inFlight: exchanges.inFlight,
          memory: { rss, heapUsed },
          eventLoopDelayMs: metrics.eventLoopDelay(),
          requests: metrics.requests(),
        };
      },
      {
        key: true,
        detail: {
          tags: ["about"],
          summary: "How the server is doing; with a project's key, how that project is",
          responses: {
            200: {
              description: "For the administrator all of it, for a project its own part.",
              content: {
                "application/json": documented(() => ({
                  anyOf: [toJsonSchema(allMetrics), toJsonSchema(projectMetrics)],
                })),
                "text/plain": { schema: { type: "string" }, example: "http_requests_in_flight 1" },
              },
            },
          },
        },
      },
    );
}

const percentiles = z.object({ p50: z.number(), p90: z.number(), p99: z.number() });

const requestMetrics = z.object({
  count: z.int(),
  status: z.record(z.string(), z.int()),
  refused: z.int(),
  latencyMs: percentiles,
});

export const projectReport = z.object({
  running: z.int(),
  waiting: z.int(),
  done: z.int(),
  failed: z.int(),
  retried: z.int(),
  refused: z.int(),
  breakers: z.record(z.string(), z.enum(["closed", "open", "half-open"])),
});

/** What `/metrics` answers to a project's key: that project, and nothing of the others. */
const projectMetrics = z.object({
  timestamp: z.iso.datetime(),
  projects: z.record(z.string(), projectReport),
});

const allMetrics = projectMetrics.extend({
  uptime: z.number(),
  inFlight: z.int(),
  memory: z.object({ rss: z.number(), heapUsed: z.number() }),
  eventLoopDelayMs: z.object({ mean: z.number(), p99: z.number(), max: z.number() }),
  requests: z.record(z.string(), requestMetrics),
});
