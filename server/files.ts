/**
 * The files that the server hands out: the concepts, their tests, and both as a registry for the
 * `shadcn` command, which puts them into any project. Pages of other origins may read them, too.
 */
import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

import { Elysia } from "elysia";
import { z } from "zod";

import { content, text } from "./openapi.ts";
import { Problem } from "./problems.ts";

interface File {
  source: string;
  etag: string;
}

interface Concept {
  name: string;
  summary: string;
  exports: string[];
  /** The other concepts that its test imports. */
  needs: string[];
  concept: File;
  test: File;
}

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

const TYPESCRIPT = "text/typescript; charset=utf-8";

const file = z.object({ file: z.string() });

const SOURCE = {
  200: text("The file.", "text/typescript", "export class Semaphore { … }"),
  304: { description: "The client has it already." },
};

/** The files as a plugin. */
export function files() {
  const all = readConcepts();
  const byFile = new Map(all.map((concept) => [`${concept.name}.ts`, concept.concept]));
  const tests = new Map(all.map((concept) => [`${concept.name}.test.ts`, concept.test]));
  const list = all.map(({ name, summary, exports }) => ({
    name,
    file: `${name}.ts`,
    summary,
    exports,
  }));

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
    .get("/concepts", () => list, {
      shared: true,
      response: { 200: z.array(listed) },
      detail: { summary: "The concepts: what each is for, and what it exports" },
    })
    .get(
      "/concepts/:file",
      ({ params, request, set }) => send(byFile.get(params.file), request, set),
      {
        shared: true,
        detail: { summary: "The file of a concept", responses: SOURCE },
      },
    )
    .get("/tests/:file", ({ params, request, set }) => send(tests.get(params.file), request, set), {
      shared: true,
      detail: { summary: "The test of a concept", responses: SOURCE },
    })
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

function send(file: File | undefined, { headers }: Request, set: Settings): string | Response {
  if (!file) throw missing("GET /concepts");
  const { source, etag } = file;
  set.headers["etag"] = etag;
  set.headers["cache-control"] = "no-cache";
  // W/, and what else is in the list, make no difference.
  const known = headers.get("if-none-match");
  if (known !== null && (known === "*" || known.includes(etag))) {
    set.status = 304;
    return new Response(null, { status: 304 });
  }
  set.headers["content-type"] = TYPESCRIPT;
  return source;
}

/** Where the client has found the server, for links that must be whole. */
function originOf({ url }: Request): string {
  const parsed = URL.parse(url);
  if (!parsed) throw new Problem(400, "The header Host is not valid.");
  return parsed.origin;
}

function missing(where: string): Problem {
  return new Problem(404, `There is no such file. ${where} lists them.`);
}

const SHADCN = "https://ui.shadcn.com/schema";

function toRegistry(concepts: Concept[], origin: string): z.infer<typeof registry> {
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

let concepts: Concept[] | undefined;

/** Read once: they don't change while the server runs. */
function readConcepts(): Concept[] {
  if (concepts) return concepts;
  const root = join(import.meta.dir, "..");
  const transpiler = new Bun.Transpiler({ loader: "ts" });
  const read = (path: string): File => {
    const source = readFileSync(join(root, path), "utf8");
    const hash = createHash("sha256").update(source).digest("base64url");
    return { source, etag: `"${hash}"` };
  };
  const names = readdirSync(join(root, "concepts"))
    .filter((file) => file.endsWith(".ts"))
    .map((file) => file.slice(0, -3))
    .sort();
  return (concepts = names.map((name) => {
    const concept = read(`concepts/${name}.ts`);
    const test = read(`test/${name}.test.ts`);
    const imports = transpiler.scanImports(test.source).map(({ path }) => path);
    const needs = names.filter(
      (other) => other !== name && imports.includes(`../concepts/${other}.ts`),
    );
    const { exports } = transpiler.scan(concept.source);
    return { name, summary: firstSentence(concept.source), exports, needs, concept, test };
  }));
}

/** The first sentence under the title of a file's header. */
function firstSentence(source: string): string {
  const header = source.slice(0, source.indexOf("*/")).replace(/^(\/\*\*| \*) ?/gm, "");
  const [, sentence = ""] = /^# .*\n+([^]+?\.)(?=\s)/m.exec(header) ?? [];
  return sentence.replace(/\s+/g, " ");
}
