/**
 * The files that the server hands out: the concepts, as TypeScript, as JavaScript and as pages; their
 * tests and benches; and a registry for the `shadcn` command, which puts them into any project. Pages
 * of other origins may read them, too.
 */
import { Elysia } from "elysia";
import { z } from "zod";

import { type Concept, type File, once, readConcepts, toFile, TYPESCRIPT } from "./concepts.ts";
import { preferred } from "./negotiation.ts";
import { content, text, toProblemResponse } from "./openapi.ts";
import type { Pages } from "./pages.ts";
import { Problem } from "./problems.ts";

const listed = z.object({
  name: z.string().meta({ examples: ["semaphores"] }),
  file: z.string().meta({ examples: ["semaphores.ts"] }),
  summary: z.string(),
  exports: z.array(z.string()),
});

const registryItem = z.object({
  $schema: z.url(),
  name: z.string(),
  type: z.literal("registry:item"),
  title: z.string(),
  description: z.string(),
  registryDependencies: z.array(z.url()),
  files: z.array(
    z.object({
      path: z.string(),
      type: z.literal("registry:file"),
      target: z.string(),
      content: z.string().optional(),
    }),
  ),
});

const registry = z.object({
  $schema: z.url(),
  name: z.string(),
  homepage: z.url(),
  items: z.array(registryItem.omit({ $schema: true })),
});

const file = z.object({ file: z.string() });

export const KNOWN = { 304: { description: "The client has it already." } };

const SOURCE = {
  200: {
    description: "The file. Browsers get it as plain text.",
    content: {
      ...text("", "text/typescript", "export class Semaphore { … }").content,
      ...text("", "text/plain", "export class Semaphore { … }").content,
    },
  },
  ...KNOWN,
};

const CONCEPT = {
  200: {
    description: "The file; and without a suffix what the concept is, as JSON or as a page.",
    content: {
      ...SOURCE[200].content,
      ...text("", "text/javascript", "export { Semaphore, … };").content,
      ...content(listed, "").content,
      ...text("", "text/html", "<!doctype html>…").content,
    },
  },
  ...KNOWN,
  404: {
    description: "There is no such concept.",
    content: {
      ...toProblemResponse("").content,
      ...text("", "text/html", "<!doctype html>…").content,
    },
  },
};

const ASSET = {
  200: {
    description: "The script, or the styles.",
    content: {
      ...text("", "text/javascript", "…").content,
      ...text("", "text/css", "…").content,
    },
  },
  ...KNOWN,
};

/** The files as a plugin. */
export function files(pages: Pages) {
  const all = readConcepts();
  const byFile = new Map(all.map((concept) => [`${concept.name}.ts`, concept.concept]));
  const tests = new Map(all.map((concept) => [`${concept.name}.test.ts`, concept.test]));
  const benches = new Map(all.map((concept) => [`${concept.name}.bench.ts`, concept.bench]));
  const list = once(() =>
    all.map(({ name, summary, exports }) => ({ name, file: `${name}.ts`, summary, exports })),
  );
  const abouts = once(() => list().map((about) => toFile(JSON.stringify(about), JSON_TYPE)));

  /** A concept as JavaScript, as a page, or what it is. */
  const sendOther = async (name: string, request: Request, set: Settings) => {
    if (name.endsWith(".js")) return send(await pages.module(name.slice(0, -3)), request, set);
    const index = all.findIndex((concept) => concept.name === name);
    const concept = all[index];
    set.headers["vary"] = "Accept";
    if (!wantsPage(request)) return send(concept && abouts()[index], request, set);
    if (concept) return send(await pages.concept(concept, originOf(request)), request, set);
    set.status = 404;
    const { source, headers } = await pages.missing();
    Object.assign(set.headers, headers);
    return source;
  };

  return new Elysia({ name: "files", detail: { tags: ["files"] } })
    .macro({
      /** Lets pages of any origin read the answer. */
      shared: {
        transform({ set }) {
          set.headers["access-control-allow-origin"] = "*";
          set.headers["access-control-expose-headers"] = "ETag";
        },
      },
    })
    .get("/concepts", () => list(), {
      shared: true,
      response: { 200: z.array(listed) },
      detail: { summary: "The concepts: what each is for, and what it exports" },
    })
    .get(
      "/concepts/:file",
      ({ params, request, set }) => {
        const source = byFile.get(params.file);
        return source ? send(source, request, set) : sendOther(params.file, request, set);
      },
      {
        shared: true,
        detail: {
          summary: "A concept: its file, the same as JavaScript, or what it is",
          responses: CONCEPT,
        },
      },
    )
    .get("/tests/:file", ({ params, request, set }) => send(tests.get(params.file), request, set), {
      shared: true,
      detail: { summary: "The test of a concept", responses: SOURCE },
    })
    .get(
      "/benches/:file",
      ({ params, request, set }) => send(benches.get(params.file), request, set),
      {
        shared: true,
        detail: { summary: "The bench of a concept", responses: SOURCE },
      },
    )
    .get(
      "/page/:file",
      async ({ params, request, set }) => send(await pages.asset(params.file), request, set, "/"),
      { detail: { summary: "A script or the styles of a page", responses: ASSET } },
    )
    .get("/r/registry.json", ({ request }) => toRegistry(all, originOf(request)), {
      shared: true,
      detail: {
        summary: "The concepts as a registry for the shadcn command",
        responses: { 200: content(registry, "The registry.") },
      },
    })
    .get(
      "/r/:file",
      ({ params, request }) => {
        const concept = all.find(({ name }) => `${name}.json` === params.file);
        if (!concept) throw missing("GET /r/registry.json");
        return toItem(concept, originOf(request));
      },
      {
        shared: true,
        params: file,
        detail: {
          summary: "A concept and its test, as the shadcn command takes them",
          responses: { 200: content(registryItem, "The item, with its files.") },
        },
      },
    );
}

