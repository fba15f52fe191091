/**
 * The concepts as the server has them: their files, and what these say of themselves.
 */
import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

/** The folder in which everything stands. */
export const ROOT = join(import.meta.dir, "..");

/** A file as it is sent. */
export interface File {
  readonly source: string;
  readonly etag: string;
  readonly headers: Readonly<Record<string, string>>;
}

export interface Concept {
  name: string;
  /** What its header says, as Markdown: the title, the rest, and two parts of that. */
  title: string;
  header: string;
  summary: string;
  elsewhere: string;
  exports: string[];
  /** The other concepts that its test imports. */
  needs: string[];
  concept: File;
  test: File;
  bench: File;
}

export const TYPESCRIPT = "text/typescript; charset=utf-8";

export function toFile(source: string, headers: Record<string, string>): File {
  const etag = once(() => `"${createHash("sha256").update(source).digest("base64url")}"`);
  return {
    source,
    headers,
    get etag() {
      return etag();
    },
  };
}

/** For what takes time, and should not delay the start of a server that nobody may ask for it. */
export function once<T>(make: () => T): () => T {
  let made: { value: T } | undefined;
  return () => (made ??= { value: make() }).value;
}

/** They don't change while the server runs. */
export const readConcepts = once((): readonly Concept[] => {
  const transpiler = new Bun.Transpiler({ loader: "ts" });
  const read = (path: string) =>
    toFile(readFileSync(join(ROOT, path), "utf8"), { "content-type": TYPESCRIPT });
  const names = readdirSync(join(ROOT, "concepts"))
    .filter((file) => file.endsWith(".ts"))
    .map((file) => file.slice(0, -3))
    .sort();
  return names.map((name) => {
    const concept = read(`concepts/${name}.ts`);
    const test = read(`test/${name}.test.ts`);
    const bench = read(`bench/${name}.bench.ts`);
    const exports = once(() => transpiler.scan(concept.source).exports);
    const needs = once(() => {
      const imports = transpiler.scanImports(test.source).map(({ path }) => path);
      return names.filter((other) => other !== name && imports.includes(`../concepts/${other}.ts`));
    });
    return {
      name,
      ...readHeader(concept.source),
      get exports() {
        return exports();
      },
      get needs() {
        return needs();
      },
      concept,
      test,
      bench,
    };
  });
});

function readHeader(source: string) {
  const comment = source.slice(0, source.indexOf("*/")).replace(/^(\/\*\*| \*) ?/gm, "");
  const [, title = "", header = ""] = /^# (.*)\n+([^]*?)\s+@module/m.exec(comment) ?? [];
  const [, summary = ""] = /^([^]+?\.)(?=\s)/.exec(header) ?? [];
  // A sentence; or a table, whose columns are the others.
  const [, table, sentence = ""] =
    /^Known elsewhere as:\s+(?:\| *here *\|(.*)\|$|([^]+?\.)(?!\S))/m.exec(header) ?? [];
  const elsewhere = table
    ? `${table
        .split("|")
        .map((name) => name.trim())
        .join("; ")}.`
    : sentence;
  return { title, header, summary: inOneLine(summary), elsewhere: inOneLine(elsewhere) };
}

function inOneLine(text: string): string {
  return text.replace(/\s+/g, " ");
}
