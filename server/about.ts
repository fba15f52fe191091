/**
 * What the server says of itself: that it is well, where everything is, and how the projects are.
 */
import { Elysia } from "elysia";
import { z } from "zod";

import { version } from "../package.json";
import type { auth } from "./auth.ts";
import { KNOWN, send, wantsPage } from "./files.ts";
import type { Metrics } from "./metrics.ts";
import { content, text } from "./openapi.ts";
import type { Pages } from "./pages.ts";
import type { Project } from "./projects.ts";

const health = z.object({
  status: z.enum(["ok", "draining"]),
  version: z.string().meta({ examples: [version] }),
  uptime: z.number().describe("In seconds"),
  timestamp: z.iso.datetime(),
});

/** Where everything is: a name, and the path. */
const LINKS = {
  health: ["/health", "Whether the server is well"],
  metrics: ["/metrics", "How it is doing, as JSON or for Prometheus; needs a key"],
  projects: ["/projects", "The projects; needs the administrator's key"],
  concepts: ["/concepts", "The concepts, and their files below"],
  registry: ["/r/registry.json", "The concepts for bunx shadcn add"],
  openapi: ["/openapi.json", "The whole API, as OpenAPI 3.1"],
} as const;

const home = z.object({
  name: z.string(),
  version: z.string(),
  links: z.record(z.string(), z.string()),
});

/** `/health` and `/` as a plugin. */
export function about(metrics: Metrics, isDraining: () => boolean, pages: Pages) {
  const links = Object.fromEntries(Object.entries(LINKS).map(([name, [path]]) => [name, path]));

  return new Elysia({ name: "about", detail: { tags: ["about"] } })
    .get(
      "/health",
      ({ set }) => {
        const draining = isDraining();
        if (draining) set.status = 503;
        return {
          status: draining ? "draining" : "ok",
          version,
          uptime: metrics.uptime,
          timestamp: new Date().toISOString(),
        };
      },
      {
        detail: {
          summary: "Whether the server is well",
          responses: {
            200: content(health, "It serves."),
            503: content(health, "It is about to stop, and finishes what it has begun."),
          },
        },
      },
    )
    .get(
      "/",
      async ({ request, set }) => {
        set.headers["vary"] = "Accept";
        if (wantsPage(request)) return send(await pages.list(), request, set);
        return { name: "async-concepts", version, links };
      },
      {
        detail: {
          summary: "Where everything is",
          responses: {
            200: {
              description: "As JSON, or as a page for browsers.",
              content: {
                ...content(home, "").content,
                ...text("", "text/html", "<!doctype html>…").content,
              },
            },
            ...KNOWN,
          },
        },
      },
    );
}

const project = z.object({
  slug: z.string(),
  origins: z.array(z.string()),
  concurrency: z.int(),
  ratePerSecond: z.number(),
  maxQueued: z.int(),
  timeoutMs: z.int(),
  retries: z.int(),
  allowPrivate: z.boolean(),
  report: z.object({
    running: z.int(),
    waiting: z.int(),
    done: z.int(),
    failed: z.int(),
    retried: z.int(),
    refused: z.int(),
    breakers: z.record(z.string(), z.enum(["closed", "open", "half-open"])),
  }),
});

/** `/projects` as a plugin. */
export function overview(projects: ReadonlyMap<string, Project>, guard: ReturnType<typeof auth>) {
  const describe = (project: Project) => {
    const { keys: _, ...settings } = project.config;
    return { ...settings, report: project.report() };
  };

  return new Elysia({ name: "overview", detail: { tags: ["projects"] } })
    .use(guard)
    .get("/projects", () => [...projects.values()].map(describe), {
      admin: true,
      response: { 200: z.array(project) },
      detail: { summary: "The projects: their limits, and how they are doing" },
    })
    .get("/projects/:project", ({ params }) => describe(projects.get(params.project)!), {
      project: true,
      response: { 200: project },
      detail: { summary: "A project: its limits, and how it is doing" },
    });
}