interface Settings {
  status?: number | string;
  headers: Record<string, string | number>;
}

/** Whether it is a browser that asks, for somebody to read it. */
export function wantsPage({ headers }: Request): boolean {
  return preferred(headers.get("accept"), ["application/json", "text/html"]) === "text/html";
}

/**
 * Answers with a file, or with nothing if the client has it.
 *
 * @param where lists the files there are
 */
export function send(
  file: File | undefined,
  { headers }: Request,
  set: Settings,
  where = "GET /concepts",
): string | Response {
  if (!file) throw missing(where);
  const { source, etag } = file;
  set.headers["etag"] = etag;
  set.headers["cache-control"] = "no-cache";
  // W/, and what else is in the list, make no difference.
  const known = headers.get("if-none-match");
  if (known !== null && (known === "*" || known.includes(etag))) {
    set.status = 304;
    return new Response(null, { status: 304 });
  }
  Object.assign(set.headers, file.headers);
  if (file.headers["content-type"] === TYPESCRIPT) {
    // Browsers would save TypeScript, and whoever follows a link to it wants to read it.
    set.headers["vary"] = "Accept";
    if (headers.get("accept")?.includes("text/html")) set.headers["content-type"] = PLAIN;
  }
  return source;
}

const PLAIN = "text/plain; charset=utf-8";

const JSON_TYPE = { "content-type": "application/json;charset=utf-8" };

/** Where the client has found the server, for links that must be whole. */
export function originOf({ url }: Request): string {
  const parsed = URL.parse(url);
  // It is put into commands, and a URL's host may have characters that mean something to a shell.
  if (!parsed || !/^[\w.:[\]-]+$/.test(parsed.host)) {
    throw new Problem(400, "The header Host is not valid.");
  }
  return parsed.origin;
}

function missing(where: string): Problem {
  return new Problem(404, `There is no such file. ${where} lists them.`);
}

const SHADCN = "https://ui.shadcn.com/schema";

function toRegistry(concepts: readonly Concept[], origin: string): z.infer<typeof registry> {
  const items = concepts.map((concept) => {
    const { $schema: _, files, ...item } = toItem(concept, origin);
    return { ...item, files: files.map(({ content: _, ...file }) => file) };
  });
  const $schema = `${SHADCN}/registry.json`;
  return { $schema, name: "async-concepts", homepage: `${origin}/`, items };
}

function toItem({ name, summary, needs, concept, test }: Concept, origin: string) {
  const file = (path: string, { source }: File) => ({
    path,
    type: "registry:file" as const,
    target: `~/${path}`,
    content: source,
  });
  return {
    $schema: `${SHADCN}/registry-item.json`,
    name,
    type: "registry:item" as const,
    title: name,
    description: summary,
    registryDependencies: needs.map((other) => `${origin}/r/${other}.json`),
    files: [file(`concepts/${name}.ts`, concept), file(`test/${name}.test.ts`, test)],
  };
}
