/**
 * # The server
 *
 * Works off batches of HTTP requests for several projects, each with its keys and limits; shows the
 * concepts to browsers, and hands out their files. It is also their example at work: what it limits,
 * waits for, tries again and cleans up, it does with them.
 *
 * `bun server.ts` runs it. This file is the door: configuration, listening, stopping. Each of its
 * rooms, which stand in `server/`, has one job: `config` what the server is told, `limits` what every
 * request is held to, `problems` what errors look like, `auth` who may do what, `batches` the work,
 * `pages` what a browser shows.
 *
 * @module
 */
import { Elysia } from "elysia";

import { run, sleep, timeout } from "./concepts/async-basics.ts";
import { about, overview } from "./server/about.ts";
import { auth } from "./server/auth.ts";
import { batches } from "./server/batches.ts";
import { readConcepts } from "./server/concepts.ts";
import { type Config, parseConfig } from "./server/config.ts";
import { files } from "./server/files.ts";
import { type Answers, Exchanges, LAST_WORDS_MS, limits } from "./server/limits.ts";
import { createLog } from "./server/logs.ts";
import { Metrics, metricsPage } from "./server/metrics.ts";
import { documentation } from "./server/openapi.ts";
import { Pages } from "./server/pages.ts";
import { problems } from "./server/problems.ts";
import { Project } from "./server/projects.ts";

export { type Config, parseConfig };

/** What has to be answered above all when there is too much to do. */
const UNLIMITED = new Set(["/health", "/health/", "/metrics", "/metrics/"]);

/**
 * The service as an Elysia app, which listens to nothing. Limits, problems, metrics and documentation
 * hold for routes that are added to it as well. Their handlers are given a `signal`, which is aborted
 * when the request's time is up, the client has gone, or the server stops.
 */
export function createApp(config: Config) {
  const metrics = new Metrics();
  // Bun's own router reads a path in its way, and Elysia in another. There must be one way only.
  const root = new Elysia({ systemRouter: false, handler: { standardHostname: false } });
  const answers: Answers = {
    failed(error, exchange) {
      exchange.error = error;
      return exchange.id;
    },
    async answer(error, { context }) {
      // Elysia asks no error hooks when it has an answer already: the stream that failed.
      const failed = Object.assign(context!, { response: undefined, responseValue: undefined });
      return root["handleError"](failed as never, error as Error);
    },
  };
  const exchanges = new Exchanges(config, answers);
  exchanges.observe((exchange) => metrics.record(exchange));
  if (config.LOG !== "silent") exchanges.observe(createLog(config.LOG));
  const guard = auth(config);
  const projects = new Map(config.projects.map((project) => [project.slug, new Project(project)]));
  const isDraining = () => exchanges.isDraining;
  const pages = new Pages(readConcepts());

  // Routes before `derive` need no signal and take no body; those after it have both.
  return root
    .state("exchanges", exchanges)
    .headers({ "x-content-type-options": "nosniff", "cache-control": "no-store" })
    .use(limits(exchanges, UNLIMITED))
    .onError({ as: "global" }, problems(root, answers.failed))
    .use(about(metrics, isDraining, pages))
    .use(files(pages))
    .use(documentation(() => root))
    .use(metricsPage(metrics, exchanges, projects, guard))
    .derive(({ exchange }) => {
      exchange.checkBody();
      exchange.offerSignal();
      return {} as { signal: AbortSignal };
    })
    .use(overview(projects, guard))
    .use(batches({ auth: guard, projects, signal: exchanges.stopping, isDraining }));
}

/** What is served: the app of {@link createApp}, whatever was added to it. */
interface App {
  readonly store: { exchanges: Exchanges };
  readonly server: { readonly url: URL; stop(closeActive: boolean): Promise<void> } | null;
  listen(options: object): unknown;
  stop(): Promise<unknown>;
}

/**
 * Serves an app until the signal is aborted, and then stops: `/health` says so, new batches are
 * refused, and what is in flight has `DRAIN_MS` to end. What has not is aborted, and may say so.
 *
 * @param onListening is given the server's address as soon as it answers
 * @throws {Error} it can't listen there
 */
export async function serve(
  app: App,
  config: Config,
  signal: AbortSignal,
  onListening: (origin: string) => void = () => {},
): Promise<void> {
  const { exchanges } = app.store;
  const { HOST, PORT, REQUEST_TIMEOUT_MS, DRAIN_MS } = config;
  try {
    app.listen({
      hostname: HOST,
      port: PORT,
      // Otherwise a second server would share the port, and errors would be answered with pages.
      reusePort: false,
      development: false,
      // Bun's own limits would cut off without a word what ours answer with a problem.
      idleTimeout: Math.min(Math.ceil(REQUEST_TIMEOUT_MS / 1000) + 30, 255),
      maxRequestBodySize: Number.MAX_SAFE_INTEGER,
    });
  } catch (error) {
    const { message } = error as Error;
    throw new Error(`Cannot listen at HOST ${HOST}, PORT ${PORT}: ${message}`, { cause: error });
  }
  const { origin } = app.server!.url;
  // The only origin of the project that is there without a file of projects.
  if (config.demoKey) config.projects[0]!.origins.push(origin);
  onListening(origin);

  await sleep(Infinity, { signal }).catch(() => {});
  await exchanges.drain(DRAIN_MS);
  const stopped = app.stop();
  // What is answered may still be on its way. A client that does not take it is not waited for.
  await timeout(() => stopped, LAST_WORDS_MS).catch(() => app.server?.stop(true));
  await timeout(() => stopped, LAST_WORDS_MS).catch(() => {});
}

async function main(signal: AbortSignal): Promise<void> {
  try {
    const config = parseConfig(process.env);
    await serve(createApp(config), config, signal, (origin) => {
      console.log(`Listening on ${origin}`);
      if (!process.env["API_KEY"]) console.log(`The administrator's key: ${config.API_KEY}`);
      if (config.demoKey) console.log(`The key of the project demo: ${config.demoKey}`);
    });
  } catch (error) {
    console.error(`Cannot start: ${(error as Error).message}`);
    process.exitCode = 1;
  }
}

if (import.meta.main) {
  await run(main);
  // Handlers that heard nothing of the end may still run.
  process.exit();
}
